"""Training time and held-out score against scikit-learn's networks.

Number 2: AddedNeuronClassifier and AddedNeuronRegressor against MLPClassifier and
MLPRegressor, all with their defaults, by the time to the training loss at which
scikit-learn's stopped. Number 3: a population of networks against one.
"""

import time
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd
import torch
from _harness import (
    Finding,
    Task,
    covers,
    finish,
    fit_seconds,
    load,
    means_and_errors,
    parse_arguments,
    print_table,
    run,
    scores,
    tasks_of,
)
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.preprocessing import OneHotEncoder, StandardScaler, scale

from sklearn_pgb import AddedNeuronClassifier, AddedNeuronRegressor
from sklearn_pgb._losses import SquaredLoss
from sklearn_pgb._networks import (
    ACTIVATIONS,
    ChainNetwork,
    as_float64,
    open_network,
)
from sklearn_pgb._training import (
    Adam,
    ChainProgram,
    Objective,
    Schedule,
    train,
    uniform_initialisation,
)

BUNDLED = {
    "scikit-learn/digits": load_digits,
    "scikit-learn/breast_cancer": load_breast_cancer,
}
SETS = (
    *BUNDLED,
    "uci_regression/concrete",
    "uci_regression/energy",
    "tabular/adult",
    "dkl_regression/kin40k",
    "image/kmnist10k",
)
QUICK_SETS = SETS[:4]
N_FOLDS, QUICK_FOLDS = 5, 2
DTYPES = ("float32", "float64")

# Number 3: networks and data of the population.
N_NETWORKS, N_REPEATS = 32, 5
N_ROWS, N_INPUTS, N_UNITS = 1_000, 20, 50
N_EPOCHS, BATCH_SIZE = 100, 200


# --- data -----------------------------------------------------------------------


@dataclass(frozen=True)
class Fold:
    """Standardised training rows of a set, and the held-out ones on their scale."""

    X: np.ndarray
    y: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray
    is_regression: bool


def read(name):
    """X, y, the columns of codes, and whether y is real."""
    if name in BUNDLED:
        return *BUNDLED[name](return_X_y=True), [], False
    data = load(name)
    is_regression = data["task"] == "regression"
    return data["X"].astype(float), data["y"], data["categorical"], is_regression


def read_fold(name, index, dtype):
    """One fold: numbers are standardised on the training part, codes one-hot."""
    X, y, codes, is_regression = read(name)
    splitter = KFold if is_regression else StratifiedKFold
    folds = splitter(N_FOLDS, shuffle=True, random_state=0).split(X, y)
    train_rows, test_rows = list(folds)[index]
    one_hot = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    scaler = make_column_transformer((one_hot, codes), remainder=StandardScaler())
    if is_regression:
        y = (y - y[train_rows].mean()) / y[train_rows].std()
    return Fold(
        scaler.fit_transform(X[train_rows]).astype(dtype),
        y[train_rows],
        scaler.transform(X[test_rows]).astype(dtype),
        y[test_rows],
        is_regression,
    )


# --- number 2 -------------------------------------------------------------------


class TrainingLoss:
    """Mean loss on the training rows in float64, no penalty: one ruler for all.

    Parameters
    ----------
    network : MLPClassifier or MLPRegressor
        A fitted one, which tells the loss and the targets.
    """

    def __init__(self, network, fold):
        opened = open_network(network)
        self.loss = opened.loss
        self.X, self.y = opened.inputs(fold.X), opened.targets(fold.y)

    def __call__(self, estimator):
        """Loss of an estimator with `coefs_` and `intercepts_`."""
        chain = ChainNetwork(
            [as_float64(coef).T for coef in estimator.coefs_],
            [as_float64(intercept) for intercept in estimator.intercepts_],
            [ACTIVATIONS[estimator.activation]] * (len(estimator.coefs_) - 1),
        )
        raw = chain(chain.theta, self.X)
        return float(self.loss.value(self.y, raw).mean())


class TimeToTarget:
    """Callback that ends a fit after the epoch that reaches a training loss.

    The clock starts with the call of `fit`, so that its checks and its set-up count; it
    stands still while the loss is evaluated, from the end of an epoch to the next one.
    """

    def __init__(self, training_loss, target):
        self.training_loss, self.target = training_loss, target
        self.seconds, self.n_epochs, self.reached = 0.0, 0, False

    def measure(self, estimator, X, y):
        """Fit a copy; seconds to the target, infinite where it is not reached."""
        self.start = time.perf_counter()
        clone(estimator).set_callbacks(self).fit(X, y)
        return self.seconds if self.reached else np.inf

    def setup(self, estimator, context):
        """Do nothing: the clock runs already."""

    def teardown(self, estimator, context):
        """Do nothing."""

    def on_fit_task_begin(self, estimator, context):
        """Stop the clock: the estimator reports an epoch after it has ended."""
        if context.task_name == "epoch":
            self.seconds += time.perf_counter() - self.start

    def on_fit_task_end(self, estimator, context, *, fitted_estimator=None):
        """Look at the loss and start the clock."""
        if context.task_name == "epoch":
            self.n_epochs += 1
            self.reached = self.training_loss(fitted_estimator) <= self.target
            self.start = time.perf_counter()
        return self.reached


def against_scikit_learn(task):
    """Times, epochs, losses and scores of both networks on one fold."""
    fold = read_fold(task.set, task.split, task.part)
    theirs, ours = (
        (MLPRegressor(), AddedNeuronRegressor())
        if fold.is_regression
        else (MLPClassifier(), AddedNeuronClassifier())
    )
    for model in (theirs, ours):
        # A small fit first, so that lazy imports count for no one.
        clone(model).set_params(max_iter=2).fit(fold.X[:500], fold.y[:500])
        model.set_params(random_state=task.split)
    seconds = {"MLP": fit_seconds(theirs, fold.X, fold.y)}
    training_loss = TrainingLoss(theirs, fold)
    target = training_loss(theirs)
    clock = TimeToTarget(training_loss, target)
    seconds["ours to target"] = clock.measure(ours, fold.X, fold.y)
    seconds["ours"] = fit_seconds(ours, fold.X, fold.y)
    return {
        "rows": len(fold.y) + len(fold.y_test),
        "seconds": seconds,
        "epochs": {
            "MLP": theirs.n_iter_,
            "ours to target": clock.n_epochs if clock.reached else np.inf,
            "ours": ours.n_iter_,
        },
        "loss": {"MLP": target, "ours": training_loss(ours)},
        "score": {
            "MLP": theirs.score(fold.X_test, fold.y_test),
            "ours": ours.score(fold.X_test, fold.y_test),
        },
    }


# --- number 3 -------------------------------------------------------------------


def population(task):
    """Seconds of training one network, and several at once, in both dtypes."""
    rng = np.random.default_rng(task.split)
    X = rng.standard_normal((N_ROWS, N_INPUTS))
    y = scale(np.sin(X[:, 0] * X[:, 1]) + np.tanh(X[:, 2]) * X[:, 3])
    seconds = {}
    for dtype in DTYPES:
        objective = population_objective(X, y, getattr(torch, dtype))
        train_population(objective, 1, 2, rng)
        for n_networks in (1, N_NETWORKS):
            start = time.perf_counter()
            train_population(objective, n_networks, N_EPOCHS, rng)
            seconds[f"{dtype} {n_networks}"] = time.perf_counter() - start
    return {"seconds": seconds}


def population_objective(X, y, dtype):
    """Squared loss of a narrow ReLU network."""
    program = ChainProgram([N_INPUTS, N_UNITS, 1], [ACTIVATIONS["relu"]])
    return Objective(
        program,
        SquaredLoss(),
        torch.from_numpy(X).to(dtype),
        torch.from_numpy(y[:, None]).to(dtype),
        torch.full((N_ROWS,), 1 / N_ROWS, dtype=dtype),
        torch.zeros(program.n_params, dtype=dtype),
    )


def train_population(objective, n_networks, n_epochs, rng):
    """Train some networks side by side for a number of epochs."""
    theta = uniform_initialisation(objective.program, rng, n_networks)
    train(
        objective,
        theta.to(objective.X),
        Adam(),
        Schedule(max_epochs=n_epochs, patience=n_epochs),
        batch_size=BATCH_SIZE,
        generator=torch.Generator().manual_seed(0),
    )


# --- tasks ----------------------------------------------------------------------

POPULATION = "population"
PARTS = {**dict.fromkeys(DTYPES, against_scikit_learn), POPULATION: population}
PROTOCOLS = {
    **dict.fromkeys(DTYPES, [N_FOLDS]),
    POPULATION: [N_NETWORKS, N_ROWS, N_INPUTS, N_UNITS, N_EPOCHS, BATCH_SIZE],
}


def compute(task):
    """Row of one task."""
    return PARTS[task.part](task)


def list_tasks(quick):
    """Every fold of every set in both dtypes, and the populations."""
    sets, n_folds = (QUICK_SETS, QUICK_FOLDS) if quick else (SETS, N_FOLDS)
    tasks = [Task(*task) for task in product(sets, range(n_folds), DTYPES)]
    return tasks + [Task("generated", i, POPULATION) for i in range(N_REPEATS)]


# --- report ---------------------------------------------------------------------


def report(rows):
    """Print the tables and return the findings."""
    full = list_tasks(quick=False)
    done = {part: covers(rows, tasks_of(full, part)) for part in PARTS}
    table = compare(rows)
    if len(table):
        print_comparison(table)
    return [
        *time_findings(table, done),
        *score_findings(table, all(done[dtype] for dtype in DTYPES)),
        population_finding(rows, done[POPULATION]),
    ]


def compare(rows):
    """Medians of times, epochs and losses, means of scores: (set, dtype) by figure."""
    tables = {}
    for dtype in DTYPES:
        of_dtype = [row for row in rows if row["part"] == dtype]
        figures = [
            scores(of_dtype, metric).groupby("set").median().add_prefix(f"{metric} ")
            for metric in ("seconds", "epochs", "loss")
        ]
        score = scores(of_dtype, "score")
        score["difference"] = score["ours"] - score["MLP"]
        means, errors = means_and_errors(score)
        means["error"] = errors["difference"]
        tables[dtype] = pd.concat([*figures, means.add_prefix("score ")], axis=1)
    table = pd.concat(tables, names=["dtype"]).swaplevel().reindex(SETS, level="set")
    table["ratio"] = table["seconds ours to target"] / table["seconds MLP"]
    return table


def print_comparison(table):
    """Print both networks on all sets."""
    header = ["set", "dtype", "MLP s", "epochs", "loss", "ours to its loss s"]
    header += ["epochs", "ratio", "ours s", "epochs", "loss"]
    header += ["MLP score", "ours", "difference"]
    lines = []
    for (name, dtype), row in table.iterrows():
        figures = [
            f"{row['seconds MLP']:.3g}",
            f"{row['epochs MLP']:.0f}",
            f"{row['loss MLP']:.3g}",
            f"{row['seconds ours to target']:.3g}",
            f"{row['epochs ours to target']:.0f}",
            f"{row['ratio']:.3f}",
            f"{row['seconds ours']:.3g}",
            f"{row['epochs ours']:.0f}",
            f"{row['loss ours']:.3g}",
            f"{row['score MLP']:.4f}",
            f"{row['score ours']:.4f}",
            f"{row['score difference']:+.4f} ± {row['score error']:.4f}",
        ]
        lines.append([name, dtype, *figures])
    title = (
        "Medians over folds; score: mean accuracy or R², difference ± standard error"
    )
    print_table(title, header, lines, n_left=2)


def time_findings(table, done):
    """Number 2: time to scikit-learn's training loss over its time."""
    limits = {"float32": (1 / 5, "a fifth"), "float64": (1 / 3, "a third")}
    findings = []
    for dtype, (limit, words) in limits.items():
        claim = (
            f"time to MLP's loss in {dtype}: at most {words} of MLP's on 5 of 7 sets"
        )
        ratios = table["ratio"][table.index.isin([dtype], level="dtype")]
        good = int((ratios <= limit).sum())
        text = f"on {good} of {len(ratios)} sets"
        holds = good >= min(5, len(ratios))
        findings.append(finding("2", claim, ratios, text, holds, done[dtype]))
    claim = "time to MLP's loss never more than half of MLP's"
    ratios = table["ratio"]
    text = f"at most {ratios.max():.3f}"
    holds = bool((ratios <= 0.5).all())
    complete = all(done[dtype] for dtype in DTYPES)
    return [*findings, finding("2", claim, ratios, text, holds, complete)]


def score_findings(table, complete):
    """Number 2: held-out scores of our networks minus scikit-learn's."""
    claims = (
        "held-out score nowhere worse by more than 2 standard errors",
        "held-out score better in the mean over sets",
    )
    gain, error = table["score difference"], table["score error"]
    good = gain >= -2 * error
    missing = [f"{name} {dtype}" for name, dtype in good.index[~good]]
    text = f"on {good.sum()} of {len(good)} rows"
    text += f"; not {', '.join(missing)}" if missing else ""
    mean = gain.groupby("dtype").mean()
    means = ", ".join(f"{value:+.4f} in {dtype}" for dtype, value in mean.items())
    return [
        finding("2", claims[0], gain, text, bool(good.all()), complete),
        finding("2", claims[1], gain, means, bool((mean > 0).all()), complete),
    ]


def population_finding(rows, complete):
    """Number 3: median over repetitions of the population's time over one's."""
    claim = f"{N_NETWORKS} networks train in at most 6 times the time of one"
    seconds = scores([row for row in rows if row["part"] == POPULATION], "seconds")
    ratios = pd.Series(
        {
            dtype: (seconds[f"{dtype} {N_NETWORKS}"] / seconds[f"{dtype} 1"]).median()
            for dtype in DTYPES
            if len(seconds)
        }
    )
    ones = ", ".join(f"{dtype} {ratio:.1f} times" for dtype, ratio in ratios.items())
    return finding("3", claim, ratios, ones, bool((ratios <= 6).all()), complete)


def finding(number, claim, measured, text, holds, complete):
    """Finding on some measured figures, of which there may be none."""
    outcome = (text, holds) if len(measured) else ()
    return Finding(number, claim, *outcome, complete=complete)


def main():
    """Run what the command line asks for; times are taken one task after the other."""
    options = parse_arguments(__doc__, tuple(PARTS))
    tasks = list_tasks(options.quick)
    rows = run(tasks, compute, PROTOCOLS, options, alone=tuple(PARTS))
    finish(report(rows), rows)


if __name__ == "__main__":
    main()
