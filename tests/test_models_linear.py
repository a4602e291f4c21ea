"""Penalties of scikit-learn's linear models, in units of the mean loss."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from sklearn.linear_model import (
    ElasticNet,
    Lasso,
    LinearRegression,
    LogisticRegression,
    PoissonRegressor,
    Ridge,
    RidgeCV,
)

from sklearn_pgb._models._linear import l1_ratio, open_linear, penalty_strength

RNG = np.random.default_rng(0)
X, WEIGHT = RNG.normal(size=(40, 3)), RNG.uniform(0.5, 2, size=40)
COUNTS = RNG.poisson(np.exp(X[:, 0]))


@pytest.mark.parametrize(
    "model",
    [
        LinearRegression(),
        Ridge(2.0),
        RidgeCV([0.5, 5.0]),
        ElasticNet(0.1, l1_ratio=1e-12, tol=1e-8),
        PoissonRegressor(alpha=0.3, tol=1e-12),
        LogisticRegression(C=0.5, tol=1e-10),
    ],
    ids=lambda model: type(model).__name__,
)
def test_penalized_gradient_is_zero(model):
    """The training ended where loss and penalty balance."""
    y = COUNTS > 1 if isinstance(model, LogisticRegression) else COUNTS
    opened = open_linear(model.fit(X, y, sample_weight=WEIGHT))
    raw = opened.network(opened.network.theta, torch.from_numpy(X))
    targets = opened.targets(y, 1)
    slope = opened.loss.gradient(targets, raw).numpy()[:, 0]
    gradient = X.T @ (WEIGHT * slope) / WEIGHT.sum()
    penalty = 2 * penalty_strength(model, WEIGHT) * np.ravel(model.coef_)
    assert_allclose(gradient + penalty, 0, atol=1e-6)


def test_part_of_the_penalty_that_is_no_square():
    assert l1_ratio(Lasso()) == 1
    assert l1_ratio(ElasticNet(l1_ratio=0.3)) == 0.3
    assert l1_ratio(Ridge()) == l1_ratio(LogisticRegression(l1_ratio=None)) == 0
