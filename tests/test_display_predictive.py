"""`PredictiveDisplay` draws predicted distributions."""

import re

import matplotlib.pyplot as plt
import numpy as np
import pytest
from scipy.sparse import csc_matrix, csr_array
from sklearn.base import clone
from sklearn.datasets import load_diabetes
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from sklearn_pgb import (
    GradientBasisRefit,
    GradientBasisRegressor,
    PredictiveDisplay,
    interval_score,
    neg_crps,
    neg_nll,
)
from sklearn_pgb._predictive._distribution import Counts

pytestmark = pytest.mark.usefixtures("figures")
X, Y = load_diabetes(return_X_y=True, as_frame=True)
REFIT = GradientBasisRefit(LinearRegression(), random_state=0).fit(X[:300], Y[:300])


@pytest.mark.parametrize("feature", [None, "bmi", 2])
def test_what_is_drawn(feature):
    rows, y = X[300:], Y[300:].to_numpy()
    refit = REFIT
    if feature == 2:
        rows, values = rows.to_numpy(), X.to_numpy()
        refit = GradientBasisRefit(LinearRegression(), random_state=0)
        refit.fit(values[:300], Y[:300])
    found = refit.predict_distribution(rows)
    display = PredictiveDisplay.from_estimator(refit, rows, y, feature=feature)
    position = found.mean if feature is None else X["bmi"][300:].to_numpy()
    order = np.argsort(position, kind="stable")
    np.testing.assert_array_equal(display.points_.get_xdata(), position[order])
    np.testing.assert_array_equal(display.points_.get_ydata(), y[order])
    np.testing.assert_array_equal(display.mean_line_.get_ydata(), found.mean[order])
    wide = np.array(display.bands_[0].get_segments())[:, :, 1]
    np.testing.assert_allclose(wide, found.quantile([0.05, 0.95])[order])
    levels, below = display.reliability_line_.get_data()
    expected = [(y <= found.quantile(q)).mean() for q in levels[1:-1]]
    np.testing.assert_allclose(below[1:-1], expected, atol=1e-9)
    assert display.axes_[0].get_xlabel() == str(feature or "predicted mean")


def test_axes_of_the_caller():
    figure, axes = plt.subplots(2)
    display = PredictiveDisplay.from_estimator(
        REFIT, X[300:], Y[300:], target_name="progression", ax=axes
    )
    assert display.figure_ is figure
    assert axes[0].get_ylabel() == "progression"
    with pytest.raises(ValueError, match="ax must hold two Axes"):
        display.plot(ax=axes[0])


@pytest.mark.parametrize("shape", [(), (3,), (2, 1), (2, 3), (2, 2, 1)])
def test_shape_of_probabilities(shape):
    quantiles = np.arange(8.0).reshape(2, 4)
    display = PredictiveDisplay([0, 1], [0, 1], [0, 1], quantiles, np.ones(shape))
    message = f"must have shape (2,) or (2, 2), got {shape}."
    with pytest.raises(ValueError, match=re.escape(message)):
        display.plot()
    assert not plt.get_fignums()


def test_containers_of_samples():
    rows, y = X[300:].to_numpy(), Y[300:]
    refit = GradientBasisRefit(LinearRegression(), random_state=0)
    refit.fit(X[:300].to_numpy(), Y[:300])
    for samples in (rows.tolist(), csr_array(rows), csc_matrix(rows)):
        display = PredictiveDisplay.from_estimator(refit, samples, y, feature=2)
        np.testing.assert_array_equal(display.position, rows[:, 2])


def test_feature_without_numbers():
    rows = X[300:].assign(name="a")
    refit = GradientBasisRegressor(network="drop", forest="drop", random_state=0)
    refit.fit(rows, Y[300:])
    with pytest.raises(TypeError, match="feature must be a column of numbers"):
        PredictiveDisplay.from_estimator(refit, rows, Y[300:], feature="name")


def test_one_column_of_targets():
    """A refit to a matrix of one column is drawn as one to its column."""
    refit = clone(REFIT).fit(X[:300], Y[:300].to_numpy()[:, None])
    assert refit.predict_distribution(X).mean.shape == (len(X), 1)
    display = PredictiveDisplay.from_estimator(refit, X[300:], Y[300:].to_frame())
    expected = PredictiveDisplay.from_estimator(REFIT, X[300:], Y[300:])
    for name in ("y", "mean", "quantiles", "probabilities"):
        found = getattr(display, name)
        np.testing.assert_allclose(found, getattr(expected, name), rtol=1e-10)


@pytest.mark.parametrize("feature", ["zz", 99])
def test_feature_that_x_lacks(feature):
    with pytest.raises(ValueError, match=f"column of X, got {feature!r}: .* Pass a"):
        PredictiveDisplay.from_estimator(REFIT, X[300:], Y[300:], feature=feature)


def test_wrong_estimators():
    labels = LogisticRegression().fit(X, Y > 100)
    with pytest.raises(TypeError, match="must predict distributions"):
        PredictiveDisplay.from_estimator(labels, X, Y)
    wrapped = make_pipeline(StandardScaler(), LinearRegression()).fit(X, Y)
    with pytest.raises(TypeError, match="got Pipeline with LinearRegression"):
        neg_crps(wrapped, X, Y)
    two = GradientBasisRefit(LinearRegression(), random_state=0)
    two.fit(X, np.column_stack([Y, -Y]))
    with pytest.raises(ValueError, match="must have one output, got 2"):
        PredictiveDisplay.from_estimator(two, X, Y)


# --- scorers --------------------------------------------------------------------------


def test_scorers_are_their_formulas():
    rows, y = X[300:], Y[300:].to_numpy()
    weight = np.random.default_rng(0).uniform(1, 2, len(y))
    found = REFIT.predict_distribution(rows)
    expected = -np.average(found.crps(y), weights=weight)
    assert neg_crps(REFIT, rows, y, weight) == pytest.approx(expected)
    expected = np.average(found.log_prob(y), weights=weight)
    assert neg_nll(REFIT, rows, y, weight) == pytest.approx(expected)
    low, high = REFIT.predict_interval(rows, 0.8).T
    penalty = 10 * np.where(y < low, low - y, np.where(y > high, y - high, 0))
    expected = -np.average(high - low + penalty, weights=weight)
    actual = interval_score(REFIT, rows, y, weight, coverage=0.8)
    assert actual == pytest.approx(expected)
    with pytest.raises(ValueError, match="coverage must be between 0 and 1"):
        interval_score(REFIT, rows, y, coverage=1)


def test_wrappers():
    """Scores and plots of pipelines and searches are those of their last estimator."""
    rows, y = X[300:], Y[300:].to_numpy()
    scaler = StandardScaler().set_output(transform="pandas")
    pipeline = make_pipeline(scaler, "passthrough", clone(REFIT)).fit(X[:300], Y[:300])
    grid = {"gradientbasisrefit__center": ["zero"]}
    search = GridSearchCV(pipeline, grid, cv=2, scoring=interval_score)
    search.fit(X[:300], Y[:300])
    nested = make_pipeline(FunctionTransformer(), search).fit(X[:300], Y[:300])
    scaled = (rows - X[:300].mean()) / X[:300].std(ddof=0)
    for model in (pipeline, search, nested, FrozenEstimator(pipeline)):
        last = model
        while not isinstance(last, GradientBasisRefit):
            last = getattr(last, "best_estimator_", None) or (
                last.estimator if isinstance(last, FrozenEstimator) else last[-1]
            )
        for score in (neg_crps, neg_nll, interval_score):
            assert score(model, rows, y) == pytest.approx(score(last, scaled, y))
        display = PredictiveDisplay.from_estimator(model, rows, y, feature="bmi")
        np.testing.assert_array_equal(display.position, rows["bmi"])
        np.testing.assert_allclose(display.mean, last.predict_distribution(scaled).mean)
    assert np.isfinite(cross_val_score(pipeline, X, Y, scoring=neg_crps, cv=2)).all()


@pytest.mark.parametrize("scorer", [neg_crps, neg_nll, interval_score])
def test_scorers_in_searches(scorer):
    params = {"cv": 3, "center": "zero", "distribution": True, "random_state": 0}
    refit = GradientBasisRefit(LinearRegression(), **params)
    values = cross_val_score(refit, X, Y, scoring=scorer, cv=2)
    assert np.isfinite(values).all()
    search = GridSearchCV(refit, {"alpha": [1e-3, 1e3]}, scoring=scorer, cv=2)
    assert search.fit(X, Y).best_params_ == {"alpha": 1e-3}


@pytest.mark.parametrize("dispersion", [0.0, 0.5])
def test_counts_that_are_the_generator(dispersion, seed, monkeypatch):
    """Their curve is within sampling error of the diagonal."""
    rng = np.random.default_rng(seed)
    n = 4000
    rows = rng.uniform(0.2, 4, (n, 1))
    counts = Counts(rows, np.array([dispersion]), True)
    y = counts.sample(1, random_state=seed)[0]
    monkeypatch.setattr(type(REFIT), "predict_distribution", lambda *_: counts)
    display = PredictiveDisplay.from_estimator(REFIT, rows, y)
    level, below = display.reliability_line_.get_data()
    # Four standard deviations of the mean of n independent numbers in [0, 1].
    assert np.abs(below - level).max() < 4 * 0.5 / np.sqrt(n)
    # Each target has the same distribution as draws between its two probabilities.
    u = rng.uniform(size=(500, n))
    low, high = display.probabilities.T
    drawn = low + u * (high - low)
    assert (
        np.abs((drawn[..., None] <= level[::10]).mean((0, 1)) - below[::10]).max()
        < 0.01
    )


@pytest.mark.parametrize("feature", [[0], ["bmi"], slice(0, 1), True, [0, 1], 2.0])
@pytest.mark.parametrize("kind", [np.asarray, csr_array, None])
def test_several_columns(feature, kind):
    rows, refit = X[300:], REFIT
    if kind is not None:
        rows = kind(rows.to_numpy())
        refit = GradientBasisRefit(LinearRegression(), random_state=0)
        refit.fit(X[:300].to_numpy(), Y[:300])
    with pytest.raises(ValueError, match="feature must be a column of X, got"):
        PredictiveDisplay.from_estimator(refit, rows, Y[300:], feature=feature)
    assert not plt.get_fignums()
