"""Whether residual units pay: what they gain on held-out samples, and how surely."""

import numpy as np
from numpy.typing import NDArray

from sklearn_pgb._estimator._border import distinct_rows
from sklearn_pgb._resnet._residual import Samples

# Standard errors by which the units must beat the basis. Pure noise of 60 rows keeps
# them for 8 seeds of 20 without, and for 1 with one; the model of a sine and a line
# from 300 rows has the same mean R2 with both, .981.
STANDARD_ERRORS = 1.0


def copies(samples: Samples) -> NDArray[np.intp]:
    """Number of each sample's group of identical ones.

    Their errors are one draw, not many: weights then equal repetition.
    """
    rows = np.hstack([samples.basis.cpu(), samples.inputs.flatten(1).cpu()])
    return distinct_rows(rows)


def pays(
    alone: NDArray[np.float64],
    units: NDArray[np.float64],
    weight: NDArray[np.float64],
    group: NDArray[np.intp],
) -> bool:
    """Whether a gain on held-out samples is more than chance would bring.

    It must exceed STANDARD_ERRORS of itself, estimated from the groups' sums.

    Parameters
    ----------
    alone, units : ndarray (n_samples,)
        Weighted losses of each sample without the units and with them.
    weight : ndarray (n_samples,)
        How often, or how much, each was held out.
    group : ndarray (n_samples,)
        Numbers of groups of samples whose losses are not independent.
    """
    with np.errstate(invalid="ignore"):
        gains = alone - units
        gain = gains.sum()
        rest = gains - gain * weight / weight.sum()
    if not gain > 0:
        return False
    if not np.isfinite(gain):
        # Losses of the basis alone overflow.
        return bool(np.isfinite(units).all())
    _, label = np.unique(group[weight > 0], return_inverse=True)
    sums = np.bincount(label, rest[weight > 0])
    n = len(sums)
    if n < 2:
        return False
    error = np.sqrt(n / (n - 1) * np.square(sums).sum())
    return bool(gain > STANDARD_ERRORS * error)
