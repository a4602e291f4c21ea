"""What belongs to the process: its threads, and torch's global generator."""

import functools
import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from threadpoolctl import ThreadpoolController

# Multiplications of a step that are worth a thread of their own: below this threads
# wait for each other longer than they work.
WORTH_A_THREAD = 1e7

# Multiplications of a factorisation that are worth a thread of their own. Below them
# threads bring a few tenths of a second, and last digits that depend on their number:
# results of small problems are the same on any number of threads.
FACTORISATION_WORTH_A_THREAD = 1e10


@functools.cache
def _blas() -> ThreadpoolController:
    """The linear algebra libraries of NumPy and SciPy; finding them takes 10 ms."""
    return ThreadpoolController().select(user_api="blas")


class _Bound:
    """Who bounds the threads now, where several threads of Python fit at once.

    The limits belong to the process, and threads may leave in any order. So the first
    one in notes the threads of PyTorch, and none of those that come before all have
    left takes the bound of another for what there was. The linear algebra listens to
    the thread that has limited it: that one gives it back itself, and the next one to
    enter limits it again.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.here = threading.local()
        self.inside = 0
        self.limited = False
        self.torch_threads = 0

    def renew(self) -> None:
        """Start anew in a forked process, in which this thread is the only one."""
        self.lock = threading.Lock()
        self.inside = getattr(self.here, "depth", 0)
        if self.inside == 0:
            self.limited = False

    def enter(self) -> tuple[int, Any]:
        """What PyTorch has to get back, and the limiter where there was none."""
        with self.lock:
            before, limiter = torch.get_num_threads(), None
            depth = getattr(self.here, "depth", 0)
            if self.inside == 0:
                self.torch_threads = before
            elif depth == 0:
                # A new thread starts with what the others are bounded to.
                before = max(before, self.torch_threads)
            if not self.limited:
                self.limited, limiter = True, _blas().limit(limits=1)
                limiter.__enter__()
            self.inside, self.here.depth = self.inside + 1, depth + 1
            return before, limiter

    def leave(self, before: int, limiter: Any) -> None:
        """Give the threads back."""
        with self.lock:
            self.inside, self.here.depth = self.inside - 1, self.here.depth - 1
            torch.set_num_threads(before)
            if limiter is not None:
                limiter.__exit__(None, None, None)
                self.limited = False


_BOUND = _Bound()

# Whoever draws from torch's global generator, or seeds it, holds this lock.
_GENERATOR = threading.RLock()


def _after_fork() -> None:
    """Make a forked process independent of threads that it does not have.

    The threads of PyTorch's pool are not copied, but the child would wait for them in
    the first operation that is large enough for two, and hang.
    """
    global _GENERATOR
    _GENERATOR = threading.RLock()
    _BOUND.renew()
    torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@contextmanager
def local_randomness(seed: int | None) -> Iterator[None]:
    """Seed torch's global generator inside, and leave it as it was.

    All threads share that generator, so one of them at a time. None draws from it as it
    is, alone too.
    """
    with _GENERATOR:
        if seed is None:
            yield
            return
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield


@contextmanager
def threads_for(multiplications: float) -> Iterator[None]:
    """Bound the threads of a loop, and restore them at its end.

    PyTorch gets one thread for every WORTH_A_THREAD multiplications, at most what it
    has. NumPy and SciPy get one: their idle threads keep the cores that PyTorch needs
    busy with waiting, which makes loops that use both up to fifteen times slower.

    Parameters
    ----------
    multiplications : float
        Of one step of the loop, in a pass forward.
    """
    before, limiter = _BOUND.enter()
    try:
        allowed = int(multiplications / WORTH_A_THREAD)
        torch.set_num_threads(max(1, min(before, allowed)))
        yield
    finally:
        _BOUND.leave(before, limiter)


def threads_for_solve(n_rows: int, n_coef: int) -> AbstractContextManager[None]:
    """Bound the threads of convex solves on one basis, as `threads_for` does.

    Parameters
    ----------
    n_rows : int
        Of the basis matrix: samples times outputs.
    n_coef : int
    """
    least = min(n_rows, n_coef)
    # The Gram or normal matrix, and its eigendecomposition.
    multiplications = float(n_rows) * n_coef * least + 9.0 * least**3
    return threads_for(
        multiplications * (WORTH_A_THREAD / FACTORISATION_WORTH_A_THREAD)
    )
