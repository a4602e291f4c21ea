"""Read a table column by column: numbers, dates as numbers, and categories."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from numbers import Number
from typing import Any

import narwhals.stable.v2 as nw
import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from sklearn_pgb._estimator._border import check_has_features
from sklearn_pgb._estimator._row_codes import COMPLEX
from sklearn_pgb._samples import is_missing

# The date, perhaps with the time of day, fractions of a second and a time zone.
ISO_DATE = re.compile(
    r"\d{4}-\d{2}-\d{2}"
    r"([ T]\d{2}:\d{2}(:\d{2}(\.\d{1,6})?)?(Z|[+-]\d{2}:?\d{2})?)?"
)


@dataclass(frozen=True, eq=False)
class Table:
    """The columns of a table.

    Attributes
    ----------
    names : tuple of str or None
        Names of the columns, if the table has any.
    columns : tuple of ndarray (n_samples,)
        Numbers are float64 with NaN for missing values. Categories are objects with
        None for missing values. Booleans are numbers, dates are days since 1970, and
        durations and times of day are days.
    is_category : tuple of bool
        Columns with a categorical dtype.
    n_samples : int
    """

    names: tuple[str, ...] | None
    columns: tuple[NDArray[Any], ...]
    is_category: tuple[bool, ...]
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
    check_has_features(X)
    try:
        frame = nw.from_native(X, eager_only=True, pass_through=True)
    except nw.exceptions.DuplicateError:
        raise ValueError(
            f"X must have a different name for each column, got {list(X.columns)}. "
            "Rename or drop some."
        ) from None
    if isinstance(frame, nw.DataFrame):
        names = tuple(str(name) for name in frame.columns)
        columns = [_from_series(frame[:, j], names[j]) for j in range(len(names))]
        is_category = [
            dtype in (nw.Categorical, nw.Enum) for dtype in frame.schema.values()
        ]
        return Table(names, tuple(columns), tuple(is_category), len(frame))
    array = X if isinstance(X, np.ndarray) else np.asarray(X)
    if array.dtype.kind == "c":
        raise ValueError(COMPLEX)
    if array.dtype.kind in "US":
        # A list with strings and numbers: keep the numbers.
        array = np.asarray(X, dtype=object)
    if array.ndim == 0:
        raise ValueError(
            f"X must be an array, a list of samples or a data frame, got a "
            f"{type(X).__name__}. Convert it; collect lazy frames."
        )
    if array.ndim != 2:
        raise ValueError(
            f"X must be a table with 2 axes, got {array.ndim}. Reshape your data: "
            "X.reshape(-1, 1) is one feature, X.reshape(1, -1) one sample."
        )
    columns = [_from_array(array[:, j], j) for j in range(array.shape[1])]
    return Table(None, tuple(columns), (False,) * len(columns), len(array))


def _from_series(series: Any, name: str) -> NDArray[Any]:
    dtype = series.dtype
    if dtype.is_numeric() or dtype == nw.Boolean:
        return np.asarray(series.cast(nw.Float64).to_numpy(), dtype=np.float64)
    if dtype.is_temporal() and dtype != nw.Time:
        return _days(series.to_numpy())
    values = np.empty(len(series), dtype=object)
    values[:] = series.to_list()
    # The categories may be numbers.
    is_category = dtype in (nw.Categorical, nw.Enum)
    return _labels(values, name) if is_category else _from_array(values, name)


def _from_array(column: NDArray[Any], name: Any) -> NDArray[Any]:
    if column.dtype.kind in "biuf":
        return column.astype(np.float64)
    if column.dtype.kind in "mM":
        return _days(column)
    present = [value for value in column if not is_missing(value)]
    for kinds, convert in (
        (Number | np.bool_, _number),
        (date | np.datetime64, _day),
        (timedelta | np.timedelta64 | time, _duration),
    ):
        if all(isinstance(value, kinds) for value in present):
            missing = (is_missing(value) for value in column)
            pairs = zip(column, missing, strict=True)
            values = [np.nan if gone else convert(value) for value, gone in pairs]
            return np.array(values, dtype=np.float64)
    return _labels(column, name)


def _number(value: Any) -> float:
    if isinstance(value, complex | np.complexfloating):
        raise ValueError(COMPLEX)
    return float(value)


def _day(value: Any) -> float:
    """Days since 1970, in UTC if the time zone is known."""
    if isinstance(value, datetime) and value.tzinfo is not None:
        value = value.astimezone(UTC).replace(tzinfo=None)
    return float(_days(np.array([value], dtype="M8[us]"))[0])


def _duration(value: Any) -> float:
    """Convert a duration, or a time of day since midnight, to days."""
    if isinstance(value, time):
        value = datetime.combine(date.min, value) - datetime.min
    return float(_days(np.array([value], dtype="m8[us]"))[0])


def _labels(column: NDArray[Any], name: Any) -> NDArray[Any]:
    """Replace missing values by None; check that all others can be counted."""
    result = np.array(
        [None if is_missing(value) else value for value in column], dtype=object
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


def days_from_text(column: Iterable[Any]) -> NDArray[np.float64] | None:
    """Days since 1970 of dates in the format of ISO 8601; None if a value is no date.

    Missing values are NaN.
    """
    days: dict[str | None, float] = {None: np.nan}
    for value in column:
        if value not in days:
            if not (isinstance(value, str) and ISO_DATE.fullmatch(value)):
                return None
            try:
                days[value] = _day(datetime.fromisoformat(value))
            except ValueError:
                return None
    return np.array([days[value] for value in column], dtype=np.float64)


def other_than_date(column: Iterable[Any]) -> Any:
    """Return a label that is not a date, if most labels are dates; else None."""
    labels = [value for value in dict.fromkeys(column) if value is not None]
    others = [label for label in labels if days_from_text([label]) is None]
    return others[0] if 0 < len(others) < len(labels) / 2 else None


def _days(column: NDArray[Any]) -> NDArray[np.float64]:
    """Dates as days since 1970 and durations as days; NaN for missing ones."""
    if column.dtype.kind not in "mM":
        column = column.astype("M8[us]")
    values = column.astype(f"{column.dtype.kind}8[us]")
    days = values.astype(np.int64) / 86_400e6
    return np.where(np.isnat(values), np.nan, days)
