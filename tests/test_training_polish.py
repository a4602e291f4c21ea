"""`polish` and `hessian` against closed forms, scikit-learn and finite differences."""

import numpy as np
import oracles
import pytest
import torch
from neuron_cases import FunctionProgram
from oracles import randn
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression, Ridge
from torch.testing import assert_close

from sklearn_pgb._losses._classification import (
    CrossEntropyLoss,
    LogisticLoss,
    SmoothedHingeLoss,
)
from sklearn_pgb._losses._regression import PoissonLoss, SquaredLoss
from sklearn_pgb._models._activations import ACTIVATIONS
from sklearn_pgb._models._chain import ChainNetwork
from sklearn_pgb._training import _polish
from sklearn_pgb._training._objective import Objective, hessian
from sklearn_pgb._training._polish import polish, quasi_newton
from sklearn_pgb._training._program import ChainProgram, uniform_initialization

LOSSES = [SquaredLoss(), LogisticLoss(), CrossEntropyLoss()]
all_losses = pytest.mark.parametrize("loss", LOSSES, ids=repr)


def problem(loss, generator, name="tanh", ridge=1e-2, n_samples=25):
    """A random objective on a small chain with penalized weights, and a start."""
    program = ChainProgram([3, 4, 3], [ACTIVATIONS[name]])
    objective = Objective(
        program,
        loss,
        randn(generator, n_samples, 3),
        oracles.random_targets(loss, n_samples, generator),
        oracles.random_weight(n_samples, generator),
        ridge * program.is_weight().double(),
    )
    return objective, randn(generator, program.n_params)


def gradient_by_autograd(objective, theta):
    """Gradient of the objective by autograd through a ChainNetwork."""
    weights, biases = objective.program.split(theta[None])
    network = ChainNetwork.mlp(
        [W[0] for W in weights],
        [b.reshape(-1) for b in biases],
        objective.program.activations,
    )

    def value(theta):
        losses = objective.loss.value(objective.y, network(theta, objective.X))
        return objective.weight @ losses + objective.penalty @ theta**2

    return torch.func.grad(value)(theta)


# --- critical points ---------------------------------------------------------------


@all_losses
def test_reaches_a_critical_point(loss, generator):
    """A small tanh network ends at a zero gradient, by autograd."""
    objective, theta = problem(loss, generator)
    start = theta.clone()
    polished = polish(objective, theta, gtol=1e-9)
    gradient = gradient_by_autograd(objective, polished.theta)
    assert gradient.abs().max() <= 1.1e-9
    value = objective.value(polished.theta[None]).item()
    assert polished.value == pytest.approx(value, rel=1e-14)
    assert polished.value < objective.value(theta[None]).item()
    assert_close(theta, start, rtol=0, atol=0)


def test_newton_reaches_what_lbfgs_does_not(generator):
    """L-BFGS stops when rounding hides its progress; Newton steps continue."""
    objective, theta = problem(SquaredLoss(), generator)
    tiny = {"gtol": 1e-11, "max_iter": 3000}
    first = polish(objective, theta, newton=False, **tiny)
    both = polish(objective, theta, **tiny)
    norms = [gradient_by_autograd(objective, p.theta).norm() for p in (both, first)]
    assert norms[0] <= 1e-10 < norms[1]
    assert both.value <= first.value + 1e-15
    assert both.n_iter > first.n_iter


def test_newton_is_for_few_parameters(generator, monkeypatch):
    """The Hessian is not formed for more than POLISH_DENSE_PARAMS parameters."""
    objective, theta = problem(SquaredLoss(), generator)
    first = polish(objective, theta, gtol=1e-11, newton=False)
    monkeypatch.setattr(_polish, "POLISH_DENSE_PARAMS", len(theta) - 1)
    assert_close(polish(objective, theta, gtol=1e-11).theta, first.theta)
    assert polish(objective, theta, gtol=1e-11).n_iter == first.n_iter
    monkeypatch.setattr(_polish, "POLISH_DENSE_PARAMS", len(theta))
    assert polish(objective, theta, gtol=1e-11).n_iter > first.n_iter


# --- closed forms ------------------------------------------------------------------


def linear_problem(loss, generator, alpha):
    program = ChainProgram([4, 2], [])
    X = randn(generator, 30, 4)
    y = oracles.random_targets(loss, 30, generator, n_outputs=2)
    weight = oracles.random_weight(30, generator)
    penalty = alpha * program.is_weight().double()
    objective = Objective(program, loss, X, y, weight, penalty)
    theta = polish(objective, torch.zeros(program.n_params), gtol=1e-11).theta
    return objective, theta[:8].reshape(2, 4).numpy(), theta[8:].numpy()


@pytest.mark.parametrize("alpha", [0.0, 0.1])
def test_linear_model_equals_ridge(alpha, generator):
    """Without hidden layers the polish solves weighted ridge regression."""
    objective, coef, intercept = linear_problem(SquaredLoss(), generator, alpha)
    data = objective.X.numpy(), objective.y.numpy(), objective.weight.numpy()
    if alpha == 0:
        rows = np.sqrt(data[2])[:, None]
        ones = np.ones((30, 1))
        expected = np.linalg.lstsq(rows * np.hstack([data[0], ones]), rows * data[1])
        expected = expected[0][:4].T, expected[0][4]
    else:
        ridge = Ridge(alpha=alpha, solver="cholesky").fit(*data)
        expected = ridge.coef_, ridge.intercept_
    np.testing.assert_allclose(coef, expected[0], rtol=0, atol=1e-10)
    np.testing.assert_allclose(intercept, expected[1], rtol=0, atol=1e-10)


def test_linear_model_equals_logistic_regression(generator):
    """One output with a penalty is scikit-learn's logistic regression."""
    program = ChainProgram([4, 1], [])
    X, weight = randn(generator, 30, 4), oracles.random_weight(30, generator)
    y = (torch.arange(30) % 2).double()[:, None]
    penalty = 0.05 * program.is_weight().double()
    objective = Objective(program, LogisticLoss(), X, y, weight, penalty)
    theta = polish(objective, torch.zeros(5), gtol=1e-11).theta.numpy()
    model = LogisticRegression(C=1 / 0.1, solver="newton-cholesky", tol=1e-12)
    model.fit(X.numpy(), y[:, 0].numpy(), weight.numpy())
    np.testing.assert_allclose(theta[:4], model.coef_[0], rtol=0, atol=1e-8)
    np.testing.assert_allclose(theta[4], model.intercept_[0], rtol=0, atol=1e-8)


# --- never worse -------------------------------------------------------------------


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "tanh"])
@pytest.mark.parametrize("loss", [*LOSSES, SmoothedHingeLoss()], ids=repr)
def test_never_worse_than_the_start(loss, name, generator):
    """From any start, also at kinks, the objective does not increase."""
    objective, theta = problem(loss, generator, name, ridge=1e-3)
    polished = polish(objective, theta, max_iter=200)
    start = objective.value(theta[None]).item()
    assert polished.value < 0.9 * start
    assert (np.diff(polished.losses) <= 0).all()
    again = polish(objective, polished.theta)
    assert again.value <= polished.value + 1e-14


def test_start_at_a_minimum(generator):
    """A start that is critical already is returned."""
    objective, theta = problem(SquaredLoss(), generator)
    first = polish(objective, theta, gtol=1e-9)
    again = polish(objective, first.theta, gtol=1e-8)
    assert_close(again.theta, first.theta, rtol=0, atol=0)
    assert again.value == first.value


@pytest.mark.parametrize(("y", "start"), [(10.0, -1500.0), (1000.0, -2000.0)])
def test_overflow_does_not_end_the_polish(y, start):
    """If a step overflows, as for e^q - y q, shorter steps follow."""
    one = torch.ones(1, 1, dtype=torch.float64)
    program = oracles.program_without_biases([1, 1], "identity")
    objective = Objective(program, PoissonLoss(), one, y * one, one[0], 0 * one[0])
    polished = polish(objective, start * one[0])
    assert polished.theta.item() == pytest.approx(np.log(y), abs=1e-6)


def test_nan_is_a_large_value():
    """Steps to a value of nan, as of (log q)^2 for q < 0, are shortened."""
    one = torch.ones(1, 1, dtype=torch.float64)
    program = FunctionProgram(lambda theta, X: theta.log()[None], 1)
    objective = Objective(program, SquaredLoss(), one, 0 * one, one[0], 0 * one[0])
    polished = polish(objective, 20 * one[0], newton=False)
    assert polished.value < 0.1 * objective.value(20 * one).item()


def saddle(generator):
    """A linear net with one hidden unit: zero is a saddle of its squared error."""
    program = oracles.program_without_biases([2, 1, 1], "identity")
    X = randn(generator, 20, 2)
    y = X @ torch.tensor([[1.0], [-2.0]], dtype=torch.float64)
    weight = torch.full((20,), 1 / 20, dtype=torch.float64)
    return Objective(program, SquaredLoss(), X, y, weight, torch.zeros(3).double())


def test_saddle(generator):
    """The polish stays at a saddle with zero gradient, but leaves points nearby."""
    objective = saddle(generator)
    zero = torch.zeros(3, dtype=torch.float64)
    assert torch.linalg.eigvalsh(hessian(objective, zero))[0] < -0.1
    on = polish(objective, zero)
    assert_close(on.theta, zero, rtol=0, atol=0)
    assert on.value == objective.value(zero[None]).item()
    near = polish(objective, zero + 1e-3, gtol=1e-9)
    assert near.value <= 1e-15
    assert objective.value_and_gradient_of_one(near.theta)[1].norm() <= 1e-8


@pytest.mark.parametrize("distance", [1e-6, 1e-3, 1e-1])
def test_newton_near_a_saddle(distance, generator):
    """Newton's steps do not climb, and do not end with a larger gradient."""
    objective = saddle(generator)
    theta = distance * randn(generator, 3)
    end = _polish._newton(objective, theta, 1e-12, lambda theta, value: False)
    before, gradient = objective.value_and_gradient(theta[None])
    after, end_gradient = objective.value_and_gradient(end[None])
    assert after <= before + 1e-14
    assert end_gradient.norm() <= gradient.norm()


def test_newton_is_not_drawn_to_a_saddle(generator):
    """It moves away from the saddle along the direction of negative curvature."""
    objective = saddle(generator)
    zero = torch.zeros(3, dtype=torch.float64)
    down, _, up = torch.linalg.eigh(hessian(objective, zero))[1].T
    start = 0.1 * up + 1e-3 * down
    _, gradient = objective.value_and_gradient(start[None])
    eigenvalues, vectors = torch.linalg.eigh(hessian(objective, start))
    size = vectors @ (vectors.T / eigenvalues.abs()[:, None])
    first = _polish._newton(objective, start, 1e-12, lambda theta, value: True)
    assert_close(first, start - size @ gradient[0], rtol=0, atol=1e-8)
    values = []
    end = _polish._newton(
        objective, start, 1e-12, lambda theta, value: values.append(value)
    )
    assert values
    assert abs(end @ up) < 0.01
    assert abs(end @ down) > 1e-3
    assert objective.value(end[None]) < objective.value(zero[None]) - 1e-7


# --- ends --------------------------------------------------------------------------


@pytest.mark.parametrize("newton", [False, True])
def test_on_iteration_ends_the_polish(newton, generator):
    """It sees each iterate with its objective, and the polish ends there."""
    objective, theta = problem(SquaredLoss(), generator)
    seen = []

    def on_iteration(theta, value):
        seen.append((theta, value))
        return len(seen) == 5

    polished = polish(objective, theta, newton=newton, on_iteration=on_iteration)
    assert len(seen) == len(polished.losses) == 5
    assert [value for _, value in seen] == polished.losses
    for at, value in seen:
        assert objective.value(at[None]).item() == pytest.approx(value, rel=1e-13)
    assert len({value for _, value in seen}) == 5
    assert_close(polished.theta, seen[-1][0])
    assert polished.n_iter == 5


def test_losses_have_an_entry_per_iteration(generator):
    """There are as many losses as iterations, and the last is that of the result."""
    objective, theta = problem(SquaredLoss(), generator)
    polished = polish(objective, theta, gtol=1e-11)
    assert polished.losses[-1] == pytest.approx(polished.value, rel=1e-12)
    assert len(polished.losses) == polished.n_iter


def test_limits(generator):
    """Iterations and evaluations of L-BFGS are bounded."""
    objective, theta = problem(SquaredLoss(), generator)
    polished = polish(objective, theta, max_iter=3, newton=False)
    assert polished.n_iter == len(polished.losses) == 3
    few = polish(objective, theta, max_evaluations=4, newton=False)
    assert 1 <= few.n_iter <= 4
    assert few.value < objective.value(theta[None]).item()
    options = {"maxiter": 3, "maxcor": 20, "gtol": 1e-8, "ftol": 0.0}

    def function(x):
        value, gradient = objective.value_and_gradient(torch.from_numpy(x)[None])
        return value.item(), gradient[0].numpy()

    result = minimize(
        function, theta.numpy(), jac=True, method="L-BFGS-B", options=options
    )
    np.testing.assert_allclose(polished.theta.numpy(), result.x, rtol=1e-12)


@pytest.mark.parametrize("limit", [1, 2, 5, 9, 14, 40])
def test_evaluations_stop_within_a_line_search(limit):
    """Line searches are long on Rosenbrock's function; the best point is kept."""
    seen = []

    def rosenbrock(point):
        point = point.clone().requires_grad_()
        value = 1e4 * (point[1] - point[0] ** 2) ** 2 + (1 - point[0]) ** 2
        seen.append(value.item())
        return value.detach(), torch.autograd.grad(value, point)[0]

    start = torch.tensor([-1.2, 1.0], dtype=torch.float64)
    found = quasi_newton(rosenbrock, start, gtol=0, max_iter=100, max_evaluations=limit)
    assert len(seen) == found.n_evaluations == limit
    assert found.value == min(seen)
    assert found.value == rosenbrock(found.theta)[0].item()


def test_gtol_is_the_largest_entry(generator):
    """The polish ends at the first iterate with all entries below `gtol`."""
    objective, theta = problem(SquaredLoss(), generator)
    rng = np.random.RandomState(0)
    theta = uniform_initialization(objective.program, rng, 1)[0]
    loose = polish(objective, theta, gtol=1e-2)
    assert gradient_by_autograd(objective, loose.theta).abs().max() <= 1e-2
    assert loose.n_iter < polish(objective, theta, gtol=1e-4).n_iter


# --- Hessians ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_hessian_of_activations(name, generator):
    """Central differences of the gradient give the Hessian."""
    check_hessian(*problem(SquaredLoss(), generator, name))


@pytest.mark.parametrize(
    "loss", [*LOSSES, SmoothedHingeLoss(power=3.0), PoissonLoss()], ids=repr
)
def test_hessian_of_losses(loss, generator):
    check_hessian(*problem(loss, generator))


def check_hessian(objective, theta):
    step = 1e-5 * torch.eye(len(theta), dtype=torch.float64)
    ahead = objective.value_and_gradient(theta + step)[1]
    behind = objective.value_and_gradient(theta - step)[1]
    expected = (ahead - behind) / 2e-5
    result = hessian(objective, theta)
    scale = expected.abs().max().item()
    assert_close(result, expected, rtol=0, atol=1e-7 * scale)
    assert_close(result, result.T, rtol=0, atol=0)


def test_gradients_whose_squares_overflow():
    def function(theta):
        return 1e200 * theta.square().sum(), 2e200 * theta

    found = quasi_newton(function, randn(torch.Generator(), 3), gtol=0.0, max_iter=1)
    assert found.theta.isfinite().all()
