"""Choice of the regularization strength of a convex model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sklearn_pgb._budget import DENSE_SIZE, ENOUGH_ROWS
from sklearn_pgb._convex._problem import ConvexProblem, Solution
from sklearn_pgb._convex._ridge import RidgePath, ridge_path
from sklearn_pgb._convex._select import (
    Fold,
    HeldOutPath,
    approximate_leave_one_out,
    search_path,
)
from sklearn_pgb._convex._solve import PathSolver, choose_method
from sklearn_pgb._estimator._folds import Parts, distinct_rows
from sklearn_pgb._sklearn import _safe_indexing

# Candidates for a basis with mean squared row norm one. Smaller ones make no numerical
# difference; larger ones leave only the intercept.
SQUARED_LOSS_ALPHAS = np.logspace(1, -10, 45)
OTHER_ALPHAS = np.logspace(0, -8, 17)


@dataclass(frozen=True)
class AlphaChoice:
    """The chosen alpha, with the scores of all candidates.

    Attributes
    ----------
    alpha : float
    alphas : ndarray (n_candidates,)
    scores : ndarray (n_candidates,)
        Mean held-out loss or negative log evidence of each candidate.
    raw : Tensor (n_samples, n_outputs) or None
        Held-out raw outputs of each sample at `alpha`.
    """

    alpha: float
    alphas: np.ndarray
    scores: np.ndarray
    raw: Tensor | None = None


@dataclass(frozen=True)
class Effort:
    """Limits of the solvers: memory in bytes, tolerance and iterations."""

    max_memory: float
    tol: float
    max_iter: int


def fixed(alpha: float) -> AlphaChoice:
    """Wrap an alpha given by the user."""
    return AlphaChoice(float(alpha), np.array([float(alpha)]), np.array([np.nan]))


def can_leave_out(problem: ConvexProblem, total_weight: float) -> bool:
    """Whether leave-one-out is possible: two samples, or a total weight above one."""
    return len(problem.weight) > 1 or total_weight > 1.0


def candidates(alpha: object, quadratic: bool) -> np.ndarray:
    """Return the user's candidates, or the default ones, in descending order."""
    if not isinstance(alpha, str):
        return np.unique(np.asarray(alpha, dtype=float))[::-1]
    return SQUARED_LOSS_ALPHAS if quadratic else OTHER_ALPHAS


def enough(parts: Parts, X: Any) -> int:
    """Count the first folds that together hold out ENOUGH_ROWS, at most all of them.

    Duplicate samples count once, so that integer weights equal repetition.
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
    """Choose alpha for the squared loss by leave-one-out in closed form.

    Leaving a sample out removes one unit of its weight, so that integer weights equal
    repetition. A sample with weight below one is removed entirely.
    """
    weight = problem.weight
    removed = (1.0 / (weight * total_weight)).clamp(max=1.0)
    errors = path.leave_one_out(
        torch.as_tensor(alphas.copy(), dtype=weight.dtype), removed
    )
    scores = torch.einsum("i,aic->a", weight, errors.square()).cpu().numpy()
    best = int(np.argmin(scores))
    return AlphaChoice(float(alphas[best]), alphas, scores, problem.y - errors[best])


def by_evidence(
    path: RidgePath, alphas: np.ndarray, total_weight: float
) -> AlphaChoice:
    """Choose the alpha with the largest marginal likelihood, for the squared loss."""
    grid = torch.as_tensor(alphas.copy()).to(path.eigenvalues)
    scores = -path.log_evidence(grid, total_weight).cpu().numpy()
    return AlphaChoice(float(alphas[int(np.argmin(scores))]), alphas, scores)


def by_approximate_leave_one_out(
    problem: ConvexProblem,
    alphas: np.ndarray,
    total_weight: float,
    effort: Effort,
) -> AlphaChoice:
    """Choose alpha for any loss by leave-one-out, with one Newton step per sample."""
    removed = (1.0 / (problem.weight * total_weight)).clamp(max=1.0)
    solver = PathSolver(problem, "auto", effort.max_memory)
    solution: Solution | None = None

    def loss(alpha: float) -> float:
        nonlocal solution
        start = None if solution is None else (solution.coef, solution.intercept)
        solution = solver.solve(alpha, start, effort.tol, effort.max_iter)
        current = problem.with_alpha(alpha)
        raw = approximate_leave_one_out(current, solution, removed)
        return float(problem.data_value(raw))

    return _best(search_path(loss, alphas.tolist()))


def by_held_out(
    folds: Sequence[Fold],
    problem: ConvexProblem,
    alphas: np.ndarray,
    effort: Effort,
) -> tuple[AlphaChoice, list[Solution]]:
    """Choose the alpha with the smallest mean loss on held-out samples.

    The best alpha is multiplied by the folds' fraction of the data: the optimal penalty
    of a mean loss decreases with the number of samples.

    Returns
    -------
    AlphaChoice, solutions of the folds at their best alpha
    """
    path = HeldOutPath(folds, effort.max_memory, effort.max_iter)
    choice = _best(search_path(path.loss, alphas.tolist()))
    solutions = path.solutions[choice.alpha]
    left_out = sum(float(fold.held.weight.sum()) for fold in folds) / len(folds)
    training_fraction = 1.0 - left_out
    choice = AlphaChoice(
        choice.alpha * training_fraction,
        choice.alphas * training_fraction,
        choice.scores,
        _held_out_raw(folds, problem, solutions),
    )
    return choice, solutions


def _best(losses: dict[float, float]) -> AlphaChoice:
    """Choose the alpha with the smallest loss."""
    alphas = np.array(list(losses))
    scores = np.array(list(losses.values()))
    return AlphaChoice(float(alphas[np.nanargmin(scores)]), alphas, scores)


def _held_out_raw(
    folds: Sequence[Fold], problem: ConvexProblem, solutions: Sequence[Solution]
) -> Tensor | None:
    """Return held-out raw outputs, or None if some sample was never held out."""
    raw = torch.full_like(problem.y, torch.nan)
    for fold, solution in zip(folds, solutions, strict=True):
        raw[fold.held.index] = fold.held.raw(solution)
    return None if bool(raw.isnan().any()) else raw


def is_dense(problem: ConvexProblem) -> bool:
    """Whether the problem is small enough for approximate leave-one-out."""
    operator = problem.operator
    return min(operator.n_rows, operator.n_coef) <= DENSE_SIZE


def spectral_path(
    problem: ConvexProblem, solver: str, max_memory: float
) -> RidgePath | None:
    """Return an eigendecomposition for all alphas, or None if it exceeds the memory."""
    probe = problem.with_alpha(1.0)
    method = choose_method(probe, max_memory, solver)
    if method == "matrix-free":
        return None
    return ridge_path(problem, dual=method == "dual")
