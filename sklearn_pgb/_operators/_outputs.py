"""Operators of single outputs, and the coefficients that outputs share."""

import torch
from torch import Tensor

from sklearn_pgb._operators._blocked import BlockedOperator
from sklearn_pgb._operators._chain import ChainOperator
from sklearn_pgb._operators._dense import KroneckerOperator
from sklearn_pgb._operators._layers import LinearDerivative
from sklearn_pgb._operators._leaves import LeafOperator
from sklearn_pgb._operators._mapped import MappedOperator
from sklearn_pgb._operators._operator import LinearOperator
from sklearn_pgb._operators._repeated import RepeatedOperator
from sklearn_pgb._operators._stacked import StackedOperator


def shares_features(operator: LinearOperator) -> bool:
    """Whether all outputs have the same features, with coefficients of their own."""
    if isinstance(operator, BlockedOperator):
        return shares_features(operator.first)
    if isinstance(operator, StackedOperator):
        return all(map(shares_features, operator.operators))
    if isinstance(operator, LeafOperator):
        return operator.tree_outputs is None
    shared = isinstance(operator, KroneckerOperator | RepeatedOperator)
    return shared or operator.n_outputs == 1


def separates_outputs(operator: LinearOperator) -> bool:
    """Whether every coefficient belongs to one output."""
    if isinstance(operator, BlockedOperator):
        return separates_outputs(operator.first)
    if isinstance(operator, StackedOperator):
        return all(map(separates_outputs, operator.operators))
    kinds = LeafOperator | KroneckerOperator | RepeatedOperator
    return isinstance(operator, kinds) or operator.n_outputs == 1


def apply_sets(operator: LinearOperator, coefs: Tensor) -> Tensor:
    """Raw outputs of one set of coefficients, or of one set per output."""
    if len(coefs) == 1:
        return operator.matvec(coefs[0])
    columns = [operator.matvec(coef)[:, c] for c, coef in enumerate(coefs)]
    return torch.stack(columns, 1)


def single_output(operator: LinearOperator, output: int) -> LinearOperator:
    """The rows of one output; columns that are zero for it may be left out."""
    if operator.n_outputs == 1:
        return operator
    if isinstance(operator, BlockedOperator):
        create = operator.create
        return BlockedOperator(
            lambda rows: single_output(create(rows), output), operator.n_samples
        )
    if isinstance(operator, StackedOperator):
        parts = [single_output(part, output) for part in operator.operators]
        return StackedOperator(parts, operator.scales)
    if isinstance(operator, KroneckerOperator):
        return KroneckerOperator(operator.features, 1)
    if isinstance(operator, RepeatedOperator):
        return operator.operator
    if isinstance(operator, ChainOperator):
        *layers, head = operator.layers
        # Columns of the head that belong to other outputs are zero for this one.
        if isinstance(head, LinearDerivative):
            weight = head.weight[output : output + 1]
            return ChainOperator(
                [*layers, LinearDerivative(head.inputs, weight, head.bias)]
            )
    if isinstance(operator, LeafOperator):
        leaves, counts, scale = operator.leaves, operator.n_leaves, operator.scale
        # Trees of other outputs do not contribute.
        if operator.tree_outputs is not None:
            trees = torch.nonzero(operator.tree_outputs == output)[:, 0]
            leaves, scale = leaves[:, trees], scale[trees]
            counts = [counts[tree] for tree in trees.tolist()]
        return LeafOperator(leaves, counts, scale, None, 1)
    row = torch.zeros(1, operator.n_outputs, dtype=operator.dtype)
    row[0, output] = 1.0
    return MappedOperator(operator, row)
