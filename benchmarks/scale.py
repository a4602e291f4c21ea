"""Time, memory and held-out loss by number of samples, columns, classes, parameters.

Data are generated, but for those of "tables" and the last sets of "classes". Parts:

- "refit": the refit of a fixed network of 50 tanh units by number of samples,
- "models": defaults of this package and of others by number of samples,
- "classes": the refit of a network by number of classes, 50 samples of each, and of
  letter and kmnist10k,
- "class_tables": the classifier for tables by number of classes, on 1,600 samples,
- "parameters": the refit of a fixed network of two hidden layers by their width,
- "million": defaults on a million samples of 10 inputs,
- "tables": defaults on the first split of large tables.

Each row runs in a new process with one thread. Claims about "million", "tables" and
"classes" are about seconds of the processor, which other programs hardly change.
`--draw FILE` draws held-out loss against seconds.
"""

import os
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from _harness import (
    FOLDER_VARIABLE,
    Finding,
    Split,
    Task,
    covers,
    data_sets,
    finish,
    in_fresh_process,
    load,
    memory,
    parse_arguments,
    print_table,
    run,
    tasks_of,
)
from _rivals import rivals, scaled
from sklearn.datasets import make_classification
from sklearn.exceptions import ConvergenceWarning
from sklearn.frozen import FrozenEstimator
from sklearn.kernel_approximation import Nystroem
from sklearn.linear_model import RidgeCV
from sklearn.metrics import log_loss, root_mean_squared_error
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_pgb import (
    GradientBasisClassifier,
    GradientBasisRefit,
    GradientBasisRegressor,
)

SIZES = {
    "refit": (1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000),
    "models": (1_000, 3_000, 10_000, 30_000, 100_000),
    "classes": (2, 10, 50, 100, 200),
    "class_tables": (10, 100),
    "parameters": (1_000, 10_000, 100_000, 1_000_000),
    "million": (1_000_000,),
}
QUICK_SIZES = {
    "refit": (1_000, 3_000, 10_000, 20_000),
    "models": (1_000, 3_000),
    "classes": (2, 10),
    "class_tables": (10,),
    "parameters": (1_000, 10_000),
    "million": (30_000,),
}
TABLES = (
    "uci_regression/protein",
    "dkl_regression/kin40k",
    "large/sgemm",
    "large/brfss_diabetes",
    "large/covertype",
)
MODELS = ("GradientBasis", "HistGB", "CatBoost", "LightGBM", "MLP", "xRFM", "Nystroem")
# Those of the parts "million" and "tables".
FEW_MODELS = MODELS[:3]
N_INPUTS, N_TEST, NOISE, PER_CLASS = 20, 2_000, 0.1, 50
CLASS_SETS = ("uci121/letter", "image/kmnist10k")
N_TABLE, N_COLUMNS = 1_600, 64
N_OF_MILLION = 10
MAX_MEMORY, MAX_BYTES = "1GB", 1e9
# The slope is fitted to sizes from this many samples on.
LINEAR_FROM = 10_000

# Networks are trained briefly on few samples; the refit uses all samples.
N_TRAINING, N_OF_LARGE = 1_000, 10_000
NETWORK = {"activation": "tanh", "max_iter": 100, "learning_rate_init": 3e-3}


def generate(n_rows, seed, n_inputs=N_INPUTS):
    """Inputs and a smooth noisy function of six of them."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n_rows, n_inputs))
    y = (
        np.sin(X[:, 0] * X[:, 1])
        + np.tanh(X[:, 2]) * X[:, 3]
        + np.cos(X[:, 4] + X[:, 5])
    )
    return X, y + NOISE * rng.standard_normal(n_rows)


def classes_of(n_samples, n_columns, n_classes, **options):
    """Samples of classes of one cluster each, and N_TEST others."""
    X, y = make_classification(
        n_samples + N_TEST,
        n_columns,
        n_classes=n_classes,
        n_clusters_per_class=1,
        random_state=0,
        **options,
    )
    return X[N_TEST:], y[N_TEST:], X[:N_TEST], y[:N_TEST]


def measured(model, X, y, X_test, y_test):
    """Seconds, CPU seconds and memory of a fit, and the held-out loss."""
    before = memory()["now"]
    start, begun = time.perf_counter(), time.process_time()
    model.fit(X, y)
    seconds, peak = time.perf_counter() - start, memory()["peak"]
    row = {"seconds": seconds, "cpu_seconds": time.process_time() - begun}
    row["fit_bytes"] = peak - before
    if hasattr(model, "predict_proba"):
        loss = log_loss(y_test, model.predict_proba(X_test), labels=model.classes_)
    else:
        loss = root_mean_squared_error(y_test, model.predict(X_test))
    return row | {"loss": float(loss)}


def frozen(hidden_layer_sizes):
    """A network that was trained briefly."""
    network = MLPRegressor(
        hidden_layer_sizes=hidden_layer_sizes, **NETWORK, random_state=0
    )
    return network.fit(*generate(N_TRAINING, seed=0))


def refit_of(network, **options):
    """A refit that trains nothing."""
    options = {"alpha": "loo", "max_memory": MAX_MEMORY, "random_state": 0} | options
    return GradientBasisRefit(FrozenEstimator(network), **options)


def measure(part, size, name):
    """One row, in a fresh process."""
    warnings.simplefilter("ignore", ConvergenceWarning)
    test = generate(N_TEST, seed=3)
    if part == "refit":
        network = frozen((50,))
        # A small fit first, so that lazy imports and thread pools are not measured.
        refit_of(network).fit(*generate(200, seed=1))
        X, y = generate(size, seed=2)
        row = measured(refit_of(network), X, y, *test)
        row["network"] = root_mean_squared_error(test[1], network.predict(test[0]))
        return row | {"data_bytes": X.nbytes + y.nbytes}
    if part == "models":
        X, y = generate(size, seed=2)
        return measured(model_named(name, size), X, y, *test)
    if part == "class_tables":
        data = classes_of(N_TABLE, N_COLUMNS, size, n_informative=20, class_sep=3.0)
        return measured(GradientBasisClassifier(random_state=0), *data)
    if part == "million":
        data = [generate(n, s, N_OF_MILLION) for n, s in ((size, 2), (N_TEST, 3))]
        return measured(model_named(name, size), *data[0], *data[1])
    if part == "classes":
        if name:
            split = Split(name, 0)
            data = split.X, split.y, split.X_test[:N_TEST], split.y_test[:N_TEST]
        else:
            options = {"n_informative": 15, "class_sep": 2.0}
            data = classes_of(PER_CLASS * size, N_INPUTS, size, **options)
        network = make_pipeline(
            StandardScaler(),
            MLPClassifier(hidden_layer_sizes=(50,), max_iter=100, random_state=0),
        )
        trained = measured(network, *data)
        refit = refit_of(network, alpha="auto").set_params(estimator=network)
        row = measured(refit, *data)
        # Five networks are trained, on four fifths of the samples each.
        cpu = trained["cpu_seconds"]
        row["cpu_seconds"] = max(0.0, row["cpu_seconds"] - 4 * cpu)
        return row | {"network": trained["loss"], "network_s": cpu}
    width = round((size + 110) ** 0.5 - 10.5)
    network = frozen((width, width))
    X, y = generate(N_OF_LARGE, seed=2)
    refit = refit_of(
        network, alpha=1e-3, solver="auto" if size < 5e4 else "matrix-free"
    )
    row = measured(refit, X, y, *test)
    row["network"] = root_mean_squared_error(test[1], network.predict(test[0]))
    return row | {"n_coef": len(refit.basis_coef_)}


def measure_table(name, model):
    """One row of the part "tables", in a fresh process."""
    data = load(name)
    train, test = data["splits"][0]
    X, y = data["X"], data["y"]
    classifies = data["task"] != "regression"
    row = measured(
        model_named(model, len(train), classifies),
        X[train],
        y[train],
        X[test],
        y[test],
    )
    return row | {"size": len(train)}


def model_named(name, n_samples, classifies=False):
    """An unfitted model."""
    if name == "GradientBasis":
        kind = GradientBasisClassifier if classifies else GradientBasisRegressor
        return kind(random_state=0)
    if name == "Nystroem":
        features = Nystroem(n_components=500, random_state=0)
        ridge = RidgeCV(np.logspace(-6, 1, 8))
        return scaled(make_pipeline(features, ridge), False)
    return rivals(classifies, n_samples)[name]


def list_tasks(sizes, tables=TABLES):
    """One task for each size or table, and for each installed model."""
    installed = ("GradientBasis", "Nystroem", *rivals(False, 1))
    tasks = []
    for part, values in sizes.items():
        for size in values:
            compared = {"models": MODELS, "million": FEW_MODELS}.get(part, ("",))
            names = [m for m in compared if m in installed or not m]
            tasks += [Task(f"generated/{size}", 0, part, name) for name in names]
        if part == "classes" and len(values) == len(SIZES[part]):
            found = data_sets(*CLASS_SETS) if os.environ.get(FOLDER_VARIABLE) else []
            tasks += [Task(name, 0, part, name) for name in found]
    names = [m for m in FEW_MODELS if m in installed]
    tasks += [Task(name, 0, "tables", model) for name in tables for model in names]
    return tasks


def compute(task):
    """Compute the measures of one row."""
    if task.part == "tables":
        return in_fresh_process(measure_table, task.set, task.model)
    if task.set in CLASS_SETS:
        size = len(Split(task.set, 0).classes)
    else:
        size = int(task.set.removeprefix("generated/"))
    row = in_fresh_process(measure, task.part, size, task.model)
    return {"size": size, **row}


def report(rows):
    """Print a table for each part and return the findings."""
    good = pd.DataFrame([row for row in rows if "error" not in row])
    findings = []
    for part in (*SIZES, "tables"):
        frame = good[good["part"] == part] if len(good) else good
        if frame.empty:
            continue
        frame = frame.sort_values("size")
        print_part(part, frame)
        complete = covers(rows, tasks_of(list_tasks(SIZES), part))
        if part == "refit":
            excess = (frame["fit_bytes"] - frame["data_bytes"]).max()
            figure = f"at most the data and {excess / 1e9:.2f} GB"
            claim = f"memory of the refit at most {MAX_MEMORY} plus the data"
            findings.append(Finding(claim, figure, excess <= MAX_BYTES, complete))
            findings.append(slope_of("refit", frame, complete))
        if part == "models":
            own = frame[frame["model"] == "GradientBasis"]
            findings.append(slope_of("GradientBasisRegressor", own, complete))
        if part == "million":
            findings += findings_on_a_million(frame, complete)
        if part == "tables":
            findings += findings_on_tables(frame, complete)
        if part == "classes":
            lower = (frame["loss"] < frame["network"]).all()
            claim = "log loss of the refit below the network's for all classes"
            findings.append(Finding(claim, str(bool(lower)), bool(lower), complete))
            ratio = (frame["cpu_seconds"] / frame["network_s"].clip(lower=1)).max()
            claim = "refit at most 3 times the network's training (1 s if less)"
            findings.append(Finding(claim, f"{ratio:.1f}", ratio <= 3, complete))
    return findings


def findings_on_a_million(frame, complete):
    """Findings on time and memory."""
    own = frame[(frame["model"] == "GradientBasis") & (frame["size"] == 1_000_000)]
    claims = "a million samples: at most 600 s", "a million samples: at most 8 GB"
    if own.empty:
        return [Finding(claim, complete=complete) for claim in claims]
    seconds, peak = own["cpu_seconds"].iloc[0], own["peak_bytes"].iloc[0] / 1e9
    return [
        Finding(claims[0], f"{seconds:.0f} s", bool(seconds <= 600), complete),
        Finding(claims[1], f"{peak:.1f} GB", bool(peak <= 8), complete),
    ]


def findings_on_tables(frame, complete):
    """Findings on loss and time, next to CatBoost's."""
    claim = "loss below CatBoost's within 4 times its time"
    findings = []
    for name, rows in frame.groupby("set", sort=False):
        rows = rows.set_index("model")
        if not {"GradientBasis", "CatBoost"} <= set(rows.index):
            continue
        own, other = rows.loc["GradientBasis"], rows.loc["CatBoost"]
        ratio = own["cpu_seconds"] / other["cpu_seconds"]
        figure = f"{own['loss']:.4f} and {other['loss']:.4f}, {ratio:.1f} times"
        holds = bool(own["loss"] < other["loss"] and ratio <= 4)
        findings.append(Finding(f"{name}: {claim}", figure, holds, complete))
    return findings


def slope_of(name, frame, complete):
    """Finding on the log-log slope of time."""
    claim = f"{name}: log-log slope of time at most 1.1 from {LINEAR_FROM:,} rows on"
    large = frame[frame["size"] >= LINEAR_FROM]
    if len(large) < 2:
        return Finding(claim, complete=complete)
    slope = np.polyfit(np.log(large["size"]), np.log(large["seconds"]), 1)[0]
    figure = f"slope {slope:.2f} over {len(large)} sizes"
    return Finding(claim, figure, slope <= 1.1, complete)


def print_part(part, frame):
    """Print the rows of one part."""
    header = [part, "size", "seconds", "CPU s", "network's CPU s"]
    header += ["fit MB", "loss", "network's loss"]
    columns = ["model", "size_", "seconds", "cpu_seconds", "network_s"]
    columns += ["fit_bytes", "loss", "network"]
    if part == "tables":
        frame = frame.assign(model=frame["set"] + " " + frame["model"])
    lines = [
        [
            row.model or part,
            f"{row.size_:,}",
            f"{row.seconds:.2f}",
            "-" if pd.isna(row.cpu_seconds) else f"{row.cpu_seconds:.2f}",
            "-" if pd.isna(row.network_s) else f"{row.network_s:.2f}",
            f"{row.fit_bytes / 1e6:,.0f}",
            f"{row.loss:.4f}",
            "-" if pd.isna(row.network) else f"{row.network:.4f}",
        ]
        for row in frame.rename(columns={"size": "size_"})
        .reindex(columns=columns)
        .itertuples()
    ]
    print_table(f"By {part}", header, lines)


def draw(rows, path):
    """Draw held-out loss against seconds, a line for each model."""
    import matplotlib.pyplot as plt

    frame = pd.DataFrame([row for row in rows if "error" not in row])
    frame = frame[frame["part"] == "models"].sort_values("size")
    fig, ax = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for name, marker in zip(MODELS, "Dos^vPX", strict=True):
        own = frame[frame["model"] == name]
        if len(own):
            color = {"color": "#1f77b4", "lw": 2.5} if name == MODELS[0] else {}
            ax.plot(own["seconds"], own["loss"], marker=marker, label=name, **color)
    sizes = sorted(frame["size"].unique())
    ax.set(
        xscale="log",
        yscale="log",
        xlabel="seconds of a fit, one thread",
        ylabel=f"RMSE on {N_TEST:,} other samples (noise {NOISE})",
        title=f"From {sizes[0]:,} to {sizes[-1]:,} samples of {N_INPUTS} inputs",
    )
    ax.legend(frameon=False)
    fig.savefig(path)


def main():
    """Run the benchmark from the command line, one row after the other."""
    path = None
    if "--draw" in sys.argv:
        place = sys.argv.index("--draw")
        path = Path(sys.argv.pop(place + 1))
        sys.argv.pop(place)
    parts = (*SIZES, "tables")
    options = parse_arguments(__doc__, parts)
    tasks = list_tasks(QUICK_SIZES, TABLES[:1]) if options.quick else list_tasks(SIZES)
    constants = [NETWORK, N_INPUTS, N_TRAINING, N_OF_LARGE, NOISE, MAX_MEMORY, N_TEST]
    protocols = dict.fromkeys(parts, constants)
    rows = run(tasks, compute, protocols, options, alone=parts)
    if path is not None:
        draw(rows, path)
    finish(report(rows), rows)


if __name__ == "__main__":
    main()
