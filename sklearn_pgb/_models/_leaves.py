"""Sums of trees as functions of their leaf values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from sklearn_pgb._models._network import Head, Network
from sklearn_pgb._operators._blocks import row_blocks
from sklearn_pgb._operators._dense import KroneckerOperator
from sklearn_pgb._operators._leaves import LeafOperator, leaf_sums
from sklearn_pgb._operators._operator import LinearOperator
from sklearn_pgb._operators._stacked import StackedOperator


class LeafModel(Network):
    """A sum of trees ``f(x) = b + sum_t scale_t v_(t, leaf_t(x))``.

    The inputs are the numbers of the leaves that a sample falls into. Theta holds the
    leaf values, tree by tree, and then b, so ``f = J theta``. Thresholds are not
    parameters, because derivatives with respect to them are zero almost everywhere.

    Parameters
    ----------
    n_leaves : sequence of int
        Number of leaves of each tree.
    values : Tensor (n_leaves,) or (n_leaves, n_outputs)
        Leaf values of all trees; 2-d if every tree adds to all outputs.
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
        starts = np.cumsum([0, *self.n_leaves])[:-1]
        self._starts = torch.as_tensor(starts, device=values.device)

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
        outputs = None if self.n_outputs == 1 else self.tree_outputs
        if self.n_outputs > 1 and outputs is None:
            return bias + leaf_sums(values, X, self._starts, self.scale)
        # Leaf columns, gathered values and their products are in memory at once.
        size = 3 * len(self.n_leaves) * values.dtype.itemsize
        parts = []
        for rows in row_blocks(len(X), size):
            columns = X[rows].long() + self._starts
            if outputs is None:
                # A product adds faster than a sum over one axis.
                own = values.reshape(-1).take(columns) @ self.scale
                parts.append(bias + own[:, None])
            else:
                terms = values[columns] * self.scale
                own = bias.expand(len(columns), -1)
                parts.append(own.index_add(1, outputs, terms))
        return torch.cat(parts)

    def find_head(self, X: Tensor) -> Head:
        return Head(slice(self.values.numel(), self.n_params), self.theta)

    def jacobian(self, X: Tensor, *, without: slice | None = None) -> LinearOperator:
        k = self.n_outputs
        leaves = LeafOperator(X.int(), self.n_leaves, self.scale, self.tree_outputs, k)
        if without is not None:
            return leaves
        ones = KroneckerOperator(self.scale.new_ones(len(X), 1), k)
        return StackedOperator([leaves, ones], [1.0, 1.0])

    def tangent_model(self, weight: float, coefs: Tensor) -> Callable[[Tensor], Tensor]:
        model = self.tangent_leaves(weight, coefs)
        return partial(model, model.theta)

    def tangent_leaves(self, weight: float, coefs: Tensor) -> LeafModel:
        """The tangent model: the same trees with other leaf values."""
        pairs = [self._split(each) for each in coefs]
        values, bias = (torch.stack(parts, -1) for parts in zip(*pairs, strict=True))
        if len(coefs) == 1:
            values, bias = values[..., 0], bias[..., 0]
        else:
            # Each set moves one output.
            bias = bias.diagonal()
            if self.tree_outputs is None:
                values = values.diagonal(dim1=1, dim2=2)
            else:
                owners = self.tree_outputs.repeat_interleave(
                    torch.tensor(self.n_leaves)
                )
                values = values.gather(1, owners[:, None])[:, 0]
        values, bias = values + weight * self.values, bias + weight * self.bias
        return LeafModel(self.n_leaves, values, bias, self.scale, self.tree_outputs)

    def _split(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        values, bias = theta.split([self.values.numel(), len(self.bias)])
        return values.reshape(self.values.shape), bias
