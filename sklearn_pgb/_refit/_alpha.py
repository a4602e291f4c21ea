"""How the refit chooses its ridge."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sklearn_pgb._convex import (
    ConvexProblem,
    HeldOut,
    RidgePath,
    approximate_leave_one_out,
    choose_method,
    held_out_losses,
    ridge_path,
    solve_path,
)

# Candidates in units of a basis with mean squared row norm one. Far below the smallest
# the basis is numerically exhausted, above the largest nothing is left but the intercept.
SQUARED_LOSS_ALPHAS = np.logspace(1, -10, 45)
OTHER_ALPHAS = np.logspace(1, -7, 33)

# Up to this size of the smaller side of the basis a Newton step is a dense
# factorisation, and its leverages give leave-one-out for free.
DENSE_SIZE = 1500

PATH_TOL = 1e-4


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


def candidates(alpha: object, quadratic: bool) -> np.ndarray:
    """The user's candidates in descending order, or the default ones."""
    if not isinstance(alpha, str):
        return np.unique(np.asarray(alpha, dtype=float))[::-1]
    return SQUARED_LOSS_ALPHAS if quadratic else OTHER_ALPHAS


def by_leave_one_out(
    problem: ConvexProblem, path: RidgePath, alphas: np.ndarray, total_weight: float
) -> AlphaChoice:
    """Squared loss: closed form for every candidate from one eigendecomposition.

    A row left out is one unit of its weight, so integer weights equal repetition; a row
    that weighs less than one is left out whole.
    """
    weight = problem.weight
    unit = (1.0 / (weight * total_weight)).clamp(max=1.0)
    errors = path.leave_one_out(torch.as_tensor(alphas.copy(), dtype=weight.dtype), unit)
    scores = torch.einsum("i,aic->a", weight, errors.square()).cpu().numpy()
    best = int(np.argmin(scores))
    return AlphaChoice(float(alphas[best]), alphas, scores, problem.y - errors[best])


def by_evidence(
    path: RidgePath, alphas: np.ndarray, total_weight: float
) -> AlphaChoice:
    """Squared loss: the ridge of the largest marginal likelihood."""
    grid = torch.as_tensor(alphas.copy(), dtype=path.eigenvalues.dtype)
    scores = -path.log_evidence(grid, total_weight).cpu().numpy()
    return AlphaChoice(float(alphas[int(np.argmin(scores))]), alphas, scores)


def by_approximate_leave_one_out(
    problem: ConvexProblem, alphas: np.ndarray, total_weight: float, effort: Effort
) -> AlphaChoice:
    """Other losses, dense problems: one Newton step per sample at each solution."""
    unit = (1.0 / (problem.weight * total_weight)).clamp(max=1.0)
    scores, raws = [], []
    path = solve_path(
        problem,
        alphas,
        max_memory=effort.max_memory,
        tol=PATH_TOL,
        max_iter=effort.max_iter,
    )
    for alpha, solution in zip(alphas, path, strict=True):
        current = problem.with_alpha(alpha)
        raws.append(approximate_leave_one_out(current, solution, unit))
        scores.append(float(problem.data_value(raws[-1])))
    best = int(np.nanargmin(scores))
    return AlphaChoice(float(alphas[best]), alphas, np.array(scores), raws[best])


def by_held_out(
    folds: Sequence[tuple[ConvexProblem, HeldOut, np.ndarray]],
    problem: ConvexProblem,
    alphas: np.ndarray,
    effort: Effort,
) -> AlphaChoice:
    """Mean loss on rows that a fold's problem has not seen.

    The ridge that wins on the folds' share of the data is scaled by that share for all
    rows: the strength of a ridge against a mean loss falls with the amount of data.
    """
    pairs = [(fold, held) for fold, held, _ in folds]
    scores = np.array(
        held_out_losses(pairs, alphas, effort.max_memory, PATH_TOL, effort.max_iter)
    )
    best = int(np.argmin(scores))
    raw = _held_out_raw(folds, problem, float(alphas[best]), effort)
    share = 1.0 - sum(float(held.weight.sum()) for _, held in pairs) / len(pairs)
    return AlphaChoice(
        float(alphas[best]) * share, alphas[: len(scores)] * share, scores, raw
    )


def _held_out_raw(
    folds: Sequence[tuple[ConvexProblem, HeldOut, np.ndarray]],
    problem: ConvexProblem,
    alpha: float,
    effort: Effort,
) -> Tensor | None:
    """Raw outputs of the held-out rows, where they are wanted and complete."""
    rows = np.concatenate([index for _, _, index in folds])
    if not problem.loss.quadratic or len(np.unique(rows)) < len(problem.y):
        return None
    raw = torch.zeros_like(problem.y)
    for fold, held, index in folds:
        path = solve_path(
            fold, [alpha], max_memory=effort.max_memory, max_iter=effort.max_iter
        )
        raw[torch.as_tensor(index)] = held.raw(next(path))
    return raw


def convex_folds(
    problem: ConvexProblem, parts: Sequence[tuple[np.ndarray, np.ndarray]]
) -> list[tuple[ConvexProblem, HeldOut, np.ndarray]]:
    """Folds of the convex problem alone; its features have seen all rows."""
    folds = []
    for train, test in parts:
        index = torch.as_tensor(test)
        held = HeldOut(
            problem.operator.rows(index),
            problem.y[index],
            problem.weight[index],
            None if problem.offset is None else problem.offset[index],
        )
        folds.append((problem.rows(torch.as_tensor(train)), held, test))
    return folds


def is_dense(problem: ConvexProblem) -> bool:
    """Whether leave-one-out by a Newton step is cheap."""
    operator = problem.operator
    return min(operator.n_rows, operator.n_coef) <= DENSE_SIZE


def spectral_path(
    problem: ConvexProblem, solver: str, max_memory: float
) -> RidgePath | None:
    """One eigendecomposition for all ridges, None where it does not fit."""
    probe = problem.with_alpha(1.0)
    method = choose_method(probe, max_memory) if solver == "auto" else solver
    if method == "matrix-free":
        return None
    return ridge_path(problem, dual=method == "dual")
