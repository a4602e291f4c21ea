"""Chains of layers: linear layers, activations and layer norms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from sklearn_pgb._models._activations import Activation
from sklearn_pgb._models._layers import Layer, LayerNorm, Linear
from sklearn_pgb._models._network import Head, Network, as_float64
from sklearn_pgb._operators._chain import ChainOperator
from sklearn_pgb._operators._operator import LinearOperator
from sklearn_pgb._operators._outputs import apply_sets


class ChainNetwork(Network):
    """Layers one after the other, at least one of them linear.

    Theta holds the parameters of the layers in order: W row by row and b of a linear
    layer, gamma and beta of a layer norm. The last layer is the head. If it has
    parameters, the network is ``f = J g`` with g equal to theta at the head and zero
    elsewhere.

    Parameters
    ----------
    chain : sequence of Layer
        The last is linear or a layer norm.
    names : sequence of str or None
        Names of the parameters, in the order of theta. None for "layer_1.weight",
        "layer_1.bias" and so on.
    """

    def __init__(
        self, chain: Sequence[Layer], names: Sequence[str] | None = None
    ) -> None:
        self.chain = list(chain)
        self.names = names

    @classmethod
    def mlp(
        cls,
        weights: Sequence[Tensor | ArrayLike],
        biases: Sequence[Tensor | ArrayLike | None],
        activations: Sequence[Activation],
    ) -> ChainNetwork:
        """Create a chain of linear layers with an activation after each hidden one.

        Weights are arrays or tensors of shape (n_out, n_in), which are not copied if
        they are float64. A layer may have None in place of biases.
        """
        n_layers = len(weights)
        if len(biases) != n_layers or len(activations) != n_layers - 1:
            raise ValueError(
                "a chain must have one bias (or None) per weight and one activation "
                f"per hidden layer, got {n_layers} weights, {len(biases)} biases "
                f"and {len(activations)} activations. Count the layers."
            )
        chain: list[Layer] = []
        n_in = None
        for weight, bias, activation in zip(
            map(as_float64, weights), biases, [*activations, None], strict=True
        ):
            bias = None if bias is None else as_float64(bias)
            n_in = weight.shape[1] if n_in is None else n_in
            n_out = len(weight)
            bias_fits = bias is None or bias.shape == (n_out,)
            if weight.shape != (n_out, n_in) or not bias_fits:
                raise ValueError(
                    f"weights must have shape (n_out, n_in) with n_in={n_in} here and "
                    f"biases shape (n_out,), got {tuple(weight.shape)} and "
                    f"{None if bias is None else tuple(bias.shape)}. Transpose "
                    "scikit-learn's coefs_."
                )
            n_in = n_out
            chain += [Linear(weight, bias)]
            chain += [] if activation is None else [activation]
        return cls(chain)

    @property
    def is_mlp(self) -> bool:
        """Whether linear layers and activations alternate."""
        kinds = [Linear, Activation] * len(self.weights)
        return [type(layer) for layer in self.chain] == kinds[:-1]

    @property
    def is_linear(self) -> bool:
        """Whether the outputs are linear in the inputs, with an intercept."""
        return self.is_mlp and all(each.name == "identity" for each in self.activations)

    @property
    def is_linear_in_theta(self) -> bool:
        return len(self.chain) == 1

    @property
    def weights(self) -> tuple[Tensor, ...]:
        """Weights W of the linear layers."""
        return tuple(layer.weight for layer in self._linear)

    @property
    def biases(self) -> tuple[Tensor | None, ...]:
        """Biases b of the linear layers."""
        return tuple(layer.bias for layer in self._linear)

    @property
    def activations(self) -> tuple[Activation, ...]:
        """The activations."""
        return tuple(layer for layer in self.chain if isinstance(layer, Activation))

    @property
    def _linear(self) -> list[Linear]:
        return [layer for layer in self.chain if isinstance(layer, Linear)]

    @property
    def n_inputs(self) -> int:
        return self._linear[0].weight.shape[1]

    @property
    def n_outputs(self) -> int:
        return len(self._linear[-1].weight)

    @property
    def n_params(self) -> int:
        return sum(self._sizes)

    @property
    def theta(self) -> Tensor:
        parts = [part.reshape(-1) for layer in self.chain for part in layer.parameters]
        return torch.cat(parts)

    @property
    def _sizes(self) -> list[int]:
        """Number of parameters of each layer."""
        return [sum(p.numel() for p in layer.parameters) for layer in self.chain]

    def blocks(self) -> dict[str, slice]:
        """Positions in theta of each weight and bias, and of each layer with both.

        Layers are numbered without those that have no parameters. Biases are blocks of
        their own, because a constant added to them before a layer norm changes no
        output.
        """
        result, start = {}, 0
        layers = [layer.parameters for layer in self.chain if layer.parameters]
        for number, parameters in enumerate(layers, 1):
            stops = list(accumulate((p.numel() for p in parameters), initial=start))
            for name, pair in zip(("weights", "biases"), pairwise(stops), strict=False):
                result[f"{name} of layer {number}"] = slice(*pair)
            if len(parameters) > 1:
                result[f"layer {number}"] = slice(start, stops[-1])
            start = stops[-1]
        return result

    def parameter_shapes(self) -> dict[str, torch.Size]:
        layers = [layer.parameters for layer in self.chain if layer.parameters]
        names = self.names or [
            f"layer_{number}.{name}"
            for number, parameters in enumerate(layers, 1)
            for name, _ in zip(("weight", "bias"), parameters, strict=False)
        ]
        shapes = [p.shape for each in layers for p in each]
        return dict(zip(names, shapes, strict=True))

    def split(self, theta: Tensor) -> list[Layer]:
        """The layers with theta's parts as parameters, without a copy."""
        layers = []
        for layer, part in zip(self.chain, theta.split(self._sizes), strict=True):
            pieces = part.split([p.numel() for p in layer.parameters])
            views = zip(pieces, layer.parameters, strict=True)
            layers.append(layer.at([piece.view(p.shape) for piece, p in views]))
        return layers

    def module(self) -> nn.Module:
        """A new Sequential of the layers, in evaluation mode."""
        return nn.Sequential(*(layer.module() for layer in self.chain)).eval()

    def modules_along(self, direction: Tensor) -> tuple[nn.Module, nn.Module]:
        return self.module(), self.at(direction).module()

    def to(self, device: torch.device) -> ChainNetwork:
        moved = [
            layer.at([p.to(device) for p in layer.parameters]) for layer in self.chain
        ]
        return ChainNetwork(moved, self.names)

    def at(self, theta: Tensor) -> ChainNetwork:
        return ChainNetwork(self.split(theta.detach().clone()), self.names)

    def __call__(self, theta: Tensor, X: Tensor) -> Tensor:
        return _run(self.split(theta), X)[-1]

    def layers(self, X: Tensor) -> list[Tensor]:
        return self.forward(X)[1]

    def forward(self, X: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The inputs of the activations, and the outputs that `layers` returns.

        The hidden layers are the inputs of all linear layers but the first. If the last
        layer is not linear, they are left out, because no linear model on them equals
        the network.
        """
        outputs = _run(self.chain, X)
        inputs = list(zip(outputs[:-1], self.chain, strict=True))
        pre_activations = [h for h, layer in inputs if isinstance(layer, Activation)]
        hidden = [h for h, layer in inputs if isinstance(layer, Linear)][1:]
        hidden = hidden if isinstance(self.chain[-1], Linear) else []
        return pre_activations, [X, *hidden, outputs[-1]]

    def jacobian(self, X: Tensor, *, without: slice | None = None) -> LinearOperator:
        # `without` can only be the bias of the head, as `find_head` returns it.
        return self._derivatives(_run(self.chain, X), without is None)

    def tangent_model(self, weight: float, coefs: Tensor) -> Callable[[Tensor], Tensor]:
        """Outputs and products of the Jacobian, in one pass."""
        is_zero = not bool(coefs.any())

        def raw(X: Tensor) -> Tensor:
            outputs = _run(self.chain, X)
            if weight and is_zero:
                return weight * outputs[-1]
            moved = apply_sets(self._derivatives(outputs), coefs)
            return moved.add(outputs[-1], alpha=weight) if weight else moved

        return raw

    def _derivatives(
        self, outputs: Sequence[Tensor], bias: bool = True
    ) -> ChainOperator:
        """The Jacobian at the outputs of `_run`, of the last bias only if `bias`."""
        derivatives = [
            layer.jacobian(h, out, bias or layer is not self.chain[-1])
            for layer, (h, out) in zip(self.chain, pairwise(outputs), strict=True)
        ]
        return ChainOperator(derivatives)

    def rescaled(self, factors: Sequence[Tensor]) -> Tensor:
        """Theta with incoming weights of hidden units multiplied by factors.

        Their outgoing weights are divided by the same. There is one tensor of factors
        for each hidden layer.
        """
        one = torch.ones(1, dtype=torch.float64)
        incoming, outgoing = [*factors, one], [one, *factors]
        parts = []
        for weight, bias, c, d in zip(
            self.weights, self.biases, incoming, outgoing, strict=True
        ):
            parts.append((c[:, None] * weight / d).reshape(-1))
            if bias is not None:
                parts.append(c * bias)
        return torch.cat(parts)

    def find_head(self, X: Tensor) -> Head:
        theta, head = self.theta, self.chain[-1]
        theta[: len(theta) - self._sizes[-1]] = 0
        bias = head.bias if isinstance(head, Linear | LayerNorm) else None
        n_bias = 0 if bias is None else len(bias)
        return Head(
            bias=slice(len(theta) - n_bias, len(theta)) if n_bias else None,
            span_coef=theta if self._sizes[-1] else None,
        )


def _run(chain: Sequence[Layer], X: Tensor) -> list[Tensor]:
    """X and the outputs of each layer."""
    outputs = [X, chain[0].on_inputs(X)]
    for layer in chain[1:]:
        outputs.append(layer(outputs[-1]))
    return outputs
