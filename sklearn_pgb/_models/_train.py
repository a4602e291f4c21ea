"""Train a user's model: few threads, unharmed data, and interrupts that end it."""

import math
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import numpy as np

from sklearn_pgb._models._open import has_trees
from sklearn_pgb._models._protected import fit_protected
from sklearn_pgb._threads import threads_for_training

# The warning of scikit-learn's multilayer perceptrons that catch an interrupt.
INTERRUPTED = "Training interrupted by user"


def fit_estimator(estimator: Any, X: Any, y: Any, **params: Any) -> None:
    """Fit an estimator in place; see `threads_for_training` and `fit_protected`."""
    n_values = math.prod(np.shape(X))
    with (
        threads_for_training(n_values, has_trees(estimator)),
        raise_caught_interrupts(),
    ):
        fit_protected(estimator, X, y, **params)


@contextmanager
def raise_caught_interrupts() -> Iterator[None]:
    """Raise KeyboardInterrupt if a training was interrupted but returned.

    scikit-learn's multilayer perceptrons catch the interrupt and warn, skorch's
    networks only catch it. Both would go on as if they were trained.
    """
    # Interrupts only reach the main thread.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    known, interrupted = signal.getsignal(signal.SIGINT), False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        assert callable(known)
        try:
            known(number, frame)
        except KeyboardInterrupt:
            # A handler of the user may also only take note.
            interrupted = True
            raise

    show = warnings.showwarning

    def show_or_raise(message: Any, *args: Any, **options: Any) -> None:
        if INTERRUPTED in str(message):
            raise KeyboardInterrupt
        show(message, *args, **options)

    if callable(known):
        signal.signal(signal.SIGINT, handle)
    try:
        with warnings.catch_warnings():
            # Interrupts that are no SIGINT, such as those of other signals.
            warnings.filterwarnings("always", message=INTERRUPTED)
            warnings.showwarning = show_or_raise
            yield
    finally:
        if signal.getsignal(signal.SIGINT) is handle:
            signal.signal(signal.SIGINT, known)
    if interrupted:
        raise KeyboardInterrupt
