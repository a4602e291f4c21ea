"""The Jacobian of a chain of layers, by its structure."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sklearn_pgb._operators._blocks import row_blocks
from sklearn_pgb._operators._layers import (
    Columns,
    LayerDerivative,
    LayerPart,
    LinearDerivative,
)
from sklearn_pgb._operators._operator import LinearOperator


class ChainOperator(LinearOperator):
    """The Jacobian of a chain of linear layers, activations and layer norms.

    Let D_l be the derivatives of the outputs with respect to the outputs of layer l.
    The row of sample i and output c contains ``D_l[i, c] A_l[i]^T`` and ``D_l[i, c]``
    for the weight and bias of a linear layer with inputs A_l, and
    ``D_l[i, c] * x_hat_l[i]`` and ``D_l[i, c]`` for gamma and beta of a layer norm. The
    kernel is computed without forming these rows. A linear layer adds ::

        (A_l A_l'^T + 1) o (D_l D_l'^T)

    A product is a forward-mode sweep and an adjoint product a reverse-mode sweep, each
    with two matrix products per linear layer.

    Parameters
    ----------
    layers : sequence of LayerDerivative
        From the first layer with parameters to the outputs.
    """

    def __init__(self, layers: Sequence[LayerDerivative]):
        self.layers = list(layers)
        self.columns = [
            layer for layer in layers if isinstance(layer, Columns) and layer.n_coef
        ]
        self.n_outputs = layers[-1].width
        self.sizes = [layer.n_coef for layer in layers]
        self.n_coef = sum(self.sizes)
        first = self.columns[0]
        self.n_samples, self.device = len(first.inputs), first.inputs.device
        self.dtype = first.dtype

    @property
    def bytes_per_sample(self) -> int:
        """Memory of the layers' inputs and slopes, roughly."""
        inputs = sum(layer.inputs[0].numel() for layer in self.columns)
        outputs = sum(layer.width for layer in self.layers)
        return (inputs + outputs) * self.dtype.itemsize

    def matvec(self, coef: Tensor) -> Tensor:
        tangent: Tensor | None = None
        for layer, part in zip(self.layers, coef.split(self.sizes), strict=True):
            tangent = layer.push(tangent, part)
        assert tangent is not None
        return tangent

    def rmatvec(self, residual: Tensor) -> Tensor:
        result = self._empty(self.n_coef)
        parts = result.split([layer.n_coef for layer in self.columns])
        # Sum D over the outputs, weighted by the residual: one row per sample.
        deltas = self._sweep(residual[:, None])
        for layer, delta, part in zip(self.columns, deltas, parts, strict=True):
            layer.adjoint(delta[:, 0], part)
        return result

    def layer_parts(self, residual: Tensor) -> list[LayerPart]:
        pairs = zip(self.columns, self._sweep(residual[:, None]), strict=True)
        return [
            LayerPart(layer, 1.0, delta[:, 0], layer is self.layers[-1])
            for layer, delta in pairs
        ]

    def derivatives(self, rows: slice = slice(None)) -> list[Tensor]:
        """D of the layers with parameters, each (n_rows, n_outputs, width)."""
        n, k = len(range(self.n_samples)[rows]), self.n_outputs
        # The last D is the same for all samples, and so are those of linear layers on
        # top of each other.
        eye = torch.eye(k, dtype=self.dtype, device=self.device)[None]
        return [D.expand(n, k, -1) for D in self._sweep(eye, rows)]

    def _sweep(self, D: Tensor, rows: slice = slice(None)) -> list[Tensor]:
        """Pull D of the outputs back to each layer with parameters."""
        result: list[Tensor] = []
        for layer in reversed(self.layers):
            if layer in self.columns:
                result.insert(0, D)
            # Layers below the first one with parameters need no derivatives.
            if len(result) == len(self.columns):
                break
            D = layer.pull(D, rows)
        return result

    def dense(self, rows: slice = slice(None)) -> Tensor:
        pairs = zip(self.columns, self.derivatives(rows), strict=True)
        return torch.cat([layer.dense(D, rows) for layer, D in pairs], -1)

    def select(self, columns: Tensor) -> LinearOperator:
        """Layers without selected parameters are frozen, and left out at the start."""
        if not len(columns):
            return super().select(columns)
        layers, start = [], 0
        for layer in self.layers:
            stop = start + layer.n_coef
            own = columns[(columns >= start) & (columns < stop)] - start
            if isinstance(layer, Columns) and layer.n_coef:
                layers.append(layer.select(own))
            elif layers:
                layers.append(layer)
            start = stop
            while layers and not layers[0].n_coef:
                layers.pop(0)
        return ChainOperator(layers)

    def single(self) -> "ChainOperator":
        return ChainOperator(
            [layer.convert(Tensor.float, Tensor.float) for layer in self.layers]
        )

    def rows(self, index: Tensor) -> "ChainOperator":
        return ChainOperator(
            [
                layer.convert(lambda values: values[index], lambda values: values)
                for layer in self.layers
            ]
        )

    def cross_gram(self, other: LinearOperator) -> Tensor:
        if not isinstance(other, ChainOperator) or other.kinds != self.kinds:
            return super().cross_gram(other)
        n, m, k = self.n_samples, other.n_samples, self.n_outputs
        right = other.derivatives()
        kernel = self._empty(n, k, m, k).zero_()
        # Blocks of rows bound the memory of each layer's part of the kernel.
        for rows in row_blocks(n, k * m * k * self.dtype.itemsize):
            # The Gram matrix in one block needs the derivatives only once.
            is_whole = other is self and rows.stop - rows.start == n
            left = right if is_whole else self.derivatives(rows)
            for layer, D, twin, E in zip(
                self.columns, left, other.columns, right, strict=True
            ):
                if layer is self.layers[-1]:
                    layer.add_output_gram(kernel[rows], twin, rows)
                else:
                    layer.add_gram(kernel[rows], D, twin, E, rows)
        return kernel.reshape(n * k, m * k)

    @property
    def kinds(self) -> list[tuple[Any, ...]]:
        """The kinds of the layers with parameters."""
        return [layer.kind for layer in self.columns]

    def sketch(self, n_components: int, generator: torch.Generator) -> Tensor:
        """Sum of random features of the layers."""
        total = self._empty(self.n_samples, n_components).zero_()
        normal = partial(self._normal, generator)
        for layer, D in zip(self.columns, self.derivatives(), strict=True):
            total += layer.sketch(D, n_components, normal)
        return total / n_components**0.5

    def squared_row_norms(self) -> Tensor:
        total = self._empty(self.n_samples, self.n_outputs)
        width = max(layer.width for layer in self.columns)
        eye = torch.eye(self.n_outputs, dtype=self.dtype, device=self.device)[None]
        for rows in row_blocks(
            self.n_samples, self.n_outputs * width * self.dtype.itemsize
        ):
            n = rows.stop - rows.start
            total[rows] = 0.0
            for layer, D in zip(self.columns, self._sweep(eye, rows), strict=True):
                # Many outputs' D of linear layers on top, the same for all samples,
                # take more memory than the rest of the chain.
                shared = isinstance(layer, LinearDerivative)
                D = D if shared else D.expand(n, -1, -1)
                total[rows] += layer.squared_row_norms(D, rows)
        return total
