"""Torch modules that compute a network and its derivative in one forward pass."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from sklearn_pgb._models._activations import Activation, read_activation
from sklearn_pgb._models._network import Network
from sklearn_pgb._models._resnet import ResNetModule
from sklearn_pgb._models._structure import has_hooks, leaf_modules, max_pool

# A layer's outputs, and their change along the direction; None if they do not change.
OutputsAndChange = tuple[Tensor, Tensor | None]


def tangent_module(
    network: Network, weight: float, direction: Tensor
) -> TangentModule | None:
    """Return ``weight f(x) + J(x) c`` as a module without derivatives.

    See `Network.tangent_model`. The result is None for models that are not networks.

    Parameters
    ----------
    direction : Tensor (n_params,)
        The coefficients c.

    Raises
    ------
    TypeError
        If the network has unknown layers.
    """
    modules = network.modules_along(direction)
    return None if modules is None else TangentModule(_read(*modules), weight)


class TangentModule(nn.Module):
    """``weight`` times the outputs of layers, plus their change."""

    def __init__(self, body: nn.Module, weight: float):
        super().__init__()
        self.body, self.weight = body, weight

    def forward(self, X: Tensor) -> Tensor:
        """Raw outputs (n_samples, n_outputs)."""
        out, change = self.body(X)
        total = self.weight * out if self.weight or change is None else change
        if self.weight and change is not None:
            total = total + change
        return total[:, None] if total.ndim == 1 else total


class TangentChain(nn.Module):
    """Layers one after the other."""

    def __init__(self, layers: list[nn.Module]):
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, h: Tensor, change: Tensor | None = None) -> OutputsAndChange:
        """The outputs and their change, if the inputs change too."""
        for layer in self.layers:
            h, change = layer(h, change)
        return h, change


class TangentLayer(nn.Module, ABC):
    """A layer that is linear in its parameters.

    Parameters
    ----------
    layer : torch.nn.Module
    tangent : torch.nn.Module
        The layer with a direction in place of its parameters. Its outputs are the
        derivative along this direction.
    """

    def __init__(self, layer: nn.Module, tangent: nn.Module):
        super().__init__()
        self.layer = layer
        # If the direction is zero for this layer, its product is not computed.
        changes = any(bool(parameter.any()) for parameter in tangent.parameters())
        self.tangent = tangent if changes else None

    def forward(self, h: Tensor, change: Tensor | None = None) -> OutputsAndChange:
        """The outputs and their change, if the inputs change too."""
        own = None if self.tangent is None else self.tangent(h)
        pushed = None if change is None else self.push(h, change)
        if own is None or pushed is None:
            return self.layer(h), pushed if own is None else own
        return self.layer(h), own + pushed

    @abstractmethod
    def push(self, h: Tensor, change: Tensor) -> Tensor:
        """The change of the outputs if only the inputs h change."""


class Fixed(TangentLayer):
    """A linear map of its inputs without parameters."""

    def push(self, h: Tensor, change: Tensor) -> Tensor:
        """The map itself."""
        result: Tensor = self.layer(change)
        return result


class Shifted(TangentLayer):
    """A linear map of its inputs and a shift: linear layers, convolutions, batch norm.

    Batch norm is in evaluation mode.
    """

    def __init__(self, layer: Any, tangent: nn.Module):
        super().__init__(layer, tangent)
        self.linear = copy.deepcopy(layer)
        self.linear.weight, self.linear.bias = layer.weight, None
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            self.linear.running_mean.zero_()

    def push(self, h: Tensor, change: Tensor) -> Tensor:
        """The map without the shift."""
        result: Tensor = self.linear(change)
        return result


class Normalized(TangentLayer):
    """Layer norm, see `NormDerivative`."""

    layer: nn.LayerNorm

    def push(self, h: Tensor, change: Tensor) -> Tensor:
        """The derivative along a change of the inputs."""
        axes = tuple(range(-len(self.layer.normalized_shape), 0))
        centered = h - h.mean(axes, keepdim=True)
        variance = centered.square().mean(axes, keepdim=True)
        inverse = (variance + self.layer.eps).rsqrt()
        x_hat = centered * inverse
        along = (change * x_hat).mean(axes, keepdim=True)
        out = (change - change.mean(axes, keepdim=True) - x_hat * along) * inverse
        return out if self.layer.weight is None else out * self.layer.weight


class Pooled(TangentLayer):
    """Max pooling."""

    def push(self, h: Tensor, change: Tensor) -> Tensor:
        """The change of the inputs that are chosen."""
        out, index = max_pool(self.layer, h)
        return change.flatten(2).gather(2, index.flatten(2)).view_as(out)


class Curve(nn.Module):
    """An elementwise activation."""

    def __init__(self, activation: Activation):
        super().__init__()
        self.activation = activation

    def forward(self, h: Tensor, change: Tensor | None = None) -> OutputsAndChange:
        """The outputs and their change, if the inputs change."""
        out = self.activation(h)
        if change is None:
            return out, None
        return out, self.activation.derivative(h, out) * change


class Tokens(nn.Module):
    """A row of a table for each token. Nothing changes the tokens themselves."""

    def __init__(self, table: nn.Embedding, tangent: nn.Embedding):
        super().__init__()
        self.table, self.tangent = table, tangent

    def forward(self, h: Tensor, change: Tensor | None = None) -> OutputsAndChange:
        """The rows and their change."""
        tokens = h.long()
        return self.table(tokens), self.tangent(tokens)


class Bag(nn.Module):
    """The mean or sum of the rows of all tokens; ONNX has no bags."""

    def __init__(self, mode: str):
        super().__init__()
        self.mode = mode

    def forward(self, rows: Tensor) -> Tensor:
        """Vectors (n_samples, size)."""
        return rows.mean(1) if self.mode == "mean" else rows.sum(1)


class Residual(nn.Module):
    """A `ResNetModule`; its inputs do not change."""

    def __init__(self, whole: Any, tangent: Any):
        super().__init__()
        self.whole, self.units = whole, _read(whole.units, tangent.units)
        self.head = Shifted(whole.head, tangent.head)

    def forward(self, X: Tensor, change: Tensor | None = None) -> OutputsAndChange:
        """The outputs and their change."""
        basis, inputs = self.whole.split(X)
        units, own = self.units(inputs)
        units = units.reshape(basis.shape[0], -1)
        features = torch.cat([self.whole.centered(basis), units], 1)
        if own is not None:
            own = own.reshape(basis.shape[0], -1)
            own = torch.cat([torch.zeros_like(basis), own], 1)
        result: OutputsAndChange = self.head(features, own)
        return result


def _read(module: nn.Module, tangent: nn.Module) -> TangentChain:
    """The layers of nested Sequentials."""
    if has_hooks(module):
        raise _unknown(module, " with hooks")
    layers: list[nn.Module] = []
    pairs = zip(leaf_modules(module), leaf_modules(tangent), strict=True)
    for layer, other in pairs:
        activation = read_activation(layer)
        if activation is not None:
            layers.append(Curve(activation))
        elif type(layer) in _READERS:
            layers.append(_READERS[type(layer)](layer, other))
        else:
            raise _unknown(layer)
    return TangentChain(layers)


def _unknown(layer: nn.Module, state: str = "") -> TypeError:
    return TypeError(
        "to_module needs Sequentials of torch's layers whose Jacobians have a known "
        f"structure, got {type(layer).__name__}{state}. Replace this layer."
    )


def _tokens(layer: Any, tangent: Any) -> nn.Module:
    if layer.padding_idx is not None:
        # This row is not a parameter.
        tangent.weight[layer.padding_idx] = 0
    return Tokens(layer, tangent)


def _bag(layer: Any, tangent: Any) -> nn.Module:
    if layer.mode == "max" or layer.padding_idx is not None:
        raise _unknown(layer, " with mode='max' or padding_idx")
    tables = [nn.Embedding.from_pretrained(part.weight) for part in (layer, tangent)]
    bag = Bag(layer.mode)
    return TangentChain([Tokens(*tables), Fixed(bag, bag)])


_READERS: dict[type[nn.Module], Callable[[Any, Any], nn.Module]] = {
    nn.Linear: Shifted,
    nn.Conv1d: Shifted,
    nn.Conv2d: Shifted,
    nn.LayerNorm: Normalized,
    nn.BatchNorm1d: Shifted,
    nn.BatchNorm2d: Shifted,
    nn.Flatten: Fixed,
    nn.Unflatten: Fixed,
    nn.AvgPool1d: Fixed,
    nn.AvgPool2d: Fixed,
    nn.AdaptiveAvgPool1d: Fixed,
    nn.AdaptiveAvgPool2d: Fixed,
    nn.MaxPool1d: Pooled,
    nn.MaxPool2d: Pooled,
    nn.AdaptiveMaxPool1d: Pooled,
    nn.AdaptiveMaxPool2d: Pooled,
    nn.Embedding: _tokens,
    nn.EmbeddingBag: _bag,
    ResNetModule: Residual,
}
