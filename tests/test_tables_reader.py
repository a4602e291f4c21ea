"""Tables as matrices: every kind of column, container and missing value."""

import datetime as dt
import re
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from numpy.testing import assert_array_equal
from sklearn.preprocessing import OneHotEncoder, TargetEncoder

from sklearn_pgb._budget import RARE_SAMPLES, SQUASH
from sklearn_pgb._tables._columns import read_table
from sklearn_pgb._tables._inputs import (
    Indicators,
    RobustScale,
    RobustSquash,
    TargetMeans,
    forest_inputs,
    network_inputs,
    tree_inputs,
)
from sklearn_pgb._tables._reader import TableReader

NAN = np.nan
DAY = dt.datetime(1970, 1, 3, 12)  # 2.5 days
HOUR = dt.timedelta(hours=1)
BERLIN = dt.timezone(HOUR)


def learn(X, *categorical):
    return TableReader.of(read_table(X), *categorical)


def objects(*values):
    """A column of objects, whatever pandas would make of the values."""
    return pd.Series(values, dtype=object)


# Column and what it becomes: numbers, or codes and labels.
NUMBERS = {
    "int": ([1, 2, 3], [1, 2, 3]),
    "float": ([1.5, NAN, 2], [1.5, NAN, 2]),
    "float32": (np.array([1, NAN, 3], "f4"), [1, NAN, 3]),
    "Int64": (pd.array([1, None, 3], "Int64"), [1, NAN, 3]),
    "Float64": (pd.array([1.5, None, 3], "Float64"), [1.5, NAN, 3]),
    "bool": ([True, False, True], [1, 0, 1]),
    "boolean": (pd.array([True, None, False], "boolean"), [1, NAN, 0]),
    "objects of numbers": (objects(1, None, 2.5), [1, NAN, 2.5]),
    "objects of booleans": (objects(True, pd.NA, np.bool_(False)), [1, NAN, 0]),
    "decimals": (objects(Decimal("1.5"), None, Decimal(2)), [1.5, NAN, 2]),
    "decimals that are no number": (
        objects(Decimal("NaN"), 1, Decimal("sNaN")),
        [NAN, 1, NAN],
    ),
    "sparse": (pd.arrays.SparseArray([0, 0, 1.0]), [0, 0, 1]),
    "datetimes": (pd.to_datetime([DAY, None, "1970-01-01"]), [2.5, NAN, 0]),
    "time zones": (
        pd.to_datetime([DAY, None, "1970-01-02"]).tz_localize("Etc/GMT-12"),
        [2, NAN, 0.5],
    ),
    "objects of dates": (objects(dt.date(1970, 1, 3), None, pd.NaT), [2, NAN, NAN]),
    "objects of datetimes": (
        objects(DAY, np.datetime64("NaT"), np.datetime64("1970-01-02")),
        [2.5, NAN, 1],
    ),
    "objects with time zones": (
        objects(DAY.replace(tzinfo=BERLIN), None, DAY.replace(tzinfo=dt.UTC)),
        [2.5 - 1 / 24, NAN, 2.5],
    ),
    "text of dates": (["1970-01-03", None, "1969-12-31"], [2, NAN, -1]),
    "text of times": (
        ["1970-01-03 12:00", "1970-01-01T06:00:00.000", "1970-01-02T01:00:00+01:00"],
        [2.5, 0.25, 1],
    ),
    "first year": (["0001-01-01T00:30+02:00"], [-719162 - 1.5 / 24]),
    "last year": (
        objects(dt.datetime(9999, 12, 31, 23, 30, tzinfo=dt.timezone(-HOUR))),
        [2932896 + 24.5 / 24],
    ),
    "timedeltas": (pd.to_timedelta(["1D", None, "12h"]), [1, NAN, 0.5]),
    "objects of timedeltas": (
        objects(dt.timedelta(1), pd.NaT, np.timedelta64(12, "h")),
        [1, NAN, 0.5],
    ),
    "times": (objects(dt.time(6), None, dt.time(12)), [0.25, NAN, 0.5]),
    "times with zones": (objects(dt.time(6, tzinfo=dt.UTC), None), [0.25, NAN]),
    "all NaT": ([pd.NaT] * 3, [NAN] * 3),
}
LABELS = {
    "str": (["b", None, "a"], ("a", "b"), [1, NAN, 0]),
    "string": (pd.array(["a", pd.NA, "a"], "string"), ("a",), [0, NAN, 0]),
    "objects of strings": (objects("b", NAN, "b"), ("b",), [0, NAN, 0]),
    "categories": (pd.Categorical(["x", None, "x"], ["y", "x"]), ("x",), [0, NAN, 0]),
    "categories of numbers": (pd.Categorical([3, 1, 3]), (3, 1), [0, 1, 0]),
    "mixed": (objects(1, "a", "a"), ("a", 1), [1, 0, 0]),
    "empty strings": (["", "a", ""], ("", "a"), [0, 1, 0]),
    "dates and others": (
        ["1970-01-02", "new", "new"],
        ("new", "1970-01-02"),
        [1, 0, 0],
    ),
    "no such date": (["1970-02-30"] * 3, ("1970-02-30",), [0, 0, 0]),
    "other formats": (
        ["1/2/1970", "19700102", "1970"],
        ("1/2/1970", "1970", "19700102"),
        [0, 2, 1],
    ),
    "dates and numbers": (objects("1970-01-02", 1, 1), (1, "1970-01-02"), [1, 0, 0]),
    "categories of dates": (
        pd.Categorical(["1970-01-02"] * 3),
        ("1970-01-02",),
        [0] * 3,
    ),
    "decimals and others": (
        objects(Decimal("NaN"), "a", Decimal("sNaN")),
        ("a",),
        [NAN, 0, NAN],
    ),
    "all None": (objects(None, None, None), (), [NAN] * 3),
    "bytes": (objects(b"a", b"b", b"a"), (b"a", b"b"), [0, 1, 0]),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_of_pandas(name):
    column, expected = NUMBERS[name]
    frame = pd.DataFrame({"c": column})
    reader, matrix = learn(frame)
    assert reader.labels == (None,)
    assert matrix.dtype == np.float64
    assert_array_equal(matrix[:, 0], expected)
    assert_array_equal(reader.read(read_table(frame)), matrix)


@pytest.mark.parametrize("name", LABELS)
def test_labels_of_pandas(name):
    column, labels, codes = LABELS[name]
    frame = pd.DataFrame({"c": column})
    reader, matrix = learn(frame)
    assert reader.labels == (labels,)
    assert_array_equal(matrix[:, 0], codes)
    assert_array_equal(reader.read(read_table(frame)), matrix)


@pytest.mark.parametrize(
    ("dtype", "values", "expected"),
    [
        ("Int8", [1, None, 3], [1, NAN, 3]),
        ("Float32", [1.5, float("nan"), None], [1.5, NAN, NAN]),
        ("Boolean", [True, None, False], [1, NAN, 0]),
        ("Date", [dt.date(1970, 1, 3), None, dt.date(1969, 12, 31)], [2, NAN, -1]),
        ("Datetime", [DAY, None, DAY], [2.5, NAN, 2.5]),
        ("Duration", [dt.timedelta(1), None, dt.timedelta(hours=12)], [1, NAN, 0.5]),
        ("Time", [dt.time(6), None, dt.time(12)], [0.25, NAN, 0.5]),
    ],
)
def test_numbers_of_polars(dtype, values, expected):
    pl = pytest.importorskip("polars")
    frame = pl.DataFrame({"c": pl.Series(values, dtype=getattr(pl, dtype))})
    reader, matrix = learn(frame)
    assert reader.names == ("c",)
    assert reader.labels == (None,)
    assert_array_equal(matrix[:, 0], expected)


@pytest.mark.parametrize(
    ("dtype", "values", "labels", "codes"),
    [
        ("Null", [None] * 3, (), [NAN] * 3),
        ("String", [None] * 3, (), [NAN] * 3),
        ("String", ["b", None, "b"], ("b",), [0, NAN, 0]),
        ("Categorical", ["b", None, "b"], ("b",), [0, NAN, 0]),
    ],
)
def test_labels_of_polars(dtype, values, labels, codes):
    pl = pytest.importorskip("polars")
    frame = pl.DataFrame({"c": pl.Series(values, dtype=getattr(pl, dtype))})
    reader, matrix = learn(frame)
    assert reader.labels == (labels,)
    assert_array_equal(matrix[:, 0], codes)


def test_a_frame_is_the_same_in_both_libraries():
    pl = pytest.importorskip("polars")
    columns = {"n": [1.0, NAN, 3], "s": ["a", "b", "b"], "d": [DAY, DAY, None]}
    ours, theirs = (learn(kind(columns)) for kind in (pd.DataFrame, pl.DataFrame))
    assert ours[0].labels == theirs[0].labels == (None, ("b", "a"), None)
    assert_array_equal(ours[1], theirs[1])
    table = read_table(pl.DataFrame(columns))
    assert_array_equal(ours[0].read(table), ours[1])


ROWS = [[1, "a", 2.5], [2, "b", None], [3, "b", NAN]]
MATRIX = [[1, 1, 2.5], [2, 0, NAN], [3, 0, NAN]]


@pytest.mark.parametrize("make", [list, lambda rows: np.array(rows, dtype=object)])
def test_lists_and_arrays_of_objects(make):
    """A number next to a string stays a number."""
    reader, matrix = learn(make(ROWS))
    assert reader.names is None
    assert reader.labels == (None, ("b", "a"), None)
    assert_array_equal(matrix, MATRIX)


@pytest.mark.parametrize("make", [sp.csr_array, sp.coo_matrix, np.asfortranarray])
def test_matrices_of_numbers(make):
    matrix = np.array([[0, 1.0], [2, 0]])
    reader, read = learn(make(matrix))
    assert reader.labels == (None, None)
    assert_array_equal(read, matrix)


def test_arrays_of_dates_and_strings():
    dates = np.array([["1970-01-02", "NaT"]], dtype="M8[D]")
    assert_array_equal(learn(dates)[1], [[1, NAN]])
    reader, matrix = learn(np.array([["1"], ["2"], ["2"]]))
    assert reader.labels == (("2", "1"),)
    assert_array_equal(matrix, [[1], [0], [0]])


def test_text_of_dates_after_dates():
    """Both are the same column, but text in place of numbers is an error."""
    dates = pd.DataFrame({"c": pd.to_datetime(["1970-01-02", "1970-01-05"])})
    reader, matrix = learn(dates)
    text = pd.DataFrame({"c": ["1970-01-02", "1970-01-05"]})
    assert_array_equal(reader.read(read_table(text)), matrix)
    assert_array_equal(learn(text)[0].read(read_table(dates)), matrix)
    text.loc[1, "c"] = "soon"
    with pytest.raises(
        ValueError, match="dates in column 'c', as in fit, got labels such as 'soon'"
    ):
        reader.read(read_table(text))


def test_a_column_of_dates_and_a_few_labels_is_named():
    frame = pd.DataFrame({"day": [f"2024-05-{day}" for day in range(10, 30)]})
    frame.loc[3, "day"] = "unknown"
    with pytest.warns(UserWarning, match="Column 'day' has dates.*such as 'unknown'"):
        reader, _ = learn(frame)
    assert len(reader.labels[0]) == 20


def test_unseen_categories_are_missing():
    reader, _ = learn(pd.DataFrame({"c": ["a", "b"]}))
    new = read_table(pd.DataFrame({"c": ["b", "new", None]}))
    assert_array_equal(reader.read(new), [[1], [NAN], [NAN]])


@pytest.mark.parametrize(
    "categorical", [["c"], [1], [-1], np.array([False, True]), [np.int64(1), "c"]]
)
def test_chosen_categories(categorical):
    """Numbers become codes, strings are categories in any case, masks stay as given."""
    before = np.array(categorical)
    frame = pd.DataFrame({"s": list("aab"), "c": [7.0, 5.0, 5.0]})
    reader, matrix = learn(frame, categorical)
    assert reader.labels == (("a", "b"), (5.0, 7.0))
    assert_array_equal(matrix, [[0, 1], [0, 0], [1, 0]])
    assert_array_equal(np.array(categorical), before)
    dates = pd.DataFrame({"s": list("aab"), "c": ["1970-01-02"] * 3})
    assert learn(dates, categorical)[0].labels[1] == ("1970-01-02",)
    new = read_table(pd.DataFrame({"s": ["a"], "c": [7]}))
    assert_array_equal(reader.read(new), [[0, 1]])


def test_missing_values_of_a_chosen_category():
    reader, matrix = learn(np.array([[1], [NAN], [2], [1]]), [0])
    assert reader.labels == ((1.0, 2.0),)
    assert_array_equal(matrix[:, 0], [0, NAN, 1, 0])


@pytest.mark.parametrize("bad", ["new", 2, -3, 0.5, True])
def test_unknown_chosen_category(bad):
    message = (
        "categorical_features must be .* names among .*'s', 'c'.*positions below 2"
    )
    with pytest.raises(ValueError, match=message):
        learn(pd.DataFrame({"s": ["a"], "c": [1]}), [bad])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"a": [1], "c": ["x"]}, r"\['b'\] are missing and \['c'\] are new"),
        ({"b": ["x"], "a": [1]}, r"in their order.*Pass X\[columns of fit\]"),
        (
            {"a": ["x"], "b": ["x"]},
            "must have numbers or dates in column 'a'.*labels such as",
        ),
    ],
)
def test_changed_columns(columns, message):
    reader, _ = learn(pd.DataFrame({"a": [1], "b": ["x"]}))
    with pytest.raises(ValueError, match=message):
        reader.read(read_table(pd.DataFrame(columns)))


MULTI = pd.MultiIndex.from_tuples([("a", "b"), ("a", "c")])


@pytest.mark.parametrize("names", [[10, 20], MULTI, ["a", "b"]])
def test_names_of_any_type(names):
    """Reordered columns are named as such, and categories are chosen by name."""
    frame = pd.DataFrame(np.eye(2), columns=names)
    reader, _ = learn(frame)
    with pytest.raises(ValueError, match="in their order, but the order is "):
        reader.read(read_table(frame[frame.columns[::-1]]))
    for chosen in ([frame.columns[1]], frame.columns[1:], [-1], [str(reader.names[1])]):
        assert learn(frame, chosen)[0].labels == (None, (0.0, 1.0))
    with pytest.raises(ValueError, match=r"names among .*, got 99"):
        learn(frame, [99])


def test_names_that_are_positions():
    frame = pd.DataFrame(np.eye(3), columns=[1, 0, 2])
    assert learn(frame, [2])[0].labels == (None, None, (0.0, 1.0))
    with pytest.raises(ValueError, match=r"got 1, which is the name.*Pass a mask"):
        learn(frame, [1])


def test_equal_names_of_pyarrow():
    pa = pytest.importorskip("pyarrow")
    table = pa.table([pa.array([1.0]), pa.array([2.0])], names=["a", "a"])
    with pytest.raises(ValueError, match=r"each column, got \['a', 'a'\]. Rename"):
        read_table(table)


def test_another_number_of_columns():
    reader, _ = learn(np.eye(2))
    with pytest.raises(ValueError, match="X has 3 features, but fit saw 2 features"):
        reader.read(read_table(np.eye(3)))


@pytest.mark.parametrize(
    ("table", "kind", "message"),
    [
        (np.array([[1j]]), ValueError, "real numbers, got complex ones"),
        (np.array([[1j], [2]], object), ValueError, "real numbers, got complex ones"),
        (pd.DataFrame({"c": [1j]}), ValueError, "real numbers, got complex ones"),
        (pd.DataFrame({"c": [[1], [2]]}), ValueError, "column 'c', got .*Convert it"),
        (pd.DataFrame(np.eye(2), columns=["a", "a"]), ValueError, "different name"),
        (np.eye(2).view(np.matrix), TypeError, r"got a np.matrix.*by np.asarray\(X\)"),
        ([[1.0], [1.0, 2.0]], ValueError, "different lengths.*Fill up the samples"),
        ([[(1,)], [(1, 2)]], ValueError, "sequences as values.*in a data frame"),
        (pd.DataFrame({"c": [(1, [2])]}), ValueError, "column 'c', got tuple"),
        (np.ones(3), ValueError, "2 axes, got 1. Reshape your data"),
        (pd.Series([1, 2]), ValueError, r"2 axes, got a Series.*X.to_frame\(\).T"),
        ([{"c": 1}], ValueError, r"2 axes, got a list with 1.*pd.DataFrame\(X\)"),
        (torch.ones(2, 1, requires_grad=True), TypeError, "got a Tensor.*detach"),
        (torch.ones(2, 1, dtype=torch.bfloat16), TypeError, r"got a Tensor.*float\(\)"),
        ({"c": [1]}, TypeError, "got a dict. Make a data frame"),
        (None, ValueError, "got a NoneType. Convert it"),
        (np.ones((2, 0)), ValueError, "a minimum of 1 is required"),
    ],
)
def test_tables_that_cannot_be_read(table, kind, message):
    with pytest.raises(kind, match=message):
        learn(table)


# --- inputs of the members ------------------------------------------------------------


def test_squash_scales_and_bounds(seed):
    """Normal values have deviation one, and no value passes the bound."""
    X = np.random.default_rng(seed).normal(5, 3, size=(10_000, 1))
    squash = RobustSquash().fit(X)
    assert squash.center_ / squash.unit_ == pytest.approx(5, abs=0.15)
    assert squash.scale_ / squash.unit_ == pytest.approx(3, rel=0.05)
    far = squash.transform(np.array([[5.0], [5 + 3e-3], [1e9], [-1e300]]))
    np.testing.assert_allclose(far[:, 0], [0, 1e-3, SQUASH, -SQUASH], atol=0.05)


def test_squash_of_columns_without_spread():
    """Equal quartiles: the deviation; all values equal: no scale."""
    X = np.array([[0, 7.0], [0, 7], [0, 7], [0, 7], [4, 7]])
    squash = RobustSquash().fit(X)
    scale = squash.scale_ / squash.unit_
    np.testing.assert_allclose(scale, [np.std([0, 0, 0, 0, 4]), 8])
    assert_array_equal(squash.transform(X)[:, 1], 0)


@pytest.mark.parametrize("offset", [0.0, 2.0**40])
@pytest.mark.parametrize("unit", [2.0**-1000, 2.0**-30, 1.0, 2.0**980])
def test_scaled_numbers_have_no_units(offset, unit, seed):
    """Equal values in other units, of which none is rounded."""
    X = np.random.default_rng(seed).integers(-40, 40, (300, 3)).astype(float)
    X[:, 1] = X[:, 1] == 0
    X[::7, 2] = NAN
    expected = RobustScale().fit_transform(X)
    assert_array_equal(np.isnan(expected), np.isnan(X))
    with np.errstate(all="raise", under="ignore"):
        actual = RobustScale().fit_transform((offset + X) * unit)
    np.testing.assert_allclose(actual, expected, rtol=1e-13)


def codes_and_targets(seed, n=60):
    rng = np.random.default_rng(seed)
    X = rng.integers(0, 4, size=(n, 2)).astype(float)
    X[::9, 0] = NAN
    return X, X[:, 1] + rng.normal(size=n)


def test_means_are_those_of_scikit_learn(seed):
    X, y = codes_and_targets(seed)
    means, encoder = TargetMeans(False).fit(X, y), TargetEncoder().fit(X, y)
    new = np.array([[0, 1], [NAN, 9], [9, NAN]])
    assert_array_equal(means.transform(new), encoder.transform(new))


def test_indicators_are_those_of_scikit_learn(seed):
    """Of frequent, rare, missing and unknown codes, also larger ones than in `fit`."""
    X, _ = codes_and_targets(seed, n=200)
    X[:2, 0] = 7
    X[:, 1] = np.where(X[:, 1] == 0, NAN, X[:, 1])
    encoder = OneHotEncoder(
        min_frequency=RARE_SAMPLES,
        handle_unknown="infrequent_if_exist",
        sparse_output=False,
    ).fit(X)
    new = np.array([[7, 1], [5, 3], [NAN, NAN], [99, 0], [3, 99]])
    for rows in (X, new):
        found = Indicators().fit(X).transform(rows)
        assert_array_equal(found, encoder.transform(rows))


@pytest.mark.parametrize("n_classes", [2, 3])
def test_means_of_classes(n_classes, seed):
    """One column for two classes, else one for each, as scikit-learn's in its order."""
    X, y = codes_and_targets(seed)
    labels = np.digitize(y, [1, 3][: n_classes - 1])
    means = TargetMeans(True).fit(X, labels).transform(X)
    encoder = TargetEncoder().fit(X, labels)
    expected = encoder.transform(X)
    if n_classes == 3:
        expected = expected.reshape(-1, 2, 3).transpose(0, 2, 1).reshape(len(X), -1)
    np.testing.assert_allclose(means, expected)


@pytest.mark.parametrize("kind", ["targets", "labels"])
def test_means_of_several_columns(kind, seed):
    X, y = codes_and_targets(seed)
    Y = (
        np.column_stack([y, -y])
        if kind == "targets"
        else np.column_stack([y > 1, y > 2])
    )
    both = TargetMeans(kind == "labels").fit_transform(X, Y)
    each = [TargetMeans(False).fit_transform(X, column) for column in Y.T.astype(float)]
    assert_array_equal(both, np.column_stack(each))


def test_counts_are_not_classes(seed):
    """Whole numbers as targets give one column, not one for each of their values."""
    X, y = codes_and_targets(seed)
    assert TargetMeans(False).fit_transform(X, np.round(y)).shape == (60, 2)


def test_own_target_is_not_in_a_training_mean():
    """A category of one sample gets the mean of other samples."""
    X, y = np.arange(10.0)[:, None], np.r_[1e6, np.zeros(9)]
    means = TargetMeans(False)
    assert means.fit_transform(X, y)[0, 0] == 0
    assert means.transform(X)[0, 0] > 1e4


@pytest.mark.parametrize("n", [1, 2, 3])
def test_means_of_few_samples(n):
    """No fold is empty, and no class has too few samples for the folds."""
    means = TargetMeans(True).fit_transform(np.zeros((n, 1)), np.arange(n) % 2)
    assert np.isfinite(means).all()


# 31 categories are too many for indicators, 255 for trees.
SIZES = {"few": 3, "many": 31, "huge": 255}


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_inputs_of_categories(size, seed):
    """Indicators or means for networks, codes or means for trees, means for forests."""
    rng = np.random.default_rng(seed)
    code = np.tile(np.arange(size), 4).astype(float)
    X = np.column_stack([rng.normal(size=4 * size), code])
    X[0, 0] = X[1, 1] = NAN
    y, labels = rng.normal(size=4 * size), [None, tuple(range(size))]
    net = network_inputs(labels, False).fit_transform(X, y)
    # The number, its indicator of missing values, and those of the categories.
    assert net.shape[1] == (2 + size + 1 if size <= 30 else 3)
    assert np.isfinite(net).all()
    trees, codes = tree_inputs(labels, False)
    assert codes == ([1] if size <= 254 else [])
    read = trees.fit_transform(X, y)
    assert np.isnan(read).sum() == (2 if size <= 254 else 1)
    if size <= 254:
        assert_array_equal(read, X)
    forest = forest_inputs(labels, False).fit_transform(X, y)
    assert forest.shape == X.shape
    assert np.isnan(forest).sum() == 1


def test_columns_without_values():
    """Histograms of boosted trees fail on them: they become zeros, in new rows too."""
    X = np.array([[1.0, NAN], [NAN, NAN]])
    trees, _ = tree_inputs([None, None], False)
    assert_array_equal(trees.fit_transform(X, X[:, 0]), [[1, 0], [NAN, 0]])
    assert_array_equal(trees.transform(np.array([[NAN, 7.0]])), [[NAN, 0]])


def test_positions_of_codes_beside_means():
    labels = [tuple(range(300)), None, ("a", "b"), None]
    assert tree_inputs(labels, False)[1] == [1]


def test_rare_categories_share_an_indicator():
    X = np.r_[np.zeros(5), np.ones(5), 2, 3][:, None]
    net = network_inputs([(0, 1, 2, 3)], False).fit(X, np.zeros(12))
    rows = net.transform(np.array([[0], [2], [3], [NAN], [9]]))
    assert rows.shape[1] == 3
    assert_array_equal(rows[1:], np.tile(rows[1], (4, 1)))


def test_scale_of_rounding_errors():
    """They are no differences that a forest should split."""
    X = np.array([[0.3, 1.0], [0.1 + 0.2, 2.0], [0.3, 3.0]])
    found = RobustScale().fit_transform(X)
    assert np.ptp(found[:, 0]) < 1e-15
    assert np.ptp(found[:, 1]) > 1


POSITIONS = np.array([0, 1])


@pytest.mark.parametrize("names", [["a", "b"], [("a", "x"), ("a", "y")]])
@pytest.mark.parametrize("entry", [POSITIONS, pd.Series(POSITIONS), (POSITIONS, "x")])
def test_positions_in_arrays_are_refused(names, entry):
    table = read_table(pd.DataFrame([[1, 3], [2, 4]], columns=pd.Index(names)))
    message = "categorical_features must be .* a mask of length 2, got "
    with pytest.raises(ValueError, match=message + re.escape(repr(entry))):
        TableReader.of(table, [entry])


class Unreadable:
    """NumPy gets this error instead of an array."""

    def __init__(self, error):
        self.error = error

    def __array__(self, dtype=None, copy=None):
        raise self.error


@pytest.mark.parametrize("stop", ["", "."])
@pytest.mark.parametrize(
    ("error", "advice"), [(TypeError, "Convert"), (ValueError, "Fill up")]
)
def test_errors_of_libraries_end_with_one_full_stop(error, advice, stop):
    with pytest.raises(error, match=rf": no numbers\. {advice}"):
        read_table(Unreadable(error("no numbers" + stop)))
