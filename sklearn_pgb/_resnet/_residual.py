"""The objective of the residual units, and data of their training."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sklearn_pgb._budget import ALPHA_FACTORS, CONSTANT_RTOL
from sklearn_pgb._losses._loss import Loss
from sklearn_pgb._resnet._projection import Projection, projection
from sklearn_pgb._training._program import Program
from sklearn_pgb._training._residual import evaluate_units


@dataclass(frozen=True, eq=False)
class BasisSamples:
    """Samples of positive weight, with normalized weights and encoded targets.

    The inputs of the residual units are standardized. `center` was subtracted from the
    columns of the basis.
    """

    basis: Tensor
    inputs: Tensor
    y: Tensor
    weight: Tensor
    center: Tensor | float = 0.0

    def rows(self, index: NDArray[np.intp]) -> "BasisSamples":
        """Select samples and normalize their weights."""
        rows = torch.from_numpy(index).to(self.y.device)
        weight = self.weight[rows]
        return replace(
            self,
            basis=self.basis[rows],
            inputs=self.inputs[rows],
            y=self.y[rows],
            weight=weight / weight.sum(),
        )

    def scaled(self, column_scale: Tensor) -> "BasisSamples":
        """Divide the columns of the basis."""
        basis, center = self.basis / column_scale, self.center / column_scale
        return replace(self, basis=basis, center=center)

    def projection(self, loss: Loss, intercept: bool) -> Projection:
        """Create the projection that solves for the linear part on these samples."""
        center = self.center
        return projection(self.basis, self.y, self.weight, loss, intercept, center)

    def mean(self) -> Tensor:
        """Return the means of the basis columns."""
        return self.weight @ self.basis

    def spread(self) -> Tensor:
        """Return standard deviations of the basis columns; one for constant columns."""
        centered = self.basis - self.mean()
        spread = (self.weight @ centered.square()).sqrt()
        # The deviation of a constant column is rounding, relative to its size.
        floor = CONSTANT_RTOL * (self.basis + self.center).abs().amax(0)
        return torch.where(spread > floor, spread, 1.0)


@dataclass(frozen=True)
class ResNetRequest:
    """Parameters of the fit, with automatic ones resolved.

    Attributes
    ----------
    alpha : float or None
        None if it has to be chosen.
    leave_one_out : bool
        Whether to choose alpha by leave-one-out for every loss.
    decay : float
        Weight decay of the units.
    intercept : bool
    full_batch : bool
        Whether each step uses all samples.
    projects : bool
        Whether each of these steps also solves for the linear part, by variable
        projection.
    max_iter : int
    tol : float
    batch_size : int
    rate : float
        Learning rate.
    dtype : torch.dtype
        Precision of training on minibatches.
    counts : Tensor (n_samples,)
        Numbers of equal samples that the samples stand for.
    seed : int
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
    counts: Tensor
    seed: int

    def factors(self) -> list[float]:
        """Return candidate multiples of alpha, only one if the user gives a number.

        They descend: large alphas are solved quickly and warm-start smaller ones.
        """
        return [1.0] if self.alpha is not None else list(ALPHA_FACTORS)


# Takes the parameters of the units, the objective, and a function that solves for R^T
# and intercept. Returning True ends the training.
Hook = Callable[[Tensor, float, Callable[[], tuple[Tensor, Tensor]]], bool]


@dataclass(frozen=True, eq=False)
class ResidualObjective:
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

    def on(self, samples: BasisSamples) -> "ResidualObjective":
        """Return the same objective on other samples."""
        inner = samples.projection(self.inner.loss, self.inner.intercept)
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

    def heldout_losses(
        self, theta: Tensor, alphas: Sequence[float], heldout: BasisSamples
    ) -> NDArray[np.float64]:
        """Return losses (n_alphas, n_heldout) for rough solutions on these samples."""
        losses = []
        for alpha in alphas:
            coef, intercept = self.head(theta, alpha, rough=True)
            z, _ = evaluate_units(self.units, theta, heldout.inputs)
            raw = torch.cat([heldout.basis, self.scale * z], 1) @ coef + intercept
            losses.append(self.losses(raw, heldout))
        return torch.stack(losses).cpu().numpy()

    def basis_heldout_losses(
        self, alphas: Sequence[float], heldout: BasisSamples
    ) -> NDArray[np.float64]:
        """Return losses (n_alphas, n_heldout) for models without units."""
        losses = []
        for alpha in alphas:
            coef, intercept = self.inner.rough(self.samples.basis[:, :0], alpha)
            losses.append(self.losses(heldout.basis @ coef + intercept, heldout))
        return torch.stack(losses).cpu().numpy()


@dataclass(frozen=True, eq=False)
class UnitTraining:
    """Trained units, and their held-out losses.

    Attributes
    ----------
    theta : Tensor
        Parameters of the units.
    alpha : float
    losses : list of float
        The objective after each iteration or epoch.
    n_iter : int
    improves : bool
        Whether the units are better than the basis alone, so that they are kept.
    heldout_loss, basis_heldout_loss : float
        Mean held-out losses with and without the units; nan without folds.
    diverged : bool
    """

    theta: Tensor
    alpha: float
    losses: list[float]
    n_iter: int
    improves: bool
    heldout_loss: float = np.nan
    basis_heldout_loss: float = np.nan
    diverged: bool = False
