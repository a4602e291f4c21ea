"""Open scikit-learn's linear models as networks without hidden layers."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import (
    ElasticNet,
    ElasticNetCV,
    Lasso,
    LassoCV,
    LinearRegression,
    LogisticRegression,
    LogisticRegressionCV,
    PoissonRegressor,
    Ridge,
    RidgeCV,
)
from sklearn.utils.validation import check_is_fitted

from sklearn_pgb._losses._classification import CrossEntropyLoss
from sklearn_pgb._losses._loss import Loss
from sklearn_pgb._losses._regression import PoissonLoss, SquaredLoss
from sklearn_pgb._models._chain import ChainNetwork
from sklearn_pgb._models._opened import OpenNetwork

REGRESSORS = (
    LinearRegression,
    Ridge,
    RidgeCV,
    Lasso,
    LassoCV,
    ElasticNet,
    ElasticNetCV,
    PoissonRegressor,
)
CLASSIFIERS = LogisticRegression, LogisticRegressionCV


def is_linear_model(estimator: Any) -> bool:
    """Whether this is one of scikit-learn's linear models that can be opened."""
    return isinstance(estimator, REGRESSORS + CLASSIFIERS)


def open_linear(model: Any) -> OpenNetwork:
    """Open a fitted linear model."""
    check_is_fitted(model)
    coef = np.atleast_2d(model.coef_)
    intercept = None
    if model.fit_intercept:
        intercept = np.broadcast_to(model.intercept_, len(coef)).astype(float)
    network = ChainNetwork.mlp([coef], [intercept], [])
    if isinstance(model, REGRESSORS):
        is_poisson = isinstance(model, PoissonRegressor)
        loss: Loss = PoissonLoss() if is_poisson else SquaredLoss()
        return OpenNetwork(network, loss, "regressor", model)
    return OpenNetwork(
        network,
        CrossEntropyLoss().for_outputs(len(coef), independent=False),
        "classifier",
        model,
        classes=model.classes_,
        one_column=len(coef) == 1,
    )


def penalty_strength(model: Any, weight: NDArray[np.float64]) -> Any:
    """Penalty on the squared coefficients, in units of the mean loss.

    The squared loss of the package has no factor 1/2.
    """
    if isinstance(model, Ridge | RidgeCV):
        # Its objective is a sum over the samples, without a factor 1/2.
        alpha = model.alpha_ if isinstance(model, RidgeCV) else model.alpha
        return np.asarray(alpha) / weight.sum()
    if isinstance(model, Lasso | LassoCV | ElasticNet | ElasticNetCV):
        # Its objective has half of the mean squared loss and half of the squared norm.
        cross_validated = isinstance(model, LassoCV | ElasticNetCV)
        alpha = model.alpha_ if cross_validated else model.alpha
        return alpha * (1 - l1_ratio(model))
    if hasattr(model, "C_") or hasattr(model, "C"):
        # Its objective is C times a sum over the samples, plus half of the squared
        # norm.
        if getattr(model, "penalty", "deprecated") is None:
            return 0.0
        C = np.ravel(model.C_ if hasattr(model, "C_") else model.C)[0]
        return (1 - l1_ratio(model)) / (2 * C * weight.sum())
    # A PoissonRegressor has an alpha, a LinearRegression none.
    return getattr(model, "alpha", 0.0) / 2


def l1_ratio(model: Any) -> float:
    """Part of the penalty that is an L1 norm."""
    if isinstance(model, Lasso | LassoCV):
        return 1.0
    # Other values than "elasticnet" and "deprecated" take the place of l1_ratio.
    penalty = getattr(model, "penalty", "deprecated")
    if penalty in {"l1", "l2", None}:
        return float(penalty == "l1")
    given = getattr(model, "l1_ratio_", getattr(model, "l1_ratio", None))
    ratio = 0.0 if given is None else np.ravel(given)[0]
    return 0.0 if ratio is None else float(ratio)
