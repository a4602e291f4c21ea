"""Data, estimators and naive twins for the tests of the networks with added neurons."""

import numpy as np
from scipy.special import erf, expit, logsumexp
from sklearn.base import clone

from sklearn_pgb import AddedNeuronClassifier, AddedNeuronRegressor

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 3))
Y = np.sin(2 * X[:, 0]) + X[:, 1] * X[:, 2] + 0.1 * RNG.normal(size=40)
LABELS = np.array(["low", "mid", "top"])[np.digitize(Y, [-0.5, 0.5])]
BINARY = np.where(Y > 0, "yes", "no")
INDICATORS = np.column_stack([Y > 0, X[:, 0] > 0, Y > 1]).astype(int)
COUNTS = RNG.poisson(np.exp(0.5 * Y)).astype(float)
WEIGHT = RNG.integers(1, 4, size=40).astype(float)


def regressor(**params):
    params = {"hidden_layer_sizes": (5,), "max_iter": 10, "random_state": 0} | params
    return AddedNeuronRegressor(**params)


def classifier(**params):
    params = {"hidden_layer_sizes": (5,), "max_iter": 10, "random_state": 0} | params
    return AddedNeuronClassifier(**params)


# -- naive twins ---------------------------------------------------------------------


def squared(y, raw):
    return ((raw - y) ** 2).sum(1)


def poisson(y, raw):
    return (np.exp(raw) - y * raw).sum(1)


def huber(delta):
    def value(y, raw):
        size = np.abs(raw - y)
        return np.where(size > delta, delta * (2 * size - delta), size**2).sum(1)

    return value


def logistic(y, raw):
    return (np.logaddexp(0, raw) - y * raw).sum(1)


def softmax(y, raw):
    return logsumexp(raw, axis=1) - (y * raw).sum(1)


def hinge(power):
    return lambda y, raw: (np.maximum(0, 1 - (2 * y - 1) * raw) ** power).sum(1)


ONE_HOT = (LABELS[:, None] == np.unique(LABELS)).astype(float)
YES = (BINARY == "yes").astype(float)[:, None]

# Estimator, y, columns that the loss sees, loss of each sample.
CASES = {
    "regression": (regressor(), Y, Y[:, None], squared),
    "two targets": (regressor(), np.c_[Y, 9 * X[:, 0]], np.c_[Y, 9 * X[:, 0]], squared),
    "counts": (regressor(loss="poisson"), COUNTS, COUNTS[:, None], poisson),
    "huber": (
        regressor(loss="huber", huber_delta=3.0),
        np.c_[10 * Y, 90 * X[:, 0]],
        np.c_[10 * Y, 90 * X[:, 0]],
        huber(3.0),
    ),
    "binary": (classifier(), BINARY, YES, logistic),
    "classes": (classifier(), LABELS, ONE_HOT, softmax),
    "labels": (classifier(), INDICATORS, INDICATORS, logistic),
    "smoothed": (
        classifier(label_smoothing=0.3),
        LABELS,
        0.7 * ONE_HOT + 0.1,
        softmax,
    ),
    "smoothed binary": (
        classifier(label_smoothing=0.3),
        BINARY,
        0.7 * YES + 0.15,
        logistic,
    ),
    "hinge": (classifier(loss="smoothed_hinge"), BINARY, YES, hinge(2)),
    "hinge classes": (
        classifier(loss="smoothed_hinge", hinge_power=3),
        LABELS,
        ONE_HOT,
        hinge(3),
    ),
    "hinge labels": (
        classifier(loss="smoothed_hinge", hinge_power=2.5),
        INDICATORS,
        INDICATORS,
        hinge(2.5),
    ),
}

ACTIVATIONS = {
    "identity": lambda z: z,
    "logistic": expit,
    "tanh": np.tanh,
    "relu": lambda z: np.maximum(z, 0),
    "silu": lambda z: z * expit(z),
    "gelu": lambda z: z * (1 + erf(z / np.sqrt(2))) / 2,
    "gelu_tanh": lambda z: (
        z * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3))) / 2
    ),
    "elu": lambda z: np.where(z > 0, z, np.expm1(z)),
    "softplus": lambda z: np.logaddexp(0, z),
    "leaky_relu": lambda z: np.where(z > 0, z, 0.01 * z),
}


def raw_outputs(model, X):
    """A forward pass by hand."""
    h = X
    for layer, (coef, intercept) in enumerate(
        zip(model.coefs_, model.intercepts_, strict=True)
    ):
        h = h @ coef + intercept
        if layer < len(model.coefs_) - 1:
            h = ACTIVATIONS[model.activation](h)
    return h


def fit(name, *args, **params):
    """A fitted clone of a case."""
    model, y, _, _ = CASES[name]
    return clone(model).set_params(**params).fit(X, y, *args)


def groups_of(X):
    """Rows of each distinct input, one pair of rows after the other."""
    groups = []
    for i in range(len(X)):
        for group in groups:
            if (X[group[0]] == X[i]).all():
                group.append(i)
                break
        else:
            groups.append([i])
    return groups
