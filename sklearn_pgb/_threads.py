"""`threads_for`: as many threads as a loop of small steps can use."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from threadpoolctl import ThreadpoolController

# Multiplications of a step that are worth a thread of their own: below this threads
# wait for each other longer than they work.
WORTH_A_THREAD = 1e7


@functools.cache
def _blas() -> ThreadpoolController:
    """The linear algebra libraries of NumPy and SciPy; finding them takes 10 ms."""
    return ThreadpoolController().select(user_api="blas")


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
    before = torch.get_num_threads()
    allowed = max(1, min(before, int(multiplications / WORTH_A_THREAD)))
    with _blas().limit(limits=1):
        torch.set_num_threads(allowed)
        try:
            yield
        finally:
            torch.set_num_threads(before)
