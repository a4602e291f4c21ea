"""Dates and durations as days, whatever their type, unit or text."""

import datetime as dt
from itertools import product

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_array_equal

from sklearn_pgb._tables._columns import read_table
from sklearn_pgb._tables._reader import TableReader
from sklearn_pgb._tables._times import days_of, moment_of_text

# --- text -----------------------------------------------------------------------------

DATES = ["2024-05-06", "20240506", "0001-01-01", "1969-12-31", "9999-12-30"]
TIMES = ["10", "10:11", "1011", "10:11:12", "101112", "00:00:00.1", "10:11:12.123456"]
TIMES += ["10:11:12.1234567", "101112.123456789", "10:11:12.123456789123"]
ZONES = ["", "Z", "+02", "+0200", "-02:30", " +02", " +0200", " -23:59", " Z"]
ISO_FORMS = [
    f"{date}{mark}{time}{zone}"
    for date, mark, time, zone in product(DATES, "T ", TIMES, ZONES)
]


def days_with_pandas(text):
    parsed = pd.to_datetime([text], format="ISO8601", utc=True)
    return days_of(parsed.tz_localize(None).to_numpy())


@pytest.mark.parametrize("date", DATES)
def test_text_is_read_as_by_pandas(date):
    for text in [date, *(each for each in ISO_FORMS if each.startswith(date))]:
        if text == "20240506":
            continue
        assert_array_equal(days_of(np.array([moment_of_text(text)])), expected(text))


def expected(text):
    """Days by pandas, which has no nanoseconds in the first and last years."""
    try:
        return days_with_pandas(text)
    except pd.errors.OutOfBoundsDatetime:
        return days_with_pandas(
            text[: text.index(".") + 7] + text[-6:].lstrip("0123456789")
        )


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("2024-05", "2024-05-01"),
        ("2024-05-06T10:11:12z", "2024-05-06T10:11:12Z"),
        ("2024-05-06t10:11", "2024-05-06T10:11"),
        ("2024-05-06T10:11:12,5", "2024-05-06T10:11:12.5"),
        ("1890-05-06 10:11:12+00:53:28", "1890-05-06 09:17:44"),
    ],
)
def test_other_forms(text, plain):
    assert moment_of_text(text) == moment_of_text(plain) != None  # noqa: E711


LABELS = ["2024", "20240506", "202405", "2024-W19-1", "2024-127", "2024T10"]
LABELS += ["2024-05T10", "2024-02-30", "2024-13", "2024-05-06T25", "2024/05/06"]
LABELS += ["2024-05-06T10:11:60", "2024-05-06T10+24:00", "2024-05-06T10.5", "2024-5-6"]
LABELS += ["2024-05-06Z", "2024-05-06 ", "2024-05-06\n", "2024-05\n", "now", "NaT", ""]
# Arabic digits.
LABELS += ["\u0662\u0660\u0662\u0664-\u0660\u0661-\u0660\u0661"]


@pytest.mark.parametrize("text", LABELS)
def test_text_that_stays_a_label(text):
    assert moment_of_text(text) is None


@pytest.mark.parametrize(
    "as_text",
    [
        lambda d: d.astype(str),
        lambda d: (d.dt.as_unit("ns") + pd.Timedelta(1, "ns")).astype(str),
        lambda d: d.dt.tz_localize("UTC").astype(str),
        lambda d: d.dt.strftime("%Y-%m-%dT%H:%M:%S.%f000"),
        lambda d: d.dt.strftime("%Y-%m-%dT%H:%M:%S.%f0Z"),
        lambda d: d.dt.strftime("%Y-%m-%dT%H:%M:%S.%f+00"),
        lambda d: d.dt.strftime("%Y-%m-%d %H:%M:%S.%f +0000"),
        lambda d: d.dt.strftime("%Y%m%dT%H%M%S.%fz"),
    ],
)
def test_columns_of_text_equal_columns_of_dates(as_text):
    dates = pd.Series(pd.date_range("1969-12-31", periods=5, freq="12345678us"))
    dates[3] = None
    text = as_text(dates).where(dates.notna(), None)
    read = [read_table(pd.DataFrame({"c": each})) for each in (text, dates)]
    (reader, matrix), (twin, expected) = map(TableReader.of, read)
    assert reader.labels == twin.labels == (None,)
    assert_array_equal(matrix, expected)
    assert_array_equal(reader.read(read[1]), expected)


# --- periods --------------------------------------------------------------------------


@pytest.mark.parametrize("freq", ["Y", "Q", "M", "W", "D", "h", "s", "ms", "us"])
@pytest.mark.parametrize("make", [pd.Series, lambda p: pd.Series(p, dtype=object)])
def test_periods_are_their_start(freq, make):
    periods = pd.period_range("1969-12-30 10:11:12.345678", periods=5, freq=freq)
    column = make(periods)
    column[3] = None
    starts = pd.Series(periods.to_timestamp())
    starts[3] = None
    tables = [read_table(pd.DataFrame({"c": each})) for each in (column, starts)]
    (reader, matrix), (_, expected) = map(TableReader.of, tables)
    assert reader.labels == (None,)
    assert_array_equal(matrix, expected)
    # As categories, too: equal dates are equal labels.
    (reader, codes), (_, expected) = (TableReader.of(each, [0]) for each in tables)
    assert_array_equal(codes, expected)
    assert_array_equal(reader.read(tables[1]), expected)


def test_far_periods():
    column = pd.Series(
        [pd.Period(ordinal=year - 1970, freq="Y") for year in (300000, 2024)]
    )
    table = read_table(pd.DataFrame({"c": column}))
    expected = np.array(["300000-01-01", "2024-01-01"], "M8[D]").astype(int)
    assert_array_equal(TableReader.of(table)[1][:, 0], expected)


# --- units ----------------------------------------------------------------------------

FAR = [300_000, -300_000, 1970, 2024]


@pytest.mark.parametrize("unit", ["Y", "M", "W", "D", "h", "m", "s", "ms"])
def test_dates_beyond_microseconds(unit):
    """Days are those of the proleptic calendar, whatever the unit and the container."""
    days = (np.array(FAR) - 1970).astype("M8[Y]").astype("M8[D]")
    days = days.astype("M8[W]").astype("M8[D]") if unit == "W" else days
    dates = days.astype(f"M8[{unit}]")
    column = np.append(dates, np.datetime64("NaT"))[:, None]
    expected = np.append(days.astype(float), np.nan)
    assert_array_equal(TableReader.of(read_table(column))[1][:, 0], expected)
    objects = np.empty_like(column, dtype=object)
    objects[:, 0] = list(column[:, 0])
    assert_array_equal(TableReader.of(read_table(objects))[1][:, 0], expected)
    reader, codes = TableReader.of(read_table(column), [0])
    assert_array_equal(reader.read(read_table(objects)), codes)
    other = np.append(days, np.datetime64("NaT"))[:, None]
    assert_array_equal(reader.read(read_table(other)), codes)


@pytest.mark.parametrize("unit", ["W", "D", "h", "m", "s", "ms"])
def test_durations_beyond_microseconds(unit):
    far = {"ms": 2**33, "s": 2**40, "m": 2**46, "h": 2**48}.get(unit, 2**50)
    days = 7 * np.array([far, -far, 0, 2])
    spans = days.astype("m8[D]").astype(f"m8[{unit}]")
    assert_array_equal(days_of(spans), days.astype(float))
    table = read_table(spans[:, None])
    assert_array_equal(TableReader.of(table)[1][:, 0], days.astype(float))
    reader, codes = TableReader.of(table, [0])
    assert_array_equal(reader.read(read_table(days.astype("m8[D]")[:, None])), codes)


def test_the_unit_of_a_date_does_not_matter():
    """A far date in the same column does not change the last digits of the others."""
    dates = np.array(["2024-05-06T10:11:12.345", "1969-12-31T23:59:59.999"], "M8[ms]")
    far = np.append(dates, np.datetime64("300000-01-01", "ms"))
    for unit in ("ms", "us", "ns"):
        assert_array_equal(days_of(dates.astype(f"M8[{unit}]")), days_of(far)[:2])


def test_dates_that_days_cannot_hold_are_infinite():
    """Infinite values are refused, like other numbers that are too large."""
    assert_array_equal(days_of(np.array([2**62], "M8[Y]")), [np.inf])


def test_dates_of_python():
    day = dt.date(2024, 5, 6)
    table = read_table([[day], [dt.datetime(2024, 5, 6, 12)]])
    assert_array_equal(TableReader.of(table)[1], [[19849], [19849.5]])
