"""Regression on the sets of the Bayesian deep learning and deep kernel papers.

Compares the refit with its own network, published results, kernel ridge regression and
boosting, over the stored splits.
"""

from operator import itemgetter

import numpy as np
import pandas as pd
from _harness import (
    Finding,
    Split,
    Task,
    TimedMLPRegressor,
    covers,
    finish,
    fit_seconds,
    in_fresh_process,
    load,
    means_and_errors,
    parse_arguments,
    print_scores,
    run,
    scores,
    tasks_of,
    time_finding,
    timed_fit,
)
from scipy.linalg import eigh
from scipy.spatial.distance import cdist
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.metrics import root_mean_squared_error
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_pgb import GradientBasisRefit

PROTEIN = "uci_regression/protein"
QUICK_SETS = ("uci_regression/yacht", "uci_regression/boston", "dkl_regression/servo")
DKL_SETS = tuple(
    f"dkl_regression/{name}"
    for name in "servo autompg stock airfoil gas skillcraft sml pol kin40k".split()
)

# The published network: one hidden layer, as in the papers.
NETWORK = {
    "activation": "tanh",
    "max_iter": 400,
    "alpha": 1e-2,
    "learning_rate_init": 3e-3,
}
WIDTHS = {PROTEIN: 100}
DEFAULT_WIDTH = 50

# The network that the documentation recommends.
RECOMMENDED = {
    "hidden_layer_sizes": (30, 30),
    "activation": "tanh",
    "max_iter": 400,
    "alpha": 0.03,
    "learning_rate_init": 3e-3,
}

N_NETWORKS = 4
RECOMMENDED_REFIT = f"refit of {N_NETWORKS}, recommended"

# Mean test RMSE and mean test negative log likelihood. PBP, MC dropout and deep
# ensembles: table 1 of Lakshminarayanan, Pritzel & Blundell, NeurIPS 2017, which
# repeats Hernández-Lobato & Adams, ICML 2015, and Gal & Ghahramani, ICML 2016. Grid
# search: readme of yaringal/DropoutUncertaintyExps, 2018, on the same splits.
PBP, DROPOUT, ENSEMBLES = "PBP", "MC dropout", "deep ensembles"
GRID_SEARCH = "MC dropout, grid search"
PUBLISHED_RMSE = pd.DataFrame(
    {
        "uci_regression/yacht": (1.02, 1.11, 0.67, 1.58),
        "uci_regression/energy": (1.80, 1.66, 0.54, 2.09),
        "uci_regression/concrete": (5.67, 5.23, 4.82, 6.03),
        "uci_regression/boston": (3.01, 2.97, 2.90, 3.28),
        "uci_regression/power": (4.12, 4.02, 4.01, 4.11),
        PROTEIN: (4.73, 4.36, 4.27, 4.71),
    },
    index=(PBP, DROPOUT, GRID_SEARCH, ENSEMBLES),
).T
PUBLISHED_NLL = pd.DataFrame(
    {
        "uci_regression/yacht": (1.63, 1.55, 1.18),
        "uci_regression/energy": (2.04, 1.99, 1.38),
        "uci_regression/concrete": (3.16, 3.04, 3.06),
        "uci_regression/boston": (2.57, 2.46, 2.41),
        "uci_regression/power": (2.84, 2.80, 2.79),
        PROTEIN: (2.97, 2.89, 2.83),
    },
    index=(PBP, DROPOUT, ENSEMBLES),
).T

SETS = (*PUBLISHED_RMSE.index, "uci_regression/california", *DKL_SETS)


# --- models -------------------------------------------------------------------


class LeaveOneOutKernelRidge(RegressorMixin, BaseEstimator):
    """RBF kernel ridge regression with width and alpha by leave-one-out.

    With the hat matrix H = U diag(s / (s + alpha)) U' the leave-one-out residuals are
    (y - H y)_i / (1 - H_ii): one eigendecomposition per width serves every alpha.
    Exact up to `n_landmarks` samples. Above, the width is chosen on that many samples,
    and alpha on all samples with a Nystroem approximation.
    """

    RIDGES = np.logspace(-8, 1, 28)

    def __init__(self, n_landmarks=2000, random_state=None):
        self.n_landmarks = n_landmarks
        self.random_state = random_state

    def fit(self, X, y):
        """Choose the width among powers of 2, then refine it by a factor of √2."""
        some = slice(None)
        if len(X) > self.n_landmarks:
            rng = np.random.default_rng(self.random_state)
            some = rng.choice(len(X), self.n_landmarks, replace=False)
        self.landmarks_ = X[some]
        # Standardized inputs are about sqrt(2 d) apart.
        widths = np.sqrt(X.shape[1]) * np.exp2(np.arange(-3.0, 4.0))
        best = self._best_of(widths, X[some], y[some])
        near = best["width"] * np.sqrt([0.5, 2.0])
        nearer = self._best_of(near, X[some], y[some])
        best = min(best, nearer, key=itemgetter("loss"))
        if len(X) > self.n_landmarks:
            best = self._ridge_path(best["width"], X, y)
        self.width_, self.coef_ = best["width"], best["coef"]
        return self

    def _best_of(self, widths, X, y):
        """Best of some widths, each with its best alpha."""
        fits = (self._ridge_path(width, X, y) for width in widths)
        return min(fits, key=itemgetter("loss"))

    def _ridge_path(self, width, X, y):
        """Leave-one-out loss of the best alpha, with width and coefficients."""
        values, vectors = eigh(_rbf(self.landmarks_, self.landmarks_, width))
        kept = values > 1e-12 * values[-1]
        values, left = values[kept], vectors[:, kept]
        back = left / np.sqrt(values)
        if len(X) > len(self.landmarks_):
            left = _rbf(X, self.landmarks_, width) @ back
            values, vectors = eigh(left.T @ left)
            kept = values > 1e-12 * values[-1]
            values, vectors = values[kept], vectors[:, kept]
            left = left @ (vectors / np.sqrt(values))
            back = back @ vectors
        projected = left.T @ y
        shrinkage = values[:, None] / (values[:, None] + self.RIDGES)
        residuals = y[:, None] - left @ (shrinkage * projected[:, None])
        residuals /= 1.0 - (left**2) @ shrinkage
        losses = (residuals**2).mean(axis=0)
        best = losses.argmin()
        coef = back @ (shrinkage[:, best] / np.sqrt(values) * projected)
        return {"loss": losses[best], "width": width, "coef": coef}

    def predict(self, X):
        """Kernel expansion at the landmarks."""
        return _rbf(X, self.landmarks_, self.width_) @ self.coef_


def _rbf(A, B, width):
    """Gaussian kernel exp(-||a - b||² / (2 width²))."""
    return np.exp(cdist(A, B, "sqeuclidean") / (-2.0 * width**2))


def standardized(regressor):
    """Standardize the inputs and targets of a regressor."""
    pipeline = make_pipeline(StandardScaler(), regressor)
    return TransformedTargetRegressor(pipeline, transformer=StandardScaler())


def refit_of(parameters, n_models, seed):
    """Refit of networks with these MLPRegressor parameters.

    A single network is trained on all samples and refitted by leave-one-out. Several
    networks are those of the folds on which alpha is chosen.
    """
    network = standardized(TimedMLPRegressor(**parameters, random_state=seed))
    return GradientBasisRefit(
        network,
        alpha="loo" if n_models == 1 else "auto",
        n_models=n_models,
        distribution=True,
        random_state=seed,
    )


def published_network(name):
    """Parameters of the published network on a data set."""
    return {"hidden_layer_sizes": (WIDTHS.get(name, DEFAULT_WIDTH),), **NETWORK}


# --- parts --------------------------------------------------------------------


def note(split, method, prediction, std=None):
    """Store the error of a prediction and, with `std`, its likelihood."""
    rmse = root_mean_squared_error(split.y_test, prediction)
    split.note("rmse", method, rmse)
    if std is not None:
        squares = ((split.y_test - prediction) / std) ** 2
        nll = 0.5 * (squares + np.log(2 * np.pi * std**2)).mean()
        split.note("nll", method, nll)


def note_refit(split, method, refit, seconds):
    """Store the results of a fitted refit with its likelihood and time."""
    note(split, method, *refit.predict(split.X_test, return_std=True))
    split.note("seconds", method, seconds["refit"])


def networks(split, name, seed):
    """Evaluate the published network and its refit.

    If there are published results, the mean and the refit of several as well.
    """
    parameters = published_network(name)
    refit = refit_of(parameters, 1, seed)
    seconds = timed_fit(refit, split.X, split.y)
    note(split, "network", refit.estimator_.predict(split.X_test))
    split.note("seconds", "network", seconds["network"])
    note_refit(split, "refit", refit, seconds)
    if name not in PUBLISHED_RMSE.index:
        return
    refit = refit_of(parameters, N_NETWORKS, seed)
    seconds = timed_fit(refit, split.X, split.y)
    fitted = refit.estimators_[:N_NETWORKS]
    mean = np.mean([network.predict(split.X_test) for network in fitted], axis=0)
    note(split, f"mean of {N_NETWORKS}", mean)
    note_refit(split, f"refit of {N_NETWORKS}", refit, seconds)


def recommended(split, name, seed):
    """Evaluate the refit of several of the recommended networks."""
    refit = refit_of(RECOMMENDED, N_NETWORKS, seed)
    note_refit(split, RECOMMENDED_REFIT, refit, timed_fit(refit, split.X, split.y))


def rivals(split, name, seed):
    """Evaluate kernel ridge regression and boosting."""
    boosting = HistGradientBoostingRegressor(random_state=seed)
    kernel_ridge = LeaveOneOutKernelRidge(random_state=seed)
    for method, regressor in [("kernel ridge", kernel_ridge), ("boosting", boosting)]:
        model = standardized(regressor)
        split.note("seconds", method, fit_seconds(model, split.X, split.y))
        note(split, method, model.predict(split.X_test))


PARTS = {part.__name__: part for part in (networks, recommended, rivals)}
PROTOCOLS = {
    "networks": [NETWORK, WIDTHS, DEFAULT_WIDTH, N_NETWORKS],
    "recommended": [RECOMMENDED, N_NETWORKS],
    "rivals": [],
    "footprint": [NETWORK, WIDTHS],
}


def compute(task):
    """Metrics of one task."""
    if task.part == "footprint":
        return {"footprint": in_fresh_process(footprint, task.set, task.split)}
    split = Split(task.set, task.split)
    PARTS[task.part](split, task.set, task.split)
    return split.result


def footprint(name, index):
    """Refit and training seconds of one network, with every core."""
    split = Split(name, index)
    refit = refit_of(published_network(name), 1, index)
    return timed_fit(refit, split.X, split.y)


def list_tasks(quick):
    """Tasks on every stored split, or a few of them, and protein's footprint."""
    tasks = []
    for name in QUICK_SETS if quick else SETS:
        n_splits = 2 if quick else len(load(name)["splits"])
        tasks += [Task(name, i, part) for i in range(n_splits) for part in PARTS]
    return tasks + ([] if quick else [Task(PROTEIN, 0, "footprint")])


# --- report -------------------------------------------------------------------


def report(rows, full):
    """Print the tables and return the findings."""
    measured = [scores(rows, metric) for metric in ("rmse", "nll")]
    published = (PUBLISHED_RMSE, PUBLISHED_NLL)
    labels = ("Test RMSE", "Test negative log likelihood")
    summaries = []
    for label, frame, table in zip(labels, measured, published, strict=True):
        means, errors = means_and_errors(frame)
        order = [name for name in SETS if name in means.index]
        means = means.loc[order].join(table)
        print_scores(f"{label}, mean over splits ± standard error", means, errors)
        print_ranks(label, means, table)
        summaries.append((means, errors))
    seconds, _ = means_and_errors(scores(rows, "seconds"))
    print_scores("Seconds (refit: without its trainings)", seconds)
    done = covers(rows, tasks_of(full, "networks"))
    papers = [task for task in full if task.set in PUBLISHED_RMSE.index]
    done_published = covers(rows, tasks_of(papers, "networks"))
    done_recommended = covers(rows, tasks_of(papers, "recommended"))
    return [
        *published_findings(*summaries, "refit", done_published),
        *published_findings(*summaries, RECOMMENDED_REFIT, done_recommended),
        *own_network_findings(measured[0], done),
        time_finding(rows, done),
        footprint_finding(rows),
    ]


def print_ranks(label, means, table):
    """Print mean ranks, on the published data sets with the published methods."""
    with_published = means[means.index.isin(table.index)]
    without = means.drop(columns=table.columns)
    ranks = {
        f"the {len(with_published)} sets with published figures": with_published,
        f"all {len(without)} sets": without,
    }
    lines = pd.DataFrame({k: v.rank(axis=1).mean() for k, v in ranks.items()}).T
    print_scores(f"{label}, mean rank", lines.reindex(columns=means.columns), digits=3)


def published_findings(rmse, nll, method, complete):
    """Findings on one refit against the published results."""
    below, not_above, n_needed = {
        "refit": ([PBP, ENSEMBLES], [DROPOUT], 4),
        RECOMMENDED_REFIT: ([], list(PUBLISHED_RMSE.columns), 5),
    }[method]
    means, errors, nlls = (
        frame.reindex(index=PUBLISHED_RMSE.index, columns=[method])[method].dropna()
        for frame in (*rmse, nll[0])
    )
    published = PUBLISHED_RMSE.loc[means.index]
    good = means - errors[means.index] <= published[not_above].min(axis=1)
    checks = [(f"RMSE not above {', '.join(not_above)}", good, len(good))]
    if below:
        good = means < published[below].min(axis=1)
        checks += [(f"RMSE below {', '.join(below)}", good, len(good))]
    good = nlls < PUBLISHED_NLL.loc[nlls.index, ENSEMBLES]
    claim = f"NLL below {ENSEMBLES} on {n_needed} of {len(PUBLISHED_NLL)} sets"
    checks += [(claim, good, min(n_needed, len(good)))]
    findings = []
    for claim, good, needed in checks:
        outcome = (_count(good), bool(good.sum() >= needed)) if len(good) else ()
        claim = f"{method}: {claim}"
        findings += [Finding(claim, *outcome, complete=complete)]
    return findings


def _count(good):
    """Number of data sets on which a claim holds, and names of the others."""
    text = f"on {good.sum()} of {len(good)} sets"
    missing = [name.split("/")[1] for name in good.index[~good]]
    return text + (f"; not {', '.join(missing)}" if missing else "")


def own_network_findings(rmse, complete):
    """Findings on the refit's RMSE relative to its own network's."""
    claims = (
        "refit's RMSE / network's: geometric mean ≤ 0.75",
        "refit nowhere above its network by more than 2 standard errors",
    )
    if not {"refit", "network"} <= set(rmse.columns):
        return [Finding(claim, complete=False) for claim in claims]
    rmse = rmse[["refit", "network"]].dropna()
    means, _ = means_and_errors(rmse)
    ratio = means["refit"] / means["network"]
    mean = np.exp(np.log(ratio).mean())
    excess, error = means_and_errors(rmse["refit"] - rmse["network"])
    good = excess <= 2 * error
    worst = f"worst ratio {ratio.max():.3f} ({ratio.idxmax()})"
    text = f"{mean:.3f} over {len(ratio)} sets; {worst}"
    return [
        Finding(claims[0], text, bool(mean <= 0.75), complete),
        Finding(claims[1], _count(good), bool(good.all()), complete),
    ]


def footprint_finding(rows):
    """Finding on the protein data set: at most 60 s and 3 GB."""
    claim = "refit on protein: at most 60 s and 3 GB"
    for row in rows:
        if "footprint" in row:
            seconds, peak = (row["footprint"][key] for key in ("refit", "peak_bytes"))
            text = f"{seconds:.1f} s, {peak / 1e9:.2f} GB"
            return Finding(claim, text, bool(seconds <= 60 and peak <= 3e9))
    return Finding(claim, complete=False)


def main():
    """Run the benchmark from the command line."""
    options = parse_arguments(__doc__, tuple(PROTOCOLS))
    tasks = list_tasks(options.quick)
    # A footprint is measured alone, with every core.
    rows = run(tasks, compute, PROTOCOLS, options, alone=("footprint",))
    finish(report(rows, list_tasks(quick=False)), rows)


if __name__ == "__main__":
    main()
