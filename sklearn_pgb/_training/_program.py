"""Forward and backward passes of a population of networks."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sklearn_pgb._derivatives import pull_back
from sklearn_pgb._models._activations import Activation
from sklearn_pgb._models._call import ModuleCall
from sklearn_pgb._models._network import Network


class Program(ABC):
    """Raw outputs of a population of networks, and the adjoint of their derivative.

    Conventions
    -----------
    `theta` has shape (n_members, n_params). Each row holds the flat parameters of one
    member. Inputs have the samples on their first axis and are the same for all
    members. Raw outputs and residuals have shape (n_members, n_samples, n_outputs).
    Everything has the dtype of theta. Memory is reused: results of `forward` are valid
    until `backward` or the next `forward`, those of `backward` until the next one.
    """

    n_params: int

    @abstractmethod
    def forward(self, theta: Tensor, X: Tensor) -> tuple[Tensor, Any]:
        """Return raw outputs, and intermediate results (a tape) for `backward`."""

    @abstractmethod
    def backward(self, theta: Tensor, tape: Any, residual: Tensor) -> Tensor:
        """Return J^T residual of each member, of shape (n_members, n_params)."""

    @abstractmethod
    def differentiable(self, theta: Tensor, X: Tensor) -> Tensor:
        """Return raw outputs (n_samples, n_outputs) of one member, for torch.func."""

    def exact(self) -> Program:
        """Return the same program in float64 on the CPU."""
        return self

    def statistics(self, member: int) -> list[Tensor]:
        """Copy the buffers of a member, such as batch norm statistics."""
        return []

    def set_statistics(self, member: int, statistics: list[Tensor]) -> None:
        """Restore the buffers that `statistics` returned."""
        assert not statistics

    def __call__(self, theta: Tensor, X: Tensor) -> Tensor:
        """Return raw outputs only."""
        return self.forward(theta, X)[0]


class ChainProgram(Program):
    """A chain of linear layers and elementwise activations, without autograd.

    Each pass takes one batched matrix product per layer and direction. The widths are
    the number of inputs, units of each hidden layer, and number of outputs. There is
    one activation per hidden layer. If there is one more, it is that of the outputs,
    and `backward` overwrites the outputs.
    """

    def __init__(self, widths: Sequence[int], activations: Sequence[Activation]):
        self.widths, self.activations = list(widths), list(activations)
        self.shapes = [(o, i) for i, o in pairwise(widths)]
        self.sizes = [size for o, i in self.shapes for size in (o * i, o)]
        self.n_params = sum(self.sizes)
        self._buffers: dict[Any, Tensor] = {}
        self._parts: dict[str, tuple[Any, Any]] = {}

    def split(self, theta: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """View theta as weights (n_members, n_out, n_in) and biases."""
        parts = theta.split(self.sizes, 1)
        pairs = zip(parts[::2], self.shapes, strict=True)
        weights = [part.unflatten(1, shape) for part, shape in pairs]
        return weights, [part[:, None] for part in parts[1::2]]

    def is_weight(self) -> Tensor:
        """Return a mask of the parameters that are weights, not biases."""
        kinds = torch.tensor([True, False]).repeat(len(self.shapes))
        return kinds.repeat_interleave(torch.tensor(self.sizes))

    def forward(self, theta: Tensor, X: Tensor) -> tuple[Tensor, Any]:
        weights, biases = self._views("theta", theta)
        outputs = [X.flatten(1).expand(len(theta), len(X), -1)]
        pre_activations: list[Tensor | None] = []
        for layer, (W, b) in enumerate(zip(weights, biases, strict=True)):
            shape = len(theta), len(X), self.shapes[layer][0]
            z = self._buffer(("forward", layer), theta, shape)
            torch.baddbmm(b, outputs[-1], W.mT, out=z)
            if layer < len(self.activations):
                activation = self.activations[layer]
                in_place = activation.in_place
                pre_activations.append(z if in_place is None else None)
                z = activation(z) if in_place is None else in_place[0](z)
            outputs.append(z)
        return outputs[-1], (pre_activations, outputs, weights)

    def backward(self, theta: Tensor, tape: Any, residual: Tensor) -> Tensor:
        _, outputs, weights = tape
        gradient = self._buffer(("gradient",), theta, (len(theta), self.n_params))
        to_weights, to_biases = self._views("gradient", gradient)
        delta = residual
        if len(self.activations) == len(weights):
            delta = self._pull(residual.clone(), len(weights) - 1, tape)
        for layer in reversed(range(len(weights))):
            inputs, (n_out, n_in) = outputs[layer], self.shapes[layer]
            if n_in < n_out:
                # Transposed, as products with a narrow right factor are slow.
                product = self._buffer(("product",), theta, (len(theta), n_in, n_out))
                torch.bmm(inputs.mT, delta, out=product)
                to_weights[layer].copy_(product.mT)
            elif len(theta) > 1:
                # torch would compute members one by one into a non-contiguous result.
                product = self._buffer(("product",), theta, (len(theta), n_out, n_in))
                torch.bmm(delta.mT, inputs, out=product)
                to_weights[layer].copy_(product)
            else:
                torch.bmm(delta.mT, inputs, out=to_weights[layer])
            torch.sum(delta, 1, keepdim=True, out=to_biases[layer])
            if layer:
                back = self._buffer(("backward", layer), theta, inputs.shape)
                if delta.shape[2] == 1:
                    torch.mul(delta, weights[layer], out=back)
                else:
                    torch.bmm(delta, weights[layer], out=back)
                delta = self._pull(back, layer - 1, tape)
        return gradient

    def _pull(self, delta: Tensor, layer: int, tape: Any) -> Tensor:
        """Multiply delta by the derivative of a layer's activation, in place."""
        pre_activations, outputs, _ = tape
        activation, h = self.activations[layer], outputs[layer + 1]
        # Functions in place have overwritten the pre-activations. They need h only.
        if activation.in_place is not None:
            return activation.in_place[1](delta, h)
        return activation.times_derivative(delta, pre_activations[layer], h)

    def differentiable(self, theta: Tensor, X: Tensor) -> Tensor:
        weights, biases = self.split(theta[None])
        h = X.flatten(1)
        for layer, (W, b) in enumerate(zip(weights, biases, strict=True)):
            h = h @ W[0].T + b[0]
            if layer < len(self.activations):
                h = self.activations[layer](h)
        return h

    def _views(self, use: str, theta: Tensor) -> Any:
        """Return the views of `split`, cached if theta has the same memory as before.

        The views keep the memory alive, so its address is not reused.
        """
        key = theta.data_ptr(), theta.shape, theta.stride(), theta.dtype
        if use not in self._parts or self._parts[use][0] != key:
            self._parts[use] = key, self.split(theta)
        return self._parts[use][1]

    def _buffer(self, use: Any, theta: Tensor, shape: Sequence[int]) -> Tensor:
        """Return cached memory for this use and size.

        Allocation is more expensive than the arithmetic, as the system clears memory.
        """
        key = (use, tuple(shape), theta.dtype, theta.device)
        if key not in self._buffers:
            self._buffers[key] = theta.new_empty(tuple(shape))
        return self._buffers[key]


class ModuleProgram(Program):
    """Any torch module in training mode, differentiated by autograd: one member.

    Dropout is active, and batch norm updates its statistics. Random layers use torch's
    global generator; see `local_randomness`.
    """

    def __init__(self, module: nn.Module):
        self.module, self.call = module, ModuleCall(module)
        self.n_params = self.call.n_params

    def theta(self) -> Tensor:
        """Return the parameters, (1, n_params)."""
        return self.call.gather(self.module)[None]

    def is_weight(self) -> Tensor:
        """Return a mask of the parameters of matrices and kernels."""
        shapes = self.call.shapes.values()
        return torch.cat([torch.full((s.numel(),), len(s) > 1) for s in shapes])

    def forward(self, theta: Tensor, X: Tensor) -> tuple[Tensor, Any]:
        leaf = theta[0].detach().requires_grad_()
        try:
            with torch.enable_grad():
                raw = self._run(self.module.train(), leaf, X)
        except ValueError as error:
            if len(X) > 1 or "more than 1 value per channel" not in str(error):
                raise
            raise ValueError(
                "module must not have batch normalization if a batch has one sample, "
                f"got an error of torch: {error}. Increase batch_size, add samples, or "
                "use layer normalization."
            ) from error
        return raw.detach()[None], (raw, leaf)

    def backward(self, theta: Tensor, tape: Any, residual: Tensor) -> Tensor:
        raw, leaf = tape
        return torch.autograd.grad(raw, leaf, residual[0])[0][None]

    def __call__(self, theta: Tensor, X: Tensor) -> Tensor:
        """Return raw outputs in evaluation mode."""
        with torch.no_grad():
            return self.differentiable(theta[0], X)[None]

    def differentiable(self, theta: Tensor, X: Tensor) -> Tensor:
        return self._run(self.module.eval(), theta, X)

    def exact(self) -> ModuleProgram:
        return ModuleProgram(copy.deepcopy(self.module).to("cpu", torch.float64))

    def statistics(self, member: int) -> list[Tensor]:
        return [buffer.clone() for buffer in self.module.buffers()]

    def set_statistics(self, member: int, statistics: list[Tensor]) -> None:
        for buffer, value in zip(self.module.buffers(), statistics, strict=True):
            buffer.copy_(value)

    def _run(self, module: nn.Module, theta: Tensor, X: Tensor) -> Tensor:
        raw: Tensor = self.call(module, self.call.split(theta), X)
        return raw[:, None] if raw.ndim == 1 else raw


class NetworkProgram(Program):
    """A single network in evaluation mode, differentiated by autograd."""

    def __init__(self, network: Network):
        self.network, self.n_params = network, network.n_params

    def forward(self, theta: Tensor, X: Tensor) -> tuple[Tensor, Any]:
        raw, pull = pull_back(partial(self.differentiable, X=X), theta[0])
        return raw[None], pull

    def backward(self, theta: Tensor, tape: Any, residual: Tensor) -> Tensor:
        gradient: Tensor = tape(residual[0])
        return gradient[None]

    def differentiable(self, theta: Tensor, X: Tensor) -> Tensor:
        return self.network(theta, X)


def uniform_initialization(
    program: ChainProgram, rng: np.random.RandomState, n_members: int
) -> Tensor:
    """Draw Glorot's uniform weights and biases with scikit-learn's distribution.

    Each entry is uniform in +-sqrt(c / (n_in + n_out)), with c = 2 if the first
    activation is logistic and 6 otherwise.
    """
    logistic = program.activations[:1] and program.activations[0].name == "logistic"
    members = []
    for _ in range(n_members):
        parts = []
        for n_out, n_in in program.shapes:
            bound = ((2.0 if logistic else 6.0) / (n_in + n_out)) ** 0.5
            # Drawn in the layout of scikit-learn's coefs_, weights before biases.
            parts.append(rng.uniform(-bound, bound, (n_in, n_out)).T.ravel())
            parts.append(rng.uniform(-bound, bound, n_out))
        members.append(np.concatenate(parts))
    return torch.from_numpy(np.stack(members))
