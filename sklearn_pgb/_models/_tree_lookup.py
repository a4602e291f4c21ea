"""Leaf numbers of samples, and sums of the values of their leaves."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sklearn_pgb._models._leaves import LeafModel
from sklearn_pgb._models._opened import is_plain
from sklearn_pgb._sklearn import (
    TreePredictor,
    _openmp_effective_n_threads,
    predict_stages,
)
from sklearn_pgb._threads import tree_threads

# Functions of samples.
Sums = Callable[[Any], Tensor]
Convert = Callable[[NDArray[np.float64]], NDArray[Any]]

# The largest number in single precision, to which forests convert samples.
SINGLE_MAX = float(np.finfo(np.float32).max)


class TreeLookup(ABC):
    """Trees that find the leaves of samples."""

    @abstractmethod
    def leaves(self, X: Any) -> Tensor:
        """Return the leaf numbers of samples, (n_samples, n_trees)."""

    def sums(self, model: LeafModel) -> Sums:
        """The model as a function of samples instead of leaf numbers."""
        theta = model.theta
        return lambda X: model(theta, self.leaves(X))


@dataclass(frozen=True, eq=False)
class TreeInputs:
    """A function of samples that returns leaf numbers, used as `OpenNetwork.encode`.

    Attributes
    ----------
    lookup : TreeLookup
    check : callable
        Checks and converts samples as the estimator's `predict` does.
    estimator : estimator
    convert : callable or None
        Converts arrays that need no check. None if all arrays need it.
    limit : float or None
        Samples with larger, infinite or missing values need the check. None if all
        values are allowed.
    """

    lookup: TreeLookup
    check: Callable[[Any], Any]
    estimator: Any
    convert: Convert | None
    limit: float | None

    def __call__(self, X: Any) -> Tensor:
        """Return the leaf numbers."""
        return self.lookup.leaves(self.matrix(X))

    def matrix(self, X: Any) -> Any:
        """Return the samples as `lookup` takes them."""
        if self.convert and is_plain(X, self.estimator, self.limit):
            return self.convert(X)
        return self.check(X)


def as_single(X: NDArray[np.float64]) -> NDArray[np.float32]:
    """Convert samples to single precision, as forests do."""
    return np.ascontiguousarray(X, dtype=np.float32)


class LeafLookup:
    """Leaf numbers of nodes; `masks` tell for each tree which nodes are leaves."""

    def __init__(self, masks: Sequence[NDArray[np.bool_]]):
        self.is_leaf = np.concatenate(masks)
        self.n_leaves = [int(mask.sum()) for mask in masks]
        self.starts = np.cumsum([0, *(len(mask) for mask in masks)])[:-1]
        numbers = [np.cumsum(mask) - 1 for mask in masks]
        self._numbers = np.concatenate(numbers).astype(np.int32)

    def leaves(self, nodes: Any) -> Tensor:
        """Leaf numbers of samples, from their nodes (n_samples, n_trees)."""
        positions = np.asarray(nodes).astype(np.intp) + self.starts
        return torch.from_numpy(self._numbers.take(positions))


class NodeTrees(TreeLookup):
    """Trees of scikit-learn's forests, and of its boosting without histograms."""

    def __init__(self, trees: Sequence[Any]):
        self.trees = trees
        self.numbers = LeafLookup([tree.children_left == -1 for tree in trees])

    def leaves(self, X: Any) -> Tensor:
        nodes = np.empty((len(self.trees), X.shape[0]), dtype=np.intp)
        # The estimator's `apply` would check the same samples for each tree, or start
        # threads.
        for row, tree in zip(nodes, self.trees, strict=True):
            row[:] = tree.apply(X)
        return self.numbers.leaves(nodes.T)

    def sums(self, model: LeafModel) -> Sums:
        """Copies of the trees with the model's values, whose predictions are added."""
        values = tree_values(model)
        width, k = values.shape[1], model.n_outputs
        of_nodes = np.zeros((len(self.numbers.is_leaf), width))
        of_nodes[self.numbers.is_leaf] = values
        parts = np.split(of_nodes, self.numbers.starts[1:])
        trees = []
        for tree, part in zip(self.trees, parts, strict=True):
            # Each output has one value, so it counts as one class.
            copied = type(tree)(tree.n_features, np.ones(width, dtype=np.intp), width)
            state = tree.__getstate__() | {"values": part.reshape(len(part), width, 1)}
            copied.__setstate__(state)
            trees.append(copied)
        owners = tree_owners(model)
        groups = [[trees[i] for i in np.flatnonzero(owners == c)] for c in range(k)]
        stages = [np.empty((len(group), 1), dtype=object) for group in groups]
        for group, stage in zip(groups, stages, strict=True):
            stage[:, 0] = [SimpleNamespace(tree_=tree) for tree in group]
        bias = model.bias.numpy()

        def total(X: Any) -> Tensor:
            result = np.full((X.shape[0], k), bias)
            if width > 1:
                for tree in trees:
                    result += tree.predict(X)[:, :, 0]
            elif isinstance(X, np.ndarray) and not np.isnan(X).any():
                # Data frames have contiguous columns.
                X = np.ascontiguousarray(X)
                for c, each in enumerate(stages):
                    predict_stages(each, X, 1.0, result[:, c : c + 1])
            else:
                # `predict_stages` sends missing values to the right.
                for c, group in enumerate(groups):
                    for tree in group:
                        result[:, c] += tree.predict(X)[:, 0]
            return torch.from_numpy(result)

        return total


class HistogramTrees(TreeLookup):
    """Trees of scikit-learn's histogram boosting, of any size and with categories."""

    def __init__(self, trees: Sequence[Any], known_categories: Sequence[Any]):
        self.trees, self.known = trees, known_categories
        self.is_leaf = [tree.nodes["is_leaf"].astype(bool) for tree in trees]
        # Trees that predict leaf numbers in place of the values.
        self.numbered = [
            _with_values(tree, leaf, np.arange(leaf.sum()))
            for tree, leaf in zip(trees, self.is_leaf, strict=True)
        ]

    def leaves(self, X: Any) -> Tensor:
        n_threads = tree_threads(X.size, _openmp_effective_n_threads())
        leaves = np.empty((len(self.trees), len(X)), dtype=np.int32)
        for row, tree in zip(leaves, self.numbered, strict=True):
            row[:] = tree.predict(X, *self.known, n_threads)
        return torch.from_numpy(leaves).T

    def sums(self, model: LeafModel) -> Sums:
        """Copies of the trees with the model's values, whose predictions are added."""
        values = tree_values(model)
        if values.shape[1] > 1:
            return super().sums(model)
        parts = np.split(values[:, 0], np.cumsum(model.n_leaves)[:-1])
        both = zip(self.trees, self.is_leaf, parts, strict=True)
        trees = [_with_values(*each) for each in both]
        owners, bias = tree_owners(model), model.bias.numpy()

        def total(X: Any) -> Tensor:
            n_threads = tree_threads(X.size, _openmp_effective_n_threads())
            result = np.full((len(bias), len(X)), bias[:, None])
            for owner, tree in zip(owners, trees, strict=True):
                result[owner] += tree.predict(X, *self.known, n_threads)
            return torch.from_numpy(result).T

        return total


def tree_values(model: LeafModel) -> NDArray[np.float64]:
    """Leaf values times the scale of their tree, (n_leaves, width)."""
    counts = torch.tensor(model.n_leaves)
    scale = model.scale.repeat_interleave(counts)[:, None]
    values: NDArray[np.float64] = (scale * model.values.reshape(len(scale), -1)).numpy()
    return values


def tree_owners(model: LeafModel) -> NDArray[np.intp]:
    """The output that each tree with one value per leaf adds to."""
    if model.tree_outputs is None:
        return np.zeros(len(model.n_leaves), dtype=np.intp)
    owners: NDArray[np.intp] = model.tree_outputs.numpy()
    return owners


def _with_values(tree: Any, is_leaf: Any, values: Any) -> Any:
    """Copy a tree of histogram boosting with other values of its leaves."""
    nodes = tree.nodes.copy()
    nodes["value"][is_leaf] = values
    bitsets = tree.binned_left_cat_bitsets, tree.raw_left_cat_bitsets
    return TreePredictor(nodes, *bitsets)
