"""Read a table column by column: numbers, dates as numbers, and categories."""

from dataclasses import dataclass
from datetime import date
from numbers import Number
from typing import Any

import narwhals.stable.v2 as nw
import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from sklearn_pgb._sklearn import is_pandas_na, is_scalar_nan


@dataclass(frozen=True, eq=False)
class Table:
    """The columns of a table.

    Attributes
    ----------
    names : tuple of str or None
        Names of the columns, if the table has any.
    columns : tuple of ndarray (n_samples,)
        Numbers are float64 with NaN for missing values. Categories are objects with
        None for missing values; booleans are numbers, and dates are days since 1970.
    n_samples : int
    """

    names: tuple[str, ...] | None
    columns: tuple[NDArray[Any], ...]
    n_samples: int


def read_table(X: Any) -> Table:
    """Read an array, a sparse matrix or a data frame.

    Parameters
    ----------
    X : array-like, sparse matrix or data frame of shape (n_samples, n_features)
        A data frame is one of pandas, polars, pyarrow or another library that narwhals
        supports.

    Returns
    -------
    Table

    Raises
    ------
    ValueError
        If X does not have two axes, or a column has values that are neither numbers
        nor labels.
    """
    if sp.issparse(X):
        X = X.toarray()  # type: ignore[attr-defined]
    frame = nw.from_native(X, eager_only=True, pass_through=True)
    if isinstance(frame, nw.DataFrame):
        names = tuple(str(name) for name in frame.columns)
        columns = [_from_series(frame[:, j], names[j]) for j in range(len(names))]
        return Table(names, tuple(columns), len(frame))
    array = X if isinstance(X, np.ndarray) else np.asarray(X)
    if array.dtype.kind == "c":
        raise ValueError(
            "X must have real numbers, got complex ones. Complex data not supported; "
            "keep real and imaginary parts as two columns."
        )
    if array.dtype.kind in "US":
        # A list with strings and numbers: keep the numbers.
        array = np.asarray(X, dtype=object)
    if array.ndim != 2:
        raise ValueError(
            f"X must be a table with 2 axes, got {array.ndim}. Reshape your data: "
            "X.reshape(-1, 1) is one feature, X.reshape(1, -1) one sample."
        )
    columns = [_from_array(array[:, j], j) for j in range(array.shape[1])]
    return Table(None, tuple(columns), len(array))


def _from_series(series: Any, name: str) -> NDArray[Any]:
    dtype = series.dtype
    if dtype.is_numeric() or dtype == nw.Boolean:
        return np.asarray(series.cast(nw.Float64).to_numpy(), dtype=np.float64)
    if dtype.is_temporal():
        return _days(series.to_numpy())
    if dtype in (nw.Categorical, nw.Enum):
        # The categories may be numbers.
        return _labels(np.array(series.to_list(), dtype=object), name)
    return _from_array(np.array(series.to_list(), dtype=object), name)


def _from_array(column: NDArray[Any], name: Any) -> NDArray[Any]:
    if column.dtype.kind in "biuf":
        return column.astype(np.float64)
    if column.dtype.kind in "mM":
        return _days(column)
    present = [value for value in column if not _is_missing(value)]
    if all(isinstance(value, Number | np.bool_) for value in present):
        values = [np.nan if _is_missing(value) else value for value in column]
        return np.array(values, dtype=np.float64)
    if all(isinstance(value, date | np.datetime64) for value in present):
        return _days(
            np.array([None if _is_missing(v) else v for v in column], "M8[us]")
        )
    return _labels(column, name)


def _labels(column: NDArray[Any], name: Any) -> NDArray[Any]:
    """Replace missing values by None; check that all others can be counted."""
    result = np.array(
        [None if _is_missing(value) else value for value in column], dtype=object
    )
    for value in result:
        try:
            hash(value)
        except TypeError:
            raise ValueError(
                f"X must have numbers or labels in column {name!r}, got "
                f"{type(value).__name__}. Convert it, or drop the column."
            ) from None
    return result


def _days(column: NDArray[Any]) -> NDArray[np.float64]:
    """Dates as days since 1970 and durations as days; NaN for missing ones."""
    if column.dtype.kind not in "mM":
        column = column.astype("M8[us]")
    values = column.astype(f"{column.dtype.kind}8[us]")
    days = values.astype(np.int64) / 86_400e6
    return np.where(np.isnat(values), np.nan, days)


def _is_missing(value: Any) -> bool:
    return value is None or is_pandas_na(value) or is_scalar_nan(value)
