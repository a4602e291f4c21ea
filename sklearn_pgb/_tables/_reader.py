"""Tables as matrices of numbers and category codes."""

import warnings
from collections import Counter
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sklearn_pgb._budget import MOST_ONE_HOT
from sklearn_pgb._tables._columns import Table
from sklearn_pgb._tables._values import (
    becomes_numbers,
    kind_of,
    labels_of,
    numbers_of,
    other_than_date,
    to_number,
)

_BOOLS = bool, np.bool_


@dataclass(frozen=True, eq=False)
class TableReader:
    """Maps tables with the columns of a training table to float64 matrices.

    Attributes
    ----------
    names : tuple of str or None
        Names of the columns of the training table.
    labels : tuple of (tuple or None)
        Labels of each column with categories, the most frequent first; label k has the
        code k. None for columns of numbers and dates, which are converted to numbers.
    """

    names: tuple[str, ...] | None
    labels: tuple[tuple[Any, ...] | None, ...]

    @classmethod
    def of(
        cls,
        table: Table,
        categorical: Any = "from_dtype",
        rows: NDArray[np.intp] | None = None,
    ) -> tuple[Self, NDArray[np.float64]]:
        """Learn which columns have labels, and their labels.

        Parameters
        ----------
        table : Table
        categorical : "from_dtype", None or array-like
            Columns with categories. "from_dtype" and None are the columns with values
            that are not numbers or dates, and those with a categorical dtype. An array
            adds further columns, by position, name or mask.
        rows : ndarray or None
            Samples to learn from, by default all.

        Returns
        -------
        reader : TableReader
        matrix : ndarray (n_samples, n_features)
            The samples to learn from as the reader maps them, NaN for all others.

        Raises
        ------
        ValueError
            If a column has values that are neither numbers nor labels.
        """
        matrix = np.full((len(table), len(table.columns)), np.nan)
        if rows is None:
            rows = np.arange(len(table))
        table = table.rows(rows)
        chosen = _categorical_mask(table, categorical)
        chosen |= table.is_category
        labels: list[tuple[Any, ...] | None] = []
        for j, column in enumerate(table.columns):
            if not chosen[j] and becomes_numbers(column):
                labels.append(None)
                continue
            values = labels_of(column, _name(table, j))
            other = None if chosen[j] else other_than_date(values)
            if other is not None:
                warnings.warn(
                    f"Column {_name(table, j)!r} has dates, but is treated as labels "
                    f"because of values such as {other!r}. Convert it, for example by "
                    "pandas.to_datetime with errors='coerce'.",
                    UserWarning,
                    stacklevel=5,
                )
            counts = Counter(value for value in values if value is not None)
            # From the most to the least frequent; ties are sorted as text.
            ordered = sorted(counts.items(), key=lambda pair: (-pair[1], str(pair[0])))
            labels.append(tuple(label for label, _ in ordered))
        reader = cls(table.names, tuple(labels))
        matrix[rows] = reader._matrix(table)
        return reader, matrix

    @property
    def is_numeric(self) -> bool:
        """Whether no column has categories."""
        # A column with categories may lack any label.
        return all(labels is None for labels in self.labels)

    def read(self, table: Table) -> NDArray[np.float64]:
        """Map a table; labels that the training table lacks count as missing.

        Raises
        ------
        ValueError
            If the columns are not those of the training table.
        """
        if self.names is not None and table.names is not None:
            if table.names != self.names:
                missing = [name for name in self.names if name not in table.names]
                extra = [name for name in table.names if name not in self.names]
                change = f"{missing} are missing and {extra} are new"
                if not missing and not extra:
                    change = f"the order is {list(table.names)}"
                raise ValueError(
                    f"X must have the columns of fit, in their order, but {change}. "
                    f"Pass X[columns of fit], in the order {list(self.names)}."
                )
        if len(table.columns) != len(self.labels):
            raise ValueError(
                f"X has {len(table.columns)} features, but fit saw "
                f"{len(self.labels)} features as input. Pass the same columns."
            )
        return self._matrix(table)

    def unknown(self, table: Table, matrix: NDArray[np.float64]) -> dict[int, set[Any]]:
        """Labels of the columns of categories in which `read` found none of fit."""
        return {
            j: {v for v in labels_of(column, _name(table, j)) if v is not None}
            for j, column in enumerate(table.columns)
            if self.labels[j] and np.isnan(matrix[:, j]).all()
        }

    def warn_of_unknown(self, unknown: dict[int, set[Any]]) -> None:
        """Warn of columns whose categories are probably written in another way.

        They are of another kind, such as text in place of numbers, or there were few in
        fit and are several now, none of them known. A single new category is nothing
        special, and neither are new values of a column of names or identifiers.
        """
        for j, new in unknown.items():
            labels = self.labels[j]
            assert labels is not None
            kinds = {kind_of(label) for label in labels}
            replaced = len(new) > 1 and len(labels) <= MOST_ONE_HOT
            if replaced or any(kind_of(value) not in kinds for value in new):
                name = j if self.names is None else self.names[j]
                warnings.warn(
                    f"No value of column {name!r} is a category of fit, so all count "
                    f"as missing: got values such as {min(new, key=str)!r}, and the "
                    f"most frequent category is {labels[0]!r}. Convert the column to "
                    "the type and format that it had in fit.",
                    UserWarning,
                    stacklevel=3,
                )

    def _matrix(self, table: Table) -> NDArray[np.float64]:
        matrix = np.empty((table.n_samples, len(table.columns)))
        for j, (column, labels) in enumerate(
            zip(table.columns, self.labels, strict=True)
        ):
            name = _name(table, j)
            if labels is None:
                numbers = numbers_of(column)
                if numbers is None:
                    label = next(v for v in column if to_number(v) is None)
                    raise ValueError(
                        f"X must have numbers or dates in column {name!r}, as in fit, "
                        f"got labels such as {label!r}. Convert them."
                    )
                matrix[:, j] = numbers
            else:
                codes = {label: code for code, label in enumerate(labels)}
                values = labels_of(column, name)
                matrix[:, j] = [codes.get(value, np.nan) for value in values]
        return matrix


def _name(table: Table, j: int) -> Any:
    return j if table.names is None else table.names[j]


def _categorical_mask(table: Table, categorical: ArrayLike | None) -> NDArray[np.bool_]:
    """Mask of the columns that the user declares as categories."""
    n_features = len(table.columns)
    chosen = np.zeros(n_features, dtype=bool)
    if categorical is None or isinstance(categorical, str):
        return chosen
    given = isinstance(categorical, list | tuple)
    # One by one, so that names and positions can be mixed, and names can be tuples.
    entries = list(categorical if given else np.asarray(categorical).ravel())  # type: ignore[arg-type]
    if len(entries) == n_features and all(isinstance(e, _BOOLS) for e in entries):
        return np.array(entries, dtype=bool)
    known = f"names among {list(table.keys)}, " if table.keys else ""
    expected = (
        f"categorical_features must be 'from_dtype', None, {known}positions below "
        f"{n_features} or a mask of length {n_features}"
    )
    for entry in entries:
        found = _columns_meant(table, entry)
        if not found:
            raise ValueError(f"{expected}, got {entry!r}.")
        if len(found) > 1:
            raise ValueError(
                f"{expected}, got {entry!r}, which is the name of a column and the "
                "position of another. Pass a mask."
            )
        chosen[list(found)] = True
    return chosen


def _columns_meant(table: Table, entry: Any) -> set[int]:
    """Positions of the columns that have a name, or are at a position."""
    if isinstance(entry, _BOOLS) or not _is_hashable(entry):
        return set()
    n_features, found = len(table.columns), set()
    if isinstance(entry, int | np.integer) and -n_features <= entry < n_features:
        found.add(int(entry) % n_features)
    for names in (table.keys, table.names):
        if names and entry in names:
            found.add(names.index(entry))
    return found


def _is_hashable(entry: Any) -> bool:
    """Whether it can be a name. The class of a tuple of arrays says that it can."""
    try:
        hash(entry)
    except TypeError:
        return False
    return True
