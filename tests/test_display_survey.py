"""`MinimaSurveyDisplay` draws the result of `survey_minima`."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.neural_network import MLPRegressor

from sklearn_pgb import MinimaSurveyDisplay, survey_minima

pytestmark = pytest.mark.usefixtures("figures")


@pytest.fixture(scope="module")
def survey():
    rng = np.random.default_rng(0)
    X = np.vstack([rng.normal(size=(20, 2)), np.zeros((2, 2))])
    y = np.r_[X[:20, 0] ** 2, 0, 1]
    network = MLPRegressor(hidden_layer_sizes=(2,), activation="tanh", solver="lbfgs")
    return survey_minima(network, X, y, n_starts=6, random_state=0)


def test_display_shows_the_survey(survey):
    display = MinimaSurveyDisplay.from_survey(survey, name="two units")
    assert_allclose(display.step_line_.get_xdata(), np.sort(survey.loss))
    assert_allclose(display.step_line_.get_ydata(), np.arange(1, 7) / 6)
    points = [line.get_xdata() for line in display.points_.values()]
    assert_allclose(np.sort(np.concatenate(points)), np.sort(survey.loss))
    assert set(display.points_) == set(survey.verdict)
    lines = {k: line.get_xdata()[0] for k, line in display.bound_lines_.items()}
    assert_allclose(lines["floor"], survey.floor)
    assert_allclose(lines["linear model"], survey.linear)
    assert_allclose(lines["gradient basis of the best network"], survey.best_bound)
    assert display.ax_.get_title() == "two units"


def test_points_have_the_colour_of_their_verdict():
    verdicts = ["critical", "odd", "critical", "certified_global"]
    display = MinimaSurveyDisplay([4.0, 3.0, 2.0, 1.0], verdicts).plot()
    assert_array_equal(display.points_["critical"].get_xdata(), [2, 4])
    assert_array_equal(display.points_["critical"].get_ydata(), [0.5, 1])
    assert display.points_["odd"].get_label() == "odd (1)"
    labels = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert labels[0] == "global minimum, certified (1)"
    colours = {line.get_color() for line in display.points_.values()}
    assert len(colours) == 3


def test_scale_follows_the_losses():
    display = MinimaSurveyDisplay([1e-4, 1.0], bounds={"floor": 1e-18}).plot()
    assert display.ax_.get_xscale() == "log"
    assert display.bound_lines_["floor"].get_label() == "floor: 0"
    display = MinimaSurveyDisplay([1.0, 1.5], bounds={"floor": 0, "x": np.nan}).plot()
    assert display.ax_.get_xscale() == "linear"
    assert list(display.bound_lines_) == ["floor"]


def test_display_draws_on_given_axes(survey):
    ax = plt.subplots()[1]
    display = MinimaSurveyDisplay.from_survey(survey, ax=ax, line_kw={"lw": 3})
    assert display.ax_ is ax
    assert display.step_line_.get_linewidth() == 3


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="verdicts must have one entry per start"):
        MinimaSurveyDisplay([1.0, 2.0], ["critical"]).plot()
