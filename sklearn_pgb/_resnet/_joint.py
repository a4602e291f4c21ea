"""The linear part and the units as one program, to train them together."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sklearn_pgb._resnet._residual import BasisSamples, ResidualObjective
from sklearn_pgb._training._objective import Objective
from sklearn_pgb._training._residual import ResidualProgram


@dataclass(frozen=True, eq=False)
class Joint:
    """A residual objective as a function of R, b and the parameters of the units.

    Its minimum over R and b is the objective of variable projection, with the same
    loss, penalty and decay. It is a function of columns of the basis that are
    standardized with the means and standard deviations of `whole`.
    """

    residual: ResidualObjective
    whole: BasisSamples
    dtype: torch.dtype

    def program(self, n_units: int) -> ResidualProgram:
        """Return the program from all parameters to raw outputs."""
        samples = self.residual.samples
        return ResidualProgram(
            self.residual.units,
            samples.basis.shape[1],
            n_units,
            samples.y.shape[1],
            tuple(samples.inputs.shape[1:]),
            self.residual.scale,
        )

    def rows(self, samples: BasisSamples) -> Tensor:
        """Stack standardized features and inputs of the units for the program."""
        basis = (samples.basis - self.whole.mean()) / self.whole.spread()
        return torch.cat([basis, samples.inputs.flatten(1)], 1).to(self.dtype)

    def objective(self, n_units: int) -> Objective:
        """Return the objective of all parameters."""
        residual, samples = self.residual, self.residual.samples
        k = samples.y.shape[1]
        # Coefficients of standardized columns are larger by the standard deviations.
        on_basis = residual.alpha / 2 / self.whole.spread().square()
        penalty = [
            on_basis.repeat_interleave(k),
            on_basis.new_full((n_units * k,), residual.alpha / 2),
            on_basis.new_zeros(k),
            residual.penalty,
        ]
        return Objective(
            self.program(n_units),
            residual.inner.loss,
            self.rows(samples),
            samples.y.to(self.dtype),
            samples.weight.to(self.dtype),
            torch.cat(penalty).to(self.dtype),
        )

    def start(self, theta: Tensor) -> Tensor:
        """Return initial parameters, with a rough solution for the linear part.

        If the linear part started at zero, the only gradient of the units would be that
        of their decay. Adam normalizes its steps and would shrink the units to zero.
        """
        coef, intercept = self.residual.head(theta, self.residual.alpha, rough=True)
        n_basis = self.residual.samples.basis.shape[1]
        A, B = coef[:n_basis], coef[n_basis:]
        spread = self.whole.spread()[:, None]
        bias = intercept + self.whole.mean() @ A
        parts = [(spread * A).reshape(-1), B.reshape(-1), bias, theta]
        return torch.cat(parts).to(self.dtype)
