"""The objective of the residual units alone: the linear part is solved for."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sklearn_pgb._resnet._projection import Projection, projection
from sklearn_pgb._training import Program, evaluate_units

# Multiples of the basis' own ridge among which held-out rows choose: units that have
# seen the labels need a stronger one.
FACTORS = (1.0, 4.0, 16.0)


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

    def spread(self) -> Tensor:
        """Standard deviations of the basis' columns; one for constant ones."""
        centred = self.basis - self.weight @ self.basis
        spread = (self.weight @ centred.square()).sqrt()
        floor = 1e-12 * self.basis.abs().amax(0)
        return torch.where(spread > floor, spread, 1.0)

    def linear(self, head: tuple[Tensor, Tensor]) -> Tensor:
        """Raw outputs of a model on the basis alone."""
        return self.basis @ head[0] + head[1]


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
    total_weight : float
        Of the samples in the user's scale.
    """

    alpha: float | None
    leave_one_out: bool
    decay: float
    intercept: bool
    full_batch: bool
    max_iter: int
    tol: float
    batch_size: int
    rate: float
    dtype: torch.dtype
    total_weight: float
    seed: int

    def factors(self) -> list[float]:
        """Multiples of the ridge among which to choose; a number is kept as it is."""
        return [1.0] if self.alpha is not None else list(FACTORS)


Hook = Callable[[Tensor, float, Tensor, Tensor], bool]


class Residual:
    """The objective of the units alone: F(theta) = min over R of the convex problem.

    Its gradient is that of the objective at the minimising R, which itself need not be
    differentiated (envelope theorem).
    """

    def __init__(
        self,
        units: Program,
        samples: Samples,
        inner: Projection,
        alpha: float,
        scale: float,
        penalty: Tensor,
    ):
        self.units, self.samples, self.inner = units, samples, inner
        self.alpha, self.scale, self.penalty = alpha, scale, penalty
        # R^T in units of z, and intercept, of the last evaluation.
        self.last: tuple[Tensor, Tensor]

    def on(self, samples: Samples) -> "Residual":
        """The same objective on other samples."""
        inner = projection(
            samples.basis,
            samples.y,
            samples.weight,
            self.inner.loss,
            self.inner.intercept,
        )
        return Residual(
            self.units, samples, inner, self.alpha, self.scale, self.penalty
        )

    def alone(self, alpha: float) -> tuple[Tensor, Tensor]:
        """R^T and intercept of the model on the basis alone."""
        return self.inner.solve(self.samples.basis[:, :0], alpha)

    def loss(self, raw: Tensor, samples: Samples) -> float:
        """Mean loss of raw outputs on any samples."""
        return float(samples.weight @ self.inner.loss.value(samples.y, raw))

    def floor(self, samples: Samples) -> float:
        """What no raw outputs can undercut."""
        return float(samples.weight @ self.inner.loss.minimum(samples.y))

    def head(self, theta: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
        """The minimising R^T, in units of scale times z, and intercept."""
        z, _ = evaluate_units(self.units, theta, self.samples.inputs)
        return self.inner.solve(self.scale * z, alpha)

    def raw(
        self, theta: Tensor, head: tuple[Tensor, Tensor], samples: Samples
    ) -> Tensor:
        """Raw outputs on any samples."""
        z, _ = evaluate_units(self.units, theta, samples.inputs)
        return torch.cat([samples.basis, self.scale * z], 1) @ head[0] + head[1]

    def __call__(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """F plus the decay of theta, and its gradient."""
        samples, inner = self.samples, self.inner
        theta = theta.to(samples.y.device)
        z, pull = evaluate_units(self.units, theta, samples.inputs)
        Z = self.scale * z
        coef, intercept = inner.solve(Z, self.alpha)
        A, B = coef.split([samples.basis.shape[1], Z.shape[1]])
        self.last = torch.cat([A, self.scale * B]), intercept
        raw = samples.basis @ A + Z @ B + intercept
        residual = inner.loss.gradient(samples.y, raw) * samples.weight[:, None]
        value = samples.weight @ inner.loss.value(samples.y, raw)
        value = value + 0.5 * self.alpha * coef.square().sum()
        gradient = pull(self.scale * (residual @ B.T))
        gradient = gradient + 2 * self.penalty * theta
        return (value + self.penalty @ theta.square()).cpu(), gradient.cpu()


@dataclass(frozen=True, eq=False)
class Found:
    """Units after training, and what held-out rows say of them."""

    theta: Tensor
    alpha: float
    improves: bool
    losses: list[float]
    n_iter: int
    diverged: bool = False
