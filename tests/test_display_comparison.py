"""`BasisComparisonDisplay` draws the result of `compare_bases`."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.linear_model import Ridge

from sklearn_pgb import BasisComparisonDisplay, InputBasis, compare_bases

pytestmark = pytest.mark.usefixtures("figures")


@pytest.fixture(scope="module")
def comparison():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(30, 2))
    y = X[:, 0] + rng.normal(size=30)
    return compare_bases({"linear": InputBasis(), "ridge": Ridge(30)}, X, y, cv=3)


def test_display_shows_the_comparison(comparison):
    display = BasisComparisonDisplay.from_comparison(comparison)
    linear, ridge = comparison.reports
    widths = [bar.get_width() for bar in display.loss_bars_]
    assert_allclose(widths, [linear.train_loss, ridge.train_loss])
    assert_allclose(display.bound_line_.get_xdata(), [linear.lower_bound, np.nan])
    assert_allclose(display.floor_line_.get_xdata(), comparison.floor, atol=1e-14)
    assert_allclose(display.score_points_.get_xdata(), linear.scores + ridge.scores)
    assert_allclose(display.score_points_.get_ydata(), [0, 0, 0, 1, 1, 1])
    means = [np.mean(linear.scores), np.mean(ridge.scores)]
    assert_allclose(display.mean_points_.get_xdata(), means)
    losses, scores = display.axes_
    assert losses.get_xlabel() == "training squared error"
    assert scores.get_xlabel() == "held-out R²"
    for ax in display.axes_:
        names = [text.get_text() for text in ax.get_yticklabels()]
        assert names == ["linear", "ridge"]
        assert ax.get_ylim()[0] > ax.get_ylim()[1]


def test_losses_far_apart_get_a_logarithmic_axis():
    display = BasisComparisonDisplay("ab", [1.0, 1e-4], [1.0, 0.0], [[0], [1]]).plot()
    assert display.axes_[0].get_xscale() == "log"
    assert display.floor_line_ is None


def test_one_axes_shows_the_losses(comparison):
    ax = plt.subplots()[1]
    display = BasisComparisonDisplay.from_comparison(
        comparison, ax=ax, bar_kw={"color": "r"}
    )
    assert list(display.axes_) == [ax]
    assert display.mean_points_ is None
    assert display.loss_bars_[0].get_facecolor()[:3] == (1, 0, 0)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="one entry per basis, and scores one column"):
        BasisComparisonDisplay("ab", [1, 2], [1, 2], [0, 1]).plot()
