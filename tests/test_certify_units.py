"""Verdicts do not depend on the units of targets, outputs and parameters."""

import numpy as np
import pytest
import torch
from certificate_cases import chain_module
from sklearn.linear_model import Ridge
from sklearn.neural_network import MLPClassifier, MLPRegressor
from torch import nn

from sklearn_pgb import certify
from sklearn_pgb._geometry._displacements import displacements
from sklearn_pgb._losses._regression import SquaredLoss
from sklearn_pgb._models._module import ModuleNetwork
from sklearn_pgb._models._open import open_network

SIZES = (1e-25, 1e-10, 1.0, 1e10, 1e25)

ONE_STEP = {"hidden_layer_sizes": 2, "alpha": 0, "max_iter": 1, "random_state": 0}


def parabola():
    x = np.random.default_rng(0).normal(size=(40, 1))
    y = x[:, 0] ** 2
    return x, y - y.mean()


def network_of_zeros(activation, x, y, size):
    """All parameters are zero but the output's bias, which is the mean target."""
    mlp = MLPRegressor(**ONE_STEP, activation=activation)
    mlp.partial_fit(x, y)
    for array in (*mlp.coefs_, *mlp.intercepts_):
        array[...] = 0
    mlp.intercepts_[1][:] = (size * y).mean()
    return mlp


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("activation", ["tanh", "logistic"])
def test_saddle_is_left_in_any_units(activation, size, seed):
    """Networks with units of their own fit the targets better than a constant."""
    x, y = parabola()
    mlp = network_of_zeros(activation, x, y, size)
    certificate = certify(mlp, x, size * y, random_state=seed)
    assert certificate.verdict == "not_local_min"
    assert certificate.objective == pytest.approx(size**2 * np.var(y), rel=1e-9, abs=0)
    assert certificate.escape.objective < 0.999 * certificate.objective
    # The end of the descent is a network with the claimed objective.
    weights = certificate.escape.theta
    z = np.outer(x[:, 0], weights[:2]) + weights[2:4]
    hidden = np.tanh(z) if activation == "tanh" else 1 / (1 + np.exp(-z))
    errors = hidden @ weights[4:6] + weights[6] - size * y
    assert certificate.escape.objective == pytest.approx(
        np.mean(errors**2), rel=1e-5, abs=0
    )


def test_saddle_of_a_classifier_is_left(seed):
    x, y = parabola()
    mlp = MLPClassifier(**ONE_STEP, activation="tanh")
    mlp.partial_fit(x, y > 0, classes=[False, True])
    for array in (*mlp.coefs_, *mlp.intercepts_):
        array[...] = 0
    mean = np.mean(y > 0)
    mlp.intercepts_[1][:] = np.log(mean / (1 - mean))
    certificate = certify(mlp, x, y > 0, random_state=seed)
    assert certificate.verdict == "not_local_min"


class SmallTerm(nn.Module):
    """Outputs `size` (w factor x + u^2 sin(3 x)), where u is zero."""

    def __init__(self, size, factor):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([[1 / factor]], dtype=torch.float64))
        self.u = nn.Parameter(torch.zeros(1, dtype=torch.float64))
        self.size, self.factor = torch.as_tensor(size).double(), factor

    def forward(self, X):
        line = self.factor * X @ self.w
        return self.size * (line + self.u**2 * torch.sin(3 * X))


@pytest.mark.parametrize("size", [[1.0], [1e-12], [1e-18], [1e18, 1.0]])
@pytest.mark.parametrize("factor", [1.0, 1e6, 1e10])
def test_displacements_change_no_output_in_any_units(size, factor, generator):
    """The derivatives by u are zero, but each change of u changes all outputs."""
    module = SmallTerm(size, factor)
    X = torch.linspace(-1, 1, 9, dtype=torch.float64)[:, None]
    assert displacements(ModuleNetwork(module), X, generator=generator) == []
    y = module(X).detach() + 0.1 * module.size * torch.cos(3 * X)
    certificate = certify(module, X.numpy(), y.numpy(), loss="squared_error")
    assert "perturbed gradient" not in {row.basis for row in certificate.table}


@pytest.mark.parametrize("size", [1e-18, 1.0, 1e18])
def test_displacements_of_idle_units_in_any_units(size, generator):
    """Units that cancel, in outputs of any size: the second and third are equal."""
    weights = [[[0.5], [0.3], [0.3]], [[size, size, -size]]]
    module = chain_module(weights, biases=[[0.1, 0.2, 0.2], [size]])
    network = open_network(module, loss=SquaredLoss()).network
    X = torch.linspace(-1, 1, 9, dtype=torch.float64)[:, None]
    found = displacements(network, X, generator=generator)
    assert "null space of inputs" in {each.kind for each in found}
    raw = network(network.theta, X)
    for each in found:
        moved = network(network.theta + each.shift, X)
        torch.testing.assert_close(moved, raw, rtol=1e-12, atol=0)


@pytest.mark.parametrize("power", [-300, -80, 0, 80])
def test_penalties_and_weights_of_any_size(power):
    """The same ridge has the same certificate if both are multiplied by a number."""
    rng = np.random.default_rng(0)
    X, size = rng.normal(size=(30, 3)), 2.0**power
    y, weight = X[:, 0] + rng.normal(size=30), np.full(30, size)
    ridge = Ridge(alpha=size).fit(X, y, sample_weight=weight)
    found = certify(ridge, X, y, sample_weight=weight)
    plain = Ridge(alpha=1.0).fit(X, y)
    expected = certify(plain, X, y)
    assert found.verdict == expected.verdict == "certified_global"
    assert found.objective == pytest.approx(expected.objective, rel=1e-9)
