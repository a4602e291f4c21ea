"""Displays take matplotlib's keywords, in each of their names."""

import matplotlib.pyplot as plt
import pytest
from matplotlib.colors import to_rgba

from sklearn_pgb import BasisComparisonDisplay, MinimaSurveyDisplay, TrainingDisplay

pytestmark = pytest.mark.usefixtures("figures")


def survey(**style):
    return MinimaSurveyDisplay([1.0, 2.0]).plot(line_kw=style).step_line_


def training(**style):
    return TrainingDisplay([2.0, 1.0]).plot(line_kw=style).loss_line_


def comparison(**style):
    display = BasisComparisonDisplay(["a"], [1.0], [0.5], [[1.0, 2.0]])
    return display.plot(bar_kw=style).loss_bars_.patches[0]


@pytest.mark.parametrize("plot", [survey, training, comparison])
@pytest.mark.parametrize("name", ["lw", "linewidth"])
def test_names_of_the_width(plot, name):
    assert plot(**{name: 3}).get_linewidth() == 3


@pytest.mark.parametrize(
    ("plot", "name"),
    [(survey, "c"), (survey, "color"), (training, "c"), (comparison, "color")],
)
def test_names_of_the_color(plot, name):
    line = plot(**{name: "r"})
    get = getattr(line, "get_color", None) or line.get_facecolor
    assert to_rgba(get())[:3] == to_rgba("r")[:3]


def test_two_names_of_one_keyword():
    with pytest.raises(TypeError, match="Got both c and color"):
        survey(c="r", color="b")


def test_steps_before_the_losses():
    assert survey(where="pre").get_drawstyle() == "steps-pre"
    assert survey().get_drawstyle() == "steps-post"


@pytest.mark.parametrize("style", [{"width": 0.3}, {"y": [1]}])
def test_data_are_no_keywords(style):
    with pytest.raises(TypeError, match="bar_kw must not have"):
        comparison(**style)
    assert not plt.get_fignums()


@pytest.mark.parametrize(
    ("status", "step", "title"),
    [
        ("max_iter", "iteration", "out of iterations"),
        ("max_iter", "epoch", "out of epochs"),
        ("early_stopped", "epoch", "stopped early"),
    ],
)
def test_words_of_a_status(status, step, title):
    display = TrainingDisplay([2.0, 1.0], status=status, step_name=step).plot()
    assert display.axes_[0].get_title() == title
