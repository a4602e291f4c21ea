"""The estimators for tables against the defaults of other packages.

Fits GradientBasisRegressor or GradientBasisClassifier and its rivals to the splits of
the regression sets (uci_regression, dkl_regression) and of uci121. Rivals are the
defaults of the packages that are installed (`make bench-peers` installs more), CatBoost
averaged over five folds, as our estimators are, and an RBF kernel machine. "stack" is
the average of our own members with their weights, without any refit. The RMSE or the
log loss is measured, with accuracies, calibration errors and seconds; log losses below
0.01 count as 0.01 in ratios. Each fit is one row of --resume.

--choosing uses the sets that defaults were chosen on instead: `tabular`, and the tables
of `messy`, with strings and missing values, for the rivals that take these.
"""

from copy import copy
from functools import partial
from time import perf_counter

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
    folder,
    load,
    means_and_errors,
    parse_arguments,
    print_scores,
    print_table,
    run,
    scores,
    tasks_of,
)
from _rivals import rivals
from sklearn.base import clone
from sklearn.metrics import accuracy_score, log_loss, root_mean_squared_error
from sklearn.model_selection import KFold, StratifiedKFold

from sklearn_pgb import GradientBasisClassifier, GradientBasisRegressor

REGRESSION = ("uci_regression/*", "dkl_regression/*")
CLASSIFICATION = ("uci121/*",)
QUICK_SETS = ("uci_regression/yacht", "uci121/iris", "uci121/wine")

# Targets of the tables with strings and missing values; classes if the last is True.
MESSY = {
    "bikeshare": ("bikers", False),
    "carseats": ("Sales", False),
    "college": ("Grad.Rate", False),
    "credit_balance": ("Balance", False),
    "midwest_poverty": ("percbelowpoverty", False),
    "mpg_city": ("cty", False),
    "msleep": ("sleep_total", False),
    "oj": ("Purchase", True),
    "penguins_mass": ("body_mass_g", False),
    "penguins_species": ("species", True),
    "txhousing_sales": ("sales", False),
}

# Splits of a set, of a set with more than LARGE samples, and the largest number of
# training samples, of which a random part is used.
MAX_SPLITS, LARGE, MAX_LARGE_SPLITS, MAX_TRAIN = 10, 10_000, 2, 10_000
LEAST_LOSS = 0.01
N_BINS = 15
MOST_CATEGORIES = 255
OURS, STACK, AVERAGED = "GradientBasis", "stack", "CatBoost x 5"
TAKE_STRINGS = (OURS, "HistGB", "CatBoost", AVERAGED)


class Table(Split):
    """One of five random splits of a table with strings and missing values."""

    def __init__(self, name, index):
        target, classifies = MESSY[name]
        X = pd.read_csv(folder() / f"messy/{name}.csv.gz")
        y = X.pop(target)
        X, y = X[y.notna()], y[y.notna()]
        order = np.random.RandomState(0).permutation(len(y))
        test = np.sort(np.array_split(order, 5)[index])
        train = np.setdiff1d(order, test)
        y = np.unique(y, return_inverse=True)[1] if classifies else y.to_numpy(float)
        self.classes = np.unique(y) if classifies else None
        self.X, self.y = X.iloc[train].copy(), y[train]
        self.X_test, self.y_test = X.iloc[test].copy(), y[test]
        self.result = {"rows": len(y)}

    def prepare_for(self, name, model):
        """Represent strings as the rival wants them; return the model for them."""
        words = self.X.select_dtypes(["object", "string"]).columns.tolist()
        if name == "CatBoost":
            for X in (self.X, self.X_test):
                X[words] = X[words].astype(object).fillna("missing")
            return model.set_params(cat_features=words)
        # Columns of many values are left out, as the package takes 255 at most.
        few = [word for word in words if self.X[word].nunique() <= MOST_CATEGORIES]
        kinds = {
            word: pd.CategoricalDtype(self.X[word].dropna().unique()) for word in few
        }
        many = set(words) - set(few)
        self.X = self.X.drop(columns=many).astype(kinds)
        self.X_test = self.X_test.drop(columns=many).astype(kinds)
        return model


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
    """Train a model on each of five folds; return a function for mean predictions."""
    folds = StratifiedKFold if split.classes is not None else KFold
    counts = np.unique(split.y, return_counts=True)[1]
    if split.classes is not None and counts.min() < 5:
        folds = KFold
    parts = folds(5, shuffle=True, random_state=0).split(split.X, split.y)
    fitted = [
        clone(model).fit(_take(split.X, rows), split.y[rows]) for rows, _ in parts
    ]

    def mean(X, classes):
        return np.mean([predicted(fold, X, classes) for fold in fitted], axis=0)

    return mean


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
    split.note("calibration", name, calibration_error(split, clipped))


def calibration_error(split, probabilities):
    """Mean distance of confidences and accuracies in bins of equal width."""
    confidence = probabilities.max(1)
    correct = split.classes[probabilities.argmax(1)] == split.y_test
    bins = np.minimum((confidence * N_BINS).astype(int), N_BINS - 1)
    gaps = np.bincount(bins, confidence - correct, N_BINS)
    return np.abs(gaps).sum() / len(correct)


def compute(task):
    """Fit one model to one split."""
    split = table_of(task.set, task.split)
    if len(split.y) > MAX_TRAIN:
        rows = np.random.default_rng(task.split).choice(
            len(split.y), MAX_TRAIN, replace=False
        )
        split.X, split.y = _take(split.X, rows), split.y[rows]
    classifies = split.classes is not None
    if task.model == OURS:
        kind = GradientBasisClassifier if classifies else GradientBasisRegressor
        model = kind(random_state=task.split)
    else:
        name = "CatBoost" if task.model == AVERAGED else task.model
        model = rivals(classifies, len(split.y))[name]
        if isinstance(split, Table):
            model = split.prepare_for(name, model)
    if task.model == AVERAGED:
        start = perf_counter()
        predict = five_folds(model, split)
        split.note("seconds", task.model, perf_counter() - start)
    else:
        split.note("seconds", task.model, fit_seconds(model, split.X, split.y))
        predict = partial(predicted, model)
    # The first call prepares what later ones share.
    predict(split.X_test, split.classes)
    start = perf_counter()
    prediction = predict(split.X_test, split.classes)
    milliseconds = 1e6 * (perf_counter() - start) / len(split.y_test)
    split.note("predict", task.model, milliseconds)
    note(split, task.model, prediction)
    if task.model == OURS:
        note(split, STACK, stacked(model, split.X_test, split.classes))
    return split.result


def table_of(name, index):
    """One split of a data set."""
    group, _, last = name.partition("/")
    return Table(last, index) if group == "messy" else Split(name, index)


def _take(X, rows):
    return X.iloc[rows] if isinstance(X, pd.DataFrame) else X[rows]


# --- tables -------------------------------------------------------------------


def all_tasks(options):
    """Tasks of all sets, the splits of large ones limited; the cheapest ones first."""
    sets = QUICK_SETS if options.quick else data_sets(*REGRESSION, *CLASSIFICATION)
    if options.choosing:
        sets = [*data_sets("tabular/*"), *(f"messy/{name}" for name in MESSY)]
    tasks = []
    for name in sets:
        most = 1 if options.quick else options.max_splits
        is_messy = name.startswith("messy/")
        n_all = 5 if is_messy else len(load(name)["splits"])
        for index in range(min(most, n_all)):
            split = table_of(name, index)
            if index >= MAX_LARGE_SPLITS and split.result["rows"] > LARGE:
                break
            classifies = split.classes is not None
            part = "classification" if classifies else "regression"
            n_train = min(len(split.y), MAX_TRAIN)
            n_outputs = len(split.classes) if classifies else 1
            cost = n_train * split.X.shape[1] * n_outputs
            models = [OURS, *rivals(classifies, n_train)]
            if "CatBoost" in models:
                models.append(AVERAGED)
            if is_messy:
                models = [each for each in models if each in TAKE_STRINGS]
            tasks += [(index, cost, Task(name, index, part, each)) for each in models]
    # One split of each set, then the next one.
    return [task for _, _, task in sorted(tasks, key=lambda each: each[:2])]


def ratios(losses, rival):
    """Our loss over a rival's, by set: the mean over its splits."""
    clipped = losses.clip(lower=LEAST_LOSS) if losses.attrs["log"] else losses
    return np.exp(np.log(clipped[OURS] / clipped[rival]).groupby("set").mean())


def summarize(part, losses, complete):
    """Print the comparison with each rival; return findings about the main one."""
    lines, findings = [], []
    # A rival that failed comes last.
    ranks = losses.rank(axis=1, na_option="bottom").mean()
    for rival in [column for column in losses.columns if column != OURS]:
        by_set = ratios(losses, rival)
        mean = float(np.exp(np.log(by_set).mean()))
        error = float(np.log(by_set).sem()) * mean if len(by_set) > 1 else 0.0
        known = losses[rival].notna()
        wins = float((losses[OURS] < losses[rival])[known].mean())
        figures = f"{wins:.0%}", str(int(known.sum())), f"{ranks[rival]:.2f}"
        lines.append([rival, f"{mean:.3f} ± {error:.3f}", *figures])
        if rival == "CatBoost":
            claim = f"{part}: loss over CatBoost's below 1, and lower on most splits"
            holds = mean < 1 and wins > 0.5
            figure = f"{mean:.3f}, {wins:.0%} of splits"
            findings.append(Finding(claim, figure, holds, complete))
    lines.append([OURS, "", "", str(len(losses)), f"{ranks[OURS]:.2f}"])
    header = ["rival", "our loss / its loss", "lower on", "of splits", "mean rank"]
    print_table(f"{part}: ours against each", header, lines)
    means, errors = means_and_errors(losses)
    print_scores(
        f"{part}: {'log loss' if losses.attrs['log'] else 'RMSE'}", means, errors
    )
    return findings


def print_times(part, rows):
    """Print the seconds of fits and of predictions, and geometric means of ratios."""
    lines = []
    for metric, text in (("seconds", "fit, s"), ("predict", "predict, ms per 1,000")):
        times = scores(rows, metric)
        means = np.exp(np.log(times.clip(lower=1e-9)).mean())
        ratios = np.exp(np.log(times.rdiv(times[OURS], axis=0)).mean())
        for name in times.columns:
            lines.append([text, name, f"{means[name]:.3g}", f"{ratios[name]:.2f}"])
    header = ["time", "model", "geometric mean", "ours / its"]
    print_table(f"{part}: times", header, lines, n_left=2)
    print_scores(
        f"{part}: seconds of a fit",
        means_and_errors(scores(rows, "seconds"))[0],
        digits=2,
    )


def main():
    """Run what the command line asks for and print the tables."""
    parts = "regression", "classification"
    flags = {"choosing": "use the sets that defaults were chosen on"}
    options = parse_arguments(__doc__, parts=parts, max_splits=MAX_SPLITS, flags=flags)
    tasks = all_tasks(options)
    constants = {"train": MAX_TRAIN, "models": "one per row"}
    protocols = dict.fromkeys(parts, constants)
    rows = run(tasks, compute, protocols, options)
    findings = []
    for part in parts:
        own = [row for row in rows if row["part"] == part and "error" not in row]
        if not any(row["model"] == OURS for row in own):
            continue
        losses = scores(own, "loss").dropna(subset=[OURS])
        losses.attrs["log"] = part == "classification"
        complete = not options.quick and covers(own, tasks_of(tasks, part))
        findings += summarize(part, losses, complete)
        print_times(part, own)
        for metric in ("accuracy", "calibration") if losses.attrs["log"] else ():
            means = means_and_errors(scores(own, metric))[0].mean()
            print_scores(f"{part}: {metric}", pd.DataFrame({"mean": means}).T)
    # Rivals that fail on a set have no figures there.
    ours = [row for row in rows if row["model"] == OURS]
    for row in rows:
        if "error" in row and row["model"] != OURS:
            reason = row["error"].strip().splitlines()[-1]
            print(f"\n{row['model']} failed on {row['set']} {row['split']}: {reason}")
    finish(findings, ours)


if __name__ == "__main__":
    main()
