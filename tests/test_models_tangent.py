"""Tangent models ``w f(x) + J(x) c`` against Jacobians by automatic differentiation."""

import numpy as np
import oracles
import pytest
import torch
from oracles import random_chain
from sklearn.base import clone
from sklearn.ensemble import HistGradientBoostingRegressor
from torch import nn
from torch.testing import assert_close
from tree_cases import BOOSTERS, COMBINATIONS, LINEAR, SURROGATES, TREES, X, Y, booster

from sklearn_pgb._models._activations import ACTIVATIONS
from sklearn_pgb._models._chain import ChainNetwork
from sklearn_pgb._models._module import open_module
from sklearn_pgb._models._open import open_network
from sklearn_pgb._models._stacked import stack_kind, stacked_tangent_model
from sklearn_pgb._models._tangent_layers import tangent_module
from sklearn_pgb._operators import _blocks

PAIRS = TREES | LINEAR | COMBINATIONS | SURROGATES


def check_tangent_model(network, inputs, generator):
    """With one set of coefficients, one for each output, or zeros; and as a module."""
    raw = network(network.theta, inputs)
    J = oracles.jacobian(network, inputs)
    k, p = J.shape[1:]
    for coefs in (
        torch.randn(1, p, generator=generator, dtype=torch.float64),
        torch.randn(k, p, generator=generator, dtype=torch.float64),
        torch.zeros(1, p, dtype=torch.float64),
    ):
        moved = torch.einsum("icp,cp->ic", J, coefs.expand(k, -1))
        for weight in (0.0, 0.75):
            found = network.tangent_model(weight, coefs)(inputs)
            # The sums have up to a thousand terms of size one.
            assert_close(found, moved + weight * raw, rtol=1e-10, atol=1e-11)
            converted = tangent_module(network, weight, coefs[0])
            if len(coefs) == 1 and converted is not None:
                assert_close(converted(inputs), found, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("name", PAIRS)
def test_models_of_scikit_learn(name, generator):
    model, targets = PAIRS[name]
    opened = open_network(clone(model).fit(X, Y[targets]))
    check_tangent_model(opened.network, opened.inputs(X[:20]), generator)


@pytest.mark.parametrize("name", BOOSTERS)
def test_boosters(name, generator):
    model, y = booster(name, pytest.importorskip)
    opened = open_network(model.fit(X, y))
    check_tangent_model(opened.network, opened.inputs(X[:20]), generator)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", ["silu", "relu"])
def test_chains(activation, bias, generator):
    network = random_chain(generator, [4, 6, 5, 3], ACTIVATIONS[activation], bias)
    inputs = torch.randn(9, 4, generator=generator, dtype=torch.float64)
    check_tangent_model(network, inputs, generator)


def test_modules(generator):
    """A module that is not a chain."""
    layers = nn.Conv1d(2, 3, 2), nn.Tanh(), nn.Flatten(), nn.Linear(9, 2)
    network = open_module(nn.Sequential(*layers))
    inputs = torch.randn(9, 2, 4, generator=generator, dtype=torch.float64)
    check_tangent_model(network, inputs, generator)


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("max_leaf_nodes", [2, 8, 9])
def test_leaves_of_boosted_trees(max_leaf_nodes, missing):
    """Of small trees from tables and of others: those with the model's predictions."""
    table, new = X.copy(), np.random.default_rng(1).normal(size=(500, 4))
    for rows in (table, new) if missing else ():
        rows[::3, 0], rows[::4, 1] = np.nan, np.inf
    params = {"max_leaf_nodes": max_leaf_nodes, "min_samples_leaf": 2}
    model = HistGradientBoostingRegressor(max_iter=20, **params)
    opened = open_network(model.fit(table, Y["real"]))
    for rows in (table, new):
        raw = opened.network(opened.network.theta, opened.inputs(rows))
        assert_close(raw[:, 0].numpy(), model.predict(rows), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("widths", [[4, 3], [4, 6, 5, 3]])
@pytest.mark.parametrize("rows", [1, 9])
def test_stacks(rows, widths, shared, generator, monkeypatch):
    """Chains of the same sizes together, in parts of a few samples."""
    monkeypatch.setattr(_blocks, "BLOCK_BYTES", 1000)
    biased = len(widths) == 4
    networks = [
        random_chain(generator, widths, ACTIVATIONS["silu"], biased) for _ in range(3)
    ]
    assert len({stack_kind(network) for network in networks}) == 1
    inputs = list(torch.randn(3, rows, 4, generator=generator, dtype=torch.float64))
    inputs = [inputs[0]] * 3 if shared else inputs
    coefs = [
        torch.randn(1, n.n_params, generator=generator, dtype=torch.float64)
        for n in networks
    ]
    for weights in ([0.5, 0.0, -2.0], [0.0] * 3):
        stacked = stacked_tangent_model(networks, weights, coefs)
        total = torch.zeros(rows, 3, dtype=torch.float64)
        for parts in zip(networks, weights, coefs, inputs, strict=True):
            network, weight, coef, given = parts
            J = oracles.jacobian(network, given)
            total += J @ coef[0] + weight * network(network.theta, given)
        assert_close(stacked(*inputs), total.detach(), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("rows", [1, 9])
def test_stacks_of_inputs_far_from_zero(rows, generator):
    """Large terms cancel, but sums in extended precision keep the digits."""
    shift, networks, expected = 1e10, [], 0
    inputs = torch.randn(rows, 4, generator=generator, dtype=torch.float64) + shift
    for _ in range(2):
        weight = torch.randn(3, 4, generator=generator, dtype=torch.float64)
        bias = -shift * weight.sum(1)
        networks.append(ChainNetwork.mlp([weight], [bias], []))
        W, b, x = (p.numpy().astype(np.longdouble) for p in (weight, bias, inputs))
        expected = expected + (x @ W.T + b).astype(float)
    zeros = [torch.zeros(1, 15, dtype=torch.float64)] * 2
    stacked = stacked_tangent_model(networks, [1.0, 1.0], zeros)
    found = stacked(inputs, inputs)
    assert_close(found, torch.from_numpy(expected), rtol=0, atol=1e-8)


def test_chains_that_are_not_alike(generator):
    tanh, relu = ACTIVATIONS["tanh"], ACTIVATIONS["relu"]
    chains = [
        random_chain(generator, widths, activation)
        for widths in ([4, 6, 3], [4, 5, 3])
        for activation in (tanh, relu)
    ]
    slopes = [nn.LeakyReLU(slope) for slope in (0.1, 0.2)]
    modules = [nn.Sequential(nn.Linear(2, 3), a, nn.Linear(3, 1)) for a in slopes]
    networks = [*chains, *map(open_module, modules)]
    assert len({stack_kind(network) for network in networks}) == len(networks)
    normed = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3), nn.Linear(3, 1))
    assert stack_kind(open_module(normed)) is None
