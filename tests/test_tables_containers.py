"""Columns and weights of other libraries: equal values are equal, whatever holds them.

pyarrow is not required; its cases run if it is installed.
"""

import contextlib
import datetime as dt

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.linear_model import Ridge
from sklearn.model_selection import TimeSeriesSplit, cross_val_score
from table_cases import CURVE, WEIGHT, N, X, Y, small

from sklearn_pgb import GradientBasisRefit, ResNetBasisClassifier
from sklearn_pgb._models import _mapped_rows
from sklearn_pgb._tables._columns import read_table
from sklearn_pgb._tables._reader import TableReader


def series(values, dtype):
    """A pandas Series; skips dtypes of pyarrow if it is not installed."""
    if "pyarrow" in dtype:
        pytest.importorskip("pyarrow")
    return pd.Series(values, dtype=dtype)


def objects(values):
    return pd.Series(values, dtype=object)


# --- columns without values -----------------------------------------------------------

NO_VALUES = {
    "str": lambda: series([None] * N, "str"),
    "string": lambda: series([None] * N, "string"),
    "string[pyarrow]": lambda: series([None] * N, "string[pyarrow]"),
    "category": lambda: series([None] * N, "category"),
    "objects of None": lambda: series([None] * N, "object"),
    "objects of NaN": lambda: series([np.nan] * N, "object"),
}


@pytest.mark.parametrize("name", NO_VALUES)
def test_text_that_is_all_missing(name):
    """Every label of a new table is unknown, so it counts as missing."""
    frame = pd.DataFrame({"x": X[:, 0], "note": NO_VALUES[name]()})
    model = small("real").fit(frame, CURVE)
    expected = model.predict(frame)
    for note in (["a", "b"] * (N // 2), ["2024-05-31"] * N, [dt.date(2024, 5, 31)] * N):
        given = frame.assign(note=pd.Series(note, dtype=object))
        np.testing.assert_array_equal(model.predict(given), expected)


@pytest.mark.parametrize("dtype", ["String", "Null", "Categorical"])
def test_text_of_polars_that_is_all_missing(dtype):
    pl = pytest.importorskip("polars")
    empty = pl.Series([None] * N, dtype=getattr(pl, dtype))
    frame = pl.DataFrame({"x": X[:, 0], "note": empty})
    model = small("real").fit(frame, CURVE)
    given = frame.with_columns(note=pl.Series(["a", "b"] * (N // 2)))
    np.testing.assert_array_equal(model.predict(given), model.predict(frame))


def test_text_that_is_missing_in_the_first_folds():
    """As it was with a categorical dtype."""
    note = pd.Series([None] * (N // 2) + ["a", "b"] * (N // 4), dtype="str")
    frame = pd.DataFrame({"x": X[:, 0], "note": note})
    scores = [
        cross_val_score(
            small("real"), frame.astype(kinds), CURVE, cv=TimeSeriesSplit(3)
        )
        for kinds in ({}, {"note": "category"})
    ]
    np.testing.assert_array_equal(*scores)
    assert np.isfinite(scores[0]).all()
    first = np.repeat([1.0, 0.0], N // 2)
    model = small("real").fit(frame, CURVE, sample_weight=first)
    missing = frame.assign(note=None)
    np.testing.assert_array_equal(model.predict(frame), model.predict(missing))


# --- numbers --------------------------------------------------------------------------

LARGE = 2**53 + 1 + np.arange(N)


def large_integers(kind):
    """Integers that float64 lacks; those of Arrow are not converted silently."""
    if kind == "polars":
        return pytest.importorskip("polars").DataFrame({"id": LARGE})
    if kind == "pyarrow":
        return pytest.importorskip("pyarrow").table({"id": LARGE})
    return pd.DataFrame({"id": series(LARGE, kind)})


@pytest.mark.parametrize("kind", ["Int64", "uint64[pyarrow]", "pyarrow", "polars"])
@pytest.mark.parametrize("chosen", ["from_dtype", [0]])
def test_large_integers(kind, chosen):
    reader, matrix = TableReader.of(read_table(large_integers(kind)), chosen)
    expected = TableReader.of(read_table(LARGE[:, None]), chosen)
    assert reader.labels == expected[0].labels
    np.testing.assert_array_equal(matrix, expected[1])


@pytest.mark.parametrize("dtype", ["Int64", "int64[pyarrow]", "UInt8"])
@pytest.mark.parametrize("values", [[None, None], [None, 3]])
def test_integers_with_missing_values(values, dtype):
    reader, matrix = TableReader.of(
        read_table(pd.DataFrame({"c": series(values, dtype)}))
    )
    assert reader.labels == (None,)
    np.testing.assert_array_equal(matrix[:, 0], np.array(values, dtype=float))


TENTHS = np.array([0.1, 0.2, 0.3, 0.7])


def single(kind):
    """Numbers of single precision."""
    array = TENTHS.astype(np.float16 if "16" in kind else np.float32)
    if kind.startswith("array"):
        return array[:, None]
    if kind == "list":
        return [[value] for value in array]
    if kind == "polars":
        return pytest.importorskip("polars").DataFrame({"c": array})
    if kind == "pyarrow":
        return pytest.importorskip("pyarrow").table({"c": array})
    if kind == "object":
        return pd.DataFrame({"c": objects(list(array))})
    if kind == "category":
        return pd.DataFrame({"c": pd.Categorical(array)})
    return pd.DataFrame({"c": series(array, kind)})


SINGLE = ["array", "list", "polars", "pyarrow", "category", "object", "float32"]
SINGLE += ["Float32", "float16", "float[pyarrow]", "array16"]


@pytest.mark.parametrize("kind", SINGLE)
def test_categories_of_single_precision(kind):
    """They are the categories that double precision has for the same text."""
    reader, codes = TableReader.of(read_table(single(kind)), [0])
    twin, expected = TableReader.of(read_table(TENTHS[:, None]), [0])
    assert reader.labels == twin.labels == (tuple(TENTHS),)
    np.testing.assert_array_equal(codes, expected)
    np.testing.assert_array_equal(reader.read(read_table(TENTHS[:, None])), expected)
    np.testing.assert_array_equal(twin.read(read_table(single(kind))), expected)


@pytest.mark.parametrize("kind", [k for k in SINGLE if k != "category"])
def test_numbers_of_single_precision_keep_their_value(kind):
    matrix = TableReader.of(read_table(single(kind)))[1]
    dtype = np.float16 if "16" in kind else np.float32
    np.testing.assert_array_equal(matrix[:, 0], TENTHS.astype(dtype))


# --- unknown categories ---------------------------------------------------------------


def read_and_warn(reader, values):
    table = read_table(pd.DataFrame({"c": values}))
    codes = reader.read(table)
    reader.warn_of_unknown(reader.unknown(table, codes))
    return codes


@pytest.mark.parametrize(
    ("known", "new"),
    [
        ([1, 2, 3], ["1", "2", "3"]),
        (["1", "2", "3"], [1, 2, 3]),
        (["a", "b", "c"], ["A", "B", None]),
        ([1, 2, 3], ["1", None, None]),
        ([dt.date(2024, 5, 1)] * 3, ["2024-05-01", None, None]),
    ],
)
def test_categories_that_are_all_unknown_are_named(known, new):
    reader, _ = TableReader.of(read_table(pd.DataFrame({"c": known})), ["c"])
    message = f"No value of column 'c' is a category of fit.*{new[0]!r}.*Convert"
    with pytest.warns(UserWarning, match=message):
        codes = read_and_warn(reader, objects(new))
    assert np.isnan(codes).all()


@pytest.mark.parametrize("new", [["d"] * 3, [None] * 3, ["x", "y", "a"]])
def test_some_unknown_categories_are_as_expected(new):
    """One new category is nothing special; nor is a column that is missing."""
    reader, _ = TableReader.of(read_table(pd.DataFrame({"c": ["a", "b", "c"]})))
    read_and_warn(reader, objects(new))


def test_new_identifiers_are_as_expected():
    names = [f"name {i}" for i in range(200)]
    reader, _ = TableReader.of(read_table(pd.DataFrame({"c": names[:100]})))
    assert np.isnan(read_and_warn(reader, names[100:])).all()


@pytest.mark.parametrize("known", [False, True])
def test_unknown_categories_of_a_file_are_those_of_all_parts(
    known, tmp_path, monkeypatch
):
    """Only the second part may have categories of fit."""
    monkeypatch.setattr(_mapped_rows, "SAMPLE_BLOCK", 64)
    rng = np.random.default_rng(0)
    rows = np.c_[rng.normal(size=150), rng.integers(0, 3, 150)]
    model = small("real", categorical_features=[1]).fit(rows, rows[:, 0])
    rows[:64, 1] += 10
    rows[64:, 1] += 0 if known else 10
    np.save(tmp_path / "X.npy", rows)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    expected = contextlib.nullcontext()
    if not known:
        expected = pytest.warns(UserWarning, match="No value of column 1 is a category")
    with expected:
        np.testing.assert_allclose(model.predict(mapped), model.predict(rows))


# --- weights --------------------------------------------------------------------------

WEIGHT_DTYPES = pytest.mark.parametrize(
    "dtype", ["Int64", "UInt8", "boolean", "Float32", "int64[pyarrow]", "category"]
)


def weights_of(dtype):
    """Equal weights with the dtype and as an array of float64."""
    values = WEIGHT > 1 if dtype == "boolean" else WEIGHT.astype(int)
    return series(values, dtype), values.astype(float)


@WEIGHT_DTYPES
@pytest.mark.parametrize("name", ["real", "binary"])
def test_weights_of_any_dtype(name, dtype):
    given, expected = weights_of(dtype)
    model = small(name).fit(X, Y[name], sample_weight=given)
    twin = small(name).fit(X, Y[name], sample_weight=expected)
    np.testing.assert_array_equal(model.predict(X), twin.predict(X))
    np.testing.assert_array_equal(given.to_numpy(dtype=float), expected)


@WEIGHT_DTYPES
def test_weights_of_other_estimators(dtype):
    given, expected = weights_of(dtype)
    forest = ExtraTreesClassifier(2, random_state=0)
    refit = GradientBasisRefit(forest, class_weight={"yes": 3}, cv=2)
    resnet = ResNetBasisClassifier(max_iter=2, cv=None, random_state=0)
    y = Y["binary"]
    for model in (refit, resnet):
        predicted = model.fit(X, y, sample_weight=given).predict_proba(X)
        model.fit(X, y, sample_weight=expected)
        np.testing.assert_array_equal(predicted, model.predict_proba(X))
    residuals = [
        resnet.stationarity(X, y, sample_weight=each).x_residual
        for each in (given, expected)
    ]
    np.testing.assert_array_equal(*residuals)


# The largest of WEIGHT is 3; weights up to 2^64 keep their size.
@pytest.mark.parametrize(("power", "kept"), [(1000, 62), (-1000, -66)])
@pytest.mark.parametrize("name", ["real", "binary"])
def test_weights_of_extreme_size(name, power, kept):
    """Their squares neither overflow nor vanish; powers of two change nothing."""
    extreme, ordinary = WEIGHT * 2.0**power, WEIGHT * 2.0**kept
    model = small(name).fit(X, Y[name], sample_weight=extreme)
    twin = small(name).fit(X, Y[name], sample_weight=ordinary)
    np.testing.assert_array_equal(model.predict(X), twin.predict(X))
    assert model.oof_score_ == twin.oof_score_
    refit = GradientBasisRefit(Ridge(), cv=2, random_state=0)
    predicted = refit.fit(X, CURVE, sample_weight=extreme).predict(X)
    refit.fit(X, CURVE, sample_weight=ordinary)
    np.testing.assert_allclose(predicted, refit.predict(X), rtol=1e-6)


@pytest.mark.parametrize(
    "class_weight", [{"yes": 2.0**1000, "no": 2.0**1000}, "balanced", None]
)
def test_class_weights_of_extreme_size(class_weight):
    """Products with extreme sample weights are weights too."""
    y = Y["binary"]
    model = small("binary", class_weight=class_weight)
    probabilities = model.fit(X, y, WEIGHT * 2.0**1000).predict_proba(X)
    assert np.isfinite(probabilities).all()
    assert model.oof_score_ > 0.7
