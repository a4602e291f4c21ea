"""Targets far from zero, extremely small or large targets, and inputs of any size."""

import numpy as np
import pytest
import torch
from sklearn.datasets import make_friedman1
from sklearn.metrics import r2_score
from sklearn.preprocessing import StandardScaler
from table_cases import regressor

from sklearn_pgb import neg_nll
from sklearn_pgb._losses._regression import SquaredLoss
from sklearn_pgb._refit._stacking import fit_stacking_weights
from sklearn_pgb._tables._units import target_units

ROWS, TARGETS = make_friedman1(150, n_features=5, noise=0.5, random_state=0)
UNITS = [
    (0.0, 2.0**-10),
    (0.0, 2.0**5),
    (0.0, 2.0**-60),
    (0.0, 2.0**100),
    (2.0**30, 1.0),
    (2.0**-20, 2.0**-50),
]


@pytest.mark.parametrize(("offset", "unit"), UNITS)
def test_predictions_follow_the_units_of_targets(offset, unit):
    # scikit-learn's network does not center its targets.
    options = {"network": "drop"} if offset else {}
    plain = regressor(distribution=True, **options).fit(ROWS, TARGETS)
    model = regressor(distribution=True, **options).fit(ROWS, offset + unit * TARGETS)
    # Sums of targets far from zero are rounded.
    rounded = 1e-13 * offset / unit
    for name in ("predict", "predict_interval", "predict_quantiles"):
        expected = getattr(plain, name)(ROWS)
        found = (getattr(model, name)(ROWS) - offset) / unit
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 + rounded)
    std = model.predict_distribution(ROWS).std / unit
    np.testing.assert_allclose(std, plain.predict_distribution(ROWS).std, rtol=1e-2)
    assert model.oof_score_ == pytest.approx(plain.oof_score_, abs=1e-4)
    found = (model.oof_prediction_ - offset) / unit
    np.testing.assert_allclose(found, plain.oof_prediction_, atol=1e-2)
    ends = model.predict_interval(ROWS, method="cv+")
    expected = plain.predict_interval(ROWS, method="cv+")
    np.testing.assert_allclose((ends - offset) / unit, expected, rtol=1e-2, atol=1e-2)


def test_units_are_near_standard_deviations():
    """Weights count samples, as in scikit-learn's scaler."""
    weight = np.arange(150) % 4.0
    far = 1e9 - 1e-3 * TARGETS
    y = np.column_stack([TARGETS, 1e4 * TARGETS - 3e4, far, np.full(150, 0.1)])
    expected = StandardScaler().fit(y, sample_weight=weight)
    center, unit = target_units(y, weight)
    np.testing.assert_array_equal(center[:2], 0)
    np.testing.assert_allclose(center[2:], expected.mean_[2:], rtol=1e-14)
    np.testing.assert_array_equal(np.frexp(unit)[0], 0.5)
    assert (abs(np.log2(unit / expected.scale_)) <= 0.51).all()


@pytest.mark.parametrize("at", [0, 70, 150])
def test_samples_without_weight_have_no_units(at):
    y, weight = np.insert(TARGETS, at, 1e300)[:, None], np.insert(np.ones(150), at, 0)
    center, unit = target_units(y, weight)
    assert unit == 4
    assert center == 0
    assert 4 / 2**0.5 < TARGETS.std() < 4 * 2**0.5


def test_each_target_has_units_of_its_own():
    """A small one next to a large one, and one far from zero next to another."""
    y = np.column_stack([1e-10 * TARGETS, TARGETS, 1e9 + TARGETS, 1e7 * TARGETS])
    model = regressor("drop", trees="drop").fit(ROWS, y)
    alone = regressor("drop", trees="drop").fit(ROWS, TARGETS)
    expected = r2_score(TARGETS, alone.predict(ROWS))
    scores = r2_score(y, model.predict(ROWS), multioutput="raw_values")
    np.testing.assert_allclose(scores, np.full(4, expected), atol=0.1)


@pytest.mark.parametrize("value", [0.0, 3.0, -1e30, 1e-30])
@pytest.mark.parametrize("distribution", [False, True])
def test_constant_targets_have_narrow_distributions(value, distribution):
    y = np.full(60, value)
    with np.errstate(all="raise", under="ignore"):
        model = regressor("drop", distribution=distribution).fit(ROWS[:60], y)
        predicted = model.predict_distribution(ROWS[:60])
        np.testing.assert_allclose(predicted.mean, y, rtol=1e-12)
        assert (predicted.std > 0).all()
        assert (predicted.std <= 1e-10 * abs(value) + 1e-150).all()
        # That of a normal density at its mode is -log(std) - 0.92.
        score = neg_nll(model, ROWS[:60], y)
        assert score == pytest.approx(-np.log(predicted.std).mean(), abs=3)


@pytest.mark.parametrize("offset", [0.0, 1e8])
@pytest.mark.parametrize("unit", [1.0, 1e-14, 1e14])
def test_stacking_weights_have_no_units(offset, unit):
    rng = np.random.default_rng(0)
    f = rng.normal(size=200)
    noise = rng.normal(size=(3, 200)) * [[0.1], [0.1], [0.01]]
    columns = np.stack([f + noise[0], f + noise[1], f.mean() + noise[2]])
    weight = torch.ones(200, dtype=torch.float64)

    def fitted(offset, unit):
        y, a, b = torch.from_numpy(offset * unit + unit * columns)[:, :, None]
        return fit_stacking_weights(torch.stack([a, b]), y, weight, SquaredLoss())

    weights, shift = fitted(0.0, 1.0)
    found, moved = fitted(offset, unit)
    np.testing.assert_allclose(found, weights, atol=1e-5)
    expected = unit * (shift + offset * (1 - weights.sum()))
    np.testing.assert_allclose(moved, expected, rtol=1e-4)


def test_features_may_exceed_single_precision():
    """Trees only use the order of values."""
    rows = ROWS.copy()
    rows[TARGETS > 20, 0] = 1e300
    model = regressor().fit(rows, TARGETS)
    limited = np.where(rows == 1e300, 1e38, rows)
    np.testing.assert_allclose(
        regressor(network="drop").fit(limited, TARGETS).predict(limited),
        regressor(network="drop").fit(rows, TARGETS).predict(rows),
    )
    assert np.isfinite(model.predict([[-1e308, 0, 0, 0, 0]])).all()


@pytest.mark.parametrize("name", ["network", "trees", "forest"])
@pytest.mark.parametrize(
    ("offset", "unit"), [(0, 2.0**-40), (0, 2.0**200), (2.0**33, 1.0)]
)
def test_predictions_do_not_depend_on_the_units_of_numbers(name, offset, unit):
    """Of no member: forests would see three values of 2^33 + x."""
    rows = np.round(2**14 * ROWS) / 2**14
    kept = {each: "drop" for each in ("network", "trees", "forest") if each != name}
    expected = regressor(**kept).fit(rows, TARGETS)
    model = regressor(**kept).fit(offset + unit * rows, TARGETS)
    np.testing.assert_allclose(
        model.predict(offset + unit * rows), expected.predict(rows), rtol=1e-6
    )


def test_rounding_errors_have_no_units():
    y = np.array([[0.3], [0.1 + 0.2]])
    center, unit = target_units(y, np.ones(2))
    np.testing.assert_allclose(center, 0.3)
    np.testing.assert_array_equal(unit, 1)
