"""Implement `PredictiveDisplay`."""

from numbers import Integral

import numpy as np
from sklearn.utils import check_consistent_length

from sklearn_pgb._budget import FAN_COVERAGES, RELIABILITY_POINTS
from sklearn_pgb._display._arguments import check_text, numbers
from sklearn_pgb._display._axes import panel_axes
from sklearn_pgb._predictive._distribution import Counts
from sklearn_pgb._predictive._predictor import distributional
from sklearn_pgb._sklearn import _safe_indexing, check_matplotlib_support


class PredictiveDisplay:
    """Plot predictive distributions: a fan of intervals, and their reliability.

    The first panel shows the targets of some samples with the central intervals of
    their predicted distributions, along one feature or the predicted mean. The second
    panel shows the fraction of targets below each predicted quantile. It is on the
    diagonal if the quantiles are right, and below it if they are too low.

    It is recommended to use `from_estimator`. All parameters are stored as attributes.

    Parameters
    ----------
    position : array-like of shape (n_samples,)
        Horizontal positions of the samples.
    y : array-like of shape (n_samples,)
        Targets.
    mean : array-like of shape (n_samples,)
        Predicted means.
    quantiles : array-like of shape (n_samples, 4)
        Lower and upper ends of the 50 % interval, then those of the 90 % interval.
    probabilities : array-like of shape (n_samples,) or (n_samples, 2)
        Predicted probability of a value up to the target. For counts, those of a value
        below it and of one up to it; the curve is then the mean of the distributions of
        the probability integral transform given the targets [1]_.
    position_name, target_name : str, default=None
        Labels of the axes.

    Attributes
    ----------
    figure_ : matplotlib Figure
    axes_ : ndarray of matplotlib Axes
        The fan and the reliability.
    points_ : matplotlib Line2D
        The targets.
    mean_line_ : matplotlib Line2D
        The predicted means.
    bands_ : list of matplotlib LineCollection
        The 90 % and the 50 % intervals.
    reliability_line_ : matplotlib Line2D
        Fractions of targets below the predicted quantiles.

    See Also
    --------
    GradientBasisRegressor.predict_distribution : The distributions.

    References
    ----------
    .. [1] Czado, Gneiting and Held, "Predictive Model Assessment for Count Data",
       Biometrics 65, 2009.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.linear_model import LinearRegression
    >>> from sklearn_pgb import GradientBasisRefit, PredictiveDisplay
    >>> X, y = load_diabetes(return_X_y=True, as_frame=True)
    >>> refit = GradientBasisRefit(LinearRegression(), random_state=0).fit(X, y)
    >>> display = PredictiveDisplay.from_estimator(refit, X, y, feature="bmi")
    >>> display.axes_[0].get_xlabel()
    'bmi'
    >>> plt.close(display.figure_)
    """

    def __init__(
        self,
        position,
        y,
        mean,
        quantiles,
        probabilities,
        *,
        position_name=None,
        target_name=None,
    ):
        self.position = position
        self.y = y
        self.mean = mean
        self.quantiles = quantiles
        self.probabilities = probabilities
        self.position_name = position_name
        self.target_name = target_name

    @classmethod
    def from_estimator(
        cls, estimator, X, y, *, feature=None, target_name=None, ax=None
    ):
        """Plot the predictive distributions of a fitted regressor.

        Parameters
        ----------
        estimator : fitted regressor with `predict_distribution`
            Or a Pipeline or search that ends in one.
        X : array-like, sparse matrix or data frame of shape (n_samples, n_features)
            Samples that the estimator was not fitted to.
        y : array-like of shape (n_samples,) or (n_samples, 1)
            Targets.
        feature : int or str, default=None
            Column of X with numbers along which the fan is drawn. None is the predicted
            mean.
        target_name : str, default=None
            Label of the targets' axis.
        ax : array-like of two matplotlib Axes, default=None
            None makes a new figure.

        Returns
        -------
        display : PredictiveDisplay

        Raises
        ------
        TypeError
            If the estimator predicts no distributions.
        ValueError
            If there are several outputs, or X has no column `feature`.
        """
        check_matplotlib_support(f"{cls.__name__}.from_estimator")
        predictor, rows = distributional(estimator, X)
        y = numbers(y, "y")
        check_consistent_length(X, y)
        distribution = predictor.predict_distribution(rows)
        mean = distribution.mean
        if mean.ndim > 1 and mean.shape[1] > 1:
            raise ValueError(
                f"estimator must have one output, got {mean.shape[1]}. Fit it to one "
                "column of y."
            )
        ends = [(1 + sign * band) / 2 for band in FAN_COVERAGES for sign in (-1, 1)]
        probabilities = distribution.cdf(y).ravel()
        if isinstance(distribution, Counts):
            below = distribution.cdf(np.ceil(y) - 1).ravel()
            probabilities = np.column_stack([below, probabilities])
        mean, y = mean.ravel(), y.ravel()
        position, name = mean, "predicted mean"
        if feature is not None:
            position, name = _column(X, feature), str(feature)
        display = cls(
            position,
            y,
            mean,
            distribution.quantile(ends).reshape(len(mean), -1),
            probabilities,
            position_name=name,
            target_name=target_name,
        )
        return display.plot(ax)

    def plot(self, ax=None):
        """Plot the distributions.

        Parameters
        ----------
        ax : array-like of two matplotlib Axes, default=None
            None makes a new figure.

        Returns
        -------
        display : PredictiveDisplay
        """
        check_matplotlib_support(f"{type(self).__name__}.plot")
        import matplotlib.pyplot as plt

        for name in ("position_name", "target_name"):
            check_text(getattr(self, name), name)
        probabilities = _probability_ends(self.probabilities, numbers(self.y, "y").size)
        size = plt.rcParams["figure.figsize"]
        self.axes_ = panel_axes(ax, 2, (1.8 * size[0], size[1]))
        if len(self.axes_) < 2:
            raise ValueError(
                "ax must hold two Axes, one for each panel, got one. Make them with "
                "matplotlib.pyplot.subplots(1, 2)."
            )
        self.figure_ = self.axes_[0].figure
        order = np.argsort(numbers(self.position, "position"), kind="stable")
        x = numbers(self.position, "position")[order]
        quantiles = numbers(self.quantiles, "quantiles")[order]
        fan, reliability = self.axes_
        self.bands_ = []
        bands = zip(FAN_COVERAGES[::-1], (1, 0), (0.2, 0.4), strict=True)
        for coverage, number, alpha in bands:
            ends = quantiles[:, 2 * number : 2 * number + 2].T
            style = {"color": "C0", "alpha": alpha, "lw": 3}
            label = f"{coverage:.0%} interval"
            self.bands_.append(fan.vlines(x, *ends, label=label, **style))
        mean = numbers(self.mean, "mean")[order]
        (self.mean_line_,) = fan.plot(x, mean, "_C3", ms=5, label="predicted mean")
        targets = numbers(self.y, "y")[order]
        (self.points_,) = fan.plot(x, targets, ".k", ms=3, alpha=0.6, label="target")
        fan.set(xlabel=self.position_name, ylabel=self.target_name or "target")
        fan.legend()
        levels = np.linspace(0, 1, RELIABILITY_POINTS)
        below = _transform_distribution(probabilities, levels)
        reliability.plot([0, 1], [0, 1], "--", color="0.5", label="as predicted")
        (self.reliability_line_,) = reliability.plot(levels, below, label="observed")
        reliability.set(
            xlabel="predicted probability",
            ylabel="fraction of targets below the quantile",
            xlim=(0, 1),
            ylim=(0, 1),
            aspect="equal",
        )
        reliability.legend()
        return self


def _probability_ends(probabilities, n_samples):
    """Return the probabilities below and up to each target, (n_samples, 2)."""
    ends = numbers(probabilities, "probabilities")
    if ends.shape not in ((n_samples,), (n_samples, 2)):
        raise ValueError(
            f"probabilities must have shape ({n_samples},) or ({n_samples}, 2), got "
            f"{ends.shape}. Pass distribution.cdf(y)."
        )
    return np.column_stack([ends, ends]) if ends.ndim == 1 else ends


def _transform_distribution(ends, levels):
    """Return the fraction of targets below the quantiles of each level."""
    low, high = ends.T[:, :, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        part = np.clip((levels - low) / (high - low), 0, 1)
    return np.where(high > low, part, high <= levels).mean(0)


def _column(X, feature):
    """Return one column of X as numbers, (n_samples,)."""
    wrong = f"feature must be a column of X, got {feature!r}"
    advice = "Pass a name of a column, a number, or None for the predicted mean."
    if isinstance(feature, bool) or not isinstance(feature, str | Integral):
        raise ValueError(f"{wrong}. {advice}")
    if not hasattr(X, "shape"):
        X = np.asarray(X)
    try:
        column = _safe_indexing(X, feature, axis=1)
    except (KeyError, IndexError, ValueError) as error:
        raise ValueError(f"{wrong}: {error}. {advice}") from error
    if hasattr(column, "toarray"):
        column = column.toarray().ravel()
    if np.ndim(column) != 1:
        raise ValueError(f"{wrong}, of shape {np.shape(column)}. {advice}")
    try:
        return numbers(column, "feature")
    except TypeError as error:
        raise TypeError(
            f"feature must be a column of numbers, got {feature!r}. Choose another, "
            "or None for the predicted mean."
        ) from error
