"""Leave-one-out models, in closed form or by one Newton step."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sklearn_pgb._convex._newton import hessian_matrix, weighted_root
from sklearn_pgb._convex._problem import ConvexProblem
from sklearn_pgb._operators._operator import LinearOperator


@dataclass(frozen=True, eq=False)
class LeftOut:
    """The models that leave out one sample each.

    Without sample i the coefficients change by ``H^-1 J_i^T e_i``, where H is the
    objective's Hessian, J_i the sample's rows of the basis, and
    ``e_i = (I - D_i A_i)^-1 g_i`` with ``A_i = J_i H^-1 J_i^T``. The vector g_i and the
    matrix D_i are gradient and Hessian of the left-out loss. This is one Newton step,
    which is exact for the squared loss.

    Attributes
    ----------
    problem : ConvexProblem
    factor : Tensor (n_columns, n_columns)
        Cholesky factor of H.
    steps : Tensor (n_samples, n_outputs)
        The vectors e_i.
    raw : Tensor (n_samples, n_outputs)
        Raw outputs for each sample of the model without it.
    determinants : Tensor (n_samples,)
        Determinants of ``I - D_i A_i``. If one is zero, the other samples don't
        determine the model.
    """

    problem: ConvexProblem
    factor: Tensor
    steps: Tensor
    raw: Tensor
    determinants: Tensor

    @classmethod
    def of(
        cls,
        problem: ConvexProblem,
        raw: Tensor,
        fraction: Tensor,
        factor: Tensor | None = None,
    ) -> "LeftOut":
        """Leave out samples or parts of their weight, given the solution's raw outputs.

        Parameters
        ----------
        problem : ConvexProblem
        raw : Tensor (n_samples, n_outputs)
        fraction : Tensor (n_samples,)
            Part of each sample's weight that is left out; one leaves it out entirely.
        factor : Tensor or None
            Result of `hessian_factor`, if it is known.
        """
        if factor is None:
            factor = hessian_factor(problem, raw)
        augmented, root = problem.augmented(), weighted_root(problem, raw)
        blocks = root if root.ndim == 3 else torch.diag_embed(root)
        # Only the left-out part of a sample's loss is removed from the Hessian.
        hessian = fraction[:, None, None] * (blocks.mT @ blocks)
        gradient = fraction[:, None] * problem.residual(raw)
        steps, left_out = torch.empty_like(raw), raw.clone()
        determinants = torch.empty_like(fraction)
        for rows, dense in augmented.blocks():
            half = torch.linalg.solve_triangular(
                factor, dense.flatten(0, 1).T, upper=False
            ).T.reshape(dense.shape)
            A = half @ half.mT
            eye = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
            system = eye - hessian[rows] @ A
            step = torch.linalg.solve(system, gradient[rows, :, None])
            left_out[rows] += (A @ step)[..., 0]
            steps[rows] = step[..., 0]
            determinants[rows] = torch.linalg.det(system)
        return cls(problem, factor, steps, left_out, determinants)

    def changes(self, operator: LinearOperator) -> Iterator[tuple[slice, Tensor]]:
        """Yield how raw outputs for other samples change if a sample is left out.

        `operator` is the same basis on the other samples. The results are pairs of a
        slice of the samples that are left out, and changes of shape (n_others,
        n_left_out, n_outputs).
        """
        others = replace(self.problem, operator=operator).augmented()
        rows = torch.cat([dense.flatten(0, 1) for _, dense in others.blocks()])
        inverse = torch.cholesky_solve(rows.T, self.factor)
        for part, dense in self.problem.augmented().blocks():
            moved = torch.einsum("ikp,ik->ip", dense, self.steps[part])
            changes = (moved @ inverse).reshape(len(moved), operator.n_samples, -1)
            yield part, changes.transpose(0, 1)

    def largest_changes(
        self,
        operator: LinearOperator,
        count: int,
        in_units: Callable[[Tensor], Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Return the samples that change the predictions most if they are left out.

        `in_units` maps changes of raw outputs to changes of predictions, in whose units
        they are compared. The numbers of the samples have shape (n_others, count), in
        descending order of the changes, and the changes have shape (n_others, count,
        n_predictions).
        """
        best: tuple[Tensor, Tensor] | None = None
        for rows, raw_changes in self.changes(operator):
            block = in_units(raw_changes)
            order = _order(block, count)
            largest = order + rows.start, _take(block, order)
            if best is not None:
                numbers, changes = (
                    torch.cat(pair, 1) for pair in zip(best, largest, strict=True)
                )
                order = _order(changes, count)
                largest = numbers.gather(1, order), _take(changes, order)
            best = largest
        assert best is not None
        return best


def _order(changes: Tensor, count: int) -> Tensor:
    """Positions of the largest changes of each other sample, in descending order."""
    one_output = changes.shape[2] == 1
    sizes = changes[..., 0].abs() if one_output else changes.square().sum(2)
    return sizes.topk(min(count, sizes.shape[1]), 1).indices


def _take(changes: Tensor, order: Tensor) -> Tensor:
    return changes.gather(1, order[..., None].expand(-1, -1, changes.shape[2]))


def hessian_factor(problem: ConvexProblem, raw: Tensor) -> Tensor:
    """Cholesky factor of the objective's Hessian in [coefficients, intercept]."""
    matrix = hessian_matrix(problem, problem.augmented(), raw)
    if problem.intercept and problem.loss.dual_rows_sum_to_zero:
        # Adding a constant to all outputs has no effect, so the Hessian is singular;
        # any positive curvature along it gives the same outputs.
        constant = matrix[problem.operator.n_coef :, problem.operator.n_coef :]
        constant += constant.diagonal().mean()
    return torch.linalg.cholesky(matrix)


def least_squares_raw(problem: ConvexProblem, factor: Tensor) -> Tensor:
    """Raw outputs of the solution for the squared loss, by `hessian_factor`."""
    augmented, n_coef = problem.augmented(), problem.operator.n_coef
    point = factor.new_zeros(len(factor))
    # The second step removes most of the rounding of the first.
    for _ in range(2):
        gradient = augmented.rmatvec(
            problem.residual(problem.base + augmented.matvec(point))
        )
        gradient[:n_coef] += problem.alpha * point[:n_coef]
        point = point - torch.cholesky_solve(gradient[:, None], factor)[:, 0]
    return problem.base + augmented.matvec(point)
