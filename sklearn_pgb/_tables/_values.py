"""Values of a column as numbers, dates as numbers, or labels."""

import re
from collections.abc import Iterable
from datetime import date, datetime, time, timedelta
from numbers import Number
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sklearn_pgb._estimator._row_codes import COMPLEX
from sklearn_pgb._samples import is_missing

# The date, perhaps with the time of day, fractions of a second and a time zone.
ISO_DATE = re.compile(
    r"\d{4}-\d{2}-\d{2}"
    r"([ T]\d{2}:\d{2}(:\d{2}(\.\d{1,6})?)?(Z|[+-]\d{2}:?\d{2})?)?"
)


def becomes_numbers(column: NDArray[Any]) -> bool:
    """Whether all values of a training column are numbers, or all of another kind.

    Other kinds are dates, text of dates, durations and times of day. Objects that are
    all missing have labels, which are not known yet: later text is then missing, too.
    """
    if column.dtype != object:
        return True
    kinds = {_kind(value) for value in column if not is_missing(value)}
    return len(kinds) == 1 and numbers_of(column) is not None


def numbers_of(column: NDArray[Any]) -> NDArray[np.float64] | None:
    """Return a column as numbers, NaN for missing values; None if it has a label.

    Each value is converted on its own. Dates are days since 1970, durations and times
    of day are days.
    """
    if column.dtype.kind == "f":
        return column
    if column.dtype.kind in "mM":
        return np.where(np.isnat(column), np.nan, _days(column))
    numbers = np.empty(len(column))
    for i, value in enumerate(column):
        number = to_number(value)
        if number is None:
            return None
        numbers[i] = number
    return numbers


def labels_of(column: NDArray[Any], name: Any) -> list[Any]:
    """Return a column as labels, None for missing values.

    Equal dates have equal labels, whatever their type.
    """
    labels = list(
        map(_to_label, column.tolist() if column.dtype.kind == "f" else column)
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
    kind = _kind(value)
    if kind == "text":
        return _day_of_text(value)
    if kind == "date":
        return _days(_moment(value))
    if kind == "duration":
        return _days(_span(value))
    return None if kind is None else _number(value)


def _to_label(value: Any) -> Any:
    if is_missing(value):
        return None
    kind = _kind(value)
    if kind == "date":
        return _moment(value)
    return _span(value) if kind == "duration" else value


def _kind(value: Any) -> Literal["text", "date", "duration", "number"] | None:
    if isinstance(value, str):
        return "text"
    if isinstance(value, date | np.datetime64):
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


def _moment(value: Any) -> np.datetime64:
    """Convert a date, to UTC if the time zone is known."""
    if isinstance(value, np.datetime64):
        return value.astype("M8[us]")
    offset = value.utcoffset() if isinstance(value, datetime) else None
    if offset is None:
        return np.datetime64(value, "us")
    # `astimezone` fails near the first and the last year.
    local: np.datetime64 = np.datetime64(value.replace(tzinfo=None), "us")
    return local - _span(offset)


def _span(value: Any) -> np.timedelta64:
    """Convert a duration, or a time of day to the duration since midnight."""
    if isinstance(value, np.timedelta64):
        return value.astype("m8[us]")
    if isinstance(value, time):
        value = datetime.combine(date.min, value.replace(tzinfo=None)) - datetime.min
    return np.timedelta64(value, "us")


def _days(value: Any) -> Any:
    """Days since 1970 of dates, or days of durations; none is missing."""
    return value.astype(np.int64) / 86_400e6


def _day_of_text(value: str) -> float | None:
    """Days since 1970 of a date in the format of ISO 8601; None for other text."""
    if not ISO_DATE.fullmatch(value):
        return None
    try:
        return _days(_moment(datetime.fromisoformat(value)))
    except ValueError:
        return None


def other_than_date(labels: Iterable[Any]) -> Any:
    """Return a label that is not text of a date, if most labels are; else None."""
    distinct = [label for label in dict.fromkeys(labels) if label is not None]
    others = [
        label
        for label in distinct
        if not (isinstance(label, str) and _day_of_text(label) is not None)
    ]
    return others[0] if 0 < len(others) < len(distinct) / 2 else None
