"""Displacements against outputs, hand-made degeneracies and the theory's examples."""

import pytest
import torch
from oracles import randn, random_chain
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from sklearn_pgb._geometry._displacements import _Walk, displacements
from sklearn_pgb._geometry._pieces import pieces
from sklearn_pgb._models._activations import ACTIVATIONS
from sklearn_pgb._models._chain import ChainNetwork
from sklearn_pgb._models._module import ModuleNetwork, open_module
from sklearn_pgb._models._network import Network
from sklearn_pgb._models._resnet import ResNetModule, ResNetNetwork

EXACT = {"rtol": 1e-13, "atol": 1e-13}


def random_resnet(generator, n_basis=None):
    """``R [phi, z(x)] + b`` with three ReLU units, theta drawn anew."""
    head = nn.Linear((n_basis or 2) + 3, 2)
    units = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
    module = ResNetModule(head, units, n_basis, (2,)).double()
    for parameter in module.parameters():
        parameter.data = randn(generator, *parameter.shape)
    return ResNetNetwork(module)


def kinds(found):
    return {displacement.kind for displacement in found}


def check(network, X, found):
    """No output and no sign of a ReLU changes along the path; shifts are not tiny."""
    theta, raw = network.theta, network(network.theta, X)
    bound = 1e-12 * (1 + raw.abs().max())
    for displacement in found:
        straight = displacement.kind != "rescaled units"
        times = (0.1, 0.37, 0.8, 1.0) if straight else (1.0,)
        for time in times:
            moved = theta + time * displacement.shift
            assert (network(moved, X) - raw).abs().max() <= bound
            before, after = pieces(network, X), pieces(network, X, moved)
            for z, w in zip(before.inputs, after.inputs, strict=True):
                assert ((z * w > 0) | (z.abs() <= 1e-8 * z.abs().max())).all()
        assert displacement.shift.norm() >= 1e-4 * theta.norm()


# --- the same network at other parameters --------------------------------------------


def make_networks(generator):
    convolution = nn.Sequential(
        nn.Unflatten(1, (1, 2)), nn.Conv1d(1, 2, 2), nn.Flatten(), nn.Linear(2, 2)
    )
    return [
        random_chain(generator, [2, 3, 2]),
        random_chain(generator, [2, 3, 2], bias=False),
        ModuleNetwork(convolution),
        random_resnet(generator),
    ]


@pytest.mark.parametrize("index", range(4), ids=["chain", "no bias", "module", "res"])
def test_at(index, generator):
    """The copy has the given parameters, and the network is unchanged."""
    network = make_networks(generator)[index]
    X, theta = randn(generator, 5, 2), network.theta.clone()
    raw, layers = network(theta, X), network.layers(X)
    other = randn(generator, len(theta))
    moved = network.at(other)
    assert type(moved) is type(network)
    assert_close(moved.theta, other, rtol=0, atol=0)
    assert_close(moved(moved.theta, X), network(other, X), **EXACT)
    assert_close(moved.layers(X)[-1], network(other, X), **EXACT)
    assert_close(moved.find_head(X).span_coef.sum(), moved.find_head(X).span_coef.sum())
    # Nothing is shared, in either direction.
    other += 1
    assert_close(moved.theta + 1, other, **EXACT)
    assert_close(network.theta, theta, rtol=0, atol=0)
    assert_close(network(theta, X), raw, rtol=0, atol=0)
    for before, after in zip(layers, network.layers(X), strict=True):
        assert_close(before, after, rtol=0, atol=0)


def test_blocks(generator):
    """Each parameter has a block, and so has each weight with its bias."""
    network = random_resnet(generator)
    blocks = network.blocks()
    assert blocks["head"] == slice(0, 12)
    assert blocks["head.weight"] == slice(0, 10)
    assert blocks["head.bias"] == slice(10, 12)
    assert blocks["units.0"] == slice(12, 21)
    assert len(blocks) == 6
    free = nn.Module()
    free.weight, free.bias = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))
    free.other = nn.Parameter(torch.ones(1), requires_grad=False)
    assert ModuleNetwork(free).blocks() == {"weight": slice(0, 2), "bias": slice(2, 5)}


# --- pieces --------------------------------------------------------------------------


class Functional(nn.Module):
    """A network whose activation is called as a function."""

    def __init__(self, function):
        super().__init__()
        self.linear, self.head = nn.Linear(2, 3), nn.Linear(3, 1)
        self.function = function

    def forward(self, X):
        return self.head(self.function(self.linear(X)))


@pytest.mark.parametrize(
    ("function", "kinked"),
    [
        (torch.relu, True),
        (lambda z: F.relu(z, inplace=True), True),
        (lambda z: z.relu_(), True),
        (nn.ReLU(), True),
        (torch.abs, True),
        (F.leaky_relu, True),
        (lambda z: F.leaky_relu(z, 1.0), False),
        (F.elu, False),
        (lambda z: F.elu(z, 0.5), True),
        (nn.PReLU(), True),
        (nn.SELU(), True),
    ],
)
def test_pieces(function, kinked, generator):
    """The inputs of piecewise functions are recorded, however they are called."""
    network = ModuleNetwork(Functional(function))
    X = randn(generator, 4, 2)
    found = pieces(network, X)
    parameters = network.split(network.theta)
    z = X @ parameters["linear.weight"].T + parameters["linear.bias"]
    assert found.complete
    assert found.kinked == [kinked]
    assert_close(found.inputs[0], z, **EXACT)
    moved = pieces(network, X, network.theta + 1)
    assert not torch.equal(moved.inputs[0], z)


@pytest.mark.parametrize("function", [torch.tanh, F.silu, F.gelu, torch.sigmoid])
def test_no_pieces(function, generator):
    found = pieces(ModuleNetwork(Functional(function)), randn(generator, 4, 2))
    assert (found.inputs, found.kinked, found.complete) == ([], [], True)


@pytest.mark.parametrize(
    "function",
    [
        lambda z: F.max_pool1d(z[:, None], 3, 1, 1)[:, 0],
        F.hardtanh,
        lambda z: z.clamp(max=1),
        lambda z: torch.where(z > 1, z, z.square()),
        lambda z: torch.maximum(z, z.square()),
    ],
)
def test_seams_elsewhere(function, generator):
    """If seams may be elsewhere than at zero, there are no displacements."""
    network, X = ModuleNetwork(Functional(function)), randn(generator, 4, 2)
    network = network.at(torch.zeros(network.n_params).double())
    assert not pieces(network, X).complete
    assert displacements(network, X, generator=generator) == []


# --- constructions -------------------------------------------------------------------


def test_GB_11_null_vector(generator):
    """Hidden outputs (1, 0, 1), (0, 1, 1): outgoing weights move along (1, 1, -1)."""
    first = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]).double()
    network = ChainNetwork.mlp(
        [first, randn(generator, 2, 3)], [None, None], [ACTIVATIONS["relu"]]
    )
    X = torch.eye(2).double()
    assert_close(network.layers(X)[1].T, first)
    # Entries of zero are kinks, which block no shift that leaves them.
    found = displacements(network, X, generator=generator, limit=3)
    check(network, X, found)
    assert kinds(found) == {"null space of inputs"}
    for displacement in found:
        shift = displacement.shift[6:].reshape(2, 3)
        assert not displacement.shift[:6].any()
        n = torch.tensor([1.0, 1.0, -1.0]).double()
        assert_close(shift, shift @ n[:, None] * n / 3, rtol=0, atol=1e-12)
        assert shift.norm() > 0.1


def test_GB_11_dimension(generator):
    """Six tanh units on four samples: two null directions for each output."""
    network, X = random_chain(generator, [3, 6, 2], bias=False), randn(generator, 4, 3)
    found = displacements(network, X, generator=generator, limit=12)
    shifts = torch.stack([displacement.shift for displacement in found])
    assert len(found) == 12
    assert torch.linalg.matrix_rank(shifts, rtol=1e-8) == 2 * 2
    raw = network(network.theta, X)
    for shift in shifts:
        assert (network(network.theta + shift, X) - raw).abs().max() <= 1e-14
    # Root mean square of the shifts of the head, relative to the head.
    relative = (
        shifts[:, 18:].square().mean().sqrt() / network.weights[1].norm() * 12**0.5
    )
    assert 0.5 < relative < 2


def plant(network, name):
    """Make a network degenerate; return the kind of displacement that exists."""
    W, b = network.weights, network.biases
    if name == "zero outgoing":
        W[1][:, 0] = 0
        return "zero outgoing weights"
    if name == "zero outgoing and incoming":
        W[2][:, 1] = 0
        W[1][1], b[1][1] = 0, 0
        return "zero outgoing weights"
    if name == "silent":
        W[0][1], b[0][1] = 0, -1
        return "null space of inputs"
    if name == "duplicate":
        W[0][1], b[0][1] = W[0][0], b[0][0]
        return "null space of inputs"
    if name == "constant":
        W[1][2], b[1][2] = 0, 1.5
        return "null space of inputs"
    assert name == "chained"
    # Unit 0 of the first layer feeds unit 0 of the second, which feeds nothing.
    W[1][1:, 0], W[2][:, 0] = 0, 0
    return "zero outgoing weights"


PLANTS = [
    "zero outgoing",
    "zero outgoing and incoming",
    "silent",
    "duplicate",
    "constant",
    "chained",
]


@pytest.mark.parametrize("activation", ["tanh", "relu", "elu", "leaky_relu", "silu"])
@pytest.mark.parametrize("name", PLANTS)
def test_planted(activation, name, generator):
    """Every planted degeneracy is found, and no displacement changes an output."""
    network = random_chain(generator, [3, 5, 4, 2], activation)
    X = randn(generator, 25, 3)
    expected = plant(network, name)
    found = displacements(network, X, generator=generator)
    check(network, X, found)
    assert any(expected in kind for kind in kinds(found))
    assert len(found) >= 5


def test_all_at_once(generator):
    """Smooth units move in all layers at once, and the span contains each family."""
    network, X = random_chain(generator, [3, 5, 4, 2]), randn(generator, 25, 3)
    plant(network, "chained")
    plant(network, "constant")
    found = displacements(network, X, generator=generator, limit=60)
    check(network, X, found)
    assert found[0].kind == "zero outgoing weights and null space of inputs"
    rank = torch.linalg.matrix_rank
    shifts = torch.stack([displacement.shift for displacement in found])
    # Incoming weights and bias of the two units, and the constant unit's outgoing
    # weights with the head's bias against them.
    assert rank(shifts, rtol=1e-8) == 4 + 6 + 2
    together = [d.shift for d in found if d.kind == found[0].kind]
    assert rank(torch.stack(together), rtol=1e-8) == 4 + 6 + 2


def test_chained_units_move_together(generator):
    """The first unit can move because the second one has zero outgoing weights."""
    network, X = random_chain(generator, [3, 5, 4, 2]), randn(generator, 25, 3)
    plant(network, "chained")
    network.weights[2][0, 0] = 1e-3
    assert displacements(network, X, generator=generator) == []


@pytest.mark.parametrize(("activation", "both"), [("tanh", True), ("relu", False)])
def test_layers_move_together_if_smooth(activation, both, generator):
    """With kinks, only units of one layer move at a time."""
    network = random_chain(generator, [3, 5, 4, 2], activation)
    plant(network, "chained")
    found = displacements(network, randn(generator, 25, 3), generator=generator)
    moved = [
        (d.shift[:20].norm() > 0, d.shift[20:44].reshape(-1)[:5].norm() > 0)
        for d in found
        if "zero outgoing weights" in d.kind
    ]
    assert moved
    assert any(first and second for first, second in moved) == both


@pytest.mark.parametrize("n_outputs", [1, 3])
def test_linear_product(n_outputs, generator):
    """Null spaces of later products in a linear chain, as in Theorem 4."""
    network = random_chain(generator, [3, 4, 5, n_outputs], "identity", bias=False)
    left, right = randn(generator, 5, 2), randn(generator, 2, 4)
    network.weights[1][:] = left @ right
    X = randn(generator, 20, 3)
    found = displacements(network, X, generator=generator, limit=80)
    check(network, X, found)
    moves = [d.shift for d in found if "rank-deficient product" in d.kind]
    basis = torch.linalg.qr(torch.stack(moves).T).Q
    _, W2, W3 = network.weights
    u1, u2 = _null_vector(W3 @ W2), _null_vector(W3)
    r = randn(generator, 3)
    first = torch.cat([torch.outer(u1, r).reshape(-1), torch.zeros(20 + 5 * n_outputs)])
    second = torch.cat(
        [
            torch.zeros(12),
            torch.outer(u2, u1).reshape(-1),
            torch.zeros(5 * n_outputs),
        ]
    )
    for move in (first, second):
        assert_close(basis @ (basis.T @ move.double()), move.double(), **EXACT)
    # Both at once leave the outputs alone, as the proof of the theorem needs.
    both = [d for d in found if d.kind == found[0].kind]
    assert any(d.shift[:12].norm() > 0 and d.shift[12:32].norm() > 0 for d in both)


def _null_vector(matrix):
    return torch.linalg.svd(matrix)[2][-1]


@pytest.mark.parametrize(
    "activation",
    [ACTIVATIONS["relu"], ACTIVATIONS["leaky_relu"].with_arguments(negative_slope=0.3)],
)
def test_always_active_units_move_as_linear(activation, generator):
    """Units on one side of a kink move along null directions of later weights."""
    network = random_chain(generator, [3, 4, 2])
    network.chain[1] = activation
    network.biases[0][:] = torch.tensor([20.0, 20.0, 20.0, 0.0])
    slopes = torch.ones(3).double()
    if activation.name == "leaky_relu":
        network.biases[0][1], slopes[1] = -20.0, 0.3
    X = randn(generator, 25, 3)
    found = displacements(network, X, generator=generator, limit=20)
    check(network, X, found)
    moves = [d.shift for d in found if d.kind == "rank-deficient product"]
    assert len(moves) >= 5
    u = F.normalize(_null_vector(network.weights[1][:, :3]) / slopes, dim=0)
    for shift in moves:
        change = torch.cat([shift[:12].reshape(4, 3), shift[12:16, None]], 1)
        assert not change[3].any()
        assert_close(change[:3], torch.outer(u, u @ change[:3]), **EXACT)


def test_relu_leaves_zero(generator):
    """A unit without weights is at its kink and may move to either side."""
    network = random_chain(generator, [2, 2, 1], "relu")
    network.weights[0][1], network.biases[0][1] = 0, 0
    network.weights[1][:, 1] = 0
    X = randn(generator, 10, 2)
    found = displacements(network, X, generator=generator, limit=4)
    check(network, X, found)
    moved = [d for d in found if d.kind == "zero outgoing weights"]
    assert moved
    for displacement in moved:
        z = network.at(network.theta + displacement.shift).forward(X)[0][0][:, 1]
        assert (z != 0).all()
        assert z.abs().max() > 0.1


def test_relu_shift_is_cut_at_the_kink(generator):
    """The shift is shorter close to a kink, and missing very close to it."""

    def find(margin):
        X = torch.tensor([[1.0], [1.0 + 2 * margin]]).double()
        network = ChainNetwork.mlp(
            [[[1.0], [-1.0]], [[1.0, 0.0]]],
            [torch.tensor([0.0, 1.0 + margin]).double(), None],
            [ACTIVATIONS["relu"]],
        )
        found = displacements(network, X, generator=generator, limit=6)
        check(network, X, found)
        sizes = [d.shift.norm() for d in found if d.kind == "zero outgoing weights"]
        return max(sizes, default=0.0)

    assert find(1.0) > find(0.05) > 0
    assert find(1e-6) == 0


def test_rescaled(generator):
    """Rescaled ReLU units change no output, on any inputs."""
    network = random_chain(generator, [3, 5, 4, 2], "leaky_relu")
    X, new = randn(generator, 30, 3), randn(generator, 7, 3)
    displacement = displacements(network, X, generator=generator)[-1]
    assert displacement.kind == "rescaled units"
    check(network, X, [displacement])
    moved = network.at(network.theta + displacement.shift)
    assert_close(moved(moved.theta, new), network(network.theta, new), **EXACT)
    # All the units, by factors between 1/2 and 2.
    ratio = moved.biases[1] / network.biases[1]
    assert ((ratio != 1) & (ratio > 0.5) & (ratio < 2)).all()
    assert_close(moved.weights[1].sign(), network.weights[1].sign())


@pytest.mark.parametrize("name", ["tanh", "elu", "softplus"])
def test_nothing_known(name, generator):
    """A generic network with more samples than units has no displacement."""
    network = random_chain(generator, [3, 5, 4, 2], name)
    assert displacements(network, randn(generator, 30, 3), generator=generator) == []


def test_paths_that_come_back():
    """Outputs and pieces must stay on the whole way, not only at its end."""
    X = torch.ones(1, 1).double()
    network = ChainNetwork.mlp([[[1.0]], [[0.0]]], [None, None], [ACTIVATIONS["relu"]])
    walk = _Walk(network, X)
    unit, head = torch.eye(2).double()
    assert walk.find_stop([lambda time: time * unit]) == 1
    # The head leaves zero and returns; the unit turns negative and returns.
    assert walk.find_stop([lambda time: time * (1 - time) * head]) is None
    assert walk.find_stop([lambda time: -20 * time * (1 - time) * unit]) < 0.1


# --- modules -------------------------------------------------------------------------


class Residual(nn.Module):
    """``W (x + V z)`` with z the last three of five inputs."""

    def __init__(self, W, V):
        super().__init__()
        self.W, self.V = nn.Parameter(W), nn.Parameter(V)

    def forward(self, X):
        return (X[:, :2] + X[:, 2:] @ self.V.T) @ self.W.T


def test_residual_null_space(generator):
    """V moves in the null space of a W of deficient rank (Theorem 3)."""
    W = torch.outer(randn(generator, 2), randn(generator, 2))
    V = randn(generator, 2, 3)
    network = open_module(Residual(W, V))
    X = randn(generator, 20, 5)
    found = displacements(network, X, generator=generator, limit=8)
    check(network, X, found)
    assert kinds(found) == {"null space of V"}
    shifts = torch.stack([d.shift for d in found])
    assert torch.linalg.matrix_rank(shifts, rtol=1e-8) == 3
    for shift in shifts:
        assert (W @ shift[4:].reshape(2, 3)).abs().max() <= 1e-14
    # With W of full rank nothing moves.
    network = open_module(Residual(randn(generator, 2, 2), V))
    assert displacements(network, X, generator=generator) == []


def test_resnet(generator):
    """Units that the head ignores move; the head moves in its inputs' null space."""
    network, X = random_resnet(generator), randn(generator, 20, 2)
    theta = network.theta
    theta[:10].reshape(2, 5)[:, 3] = 0
    theta[18:] = 0
    network = network.at(theta)
    found = displacements(network, X, generator=generator, limit=12)
    check(network, X, found)
    assert "null space of units.0" in kinds(found)
    for displacement in found:
        if displacement.kind == "null space of units.0.weight":
            assert displacement.shift[12:18].reshape(3, 2)[1].norm() > 0
            assert not displacement.shift[12:18].reshape(3, 2)[::2].any()

    few = X[:3]
    found = displacements(network, few, generator=generator, limit=12)
    check(network, few, found)
    features = network.layers(few)[1]
    head = [d.shift for d in found if d.kind == "null space of head.weight"]
    assert head
    for shift in head:
        assert (features @ shift[:10].reshape(2, 5).T).abs().max() <= 1e-13


def test_first_order_is_not_enough(generator):
    """Null vectors of the Jacobian are not used if the outputs change along them."""

    class Square(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.ones(1))

        def forward(self, X):
            return X * self.a.square() + self.b

    X = randn(generator, 5, 1)
    assert displacements(ModuleNetwork(Square()), X, generator=generator) == []


def test_large_modules_are_left_out(generator, monkeypatch):
    """No Jacobian beyond a size; no decomposition of a block beyond a cost."""
    from sklearn_pgb._geometry import _freedom

    network = open_module(Residual(torch.zeros(2, 2), torch.ones(2, 3)))
    X = randn(generator, 4, 5)
    n_rows, n_params = 4 * 2, 4 + 6
    monkeypatch.setattr(_freedom, "JACOBIAN_ENTRIES", n_rows * n_params)
    assert displacements(network, X, generator=generator)
    monkeypatch.setattr(_freedom, "JACOBIAN_ENTRIES", n_rows * n_params - 1)
    assert displacements(network, X, generator=generator) == []


def test_other_networks(generator):
    """Networks of other kinds have no displacements."""

    class Constant(Network):
        n_inputs = n_outputs = n_params = 1
        theta = torch.zeros(1, dtype=torch.float64)

        def to(self, device):
            return self

        def at(self, theta):
            return self

        def __call__(self, theta, X):
            return X * 0

        def layers(self, X):
            return [X, X]

        def find_head(self, X):
            raise NotImplementedError

    assert displacements(Constant(), torch.ones(2, 1), generator=generator) == []


# --- parameters ----------------------------------------------------------------------


def test_limit_and_seed(generator):
    """At most `limit`, the same ones for the same seed."""
    network, X = random_chain(generator, [3, 6, 2]), randn(generator, 20, 3)
    plant_head = network.weights[1]
    plant_head[:, 0] = 0

    def draw(seed, limit):
        generator = torch.Generator().manual_seed(seed)
        return displacements(network, X, generator=generator, limit=limit)

    assert [len(draw(0, limit)) for limit in (0, 1, 5)] == [0, 1, 5]
    for one, other in zip(draw(1, 5), draw(1, 5), strict=True):
        assert_close(one.shift, other.shift, rtol=0, atol=0)
    assert not torch.equal(draw(0, 1)[0].shift, draw(1, 1)[0].shift)


def test_size(generator):
    """Shifts have the size of the pre-activations that they change."""
    network, X = random_chain(generator, [3, 6, 2]), 100 * randn(generator, 40, 3)
    network.weights[1][:, 0] = 0
    found = displacements(network, X, generator=generator, limit=40)
    z = network.forward(X)[0][0]
    moved = torch.stack(
        [network.at(network.theta + d.shift).forward(X)[0][0] - z for d in found]
    )
    ratio = moved[:, :, 0].square().mean().sqrt() / z.square().mean().sqrt()
    assert 0.5 < ratio < 2
    assert not moved[:, :, 1:].any()
