"""Small trees, from all of their comparisons at once."""

from collections.abc import Iterator, Sequence
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sklearn_pgb._budget import LOOKUP_BITS
from sklearn_pgb._models._leaves import LeafModel
from sklearn_pgb._models._tree_lookup import (
    Sums,
    TreeLookup,
    tree_owners,
    tree_values,
)
from sklearn_pgb._operators._blocks import row_blocks


class SmallTrees(TreeLookup):
    """Trees of scikit-learn's histogram boosting as lookup tables.

    Each node compares a feature with its threshold, which gives one bit. The bits of
    all nodes of a tree are the position of the leaf in a table. Descending the tree
    node by node is several times slower, because processors can't predict the branches.

    Histograms have at most 255 bins, so a value has less than 255 thresholds below it.
    Their number, its rank, is a byte that is compared instead of the value. Categories
    that a node sends to the left have the rank zero.

    Attributes
    ----------
    columns : ndarray (n_columns,)
        The features that the nodes compare.
    edges : list of ndarray
        Thresholds of each column in ascending order.
    positions : ndarray (LOOKUP_BITS, n_trees)
        Rows of the ranks that the nodes compare, from the last bit to the first: the
        ranks of all columns with missing values as the largest number, then those with
        missing values as zero, and then those of `splits`.
    limits : ndarray of uint8 (LOOKUP_BITS, n_trees, 1)
        Ranks up to the limit go left and set the bit.
    split_columns : ndarray (n_splits,)
        Features with categories that nodes split.
    splits : ndarray of uint8 (n_splits, 257)
        Ranks of their categories, and of missing values.
    tables : ndarray (n_trees, 2 ** LOOKUP_BITS)
        Leaf numbers.
    """

    def __init__(
        self,
        features: NDArray[np.intp],
        thresholds: NDArray[np.float64],
        missing: NDArray[np.bool_],
        to_right: NDArray[np.uint8],
        tables: NDArray[np.uint8],
    ):
        self.columns = np.unique(features)
        self.edges = []
        limits = np.zeros(features.shape, dtype=np.uint8)
        for column in self.columns:
            own = (features == column) & ~np.isnan(thresholds)
            edges, limits[own] = np.unique(thresholds[own], return_inverse=True)
            self.edges.append(edges)
        at = np.searchsorted(self.columns, features)
        positions = at + missing * len(self.columns)
        # Thresholds have no categories on the right. Several nodes may split alike.
        nodes = to_right.any(2)
        splits = np.column_stack([features[nodes], to_right[nodes]])
        splits, number = np.unique(splits, axis=0, return_inverse=True)
        self.split_columns, self.splits = splits[:, 0], splits[:, 1:].astype(np.uint8)
        positions[nodes] = 2 * len(self.columns) + number
        # The last bit comes first.
        self.positions, self.limits = positions[::-1], limits[::-1, :, None]
        self.tables = tables
        self._starts = tables.shape[1] * np.arange(len(tables))[:, None]

    @classmethod
    def of(cls, trees: Sequence[Any]) -> Self | None:
        """Read the nodes of each tree; None if one is too large."""
        features = np.zeros((LOOKUP_BITS, len(trees)), dtype=np.intp)
        # NaN if a tree has fewer nodes. A node that splits off missing values has inf.
        thresholds = np.full(features.shape, np.nan)
        missing = np.zeros(features.shape, dtype=bool)
        to_right = np.zeros((*features.shape, 257), dtype=np.uint8)
        tables = np.zeros((len(trees), 2**LOOKUP_BITS), dtype=np.uint8)
        for number, tree in enumerate(trees):
            nodes = tree.nodes
            is_leaf = nodes["is_leaf"].astype(bool)
            split = np.flatnonzero(~is_leaf)
            if len(split) > LOOKUP_BITS:
                return None
            own = slice(len(split)), number
            features[own] = nodes["feature_idx"][split]
            thresholds[own] = nodes["num_threshold"][split]
            missing[own] = nodes["missing_go_to_left"][split]
            bits = tree.raw_left_cat_bitsets.astype("<u4").view(np.uint8)
            lefts = np.unpackbits(bits, axis=1, bitorder="little")
            for k in np.flatnonzero(nodes["is_categorical"][split]):
                of_node = lefts[nodes["bitset_idx"][split[k]]]
                to_right[k, number] = 1 - np.append(of_node, missing[k, number])
                thresholds[k, number] = np.nan
            # Walk down for all values of the bits; a leaf is its own child.
            left, right = (
                np.where(is_leaf, np.arange(len(nodes)), nodes[side])
                for side in ("left", "right")
            )
            bit = np.where(is_leaf, 0, np.cumsum(~is_leaf) - 1)
            values = np.arange(2**LOOKUP_BITS)
            at = np.zeros_like(values)
            for _ in split:
                at = np.where(values >> bit[at] & 1, left[at], right[at])
            tables[number] = (np.cumsum(is_leaf) - 1)[at]
        return cls(features, thresholds, missing, to_right, tables)

    def leaves(self, X: NDArray[np.float64]) -> Tensor:
        result = np.empty((len(self.tables), len(X)), dtype=np.int32)
        for rows, cells in self._cells(X):
            result[:, rows] = self.tables.take(cells)
        return torch.from_numpy(result).T

    def sums(self, model: LeafModel) -> Sums:
        """The same tables with values in place of leaf numbers."""
        values = tree_values(model)
        if values.shape[1] > 1:
            return super().sums(model)
        starts = np.cumsum([0, *model.n_leaves])[:-1]
        tables = values[:, 0].take(self.tables + starts[:, None])
        bias = model.bias.numpy()
        outputs = np.arange(len(bias))[:, None] == tree_owners(model)
        selected = outputs.astype(np.float64)

        def total(X: NDArray[np.float64]) -> Tensor:
            result = np.empty((len(bias), len(X)))
            for rows, cells in self._cells(X):
                result[:, rows] = selected @ tables.take(cells)
            return torch.from_numpy(result.T + bias)

        return total

    def _cells(
        self, X: NDArray[np.float64]
    ) -> Iterator[tuple[slice, NDArray[np.intp]]]:
        """Positions in the tables (n_trees, n_rows), for blocks of samples."""
        n_trees, n_columns = len(self.tables), len(self.columns)
        # Larger blocks are out of the cache.
        size = 8 * X.itemsize * (n_trees + len(self.splits))
        for rows in row_blocks(len(X), size):
            columns = X[rows, self.columns].T
            ranks = np.empty((2, *columns.shape), dtype=np.uint8)
            for each, column, edges in zip(ranks[0], columns, self.edges, strict=True):
                each[:] = edges.searchsorted(column)
            ranks[1] = ranks[0]
            missing = np.isnan(columns)
            ranks[0][missing] = np.iinfo(np.uint8).max
            ranks[1][missing] = 0
            ranks = ranks.reshape(2 * n_columns, -1)
            if len(self.splits):
                categories = X[rows, self.split_columns].T
                last = self.splits.shape[1] - 1
                at = np.where(np.isnan(categories), last, categories).astype(np.intp)
                sides = np.take_along_axis(self.splits, at, axis=1)
                ranks = np.concatenate([ranks, sides])
            codes = np.zeros((n_trees, ranks.shape[1]), dtype=np.uint8)
            # From the last bit to the first. Additions of bytes are vectorized, and
            # shifts are not.
            for position, limit in zip(self.positions, self.limits, strict=True):
                codes += codes
                left = ranks.take(position, axis=0) <= limit
                codes += left.view(np.uint8)
            yield rows, codes + self._starts
