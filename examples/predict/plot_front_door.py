"""
Fit a raw table
===============

``GradientBasisRegressor`` takes a table as it is: numbers, strings, dates and missing
values. It trains a network, boosted trees and a forest on five folds, and refits them
together in one convex problem. This example fits two tables, without preparing any
column, and compares it with boosted trees on several splits.
"""

import sys
import time
from importlib.util import find_spec

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.datasets import load_diabetes
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.metrics import root_mean_squared_error
from sklearn.model_selection import ShuffleSplit

from sklearn_pgb import GradientBasisRegressor

# %%
# Two tables
# ----------
#
# The first one is generated: rents of flats, which depend smoothly on the area and the
# distance to the center, on the district, on the month, and on the combination of
# heating and year. Some values are unknown.


def rents(n=500, seed=0):
    """Flats with their rents."""
    rng = np.random.default_rng(seed)
    area = rng.gamma(6, 12, n)
    distance = rng.exponential(4, n)
    year = rng.integers(1900, 2025, n)
    district = rng.choice(["north", "south", "east", "west", "old town"], n)
    heating = rng.choice(["gas", "oil", "district", "heat pump"], n)
    day = pd.Timestamp("2022-01-01") + pd.to_timedelta(rng.integers(0, 900, n), "D")
    level = pd.Series(district).map(
        {"north": 0, "south": 1, "east": -1, "west": 0.5, "old town": 3}
    )
    age = (2025 - year) / 100
    square_meter = 12 + level - 4 * np.log1p(distance / 4) + 3 * (age - 0.6) ** 2
    square_meter -= np.where(heating == "oil", 2 * age, 0)
    square_meter += (day - day.min()).days / 365
    rent = square_meter * area**0.9 + 60 * rng.normal(size=n)
    table = pd.DataFrame(
        {
            "area": area.round(1),
            "distance": distance.round(2),
            "year": year,
            "district": district,
            "heating": heating,
            "day": day,
        }
    )
    table["year"] = table["year"].astype("Int64").mask(rng.random(n) < 0.1)
    table["heating"] = table["heating"].mask(rng.random(n) < 0.15)
    return table, rent.to_numpy()


# %%
# The second one is scikit-learn's diabetes data in their original units, with the sex
# as a string, and a tenth of the blood values missing.


def diabetes(seed=0):
    """Patients with the progression of their disease."""
    table, y = load_diabetes(return_X_y=True, as_frame=True, scaled=False)
    table["sex"] = table["sex"].map({1.0: "first", 2.0: "second"})
    rng = np.random.default_rng(seed)
    blood = ["s1", "s2", "s3", "s4", "s5", "s6"]
    table[blood] = table[blood].mask(rng.random((len(table), len(blood))) < 0.1)
    return table, y.to_numpy()


print(rents()[0].head())

# %%
# The models
# ----------
#
# All have their default parameters. The other models need some preparation: histogram
# boosting takes no strings and no dates, and CatBoost, which is compared if it is
# installed, needs the names of the categories and takes no missing strings.


def prepared(table):
    """The table as CatBoost takes it."""
    table = table.copy()
    for name in table.select_dtypes("datetime"):
        table[name] = table[name].astype("int64")
    for name in table.select_dtypes("Int64"):
        table[name] = table[name].astype("float64")
    strings = table.select_dtypes("str").columns
    table[strings] = table[strings].fillna("unknown")
    return table


def models(table):
    """Unfitted models by name, each with the function that prepares its table."""
    found = {
        "GradientBasisRegressor": (
            GradientBasisRegressor(random_state=0),
            pd.DataFrame,
        ),
        "HistGradientBoosting": (
            HistGradientBoostingRegressor(random_state=0),
            with_categories,
        ),
    }
    if find_spec("catboost"):
        from catboost import CatBoostRegressor

        strings = list(table.select_dtypes("str"))
        options = {"allow_writing_files": False, "thread_count": 1, "verbose": 0}
        model = CatBoostRegressor(cat_features=strings, random_seed=0, **options)
        found["CatBoost"] = (model, prepared)
    return found


def with_categories(table):
    """The table as histogram boosting takes it."""
    table = prepared(table)
    strings = table.select_dtypes("str").columns
    return table.astype(dict.fromkeys(strings, "category"))


# %%
# Errors on held-out samples
# --------------------------


def evaluate(table, y, n_splits=3):
    """Errors by model and split, and mean seconds of a fit by model."""
    errors, seconds = {}, {}
    splits = ShuffleSplit(n_splits, test_size=0.3, random_state=0).split(table)
    for train, test in splits:
        for name, (model, prepare) in models(table).items():
            rows = prepare(table)
            start = time.perf_counter()
            model.fit(rows.iloc[train], y[train])
            seconds.setdefault(name, []).append(time.perf_counter() - start)
            prediction = model.predict(rows.iloc[test])
            error = root_mean_squared_error(y[test], prediction)
            errors.setdefault(name, []).append(error)
    return pd.DataFrame(errors), pd.DataFrame(seconds).mean()


results = {"rents": evaluate(*rents()), "diabetes": evaluate(*diabetes())}
for name, (errors, seconds) in results.items():
    rows = pd.DataFrame({"RMSE": errors.mean(), "seconds": seconds})
    print(f"\n{name}\n{rows.round(2)}")

# %%
# What was learnt
# ---------------
#
# One line fits a table. The fitted model shows the weight of each member's basis,
# averaged over the solutions that it uses, and a score on held-out samples: every
# sample is predicted by members and a refit that have not seen it.

table, y = rents()
model = GradientBasisRegressor(random_state=0).fit(table, y)
weights = model.group_weights_.mean(0)
for name, weight in zip(model.member_names_, weights, strict=True):
    print(f"{name:8s} {weight:.2f}")
print(f"R² on held-out samples: {model.oof_score_:.3f}")

# %%
# Left: errors relative to histogram boosting, with standard errors over the splits.
# Right: the seconds of a fit on one core.

figure, (left, right) = plt.subplots(
    1, 2, figsize=(9, 3), sharey=True, layout="constrained"
)
for offset, marker, (name, (errors, seconds)) in zip(
    (-0.1, 0.1), "os", results.items(), strict=True
):
    relative = errors.div(errors["HistGradientBoosting"], axis=0)
    places = np.arange(len(seconds)) + offset
    left.errorbar(
        relative.mean(), places, xerr=relative.sem(), fmt=marker, capsize=3, label=name
    )
    right.plot(seconds, places, marker, label=name)
left.axvline(1, color="0.7", lw=1, zorder=0)
left.set_yticks(np.arange(len(seconds)), list(seconds.index))
left.set_ylim(len(seconds) - 0.5, -0.5)
left.set_xlabel("RMSE relative to histogram boosting")
left.set_title("held-out error (± standard error)")
right.set_xscale("log")
ticks = [0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10]
right.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
right.minorticks_off()
fastest, slowest = right.dataLim.intervalx
right.set_xlim(0.8 * fastest, 1.25 * slowest)
right.set_xlabel("seconds")
right.set_title("time of a fit")
right.legend(frameon=False, loc="upper left")

if len(sys.argv) > 1:
    figure.savefig(sys.argv[1], dpi=120)
