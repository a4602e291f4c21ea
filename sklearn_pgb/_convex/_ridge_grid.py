"""Squared loss: solutions and held-out outputs for many alphas and offsets."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sklearn_pgb._convex._problem import ConvexProblem
from sklearn_pgb._convex._ridge import column_means, ridge_path
from sklearn_pgb._operators._operator import LinearOperator


@dataclass(frozen=True, eq=False)
class RidgeGrid:
    """Solutions for a grid of centers (offsets) and alphas.

    Attributes
    ----------
    solutions : Tensor (n_centers, n_alphas, n_coef or n_rows)
        Coefficients of the columns or, if `dual`, of the centered rows of the basis.
    intercepts : Tensor (n_centers, n_alphas, n_outputs)
    dual : bool
    """

    solutions: Tensor
    intercepts: Tensor
    dual: bool

    def coefficients(
        self, center: int, alpha: int, operator: LinearOperator
    ) -> tuple[Tensor, Tensor]:
        """Coefficients and intercept at the given indices of the grid.

        `operator` is the basis on the training samples.
        """
        solution = self.solutions[center, alpha]
        intercept = self.intercepts[center, alpha]
        if not self.dual:
            return solution, intercept
        rows = solution.reshape(operator.n_samples, operator.n_outputs)
        return operator.rmatvec(rows), intercept


def ridge_grid(
    problem: ConvexProblem,
    heldout: LinearOperator,
    offsets: Sequence[tuple[Tensor, Tensor] | None],
    alphas: Tensor,
    dual: bool,
) -> tuple[RidgeGrid, Tensor]:
    """Solve for every center and alpha from one eigendecomposition.

    Also returns the held-out raw outputs, (n_centers, n_alphas, n_heldout, n_outputs).

    Parameters
    ----------
    heldout : LinearOperator
        The basis on the held-out samples.
    offsets : sequence of pairs of Tensor, or None
        For each center, the fixed part of the raw outputs on the training and on the
        held-out samples.
    dual : bool
        Whether to decompose the Gram matrix instead of the normal matrix.
    """
    path = ridge_path(replace(problem, offset=None), dual)
    n, k = problem.y.shape
    root = problem.weight.sqrt()[:, None]
    curvature = path.eigenvalues[:, None] + alphas / 2
    # If alpha = 0, leave out directions below rounding.
    largest = torch.linalg.vector_norm(path.eigenvalues)
    rounding = torch.finfo(curvature.dtype).eps * len(curvature) * largest
    shrink = torch.where(curvature > rounding, 1.0 / curvature, 0.0)
    solved, means = [], []
    for offset in offsets:
        # Only the targets depend on the offset, so the decomposition is reused.
        base = problem.y if offset is None else problem.y - offset[0]
        mean = problem.weight @ base if problem.intercept else base.new_zeros(k)
        centered = base - mean
        if dual:
            moment = (root * centered).reshape(-1)
        else:
            moment = problem.operator.rmatvec(problem.weight[:, None] * centered)
        solution = path.vectors @ (shrink * (path.vectors.T @ moment)[:, None])
        if dual:
            solution = (root[:, :, None] * solution.reshape(n, k, -1)).flatten(0, 1)
        solved.append(solution.T)
        means.append(mean)
    solutions = torch.stack(solved)
    flat = solutions.flatten(0, 1)
    shape = (len(offsets), len(alphas))
    # The solutions are for centered columns; the intercept accounts for the means.
    centers = column_means(problem)
    if dual:
        # In the dual, the coefficients are Phi^T times the solution, so multiply the
        # means by Phi.
        matvec = problem.operator.matvec
        centers = torch.stack([matvec(row).reshape(-1) for row in centers])
    shift = flat @ centers.T
    intercepts = torch.stack(means)[:, None] - shift.reshape(*shape, k)
    raw = _raw(problem.operator, heldout, flat, dual).reshape(*shape, -1, k)
    raw += intercepts[:, :, None]
    for index, offset in enumerate(offsets):
        if offset is not None:
            raw[index] += offset[1]
    return RidgeGrid(solutions, intercepts, dual), raw


def _raw(
    training: LinearOperator, operator: LinearOperator, solutions: Tensor, dual: bool
) -> Tensor:
    """Basis times each solution, (n_solutions, n_samples, n_outputs)."""
    k = operator.n_outputs
    if dual:
        product = operator.cross_gram(training) @ solutions.T
        return product.T.reshape(len(solutions), -1, k)
    parts = [
        torch.einsum("icp,ap->aic", dense, solutions) for _, dense in operator.blocks()
    ]
    return torch.cat(parts, 1)
