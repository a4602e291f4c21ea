"""Certified lower bounds by Fenchel duality, with and without penalty."""

from dataclasses import replace

import mpmath
import numpy as np
import oracles
import pytest
import torch
from scipy.optimize import linprog
from torch.testing import assert_close

from sklearn_pgb._convex._bounds import conjugate_value, into_domain
from sklearn_pgb._convex._infimum import infimum
from sklearn_pgb._convex._problem import ConvexProblem, balance, dual_value, lower_bound
from sklearn_pgb._convex._solve import solve
from sklearn_pgb._convex._unit_basis import Spectrum
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
from sklearn_pgb._operators._dense import DenseOperator, KroneckerOperator

all_losses = pytest.mark.parametrize("loss", oracles.LOSSES, ids=repr)
intercepts = pytest.mark.parametrize("intercept", [True, False])


def normal(generator, *shape):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def feasible_dual(loss, y, generator):
    """Random duals inside the conjugate's domain: gradients at random outputs."""
    return loss.gradient(y, 2 * normal(generator, *y.shape))


# --- with penalty --------------------------------------------------------------------


@all_losses
@intercepts
@pytest.mark.parametrize("scale", [0.0, 0.1, 1.0, 30.0, 1e4])
def test_bound_anywhere(loss, intercept, scale, generator):
    """At any coefficients, the bound is below the optimum and the value above it."""
    problem = oracles.random_problem(loss, generator, intercept=intercept, offset=True)
    best = solve(problem, tol=1e-14).value
    for _ in range(10):
        raw = problem.raw(*(scale * part for part in random_point(problem, generator)))
        bound = lower_bound(problem, raw)
        assert bound <= best + 1e-13 * abs(best)
        assert bound >= float(problem.weight @ loss.minimum(problem.y))


def random_point(problem, generator):
    coef = normal(generator, problem.operator.n_coef)
    intercept = normal(generator, problem.operator.n_outputs)
    return coef, intercept if problem.intercept else 0 * intercept


@pytest.mark.parametrize("loss", [PoissonLoss(), GammaLoss()], ids=repr)
@pytest.mark.parametrize("size", [-800.0, 800.0])
def test_bound_at_the_edge(loss, size, generator):
    """Duals that are all at one edge of their box, or overflow, give no false bound."""
    problem = oracles.random_problem(loss, generator, n_outputs=1, alpha=1e6)
    problem = replace(problem, y=problem.y + 10)
    best = solve(problem, tol=1e-12).value
    bound = lower_bound(problem, torch.full_like(problem.y, size))
    trivial = float(problem.weight @ loss.minimum(problem.y))
    assert trivial <= bound <= best + 1e-13 * abs(best)
    if isinstance(loss, PoissonLoss) and size < 0:
        # All at one edge are moved together; that is the best of all constants.
        assert best - bound <= 1e-3 * (best - trivial)


@all_losses
@intercepts
@pytest.mark.parametrize("alpha", [1e-6, 1e-2, 10.0])
def test_gap_at_solution(loss, intercept, alpha, generator):
    """The gap is below tol at the solution, and positive away from it."""
    problem = oracles.random_problem(
        loss, generator, alpha=alpha, intercept=intercept, offset=True
    )
    for method in ["primal", "dual", "matrix-free"]:
        solution = solve(problem, method=method, tol=1e-8)
        assert solution.converged
        assert solution.gap <= 1e-8 * solution.value
        assert solution.gap >= -1e-13 * solution.value
    raw = problem.raw(solution.coef + 0.1, solution.intercept)
    value = oracles.objective(problem, solution.coef + 0.1, solution.intercept)
    assert float(value) - lower_bound(problem, raw) > 1e-4 * solution.value


@all_losses
def test_balance(loss, generator):
    """The weighted sum of the duals is moved to zero, near the optimum in the box."""
    problem = oracles.random_problem(loss, generator)
    raw = solve(problem).raw
    for noise in [0.1, 10.0]:
        moved = raw + noise * normal(generator, *raw.shape)
        balanced = balance(problem, loss.gradient(problem.y, moved))
        excess = (problem.weight @ balanced).abs().max()
        assert excess <= 1e-14 * balanced.abs().max()
        if noise == 0.1:
            assert loss.conjugate(problem.y, balanced).isfinite().all()
            # Balanced duals stay as they are.
            assert_close(balance(problem, balanced), balanced, rtol=0, atol=1e-13)


def test_bound_of_many_classes(generator):
    """With 60 classes no sample has slack in all, but the bound is close nevertheless.

    The intercept is wrong in the fourth digit, so the duals are not balanced.
    """
    n, k = 120, 60
    features = 3 * normal(generator, n, 5)
    y = torch.nn.functional.one_hot(torch.arange(n) % k, k).double()
    weight = torch.full((n,), 1 / n, dtype=torch.float64)
    operator = KroneckerOperator(features, k)
    problem = ConvexProblem(operator, y, CrossEntropyLoss(), weight, 1e-3)
    best = solve(problem, tol=1e-12)
    raw = best.raw + 1e-4 * normal(generator, k)
    assert float(raw.softmax(1).amin(1).max()) < 1e-8
    bound = lower_bound(problem, raw)
    assert 0 <= best.value - bound <= 1e-5 * best.value


def test_CV_2_gap_formula(generator):
    """Value minus dual is the Fenchel-Young gap plus a square, for any u."""
    loss, mu = CrossEntropyLoss(), 0.05
    features = normal(generator, 15, 4)
    y = oracles.random_targets(loss, 15, generator)
    weight = oracles.random_weight(15, generator)
    operator = KroneckerOperator(features, 3)
    problem = ConvexProblem(operator, y, loss, weight, mu, intercept=False)
    coef, zero = normal(generator, 12), torch.zeros(3).double()
    raw = problem.raw(coef, zero)
    value = oracles.objective(problem, coef, zero)

    u = feasible_dual(loss, y, generator)
    v = operator.rmatvec(weight[:, None] * u)
    D = dual_value(problem, u) - v @ v / (2 * mu)
    fenchel = loss.value(y, raw) + loss.conjugate(y, u) - (u * raw).sum(1)
    square = mu / 2 * (coef + v / mu).square().sum()
    assert_close(value - D, weight @ fenchel + square, rtol=1e-12, atol=1e-12)

    # With the loss gradients as u the gap is |gradient|^2 / (2 mu).
    near = solve(problem, tol=1e-12)
    coef = near.coef + 0.01 * coef
    raw = problem.raw(coef, zero)
    value = oracles.objective(problem, coef, zero)
    gradient = operator.rmatvec(problem.residual(raw)) + mu * coef
    gap = float(value) - lower_bound(problem, raw)
    assert gap == pytest.approx(float(gradient @ gradient) / (2 * mu), abs=1e-12)
    assert gap > 1e-6
    assert near.gap <= 1e-12


def test_dual_value_with_offset(generator):
    """Fixed outputs o shift the conjugate: ``l*(u) - u.o``."""
    problem = oracles.random_problem(LogisticLoss(), generator, offset=True)
    u = feasible_dual(problem.loss, problem.y, generator)
    shifted = problem.loss.conjugate(problem.y, u) - (u * problem.offset).sum(1)
    assert dual_value(problem, u) == pytest.approx(-float(problem.weight @ shifted))
    outside = torch.full_like(u, 2.0)
    assert dual_value(problem, outside) == -np.inf


# --- without penalty -----------------------------------------------------------------


@intercepts
def test_CV_3_squared_loss(intercept, generator):
    """The bound is the weighted least-squares residual."""
    problem = oracles.random_problem(
        SquaredLoss(), generator, intercept=intercept, offset=True, alpha=3.0
    )
    matrix, weight = problem.operator.matrix.numpy(), problem.weight.numpy()
    base = (problem.y - problem.offset).numpy()
    coef, free = oracles.ridge(matrix, base, weight, 0.0, intercept)
    best = weight @ ((base - matrix @ coef - free) ** 2).sum(1)
    found = infimum(problem)
    assert found.value == pytest.approx(best, abs=1e-12)
    assert found.lower_bound == pytest.approx(best, abs=1e-8)
    assert found.rank == 4 + 2 * intercept


@pytest.mark.parametrize("loss", [SquaredLoss(), LogisticLoss(0.1)], ids=repr)
@intercepts
def test_outputs_that_share_features(loss, intercept, generator, monkeypatch):
    """The features are decomposed once, with the same results as separate columns.

    The last feature is one of the others.
    """
    problem = oracles.random_problem(loss, generator, intercept=intercept)
    features = normal(generator, len(problem.y), 4)
    features = torch.cat([features, features[:, :1]], 1)
    shared = KroneckerOperator(features, 2)
    naive = replace(problem, operator=DenseOperator(shared.dense()), alpha=0.0)
    expand = KroneckerOperator.dense

    def dense(self, *args):
        assert self.n_outputs == 1 or self.n_features == 1
        return expand(self, *args)

    monkeypatch.setattr(KroneckerOperator, "dense", dense)
    problem = replace(naive, operator=shared)
    found, expected = solve(problem), solve(naive)
    assert_close(found.raw, expected.raw, rtol=0, atol=1e-9)
    assert_close(found.coef, expected.coef, rtol=0, atol=1e-9)
    if not loss.quadratic:
        # The orthonormal columns of the dual's repair are expanded.
        monkeypatch.undo()
    ours, theirs = infimum(problem), infimum(naive)
    assert ours.rank == theirs.rank == 8 + 2 * intercept
    assert ours.value == pytest.approx(theirs.value, abs=1e-12)
    assert ours.lower_bound == pytest.approx(theirs.lower_bound, abs=1e-8)


@all_losses
@intercepts
def test_bound_without_penalty(loss, intercept, generator):
    """It is below the infimum, and close to it if the infimum is attained."""
    problem = oracles.random_problem(
        loss, generator, 40, alpha=0.0, intercept=intercept, offset=True
    )
    best = solve(problem, tol=1e-10).value
    trivial = float(problem.weight @ loss.minimum(problem.y))
    found = infimum(problem)
    assert trivial <= found.lower_bound <= best + 1e-10
    if found.attained:
        assert found.lower_bound >= best - 1e-7


def unlearnable(loss, generator, n_samples, n_outputs):
    """Random targets that do not depend on the features and are not separable."""
    y = oracles.random_targets(loss, n_samples, generator, n_outputs)
    matrix = normal(generator, n_samples, n_outputs, {1: 4, 3: 8}[n_outputs])
    weight = oracles.random_weight(n_samples, generator)
    return ConvexProblem(DenseOperator(matrix), y, loss, weight)


@pytest.mark.parametrize(
    ("loss", "n_samples", "n_outputs"),
    [
        (LogisticLoss(), 40, 1),
        (CrossEntropyLoss(), 30, 3),
        (SmoothedHingeLoss(power=3.0), 40, 1),
        (PoissonLoss(), 40, 1),
        (GammaLoss(), 40, 1),
    ],
    ids=repr,
)
@intercepts
def test_CV_4_attained(loss, n_samples, n_outputs, intercept, generator):
    """If the infimum is attained, the bound equals it."""
    problem = unlearnable(loss, generator, n_samples, n_outputs)
    problem = replace(problem, intercept=intercept)
    solution = solve(problem)
    assert solution.converged
    found = infimum(problem)
    assert found.attained
    assert abs(found.value - solution.value) <= 1e-10
    assert 0 <= found.value - found.lower_bound <= 1e-7
    trivial = float(problem.weight @ problem.loss.minimum(problem.y))
    assert found.lower_bound > trivial + 0.03


@pytest.mark.parametrize("separable", [True, False])
def test_CV_4_label_smoothing(separable, generator):
    """Smoothed labels have an attained infimum, of separable classes too."""
    loss = CrossEntropyLoss(label_smoothing=0.1)
    problem = unlearnable(loss, generator, 30, 3)
    if separable:
        labels = (problem.operator.matrix @ normal(generator, 8)).argmax(1)
        y = loss.encode(torch.eye(3).double()[labels])
        problem = replace(problem, y=y)
    assert float(problem.y.amax()) == pytest.approx(0.9 + 0.1 / 3, abs=1e-15)
    solution, found = solve(problem), infimum(problem)
    assert abs(solution.value - found.lower_bound) <= 1e-7
    assert found.lower_bound > float(problem.weight @ loss.minimum(problem.y))


def logistic_problem(features, labels):
    """Equal weights, an intercept and no penalty."""
    n = len(labels)
    weight = torch.full((n,), 1 / n, dtype=torch.float64)
    operator = KroneckerOperator(features, 1)
    return ConvexProblem(operator, labels[:, None], LogisticLoss(), weight)


def test_CV_5_separable(generator):
    """The infimum is zero and not attained: bound zero, values fall with the scale."""
    features = normal(generator, 40, 3)
    labels = (features @ normal(generator, 3) > 0.3).double()
    problem = logistic_problem(features, labels)
    solution = solve(problem)
    assert infimum(problem).lower_bound == pytest.approx(0.0, abs=1e-15)
    assert bool(((2 * problem.y - 1) * solution.raw > 0).all())
    # Larger outputs are better ones, until the loss is zero in float64.
    values = [
        float(problem.data_value(scale * solution.raw)) for scale in [1, 2, 4, 8, 1000]
    ]
    assert all(np.diff(values) < 0)
    assert 0 <= values[-1] <= 1e-10
    assert solution.value <= 1e-8


def separated_rows(features, labels):
    """Rows that some direction separates, by a linear program (HiGHS).

    Maximize the sum of slacks s in [0, 1] with ``y_i (Phi a)_i >= s_i``; the optimal
    slacks are 0 or 1.
    """
    n, p = features.shape
    signed = (2 * labels - 1)[:, None] * features
    result = linprog(
        np.append(np.zeros(p), -np.ones(n)),
        A_ub=np.hstack([-signed, np.eye(n)]),
        b_ub=np.zeros(n),
        bounds=[(None, None)] * p + [(0, 1)] * n,
    )
    slack = result.x[p:]
    assert np.minimum(slack, 1 - slack).max() < 1e-9
    return np.flatnonzero(slack > 0.5)


def test_CV_5_quasi_separable(generator):
    """Ten samples are separated: the repaired bound is the infimum of the others."""
    features = normal(generator, 40, 3)
    labels = torch.randint(2, (40,), generator=generator).double()
    indicator = torch.zeros(40, 1, dtype=torch.float64)
    indicator[:10] = 1
    labels[:10] = 1
    features = torch.cat([features, indicator], 1)
    columns = np.hstack([features.numpy(), np.ones((40, 1))])
    assert list(separated_rows(columns, labels.numpy())) == list(range(10))

    problem = logistic_problem(features, labels)
    reduced = solve(problem.rows(torch.arange(10, 40)))
    least = reduced.value * 30 / 40
    assert least > 0.1
    found = infimum(problem)
    assert found.value == pytest.approx(least, abs=1e-9)
    assert found.lower_bound == pytest.approx(least, abs=1e-6)
    assert found.lower_bound <= least


# --- the rank ------------------------------------------------------------------------


@intercepts
@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize("rank", [1, 3, 6])
def test_rank(rank, constant, intercept, generator):
    """The rank is that of the matrix with the intercept's columns, never its Gram's."""
    left, right = normal(generator, 40, rank), normal(generator, rank, 6)
    # A Gram matrix cannot see singular values below 1e-8 of the largest.
    left *= torch.logspace(0, -11, rank, dtype=torch.float64) if rank > 1 else 1.0
    matrix = (left @ right).reshape(20, 2, 6)
    if constant:
        matrix[..., 5] = torch.tensor([1.0, 0.0])
    weight = oracles.random_weight(20, generator)
    problem = ConvexProblem(
        DenseOperator(matrix),
        normal(generator, 20, 2),
        SquaredLoss(),
        weight,
        intercept=intercept,
    )
    dense = problem.augmented().dense().flatten(0, 1).numpy()
    scaled = np.sqrt(np.repeat(weight.numpy(), 2))[:, None] * dense
    expected = np.linalg.matrix_rank(scaled, rtol=1e-14)
    assert Spectrum.of(problem).rank == expected


def test_rank_of_nothing(generator):
    """Constant and zero columns add nothing to the intercept."""
    matrix = torch.zeros(10, 1, 3, dtype=torch.float64)
    matrix[..., 1] = 1 / 3
    problem = ConvexProblem(
        DenseOperator(matrix),
        normal(generator, 10, 1),
        SquaredLoss(),
        oracles.random_weight(10, generator),
        alpha=0.0,
    )
    found = infimum(problem)
    mean = problem.weight @ problem.y
    scatter = float(problem.weight @ (problem.y - mean).square())
    assert found.rank == 1
    assert found.lower_bound == pytest.approx(scatter)
    solution = solve(problem, method="primal")
    assert_close(solution.intercept, mean)
    assert not solution.coef.any()


@all_losses
def test_saturated_rank(loss, generator):
    """A basis of full row rank attains the smallest loss of every sample."""
    problem = oracles.random_problem(loss, generator, 8, 40)
    found = infimum(problem)
    assert found.rank == 16
    assert found.lower_bound == float(problem.weight @ loss.minimum(problem.y))
    assert found.norm_budget == np.inf


def exact_entropy(p):
    return p * mpmath.log(p) if p else mpmath.mpf(0)


EXACT_CONJUGATES = {
    SquaredLoss(): lambda y, u: u * y + u**2 / 4,
    HuberLoss(1e3): lambda y, u: u * y + u**2 / 4,
    PoissonLoss(): lambda y, u: exact_entropy(u + y) - (u + y),
    GammaLoss(): lambda y, u: exact_entropy(1 - u) + u + u * mpmath.log(y),
    LogisticLoss(): lambda y, u: exact_entropy(u + y) + exact_entropy(1 - y - u),
    LogisticLoss(0.1): lambda y, u: exact_entropy(u + y) + exact_entropy(1 - y - u),
}


@pytest.mark.parametrize("loss", EXACT_CONJUGATES, ids=repr)
@pytest.mark.parametrize("size", [1e-17, 1e-9, 1e-3, 1.0, 30.0])
def test_dual_values_are_below_the_exact_ones(loss, size, generator):
    """Also if a single sample has all of the weight, and terms cancel."""
    mpmath.mp.dps = 50
    for _ in range(50):
        y = oracles.random_targets(loss, 1, generator, 1)
        u = size * loss.gradient(y, normal(generator, 1, 1))
        weight = torch.ones(1, dtype=torch.float64)
        operator = KroneckerOperator(y, 1)
        problem = ConvexProblem(operator, y, loss, weight, intercept=False)
        u, base = into_domain(problem, u), torch.zeros_like(y)
        found = conjugate_value(problem, u, base)
        exact = -EXACT_CONJUGATES[loss](mpmath.mpf(float(y)), mpmath.mpf(float(u)))
        assert found <= exact
        terms = 2 + 2 * float(u.abs() * y.abs() + u.square()) + abs(float(exact))
        assert found >= exact - 1e-14 * terms
