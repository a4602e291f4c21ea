"""Models with a convex objective are certified for coefficients of any norm."""

import copy
import json
from fractions import Fraction
from operator import mul

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.neural_network import MLPClassifier, MLPRegressor
from test_check import forge
from torch import nn

from sklearn_pgb import certify
from sklearn_pgb._certificate._convex_bound import convex_bound
from sklearn_pgb._certificate._quadratic import QuadraticProblem, integer_sums
from sklearn_pgb._convex._problem import ConvexProblem
from sklearn_pgb._losses._classification import (
    CrossEntropyLoss,
    LogisticLoss,
    SmoothedHingeLoss,
)
from sklearn_pgb._losses._regression import (
    GammaLoss,
    HuberLoss,
    PoissonLoss,
    SquaredLoss,
)
from sklearn_pgb._operators._dense import DenseOperator
from sklearn_pgb.check import check


def holds(certificate, folder):
    """Export a certificate and replay it."""
    paths = folder / "certificate.json", folder / "evidence.npz"
    paths[0].write_text(certificate.to_json())
    certificate.save_evidence(paths[1])
    return check(*paths) == "holds"


def linear_data(seed=0, n=100):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 3))
    return X, X @ [1.0, 2.0, 3.0] + rng.normal(size=n)


# --- models that are not trained -----------------------------------------------------


def untrained_network():
    X, y = linear_data()
    network = MLPRegressor(hidden_layer_sizes=(), random_state=0)
    return network.fit(X, 1e8 * y), X, 1e8 * y, {}


def labels_with_units():
    X, y = linear_data()
    X = X * [1e8, 1, 1]
    return LogisticRegression(max_iter=5).fit(X, y > 0), X, y > 0, {}


def moved_ridge():
    X, y = linear_data()
    model = Ridge().fit(X, y)
    model.coef_[:] = 0.1
    return model, X, y, {"norm_budget": 1e-6}


def initialized_module():
    X, y = linear_data()
    torch.manual_seed(0)
    return nn.Linear(3, 1), X, 1e8 * y, {"loss": "squared_error", "penalty": 1e-3}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(
    "case", [untrained_network, labels_with_units, moved_ridge, initialized_module]
)
def test_linear_model_that_is_not_trained_is_not_global(case, tmp_path):
    """Its minimum is further away than any norm budget."""
    model, X, y, arguments = case()
    certificate = certify(model, X, y, **arguments)
    assert certificate.verdict == "not_critical"
    assert holds(certificate, tmp_path)


def test_verdict_does_not_depend_on_the_units_of_the_targets(seed):
    X, y = linear_data(seed)
    verdicts = set()
    for unit in (1e-8, 1.0, 1e8):
        model = Ridge(10.0).fit(X, unit * y)
        verdicts.add(certify(model, X, unit * y).verdict)
        model.coef_[:] = 1e-8 * unit
        assert certify(model, X, unit * y).verdict == "not_critical"
    assert verdicts == {"certified_global"}


# --- independent optima --------------------------------------------------------------


def loss_value(name, y, q):
    """Losses written anew, for each sample."""
    if name == "squared_error":
        return ((q - y) ** 2).sum(1)
    if name == "huber":
        error = np.abs(q - y)
        return np.where(error < 1.35, error**2, 2.7 * error - 1.35**2).sum(1)
    if name == "poisson":
        return (np.exp(q) - y * q).sum(1)
    if name == "binary_log_loss":
        return (np.logaddexp(0, q) - y * q).sum(1)
    return np.logaddexp.reduce(q, 1) - q[np.arange(len(q)), y[:, 0].astype(int)]


def draw(name, n_outputs, seed):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(60, 3)) * [1.0, 0.01, 10.0]
    score = X @ (rng.normal(size=(3, n_outputs)) / [[1.0], [0.01], [10.0]])
    score += rng.normal(size=(60, n_outputs))
    if name == "poisson":
        return X, rng.poisson(np.exp(score / 3)).astype(float)
    if name == "binary_log_loss":
        return X, (score > 0).astype(float)
    return X, score.argmax(1)[:, None] if name == "log_loss" else score


PENALTIES = {
    "none": lambda d, k: np.zeros(k * d + k),
    "all": lambda d, k: np.full(k * d + k, 0.02),
    "weights": lambda d, k: np.r_[np.full(k * d, 0.02), np.zeros(k)],
    "some": lambda d, k: np.r_[np.tile([0.05, 0.0, 0.0], k), np.full(k, 1e-3)],
}


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    ("name", "n_outputs"),
    [
        ("squared_error", 1),
        ("squared_error", 2),
        ("huber", 1),
        ("poisson", 1),
        ("binary_log_loss", 1),
        ("binary_log_loss", 2),
        ("log_loss", 3),
    ],
)
def test_minimum_is_that_of_scipy(name, n_outputs, weighted, penalty, seed, tmp_path):
    """Bounds enclose it from any start, and only parameters close to it are global."""
    X, y = draw(name, n_outputs, seed)
    strength = PENALTIES[penalty](3, n_outputs)
    weight = np.random.default_rng(seed).random(60) + 0.1 if weighted else np.ones(60)

    def objective(theta):
        W, b = theta[: 3 * n_outputs].reshape(n_outputs, 3), theta[3 * n_outputs :]
        losses = loss_value(name, y, X @ W.T + b)
        return losses @ weight / weight.sum() + strength @ theta**2

    scale = np.r_[np.tile([1.0, 0.01, 10.0], n_outputs), np.ones(n_outputs)]
    start = np.zeros(len(scale))
    for _ in range(3):
        best = minimize(
            lambda z: objective(z / scale), start, method="BFGS", options={"gtol": 1e-9}
        )
        start = best.x
    optimum = best.x / scale

    def certificate(theta):
        module = nn.Linear(3, n_outputs).double()
        module.weight.data = torch.tensor(theta[: 3 * n_outputs].reshape(-1, 3))
        module.bias.data = torch.tensor(theta[3 * n_outputs :])
        targets = y[:, 0] if y.shape[1] == 1 else y
        return certify(
            module, X, targets, loss=name, sample_weight=weight, penalty=strength
        )

    found = certificate(optimum)
    tolerance = found.tolerance
    assert found.objective == pytest.approx(best.fun, rel=1e-12)
    assert found.verdict == "certified_global"
    assert holds(found, tmp_path)
    rng = np.random.default_rng(seed)
    direction = rng.normal(size=len(scale)) / scale
    for excess in (0.5, 2.0, 1e3):
        # Along a line, the objective is nearly quadratic.
        length = 1e-3
        for _ in range(30):
            ratio = (objective(optimum + length * direction) - best.fun) / tolerance
            length *= np.clip(np.sqrt(excess / max(ratio, 1e-12)), 0.1, 10)
        moved = certificate(optimum + length * direction)
        assert moved.objective - best.fun == pytest.approx(excess * tolerance, rel=0.01)
        expected = "certified_global" if excess < 1 else "not_critical"
        assert moved.verdict == expected
        bound = moved.evidence.convex
        assert bound.lower_bound <= best.fun <= bound.value + 0.01 * tolerance
        assert bound.value <= best.fun + 1e-3 * tolerance
        assert holds(moved, tmp_path)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_deep_linear_network_of_labels_is_compared_with_the_linear_model(n_classes):
    """Its log loss is at least that of the best linear model."""
    X, y = linear_data(n=60)
    y = np.digitize(y + 3 * np.random.default_rng(0).normal(size=60), [-1.0, 1.0])
    y = np.minimum(y, n_classes - 1)
    linear = LogisticRegression(C=np.inf, tol=1e-12, max_iter=10_000).fit(X, y)
    least = certify(linear, X, y)
    network = MLPClassifier(
        (4,), "identity", solver="lbfgs", alpha=0, tol=1e-12, max_iter=5000
    )
    certificate = certify(network.set_params(random_state=0).fit(X, y), X, y)
    assert least.verdict == certificate.verdict == "certified_global"
    assert certificate.loss == pytest.approx(least.loss, abs=certificate.tolerance)
    network.coefs_[-1] *= 1.01
    assert certify(network, X, y).verdict == "not_critical"


# --- directions without curvature ----------------------------------------------------


def test_dependent_columns_without_penalty_have_no_bound():
    """In floating point they may be independent, with a smaller loss far away."""
    X, y = linear_data()
    X[:, 2] = X[:, 0] + X[:, 1]
    certificate = certify(LinearRegression().fit(X, y), X, y)
    assert certificate.verdict == "consistent_with_local_min"
    assert any("no curvature in some directions" in note for note in certificate.notes)
    assert certify(Ridge().fit(X, y), X, y).verdict == "certified_global"


def test_redundant_columns_are_left_out(tmp_path):
    """Zeros, copies, and a change that is the same for all classes change no loss."""
    X, y = linear_data()
    X = np.column_stack([X, X[:, 0], np.zeros(len(X))])
    certificate = certify(LinearRegression().fit(X, y), X, y)
    assert certificate.verdict == "certified_global"
    assert certificate.evidence.convex.problem.problem.operator.n_coef == 4
    assert holds(certificate, tmp_path)
    labels = np.digitize(y, [-1.0, 1.0])
    model = LogisticRegression(C=np.inf, tol=1e-12, max_iter=10_000)
    noisy = np.random.default_rng(0).permutation(labels)
    certificate = certify(model.fit(X, noisy), X, noisy)
    assert certificate.verdict == "certified_global"
    assert certificate.evidence.convex.problem.problem.operator.n_coef == 8
    assert holds(certificate, tmp_path)


@pytest.mark.parametrize("labels", [False, True])
def test_indicators_of_all_categories_are_redundant(labels, tmp_path):
    """Those of each column add up to the intercept."""
    X, y = linear_data()
    rng = np.random.default_rng(0)
    codes = rng.integers(3, size=len(X)), rng.integers(4, size=len(X))
    X = np.column_stack([X, *(np.eye(4)[each] for each in codes)])
    if labels:
        y = rng.permutation(y > 0)
        model = LogisticRegression(C=np.inf, tol=1e-12, max_iter=10_000).fit(X, y)
    else:
        model = LinearRegression().fit(X, y)
    certificate = certify(model, X, y)
    assert certificate.verdict == "certified_global"
    # Three numbers, seven indicators and an intercept, less one for each block.
    assert certificate.evidence.convex.problem.problem.operator.n_coef == 3 + 7 - 1
    assert holds(certificate, tmp_path)
    model.coef_ = model.coef_ * 1.1
    assert certify(model, X, y).verdict == "not_critical"


def test_integer_sums():
    """Also of more columns than samples; not with fractions, nor nearly."""
    rng = np.random.default_rng(0)
    free = torch.from_numpy(rng.integers(-5, 6, size=(20, 4)).astype(float))
    sums = torch.stack([free[:, 0] - 2 * free[:, 3], free.sum(1), free[:, 1] / 2], 1)
    columns = torch.cat([free, sums, free[:, :1] + 0.5], 1)
    assert integer_sums(columns) == [4, 5]
    assert integer_sums(columns[:4]) == [4, 5]
    assert integer_sums(columns[:, :0]) == []
    near = torch.cat([free, free[:, :1]], 1)
    near[7, 4] += 1
    assert integer_sums(near) == []


def test_separated_labels_have_no_minimum():
    """Without penalty the loss falls along a ray, so only the floor is a bound."""
    X, y = linear_data()
    labels = y > 0.5
    X[:, 0] += 10 * labels
    model = LogisticRegression(C=1e3, max_iter=10_000).fit(X, labels)
    certificate = certify(model.set_params(C=np.inf), X, labels)
    assert certificate.verdict != "certified_global"
    assert not certificate.evidence.convex.is_proven


def test_objective_that_is_too_large_has_no_bound():
    X, y = linear_data()
    model = Ridge().fit(X, y)
    certificate = certify(model, X, y, max_memory=1000)
    assert certificate.verdict == "consistent_with_local_min"
    assert any("too large to decompose" in note for note in certificate.notes)


# --- the bound itself ----------------------------------------------------------------

LOSSES = [
    SquaredLoss(),
    HuberLoss(),
    PoissonLoss(),
    GammaLoss(),
    LogisticLoss(),
    CrossEntropyLoss(),
    CrossEntropyLoss(0.1),
]


def random_quadratic(loss, seed, n_outputs=2):
    rng = np.random.default_rng(seed)
    dense = torch.tensor(rng.normal(size=(30, n_outputs, 5)))
    y = torch.tensor(rng.random((30, n_outputs))) + 0.1
    if loss.is_classification:
        y = torch.eye(n_outputs, dtype=y.dtype)[rng.integers(0, n_outputs, 30)]
    weight = torch.tensor(rng.random(30)) + 0.1
    problem = ConvexProblem(
        DenseOperator(dense),
        loss.encode(y),
        loss,
        weight / weight.sum(),
        intercept=False,
        offset=torch.tensor(rng.normal(size=(30, n_outputs))),
    )
    theta, penalty = torch.tensor(rng.normal(size=5)), torch.tensor([0, 0.1, 0.1, 0, 1])
    return QuadraticProblem(problem, 2 * penalty * theta, penalty.double())


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_gap_bounds_the_distance_to_the_minimum(loss, seed):
    """It is at least the distance, nearly the same close by, and infinite far away."""
    problem = random_quadratic(loss, seed)
    optimum = problem.newton(problem.newton(problem.descend()))
    least = problem.value(optimum)
    rng = np.random.default_rng(seed)
    for size in 10.0 ** np.arange(-6, 2):
        d = optimum + size * torch.tensor(rng.normal(size=5))
        gap, distance = problem.gap(d), problem.value(d) - least
        assert gap >= distance - 1e-14
        if size <= 1e-5 or loss.quadratic:
            assert gap <= 1.1 * distance + 1e-14
    assert loss.quadratic or problem.gap(optimum + 30.0) == np.inf


@pytest.mark.parametrize("loss", [*LOSSES, SmoothedHingeLoss(2.5)], ids=repr)
@pytest.mark.parametrize("radius", [1e-3, 0.3, 2.0])
def test_least_hessian_is_below_all_within_the_radius(loss, radius, seed):
    rng = np.random.default_rng(seed)
    y = torch.tensor(rng.random((200, 3))) + 0.1
    if loss.is_classification:
        y = loss.encode(torch.eye(3, dtype=y.dtype)[rng.integers(0, 3, 200)])
    raw = 2 * torch.tensor(rng.normal(size=(200, 3)))
    moved = torch.tensor(rng.normal(size=(200, 3)))
    moved = raw + radius * moved / moved.norm(dim=1, keepdim=True)

    def matrices(root):
        root = torch.diag_embed(root) if root.ndim == 2 else root
        return root.mT @ root

    least = matrices(loss.least_hessian_root(y, raw, radius))
    difference = matrices(loss.hessian_root(y, moved)) - least
    assert float(torch.linalg.eigvalsh(difference).min()) >= -1e-12


# --- forged files --------------------------------------------------------------------


def test_minimum_that_is_none_is_rejected(tmp_path):
    """Neither other coefficients nor a basis without curvature prove a minimum."""
    X, y = linear_data()
    certificate = certify(Ridge().fit(X, y), X, y)
    certificate.save_evidence(tmp_path / "evidence.npz")
    document = json.loads(certificate.to_json())

    def answer(document, arrays=None):
        (tmp_path / "certificate.json").write_text(
            json.dumps(forge(document, arrays or {}))
        )
        if arrays:
            np.savez(tmp_path / "evidence.npz", **arrays)
        return check(tmp_path / "certificate.json", tmp_path / "evidence.npz")

    assert answer(document) == "holds"
    forged = copy.deepcopy(document)
    forged["convex"] = None
    assert "verdict: claimed certified_global, found consistent" in answer(forged)
    forged = copy.deepcopy(document)
    forged["convex"]["value"] += 1.0
    assert "convex value: claimed" in answer(forged)
    with np.load(tmp_path / "evidence.npz") as file:
        arrays = dict(file)
    other = {**arrays, "convex_features": np.ones((100, 1, 4))}
    forged["convex"] = document["convex"]
    assert answer(forged, other) != "holds"
    # At other coefficients the value is right, but it is not the minimum.
    d = np.array([0.1, 0, 0, 0])
    q = arrays["raw"][:, 0] + arrays["convex_features"][:, 0] @ d
    theta = arrays["convex_theta"] + d
    value = np.mean((q - y) ** 2) + arrays["convex_penalty"] @ theta**2
    forged["convex"] = {"value": value, "coef": d.tolist()}
    assert "convex: the minimum is not proven" in answer(forged, arrays)


@pytest.mark.parametrize("offset", [1e6, 1e9, 1e12])
def test_value_includes_the_rounding_of_long_coefficients(seed, offset):
    """The exact objective of the coefficients, in fractions, is not above it."""
    rng = np.random.default_rng(seed)
    X = offset + rng.normal(size=(12, 3))
    y = X @ rng.normal(size=3) - offset
    tilt, penalty = rng.normal(size=3), np.array([0.0, 1e-9, 0.0])
    parts = torch.from_numpy(X)[:, None], torch.from_numpy(y)[:, None]
    weight = torch.full((12,), 1 / 16, dtype=torch.float64)
    problem = ConvexProblem(
        DenseOperator(parts[0]), parts[1], SquaredLoss(), weight, intercept=False
    )
    whole = QuadraticProblem(problem, *map(torch.from_numpy, (tilt, penalty)))
    bound = convex_bound("gradient", whole, [], 0.0, 1.0, 1e9)
    d = [Fraction(each) for each in bound.change.tolist()]
    exact = sum(
        Fraction(1, 16) * (sum(map(mul, map(Fraction, row), d)) - Fraction(target)) ** 2
        for row, target in zip(X.tolist(), y.tolist(), strict=True)
    )
    exact += sum(map(mul, map(Fraction, tilt.tolist()), d))
    exact += sum(Fraction(p) * c**2 for p, c in zip(penalty.tolist(), d, strict=True))
    assert bound.value >= exact
