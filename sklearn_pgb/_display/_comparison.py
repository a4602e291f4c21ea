"""Implement `BasisComparisonDisplay`."""

import numpy as np

from sklearn_pgb._compare._comparison import BasisComparison
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


class BasisComparisonDisplay:
    """Plot the training loss and the held-out scores of each basis.

    The first panel shows the smallest training loss found on each basis, with the
    certified lower bound as a tick. The infimum lies between the two. The dashed line
    is the smallest loss of any function of the inputs. The second panel shows the
    held-out score of each split and their mean. A basis with a large training loss and
    a good score generalizes; one with a small loss and a bad score overfits.

    It is recommended to use `from_comparison`. All parameters are stored as attributes.

    Parameters
    ----------
    names : sequence of str
        Names of the bases, plotted from top to bottom.
    train_losses : array-like of shape (n_bases,)
        Training losses.
    lower_bounds : array-like of shape (n_bases,)
        Certified lower bounds; nan if there is none.
    scores : array-like of shape (n_bases, n_splits)
        Held-out scores.
    floor : float, default=None
        Pure-error floor of the samples.
    loss_name : str, default="training loss"
        Label of the first panel.
    score_name : str, default="score"
        Name of the score.

    Attributes
    ----------
    figure_ : matplotlib Figure
        Figure of the panels.
    axes_ : ndarray of matplotlib Axes
        The panels: training losses, held-out scores.
    loss_bars_ : matplotlib BarContainer
        The training losses.
    bound_line_ : matplotlib Line2D
        The bounds.
    floor_line_ : matplotlib Line2D or None
        The floor.
    score_points_ : matplotlib Line2D or None
        The scores of the splits.
    mean_points_ : matplotlib Line2D or None
        The mean score of each basis.

    See Also
    --------
    compare_bases : Compute a comparison.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.preprocessing import PolynomialFeatures
    >>> from sklearn_pgb import BasisComparisonDisplay, FeatureBasis, InputBasis
    >>> from sklearn_pgb import compare_bases
    >>> X, y = load_diabetes(return_X_y=True)
    >>> bases = {
    ...     "linear": InputBasis(),
    ...     "quadratic": FeatureBasis(PolynomialFeatures()),
    ... }
    >>> display = BasisComparisonDisplay.from_comparison(compare_bases(bases, X, y))
    >>> [ax.get_xlabel() for ax in display.axes_]
    ['training squared error', 'held-out R²']
    >>> plt.close(display.figure_)
    """

    def __init__(
        self,
        names,
        train_losses,
        lower_bounds,
        scores,
        *,
        floor=None,
        loss_name="training loss",
        score_name="score",
    ):
        self.names = names
        self.train_losses = train_losses
        self.lower_bounds = lower_bounds
        self.scores = scores
        self.floor = floor
        self.loss_name = loss_name
        self.score_name = score_name

    @classmethod
    def from_comparison(cls, comparison, *, ax=None, bar_kw=None):
        """Plot a comparison.

        Parameters
        ----------
        comparison : BasisComparison
            Result of `compare_bases`.
        ax : matplotlib Axes or array-like of Axes, default=None
            Axes of the panels; see `plot`.
        bar_kw : dict, default=None
            Keyword arguments of the bars; see `plot`.

        Returns
        -------
        display : BasisComparisonDisplay
        """
        check_matplotlib_support(f"{cls.__name__}.from_comparison")
        check_result(comparison, BasisComparison, "comparison", "compare_bases")
        reports = comparison.reports
        display = cls(
            [report.name for report in reports],
            [report.train_loss for report in reports],
            [report.lower_bound for report in reports],
            [report.scores for report in reports],
            floor=comparison.floor,
            loss_name=f"training {comparison.loss.replace('_', ' ')}",
            score_name=comparison.scoring,
        )
        return display.plot(ax, bar_kw=bar_kw)

    def plot(self, ax=None, *, bar_kw=None):
        """Plot the comparison.

        Parameters
        ----------
        ax : matplotlib Axes or array-like of Axes, default=None
            Axes of the panels, in order; a single one shows the training losses. None
            makes a new figure.
        bar_kw : dict, default=None
            Keyword arguments of `Axes.barh`; the thickness of the bars is `height`.

        Returns
        -------
        display : BasisComparisonDisplay
        """
        check_matplotlib_support(f"{type(self).__name__}.plot")
        check_texts(self.names, "names")
        check_number(self.floor, "floor")
        for name in ("loss_name", "score_name"):
            check_text(getattr(self, name), name)
        check_keywords(bar_kw, "bar_kw")
        losses = numbers(self.train_losses, "train_losses")
        bounds = numbers(self.lower_bounds, "lower_bounds")
        scores = numbers(self.scores, "scores")
        n = len(self.names)
        shapes = losses.shape, bounds.shape, scores.shape[:1], np.ndim(scores)
        if shapes != ((n,), (n,), (n,), 2):
            raise ValueError(
                "names, train_losses, lower_bounds and scores must have one entry per "
                f"basis, and scores one column per split, got {n} names and shapes "
                f"{losses.shape}, {bounds.shape} and {scores.shape}."
            )
        style = {"color": "C0", "alpha": 0.5, "height": 0.6}
        style = styled(style, bar_kw, "bar_kw", taken=("y", "width"))
        self.score_points_ = self.mean_points_ = None
        self.axes_ = panel_axes(ax, 2)
        self.figure_ = self.axes_[0].figure
        self._plot_losses(self.axes_[0], losses, bounds, style)
        if len(self.axes_) > 1:
            self._plot_scores(self.axes_[1], scores)
        for panel in self.axes_:
            panel.set_yticks(np.arange(n), self.names)
            panel.set_ylim(n - 0.5, -0.5)  # the first basis is on top
        return self

    def _plot_losses(self, ax, losses, bounds, style):
        positions = np.arange(len(losses))
        self.loss_bars_ = ax.barh(positions, losses, **style)
        (self.bound_line_,) = ax.plot(
            bounds, positions, "k|", markersize=16, label="certified lower bound"
        )
        self.floor_line_ = None
        if self.floor is not None:
            label = f"floor: {self.floor:.4g}"
            self.floor_line_ = ax.axvline(
                self.floor, color="0.3", ls="--", lw=1, label=label
            )
        ax.set_xscale(**axis_scale(losses[np.isfinite(losses)]))
        ax.set_xlabel(self.loss_name)
        legend_below(ax, ncols=2)

    def _plot_scores(self, ax, scores):
        positions = np.arange(len(scores))
        (self.score_points_,) = ax.plot(
            scores.ravel(),
            np.repeat(positions, scores.shape[1]),
            "o",
            color="0.6",
            markersize=4,
            label="splits",
        )
        (self.mean_points_,) = ax.plot(
            scores.mean(1), positions, "D", color="C1", label="mean"
        )
        ax.locator_params(axis="x", nbins=6)
        ax.grid(axis="x", color="0.9")
        ax.set_axisbelow(True)
        ax.set_xlabel(f"held-out {self.score_name}")
        legend_below(ax, ncols=2)
