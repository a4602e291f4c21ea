"""Bounds on the infimum over a span, ranks, and whether it is attained."""

from dataclasses import replace
from operator import mul, truediv

import mpmath
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from oracles import optimum, random_problem, random_targets, random_weight
from sklearn.linear_model import QuantileRegressor

from sklearn_pgb._certificate._table import descend
from sklearn_pgb._convex import _infimum as module
from sklearn_pgb._convex._infimum import infimum
from sklearn_pgb._convex._problem import ConvexProblem
from sklearn_pgb._convex._solve import solve
from sklearn_pgb._losses._classification import (
    CrossEntropyLoss,
    LogisticLoss,
    SmoothedHingeLoss,
)
from sklearn_pgb._losses._floor import pure_error_floor
from sklearn_pgb._losses._regression import HuberLoss, PoissonLoss, SquaredLoss
from sklearn_pgb._operators._dense import DenseOperator, KroneckerOperator

LOSSES = [
    SquaredLoss(),
    CrossEntropyLoss(0.1),
    LogisticLoss(),
    SmoothedHingeLoss(),
    PoissonLoss(),
]
MEMORY = 1e9


def find(problem, **params):
    return infimum(problem, descend, **{"max_memory": MEMORY, **params})


def features_problem(loss, generator, n=30, p=3, k=2, intercept=True):
    """A basis whose features every output combines by itself."""
    features = torch.randn(n, p, generator=generator, dtype=torch.float64)
    return ConvexProblem(
        KroneckerOperator(features, k),
        random_targets(loss, n, generator, k),
        loss,
        random_weight(n, generator),
        intercept=intercept,
    )


def as_dense(problem):
    return replace(problem, operator=DenseOperator(problem.operator.dense()))


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
@pytest.mark.parametrize("intercept", [True, False])
def test_encloses_the_optimum(loss, intercept, generator):
    problem = random_problem(
        loss, generator, n_samples=40, alpha=0, intercept=intercept
    )
    least = optimum(problem)[0]
    found = find(problem)
    assert found.value == pytest.approx(least, abs=1e-8)
    assert found.lower_bound <= least + 1e-12
    assert found.value - found.lower_bound <= 5e-8
    assert found.norm_budget >= 1e6 * found.norm
    assert found.rank == 4 + 2 * intercept
    assert found.attained


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
@pytest.mark.parametrize("intercept", [True, False])
def test_features_are_as_the_dense_basis(loss, intercept, generator):
    problem = features_problem(loss, generator, intercept=intercept)
    one, other = find(problem), find(as_dense(problem))
    assert one.value == pytest.approx(other.value, rel=1e-9)
    assert one.lower_bound == pytest.approx(other.lower_bound, abs=1e-8)
    assert one.rank == other.rank
    assert one.norm == pytest.approx(other.norm, rel=1e-5)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_products_alone_enclose_the_same(loss, generator):
    """Without memory for a factorization, the bound has a norm budget."""
    problem = random_problem(loss, generator, n_samples=40, alpha=0)
    full, small = find(problem), find(problem, max_memory=1.0)
    assert small.rank is None
    assert small.value == pytest.approx(full.value, abs=1e-7)
    assert small.lower_bound <= full.value
    # The solver leaves gradients of a few 1e-9, and the budget multiplies them.
    assert small.value - small.lower_bound <= 1e-8 * small.norm_budget
    assert np.isfinite(small.norm_budget)
    assert small.norm_budget >= full.norm


def test_norm_is_that_of_coefficients_times_columns(generator):
    """Full rank: there is one solution. The intercept counts from the mean target."""
    problem = random_problem(SquaredLoss(), generator, alpha=0, offset=True)
    _, coef, intercept = optimum(problem)
    weight, dense = problem.weight, problem.operator.dense()
    mean = torch.einsum("i,icj->cj", weight, dense)
    columns = weight.sqrt()[:, None, None] * (dense - mean)
    free = intercept + mean @ coef - weight @ (problem.y - problem.offset)
    scaled = columns.flatten(0, 1).norm(dim=0) * coef
    size = float(torch.cat([scaled, free]).norm())
    assert find(problem).norm == pytest.approx(size, rel=1e-6)


@pytest.mark.parametrize("loss", [SquaredLoss(), LogisticLoss()], ids=["sq", "log"])
@pytest.mark.parametrize("intercept", [True, False])
def test_scales_of_the_columns_have_no_effect(loss, intercept, generator):
    """Powers of two are exact, so results are equal to the last digit."""
    problem = random_problem(loss, generator, alpha=0, intercept=intercept)
    scale = 2.0 ** torch.tensor([-60.0, 50.0, 0.0, 3.0], dtype=torch.float64)
    scaled = DenseOperator(problem.operator.dense() * scale)
    plain, other = find(problem), find(replace(problem, operator=scaled))
    assert other.rank == plain.rank == 4 + 2 * intercept
    assert other.value == pytest.approx(plain.value, rel=1e-12)
    assert other.norm == pytest.approx(plain.norm, rel=1e-9)
    assert other.lower_bound == pytest.approx(plain.lower_bound, rel=1e-7)


def squared_problem(X, y, intercept=True):
    """Equal weights."""
    X, y = torch.as_tensor(X), torch.as_tensor(y)[:, None]
    weight = torch.full((len(X),), 1 / len(X), dtype=torch.float64)
    operator = KroneckerOperator(X, 1)
    return ConvexProblem(operator, y, SquaredLoss(), weight, intercept=intercept)


def exact_least(X, y, digits=60):
    """Least mean square and its coefficients, in so many digits."""
    mpmath.mp.dps = digits
    A = mpmath.matrix(np.column_stack([np.ones(len(X)), X]).tolist())
    target = mpmath.matrix(y.tolist())
    coef = mpmath.lu_solve(A.T * A, A.T * target)
    left = target - A * coef
    return float(sum(part**2 for part in left) / len(y)), coef


def scaled_norm(X, coef):
    """Norm of coefficients times the norms of centered columns; the mean is 0 then."""
    scale = X.std(0)
    return float(np.linalg.norm(scale * np.array([float(c) for c in coef[1:]])))


def test_large_column_does_not_hide_a_small_one():
    rng = np.random.default_rng(0)
    X = np.column_stack([1e16 * rng.normal(size=50), rng.normal(size=50)])
    y = 3 * X[:, 1] + 0.1 * rng.normal(size=50)
    found = find(squared_problem(X, y))
    least, _ = exact_least(X, y)
    assert found.lower_bound <= least * (1 + 1e-12)
    assert found.lower_bound == pytest.approx(least, rel=1e-6)
    assert found.value == pytest.approx(least, rel=1e-9)


@pytest.mark.parametrize("degree", [3, 8, 14, 20])
@pytest.mark.parametrize("span", [(0.0, 1.0), (2000.0, 2024.0)])
def test_bound_is_below_all_coefficients_within_its_budget(degree, span):
    """Powers of a number are a basis with singular values of all sizes."""
    rng = np.random.default_rng(degree)
    x = rng.uniform(*span, size=40)
    X = x[:, None] ** np.arange(1, degree + 1)
    y = np.sin(x) + 0.1 * rng.normal(size=40)
    found = find(squared_problem(X, y))
    least, coef = exact_least(X, y, 200)
    assert found.value >= least * (1 - 1e-9)
    assert found.lower_bound <= found.value
    if scaled_norm(X, coef) <= found.norm_budget:
        assert found.lower_bound <= least * (1 + 1e-9)
    assert found.lower_bound > 0.5 * least
    assert np.isfinite(found.norm_budget)


def test_digits_of_columns_and_targets_far_from_zero_are_kept():
    """They differ from those near zero by a constant, which the intercept absorbs."""
    rng = np.random.default_rng(0)
    X, y = rng.integers(100, size=(50, 3)) * 1.0, rng.integers(100, size=50) * 1.0
    near, far = find(squared_problem(X, y)), find(squared_problem(X + 1e10, y - 1e10))
    assert far.rank == near.rank == 4
    assert far.value == pytest.approx(near.value, rel=1e-12)
    assert far.lower_bound == pytest.approx(near.lower_bound, rel=1e-9)


def test_bound_on_rounded_outputs_holds_for_the_exact_ones():
    """Nearly linear units: long coefficients see the rounding of hidden outputs."""
    rng = np.random.default_rng(231)
    x = rng.normal(size=8).astype(np.longdouble)
    weights = 10.0 ** rng.uniform(-4, -1.5) * rng.normal(size=4)
    units = np.tanh(np.outer(x, weights) + rng.normal(size=4))
    y = rng.normal(size=8)
    problem = ConvexProblem(
        KroneckerOperator(torch.tensor(units.astype(float)), 1),
        torch.tensor(y[:, None]),
        SquaredLoss(),
        torch.full((8,), 1 / 8, dtype=torch.float64),
    )
    centered = units - units.mean(0)
    matrix = np.column_stack(
        [np.ones(8), centered / np.sqrt((centered**2).mean(0))]
    ) / np.sqrt(np.longdouble(8))
    target = np.r_[y / np.sqrt(8), np.zeros(5)]
    least = {False: np.inf, True: np.inf}
    enclosed = {
        rounded: infimum(replace(problem, rounded_columns=rounded)) for rounded in least
    }
    for ridge in 10.0 ** np.arange(-16, -5, 0.5):
        rows = np.vstack([matrix, np.sqrt(ridge) * np.eye(5)])
        coef = np.zeros(5, np.longdouble)
        for _ in range(4):
            left = (target - rows @ coef).astype(float)
            coef += np.linalg.lstsq(rows.astype(float), left, rcond=1e-18)[0]
        value = float(np.square(matrix @ coef - target[:8]).sum())
        for rounded, found in enclosed.items():
            if np.linalg.norm(coef.astype(float)) <= found.norm_budget:
                least[rounded] = min(least[rounded], value)
    assert enclosed[True].lower_bound < least[True]
    # It does not hold by itself.
    assert enclosed[False].lower_bound > least[False]
    assert_allclose(enclosed[True].lower_bound, least[True], rtol=1e-4)


def test_a_bound_is_never_above_a_value_in_hand(generator):
    problem = random_problem(SquaredLoss(), generator, alpha=0)
    found = find(problem)
    attained_loss = 0.5 * found.value
    assert find(problem, attained_loss=attained_loss).lower_bound == attained_loss


def test_floor_holds_for_all_coefficients(generator):
    """If the basis interpolates, the bound is the sum of the samples' minima."""
    problem = random_problem(SquaredLoss(), generator, n_samples=4, alpha=0)
    wide = torch.randn(4, 2, 30, generator=generator, dtype=torch.float64)
    problem = replace(problem, operator=DenseOperator(wide))
    found = find(problem)
    assert (found.lower_bound, found.norm_budget) == (0.0, np.inf)
    limited = find(problem, floor=0.3, attained_loss=0.4)
    assert limited.norm_budget == np.inf
    assert limited.lower_bound == limited.value == 0.3


def test_features_that_overflow_leave_the_floor(generator):
    problem = random_problem(SquaredLoss(), generator, alpha=0)
    rows = problem.operator.dense().clone()
    rows[0, 0, 0] = np.inf
    found = find(replace(problem, operator=DenseOperator(rows)))
    assert (found.lower_bound, found.norm_budget) == (0.0, np.inf)


@pytest.mark.parametrize(
    "loss", [CrossEntropyLoss(), LogisticLoss()], ids=["ce", "log"]
)
def test_separated_labels_are_not_attained(loss, generator):
    n, k = 30, 3 if isinstance(loss, CrossEntropyLoss) else 1
    features = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    raw = features @ torch.randn(2, k, generator=generator, dtype=torch.float64)
    y = raw > 0 if k == 1 else torch.eye(k)[raw.argmax(1)]
    weight = random_weight(n, generator)
    problem = ConvexProblem(KroneckerOperator(features, k), y.double(), loss, weight)
    found = find(problem)
    assert found.attained is False
    assert found.lower_bound == 0.0
    assert found.value <= 1e-10


def test_expensive_steps_are_replaced_by_descent(generator, monkeypatch):
    """L-BFGS on orthonormal coordinates of the span has the same result."""
    problem = random_problem(LogisticLoss(), generator, n_samples=40, alpha=0)
    newton = find(problem)
    monkeypatch.setattr(module, "NEWTON_FLOPS", 0.0)
    descent = find(problem)
    assert descent.value == pytest.approx(newton.value, abs=1e-10)
    assert descent.rank == newton.rank


def test_large_errors_have_no_curvature(generator):
    """The Huber loss is then nearly that of absolute errors, fitted by linear programs.

    It differs from 2 delta |q - y| by at most delta^2.
    """
    X = torch.randn(40, 2, generator=generator, dtype=torch.float64)
    y = 5 + X.sum(1) + torch.randn(40, generator=generator, dtype=torch.float64)
    weight, loss = torch.full((40,), 1 / 40, dtype=torch.float64), HuberLoss(1e-3)
    operator = KroneckerOperator(X, 1)
    found = find(ConvexProblem(operator, y[:, None], loss, weight, intercept=True))
    fit = QuantileRegressor(alpha=0, quantile=0.5).fit(X.numpy(), y.numpy())
    least = 2e-3 * np.abs(fit.predict(X.numpy()) - y.numpy()).mean()
    assert least - 1e-6 <= found.value <= least
    assert 0 <= found.value - found.lower_bound <= 1e-3 * found.value


def test_bound_without_repair_needs_a_norm(generator, monkeypatch):
    """Unless the gradient at Newton's end is rounding, as here it may be."""
    problem = random_problem(LogisticLoss(), generator, n_samples=40, alpha=0)
    least = find(problem)
    monkeypatch.setattr(module, "REPAIR_FLOPS", 0.0)
    found = find(problem)
    assert found.lower_bound <= least.value
    assert found.value - found.lower_bound <= 1e-8


def test_empty_span_has_rank_zero(generator):
    """A network without influence: only the offset is left."""
    problem = random_problem(
        LogisticLoss(), generator, alpha=0, intercept=False, offset=True
    )
    rows = torch.zeros_like(problem.operator.dense())
    problem = replace(problem, operator=DenseOperator(rows))
    found = find(problem)
    assert found.rank == 0
    assert found.value == pytest.approx(float(problem.data_value(problem.offset)))
    assert found.norm == 0.0


def test_better_coefficients_replace_the_computed_ones(generator):
    """The bounds stay in order, and the coefficients attain the value."""
    problem = random_problem(SquaredLoss(), generator, alpha=0, intercept=False)
    found = find(problem)
    best = solve(problem).coef
    worse = replace(found, value=9.0, steady=9.0, lower_bound=8.0)
    known = worse.with_coefficients(problem, best, 0.0)
    assert known.value == known.steady == pytest.approx(found.value, rel=1e-12)
    assert known.lower_bound == known.value
    assert known.norm == pytest.approx(found.norm, rel=1e-9)
    assert_allclose(known.coordinates, found.coordinates, atol=1e-9)


def exact_huber(y, q):
    delta, error = mpmath.mpf(0.1), abs(q - y)
    return error**2 if error <= delta else delta * (2 * error - delta)


EXACT_LOSSES = {
    SquaredLoss(): lambda y, q: (q - y) ** 2,
    HuberLoss(0.1): exact_huber,
    LogisticLoss(): lambda y, q: mpmath.log1p(mpmath.exp(q)) - y * q,
    SmoothedHingeLoss(): lambda y, q: max(0, 1 - y * q) ** 2,
    PoissonLoss(): lambda y, q: mpmath.exp(q) - y * q,
}


@pytest.mark.parametrize("loss", EXACT_LOSSES, ids=lambda loss: loss.name)
@pytest.mark.parametrize("distance", [1e-8, 1e-11, 1e-13, 1e-14])
@pytest.mark.parametrize("repeated", [False, True])
def test_value_is_attained_by_very_long_coefficients(
    loss, distance, repeated, generator
):
    """Nearly equal columns have long solutions, with outputs that are rounded."""
    mpmath.mp.dps = 50
    X = torch.randn(12, 4, generator=generator, dtype=torch.float64)
    X[:, 2:] = X[:, :2] + distance * X[:, 2:]
    y, weight = random_targets(loss, 12, generator, 1), random_weight(12, generator)
    floor = -np.inf
    if repeated:
        # Each sample has both labels, so no model is better than zero.
        labels = torch.arange(12)[:, None] >= 6
        y = loss.encode(labels.double())
        X[6:], weight[6:] = X[:6], weight[:6]
        weight /= weight.sum()
        floor = pure_error_floor(X, y, loss, weight).value
    problem = ConvexProblem(KroneckerOperator(X, 1), y, loss, weight, intercept=False)
    found = find(problem, floor=floor)
    beta = [found.ray * mpmath.mpf(b) for b in found.coordinates[:, 0].tolist()]
    w = [mpmath.mpf(each) for each in weight.tolist()]
    rows = [[mpmath.mpf(x) for x in row] for row in X.tolist()]
    columns = zip(*rows, strict=True)
    squares = [sum(map(mul, w, map(mul, column, column))) for column in columns]
    scaled = list(map(truediv, beta, map(mpmath.sqrt, squares)))
    outputs = [sum(map(mul, row, scaled)) for row in rows]
    exact = sum(
        a * EXACT_LOSSES[loss](mpmath.mpf(target), q)
        for a, target, q in zip(w, y[:, 0].tolist(), outputs, strict=True)
    )
    assert found.value >= exact * (1 - 1e-15)
    assert min(found.value, found.steady) >= floor
