"""Operators with stored features."""

import torch
from torch import Tensor

from sklearn_pgb._operators._gram import gram
from sklearn_pgb._operators._operator import LinearOperator


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
    """Phi = B (x) I: every output has separate coefficients on the features B."""

    def __init__(self, features: Tensor, n_outputs: int):
        self.features = features
        self.n_samples, self.n_features = features.shape
        self.n_outputs = n_outputs
        self.n_coef = self.n_features * n_outputs
        self.dtype, self.device = features.dtype, features.device

    def matvec(self, coef: Tensor) -> Tensor:
        coef = coef.reshape(self.n_features, self.n_outputs)
        # Here and in `rmatvec` the narrow factor is transposed to the left, because
        # products with narrow right factors take twice the time.
        return (coef.T @ self.features.T).T

    def rmatvec(self, residual: Tensor) -> Tensor:
        return (residual.T @ self.features).T.reshape(-1)

    def dense(self, rows: slice = slice(None)) -> Tensor:
        features = self.features[rows]
        n, p, k = len(features), self.n_features, self.n_outputs
        total = features.new_zeros(n, k, p, k)
        values = features[:, :, None].expand(n, p, k)
        torch.diagonal(total, dim1=1, dim2=3).copy_(values)
        return total.reshape(n, k, self.n_coef)

    def single(self) -> "KroneckerOperator":
        return KroneckerOperator(self.features.float(), self.n_outputs)

    @property
    def shared_features(self) -> Tensor:
        return self.features

    def one_output(self) -> "KroneckerOperator":
        return KroneckerOperator(self.features, 1)

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
        # With a weight per output, only the blocks of equal outputs are nonzero.
        for c in range(k):
            if root.ndim == 2:
                total[:, c, :, c] = gram(root[:, c, None] * self.features)
                continue
            for d in range(c + 1):
                weight = (root[:, :, c] * root[:, :, d]).sum(1)
                block = self.features.T @ (weight[:, None] * self.features)
                total[:, c, :, d] = block
                total[:, d, :, c] = block
        return total.reshape(self.n_coef, self.n_coef)

    def squared_row_norms(self) -> Tensor:
        norms = self.features.square().sum(1, keepdim=True)
        return norms.expand(self.n_samples, self.n_outputs).clone()
