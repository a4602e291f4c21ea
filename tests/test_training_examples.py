"""Examples of added neurons: their gains and paths; cases AN-10 to AN-20.

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
    example_1,
    example_1_objective,
    help_ratio,
    neuron_value,
    objective_of,
    point,
    scaled_minimum,
    scaled_objective,
    tensor,
    value_at,
)
from oracles import randn
from scipy.optimize import minimize, minimize_scalar
from torch.testing import assert_close

from sklearn_pgb._losses._classification import (
    CrossEntropyLoss,
    LogisticLoss,
    SmoothedHingeLoss,
)
from sklearn_pgb._losses._floor import largest_residual, pure_error_floor
from sklearn_pgb._losses._regression import PoissonLoss, SquaredLoss
from sklearn_pgb._models._activations import ACTIVATIONS
from sklearn_pgb._training._auxiliary import Neurons, auxiliary_objective
from sklearn_pgb._training._descent import Descent, GradientDescent
from sklearn_pgb._training._objective import hessian
from sklearn_pgb._training._program import ChainProgram

EXACT = {"rtol": 1e-12, "atol": 1e-12}


def fixed_outputs(loss, raw, X, y, *, weight=None, neuron_penalty=0.5):
    """An auxiliary objective of a network with fixed outputs."""
    raw = tensor(raw)[:, None]
    program = FunctionProgram(lambda theta, X: raw + 0 * theta, 1)
    return auxiliary_objective(
        objective_of(program, loss, X, y, weight), neuron_penalty
    )


# --- AN-10: the infimum over the neurons -------------------------------------------


@pytest.mark.parametrize("w", [30.0, -30.0])
def test_AN_10_infimum(w):
    """A steep neuron fits one end of the line, which beats the best line."""
    X, y = tensor([[0.0], [1.0], [2.0]]), tensor([[0.0], [1.0], [0.0]])
    weight, raw = tensor([1 / 3] * 3), tensor([[1 / 3]] * 3)
    value, c = neuron_value(SquaredLoss(), X, y, weight, raw, tensor([[w]]))
    assert value == pytest.approx(5 / 27, abs=1e-12)
    assert c.item() == pytest.approx(-1 / 3, abs=1e-12)


NEURON_LOSSES = [
    SquaredLoss(),
    CrossEntropyLoss(label_smoothing=0.1),
    LogisticLoss(label_smoothing=0.1),
    SmoothedHingeLoss(),
    SmoothedHingeLoss(power=3.0),
    PoissonLoss(),
]


@pytest.mark.parametrize("loss", NEURON_LOSSES, ids=repr)
def test_neuron_value(loss, generator):
    """It is the minimum over c, and the limit for large b with any penalty."""
    X, W = randn(generator, 12, 3), randn(generator, 2, 3)
    y = oracles.random_targets(loss, 12, generator, 2)
    raw, weight = randn(generator, 12, 2), oracles.random_weight(12, generator)
    value, c = neuron_value(loss, X, y, weight, raw, W)
    z = X @ W.T
    exponentials = torch.exp(z - z.amax(0))

    def total(c):
        return (weight @ loss.value(y, raw + tensor(c) * exponentials)).item()

    assert total(c.tolist()) == pytest.approx(value, rel=1e-12)
    numeric = minimize(
        total, np.zeros(2), method="Nelder-Mead", options={"xatol": 1e-9}
    )
    assert value <= numeric.fun + 1e-12
    assert value == pytest.approx(numeric.fun, abs=1e-6)
    assert value < total([0.0, 0.0]) - 1e-4

    program = FunctionProgram(lambda theta, X: raw + 0 * theta, 1)
    plain = objective_of(program, loss, X.tolist(), [0.0] * 12, weight.tolist())
    auxiliary = auxiliary_objective(
        type(plain)(program, loss, plain.X, y, weight, plain.penalty), 0.7
    )
    b = 12.0 - z.amax(0)
    neurons = Neurons((c * math.exp(-12.0))[None], b[None], W[None])
    limit = auxiliary.value(auxiliary.program.join(tensor([[0.0]]), neurons)).item()
    ridge = 0.7 * (c.square().sum() * math.exp(-24.0)).item()
    assert limit == pytest.approx(value + ridge, abs=1e-12)


# --- AN-11: Example 1 and Figure 1 -------------------------------------------------


def marginal(u, b, neuron_penalty):
    """min over a of max(0, u + a e^b)^3 + neuron_penalty a^2: value and a."""
    if u <= 0:
        return 0.0, 0.0
    c = 3 * math.exp(2 * b) / (2 * neuron_penalty)
    s = 2 * u / (1 + math.sqrt(1 + 4 * c * u))
    a = -3 * math.exp(b) / (2 * neuron_penalty) * s**2
    return s**3 + 1.5 * c * s**4, a


def marginal_at(theta, b, neuron_penalty=1.0):
    return marginal(1 + example_1(tensor([theta])).item(), b, neuron_penalty)


def test_AN_11_landscape():
    """The loss of Example 1 has its minima, its barrier and its flat valley."""
    plain = example_1_objective()
    grid = {
        THETA_LOC: 7.999582745226184,
        0.4954765089545192: 25.644888135599622,
        0.0: 19.88183775236127,
        1.0: 16.13321020223546,
    }
    values = plain.value(tensor([[theta] for theta in grid]))
    assert values.tolist() == pytest.approx(list(grid.values()), abs=1e-10)
    outputs = {
        THETA_LOC: 0.9999652281643118,
        0.7995919470874021: -1.0047451830193448,
        0.7930558305866064: -1.0,
        0.8061253448494803: -1.0,
    }
    raw = plain.program(tensor([[theta] for theta in outputs]), plain.X)
    assert raw.flatten().tolist() == pytest.approx(list(outputs.values()), abs=1e-10)
    for theta in (THETA_LOC, 0.4954765089545192):
        slope = plain.value_and_gradient(tensor([[theta]]))[1].item()
        assert abs(slope) <= 1e-10
    assert hessian(plain, tensor([THETA_LOC])).item() > 0
    assert hessian(plain, tensor([0.4954765089545192])).item() < 0
    inside = torch.linspace(0.7931, 0.8061, 50, dtype=torch.float64)[:, None]
    assert not plain.value(inside).any()
    assert (plain.value(tensor([[0.79305], [0.80613]])) > 0).all()


@pytest.mark.parametrize(
    ("theta", "b", "neuron_penalty", "value"),
    [
        (THETA_LOC, 0.0, 1.0, 1.9353163814699206),
        (THETA_LOC, 1.0, 1.0, 0.41002522082521287),
        (THETA_LOC, 2.0, 1.0, 0.06605787978951583),
        (THETA_LOC, 5.0, 1.0, 1.806542370678205e-4),
        (0.5, 0.0, 1.0, 4.746354330107837),
        (0.2, -2.0, 1.0, 7.404571527044734),
        (0.3, 1.0, 1.0, 0.5125547421798647),
        (0.3, 1.0 + 0.5 * math.log(0.01), 0.01, 0.5125547421798647),
        (0.8, 1.0, 1.0, 0.0),
    ],
)
def test_AN_11_marginal(theta, b, neuron_penalty, value):
    """The closed form over a is the minimum of the auxiliary objective."""
    auxiliary = auxiliary_objective(example_1_objective(), neuron_penalty)
    closed, a = marginal_at(theta, b, neuron_penalty)
    assert closed == pytest.approx(value, abs=1e-10)
    assert value_at(auxiliary, [theta], a, b, [0.4]) == pytest.approx(value, abs=1e-12)
    numeric = minimize_scalar(
        lambda a: value_at(auxiliary, [theta], a, b, [0.4]), bracket=(a - 0.1, a + 0.1)
    )
    assert numeric.fun == pytest.approx(value, abs=1e-12)
    # At the best a the slope by b is -2 lambda a^2, and that by a is zero.
    slopes = auxiliary.value_and_gradient(point(auxiliary, [theta], a, b, [0.4]))[1][0]
    assert slopes[1].item() == pytest.approx(0, abs=1e-9)
    assert slopes[2].item() == pytest.approx(-2 * neuron_penalty * a**2, abs=1e-9)
    above, below = (marginal_at(theta, b + s, neuron_penalty)[0] for s in (1e-5, -1e-5))
    assert slopes[2].item() == pytest.approx((above - below) / 2e-5, abs=1e-7)


def test_AN_11_best_a():
    assert marginal_at(THETA_LOC, 0.0)[1] == pytest.approx(
        -1.131457780353715, abs=1e-10
    )


# --- AN-12: Example 2 --------------------------------------------------------------


def test_AN_12_help():
    """A neuron gives the critical constant of a mixed pair a gradient of exactly 2."""
    program = FunctionProgram(constant, 1)
    plain = objective_of(program, SquaredLoss(), [[0.0], [1.0]], [-1.0, 1.0])
    auxiliary = auxiliary_objective(plain, 0.5)
    assert plain.value_and_gradient(tensor([[0.0]]))[1].item() == 0
    theta = point(auxiliary, [0.0], 1.0, 0.0, [0.0])
    assert auxiliary.value_and_gradient(theta)[1][0, 0].item() == 2
    neurons = auxiliary.program.split(theta)[1]
    assert help_ratio(plain, tensor([[0.0]]), neurons).item() == math.inf
    # Away from it, f = 1: residuals 2 and 0 times 2 sum to 2, with the neuron to 4.
    assert help_ratio(plain, tensor([[1.0]]), neurons).item() == pytest.approx(2)


@pytest.mark.parametrize("loss", [SquaredLoss(), CrossEntropyLoss()], ids=repr)
def test_help_ratio(loss, generator):
    """It is the ratio of the gradients by theta, with the neurons and without."""
    program = ChainProgram([3, 4, 2], [ACTIVATIONS["tanh"]])
    y = oracles.random_targets(loss, 9, generator, 2)
    X, weight = randn(generator, 9, 3), oracles.random_weight(9, generator)
    plain = objective_of(program, loss, X.tolist(), [0.0] * 9, weight.tolist())
    plain = type(plain)(program, loss, plain.X, y, weight, plain.penalty)
    auxiliary = auxiliary_objective(plain, 0.5)
    theta = randn(generator, 3, auxiliary.program.n_params)
    network, neurons = auxiliary.program.split(theta)
    helped = auxiliary.value_and_gradient(theta)[1][:, : program.n_params]
    alone = plain.value_and_gradient(network)[1]
    expected = helped.norm(dim=1) / alone.norm(dim=1)
    assert_close(help_ratio(plain, network, neurons), expected, **EXACT)


# --- AN-13 to AN-17: Examples 3 to 7 -----------------------------------------------

ONE_SAMPLE = [
    (1.0, 0.06766764161830635),
    (0.5, 0.00915781944436709),
    (0.25, 1.6773131395125593e-4),
]


@pytest.mark.parametrize("x", [[0.0], [1.5], [0.3, -2.0]], ids=str)
@pytest.mark.parametrize(("epsilon", "value"), ONE_SAMPLE)
def test_AN_13_one_sample(x, epsilon, value):
    """Along the path of Example 3 the objective falls to zero."""
    auxiliary = fixed_outputs(SquaredLoss(), [2.0], [x], [1.0])
    w = [0.7] * len(x)
    b = 1 / epsilon - np.dot(w, x)
    parts = [0.0], -math.exp(-1 / epsilon), b, w
    assert value_at(auxiliary, *parts) == pytest.approx(value, abs=1e-15)


def test_AN_13_no_local_minimum(generator):
    """If the neuron is off, the loss is 1, and a small negative a lowers it."""
    auxiliary = fixed_outputs(SquaredLoss(), [2.0], [[0.3]], [1.0])
    for b, w in randn(generator, 20, 2).tolist():
        at_rest = [0.0], 0.0, b, [w]
        assert value_at(auxiliary, *at_rest) == 1
        E = math.exp(0.3 * w + b)
        gradient = auxiliary.value_and_gradient(point(auxiliary, *at_rest))[1][0]
        assert gradient[1].item() == pytest.approx(2 * E, rel=1e-12)
        assert value_at(auxiliary, [0.0], -1e-3 / E, b, [w]) < 1


PAIR = [[0.0, 0.0], [1.0, 1.0]]
SUMMED = [1.0, 1.0]


def path_of_example_4(auxiliary, epsilon):
    """a, b, w for the inputs of PAIR."""
    parts = [0.0], math.exp(-1 / epsilon), 1 / epsilon, [-1 / epsilon, -1 / epsilon]
    return value_at(auxiliary, *parts)


@pytest.mark.parametrize(
    ("epsilon", "value"),
    [
        (1.0, 1.3566538469802663),
        (0.5, 1.046124559849738),
        (0.25, 1.0008387691049307),
        (0.1, 1.0000000051528841),
    ],
)
@pytest.mark.parametrize("loss", [SquaredLoss(), SmoothedHingeLoss()], ids=repr)
def test_AN_14_and_AN_17_two_samples(loss, epsilon, value):
    """Along the path of Examples 4 and 7 one of two residuals goes."""
    auxiliary = fixed_outputs(loss, [0.0, 0.0], PAIR, [1.0, -1.0], weight=SUMMED)
    assert path_of_example_4(auxiliary, epsilon) == pytest.approx(value, abs=1e-13)


@pytest.mark.parametrize(
    ("epsilon", "value"),
    [
        (1.0, 1.5310991601710138),
        (0.5, 1.0651172682066306),
        (0.25, 1.001174456840934),
        (0.1, 1.0000000072140378),
    ],
)
def test_AN_17_power_three(epsilon, value):
    loss = SmoothedHingeLoss(power=3.0)
    auxiliary = fixed_outputs(loss, [0.0, 0.0], PAIR, [1.0, -1.0], weight=SUMMED)
    assert path_of_example_4(auxiliary, epsilon) == pytest.approx(value, abs=1e-13)


@pytest.mark.parametrize(
    "loss", [SquaredLoss(), SmoothedHingeLoss(), SmoothedHingeLoss(3.0)], ids=repr
)
def test_AN_14_and_AN_17_saddle(loss, generator):
    """A neuron that is off is a saddle, and no neuron has a loss below 1."""
    auxiliary = fixed_outputs(loss, [0.0, 0.0], PAIR, [1.0, -1.0], weight=SUMMED)
    at_rest = point(auxiliary, [0.0], 0.0, 0.0, [0.0, 0.0])
    value, gradient = auxiliary.value_and_gradient(at_rest)
    assert value.item() == 2
    assert not gradient.any()
    assert torch.linalg.eigvalsh(hessian(auxiliary, at_rest[0]))[0] < -0.1
    y, raw = auxiliary.y, torch.zeros(2, 1).double()
    for W in 30 * randn(generator, 20, 1, 2):
        best, _ = neuron_value(loss, auxiliary.X, y, tensor(SUMMED), raw, W)
        assert best >= 1 - 1e-12


@pytest.mark.parametrize(
    "loss", [SquaredLoss(), SmoothedHingeLoss(), SmoothedHingeLoss(3.0)], ids=repr
)
def test_AN_15_and_AN_17_equal_inputs(loss, generator):
    """With two targets at equal inputs, the network is certified as global."""
    X, y = [[0.4, 0.2], [0.4, 0.2]], [1.0, -1.0]
    auxiliary = fixed_outputs(loss, [0.0, 0.0], X, y, weight=SUMMED)
    floor = pure_error_floor(auxiliary.X, auxiliary.y, loss, auxiliary.weight)
    raw = torch.zeros(2, 1, dtype=torch.float64)
    group = floor.group
    assert largest_residual(loss, auxiliary.y, raw, auxiliary.weight, group) == 0
    assert floor.attained
    assert floor.value == pytest.approx(2, abs=1e-14)
    assert value_at(auxiliary, [0.0], 0.0, 0.0, [0.0, 0.0]) == 2
    theta = randn(generator, 1000, 5)
    assert auxiliary.value(theta).min() >= 2 - 1e-14
    if isinstance(loss, SquaredLoss):
        a, b, w = 0.3, 0.2, [0.1, -0.5]
        E = math.exp(np.dot(w, X[0]) + b)
        expected = 2 + a**2 * (2 * E**2 + 0.5)
        assert value_at(auxiliary, [0.0], a, b, w) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("power", [2.0, 3.0])
@pytest.mark.parametrize("x", [[0.0], [1.5]], ids=str)
@pytest.mark.parametrize(("epsilon", "value"), ONE_SAMPLE)
def test_AN_16_one_margin(power, x, epsilon, value):
    """Example 6: the smoothed hinge takes the path of Example 3 with a > 0."""
    loss = SmoothedHingeLoss(power=power)
    auxiliary = fixed_outputs(loss, [0.0], [x], [1.0])
    b = 1 / epsilon - 0.7 * x[0]
    parts = [0.0], math.exp(-1 / epsilon), b, [0.7]
    assert value_at(auxiliary, *parts) == pytest.approx(value, abs=1e-15)
    gradient = auxiliary.value_and_gradient(point(auxiliary, [0.0], 0.0, b, [0.7]))[1]
    assert gradient[0, 1].item() == pytest.approx(-power * math.exp(1 / epsilon))
    # In general a = y u e^(-1/eps) with the margin u = 1 - y f.
    wrong = fixed_outputs(loss, [0.5], [x], [-1.0])
    parts = [0.0], -1.5 * math.exp(-1 / epsilon), b, [0.7]
    assert value_at(wrong, *parts) == pytest.approx(2.25 * value, abs=1e-15)


# --- AN-18 and AN-19: saddles and gradient descent ---------------------------------


def test_AN_18_saddle(generator):
    """The Hessian's block at a = b = w = 0 has the eigenvalue of the formula."""
    X, raw, y = randn(generator, 8, 3), randn(generator, 8), randn(generator, 8)
    raw = raw - (raw - y).mean()
    auxiliary = fixed_outputs(
        SquaredLoss(), raw.tolist(), X.tolist(), y.tolist(), neuron_penalty=0.3
    )
    at_rest = point(auxiliary, [0.0], 0.0, 0.0, [0.0] * 3)
    step = 1e-5 * torch.eye(6, dtype=torch.float64)
    ahead = auxiliary.value_and_gradient(at_rest + step)[1]
    behind = auxiliary.value_and_gradient(at_rest - step)[1]
    block = ((ahead - behind) / 2e-5)[1:, 1:]
    curvature = 2 + 2 * 0.3
    pull = (2 * (raw - y) / 8) @ torch.cat([torch.ones(8, 1), X], 1)
    expected = torch.zeros(5, 5, dtype=torch.float64)
    expected[0, 0] = curvature
    expected[0, 1:] = expected[1:, 0] = pull
    assert_close(block, expected, rtol=0, atol=1e-8)
    assert_close(hessian(auxiliary, at_rest[0])[1:, 1:], expected, **EXACT)
    smallest = (curvature - math.sqrt(curvature**2 + 4 * (pull @ pull).item())) / 2
    found = torch.linalg.eigvalsh((block + block.T) / 2)[0].item()
    assert found == pytest.approx(smallest, abs=1e-8)
    assert smallest < -1e-3


def test_AN_19_gradient_descent_stays_bounded():
    """At a constant step b does not diverge: it stops at the edge of stability."""
    auxiliary = fixed_outputs(SquaredLoss(), [2.0], [[0.0]], [1.0], neuron_penalty=1.0)
    start = point(auxiliary, [0.0], 0.0, 0.0, [0.0])
    descent = Descent(auxiliary, start, GradientDescent(momentum=0.0), 1, None)
    for _ in range(10_000):
        descent.epoch(0.01)
    neurons = auxiliary.program.split(descent.theta)[1]
    assert 2.1 < neurons.b.item() < 2.5
    assert auxiliary.value(descent.theta).item() > 5e-3


# --- AN-20: no extra unit ----------------------------------------------------------


@pytest.mark.parametrize(
    ("b", "value"),
    [(0.0, 0.991666666666666667), (1.0, 0.7617029383092926), (5.0, 0.7000226992287789)],
)
def test_AN_20_scaled_loss(b, value):
    """The minimum over a is the closed form, and approaches L from above."""
    a, least = scaled_minimum(0.7, b, 0.5)
    assert least.item() == pytest.approx(value, abs=1e-13)
    if b == 0:
        assert a.item() == pytest.approx(7 / 12, abs=1e-13)
    numeric = minimize_scalar(
        lambda a: 0.7 * (1 + (a * math.exp(b) - 1) ** 2) + 0.5 * a**2
    )
    assert least.item() == pytest.approx(numeric.fun, abs=1e-13)
    assert a.item() == pytest.approx(numeric.x, abs=1e-7)
    at_rest = scaled_objective(0.7, 0.0, b, 0.5)
    assert at_rest.item() == pytest.approx(1.4, rel=1e-14)


def test_AN_20_far_out():
    """However large b, the minimum is close to L, not to the 2 L of a = 0."""
    _, least = scaled_minimum(0.7, 400.0, 0.5)
    assert least.item() == pytest.approx(0.7, abs=1e-13)


def test_AN_20_same_path(generator):
    """The gradient by theta is a positive multiple, from 1, of that of L."""
    theta = randn(generator, 5).requires_grad_()
    loss = (theta**4 + theta).exp().sum()
    (plain,) = torch.autograd.grad(loss, theta, retain_graph=True)
    a, b = randn(generator, 2).tolist()
    (scaled,) = torch.autograd.grad(scaled_objective(loss, a, b, 0.5), theta)
    cosine = torch.nn.functional.cosine_similarity(scaled, plain, dim=0)
    assert cosine.item() == pytest.approx(1, abs=1e-12)
    assert scaled.norm() >= plain.norm() * (1 - 1e-12)


@pytest.mark.parametrize("b", [-1.0, 0.5])
def test_AN_20_identity(b):
    """a d/da - d/db = 2 lambda a^2 holds here too."""
    pair = tensor([0.8, b]).requires_grad_()
    value = scaled_objective(0.7, pair[0], pair[1], 0.5)
    (gradient,) = torch.autograd.grad(value, pair)
    defect = 0.8 * gradient[0] - gradient[1]
    assert defect.item() == pytest.approx(2 * 0.5 * 0.8**2, abs=1e-14)
