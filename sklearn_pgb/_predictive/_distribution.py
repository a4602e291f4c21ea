"""Predictive distributions of samples."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar
from scipy.stats import nbinom, poisson
from sklearn.utils import assert_all_finite, check_random_state

from sklearn_pgb._budget import (
    COUNT_POINTS,
    COUNT_RTOL,
    COUNT_TAIL,
    LARGEST_FRACTION,
    LEAST_DISPERSION,
    MOST_DISPERSION,
)
from sklearn_pgb._predictive._shape import Shape

Array = NDArray[np.float64]


class PredictiveDistribution(ABC):
    """Distributions of the targets of some samples, independent of each other.

    Arrays have the shape of predictions: (n_samples,), or (n_samples, n_outputs) if the
    estimator was fitted with a matrix of targets. Each output has its own distribution;
    the dependence between outputs is not modeled.

    Attributes
    ----------
    mean : ndarray of the shape of predictions
    std : ndarray of the shape of predictions

    See Also
    --------
    GradientBasisRegressor.predict_distribution : Predict distributions.
    PredictiveDisplay : Plot them.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.linear_model import Ridge
    >>> from sklearn_pgb import GradientBasisRefit
    >>> X, y = load_diabetes(return_X_y=True)
    >>> refit = GradientBasisRefit(Ridge(), random_state=0).fit(X[:400], y[:400])
    >>> distribution = refit.predict_distribution(X[400:])
    >>> distribution.quantile([0.05, 0.95]).shape
    (42, 2)
    >>> float(distribution.cdf(distribution.quantile(0.25))[0].round(2))
    0.25
    """

    mean: Array
    std: Array
    # Whether arrays have no axis of outputs.
    _flat: bool

    def _out(self, values: Array) -> Array:
        return values[..., 0] if self._flat else values

    @abstractmethod
    def quantile(self, q: ArrayLike) -> Array:
        """Return quantiles.

        Parameters
        ----------
        q : float or array-like of shape (n_quantiles,)
            Probabilities between 0 and 1, both excluded.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_quantiles), then n_outputs
        """

    @abstractmethod
    def cdf(self, y: ArrayLike) -> Array:
        """Return the probabilities of values up to y, of the shape of predictions."""

    @abstractmethod
    def log_prob(self, y: ArrayLike) -> Array:
        """Return the log density at y, or the log probability of counts."""

    @abstractmethod
    def sample(self, n_draws: int = 1, random_state: Any = None) -> Array:
        """Draw targets.

        Parameters
        ----------
        n_draws : int, default=1
        random_state : int, RandomState or None, default=None

        Returns
        -------
        ndarray of shape (n_draws, n_samples) or (n_draws, n_samples, n_outputs)
        """

    @abstractmethod
    def crps(self, y: ArrayLike) -> Array:
        """Return the continuous ranked probability score, in the units of y.

        It is the integral of ``(F(x) - 1[x >= y])^2`` over x, the mean absolute error
        if the distribution is a point. Smaller is better.
        """


class LocationScale(PredictiveDistribution):
    """Distributions of ``location + scale z``, with one shape of z for each output.

    Arrays have one dimension if `flat`.
    """

    def __init__(
        self, location: Array, scale: Array, shapes: Sequence[Shape], flat: bool
    ) -> None:
        self._location, self._scale = location, scale
        self._shapes, self._flat = shapes, flat
        centers = np.array([shape.mean() for shape in shapes])
        deviations = np.sqrt([shape.variance() for shape in shapes])
        self.mean = self._out(location + scale * centers)
        self.std = self._out(scale * deviations)

    def quantile(self, q: ArrayLike) -> Array:
        levels = check_probabilities(q)
        values = [shape.quantile(levels.reshape(-1)) for shape in self._shapes]
        # (n_samples, n_quantiles, n_outputs)
        z = np.stack(values, -1)[None]
        result = self._location[:, None] + self._scale[:, None] * z
        return self._out(result if levels.ndim else result[:, 0])

    def cdf(self, y: ArrayLike) -> Array:
        return self._each(Shape.cdf, y)

    def log_prob(self, y: ArrayLike) -> Array:
        return self._each(Shape.log_density, y) - self._out(np.log(self._scale))

    def sample(self, n_draws: int = 1, random_state: Any = None) -> Array:
        rng = check_random_state(random_state)
        size = check_n_draws(n_draws), len(self._location)
        z = np.stack([shape.sample(size, rng) for shape in self._shapes], -1)
        return self._out(self._location + self._scale * z)

    def crps(self, y: ArrayLike) -> Array:
        return self._each(Shape.crps, y) * self._out(self._scale)

    def _each(self, function: Callable[[Shape, Array], Array], y: ArrayLike) -> Array:
        """A function of each output's shape and standardized targets."""
        y = check_targets(y, self._location.shape)
        # Distances and their squares may overflow to infinity, which is far enough.
        with np.errstate(over="ignore"):
            z = (y - self._location) / self._scale
            return self._out(np.stack(list(map(function, self._shapes, z.T)), -1))


class Counts(PredictiveDistribution):
    """Negative binomial distributions; those of Poisson if the dispersion is zero.

    The variance is ``mean + dispersion mean^2``. Arrays have one dimension if `flat`.
    """

    def __init__(self, mean: Array, dispersion: Array, flat: bool) -> None:
        self._columns = [
            count_distribution(column, float(d))
            for column, d in zip(mean.T, dispersion, strict=True)
        ]
        self._flat, self._shape = flat, mean.shape
        self.mean = self._out(mean)
        self.std = self._out(np.sqrt(mean + dispersion * mean**2))

    def quantile(self, q: ArrayLike) -> Array:
        levels = check_probabilities(q)
        columns = [
            np.stack([each.ppf(level) for level in levels.reshape(-1)], 1)
            for each in self._columns
        ]
        result = np.stack(columns, -1)
        return self._out(result if levels.ndim else result[:, 0])

    def cdf(self, y: ArrayLike) -> Array:
        return self._each(lambda counts, column: counts.cdf(column), y)

    def log_prob(self, y: ArrayLike) -> Array:
        advice = "Other numbers have no probability: score the mean instead."
        return self._each(
            lambda counts, column: counts.logpmf(check_counts(column, advice)), y
        )

    def sample(self, n_draws: int = 1, random_state: Any = None) -> Array:
        rng = check_random_state(random_state)
        size = check_n_draws(n_draws), self._shape[0]
        draws = [d.rvs(size=size, random_state=rng) for d in self._columns]
        return self._out(np.stack(draws, -1).astype(float))

    def crps(self, y: ArrayLike) -> Array:
        return self._each(_crps_of_counts, y)

    def _each(self, function: Callable[[Any, Array], Array], y: ArrayLike) -> Array:
        """A function of each output's distributions and targets."""
        y = check_targets(y, self._shape)
        return self._out(np.stack(list(map(function, self._columns, y.T)), -1))


def _crps_of_counts(counts: Any, y: Array) -> Array:
    low, high = counts.ppf(COUNT_TAIL), counts.ppf(1 - COUNT_TAIL)
    # F is nearly zero below `low`, and one above `high`.
    total: Array = np.maximum(low - y, 0) + np.maximum(y - high - 1, 0)
    # Many counts are taken in steps, with F in the middle of each.
    step = np.ceil((high - low + 1) / COUNT_POINTS)
    inside = np.clip(y, low, high + 1)
    for number in range(int(((high - low) / step).max()) + 1):
        left = np.minimum(low + number * step, high + 1)
        right = np.minimum(left + step, high + 1)
        F = counts.cdf(np.floor((left + right - 1) / 2))
        below = np.clip(inside, left, right) - left
        total += below * F**2 + (right - left - below) * (1 - F) ** 2
    return total


def fit_dispersions(y: Array, mean: Array, weight: Array) -> Array:
    """Dispersion of each output's negative binomial counts, by maximum likelihood.

    Raises an error for fractions, such as rates.
    """
    dispersions = []
    for column, means in zip(y.T, mean.T, strict=True):
        counts = check_counts(
            column, "Fit counts instead of rates. Rates can be predicted by `predict`."
        )

        def loss(
            log_dispersion: float, counts: Array = counts, mean: Array = means
        ) -> float:
            distribution = count_distribution(mean, float(np.exp(log_dispersion)))
            return -float(weight @ distribution.logpmf(counts))

        bounds = np.log(LEAST_DISPERSION), np.log(MOST_DISPERSION)
        best = minimize_scalar(loss, bounds=bounds, method="bounded")
        of_poisson = -float(weight @ count_distribution(means, 0.0).logpmf(counts))
        dispersions.append(float(np.exp(best.x)) if best.fun < of_poisson else 0.0)
    return np.array(dispersions)


def count_distribution(mean: Array, dispersion: float) -> Any:
    """Return SciPy's distribution of counts with these means."""
    if dispersion == 0:
        return poisson(mean)
    return nbinom(1 / dispersion, 1 / (1 + dispersion * mean))


def check_probabilities(q: ArrayLike) -> Array:
    """Return probabilities as an array, or raise an error."""
    try:
        levels: Array = np.asarray(q, dtype=np.float64)
    except (TypeError, ValueError):
        raise _no_probabilities(q) from None
    if levels.ndim > 1 or not levels.size or not ((levels > 0) & (levels < 1)).all():
        raise _no_probabilities(q)
    return levels


def _no_probabilities(q: ArrayLike) -> ValueError:
    return ValueError(
        f"quantiles must be one or more numbers between 0 and 1, got {q!r}. "
        "Pass, for example, [0.05, 0.5, 0.95]."
    )


def check_n_draws(n_draws: Any) -> int:
    """Return the number of draws, or raise an error."""
    is_whole = isinstance(n_draws, Integral) and not isinstance(n_draws, bool)
    if not is_whole or n_draws < 0:
        raise ValueError(
            f"n_draws must be a whole number, zero or larger, got {n_draws!r}. Pass, "
            "for example, 100."
        )
    return int(n_draws)


def check_targets(y: ArrayLike, shape: tuple[int, ...], finite: bool = False) -> Array:
    """Return targets as a matrix of this shape, or raise an error.

    Infinite targets raise an error if `finite`.
    """
    try:
        values = np.asarray(y, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"y must be numbers, got {y!r:.60}. Pass one target for each sample."
        ) from error
    if values.shape != shape and (shape[1] > 1 or values.shape != shape[:1]):
        raise ValueError(
            f"y must have {shape[0]} samples and {shape[1]} outputs, as the "
            f"distribution, got shape {values.shape}. Pass one target for each."
        )
    if np.isnan(values).any():
        raise ValueError(
            f"y must have no missing values, got {np.isnan(values).sum()} of them. "
            "Leave these samples out."
        )
    if finite:
        assert_all_finite(values, input_name="y")
    return values.reshape(shape)


def check_counts(y: Array, advice: str) -> Array:
    """Return targets rounded to whole numbers, or raise an error for fractions."""
    counts: Array = np.round(y)
    allowed = np.clip(COUNT_RTOL * np.abs(y), COUNT_RTOL, LARGEST_FRACTION)
    fractions = y[np.abs(y - counts) > allowed]
    if len(fractions):
        raise ValueError(
            "y must hold whole numbers for distributions of counts, got "
            f"{fractions[0]:.9g}. {advice}"
        )
    return counts
