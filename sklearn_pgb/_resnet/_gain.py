"""Significance of the gain by residual units on held-out samples."""

import numpy as np
from numpy.typing import NDArray

from sklearn_pgb._budget import STANDARD_ERRORS
from sklearn_pgb._estimator._folds import row_codes
from sklearn_pgb._resnet._residual import BasisSamples


def number_duplicates(samples: BasisSamples) -> NDArray[np.intp]:
    """Number the distinct samples, as errors of duplicates are not independent."""
    rows = np.hstack([samples.basis.cpu(), samples.inputs.flatten(1).cpu()])
    return row_codes(rows)


def is_significant(
    basis_losses: NDArray[np.float64],
    losses: NDArray[np.float64],
    weight: NDArray[np.float64],
    group: NDArray[np.intp],
) -> bool:
    """Whether the units significantly improve the loss on held-out samples.

    `basis_losses` and `losses` are weighted losses without and with the units. The
    weights are totals over all folds that hold a sample out. The gain must exceed
    STANDARD_ERRORS standard errors, estimated from the sums over groups, which are
    independent.
    """
    with np.errstate(invalid="ignore"):
        gains = basis_losses - losses
        gain = gains.sum()
        deviations = gains - gain * weight / weight.sum()
    if not gain > 0:
        return False
    if not np.isfinite(gain):
        # The losses of the basis alone overflow.
        return bool(np.isfinite(losses).all())
    _, label = np.unique(group[weight > 0], return_inverse=True)
    sums = np.bincount(label, deviations[weight > 0])
    n = len(sums)
    if n < 2:
        return False
    error = np.sqrt(n / (n - 1) * np.square(sums).sum())
    return bool(gain > STANDARD_ERRORS * error)
