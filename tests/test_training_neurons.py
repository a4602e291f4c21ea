"""Added neurons: the objective, its identity, and the cases AN-1 to AN-9.

EB is Kawaguchi and Kaelbling, "Elimination of All Bad Local Minima in Deep Learning".
"""

import math

import numpy as np
import oracles
import pytest
import torch
from neuron_cases import (
    THETA_LOC,
    FunctionProgram,
    constant,
    example_1_objective,
    identity_defect,
    objective_of,
    point,
    tensor,
    value_at,
)
from oracles import randn
from scipy.optimize import minimize_scalar
from torch.testing import assert_close

from sklearn_pgb._losses._classification import CrossEntropyLoss, SmoothedHingeLoss
from sklearn_pgb._losses._floor import largest_residual, pure_error_floor
from sklearn_pgb._losses._regression import PoissonLoss, SquaredLoss
from sklearn_pgb._models._activations import ACTIVATIONS
from sklearn_pgb._training._auxiliary import (
    Neurons,
    auxiliary_objective,
    draw_neurons,
    neuron_gradient,
)
from sklearn_pgb._training._descent import Descent, GradientDescent
from sklearn_pgb._training._objective import Objective, hessian
from sklearn_pgb._training._polish import polish
from sklearn_pgb._training._program import ChainProgram

EXACT = {"rtol": 1e-12, "atol": 1e-12}


class LogLoss:
    """log(1 + (q - y)^2): not convex, but zero slope is a global minimum (A2 of EB)."""

    def value(self, y, raw):
        return torch.log1p((raw - y).square()).sum(1)

    def gradient(self, y, raw):
        return 2 * (raw - y) / (1 + (raw - y).square())

    def value_and_gradient(self, y, raw):
        return self.value(y, raw), self.gradient(y, raw)


def random_case(loss, generator, n_members=1, n_outputs=2, neuron_penalty=0.3):
    """A tanh chain with a penalty and added neurons, and a population."""
    program = ChainProgram([3, 4, n_outputs], [ACTIVATIONS["tanh"]])
    plain = Objective(
        program,
        loss,
        randn(generator, 7, 3),
        oracles.random_targets(loss, 7, generator, n_outputs),
        oracles.random_weight(7, generator),
        0.01 * program.is_weight().double(),
    )
    auxiliary = auxiliary_objective(plain, neuron_penalty)
    return (
        plain,
        auxiliary,
        0.5 * randn(generator, n_members, auxiliary.program.n_params),
    )


# --- the program and its objective -------------------------------------------------


@pytest.mark.parametrize("loss", [SquaredLoss(), CrossEntropyLoss()], ids=repr)
@pytest.mark.parametrize("n_members", [1, 3])
def test_auxiliary_objective(loss, n_members, generator):
    """L(f + g) + penalty + lambda |a|^2 and its gradient, from the formulas."""
    plain, auxiliary, theta = random_case(loss, generator, n_members)
    n = plain.program.n_params
    values, gradients = auxiliary.value_and_gradient(theta)
    assert_close(auxiliary.value(theta), values, **EXACT)
    raw = auxiliary.program(theta, plain.X)
    for i in range(n_members):

        def formula(row):
            a, b, W = row[n : n + 2], row[n + 2 : n + 4], row[n + 4 :].reshape(2, 3)
            f = plain.program.differentiable(row[:n], plain.X)
            f = f + a * torch.exp(plain.X @ W.T + b)
            ridge = plain.penalty @ row[:n] ** 2 + 0.3 * (a**2).sum()
            return plain.weight @ loss.value(plain.y, f) + ridge, f

        value, f = formula(theta[i])
        assert_close(values[i], value, **EXACT)
        assert_close(raw[i], f, **EXACT)
        assert_close(auxiliary.program.differentiable(theta[i], plain.X), f, **EXACT)
        gradient = torch.func.grad(lambda row: formula(row)[0])(theta[i])
        assert_close(gradients[i], gradient, **EXACT)


def test_split_and_join(generator):
    """The parts of the parameters are views of the right shapes, and join again."""
    plain, auxiliary, theta = random_case(SquaredLoss(), generator, 3)
    network, neurons = auxiliary.program.split(theta)
    assert network.shape == (3, plain.program.n_params)
    assert neurons.a.shape == neurons.b.shape == (3, 2)
    assert neurons.W.shape == (3, 2, 3)
    assert_close(auxiliary.program.join(network, neurons), theta, rtol=0, atol=0)


def test_neuron_gradient(generator):
    """At fixed outputs it is the gradient of the auxiliary objective by (a, b, W)."""
    plain, auxiliary, theta = random_case(PoissonLoss(), generator)
    network, neurons = auxiliary.program.split(theta)
    raw = plain.program(network, plain.X)[0].clone()
    value, gradient = neuron_gradient(plain, raw, neurons, 0.3)
    ridge = network.square() @ plain.penalty
    whole, slope = auxiliary.value_and_gradient(theta)
    assert value == pytest.approx((whole - ridge).item(), rel=1e-12)
    assert_close(gradient, slope[0, plain.program.n_params :], **EXACT)


def test_images_are_flattened(generator):
    """Neurons see the features of an image in one row."""
    images, y = randn(generator, 5, 2, 3), randn(generator, 5, 1)
    program = ChainProgram([6, 1], [])
    weight, penalty = torch.full((5,), 0.2).double(), torch.zeros(7).double()
    plain = Objective(program, SquaredLoss(), images, y, weight, penalty)
    flat = Objective(program, SquaredLoss(), images.flatten(1), y, weight, penalty)
    theta = randn(generator, 2, 7 + 8)
    expected = auxiliary_objective(flat, 0.1).value_and_gradient(theta)
    result = auxiliary_objective(plain, 0.1).value_and_gradient(theta)
    assert_close(result, expected, **EXACT)


def test_neurons_that_are_off(generator):
    """Drawn neurons have a = 0 and no effect, even if exponentials overflow."""
    plain, auxiliary, theta = random_case(SquaredLoss(), generator, 400)
    neurons = draw_neurons(plain, 400, generator)
    assert not neurons.a.any()
    assert not neurons.b.any()
    assert neurons.W.shape == (400, 2, 3)
    # On the samples w . x has the deviation one, in the mean over many draws.
    z = torch.einsum("mkp,ip->mki", neurons.W, plain.X)
    variance = (plain.weight * (z - (plain.weight * z).sum(-1, True)) ** 2).sum(-1)
    assert variance.mean().item() ** 0.5 == pytest.approx(1, rel=0.08)
    network = auxiliary.program.split(theta)[0]
    joined = auxiliary.program.join(network, neurons)
    assert_close(auxiliary.value(joined), plain.value(network), **EXACT)
    huge = Neurons(neurons.a, neurons.b + 800, neurons.W)
    assert_close(huge(plain.X), torch.zeros(400, 7, 2).double(), rtol=0, atol=0)
    # The product is finite although the exponential is not.
    product = Neurons(tensor([[-1e-300]]), tensor([[720.0]]), tensor([[[0.0]]]))
    expected = -math.exp(720 + math.log(1e-300))
    assert product(tensor([[1.0]])).item() == pytest.approx(expected, rel=1e-12)


def test_draws_depend_on_the_generator_alone(generator):
    plain, _, _ = random_case(SquaredLoss(), generator)
    state = torch.get_rng_state()
    first, second = (
        draw_neurons(plain, 2, torch.Generator().manual_seed(3)).W for _ in "12"
    )
    assert_close(first, second, rtol=0, atol=0)
    assert_close(torch.get_rng_state(), state)


# --- residual sums -----------------------------------------------------------------


@pytest.mark.parametrize(
    "loss", [SquaredLoss(), CrossEntropyLoss(0.1), SmoothedHingeLoss(3.0)], ids=repr
)
def test_largest_residual(loss, generator):
    """It is that of sums over equal inputs, which bound the distance to the floor."""
    X = randn(generator, 5, 2)[[0, 1, 1, 2, 3, 3, 3, 4, 0]]
    y = oracles.random_targets(loss, 9, generator, 2)
    raw = randn(generator, 5, 2)
    weight = oracles.random_weight(9, generator)
    floor = pure_error_floor(X, y, loss, weight)
    at = raw[floor.group]
    result = largest_residual(loss, y, at, weight, floor.group)
    sums, total = torch.zeros(5, 2).double(), torch.zeros(5).double()
    for i, j in enumerate(floor.group):
        sums[j] += weight[i] * loss.gradient(y[[i]], at[[i]])[0]
        total[j] += weight[i]
    sizes = [s.norm() / w for s, w in zip(sums, total, strict=True)]
    assert result == pytest.approx(max(sizes).item(), rel=1e-12)
    gap = (weight @ loss.value(y, at)).item() - floor.value
    pooled = loss.pooled_minimum(y, weight, floor.group, 5).raw
    steps = (raw - pooled).norm(dim=1)
    assert 0 < gap <= (sums.norm(dim=1) @ steps).item() + 1e-12
    if isinstance(loss, SquaredLoss):
        exact = (sums.square().sum(1) / (4 * total)).sum().item()
        assert gap == pytest.approx(exact, abs=1e-12)
    best = largest_residual(loss, y, pooled[floor.group], weight, floor.group)
    assert best <= 1e-12


# --- AN-1: the identity ------------------------------------------------------------


@pytest.mark.parametrize("loss", [SquaredLoss(), CrossEntropyLoss()], ids=repr)
@pytest.mark.parametrize("n_members", [1, 3])
def test_AN_1_identity(loss, n_members, generator):
    """a dL/da - dL/db = 2 lambda a^2 everywhere, as its defect says."""
    plain, auxiliary, theta = random_case(loss, generator, n_members)
    size = auxiliary.value_and_gradient(theta)[1].norm()
    defect = identity_defect(auxiliary, theta)
    assert defect.shape == (n_members, 2)
    assert defect.abs().max() <= 1e-12 * size
    gradient = torch.func.grad(lambda t: differentiable_value(auxiliary, t))(theta[0])
    n = plain.program.n_params
    a, to_a, to_b = theta[0, n : n + 2], gradient[n : n + 2], gradient[n + 2 : n + 4]
    assert_close(a * to_a - to_b, 2 * 0.3 * a**2, rtol=0, atol=1e-12 * size.item())


def differentiable_value(objective, theta):
    raw = objective.program.differentiable(theta, objective.X)
    data = objective.weight @ objective.loss.value(objective.y, raw)
    return data + objective.penalty @ theta**2


@pytest.mark.parametrize("loss", [SquaredLoss(), CrossEntropyLoss()], ids=repr)
def test_AN_1_conservation(loss, generator):
    """One step of gradient descent moves b by a (a+ - a) + 2 eta lambda a^2."""
    _, auxiliary, theta = random_case(loss, generator, 3)
    descent = Descent(auxiliary, theta, GradientDescent(momentum=0.0), 7, None)
    descent.epoch(0.01)
    before, after = (auxiliary.program.split(t)[1] for t in (theta, descent.theta))
    expected = before.a * (after.a - before.a) + 2 * 0.01 * 0.3 * before.a**2
    assert (expected - before.b).abs().max() > 1e-3
    assert_close(after.b - before.b, expected, rtol=0, atol=1e-15)


# --- AN-2 to AN-5: local minima ----------------------------------------------------


def test_AN_2_interpolation_is_a_minimum(generator):
    """At an interpolating network with a = 0, no perturbation lowers the objective."""
    program = ChainProgram([2, 5, 1], [ACTIVATIONS["tanh"]])
    network = randn(generator, 1, program.n_params)
    X = randn(generator, 6, 2)
    y = program(network, X)[0, :, 0].tolist()
    plain = objective_of(program, SquaredLoss(), X.tolist(), y)
    auxiliary = auxiliary_objective(plain, 0.2)
    theta = auxiliary.program.join(network, draw_neurons(plain, 1, generator))
    noise = 0.2 * torch.rand(1000, theta.shape[1], generator=generator).double() - 0.1
    start = auxiliary.value(theta).item()
    assert start == pytest.approx(plain.value(network).item(), abs=1e-30)
    assert auxiliary.value(theta + noise).min() >= start - 1e-12


def test_AN_3_vacuous_case():
    """A small auxiliary objective is possible at a large loss."""
    program = ChainProgram([1, 1], [])
    plain = objective_of(program, SquaredLoss(), [[0.0], [1.0], [2.0]], [0.0, 1.0, 0.0])
    best = polish(plain, torch.zeros(2))
    assert best.value == pytest.approx(2 / 9, abs=1e-12)
    assert_close(best.theta, tensor([0.0, 1 / 3]), rtol=0, atol=1e-8)
    group = torch.arange(3)
    raw = plain.program(best.theta[None], plain.X)[0]
    residual = largest_residual(plain.loss, plain.y, raw, plain.weight, group)
    assert residual == pytest.approx(4 / 3, abs=1e-8)

    auxiliary = auxiliary_objective(plain, 1.0)
    values = [4.0, 0.0732625555549, 0.0001815997190]
    for b, value in zip([0.0, 2.0, 5.0], values, strict=True):
        # theta is slope and intercept.
        parts = [3.0, 2.0], -2 * math.exp(-b), b, [math.log(2)]
        assert value_at(auxiliary, *parts) == pytest.approx(value, abs=1e-12)
    assert plain.value(tensor([[3.0, 2.0]])).item() == pytest.approx(28, abs=1e-12)


def test_AN_4_minimum_is_certified(generator):
    """Near an interpolating network the neurons vanish and the residual is zero."""
    program = ChainProgram([1, 8, 1], [ACTIVATIONS["tanh"]])
    X, y = [[-1.0], [-0.3], [0.4], [1.0]], [1.0, -1.0, 0.5, 0.0]
    plain = objective_of(program, SquaredLoss(), X, y)
    trained = polish(plain, randn(generator, program.n_params), gtol=1e-10)
    assert trained.value <= 1e-15
    moved = trained.theta + 0.05 * randn(generator, program.n_params)
    auxiliary = auxiliary_objective(plain, 0.1)
    start = point(auxiliary, moved.tolist(), 0.0, 0.0, [0.0])[0]
    end = polish(auxiliary, start, gtol=1e-11)
    assert auxiliary.value_and_gradient_of_one(end.theta)[1].norm() <= 1e-10
    network, neurons = auxiliary.program.split(end.theta[None])
    assert neurons.a.abs().item() <= 1e-8
    raw = program(network, plain.X)[0]
    group = torch.arange(4)
    residual = largest_residual(plain.loss, plain.y, raw, plain.weight, group)
    assert residual <= 1e-8
    assert plain.value(network).item() <= 1e-12


def test_AN_5_inconsistent_labels():
    """Without convexity, unequal labels at equal inputs leave a bad local minimum."""
    program = FunctionProgram(constant, 1)
    X, y = [[0.0], [0.0], [0.0]], [4.0, 4.0, -4.0]
    plain = objective_of(program, LogLoss(), X, y, [1.0, 1.0, 1.0])
    bad, best = polish(plain, tensor([-3.5])), polish(plain, tensor([3.5]))
    assert bad.theta.item() == pytest.approx(-3.7263445766673, abs=1e-8)
    assert bad.value == pytest.approx(8.2839846037575, abs=1e-10)
    assert best.theta.item() == pytest.approx(3.9377537377957, abs=1e-8)
    assert best.value == pytest.approx(4.1667412711845, abs=1e-10)
    assert hessian(plain, bad.theta).item() > 0.1

    auxiliary = auxiliary_objective(plain, 0.5)
    at = point(auxiliary, [-3.7263445766673], 0.0, 0.0, [0.0])
    generator = torch.Generator().manual_seed(0)
    noise = torch.zeros(2000, 4, dtype=torch.float64)
    noise[:, :3] = 0.2 * torch.rand(2000, 3, generator=generator).double() - 0.1
    assert auxiliary.value(at + noise).min() >= bad.value - 1e-12


# --- AN-6 to AN-9: the theorems of EB ----------------------------------------------


@pytest.mark.parametrize("power", [1, 2])
def test_AN_6_bound(power):
    """(z - 1)^2 + kappa z^(2 power): the loss, the convex model and the correction."""
    kappa = 0.5

    def pair(theta, X):
        return torch.cat([theta, kappa**0.5 * theta**power])[None]

    program = FunctionProgram(pair, 1)
    plain = Objective(
        program,
        SquaredLoss(),
        tensor([[0.0]]),
        tensor([[1.0, 0.0]]),
        tensor([1.0]),
        tensor([0.0]),
    )
    polished = polish(plain, tensor([0.1]), gtol=1e-13)
    z = polished.theta.item()

    def model(alpha):
        return (alpha - 1) ** 2 + kappa * (2 * z * alpha) ** power

    convex = minimize_scalar(model, bracket=(0, 1), tol=1e-14).fun
    # (rho - 1) / rho = -1, times the slope of R times z^2.
    bound = convex - kappa * power * z ** (2 * power - 2) * z**2
    if power == 1:
        expected = 2 / 3, 1 / 3, 5 / 9
        assert (z, polished.value, convex) == pytest.approx(expected, abs=1e-12)
        assert bound == pytest.approx(polished.value, abs=1e-12)
    else:
        expected = 0.209293910196, 0.265415241468
        assert (polished.value, bound) == pytest.approx(expected, abs=1e-8)


def tilted_infimum(objective, theta, slope):
    """inf over alpha of sum w_i l((J alpha)_i) + slope . alpha, for squared losses."""
    J = torch.func.jacrev(objective.program.differentiable)(theta, objective.X)
    root = objective.weight.sqrt().numpy()
    J = root[:, None] * J[:, 0].numpy()
    y, slope = root * objective.y[:, 0].numpy(), slope.numpy()
    alpha = np.linalg.lstsq(J.T @ J, J.T @ y - slope / 2, rcond=1e-10)[0]
    # Otherwise the model is unbounded.
    assert np.abs(J.T @ (J @ alpha - y) + slope / 2).max() <= 1e-8
    return ((J @ alpha - y) ** 2).sum() + slope @ alpha


def quadratic_units(theta, X):
    """f = sum_k v_k (w_k x)^2, homogeneous of degree three."""
    v, W = theta[:2], theta[2:].reshape(2, 3)
    return ((X @ W.T) ** 2 @ v)[:, None]


HOMOGENEOUS = {
    3: FunctionProgram(quadratic_units, 8),
    2: oracles.program_without_biases([3, 2, 1], "identity"),
}


@pytest.mark.parametrize("degree", HOMOGENEOUS)
def test_AN_7_weight_decay(degree, generator):
    """With decay, a homogeneous net is certified by its tilted convex model."""
    program, kappa = HOMOGENEOUS[degree], 0.02
    X = randn(generator, 20, 3)
    y = X[:, 0] + X[:, 1] ** 2 + randn(generator, 20)
    plain = objective_of(program, SquaredLoss(), X.tolist(), y.tolist())
    decayed = Objective(
        program, plain.loss, plain.X, plain.y, plain.weight, plain.penalty + kappa
    )
    polished = polish(decayed, randn(generator, 8), gtol=1e-10)
    theta = polished.theta
    assert decayed.value_and_gradient_of_one(theta)[1].norm() <= 1e-9
    assert theta.norm() > 0.1
    infimum = tilted_infimum(plain, theta, 2 * kappa * theta)
    correction = (1 - 2 / degree) * kappa * theta.square().sum().item()
    assert polished.value == pytest.approx(infimum + correction, abs=1e-8)


def test_AN_7_any_penalty(generator):
    """A tanh net under a quartic penalty meets its tilted convex model."""
    chain = ChainProgram([3, 4, 1], [ACTIVATIONS["tanh"]])
    n = chain.n_params
    X, y = randn(generator, 20, 3), randn(generator, 20)
    plain = objective_of(chain, SquaredLoss(), X.tolist(), y.tolist())

    def with_squares(theta, X):
        # The squared errors of these further rows are the quartic penalty.
        return torch.cat([chain.differentiable(theta, X[:20]), theta[:, None] ** 2])

    penalised = Objective(
        FunctionProgram(with_squares, n),
        SquaredLoss(),
        torch.cat([plain.X, torch.zeros(n, 3)]),
        torch.cat([plain.y, torch.zeros(n, 1)]),
        torch.cat([plain.weight, tensor([0.003] * n)]),
        plain.penalty + 0.01,
    )
    polished = polish(penalised, randn(generator, n), gtol=1e-12)
    theta = polished.theta
    assert penalised.value_and_gradient_of_one(theta)[1].norm() <= 1e-11
    slope = 2 * 0.01 * theta + 4 * 0.003 * theta**3
    penalty = (0.01 * theta**2 + 0.003 * theta**4).sum().item()
    # The linear head alone, weights and bias, gives f = J g.
    tilt = (slope[-5:] @ theta[-5:]).item()
    infimum = tilted_infimum(plain, theta, slope)
    assert polished.value == pytest.approx(infimum + penalty - tilt, abs=1e-10)


@pytest.mark.parametrize(
    ("epsilon", "condition"),
    [(5.0, 4.944646648640738e2), (1.0, 4.4917681846e3), (0.1, 3.74e7), (1e-3, None)],
)
def test_AN_8_exponentials_fit_anything(epsilon, condition):
    """Five generic exponentials are independent on five inputs, if not too close."""
    x = torch.linspace(-1, 1, 5, dtype=torch.float64)[:, None]
    zero = torch.zeros(1, 5, dtype=torch.float64)
    M = Neurons(zero + 1, zero, (epsilon * x)[None]).exponentials(x)[0].numpy()
    if condition is None:
        assert np.linalg.cond(M) > 1e15
        assert np.linalg.matrix_rank(M) == 4
    else:
        assert np.linalg.cond(M) == pytest.approx(condition, rel=1e-3)


def test_AN_9_stationary_for_all_neurons(generator):
    """If the network does not depend on theta, neurons can't change that."""
    auxiliary = auxiliary_objective(example_1_objective(), 1.0)
    for a, b in (4 * torch.rand(20, 2, generator=generator) - 2).tolist():
        theta = point(auxiliary, [THETA_LOC], a, b, [0.3])
        assert auxiliary.value_and_gradient(theta)[1][0, 0].abs() <= 1e-10
    elsewhere = point(auxiliary, [0.3], 1.0, 0.0, [0.0])
    assert auxiliary.value_and_gradient(elsewhere)[1][0, 0].abs() > 1


def test_AN_9_dead_relu(generator):
    """A dead unit stays dead for all neurons."""
    program = oracles.program_without_biases([1, 1, 1], "relu")
    X, y = [[1.0], [2.0], [3.0]], [1.0, 3.0, 5.0]
    plain = objective_of(program, SquaredLoss(), X, y)
    assert plain.value(tensor([[-1.0, 0.7]])).item() == pytest.approx(35 / 3, rel=1e-14)
    auxiliary = auxiliary_objective(plain, 1.0)
    for a, b, w in randn(generator, 20, 3).tolist():
        theta = point(auxiliary, [-1.0, 0.7], a, b, [w])
        gradient = auxiliary.value_and_gradient(theta)[1]
        assert not gradient[0, :2].any()
        assert gradient[0, 2].abs() > 0
