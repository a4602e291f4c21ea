"""Units in which members of tables see targets."""

import numpy as np
from numpy.typing import NDArray

from sklearn_pgb._budget import FAR_TARGETS, PLAIN_TARGETS

Array = NDArray[np.float64]


def target_units(y: Array, weight: Array) -> tuple[Array, Array]:
    """Return the centers and the divisors of the targets, both (n_outputs,).

    They are zero and one for most targets. Trees count variances below 2e-16 as zero,
    and take differences of squares. So the means of targets far from zero are
    subtracted, and extremely small or large ones are divided by a power of two.
    """
    # Relative to one sample, so that the mean of equal targets is exact.
    pivot = y[weight.argmax()]
    weight = weight[:, None] / weight.sum()
    mean = pivot + (weight * (y - pivot)).sum(0)
    spread = (weight * np.abs(y - mean)).sum(0)
    far = np.abs(mean) > FAR_TARGETS * spread
    size = np.where(far, spread, np.maximum(spread, np.abs(mean)))
    is_plain = (size == 0) | ((1 / PLAIN_TARGETS < size) & (size < PLAIN_TARGETS))
    scale = np.where(is_plain, 1.0, 2.0 ** np.frexp(size)[1])
    return np.where(far, mean, 0.0), scale
