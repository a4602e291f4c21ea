"""Time of predictions and of imports, as a process that serves models sees them.

Measures CPU time on one thread: of predictions for one sample and for many, beside
those of boosted trees and a network of scikit-learn; and of imports in fresh processes.
"""

import argparse
import subprocess
import sys
import time
import warnings
from importlib.util import find_spec
from statistics import median

import torch
from _harness import Finding, finish, print_table
from sklearn.base import clone
from sklearn.datasets import make_friedman1
from sklearn.ensemble import HistGradientBoostingRegressor, VotingRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPRegressor
from threadpoolctl import threadpool_limits

from sklearn_pgb import GradientBasisRefit, GradientBasisRegressor

N_TRAIN, N_FEATURES, N_FOLDS = 1000, 10, 5
COUNTS = {False: (1, 1000, 100_000), True: (1, 1000)}

NETWORK = MLPRegressor(hidden_layer_sizes=(50,), max_iter=100, random_state=0)

# Imports, and the code that a process runs.
IMPORTS = {
    "scikit-learn": "import sklearn.base, sklearn.utils",
    "sklearn_pgb": "import sklearn_pgb",
    "scikit-learn and sklearn_pgb": "import sklearn.base, sklearn.utils, sklearn_pgb",
    "an estimator": "from sklearn_pgb import GradientBasisRegressor",
}


def models():
    """Estimators by name."""
    found = {
        "GradientBasisRegressor": GradientBasisRegressor(random_state=0),
        "refit of a network": GradientBasisRefit(NETWORK, cv=N_FOLDS, random_state=0),
        "MLPRegressor": NETWORK,
        "HistGB": HistGradientBoostingRegressor(random_state=0),
    }
    if find_spec("catboost"):
        from catboost import CatBoostRegressor

        booster = CatBoostRegressor(
            verbose=0, allow_writing_files=False, thread_count=1
        )
        folds = [(str(fold), clone(booster)) for fold in range(N_FOLDS)]
        found["CatBoost x 5"] = VotingRegressor(folds)
    return found


def milliseconds(function, argument, repeats):
    """Median CPU time of some calls after an untimed first one."""
    times = []
    for _ in range(repeats + 1):
        start = time.process_time()
        function(argument)
        times.append(time.process_time() - start)
    return 1000 * median(times[1:])


def compare_predictions(counts):
    """Print the times of predictions; return them by model and number of samples."""
    X, y = make_friedman1(N_TRAIN, N_FEATURES, noise=1.0, random_state=0)
    times = {}
    for name, model in models().items():
        with warnings.catch_warnings():
            # The network stops at max_iter by protocol.
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(X, y)
        for count in counts:
            rows, _ = make_friedman1(count, N_FEATURES, random_state=1)
            repeats = 3 if count > N_TRAIN else 15
            times[name, count] = milliseconds(model.predict, rows, repeats)
    names = dict.fromkeys(name for name, _ in times)
    lines = [[name, *(f"{times[name, n]:.3g}" for n in counts)] for name in names]
    header = ["model", *(f"{count:,} samples" for count in counts)]
    print_table("Predictions, milliseconds", header, lines)
    return times


def compare_imports(repeats):
    """Print the times of imports in fresh processes; return them by name."""
    times = {}
    for name, code in IMPORTS.items():
        timed = f"{code}\nimport time; print(time.process_time())"
        command = [sys.executable, "-c", timed]
        runs = [subprocess.check_output(command, text=True) for _ in range(repeats)]
        times[name] = median(map(float, runs))
    lines = [[name, f"{seconds:.2f}"] for name, seconds in times.items()]
    print_table("Imports in fresh processes, seconds", ["import", "seconds"], lines)
    return times


def findings(predictions, imports):
    """Claims about predictions and imports."""
    limits = [
        ("GradientBasisRegressor", 1, 5.0),
        ("GradientBasisRegressor", 1000, 30.0),
        ("refit of a network", 1, 0.5),
        ("refit of a network", 1000, 5.0),
    ]
    outcomes = []
    for name, count, limit in limits:
        taken = predictions[name, count]
        claim = f"{name}, samples: {count:,}, at most {limit:g} ms"
        outcomes.append(Finding(claim, f"{taken:.3g} ms", taken <= limit))
    more = imports["scikit-learn and sklearn_pgb"] - imports["scikit-learn"]
    claim = "sklearn_pgb adds at most 0.3 s to the import of scikit-learn"
    return [*outcomes, Finding(claim, f"{more:.2f} s", more <= 0.3)]


def main():
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer samples and runs")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    with threadpool_limits(1):
        predictions = compare_predictions(COUNTS[quick])
    finish(findings(predictions, compare_imports(3 if quick else 9)))


if __name__ == "__main__":
    main()
