"""Newton's steps: factorisations, conjugate gradients, blocks of the outputs."""

from dataclasses import replace

import oracles
import pytest
import torch
from torch.testing import assert_close

from sklearn_pgb._convex._newton import (
    DualSystem,
    MatrixFreeSystem,
    PrimalSystem,
    apply_blocks,
    hessian_matrix,
    hessian_product,
    newton,
    shared_blocks,
    solve_semidefinite,
)
from sklearn_pgb._convex._problem import ConvexProblem
from sklearn_pgb._convex._solve import PathSolver, solve
from sklearn_pgb._losses._classification import (
    CrossEntropyLoss,
    LogisticLoss,
    SmoothedHingeLoss,
)
from sklearn_pgb._losses._regression import PoissonLoss
from sklearn_pgb._operators._dense import KroneckerOperator

newton_losses = pytest.mark.parametrize("loss", oracles.NEWTON_LOSSES, ids=repr)
intercepts = pytest.mark.parametrize("intercept", [True, False])


@newton_losses
@intercepts
def test_newton_systems(loss, intercept, generator):
    """They all solve the linear system of the Hessian by autograd."""
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
    ]
    for system in systems:
        step = torch.cat(system.step(problem, raw, gradient.split([4, 2]), 1e-12))
        left = hessian @ step + gradient
        assert float(left.norm()) <= 1e-8 * float(gradient.norm())
        assert intercept or not step[4:].any()


@pytest.mark.parametrize("loss", [CrossEntropyLoss(), PoissonLoss()], ids=repr)
def test_a_start_at_which_the_loss_overflows(loss, generator):
    """Newton says that it got nowhere."""
    problem = oracles.random_problem(loss, generator, alpha=1e-10)
    far = torch.randn(4, generator=generator, dtype=torch.float64)
    start = 1e200 * far, problem.zero()[1]
    assert not solve(problem, start=start, max_iter=3).converged


@newton_losses
@intercepts
def test_blocks_are_those_of_the_hessian(loss, intercept, generator):
    """One for each output, with the columns of its features and intercept."""
    problem = oracles.random_problem(loss, generator, 40, 5, intercept=intercept)
    features = torch.randn(40, 5, generator=generator, dtype=torch.float64)
    problem = replace(problem, operator=KroneckerOperator(features, 2), alpha=0.3)
    point = torch.randn(10, generator=generator, dtype=torch.float64)
    raw = problem.raw(point, problem.zero()[1])
    width = 5 + intercept
    product = hessian_product(problem, raw)
    hessian = torch.stack([product(e) for e in torch.eye(2 * width).double()])
    blocks = hessian.view(width, 2, width, 2).diagonal(dim1=1, dim2=3)
    inverses = shared_blocks(problem, raw)(problem.alpha).args[0]
    for c in range(2):
        identity = torch.eye(width, dtype=torch.float64)
        assert_close(inverses[c] @ blocks[:, :, c], identity, rtol=0, atol=1e-9)
    target = torch.randn(2 * width, generator=generator, dtype=torch.float64)
    expected = torch.stack([inverses[c] @ target[c::2] for c in range(2)], 1)
    assert_close(apply_blocks(inverses, target), expected.reshape(-1))


def test_many_classes_take_few_products(generator):
    """With a weak ridge the blocks are what makes conjugate gradients end."""
    labels = torch.arange(100) % 20
    features = torch.randn(100, 8, generator=generator, dtype=torch.float64)
    features *= torch.logspace(0, 2, 8, dtype=torch.float64)
    y = torch.nn.functional.one_hot(labels, 20).double()
    weight = torch.full((100,), 0.01, dtype=torch.float64)
    problem = ConvexProblem(
        KroneckerOperator(features, 20), y, CrossEntropyLoss(), weight, 1e-3, True
    )
    system = MatrixFreeSystem(problem)
    found = newton(problem, system, None, 1e-8, 100)
    expected = solve(problem, method="primal", tol=1e-10)
    value = problem.data_value(problem.raw(*found[:2])) + 5e-4 * found[0].square().sum()
    assert float(value) == pytest.approx(expected.value, rel=1e-7)
    assert found[3]
    assert system._products <= 60


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


@pytest.mark.parametrize("method", ["primal", "dual"])
@pytest.mark.parametrize("loss", [CrossEntropyLoss(), LogisticLoss()], ids=repr)
def test_huge_features_are_a_tiny_alpha(loss, method, generator):
    """Features times s need the same objective as alpha divided by s squared.

    The Gram matrix is 1e28 times alpha here, so rounding leaves it indefinite.
    """
    features = torch.randn(40, 2, generator=generator, dtype=torch.float64)
    labels = torch.randint(3, (40,), generator=generator)
    y = torch.nn.functional.one_hot(labels, 3).double()
    weight = torch.full((40,), 1 / 40, dtype=torch.float64)
    plain = ConvexProblem(KroneckerOperator(features, 3), y, loss, weight, 1e-28, True)
    huge = replace(plain, operator=KroneckerOperator(1e14 * features, 3), alpha=1.0)
    expected = solve(plain, method="primal", tol=1e-10).value
    assert solve(huge, method=method, tol=1e-10).value == pytest.approx(expected)


def test_semidefinite_systems(generator):
    """The solution is the pseudoinverse's, also if scales differ; zero without one."""
    root = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    scale = torch.logspace(0, 12, 6, dtype=torch.float64)
    matrix = scale[:, None] * (root @ root.T) * scale
    # The last eigenvalue is negative, by as much as rounding can make it.
    matrix[0, 0] *= 1 - 1e-16
    assert int(torch.linalg.cholesky_ex(matrix).info)
    target = matrix @ torch.randn(6, 2, generator=generator, dtype=torch.float64)
    solution = solve_semidefinite(matrix, target)
    assert_close((matrix @ solution) / scale[:, None], target / scale[:, None])
    overflown = torch.full((2, 2), torch.inf, dtype=torch.float64)
    assert not solve_semidefinite(overflown, target[:2]).any()
