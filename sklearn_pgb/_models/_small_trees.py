"""Small trees, from all of their comparisons at once."""

from collections.abc import Iterator, Sequence
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sklearn_pgb._budget import LOWER_NODES, UPPER_NODES
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
    the upper nodes of a tree are a position in a table of exits, the leaves or lower
    nodes that are reached. The exit and the bits of all lower nodes are a position in
    a table of leaves. Descending the tree node by node is several times slower,
    because processors can't predict the branches.

    Histograms have at most 255 bins, so a value has less than 255 thresholds below it.
    Their number, its rank, is a byte that is compared instead of the value. Categories
    that a node sends to the left have the rank zero.

    Attributes
    ----------
    columns : ndarray (n_columns,)
        The features that the nodes compare.
    edges : list of ndarray
        Thresholds of each column in ascending order.
    positions : ndarray (n_nodes, n_trees)
        Rows of the ranks that the nodes compare, upper nodes first: the ranks of all
        columns with missing values as the largest number, then those with missing
        values as zero, and then those of `splits`.
    limits : ndarray of uint8 (n_nodes, n_trees, 1)
        Ranks up to the limit go left and set the bit.
    split_columns : ndarray (n_splits,)
        Features with categories that nodes split.
    splits : ndarray of uint8 (n_splits, 257)
        Ranks of their categories, and of missing values.
    exits : ndarray (n_trees, 2 ** UPPER_NODES)
        Numbers of exits.
    tables : ndarray (n_trees, UPPER_NODES + 1, 2 ** (n_nodes - UPPER_NODES))
        Leaf numbers.
    """

    def __init__(
        self,
        features: NDArray[np.intp],
        thresholds: NDArray[np.float64],
        missing: NDArray[np.bool_],
        to_right: NDArray[np.uint8],
        exits: NDArray[np.uint8],
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
        self.positions, self.limits = positions, limits[:, :, None]
        self.exits, self.tables = exits, tables
        trees = np.arange(len(tables))[:, None]
        self._exit_starts = exits.shape[1] * trees
        self._starts = tables.shape[1] * tables.shape[2] * trees

    @classmethod
    def of(cls, trees: Sequence[Any]) -> Self | None:
        """Read the nodes of each tree; None if one is too large."""
        counts = [len(tree.nodes) // 2 for tree in trees]
        most = max([UPPER_NODES, *counts])
        if most > UPPER_NODES + LOWER_NODES:
            return None
        features = np.zeros((most, len(trees)), dtype=np.intp)
        # NaN if a tree has fewer nodes. A node that splits off missing values has inf.
        thresholds = np.full(features.shape, np.nan)
        missing = np.zeros(features.shape, dtype=bool)
        to_right = np.zeros((*features.shape, 257), dtype=np.uint8)
        exits = np.zeros((len(trees), 2**UPPER_NODES), dtype=np.uint8)
        shape = len(trees), UPPER_NODES + 1, 2 ** (most - UPPER_NODES)
        tables = np.zeros(shape, dtype=np.uint8)
        for number, tree in enumerate(trees):
            nodes = tree.nodes
            is_leaf = nodes["is_leaf"].astype(bool)
            # Nodes come after their parents.
            split = np.flatnonzero(~is_leaf)
            split = split[np.argsort(nodes["depth"][split], kind="stable")]
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
            upper, lower = split[:UPPER_NODES], split[UPPER_NODES:]
            reached = _descend(nodes, upper, UPPER_NODES, np.intp(0))
            starts, exits[number] = np.unique(reached, return_inverse=True)
            reached = _descend(nodes, lower, most - UPPER_NODES, starts[:, None])
            tables[number, : len(starts)] = (np.cumsum(is_leaf) - 1)[reached]
        return cls(features, thresholds, missing, to_right, exits, tables)

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
        tables = values[:, 0].take(self.tables + starts[:, None, None])
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
            upper = self._bits(ranks, slice(UPPER_NODES))
            exits = self.exits.take(upper + self._exit_starts)
            lower = self._bits(ranks, slice(UPPER_NODES, None))
            cells = exits * np.intp(self.tables.shape[2])
            cells += lower
            cells += self._starts
            yield rows, cells

    def _bits(self, ranks: NDArray[np.uint8], nodes: slice) -> NDArray[np.uint8]:
        """The bits of nodes as numbers, (n_trees, n_rows)."""
        codes = np.zeros((len(self.tables), ranks.shape[1]), dtype=np.uint8)
        # From the last bit to the first. Additions of bytes are vectorized, and shifts
        # are not.
        each = zip(self.positions[nodes][::-1], self.limits[nodes][::-1], strict=True)
        for position, limit in each:
            codes += codes
            left = ranks.take(position, axis=0) <= limit
            codes += left.view(np.uint8)
        return codes


def _descend(nodes: Any, split: Any, n_bits: int, starts: Any) -> NDArray[np.intp]:
    """Nodes that are reached from others, for all values of the bits of `split`."""
    values = np.arange(2**n_bits)
    reached = starts + 0 * values
    for bit, node in enumerate(split):
        left, right = int(nodes["left"][node]), int(nodes["right"][node])
        chosen = np.where(values >> bit & 1, left, right)
        reached = np.where(reached == node, chosen, reached)
    return reached
