"""The objective of a training: a loss on a program's outputs, with a penalty."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from sklearn_pgb._budget import FORWARD_ROWS, HESSIAN_COLUMNS, PROBED_ROWS
from sklearn_pgb._derivatives import GradientDerivative, has_second_derivative
from sklearn_pgb._losses._loss import Loss
from sklearn_pgb._models._module import ModuleNetwork
from sklearn_pgb._models._network import Network
from sklearn_pgb._training._program import NetworkProgram, Program


@dataclass(frozen=True, eq=False)
class Objective:
    """Weighted mean loss of a program's raw outputs, and a penalty on its parameters.

    For each member of the population ::

        L(theta) = sum_i w_i l_i(f(x_i; theta)) + sum_j penalty_j theta_j^2

    Targets are encoded, weights positive and normalized, and penalties not negative.
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

    @property
    def network(self) -> Network:
        """The network of a `NetworkProgram`."""
        assert isinstance(self.program, NetworkProgram)
        return self.program.network

    def value(self, theta: Tensor) -> Tensor:
        """Return L of each member, of shape (n_members,)."""
        return self.data_value(theta) + self.penalty_value(theta)

    def penalty_value(self, theta: Tensor) -> Tensor:
        """Return the penalty of each member."""
        # Squares could overflow, also those of parameters without penalty.
        return torch.linalg.vecdot(self.penalty * theta, theta)

    def penalty_gradient(self, theta: Tensor) -> Tensor:
        """Return the gradient of the penalty of each member."""
        return 2 * self.penalty * theta

    def data_value(self, theta: Tensor) -> Tensor:
        """Return L of each member without the penalty."""
        total = theta.new_zeros(len(theta))
        for rows in self.row_slices(len(theta)):
            raw = self.program(theta, self.X[rows])
            # The loss takes 2-d outputs, so members are concatenated.
            y = self.y[rows].repeat(len(raw), 1)
            losses = self.loss.value(y, raw.reshape(-1, raw.shape[2]))
            total += losses.view(len(raw), -1) @ self.weight[rows]
        return total

    def value_and_gradient(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Return L of each member and its gradient, (n_members, n_params)."""
        value, gradient = self.penalty_value(theta), self.penalty_gradient(theta)
        for rows in self.row_slices(len(theta)):
            part, slope = self.batch_value_and_gradient(
                theta, self.X[rows], self.y[rows], self.weight[rows]
            )
            value += part
            gradient += slope
        return value, gradient

    def value_and_gradient_of_one(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Return L of one member (n_params,) and its gradient."""
        value, gradient = self.value_and_gradient(theta[None])
        return value[0], gradient[0]

    def batch_value_and_gradient(
        self, theta: Tensor, X: Tensor, y: Tensor, weight: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the weighted loss of a batch and its gradient, without the penalty."""
        raw, tape = self.program.forward(theta, X)
        flat = raw.reshape(-1, raw.shape[2])
        repeated = y if len(theta) == 1 else y.repeat(len(theta), 1)
        value, residual = self.loss.value_and_gradient(repeated, flat)
        residual = residual.view(raw.shape).mul_(weight[:, None])
        gradient = self.program.backward(theta, tape, residual)
        return value.view(len(theta), -1) @ weight, gradient

    def row_slices(self, n_members: int) -> list[slice]:
        """Return slices of samples that fit into memory at the same time."""
        return batch_slices(self.n_samples, max(1, FORWARD_ROWS // n_members))


def batch_slices(n_samples: int, size: int) -> list[slice]:
    """Return consecutive slices of `size` samples.

    The last one is smaller. A single last sample joins the slice before, because batch
    norm needs two samples.
    """
    starts = list(range(0, n_samples, size))
    if n_samples % size == 1 and len(starts) > 1:
        starts.pop()
    return [slice(*ends) for ends in pairwise([*starts, n_samples])]


def hessian_product(objective: Objective, theta: Tensor) -> Callable[[Tensor], Tensor]:
    """Return a function that multiplies the Hessian of L by one or several vectors."""
    leaf = theta.detach().clone().requires_grad_()
    parts = [
        GradientDerivative(_gradient(objective, leaf, rows), leaf)
        for rows in objective.row_slices(1)
    ]

    def product(direction: Tensor) -> Tensor:
        total = objective.penalty_gradient(direction)
        for part in parts:
            total += part(direction)
        return total

    return product


def hessian(objective: Objective, theta: Tensor) -> Tensor:
    """Return the Hessian of L for one member, (n_params, n_params)."""
    product = hessian_product(objective, theta)
    eye = torch.eye(len(theta), dtype=theta.dtype)
    dense = torch.cat([product(columns) for columns in eye.split(HESSIAN_COLUMNS)])
    # Eigensolvers read one triangle only, so make the matrix exactly symmetric.
    return (dense + dense.T) / 2


def has_hessian(objective: Objective, theta: Tensor) -> bool:
    """Whether torch can differentiate the gradient; False for some modules."""
    if not isinstance(objective.network, ModuleNetwork):
        return True
    rows = slice(0, PROBED_ROWS)
    return has_second_derivative(lambda at: _gradient(objective, at, rows), theta)


def _gradient(objective: Objective, leaf: Tensor, rows: slice) -> Tensor:
    """Gradient of the losses of some samples, with its autograd graph."""
    raw = objective.program.differentiable(leaf, objective.X[rows])
    part = objective.weight[rows] @ objective.loss.value(objective.y[rows], raw)
    return torch.autograd.grad(part, leaf, create_graph=True)[0]
