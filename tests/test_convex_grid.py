"""Solutions for a grid of alphas equal those for each alpha."""

from dataclasses import replace

import numpy as np
import oracles
import pytest
import torch

from sklearn_pgb._convex._ridge_grid import ridge_grid
from sklearn_pgb._losses._regression import SquaredLoss
from sklearn_pgb._operators._dense import DenseOperator

ALPHAS = torch.tensor([1.0, 1e-2, 1e-4], dtype=torch.float64)


@pytest.mark.parametrize("n_coef", [4, 60], ids=["tall", "wide"])
@pytest.mark.parametrize("n_outputs", [1, 3])
@pytest.mark.parametrize("intercept", [False, True], ids=["bound", "free"])
@pytest.mark.parametrize("dual", [False, True], ids=["primal", "dual"])
def test_grid_is_each_problem_solved(generator, dual, intercept, n_outputs, n_coef):
    """Weights, several outputs, offsets, free intercepts, both decompositions."""
    shape = {"n_coef": n_coef, "n_outputs": n_outputs, "intercept": intercept}
    # An offset of the problem itself is ignored.
    problem = oracles.random_problem(SquaredLoss(), generator, offset=True, **shape)
    new = oracles.randn(generator, 7, n_outputs, n_coef)
    offsets = [
        None,
        (
            oracles.randn(generator, 25, n_outputs),
            oracles.randn(generator, 7, n_outputs),
        ),
    ]
    grid, heldout = ridge_grid(problem, DenseOperator(new), offsets, ALPHAS, dual)
    assert heldout.shape == (2, 3, 7, n_outputs)
    matrix, y = problem.operator.dense().numpy(), problem.y.numpy()
    for row, offset in enumerate(offsets):
        seen, ahead = (0.0, 0.0) if offset is None else (o.numpy() for o in offset)
        for column, alpha in enumerate(ALPHAS.tolist()):
            expected, free = oracles.ridge(
                matrix, y - seen, problem.weight.numpy(), alpha, intercept
            )
            coef, found = grid.coefficients(row, column, problem.operator)
            np.testing.assert_allclose(coef, expected, rtol=1e-6, atol=1e-8)
            np.testing.assert_allclose(found, free, rtol=1e-6, atol=1e-8)
            raw = ahead + new.numpy() @ expected + free
            found = heldout[row, column]
            np.testing.assert_allclose(found, raw, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("dual", [False, True], ids=["primal", "dual"])
def test_alpha_zero_gives_the_shortest_least_squares(generator, dual):
    """There are more columns than samples, and two of them are equal."""
    problem = oracles.random_problem(SquaredLoss(), generator, n_samples=9, n_coef=30)
    matrix = problem.operator.dense().clone()
    matrix[..., 1] = matrix[..., 0]
    matrix[1] = matrix[0]
    problem = replace(problem, operator=DenseOperator(matrix), intercept=False)
    none = torch.zeros(1, dtype=torch.float64)
    grid, _ = ridge_grid(problem, problem.operator, [None], none, dual)
    root = problem.weight.sqrt().numpy()[:, None]
    rows = (root[:, :, None] * matrix.numpy()).reshape(-1, 30)
    target = (root * problem.y.numpy()).reshape(-1)
    expected = np.linalg.lstsq(rows, target, rcond=1e-10)[0]
    coef, _ = grid.coefficients(0, 0, problem.operator)
    np.testing.assert_allclose(coef, expected, rtol=1e-5, atol=1e-7)
