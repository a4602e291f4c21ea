"""Estimators in other libraries: their results agree with the estimator alone."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import make_classification, make_regression
from sklearn.ensemble import StackingRegressor
from sklearn.inspection import partial_dependence, permutation_importance
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.metrics import log_loss
from sklearn.model_selection import cross_val_predict, cross_val_score
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_pgb import (
    GradientBasisClassifier,
    GradientBasisRefit,
    GradientBasisRegressor,
)

X, Y = make_regression(60, 3, noise=1.0, random_state=0)
Y = Y / np.std(Y)
X_CLASS, LABELS = make_classification(
    80, 4, n_redundant=0, flip_y=0.2, weights=[0.8], random_state=0
)


def network(kind, **params):
    """A small network that trains in milliseconds."""
    shape = {"hidden_layer_sizes": (4,), "random_state": 0}
    return kind(solver="lbfgs", max_iter=30, **shape, **params)


def refit(kind=MLPRegressor, **params):
    return GradientBasisRefit(network(kind), cv=2, random_state=0, **params)


def table(kind=GradientBasisRegressor, **params):
    """An estimator for tables, of a small network alone."""
    inner = MLPRegressor if kind is GradientBasisRegressor else MLPClassifier
    trees = {"trees": "drop", "forest": "drop"}
    return kind(network(inner), cv=2, random_state=0, **trees, **params)


# -- tables ----------------------------------------------------------------------------


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_data_frames(library):
    """A frame of numbers equals the array, and its column names are stored."""
    frames = pytest.importorskip(library)
    frame = frames.DataFrame(dict(zip("abc", X.T, strict=True)))
    model = refit().fit(frame, Y)
    assert list(model.feature_names_in_) == ["a", "b", "c"]
    assert_allclose(model.predict(frame), refit().fit(X, Y).predict(X), rtol=1e-6)


def test_skrub_tabular_pipeline():
    """skrub's pipeline encodes strings; the refit learns the effect of each."""
    skrub = pytest.importorskip("skrub")
    pd = pytest.importorskip("pandas")
    color = np.array(["red", "green", "blue"])[np.arange(60) % 3]
    frame = pd.DataFrame({"color": color, "x": X[:, 0]})
    y = X[:, 0] + 2.0 * (color == "red")
    model = skrub.tabular_pipeline(refit()).fit(frame, y)
    assert model.score(frame, y) > 0.99


# -- uncertainty -----------------------------------------------------------------------


def test_mapie_intervals():
    """Intervals of split conformal prediction are the prediction ± one quantile."""
    mapie = pytest.importorskip("mapie.regression")
    fitted = refit().fit(X[:20], Y[:20])
    conformal = mapie.SplitConformalRegressor(
        fitted, confidence_level=0.8, prefit=True
    ).conformalize(X[20:40], Y[20:40])
    predicted, intervals = conformal.predict_interval(X[40:])
    errors = np.sort(np.abs(Y[20:40] - fitted.predict(X[20:40])))
    # The 17th of 20 errors: ceil(0.8 (20 + 1)).
    assert_allclose(predicted, fitted.predict(X[40:]))
    assert_allclose(intervals[:, 1, 0] - predicted, errors[16], rtol=1e-9)
    assert_allclose(predicted - intervals[:, 0, 0], errors[16], rtol=1e-9)


def test_calibration():
    """Calibration hardly changes the loss of a good model."""
    model = refit(MLPClassifier).fit(X_CLASS, LABELS)
    calibrated = CalibratedClassifierCV(refit(MLPClassifier), cv=2)
    calibrated.fit(X_CLASS, LABELS)
    probability = calibrated.predict_proba(X_CLASS)
    assert_allclose(probability.sum(axis=1), 1.0)
    alone = log_loss(LABELS, model.predict_proba(X_CLASS))
    assert log_loss(LABELS, probability) < alone + 0.2


# -- searches --------------------------------------------------------------------------


def test_optuna_search():
    """The best trial is the best score of cross-validation, recomputed."""
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.WARNING)

    def score(model):
        return cross_val_score(model, X, Y, cv=2).mean()

    def objective(trial):
        width = trial.suggest_int("width", 2, 3)
        return score(refit().set_params(estimator__hidden_layer_sizes=(width,)))

    study = optuna.create_study(
        direction="maximize", sampler=optuna.samplers.GridSampler({"width": [2, 3]})
    )
    study.optimize(objective, n_trials=2)
    by_hand = [
        score(refit().set_params(estimator__hidden_layer_sizes=(width,)))
        for width in (2, 3)
    ]
    assert study.best_value == max(by_hand)


# -- pipelines and ensembles -----------------------------------------------------------


def test_imbalanced_learn_pipeline():
    """The refit sees the resampled data: as many samples of either class."""
    imblearn = pytest.importorskip("imblearn.pipeline")
    sampling = pytest.importorskip("imblearn.under_sampling")
    sampler = sampling.RandomUnderSampler(random_state=0)
    model = imblearn.make_pipeline(StandardScaler(), sampler, refit(MLPClassifier))
    model.fit(X_CLASS, LABELS)
    scaled = StandardScaler().fit_transform(X_CLASS)
    resampled = clone(sampler).fit_resample(scaled, LABELS)
    assert np.bincount(resampled[1]).tolist() == 2 * [min(np.bincount(LABELS))]
    expected = refit(MLPClassifier).fit(*resampled).predict_proba(scaled)
    assert_allclose(model.predict_proba(X_CLASS), expected)


@pytest.mark.parametrize("model", [refit(), table()], ids=["refit", "table"])
def test_stacking(model):
    """A stack's features are the models' predictions of samples left out."""
    stack = StackingRegressor(
        [("pgb", model), ("linear", Ridge())], LinearRegression(), cv=3
    ).fit(X, Y)
    features = [cross_val_predict(each, X, Y, cv=3) for each in (model, Ridge())]
    expected = LinearRegression().fit(np.column_stack(features), Y)
    assert_allclose(stack.final_estimator_.coef_, expected.coef_, rtol=1e-6)


# -- explanations ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def ignoring_one():
    """Model of a target that does not depend on the last of three features."""
    target = X[:, 0] - 2.0 * X[:, 1]
    return make_pipeline(StandardScaler(), refit()).fit(X, target), target


def test_permutation_importance(ignoring_one):
    model, target = ignoring_one
    importance = permutation_importance(model, X, target, random_state=0)
    first, second, third = importance.importances_mean
    assert second > first > 20.0 * max(third, 0.0)


def test_partial_dependence(ignoring_one):
    """Along a feature the target rises at its coefficient."""
    model, _ = ignoring_one
    curve = partial_dependence(model, X, [1], grid_resolution=10)
    slope = np.polyfit(curve["grid_values"][0], curve["average"][0], 1)[0]
    assert slope == pytest.approx(-2.0, rel=0.1)


def test_shap_permutation_explainer(ignoring_one):
    """Shapley values add up to the difference from the mean prediction."""
    shap = pytest.importorskip("shap")
    model, _ = ignoring_one
    explainer = shap.PermutationExplainer(model.predict, X[:20], seed=0)
    values = explainer(X[20:24], silent=True)
    total = values.values.sum(axis=1) + values.base_values
    assert_allclose(total, model.predict(X[20:24]), atol=1e-6)
    assert_allclose(values.base_values, model.predict(X[:20]).mean(), atol=1e-6)


def test_classifier_for_tables_in_a_search():
    """Cross-validation of labels that are strings."""
    names = np.array(["no", "yes"])[LABELS]
    model = table(GradientBasisClassifier)
    predicted = cross_val_predict(model, X_CLASS, names, cv=2)
    assert_array_equal(np.unique(predicted), ["no", "yes"])
