"""Warnings of trainings that did not converge, and trainings that keep quiet."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from sklearn.exceptions import ConvergenceWarning

_QUIET: ContextVar[bool] = ContextVar("quiet", default=False)


@contextmanager
def quiet_training() -> Iterator[None]:
    """Let networks of this package that are trained inside keep quiet.

    It is for networks that stop early on purpose. Other threads and processes are left
    alone, so it belongs around each single training.
    """
    token = _QUIET.set(True)
    try:
        yield
    finally:
        _QUIET.reset(token)


def warn_of_convergence(message: str, stacklevel: int = 5) -> None:
    """Raise scikit-learn's ConvergenceWarning, unless training is to keep quiet."""
    if not _QUIET.get():
        warnings.warn(message, ConvergenceWarning, stacklevel=stacklevel)
