"""Sums over leaves of samples, against products with the indicators of the leaves."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
)
from torch.testing import assert_close
from tree_cases import SURROGATES, TREES, X, Y

from sklearn_pgb._models._open import open_network
from sklearn_pgb._models._shared import share_outputs
from sklearn_pgb._models._small_trees import SmallTrees
from sklearn_pgb._models._tree_lookup import HistogramTrees, TreeInputs
from sklearn_pgb._operators import _blocks, _leaves

NEW = np.random.default_rng(1).normal(size=(50, 4))
HOLES = np.where(np.random.default_rng(2).random((50, 4)) < 0.3, np.nan, NEW)
CASES = {
    name: each
    for name, each in (TREES | SURROGATES).items()
    if isinstance(open_network(clone(each[0]).fit(X, Y[each[1]])).encode, TreeInputs)
}


def check_sums(opened, rows, generator):
    """With weight and coefficients of any size: ``w f(x) + J(x) c``."""
    network, encode = opened.network, opened.encode
    leaves = encode(rows)
    coefs = torch.randn(1, network.n_params, generator=generator, dtype=torch.float64)
    expected = network.jacobian(leaves).matvec(coefs[0])
    expected = expected + 0.75 * network(network.theta, leaves)
    sums = encode.lookup.sums(network.tangent_leaves(0.75, coefs))
    found = sums(encode.matrix(rows))
    # The sums have up to a hundred terms of size one.
    assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_sums_are_those_of_the_leaves(name, generator):
    model, targets = CASES[name]
    opened = open_network(clone(model).fit(X, Y[targets]))
    check_sums(opened, NEW, generator)
    check_sums(opened, NEW.astype(np.float32), generator)
    check_sums(opened, NEW.tolist(), generator)
    check_sums(opened, np.asfortranarray(NEW), generator)


@pytest.mark.parametrize("name", CASES)
def test_sums_of_a_data_frame(name, generator):
    """Its columns are contiguous, and its rows are not."""
    model, targets = CASES[name]
    columns = list("abcd")
    opened = open_network(
        clone(model).fit(pd.DataFrame(X, columns=columns), Y[targets])
    )
    check_sums(opened, pd.DataFrame(NEW, columns=columns), generator)


@pytest.mark.parametrize("max_leaf_nodes", [4, 9, 16, 30])
@pytest.mark.parametrize("targets", ["real", "multi"])
def test_small_and_large_trees_with_missing_values(
    targets, max_leaf_nodes, generator, monkeypatch
):
    """In blocks of a few samples; missing values go to the left in some nodes."""
    monkeypatch.setattr(_blocks, "BLOCK_BYTES", 10_000)
    kind = HistGradientBoostingRegressor
    if targets == "multi":
        kind = HistGradientBoostingClassifier
    model = kind(max_iter=20, max_leaf_nodes=max_leaf_nodes, min_samples_leaf=2)
    table = X.copy()
    table[::3, 0] = table[1::4, 1] = np.nan
    opened = open_network(model.fit(table, Y[targets]))
    small = max_leaf_nodes <= 16
    assert isinstance(opened.encode.lookup, SmallTrees if small else HistogramTrees)
    nodes = [tree.nodes for each in model._predictors for tree in each]
    sides = np.concatenate([n["missing_go_to_left"][n["is_leaf"] == 0] for n in nodes])
    assert set(sides.tolist()) == {0, 1}
    of_rows = model.predict if targets == "real" else model.decision_function
    for rows in (HOLES, NEW):
        check_sums(opened, rows, generator)
        raw = opened.network(opened.network.theta, opened.inputs(rows)).numpy()
        assert_allclose(raw.squeeze(), of_rows(rows), rtol=1e-12, atol=1e-12)


def test_nodes_that_split_off_missing_values():
    """All others are up to the threshold, also infinite ones."""
    table = HOLES.copy()
    table[:5, 1] = np.inf
    model = HistGradientBoostingRegressor(max_leaf_nodes=3, min_samples_leaf=2)
    y = 3.0 * np.isnan(table[:, 0]) + table[:, 1].clip(0, 1)
    opened = open_network(model.fit(table, np.nan_to_num(y)))
    nodes = np.concatenate([tree.nodes for (tree,) in model._predictors])
    assert np.isinf(nodes["num_threshold"]).any()
    raw = opened.network(opened.network.theta, opened.inputs(table))[:, 0]
    assert_allclose(raw.numpy(), model.predict(table), rtol=1e-12)


@pytest.mark.parametrize("max_leaf_nodes", [5, 12, 20])
def test_encoded_categories(max_leaf_nodes, generator):
    """Numbers of known categories as scikit-learn's; others are missing."""
    rng = np.random.default_rng(0)
    table, new = X.copy(), NEW.copy()
    for rows, most in ((table, 3), (new, 6)):
        rows[:, [1, 3]] = 2.5 * rng.integers(0, most, size=(len(rows), 2)) - 1
        rows[::5, 1] = np.nan
    params = {"max_leaf_nodes": max_leaf_nodes, "min_samples_leaf": 3}
    model = HistGradientBoostingRegressor(categorical_features=[1, 3], **params)
    y = Y["real"] + table[:, 3] + np.isnan(table[:, 1])
    opened = open_network(model.fit(table, y))
    small = max_leaf_nodes <= 16
    assert isinstance(opened.encode.lookup, SmallTrees if small else HistogramTrees)
    assert opened.encode.convert is not None
    for rows in (table, new):
        expected = model._preprocess_X(rows, reset=False)
        assert_array_equal(opened.encode.matrix(rows), expected)
        check_sums(opened, rows, generator)
        raw = opened.network(opened.network.theta, opened.inputs(rows))[:, 0]
        # Sums of leaves may cancel.
        assert_allclose(raw.numpy(), model.predict(rows), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("kind", [ExtraTreesRegressor, ExtraTreesClassifier])
@pytest.mark.parametrize("targets", ["code", "codes"])
def test_forests_with_missing_values_and_sparse_samples(kind, targets, generator):
    table = np.where(X > 1, np.nan, X)
    opened = open_network(kind(5, random_state=0).fit(table, Y[targets]))
    check_sums(opened, HOLES, generator)
    opened = open_network(kind(5, random_state=0).fit(X, Y[targets]))
    check_sums(opened, sp.csr_array(np.where(NEW > 0, NEW, 0.0)), generator)


@pytest.mark.parametrize("kind", [HistGradientBoostingClassifier, ExtraTreesClassifier])
def test_shared_outputs(kind, generator, monkeypatch):
    """Every tree adds to all outputs, in groups of a few trees."""
    monkeypatch.setattr(_leaves, "VALUE_BYTES", 3000)
    model = kind(random_state=0).fit(X, Y["multi"])
    check_sums(share_outputs(open_network(model)), NEW, generator)


@pytest.mark.parametrize("name", CASES)
def test_samples_have_one_axis(name):
    """Images are refused, whatever the number of rows."""
    model, targets = CASES[name]
    encode = open_network(clone(model).fit(X, Y[targets])).encode
    with pytest.raises(ValueError, match="dim 3"):
        encode.matrix(NEW[:, :, None])


@pytest.mark.parametrize("kind", [ExtraTreesRegressor, GradientBoostingRegressor])
@pytest.mark.parametrize(
    ("value", "match"),
    [(np.inf, "infinity"), (1e300, "infinity"), (None, "5 features")],
)
def test_samples_are_still_checked(kind, value, match):
    """Also numbers too large for single precision, to which forests convert them."""
    encode = open_network(kind(n_estimators=3).fit(X, Y["real"])).encode
    rows = NEW.copy()
    rows[0, 0] = 0 if value is None else value
    rows = np.c_[rows, rows[:, 0]] if value is None else rows
    with (
        np.errstate(over="ignore"),
        pytest.raises(ValueError, match=match),
    ):
        encode.matrix(rows)
