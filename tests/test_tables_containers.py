"""Columns and weights of other libraries: equal values are equal, whatever holds them.

pyarrow is not required; its cases run if it is installed.
"""

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import ExtraTreesClassifier
from table_cases import WEIGHT, X, Y, small

from sklearn_pgb import GradientBasisRefit, ResNetBasisClassifier


def series(values, dtype):
    """A pandas Series; skips dtypes of pyarrow if it is not installed."""
    if "pyarrow" in dtype:
        pytest.importorskip("pyarrow")
    return pd.Series(values, dtype=dtype)


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
