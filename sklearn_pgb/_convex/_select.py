"""Choosing the ridge: held-out losses along a path, approximate leave-one-out."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sklearn_pgb._convex._newton import weighted_root
from sklearn_pgb._convex._problem import ConvexProblem, Solution
from sklearn_pgb._convex._solve import PathSolver
from sklearn_pgb._operators import LinearOperator

# Relative rises of a held-out loss: one that noise does not explain, and one that is no
# plateau.
CLEAR_RISE, RISE = 0.01, 0.001

# Ridges that are looked at in any case. Next to nothing is left of the basis at the
# strongest, and a rise there, of folds with other class frequencies than all rows, say,
# tells nothing of weaker ones.
STRONGEST = 7

# A comparison of ridges stops Newton after a step that promised this share of the
# objective: what is left then is of the order of its square, below what neighbours on
# the path differ by.
COMPARISON_TOL = 0.1


@dataclass(frozen=True)
class HeldOut:
    """Samples that a problem has not seen.

    Attributes
    ----------
    index : Tensor (n_samples,)
        Their numbers among all samples.
    operator : LinearOperator
    y : Tensor (n_samples, n_outputs)
    weight : Tensor (n_samples,)
        In the scale of the whole data, so that folds add up.
    offset : Tensor or None
    """

    index: Tensor
    operator: LinearOperator
    y: Tensor
    weight: Tensor
    offset: Tensor | None = None

    def raw(self, solution: Solution) -> Tensor:
        """Raw outputs of a solution on these samples."""
        raw = self.operator.matvec(solution.coef) + solution.intercept
        return raw if self.offset is None else raw + self.offset


@dataclass(frozen=True)
class Fold:
    """A problem on some samples, and samples that it has not seen."""

    problem: ConvexProblem
    held: HeldOut


def convex_folds(
    problem: ConvexProblem,
    parts: Sequence[tuple[NDArray[np.intp], NDArray[np.intp]]],
) -> list[Fold]:
    """Folds of a convex problem by (train, held out) rows."""
    folds = []
    for train, test in parts:
        index = torch.as_tensor(test, device=problem.y.device)
        held = HeldOut(
            index,
            problem.operator.rows(index),
            problem.y[index],
            problem.weight[index],
            None if problem.offset is None else problem.offset[index],
        )
        seen = torch.as_tensor(train, device=problem.y.device)
        folds.append(Fold(problem.rows(seen), held))
    return folds


class HeldOutPath:
    """Held-out loss of a ridge, folds pooled, with warm starts between ridges.

    Attributes
    ----------
    solutions : dict of float to list of Solution
        The folds' solutions by ridge.
    """

    def __init__(self, folds: Sequence[Fold], max_memory: float, max_iter: int):
        self.folds = folds
        self.max_iter = max_iter
        self.solutions: dict[float, list[Solution]] = {}
        # The method is chosen for problems with a ridge, whatever the folds' own is.
        self._solvers = [
            PathSolver(fold.problem.with_alpha(1.0), "auto", max_memory)
            for fold in folds
        ]

    def loss(self, alpha: float) -> float:
        """Mean loss on the held-out samples."""
        near = min(self.solutions, key=lambda a: abs(math.log(a / alpha)), default=None)
        starts = [None] * len(self.folds) if near is None else self.solutions[near]
        self.solutions[alpha] = [
            solver.solve(
                alpha,
                None if start is None else (start.coef, start.intercept),
                COMPARISON_TOL,
                self.max_iter,
                certified=False,
            )
            for solver, start in zip(self._solvers, starts, strict=True)
        ]
        values = [
            fold.held.weight @ fold.problem.loss.value(fold.held.y, fold.held.raw(s))
            for fold, s in zip(self.folds, self.solutions[alpha], strict=True)
        ]
        total = sum(float(fold.held.weight.sum()) for fold in self.folds)
        return float(sum(values)) / total


def search_path(
    loss: Callable[[float], float], alphas: Sequence[float]
) -> dict[float, float]:
    """Losses of the ridges from the strongest down to where they keep rising.

    `alphas` descend. After the STRONGEST the walk ends at a loss CLEAR_RISE above the
    best, or at the second RISE since the best: the weak ridges are the expensive ones,
    and the loss rises once they fit the noise.
    """
    losses: dict[float, float] = {}
    for step, alpha in enumerate(alphas):
        losses[alpha] = loss(alpha)
        if step + 1 < STRONGEST:
            continue
        values = list(losses.values())
        best = min(values)
        since = [value - best for value in values[values.index(best) :]]
        rises = sum(rise > RISE * abs(best) for rise in since)
        if rises >= 2 or since[-1] > CLEAR_RISE * abs(best):
            break
    return losses


def approximate_leave_one_out(
    problem: ConvexProblem, solution: Solution, unit: Tensor
) -> Tensor:
    """Raw outputs for each sample without it, by one Newton step from the solution.

    ``q_i + A_i (I - D_i A_i)^-1 g_i`` with A_i = J_i H^-1 J_i^T, where g_i and D_i are
    the gradient and Hessian of the loss that is left out: w_i l_i times `unit`. Exact
    for the squared loss.
    """
    augmented = problem.augmented()
    root = weighted_root(problem, solution.raw)
    matrix = augmented.normal(root)
    penalty = torch.full_like(matrix.diagonal(), problem.alpha)
    penalty[problem.operator.n_coef :] = 0.0
    penalty += 1e-12 * matrix.diagonal() + torch.finfo(matrix.dtype).tiny
    if problem.intercept and problem.loss.dual_rows_sum_to_zero:
        # What is added to all outputs has no effect; any curvature holds it.
        constant = matrix[problem.operator.n_coef :, problem.operator.n_coef :]
        constant += constant.diagonal().mean()
    matrix.diagonal().add_(penalty)
    factor = torch.linalg.cholesky(matrix)
    blocks = root if root.ndim == 3 else torch.diag_embed(root)
    hessian = unit[:, None, None] * (blocks.mT @ blocks)
    gradient = unit[:, None] * problem.residual(solution.raw)
    raw = solution.raw.clone()
    for rows, dense in augmented.blocks():
        half = torch.linalg.solve_triangular(
            factor, dense.flatten(0, 1).T, upper=False
        ).T.reshape(dense.shape)
        A = half @ half.mT
        eye = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
        system = eye - hessian[rows] @ A
        step = torch.linalg.solve(system, gradient[rows, :, None])
        raw[rows] += (A @ step)[..., 0]
    return raw
