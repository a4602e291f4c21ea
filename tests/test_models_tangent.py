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
from sklearn_pgb._models._module import open_module
from sklearn_pgb._models._open import open_network
from sklearn_pgb._models._tangent_layers import tangent_module

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
    """One that is no chain."""
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
