"""The Jacobian of a chain of layers, by its structure."""

from collections.abc import Sequence

import torch
from torch import Tensor

from sklearn_pgb._operators._operator import LinearOperator, row_blocks


class ChainOperator(LinearOperator):
    """The Jacobian of a chain of linear layers and elementwise activations.

    Let A_l be the layers' inputs and D_l the derivatives of the outputs with respect to
    the layers' pre-activations. The row of sample i and output c contains
    D_l[i, c] A_l[i]^T for each weight matrix and D_l[i, c] for each bias. The kernel is
    computed without forming these rows::

        Phi Phi'^T = sum_l (A_l A_l'^T + 1) o (D_l D_l'^T)

    A product is a forward-mode sweep and an adjoint product a reverse-mode sweep, each
    with two matrix products per layer.

    Parameters
    ----------
    inputs : list of Tensor, each (n_samples, width of the layer before)
        Inputs A_l of the linear layers.
    slopes : list of Tensor, each (n_samples, width)
        Derivatives of the activations; one fewer than there are layers.
    weights : list of Tensor, each (width, width of the layer before)
        Weights of the linear layers.
    biases : list of bool
        Whether each layer has bias columns.
    """

    def __init__(
        self,
        inputs: Sequence[Tensor],
        slopes: Sequence[Tensor],
        weights: Sequence[Tensor],
        biases: Sequence[bool],
    ):
        self.inputs, self.slopes = list(inputs), list(slopes)
        self.weights, self.biases = list(weights), list(biases)
        self.n_samples = len(inputs[0])
        self.n_outputs = len(weights[-1])
        self.sizes = [
            size
            for weight, bias in zip(weights, biases, strict=True)
            for size in (weight.numel(), len(weight) if bias else 0)
        ]
        self.n_coef = sum(self.sizes)
        self.dtype, self.device = inputs[0].dtype, inputs[0].device

    def matvec(self, coef: Tensor) -> Tensor:
        parts = coef.split(self.sizes)
        tangent: Tensor | None = None
        for layer, (A, W) in enumerate(zip(self.inputs, self.weights, strict=True)):
            dW = parts[2 * layer].reshape(W.shape)
            out = A @ dW.T
            if self.biases[layer]:
                out += parts[2 * layer + 1]
            if tangent is not None:
                out.addmm_(tangent, W.T)
            if layer < len(self.slopes):
                out *= self.slopes[layer]
            tangent = out
        assert tangent is not None
        return tangent

    def rmatvec(self, residual: Tensor) -> Tensor:
        result = self._empty(self.n_coef)
        parts = result.split(self.sizes)
        delta = residual
        for layer in reversed(range(len(self.weights))):
            W = self.weights[layer]
            torch.mm(delta.T, self.inputs[layer], out=parts[2 * layer].view(W.shape))
            if self.biases[layer]:
                torch.sum(delta, 0, out=parts[2 * layer + 1])
            if layer:
                delta = (delta @ W).mul_(self.slopes[layer - 1])
        return result

    def derivatives(self, rows: slice = slice(None)) -> list[Tensor]:
        """D_l of the given samples, each (n_rows, n_outputs, width)."""
        n = len(self.inputs[0][rows])
        k = self.n_outputs
        eye = torch.eye(k, dtype=self.dtype, device=self.device)
        result = [eye.expand(n, k, k)]
        for layer in reversed(range(len(self.slopes))):
            slope = self.slopes[layer][rows, None, :]
            last = result[0]
            W = self.weights[layer + 1]
            result.insert(0, (W if layer == len(self.slopes) - 1 else last @ W) * slope)
        return result

    def dense(self, rows: slice = slice(None)) -> Tensor:
        n = len(self.inputs[0][rows])
        parts = []
        for A, D, bias in zip(
            self.inputs, self.derivatives(rows), self.biases, strict=True
        ):
            outer = D[:, :, :, None] * A[rows, None, None, :]
            parts.append(outer.reshape(n, self.n_outputs, -1))
            if bias:
                parts.append(D)
        return torch.cat(parts, -1)

    def single(self) -> "ChainOperator":
        return ChainOperator(
            [A.float() for A in self.inputs],
            [slope.float() for slope in self.slopes],
            [W.float() for W in self.weights],
            self.biases,
        )

    def rows(self, index: Tensor) -> "ChainOperator":
        return ChainOperator(
            [A[index] for A in self.inputs],
            [slope[index] for slope in self.slopes],
            self.weights,
            self.biases,
        )

    def cross_gram(self, other: LinearOperator) -> Tensor:
        if not isinstance(other, ChainOperator) or other.sizes != self.sizes:
            return super().cross_gram(other)
        n, m, k = self.n_samples, other.n_samples, self.n_outputs
        right = other.derivatives()
        kernel = self._empty(n, k, m, k)
        for rows in row_blocks(n, k * m * k * self.dtype.itemsize):
            # The Gram matrix in one block needs the derivatives only once.
            left = right if other is self and rows.stop - rows.start == n else None
            self._add_gram(
                kernel[rows], left or self.derivatives(rows), right, other, rows
            )
        return kernel.reshape(n * k, m * k)

    def _add_gram(
        self,
        kernel: Tensor,
        left: list[Tensor],
        right: list[Tensor],
        other: "ChainOperator",
        rows: slice,
    ) -> None:
        """Compute the kernel of the given samples, (n_rows, k, m, k), by layers."""
        b, k, m, _ = kernel.shape
        # The head's derivatives are the identity, so its term is a Kronecker product.
        head = self._input_gram(other, len(self.weights) - 1, rows)
        if k == 1:
            kernel.copy_(head.reshape(b, 1, m, 1))
        else:
            kernel.zero_()
            torch.diagonal(kernel, dim1=1, dim2=3).copy_(
                head[:, :, None].expand(b, m, k)
            )
        flat = kernel.view(b * k, m * k)
        for layer in range(len(self.slopes)):
            inner = left[layer].reshape(b * k, -1) @ right[layer].reshape(m * k, -1).T
            outer = self._input_gram(other, layer, rows)
            inner.view(b, k, m, k).mul_(outer[:, None, :, None])
            flat += inner

    def _input_gram(self, other: "ChainOperator", layer: int, rows: slice) -> Tensor:
        product = self.inputs[layer][rows] @ other.inputs[layer].T
        return product.add_(1.0) if self.biases[layer] else product

    def sketch(self, n_components: int, generator: torch.Generator) -> Tensor:
        """Sum of random features of the layers.

        The gradient of a linear layer is an outer product, so its sketch is the
        elementwise product of two small projections and no row of Phi is formed.
        """
        total = self._empty(self.n_samples, n_components).zero_()
        for A, D, bias in zip(
            self.inputs, self.derivatives(), self.biases, strict=True
        ):
            left = self._normal(generator, A.shape[1], n_components)
            right = self._normal(generator, D[0].numel(), n_components)
            inner = A @ left
            if bias:
                inner += self._normal(generator, n_components)
            total += inner * (D.flatten(1) @ right)
        return total / n_components**0.5

    def row_norms(self) -> Tensor:
        total = self._empty(self.n_samples, self.n_outputs)
        size = self.n_outputs * max(len(W) for W in self.weights) * self.dtype.itemsize
        for rows in row_blocks(self.n_samples, size):
            total[rows] = sum(
                (A[rows].square().sum(1) + float(bias))[:, None] * D.square().sum(-1)
                for A, D, bias in zip(
                    self.inputs, self.derivatives(rows), self.biases, strict=True
                )
            )
        return total
