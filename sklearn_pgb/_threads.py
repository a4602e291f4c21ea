"""Process-wide state: limits on threads, and torch's global random generator."""

import functools
import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from threadpoolctl import ThreadpoolController

from sklearn_pgb._budget import (
    FACTORIZATION_WORTH_A_THREAD,
    PREDICTION_WORTH_A_THREAD,
    VALUES_WORTH_A_THREAD,
    WORTH_A_THREAD,
    factorization_flops,
)


@functools.cache
def _blas() -> ThreadpoolController:
    """The BLAS libraries of NumPy and SciPy, cached as finding them takes 10 ms."""
    return ThreadpoolController().select(user_api="blas")


class _ThreadLimits:
    """Reference-counted thread limits, used by concurrent fits.

    The first fit to enter records torch's number of threads, so that later ones do not
    mistake its limit for the user's setting. Fits may leave in any order. The BLAS
    limit is per thread: the fit that sets it also resets it, and the next one to enter
    sets it again.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.local = threading.local()
        self.count = 0
        self.limited = False
        self.torch_threads = 0

    def reset(self) -> None:
        """Reset the count in a forked process, which has no other threads."""
        self.lock = threading.Lock()
        self.count = getattr(self.local, "depth", 0)
        if self.count == 0:
            self.limited = False

    def enter(self) -> tuple[int, Any]:
        """Limit BLAS; return torch's threads to restore, and the limiter if new."""
        with self.lock:
            before, limiter = torch.get_num_threads(), None
            depth = getattr(self.local, "depth", 0)
            if self.count == 0:
                self.torch_threads = before
            elif depth == 0:
                # A new thread inherits the limit that other fits have set.
                before = max(before, self.torch_threads)
            if not self.limited:
                self.limited, limiter = True, _blas().limit(limits=1)
                limiter.__enter__()
            self.count, self.local.depth = self.count + 1, depth + 1
            return before, limiter

    def leave(self, before: int, limiter: Any) -> None:
        """Restore the number of threads and reset the BLAS limiter."""
        with self.lock:
            self.count, self.local.depth = self.count - 1, self.local.depth - 1
            torch.set_num_threads(before)
            if limiter is not None:
                limiter.__exit__(None, None, None)
                self.limited = False


_LIMITS = _ThreadLimits()

# Lock for drawing from and seeding torch's global generator.
_GENERATOR = threading.RLock()


def _after_fork() -> None:
    """Reset locks and thread counts in a forked process.

    The threads of PyTorch's pool are not copied. With more than one thread, the child
    process would wait for them in the first large operation and hang.
    """
    global _GENERATOR
    _GENERATOR = threading.RLock()
    _LIMITS.reset()
    torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@contextmanager
def local_randomness(seed: int | None) -> Iterator[None]:
    """Seed torch's global generator in a block and restore its state at the end.

    All threads use the same generator, so a lock admits one thread at a time. If the
    seed is None, the block draws from the generator's current state.
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
    """Limit the number of threads in a block and restore it at the end.

    PyTorch gets one thread for every WORTH_A_THREAD multiplications of the forward pass
    of one step, up to its current number. NumPy and SciPy get one thread: their idle
    threads keep cores busy with waiting, which makes loops that also use PyTorch up to
    fifteen times slower.
    """
    with _one_thread_for_blas() as before:
        allowed = min(before, multiplications / WORTH_A_THREAD)
        torch.set_num_threads(max(1, int(allowed)))
        yield


@contextmanager
def _one_thread_for_blas() -> Iterator[int]:
    """Limit NumPy and SciPy; yield the threads of PyTorch, restored at the end."""
    before, limiter = _LIMITS.enter()
    try:
        yield before
    finally:
        _LIMITS.leave(before, limiter)


def tree_threads(n_values: int, available: int) -> int:
    """Number of OpenMP threads that speed up the training of trees on so many values.

    Threads wait for each other at every node, and waiting keeps cores busy.
    """
    return max(1, min(available, n_values // VALUES_WORTH_A_THREAD))


@contextmanager
def threads_for_training(n_values: int, has_trees: bool) -> Iterator[None]:
    """Limit the threads of a block that trains a user's model on so many values.

    NumPy and SciPy get one thread for less than two times VALUES_WORTH_A_THREAD; for
    trees see `tree_threads`.
    """
    with ExitStack() as stack:
        if n_values < 2 * VALUES_WORTH_A_THREAD:
            stack.enter_context(_one_thread_for_blas())
        if has_trees:
            # Not cached, because packages of boosted trees may be imported at any time.
            openmp = ThreadpoolController().select(user_api="openmp")
            threads = [library.num_threads for library in openmp.lib_controllers]
            limit = tree_threads(n_values, max(threads, default=1))
            stack.enter_context(openmp.limit(limits=limit))
        yield


def threads_for_prediction(multiplications: float) -> AbstractContextManager[None]:
    """Limit the number of threads of predictions; see `threads_for`."""
    return threads_for(multiplications * (WORTH_A_THREAD / PREDICTION_WORTH_A_THREAD))


def threads_for_solve(n_rows: int, n_coef: int) -> AbstractContextManager[None]:
    """Limit the number of threads of convex solves on a basis; see `threads_for`."""
    shorter = min(n_rows, n_coef)
    # Cost of the Gram or normal matrix, and of its eigendecomposition.
    multiplications = factorization_flops(n_rows, n_coef) + 9.0 * shorter**3
    return threads_for(
        multiplications * (WORTH_A_THREAD / FACTORIZATION_WORTH_A_THREAD)
    )
