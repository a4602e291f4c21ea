"""One convex problem, three ways: against each other and against other libraries."""

import warnings
from dataclasses import replace

import numpy as np
import oracles
import pytest
import torch
from numpy.testing import assert_allclose
from sklearn.exceptions import ConvergenceWarning
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import LogisticRegression, PoissonRegressor, Ridge
from torch.testing import assert_close

from sklearn_pgb._convex import _solve
from sklearn_pgb._convex._problem import ConvexProblem, Solution
from sklearn_pgb._convex._ridge import ridge_path
from sklearn_pgb._convex._solve import (
    PathSolver,
    choose_method,
    solve,
    warn_if_unconverged,
)
from sklearn_pgb._losses._classification import (
    CrossEntropyLoss,
    LogisticLoss,
    SmoothedHingeLoss,
)
from sklearn_pgb._losses._regression import PoissonLoss, SquaredLoss
from sklearn_pgb._operators._dense import DenseOperator, KroneckerOperator
from sklearn_pgb._operators._operator import LinearOperator
from sklearn_pgb._operators._stacked import StackedOperator

all_losses = pytest.mark.parametrize("loss", oracles.LOSSES, ids=repr)
newton_losses = pytest.mark.parametrize("loss", oracles.NEWTON_LOSSES, ids=repr)
METHODS = ["primal", "dual", "matrix-free"]
all_methods = pytest.mark.parametrize("method", METHODS)
intercepts = pytest.mark.parametrize("intercept", [True, False])


def relative(actual, expected):
    return float((actual - expected).norm() / expected.norm())


# --- the problem ---------------------------------------------------------------------


@all_losses
@intercepts
def test_objective_and_gradient(loss, intercept, generator):
    """Value and gradient are those of the formula, by automatic differentiation."""
    problem = oracles.random_problem(loss, generator, intercept=intercept, offset=True)
    point = torch.randn(6, generator=generator, dtype=torch.float64)
    coef, free = oracles.split(problem, point)
    raw = problem.raw(coef, free)
    value = problem.data_value(raw) + problem.alpha / 2 * coef @ coef
    assert_close(value, oracles.objective(problem, coef, free))
    expected = torch.func.grad(
        lambda point: oracles.objective(problem, *oracles.split(problem, point))
    )(point)
    residual = problem.residual(raw)
    gradient = problem.operator.rmatvec(residual) + problem.alpha * coef
    assert_close(gradient, expected[:4], rtol=1e-11, atol=1e-12)
    if intercept:
        assert_close(residual.sum(0), expected[4:], rtol=1e-11, atol=1e-12)


def test_rows(generator):
    """Chosen samples are a problem of their own, weights summing to one."""
    problem = oracles.random_problem(LogisticLoss(), generator, offset=True)
    index = torch.tensor([3, 11, 4])
    some = problem.rows(index)
    assert_close(some.operator.dense(), problem.operator.dense()[index])
    assert_close(some.y, problem.y[index])
    assert_close(some.offset, problem.offset[index])
    assert_close(some.weight, problem.weight[index] / problem.weight[index].sum())
    assert some.alpha == problem.alpha
    assert oracles.random_problem(LogisticLoss(), generator).rows(index).offset is None


# --- solutions -----------------------------------------------------------------------


@all_losses
@all_methods
@intercepts
def test_solve(loss, method, intercept, generator):
    """The optimum is that of BFGS on the formula; the certified gap is below tol."""
    problem = oracles.random_problem(loss, generator, intercept=intercept, offset=True)
    best, coef, _ = oracles.optimum(problem)
    solution = solve(problem, method=method, tol=1e-10)
    assert solution.converged
    assert solution.value == pytest.approx(best, rel=1e-9)
    assert_close(solution.coef, coef, rtol=1e-4, atol=1e-4)
    assert -1e-13 * best <= solution.gap <= 1e-10 * solution.value
    if not intercept:
        assert not solution.intercept.any()

    raw = problem.raw(solution.coef, solution.intercept)
    assert_close(solution.raw, raw, rtol=0, atol=0)
    value = float(oracles.objective(problem, solution.coef, solution.intercept))
    assert solution.value == pytest.approx(value, rel=1e-13)
    penalty = problem.alpha / 2 * float(solution.coef @ solution.coef)
    assert solution.value - solution.data_value == pytest.approx(penalty, rel=1e-9)


@all_losses
@intercepts
@pytest.mark.parametrize("strength", [1e-8, 1e-4, 1.0])
@pytest.mark.parametrize("shape", [(40, 6), (12, 30)], ids=["tall", "wide"])
def test_methods_agree(loss, intercept, strength, shape, generator):
    """Values and predictions agree to 1e-8 from the smallest ridge on.

    The dual's unknowns are residuals over the ridge: that many times the rounding of
    the residuals is left of what cancels in the coefficients.
    """
    n_samples, n_coef = shape
    problem = oracles.random_problem(
        loss, generator, n_samples, n_coef, intercept=intercept, offset=True
    )
    problem = problem.with_alpha(strength * oracles.largest_square(problem))
    # Rounding may keep the gap above so small a tolerance; Newton has converged.
    primal, dual, free = (
        solve(problem, method=method, tol=1e-17) for method in METHODS
    )
    rounding = torch.finfo(torch.float64).eps / strength
    for other, most in [(dual, max(1e-8, rounding)), (free, 1e-8)]:
        assert other.value == pytest.approx(primal.value, rel=1e-8)
        # Softmax does not see a constant that is added to all outputs.
        difference = relative(loss.predict(other.raw), loss.predict(primal.raw))
        assert difference <= most


@all_losses
@all_methods
def test_weights_equal_repetition(loss, method, generator):
    """A row of weight two is a row that is there twice."""
    problem = oracles.random_problem(loss, generator, 15)
    counts = torch.randint(1, 4, (15,), generator=generator)
    weighted = replace(problem, weight=counts.double() / counts.sum())
    index = torch.arange(15).repeat_interleave(counts)
    equal = torch.ones(len(index), dtype=torch.float64) / len(index)
    repeated = replace(problem.rows(index), weight=equal)
    first, second = (
        solve(each, method=method, tol=1e-13) for each in [weighted, repeated]
    )
    assert first.value == pytest.approx(second.value, rel=1e-11)
    assert_close(first.coef, second.coef, rtol=1e-6, atol=1e-7)


@newton_losses
@all_methods
def test_warm_start(loss, method, generator):
    """Newton at its own solution stays there; the first step is the last."""
    problem = oracles.random_problem(loss, generator)
    solution = solve(problem, method=method)
    assert solution.n_iter > 1
    again = solve(problem, method=method, start=(solution.coef, solution.intercept))
    assert again.n_iter == 1
    assert_close(again.coef, solution.coef, rtol=0, atol=0)


@all_methods
@pytest.mark.parametrize("alpha", [0.0, 0.1])
def test_negative_objective(method, alpha, generator):
    """The Poisson loss of large counts is negative, and converges all the same."""
    problem = oracles.random_problem(PoissonLoss(), generator, 40, alpha=alpha)
    problem = replace(problem, y=problem.y + 20)
    best, *_ = oracles.optimum(problem)
    assert best < -20
    solution = solve(problem, method=method, tol=1e-9)
    assert solution.converged
    assert solution.value == pytest.approx(best, rel=1e-9)


def test_primal_in_blocks(generator):
    """A basis that does not fit into memory gives the same normal matrix."""
    problem = oracles.random_problem(LogisticLoss(), generator)
    n_rows, n_coef = problem.operator.n_rows, problem.operator.n_coef
    assert n_rows > n_coef
    whole = solve(problem, method="primal", tol=1e-12)
    # Enough for four matrices as wide as the coefficients, not for four of the rows.
    least = 4 * 8 * n_coef**2
    blocks = solve(problem, method="primal", tol=1e-12, max_memory=least)
    assert_close(blocks.coef, whole.coef, rtol=1e-9, atol=1e-9)


def test_one_decomposition(generator, monkeypatch):
    """Every ridge's solution comes from one decomposition, which may be given."""
    problem = oracles.random_problem(SquaredLoss(), generator)
    given, made = ridge_path(problem, dual=True), []
    monkeypatch.setattr(
        _solve, "ridge_path", lambda *args: made.append(args) or ridge_path(*args)
    )
    for path in [given, None]:
        solver = PathSolver(problem, "dual", 2.0**30, path)
        for alpha in [0.01, 1.0]:
            solution = solver.solve(alpha, None, 1e-6, 100)
            coef, _ = given.coefficients(alpha)
            assert_close(solution.coef, coef, rtol=1e-12, atol=1e-12)
        assert len(made) == (path is None)
    shared = solve(problem, method="dual", path=given)
    assert_close(shared.coef, given.coefficients(problem.alpha)[0], rtol=0, atol=0)


# --- other libraries -----------------------------------------------------------------


def feature_problem(loss, generator, n_samples=30, n_outputs=1, alpha=0.05):
    """Features with coefficients of their own for every output, random weights."""
    features = torch.randn(n_samples, 5, generator=generator, dtype=torch.float64)
    return ConvexProblem(
        KroneckerOperator(features, n_outputs),
        oracles.random_targets(loss, n_samples, generator, n_outputs),
        loss,
        oracles.random_weight(n_samples, generator),
        alpha,
    )


@all_methods
@intercepts
def test_ridge(method, intercept, generator):
    """Ridge has no mean over samples and no one half: ``a = alpha sum(s) / 2``."""
    problem = feature_problem(SquaredLoss(), generator, n_outputs=3)
    problem = replace(problem, intercept=intercept)
    weight = 7.0 * problem.weight.numpy()
    ridge = Ridge(alpha=problem.alpha * 7.0 / 2, fit_intercept=intercept)
    X = problem.operator.features.numpy()
    ridge.fit(X, problem.y.numpy(), sample_weight=weight)
    solution = solve(problem, method=method)
    coef = solution.coef.reshape(5, 3).numpy()
    assert_allclose(coef, ridge.coef_.T, rtol=1e-9, atol=1e-10)
    assert_allclose(solution.raw.numpy(), ridge.predict(X), rtol=1e-9, atol=1e-10)


def test_kernel_ridge(generator):
    """The dual is kernel ridge regression with the features' Gram matrix."""
    problem = feature_problem(SquaredLoss(), generator, n_outputs=2)
    problem = replace(problem, intercept=False)
    features = problem.operator.features
    kernel = (features @ features.T).numpy()
    model = KernelRidge(alpha=problem.alpha * 7.0 / 2, kernel="precomputed")
    weight = 7.0 * problem.weight.numpy()
    model.fit(kernel, problem.y.numpy(), sample_weight=weight)
    solution = solve(problem, method="dual")
    assert_allclose(solution.raw.numpy(), model.predict(kernel), rtol=1e-9, atol=1e-10)


@all_methods
@intercepts
@pytest.mark.parametrize("n_classes", [2, 3])
def test_logistic_regression(method, intercept, n_classes, generator):
    """It adds up the samples' losses times C: ``C = 1 / (alpha sum(s))``."""
    binary = n_classes == 2
    loss = LogisticLoss() if binary else CrossEntropyLoss()
    problem = feature_problem(loss, generator, 60, 1 if binary else n_classes)
    problem = replace(problem, intercept=intercept)
    labels = problem.y[:, 0] if binary else problem.y.argmax(1)
    X = problem.operator.features.numpy()
    model = LogisticRegression(
        C=1 / (problem.alpha * 7.0),
        solver="newton-cholesky",
        tol=1e-12,
        fit_intercept=intercept,
    ).fit(X, labels.numpy(), sample_weight=7.0 * problem.weight.numpy())
    solution = solve(problem, method=method, tol=1e-15)
    coef = solution.coef.reshape(5, -1).T.numpy()
    assert_allclose(coef, model.coef_, rtol=1e-6, atol=1e-8)
    probabilities = loss.predict(solution.raw).numpy()
    expected = model.predict_proba(X)
    expected = expected[:, 1:] if binary else expected
    assert_allclose(probabilities, expected, rtol=1e-6, atol=1e-8)


@all_methods
@intercepts
def test_poisson_regression(method, intercept, generator):
    """It has the same mean over samples and the same ridge."""
    problem = feature_problem(PoissonLoss(), generator)
    problem = replace(problem, intercept=intercept)
    X, y = problem.operator.features.numpy(), problem.y[:, 0].numpy()
    model = PoissonRegressor(
        alpha=problem.alpha,
        solver="newton-cholesky",
        tol=1e-12,
        fit_intercept=intercept,
    ).fit(X, y, sample_weight=problem.weight.numpy())
    solution = solve(problem, method=method, tol=1e-15)
    assert_allclose(solution.coef.numpy(), model.coef_, rtol=1e-7, atol=1e-8)
    means = solution.raw.exp()[:, 0].numpy()
    assert_allclose(means, model.predict(X), rtol=1e-7)


@pytest.mark.parametrize("power", [2.0, 3.0])
def test_hinge_by_cvxpy(power, generator):
    """An interior-point method on the formula finds the same optimum."""
    cvxpy = pytest.importorskip("cvxpy")
    problem = oracles.random_problem(
        SmoothedHingeLoss(power=power), generator, n_outputs=1, offset=True
    )
    coef, free = cvxpy.Variable(4), cvxpy.Variable()
    raw = problem.operator.matrix[:, 0].numpy() @ coef + free
    raw = raw + problem.offset[:, 0].numpy()
    margin = cvxpy.pos(1 - cvxpy.multiply(problem.y[:, 0].numpy(), raw))
    loss = problem.weight.numpy() @ cvxpy.power(margin, power)
    penalty = problem.alpha / 2 * cvxpy.sum_squares(coef)
    reference = cvxpy.Problem(cvxpy.Minimize(loss + penalty))
    reference.solve(solver=cvxpy.CLARABEL)
    for method in METHODS:
        solution = solve(problem, method=method, tol=1e-12)
        assert solution.value == pytest.approx(reference.value, rel=1e-7)
        assert_allclose(solution.coef.numpy(), coef.value, atol=1e-4)


# --- without a ridge -----------------------------------------------------------------


@intercepts
@pytest.mark.parametrize("method", ["primal", "dual", "matrix-free"])
def test_minimum_norm(method, intercept, generator):
    """Without a ridge, least squares of smallest norm, the limit of weak ridges."""
    problem = oracles.deficient_problem(
        SquaredLoss(), generator, intercept=intercept, offset=True
    )
    base = (problem.y - problem.offset).numpy()
    matrix, weight = problem.operator.matrix.numpy(), problem.weight.numpy()
    coef, free = oracles.ridge(matrix, base, weight, 0.0, intercept)
    solution = solve(problem, method=method)
    assert solution.converged
    assert_allclose(solution.coef.numpy(), coef, atol=1e-9)
    assert_allclose(solution.intercept.numpy(), free, atol=1e-9)
    weak = solve(problem.with_alpha(1e-9), method="primal")
    assert_close(weak.coef, solution.coef, rtol=0, atol=1e-6)


@newton_losses
@intercepts
def test_no_ridge(loss, intercept, generator):
    """On attained infima of a deficient basis all methods meet BFGS."""
    problem = oracles.deficient_problem(
        loss, generator, n_samples=60, intercept=intercept
    )
    best, *_ = oracles.optimum(problem)
    for method in METHODS:
        solution = solve(problem, method=method, tol=1e-9)
        assert solution.converged
        assert solution.value == pytest.approx(best, rel=1e-8)
        assert solution.value == solution.data_value


# --- the choice of a method, and its failures ----------------------------------------


class SizeOnly(LinearOperator):
    """An operator that is nothing but its size."""

    def __init__(self, n_samples, n_outputs, n_coef):
        self.n_samples, self.n_outputs, self.n_coef = n_samples, n_outputs, n_coef
        self.dtype, self.device = torch.float64, torch.device("cpu")

    matvec = rmatvec = dense = rows = None


def sized_problem(loss, n_samples, n_outputs, n_coef, alpha=1.0):
    y = torch.zeros(1, n_outputs)
    operator = SizeOnly(n_samples, n_outputs, n_coef)
    return ConvexProblem(operator, y, loss, torch.ones(1), alpha)


@pytest.mark.parametrize(
    ("loss", "shape", "alpha", "max_memory", "method"),
    [
        (SquaredLoss(), (10_000, 1, 100), 1.0, 2.0**30, "primal"),
        (SquaredLoss(), (100, 1, 10_000), 1.0, 2.0**30, "dual"),
        (SquaredLoss(), (20_000, 1, 20_000), 1.0, 2.0**30, "matrix-free"),
        (SquaredLoss(), (100, 1, 10_000), 0.0, 2.0**30, "matrix-free"),
        (SquaredLoss(), (100, 1, 1000), 0.0, 2.0**30, "primal"),
        (LogisticLoss(), (10_000, 1, 20), 1.0, 2.0**30, "primal"),
        (LogisticLoss(), (50, 1, 10_000), 1.0, 2.0**30, "dual"),
        (CrossEntropyLoss(), (1500, 10, 9000), 1.0, 2.0**30, "matrix-free"),
        (LogisticLoss(), (50, 1, 10_000), 1.0, 2.0**20, "dual"),
        (LogisticLoss(), (10_000, 1, 10_000), 1.0, 2.0**22, "matrix-free"),
    ],
)
def test_choose_method(loss, shape, alpha, max_memory, method):
    """Few coefficients: primal; few rows: dual; both many: matrix-free."""
    assert choose_method(sized_problem(loss, *shape, alpha), max_memory) == method


def test_choose_method_error():
    """Not even vectors fit: the message names the memory that would do."""
    problem = sized_problem(SquaredLoss(), 1_000_000, 1, 1_000_000)
    message = (
        r"max_memory must be at least 183.11 MiB for a basis of 1000000 coefficients "
        r"on 1000000 rows, got 1 MiB. Raise max_memory"
    )
    with pytest.raises(ValueError, match=message):
        choose_method(problem, 2.0**20)
    with pytest.raises(ValueError, match=message):
        PathSolver(problem, "auto", 2.0**20)
    # What the message asks for is enough.
    assert choose_method(problem, 183.11 * 2.0**20) == "matrix-free"


def test_auto_is_a_method(generator):
    """The default solves the problem as the method that it chooses."""
    problem = oracles.random_problem(LogisticLoss(), generator)
    chosen = solve(problem, method=choose_method(problem, 2.0**30))
    assert_close(solve(problem).coef, chosen.coef, rtol=0, atol=0)


@all_methods
def test_unconverged(method, generator):
    """One step is not enough, and the solution and the warning say so."""
    problem = oracles.random_problem(PoissonLoss(), generator, alpha=1e-6)
    solution = solve(problem, method=method, max_iter=1)
    assert not solution.converged
    assert solution.gap > 1e-6 * solution.value
    message = (
        r"stopped after 1 of max_iter=1 iterations at a relative duality gap of "
        r"\d\.\de[+-]\d\d, above tol=1e-06. Increase max_iter or alpha"
    )
    with pytest.warns(ConvergenceWarning, match=message):
        warn_if_unconverged(solution, 1e-6, 1)


def test_converged_is_silent():
    """No warning of a solution that has converged."""
    zero = torch.zeros(1)
    solution = Solution(zero, zero, zero[None], 1.0, 1.0, 1.0, 3, converged=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_if_unconverged(solution, 1e-6, 100)


@all_methods
def test_rounding_of_the_offset_is_no_gap(method, generator):
    """An offset that is the target up to rounding leaves nothing to converge to."""
    problem = oracles.random_problem(SquaredLoss(), generator, alpha=1e-2)
    eps = torch.finfo(torch.float64).eps
    noise = torch.randn(problem.y.shape, generator=generator, dtype=torch.float64)
    exact = replace(problem, offset=problem.y * (1 + eps * noise))
    solution = solve(exact, method=method)
    assert solution.converged
    assert solution.value <= 1e-30
    # A difference that is not rounding still needs a small gap.
    off = solve(replace(problem, offset=problem.y * (1 + 1e-6 * noise)), method=method)
    assert off.converged
    assert off.gap <= 1e-6 * off.value + 1e-26


def test_stacked_basis(generator):
    """The intercept's columns stand behind the basis."""
    problem = oracles.random_problem(SquaredLoss(), generator)
    augmented = problem.augmented()
    assert isinstance(augmented, StackedOperator)
    eye = torch.eye(2, dtype=torch.float64).expand(25, 2, 2)
    assert_close(augmented.dense(), torch.cat([problem.operator.matrix, eye], -1))
    alone = replace(problem, intercept=False)
    assert alone.augmented() is alone.operator
    features = torch.randn(25, 3, generator=generator, dtype=torch.float64)
    shared = replace(problem, operator=KroneckerOperator(features, 2)).augmented()
    assert isinstance(shared, KroneckerOperator)
    expected = torch.cat([KroneckerOperator(features, 2).dense(), eye], -1)
    assert_close(shared.dense(), expected)
    assert_allclose([float(part.sum()) for part in problem.zero()], np.zeros(2))


@pytest.mark.parametrize("loss", [SquaredLoss(), LogisticLoss(), PoissonLoss()])
def test_no_solution_is_worse_than_coefficients_of_zero(loss):
    """Powers of years: exact coefficients are so long that rounding spoils them."""
    rng = np.random.default_rng(0)
    x = rng.uniform(2000, 2024, size=40)
    X = torch.tensor(x[:, None] ** np.arange(1, 12))
    y = torch.tensor((rng.random(40) < 0.5) * 1.0)[:, None]
    weight = torch.full((40,), 1 / 40, dtype=torch.float64)
    for intercept in (True, False):
        operator = KroneckerOperator(X, 1)
        problem = ConvexProblem(operator, y, loss, weight, intercept=intercept)
        worst = float(problem.data_value(torch.zeros_like(y)))
        for alpha in (0.0, 1e-30, 1e-20, 1e-10, 1.0):
            solution = solve(problem.with_alpha(alpha))
            assert solution.data_value <= worst * (1 + 1e-12)
            assert solution.lower_bound <= solution.value


@pytest.mark.parametrize("alpha", [0.0, 1e-40])
@pytest.mark.parametrize("method", ["auto", "primal"])
def test_columns_without_effect_on_a_softmax(alpha, method, generator):
    """A basis of every function attains each sample's minimum, its entropy.

    One of the columns of each sample adds a constant to all of its outputs.
    """
    n, k = 20, 3
    random = torch.randn(n, k, k, generator=generator, dtype=torch.float64)
    random[..., 0] = 1.0
    blocks = torch.linalg.qr(random).Q
    matrix = torch.zeros(n, k, n, k, dtype=torch.float64)
    torch.diagonal(matrix, dim1=0, dim2=2).copy_(blocks.permute(1, 2, 0))
    matrix = matrix.reshape(n, k, n * k)
    y = torch.nn.functional.one_hot(torch.arange(n) % k, k).double()
    y = 0.9 * y + 0.1 / k
    weight = torch.full((n,), 1 / n, dtype=torch.float64)
    problem = ConvexProblem(
        DenseOperator(matrix), y, CrossEntropyLoss(), weight, alpha, False
    )
    entropy = -float((weight @ (y * y.log())).sum())
    solution = solve(problem, method=method, tol=1e-10)
    assert solution.value == pytest.approx(entropy, rel=1e-9)
