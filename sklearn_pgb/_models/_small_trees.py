"""Leaf numbers of small trees, from all of their comparisons at once."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from sklearn_pgb._budget import LOOKUP_BITS
from sklearn_pgb._operators._blocks import row_blocks


class SmallTrees:
    """Trees of scikit-learn's histogram boosting as lookup tables.

    Each node compares a feature with its threshold, which gives one bit. The bits of
    all nodes of a tree are the position of the leaf in a table. Descending the tree
    node by node is several times slower, because processors can't predict the branches.

    Attributes
    ----------
    features, thresholds : ndarray (LOOKUP_BITS, n_trees)
        Of the nodes with children. Values up to the threshold go left and set the bit.
    missing : ndarray of bool (LOOKUP_BITS, n_trees)
        Whether missing values go left.
    leaves : ndarray (n_trees, 2 ** LOOKUP_BITS)
        Leaf numbers.
    """

    def __init__(
        self,
        features: NDArray[np.intp],
        thresholds: NDArray[np.float64],
        missing: NDArray[np.bool_],
        leaves: NDArray[np.uint8],
    ):
        self.features, self.thresholds, self.missing = features, thresholds, missing
        self.leaves = leaves

    @classmethod
    def of(cls, trees: Sequence[NDArray[Any]]) -> Self | None:
        """Read the nodes of each tree; None if one is too large or has categories."""
        features = np.zeros((LOOKUP_BITS, len(trees)), dtype=np.intp)
        thresholds = np.full(features.shape, np.inf)
        missing = np.zeros(features.shape, dtype=bool)
        leaves = np.zeros((len(trees), 2**LOOKUP_BITS), dtype=np.uint8)
        for number, nodes in enumerate(trees):
            is_leaf = nodes["is_leaf"].astype(bool)
            split = np.flatnonzero(~is_leaf)
            if len(split) > LOOKUP_BITS or nodes["is_categorical"].any():
                return None
            own = slice(len(split)), number
            features[own] = nodes["feature_idx"][split]
            thresholds[own] = nodes["num_threshold"][split]
            missing[own] = nodes["missing_go_to_left"][split]
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
            leaves[number] = (np.cumsum(is_leaf) - 1)[at]
        return cls(features, thresholds, missing, leaves)

    def __call__(self, X: NDArray[np.float64]) -> NDArray[np.int32]:
        """Return the leaf numbers, (n_trees, n_samples)."""
        n_trees = len(self.leaves)
        result = np.empty((n_trees, len(X)), dtype=np.int32)
        starts = self.leaves.shape[1] * np.arange(n_trees)[:, None]
        # Values and positions are in memory at once.
        for rows in row_blocks(len(X), 2 * n_trees * X.itemsize):
            columns = np.ascontiguousarray(X[rows].T)
            has_missing = np.isnan(columns).any()
            codes = np.zeros((n_trees, columns.shape[1]), dtype=np.uint8)
            for bit, features in enumerate(self.features):
                values = columns[features]
                left = values <= self.thresholds[bit][:, None]
                if has_missing:
                    left |= np.isnan(values) & self.missing[bit][:, None]
                codes |= left.view(np.uint8) << np.uint8(bit)
            result[:, rows] = self.leaves.reshape(-1).take(codes + starts)
        return result
