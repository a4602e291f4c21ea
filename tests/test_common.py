"""scikit-learn's own checks, with no expected failure and none of our own skips."""

from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from sklearn_pgb import (
    AddedNeuronClassifier,
    AddedNeuronRegressor,
    GradientBasisRefit,
    ResNetBasisClassifier,
    ResNetBasisRegressor,
)


def network(kind, **params):
    """A network whose training treats weights as repetitions, up to rounding.

    Rounding grows along a training that is not convex, hence the few iterations.
    """
    params = {"solver": "lbfgs", "max_iter": 10, "random_state": 0} | params
    return kind(hidden_layer_sizes=(4,), activation="tanh", **params)


ESTIMATORS = [
    GradientBasisRefit(network(MLPRegressor)),
    GradientBasisRefit(network(MLPClassifier)),
    GradientBasisRefit(network(MLPRegressor), alpha=1e-3),
    GradientBasisRefit(network(MLPClassifier), alpha=1e-3, center="network"),
    GradientBasisRefit(network(MLPRegressor), cv=3, n_networks=2, random_state=0),
    # A scaler that sees no weights and needs none.
    GradientBasisRefit(make_pipeline(MaxAbsScaler(), network(MLPRegressor))),
    AddedNeuronRegressor(max_iter=20),
    AddedNeuronClassifier(max_iter=20),
    AddedNeuronClassifier(loss="smoothed_hinge", max_iter=20),
    AddedNeuronRegressor(solver="lbfgs", max_iter=20),
    AddedNeuronClassifier(solver="lbfgs", max_iter=20),
    # The search ends with a polish of many iterations. A strong ridge makes the minimum
    # that it reaches the same for weights and for repetitions, up to rounding.
    AddedNeuronRegressor((4,), "tanh", n_starts=3, max_iter=5, alpha=30),
    AddedNeuronClassifier((4,), "tanh", n_starts=3, max_iter=5, alpha=30),
    GradientBasisRefit(AddedNeuronRegressor((4,), "tanh", max_iter=10, random_state=0)),
    ResNetBasisRegressor(hidden_layer_sizes=(4,), max_iter=10, random_state=0),
    ResNetBasisClassifier(hidden_layer_sizes=(4,), max_iter=10, random_state=0),
    ResNetBasisRegressor(MaxAbsScaler(), (4,), alpha=0.1, cv=None, max_iter=5),
    ResNetBasisClassifier(MaxAbsScaler(), (4,), alpha=0.1, cv=None, max_iter=5),
]


@parametrize_with_checks(ESTIMATORS)
def test_sklearn(estimator, check):
    check(estimator)
