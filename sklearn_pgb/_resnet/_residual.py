"""The objective of the residual units alone: the linear part is solved for."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sklearn_pgb._resnet._projection import Projection, projection
from sklearn_pgb._training._program import Program
from sklearn_pgb._training._residual import evaluate_units

# Multiples of the basis' own ridge among which held-out rows choose: units that have
# seen the labels need a stronger one.
FACTORS = (16.0, 4.0, 1.0)


@dataclass(frozen=True, eq=False)
class Samples:
    """Samples of positive weight.

    Attributes
    ----------
    basis : Tensor (n_samples, n_basis)
    inputs : Tensor (n_samples, ...)
        As the residual units take them.
    y : Tensor (n_samples, n_outputs)
        Encoded targets.
    weight : Tensor (n_samples,)
        Summing to one.
    """

    basis: Tensor
    inputs: Tensor
    y: Tensor
    weight: Tensor

    def rows(self, index: NDArray[np.intp]) -> "Samples":
        """Some of the samples, their weights summing to one again."""
        rows = torch.from_numpy(index).to(self.y.device)
        weight = self.weight[rows]
        return Samples(
            self.basis[rows], self.inputs[rows], self.y[rows], weight / weight.sum()
        )

    def mean(self) -> Tensor:
        """Means of the basis' columns."""
        return self.weight @ self.basis

    def spread(self) -> Tensor:
        """Standard deviations of the basis' columns; one for constant ones."""
        centred = self.basis - self.mean()
        spread = (self.weight @ centred.square()).sqrt()
        floor = 1e-12 * self.basis.abs().amax(0)
        return torch.where(spread > floor, spread, 1.0)


@dataclass(frozen=True)
class Request:
    """What the user asked of the fit, resolved.

    Attributes
    ----------
    alpha : float or None
        None stands for a choice.
    leave_one_out : bool
        Whether the choice is by leave-one-out whatever the loss.
    decay : float
        Ridge on the weights of the units.
    full_batch : bool
        Whether each step takes all samples.
    projects : bool
        Whether the linear part is solved for at each of these steps.
    total_weight : float
        Of the samples in the user's scale.
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
        """Multiples of the ridge among which to choose; a number is kept as it is.

        They descend, as strong ridges are solved quickly and start the weaker ones.
        """
        return [1.0] if self.alpha is not None else list(FACTORS)


# Gets parameters of the units, objective, and what solves for R^T and intercept there;
# True ends the training.
Hook = Callable[[Tensor, float, Callable[[], tuple[Tensor, Tensor]]], bool]


@dataclass(frozen=True, eq=False)
class Residual:
    """The objective: a loss on [phi, z], a ridge on R, a decay on the units.

    Attributes
    ----------
    units : Program
    samples : Samples
    inner : Projection
        Solves for R and intercept at given units.
    alpha : float
    scale : float
        Constant in front of the units.
    penalty : Tensor (n_params,)
        Ridge on the parameters of the units.
    """

    units: Program
    samples: Samples
    inner: Projection
    alpha: float
    scale: float
    penalty: Tensor

    def on(self, samples: Samples) -> "Residual":
        """The same objective on other samples."""
        inner = projection(
            samples.basis,
            samples.y,
            samples.weight,
            self.inner.loss,
            self.inner.intercept,
        )
        return replace(self, samples=samples, inner=inner)

    def losses(self, raw: Tensor, samples: Samples) -> Tensor:
        """Loss of raw outputs on each of any samples."""
        return self.inner.loss.value(samples.y, raw)

    def floor(self) -> float:
        """A value that no raw outputs can undercut."""
        return float(self.samples.weight @ self.inner.loss.minimum(self.samples.y))

    def head(
        self, theta: Tensor, alpha: float, rough: bool = False
    ) -> tuple[Tensor, Tensor]:
        """The minimising R^T, in units of scale times z, and intercept."""
        z, _ = evaluate_units(self.units, theta, self.samples.inputs)
        solve = self.inner.rough if rough else self.inner.solve
        return solve(self.scale * z, alpha)

    def held_out(self, theta: Tensor, alpha: float, held: Samples) -> Tensor:
        """Losses on other samples with R solved for on these, roughly."""
        coef, intercept = self.head(theta, alpha, rough=True)
        z, _ = evaluate_units(self.units, theta, held.inputs)
        raw = torch.cat([held.basis, self.scale * z], 1) @ coef + intercept
        return self.losses(raw, held)

    def held_out_alone(self, alpha: float, held: Samples) -> Tensor:
        """The same for the model on the basis alone."""
        coef, intercept = self.inner.rough(self.samples.basis[:, :0], alpha)
        return self.losses(held.basis @ coef + intercept, held)


@dataclass(frozen=True, eq=False)
class Found:
    """Units after training, and what held-out samples say of them.

    Attributes
    ----------
    theta : Tensor (n_params,)
    alpha : float
    losses : list of float
        The objective after each iteration or epoch.
    n_iter : int
    improves : bool
        Whether the units are kept.
    held_out, basis_held_out : float
        Mean losses of held-out samples with the units and without; nan without folds.
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
