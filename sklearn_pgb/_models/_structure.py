"""The Jacobian of a torch module by its structure, if its layers are known."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.module import _has_any_global_hook

from sklearn_pgb._models._activations import read_activation
from sklearn_pgb._operators._chain import ChainOperator
from sklearn_pgb._operators._images import (
    ChannelScale,
    Convolution,
    Embedding,
    Gather,
    Geometry,
    LinearMap,
)
from sklearn_pgb._operators._layers import (
    LayerDerivative,
    LinearDerivative,
    NormDerivative,
)

# The derivatives and outputs of a layer for inputs h; None if h has another form.
Step = tuple[list[LayerDerivative], Tensor]

_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout)


def structured_jacobian(module: nn.Module, X: Tensor) -> ChainOperator | None:
    """Jacobian of nested Sequentials with respect to all parameters, in their order.

    Parameters
    ----------
    module : torch.nn.Module
        In evaluation mode.
    X : Tensor (n_samples, ...)

    Returns
    -------
    ChainOperator or None
        None for modules whose forward pass or layers are not known.
    """
    if has_hooks(module):
        return None
    derivatives, h = [], X
    with torch.no_grad():
        for layer in leaf_modules(module):
            read, activation = _LAYERS.get(type(layer)), read_activation(layer)
            if read is not None:
                step = read(layer, h)
            elif activation is not None:
                out = activation(h)
                step = [activation.jacobian(h, out, True)], out
            else:
                step = None
            if step is None:
                return None
            derivatives += step[0]
            h = step[1]
    n_params = sum(parameter.numel() for parameter in module.parameters())
    # Layers that share parameters have more columns than there are parameters.
    if h.ndim != 2 or n_params != sum(layer.n_coef for layer in derivatives):
        return None
    return ChainOperator(derivatives)


def leaf_modules(module: nn.Module) -> Iterator[nn.Module]:
    """Layers in order, without those that are the identity in evaluation mode."""
    if type(module) is nn.Sequential:
        for child in module:
            yield from leaf_modules(child)
    elif type(module) not in (nn.Identity, *_DROPOUTS):
        yield module


def has_hooks(module: nn.Module) -> bool:
    """Whether hooks, or another `forward` of an instance, may change outputs."""
    return _has_any_global_hook() or any(
        part._forward_hooks or part._forward_pre_hooks or "forward" in vars(part)
        for part in module.modules()
    )


def first_embedding(module: nn.Module) -> nn.Embedding | nn.EmbeddingBag | None:
    """The first layer if it is an embedding, whose inputs are integers."""
    first = next(leaf_modules(module), None)
    return first if isinstance(first, nn.Embedding | nn.EmbeddingBag) else None


def _linear(layer: Any, h: Tensor) -> Step | None:
    if h.ndim != 2:
        return None
    return [LinearDerivative(h, layer.weight, layer.bias is not None)], layer(h)


def _layer_norm(layer: Any, h: Tensor) -> Step | None:
    if h.ndim != 2:
        return None
    has_bias = layer.bias is not None
    return [NormDerivative.at(h, layer.eps, layer.weight, has_bias)], layer(h)


def _reshape(layer: Any, h: Tensor) -> Step:
    # Derivatives are with respect to flat arrays, whose shape does not matter.
    return [], layer(h)


def _convolution(layer: Any, h: Tensor) -> Step | None:
    n_axes = layer.weight.ndim - 2
    if h.ndim != n_axes + 2 or layer.padding_mode != "zeros":
        return None
    padding = layer.padding
    if isinstance(padding, str):
        reach = [
            dilation * (size - 1) * (padding == "same")
            for dilation, size in zip(layer.dilation, layer.kernel_size, strict=True)
        ]
        if any(total % 2 for total in reach):
            return None
        padding = tuple(total // 2 for total in reach)
    geometry = Geometry(
        _pair(layer.stride, 1),
        _pair(padding, 0),
        _pair(layer.dilation, 1),
        layer.groups,
    )
    out = layer(h)
    height, width = _image(out).shape[2:]
    image, weight, bias = _image(h), _image(layer.weight), layer.bias is not None
    return [Convolution(image, weight, bias, geometry, (height, width))], out


def _pair(values: tuple[int, ...], missing: int) -> tuple[int, int]:
    return (missing, *values)[-2], values[-1]


def _image(values: Tensor) -> Tensor:
    """Signals (n, channels, length) as images of height one."""
    return values.unsqueeze(2) if values.ndim == 3 else values


def _batch_norm(layer: Any, h: Tensor) -> Step | None:
    if layer.running_mean is None or h.ndim < 2:
        return None
    inverse = (layer.running_var + layer.eps).rsqrt()
    shape = (-1, *[1] * (h.ndim - 2))
    x_hat = (h - layer.running_mean.view(shape)) * inverse.view(shape)
    if layer.weight is None:

        def scale(values: Tensor) -> Tensor:
            return values * inverse.view(shape).to(values)

        return [LinearMap(scale, tuple(h.shape[1:]), h)], x_hat
    flat = x_hat.flatten(2) if h.ndim > 2 else x_hat[:, :, None]
    return [ChannelScale(flat, inverse, layer.weight)], layer(h)


def _linear_map(layer: Any, h: Tensor) -> Step:
    return [LinearMap(layer, tuple(h.shape[1:]), h)], layer(h)


def max_pool(layer: Any, h: Tensor) -> tuple[Tensor, Tensor]:
    """The outputs of a max pooling layer, and their positions within a channel."""
    name = type(layer).__name__
    if name.startswith("Adaptive"):
        function = getattr(F, f"adaptive_max_pool{name[-2]}d")
        return function(h, layer.output_size, return_indices=True)
    function = getattr(F, f"max_pool{name[-2]}d")
    return function(
        h,
        layer.kernel_size,
        layer.stride,
        layer.padding,
        layer.dilation,
        layer.ceil_mode,
        return_indices=True,
    )


def _max_pool(layer: Any, h: Tensor) -> Step:
    out, index = max_pool(layer, h)
    size = h[0, 0].numel()
    shift = torch.arange(h.shape[1], device=h.device) * size
    index = index.flatten(2) + shift[:, None]
    return [Gather(index.flatten(1), h[0].numel())], out


def _embedding(layer: Any, h: Tensor) -> Step | None:
    if h.ndim != 2:
        return None
    tokens = h.long()
    return [Embedding(tokens, layer.weight, layer.padding_idx)], layer(tokens)


def _embedding_bag(layer: Any, h: Tensor) -> Step | None:
    if layer.mode == "max" or layer.padding_idx is not None:
        return None
    step = _embedding(layer, h)
    if step is None:
        return None
    tokens, size = h.long(), layer.embedding_dim

    def pool(values: Tensor) -> Tensor:
        return values.mean(1) if layer.mode == "mean" else values.sum(1)

    pooling = LinearMap(pool, (tokens.shape[1], size), layer.weight)
    table = Embedding(tokens, layer.weight, None)
    return [table, pooling], layer(tokens)


_LAYERS: dict[type[nn.Module], Callable[[Any, Tensor], Step | None]] = {
    nn.Linear: _linear,
    nn.LayerNorm: _layer_norm,
    nn.Flatten: _reshape,
    nn.Unflatten: _reshape,
    nn.Conv1d: _convolution,
    nn.Conv2d: _convolution,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.AvgPool1d: _linear_map,
    nn.AvgPool2d: _linear_map,
    nn.AdaptiveAvgPool1d: _linear_map,
    nn.AdaptiveAvgPool2d: _linear_map,
    nn.MaxPool1d: _max_pool,
    nn.MaxPool2d: _max_pool,
    nn.AdaptiveMaxPool1d: _max_pool,
    nn.AdaptiveMaxPool2d: _max_pool,
    nn.Embedding: _embedding,
    nn.EmbeddingBag: _embedding_bag,
}
