"""The interface of linear operators.

Conventions
-----------
An operator represents a matrix Phi with ``n_samples * n_outputs`` rows and ``n_coef``
columns; row ``(i, c)`` has the index ``i * n_outputs + c``. Coefficients are 1-d
``(n_coef,)``; raw outputs and residuals are 2-d ``(n_samples, n_outputs)``. Results
have the dtype and device of the operator's data.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor

from sklearn_pgb._operators._blocks import row_blocks
from sklearn_pgb._operators._gram import add_gram, mirrored
from sklearn_pgb._operators._layers import LayerPart


def apply_root(root: Tensor, rows: Tensor) -> Tensor:
    """Multiply each sample's (n_outputs, p) rows by S_i, diagonal if root is 2-d."""
    if root.ndim == 2:
        return root[:, :, None] * rows
    return torch.bmm(root, rows)


class LinearOperator(ABC):
    """A basis matrix Phi that can be applied without being formed.

    Subclasses implement product, adjoint, dense rows and selection of samples. Other
    methods use blocks of dense rows in bounded memory, and subclasses override them if
    their structure allows something faster.

    Examples
    --------
    >>> import numpy as np
    >>> import torch
    >>> from sklearn_pgb import InputBasis
    >>> X = np.array([[1.0, 2.0], [3.0, 4.0]])
    >>> operator = InputBasis().fit(X).operator(X, n_outputs=1)
    >>> operator.matvec(torch.tensor([1.0, 1.0], dtype=torch.float64)).tolist()
    [[3.0], [7.0]]
    >>> operator.gram().tolist()
    [[5.0, 11.0], [11.0, 25.0]]
    """

    n_samples: int
    n_outputs: int
    n_coef: int
    dtype: torch.dtype
    device: torch.device

    @abstractmethod
    def matvec(self, coef: Tensor) -> Tensor:
        """Phi coef, of shape (n_samples, n_outputs)."""

    @abstractmethod
    def rmatvec(self, residual: Tensor) -> Tensor:
        """Phi^T residual, of shape (n_coef,)."""

    @abstractmethod
    def dense(self, rows: slice = slice(None)) -> Tensor:
        """The rows of the given samples, of shape (n_rows, n_outputs, n_coef)."""

    @abstractmethod
    def rows(self, index: Tensor) -> "LinearOperator":
        """The operator on the samples in `index`."""

    def select(self, columns: Tensor) -> "LinearOperator":
        """The operator with some of its columns, given by their ascending numbers."""
        return self if len(columns) == self.n_coef else SelectedOperator(self, columns)

    def single(self) -> "LinearOperator":
        """The operator in float32, or itself if it does not support float32."""
        return self

    @property
    def shared_features(self) -> Tensor | None:
        """Features (n_samples, p) that all outputs use, with separate coefficients.

        None if the outputs have different features. Otherwise the coefficient of
        feature j for output c has the index ``j * n_outputs + c``.
        """
        return None

    def one_output(self) -> "LinearOperator":
        """The operator for the first output, or itself if no features are shared."""
        return self

    def layer_parts(self, residual: Tensor) -> list[LayerPart] | None:
        """The layers whose parameters are the columns, in order; None without layers.

        The residual is backpropagated to the outputs of each layer.
        """
        return None

    @property
    def n_rows(self) -> int:
        """Number of matrix rows, n_samples * n_outputs."""
        return self.n_samples * self.n_outputs

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """Pairs of a slice of samples and their dense rows."""
        size = self.n_outputs * self.n_coef * self.dtype.itemsize
        for rows in row_blocks(self.n_samples, size):
            yield rows, self.dense(rows)

    def gram(self) -> Tensor:
        """Phi Phi^T, of shape (n_rows, n_rows)."""
        return self.cross_gram(self)

    def cross_gram(self, other: "LinearOperator") -> Tensor:
        """Phi Phi'^T, of shape (n_rows, other.n_rows)."""
        kernel = self._empty(self.n_rows, other.n_rows)
        k, other_k = self.n_outputs, other.n_outputs
        for rows, left in self.blocks():
            for columns, right in other.blocks():
                kernel[
                    rows.start * k : rows.stop * k,
                    columns.start * other_k : columns.stop * other_k,
                ] = left.flatten(0, 1) @ right.flatten(0, 1).T
        return kernel

    def normal(self, root: Tensor | None = None) -> Tensor:
        """Phi^T S^T S Phi; `root` holds S as (n, k) diagonals or (n, k, k) blocks."""
        total = self._empty(self.n_coef, self.n_coef).zero_()
        for rows, dense in self.blocks():
            scaled = dense if root is None else apply_root(root[rows], dense)
            add_gram(scaled.flatten(0, 1), total)
        return mirrored(total)

    def normal_equations(
        self, root: Tensor | None, *residuals: Tensor
    ) -> tuple[Tensor, Tensor]:
        """`normal`, and `rmatvec` of each residual as a row, in one pass."""
        moments = [self.rmatvec(residual) for residual in residuals]
        return self.normal(root), torch.stack(moments)

    def squared_row_norms(self) -> Tensor:
        """Squared norms of the rows, of shape (n_samples, n_outputs)."""
        return torch.cat([dense.square().sum(-1) for _, dense in self.blocks()])

    def sketch(self, n_components: int, generator: torch.Generator) -> Tensor:
        """Random features (n_samples, n_components) that preserve inner products.

        The expected inner product of two samples is ``sum_c <Phi[i, c], Phi[j, c]>``.
        Each column is a product with a random direction, summed over the outputs with
        random signs.
        """
        columns = []
        for _ in range(n_components):
            direction = self._normal(generator, self.n_coef)
            signs = self._normal(generator, self.n_outputs).sign()
            columns.append(self.matvec(direction) @ signs)
        return torch.stack(columns, 1) / n_components**0.5

    def _normal(self, generator: torch.Generator, *shape: int) -> Tensor:
        values = torch.randn(shape, generator=generator, dtype=torch.float64)
        return values.to(self.device, self.dtype)

    def _empty(self, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=self.dtype, device=self.device)


class SelectedOperator(LinearOperator):
    """Some columns of an operator, given by their ascending numbers."""

    def __init__(self, operator: LinearOperator, columns: Tensor):
        self.operator, self.columns = operator, columns.to(operator.device)
        self.n_samples, self.n_outputs = operator.n_samples, operator.n_outputs
        self.n_coef = len(columns)
        self.dtype, self.device = operator.dtype, operator.device

    def matvec(self, coef: Tensor) -> Tensor:
        full = coef.new_zeros(self.operator.n_coef)
        return self.operator.matvec(full.index_copy_(0, self.columns, coef))

    def rmatvec(self, residual: Tensor) -> Tensor:
        return self.operator.rmatvec(residual)[self.columns]

    def dense(self, rows: slice = slice(None)) -> Tensor:
        return self.operator.dense(rows)[..., self.columns]

    def rows(self, index: Tensor) -> "SelectedOperator":
        return SelectedOperator(self.operator.rows(index), self.columns)

    def select(self, columns: Tensor) -> LinearOperator:
        return self.operator.select(self.columns[columns.to(self.device)])

    def single(self) -> "SelectedOperator":
        return SelectedOperator(self.operator.single(), self.columns)
