"""Problems and networks of the tests of `survey_minima`."""

from itertools import pairwise

import numpy as np
from sklearn.neural_network import MLPRegressor

from sklearn_pgb import survey_minima


def wide_targets():
    """Targets far from zero and of a spread far from one."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 2))
    return X, 50 + 8 * (X[:, 0] * X[:, 1] + 0.3 * rng.normal(size=40))


def mlp(kind=MLPRegressor, **params):
    params = {"activation": "tanh", "solver": "lbfgs", "alpha": 0.1} | params
    return kind(hidden_layer_sizes=(2,), **params)


def survey(estimator, X, y, **params):
    return survey_minima(estimator, X, y, **{"n_starts": 4, "random_state": 0} | params)


def layers(theta, widths):
    """Weights (n_in, n_out) and biases from flat parameters."""
    result, position = [], 0
    for n_in, n_out in pairwise(widths):
        W = theta[position : position + n_in * n_out].reshape(n_out, n_in).T
        position += n_in * n_out
        result.append((W, theta[position : position + n_out]))
        position += n_out
    assert position == len(theta)
    return result
