"""`compare_bases` agrees with scikit-learn, least squares and the refit."""

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_iris
from sklearn.frozen import FrozenEstimator
from sklearn.kernel_approximation import Nystroem
from sklearn.linear_model import LogisticRegression, Ridge, RidgeCV
from sklearn.metrics import log_loss, make_scorer, max_error
from sklearn.model_selection import (
    KFold,
    PredefinedSplit,
    StratifiedKFold,
    cross_val_score,
)
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, PolynomialFeatures, scale
from sklearn.svm import SVC

from sklearn_pgb import (
    FeatureBasis,
    GradientBasis,
    GradientBasisRefit,
    InputBasis,
    LayerBasis,
    ResNetBasisRegressor,
    compare_bases,
)
from sklearn_pgb._compare._arguments import check_bases, check_scorer, resolve_loss
from sklearn_pgb._convex._choice import SQUARED_LOSS_ALPHAS

FOLDS = KFold(3, shuffle=True, random_state=0)


@pytest.fixture(scope="module")
def regression():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 3))
    return X, X[:, 0] + X[:, 1] * X[:, 2] + 0.1 * rng.normal(size=60)


@pytest.fixture(scope="module")
def labels():
    """Three classes that overlap, so that the log loss has a minimum."""
    X, y = load_iris(return_X_y=True)
    rng = np.random.default_rng(0)
    return scale(X[:, :2]) + 0.5 * rng.normal(size=(150, 2)), np.array(list("abc"))[y]


def network(kind=MLPRegressor, **params):
    params = {"solver": "lbfgs", "max_iter": 30, "random_state": 0} | params
    return kind(hidden_layer_sizes=(3,), activation="tanh", **params)


def quadratic(X):
    return PolynomialFeatures(2, include_bias=False).fit_transform(X)


def squares(features):
    """Mean squared row norm, in whose units `alpha` is given."""
    return np.square(features).sum(1).mean()


def compare(bases, X, y, **params):
    return compare_bases(bases, X, y, **{"cv": FOLDS, **params})


# --- training minima ------------------------------------------------------------------


@pytest.mark.parametrize("n_outputs", [1, 2])
def test_minimum_is_that_of_least_squares(regression, n_outputs):
    X, y = regression
    Y = np.column_stack([y, X[:, 0] ** 3])[:, :n_outputs]
    Y = Y.ravel() if n_outputs == 1 else Y
    basis = FeatureBasis(PolynomialFeatures(2, include_bias=False))
    (report,) = compare({"quadratic": basis}, X, Y).reports
    A = np.column_stack([quadratic(X), np.ones(len(X))])
    coef, _, rank, _ = np.linalg.lstsq(A, Y.reshape(len(X), -1))
    value = np.square(A @ coef - Y.reshape(len(X), -1)).sum(1).mean()
    assert_allclose(report.train_loss, value, rtol=1e-10)
    assert_allclose(report.lower_bound, value, rtol=1e-6)
    assert report.lower_bound <= value
    assert np.isfinite(report.norm_budget)
    assert report.rank == rank * n_outputs
    assert report.n_coef == 10 * n_outputs


def test_rank_of_collinear_columns(regression):
    X, y = regression
    (report,) = compare({"twice": InputBasis()}, np.hstack([X, X]), y).reports
    assert (report.rank, report.n_coef) == (4, 7)


@pytest.mark.parametrize("classes", ["ab", "abc"])
def test_minimum_is_that_of_logistic_regression(labels, classes):
    X, y = labels
    kept = np.isin(y, list(classes))
    X, y = X[kept], y[kept]
    (report,) = compare({"linear": InputBasis()}, X, y).reports
    model = LogisticRegression(C=np.inf, tol=1e-10, max_iter=10_000).fit(X, y)
    value = log_loss(y, model.predict_proba(X))
    assert_allclose(report.train_loss, value, rtol=1e-7)
    assert_allclose(report.lower_bound, value, rtol=1e-7)
    assert report.lower_bound <= value


def test_separable_data_have_an_infimum_of_zero():
    X, y = load_iris(return_X_y=True)
    (report,) = compare({"linear": InputBasis()}, X, y == 0).reports
    assert_allclose(report.lower_bound, 0, atol=1e-15)
    assert report.train_loss < 1e-8


def test_minimum_of_poisson_has_no_gradient(regression):
    """At the minimum the residuals are orthogonal to every column."""
    X, _ = regression
    y = np.random.default_rng(0).poisson(np.exp(0.5 * X[:, 0])).astype(float)
    (report,) = compare({"linear": InputBasis()}, X, y, loss="poisson").reports
    A = np.column_stack([X, np.ones(len(X))])
    coef = np.zeros(4)
    for _ in range(50):
        mean = np.exp(A @ coef)
        coef += np.linalg.solve((A * mean[:, None]).T @ A, A.T @ (y - mean))
    value = (np.exp(A @ coef) - y * (A @ coef)).mean()
    assert_allclose(report.train_loss, value, rtol=1e-9)
    assert_allclose(report.lower_bound, value, rtol=1e-7)


def test_floor_is_that_of_equal_rows(regression):
    """Rows of equal inputs have one prediction, at best the mean of their targets."""
    X, y = regression
    X, y = np.vstack([X, X[:20]]), np.r_[y, y[:20] + 1]
    comparison = compare({"linear": InputBasis()}, X, y)
    assert_allclose(comparison.floor, 20 * 2 * 0.5**2 / 80)
    assert comparison.reports[0].lower_bound >= comparison.floor


def test_floor_of_counts_may_be_negative(regression):
    """The table has the floor itself: the mean of y - y log(y) over single rows."""
    X, _ = regression
    y = np.random.default_rng(0).poisson(20.0, size=60)
    found = compare({"b": InputBasis()}, X, y, loss="poisson", alpha=0.1)
    assert_allclose(found.floor, np.mean(y - y * np.log(y)))
    assert f"at least {found.floor:.4g}" in str(found)


def test_floor_stands_beside_losses_that_are_not_known(labels):
    X, y = np.r_[labels[0], labels[0]], np.r_[labels[1], np.roll(labels[1], 50)]
    found = compare({"svc": SVC(), "b": InputBasis()}, X, y)
    assert found.floor > 0.1
    assert f"at least {found.floor:.4g}" in str(found)


def test_bounds_hold_where_nothing_fits_into_memory(regression):
    X, y = regression
    basis = FeatureBasis(PolynomialFeatures(4))
    bounded = compare({"b": basis}, X, y, alpha=0.1, max_memory="40KB")["b"]
    free = compare({"b": basis}, X, y, alpha=0.1)["b"]
    assert bounded.rank is None
    assert bounded.lower_bound <= free.lower_bound
    assert_allclose(bounded.train_loss, free.train_loss, rtol=1e-6)


# --- held-out scores ------------------------------------------------------------------


def ridge_score(X, y, alpha, train, test):
    a = alpha * squares(X[train]) * len(train) / 2
    return Ridge(a).fit(X[train], y[train]).score(X[test], y[test])


def test_scores_are_those_of_ridge(regression):
    X, y = regression
    basis = FeatureBasis(PolynomialFeatures(2, include_bias=False))
    (report,) = compare({"quadratic": basis}, X, y, alpha=0.03).reports
    expected = [ridge_score(quadratic(X), y, 0.03, *part) for part in FOLDS.split(X)]
    assert_allclose(report.scores, expected, rtol=1e-9)
    assert report.alpha == 0.03


def test_alpha_is_that_of_leave_one_out(regression):
    X, y = regression
    report = compare({"linear": InputBasis()}, X, y)["linear"]
    size = squares(X)
    alphas = SQUARED_LOSS_ALPHAS * size * len(X) / 2
    best = RidgeCV(alphas).fit(X, y).alpha_
    assert_allclose(report.alpha, best / size / len(X) * 2)
    units = alphas / size / len(X) * 2
    assert_allclose(
        compare({"b": InputBasis()}, X, y, alpha=units)["b"].alpha,
        best * 2 / size / len(X),
    )


@pytest.mark.parametrize("classes", ["ab", "abc"])
def test_scores_are_those_of_logistic_regression(labels, classes):
    X, y = labels
    kept = np.isin(y, list(classes))
    X, y = X[kept], y[kept]
    folds = StratifiedKFold(3)
    report = compare(
        {"b": InputBasis()}, X, y, cv=3, alpha=0.01, scoring="neg_log_loss"
    )["b"]
    expected = []
    for train, test in folds.split(X, y):
        C = 1 / (0.01 * squares(X[train]) * len(train))
        model = LogisticRegression(C=C, tol=1e-10, max_iter=10_000)
        model.fit(X[train], y[train])
        expected.append(-log_loss(y[test], model.predict_proba(X[test])))
    # The solver stops at a gap of 1e-6 relative; predictions are off by its root.
    assert_allclose(report.scores, expected, rtol=2e-3)


def test_alpha_of_the_log_loss_is_good_on_held_out_samples(labels):
    """Cross-fitting chooses an alpha with nearly the best held-out loss."""
    X, y = labels
    alphas = np.logspace(-6, 0, 7)
    scores = [
        np.mean(
            compare({"b": InputBasis()}, X, y, alpha=a, scoring="neg_log_loss")[
                "b"
            ].scores
        )
        for a in alphas
    ]
    params = {"scoring": "neg_log_loss", "random_state": 0}
    chosen = compare({"b": InputBasis()}, X, y, **params)["b"]
    assert np.mean(chosen.scores) > max(scores) - 0.02
    assert 1e-6 < chosen.alpha < 1


@pytest.mark.parametrize("alpha", ["auto", 1e-3])
def test_gradient_basis_is_the_refit(regression, alpha):
    """The model equals a refit around zero with alpha by leave-one-out."""
    X, y = regression
    report = compare({"gradient": GradientBasis(network())}, X, y, alpha=alpha)[
        "gradient"
    ]
    rule = "loo" if alpha == "auto" else alpha
    refit = GradientBasisRefit(network(), alpha=rule, center="zero")
    assert_allclose(report.scores, cross_val_score(refit, X, y, cv=FOLDS), rtol=1e-7)
    least = GradientBasisRefit(network(), alpha=0.0).fit(X, y)
    assert_allclose(report.train_loss, least.refit_loss_, rtol=1e-9)
    assert_allclose(report.lower_bound, least.lower_bound_, rtol=1e-9)
    assert report.train_loss <= least.model_loss_
    assert report.rank == least.rank_
    assert report.n_coef == 16


def test_transformers_are_bases(regression):
    X, y = regression
    features = PolynomialFeatures(2)
    plain, wrapped = compare(
        {"plain": features, "wrapped": FeatureBasis(features)}, X, y
    ).reports
    assert plain.scores == wrapped.scores
    assert plain.lower_bound == wrapped.lower_bound


def test_order_of_induced_bases(regression):
    """At one network: gradient basis below last layer, residual basis below inputs."""
    X, y = regression
    net = FrozenEstimator(network().fit(X, y))
    resnet = ResNetBasisRegressor(hidden_layer_sizes=(3,), max_iter=5, random_state=0)
    comparison = compare(
        {
            "inputs": InputBasis(),
            "layer": LayerBasis(net),
            "gradient": GradientBasis(net),
            "residual": LayerBasis(resnet),
        },
        X,
        y,
    )
    least = {report.name: report.train_loss for report in comparison.reports}
    assert least["gradient"] < least["layer"]
    assert least["residual"] < least["inputs"]
    assert (comparison.to_frame()["gap"].abs() < 1e-8).all()


class NearestTarget(TransformerMixin, BaseEstimator):
    """Targets of the nearest training sample, which would show leakage."""

    def fit(self, X, y):
        self.X_, self.y_ = X, y
        return self

    def transform(self, X):
        near = np.square(X[:, None] - self.X_).sum(2).argmin(1)
        return self.y_[near][:, None]


def test_nothing_leaks(regression):
    """A basis that memorizes its targets has no score above .1 on pure noise."""
    X, _ = regression
    y = np.random.default_rng(1).normal(size=60)
    report = compare({"leak": FeatureBasis(NearestTarget())}, X, y, alpha=1e-9)["leak"]
    assert report.train_loss < 1e-20
    assert max(report.scores) < 0.1


def test_networks_are_retrained_on_each_part(regression):
    X, y = regression
    comparison = compare(
        {
            "honest": GradientBasis(network()),
            "frozen": GradientBasis(FrozenEstimator(network().fit(X, y))),
        },
        X,
        y,
    )
    honest, frozen = comparison.reports
    assert_allclose(honest.train_loss, frozen.train_loss)
    assert set(honest.scores).isdisjoint(frozen.scores)


# --- estimators, kinds of data --------------------------------------------------------


def test_estimators_stand_beside_bases(regression):
    X, y = regression
    ridge = Ridge(0.5)
    comparison = compare({"basis": InputBasis(), "ridge": ridge}, X, y)
    report = comparison["ridge"]
    assert report.kind == "estimator"
    assert_allclose(report.scores, cross_val_score(ridge, X, y, cv=FOLDS))
    residual = ridge.fit(X, y).predict(X) - y
    assert_allclose(report.train_loss, np.square(residual).mean())
    assert report.train_loss > comparison["basis"].train_loss
    assert np.isnan(report.lower_bound)


def test_losses_of_classifiers(labels):
    X, y = labels
    forest = LogisticRegression()
    comparison = compare({"p": forest, "none": SVC()}, X, y)
    value = log_loss(y, forest.fit(X, y).predict_proba(X))
    assert_allclose(comparison["p"].train_loss, value)
    assert np.isnan(comparison["none"].train_loss)
    assert comparison.scoring == "accuracy"


def test_losses_of_counts_and_indicators(regression):
    X, _ = regression
    rng = np.random.default_rng(0)
    counts = rng.poisson(np.exp(0.5 * X[:, 0])).astype(float)
    net = MLPRegressor("poisson", hidden_layer_sizes=(2,), solver="lbfgs", max_iter=5)
    net.set_params(random_state=0)
    report = compare({"net": net}, X, counts, loss="poisson")["net"]
    mean = net.fit(X, counts).predict(X)
    assert_allclose(report.train_loss, (mean - counts * np.log(mean)).mean())
    indicators = (X[:, :2] > rng.normal(size=(60, 2))).astype(int)
    net = network(MLPClassifier)
    comparison = compare({"net": net, "linear": InputBasis()}, X, indicators)
    p = net.fit(X, indicators).predict_proba(X)
    value = sum(log_loss(indicators[:, k], p[:, k]) for k in range(2))
    assert_allclose(comparison["net"].train_loss, value, rtol=1e-9)
    assert comparison["linear"].n_coef == 8
    assert 0 <= min(comparison["linear"].scores)


def test_gradient_basis_of_a_classifier(labels):
    X, y = labels
    gradient = GradientBasis(network(MLPClassifier))
    comparison = compare({"gradient": gradient, "linear": InputBasis()}, X, y)
    net = network(MLPClassifier).fit(X, y)
    own = log_loss(y, net.predict_proba(X))
    report = comparison["gradient"]
    assert report.train_loss < own
    assert_allclose(report.lower_bound, report.train_loss, rtol=1e-7)
    assert comparison.loss == "log_loss"


def test_modules_need_no_loss(labels):
    """A module with two outputs for two classes keeps both."""
    X, y = labels
    kept = y != "c"
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Linear(2, 3), torch.nn.Tanh(), torch.nn.Linear(3, 2)
    )
    bases = {"gradient": GradientBasis(module), "layer": LayerBasis(module, layer=0)}
    comparison = compare(bases, X[kept], y[kept])
    assert comparison["gradient"].n_coef == 17
    assert comparison["layer"].n_coef == 4
    assert comparison["gradient"].train_loss <= comparison["layer"].train_loss


def test_frames_with_strings(regression):
    X, y = regression
    frame = pd.DataFrame({"a": X[:, 0], "b": np.where(X[:, 1] > 0, "x", "y")})
    columns = make_column_transformer(
        (OneHotEncoder(drop="first"), ["b"]), remainder="passthrough"
    )
    basis = make_pipeline(columns, PolynomialFeatures(2))
    report = compare({"b": FeatureBasis(basis)}, frame, pd.Series(y))["b"]
    A = PolynomialFeatures(2).fit_transform(np.column_stack([X[:, 1] <= 0, X[:, 0]]))
    value = np.square(A @ np.linalg.lstsq(A, y)[0] - y).mean()
    assert_allclose(report.train_loss, value, rtol=1e-9)


@pytest.mark.parametrize("loss", ["squared_error", "log_loss"])
def test_weights_are_repetitions(regression, loss):
    X, y = regression
    y = y if loss == "squared_error" else (y > X[:, 1]).astype(int)
    weight = np.random.default_rng(0).integers(0, 3, 60)
    bases = {"linear": InputBasis(), "gradient": GradientBasis(network())}
    if loss == "log_loss":
        bases["gradient"] = GradientBasis(network(MLPClassifier))
    weighted = compare(bases, X, y, sample_weight=weight, alpha=0.01, cv=2)
    index = np.repeat(np.arange(60), weight)
    repeated = compare(bases, X[index], y[index], alpha=0.01, cv=2)
    for one, other in zip(weighted.reports, repeated.reports, strict=True):
        assert_allclose(one.train_loss, other.train_loss, rtol=1e-4)
    assert_allclose(weighted.floor, repeated.floor, atol=1e-15)


def test_weights_reach_the_scorer(regression):
    X, y = regression
    weight = np.random.default_rng(0).uniform(size=60)
    report = compare({"b": InputBasis()}, X, y, sample_weight=weight, alpha=0.0)["b"]
    expected = []
    for train, test in FOLDS.split(X):
        model = Ridge(1e-12).fit(X[train], y[train], weight[train])
        expected.append(model.score(X[test], y[test], weight[test]))
    assert_allclose(report.scores, expected, rtol=1e-9)


def test_rows_of_weight_zero_do_not_shift_the_splits(regression):
    X, y = regression
    weight = np.r_[np.zeros(20), np.ones(40)]
    train, test = np.arange(35), np.arange(35, 60)
    found = compare_bases(
        {"ridge": Ridge()}, X, y, sample_weight=weight, cv=[(train, test)]
    )
    model = Ridge().fit(X[20:35], y[20:35])
    assert_allclose(found["ridge"].scores, [model.score(X[test], y[test])])
    folds = PredefinedSplit(np.arange(60) % 3)
    found = compare({"ridge": Ridge()}, X, y, sample_weight=weight, cv=folds)
    assert len(found["ridge"].scores) == 3


def test_scorers_without_weights_are_asked_without(regression):
    X, y = regression
    weight = np.random.default_rng(0).uniform(size=60)

    def worst(model, X, y):
        return -np.abs(model.predict(X) - y).max()

    for scoring in ("neg_max_error", worst):
        report = compare({"r": Ridge()}, X, y, sample_weight=weight, scoring=scoring)
        expected = []
        for train, test in FOLDS.split(X):
            model = Ridge().fit(X[train], y[train], weight[train])
            expected.append(worst(model, X[test], y[test]))
        assert_allclose(report["r"].scores, expected)


def test_scores_have_the_name_of_their_function(regression):
    found = compare({"r": Ridge()}, *regression, scoring=make_scorer(max_error))
    assert found.scoring == "max_error"


def test_best_has_a_score(regression):
    """A score of nan is never the best, and does not raise."""

    def score(model, X, y):
        return np.nan if isinstance(model, Ridge) else 0.0

    bases = {"ridge": Ridge(), "linear": InputBasis()}
    assert compare(bases, *regression, scoring=score).best == "linear"
    assert compare({"ridge": Ridge()}, *regression, scoring=score).best == "ridge"


# --- seeds and jobs -------------------------------------------------------------------


def outcome(comparison):
    """Everything but the seconds."""
    return comparison.to_frame().drop(columns="seconds")


@pytest.mark.parametrize("n_jobs", [2, 3])
def test_result_does_not_depend_on_jobs(regression, n_jobs):
    X, y = regression
    bases = {
        "rbf": FeatureBasis(Nystroem(n_components=10)),
        "gradient": GradientBasis(network(random_state=None)),
        "network": network(random_state=None),
    }
    one, many = (
        outcome(compare(bases, X, y, n_jobs=jobs, random_state=0))
        for jobs in (None, n_jobs)
    )
    pd.testing.assert_frame_equal(one, many, check_exact=True)


def test_seeds_of_the_user_stay(regression):
    X, y = regression
    bases = {"own": network(random_state=3), "filled": network(random_state=None)}
    first, second = (compare(bases, X, y, random_state=s) for s in (0, 1))
    assert first["own"].scores == second["own"].scores
    assert first["filled"].scores != second["filled"].scores
    assert bases["filled"].random_state is None


# --- the result -----------------------------------------------------------------------


def test_frame_and_text(regression):
    X, y = regression
    comparison = compare({"linear": InputBasis(), "ridge": Ridge()}, X, y)
    frame = comparison.to_frame()
    assert list(frame.index) == ["linear", "ridge"]
    splits = frame[["split0_score", "split1_score", "split2_score"]]
    assert_allclose(frame["score"], splits.mean(axis=1))
    assert_allclose(frame["score_std"], splits.std(axis=1, ddof=0))
    assert (frame["seconds"] > 0).all()
    text = str(comparison)
    assert "squared_error" in text
    assert "score: R², 3 splits" in text
    assert len(text.splitlines()) == 4
    assert text.splitlines()[-1].startswith("ridge")
    assert comparison.best == frame["score"].idxmax()
    with pytest.raises(KeyError, match="name must be among"):
        comparison["none"]


def test_arguments_are_resolved():
    """The loss and the name of the score follow from bases and targets."""
    whole, real = np.array([0, 1, 1]), np.array([0.5, 1.0, 2.0])
    inputs = {"linear": InputBasis()}
    assert resolve_loss("auto", inputs, whole) == "log_loss"
    assert resolve_loss(None, inputs, real) == "squared_error"
    assert resolve_loss("auto", {"a": Ridge()}, whole) == "squared_error"
    assert resolve_loss("poisson", inputs, real) == "poisson"
    assert check_scorer(None, Ridge(), False)[1] == "R²"
    assert check_scorer("r2", Ridge(), False)[1] == "r2"
    checked = check_bases({"a": PolynomialFeatures(), "b": Ridge()})
    assert [type(each) for each in checked.values()] == [FeatureBasis, Ridge]
