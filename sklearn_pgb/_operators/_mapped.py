"""Linear maps of the outputs of an operator."""

import torch
from torch import Tensor

from sklearn_pgb._operators._leaves import LeafOperator
from sklearn_pgb._operators._operator import LinearOperator
from sklearn_pgb._operators._stacked import StackedOperator


class MappedOperator(LinearOperator):
    """The rows of each sample times a matrix: (I (x) A) Phi.

    Parameters
    ----------
    operator : LinearOperator
        Phi.
    matrix : Tensor (n_outputs, outputs of the operator)
        A.
    """

    def __init__(self, operator: LinearOperator, matrix: Tensor):
        self.operator = operator
        self.matrix = matrix.to(operator.device, operator.dtype)
        self.n_samples, self.n_coef = operator.n_samples, operator.n_coef
        self.n_outputs = len(matrix)
        self.dtype, self.device = operator.dtype, operator.device

    def matvec(self, coef: Tensor) -> Tensor:
        return self.operator.matvec(coef) @ self.matrix.T

    def rmatvec(self, residual: Tensor) -> Tensor:
        return self.operator.rmatvec(residual @ self.matrix)

    def dense(self, rows: slice = slice(None)) -> Tensor:
        return self.matrix @ self.operator.dense(rows)

    def single(self) -> "MappedOperator":
        return MappedOperator(self.operator.single(), self.matrix)

    def rows(self, index: Tensor) -> "MappedOperator":
        return MappedOperator(self.operator.rows(index), self.matrix)

    def cross_gram(self, other: LinearOperator) -> Tensor:
        if not isinstance(other, MappedOperator):
            return super().cross_gram(other)
        same = other.operator is self.operator
        inner = (
            self.operator.gram() if same else self.operator.cross_gram(other.operator)
        )
        n, m = self.n_samples, other.n_samples
        inner = inner.reshape(n, -1, m, other.operator.n_outputs)
        kernel = torch.einsum("ab,nbmd,cd->namc", self.matrix, inner, other.matrix)
        return kernel.reshape(self.n_rows, other.n_rows)


def mapped(operator: LinearOperator, matrix: Tensor) -> LinearOperator:
    """An operator with its outputs times a matrix, in its own form if possible."""
    if len(matrix) == operator.n_outputs and torch.equal(
        matrix, torch.eye(len(matrix)).to(matrix)
    ):
        return operator
    if isinstance(operator, StackedOperator):
        parts = [mapped(part, matrix) for part in operator.operators]
        return StackedOperator(parts, operator.scales)
    # If outputs are only selected or scaled, trees stay trees, with their fast kernel.
    leaves = operator.mapped(matrix) if isinstance(operator, LeafOperator) else None
    return MappedOperator(operator, matrix) if leaves is None else leaves
