"""Choosing the ridge: held-out losses along a path, approximate leave-one-out."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sklearn_pgb._convex._newton import weighted_root
from sklearn_pgb._convex._problem import ConvexProblem, Solution
from sklearn_pgb._convex._solve import PathSolver
from sklearn_pgb._operators import LinearOperator

# How well the objective must be solved to compare ridges; held-out losses of neighbours
# on the path differ by far more.
COMPARISON_TOL = 3e-3


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
        self._solvers = [PathSolver(f.problem, "auto", max_memory) for f in folds]

    def loss(self, alpha: float) -> float:
        """Mean loss on the held-out samples."""
        near = min(
            self.solutions, key=lambda a: abs(math.log(a / alpha)), default=None
        )
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
    loss: Callable[[float], float], alphas: Sequence[float], stride: int
) -> dict[float, float]:
    """Losses of the ridges that a search of descending `alphas` has looked at.

    Walks from strong to weak ridges in steps of `stride` candidates and stops once the
    loss has risen: the weak ridges are the expensive ones. Then it looks at both sides
    of the best with half the step, until the step is one candidate. With a stride of
    one, the walk ends after two rises in a row.
    """
    seen: dict[int, float] = {}

    def look(index: int) -> None:
        if 0 <= index < len(alphas) and index not in seen:
            seen[index] = loss(float(alphas[index]))

    patience = 1 if stride > 1 else 2
    for index in range(0, len(alphas), stride):
        look(index)
        if index - min(seen, key=seen.__getitem__) >= patience * stride:
            break
    while stride > 1:
        stride //= 2
        best = min(seen, key=seen.__getitem__)
        look(best - stride)
        look(best + stride)
    return {float(alphas[index]): seen[index] for index in sorted(seen)}


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
    matrix.diagonal().add_(penalty + 1e-12 * matrix.diagonal().mean())
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
