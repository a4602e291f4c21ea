"""Programs and objectives against torch's layers and autograd."""

from dataclasses import replace
from functools import partial
from itertools import pairwise

import oracles
import pytest
import torch
from oracles import randn
from torch import nn
from torch.testing import assert_close

from sklearn_pgb._losses._classification import (
    CrossEntropyLoss,
    LogisticLoss,
    SmoothedHingeLoss,
)
from sklearn_pgb._losses._regression import GammaLoss, PoissonLoss, SquaredLoss
from sklearn_pgb._models._activations import ACTIVATIONS
from sklearn_pgb._models._chain import ChainNetwork
from sklearn_pgb._threads import local_randomness
from sklearn_pgb._training import _objective
from sklearn_pgb._training._objective import Objective, hessian
from sklearn_pgb._training._program import ChainProgram, ModuleProgram, NetworkProgram

EXACT = {"rtol": 1e-12, "atol": 1e-12}
SINGLE = {"rtol": 1e-4, "atol": 1e-4}

MODULES = {
    "identity": nn.Identity,
    "logistic": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "gelu_tanh": partial(nn.GELU, approximate="tanh"),
    "elu": nn.ELU,
    "softplus": nn.Softplus,
    "leaky_relu": nn.LeakyReLU,
}
LOSSES = [
    SquaredLoss(),
    CrossEntropyLoss(),
    CrossEntropyLoss(label_smoothing=0.1),
    LogisticLoss(),
    SmoothedHingeLoss(),
    SmoothedHingeLoss(power=3.0),
    SmoothedHingeLoss(power=1.5),
    PoissonLoss(),
    GammaLoss(),
]
all_activations = pytest.mark.parametrize("name", ACTIVATIONS)
all_losses = pytest.mark.parametrize("loss", LOSSES, ids=repr)
populations = pytest.mark.parametrize("n_members", [1, 3])


def chain(widths, name="tanh"):
    return ChainProgram(widths, [ACTIVATIONS[name]] * (len(widths) - 2))


def sequential(widths, name, theta):
    """The same chain as a torch module."""
    layers = []
    for n_in, n_out in pairwise(widths):
        layers += [nn.Linear(n_in, n_out, dtype=torch.float64), MODULES[name]()]
    module = nn.Sequential(*layers[:-1])
    nn.utils.vector_to_parameters(theta, module.parameters())
    return module


def pulled_back(module, X, residual):
    """Raw outputs of a module and J^T residual by autograd."""
    raw = module(X)
    parts = torch.autograd.grad(raw, list(module.parameters()), residual)
    return raw.detach(), torch.cat([part.flatten() for part in parts])


def sweep(program, theta, X, residual):
    """Copies of the raw outputs and of J^T residual of a program."""
    raw, tape = program.forward(theta, X)
    raw = raw.clone()
    return raw, program.backward(theta, tape, residual)


# --- chains ------------------------------------------------------------------------


@all_activations
@pytest.mark.parametrize("n_outputs", [1, 3])
@populations
def test_chain_equals_sequential(name, n_outputs, n_members, generator):
    """Outputs and pulled-back residuals are those of torch's layers and autograd."""
    widths = [4, 5, 3, n_outputs]
    program = chain(widths, name)
    theta = randn(generator, n_members, program.n_params)
    X, residual = randn(generator, 7, 4), randn(generator, n_members, 7, n_outputs)
    untouched = X.clone(), residual.clone()
    # Twice, and on other samples in between: the program reuses its memory.
    sweep(program, theta, X + 1, residual)
    raw, gradient = sweep(program, theta, X, residual)
    for i in range(n_members):
        module = sequential(widths, name, theta[i])
        expected = pulled_back(module, X, residual[i])
        assert_close((raw[i], gradient[i]), expected, **EXACT)
        assert_close(program.differentiable(theta[i], X), expected[0], **EXACT)
    assert_close(program(theta, X), raw, rtol=0, atol=0)
    assert_close((X, residual), untouched, rtol=0, atol=0)


@all_activations
def test_members_alone(name, generator):
    """A member does not see the others."""
    program = chain([4, 5, 3, 2], name)
    theta = randn(generator, 3, program.n_params)
    X, residual = randn(generator, 7, 4), randn(generator, 3, 7, 2)
    together = sweep(program, theta, X, residual)
    for i in range(3):
        one = slice(i, i + 1)
        alone = sweep(program, theta[one], X, residual[one])
        assert_close(alone, tuple(part[one] for part in together), **EXACT)


def test_layout(generator):
    """Theta is laid out as that of ChainNetwork."""
    widths = [4, 5, 3, 2]
    weights = [randn(generator, o, i) for i, o in pairwise(widths)]
    offsets = [randn(generator, len(w)) for w in weights]
    activations = [ACTIVATIONS["tanh"], ACTIVATIONS["silu"]]
    network = ChainNetwork.mlp(weights, offsets, activations)
    program = ChainProgram(widths, activations)
    assert program.n_params == network.n_params
    X, residual = randn(generator, 7, 4), randn(generator, 1, 7, 2)
    raw, gradient = sweep(program, network.theta[None], X, residual)
    assert_close(raw[0], network(network.theta, X), **EXACT)
    expected = torch.einsum("nk,nkp->p", residual[0], oracles.jacobian(network, X))
    assert_close(gradient[0], expected, **EXACT)
    parts = program.split(network.theta[None])
    assert_close([W[0] for W in parts[0]], weights, rtol=0, atol=0)
    assert_close([b[0, 0] for b in parts[1]], offsets, rtol=0, atol=0)
    ones = [torch.ones_like(w) for w in weights]
    zeros = [torch.zeros_like(b) for b in offsets]
    marks = ChainNetwork.mlp(ones, zeros, activations).theta.bool()
    assert_close(program.is_weight(), marks)


def test_chain_without_hidden_layers(generator):
    """A chain may be linear; images are flattened."""
    program = ChainProgram([6, 2], [])
    theta, images = randn(generator, 2, 14), randn(generator, 5, 2, 3)
    W, b = theta[:, :12].reshape(2, 2, 6), theta[:, 12:]
    expected = images.reshape(5, 6) @ W.mT + b[:, None]
    residual = randn(generator, 2, 5, 2)
    raw, gradient = sweep(program, theta, images, residual)
    assert_close(raw, expected, **EXACT)
    assert_close(program.differentiable(theta[1], images), expected[1], **EXACT)
    to_W = torch.einsum("mnk,np->mkp", residual, images.reshape(5, 6)).flatten(1)
    assert_close(gradient, torch.cat([to_W, residual.sum(1)], 1), **EXACT)


@all_activations
def test_chain_in_single_precision(name, generator):
    """In float32 a program gives float32 numbers close to those in float64."""
    program = chain([4, 5, 3, 2], name)
    theta = randn(generator, 2, program.n_params)
    X, residual = randn(generator, 7, 4), randn(generator, 2, 7, 2)
    double = sweep(program, theta, X, residual)
    single = sweep(program, theta.float(), X.float(), residual.float())
    assert {part.dtype for part in single} == {torch.float32}
    assert_close(tuple(part.double() for part in single), double, **SINGLE)


# --- modules -----------------------------------------------------------------------


def test_module_equals_chain(generator):
    """A module equals the chain of the same layers."""
    widths = [4, 5, 3, 2]
    program = chain(widths, "relu")
    theta = randn(generator, 1, program.n_params)
    twin = ModuleProgram(sequential(widths, "relu", theta[0]))
    assert twin.n_params == program.n_params
    assert_close(twin.theta(), theta, rtol=0, atol=0)
    assert_close(twin.is_weight(), program.is_weight())
    X, residual = randn(generator, 7, 4), randn(generator, 1, 7, 2)
    moved = theta + 0.1 * randn(generator, *theta.shape)
    expected = sweep(program, moved, X, residual)
    assert_close(sweep(twin, moved, X, residual), expected, **EXACT)
    assert_close(twin(moved, X), expected[0], **EXACT)
    assert_close(twin.differentiable(moved[0], X), expected[0][0], **EXACT)
    assert_close(twin.theta(), theta, rtol=0, atol=0)


def test_module_convolution(seed, generator):
    """A small convolutional net with a frozen layer equals autograd."""
    with local_randomness(seed):
        convolution = nn.Conv2d(1, 2, 3).requires_grad_(False)
        layers = [convolution, nn.Tanh(), nn.Conv2d(2, 3, 2), nn.Tanh(), nn.Flatten()]
        module = nn.Sequential(*layers, nn.Linear(12, 1), nn.Flatten(0)).double()
    program = ModuleProgram(module)
    trained = [p for p in module.parameters() if p.requires_grad]
    assert program.n_params == sum(p.numel() for p in trained) == 27 + 13
    images, residual = randn(generator, 6, 1, 5, 5), randn(generator, 1, 6, 1)
    raw, gradient = sweep(program, program.theta(), images, residual)
    expected = module(images)
    parts = torch.autograd.grad(expected, trained, residual[0, :, 0])
    assert_close(raw[0, :, 0], expected.detach(), **EXACT)
    assert_close(gradient[0], torch.cat([p.flatten() for p in parts]), **EXACT)
    kernels = [torch.full((p.numel(),), p.ndim > 1) for p in trained]
    assert_close(program.is_weight(), torch.cat(kernels))


def test_module_dropout(seed, generator):
    """Dropout is active in `forward`, depends on the seed, and predicts without."""
    with local_randomness(seed):
        module = nn.Sequential(nn.Linear(4, 40), nn.Dropout(0.5), nn.Linear(40, 2))
    program = ModuleProgram(module.double())
    theta, X = program.theta(), randn(generator, 7, 4)
    full = (module[2](module[0](X))).detach()[None]

    def dropped(theta):
        with local_randomness(seed + 1):
            return program.forward(theta, X)

    state = torch.get_rng_state()
    raw, tape = dropped(theta)
    assert_close(torch.get_rng_state(), state)
    assert_close(dropped(theta)[0], raw, rtol=0, atol=0)
    with local_randomness(seed + 2):
        assert (program.forward(theta, X)[0] - raw).abs().max() > 1e-3
    assert (raw - full).abs().max() > 1e-3
    assert_close(program(theta, X), full, **EXACT)
    assert_close(program.differentiable(theta[0], X), full[0], **EXACT)

    residual, direction = randn(generator, 1, 7, 2), randn(generator, *theta.shape)
    gradient = program.backward(theta, tape, residual)
    ahead, behind = (dropped(theta + s * direction)[0] for s in (1e-5, -1e-5))
    slope = ((ahead - behind) * residual).sum() / 2e-5
    assert_close((gradient * direction).sum(), slope, rtol=1e-7, atol=1e-7)


def test_module_batch_norm(seed, generator):
    """Statistics change in `forward`, but not in predictions."""
    with local_randomness(seed):
        module = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
    program = ModuleProgram(module.double())
    theta, X = program.theta(), 2 + randn(generator, 9, 4)
    hidden = module[0](X).detach()
    raw = program.forward(theta, X)[0]
    mean = module[1].running_mean.clone()
    assert_close(mean, 0.1 * hidden.mean(0), **EXACT)
    scaled = (hidden - hidden.mean(0)) / (hidden.var(0, False) + 1e-5) ** 0.5
    assert_close(raw[0], module[2](scaled).detach(), **EXACT)
    rested = program(theta, X)
    scaled = (hidden - mean) / (0.9 + 0.1 * hidden.var(0) + 1e-5) ** 0.5
    assert_close(rested[0], module[2](scaled).detach(), **EXACT)
    program.differentiable(theta[0], X)
    assert_close(module[1].running_mean, mean, rtol=0, atol=0)


# --- objectives --------------------------------------------------------------------


@all_losses
@populations
def test_objective(loss, n_members, generator):
    """Values and gradients are those of the formula, by torch's layers and autograd."""
    objective, theta = oracles.training_problem(loss, generator, n_members)
    values, gradients = objective.value_and_gradient(theta)
    assert_close(objective.value(theta), values, **EXACT)
    for i in range(n_members):
        module = sequential([3, 4, 3], "tanh", theta[i])
        parameters = list(module.parameters())
        flat = nn.utils.parameters_to_vector(parameters)
        losses = loss.value(objective.y, module(objective.X))
        data = (objective.weight * losses).sum()
        value = data + (objective.penalty * flat**2).sum()
        parts = torch.autograd.grad(value, parameters)
        assert_close(values[i], value.detach(), **EXACT)
        assert_close(objective.data_value(theta)[i], data.detach(), **EXACT)
        expected = torch.cat([part.flatten() for part in parts])
        assert_close(gradients[i], expected, **EXACT)


@all_losses
def test_integer_weights(loss, generator):
    """Integer weights equal repeated rows."""
    objective, theta = oracles.training_problem(loss, generator, 2, n_samples=8)
    counts = torch.tensor([1, 2, 3, 1, 1, 4, 2, 1])
    part = objective.program, loss

    def measure(X, y, weight):
        weight = weight / weight.sum()
        return Objective(*part, X, y, weight, objective.penalty).value_and_gradient(
            theta
        )

    rows = torch.arange(8).repeat_interleave(counts)
    once = measure(objective.X, objective.y, counts.double())
    repeated = measure(objective.X[rows], objective.y[rows], torch.ones(15).double())
    assert_close(once, repeated, **EXACT)


@pytest.mark.parametrize(("size", "largest"), [(1, 1), (8, 3), (60, 20)])
@pytest.mark.parametrize("loss", LOSSES[:2], ids=repr)
def test_sweeps(loss, size, largest, generator, monkeypatch):
    """Sweeping over blocks of samples changes nothing."""
    objective, theta = oracles.training_problem(loss, generator, n_members=3)
    whole = objective.value(theta), *objective.value_and_gradient(theta)
    forward, blocks = objective.program.forward, []

    def spy(theta, X):
        blocks.append(len(X))
        return forward(theta, X)

    monkeypatch.setattr(_objective, "FORWARD_ROWS", size)
    monkeypatch.setattr(objective.program, "forward", spy)
    assert_close((objective.value(theta), *objective.value_and_gradient(theta)), whole)
    assert max(blocks) == largest
    assert sum(blocks) == 2 * objective.n_samples == 50


def test_objective_in_single_precision(generator):
    """In float32 values and gradients are close to those in float64."""
    double, theta = oracles.training_problem(CrossEntropyLoss(), generator, 2)
    data = (double.X, double.y, double.weight, double.penalty)
    single = Objective(double.program, double.loss, *(part.float() for part in data))
    value, gradient = single.value_and_gradient(theta.float())
    assert value.dtype == gradient.dtype == torch.float32
    expected = double.value_and_gradient(theta)
    assert_close((value.double(), gradient.double()), expected, **SINGLE)


@all_losses
def test_network_as_a_program(loss, generator, monkeypatch):
    """By autograd it has the objective of its chain, and the same Hessian in blocks."""
    objective, theta = oracles.training_problem(loss, generator)
    weights, biases = objective.program.split(theta)
    network = ChainNetwork.mlp(
        [weight[0] for weight in weights],
        [bias[0, 0] for bias in biases],
        objective.program.activations,
    )
    own = replace(objective, program=NetworkProgram(network))
    assert own.network is network
    value, gradient = objective.value_and_gradient(theta)
    assert_close(own.value_and_gradient(theta), (value, gradient), **EXACT)
    assert_close(
        own.value_and_gradient_of_one(network.theta), (value[0], gradient[0]), **EXACT
    )
    whole = hessian(objective, theta[0])
    monkeypatch.setattr(_objective, "FORWARD_ROWS", 7)
    monkeypatch.setattr(_objective, "HESSIAN_COLUMNS", 5)
    assert_close(hessian(own, theta[0]), whole, **EXACT)
