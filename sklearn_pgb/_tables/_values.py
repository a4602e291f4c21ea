"""Values of a column as numbers, dates as numbers, or labels."""

from collections.abc import Iterable
from datetime import date, time, timedelta
from numbers import Number
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sklearn_pgb._estimator._row_codes import COMPLEX
from sklearn_pgb._samples import is_missing
from sklearn_pgb._tables._times import (
    days_of,
    days_of_one,
    is_period,
    moment,
    moment_of_text,
    span,
)


def becomes_numbers(column: NDArray[Any]) -> bool:
    """Whether all values of a training column are numbers, or all of another kind.

    Other kinds are dates, text of dates, durations and times of day. Objects that are
    all missing have labels, which are not known yet: later text is then missing, too.
    """
    if column.dtype != object:
        return True
    kinds = {kind_of(value) for value in column if not is_missing(value)}
    return len(kinds) == 1 and numbers_of(column) is not None


def numbers_of(column: NDArray[Any]) -> NDArray[np.float64] | None:
    """Return a column as numbers, NaN for missing values; None if it has a label.

    Each value is converted on its own. Dates are days since 1970, durations and times
    of day are days.
    """
    if column.dtype.kind == "f":
        return column.astype(np.float64, copy=False)
    if column.dtype.kind in "mM":
        return days_of(column)
    numbers = np.empty(len(column))
    for i, value in enumerate(column):
        number = to_number(value)
        if number is None:
            return None
        numbers[i] = number
    return numbers


def labels_of(column: NDArray[Any], name: Any) -> list[Any]:
    """Return a column as labels, None for missing values.

    Equal dates have equal labels, whatever their type, and so have numbers that single
    and double precision print alike.
    """
    labels = list(
        map(_to_label, column.tolist() if column.dtype == np.float64 else column)
    )
    for label in labels:
        try:
            hash(label)
        except TypeError:
            raise ValueError(
                f"X must have numbers or labels in column {name!r}, got "
                f"{type(label).__name__}. Convert it, or drop the column."
            ) from None
    return labels


def to_number(value: Any) -> float | None:
    """Return a value as a number, NaN if it is missing, or None if it is a label."""
    if is_missing(value):
        return np.nan
    kind = kind_of(value)
    if kind == "text":
        found = moment_of_text(value)
        return None if found is None else days_of_one(found)
    if kind == "date":
        return days_of_one(moment(value))
    if kind == "duration":
        return days_of_one(span(value))
    return None if kind is None else _number(value)


def _to_label(value: Any) -> Any:
    if is_missing(value):
        return None
    kind = kind_of(value)
    if kind == "date":
        return moment(value)
    if kind == "duration":
        return span(value)
    # The shortest text of 0.1 is the same in each precision, its value is not.
    is_inexact = isinstance(value, np.floating) and not isinstance(value, float)
    return float(str(value)) if is_inexact else value


def kind_of(value: Any) -> Literal["text", "date", "duration", "number"] | None:
    """Return the kind of a value that is not missing; None for other objects."""
    if isinstance(value, str):
        return "text"
    if isinstance(value, date | np.datetime64) or is_period(value):
        return "date"
    # Before numbers, because NumPy's durations are integers, too.
    if isinstance(value, timedelta | np.timedelta64 | time):
        return "duration"
    return "number" if isinstance(value, Number | np.bool_) else None


def _number(value: Any) -> float:
    if isinstance(value, complex | np.complexfloating):
        raise ValueError(COMPLEX)
    try:
        return float(value)
    except OverflowError:
        # Refused later, with infinite values.
        return np.inf


def other_than_date(labels: Iterable[Any]) -> Any:
    """Return a label that is not text of a date, if most labels are; else None."""
    distinct = [label for label in dict.fromkeys(labels) if label is not None]
    others = [
        label
        for label in distinct
        if not (isinstance(label, str) and moment_of_text(label) is not None)
    ]
    return others[0] if 0 < len(others) < len(distinct) / 2 else None
