"""Certified lower bounds without regularization, and the norms they hold up to."""

import math
from dataclasses import dataclass, replace
from typing import Self

from torch import Tensor

from sklearn_pgb._budget import PRODUCT_ULPS
from sklearn_pgb._convex._problem import ConvexProblem
from sklearn_pgb._convex._unit_basis import EPS, UnitBasis, product_rounding


@dataclass(frozen=True)
class Bound:
    """A lower bound on the loss over a basis.

    Attributes
    ----------
    value : float
        No coefficients c and intercept b with ``|[b + m c, D c]| <= norm_budget`` have
        a smaller loss. Here m holds the weighted means of the columns (zero without an
        intercept) and D the norms of the weighted columns after centering.
    norm_budget : float
        Infinite only if the bound holds for every function of the inputs.
    dual : Dual or None
        Proof of the bound; None if it holds for every function.
    """

    value: float
    norm_budget: float
    dual: "Dual | None" = None

    def within(self, *attained_losses: float) -> "Bound":
        """Cap the bound at losses that are known to be attained."""
        # Losses are NaN if outputs overflow.
        finite = [value for value in attained_losses if not math.isnan(value)]
        return replace(self, value=min([self.value, *finite]))


@dataclass(frozen=True, eq=False)
class Dual:
    """The two numbers that a bound needs of a dual point u.

    Attributes
    ----------
    value : float
        ``sum_i w_i (u_i o_i - l_i*(u_i))``, minus its rounding error.
    residual : float
        ``|[sum w u, D^-1 (Phi - m)^T W u]|``, plus its rounding error.
    point : Tensor (n_samples, n_outputs)
        The dual point u.
    """

    value: float
    residual: float
    point: Tensor

    @classmethod
    def at(cls, basis: UnitBasis, dual: Tensor) -> Self:
        """Move a dual point into the domain, and compute its terms."""
        dual = into_domain(basis.problem, dual)
        rows = basis.fold(dual)
        along = float((basis.matrix.T @ rows).norm())
        along += basis.rounding * float(rows.norm())
        return cls(conjugate_value(basis.problem, dual, basis.base), along, dual)

    @classmethod
    def of_residual(cls, basis: UnitBasis, target: Tensor, residual: Tensor) -> Self:
        """The dual point of a residual r, for the squared loss.

        It bounds by ``|t - A b|^2 >= 2 r.t - |r|^2 - 2 r.A b``.
        """
        size = float(residual.norm())
        value = size**2 + 2 * float((residual * (target - residual)).sum())
        rounding = product_rounding(1) * size * (size + float(target.norm()))
        along = 2 * float((basis.matrix.T @ residual).norm())
        along += 2 * basis.rounding * size
        return cls(value - rounding, along, -2 * basis.unfold(residual))

    def bound(self, budget: float) -> Bound:
        """The lower bound for coefficients with norms up to `budget`."""
        value = self.value - budget * self.residual
        value = value if math.isfinite(value) else -math.inf
        return Bound(value, budget, self)


def unconditional_bound(problem: ConvexProblem, floor: float = -math.inf) -> Bound:
    """A bound for every function: the larger of the samples' minima and `floor`."""
    minima = float(problem.weight @ problem.loss.minimum(problem.y))
    return Bound(minima if math.isnan(floor) else max(minima, floor), math.inf)


def into_domain(problem: ConvexProblem, dual: Tensor) -> Tensor:
    """Project a dual point that rounding moved out of the conjugates' domain."""
    lower, upper = problem.loss.dual_bounds(problem.y)
    dual = dual.clamp(lower, upper)
    if problem.loss.dual_rows_sum_to_zero:
        # Dual points are probabilities minus targets, so the probabilities are
        # normalized again. If the fit is good, (u + y) / sum(u + y) - y would lose
        # digits.
        excess = dual.sum(1, keepdim=True)
        dual = (dual - problem.y * excess) / (1 + excess)
    return dual


def conjugate_value(problem: ConvexProblem, dual: Tensor, base: Tensor) -> float:
    """``sum_i w_i (u_i o_i - l_i*(u_i))`` minus the rounding of its terms."""
    conjugate = problem.loss.conjugate(problem.y, dual)
    along = (dual * base).sum(1)
    value = float(problem.weight @ (along - conjugate))
    sizes = (dual * base).abs().sum(1) + problem.loss.conjugate_size(problem.y, dual)
    return value - PRODUCT_ULPS * EPS * float(problem.weight @ sizes)


def best_of(bounds: list[Bound], unconditional: Bound) -> Bound:
    """The largest bound; in a tie the unconditional one."""
    best = max(bounds, key=lambda bound: bound.value, default=unconditional)
    # The unconditional bound holds for coefficients of any norm, so it wins a tie.
    return best if best.value > unconditional.value else unconditional
