"""Open scikit-learn's trees and forests."""

from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sklearn_pgb._losses._classification import CrossEntropyLoss
from sklearn_pgb._losses._loss import Loss
from sklearn_pgb._losses._regression import SquaredLoss
from sklearn_pgb._models._leaves import LeafModel
from sklearn_pgb._models._opened import OpenNetwork, check_several_classes
from sklearn_pgb._models._opened_leaves import open_leaf_model
from sklearn_pgb._models._tree_lookup import (
    SINGLE_MAX,
    NodeTrees,
    TreeInputs,
    as_single,
)

SURROGATE = (
    "the average of the trees' log odds. Each leaf counts one more sample with the "
    "class frequencies of all samples, because its own frequencies can be zero"
)


def open_averaged(estimator: Any) -> OpenNetwork:
    """Open a fitted tree, or a forest whose trees are averaged."""
    is_tree = hasattr(estimator, "tree_")
    trees = [each.tree_ for each in ([estimator] if is_tree else estimator.estimators_)]
    lookup = NodeTrees(trees)
    classifies = hasattr(estimator, "predict_proba")
    multilabel = classifies and estimator.n_outputs_ > 1
    if multilabel and any(classes.tolist() != [0, 1] for classes in estimator.classes_):
        raise ValueError(
            "y must have one column, or columns of zeros and ones, to open a "
            f"{type(estimator).__name__}, got columns with the labels "
            f"{estimator.classes_!r}. Train one classifier per column."
        )
    if classifies and not multilabel:
        check_several_classes(estimator, estimator.classes_)
    # Nodes of regression trees hold means, (n_nodes, n_outputs).
    parts = [
        _smoothed_log_odds(tree) if classifies else tree.value[:, :, 0]
        for tree in trees
    ]
    values = np.concatenate(parts)[lookup.numbers.is_leaf]
    n_outputs = values.shape[1]
    model = LeafModel(
        lookup.numbers.n_leaves,
        torch.tensor(values),
        torch.zeros(n_outputs, dtype=torch.float64),
        torch.full((len(trees),), 1 / len(trees), dtype=torch.float64),
    )
    loss: Loss = SquaredLoss()
    if classifies:
        loss = CrossEntropyLoss().for_outputs(n_outputs, independent=multilabel)

    check = estimator._validate_X_predict
    if is_tree:
        # A forest's method has no parameter `check_input`.
        check = partial(check, check_input=True)
    encode = TreeInputs(lookup, check, estimator, as_single, SINGLE_MAX)
    surrogate = SURROGATE if classifies else None
    return open_leaf_model(estimator, loss, model, encode, surrogate)


def _smoothed_log_odds(tree: Any) -> NDArray[np.float64]:
    """Raw outputs of the nodes of a classification tree.

    They are the log odds of two classes, the log odds of each label of a multi-label
    tree, or the log probabilities of more than two classes.
    """
    frequencies = tree.value
    weight = tree.weighted_n_node_samples[:, None, None]
    # The first node holds the frequencies of all samples. They are smoothed as well,
    # because a bootstrap sample may lack a class.
    total = weight[:1]
    prior = (frequencies[:1] * total + 1 / frequencies.shape[2]) / (total + 1)
    logs = np.log((frequencies * weight + prior) / (weight + 1))
    if logs.shape[2] != 2:
        return logs[:, 0]
    return logs[:, :, 1] - logs[:, :, 0]
