"""Operators against dense matrices, autograd and the adjoint identity."""

from functools import partial

import numpy as np
import oracles
import pytest
import torch
from operator_cases import (
    CASES,
    N_OUTPUTS,
    N_SAMPLES,
    chain_case,
    chain_operator,
    conv_net,
    kronecker_case,
    leaf_case,
    normed_case,
    random_chain,
    repeated_case,
    stacked_case,
    stacked_leaves_case,
    vector_leaf_case,
)
from oracles import randn
from torch.testing import assert_close

from sklearn_pgb._models._activations import ACTIVATIONS
from sklearn_pgb._operators import _blocks, _leaves
from sklearn_pgb._operators._blocked import BlockedOperator
from sklearn_pgb._operators._dense import DenseOperator, KroneckerOperator
from sklearn_pgb._operators._function import FunctionOperator
from sklearn_pgb._operators._leaves import LeafOperator
from sklearn_pgb._operators._mapped import MappedOperator, mapped
from sklearn_pgb._operators._operator import LinearOperator, apply_root
from sklearn_pgb._operators._outputs import (
    separates_outputs,
    shares_features,
    single_output,
)
from sklearn_pgb._operators._stacked import StackedOperator

DTYPES = [torch.float64, torch.float32]
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=["float64", "float32"])
all_operators = pytest.mark.parametrize(
    "case", CASES, ids=lambda case: case.__name__.removesuffix("_case")
)


def closeness(dtype):
    """Rounding of a sum of tens of terms of order one."""
    size = 1e-12 if dtype == torch.float64 else 1e-5
    return {"rtol": size, "atol": 10 * size}


def check_close(actual, expected, dtype):
    assert actual.dtype == dtype
    assert_close(actual, expected.to(dtype), **closeness(dtype))


def test_every_operator_is_tested(generator):
    """A new operator has to be put into CASES."""
    tested = {type(case(generator, torch.float64)[0]) for case in CASES}
    package = {
        operator
        for operator in LinearOperator.__subclasses__()
        if operator.__module__.startswith("sklearn_pgb")
    }
    assert tested == package


@dtypes
@all_operators
def test_adjoint_identity(case, dtype, generator):
    """``<Phi a, r> = <a, Phi^T r>``."""
    operator, _ = case(generator, dtype)
    coef = randn(generator, operator.n_coef).to(dtype)
    residual = randn(generator, operator.n_samples, operator.n_outputs).to(dtype)
    left = (operator.matvec(coef) * residual).sum()
    right = coef @ operator.rmatvec(residual)
    size = coef.norm() * operator.dense().norm() * residual.norm()
    assert (left - right).abs() <= 10 * torch.finfo(dtype).eps * size


# No block smaller than a sample is asked for; 400 bytes split the samples unevenly.
@pytest.mark.parametrize("block_bytes", [None, 1, 400])
@dtypes
@all_operators
def test_dense_twin(case, dtype, block_bytes, generator, monkeypatch):
    """Every product is that of the matrix, in blocks of any size."""
    if block_bytes is not None:
        monkeypatch.setattr(_blocks, "BLOCK_BYTES", block_bytes)
    operator, twin = case(generator, dtype)
    n, k, p = twin.shape
    matrix = twin.reshape(n * k, p)
    assert (operator.n_samples, operator.n_outputs) == (n, k)
    assert (operator.n_coef, operator.n_rows) == (p, n * k)
    assert operator.dtype == dtype
    assert operator.device == torch.device("cpu")

    coef, residual = randn(generator, p), randn(generator, n, k)
    raw = operator.matvec(coef.to(dtype))
    check_close(raw, (matrix @ coef).reshape(n, k), dtype)
    dual = operator.rmatvec(residual.to(dtype))
    check_close(dual, matrix.T @ residual.reshape(-1), dtype)
    check_close(operator.dense(), twin, dtype)
    check_close(operator.dense(slice(2, 5)), twin[2:5], dtype)
    check_close(operator.squared_row_norms(), twin.square().sum(-1), dtype)
    check_close(operator.gram(), matrix @ matrix.T, dtype)


@pytest.mark.parametrize("block_bytes", [None, 1, 400])
@dtypes
@all_operators
def test_rows_and_cross_gram(case, dtype, block_bytes, generator, monkeypatch):
    """Chosen samples, in any order, give their rows; kernels with any operator."""
    if block_bytes is not None:
        monkeypatch.setattr(_blocks, "BLOCK_BYTES", block_bytes)
    operator, twin = case(generator, dtype)
    p = operator.n_coef
    index = torch.tensor([6, 0, 3, 3])
    some = operator.rows(index)
    # Few samples form one block.
    whole = operator.first if isinstance(operator, BlockedOperator) else operator
    assert type(some) is type(whole)
    check_close(some.dense(), twin[index], dtype)
    kernel = twin.reshape(-1, p) @ twin[index].reshape(-1, p).T
    check_close(operator.cross_gram(some), kernel, dtype)
    check_close(some.cross_gram(operator), kernel.T, dtype)
    single = randn(generator, 4, 1, p)
    other = DenseOperator(single.to(dtype))
    kernel = twin.reshape(-1, p) @ single.reshape(-1, p).T
    check_close(operator.cross_gram(other), kernel, dtype)
    check_close(other.cross_gram(operator), kernel.T, dtype)


@pytest.mark.parametrize("block_bytes", [None, 1, 400])
@pytest.mark.parametrize("kind", ["none", "diagonal", "blocks"])
@dtypes
@all_operators
def test_normal(case, dtype, kind, block_bytes, generator, monkeypatch):
    """``Phi^T S^T S Phi`` for the identity, diagonals and full blocks."""
    if block_bytes is not None:
        monkeypatch.setattr(_blocks, "BLOCK_BYTES", block_bytes)
    operator, twin = case(generator, dtype)
    blocks = {
        "none": torch.eye(N_OUTPUTS, dtype=torch.float64).repeat(N_SAMPLES, 1, 1),
        "diagonal": torch.diag_embed(randn(generator, N_SAMPLES, N_OUTPUTS)),
        "blocks": randn(generator, N_SAMPLES, N_OUTPUTS, N_OUTPUTS),
    }[kind]
    root = {
        "none": None,
        "diagonal": torch.diagonal(blocks, dim1=1, dim2=2).to(dtype),
        "blocks": blocks.to(dtype),
    }[kind]
    scaled = torch.cat([S @ rows for S, rows in zip(blocks, twin, strict=True)])
    check_close(operator.normal(root), scaled.T @ scaled, dtype)
    if root is not None:
        check_close(apply_root(root, twin.to(dtype)), scaled.reshape(twin.shape), dtype)


@all_operators
def test_shared_features(case, generator):
    """They give the whole matrix; without them, `one_output` is the operator."""
    operator, twin = case(generator, torch.float64)
    features, one = operator.shared_features, operator.one_output()
    if features is None:
        assert one is operator
    else:
        assert_close(KroneckerOperator(features, N_OUTPUTS).dense(), twin)
        assert_close(one.dense()[:, 0], features)


# --- leaves --------------------------------------------------------------------------


@pytest.mark.parametrize("case", [leaf_case, vector_leaf_case])
def test_sparse_leaves(case, generator):
    """The sparse matrix has the rows of the dense one and one entry per tree."""
    operator, twin = case(generator, torch.float64)
    sparse = operator.sparse()
    assert_close(torch.tensor(sparse.toarray()), twin.flatten(0, 1), rtol=0, atol=0)
    assert sparse.nnz == (6 if operator.tree_outputs is not None else 18) * N_SAMPLES


@pytest.mark.parametrize("case", [leaf_case, vector_leaf_case])
def test_sketch_of_leaves(case, generator):
    """Inner products are those of the rows, summed over the outputs, on average."""
    operator, twin = case(generator, torch.float64)
    sketch = operator.sketch(20_000, generator)
    kernel = torch.einsum("icp,jcp->ij", twin, twin)
    # The standard deviation is about sqrt(2 / 20,000) = 1 % of the largest entry.
    assert (sketch @ sketch.T - kernel).abs().max() <= 0.06 * kernel.max()


def test_more_trees_than_a_byte_counts(generator):
    """300 trees with equal leaves put every pair of samples together 300 times."""
    leaves = torch.zeros(5, 300, dtype=torch.int32)
    scale = torch.ones(300, dtype=torch.float64)
    outputs = torch.zeros(300, dtype=torch.long)
    operator = LeafOperator(leaves, [1] * 300, scale, outputs, 1)
    assert_close(operator.gram(), torch.full((5, 5), 300.0, dtype=torch.float64))


def test_blocks_of_counts(generator, monkeypatch):
    """The kernel does not depend on the size of its blocks."""
    operator, _ = leaf_case(generator, torch.float64)
    expected = operator.gram()
    monkeypatch.setattr(_leaves, "CACHE_BYTES", 3 * N_SAMPLES)
    assert_close(operator.gram(), expected, rtol=0, atol=0)
    other = operator.rows(torch.arange(4))
    assert_close(operator.cross_gram(other), expected[:, :12], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("case", "matrix", "kind"),
    [
        (leaf_case, np.eye(3), LeafOperator),
        (leaf_case, [[0, 2, 0], [0, 0, 0], [3, 0, -1], [0, 0, 0]], LeafOperator),
        (leaf_case, [[1, 1, 1], [0, 2, 0]], MappedOperator),
        (vector_leaf_case, -2 * np.eye(3), LeafOperator),
        (vector_leaf_case, [[1, 0, 0], [0, 2, 0]], MappedOperator),
    ],
)
def test_mapped_leaves(case, matrix, kind, generator):
    """Multiples and permutations of outputs keep the structure of trees."""
    operator, twin = case(generator, torch.float64)
    matrix = torch.tensor(np.array(matrix, dtype=float))
    result = mapped(operator, matrix)
    assert type(result) is kind
    assert_close(result.dense(), matrix @ twin)


# --- chains --------------------------------------------------------------------------


@pytest.mark.parametrize("biases", ["all", "hidden", "head", "none"])
@pytest.mark.parametrize("n_outputs", [1, 3])
@pytest.mark.parametrize("n_hidden", [0, 1, 2, 3])
@pytest.mark.parametrize("activation", ACTIVATIONS.values(), ids=lambda a: a.name)
def test_chain_operator(activation, n_hidden, n_outputs, biases, generator):
    """Its matrix is the Jacobian by one backward pass per row."""
    sizes = [*[3, 4, 5, 3][: n_hidden + 1], n_outputs]
    bias, head_bias = biases in ("all", "hidden"), biases in ("all", "head")
    network = random_chain(sizes, activation, generator, bias, head_bias)
    X = randn(generator, 4, 3)
    twin = oracles.jacobian(network, X)
    matrix = twin.flatten(0, 1)
    operator = chain_operator(network, X)
    check_close(operator.dense(), twin, torch.float64)
    coef, residual = randn(generator, operator.n_coef), randn(generator, 4, n_outputs)
    check_close(operator.matvec(coef), twin @ coef, torch.float64)
    dual = operator.rmatvec(residual)
    check_close(dual, matrix.T @ residual.reshape(-1), torch.float64)
    check_close(operator.gram(), matrix @ matrix.T, torch.float64)
    check_close(operator.squared_row_norms(), twin.square().sum(-1), torch.float64)


@pytest.mark.parametrize("name", ["tanh", "relu", "gelu"])
@pytest.mark.parametrize("n_outputs", [1, 3])
def test_chain_kernels_in_float32(name, n_outputs, generator):
    """Kernels of wide layers keep the relative error that float32 allows."""
    network = random_chain([10, 64, 64, n_outputs], ACTIVATIONS[name], generator)
    X = randn(generator, 40, 10)
    exact = chain_operator(network, X).gram()
    error = chain_operator(network, X, torch.float32).gram().double() - exact
    assert error.norm() <= 1e-6 * exact.norm()
    J = oracles.jacobian(network, X).flatten(0, 1)
    assert (exact - J @ J.T).norm() <= 1e-12 * exact.norm()


def test_chain_derivatives(generator):
    """``D_l`` is the derivative of the outputs by the pre-activations of layer l."""
    network = random_chain([3, 4, 5, 2], ACTIVATIONS["silu"], generator)
    X = randn(generator, 6, 3)
    J = oracles.jacobian(network, X)
    starts = np.cumsum([0, 12, 4, 20, 5, 10])
    derivatives = chain_operator(network, X).derivatives()
    # The derivative by a bias is the derivative by the pre-activation.
    for D, start, width in zip(derivatives, starts[1::2], [4, 5, 2], strict=True):
        assert_close(D, J[..., start : start + width], rtol=1e-12, atol=1e-12)
    some = chain_operator(network, X).derivatives(slice(1, 3))
    assert_close(some, [D[1:3] for D in derivatives], rtol=0, atol=0)


def test_kernels_of_two_chains(generator):
    """Two networks of one shape, trained apart, have the kernel of their matrices."""
    X, Z = randn(generator, 5, 4), randn(generator, 3, 4)
    left, right = (
        random_chain([4, 6, 2], ACTIVATIONS["tanh"], generator) for _ in range(2)
    )
    kernel = chain_operator(left, X).cross_gram(chain_operator(right, Z))
    J, K = oracles.jacobian(left, X), oracles.jacobian(right, Z)
    expected = J.flatten(0, 1) @ K.flatten(0, 1).T
    assert_close(kernel, expected, **closeness(torch.float64))


# --- any function --------------------------------------------------------------------


@pytest.mark.parametrize("block_bytes", [None, 1])
def test_function_equals_chain(block_bytes, generator, monkeypatch):
    """Both operators of one network are the same matrix."""
    if block_bytes is not None:
        monkeypatch.setattr(_blocks, "BLOCK_BYTES", block_bytes)
    network = random_chain([4, 6, 5, 3], ACTIVATIONS["gelu"], generator)
    X = randn(generator, 8, 4)
    chain = chain_operator(network, X)
    columns = torch.arange(network.n_params)
    function = FunctionOperator(network, network.theta, X, columns)
    coef, residual = randn(generator, chain.n_coef), randn(generator, 8, 3)
    for of_function, of_chain in [
        (function.matvec(coef), chain.matvec(coef)),
        (function.rmatvec(residual), chain.rmatvec(residual)),
        (function.dense(), chain.dense()),
        (function.gram(), chain.gram()),
        (function.normal(), chain.normal()),
        (function.squared_row_norms(), chain.squared_row_norms()),
    ]:
        assert_close(of_function, of_chain, **closeness(torch.float64))


@pytest.mark.parametrize("block_bytes", [None, 1])
def test_function_of_images(block_bytes, generator, monkeypatch):
    """A convolutional net without its head's bias, on inputs of four axes."""
    if block_bytes is not None:
        monkeypatch.setattr(_blocks, "BLOCK_BYTES", block_bytes)
    network = conv_net(generator)
    images = randn(generator, 5, 1, 6, 6)
    columns = torch.arange(network.n_params - 3)
    operator = FunctionOperator(network, network.theta, images, columns)
    twin = oracles.jacobian(network, images)[..., columns]
    coef, residual = randn(generator, len(columns)), randn(generator, 5, 3)
    check_close(operator.matvec(coef), twin @ coef, torch.float64)
    expected = torch.einsum("icp,ic->p", twin, residual)
    check_close(operator.rmatvec(residual), expected, torch.float64)
    check_close(operator.dense(slice(1, 3)), twin[1:3], torch.float64)
    matrix = twin.flatten(0, 1)
    check_close(operator.gram(), matrix @ matrix.T, torch.float64)
    some = operator.rows(torch.tensor([4, 1]))
    check_close(some.matvec(coef), (twin @ coef)[[4, 1]], torch.float64)


# --- outputs -------------------------------------------------------------------------


@dtypes
@all_operators
def test_single_output(case, dtype, generator):
    """Its kernel is that of the output's rows, and so are its rows with coefficients.

    Columns that are zero for the output may be missing; the others keep their order.
    """
    operator, twin = case(generator, dtype)
    index = torch.tensor([4, 0])
    for c in range(N_OUTPUTS):
        rows, single = twin[:, c], single_output(operator, c)
        assert (single.n_samples, single.n_outputs) == (N_SAMPLES, 1)
        check_close(single.gram(), rows @ rows.T, dtype)
        cross = single_output(operator.rows(index), c).cross_gram(single)
        check_close(cross, rows[index] @ rows.T, dtype)
        kept = single.dense()[:, 0].double()
        used = rows[:, (rows != 0).any(0)]
        check_close(kept[:, (kept != 0).any(0)].to(dtype), used, dtype)


def test_single_output_of_one_output(generator):
    operator = DenseOperator(randn(generator, 4, 1, 3))
    assert single_output(operator, 0) is operator


@all_operators
def test_properties_of_outputs_are_true(case, generator):
    """A property is only claimed if the matrix has it."""
    operator, twin = case(generator, torch.float64)
    belongs = (twin != 0).any(0).sum(0)
    if separates_outputs(operator):
        assert (belongs <= 1).all()
    grams = torch.einsum("icp,jcp->cij", twin, twin)
    if shares_features(operator):
        assert separates_outputs(operator)
        assert_close(grams, grams[:1].expand_as(grams))


@pytest.mark.parametrize(
    ("case", "separate", "shared"),
    [
        (kronecker_case, True, True),
        (repeated_case, True, True),
        (leaf_case, True, False),
        (vector_leaf_case, True, True),
        (stacked_leaves_case, True, True),
        (chain_case, False, False),
        (stacked_case, False, False),
    ],
)
def test_properties_of_outputs_are_recognized(case, separate, shared, generator):
    """Properties of common operators are recognized, which saves work."""
    operator, _ = case(generator, torch.float64)
    assert separates_outputs(operator) is separate
    assert shares_features(operator) is shared


# --- sketches ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "case",
    [
        partial(chain_case, dtype=torch.float64),
        partial(normed_case, dtype=torch.float64),
        partial(stacked_case, dtype=torch.float64),
    ],
    ids=["chain", "norms", "generic"],
)
def test_sketch_keeps_inner_products(case, generator):
    """Inner products have the right mean, within five standard errors."""
    operator, twin = case(generator)
    expected = torch.einsum("icp,jcp->ij", twin, twin)
    kernels = []
    for seed in range(500):
        features = operator.sketch(12, torch.Generator().manual_seed(seed))
        assert features.shape == (N_SAMPLES, 12)
        kernels.append(features @ features.T)
    kernels = torch.stack(kernels)
    standard_error = kernels.std(0) / len(kernels) ** 0.5
    assert ((kernels.mean(0) - expected).abs() <= 5 * standard_error).all()
    # The test has the power to see an error of a quarter.
    assert (5 * standard_error.diagonal() <= expected.diagonal() / 4).all()


@dtypes
@all_operators
def test_sketch_of_rows(case, dtype, generator):
    """One seed has one projection, for new samples too."""
    operator, _ = case(generator, dtype)
    index = torch.tensor([5, 2])
    whole = operator.sketch(6, torch.Generator().manual_seed(3))
    some = operator.rows(index).sketch(6, torch.Generator().manual_seed(3))
    check_close(some, whole[index], dtype)
    other = operator.sketch(6, torch.Generator().manual_seed(4))
    assert (other - whole).abs().max() > 0.1


def test_single_keeps_the_products(generator):
    """Products in float32 equal those in float64 up to rounding."""
    network = random_chain([3, 4, 2], ACTIVATIONS["tanh"], generator)
    chain = chain_operator(network, randn(generator, 5, 3))
    dense = DenseOperator(randn(generator, 5, 2, 6))
    kronecker = KroneckerOperator(randn(generator, 5, 3), 2)
    operator = StackedOperator([chain, dense, kronecker], [0.5, 2.0, 1.0])
    single = operator.single()
    assert single.dtype == torch.float32
    assert_close(single.dense(), operator.dense().float(), rtol=1e-5, atol=1e-6)
    coef = randn(generator, operator.n_coef)
    expected = operator.matvec(coef).float()
    assert_close(single.matvec(coef.float()), expected, rtol=1e-5, atol=1e-5)


def test_stacks_of_two_precisions_stay_in_theirs(generator):
    """If one part does not support float32, all parts stay in float64."""
    theta = randn(generator, 3)
    function = FunctionOperator(
        lambda theta, X: X @ theta[:, None],
        theta,
        randn(generator, 5, 3),
        torch.arange(3),
    )
    dense = DenseOperator(randn(generator, 5, 1, 2))
    operator = StackedOperator([function, dense], [1.0, 1.0])
    assert operator.single() is operator


def test_spread_rows_stay_in_range():
    """Float32 cannot tell 2^25 - 1 from 2^25."""
    rows = _blocks.spread_rows(2**25, 64)
    assert (rows[0], rows[-1], len(np.unique(rows))) == (0, 2**25 - 1, 64)
    np.testing.assert_array_equal(_blocks.spread_rows(3, 8), [0, 1, 2])
    assert len(_blocks.spread_rows(0, 8)) == 0
