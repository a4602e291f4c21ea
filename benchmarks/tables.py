"""The estimators for tables against the defaults of other packages.

Fits GradientBasisRegressor or GradientBasisClassifier and its rivals to the splits of
the regression sets (uci_regression, dkl_regression) and of uci121. Rivals are the
defaults of CatBoost (also averaged over five folds, as our estimators are), LightGBM,
XGBoost, histogram boosting and random forests, as far as they are installed. "stack" is
the average of our own members with their weights, without any refit. The RMSE or the
log loss is measured, with accuracies and seconds; log losses below 0.01 count as 0.01
in ratios.
"""

from copy import copy
from importlib.util import find_spec

import numpy as np
import pandas as pd
from _harness import (
    Finding,
    Split,
    Task,
    covers,
    data_sets,
    finish,
    fit_seconds,
    load,
    means_and_errors,
    parse_arguments,
    print_scores,
    print_table,
    run,
    scores,
)
from sklearn.base import clone
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.metrics import accuracy_score, log_loss, root_mean_squared_error
from sklearn.model_selection import KFold, StratifiedKFold

from sklearn_pgb import GradientBasisClassifier, GradientBasisRegressor

REGRESSION = ("uci_regression/*", "dkl_regression/*")
CLASSIFICATION = ("uci121/*",)
QUICK_SETS = ("uci_regression/yacht", "uci121/iris", "uci121/wine")

# Splits of a set, of a set with more than LARGE samples, and the largest number of
# training samples, of which a random part is used.
MAX_SPLITS, LARGE, MAX_LARGE_SPLITS, MAX_TRAIN = 10, 10_000, 2, 10_000
LEAST_LOSS = 0.01
OURS = "GradientBasis"


def rivals(classifies):
    """Unfitted estimators by name, as far as they are installed."""
    kinds = {
        "HistGB": (HistGradientBoostingClassifier, HistGradientBoostingRegressor),
        "forest": (RandomForestClassifier, RandomForestRegressor),
    }
    models = {
        name: (pair[0] if classifies else pair[1])(random_state=0)
        for name, pair in kinds.items()
    }
    if find_spec("catboost"):
        from catboost import CatBoostClassifier, CatBoostRegressor

        kind = CatBoostClassifier if classifies else CatBoostRegressor
        options = {"random_seed": 0, "thread_count": 1, "allow_writing_files": False}
        models["CatBoost"] = kind(verbose=0, **options)
    if find_spec("lightgbm"):
        from lightgbm import LGBMClassifier, LGBMRegressor

        kind = LGBMClassifier if classifies else LGBMRegressor
        models["LightGBM"] = kind(random_state=0, n_jobs=1, verbose=-1)
    if find_spec("xgboost"):
        from xgboost import XGBClassifier, XGBRegressor

        kind = XGBClassifier if classifies else XGBRegressor
        models["XGBoost"] = kind(random_state=0, n_jobs=1)
    return models


def predicted(model, X, classes):
    """Predictions, or probabilities with a column for every class."""
    if classes is None:
        return np.asarray(model.predict(X)).ravel()
    known = np.asarray(getattr(model, "classes_", classes)).ravel()
    probabilities = np.zeros((len(X), len(classes)))
    probabilities[:, np.searchsorted(classes, known)] = model.predict_proba(X)
    return probabilities


def stacked(ours, X, classes):
    """Prediction of the average of our members, without a refit."""
    plain = copy(ours)
    # The center alone: no coefficients of the bases.
    plain.basis_coef_ = [[0 * coef for coef in fold] for fold in ours.basis_coef_]
    plain.intercept_, plain._centered = ours.stack_intercept_, 1.0
    return predicted(plain, X, classes)


def five_folds(model, split):
    """Mean prediction of a model trained on each of five folds."""
    folds = StratifiedKFold if split.classes is not None else KFold
    counts = np.unique(split.y, return_counts=True)[1]
    if split.classes is not None and counts.min() < 5:
        folds = KFold
    parts = folds(5, shuffle=True, random_state=0).split(split.X, split.y)
    predictions = []
    for rows, _ in parts:
        fold = clone(model).fit(split.X[rows], split.y[rows])
        predictions.append(predicted(fold, split.X_test, split.classes))
    return np.mean(predictions, axis=0)


def note(split, name, prediction):
    """Store the losses of a prediction."""
    if split.classes is None:
        split.note("loss", name, root_mean_squared_error(split.y_test, prediction))
        return
    clipped = np.clip(prediction, 1e-15, 1)
    clipped /= clipped.sum(1, keepdims=True)
    loss = log_loss(split.y_test, clipped, labels=split.classes)
    split.note("loss", name, loss)
    best = split.classes[clipped.argmax(1)]
    split.note("accuracy", name, accuracy_score(split.y_test, best))


def compute(task):
    """Fit all models to one split."""
    split = Split(task.set, task.split)
    if len(split.y) > MAX_TRAIN:
        rows = np.random.default_rng(task.split).choice(
            len(split.y), MAX_TRAIN, replace=False
        )
        split.X, split.y = split.X[rows], split.y[rows]
    classifies = split.classes is not None
    ours = (GradientBasisClassifier if classifies else GradientBasisRegressor)(
        random_state=task.split
    )
    split.note("seconds", OURS, fit_seconds(ours, split.X, split.y))
    note(split, OURS, predicted(ours, split.X_test, split.classes))
    note(split, "stack", stacked(ours, split.X_test, split.classes))
    for name, model in rivals(classifies).items():
        # XGBoost wants class numbers without gaps.
        split.note("seconds", name, fit_seconds(model, split.X, split.y))
        note(split, name, predicted(model, split.X_test, split.classes))
        if name == "CatBoost":
            note(split, "CatBoost x 5", five_folds(model, split))
    return split.result


# --- tables -------------------------------------------------------------------


def all_tasks(options):
    """Tasks of all sets, the splits of large ones limited; the cheapest ones first."""
    sets = QUICK_SETS if options.quick else data_sets(*REGRESSION, *CLASSIFICATION)
    tasks = []
    for name in sets:
        data = load(name)
        most = 1 if options.quick else options.max_splits
        if len(data["y"]) > LARGE:
            most = min(most, MAX_LARGE_SPLITS)
        n_splits = min(most, len(data["splits"]))
        part = "regression" if data["task"] == "regression" else "classification"
        n_train = min(len(data["splits"][0][0]), MAX_TRAIN)
        n_outputs = 1 if part == "regression" else len(np.unique(data["y"]))
        cost = n_train * data["X"].shape[1] * n_outputs
        tasks += [(split, cost, Task(name, split, part)) for split in range(n_splits)]
    # One split of each set, then the next one.
    return [task for _, _, task in sorted(tasks, key=lambda each: each[:2])]


def ratios(losses, rival):
    """Our loss over a rival's, by set: the mean over its splits."""
    clipped = losses.clip(lower=LEAST_LOSS) if losses.attrs["log"] else losses
    return np.exp(np.log(clipped[OURS] / clipped[rival]).groupby("set").mean())


def summarize(part, losses, seconds, complete):
    """Print the comparison with each rival; return findings about the main one."""
    lines, findings = [], []
    ranks = losses.rank(axis=1).mean()
    for rival in [column for column in losses.columns if column != OURS]:
        by_set = ratios(losses, rival)
        mean = float(np.exp(np.log(by_set).mean()))
        error = float(np.log(by_set).sem()) * mean if len(by_set) > 1 else 0.0
        wins = float((losses[OURS] < losses[rival]).mean())
        lines.append(
            [rival, f"{mean:.3f} ± {error:.3f}", f"{wins:.0%}", f"{ranks[rival]:.2f}"]
        )
        if rival == "CatBoost":
            claim = f"{part}: loss over CatBoost's below 1, and lower on most splits"
            holds = mean < 1 and wins > 0.5
            figure = f"{mean:.3f}, {wins:.0%} of splits"
            findings.append(Finding(claim, figure, holds, complete))
    lines.append([OURS, "", "", f"{ranks[OURS]:.2f}"])
    header = ["rival", "our loss / its loss", "lower on splits", "mean rank"]
    print_table(f"{part}: ours against each", header, lines)
    means, errors = means_and_errors(losses)
    print_scores(
        f"{part}: {'log loss' if losses.attrs['log'] else 'RMSE'}", means, errors
    )
    print_scores(f"{part}: seconds of a fit", means_and_errors(seconds)[0], digits=2)
    return findings


def main():
    """Run what the command line asks for and print the tables."""
    parts = "regression", "classification"
    options = parse_arguments(__doc__, parts=parts, max_splits=MAX_SPLITS)
    tasks = all_tasks(options)
    constants = {"train": MAX_TRAIN}
    protocols = dict.fromkeys(("regression", "classification"), constants)
    rows = run(tasks, compute, protocols, options)
    findings = []
    for part in protocols:
        own = [row for row in rows if row["part"] == part and "error" not in row]
        if not own:
            continue
        losses = scores(own, "loss")
        losses.attrs["log"] = part == "classification"
        complete = not options.quick and covers(
            own, [task for task in tasks if task.part == part]
        )
        findings += summarize(part, losses, scores(own, "seconds"), complete)
        if part == "classification":
            accuracy = means_and_errors(scores(own, "accuracy"))[0]
            mean = pd.DataFrame(accuracy.mean()).T.rename(index={0: "mean"})
            print_scores("classification: accuracy", mean)
    finish(findings, rows)


if __name__ == "__main__":
    main()
