"""Axes of a display's panels, their scales and legends."""

import numpy as np

from sklearn_pgb._budget import TRAINING_LOG_SPAN


def axis_scale(values):
    """Choose the scale of an axis, as keyword arguments of `set_yscale`.

    The scale is logarithmic if the values are positive and span a factor of
    TRAINING_LOG_SPAN. Exact zeros, which the hinge loss has, are shown on a linear part
    of the axis below the smallest positive value.
    """
    positive = values[values > 0]
    if (values < 0).any() or not len(positive):
        return {"value": "linear"}
    if positive.max() < TRAINING_LOG_SPAN * positive.min():
        return {"value": "linear"}
    if len(positive) < len(values):
        return {"value": "symlog", "linthresh": positive.min()}
    return {"value": "log"}


def legend_below(ax, **options):
    """Add a legend below the panel, because bars and points may be anywhere in it."""
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), fontsize=9, **options)


def panel_axes(ax, n_panels, figsize=None):
    """Check the given axes, or make one per panel."""
    import matplotlib.pyplot as plt
    from matplotlib.axes import Axes

    if ax is None:
        size = figsize or (4.8 * n_panels, 3.8)
        axes = plt.subplots(1, n_panels, figsize=size, layout="constrained")[1]
        return np.atleast_1d(axes)
    axes = np.atleast_1d(np.asarray(ax, dtype=object)).ravel()
    if not all(isinstance(panel, Axes) for panel in axes):
        raise TypeError(
            "ax must be a matplotlib Axes or an array of them, got "
            f"{type(ax).__name__}. Make them with matplotlib.pyplot.subplots."
        )
    if not 1 <= len(axes) <= n_panels:
        raise ValueError(
            f"ax must hold 1 to {n_panels} Axes, one per panel, got {len(axes)}."
        )
    return axes
