"""Read a table column by column, whatever its container."""

from dataclasses import dataclass, replace
from typing import Any, Self

import narwhals.stable.v2 as nw
import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from sklearn_pgb._estimator._border import check_has_features
from sklearn_pgb._estimator._row_codes import COMPLEX

# Precisions below that of float64. Labels of such numbers are their shortest text.
_PRECISIONS = {"Float16": np.dtype(np.float16), "Float32": np.dtype(np.float32)}

# From 2**53 on, float64 does not hold every integer.
_LARGE = 2 / np.finfo(np.float64).eps


@dataclass(frozen=True, eq=False)
class Table:
    """The columns of a table, with values as they came.

    Attributes
    ----------
    names : tuple of str or None
        Names of the columns, if the table has any.
    columns : tuple of ndarray (n_samples,)
        Columns of numbers or booleans are float64, or as they came if they have less
        precision; integers only if this is exact. Dates are datetime64, in UTC if the
        time zone is known, and durations are timedelta64. All other columns are
        objects.
    is_category : tuple of bool
        Columns with a categorical dtype.
    n_samples : int
    keys : tuple or None
        Names as they came, such as integers, or tuples of a MultiIndex.
    """

    names: tuple[str, ...] | None
    columns: tuple[NDArray[Any], ...]
    is_category: tuple[bool, ...]
    n_samples: int
    keys: tuple[Any, ...] | None = None

    def __len__(self) -> int:
        return self.n_samples

    def rows(self, index: NDArray[np.intp]) -> Self:
        """Select samples."""
        columns = tuple(column[index] for column in self.columns)
        return replace(self, columns=columns, n_samples=len(index))


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
        If X does not have two axes, or is complex.
    TypeError
        If X is a mapping or a np.matrix.
    """
    if isinstance(X, np.matrix):
        raise TypeError(
            "X must be an array or a data frame, got a np.matrix, which is not "
            "supported. Convert it by np.asarray(X)."
        )
    if sp.issparse(X):
        X = X.toarray()  # type: ignore[attr-defined]
    check_has_features(X)
    try:
        frame = nw.from_native(X, eager_only=True, pass_through=True)
    except nw.exceptions.DuplicateError:
        raise ValueError(
            f"X must have a different name for each column, got {_names(X)}. Rename "
            "or drop some."
        ) from None
    if isinstance(frame, nw.DataFrame):
        names = tuple(str(name) for name in frame.columns)
        columns = [_from_series(frame[:, j]) for j in range(len(names))]
        is_category = [
            dtype in (nw.Categorical, nw.Enum) for dtype in frame.schema.values()
        ]
        keys = tuple(frame.columns)
        return Table(names, tuple(columns), tuple(is_category), len(frame), keys)
    try:
        array = X if isinstance(X, np.ndarray) else np.asarray(X)
    except (TypeError, RuntimeError) as error:
        # For example tensors with gradients, or in bfloat16.
        raise TypeError(
            f"X must be an array, a list of samples or a data frame, got a "
            f"{type(X).__name__} that NumPy can't read: {str(error).rstrip('.')}. "
            "Convert it; tensors by X.detach().cpu().float()."
        ) from error
    except ValueError as error:
        raise ValueError(
            "X must have one value for each sample and feature, got samples of "
            "different lengths, or sequences as values: "
            f"{str(error).rstrip('.')}. Fill up the samples; pass tuples in a data "
            "frame."
        ) from error
    if array.dtype.kind == "c":
        raise ValueError(COMPLEX)
    is_list = not isinstance(X, np.ndarray)
    if array.dtype.kind in "US" or (is_list and not _is_exact(array)):
        # A list with strings and numbers, or with large integers: keep the numbers.
        array = np.asarray(X, dtype=object)
    if array.ndim == 0:
        raise ValueError(
            f"X must be an array, a list of samples or a data frame, got a "
            f"{type(X).__name__}. Convert it; collect lazy frames."
        )
    if array.ndim != 2 and not hasattr(X, "reshape"):
        raise ValueError(
            f"X must be a table with 2 axes, got a {type(X).__name__} with "
            f"{array.ndim}. Pass a list with a list of values for each sample, or a "
            "data frame: pd.DataFrame(X) for a list of dicts or for a Series that is "
            "one feature, and X.to_frame().T for a Series that is one sample."
        )
    if array.ndim != 2:
        raise ValueError(
            f"X must be a table with 2 axes, got {array.ndim}. Reshape your data: "
            "X.reshape(-1, 1) is one feature, X.reshape(1, -1) one sample."
        )
    columns = [_from_array(array[:, j]) for j in range(array.shape[1])]
    return Table(None, tuple(columns), (False,) * len(columns), len(array))


def _names(X: Any) -> list[Any]:
    """Names of the columns; pyarrow calls them otherwise."""
    return list(getattr(X, "column_names", X.columns))


def _from_series(series: Any) -> NDArray[Any]:
    dtype = series.dtype
    if dtype.is_float() or dtype == nw.Boolean or _has_exact_integers(series):
        numbers = series.cast(nw.Float64).to_numpy().astype(np.float64, copy=False)
        return numbers.astype(_PRECISIONS.get(str(dtype), np.float64), copy=False)
    if dtype.is_temporal() and dtype != nw.Time:
        return _from_array(series.to_numpy())
    if dtype == nw.Categorical:
        array = series.to_numpy()
        # As a list they would be Python's numbers, of another value.
        if array.dtype in _PRECISIONS.values():
            return array
    # Cell by cell, because tuples of equal length would become a second axis.
    return np.fromiter(series.to_list(), dtype=object, count=len(series))


def _has_exact_integers(series: Any) -> bool:
    """Whether a column has integers, and float64 has all of them."""
    if not series.dtype.is_integer():
        return False
    known = series.drop_nulls()
    # Conversions of Arrow's integers fail if they are not exact.
    if not len(known):
        return True
    return bool(max(abs(int(known.min())), int(known.max())) < _LARGE)


def _from_array(column: NDArray[Any]) -> NDArray[Any]:
    if column.dtype.kind in "mM" or column.dtype in _PRECISIONS.values():
        return column
    kind = column.dtype.kind
    is_number = kind in "bf" or (kind in "iu" and _is_exact(column))
    return column.astype(np.float64 if is_number else object, copy=False)


def _is_exact(numbers: NDArray[Any]) -> bool:
    """Whether no value can be an integer that float64 lacks."""
    if numbers.dtype.kind not in "iuf":
        return True
    return not (np.abs(numbers) >= _LARGE).any()
