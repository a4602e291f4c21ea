"""Passes over samples that are read from a file, in parallel through joblib."""

import copy
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, CancelledError
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from joblib import effective_n_jobs
from sklearn.utils.parallel import Parallel, delayed
from torch import Tensor

from sklearn_pgb._budget import PART_BLOCKS, PASS_ATTEMPTS, WAVE
from sklearn_pgb._models._mapped_rows import MappedRows, StreamedInputs
from sklearn_pgb._operators._blocked import BlockedOperator
from sklearn_pgb._operators._blocks import row_slices
from sklearn_pgb._operators._operator import LinearOperator
from sklearn_pgb._threads import threads_for


def over_parts(
    function: Callable[..., Any],
    rows: MappedRows,
    select: Callable[[slice], Any],
    tensors: Sequence[Tensor] = (),
) -> Iterator[Any]:
    """Yield a function's results on parts of the samples, in the samples' order.

    The parts have a fixed size and each is computed by one thread, so results do not
    depend on the number of workers. They come in waves, of which only one is in memory.

    Parameters
    ----------
    function : callable (part, *tensors) -> result
    rows : MappedRows
    select : callable
        Selects a range of samples, without reading them.
    tensors : sequence of Tensor (n_samples, ...)
        Each task gets its own part.
    """
    parts = list(row_slices(len(rows), rows.block * PART_BLOCKS))
    wave = WAVE * effective_n_jobs(rows.n_jobs)
    for first in range(0, len(parts), wave):
        tasks = [
            # Each task gets copies. Two threads can't call the same module. A view of
            # the tensors would be sent to another process with all samples, and other
            # addresses in memory change the last digits of results.
            (
                copy.deepcopy(function),
                select(part),
                [each[part].clone() for each in tensors],
            )
            for part in parts[first : first + wave]
        ]
        yield from _run(tasks, rows.n_jobs)


def _run(tasks: list[tuple[Any, ...]], n_jobs: int | None) -> list[Any]:
    """Run tasks, and all of them again if a worker was lost."""
    for attempt in range(1, PASS_ATTEMPTS + 1):
        try:
            parallel = Parallel(n_jobs=n_jobs, prefer="threads", batch_size=1)
            return list(parallel(delayed(_call)(*task) for task in tasks))
        except Exception as error:
            is_from_dask = type(error).__module__.partition(".")[0] == "distributed"
            lost = is_from_dask or isinstance(error, BrokenExecutor | CancelledError)
            if not lost:
                raise
            if attempt == PASS_ATTEMPTS:
                raise RuntimeError(
                    f"Workers must live through a pass over X, but {attempt} attempts "
                    f"ended by {type(error).__name__}: {error}. Give them more memory."
                ) from error
    raise AssertionError


def _call(function: Callable[..., Any], part: Any, tensors: list[Tensor]) -> Any:
    with threads_for(0):
        return function(part, *tensors)


def streamed_outputs(
    function: Callable[[Sequence[Tensor]], Tensor], inputs: Sequence[StreamedInputs]
) -> Tensor:
    """Apply a function of all networks' inputs to each block; concatenate results."""
    parts = over_parts(
        partial(_outputs, function), inputs[0].source, partial(_rows_of, inputs)
    )
    return torch.cat(list(parts))


def _rows_of(inputs: Sequence[StreamedInputs], rows: Any) -> list[StreamedInputs]:
    return [X.rows(rows) for X in inputs]


def _outputs(
    function: Callable[[Sequence[Tensor]], Tensor], inputs: Sequence[StreamedInputs]
) -> Tensor:
    blocks = inputs[0].source.blocks()
    return torch.cat([function([X[rows] for X in inputs]) for rows in blocks])


class StreamedOperator(BlockedOperator):
    """An operator on samples in a file, whose blocks are created by parallel tasks.

    Parameters
    ----------
    build : callable
        Returns the operator on the inputs of all networks, one tensor each.
    inputs : sequence of StreamedInputs
    """

    def __init__(
        self,
        build: Callable[[Sequence[Tensor]], LinearOperator],
        inputs: Sequence[StreamedInputs],
    ):
        self.build, self.inputs = build, tuple(inputs)
        self._last: tuple[Tensor, Tensor] | None = None

        def create(rows: Any) -> LinearOperator:
            return build([X[rows] for X in inputs])

        super().__init__(create, len(inputs[0]), inputs[0].source.block)

    def _over_parts(
        self, name: str, *tensors: Tensor, coef: Tensor | None = None
    ) -> Any:
        """Yield the results of a method of `BlockedOperator` on all parts."""
        task = partial(_call_method, name, self.build, coef)
        select = partial(_rows_of, self.inputs)
        return over_parts(task, self.inputs[0].source, select, tensors)

    def dense(self, rows: slice = slice(None)) -> Tensor:
        start, stop, _ = rows.indices(self.n_samples)
        edges = [*range(start, stop, self.block), stop]
        parts = [self.create(slice(*pair)).dense() for pair in pairwise(edges)]
        return torch.cat(parts)

    def rows(self, index: Tensor) -> LinearOperator:
        if len(index) <= self.block:
            return self.create(index)
        return StreamedOperator(self.build, _rows_of(self.inputs, index))

    def matvec(self, coef: Tensor) -> Tensor:
        if not bool(coef.any()):
            return self._empty(self.n_samples, self.n_outputs).zero_()
        # Solvers often need the same product twice, and a pass reads the whole file.
        if self._last is None or not torch.equal(self._last[0], coef):
            product = torch.cat(list(self._over_parts("matvec", coef=coef)))
            self._last = coef.clone(), product
        return self._last[1]

    def rmatvec(self, residual: Tensor) -> Tensor:
        total = self._empty(self.n_coef).zero_()
        for part in self._over_parts("rmatvec", residual):
            total += part
        return total

    def normal(self, root: Tensor | None = None) -> Tensor:
        return self.normal_equations(root)[0]

    def normal_equations(
        self, root: Tensor | None, *residuals: Tensor
    ) -> tuple[Tensor, Tensor]:
        if root is None:
            root = self._empty(self.n_samples, self.n_outputs).fill_(1.0)
        total = self._empty(self.n_coef, self.n_coef).zero_()
        moments = self._empty(len(residuals), self.n_coef).zero_()
        for normal, moment in self._over_parts("normal_equations", root, *residuals):
            total += normal
            moments += moment
        return total, moments

    def squared_row_norms(self) -> Tensor:
        return torch.cat(list(self._over_parts("squared_row_norms")))


def _call_method(
    name: str,
    build: Callable[[Sequence[Tensor]], LinearOperator],
    coef: Tensor | None,
    inputs: Sequence[StreamedInputs],
    *tensors: Tensor,
) -> Any:
    """Call a method of the operator on a part of the samples, block by block."""
    part = StreamedOperator(build, inputs)
    arguments = tensors if coef is None else (coef, *tensors)
    return getattr(BlockedOperator, name)(part, *arguments)
