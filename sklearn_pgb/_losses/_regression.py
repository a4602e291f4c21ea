"""Losses of real targets and counts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sklearn_pgb._losses._loss import (
    PooledMinimum,
    SeparableLoss,
    entropy,
    minimum_at,
    minimum_at_mean,
)


@dataclass(frozen=True)
class SquaredLoss(SeparableLoss):
    """Squared error, ``l = |q - y|^2``, without a factor 1/2.

    ``gradient = 2 (q - y)``, ``conjugate = u.y + |u|^2 / 4``.
    """

    name: ClassVar[str] = "squared_error"
    quadratic: ClassVar[bool] = True
    standardizable: ClassVar[bool] = True

    def terms(self, y: Tensor, raw: Tensor) -> Tensor:
        return (raw - y).square()

    def gradient(self, y: Tensor, raw: Tensor) -> Tensor:
        return 2 * (raw - y)

    def value_and_gradient(self, y: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        residual = raw - y
        return residual.square().sum(1), residual.mul_(2)

    def curvature(self, y: Tensor, raw: Tensor) -> Tensor:
        return torch.full_like(raw, 2.0)

    @property
    def hessian_unit(self) -> float:
        return math.inf

    def least_hessian_root(self, y: Tensor, raw: Tensor, radius: float) -> Tensor:
        return self.hessian_root(y, raw)

    def conjugate_terms(self, y: Tensor, dual: Tensor) -> Tensor:
        return dual * y + dual.square() / 4

    def conjugate_size(self, y: Tensor, dual: Tensor) -> Tensor:
        return ((dual * y).abs() + dual.square() / 4).sum(1)

    def dual_bounds(self, y: Tensor) -> tuple[Tensor, Tensor]:
        upper = torch.full_like(y, torch.inf)
        return -upper, upper

    pooled_minimum = minimum_at_mean


@dataclass(frozen=True)
class HuberLoss(SeparableLoss):
    """Huber loss, squared up to errors of size delta and linear beyond.

    With ``r = q - y``, ``l = r^2`` if ``|r| <= delta``, else ``2 delta |r| - delta^2``,
    summed over outputs; ``gradient = 2 clip(r, -delta, delta)``, ``conjugate = u.y +
    |u|^2 / 4`` if ``|u| <= 2 delta``. Delta is in the units of y.
    """

    delta: float = 1.35
    name: ClassVar[str] = "huber"
    standardizable: ClassVar[bool] = True
    parameters: ClassVar[Mapping[str, str]] = {"huber_delta": "delta"}

    def __post_init__(self) -> None:
        if not self.delta > 0:
            raise ValueError(
                f"delta must be > 0, got {self.delta}. Use 1.35 times the standard "
                "deviation of the noise."
            )

    def in_units(self, scale: float) -> HuberLoss:
        return HuberLoss(self.delta / scale)

    def terms(self, y: Tensor, raw: Tensor) -> Tensor:
        residual = raw - y
        clipped = residual.clamp(-self.delta, self.delta)
        # Equals both formulas: r^2 if nothing is clipped, else 2 delta |r| - delta^2.
        return clipped * (2 * residual - clipped)

    def gradient(self, y: Tensor, raw: Tensor) -> Tensor:
        return 2 * (raw - y).clamp(-self.delta, self.delta)

    def curvature(self, y: Tensor, raw: Tensor) -> Tensor:
        return 2.0 * ((raw - y).abs() <= self.delta).to(raw.dtype)

    @property
    def hessian_unit(self) -> float:
        return self.delta

    def least_hessian_root(self, y: Tensor, raw: Tensor, radius: float) -> Tensor:
        inside = (raw - y).abs() + radius <= self.delta
        return (2.0 * inside.to(raw.dtype)).sqrt()

    # Where it is finite, the conjugate is that of the squared loss.
    conjugate_terms = SquaredLoss.conjugate_terms
    conjugate_size = SquaredLoss.conjugate_size

    def dual_bounds(self, y: Tensor) -> tuple[Tensor, Tensor]:
        upper = torch.full_like(y, 2 * self.delta)
        return -upper, upper

    def pooled_minimum(
        self, y: Tensor, weight: Tensor, group: Tensor, n_groups: int
    ) -> PooledMinimum:
        index, rows = group[:, None].expand_as(y), weight[:, None]
        zeros = y.new_zeros(n_groups, y.shape[1])
        lower = zeros.scatter_reduce(0, index, y, "amin", include_self=False)
        upper = zeros.scatter_reduce(0, index, y, "amax", include_self=False)
        # Bisection of the monotone gradient, down to the rounding of y.
        limits = torch.finfo(y.dtype)
        size = torch.maximum(lower.abs(), upper.abs())
        rounding = (2 * limits.eps * size).clamp(min=limits.tiny)
        raw = (lower + upper) / 2
        while bool((upper - lower > rounding).any()):
            slope = zeros.index_add(0, group, rows * self.gradient(y, raw[group]))
            lower = torch.where(slope <= 0, raw, lower)
            upper = torch.where(slope >= 0, raw, upper)
            raw = (lower + upper) / 2
        return minimum_at(self, y, weight, group, raw)


@dataclass(frozen=True)
class PoissonLoss(SeparableLoss):
    """Poisson loss with log link, ``l = e^q - y q``, summed over outputs, y >= 0.

    ``gradient = e^q - y``, ``curvature = e^q``; ``conjugate = p log p - p`` if
    ``p = u + y`` is not negative.
    """

    name: ClassVar[str] = "poisson"
    is_positive: ClassVar[bool] = True

    def encode(self, y: Tensor) -> Tensor:
        if bool((y < 0).any()):
            raise ValueError(
                f"y must be >= 0 for the Poisson loss, got {y.min():g}. "
                "Use the squared loss for targets that can be negative."
            )
        return y

    def terms(self, y: Tensor, raw: Tensor) -> Tensor:
        return raw.exp() - y * raw

    def gradient(self, y: Tensor, raw: Tensor) -> Tensor:
        return raw.exp() - y

    def curvature(self, y: Tensor, raw: Tensor) -> Tensor:
        return raw.exp()

    def conjugate_terms(self, y: Tensor, dual: Tensor) -> Tensor:
        p = (dual + y).clamp(min=0)
        return -entropy(p) - p

    def conjugate_size(self, y: Tensor, dual: Tensor) -> Tensor:
        p = (dual + y).clamp(min=0)
        # The rounding of p changes p log p - p by log p times as much.
        return (2 * entropy(p).abs() + p).sum(1)

    def minimum(self, y: Tensor) -> Tensor:
        return (y + entropy(y)).sum(1)

    def dual_bounds(self, y: Tensor) -> tuple[Tensor, Tensor]:
        return -y, torch.full_like(y, torch.inf)

    def predict(self, raw: Tensor) -> Tensor:
        # Return the largest finite number instead of infinity.
        return raw.exp().clamp(max=torch.finfo(raw.dtype).max)

    def link(self, mean: Tensor) -> Tensor:
        return mean.log()

    def value_of_mean(self, y: Tensor, mean: Tensor) -> Tensor:
        mean = mean.clamp(min=torch.finfo(mean.dtype).eps)
        return (mean - y * mean.log()).sum(1)

    def loss_unit(self, mean: float) -> float:
        return mean if mean > 0 else 1.0


@dataclass(frozen=True)
class GammaLoss(SeparableLoss):
    """Gamma deviance with log link, ``l = y e^-q - log(y e^-q) - 1``, y > 0.

    ``gradient = 1 - y e^-q``, ``curvature = y e^-q``; ``conjugate = p log p - p + 1 +
    u log y`` if ``p = 1 - u`` is not negative. Half of the loss is, up to a constant,
    the negative log likelihood of a normal error with square y and log variance q.
    """

    name: ClassVar[str] = "gamma"
    is_positive: ClassVar[bool] = True

    def encode(self, y: Tensor) -> Tensor:
        if bool((y <= 0).any()):
            raise ValueError(
                f"y must be > 0 for the gamma loss, got {y.min():g}. Use the Poisson "
                "loss for targets that can be zero."
            )
        return y

    def terms(self, y: Tensor, raw: Tensor) -> Tensor:
        # expm1 keeps the digits of small losses, at outputs close to log y.
        ratio = y.log() - raw
        return ratio.expm1() - ratio

    def gradient(self, y: Tensor, raw: Tensor) -> Tensor:
        return -(y.log() - raw).expm1()

    def curvature(self, y: Tensor, raw: Tensor) -> Tensor:
        return (y.log() - raw).exp()

    def conjugate_terms(self, y: Tensor, dual: Tensor) -> Tensor:
        p = (1 - dual).clamp(min=0)
        return -entropy(p) - p + 1 + dual * y.log()

    def conjugate_size(self, y: Tensor, dual: Tensor) -> Tensor:
        p = (1 - dual).clamp(min=0)
        return (2 * entropy(p).abs() + p + 1 + (dual * y.log()).abs()).sum(1)

    def dual_bounds(self, y: Tensor) -> tuple[Tensor, Tensor]:
        return torch.full_like(y, -torch.inf), torch.ones_like(y)

    def predict(self, raw: Tensor) -> Tensor:
        return raw.exp()

    def link(self, mean: Tensor) -> Tensor:
        return mean.log()

    pooled_minimum = minimum_at_mean
