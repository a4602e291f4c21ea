"""Verdicts that need derivatives are only given where these are known to exist."""

import math

import numpy as np
import pytest
import torch
from certificate_cases import saddle, smooth_data
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.nn import functional as F

from sklearn_pgb import certify
from sklearn_pgb._certificate._curvature import Curvature, loss_jumps
from sklearn_pgb._certificate._escape import by_curvature
from sklearn_pgb._certificate._subject import open_subject
from sklearn_pgb._geometry._kinks import kink_margin
from sklearn_pgb._losses._classification import SmoothedHingeLoss
from sklearn_pgb._losses._named import LOSSES
from sklearn_pgb._losses._regression import HuberLoss
from sklearn_pgb._models._module import ModuleNetwork


class Function(nn.Module):
    """A function of the inputs and a square matrix of parameters."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        generator = torch.Generator().manual_seed(0)
        weight = torch.randn(4, 4, generator=generator, dtype=torch.float64)
        self.weight = nn.Parameter(weight)

    def forward(self, X):
        return self.function(X, self.weight)


class Whole(nn.Module):
    """A layer of whole numbers."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, X):
        return self.layer(X.long()).flatten(1)


class Attention(nn.Module):
    """Attention with a causal mask."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(2, 1, batch_first=True)

    def forward(self, X):
        X, mask = X.reshape(-1, 2, 2), torch.ones(2, 2, dtype=torch.bool).triu(1)
        return self.attention(X, X, X, attn_mask=mask, need_weights=False)[0].flatten(1)


class Recurrent(nn.Module):
    """The last output of a recurrent layer."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, X):
        return self.layer(X.reshape(-1, 2, 2))[0][:, -1]


def into_zeros(X, W):
    outputs = torch.zeros_like(X)
    outputs[:, 0] = X @ W[0]
    return outputs.tanh()


def into_zeros_relu(X, W):
    outputs = torch.zeros_like(X)
    outputs[:, 0] = X @ W[0]
    return outputs.relu()


def in_2d(*layers):
    return nn.Sequential(nn.Unflatten(1, (1, 2, 2)), *layers, nn.Flatten())


SMOOTH = {
    "GELU": nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Softplus(), nn.Mish()),
    "CELU": nn.Sequential(nn.Linear(4, 4), nn.CELU(0.5), nn.Linear(4, 1)),
    "norms": nn.Sequential(
        nn.Linear(4, 4), nn.LayerNorm(4), nn.BatchNorm1d(4), nn.RMSNorm(4)
    ),
    "images": in_2d(
        nn.Conv2d(1, 2, 2, padding=1),
        nn.GroupNorm(1, 2),
        nn.SiLU(),
        nn.AvgPool2d(2),
        nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.AdaptiveAvgPool2d(1),
    ),
    "transposed": in_2d(nn.ConvTranspose2d(1, 2, 2)),
    "LSTM": Recurrent(nn.LSTM(2, 3, batch_first=True)),
    "GRU": Recurrent(nn.GRU(2, 3, batch_first=True)),
    "attention": Attention(),
    "embedding": Whole(nn.Embedding(3, 2)),
    "mean of a bag": Whole(nn.EmbeddingBag(3, 2, mode="mean")),
    "mask": Function(lambda X, W: (X @ W).masked_fill(X == 0, 0.0)),
    "selection": Function(lambda X, W: torch.where(X > 0, X @ W, 0.0)),
    "piecewise inputs": Function(lambda X, W: X.relu() @ W),
    "power": Function(lambda X, W: (1 + (X @ W) ** 2).sqrt()),
    "into zeros": Function(into_zeros),
}

NOT_KNOWN = {
    "largest of a bag": Whole(nn.EmbeddingBag(3, 2, mode="max")),
    "gate": Function(lambda X, W: (X @ W) * (X @ W > 0)),
    "masked": Function(lambda X, W: (X @ W).masked_fill(X @ W < 0, 0.0)),
    "fmax": Function(lambda X, W: torch.fmax(X @ W, X)),
    "norm": Function(lambda X, W: torch.linalg.vector_norm(X @ W, dim=1)[:, None]),
    "distance": Function(torch.cdist),
    "order": Function(lambda X, W: (X @ W).kthvalue(2, 1)[0][:, None]),
    "running maximum": Function(lambda X, W: (X @ W).cummax(1)[0]),
    "deviation": Function(lambda X, W: (X @ W).std(1, keepdim=True)),
    "floor": Function(lambda X, W: torch.div(X @ W, 1.0, rounding_mode="floor")),
    "integers": Function(lambda X, W: (X @ W) * (X @ W).long()),
    "number": Function(lambda X, W: (X @ W) * float(W[0, 0])),
    "limits": Function(lambda X, W: torch.logit(X @ W, eps=0.1)),
    "pool": Function(lambda X, W: F.max_pool1d(X @ W, 2)),
    "normalized": Function(lambda X, W: F.normalize(X @ W)),
}


def margin_of(module):
    X = torch.tensor(np.random.default_rng(0).integers(0, 3, (5, 4))).double()
    return kink_margin(ModuleNetwork(module.double().eval()), X).value


@pytest.mark.parametrize("name", SMOOTH)
def test_smooth_functions_have_no_kinks(name):
    """Neither have functions of the inputs alone, such as masks."""
    assert margin_of(SMOOTH[name]) == math.inf


@pytest.mark.parametrize("name", NOT_KNOWN)
def test_margin_of_other_functions_is_unknown(name):
    assert math.isnan(margin_of(NOT_KNOWN[name]))


def test_kinks_of_zeros_that_outputs_are_written_into_are_found():
    assert margin_of(Function(into_zeros_relu)) == 0.0


# --- minima at kinks -----------------------------------------------------------------


class Largest(nn.Module):
    """The maximum of two linear functions, with their weights in one row."""

    def __init__(self, weights, largest):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([weights], dtype=torch.float64))
        self.largest = largest

    def forward(self, X):
        parts = X * self.weight
        return self.largest(parts[:, :1], parts[:, 1:])


def gated(a, b):
    return b + (a - b) * (a > b)


@pytest.mark.parametrize("level", [0.5, 1.0])
@pytest.mark.parametrize("largest", [torch.fmax, torch.maximum, gated])
def test_minimum_at_a_tie_is_not_called_critical(largest, level):
    """At equal weights no direction decreases the loss, as a grid around them shows."""
    X, y = np.array([[1.0, 1], [1, 0], [0, 1]]), np.array([-2.0, 1, 1]) + level

    def loss(w):
        return np.mean((np.maximum(X[:, 0] * w[0], X[:, 1] * w[1]) - y) ** 2)

    nearby = level + 0.1 * np.stack(np.meshgrid(*[np.linspace(-1, 1, 41)] * 2), -1)
    assert min(map(loss, nearby.reshape(-1, 2))) >= loss([level, level]) - 1e-15
    certificate = certify(Largest([level] * 2, largest), X, y, loss="squared_error")
    assert certificate.verdict == "consistent_with_local_min"
    assert math.isnan(certificate.kink_margin)
    assert "not known to be smooth" in " ".join(certificate.assumptions)


def test_minimum_of_a_bag_is_not_called_critical():
    module = nn.Sequential(nn.EmbeddingBag(3, 1, mode="max"))
    nn.init.zeros_(module[0].weight)
    tokens, y = np.array([[0, 1], [0, 0], [1, 1]]), np.array([-2.0, 1.0, 1.0])
    certificate = certify(module, tokens, y, loss="squared_error")
    assert certificate.verdict == "consistent_with_local_min"


def test_last_layer_with_a_kink_is_not_used():
    """The outputs of a leaky ReLU are not linear in its layer at a kink."""
    module = nn.Sequential(nn.Linear(2, 1, bias=False), nn.LeakyReLU(0.5)).double()
    module[0].weight.data = torch.tensor([[1.0, 1.0]]).double()
    X = np.array([[1.0, -1.0], [1.0, 0.0], [0.0, 1.0]])
    # The first sample is at the kink. Automatic differentiation takes the slope 0.5.
    y = np.array([-1.0, 1.75, 0.25])

    def loss(w):
        z = X @ w
        return np.mean((np.where(z > 0, z, 0.5 * z) - y) ** 2)

    nearby = 1 + 0.1 * np.stack(np.meshgrid(*[np.linspace(-1, 1, 41)] * 2), -1)
    assert min(map(loss, nearby.reshape(-1, 2))) >= loss(np.ones(2)) - 1e-15
    certificate = certify(module, X, y, loss="squared_error")
    assert certificate.kink_margin == 0
    assert certificate.verdict == "consistent_with_local_min"


def test_linear_head_after_unknown_functions_is_used(seed):
    """Derivatives of the last layer exist, whatever comes before it."""
    X, y = smooth_data(seed)
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Linear(2, 4), nn.Hardtanh(), nn.Linear(4, 1)).double()
    certificate = certify(module, X, y, loss="squared_error")
    assert math.isnan(certificate.kink_margin)
    assert certificate.verdict == "not_critical"


# --- functions that are smooth for some arguments only --------------------------------


class OfOneWeight(nn.Module):
    """A function of one parameter, which is zero, and of X."""

    def __init__(self, function):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(1, dtype=torch.float64))
        self.function = function

    def forward(self, X):
        return self.function(X, self.w)


PARTLY_SMOOTH = {
    "softplus": lambda X, w: F.softplus(X * w, threshold=0),
    "complex root": lambda X, w: (
        X * torch.sqrt(torch.complex(-torch.ones(1).double(), w)).real
    ),
    "power of zero": lambda X, w: torch.pow(torch.zeros(1).double(), w) + X * w,
    "tolist": lambda X, w: X * w if w.detach().tolist()[0] > 0 else -X * w,
    "numpy": lambda X, w: X * w if w.detach().numpy()[0] > 0 else -X * w,
}


@pytest.mark.parametrize("name", PARTLY_SMOOTH)
def test_functions_that_jump_for_some_arguments(name):
    X = np.ones((1, 1))
    certificate = certify(
        OfOneWeight(PARTLY_SMOOTH[name]), X, -np.ones(1), loss="squared_error"
    )
    assert np.isnan(certificate.kink_margin)
    assert certificate.verdict != "not_critical"
    assert not any("no kinks" in text for text in certificate.assumptions)


def test_layers_of_softplus_that_jump():
    """Read as an activation, it would count as smooth."""
    module = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Softplus(threshold=0))
    module = nn.Sequential(*module, nn.Linear(1, 1)).double()
    with torch.no_grad():
        for parameter, value in zip(module.parameters(), (0.0, 1.0, 0.0), strict=True):
            parameter.fill_(value)
    X = np.ones((1, 1))
    certificate = certify(module, X, np.ones(1), loss="squared_error")
    assert np.isnan(certificate.kink_margin)
    assert not any("no kinks" in text for text in certificate.assumptions)


def test_forward_of_an_instance_is_refused():
    """It uses the parameters of the module, which certify does not change."""
    module = nn.Sequential(nn.Linear(2, 1).double())
    forward = module[0].forward
    module[0].forward = lambda X: forward(X).abs()
    X = np.random.default_rng(0).normal(size=(20, 2))
    with pytest.raises(ValueError, match="Linear whose forward was set"):
        certify(module, X, X[:, 0], loss="squared_error")


def test_global_hooks_are_used():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(20, 2))
    module = nn.Linear(2, 1).double()
    handle = nn.modules.module.register_module_forward_hook(lambda m, x, y: y + 1)
    try:
        certificate = certify(module, X, X[:, 0], loss="squared_error")
    finally:
        handle.remove()
    with torch.no_grad():
        found = module(torch.tensor(X))[:, 0].numpy() + 1
    assert certificate.objective == pytest.approx(np.mean((X[:, 0] - found) ** 2))


def test_tiny_classes_of_a_penalized_model():
    """The exact gain of a convex objective counts, not that of the tilted problem."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(28, 2)), np.arange(28) % 3
    weight = np.where(y == 0, 1e-12, 1.0)
    model = LogisticRegression(C=1, tol=1e-12, max_iter=10_000)
    certificate = certify(model.fit(X, y, weight), X, y, sample_weight=weight)
    assert certificate.verdict != "not_critical"


# --- second derivatives that jump -----------------------------------------------------

# Inputs and targets of the network below.
SEAM_X = np.array([-5.4264, 0.0725, 4.5093, -0.1557, -0.2344, 0.0931, 0.7683, 0.1665])
SEAM_Y = np.array([-2.2898, 8.1368, -3.4867, -1.7606, -4.6041, 3.6291, 0.8174, 1.9578])
# At a critical point, errors are orthogonal to the inputs and to a constant.
SEAM_Y -= np.polyval(np.polyfit(SEAM_X, SEAM_Y - 0.3, 1), SEAM_X)


def elu_minimum(activation):
    """All inputs of the activation are zero; the output is the mean target, 0.3."""
    module = nn.Sequential(
        *(nn.Linear(1, 1, bias=False), activation, nn.Linear(1, 1), nn.Tanh()),
        nn.Linear(1, 1),
    ).double()
    values = 0.0, 1.0, np.arctanh(0.3), 1.0, 0.0
    with torch.no_grad():
        for parameter, value in zip(module.parameters(), values, strict=True):
            parameter.fill_(value)
    return module


def elu_loss(w):
    """The objective of `elu_minimum`, whose first weight is w."""
    z = w * SEAM_X
    h = np.where(z > 0, z, np.expm1(np.minimum(z, 0)))
    return np.mean((np.tanh(h + np.arctanh(0.3)) - SEAM_Y) ** 2)


def one_sided_curvatures(loss, h=1e-3):
    """Second derivatives at zero above and below, if the first one is zero."""
    return np.array([2 * (loss(s * h) - loss(0.0)) / h**2 for s in (1, -1)])


@pytest.mark.parametrize("activation", [nn.ELU(), nn.CELU()], ids=["ELU", "CELU"])
def test_minimum_on_a_seam_is_not_left(activation):
    """The second derivative of torch is that of one side, for samples on both sides."""
    assert (one_sided_curvatures(elu_loss) > 1).all()
    module = elu_minimum(activation)
    X = SEAM_X[:, None]
    certificate = certify(module, X, SEAM_Y, loss="squared_error")
    assert certificate.objective == pytest.approx(elu_loss(0.0))
    assert certificate.gradient_norm < 1e-12
    assert certificate.verdict == "consistent_with_local_min"
    assert certificate.min_curvature is None
    assert certificate.max_curvature is None
    assert any("second derivative" in note for note in certificate.notes)


def test_curvature_of_no_direction_is_not_confirmed():
    """A smaller objective far away does not confirm it."""
    args = {"sample_weight": None, "loss": "squared_error", "penalty": None}
    subject = open_subject(elu_minimum(nn.ELU()), SEAM_X[:, None], SEAM_Y, **args)
    objective, size = subject.objective, elu_loss(0.0)
    direction = torch.eye(5).double()[0]
    theta = objective.network.theta
    assert min(elu_loss(w) for w in np.linspace(-3, 3, 61)) < size - 1
    for least in (-10.0, -1.0, -1e-3):
        claim = Curvature(least, 10.0, direction)
        assert by_curvature(objective, theta, claim, size) is None


@pytest.mark.parametrize("factor", [0.2, 1.0, 5.0])
def test_curvature_is_confirmed_by_its_size(factor):
    """The objective of the saddle along a direction is known: its curvature is c."""
    module, X, y = saddle()
    subject = open_subject(
        module, X, y, sample_weight=None, loss="squared_error", penalty=None
    )
    objective, c = subject.objective, 1 - np.sqrt(5)
    H = np.array([[0.0, -2.0], [-2.0, 2.0]])
    theta = objective.network.theta
    values, vectors = np.linalg.eigh(H)
    assert values[0] == pytest.approx(c)
    direction = torch.tensor(vectors[:, 0])
    claim = Curvature(factor * c, 10.0, direction)
    escape = by_curvature(objective, theta, claim, 1.0)
    assert (escape is not None) == (factor == 1.0)
    assert escape is None or escape.objective < 0.1


def test_curvature_at_errors_of_delta_is_unknown():
    """Each step takes one error beyond delta: torch takes both for smaller ones."""
    X, y = np.ones((6, 1)), np.array([0.0, 0.0, 0.0, 0.0, 1.35, -1.35])

    def loss(w):
        error = np.abs(w + w**2 - y)
        terms = np.where(error <= 1.35, error**2, 1.35 * (2 * error - 1.35))
        return np.mean(terms)

    np.testing.assert_allclose(one_sided_curvatures(loss, 1e-5), 10 / 6, rtol=1e-3)
    module = OfOneWeight(lambda X, w: X * w + X * w**2)
    certificate = certify(module, X, y, loss="huber")
    assert certificate.min_curvature is None
    certificate = certify(module, X, 0.9 * y, loss="huber")
    assert certificate.min_curvature == pytest.approx(2.0)


@pytest.mark.parametrize("name", LOSSES)
def test_other_losses_do_not_jump(name):
    loss = LOSSES[name]
    raw = torch.tensor([[0.3, -40.0, 600.0, 1e-9]] * 2).double().T
    y = loss.encode(torch.tensor([[1.0, 0.0, 0.0, 1.0], [0.0, 1.0, 1.0, 0.0]]).T)
    assert not loss_jumps(loss, y.double(), raw)


def test_losses_that_jump():
    y, raw = (
        torch.tensor([[3e8], [1.0]]).double(),
        torch.tensor([[3e8], [3.0]]).double(),
    )
    assert loss_jumps(HuberLoss(2.0), y, raw)
    assert not loss_jumps(HuberLoss(2.1), y, raw)
    labels, margins = (
        torch.tensor([[-1.0], [1.0]]).double(),
        torch.tensor([[-0.5], [1]]),
    )
    for power in (1.5, 2.0):
        assert loss_jumps(SmoothedHingeLoss(power), labels, margins.double())
        assert not loss_jumps(SmoothedHingeLoss(power), labels, 0.9 * margins.double())
    assert not loss_jumps(SmoothedHingeLoss(3.0), labels, margins.double())


def test_infinite_second_derivative():
    """The power 3/2 has none at zero, the edge of its domain."""
    module = OfOneWeight(lambda X, w: (X * w + 1 - X) ** 1.5)
    X, y = np.array([[0.5]] * 4 + [[1.0]] * 2), np.zeros(6)
    certificate = certify(module, X, y, loss="squared_error")
    assert certificate.min_curvature is None
    assert certificate.verdict == "not_critical"
