"""Convex problems on a basis: solutions, certificates and the choice of the ridge."""

from sklearn_pgb._convex._bounds import Bound
from sklearn_pgb._convex._infimum import Infimum, infimum, is_affordable
from sklearn_pgb._convex._problem import (
    ConvexProblem,
    Solution,
    dual_value,
    finish,
    lower_bound,
)
from sklearn_pgb._convex._ridge import RidgePath, column_means, ridge_path
from sklearn_pgb._convex._ridge_grid import RidgeGrid, ridge_grid
from sklearn_pgb._convex._row_space import RowSpace
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
    choose_method,
    memory_text,
    solve,
    warn_if_unconverged,
)
from sklearn_pgb._convex._unit_basis import Spectrum, Units

__all__ = [
    "Bound",
    "ConvexProblem",
    "Fold",
    "HeldOut",
    "HeldOutPath",
    "Infimum",
    "LossScale",
    "PathSolver",
    "RidgeGrid",
    "RidgePath",
    "RowSpace",
    "Solution",
    "Spectrum",
    "Units",
    "approximate_leave_one_out",
    "choose_method",
    "column_means",
    "convex_folds",
    "dual_value",
    "finish",
    "infimum",
    "is_affordable",
    "loss_scale",
    "lower_bound",
    "memory_text",
    "ridge_grid",
    "ridge_path",
    "search_path",
    "solve",
    "warn_if_unconverged",
]
