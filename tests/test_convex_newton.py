"""Newton's steps: three factorisations, conjugate gradients, a recycled factor."""

from dataclasses import replace

import oracles
import pytest
import torch
from torch.testing import assert_close

from sklearn_pgb._convex import PathSolver, SequenceSolver, _solve, solve
from sklearn_pgb._convex._newton import (
    DualSystem,
    MatrixFreeSystem,
    PrimalSystem,
    RecycledSystem,
    hessian_matrix,
    hessian_product,
)
from sklearn_pgb._losses import (
    CrossEntropyLoss,
    LogisticLoss,
    PoissonLoss,
    SmoothedHingeLoss,
)
from sklearn_pgb._operators import KroneckerOperator

newton_losses = pytest.mark.parametrize("loss", oracles.NEWTON_LOSSES, ids=repr)
intercepts = pytest.mark.parametrize("intercept", [True, False])


@newton_losses
@intercepts
def test_newton_systems(loss, intercept, generator):
    """All three solve the linear system of the Hessian by autograd."""
    problem = oracles.random_problem(loss, generator, intercept=intercept)
    point = torch.randn(6, generator=generator, dtype=torch.float64)
    if not intercept:
        point[4:] = 0
    coef, free = oracles.split(problem, point)
    raw = problem.raw(coef, free)
    hessian = torch.func.jacrev(
        torch.func.jacrev(
            lambda point: oracles.objective(problem, *oracles.split(problem, point))
        )
    )(point)
    free = 6 if intercept else 4
    product = hessian_product(problem, raw)
    columns = torch.stack([product(e) for e in torch.eye(free).double()], 1)
    assert_close(columns, hessian[:free, :free], rtol=1e-11, atol=1e-11)
    matrix = hessian_matrix(problem, problem.augmented(), raw)
    assert_close(matrix, columns, rtol=1e-9, atol=1e-9)

    gradient = torch.randn(6, generator=generator, dtype=torch.float64)
    # Softmax leaves one direction of the intercept free, which no gradient points to.
    gradient[4:] -= gradient[4:].mean()
    gradient[4:] *= intercept
    systems = [
        PrimalSystem(problem),
        DualSystem(problem),
        MatrixFreeSystem(problem),
        RecycledSystem(),
    ]
    for system in systems:
        step = torch.cat(system.step(problem, raw, gradient.split([4, 2]), 1e-12))
        left = hessian @ step + gradient
        assert float(left.norm()) <= 1e-8 * float(gradient.norm())
        assert intercept or not step[4:].any()


@pytest.mark.parametrize("loss", [CrossEntropyLoss(), PoissonLoss()], ids=repr)
def test_sequence_after_a_bad_start(loss, generator):
    """Where Newton gets stuck it starts again from zero."""
    problem = oracles.random_problem(loss, generator, alpha=1e-10)
    expected = solve(problem, tol=1e-10)
    sequence = SequenceSolver()
    far = torch.randn(4, generator=generator, dtype=torch.float64)
    sequence._start = 1e8 * far, problem.zero()[1]
    found = sequence.solve(problem, 1e-10, 100)
    assert found.value == pytest.approx(expected.value, rel=1e-9)
    # Where the loss overflows at the start, Newton says that it got nowhere.
    start = 1e200 * far, problem.zero()[1]
    assert not solve(problem, start=start, max_iter=3).converged


def newton_data(problem, scale, generator):
    """A point with its raw outputs and gradient."""
    coef, free = problem.zero()
    noise = torch.randn(coef.shape, generator=generator, dtype=torch.float64)
    coef = coef + scale * noise
    raw = problem.raw(coef, free)
    residual = problem.residual(raw)
    return raw, (
        problem.operator.rmatvec(residual) + problem.alpha * coef,
        residual.sum(0),
    )


@newton_losses
def test_recycled_factor(loss, generator):
    """The second step reaches its goal by the first one's factor, near it or far."""
    problem = oracles.random_problem(loss, generator, 40, 10, alpha=0.1)
    system = RecycledSystem()
    raw, gradient = newton_data(problem, 0.1, generator)
    first = torch.cat(system.step(problem, raw, gradient, 0.0))
    factor = system.factor
    promised = -0.5 * float(torch.cat(gradient) @ first)
    assert system.decrease(problem, gradient) == pytest.approx(promised, rel=1e-4)
    raw, gradient = newton_data(problem, 0.11, generator)
    goal = 1e-2 * float(torch.cat(gradient).norm())
    step = torch.cat(system.step(problem, raw, gradient, goal))
    assert system.factor is factor
    left = hessian_product(problem, raw)(step) + torch.cat(gradient)
    inverse = torch.cholesky_inverse(factor.double())
    share = left @ inverse @ left
    whole = torch.cat(gradient) @ inverse @ torch.cat(gradient)
    assert float(share) <= 1.01e-4 * float(whole)
    system.least_products, system.gain = 0, 1e9
    step = torch.cat(system.step(problem, raw, gradient, goal))
    assert system.factor is not factor
    left = hessian_product(problem, raw)(step) + torch.cat(gradient)
    assert float(left.norm()) <= 1e-9 * float(torch.cat(gradient).norm())


@pytest.mark.parametrize("certified", [True, False])
@pytest.mark.parametrize("method", ["primal", "dual", "matrix-free"])
def test_start_at_the_minimum(method, certified, generator):
    """Where the gradient is zero there is nothing to do."""
    problem = oracles.random_problem(LogisticLoss(), generator, alpha=0.1)
    problem = replace(problem, y=torch.full_like(problem.y, 0.5))
    solver = PathSolver(problem, method, 2.0**30)
    solution = solver.solve(0.1, None, 1e-6, 10, certified)
    assert solution.converged
    assert solution.n_iter == 1
    assert not solution.coef.any()


@newton_losses
@pytest.mark.parametrize("alpha", [0.0, 1e-3])
def test_sequence_of_problems(loss, alpha, generator, monkeypatch):
    """Solutions of a drifting sequence are those of each problem solved alone."""
    monkeypatch.setattr(_solve, "RECYCLED_COEF", (0, 100))
    features = torch.randn(60, 5, generator=generator, dtype=torch.float64)
    drift = torch.randn(60, 5, generator=generator, dtype=torch.float64)
    problem = oracles.random_problem(loss, generator, 60, alpha=alpha)
    solver = SequenceSolver()
    for size in (0.0, 0.1, 0.15, 0.6):
        operator = KroneckerOperator(features + size * drift, 2)
        problem = replace(problem, operator=operator)
        expected = solve(problem, method="primal", tol=1e-12)
        roughly = solver.solve(problem, 1e-7, 100, certified=False)
        assert roughly.value - expected.value <= 1e-6 * abs(expected.value)
        exact = solver.solve(problem, 1e-12, 100)
        assert exact.value == pytest.approx(expected.value, rel=1e-11)
        assert exact.lower_bound <= expected.value * (1 + 1e-12)


def test_rough_steps_are_the_dense_steps_to_float32(generator):
    """A step that may be rough is right to its goal, and comes back in float64."""
    problem = oracles.random_problem(CrossEntropyLoss(), generator, 30, 6, alpha=0.1)
    raw = problem.raw(*problem.zero())
    residual = problem.residual(raw)
    gradient = problem.operator.rmatvec(residual), residual.sum(0)
    goal = 2e-3 * float(torch.cat(gradient).norm())
    system = MatrixFreeSystem(problem)
    assert system.rough.operator.dtype == torch.float32
    step = torch.cat(system.step(problem, raw, gradient, goal))
    assert step.dtype == torch.float64
    assert torch.equal(step, step.float().double())
    left = hessian_product(problem, raw)(step) + torch.cat(gradient)
    assert float(left.norm()) <= 1.001 * goal


def test_conjugate_gradients_stay_in_the_span(generator):
    """However far they go, no step is taken where the basis is flat."""
    problem = oracles.deficient_problem(LogisticLoss(), generator)
    raw = torch.zeros_like(problem.y)
    residual = problem.residual(raw)
    gradient = problem.operator.rmatvec(residual), residual.sum(0)
    step = MatrixFreeSystem(problem).step(problem, raw, gradient, goal=0.0)
    product = hessian_product(problem, raw)
    hessian = torch.stack([product(e) for e in torch.eye(8, dtype=torch.float64)])
    target = -torch.cat(gradient)
    expected = torch.linalg.pinv(hessian, rtol=1e-10, hermitian=True) @ target
    assert_close(torch.cat(step), expected, rtol=0, atol=1e-4)


def test_line_search_passes_kinks(generator):
    """Steps that end short of the hinge's margins would take over a hundred."""
    problem = oracles.random_problem(
        SmoothedHingeLoss(), generator, 20, 60, intercept=False, offset=True
    )
    problem = problem.with_alpha(1e-8 * oracles.largest_square(problem))
    solution = solve(problem, method="matrix-free", tol=1e-8, max_iter=80)
    assert solution.converged
    assert solution.gap <= 1e-8 * solution.value
