"""Linear operators: basis matrices with products, adjoints and kernels.

Conventions
-----------
An operator represents a matrix Phi with ``n_samples * n_outputs`` rows and ``n_coef``
columns; row ``(i, c)`` has the index ``i * n_outputs + c``. Coefficients are 1-d
``(n_coef,)``; raw outputs and residuals are 2-d ``(n_samples, n_outputs)``. Results
have the dtype and device of the operator's data.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from sklearn_pgb._derivatives import Derivatives

# Memory of one block of dense rows, of which a few exist at a time. It is large enough
# for efficient matrix products, and small compared to usual values of `max_memory`.
BLOCK_BYTES = 2**23


def row_blocks(n_samples: int, bytes_per_sample: int) -> Iterator[slice]:
    """Split the samples into slices with at most BLOCK_BYTES of dense rows each."""
    size = max(1, BLOCK_BYTES // max(1, bytes_per_sample))
    for start in range(0, n_samples, size):
        yield slice(start, min(start + size, n_samples))


def apply_root(root: Tensor, rows: Tensor) -> Tensor:
    """Multiply each sample's (n_outputs, p) rows by S_i, diagonal if root is 2-d."""
    if root.ndim == 2:
        return root[:, :, None] * rows
    return torch.bmm(root, rows)


class LinearOperator(ABC):
    """A basis matrix Phi that can be applied without being formed.

    Subclasses implement product, adjoint, dense rows and selection of samples. Other
    methods use blocks of dense rows in bounded memory, and subclasses override them if
    their structure allows something faster.
    """

    n_samples: int
    n_outputs: int
    n_coef: int
    dtype: torch.dtype
    device: torch.device

    @abstractmethod
    def matvec(self, coef: Tensor) -> Tensor:
        """Phi coef, of shape (n_samples, n_outputs)."""

    @abstractmethod
    def rmatvec(self, residual: Tensor) -> Tensor:
        """Phi^T residual, of shape (n_coef,)."""

    @abstractmethod
    def dense(self, rows: slice = slice(None)) -> Tensor:
        """The rows of the given samples, of shape (n_rows, n_outputs, n_coef)."""

    @abstractmethod
    def rows(self, index: Tensor) -> "LinearOperator":
        """The operator on the samples in `index`."""

    def single(self) -> "LinearOperator":
        """The operator in float32, or itself if it does not support float32."""
        return self

    @property
    def n_rows(self) -> int:
        """Number of matrix rows, n_samples * n_outputs."""
        return self.n_samples * self.n_outputs

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """Pairs of a slice of samples and their dense rows."""
        size = self.n_outputs * self.n_coef * self.dtype.itemsize
        for rows in row_blocks(self.n_samples, size):
            yield rows, self.dense(rows)

    def gram(self) -> Tensor:
        """Phi Phi^T, of shape (n_rows, n_rows)."""
        return self.cross_gram(self)

    def cross_gram(self, other: "LinearOperator") -> Tensor:
        """Phi Phi'^T, of shape (n_rows, other.n_rows)."""
        kernel = self._empty(self.n_rows, other.n_rows)
        k, other_k = self.n_outputs, other.n_outputs
        for rows, left in self.blocks():
            for columns, right in other.blocks():
                kernel[
                    rows.start * k : rows.stop * k,
                    columns.start * other_k : columns.stop * other_k,
                ] = left.flatten(0, 1) @ right.flatten(0, 1).T
        return kernel

    def normal(self, root: Tensor | None = None) -> Tensor:
        """Phi^T S^T S Phi; `root` holds S as (n, k) diagonals or (n, k, k) blocks."""
        total = self._empty(self.n_coef, self.n_coef).zero_()
        for rows, dense in self.blocks():
            scaled = dense if root is None else apply_root(root[rows], dense)
            flat = scaled.flatten(0, 1)
            total.addmm_(flat.T, flat)
        return total

    def row_norms(self) -> Tensor:
        """Squared norms of the rows, of shape (n_samples, n_outputs)."""
        return torch.cat([dense.square().sum(-1) for _, dense in self.blocks()])

    def sketch(self, n_components: int, generator: torch.Generator) -> Tensor:
        """Random features (n_samples, n_components) that preserve inner products.

        The expected inner product of two samples is ``sum_c <Phi[i, c], Phi[j, c]>``.
        Each column is a product with a random direction, summed over the outputs with
        random signs.
        """
        columns = []
        for _ in range(n_components):
            direction = self._normal(generator, self.n_coef)
            signs = self._normal(generator, self.n_outputs).sign()
            columns.append(self.matvec(direction) @ signs)
        return torch.stack(columns, 1) / n_components**0.5

    def _normal(self, generator: torch.Generator, *shape: int) -> Tensor:
        values = torch.randn(shape, generator=generator, dtype=torch.float64)
        return values.to(self.device, self.dtype)

    def _empty(self, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=self.dtype, device=self.device)


class DenseOperator(LinearOperator):
    """A stored matrix of shape (n_samples, n_outputs, n_coef)."""

    def __init__(self, matrix: Tensor):
        self.matrix = matrix
        self.n_samples, self.n_outputs, self.n_coef = matrix.shape
        self.dtype, self.device = matrix.dtype, matrix.device

    def matvec(self, coef: Tensor) -> Tensor:
        return self.matrix @ coef

    def rmatvec(self, residual: Tensor) -> Tensor:
        return self.matrix.flatten(0, 1).T @ residual.reshape(-1)

    def dense(self, rows: slice = slice(None)) -> Tensor:
        return self.matrix[rows]

    def single(self) -> "DenseOperator":
        return DenseOperator(self.matrix.float())

    def rows(self, index: Tensor) -> "DenseOperator":
        return DenseOperator(self.matrix[index])


class KroneckerOperator(LinearOperator):
    """Phi = B (x) I: every output has separate coefficients on the features B.

    The coefficient of feature j for output c has the index ``j * n_outputs + c``.
    """

    def __init__(self, features: Tensor, n_outputs: int):
        self.features = features
        self.n_samples, self.n_features = features.shape
        self.n_outputs = n_outputs
        self.n_coef = self.n_features * n_outputs
        self.dtype, self.device = features.dtype, features.device

    # Both products use transposes, because narrow right factors take twice the time.

    def matvec(self, coef: Tensor) -> Tensor:
        coef = coef.reshape(self.n_features, self.n_outputs)
        return (coef.T @ self.features.T).T

    def rmatvec(self, residual: Tensor) -> Tensor:
        return (residual.T @ self.features).T.reshape(-1)

    def dense(self, rows: slice = slice(None)) -> Tensor:
        return self._expand(self.features[rows])

    def single(self) -> "KroneckerOperator":
        return KroneckerOperator(self.features.float(), self.n_outputs)

    def rows(self, index: Tensor) -> "KroneckerOperator":
        return KroneckerOperator(self.features[index], self.n_outputs)

    def cross_gram(self, other: LinearOperator) -> Tensor:
        if not isinstance(other, KroneckerOperator):
            return super().cross_gram(other)
        identity = torch.eye(self.n_outputs, dtype=self.dtype, device=self.device)
        return torch.kron(self.features @ other.features.T, identity)

    def normal(self, root: Tensor | None = None) -> Tensor:
        n, p, k = self.n_samples, self.n_features, self.n_outputs
        if root is None:
            root = torch.ones(n, k, dtype=self.dtype, device=self.device)
        total = self._empty(p, k, p, k).zero_()
        weighted = torch.empty_like(self.features)
        # If S is diagonal, only the blocks of equal outputs are nonzero.
        for c in range(k):
            for d in [c] if root.ndim == 2 else range(c + 1):
                weight = (
                    root[:, c].square()
                    if root.ndim == 2
                    else (root[:, :, c] * root[:, :, d]).sum(1)
                )
                torch.mul(weight[:, None], self.features, out=weighted)
                block = self.features.T @ weighted
                total[:, c, :, d] = block
                total[:, d, :, c] = block
        return total.reshape(self.n_coef, self.n_coef)

    def row_norms(self) -> Tensor:
        norms = self.features.square().sum(1, keepdim=True)
        return norms.expand(self.n_samples, self.n_outputs).clone()

    def _expand(self, features: Tensor) -> Tensor:
        n, p, k = len(features), self.n_features, self.n_outputs
        rows = features.new_zeros(n, k, p, k)
        torch.diagonal(rows, dim1=1, dim2=3).copy_(features[:, :, None].expand(n, p, k))
        return rows.reshape(n, k, self.n_coef)


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


class FunctionOperator(LinearOperator):
    """The Jacobian of any function of parameters, by automatic differentiation.

    Parameters
    ----------
    function : callable (theta, X) -> (n_samples, n_outputs)
        Its outputs for a sample do not depend on other samples.
    theta : Tensor (n_params,)
        Parameters at which the function is differentiated.
    X : Tensor (n_samples, ...)
    columns : Tensor of indices into theta
        Parameters to differentiate with respect to, one for each column.
    """

    def __init__(
        self,
        function: Callable[[Tensor, Tensor], Tensor],
        theta: Tensor,
        X: Tensor,
        columns: Tensor,
    ):
        self.function, self.theta, self.X, self.columns = function, theta, X, columns
        self.n_samples = len(X)
        self.n_outputs = function(theta, X[:1]).shape[1]
        self.n_coef = len(columns)
        self.dtype, self.device = theta.dtype, theta.device
        self._derivatives = Derivatives(function, theta, X)
        self._matrix: Tensor | None = None

    def matvec(self, coef: Tensor) -> Tensor:
        if not self._derivatives.transposes() and self._is_small():
            # Store the matrix: a loop over samples is too slow for each product.
            if self._matrix is None:
                self._matrix = self.dense()
            return self._matrix @ coef
        tangent = torch.zeros_like(self.theta)
        tangent[self.columns] = coef
        push = self._derivatives.push
        return torch.cat(
            [push(self.X[rows])(tangent) for rows in self._sample_blocks()]
        )

    def rmatvec(self, residual: Tensor) -> Tensor:
        total = torch.zeros_like(self.theta)
        for rows in self._sample_blocks():
            total += self._derivatives.pull(self.X[rows], residual[rows])
        return total[self.columns]

    def dense(self, rows: slice = slice(None)) -> Tensor:
        return self._derivatives.jacobians(self.X[rows])[:, :, self.columns]

    def rows(self, index: Tensor) -> "FunctionOperator":
        part = FunctionOperator(self.function, self.theta, self.X[index], self.columns)
        # Reuse the results of the tests for supported transforms.
        part._derivatives = self._derivatives
        return part

    def _is_small(self) -> bool:
        size = self.n_rows * self.n_coef * self.theta.element_size()
        return size <= BLOCK_BYTES

    def _sample_blocks(self) -> Iterator[slice]:
        # The memory of a module's intermediate results is unknown. 64 times its input
        # is a generous guess that keeps convolutional networks within the block size.
        size = 64 * max(1, self.X[0].numel()) * self.X.element_size()
        return row_blocks(self.n_samples, size)


class StackedOperator(LinearOperator):
    """Concatenated operators, each times its scale: [s_1 Phi_1, s_2 Phi_2, ...]."""

    def __init__(self, operators: Sequence[LinearOperator], scales: Sequence[float]):
        self.operators, self.scales = list(operators), list(scales)
        first = operators[0]
        self.n_samples, self.n_outputs = first.n_samples, first.n_outputs
        self.sizes = [operator.n_coef for operator in operators]
        self.n_coef = sum(self.sizes)
        self.dtype, self.device = first.dtype, first.device

    def matvec(self, coef: Tensor) -> Tensor:
        total = torch.zeros(
            self.n_samples, self.n_outputs, dtype=self.dtype, device=self.device
        )
        for part, operator, scale in zip(
            coef.split(self.sizes), self.operators, self.scales, strict=True
        ):
            total.add_(operator.matvec(part), alpha=scale)
        return total

    def rmatvec(self, residual: Tensor) -> Tensor:
        return torch.cat(
            [
                scale * operator.rmatvec(residual)
                for operator, scale in zip(self.operators, self.scales, strict=True)
            ]
        )

    def dense(self, rows: slice = slice(None)) -> Tensor:
        return torch.cat(
            [
                operator.dense(rows).mul(scale)
                for operator, scale in zip(self.operators, self.scales, strict=True)
            ],
            -1,
        )

    def single(self) -> LinearOperator:
        parts = [operator.single() for operator in self.operators]
        # If one of the operators does not support float32, all stay in float64.
        if len({part.dtype for part in parts}) > 1:
            return self
        return StackedOperator(parts, self.scales)

    def rows(self, index: Tensor) -> "StackedOperator":
        return StackedOperator([op.rows(index) for op in self.operators], self.scales)

    def cross_gram(self, other: LinearOperator) -> Tensor:
        if not isinstance(other, StackedOperator) or other.sizes != self.sizes:
            return super().cross_gram(other)
        kernel = self._empty(self.n_rows, other.n_rows).zero_()
        for left, right, s, t in zip(
            self.operators, other.operators, self.scales, other.scales, strict=True
        ):
            part = left.gram() if self is other else left.cross_gram(right)
            kernel.add_(part, alpha=s * t)
        return kernel

    def row_norms(self) -> Tensor:
        norms = torch.stack([operator.row_norms() for operator in self.operators])
        squares = torch.tensor(self.scales, dtype=self.dtype, device=self.device)
        return torch.tensordot(squares.square(), norms, 1)
