"""Early stopping, held-out scores and the status of a training."""

import warnings
from itertools import combinations

import numpy as np
import pytest
import sklearn
from added_neuron_cases import BINARY, LABELS, WEIGHT, X, Y, classifier, regressor
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.datasets import load_iris, make_classification, make_moons
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import (
    accuracy_score,
    d2_tweedie_score,
    get_scorer,
    log_loss,
    mean_squared_error,
)
from sklearn.model_selection import GroupKFold, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import get_tags
from torch import nn

from sklearn_pgb import (
    AddedNeuronClassifier,
    AddedNeuronRegressor,
    ResNetBasisClassifier,
)

RNG = np.random.default_rng(0)
MANY = RNG.normal(size=(200, 3))
OTHER = RNG.normal(size=(50, 3))


def target(X):
    return X[:, 0] + np.sin(X[:, 1])


# -- status --------------------------------------------------------------------------


def test_a_healthy_fit_is_not_called_diverging():
    model = AddedNeuronClassifier(random_state=0).fit(*load_iris(return_X_y=True))
    assert model.status_ in ("converged", "early_stopped")
    assert model.monitor_status_ in ("diverging", "stalled")


def test_large_counts_are_not_certified_early():
    """The tolerance is relative to the excess of the best constant over the floor."""
    y = np.random.default_rng(0).poisson(1e4 * np.exp(0.3 * MANY[:, 0]))
    model = AddedNeuronRegressor(
        loss="poisson", solver="lbfgs", max_iter=15, random_state=0
    ).fit(MANY, y)
    assert model.floor_gap_ > 0.1
    assert model.status_ != "certified_global"


@pytest.mark.parametrize("scale", [1e-100, 1e-3, 1.0, 1e9, 1e100])
def test_certificates_are_relative(scale):
    """At any scale, a constant network is not certified, an interpolating one is."""
    bad = regressor(hidden_layer_sizes=(), activation="identity", alpha=1e6)
    assert bad.fit(X, scale * Y).status_ != "certified_global"
    good = AddedNeuronRegressor(
        (40,), solver="lbfgs", alpha=0, tol=1e-3, max_iter=2000, random_state=0
    )
    assert good.fit(X[:10], scale * Y[:10]).status_ == "certified_global"


@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
def test_running_out_of_epochs_warns(solver):
    model = regressor(solver=solver, max_iter=2, tol=0)
    words = "lbfgs failed" if solver == "lbfgs" else "Maximum iterations"
    with pytest.warns(ConvergenceWarning, match=words):
        model.fit(X, Y)
    assert model.status_ == "max_iter"


def test_partial_fit_does_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        regressor().partial_fit(X, Y)


def test_converged():
    """By the loss, or because all entries of the gradient are small."""
    model = AddedNeuronRegressor(
        (), alpha=1.0, tol=1e-4, max_iter=2000, early_stopping=False, random_state=0
    ).fit(X, Y)
    assert model.status_ == "converged"
    model = regressor(activation="tanh", solver="lbfgs", max_iter=5000, alpha=1.0)
    assert model.fit(X, Y).status_ == "converged"


# -- defaults ------------------------------------------------------------------------


def test_noisy_labels_are_not_learned_by_heart():
    data, y = make_classification(1000, 20, n_informative=5, flip_y=0.3, random_state=0)
    model = AddedNeuronClassifier(random_state=0).fit(data[:600], y[:600])
    assert log_loss(y[600:], model.predict_proba(data[600:])) < 0.65
    assert model.status_ == "early_stopped"


def test_automatic_early_stopping_needs_samples():
    """Ten distinct samples must be held out; copies do not count."""
    assert regressor().fit(X, Y).validation_scores_ is None
    copies = np.tile(X, (5, 1)), np.tile(Y, 5)
    assert regressor().fit(*copies).validation_scores_ is None
    assert regressor().fit(MANY, target(MANY)).validation_scores_ is not None
    for params in ({"solver": "lbfgs"}, {"n_starts": 2}, {"early_stopping": False}):
        model = regressor(**params).fit(MANY, target(MANY))
        assert model.validation_scores_ is None
        assert model.best_loss_ is not None


@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
@pytest.mark.parametrize("size", [1e-3, 1e3, 1e6, 1e20])
def test_counts_of_any_size(solver, size):
    y = size * np.exp(MANY[:, 0])
    model = AddedNeuronRegressor(
        (10,), loss="poisson", solver=solver, random_state=0, dtype="float32"
    ).fit(MANY, y)
    assert d2_tweedie_score(y, model.predict(MANY), power=1) > 0.5


# -- held-out samples ----------------------------------------------------------------


@pytest.mark.parametrize("scoring", ["loss", "r2", "neg_mean_absolute_error", None])
def test_validation_samples(scoring):
    """All of X is trained on, and the best network on the others is kept."""
    model = regressor(scoring=scoring, max_iter=40, learning_rate_init=0.05)
    y = target(MANY)
    model.fit(MANY, y, X_val=OTHER, y_val=target(OTHER))
    assert_allclose(model.loss_, mean_squared_error(y, model.predict(MANY)))
    if scoring == "loss":
        error = mean_squared_error(target(OTHER), model.predict(OTHER))
        expected = -error / y.var()
    else:
        expected = get_scorer(scoring or "r2")(model, OTHER, target(OTHER))
    assert_allclose(model.best_validation_score_, expected, rtol=1e-9)
    assert model.best_validation_score_ == max(model.validation_scores_)
    assert model.best_loss_ is None


def test_weights_of_validation_samples():
    """They equal repetition."""
    labels, own = (target(MANY) > 0).astype(int), (target(OTHER) > 0).astype(int)
    weight = RNG.integers(0, 3, 50)
    one = classifier().fit(
        MANY, labels, X_val=OTHER, y_val=own, sample_weight_val=weight
    )
    many = np.repeat(OTHER, weight, axis=0), np.repeat(own, weight)
    other = classifier().fit(MANY, labels, X_val=many[0], y_val=many[1])
    assert_allclose(one.predict_proba(OTHER), other.predict_proba(OTHER), rtol=1e-9)


@pytest.mark.parametrize(
    ("params", "given", "match"),
    [
        ({}, {"X_val": OTHER}, "y_val must be given with X_val, got None"),
        ({}, {"y_val": OTHER}, "X_val must be given with y_val, got None"),
        ({}, {"sample_weight_val": [1]}, "X_val must be given with sample_weight_val"),
        ({"early_stopping": False}, ..., "early_stopping must be True or 'auto' with"),
        ({"solver": "lbfgs"}, ..., "solver must be 'adam' or 'sgd' with X_val"),
        ({"n_starts": 2}, ..., "n_starts must be 1 with early stopping"),
        ({}, {"X_val": OTHER[:, :2], "y_val": OTHER[:, 0]}, "X has 2 features, but"),
        ({}, {"X_val": OTHER, "y_val": OTHER[:9, 0]}, "inconsistent numbers of samp"),
        ({}, {"groups": [1, 2]}, "inconsistent numbers of samples"),
    ],
)
def test_samples_that_do_not_fit(params, given, match):
    if given is ...:
        given = {"X_val": OTHER, "y_val": target(OTHER)}
    with pytest.raises(ValueError, match=match):
        regressor(**params).fit(MANY, target(MANY), **given)


def test_groups_stay_together():
    """No sample of a held-out group is trained on."""
    groups = np.repeat(np.arange(20), 10)[np.random.default_rng(1).permutation(200)]
    y = np.random.default_rng(2).normal(size=20)[groups]
    model = AddedNeuronRegressor(
        (50,), early_stopping=True, validation_fraction=0.2, random_state=0
    ).fit(MANY, y, groups=groups)
    errors = (model.predict(MANY) - y) ** 2
    of_group = np.array([errors[groups == k].sum() for k in range(20)])
    # The loss is the mean over sixteen groups of ten; find the four that lack.
    left = [
        abs((errors.sum() - of_group[list(four)].sum()) / 160 - model.loss_)
        for four in combinations(range(20), 4)
    ]
    assert min(left) < 1e-9


def test_a_class_of_one_sample():
    """Its sample is trained on, not held out."""
    y = np.r_[np.zeros(39, dtype=int), 1]
    model = classifier(early_stopping=True, max_iter=300).fit(X, y)
    assert model.predict_proba(X)[-1, 1] > 0.3


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("stops", [False, True])
def test_weights_equal_repetition_to_the_last_digit(stops, dtype):
    weight = WEIGHT.astype(int)
    order = np.random.default_rng(0).permutation(weight.sum())
    many = [np.repeat(part, weight, axis=0)[order] for part in (X, Y, LABELS)]
    for model, one, other in (
        (regressor(), Y, many[1]),
        (classifier(class_weight="balanced"), LABELS, many[2]),
    ):
        model.set_params(early_stopping=stops, dtype=dtype, max_iter=60)
        weighted = clone(model).fit(X, one, WEIGHT)
        repeated = clone(model).fit(many[0], other)
        assert_array_equal(weighted.coefs_[0], repeated.coefs_[0])


def test_arguments_are_routed():
    groups = np.repeat(np.arange(20), 10)
    with sklearn.config_context(enable_metadata_routing=True):
        network = regressor().set_fit_request(groups=True, X_val=True, y_val=True)
        model = make_pipeline(StandardScaler(), network, transform_input=["X_val"])
        model.fit(
            MANY, target(MANY), groups=groups, X_val=5 * OTHER, y_val=target(OTHER)
        )
        assert model[-1].validation_scores_ is not None
        network = regressor().set_fit_request(groups=True)
        scores = cross_validate(
            network, MANY, target(MANY), cv=GroupKFold(3), params={"groups": groups}
        )
    assert np.isfinite(scores["test_score"]).all()


def test_too_few_rows_to_hold_out():
    match = "validation_fraction must be > 0 with early_stopping=True, got 0"
    with pytest.raises(ValueError, match=match):
        regressor(early_stopping=True, validation_fraction=0).fit(X, Y)
    match = r"early_stopping must be False or 'auto' if .* got n_samples=1"
    with pytest.raises(ValueError, match=match):
        regressor(early_stopping=True).fit(X[:1], Y[:1])
    with pytest.raises(ValueError, match=match.replace("1", "2")):
        regressor(early_stopping=True).fit(X[[0, 0]], Y[:2])


@pytest.mark.filterwarnings("ignore:R.2 score is not well-defined")
def test_one_row_held_out():
    """R^2 is undefined for one sample: there is an error, or a trained network."""
    model = regressor(early_stopping=True, scoring=None, max_iter=50)
    start = regressor(max_iter=1, learning_rate_init=1e-12).fit(X[:10], Y[:10])
    message = ""
    try:
        model.fit(X[:10], Y[:10])
    except ValueError as error:
        message = str(error)
    if message:
        assert "validation_fraction" in message
    else:
        assert np.isfinite(model.best_validation_score_)
        assert model.loss_ < 0.9 * start.loss_


# -- classes and weights -------------------------------------------------------------


@pytest.mark.parametrize(
    "model",
    [classifier(), classifier(solver="lbfgs"), ResNetBasisClassifier(random_state=0)],
)
@pytest.mark.parametrize("y", [BINARY, LABELS], ids=["binary", "classes"])
def test_classes_without_weight_stay(model, y):
    classes = np.unique(y)
    if len(classes) == 2 and isinstance(model, ResNetBasisClassifier):
        pytest.skip("one class alone has no finite solution")
    weight = (y != classes[-1]).astype(float)
    model = clone(model).fit(X, y, weight)
    assert_array_equal(model.classes_, classes)
    assert model.predict_proba(X)[:, -1].max() < 1e-3
    assert accuracy_score(y, model.predict(X)) <= weight.mean()


@pytest.mark.parametrize("labels", [["a", 1, "b", 2], ["a", None, "b", "a"]])
def test_labels_of_mixed_types(labels):
    y = np.array(labels, dtype=object)
    with pytest.raises(TypeError, match="y must have labels of one type, strings or"):
        classifier().fit(X[:4], y)


# -- sizes ---------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1e160, 1e300])
def test_targets_whose_squares_overflow(size):
    match = r"y must have absolute values up to 1e\+150, .* Divide the targets"
    with pytest.raises(ValueError, match=match):
        regressor().fit(X, size * Y)


@pytest.mark.parametrize("size", [1e-300, 1e-160, 1e100, 1e145])
def test_targets_of_any_other_size(size):
    model = regressor(max_iter=300).fit(X, size * Y)
    expected = regressor(max_iter=300).fit(X, Y).predict(X)
    assert_allclose(model.predict(X) / size, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("alpha", [1e10, 1e308])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_penalty_of_any_size(alpha, dtype):
    model = regressor(alpha=alpha, dtype=dtype, max_iter=600).fit(X, Y)
    assert_allclose(model.predict(X), Y.mean(), atol=0.05)


def test_tags_of_counts():
    assert get_tags(regressor(loss="poisson")).target_tags.positive_only
    assert not get_tags(regressor()).target_tags.positive_only


@pytest.mark.parametrize("scoring", [len, lambda model, X, y: 1.0, nn.Linear(3, 1)])
def test_scorers_that_take_other_arguments(scoring):
    model = regressor(early_stopping=True, scoring=scoring)
    with pytest.raises(TypeError, match=r"scoring must be called as scorer\("):
        model.fit(X, Y)


@pytest.mark.parametrize("n_starts", [1, 3])
def test_epochs_that_overflow_are_no_part_of_the_curve(n_starts):
    model = regressor(learning_rate_init=1e308, n_starts=n_starts)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(X, Y)
    assert np.isfinite([*model.loss_curve_, model.best_loss_, model.loss_]).all()
    assert len(model.loss_curve_) < model.n_iter_


# -- divergence ----------------------------------------------------------------------


BATCH_NORM = nn.Sequential(
    nn.Linear(3, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 1)
)


@pytest.mark.parametrize(
    "params",
    [
        {"learning_rate_init": 1e10, "max_iter": 10},
        {"learning_rate_init": 1e10, "max_iter": 10, "early_stopping": True},
        {"learning_rate_init": 10.0, "early_stopping": False},
        {"learning_rate_init": 1e4, "module": BATCH_NORM, "max_iter": 10},
    ],
    ids=["finite", "held out", "slow", "module"],
)
def test_a_finite_loss_above_that_of_a_constant_has_diverged(params):
    """The initial network is kept, whose loss is near that of the mean."""
    model = regressor(**params)
    start = clone(model).set_params(learning_rate_init=1e-12, max_iter=1)
    with pytest.warns(ConvergenceWarning, match="Maximum iterations"):
        start.fit(X, Y)
    with pytest.warns(ConvergenceWarning, match="The loss diverged"):
        model.fit(X, Y)
    assert model.status_ == "stalled"
    # One epoch changes the statistics of batch norm.
    assert model.loss_ <= start.loss_ * (1.05 if "module" in params else 1 + 1e-6)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("rate", [3.0, 30.0])
def test_the_best_held_out_score_decides_whatever_the_loss(rate):
    """Large steps classify well, with a log loss far above that of the frequencies."""
    X, y = make_moons(400, noise=0.1, random_state=0)
    model = AddedNeuronClassifier(
        (20,), learning_rate_init=rate, early_stopping=True, random_state=0
    )
    model.set_params(scoring="accuracy", max_iter=30).fit(X, y)
    assert model.best_validation_score_ > 0.8
    assert model.score(X, y) > 0.8


@pytest.mark.parametrize("early_stopping", [True, False])
@pytest.mark.parametrize("max_iter", [1, 2, 200])
def test_noise_does_not_diverge(max_iter, early_stopping):
    """Networks on noise end near the best constant, which is no divergence."""
    for seed in range(5):
        rng = np.random.default_rng(seed)
        features, noise = rng.standard_normal((60, 3)), rng.standard_normal(60)
        for model, y in [(regressor(), noise), (classifier(), noise > 1)]:
            model.set_params(max_iter=max_iter, early_stopping=early_stopping)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                model.set_params(random_state=seed).fit(features, y)
            assert not any("diverged" in str(one.message) for one in caught)


def test_an_explosion_in_partial_fit_is_undone():
    """It is finite here; the initial network is kept."""
    model = regressor(learning_rate_init=1e10)
    with pytest.warns(ConvergenceWarning, match="The loss diverged"):
        model.partial_fit(X, Y)
    start = regressor(learning_rate_init=1e-12).partial_fit(X, Y)
    assert_allclose(model.predict(X), start.predict(X), rtol=1e-6)
