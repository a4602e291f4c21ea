"""Linear structure, joint layers and kinks against theory, twins and hand values."""

import math

import numpy as np
import oracles
import pytest
import torch
from oracles import randn, random_chain
from torch import nn
from torch.testing import assert_close

from sklearn_pgb._certificate._nearby import rank_nearby
from sklearn_pgb._certificate._table import joint_layers
from sklearn_pgb._convex._problem import ConvexProblem
from sklearn_pgb._convex._solve import solve
from sklearn_pgb._geometry._displacements import displacements
from sklearn_pgb._geometry._kinks import KinkMargin, kink_margin
from sklearn_pgb._geometry._linear_structure import layers_operator, linear_layers
from sklearn_pgb._geometry._linear_units import linear_units, neutral_moves
from sklearn_pgb._losses._regression import SquaredLoss
from sklearn_pgb._models._activations import ACTIVATIONS
from sklearn_pgb._models._chain import ChainNetwork
from sklearn_pgb._models._module import ModuleNetwork
from sklearn_pgb._operators._dense import KroneckerOperator
from sklearn_pgb._training._objective import Objective
from sklearn_pgb._training._polish import polish
from sklearn_pgb._training._program import NetworkProgram

TANH, RELU, IDENTITY = (ACTIVATIONS[name] for name in ("tanh", "relu", "identity"))
ELU, LEAKY = ACTIVATIONS["elu"], ACTIVATIONS["leaky_relu"]


def least_loss(operator, y, intercept=False, weight=None):
    """The least weighted mean square over the span of an operator."""
    if weight is None:
        weight = torch.full((len(y),), 1 / len(y), dtype=y.dtype)
    problem = ConvexProblem(operator, y, SquaredLoss(), weight, intercept=intercept)
    return solve(problem, method="primal").data_value


def plain_objective(program, X, y):
    weight = torch.full((len(X),), 1 / len(X), dtype=X.dtype)
    penalty = torch.zeros(program.n_params, dtype=X.dtype)
    return Objective(program, SquaredLoss(), X, y, weight, penalty)


# --- linear units --------------------------------------------------------------------


def always(sign, activation, generator, x=3.0):
    """A hidden layer whose first unit has pre-activations of one sign."""
    network = random_chain(generator, [1, 3, 1], [activation])
    network.weights[0][0, 0], network.biases[0][0] = 0.5, sign * x
    # The others see both signs.
    network.biases[0][1:] = 0
    return network, torch.linspace(-2, 2, 7, dtype=torch.float64)[:, None]


@pytest.mark.parametrize(
    ("activation", "sign", "slope"),
    [
        (RELU, 1, 1.0),
        (RELU, -1, None),
        (LEAKY.with_arguments(negative_slope=0.3), 1, 1.0),
        (LEAKY.with_arguments(negative_slope=0.3), -1, 0.3),
        (LEAKY.with_arguments(negative_slope=0.0), -1, None),
        (ELU.with_arguments(alpha=0.5), 1, 1.0),
        (ELU.with_arguments(alpha=0.5), -1, None),
        (TANH, 1, None),
        (ACTIVATIONS["softplus"], 1, None),
    ],
)
def test_linear_units(activation, sign, slope, generator):
    """A unit is linear if it stays on a linear side of slope other than zero."""
    network, X = always(sign, activation, generator)
    ((mask, slopes),) = linear_units(network, X)
    assert mask.tolist() == [slope is not None, False, False]
    if slope is not None:
        assert float(slopes[0]) == slope


def test_identity_is_linear(generator):
    """Without activation every unit is linear, at zero too."""
    network, X = always(1, IDENTITY, generator)
    ((mask, slopes),) = linear_units(network, X)
    assert mask.all()
    assert (slopes == 1).all()


@pytest.mark.parametrize(
    ("margin", "linear"), [(1e-6, True), (1e-9, False), (0, False)]
)
def test_units_on_a_kink_are_not_linear(margin, linear, generator):
    """A unit counts as on a kink if it is closer than the rounding of its layer."""
    network, X = always(1, RELU, generator, x=1.0 + margin)
    assert network.forward(X)[0][0][:, 0].min() == pytest.approx(margin, rel=1e-6)
    assert linear_units(network, X)[0][0][0] == linear


# --- structure -----------------------------------------------------------------------


def naive_first_layer(network, linear, n):
    """The definition, by removing units until nothing changes."""
    depth = len(network.activations)
    sets = {
        layer: set(np.flatnonzero(linear[layer - 1])) for layer in range(1, depth + 1)
    }
    sets[depth + 1] = set(range(network.n_outputs))
    changed = True
    while changed:
        changed = False
        for layer in range(1, depth):
            for j in list(sets[layer]):
                fed = np.flatnonzero(network.weights[layer][:, j])
                if not set(fed) <= sets[layer + 1]:
                    sets[layer].remove(j)
                    changed = True
    for t in range(depth + 1):
        if all(len(sets[layer]) >= n for layer in range(t + 1, depth + 2)):
            return t
    raise AssertionError


@pytest.mark.parametrize("n_outputs", [1, 2])
def test_structure_is_the_definition(n_outputs, generator):
    """Random linear units and random zeros: the same first layer."""
    first = []
    for _ in range(40):
        sizes = [2, 4, 4, 4, n_outputs]
        network = random_chain(generator, sizes, [RELU] * 3)
        for weight, bias in zip(network.weights[:-1], network.biases[:-1], strict=True):
            bias[torch.rand(4, generator=generator) < 0.6] = 60.0
            weight[torch.rand(weight.shape, generator=generator) < 0.6] = 0
        X = randn(generator, 20, 2)
        linear = [
            ((z > 0).all(0) | (z < 0).all(0)).numpy() & (z[0] > 0).numpy()
            for z in network.forward(X)[0]
        ]
        t = naive_first_layer(network, linear, n_outputs)
        assert linear_layers(network, X, n_outputs) == range(t, 4)
        first.append(t)
    assert len(set(first)) >= 3


def test_structure_by_hand(generator):
    """Active units through two layers, one of which feeds another unit."""
    network, X = lane(generator)
    assert linear_layers(network, X, 1) == range(3)
    # Two such units per layer are not there.
    assert linear_layers(network, X, 2) == range(2, 3)
    # The first layer's unit feeds another than the lane.
    network.weights[1][2, 0] = 1e-300
    assert linear_layers(network, X, 1) == range(1, 3)


def test_no_hidden_layer(generator):
    """A linear model is compared with its inputs."""
    network = random_chain(generator, [3, 2], [])
    assert linear_layers(network, randn(generator, 5, 3), 2) == range(1)


def test_layers_operator(generator):
    """Concatenated features, with separate coefficients for each output."""
    network = random_chain(generator, [3, 4, 5, 2], [TANH, RELU])
    X = randn(generator, 8, 3)
    operator = layers_operator(network, X, range(1, 3))
    h1 = torch.tanh(X @ network.weights[0].T + network.biases[0])
    h2 = torch.relu(h1 @ network.weights[1].T + network.biases[1])
    features = torch.cat([h1, h2], 1)
    assert isinstance(operator, KroneckerOperator)
    assert_close(operator.dense(), KroneckerOperator(features, 2).dense())
    assert layers_operator(network, X, [0]).n_coef == 6


# --- theorems on layers --------------------------------------------------------------


class Skip(nn.Module):
    """Two hidden layers, each of which feeds the outputs."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 4)
        self.out_first = nn.Linear(3, 2, bias=False)
        self.out_second = nn.Linear(4, 2)

    def hidden(self, X):
        first = torch.tanh(self.first(X))
        return first, torch.tanh(self.second(first))

    def forward(self, X):
        first, second = self.hidden(X)
        return self.out_first(first) + self.out_second(second)


def test_GB_6_skip_connections(generator):
    """With skips a critical point is the joint refit; without, that may be better."""
    module = Skip().double()
    for parameter in module.parameters():
        parameter.data = randn(generator, *parameter.shape)
    X, noise = randn(generator, 60, 3), randn(generator, 60, 2)
    weight = oracles.random_weight(60, generator)

    network = ModuleNetwork(module)
    y = oracles.critical_targets(network, X, weight, noise)
    loss = float(oracles.training_loss(network, X, y, weight, network.theta))
    features = torch.cat(module.hidden(X), 1).detach()
    joint = least_loss(KroneckerOperator(features, 2), y, True, weight)
    assert loss > 0.1
    assert joint == pytest.approx(loss, abs=1e-9)

    chain = ChainNetwork.mlp(
        [p.weight for p in (module.first, module.second, module.out_second)],
        [p.bias for p in (module.first, module.second, module.out_second)],
        [TANH, TANH],
    )
    y = oracles.critical_targets(chain, X, weight, noise)
    loss = float(oracles.training_loss(chain, X, y, weight, chain.theta))
    last = least_loss(layers_operator(chain, X, [2]), y, True, weight)
    joint = least_loss(layers_operator(chain, X, [1, 2]), y, True, weight)
    assert last == pytest.approx(loss, abs=1e-9)
    assert joint < loss - 1e-3


class Decoupled(nn.Module):
    """``W x + R z(x)`` with fixed z."""

    def __init__(self, generator):
        super().__init__()
        self.W = nn.Parameter(randn(generator, 2, 3))
        self.R = nn.Parameter(randn(generator, 2, 4))
        self.units = nn.Parameter(randn(generator, 4, 3), requires_grad=False)

    def forward(self, X):
        return X @ self.W.T + (X @ self.units.T).relu() @ self.R.T


def test_GB_14_decoupled(generator):
    """A critical point in (W, R) is least squares on [x, z]."""
    module = Decoupled(generator)
    network, X = ModuleNetwork(module), randn(generator, 40, 3)
    weight = oracles.random_weight(40, generator)
    y = oracles.critical_targets(network, X, weight, randn(generator, 40, 2))
    features = torch.cat([X, (X @ module.units.T).relu()], 1)
    root = weight.sqrt()[:, None]
    coef = np.linalg.lstsq((root * features).numpy(), (root * y).numpy())[0]
    errors = features @ torch.tensor(coef) - y
    expected = float((weight @ errors.square()).sum())
    loss = float(oracles.training_loss(network, X, y, weight, network.theta))
    assert loss > 0.1
    assert loss == pytest.approx(expected, abs=1e-10)
    value = least_loss(KroneckerOperator(features, 2), y, False, weight)
    assert value == pytest.approx(expected, abs=1e-10)


def test_GB_15_deep_linear(generator):
    """A deep linear network ends at ordinary least squares from any start."""
    X, y = randn(generator, 25, 4), randn(generator, 25, 2)
    program = oracles.program_without_biases([4, 3, 5, 2], "identity")
    objective = plain_objective(program, X, y)
    residual = np.linalg.lstsq(X.numpy(), y.numpy())[1].sum() / 25
    n_converged = 0
    for _ in range(5):
        start = 0.5 * randn(generator, program.n_params)
        result = polish(objective, start, gtol=1e-9, max_iter=3000)
        if objective.value_and_gradient_of_one(result.theta)[1].norm() > 1e-8:
            continue
        n_converged += 1
        assert result.value == pytest.approx(residual, abs=1e-8)
        network = program.network.at(result.theta)
        layers = linear_layers(network, X, 2)
        assert layers == range(3)
        joint = least_loss(layers_operator(network, X, layers), y)
        assert joint == pytest.approx(residual, abs=1e-10)
    assert n_converged


def relu_run(generator, X, y, bias):
    """Three ReLU units on [raw, 1], the first with a bias at the start; its end."""
    program = oracles.program_without_biases([3, 3, 1], "relu")
    start = 0.5 * randn(generator, program.n_params)
    start[2] = bias
    objective = plain_objective(program, X, y)
    result = polish(objective, start, gtol=1e-9, max_iter=3000)
    critical = objective.value_and_gradient_of_one(result.theta)[1].norm() <= 1e-8
    network = program.network.at(result.theta)
    off_kinks = kink_margin(network, X).value > 1e-6
    active = bool((network.forward(X)[0][0] > 0).all(0).any())
    return network, result.value, bool(critical) and off_kinks, active


def test_GB_16_active_relu():
    """One unit active on all samples: the loss is that of the refit on [x, h].

    At critical points off kinks, where a unit is active throughout; where none is, the
    refit may be better.
    """
    generator = torch.Generator().manual_seed(0)
    n_active, losses_over_joint = 0, []
    for run in range(40):
        raw, noise = randn(generator, 30, 2), randn(generator, 30, 1)
        X = torch.cat([raw, torch.ones(30, 1).double()], 1)
        y = (raw[:, :1] + raw[:, 1:].square()).sin() + 0.5 * noise
        bias = 8.0 if run % 2 else 0.0
        network, loss, critical, active = relu_run(generator, X, y, bias)
        joint = least_loss(layers_operator(network, X, [0, 1]), y)
        if critical and active:
            n_active += 1
            assert loss == pytest.approx(joint, abs=1e-9)
            assert linear_layers(network, X, 1)[0] == 0
        elif critical:
            losses_over_joint.append(loss - joint)
            assert linear_layers(network, X, 1)[0] == 1
    assert n_active >= 3
    assert max(losses_over_joint) > 1e-3


def lane(generator):
    """Two layers of an ELU unit above zero and two others, which it does not feed."""
    network = random_chain(generator, [2, 3, 3, 1], [ELU.with_arguments(alpha=1.0)] * 2)
    network.biases[0][0] = network.biases[1][0] = 8.0
    network.weights[1][:, 0] = torch.tensor([1.0, 0.0, 0.0])
    return network, randn(generator, 40, 2)


def lane_of_tanh(network, theta, X):
    """Both hidden layers and outputs, tanh units beside units that are the identity."""
    moved = ChainNetwork(network.split(theta))
    (W1, W2, W3), (b1, b2, b3) = moved.weights, moved.biases

    def act(z):
        return torch.cat([z[:, :1], z[:, 1:].tanh()], 1)

    first = act(X @ W1.T + b1)
    second = act(first @ W2.T + b2)
    return first, second, second @ W3.T + b3


def lane_of_elu(network, theta, X):
    """Both hidden layers and outputs of the network itself."""
    return *network.at(theta).layers(X)[1:3], network(theta, X)


@pytest.mark.parametrize("layers", [lane_of_tanh, lane_of_elu])
def test_GB_17_lane(layers, generator):
    """A linear lane through both layers: the loss is that of the refit on [x, h1, h2].

    At a critical point by construction, the noise being orthogonal to what the
    parameters can change; as no weight of the lane vanishes, that is enough. Once with
    linear units by design, once with ELU units that stay above zero.
    """
    network, X = lane(generator)
    mask = network.at(torch.ones(network.n_params).double())
    mask.weights[1][1:, 0] = 0
    embed = torch.diag(mask.theta)[:, mask.theta > 0]
    point = embed.T @ network.theta

    def raw(free):
        return layers(network, embed @ free, X)[2]

    J = torch.func.jacrev(raw)(point)[:, 0]
    noise = 0.3 * randn(generator, len(X), 1)
    for _ in range(2):
        noise = noise - J @ torch.linalg.lstsq(J, noise, driver="gelsd").solution
    y = raw(point) + noise

    def loss(free):
        return (raw(free) - y).square().mean()

    assert torch.func.grad(loss)(point).norm() <= 1e-9
    if layers is lane_of_elu:
        assert linear_layers(network, X, 1)[0] == 0

    features = torch.cat([X, *layers(network, network.theta, X)[:2]], 1)
    joint = least_loss(KroneckerOperator(features, 1), y, True)
    assert float(loss(point)) > 1e-2
    assert joint == pytest.approx(float(loss(point)), abs=1e-9)


def test_GB_17_closed_lane():
    """A lane that the outputs ignore: displacements still span all layers jointly.

    That is how Theorem 4 covers points where the product of the lane's weights
    vanishes; the gradient basis alone does not.
    """
    generator = torch.Generator().manual_seed(0)
    network, X = lane(generator)
    network.weights[2][:, 0] = 0
    assert linear_layers(network, X, 1)[0] == 0
    found = displacements(network, X, generator=generator, limit=16)
    theta = network.theta
    networks = [network, *(network.at(theta + each.shift) for each in found)]
    J = [oracles.jacobian(each, X)[:, 0] for each in networks]
    features = layers_operator(network, X, range(3)).features

    def left(columns):
        coef = torch.linalg.lstsq(columns, features, driver="gelsd").solution
        return float((columns @ coef - features).norm() / features.norm())

    assert left(torch.cat(J, 1)) <= 1e-9
    assert left(J[0]) > 1e-5


# --- kinks ---------------------------------------------------------------------------


def test_kink_margin_by_hand():
    """The layer closest to a kink relative to its size counts."""
    X = torch.tensor([[1.0], [2.0]]).double()
    network = ChainNetwork.mlp(
        [[[1.0], [-3.0]], [[100.0, 0.0]], [[1.0]]],
        [[0.5, 0.0], [-152.0], [0.0]],
        [RELU, RELU],
    )
    # First layer: 1.5, 2.5, -3, -6. Second: 150 - 152 = -2, 250 - 152 = 98.
    margin = kink_margin(network, X)
    assert margin == KinkMargin(2.0, 98.0)
    assert margin.relative == pytest.approx(2 / 98)
    network.biases[1][0] = -50.0
    assert kink_margin(network, X) == KinkMargin(1.5, 6.0)


@pytest.mark.parametrize(
    ("activation", "smooth"),
    [
        (TANH, True),
        (IDENTITY, True),
        (ELU.with_arguments(alpha=1.0), True),
        (ELU.with_arguments(alpha=0.5), False),
        (LEAKY.with_arguments(negative_slope=0.1), False),
        (RELU, False),
    ],
)
def test_which_activations_have_kinks(activation, smooth, generator):
    network = random_chain(generator, [2, 3, 1], [activation])
    X = randn(generator, 10, 2)
    z = network.forward(X)[0][0].abs()
    margin = kink_margin(network, X)
    expected = math.inf if smooth else float(z.min())
    assert margin.value == expected
    assert margin.scale == (1.0 if smooth else float(z.max()))


def test_kink_margin_of_silent_layers():
    """A layer of zeros is on its kinks."""
    network = ChainNetwork.mlp(
        [torch.zeros(2, 1), torch.ones(1, 2)], [None, None], [RELU]
    )
    margin = kink_margin(network, torch.ones(3, 1).double())
    assert (margin.value, margin.relative) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("layer", "expected"),
    [(nn.ReLU(), 0.25), (nn.Tanh(), math.inf), (nn.Hardtanh(), math.nan)],
)
def test_kink_margin_of_modules(layer, expected):
    """It is known for modules too, unless kinks may be elsewhere than at zero."""
    module = nn.Sequential(nn.Unflatten(1, (1, 1)), nn.Conv1d(1, 1, 1), layer)
    module.append(nn.Flatten()).double()
    module[1].weight.data.fill_(1)
    module[1].bias.data.fill_(-0.75)
    value = kink_margin(
        ModuleNetwork(module), torch.tensor([[1.0], [3.0]]).double()
    ).value
    assert value == pytest.approx(expected, nan_ok=True)


# --- rows of the table ----------------------------------------------------------------


def objective_of(network, generator, n=12):
    """The squared loss of a network on random samples."""
    X = randn(generator, n, network.weights[0].shape[1])
    y = randn(generator, n, network.n_outputs)
    return plain_objective(NetworkProgram(network), X, y)


def test_joint_layers_have_one_operator(generator):
    network = random_chain(generator, [2, 3, 3, 1], [IDENTITY, IDENTITY])
    objective = objective_of(network, generator)
    ((name, operator),) = joint_layers(objective).items()
    assert name == "inputs to layer 2 jointly"
    features = torch.cat(network.layers(objective.X)[:3], 1)
    assert_close(operator.dense()[:, 0], features)
    curved = random_chain(generator, [2, 3, 1], [TANH])
    assert joint_layers(objective_of(curved, generator)) == {}


@pytest.mark.parametrize("smooth", [True, False])
def test_displacements_are_searched_at_smooth_singular_points(smooth, generator):
    """A unit without outgoing weights has derivatives of zero, but not nearby."""
    network = random_chain(generator, [2, 3, 1], [TANH])
    network.weights[1][0, 0] = 0.0
    objective = objective_of(network, generator, n=30)
    rank = int(torch.linalg.matrix_rank(network.jacobian(objective.X).dense()[:, 0]))
    assert rank == network.n_params - 3
    options = {"smooth": smooth, "may_be_critical": True}
    nearby, displaced = rank_nearby(objective, rank, generator, **options)
    assert nearby == network.n_params
    assert bool(displaced) is smooth
    for each in displaced:
        moved = network(network.theta + each.shift, objective.X)
        assert_close(moved, network(network.theta, objective.X))
    assert rank_nearby(objective, None, generator, **options) == (None, [])


def test_neutral_moves_change_no_output(generator):
    """Unused units may take any value, and linear ones move in a null space."""
    network = random_chain(generator, [3, 5, 4, 2], [IDENTITY] * 2)
    network.weights[1][:, 0] = 0.0
    moves = neutral_moves(network, randn(generator, 6, 3))
    assert [unused.shape[1] for unused, _, _ in moves] == [1, 0]
    for (_, _, columns), width, later in zip(
        moves,
        [5, 4],
        [network.weights[2] @ network.weights[1], network.weights[2]],
        strict=True,
    ):
        assert torch.linalg.matrix_rank(columns) == width - 2
        effect = later @ columns
        assert_close(effect, torch.zeros_like(effect), rtol=0, atol=1e-12)
