"""Sums over blocks of samples against the solution with all kernels in memory."""

import pytest
import torch

from sklearn_pgb._convex._kernels import (
    FeatureProblem,
    landmark_dual,
    landmark_features,
    solve_kernels,
)
from sklearn_pgb._convex._normal_sums import NormalSums
from sklearn_pgb._losses._regression import SquaredLoss


@pytest.mark.parametrize("n_kernels", [1, 2])
@pytest.mark.parametrize("alpha", [1e-5, 0.3])
def test_sums_equal_the_solution_in_memory(n_kernels, alpha, generator):
    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    basis = draw(n_kernels, 30, 9)
    landmarks = basis[:, :6] @ basis[:, :6].mT
    cross = basis @ basis[:, :6].mT
    y, offset, weight = draw(30, 2), draw(30, 2), draw(30).square() + 0.1
    weight /= weight.sum()
    features, factor = landmark_features(cross, landmarks)
    problem = FeatureProblem(features, y, SquaredLoss(), weight, alpha, offset)
    expected = solve_kernels(problem, tol=1e-12, max_iter=100)
    sums = NormalSums.of(landmarks)
    for rows in torch.arange(30).split(7):
        sums.add(cross[:, rows], y[rows] - offset[rows], weight[rows])
    dual, intercept = sums.solution(alpha)
    torch.testing.assert_close(intercept, expected.intercept, rtol=1e-8, atol=1e-10)
    wanted = landmark_dual(factor, expected.coef)
    torch.testing.assert_close(cross @ dual.T[:, :, None], cross @ wanted.T[:, :, None])
