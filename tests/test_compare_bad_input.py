"""Errors of `compare_bases`, which give advice."""

import numpy as np
import pytest
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsRegressor
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.preprocessing import PolynomialFeatures
from sklearn.svm import SVC

from sklearn_pgb import (
    FeatureBasis,
    GradientBasis,
    GradientBasisRefit,
    InputBasis,
    compare_bases,
)

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(20, 2)), RNG.normal(size=20)
LINEAR = {"linear": InputBasis()}


@pytest.mark.parametrize("bases", [[InputBasis()], None])
def test_bases_must_be_a_dict(bases):
    with pytest.raises(TypeError, match="bases must be a dict from names"):
        compare_bases(bases, X, Y)


def test_bases_must_not_be_empty():
    with pytest.raises(ValueError, match="bases must have at least one entry"):
        compare_bases({}, X, Y)


def test_names_are_strings():
    with pytest.raises(TypeError, match="bases must have strings as names, got 1"):
        compare_bases({1: InputBasis(), "1": InputBasis()}, X, Y)


def test_scorers_return_numbers():
    with pytest.raises(
        TypeError, match="returns a number, got one that returns a dict"
    ):
        compare_bases(LINEAR, X, Y, scoring=lambda model, X, y: {"a": 1.0})


@pytest.mark.parametrize("scoring", [len, int, lambda model: 1.0])
def test_scorers_take_a_model_and_data(scoring):
    with pytest.raises(TypeError, match="scoring must be a scorer of what the model"):
        compare_bases(LINEAR, X, Y, scoring=scoring)


def test_scorer_of_what_a_model_lacks_is_refused_with_the_entry():
    labels = (Y > 0).astype(int)
    bases = {"a": LogisticRegression(), "b": SVC()}
    with pytest.raises(TypeError, match=r"scoring must be .* SVC has none") as caught:
        compare_bases(bases, X, labels, scoring="neg_log_loss", cv=2)
    assert "bases['b']" in caught.value.__notes__[0]


def test_entries_must_be_bases_transformers_or_estimators():
    with pytest.raises(TypeError, match=r"bases\['a'\] must be a basis, a transformer"):
        compare_bases({"a": 3}, X, Y)


@pytest.mark.parametrize(
    "thing",
    [
        GradientBasisRefit(len),
        GradientBasis(GridSearchCV(len, {})),
        GradientBasis(MLPRegressor),
    ],
    ids=str,
)
def test_entries_must_hold_estimators(thing):
    with pytest.raises(TypeError, match=r"bases\['a'\] must hold estimators that"):
        compare_bases({"a": thing}, X, Y)


def test_classifiers_and_regressors_do_not_mix():
    bases = {"a": Ridge(), "b": GradientBasis(MLPClassifier())}
    with pytest.raises(ValueError, match="classifiers or regressors, got both"):
        compare_bases(bases, X, Y)


@pytest.mark.parametrize(
    ("estimator", "loss"),
    [(Ridge(), "log_loss"), (LogisticRegression(), "squared_error")],
)
def test_loss_must_suit_estimators(estimator, loss):
    with pytest.raises(ValueError, match="loss must suit the estimators"):
        compare_bases({"a": estimator}, X, Y, loss=loss)


@pytest.mark.parametrize(
    ("params", "match"),
    [
        ({"loss": "hinge"}, "loss must be None or among"),
        ({"loss": np.array([1, 2])}, "loss must be None or among"),
        ({"alpha": -1.0}, "alpha must be 'auto', a number >= 0"),
        ({"alpha": "loo"}, "alpha must be 'auto'"),
        ({"alpha": [0.0, 1.0]}, "array of positive candidates"),
        ({"alpha": [[1.0]]}, "1-d array"),
        ({"alpha": [np.nan]}, "alpha must be"),
        ({"alpha": {}}, "alpha must be"),
        ({"sample_weight": np.zeros(20)}, "at least one non-zero number"),
        ({"sample_weight": -np.ones(20)}, "[Nn]egative"),
        ({"alpha": "0.1"}, "alpha must be 'auto'"),
        ({"alpha": True}, "alpha must be 'auto'"),
        ({"cv": 30}, "n_splits=30"),
        ({"cv": []}, "cv must hold out some sample"),
        ({"scoring": ["r2"]}, "scoring must be one score"),
        ({"scoring": {"a": "r2"}}, "scoring must be one score"),
        ({"scoring": "nonsense"}, "scoring"),
        ({"max_memory": "much"}, "max_memory must be a positive number"),
        ({"max_memory": []}, "max_memory must be a positive number"),
        ({"cv": np.array(2)}, "cv must be an int, a splitter, or an iterable"),
    ],
)
def test_parameters(params, match):
    with pytest.raises(ValueError, match=match):
        compare_bases(LINEAR, X, Y, **params)


@pytest.mark.parametrize(
    ("X", "y", "match"),
    [
        (X, None, "y must be targets or labels, got None"),
        (X, Y[:-1], "inconsistent numbers of samples"),
        (X[:0], Y[:0], "at least 1 sample, got 0"),
        (np.where(X == X[3, 1], np.nan, X), Y, "NaN"),
        (X, np.where(Y == Y[3], np.inf, Y), "infinity"),
        (X, np.ones(20, dtype=int), "at least 2 classes, got 1 class"),
    ],
)
def test_data(X, y, match):
    with pytest.raises(ValueError, match=match):
        compare_bases(LINEAR, X, y)


def test_one_sample_has_nothing_to_leave_out():
    split = [(np.array([0]), np.array([1]))]
    with pytest.raises(ValueError, match="alpha must be a number if n_samples=1"):
        compare_bases(LINEAR, X[:2], Y[:2], cv=split)


def test_negative_counts():
    with pytest.raises(ValueError, match="y must be >= 0 for the Poisson loss"):
        compare_bases(LINEAR, X, Y, loss="poisson")


def test_weights_of_an_estimator_without_any():
    with pytest.raises(ValueError, match="weights for KNeighborsRegressor"):
        compare_bases(
            {"a": KNeighborsRegressor()}, X, Y, sample_weight=np.full(20, 2.0)
        )


def test_network_of_another_shape():
    targets = np.column_stack([Y, Y])
    net = GradientBasis(MLPRegressor(max_iter=1).fit(X, Y))
    frozen = net.set_params(estimator=FrozenEstimator(net.estimator))
    with pytest.raises(ValueError, match="n_outputs must be 1, the network's, got 2"):
        compare_bases({"a": frozen}, X, targets)


def test_largest_alpha_predicts_the_mean():
    report = compare_bases(LINEAR, 10 * X, Y, alpha=1.7e308, cv=[(range(20),) * 2])
    np.testing.assert_allclose(report["linear"].scores, 0, atol=1e-12)


def test_constant_features_and_targets():
    """A basis without any influence predicts the mean."""
    basis = FeatureBasis(PolynomialFeatures(0))
    report = compare_bases({"constant": basis}, X, np.full(20, 3.0))["constant"]
    np.testing.assert_allclose(report.train_loss, 0, atol=1e-25)
    zero = compare_bases({"zero": InputBasis()}, 0 * X, Y)["zero"]
    np.testing.assert_allclose(zero.train_loss, Y.var())
    assert zero.rank == 1
