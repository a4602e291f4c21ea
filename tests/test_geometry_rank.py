"""Ranks of Jacobians against NumPy's on dense rows, and the theory's example."""

import numpy as np
import oracles
import pytest
import torch
from certificate_cases import chain_module
from oracles import randn, random_chain

from sklearn_pgb import certify
from sklearn_pgb._geometry import _rank
from sklearn_pgb._geometry._rank import generic_rank, jacobian_rank
from sklearn_pgb._models._activations import ACTIVATIONS
from sklearn_pgb._models._chain import ChainNetwork


def product(w, v):
    """F = w v x, both trained."""
    return ChainNetwork.mlp([[[v]], [[w]]], [None, None], [ACTIVATIONS["identity"]])


@pytest.mark.parametrize(("at", "expected"), [(0.0, (0, 1)), (1.0, (1, 1))])
def test_GB_7_rank(at, expected, generator):
    """The Jacobian of w v x has rank 0 at the origin and 1 nearby, and 1 at (1, 1)."""
    X = randn(generator, 5, 1)
    network = product(at, at)
    ranks = jacobian_rank(network, X), generic_rank(network, X, generator)
    assert ranks == expected


@pytest.mark.parametrize("name", ["tanh", "relu"])
@pytest.mark.parametrize("n_samples", [3, 40])
def test_rank(name, n_samples, generator):
    """It is the rank of the dense Jacobian, with weights and without."""
    network = random_chain(generator, [3, 4, 2], name)
    X = randn(generator, n_samples, 3)
    J = oracles.jacobian(network, X).flatten(0, 1).numpy()
    expected = np.linalg.matrix_rank(J, rtol=1e-10)
    assert jacobian_rank(network, X) == expected
    assert jacobian_rank(network, X, oracles.random_weight(n_samples, generator)) == (
        expected
    )
    assert generic_rank(network, X, generator) == expected


def test_rank_is_not_decided_from_the_gram():
    """A singular value of 1e-9 counts; a Gram matrix would lose it by squaring."""
    singular = torch.diag(torch.tensor([1.0, 1e-9, 1e-12])).double()
    rotation = torch.linalg.qr(torch.arange(9.0).double().reshape(3, 3).sin()).Q
    X = singular @ rotation
    network = ChainNetwork.mlp([torch.ones(1, 3)], [None], [])
    assert jacobian_rank(network, X) == 2
    # Weights can raise the third one above the cutoff.
    assert jacobian_rank(network, X, torch.tensor([1e-8, 1.0, 1e6]).double()) == 3


def test_rank_ignores_the_scale_of_columns():
    """A column of size 1e-30 counts, a column of zeros does not."""
    X = torch.diag(torch.tensor([1.0, 1e-30, 0.0])).double()
    network = ChainNetwork.mlp([torch.ones(1, 3)], [None], [])
    assert jacobian_rank(network, X) == 2


def test_rank_of_large_jacobian(generator, monkeypatch):
    """Beyond the limits the rank is None."""
    network, X = random_chain(generator, [3, 4, 2]), randn(generator, 20, 3)
    n_rows, n_params = 40, network.n_params
    work = n_rows * n_params * n_params
    assert jacobian_rank(network, X, max_flops=work) == n_params
    assert jacobian_rank(network, X, max_flops=work - 1) is None
    assert generic_rank(network, X, generator, max_flops=work) == n_params
    assert generic_rank(network, X, generator, max_flops=work - 1) is None
    monkeypatch.setattr(_rank, "RANK_ENTRIES", n_rows * n_params - 1)
    assert jacobian_rank(network, X) is None


@pytest.mark.parametrize("size", [1e-20, 1.0, 1e20])
def test_generic_rank_does_not_depend_on_units_of_outputs(size, generator):
    """The second unit has no effect, but nearby it has three derivatives more."""
    X = randn(generator, 20, 2)
    weights = [[[0.5, -0.3], [0.2, 0.4]], [[size, 0.0]]]
    biases = [[0.1, -0.2], [3 * size]]
    network = ChainNetwork.mlp(weights, biases, [ACTIVATIONS["tanh"]])
    assert jacobian_rank(network, X) == 6
    assert generic_rank(network, X, generator) == 9


def test_generic_rank_is_not_below_the_rank(generator):
    """Changes of the size of the largest bias saturate the unit that is not."""
    X = randn(generator, 20, 1)
    weights, biases = [[[1.0], [0.5]], [[1.0, 1.0]]], [[1e7, 0.1], [0.0]]
    network = ChainNetwork.mlp(weights, biases, [ACTIVATIONS["tanh"]])
    module = chain_module(weights, biases=biases)
    rank = jacobian_rank(network, X)
    # Those of the second unit, and of the output's bias.
    assert rank == 4
    certificate = certify(module, X.numpy(), X[:, 0].numpy() ** 2, loss="squared_error")
    assert (certificate.rank, certificate.generic_rank) == (4, 4)
    assert certificate.is_singular is False
