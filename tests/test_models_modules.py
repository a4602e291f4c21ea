"""Modules of all kinds: right values and derivatives, or an error."""

import copy

import numpy as np
import oracles
import pytest
import torch
from module_cases import MIXING, REFUSED, TAKEN, TiedEmbedding, Two, shared_layer
from numpy.testing import assert_allclose, assert_array_equal
from torch import nn
from torch.testing import assert_close

from sklearn_pgb import (
    AddedNeuronRegressor,
    GradientBasis,
    GradientBasisRefit,
    LayerBasis,
    PerturbedGradientBasis,
    ResNetBasisRegressor,
    certify,
    compare_bases,
)
from sklearn_pgb._losses._regression import SquaredLoss
from sklearn_pgb._models._module import ModuleNetwork
from sklearn_pgb._models._open import open_network
from sklearn_pgb._operators._function import FunctionOperator

RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((20, 6)), RNG.standard_normal((20, 2))


@pytest.fixture(autouse=True)
def no_trace(seed):
    """Seed torch's modules, and check that global state is unchanged."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
        assert torch.backends.mha.get_fastpath_enabled()
        assert torch.backends.cuda.flash_sdp_enabled()


def differences(network, X, step=1e-6):
    """The Jacobian by differences of outputs, (n_samples, n_outputs, n_params)."""
    theta = network.theta
    columns = []
    with torch.no_grad():
        for unit in torch.eye(len(theta), dtype=theta.dtype):
            ends = [network(theta + sign * step * unit, X) for sign in (1, -1)]
            columns.append((ends[0] - ends[1]) / (2 * step))
    return torch.stack(columns, -1)


@pytest.mark.parametrize("name", TAKEN)
def test_derivatives_are_those_of_the_outputs(name, recwarn):
    """J, J g and J^T r of any module agree with differences of its outputs."""
    module = TAKEN[name]()
    opened = open_network(module, loss=SquaredLoss())
    network, rows = opened.network, opened.inputs(X)
    raw = network(network.theta, rows)
    twin = copy.deepcopy(module).double().eval()
    with torch.no_grad():
        single = torch.cat([twin(row.clone()) for row in rows.split(1)])
    assert_close(raw, single, rtol=1e-10, atol=1e-12)
    J = differences(network, rows)
    operator = FunctionOperator(
        network, network.theta, rows, torch.arange(network.n_params)
    )
    close = {"rtol": 1e-5, "atol": 1e-7}
    assert_close(operator.dense(), J, **close)
    direction, residual = torch.randn(J.shape[2]).double(), torch.randn(20, 2).double()
    assert_close(operator.matvec(direction), J @ direction, **close)
    pulled = torch.einsum("icp,ic->p", J, residual)
    assert_close(operator.rmatvec(residual), pulled, **close)
    oracles_head = network.find_head(rows[:8])
    if oracles_head.span_coef is not None:
        assert_close(J @ oracles_head.span_coef, raw, **close)
    assert not [w for w in recwarn if "performance drop" in str(w.message)]


@pytest.mark.parametrize("name", TAKEN)
def test_any_module_is_refitted_and_certified(name):
    """The refit at tiny alpha is at least as good as the network, and bounds hold."""
    module = TAKEN[name]()
    before = copy.deepcopy(module.state_dict())
    data = X.copy()
    refit = GradientBasisRefit(module, loss="squared_error", alpha=1e-8).fit(data, Y)
    if name not in ("in_place_relu", "weight_norm"):
        assert refit.refit_loss_ <= refit.model_loss_ + 1e-9
    assert np.isfinite(refit.predict(data)).all()
    found = certify(module, data, Y, loss="squared_error")
    assert found.loss == pytest.approx(refit.model_loss_, rel=1e-9)
    assert_array_equal(data, X)
    assert_close(module.state_dict(), before, rtol=0, atol=0)


def test_curvature_needs_second_derivatives():
    """A backward pass by NumPy gives no Hessian, and none is reported."""
    smooth = TAKEN["custom"]()
    twin = TAKEN["custom_numpy"]()
    twin.load_state_dict(smooth.state_dict())
    found = certify(smooth, X, Y, loss="squared_error")
    assert found.min_curvature is not None
    other = certify(twin, X, Y, loss="squared_error")
    assert other.min_curvature is None
    assert other.gradient_norm == pytest.approx(found.gradient_norm, rel=1e-9)


def text_module(kind, **options):
    """A module whose embedding has options, and tokens."""
    table = getattr(nn, kind)(9, 4, **options)
    size = 20 if kind == "Embedding" else 4
    return nn.Sequential(
        table, nn.Flatten(), nn.Linear(size, 3), nn.Tanh(), nn.Linear(3, 2)
    )


@pytest.mark.parametrize("kind", ["Embedding", "EmbeddingBag"])
@pytest.mark.parametrize("option", ["scale_grad_by_freq", "sparse", "hook"])
@pytest.mark.parametrize("opaque", [False, True], ids=["chain", "module"])
def test_gradients_of_training_do_not_matter(kind, option, opaque, seed):
    """A module with other gradients in training is the same function."""
    words = np.random.default_rng(seed).integers(0, 9, (20, 5))
    results = []
    for changed in (False, True):
        torch.manual_seed(seed)
        options = {option: changed} if option != "hook" else {}
        module = text_module(kind, **options)
        if option == "hook" and changed:
            module[2].register_full_backward_hook(
                lambda m, inner, outer: (2 * inner[0],)
            )
            module[0].weight.register_hook(lambda gradient: 3 * gradient)
        if opaque:
            module = nn.Sequential(module, nn.Softsign())
        refit = GradientBasisRefit(module, loss="squared_error", alpha=1e-3)
        refit.fit(words, Y)
        certificate = certify(module, words, Y, loss="squared_error")
        results.append([refit.refit_loss_, certificate.gradient_norm])
    assert_allclose(*results, rtol=1e-10)


# --- samples by themselves ------------------------------------------------------------

ENTRIES = {
    "refit": lambda module: GradientBasisRefit(module, loss="squared_error").fit(X, Y),
    "certify": lambda module: certify(module, X, Y, loss="squared_error"),
    "gradient_basis": lambda module: GradientBasis(module, loss="squared_error").fit(X),
    "perturbed": lambda module: PerturbedGradientBasis(
        module, loss="squared_error"
    ).fit(X),
    "layer": lambda module: LayerBasis(module, loss="squared_error").fit(X),
    "compare": lambda module: compare_bases(
        {"g": GradientBasis(module, loss="squared_error")}, X, Y
    ),
    "added_neuron": lambda module: AddedNeuronRegressor(module=module).fit(X, Y),
    "resnet": lambda module: ResNetBasisRegressor(module=module).fit(X, Y),
}


@pytest.mark.parametrize("name", MIXING)
def test_samples_that_depend_on_each_other_are_refused(name):
    """The error names the layer that mixes them; torch's generator is not used."""
    make, layer = MIXING[name]
    module, state = make(), torch.get_rng_state()
    with pytest.raises(ValueError, match=f"each sample by itself, got .*{layer}"):
        ENTRIES["refit"](module)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("entry", ENTRIES)
def test_every_entry_refuses_mixed_samples(entry):
    with pytest.raises(ValueError, match="treat each sample by itself, got Two"):
        ENTRIES[entry](MIXING["centered"][0]())


@pytest.mark.parametrize("copies", [1, 5])
def test_equal_samples_show_a_mixture_too(copies):
    """X has one distinct sample only."""
    rows, targets = np.repeat(X[:1], copies, 0), np.repeat(Y[:1], copies, 0)
    module = MIXING["softmax"][0]()
    with pytest.raises(ValueError, match="each sample by itself"):
        certify(module, rows, targets, loss="squared_error")


def test_skorch_nets_are_tested():
    skorch = pytest.importorskip("skorch")
    net = skorch.NeuralNetRegressor(
        MIXING["centered"][0], max_epochs=1, train_split=None, verbose=0
    )
    with pytest.raises(ValueError, match="treat each sample by itself, got Two"):
        GradientBasisRefit(net).fit(X.astype(np.float32), Y.astype(np.float32))


@pytest.mark.parametrize("name", REFUSED)
def test_other_modules_are_refused_for_their_own_reason(name):
    make, match = REFUSED[name]
    module, state = make(), torch.get_rng_state()
    with pytest.raises(ValueError, match=f"module must .*{match}"):
        ENTRIES["refit"](module)
    with pytest.raises(ValueError, match=f"module must .*{match}"):
        ENTRIES["added_neuron"](module)
    assert torch.equal(torch.get_rng_state(), state)


def test_large_outputs_hide_no_mixture():
    """Differences are compared with the spread of the outputs, not their size."""
    module = MIXING["centered"][0]().double()
    nn.init.constant_(module.b.bias, 1e6)
    with pytest.raises(ValueError, match="each sample by itself"):
        certify(module, X, Y, loss="squared_error")
    fine = Two(lambda m, X: m.b(m.a(X).tanh())).double()
    nn.init.constant_(fine.b.bias, 1e6)
    GradientBasis(fine, loss="squared_error").fit(X)


# --- work in place --------------------------------------------------------------------


def relu_first(inplace):
    torch.manual_seed(3)
    return nn.Sequential(
        nn.ReLU(inplace=inplace), nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 2)
    )


def predictions(module, X):
    """Predictions on X by everything that runs a module."""
    refit = GradientBasisRefit(module, loss="squared_error", alpha="loo").fit(X, Y)
    basis = GradientBasis(module, loss="squared_error").fit(X)
    added = AddedNeuronRegressor(module=module, max_iter=3, random_state=0).fit(X, Y)
    resnet = ResNetBasisRegressor(
        module=module, max_iter=3, cv=None, random_state=0
    ).fit(X, Y)
    return [
        refit.predict(X),
        refit.transform(X),
        basis.operator(X, 2).dense().numpy(),
        [certify(module, X, Y, loss="squared_error").loss],
        added.predict(X),
        certify(added, X, Y).loss,
        resnet.predict(X),
        certify(resnet, X, Y).loss,
    ]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("kind", ["array", "read-only", "mapped"])
def test_modules_that_work_in_place_do_not_change_x(kind, tmp_path):
    """They equal their twins, also on read-only memory maps."""
    expected = predictions(relu_first(inplace=False), X.copy())
    data = X.copy()
    if kind == "mapped":
        np.save(tmp_path / "X.npy", X)
        data = np.load(tmp_path / "X.npy", mmap_mode="r")
    if kind == "read-only":
        data.flags.writeable = False
    found = predictions(relu_first(inplace=True), data)
    assert_array_equal(data, X)
    for one, other in zip(found, expected, strict=True):
        assert_allclose(one, other, rtol=1e-9, atol=1e-12)


# --- parameters under several names ---------------------------------------------------


def test_a_layer_in_two_places_counts_once():
    module = shared_layer()
    network = ModuleNetwork(module)
    assert network.n_params == 2 * 42 + 14
    layer = module[2]
    twin = nn.Sequential(*copy.deepcopy(list(module)))
    twin[4] = copy.deepcopy(layer)
    apart = ModuleNetwork(twin)
    rows = torch.tensor(X)
    J = oracles.jacobian(apart, rows)
    # The derivative by a shared parameter is the sum over its uses.
    blocks = J[..., :42], J[..., 42:84] + J[..., 84:126], J[..., 126:]
    assert_close(oracles.jacobian(network, rows), torch.cat(blocks, -1))


def test_a_call_leaves_shared_layers_as_they_are():
    """Parameters of a call do not stay in the module."""
    network = ModuleNetwork(shared_layer())
    theta, rows = network.theta, torch.tensor(X)
    raw = network(theta, rows)
    moved = network.at(theta + 1)
    assert_close(moved.theta, theta + 1)
    assert_close(moved(moved.theta, rows), network(theta + 1, rows))
    assert_close(network.theta, theta, rtol=0, atol=0)
    assert_close(network(theta, rows), raw, rtol=0, atol=0)


def test_a_weight_of_two_layers_counts_once():
    network = ModuleNetwork(TiedEmbedding())
    assert network.n_params == 8
    moved = network.at(network.theta + 1)
    assert_close(
        moved(moved.theta, torch.tensor(X)), moved(network.theta + 1, torch.tensor(X))
    )


def test_views_of_one_memory_are_two_parameters():
    module = nn.Sequential(nn.Linear(6, 6), nn.PReLU(), nn.Linear(6, 6)).double()
    module[2].weight = nn.Parameter(module[0].weight.data)
    network = ModuleNetwork(module)
    theta = torch.arange(network.n_params, dtype=torch.float64)
    assert_close(network.at(theta).theta, theta, rtol=0, atol=0)


def test_further_training_leaves_an_opened_chain_alone():
    module = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    basis = GradientBasis(module, loss="squared_error").fit(X)
    before = basis.operator(X, 2).dense()
    nn.init.zeros_(module[0].weight)
    assert_close(basis.operator(X, 2).dense(), before, rtol=0, atol=0)


def test_compiled_modules_are_opened_as_what_they_were_made_of():
    plain = TAKEN["prelu"]()
    compiled = torch.compile(plain, backend="eager")
    inner = nn.Sequential(torch.compile(plain, backend="eager"), nn.Identity())
    rows = torch.tensor(X)
    expected = ModuleNetwork(plain)
    for module in (compiled, inner):
        network = ModuleNetwork(module)
        assert_close(network.theta, expected.theta)
        assert_close(oracles.jacobian(network, rows), oracles.jacobian(expected, rows))
