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
    """Samples of positive weight.

    Attributes
    ----------
    basis : Tensor (n_samples, n_basis)
    inputs : Tensor (n_samples, ...)
        Standardized inputs of the residual units.
    y : Tensor (n_samples, n_outputs)
        Encoded targets.
    weight : Tensor (n_samples,)
        Normalized to sum one.
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
        floor = 1e-12 * self.basis.abs().amax(0)
        return torch.where(spread > floor, spread, 1.0)


@dataclass(frozen=True)
class Request:
    """Parameters of the fit, with automatic ones resolved.

    Attributes
    ----------
    alpha : float or None
        None if it has to be chosen.
    leave_one_out : bool
        Whether to choose alpha by leave-one-out for any loss.
    decay : float
        Weight decay of the units.
    full_batch : bool
        Whether each step uses all samples.
    projects : bool
        Whether full-batch steps solve for the linear part.
    total_weight : float
        Sum of the unnormalized weights.
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

    Attributes
    ----------
    units : Program
    samples : BasisSamples
    inner : Projection
        Solves for R and intercept at given units.
    alpha : float
    scale : float
        Factor of the units.
    penalty : Tensor (n_params,)
        Weight decay of each parameter of the units.
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

    def held_out(self, theta: Tensor, alpha: float, held: BasisSamples) -> Tensor:
        """Return losses of held-out samples for a rough solution on the others."""
        coef, intercept = self.head(theta, alpha, rough=True)
        z, _ = evaluate_units(self.units, theta, held.inputs)
        raw = torch.cat([held.basis, self.scale * z], 1) @ coef + intercept
        return self.losses(raw, held)

    def held_out_alone(self, alpha: float, held: BasisSamples) -> Tensor:
        """Return the same losses for the model on the basis alone."""
        coef, intercept = self.inner.rough(self.samples.basis[:, :0], alpha)
        return self.losses(held.basis @ coef + intercept, held)


@dataclass(frozen=True, eq=False)
class Training:
    """Trained units, and their held-out losses.

    Attributes
    ----------
    theta : Tensor (n_params,)
    alpha : float
    losses : list of float
        The objective after each iteration or epoch.
    n_iter : int
    improves : bool
        Whether to keep the units.
    held_out, basis_held_out : float
        Mean held-out losses with and without the units; nan without folds.
    diverged : bool
    """

    theta: Tensor
    alpha: float
    losses: list[float]
    n_iter: int
    improves: bool
    held_out: float = np.nan
    basis_held_out: float = np.nan
    diverged: bool = False
