"""Operators side by side."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from sklearn_pgb._operators._dense import KroneckerOperator
from sklearn_pgb._operators._layers import LayerPart
from sklearn_pgb._operators._leaves import LeafOperator
from sklearn_pgb._operators._operator import LinearOperator


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

    def layer_parts(self, residual: Tensor) -> list[LayerPart] | None:
        result = []
        for operator, scale in zip(self.operators, self.scales, strict=True):
            parts = operator.layer_parts(residual)
            if parts is None:
                return None
            result += [replace(part, scale=scale * part.scale) for part in parts]
        return result

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

    def normal(self, root: Tensor | None = None) -> Tensor:
        # Counting pairs of leaves of all trees is faster than blocks of dense rows.
        leaves = as_leaves(self)
        return super().normal(root) if leaves is None else leaves.normal(root)

    def squared_row_norms(self) -> Tensor:
        norms = torch.stack(
            [operator.squared_row_norms() for operator in self.operators]
        )
        scales = torch.tensor(self.scales, dtype=self.dtype, device=self.device)
        return torch.tensordot(scales.square(), norms, 1)


def as_leaves(operator: LinearOperator) -> LeafOperator | None:
    """Join all trees in one operator; None if not all are trees of one kind."""
    if isinstance(operator, LeafOperator):
        return operator
    if not isinstance(operator, StackedOperator):
        return None
    parts = [as_leaves(part) for part in operator.operators]
    leaves = [part for part in parts if part is not None]
    if (
        len(leaves) < len(parts)
        or len({part.tree_outputs is None for part in leaves}) > 1
    ):
        return None
    return LeafOperator.side_by_side(leaves, operator.scales)


def sparse_rows(operator: LinearOperator) -> sp.csr_array | None:
    """The matrix of trees and their biases; None for other operators."""
    if isinstance(operator, LeafOperator):
        return operator.sparse()
    if isinstance(operator, KroneckerOperator) and operator.n_features == 1:
        ones, eye = operator.features.cpu().numpy(), np.eye(operator.n_outputs)
        return sp.csr_array(sp.kron(ones, eye))
    if not isinstance(operator, StackedOperator):
        return None
    parts = [part for part in map(sparse_rows, operator.operators) if part is not None]
    if len(parts) < len(operator.operators):
        return None
    scaled = [part * s for part, s in zip(parts, operator.scales, strict=True)]
    return sp.csr_array(sp.hstack(scaled, "csr"))
