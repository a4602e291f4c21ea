"""Chains and modules as functions of their parameters."""

import copy
import pickle

import numpy as np
import oracles
import pytest
import torch
from oracles import randn, random_chain
from torch import nn
from torch.testing import assert_close

from sklearn_pgb._losses._regression import SquaredLoss
from sklearn_pgb._models._activations import ACTIVATIONS, read_activation
from sklearn_pgb._models._chain import ChainNetwork
from sklearn_pgb._models._module import ModuleNetwork, open_module
from sklearn_pgb._models._network import as_tensor
from sklearn_pgb._models._open import open_network

EXACT = {"rtol": 1e-12, "atol": 1e-12}


pytestmark = pytest.mark.usefixtures("torch_seed")


@pytest.fixture
def X(seed):
    return np.random.default_rng(seed).standard_normal((30, 4))


# --- activations and chains ----------------------------------------------------------


@pytest.mark.parametrize("activation", ACTIVATIONS.values(), ids=lambda a: a.name)
def test_activation_derivatives(activation):
    """Derivatives agree with autograd, kinks and thresholds included."""
    z = torch.linspace(-30, 30, 241, dtype=torch.float64, requires_grad=True)
    h = activation(z)
    (expected,) = torch.autograd.grad(h.sum(), z)
    assert_close(activation.derivative(z, h).detach(), expected, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("activation", ACTIVATIONS.values(), ids=lambda a: a.name)
def test_activations_are_one_record(activation):
    """Module and in-place functions equal the function and its derivative."""
    z = torch.linspace(-30, 30, 241, dtype=torch.float64)
    h = activation(z)
    assert_close(activation.module()(z), h, rtol=0, atol=0)
    assert read_activation(activation.module()) == activation
    if activation.in_place is not None:
        forward, pull = activation.in_place
        delta = torch.linspace(-1, 2, 241, dtype=torch.float64)
        expected = delta * activation.derivative(z, h)
        output = forward(z.clone())
        assert_close(output, h, rtol=0, atol=0)
        assert_close(pull(delta, output), expected, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("activation", ACTIVATIONS.values(), ids=lambda a: a.name)
@pytest.mark.parametrize("bias", [True, False])
def test_chain(activation, bias, generator):
    """Layers, calls and theta describe the same function."""
    network = random_chain(generator, [4, 6, 5, 3], activation, bias)
    X = randn(generator, 8, 4)
    pre_activations, layers = network.forward(X)
    assert_close(layers, network.layers(X))
    assert [h.shape for h in layers] == [(8, 4), (8, 6), (8, 5), (8, 3)]
    for i in range(2):
        expected = layers[i] @ network.weights[i].T
        expected = expected + network.biases[i] if bias else expected
        assert_close(pre_activations[i], expected, **EXACT)
        assert_close(layers[i + 1], activation(expected), **EXACT)
    assert_close(network(network.theta, X), layers[-1], rtol=0, atol=0)
    assert network.theta.shape == (network.n_params,)
    assert (network.n_inputs, network.n_outputs) == (4, 3)


def test_chain_theta_order():
    """Theta holds each layer's weight row by row and then its bias."""
    network = ChainNetwork.mlp(
        [[[0.0, 1.0], [2.0, 3.0]], [[6.0, 7.0]]],
        [[4.0, 5.0], None],
        [ACTIVATIONS["tanh"]],
    )
    assert_close(network.theta, torch.arange(8, dtype=torch.float64))
    first, _, head = network.split(network.theta)
    assert_close([first.weight, head.weight], list(network.weights))
    assert_close(first.bias, network.biases[0])
    assert head.bias is None


def test_chain_shares_arrays():
    """Float64 arrays are not copied, read-only ones neither, as these may be mapped."""
    weight = np.ones((3, 4))
    network = ChainNetwork.mlp([weight], [np.zeros(3)], [])
    assert network.weights[0].data_ptr() == weight.ctypes.data
    weight.setflags(write=False)
    network = ChainNetwork.mlp([weight], [None], [])
    assert network.weights[0].data_ptr() == weight.ctypes.data
    assert_close(network.theta, torch.ones(12).double())


def test_chain_pickles(generator):
    """A chain survives pickle with every activation."""
    X = torch.linspace(-1, 1, 8, dtype=torch.float64).reshape(2, 4)
    for activation in ACTIVATIONS.values():
        network = random_chain(generator, [4, 3, 2], activation)
        again = pickle.loads(pickle.dumps(network))
        assert_close(again(again.theta, X), network(network.theta, X))


@pytest.mark.parametrize("bias", [True, False])
def test_GB_1_chain_head(bias, generator):
    """The head of a tanh chain puts the raw output into the span of J."""
    network = random_chain(generator, [4, 6, 5, 3], "tanh", bias)
    X = randn(generator, 8, 4)
    if bias:
        oracles.check_head(network, X)
        return
    head = network.find_head(X)
    assert head.bias is None
    raw = network(network.theta, X)
    residual = oracles.jacobian(network, X) @ head.span_coef - raw
    assert residual.norm() <= 1e-14 * raw.norm()


def test_GB_1_exponential():
    """``f = e^(theta x)`` is not in the span of its Jacobian, and no head is found."""

    class Exponential(nn.Module):
        def __init__(self):
            super().__init__()
            self.theta = nn.Parameter(torch.ones(1, dtype=torch.float64))

        def forward(self, X):
            return (self.theta * X).exp()

    network = ModuleNetwork(Exponential())
    X = torch.tensor([[1.0], [2.0]], dtype=torch.float64)
    J = oracles.jacobian(network, X)[:, 0]
    raw = network(network.theta, X)
    assert_close(J, X * raw, **EXACT)
    residual = raw - J @ torch.linalg.lstsq(J, raw).solution
    e = np.e
    expected = e / np.sqrt((1 + e**2) * (1 + 4 * e**2))
    assert (residual.norm() / raw.norm()).item() == pytest.approx(expected, abs=1e-12)
    assert expected == pytest.approx(0.16978, abs=1e-5)
    head = network.find_head(X)
    assert head.bias is None
    assert head.span_coef is None


@pytest.mark.parametrize(
    ("weights", "biases", "n_activations", "message"),
    [
        ([np.ones((2, 3))], [], 0, "one bias .* got 1 weights, 0 biases and 0"),
        ([np.ones((2, 3))], [None], 1, "1 weights, 1 biases and 1 activations"),
        ([np.ones((2, 3)), np.ones((3, 1))], 2 * [None], 1, r"n_in=2 .* got \(3, 1\)"),
        ([np.ones((2, 3))], [np.ones(3)], 0, r"got \(2, 3\) and \(3,\). Transpose"),
    ],
)
def test_chain_errors(weights, biases, n_activations, message):
    """Layers that do not fit are refused."""
    with pytest.raises(ValueError, match=message):
        ChainNetwork.mlp(weights, biases, [ACTIVATIONS["relu"]] * n_activations)


def test_GB_5_overparameterized_relu():
    """Each sample has one active unit; with a negative diagonal there are none."""
    X = np.eye(3)
    weights, biases = oracles.saturated_relu(X, width=3, depth=2, diagonal=2.0)
    head, relu = np.eye(3), [ACTIVATIONS["relu"]] * 2
    network = ChainNetwork.mlp([*weights, head], [*biases, None], relu)
    eye = torch.eye(3, dtype=torch.float64)
    layers = network.layers(torch.tensor(X))
    assert_close(layers[1], eye / 2, rtol=0, atol=0)
    assert_close(layers[2], eye, rtol=0, atol=0)
    negative = ChainNetwork.mlp([weights[0], -weights[1], head], [*biases, None], relu)
    assert_close(negative.layers(torch.tensor(X))[2], 0 * eye, rtol=0, atol=0)


def test_overparameterized_relu_rank(seed):
    """Any distinct unit rows give a last hidden layer of full row rank."""
    X = np.random.default_rng(seed).standard_normal((6, 3))
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    weights, biases = oracles.saturated_relu(X, width=8, depth=3)
    assert [weight.shape for weight in weights] == [(8, 3), (8, 8), (8, 8)]
    head = ChainNetwork.mlp(
        [*weights, np.ones((1, 8))], [*biases, None], [ACTIVATIONS["relu"]] * 3
    )
    features = head.layers(torch.tensor(X))[3]
    scale = features[0, 0]
    assert scale > 0
    expected = torch.zeros(6, 8, dtype=torch.float64)
    expected[:, :6] = scale * torch.eye(6).double()
    assert_close(features, expected, **EXACT)


# --- torch modules -------------------------------------------------------------------


CHAINS = {
    "linear": lambda: nn.Linear(4, 3),
    "two_linear": lambda: nn.Sequential(nn.Linear(4, 5, bias=False), nn.Linear(5, 3)),
    "relu": lambda: nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)),
    "nested": lambda: nn.Sequential(
        nn.Identity(),
        nn.Sequential(nn.Linear(4, 5), nn.Dropout(0.5), nn.Tanh()),
        nn.Sequential(nn.Flatten(), nn.Linear(5, 6), nn.SiLU(), nn.Linear(6, 3)),
    ),
    "sigmoid": lambda: nn.Sequential(nn.Linear(4, 5), nn.Sigmoid(), nn.Linear(5, 3)),
    "gelu": lambda: nn.Sequential(nn.Linear(4, 5), nn.GELU(), nn.Linear(5, 3)),
    "gelu_tanh": lambda: nn.Sequential(
        nn.Linear(4, 5), nn.GELU(approximate="tanh"), nn.Linear(5, 3)
    ),
    "elu": lambda: nn.Sequential(nn.Linear(4, 5), nn.ELU(alpha=0.7), nn.Linear(5, 3)),
    "softplus": lambda: nn.Sequential(
        nn.Linear(4, 5), nn.Softplus(2.0, 3.0), nn.Linear(5, 3)
    ),
    "tanh_first": lambda: nn.Sequential(nn.Tanh(), nn.Linear(4, 3)),
    "two_activations": lambda: nn.Sequential(
        nn.Linear(4, 5), nn.Tanh(), nn.ReLU(), nn.Linear(5, 3)
    ),
    "leaky": lambda: nn.Sequential(nn.Linear(4, 5), nn.LeakyReLU(0.3), nn.Linear(5, 3)),
}


def conv_net():
    return nn.Sequential(
        nn.Conv2d(1, 2, 3),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(8, 3),
    )


class Residual(nn.Module):
    """A module that is not a chain, with every kind of parameter."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(6, 3)
        self.first = nn.Linear(4, 6)
        self.frozen = nn.Linear(6, 6).requires_grad_(False)
        self.norm = nn.BatchNorm1d(6)
        self.dropout = nn.Dropout(0.5)

    def forward(self, X):
        h = self.norm(self.first(X).tanh())
        return self.head(h + self.dropout(self.frozen(h)))


@pytest.mark.parametrize("name", CHAINS)
def test_sequential_is_chain(name, X):
    """A Sequential becomes a chain with the same outputs, theta and derivatives."""
    module = CHAINS[name]()
    opened = open_network(module, loss=SquaredLoss())
    network, rows = opened.network, opened.inputs(X)
    assert isinstance(network, ChainNetwork)
    assert opened.kind is None
    general = ModuleNetwork(module)
    for chain_value, value in [
        (network(network.theta, rows), oracles.module_output(module, rows)),
        (network.theta, general.theta),
        (oracles.jacobian(network, rows), oracles.jacobian(general, rows)),
    ]:
        assert_close(chain_value, value, **EXACT)
    pre_activations, layers = network.forward(rows)
    for activation, z, h in zip(
        network.activations, pre_activations, layers[1:], strict=False
    ):
        slope = torch.func.vmap(torch.func.grad(activation))(z.reshape(-1))
        assert_close(activation.derivative(z, h).reshape(-1), slope, **EXACT)
    oracles.check_head(network, rows)


def shared_layer():
    layer = nn.Linear(4, 4)
    return nn.Sequential(layer, nn.Tanh(), layer)


def partly_frozen():
    module = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1))
    module[0].requires_grad_(False)
    return module


def hooked():
    module = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1))
    module[0].register_forward_hook(lambda layer, args, output: 2 * output)
    return module


@pytest.mark.parametrize(
    "make_module",
    [
        Residual,
        shared_layer,
        partly_frozen,
        hooked,
        lambda: nn.Sequential(nn.Linear(4, 3), nn.Tanh()),
        lambda: nn.Sequential(nn.LayerNorm(4)),
        lambda: nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3), nn.Tanh()),
        lambda: nn.Sequential(
            nn.Unflatten(1, (2, 2)), nn.LayerNorm((2, 2)), nn.Flatten(), nn.Linear(4, 3)
        ),
        lambda: nn.Sequential(nn.LayerNorm(4).requires_grad_(False), nn.Linear(4, 3)),
        lambda: nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 1)),
        lambda: nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)),
    ],
)
def test_no_chain(make_module, X):
    """Modules that are not exactly chains run as modules, with the same outputs."""
    module = make_module()
    opened = open_network(module, loss=SquaredLoss())
    rows = opened.inputs(X)
    assert isinstance(opened.network, ModuleNetwork)
    raw = opened.network(opened.network.theta, rows)
    assert_close(raw, oracles.module_output(module, rows), **EXACT)


def test_flatten_between_layers():
    """A Flatten between layers that changes the number of axes is run by torch."""
    module = nn.Sequential(nn.Linear(3, 2), nn.Flatten(), nn.Linear(8, 1))
    assert isinstance(open_module(module), ModuleNetwork)
    module = nn.Sequential(nn.Flatten(0, 1), nn.Linear(3, 1))
    assert isinstance(open_module(module), ModuleNetwork)


def test_module_network(X):
    """A copy in evaluation mode with trainable parameters; the module is unchanged."""
    module = Residual().train()
    before = copy.deepcopy(module.state_dict())
    network = ModuleNetwork(module)
    rows = torch.tensor(X)
    raw = network(network.theta, rows)
    assert_close(raw, oracles.module_output(module, rows), **EXACT)
    assert_close(network.layers(rows), [rows, raw])
    assert module.training
    assert module.first.weight.dtype == torch.float32
    assert_close(module.state_dict(), before, rtol=0, atol=0)

    trainable = [p for p in module.parameters() if p.requires_grad]
    expected = torch.cat([p.detach().reshape(-1) for p in trainable])
    assert_close(network.theta, expected.double(), rtol=0, atol=0)
    assert network.n_params == len(expected)
    assert (network.n_inputs, network.n_outputs) == (None, None)
    assert_close(network.apply(network.split(network.theta), rows), raw)


def test_module_head(X):
    """The head is found by its derivatives, wherever it was registered."""
    oracles.check_head(ModuleNetwork(Residual()), torch.tensor(X))
    images = torch.randn(5, 1, 6, 6, dtype=torch.float64)
    network = open_network(conv_net(), loss=SquaredLoss()).network
    assert isinstance(network, ModuleNetwork)
    oracles.check_head(network, images)


def test_no_head(X):
    """With a frozen head, or an activation after it, no head is found."""
    rows = torch.tensor(X)
    frozen = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    frozen[2].requires_grad_(False)
    squashed = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3), nn.Tanh())
    for module in [frozen, squashed]:
        head = ModuleNetwork(module).find_head(rows)
        assert head.bias is None
        assert head.span_coef is None


def test_head_with_frozen_weight(X):
    """If only the bias is trainable, the outputs are not in the span."""
    module = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    module[2].weight.requires_grad_(False)
    network = open_module(module)
    head = network.find_head(torch.tensor(X))
    assert head.bias == slice(network.n_params - 3, network.n_params)
    assert head.span_coef is None


def test_head_without_bias(X):
    """A head without bias has the outputs in its span, too."""
    rows = torch.tensor(X)
    network = ModuleNetwork(
        nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3, bias=False))
    )
    head = network.find_head(rows)
    assert head.bias is None
    raw = network(network.theta, rows)
    assert_close(oracles.jacobian(network, rows) @ head.span_coef, raw, **EXACT)


def test_one_dimensional_output(X):
    """A module that returns one number per sample has one output."""
    module = nn.Sequential(nn.Linear(4, 1), nn.Flatten(0))
    network = ModuleNetwork(module)
    rows = torch.tensor(X)
    raw = network(network.theta, rows)
    assert_close(raw, oracles.module_output(module, rows)[:, None], **EXACT)


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 2)

    def forward(self, X):
        return self.linear(X), X


def test_output_errors(X):
    """Outputs of the wrong rank, number or type are refused."""
    X = torch.tensor(X)
    network = ModuleNetwork(nn.Conv1d(4, 2, 1))
    with pytest.raises(ValueError, match=r"shape .* \(30, n_outputs\), got \(30, 2, 5"):
        network(network.theta, X[:, :, None].expand(-1, -1, 5))
    network = ModuleNetwork(nn.Sequential(nn.Linear(4, 2), nn.Flatten(0)))
    with pytest.raises(ValueError, match=r"got \(60,\)"):
        network(network.theta, X)
    split = nn.Sequential(nn.Linear(4, 4), nn.Unflatten(1, (2, 2)), nn.Flatten(0, 1))
    network = ModuleNetwork(split)
    with pytest.raises(ValueError, match=r"got \(60, 2\)"):
        network(network.theta, X)
    network = ModuleNetwork(Pair())
    with pytest.raises(TypeError, match="module must return one tensor, got tuple"):
        network(network.theta, X)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.ReLU(), "module must have parameters, got ReLU without any"),
        (nn.Linear(2, 1).requires_grad_(False), "got Linear with all of them frozen"),
        (nn.LazyLinear(2), "initialized parameters, got lazy ones in LazyLinear"),
    ],
)
def test_parameter_errors(module, message):
    with pytest.raises(ValueError, match=message):
        open_network(module, loss=SquaredLoss())


def test_reversed_sample_becomes_a_tensor():
    sample = np.arange(6.0).reshape(2, 3)[::-1][:1, ::-1][:, :1]
    assert as_tensor(sample, np.float64).tolist() == [[5.0]]
    assert as_tensor(np.arange(3.0)[::-1], np.float64).tolist() == [2.0, 1.0, 0.0]
