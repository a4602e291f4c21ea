"""The training objective of a network, with its gradient and Hessian."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sklearn_pgb._budget import HESSIAN_COLUMNS, PASS_ROWS, PROBED_ROWS
from sklearn_pgb._derivatives import GradientDerivative, has_second_derivative
from sklearn_pgb._losses._loss import Loss
from sklearn_pgb._models._module import ModuleNetwork
from sklearn_pgb._models._network import Network


@dataclass(frozen=True, eq=False)
class TrainingObjective:
    """Weighted mean loss of a network plus a ridge penalty on its parameters.

    With the flat parameters theta::

        O(theta) = sum_i w_i l_i(f(x_i; theta)) + sum_k penalty_k theta_k^2

    Attributes
    ----------
    network : Network
    X : Tensor (n_samples, ...)
        Inputs of the network.
    y : Tensor (n_samples, n_outputs)
        Encoded targets.
    weight : Tensor (n_samples,)
        Positive weights with sum one.
    loss : Loss
    penalty : Tensor (n_params,)
        Nonnegative coefficients of the squared parameters.
    """

    network: Network
    X: Tensor
    y: Tensor
    weight: Tensor
    loss: Loss
    penalty: Tensor

    @property
    def penalized(self) -> bool:
        """Whether any parameter has a penalty."""
        return bool(self.penalty.any())

    def raw(self, theta: Tensor) -> Tensor:
        """Raw outputs on the samples."""
        with torch.no_grad():
            return self.network(theta, self.X)

    def data_value(self, raw: Tensor) -> float:
        """Weighted mean loss of given raw outputs."""
        return float(self.weight @ self.loss.value(self.y, raw))

    def penalty_value(self, theta: Tensor) -> float:
        """Value of the penalty."""
        return float(self.penalty @ theta.square())

    def penalty_gradient(self, theta: Tensor) -> Tensor:
        """Gradient of the penalty."""
        return 2 * self.penalty * theta

    def value_and_gradient(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Value and gradient of the objective."""
        theta = theta.detach()
        value = self.penalty @ theta.square()
        gradient = self.penalty_gradient(theta)
        for rows in self._sweeps():
            leaf = theta.clone().requires_grad_()
            part = self._losses(leaf, rows)
            value += part.detach()
            gradient += torch.autograd.grad(part, leaf)[0]
        return value, gradient

    def hessian_product(self, theta: Tensor) -> Callable[[Tensor], Tensor]:
        """Return a function that multiplies the Hessian by one or several vectors."""
        leaf = theta.detach().clone().requires_grad_()
        parts = [
            GradientDerivative(self._gradient(leaf, rows), leaf)
            for rows in self._sweeps()
        ]

        def product(direction: Tensor) -> Tensor:
            total = 2 * self.penalty * direction
            for part in parts:
                total += part(direction)
            return total

        return product

    def hessian(self, theta: Tensor) -> Tensor:
        """Hessian of the objective, (n_params, n_params)."""
        product = self.hessian_product(theta)
        eye = torch.eye(len(theta), dtype=theta.dtype)
        dense = torch.cat([product(columns) for columns in eye.split(HESSIAN_COLUMNS)])
        # Eigensolvers read one triangle only; average out the rounding of both.
        return (dense + dense.T) / 2

    def has_hessian(self, theta: Tensor) -> bool:
        """Whether torch can differentiate the gradient; not true for every module."""
        if not isinstance(self.network, ModuleNetwork):
            return True
        rows = slice(0, PROBED_ROWS)
        return has_second_derivative(lambda at: self._gradient(at, rows), theta)

    def _gradient(self, leaf: Tensor, rows: slice) -> Tensor:
        """Gradient of the losses of some samples, with its autograd graph."""
        part = self._losses(leaf, rows)
        return torch.autograd.grad(part, leaf, create_graph=True)[0]

    def _losses(self, theta: Tensor, rows: slice) -> Tensor:
        raw = self.network(theta, self.X[rows])
        return self.weight[rows] @ self.loss.value(self.y[rows], raw)

    def _sweeps(self) -> Iterator[slice]:
        for start in range(0, len(self.X), PASS_ROWS):
            yield slice(start, start + PASS_ROWS)
