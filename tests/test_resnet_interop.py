"""ResNet-basis estimators in scikit-learn: bounds, data and certificates."""

import pickle
from functools import partial

import numpy as np
import pytest
import torch
from callback_cases import Callback
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_matrix
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.frozen import FrozenEstimator
from sklearn.kernel_approximation import Nystroem
from sklearn.linear_model import LogisticRegression, Ridge, RidgeCV
from sklearn.metrics import log_loss
from sklearn.model_selection import KFold, LeaveOneOut, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, PolynomialFeatures, StandardScaler
from torch import nn

from sklearn_pgb import (
    GradientBasisRefit,
    LayerBasis,
    ResNetBasisClassifier,
    ResNetBasisRegressor,
    certify,
)
from sklearn_pgb._convex._choice import OTHER_ALPHAS, SQUARED_LOSS_ALPHAS
from sklearn_pgb._derivatives import push_forward
from sklearn_pgb._models._open import open_network

FAST = {"hidden_layer_sizes": (6,), "max_iter": 8, "random_state": 0}


@pytest.fixture(scope="module")
def diabetes():
    X, y = load_diabetes(return_X_y=True)
    return X[:150] / X.std(0), y[:150]


def objective(model, X, y, weight=None):
    """The squared-loss objective of a fitted model, from its public attributes."""
    share = np.full(len(X), 1.0) if weight is None else weight
    error = (y - model.predict(X)).reshape(len(X), -1)
    value = share @ np.square(error).sum(1) / share.sum()
    penalty = np.square(model.coef_x_).sum()
    if model.residual_scale_:
        penalty += np.square(model.coef_z_).sum() / model.residual_scale_**2
    return value + 0.5 * model.alpha_ * penalty


def assert_promises(model):
    """The model is never worse than the basis, by certified bounds."""
    slack = 1e-9 * abs(model.basis_loss_) + 1e-15
    assert model.loss_ <= model.basis_lower_bound_ + slack
    assert model.basis_lower_bound_ <= model.basis_loss_ + slack
    assert model.lower_bound_ <= model.loss_ + slack
    assert model.loss_ - model.lower_bound_ <= 1e-8 * abs(model.loss_) + 1e-15
    assert_allclose(model.improvement_, model.basis_loss_ - model.loss_)


BASES = [
    None,
    StandardScaler(),
    make_pipeline(StandardScaler(), PolynomialFeatures(2)),
    make_pipeline(StandardScaler(), Nystroem(n_components=20, random_state=0)),
]


@pytest.mark.parametrize("solver", ["lbfgs", "adam"])
@pytest.mark.parametrize("cv", [None, 3])
@pytest.mark.parametrize("basis", BASES, ids=["None", "linear", "quadratic", "rbf"])
def test_never_worse_than_ridge(basis, cv, solver, diabetes):
    """The bounds hold, and the loss on the basis is that of Ridge."""
    X, y = diabetes
    weight = np.random.default_rng(0).uniform(0.1, 1, len(X))
    model = ResNetBasisRegressor(basis, cv=cv, solver=solver, **FAST)
    model.fit(X, y, weight)
    assert_promises(model)
    assert_allclose(objective(model, X, y, weight), model.loss_, rtol=1e-10)
    features = X if basis is None else model.basis_.transform(X)
    ridge = Ridge(model.alpha_ * weight.sum() / 2).fit(features, y, weight)
    error = np.square(y - ridge.predict(features))
    expected = weight @ error / weight.sum()
    expected += 0.5 * model.alpha_ * np.square(ridge.coef_).sum()
    assert_allclose(model.basis_loss_, expected, rtol=1e-9)
    if cv is None:
        assert model.improvement_ > 0.01 * model.basis_loss_


@pytest.mark.parametrize("solver", ["lbfgs", "adam"])
@pytest.mark.parametrize(
    ("loader", "loss"),
    [
        (load_iris, "log_loss"),
        (load_breast_cancer, "log_loss"),
        (load_iris, "smoothed_hinge"),
    ],
)
def test_never_worse_than_logistic_regression(loader, loss, solver):
    X, y = loader(return_X_y=True)
    model = ResNetBasisClassifier(
        StandardScaler(), alpha=0.01, cv=None, loss=loss, solver=solver, **FAST
    )
    model.fit(X, y)
    assert_promises(model)
    assert model.improvement_ > 0
    assert model.score(X, y) > 0.95
    if loss == "log_loss":
        logistic = LogisticRegression(
            C=1 / (0.01 * len(X)), solver="newton-cholesky", tol=1e-10
        )
        features = model.basis_.transform(X)
        p = logistic.fit(features, y).predict_proba(features)
        value = -np.log(p[np.arange(len(y)), y]).mean()
        value += 0.005 * np.square(logistic.coef_).sum()
        assert_allclose(model.basis_loss_, value, rtol=1e-8)


@pytest.mark.parametrize("loss", ["squared_error", "poisson"])
def test_without_a_ridge(loss, diabetes):
    """alpha = 0 has certified bounds too, by duality over the span."""
    X, y = diabetes
    model = ResNetBasisRegressor(alpha=0.0, cv=None, loss=loss, **FAST).fit(X, y / 50)
    assert model.loss_ <= model.basis_lower_bound_ * (1 + 1e-9)
    assert model.improvement_ > 0
    assert_allclose(model.lower_bound_, model.loss_, rtol=1e-6)


def test_several_outputs(diabetes):
    X, y = diabetes
    Y = np.column_stack([y, X[:, 0] * X[:, 1], X[:, 2]])
    model = ResNetBasisRegressor(cv=None, **FAST).fit(X, Y)
    assert model.predict(X).shape == Y.shape
    assert model.coef_x_.shape == (3, 10)
    assert model.coef_z_.shape == (3, 6)
    assert_promises(model)
    assert_allclose(objective(model, X, Y), model.loss_, rtol=1e-10)


def test_several_labels(diabetes):
    X, y = diabetes
    Y = np.column_stack([y > 150, X[:, 0] > 0]).astype(int)
    model = ResNetBasisClassifier(cv=None, alpha=0.01, **FAST).fit(X, Y)
    assert model.predict(X).shape == Y.shape
    assert model.predict_proba(X).shape == Y.shape
    assert_promises(model)


@pytest.mark.parametrize("class_weight", [{0: 1, 1: 3}, "balanced"])
def test_class_weights_are_sample_weights(class_weight, diabetes):
    X, y = diabetes
    labels = (y > 200).astype(int)
    factor = np.array([1.0, 3.0])
    given = np.random.default_rng(0).uniform(0.1, 1, len(y))
    if class_weight == "balanced":
        factor = given.sum() / (2 * np.bincount(labels, given))
        assert factor[1] > 1.5 * factor[0]
    model = ResNetBasisClassifier(
        class_weight=class_weight, alpha=0.1, cv=None, **FAST
    ).fit(X, labels, given)
    assert_array_equal(given, np.random.default_rng(0).uniform(0.1, 1, len(y)))
    weighted = clone(model).set_params(class_weight=None)
    weighted.fit(X, labels, given * factor[labels])
    p = weighted.predict_proba(X)
    assert_allclose(model.predict_proba(X), p, rtol=1e-7)


@pytest.mark.parametrize("alpha", ["auto", "loo"])
def test_leave_one_out_of_the_squared_loss(alpha, diabetes):
    """Alpha is that of RidgeCV, which searches by leave-one-out."""
    X, y = diabetes
    X, y = X[:60], y[:60]
    model = ResNetBasisRegressor(alpha=alpha, cv=None, **FAST).fit(X, y)
    grid = X.var(0).sum() * SQUARED_LOSS_ALPHAS
    search = RidgeCV(grid * len(X) / 2).fit(X, y)
    assert_allclose(model.alpha_, 2 / len(X) * search.alpha_, rtol=1e-10)
    assert grid.min() < model.alpha_ < grid.max()
    assert_promises(model)


def test_leave_one_out_of_the_log_loss():
    """Newton steps choose an alpha that is good for refits without each sample, too."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((40, 3))
    y = (X[:, 0] + rng.standard_normal(40) > 0).astype(int)
    model = ResNetBasisClassifier(alpha="loo", cv=None, **FAST).fit(X, y)
    assert_promises(model)

    def left_out(alpha):
        logistic = LogisticRegression(C=1 / (alpha * len(X)), tol=1e-6)
        p = cross_val_predict(logistic, X, y, cv=LeaveOneOut(), method="predict_proba")
        return log_loss(y, p)

    least = min(left_out(a) for a in X.var(0).sum() * OTHER_ALPHAS[::2])
    assert left_out(model.alpha_) < 1.01 * least
    folds = clone(model).set_params(cv=4).fit(X, y)
    assert folds.alpha_ / model.alpha_ in (1, 4, 16)


@pytest.mark.parametrize("alpha", ["auto", 0.1])
def test_fewer_rows_than_features(alpha):
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((15, 40)), rng.standard_normal(15)
    model = ResNetBasisRegressor(alpha=alpha, cv=None, **FAST).fit(X, y)
    assert_promises(model)
    assert_allclose(objective(model, X, y), model.loss_, rtol=1e-9, atol=1e-12)
    ridge = Ridge(model.alpha_ * 15 / 2).fit(X, y)
    error = np.square(y - ridge.predict(X)).mean()
    error += 0.5 * model.alpha_ * np.square(ridge.coef_).sum()
    assert_allclose(model.basis_loss_, error, rtol=1e-9)
    classifier = ResNetBasisClassifier(alpha=alpha, cv=None, **FAST).fit(X, y > 0)
    assert_promises(classifier)
    assert classifier.score(X, y > 0) == 1


def test_cross_validation_may_choose_the_basis_alone():
    """On noisy linear data the units have no gain, and the model is Ridge."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((60, 3))
    y = X @ [1.0, 2.0, 3.0] + rng.standard_normal(60)
    model = ResNetBasisRegressor(alpha=0.1, **FAST | {"max_iter": 50}).fit(X, y)
    assert model.residual_scale_ == 0
    assert not model.coef_z_.any()
    assert model.loss_ == pytest.approx(model.basis_loss_, rel=1e-12)
    ridge = Ridge(0.1 * 60 / 2).fit(X, y)
    assert_allclose(model.predict(X), ridge.predict(X), rtol=1e-10)


def test_cross_validation_helps_where_there_is_something(seed):
    rng = np.random.default_rng(seed)
    X = rng.uniform(-2, 2, (400, 2))
    y = X[:, 0] + np.sin(3 * X[:, 1]) + 0.1 * rng.standard_normal(400)
    model = ResNetBasisRegressor(random_state=0).fit(X[:300], y[:300])
    ridge = Ridge().fit(X[:300], y[:300])
    assert model.score(X[300:], y[300:]) > 0.9 > ridge.score(X[300:], y[300:])
    splitter = KFold(3)
    assert ResNetBasisRegressor(cv=splitter, **FAST).fit(X, y).residual_scale_ > 0


# --- bases and inputs ---------------------------------------------------------------


def test_frozen_basis_is_not_fitted_again(diabetes):
    X, y = diabetes
    scaler = StandardScaler().fit(X + 5)
    model = ResNetBasisRegressor(FrozenEstimator(scaler), **FAST).fit(X, y)
    assert_allclose(model.basis_.mean_, scaler.mean_)


def test_sparse_inputs_and_features(diabetes):
    X, y = diabetes
    dense = ResNetBasisRegressor(cv=None, alpha=0.1, **FAST).fit(X, y).predict(X)
    sparse = ResNetBasisRegressor(cv=None, alpha=0.1, **FAST).fit(csr_matrix(X), y)
    assert_allclose(sparse.predict(csr_matrix(X)), dense)
    codes = np.floor(X[:, :2])
    model = ResNetBasisRegressor(OneHotEncoder(handle_unknown="ignore"), **FAST)
    assert_promises(model.fit(codes, y))


def test_words_go_through_the_basis(diabetes):
    """If X does not hold numbers, the units get the features of the basis."""
    pd = pytest.importorskip("pandas")
    X, y = diabetes
    frame = pd.DataFrame({"word": np.where(X[:, 1] > 0, "a", "b"), "x": X[:, 2]})
    basis = make_column_transformer(
        (OneHotEncoder(), ["word"]), remainder="passthrough"
    )
    model = ResNetBasisRegressor(basis, cv=None, **FAST).fit(frame, y)
    assert model.residual_input_ == "basis"
    assert list(model.feature_names_in_) == ["word", "x"]
    assert_promises(model)
    assert_allclose(objective(model, frame, y), model.loss_, rtol=1e-10)
    inputs = open_network(model).inputs(frame)
    assert inputs.shape == (len(frame), 3)


@pytest.mark.parametrize("solver", ["lbfgs", "adam"])
def test_module_of_any_shape(solver, diabetes):
    """A module gets X in its original shape; phi is flat."""
    X, y = diabetes[0][:, :8].reshape(-1, 1, 8), diabetes[1]
    module = nn.Sequential(nn.Conv1d(1, 2, 3), nn.Tanh(), nn.Dropout(0.1), nn.Flatten())
    model = ResNetBasisRegressor(
        module=module, cv=None, alpha=0.1, solver=solver, max_iter=5, random_state=0
    )
    model.fit(X, y)
    assert model.coef_x_.shape == (1, 8)
    assert_promises(model)
    assert_allclose(objective(model, X, y), model.loss_, rtol=1e-10)
    again = pickle.loads(pickle.dumps(model))
    assert_allclose(again.predict(X), model.predict(X))


# --- weights, openings, life --------------------------------------------------------


def test_residual_weights_are_the_model(diabetes):
    X, y = diabetes
    model = ResNetBasisRegressor(cv=None, alpha=0.1, **FAST).fit(X, y)
    weights = model.residual_weights()
    assert weights.mapping_exact
    assert weights.loss_increase == 0
    features = model.module_.features(torch.tensor(X)).detach().numpy()
    raw = (features[:, :10] + features[:, 10:] @ weights.V.T) @ weights.W.T
    assert_allclose(raw.ravel() + model.intercept_, model.predict(X))


def test_residual_weights_that_are_not_exact():
    """Duplicate columns of targets: R1 has rank one, R2 two."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((80, 3))
    Y = np.column_stack([X[:, 0], X[:, 0]]) + np.sin(2 * X[:, 1:])
    model = ResNetBasisRegressor(cv=None, alpha=1e-4, **FAST).fit(X, Y)
    # The ridge solution itself has full rank; what is exported is that of the arrays.
    model.coef_x_[1] = model.coef_x_[0]
    weights = model.residual_weights()
    assert not weights.mapping_exact
    assert weights.delta > 0
    assert_allclose(weights.W @ weights.V, model.coef_z_, atol=1e-10)


def weighted_case(diabetes, n_targets):
    X, y = diabetes
    X = X[:, :4]
    Y = np.column_stack([y / 50, X[:, 0] * X[:, 1], X[:, 2]])[:, :n_targets]
    return X, Y, np.random.default_rng(0).uniform(0.1, 1, len(X))


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("n_targets", [1, 2])
def test_closed_form_of_the_estimator(n_targets, intercept, diabetes):
    """A fit without penalty attains it, one with a penalty does not."""
    X, Y, weight = weighted_case(diabetes, n_targets)
    model = ResNetBasisRegressor(
        StandardScaler(), alpha=0.0, cv=None, fit_intercept=intercept, **FAST
    )
    y = Y.ravel() if n_targets == 1 else Y
    form = model.fit(X, y, weight).closed_form(X, y, weight)
    assert_allclose(form.loss, model.loss_, rtol=1e-9)
    assert_allclose(form.basis_loss, model.basis_loss_, rtol=1e-9)
    model.set_params(alpha=0.1).fit(X, y, weight)
    assert model.closed_form(X, y, weight).loss < model.loss_
    with pytest.raises(ValueError, match="loss must be 'squared_error' for the closed"):
        model.set_params(loss="poisson").fit(X, np.abs(y)).closed_form(X, y)


@pytest.mark.parametrize("alpha", [0.0, 0.1])
def test_stationarity_of_the_estimator(alpha, diabetes):
    """Gradients equal autograd's; the residuals are those of the penalty."""
    X, Y, weight = weighted_case(diabetes, 2)
    model = ResNetBasisRegressor(alpha=alpha, cv=None, **FAST).fit(X, Y, weight)
    found = model.stationarity(X, Y, weight)
    weights = model.residual_weights()
    W = torch.tensor(weights.W, requires_grad=True)
    V = torch.tensor(weights.V, requires_grad=True)
    features = model.module_.features(torch.tensor(X)).detach()
    raw = (features[:, :4] + features[:, 4:] @ V.T) @ W.T
    error = (raw + torch.tensor(model.intercept_ - Y)).square().sum(1)
    (torch.tensor(weight / weight.sum()) @ error).backward()
    assert_allclose(found.W_gradient, W.grad, atol=1e-9)
    assert_allclose(found.V_gradient, V.grad, atol=1e-9)
    assert_allclose(found.x_residual, -alpha * model.coef_x_.T, atol=1e-8)
    scaled = model.coef_z_.T / model.residual_scale_**2
    assert_allclose(found.z_residual, -alpha * scaled, atol=1e-8)
    bound = found.gap_bound(weights.W, weights.V, model.coef_x_, model.coef_z_)
    assert bound == pytest.approx(0, abs=1e-9)


def test_stationarity_of_labels():
    """Names of classes, a basis and class weights."""
    X, y = load_iris(return_X_y=True)
    names = np.array(["a", "b", "c"])[y]
    model = ResNetBasisClassifier(
        StandardScaler(), alpha=0.1, cv=None, class_weight="balanced", **FAST
    )
    model.fit(X[:, :2], names)
    found = model.stationarity(X[:, :2], names)
    assert_allclose(found.x_residual, -0.1 * model.coef_x_.T, atol=1e-8)
    # Two features: a third output is free, and a single one is not enough.
    model.fit(X[:, :1], names)
    with pytest.raises(ValueError, match="n_outputs must be <= n_features"):
        model.stationarity(X[:, :1], names)


def test_more_outputs_than_features_keep_the_guarantee():
    """dy > dx: there are no weights (W, V), but the bounds hold."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((60, 1))
    Y = np.column_stack([X[:, 0], np.sin(3 * X[:, 0]), np.cos(3 * X[:, 0])])
    model = ResNetBasisRegressor(cv=None, alpha=1e-3, **FAST).fit(X, Y)
    assert_promises(model)
    with pytest.raises(ValueError, match=r"predictions and bounds are valid without"):
        model.residual_weights()


@pytest.mark.parametrize(("n_units", "alpha"), [(6, 0.01), (6, 0.0), (82, 0.01)])
def test_softmax_needs_one_feature_less(n_units, alpha):
    """With the cross entropy, three classes on two features have exact weights."""
    X, y = load_iris(return_X_y=True)
    model = ResNetBasisClassifier(
        StandardScaler(), n_units, alpha=alpha, cv=None, max_iter=3, random_state=0
    )
    model.fit(X[:, :2], y)
    largest = np.abs(model.coef_z_).max()
    assert_allclose(model.coef_x_.sum(0), 0, atol=1e-12 * np.abs(model.coef_x_).max())
    assert_allclose(model.coef_z_.sum(0), 0, atol=1e-12 * largest)
    weights = model.residual_weights()
    assert weights.mapping_exact
    assert_allclose(weights.W @ weights.V, model.coef_z_, atol=1e-9 * largest)


def test_softmax_weights_get_no_warning():
    """The null direction of three classes does not count as singular."""
    X, y = load_iris(return_X_y=True)
    model = ResNetBasisClassifier(alpha=0.01, cv=None, **FAST).fit(X, y)
    assert model.residual_weights().mapping_exact


@pytest.mark.parametrize("basis", [None, BASES[2]], ids=["None", "quadratic"])
def test_opened_network_is_the_model(basis, diabetes):
    X, y = diabetes
    model = ResNetBasisRegressor(basis, cv=None, alpha=0.1, **FAST).fit(X, y)
    for estimator, data in [(model, X), (make_pipeline(model), X)]:
        opened = open_network(estimator)
        inputs = opened.inputs(data)
        raw = opened.network(opened.network.theta, inputs)
        assert_allclose(raw.numpy().ravel(), model.predict(X))
        head = opened.network.find_head(inputs)
        assert_allclose(opened.network.theta[head.bias], model.centered_intercept_)
        _, push = push_forward(partial(opened.network, X=inputs), opened.network.theta)
        assert_allclose(push(head.span_coef), raw)


def test_refit_contains_the_model(diabetes):
    """GradientBasisRefit opens it, and without penalty does not increase the loss."""
    X, y = diabetes
    network = ResNetBasisRegressor(cv=None, alpha=0.1, **FAST)
    refit = GradientBasisRefit(network, alpha=1e-6, center="average").fit(X, y)
    assert refit.refit_loss_ <= refit.model_loss_
    classifier = ResNetBasisClassifier(BASES[2], cv=None, alpha=0.1, **FAST)
    labels = (y > 150).astype(int)
    refit = GradientBasisRefit(classifier, alpha=1e-3).fit(X, labels)
    assert refit.score(X, labels) > 0.7


def test_layer_basis(diabetes):
    X, y = diabetes
    model = ResNetBasisRegressor(StandardScaler(), cv=None, alpha=0.1, **FAST).fit(X, y)
    basis = LayerBasis(FrozenEstimator(model)).fit(X, y)
    operator = basis.operator(X, 1)
    coef = torch.tensor(np.hstack([model.coef_x_, model.coef_z_])).ravel()
    assert_allclose(
        operator.matvec(coef).numpy().ravel() + model.intercept_, model.predict(X)
    )
    assert basis.intercept


def test_pickle_holds_arrays_only(diabetes):
    X, y = diabetes
    model = ResNetBasisClassifier(**FAST).fit(X, y > 150)
    again = pickle.loads(pickle.dumps(model))
    assert_allclose(again.predict_proba(X), model.predict_proba(X))
    assert not any(torch.is_tensor(value) for value in vars(model).values())


def test_same_seed_same_model(diabetes):
    X, y = diabetes
    first = ResNetBasisRegressor(**FAST).fit(X, y)
    assert_allclose(clone(first).fit(X, y).predict(X), first.predict(X), rtol=0)


OTHERS = {
    "basis": None,
    "activation": "tanh",
    "fit_intercept": False,
    "weight_decay": 1.0,
    "cv": 5,
    "module": nn.Linear(3, 3),
}


@pytest.mark.parametrize(
    ("kind", "loss", "other"),
    [
        (ResNetBasisRegressor, "squared_error", "poisson"),
        (ResNetBasisRegressor, "poisson", "squared_error"),
        (ResNetBasisClassifier, "log_loss", "smoothed_hinge"),
    ],
)
def test_parameters_after_fit_change_nothing(kind, loss, other, diabetes):
    """They change neither predictions nor the opened network, only the next fit."""
    X, y = diabetes
    y = (y > 150).astype(int) if kind is ResNetBasisClassifier else y / 50
    method = "predict_proba" if kind is ResNetBasisClassifier else "predict"
    model = kind(PolynomialFeatures(2), loss=loss, cv=None, alpha=0.1, **FAST)
    expected = getattr(model.fit(X[:, :3], y), method)(X[:, :3])
    terms = certify(model, X[:, :3], y).gradient_norm
    model.set_params(loss=other, **OTHERS)
    assert_allclose(getattr(model, method)(X[:, :3]), expected, rtol=0)
    assert certify(model, X[:, :3], y).gradient_norm == terms
    model.set_params(module=None, loss=loss).fit(X[:, :3], y)
    assert model.coef_x_.shape == (1, 3)
    assert_allclose(model.intercept_, 0)


def test_refit_without_a_module(diabetes):
    """The units of the previous fit are deleted."""
    X, y = diabetes
    module = nn.Sequential(nn.Linear(10, 4), nn.Tanh())
    model = ResNetBasisRegressor(module=module, cv=None, alpha=0.1, **FAST).fit(X, y)
    assert not hasattr(model, "coefs_")
    model.set_params(module=None).fit(X, y)
    assert not hasattr(model, "module_state_")
    model.set_params(module=module).fit(X, y)
    assert not hasattr(model, "coefs_")
    assert not hasattr(model, "n_layers_")


def test_training_in_single_precision(diabetes):
    X, y = diabetes
    model = ResNetBasisRegressor(solver="adam", dtype="float32", cv=None, **FAST)
    assert_promises(model.fit(X, y))


def test_callbacks_see_each_iteration(diabetes, capsys):
    class Count(Callback):
        seen = 0

        def on_fit_task_end(self, estimator, context, *, X=None, fitted_estimator=None):
            if context.max_subtasks == 0:
                self.seen += 1
                assert np.isfinite(fitted_estimator.predict(X)).all()
            return self.seen == 3

    X, y = diabetes
    model = ResNetBasisRegressor(cv=None, alpha=0.1, verbose=True, **FAST)
    count = Count()
    model.set_callbacks(count).fit(X, y)
    assert count.seen == 3
    assert model.n_iter_ == 3
    assert "Iteration 3, loss" in capsys.readouterr().out
