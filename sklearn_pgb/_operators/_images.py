"""Derivatives of layers with images, signals or tokens as inputs.

Outputs of layers have shape (n_samples, width) here, with all channels and positions
of a sample in one row. Each layer knows the shapes of its inputs and outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.grad import conv2d_input, conv2d_weight

from sklearn_pgb._operators._blocks import row_blocks
from sklearn_pgb._operators._layers import Columns, Conversion, LayerDerivative


class Geometry(NamedTuple):
    """How a kernel moves over an image, in the order of torch's arguments.

    One-dimensional signals have height one.
    """

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int = 1


class Convolution(Columns):
    """A convolution: its columns are products of D and patches, summed over positions.

    Parameters
    ----------
    inputs : Tensor (n_samples, channels, height, width)
    weight : Tensor (n_out, channels / groups, kernel height, kernel width)
    bias : bool
        Whether there are columns of the bias.
    geometry : Geometry
    positions : tuple of int
        Height and width of the outputs.
    """

    def __init__(
        self,
        inputs: Tensor,
        weight: Tensor,
        bias: bool,
        geometry: Geometry,
        positions: tuple[int, int],
    ):
        self.inputs, self.weight, self.bias = inputs, weight, bias
        self.geometry, self.positions = geometry, positions
        self.width = len(weight) * positions[0] * positions[1]
        self.n_coef = weight.numel() + (len(weight) if bias else 0)

    @property
    def kind(self) -> tuple[Any, ...]:
        return *super().kind, self.weight.shape, self.geometry

    def push(self, tangent: Tensor | None, coef: Tensor | None) -> Tensor | None:
        out = None if tangent is None else self._apply(tangent, self.weight)
        if coef is None:
            return out
        size = self.weight.numel()
        own = self._apply(self.inputs, coef[:size].view(self.weight.shape))
        if self.bias:
            own += coef[size:].repeat_interleave(self.positions[0] * self.positions[1])
        return own if out is None else out.add_(own)

    def _apply(self, images: Tensor, weight: Tensor) -> Tensor:
        images = images.view(-1, *self.inputs.shape[1:])
        return F.conv2d(images, weight, None, *self.geometry).flatten(1)

    def pull(self, D: Tensor, rows: slice = slice(None)) -> Tensor:
        count = D.shape[0] * D.shape[1]
        pulled = conv2d_input(
            (count, *self.inputs.shape[1:]),
            self.weight,
            D.reshape(count, len(self.weight), *self.positions),
            *self.geometry,
        )
        return pulled.view(D.shape[0], D.shape[1], -1)

    def convert(self, samples: Conversion, parameters: Conversion) -> Convolution:
        return Convolution(
            samples(self.inputs),
            parameters(self.weight),
            self.bias,
            self.geometry,
            self.positions,
        )

    def _patches(self, rows: slice) -> Tensor:
        """Patches of the inputs, (n_rows, channels times kernel size, positions)."""
        geometry = self.geometry
        return F.unfold(
            self.inputs[rows],
            tuple(self.weight.shape[2:]),
            geometry.dilation,
            geometry.padding,
            geometry.stride,
        )

    def dense(self, D: Tensor, rows: slice = slice(None)) -> Tensor:
        patches, groups = self._patches(rows), self.geometry.groups
        b, k = len(patches), D.shape[1]
        patches = patches.view(b, groups, -1, patches.shape[-1]).transpose(2, 3)
        # (b, groups, outputs and channels of a group, positions)
        D = D.expand(b, k, -1).reshape(b, k, groups, -1, patches.shape[2])
        left = D.transpose(1, 2).flatten(2, 3)
        outer = (left @ patches).view(b, groups, k, -1, patches.shape[-1])
        outer = outer.transpose(1, 2).reshape(b, k, -1)
        return torch.cat([outer, D.sum(-1).flatten(2)], -1) if self.bias else outer

    def adjoint(self, delta: Tensor, out: Tensor) -> None:
        size = self.weight.numel()
        images = delta.view(len(delta), len(self.weight), *self.positions)
        gradient = conv2d_weight(self.inputs, self.weight.shape, images, *self.geometry)
        out[:size] = gradient.reshape(-1)
        if self.bias:
            torch.sum(images, (0, 2, 3), out=out[size:])

    def kronecker_factors(
        self, delta: Tensor, weight: Tensor
    ) -> tuple[Tensor, Tensor] | None:
        """As if the derivatives at different positions were uncorrelated."""
        if self.geometry.groups > 1:
            return None
        n_positions = self.positions[0] * self.positions[1]
        n_in = self.weight[0].numel() + int(self.bias)
        inner = delta.new_zeros(n_in, n_in)
        size = n_in * n_positions * delta.element_size()
        for rows in row_blocks(len(delta), size):
            patches = self._patches(rows)
            if self.bias:
                patches = torch.cat([patches, torch.ones_like(patches[:, :1])], 1)
            flat = (weight[rows].sqrt()[:, None] * patches).transpose(0, 1).flatten(1)
            inner += flat @ flat.T
        outer = delta.view(len(delta), -1, n_positions).transpose(0, 1).flatten(1)
        return inner, outer @ outer.T / n_positions


class ChannelScale(Columns):
    """``gamma x_hat + beta`` for each channel, as in batch norm after training.

    Parameters
    ----------
    inputs : Tensor (n_samples, channels, positions)
        x_hat.
    slope : Tensor (channels,)
        Derivatives of x_hat.
    gamma : Tensor (channels,)
    """

    def __init__(self, inputs: Tensor, slope: Tensor, gamma: Tensor):
        self.inputs, self.slope, self.gamma = inputs, slope, gamma
        self.width = inputs[0].numel()
        self.n_coef = 2 * len(gamma)

    def push(self, tangent: Tensor | None, coef: Tensor | None) -> Tensor | None:
        scale = self._per_position(self.slope * self.gamma)
        out = None if tangent is None else tangent * scale
        if coef is None:
            return out
        first, last = coef.chunk(2)
        own = torch.addcmul(last[:, None], self.inputs, first[:, None]).flatten(1)
        return own if out is None else out.add_(own)

    def pull(self, D: Tensor, rows: slice = slice(None)) -> Tensor:
        return D * self._per_position(self.slope * self.gamma)

    def _per_position(self, channels: Tensor) -> Tensor:
        return channels.repeat_interleave(self.inputs.shape[2])

    def convert(self, samples: Conversion, parameters: Conversion) -> ChannelScale:
        values = parameters(self.slope), parameters(self.gamma)
        return ChannelScale(samples(self.inputs), *values)

    def dense(self, D: Tensor, rows: slice = slice(None)) -> Tensor:
        x_hat = self.inputs[rows]
        D = D.expand(len(x_hat), *D.shape[1:]).unflatten(2, x_hat.shape[1:])
        return torch.cat([(D * x_hat[:, None]).sum(-1), D.sum(-1)], -1)

    def adjoint(self, delta: Tensor, out: Tensor) -> None:
        delta = delta.view_as(self.inputs)
        first, last = out.chunk(2)
        torch.sum(delta * self.inputs, (0, 2), out=first)
        torch.sum(delta, (0, 2), out=last)


class Embedding(Columns):
    """A row of a table for each token.

    Parameters
    ----------
    inputs : Tensor of int (n_samples, n_tokens)
    table : Tensor (n_words, size)
    constant : int or None
        Row of the table that is not a parameter: its derivatives are zero.
    """

    def __init__(self, inputs: Tensor, table: Tensor, constant: int | None):
        self.inputs, self.table, self.constant = inputs, table, constant
        self.width = inputs.shape[1] * table.shape[1]
        self.n_coef = table.numel()
        self._varies = None if constant is None else inputs != constant

    @property
    def dtype(self) -> torch.dtype:
        return self.table.dtype

    @property
    def kind(self) -> tuple[Any, ...]:
        return *super().kind, self.table.shape, self.constant

    def push(self, tangent: Tensor | None, coef: Tensor | None) -> Tensor | None:
        # Tokens have no derivatives.
        if coef is None:
            return None
        rows = F.embedding(self.inputs, coef.view(self.table.shape))
        if self._varies is not None:
            rows = rows * self._varies[:, :, None]
        return rows.flatten(1)

    def pull(self, D: Tensor, rows: slice = slice(None)) -> Tensor:
        return D.new_zeros(*D.shape[:2], self.inputs.shape[1])

    def convert(self, samples: Conversion, parameters: Conversion) -> Embedding:
        tokens = samples(self.inputs).long()
        return Embedding(tokens, parameters(self.table), self.constant)

    def dense(self, D: Tensor, rows: slice = slice(None)) -> Tensor:
        tokens = self.inputs[rows]
        n_words, size = self.table.shape
        b, k = len(tokens), D.shape[1]
        D = self._masked(D.expand(b, k, -1).unflatten(2, (-1, size)), rows)
        index = tokens[:, None, :, None].expand(b, k, -1, size)
        return D.new_zeros(b, k, n_words, size).scatter_add_(2, index, D).flatten(2)

    def adjoint(self, delta: Tensor, out: Tensor) -> None:
        size = self.table.shape[1]
        delta = self._masked(delta.view(len(delta), 1, -1, size), slice(None))
        total = out.zero_().view(self.table.shape)
        total.index_add_(0, self.inputs.reshape(-1), delta.reshape(-1, size))

    def _masked(self, D: Tensor, rows: slice) -> Tensor:
        if self._varies is None:
            return D
        return D * self._varies[rows, None, :, None]


class LinearMap(LayerDerivative):
    """A linear layer without parameters that is the same for all samples.

    Parameters
    ----------
    function : callable
        Maps tensors (n, ...) of the input's shape to those of the output.
    shape : tuple of int
        Shape of a sample's input.
    like : Tensor
        Its type and device are those of the layer's values.
    """

    def __init__(
        self, function: Callable[[Tensor], Tensor], shape: tuple[int, ...], like: Tensor
    ):
        self.function, self.shape = function, shape
        self.like = like.new_zeros(1, *shape)
        self.width = function(self.like)[0].numel()

    def push(self, tangent: Tensor | None, coef: Tensor | None) -> Tensor | None:
        if tangent is None:
            return None
        return self.function(tangent.view(-1, *self.shape)).flatten(1)

    def pull(self, D: Tensor, rows: slice = slice(None)) -> Tensor:
        flat = D.reshape(-1, D.shape[2])
        zeros = flat.new_zeros(len(flat), *self.shape)
        out, pull = torch.func.vjp(self.function, zeros)[:2]
        return pull(flat.reshape(out.shape))[0].reshape(*D.shape[:2], -1)

    def convert(self, samples: Conversion, parameters: Conversion) -> LinearMap:
        return LinearMap(self.function, self.shape, parameters(self.like))


class Gather(LayerDerivative):
    """A layer whose outputs are some of its inputs, as in max pooling.

    Parameters
    ----------
    index : Tensor of int (n_samples, width)
        Position of each output's input.
    n_inputs : int
    """

    def __init__(self, index: Tensor, n_inputs: int):
        self.index, self.n_inputs, self.width = index, n_inputs, index.shape[1]

    def push(self, tangent: Tensor | None, coef: Tensor | None) -> Tensor | None:
        return None if tangent is None else tangent.gather(1, self.index)

    def pull(self, D: Tensor, rows: slice = slice(None)) -> Tensor:
        index = self.index[rows, None]
        n = max(len(D), len(index))
        D = D.expand(n, -1, -1)
        zeros = D.new_zeros(n, D.shape[1], self.n_inputs)
        return zeros.scatter_add_(2, index.expand_as(D), D)

    def convert(self, samples: Conversion, parameters: Conversion) -> Gather:
        return Gather(samples(self.index).long(), self.n_inputs)
