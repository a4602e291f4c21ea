"""The default refit against the average of its own fold networks and a single network.

Compares GradientBasisRefit with its defaults, the mean of the raw outputs of the
networks that it has trained, and one network trained on all training samples. It does
so for scikit-learn's networks and the package's, on every data set of uci_regression
and uci121 and on friedman1 with noise one. Rows are written to
benchmarks/results/refit_vs_networks.jsonl and reused if the package's code is the same.
"""

import ast
import hashlib
from functools import cache
from pathlib import Path

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
    print_table,
    run,
    scores,
)
from sklearn.base import is_classifier
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import make_friedman1
from sklearn.metrics import log_loss, root_mean_squared_error
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import sklearn_pgb
from sklearn_pgb import AddedNeuronClassifier, AddedNeuronRegressor, GradientBasisRefit

RESULTS = Path(__file__).parent / "results" / "refit_vs_networks.jsonl"
FRIEDMAN = "generated/friedman1"
FOLDERS = ("uci_regression/*", "uci121/*")
QUICK_SETS = (FRIEDMAN, "uci_regression/yacht", "uci121/iris", "uci121/wine")

# Largest number of splits of a data set, and of one that is reduced to MAX_TRAIN
# training samples and MAX_TEST test samples.
MAX_SPLITS, MAX_LARGE_SPLITS = 4, 2
MAX_TRAIN, MAX_TEST = 5_000, 10_000
FRIEDMAN_SEEDS = 10

# The networks of uci_regression.py and uci121.py; the package's have their defaults.
REGRESSOR = {
    "hidden_layer_sizes": (50,),
    "activation": "tanh",
    "max_iter": 400,
    "alpha": 1e-2,
    "learning_rate_init": 3e-3,
}
CLASSIFIER = REGRESSOR | {"hidden_layer_sizes": (64,), "max_iter": 200}

METHODS = ("refit", "average", "single")
# Log losses are clipped to at least this.
LEAST_LOSS = 0.01
# scikit-learn's networks give probabilities, not raw outputs: the rounding of 1 - p.
LEAST_PROBABILITY = 1e-16


# --- models -------------------------------------------------------------------


def network_of(kind, classifies, seed):
    """One network, with scalers if it is scikit-learn's."""
    if kind == "AddedNeuron":
        network = AddedNeuronClassifier if classifies else AddedNeuronRegressor
        return network(random_state=seed)
    if classifies:
        network = MLPClassifier(**CLASSIFIER, random_state=seed)
        return make_pipeline(StandardScaler(), network)
    network = make_pipeline(
        StandardScaler(), MLPRegressor(**REGRESSOR, random_state=seed)
    )
    return TransformedTargetRegressor(network, transformer=StandardScaler())


def average(networks, X):
    """Prediction of the mean of the networks' raw outputs."""
    if not is_classifier(networks[0]):
        return np.mean([network.predict(X) for network in networks], axis=0)
    logarithms = [
        np.log(np.clip(network.predict_proba(X), LEAST_PROBABILITY, None))
        for network in networks
    ]
    raw = np.mean(logarithms, axis=0)
    result = np.exp(raw - raw.max(axis=1, keepdims=True))
    return result / result.sum(axis=1, keepdims=True)


# --- one row ------------------------------------------------------------------


def friedman_split(seed):
    """One draw of friedman1: 700 training and 300 test samples."""
    X, y = make_friedman1(1000, 10, noise=1.0, random_state=seed)
    split = Split.__new__(Split)
    split.X, split.X_test, split.y, split.y_test = X[:700], X[700:], y[:700], y[700:]
    split.classes, split.result = None, {"rows": len(y)}
    return split


def split_of(task):
    """Training and test samples of a task, cut to the limits."""
    if task.set == FRIEDMAN:
        return friedman_split(task.split)
    split = Split(task.set, task.split)
    split.result["train"] = len(split.y)
    rng = np.random.default_rng(task.split)
    if len(split.y) > MAX_TRAIN:
        rows = rng.choice(len(split.y), MAX_TRAIN, replace=False)
        split.X, split.y = split.X[rows], split.y[rows]
        if len(split.y_test) > MAX_TEST:
            rows = rng.choice(len(split.y_test), MAX_TEST, replace=False)
            split.X_test, split.y_test = split.X_test[rows], split.y_test[rows]
    return split


def note(split, method, model, prediction):
    """Store the loss of predicted targets or probabilities."""
    if split.classes is None:
        split.note("rmse", method, root_mean_squared_error(split.y_test, prediction))
        return
    # A class that the training part lacks has probability zero.
    probabilities = np.zeros((len(split.y_test), len(split.classes)))
    probabilities[:, np.searchsorted(split.classes, model.classes_)] = prediction
    clipped = np.clip(probabilities, 1e-15, 1.0)
    clipped /= clipped.sum(axis=1, keepdims=True)
    loss = log_loss(split.y_test, clipped, labels=split.classes)
    split.note("log loss", method, loss)


def compute(task):
    """Losses of the three methods on one split."""
    split = split_of(task)
    split.result.setdefault("train", len(split.y))
    classifies = split.classes is not None
    network = network_of(task.part, classifies, task.split)
    refit = GradientBasisRefit(network, random_state=task.split)
    split.note("seconds", "refit", fit_seconds(refit, split.X, split.y))
    split.note("seconds", "single", fit_seconds(network, split.X, split.y))

    def predict(model):
        return (model.predict_proba if classifies else model.predict)(split.X_test)

    note(split, "refit", refit, predict(refit))
    note(split, "single", network, predict(network))
    note(split, "average", refit, average(refit.estimators_, split.X_test))
    if task.set == FRIEDMAN:
        seeds = range(5 * task.split, 5 * task.split + 5)
        five = [network_of(task.part, classifies, seed) for seed in seeds]
        five = [network.fit(split.X, split.y) for network in five]
        note(split, "five", network, average(five, split.X_test))
    split.result["networks"] = len(refit.estimators_)
    split.result["alpha"] = float(refit.alpha_)
    return split.result


PARTS = ("MLP", "AddedNeuron")


@cache
def code_digest():
    """Hash of the package's code without comments and formatting."""
    folder = Path(sklearn_pgb.__file__).parent
    trees = [ast.dump(ast.parse(p.read_text())) for p in sorted(folder.rglob("*.py"))]
    return hashlib.sha256("".join(trees).encode()).hexdigest()[:12]


@cache
def all_tasks(max_splits=MAX_SPLITS):
    """Tasks of all sets, the large ones last."""
    tasks = []
    for name in data_sets(*FOLDERS):
        data = load(name)
        n_train = len(data["splits"][0][0])
        n_splits = min(len(data["splits"]), max_splits)
        if n_train > MAX_TRAIN:
            n_splits = min(n_splits, MAX_LARGE_SPLITS)
        tasks += [
            (n_train * data["X"].shape[1], Task(name, index, part))
            for index in range(n_splits)
            for part in PARTS
        ]
    tasks.sort(key=lambda pair: pair[0])
    seeds = range(FRIEDMAN_SEEDS)
    friedman = [Task(FRIEDMAN, seed, part) for seed in seeds for part in PARTS]
    return friedman + [task for _, task in tasks]


# --- report -------------------------------------------------------------------


def losses_of(rows, part):
    """RMSE or log loss of one kind of network: (set, split) by method."""
    mine = [row for row in rows if row["part"] == part]
    parts = []
    for metric, least in [("rmse", 0.0), ("log loss", LEAST_LOSS)]:
        if any(metric in row for row in mine):
            frame = scores(mine, metric).clip(lower=least)
            parts.append(frame.assign(metric=metric))
    return pd.concat(parts) if parts else None


def compare(losses, rival):
    """By set: ratio of mean losses, paired difference and its standard error."""
    means, _ = means_and_errors(losses[list(METHODS)])
    difference, error = means_and_errors(losses["refit"] - losses[rival])
    return pd.DataFrame(
        {
            "metric": losses["metric"].groupby("set", sort=False).first(),
            "ratio": means["refit"] / means[rival],
            "difference": difference,
            "error": error,
        }
    )


def worse(table):
    """Sets on which the refit is worse by more than two standard errors."""
    return table.index[table["difference"] > np.maximum(2.0 * table["error"], 0.0)]


def geometric_mean(ratios):
    """Geometric mean of some ratios."""
    return float(np.exp(np.log(ratios).mean()))


def named(names, table):
    """Number and names of the data sets, with their ratios."""
    text = f"{len(names)} of {len(table)} sets"
    some = [f"{n.split('/')[1]} {table.at[n, 'ratio']:.3f}" for n in names]
    return text + (f": {', '.join(some)}" if some else "")


def print_sets(part, losses, sizes):
    """Print the losses of each set, and the two ratios."""
    means, errors = means_and_errors(losses[list(METHODS)])
    tables = {rival: compare(losses, rival) for rival in METHODS[1:]}
    lines = []
    for name in means.index:
        cells = [f"{means.at[name, m]:.4g} ± {errors.at[name, m]:.2g}" for m in METHODS]
        for table in tables.values():
            mark = " !" if name in worse(table) else ""
            cells.append(f"{table.at[name, 'ratio']:.3f}{mark}")
        metric = tables["average"].at[name, "metric"]
        lines.append([name, metric, str(sizes[name]), *cells])
    header = ["set", "loss", "train", *METHODS, "refit / average", "refit / single"]
    title = f"{part}: mean over splits ± standard error (!: worse by two)"
    print_table(title, header, lines, n_left=2)


def findings_of(part, losses, sizes, complete):
    """Findings for one kind of network."""
    on_sets = losses[losses.index.get_level_values("set") != FRIEDMAN]
    found = []

    def add(claim, figure, holds):
        found.append(Finding(f"{part}: {claim}", figure, bool(holds), complete))

    if len(on_sets):
        table = compare(on_sets, "average")
        for metric, most in [("rmse", 0.85), ("log loss", 0.95)]:
            ratios = table["ratio"][table["metric"] == metric]
            if len(ratios):
                mean = geometric_mean(ratios)
                text = f"{mean:.3f} over {len(ratios)} sets"
                claim = f"{metric}, refit / average of its fold networks: ≤ {most}"
                add(claim, text, mean <= most)
        bad = worse(table)
        claim = "worse than the average by two standard errors: on at most 5 of 76"
        add(claim, named(bad, table), len(bad) <= 5)
        large = table[[sizes[name] >= 500 for name in table.index]]
        bad = large.index[large["ratio"] > 1.03]
        claim = "with at least 500 training samples worse than the average by 3 %: none"
        add(claim, named(bad, large), not len(bad))
        table = compare(on_sets, "single")
        ratios = table["ratio"][table["metric"] == "rmse"]
        if len(ratios):
            mean = geometric_mean(ratios)
            text = f"{mean:.3f} over {len(ratios)} sets"
            add("rmse, refit / single network: ≤ 0.72", text, mean <= 0.72)
        bad = worse(table)
        claim = "worse than a single network by two standard errors: on at most 2"
        add(claim, named(bad, table), len(bad) <= 2)
    if len(on_sets) < len(losses):
        # Networks may train otherwise inside of a refit than by themselves.
        means = losses.loc[FRIEDMAN, [*METHODS, "five"]].mean()
        rivals = {
            "average": "its fold networks",
            "five": "five networks of all samples",
        }
        for rival, text in rivals.items():
            ratio = means["refit"] / means[rival]
            claim = f"friedman1, noise 1: refit / average of {text} ≤ 1.01"
            add(claim, f"{ratio:.3f}", ratio <= 1.01)
    return found


def report(rows, tasks):
    """Print the tables and return the findings."""
    good = [row for row in rows if "error" not in row]
    sizes = {row["set"]: row["train"] for row in good}
    findings = []
    for part in PARTS:
        losses = losses_of(good, part)
        if losses is None:
            continue
        print_sets(part, losses, sizes)
        complete = covers(rows, [task for task in tasks if task.part == part])
        findings += findings_of(part, losses, sizes, complete)
    seconds = sum(row["seconds_in_all"] for row in good)
    print(f"\n{len(good)} fits of refit and network, {seconds / 60:.1f} CPU minutes")
    return findings


def main():
    """Run the benchmark from the command line."""
    options = parse_arguments(__doc__, PARTS, max_splits=MAX_SPLITS)
    if options.resume is None and options.out is None and not options.quick:
        RESULTS.parent.mkdir(exist_ok=True)
        options.resume = RESULTS
    tasks = all_tasks(options.max_splits)
    if options.quick:
        tasks = [task for task in tasks if task.set in QUICK_SETS and task.split < 2]
    limits = [MAX_TRAIN, MAX_TEST, code_digest()]
    protocols = {"MLP": [REGRESSOR, CLASSIFIER, *limits], "AddedNeuron": limits}
    rows = run(tasks, compute, protocols, options)
    finish(report(rows, all_tasks()), rows)


if __name__ == "__main__":
    main()
