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
    n_codes : int
        Number of values of the lower nodes' bits; one without lower nodes.
    tables : ndarray (n_trees, (UPPER_NODES + 1) * n_codes)
        Leaf numbers of exits and these bits; of the upper nodes' bits, of shape
        (n_trees, 2 ** UPPER_NODES), without lower nodes.
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
        positions[nodes] = 2 * len(self.columns) + number.reshape(-1)
        self.positions, self.limits = positions, limits[:, :, None]
        trees = np.arange(len(tables))[:, None]
        self.exits, self.n_codes = exits, tables.shape[2]
        self._exit_starts = exits.shape[1] * trees
        if self.n_codes == 1:
            # Without lower nodes, the exits are leaves.
            tables = np.take_along_axis(tables[:, :, 0], exits, axis=1)
        self.tables = tables.reshape(len(tables), -1)
        self._starts = self.tables.shape[1] * trees

    @classmethod
    def of(cls, trees: Sequence[Any]) -> Self | None:
        """Read the nodes of each tree; None if one is too large."""
        sizes = [len(tree.nodes) for tree in trees]
        n_trees, most = len(trees), max([UPPER_NODES, *(size // 2 for size in sizes)])
        if most > UPPER_NODES + LOWER_NODES:
            return None
        # Concatenating records would compare their fields, array by array.
        records = b"".join([tree.nodes.tobytes() for tree in trees])
        nodes = np.frombuffer(records, dtype=trees[0].nodes.dtype)
        roots = np.cumsum([0, *sizes])[:-1]
        owner = np.repeat(np.arange(n_trees), sizes)
        is_leaf = nodes["is_leaf"].astype(bool)
        # The inner nodes of each tree, after their parents, and their places.
        inner = np.flatnonzero(~is_leaf)
        inner = inner[np.lexsort((nodes["depth"][inner], owner[inner]))]
        tree = owner[inner]
        place = np.arange(len(inner)) - np.searchsorted(tree, tree)
        features = np.zeros((most, n_trees), dtype=np.intp)
        # NaN if a tree has fewer nodes. A node that splits off missing values has inf.
        thresholds = np.full(features.shape, np.nan)
        missing = np.zeros(features.shape, dtype=bool)
        to_right = np.zeros((*features.shape, 257), dtype=np.uint8)
        features[place, tree] = nodes["feature_idx"][inner]
        thresholds[place, tree] = nodes["num_threshold"][inner]
        missing[place, tree] = nodes["missing_go_to_left"][inner]
        for k in np.flatnonzero(nodes["is_categorical"][inner]):
            at = place[k], tree[k]
            bitset = trees[tree[k]].raw_left_cat_bitsets[nodes["bitset_idx"][inner[k]]]
            lefts = np.unpackbits(
                bitset.astype("<u4").view(np.uint8), bitorder="little"
            )
            to_right[at] = 1 - np.append(lefts, missing[at])
            thresholds[at] = np.nan
        split = np.full(features.shape, -1)
        split[place, tree] = inner
        children = [nodes[side] + roots[owner] for side in ("left", "right")]
        upper, lower = split[:UPPER_NODES], split[UPPER_NODES:]
        starts, exits = _exits(_descend(upper, children, roots[:, None]), roots)
        reached = _descend(lower, children, starts[:, :, None])
        # Leaves that come before each node.
        before = np.cumsum(is_leaf) - is_leaf
        tables = (before[reached] - before[roots, None, None]).astype(np.uint8)
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
            cells = self._bits(ranks, slice(UPPER_NODES))
            if self.n_codes > 1:
                exits = self.exits.take(cells + self._exit_starts)
                cells = exits * np.intp(self.n_codes)
                cells += self._bits(ranks, slice(UPPER_NODES, None))
            yield rows, cells + self._starts

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


def _exits(
    reached: NDArray[np.intp], roots: NDArray[np.intp]
) -> tuple[NDArray[np.intp], NDArray[np.uint8]]:
    """Number the nodes that are reached in each tree.

    The first result has the node of each number, (n_trees, UPPER_NODES + 1).
    """
    found, number = np.unique(reached, return_inverse=True)
    # The nodes of a tree follow its root.
    first = np.searchsorted(found, roots)
    owner = np.searchsorted(roots, found, side="right") - 1
    nodes = np.tile(roots[:, None], UPPER_NODES + 1)
    nodes[owner, np.arange(len(found)) - first[owner]] = found
    return nodes, (number.reshape(reached.shape) - first[:, None]).astype(np.uint8)


def _descend(
    split: NDArray[np.intp], children: Sequence[NDArray[np.intp]], starts: Any
) -> NDArray[np.intp]:
    """Nodes that are reached from `starts` for all values of bits, on the last axis.

    `split` holds the node of each bit and tree, and `children` the left and right child
    of each node.
    """
    values = np.arange(2 ** len(split))
    reached = starts + 0 * values
    for bit, nodes in enumerate(split):
        nodes = nodes.reshape(-1, *[1] * (reached.ndim - 1))
        left, right = (each[nodes] for each in children)
        chosen = np.where(values >> bit & 1, left, right)
        reached = np.where(reached == nodes, chosen, reached)
    return reached
