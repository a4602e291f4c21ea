"""Bounds on the objective of all parameters, for models with a convex objective."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from sklearn_pgb._budget import CONVEX_FRACTION
from sklearn_pgb._certificate._quadratic import QuadraticProblem


@dataclass(frozen=True, eq=False)
class ConvexBound:
    """The minimum of a convex objective, over coefficients of any norm.

    Attributes
    ----------
    basis : str
        Row of the table whose features the objective is about.
    value : float
        Smallest objective found.
    lower_bound : float
        `value` minus CONVEX_FRACTION of the tolerance if this is proven, otherwise
        minus infinity.
    problem : QuadraticProblem
        Without redundant columns, if they are known.
    coef : Tensor
        Its coefficients with this value.
    change : Tensor (n_coef,)
        The same, with zeros for redundant columns.
    """

    basis: str
    value: float
    lower_bound: float
    problem: QuadraticProblem
    coef: Tensor
    change: Tensor

    @property
    def is_proven(self) -> bool:
        """Whether `value` is known to be the minimum."""
        return self.lower_bound > -math.inf


def convex_bound(
    basis: str,
    problem: QuadraticProblem,
    starts: Iterable[Tensor],
    constant: float,
    tolerance: float,
    max_memory: float,
) -> ConvexBound:
    """Minimize a convex objective, and prove the minimum by its curvature.

    `constant` is added to the problem's values.
    """
    candidates = [problem.zero(), *starts, problem.descend()]
    change, gap = min(candidates, key=problem.value), math.inf
    coef = change
    if problem.is_affordable(max_memory):
        kept = torch.ones(len(change), dtype=torch.bool)
        kept[problem.redundant()] = False
        whole, problem = problem, problem.select(torch.nonzero(kept)[:, 0])
        # Without redundant columns, a candidate may have another value.
        starts = change[kept], problem.zero(), problem.descend()
        coef = problem.newton(min(starts, key=problem.value))
        gap = problem.gap(coef) + problem.rounding(coef)
        change = whole.zero()
        change[kept] = coef
    value, allowed = constant + problem.attained(coef), CONVEX_FRACTION * tolerance
    bound = value - allowed if gap <= allowed else -math.inf
    return ConvexBound(basis, value, bound, problem, coef, change)
