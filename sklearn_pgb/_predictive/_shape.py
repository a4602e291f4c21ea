"""The shape of standardized errors: a smooth density that keeps skew and modes."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr
from scipy.stats import t as student

from sklearn_pgb._budget import (
    BISECTIONS,
    CRPS_POINTS,
    FAR_OUT,
    SHAPE_BANDWIDTHS,
    SHAPE_CENTERS,
    SHAPE_DISTANCES,
    SHAPE_FRACTIONS,
    SHAPE_FREEDOM,
    SHAPE_TAIL,
)
from sklearn_pgb._operators._blocks import row_slices

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Shape:
    """A kernel density of errors, mixed with a Student t density.

    The density is ``(1 - f) sum_j w_j N(z; z_j, h^2) + f T(z; nu, loc, scale)``. The
    second term gives the tails, and all of the density if there are few errors.

    Attributes
    ----------
    centers, weights : ndarray (n_centers,)
        Errors z_j and their weights w_j, of sum one.
    bandwidth : float
    fraction : float
        The weight f of the Student t density.
    freedom, loc, scale : float
        Its degrees of freedom, median and scale.
    """

    centers: Array
    weights: Array
    bandwidth: float
    fraction: float
    freedom: float
    loc: float
    scale: float

    @classmethod
    def of(cls, errors: Array, weight: Array, least: float) -> Self:
        """Fit the shape: the best leave-one-out likelihood of a few candidates.

        No density is narrower than `least`, the size of rounding errors.
        """
        centers, weights = errors, weight / weight.sum()
        if len(errors) > SHAPE_CENTERS:
            # Evenly spaced quantiles stand for many errors.
            levels = (np.arange(SHAPE_CENTERS) + 0.5) / SHAPE_CENTERS
            centers = weighted_quantile(errors, weight, levels)
            weights = np.full(SHAPE_CENTERS, 1 / SHAPE_CENTERS)
        loc = float(weighted_quantile(centers, weights, 0.5))
        deviation = float(weighted_quantile(np.abs(centers - loc), weights, 0.5))
        spread = float(np.sqrt(weights @ (centers - loc) ** 2))
        least = max(least, float(np.finfo(float).eps) * float(np.abs(centers).max()))
        if spread == 0:
            # A single value: narrow densities around it, of which the Student t density
            # is positive everywhere.
            mixed = SHAPE_FRACTIONS[0], SHAPE_FREEDOM[-1]
            return cls(centers, weights, least, *mixed, loc, least)
        deviation = max(deviation if deviation > 0 else spread, least)
        scott = min(spread, deviation / student.ppf(0.75, np.inf))
        scott = max(scott * len(centers) ** -0.2, least)
        scales = {nu: deviation / student.ppf(0.75, nu) for nu in SHAPE_FREEDOM}
        tails = {
            nu: student.pdf(centers, nu, loc, scale) for nu, scale in scales.items()
        }
        best, choice = -np.inf, (scott, 1.0, SHAPE_FREEDOM[-1])
        # Equal errors would make a tiny bandwidth look likely.
        rest = 1 - weights
        for factor in SHAPE_BANDWIDTHS:
            h = factor * scott
            kernel = _normal((centers[:, None] - centers) / h) / h
            np.fill_diagonal(kernel, 0)
            others = kernel @ weights / np.maximum(rest, 1e-12)
            for nu, tail in tails.items():
                for fraction in SHAPE_FRACTIONS:
                    density = (1 - fraction) * others + fraction * tail
                    value = float(weights @ np.log(np.maximum(density, 1e-300)))
                    if value > best:
                        best, choice = value, (h, fraction, nu)
        h, fraction, nu = choice
        return cls(centers, weights, h, fraction, nu, loc, scales[nu])

    def mean(self) -> float:
        """Return the mean."""
        kernel = self.weights @ self.centers
        return float((1 - self.fraction) * kernel) + self.fraction * self.loc

    def variance(self) -> float:
        """Return the variance."""
        mean = self.mean()
        kernel = self.weights @ (self.centers - mean) ** 2 + self.bandwidth**2
        tail = self.scale**2 * self.freedom / (self.freedom - 2)
        tail += (self.loc - mean) ** 2
        return float((1 - self.fraction) * kernel + self.fraction * tail)

    def cdf(self, z: Array) -> Array:
        """Return the distribution function."""
        kernel = self._of_centers(z, ndtr)
        tail = student.cdf(z, self.freedom, self.loc, self.scale)
        return (1 - self.fraction) * kernel + self.fraction * tail

    def log_density(self, z: Array) -> Array:
        """Return the log density."""
        kernel = self._of_centers(z, _normal) / self.bandwidth
        # Far out, where squares overflow, the density is a power of the distance.
        distance = (z - self.loc) / self.scale
        tail = student.logpdf(np.clip(distance, -FAR_OUT, FAR_OUT), self.freedom)
        beyond = np.log(np.maximum(np.abs(distance) / FAR_OUT, 1))
        tail = tail - (self.freedom + 1) * beyond - np.log(self.scale)
        with np.errstate(divide="ignore"):
            logs = np.log((1 - self.fraction) * kernel), np.log(self.fraction) + tail
        return np.logaddexp(*logs)

    def quantile(self, q: Array) -> Array:
        """Return the quantiles of probabilities in (0, 1), by bisection."""
        q = np.asarray(q, dtype=np.float64)
        low, high = self._range(float(q.min()), float(q.max()))
        left, right = np.full(q.shape, low), np.full(q.shape, high)
        for _ in range(BISECTIONS):
            middle = (left + right) / 2
            below = self.cdf(middle) < q
            left, right = np.where(below, middle, left), np.where(below, right, middle)
        return (left + right) / 2

    def sample(self, shape: tuple[int, ...], rng: np.random.RandomState) -> Array:
        """Draw independent values."""
        chosen = rng.choice(self.centers, size=shape, p=self.weights)
        kernel = chosen + self.bandwidth * rng.standard_normal(shape)
        tail = self.loc + self.scale * rng.standard_t(self.freedom, size=shape)
        return np.where(rng.uniform(size=shape) < self.fraction, tail, kernel)

    def crps(self, z: Array) -> Array:
        """Return the integral of ``(F(x) - 1[x >= z])^2`` over x.

        The integrand is summed on a grid, with cubic steps towards the tails.
        """
        low, high = self._range(SHAPE_TAIL, 1 - SHAPE_TAIL)
        grid = np.linspace(-1, 1, CRPS_POINTS) ** 3
        grid = self.loc + np.where(grid < 0, self.loc - low, high - self.loc) * grid
        grid = np.unique(np.concatenate([grid, self.centers]))
        F = self.cdf(grid)
        steps = np.diff(grid)
        below = np.concatenate([[0], np.cumsum(steps * (F[1:] ** 2 + F[:-1] ** 2) / 2)])
        G = 1 - F
        above = np.cumsum((steps * (G[1:] ** 2 + G[:-1] ** 2) / 2)[::-1])[::-1]
        total = below + np.append(above, 0)
        inside = np.interp(z, grid, total)
        # Outside of the grid F is zero or one.
        beyond = np.maximum(z - grid[-1], 0) + np.maximum(grid[0] - z, 0)
        return inside + beyond

    def _of_centers(self, z: Array, function: object) -> Array:
        """Weighted mean of a function of the distances to the centers."""
        z = np.asarray(z, dtype=np.float64)
        flat = z.reshape(-1)
        result = np.empty_like(flat)
        step = max(1, SHAPE_DISTANCES // len(self.centers))
        for part in row_slices(len(flat), step):
            distances = (flat[part, None] - self.centers) / self.bandwidth
            result[part] = function(distances) @ self.weights  # type: ignore[operator]
        return result.reshape(z.shape)

    def _range(self, low: float, high: float) -> tuple[float, float]:
        """An interval that holds the quantiles of two probabilities."""
        ends = [
            float(student.ppf(each, self.freedom, self.loc, self.scale))
            for each in (low, high)
        ]
        margin = self.bandwidth * student.isf(min(low, 1 - high), np.inf)
        margin = max(margin, self.bandwidth)
        first = min(ends[0], self.centers.min() - margin)
        last = max(ends[1], self.centers.max() + margin)
        return float(first), float(last)


def _normal(z: Array) -> Array:
    density: Array = np.exp(-z * z / 2) / np.sqrt(2 * np.pi)
    return density


def weighted_quantile(values: Array, weight: Array, q: Array | float) -> Array:
    """Quantiles, each halfway between its smallest and its largest possible value.

    So that of an even number of equal weights is the usual median, and quantiles of
    mirrored values are the mirrored ones.
    """
    order = np.argsort(values, kind="stable")
    total = np.cumsum(weight[order])
    # Sums from either end differ by rounding.
    reached, slack = np.asarray(q) * total[-1], 1e-12 * total[-1]
    values, last = values[order], len(values) - 1
    low = np.searchsorted(total, reached - slack)
    high = np.searchsorted(total, reached + slack, side="right")
    ends = values[np.minimum(low, last)], values[np.minimum(high, last)]
    result: Array = ends[0] / 2 + ends[1] / 2
    return result
