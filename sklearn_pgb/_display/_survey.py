"""Implement `MinimaSurveyDisplay`."""

import numpy as np

from sklearn_pgb._display._arguments import (
    check_keywords,
    check_number,
    check_result,
    check_text,
    check_texts,
    numbers,
    styled,
)
from sklearn_pgb._display._axes import axis_scale, legend_below, panel_axes
from sklearn_pgb._sklearn import check_matplotlib_support
from sklearn_pgb._survey._result import MinimaSurvey

# Colors and labels of the verdicts, in the order of the legend.
VERDICT_STYLES = {
    "certified_global": ("C2", "global minimum, certified"),
    "consistent_with_local_min": ("C0", "consistent with a local minimum"),
    "critical": ("C9", "critical point"),
    "not_local_min": ("C1", "not a local minimum"),
    "not_critical": ("0.65", "not critical"),
    "undetermined": ("0.85", "undetermined: overflows"),
}

# Names and line styles of the bounds.
BOUNDS = {
    "floor": "--",
    "linear model": ":",
    "gradient basis of the best network": "-.",
}


class MinimaSurveyDisplay:
    """Plot the distribution of the losses of many trainings, with bounds.

    Each start is a point: its training loss, and the fraction of starts with at most
    this loss. If many starts reach the same minimum, their points form a vertical line.
    The other vertical lines are losses to compare with: the floor is a bound for all
    functions of the inputs, the gradient basis bound holds for all models on the best
    network's partial derivatives, and the linear model is a network without hidden
    units.

    It is recommended to use `from_survey`. All parameters are stored as attributes.

    Parameters
    ----------
    losses : array-like of shape (n_starts,)
        Training losses.
    verdicts : sequence of str, default=None
        Verdict on each start, shown by color.
    bounds : dict of str to float, default=None
        Losses to compare with, by name. Values that are not finite are not shown.
    name : str, default=None
        Title.

    Attributes
    ----------
    figure_ : matplotlib Figure
        Figure of the panel.
    ax_ : matplotlib Axes
        The panel.
    step_line_ : matplotlib Line2D
        The distribution function.
    points_ : dict of str to matplotlib Line2D
        The starts with each verdict.
    bound_lines_ : dict of str to matplotlib Line2D
        The bounds.

    See Also
    --------
    survey_minima : Compute a survey.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> from sklearn.datasets import load_iris
    >>> from sklearn_pgb import AddedNeuronClassifier, MinimaSurveyDisplay
    >>> from sklearn_pgb import survey_minima
    >>> X, y = load_iris(return_X_y=True)
    >>> network = AddedNeuronClassifier((3,), activation="tanh", solver="lbfgs")
    >>> survey = survey_minima(network, X, y, n_starts=5, random_state=0)
    >>> display = MinimaSurveyDisplay.from_survey(survey)
    >>> display.ax_.get_xlabel()
    'training loss'
    >>> plt.close(display.figure_)
    """

    def __init__(self, losses, verdicts=None, bounds=None, *, name=None):
        self.losses = losses
        self.verdicts = verdicts
        self.bounds = bounds
        self.name = name

    @classmethod
    def from_survey(cls, survey, *, ax=None, name=None, line_kw=None):
        """Plot a survey.

        Parameters
        ----------
        survey : MinimaSurvey
            Result of `survey_minima`.
        ax : matplotlib Axes, default=None
            Axes to plot on; see `plot`.
        name : str, default=None
            Title.
        line_kw : dict, default=None
            Keyword arguments of the distribution's line; see `plot`.

        Returns
        -------
        display : MinimaSurveyDisplay
        """
        check_matplotlib_support(f"{cls.__name__}.from_survey")
        check_result(survey, MinimaSurvey, "survey", "survey_minima")
        values = survey.floor, survey.linear, survey.best_bound
        bounds = dict(zip(BOUNDS, values, strict=True))
        display = cls(survey.loss, survey.verdict, bounds, name=name)
        return display.plot(ax, line_kw=line_kw)

    def plot(self, ax=None, *, line_kw=None):
        """Plot the survey.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to plot on. None makes a new figure.
        line_kw : dict, default=None
            Keyword arguments of `Axes.step` for the distribution.

        Returns
        -------
        display : MinimaSurveyDisplay
        """
        check_matplotlib_support(f"{type(self).__name__}.plot")
        losses = numbers(self.losses, "losses")
        if self.verdicts is not None:
            check_texts(self.verdicts, "verdicts")
        check_keywords(self.bounds, "bounds")
        for name, value in (self.bounds or {}).items():
            check_number(value, f"bounds[{name!r}]")
        check_text(self.name, "name")
        check_keywords(line_kw, "line_kw")
        verdicts = np.asarray(
            [""] * losses.size if self.verdicts is None else self.verdicts
        )
        if losses.ndim != 1 or verdicts.shape != losses.shape:
            raise ValueError(
                "losses must be 1-d, and verdicts must have one entry per start, got "
                f"shapes {losses.shape} and {verdicts.shape}."
            )
        style = {"color": "0.7", "linewidth": 1, "zorder": 1, "where": "post"}
        style = styled(style, line_kw, "line_kw", taken=("x", "y"))
        (self.ax_,) = panel_axes(ax, 1)
        self.figure_ = self.ax_.figure
        order = np.argsort(losses, kind="stable")
        losses, verdicts = losses[order], verdicts[order]
        fraction = np.arange(1, len(losses) + 1) / len(losses)
        (self.step_line_,) = self.ax_.step(losses, fraction, **style)
        self._plot_points(losses, fraction, verdicts)
        self._plot_bounds(losses)
        known = losses[np.isfinite(losses)]
        shown = [line.get_xdata()[0] for line in self.bound_lines_.values()]
        # A bound of zero does not influence the scale: a logarithmic axis omits it.
        values = np.concatenate([known, [value for value in shown if value > 0]])
        self.ax_.set_xscale(**axis_scale(values))
        self.ax_.set(
            xlabel="training loss", ylabel="fraction of starts", ylim=(0, 1.04)
        )
        if self.name is not None:
            self.ax_.set_title(self.name)
        if self.ax_.get_legend_handles_labels()[0]:
            legend_below(self.ax_)
        return self

    def _plot_points(self, losses, fraction, verdicts):
        present = list(dict.fromkeys(verdicts.tolist()))
        known = [verdict for verdict in VERDICT_STYLES if verdict in present]
        others = [verdict for verdict in present if verdict not in VERDICT_STYLES]
        self.points_ = {}
        for i, verdict in enumerate(known + others):
            color, words = VERDICT_STYLES.get(verdict, (f"C{3 + i}", verdict))
            rows = verdicts == verdict
            (self.points_[verdict],) = self.ax_.plot(
                losses[rows],
                fraction[rows],
                "o",
                color=color,
                markersize=5,
                label=f"{words} ({rows.sum()})" if words else None,
            )

    def _plot_bounds(self, losses):
        self.bound_lines_ = {}
        largest = np.nanmax(np.abs(losses), initial=0.0)
        for name, value in (self.bounds or {}).items():
            if value is None or not np.isfinite(value):
                continue
            # A bound of zero up to rounding must not extend a logarithmic axis.
            shown = value if abs(value) > 1e-14 * largest else 0.0
            self.bound_lines_[name] = self.ax_.axvline(
                shown,
                color="0.2",
                ls=BOUNDS.get(name, "-"),
                lw=1.2,
                label=f"{name}: {shown:.4g}",
            )
