"""The border between scikit-learn and the package."""

from decimal import Decimal

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.base import BaseEstimator, clone, is_classifier
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import make_classification
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import get_tags

from sklearn_pgb import (
    AddedNeuronClassifier,
    AddedNeuronRegressor,
    GradientBasisRefit,
    ResNetBasisClassifier,
    ResNetBasisRegressor,
)
from sklearn_pgb._estimator._border import (
    all_or_nothing,
    final_estimator,
    inputs_of,
    open_all,
)
from sklearn_pgb._estimator._fit_parameters import fit_parameter
from sklearn_pgb._estimator._folds import (
    cross_fitting_parts,
    enough_folds,
    splitter_parts,
)
from sklearn_pgb._estimator._resources import parse_memory
from sklearn_pgb._estimator._row_codes import join_groups, row_codes
from sklearn_pgb._estimator._trainer import train_networks
from sklearn_pgb._models._open import checks_inputs
from sklearn_pgb._seeds import with_seed

SCALER = StandardScaler()


def mlp(**params):
    params = {"solver": "lbfgs", "max_iter": 5, "random_state": 0} | params
    return MLPRegressor(hidden_layer_sizes=(3,), **params)


class Unweighted(BaseEstimator):
    def fit(self, X, y):
        return self


# -- memory --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        (1000, 1000),
        (2.5e6, 2.5e6),
        ("17", 17),
        ("3 B", 3),
        ("2KB", 2 * 2**10),
        ("500MB", 500 * 2**20),
        ("1GB", 2**30),
        (" 1.5 gib ", 1.5 * 2**30),
        ("2TB", 2 * 2**40),
    ],
)
def test_memory_is_parsed(text, amount):
    assert parse_memory(text) == amount


@pytest.mark.parametrize(
    "value", ["much", "", "GB", "-1GB", "0", "nan", "1PB", 0, np.nan, None, [], 1j, len]
)
def test_memory_that_says_nothing(value):
    with pytest.raises(ValueError, match="max_memory must be a positive number"):
        parse_memory(value)


# -- wrappers ------------------------------------------------------------------------

WRAPPED = {
    "bare": (mlp(), False, "sample_weight"),
    "pipeline": (make_pipeline(SCALER, mlp()), True, "mlpregressor__sample_weight"),
    "target": (TransformedTargetRegressor(mlp()), False, "sample_weight"),
    "target of pipeline": (
        TransformedTargetRegressor(make_pipeline(SCALER, mlp())),
        True,
        "mlpregressor__sample_weight",
    ),
    "pipeline of target": (
        make_pipeline(SCALER, TransformedTargetRegressor(mlp())),
        True,
        "transformedtargetregressor__sample_weight",
    ),
    "pipeline of pipeline": (
        make_pipeline(SCALER, make_pipeline(SCALER, mlp())),
        True,
        "pipeline__mlpregressor__sample_weight",
    ),
    "frozen": (FrozenEstimator(make_pipeline(SCALER, mlp())), True, None),
    "search": (GridSearchCV(mlp(), {"alpha": [0.1]}, cv=2), False, "sample_weight"),
    "search of pipeline of target": (
        GridSearchCV(
            make_pipeline(SCALER, TransformedTargetRegressor(mlp())),
            {"transformedtargetregressor__regressor__alpha": [0.1, 1.0]},
            cv=2,
        ),
        True,
        "transformedtargetregressor__sample_weight",
    ),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_estimators_inside_wrappers_are_found(name):
    """The final estimator, whether it checks X, and the keyword of weights."""
    estimator, delegates, key = WRAPPED[name]
    assert isinstance(final_estimator(estimator), MLPRegressor)
    assert checks_inputs(estimator) is delegates
    if key is None:
        return
    assert fit_parameter(estimator, "sample_weight") == key
    X = np.arange(10.0).reshape(5, 2)
    y = np.array([0.0, 1.0, 0.0, 2.0, 1.0])
    equal = with_seed(estimator, 0).fit(X, y, **{key: np.ones(5)}).predict(X)
    weighted = with_seed(estimator, 0).fit(X, y, **{key: np.arange(1.0, 6)}).predict(X)
    assert abs(equal - weighted).max() > 1e-6


# -- training ------------------------------------------------------------------------


@pytest.mark.parametrize("n_jobs", [None, 2])
def test_networks_train_on_their_parts(n_jobs):
    """Each clone equals a fit on its samples, with their weights."""
    rng = np.random.default_rng(0)
    X, y, weight = rng.normal(size=(12, 2)), rng.normal(size=12), rng.uniform(size=12)
    part = np.array([0, 3, 4, 7, 9])
    estimator = mlp()
    params = {"sample_weight": weight}
    networks = train_networks(estimator, [None, 5], [None, part], X, y, params, n_jobs)
    expected = [
        mlp().fit(X, y, weight),
        mlp(random_state=5).fit(X[part], y[part], weight[part]),
    ]
    for network, twin in zip(networks, expected, strict=True):
        np.testing.assert_array_equal(network.predict(X), twin.predict(X))
    assert not hasattr(estimator, "coefs_")


def test_open_all_moves_to_a_device():
    X = np.random.default_rng(0).normal(size=(6, 2))
    fitted = mlp().fit(X, X[:, 0])
    opened = open_all([fitted], None, "cpu")
    (inputs,) = inputs_of(opened, X, "cpu")
    network = opened[0].network
    raw = network(network.theta, inputs)[:, 0]
    np.testing.assert_allclose(raw, fitted.predict(X), rtol=1e-12)


def test_failed_fit_restores():
    class Fails(BaseEstimator):
        @all_or_nothing
        def fit(self, X, fail):
            self.n_features_in_ = X
            if fail:
                raise KeyboardInterrupt
            self.coef_ = X
            return self

    model = Fails()
    with pytest.raises(KeyboardInterrupt):
        model.fit(1, fail=True)
    assert vars(model) == {}
    assert model.fit(2, fail=False).coef_ == 2
    with pytest.raises(KeyboardInterrupt):
        model.fit(3, fail=True)
    assert vars(model) == {"n_features_in_": 2, "coef_": 2}


# -- rows and folds ------------------------------------------------------------------

COPIES = np.array([[1.0, 0.0], [0.0, 2.0], [1.0, 0.0], [0.0, 0.0], [0.0, 2.0]])
CONTAINERS = {
    "array": COPIES,
    "list": COPIES.tolist(),
    "csr": sp.csr_array(COPIES),
    "csc": sp.csc_matrix(COPIES),
    "strings": COPIES.astype(str),
    "objects": COPIES.astype(object),
    "texts": np.array(["b", "a", "b", "c", "a"]),
    "images": COPIES[:, :, None, None],
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_row_codes(name):
    """Equal samples have the same number, in any container."""
    group = row_codes(CONTAINERS[name])
    assert group[0] == group[2]
    assert group[1] == group[4]
    assert sorted(set(group)) == [0, 1, 2]


def test_row_codes_of_a_frame():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"a": [1.0, 2.0, 1.0], "b": ["u", "v", "u"]})
    group = row_codes(frame)
    assert group[0] == group[2] != group[1]


def different_rows():
    """Tables whose rows are all different, but not if they are converted to floats."""
    pd = pytest.importorskip("pandas")
    pl = pytest.importorskip("polars")
    large = 2**60 + np.arange(3)
    columns = {"id": large, "x": np.zeros(3)}
    objects = np.array([[2**60, None], [2**60 + 1, None], [2.0**60 + 2**10, None]])
    days = pd.to_datetime(["2020-01-01", "2020-01-02", None])
    return {
        "pandas": pd.DataFrame(columns),
        "polars": pl.DataFrame(columns),
        "nullable": pd.DataFrame({"id": large}, dtype="Int64"),
        "repeated name": pd.DataFrame(columns).set_axis(["a", "a"], axis=1),
        "objects": objects,
        "text": pd.DataFrame({"a": pd.Series([1, "1", 1.5], dtype=object)}),
        "list": [[1, "1"], ["1", 1], ["1", "1"]],
        "missing": pd.DataFrame({"a": pd.Series([None, np.nan, pd.NA], dtype=object)}),
        "dates": pd.DataFrame({"a": days, "b": 1.0}),
        "cells": pd.DataFrame({"a": [[1, 2], [1, 3], (1, 2)]}),
        "exact": pd.DataFrame({"a": [Decimal("0.1"), 0.1, Decimal("0.3")]}),
    }


@pytest.mark.parametrize("name", different_rows())
def test_different_rows_have_different_codes(name):
    rows = different_rows()[name]
    codes = row_codes(rows)
    assert sorted(codes) == [0, 1, 2]
    if not isinstance(rows, list):
        index = [2, 0, 1, 0]
        moved = rows[index] if name in ("polars", "objects") else rows.iloc[index]
        np.testing.assert_array_equal(row_codes(moved), codes[index])


def test_row_codes_of_mixed_dtypes_are_those_of_numbers():
    pd = pytest.importorskip("pandas")
    rng = np.random.default_rng(0)
    X = rng.integers(-2, 2, size=(30, 3)).astype(float)
    frame = pd.DataFrame({"a": X[:, 0].astype(int), "b": X[:, 1], "c": X[:, 2] > 0})
    X[:, 2] = X[:, 2] > 0
    expected = row_codes(X)
    np.testing.assert_array_equal(row_codes(frame), expected)
    np.testing.assert_array_equal(row_codes(frame.astype(object)), expected)
    np.testing.assert_array_equal(row_codes(X.astype(object)), expected)


@pytest.mark.parametrize("container", [np.asarray, sp.csr_array], ids=["array", "csr"])
def test_row_codes_do_not_depend_on_order(container):
    """Numbers depend on values only, so permuted and repeated rows keep them."""
    rng = np.random.default_rng(0)
    X = rng.integers(0, 2, size=(30, 4)).astype(float)
    index = rng.integers(0, 30, size=100)
    index[:30] = np.arange(30)[::-1]
    expected = row_codes(container(X))[index]
    np.testing.assert_array_equal(row_codes(container(X[index])), expected)


@pytest.mark.parametrize("values", [[-1, 0, 1], [-0.5, 0, 2], [0, 1, np.nan]], ids=str)
def test_row_codes_of_sparse_data_are_those_of_dense_data(values):
    """Folds, and so all results, do not depend on the container or the dtype."""
    X = np.random.default_rng(0).choice(values, size=(40, 4), p=[0.2, 0.6, 0.2])
    expected = row_codes(X)
    for same in [sp.csr_array(X), sp.csc_matrix(X), sp.coo_array(X.astype(np.float32))]:
        np.testing.assert_array_equal(row_codes(same), expected)


def test_groups_join_equal_samples():
    """Samples are linked by equal inputs or by a group, over any number of steps."""
    codes = np.array([0, 1, 1, 2, 3, 4])
    groups = ["a", "a", "b", "b", "c", "d"]
    assert join_groups(codes, groups).tolist() == [0, 0, 0, 0, 1, 2]
    order = np.array([5, 3, 1, 4, 0, 2])
    mixed = join_groups(codes[order], np.array(groups)[order])
    assert len(set(mixed)) == 3
    assert len({mixed[i] for i in (1, 2, 4, 5)}) == 1


def test_row_codes_do_not_change_sparse_data():
    """Stored zeros and unsorted or repeated entries make no new row, and stay."""
    data, indices, indptr = [1.0, 2.0, 2.0, 1.0, 0.0], [1, 0, 0, 1, 2], [0, 2, 5]
    X = sp.csr_array((data, indices, indptr), shape=(2, 3))
    assert len(set(row_codes(X))) == 1
    assert X.data.tolist() == data
    assert X.indices.tolist() == indices


def fold_numbers(X, labels, weight, n_folds, seed):
    """The fold that holds out each sample, -1 if it is always trained on."""
    numbers = np.full(len(X), -1)
    parts = cross_fitting_parts(n_folds, X, labels, weight, seed)
    for number, (_, test) in enumerate(parts):
        numbers[test] = number
    return numbers


def test_folds_cover_distinct_rows():
    X = np.repeat(np.arange(10.0), 3)[:, None]
    fold = fold_numbers(X, None, np.ones(30), 4, seed=0)
    by_row = fold.reshape(10, 3)
    assert (by_row == by_row[:, :1]).all()
    counts = np.bincount(by_row[:, 0])
    assert len(counts) == 4
    assert counts.min() >= 2


def test_folds_depend_on_the_seed_only():
    X = np.random.default_rng(0).normal(size=(40, 2))
    a, b, c = (fold_numbers(X, None, np.ones(40), 5, seed=s) for s in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert (a != c).any()


@pytest.mark.parametrize("classifier", [False, True])
def test_folds_of_repeated_and_shuffled_rows(classifier):
    """Weights act like repetitions, in any order."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(20, 2))
    labels = rng.integers(0, 3, size=20) if classifier else None
    weight = rng.integers(1, 4, size=20).astype(float)
    fold = fold_numbers(X, labels, weight, 4, seed=0)
    index = rng.permutation(np.repeat(np.arange(20), weight.astype(int)))
    repeated = fold_numbers(
        X[index], labels[index] if classifier else None, np.ones(len(index)), 4, seed=0
    )
    np.testing.assert_array_equal(repeated, fold[index])


def test_folds_are_stratified():
    X, y = make_classification(
        200,
        n_informative=4,
        n_classes=4,
        weights=[0.6, 0.25, 0.1, 0.05],
        random_state=0,
    )
    fold = fold_numbers(X, y, np.ones(200), 5, seed=0)
    for label in range(4):
        counts = np.bincount(fold[y == label], minlength=5)
        assert counts.max() - counts.min() <= 1


def test_the_only_row_of_a_class_is_never_held_out():
    X = np.arange(9.0)[:, None]
    y = np.array([0, 0, 0, 0, 1, 1, 1, 1, 2])
    fold = fold_numbers(X, y, np.ones(9), 3, seed=0)
    assert fold[-1] == -1
    for seen, held in cross_fitting_parts(3, X, y, np.ones(9), seed=0):
        assert set(y[seen]) == {0, 1, 2}
        assert 8 not in held


def test_labels_of_copies_are_voted_by_weight():
    """Copies with two labels count as the one of larger weight."""
    X = np.array([0.0, 0.0, 1.0, 2.0, 3.0])[:, None]
    y = np.array([0, 1, 1, 0, 0])
    # The copies weigh more as class 0, so row 1.0 is the only one of class 1.
    fold = fold_numbers(X, y, np.array([3.0, 1.0, 1.0, 1.0, 1.0]), 2, seed=0)
    assert fold[2] == -1
    # As class 1 they are two.
    fold = fold_numbers(X, y, np.array([1.0, 3.0, 1.0, 1.0, 1.0]), 2, seed=0)
    assert fold.min() == 0


@pytest.mark.parametrize("labels", [None, np.array([0, 1, 0, 1, 0])])
def test_more_folds_than_rows(labels):
    X = np.array([0.0, 1.0, 2.0, 3.0, 3.0])[:, None]
    parts = cross_fitting_parts(10, X, labels, np.ones(5), seed=0)
    assert all(len(seen) and len(held) for seen, held in parts)


def test_too_few_rows_for_folds():
    with pytest.raises(
        ValueError, match=r"at least 2 distinct rows for .*, got 1.*n_samples=3"
    ):
        fold_numbers(np.ones((3, 2)), None, np.ones(3), 5, seed=0)
    with pytest.raises(
        ValueError, match=r"at least 2 distinct rows of one class .*, got 2"
    ):
        fold_numbers(np.eye(2), np.array([0, 1]), np.ones(2), 5, seed=0)


def test_parts_are_complements():
    X = np.random.default_rng(0).normal(size=(17, 2))
    parts = cross_fitting_parts(5, X, None, np.ones(17), seed=0)
    held = np.sort(np.concatenate([held for _, held in parts]))
    np.testing.assert_array_equal(held, np.arange(17))
    for seen, held in parts:
        np.testing.assert_array_equal(np.union1d(seen, held), np.arange(17))
        assert not np.intersect1d(seen, held).size


@pytest.mark.parametrize("container", [np.asarray, sp.csr_array, sp.csc_array])
def test_enough_folds(container):
    """They hold out 1,000 rows, of which copies count once."""
    X = np.arange(1, 1501.0)[:, None]
    copies = np.repeat(X, 3, axis=0)
    for rows in (X, copies):
        weight = np.ones(len(rows))
        parts = cross_fitting_parts(5, rows, None, weight, seed=0)
        assert len(enough_folds(parts, container(rows))) == 4
        assert len(enough_folds(parts, container(rows), least=5)) == 5
        assert len(enough_folds(parts[:2], container(rows))) == 2


def test_parts_of_a_splitter_among_some_rows():
    """A splitter gets all rows, and its folds are positions among the kept rows."""
    X, y = np.arange(9.0)[:, None], np.zeros(9)
    rows = np.array([0, 1, 4, 8])
    parts = splitter_parts(rows, KFold(3), X, y, classifier=False)
    held = [rows[held].tolist() for _, held in parts]
    seen = [rows[seen].tolist() for seen, _ in parts]
    assert held == [[0, 1], [4], [8]]
    assert seen == [[4, 8], [0, 1, 8], [0, 1, 4]]
    # Folds that hold out none of these rows are dropped.
    assert len(splitter_parts(rows[:3], KFold(3), X, y, classifier=False)) == 2
    with pytest.raises(ValueError, match="must hold out some sample of positive"):
        splitter_parts(rows[:2], [([0, 1], [5])], X, y, classifier=False)
    with pytest.raises(ValueError, match="must leave training samples of positive"):
        splitter_parts(rows, [([2, 3], [0, 1]), ([0], [1])], X, y, classifier=False)


@pytest.mark.parametrize(
    "cv",
    [np.array(2), [1, 2], [([0], [99])], [([0], [1], [2])], [([0.5], [1])], 0.5, "5"],
    ids=str,
)
def test_splitters_that_are_none(cv):
    X, y = np.arange(9.0)[:, None], np.zeros(9)
    with pytest.raises(ValueError, match="cv must be an int, a splitter, or an itera"):
        splitter_parts(np.arange(9), cv, X, y, classifier=False)


@pytest.mark.parametrize(
    ("estimator", "method"),
    [
        (AddedNeuronRegressor((3,), max_iter=2, random_state=0), "predict"),
        (AddedNeuronClassifier((3,), max_iter=2, random_state=0), "predict_proba"),
        (ResNetBasisRegressor(max_iter=2, random_state=0), "predict"),
        (ResNetBasisClassifier(max_iter=2, random_state=0), "predict_proba"),
        (GradientBasisRefit(mlp()), "predict"),
        (GradientBasisRefit(mlp()), "transform"),
        (GradientBasisRefit(mlp(), n_components=2), "transform"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_outputs_that_overflow(estimator, method):
    X = np.random.default_rng(0).standard_normal((20, 2))
    y = X[:, 0] > 0 if is_classifier(estimator) else 10 * X[:, 0]
    model = clone(estimator).fit(X, y)
    with pytest.raises(ValueError, match="X must have finite outputs"):
        getattr(model, method)(np.full(X.shape, 1.7e308))


@pytest.mark.parametrize("value", [np.array(["poisson", "log_loss"]), None, object()])
@pytest.mark.parametrize(
    "estimator",
    [
        AddedNeuronRegressor(),
        AddedNeuronClassifier(),
        ResNetBasisRegressor(),
        ResNetBasisClassifier(),
        GradientBasisRefit(AddedNeuronRegressor()),
        GradientBasisRefit(AddedNeuronClassifier()),
    ],
    ids=str,
)
def test_tags_and_methods_of_parameters_that_are_not_valid(estimator, value):
    """Tags and methods are available before `fit` refuses the parameters."""
    model = clone(estimator)
    inner = getattr(model, "estimator", model).set_params(loss=value)
    assert get_tags(model).estimator_type == get_tags(estimator).estimator_type
    assert not hasattr(inner, "predict_proba")
    if hasattr(inner, "partial_fit"):
        assert hasattr(inner.set_params(solver=value), "partial_fit")
    X = np.random.default_rng(0).standard_normal((20, 2))
    with pytest.raises(ValueError, match=r"The '(loss|solver)' parameter of "):
        model.fit(X, X[:, 0] > 0)


@pytest.mark.parametrize("value", [-5, np.nan, np.inf])
@pytest.mark.parametrize(
    "estimator",
    [
        AddedNeuronClassifier((3,), max_iter=2),
        ResNetBasisClassifier(hidden_layer_sizes=(3,), max_iter=2),
        GradientBasisRefit(MLPClassifier((3,), max_iter=2)),
    ],
)
def test_invalid_class_weights(estimator, value):
    """A negative weight is an error, as it would leave its class out."""
    X = np.random.default_rng(0).standard_normal((20, 2))
    model = clone(estimator).set_params(class_weight={0: 1, 1: value})
    with pytest.raises(ValueError, match="class_weight must hold finite numbers >= 0"):
        model.fit(X, (X[:, 0] > 0).astype(int))


@pytest.mark.parametrize("kind", [float, object])
def test_missing_values_are_equal(kind):
    """Samples that miss the same values are the same sample."""
    X = np.array([[np.nan, 1], [0, 1], [np.nan, 1], [np.nan, 2]], dtype=kind)
    codes = row_codes(X)
    assert codes[0] == codes[2]
    assert len(set(codes)) == 3
