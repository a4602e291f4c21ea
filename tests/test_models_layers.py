"""Chains with layer norms against torch.func and modules run by torch."""

import numpy as np
import oracles
import pytest
import torch
from module_cases import N_INPUTS, N_OUTPUTS, NORMED, Opaque
from operator_cases import check_products
from oracles import randn, random_chain
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from sklearn_pgb import GradientBasisRefit, LayerBasis, certify
from sklearn_pgb._geometry._displacements import displacements
from sklearn_pgb._geometry._freedom import scaling_freedom
from sklearn_pgb._geometry._kinks import kink_margin
from sklearn_pgb._geometry._pieces import pieces
from sklearn_pgb._models._activations import ACTIVATIONS
from sklearn_pgb._models._chain import ChainNetwork
from sklearn_pgb._models._module import ModuleNetwork, open_module
from sklearn_pgb._models._read_chain import read_chain
from sklearn_pgb._operators import _blocks

EXACT = {"rtol": 1e-12, "atol": 1e-12}
N_SAMPLES = 7
every_norm = pytest.mark.parametrize("name", NORMED)


def drawn(name, generator):
    """A module of NORMED with random parameters, as a chain."""
    module = NORMED[name]().double().eval()
    for parameter in module.parameters():
        parameter.data = randn(generator, *parameter.shape)
    network = open_module(module)
    assert isinstance(network, ChainNetwork)
    return module, network


@pytest.mark.parametrize("activation", ACTIVATIONS.values(), ids=ACTIVATIONS)
def test_products_with_derivatives(activation, generator):
    delta, z = randn(generator, 50), 3 * randn(generator, 50)
    h = activation(z)
    expected = delta * activation.derivative(z, h)
    found = activation.times_derivative(delta, z, h)
    assert found is delta
    assert_close(found, expected, **EXACT)


def samples(generator, n=N_SAMPLES):
    return 1.5 + 2 * randn(generator, n, N_INPUTS)


def by_functorch(module, X):
    """The Jacobian of the module itself, (n_samples, n_outputs, n_params)."""
    parameters = dict(module.named_parameters())

    def raw(parameters, x):
        return torch.func.functional_call(module, parameters, (x[None],))[0]

    parts = torch.func.vmap(torch.func.jacrev(raw), (None, 0))(parameters, X)
    return torch.cat([part.flatten(2) for part in parts.values()], -1).detach()


# --- derivatives ---------------------------------------------------------------------


@every_norm
def test_outputs_and_theta(name, generator):
    """Outputs, theta and its blocks are those of the module."""
    module, network = drawn(name, generator)
    X, twin = samples(generator), ModuleNetwork(module)
    assert_close(network(network.theta, X), oracles.module_output(module, X), **EXACT)
    assert_close(network.layers(X)[-1], oracles.module_output(module, X), **EXACT)
    assert_close(network.theta, twin.theta, rtol=0, atol=0)
    assert network.n_params == twin.n_params
    assert (network.n_inputs, network.n_outputs) == (N_INPUTS, N_OUTPUTS)
    theta = randn(generator, network.n_params)
    assert_close(network.at(theta)(theta, X), twin(theta, X), **EXACT)
    assert_close(network.at(theta).theta, theta, rtol=0, atol=0)
    ours, theirs = (
        {(block.start, block.stop) for block in each.blocks().values()}
        for each in (network, twin)
    )
    assert ours == theirs


@pytest.mark.parametrize("block_bytes", [None, 1, 400])
@every_norm
def test_operator(name, block_bytes, generator, monkeypatch):
    """Every product is that of torch.func's Jacobian, in blocks of any size."""
    if block_bytes is not None:
        monkeypatch.setattr(_blocks, "BLOCK_BYTES", block_bytes)
    module, network = drawn(name, generator)
    X = samples(generator)
    index = torch.tensor([6, 0, 3, 3])
    check_products(network.jacobian(X), by_functorch(module, X), index, generator)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (nn.LayerNorm(2), nn.Linear(2, 2, bias=False)),
        (nn.LayerNorm(2, bias=False), nn.Linear(2, 1, bias=False)),
    ],
)
def test_kernels_of_different_chains(left, right, generator):
    """If columns differ in meaning, the kernel is that of the dense matrices."""
    X, first = samples(generator), nn.Linear(6, 2)
    networks = [open_module(nn.Sequential(first, last)) for last in (left, right)]
    operators = [each.jacobian(X) for each in networks]
    assert operators[0].n_coef == operators[1].n_coef
    first, second = (each.dense().flatten(0, 1) for each in operators)
    assert_close(operators[0].cross_gram(operators[1]), first @ second.T, **EXACT)
    assert_close(operators[1].cross_gram(operators[0]), second @ first.T, **EXACT)


def test_kernel_of_linear_layers_of_equal_size(generator):
    """Two inputs and a bias are as many columns as three inputs."""
    with_bias = open_module(nn.Linear(2, 4)).jacobian(randn(generator, 5, 2))
    without = open_module(nn.Linear(3, 4, bias=False)).jacobian(randn(generator, 5, 3))
    assert with_bias.n_coef == without.n_coef
    expected = with_bias.dense().flatten(0, 1) @ without.dense().flatten(0, 1).T
    assert_close(with_bias.cross_gram(without), expected, **EXACT)


# --- the head and the layers ---------------------------------------------------------


@every_norm
def test_head(name, generator):
    """``f = J g`` and ``df / d bias = I``, if the last layer has these parameters."""
    _, network = drawn(name, generator)
    X = samples(generator)
    head, J = network.find_head(X), oracles.jacobian(network, X)
    assert (head.span_coef is None) == (name == "last_without_parameters")
    without = ("two", "last_without_bias", "last_without_parameters")
    assert (head.bias is None) == (name in without)
    if head.span_coef is not None:
        assert_close(J @ head.span_coef, network(network.theta, X), **EXACT)
    if head.bias is not None:
        assert_close(J[..., head.bias], torch.eye(2).double().expand(7, 2, 2), **EXACT)
        rest = network.jacobian(X, without=head.bias)
        assert_close(rest.dense(), J[..., : head.bias.start], **EXACT)


def test_layers(generator):
    """The hidden layers are the inputs of linear layers, after norm and activation."""
    module, network = drawn("two", generator)
    X = samples(generator)
    hidden = [module[:3](X).detach(), module[:6](X).detach()]
    assert_close(network.layers(X)[1:-1], hidden, **EXACT)
    basis = LayerBasis(module, layer=0, loss="squared_error").fit(
        X.numpy(), np.zeros((7, 2))
    )
    assert_close(basis.features(X.numpy()), hidden[0], **EXACT)
    # A layer norm as head does not have the outputs in the span of the layer before.
    assert len(drawn("last", generator)[1].layers(X)) == 2


# --- geometry and certificates -------------------------------------------------------


@every_norm
def test_geometry_is_that_of_the_module(name, generator):
    """Kinks are found as in the unread module; no unit is rescaled or called linear."""
    module, network = drawn(name, generator)
    X, twin = samples(generator), ModuleNetwork(module)
    assert not network.is_mlp
    assert not network.is_linear
    assert not network.is_linear_in_theta
    assert scaling_freedom(network) is None
    assert_close(pieces(network, X).inputs, pieces(twin, X).inputs, **EXACT)
    assert pieces(network, X).kinked == pieces(twin, X).kinked
    assert kink_margin(network, X).on_kink == kink_margin(twin, X).on_kink
    raw = network(network.theta, X)
    found = displacements(network, X, generator=generator)
    assert bool(found) == bool(displacements(twin, X, generator=generator))
    for each in found:
        assert each.kind.startswith("null space of")
        moved = network(network.theta + each.shift, X)
        assert (moved - raw).abs().max() <= 1e-9 * (1 + raw.abs().max())


def trained(module, X, y, n_iter):
    """The module after L-BFGS on the mean squared error."""
    module = module.double()
    optimizer = torch.optim.LBFGS(
        module.parameters(),
        max_iter=n_iter,
        tolerance_grad=1e-13,
        tolerance_change=1e-16,
        history_size=50,
        line_search_fn="strong_wolfe",
    )

    def closure():
        optimizer.zero_grad()
        loss = F.mse_loss(module(X), y)
        loss.backward()
        return loss

    if n_iter:
        optimizer.step(closure)
    return module.eval()


@pytest.mark.parametrize(
    ("critical", "size", "verdict"),
    [
        (False, 0.01, "not_critical"),
        (True, 0.01, "consistent_with_local_min"),
        (True, 0.3, "not_local_min"),
    ],
)
@pytest.mark.parametrize("name", ["after_linear", "first", "last"])
def test_certificate_is_that_of_the_module(name, critical, size, verdict, generator):
    """Read or not, a module has the same verdict, floor, gap and ranks.

    If the targets' difference from the outputs is in a direction that the parameters
    cannot change, the point is critical: a local minimum if the difference is small
    compared with the curvature of the outputs, and a saddle if it is not.
    """
    module, network = drawn(name, generator)
    X = samples(generator, 60)
    J, noise = by_functorch(module, X).flatten(0, 1), randn(generator, 120, 1)
    if critical:
        for _ in range(2):
            noise = noise - J @ torch.linalg.lstsq(J, noise, driver="gelsd").solution
    raw = network(network.theta, X)
    y = raw + size * raw.std() * noise.reshape(60, 2)
    chain, general = (
        certify(each, X.numpy(), y.numpy(), loss="squared_error", random_state=0)
        for each in (module, Opaque(module))
    )
    assert chain.verdict == general.verdict
    assert chain.verdict == verdict
    assert chain.loss == pytest.approx(general.loss, rel=1e-12)
    # If nothing is left to gain, the gaps are what the solver's tolerance leaves.
    slack = 1e-6 * general.loss
    assert chain.gap == pytest.approx(general.gap, rel=1e-6, abs=slack)
    assert chain.floor == general.floor
    assert (chain.rank, chain.generic_rank) == (general.rank, general.generic_rank)


def test_norm_without_activation_is_not_a_linear_model(generator):
    """The bound of linear models does not hold, as a layer norm beats them."""
    X = randn(generator, 60, 2)
    y = (X / (1 + X.square().sum(1, keepdim=True)).sqrt())[:, :1].abs()
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(2, 5), nn.LayerNorm(5), nn.Linear(5, 1))
    module = trained(module, X, y, 300)
    design = torch.cat([X, torch.ones(60, 1)], 1)
    best = torch.linalg.lstsq(design, y).solution
    certificate = certify(module, X.numpy(), y.numpy(), loss="squared_error")
    assert certificate.loss < 0.5 * float((design @ best - y).square().mean())
    assert certificate.verdict != "certified_global"


@pytest.mark.parametrize(
    "name", ["two", "first", "after_activation", "last_without_parameters"]
)
def test_refit_is_that_of_the_module(name, generator):
    """Read or not, a module has the same refit."""
    module, _ = drawn(name, generator)
    X, y = samples(generator, 30).numpy(), randn(generator, 30, 2).numpy()
    refits = [
        GradientBasisRefit(each, alpha=0.1, loss="squared_error").fit(X, y)
        for each in (module, Opaque(module))
    ]
    new = samples(generator).numpy()
    expected = refits[1].predict(new)
    np.testing.assert_allclose(refits[0].predict(new), expected, rtol=1e-6, atol=1e-7)
    assert refits[0].lower_bound_ == pytest.approx(refits[1].lower_bound_, rel=1e-6)


@pytest.mark.parametrize(
    ("layers", "kinds"),
    [
        ([nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)], ["Linear", "tanh", "Linear"]),
        # An identity separates two linear layers; containers and dropout disappear.
        (
            [nn.Sequential(nn.Linear(3, 4), nn.Dropout()), nn.Linear(4, 1)],
            ["Linear", "identity", "Linear"],
        ),
        (
            [nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 1)],
            ["Linear", "LayerNorm", "Linear"],
        ),
        ([nn.Linear(3, 4), nn.Tanh()], None),
        ([nn.Bilinear(3, 3, 1)], None),
    ],
)
def test_modules_are_read_as_chains(layers, kinds):
    chain = read_chain(nn.Sequential(*layers))
    if kinds is None:
        assert chain is None
    else:
        found = [getattr(part, "name", type(part).__name__) for part in chain.chain]
        assert found == kinds


def test_units_of_relu_networks_can_be_rescaled(generator):
    """c relu(z / c) = relu(z), so the outputs stay."""
    network = random_chain(generator, [3, 5, 4, 2], "relu")
    X = randn(generator, 7, 3)
    factors = [randn(generator, width).exp() for width in (5, 4)]
    theta = network.rescaled(factors)
    assert_close(network(theta, X), network(network.theta, X))
    assert not torch.allclose(theta, network.theta)
    ones = [torch.ones(5).double(), torch.ones(4).double()]
    assert torch.equal(network.rescaled(ones), network.theta)
