"""Operators on many samples, whose rows are computed each time they are used."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from sklearn_pgb._budget import SAMPLE_BLOCK
from sklearn_pgb._operators._blocks import row_slices
from sklearn_pgb._operators._operator import LinearOperator


class BlockedOperator(LinearOperator):
    """An operator that is created for a block of samples at a time.

    The data that an operator keeps for each sample, such as the outputs of all layers,
    can take far more memory than the samples. Blocks have a fixed size and order, so
    sums over them do not depend on the number of threads.

    Parameters
    ----------
    create : callable (index) -> LinearOperator
        Returns the operator on some samples, given by a slice or a tensor.
    n_samples : int
    block : int or None
        Number of samples of a block; None is SAMPLE_BLOCK.

    Attributes
    ----------
    first : LinearOperator
        The operator on the first sample.
    """

    def __init__(
        self,
        create: Callable[[Any], LinearOperator],
        n_samples: int,
        block: int | None = None,
    ):
        self.create, self.n_samples = create, n_samples
        self.block = SAMPLE_BLOCK if block is None else block
        self.first = first = create(slice(0, 1))
        self.n_outputs, self.n_coef = first.n_outputs, first.n_coef
        self.dtype, self.device = first.dtype, first.device

    def parts(self) -> Iterator[tuple[slice, LinearOperator]]:
        """Blocks of samples with their operators."""
        for rows in row_slices(self.n_samples, self.block):
            yield rows, self.create(rows)

    def matvec(self, coef: Tensor) -> Tensor:
        return torch.cat([part.matvec(coef) for _, part in self.parts()])

    def rmatvec(self, residual: Tensor) -> Tensor:
        total = self._empty(self.n_coef).zero_()
        for rows, part in self.parts():
            total += part.rmatvec(residual[rows])
        return total

    def dense(self, rows: slice = slice(None)) -> Tensor:
        return self.create(rows).dense()

    def rows(self, index: Tensor) -> LinearOperator:
        if len(index) <= self.block:
            return self.create(index)
        return BlockedOperator(
            lambda rows: self.create(index[rows]), len(index), self.block
        )

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        for rows, part in self.parts():
            for inner, dense in part.blocks():
                start, stop = rows.start + inner.start, rows.start + inner.stop
                yield slice(start, stop), dense

    def cross_gram(self, other: LinearOperator) -> Tensor:
        return torch.cat([part.cross_gram(other) for _, part in self.parts()])

    def normal(self, root: Tensor | None = None) -> Tensor:
        return self.normal_equations(root)[0]

    def normal_equations(
        self, root: Tensor | None, *residuals: Tensor
    ) -> tuple[Tensor, Tensor]:
        total = self._empty(self.n_coef, self.n_coef).zero_()
        moments = self._empty(len(residuals), self.n_coef).zero_()
        for rows, part in self.parts():
            total += part.normal(None if root is None else root[rows])
            for moment, residual in zip(moments, residuals, strict=True):
                moment += part.rmatvec(residual[rows])
        return total, moments

    def squared_row_norms(self) -> Tensor:
        return torch.cat([part.squared_row_norms() for _, part in self.parts()])

    def sketch(self, n_components: int, generator: torch.Generator) -> Tensor:
        # Every block needs the same random directions.
        state, parts = generator.get_state(), []
        for _, part in self.parts():
            generator.set_state(state)
            parts.append(part.sketch(n_components, generator))
        return torch.cat(parts)
