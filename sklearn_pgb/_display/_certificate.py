"""`CertificateDisplay`."""

import numpy as np
from sklearn.utils._optional_dependencies import check_matplotlib_support

from sklearn_pgb._certificate._certificate import Certificate
from sklearn_pgb._certificate._certify import certify
from sklearn_pgb._display._checks import check_result, check_text
from sklearn_pgb._display._training import _axes

TITLES = {
    "certified_global": "global minimum, certified",
    "not_critical": "training is not done",
    "not_local_min": "no local minimum, there is a way down",
    "consistent_with_local_min": "nothing speaks against a local minimum",
}

# What the bases are to somebody who has not read the table's documentation.
WORDS = {
    "inputs": "inputs (linear model)",
    "gradient": "partial derivatives",
    "perturbed gradient": "derivatives, displaced too",
}

# A range of losses wider than this reads better on a logarithmic axis.
LOG_SPAN = 100.0

# What is this far below the tolerance is rounding.
ROUNDING = 1e-3

NETWORK, BETTER, WORSE = "tab:orange", "tab:green", "0.55"


class CertificateDisplay:
    """A network's loss against the least loss on each basis, in one picture.

    Each line of the picture is a basis: features on which a convex model could have
    been fitted, among them the network's own layers and partial derivatives. Its point
    is the least loss that was found there; the bar goes down to what is proven: no
    coefficients have a loss to the left of it. The vertical line is the network. Green
    bases are better than it, which shows what a convex refit would gain, or that the
    training is not done. The dashed line is the floor, below which no function of
    the inputs can be.

    It is recommended to use `from_estimator` or `from_certificate`. All parameters are
    stored as attributes.

    Parameters
    ----------
    certificate : Certificate
        What to draw.
    name : str, default=None
        Name of the network in front of the verdict; its class where None.

    Attributes
    ----------
    figure_ : matplotlib Figure
        The figure.
    ax_ : matplotlib Axes
        The axes.
    points_ : matplotlib PathCollection
        The least losses that were found.
    bars_ : matplotlib LineCollection
        From these to the proven bounds.
    loss_line_ : matplotlib Line2D
        The network's loss.
    floor_line_ : matplotlib Line2D or None
        The floor; None where a logarithmic axis has no place for it.
    escape_line_ : matplotlib Line2D or None
        The loss that was reached by leaving the network's parameters.

    See Also
    --------
    certify : Makes the certificate.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> from sklearn.datasets import make_regression
    >>> from sklearn.neural_network import MLPRegressor
    >>> from sklearn_pgb import CertificateDisplay
    >>> X, y = make_regression(100, 3, noise=1.0, random_state=0)
    >>> network = MLPRegressor(hidden_layer_sizes=5, random_state=0).fit(X, y)
    >>> display = CertificateDisplay.from_estimator(network, X, y)
    >>> display.ax_.get_title()
    'MLPRegressor: training is not done'
    >>> plt.close(display.figure_)
    """

    def __init__(self, certificate, *, name=None):
        self.certificate = certificate
        self.name = name

    @classmethod
    def from_certificate(cls, certificate, *, ax=None, name=None):
        """Draw a certificate.

        Parameters
        ----------
        certificate : Certificate
            What `certify` returned.
        ax : matplotlib Axes, default=None
            Where to draw; None makes a new figure.
        name : str, default=None
            Name of the network in the title.

        Returns
        -------
        display : CertificateDisplay
        """
        check_matplotlib_support(f"{cls.__name__}.from_certificate")
        return cls(certificate, name=name).plot(ax)

    @classmethod
    def from_estimator(cls, estimator, X, y, *, ax=None, name=None, **params):
        """Certify a network and draw the certificate.

        Parameters
        ----------
        estimator : estimator or torch.nn.Module
            A fitted network, as `certify` takes it.
        X : array-like
            The training data.
        y : array-like
            The training targets.
        ax : matplotlib Axes, default=None
            Where to draw; None makes a new figure.
        name : str, default=None
            Name of the network in the title.
        **params : dict
            More arguments of `certify`.

        Returns
        -------
        display : CertificateDisplay
        """
        check_matplotlib_support(f"{cls.__name__}.from_estimator")
        return cls.from_certificate(
            certify(estimator, X, y, **params), ax=ax, name=name
        )

    def plot(self, ax=None):
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes a new figure.

        Returns
        -------
        display : CertificateDisplay
        """
        check_matplotlib_support(f"{type(self).__name__}.plot")
        c = self.certificate
        check_result(c, Certificate, "certificate", "certify")
        check_text(self.name, "name")
        n_bases = len(c.table)
        (self.ax_,) = _axes(ax, 1, figsize=(7.0, 1.8 + 0.42 * n_bases))
        ax = self.ax_
        self.figure_ = ax.figure
        place = np.arange(n_bases)[::-1]
        edge = self._set_scale()
        values = np.maximum([row.value for row in c.table], edge)
        bounds = np.maximum([row.lower_bound for row in c.table], edge)
        better = [row.excess > c.tolerance for row in c.table]
        colours = [BETTER if is_better else WORSE for is_better in better]
        # First, as matplotlib can't invert an axis on which all bases have one loss.
        self.loss_line_ = ax.axvline(
            max(c.loss, edge),
            color=NETWORK,
            label=f"the network: {_number(c.loss, c.tolerance)}",
        )
        self.bars_ = ax.hlines(place, bounds, values, colors=colours, lw=5, alpha=0.4)
        ax.scatter(bounds, place, marker="|", s=120, c=colours)
        self.points_ = ax.scatter(values, place, c=colours, s=40, zorder=3)
        self.floor_line_ = self.escape_line_ = None
        floor = c.floor if abs(c.floor) > ROUNDING * c.tolerance else 0.0
        if floor > edge:
            self.floor_line_ = ax.axvline(
                floor,
                color="0.3",
                ls="--",
                lw=1,
                label=f"no function is below {_number(floor, c.tolerance)}",
            )
        self._plot_escape(edge)
        self._label(place)
        return self

    def _plot_escape(self, edge):
        c = self.certificate
        if c.escape is None or c.tilted is not None:
            return
        reached = _number(c.escape.objective, c.tolerance)
        self.escape_line_ = self.ax_.axvline(
            max(c.escape.objective, edge),
            color=NETWORK,
            ls=":",
            label=f"reached on the way down: {reached}",
        )

    def _set_scale(self):
        """Choose the axis; the smallest loss it shows, minus infinity if linear."""
        c = self.certificate
        rounding = ROUNDING * c.tolerance
        losses = np.array([c.loss, *(row.value for row in c.table)])
        if (losses < -rounding).any() or c.floor < -rounding:
            return -np.inf
        shown = np.maximum(losses, rounding)
        if shown.max() < LOG_SPAN * shown.min():
            return -np.inf
        self.ax_.set_xscale("log")
        return rounding

    def _label(self, place):
        c, ax = self.certificate, self.ax_
        from matplotlib.lines import Line2D

        ax.set_yticks(place, [WORDS.get(row.basis, row.basis) for row in c.table])
        ax.set_ylim(-0.6, len(place) - 0.4)
        x_label = "training loss"
        if c.tilted is not None:
            x_label += " without penalty"
        ax.set_xlabel(x_label)
        ax.set_title(f"{self.name or c.name}: {TITLES[c.verdict]}")
        ax.grid(axis="x", color="0.9")
        ax.set_axisbelow(True)
        ax.spines[["top", "right"]].set_visible(False)
        handles = ax.get_legend_handles_labels()[0]
        excess = [row.excess > c.tolerance for row in c.table]
        for colour, is_better, label in (
            (BETTER, True, "a convex model here is better"),
            (WORSE, False, "a convex model here is not better"),
        ):
            if is_better in excess:
                handles.append(Line2D([], [], color=colour, marker="o", label=label))
        ax.legend(
            handles=handles,
            loc="upper center",
            bbox_to_anchor=(0.5, -0.6 / (0.5 + 0.42 * len(place))),
            ncols=2,
            frameon=False,
            fontsize="small",
        )


def _number(value, tolerance):
    """Three digits; what is far below the tolerance is rounding."""
    return "0" if abs(value) <= ROUNDING * tolerance else f"{value:.3g}"
