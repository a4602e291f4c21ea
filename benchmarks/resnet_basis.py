"""ResNet bases against the linear models that they contain.

Measures training objectives with certified bounds, of every fit; held-out scores
against ridge and logistic regression on the same basis; variable projection against
joint training by minibatches; fit time by number of samples; and the held-out R2 of the
defaults by number of samples, on the sum of a sine and a linear function.
"""

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
    run,
    scores,
    tasks_of,
)
from sklearn.kernel_approximation import Nystroem
from sklearn.linear_model import LogisticRegressionCV, RidgeCV
from sklearn.metrics import log_loss, root_mean_squared_error
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from sklearn_pgb import ResNetBasisClassifier, ResNetBasisRegressor

SMALL = 5_000
REGRESSION = ("uci_regression/*", "dkl_regression/*")
CLASSIFICATION = ("uci121/*",)
QUICK_SETS = ("uci_regression/yacht", "uci121/iris")
MAX_SPLITS = 5

BASES = ("linear", "quadratic", "rbf")
N_COMPONENTS = 100
# The quadratic basis is too large to be a sensible choice with more features.
MAX_QUADRATIC = 50

RIDGES = tuple(np.logspace(-6, 4, 31).tolist())
STRENGTHS = tuple(np.logspace(-3, 4, 8).tolist())

# Iterations of variable projection, and epochs of the joint training.
RACE = {"hidden_layer_sizes": (64,), "alpha": 1e-3, "cv": None}
RACE_SETS = ("uci_regression/concrete", "uci_regression/energy", "dkl_regression/sml")
EPOCHS, ITERATIONS = 100, (5, 10, 20, 40, 80, 160, 320)
REPEATS = 3

GROWTH = (1_000, 3_000, 10_000, 30_000, 100_000)
SYNTHETIC = "synthetic"

# Samples and seeds of "waves". The best possible R2 is .986; the linear model's is .89.
WAVES, WAVE_ROWS, WAVE_SEEDS = "waves", (300, 1_000, 3_000, 12_000, 30_000, 100_000), 10
TEST_ROWS = 5_000


# --- models -------------------------------------------------------------------


def basis(name, seed):
    """A handcrafted basis on standardized inputs."""
    steps = [StandardScaler()]
    if name == "quadratic":
        steps += [PolynomialFeatures(2, include_bias=False), StandardScaler()]
    if name == "rbf":
        steps += [Nystroem(n_components=N_COMPONENTS, random_state=seed)]
    return make_pipeline(*steps)


def deepened(split, name, seed):
    """The residual units on top of a basis."""
    kind = ResNetBasisRegressor if split.classes is None else ResNetBasisClassifier
    return kind(basis(name, seed), random_state=seed)


def linear(split, name, seed):
    """Ridge or logistic regression on a basis, with cross-validated penalty."""
    if split.classes is None:
        return make_pipeline(basis(name, seed), RidgeCV(RIDGES))
    strengths = LogisticRegressionCV(
        Cs=STRENGTHS,
        cv=3,
        scoring="neg_log_loss",
        max_iter=1000,
        l1_ratios=(0.0,),
        use_legacy_attributes=False,
    )
    return make_pipeline(basis(name, seed), strengths)


# --- parts --------------------------------------------------------------------


def score(split, model):
    """Held-out error: RMSE, or mean log loss."""
    if split.classes is None:
        return root_mean_squared_error(split.y_test, model.predict(split.X_test))
    p = np.zeros((len(split.y_test), len(split.classes)))
    columns = np.searchsorted(split.classes, model.classes_)
    p[:, columns] = model.predict_proba(split.X_test)
    p = np.clip(p, 1e-15, 1)
    p /= p.sum(1, keepdims=True)
    return log_loss(split.y_test, p, labels=split.classes)


def quality(split, seed):
    """Evaluate each basis alone and with residual units."""
    for name in BASES:
        if name == "quadratic" and split.X.shape[1] > MAX_QUADRATIC:
            continue
        plain, model = linear(split, name, seed), deepened(split, name, seed)
        plain.fit(split.X, split.y)
        split.note("seconds", name, fit_seconds(model, split.X, split.y))
        split.note("alone", name, score(split, plain))
        split.note("deepened", name, score(split, model))
        note_objectives(split, name, model)


def note_objectives(split, name, model):
    """Store the certified comparison of a fit's training objectives."""
    bound = max(abs(model.basis_lower_bound_), 1e-300)
    split.note("excess", name, (model.loss_ - model.basis_lower_bound_) / bound)
    split.note("improvement", name, model.improvement_ / max(model.basis_loss_, 1e-300))


def race(split, seed):
    """Seconds until variable projection reaches the objective of joint training.

    Fits with increasing numbers of iterations are timed until one is as good.
    """
    joint = ResNetBasisRegressor(
        StandardScaler(), solver="adam", max_iter=EPOCHS, random_state=seed, **RACE
    )
    split.note("race", "joint", fastest(joint, split))
    note_objectives(split, "joint", joint)
    for n_iter in ITERATIONS:
        model = ResNetBasisRegressor(
            StandardScaler(),
            solver="lbfgs",
            max_iter=n_iter,
            tol=0.0,
            random_state=seed,
            **RACE,
        )
        seconds = fastest(model, split)
        if model.loss_ <= joint.loss_:
            split.note("race", "projection", seconds)
            break
    note_objectives(split, "projection", model)


def fastest(model, split):
    """Seconds of the fastest of REPEATS fits."""
    return min(fit_seconds(model, split.X, split.y) for _ in range(REPEATS))


def growth(n_rows):
    """Fit seconds on synthetic data."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n_rows, 10))
    y = X[:, 0] + np.sin(2 * X[:, 1]) * X[:, 2] + 0.1 * rng.standard_normal(n_rows)
    model = ResNetBasisRegressor(random_state=0)
    return {"growth": {str(n_rows): fit_seconds(model, X, y)}}


def waves(n_rows, seed):
    """Held-out R2 of the defaults."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n_rows + TEST_ROWS, 5))
    y = np.sin(X[:, 0]) + 0.5 * X[:, 1] + 0.1 * rng.standard_normal(len(X))
    model = ResNetBasisRegressor(random_state=seed).fit(X[:n_rows], y[:n_rows])
    return {"waves": {str(n_rows): model.score(X[n_rows:], y[n_rows:])}}


PARTS = {"quality": quality, "race": race}
PROTOCOLS = {
    "quality": [BASES, N_COMPONENTS, MAX_QUADRATIC, RIDGES, STRENGTHS],
    "race": [RACE, EPOCHS, ITERATIONS, REPEATS],
    "growth": [],
    "waves": [TEST_ROWS],
}


def compute(task):
    """Metrics of one task.

    The split of "growth" is the number of samples; that of "waves" has the seed too.
    """
    if task.part == "growth":
        return growth(task.split)
    if task.part == "waves":
        return waves(*divmod(task.split, WAVE_SEEDS))
    split = Split(task.set, task.split)
    PARTS[task.part](split, task.split)
    return split.result


def list_tasks(quick):
    """Tasks on the small data sets, or on a few of them."""
    names = QUICK_SETS if quick else small_sets()
    tasks = []
    for name in names:
        n_splits = min(2 if quick else MAX_SPLITS, len(load(name)["splits"]))
        tasks += [Task(name, i, "quality") for i in range(n_splits)]
    tasks += [Task(name, 0, "race") for name in RACE_SETS[: 1 if quick else None]]
    rows = GROWTH[:2] if quick else GROWTH
    tasks += [Task(SYNTHETIC, n_rows, "growth") for n_rows in rows]
    rows = WAVE_ROWS[:2] if quick else WAVE_ROWS
    seeds = range(2 if quick else WAVE_SEEDS)
    return tasks + [
        Task(WAVES, WAVE_SEEDS * n_rows + seed, "waves")
        for n_rows in rows
        for seed in seeds
    ]


def small_sets():
    """Regression sets, and the small sets of the UCI-121 collection."""
    regression, classification = data_sets(*REGRESSION), data_sets(*CLASSIFICATION)
    return regression + [n for n in classification if len(load(n)["y"]) <= SMALL]


# --- report -------------------------------------------------------------------


def report(rows):
    """Print the tables and return the findings."""
    full = list_tasks(quick=False)
    done = covers(rows, tasks_of(full, "quality"))
    return [
        *bound_findings(rows, done),
        *score_findings(rows, done),
        race_finding(rows, covers(rows, tasks_of(full, "race"))),
        growth_finding(rows, covers(rows, tasks_of(full, "growth"))),
        *wave_findings(rows, covers(rows, tasks_of(full, "waves"))),
    ]


def bound_findings(rows, complete):
    """Findings on objectives and certified bounds of every fit."""
    claim = "loss ≤ basis loss, certified to 1e-9 relative"
    values = scores(rows, "excess").to_numpy().ravel() if rows else np.empty(0)
    values = values[~np.isnan(values)]
    if not len(values):
        return [Finding(claim, complete=complete)]
    text = f"largest {values.max():.1e} in {len(values)} fits"
    return [Finding(claim, text, values.max() <= 1e-9, complete)]


def score_findings(rows, complete):
    """Findings on held-out errors of each basis alone and with residual units."""
    claims = (
        "held-out error below the linear model's: on 75 % of set-basis pairs",
        "not above it by more than two standard errors: on 95 %",
    )
    alone, deep = scores(rows, "alone"), scores(rows, "deepened")
    if alone.empty:
        return [Finding(claim, complete=complete) for claim in claims]
    means = {"alone": means_and_errors(alone)[0], "deepened": means_and_errors(deep)[0]}
    table = pd.concat(means, axis=1).swaplevel(axis=1).sort_index(axis=1)
    table.columns = [" ".join(column) for column in table.columns]
    print_scores("Held-out RMSE or log loss, mean over splits", table)
    print_scores(
        "Share of the training objective that the units take off",
        means_and_errors(scores(rows, "improvement"))[0][list(alone.columns)],
    )
    print_scores("Seconds of a fit", means_and_errors(scores(rows, "seconds"))[0])
    excess, error = means_and_errors(deep - alone)
    known = excess.notna()
    better = (excess < 0)[known].sum().sum() / known.sum().sum()
    fine = (excess <= 2 * error)[known].sum().sum() / known.sum().sum()
    pairs = f"of {known.sum().sum()} pairs"
    return [
        Finding(claims[0], f"{better:.0%} {pairs}", bool(better >= 0.75), complete),
        Finding(claims[1], f"{fine:.0%} {pairs}", bool(fine >= 0.95), complete),
    ]


def race_finding(rows, complete):
    """Finding on the time to the joint training's objective."""
    claim = "seconds to the objective of joint training: at most a third"
    seconds = scores(rows, "race")
    if not {"joint", "projection"} <= set(seconds.columns):
        return Finding(claim, complete=complete)
    means, _ = means_and_errors(seconds)
    print_scores("Seconds to the joint training's objective", means)
    ratio = (means["projection"] / means["joint"]).fillna(np.inf)
    text = f"largest ratio {ratio.max():.2f} of {len(ratio)} sets"
    return Finding(claim, text, bool((ratio <= 1 / 3).all()), complete)


def growth_finding(rows, complete):
    """Finding on the slope of the fit time in samples, on a log-log scale."""
    claim = f"fit time by rows, {GROWTH[0]:,} to {GROWTH[-1]:,}: slope ≤ 1.1"
    seconds = {}
    for row in rows:
        seconds |= {int(n): value for n, value in row.get("growth", {}).items()}
    if len(seconds) < 2:
        return Finding(claim, complete=complete)
    frame = pd.DataFrame({f"{n:,}": [s] for n, s in sorted(seconds.items())})
    frame.index = [SYNTHETIC]
    print_scores("Seconds of a fit by rows", frame)
    slope = np.polyfit(*np.log([list(seconds), list(seconds.values())]), 1)[0]
    return Finding(claim, f"slope {slope:.2f}", bool(slope <= 1.1), complete)


def wave_findings(rows, complete):
    """Findings on the mean held-out R2 of the defaults by number of samples."""
    claims = (
        "held-out R2 at 300 rows: at least .98",
        "above 1,000 rows: at most .01 below that at 1,000",
    )
    found = {}
    for row in rows:
        for n_rows, value in row.get("waves", {}).items():
            found.setdefault(int(n_rows), []).append(value)
    if not {300, 1_000} <= set(found):
        return [Finding(claim, complete=complete) for claim in claims]
    means = {n_rows: float(np.mean(found[n_rows])) for n_rows in sorted(found)}
    least = {n_rows: float(np.min(found[n_rows])) for n_rows in sorted(found)}
    frame = pd.DataFrame({"mean": means, "least": least}).T
    frame.columns = [f"{n_rows:,}" for n_rows in frame.columns]
    print_scores("Held-out R2 of the defaults by rows", frame)
    drop = max(means[1_000] - mean for n, mean in means.items() if n >= 1_000)
    return [
        Finding(claims[0], f"{means[300]:.4f}", means[300] >= 0.98, complete),
        Finding(claims[1], f"largest drop {drop:.4f}", drop <= 0.01, complete),
    ]


def main():
    """Run the benchmark from the command line."""
    options = parse_arguments(__doc__, tuple(PROTOCOLS))
    tasks = list_tasks(options.quick)
    rows = run(tasks, compute, PROTOCOLS, options, alone=("race", "growth"))
    finish(report(rows), rows)


if __name__ == "__main__":
    main()
