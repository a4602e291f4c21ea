"""Tests of standardization over several calls of `partial_fit` and `fit`."""

import pickle

import numpy as np
import pytest
from added_neuron_cases import INDICATORS, X, Y, classifier, regressor
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.metrics import r2_score
from torch import nn

from sklearn_pgb import certify
from sklearn_pgb._models._open import open_network
from sklearn_pgb._training._input_map import InputMap, InputMoments
from sklearn_pgb._training._rescaling import InputChange

STILL = {"learning_rate_init": 1e-13, "momentum": 0.0, "alpha": 0.0}


@pytest.fixture
def rng(seed):
    return np.random.default_rng(seed)


def rare(rng, n=600, first=50):
    """A feature that is constant in the first batch."""
    g = rng.integers(0, 2, n)
    g[:first] = 0
    Z = np.c_[rng.normal(size=n), g]
    return Z, Z[:, 0] + 3 * g


@pytest.mark.parametrize("solver", ["adam", "sgd"])
@pytest.mark.parametrize("size", [1, 50])
def test_features_that_are_constant_at_first(rng, solver, size):
    """Targets are a linear function of both features."""
    Z, t = rare(rng)
    model = regressor(solver=solver)
    for _ in range(1 if size == 1 else 12):
        for i in range(0, len(Z), size):
            model.partial_fit(Z[i : i + size], t[i : i + size])
    assert r2_score(t, model.predict(Z)) > 0.9
    again = clone(model)
    for i in range(0, 100, 10):
        again.partial_fit(Z[i : i + 10], t[i : i + 10])
    twin = clone(model)
    for i in range(0, 100, 10):
        twin = pickle.loads(pickle.dumps(twin))
        twin.partial_fit(Z[i : i + 10], t[i : i + 10])
    assert_array_equal(twin.predict(Z), again.predict(Z))


def test_labels_one_at_a_time(rng):
    Z, t = rare(rng)
    model = classifier()
    for i in range(len(Z)):
        model.partial_fit(Z[i : i + 1], t[i : i + 1] > 1.5, classes=[False, True])
    assert np.mean(model.predict(Z) == (t > 1.5)) > 0.9


def test_warm_start_with_a_new_feature(rng):
    Z, t = rare(rng)
    model = regressor(warm_start=True, max_iter=60).fit(Z[:50], t[:50]).fit(Z, t)
    assert r2_score(t, model.predict(Z)) > 0.95


@pytest.mark.parametrize("factor", [1e-9, 1e-3])
def test_targets_that_are_small_at_first(factor):
    model = regressor().partial_fit(X, factor * Y)
    for _ in range(60):
        model.partial_fit(X, Y)
    assert r2_score(Y, model.predict(X)) > 0.4


@pytest.mark.parametrize("solver", ["adam", "sgd"])
@pytest.mark.parametrize("hidden", [(), (5,), (4, 3)])
def test_outputs_do_not_change_with_the_standardization(hidden, solver):
    """Where a column was constant, on the constant; elsewhere for all samples."""
    model = regressor(hidden_layer_sizes=hidden, solver=solver)
    first = np.c_[X, np.full(len(X), 7.0)]
    later = np.c_[4 * X - 1, np.arange(len(X))]
    for _ in range(3):
        model.partial_fit(first, Y)
    before = model.predict(first)
    inputs = open_network(model).inputs(first)
    model.set_params(**STILL).partial_fit(later, 30 * Y)
    assert open_network(model).inputs(first).shape[1] == inputs.shape[1] + 1
    assert_allclose(model.predict(first), before, rtol=1e-6, atol=1e-6)
    # The certificate opens the same function.
    opened = open_network(model)
    raw = opened.network(opened.network.theta, opened.inputs(later)).numpy()
    assert_allclose(raw[:, 0], model.predict(later), rtol=1e-9)
    loss = certify(model, later, 30 * Y).loss
    assert_allclose(loss, ((model.predict(later) - 30 * Y) ** 2).mean(), rtol=1e-9)


def test_module_with_constant_features(rng):
    Z, t = rare(rng, first=1)
    model = regressor(module=nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1)))
    model.partial_fit(Z[:1], t[:1])
    before = model.predict(Z[:1])
    model.set_params(**STILL).partial_fit(Z, t)
    assert_allclose(model.predict(Z[:1]), before, rtol=1e-6)
    for feature in range(2):
        one = np.zeros_like(Z)
        one[:, feature] = np.linspace(-1, 1, len(Z))
        assert np.ptp(model.predict(one)) > 0


def test_counts_that_are_zero_at_first():
    y = np.random.default_rng(0).poisson(1000 * np.exp(X[:, 0] / 3))
    model = regressor(loss="poisson").partial_fit(X[:1], [0])
    for _ in range(300):
        model.partial_fit(X, y)
    assert r2_score(y, model.predict(X)) > 0.3


def test_indicators_one_at_a_time():
    model = classifier()
    for i in range(len(X)):
        model.partial_fit(X[i : i + 1], INDICATORS[i : i + 1], classes=[0, 1, 2])
    assert open_network(model).inputs(X).shape == X.shape
    assert model.score(X, INDICATORS) > 0


@pytest.mark.parametrize("scale", [1e-200, 1.0, 1e200])
def test_moments_of_two_parts_are_those_of_all(rng, scale):
    Z = scale * np.c_[rng.normal(3, 2, (30, 3)), np.ones(30)]
    weight = rng.uniform(0.1, 2, 30)
    parts = [InputMoments.of(Z[i], weight[i]) for i in (slice(4), slice(4, 30))]
    joined, whole = parts[0].joined(parts[1]), InputMoments.of(Z, weight)
    assert_array_equal(joined.exponent, whole.exponent)
    assert_allclose(joined.center, whole.center, rtol=1e-12)
    assert_allclose(joined.spread, whole.spread, rtol=1e-12)
    assert_array_equal(joined.is_constant(Z.dtype), [False] * 3 + [True])


def test_gradients_are_converted(rng):
    """``dL/dW = z^T g`` and ``dL/db = sum(g)`` for inputs z, in both scalings."""
    first = np.c_[rng.normal(size=(20, 3)), np.ones(20)]
    later = np.c_[rng.normal(4, 7, (20, 3)), rng.normal(size=20)]
    weight = np.ones(20)
    old = InputMap.fit(first, weight, centered=True, drop=True)
    before = InputMoments.of(first, weight)
    after = before.joined(InputMoments.of(later, weight))
    change = InputChange.of(old, before, after, first.dtype, centered=True)
    g = rng.normal(size=(20, 5))
    z, new = old.transform(first), change.inputs.transform(first)
    coef, intercept = change.gradient(z.T @ g, g.sum(0))
    assert_allclose(coef, new.T @ g, atol=1e-9)
    assert_allclose(intercept, g.sum(0))
    # Mean squares of one-sample gradients with signs that make entries uncorrelated.
    squares = [np.zeros_like(coef), np.zeros_like(intercept)]
    for signs in ([1, 1], [1, -1]):
        one = signs[0] * z[:1].T @ g[:1], signs[1] * g[0]
        for total, part in zip(squares, change.gradient(*one), strict=True):
            total += part**2 / 2
    found = change.square((z[:1].T @ g[:1]) ** 2, g[0] ** 2)
    for actual, expected in zip(found, squares, strict=True):
        assert_allclose(actual, expected, atol=1e-12)
    coef, intercept = rng.normal(size=(3, 5)), rng.normal(size=5)
    drawn = rng.normal(size=(4, 5))
    other = change.parameters(coef, intercept, drawn)
    assert_allclose(new @ other[0] + other[1], z @ coef + intercept, atol=1e-9)
