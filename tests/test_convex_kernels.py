"""Tests of convex problems given by kernel matrices."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.kernel_ridge import KernelRidge

from sklearn_pgb._convex._kernels import (
    DualProblem,
    FeatureProblem,
    KernelSolution,
    landmark_dual,
    landmark_features,
    solve_kernels,
)
from sklearn_pgb._losses._classification import (
    CrossEntropyLoss,
    LogisticLoss,
    SmoothedHingeLoss,
)
from sklearn_pgb._losses._regression import PoissonLoss, SquaredLoss

N, P = 25, 6


def draw(seed, k, n_kernels):
    """Features, weights and an offset."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n_kernels, N, P))
    weight = rng.uniform(0.5, 2, N)
    return rng, features, weight / weight.sum(), 0.3 * rng.normal(size=(N, k))


def problem_of(loss, y, features, weight, alpha, offset):
    """The problem of the kernels of these features."""
    kernels = torch.tensor(features @ features.transpose(0, 2, 1))
    y = loss.encode(torch.tensor(y, dtype=torch.float64))
    parts = torch.tensor(weight), alpha, torch.tensor(offset)
    return DualProblem(kernels, y, loss, *parts)


def primal_value(problem, features):
    """Minimum over coefficients of the features, by a general optimizer."""
    phi, k = torch.tensor(features), problem.y.shape[1]

    def objective(theta):
        theta = torch.tensor(theta, requires_grad=True)
        coef, intercept = theta[:-k].reshape(k, P), theta[-k:]
        both = phi.expand(k, N, P) if len(phi) == 1 else phi
        raw = torch.einsum("cip,cp->ic", both, coef) + intercept + problem.offset
        loss = problem.weight @ problem.loss.value(problem.y, raw)
        value = loss + problem.alpha / 2 * coef.square().sum()
        value.backward()
        return value.item(), theta.grad.numpy()

    start = np.zeros(k * P + k)
    options = {"maxiter": 5000, "maxfun": 10**5, "ftol": 1e-15, "gtol": 1e-9}
    return minimize(objective, start, jac=True, method="L-BFGS-B", options=options).fun


CASES = [
    (SquaredLoss(), 2),
    (PoissonLoss(), 1),
    (LogisticLoss(), 1),
    (LogisticLoss(), 3),
    (SmoothedHingeLoss(2.0), 1),
    (CrossEntropyLoss(), 3),
]


@pytest.mark.parametrize("n_kernels", [1, "one per output"])
@pytest.mark.parametrize(("loss", "k"), CASES, ids=lambda case: str(case))
def test_solution_minimizes_the_primal_objective(loss, k, n_kernels, seed):
    n_kernels = k if isinstance(n_kernels, str) else 1
    rng, features, weight, offset = draw(seed, k, n_kernels)
    y = rng.normal(size=(N, k))
    if isinstance(loss, PoissonLoss):
        y = rng.poisson(2.0, size=(N, k))
    elif isinstance(loss, CrossEntropyLoss):
        y = np.eye(k)[rng.integers(k, size=N)]
    elif loss.is_classification:
        y = (y > 0).astype(float)
    problem = problem_of(loss, y, features, weight, 0.05, offset)
    solution = solve_kernels(problem, tol=1e-13, max_iter=500)
    assert solution.converged
    function = problem.function(solution.coef)
    raw = function + solution.intercept + problem.offset
    value = problem.value(raw, function, solution.coef)
    # L-BFGS stops at a relative change of about 1e-12.
    assert value == pytest.approx(primal_value(problem, features), rel=1e-8)


def test_squared_loss_is_kernel_ridge():
    rng, features, _, _ = draw(0, 1, 1)
    weight, offset = np.full(N, 1 / N), np.zeros((N, 1))
    y = rng.normal(size=(N, 1))
    problem = problem_of(SquaredLoss(), y, features, weight, 0.3, offset)
    solution = solve_kernels(problem, tol=1e-10, max_iter=5)
    # scikit-learn has no intercept and half of the penalty: (n alpha / 2) I.
    model = KernelRidge(alpha=N * 0.3 / 2, kernel="precomputed")
    model.fit(problem.kernels[0].numpy(), y - solution.intercept.numpy())
    np.testing.assert_allclose(solution.coef.numpy(), model.dual_coef_, rtol=1e-9)
    # The best intercept leaves no sum of residuals.
    assert abs(float(solution.coef.sum())) < 1e-10


@pytest.mark.parametrize("n_landmarks", [N, 10])
@pytest.mark.parametrize(("loss", "k"), [(SquaredLoss(), 2), (LogisticLoss(), 1)])
def test_landmarks_span_the_functions(loss, k, n_landmarks):
    rng, features, weight, offset = draw(3, k, 1)
    y = (rng.normal(size=(N, k)) > 0).astype(float)
    problem = problem_of(loss, y, features, weight, 0.05, offset)
    whole = solve_kernels(problem, tol=1e-13, max_iter=100)
    cross = problem.kernels[:, :, :n_landmarks]
    basis, factor = landmark_features(cross, cross[:, :n_landmarks])
    kwargs = {name: getattr(problem, name) for name in ("y", "loss", "weight")}
    alpha, offset = problem.alpha, problem.offset
    reduced = FeatureProblem(basis, **kwargs, alpha=alpha, offset=offset)
    part = solve_kernels(reduced, tol=1e-13, max_iter=100)
    # Ten landmarks span all functions of six features.
    function = cross[0] @ landmark_dual(factor, part.coef)
    expected = problem.function(whole.coef)
    torch.testing.assert_close(function, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(part.intercept, whole.intercept, rtol=1e-5, atol=1e-6)


def test_start_does_not_change_the_solution():
    rng, features, weight, offset = draw(1, 1, 1)
    y = (rng.normal(size=(N, 1)) > 0).astype(float)
    problem = problem_of(LogisticLoss(), y, features, weight, 0.01, offset)
    cold = solve_kernels(problem, tol=1e-14, max_iter=100)
    far = KernelSolution(1e3 * torch.ones(N, 1).double(), torch.zeros(1).double(), True)
    warm = solve_kernels(problem, tol=1e-14, max_iter=100, start=far)
    torch.testing.assert_close(warm.coef, cold.coef, rtol=1e-5, atol=1e-7)
