"""Units in which members of tables see targets."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def target_units(y: Array, weight: Array) -> tuple[Array, Array]:
    """Return the weighted means and standard deviations of the targets, (n_outputs,).

    Members see standardized targets, because units matter to them: trees count
    variances below 2e-16 as zero and take differences of squares, and the derivatives
    of a network by its hidden weights are in the units of the targets, but those by its
    output weights are not, so units would decide on their share in the kernel. Constant
    targets are only centered.
    """
    y, weight = y[weight > 0], weight[weight > 0]
    # Relative to one sample, so that the mean of equal targets is exact.
    pivot = y[0]
    weight = weight[:, None] / weight.sum()
    mean = pivot + (weight * (y - pivot)).sum(0)
    deviation = y - mean
    # Squares of deviations in units of their mean neither overflow nor underflow.
    size = (weight * np.abs(deviation)).sum(0)
    size = np.where(size > 0, size, 1.0)
    ratio = np.sqrt((weight * (deviation / size) ** 2).sum(0))
    return mean, np.where(ratio > 0, ratio * size, 1.0)
