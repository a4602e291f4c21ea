"""Units in which members of tables see targets."""

import numpy as np
from numpy.typing import NDArray

from sklearn_pgb._budget import FAR_TARGETS, PLAIN_TARGETS

Array = NDArray[np.float64]


def target_units(y: Array, weight: Array) -> tuple[Array, float]:
    """Return what is subtracted from the targets (n_outputs,), and what divides them.

    That is zero and one for most targets. Trees count variances below 2e-16 as zero,
    and take differences of squares. So the means of targets far from zero are
    subtracted, and extremely small or large ones are divided by a power of two.
    """
    # Relative to the first sample, so that the mean of equal targets is exact.
    mean = y[0] + weight @ (y - y[0]) / weight.sum()
    deviation = np.abs(y - mean)
    spread = float(weight @ deviation.max(1) / weight.sum())
    far = np.abs(mean).max() > FAR_TARGETS * spread
    size = spread if far else max(spread, float(np.abs(mean).max()))
    is_plain = size == 0 or 1 / PLAIN_TARGETS < size < PLAIN_TARGETS
    scale = 1.0 if is_plain else float(2.0 ** np.frexp(size)[1])
    return (mean if far else np.zeros_like(mean)), scale
