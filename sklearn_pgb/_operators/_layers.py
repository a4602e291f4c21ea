"""Derivatives of the layers of a chain on some samples."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Change = Callable[[Tensor], Tensor]


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
    def push(self, tangent: Tensor | None, coef: Tensor) -> Tensor | None:
        """Change of the outputs, (n_samples, width), if inputs and parameters change.

        `tangent` is the change of the inputs, which may be overwritten, and `coef` that
        of the parameters. None stands for no change.
        """

    @abstractmethod
    def pull(self, D: Tensor, rows: slice = slice(None)) -> Tensor:
        """Derivatives of the chain's outputs with respect to the layer's inputs."""

    @abstractmethod
    def convert(self, samples: Change, parameters: Change) -> LayerDerivative:
        """Apply `samples` to tensors with a sample axis, `parameters` to the others."""


class Slope(LayerDerivative):
    """An elementwise activation, given by its derivatives (n_samples, width)."""

    def __init__(self, slopes: Tensor):
        self.slopes, self.width = slopes, slopes.shape[1]

    def push(self, tangent: Tensor | None, coef: Tensor) -> Tensor | None:
        return None if tangent is None else tangent.mul_(self.slopes)

    def pull(self, D: Tensor, rows: slice = slice(None)) -> Tensor:
        return D * self.slopes[rows, None]

    def convert(self, samples: Change, parameters: Change) -> Slope:
        return Slope(samples(self.slopes))


class Columns(LayerDerivative):
    """A layer with parameters; the methods here form its dense rows.

    Attributes
    ----------
    inputs : Tensor (n_samples, ...)
        The values that the parameters multiply.
    """

    inputs: Tensor

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
        kernel.view(b * k, m * k).addmm_(flat, other.dense(right).reshape(m * k, -1).T)

    def add_output_gram(self, kernel: Tensor, other: Any, rows: slice) -> None:
        """Add the same for D = I, if the layer's outputs are those of the chain."""
        b, k, m, _ = kernel.shape
        eye = torch.eye(k, dtype=kernel.dtype, device=kernel.device)
        self.add_gram(kernel, eye.expand(b, k, k), other, eye.expand(m, k, k), rows)

    def row_norms(self, D: Tensor, rows: slice) -> Tensor:
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


class Linear(Columns):
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

    def push(self, tangent: Tensor | None, coef: Tensor) -> Tensor:
        size = self.weight.numel()
        out = self.inputs @ coef[:size].reshape(self.weight.shape).T
        if self.bias:
            out += coef[size:]
        return out if tangent is None else out.addmm_(tangent, self.weight.T)

    def pull(self, D: Tensor, rows: slice = slice(None)) -> Tensor:
        return D @ self.weight

    def convert(self, samples: Change, parameters: Change) -> Linear:
        return Linear(samples(self.inputs), parameters(self.weight), self.bias)

    def dense(self, D: Tensor, rows: slice = slice(None)) -> Tensor:
        outer = (D[:, :, :, None] * self.inputs[rows, None, None, :]).flatten(2)
        return torch.cat([outer, D], -1) if self.bias else outer

    def adjoint(self, delta: Tensor, out: Tensor) -> None:
        size = self.weight.numel()
        torch.mm(delta.T, self.inputs, out=out[:size].view(self.weight.shape))
        if self.bias:
            torch.sum(delta, 0, out=out[size:])

    def add_gram(
        self, kernel: Tensor, left: Tensor, other: Linear, right: Tensor, rows: slice
    ) -> None:
        b, k, m, _ = kernel.shape
        inner = left.reshape(b * k, -1) @ right.reshape(m * k, -1).T
        # The kernel of outer products is the product of both kernels, so no row is
        # formed.
        outer = self._input_gram(other, rows)
        inner.view(b, k, m, k).mul_(outer[:, None, :, None])
        kernel += inner.view_as(kernel)

    def add_output_gram(self, kernel: Tensor, other: Linear, rows: slice) -> None:
        # For D = I the second kernel is the identity, so only equal outputs have a
        # part.
        diagonal = torch.diagonal(kernel, dim1=1, dim2=3)
        diagonal += self._input_gram(other, rows)[:, :, None]

    def _input_gram(self, other: Linear, rows: slice) -> Tensor:
        product = self.inputs[rows] @ other.inputs.T
        return product.add_(1.0) if self.bias else product

    def row_norms(self, D: Tensor, rows: slice) -> Tensor:
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


class Norm(Columns):
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

    def push(self, tangent: Tensor | None, coef: Tensor) -> Tensor | None:
        out = None if tangent is None else self._project(tangent, self.inputs)
        if out is not None:
            out *= self.inverse
            out = out if self.gamma is None else out.mul_(self.gamma)
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

    def convert(self, samples: Change, parameters: Change) -> Norm:
        gamma = None if self.gamma is None else parameters(self.gamma)
        return Norm(samples(self.inputs), samples(self.inverse), gamma, self.shift)

    def dense(self, D: Tensor, rows: slice = slice(None)) -> Tensor:
        parts = [] if self.gamma is None else [D * self.inputs[rows, None]]
        return torch.cat([*parts, D] if self.shift else parts, -1)

    def adjoint(self, delta: Tensor, out: Tensor) -> None:
        if self.gamma is not None:
            torch.sum(delta * self.inputs, 0, out=out[: self.width])
        if self.shift:
            torch.sum(delta, 0, out=out[-self.width :])
