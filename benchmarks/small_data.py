"""Fit time on small data sets, relative to a comparable fit.

Compares ResNetBasisClassifier with MLPClassifier on many classes; two starts of
AddedNeuronRegressor with one on wide data; and, on sparse text-like counts,
AddedNeuronClassifier with MLPClassifier and the default refit with its five trainings.
Times are CPU seconds of one thread, medians of three fits.
"""

import argparse
import time
import warnings

import numpy as np
import scipy.sparse as sp
from _harness import print_table
from sklearn.base import clone
from sklearn.neural_network import MLPClassifier
from threadpoolctl import threadpool_limits

from sklearn_pgb import (
    AddedNeuronClassifier,
    AddedNeuronRegressor,
    GradientBasisRefit,
    ResNetBasisClassifier,
)

REPEATS = 3


def seconds(model, X, y):
    """Median CPU seconds of a fit."""
    taken = []
    for _ in range(REPEATS):
        start = time.process_time()
        clone(model).fit(X, y)
        taken.append(time.process_time() - start)
    return float(np.median(taken))


def classes(n_classes, distance):
    """Five samples of each class, around centers at a distance."""
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(n_classes), 5)
    X = rng.standard_normal((len(y), 6))
    return X + distance * rng.standard_normal((n_classes, 6))[y], y


def rows():
    """Yield name, seconds, seconds of the comparison, and the limit of their ratio."""
    network = MLPClassifier(random_state=0)
    residual = ResNetBasisClassifier(random_state=0)
    for distance in (0.0, 1.0, 2.0, 6.0):
        X, y = classes(20, distance)
        name = f"ResNet, 20 classes, distance {distance:g} / MLPClassifier"
        yield name, seconds(residual, X, y), seconds(network, X, y), 10
    start = time.process_time()
    clone(residual).fit(*classes(200, 2.0))
    yield "ResNet, 200 classes (seconds)", time.process_time() - start, 1.0, 60
    rng = np.random.default_rng(0)
    X = rng.standard_normal((100, 1000))
    y = X[:, 0] + 0.1 * rng.standard_normal(100)
    one, two = (AddedNeuronRegressor(n_starts=k, random_state=0) for k in (1, 2))
    yield "two starts, 100 x 1,000 / one", seconds(two, X, y), seconds(one, X, y), 4
    X = sp.random(400, 4900, 0.01, "csr", random_state=0)
    y = (X @ rng.standard_normal(4900) > 0).astype(int)
    added = AddedNeuronClassifier(random_state=0)
    theirs = seconds(network, X, y)
    yield "added neurons, sparse / MLPClassifier", seconds(added, X, y), theirs, 3
    refit = GradientBasisRefit(network, random_state=0)
    trainings = sum(
        seconds(network, X[rows], y[rows])
        for rows in np.random.default_rng(0).permutation(400).reshape(5, 80)
        for rows in [np.setdiff1d(np.arange(400), rows)]
    )
    yield "refit, sparse / its five trainings", seconds(refit, X, y), trainings, 2


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="no effect: it is quick")
    parser.parse_args()
    table = []
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, ours, theirs, limit in rows():
            ratio = ours / theirs
            cells = f"{ours:.3g}", f"{theirs:.3g}", f"{ratio:.2f}", str(limit)
            table.append((name, *cells, "yes" if ratio <= limit else "no"))
    header = ("fit", "seconds", "of the comparison", "ratio", "at most", "holds")
    print_table("Small data", header, table)


if __name__ == "__main__":
    main()
