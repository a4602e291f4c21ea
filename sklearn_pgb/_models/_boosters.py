"""Open the estimators of LightGBM, XGBoost and CatBoost, without importing them."""

import json
from typing import Any

import numpy as np
import torch
from sklearn.base import is_classifier, is_regressor
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from sklearn_pgb._losses._classification import CrossEntropyLoss, LogisticLoss
from sklearn_pgb._losses._loss import Loss
from sklearn_pgb._losses._regression import PoissonLoss, SquaredLoss
from sklearn_pgb._models._opened import OpenNetwork
from sklearn_pgb._models._tree_lookup import LeafLookup
from sklearn_pgb._models._trees import open_boosted

SQUARED, POISSON = SquaredLoss(), PoissonLoss()
LOGISTIC, SOFTMAX = LogisticLoss(), CrossEntropyLoss()

# The training losses that can be opened, by the packages' names.
LOSSES: dict[str, dict[str, Loss]] = {
    "lightgbm": {
        **dict.fromkeys(("regression", "regression_l2", "l2", "mse", "rmse"), SQUARED),
        "mean_squared_error": SQUARED,
        "poisson": POISSON,
        "binary": LOGISTIC,
        "multiclass": SOFTMAX,
        "softmax": SOFTMAX,
    },
    "xgboost": {
        "reg:squarederror": SQUARED,
        "count:poisson": POISSON,
        "binary:logistic": LOGISTIC,
        "multi:softprob": SOFTMAX,
        "multi:softmax": SOFTMAX,
    },
    "catboost": {
        "RMSE": SQUARED,
        "MultiRMSE": SQUARED,
        "Poisson": POISSON,
        "Logloss": LOGISTIC,
        "MultiClass": SOFTMAX,
    },
}
# The parameter that names the loss.
LOSS_PARAMETERS = {
    "lightgbm": "objective",
    "xgboost": "objective",
    "catboost": "loss_function",
}


def booster_package(estimator: Any) -> str | None:
    """Name of the package of a booster; None if it is another estimator."""
    packages = {base.__module__.partition(".")[0] for base in type(estimator).__mro__}
    return next((name for name in LOSSES if name in packages), None)


def is_booster(estimator: Any) -> bool:
    """Whether this is a regressor or classifier of one of the packages."""
    known = booster_package(estimator) is not None
    return known and (is_classifier(estimator) or is_regressor(estimator))


def check_booster(estimator: Any) -> None:
    """Check the parameters of a booster that is not fitted yet."""
    params = estimator.get_params()
    name = params.get(LOSS_PARAMETERS[str(booster_package(estimator))])
    if name is not None:
        _loss(estimator, name)
    for key, wrong in {
        "boosting_type": ("rf",),
        "booster": ("gblinear", "dart"),
        "linear_tree": (True,),
        "reg_sqrt": (True,),
        "multi_strategy": ("multi_output_tree",),
    }.items():
        if params.get(key) in wrong:
            raise ValueError(
                f"{key} must not be {params[key]!r} to open a "
                f"{type(estimator).__name__}, because its predictions are not a sum of "
                "leaf values. Leave it at its default."
            )


def _loss(estimator: Any, name: Any) -> Loss:
    package = str(booster_package(estimator))
    known = LOSSES[package]
    if not isinstance(name, str) or name not in known:
        raise ValueError(
            f"{LOSS_PARAMETERS[package]} must be one of {list(known)} to open a "
            f"{type(estimator).__name__}, got {name!r}. Train it with one of these."
        )
    return known[name]


def open_booster(estimator: Any) -> OpenNetwork:
    """Open a fitted estimator of LightGBM, XGBoost or CatBoost."""
    check_is_fitted(estimator)
    check_booster(estimator)
    match booster_package(estimator):
        case "lightgbm":
            return _open_lightgbm(estimator)
        case "xgboost":
            return _open_xgboost(estimator)
    return _open_catboost(estimator)


def _open_lightgbm(model: Any) -> OpenNetwork:
    booster = model.booster_
    description = booster.dump_model(num_iteration=model.best_iteration_ or None)
    loss = _loss(model, description["objective"].split()[0])
    counts = [tree["num_leaves"] for tree in description["tree_info"]]
    values = [
        booster.get_leaf_output(tree, leaf)
        for tree, count in enumerate(counts)
        for leaf in range(count)
    ]

    def encode(X: Any) -> Tensor:
        leaves = np.asarray(model.predict(X, pred_leaf=True))
        return torch.from_numpy(leaves.reshape(-1, len(counts)).astype(np.int32))

    # The initial prediction is part of the first trees.
    bias = np.zeros(booster.num_model_per_iteration())
    return open_boosted(model, loss, counts, np.array(values), bias, 1.0, encode)


def _open_xgboost(model: Any) -> OpenNetwork:
    booster = model.get_booster()
    learner = json.loads(booster.save_raw("json").decode())["learner"]
    loss = _loss(model, learner["objective"]["name"])
    params = learner["learner_model_param"]
    n_outputs = max(int(params["num_class"]), int(params["num_target"]))
    trees = learner["gradient_booster"]["model"]
    best = booster.attr("best_iteration")
    n_used = len(trees["trees"])
    if best is not None:
        # Predictions stop at the best iteration, but later trees are kept in the file.
        n_used = trees["iteration_indptr"][int(best) + 1]
    trees = trees["trees"][:n_used]
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
        return lookup.leaves(np.asarray(model.apply(X)).reshape(-1, len(trees)))

    values = values[lookup.is_leaf]
    return open_boosted(model, loss, lookup.n_leaves, values, bias, 1.0, encode)


def _open_catboost(model: Any) -> OpenNetwork:
    loss = _loss(model, model.get_all_params()["loss_function"].partition(":")[0])
    counts = [int(count) for count in model.get_tree_leaf_counts()]
    scale, start = model.get_scale_and_bias()
    bias = np.atleast_1d(np.array(start, dtype=float))
    values = np.asarray(model.get_leaf_values()).reshape(sum(counts), len(bias))

    def encode(X: Any) -> Tensor:
        leaves = np.asarray(model.calc_leaf_indexes(X))
        return torch.from_numpy(leaves.reshape(-1, len(counts)).astype(np.int32))

    return open_boosted(model, loss, counts, values, bias, scale, encode)
