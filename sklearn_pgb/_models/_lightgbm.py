"""Open the estimators of LightGBM, without importing it."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from sklearn_pgb._models._booster_losses import booster_loss, refuse_setting
from sklearn_pgb._models._opened import OpenNetwork
from sklearn_pgb._models._opened_leaves import open_boosted


def open_lightgbm(estimator: Any) -> OpenNetwork:
    """Open a fitted estimator of LightGBM."""
    booster = estimator.booster_
    description = booster.dump_model(num_iteration=estimator.best_iteration_ or None)
    objective, *options = description["objective"].split()
    loss = booster_loss(estimator, objective)
    trees = description["tree_info"]
    # Parameters have aliases and several spellings, so the trained trees are checked.
    if description["average_output"]:
        refuse_setting(estimator, "boosting_type", "rf")
    if any("leaf_coeff" in _first_leaf(tree["tree_structure"]) for tree in trees):
        refuse_setting(estimator, "linear_tree", True)
    if "sqrt" in options:
        refuse_setting(estimator, "reg_sqrt", True)
    # The log odds are the sums of leaf values times the parameter `sigmoid`.
    options = dict(option.split(":") for option in options)
    scale = float(options.get("sigmoid", 1.0))
    counts = [tree["num_leaves"] for tree in trees]
    values = [
        booster.get_leaf_output(tree, leaf)
        for tree, count in enumerate(counts)
        for leaf in range(count)
    ]

    def encode(X: Any) -> Tensor:
        leaves = np.asarray(estimator.predict(X, pred_leaf=True))
        return torch.from_numpy(leaves.reshape(-1, len(counts)).astype(np.int32))

    # The initial prediction is part of the first trees.
    bias = np.zeros(booster.num_model_per_iteration())
    return open_boosted(estimator, loss, counts, np.array(values), bias, scale, encode)


def _first_leaf(node: dict[str, Any]) -> dict[str, Any]:
    """The leftmost leaf below a node of LightGBM's description of a tree."""
    while "left_child" in node:
        node = node["left_child"]
    return node
