"""Predictive distributions against published results and rivals of other packages.

Fits GradientBasisRegressor with distribution=True to the standard splits of
uci_regression. Measured are the negative log likelihood (NLL), the CRPS, and coverage
and width of 90 % intervals, also within each third of predicted width. Rivals, as far
as they are installed: NGBoost, CatBoost with a loss of several quantiles, and quantiles
of histogram boosting that MAPIE conformalizes on a fifth of the training samples.
Published are the best NLL and CRPS of the papers listed in PUBLISHED.
"""

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
from scipy.stats import norm
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.metrics import mean_pinball_loss, root_mean_squared_error

from sklearn_pgb import GradientBasisRegressor

# NLL: WGBoost (Matsubara 2024), CARD (Han et al. 2022) for boston and protein. CRPS:
# tree diffusion (Beltran-Velez et al. 2024).
PUBLISHED = pd.DataFrame(
    {
        "nll": [2.32, 2.83, 0.53, 2.60, 2.47, 0.16],
        "crps": [np.nan, 1.77, 0.188, 1.57, 1.79, 0.195],
    },
    index=["boston", "concrete", "energy", "power", "protein", "yacht"],
)
QUICK_SETS = ("uci_regression/yacht", "uci_regression/boston")
# Splits of a set, of a set with more than LARGE samples, and the most training samples.
MAX_SPLITS, LARGE, MAX_LARGE_SPLITS, MAX_TRAIN = 20, 5_000, 5, 50_000
COVERAGE = 0.9
TAILS = (1 - COVERAGE) / 2, (1 + COVERAGE) / 2
# Levels of the quantiles whose mean pinball loss is half of the CRPS.
LEVELS = np.arange(0.05, 1, 0.1)
OURS = "GradientBasis"


def note_interval(split, name, lower, upper):
    """Store coverage and width of intervals, and coverage by thirds of the width."""
    inside = (lower <= split.y_test) & (split.y_test <= upper)
    width = upper - lower
    split.note("coverage", name, inside.mean())
    split.note("width", name, width.mean())
    third = np.argsort(np.argsort(width, kind="stable")) * 3 // len(width)
    for number, words in enumerate(["narrow", "middle", "wide"]):
        split.note(f"coverage, {words}", name, inside[third == number].mean())


def ours(split, seed):
    """Measure GradientBasisRegressor."""
    model = GradientBasisRegressor(distribution=True, random_state=seed)
    split.note("seconds", OURS, fit_seconds(model, split.X, split.y))
    distribution = model.predict_distribution(split.X_test)
    rmse = root_mean_squared_error(split.y_test, distribution.mean)
    split.note("rmse", OURS, rmse)
    split.note("nll", OURS, -distribution.log_prob(split.y_test).mean())
    split.note("crps", OURS, distribution.crps(split.y_test).mean())
    ends = model.predict_interval(split.X_test, COVERAGE)
    note_interval(split, OURS, *ends.T)
    # The intervals of the distribution, beside the conformal ones.
    note_interval(split, "its quantiles", *distribution.quantile(TAILS).T)


def ngboost(split, seed):
    """Measure NGBoost's normal distributions."""
    from ngboost import NGBRegressor

    model = NGBRegressor(random_state=seed, verbose=False)
    split.note("seconds", "NGBoost", fit_seconds(model, split.X, split.y))
    mean, std = model.pred_dist(split.X_test).params.values()
    z = (split.y_test - mean) / std
    split.note("rmse", "NGBoost", root_mean_squared_error(split.y_test, mean))
    split.note("nll", "NGBoost", -norm.logpdf(split.y_test, mean, std).mean())
    crps = std * (z * (2 * norm.cdf(z) - 1) + 2 * norm.pdf(z) - np.pi**-0.5)
    split.note("crps", "NGBoost", crps.mean())
    note_interval(split, "NGBoost", *(mean + std * norm.ppf(tail) for tail in TAILS))


def catboost(split, seed):
    """Measure CatBoost's quantiles."""
    from catboost import CatBoostRegressor

    levels = ",".join(f"{level:.2f}" for level in LEVELS)
    model = CatBoostRegressor(
        loss_function=f"MultiQuantile:alpha={levels}",
        random_seed=seed,
        thread_count=1,
        allow_writing_files=False,
        verbose=0,
    )
    split.note("seconds", "CatBoost", fit_seconds(model, split.X, split.y))
    quantiles = np.sort(model.predict(split.X_test), axis=1)
    losses = [
        mean_pinball_loss(split.y_test, column, alpha=level)
        for level, column in zip(LEVELS, quantiles.T, strict=True)
    ]
    split.note("crps", "CatBoost", 2 * np.mean(losses))
    note_interval(split, "CatBoost", quantiles[:, 0], quantiles[:, -1])


def mapie(split, seed):
    """Measure histogram boosting's quantiles, conformalized by MAPIE."""
    from mapie.regression import ConformalizedQuantileRegressor

    rows = np.random.default_rng(seed).permutation(len(split.y))
    held, train = rows[: len(rows) // 5], rows[len(rows) // 5 :]
    models, seconds = [], 0.0
    for level in (*TAILS, 0.5):
        options = {"loss": "quantile", "quantile": level, "random_state": seed}
        models.append(HistGradientBoostingRegressor(**options))
        seconds += fit_seconds(models[-1], split.X[train], split.y[train])
    split.note("seconds", "HistGB, MAPIE", seconds)
    conformal = ConformalizedQuantileRegressor(models, COVERAGE, prefit=True)
    conformal.conformalize(split.X[held], split.y[held])
    ends = conformal.predict_interval(split.X_test)[1][:, :, 0]
    note_interval(split, "HistGB, MAPIE", *ends.T)


def compute(task):
    """Fit all models to one split."""
    split = Split(task.set, task.split)
    if len(split.y) > MAX_TRAIN:
        rng = np.random.default_rng(task.split)
        rows = rng.choice(len(split.y), MAX_TRAIN, replace=False)
        split.X, split.y = split.X[rows], split.y[rows]
    ours(split, task.split)
    for name, measure in {
        "ngboost": ngboost,
        "catboost": catboost,
        "mapie": mapie,
    }.items():
        if find_spec(name):
            measure(split, task.split)
    return split.result


def all_tasks(options):
    """Tasks of all sets, one split of each set after the other."""
    known = [f"uci_regression/{name}" for name in PUBLISHED.index]
    sets = QUICK_SETS if options.quick else data_sets("uci_regression/*")
    tasks = []
    for name in [each for each in sets if each in known]:
        data = load(name)
        most = 2 if options.quick else options.max_splits
        if len(data["y"]) > LARGE:
            most = min(most, MAX_LARGE_SPLITS)
        n_splits = min(most, len(data["splits"]))
        size = data["X"].size
        tasks += [(i, size, Task(name, i, "splits")) for i in range(n_splits)]
    return [task for _, _, task in sorted(tasks, key=lambda each: each[:2])]


def findings_of(rows, complete):
    """Claims about likelihoods, coverage and widths."""
    findings = []
    for metric, least in (("nll", 5), ("crps", 4)):
        means = means_and_errors(scores(rows, metric))[0][OURS]
        means.index = [name.split("/")[1] for name in means.index]
        best = PUBLISHED[metric].reindex(means.index).dropna()
        lower = means[best.index] <= best
        lines = [[n, f"{means[n]:.3f}", f"{best[n]:.3f}"] for n in best.index]
        print_table(f"{metric} and the best published", ["set", "ours", "best"], lines)
        claim = f"{metric} at or below the best published on {least} sets"
        figure = f"{lower.sum()} of {len(best)}"
        findings.append(Finding(claim, figure, bool(lower.sum() >= least), complete))
    for metric, within in (
        ("coverage", 0.02),
        ("coverage, narrow", 0.04),
        ("coverage, middle", 0.04),
        ("coverage, wide", 0.04),
    ):
        means, errors = means_and_errors(scores(rows, metric))
        off = (means[OURS] - COVERAGE).abs() - 2 * errors[OURS]
        claim = f"{metric}: {COVERAGE} ± {within} ± two standard errors on each set"
        figure = f"{means[OURS].min():.3f} to {means[OURS].max():.3f}"
        findings.append(Finding(claim, figure, bool((off <= within).all()), complete))
    widths = scores(rows, "width")
    for rival in ("HistGB, MAPIE", "NGBoost", "CatBoost"):
        if rival in widths:
            by_set = np.log(widths[OURS] / widths[rival]).groupby("set").mean()
            ratio = float(np.exp(by_set.mean()))
            claim = f"width at most 0.95 times that of {rival}"
            findings.append(Finding(claim, f"{ratio:.3f}", ratio <= 0.95, complete))
    return findings


def main():
    """Run what the command line asks for and print the tables."""
    options = parse_arguments(__doc__, max_splits=MAX_SPLITS)
    tasks = all_tasks(options)
    rows = run(tasks, compute, {"splits": {"train": MAX_TRAIN}}, options)
    good = [row for row in rows if "error" not in row]
    for metric in ("nll", "crps", "coverage", "width", "rmse", "seconds"):
        frame = scores(good, metric)
        print_scores(metric, *means_and_errors(frame))
    complete = not options.quick and covers(good, tasks)
    finish(findings_of(good, complete) if good else [], rows)


if __name__ == "__main__":
    main()
