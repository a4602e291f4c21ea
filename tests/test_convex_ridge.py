"""The ridge path in closed form against least squares, refits and normal densities."""

from dataclasses import replace

import numpy as np
import oracles
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.linalg import null_space
from scipy.stats import multivariate_normal
from torch.testing import assert_close

from sklearn_pgb._convex._ridge import column_means, lsmr_ridge, ridge_path
from sklearn_pgb._convex._solve import solve
from sklearn_pgb._losses._regression import SquaredLoss
from sklearn_pgb._operators import _blocks

SHAPES = [(20, 5, 1), (15, 4, 3), (8, 40, 1), (6, 30, 3)]
shapes = pytest.mark.parametrize(
    "shape", SHAPES, ids=["tall", "tall3", "wide", "wide3"]
)
duals = pytest.mark.parametrize("dual", [True, False], ids=["dual", "primal"])
intercepts = pytest.mark.parametrize("intercept", [True, False])
ALPHAS = [1e-3, 0.1, 10.0]


def squared_problem(generator, shape, intercept=True):
    n_samples, n_coef, n_outputs = shape
    return oracles.random_problem(
        SquaredLoss(),
        generator,
        n_samples,
        n_coef,
        n_outputs,
        intercept=intercept,
        offset=True,
    )


def in_numpy(problem):
    """Matrix, targets without the offset, and weights."""
    base = problem.y - problem.offset
    return problem.operator.matrix.numpy(), base.numpy(), problem.weight.numpy()


# --- coefficients --------------------------------------------------------------------


@shapes
@duals
@intercepts
def test_coefficients(shape, dual, intercept, generator):
    """Every ridge's solution is that of least squares on an augmented system."""
    problem = squared_problem(generator, shape, intercept)
    path = ridge_path(problem, dual)
    scale = oracles.largest_square(problem)
    for alpha in [1e-8 * scale, *ALPHAS]:
        coef, free = oracles.ridge(*in_numpy(problem), alpha, intercept)
        actual, actual_free = path.coefficients(alpha)
        size = np.linalg.norm(coef)
        assert_allclose(actual.numpy(), coef, rtol=0, atol=1e-7 * size)
        assert_allclose(actual_free.numpy(), free, rtol=0, atol=1e-7 * size)


@shapes
@intercepts
def test_lsmr(shape, intercept, generator):
    """LSMR solves the same problems, and that without a ridge."""
    problem = squared_problem(generator, shape, intercept)
    for alpha in [0.0, *ALPHAS]:
        coef, free = oracles.ridge(*in_numpy(problem), alpha, intercept)
        some = problem.with_alpha(alpha)
        actual, actual_free, n_iter, converged = lsmr_ridge(some, 1e-14, 1000)
        assert converged
        assert 1 <= n_iter < 200
        assert_allclose(actual.numpy(), coef, rtol=1e-8, atol=1e-9)
        assert_allclose(actual_free.numpy(), free, rtol=1e-8, atol=1e-9)
        assert not lsmr_ridge(some, 1e-14, 1)[3]


@duals
def test_decomposition(dual, generator):
    """Eigenvalues are the squared singular values of the weighted, centered basis."""
    problem = squared_problem(generator, (15, 4, 3))
    matrix, _, weight = in_numpy(problem)
    mean = np.einsum("i,icp->cp", weight, matrix)
    assert_allclose(column_means(problem).numpy(), mean, rtol=0, atol=1e-14)
    centered = np.sqrt(weight)[:, None, None] * (matrix - mean)
    singular = np.linalg.svd(centered.reshape(45, 4))[1]
    eigenvalues = ridge_path(problem, dual).eigenvalues.numpy()
    assert_allclose(eigenvalues[-4:], np.sort(singular**2), rtol=1e-10)
    assert_allclose(eigenvalues[:-4], 0, atol=1e-12)
    without = replace(problem, intercept=False)
    assert not column_means(without).any()


@shapes
@duals
def test_coefficient_spectrum(shape, dual, generator):
    """Orthonormal directions in which the data determine the coefficients."""
    problem = squared_problem(generator, shape)
    eigenvalues, V = ridge_path(problem, dual).coefficient_spectrum()
    rank = min(shape[1], shape[2] * (shape[0] - 1))
    assert V.shape == (shape[1], rank)
    eye = torch.eye(rank, dtype=torch.float64)
    assert_close(V.T @ V, eye, rtol=0, atol=1e-9)
    # In them the weighted, centered normal matrix is diagonal, and nothing else is.
    mean = column_means(problem)
    centered = (problem.operator.matrix - mean).flatten(0, 1)
    weight = problem.weight.repeat_interleave(shape[2])
    matrix = centered.T @ (weight[:, None] * centered)
    assert_close(V @ (eigenvalues[:, None] * V.T), matrix, rtol=0, atol=1e-10)


@shapes
@duals
@intercepts
def test_leverages(shape, dual, intercept, generator):
    """How much of a change of one target the prediction there follows."""
    problem = squared_problem(generator, shape, intercept)
    matrix, base, weight = in_numpy(problem)

    def fitted(targets):
        coef, free = oracles.ridge(matrix, targets, weight, 0.1, intercept)
        return matrix @ coef + free

    expected = np.empty_like(base)
    for i, c in np.ndindex(*base.shape):
        moved = base.copy()
        moved[i, c] += 1
        expected[i, c] = (fitted(moved) - fitted(base))[i, c]
    actual = ridge_path(problem, dual).leverages(0.1)
    assert_allclose(actual.numpy(), expected, rtol=1e-8, atol=1e-10)


@duals
def test_spectrum_without_weak_directions(dual, generator):
    """Small eigenvalues can be left out, the others stay."""
    path = ridge_path(squared_problem(generator, (15, 4, 3)), dual)
    eigenvalues, V = path.coefficient_spectrum()
    few, V_few = path.coefficient_spectrum(float(eigenvalues[1]))
    assert_close(few, eigenvalues[2:])
    assert_close(V_few, V[:, 2:])


def test_blocks(generator, monkeypatch):
    """Blocks of any size give the same errors and directions."""
    problem = squared_problem(generator, (15, 4, 3))
    alphas, unit = torch.tensor(ALPHAS, dtype=torch.float64), torch.ones(15).double()

    def results():
        for dual in [True, False]:
            path = ridge_path(problem, dual)
            eigenvalues, V = path.coefficient_spectrum()
            yield path.leave_one_out(alphas, unit)
            yield V @ (eigenvalues[:, None] * V.T)

    expected = list(results())
    monkeypatch.setattr(_blocks, "BLOCK_BYTES", 400)
    assert_close(list(results()), expected, rtol=1e-9, atol=1e-9)


# --- leave-one-out -------------------------------------------------------------------


@shapes
@duals
@intercepts
@pytest.mark.parametrize("share", ["whole", "part"])
def test_leave_one_out(shape, dual, intercept, share, generator):
    """Errors are those of refits without the row, or without a part of its weight."""
    problem = squared_problem(generator, shape, intercept)
    unit = torch.ones(shape[0]).double()
    if share == "part":
        unit = 0.1 + 0.9 * torch.rand(shape[0], generator=generator).double()
    alphas = torch.tensor([1e-6, *ALPHAS], dtype=torch.float64)
    errors = ridge_path(problem, dual).leave_one_out(alphas, unit)
    for alpha, actual in zip(alphas, errors, strict=True):
        expected = oracles.left_out_errors(
            *in_numpy(problem), float(alpha), intercept, unit.numpy()
        )
        assert_allclose(actual.numpy(), expected, rtol=1e-6, atol=1e-8)


@duals
@pytest.mark.parametrize("n_outputs", [1, 3])
def test_leave_one_out_of_repeated_rows(dual, n_outputs, generator):
    """A row of weight three loses one unit of it, as three copies lose one of them."""
    problem = squared_problem(generator, (12, 5, n_outputs))
    counts = torch.randint(1, 4, (12,), generator=generator)
    total = int(counts.sum())
    weighted = replace(problem, weight=counts.double() / total)
    index = torch.arange(12).repeat_interleave(counts)
    equal = torch.full((total,), 1 / total, dtype=torch.float64)
    repeated = replace(problem.rows(index), weight=equal)

    alphas = torch.tensor(ALPHAS, dtype=torch.float64)
    unit = 1 / (weighted.weight * total)
    errors = ridge_path(weighted, dual).leave_one_out(alphas, unit)
    copies = ridge_path(repeated, dual).leave_one_out(
        alphas, torch.ones(total).double()
    )
    assert_close(errors[:, index], copies, rtol=1e-9, atol=1e-10)
    brute_force = oracles.left_out_errors(
        *in_numpy(repeated), ALPHAS[1], True, np.ones(total)
    )
    assert_allclose(errors[1, index].numpy(), brute_force, rtol=1e-7, atol=1e-9)


@duals
@pytest.mark.parametrize("n_outputs", [1, 3])
def test_leave_one_out_of_interpolation(dual, n_outputs, generator):
    """As the fit interpolates, errors tend to a limit and are finite beyond it."""
    problem = squared_problem(generator, (6, 60, n_outputs))
    path = ridge_path(problem, dual)
    alphas = torch.tensor([1e-7, 1e-15], dtype=torch.float64)
    weak, none = path.leave_one_out(alphas, torch.ones(6).double())
    expected = oracles.left_out_errors(*in_numpy(problem), 0.0, True, np.ones(6))
    assert_allclose(weak.numpy(), expected, rtol=1e-4, atol=1e-5)
    assert none.isfinite().all()


# --- evidence ------------------------------------------------------------------------


def restricted_log_likelihood(problem, alpha):
    """Largest normal log density of what the intercept cannot explain.

    Over all noise variances, in the directions orthogonal to the intercept's columns.
    """
    matrix, base, weight = in_numpy(problem)
    n, k = base.shape
    root = np.sqrt(np.repeat(weight, k))
    rows = root[:, None] * matrix.reshape(n * k, -1)
    contrasts = np.eye(n * k)
    if problem.intercept:
        contrasts = null_space((root[:, None] * np.tile(np.eye(k), (n, 1))).T)
    target = contrasts.T @ (root * base.reshape(-1))
    rows = contrasts.T @ rows
    covariance = np.eye(len(target)) + rows @ rows.T / (alpha / 2)
    variance = target @ np.linalg.solve(covariance, target) / len(target)
    return multivariate_normal(cov=variance * covariance).logpdf(target)


@shapes
@duals
@intercepts
def test_log_evidence(shape, dual, intercept, generator):
    """Differences between ridges are those of normal densities."""
    problem = squared_problem(generator, shape, intercept)
    alphas = torch.tensor(ALPHAS, dtype=torch.float64)
    actual = ridge_path(problem, dual).log_evidence(alphas, float(shape[0])).numpy()
    expected = [restricted_log_likelihood(problem, alpha) for alpha in ALPHAS]
    assert_allclose(np.diff(actual), np.diff(expected), rtol=1e-7, atol=1e-8)


@duals
def test_log_evidence_of_repeated_rows(dual, generator):
    """Integer weights equal repetition."""
    problem = squared_problem(generator, (12, 5, 2))
    counts = torch.randint(1, 4, (12,), generator=generator)
    total = float(counts.sum())
    weighted = replace(problem, weight=counts.double() / total)
    index = torch.arange(12).repeat_interleave(counts)
    equal = torch.full((len(index),), 1 / total, dtype=torch.float64)
    repeated = replace(problem.rows(index), weight=equal)
    alphas = torch.tensor(ALPHAS, dtype=torch.float64)
    first, second = (
        ridge_path(each, dual).log_evidence(alphas, total)
        for each in [weighted, repeated]
    )
    assert_close(first, second, rtol=1e-10, atol=1e-10)


def test_evidence_recovers_the_ridge(seed):
    """Data drawn from the model have most evidence near the ridge they came from."""
    generator = torch.Generator().manual_seed(seed)
    problem = oracles.random_problem(SquaredLoss(), generator, 400, 40, 1)
    matrix = problem.operator.matrix[:, 0]
    coef = 0.5 * torch.randn(40, generator=generator, dtype=torch.float64)
    noise = 2.0 * torch.randn(400, generator=generator, dtype=torch.float64)
    y = (matrix @ coef + noise + 3.0)[:, None]
    weight = torch.full((400,), 1 / 400, dtype=torch.float64)
    problem = replace(problem, y=y, weight=weight)
    alphas = torch.logspace(-4, 3, 71, dtype=torch.float64)
    evidence = ridge_path(problem, dual=False).log_evidence(alphas, 400.0)
    # alpha / 2 is the ratio of the variances, 2^2 / 0.5^2, over the number of rows.
    found = float(alphas[evidence.argmax()])
    assert found == pytest.approx(2 * 16 / 400, rel=1.0)


def test_solution_of_path_is_certified(generator):
    """A path of the problem that is solved gives the solution and its bound."""
    problem = squared_problem(generator, (20, 5, 1))
    solution = solve(problem, method="dual", path=ridge_path(problem, dual=True))
    assert solution.converged
    assert solution.gap <= 1e-12 * solution.value
