"""Samples in a memory-mapped file, read where they are used."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor

from sklearn_pgb._budget import READ_BYTES, SAMPLE_BLOCK, SPREAD_ROWS
from sklearn_pgb._models._opened import OpenNetwork
from sklearn_pgb._operators._blocks import row_slices, spread_rows


@dataclass(frozen=True, eq=False)
class MappedRows:
    """Rows of an array in a file. Indexing reads some of them as an array.

    The file is read by its path, so that other processes and machines can do so, and
    not by the mapping: a file that gets shorter would end the process.

    Attributes
    ----------
    path : str
    dtype : dtype
    shape : tuple of int
    offset : int
        Position of the first row in bytes.
    stamp : (int, int)
        Size and time of the last change of the file.
    block : int
        Number of rows to read at a time.
    n_jobs : int or None
        Number of parts that are read in parallel.
    index : ndarray or None
        Rows to select, in this order.
    """

    path: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int
    stamp: tuple[int, int]
    block: int
    n_jobs: int | None = None
    index: NDArray[np.intp] | None = None

    @classmethod
    def of(cls, X: Any, n_jobs: int | None = None) -> MappedRows | None:
        """Describe a memory-mapped array of several blocks; None for other data."""
        if not isinstance(X, np.memmap) or X.ndim < 2 or X.dtype.kind not in "biuf":
            return None
        root: Any = X
        while isinstance(root.base, np.ndarray):
            root = root.base
        # Changes of an array that is copied on write are not in the file.
        in_file = isinstance(root.base, mmap.mmap) and root.mode != "c"
        if not in_file or root.filename is None or not X.flags.c_contiguous:
            return None
        if root.mode != "r":
            root.flush()
        path = os.path.abspath(root.filename)
        begin = (each.__array_interface__["data"][0] for each in (X, root))
        offset = root.offset + next(begin) - next(begin)
        in_float64 = 8 * max(1, int(np.prod(X.shape[1:])))
        block = max(1, min(SAMPLE_BLOCK, READ_BYTES // in_float64))
        if len(X) <= block:
            return None
        return cls(path, X.dtype, X.shape, offset, _stamp(path), block, n_jobs)

    def __len__(self) -> int:
        return self.shape[0] if self.index is None else len(self.index)

    def blocks(self) -> Iterator[slice]:
        """Ranges of rows to read at a time."""
        return row_slices(len(self), self.block)

    def rows(self, index: Any) -> MappedRows:
        """Select rows without reading them."""
        if isinstance(index, Tensor):
            index = index.cpu().numpy()
        if self.index is not None:
            return replace(self, index=self.index[index])
        if not isinstance(index, slice):
            return replace(self, index=np.arange(len(self))[index])
        start, stop, _ = index.indices(len(self))
        row_bytes = self.dtype.itemsize * int(np.prod(self.shape[1:]))
        shape = (max(stop - start, 0), *self.shape[1:])
        return replace(self, shape=shape, offset=self.offset + start * row_bytes)

    def __getitem__(self, index: Any) -> NDArray[Any]:
        part = self.rows(index)
        try:
            if _stamp(self.path) != self.stamp:
                raise ValueError(
                    "X must not change while it is used, but its file "
                    f"{self.path} has another size or time of change than at the "
                    "start. Try again when nothing writes to it."
                )
            return part._read()
        except OSError as error:
            raise OSError(
                f"X must be readable where it is used, but {len(part)} rows from byte "
                f"{part.offset} of {self.path} are not: {error}. The file must have "
                "this path on every worker."
            ) from error

    def _read(self) -> NDArray[Any]:
        if self.index is not None:
            mapped = np.memmap(self.path, self.dtype, "r", self.offset, self.shape)
            return np.array(mapped[self.index])
        count = int(np.prod(self.shape))
        values = np.fromfile(self.path, self.dtype, count, offset=self.offset)
        if len(values) < count:
            raise OSError(f"the file ends after {len(values)} of {count} numbers")
        return values.reshape(self.shape)


def row_parts(X: Any) -> Iterator[Any]:
    """Blocks of rows of a memory-mapped array, as arrays; other data as a whole."""
    mapped = MappedRows.of(X)
    if mapped is None:
        yield X
    else:
        yield from (mapped[rows] for rows in mapped.blocks())


def joined(results: Iterable[Any]) -> Any:
    """Results for parts of the rows as one; a single one is not copied.

    They are arrays, tensors or sparse arrays.
    """
    parts = list(results)
    if len(parts) == 1:
        return parts[0]
    if isinstance(parts[0], Tensor):
        return torch.cat(parts)
    return sp.vstack(parts, "csr") if sp.issparse(parts[0]) else np.concatenate(parts)


def _stamp(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


@dataclass(frozen=True, eq=False)
class StreamedInputs:
    """Inputs of a network, computed from mapped rows. Indexing returns a tensor.

    Attributes
    ----------
    opened : OpenNetwork
    source : MappedRows
    device : torch.device
    """

    opened: OpenNetwork
    source: MappedRows
    device: torch.device

    def check(self) -> None:
        """Raise if the network can't take samples from all over the file."""
        self.opened.inputs(self.source[spread_rows(len(self), SPREAD_ROWS)])

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: Any) -> Tensor:
        inputs = self.opened.inputs(self.source[index], check=False)
        # Products depend on the alignment, which is that of NumPy until copied.
        return inputs.clone().to(self.device)

    def rows(self, index: Any) -> StreamedInputs:
        """Select samples without reading them."""
        return replace(self, source=self.source.rows(index))
