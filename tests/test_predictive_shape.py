"""Shapes of errors, conformal intervals and counts, apart from any estimator."""

from itertools import pairwise

import numpy as np
import pytest
from scipy import stats
from scipy.integrate import quad

from sklearn_pgb._budget import SHAPE_CENTERS
from sklearn_pgb._predictive._conformal import interval, label_threshold
from sklearn_pgb._predictive._distribution import Counts
from sklearn_pgb._predictive._shape import Shape, weighted_quantile

# --- shapes ---------------------------------------------------------------------------

ERRORS = {
    "normal": lambda rng, n: rng.normal(size=n),
    "two modes": lambda rng, n: rng.choice([-1, 1], n) + 0.2 * rng.normal(size=n),
    "heavy": lambda rng, n: rng.standard_t(3, size=n),
    "skew": lambda rng, n: rng.exponential(size=n),
    "few": lambda rng, n: rng.normal(size=5),
    "many": lambda rng, n: rng.normal(size=3 * SHAPE_CENTERS),
    "two values": lambda rng, n: np.repeat([0.0, 1.0], n // 2),
}


@pytest.fixture(params=ERRORS)
def shape(request, seed):
    errors = ERRORS[request.param](np.random.default_rng(seed), 200)
    return Shape.of(errors, np.ones(len(errors)), 1e-16)


def integral(function, shape):
    """Integral over an interval that holds nearly all of the shape."""
    low, high = shape.quantile(np.array([1e-9, 1 - 1e-9]))
    points = np.unique(np.clip([shape.loc, *shape.centers[::20]], low, high))
    edges = np.unique([low, *points, high])
    return sum(quad(function, a, b, limit=200)[0] for a, b in pairwise(edges))


def test_density_and_moments(shape):
    """The density integrates to one, and to the mean and the variance."""

    def density(z):
        return float(np.exp(shape.log_density(np.array(z))))

    assert integral(density, shape) == pytest.approx(1, abs=1e-6)
    mean = integral(lambda z: z * density(z), shape)
    assert mean == pytest.approx(shape.mean(), abs=1e-3)
    variance = integral(lambda z: (z - mean) ** 2 * density(z), shape)
    # A Student t density with 3 degrees of freedom has much of it far out.
    assert variance == pytest.approx(shape.variance(), rel=5e-2)


def test_quantiles_invert_the_distribution_function(shape):
    q = np.array([1e-6, 0.01, 0.3, 0.5, 0.9, 0.999])
    np.testing.assert_allclose(shape.cdf(shape.quantile(q)), q, atol=1e-9)


def test_score_is_an_integral(shape):
    """Against the definition, with a finer grid."""
    grid = np.linspace(*shape.quantile(np.array([1e-5, 1 - 1e-5])), 400_001)
    F = shape.cdf(grid)
    for z in (-0.7, 0.1, 1.3):
        expected = np.trapezoid((F - (grid >= z)) ** 2, grid)
        assert shape.crps(np.array([z]))[0] == pytest.approx(expected, abs=2e-3)


def test_samples_have_the_distribution(shape):
    draws = shape.sample((4000,), np.random.RandomState(0))
    # Probabilities at the draws are uniform.
    assert stats.kstest(shape.cdf(draws), "uniform").pvalue > 1e-4


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_density_of_equal_errors_is_positive(value):
    """The density of equal errors is narrow, but nowhere zero."""
    shape = Shape.of(np.full(20, value), np.ones(20), 1e-12)
    assert np.isfinite(shape.log_density(value + np.array([-1e3, -1.0, 0, 1.0]))).all()
    assert shape.mean() == pytest.approx(value)
    assert 0 < shape.variance() < 1e-23
    assert np.abs(shape.quantile(np.array([0.01, 0.99])) - value).max() < 1e-11


def test_shape_of_normal_errors(seed):
    errors = np.random.default_rng(seed).normal(size=2000)
    shape = Shape.of(errors, np.ones(2000), 1e-16)
    z = np.linspace(-2, 2, 21)
    np.testing.assert_allclose(
        np.exp(shape.log_density(z)), stats.norm.pdf(z), atol=0.05
    )


def test_shape_keeps_two_modes(seed):
    errors = ERRORS["two modes"](np.random.default_rng(seed), 500)
    shape = Shape.of(errors, np.ones(500), 1e-16)
    low, middle, high = np.exp(shape.log_density(np.array([-1.0, 0.0, 1.0])))
    assert middle < 0.1 * min(low, high)


def test_weights_are_repetitions(seed):
    rng = np.random.default_rng(seed)
    errors, counts = rng.normal(size=1200), rng.integers(1, 4, 1200)
    weighted = Shape.of(errors, counts.astype(float), 1e-16)
    repeated = Shape.of(np.repeat(errors, counts), np.ones(counts.sum()), 1e-16)
    np.testing.assert_array_equal(weighted.centers, repeated.centers)


@pytest.mark.parametrize("n", [1, 2, 7, 150, 151, 3 * SHAPE_CENTERS])
@pytest.mark.parametrize("weighted", [False, True])
def test_mirrored_errors(seed, n, weighted):
    """Errors of the other sign have the mirrored density."""
    rng = np.random.default_rng(seed)
    errors = rng.exponential(size=n) - 1
    weight = rng.integers(1, 4, n).astype(float) if weighted else np.ones(n)
    shape, mirrored = (Shape.of(s * errors, weight, 1e-16) for s in (1, -1))
    assert mirrored.mean() == pytest.approx(-shape.mean(), abs=1e-12)
    assert mirrored.variance() == pytest.approx(shape.variance(), rel=1e-12, abs=0)
    q = np.array([0.01, 0.3, 0.5, 0.9])
    ends = -mirrored.quantile(1 - q)
    np.testing.assert_allclose(shape.quantile(q), ends, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("n", [6, 7])
def test_quantiles_of_weights_are_those_of_numpy(seed, n):
    """Of repeated values, the averages on both sides of a jump."""
    rng = np.random.default_rng(seed)
    values, counts = rng.normal(size=n), rng.integers(1, 4, n)
    q = np.array([1 / 12, 0.25, 0.5, 0.7])
    repeated = np.repeat(values, counts)
    expected = np.quantile(repeated, q, method="averaged_inverted_cdf")
    found = weighted_quantile(values, 0.1 * counts, q)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_equal_errors():
    shape = Shape.of(np.full(7, 2.0), np.ones(7), 1e-16)
    np.testing.assert_allclose(shape.quantile(np.array([0.01, 0.99])), 2)
    assert shape.crps(np.array([5.0]))[0] == pytest.approx(3)


# --- intervals and sets ---------------------------------------------------------------


@pytest.mark.parametrize("coverage", [0.3, 0.5, 0.9, 0.99])
def test_intervals_are_the_jackknife_plus(seed, coverage):
    """Quantiles of all votes, by sorting them."""
    rng = np.random.default_rng(seed)
    folds = [rng.normal(size=6) for _ in range(3)]
    errors = [rng.normal(size=n) for n in (5, 4, 6)]
    scale = rng.uniform(0.5, 2, size=6)
    weights = [np.ones(len(each)) for each in errors]
    result = interval(folds, scale, errors, weights, coverage)
    n = 15
    for row in range(6):
        lower = np.sort(
            np.concatenate(
                [
                    f[row] - scale[row] * np.abs(e)
                    for f, e in zip(folds, errors, strict=True)
                ]
            )
        )[::-1]
        upper = np.sort(
            np.concatenate(
                [
                    f[row] + scale[row] * np.abs(e)
                    for f, e in zip(folds, errors, strict=True)
                ]
            )
        )
        place = int(np.ceil(coverage * (n + 1) - 1e-9)) - 1
        expected = (lower[place], upper[place]) if place < n else (-np.inf, np.inf)
        np.testing.assert_allclose(result[row], expected, rtol=1e-9)


def test_label_threshold():
    """It is the 9th of 9 scores for 0.9 = 9 / (9 + 1), and infinite for 0.95."""
    scores = np.array([0.3, 0.1, 0.2, 0.9, 0.4, 0.5, 0.8, 0.7, 0.6])
    assert label_threshold(scores, np.ones(9), 0.9) == 0.9
    assert label_threshold(scores, np.ones(9), 0.5) == 0.5
    assert label_threshold(scores, np.ones(9), 0.95) == np.inf


# --- counts ---------------------------------------------------------------------------


def test_counts_are_those_of_scipy():
    mean = np.array([[0.5], [4.0], [30.0]])
    counts = Counts(mean, np.array([0.5]), flat=True)
    twin = stats.nbinom(2, 1 / (1 + 0.5 * mean[:, 0]))
    np.testing.assert_allclose(counts.mean, twin.mean())
    np.testing.assert_allclose(counts.std, twin.std())
    y = np.array([0, 3, 50])
    np.testing.assert_allclose(counts.log_prob(y), twin.logpmf(y))
    np.testing.assert_allclose(counts.cdf(y), twin.cdf(y))
    np.testing.assert_array_equal(counts.quantile([0.1, 0.9])[:, 1], twin.ppf(0.9))
    draws = counts.sample(20_000, random_state=0)
    assert draws.shape == (20_000, 3)
    expected = np.abs(draws - y).mean(0) - np.abs(draws[::2] - draws[1::2]).mean(0) / 2
    np.testing.assert_allclose(counts.crps(y), expected, rtol=0.05)


@pytest.mark.parametrize("dispersion", [0.0, 0.5])
def test_score_of_counts_is_a_sum(dispersion):
    """The definition, count by count; targets far out and between counts too."""
    y = np.array([0, 3, 50, 2.5, 400])
    mean = np.array([[0.5], [4.0], [30.0], [2.0], [7.0]])
    counts = Counts(mean, np.array([dispersion]), flat=True)
    grid = np.arange(0, 2000)
    F = np.stack([counts.cdf(np.full(5, c)) for c in grid])
    left, right = np.clip(y, grid[:, None], grid[:, None] + 1), grid[:, None] + 1
    below = left - grid[:, None]
    expected = (below * F**2 + (right - left) * (1 - F) ** 2).sum(0)
    np.testing.assert_allclose(counts.crps(y), expected, rtol=1e-6)


def test_score_of_large_counts():
    """A million counts are nearly normal, and are not summed one by one."""
    mean = np.array([[1e6], [3.0]])
    counts = Counts(mean, np.array([0.01]), flat=True)
    std = counts.std[0]
    # That of a normal distribution at its mean.
    expected = std * (np.sqrt(2) - 1) / np.sqrt(np.pi)
    assert counts.crps(mean[:, 0])[0] == pytest.approx(expected, rel=0.02)
