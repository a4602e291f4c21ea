"""`survey_minima` compared with scikit-learn's trainings and the theory."""

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import xlogy
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import load_iris
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, scale
from survey_cases import layers, mlp, survey, wide_targets

from sklearn_pgb import (
    AddedNeuronClassifier,
    AddedNeuronRegressor,
    ResNetBasisRegressor,
    certify,
)
from sklearn_pgb._seeds import with_seed

XOR = np.array([[-1.0, -1], [-1, 1], [1, -1], [1, 1]])


@pytest.fixture(scope="module")
def regression():
    return wide_targets()


@pytest.fixture(scope="module")
def labels():
    X, y = load_iris(return_X_y=True)
    return scale(X)[::2], np.array(list("abc"))[y][::2]


def forward(theta, widths, X):
    *hidden, (W, b) = layers(theta, widths)
    for V, c in hidden:
        X = np.tanh(X @ V + c)
    return X @ W + b


def finite_differences(function, theta, step=1e-6):
    eye = np.eye(len(theta))
    return np.array(
        [(function(theta + step * e) - function(theta - step * e)) for e in eye]
    ) / (2 * step)


# --- objectives -----------------------------------------------------------------------


@pytest.mark.parametrize("epochs", [False, True])
def test_objective_of_sklearns_regressor(regression, epochs):
    """MLPRegressor minimizes half of the objective, in the units of the targets."""
    X, y = regression
    net = mlp(solver="adam", max_iter=20) if epochs else mlp(max_iter=5)
    found = survey(net, X, y, polish_iter=0 if epochs else 5)
    widths = [2, 2, 1]

    def objective(theta):
        weights = sum(np.square(W).sum() for W, _ in layers(theta, widths))
        residual = forward(theta, widths, X)[:, 0] - y
        return np.square(residual).mean() + 0.1 / len(X) * weights

    for start in range(4):
        theta = found.parameters[start]
        residual = forward(theta, widths, X)[:, 0] - y
        assert_allclose(found.loss[start], np.square(residual).mean())
        assert_allclose(found.objective[start], objective(theta))
        gradient = finite_differences(objective, theta, 1e-5)
        assert_allclose(found.gradient_norm[start], np.linalg.norm(gradient), rtol=1e-5)


def test_objective_of_sklearns_classifier(labels):
    X, y = labels
    found = survey(mlp(MLPClassifier), X, y, polish_iter=3)
    widths = [4, 2, 3]
    Y = (y[:, None] == np.array(list("abc"))).astype(float)

    def objective(theta):
        raw = forward(theta, widths, X)
        weights = sum(np.square(W).sum() for W, _ in layers(theta, widths))
        loss = np.log(np.exp(raw).sum(1)) - (Y * raw).sum(1)
        return loss.mean() + 0.1 / (2 * len(X)) * weights

    theta = found.parameters[1]
    assert_allclose(found.objective[1], objective(theta))
    gradient = finite_differences(objective, theta)
    assert_allclose(found.gradient_norm[1], np.linalg.norm(gradient), rtol=1e-5)


def test_ends_are_those_of_sklearn(regression):
    """A long training by scikit-learn ends at a minimum of the survey."""
    X, y = regression
    X, y = X, scale(y)
    found = survey(mlp(), X, y, n_starts=12)
    assert set(found.verdict) == {"consistent_with_local_min"}
    values = 2 * np.array(
        [
            mlp(max_iter=5000, tol=1e-14, max_fun=50_000, random_state=seed)
            .fit(X, y)
            .loss_
            for seed in range(4)
        ]
    )
    nearest = np.abs(values[:, None] - found.objective).min(1)
    assert nearest.max() < 1e-6


def test_ends_are_those_of_the_packages_own_training(regression):
    """A longer descent by the estimator itself does not get below its survey's best."""
    X, y = regression
    net = AddedNeuronRegressor((2,), activation="tanh", alpha=0.1)
    found = survey(net, X, y, n_starts=12)
    assert set(found.verdict) == {"consistent_with_local_min"}
    net.set_params(solver="lbfgs", max_iter=5000, tol=1e-9)
    own = [net.set_params(random_state=seed).fit(X, y).loss_ for seed in range(4)]
    assert np.abs(np.subtract.outer(own, found.loss)).min(1).max() < 1e-4 * np.var(y)
    assert_allclose(found.floor, net.floor_, atol=1e-12)


@pytest.mark.parametrize("net", [mlp(), mlp(solver="adam", max_iter=50)])
def test_xor_has_good_and_bad_minima(net):
    found = survey(net.set_params(alpha=1e-3), XOR, XOR[:, 0] * XOR[:, 1], n_starts=12)
    assert set(found.verdict) == {"consistent_with_local_min"}
    assert set(found.loss.round(2)) == {0.0, 0.5}
    assert found.n_minima < 12
    assert_array_equal(found.minimum == 0, found.loss < 0.1)


# --- bounds ---------------------------------------------------------------------------


def test_bounds(regression):
    X, y = regression
    X, y = np.vstack([X, X[:1]]), np.r_[y, y[0] + 4]
    found = survey(mlp(), X, y)
    A = np.column_stack([X, np.ones(41)])
    linear = np.square(A @ np.linalg.lstsq(A, y)[0] - y).mean()
    assert_allclose(found.linear, linear)
    assert_allclose(found.linear_bound, linear)
    assert_allclose(found.floor, 2 * 2**2 / 41)
    bounds = found.gradient_basis_bound
    known = np.isfinite(bounds)
    assert known.sum() == found.n_minima
    assert (bounds <= found.loss)[known].all()
    assert (bounds >= found.floor)[known].all()
    assert found.best_bound == bounds[found.best]


def test_loss_at_a_minimum_is_the_bound(regression):
    """Without a penalty, critical points are as good as their gradient basis."""
    X, y = regression
    found = survey(mlp(alpha=0.0), X, scale(y), n_starts=6)
    critical = np.array(found.verdict) == "consistent_with_local_min"
    known = critical & np.isfinite(found.gradient_basis_bound)
    assert known.any()
    bounds = found.gradient_basis_bound[known]
    assert_allclose(bounds, found.loss[known], rtol=1e-4, atol=1e-9)


# --- estimators -----------------------------------------------------------------------


def same(one, other, rtol=1e-7):
    assert_allclose(one.parameters, other.parameters, rtol=rtol, atol=rtol)
    assert_allclose(one.loss, other.loss, rtol=rtol)
    assert one.verdict == other.verdict


def test_pipelines_and_target_transformers_are_fitted_once(regression):
    X, y = regression
    whole = TransformedTargetRegressor(
        make_pipeline(StandardScaler(), mlp()), transformer=StandardScaler()
    )
    same(survey(whole, X, y), survey(mlp(), scale(X), scale(y)))


def test_functions_of_targets_are_left_to_the_estimator(regression):
    X, y = regression
    net = TransformedTargetRegressor(
        mlp(max_iter=20), func=np.log, inverse_func=np.exp, check_inverse=False
    )
    found = survey(net, X, y, n_starts=2)
    assert not found.population
    assert found.linear < np.var(np.log(y))


@pytest.mark.parametrize("kind", ["binary", "indicators", "counts", "several"])
def test_other_targets(kind, labels):
    X, y = labels
    rng = np.random.default_rng(0)
    net, expected = mlp(MLPClassifier), 1
    if kind == "binary":
        y = y == "a"
    elif kind == "indicators":
        y, expected = (X[:, :2] > rng.normal(size=(75, 2))).astype(int), 2
    elif kind == "counts":
        y, net = rng.poisson(np.exp(X[:, 0])), mlp(loss="poisson")
    else:
        y, net, expected = X[:, :2] ** 2, mlp(), 2
    found = survey(net, X, y, n_starts=2)
    assert found.population
    assert found.parameters.shape[1] == 4 * 2 + 2 + 3 * expected
    assert (found.loss < found.linear + 0.1).all()
    if kind == "several":
        return
    net.set_params(random_state=0, max_iter=2000).fit(X, y)
    # scikit-learn's Poisson loss has a constant that makes its least value zero.
    constant = (xlogy(y, y) - y).mean() if kind == "counts" else 0.0
    assert found.objective.min() < 1.05 * (net.loss_ - constant) + 0.02


def test_several_targets_are_one_objective(labels):
    """Half of the sum over targets has the gradient that MLPRegressor uses."""
    X, _ = labels
    Y = X[:, :2] ** 2
    found = survey(mlp(), X, Y, n_starts=1)
    net = mlp(random_state=0, max_iter=1).fit(X, Y)
    net.coefs_ = [W for W, _ in layers(found.parameters[0], [4, 2, 2])]
    net.intercepts_ = [b for _, b in layers(found.parameters[0], [4, 2, 2])]
    assert_allclose(found.loss[0], np.square(net.predict(X) - Y).sum(1).mean())
    layers_ = [X, *(np.empty((75, n)) for n in (2, 2))]
    packed = np.concatenate([p.ravel() for p in net.coefs_ + net.intercepts_])
    slots = (
        [np.empty_like(p) for p in net.coefs_],
        [np.empty_like(p) for p in net.intercepts_],
    )
    _, gradient = net._loss_grad_lbfgs(
        packed, X, Y, None, layers_, [np.empty_like(a) for a in layers_[1:]], *slots
    )
    # The gradient there is as small as the survey says.
    assert_allclose(2 * np.linalg.norm(gradient), found.gradient_norm[0], atol=1e-6)


def test_modules_are_trained_one_by_one(regression):
    X, y = regression
    torch.manual_seed(0)
    net = AddedNeuronRegressor(
        module=lambda: torch.nn.Sequential(
            torch.nn.Linear(2, 3), torch.nn.SiLU(), torch.nn.Linear(3, 1)
        ),
        max_iter=5,
    )
    found = survey(net, X, scale(y), n_starts=2)
    assert not found.population
    assert found.parameters.shape == (2, 13)
    own = AddedNeuronRegressor(**net.get_params())
    seeds = np.random.RandomState(
        np.random.RandomState(0).randint(np.iinfo(np.int32).max)
    ).randint(np.iinfo(np.int32).max, size=2)
    losses = [own.set_params(random_state=int(s)).fit(X, scale(y)).loss_ for s in seeds]
    assert_allclose(found.loss, losses)


@pytest.mark.parametrize("case", ["module", "labels", "residual", "targets", "batches"])
def test_objectives_are_those_of_certify(case, regression):
    """Penalties and class weights count for networks that are fitted one by one."""
    X, y = regression
    params = {"max_iter": 3, "alpha": 2.0}
    module = torch.nn.Sequential(
        torch.nn.Linear(2, 3), torch.nn.SiLU(), torch.nn.Linear(3, 1)
    )
    if case == "labels":
        y = (y > 50).astype(int)
        params["class_weight"] = {0: 5.0, 1: 1.0}
        net = AddedNeuronClassifier(module=module, **params)
    else:
        net = {
            "module": AddedNeuronRegressor(module=module, **params),
            "residual": ResNetBasisRegressor(hidden_layer_sizes=(2,), **params),
            "targets": TransformedTargetRegressor(
                AddedNeuronRegressor((2,), **params),
                func=np.sinh,
                inverse_func=np.arcsinh,
            ),
            "batches": mlp(solver="adam", batch_size=8, max_iter=3, alpha=2.0),
        }[case]
    found = survey(net, X, y, n_starts=2, polish_iter=0)
    assert found.population == (case == "batches")
    if found.population:
        # The certificate uses the estimator's penalty, here that of the survey.
        theta = found.parameters[0]
        fitted = net.fit(X, y)
        certificate = certify(fitted, X, y)
        squares = sum(np.square(W).sum() for W in fitted.coefs_)
        ridge = (certificate.objective - certificate.loss) / squares
        own = sum(np.square(W).sum() for W, _ in layers(theta, [2, 2, 1]))
        assert_allclose(found.objective[0] - found.loss[0], ridge * own)
        return
    seeds = np.random.RandomState(
        np.random.RandomState(0).randint(np.iinfo(np.int32).max)
    ).randint(np.iinfo(np.int32).max, size=2)
    for start, seed in enumerate(seeds.tolist()):
        certificate = certify(with_seed(net, seed).fit(X, y), X, y)
        assert_allclose(found.loss[start], certificate.loss)
        assert_allclose(found.objective[start], certificate.objective)
        assert_allclose(found.gradient_norm[start], certificate.gradient_norm)


def test_residual_networks_are_trained_one_by_one(regression):
    X, y = regression
    net = ResNetBasisRegressor(hidden_layer_sizes=(2,), max_iter=5)
    found = survey(net, X, y, n_starts=3)
    assert not found.population
    assert (found.loss <= found.linear + 1e-6 * np.var(y)).all()


def test_class_weights_count(labels):
    X, y = labels
    net = AddedNeuronClassifier((2,), activation="tanh", alpha=0.1, solver="lbfgs")
    factor = {"a": 1.0, "b": 3.0, "c": 1.0}
    weighted = survey(net.set_params(class_weight=factor), X, y)
    given = survey(
        net.set_params(class_weight=None),
        X,
        y,
        sample_weight=np.where(y == "b", 3.0, 1.0),
    )
    same(weighted, given)


@pytest.mark.parametrize("kind", [MLPRegressor, AddedNeuronRegressor])
def test_weights_are_repetitions(kind, regression):
    X, y = regression
    net = kind(hidden_layer_sizes=(2,), activation="tanh", solver="lbfgs", alpha=0.1)
    weight = np.random.default_rng(0).integers(0, 3, 40)
    index = np.repeat(np.arange(40), weight)
    params = {"polish_iter": 10}
    weighted = survey(net, X, y, sample_weight=weight, **params)
    same(weighted, survey(net, X[index], y[index], **params), rtol=1e-5)
    assert_allclose(weighted.linear, survey(net, X[index], y[index], **params).linear)


def test_weights_without_a_population(regression):
    X, y = regression
    net = AddedNeuronRegressor(module=torch.nn.Linear(2, 1), max_iter=3)
    weight = np.r_[np.zeros(20), np.ones(20)]
    found = survey(net, X, y, n_starts=1, sample_weight=weight)
    half = survey(net, X[20:], y[20:], n_starts=1)
    assert_allclose(found.loss, half.loss)
    assert_allclose(found.linear, half.linear)


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_result_does_not_depend_on_jobs(regression, solver):
    """Results are bitwise equal, with two groups and several chunks."""
    X, y = regression
    net = mlp(solver=solver, max_iter=10, activation="relu")
    params = {"n_starts": 52, "polish_iter": 3}
    one, many = (survey(net, X, y, n_jobs=jobs, **params) for jobs in (None, 2))
    assert_array_equal(one.parameters, many.parameters)
    pd.testing.assert_frame_equal(one.to_frame(), many.to_frame(), check_exact=True)


# --- the result -----------------------------------------------------------------------


def test_frame_and_text(regression):
    found = survey(mlp(), *regression, n_starts=10)
    frame = found.to_frame()
    assert len(frame) == found.n_starts == 10
    assert frame.index.name == "start"
    assert_allclose(frame["excess"], found.loss - found.floor)
    text = str(found)
    assert text.startswith(f"10 starts, {found.n_minima} distinct minima")
    assert "floor 0, linear model" in text
    assert found.verdict[found.best] in text.splitlines()[4]


def test_text_of_many_minima():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(30, 3)), rng.normal(size=30)
    found = survey(mlp(solver="adam", max_iter=5), X, y, n_starts=12, polish_iter=0)
    assert found.n_minima > 8
    assert str(found).splitlines()[-1].split() == ["...", str(found.counts[8:].sum())]
