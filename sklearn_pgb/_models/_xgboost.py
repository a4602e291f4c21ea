"""Open the estimators of XGBoost, without importing it."""

import json
from typing import Any

import numpy as np
from torch import Tensor

from sklearn_pgb._models._booster_losses import LOGISTIC, POISSON, booster_loss
from sklearn_pgb._models._opened import OpenNetwork
from sklearn_pgb._models._opened_leaves import open_boosted
from sklearn_pgb._models._tree_lookup import LeafLookup


def open_xgboost(estimator: Any) -> OpenNetwork:
    """Open a fitted estimator of XGBoost."""
    booster = estimator.get_booster()
    learner = json.loads(booster.save_raw("json").decode())["learner"]
    loss = booster_loss(estimator, learner["objective"]["name"])
    params = learner["learner_model_param"]
    n_outputs = max(int(params["num_class"]), int(params["num_target"]))
    trees = learner["gradient_booster"]["model"]
    best = booster.attr("best_iteration")
    n_used = len(trees["trees"])
    if best is not None:
        # Predictions stop at the best iteration, but later trees are kept in the file.
        n_used = trees["iteration_indptr"][int(best) + 1]
    # An iteration may train several trees per output, one output after another.
    tree_outputs = trees["tree_info"][:n_used]
    trees = trees["trees"][:n_used]
    if not trees:
        raise ValueError(
            f"n_estimators must be at least 1 to open a {type(estimator).__name__}, "
            "got no trees. Raise it."
        )
    lookup = LeafLookup([np.array(tree["left_children"]) == -1 for tree in trees])
    # The file stores values of leaves as thresholds.
    values = np.concatenate([tree["split_conditions"] for tree in trees])
    start = np.array(json.loads(params["base_score"]), dtype=float)
    # The base score is a mean, and trees add to raw outputs.
    if loss is LOGISTIC:
        start = np.log(start / (1 - start))
    elif loss is POISSON:
        start = np.log(start)
    bias = np.broadcast_to(start, n_outputs).copy()

    def encode(X: Any) -> Tensor:
        return lookup.leaves(np.asarray(estimator.apply(X)).reshape(-1, len(trees)))

    values = values[lookup.is_leaf]
    return open_boosted(
        estimator, loss, lookup.n_leaves, values, bias, 1.0, encode, tree_outputs
    )
