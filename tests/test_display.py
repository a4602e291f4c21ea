"""Displays: what is drawn is what was given, and where it comes from is right."""

import sys

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from sklearn_pgb import (
    AddedNeuronClassifier,
    AddedNeuronRegressor,
    LandscapeDisplay,
    TrainingDisplay,
)

SURFACE = {"kind": "surface"}


@pytest.fixture(autouse=True)
def figures():
    """Draw without a screen, and leave no figure behind."""
    matplotlib.use("Agg")
    assert plt.get_fignums() == []
    yield
    plt.close("all")


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
    """The figure's pixels; drawing raises what a broken artist would raise later."""
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
    """All finite losses lie within the axis, whatever their sign."""
    display = TrainingDisplay(curve, floor=0.0).plot()
    image(display.figure_)
    ax = display.axes_[0]
    assert ax.get_yscale() == scale
    low, high = ax.get_ylim()
    finite = [value for value in curve if np.isfinite(value)]
    assert all(low <= value <= high for value in finite)


def test_floor_is_drawn():
    """A floor is a line of its own height; rounding does not stretch the axis."""
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
    """Named trainings have their names in the legend, and one floor between them."""
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
        TrainingDisplay.from_estimator(Ridge().fit(X, y))
    with pytest.raises(NotFittedError):
        TrainingDisplay.from_estimator(AddedNeuronRegressor())
    lbfgs = MLPRegressor(hidden_layer_sizes=(5,), solver="lbfgs", max_iter=5).fit(X, y)
    for estimator in (lbfgs, nn.Linear(3, 1)):
        with pytest.raises(TypeError, match="must be a network that keeps its loss_cu"):
            TrainingDisplay.from_estimator(estimator)


# -- LandscapeDisplay ----------------------------------------------------------------


def bowl(x, y):
    """A function that arrays and tensors can go through."""
    return (x - 1) ** 2 + 2 * y**2 + x * y


def bowl_slopes(x, y):
    return np.stack([2 * (x - 1) + y, 4 * y + x])


@pytest.mark.parametrize("gradient", ["differences", "autograd"])
def test_slopes_of_a_function(gradient):
    display = LandscapeDisplay.from_function(
        bowl, (-1, 2), (-2, 3), gradient=gradient, resolution=(7, 9)
    )
    assert_array_equal(display.x, np.linspace(-1, 2, 7))
    assert_array_equal(display.y, np.linspace(-2, 3, 9))
    grid = np.meshgrid(display.x, display.y)
    assert_allclose(display.values, bowl(*grid), rtol=1e-15)
    # Truncation and rounding of differences are about 1e-10; at the ends of the ranges
    # they are one-sided and about 1e-5.
    tolerance = 1e-12 if gradient == "autograd" else 1e-4
    assert_allclose(display.slopes, bowl_slopes(*grid), atol=tolerance)
    assert_allclose(
        display.slopes[:, 1:-1, 1:-1], bowl_slopes(*grid)[:, 1:-1, 1:-1], atol=1e-8
    )


def test_function_is_asked_within_its_ranges():
    """No value and no slope needs the function beyond the ends."""

    def checked(x, y):
        assert 0 <= x.min() <= x.max() <= 1
        assert 2 <= y.min() <= y.max() <= 5
        return np.sqrt(x * (1 - x) * (y - 2) * (5 - y))

    LandscapeDisplay.from_function(checked, (0, 1), (2, 5), resolution=4)


def test_autograd_of_a_function_of_one_parameter():
    display = LandscapeDisplay.from_function(
        lambda x, y: x**2, (-1, 1), (-1, 1), gradient="autograd", resolution=3
    )
    assert_array_equal(display.slopes[0], 2 * np.meshgrid(display.x, display.y)[0])
    assert not display.slopes[1].any()


def test_contours_and_arrows():
    display = LandscapeDisplay.from_function(
        bowl, (-1, 2), (-2, 3), gradient="autograd", value_name="height"
    )
    before = image(display.figure_)
    assert display.ax_.get_xlabel() == "x"
    assert display.ax_.get_ylabel() == "y"
    assert display.colorbar_.ax.get_ylabel() == "height"
    levels = display.contour_.levels
    assert levels[0] == display.values.min()
    assert levels[-1] == pytest.approx(display.values.max())
    # The rings of a bowl: the roots of the heights are equally far apart.
    roots = np.sqrt(levels - levels[0])
    assert_allclose(np.diff(roots), roots[-1] / 20)
    arrows = display.arrows_
    down = -bowl_slopes(arrows.X, arrows.Y)
    assert_allclose([arrows.U, arrows.V], down / np.hypot(*down), atol=1e-12)
    assert len(arrows.X) == 16**2
    again = LandscapeDisplay(
        display.x, display.y, display.values, display.slopes, value_name="height"
    ).plot()
    assert_array_equal(image(again.figure_), before)


def test_no_arrow_without_slope():
    """Flat and undefined points have no arrow, and values may be missing."""
    values = np.array([[0.0, 1.0, 2.0], [0.0, np.nan, np.inf]])
    slopes = np.array([[[0, 1, 1], [0, np.nan, 0]], [[0, 1, 0], [-2, 1, 0]]])
    display = LandscapeDisplay([0, 1, 2], [0, 1], values, slopes).plot(n_arrows=3)
    image(display.figure_)
    assert_array_equal(
        np.stack([display.arrows_.X, display.arrows_.Y]), [[1, 2, 0], [0, 0, 1]]
    )
    assert_allclose(display.arrows_.U, [-(0.5**0.5), -1, 0])
    assert_allclose(display.arrows_.V, [-(0.5**0.5), 0, 1])


def test_surface():
    display = LandscapeDisplay.from_function(
        bowl, (-1, 2), (-2, 3), gradient=None, resolution=9, value_name="V", **SURFACE
    )
    image(display.figure_)
    assert display.ax_.name == "3d"
    assert display.ax_.get_zlabel() == "V"
    assert display.slopes is None
    assert display.contour_ is display.arrows_ is display.colorbar_ is None
    n_faces = len(display.surface_.get_facecolor())
    assert n_faces == 8 * 8


def test_surface_with_a_hole():
    values = np.arange(12.0).reshape(3, 4)
    values[1, 1] = np.nan
    image(LandscapeDisplay(range(4), range(3), values).plot("surface").figure_)


@pytest.mark.parametrize("value", [0.0, -3.0, 1e9])
@pytest.mark.parametrize("kind", ["contour", "surface"])
def test_constant_function(value, kind):
    display = LandscapeDisplay([0, 1], [0, 1], np.full((2, 2), value)).plot(kind)
    image(display.figure_)


def test_levels_and_colours():
    """Levels may be given; what lies beyond them is coloured too."""
    display = LandscapeDisplay.from_function(
        bowl, (-1, 2), (-2, 3), levels=(1.0, 2.0, 10.0), colorbar=False, n_arrows=4
    )
    image(display.figure_)
    assert display.colorbar_ is None
    assert_array_equal(display.contour_.levels, (1, 2, 10))
    assert display.contour_.extend == "both"
    assert len(display.arrows_.X) == 16


@pytest.mark.parametrize("kind", ["contour", "surface"])
def test_landscape_on_given_axes(kind):
    figure = plt.figure()
    needed = "3d" if kind == "surface" else "rectilinear"
    ax = figure.add_subplot(projection=needed)
    display = LandscapeDisplay.from_function(bowl, (0, 1), (0, 1), kind=kind, ax=ax)
    assert display.ax_ is ax
    assert display.figure_ is figure
    assert plt.get_fignums() == [figure.number]


def test_wrong_landscape_axes_are_refused():
    display = LandscapeDisplay([0, 1], [0, 1], np.eye(2))
    figure = plt.figure()
    for kind, given in (("surface", "rectilinear"), ("contour", "3d")):
        ax = figure.add_subplot(projection=given)
        with pytest.raises(TypeError, match=f"for kind='{kind}', got '{given}'"):
            display.plot(kind, ax)
    with pytest.raises(TypeError, match=r"ax must be a matplotlib Axes .* got 'int'"):
        display.plot(ax=3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"values": np.eye(3)}, r"values must have shape \(n_y, n_x\) = \(2, 2\), got"),
        ({"values": np.full((2, 2), np.nan)}, "values must have a finite entry"),
        ({"slopes": np.eye(2)}, r"slopes must have shape \(2, n_y, n_x\) = \(2, 2, 2"),
    ],
)
def test_wrong_arrays_are_refused(change, message):
    arrays = {"x": [0, 1], "y": [0, 1], "values": np.eye(2), **change}
    with pytest.raises(ValueError, match=message):
        LandscapeDisplay(**arrays).plot()
    assert plt.get_fignums() == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "line"}, "kind must be 'contour' or 'surface', got 'line'"),
        ({"gradient": "exact"}, "gradient must be 'differences', 'autograd' or None"),
        ({"x_range": (1, 0)}, r"x_range must be two finite numbers.*got \(1, 0\)"),
        ({"y_range": (0, np.inf)}, "y_range must be two finite numbers"),
        ({"resolution": 1}, "resolution must be an integer of at least 2, got 1"),
        ({"resolution": (5, 2.5)}, "resolution must be an integer of at least 2"),
        ({"function": lambda x, y: 1.0}, "function must return values of the shape"),
        (
            {"function": lambda x, y: x.sum(), "gradient": "autograd"},
            r"function must return a tensor of the shape of x and y, \(61, 61\), got",
        ),
        (
            {"function": lambda x, y: x.detach(), "gradient": "autograd"},
            "function must use torch operations",
        ),
    ],
)
def test_wrong_function_is_refused(change, message):
    request = {"function": bowl, "x_range": (0, 1), "y_range": (0, 1), **change}
    with pytest.raises(ValueError, match=message):
        LandscapeDisplay.from_function(**request)
    assert plt.get_fignums() == []


# -- the landscape of a network ------------------------------------------------------


def around(estimator, X, y, **kwargs):
    kwargs = {"resolution": 5, "random_state": 0, **kwargs}
    return LandscapeDisplay.from_estimator(estimator, X, y, **kwargs)


def test_plane_of_a_regressor(data, regressor):
    """The network is in the middle, and slopes are the derivatives of the values."""
    X, y, _ = data
    display = around(regressor, X, y, span=0.5)
    image(display.figure_)
    assert display.values[2, 2] == pytest.approx(regressor.loss_, rel=1e-12)
    assert (display.point_.get_xdata(), display.point_.get_ydata()) == ([0], [0])
    assert_array_equal(display.x, np.linspace(-0.5, 0.5, 5))
    # A finer plane in the same directions.
    fine = around(regressor, X, y, span=1e-4, resolution=3)
    by_x = (fine.values[1, 2] - fine.values[1, 0]) / 2e-4
    by_y = (fine.values[2, 1] - fine.values[0, 1]) / 2e-4
    assert_allclose(display.slopes[:, 2, 2], [by_x, by_y], rtol=1e-5)


def test_plane_of_a_classifier(data):
    X, _, labels = data
    network = AddedNeuronClassifier((5,), max_iter=12, random_state=0)
    network.fit(X, labels)
    display = around(network, pd.DataFrame(X), labels)
    assert display.values[2, 2] == pytest.approx(network.loss_, rel=1e-12)


def test_directions_have_the_size_of_the_weights(data, regressor):
    """One step along a direction moves each unit's weights by their own norm."""
    X, y, _ = data
    regressor = clone(regressor).set_params(standardize=False).fit(X, y)
    coefs = [coef.copy() for coef in regressor.coefs_]
    moved = around(regressor, X, y, span=1.0, resolution=3).values[1, 2]
    # The same direction, drawn by hand: rows are units, biases stay.
    drawn = torch.from_numpy(np.random.RandomState(0).standard_normal((2, 26)))[0]
    parts = drawn[:15].view(5, 3), drawn[20:25].view(1, 5)
    for coef, part in zip(coefs, parts, strict=True):
        step = part.numpy().T
        coef += step * np.linalg.norm(coef, axis=0) / np.linalg.norm(step, axis=0)
    hidden = np.maximum(X @ coefs[0] + regressor.intercepts_[0], 0)
    raw = (hidden @ coefs[1] + regressor.intercepts_[1])[:, 0]
    assert moved == pytest.approx(np.mean((raw - y) ** 2), rel=1e-12)


def test_plane_depends_on_the_seed_alone(data, regressor):
    X, y, _ = data
    first, same = (around(regressor, X, y).values for _ in range(2))
    other = around(regressor, X, y, random_state=1).values
    assert_array_equal(first, same)
    assert np.abs(first - other).max() > 1e-3


def test_weights_are_repetitions(data, regressor):
    X, y, _ = data
    weight = np.arange(30) % 3
    weighted = around(regressor, X, y, sample_weight=weight).values
    repeated = around(regressor, X.repeat(weight, 0), y.repeat(weight)).values
    assert_allclose(weighted, repeated, rtol=1e-12)


def test_rows_go_in_parts(data, regressor, monkeypatch):
    X, y, _ = data
    whole = around(regressor, X, y)
    monkeypatch.setattr("sklearn_pgb._display._grid.ROWS", 7)
    parts = around(regressor, X, y)
    assert_allclose(parts.values, whole.values, rtol=1e-12)
    assert_allclose(parts.slopes, whole.slopes, rtol=1e-10, atol=1e-12)


def test_plane_of_a_module(data):
    """A module has the plane of the chain that it is, and needs a loss."""
    X, y, _ = data
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()

    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = module

        def forward(self, X):
            return self.inner(X)

    chain, general = (
        around(network, X, y, loss="squared_error") for network in (module, Wrapped())
    )
    with torch.no_grad():
        raw = module(torch.from_numpy(X)).numpy()[:, 0]
    assert chain.values[2, 2] == pytest.approx(np.mean((raw - y) ** 2), rel=1e-12)
    assert general.values[2, 2] == pytest.approx(chain.values[2, 2], rel=1e-12)
    with pytest.raises(ValueError, match="loss must be given with a torch module"):
        around(module, X, y)


def test_plane_at_the_end_of_wrappers(data):
    X, y, _ = data
    network = MLPRegressor(hidden_layer_sizes=(5,), max_iter=5)
    model = make_pipeline(StandardScaler(), network).fit(X, y)
    display = around(model, X, y, kind="surface")
    squared = np.mean((model.predict(X) - y) ** 2)
    assert display.values[2, 2] == pytest.approx(squared, rel=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"span": 0}, "span must be a positive number, got 0"),
        ({"span": np.inf}, "span must be a positive number, got inf"),
        ({"loss": "hinge"}, "loss must be one of 'auto', .* got 'hinge'"),
        ({"resolution": 1}, "resolution must be an integer of at least 2, got 1"),
        ({"sample_weight": np.zeros(30)}, "at least one non-zero number"),
        ({"y": np.ones(29)}, "inconsistent numbers of samples"),
    ],
)
def test_wrong_plane_is_refused(data, regressor, change, message):
    X, y, _ = data
    request = {"estimator": regressor, "X": X, "y": y, **change}
    with pytest.raises(ValueError, match=message):
        LandscapeDisplay.from_estimator(**request)
    assert plt.get_fignums() == []


def test_network_without_directions_is_refused(data):
    X, y, _ = data
    module = nn.Linear(3, 1)
    nn.init.zeros_(module.weight)
    with pytest.raises(ValueError, match="must have weights other than biases and"):
        around(module, X, y, loss="squared_error")


# -- without matplotlib --------------------------------------------------------------


@pytest.mark.parametrize(
    ("draw", "caller"),
    [
        (lambda: TrainingDisplay([1.0]).plot(), "TrainingDisplay.plot"),
        (
            lambda: TrainingDisplay.from_estimator(None),
            "TrainingDisplay.from_estimator",
        ),
        (
            lambda: LandscapeDisplay([0, 1], [0, 1], np.eye(2)).plot(),
            "LandscapeDisplay.plot",
        ),
        (
            lambda: LandscapeDisplay.from_function(bowl, (0, 1), (0, 1)),
            "LandscapeDisplay.from_function",
        ),
        (
            lambda: LandscapeDisplay.from_estimator(None, None, None),
            "LandscapeDisplay.from_estimator",
        ),
    ],
)
def test_matplotlib_is_missing(draw, caller, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=f"{caller} requires matplotlib"):
        draw()
