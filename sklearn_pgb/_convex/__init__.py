"""Convex problems on a basis: solutions, certificates and the choice of the ridge."""

from sklearn_pgb._convex._bounds import SpanBound, span_bound
from sklearn_pgb._convex._infimum import Infimum, Spectrum, infimum
from sklearn_pgb._convex._problem import (
    ConvexProblem,
    Solution,
    dual_value,
    finish,
    lower_bound,
)
from sklearn_pgb._convex._ridge import RidgePath, column_means, ridge_path
from sklearn_pgb._convex._scale import LossScale, loss_scale
from sklearn_pgb._convex._select import (
    Fold,
    HeldOut,
    HeldOutPath,
    approximate_leave_one_out,
    convex_folds,
    search_path,
)
from sklearn_pgb._convex._solve import (
    PathSolver,
    SequenceSolver,
    choose_method,
    solve,
    warn_if_unconverged,
)

__all__ = [
    "ConvexProblem",
    "Fold",
    "HeldOut",
    "HeldOutPath",
    "Infimum",
    "LossScale",
    "PathSolver",
    "RidgePath",
    "SequenceSolver",
    "Solution",
    "SpanBound",
    "Spectrum",
    "approximate_leave_one_out",
    "choose_method",
    "column_means",
    "convex_folds",
    "dual_value",
    "finish",
    "infimum",
    "loss_scale",
    "lower_bound",
    "ridge_path",
    "search_path",
    "solve",
    "span_bound",
    "warn_if_unconverged",
]
