"""Displays draw the given values, and `from_*` pass the right ones."""

import sys

import matplotlib.pyplot as plt
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.compose import TransformedTargetRegressor
from sklearn.exceptions import NotFittedError
from sklearn.neighbors import KNeighborsRegressor
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from sklearn_pgb import (
    AddedNeuronClassifier,
    AddedNeuronRegressor,
    BasisComparisonDisplay,
    CertificateDisplay,
    MinimaSurveyDisplay,
    TrainingDisplay,
)

pytestmark = pytest.mark.usefixtures("figures")


@pytest.fixture(scope="module")
def data():
    """Thirty samples: X, real targets and three labels."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(30, 3))
    y = X[:, 0] - X[:, 1] * X[:, 2] + 0.1 * rng.normal(size=30)
    return X, y, np.array(["a", "b", "c"])[np.digitize(y, (-0.5, 0.5))]


@pytest.fixture(scope="module")
def regressor(data):
    X, y, _ = data
    return AddedNeuronRegressor((5,), max_iter=12, random_state=0).fit(X, y)


@pytest.fixture(scope="module")
def classifier(data):
    X, _, labels = data
    network = AddedNeuronClassifier(
        (5,), max_iter=12, early_stopping=True, random_state=0
    )
    return network.fit(X, labels)


def image(figure):
    """The figure's pixels; drawing also raises errors of broken artists."""
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())


# -- TrainingDisplay -----------------------------------------------------------------


def test_regressor_is_drawn(regressor):
    display = TrainingDisplay.from_estimator(regressor)
    image(display.figure_)
    epochs, losses = display.loss_line_.get_data()
    assert_array_equal(epochs, np.arange(1, regressor.n_iter_ + 1))
    assert_array_equal(losses, regressor.loss_curve_)
    assert display.loss_point_.get_ydata() == [regressor.loss_]
    # Inputs are distinct: the floor is zero, up to rounding that is not drawn.
    assert_array_equal(display.floor_line_.get_ydata(), [0, 0])
    iterations, norms = display.norm_line_.get_data()
    assert_array_equal(iterations, np.arange(len(norms)))
    assert_array_equal(norms, regressor.neuron_norm_curve_)
    assert display.score_line_ is None
    assert len(display.axes_) == 2
    assert display.axes_[0].get_xlabel() == "epoch"
    gap = f"{regressor.floor_gap_:.4g} above the floor"
    assert display.axes_[0].get_title().endswith(gap)


def test_classifier_is_drawn_with_its_scores(classifier):
    display = TrainingDisplay.from_estimator(classifier)
    image(display.figure_)
    assert len(display.axes_) == 3
    assert_array_equal(display.score_line_.get_ydata(), classifier.validation_scores_)
    assert display.axes_[2].get_ylabel() == "held-out accuracy"


def test_iterations_and_scores_are_called_what_they_are(data):
    X, y, _ = data
    lbfgs = AddedNeuronRegressor((5,), solver="lbfgs", max_iter=3).fit(X, y)
    assert TrainingDisplay.from_estimator(lbfgs).step_name == "iteration"
    early = AddedNeuronRegressor((5,), max_iter=3, early_stopping=True).fit(X, y)
    assert TrainingDisplay.from_estimator(early).score_name == "R²"


def test_network_at_the_end_of_wrappers(data):
    X, y, _ = data
    network = AddedNeuronRegressor((5,), max_iter=3, random_state=0)
    model = TransformedTargetRegressor(
        make_pipeline(StandardScaler(), network), transformer=StandardScaler()
    ).fit(X, y)
    display = TrainingDisplay.from_estimator(model)
    assert display.loss_curve == model.regressor_[-1].loss_curve_


@pytest.mark.parametrize("make", [MLPRegressor, MLPClassifier])
def test_network_of_scikit_learn_has_a_loss_only(data, make):
    X, y, labels = data
    network = make(hidden_layer_sizes=(5,), max_iter=5, random_state=0)
    network.fit(X, y if make is MLPRegressor else labels)
    display = TrainingDisplay.from_estimator(network)
    assert_array_equal(display.loss_line_.get_ydata(), network.loss_curve_)
    assert len(display.axes_) == 1
    assert display.floor_line_ is display.norm_line_ is display.loss_point_ is None


def test_network_of_partial_fit_has_a_loss_only(data):
    X, y, _ = data
    network = AddedNeuronRegressor((5,)).partial_fit(X, y)
    assert len(TrainingDisplay.from_estimator(network).axes_) == 1


@pytest.mark.parametrize(
    ("curve", "scale"),
    [
        pytest.param([1.0, 0.1, 0.01], "log", id="far-apart"),
        pytest.param([1.0, np.inf, np.nan, 0.01], "log", id="overflow"),
        pytest.param([1.0, 0.9, 0.8], "linear", id="close"),
        pytest.param([1.0, 0.01, 0.0], "symlog", id="exact-zero"),
        pytest.param([1.0, 0.01, -0.5], "linear", id="negative"),
        pytest.param([0.0, 0.0], "linear", id="zeros"),
        pytest.param([np.nan], "linear", id="nothing-finite"),
        pytest.param([], "linear", id="empty"),
    ],
)
def test_scale_shows_all_losses(curve, scale):
    """All finite losses of any sign lie within the axis."""
    display = TrainingDisplay(curve, floor=0.0).plot()
    image(display.figure_)
    ax = display.axes_[0]
    assert ax.get_yscale() == scale
    low, high = ax.get_ylim()
    finite = [value for value in curve if np.isfinite(value)]
    assert all(low <= value <= high for value in finite)


def test_floor_is_drawn():
    """The floor is a line at its value; rounding errors do not extend the axis."""
    display = TrainingDisplay([1.0, 0.1, 0.05], 0.02).plot()
    assert_array_equal(display.floor_line_.get_ydata(), [0.02, 0.02])
    assert display.axes_[0].get_ylim()[0] < 0.02
    display = TrainingDisplay([1.0, 0.1, 0.05], 1e-34).plot()
    image(display.figure_)
    assert display.axes_[0].get_ylim()[0] > 0.01


def test_lines_across_leave_the_scale_alone():
    _, ax = plt.subplots()
    ax.axvline(1)
    assert TrainingDisplay([1.0, 0.01]).plot(ax).axes_[0].get_yscale() == "log"


@pytest.mark.parametrize(
    ("status", "title"),
    [
        ("certified_global", "global minimum, certified: 0.5 above the floor"),
        ("diverging", "added neurons diverge: 0.5 above the floor"),
        ("max_iter", "out of epochs: 0.5 above the floor"),
        ("any other text", "any other text: 0.5 above the floor"),
        (None, "0.5 above the floor"),
    ],
)
def test_title_says_how_it_ended(status, title):
    display = TrainingDisplay([2.0, 1.0], 0.5, loss=1.0, status=status).plot()
    assert display.axes_[0].get_title() == title


def test_trainings_share_axes(regressor, classifier):
    """Trainings have their names in the legend, and their common floor once."""
    first = TrainingDisplay.from_estimator(classifier, name="first")
    second = TrainingDisplay.from_estimator(
        regressor, name="second", ax=first.axes_[:2], line_kw={"color": "red"}
    )
    image(first.figure_)
    assert plt.get_fignums() == [first.figure_.number]
    assert second.figure_ is first.figure_
    assert_array_equal(second.axes_, first.axes_[:2])
    assert second.loss_line_.get_color() == second.norm_line_.get_color() == "red"
    texts = [text.get_text() for text in first.axes_[0].get_legend().get_texts()]
    assert [text.partition(",")[0] for text in texts] == ["first", "floor: 0", "second"]
    assert first.axes_[0].get_title() == ""


def test_one_axes_shows_the_loss(regressor):
    _, ax = plt.subplots()
    display = TrainingDisplay.from_estimator(regressor, ax=ax)
    assert display.axes_.tolist() == [ax]
    assert display.loss_line_ in ax.lines
    assert display.norm_line_ is None


def test_wrong_axes_are_refused():
    display = TrainingDisplay([1.0], neuron_norm_curve=[1.0])
    with pytest.raises(TypeError, match=r"ax must be a matplotlib Axes .* got str"):
        display.plot("here")
    axes = plt.subplots(1, 3)[1]
    with pytest.raises(ValueError, match=r"ax must hold 1 to 2 Axes, .* got 3"):
        display.plot(axes)


@pytest.mark.parametrize(
    "name", ["loss_curve", "neuron_norm_curve", "validation_scores"]
)
def test_wrong_curve_is_refused(name):
    curves = {"loss_curve": [1.0], name: [[1.0, 2.0]]}
    with pytest.raises(ValueError, match=rf"{name} must be 1-d, .* got shape \(1, 2\)"):
        TrainingDisplay(**curves).plot()
    assert plt.get_fignums() == []


def test_estimator_without_a_training_is_refused(data):
    X, y, _ = data
    with pytest.raises(TypeError, match="estimator must be a network of this package"):
        TrainingDisplay.from_estimator(KNeighborsRegressor().fit(X, y))
    with pytest.raises(NotFittedError):
        TrainingDisplay.from_estimator(AddedNeuronRegressor())
    lbfgs = MLPRegressor(hidden_layer_sizes=(5,), solver="lbfgs", max_iter=5).fit(X, y)
    for estimator in (lbfgs, nn.Linear(3, 1)):
        with pytest.raises(TypeError, match="must be a network that keeps its loss_cu"):
            TrainingDisplay.from_estimator(estimator)


def test_empty_name_keeps_the_legend():
    display = TrainingDisplay([3.0, 2.0], name="").plot()
    (text,) = display.axes_[0].get_legend().get_texts()
    assert text.get_text() == display.loss_line_.get_label()


@pytest.mark.parametrize(
    ("display", "name"),
    [
        (CertificateDisplay(None), "certificate"),
        (BasisComparisonDisplay(len, [1.0], [0.5], [[0.1]]), "names"),
        (BasisComparisonDisplay(["a"], len, [0.5], [[0.1]]), "train_losses"),
        (BasisComparisonDisplay(["a"], [1.0], [0.5], [[0.1]], floor="0"), "floor"),
        (TrainingDisplay([1.0], validation_scores=len), "validation_scores"),
        (TrainingDisplay([1.0], status=3), "status"),
        (MinimaSurveyDisplay(["a"]), "losses"),
        (MinimaSurveyDisplay([1.0], bounds=[0.5]), "bounds"),
    ],
)
def test_junk_is_refused_by_name(display, name):
    with pytest.raises(TypeError, match=f"{name} must be "):
        display.plot()
    assert plt.get_fignums() == []


# -- without matplotlib --------------------------------------------------------------


@pytest.mark.parametrize(
    ("draw", "caller"),
    [
        (lambda: TrainingDisplay([1.0]).plot(), "TrainingDisplay.plot"),
        (
            lambda: TrainingDisplay.from_estimator(None),
            "TrainingDisplay.from_estimator",
        ),
    ],
)
def test_matplotlib_is_missing(draw, caller, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=f"{caller} requires matplotlib"):
        draw()
