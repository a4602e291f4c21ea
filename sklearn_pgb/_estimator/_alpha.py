"""How a convex model chooses its ridge."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.utils import _safe_indexing
from torch import Tensor

from sklearn_pgb._convex._problem import ConvexProblem, Solution
from sklearn_pgb._convex._ridge import RidgePath, ridge_path
from sklearn_pgb._convex._select import (
    Fold,
    HeldOutPath,
    approximate_leave_one_out,
    search_path,
)
from sklearn_pgb._convex._solve import PathSolver, choose_method
from sklearn_pgb._estimator._border import Parts, distinct_rows

# Candidates in units of a basis with mean squared row norm one. Far below the smallest
# the basis is numerically exhausted, above the largest only the intercept is left.
SQUARED_LOSS_ALPHAS = np.logspace(1, -10, 45)
OTHER_ALPHAS = np.logspace(0, -8, 17)

# Up to this size of the smaller side of the basis a Newton step is a dense
# factorisation, and its leverages give leave-one-out for free.
DENSE_SIZE = 1500

# Distinct held-out rows that are enough to compare ridges. Folds beyond them, each with
# a path of its own, would cost time and memory and not change the choice. The squared
# loss, in closed form, takes all folds: their errors also say what the noise is.
ENOUGH_ROWS = 1000


@dataclass(frozen=True)
class AlphaChoice:
    """A ridge and what it was chosen by.

    Attributes
    ----------
    alpha : float
    alphas : ndarray (n_candidates,)
    scores : ndarray (n_candidates,)
        Mean held-out loss of each, or minus the log evidence.
    raw : Tensor (n_samples, n_outputs) or None
        Raw outputs for each sample by a model that has not seen it, at `alpha`.
    """

    alpha: float
    alphas: np.ndarray
    scores: np.ndarray
    raw: Tensor | None = None


@dataclass(frozen=True)
class Effort:
    """What the solvers may spend."""

    max_memory: float
    tol: float
    max_iter: int


def fixed(alpha: float) -> AlphaChoice:
    """No choice at all."""
    return AlphaChoice(float(alpha), np.array([float(alpha)]), np.array([np.nan]))


def can_leave_out(problem: ConvexProblem, total_weight: float) -> bool:
    """Whether anything is left when one unit of weight, or a whole row, is not."""
    return len(problem.weight) > 1 or total_weight > 1.0


def candidates(alpha: object, quadratic: bool) -> np.ndarray:
    """The user's candidates or the default ones, in descending order."""
    if not isinstance(alpha, str):
        return np.unique(np.asarray(alpha, dtype=float))[::-1]
    return SQUARED_LOSS_ALPHAS if quadratic else OTHER_ALPHAS


def enough(parts: Parts, X: Any) -> int:
    """How many of the folds hold out ENOUGH_ROWS together, or all of them.

    Copies of a row count once, so that integer weights equal repetition.
    """
    total = 0
    for count, (_, held_out) in enumerate(parts, 1):
        total += int(distinct_rows(_safe_indexing(X, held_out)).max()) + 1
        if total >= ENOUGH_ROWS:
            return count
    return len(parts)


def by_leave_one_out(
    problem: ConvexProblem, path: RidgePath, alphas: np.ndarray, total_weight: float
) -> AlphaChoice:
    """Squared loss: closed form for every candidate from one eigendecomposition.

    A row left out is one unit of its weight, so integer weights equal repetition; a row
    that weighs less than one is left out whole.
    """
    weight = problem.weight
    unit = (1.0 / (weight * total_weight)).clamp(max=1.0)
    errors = path.leave_one_out(
        torch.as_tensor(alphas.copy(), dtype=weight.dtype), unit
    )
    scores = torch.einsum("i,aic->a", weight, errors.square()).cpu().numpy()
    best = int(np.argmin(scores))
    return AlphaChoice(float(alphas[best]), alphas, scores, problem.y - errors[best])


def by_evidence(
    path: RidgePath, alphas: np.ndarray, total_weight: float
) -> AlphaChoice:
    """Squared loss: the ridge of the largest marginal likelihood."""
    grid = torch.as_tensor(alphas.copy()).to(path.eigenvalues)
    scores = -path.log_evidence(grid, total_weight).cpu().numpy()
    return AlphaChoice(float(alphas[int(np.argmin(scores))]), alphas, scores)


def by_approximate_leave_one_out(
    problem: ConvexProblem,
    alphas: np.ndarray,
    total_weight: float,
    effort: Effort,
) -> AlphaChoice:
    """Other losses, dense problems: one Newton step per sample at each solution."""
    unit = (1.0 / (problem.weight * total_weight)).clamp(max=1.0)
    solver = PathSolver(problem, "auto", effort.max_memory)
    solution: Solution | None = None

    def loss(alpha: float) -> float:
        nonlocal solution
        start = None if solution is None else (solution.coef, solution.intercept)
        solution = solver.solve(alpha, start, effort.tol, effort.max_iter)
        current = problem.with_alpha(alpha)
        raw = approximate_leave_one_out(current, solution, unit)
        return float(problem.data_value(raw))

    return _best(search_path(loss, alphas.tolist()))


def by_held_out(
    folds: Sequence[Fold],
    problem: ConvexProblem,
    alphas: np.ndarray,
    effort: Effort,
) -> tuple[AlphaChoice, list[Solution]]:
    """Mean loss on rows that a fold's problem has not seen.

    The ridge that wins on the folds' share of the data is scaled by that share for all
    rows: the strength of a ridge against a mean loss falls with the amount of data.

    Returns
    -------
    AlphaChoice, solutions of the folds at the winning ridge
    """
    path = HeldOutPath(folds, effort.max_memory, effort.max_iter)
    choice = _best(search_path(path.loss, alphas.tolist()))
    solutions = path.solutions[choice.alpha]
    left_out = sum(float(fold.held.weight.sum()) for fold in folds) / len(folds)
    share = 1.0 - left_out
    choice = AlphaChoice(
        choice.alpha * share,
        choice.alphas * share,
        choice.scores,
        _held_out_raw(folds, problem, solutions),
    )
    return choice, solutions


def _best(losses: dict[float, float]) -> AlphaChoice:
    """The ridge of the smallest loss."""
    alphas = np.array(list(losses))
    scores = np.array(list(losses.values()))
    return AlphaChoice(float(alphas[np.nanargmin(scores)]), alphas, scores)


def _held_out_raw(
    folds: Sequence[Fold], problem: ConvexProblem, solutions: Sequence[Solution]
) -> Tensor | None:
    """Raw outputs of the held-out rows, None where some row was never held out."""
    raw = torch.full_like(problem.y, torch.nan)
    for fold, solution in zip(folds, solutions, strict=True):
        raw[fold.held.index] = fold.held.raw(solution)
    return None if bool(raw.isnan().any()) else raw


def is_dense(problem: ConvexProblem) -> bool:
    """Whether leave-one-out by a Newton step is cheap."""
    operator = problem.operator
    return min(operator.n_rows, operator.n_coef) <= DENSE_SIZE


def spectral_path(
    problem: ConvexProblem, solver: str, max_memory: float
) -> RidgePath | None:
    """One eigendecomposition for all ridges, None where it does not fit."""
    probe = problem.with_alpha(1.0)
    method = choose_method(probe, max_memory, solver)
    if method == "matrix-free":
        return None
    return ridge_path(problem, dual=method == "dual")
