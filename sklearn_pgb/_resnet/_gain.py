"""Significance of the gain by residual units on held-out samples."""

import numpy as np
from numpy.typing import NDArray

from sklearn_pgb._budget import STANDARD_ERRORS
from sklearn_pgb._estimator._row_codes import row_codes
from sklearn_pgb._resnet._residual import BasisSamples


def compare(
    losses: NDArray[np.float64],
    basis_losses: NDArray[np.float64],
    means: NDArray[np.float64],
    basis_means: NDArray[np.float64],
    weight: NDArray[np.float64],
    samples: BasisSamples,
) -> tuple[tuple[np.intp, ...], int, bool]:
    """Compare models with and without units on held-out samples.

    The last axis of the weighted `losses` and `basis_losses` are the `samples`. Their
    means decide which models are compared.

    Returns
    -------
    tuple
        Index of the smallest entry of `means` and of `basis_means`, and whether the
        first model is significantly better than the second.
    """
    best = np.unravel_index(int(means.argmin()), means.shape)
    basis_best = int(basis_means.argmin())
    # Errors of duplicates are not independent.
    rows = np.hstack([samples.basis.cpu(), samples.inputs.flatten(1).cpu()])
    improves = is_significant(
        basis_losses[basis_best], losses[best], weight, row_codes(rows)
    )
    return best, basis_best, improves


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
