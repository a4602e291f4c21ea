"""What the samples of a training table decide about its columns."""

import datetime as dt
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_array_equal
from table_cases import FRAME, N, Y, regressor, small

from sklearn_pgb._tables._columns import read_table
from sklearn_pgb._tables._reader import TableReader

DAYS = dt.date(2024, 1, 1), dt.date(2024, 2, 1)
MOMENTS = dt.datetime(2024, 1, 1, 12), dt.datetime(1924, 2, 1)
ZONE = dt.timezone(dt.timedelta(hours=2))
LARGE = 2**53

# Columns with labels: two values that are no labels on their own, and others.
MIXED = {
    "numbers": (1.5, -2, "n/a"),
    "booleans": (True, False, "n/a"),
    "decimals": (Decimal("0.1"), Decimal("2"), "n/a"),
    "large integers": (LARGE + 1, LARGE, "n/a"),
    "huge integers": (2**70 + 1, 2**70, "n/a"),
    "dates": (*DAYS, "n/a"),
    "datetimes": (*MOMENTS, "n/a"),
    "datetimes with zones": (*(m.replace(tzinfo=ZONE) for m in MOMENTS), "n/a"),
    "timestamps": (*map(pd.Timestamp, MOMENTS), "n/a"),
    "NumPy's dates": (*map(np.datetime64, DAYS), "n/a"),
    "text of dates": ("2024-01-01", "2024-02-01 10:30", "n/a", ""),
    "timedeltas": (dt.timedelta(1), dt.timedelta(hours=1), "n/a"),
    "NumPy's durations": (np.timedelta64(1, "D"), np.timedelta64(1, "h"), "n/a"),
    "times": (dt.time(6), dt.time(12, 30), "n/a"),
    "dates and numbers": (*DAYS, 3, 19723.0),
    "dates and durations": (*DAYS, dt.timedelta(1), dt.timedelta(2)),
    "dates and their text": (*DAYS, "2024-03-01", "2024-04-01"),
    "numbers and durations": (1.0, 2.0, dt.timedelta(1), dt.timedelta(2)),
    "tuples of one length": ((1, 2), (3, 4)),
    "tuples": ((1,), (2, 3), ()),
}


def as_objects(values):
    column = np.empty((len(values), 1), dtype=object)
    column[:, 0] = np.fromiter(values, dtype=object, count=len(values))
    return column


def as_pandas(values):
    """A frame with the type that pandas would give the column."""
    return pd.DataFrame({"c": list(values)})


def as_pandas_objects(values):
    return pd.DataFrame({"c": pd.Series(list(values), dtype=object)})


def as_polars(values):
    """A frame with the type that polars would give the column."""
    pl = pytest.importorskip("polars")
    kinds = {type(value) for value in values}
    plain = {float, bool, str, dt.date, dt.datetime, dt.timedelta, dt.time, Decimal}
    if len(kinds) == 1 and kinds < plain:
        return pl.DataFrame({"c": list(values)})
    # polars would store Timestamps and tuples as other types.
    return pl.DataFrame({"c": pl.Series(list(values), dtype=pl.Object)})


CONTAINERS = [as_objects, as_pandas, as_pandas_objects, as_polars]


@pytest.mark.parametrize("read_as", CONTAINERS)
@pytest.mark.parametrize("learn_as", [as_objects, as_pandas_objects, as_polars])
@pytest.mark.parametrize("name", MIXED)
def test_labels_do_not_depend_on_other_samples(name, learn_as, read_as):
    """Value k of a training column has the code k, also on its own."""
    values = MIXED[name]
    column = [v for k, v in enumerate(values) for _ in range(len(values) - k)]
    reader, matrix = TableReader.of(read_table(learn_as(column)))
    assert_array_equal(np.unique(matrix), range(len(values)))
    for k, value in enumerate(values):
        assert_array_equal(reader.read(read_table(read_as([value]))), [[k]])
        assert_array_equal(reader.read(read_table(read_as([value] * 2))), [[k], [k]])
    assert_array_equal(
        reader.read(read_table(read_as(values[:2]))), np.arange(2)[:, None]
    )


def test_categories_of_dates_are_dates():
    """Of pandas, NumPy and Python, with any unit."""
    days = pd.to_datetime(["2024-02-01", "2024-02-01", "2024-01-01", None])
    reader, matrix = TableReader.of(
        read_table(pd.DataFrame({"c": pd.Categorical(days)}))
    )
    assert_array_equal(matrix[:, 0], [0, 0, 1, np.nan])
    for column in (days, days.as_unit("s"), days.date, days.to_numpy().astype("M8[D]")):
        table = read_table(pd.DataFrame({"c": column}))
        assert_array_equal(reader.read(table), matrix)
    array = days.to_numpy().astype("M8[D]")[:, None]
    assert_array_equal(reader.read(read_table(array)), matrix)


def test_numbers_of_a_list_keep_their_digits():
    """NumPy would round an integer next to a float."""
    rows = [[LARGE + 1, 0.5], [LARGE, 0.5], [LARGE, 0.5], ["n/a", 0.5]]
    reader, matrix = TableReader.of(read_table(rows))
    assert_array_equal(matrix[:, 0], [1, 0, 0, 2])
    assert_array_equal(reader.read(read_table(rows[:2])), matrix[:2])


@pytest.mark.parametrize("dtype", ["Int64", "int64", "UInt64"])
def test_large_integers_of_pandas(dtype):
    values = [LARGE + 1, LARGE, LARGE, "n/a"]
    reader, matrix = TableReader.of(read_table(as_pandas(values)))
    new = pd.DataFrame({"c": pd.array(values[:3], dtype=dtype)})
    assert_array_equal(reader.read(read_table(new)), matrix[:3])
    if dtype == "Int64":
        new.loc[1, "c"] = None
        assert_array_equal(reader.read(read_table(new))[:, 0], [1, np.nan, 0])


def test_values_of_a_column_of_numbers_are_converted_one_by_one():
    """Dates and their text may be mixed in new tables, unlike in training."""
    days = pd.DataFrame({"c": pd.to_datetime(["1970-01-02", "1970-01-05"])})
    reader, _ = TableReader.of(read_table(days))
    new = [dt.date(1970, 1, 3), "1970-01-04", None, np.datetime64("1970-01-05", "ns")]
    for make in (as_objects, as_pandas_objects):
        table = read_table(make(new))
        assert_array_equal(reader.read(table)[:, 0], [2, 3, np.nan, 4])


def test_numpy_durations_have_units():
    """NumPy registers them as integers."""
    hours = as_objects([np.timedelta64(12, "h"), np.timedelta64(1, "D")])
    assert_array_equal(TableReader.of(read_table(hours))[1], [[0.5], [1]])


@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
@pytest.mark.parametrize("make", [as_objects, as_pandas, as_polars])
def test_predictions_of_single_samples_are_those_of_the_batch(make):
    """A batch of dates alone has the type of dates in most containers."""
    days = [*DAYS, dt.date(2024, 3, 1), "n/a"]
    y = np.tile([0, 10, 20, 30.0], 20)
    model = regressor(network="drop").fit(as_pandas_objects(days * 20), y)
    batch = model.predict(as_pandas_objects(days))
    assert np.ptp(batch) > 1
    np.testing.assert_allclose(model.predict(make(days[:3])), batch[:3])
    for day, expected in zip(days, batch, strict=True):
        np.testing.assert_allclose(model.predict(make([day])), expected)


# --- categories without labels --------------------------------------------------------


@pytest.mark.parametrize("part", ["all", "network", "trees", "forest"])
@pytest.mark.parametrize("name", ["real", "multi"])
def test_categories_that_are_all_missing(name, part):
    """Every label of a new table is unknown, so it does not change a prediction."""
    empty = pd.Categorical([None] * N, categories=["a"])
    dropped = {"network", "trees", "forest"} - {part} if part != "all" else ()
    model = small(name).set_params(**dict.fromkeys(dropped, "drop"))
    model.fit(FRAME.assign(new=empty), Y[name])
    expected = model.predict(FRAME.assign(new=empty))
    for column in ("a", 3.0, dt.date(2024, 1, 1), None):
        assert_array_equal(model.predict(FRAME.assign(new=column)), expected)
    twin = small(name).set_params(**dict.fromkeys(dropped, "drop"))
    twin.fit(FRAME.assign(new="a"), Y[name])
    assert_array_equal(twin.predict(FRAME.assign(new="a")), expected)


def test_a_table_of_missing_categories():
    frame = pd.DataFrame({"c": pd.Categorical([None] * N)})
    model = regressor(cv="auto").fit(frame, Y["real"])
    np.testing.assert_allclose(model.predict(frame), Y["real"].mean(), rtol=0.1)


def test_chosen_categories_that_are_all_missing():
    """Numbers of such a column have no code."""
    rows = np.column_stack([Y["real"], np.full(N, np.nan)])
    model = regressor("drop", "drop", categorical_features=[1]).fit(rows, Y["real"])
    expected = model.predict(np.array([[0.3, np.nan]]))
    for value in (-3.0, 0.0, 1e300):
        assert_array_equal(model.predict(np.array([[0.3, value]])), expected)


# --- weights --------------------------------------------------------------------------

# Changes of samples without weight.
WITHOUT_WEIGHT = {
    "categories for means": {"label": [f"new {k}" for k in range(N)]},
    "frequent category": {"label": "d"},
    "text among numbers": {"number": "unknown"},
    "text among dates": {"day": "unknown"},
    "infinity": {"number": np.inf},
    "lists": {"label": [[k] for k in range(N)]},
}


@pytest.mark.parametrize("name", ["real", "multi"])
@pytest.mark.parametrize("case", WITHOUT_WEIGHT)
def test_samples_without_weight_decide_nothing(case, name):
    extra = FRAME.astype(object).assign(**WITHOUT_WEIGHT[case])
    kinds = FRAME.dtypes[["kind"]].to_dict()
    # The table without these samples, and with them between the others.
    table = pd.concat([FRAME.astype(object), extra]).sort_index(kind="stable")
    weight = np.tile([1.0, 0.0], N)
    model = small(name).fit(
        table.astype(kinds), np.repeat(Y[name], 2), sample_weight=weight
    )
    twin = small(name).fit(FRAME, Y[name], sample_weight=np.ones(N))
    assert_array_equal(model.predict(FRAME), twin.predict(FRAME))
    assert model.oof_score_ == twin.oof_score_
    assert model._reader == twin._reader


def test_dates_and_a_few_labels_with_weight():
    """The warning names the caller of `fit`; a label without weight has none."""
    frame = pd.DataFrame({"day": pd.date_range("2024-01-01", periods=N).astype(str)})
    frame.loc[3, "day"] = "unknown"
    weight = np.where(frame["day"] == "unknown", 0.0, 1.0)
    regressor().fit(frame, Y["real"], sample_weight=weight)
    with pytest.warns(UserWarning, match="'day' has dates.*'unknown'") as warned:
        regressor().fit(frame, Y["real"])
    assert [each.filename for each in warned] == [__file__]


def test_the_number_of_categories_is_that_of_samples_with_weight():
    """The 31st category turns indicators into mean targets, the 255th codes."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.normal(size=N), "c": rng.choice(list("abcde"), N)})
    y = frame["x"] + 2 * (frame["c"] == "a")
    extra = pd.DataFrame({"x": 0.0, "c": [f"new {k}" for k in range(300)]})
    model = regressor().fit(
        pd.concat([frame, extra]),
        np.r_[y, np.zeros(300)],
        sample_weight=np.r_[np.ones(N), np.zeros(300)],
    )
    twin = regressor().fit(frame, y, sample_weight=np.ones(N))
    assert_array_equal(model.predict(frame), twin.predict(frame))
