"""ResNets: closed forms, local minima, weights (W, V) and variable projection."""

import tracemalloc
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.optimize import minimize
from scipy.optimize import root as optimize_root
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.preprocessing import FunctionTransformer, MinMaxScaler
from torch import nn

from sklearn_pgb import ResNetBasisRegressor
from sklearn_pgb._losses._classification import CrossEntropyLoss, LogisticLoss
from sklearn_pgb._losses._regression import SquaredLoss
from sklearn_pgb._models._activations import ACTIVATIONS
from sklearn_pgb._resnet._diagnostics import closed_form, stationarity
from sklearn_pgb._resnet._full_batch import joint, projected
from sklearn_pgb._resnet._projection import SquaredProjection, projection
from sklearn_pgb._resnet._residual import BasisSamples, ResidualObjective
from sklearn_pgb._resnet._weights import residual_weights, warn_if_singular
from sklearn_pgb._training._program import (
    ChainProgram,
    ModuleProgram,
    uniform_initialization,
)


@pytest.fixture
def rng(seed):
    return np.random.default_rng(seed)


def tensor(values):
    return torch.tensor(np.asarray(values), dtype=torch.float64)


def hessian(function):
    return torch.func.jacrev(torch.func.jacrev(function))


def lstsq_loss(features, Y, weight=None):
    """Mean squared loss of the best linear model, by numpy."""
    weight = np.ones(len(Y)) if weight is None else weight
    root = np.sqrt(weight / weight.sum())[:, None]
    coef = np.linalg.lstsq(root * features, root * Y)[0]
    return np.square(root * (Y - features @ coef)).sum()


def resnet(point, X, Z, n_outputs):
    """Raw outputs of W (x + V z) at a flat torch point."""
    dx, dz = X.shape[1], Z.shape[1]
    W = point[: n_outputs * dx].reshape(n_outputs, dx)
    V = point[n_outputs * dx :].reshape(dx, dz)
    return (X + Z @ V.T) @ W.T, W, V


def loss_and_gradient(flat, X, Z, y, loss):
    point = tensor(flat).requires_grad_()
    raw, _, _ = resnet(point, X, Z, y.shape[1])
    value = loss.value(y, raw).mean()
    value.backward()
    return value.item(), point.grad.numpy()


def critical_points(X, Z, y, loss, rng, n_starts=6):
    """(W, V) and loss of the descents that end at a critical point."""
    found = []
    for _ in range(n_starts):
        size = X.shape[1] * (y.shape[1] + Z.shape[1])
        result = minimize(
            loss_and_gradient,
            0.3 * rng.standard_normal(size),
            args=(X, Z, y, loss),
            jac=True,
            method="BFGS",
            options={"gtol": 1e-9, "maxiter": 5000},
        )
        # BFGS ends where rounding spoils its line search: the last digits are those of
        # a root finder, which works on the gradient alone.
        root = optimize_root(
            lambda point: loss_and_gradient(point, X, Z, y, loss)[1],
            result.x,
            method="lm",
            options={"xtol": 1e-15},
        )
        _, W, V = resnet(tensor(root.x), X, Z, y.shape[1])
        value, gradient = loss_and_gradient(root.x, X, Z, y, loss)
        if np.abs(gradient).max() <= 1e-8 and V.norm() <= 1e3:
            found.append((W.numpy(), V.numpy(), value))
    assert found
    return found


def random_case(rng, dy, dx, dz, loss):
    X, Z = rng.standard_normal((40, dx)), rng.standard_normal((40, dz))
    if isinstance(loss, SquaredLoss):
        return tensor(X), tensor(Z), tensor(rng.standard_normal((40, dy)))
    one_hot = np.eye(dy)[rng.integers(dy, size=40)]
    return tensor(X), tensor(Z), loss.encode(tensor(one_hot))


def convex_minimum(X, Z, y, loss):
    weight = torch.full((len(y),), 1 / len(y), dtype=torch.float64)
    coef, intercept = projection(X, y, weight, loss, False).solve(Z, 0.0)
    raw = torch.cat([X, Z], 1) @ coef + intercept
    return (weight @ loss.value(y, raw)).item(), coef.numpy()


def reduced_rank_loss(X, Z, y):
    features = torch.cat([X, Z], 1).numpy()
    fitted = features @ np.linalg.lstsq(features, y.numpy())[0]
    sigma = np.linalg.svd(fitted, compute_uv=False)
    kept = np.square(sigma[: X.shape[1]]).sum()
    return (np.square(y.numpy()).sum() - kept) / len(y)


# --- the model ----------------------------------------------------------------------


def test_RN_0_affine_features(rng):
    """An affine feature map changes nothing: the basis loss is that of OLS."""
    X, y = rng.standard_normal((30, 3)), rng.standard_normal(30)
    expected = np.square(y - LinearRegression().fit(X, y).predict(X)).mean()
    for basis in (None, MinMaxScaler()):
        model = ResNetBasisRegressor(basis, alpha=0.0, max_iter=1, cv=None).fit(X, y)
        assert_allclose(model.basis_loss_, expected, rtol=1e-12)
    ones = FunctionTransformer(lambda X: np.column_stack([2 * X, np.ones(len(X))]))
    model = ResNetBasisRegressor(
        ones, alpha=0.0, max_iter=1, cv=None, fit_intercept=False
    )
    assert_allclose(model.fit(X, y).basis_loss_, expected, rtol=1e-12)


def test_RN_1_gradients(rng):
    """Lemma 1: the gradients by W and V are those of autograd."""
    X, Z, y = random_case(rng, 2, 3, 4, SquaredLoss())
    flat = rng.standard_normal(2 * 3 + 3 * 4)
    raw, W, V = resnet(tensor(flat), X, Z, 2)
    gradient = (SquaredLoss().gradient(y, raw) / len(y)).numpy()
    found = stationarity(X.numpy(), Z.numpy(), gradient, W.numpy(), V.numpy())
    expected = loss_and_gradient(flat, X, Z, y, SquaredLoss())[1]
    ours = np.concatenate([found.W_gradient.ravel(), found.V_gradient.ravel()])
    assert_allclose(ours, expected, rtol=1e-13, atol=1e-14)


SMOOTH = CrossEntropyLoss(label_smoothing=0.1)
SIZES = [(2, 3, 4), (2, 3, 1), (3, 3, 1)]
CASES = [(*size, loss) for size in SIZES for loss in (SquaredLoss(), SMOOTH)]
CASES += [(1, 2, 3, SquaredLoss()), (2, 1, 3, SMOOTH)]


@pytest.mark.parametrize(("dy", "dx", "dz", "loss"), CASES)
def test_RN_2_local_minima(dy, dx, dz, loss, rng):
    """Theorem 1 and Lemma 2; the bound on the gap holds at any point."""
    X, Z, y = random_case(rng, dy, dx, dz, loss)
    best, coef = convex_minimum(X, Z, y, loss)
    R1, R2 = coef[:dx].T, coef[dx:].T
    for W, V, value in critical_points(X, Z, y, loss, rng):
        assert_allclose(value, best, rtol=0, atol=1e-8)
        assert_gap_is_bounded(X, Z, y, loss, W, V, R1, R2, best)
        off = W + 0.1 * rng.standard_normal(W.shape)
        found = assert_gap_is_bounded(X, Z, y, loss, off, V, R1, R2, best)
        assert np.abs(found.x_residual).max() > 1e-4
        if isinstance(loss, SquaredLoss):
            form = closed_form(X, Z, y)
            assert_allclose(value, form.loss, rtol=0, atol=1e-8)


def assert_gap_is_bounded(X, Z, y, loss, W, V, R1, R2, best):
    raw = (X + Z @ tensor(V).T) @ tensor(W).T
    gradient = (loss.gradient(y, raw) / len(y)).numpy()
    found = stationarity(X.numpy(), Z.numpy(), gradient, W, V)
    gap = loss.value(y, raw).mean().item() - best
    assert gap <= found.gap_bound(W, V, R1, R2) + 1e-12
    return found


def test_RN_2_bound_of_one_sample():
    """All sizes are one: (2.5 + 3 * 2 / 2) |2 - 1| + (2 / 2) |-6 - 4|."""
    x, z, gradient, W, V = (np.full((1, 1), value) for value in (1, 2, 0.5, 2, -3))
    found = stationarity(x, z, gradient, W, V)
    assert_allclose([found.W_gradient, found.V_gradient], [[[-2.5]], [[2]]])
    bound = found.gap_bound(W, V, np.full((1, 1), 1.0), np.full((1, 1), 4.0))
    assert_allclose(bound, 15.5, rtol=1e-14)


@pytest.mark.parametrize(("dy", "dx", "dz"), [(2, 1, 3), (3, 2, 4), (3, 1, 1)])
def test_RN_2_more_outputs_than_features(dy, dx, dz, rng):
    """With more outputs than features, local minima are the reduced-rank optimum."""
    X, Z, y = random_case(rng, dy, dx, dz, SquaredLoss())
    expected = reduced_rank_loss(X, Z, y)
    for *_, value in critical_points(X, Z, y, SquaredLoss(), rng):
        assert_allclose(value, expected, rtol=0, atol=1e-8)
    assert expected > convex_minimum(X, Z, y, SquaredLoss())[0] + 1e-3


def test_RN_3_one_feature_two_outputs():
    """dy > dx: a local minimum that is no better than the linear model."""
    X, Z = np.ones((4, 1)), np.array([[1.0], [-1.0], [1.0], [-1.0]])
    Y = np.hstack([np.full((4, 1), 2.0), Z])
    for V, expected in [(0.0, 1.0), (1.0, 2.5), (3.0, 3.7)]:
        assert_allclose(lstsq_loss(X + V * Z, Y), expected, atol=1e-12)
    form = closed_form(X, Z, Y)
    assert_allclose([form.basis_loss, form.loss], [1, 0], atol=1e-12)
    assert_allclose(reduced_rank_loss(*map(tensor, (X, Z, Y))), 1, atol=1e-12)


def test_RN_4_dead_relu():
    """A plain network can have zero derivatives and be worse than linear models."""
    X, y = tensor([[1.0], [2.0], [3.0]]), tensor([[1.0], [3.0], [5.0]])
    weights = tensor([-1.0, 1.0])

    def loss(weights):
        raw = weights[1] * torch.relu(weights[0] * X)
        return (raw - y).square().mean()

    assert_allclose(loss(weights).item(), 35 / 3, rtol=1e-14)
    assert not torch.func.grad(loss)(weights).any()
    assert not hessian(loss)(weights).any()
    assert_allclose(lstsq_loss(X.numpy(), y.numpy()), 1 / 7, rtol=1e-12)
    # On top of a basis, the same dead unit does not increase the loss.
    dead = nn.Sequential(nn.Linear(1, 1), nn.ReLU())
    nn.init.constant_(dead[0].weight, -1.0)
    nn.init.constant_(dead[0].bias, -1.0)
    for intercept, expected in [(False, 1 / 7), (True, 0.0)]:
        model = ResNetBasisRegressor(
            module=dead, alpha=0.0, cv=None, max_iter=3, fit_intercept=intercept
        )
        model.fit(X.numpy(), y.numpy().ravel())
        assert_allclose(model.loss_, expected, rtol=1e-10, atol=1e-20)
        assert_allclose(model.basis_loss_, expected, rtol=1e-10, atol=1e-20)


def test_RN_5_closed_form():
    X, Z = np.ones((4, 1)), np.array([[0.0], [0.0], [1.0], [1.0]])
    Y = np.array([[0.0], [2.0], [4.0], [6.0]])
    form = closed_form(X, Z, Y)
    assert_allclose([form.basis_loss, form.improvement, form.loss], [5, 4, 1])
    weights = residual_weights(np.array([[1.0]]), np.array([[4.0]]))
    assert_allclose([weights.W[0, 0], weights.V[0, 0]], [1, 4])
    assert weights.mapping_exact
    assert weights.delta == 0


@pytest.mark.parametrize("weighted", [False, True])
def test_RN_6_closed_form_is_least_squares(weighted, rng):
    X, Z = rng.standard_normal((40, 3)), rng.standard_normal((40, 5))
    Y, weight = rng.standard_normal((40, 2)), rng.uniform(0.1, 2, 40)
    weight = weight if weighted else None
    form = closed_form(X, Z, Y, weight)
    assert_allclose(form.basis_loss, lstsq_loss(X, Y, weight), rtol=1e-12)
    assert_allclose(form.loss, lstsq_loss(np.hstack([X, Z]), Y, weight), rtol=1e-12)
    linear = closed_form(X, X @ rng.standard_normal((3, 5)), Y, weight)
    assert_allclose(linear.improvement, 0, atol=1e-20)


def test_closed_form_checks_its_arrays(rng):
    X, Z = rng.standard_normal((40, 3)), rng.standard_normal((40, 5))
    y = rng.standard_normal(40)
    assert closed_form(X, Z, y) == closed_form(X, Z, y[:, None])
    assert_allclose(
        closed_form(X, Z, y).loss, lstsq_loss(np.hstack([X, Z]), y[:, None]), rtol=1e-12
    )
    assert closed_form(X, Z[:, :0], y).improvement == 0
    for parts in [(X[:-1], Z, y), (X, Z[:-1], y), (X, Z, y[:-1])]:
        with pytest.raises(ValueError, match="inconsistent numbers of samples"):
            closed_form(*parts)


# --- the weights (W, V) -------------------------------------------------------------


@pytest.mark.parametrize("delta", [1, 0.1, 0.01, 0.001])
def test_RN_7_rank_deficient_basis_weights(delta, rng):
    R1, R2 = np.array([[1.0, 2, -1], [2, 4, -2]]), np.eye(2)
    X, Z = rng.standard_normal((40, 3)), rng.standard_normal((40, 2))
    noise = rng.standard_normal((40, 2))
    both = np.hstack([X, Z])
    noise -= both @ np.linalg.lstsq(both, noise)[0]
    Y = X @ R1.T + Z @ R2.T + noise
    weights = residual_weights(R1, R2, delta)
    assert not weights.mapping_exact
    assert_allclose(weights.W @ weights.V, R2, atol=1e-11)
    assert_allclose(weights.delta * np.linalg.norm(weights.V, 2), 1, rtol=0.2)
    change = X @ (weights.W - R1).T
    loss = np.square((X + Z @ weights.V.T) @ weights.W.T - Y).sum(1).mean()
    expected = np.square(noise).sum(1).mean() + np.square(change).sum(1).mean()
    assert_allclose(loss, expected, rtol=1e-10)
    assert_allclose(np.linalg.norm(weights.W - R1, 2), delta, rtol=1e-12)


# W^2 + (W V - 1)^2
SADDLE = tuple(
    tensor([column]).T for column in ([1, -1, 1, -1], [1, 1, -1, -1], [1, 1, -1, -1])
)


@pytest.mark.parametrize("delta", [1.0, 0.1, 1e-3])
def test_RN_8_infimum_is_not_attained(delta):
    """R1 = 0 and R2 = 1 are W = delta and V = 1 / delta, at a loss of delta^2."""
    weights = residual_weights(np.zeros((1, 1)), np.ones((1, 1)), delta)
    point = np.concatenate([weights.W, weights.V]).ravel()
    assert_allclose(point, [delta, 1 / delta])
    assert_allclose(
        loss_and_gradient(point, *SADDLE, SquaredLoss())[0], delta**2, rtol=1e-12
    )
    assert closed_form(*SADDLE).loss == pytest.approx(0, abs=1e-15)


def test_RN_8_only_critical_point_is_a_saddle():
    value, gradient = loss_and_gradient(np.zeros(2), *SADDLE, SquaredLoss())
    assert value == 1
    assert not gradient.any()

    def loss(point):
        raw, _, _ = resnet(point, *SADDLE[:2], 1)
        return (raw - SADDLE[2]).square().mean()

    eigenvalues = torch.linalg.eigvalsh(hessian(loss)(torch.zeros(2).double()))
    assert_allclose(eigenvalues, [1 - 5**0.5, 1 + 5**0.5], rtol=1e-12)
    # If W is not zero and the gradient by V vanishes, then W V = 1, and the gradient by
    # W is 2 W.
    for W in (-2.0, -0.1, 0.1, 2.0):
        _, slope = loss_and_gradient(np.array([W, 1 / W]), *SADDLE, SquaredLoss())
        assert_allclose(slope, [2 * W, 0], atol=1e-12)


def test_RN_8_descent_diverges(rng):
    """Small steps along the gradient send W to zero and V to infinity."""
    point = np.array([0.3, 0.4]) * rng.choice([-1, 1]) + 0.05 * rng.standard_normal(2)
    values, sizes = [], []
    for step in range(2_001):
        value, slope = loss_and_gradient(point, *SADDLE, SquaredLoss())
        if step in (200, 2_000):
            values.append(value)
            sizes.append(np.abs(point))
        point = point - 0.02 * slope
    (W, V) = np.transpose(sizes)
    assert (np.diff(values) < 0).all()
    assert (np.diff(W) < 0).all()
    assert (np.diff(V) > 0).all()
    assert values[-1] < 0.1
    assert_allclose(W[-1] * V[-1], 1, rtol=0.1)


@pytest.mark.parametrize("epsilon", [1, 0.1, 0.01])
def test_RN_9_second_order_points_are_too_weak(epsilon):
    """The gradient is zero and the negative curvature small, far above the minimum."""
    z, point = epsilon**0.5, tensor([0.0, -(epsilon**-0.5)])

    def loss(point):
        return 0.5 * (point[0] * (1 + point[1] * z) - 1) ** 2

    assert loss(point).item() == 0.5
    assert torch.func.grad(loss)(point).abs().max() <= 1e-15
    eigenvalues = torch.linalg.eigvalsh(hessian(loss)(point))
    assert_allclose(eigenvalues, [-(epsilon**0.5), epsilon**0.5], atol=1e-12)


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_weights_on_many_features(rank, rng):
    """Nothing as large as the square of the number of features is formed."""
    R1 = rng.standard_normal((3, rank)) @ rng.standard_normal((rank, 2000))
    R2 = rng.standard_normal((3, 4))
    tracemalloc.start()
    weights = residual_weights(R1, R2, 0.1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2000**2
    assert_allclose(weights.W @ weights.V, R2, atol=1e-10)
    sigma = np.linalg.svd(weights.W - R1, compute_uv=False)
    assert_allclose(sigma[: 3 - rank], 0.1, rtol=1e-10)
    assert_allclose(R1 @ (weights.W - R1).T, 0, atol=1e-10)


def test_singular_weights_get_a_warning():
    weights = residual_weights(np.diag([1.0, 1e-8]), np.ones((2, 1)))
    with pytest.warns(RuntimeWarning, match="close to singular"):
        warn_if_singular(weights)


def test_softmax_weights_are_singular_up_to_constants():
    """Adding a constant to all outputs does not change whether W is singular."""
    R1 = np.array([[1.0, 0, 0], [0, 1, 0], [-1, -1, 0]])
    weights = residual_weights(R1, R1[:, :2])
    warn_if_singular(weights, softmax=True)
    warn_if_singular(replace(weights, W=R1 + np.array([0, 0, 1e8])), softmax=True)
    with pytest.warns(RuntimeWarning, match="close to singular"):
        warn_if_singular(weights)
    one = np.outer([1.0, -1, 0], [1, 0, 0]) + np.outer([1, 1, 1], [0, 1, 0])
    with pytest.warns(RuntimeWarning, match="close to singular"):
        warn_if_singular(replace(weights, W=one), softmax=True)


def test_too_many_outputs_have_no_weights():
    with pytest.raises(ValueError, match="n_outputs must be <= n_features"):
        residual_weights(np.ones((3, 1)), np.eye(3))


# --- variable projection ------------------------------------------------------------


def residual_of(loss, rng, alpha, program=None):
    X = tensor(rng.standard_normal((30, 3)))
    program = program or ChainProgram([3, 5], [ACTIVATIONS["tanh"]])
    y = tensor(rng.standard_normal((30, 2)))
    if not isinstance(loss, SquaredLoss):
        y = loss.encode((y > 0).double())
    weight = tensor(rng.uniform(0.1, 1, 30))
    samples = BasisSamples(X, X, y, weight / weight.sum())
    inner = projection(X, y, samples.weight, loss, True)
    penalty = torch.full((program.n_params,), 1e-3, dtype=torch.float64)
    return ResidualObjective(program, samples, inner, alpha, 0.7, penalty)


@pytest.mark.parametrize("loss", [SquaredLoss(), LogisticLoss()])
@pytest.mark.parametrize("kind", ["chain", "module"])
def test_RN_10_envelope_gradient(loss, kind, rng):
    """The gradient of F is that of the objective at the minimizing R."""
    program = None
    if kind == "module":
        module = nn.Sequential(nn.Linear(3, 5), nn.Softplus()).double()
        program = ModuleProgram(module)
    objective = residual_of(loss, rng, 0.1, program)
    objective.inner.tol = 1e-14
    function = projected(objective)
    theta = tensor(rng.standard_normal(objective.units.n_params))
    direction = tensor(rng.standard_normal(len(theta)))
    gradient = function(theta)[1] @ direction
    h = 1e-5
    upper, lower = (function(theta + s * h * direction)[0] for s in (1, -1))
    assert_allclose((upper - lower) / (2 * h), gradient, rtol=1e-6)


@pytest.mark.parametrize("loss", [SquaredLoss(), LogisticLoss()])
def test_solvers_minimize_the_same_objective(loss, rng):
    """Over the linear part the joint objective has the projected one as its minimum."""
    objective = residual_of(loss, rng, 0.1)
    objective.inner.tol = 1e-14
    theta = tensor(rng.standard_normal(objective.units.n_params))
    function, start = joint(objective, theta)
    free = len(start) - len(theta)
    value, gradient = projected(objective)(theta)
    for _ in range(50):
        at, slope = function(start)
        if slope[:free].norm() < 1e-9:
            break
        curvature = hessian(lambda head: joint_value(objective, theta, head))
        matrix = curvature(start[:free].clone())
        start[:free] -= torch.linalg.solve(matrix, slope[:free])
    assert_allclose(at, value, rtol=1e-12)
    assert_allclose(slope[free:], gradient, rtol=1e-7, atol=1e-9)


def joint_value(objective, theta, head):
    """The objective at R and b on standardized columns of the basis, term by term."""
    samples, loss = objective.samples, objective.inner.loss
    mean, spread = samples.weight @ samples.basis, samples.spread()
    A, B, b = head[:6].view(3, 2), head[6:16].view(5, 2), head[16:]
    z = objective.units.differentiable(theta, samples.inputs)
    raw = (samples.basis - mean) / spread @ A + objective.scale * z @ B + b
    norm = (A / spread[:, None]).square().sum() + B.square().sum()
    decay = objective.penalty @ theta.square()
    data = samples.weight @ loss.value(samples.y, raw)
    return data + objective.alpha / 2 * norm + decay


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("alpha", [0.0, 1e-6, 0.3])
def test_squared_projection_is_ridge(alpha, intercept, rng):
    X, Z = rng.standard_normal((30, 4)), rng.standard_normal((30, 6))
    y, weight = rng.standard_normal((30, 2)), rng.uniform(0.1, 1, 30)
    weight /= weight.sum()
    inner = SquaredProjection(
        *map(tensor, (X, y, weight)), loss=SquaredLoss(), intercept=intercept
    )
    coef, free = inner.solve(tensor(Z), alpha)
    solver = "svd" if alpha else "lsqr"
    ridge = Ridge(alpha / 2, fit_intercept=intercept, solver=solver, tol=1e-14)
    ridge.fit(np.hstack([X, Z]), y, weight)
    assert_allclose(coef.T, ridge.coef_, rtol=0, atol=1e-9)
    assert_allclose(free, np.broadcast_to(ridge.intercept_, 2), rtol=0, atol=1e-9)


def test_leave_one_out_equals_refits_without_a_sample(rng):
    X, y = rng.standard_normal((12, 3)), rng.standard_normal((12, 2))
    weight = torch.full((12,), 1 / 12, dtype=torch.float64)
    inner = SquaredProjection(tensor(X), tensor(y), weight, SquaredLoss(), True)
    found = inner.leave_one_out(tensor([0.1, 2.0]), torch.ones(12))
    for alpha, error in zip([0.1, 2.0], found, strict=True):
        for i in range(12):
            rest = np.arange(12) != i
            ridge = Ridge(12 * alpha / 2).fit(X[rest], y[rest])
            assert_allclose(error[i], y[i] - ridge.predict(X[[i]])[0], atol=1e-12)


def test_chain_with_activation_on_its_outputs(rng):
    """The adjoint of a chain that ends in an activation is autograd's."""
    X = tensor(rng.standard_normal((7, 3)))
    for name in ("relu", "tanh", "silu", "identity"):
        program = ChainProgram([3, 5, 4], [ACTIVATIONS[name]] * 2)
        theta = uniform_initialization(program, np.random.RandomState(0), 2)
        residual = tensor(rng.standard_normal((2, 7, 4)))
        kept = residual.clone()
        _, tape = program.forward(theta, X)
        found = program.backward(theta, tape, residual)
        for member in range(2):
            twin = partial(program.differentiable, X=X)
            _, pull = torch.func.vjp(twin, theta[member])
            assert_allclose(found[member], pull(kept[member])[0], atol=1e-12)
        assert_allclose(residual, kept)
