"""`MinimaSurveyDisplay`."""

import numpy as np
from sklearn.utils._optional_dependencies import check_matplotlib_support

from sklearn_pgb._display._checks import (
    check_keywords,
    check_number,
    check_result,
    check_text,
    check_texts,
    numbers,
)
from sklearn_pgb._display._training import _axes, _scale
from sklearn_pgb._survey._result import MinimaSurvey

# Colours and words of the verdicts, in the order of the legend; others follow.
VERDICTS = {
    "certified_global": ("C2", "global minimum, certified"),
    "consistent_with_local_min": ("C0", "consistent with a local minimum"),
    "critical": ("C9", "critical point"),
    "not_local_min": ("C1", "no local minimum"),
    "not_critical": ("0.65", "not critical"),
    "undetermined": ("0.85", "undetermined: overflows"),
}

# Names and line styles of the bounds.
BOUNDS = {"floor": "--", "linear model": ":", "gradient basis of the best end": "-."}


class MinimaSurveyDisplay:
    """How the losses of many trainings are distributed, against what is possible.

    Each start is a point: its training loss, and the share of starts that ended as low
    or lower. A step is a minimum that many starts share; a slope, ends that are all
    different. Lines across the losses are bounds: no function of the inputs is below
    the floor, no coefficients on the best end's partial derivatives are below its
    gradient basis' bound, and the linear model is what a network without hidden units
    could reach.

    It is recommended to use `from_survey`. All parameters are stored as attributes.

    Parameters
    ----------
    losses : array-like of shape (n_starts,)
        Training losses of the ends.
    verdicts : sequence of str, default=None
        One per start; ends of one verdict have one colour.
    bounds : dict of str to float, default=None
        Losses to compare with, by name. What is not finite is left out.
    name : str, default=None
        Title.

    Attributes
    ----------
    figure_ : matplotlib Figure
        Figure of the panel.
    ax_ : matplotlib Axes
        The panel.
    step_line_ : matplotlib Line2D
        The distribution.
    points_ : dict of str to matplotlib Line2D
        The ends of each verdict.
    bound_lines_ : dict of str to matplotlib Line2D
        The bounds.

    See Also
    --------
    survey_minima : Computes what is drawn.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> from sklearn.datasets import load_iris
    >>> from sklearn_pgb import AddedNeuronClassifier, MinimaSurveyDisplay
    >>> from sklearn_pgb import survey_minima
    >>> X, y = load_iris(return_X_y=True)
    >>> network = AddedNeuronClassifier((3,), "tanh", alpha=0.1, solver="lbfgs")
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
        """Draw a survey.

        Parameters
        ----------
        survey : MinimaSurvey
            What `survey_minima` returned.
        ax : matplotlib Axes, default=None
            Where to draw, as in `plot`.
        name : str, default=None
            Title.
        line_kw : dict, default=None
            Keywords of the distribution's line, as in `plot`.

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
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw. None makes a new figure.
        line_kw : dict, default=None
            Keywords of the distribution's line, as `Axes.plot` takes them.

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
        (self.ax_,) = _axes(ax, 1)
        self.figure_ = self.ax_.figure
        order = np.argsort(losses, kind="stable")
        losses, verdicts = losses[order], verdicts[order]
        share = np.arange(1, len(losses) + 1) / len(losses)
        style = {"color": "0.7", "lw": 1, "zorder": 1, **(line_kw or {})}
        (self.step_line_,) = self.ax_.step(losses, share, where="post", **style)
        self._plot_points(losses, share, verdicts)
        self._plot_bounds(losses)
        known = losses[np.isfinite(losses)]
        shown = [line.get_xdata()[0] for line in self.bound_lines_.values()]
        # A bound of zero is below a logarithmic axis; the losses decide.
        values = np.concatenate([known, [value for value in shown if value > 0]])
        self.ax_.set_xscale(**_scale(values))
        self.ax_.set(xlabel="training loss", ylabel="share of starts", ylim=(0, 1.04))
        if self.name is not None:
            self.ax_.set_title(self.name)
        # Below the panel, since points may be anywhere in it.
        if self.ax_.get_legend_handles_labels()[0]:
            self.ax_.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), fontsize=9)
        return self

    def _plot_points(self, losses, share, verdicts):
        found = list(dict.fromkeys(verdicts.tolist()))
        known = [verdict for verdict in VERDICTS if verdict in found]
        others = [verdict for verdict in found if verdict not in VERDICTS]
        self.points_ = {}
        for i, verdict in enumerate(known + others):
            colour, words = VERDICTS.get(verdict, (f"C{3 + i}", verdict))
            rows = verdicts == verdict
            (self.points_[verdict],) = self.ax_.plot(
                losses[rows],
                share[rows],
                "o",
                color=colour,
                markersize=5,
                label=f"{words} ({rows.sum()})" if words else None,
            )

    def _plot_bounds(self, losses):
        self.bound_lines_ = {}
        largest = np.nanmax(np.abs(losses), initial=0.0)
        for name, value in (self.bounds or {}).items():
            if value is None or not np.isfinite(value):
                continue
            # What is zero up to rounding must not stretch a logarithmic axis.
            shown = value if abs(value) > 1e-14 * largest else 0.0
            self.bound_lines_[name] = self.ax_.axvline(
                shown,
                color="0.2",
                ls=BOUNDS.get(name, "-"),
                lw=1.2,
                label=f"{name}: {shown:.4g}",
            )
