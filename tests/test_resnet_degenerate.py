"""ResNet-basis estimators where rounding, scales or shifts of the data decide."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from sklearn.linear_model import LinearRegression
from sklearn.preprocessing import OneHotEncoder, PolynomialFeatures
from torch import nn

from sklearn_pgb import ResNetBasisRegressor

FAST = {"hidden_layer_sizes": (6,), "max_iter": 8, "random_state": 0, "cv": None}


def one_column(levels):
    return levels[:, None].astype(float)


def saturated(name, rng):
    """Parameters and data with which the units lie in the span of the basis."""
    X = rng.standard_normal((60, 3))
    y = X @ [1.0, 2.0, 3.0] + np.sin(3 * X[:, 0])
    levels, noise = rng.integers(0, 4, 200), rng.standard_normal(200)
    binary = rng.integers(0, 2, (200, 2)).astype(float)
    pairs = PolynomialFeatures(2, interaction_only=True)
    return {
        "levels": ({"basis": OneHotEncoder()}, one_column(levels), levels + noise),
        "interactions": ({"basis": pairs}, binary, binary.prod(1) + noise),
        "identity": ({"activation": "identity"}, X, y),
        "linear module": ({"module": nn.Linear(3, 4)}, X, y),
        "more columns than rows": ({}, X[:3], y[:3]),
    }[name]


@pytest.mark.parametrize("alpha", [0.0, 1e-30, 1e-22])
@pytest.mark.parametrize(
    "name",
    ["levels", "interactions", "identity", "linear module", "more columns than rows"],
)
def test_units_in_the_span_of_the_basis(name, alpha):
    """They bring nothing, and the loss is that of ordinary least squares."""
    torch.manual_seed(0)
    params, X, y = saturated(name, np.random.default_rng(0))
    model = ResNetBasisRegressor(alpha=alpha, **FAST | params).fit(X, y)
    features = X if model.basis_ is None else model.basis_.transform(X)
    expected = np.square(y - LinearRegression().fit(features, y).predict(features))
    tiny = 1e-12 * y.var()
    assert_allclose(model.basis_loss_, expected.mean(), rtol=1e-9, atol=tiny)
    assert_allclose(model.loss_, expected.mean(), rtol=1e-9, atol=tiny)
    assert model.improvement_ >= -tiny
