"""Operators of one output, repeated for several."""

import torch
from torch import Tensor

from sklearn_pgb._operators._operator import LinearOperator


class RepeatedOperator(LinearOperator):
    """Phi = B (x) I for an operator B of one output.

    Every output has coefficients of its own: coefficient ``j * n_outputs + c`` belongs
    to column j and output c.
    """

    def __init__(self, operator: LinearOperator, n_outputs: int):
        self.operator, self.n_outputs = operator, n_outputs
        self.n_samples = operator.n_samples
        self.n_coef = operator.n_coef * n_outputs
        self.dtype, self.device = operator.dtype, operator.device

    def matvec(self, coef: Tensor) -> Tensor:
        # One product with the dense rows is cheaper than one of B for each output.
        columns = coef.reshape(-1, self.n_outputs)
        return torch.cat([B[:, 0] @ columns for _, B in self.operator.blocks()])

    def rmatvec(self, residual: Tensor) -> Tensor:
        total = self._empty(self.operator.n_coef, self.n_outputs).zero_()
        for rows, B in self.operator.blocks():
            total.addmm_(B[:, 0].T, residual[rows])
        return total.reshape(-1)

    def dense(self, rows: slice = slice(None)) -> Tensor:
        features = self.operator.dense(rows)[:, 0]
        eye = torch.eye(self.n_outputs, dtype=self.dtype, device=self.device)
        total = features[:, None, :, None] * eye[None, :, None, :]
        return total.reshape(len(features), self.n_outputs, self.n_coef)

    def single(self) -> "RepeatedOperator":
        return RepeatedOperator(self.operator.single(), self.n_outputs)

    def rows(self, index: Tensor) -> "RepeatedOperator":
        return RepeatedOperator(self.operator.rows(index), self.n_outputs)

    def cross_gram(self, other: LinearOperator) -> Tensor:
        if not isinstance(other, RepeatedOperator):
            return super().cross_gram(other)
        kernel = self.operator.cross_gram(other.operator)
        eye = torch.eye(self.n_outputs, dtype=self.dtype, device=self.device)
        return torch.kron(kernel, eye)

    def squared_row_norms(self) -> Tensor:
        return self.operator.squared_row_norms().expand(-1, self.n_outputs).clone()
