"""Convex problems on a basis: solutions, certificates and the choice of the ridge."""

from sklearn_pgb._convex._bounds import SpanBound, span_bound
from sklearn_pgb._convex._problem import ConvexProblem, Solution, lower_bound
from sklearn_pgb._convex._ridge import RidgePath, column_means, ridge_path
from sklearn_pgb._convex._select import (
    HeldOut,
    approximate_leave_one_out,
    held_out_losses,
)
from sklearn_pgb._convex._solve import (
    choose_method,
    solve,
    solve_path,
    warn_if_unconverged,
)

__all__ = [
    "ConvexProblem",
    "HeldOut",
    "RidgePath",
    "Solution",
    "SpanBound",
    "approximate_leave_one_out",
    "choose_method",
    "column_means",
    "held_out_losses",
    "lower_bound",
    "ridge_path",
    "solve",
    "solve_path",
    "span_bound",
    "warn_if_unconverged",
]
