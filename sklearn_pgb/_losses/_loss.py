"""The interface of losses."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sklearn_pgb._budget import DOMAIN_SLACK


@dataclass(frozen=True, eq=False)
class PooledMinimum:
    """Smallest weighted loss of models with one raw output per group of samples.

    Attributes
    ----------
    value : Tensor (n_groups,)
        ``inf_q sum_{i in group} w_i l_i(q)``.
    raw : Tensor (n_groups, n_outputs)
        The minimizers q, with infinite entries if the infimum is not attained.
    attained : Tensor of bool (n_groups,)
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

    # Value of the parameter `loss` of estimators.
    name: ClassVar[str]
    is_classification: ClassVar[bool] = False
    # Whether `predict` gives means or probabilities.
    predicts_means: ClassVar[bool] = True
    # Whether no target may be negative.
    is_positive: ClassVar[bool] = False
    quadratic: ClassVar[bool] = False
    dual_rows_sum_to_zero: ClassVar[bool] = False
    # Whether l(s q + c, s y + c) = s^2 l'(q, y) with the loss l' of `in_units(s)`, so
    # that training may standardize y.
    standardizable: ClassVar[bool] = False
    # Fields that are set by parameters of estimators: {parameter: field}.
    parameters: ClassVar[Mapping[str, str]] = {}

    def encode(self, y: Tensor) -> Tensor:
        """Encode real targets, one-hot rows or 0/1 indicators."""
        return y

    @abstractmethod
    def value(self, y: Tensor, raw: Tensor) -> Tensor:
        """Loss of each sample."""

    @abstractmethod
    def gradient(self, y: Tensor, raw: Tensor) -> Tensor:
        """Gradient with respect to the raw outputs."""

    @abstractmethod
    def largest(self, y: Tensor, raw: Tensor, error: Tensor) -> Tensor:
        """Upper bound on each sample's loss if each output is off by up to `error`."""

    def value_and_gradient(self, y: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Value and gradient, without computing common terms twice."""
        return self.value(y, raw), self.gradient(y, raw)

    @abstractmethod
    def hessian_root(self, y: Tensor, raw: Tensor) -> Tensor:
        """Roots S_i of the Hessians."""

    @property
    def hessian_unit(self) -> float:
        """Change of the outputs within which Hessians may be similar."""
        return 1.0

    def least_hessian_root(self, y: Tensor, raw: Tensor, radius: float) -> Tensor:
        """Roots of matrices below all Hessians at outputs up to `radius` away.

        This holds if no third derivative exceeds the second one times the range of the
        direction's entries: along a change h of the outputs, Hessians then fall by
        ``exp(max h - min h)`` at most, and ``max h - min h <= sqrt(2) |h|``. Other
        losses override it; zero is a bound for each.
        """
        return self.hessian_root(y, raw) * math.exp(-radius / math.sqrt(2))

    @abstractmethod
    def hessian_probe(self, y: Tensor, raw: Tensor, signs: Tensor) -> Tensor:
        """``S_i^T e_i`` for random signs e: its outer products average to H_i."""

    @abstractmethod
    def hessian(self, y: Tensor, raw: Tensor) -> Callable[[Tensor], Tensor]:
        """A function that multiplies each sample's row by its Hessian."""

    @abstractmethod
    def hessian_diagonal(self, y: Tensor, raw: Tensor) -> Tensor:
        """Diagonals of the Hessians, (n_samples, n_outputs)."""

    @abstractmethod
    def conjugate(self, y: Tensor, dual: Tensor) -> Tensor:
        """Conjugate of each sample, infinite outside its domain."""

    def conjugate_size(self, y: Tensor, dual: Tensor) -> Tensor:
        """Sizes of the terms of each sample's conjugate, which have rounding errors."""
        return self.conjugate(y, dual).abs() + 2 * dual.abs().sum(1)

    def minimum(self, y: Tensor) -> Tensor:
        """Infimum over q of each sample's loss, zero unless a subclass overrides it."""
        return y.new_zeros(len(y))

    @abstractmethod
    def dual_bounds(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Lower and upper bounds of a box that contains the conjugate's domain."""

    def predict(self, raw: Tensor) -> Tensor:
        """Convert raw outputs to means or probabilities."""
        return raw

    def link(self, mean: Tensor) -> Tensor:
        """Return the raw outputs that predict these means; they may be infinite."""
        return mean

    def value_of_mean(self, y: Tensor, mean: Tensor) -> Tensor:
        """Loss of predicted means or probabilities, which are kept away from zero."""
        return self.value(y, self.link(mean))

    def loss_unit(self, mean: float) -> float:
        """Return a typical loss of targets with this mean, to scale the training."""
        return 1.0

    def in_units(self, scale: float) -> Loss:
        """Return the loss of targets that are divided by `scale`."""
        return self

    def for_outputs(self, n_outputs: int, *, independent: bool) -> Loss:
        """Return the loss for a number of outputs, each with its own label or not."""
        return self

    def pooled_minimum(
        self, y: Tensor, weight: Tensor, group: Tensor, n_groups: int
    ) -> PooledMinimum:
        """Smallest weighted loss of each group, with one raw output per group.

        This is for losses ``a(q) - y.q``: their weighted sum is the loss at the mean
        target.
        """
        total, mean = group_means(y, weight, group, n_groups)
        raw = self.link(mean)
        return PooledMinimum(total * self.minimum(mean), raw, raw.isfinite().all(1))


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

    def largest(self, y: Tensor, raw: Tensor, error: Tensor) -> Tensor:
        # Convex functions are largest at the ends of an interval.
        ends = self.terms(y, raw - error), self.terms(y, raw + error)
        return torch.maximum(*ends).sum(1)

    def hessian_probe(self, y: Tensor, raw: Tensor, signs: Tensor) -> Tensor:
        return self.hessian_root(y, raw) * signs

    def hessian_root(self, y: Tensor, raw: Tensor) -> Tensor:
        return self.curvature(y, raw).sqrt()

    def hessian_diagonal(self, y: Tensor, raw: Tensor) -> Tensor:
        return self.curvature(y, raw)

    def hessian(self, y: Tensor, raw: Tensor) -> Callable[[Tensor], Tensor]:
        return self.curvature(y, raw).mul

    def conjugate(self, y: Tensor, dual: Tensor) -> Tensor:
        lower, upper = self.dual_bounds(y)
        # Solvers return duals on the edge of the domain up to rounding; infinity for
        # these would discard their bounds.
        inside = (dual >= lower - DOMAIN_SLACK) & (dual <= upper + DOMAIN_SLACK)
        terms = self.conjugate_terms(y, dual.clamp(lower, upper))
        return torch.where(inside, terms, torch.inf).sum(1)


def entropy(p: Tensor) -> Tensor:
    """``-p log p`` with ``0 log 0 = 0``."""
    return -torch.xlogy(p, p)


def entropy_of_dual(y: Tensor, dual: Tensor) -> Tensor:
    """``-p log p`` of probabilities ``p = u + y``, with the digits of small u.

    If the label y is one, ``1 - p = -u`` is exact, but rounding of p to a unit in the
    last place would change the entropy by as much.
    """
    p, rest = (dual + y).clamp(0, 1), ((1 - y) - dual).clamp(0, 1)
    return torch.where(p < 0.5, entropy(p), -p * (-rest).log1p())


def fraction_size(y: Tensor, dual: Tensor) -> Tensor:
    """Sizes of the errors of entropies if targets y are fractions.

    Then ``p = u + y`` and ``1 - p`` are rounded, and a change of p changes p log p by
    ``1 + log p`` times as much.
    """
    eps, size = torch.finfo(y.dtype).eps, torch.zeros_like(y)
    for p in ((dual + y).clamp(eps, 1), ((1 - y) - dual).clamp(eps, 1)):
        size = size + (p + dual.abs()) * (1 - p.log())
    return torch.where((y == 0) | (y == 1), 0.0, size).sum(1)


def group_means(
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


def minimum_at_mean(
    loss: Loss, y: Tensor, weight: Tensor, group: Tensor, n_groups: int
) -> PooledMinimum:
    """Return the pooled minimum of a loss whose minimizers predict the mean targets."""
    mean = group_means(y, weight, group, n_groups)[1]
    return minimum_at(loss, y, weight, group, loss.link(mean))


def minimum_at(
    loss: Loss, y: Tensor, weight: Tensor, group: Tensor, raw: Tensor
) -> PooledMinimum:
    """Return the pooled minimum, given finite minimizers (n_groups, n_outputs)."""
    values = weight * loss.value(y, raw[group])
    value = raw.new_zeros(len(raw)).index_add(0, group, values)
    return PooledMinimum(value, raw, torch.ones_like(value, dtype=torch.bool))
