"""Predictive distributions against published results and rivals of other packages.

- "splits": GradientBasisRegressor with distribution=True on the splits of
  uci_regression and dkl_regression. Measured are the negative log likelihood (NLL), the
  CRPS, and coverage and width of 90 % intervals, also within each third of predicted
  width. Rivals, as far as they are installed: NGBoost, CatBoost with a loss of several
  quantiles, and quantiles of histogram boosting that MAPIE conformalizes on a fifth of
  the training samples. Published are the best NLL and CRPS of the papers listed in
  PUBLISHED.
- "label sets": coverage and size of the 90 % sets of labels of GradientBasisClassifier
  on uci121, next to those of a random forest with its probabilities out of fold.
- "generated": the CRPS on functions with noise of known distributions, over that of the
  true distributions.
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
    tasks_of,
)
from scipy.stats import norm, t
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestClassifier
from sklearn.metrics import mean_pinball_loss, root_mean_squared_error
from sklearn.model_selection import KFold, cross_val_predict

from sklearn_pgb import GradientBasisClassifier, GradientBasisRegressor

# NLL: WGBoost (Matsubara 2024), CARD (Han et al. 2022) for boston and protein. CRPS:
# tree diffusion (Beltran-Velez et al. 2024).
PUBLISHED = pd.DataFrame(
    {
        "nll": [2.32, 2.83, 0.53, 2.60, 2.47, 0.16],
        "crps": [np.nan, 1.77, 0.188, 1.57, 1.79, 0.195],
    },
    index=["boston", "concrete", "energy", "power", "protein", "yacht"],
)
QUICK_SETS = "uci_regression/yacht", "uci_regression/boston", "uci121/iris"
PARTS = "splits", "label sets", "generated"
# Splits of a set, of a set with more than LARGE samples, and the most training samples.
MAX_SPLITS, LARGE, MAX_LARGE_SPLITS, MAX_TRAIN = 20, 5_000, 5, 50_000
COVERAGE = 0.9
TAILS = (1 - COVERAGE) / 2, (1 + COVERAGE) / 2
# Levels of the quantiles whose mean pinball loss is half of the CRPS.
LEVELS = np.arange(0.05, 1, 0.1)
OURS = "GradientBasis"
# Samples of generated data; quantiles that stand for a distribution of noise.
SIZES, N_TEST, N_QUANTILES = (100, 1_000, 10_000), 5_000, 4_000
# Sets with fewer test samples in all say little about coverage.
LEAST_TEST = 500
# Quantile functions of noise. Its scale is 0.5, and grows from 0.1 to 1 for "growing".
PROBABILITIES = (np.arange(N_QUANTILES) + 0.5) / N_QUANTILES
HALF = PROBABILITIES.reshape(-1, 2).mean(1)
NOISES = {
    "constant": norm.ppf(PROBABILITIES),
    "growing": norm.ppf(PROBABILITIES),
    "bimodal": np.sort(norm.ppf(HALF, [[-1], [1]], 0.2).ravel()),
    "heavy-tailed": t.ppf(PROBABILITIES, 3),
}


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


def label_sets(split, seed):
    """Measure sets of labels, by mean coverage and number of labels."""
    ours = GradientBasisClassifier(random_state=seed)
    split.note("seconds", OURS, fit_seconds(ours, split.X, split.y))
    forest = RandomForestClassifier(random_state=seed)
    folds = KFold(5, shuffle=True, random_state=seed)
    heldout = cross_val_predict(
        forest, split.X, split.y, cv=folds, method="predict_proba"
    )
    classes, codes = np.unique(split.y, return_inverse=True)
    scores = np.sort(1 - heldout[np.arange(len(codes)), codes])
    place = int(np.ceil(COVERAGE * (len(scores) + 1))) - 1
    threshold = scores[place] if place < len(scores) else np.inf
    probabilities = forest.fit(split.X, split.y).predict_proba(split.X_test)
    true = split.y_test[:, None] == classes
    for name, found in {
        OURS: ours.predict_set(split.X_test, COVERAGE),
        "forest": 1 - probabilities <= threshold,
    }.items():
        split.note("label coverage", name, (found & true).any(1).mean())
        split.note("size", name, found.sum(1).mean())
    return split.result


def generate(noise, n_samples, rng):
    """Five inputs, and location, scale and standardized noise of the targets."""
    X = rng.uniform(size=(n_samples, 5))
    scale = 0.1 + 0.9 * X[:, 4] if noise == "growing" else np.full(n_samples, 0.5)
    location = np.sin(6 * X[:, 0]) + 2 * X[:, 1] * X[:, 2] + (X[:, 3] > 0.5)
    return X, location, scale, rng.choice(NOISES[noise], n_samples)


def against_truth(name, seed):
    """Measure the CRPS on generated data, and that of the true distributions."""
    _, noise, n_samples = name.split("/")
    rng = np.random.default_rng([seed, int(n_samples), list(NOISES).index(noise)])
    X, location, scale, z = generate(noise, int(n_samples), rng)
    model = GradientBasisRegressor(distribution=True, random_state=seed)
    result = {"seconds": {OURS: fit_seconds(model, X, location + scale * z)}}
    X, location, scale, z = generate(noise, N_TEST, rng)
    found = model.predict_distribution(X).crps(location + scale * z).mean()
    # E|Z - z| - E|Z - Z'| / 2, with the sorted quantiles in place of Z.
    sample = NOISES[noise]
    weight = 2 * np.arange(1, N_QUANTILES + 1) - N_QUANTILES - 1
    spread = weight @ sample / N_QUANTILES**2
    true = (scale * (np.abs(z[:, None] - sample).mean(1) - spread)).mean()
    return result | {"crps": {OURS: found, "truth": true}}


def compute(task):
    """Fit all models to one split."""
    if task.part == "generated":
        return against_truth(task.set, task.split)
    split = Split(task.set, task.split)
    if task.part == "label sets":
        return label_sets(split, task.split)
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
    sets = QUICK_SETS
    if not options.quick:
        sets = data_sets("uci_regression/*", "dkl_regression/*", "uci121/*")
    tasks = []
    for name in sets:
        data = load(name)
        most = 2 if options.quick else options.max_splits
        if len(data["y"]) > LARGE:
            most = min(most, MAX_LARGE_SPLITS)
        n_splits = min(most, len(data["splits"]))
        size = data["X"].size
        part = PARTS[name.startswith("uci121/")]
        tasks += [(i, size, Task(name, i, part)) for i in range(n_splits)]
    for size in SIZES[: 1 if options.quick else None]:
        names = [f"generated/{noise}/{size}" for noise in NOISES]
        tasks += [(0, size, Task(name, 0, PARTS[2])) for name in names]
    return [task for _, _, task in sorted(tasks, key=lambda each: each[:2])]


def findings_on_sets(rows, complete):
    """Claims about sets of labels."""
    coverage, size = (
        scores(rows, metric).groupby("set").mean()
        for metric in ("label coverage", "size")
    )
    mean, off = coverage[OURS].mean(), abs(coverage[OURS].mean() - COVERAGE)
    claim = f"label sets: mean coverage {COVERAGE} ± 0.01"
    findings = [Finding(claim, f"{mean:.3f}", bool(off <= 0.01), complete)]
    ratio = float(np.exp(np.log(size[OURS] / size["forest"]).mean()))
    figure = f"{ratio:.3f} (coverage of the forest's: {coverage['forest'].mean():.3f})"
    claim = "label sets: not larger than the forest's"
    return [*findings, Finding(claim, figure, ratio <= 1, complete)]


def findings_on_generated(rows, complete):
    """Claims about the CRPS of the largest generated data."""
    crps = scores(rows, "crps").groupby("set").mean()
    ratios = crps[OURS] / crps["truth"]
    lines = [[name, f"{ratio:.3f}"] for name, ratio in ratios.items()]
    print_table("CRPS over that of the truth", ["data", "ratio"], lines)
    large = ratios[[name.endswith(f"/{SIZES[-1]}") for name in ratios.index]]
    claim = f"CRPS within 3 % of the truth's for {SIZES[-1]:,} samples"
    if large.empty:
        return [Finding(claim, complete=complete)]
    figure = f"{large.min():.3f} to {large.max():.3f}"
    return [Finding(claim, figure, bool((large <= 1.03).all()), complete)]


def count_test(rows):
    """Distinct test samples of each set: at most all of its samples."""
    counts = {}
    for row in rows:
        seen = counts.setdefault(row["set"], [0, row["rows"]])
        seen[0] += len(load(row["set"])["splits"][row["split"]][1])
    return pd.Series({name: min(seen) for name, seen in counts.items()})


def findings_of(rows, complete):
    """Claims about likelihoods, coverage and widths."""
    findings, n_test = [], count_test(rows)
    for metric, least in (("nll", 5), ("crps", 4)):
        means = means_and_errors(scores(rows, metric))[0][OURS]
        means.index = [name.split("/")[1] for name in means.index]
        # Other sets have no published figures.
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
        thirds = 3 if "," in metric else 1
        means = means_and_errors(scores(rows, metric))[0][OURS]
        means = means[n_test[means.index] >= LEAST_TEST]
        error = (COVERAGE * (1 - COVERAGE) / (n_test[means.index] / thirds)) ** 0.5
        misses = means[(means - COVERAGE).abs() > within + 2 * error]
        claim = f"{metric}: {COVERAGE} ± {within} ± two standard errors on each set"
        figure = f"{means.min():.3f} to {means.max():.3f}"
        if len(misses):
            figure += f", not on {', '.join(misses.index)}"
        findings.append(Finding(claim, figure, misses.empty, complete))
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
    options = parse_arguments(__doc__, parts=PARTS, max_splits=MAX_SPLITS)
    tasks = all_tasks(options)
    rows = run(tasks, compute, {part: {"train": MAX_TRAIN} for part in PARTS}, options)
    findings = []
    for part, metrics, find in (
        (PARTS[0], ("nll", "crps", "coverage", "width", "rmse"), findings_of),
        (PARTS[1], ("label coverage", "size"), findings_on_sets),
        (PARTS[2], ("crps",), findings_on_generated),
    ):
        good = [row for row in rows if row["part"] == part and "error" not in row]
        if not good:
            continue
        for metric in (*metrics, "seconds"):
            print_scores(metric, *means_and_errors(scores(good, metric)))
        complete = not options.quick and covers(good, tasks_of(tasks, part))
        findings += find(good, complete)
    finish(findings, rows)


if __name__ == "__main__":
    main()
