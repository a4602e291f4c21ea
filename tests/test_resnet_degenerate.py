"""ResNet-basis estimators with data of extreme scales, shifts and ranks."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import log_loss
from sklearn.preprocessing import (
    FunctionTransformer,
    OneHotEncoder,
    PolynomialFeatures,
    StandardScaler,
)
from torch import nn

from sklearn_pgb import ResNetBasisClassifier, ResNetBasisRegressor

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
    """They have no effect: the loss is that of ordinary least squares."""
    torch.manual_seed(0)
    params, X, y = saturated(name, np.random.default_rng(0))
    model = ResNetBasisRegressor(alpha=alpha, **FAST | params).fit(X, y)
    features = X if model.basis_ is None else model.basis_.transform(X)
    expected = np.square(y - LinearRegression().fit(features, y).predict(features))
    tiny = 1e-12 * y.var()
    assert_allclose(model.basis_loss_, expected.mean(), rtol=1e-9, atol=tiny)
    assert_allclose(model.loss_, expected.mean(), rtol=1e-9, atol=tiny)
    assert model.improvement_ >= -tiny


@pytest.mark.parametrize("name", ["squared", "two classes", "three classes", "poisson"])
def test_basis_of_rank_zero_or_one(name):
    """Constant columns add nothing to the intercept, even if alpha is zero."""
    X, cases = curved()
    estimator, y = cases[name]
    basis = FunctionTransformer(np.ones_like)
    model = estimator.set_params(basis=basis, alpha=0.0, residual_input="X", **FAST)
    model.fit(X, y)
    if name == "squared":
        assert_allclose(model.basis_loss_, y.var())
    if name.endswith("classes"):
        frequency = np.unique(y, return_counts=True)[1] / len(y)
        assert_allclose(model.basis_loss_, -frequency @ np.log(frequency))
    assert_allclose(model.basis_lower_bound_, model.basis_loss_, rtol=1e-7)
    assert model.improvement_ > 0
    # Copies of a column have no effect.
    model.set_params(basis=FunctionTransformer(lambda X: X[:, :1] * [1, 2, 0]))
    copies = model.fit(X, y).basis_loss_
    model.set_params(basis=FunctionTransformer(lambda X: X[:, :1]))
    assert_allclose(copies, model.fit(X, y).basis_loss_, rtol=1e-8)


def test_units_that_rounding_makes_worse():
    """If rounding of large coefficients spoils the loss, the units are left out."""
    rng = np.random.default_rng(0)
    X, y = 1e9 + rng.standard_normal((16, 1)), rng.standard_normal(16)
    model = ResNetBasisRegressor(alpha=0.0, **FAST | {"hidden_layer_sizes": (12,)})
    with pytest.warns(
        ConvergenceWarning, match="residual units were left out: .* above"
    ):
        model.fit(X, y)
    assert model.residual_scale_ == 0
    assert not model.coef_z_.any()
    linear = LinearRegression().fit(X, y)
    assert_allclose(model.predict(X), linear.predict(X), atol=1e-6)
    assert_allclose(model.loss_, model.basis_loss_, rtol=1e-6)
    assert model.lower_bound_ == model.basis_lower_bound_


FAR = {
    "300": 300 + 3 * np.random.default_rng(0).standard_normal((60, 2)),
    "years": np.random.default_rng(0).integers(2000, 2025, (60, 2)).astype(float),
    "1000": 1000 + np.random.default_rng(0).standard_normal((60, 2)),
}


@pytest.mark.parametrize("degree", [2, 3])
@pytest.mark.parametrize("n_classes", [0, 2, 3])
@pytest.mark.parametrize("name", FAR)
def test_powers_of_features_far_from_zero(name, n_classes, degree):
    """The minimum on the basis is that of powers of standardized features.

    These have the same span. The columns of the basis are nearly collinear.
    """
    X, rng = FAR[name], np.random.default_rng(4)
    powers = PolynomialFeatures(degree)
    options = FAST | {"hidden_layer_sizes": (2,), "max_iter": 2, "cv": 3, "alpha": 0.0}
    near = powers.fit_transform(StandardScaler().fit_transform(X))
    if n_classes:
        y = rng.integers(0, n_classes, 60)
        model = ResNetBasisClassifier(powers, **options).fit(X, y)
        reference = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000)
        expected = log_loss(y, reference.fit(near, y).predict_proba(near))
        predicted = log_loss(y, model.predict_proba(X))
    else:
        y = rng.standard_normal(60)
        model = ResNetBasisRegressor(powers, **options).fit(X, y)
        fitted = LinearRegression().fit(near, y).predict(near)
        expected = np.square(y - fitted).mean()
        predicted = np.square(y - model.predict(X)).mean()
    assert_allclose(model.basis_loss_, expected, rtol=1e-5)
    assert_allclose(predicted, model.loss_, rtol=1e-12)
    assert model.residual_scale_ == 0
    assert model.loss_ == model.basis_loss_
    assert model.improvement_ == 0


def test_years_in_raw_units():
    """The centered form has the digits that the intercept in raw units lacks."""
    X = FAR["years"]
    model = ResNetBasisRegressor(alpha=0.0, **FAST).fit(X, X.sum(1) / 7)
    z = model.module_.features(torch.tensor(X)).detach().numpy()[:, 2:]
    raw = X @ model.coef_x_.T + z @ model.coef_z_.T + model.intercept_
    assert_allclose(raw.ravel(), model.predict(X), rtol=1e-9)
    assert set(model.basis_center_) <= set(X.ravel())


# --- shifts and scales --------------------------------------------------------------


def curved():
    """Inputs, and estimators with targets made of a nonlinear signal, by loss."""
    X = np.random.default_rng(0).standard_normal((80, 3))
    signal = X[:, 0] + np.sin(2 * X[:, 1])
    return X, {
        "two classes": (ResNetBasisClassifier(), signal > 0),
        "three classes": (ResNetBasisClassifier(), np.digitize(signal, [-0.5, 0.5])),
        "hinge": (ResNetBasisClassifier(loss="smoothed_hinge"), signal > 0),
        "poisson": (ResNetBasisRegressor(loss="poisson"), np.floor(np.exp(signal))),
        "squared": (ResNetBasisRegressor(), signal),
    }


@pytest.mark.parametrize("name", curved()[1])
@pytest.mark.parametrize(
    ("shift", "scale"),
    [(1e4, 1), (1e6, 1), (0, 1e-8), (0, 1e8), (0, [1e8, 1, 1e-3]), (3e8, [1e7, 1, 1])],
)
def test_shifts_and_scales_of_the_basis(shift, scale, name):
    """Bounds equal losses, and the loss on the basis does not depend on shifts.

    The penalty depends on the scale of each column, so the minimum is only known if all
    columns have the same scale.
    """
    X, cases = curved()
    estimator, y = cases[name]
    square = np.max(np.square(scale))
    estimator.set_params(alpha=0.01 * square, **FAST)
    plain = clone(estimator).fit(X * scale, y)
    model = estimator.fit(X * scale + shift, y)
    if np.ndim(scale) == 0:
        plain = clone(estimator).set_params(alpha=0.01).fit(X, y)
    # The shift removes digits of the columns.
    rtol = 1e-8 + 1e-15 * shift / np.min(scale)
    assert_allclose(model.basis_loss_, plain.basis_loss_, rtol=rtol)
    assert_allclose(model.basis_lower_bound_, model.basis_loss_, rtol=1e-8)
    assert_allclose(model.lower_bound_, model.loss_, rtol=rtol)
    assert model.loss_ <= model.basis_lower_bound_


def test_seconds_beside_a_feature():
    """Logistic regression on columns with scales that differ by 1e7, around 1.7e9.

    The penalty on the coefficient of the seconds is negligible in any unit.
    """
    rng = np.random.default_rng(0)
    seconds, x = 1.7e9 + rng.uniform(0, 3e7, 300), rng.standard_normal(300)
    noise = 0.5 * rng.standard_normal(300)
    y = (x + (seconds - 1.715e9) / 1e7 + noise > 0).astype(int)
    X = np.column_stack([seconds, x])
    model = ResNetBasisClassifier(alpha=1e-3, **FAST).fit(X, y)
    logistic = LogisticRegression(C=1 / 0.3, solver="newton-cholesky", tol=1e-12)
    hours = (X - X.mean(0)) / [3600, 1]
    p = logistic.fit(hours, y).predict_proba(hours)
    expected = log_loss(y, p) + 0.5e-3 * np.square(logistic.coef_).sum()
    assert_allclose(model.basis_loss_, expected, rtol=1e-7)
    assert_allclose(model.basis_lower_bound_, expected, rtol=1e-7)


@pytest.mark.parametrize("alpha", [0.0, 0.01])
@pytest.mark.parametrize("name", ["squared", "poisson", "two classes"])
def test_units_that_are_constant(name, alpha):
    """Their rounding errors are not scaled up to a variance; they have no effect."""
    X, cases = curved()
    constant = nn.Linear(3, 2)
    nn.init.zeros_(constant.weight)
    nn.init.constant_(constant.bias, 0.1)
    estimator, y = cases[name]
    estimator.set_params(module=nn.Sequential(constant, nn.Softplus()), alpha=alpha)
    model = estimator.set_params(**FAST | {"max_iter": 1}).fit(X, y)
    assert_allclose(model.residual_scale_, 1)
    assert_allclose(model.lower_bound_, model.basis_lower_bound_, rtol=1e-7)
    assert_allclose(model.loss_, model.basis_loss_, rtol=1e-9)


@pytest.mark.parametrize("solver", ["lbfgs", "adam"])
@pytest.mark.parametrize("name", ["squared", "poisson", "smoothed"])
@pytest.mark.parametrize("scale", [[1e8, 1e-8, 1], [1, 1e-30, 1e30]])
def test_scales_without_penalty(scale, name, solver):
    """Losses and bounds do not depend on the scales if alpha is zero."""
    X, cases = curved()
    smoothed = ResNetBasisClassifier(label_smoothing=0.1)
    cases["smoothed"] = smoothed, cases["two classes"][1]
    estimator, y = cases[name]
    estimator.set_params(alpha=0.0, solver=solver, **FAST)
    plain, model = clone(estimator).fit(X, y), estimator.fit(X * scale, y)
    assert_allclose(model.basis_loss_, plain.basis_loss_, rtol=1e-9)
    assert_allclose(model.basis_lower_bound_, plain.basis_loss_, rtol=1e-7)
    assert_allclose(model.loss_, plain.loss_, rtol=1e-4)
    assert_allclose(model.lower_bound_, model.loss_, rtol=1e-6)


def test_scales_that_are_too_far_apart():
    """If rounding stops Newton's method, a warning reports the duality gap."""
    rng = np.random.default_rng(0)
    X = np.column_stack([1e16 * rng.standard_normal(100), rng.standard_normal(100)])
    model = ResNetBasisClassifier(alpha=1e-3, **FAST)
    with pytest.warns(
        ConvergenceWarning, match=r"relative duality gap of .*\[phi, z\]"
    ):
        model.fit(X, X.sum(1) + 1e16 * rng.standard_normal(100) > 0)
    assert model.lower_bound_ < model.loss_ - 1e-3


def test_units_far_from_zero():
    """A large constant in the outputs of the units changes no loss."""
    X, cases = curved()
    torch.manual_seed(0)
    units = nn.Sequential(nn.Linear(3, 4), nn.Tanh()).double()
    shift = nn.Linear(4, 4).double()
    nn.init.eye_(shift.weight)
    losses = []
    for constant in (0.0, 1e6):
        nn.init.constant_(shift.bias, constant)
        model = ResNetBasisClassifier(
            module=nn.Sequential(units, shift), alpha=0.01, max_iter=1, cv=None
        )
        model.fit(X, cases["two classes"][1])
        losses.append(model.loss_)
        assert_allclose(model.lower_bound_, model.loss_, rtol=1e-8)
    assert_allclose(losses[1], losses[0], rtol=1e-6)


def test_features_with_vanishing_squares_count_as_zero(seed):
    rng = np.random.default_rng(seed)
    X, y = rng.normal(size=(40, 2)), rng.normal(size=40)
    tiny = X * [1.0, 1e-160]
    kwargs = {"hidden_layer_sizes": (4,), "max_iter": 3, "random_state": 0, "cv": None}
    for weight_decay in (0.0, 1e-3):
        model = ResNetBasisRegressor(weight_decay=weight_decay, **kwargs).fit(tiny, y)
        without = tiny * [1.0, 0.0]
        plain = ResNetBasisRegressor(weight_decay=weight_decay, **kwargs)
        plain.fit(without, y)
        np.testing.assert_allclose(model.predict(tiny), plain.predict(without))
        assert np.isfinite([model.loss_, model.basis_loss_, model.lower_bound_]).all()
