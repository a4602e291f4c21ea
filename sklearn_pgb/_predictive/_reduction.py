"""How much smaller the errors of a refit are than those of the models of its folds."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sklearn_pgb._budget import MOST_GAIN

Array = NDArray[np.float64]


def measured_reduction(
    y: Array, scale: Array, refit: Array, folds: Sequence[Array], weight: Array
) -> Array:
    """Return the ratio of mean absolute errors, (n_outputs,).

    Parameters
    ----------
    y, scale : ndarray of shape (n_samples, n_outputs)
        Targets of samples that no model has seen, and the scale of their errors.
    refit : ndarray of shape (n_samples, n_outputs)
        Predictions by the refit.
    folds : sequence of ndarray of shape (n_samples, n_outputs)
        Predictions by the models of the folds.
    weight : ndarray of shape (n_samples,)
    """
    own, *others = (weight @ (np.abs(y - each) / scale) for each in [refit, *folds])
    of_folds = np.mean(others, axis=0)
    result: Array = np.divide(own, of_folds, out=np.ones_like(own), where=of_folds > 0)
    return result


def estimated_reduction(errors: Array, folds: Sequence[Array], weight: Array) -> Array:
    """Estimate the same from the variance of the folds' predictions, (n_outputs,).

    The refit averages the models of the folds, so their errors partly cancel. Most of
    these models have seen a sample, which makes the variance too small. For smooth
    functions with little noise the result is up to twice the measured one.

    Parameters
    ----------
    errors : ndarray of shape (n_samples, n_outputs)
        Held-out errors.
    folds : sequence of ndarray of shape (n_samples, n_outputs)
        Predictions of these samples by the models of all folds.
    weight : ndarray of shape (n_samples,)
    """
    variance, squares = weight @ np.var(folds, axis=0), weight @ errors**2
    gain = np.divide(variance, squares, out=np.zeros_like(squares), where=squares > 0)
    result: Array = np.sqrt(1 - np.minimum(gain, MOST_GAIN))
    return result
