"""Implement `TrainingDisplay`."""

import numpy as np
from sklearn.base import is_classifier

from sklearn_pgb._display._arguments import (
    check_keywords,
    check_number,
    check_text,
    numbers,
    styled,
)
from sklearn_pgb._display._axes import axis_scale, panel_axes
from sklearn_pgb._losses._regression import SquaredLoss
from sklearn_pgb._models._open import open_network
from sklearn_pgb._sklearn import check_matplotlib_support

# "diverging" alone would be mistaken for a training whose loss overflows.
STATUS_WORDS = {
    "certified_global": "global minimum, certified",
    "diverging": "added neurons diverge",
    "early_stopped": "stopped early",
}


class TrainingDisplay:
    """Plot the training of a network: loss, added neurons and held-out scores.

    The first panel shows the training loss of each epoch and the *floor*, the smallest
    loss of any function of the inputs. Longer training, another start or a larger
    network can reduce the loss by at most their difference. The second panel shows the
    norm of the added neurons as they are trained on the residuals of the network. If it
    grows, the network is above the floor, but not necessarily at a bad local minimum.
    The third panel shows held-out scores.

    It is recommended to use `from_estimator`. All parameters are stored as attributes.

    Parameters
    ----------
    loss_curve : array-like of shape (n_epochs,)
        Training loss of each epoch, including penalties. With several starts, the loss
        decreases while neurons are added, and jumps up when they are removed.
    floor : float, default=None
        Pure-error floor of the training samples.
    neuron_norm_curve : array-like of shape (n_points,), default=None
        Norm of the added neurons initially and after each iteration of their training.
    validation_scores : array-like of shape (n_epochs,), default=None
        Held-out score of each epoch.
    loss : float, default=None
        Loss of the final network, without penalties.
    status : str, default=None
        A `status_` of AddedNeuronRegressor, or any text.
    step_name : str, default="epoch"
        Unit of the steps of `loss_curve`.
    score_name : str, default="score"
        Name of the score in `validation_scores`.
    name : str, default=None
        Name of the training in the legend. The title is then empty, so that several
        trainings can be plotted on the same axes.

    Attributes
    ----------
    figure_ : matplotlib Figure
        Figure of the panels.
    axes_ : ndarray of matplotlib Axes
        The panels: loss, then added neurons and scores if there are any.
    loss_line_ : matplotlib Line2D
        The loss.
    loss_point_ : matplotlib Line2D or None
        The loss of the final network.
    floor_line_ : matplotlib Line2D or None
        The floor; not visible if it is zero and the axis is logarithmic.
    norm_line_ : matplotlib Line2D or None
        The norm of the added neurons.
    score_line_ : matplotlib Line2D or None
        The held-out scores.

    See Also
    --------
    AddedNeuronRegressor : Train a network with added neurons.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.preprocessing import scale
    >>> from sklearn_pgb import AddedNeuronClassifier, TrainingDisplay
    >>> X, y = load_iris(return_X_y=True)
    >>> network = AddedNeuronClassifier((8,), early_stopping=True, random_state=0)
    >>> display = TrainingDisplay.from_estimator(network.fit(scale(X), y))
    >>> [ax.get_ylabel() for ax in display.axes_]
    ['training loss', 'norm of (a, b, W)', 'held-out accuracy']
    >>> plt.close(display.figure_)
    """

    def __init__(
        self,
        loss_curve,
        floor=None,
        neuron_norm_curve=None,
        validation_scores=None,
        *,
        loss=None,
        status=None,
        step_name="epoch",
        score_name="score",
        name=None,
    ):
        self.loss_curve = loss_curve
        self.floor = floor
        self.neuron_norm_curve = neuron_norm_curve
        self.validation_scores = validation_scores
        self.loss = loss
        self.status = status
        self.step_name = step_name
        self.score_name = score_name
        self.name = name

    @classmethod
    def from_estimator(cls, estimator, *, ax=None, name=None, line_kw=None):
        """Plot the training of a fitted network.

        Parameters
        ----------
        estimator : estimator
            A fitted AddedNeuronRegressor or AddedNeuronClassifier, or a Pipeline or
            TransformedTargetRegressor that ends in one. Other networks with a
            `loss_curve_` have no floor and no added neurons.
        ax : matplotlib Axes or array-like of Axes, default=None
            Axes of the panels; see `plot`.
        name : str, default=None
            Name of the training in the legend.
        line_kw : dict, default=None
            Keyword arguments of the lines; see `plot`.

        Returns
        -------
        display : TrainingDisplay
        """
        check_matplotlib_support(f"{cls.__name__}.from_estimator")
        # The loss is not used. Without it, a bare module would raise an error about its
        # loss, which is less helpful than the message below.
        network = open_network(estimator, loss=SquaredLoss()).final
        known = vars(network)
        if "loss_curve_" not in known:
            raise TypeError(
                "estimator must be a network that keeps its loss_curve_, got "
                f"{type(network).__name__} without one. Use an AddedNeuronRegressor or "
                "AddedNeuronClassifier."
            )
        display = cls(
            known["loss_curve_"],
            known.get("floor_"),
            known.get("neuron_norm_curve_"),
            known.get("validation_scores_"),
            # In scikit-learn's networks, loss_ is only the last entry of the curve.
            loss=known["loss_"] if "floor_" in known else None,
            status=known.get("status_"),
            step_name="iteration" if known["solver"] == "lbfgs" else "epoch",
            score_name="accuracy" if is_classifier(network) else "R²",
            name=name,
        )
        return display.plot(ax, line_kw=line_kw)

    def plot(self, ax=None, *, line_kw=None):
        """Plot the training.

        Parameters
        ----------
        ax : matplotlib Axes or array-like of Axes, default=None
            Axes of the panels, in order. If there are fewer than panels, the last
            panels are not shown. None makes a new figure.
        line_kw : dict, default=None
            Keyword arguments of `Axes.plot` for the lines of all panels.

        Returns
        -------
        display : TrainingDisplay
        """
        check_matplotlib_support(f"{type(self).__name__}.plot")
        for name in ("floor", "loss"):
            check_number(getattr(self, name), name)
        for name in ("status", "step_name", "score_name", "name"):
            check_text(getattr(self, name), name)
        check_keywords(line_kw, "line_kw")
        self.loss_point_ = self.floor_line_ = self.norm_line_ = self.score_line_ = None
        panels = [(self._plot_loss, _curve(self.loss_curve, "loss_curve"))]
        if self.neuron_norm_curve is not None:
            norms = _curve(self.neuron_norm_curve, "neuron_norm_curve")
            panels.append((self._plot_norm, norms))
        if self.validation_scores is not None:
            scores = _curve(self.validation_scores, "validation_scores")
            panels.append((self._plot_scores, scores))
        self.axes_ = panel_axes(ax, len(panels))
        self.figure_ = self.axes_[0].figure
        for (draw, curve), panel in zip(panels, self.axes_, strict=False):
            draw(panel, curve, line_kw or {})
        return self

    def _plot_loss(self, ax, curve, line_kw):
        label = f"each {self.step_name}"
        if self.name is not None:
            label = ", ".join(filter(None, [self.name, self._gap()])) or label
        (self.loss_line_,) = ax.plot(
            np.arange(1, len(curve) + 1),
            curve,
            **styled({"label": label}, line_kw, "line_kw"),
        )
        if self.loss is not None:
            (self.loss_point_,) = ax.plot(
                [len(curve)],
                [self.loss],
                "o",
                color=self.loss_line_.get_color(),
                label=f"final network: {self.loss:.4g}" if self.name is None else None,
            )
        # The curves of several trainings have one scale; horizontal lines do not count.
        curves = [line for line in ax.lines if line.get_transform() == ax.transData]
        values = [np.asarray(line.get_ydata(), float) for line in curves]
        shown = np.concatenate(values)
        ax.set_yscale(**axis_scale(shown[np.isfinite(shown)]))
        if self.floor is not None:
            # A floor of zero up to rounding must not extend a logarithmic axis.
            rounding = np.finfo(float).eps * np.nanmax(np.abs(curve), initial=0.0)
            floor = self.floor if abs(self.floor) > rounding else 0.0
            words = f"floor: {floor:.4g}"
            # Trainings on the same samples have the same floor, which is labeled once.
            known = words in ax.get_legend_handles_labels()[1]
            self.floor_line_ = ax.axhline(
                floor, color="0.3", ls="--", lw=1, label=None if known else words
            )
        _label(ax, self.step_name, "training loss")
        if self.name is None:
            words = STATUS_WORDS.get(self.status, self.status)
            if words == "max_iter":
                words = f"out of {self.step_name}s"
            ax.set_title(": ".join(filter(None, [words, self._gap()])))
        ax.legend()

    def _plot_norm(self, ax, curve, line_kw):
        (self.norm_line_,) = ax.plot(
            np.arange(len(curve)),
            curve,
            ".-",
            **styled({"label": self.name}, line_kw, "line_kw"),
        )
        _label(ax, "iteration of their training", "norm of (a, b, W)")
        ax.set_title("added neurons (no certificate)")
        if self.name is not None:
            ax.legend()

    def _plot_scores(self, ax, curve, line_kw):
        (self.score_line_,) = ax.plot(
            np.arange(1, len(curve) + 1),
            curve,
            **styled({"label": self.name}, line_kw, "line_kw"),
        )
        _label(ax, self.step_name, f"held-out {self.score_name}")
        if self.name is not None:
            ax.legend()

    def _gap(self):
        if self.floor is None or self.loss is None:
            return ""
        return f"{self.loss - self.floor:.4g} above the floor"


def _label(ax, x_name, y_name):
    """Label axes and use integer ticks on x."""
    from matplotlib.ticker import MaxNLocator

    ax.set(xlabel=x_name, ylabel=y_name)
    locator = ax.xaxis.get_major_locator()
    if isinstance(locator, MaxNLocator):
        locator.set_params(integer=True)


def _curve(values, name):
    """Convert a curve to floats; values that are not finite leave a gap."""
    curve = numbers(values, name)
    if curve.ndim != 1:
        raise ValueError(
            f"{name} must be 1-d, one number per point, got shape {curve.shape}. Use "
            "one display per curve."
        )
    return np.where(np.isfinite(curve), curve, np.nan)
