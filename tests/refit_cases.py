"""Data, networks and slow versions for tests of the choices of a refit."""

from types import SimpleNamespace

import numpy as np
import oracles
import torch
from sklearn.base import clone
from sklearn.neural_network import MLPClassifier, MLPRegressor

from sklearn_pgb._convex._problem import ConvexProblem
from sklearn_pgb._models._open import open_network
from sklearn_pgb._operators._dense import DenseOperator

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 3))
X_NEW = RNG.normal(size=(11, 3))
CURVE = np.sin(2 * X[:, 0]) + X[:, 1] * X[:, 2] + 0.1 * RNG.normal(size=40)
WEIGHT = RNG.integers(1, 4, size=40).astype(float)
TARGETS = {
    "regression": CURVE,
    "multi-output": np.column_stack([CURVE, X[:, 0] ** 2, X[:, 1]]),
    "poisson": RNG.poisson(np.exp(CURVE / 2)).astype(float),
    "binary": np.where(CURVE > 0, "yes", "no"),
    "multiclass": np.array(["low", "mid", "top"])[np.digitize(CURVE, [-0.7, 0.7])],
}
SQUARED = ["regression", "multi-output"]
OTHERS = ["poisson", "binary", "multiclass"]
CENTERS = ("zero", "average")


def mlp(name="regression", **params):
    """A small tanh network for one of the targets."""
    kind = MLPClassifier if name in ("binary", "multiclass") else MLPRegressor
    if name == "poisson":
        params["loss"] = "poisson"
    params = {"max_iter": 20, "random_state": 0, "solver": "lbfgs"} | params
    params = {"hidden_layer_sizes": (4,), "activation": "tanh"} | params
    return kind(**params)


class Truth(MLPRegressor):
    """A network that predicts the true function, for any y."""

    def fit(self, X, y, sample_weight=None):
        self.set_params(hidden_layer_sizes=(6,), solver="lbfgs", max_iter=1000)
        self.set_params(activation="tanh", alpha=1e-9, tol=1e-12)
        return super().fit(X, truth(X), sample_weight)


def truth(X):
    """A curve."""
    return np.sin(X[:, 0]) + X[:, 1] / 2


def raw_of_network(estimator, X):
    """Raw outputs of a trained network."""
    opened = open_network(estimator)
    return opened.network(opened.network.theta, opened.inputs(X)).numpy()


def mean_of_networks(estimators, X):
    """Mean raw outputs."""
    return np.mean([raw_of_network(estimator, X) for estimator in estimators], 0)


def encoded(estimator, y):
    """Targets encoded for the network's loss."""
    return open_network(estimator).targets(y)


class Twin:
    """The convex problem on networks and training samples, solved the slow way."""

    def __init__(self, estimators, X, y, weight):
        self.networks = SimpleNamespace(estimators_=estimators)
        self.X, self.weight = X, weight
        self.loss = open_network(estimators[0]).loss
        self.y = encoded(estimators[0], y)
        self.phi = oracles.scaled_features(self.networks, X, X, weight)

    def offset(self, X, center):
        """Raw outputs that the model on the basis is added to."""
        mean = mean_of_networks(self.networks.estimators_, X)
        return mean if center == "average" else np.zeros_like(mean)

    def raw(self, X, center, alpha):
        """Raw outputs of the solution at new samples."""
        offset = self.offset(X, center)
        if np.isinf(alpha):
            return offset
        share, seen = self.weight / self.weight.sum(), self.offset(self.X, center)
        if self.loss.quadratic:
            y = self.y.numpy() - seen
            coef, free = oracles.ridge(self.phi, y, share, alpha, True)
        else:
            problem = ConvexProblem(
                DenseOperator(torch.tensor(self.phi)),
                self.y,
                self.loss,
                torch.tensor(share),
                alpha=alpha,
                offset=torch.tensor(seen),
            )
            coef, free = (part.numpy() for part in oracles.optimum(problem)[1:])
        new = oracles.scaled_features(self.networks, X, self.X, self.weight)
        return offset + new @ coef + free

    def losses(self, X, y, center, alpha):
        """The loss of the solution at each new sample."""
        return self.loss_of(y, self.raw(X, center, alpha))

    def loss_of(self, y, raw):
        """The loss of each raw output."""
        y = encoded(self.networks.estimators_[0], y)
        return self.loss.value(y, torch.tensor(raw)).numpy()


def trained(estimator, X, y, weight=None):
    """A clone, fitted."""
    return clone(estimator).fit(X, y, *(() if weight is None else (weight,)))
