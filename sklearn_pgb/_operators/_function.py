"""The Jacobian of any function, by automatic differentiation."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from sklearn_pgb._budget import BLOCK_BYTES
from sklearn_pgb._derivatives import Derivatives
from sklearn_pgb._operators._blocks import row_blocks
from sklearn_pgb._operators._operator import LinearOperator


class FunctionOperator(LinearOperator):
    """The Jacobian of any function of parameters, by automatic differentiation.

    Parameters
    ----------
    function : callable (theta, X) -> (n_samples, n_outputs)
        Its outputs for a sample do not depend on other samples.
    theta : Tensor (n_params,)
        Parameters at which the function is differentiated.
    X : Tensor (n_samples, ...)
    columns : Tensor of indices into theta
        Parameters to differentiate with respect to, one for each column.
    """

    def __init__(
        self,
        function: Callable[[Tensor, Tensor], Tensor],
        theta: Tensor,
        X: Tensor,
        columns: Tensor,
    ):
        self.function, self.theta, self.X, self.columns = function, theta, X, columns
        self.n_samples = len(X)
        self.n_outputs = function(theta, X[:1]).shape[1]
        self.n_coef = len(columns)
        self.dtype, self.device = theta.dtype, theta.device
        self._derivatives = Derivatives(function, theta, X)
        self._matrix: Tensor | None = None

    def matvec(self, coef: Tensor) -> Tensor:
        size = self.n_rows * self.n_coef * self.theta.element_size()
        if not self._derivatives.transposes() and size <= BLOCK_BYTES:
            # Store the matrix: a loop over samples is too slow for each product.
            if self._matrix is None:
                self._matrix = self.dense()
            return self._matrix @ coef
        tangent = torch.zeros_like(self.theta)
        tangent[self.columns] = coef
        push = self._derivatives.push
        return torch.cat(
            [push(self.X[rows])(tangent) for rows in self._sample_blocks()]
        )

    def rmatvec(self, residual: Tensor) -> Tensor:
        total = torch.zeros_like(self.theta)
        for rows in self._sample_blocks():
            total += self._derivatives.pull(self.X[rows], residual[rows])
        return total[self.columns]

    def dense(self, rows: slice = slice(None)) -> Tensor:
        return self._derivatives.jacobians(self.X[rows])[:, :, self.columns]

    def rows(self, index: Tensor) -> "FunctionOperator":
        return self._like(self.X[index], self.columns)

    def select(self, columns: Tensor) -> "FunctionOperator":
        return self._like(self.X, self.columns[columns.to(self.columns.device)])

    def _like(self, X: Tensor, columns: Tensor) -> "FunctionOperator":
        other = FunctionOperator(self.function, self.theta, X, columns)
        # Reuse the results of the tests for supported transforms.
        other._derivatives = self._derivatives
        return other

    def _sample_blocks(self) -> Iterator[slice]:
        # The memory of a module's intermediate results is unknown. 64 times its input
        # is a generous guess that keeps convolutional networks within the block size.
        size = 64 * max(1, self.X[0].numel()) * self.X.element_size()
        return row_blocks(self.n_samples, size)
