"""How much smaller the errors of a refit are than those of the models of its folds."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sklearn_pgb._budget import MOST_GAIN

Array = NDArray[np.float64]


def measured_reduction(errors: Array, folds: Sequence[Array], weight: Array) -> Array:
    """Return the ratio of mean absolute errors, (n_outputs,).

    Parameters
    ----------
    errors : ndarray of shape (n_samples, n_outputs)
        Errors of the refit on samples that no model has seen.
    folds : sequence of ndarray of shape (n_samples, n_outputs)
        Errors of the models of the folds.
    weight : ndarray of shape (n_samples,)
    """
    own = weight @ np.abs(errors)
    of_folds = np.mean([weight @ np.abs(each) for each in folds], axis=0)
    result: Array = np.divide(own, of_folds, out=np.ones_like(own), where=of_folds > 0)
    return result


def estimated_reduction(errors: Array, folds: Sequence[Array], weight: Array) -> Array:
    """Estimate the ratio from training samples, (n_outputs,).

    The refit averages the models of the folds, so their errors partly cancel: the
    squared error of the mean is smaller by the variance. Most of these models have seen
    a sample, which makes the variance too small. For smooth functions with little
    noise, the result is up to twice the ratio of errors on new samples.

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
