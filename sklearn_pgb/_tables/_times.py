"""Dates, durations and text of dates as days."""

import re
from datetime import date, datetime, time
from typing import Any

import narwhals.stable.v2 as nw
import numpy as np
from numpy.typing import NDArray

# A month, a day or a time of a day, with fractions of a second and a time zone, also
# without the separators. ISO 8601 has years, week dates and ordinal dates too; but a
# year, or a day without separators, may be a number.
_ISO_DATE = re.compile(
    r"(\d{4}-\d\d(?:-\d\d|\Z)|\d{8}(?=[Tt ]))"
    r"(?:[Tt ](\d\d(?::?\d\d(?::?\d\d(?:[.,]\d+)?)?)?)"
    r"(?: ?([Zz]|[+-]\d\d(?::?\d\d(?::?\d\d)?)?))?)?",
    re.ASCII,
)

# Microseconds of the units that can hold dates which microseconds can't.
_MICROSECONDS = {
    "ms": 1_000,
    "s": 1_000_000,
    "m": 60_000_000,
    "h": 3_600_000_000,
    "D": 86_400_000_000,
    "W": 604_800_000_000,
}


def days_of(values: NDArray[Any]) -> NDArray[np.float64]:
    """Return dates as days since 1970, and durations as days; NaN for missing values.

    The result depends on the time, and not on its unit. Dates that days can't hold are
    infinite.
    """
    micro = values.astype(f"{values.dtype.kind}8[us]")
    days = np.where(
        np.isnat(values), np.nan, micro.astype(np.int64) / _MICROSECONDS["D"]
    )
    far = ~_holds("us", values)
    days[far] = list(map(_far_days, values[far]))
    return days


def days_of_one(value: np.datetime64 | np.timedelta64) -> float:
    """Return `days_of` a single value."""
    if np.datetime_data(value.dtype)[0] == "us" and not np.isnat(value):
        return int(value.astype(np.int64)) / _MICROSECONDS["D"]
    return float(days_of(np.array([value]))[0])


def is_period(value: Any) -> bool:
    """Whether a value is a Period of pandas."""
    pandas = nw.dependencies.get_pandas()
    return pandas is not None and isinstance(value, pandas.Period)


def moment(value: Any) -> np.datetime64:
    """Convert a date, to UTC if the time zone is known; a period to its start."""
    if isinstance(value, np.datetime64):
        return _in_finest_unit(value)
    if is_period(value):
        start = np.datetime64(value.asfreq("s", how="start").ordinal, "s")
        if not _holds("us", np.asarray(start)):
            return _in_finest_unit(start)
        return np.datetime64(value.asfreq("us", how="start").ordinal, "us")
    offset = value.utcoffset() if isinstance(value, datetime) else None
    if offset is None:
        return np.datetime64(value, "us")
    # `astimezone` fails near the first and the last year.
    local: np.datetime64 = np.datetime64(value.replace(tzinfo=None), "us")
    return local - span(offset)


def span(value: Any) -> np.timedelta64:
    """Convert a duration, or a time of day to the duration since midnight."""
    if isinstance(value, np.timedelta64):
        return _in_finest_unit(value)
    if isinstance(value, time):
        value = datetime.combine(date.min, value.replace(tzinfo=None)) - datetime.min
    return np.timedelta64(value, "us")


def moment_of_text(text: str) -> np.datetime64 | None:
    """Return the date of text in the format of ISO 8601; None for other text.

    As NumPy converts nanoseconds, digits after the sixth of a second are cut off.
    """
    found = _ISO_DATE.fullmatch(text)
    if found is None:
        return None
    day, clock, zone = found.groups("")
    plain = day + "-01" * (len(day) == 7) + "T" * bool(clock) + clock + zone.upper()
    try:
        return moment(datetime.fromisoformat(plain))
    except ValueError:
        return None


def _holds(unit: str, values: NDArray[Any]) -> NDArray[np.bool_]:
    """Whether a unit has the range for dates or durations, or they are missing."""
    kind, (own, _) = values.dtype.kind, np.datetime_data(values.dtype)
    if own != unit and own not in {*_MICROSECONDS, "M", "Y"}:
        # Finer units have smaller ranges; durations may have no unit.
        return np.ones(values.shape, dtype=bool)
    # NumPy does not report an overflow.
    back = values.astype(f"{kind}8[{unit}]").astype(values.dtype)
    return (back == values) | np.isnat(values)


def _in_finest_unit(value: Any) -> Any:
    """Convert to microseconds, or the finest unit with the range for the value.

    So equal dates are equal labels.
    """
    for unit in ("us", "ms", "s", "m", "h", "D"):
        if _holds(unit, np.asarray(value)):
            return value.astype(f"{value.dtype.kind}8[{unit}]")
    return value


def _far_days(value: Any) -> float:
    """Days of a date or duration that microseconds can't hold."""
    if np.datetime_data(value.dtype)[0] in ("M", "Y"):
        if not _holds("D", np.asarray(value)):
            return np.inf
        value = value.astype(f"{value.dtype.kind}8[D]")
    unit, count = np.datetime_data(value.dtype)
    return (
        int(value.astype(np.int64)) * count * _MICROSECONDS[unit] / _MICROSECONDS["D"]
    )
