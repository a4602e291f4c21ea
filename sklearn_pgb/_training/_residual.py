"""Program of a linear model with residual units."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sklearn_pgb._training._program import ChainProgram, Program


class ResidualProgram(Program):
    """Raw outputs ``phi A + scale z(x; theta) B + b`` as a function of all parameters.

    Its inputs are phi and x in one matrix, (n_samples, n_basis + size of x); `shape` is
    that of one sample x for the units z. The parameters of a member are A, B, b and
    those of z. Entry (j, c) of A and B has the index ``j * n_outputs + c``, as in
    `KroneckerOperator`.
    """

    def __init__(
        self,
        units: Program,
        n_basis: int,
        n_units: int,
        n_outputs: int,
        shape: tuple[int, ...],
        scale: float,
    ):
        self.units, self.scale, self.n_outputs = units, scale, n_outputs
        self.n_basis, self.shape = n_basis, shape
        rows = [n_basis, n_units, 1]
        self.sizes = [*(n * n_outputs for n in rows), units.n_params]
        self.n_params = sum(self.sizes)

    def split(self, theta: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """View theta as A, B, b (1, n_outputs) of each member and those of z."""
        *head, inner = theta.split(self.sizes, 1)
        A, B, b = (part.unflatten(1, (-1, self.n_outputs)) for part in head)
        return A, B, b, inner

    def forward(self, theta: Tensor, X: Tensor) -> tuple[Tensor, Any]:
        A, B, b, inner = self.split(theta)
        basis, x = self._sides(X)
        z, tape = self.units.forward(inner, x)
        return basis @ A + self.scale * (z @ B) + b, (tape, z, inner, basis)

    def backward(self, theta: Tensor, tape: Any, residual: Tensor) -> Tensor:
        tape, z, inner, basis = tape
        B = self.split(theta)[1]
        to_head = [
            basis.T @ residual,
            self.scale * (z.mT @ residual),
            residual.sum(1, keepdim=True),
        ]
        # Computed last, as the units may overwrite their outputs.
        to_units = self.units.backward(inner, tape, self.scale * (residual @ B.mT))
        return torch.cat([*(part.flatten(1) for part in to_head), to_units], 1)

    def __call__(self, theta: Tensor, X: Tensor) -> Tensor:
        A, B, b, inner = self.split(theta)
        basis, x = self._sides(X)
        return basis @ A + self.scale * (self.units(inner, x) @ B) + b

    def differentiable(self, theta: Tensor, X: Tensor) -> Tensor:
        A, B, b, inner = self.split(theta[None])
        basis, x = self._sides(X)
        z = self.units.differentiable(inner[0], x)
        return basis @ A[0] + self.scale * (z @ B[0]) + b[0]

    def _sides(self, X: Tensor) -> tuple[Tensor, Tensor]:
        return X[:, : self.n_basis], X[:, self.n_basis :].reshape(-1, *self.shape)


def evaluate_units(
    units: Program, theta: Tensor, X: Tensor
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Return outputs of one member in evaluation mode, and a function d -> J^T d.

    Results are valid until the next evaluation. The function can be called once and
    overwrites the outputs.
    """
    if isinstance(units, ChainProgram):
        raw, tape = units.forward(theta[None], X)
        return raw[0], lambda d: units.backward(theta[None], tape, d[None])[0]
    leaf = theta.detach().requires_grad_()
    with torch.enable_grad():
        z = units.differentiable(leaf, X)
    return z.detach(), lambda d: torch.autograd.grad(z, leaf, d)[0]
