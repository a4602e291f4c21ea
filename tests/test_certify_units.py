"""Verdicts do not depend on the units of targets, outputs and parameters."""

import numpy as np
import pytest
from sklearn.neural_network import MLPClassifier, MLPRegressor

from sklearn_pgb import certify

SIZES = (1e-25, 1e-10, 1.0, 1e10, 1e25)

ONE_STEP = {"hidden_layer_sizes": 2, "alpha": 0, "max_iter": 1, "random_state": 0}


def parabola():
    x = np.random.default_rng(0).normal(size=(40, 1))
    y = x[:, 0] ** 2
    return x, y - y.mean()


def network_of_zeros(activation, x, y, size):
    """All parameters are zero but the output's bias, which is the mean target."""
    mlp = MLPRegressor(**ONE_STEP, activation=activation)
    mlp.partial_fit(x, y)
    for array in (*mlp.coefs_, *mlp.intercepts_):
        array[...] = 0
    mlp.intercepts_[1][:] = (size * y).mean()
    return mlp


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("activation", ["tanh", "logistic"])
def test_saddle_is_left_in_any_units(activation, size, seed):
    """Networks with units of their own fit the targets better than a constant."""
    x, y = parabola()
    mlp = network_of_zeros(activation, x, y, size)
    certificate = certify(mlp, x, size * y, random_state=seed)
    assert certificate.verdict == "not_local_min"
    assert certificate.objective == pytest.approx(size**2 * np.var(y), rel=1e-9, abs=0)
    assert certificate.escape.objective < 0.999 * certificate.objective
    # The end of the descent is a network with the claimed objective.
    weights = certificate.escape.theta
    z = np.outer(x[:, 0], weights[:2]) + weights[2:4]
    hidden = np.tanh(z) if activation == "tanh" else 1 / (1 + np.exp(-z))
    errors = hidden @ weights[4:6] + weights[6] - size * y
    assert certificate.escape.objective == pytest.approx(
        np.mean(errors**2), rel=1e-5, abs=0
    )


def test_saddle_of_a_classifier_is_left(seed):
    x, y = parabola()
    mlp = MLPClassifier(**ONE_STEP, activation="tanh")
    mlp.partial_fit(x, y > 0, classes=[False, True])
    for array in (*mlp.coefs_, *mlp.intercepts_):
        array[...] = 0
    mean = np.mean(y > 0)
    mlp.intercepts_[1][:] = np.log(mean / (1 - mean))
    certificate = certify(mlp, x, y > 0, random_state=seed)
    assert certificate.verdict == "not_local_min"
