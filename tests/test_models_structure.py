"""Jacobians of modules by their layers, against automatic differentiation."""

import pytest
import torch
from operator_cases import check_products
from oracles import randn
from torch import nn
from torch.testing import assert_close

from sklearn_pgb._models import _module
from sklearn_pgb._models._module import ModuleNetwork, open_module
from sklearn_pgb._models._structure import structured_jacobian
from sklearn_pgb._models._tangent_layers import tangent_module
from sklearn_pgb._operators import _blocks
from sklearn_pgb._operators._chain import ChainOperator

# A module and the shape of a sample; None for ten tokens.
CASES = {
    "convolution": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 3),
            nn.Tanh(),
            nn.Conv2d(4, 6, (3, 2), stride=(1, 2), padding=1, dilation=(1, 2)),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(48, 3),
        ),
        (2, 6, 5),
    ),
    "groups": (
        lambda: nn.Sequential(
            nn.Conv2d(4, 6, 3, groups=2, padding="same", bias=False),
            nn.GELU(),
            nn.Conv2d(6, 6, 1, groups=6, padding="valid"),
            nn.Flatten(),
            nn.Linear(96, 2, bias=False),
        ),
        (4, 4, 4),
    ),
    "pooling": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 3, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, padding=1),
            nn.Conv2d(3, 4, 2),
            nn.AvgPool2d(2, 1),
            nn.Dropout2d(),
            nn.AdaptiveMaxPool2d((2, 1)),
            nn.Flatten(),
            nn.Linear(8, 2),
        ),
        (1, 8, 8),
    ),
    "batch norm": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 3, 3, bias=False),
            nn.BatchNorm2d(3),
            nn.ELU(),
            nn.BatchNorm2d(3, affine=False),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.BatchNorm1d(12),
            nn.Linear(12, 2),
        ),
        (2, 5, 5),
    ),
    "signals": (
        lambda: nn.Sequential(
            nn.Unflatten(1, (2, 8)),
            nn.Conv1d(2, 4, 3, stride=2, padding=2, dilation=2, groups=2),
            nn.BatchNorm1d(4),
            nn.Softplus(),
            nn.MaxPool1d(2),
            nn.AvgPool1d(2, padding=1),
            nn.AdaptiveMaxPool1d(2),
            nn.AdaptiveAvgPool1d(1),
            nn.Flatten(),
            nn.LayerNorm(4),
            nn.Linear(4, 3),
        ),
        (16,),
    ),
    "head": (
        lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten()),
        (1, 3, 3),
    ),
    "embedding": (
        lambda: nn.Sequential(
            nn.Embedding(7, 3, padding_idx=2), nn.Flatten(), nn.Linear(30, 2)
        ),
        None,
    ),
    "text convolution": (
        lambda: nn.Sequential(
            nn.Embedding(7, 10), nn.Conv1d(10, 3, 2), nn.ReLU(), nn.Flatten()
        ),
        None,
    ),
    "bag": (
        lambda: nn.Sequential(
            nn.EmbeddingBag(7, 3, mode="mean"), nn.Tanh(), nn.Linear(3, 2)
        ),
        None,
    ),
    "sum": (
        lambda: nn.Sequential(nn.EmbeddingBag(7, 4, mode="sum"), nn.Linear(4, 2)),
        None,
    ),
    "inner activation": (
        lambda: nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2), nn.Tanh()),
        (3,),
    ),
}
every_case = pytest.mark.parametrize("name", CASES)


def drawn(name, generator, n=6):
    """A module with random parameters and statistics, and samples."""
    create, shape = CASES[name]
    module = create().double().eval()
    for parameter in module.parameters():
        parameter.data = randn(generator, *parameter.shape)
    for buffer_name, buffer in module.named_buffers():
        if buffer_name.endswith("var"):
            buffer.copy_(randn(generator, *buffer.shape).square() + 0.5)
        elif buffer_name.endswith("mean"):
            buffer.copy_(randn(generator, *buffer.shape))
    if shape is None:
        X = torch.randint(0, 7, (n, 10), generator=generator).double()
    else:
        X = randn(generator, n, *shape)
    return module, X


def by_autograd(module, X):
    """The Jacobian of the module itself, (n_samples, n_outputs, n_params)."""
    parameters = list(module.parameters())
    tokens = isinstance(module[0], nn.Embedding | nn.EmbeddingBag)
    raw = module(X.long() if tokens else X)
    rows = []
    for value in raw.reshape(-1):
        # Training leaves the row of the padding as it is, and so does autograd.
        parts = torch.autograd.grad(value, parameters, retain_graph=True)
        rows.append(torch.cat([part.reshape(-1) for part in parts]))
    return torch.stack(rows).view(*raw.shape, -1)


@pytest.mark.parametrize("block_bytes", [None, 1, 2000])
@every_case
def test_operator(name, block_bytes, generator, monkeypatch):
    """Every product is that of autograd's Jacobian, in blocks of any size."""
    if block_bytes is not None:
        monkeypatch.setattr(_blocks, "BLOCK_BYTES", block_bytes)
    module, X = drawn(name, generator)
    network = open_module(module)
    operator = network.jacobian(X)
    assert isinstance(operator, ChainOperator)
    J, index = by_autograd(module, X), torch.tensor([5, 0, 3, 3])
    assert operator.n_coef == network.n_params == J.shape[2]
    check_products(operator, J, index, generator)


def check_plain_operations(module, X, generator, frozen=()):
    """Modules without derivatives are ``w f(x) + J(x) c`` of autograd's Jacobian."""
    J, parameters = by_autograd(module, X), dict(module.named_parameters())
    varies = torch.cat(
        [torch.full((p.numel(),), key not in frozen) for key, p in parameters.items()]
    )
    coef = randn(generator, len(varies)) * varies
    for name in frozen:
        parameters[name].requires_grad_(False)
    network = open_module(module)
    raw, direction = network(network.theta, X).detach(), coef[varies]
    for weight in (0.0, 0.75):
        converted = tangent_module(network, weight, direction)
        expected = J @ coef + weight * raw
        atol = 1e-12 * float(expected.abs().max())
        assert_close(converted(X), expected, rtol=1e-12, atol=atol)
    assert_close(tangent_module(network, 0.5, 0 * direction)(X), raw / 2)
    assert not tangent_module(network, 0.0, 0 * direction)(X).any()


@every_case
def test_plain_operations(name, generator):
    check_plain_operations(*drawn(name, generator), generator)


@every_case
def test_plain_operations_of_some_parameters(name, generator):
    module, X = drawn(name, generator)
    names = [key for key, _ in module.named_parameters()]
    check_plain_operations(module, X, generator, names[1::2])


def test_plain_operations_of_layers_without_an_operator(generator):
    """A layer that occurs twice, and layers of samples with several axes."""
    layer = nn.Linear(4, 4)
    several = nn.LayerNorm((2, 4)), layer, nn.Tanh(), nn.LayerNorm(4), layer
    module = nn.Sequential(*several, nn.Flatten(), nn.Linear(8, 2)).double()
    X = randn(generator, 5, 2, 4)
    assert structured_jacobian(module, X) is None
    check_plain_operations(module, X, generator)


@every_case
def test_blocks_of_samples(name, generator, monkeypatch):
    """Outputs of layers that would take too much memory are computed in blocks."""
    module, X = drawn(name, generator)
    network = open_module(module)
    whole = network.jacobian(X)
    monkeypatch.setattr(_module, "LAYER_BYTES", 2 * whole.bytes_per_sample)
    blocked = network.jacobian(X, without=slice(0, 2))
    assert blocked.block == 2
    expected = whole.select(torch.arange(2, whole.n_coef))
    coef = randn(generator, blocked.n_coef)
    residual = randn(generator, blocked.n_samples, blocked.n_outputs)
    assert_close(blocked.matvec(coef), expected.matvec(coef))
    assert_close(blocked.rmatvec(residual), expected.rmatvec(residual))
    assert_close(blocked.gram(), expected.gram())


@every_case
def test_single_precision(name, generator):
    module, X = drawn(name, generator)
    operator = open_module(module).jacobian(X)
    coef = randn(generator, operator.n_coef)
    single = operator.single()
    assert single.dtype == torch.float32
    product = single.matvec(coef.float()).double()
    expected = operator.matvec(coef)
    assert_close(product, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))
    dense = single.dense().double()
    atol = 1e-4 * float(operator.dense().abs().max())
    assert_close(dense, operator.dense(), rtol=0, atol=atol)


@every_case
def test_frozen_parameters(name, generator):
    """Columns of parameters that need no gradient are left out."""
    module, X = drawn(name, generator)
    names, every = [key for key, _ in module.named_parameters()], by_autograd(module, X)
    for kept in (names[-2:], names[::2], names[1:2], names[:1]):
        for key, parameter in module.named_parameters():
            parameter.requires_grad_(key in kept)
        network = ModuleNetwork(module)
        operator = network.jacobian(X)
        sizes = [parameter.numel() for parameter in module.parameters()]
        parts = zip(names, every.split(sizes, -1), strict=True)
        J = torch.cat([part for key, part in parts if key in kept], -1)
        matrix = J.flatten(0, 1)
        assert isinstance(operator, ChainOperator)
        coef = randn(generator, operator.n_coef)
        residual = randn(generator, *J.shape[:2])
        for actual, expected in [
            (operator.dense(), J),
            (operator.matvec(coef), J @ coef),
            (operator.rmatvec(residual), matrix.T @ residual.reshape(-1)),
            (operator.gram(), matrix @ matrix.T),
            (operator.squared_row_norms(), J.square().sum(-1)),
        ]:
            assert_close(
                actual, expected, rtol=1e-12, atol=1e-12 * float(matrix.norm())
            )


@every_case
def test_selected_columns(name, generator):
    """Any columns may be selected, and selected from again."""
    module, X = drawn(name, generator)
    operator, J = open_module(module).jacobian(X), by_autograd(module, X)
    columns = torch.nonzero(torch.rand(J.shape[2], generator=generator) < 0.4)[:, 0]
    part = operator.select(columns)
    assert_close(part.dense(), J[..., columns], rtol=1e-12, atol=1e-12)
    coef = randn(generator, len(columns))
    assert_close(part.matvec(coef), J[..., columns] @ coef, rtol=1e-12, atol=1e-11)
    few = torch.tensor([0, len(columns) - 1])
    again = part.select(few)
    assert_close(again.dense(), J[..., columns[few]], rtol=1e-12, atol=1e-12)
    assert part.select(few[:0]).dense().shape == (*J.shape[:2], 0)


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.Sequential(nn.Conv2d(1, 2, 2, padding_mode="circular")), (1, 1, 1)),
        (nn.Sequential(nn.Conv2d(1, 2, 2, padding="same"), nn.Flatten()), (1, 1, 1)),
        (nn.Sequential(nn.BatchNorm1d(2, track_running_stats=False)), (2,)),
        (nn.Sequential(nn.Linear(2, 2), nn.Softmax(1)), (2,)),
        (nn.Sequential(nn.Conv2d(1, 2, 1)), (1, 1, 1)),
        (
            nn.Sequential(nn.Linear(2, 2), nn.Unflatten(1, (1, 2)), nn.Linear(2, 2)),
            (2,),
        ),
    ],
)
def test_other_modules_have_no_structure(module, shape):
    assert (
        structured_jacobian(module.double().eval(), torch.ones(3, *shape).double())
        is None
    )


def test_shared_and_hooked_layers_have_no_structure():
    layer, X = nn.Linear(2, 2).double(), torch.ones(3, 2).double()
    assert structured_jacobian(nn.Sequential(layer, nn.Tanh(), layer), X) is None
    module = nn.Sequential(nn.Linear(2, 2), nn.Tanh()).double()
    assert structured_jacobian(module, X) is not None
    module[0].register_forward_hook(lambda part, args, out: 2 * out)
    assert structured_jacobian(module, X) is None


@pytest.mark.parametrize("block_bytes", [None, 1])
@every_case
def test_squared_columns(name, block_bytes, generator, monkeypatch):
    """Diagonals of the normal matrix of one output."""
    if block_bytes is not None:
        monkeypatch.setattr(_blocks, "BLOCK_BYTES", block_bytes)
    module, X = drawn(name, generator)
    operator = open_module(module).jacobian(X)
    squares = [
        layer.squared_columns(D[:, 1])
        for layer, D in zip(operator.columns, operator.derivatives(), strict=True)
    ]
    expected = by_autograd(module, X)[:, 1].square().sum(0)
    assert_close(torch.cat(squares), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("bias", [True, False])
def test_kronecker_factors_of_a_convolution(bias, generator):
    """They are exact for one sample and one position, and sum over samples."""
    module = nn.Sequential(nn.Conv2d(2, 3, 2, bias=bias), nn.Flatten()).double()
    X = randn(generator, 1, 2, 2, 2)
    (layer,) = open_module(module).jacobian(X).columns
    delta, weight = randn(generator, 1, 3), torch.tensor([[0.7]], dtype=torch.float64)
    inner, outer = layer.kronecker_factors(delta, weight)
    row = layer.dense(delta[:, None])[0, 0]
    rows = [row[:24].view(3, 8), row[24:, None]] if bias else [row.view(3, 8)]
    flat = torch.cat(rows, 1).reshape(-1)
    assert_close(0.7 * torch.outer(flat, flat), torch.kron(outer, inner))
    groups = nn.Sequential(nn.Conv2d(2, 2, 2, groups=2), nn.Flatten()).double()
    (grouped,) = open_module(groups).jacobian(X).columns
    assert grouped.kronecker_factors(delta[:, :2], weight) is None
