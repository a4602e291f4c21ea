"""Units in which members of tables see targets."""

import numpy as np
from numpy.typing import NDArray

from sklearn_pgb._budget import CONSTANT_RTOL, FAR_TARGETS

Array = NDArray[np.float64]


def target_units(y: Array, weight: Array) -> tuple[Array, Array]:
    """Return the centers and the divisors of the targets, both (n_outputs,).

    The divisors are standard deviations, rounded to powers of two, because units matter
    to members: the derivatives of a network by its hidden weights are in the units of
    the targets, but those by its output weights are not, so units would decide on their
    share in the kernel, and trees count variances below 2e-16 as zero. Centers are zero
    for most targets. Trees also take differences of squares, so the means of targets
    far from zero are subtracted.

    These are statistics of all samples, held-out ones included. Single samples hardly
    ever change a power of two.
    """
    y, weight = y[weight > 0], weight[weight > 0]
    # Relative to one sample, so that the mean of equal targets is exact.
    pivot = y[weight.argmax()]
    weight = weight[:, None] / weight.sum()
    mean = pivot + (weight * (y - pivot)).sum(0)
    deviation = y - mean
    spread = (weight * np.abs(deviation)).sum(0)
    # The deviation of constant targets is only rounding error.
    spread = np.where(spread > CONSTANT_RTOL * np.abs(mean), spread, 0.0)
    # Squares of deviations in units of their mean neither overflow nor underflow.
    size = np.where(spread > 0, spread, 1.0)
    ratio = np.sqrt((weight * (deviation / size) ** 2).sum(0))
    ratio = np.where((spread > 0) & (ratio > 0), ratio, 1.0)
    exponent = np.round(np.log2(size) + np.log2(ratio))
    far = np.abs(mean) > FAR_TARGETS * spread
    return np.where(far, mean, 0.0), 2.0**exponent
