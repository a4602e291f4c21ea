"""Attributes and predictions of networks with added neurons, by other means."""

import inspect
from itertools import pairwise

import numpy as np
import pytest
import torch
from added_neuron_cases import (
    ACTIVATIONS,
    BINARY,
    CASES,
    COUNTS,
    INDICATORS,
    LABELS,
    WEIGHT,
    X,
    Y,
    classifier,
    fit,
    groups_of,
    logistic,
    poisson,
    raw_outputs,
    regressor,
    softmax,
    squared,
)
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import approx_fprime, minimize
from scipy.special import expit, logsumexp
from sklearn.base import clone, is_classifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import (
    accuracy_score,
    log_loss,
    mean_poisson_deviance,
    mean_squared_error,
    r2_score,
)
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.utils import compute_sample_weight

from sklearn_pgb import AddedNeuronClassifier, AddedNeuronRegressor

EXACT = {"rtol": 1e-10, "atol": 1e-12}


# -- predictions ---------------------------------------------------------------------


@pytest.mark.parametrize("hidden", [(), 4, (4,), (5, 3), np.array([3, 4])], ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_predictions_are_a_forward_pass(activation, hidden):
    model = regressor(activation=activation, hidden_layer_sizes=hidden, max_iter=3)
    model.fit(X, Y)
    widths = [3, *np.atleast_1d(hidden).astype(int), 1]
    assert [coef.shape for coef in model.coefs_] == list(pairwise(widths))
    assert_allclose(model.predict(X), raw_outputs(model, X)[:, 0], **EXACT)
    with torch.no_grad():
        module_output = model.module_(torch.tensor(X)).numpy()
    assert_allclose(module_output[:, 0], model.predict(X), **EXACT)


@pytest.mark.parametrize("name", CASES)
def test_predictions(name):
    """Predictions, labels, probabilities and decisions from the raw outputs."""
    model, y = fit(name), CASES[name][1]
    raw = raw_outputs(model, X)
    assert model.n_outputs_ == raw.shape[1]
    assert model.n_layers_ == 3
    assert model.predict(X).shape == y.shape
    if not is_classifier(model):
        expected = np.exp(raw) if name == "counts" else raw
        assert_allclose(model.predict(X).reshape(40, -1), expected, **EXACT)
        assert_allclose(model.score(X, y), r2_score(y, model.predict(X)), **EXACT)
        return
    flat = raw[:, 0] if y is BINARY else raw
    assert_allclose(model.decision_function(X), flat, **EXACT)
    if y is INDICATORS:
        expected, probability = (raw > 0).astype(int), expit(raw)
    elif y is BINARY:
        expected = np.where(flat > 0, "yes", "no")
        probability = np.column_stack([1 - expit(flat), expit(flat)])
    else:
        expected = np.unique(LABELS)[raw.argmax(1)]
        probability = np.exp(raw - logsumexp(raw, axis=1, keepdims=True))
    assert_array_equal(model.predict(X), expected)
    assert model.score(X, y) == accuracy_score(y, expected)
    assert_array_equal(model.classes_, np.unique(y) if y.ndim == 1 else range(3))
    if model.loss == "log_loss":
        assert_allclose(model.predict_proba(X), probability, **EXACT)
        assert_allclose(model.predict_log_proba(X), np.log(probability), rtol=1e-9)


def test_counts_are_predicted_positive():
    assert (fit("counts", max_iter=50).predict(100 * X) > 0).all()


def test_hinge_offers_no_probabilities():
    for name in ("hinge", "hinge classes", "hinge labels"):
        model = fit(name)
        assert not hasattr(model, "predict_proba")
        assert not hasattr(model, "predict_log_proba")
        with pytest.raises(AttributeError, match="predict_proba"):
            _ = model.predict_proba
    assert hasattr(fit("binary"), "predict_proba")


def test_many_rows():
    """More than one block of rows."""
    model, many = fit("two targets"), np.tile(X, (250, 1))
    assert_allclose(model.predict(many), np.tile(model.predict(X), (250, 1)), **EXACT)


def test_certain_probabilities():
    """Log probabilities are computed from raw outputs and do not overflow."""
    for name in ("binary", "classes", "labels"):
        model = fit(name, max_iter=50)
        raw = raw_outputs(model, 1e4 * X)
        if name == "classes":
            expected = raw - logsumexp(raw, axis=1, keepdims=True)
        elif name == "binary":
            expected = -np.logaddexp(0, np.column_stack([raw, -raw]))
        else:
            expected = -np.logaddexp(0, -raw)
        probability = model.predict_log_proba(1e4 * X)
        assert_allclose(probability, expected, rtol=1e-9, atol=1e-12)


# -- losses, floors, neurons ---------------------------------------------------------


@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["plain", "weighted"])
@pytest.mark.parametrize("name", CASES)
def test_loss(name, weight):
    """It is the mean loss over all samples, without penalties."""
    model = fit(name, weight, alpha=1.0)
    _, _, columns, loss = CASES[name]
    expected = np.average(loss(columns, raw_outputs(model, X)), weights=weight)
    assert_allclose(model.loss_, expected, **EXACT)


@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["plain", "weighted"])
def test_loss_equals_scikit_learn(weight):
    """It equals scikit-learn's metrics."""
    model = fit("two targets", weight)
    error = mean_squared_error(
        CASES["two targets"][1],
        model.predict(X),
        sample_weight=weight,
        multioutput="raw_values",
    )
    assert_allclose(model.loss_, error.sum(), **EXACT)
    for name in ("binary", "classes"):
        model = fit(name, weight)
        metric = log_loss(CASES[name][1], model.predict_proba(X), sample_weight=weight)
        assert_allclose(model.loss_, metric, **EXACT)
    model = fit("labels", weight)
    probability = model.predict_proba(X)
    metrics = [
        log_loss(INDICATORS[:, k], probability[:, k], sample_weight=weight)
        for k in range(3)
    ]
    assert_allclose(model.loss_, sum(metrics), **EXACT)
    model = fit("counts", weight)
    deviance = mean_poisson_deviance(COUNTS, model.predict(X), sample_weight=weight)
    at_best = COUNTS - COUNTS * np.log(np.where(COUNTS > 0, COUNTS, 1))
    best = np.average(at_best, weights=weight)
    assert_allclose(model.loss_, deviance / 2 + best, **EXACT)


@pytest.fixture(scope="module")
def repeated():
    """Samples of which most have a copy with another target, one has several."""
    rows = np.r_[np.arange(14), np.arange(8), [0, 0]]
    X_repeated = X[rows].copy()
    X_repeated[X_repeated == X[3, 1]] = -0.0
    X_repeated[3, 1] = 0.0
    return X_repeated, np.arange(24), WEIGHT[:24]


def refit_on(name, repeated, **params):
    X, rows, weight = repeated
    model, y, columns, loss = CASES[name]
    model = clone(model).set_params(**params).fit(X, y[rows], weight)
    return model, columns[rows], loss


@pytest.mark.parametrize("name", CASES)
def test_floor(name, repeated):
    """Each group's least loss by BFGS, one group after the other."""
    model, columns, loss = refit_on(name, repeated)
    X, _, weight = repeated
    share, floor = weight / weight.sum(), 0.0
    assert len(groups_of(X)) == 14
    for group in groups_of(X):
        y, w = columns[group], share[group]

        def value(q, y=y, w=w):
            return w @ loss(y, np.tile(q, (len(y), 1)))

        floor += minimize(value, np.zeros(columns.shape[1])).fun
    # BFGS stops at finite outputs, where the infimum is not attained.
    assert_allclose(model.floor_, floor, rtol=1e-4, atol=1e-4)
    assert_allclose(model.floor_gap_, model.loss_ - model.floor_, **EXACT)
    assert model.floor_gap_ > 0
    # A class that is pure in some group needs an infinite output; so do counts of zero.
    means = [weight[group] @ columns[group] for group in groups_of(X)]
    pure = not np.all(means)
    assert model.floor_attained_ is not (loss in (poisson, logistic, softmax) and pure)


@pytest.mark.parametrize("name", CASES)
def test_residual(name, repeated):
    """The largest mean gradient of a group, by finite differences."""
    model, columns, loss = refit_on(name, repeated)
    X, _, weight = repeated
    raw, norms = raw_outputs(model, X), []
    for group in groups_of(X):
        share = weight[group] / weight[group].sum()

        def value(q, group=group, share=share):
            return share @ loss(columns[group], np.tile(q, (len(group), 1)))

        norms.append(np.linalg.norm(approx_fprime(raw[group[0]], value, 1e-7)))
    assert_allclose(model.residual_, max(norms), rtol=1e-4)


@pytest.mark.parametrize("neuron_penalty", [1e-3, 0.5])
@pytest.mark.parametrize("name", CASES)
def test_auxiliary_loss(name, neuron_penalty):
    """It equals the sum of its terms, and is below the loss if residuals remain."""
    model = fit(name, WEIGHT, neuron_penalty=neuron_penalty, max_iter=3)
    _, _, columns, loss = CASES[name]
    a, b, W = (model.neurons_[key] for key in "abW")
    assert a.shape == b.shape == (columns.shape[1],)
    assert W.shape == (columns.shape[1], 3)
    raw = raw_outputs(model, X) + a * np.exp(X @ W.T + b)
    value = np.average(loss(columns, raw), weights=WEIGHT)
    assert_allclose(model.auxiliary_loss_, value + neuron_penalty * a @ a, rtol=1e-9)
    assert model.auxiliary_loss_ < model.loss_
    assert len(model.neuron_norm_curve_) > 1


@pytest.mark.parametrize("name", ["regression", "classes"])
def test_norm_curve_ends_at_the_neurons(name):
    model = fit(name)
    norm = np.sqrt(sum((part**2).sum() for part in model.neurons_.values()))
    assert_allclose(model.neuron_norm_curve_[-1], norm, rtol=1e-9)


@pytest.mark.parametrize("y", [BINARY, LABELS, INDICATORS])
def test_one_hot_log_loss_has_no_local_minimum(y):
    """Distinct inputs: labels are only reached at infinity, smoothed ones are."""
    plain = classifier().fit(X, y)
    assert plain.floor_attained_ is False
    assert plain.floor_ == 0
    assert plain.status_ != "certified_global"
    smoothed = classifier(label_smoothing=0.1).fit(X, y)
    assert smoothed.floor_attained_ is True
    assert smoothed.floor_ > 0
    hinge = classifier(loss="smoothed_hinge").fit(X, y)
    assert hinge.floor_attained_ is True
    assert hinge.floor_ == 0


def test_floor_of_smoothed_labels():
    """The entropy of a smoothed label, at distinct inputs."""
    p = np.array([1 - 0.3 + 0.1, 0.1, 0.1])
    assert_allclose(fit("smoothed").floor_, -p @ np.log(p), rtol=1e-12)


# -- status --------------------------------------------------------------------------

CORNERS = np.array([[-1.0, -1], [-1, 1], [1, -1], [1, 1]])


@pytest.mark.parametrize("global_move", ["transplant", "restart"])
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_xor_is_certified(activation, global_move, seed):
    """Two hidden units are enough for some initial parameters."""
    model = AddedNeuronRegressor(
        (2,),
        activation=activation,
        n_starts=40,
        max_iter=300,
        alpha=0,
        global_move=global_move,
        random_state=seed,
    ).fit(CORNERS, [0, 1, 1, 0])
    assert model.status_ == "certified_global"
    assert model.loss_ <= 1e-12
    assert model.floor_ == 0
    assert model.residual_ <= 1e-5
    # No local minimum of the auxiliary objective has a neuron that is on.
    assert_allclose(model.neurons_["a"], 0, atol=1e-5)
    assert_allclose(model.auxiliary_loss_, model.loss_, atol=1e-12)


def test_xor_of_classes_is_certified(seed):
    """The floor is attained by the hinge and by smoothed labels."""
    for params in ({"loss": "smoothed_hinge"}, {"label_smoothing": 0.1}):
        model = AddedNeuronClassifier(
            (2,),
            activation="tanh",
            n_starts=40,
            max_iter=300,
            alpha=0,
            random_state=seed,
        ).set_params(**params)
        model.fit(CORNERS, [0, 1, 1, 0])
        assert model.status_ == "certified_global"
        assert model.floor_gap_ <= 1e-6
        assert model.score(CORNERS, [0, 1, 1, 0]) == 1


def test_interpolation_is_certified(seed):
    """A wide network and distinct inputs."""
    model = AddedNeuronRegressor(
        (60,),
        activation="tanh",
        alpha=0,
        max_iter=1000,
        random_state=seed,
        n_iter_no_change=1000,
    ).fit(X[:15], Y[:15])
    assert model.status_ == "certified_global"
    assert model.floor_ == 0
    assert_allclose(model.predict(X[:15]), Y[:15], atol=0.1)


def test_group_means_are_certified(seed):
    """With conflicting targets, the floor is their variance, and it is attained."""
    twice = np.repeat(X[:8], 2, axis=0)
    model = AddedNeuronRegressor(
        (60,),
        activation="tanh",
        alpha=0,
        max_iter=1000,
        random_state=seed,
        n_iter_no_change=1000,
    ).fit(twice, Y[:16])
    pairs = Y[:16].reshape(8, 2)
    assert_allclose(model.floor_, pairs.var(axis=1).mean(), rtol=1e-12)
    assert model.status_ == "certified_global"
    assert_allclose(model.predict(X[:8]), pairs.mean(axis=1), atol=0.1)
    short = clone(model).set_params(max_iter=5).fit(twice, Y[:16])
    assert short.floor_ == model.floor_
    assert short.status_ != "certified_global"
    assert short.floor_gap_ > 1e-2


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("max_iter", [1, 30, 300])
def test_status_says_what_happened(name, max_iter):
    model = fit(name, max_iter=max_iter, learning_rate="constant", tol=1e-3)
    _, _, columns, loss = CASES[name]
    scale = columns.var(0).mean() if loss is squared else 1.0
    if model.status_ == "certified_global":
        assert model.floor_gap_ <= 1e-3 * max(scale, model.loss_)
        return
    assert model.floor_gap_ > 1e-4
    if model.status_ == "max_iter":
        assert model.n_iter_ == max_iter
    else:
        assert model.status_ == "converged"
        assert model.n_iter_ < max_iter
    if model.monitor_status_ == "diverging":
        assert len(model.neuron_norm_curve_) > 10
        assert model.auxiliary_loss_ < model.loss_


def test_one_residual_makes_the_neuron_run_away():
    """Example 3 of the paper: f = 2 and y = 1; a vanishes while b grows."""
    module = torch.nn.Linear(1, 1)
    with torch.no_grad():
        module.weight.fill_(0.0)
        module.bias.fill_(2.0)
    model = AddedNeuronRegressor(
        module=module, learning_rate_init=1e-12, neuron_penalty=1.0, max_iter=1
    ).fit([[0.0]], [1.0])
    assert_allclose(model.loss_, 1, rtol=1e-9)
    assert model.monitor_status_ == "diverging"
    a, b = model.neurons_["a"][0], model.neurons_["b"][0]
    assert a < 0 < b
    # The infimum is zero, along a exp(b) = -1.
    assert_allclose(a * np.exp(b), -1, rtol=0.1)
    assert model.auxiliary_loss_ < 0.05


# -- weights -------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
@pytest.mark.parametrize("name", CASES)
def test_weights_equal_repetition(name, solver):
    """In batches too; samples of weight zero have no effect."""
    model, y, _, _ = CASES[name]
    weight = np.r_[0.0, 0.0, WEIGHT[2:]]
    model = clone(model).set_params(solver=solver, max_iter=5, alpha=0.1)
    rows = np.repeat(np.arange(40), weight.astype(int))
    weighted = clone(model).fit(X, y, weight)
    repeated = clone(model).fit(X[rows], y[rows])
    # The descent of the neurons, cut short, magnifies rounding.
    tolerances = {"loss_": 1e-5, "floor_": 1e-5, "residual_": 1e-5}
    for attribute, rtol in (tolerances | {"auxiliary_loss_": 1e-2}).items():
        one, other = getattr(weighted, attribute), getattr(repeated, attribute)
        assert_allclose(one, other, rtol=rtol, atol=1e-12)
    expected = raw_outputs(repeated, X)
    assert_allclose(raw_outputs(weighted, X), expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", ["binary", "classes", "hinge classes"])
def test_class_weights_are_sample_weights(name):
    y = CASES[name][1]
    heavy = {label: 1.0 + k for k, label in enumerate(np.unique(y))}
    total = {label: WEIGHT[y == label].sum() for label in heavy}
    balanced = {label: WEIGHT.sum() / len(total) / total[label] for label in total}
    for class_weight in (heavy, "balanced"):
        one = fit(name, WEIGHT, class_weight=class_weight)
        factor = heavy if class_weight is heavy else balanced
        other = fit(name, WEIGHT * [factor[label] for label in y])
        assert_allclose(one.loss_, other.loss_, **EXACT)
        assert_allclose(raw_outputs(one, X), raw_outputs(other, X), **EXACT)
        plain = fit(name, WEIGHT)
        assert np.abs(raw_outputs(one, X) - raw_outputs(plain, X)).max() > 1e-4


def test_balanced_classes_of_several_labels():
    one = fit("labels", class_weight="balanced")
    other = fit("labels", compute_sample_weight("balanced", INDICATORS))
    assert_allclose(one.loss_, other.loss_, **EXACT)


# -- the objective -------------------------------------------------------------------


@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["plain", "weighted"])
@pytest.mark.parametrize("alpha", [1e-2, 10.0])
def test_linear_regression(alpha, weight):
    """Without hidden layers the network is ridge regression."""
    model = regressor(hidden_layer_sizes=(), solver="lbfgs", max_iter=500, tol=1e-9)
    model.set_params(alpha=alpha, standardize=False).fit(X, 5 + 3 * Y, weight)
    ridge = Ridge(alpha / 2, tol=1e-12).fit(X, 5 + 3 * Y, weight)
    assert_allclose(model.coefs_[0][:, 0], ridge.coef_, rtol=1e-5)
    assert_allclose(model.intercepts_[0], ridge.intercept_, rtol=1e-5)


@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["plain", "weighted"])
@pytest.mark.parametrize("y", [BINARY, LABELS], ids=["binary", "classes"])
def test_logistic_regression(y, weight):
    """No hidden layer: LogisticRegression with C = 1 / alpha."""
    model = classifier(hidden_layer_sizes=(), solver="lbfgs", max_iter=500, tol=1e-9)
    model.set_params(alpha=0.5, standardize=False).fit(X, y, weight)
    other = LogisticRegression(C=2, tol=1e-9, max_iter=1000).fit(X, y, weight)
    assert_allclose(model.predict_proba(X), other.predict_proba(X), rtol=1e-4)


@pytest.mark.parametrize("name", ["binary", "hinge", "counts"])
def test_curve_is_the_objective(name):
    """Loss and weight decay, biases left out, as scikit-learn's networks have it."""
    model = fit(name, WEIGHT, solver="lbfgs", alpha=2.0, standardize=False)
    decay = sum((coef**2).sum() for coef in model.coefs_) / WEIGHT.sum()
    assert_allclose(model.loss_curve_[-1], model.loss_ + decay, **EXACT)
    assert model.best_loss_ == min(model.loss_curve_)
    assert len(model.loss_curve_) == model.n_iter_


@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
@pytest.mark.parametrize("name", CASES)
def test_solvers_lower_the_loss(name, solver):
    start = fit(name, solver=solver, max_iter=1, learning_rate_init=1e-9)
    model = fit(name, solver=solver, max_iter=30, batch_size=20)
    if solver == "lbfgs":
        assert model.loss_ < 0.95 * model.loss_curve_[0]
    else:
        assert model.loss_ < 0.95 * start.loss_


@pytest.mark.parametrize("task", ["regression", "classes"])
def test_lbfgs_reaches_what_scikit_learn_reaches(task):
    """The best of five starts on the same objective, within ten percent."""
    common = {"hidden_layer_sizes": (3,), "activation": "tanh", "solver": "lbfgs"}
    common |= {"max_iter": 1000, "max_fun": 10**5, "tol": 1e-6}
    if task == "regression":
        # Half the squared error is theirs, so half the decay is too.
        y = (Y - Y.mean()) / Y.std()
        ours = AddedNeuronRegressor(alpha=0.4, **common)
        theirs = MLPRegressor(alpha=0.2, **common)
    else:
        y = LABELS
        ours = AddedNeuronClassifier(alpha=0.2, **common)
        theirs = MLPClassifier(alpha=0.2, **common)
    best = []
    for model in (ours, theirs):
        values = []
        for seed in range(5):
            model.set_params(random_state=seed).fit(X, y)
            decay = ours.alpha / 80 * sum((coef**2).sum() for coef in model.coefs_)
            if task == "regression":
                loss = mean_squared_error(y, model.predict(X))
            else:
                loss = log_loss(y, model.predict_proba(X))
            values.append(loss + decay)
        best.append(min(values))
    assert best[0] <= 1.1 * best[1]


@pytest.mark.parametrize("scale", [1e-100, 1e-6, 1e6, 1e100])
def test_scales_of_targets(scale):
    """A regression does not depend on the units of its targets."""
    for solver in ("adam", "lbfgs"):
        model = regressor(solver=solver)
        expected = clone(model).fit(X, Y)
        scaled = model.fit(X, scale * Y)
        assert_allclose(scaled.predict(X) / scale, expected.predict(X), rtol=1e-6)
        assert_allclose(scaled.loss_ / scale**2, expected.loss_, rtol=1e-6)
        assert scaled.status_ == expected.status_


# -- scikit-learn's keywords ---------------------------------------------------------

PAIRS = pytest.mark.parametrize(
    ("ours", "theirs", "y"),
    [
        (AddedNeuronRegressor, MLPRegressor, Y),
        (AddedNeuronClassifier, MLPClassifier, LABELS),
    ],
    ids=["regressor", "classifier"],
)


@PAIRS
def test_keywords_of_scikit_learn(ours, theirs, y):
    """All parameters exist, and their defaults give the same shapes and state."""
    known = inspect.signature(ours).parameters
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(theirs).parameters.items()
    }
    assert set(defaults) - set(known) == set()
    given = defaults | {"max_iter": 10, "random_state": 0}
    model, other = ours(**given).fit(X, y), theirs(**given).fit(X, y)
    for one, two in zip(model.coefs_, other.coefs_, strict=True):
        assert one.shape == two.shape
    for name in ("n_iter_", "n_layers_", "n_outputs_", "n_features_in_"):
        assert getattr(model, name) == getattr(other, name)
    assert len(model.loss_curve_) == len(other.loss_curve_)
    assert model.validation_scores_ is other.validation_scores_ is None
    assert model.best_validation_score_ is other.best_validation_score_ is None


@PAIRS
@pytest.mark.parametrize("method", ["fit", "partial_fit", "predict", "score"])
def test_arguments_of_scikit_learn(method, ours, theirs, y):
    """Positional arguments have the order of scikit-learn."""
    mine, yours = (
        list(inspect.signature(getattr(cls, method)).parameters)
        for cls in (ours, theirs)
    )
    assert mine[: len(yours)] == yours


@PAIRS
def test_partial_fit_is_only_available_if_it_works(ours, theirs, y):
    """`hasattr` shows it, as for MLPClassifier."""
    assert not hasattr(theirs(solver="lbfgs"), "partial_fit") or theirs is MLPRegressor
    for solver in ("adam", "sgd", "lbfgs"):
        assert hasattr(ours(solver=solver), "partial_fit") is (solver != "lbfgs")
