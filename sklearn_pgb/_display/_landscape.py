"""`LandscapeDisplay`."""

from typing import Any

import numpy as np
from sklearn.utils import check_random_state
from sklearn.utils._optional_dependencies import check_matplotlib_support

from sklearn_pgb._display._checks import check_count, check_number, check_text, numbers
from sklearn_pgb._display._grid import (
    by_autograd,
    by_differences,
    counts,
    evaluate,
    mean_loss,
    on_plane,
    points,
    random_directions,
)
from sklearn_pgb._models._open import named_loss, open_network


class LandscapeDisplay:
    """An objective over two parameters, and the way down.

    Filled contours with arrows along the negative gradient, or a surface. All arrows
    have the same length: they tell where descent goes, the contours how steeply. Where
    the gradient is zero or undefined there is none.

    It is recommended to use `from_function` or `from_estimator`. All parameters are
    stored as attributes.

    Parameters
    ----------
    x : array-like of shape (n_x,)
        First parameter, increasing.
    y : array-like of shape (n_y,)
        Second parameter, increasing.
    values : array-like of shape (n_y, n_x)
        Objective; entry [i, j] belongs to ``y[i]`` and ``x[j]``.
    slopes : array-like of shape (2, n_y, n_x), default=None
        Derivatives by x and by y. None draws no arrows.
    x_name : str, default="x"
        Name of the first parameter.
    y_name : str, default="y"
        Name of the second parameter.
    value_name : str, default="value"
        Name of the objective.
    point : tuple of float, default=None
        An (x, y) to mark.

    Attributes
    ----------
    figure_ : matplotlib Figure
        Figure of the landscape.
    ax_ : matplotlib Axes
        Axes of the landscape, three-dimensional for a surface.
    contour_ : matplotlib QuadContourSet or None
        Filled contours.
    colorbar_ : matplotlib Colorbar or None
        Colours of the contours.
    surface_ : mpl_toolkits Poly3DCollection or None
        The surface.
    arrows_ : matplotlib Quiver or None
        The negative gradients, on contours.
    point_ : matplotlib Line2D or None
        The mark, on contours.

    See Also
    --------
    TrainingDisplay : Loss, floor and added neurons of a training.

    Examples
    --------
    A function of arrays, its slopes by finite differences:

    >>> import matplotlib.pyplot as plt
    >>> from sklearn_pgb import LandscapeDisplay
    >>> display = LandscapeDisplay.from_function(
    ...     lambda x, y: (1 - x) ** 2 + 5 * (y - x**2) ** 2, (-1.5, 1.5), (-0.5, 2.0)
    ... )
    >>> display.values.shape, display.slopes.shape
    ((61, 61), (2, 61, 61))
    >>> plt.close(display.figure_)

    The training loss around a network:

    >>> from sklearn.datasets import load_iris
    >>> from sklearn_pgb import AddedNeuronClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> network = AddedNeuronClassifier((8,), early_stopping=False, random_state=0)
    >>> network = network.fit(X, y)
    >>> display = LandscapeDisplay.from_estimator(
    ...     network, X, y, resolution=11, random_state=0
    ... )
    >>> print(f"{display.values[5, 5] - network.loss_:.6f}")
    0.000000
    >>> plt.close(display.figure_)
    """

    def __init__(
        self,
        x,
        y,
        values,
        slopes=None,
        *,
        x_name="x",
        y_name="y",
        value_name="value",
        point=None,
    ):
        self.x = x
        self.y = y
        self.values = values
        self.slopes = slopes
        self.x_name = x_name
        self.y_name = y_name
        self.value_name = value_name
        self.point = point

    @classmethod
    def from_function(
        cls,
        function,
        x_range,
        y_range,
        *,
        gradient="differences",
        resolution=61,
        x_name="x",
        y_name="y",
        value_name="value",
        kind="contour",
        ax=None,
        **kwargs,
    ):
        """Draw a function of two parameters.

        Parameters
        ----------
        function : callable
            ``function(x, y)`` gets two arrays of one shape and returns the values
            elementwise. With ``gradient="autograd"`` these are torch tensors.
        x_range : tuple of float
            Least and largest x.
        y_range : tuple of float
            Least and largest y.
        gradient : {"differences", "autograd"} or None, default="differences"
            Slopes by central differences, or by torch's differentiation of `function`;
            None draws no arrows.
        resolution : int or tuple of int, default=61
            Points along x and y.
        x_name : str, default="x"
            Name of the first parameter.
        y_name : str, default="y"
            Name of the second parameter.
        value_name : str, default="value"
            Name of the objective.
        kind : {"contour", "surface"}, default="contour"
            What to draw.
        ax : matplotlib Axes, default=None
            Where to draw, as in `plot`.
        **kwargs : dict
            Further keywords of `plot`.

        Returns
        -------
        display : LandscapeDisplay
        """
        check_matplotlib_support(f"{cls.__name__}.from_function")
        if not callable(function):
            raise TypeError(
                f"function must be callable with two arrays, got {function!r}."
            )
        n_x, n_y = counts(resolution)
        x, y = points(x_range, n_x, "x_range"), points(y_range, n_y, "y_range")
        grid = np.meshgrid(x, y)
        if gradient == "autograd":
            values, slopes = by_autograd(function, *grid)
        elif gradient == "differences":
            values = evaluate(function, *grid)
            slopes = by_differences(function, *grid)
        elif gradient is None:
            values, slopes = evaluate(function, *grid), None
        else:
            raise ValueError(
                f"gradient must be 'differences', 'autograd' or None, got {gradient!r}."
            )
        names = {"x_name": x_name, "y_name": y_name, "value_name": value_name}
        return cls(x, y, values, slopes, **names).plot(kind, ax, **kwargs)

    @classmethod
    def from_estimator(
        cls,
        estimator,
        X,
        y,
        *,
        sample_weight=None,
        loss="auto",
        span=1.0,
        resolution=31,
        random_state=None,
        kind="contour",
        ax=None,
        **kwargs,
    ):
        """Draw the training loss around a network.

        The plane goes through the network's parameters along two random directions.
        In each, the weights that lead into a unit have the norm of that unit's own
        weights [1]_, so that the distances mean the same for large and small layers;
        biases are kept. The loss has no penalties.

        Parameters
        ----------
        estimator : estimator or torch.nn.Module
            A fitted network of this package, MLPRegressor, MLPClassifier or skorch
            net, a Pipeline or TransformedTargetRegressor that ends in one, or a
            module.
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Samples, as the estimator takes them.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets or labels.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the mean loss.
        loss : {"auto", "squared_error", "poisson", "log_loss", "binary_log_loss"}, \
                default="auto"
            The loss. "auto" is the estimator's own; a module does not know it.
        span : float, default=1.0
            How far the plane goes in each direction: 1 is the size of the weights.
        resolution : int or tuple of int, default=31
            Points along each direction; an odd number has the network on the grid.
        random_state : int, RandomState instance or None, default=None
            Draws the directions.
        kind : {"contour", "surface"}, default="contour"
            What to draw.
        ax : matplotlib Axes, default=None
            Where to draw, as in `plot`.
        **kwargs : dict
            Further keywords of `plot`.

        Returns
        -------
        display : LandscapeDisplay

        References
        ----------
        .. [1] Li, Xu, Taylor, Studer and Goldstein, "Visualizing the Loss Landscape of
           Neural Nets", NeurIPS 2018.
        """
        check_matplotlib_support(f"{cls.__name__}.from_estimator")
        known = named_loss(loss)
        check_number(span, "span")
        if span is None or not 0 < span < np.inf:
            raise ValueError(f"span must be a positive number, got {span!r}.")
        opened = open_network(estimator, loss=known)
        n_x, n_y = counts(resolution)
        first = points((-span, span), n_x, "span")
        second = points((-span, span), n_y, "span")
        values, slopes = on_plane(
            mean_loss(opened, X, y, sample_weight),
            opened.network.theta,
            random_directions(opened.network, check_random_state(random_state)),
            first,
            second,
        )
        display = cls(
            first,
            second,
            values,
            slopes,
            x_name="direction 1",
            y_name="direction 2",
            value_name="training loss",
            point=(0.0, 0.0),
        )
        return display.plot(kind, ax, **kwargs)

    def plot(
        self,
        kind="contour",
        ax=None,
        *,
        levels=20,
        n_arrows=16,
        cmap="viridis",
        colorbar=True,
    ):
        """Draw.

        Parameters
        ----------
        kind : {"contour", "surface"}, default="contour"
            Filled contours, or a surface.
        ax : matplotlib Axes, default=None
            Where to draw; for a surface it must be three-dimensional. None makes a new
            figure.
        levels : int or array-like, default=20
            Number of steps between colours, or their values, increasing. A number puts
            them closer together near the least value, where the minima are.
        n_arrows : int, default=16
            Arrows along each axis of contours.
        cmap : str or matplotlib Colormap, default="viridis"
            Colours of the values.
        colorbar : bool, default=True
            Whether contours get a colour bar.

        Returns
        -------
        display : LandscapeDisplay
        """
        check_matplotlib_support(f"{type(self).__name__}.plot")
        if kind not in ("contour", "surface"):
            raise ValueError(f"kind must be 'contour' or 'surface', got {kind!r}.")
        for name in ("x_name", "y_name", "value_name"):
            check_text(getattr(self, name), name)
        check_count(n_arrows, "n_arrows")
        x, y, values, slopes = self._arrays()
        levels, colours = _colours(values, levels, cmap)
        self.contour_ = self.colorbar_ = self.surface_ = None
        self.arrows_ = self.point_ = None
        self.ax_ = _axes(ax, kind)
        self.figure_ = self.ax_.figure
        if kind == "surface":
            self._plot_surface(x, y, values, colours)
        else:
            self._plot_contour(x, y, values, slopes, levels, n_arrows, colours)
            if colorbar:
                self._plot_colorbar(levels)
        self.ax_.set(xlabel=self.x_name, ylabel=self.y_name)
        return self

    def _plot_contour(self, x, y, values, slopes, levels, n_arrows, colours):
        extend = colours["norm"].extend
        self.contour_ = self.ax_.contourf(
            x, y, values, levels, extend=extend, **colours
        )
        if slopes is not None:
            at, down = _arrows(x, y, slopes, n_arrows)
            self.arrows_ = self.ax_.quiver(
                *at,
                *down,
                angles="xy",
                scale_units="width",
                scale=1.3 * n_arrows,
                width=0.0035,
                pivot="middle",
                color="white",
                edgecolor="0.3",
                linewidth=0.3,
            )
        if self.point is not None:
            if numbers(self.point, "point").shape != (2,):
                raise ValueError(
                    f"point must be two numbers or None, got {self.point!r}."
                )
            (self.point_,) = self.ax_.plot(*self.point, "o", color="tab:red")

    def _plot_colorbar(self, levels):
        every = max(1, (len(levels) - 1) // 5)
        self.colorbar_ = self.figure_.colorbar(
            self.contour_,
            ax=self.ax_,
            label=self.value_name,
            ticks=levels[::every],
            format="%.3g",
        )
        self.colorbar_.minorticks_off()

    def _plot_surface(self, x, y, values, colours):
        self.surface_ = self.ax_.plot_surface(
            *np.meshgrid(x, y),
            values,
            rcount=len(y),
            ccount=len(x),
            linewidth=0,
            antialiased=False,
            **colours,
        )
        self.ax_.set_zlabel(self.value_name)
        for axis in (self.ax_.xaxis, self.ax_.yaxis, self.ax_.zaxis):
            axis.get_major_locator().set_params(nbins=5)

    def _arrays(self):
        """What is drawn, with checked shapes."""
        x, y = self._axis("x"), self._axis("y")
        values = np.ma.masked_invalid(numbers(self.values, "values"))
        if values.shape != (len(y), len(x)):
            raise ValueError(
                f"values must have shape (n_y, n_x) = {(len(y), len(x))}, got "
                f"{values.shape}. Rows belong to y and columns to x."
            )
        if not values.count():
            raise ValueError(
                "values must have a finite entry, got none. Draw a smaller range."
            )
        if self.slopes is None:
            return x, y, values, None
        slopes = numbers(self.slopes, "slopes")
        if slopes.shape != (2, *values.shape):
            raise ValueError(
                f"slopes must have shape (2, n_y, n_x) = {(2, *values.shape)}, got "
                f"{slopes.shape}."
            )
        return x, y, values, slopes

    def _axis(self, name):
        """Coordinates along one axis of the grid."""
        axis = numbers(getattr(self, name), name)
        if axis.ndim != 1 or len(axis) < 2 or not (np.diff(axis) > 0).all():
            raise ValueError(
                f"{name} must be at least two increasing numbers, got shape "
                f"{axis.shape}."
            )
        return axis


def _axes(ax, kind):
    """Axes that can hold this kind."""
    import matplotlib.pyplot as plt
    from matplotlib.axes import Axes

    needed = "3d" if kind == "surface" else "rectilinear"
    if ax is None:
        figure = plt.figure(layout="constrained")
        return figure.add_subplot(projection=needed)
    if not isinstance(ax, Axes) or (ax.name == "3d") != (needed == "3d"):
        raise TypeError(
            f"ax must be a matplotlib Axes with projection={needed!r} for "
            f"kind={kind!r}, got {getattr(ax, 'name', type(ax).__name__)!r}. Make it "
            f"by figure.add_subplot(projection={needed!r})."
        )
    return ax


def _colours(values, levels, cmap):
    """Levels, and as keywords the colours between and beyond them."""
    import matplotlib.pyplot as plt
    from matplotlib.colors import BoundaryNorm

    low, high = values.min(), values.max()
    if np.ndim(levels) == 0:
        check_count(levels, "levels")
        # A constant is shown as if it varied by its size.
        span = high - low if high - low > 1e-9 * abs(low) else abs(low) or 1.0
        # Squares: the rings of a quadratic bowl are then equally far apart.
        levels = low + np.linspace(0, 1, levels + 1) ** 2 * span
        levels[-1] = max(levels[-1], high)
    levels = numbers(levels, "levels")
    if levels.ndim != 1 or len(levels) < 2 or not (np.diff(levels) > 0).all():
        raise ValueError(
            f"levels must be an integer or at least two increasing numbers, got "
            f"{levels!r}."
        )
    cmap = plt.get_cmap(cmap)
    beyond: dict[tuple[bool, bool], Any] = {
        (True, True): "both",
        (True, False): "min",
        (False, True): "max",
    }
    extend = beyond.get((low < levels[0], high > levels[-1]), "neither")
    return levels, {
        "cmap": cmap,
        "norm": BoundaryNorm(levels, cmap.N, extend=extend),
    }


def _arrows(x, y, slopes, n_arrows):
    """Places on the grid, (2, n), and unit vectors along the negative slopes."""
    columns, rows = (
        np.unique(((np.arange(n_arrows) + 0.5) * len(axis) / n_arrows).astype(int))
        for axis in (x, y)
    )
    down = -slopes[:, rows[:, None], columns].reshape(2, -1)
    at = np.stack(np.meshgrid(x[columns], y[rows])).reshape(2, -1)
    length = np.hypot(*down)
    kept = np.isfinite(length) & (length > 0)
    return at[:, kept], down[:, kept] / length[kept]
