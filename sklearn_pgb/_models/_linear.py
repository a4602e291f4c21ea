"""Open scikit-learn's linear models as networks without hidden layers."""

from typing import Any

import numpy as np
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
