"""Networks with added neurons: bad data and parameters.

Each case has the right result, or an error with the expected value, the given value and
advice.
"""

import warnings

import numpy as np
import pytest
import torch
from added_neuron_cases import (
    BINARY,
    CASES,
    COUNTS,
    INDICATORS,
    LABELS,
    X,
    Y,
    classifier,
    raw_outputs,
    regressor,
)
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.frozen import FrozenEstimator
from torch import nn

from sklearn_pgb import AddedNeuronClassifier, AddedNeuronRegressor, GradientBasisRefit
from sklearn_pgb._models._open import open_network

BOTH = pytest.mark.parametrize(
    ("model", "y"), [(regressor(), Y), (classifier(), LABELS)], ids=["real", "labels"]
)


pytestmark = pytest.mark.usefixtures("torch_seed")


# -- requests ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "params",
    [
        {"neuron_penalty": 0},
        {"alpha": -1e-3},
        {"max_iter": 0},
        {"learning_rate_init": 0},
        {"tol": -1},
        {"n_starts": 0},
        {"momentum": 1.5},
        {"validation_fraction": 1.0},
        {"beta_1": 1.0},
        {"loss": "hinge"},
    ],
    ids=str,
)
@BOTH
def test_parameters_out_of_range(model, y, params):
    (name,) = params
    match = f"The '{name}' parameter of AddedNeuron.* must be"
    with pytest.raises(ValueError, match=match):
        clone(model).set_params(**params).fit(X, y)


@BOTH
def test_every_parameter_is_checked(model, y):
    for name in model.get_params():
        with pytest.raises(ValueError, match=f"The '{name}' parameter of AddedNeuron"):
            clone(model).set_params(**{name: object()}).fit(X, y)


@pytest.mark.parametrize(
    "params",
    [
        {"label_smoothing": 1.0},
        {"label_smoothing": -0.1},
        {"hinge_power": 1.9},
        {"class_weight": "heavy"},
        {"loss": "squared_error"},
        {"loss": "poisson"},
    ],
    ids=str,
)
def test_parameters_of_a_classifier(params):
    (name,) = params
    with pytest.raises(ValueError, match=f"The '{name}' parameter of AddedNeuronClas"):
        classifier(**params).fit(X, LABELS)
    with pytest.raises(ValueError, match=f"The '{name}' parameter of AddedNeuronClas"):
        classifier(**params).partial_fit(X, LABELS, classes=np.unique(LABELS))


@pytest.mark.parametrize("loss", ["log_loss", "smoothed_hinge"])
def test_loss_that_does_not_fit_a_regressor(loss):
    match = "The 'loss' parameter of AddedNeuronRegressor must be a str among"
    with pytest.raises(ValueError, match=match):
        regressor(loss=loss).fit(X, Y)


@pytest.mark.parametrize("sizes", [(3, 0), (-1,), (2.5,), [[2]], ("a",)], ids=str)
def test_layers_that_are_no_layers(sizes):
    match = "hidden_layer_sizes must be integers > 0, one per hidden layer, got"
    with pytest.raises(ValueError, match=match):
        regressor(hidden_layer_sizes=sizes).fit(X, Y)


def test_negative_counts():
    match = "y must be >= 0 for the Poisson loss.*Use the squared loss"
    with pytest.raises(ValueError, match=match):
        regressor(loss="poisson").fit(X, Y)


@BOTH
def test_batches_larger_than_the_data(model, y):
    expected = clone(model).set_params(batch_size=40).fit(X, y)
    with pytest.warns(UserWarning, match=r"batch_size=41 is larger than n_samples=40"):
        model = clone(model).set_params(batch_size=41).fit(X, y)
    assert_array_equal(model.predict(X), expected.predict(X))


@pytest.mark.parametrize("params", [{"early_stopping": True}, {"solver": "lbfgs"}])
def test_starts_are_for_minibatches(params):
    match = r"n_starts must be 1 with early stopping or solver='lbfgs', got 2"
    with pytest.raises(ValueError, match=match):
        regressor(n_starts=2, **params).fit(X, Y)


def test_device_that_is_not_there():
    with pytest.raises((ValueError, RuntimeError), match="device"):
        regressor(device="abacus").fit(X, Y)
    if not torch.cuda.is_available():
        with pytest.raises((ValueError, RuntimeError), match=r"CUDA|cuda"):
            regressor(device="cuda").fit(X, Y)


# -- modules -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "y", "n_outputs", "wanted"),
    [
        (regressor(), Y, 2, "1 outputs, one per target"),
        (regressor(), np.c_[Y, Y], 1, "2 outputs, one per target"),
        (regressor(loss="poisson"), COUNTS, 3, "1 outputs, one per target"),
        (classifier(), LABELS, 1, "3 outputs, one per class"),
        (classifier(), BINARY, 3, "2 outputs, one per class"),
        (classifier(), INDICATORS, 2, "3 outputs, one per class"),
        (classifier(loss="smoothed_hinge"), LABELS, 4, "3 outputs, one per class"),
    ],
)
def test_module_whose_width_does_not_fit(model, y, n_outputs, wanted):
    match = f"module must return {wanted}.*, got {n_outputs}. Change its last layer"
    for module in (nn.Linear(3, n_outputs), lambda: nn.Linear(3, n_outputs)):
        with pytest.raises(ValueError, match=match):
            clone(model).set_params(module=module).fit(X, y)


def frozen():
    return nn.Linear(3, 1).requires_grad_(False)


class Two(nn.Module):
    """A module that returns two tensors instead of raw outputs."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 1)

    def forward(self, X):
        return self.linear(X), X


class Deep(Two):
    def forward(self, X):
        return self.linear(X)[:, :, None]


@pytest.mark.parametrize(
    ("module", "match"),
    [
        (nn.ReLU(), "module must have parameters, got ReLU without any"),
        (nn.Sequential, "module must have parameters, got Sequential without any"),
        (frozen, "module must have trainable parameters.*all of them frozen"),
        (lambda: nn.LazyLinear(1), "module must have initialized parameters.*lazy"),
        (Two, "module must return one tensor, got tuple"),
        (Deep, r"module must return raw outputs of shape \(n_samples, n_outputs\)"),
        (dict, "module must be a torch.nn.Module or a callable.* got dict"),
        (len, "module must be a torch.nn.Module or a callable.* got an error"),
        (nn.Linear(4, 1), r"module.*X|X.*module|features"),
    ],
)
def test_module_that_does_not_work(module, match):
    for act in ("fit", "partial_fit"):
        with pytest.raises((ValueError, TypeError), match=match):
            getattr(regressor(module=module), act)(X, Y)


# -- divergence ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "params",
    [
        {"solver": "sgd", "learning_rate_init": 1e4},
        {"solver": "sgd", "learning_rate_init": 1e300},
        {"solver": "sgd", "learning_rate_init": 30.0, "batch_size": 10},
        {"learning_rate_init": 1e200},
        {"solver": "sgd", "learning_rate_init": 1e4, "module": nn.Linear(3, 1)},
        {"solver": "sgd", "learning_rate_init": 1e4, "dtype": "float32"},
        {"solver": "sgd", "learning_rate_init": 1e4, "early_stopping": True},
        {"solver": "sgd", "learning_rate_init": 1e4, "learning_rate": "constant"},
    ],
    ids=str,
)
def test_learning_rate_that_diverges(params):
    """There is a warning, and the best parameters so far are kept."""
    model = regressor(activation="identity", max_iter=300, **params)
    start = clone(model).set_params(learning_rate_init=1e-12, max_iter=1).fit(X, Y)
    match = r"The loss diverged.*Lower learning_rate_init"
    with pytest.warns(ConvergenceWarning, match=match):
        model.fit(X, Y)
    assert np.isfinite(model.predict(X)).all()
    assert model.loss_ <= 1.001 * start.loss_
    assert model.status_ != "certified_global"


def test_learning_rate_that_diverges_in_a_search():
    """The search continues from the best network."""
    model = regressor(solver="sgd", learning_rate_init=1e4, n_starts=3).fit(X, Y)
    assert model.score(X, Y) > 0


def test_learning_rate_that_diverges_in_partial_fit():
    model = regressor(solver="sgd", learning_rate_init=1e200, activation="identity")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(5):
            model.partial_fit(X, Y)
    assert np.isfinite(model.predict(X)).all()
    assert any("Lower learning_rate_init" in str(one.message) for one in caught)


# -- weights -------------------------------------------------------------------------


@BOTH
def test_weights_that_are_all_zero(model, y):
    match = "weights must contain at least one non-zero"
    for act in ("fit", "partial_fit"):
        classes = {} if y is Y or act == "fit" else {"classes": np.unique(y)}
        with pytest.raises(ValueError, match=match):
            getattr(clone(model), act)(X, y, sample_weight=np.zeros(40), **classes)


def test_class_weights_that_are_all_zero():
    model = classifier(class_weight=dict.fromkeys(LABELS, 0))
    match = "sample_weight and class_weight must give some sample a positive weight"
    with pytest.raises(ValueError, match=match):
        model.fit(X, LABELS)


@BOTH
def test_weights_that_are_no_weights(model, y):
    weight = np.ones(40)
    weight[3] = -1
    with pytest.raises(ValueError, match="Negative values in data passed to `sample_w"):
        clone(model).fit(X, y, weight)
    weight[3] = np.nan
    with pytest.raises(ValueError, match="sample_weight contains NaN"):
        clone(model).fit(X, y, weight)
    with pytest.raises(ValueError, match=r"sample_weight.shape == \(39,\), expected"):
        clone(model).fit(X, y, np.ones(39))


def test_weights_leave_one_class():
    """The other classes are known and have tiny probabilities."""
    weight = (LABELS == "low").astype(float)
    model = classifier().fit(X, LABELS, weight)
    assert model.classes_.tolist() == ["low", "mid", "top"]
    assert model.predict_proba(X)[:, 1:].max() < 1e-3
    assert (model.predict(X) == "low").all()


# -- data ----------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@BOTH
def test_nan_and_infinity(model, y, bad):
    broken, target = X.copy(), Y.copy()
    broken[2, 1] = target[2] = bad
    with pytest.raises(ValueError, match=r"X contains (NaN|infinity)"):
        clone(model).fit(broken, y)
    with pytest.raises(ValueError, match=r"y contains (NaN|infinity)"):
        clone(model).fit(X, target)
    with pytest.raises(ValueError, match=r"X contains (NaN|infinity)"):
        clone(model).fit(X, y).predict(broken)


@BOTH
def test_shapes(model, y):
    model = clone(model)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        model.fit(X, y[:-1])
    with pytest.raises(ValueError, match="requires y to be passed"):
        model.fit(X, None)
    with pytest.raises(ValueError, match="Reshape your data"):
        model.fit(X[:, 0], y)
    with pytest.raises(ValueError, match=r"0 sample\(s\)"):
        model.fit(X[:0], y[:0])
    with pytest.raises(ValueError, match="dim 3"):
        model.fit(X[:, :, None], y)
    model.fit(X, y)
    with pytest.raises(ValueError, match=r"X has 2 features, but .* is expecting 3"):
        model.predict(X[:, :2])
    with pytest.raises(ValueError, match=r"X has 2 features, but .* is expecting 3"):
        model.partial_fit(X[:, :2], y)
    with pytest.raises(ValueError, match="Reshape your data"):
        model.predict(X[0])


@pytest.mark.parametrize("act", ["fit", "partial_fit"])
def test_strings_as_targets_of_a_regressor(act):
    for y in (LABELS, LABELS.astype(object)):
        with pytest.raises(ValueError, match=r"could not convert string|must be numer"):
            getattr(regressor(), act)(X, y)
    # Numbers in disguise are numbers.
    model = getattr(regressor(), act)(X, Y.astype(object))
    assert_array_equal(model.predict(X), getattr(regressor(), act)(X, Y).predict(X))


@pytest.mark.parametrize("act", ["fit", "partial_fit"])
def test_targets_that_are_no_labels(act):
    with pytest.raises(ValueError, match="Unknown label type: continuous"):
        getattr(classifier(), act)(X, Y)
    columns = np.c_[np.arange(40) % 3, np.arange(40) % 2]
    match = "y must be labels or 0/1 indicators of several labels.*MultiOutputClass"
    with pytest.raises(ValueError, match=match):
        getattr(classifier(), act)(X, columns)


def test_one_class():
    with pytest.raises(ValueError, match="y must have at least 2 classes, got 1 class"):
        classifier().fit(X, np.full(40, "low"))


@pytest.mark.parametrize("params", [{}, {"solver": "lbfgs"}, {"n_starts": 2}], ids=str)
@pytest.mark.parametrize("value", [0.0, 7.0, -1e6])
def test_constant_targets(value, params):
    """The network predicts the constant, whose loss is the floor."""
    model = regressor(max_iter=100, alpha=0, **params).fit(X, np.full(40, value))
    scale = max(1, abs(value))
    assert_allclose(model.predict(X) / scale, value / scale, atol=0.1)
    assert model.floor_ <= 1e-12 * scale
    if params:
        # A minibatch training ends where it stagnates, the others at a critical point.
        assert model.status_ == "certified_global"
        assert_allclose(model.predict(X) / scale, value / scale, atol=1e-2)
    two = regressor(max_iter=100, **params).fit(X, np.c_[Y, np.full(40, value)])
    assert_allclose(two.predict(X)[:, 1] / scale, value / scale, atol=0.5)


def test_constant_counts():
    for value, params in ((3.0, {}), (0.0, {"solver": "lbfgs"})):
        model = regressor(loss="poisson", max_iter=200, **params)
        model.fit(X, np.full(40, value))
        assert_allclose(model.predict(X), value, atol=0.1)
        # No finite output predicts zero counts.
        assert model.floor_attained_ is (value > 0)
    negative = classifier(max_iter=300).fit(X, np.c_[np.zeros(40, int), INDICATORS])
    assert (negative.predict(X)[:, 0] == 0).all()


def test_one_row():
    model = AddedNeuronRegressor(random_state=0).fit(X[:1], Y[:1])
    assert_allclose(model.predict(X[:1]), Y[:1], atol=0.02)
    assert model.floor_ == 0
    with pytest.raises(ValueError, match=r"y must have at least 2 classes, got 1 cl"):
        classifier().fit(X[:1], LABELS[:1])
    assert regressor().partial_fit(X[:1], Y[:1]).predict(X).shape == (40,)


def test_duplicated_collinear_and_constant_columns():
    columns = np.hstack([X, X[:, :1], 2 * X[:, :1] - X[:, 1:2], np.ones((40, 2))])
    for name in CASES:
        model = clone(CASES[name][0]).fit(columns, CASES[name][1])
        assert np.isfinite(raw_outputs(model, columns)).all()
        assert np.isfinite([model.loss_, model.auxiliary_loss_, model.residual_]).all()


# -- going on ------------------------------------------------------------------------


def test_partial_fit_without_classes():
    """As in scikit-learn, the first batch needs all classes."""
    with pytest.raises(ValueError, match="classes must be passed on the first call"):
        classifier().partial_fit(X, LABELS)
    model = classifier().partial_fit(X, LABELS, classes=["low", "mid", "top"])
    model.partial_fit(X, LABELS).partial_fit(X, LABELS, classes=["top", "mid", "low"])
    with pytest.raises(ValueError, match=r"is not the same as on last call|classes"):
        model.partial_fit(X, LABELS, classes=["low", "mid", "up"])


def test_labels_that_are_not_known():
    y = np.where(Y > 0, "low", "new")
    model = classifier().partial_fit(X, LABELS, classes=np.unique(LABELS))
    warm = classifier(warm_start=True).fit(X, LABELS)
    match = r"y must be labels among classes \['low', 'mid', 'top'\], got \['new'\]"
    with pytest.raises(ValueError, match=match):
        model.partial_fit(X, y)
    same = "warm_start can only be used where `y` has the same classes as in the prev"
    with pytest.raises(ValueError, match=same):
        warm.fit(X, y)
    with pytest.raises(ValueError, match=match):
        classifier().partial_fit(X, y, classes=np.unique(LABELS))


@pytest.mark.parametrize(
    "class_weight", [{"low": 2.0, "mid": 1.0}, "balanced"], ids=str
)
@pytest.mark.parametrize("missing", ["low", "mid", "top"])
def test_class_that_a_batch_lacks(missing, class_weight):
    rows = missing != LABELS
    for model in (classifier(), classifier(class_weight=class_weight)):
        for part in (rows, slice(None), rows):
            model.partial_fit(X[part], LABELS[part], classes=np.unique(LABELS))
        assert model.classes_.tolist() == ["low", "mid", "top"]
        assert model.predict_proba(X).shape == (40, 3)


def test_one_class_in_a_batch():
    model = classifier()
    for label in ("top", "low", "mid"):
        rows = label == LABELS
        model.partial_fit(X[rows], LABELS[rows], classes=["low", "mid", "top"])
    assert (
        classifier().partial_fit(X[:1], INDICATORS[:1], classes=[0, 1, 2]).n_outputs_
        == 3
    )


def test_targets_of_another_width():
    match = "y must have 1 targets, as in the fit that is continued, got 2"
    with pytest.raises(ValueError, match=match):
        regressor().partial_fit(X, Y).partial_fit(X, np.c_[Y, Y])
    with pytest.raises(ValueError, match=match):
        regressor(warm_start=True).fit(X, Y).fit(X, np.c_[Y, Y])
    match = r"y must have 3 columns of indicators.* got shape \(40, 2\)"
    with pytest.raises(ValueError, match=match):
        classifier(warm_start=True).fit(X, INDICATORS).fit(X, INDICATORS[:, :2])
    with pytest.raises(ValueError, match=r"y must have 3 columns.* got shape \(40,\)"):
        classifier(warm_start=True).fit(X, INDICATORS).fit(X, LABELS)


def test_network_of_another_shape():
    model = regressor(warm_start=True).fit(X, Y).set_params(hidden_layer_sizes=(4, 4))
    with pytest.raises(ValueError, match=r"hidden_layer_sizes.*Set warm_start=False"):
        model.fit(X, Y)
    model.set_params(warm_start=False).fit(X, Y)
    model = regressor(warm_start=True).fit(X, Y)
    with pytest.raises(ValueError, match=r"X has 2 features, but .* is expecting 3"):
        model.fit(X[:, :2], Y)
    model = regressor(warm_start=True, module=nn.Linear(3, 1)).fit(X, Y)
    layers = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    for module in (None, layers):
        with pytest.raises(ValueError, match=r"module.*Set warm_start=False"):
            model.set_params(module=module).fit(X, Y)


@BOTH
def test_partial_fit_that_needs_all_rows(model, y):
    model = clone(model).set_params(solver="lbfgs")
    with pytest.raises((AttributeError, ValueError), match=r"partial_fit|stochastic"):
        model.partial_fit(X, y)
    model.set_params(solver="adam", early_stopping=True)
    with pytest.raises(ValueError, match="early_stopping"):
        model.partial_fit(X, y)


# -- state ---------------------------------------------------------------------------


def test_unfitted():
    methods = "predict", "predict_proba", "predict_log_proba", "decision_function"
    for method in methods:
        with pytest.raises(NotFittedError, match="not fitted"):
            getattr(classifier(), method)(X)
    for model in (regressor(), regressor(module=nn.Linear(3, 1))):
        with pytest.raises(NotFittedError, match="not fitted"):
            model.score(X, Y)


@BOTH
def test_unfitted_network(model, y):
    with pytest.raises(NotFittedError, match="not fitted"):
        open_network(clone(model))
    with pytest.raises(NotFittedError, match="not fitted"):
        GradientBasisRefit(FrozenEstimator(clone(model))).fit(X, y)
    assert not hasattr(clone(model), "module_")


class Refuses(nn.Module):
    """A module that raises after some batches."""

    def __init__(self):
        super().__init__()
        self.linear, self.left = nn.Linear(3, 1), 5

    def forward(self, X):
        self.left -= 1
        if self.left < 0:
            raise ValueError("module is tired")
        return self.linear(X)


FAILURES = {
    "parameter": {"alpha": -1.0},
    "layers": {"hidden_layer_sizes": (0,)},
    "module": {"module": nn.Linear(3, 2)},
    "training": {"module": Refuses},
    "stopping": {"early_stopping": True, "validation_fraction": 0},
}


@pytest.mark.parametrize("name", FAILURES)
def test_failed_fit_leaves_nothing_behind(name):
    for act in ("fit", "partial_fit"):
        if act == "partial_fit" and name in ("stopping", "training"):
            continue
        model = regressor(**FAILURES[name])
        before = dict(vars(model))
        with pytest.raises(ValueError, match=r"alpha|hidden|module|validation"):
            getattr(model, act)(X, Y)
        assert vars(model) == before
        with pytest.raises(NotFittedError, match="not fitted"):
            model.predict(X)


@pytest.mark.parametrize("name", FAILURES)
def test_failed_fit_keeps_what_was_fitted(name):
    """A fitted network keeps its predictions and number of features."""
    model = regressor().partial_fit(X, Y).fit(X, Y)
    before, good = dict(vars(model)), model.get_params()
    match = r"alpha|hidden|module|validation|shapes"
    with pytest.raises((ValueError, RuntimeError), match=match):
        model.set_params(**FAILURES[name]).fit(X[:, :2], Y)
    model.set_params(**good)
    assert vars(model) == before
    assert model.n_features_in_ == 3
    assert_array_equal(model.predict(X), regressor().fit(X, Y).predict(X))


def test_errors_of_validation_targets_say_y_val():
    X = np.arange(40.0).reshape(20, 2)
    model = AddedNeuronRegressor((2,), max_iter=2)
    with pytest.raises(ValueError, match=r"^y_val must have 1 targets, as in y, got 2"):
        model.fit(X, X[:, 0], X_val=X, y_val=X)
    with pytest.raises(ValueError, match=r"^y_val must be numbers for a regressor"):
        model.fit(X, X[:, 0], X_val=X, y_val=["a"] * 20)
    labels = np.arange(20) % 2
    with pytest.raises(ValueError, match=r"^y_val must be labels among .* got .2. too"):
        AddedNeuronClassifier((2,)).fit(X, labels, X_val=X, y_val=labels + 1)


def test_texts_are_no_targets_of_a_regressor():
    with pytest.raises(ValueError, match=r"^y must be numbers for a regressor"):
        AddedNeuronRegressor((2,)).fit(np.eye(3), np.array(["a", "b", "c"], object))


def test_validation_samples_of_infinite_loss_are_refused():
    Z = np.random.default_rng(0).normal(size=(20, 2))
    model = AddedNeuronRegressor((4,), max_iter=2, random_state=0)
    with pytest.raises(ValueError, match=r"X_val, or .* must have a finite loss"):
        model.fit(Z, Z[:, 0], X_val=1e160 * Z, y_val=Z[:, 0])


def test_too_few_samples_to_hold_out():
    """Only classifiers have labels."""
    message = "if there are no two distinct samples or groups, got n_samples=1"
    with pytest.raises(ValueError, match=message):
        regressor(early_stopping=True).fit(X[:1], Y[:1])
    message = "if no label has two distinct samples or groups, got n_samples=2"
    rows = [0, np.flatnonzero(LABELS != LABELS[0])[0]]
    with pytest.raises(ValueError, match=message):
        classifier(early_stopping=True).fit(X[rows], LABELS[rows])
