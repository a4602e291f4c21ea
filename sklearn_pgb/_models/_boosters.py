"""Recognize, check and open models of LightGBM, XGBoost and CatBoost."""

from typing import Any

from sklearn.base import is_classifier, is_regressor
from sklearn.utils.validation import check_is_fitted

from sklearn_pgb._models._booster_losses import (
    LOSS_PARAMETERS,
    booster_loss,
    booster_package,
    refuse_setting,
)
from sklearn_pgb._models._catboost import open_catboost
from sklearn_pgb._models._lightgbm import open_lightgbm
from sklearn_pgb._models._opened import OpenNetwork
from sklearn_pgb._models._xgboost import open_xgboost


def is_booster(estimator: Any) -> bool:
    """Whether this is a regressor or classifier of one of the packages."""
    known = booster_package(estimator) is not None
    return known and (is_classifier(estimator) or is_regressor(estimator))


def check_booster(estimator: Any) -> None:
    """Check the parameters of a booster that is not fitted yet."""
    params = estimator.get_params()
    # CatBoost's `loss_function` has this name too, which takes precedence.
    name = params.get("objective")
    if name is None:
        name = params.get(LOSS_PARAMETERS[str(booster_package(estimator))])
    if name is not None:
        booster_loss(estimator, name)
    for key, wrong in {
        "boosting_type": ("rf",),
        "booster": ("gblinear", "dart"),
        "linear_tree": (True,),
        "reg_sqrt": (True,),
        "multi_strategy": ("multi_output_tree",),
    }.items():
        if params.get(key) in wrong:
            refuse_setting(estimator, key, params[key])


def open_booster(estimator: Any) -> OpenNetwork:
    """Open a fitted estimator of LightGBM, XGBoost or CatBoost."""
    check_is_fitted(estimator)
    check_booster(estimator)
    match booster_package(estimator):
        case "lightgbm":
            return open_lightgbm(estimator)
        case "xgboost":
            return open_xgboost(estimator)
    return open_catboost(estimator)
