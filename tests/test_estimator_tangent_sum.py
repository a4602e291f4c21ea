"""Prepared predictions equal those of the models of the last fit."""

import copy
import pickle

import numpy as np
import oracles
import pytest
import scipy.sparse as sp
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from table_cases import FRAME, NETWORK, X, Y, small
from torch import nn

from sklearn_pgb import AddedNeuronRegressor, GradientBasisRefit
from sklearn_pgb._models._open import open_network
from sklearn_pgb._models._shared import share_outputs

REFITS = {
    "network": MLPRegressor(**NETWORK),
    "pipeline": make_pipeline(StandardScaler(with_mean=False), MLPRegressor(**NETWORK)),
    "own": AddedNeuronRegressor((4,), max_iter=10),
}
FITTED = [
    *(GradientBasisRefit(each, cv=2, random_state=0) for each in REFITS.values()),
    small("real"),
]


def slow_raw(model, table):
    """Raw outputs of an estimator for tables, from dense Jacobians of its members."""
    table = np.asarray(table, dtype=float)
    k = len(model.intercept_)
    total = np.tile(model.intercept_, (len(table), 1))
    for members, coefs in zip(model.estimators_, model.basis_coef_, strict=True):
        groups = zip(members, coefs, model.stack_weights_, strict=True)
        for member, coef, stack in groups:
            opened = open_network(member)
            # Three or more classes share the features.
            opened = share_outputs(opened) if k > 2 else opened
            network, inputs = opened.network, opened.inputs(table)
            share = model._centered * stack / len(model.estimators_)
            total += share * network(network.theta, inputs).numpy()
            # Shared features are linear, and skipped at zero.
            at = torch.ones_like(network.theta) if k > 2 else network.theta
            J = oracles.jacobian(network, inputs, at).numpy()
            bias = network.find_head(inputs).bias
            J = J if bias is None else np.delete(J, np.arange(J.shape[2])[bias], 2)
            for c in range(k):
                total[:, c] += J[:, c] @ coef[c if len(coef) > 1 else 0]
    # Members see targets that are divided by a power of two.
    center, unit = model._units
    return center + unit * total


@pytest.mark.parametrize("name", ["real", "two", "count", "binary", "multi", "labels"])
def test_tables_sum_their_members(name):
    model = small(name).fit(X, Y[name])
    raw = slow_raw(model, X)
    if hasattr(model, "classes_"):
        actual = model.decision_function(X)
    else:
        actual = model.predict(X)
        raw = np.exp(raw) if name == "count" else raw
    assert_allclose(actual.reshape(raw.shape), raw, rtol=1e-10, atol=1e-10)


def test_tables_with_modules_know_their_biases():
    """Biases are found on training samples, because new ones may not show them."""
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1), nn.Flatten(0))
    network = AddedNeuronRegressor(module=net, max_iter=5)
    model = small("real", network=network).fit(X, Y["real"])
    raw = slow_raw(model, X)[:, 0]
    assert_allclose(model.predict(X), raw, rtol=1e-10, atol=1e-10)
    one_by_one = [model.predict(row[None])[0] for row in X]
    assert_allclose(one_by_one, raw, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("model", FITTED)
@pytest.mark.parametrize("container", [np.asarray, np.ndarray.tolist, sp.csr_array])
def test_containers(model, container):
    """They give the predictions for the float64 array of the same numbers."""
    rows = np.where(X > 0, X, 0.0).astype(np.float32)
    model = clone(model).fit(container(rows), Y["real"])
    expected = model.predict(rows.astype(float))
    # A StandardScaler keeps single precision.
    assert_allclose(model.predict(container(rows)), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("model", FITTED)
def test_every_fit_has_predictions_of_its_own(model):
    model = clone(model).fit(X, Y["real"])
    before, state = model.predict(X), dict(vars(model))
    twin, shallow = copy.deepcopy(model), copy.copy(model)
    assert vars(model) == state
    model.fit(X, -2 * Y["real"])
    again = clone(model).fit(X, -2 * Y["real"]).predict(X)
    assert_array_equal(model.predict(X), again)
    assert abs(again - before).max() > 1
    for other in (twin, shallow):
        assert_array_equal(other.predict(X), before)


@pytest.mark.parametrize("model", FITTED)
def test_pickles_hold_nothing_of_predictions(model):
    model = clone(model).fit(X, Y["real"])
    size = len(pickle.dumps(model))
    before = model.predict(X)
    assert len(pickle.dumps(model)) == size
    assert_array_equal(pickle.loads(pickle.dumps(model)).predict(X), before)


@pytest.mark.parametrize("model", FITTED)
def test_replaced_coefficients_are_used(model):
    """Twice the coefficients and the intercept give twice the basis model."""
    model = clone(model).set_params(random_state=0).fit(X, Y["real"])
    before = model.predict(X)
    old = model.basis_coef_
    if isinstance(old, list):
        model._centered = 0.0
        model.basis_coef_ = [[2 * coef for coef in fold] for fold in old]
        basis = slow_raw(model, X)[:, 0]
    else:
        model.basis_coef_ = 2 * old
        basis = 2 * before
    assert_allclose(model.predict(X), basis, rtol=1e-9, atol=1e-9)


def test_failed_fits_keep_predictions():
    model = clone(FITTED[0]).fit(X, Y["real"])
    before = model.predict(X)
    with pytest.raises(ValueError, match="non-zero number"):
        model.fit(X, Y["real"], sample_weight=np.zeros(len(X)))
    assert_array_equal(model.predict(X), before)


def test_devices_of_predictions_follow_the_parameter():
    model = clone(FITTED[0]).fit(X, Y["real"])
    before = model.predict(X)
    assert_allclose(model.set_params(device="cpu").predict(X), before, rtol=1e-12)
    with pytest.raises(ValueError, match="device must be one that torch can use"):
        model.set_params(device="nowhere").predict(X)
    assert_array_equal(model.set_params(device=None).predict(X), before)


def test_modules_may_be_trained_further():
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    model = GradientBasisRefit(module, loss="squared_error", alpha=1.0)
    model.fit(X, Y["real"])
    before = model.predict(X)
    with torch.no_grad():
        module[0].weight.mul_(2.0)
    assert_array_equal(model.predict(X), before)
    again = pickle.loads(pickle.dumps(model))
    assert_array_equal(again.predict(X), before)


def test_mixed_tables():
    """Each sample has the same prediction alone and in the table."""
    model = small("real").fit(FRAME, Y["real"])
    whole = model.predict(FRAME)
    rows = [model.predict(FRAME.iloc[[i]])[0] for i in range(len(FRAME))]
    assert_allclose(rows, whole, rtol=1e-10, atol=1e-10)
