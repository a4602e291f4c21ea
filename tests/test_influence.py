"""The influence of training samples equals that of deleting them, one at a time."""

import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.special import expit, softmax
from sklearn.compose import TransformedTargetRegressor
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import PoissonRegressor, Ridge
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.preprocessing import StandardScaler

from sklearn_pgb import GradientBasisRefit


def network(kind=MLPRegressor, units=3, **params):
    defaults = {"activation": "tanh", "max_iter": 20, "random_state": 0}
    return kind(hidden_layer_sizes=units, **defaults, **params)


def basis(refit, X, weight, n_outputs):
    """Derivatives (n, n_outputs, n_coef), and the penalty of each coefficient.

    The output biases are the last parameters of each network. All networks share one,
    without penalty.
    """
    J = refit.transform(X).reshape(len(X), n_outputs, -1)
    J = np.split(J, np.cumsum([n_params(each) for each in refit.estimators_])[:-1], 2)
    parts, penalties = [], []
    for part in J:
        part = part[:, :, :-n_outputs]
        size = (weight @ (part**2).sum(2)).mean() * len(J)
        parts.append(part)
        penalties.append(np.full(part.shape[2], refit.alpha_ * size))
    parts.append(np.tile(np.eye(n_outputs), (len(X), 1, 1)))
    return np.concatenate(parts, 2), np.concatenate([*penalties, np.zeros(n_outputs)])


def n_params(estimator):
    return sum(part.size for part in (*estimator.coefs_, *estimator.intercepts_))


def least_squares(J, y, weight, penalty):
    """Minimize ``sum_i w_i |J_i c - y_i|^2 + 1/2 sum_p penalty_p c_p^2``."""
    root = np.sqrt(weight)[:, None]
    rows = (root[..., None] * J).reshape(-1, J.shape[2])
    system = np.vstack([rows, np.diag(np.sqrt(penalty / 2))])
    target = np.concatenate([(root * y).ravel(), np.zeros(len(penalty))])
    return np.linalg.lstsq(system, target)[0]


@pytest.mark.parametrize("number", range(50))
def test_equals_deletion(number):
    rng = np.random.default_rng(number)
    n, k, n_models = rng.integers(8, 60), rng.integers(1, 3), rng.integers(1, 3)
    X, new = rng.standard_normal((n, 2)), rng.standard_normal((5, 2))
    y = np.sin(X @ rng.standard_normal((2, k))) + 0.3 * rng.standard_normal((n, k))
    weight = rng.random(n) * (rng.random(n) < 0.8) + 1e-3
    alpha, center = 10.0 ** rng.uniform(-4, 0), rng.choice(["zero", "average"])
    # Networks without weights, so that they do not depend on them.
    frozen = FrozenEstimator(network().fit(X, y if k > 1 else y[:, 0]))
    model = frozen if n_models == 1 else network()
    refit = GradientBasisRefit(model, alpha=alpha, n_models=n_models, center=center)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        refit.fit(X, y if k > 1 else y[:, 0], sample_weight=weight)
    normalized = weight / weight.sum()
    J, penalty = basis(refit, X, normalized, k)
    # The bases are scaled on the training samples.
    other = refit.transform(new)
    J_new = basis_like(refit, other.reshape(5, k, -1), k)
    mean = [each.predict(X).reshape(n, k) for each in refit.estimators_]
    target = y - np.mean(mean, 0) * (center == "average")
    full = least_squares(J, target, normalized, penalty)
    found = refit.influence(new, X, y if k > 1 else y[:, 0], weight).reshape(5, n, k)
    expected, left_out = np.empty((5, n, k)), np.empty((n, k))
    for i in range(n):
        others = np.arange(n) != i
        coef = least_squares(J[others], target[others], normalized[others], penalty)
        expected[:, i] = J_new @ (coef - full)
        left_out[i] = J[i] @ coef + (y - target)[i]
    assert_allclose(found, expected, rtol=0, atol=1e-8 * np.abs(expected).max())
    predicted = refit.leave_one_out_prediction(X, y if k > 1 else y[:, 0], weight)
    assert_allclose(predicted.reshape(n, k), left_out, rtol=0, atol=1e-8)


def basis_like(refit, J, n_outputs):
    """The columns of `basis` for new derivatives."""
    cuts = np.cumsum([n_params(each) for each in refit.estimators_])[:-1]
    parts = [part[:, :, :-n_outputs] for part in np.split(J, cuts, 2)]
    parts.append(np.tile(np.eye(n_outputs), (len(J), 1, 1)))
    return np.concatenate(parts, 2)


def labels_problem(seed, n_classes, n=30):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, 2))
    y = np.digitize(X[:, 0] + rng.standard_normal(n), [-0.5, 0.5][: n_classes - 1])
    return X, y, rng.random(n) + 0.1, rng.standard_normal((4, 2))


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("n", [15, 60])
def test_labels_equal_one_newton_step(n_classes, n):
    X, y, weight, new = labels_problem(0, n_classes, n)
    model = FrozenEstimator(network(MLPClassifier).fit(X, y))
    refit = GradientBasisRefit(model, alpha=0.05, center="zero", tol=1e-12)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        refit.fit(X, y, sample_weight=weight)
    k, normalized = n_classes if n_classes > 2 else 1, weight / weight.sum()
    J, penalty = basis(refit, X, normalized, k)

    def step(coef, weight):
        """The Newton step of the objective with these weights."""
        raw = J @ coef
        if k == 1:
            p = expit(raw)
            curvature = (p * (1 - p))[..., None]
            residual = p - y[:, None]
        else:
            p = softmax(raw, 1)
            curvature = p[:, :, None] * (np.eye(k) - p[:, None])
            residual = p - np.eye(k)[y]
        gradient = np.einsum("i,ikp,ik->p", weight, J, residual) + penalty * coef
        hessian = np.einsum("i,ikp,ikl,ilq->pq", weight, J, curvature, J)
        # Constants added to all classes have no effect.
        return -np.linalg.lstsq(hessian + np.diag(penalty), gradient)[0]

    def centered(raw):
        return raw - raw.mean(1, keepdims=True) if k > 1 else raw

    coef = np.zeros(J.shape[2])
    for _ in range(30):
        coef = coef + step(coef, normalized)
    decision = refit.decision_function(X).reshape(n, k)
    assert_allclose(centered(decision), centered(J @ coef), atol=1e-4)
    found = refit.influence(new, X, y, weight).reshape(4, n, k)
    J_new = basis_like(refit, refit.transform(new).reshape(4, k, -1), k)
    for i in range(n):
        changed = normalized.copy()
        changed[i] = 0.0
        expected = centered(J_new @ step(coef, changed))
        size = np.abs(expected).max()
        # The refit is solved up to a gap of 1e-12, so to 1e-6 in its coefficients.
        assert_allclose(centered(found[:, i]), expected, rtol=0, atol=1e-6 * size)


@pytest.fixture(scope="module")
def fitted():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((80, 3))
    y = np.sin(X).sum(1) + 0.1 * rng.standard_normal(80)
    y[7] += 5.0
    return GradientBasisRefit(network(), alpha=0.01).fit(X, y), X, y


def test_top_k_are_the_largest(fitted, monkeypatch):
    refit, X, y = fitted
    full = refit.influence(X[:9], X, y)
    indices, values = refit.influence(X[:9], X, y, top_k=5)
    order = np.argsort(-np.abs(full), axis=1)[:, :5]
    assert_allclose(indices, order)
    assert_allclose(values, np.take_along_axis(full, order, 1), rtol=1e-12)
    # The same from small blocks of training samples and predictions.
    monkeypatch.setattr("sklearn_pgb._operators._blocks.BLOCK_BYTES", 2000)
    small, others = refit.influence(X[:9], X, y, top_k=5)
    assert_allclose(small, order)
    assert_allclose(others, values, rtol=1e-9)


def test_wrong_target_is_the_most_influential(fitted):
    refit, X, y = fitted
    indices, values = refit.influence(X[7:8], X, y, top_k=1)
    assert indices.item() == 7
    assert values.item() < 0
    left_out = refit.leave_one_out_prediction(X, y)
    assert_allclose(left_out[7] - refit.predict(X[7:8]), values[0], rtol=1e-6)
    assert np.argmax(np.abs(y - left_out)) == 7


def test_samples_without_weight_have_no_influence(fitted):
    refit, X, y = fitted
    X, y, weight = np.vstack([X, X[:2]]), np.append(y, [9.0, 9.0]), np.ones(82)
    weight[80:] = 0
    found = refit.influence(X[:3], X, y, weight)
    assert_allclose(found[:, :80], refit.influence(X[:3], X[:80], y[:80]), rtol=1e-9)
    assert not found[:, 80:].any()
    assert np.isnan(refit.leave_one_out_prediction(X, y, weight)[80:]).all()


def test_units_are_those_of_predictions(fitted):
    _, X, y = fitted
    y = 100 * y + 1000
    inner = GradientBasisRefit(network(), alpha=0.01)
    scaler = StandardScaler().fit(y[:, None])
    inner.fit(X, scaler.transform(y[:, None])[:, 0])
    outer = TransformedTargetRegressor(network(), transformer=StandardScaler())
    outer = GradientBasisRefit(outer, alpha=0.01).fit(X, y)
    expected = inner.influence(X, X, scaler.transform(y[:, None])[:, 0])
    found = outer.influence(X, X, y)
    assert_allclose(found, expected * scaler.scale_, rtol=1e-6, atol=1e-9)


def two_sizes(rng, X):
    return np.c_[X[:, 0], 1000 * X[:, 1]] + rng.standard_normal((100, 2)) * [1, 1000]


IN_UNITS = {
    "two outputs": (
        TransformedTargetRegressor(Ridge(), transformer=StandardScaler()),
        two_sizes,
    ),
    "log": (
        TransformedTargetRegressor(Ridge(), func=np.log, inverse_func=np.exp),
        lambda rng, X: np.exp(X[:, 0] + rng.standard_normal(100)),
    ),
    "counts": (PoissonRegressor(), lambda rng, X: rng.poisson(np.exp(1 + X[:, 0]))),
}


@pytest.mark.parametrize("name", IN_UNITS)
@pytest.mark.parametrize("max_memory", ["1GB", "120KB"])
def test_largest_are_those_in_units_of_predictions(name, max_memory):
    """With `top_k`, samples are those of the largest entries of the full matrix."""
    model, targets = IN_UNITS[name]
    rng = np.random.default_rng(0)
    X = rng.standard_normal((100, 3))
    y = targets(rng, X)
    refit = GradientBasisRefit(model, alpha=0.01, cv=None).fit(X, y)
    refit.set_params(max_memory=max_memory)
    full = refit.influence(X[:20], X, y).reshape(20, 100, -1)
    order = np.argsort(-np.linalg.norm(full, axis=2), axis=1)[:, :3]
    indices, values = refit.influence(X[:20], X, y, top_k=3)
    np.testing.assert_array_equal(indices, order)
    expected = np.take_along_axis(full, order[..., None], 1)
    assert_allclose(values.reshape(20, 3, -1), expected)


def test_bad_input(fitted):
    refit, X, y = fitted
    with pytest.raises(NotFittedError):
        GradientBasisRefit(network()).influence(X, X, y)
    with pytest.raises(ValueError, match=r"X has 2 features, but GradientBasisRefit"):
        refit.influence(X[:, :2], X, y)
    with pytest.raises(ValueError, match=r"X has 2 features, but GradientBasisRefit"):
        refit.influence(X, X[:, :2], y)
    with pytest.raises(ValueError, match=r"inconsistent numbers of samples"):
        refit.influence(X, X, y[:-1])
    with pytest.raises(ValueError, match=r"must be those of fit, where the loss of"):
        refit.influence(X, X, y + 0.1)
    with pytest.raises(ValueError, match=r"must be those of fit, where the loss of"):
        refit.leave_one_out_prediction(X, y, np.arange(80))
    for top_k in (0, 81, 2.0, True):
        with pytest.raises(ValueError, match=r"top_k must be None or an int from 1 to"):
            refit.influence(X, X, y, top_k=top_k)


def test_solution_that_is_not_unique():
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((40, 1)).repeat(2, 1), rng.standard_normal(40)
    model = FrozenEstimator(network(units=2).fit(X, y))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        refit = GradientBasisRefit(model, alpha=0).fit(X, y)
        with pytest.raises(ValueError, match=r"alpha_ must be positive for a basis"):
            refit.influence(X, X, y)
        far = np.full(40, 1e-30)
        far[0] = 1.0
        refit = GradientBasisRefit(model, alpha=0.1).fit(X, y, sample_weight=far)
        with pytest.raises(ValueError, match=r"it is not unique without sample 0"):
            refit.influence(X, X, y, far)
    refit.alpha_ = np.inf
    with pytest.raises(ValueError, match=r"alpha_ must be finite, got inf"):
        refit.influence(X, X, y, far)


def test_unknown_labels_and_memory():
    X, y, _, new = labels_problem(1, 2)
    refit = GradientBasisRefit(network(MLPClassifier), alpha=0.1).fit(X, y)
    assert refit.influence(new, X, y).shape == (4, 30)
    with pytest.raises(ValueError, match=r"y_train must hold labels of the fit"):
        refit.influence(new, X, y + 1)
    refit.set_params(max_memory=1000)
    with pytest.raises(ValueError, match=r"max_memory must hold matrices of 12 rows"):
        refit.influence(new, X, y)
