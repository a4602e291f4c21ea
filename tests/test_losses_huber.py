"""The Huber loss from end to end, against SciPy, scikit-learn and CVXPY."""

import numpy as np
import pytest
import torch
from added_neuron_cases import huber
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import minimize
from sklearn.linear_model import HuberRegressor
from torch import nn

from sklearn_pgb import (
    AddedNeuronRegressor,
    GradientBasisRefit,
    InputBasis,
    ResNetBasisRegressor,
    certify,
    compare_bases,
    survey_minima,
)
from sklearn_pgb._losses._regression import HuberLoss
from sklearn_pgb._models._open import open_network


@pytest.fixture
def data(seed):
    """Linear targets with noise, outliers and repeated samples."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(60, 3))
    X[40:] = X[20:40]
    y = X @ [1.0, -2.0, 0.5] + 3 + 0.3 * rng.normal(size=60)
    y[::7] += 20
    return X, y, rng.integers(1, 4, size=60).astype(float)


def network(**params):
    params = {"max_iter": 20, "random_state": 0, "early_stopping": False} | params
    return AddedNeuronRegressor((4,), loss="huber", **params)


def least(features, y, weight, delta):
    """Smallest mean loss of linear models with intercept, by CVXPY."""
    cvxpy = pytest.importorskip("cvxpy")
    coef, free = cvxpy.Variable(features.shape[1]), cvxpy.Variable()
    losses = cvxpy.huber(y - features @ coef - free, delta)
    problem = cvxpy.Problem(cvxpy.Minimize((weight / weight.sum()) @ losses))
    problem.solve(solver=cvxpy.CLARABEL)
    return problem.value


@pytest.mark.parametrize("delta", [0.4, 5.0])
def test_basis_loss_of_a_resnet(data, delta):
    """The model on the basis alone is the minimum that SciPy finds."""
    X, y, weight = data
    model = ResNetBasisRegressor(
        None, 3, loss="huber", huber_delta=delta, alpha=0.2, cv=None, max_iter=5
    ).fit(X, y, sample_weight=weight)
    value = huber(delta)

    def objective(point):
        losses = value(y[:, None], (X @ point[:3] + point[3])[:, None])
        return weight @ losses / weight.sum() + 0.1 * point[:3] @ point[:3]

    smallest = minimize(objective, np.zeros(4), tol=1e-12).fun
    assert model.basis_loss_ == pytest.approx(smallest, rel=1e-6)
    assert model.basis_lower_bound_ <= smallest * (1 + 1e-9)
    assert model.basis_lower_bound_ == pytest.approx(smallest, rel=1e-3)
    losses = value(y[:, None], model.predict(X)[:, None])
    squares = (model.coef_x_**2).sum()
    squares += (model.coef_z_**2).sum() / model.residual_scale_**2
    mean = weight @ losses / weight.sum()
    assert model.loss_ == pytest.approx(mean + 0.1 * squares, rel=1e-9)
    assert model.lower_bound_ <= model.loss_ <= model.basis_loss_ * (1 + 1e-9)


def test_refit_of_a_linear_module_is_huber_regression(data):
    """If scikit-learn estimates a scale of one, both losses are equal."""
    X, y, weight = data
    scale = HuberRegressor(alpha=0, tol=1e-10).fit(X, y, weight).scale_
    reference = HuberRegressor(alpha=0, tol=1e-10, max_iter=1000)
    reference.fit(X, y / scale, weight)
    assert reference.scale_ == pytest.approx(1, abs=1e-4)
    refit = GradientBasisRefit(nn.Linear(3, 1), loss="huber", alpha=0, tol=1e-12)
    refit.fit(X, y / scale, sample_weight=weight)
    assert_allclose(refit.predict(X), reference.predict(X), atol=1e-3)
    smallest = least(X, y / scale, weight, 1.35)
    assert refit.refit_loss_ == pytest.approx(smallest, rel=1e-7)
    assert refit.lower_bound_ <= smallest * (1 + 1e-7)
    assert refit.lower_bound_ == pytest.approx(smallest, rel=1e-5)


def test_units_of_targets_and_delta(data):
    """Powers of two change no digit; a huge delta is the squared loss."""
    X, y, weight = data
    model = network(huber_delta=0.5).fit(X, y, sample_weight=weight)
    scaled = network(huber_delta=4.0).fit(X, 8 * y, sample_weight=weight)
    assert_array_equal(scaled.predict(X), 8 * model.predict(X))
    assert scaled.loss_ == 64 * model.loss_
    assert scaled.floor_ == pytest.approx(64 * model.floor_, rel=1e-12)
    huge = network(huber_delta=1e9).fit(X, y, sample_weight=weight)
    squared = network().set_params(loss="squared_error")
    squared.fit(X, y, sample_weight=weight)
    assert_allclose(huge.predict(X), squared.predict(X), rtol=1e-6)


def test_outliers_count_less(data):
    X, y, _ = data
    clean = np.delete(np.arange(60), np.arange(0, 60, 7))
    errors = [
        np.abs(model.fit(X, y).predict(X) - y)[clean].mean()
        for model in (
            ResNetBasisRegressor(loss="huber", huber_delta=0.4, random_state=0),
            ResNetBasisRegressor(random_state=0),
        )
    ]
    assert errors[0] < 0.5 * errors[1]


def test_units_are_trained_despite_outliers(seed):
    """Decay and tolerances are relative to a scale that outliers hardly change."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(200, 2))
    curve = np.sin(2 * X[:, 0]) + X[:, 1] ** 2
    y = curve + 0.1 * rng.normal(size=200)
    y[::10] += 20 * rng.normal(size=20)
    model = ResNetBasisRegressor(
        None, 20, loss="huber", huber_delta=0.3, alpha=1e-3, random_state=0
    ).fit(X, y)
    assert np.mean((model.predict(X) - curve) ** 2) < 0.1 * curve.var()


def test_networks_open_with_their_delta(data):
    """Certificates, refits and surveys use the loss of the training."""
    X, y, weight = data
    model = network(huber_delta=0.5, alpha=0.0).fit(X, y, sample_weight=weight)
    model.set_params(huber_delta=9.0)
    assert open_network(model).loss == HuberLoss(0.5)
    mean = weight @ huber(0.5)(y[:, None], model.predict(X)[:, None]) / weight.sum()
    assert model.loss_ == pytest.approx(mean, rel=1e-6)
    certificate = certify(model, X, y, sample_weight=weight)
    assert certificate.objective == pytest.approx(mean, rel=1e-9)
    fresh = network(huber_delta=0.5, alpha=0.0)
    refit = GradientBasisRefit(fresh, alpha=0, random_state=0)
    refit.fit(X, y, sample_weight=weight)
    raw = refit.predict(X)[:, None]
    loss = weight @ huber(0.5)(y[:, None], raw) / weight.sum()
    assert refit.refit_loss_ == pytest.approx(loss, rel=1e-9)
    assert refit.lower_bound_ <= refit.refit_loss_ <= refit.model_loss_
    survey = survey_minima(
        fresh, X, y, sample_weight=weight, n_starts=3, random_state=0
    )
    assert (survey.loss >= model.floor_).all()
    assert survey.loss.min() < model.loss_


def test_certificate_of_a_module(data, seed):
    """Each basis has the minimum that CVXPY finds."""
    X, y, weight = data
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 1))
    certificate = certify(module, X, y, loss="huber", sample_weight=weight)
    opened = open_network(module, loss=HuberLoss())
    jacobian = opened.network.jacobian(opened.inputs(X)).dense()[:, 0].numpy()
    with torch.no_grad():
        hidden = module.double()[:2](torch.from_numpy(X)).numpy()
    features = {"inputs": X, "layer 1": hidden, "gradient": jacobian[:, :-1]}
    for row in certificate.table:
        smallest = least(features[row.basis], y, weight, 1.35)
        assert row.value == pytest.approx(smallest, rel=1e-6)
        assert row.lower_bound <= smallest * (1 + 1e-7)
        assert row.lower_bound == pytest.approx(smallest, rel=1e-4)


def test_comparison_of_bases(data):
    X, y, weight = data
    comparison = compare_bases(
        {"linear": InputBasis(), "huber": HuberRegressor(alpha=0.1)},
        X,
        y,
        loss="huber",
        sample_weight=weight,
    )
    linear, sklearn = comparison.reports
    smallest = least(X, y, weight, 1.35)
    assert linear.train_loss == pytest.approx(smallest, rel=1e-7)
    assert linear.lower_bound == pytest.approx(smallest, rel=1e-5)
    predicted = HuberRegressor(alpha=0.1).fit(X, y, weight).predict(X)
    loss = weight @ huber(1.35)(y[:, None], predicted[:, None]) / weight.sum()
    assert sklearn.train_loss == pytest.approx(loss, rel=1e-9)
