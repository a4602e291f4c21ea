"""A mixed table, and small members, that the tests of tables and groups share."""

from itertools import count

import numpy as np
import pandas as pd
import torch
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
)
from sklearn.neural_network import MLPClassifier, MLPRegressor

from sklearn_pgb import GradientBasisClassifier, GradientBasisRegressor
from sklearn_pgb._refit import _groups

N = 60
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, 3))
CURVE = X[:, 0] ** 2 + X[:, 1] + 0.2 * RNG.normal(size=N)
Y = {
    "real": CURVE,
    "two": np.column_stack([CURVE, X[:, 2] - CURVE]),
    "count": RNG.poisson(np.exp(X[:, 0] / 2)).astype(float),
    "binary": np.where(CURVE > 1, "yes", "no"),
    "multi": np.array(["low", "mid", "top"])[np.digitize(CURVE, [0, 1.5])],
    "labels": np.column_stack([CURVE > 1, X[:, 1] > 0]).astype(int),
}
WEIGHT = RNG.integers(1, 4, size=N).astype(float)
FRAME = pd.DataFrame(
    {
        "number": np.where(np.arange(N) % 7, X[:, 0], np.nan),
        "label": np.array(list("abcd"))[np.digitize(X[:, 1], [-1, 0, 1])],
        "kind": pd.Categorical(np.where(X[:, 2] > 0, "up", "down")),
        "day": pd.Timestamp("2020-01-01") + pd.to_timedelta(np.arange(N), "D"),
    }
)
FRAME.loc[::9, "label"] = None

NETWORK = {"hidden_layer_sizes": (4,), "activation": "tanh", "solver": "lbfgs"}
NETWORK |= {"max_iter": 10, "random_state": 0}
TREES = {"max_iter": 4, "max_leaf_nodes": 4, "min_samples_leaf": 5}


def regressor(network=None, trees=None, **params):
    """A regressor with small members and two folds."""
    network = MLPRegressor(**NETWORK) if network is None else network
    trees = HistGradientBoostingRegressor(**TREES) if trees is None else trees
    forest = ExtraTreesRegressor(3, min_samples_leaf=3)
    params = {"forest": forest, "cv": 2, "random_state": 0} | params
    return GradientBasisRegressor(network, trees, **params)


def classifier(network=None, trees=None, **params):
    """A classifier with small members and two folds."""
    network = MLPClassifier(**NETWORK) if network is None else network
    trees = HistGradientBoostingClassifier(**TREES) if trees is None else trees
    forest = ExtraTreesClassifier(3, min_samples_leaf=3)
    params = {"forest": forest, "cv": 2, "random_state": 0} | params
    return GradientBasisClassifier(network, trees, **params)


def small(name, **params):
    """A small estimator for one of the targets."""
    if name == "count":
        network = MLPRegressor(loss="poisson", **NETWORK)
        trees = HistGradientBoostingRegressor(loss="poisson", **TREES)
        params = {"loss": "poisson", "forest": "drop"} | params
        return regressor(network, trees, **params)
    if name in ("real", "two"):
        params = ({"trees": "drop"} if name == "two" else {}) | params
        return regressor(**params)
    params = ({"trees": "drop"} if name == "labels" else {}) | params
    return classifier(**params)


def keep_one_mixture(monkeypatch):
    """Let the best mixture alone predict, without the stacked average."""
    monkeypatch.setattr(_groups, "STACKED_MIXTURES", 1)
    stacked, calls = _groups.fit_stacking_weights, count()

    def one(held, y, weight, loss):
        if next(calls) % 2 == 0:
            return stacked(held, y, weight, loss)
        return torch.tensor([0.0, 1.0], dtype=y.dtype), torch.zeros_like(y[0])

    monkeypatch.setattr(_groups, "fit_stacking_weights", one)


def boosting(classifies=False):
    """Boosted trees whose leaves scikit-learn tells."""
    kind = GradientBoostingClassifier if classifies else GradientBoostingRegressor
    return kind(n_estimators=4, max_depth=2, random_state=0)
