"""Choose one of the bounds that coefficients with a small loss over a span prove."""

import math
from dataclasses import dataclass

from torch import Tensor

from sklearn_pgb._budget import (
    COEF_BUDGET,
    FULL_FRACTION,
    ROUGH_BUDGETS,
    ROUGH_FRACTION,
    SMALLER_BUDGETS,
)
from sklearn_pgb._convex._bounds import Bound, Dual, best_of


@dataclass(frozen=True, eq=False)
class Minimizer:
    """Coefficients that minimize the loss in some directions, and their dual points.

    Attributes
    ----------
    value : float
        Upper bound on the loss of the coefficients: long ones have rounded outputs.
    coordinates : Tensor (n_columns, width)
        The coefficients, in the units of their norm.
    raw, error : Tensor (n_samples, n_outputs)
        Their outputs, and the rounding errors of these.
    duals : list of Dual
    converged : bool
    rank : int
        Number of directions of the basis that the coefficients use.
    """

    value: float
    coordinates: Tensor
    raw: Tensor
    error: Tensor
    duals: list[Dual]
    converged: bool
    rank: int = 0

    @property
    def norm(self) -> float:
        """Norm of the coefficients."""
        return float(self.coordinates.norm())


def best_bound(
    candidates: list[Minimizer],
    best: Minimizer,
    fallback_norm: float,
    unconditional: Bound,
) -> Bound:
    """Return the bound with the largest budget among those that are nearly the best.

    Parameters
    ----------
    candidates : list of Minimizer
        Their dual points give the bounds.
    best : Minimizer
        The shortest of the candidates with the smallest loss.
    fallback_norm : float
        Budgets are based on this norm if the norms of candidates are smaller.
    unconditional : Bound
        Bound for every function of the inputs.
    """
    norms = [max(each.norm, fallback_norm) for each in candidates]
    budgets = {COEF_BUDGET * norm for norm in norms}
    budgets |= {factor * max(best.norm, fallback_norm) for factor in SMALLER_BUDGETS}
    duals = [dual for each in candidates for dual in each.duals]
    # No budget is below a million times the norm of the shortest candidate.
    budgets = {budget for budget in budgets if budget >= COEF_BUDGET * min(norms)}
    bounds = [dual.bound(budget) for dual in duals for budget in budgets]
    largest = best_of(bounds, unconditional)
    if not math.isfinite(largest.norm_budget):
        return largest
    enough = unconditional.value + FULL_FRACTION * (largest.value - unconditional.value)
    # A budget above a million times the norm of the best candidate has no use.
    most_useful = COEF_BUDGET * max(best.norm, fallback_norm)
    eligible = [b for b in bounds if b.value >= enough and b.norm_budget <= most_useful]
    if not eligible:
        return largest
    longest = max(bound.norm_budget for bound in eligible)
    if longest < best.norm:
        # Prefer budgets that cover the best candidate, if the bound is not much worse.
        gain = largest.value - unconditional.value
        enough = unconditional.value + ROUGH_FRACTION * gain
        covering = [
            b for b in bounds if b.value >= enough and b.norm_budget >= best.norm
        ]
        if covering:
            return max(covering, key=lambda bound: bound.value)
    return best_of([b for b in eligible if b.norm_budget == longest], unconditional)


def rough_bound(best: Minimizer, fallback_norm: float, unconditional: Bound) -> Bound:
    """Return the bound with the largest budget among those near the largest bound."""
    bounds = [
        dual.bound(factor * max(best.norm, fallback_norm))
        for factor in ROUGH_BUDGETS
        for dual in best.duals
    ]
    largest = best_of(bounds, unconditional).value
    enough = unconditional.value + ROUGH_FRACTION * (largest - unconditional.value)
    # Bounds are ordered from the largest budget to the smallest.
    eligible = [bound for bound in bounds if bound.value >= enough]
    return best_of(eligible[:1], unconditional)
