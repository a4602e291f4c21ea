"""`GradientBasisRefit`: bad data and parameters.

Each case has the right result, or an error with the expected value, the given value and
advice.
"""

import re

import numpy as np
import pytest
import torch
from sklearn.base import BaseEstimator, clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import KFold
from sklearn.neighbors import KNeighborsRegressor
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from sklearn_pgb import GradientBasisRefit
from sklearn_pgb._convex._solve import memory_text
from sklearn_pgb._estimator._resources import parse_memory

RNG = np.random.default_rng(0)
X = RNG.normal(size=(30, 3))
Y = np.sin(2 * X[:, 0]) + X[:, 1] + 0.1 * RNG.normal(size=30)
LABELS = np.array(["low", "mid", "top"])[np.digitize(Y, [-0.5, 0.5])]


def mlp(kind=MLPRegressor, **params):
    params = {"solver": "lbfgs", "max_iter": 15, "random_state": 0} | params
    return kind(**({"hidden_layer_sizes": (4,), "activation": "tanh"} | params))


def classifier(**params):
    return mlp(MLPClassifier, **params)


FROZEN = FrozenEstimator(mlp().fit(X, Y))
MODULE = nn.Linear(3, 1)


# -- networks ------------------------------------------------------------------------


class NoNetwork(BaseEstimator):
    def fit(self, X, y):
        return self


@pytest.mark.parametrize(
    "estimator",
    [
        KNeighborsRegressor(),
        NoNetwork(),
        make_pipeline(StandardScaler(), KNeighborsRegressor()),
        FrozenEstimator(KNeighborsRegressor().fit(X, Y)),
    ],
    ids=str,
)
def test_no_network(estimator):
    """The error comes before any training and names the accepted models."""
    match = "estimator must be a network of this package, an MLPRegressor, an MLP"
    with pytest.raises(TypeError, match=match):
        GradientBasisRefit(estimator).fit(X, Y)


@pytest.mark.parametrize("estimator", [None, "mlp", 3, MLPRegressor], ids=str)
def test_not_even_an_estimator(estimator):
    match = "estimator|positional"
    with pytest.raises((ValueError, TypeError), match=match):
        GradientBasisRefit(estimator).fit(X, Y)


def test_unfitted_frozen_network():
    for network in (mlp(), make_pipeline(StandardScaler(), mlp())):
        with pytest.raises(NotFittedError, match="is not fitted yet"):
            GradientBasisRefit(FrozenEstimator(network)).fit(X, Y)


class Unsupported(nn.Module):
    """A module that returns two tensors instead of raw outputs."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 1)

    def forward(self, X):
        return self.linear(X), X


class NoDerivative(Unsupported):
    def forward(self, X):
        return torch.tensor(self.linear(X).detach().numpy())


def test_module_without_a_raw_output():
    with pytest.raises(TypeError, match="module must return one tensor, got tuple"):
        GradientBasisRefit(Unsupported(), loss="squared_error", alpha=1).fit(X, Y)


def test_module_that_cannot_be_differentiated():
    match = "differentiable by its parameters, got NoDerivative, whose outputs have no"
    with pytest.raises(ValueError, match=match):
        GradientBasisRefit(NoDerivative(), loss="squared_error", alpha=1).fit(X, Y)


def test_unsupported_activation():
    """scikit-learn checks the activations of its networks."""
    with pytest.raises(ValueError, match="'activation' parameter of MLPRegressor"):
        GradientBasisRefit(mlp(activation="sine")).fit(X, Y)


def test_loss_of_a_module():
    match = "loss must be 'squared_error', 'poisson', 'huber' or 'log_loss' for a torch"
    with pytest.raises(ValueError, match=match):
        GradientBasisRefit(MODULE).fit(X, Y)
    with pytest.raises(ValueError, match=match):
        GradientBasisRefit(mlp(), loss="squared_error").fit(X, Y)


def test_outputs_of_a_module():
    with pytest.raises(ValueError, match="y must have 1 columns"):
        GradientBasisRefit(MODULE, loss="squared_error", alpha=1).fit(X, np.c_[Y, Y])
    for n_outputs in (1, 4, 2):
        module = nn.Linear(3, n_outputs)
        match = f"module must return 3 outputs, one per class .*, got {n_outputs}. "
        with pytest.raises(ValueError, match=match):
            GradientBasisRefit(module, loss="log_loss", alpha=1).fit(X, LABELS)


def test_features_of_a_module():
    with pytest.raises(ValueError, match="X must have 3 features"):
        GradientBasisRefit(MODULE, loss="squared_error", alpha=1).fit(X[:, :2], Y)


def test_labels_that_a_frozen_network_does_not_know():
    network = FrozenEstimator(classifier().fit(X, LABELS))
    with pytest.raises(ValueError, match="y must hold labels of the model"):
        GradientBasisRefit(network, alpha=1).fit(X, np.where(Y > 0, "low", "new"))


# -- requests ------------------------------------------------------------------------


@pytest.mark.parametrize("params", [{"n_models": 2}, {"cv": 3}])
@pytest.mark.parametrize("network", [FROZEN, MODULE], ids=["frozen", "module"])
def test_networks_that_are_taken_as_they_are(network, params):
    loss = "squared_error" if network is MODULE else "auto"
    match = "n_models must be 1 and cv 'auto' or None.*Pass the estimator unfrozen"
    with pytest.raises(ValueError, match=match):
        GradientBasisRefit(network, loss=loss, **params).fit(X, Y)


@pytest.mark.parametrize(
    "params",
    [
        {"alpha": -1.0},
        {"alpha": np.inf},
        {"alpha": np.nan},
        {"alpha": "best"},
        {"center": "mean"},
        {"n_models": 0},
        {"n_components": 0},
        {"solver": "cholesky"},
        {"tol": 0},
        {"max_iter": 0},
        {"cv": 1.5},
        {"class_weight": "heavy"},
        {"loss": "hinge"},
        {"max_memory": 0},
    ],
    ids=str,
)
def test_parameters_out_of_range(params):
    (name,) = params
    with pytest.raises(ValueError, match=f"The '{name}' parameter of GradientBasis"):
        GradientBasisRefit(mlp(), **params).fit(X, Y)


@pytest.mark.parametrize(
    "alpha",
    [[], [0.0, 1.0], [-1.0], [1.0, np.nan], [np.inf], [[1.0, 2.0]]],
    ids=str,
)
def test_candidates_for_alpha(alpha):
    with pytest.raises(ValueError, match="a number >= 0 or a 1-d array of positive"):
        GradientBasisRefit(mlp(), alpha=alpha).fit(X, Y)


@pytest.mark.parametrize(
    ("network", "y"), [(classifier(), LABELS), (mlp(loss="poisson"), np.exp(Y))]
)
def test_evidence_of_other_losses(network, y):
    with pytest.raises(ValueError, match="alpha='evidence' needs the squared loss"):
        GradientBasisRefit(network, alpha="evidence").fit(X, y)


def test_evidence_of_a_module():
    model = GradientBasisRefit(MODULE, loss="poisson", alpha="evidence")
    with pytest.raises(ValueError, match="alpha='evidence' needs the squared loss"):
        model.fit(X, np.exp(Y))
    model.set_params(loss="squared_error").fit(X, Y)


def test_class_weight_of_other_labels():
    """Labels that a trained network knows are not among these."""
    refit = GradientBasisRefit(classifier(), class_weight={"low": 2, "high": 3})
    match = r"be for classes \['low', 'mid', 'top'\], got \['high'\] too\. Remove"
    with pytest.raises(ValueError, match=match):
        refit.fit(X, LABELS)
    trained = FrozenEstimator(classifier().fit(X, LABELS))
    some = LABELS != "mid"
    weight = np.where(LABELS[some] == "low", 2.0, 1.0)
    refit = GradientBasisRefit(trained, alpha=1.0)
    expected = clone(refit).fit(X[some], LABELS[some], sample_weight=weight)
    refit.set_params(class_weight={"low": 2, "mid": 5}).fit(X[some], LABELS[some])
    np.testing.assert_allclose(refit.basis_coef_, expected.basis_coef_, rtol=1e-8)


def test_class_weight_of_a_regressor():
    match = "class_weight must be None for a regressor, got 'balanced'"
    with pytest.raises(ValueError, match=match):
        GradientBasisRefit(mlp(), class_weight="balanced").fit(X, Y)


@pytest.mark.parametrize(
    ("network", "y", "alpha"),
    [(mlp(), Y, "auto"), (mlp(), Y, 0), (classifier(), LABELS, 1e-2)],
)
def test_too_little_memory(network, y, alpha):
    match = r"max_memory must be at least (.*) for a basis of .* got 100 B. Raise "
    with pytest.raises(ValueError, match=match) as caught:
        GradientBasisRefit(network, alpha=alpha, max_memory=100).fit(X, y)
    enough = re.search(match, str(caught.value))[1]
    assert parse_memory(enough) > 100


@pytest.mark.parametrize("samples", [40, 1300])
@pytest.mark.parametrize("max_memory", [100, "15KB", "30KB"])
def test_named_memory_is_enough(samples, max_memory):
    """The least memory does not depend on the given one, and a fit succeeds with it.

    Of many samples, only some folds are scored.
    """
    X = np.random.default_rng(0).normal(size=(samples, 3))
    y = np.digitize(X[:, 0], [-0.5, 0.5])
    model = GradientBasisRefit(classifier(), alpha=[1.0], cv=5, max_memory=max_memory)
    given = memory_text(parse_memory(max_memory))
    match = rf"must be at least (.*) for a basis.*got {given}\."
    with pytest.raises(ValueError, match=match) as caught:
        model.fit(X, y)
    enough = re.search(match, str(caught.value))[1]
    model.set_params(max_memory=enough).fit(X, y)
    model.set_params(max_memory=0.98 * parse_memory(enough))
    with pytest.raises(ValueError, match=f"must be at least {enough} for a basis"):
        model.fit(X, y)


def test_unreadable_memory():
    with pytest.raises(ValueError, match="max_memory must be a positive number of"):
        GradientBasisRefit(mlp(), max_memory="lots").fit(X, Y)


def test_little_memory_is_enough():
    """The matrix-free solver needs a few vectors only and has the same result."""
    for network, y in ((FROZEN, Y), (classifier(), LABELS)):
        model = GradientBasisRefit(network, alpha=1e-2, tol=1e-12)
        expected = model.fit(X, y).basis_coef_
        model.set_params(max_memory="20KB").fit(X, y)
        np.testing.assert_allclose(model.basis_coef_, expected, rtol=1e-4, atol=1e-6)


def test_no_convergence():
    model = GradientBasisRefit(classifier(), alpha=1e-6, max_iter=1)
    with pytest.warns(ConvergenceWarning, match=r"after 1 of max_iter=1.*duality gap"):
        model.fit(X, LABELS)
    assert model.duality_gap_ > 1e-6


# -- weights -------------------------------------------------------------------------


def test_weights_that_are_all_zero():
    with pytest.raises(ValueError, match="weights must contain at least one non-zero"):
        GradientBasisRefit(mlp()).fit(X, Y, np.zeros(30))
    model = GradientBasisRefit(classifier(), class_weight=dict.fromkeys(LABELS, 0))
    with pytest.raises(
        ValueError, match="sample_weight and class_weight must give some sample"
    ):
        model.fit(X, LABELS)


def test_negative_and_infinite_weights():
    weight = np.ones(30)
    weight[3] = -1
    with pytest.raises(ValueError, match="Negative values in data passed to `sample_w"):
        GradientBasisRefit(mlp()).fit(X, Y, weight)
    weight[3] = np.nan
    with pytest.raises(ValueError, match="sample_weight contains NaN"):
        GradientBasisRefit(mlp()).fit(X, Y, weight)


def test_weights_leave_one_class():
    weight = (LABELS == "low").astype(float)
    with pytest.raises(ValueError, match="y must have at least 2 classes, got 1 class"):
        GradientBasisRefit(classifier()).fit(X, LABELS, weight)


class Unweighted(MLPRegressor):
    """A network whose `fit` takes no weights."""

    def fit(self, X, y):
        return super().fit(X, y)


def test_network_without_weights():
    network = Unweighted(hidden_layer_sizes=(3,), max_iter=5, solver="lbfgs")
    GradientBasisRefit(network).fit(X, Y)
    match = "fit takes no sample_weight, got weights for Unweighted.*FrozenEstimator"
    with pytest.raises(ValueError, match=match):
        GradientBasisRefit(network).fit(X, Y, np.ones(30))
    # As the message says.
    frozen = FrozenEstimator(network.fit(X, Y))
    GradientBasisRefit(frozen, alpha="loo").fit(X, Y, np.ones(30))


# -- data ----------------------------------------------------------------------------


@pytest.mark.parametrize("inner", [mlp(), make_pipeline(StandardScaler(), mlp())])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_infinity(inner, bad):
    broken = X.copy()
    broken[2, 1] = bad
    model = GradientBasisRefit(inner, alpha=1e-2)
    with pytest.raises(ValueError, match=r"NaN|infinity"):
        model.fit(broken, Y)
    target = Y.copy()
    target[2] = bad
    with pytest.raises(ValueError, match=r"NaN|infinity"):
        model.fit(X, target)
    model.fit(X, Y)
    with pytest.raises(ValueError, match=r"NaN|infinity"):
        model.predict(broken)


@pytest.mark.parametrize("inner", [mlp(), make_pipeline(StandardScaler(), mlp())])
def test_shapes(inner):
    model = GradientBasisRefit(inner, alpha=1e-2)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        model.fit(X, Y[:-1])
    with pytest.raises(ValueError, match="requires y to be passed"):
        model.fit(X, None)
    with pytest.raises(ValueError, match=r"sample_weight.shape == \(29,\), expected"):
        model.fit(X, Y, np.ones(29))
    model.fit(X, Y)
    with pytest.raises(ValueError, match=r"X has 2 features, but .* is expecting 3"):
        model.predict(X[:, :2])
    with pytest.raises(ValueError, match="Reshape your data"):
        model.predict(X[0])


@pytest.mark.parametrize("inner", [mlp(), make_pipeline(StandardScaler(), mlp())])
def test_strings_as_targets_of_a_regressor(inner):
    with pytest.raises(ValueError, match="y must be numeric for a regressor, got <U3"):
        GradientBasisRefit(inner).fit(X, LABELS)
    with pytest.raises(ValueError, match="could not convert string to float: '"):
        GradientBasisRefit(inner).fit(X, LABELS.astype(object))
    # Numbers in disguise are numbers.
    GradientBasisRefit(inner).fit(X, Y.astype(object))


@pytest.mark.parametrize("network", [classifier(), make_pipeline(classifier())])
def test_real_targets_of_a_classifier(network):
    with pytest.raises(ValueError, match="Unknown label type: continuous"):
        GradientBasisRefit(network).fit(X, Y)


def test_one_class():
    with pytest.raises(ValueError, match="y must have at least 2 classes, got 1 class"):
        GradientBasisRefit(classifier()).fit(X, np.full(30, "low"))


def test_a_class_that_a_fold_lacks():
    order = np.argsort(LABELS)
    match = "cv must leave every class in every training part.*Pass an int"
    with pytest.raises(ValueError, match=match):
        GradientBasisRefit(classifier(), cv=KFold(3)).fit(X[order], LABELS[order])
    GradientBasisRefit(classifier(), cv=3).fit(X[order], LABELS[order])


def test_a_class_with_one_row():
    """Its sample is trained on in every fold."""
    y = np.where(Y > 0, "yes", "no").astype(object)
    y[0] = "once"
    model = GradientBasisRefit(classifier(), random_state=0).fit(X, y)
    assert model.predict_proba(X).shape == (30, 3)


@pytest.mark.parametrize("alpha", ["auto", "evidence", 0, 1e-3])
@pytest.mark.parametrize("shape", [(30,), (30, 2)])
def test_constant_targets(shape, alpha):
    """The refit predicts the constant."""
    model = GradientBasisRefit(mlp(), alpha=alpha, distribution=bool(alpha))
    model.fit(X, np.full(shape, 7.0))
    np.testing.assert_allclose(model.predict(X), np.full(shape, 7.0), rtol=1e-6)
    if alpha != 0:
        std = model.predict(X, return_std=True)[1]
        assert (std < 1e-3).all()


@pytest.mark.parametrize("alpha", ["loo", "evidence", 0, 1e-3])
def test_duplicated_rows(alpha):
    """A row twice with two targets is one row with their mean."""
    index = np.repeat(np.arange(30), 2)
    jitter = np.tile([0.3, -0.3], 30)
    model = GradientBasisRefit(FROZEN, alpha=alpha).fit(X[index], Y[index] + jitter)
    assert np.isfinite(model.predict(X)).all()
    assert model.refit_loss_ >= 0.09 - 1e-9
    assert model.lower_bound_ >= 0.09 - 1e-9


@pytest.mark.parametrize("alpha", ["auto", "loo", 1e-3])
def test_one_distinct_row(alpha):
    """Every candidate predicts the mean, or the frequencies of the classes."""
    one = np.ones((6, 2))
    model = GradientBasisRefit(mlp(), alpha=alpha).fit(one, Y[:6])
    np.testing.assert_allclose(model.predict(one[:1]), Y[:6].mean(), rtol=1e-5)
    model = GradientBasisRefit(classifier(), alpha=alpha, tol=1e-10)
    model.fit(one, ["a", "b", "b", "c", "c", "c"])
    np.testing.assert_allclose(
        model.predict_proba(one[:1])[0], [1 / 6, 1 / 3, 1 / 2], rtol=1e-4
    )


def test_one_row_of_each_class():
    """Nothing can be held out, so all samples train and choose."""
    model = GradientBasisRefit(classifier()).fit(X[:3], ["a", "b", "c"])
    assert len(model.estimators_) == 1
    assert model.predict_proba(X).shape == (30, 3)
    with pytest.raises(ValueError, match="at least 2 distinct rows of one class"):
        model.set_params(cv=3).fit(X[:3], ["a", "b", "c"])


@pytest.mark.parametrize("alpha", ["auto", "evidence", 0, 1e-3])
def test_collinear_and_constant_columns(alpha):
    collinear = np.hstack([X, 2 * X[:, :1], X[:, 1:2] - X[:, 2:], np.ones((30, 1))])
    model = GradientBasisRefit(mlp(), alpha=alpha).fit(collinear, Y)
    assert np.isfinite(model.predict(collinear)).all()
    assert model.lower_bound_ <= model.refit_loss_ * (1 + 1e-9)
    if alpha == 0:
        assert model.refit_loss_ <= model.model_loss_ * (1 + 1e-9)


@pytest.mark.parametrize("alpha", ["auto", "loo", "evidence", [0.1, 1.0]], ids=str)
def test_one_row_has_nothing_left_out(alpha):
    match = r"alpha must be a number if n_samples=1, .* got one sample of positive wei"
    with pytest.raises(ValueError, match=match):
        GradientBasisRefit(mlp(), alpha=alpha).fit(X[:1], Y[:1])
    with pytest.raises(ValueError, match=match):
        GradientBasisRefit(mlp(), alpha=alpha).fit(X, Y, sample_weight=np.eye(30)[0])


@pytest.mark.parametrize("alpha", [0, 1e-3])
def test_one_row_and_a_number(alpha):
    model = GradientBasisRefit(mlp(), alpha=alpha).fit(X[:1], Y[:1])
    np.testing.assert_allclose(model.predict(X[:1]), Y[:1], rtol=1e-9)
    # Three units of weight are three rows: one can be left out.
    model.set_params(alpha="loo").fit(X[:1], Y[:1], [3.0])


def test_one_row_for_cross_fitting():
    with pytest.raises(ValueError, match="n_samples=1"):
        GradientBasisRefit(mlp(), cv=3).fit(X[:1], Y[:1])


@pytest.mark.parametrize("n_rows", [2, 3])
@pytest.mark.parametrize("alpha", ["auto", "evidence", 1e-3])
def test_few_rows(alpha, n_rows):
    model = GradientBasisRefit(mlp(), alpha=alpha).fit(X[:n_rows], Y[:n_rows])
    assert np.isfinite(model.predict(X)).all()


@pytest.mark.parametrize("network", [mlp, classifier])
def test_far_more_coefficients_than_rows(network):
    wide = RNG.normal(size=(12, 200))
    y = Y[:12] if network is mlp else np.where(Y[:12] > 0, 1, 0)
    model = GradientBasisRefit(network(), random_state=0).fit(wide, y)
    assert len(model.basis_coef_) > 50 * 12
    assert np.isfinite(model.predict(wide)).all()


@pytest.mark.parametrize("network", [mlp, classifier])
def test_far_more_rows_than_coefficients(network):
    tall = RNG.normal(size=(3000, 1))
    y = np.sin(2 * tall[:, 0])
    if network is classifier:
        y = y > 0
    model = GradientBasisRefit(network(hidden_layer_sizes=(2,)), random_state=0)
    assert model.fit(tall, y).score(tall, y) > 0.7


@pytest.mark.parametrize("network", [mlp, classifier])
@pytest.mark.parametrize("scale", [1e-8, 1e8, 1e100])
def test_scales_of_features(network, scale):
    """The refit is finite, and its bound holds."""
    y = Y if network is mlp else LABELS
    model = GradientBasisRefit(network(max_iter=5), alpha=1e-3).fit(scale * X, y)
    answer = model.predict if network is mlp else model.predict_proba
    assert np.isfinite(answer(scale * X)).all()
    assert np.isfinite(
        [model.refit_loss_, model.lower_bound_, model.duality_gap_]
    ).all()
    assert model.lower_bound_ <= model.refit_loss_ * (1 + 1e-9)


@pytest.mark.parametrize("scale", [1e-150, 1e-6, 1e6, 1e100])
def test_scales_of_targets(scale):
    """The refit of a frozen network scales with y."""
    model = GradientBasisRefit(FROZEN, alpha=1e-3)
    expected = model.fit(X, Y).predict(X)
    scaled = model.fit(X, scale * Y).predict(X) / scale
    np.testing.assert_allclose(scaled, expected, rtol=1e-7)


# -- state ---------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["predict", "transform", "score"])
def test_unfitted(method):
    model = GradientBasisRefit(mlp())
    args = (X, Y) if method == "score" else (X,)
    with pytest.raises(NotFittedError, match="not fitted"):
        getattr(model, method)(*args)
    for name in ("predict_proba", "predict_log_proba", "decision_function"):
        with pytest.raises(NotFittedError, match="not fitted"):
            getattr(GradientBasisRefit(classifier()), name)(X)
    with pytest.raises(NotFittedError, match="not fitted"):
        model.get_feature_names_out()


FAILURES = {
    "parameter": {"alpha": [-1.0]},
    "memory": {"max_memory": 100},
    "network": {"estimator": KNeighborsRegressor()},
    "folds": {"cv": [([0, 1], [])]},
}


@pytest.mark.parametrize("name", FAILURES)
def test_failed_fit_leaves_nothing_behind(name):
    model = GradientBasisRefit(mlp()).set_params(**FAILURES[name])
    before = dict(vars(model))
    with pytest.raises((ValueError, TypeError), match=r"alpha|max_memory|estimator|cv"):
        model.fit(X, Y)
    assert vars(model) == before
    with pytest.raises(NotFittedError, match="not fitted"):
        model.predict(X)


@pytest.mark.parametrize("name", FAILURES)
def test_failed_fit_keeps_what_was_fitted(name):
    """A fitted refit keeps its predictions and number of features."""
    model = GradientBasisRefit(mlp()).fit(X, Y)
    expected = model.predict(X)
    good = model.get_params(deep=False)
    model.set_params(**FAILURES[name])
    with pytest.raises((ValueError, TypeError), match=r"alpha|max_memory|estimator|cv"):
        model.fit(X[:, :2], Y)
    model.set_params(**good)
    assert model.n_features_in_ == 3
    np.testing.assert_array_equal(model.predict(X), expected)
    assert not hasattr(clone(model), "basis_coef_")


def test_targets_whose_squares_overflow_are_refused():
    X = np.random.default_rng(0).normal(size=(20, 2))
    with pytest.raises(ValueError, match="y must have absolute values up to 1e\\+150"):
        GradientBasisRefit(MLPRegressor((2,), max_iter=2)).fit(X, 1e160 * X[:, 0])


def test_ragged_rows_after_a_fit_of_a_pipeline():
    refit = GradientBasisRefit(make_pipeline(StandardScaler(), mlp()))
    X = np.random.default_rng(0).standard_normal((20, 2))
    with pytest.raises(ValueError, match="inhomogeneous") as caught:
        refit.fit(X, X[:, 0]).predict([[1.0, 2.0], [3.0]])
    assert "check_array" in [frame.name for frame in caught.traceback]


def test_derivatives_that_overflow_are_refused():
    X = 1e160 * np.random.default_rng(0).normal(size=(20, 2))
    network = MLPRegressor(hidden_layer_sizes=(2,), solver="lbfgs", max_iter=1).fit(
        X / 1e160, Y[:20]
    )
    with pytest.raises(ValueError, match="partial derivatives of the model must be"):
        GradientBasisRefit(FrozenEstimator(network)).fit(X, Y[:20])
