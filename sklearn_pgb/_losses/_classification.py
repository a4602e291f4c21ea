"""Losses of labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from sklearn_pgb._budget import DOMAIN_SLACK
from sklearn_pgb._losses._loss import (
    Loss,
    PooledMinimum,
    SeparableLoss,
    entropy,
    entropy_of_dual,
    fraction_size,
    group_means,
)


@dataclass(frozen=True)
class CrossEntropyLoss(Loss):
    """Softmax cross entropy, ``l = logsumexp(q) - y.q`` with ``sum(y) = 1``.

    ``gradient = p - y`` and ``S = diag(sqrt(p)) (I - 1 p^T)`` with
    ``p = softmax(q)``; ``conjugate = sum_k p_k log p_k`` if ``p = u + y`` is a
    probability vector.

    Parameters
    ----------
    label_smoothing : float, default=0.0
        Targets become ``(1 - label_smoothing) y + label_smoothing / n_classes``.
        The infimum is always attained for values above zero.
    """

    label_smoothing: float = 0.0
    name: ClassVar[str] = "log_loss"
    is_classification: ClassVar[bool] = True
    parameters: ClassVar[Mapping[str, str]] = {"label_smoothing": "label_smoothing"}
    dual_rows_sum_to_zero: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_label_smoothing(self.label_smoothing)

    def encode(self, y: Tensor) -> Tensor:
        mass = y.sum(1, keepdim=True)
        # Rows rounded to float32 sum to 1 up to 1e-6; larger errors are mistakes.
        if bool((y < 0).any()) or bool(((mass - 1).abs() > 1e-6).any()):
            raise ValueError(
                "y must be one-hot or probability rows, got rows that are negative or "
                "do not sum to 1. Give one column per class."
            )
        smoothing = self.label_smoothing
        return (1 - smoothing) * (y / mass) + smoothing / y.shape[1]

    def value(self, y: Tensor, raw: Tensor) -> Tensor:
        # If the fit is good, this loses fewer digits than logsumexp(raw) - y.raw.
        return -(y * raw.log_softmax(1)).sum(1)

    def gradient(self, y: Tensor, raw: Tensor) -> Tensor:
        return raw.softmax(1) - y

    def largest(self, y: Tensor, raw: Tensor, error: Tensor) -> Tensor:
        # No eigenvalue of the Hessian exceeds 1/2.
        along = (self.gradient(y, raw).abs() * error).sum(1)
        return self.value(y, raw) + along + error.square().sum(1) / 4

    def value_and_gradient(self, y: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        log_p = raw.log_softmax(1)
        return -(y * log_p).sum(1), log_p.exp_().sub_(y)

    def hessian_root(self, y: Tensor, raw: Tensor) -> Tensor:
        p = raw.softmax(1)
        identity = torch.eye(p.shape[1], dtype=p.dtype, device=p.device)
        return p.sqrt()[:, :, None] * (identity - p[:, None, :])

    def hessian_probe(self, y: Tensor, raw: Tensor, signs: Tensor) -> Tensor:
        p = raw.softmax(1)
        scaled = p.sqrt() * signs
        return scaled.addcmul_(p, scaled.sum(1, keepdim=True), value=-1.0)

    def hessian(self, y: Tensor, raw: Tensor) -> Callable[[Tensor], Tensor]:
        p = raw.softmax(1)

        def product(direction: Tensor) -> Tensor:
            scaled = p * direction
            return scaled.addcmul_(p, scaled.sum(1, keepdim=True), value=-1.0)

        return product

    def hessian_diagonal(self, y: Tensor, raw: Tensor) -> Tensor:
        p = raw.softmax(1)
        return p * (1 - p)

    def conjugate(self, y: Tensor, dual: Tensor) -> Tensor:
        p = dual + y
        inside = (p >= -DOMAIN_SLACK).all(1) & ((p.sum(1) - 1).abs() <= DOMAIN_SLACK)
        return torch.where(inside, -entropy_of_dual(y, dual).sum(1), torch.inf)

    def conjugate_size(self, y: Tensor, dual: Tensor) -> Tensor:
        return super().conjugate_size(y, dual) + fraction_size(y, dual)

    def minimum(self, y: Tensor) -> Tensor:
        return entropy(y).sum(1)

    def dual_bounds(self, y: Tensor) -> tuple[Tensor, Tensor]:
        return -y, 1 - y

    def predict(self, raw: Tensor) -> Tensor:
        return raw.softmax(1)

    def link(self, mean: Tensor) -> Tensor:
        return mean.log()

    def value_of_mean(self, y: Tensor, mean: Tensor) -> Tensor:
        eps = torch.finfo(mean.dtype).eps
        return -(y * mean.clamp(eps, 1 - eps).log()).sum(1)

    def for_outputs(self, n_outputs: int, *, independent: bool) -> Loss:
        if independent or n_outputs == 1:
            return LogisticLoss(self.label_smoothing)
        return self


@dataclass(frozen=True)
class LogisticLoss(SeparableLoss):
    """Logistic loss, ``l = log(1 + e^q) - y q``, summed over outputs, y in [0, 1].

    ``gradient = p - y`` and ``curvature = p (1 - p)`` with ``p = 1 / (1 + e^-q)``;
    ``conjugate = p log p + (1 - p) log(1 - p)`` if ``p = u + y`` is in [0, 1].

    Parameters
    ----------
    label_smoothing : float, default=0.0
        Targets become ``(1 - label_smoothing) y + label_smoothing / 2``. The infimum
        is always attained for values above zero.
    """

    label_smoothing: float = 0.0
    name: ClassVar[str] = "binary_log_loss"
    is_classification: ClassVar[bool] = True
    parameters: ClassVar[Mapping[str, str]] = {"label_smoothing": "label_smoothing"}

    def __post_init__(self) -> None:
        _check_label_smoothing(self.label_smoothing)

    def encode(self, y: Tensor) -> Tensor:
        if bool(((y < 0) | (y > 1)).any()):
            raise ValueError(
                f"y must be in [0, 1] for the logistic loss, got values from "
                f"{y.min():g} to {y.max():g}. Give 0/1 indicators or probabilities."
            )
        return (1 - self.label_smoothing) * y + self.label_smoothing / 2

    def terms(self, y: Tensor, raw: Tensor) -> Tensor:
        # F.softplus drops e^-q if q is above its threshold of 20; logsigmoid keeps it.
        return -y * F.logsigmoid(raw) - (1 - y) * F.logsigmoid(-raw)

    def gradient(self, y: Tensor, raw: Tensor) -> Tensor:
        # Unlike sigmoid(raw) - y, this keeps all digits if the fit is good.
        return (1 - y) * raw.sigmoid() - y * (-raw).sigmoid()

    def curvature(self, y: Tensor, raw: Tensor) -> Tensor:
        return raw.sigmoid() * (-raw).sigmoid()

    def conjugate_terms(self, y: Tensor, dual: Tensor) -> Tensor:
        return -entropy_of_dual(y, dual) - entropy_of_dual(1 - y, -dual)

    def conjugate_size(self, y: Tensor, dual: Tensor) -> Tensor:
        return super().conjugate_size(y, dual) + fraction_size(y, dual)

    def minimum(self, y: Tensor) -> Tensor:
        return (entropy(y) + entropy(1 - y)).sum(1)

    dual_bounds = CrossEntropyLoss.dual_bounds

    def predict(self, raw: Tensor) -> Tensor:
        return raw.sigmoid()

    def link(self, mean: Tensor) -> Tensor:
        return mean.logit()

    def value_of_mean(self, y: Tensor, mean: Tensor) -> Tensor:
        eps = torch.finfo(mean.dtype).eps
        p = mean.clamp(eps, 1 - eps)
        return -(y * p.log() + (1 - y) * (-p).log1p()).sum(1)


@dataclass(frozen=True)
class SmoothedHingeLoss(SeparableLoss):
    """Smoothed hinge, ``l = max(0, 1 - y q)^power``, summed over outputs, y = -1, +1.

    With ``m = max(0, 1 - y q)`` and p the power, ``gradient = -y p m^(p-1)`` and
    ``curvature = p (p-1) m^(p-2)``, or zero if m is zero; ``conjugate = -t + (p-1)
    (t/p)^(p/(p-1))`` if ``t = -u y`` is not negative.

    Parameters
    ----------
    power : float, default=2.0
        Above 1, so that the loss is differentiable. Its curvature is bounded if the
        power is at least 2.
    """

    power: float = 2.0
    name: ClassVar[str] = "smoothed_hinge"
    is_classification: ClassVar[bool] = True
    predicts_means: ClassVar[bool] = False
    parameters: ClassVar[Mapping[str, str]] = {"hinge_power": "power"}

    def __post_init__(self) -> None:
        if not self.power > 1:
            raise ValueError(
                f"power must be > 1, got {self.power}. The hinge is not differentiable "
                "at power 1; use 2, or a value just above 1."
            )

    def encode(self, y: Tensor) -> Tensor:
        if bool(((y != 0) & (y != 1)).any()):
            raise ValueError(
                "y must be 0/1 indicators for the smoothed hinge loss, got other "
                "values. Give one column of zeros and ones per output."
            )
        return 2 * y - 1

    def terms(self, y: Tensor, raw: Tensor) -> Tensor:
        return (1 - y * raw).clamp(min=0) ** self.power

    def gradient(self, y: Tensor, raw: Tensor) -> Tensor:
        return -self.power * y * (1 - y * raw).clamp(min=0) ** (self.power - 1)

    def curvature(self, y: Tensor, raw: Tensor) -> Tensor:
        gap = 1 - y * raw
        # The absolute value, because a negative base has no fractional power; its
        # entries are not used.
        slope = self.power * (self.power - 1) * gap.abs() ** (self.power - 2)
        return torch.where(gap > 0, slope, 0.0)

    def least_hessian_root(self, y: Tensor, raw: Tensor, radius: float) -> Tensor:
        return torch.zeros_like(raw)

    def conjugate_terms(self, y: Tensor, dual: Tensor) -> Tensor:
        t = -dual * y
        p = self.power
        return -t + (p - 1) * (t / p) ** (p / (p - 1))

    def dual_bounds(self, y: Tensor) -> tuple[Tensor, Tensor]:
        zero = torch.zeros_like(y)
        return zero.where(y < 0, -torch.inf), zero.where(y > 0, torch.inf)

    def pooled_minimum(
        self, y: Tensor, weight: Tensor, group: Tensor, n_groups: int
    ) -> PooledMinimum:
        # With k = (minus / plus)^(1/(p-1)) = e^a, the minimizer is (1 - k) / (1 + k).
        # Formulas in a also hold for groups with one label only (a = -inf or inf).
        total, positive = group_means((y > 0).to(y.dtype), weight, group, n_groups)
        plus, minus = total[:, None] * positive, total[:, None] * (1 - positive)
        a = (minus.log() - plus.log()) / (self.power - 1)
        losses = (2 * a.sigmoid()) ** self.power, (2 * (-a).sigmoid()) ** self.power
        value = (plus * losses[0] + minus * losses[1]).sum(1)
        attained = torch.ones_like(total, dtype=torch.bool)
        return PooledMinimum(value, -(a / 2).tanh(), attained)


def _check_label_smoothing(label_smoothing: float) -> None:
    if not 0 <= label_smoothing < 1:
        raise ValueError(
            f"label_smoothing must be in [0, 1), got {label_smoothing}. "
            "Use 0 for the labels as they are, or a small value such as 0.1."
        )
