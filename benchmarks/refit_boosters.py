"""The refit of boosted trees against the boosted trees themselves.

Refits the defaults of scikit-learn's histogram boosting, LightGBM and CatBoost with
GradientBasisRefit's defaults, and compares the refit with the booster trained on all
training samples, and with the mean of the refit's fold boosters. The data sets are
uci_regression, dkl_regression and every fourth of uci121, 30 in all.
"""

from importlib.util import find_spec

import numpy as np
from _harness import (
    Finding,
    Task,
    covers,
    data_sets,
    finish,
    fit_seconds,
    load,
    parse_arguments,
    print_table,
    run,
)
from refit_vs_networks import (
    average,
    compare,
    geometric_mean,
    losses_of,
    note,
    split_of,
    worse,
)
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
)

from sklearn_pgb import GradientBasisRefit

QUICK_SETS = ("uci_regression/yacht", "uci121/iris")
PARTS = ("HistGB", "LightGBM", "CatBoost")
# A random part of larger training sets: CatBoost grows 1,000 trees of 64 leaves.
MAX_SPLITS, MAX_TRAIN, N_SETS = 2, 1_000, 30


def booster(part, classifies):
    """A booster with its defaults."""
    if part == "HistGB":
        kinds = HistGradientBoostingClassifier, HistGradientBoostingRegressor
        return kinds[0 if classifies else 1](random_state=0)
    if part == "LightGBM":
        from lightgbm import LGBMClassifier, LGBMRegressor

        kind = LGBMClassifier if classifies else LGBMRegressor
        return kind(random_state=0, n_jobs=1, verbose=-1)
    from catboost import CatBoostClassifier, CatBoostRegressor

    kind = CatBoostClassifier if classifies else CatBoostRegressor
    options = {"random_seed": 0, "thread_count": 1, "allow_writing_files": False}
    return kind(verbose=0, **options)


def compute(task):
    """Losses of refit, booster and mean of the fold boosters on one split."""
    split = split_of(task)
    split.result.setdefault("train", len(split.y))
    if len(split.y) > MAX_TRAIN:
        rng = np.random.default_rng(task.split)
        rows = rng.choice(len(split.y), MAX_TRAIN, replace=False)
        split.X, split.y = split.X[rows], split.y[rows]
    classifies = split.classes is not None
    model = booster(task.part, classifies)
    refit = GradientBasisRefit(model, random_state=task.split)
    split.note("seconds", "refit", fit_seconds(refit, split.X, split.y))
    split.note("seconds", "single", fit_seconds(model, split.X, split.y))

    def predict(fitted):
        method = fitted.predict_proba if classifies else fitted.predict
        return method(split.X_test)

    note(split, "refit", refit, predict(refit))
    note(split, "single", model, predict(model))
    note(split, "average", refit, average(refit.estimators_, split.X_test))
    return split.result


def all_tasks(options):
    """Tasks of all sets."""
    regression = data_sets("uci_regression/*", "dkl_regression/*")
    names = (regression + data_sets("uci121/*")[::4])[:N_SETS]
    parts = [
        part
        for part in PARTS
        if part == "HistGB" or find_spec(part.lower()) is not None
    ]
    return [
        Task(name, split, part)
        for name in (QUICK_SETS if options.quick else names)
        for split in range(min(options.max_splits, len(load(name)["splits"])))
        for part in parts
    ]


def report(rows, tasks):
    """Print a table for each booster, and return the findings."""
    good = [row for row in rows if "error" not in row]
    findings = []
    for part in PARTS:
        losses = losses_of(good, part)
        if losses is None:
            continue
        table = compare(losses, "single")
        mean = compare(losses, "average")["ratio"]
        bad = worse(table)
        lines = [
            [name, row.metric, f"{row.ratio:.3f}{' !' * (name in bad)}", f"{own:.3f}"]
            for (name, row), own in zip(table.iterrows(), mean, strict=True)
        ]
        header = ["set", "loss", "refit / booster", "refit / mean of its folds"]
        print_table(f"{part} (!: worse by two standard errors)", header, lines, 2)
        complete = covers(rows, [task for task in tasks if task.part == part])
        ratio = geometric_mean(table["ratio"])
        claim = f"{part}: loss of the refit over the booster's ≤ 0.95"
        figure = f"{ratio:.3f} over {len(table)} sets"
        findings.append(Finding(claim, figure, ratio <= 0.95, complete))
        claim = f"{part}: worse by two standard errors on at most 2 sets"
        findings.append(Finding(claim, f"{len(bad)}", len(bad) <= 2, complete))
    return findings


def main():
    """Run the benchmark from the command line."""
    options = parse_arguments(__doc__, PARTS, max_splits=MAX_SPLITS)
    tasks = all_tasks(options)
    constants = {"train": MAX_TRAIN}
    rows = run(tasks, compute, dict.fromkeys(PARTS, constants), options)
    finish(report(rows, tasks), rows)


if __name__ == "__main__":
    main()
