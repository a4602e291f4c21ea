"""Units in which members of tables see targets."""

import numpy as np
from numpy.typing import NDArray

from sklearn_pgb._budget import FAR_TARGETS, INPUT_ULPS
from sklearn_pgb._training._input_map import InputMoments

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
    kept = weight > 0
    moments = InputMoments.of(y[kept], weight[kept])
    mean, spread = np.ldexp([moments.center, moments.spread], moments.exponent)
    # The deviation of constant targets is only rounding error.
    varies = moments.spread > INPUT_ULPS * np.finfo(np.float64).eps
    size = np.where(varies, moments.spread, 1.0)
    exponent = np.where(varies, np.round(np.log2(size) + moments.exponent), 0.0)
    far = np.abs(mean) > FAR_TARGETS * spread
    return np.where(far, mean, 0.0), 2.0**exponent
