"""Implement `CertificateDisplay`."""

import numpy as np

from sklearn_pgb._budget import AXIS_ROUNDING, CERTIFICATE_LOG_SPAN
from sklearn_pgb._certificate._certificate import Certificate
from sklearn_pgb._certificate._certify import certify
from sklearn_pgb._display._arguments import check_result, check_text
from sklearn_pgb._display._axes import panel_axes
from sklearn_pgb._sklearn import check_matplotlib_support

TITLES = {
    "certified_global": "global minimum, certified",
    "not_critical": "training has not converged",
    "not_local_min": "not a local minimum, descent is possible",
    "consistent_with_local_min": "no test contradicts a local minimum",
}

# Self-explanatory names of the bases; the others keep their name in the table.
BASIS_LABELS = {
    "inputs": "inputs (linear model)",
    "gradient": "partial derivatives",
    "perturbed gradient": "perturbed derivatives",
}

# Colors of the network, of bases that are better than it, and of the others.
NETWORK, BETTER, WORSE = "tab:orange", "tab:green", "0.55"


class CertificateDisplay:
    """Plot a network's loss against the smallest loss on each basis.

    Each row is a basis: features on which a convex model could have been fitted,
    including the network's own layers and partial derivatives. The point is the
    smallest loss found, and the bar extends to the proven lower bound. The vertical
    line is the network. Green bases are better than the network: a convex refit would
    reduce the loss, or training has not converged. The dashed line is the floor, a
    lower bound for all functions of the inputs.

    It is recommended to use `from_estimator` or `from_certificate`. All parameters are
    stored as attributes.

    Parameters
    ----------
    certificate : Certificate
        The certificate to plot.
    name : str, default=None
        Name of the network in the title. None is its class.

    Attributes
    ----------
    figure_ : matplotlib Figure
        The figure.
    ax_ : matplotlib Axes
        The axes.
    points_ : matplotlib PathCollection
        The smallest losses found.
    bars_ : matplotlib LineCollection
        Bars from the smallest losses to the proven bounds.
    loss_line_ : matplotlib Line2D
        The network's loss.
    floor_line_ : matplotlib Line2D or None
        The floor; None if a logarithmic axis can't show it.
    escape_line_ : matplotlib Line2D or None
        The loss reached by descent from the network's parameters; None if there is
        none.

    See Also
    --------
    certify : Compute a certificate.

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
    'MLPRegressor: training has not converged'
    >>> plt.close(display.figure_)
    """

    def __init__(self, certificate, *, name=None):
        self.certificate = certificate
        self.name = name

    @classmethod
    def from_certificate(cls, certificate, *, ax=None, name=None):
        """Plot a certificate.

        Parameters
        ----------
        certificate : Certificate
            Result of `certify`.
        ax : matplotlib Axes, default=None
            Axes to plot on. None makes a new figure.
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
        """Certify a network and plot the certificate.

        Parameters
        ----------
        estimator : estimator or torch.nn.Module
            A fitted network; see `certify`.
        X : array-like
            Training data.
        y : array-like
            Training targets.
        ax : matplotlib Axes, default=None
            Axes to plot on. None makes a new figure.
        name : str, default=None
            Name of the network in the title.
        **params : dict
            Further arguments of `certify`.

        Returns
        -------
        display : CertificateDisplay
        """
        check_matplotlib_support(f"{cls.__name__}.from_estimator")
        return cls.from_certificate(
            certify(estimator, X, y, **params), ax=ax, name=name
        )

    def plot(self, ax=None):
        """Plot the certificate.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to plot on. None makes a new figure.

        Returns
        -------
        display : CertificateDisplay
        """
        check_matplotlib_support(f"{type(self).__name__}.plot")
        c = self.certificate
        check_result(c, Certificate, "certificate", "certify")
        check_text(self.name, "name")
        n_bases = len(c.table)
        (self.ax_,) = panel_axes(ax, 1, figsize=(7.0, 1.8 + 0.42 * n_bases))
        ax = self.ax_
        self.figure_ = ax.figure
        positions = np.arange(n_bases)[::-1]
        # The smallest loss shown, minus infinity on a linear axis.
        rounding, edge = AXIS_ROUNDING * c.tolerance, -np.inf
        losses = np.array([c.loss, *(row.value for row in c.table)])
        shown = np.maximum(losses, rounding)
        is_negative = (losses < -rounding).any() or c.floor < -rounding
        if not is_negative and shown.max() >= CERTIFICATE_LOG_SPAN * shown.min():
            ax.set_xscale("log")
            edge = rounding
        values = np.maximum([row.value for row in c.table], edge)
        bounds = np.maximum([row.lower_bound for row in c.table], edge)
        better = [row.excess > c.tolerance for row in c.table]
        colors = [BETTER if is_better else WORSE for is_better in better]
        # Plot the network first: matplotlib can't scale an axis if all losses are
        # equal.
        self.loss_line_ = self._line(c.loss, edge, "the network", color=NETWORK)
        self.bars_ = ax.hlines(
            positions, bounds, values, colors=colors, lw=5, alpha=0.4
        )
        ax.scatter(bounds, positions, marker="|", s=120, c=colors)
        self.points_ = ax.scatter(values, positions, c=colors, s=40, zorder=3)
        self.floor_line_ = self.escape_line_ = None
        floor = c.floor if abs(c.floor) > rounding else 0.0
        if floor > edge:
            style = {"color": "0.3", "ls": "--", "lw": 1}
            self.floor_line_ = self._line(floor, edge, "floor", **style)
        # The axis shows losses; with a penalty, the escape's objective is not a loss.
        if c.escape is not None and c.tilted is None:
            style = {"color": NETWORK, "ls": ":"}
            words = "reached by descent"
            self.escape_line_ = self._line(c.escape.objective, edge, words, **style)
        self._label(positions, better)
        return self

    def _line(self, value, edge, words, **style):
        """Plot a vertical line at a loss; zero up to rounding is labeled as 0."""
        tolerance = self.certificate.tolerance
        number = "0" if abs(value) <= AXIS_ROUNDING * tolerance else f"{value:.3g}"
        return self.ax_.axvline(max(value, edge), label=f"{words}: {number}", **style)

    def _label(self, positions, better):
        c, ax = self.certificate, self.ax_
        from matplotlib.lines import Line2D

        ax.set_yticks(
            positions, [BASIS_LABELS.get(row.basis, row.basis) for row in c.table]
        )
        ax.set_ylim(-0.6, len(positions) - 0.4)
        x_label = "training loss"
        if c.tilted is not None:
            x_label += " without penalty"
        ax.set_xlabel(x_label)
        ax.set_title(f"{self.name or c.name}: {TITLES[c.verdict]}")
        ax.grid(axis="x", color="0.9")
        ax.set_axisbelow(True)
        ax.spines[["top", "right"]].set_visible(False)
        handles = ax.get_legend_handles_labels()[0]
        for color, is_better, label in (
            (BETTER, True, "a convex model here is better"),
            (WORSE, False, "a convex model here is not better"),
        ):
            if is_better in better:
                handles.append(Line2D([], [], color=color, marker="o", label=label))
        ax.legend(
            handles=handles,
            loc="upper center",
            bbox_to_anchor=(0.5, -0.6 / (0.5 + 0.42 * len(positions))),
            ncols=2,
            frameon=False,
            fontsize="small",
        )
