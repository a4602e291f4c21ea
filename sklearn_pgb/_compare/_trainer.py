"""Training of estimators, remembered where the user gives a memory."""

import time
from typing import Any

from sklearn.base import clone
from sklearn.utils.validation import check_memory


class Trainer:
    """Trains clones of estimators, or loads what was trained on the same rows before.

    Parameters
    ----------
    memory : joblib.Memory, str or None

    Attributes
    ----------
    saved : float
        Seconds that trainings took when they were done less what they took now.
    """

    def __init__(self, memory: Any):
        self._train = check_memory(memory).cache(_train)
        self.saved = 0.0

    def fit(self, estimator: Any, X: Any, y: Any, fit_params: dict[str, Any]) -> Any:
        """A clone of an estimator, fitted."""
        start = time.perf_counter()
        fitted, seconds = self._train(clone(estimator), X, y, fit_params)
        self.saved += seconds - (time.perf_counter() - start)
        return fitted


def _train(
    estimator: Any, X: Any, y: Any, fit_params: dict[str, Any]
) -> tuple[Any, float]:
    """The estimator, fitted, and the seconds that it took."""
    start = time.perf_counter()
    estimator.fit(X, y, **fit_params)
    return estimator, time.perf_counter() - start
