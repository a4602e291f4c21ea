"""Convex losses of raw network outputs, their conjugates and pure-error floors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

# A dual this close to its domain counts as inside: rounding may have moved it out.
_DOMAIN_SLACK = 1e-12


@dataclass(frozen=True, eq=False)
class PooledMinimum:
    """Smallest weighted loss of models with one raw output per group of samples.

    Attributes
    ----------
    value : Tensor of shape (n_groups,)
        ``inf_q sum_{i in group} w_i l_i(q)``.
    raw : Tensor of shape (n_groups, n_outputs)
        The minimizer q; entries are infinite if the infimum is not attained.
    attained : Tensor of shape (n_groups,)
        Whether the infimum is a minimum.
    """

    value: Tensor
    raw: Tensor
    attained: Tensor


class Loss(ABC):
    """Convex, differentiable loss ``l(q, y)`` of a raw output q.

    For any dual u, the conjugate ``l*(u) = sup_q u.q - l(q, y)`` gives the lower bound
    ``l(q, y) >= u.q - l*(u)``. All certificates are based on it.

    Conventions
    -----------
    Raw outputs, targets, duals and directions have shape (n_samples, n_outputs), values
    shape (n_samples,). Targets are encoded by `encode`. The Hessian of sample i is
    ``S_i^T S_i``. `hessian_root` returns all S_i, with shape (n_samples, n_outputs) if
    they are diagonal, otherwise (n_samples, n_outputs, n_outputs).
    """

    quadratic: ClassVar[bool] = False
    dual_rows_sum_to_zero: ClassVar[bool] = False

    @abstractmethod
    def encode(self, y: Tensor) -> Tensor:
        """Encode real targets, one-hot rows or 0/1 indicators."""

    @abstractmethod
    def value(self, y: Tensor, raw: Tensor) -> Tensor:
        """Loss of each sample."""

    @abstractmethod
    def gradient(self, y: Tensor, raw: Tensor) -> Tensor:
        """Gradient with respect to the raw outputs."""

    def value_and_gradient(self, y: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Value and gradient, without computing common terms twice."""
        return self.value(y, raw), self.gradient(y, raw)

    @abstractmethod
    def hessian_root(self, y: Tensor, raw: Tensor) -> Tensor:
        """Roots S_i of the Hessians."""

    @abstractmethod
    def hessian(self, y: Tensor, raw: Tensor) -> Callable[[Tensor], Tensor]:
        """A function that multiplies each sample's row by its Hessian."""

    @abstractmethod
    def hessian_diagonal(self, y: Tensor, raw: Tensor) -> Tensor:
        """Diagonals of the Hessians, (n_samples, n_outputs)."""

    @abstractmethod
    def conjugate(self, y: Tensor, dual: Tensor) -> Tensor:
        """Conjugate of each sample, infinite outside its domain."""

    @abstractmethod
    def minimum(self, y: Tensor) -> Tensor:
        """Infimum over q of each sample's loss."""

    @abstractmethod
    def dual_bounds(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Lower and upper bounds of a box that contains the conjugate's domain."""

    @abstractmethod
    def predict(self, raw: Tensor) -> Tensor:
        """Convert raw outputs to means or probabilities."""

    @abstractmethod
    def pooled_minimum(
        self, y: Tensor, weight: Tensor, group: Tensor, n_groups: int
    ) -> PooledMinimum:
        """Smallest weighted loss of each group, with one raw output per group."""


class SeparableLoss(Loss):
    """A sum of losses of single outputs, which has diagonal Hessians."""

    @abstractmethod
    def terms(self, y: Tensor, raw: Tensor) -> Tensor:
        """Loss of each output."""

    @abstractmethod
    def curvature(self, y: Tensor, raw: Tensor) -> Tensor:
        """Second derivative of each output's loss."""

    @abstractmethod
    def conjugate_terms(self, y: Tensor, dual: Tensor) -> Tensor:
        """Conjugate of each output's loss, for duals in its domain."""

    def value(self, y: Tensor, raw: Tensor) -> Tensor:
        return self.terms(y, raw).sum(1)

    def hessian_root(self, y: Tensor, raw: Tensor) -> Tensor:
        return self.curvature(y, raw).sqrt()

    def hessian_diagonal(self, y: Tensor, raw: Tensor) -> Tensor:
        return self.curvature(y, raw)

    def hessian(self, y: Tensor, raw: Tensor) -> Callable[[Tensor], Tensor]:
        return self.curvature(y, raw).mul

    def conjugate(self, y: Tensor, dual: Tensor) -> Tensor:
        lower, upper = self.dual_bounds(y)
        inside = (dual >= lower - _DOMAIN_SLACK) & (dual <= upper + _DOMAIN_SLACK)
        terms = self.conjugate_terms(y, dual.clamp(lower, upper))
        return torch.where(inside, terms, torch.inf).sum(1)


@dataclass(frozen=True)
class SquaredLoss(SeparableLoss):
    """Squared error, ``l = |q - y|^2``, without a factor 1/2.

    ``gradient = 2 (q - y)``, ``conjugate = u.y + |u|^2 / 4``.
    """

    quadratic: ClassVar[bool] = True

    def encode(self, y: Tensor) -> Tensor:
        return y

    def terms(self, y: Tensor, raw: Tensor) -> Tensor:
        return (raw - y).square()

    def gradient(self, y: Tensor, raw: Tensor) -> Tensor:
        return 2 * (raw - y)

    def value_and_gradient(self, y: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        residual = raw - y
        return residual.square().sum(1), residual.mul_(2)

    def curvature(self, y: Tensor, raw: Tensor) -> Tensor:
        return torch.full_like(raw, 2.0)

    def conjugate_terms(self, y: Tensor, dual: Tensor) -> Tensor:
        return dual * y + dual.square() / 4

    def minimum(self, y: Tensor) -> Tensor:
        return y.new_zeros(len(y))

    def dual_bounds(self, y: Tensor) -> tuple[Tensor, Tensor]:
        upper = torch.full_like(y, torch.inf)
        return -upper, upper

    def predict(self, raw: Tensor) -> Tensor:
        return raw

    def pooled_minimum(
        self, y: Tensor, weight: Tensor, group: Tensor, n_groups: int
    ) -> PooledMinimum:
        total, mean = _group_means(y, weight, group, n_groups)
        scatter = weight * self.value(y, mean[group])
        value = torch.zeros_like(total).index_add(0, group, scatter)
        return PooledMinimum(value, mean, torch.ones_like(total, dtype=torch.bool))


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

    def value_and_gradient(self, y: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        log_p = raw.log_softmax(1)
        return -(y * log_p).sum(1), log_p.exp_().sub_(y)

    def hessian_root(self, y: Tensor, raw: Tensor) -> Tensor:
        p = raw.softmax(1)
        identity = torch.eye(p.shape[1], dtype=p.dtype, device=p.device)
        return p.sqrt()[:, :, None] * (identity - p[:, None, :])

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
        inside = (p >= -_DOMAIN_SLACK).all(1) & ((p.sum(1) - 1).abs() <= _DOMAIN_SLACK)
        return torch.where(inside, -_entropy(p.clamp(0, 1)).sum(1), torch.inf)

    def minimum(self, y: Tensor) -> Tensor:
        return _entropy(y).sum(1)

    def dual_bounds(self, y: Tensor) -> tuple[Tensor, Tensor]:
        return -y, 1 - y

    def predict(self, raw: Tensor) -> Tensor:
        return raw.softmax(1)

    def pooled_minimum(
        self, y: Tensor, weight: Tensor, group: Tensor, n_groups: int
    ) -> PooledMinimum:
        return _minimum_at_means(self, torch.log, y, weight, group, n_groups)


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
        p = (dual + y).clamp(0, 1)
        return -_entropy(p) - _entropy(1 - p)

    def minimum(self, y: Tensor) -> Tensor:
        return (_entropy(y) + _entropy(1 - y)).sum(1)

    def dual_bounds(self, y: Tensor) -> tuple[Tensor, Tensor]:
        return -y, 1 - y

    def predict(self, raw: Tensor) -> Tensor:
        return raw.sigmoid()

    def pooled_minimum(
        self, y: Tensor, weight: Tensor, group: Tensor, n_groups: int
    ) -> PooledMinimum:
        return _minimum_at_means(self, torch.logit, y, weight, group, n_groups)


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
        slope = self.power * (self.power - 1) * gap.abs() ** (self.power - 2)
        return torch.where(gap > 0, slope, 0.0)

    def conjugate_terms(self, y: Tensor, dual: Tensor) -> Tensor:
        t = -dual * y
        p = self.power
        return -t + (p - 1) * (t / p) ** (p / (p - 1))

    def minimum(self, y: Tensor) -> Tensor:
        return y.new_zeros(len(y))

    def dual_bounds(self, y: Tensor) -> tuple[Tensor, Tensor]:
        zero = torch.zeros_like(y)
        return zero.where(y < 0, -torch.inf), zero.where(y > 0, torch.inf)

    def predict(self, raw: Tensor) -> Tensor:
        return raw

    def pooled_minimum(
        self, y: Tensor, weight: Tensor, group: Tensor, n_groups: int
    ) -> PooledMinimum:
        # With k = (minus / plus)^(1/(p-1)) = e^a, the minimizer is (1 - k) / (1 + k).
        # Formulas in a also hold for groups with one label only (a = -inf or inf).
        total, positive = _group_means((y > 0).to(y.dtype), weight, group, n_groups)
        plus, minus = total[:, None] * positive, total[:, None] * (1 - positive)
        a = (minus.log() - plus.log()) / (self.power - 1)
        losses = (2 * a.sigmoid()) ** self.power, (2 * (-a).sigmoid()) ** self.power
        value = (plus * losses[0] + minus * losses[1]).sum(1)
        attained = torch.ones_like(total, dtype=torch.bool)
        return PooledMinimum(value, -(a / 2).tanh(), attained)


@dataclass(frozen=True)
class PoissonLoss(SeparableLoss):
    """Poisson loss with log link, ``l = e^q - y q``, summed over outputs, y >= 0.

    ``gradient = e^q - y``, ``curvature = e^q``; ``conjugate = p log p - p`` if
    ``p = u + y`` is not negative.
    """

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
        return -_entropy(p) - p

    def minimum(self, y: Tensor) -> Tensor:
        return (y + _entropy(y)).sum(1)

    def dual_bounds(self, y: Tensor) -> tuple[Tensor, Tensor]:
        return -y, torch.full_like(y, torch.inf)

    def predict(self, raw: Tensor) -> Tensor:
        # Return the largest finite number instead of infinity.
        return raw.exp().clamp(max=torch.finfo(raw.dtype).max)

    def pooled_minimum(
        self, y: Tensor, weight: Tensor, group: Tensor, n_groups: int
    ) -> PooledMinimum:
        return _minimum_at_means(self, torch.log, y, weight, group, n_groups)


@dataclass(frozen=True)
class GammaLoss(SeparableLoss):
    """Gamma deviance with log link, ``l = y e^-q - log(y e^-q) - 1``, y > 0.

    ``gradient = 1 - y e^-q``, ``curvature = y e^-q``; ``conjugate = p log p - p + 1 +
    u log y`` if ``p = 1 - u`` is not negative. Half of the loss is, up to a constant,
    the negative log likelihood of a normal error with square y and log variance q.
    """

    def encode(self, y: Tensor) -> Tensor:
        if bool((y <= 0).any()):
            raise ValueError(
                f"y must be > 0 for the gamma loss, got {y.min():g}. Use the Poisson "
                "loss for targets that can be zero."
            )
        return y

    def terms(self, y: Tensor, raw: Tensor) -> Tensor:
        ratio = y.log() - raw
        return ratio.expm1() - ratio

    def gradient(self, y: Tensor, raw: Tensor) -> Tensor:
        return -(y.log() - raw).expm1()

    def curvature(self, y: Tensor, raw: Tensor) -> Tensor:
        return (y.log() - raw).exp()

    def conjugate_terms(self, y: Tensor, dual: Tensor) -> Tensor:
        p = (1 - dual).clamp(min=0)
        return -_entropy(p) - p + 1 + dual * y.log()

    def minimum(self, y: Tensor) -> Tensor:
        return y.new_zeros(len(y))

    def dual_bounds(self, y: Tensor) -> tuple[Tensor, Tensor]:
        return torch.full_like(y, -torch.inf), torch.ones_like(y)

    def predict(self, raw: Tensor) -> Tensor:
        return raw.exp()

    def pooled_minimum(
        self, y: Tensor, weight: Tensor, group: Tensor, n_groups: int
    ) -> PooledMinimum:
        total, mean = _group_means(y, weight, group, n_groups)
        raw = mean.log()
        deviance = weight * self.value(y, raw[group])
        value = torch.zeros_like(total).index_add(0, group, deviance)
        return PooledMinimum(value, raw, torch.ones_like(total, dtype=torch.bool))


@dataclass(frozen=True, eq=False)
class PureErrorFloor:
    """Smallest loss of any function of the inputs.

    Attributes
    ----------
    value : float
        ``sum_j inf_q sum_{i in I_j} w_i l_i(q)`` over the groups I_j of samples with
        identical inputs. No model on these inputs has a smaller loss.
    attained : bool
        Whether every group's infimum is a minimum.
    group : Tensor of shape (n_samples,)
        Group of each sample.
    raw : Tensor of shape (n_groups, n_outputs)
        Minimizer of each group; entries are infinite if the infimum is not attained.
    """

    value: float
    attained: bool
    group: Tensor
    raw: Tensor


def pure_error_floor(
    X: Tensor | np.ndarray, y: Tensor, loss: Loss, weight: Tensor
) -> PureErrorFloor:
    """Minimize the loss over all functions by pooling samples with equal inputs.

    Parameters
    ----------
    X : Tensor or ndarray of shape (n_samples, ...)
        Inputs of the network. Samples are equal if all entries are; -0.0 equals 0.0.
    y : Tensor of shape (n_samples, n_outputs)
        Encoded targets.
    loss : Loss
    weight : Tensor of shape (n_samples,)
        Positive sample weights.

    Returns
    -------
    PureErrorFloor
    """
    # The sum turns -0.0 into 0.0, and a read-only array into one torch does not copy.
    rows = torch.asarray(X + 0.0).reshape(len(X), -1)
    distinct, group = rows.unique(dim=0, return_inverse=True)
    pooled = loss.pooled_minimum(y, weight, group.to(y.device), len(distinct))
    return PureErrorFloor(
        value=float(pooled.value.sum()),
        attained=bool(pooled.attained.all()),
        group=group,
        raw=pooled.raw,
    )


def _entropy(p: Tensor) -> Tensor:
    """``-p log p`` with ``0 log 0 = 0``."""
    return -torch.xlogy(p, p)


def _check_label_smoothing(label_smoothing: float) -> None:
    if not 0 <= label_smoothing < 1:
        raise ValueError(
            f"label_smoothing must be in [0, 1), got {label_smoothing}. "
            "Use 0 for the labels as they are, or a small value such as 0.1."
        )


def _group_means(
    y: Tensor, weight: Tensor, group: Tensor, n_groups: int
) -> tuple[Tensor, Tensor]:
    """Total weights and weighted mean targets of the groups."""
    # Sum both at once, so that the mean of equal 0/1 targets is exactly 0 or 1.
    rows = weight[:, None] * torch.cat([torch.ones_like(y[:, :1]), y], dim=1)
    sums = rows.new_zeros(n_groups, rows.shape[1]).index_add(0, group, rows)
    mean = sums[:, 1:] / sums[:, :1]
    # Clamp rounding errors: the mean of equal targets must be exactly their value.
    index = group[:, None].expand_as(y)
    lower = mean.scatter_reduce(0, index, y, "amin", include_self=False)
    upper = mean.scatter_reduce(0, index, y, "amax", include_self=False)
    return sums[:, 0], mean.clamp(lower, upper)


def _minimum_at_means(
    loss: Loss,
    link: Callable[[Tensor], Tensor],
    y: Tensor,
    weight: Tensor,
    group: Tensor,
    n_groups: int,
) -> PooledMinimum:
    """Pool a loss ``a(q) - y.q``; its weighted sum is the loss at the mean target."""
    total, mean = _group_means(y, weight, group, n_groups)
    raw = link(mean)
    return PooledMinimum(total * loss.minimum(mean), raw, raw.isfinite().all(1))


# Values of the parameter `loss`; "auto" is the training loss of an estimator.
MODULE_LOSSES: dict[str, Loss | None] = {
    "auto": None,
    "squared_error": SquaredLoss(),
    "poisson": PoissonLoss(),
    "log_loss": CrossEntropyLoss(),
    "binary_log_loss": LogisticLoss(),
}
