"""Surveys, searches and comparisons of bases.

Measures the time of a survey of 100 starts against one fit of MLPRegressor; a grid
search on two workers against one process; the overhead of a fit besides its algorithm;
and the held-out scores of handcrafted and induced bases.
"""

import time
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from unittest import mock

import numpy as np
import torch
from _harness import (
    Finding,
    Split,
    Task,
    covers,
    data_sets,
    finish,
    fit_seconds,
    in_fresh_process,
    means_and_errors,
    parse_arguments,
    print_scores,
    run,
    scores,
    tasks_of,
)
from joblib import Memory, Parallel, delayed
from joblib.externals.loky import get_reusable_executor
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.frozen import FrozenEstimator
from sklearn.kernel_approximation import Nystroem
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, SplineTransformer, StandardScaler
from threadpoolctl import threadpool_limits

from sklearn_pgb import (
    AddedNeuronRegressor,
    FeatureBasis,
    GradientBasis,
    GradientBasisRefit,
    LayerBasis,
    ResNetBasisRegressor,
    compare_bases,
    survey_minima,
)

SYNTHETIC = "synthetic"
REPEATS = 3

STARTS, UNITS, ROWS, FEATURES = 100, 50, 1_000, 10

# 24 candidates of the grid search.
GRID = {
    "hidden_layer_sizes": [(20,), (50,), (100,)],
    "alpha": [1e-5, 1e-3, 1e-1, 1.0],
    "learning_rate_init": [3e-3, 1e-2],
}
ARRANGEMENTS = (
    ("1 job, 1 thread", 1, 1),
    ("1 job, 2 threads", 1, 2),
    ("2 jobs", 2, 2),
)
QUICK_GRID = GRID | {"alpha": [1e-3], "hidden_layer_sizes": [(50,), (100,)]}

REGRESSION = ("uci_regression/*", "dkl_regression/*")
QUICK_SETS = ("uci_regression/yacht",)
N_COMPONENTS, WIDTHS = 200, (0.03, 0.1, 0.3, 1.0, 3.0)
# The quadratic basis of more features than this is no basis that one would choose.
MAX_QUADRATIC = 50
RIDGES = tuple(np.logspace(-6, 4, 31).tolist())
NETWORK = {
    "hidden_layer_sizes": (50,),
    "activation": "tanh",
    "solver": "lbfgs",
    "max_iter": 100,
}
# The weight decay of the network is tuned, like the width of the kernel.
DECAYS = (0.01, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
GRADIENT, LAST = "gradient", "last layer"


def synthetic(n_rows, n_features=FEATURES):
    """Samples of a smooth function with noise."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n_rows, n_features))
    y = X[:, 0] + np.sin(2 * X[:, 1]) * X[:, 2] + 0.1 * rng.standard_normal(n_rows)
    return X, y


# --- survey -------------------------------------------------------------------


def survey(task):
    """Time a survey, and one fit of the same network."""
    X, y = synthetic(ROWS)
    network = MLPRegressor(hidden_layer_sizes=(UNITS,), random_state=task.split)
    fits, surveys = [], []
    for _ in range(REPEATS):
        fits.append(fit_seconds(clone(network), X, y))
        start = time.perf_counter()
        found = survey_minima(network, X, y, n_starts=STARTS, random_state=task.split)
        surveys.append(time.perf_counter() - start)
    own = network.fit(X, y).predict(X)
    return {
        "survey": {"one fit": min(fits), "survey": min(surveys)},
        "survey_loss": {
            "one fit": float(np.square(own - y).mean()),
            "survey, median": float(np.median(found.loss)),
            "survey, best": float(found.loss.min()),
            "bound of the best": found.best_bound,
        },
    }


# --- grid search --------------------------------------------------------------


def search(task):
    """Time grid searches by workers and threads; the fastest of REPEATS, in turn."""
    seconds, found = {}, []
    for _ in range(REPEATS):
        for name, n_jobs, threads in ARRANGEMENTS:
            quick = task.set == "quick"
            row = in_fresh_process(search_seconds, n_jobs, threads, quick)
            seconds[name] = min(row["seconds"], seconds.get(name, np.inf))
            found.append(row["scores"])
    same = all(scores == found[0] for scores in found)
    return {"search": seconds, "same": {"same bits": float(same)}}


def search_seconds(n_jobs, threads, quick):
    """Time one search in this process, with workers that are already running."""
    X, y = synthetic(ROWS)
    grid = QUICK_GRID if quick else GRID
    model = AddedNeuronRegressor(random_state=0)
    torch.set_num_threads(threads)
    with threadpool_limits(threads):
        # Workers import modules before the clock starts.
        first = clone(model).set_params(max_iter=2)
        warm_up = delayed(fit_seconds)(first, *synthetic(50))
        Parallel(n_jobs=n_jobs)([warm_up] * (2 * n_jobs))
        found = GridSearchCV(model, grid, cv=5, n_jobs=n_jobs)
        seconds = fit_seconds(found, X, y)
    # This process can only end after its workers, which would idle for minutes.
    get_reusable_executor().shutdown()
    return {"seconds": seconds, "scores": found.cv_results_["mean_test_score"].tolist()}


# --- overhead -----------------------------------------------------------------

# Functions that implement the algorithms of the estimators; the rest is overhead.
WORK = {
    "AddedNeuronRegressor": ["sklearn_pgb._added_neuron._base.fit_network"],
    "ResNetBasisRegressor": ["sklearn_pgb._resnet._base.fit_resnet"],
    "GradientBasisRefit": [
        "sklearn_pgb._refit._gradient_basis_refit.refit",
        "sklearn_pgb._refit._gradient_basis_refit.uncertainty",
    ],
}


@contextmanager
def timed(names):
    """Collect the seconds that the named functions take in a list."""
    seconds = []

    def watch(function):
        def watched(*args, **kwargs):
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                seconds.append(time.perf_counter() - start)

        return watched

    patches = []
    for name in names:
        patch = mock.patch(name)
        original = patch.get_original()[0]
        patches.append(mock.patch(name, watch(original)))
    for patch in patches:
        patch.start()
    yield seconds
    for patch in patches:
        patch.stop()


def overhead(task):
    """Milliseconds of a fit besides its algorithm, on 200 samples."""
    X, y = synthetic(200)
    network = MLPRegressor(hidden_layer_sizes=(5,), max_iter=2).fit(X, y)
    models = [
        AddedNeuronRegressor((5,), max_iter=2),
        ResNetBasisRegressor(hidden_layer_sizes=(5,), max_iter=2, cv=None),
        GradientBasisRefit(FrozenEstimator(network), alpha="loo"),
    ]
    found = {}
    for model in models:
        name, times = type(model).__name__, []
        for _ in range(20):
            with timed(WORK[name]) as work:
                start = time.perf_counter()
                clone(model).fit(X, y)
                times.append(time.perf_counter() - start - sum(work))
        found[name] = 1e3 * float(np.median(times))
    return {"overhead": found}


# --- bases --------------------------------------------------------------------


class TunedKernel(TransformerMixin, BaseEstimator):
    """Nystroem features of a Gaussian kernel, with its width by leave-one-out."""

    def fit(self, X, y):
        """Try the widths, in units of the number of features."""
        best = -np.inf
        size = min(N_COMPONENTS, len(X))
        for width in WIDTHS:
            kernel = Nystroem(
                gamma=width / X.shape[1], n_components=size, random_state=0
            )
            ridge = RidgeCV(RIDGES).fit(kernel.fit_transform(X), y)
            if ridge.best_score_ > best:
                best, self.kernel_ = ridge.best_score_, kernel
        return self

    def transform(self, X):
        """Features with the chosen width."""
        return self.kernel_.transform(X)


def make_bases(n_features, seed):
    """Compared bases and estimators, by name."""
    network = MLPRegressor(random_state=seed, **NETWORK)
    folds = KFold(3, shuffle=True, random_state=seed)
    network = GridSearchCV(network, {"alpha": DECAYS}, cv=folds)
    network = make_pipeline(StandardScaler(), network)
    steps = {
        "linear": [],
        "quadratic": [PolynomialFeatures(2, include_bias=False), StandardScaler()],
        "splines": [SplineTransformer(n_knots=6, extrapolation="linear")],
        "rbf": [TunedKernel()],
    }
    if n_features > MAX_QUADRATIC:
        del steps["quadratic"]
    handcrafted = {
        name: FeatureBasis(make_pipeline(StandardScaler(), *more))
        for name, more in steps.items()
    }
    return handcrafted | {
        LAST: LayerBasis(network),
        GRADIENT: GradientBasis(network),
        "network": network,
    }


def bases(task):
    """Cross-validated R^2 and training minima of all bases on one set."""
    split = Split(task.set, task.split)
    X = np.concatenate([split.X, split.X_test])
    y = np.concatenate([split.y, split.y_test])
    y = (y - y.mean()) / y.std()
    cv = KFold(5, shuffle=True, random_state=task.split)
    compared = make_bases(X.shape[1], task.split)
    with TemporaryDirectory() as folder:
        found = compare_bases(compared, X, y, cv=cv, memory=Memory(folder, verbose=0))
    for report in found.reports:
        split.note("score", report.name, np.mean(report.scores))
        split.note("least", report.name, report.train_loss)
        split.note("bound", report.name, report.lower_bound)
        split.note("seconds", report.name, report.seconds)
    return split.result


# --- runs ---------------------------------------------------------------------

PARTS = {"survey": survey, "search": search, "overhead": overhead, "bases": bases}
PROTOCOLS = {
    "survey": [STARTS, UNITS, ROWS, FEATURES, REPEATS],
    "search": [
        {k: [str(v) for v in values] for k, values in GRID.items()},
        ROWS,
        REPEATS,
    ],
    "overhead": sorted(WORK),
    "bases": [N_COMPONENTS, WIDTHS, MAX_QUADRATIC, RIDGES, NETWORK, DECAYS],
}


def compute(task):
    """Metrics of one task."""
    return PARTS[task.part](task)


def list_tasks(quick):
    """All tasks, or a part that takes about a minute."""
    names = QUICK_SETS if quick else data_sets(*REGRESSION)
    tasks = [Task(name, 0, "bases") for name in names]
    tasks += [Task(SYNTHETIC, 0, "survey"), Task(SYNTHETIC, 0, "overhead")]
    return [*tasks, Task("quick" if quick else SYNTHETIC, 0, "search")]


# --- report -------------------------------------------------------------------


def report(rows):
    """Print the tables and return the findings."""
    full = list_tasks(quick=False)

    def done(part):
        return covers(rows, tasks_of(full, part))

    return [
        survey_finding(rows, done("survey")),
        *search_findings(rows, done("search")),
        overhead_finding(rows, done("overhead")),
        basis_finding(rows, done("bases")),
    ]


def survey_finding(rows, complete):
    """Finding on the time of a survey against one fit."""
    claim = f"survey of {STARTS} starts: at most 10 fits of MLPRegressor"
    frame = scores(rows, "survey")
    if frame.empty:
        return Finding(claim, complete=complete)
    means, _ = means_and_errors(frame)
    print_scores("Seconds", means)
    print_scores("Training losses", means_and_errors(scores(rows, "survey_loss"))[0])
    ratio = (means["survey"] / means["one fit"]).max()
    return Finding(claim, f"{ratio:.1f} fits", bool(ratio <= 10), complete)


def search_findings(rows, complete):
    """Findings on a search on two workers."""
    claims = (
        "search with 2 jobs: 1.7 times as fast as 1 job with 1 thread",
        "not slower than 1 job with 2 threads",
        "same scores bit for bit",
    )
    frame = scores(rows, "search")
    if frame.empty:
        return [Finding(claim, complete=complete) for claim in claims]
    means, _ = means_and_errors(frame)
    print_scores("Seconds of a grid search", means)
    gain = (means["1 job, 1 thread"] / means["2 jobs"]).min()
    over = (means["1 job, 2 threads"] / means["2 jobs"]).min()
    same = bool(scores(rows, "same").to_numpy().all())
    return [
        Finding(claims[0], f"{gain:.2f} times", bool(gain >= 1.7), complete),
        Finding(claims[1], f"{over:.2f} times", bool(over >= 1.0), complete),
        Finding(claims[2], "same" if same else "different", same, complete),
    ]


def overhead_finding(rows, complete):
    """Finding on the overhead of a fit."""
    claim = "clone, validation, set-up: under 5 ms a fit"
    frame = scores(rows, "overhead")
    if frame.empty:
        return Finding(claim, complete=complete)
    means, _ = means_and_errors(frame)
    print_scores("Milliseconds of overhead", means)
    most = means.to_numpy().max()
    return Finding(claim, f"at most {most:.1f} ms", bool(most < 5), complete)


def basis_finding(rows, complete):
    """Finding on the basis with the best held-out score."""
    claim = "gradient basis: best held-out score on 2/3 of the regression sets"
    frame = scores(rows, "score")
    if frame.empty:
        return Finding(claim, complete=complete)
    means, _ = means_and_errors(frame)
    print_scores("Held-out R^2 of 5 folds", means)
    print_scores("Training minima", means_and_errors(scores(rows, "least"))[0])
    print_scores("Seconds of a fit", means_and_errors(scores(rows, "seconds"))[0])
    best = means.drop(columns="network").idxmax(axis=1)
    counts = ", ".join(f"{name} on {n}" for name, n in best.value_counts().items())
    handcrafted = means.drop(columns=["network", LAST, GRADIENT])
    over = float((means[GRADIENT] > handcrafted.max(axis=1)).mean())
    print(f"\nBest basis: {counts} sets. Gradient above all handcrafted: {over:.0%}")
    fraction = float((best == GRADIENT).mean())
    text = f"{fraction:.0%} of {len(best)} sets"
    return Finding(claim, text, fraction >= 2 / 3, complete)


def main():
    """Run the benchmark from the command line."""
    options = parse_arguments(__doc__, tuple(PROTOCOLS))
    tasks = list_tasks(options.quick)
    alone = ("survey", "search", "overhead")
    rows = run(tasks, compute, PROTOCOLS, options, alone=alone)
    finish(report(rows), rows)


if __name__ == "__main__":
    main()
