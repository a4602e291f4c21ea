"""Derivatives of the layers of a chain on some samples."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sklearn_pgb._operators._blocks import row_blocks

Conversion = Callable[[Tensor], Tensor]


class LayerDerivative(ABC):
    """Derivatives of a layer's outputs with respect to its inputs and parameters.

    Conventions
    -----------
    Derivatives D of a chain's outputs with respect to the layer's outputs have shape
    (n_rows, n_outputs, width). If all samples have the same D, n_rows may be one. The
    columns of the Jacobian that belong to the layer are its parameters, in their order.

    Attributes
    ----------
    width : int
        Number of outputs of the layer.
    n_coef : int
        Number of parameters.
    """

    width: int
    n_coef: int = 0

    @abstractmethod
    def push(self, tangent: Tensor | None, coef: Tensor | None) -> Tensor | None:
        """Change of the outputs, (n_samples, width), if inputs and parameters change.

        `tangent` is the change of the inputs, which may be overwritten, and `coef` that
        of the parameters. None stands for no change.
        """

    @abstractmethod
    def pull(self, D: Tensor, rows: slice = slice(None)) -> Tensor:
        """Derivatives of the chain's outputs with respect to the layer's inputs."""

    @abstractmethod
    def convert(self, samples: Conversion, parameters: Conversion) -> LayerDerivative:
        """Apply `samples` to tensors with a sample axis, `parameters` to the others."""


@dataclass(frozen=True, eq=False)
class LayerPart:
    """A layer whose parameters are some of an operator's columns.

    Attributes
    ----------
    layer : Columns
    scale : float
        Factor of the columns.
    delta : Tensor (n_samples, width)
        A residual, backpropagated to the outputs of the layer.
    is_head : bool
        Whether the outputs of the layer are those of the operator.
    """

    layer: Columns
    scale: float
    delta: Tensor
    is_head: bool


class Slope(LayerDerivative):
    """An elementwise activation, given by its derivatives (n_samples, width)."""

    def __init__(self, slopes: Tensor):
        self.slopes, self.width = slopes, slopes.shape[1]

    def push(self, tangent: Tensor | None, coef: Tensor | None) -> Tensor | None:
        return None if tangent is None else tangent.mul_(self.slopes)

    def pull(self, D: Tensor, rows: slice = slice(None)) -> Tensor:
        return D * self.slopes[rows, None]

    def convert(self, samples: Conversion, parameters: Conversion) -> Slope:
        return Slope(samples(self.slopes))


class Columns(LayerDerivative):
    """A layer with parameters; the methods here form its dense rows.

    Attributes
    ----------
    inputs : Tensor (n_samples, ...)
        The values that the parameters multiply.
    bias : bool
        Whether the last parameters are biases of a layer with Kronecker factors.
    """

    inputs: Tensor
    bias: bool = False

    @property
    def dtype(self) -> torch.dtype:
        """Type of the columns."""
        return self.inputs.dtype

    @property
    def kind(self) -> tuple[Any, ...]:
        """Equal for layers whose columns have the same meaning."""
        return type(self), self.inputs.shape[1:], self.width, self.n_coef

    def select(self, index: Tensor) -> LayerDerivative:
        """The layer with some of its parameters, in ascending order."""
        if len(index) == self.n_coef:
            return self
        return PartOfColumns(self, index) if len(index) else Frozen(self)

    @abstractmethod
    def dense(self, D: Tensor, rows: slice = slice(None)) -> Tensor:
        """The layer's columns, (n_rows, n_outputs, n_coef)."""

    @abstractmethod
    def adjoint(self, delta: Tensor, out: Tensor) -> None:
        """Write the gradient (n_coef,) for residuals (n_samples, width) to `out`."""

    def add_gram(
        self, kernel: Tensor, left: Tensor, other: Any, right: Tensor, rows: slice
    ) -> None:
        """Add the layer's part of a kernel (n_rows, k, m, k).

        Parameters
        ----------
        left : Tensor
            D of the given samples.
        other : Columns
            A layer of the same kind on m samples.
        right : Tensor
            D of these samples.
        """
        b, k, m, _ = kernel.shape
        flat = self.dense(left, rows).reshape(b * k, -1)
        size = k * self.n_coef * flat.element_size()
        for columns in row_blocks(m, size):
            dense = other.dense(right[columns], columns).reshape(-1, self.n_coef)
            kernel[:, :, columns] += (flat @ dense.T).view(b, k, -1, k)

    def add_output_gram(self, kernel: Tensor, other: Any, rows: slice) -> None:
        """Add the part of the last layer, for which all D are the identity."""
        b, k, m, _ = kernel.shape
        eye = torch.eye(k, dtype=kernel.dtype, device=kernel.device)
        self.add_gram(kernel, eye.expand(b, k, k), other, eye.expand(m, k, k), rows)

    def squared_row_norms(self, D: Tensor, rows: slice) -> Tensor:
        """Squared norms of the rows, (n_rows, n_outputs)."""
        return self.dense(D, rows).square().sum(-1)

    def sketch(
        self, D: Tensor, n_components: int, normal: Callable[..., Tensor]
    ) -> Tensor:
        """Products of each sample's rows, seen as one vector, with random ones.

        `normal` draws a tensor of the given shape.
        """
        flat = self.dense(D).flatten(1)
        return flat @ normal(flat.shape[1], n_components)

    def squared_columns(self, delta: Tensor) -> Tensor:
        """Squared norms (n_coef,) of the columns for derivatives (n_samples, width)."""
        total = delta.new_zeros(self.n_coef)
        for rows in row_blocks(len(delta), self.n_coef * delta.element_size()):
            total += self.dense(delta[rows, None], rows).square().sum((0, 1))
        return total

    def kronecker_factors(
        self, delta: Tensor, weight: Tensor
    ) -> tuple[Tensor, Tensor] | None:
        """Factors whose Kronecker product is nearly that of the columns with delta.

        Parameters
        ----------
        delta : Tensor (n_samples, width)
            Derivatives, times the roots of the weights.
        weight : Tensor (n_samples, 1)

        Returns
        -------
        tuple of Tensor (n_in, n_in) and (n_out, n_out), or None
            Of the inputs, with a constant last if there is a bias, and of delta. None
            for layers of another form.
        """
        return None


class Frozen(LayerDerivative):
    """A layer whose parameters do not change."""

    def __init__(self, layer: LayerDerivative):
        self.layer, self.width = layer, layer.width

    def push(self, tangent: Tensor | None, coef: Tensor | None) -> Tensor | None:
        return None if tangent is None else self.layer.push(tangent, None)

    def pull(self, D: Tensor, rows: slice = slice(None)) -> Tensor:
        return self.layer.pull(D, rows)

    def convert(self, samples: Conversion, parameters: Conversion) -> Frozen:
        return Frozen(self.layer.convert(samples, parameters))


class PartOfColumns(Columns):
    """A layer with some of its parameters, given by their ascending numbers."""

    def __init__(self, layer: Columns, index: Tensor):
        self.layer, self.index = layer, index.to(layer.inputs.device)
        self.inputs, self.width, self.n_coef = layer.inputs, layer.width, len(index)

    @property
    def dtype(self) -> torch.dtype:
        return self.layer.dtype

    @property
    def kind(self) -> tuple[Any, ...]:
        return *self.layer.kind, tuple(self.index.tolist())

    def push(self, tangent: Tensor | None, coef: Tensor | None) -> Tensor | None:
        if coef is not None:
            full = coef.new_zeros(self.layer.n_coef)
            coef = full.index_copy_(0, self.index, coef)
        return self.layer.push(tangent, coef)

    def pull(self, D: Tensor, rows: slice = slice(None)) -> Tensor:
        return self.layer.pull(D, rows)

    def convert(self, samples: Conversion, parameters: Conversion) -> PartOfColumns:
        converted = self.layer.convert(samples, parameters)
        assert isinstance(converted, Columns)
        return PartOfColumns(converted, self.index)

    def select(self, index: Tensor) -> LayerDerivative:
        return self.layer.select(self.index[index.to(self.index.device)])

    def dense(self, D: Tensor, rows: slice = slice(None)) -> Tensor:
        return self.layer.dense(D, rows)[..., self.index]

    def adjoint(self, delta: Tensor, out: Tensor) -> None:
        full = out.new_empty(self.layer.n_coef)
        self.layer.adjoint(delta, full)
        torch.index_select(full, 0, self.index, out=out)


class LinearDerivative(Columns):
    """A linear layer: its parameters' columns are outer products of D and its inputs.

    Parameters
    ----------
    inputs : Tensor (n_samples, width of the layer before)
    weight : Tensor (width, width of the layer before)
    bias : bool
        Whether there are columns of the bias.
    """

    def __init__(self, inputs: Tensor, weight: Tensor, bias: bool):
        self.inputs, self.weight, self.bias = inputs, weight, bias
        self.width = len(weight)
        self.n_coef = weight.numel() + (self.width if bias else 0)

    def push(self, tangent: Tensor | None, coef: Tensor | None) -> Tensor | None:
        if coef is None:
            return None if tangent is None else tangent @ self.weight.T
        size = self.weight.numel()
        out = self.inputs @ coef[:size].reshape(self.weight.shape).T
        if self.bias:
            out += coef[size:]
        return out if tangent is None else out.addmm_(tangent, self.weight.T)

    def pull(self, D: Tensor, rows: slice = slice(None)) -> Tensor:
        return D @ self.weight

    def convert(self, samples: Conversion, parameters: Conversion) -> LinearDerivative:
        return LinearDerivative(
            samples(self.inputs), parameters(self.weight), self.bias
        )

    def select(self, index: Tensor) -> LayerDerivative:
        size = self.weight.numel()
        if len(index) == size and (size == 0 or int(index[-1]) == size - 1):
            return LinearDerivative(self.inputs, self.weight, False)
        return super().select(index)

    def dense(self, D: Tensor, rows: slice = slice(None)) -> Tensor:
        outer = (D[:, :, :, None] * self.inputs[rows, None, None, :]).flatten(2)
        return torch.cat([outer, D], -1) if self.bias else outer

    def adjoint(self, delta: Tensor, out: Tensor) -> None:
        size = self.weight.numel()
        torch.mm(delta.T, self.inputs, out=out[:size].view(self.weight.shape))
        if self.bias:
            torch.sum(delta, 0, out=out[size:])

    def add_gram(
        self,
        kernel: Tensor,
        left: Tensor,
        other: LinearDerivative,
        right: Tensor,
        rows: slice,
    ) -> None:
        b, k, m, _ = kernel.shape
        inner = left.reshape(b * k, -1) @ right.reshape(m * k, -1).T
        # The kernel of outer products is the product of both kernels, so no row is
        # formed.
        outer = self._input_gram(other, rows)
        inner.view(b, k, m, k).mul_(outer[:, None, :, None])
        kernel += inner.view_as(kernel)

    def add_output_gram(
        self, kernel: Tensor, other: LinearDerivative, rows: slice
    ) -> None:
        # For D = I the second kernel is the identity, so only equal outputs have a
        # part.
        diagonal = torch.diagonal(kernel, dim1=1, dim2=3)
        diagonal += self._input_gram(other, rows)[:, :, None]

    def kronecker_factors(self, delta: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        inputs = self.inputs
        if self.bias:
            inputs = torch.cat([inputs, inputs.new_ones(len(inputs), 1)], 1)
        return inputs.T @ (weight * inputs), delta.T @ delta

    def _input_gram(self, other: LinearDerivative, rows: slice) -> Tensor:
        product = self.inputs[rows] @ other.inputs.T
        return product.add_(1.0) if self.bias else product

    def squared_row_norms(self, D: Tensor, rows: slice) -> Tensor:
        # The norm of an outer product is the product of the norms.
        size = self.inputs[rows].square().sum(1) + float(self.bias)
        return size[:, None] * D.square().sum(-1)

    def sketch(
        self, D: Tensor, n_components: int, normal: Callable[..., Tensor]
    ) -> Tensor:
        """The elementwise product of two small projections, as rows are outer products.

        No row is formed.
        """
        left = normal(self.inputs.shape[1], n_components)
        right = normal(D[0].numel(), n_components)
        inner = self.inputs @ left
        if self.bias:
            inner += normal(n_components)
        return inner * (D.flatten(1) @ right)


class NormDerivative(Columns):
    """Layer norm: ``h = gamma x_hat + beta`` with ``x_hat = (z - mean(z)) / sigma``.

    The derivatives with respect to z are ``(g - mean(g) - x_hat mean(g x_hat)) /
    sigma`` with ``g = gamma D``.

    Parameters
    ----------
    inputs : Tensor (n_samples, width)
        x_hat.
    inverse : Tensor (n_samples, 1)
        1 / sigma.
    gamma : Tensor (width,) or None
        Parameter, or None if there is none.
    shift : bool
        Whether there are columns of beta.
    """

    def __init__(
        self, inputs: Tensor, inverse: Tensor, gamma: Tensor | None, shift: bool
    ):
        self.inputs, self.inverse = inputs, inverse
        self.gamma, self.shift = gamma, shift
        self.width = inputs.shape[1]
        self.n_coef = self.width * (int(gamma is not None) + int(shift))

    @classmethod
    def at(
        cls, h: Tensor, eps: float, gamma: Tensor | None, shift: bool
    ) -> NormDerivative:
        """The derivatives at inputs h of the layer."""
        centered = h - h.mean(-1, keepdim=True)
        inverse = (centered.square().mean(-1, keepdim=True) + eps).rsqrt()
        return cls(centered * inverse, inverse, gamma, shift)

    def push(self, tangent: Tensor | None, coef: Tensor | None) -> Tensor | None:
        out = None if tangent is None else self._project(tangent, self.inputs)
        if out is not None:
            out *= self.inverse
            out = out if self.gamma is None else out.mul_(self.gamma)
        if coef is None:
            return out
        if self.gamma is not None:
            first = coef[: self.width]
            out = (
                self.inputs * first if out is None else out.addcmul_(self.inputs, first)
            )
        if self.shift:
            last = coef[-self.width :].expand_as(self.inputs)
            out = last.clone() if out is None else out.add_(last)
        return out

    def pull(self, D: Tensor, rows: slice = slice(None)) -> Tensor:
        g = D if self.gamma is None else D * self.gamma
        return self._project(g, self.inputs[rows, None]).mul_(self.inverse[rows, None])

    @staticmethod
    def _project(g: Tensor, inputs: Tensor) -> Tensor:
        """``g - mean(g) - x_hat mean(g x_hat)``, a symmetric map."""
        along = torch.linalg.vecdot(g, inputs)[..., None] / -inputs.shape[-1]
        return torch.addcmul(g, inputs, along).sub_(g.mean(-1, keepdim=True))

    def convert(self, samples: Conversion, parameters: Conversion) -> NormDerivative:
        gamma = None if self.gamma is None else parameters(self.gamma)
        return NormDerivative(
            samples(self.inputs), samples(self.inverse), gamma, self.shift
        )

    def dense(self, D: Tensor, rows: slice = slice(None)) -> Tensor:
        parts = [] if self.gamma is None else [D * self.inputs[rows, None]]
        return torch.cat([*parts, D] if self.shift else parts, -1)

    def adjoint(self, delta: Tensor, out: Tensor) -> None:
        if self.gamma is not None:
            torch.sum(delta * self.inputs, 0, out=out[: self.width])
        if self.shift:
            torch.sum(delta, 0, out=out[-self.width :])
