"""The line search of damped Newton steps."""

import oracles
import pytest
import torch
from torch.testing import assert_close

from sklearn_pgb._convex._line_search import line_search
from sklearn_pgb._convex._newton import PrimalSystem
from sklearn_pgb._losses._regression import SquaredLoss


def search(problem, point, step):
    """The search from a point, and the objective there."""
    raw = problem.raw(*point)
    residual = problem.residual(raw)
    gradient = (
        problem.operator.rmatvec(residual) + problem.alpha * point[0],
        residual.sum(0) * problem.intercept,
    )
    value = float(oracles.objective(problem, *point))
    return line_search(problem, point, raw, value, gradient, step), value


@pytest.mark.parametrize("loss", oracles.NEWTON_LOSSES, ids=repr)
def test_search_decreases_the_objective(loss, generator):
    problem = oracles.random_problem(loss, generator)
    point = problem.zero()
    gradient = torch.func.grad(lambda coef: oracles.objective(problem, coef, point[1]))(
        point[0]
    )
    # A step that is too long: ten times the negative gradient.
    found, value = search(problem, point, (-10 * gradient, point[1]))
    coef, intercept, raw, data_value = found
    assert float(oracles.objective(problem, coef, intercept)) < value
    assert_close(raw, problem.raw(coef, intercept))
    assert data_value == pytest.approx(float(problem.data_value(raw)), rel=1e-14)


def test_newton_step_of_a_quadratic_is_taken_in_full(generator):
    problem = oracles.random_problem(SquaredLoss(), generator, intercept=False)
    zero = problem.zero()
    raw = problem.raw(*zero)
    gradient = problem.operator.rmatvec(problem.residual(raw)), torch.zeros(2).double()
    step = PrimalSystem(problem).step(problem, raw, gradient, 0.0)
    found, _ = search(problem, zero, step)
    assert torch.equal(found[0], step[0])


def test_steps_uphill_are_refused(generator):
    problem = oracles.random_problem(SquaredLoss(), generator, intercept=False)
    zero = problem.zero()
    uphill = problem.operator.rmatvec(problem.residual(problem.raw(*zero)))
    assert search(problem, zero, (uphill, zero[1]))[0] is None
