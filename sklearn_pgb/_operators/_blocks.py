"""Slices of samples, such as those whose dense rows fit into a limited memory."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from sklearn_pgb._budget import BLOCK_BYTES


def row_slices(n_samples: int, size: int) -> Iterator[slice]:
    """Split the samples into slices of this size, the last of which may be shorter.

    There are none if there are no samples, for which scikit-learn's `gen_batches`
    raises an error.
    """
    for start in range(0, n_samples, size):
        yield slice(start, min(start + size, n_samples))


def row_blocks(n_samples: int, bytes_per_sample: int) -> Iterator[slice]:
    """Split the samples into slices with at most BLOCK_BYTES of dense rows each."""
    return row_slices(n_samples, max(1, BLOCK_BYTES // max(1, bytes_per_sample)))


def spread_rows(n_samples: int, most: int) -> NDArray[np.intp]:
    """Return at most `most` evenly spaced indices, from the first to the last."""
    # torch.linspace may end at n_samples: it is in float32, which has 24 bits.
    return np.linspace(0, n_samples - 1, min(n_samples, most)).astype(np.intp)
