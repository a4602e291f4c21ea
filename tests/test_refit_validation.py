"""Errors for validation samples, folds and names that a refit can't use."""

import numpy as np
import pytest
import scipy.sparse as sp
from refit_cases import CURVE, TARGETS, X, mlp
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import KFold
from sklearn.neural_network import MLPRegressor

from sklearn_pgb import GradientBasisRefit

LABELS = TARGETS["multiclass"]
SEEN, X_VAL, Y_VAL = slice(0, 28), X[28:], CURVE[28:]
FROZEN = FrozenEstimator(mlp().fit(X[SEEN], CURVE[SEEN]))


class NeverFit(MLPRegressor):
    """A network that must not be trained."""

    def fit(self, X, y, sample_weight=None):
        raise AssertionError("trained")


BAD = {
    "no y_val": ({"X_val": X_VAL}, "given together, got None for y_val"),
    "no X_val": ({"y_val": Y_VAL}, "given together, got None for X_val"),
    "only weights": (
        {"sample_weight_val": np.ones(12)},
        "sample_weight_val must be None without X_val and y_val",
    ),
    "lengths": (
        {"X_val": X_VAL, "y_val": Y_VAL[:-1]},
        "inconsistent numbers of samples",
    ),
    "features": (
        {"X_val": X_VAL[:, :2], "y_val": Y_VAL},
        "X has 2 features, but GradientBasisRefit is expecting 3",
    ),
    "dimensions": ({"X_val": X_VAL[0], "y_val": Y_VAL[:1]}, "Reshape your data"),
    "columns": (
        {"X_val": X_VAL, "y_val": np.c_[Y_VAL, Y_VAL]},
        "y_val must have as many dimensions and columns as y",
    ),
    "empty": ({"X_val": X_VAL[:0], "y_val": Y_VAL[:0]}, "0 sample"),
    "nan": ({"X_val": np.full_like(X_VAL, np.nan), "y_val": Y_VAL}, "NaN"),
    "nan target": ({"X_val": X_VAL, "y_val": np.full(12, np.nan)}, "NaN"),
    "text": ({"X_val": X_VAL, "y_val": np.full(12, "high")}, "y must be numeric"),
    "zero weights": (
        {"X_val": X_VAL, "y_val": Y_VAL, "sample_weight_val": np.zeros(12)},
        "sample_weight_val must be weights of samples.* at least one non-zero",
    ),
    "negative weights": (
        {"X_val": X_VAL, "y_val": Y_VAL, "sample_weight_val": -np.ones(12)},
        "sample_weight_val must be weights of samples.*Negative values",
    ),
    "number of weights": (
        {"X_val": X_VAL, "y_val": Y_VAL, "sample_weight_val": np.ones(11)},
        r"shape == \(11,\)",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_validation_samples_that_cannot_be_used(name):
    """The error comes before any training and leaves no attributes."""
    params, match = BAD[name]
    model = GradientBasisRefit(NeverFit())
    before = dict(vars(model))
    with pytest.raises(ValueError, match=match):
        model.fit(X[SEEN], CURVE[SEEN], **params)
    assert vars(model) == before
    with pytest.raises(ValueError, match=match):
        GradientBasisRefit(FROZEN).fit(X[SEEN], CURVE[SEEN], **params)


def test_unknown_labels_among_the_validation_samples():
    y = LABELS[28:].astype(object)
    y[3] = "new"
    with pytest.raises(ValueError, match=r"y_val must hold labels of y, got \['new'\]"):
        GradientBasisRefit(mlp("multiclass")).fit(
            X[SEEN], LABELS[SEEN], X_val=X_VAL, y_val=y.astype(str)
        )


def test_labels_that_only_samples_without_weight_have():
    """No network knows these labels, so they are refused."""
    y = LABELS.astype(object)
    y[:3] = y[-3:] = "rare"
    weight = np.r_[0, 0, 0, np.ones(25)]
    with pytest.raises(ValueError, match="y_val must hold labels of y"):
        GradientBasisRefit(mlp("multiclass")).fit(
            X[SEEN], y[SEEN].astype(str), weight, X_val=X_VAL, y_val=y[28:].astype(str)
        )


@pytest.mark.parametrize("cv", [3, KFold(3), [(np.arange(9), np.arange(9, 28))]])
def test_folds_and_validation_samples(cv):
    match = "cv must be 'auto' or None if X_val and y_val are given"
    with pytest.raises(ValueError, match=match):
        GradientBasisRefit(NeverFit(), cv=cv).fit(
            X[SEEN], CURVE[SEEN], X_val=X_VAL, y_val=Y_VAL
        )


def test_validation_samples_of_weight_zero_may_hold_anything():
    """They are left out before any check."""
    y = LABELS[28:].copy()
    y[2] = "new"
    weight = np.ones(12)
    weight[2] = 0
    model = GradientBasisRefit(mlp("multiclass"), random_state=0)
    expected = model.fit(
        X[SEEN], LABELS[SEEN], X_val=np.delete(X_VAL, 2, 0), y_val=np.delete(y, 2)
    ).predict_proba(X)
    model.fit(X[SEEN], LABELS[SEEN], X_val=X_VAL, y_val=y, sample_weight_val=weight)
    np.testing.assert_array_equal(model.predict_proba(X), expected)


def test_sparse_validation_samples():
    model = GradientBasisRefit(mlp(), random_state=0)
    dense = model.fit(X[SEEN], CURVE[SEEN], X_val=X_VAL, y_val=Y_VAL).predict(X)
    sparse = model.fit(
        X[SEEN], CURVE[SEEN], X_val=sp.csr_array(X_VAL), y_val=Y_VAL
    ).predict(X)
    np.testing.assert_allclose(sparse, dense, rtol=1e-9)


@pytest.mark.parametrize("alpha", ["Auto", "cv", "gcv", "", b"auto"])
def test_names_for_alpha(alpha):
    with pytest.raises(ValueError, match=r"alpha"):
        GradientBasisRefit(NeverFit(), alpha=alpha).fit(X, CURVE)


@pytest.mark.parametrize(
    "params",
    [
        {"cv": "five"},
        {"cv": 1},
        {"cv": 0},
        {"cv": -3},
        {"cv": True},
        {"center": None},
        {"distribution": 2},
        {"distribution": "yes"},
        {"verbose": -1},
        {"verbose": "loud"},
    ],
    ids=str,
)
def test_parameters_out_of_range(params):
    (name,) = params
    with pytest.raises(ValueError, match=name):
        GradientBasisRefit(NeverFit(), **params).fit(X, CURVE)


@pytest.mark.parametrize("alpha", [[-1.0, 1.0], [[0.1]], ["loo"], [None]], ids=str)
def test_candidates_before_any_training(alpha):
    with pytest.raises((ValueError, TypeError), match="alpha"):
        GradientBasisRefit(NeverFit(), alpha=alpha).fit(X, CURVE)


def test_std_without_distribution():
    """The message names the parameter."""
    model = GradientBasisRefit(mlp(), alpha=0.1).fit(X, CURVE)
    with pytest.raises(ValueError, match="needs distribution=True"):
        model.predict(X, return_std=True)
