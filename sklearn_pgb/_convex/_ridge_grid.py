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

    Weights (n_centers, n_alphas, n_coef or n_rows) are coefficients of the basis or, in
    the dual, of its centered rows. Intercepts are (n_centers, n_alphas, n_outputs).
    """

    weights: Tensor
    intercepts: Tensor
    dual: bool

    def coefficients(
        self, center: int, alpha: int, operator: LinearOperator
    ) -> tuple[Tensor, Tensor]:
        """Coefficients and intercept at the given indices of the grid.

        `operator` is the basis on the training samples.
        """
        weights, intercept = self.weights[center, alpha], self.intercepts[center, alpha]
        if not self.dual:
            return weights, intercept
        rows = weights.reshape(operator.n_samples, operator.n_outputs)
        return operator.rmatvec(rows), intercept


def ridge_grid(
    problem: ConvexProblem,
    heldout: LinearOperator,
    offsets: Sequence[tuple[Tensor, Tensor] | None],
    alphas: Tensor,
    dual: bool,
) -> tuple[RidgeGrid, Tensor]:
    """Solve for every center and alpha from one eigendecomposition.

    `heldout` is the same basis on the held-out samples. For each center, `offsets` has
    the fixed part of the raw outputs on the training and on the held-out samples. In
    the dual, the Gram matrix is decomposed instead of the normal matrix. The second
    result are held-out raw outputs (n_centers, n_alphas, n_heldout, n_outputs).
    """
    path = ridge_path(replace(problem, offset=None), dual)
    n, k = problem.y.shape
    root = problem.weight.sqrt()[:, None]
    curvature = path.eigenvalues[:, None] + alphas / 2
    # If alpha = 0, leave out directions below rounding.
    largest = torch.linalg.vector_norm(path.eigenvalues)
    rounding = torch.finfo(curvature.dtype).eps * len(curvature) * largest
    shrink = torch.where(curvature > rounding, 1.0 / curvature, 0.0)
    solutions, means = [], []
    for offset in offsets:
        # Only the targets depend on the offset, so the decomposition is reused.
        base = problem.y if offset is None else problem.y - offset[0]
        mean = problem.weight @ base if problem.intercept else base.new_zeros(k)
        centered = base - mean
        if dual:
            moment = (root * centered).reshape(-1)
        else:
            moment = problem.operator.rmatvec(problem.weight[:, None] * centered)
        solved = path.vectors @ (shrink * (path.vectors.T @ moment)[:, None])
        if dual:
            solved = (root[:, :, None] * solved.reshape(n, k, -1)).flatten(0, 1)
        solutions.append(solved.T)
        means.append(mean)
    weights = torch.stack(solutions)
    columns = weights.flatten(0, 1)
    shape = (len(offsets), len(alphas))
    # The solutions are for centered columns; the intercept accounts for the means.
    rows = column_means(problem)
    if dual:
        # In the dual, coefficients are Phi^T times the weights, so multiply the means
        # by Phi.
        rows = torch.stack([problem.operator.matvec(row).reshape(-1) for row in rows])
    shift = columns @ rows.T
    intercepts = torch.stack(means)[:, None] - shift.reshape(*shape, k)
    raw = _raw(problem.operator, heldout, columns, dual).reshape(*shape, -1, k)
    raw += intercepts[:, :, None]
    for index, offset in enumerate(offsets):
        if offset is not None:
            raw[index] += offset[1]
    return RidgeGrid(weights, intercepts, dual), raw


def _raw(
    training: LinearOperator, operator: LinearOperator, columns: Tensor, dual: bool
) -> Tensor:
    """Basis times each solution, (n_solutions, n_samples, n_outputs)."""
    k = operator.n_outputs
    if dual:
        product = operator.cross_gram(training) @ columns.T
        return product.T.reshape(len(columns), -1, k)
    parts = [
        torch.einsum("icp,ap->aic", dense, columns) for _, dense in operator.blocks()
    ]
    return torch.cat(parts, 1)
