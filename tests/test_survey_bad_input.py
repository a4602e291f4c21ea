"""Errors of `survey_minima`, which give advice."""

import numpy as np
import pytest
import torch
from sklearn.ensemble import RandomForestRegressor
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_pgb import AddedNeuronRegressor, ResNetBasisRegressor, survey_minima

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(20, 2)), RNG.normal(size=20)
NET = MLPRegressor(hidden_layer_sizes=(2,), max_iter=2)


@pytest.mark.parametrize(
    "thing",
    [
        FrozenEstimator(NET),
        torch.nn.Linear(2, 1),
        make_pipeline(StandardScaler(), FrozenEstimator(NET)),
    ],
)
def test_what_is_taken_as_it_is_has_no_starts(thing):
    with pytest.raises(TypeError, match="estimator must be one that can be trained"):
        survey_minima(thing, X, Y)


def test_estimators_without_a_network():
    with pytest.raises(TypeError, match=r"estimator must be a network, .* got Rand"):
        survey_minima(RandomForestRegressor(), X, Y)


@pytest.mark.parametrize(
    ("params", "match"),
    [
        ({"n_starts": 0}, "n_starts must be an integer >= 1, got 0"),
        ({"n_starts": 2.5}, "n_starts must be an integer >= 1, got 2.5"),
        ({"n_starts": True}, "n_starts must be an integer"),
        ({"polish_iter": -1}, "polish_iter must be 'auto' or an integer >= 0, got -1"),
        ({"polish_iter": "long"}, "polish_iter must be 'auto'"),
        ({"tol": 0.0}, "tol must be a finite number > 0"),
        ({"tol": np.inf}, "tol must be a finite number > 0"),
        ({"tol": "small"}, "tol must be a finite number > 0"),
        ({"sample_weight": np.zeros(20)}, "at least one non-zero number"),
        ({"sample_weight": -np.ones(20)}, "[Nn]egative"),
    ],
)
def test_parameters(params, match):
    with pytest.raises(ValueError, match=match):
        survey_minima(NET, X, Y, **params)


@pytest.mark.parametrize(
    ("net", "X", "y", "match"),
    [
        (NET, X, None, "y must be targets or labels, got None"),
        (NET, X, Y[:-1], "inconsistent numbers of samples"),
        (NET, X[:0], Y[:0], "at least 1 sample, got 0"),
        (NET, np.where(X == X[3, 1], np.nan, X), Y, "NaN"),
        (NET, X, np.where(Y == Y[3], np.inf, Y), "infinity"),
        (MLPClassifier(), X, np.ones(20, dtype=int), "at least 2 classes"),
        (MLPRegressor("poisson"), X, Y, "y must be >= 0 for the Poisson loss"),
        (MLPRegressor(alpha=-1.0), X, Y, "'alpha' parameter of MLPRegressor"),
        (MLPRegressor(solver="foo"), X, Y, "'solver' parameter of MLPRegressor"),
        (AddedNeuronRegressor(max_iter=0), X, Y, "'max_iter' parameter of AddedN"),
        (MLPRegressor(early_stopping=True), X[:1], Y[:1], "early_stopping must be"),
        (MLPRegressor(hidden_layer_sizes=(0,)), X, Y, "sizes must be integers > 0"),
    ],
)
def test_data(net, X, y, match):
    with pytest.raises(ValueError, match=match):
        survey_minima(net, X, y)


def test_weights_of_a_network_that_takes_none():
    class NoWeights(AddedNeuronRegressor):
        def fit(self, X, y):
            return super().fit(X, y)

    net = NoWeights(module=torch.nn.Linear(2, 1), max_iter=1)
    with pytest.raises(ValueError, match="got weights for NoWeights"):
        survey_minima(net, X, Y, sample_weight=np.full(20, 2.0))


def test_constant_targets_are_at_the_floor():
    found = survey_minima(NET, X, np.full(20, 3.0), n_starts=2, random_state=0)
    assert found.loss.max() < 1e-6


def test_population_of_one_row():
    found = survey_minima(NET, X[:1], Y[:1], n_starts=2, random_state=0)
    assert found.n_starts == 2


def test_residual_network_of_one_start():
    net = ResNetBasisRegressor(hidden_layer_sizes=(2,), max_iter=1)
    found = survey_minima(net, X, Y, n_starts=1, random_state=0)
    assert str(found).startswith("1 starts, 1 distinct minima")


def test_search_over_architectures_is_refused():
    network = MLPRegressor(max_iter=200, solver="lbfgs", random_state=0)
    search = GridSearchCV(network, {"hidden_layer_sizes": [(1,), (8,)]}, cv=2)
    X = np.random.default_rng(0).normal(size=(30, 1))
    with pytest.raises(ValueError, match="estimator must train networks of one size"):
        survey_minima(search, X, np.sin(5 * X[:, 0]), n_starts=4, random_state=0)
