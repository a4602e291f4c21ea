"""The model of `GradientBasisRefit`, compared with known solutions."""

import itertools

import numpy as np
import oracles
import pytest
import torch
from scipy.optimize import minimize
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.frozen import FrozenEstimator
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.preprocessing import StandardScaler
from sklearn.utils import compute_class_weight

from sklearn_pgb import GradientBasisRefit, ResNetBasisClassifier
from sklearn_pgb._convex._heldout import convex_folds
from sklearn_pgb._convex._problem import ConvexProblem
from sklearn_pgb._convex._solve import solve
from sklearn_pgb._models._open import open_network
from sklearn_pgb._operators._dense import DenseOperator

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 3))
X_NEW = RNG.normal(size=(7, 3))
CURVE = np.sin(2 * X[:, 0]) + X[:, 1] * X[:, 2] + 0.1 * RNG.normal(size=40)
WEIGHT = RNG.integers(1, 4, size=40).astype(float)

TARGETS = {
    "regression": CURVE,
    "multi-output": np.column_stack([CURVE, X[:, 0] ** 2, X[:, 1]]),
    "poisson": RNG.poisson(np.exp(CURVE / 2)).astype(float),
    "binary": np.where(CURVE > 0, "yes", "no"),
    "multiclass": np.digitize(CURVE, [-0.7, 0.7]),
    "multilabel": np.column_stack([CURVE > 0, X[:, 0] > 0]).astype(int),
}
SQUARED = ["regression", "multi-output"]
CLASSIFIERS = ["binary", "multiclass", "multilabel"]


def mlp(name="regression", **params):
    """A small tanh network for one of the targets."""
    kind = MLPClassifier if name in CLASSIFIERS else MLPRegressor
    if name == "poisson":
        params["loss"] = "poisson"
    params = {"max_iter": 20, "random_state": 0} | params
    return kind(hidden_layer_sizes=(4,), activation="tanh", solver="lbfgs", **params)


def frozen(name="regression", **params):
    return FrozenEstimator(mlp(name, **params).fit(X, TARGETS[name]))


def raw_of_network(estimator, X):
    """Raw outputs of a trained network."""
    opened = open_network(estimator)
    return opened.network(opened.network.theta, opened.inputs(X)).numpy()


def raw_of_refit(refit, X):
    """Raw outputs by the definition J c."""
    return np.concatenate(oracles.network_features(refit, X), 2) @ refit.basis_coef_


def mean_loss(refit, raw, y, weight):
    """Weighted mean loss of raw outputs."""
    opened = open_network(refit.estimator_)
    value = opened.loss.value(opened.targets(y), torch.tensor(raw)).numpy()
    return weight @ value / weight.sum()


# -- the model -----------------------------------------------------------------------


@pytest.mark.parametrize("n_models", [1, 2])
@pytest.mark.parametrize("center", ["zero", "average"])
@pytest.mark.parametrize("name", TARGETS)
def test_prediction_is_jacobian_times_coefficients(name, center, n_models):
    """One coefficient per parameter of all networks, shared by all outputs."""
    refit = GradientBasisRefit(
        mlp(name), alpha=1e-3, center=center, n_models=n_models
    ).fit(X, TARGETS[name])
    raw = raw_of_refit(refit, X_NEW)
    loss = open_network(refit.estimator_).loss
    mean = loss.predict(torch.tensor(raw)).numpy()
    if name not in CLASSIFIERS:
        expected = mean[:, 0] if mean.shape[1] == 1 else mean
        np.testing.assert_allclose(refit.predict(X_NEW), expected, rtol=1e-9, atol=1e-9)
        return
    decision = refit.decision_function(X_NEW)
    np.testing.assert_allclose(decision, raw[:, 0] if name == "binary" else raw, 1e-9)
    if name == "binary":
        mean = np.hstack([1 - mean, mean])
    np.testing.assert_allclose(refit.predict_proba(X_NEW), mean, rtol=1e-9)
    np.testing.assert_allclose(
        refit.predict_log_proba(X_NEW), np.log(mean), rtol=1e-7, atol=1e-12
    )
    label = (raw > 0).astype(int) if name == "multilabel" else mean.argmax(1)
    if name != "multilabel":
        label = refit.classes_[label]
    np.testing.assert_array_equal(refit.predict(X_NEW), label)


@pytest.mark.parametrize("center", ["zero", "average"])
@pytest.mark.parametrize("name", TARGETS)
def test_losses_are_those_of_the_definition(name, center):
    refit = GradientBasisRefit(frozen(name), alpha=1e-2, center=center)
    refit.fit(X, TARGETS[name], WEIGHT)
    of_network = mean_loss(
        refit, raw_of_network(refit.estimator_, X), TARGETS[name], WEIGHT
    )
    of_refit = mean_loss(refit, raw_of_refit(refit, X), TARGETS[name], WEIGHT)
    np.testing.assert_allclose(refit.model_loss_, of_network, rtol=1e-12)
    np.testing.assert_allclose(refit.refit_loss_, of_refit, rtol=1e-9)
    assert refit.lower_bound_ <= refit.refit_loss_
    assert refit.duality_gap_ <= refit.tol * (refit.refit_loss_ + 1)
    assert refit.n_iter_ >= 1
    assert refit.alpha_ == 1e-2


@pytest.mark.parametrize("solver", ["auto", "primal", "matrix-free"])
@pytest.mark.parametrize("name", TARGETS)
def test_without_ridge_the_model_contains_the_network(name, solver):
    refit = GradientBasisRefit(frozen(name), alpha=0, solver=solver, max_iter=500)
    # Separable data have no finite solution, only a bound to come close to.
    labelled = name in [*CLASSIFIERS, "poisson"]
    if labelled:
        refit.set_params(tol=1e-3)
    refit.fit(X, TARGETS[name], WEIGHT)
    assert refit.refit_loss_ <= refit.model_loss_ * (1 + 1e-12)
    assert refit.lower_bound_ <= refit.refit_loss_ * (1 + 1e-12)
    if not labelled:
        # Rounding times coefficients a million times as long is left between them.
        assert np.isfinite(refit.norm_budget_)
        np.testing.assert_allclose(refit.lower_bound_, refit.refit_loss_, rtol=1e-7)


def critical_network():
    """A network whose gradient is zero to rounding, and its targets."""
    y = np.tanh(X[:, 0]) + 0.3 * X[:, 1]
    network = mlp().set_params(hidden_layer_sizes=(2,)).fit(X, y)
    opened = open_network(network)
    inputs, target = torch.tensor(X), torch.tensor(y)[:, None]

    def loss(theta):
        theta = torch.tensor(theta, requires_grad=True)
        value = (opened.network(theta, inputs) - target).square().mean()
        value.backward()
        return value.item(), theta.grad.numpy()

    start = opened.network.theta.numpy()
    theta = minimize(loss, start, jac=True, method="BFGS", options={"gtol": 1e-9}).x
    assert abs(loss(theta)[1]).max() < 1e-8
    moved = opened.network.at(torch.tensor(theta))
    weights, biases = moved.weights, moved.biases
    network.coefs_ = [weight.numpy().T.copy() for weight in weights]
    network.intercepts_ = [bias.numpy().copy() for bias in biases]
    return network, y


@pytest.mark.parametrize("seed_", range(4))
def test_without_ridge_the_refit_is_never_worse(seed_):
    """The span of a residual network contains constants for all outputs of a sample."""
    y = np.random.default_rng(seed_).integers(3, size=40)
    model = ResNetBasisClassifier(cv=None, max_iter=5, random_state=seed_).fit(X, y)
    refit = GradientBasisRefit(FrozenEstimator(model), alpha=0.0, cv=None).fit(X, y)
    assert refit.rank_ == 120
    # Every function of the samples is in the span.
    assert refit.refit_loss_ <= 1e-9 < refit.model_loss_


@pytest.mark.parametrize("fit_intercept", [True, False])
def test_solvers_that_stop_early_return_the_network(fit_intercept):
    y = TARGETS["multiclass"]
    model = ResNetBasisClassifier(
        cv=None, alpha=1e-3, fit_intercept=fit_intercept, random_state=0
    )
    model = FrozenEstimator(model.fit(X, y))
    refit = GradientBasisRefit(
        model, alpha=0.0, cv=None, max_iter=1, solver="matrix-free"
    )
    with pytest.warns(ConvergenceWarning, match="stopped after 1"):
        refit.fit(X, y)
    np.testing.assert_allclose(refit.refit_loss_, refit.model_loss_, rtol=1e-12)
    np.testing.assert_allclose(
        refit.predict_proba(X_NEW), model.predict_proba(X_NEW), rtol=1e-9
    )


def test_at_a_critical_point_the_network_is_the_minimum():
    """Kawaguchi, Huang and Kaelbling 2019, Theorem 1; away from one it is not."""
    network, y = critical_network()
    refit = GradientBasisRefit(FrozenEstimator(network), alpha=0).fit(X, y)
    np.testing.assert_allclose(refit.refit_loss_, refit.model_loss_, rtol=1e-6)
    np.testing.assert_allclose(refit.lower_bound_, refit.model_loss_, rtol=1e-6)
    network.coefs_[0] += 0.1
    refit.fit(X, y)
    assert refit.refit_loss_ < 0.9 * refit.model_loss_


def test_rank():
    """It is the rank of the Jacobian, or None if that exceeds the memory."""
    refit = GradientBasisRefit(frozen(), alpha=1e-3).fit(X, CURVE)
    (J,) = oracles.network_features(refit, X)
    assert refit.rank_ == np.linalg.matrix_rank(J[:, 0], rtol=1e-10)
    refit.set_params(max_memory=20_000, solver="matrix-free").fit(X, CURVE)
    assert refit.rank_ is None
    assert 0 <= refit.lower_bound_ <= refit.refit_loss_


# -- known twins ---------------------------------------------------------------------


def test_equals_ridge_on_the_jacobian_features():
    """alpha = 2 Ridge.alpha / sum(s), on columns of mean squared row norm one."""
    refit = GradientBasisRefit(frozen(), alpha=1e-2).fit(X, CURVE, WEIGHT)
    # The last column is the output bias, which stays free.
    seen, new = refit.transform(X)[:, :-1], refit.transform(X_NEW)[:, :-1]
    scale = (WEIGHT @ (seen**2).sum(1) / WEIGHT.sum()) ** -0.5
    ridge = Ridge(alpha=1e-2 * WEIGHT.sum() / 2, solver="svd")
    ridge.fit(scale * seen, CURVE, WEIGHT)
    expected = ridge.predict(scale * new)
    np.testing.assert_allclose(refit.predict(X_NEW), expected, rtol=1e-9)
    np.testing.assert_allclose(refit.basis_coef_[:-1], scale * ridge.coef_, rtol=1e-8)
    np.testing.assert_allclose(refit.basis_coef_[-1], ridge.intercept_, rtol=1e-8)


def test_equals_kernel_ridge():
    """The empirical tangent kernel, centered for the free output bias."""
    refit = GradientBasisRefit(frozen(), alpha=1e-2, solver="dual").fit(X, CURVE)
    ones = np.ones(40)
    seen = oracles.scaled_features(refit, X, X, ones)[:, 0]
    new = oracles.scaled_features(refit, X_NEW, X, ones)[:, 0]
    seen, new = seen - seen.mean(0), new - seen.mean(0)
    twin = KernelRidge(alpha=1e-2 * 40 / 2, kernel="linear")
    expected = twin.fit(seen, CURVE - CURVE.mean()).predict(new) + CURVE.mean()
    np.testing.assert_allclose(refit.predict(X_NEW), expected, rtol=1e-9)


@pytest.mark.parametrize("n_models", [1, 3])
@pytest.mark.parametrize("name", SQUARED)
def test_squared_loss_is_the_ridge_of_the_definition(name, n_models):
    """Several networks: their scaled bases side by side, one free bias per output."""
    y = TARGETS[name].reshape(40, -1)
    refit = GradientBasisRefit(mlp(name), alpha=1e-3, n_models=n_models)
    refit.fit(X, TARGETS[name])
    ones = np.ones(40)
    phi = oracles.scaled_features(refit, X, X, ones)
    coef, free = oracles.ridge(phi, y, ones / 40, 1e-3, True)
    new = oracles.scaled_features(refit, X_NEW, X, ones)
    expected = (new @ coef + free).reshape(refit.predict(X_NEW).shape)
    np.testing.assert_allclose(refit.predict(X_NEW), expected, rtol=1e-7, atol=1e-9)


def test_center_network_is_a_ridge_on_the_residual():
    network = frozen()
    refit = GradientBasisRefit(network, alpha=1e-3, center="average").fit(X, CURVE)
    ones, residual = np.ones(40), CURVE - network.predict(X)
    phi = oracles.scaled_features(refit, X, X, ones)
    coef, free = oracles.ridge(phi, residual[:, None], ones / 40, 1e-3, True)
    new = oracles.scaled_features(refit, X_NEW, X, ones)
    expected = network.predict(X_NEW) + (new @ coef + free)[:, 0]
    np.testing.assert_allclose(refit.predict(X_NEW), expected, rtol=1e-8)


@pytest.mark.parametrize("name", TARGETS)
def test_large_alpha_returns_the_network(name):
    """The outputs are those of the network, up to the best constant shift."""
    refit = GradientBasisRefit(mlp(name), alpha=1e9, center="average", n_models=3).fit(
        X, TARGETS[name]
    )
    raw = np.mean([raw_of_network(e, X_NEW) for e in refit.estimators_], 0)
    shift = raw_of_refit(refit, X_NEW) - raw
    np.testing.assert_allclose(shift, np.broadcast_to(shift[0], shift.shape), atol=1e-7)
    assert abs(shift).max() < 0.5
    # With "zero" nothing is left but the bias.
    refit.set_params(center="zero").fit(X, TARGETS[name])
    constant = raw_of_refit(refit, X_NEW)
    np.testing.assert_allclose(constant, np.tile(constant[0], (7, 1)), atol=1e-6)


def test_solvers_agree():
    """Primal, dual and matrix-free, for every loss."""
    for name, y in TARGETS.items():
        network = frozen(name)
        predictions = []
        for solver in ("auto", "primal", "dual", "matrix-free"):
            refit = GradientBasisRefit(network, alpha=1e-3, solver=solver, tol=1e-13)
            raw = raw_of_refit(refit.fit(X, y, WEIGHT), X_NEW)
            predictions.append(raw)
        for other in predictions[1:]:
            np.testing.assert_allclose(other, predictions[0], rtol=1e-5, atol=1e-6)


# -- the choice of alpha -------------------------------------------------------------

GRID = np.logspace(-5, 0, 6)


@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["unweighted", "weighted"])
@pytest.mark.parametrize("name", SQUARED)
def test_leave_one_out_is_brute_force(name, weight):
    """A row that is left out is one unit of weight; others and alpha stay."""
    y = TARGETS[name].reshape(40, -1)
    refit = GradientBasisRefit(frozen(name), alpha=GRID, center="zero")
    refit.fit(X, TARGETS[name], weight)
    s = np.ones(40) if weight is None else weight
    phi = oracles.scaled_features(refit, X, X, s)
    share = s / s.sum()
    expected = []
    for alpha in GRID[::-1]:
        errors = oracles.left_out_errors(phi, y, share, alpha, True, 1 / s)
        expected.append(share @ (errors**2).sum(1))
    np.testing.assert_array_equal(refit.cv_results_["alpha"], GRID[::-1])
    np.testing.assert_allclose(refit.cv_results_["loss"], expected, rtol=1e-6)
    assert refit.alpha_ == GRID[::-1][np.argmin(expected)]


@pytest.mark.parametrize("name", SQUARED)
def test_auto_is_leave_one_out_for_a_frozen_network_with_a_squared_loss(name):
    """There is a warning that it is optimistic."""
    auto, loo = (
        GradientBasisRefit(frozen(name), alpha=alpha) for alpha in ("auto", "loo")
    )
    with pytest.warns(UserWarning, match="alpha is chosen on samples that it may have"):
        auto.fit(X, TARGETS[name])
    loo.fit(X, TARGETS[name])
    assert auto.alpha_ == loo.alpha_
    assert len(auto.estimators_) == 1
    path = auto.cv_results_
    chosen = (path["alpha"] == auto.alpha_) & (path["center"] == auto.center_)
    assert path["loss"].min() == path["loss"][chosen]


def test_evidence_is_that_of_the_gaussian_process():
    """Up to a constant, minus the log likelihood of y at its best noise variance."""
    refit = GradientBasisRefit(frozen(), alpha="evidence", center="zero")
    refit.fit(X, CURVE)
    phi = oracles.scaled_features(refit, X, X, np.ones(40))[:, 0]
    contrast = np.linalg.svd(np.ones((1, 40)))[2][1:]
    z, features = contrast @ CURVE, contrast @ phi

    def minus_log_evidence(alpha):
        covariance = features @ features.T / (alpha * 40 / 2) + np.eye(39)
        noise = z @ np.linalg.solve(covariance, z) / 39
        return (np.linalg.slogdet(covariance)[1] + 39 * np.log(noise)) / 2

    alphas, scores = refit.cv_results_["alpha"], refit.cv_results_["loss"]
    middle = (alphas > 1e-6) & (alphas < 1)
    expected = np.array([minus_log_evidence(alpha) for alpha in alphas[middle]])
    found = scores[middle]
    np.testing.assert_allclose(found - found[0], expected - expected[0], atol=1e-6)
    assert refit.alpha_ == alphas[np.argmin(scores)]


def test_approximate_leave_one_out():
    """It is close to refits without each sample, for the log loss and a large alpha."""
    refit = GradientBasisRefit(frozen("binary"), alpha="loo", center="zero")
    refit.fit(X, TARGETS["binary"])
    alphas, scores = refit.cv_results_["alpha"], refit.cv_results_["loss"]
    assert refit.alpha_ == alphas[np.argmin(scores)]
    opened = open_network(refit.estimator_)
    problem = ConvexProblem(
        DenseOperator(torch.tensor(oracles.scaled_features(refit, X, X, np.ones(40)))),
        opened.targets(TARGETS["binary"]),
        opened.loss,
        torch.full((40,), 1 / 40, dtype=torch.float64),
    )
    middle = int(np.argmin(abs(np.log(alphas / 1e-2))))
    # The other rows keep their weight, which `rows` makes sum to one again.
    strength = alphas[middle] * 40 / 39
    parts = [(np.delete(np.arange(40), i), np.array([i])) for i in range(40)]
    losses = [
        float(opened.loss.value(fold.heldout.y, fold.heldout.raw(solve(fold.problem))))
        for fold in convex_folds(problem.with_alpha(strength), parts)
    ]
    np.testing.assert_allclose(scores[middle], np.mean(losses), rtol=0.05)


def test_cross_fitting_is_brute_force():
    """Each fold's network is trained, and its problem solved, without the fold."""
    splitter = KFold(3, shuffle=True, random_state=1)
    refit = GradientBasisRefit(mlp(), alpha=GRID, cv=splitter, center="zero")
    refit.fit(X, CURVE)
    total = np.zeros(len(GRID))
    for estimator, (seen, held) in zip(
        refit.estimators_, splitter.split(X), strict=True
    ):
        part = GradientBasisRefit(FrozenEstimator(estimator), alpha=1.0)
        part.fit(X[seen], CURVE[seen])
        weight = np.ones(len(seen))
        phi = oracles.scaled_features(part, X[seen], X[seen], weight)
        new = oracles.scaled_features(part, X[held], X[seen], weight)
        for number, alpha in enumerate(GRID[::-1]):
            y = CURVE[seen, None]
            coef, free = oracles.ridge(phi, y, weight / len(seen), alpha, True)
            error = CURVE[held] - (new @ coef + free)[:, 0]
            total[number] += (error**2).sum() / 40
    path = refit.cv_results_
    looked_at = len(path["alpha"])
    # With all samples alpha is smaller, by the fraction of samples in a fold.
    np.testing.assert_allclose(
        path["alpha"], GRID[::-1][:looked_at] * 2 / 3, rtol=1e-12
    )
    np.testing.assert_allclose(path["loss"], total[:looked_at], rtol=1e-6)
    assert refit.alpha_ == path["alpha"][np.argmin(path["loss"])]


def test_fold_networks_have_not_seen_their_fold():
    """Networks are in the order of folds, with the same number for each fold."""
    splitter = KFold(4)
    refit = GradientBasisRefit(mlp(), cv=splitter, n_models=6, random_state=0)
    refit.fit(X, CURVE)
    assert len(refit.estimators_) == 8
    seeds = [estimator.random_state for estimator in refit.estimators_]
    assert len(set(seeds)) == 8
    for number, (seen, _) in enumerate(splitter.split(X)):
        for estimator in refit.estimators_[2 * number : 2 * number + 2]:
            twin = clone(estimator).fit(X[seen], CURVE[seen])
            np.testing.assert_array_equal(estimator.predict(X), twin.predict(X))
    assert len(refit.basis_coef_) == refit.transform(X).shape[1]


@pytest.mark.parametrize("name", TARGETS)
def test_auto_cross_fits_every_loss(name):
    """There are five networks, or one if alpha is a number or "loo", or if frozen."""
    y = TARGETS[name]
    assert len(GradientBasisRefit(mlp(name)).fit(X, y).estimators_) == 5
    for alpha in (1e-2, "loo"):
        assert (
            len(GradientBasisRefit(mlp(name), alpha=alpha).fit(X, y).estimators_) == 1
        )
    refit = GradientBasisRefit(frozen(name), random_state=0)
    with pytest.warns(UserWarning, match="The network is taken as it is"):
        refit.fit(X, y)
    assert len(refit.estimators_) == 1
    assert len(refit.cv_results_["alpha"]) > 2


@pytest.mark.parametrize("name", ["regression", "multiclass"])
@pytest.mark.parametrize("cv", [3, np.int64(3), KFold(3), StratifiedKFold(3)])
def test_cv_of_any_kind(name, cv):
    if name == "regression" and isinstance(cv, StratifiedKFold):
        cv = [(np.arange(20), np.arange(20, 40))] * 3
    alpha = np.logspace(-3, -1, 3)
    refit = GradientBasisRefit(mlp(name), alpha=alpha, cv=cv, random_state=0)
    refit.fit(X, TARGETS[name])
    assert len(refit.estimators_) == 3
    assert refit.score(X, TARGETS[name]) > 0.4


# -- weights -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "alpha"),
    [
        *itertools.product(TARGETS, ["auto", "loo", 1e-3]),
        *itertools.product(SQUARED, ["evidence", 0]),
    ],
)
@pytest.mark.filterwarnings("ignore:The network is taken as it is")
def test_weights_equal_repetition(name, alpha):
    """The network is the same."""
    weight = WEIGHT * (np.arange(40) % 5 > 0)
    index = np.repeat(np.arange(40), weight.astype(int))
    # The same path for both sizes, solved well beyond what is compared.
    model = GradientBasisRefit(
        frozen(name), alpha=alpha, solver="primal", tol=1e-14, random_state=0
    )
    y = TARGETS[name]
    weighted = clone(model).fit(X, y, weight)
    repeated = clone(model).fit(X[index], y[index])
    np.testing.assert_allclose(weighted.alpha_, repeated.alpha_, rtol=1e-12)
    for key in ("model_loss_", "refit_loss_"):
        np.testing.assert_allclose(
            getattr(weighted, key), getattr(repeated, key), rtol=1e-5, atol=1e-9
        )
    raws = [raw_of_refit(refit, X_NEW) for refit in (weighted, repeated)]
    np.testing.assert_allclose(*raws, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("cv", [None, 3])
@pytest.mark.parametrize("name", ["regression", "binary", "multiclass"])
def test_weights_equal_repetition_in_training(name, cv):
    """Networks and folds are trained and drawn anew."""
    weight = WEIGHT * (np.arange(40) % 5 > 0)
    index = np.repeat(np.arange(40), weight.astype(int))
    model = GradientBasisRefit(
        mlp(name, max_iter=8), cv=cv, n_models=2, tol=1e-12, random_state=0
    )
    y = TARGETS[name]
    weighted = clone(model).fit(X, y, weight)
    repeated = clone(model).fit(X[index], y[index])
    np.testing.assert_allclose(weighted.alpha_, repeated.alpha_, rtol=1e-12)
    raws = [raw_of_refit(refit, X_NEW) for refit in (weighted, repeated)]
    np.testing.assert_allclose(*raws, rtol=1e-5, atol=1e-6)


def test_scale_of_the_weights_does_not_matter():
    """If alpha is fixed; leave-one-out and evidence count units of weight."""
    a, b = (
        GradientBasisRefit(frozen(), alpha=1e-3).fit(X, CURVE, c * WEIGHT)
        for c in (1, 17)
    )
    np.testing.assert_allclose(a.predict(X_NEW), b.predict(X_NEW), rtol=1e-9)


@pytest.mark.parametrize("class_weight", ["balanced", {0: 1.0, 1: 5.0, 2: 0.5}])
def test_class_weight_is_sample_weight(class_weight):
    """Balanced classes weigh the same, sample weights included."""
    y = TARGETS["multiclass"]
    model = GradientBasisRefit(mlp("multiclass"), alpha=1e-2)
    weighted = clone(model).set_params(class_weight=class_weight).fit(X, y, WEIGHT)
    factors = compute_class_weight(
        class_weight, classes=np.unique(y), y=y, sample_weight=WEIGHT
    )
    by_hand = model.fit(X, y, WEIGHT * factors[y])
    np.testing.assert_allclose(
        weighted.predict_proba(X_NEW), by_hand.predict_proba(X_NEW), rtol=1e-10
    )
    plain = clone(model).fit(X, y, WEIGHT)
    assert abs(plain.predict_proba(X_NEW) - weighted.predict_proba(X_NEW)).max() > 1e-3


# -- targets of another space --------------------------------------------------------


@pytest.mark.parametrize("class_weight", ["balanced", {0: 0.2, 1: 3.0, 2: 1.0}])
def test_leave_one_out_with_class_weights(class_weight):
    """One of the equal samples is left out, whatever the weight of its class."""
    y = TARGETS["multiclass"]
    index = np.repeat(np.arange(40), WEIGHT.astype(int))
    model = GradientBasisRefit(
        frozen("multiclass"), alpha="loo", class_weight=class_weight, tol=1e-12
    )
    weighted = clone(model).fit(X, y, WEIGHT)
    repeated = clone(model).fit(X[index], y[index])
    np.testing.assert_allclose(
        weighted.cv_results_["loss"], repeated.cv_results_["loss"], rtol=1e-6
    )


def test_transformed_targets_come_back():
    """The refit equals one with standardized targets."""
    y = 1000 + 50 * CURVE
    scaled = (y - y.mean()) / y.std()
    inner = TransformedTargetRegressor(mlp(), transformer=StandardScaler())
    for cv in (None, 3):
        params = {"alpha": "loo" if cv is None else "auto", "distribution": True}
        wrapped = GradientBasisRefit(inner, cv=cv, random_state=0, **params).fit(X, y)
        by_hand = GradientBasisRefit(mlp(), cv=cv, random_state=0, **params)
        by_hand.fit(X, scaled)
        assert wrapped.alpha_ == by_hand.alpha_
        mean, std = wrapped.predict(X_NEW, return_std=True)
        mean_by_hand, std_by_hand = by_hand.predict(X_NEW, return_std=True)
        np.testing.assert_allclose(mean, y.mean() + y.std() * mean_by_hand, rtol=1e-6)
        np.testing.assert_allclose(std, y.std() * std_by_hand, rtol=1e-4)
        np.testing.assert_allclose(
            wrapped.score(X, y), by_hand.score(X, scaled), rtol=1e-6
        )


def test_folds_share_one_target_transformation():
    y = 1000 + 50 * CURVE
    inner = TransformedTargetRegressor(mlp(), transformer=StandardScaler())
    refit = GradientBasisRefit(inner, cv=3).fit(X, y)
    expected = (y - y.mean()) / y.std()
    for estimator in refit.estimators_:
        transformed = estimator.transformer_.transform(y[:, None])[:, 0]
        np.testing.assert_allclose(transformed, expected, rtol=1e-12)


def test_std_of_a_curved_transformation():
    """Without out-of-fold errors it is half of the transformed interval."""
    y = np.exp(CURVE)
    inner = TransformedTargetRegressor(mlp(), func=np.log, inverse_func=np.exp)
    options = {"alpha": "loo", "distribution": True}
    refit = GradientBasisRefit(inner, **options).fit(X, y)
    mean, std = refit.predict(X_NEW, return_std=True)
    plain = GradientBasisRefit(mlp(), **options).fit(X, np.log(y))
    log_mean, log_std = plain.predict(X_NEW, return_std=True)
    np.testing.assert_allclose(mean, np.exp(log_mean), rtol=1e-6)
    expected = np.exp(log_mean) * np.sinh(log_std)
    np.testing.assert_allclose(std, expected, rtol=1e-4)
