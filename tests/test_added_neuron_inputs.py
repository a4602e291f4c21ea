"""Standardization inside of networks: their units, exports and certificates."""

import warnings

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from added_neuron_cases import (
    BINARY,
    CASES,
    LABELS,
    WEIGHT,
    X,
    Y,
    classifier,
    fit,
    raw_outputs,
    regressor,
)
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.datasets import load_wine
from sklearn.exceptions import ConvergenceWarning
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler, StandardScaler
from torch import nn

from sklearn_pgb import (
    AddedNeuronClassifier,
    AddedNeuronRegressor,
    certify,
    survey_minima,
)
from sklearn_pgb._models._open import open_network
from sklearn_pgb._training._input_map import InputMoments


def stamps(n=300):
    """A column of time stamps among others, and targets that depend on it."""
    rng = np.random.default_rng(0)
    Z = rng.normal(size=(n, 4))
    y = np.sin(Z[:, 1]) + Z[:, 2] + Z[:, 0]
    Z[:, 0] = 1.7e9 + 1e6 * Z[:, 0]
    return Z, y


@pytest.mark.parametrize("name", CASES)
def test_units_of_the_features_do_not_matter(name):
    """Scaling by powers of two is exact and changes no result."""
    model = fit(name)
    factor = 2.0 ** np.array([-300, 5, 500])
    other = clone(model).fit(X * factor, CASES[name][1])
    assert_array_equal(other.predict(X * factor), model.predict(X))
    assert other.loss_ == model.loss_
    assert other.status_ == model.status_


@pytest.mark.parametrize("name", ["regression", "classes", "counts"])
def test_it_is_a_scaler_in_front(name):
    """It equals StandardScaler, with weighted means and deviations."""
    scaler = StandardScaler().fit(X, sample_weight=WEIGHT)
    model = fit(name, WEIGHT, solver="lbfgs", max_iter=5)
    y = CASES[name][1]
    other = clone(model).set_params(standardize=False)
    other.fit(scaler.transform(X), y, WEIGHT)
    expected = raw_outputs(other, scaler.transform(X))
    assert_allclose(raw_outputs(model, X), expected, rtol=1e-8, atol=1e-8)


def test_wine_as_it_comes():
    data, y = load_wine(return_X_y=True)
    model = AddedNeuronClassifier(random_state=0).fit(data, y)
    assert model.score(data, y) > 0.98


def test_time_stamps():
    Z, y = stamps()
    model = AddedNeuronRegressor(random_state=0).fit(Z, y)
    assert model.score(Z, y) > 0.98
    expected = model.predict(Z)
    assert_allclose(raw_outputs(model, Z)[:, 0], expected, rtol=0, atol=1e-8)
    with torch.no_grad():
        exported = model.module_(torch.tensor(Z)).numpy()
    assert_allclose(exported[:, 0], expected, rtol=0, atol=1e-8)


def test_constant_columns_change_nothing():
    """Columns that are constant, exactly or up to rounding, have no effect."""
    rng = np.random.default_rng(1)
    still = np.column_stack(
        [np.full(40, 3.0), 1e9 + 1e-8 * rng.normal(size=40), np.zeros(40)]
    )
    rounded = 0.1 * (3 + rng.integers(0, 2, 40) * 2.0**-52)
    wide = np.column_stack([still[:, 0], X, still[:, 1:], rounded])
    for make, y in ((regressor, Y), (classifier, LABELS)):
        model, plain = make().fit(wide, y), make().fit(X, y)
        assert_array_equal(model.predict(wide), plain.predict(X))
        assert_array_equal(model.coefs_[0][[0, 4, 5, 6]], 0)
        moved = wide + np.array([9, 0, 0, 0, 9, 9, 9])
        assert_array_equal(model.predict(moved), plain.predict(X))


def test_all_columns_constant():
    """The network predicts the mean, as other regressors do."""
    model = regressor(max_iter=300, random_state=0).fit(np.ones((40, 2)), Y)
    assert_allclose(model.predict([[1, 1], [5, 7]]), Y.mean(), atol=0.02)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_floor_is_that_of_the_users_inputs(dtype):
    """In float32 some samples would become equal."""
    Z, y = 1.7e9 + np.arange(20.0)[:, None], np.sin(np.arange(20))
    model = AddedNeuronRegressor(dtype=dtype, max_iter=3).fit(Z, y)
    assert model.floor_ < 1e-30
    tiny = np.r_[1e-20 * np.arange(10), 1e5][:, None]
    assert regressor().fit(tiny, np.arange(11.0)).floor_ < 1e-25


def test_exports_are_read_only_float64():
    """Predictions do not use these arrays, so writing to them is refused."""
    model = regressor(dtype="float32").fit(X.astype(np.float32), Y)
    for part in (*model.coefs_, *model.intercepts_):
        assert part.dtype == np.float64
        with pytest.raises(ValueError, match="read-only"):
            part += 1


@pytest.mark.parametrize("name", ["regression", "two targets", "classes", "counts"])
def test_certificate_is_of_the_objective_that_was_trained(name):
    """Weight decay on the weights of standardized inputs, with those as inputs."""
    factor = np.array([1e-3, 1.0, 1e4])
    model, y, _, _ = CASES[name]
    model = clone(model).set_params(
        activation="tanh", solver="lbfgs", alpha=0.5, tol=1e-9, max_iter=3000
    )
    model.fit(X * factor + 5, y)
    certificate = certify(model, X * factor + 5, y)
    assert_allclose(certificate.objective, model.loss_curve_[-1], rtol=1e-9)
    assert_allclose(certificate.loss, model.loss_, rtol=1e-9)
    assert_allclose(certificate.floor, model.floor_, atol=1e-9)
    assert certificate.gradient_norm < 1e-5
    opened = open_network(model)
    inputs = opened.inputs(X * factor + 5)
    scaled = StandardScaler().fit_transform(X * factor + 5)
    assert_allclose(inputs, scaled, rtol=1e-9, atol=1e-9)
    raw = opened.network(opened.network.theta, inputs)
    expected = raw_outputs(model, X * factor + 5)
    assert_allclose(raw, expected, rtol=1e-7, atol=1e-7)


def test_statistics_of_later_calls():
    """Those of all samples are used if they differ, and in a new fit those of its X."""
    both = np.r_[X, 5 * X + 3]
    inputs = StandardScaler().fit(X).transform(X)
    for model in (regressor(), regressor(warm_start=True)):
        train = model.fit if model.warm_start else model.partial_fit
        train(X, Y)
        train(1.2 * X, 1.2 * Y)
        assert_allclose(open_network(model).inputs(X), inputs, atol=1e-12)
    model = regressor().partial_fit(X, Y).partial_fit(5 * X + 3, 9 * Y)
    pooled = StandardScaler().fit(both).transform(X)
    assert_allclose(open_network(model).inputs(X), pooled, atol=1e-12)
    model = regressor(warm_start=True).fit(X, Y).fit(5 * X + 3, 9 * Y)
    model.set_params(warm_start=False).fit(5 * X + 3, Y)
    assert_allclose(open_network(model).inputs(5 * X + 3), inputs, atol=1e-12)


def test_sparse_inputs_are_scaled_and_not_centered():
    sparse = sp.csr_array(X * (abs(X) > 0.5) * [1e-6, 1.0, 1e6])
    model = classifier().fit(sparse, BINARY)
    scaler = MaxAbsScaler().fit(sparse)
    expected = scaler.transform(sparse).toarray()
    assert_allclose(open_network(model).inputs(sparse), expected, rtol=1e-12)
    assert (np.asarray(open_network(model).inputs(0 * sparse)) == 0).all()


def test_a_module_gets_standardized_inputs():
    seen = []

    class Watch(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 1)

        def forward(self, rows):
            seen.append(rows.detach().double().numpy())
            return self.layer(rows)

    model = regressor(module=Watch, max_iter=1).fit(1e6 + 5 * X, Y)
    full = [rows for rows in seen if len(rows) == 40]
    assert full
    for rows in full:
        assert_allclose(rows, StandardScaler().fit_transform(X), atol=1e-6)
    assert isinstance(model.module_[1], Watch)
    seen.clear()
    regressor(module=Watch, max_iter=1, standardize=False).fit(1e6 + 5 * X, Y)
    assert max(rows.max() for rows in seen) > 9e5


def test_images_have_one_mean_and_one_deviation():
    images = 100 + 7 * np.random.default_rng(0).normal(size=(40, 1, 2, 3))
    images[:, :, 0, 0] = 100
    make = nn.Sequential(nn.Flatten(), nn.Linear(6, 1))
    model = regressor(module=make).fit(images, Y)
    expected = (images - images.mean()) / images.std()
    assert_allclose(open_network(model).inputs(images), expected.reshape(40, 6))
    with torch.no_grad():
        exported = model.module_(torch.tensor(images)).numpy()
    assert_allclose(exported[:, 0], model.predict(images), rtol=1e-9)


def test_a_survey_trains_on_the_same_inputs():
    model = regressor(hidden_layer_sizes=(2,), activation="tanh", solver="lbfgs")
    model.set_params(alpha=0.1, max_iter=500)
    scaler = StandardScaler().fit(X)
    raw = survey_minima(model, 1e4 * X + 7, Y, n_starts=4, random_state=0)
    scaled = survey_minima(
        make_pipeline(scaler, clone(model).set_params(standardize=False)),
        X,
        Y,
        n_starts=4,
        random_state=0,
    )
    assert_allclose(np.sort(raw.objective), np.sort(scaled.objective), rtol=1e-6)


def test_nothing_draws_from_torchs_generator():
    chain = regressor().fit(X, Y)
    module = regressor(module=lambda: nn.Linear(3, 1)).fit(X, Y)
    before = torch.get_rng_state()
    for model in (chain, module):
        assert model.module_ is not None
        assert model._repr_html_()
        model.predict(X)
        certify(model, X, Y)
    assert torch.equal(torch.get_rng_state(), before)


def test_fitted_networks_keep_their_parameters():
    """Parameters that are set after `fit` only affect the next fit."""
    changes = {
        "activation": "tanh",
        "hidden_layer_sizes": (3,),
        "module": nn.Linear(3, 1),
        "solver": "lbfgs",
        "standardize": False,
        "alpha": 9.0,
        "early_stopping": False,
    }
    model = regressor().fit(X, Y)
    expected, objective = model.predict(X), certify(model, X, Y).objective
    model.set_params(loss="poisson", **changes)
    assert_array_equal(model.predict(X), expected)
    assert certify(model, X, Y).objective == objective
    labels = classifier().fit(X, LABELS)
    probabilities = labels.predict_proba(X)
    labels.set_params(loss="smoothed_hinge", class_weight="balanced", **changes)
    assert_array_equal(labels.predict_proba(X), probabilities)


def test_columns_too_small_to_undo_are_constant():
    tiny = np.hstack([X, 1e-310 * X[:, :1]])
    model = regressor().fit(tiny, Y)
    assert_allclose(model.predict(tiny), regressor().fit(X, Y).predict(X))
    assert np.isfinite(model.coefs_[0]).all()
    module = regressor(module=nn.Linear(X.shape[1] + 1, 1)).fit(tiny, Y)
    assert np.isfinite(module.neurons_["W"]).all()


@pytest.mark.parametrize("name", CASES)
def test_neurons_of_tiny_inputs_have_finite_norms(name):
    """Their weights have squares that overflow."""
    tiny, y = 1e-160 * X, CASES[name][1]
    model = clone(CASES[name][0]).set_params(hidden_layer_sizes=(2,), max_iter=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(tiny, y)
    assert np.isfinite(model.neuron_norm_curve_).all()
    largest = max(np.abs(part).max() for part in model.neurons_.values())
    assert largest <= model.neuron_norm_curve_[-1] * (1 + 1e-12)


@pytest.mark.parametrize(
    ("model", "y", "factor"),
    [
        (regressor(), Y, 1.7e308),
        (regressor(), Y, 1e160),
        (regressor(standardize=False), Y, 1e160),
        (regressor(standardize=False), Y, 1.7e308),
        (classifier(), LABELS, 1.7e308),
    ],
)
def test_batches_far_beyond_the_first(model, y, factor):
    model = clone(model).fit(X, y)
    before = model.loss_, list(model.loss_curve_)
    with pytest.raises(ValueError, match="X and y must have a finite loss, got"):
        model.partial_fit(np.full(X.shape, factor), y)
    assert (model.loss_, list(model.loss_curve_)) == before


@pytest.mark.parametrize("factor", [1e160, 1.7e308])
def test_inputs_that_overflow_without_standardization(factor):
    model = regressor(standardize=False)
    with pytest.raises(ValueError, match="X and y must have a finite loss, got"):
        model.fit(factor * np.linspace(0.5, 1, X.size).reshape(X.shape), Y)


def test_no_events_in_samples_of_tiny_weight():
    """The assumed half event is at most one per sample."""
    model = regressor(loss="poisson", alpha=0.0, max_iter=300)
    model.fit(X, np.zeros(len(X)), 1e-300 * WEIGHT)
    assert np.isfinite(model.neuron_norm_curve_).all()
    assert model.predict(X).max() < 1


def test_inputs_far_beyond_tiny_ones():
    model = regressor().fit(1e-160 * X, Y)
    with pytest.raises(ValueError, match="X must have finite outputs"):
        model.predict(1e160 * X)


def test_batches_of_targets_that_differ_too_much_in_size():
    model = regressor().partial_fit(X, 1e-200 * Y)
    with pytest.raises(ValueError, match=r"y must not exceed 1e\+150 times the stand"):
        model.partial_fit(X, Y)
    assert np.isfinite(model.predict(X)).all()


@pytest.mark.parametrize("scale", [1e-8, 1e4, 1e8, 1e100])
@pytest.mark.parametrize("name", ["regression", "binary", "classes", "hinge"])
def test_scales_of_features(name, scale):
    """Losses are correct, even if exponentials of the neurons overflow."""
    model, y, columns, loss = CASES[name]
    model = clone(model).set_params(max_iter=3, activation="tanh").fit(scale * X, y)
    raw = raw_outputs(model, scale * X)
    assert np.isfinite(raw).all()
    assert_allclose(model.loss_, loss(columns, raw).mean(), rtol=1e-9)
    a, b, W = (model.neurons_[key] for key in "abW")
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        added = np.sign(a) * np.exp(np.log(np.abs(a)) + scale * X @ W.T + b)
    added = np.where(a == 0, 0, added)
    value = loss(columns, raw + added).mean() + 0.01 * a @ a
    assert_allclose(model.auxiliary_loss_, value, rtol=1e-6)
    assert model.auxiliary_loss_ <= model.loss_ * (1 + 1e-9)


@pytest.mark.parametrize("unit", [1e-200, 1e-20, 3e-7])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_zeros_of_a_first_batch_may_become_small(unit, dtype):
    """Moments of two batches are those of both, whichever comes first."""
    unit = max(unit, 1e-20) if dtype == np.float32 else unit
    zeros = np.zeros((20, 1), dtype)
    values = (unit * np.random.default_rng(0).normal(size=(20, 1))).astype(dtype)
    first, second = (InputMoments.of(each, np.ones(20)) for each in (zeros, values))
    both = InputMoments.of(np.vstack([zeros, values]), np.ones(40))
    for found in (first.joined(second), second.joined(first)):
        assert_array_equal(found.exponent, both.exponent)
        assert_allclose(found.spread, both.spread, rtol=1e-6)
        assert_array_equal(found.is_constant(np.dtype(dtype)), False)
