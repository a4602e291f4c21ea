"""Training time and held-out score against scikit-learn's networks.

Compares AddedNeuronClassifier and AddedNeuronRegressor with MLPClassifier and
MLPRegressor, all with their defaults, by the time to the training loss at which
scikit-learn's stopped, and the training of a population of networks with that of one.
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
from sklearn_pgb._losses._regression import SquaredLoss
from sklearn_pgb._models._activations import ACTIVATIONS
from sklearn_pgb._models._chain import ChainNetwork
from sklearn_pgb._models._network import as_float64
from sklearn_pgb._models._open import open_network
from sklearn_pgb._training._descent import Adam
from sklearn_pgb._training._objective import Objective
from sklearn_pgb._training._program import ChainProgram, uniform_initialization
from sklearn_pgb._training._train import Schedule, train

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
# Fits of at most SHORT samples are timed several times, alternating the networks.
SHORT, N_TIMES = 5_000, 5

# Networks and data of the population.
N_NETWORKS, N_REPEATS = 32, 5
N_ROWS, N_INPUTS, N_UNITS = 1_000, 20, 50
N_EPOCHS, BATCH_SIZE = 100, 200


# --- data -----------------------------------------------------------------------


@dataclass(frozen=True)
class Fold:
    """Standardized training and held-out samples of a data set."""

    X: np.ndarray
    y: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray
    is_regression: bool


def read(name):
    """Load X, y, the columns of codes, and whether y is real."""
    if name in BUNDLED:
        return *BUNDLED[name](return_X_y=True), [], False
    data = load(name)
    is_regression = data["task"] == "regression"
    return data["X"].astype(float), data["y"], data["categorical"], is_regression


def read_fold(name, index, dtype):
    """Load one fold, with numbers standardized on the training part, codes one-hot."""
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


# --- time and score -------------------------------------------------------------


class TrainingLoss:
    """Mean training loss in float64, without penalty, for both kinds of networks.

    Parameters
    ----------
    network : MLPClassifier or MLPRegressor
        A fitted network, which defines the loss and the targets.
    """

    def __init__(self, network, fold):
        opened = open_network(network)
        self.loss = opened.loss
        self.X, self.y = opened.inputs(fold.X), opened.targets(fold.y)

    def __call__(self, estimator):
        """Loss of an estimator with `coefs_` and `intercepts_`."""
        chain = ChainNetwork.mlp(
            [as_float64(coef).T for coef in estimator.coefs_],
            [as_float64(intercept) for intercept in estimator.intercepts_],
            [ACTIVATIONS[estimator.activation]] * (len(estimator.coefs_) - 1),
        )
        raw = chain(chain.theta, self.X)
        return float(self.loss.value(self.y, raw).mean())


class TimeToTarget:
    """Callback that ends a fit after the epoch that reaches a training loss.

    The clock starts with the call of `fit`, so that checks and set-up count. It is
    stopped while the loss is evaluated, from the end of an epoch to the next one.
    """

    def __init__(self, training_loss, target):
        self.training_loss, self.target = training_loss, target
        self.seconds, self.n_epochs, self.reached = 0.0, 0, False

    def measure(self, estimator, X, y):
        """Fit a copy; return the seconds to the target, infinite if not reached."""
        self.start = time.perf_counter()
        clone(estimator).set_callbacks(self).fit(X, y)
        return self.seconds if self.reached else np.inf

    def setup(self, estimator, context):
        """Do nothing: the clock is already running."""

    def teardown(self, estimator, context):
        """Do nothing."""

    def on_fit_task_begin(self, estimator, context):
        """Stop the clock: the estimator reports an epoch after it has ended."""
        if context.task_name == "epoch":
            self.seconds += time.perf_counter() - self.start

    def on_fit_task_end(self, estimator, context, *, fitted_estimator=None):
        """Evaluate the loss and start the clock."""
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
        # A small fit first, so that lazy imports are not timed.
        clone(model).set_params(max_iter=2).fit(fold.X[:500], fold.y[:500])
        model.set_params(random_state=task.split)
    n_times = N_TIMES if len(fold.y) <= SHORT else 1
    runs = pd.DataFrame([times(theirs, ours, fold) for _ in range(n_times)])
    medians = runs.median().to_dict()
    to_target = medians.pop("epochs")
    training_loss = TrainingLoss(theirs, fold)
    return {
        "rows": len(fold.y) + len(fold.y_test),
        "seconds": medians,
        "epochs": {"MLP": theirs.n_iter_, "to target": to_target, "ours": ours.n_iter_},
        "loss": {"MLP": training_loss(theirs), "ours": training_loss(ours)},
        "score": {
            "MLP": theirs.score(fold.X_test, fold.y_test),
            "ours": ours.score(fold.X_test, fold.y_test),
        },
    }


def times(theirs, ours, fold):
    """Seconds of both fits, and seconds and epochs until ours reaches their loss."""
    mlp = fit_seconds(theirs, fold.X, fold.y)
    training_loss = TrainingLoss(theirs, fold)
    clock = TimeToTarget(training_loss, training_loss(theirs))
    to_target = clock.measure(ours, fold.X, fold.y)
    return {
        "MLP": mlp,
        "to target": to_target,
        "ours": fit_seconds(ours, fold.X, fold.y),
        "epochs": clock.n_epochs if clock.reached else np.inf,
    }


# --- population -----------------------------------------------------------------


def population(task):
    """Time the training of one network, and of several at once, in both dtypes."""
    rng = np.random.default_rng(task.split)
    X = rng.standard_normal((N_ROWS, N_INPUTS))
    y = scale(np.sin(X[:, 0] * X[:, 1]) + np.tanh(X[:, 2]) * X[:, 3])
    seconds = {}
    for dtype in DTYPES:
        objective = population_objective(X, y, getattr(torch, dtype))
        train_population(objective, 1, 2, rng)
        for n_models in (1, N_NETWORKS):
            start = time.perf_counter()
            train_population(objective, n_models, N_EPOCHS, rng)
            seconds[f"{dtype} {n_models}"] = time.perf_counter() - start
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


def train_population(objective, n_models, n_epochs, rng):
    """Train several networks at once for a number of epochs."""
    theta = uniform_initialization(objective.program, rng, n_models)
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
# Our defaults are part of the protocol: rows with other defaults are not reused.
DEFAULTS = [AddedNeuronClassifier().get_params(), AddedNeuronRegressor().get_params()]
PROTOCOLS = {
    **{dtype: [N_FOLDS, SHORT, N_TIMES, DEFAULTS] for dtype in DTYPES},
    POPULATION: [N_NETWORKS, N_ROWS, N_INPUTS, N_UNITS, N_EPOCHS, BATCH_SIZE],
}


def compute(task):
    """Compute the row of one task."""
    return PARTS[task.part](task)


def list_tasks(quick):
    """Tasks for every fold of every set in both dtypes, and for the populations."""
    sets, n_folds = (QUICK_SETS, QUICK_FOLDS) if quick else (SETS, N_FOLDS)
    tasks = [Task(*task) for task in product(sets, range(n_folds), DTYPES)]
    return tasks + [Task("generated", i, POPULATION) for i in range(N_REPEATS)]


# --- report ---------------------------------------------------------------------

LIMITS = {"float32": (1 / 5, "a fifth"), "float64": (1 / 3, "a third")}

# Header and format of the columns of the table.
COLUMNS = {
    "seconds MLP": ("MLP s", ".3g"),
    "epochs MLP": ("epochs", ".0f"),
    "loss MLP": ("loss", ".3g"),
    "seconds to target": ("ours to that loss s", ".3g"),
    "epochs to target": ("epochs", ".0f"),
    "ratio": ("ratio", ".3f"),
    "seconds ours": ("ours in all s", ".3g"),
    "epochs ours": ("epochs", ".0f"),
    "loss ours": ("loss", ".3g"),
    "score MLP": ("MLP score", ".4f"),
    "score ours": ("ours", ".4f"),
    "score difference": ("difference", "+.4f"),
    "score error": ("SE", ".4f"),
}


def report(rows):
    """Print the tables and return the findings."""
    full = list_tasks(quick=False)
    done = {part: covers(rows, tasks_of(full, part)) for part in PARTS}
    by_part = {part: [row for row in rows if row["part"] == part] for part in PARTS}
    table = compare(by_part)
    if len(table):
        lines = [
            [*key, *(f"{row[name]:{form}}" for name, (_, form) in COLUMNS.items())]
            for key, row in table.iterrows()
        ]
        header = ["set", "dtype", *(header for header, _ in COLUMNS.values())]
        title = "Medians over folds; accuracy or R², mean over folds"
        print_table(title, header, lines, n_left=2)
    return [
        *time_findings(table["ratio"], done),
        *score_findings(table, all(done[dtype] for dtype in DTYPES)),
        *population_findings(by_part[POPULATION], done[POPULATION]),
    ]


def compare(by_part):
    """Results of both networks: (set, dtype) by column."""
    tables = {dtype: summary(by_part[dtype]) for dtype in DTYPES}
    table = pd.concat(tables, names=["dtype", "set"]).swaplevel()
    return table.loc[[key for key in product(SETS, DTYPES) if key in table.index]]


def summary(rows):
    """Results of one dtype: medians of times, epochs and losses, means of scores."""
    medians = [
        scores(rows, metric).groupby("set").median().add_prefix(f"{metric} ")
        for metric in ("seconds", "epochs", "loss")
    ]
    score = scores(rows, "score").reindex(columns=["MLP", "ours"])
    score["difference"] = score["ours"] - score["MLP"]
    means, errors = means_and_errors(score)
    means["error"] = errors["difference"]
    table = pd.concat([*medians, means.add_prefix("score ")], axis=1)
    table = table.reindex(columns=list(COLUMNS))
    table["ratio"] = table["seconds to target"] / table["seconds MLP"]
    return table


def time_findings(ratios, done):
    """Findings on the time to scikit-learn's training loss over the time of its fit."""
    findings = []
    for dtype, (limit, words) in LIMITS.items():
        claim = (
            f"time to MLP's loss in {dtype}: at most {words} of MLP's on 5 of 7 sets"
        )
        of_dtype = ratios[ratios.index.get_level_values("dtype") == dtype]
        good = int((of_dtype <= limit).sum())
        text = f"on {good} of {len(of_dtype)} sets"
        holds = good >= min(5, len(of_dtype))
        findings.append(finding(claim, of_dtype, text, holds, done[dtype]))
    claim = "time to MLP's loss: never more than half of MLP's"
    text = f"at most {ratios.max():.3f} of it"
    complete = all(done[dtype] for dtype in DTYPES)
    worst = finding(claim, ratios, text, bool((ratios <= 1 / 2).all()), complete)
    return [*findings, worst]


def score_findings(table, complete):
    """Findings on held-out scores of our networks minus scikit-learn's."""
    gain = table["score difference"]
    good = gain >= -2 * table["score error"]
    missing = [" ".join(key) for key in good.index[~good]]
    text = f"on {good.sum()} of {len(good)} rows"
    text += f"; not {', '.join(missing)}" if missing else ""
    claim = "held-out score nowhere worse by more than 2 standard errors"
    nowhere = finding(claim, gain, text, bool(good.all()), complete)
    means = gain.groupby("dtype").mean()
    text = ", ".join(f"{mean:+.4f} in {dtype}" for dtype, mean in means.items())
    claim = "held-out score better in the mean over sets"
    holds = bool((means > 0).all())
    return [nowhere, finding(claim, gain, text, holds, complete)]


def population_findings(rows, complete):
    """Findings on the median ratio of the population's time and one network's."""
    seconds = scores(rows, "seconds")
    findings = []
    for dtype in DTYPES:
        claim = (
            f"{N_NETWORKS} networks train in at most 6 times the time of one, {dtype}"
        )
        one, all_of_them = (
            seconds.reindex(columns=[f"{dtype} {n}"]).squeeze(axis=1)
            for n in (1, N_NETWORKS)
        )
        ratio = (all_of_them / one).median()
        text = f"{ratio:.1f} times, {all_of_them.median():.2f} s"
        findings.append(finding(claim, one, text, bool(ratio <= 6), complete))
    return findings


def finding(claim, measured, text, holds, complete):
    """Finding on some measured figures, of which there may be none."""
    outcome = (text, holds) if len(measured) else ()
    return Finding(claim, *outcome, complete=complete)


def main():
    """Run the tasks of the command line; tasks are timed one after the other."""
    options = parse_arguments(__doc__, tuple(PARTS))
    tasks = list_tasks(options.quick)
    rows = run(tasks, compute, PROTOCOLS, options, alone=tuple(PARTS))
    finish(report(rows), rows)


if __name__ == "__main__":
    main()
