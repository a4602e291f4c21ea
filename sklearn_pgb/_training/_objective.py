"""Objective of a training: a loss on a program's outputs, with a penalty."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from sklearn_pgb._budget import SWEEP
from sklearn_pgb._losses._loss import Loss
from sklearn_pgb._training._program import Program


@dataclass(frozen=True, eq=False)
class Objective:
    """Weighted mean loss of a program's raw outputs, and a penalty on its parameters.

    For each member of the population ::

        L(theta) = sum_i w_i l_i(f(x_i; theta)) + sum_j penalty_j theta_j^2

    Parameters
    ----------
    program : Program
    loss : Loss
    X : Tensor (n_samples, ...)
    y : Tensor (n_samples, n_outputs)
        Encoded targets (`Loss.encode`).
    weight : Tensor (n_samples,)
        Positive and normalized.
    penalty : Tensor (n_params,)
        Nonnegative.
    """

    program: Program
    loss: Loss
    X: Tensor
    y: Tensor
    weight: Tensor
    penalty: Tensor

    @property
    def n_samples(self) -> int:
        """Number of samples."""
        return len(self.X)

    def value(self, theta: Tensor) -> Tensor:
        """Return L of each member, of shape (n_members,)."""
        return self.data_value(theta) + theta.square() @ self.penalty

    def data_value(self, theta: Tensor) -> Tensor:
        """Return L of each member without the penalty."""
        total = theta.new_zeros(len(theta))
        for rows in self._sweeps(theta):
            raw = self.program(theta, self.X[rows])
            total += self._losses(raw, self.y[rows]) @ self.weight[rows]
        return total

    def value_and_gradient(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Return L of each member and its gradient, (n_members, n_params)."""
        value = theta.square() @ self.penalty
        gradient = 2 * self.penalty * theta
        for rows in self._sweeps(theta):
            part, slope = self.batch(
                theta, self.X[rows], self.y[rows], self.weight[rows]
            )
            value += part
            gradient += slope
        return value, gradient

    def batch(
        self, theta: Tensor, X: Tensor, y: Tensor, weight: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the weighted loss of a batch and its gradient, without the penalty."""
        raw, tape = self.program.forward(theta, X)
        flat = raw.reshape(-1, raw.shape[2])
        # The loss takes 2-d outputs, so members are stacked below each other.
        repeated = y if len(theta) == 1 else y.repeat(len(theta), 1)
        value, residual = self.loss.value_and_gradient(repeated, flat)
        residual = residual.view(raw.shape).mul_(weight[:, None])
        gradient = self.program.backward(theta, tape, residual)
        return value.view(len(theta), -1) @ weight, gradient

    def _losses(self, raw: Tensor, y: Tensor) -> Tensor:
        """Return the loss of each member and sample, (n_members, n_samples)."""
        flat = raw.reshape(-1, raw.shape[2])
        return self.loss.value(y.repeat(len(raw), 1), flat).view(len(raw), -1)

    def _sweeps(self, theta: Tensor) -> Iterator[slice]:
        size = max(1, SWEEP // len(theta))
        for start in range(0, self.n_samples, size):
            yield slice(start, start + size)
