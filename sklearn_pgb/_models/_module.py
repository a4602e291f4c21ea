"""Torch modules as networks: as a chain of layers if possible."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from sklearn_pgb._budget import HEAD_TOLERANCE, LAYER_BYTES
from sklearn_pgb._derivatives import Derivatives
from sklearn_pgb._models._call import ModuleCall, check_parameters, private_copy
from sklearn_pgb._models._network import Head, Network, positions_without
from sklearn_pgb._models._read_chain import read_chain
from sklearn_pgb._models._structure import first_embedding, structured_jacobian
from sklearn_pgb._operators._blocked import BlockedOperator
from sklearn_pgb._operators._operator import LinearOperator


class ModuleNetwork(Network):
    """A torch module in evaluation mode, run by ``torch.func.functional_call``.

    Theta holds the parameters that require a gradient, in the order of
    ``named_parameters``. Other parameters and all buffers (e.g. the running statistics
    of batch norm) are constants. The module is copied to the CPU in float64. It maps
    inputs with the samples on their first axis to raw outputs of shape (n_samples,
    n_outputs), or (n_samples,) for one output.
    """

    # Known after a forward pass only.
    n_inputs = None
    n_outputs = None

    def __init__(self, module: nn.Module) -> None:
        self._module = private_copy(module)
        self._call = ModuleCall(self._module)
        self._module.requires_grad_(False)

    @property
    def n_params(self) -> int:
        return self._call.n_params

    @property
    def theta(self) -> Tensor:
        return self._call.gather(self._module)

    def check_tokens(self, X: Tensor) -> None:
        """Check that X holds row numbers if the first layer is an embedding."""
        table = first_embedding(self._module)
        if table is None or not X.numel():
            return
        if bool(
            (X != X.round()).any() | (X < 0).any() | (X >= len(table.weight)).any()
        ):
            raise ValueError(
                "X must hold whole numbers from 0 to "
                f"{len(table.weight) - 1}, the rows of the embedding, got values from "
                f"{float(X.min()):g} to {float(X.max()):g}. Replace each "
                "word by the number of its row."
            )

    @property
    def name(self) -> str:
        """Name of the module's type."""
        return type(self._module).__name__

    def named_layers(self) -> Iterator[tuple[str, nn.Module]]:
        """Names and layers of the module, without the module itself."""
        return ((name, part) for name, part in self._module.named_modules() if name)

    def to(self, device: torch.device) -> ModuleNetwork:
        moved = copy.copy(self)
        moved._module = copy.deepcopy(self._module).to(device)
        return moved

    def at(self, theta: Tensor) -> ModuleNetwork:
        moved = copy.copy(self)
        moved._module = copy.deepcopy(self._module)
        for name, part in self.split(theta.detach()).items():
            moved._module.get_parameter(name).copy_(part)
        return moved

    def modules_along(self, direction: Tensor) -> tuple[nn.Module, nn.Module]:
        moved = copy.deepcopy(self._module)
        for parameter in moved.parameters():
            parameter.zero_()
        for name, part in self.split(direction).items():
            moved.get_parameter(name).copy_(part)
        return copy.deepcopy(self._module), moved

    def split(self, theta: Tensor) -> dict[str, Tensor]:
        """View theta as the module's named parameters."""
        return self._call.split(theta)

    def parameter_shapes(self) -> dict[str, torch.Size]:
        return dict(self._call.shapes)

    def parameters_in_use(self, X: Tensor) -> list[str]:
        leaves = {
            name: part.detach().requires_grad_()
            for name, part in self.split(self.theta).items()
        }
        with torch.enable_grad():
            raw = self.apply(leaves, X)
        last_use = _last_uses(raw)
        used = [name for name, leaf in leaves.items() if id(leaf) in last_use]
        return sorted(used, key=lambda name: last_use[id(leaves[name])])

    def blocks(self) -> dict[str, slice]:
        """Positions in theta of each named parameter and of each layer.

        The block of a layer's weight and bias has the layer's name.
        """
        result = self.parameter_positions()
        for weight, bias in pairwise(list(result)):
            layer = weight.removesuffix(".weight")
            if bias == f"{layer}.bias" and weight != layer:
                result[layer] = slice(result[weight].start, result[bias].stop)
        return result

    def unchecked_result(self, theta: Tensor, X: Tensor) -> Any:
        """The module's result, which may not be a tensor, or have another shape."""
        return self._call(self._module, self.split(theta), X)

    def apply(self, parameters: dict[str, Tensor], X: Tensor) -> Tensor:
        """Raw outputs at named parameters, a pure function for torch.func."""
        raw = self._call(self._module, parameters, X)
        if not isinstance(raw, Tensor):
            raise TypeError(
                f"module must return one tensor, got {type(raw).__name__}. Wrap it in "
                "a module that returns the raw outputs only."
            )
        if raw.dtype != X.dtype:
            raise ValueError(
                f"module must return {X.dtype} when inputs and parameters are of that "
                f"type, got {raw.dtype}. Do not convert to other types, and return raw "
                "outputs, not labels."
            )
        if raw.shape == (len(X),):
            return raw[:, None]
        if raw.ndim != 2 or len(raw) != len(X):
            raise ValueError(
                "module must return raw outputs of shape (n_samples, n_outputs) = "
                f"({len(X)}, n_outputs), got {tuple(raw.shape)}. Flatten or pool the "
                "other axes, and keep the samples on the first."
            )
        return raw

    def __call__(self, theta: Tensor, X: Tensor) -> Tensor:
        return self.apply(self.split(theta), X)

    def layers(self, X: Tensor) -> list[Tensor]:
        return [X, self(self.theta, X)]

    def jacobian(self, X: Tensor, *, without: slice | None = None) -> LinearOperator:
        """The partial derivatives, by the layers' structure if it is known.

        The outputs of all layers are kept if they take little memory, and otherwise
        computed anew for blocks of samples.
        """
        first = structured_jacobian(self._module, X[:1])
        if first is None:
            return super().jacobian(X, without=without)
        named = self._module.named_parameters()
        trained = torch.cat(
            [
                torch.full((part.numel(),), name in self._call.shapes)
                for name, part in named
            ]
        )
        columns = torch.nonzero(trained)[:, 0]
        columns = columns[positions_without(len(columns), without)]

        def create(rows: slice | Tensor) -> LinearOperator:
            operator = structured_jacobian(self._module, X[rows])
            assert operator is not None
            return operator.select(columns)

        block = max(1, LAYER_BYTES // first.bytes_per_sample)
        if len(X) <= block:
            return create(slice(None))
        return BlockedOperator(create, len(X), block)

    def find_head(self, X: Tensor) -> Head:
        """Find the head by derivatives on a few samples.

        The order of parameters suggests candidates. The output bias is the last vector
        of length n_outputs whose derivative is the identity. The head's weights are the
        last ones with n_outputs rows, and must satisfy ``f = J g``.
        """
        theta = self.theta
        raw = self(theta, X)
        push = Derivatives(self, theta, X).push(X)
        n_outputs = raw.shape[1]
        bias = weight = span_coef = None
        for position, shape in self._last_to_first():
            if bias is None and shape == (n_outputs,):
                bias = position if _is_identity(push, theta, position) else None
        for position, shape in self._last_to_first():
            if span_coef is None and len(shape) > 1 and shape[0] == n_outputs:
                weight = torch.zeros_like(theta)
                for part in [position] if bias is None else [position, bias]:
                    weight[part] = theta[part]
                error = (push(weight) - raw).abs().max()
                span_coef = (
                    weight if error <= HEAD_TOLERANCE * raw.abs().max() else None
                )
        return Head(bias, span_coef)

    def _last_to_first(self) -> Iterator[tuple[slice, torch.Size]]:
        """Positions in theta and shapes of the parameters, in reverse order."""
        stop = self.n_params
        for shape in reversed(self._call.shapes.values()):
            yield slice(stop - shape.numel(), stop), shape
            stop -= shape.numel()


def _last_uses(outputs: Tensor) -> dict[int, int]:
    """Number of the last operation that uses each leaf of a graph, by the leaf's id."""
    result: dict[int, int] = {}
    nodes = [] if outputs.grad_fn is None else [outputs.grad_fn]
    seen = set(nodes)
    while nodes:
        node = nodes.pop()
        for child, _ in node.next_functions:
            leaf = getattr(child, "variable", None)
            if leaf is not None:
                number = node._sequence_nr()
                result[id(leaf)] = max(number, result.get(id(leaf), number))
            elif child is not None and child not in seen:
                seen.add(child)
                nodes.append(child)
    return result


def _is_identity(
    push: Callable[[Tensor], Tensor], theta: Tensor, position: slice
) -> bool:
    """Whether the derivative with respect to a slice of theta is the identity."""
    for i in range(position.stop - position.start):
        direction = torch.zeros_like(theta)
        direction[position.start + i] = 1
        error = push(direction) - direction[position]
        if not error.abs().max() <= HEAD_TOLERANCE:
            return False
    return True


def open_module(module: nn.Module) -> Network:
    """Open a module as a `ChainNetwork` if possible, otherwise as a `ModuleNetwork`."""
    check_parameters(module)
    return read_chain(module) or ModuleNetwork(module)
