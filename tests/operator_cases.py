"""Operators of every kind with their dense matrices."""

import numpy as np
import oracles
import torch
from oracles import randn
from torch import nn
from torch.testing import assert_close

from sklearn_pgb._models._activations import ACTIVATIONS
from sklearn_pgb._models._chain import ChainNetwork
from sklearn_pgb._models._module import ModuleNetwork, open_module
from sklearn_pgb._operators._blocked import BlockedOperator
from sklearn_pgb._operators._dense import DenseOperator, KroneckerOperator
from sklearn_pgb._operators._function import FunctionOperator
from sklearn_pgb._operators._leaves import LeafOperator
from sklearn_pgb._operators._mapped import MappedOperator
from sklearn_pgb._operators._repeated import RepeatedOperator
from sklearn_pgb._operators._stacked import StackedOperator

N_SAMPLES, N_OUTPUTS = 7, 3


def random_chain(sizes, activation, generator, bias=True, head_bias=True):
    pairs = list(zip(sizes[1:], sizes[:-1], strict=True))
    has_bias = [bias] * (len(pairs) - 1) + [head_bias]
    return ChainNetwork.mlp(
        [randn(generator, *pair) / pair[1] ** 0.5 for pair in pairs],
        [
            randn(generator, n_out) if has else None
            for (n_out, _), has in zip(pairs, has_bias, strict=True)
        ],
        [activation] * (len(pairs) - 1),
    )


def chain_operator(network, X, dtype=torch.float64):
    """The operator built from the chain's layers alone."""
    operator = network.jacobian(X)
    return operator if dtype == operator.dtype else operator.single()


def conv_net(generator):
    """A small net of images of 6 x 6, its parameters drawn from the generator."""
    module = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(8, 3)
    )
    module.to(torch.float64)
    for parameter in module.parameters():
        parameter.data = randn(generator, *parameter.shape)
    return ModuleNetwork(module)


# Each returns an operator of the dtype and its matrix in float64.


def dense_case(generator, dtype):
    matrix = randn(generator, N_SAMPLES, N_OUTPUTS, 5)
    return DenseOperator(matrix.to(dtype)), matrix


def kronecker_case(generator, dtype):
    features = randn(generator, N_SAMPLES, 4)
    rows = [np.kron(row, np.eye(N_OUTPUTS)) for row in features.numpy()[:, None]]
    operator = KroneckerOperator(features.to(dtype), N_OUTPUTS)
    return operator, torch.tensor(np.stack(rows))


def repeated_case(generator, dtype):
    matrix = randn(generator, N_SAMPLES, 1, 4)
    rows = [np.kron(row, np.eye(N_OUTPUTS)) for row in matrix.numpy()]
    operator = RepeatedOperator(DenseOperator(matrix.to(dtype)), N_OUTPUTS)
    return operator, torch.tensor(np.stack(rows))


def chain_case(generator, dtype):
    network = random_chain([4, 5, 6, N_OUTPUTS], ACTIVATIONS["tanh"], generator)
    X = randn(generator, N_SAMPLES, 4)
    return chain_operator(network, X, dtype), oracles.jacobian(network, X)


def normed_case(generator, dtype):
    """A chain with layer norms after two of its layers."""
    module = nn.Sequential(
        *(nn.Linear(4, 5, bias=False), nn.LayerNorm(5), nn.Tanh()),
        *(nn.Linear(5, 6), nn.SiLU()),
        *(nn.LayerNorm(6, bias=False), nn.Linear(6, N_OUTPUTS)),
    )
    for parameter in module.parameters():
        parameter.data = randn(generator, *parameter.shape)
    network, X = open_module(module), randn(generator, N_SAMPLES, 4)
    return chain_operator(network, X, dtype), oracles.jacobian(network, X)


def function_case(generator, dtype):
    """A general function of theta, some of whose derivatives are columns."""
    theta, X = randn(generator, 12), randn(generator, N_SAMPLES, 4)

    def function(theta, X):
        return (X @ theta.reshape(4, 3)).tanh().cumsum(1) * theta[:3]

    columns = torch.tensor([11, 0, 3, 4, 7])
    twin = oracles.jacobian(function, X, theta)[..., columns]
    return FunctionOperator(function, theta.to(dtype), X.to(dtype), columns), twin


def stacked_case(generator, dtype):
    cases = [dense_case, chain_case, kronecker_case]
    operators, twins = zip(*[case(generator, dtype) for case in cases], strict=True)
    scales = [0.5, 2.0, -1.5]
    twin = [scale * twin for scale, twin in zip(scales, twins, strict=True)]
    return StackedOperator(operators, scales), torch.cat(twin, -1)


def leaf_operator(generator, outputs, dtype=torch.float64, n_leaves=(3, 1, 5, 2, 4, 2)):
    """Random leaf numbers, and a loop that writes the indicators."""
    scale = randn(generator, len(n_leaves))
    columns = [
        torch.randint(0, count, (N_SAMPLES,), generator=generator) for count in n_leaves
    ]
    leaves = torch.stack(columns, 1).int()
    operator = LeafOperator(leaves, n_leaves, scale.to(dtype), outputs, N_OUTPUTS)
    width = N_OUTPUTS if outputs is None else 1
    twin = torch.zeros(N_SAMPLES, N_OUTPUTS, sum(n_leaves), width, dtype=torch.float64)
    for i in range(N_SAMPLES):
        for tree, start in enumerate(np.cumsum([0, *n_leaves])[:-1]):
            for c in range(N_OUTPUTS):
                if outputs is None or outputs[tree] == c:
                    place = start + leaves[i, tree], 0 if outputs is not None else c
                    twin[i, c][place] = scale[tree]
    return operator, twin.flatten(2)


def leaf_case(generator, dtype):
    return leaf_operator(generator, torch.tensor([0, 1, 2, 0, 2, 0]), dtype)


def vector_leaf_case(generator, dtype):
    return leaf_operator(generator, None, dtype)


def stacked_leaves_case(generator, dtype):
    """Trees of two models, one of them a sum of two."""
    cases = [vector_leaf_case(generator, dtype) for _ in range(3)]
    operators, twins = zip(*cases, strict=True)
    inner = StackedOperator(operators[1:], [0.5, 3.0])
    twin = [2 * twins[0], -0.5 * twins[1], -3 * twins[2]]
    return StackedOperator([operators[0], inner], [2.0, -1.0]), torch.cat(twin, -1)


def mapped_case(generator, dtype):
    operator, twin = chain_case(generator, dtype)
    matrix = randn(generator, N_OUTPUTS, N_OUTPUTS)
    return MappedOperator(operator, matrix), matrix @ twin


def blocked_case(generator, dtype):
    """In one block; `test_operators_blocked.py` has smaller ones."""
    operator, twin = chain_case(generator, dtype)
    samples = torch.arange(N_SAMPLES)
    return BlockedOperator(lambda rows: operator.rows(samples[rows]), N_SAMPLES), twin


def selected_case(generator, dtype):
    operator, twin = mapped_case(generator, dtype)
    columns = torch.tensor([0, 3, 4, 30, 60])
    return operator.select(columns), twin[..., columns]


def selected_chain_case(generator, dtype):
    """The last weights of a frozen layer, a whole layer, and the last biases."""
    operator, twin = chain_case(generator, dtype)
    n_last = 7 * N_OUTPUTS
    columns = torch.arange(20, operator.n_coef)
    columns = columns[(columns < 25) | (columns >= operator.n_coef - n_last)]
    return operator.select(columns), twin[..., columns]


CASES = [
    dense_case,
    kronecker_case,
    repeated_case,
    chain_case,
    normed_case,
    function_case,
    stacked_case,
    leaf_case,
    vector_leaf_case,
    stacked_leaves_case,
    mapped_case,
    blocked_case,
    selected_case,
    selected_chain_case,
]


def check_products(operator, J, index, generator):
    """Compare every product with those of the Jacobian (n_samples, n_outputs, n_coef).

    `index` chooses samples, in any order.
    """
    matrix, part = J.flatten(0, 1), J[index].flatten(0, 1)
    coef, residual = randn(generator, operator.n_coef), randn(generator, *J.shape[:2])
    root, before = randn(generator, *J.shape[:2]), residual.clone()
    scaled = root.reshape(-1, 1) * matrix
    some = operator.rows(index)
    for actual, expected in [
        (operator.dense(), J),
        (operator.dense(slice(2, 5)), J[2:5]),
        (operator.matvec(coef), J @ coef),
        (operator.rmatvec(residual), matrix.T @ residual.reshape(-1)),
        (operator.gram(), matrix @ matrix.T),
        (operator.squared_row_norms(), J.square().sum(-1)),
        (operator.normal(), matrix.T @ matrix),
        (operator.normal(root), scaled.T @ scaled),
        (some.dense(), J[index]),
        (some.matvec(coef), J[index] @ coef),
        (operator.cross_gram(some), matrix @ part.T),
    ]:
        assert_close(actual, expected, rtol=1e-12, atol=1e-12 * float(matrix.norm()))
    assert_close(residual, before, rtol=0, atol=0)
