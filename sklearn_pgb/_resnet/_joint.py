"""The linear part and the units as one program, all parameters trained together."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sklearn_pgb._resnet._residual import Residual, Samples
from sklearn_pgb._training._objective import Objective
from sklearn_pgb._training._residual import ResidualProgram


@dataclass(frozen=True, eq=False)
class Joint:
    """A residual objective as a function of R, b and the units' parameters at once.

    Its minimum over R and b is the function of the units that variable projection
    minimises: same loss, same ridge, same decay. The columns of the basis are
    standardised inside.

    Attributes
    ----------
    residual : Residual
    whole : Samples
        By whose moments the basis is standardised.
    dtype : torch.dtype
    """

    residual: Residual
    whole: Samples
    dtype: torch.dtype

    def program(self, n_units: int) -> ResidualProgram:
        """Raw outputs, by all parameters."""
        samples = self.residual.samples
        return ResidualProgram(
            self.residual.units,
            samples.basis.shape[1],
            n_units,
            samples.y.shape[1],
            tuple(samples.inputs.shape[1:]),
            self.residual.scale,
        )

    def rows(self, samples: Samples) -> Tensor:
        """Standardised basis and inputs of the units, as the program takes them."""
        basis = (samples.basis - self.whole.mean()) / self.whole.spread()
        return torch.cat([basis, samples.inputs.flatten(1)], 1).to(self.dtype)

    def objective(self, n_units: int) -> Objective:
        """The objective of all parameters."""
        residual, samples = self.residual, self.residual.samples
        k = samples.y.shape[1]
        ridge = residual.alpha / 2 / self.whole.spread().square()
        units = ridge.new_full((n_units * k,), residual.alpha / 2)
        penalty = [
            ridge.repeat_interleave(k),
            units,
            ridge.new_zeros(k),
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
        """All parameters, the linear part being solved for roughly.

        From zeros the units would get no gradient but that of their decay, which Adam,
        whose steps have one size, follows until nothing is left of them.
        """
        coef, intercept = self.residual.head(theta, self.residual.alpha, rough=True)
        n_basis = self.residual.samples.basis.shape[1]
        A, B = coef[:n_basis], coef[n_basis:]
        spread = self.whole.spread()[:, None]
        free = intercept + self.whole.mean() @ A
        parts = [(spread * A).reshape(-1), B.reshape(-1), free, theta]
        return torch.cat(parts).to(self.dtype)
