"""The objective of the residual units, and data of their training."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sklearn_pgb._budget import FACTORS
from sklearn_pgb._resnet._projection import Projection, projection
from sklearn_pgb._training._program import Program
from sklearn_pgb._training._residual import evaluate_units


@dataclass(frozen=True, eq=False)
class BasisSamples:
    """Samples of positive weight, with normalized weights and encoded targets.

    The inputs of the residual units are standardized.
    """

    basis: Tensor
    inputs: Tensor
    y: Tensor
    weight: Tensor

    def rows(self, index: NDArray[np.intp]) -> "BasisSamples":
        """Select samples and normalize their weights."""
        rows = torch.from_numpy(index).to(self.y.device)
        weight = self.weight[rows]
        return BasisSamples(
            self.basis[rows], self.inputs[rows], self.y[rows], weight / weight.sum()
        )

    def mean(self) -> Tensor:
        """Return the means of the basis columns."""
        return self.weight @ self.basis

    def spread(self) -> Tensor:
        """Return standard deviations of the basis columns; one for constant columns."""
        centered = self.basis - self.mean()
        spread = (self.weight @ centered.square()).sqrt()
        # The deviation of a constant column is rounding, relative to its size.
        floor = 1e-12 * self.basis.abs().amax(0)
        return torch.where(spread > floor, spread, 1.0)


@dataclass(frozen=True)
class Request:
    """Parameters of the fit, with automatic ones resolved.

    Alpha is None if it has to be chosen, for any loss by leave-one-out if
    `leave_one_out`. Each step uses all samples if `full_batch`, and then solves for the
    linear part if `projects`. `total_weight` is the sum of the unnormalized weights.
    """

    alpha: float | None
    leave_one_out: bool
    decay: float
    intercept: bool
    full_batch: bool
    projects: bool
    max_iter: int
    tol: float
    batch_size: int
    rate: float
    dtype: torch.dtype
    total_weight: float
    seed: int

    def factors(self) -> list[float]:
        """Return candidate multiples of alpha, only one if the user gives a number.

        They descend: large alphas are solved quickly and warm-start smaller ones.
        """
        return [1.0] if self.alpha is not None else list(FACTORS)


# Takes the parameters of the units, the objective, and a function that solves for R^T
# and intercept. Returning True ends the training.
Hook = Callable[[Tensor, float, Callable[[], tuple[Tensor, Tensor]]], bool]


@dataclass(frozen=True, eq=False)
class Residual:
    """The objective: a loss on [phi, z], a penalty on R and a decay of the units.

    `inner` solves for R and intercept at given units, `scale` is the factor of the
    units, and `penalty` the weight decay of each of their parameters.
    """

    units: Program
    samples: BasisSamples
    inner: Projection
    alpha: float
    scale: float
    penalty: Tensor

    def on(self, samples: BasisSamples) -> "Residual":
        """Return the same objective on other samples."""
        inner = projection(
            samples.basis,
            samples.y,
            samples.weight,
            self.inner.loss,
            self.inner.intercept,
        )
        return replace(self, samples=samples, inner=inner)

    def losses(self, raw: Tensor, samples: BasisSamples) -> Tensor:
        """Return the loss of raw outputs for each of the given samples."""
        return self.inner.loss.value(samples.y, raw)

    def floor(self) -> float:
        """Return a lower bound on the loss of any raw outputs."""
        return float(self.samples.weight @ self.inner.loss.minimum(self.samples.y))

    def head(
        self, theta: Tensor, alpha: float, rough: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Return the minimizing R^T, for scaled z, and intercept."""
        z, _ = evaluate_units(self.units, theta, self.samples.inputs)
        solve = self.inner.rough if rough else self.inner.solve
        return solve(self.scale * z, alpha)

    def held_out(self, theta: Tensor, alpha: float, heldout: BasisSamples) -> Tensor:
        """Return losses of held-out samples for a rough solution on the others."""
        coef, intercept = self.head(theta, alpha, rough=True)
        z, _ = evaluate_units(self.units, theta, heldout.inputs)
        raw = torch.cat([heldout.basis, self.scale * z], 1) @ coef + intercept
        return self.losses(raw, heldout)

    def held_out_alone(self, alpha: float, heldout: BasisSamples) -> Tensor:
        """Return the same losses for the model on the basis alone."""
        coef, intercept = self.inner.rough(self.samples.basis[:, :0], alpha)
        return self.losses(heldout.basis @ coef + intercept, heldout)


@dataclass(frozen=True, eq=False)
class Training:
    """Trained units, and their held-out losses.

    `losses` has the objective after each iteration or epoch. The units are kept if they
    are better. Mean held-out losses with and without them are nan without folds.
    """

    theta: Tensor
    alpha: float
    losses: list[float]
    n_iter: int
    improves: bool
    held_out: float = np.nan
    basis_held_out: float = np.nan
    diverged: bool = False
