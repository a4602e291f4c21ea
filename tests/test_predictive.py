"""Predictive distributions, intervals and label sets of estimators."""

import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import load_breast_cancer, make_friedman1
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import (
    LinearRegression,
    LogisticRegression,
    PoissonRegressor,
    Ridge,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PowerTransformer, QuantileTransformer, StandardScaler
from sklearn.tree import DecisionTreeRegressor
from table_cases import FRAME, WEIGHT, X, Y, small

from sklearn_pgb import (
    AddedNeuronClassifier,
    GradientBasisClassifier,
    GradientBasisRefit,
    interval_score,
    neg_crps,
    neg_nll,
)

LINE = np.random.default_rng(0).normal(size=(600, 3))


def line(noise, seed=0):
    """Targets on a line, with noise from a generator."""
    rng = np.random.default_rng(seed)
    return LINE @ [1.0, -2, 0.5] + noise(rng)


def refit(model=None, **params):
    model = LinearRegression() if model is None else model
    return GradientBasisRefit(model, **({"cv": 5, "random_state": 0} | params))


# --- shapes and values ----------------------------------------------------------------


@pytest.mark.parametrize("distribution", [False, True])
@pytest.mark.parametrize("name", ["real", "two"])
def test_shapes_of_results(name, distribution):
    y = Y[name]
    last = y.shape[1:]
    model = small(name, distribution=distribution).fit(X, y, WEIGHT)
    found = model.predict_distribution(X[:7])
    assert found.mean.shape == found.std.shape == (7, *last)
    assert model.predict_quantiles(X[:7], 0.5).shape == (7, *last)
    quantiles = model.predict_quantiles(X[:7], [0.1, 0.5, 0.9])
    assert quantiles.shape == (7, 3, *last)
    assert (np.diff(quantiles, axis=1) > 0).all()
    ends = model.predict_interval(X[:7], 0.8)
    assert ends.shape == (7, 2, *last)
    assert (ends[:, 0] < ends[:, 1]).all()
    assert found.sample(11, random_state=0).shape == (11, 7, *last)
    for values in (found.cdf(y[:7]), found.log_prob(y[:7]), found.crps(y[:7])):
        assert values.shape == (7, *last)
        assert np.isfinite(values).all()
    mean, std = model.predict(X[:7], return_std=True)
    np.testing.assert_array_equal(mean, model.predict(X[:7]))
    np.testing.assert_array_equal(std, found.std)
    copied = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(copied.predict_interval(X[:7], 0.8), ends)


def test_default_predictions_do_not_depend_on_the_distribution():
    plain, other = (
        small("real", distribution=d).fit(X, Y["real"]) for d in (False, True)
    )
    np.testing.assert_array_equal(plain.predict(X), other.predict(X))


@pytest.mark.parametrize("unit", [2.0**-20, 2.0**30])
@pytest.mark.parametrize("table", [False, True])
def test_units_of_targets(table, unit):
    """Intervals have the units of the targets."""
    model = small("real").set_params(network="drop") if table else refit()
    model.set_params(distribution=True)
    expected = model.fit(X, Y["real"]).predict_interval(X)
    other = model.fit(X, unit * Y["real"]).predict_interval(X)
    np.testing.assert_allclose(other / unit, expected, rtol=1e-3)


def test_tables():
    model = small("real", distribution=True).fit(FRAME, Y["real"])
    assert np.isfinite(model.predict_interval(FRAME, 0.8)).all()


def test_counts():
    model = small("count").fit(X, Y["count"])
    found = model.predict_distribution(X)
    np.testing.assert_allclose(found.mean, model.predict(X))
    low, high = model.predict_interval(X, 0.9).T
    np.testing.assert_array_equal(low, found.quantile(0.05))
    assert (high == np.round(high)).all()
    assert np.isfinite(found.log_prob(Y["count"])).all()


def test_dispersion_of_counts(seed):
    """The dispersion is the true one, and almost zero for Poisson counts."""
    rng = np.random.default_rng(seed)
    mean = np.exp(1 + LINE[:, 0])
    model = refit(PoissonRegressor(alpha=0))
    model.fit(LINE, rng.negative_binomial(2, 1 / (1 + 0.5 * mean)))
    for y, low, high in (
        (rng.negative_binomial(2, 1 / (1 + 0.5 * mean)), 0.35, 0.7),
        (rng.poisson(mean), 0.0, 0.1),
    ):
        found = model.fit(LINE, y).predict_distribution(LINE)
        dispersion = (found.std**2 - found.mean) / found.mean**2
        assert low - 1e-9 < dispersion.mean() < high


@pytest.mark.parametrize("case", ["skewed", "two", "logs", "validation"])
def test_std_of_predictions(case):
    """Predictions of a refit have the standard deviations of its distributions."""
    rows, y = LINE[:150], line(lambda rng: rng.exponential(size=600) ** 2)[:150]
    model, options = refit(Ridge(), distribution=True), {}
    if case == "two":
        y = np.c_[y, rows[:, 0] ** 2]
    elif case == "logs":
        logs = TransformedTargetRegressor(Ridge(), func=np.log, inverse_func=np.exp)
        model.set_params(estimator=logs)
        y = np.exp(y / 4)
    elif case == "validation":
        options = {"X_val": rows[90:], "y_val": y[90:]}
        model.set_params(cv="auto", alpha=[0.1, 1.0], center="zero")
        rows, y = rows[:90], y[:90]
    model.fit(rows, y, **options)
    std = model.predict(LINE, return_std=True)[1]
    np.testing.assert_array_equal(std, model.predict_distribution(LINE).std)
    draws = model.predict_distribution(LINE[:3]).sample(40_000, random_state=0)
    # A Student t density with 3 degrees of freedom has no fourth moment.
    np.testing.assert_allclose(draws.std(0), std[:3], rtol=0.25)


def test_std_without_out_of_fold_errors():
    """It is the scale, that of a Bayesian linear regression."""
    y = line(lambda rng: 0.5 * rng.normal(size=600))
    model = refit(Ridge(), cv="auto", alpha="loo", distribution=True)
    std = model.fit(LINE, y).predict(LINE, return_std=True)[1]
    assert std.shape == y.shape
    assert std.mean() == pytest.approx(0.5, rel=0.1)
    with pytest.raises(ValueError, match="out-of-fold errors"):
        model.predict_distribution(LINE)


@pytest.mark.parametrize("distribution", [False, True])
@pytest.mark.parametrize("counts", ["twice", "mixed"])
def test_weights_of_distributions_are_repetitions(counts, distribution):
    """Repeated samples have the distributions of weighted ones."""
    rng = np.random.default_rng(0)
    rows = LINE[:120]
    y = line(lambda rng: rng.normal(size=600) * np.exp(LINE[:, 0]))[:120]
    n = np.full(120, 2) if counts == "twice" else rng.integers(1, 4, 120)
    model = refit(Ridge(), cv="auto", distribution=distribution)
    found = model.fit(rows, y, sample_weight=n.astype(float)).predict_distribution(LINE)
    model.fit(np.repeat(rows, n, axis=0), np.repeat(y, n))
    repeated = model.predict_distribution(LINE)
    np.testing.assert_allclose(repeated.std, found.std, rtol=1e-4)
    q = [0.05, 0.3, 0.9]
    np.testing.assert_allclose(
        repeated.quantile(q), found.quantile(q), rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize("distribution", [False, True])
def test_mirrored_targets(distribution):
    """Targets of the other sign have the mirrored distribution."""
    rows, y = LINE[:150], line(lambda rng: rng.exponential(size=600))[:150]
    model = refit(Ridge(), distribution=distribution)
    found = model.fit(rows, y).predict_distribution(rows)
    mirrored = model.fit(rows, -y).predict_distribution(rows)
    np.testing.assert_allclose(mirrored.std, found.std, rtol=1e-9)
    np.testing.assert_allclose(
        mirrored.quantile([0.1, 0.5]), -found.quantile([0.9, 0.5]), rtol=1e-9, atol=1e-9
    )


# --- coverage ------------------------------------------------------------------------


def test_normal_noise(seed):
    """For linear models with normal noise, the distribution is known."""
    y = line(lambda rng: 0.5 * rng.normal(size=600), seed)
    model = refit().fit(LINE, y)
    found = model.predict_distribution(LINE)
    np.testing.assert_allclose(found.std, 0.5, rtol=0.1)
    ends = model.predict_interval(LINE, 0.9)
    np.testing.assert_allclose(np.diff(ends) / 2, 0.5 * 1.645, rtol=0.15)
    # The score of a normal distribution is std / sqrt(pi) on average.
    assert found.crps(y).mean() == pytest.approx(0.5 / np.sqrt(np.pi), rel=0.1)


@pytest.mark.parametrize("table", [False, True])
def test_scale_follows_the_inputs(table):
    """Noise that grows with the first input."""
    rows, signal = make_friedman1(700, n_features=5, random_state=0)
    noise = 0.2 + 2 * rows[:, 0]
    y = signal + noise * np.random.default_rng(0).normal(size=700)
    model = small("real", cv=5) if table else refit(network(), n_models=5)
    model.set_params(distribution=True).fit(rows[:500], y[:500])
    widths = np.diff(model.predict_interval(rows[500:], 0.9))[:, 0]
    assert np.corrcoef(widths, noise[500:])[0, 1] > 0.5
    assert (model.predict_distribution(rows[500:]).std > 0).all()


def network():
    return make_pipeline(StandardScaler(), small("real").network)


def test_coverage_of_intervals():
    """On 2,000 new samples, up to their standard error."""
    rows, y = make_friedman1(2300, n_features=5, noise=1.0, random_state=0)
    for model in (small("real", cv=10, distribution=True), refit(boosted(), cv=10)):
        model.fit(rows[:300], y[:300])
        low, high = model.predict_interval(rows[300:], 0.9).T
        inside = ((y[300:] >= low) & (y[300:] <= high)).mean()
        assert 0.86 < inside < 0.985
        probabilities = model.predict_distribution(rows[300:]).cdf(y[300:])
        np.testing.assert_allclose(np.quantile(probabilities, 0.5), 0.5, atol=0.06)


def boosted():
    return HistGradientBoostingRegressor(max_iter=30, random_state=0)


def test_transformed_targets():
    """Errors in proportion to the target, if its logarithm is predicted."""
    y = np.exp(line(lambda rng: 0.3 * rng.normal(size=600)))
    logs = TransformedTargetRegressor(
        LinearRegression(), func=np.log, inverse_func=np.exp
    )
    model = refit(logs).fit(LINE, y)
    quantiles = model.predict_quantiles(LINE, [0.1, 0.5, 0.9])
    assert (quantiles > 0).all()
    ratio = quantiles[:, 2] / quantiles[:, 1]
    np.testing.assert_allclose(ratio, np.exp(0.3 * 1.2816), rtol=0.1)


def test_validation_samples_give_errors():
    """A trained model's errors come from samples that it has not seen."""
    y = line(lambda rng: 0.5 * rng.normal(size=600))
    trained = FrozenEstimator(LinearRegression().fit(LINE[:200], y[:200]))
    model = refit(trained, cv=None)
    with pytest.warns(UserWarning, match="have not seen|optimistic"):
        model.fit(LINE[:200], y[:200])
    with pytest.raises(ValueError, match="as X_val and y_val"):
        model.predict_interval(LINE)
    model.fit(LINE[:200], y[:200], X_val=LINE[200:400], y_val=y[200:400])
    assert model.predict_distribution(LINE).std.mean() == pytest.approx(0.5, rel=0.15)
    assert len(model._oof_errors["errors"]) == 200


def test_sets_of_labels():
    rows, y = load_breast_cancer(return_X_y=True)
    logistic = make_pipeline(StandardScaler(), LogisticRegression())
    tables = GradientBasisClassifier("drop", "drop", forest="drop", cv=3)
    tables.set_params(others=[("logistic", logistic)])
    for model in (refit(logistic), tables):
        model.fit(rows[:300], y[:300])
        for coverage in (0.8, 0.9, 0.99):
            members = model.predict_set(rows[300:], coverage)
            assert members.shape == (269, 2)
            assert members.dtype == bool
            hits = members[np.arange(269), y[300:]].mean()
            # Two and a half standard errors of both samples.
            assert hits == pytest.approx(coverage, abs=0.085)
    # A label belongs to the set if its conformal p-value is above 1 - coverage.
    scores = 1 - tables.oof_prediction_[np.arange(300), y[:300]]
    worse = scores >= 1 - tables.predict_proba(rows[300:])[..., None]
    p_values = (1 + worse.sum(2)) / 301
    for coverage in (0.8, 0.9, 0.99):
        members = tables.predict_set(rows[300:], coverage)
        np.testing.assert_array_equal(members, p_values > 1 - coverage + 1e-12)


def test_methods_of_intervals():
    """Around the prediction by default; CV+ takes errors of folds as they are."""
    rows, y = make_friedman1(140, n_features=5, noise=0.5, random_state=0)
    rows, new = rows[:120], rows[120:]
    model = small("real", cv=4, distribution=True).fit(rows, y[:120])
    stored = model._oof_errors
    location, scale = model.predict(new), model._located(new).scale[:, 0]
    errors = np.abs(stored["errors"][:, 0])
    ends = model.predict_interval(new, 0.9)
    np.testing.assert_allclose(ends.mean(1), location)
    # The 109th of 120 errors: 0.9 times 121, rounded up.
    np.testing.assert_allclose(np.diff(ends)[:, 0] / 2, np.sort(errors)[108] * scale)
    ends = model.predict_interval(new, 0.9, method="cv+")
    centers = np.stack(model._fold_locations(new))[stored["folds"]["fold"], :, 0]
    spread = np.abs(stored["folds"]["errors"]) * scale
    np.testing.assert_allclose(ends[:, 1], np.sort(centers + spread, 0)[108])
    np.testing.assert_allclose(ends[:, 0], np.sort(centers - spread, 0)[-109])


def test_cv_plus_needs_predictions_of_folds():
    for model in (small("real"), small("count", distribution=True)):
        name = "count" if model.loss == "poisson" else "real"
        with pytest.raises(ValueError, match="method must be 'cv' without"):
            model.fit(X, Y[name]).predict_interval(X, method="cv+")
    with pytest.raises(ValueError, match="method must be 'cv' or 'cv\\+'"):
        small("real").fit(X, Y["real"]).predict_interval(X, method="plus")


# --- bad input ------------------------------------------------------------------------


@pytest.mark.parametrize("coverage", [0, 1, -0.5, 2, np.nan, "0.9"])
def test_coverage(coverage):
    model = small("real").fit(X, Y["real"])
    with pytest.raises(ValueError, match="coverage must be between 0 and 1"):
        model.predict_interval(X, coverage)
    labels = small("multi").fit(X, Y["multi"])
    with pytest.raises(ValueError, match="coverage must be between 0 and 1"):
        labels.predict_set(X, coverage)


@pytest.mark.parametrize("quantiles", [0, 1, [0.5, 1.5], [], [[0.5]], np.nan])
def test_quantiles(quantiles):
    model = small("real").fit(X, Y["real"])
    with pytest.raises(ValueError, match="quantiles must be one or more numbers"):
        model.predict_quantiles(X, quantiles)


@pytest.mark.parametrize("loss", ["squared", "poisson"])
def test_arguments_of_distributions(loss):
    """Errors name the argument and what it must be."""
    model = refit(PoissonRegressor() if loss == "poisson" else Ridge())
    found = model.fit(PART, np.arange(60) % 4).predict_distribution(PART)
    for draws in (-1, 1.5, None, "a", True):
        with pytest.raises(ValueError, match=f"n_draws must be .* got {draws!r}"):
            found.sample(draws)
    assert found.sample(np.int64(2), random_state=0).shape == (2, 60)
    for q in ("a", None, [[0.1], [0.1, 0.2]]):
        with pytest.raises(ValueError, match="quantiles must be one or more"):
            found.quantile(q)
    with pytest.raises(ValueError, match="y must be numbers, got 'a'"):
        found.cdf("a")


@pytest.mark.parametrize("distance", [1e150, 1e300])
def test_density_far_out(distance):
    """That of the Student t density, whose logarithm falls by 1 + its freedom."""
    y = line(lambda rng: rng.normal(size=600))[:60]
    found = refit(Ridge()).fit(PART, y).predict_distribution(PART)
    # Warnings are errors.
    logs = found.log_prob(np.full(60, distance))
    fall = found.log_prob(np.full(60, distance / 10)) - logs
    np.testing.assert_allclose(fall / np.log(10), 1 + found._shapes[0].freedom)
    np.testing.assert_array_equal(found.cdf(np.full(60, distance)), 1)
    np.testing.assert_allclose(found.crps(np.full(60, distance)) / distance, 1)


def test_targets_of_another_shape():
    found = small("real").fit(X, Y["real"]).predict_distribution(X)
    with pytest.raises(ValueError, match="y must have 60 samples and 1 outputs"):
        found.log_prob(Y["two"])


@pytest.mark.parametrize("score", [neg_crps, neg_nll, interval_score])
def test_targets_of_scorers(score):
    """Targets have the shape of predictions and no missing values."""
    Y2 = LINE[:, :2] + 1
    two = refit().fit(LINE, Y2)
    each = [refit().fit(LINE, column) for column in Y2.T]
    together = score(two, LINE, Y2)
    parts = [score(one, LINE, y) for one, y in zip(each, Y2.T, strict=True)]
    size = 1 if score is neg_nll else 2
    assert together == pytest.approx(sum(parts) / size, rel=1e-2)
    for wrong in (Y2.T, Y2.ravel(), Y2[:50], Y2[:, 0]):
        with pytest.raises(
            ValueError, match=r"600 samples and 2 outputs, .* got shape"
        ):
            score(two, LINE, wrong)
    with pytest.raises(ValueError, match="600 samples and 1 outputs"):
        score(each[0], LINE, Y2[:50, 0])
    assert score(each[0], LINE, Y2[:, :1]) == score(each[0], LINE, Y2[:, 0])
    missing = np.where(np.arange(600) < 2, np.nan, Y2[:, 0])
    with pytest.raises(ValueError, match="y must have no missing values, got 2"):
        score(each[0], LINE, missing)


@pytest.mark.parametrize("table", [False, True])
def test_rates_have_no_distribution(table):
    """Counts divided by exposures can be predicted, but are no counts."""
    rng = np.random.default_rng(0)
    rows, exposure = LINE[:60], rng.choice([1.0, 3.0, 7.0], 60)
    counts = rng.poisson(exposure * np.exp(rows[:, 0]))
    model = small("count") if table else refit(PoissonRegressor(alpha=0.1))
    model.fit(rows, counts / exposure, sample_weight=exposure)
    assert (model.predict(rows) > 0).all()
    for method in ("predict_distribution", "predict_interval", "predict_quantiles"):
        with pytest.raises(ValueError, match=r"whole numbers .* Fit counts instead of"):
            getattr(model, method)(rows)
    with pytest.raises(ValueError, match="whole numbers for distributions of counts"):
        neg_crps(model, rows, counts)
    # Products of rates and exposures are counts, up to rounding.
    model.fit(rows, counts / exposure * exposure)
    assert np.isfinite(neg_nll(model, rows, counts))
    single = (np.float32(200 + counts) / np.float32(0.7)) * np.float32(0.7)
    assert not np.array_equal(single, 200 + counts)
    model.fit(rows, single)
    assert np.isfinite(neg_nll(model, rows, 200 + counts))
    with pytest.raises(ValueError, match=r"got \d+\.5\. Other numbers have no prob"):
        neg_nll(model, rows, counts + 0.5)


def test_several_labels_have_no_sets():
    model = small("labels").fit(X, Y["labels"])
    with pytest.raises(ValueError, match="one label for each sample"):
        model.predict_set(X)


def test_methods_of_the_other_kind():
    assert not hasattr(small("real"), "predict_set")
    assert not hasattr(small("multi"), "predict_interval")
    assert not hasattr(refit(LogisticRegression()), "predict_quantiles")
    assert not hasattr(refit(), "predict_set")
    # Sets need probabilities.
    hinge = AddedNeuronClassifier((3,), loss="smoothed_hinge")
    assert not hasattr(refit(hinge), "predict_set")


def test_constant_targets():
    for model in (refit(), small("real", distribution=True)):
        model.fit(X, np.full(len(X), 3.0))
        np.testing.assert_allclose(model.predict_interval(X), 3, atol=1e-6)
        np.testing.assert_allclose(model.predict_quantiles(X, [0.1, 0.9]), 3, atol=1e-6)


def test_too_few_samples_for_an_interval():
    """Nine samples are not enough for a coverage of 95 %."""
    model = refit(cv=3).fit(LINE[:9], LINE[:9, 0] + 0.1 * LINE[:9, 1])
    assert np.isfinite(model.predict_interval(LINE, 0.9)).all()
    np.testing.assert_array_equal(
        model.predict_interval(LINE[:1], 0.95), [[-np.inf, np.inf]]
    )


def test_unfitted():
    with pytest.raises(NotFittedError):
        clone(small("real")).predict_interval(X)


# --- exact fits and flat transformations ----------------------------------------------

PART = LINE[:60]
EXACT = {
    "constant": (Ridge(), np.full(60, 7.0)),
    "zero": (Ridge(), np.zeros(60)),
    "line": (LinearRegression(), PART @ [1.0, 2, 3] + 100),
    "step": (DecisionTreeRegressor(), (PART[:, 0] > 0) + 5.0),
    "constant output": (Ridge(), np.c_[PART @ [1.0, 2, 3], np.full(60, 3e-9)]),
    "scaled": (
        TransformedTargetRegressor(Ridge(), transformer=StandardScaler()),
        np.full(60, 7.0),
    ),
}


def finite_values(model, X, y):
    """Everything that a distribution returns, which is finite."""
    found, ends = model.predict_distribution(X), model.predict_interval(X)
    values = found.mean, found.std, found.quantile([0.05, 0.95]), found.crps(y)
    for each in (*values, found.log_prob(y), found.cdf(y), ends):
        assert np.isfinite(each).all()
    return found, ends


@pytest.mark.parametrize("distribution", [False, True])
@pytest.mark.parametrize("name", EXACT)
def test_exact_fits_have_errors_of_rounding(name, distribution):
    """The distribution of an exact fit has the size of rounding errors."""
    model, y = EXACT[name]
    fitted = refit(model, distribution=distribution).fit(PART, y)
    found, ends = finite_values(fitted, PART, y)
    exact, std = (each.reshape(60, -1)[:, -1] for each in (y, found.std))
    ulp = np.finfo(float).eps * np.abs(exact).max()
    assert (std <= 100 * max(ulp, 1e-150)).all()
    assert (std >= 0.1 * ulp).all()
    low, high = ends.reshape(60, 2, -1)[..., -1].T
    error = np.abs(fitted.predict(PART).reshape(60, -1)[:, -1] - exact).max()
    assert (low <= exact + 2 * error).all()
    assert (exact - 2 * error <= high).all()


def clipped(values):
    return np.clip(values, 0, None)


def identity(values):
    return np.asarray(values)


@pytest.mark.parametrize("distribution", [False, True])
@pytest.mark.parametrize("name", ["quantiles", "clipped"])
def test_intervals_where_the_inverse_is_flat(name, distribution):
    """Intervals are finite outside of the range of the inverse transformation."""
    X, noise = LINE[:200], 0.3 * np.random.default_rng(1).normal(size=200)
    y, options = (
        (
            np.exp(X[:, 0] + noise),
            {"transformer": QuantileTransformer(n_quantiles=50)},
        )
        if name == "quantiles"
        else (
            clipped(X[:, 0] + noise),
            {"func": identity, "inverse_func": clipped, "check_inverse": False},
        )
    )
    model = refit(TransformedTargetRegressor(Ridge(), **options))
    model.set_params(distribution=distribution).fit(X, y)
    _, ends = finite_values(model, X, y)
    covered = (ends[:, 0] <= y) & (y <= ends[:, 1])
    assert 0.85 <= covered.mean() <= 0.97
    finite_values(model, 100 * X[:5], y[:5])


def test_a_constant_output_leaves_the_others_as_they_are():
    """Intervals of a column of logs do not depend on a constant column beside it."""
    y = np.exp(LINE[:60, 0] + 0.3 * np.random.default_rng(1).normal(size=60))

    def intervals(y):
        ridge = TransformedTargetRegressor(Ridge(), func=np.log, inverse_func=np.exp)
        ridge.fit(LINE[:40], y[:40])
        model = GradientBasisRefit(FrozenEstimator(ridge), alpha=[0.01], center="zero")
        model.fit(LINE[:40], y[:40], X_val=LINE[40:60], y_val=y[40:])
        return model.predict_interval(LINE[60:80])

    both = intervals(np.c_[y, np.full(60, 3.0)])
    np.testing.assert_allclose(both[:, :, 0], intervals(y), rtol=1e-6)
    np.testing.assert_allclose(both[:, :, 1], 3.0)


def test_scale_of_a_transformation_with_a_minimum():
    """The scale of y = q^2 at q = 0 is that of both sides, not their difference."""
    model = TransformedTargetRegressor(
        Ridge(alpha=1e9), func=np.sqrt, inverse_func=np.square, check_inverse=False
    )
    y = np.random.default_rng(0).choice([0.0, 1e-8], size=60)
    fitted = refit(model).fit(PART, y)
    _, ends = finite_values(fitted, PART, y)
    assert (ends[:, 1] > ends[:, 0]).all()


def test_undefined_inverse_is_named():
    """An inverse that is NaN for a prediction gets an error that names it."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 3))
    y = np.exp(X[:, 0] + 0.3 * rng.normal(size=200))
    model = TransformedTargetRegressor(Ridge(), transformer=PowerTransformer())
    with (
        pytest.warns(UserWarning, match="inverse-transformed data are NaN"),
        pytest.raises(ValueError, match=r"inverse_transform of the target.*PowerT"),
    ):
        refit(model).fit(X, y)
