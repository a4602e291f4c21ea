"""The one certified lower bound without a ridge, with the norm that it holds up to."""

import math
from dataclasses import dataclass

from torch import Tensor

from sklearn_pgb._convex._problem import ConvexProblem
from sklearn_pgb._convex._unit_basis import EPS, PRODUCT_ULPS

# Coefficients so many times as long as those that were found are covered.
BUDGET = 1e6


@dataclass(frozen=True)
class Bound:
    """A lower bound on the loss over a basis.

    Attributes
    ----------
    value : float
        No coefficients c, and intercept b, with ``|[b + m c, D c]| <= norm_budget``
        have a smaller loss; m are the weighted means of the columns (zero without an
        intercept) and D the norms of the weighted columns less these.
    norm_budget : float
        Infinite only for what bounds every function of the inputs.
    """

    value: float
    norm_budget: float

    def within(self, *in_hand: float) -> "Bound":
        """The bound, never above a value that was attained."""
        finite = [value for value in in_hand if not math.isnan(value)]
        return Bound(min([self.value, *finite]), self.norm_budget)


@dataclass(frozen=True, eq=False)
class Dual:
    """A dual point u in the conjugates' domain, and what it proves.

    Attributes
    ----------
    value : float
        ``sum_i w_i (u_i o_i - l_i*(u_i))``, less what rounding may have added.
    residual : float
        ``|[sum w u, D^-1 (Phi - m)^T W u]|``, plus what rounding may have hidden.
    """

    value: float
    residual: float

    def bound(self, budget: float) -> Bound:
        """What it proves of coefficients up to a norm."""
        value = self.value - budget * self.residual
        return Bound(value if math.isfinite(value) else -math.inf, budget)


def unconditional_bound(problem: ConvexProblem, floor: float = -math.inf) -> Bound:
    """The samples' own minima, or the pure-error floor: for every function."""
    own = float(problem.weight @ problem.loss.minimum(problem.y))
    return Bound(own if math.isnan(floor) else max(own, floor), math.inf)


def into_domain(problem: ConvexProblem, dual: Tensor) -> Tensor:
    """The dual with rounding across the edges of the conjugates' domain taken off."""
    lower, upper = problem.loss.dual_bounds(problem.y)
    dual = dual.clamp(lower, upper)
    if problem.loss.dual_rows_sum_to_zero:
        p = (dual + problem.y).clamp(0, 1)
        dual = p / p.sum(1, keepdim=True) - problem.y
    return dual


def conjugate_value(problem: ConvexProblem, dual: Tensor, base: Tensor) -> float:
    """``sum_i w_i (u_i o_i - l_i*(u_i))`` less the rounding of its terms."""
    conjugate = problem.loss.conjugate(problem.y, dual)
    along = (dual * base).sum(1)
    value = float(problem.weight @ (along - conjugate))
    size = float(problem.weight @ ((dual * base).abs().sum(1) + conjugate.abs()))
    # Log losses: p log p is as exact as p, whose digits come from u + y.
    size += float(problem.weight @ dual.abs().sum(1))
    return value - PRODUCT_ULPS * EPS * size


def best_of(bounds: list[Bound], unconditional: Bound) -> Bound:
    """The largest bound; one without a limit on norms is worth more than an equal."""
    best = max(bounds, key=lambda bound: bound.value, default=unconditional)
    return best if best.value > unconditional.value else unconditional
