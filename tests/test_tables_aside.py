"""Samples that no model sees, which measure the errors of a refit."""

import numpy as np
import pytest
from sklearn.datasets import make_friedman1
from sklearn.metrics import r2_score
from sklearn.model_selection import ShuffleSplit
from table_cases import regressor

from sklearn_pgb import GradientBasisRegressor
from sklearn_pgb._predictive._reduction import estimated_reduction, measured_reduction
from sklearn_pgb._tables import _folds
from sklearn_pgb._tables._folds import samples_aside

ROWS, TARGETS = make_friedman1(200, n_features=5, noise=0.5, random_state=0)
# Of standard deviation near one, so that members see them as they are.
TARGETS /= 4


@pytest.fixture
def many(monkeypatch):
    """More than 100 samples are enough to set some aside."""
    monkeypatch.setattr(_folds, "FEW_SAMPLES", 100)


@pytest.fixture
def scales(monkeypatch):
    """The models of the folds for the log scale of each regressor that is fitted."""
    found = []

    def spy(self, new, seen, models):
        found.append(models)
        return size_errors(self, new, seen, models)

    size_errors = GradientBasisRegressor._size_errors
    monkeypatch.setattr(GradientBasisRegressor, "_size_errors", spy)
    return found


# --- which samples --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n_samples", "count"), [(3000, 0), (3001, 150), (8200, 410), (30_000, 1024)]
)
def test_number_of_samples(n_samples, count):
    rows = np.arange(n_samples)[:, None]
    assert len(samples_aside(rows, None, 0)) == count


def test_duplicates_and_groups_stay_together(many):
    rows = np.random.RandomState(0).randint(80, size=(400, 1)) / 8
    groups = np.random.RandomState(1).randint(60, size=400)
    for cluster, given in ((rows[:, 0], None), (groups, groups)):
        aside = samples_aside(
            np.arange(400)[:, None] if given is not None else rows, given, 0
        )
        assert 10 < len(aside) <= 20
        others = np.delete(cluster, aside)
        assert not np.isin(cluster[aside], others).any()


def test_large_groups_do_not_stop_the_draw(many):
    """Half of the samples are equal; the others are drawn from."""
    rows = np.r_[np.zeros(200), np.arange(1, 201)][:, None]
    for seed in range(10):
        aside = samples_aside(rows, None, seed)
        assert len(aside) == 20
        assert rows[aside].all()


def test_large_groups_are_not_set_aside(many):
    assert len(samples_aside(np.ones((400, 1)), None, 0)) == 0
    assert len(samples_aside(np.arange(400)[:, None], np.arange(400) % 4, 0)) == 0


def test_other_seeds_draw_other_samples(many):
    rows = np.arange(400)[:, None]
    assert set(samples_aside(rows, None, 0)) != set(samples_aside(rows, None, 1))


def test_measured_reduction():
    """Two outputs: the refit has a quarter of the folds' errors, and none at all."""
    errors, weight = np.array([1.0, -2.0, 6.0]), np.array([1.0, 1.0, 2.0])
    own = np.stack([errors, np.zeros(3)], 1)
    # Their weighted absolute errors are 15, 45 and 75.
    folds = [[[3, 0], [-6, 0], [18, 0]], [[-75, 0], [0, 0], [0, 0]]]
    found = measured_reduction(own, np.array(folds, dtype=float), weight)
    np.testing.assert_allclose(found, [15 / ((45 + 75) / 2), 1])


def test_mean_of_independent_models():
    """Without bias, the mean of four models has half of their error."""
    rng = np.random.default_rng(0)
    folds = rng.normal(size=(4, 100_000, 1))
    errors = rng.normal(size=(100_000, 1))
    weight = rng.uniform(0.5, 1, 100_000)
    found = estimated_reduction(errors, folds, weight)
    np.testing.assert_allclose(found, [0.5], rtol=0.01)
    assert estimated_reduction(0 * errors, 0 * folds, weight) == 1
    assert estimated_reduction(errors, 9 * folds, weight) == pytest.approx(0.2**0.5)


# --- the regressor --------------------------------------------------------------------


def test_no_model_sees_the_samples(many):
    aside = samples_aside(ROWS, None, drawn_seed())
    model = regressor(distribution=True).fit(ROWS, TARGETS)
    y = TARGETS.copy()
    y[aside] = model.predict(ROWS[aside])
    other = regressor(distribution=True).fit(ROWS, y)
    np.testing.assert_array_equal(model.predict(ROWS), other.predict(ROWS))
    np.testing.assert_allclose(other._oof_errors["aside"]["errors"], 0, atol=1e-12)


def test_errors_are_those_of_the_samples(many, scales):
    aside = samples_aside(ROWS, None, drawn_seed())
    weight = np.random.default_rng(0).uniform(0.5, 2, 200)
    model = regressor(distribution=True).fit(ROWS, TARGETS, weight)
    new, y = ROWS[aside], TARGETS[aside]
    errors = (y - model.predict(new)) / model._located(new).scale[:, 0]
    stored = model._oof_errors
    np.testing.assert_allclose(stored["aside"]["errors"][:, 0], errors, rtol=1e-8)
    np.testing.assert_array_equal(stored["aside"]["weight"], weight[aside])
    # An interval of 75 % holds at least 75 % of them and one more.
    low, high = model.predict_interval(new, 0.75).T
    held = weight[aside] @ ((low - 1e-9 <= y) & (y <= high + 1e-9))
    assert held >= 0.75 * weight[aside].sum() * (1 + 1 / len(aside))
    # Their predictions are those of the refit, which has not seen them.
    np.testing.assert_allclose(model.oof_prediction_[aside], model.predict(new))
    expected = r2_score(TARGETS, model.oof_prediction_, sample_weight=weight)
    assert model.oof_score_ == pytest.approx(expected)
    # CV+ has the errors of the folds, which none of these samples is in. Those of
    # distributions are as much smaller as on these samples.
    assert len(stored["folds"]["errors"]) == 200 - len(aside)
    folds = np.stack(model._fold_locations(new))[..., 0]
    logs = model._of_folds("scale of", new, scales[0], 0.0)
    scale = np.stack([model._scale_from(each)[:, 0] for each in logs])
    w = weight[aside]
    ratio = w @ abs(errors) / np.mean(abs(y - folds) / scale @ w)
    found = stored["errors"] / stored["folds"]["errors"]
    np.testing.assert_allclose(found, np.full(found.shape, ratio), rtol=1e-6)


def test_few_samples_are_all_trained_on():
    model = regressor(distribution=True).fit(ROWS, TARGETS)
    plain = regressor().fit(ROWS, TARGETS)
    np.testing.assert_array_equal(model.predict(ROWS), plain.predict(ROWS))
    folds = model._fold_locations(ROWS)
    errors = (TARGETS - model.oof_prediction_)[:, None]
    expected = estimated_reduction(errors, folds, np.ones(200))
    stored = model._oof_errors
    found = stored["errors"] / stored["folds"]["errors"]
    np.testing.assert_allclose(found, np.full((200, 1), expected))


def test_splitters_that_hold_out_some_samples(many):
    """The scale is constant, and the samples aside measure errors."""
    splitter = ShuffleSplit(2, test_size=0.3, random_state=0)
    model = regressor(cv=splitter, distribution=True).fit(ROWS, TARGETS)
    aside = samples_aside(ROWS, None, drawn_seed())
    errors = TARGETS[aside] - model.predict(ROWS[aside])
    np.testing.assert_allclose(model._oof_errors["aside"]["errors"][:, 0], errors)
    np.testing.assert_allclose(model.oof_prediction_[aside], TARGETS[aside] - errors)
    width = np.diff(model.predict_interval(ROWS, 0.75))[:, 0]
    np.testing.assert_allclose(width, 2 * np.sort(abs(errors))[-2])
    with pytest.raises(ValueError, match="a `cv` that holds out every sample"):
        model.predict_interval(ROWS, method="cv+")


@pytest.mark.parametrize("halves", [False, True])
def test_models_of_the_folds_made_the_held_out_predictions(halves, monkeypatch, scales):
    if halves:
        monkeypatch.setattr(_folds, "MANY_SAMPLES", 50)
    model = regressor(cv=3, distribution=True).fit(ROWS, TARGETS)
    folds = np.stack(model._fold_locations(ROWS))[..., 0]
    assert len(folds) == (6 if halves else 3)
    stored, rows = model._oof_errors["folds"], np.arange(200)
    own = folds[stored["fold"], rows]
    np.testing.assert_allclose(own, model.oof_prediction_, rtol=1e-7)
    logs = np.stack(model._of_folds("scale of", ROWS, scales[0], 0.0))
    scale = model._scale_from(logs[stored["fold"], rows])
    errors = (TARGETS - own)[:, None] / scale
    np.testing.assert_allclose(stored["errors"], errors, rtol=1e-6)


def drawn_seed():
    """Third seed of `random_state=0`."""
    rng = np.random.RandomState(0)
    return int(rng.randint(np.iinfo(np.int32).max, size=3)[2])
