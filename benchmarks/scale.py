"""Time and memory of the refit of a fixed network by number of samples.

There are 1,000 to 200,000 generated samples, 20 inputs and 50 tanh units. Each size
runs in a new process.
"""

import time
import warnings

import numpy as np
import pandas as pd
from _harness import (
    Finding,
    Task,
    covers,
    finish,
    in_fresh_process,
    memory,
    parse_arguments,
    print_table,
    run,
)
from sklearn.exceptions import ConvergenceWarning
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import root_mean_squared_error
from sklearn.neural_network import MLPRegressor

from sklearn_pgb import GradientBasisRefit

SIZES = (1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000)
QUICK_SIZES = (1_000, 3_000, 10_000, 20_000)
N_INPUTS, N_TEST, NOISE = 20, 2_000, 0.1
# The slope is fitted to sizes from this many samples on.
LINEAR_FROM = 10_000
MAX_MEMORY, MAX_BYTES = "1GB", 1e9

# The network is trained briefly on a subsample; the refit uses all samples.
N_TRAINING = 1_000
NETWORK = {
    "hidden_layer_sizes": (50,),
    "activation": "tanh",
    "max_iter": 100,
    "learning_rate_init": 3e-3,
}


def generate(n_rows, seed):
    """Inputs and a smooth noisy function of six of them."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n_rows, N_INPUTS))
    y = (
        np.sin(X[:, 0] * X[:, 1])
        + np.tanh(X[:, 2]) * X[:, 3]
        + np.cos(X[:, 4] + X[:, 5])
    )
    return X, y + NOISE * rng.standard_normal(n_rows)


def measure(n_rows):
    """Refit seconds, memory before the data, and test errors, in a fresh process."""
    warnings.simplefilter("ignore", ConvergenceWarning)
    network = MLPRegressor(**NETWORK, random_state=0)
    network.fit(*generate(N_TRAINING, seed=0))
    # A small fit first, so that lazy imports and thread pools are not measured.
    refit(network, *generate(200, seed=1))
    before = memory()["now"]
    X, y = generate(n_rows, seed=2)
    start = time.perf_counter()
    model = refit(network, X, y)
    seconds = time.perf_counter() - start
    peak = memory()["peak"]
    X_test, y_test = generate(N_TEST, seed=3)
    return {
        "seconds": seconds,
        "data_bytes": X.nbytes + y.nbytes,
        "fit_bytes": peak - before,
        "network_rmse": root_mean_squared_error(y_test, network.predict(X_test)),
        "refit_rmse": root_mean_squared_error(y_test, model.predict(X_test)),
    }


def refit(network, X, y):
    """Refit the fixed network."""
    model = GradientBasisRefit(
        FrozenEstimator(network), alpha="loo", max_memory=MAX_MEMORY, random_state=0
    )
    return model.fit(X, y)


def compute(task):
    """Compute the measures of one size."""
    n_rows = int(task.set.removeprefix("generated/"))
    return {"rows": n_rows, **in_fresh_process(measure, n_rows)}


def list_tasks(sizes):
    """One task for each number of samples."""
    return [Task(f"generated/{size}", 0, "refit") for size in sizes]


def report(rows):
    """Print the table and return the findings."""
    complete = covers(rows, list_tasks(SIZES))
    frame = pd.DataFrame([row for row in rows if "error" not in row])
    claims = (
        f"log-log slope of time at most 1.1 from {LINEAR_FROM:,} rows on",
        f"memory of the fit at most {MAX_MEMORY} plus the data",
    )
    if frame.empty:
        return [Finding(claim, complete=complete) for claim in claims]
    frame = frame.sort_values("rows")
    print_sizes(frame)
    excess = (frame["fit_bytes"] - frame["data_bytes"]).max()
    figure = f"at most the data and {excess / 1e9:.2f} GB"
    findings = [Finding(claims[1], figure, bool(excess <= MAX_BYTES), complete)]
    large = frame[frame["rows"] >= LINEAR_FROM]
    if len(large) < 2:
        return [Finding(claims[0], complete=complete), *findings]
    slope = np.polyfit(np.log(large["rows"]), np.log(large["seconds"]), 1)[0]
    figure = f"slope {slope:.2f} over {len(large)} sizes"
    return [Finding(claims[0], figure, bool(slope <= 1.1), complete), *findings]


def print_sizes(frame):
    """Print time, memory and errors of every size."""
    header = ["rows", "seconds", "data MB", "fit MB", "process MB"]
    header += ["network RMSE", "refit RMSE"]
    lines = [
        [
            f"{row.rows:,}",
            f"{row.seconds:.2f}",
            *(
                f"{value / 1e6:,.0f}"
                for value in (row.data_bytes, row.fit_bytes, row.peak_bytes)
            ),
            f"{row.network_rmse:.4f}",
            f"{row.refit_rmse:.4f}",
        ]
        for row in frame.itertuples()
    ]
    print_table("Refit of 50 tanh units, 20 inputs", header, lines, n_left=0)


def main():
    """Run the benchmark from the command line, one size after the other."""
    options = parse_arguments(__doc__)
    tasks = list_tasks(QUICK_SIZES if options.quick else SIZES)
    protocols = {"refit": [NETWORK, N_INPUTS, N_TRAINING, NOISE, MAX_MEMORY]}
    rows = run(tasks, compute, protocols, options, alone=("refit",))
    finish(report(rows), rows)


if __name__ == "__main__":
    main()
