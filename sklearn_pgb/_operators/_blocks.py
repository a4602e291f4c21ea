"""Blocks of samples whose dense rows fit into a limited memory."""

from collections.abc import Iterator

from sklearn_pgb._budget import BLOCK_BYTES


def row_blocks(n_samples: int, bytes_per_sample: int) -> Iterator[slice]:
    """Split the samples into slices with at most BLOCK_BYTES of dense rows each."""
    size = max(1, BLOCK_BYTES // max(1, bytes_per_sample))
    for start in range(0, n_samples, size):
        yield slice(start, min(start + size, n_samples))
