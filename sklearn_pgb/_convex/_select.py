"""Choosing the ridge: held-out losses along a path, approximate leave-one-out."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sklearn_pgb._convex._newton import weighted_root
from sklearn_pgb._convex._problem import ConvexProblem, Solution
from sklearn_pgb._convex._solve import solve_path
from sklearn_pgb._operators import LinearOperator

# A path from strong to weak ridges is left once the held-out loss has risen this often
# in a row; the small ridges are the expensive ones.
PATIENCE = 3


@dataclass(frozen=True)
class HeldOut:
    """Samples that a problem has not seen.

    Attributes
    ----------
    operator : LinearOperator
    y : Tensor (n_samples, n_outputs)
    weight : Tensor (n_samples,)
        In the scale of the whole data, so that folds add up.
    offset : Tensor or None
    """

    operator: LinearOperator
    y: Tensor
    weight: Tensor
    offset: Tensor | None = None

    def raw(self, solution: Solution) -> Tensor:
        """Raw outputs of a solution on these samples."""
        raw = self.operator.matvec(solution.coef) + solution.intercept
        return raw if self.offset is None else raw + self.offset


def held_out_losses(
    folds: Sequence[tuple[ConvexProblem, HeldOut]],
    alphas: Sequence[float],
    max_memory: float,
    tol: float,
    max_iter: int,
) -> list[float]:
    """Mean held-out loss per ridge, folds pooled, from strong to weak ridges.

    `alphas` must descend. The list is shorter than `alphas` where the path was left.
    """
    paths = [
        solve_path(problem, alphas, max_memory=max_memory, tol=tol, max_iter=max_iter)
        for problem, _ in folds
    ]
    total = sum(float(held.weight.sum()) for _, held in folds)
    losses: list[float] = []
    for solutions in zip(*paths, strict=True):
        loss = 0.0
        for (problem, held), solution in zip(folds, solutions, strict=True):
            values = problem.loss.value(held.y, held.raw(solution))
            loss += float(held.weight @ values)
        losses.append(loss / total)
        best = min(range(len(losses)), key=losses.__getitem__)
        if len(losses) - 1 - best >= PATIENCE:
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
