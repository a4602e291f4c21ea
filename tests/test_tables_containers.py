"""Columns and weights of other libraries: equal values are equal, whatever holds them.

pyarrow is not required; its cases run if it is installed.
"""

import datetime as dt

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.model_selection import TimeSeriesSplit, cross_val_score
from table_cases import CURVE, WEIGHT, N, X, Y, small

from sklearn_pgb import GradientBasisRefit, ResNetBasisClassifier


def series(values, dtype):
    """A pandas Series; skips dtypes of pyarrow if it is not installed."""
    if "pyarrow" in dtype:
        pytest.importorskip("pyarrow")
    return pd.Series(values, dtype=dtype)


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
