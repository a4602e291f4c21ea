"""Sums of trees as functions of their leaf values."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sklearn_pgb._models._network import Head, Network
from sklearn_pgb._operators._dense import KroneckerOperator
from sklearn_pgb._operators._leaves import LeafOperator
from sklearn_pgb._operators._operator import LinearOperator, row_blocks
from sklearn_pgb._operators._stacked import StackedOperator


class LeafModel(Network):
    """A sum of trees ``f(x) = b + sum_t scale_t v_(t, leaf_t(x))``.

    The inputs are the numbers of the leaves that a sample falls into. Theta holds the
    leaf values and then b, so ``f = J theta``. Thresholds are not parameters, because
    derivatives with respect to them are zero almost everywhere.

    Parameters
    ----------
    n_leaves : sequence of int
        Number of leaves of each tree.
    values : Tensor (total number of leaves,) or (total number of leaves, n_outputs)
        Leaf values, tree by tree. If 2-d, every tree adds to all outputs.
    bias : Tensor (n_outputs,)
    scale : Tensor (n_trees,)
    tree_outputs : Tensor of int (n_trees,) or None
        The output that each tree adds to; None if every tree adds to all outputs.
    """

    def __init__(
        self,
        n_leaves: Sequence[int],
        values: Tensor,
        bias: Tensor,
        scale: Tensor,
        tree_outputs: Tensor | None = None,
    ) -> None:
        self.n_leaves = list(n_leaves)
        self.values, self.bias, self.scale = values, bias, scale
        self.tree_outputs = tree_outputs

    @property
    def n_inputs(self) -> int:
        return len(self.n_leaves)

    @property
    def n_outputs(self) -> int:
        return len(self.bias)

    @property
    def n_params(self) -> int:
        return self.values.numel() + len(self.bias)

    @property
    def theta(self) -> Tensor:
        return torch.cat([self.values.reshape(-1), self.bias])

    @property
    def is_linear_in_theta(self) -> bool:
        """True, because ``f = J theta``."""
        return True

    def to(self, device: torch.device) -> LeafModel:
        outputs = None if self.tree_outputs is None else self.tree_outputs.to(device)
        values, bias = self.values.to(device), self.bias.to(device)
        return LeafModel(self.n_leaves, values, bias, self.scale.to(device), outputs)

    def at(self, theta: Tensor) -> LeafModel:
        values, bias = self._split(theta.detach().clone())
        return LeafModel(self.n_leaves, values, bias, self.scale, self.tree_outputs)

    def __call__(self, theta: Tensor, X: Tensor) -> Tensor:
        values, bias = self._split(theta)
        values = values.reshape(len(values), -1)
        starts = np.cumsum([0, *self.n_leaves])[:-1]
        offsets = torch.as_tensor(starts, device=X.device)
        # Leaf columns, gathered values and their products are in memory at once.
        size = 3 * len(starts) * values.shape[1] * values.dtype.itemsize
        parts = []
        for rows in row_blocks(len(X), size):
            columns = X[rows].long() + offsets
            terms = values[columns] * self.scale[:, None]
            if self.tree_outputs is None:
                parts.append(bias + terms.sum(1))
            else:
                start = bias.expand(len(columns), -1)
                parts.append(start.index_add(1, self.tree_outputs, terms[:, :, 0]))
        return torch.cat(parts)

    def layers(self, X: Tensor) -> list[Tensor]:
        return [X, self(self.theta, X)]

    def find_head(self, X: Tensor) -> Head:
        return Head(slice(self.values.numel(), self.n_params), self.theta)

    def jacobian(self, X: Tensor, *, without: slice | None = None) -> LinearOperator:
        """The indicators of the leaves, without forming the matrix."""
        k = self.n_outputs
        leaves = LeafOperator(X.int(), self.n_leaves, self.scale, self.tree_outputs, k)
        if without is not None:
            return leaves
        ones = KroneckerOperator(self.scale.new_ones(len(X), 1), k)
        return StackedOperator([leaves, ones], [1.0, 1.0])

    def _split(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        values, bias = theta.split([self.values.numel(), len(self.bias)])
        return values.reshape(self.values.shape), bias
