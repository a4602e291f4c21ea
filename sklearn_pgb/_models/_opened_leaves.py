"""Open sums of trees, given the values of their leaves and the leaves of samples."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sklearn_pgb._losses._classification import LogisticLoss
from sklearn_pgb._losses._loss import Loss
from sklearn_pgb._models._leaves import LeafModel
from sklearn_pgb._models._opened import OpenNetwork


def open_boosted(
    estimator: Any,
    loss: Loss,
    n_leaves: Sequence[int],
    values: NDArray[np.float64],
    bias: NDArray[np.float64],
    scale: float,
    encode: Callable[[Any], Tensor],
    tree_outputs: Sequence[int] | None = None,
) -> OpenNetwork:
    """Open boosted trees: raw outputs are `bias` plus `scale` times leaf values.

    Parameters
    ----------
    n_leaves : sequence of int
        Number of leaves of each tree.
    values : ndarray of shape (n_leaves,) or (n_leaves, n_outputs)
        Values of the leaves, tree by tree. A tree adds 1-d values to one output.
    bias : ndarray of shape (n_outputs,)
    scale : float
    encode : callable
        Maps X to leaf numbers, (n_samples, n_trees).
    tree_outputs : sequence of int, default=None
        The output of each tree. None means that tree t adds to output t modulo the
        number of outputs. Only for 1-d values.
    """
    outputs = None
    if tree_outputs is not None:
        outputs = torch.tensor(tree_outputs)
    elif values.ndim == 1:
        outputs = torch.arange(len(n_leaves)) % len(bias)
    model = LeafModel(
        n_leaves,
        torch.tensor(values, dtype=torch.float64),
        torch.tensor(bias, dtype=torch.float64),
        torch.full((len(n_leaves),), scale, dtype=torch.float64),
        outputs,
    )
    return open_leaf_model(estimator, loss, model, encode)


def open_leaf_model(
    estimator: Any,
    loss: Loss,
    model: LeafModel,
    encode: Callable[[Any], Tensor],
    surrogate: str | None = None,
) -> OpenNetwork:
    """Open a sum of trees; its loss determines whether it is a classifier."""
    classifies, one_output = loss.is_classification, model.n_outputs == 1
    multilabel = isinstance(loss, LogisticLoss) and not one_output
    return OpenNetwork(
        model,
        loss,
        "classifier" if classifies else "regressor",
        estimator,
        classes=None
        if multilabel or not classifies
        else np.asarray(estimator.classes_),
        one_column=classifies and one_output,
        encode=encode,
        surrogate=surrogate,
    )
