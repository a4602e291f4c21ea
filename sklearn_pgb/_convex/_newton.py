"""Damped Newton for convex losses, with three ways to solve the linear system."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from sklearn_pgb._budget import (
    COLUMN_CURVATURE,
    ENOUGH_ROWS,
    MANY_PRODUCTS,
    SINGLE_ALPHA,
    SINGLE_FORCING,
    WEAK_ALPHA,
)
from sklearn_pgb._convex._layer_inverses import (
    Blocks,
    Inverse,
    inverted,
    layer_blocks,
    output_grams,
)
from sklearn_pgb._convex._line_search import line_search
from sklearn_pgb._convex._problem import ConvexProblem, lower_bound
from sklearn_pgb._operators._dense import DenseOperator
from sklearn_pgb._operators._operator import LinearOperator


class NewtonSystem(ABC):
    """Solves (Phi^T D Phi + alpha I) step = -gradient, with an unpenalized intercept.

    D = S^T S is the weighted Hessian of the loss, given by its root S.
    """

    @abstractmethod
    def step(
        self,
        problem: ConvexProblem,
        raw: Tensor,
        gradient: tuple[Tensor, Tensor],
        goal: float,
    ) -> tuple[Tensor, Tensor]:
        """The Newton step in coefficients and intercept.

        Iterative solvers stop when the residual is reduced by the ratio of `goal` and
        the gradient's norm, possibly measured in another norm.
        """

    def for_comparisons(self, problem: ConvexProblem) -> ConvexProblem:
        """The problem, or one in float32 whose solutions can be compared."""
        return problem


class PrimalSystem(NewtonSystem):
    """Cholesky of the normal matrix, n_coef + n_outputs wide.

    `sizes` are squared norms of the weighted columns, see `hessian_matrix`.
    """

    def __init__(self, problem: ConvexProblem, sizes: Tensor | None = None):
        self.augmented: LinearOperator = problem.augmented()
        self.sizes = sizes

    def step(
        self,
        problem: ConvexProblem,
        raw: Tensor,
        gradient: tuple[Tensor, Tensor],
        goal: float,
    ) -> tuple[Tensor, Tensor]:
        matrix = hessian_matrix(problem, self.augmented, raw, self.sizes)
        target = -_join(problem, gradient)
        return _divide(problem, solve_semidefinite(matrix, target[:, None])[:, 0])


class DualSystem(NewtonSystem):
    """Cholesky of M = alpha I + S K S^T, n_rows wide; needs alpha > 0.

    With E the intercept's columns times S, the rows z = S Phi step + E shift solve
    ``M z = alpha E shift - S Phi g`` and ``E^T z = -h`` for the gradients g and h. The
    Schur complement is ``alpha E^T M^-1 E``, which avoids cancellation with E^T E.
    """

    def __init__(self, problem: ConvexProblem):
        n, k = problem.y.shape
        self.gram = problem.operator.gram().reshape(n, k, n, k)

    def step(
        self,
        problem: ConvexProblem,
        raw: Tensor,
        gradient: tuple[Tensor, Tensor],
        goal: float,
    ) -> tuple[Tensor, Tensor]:
        n, k = raw.shape
        root = weighted_root(problem, raw)
        is_diagonal = root.ndim == 2
        pushed = problem.operator.matvec(gradient[0])
        if is_diagonal:
            flat = root.reshape(-1)
            matrix = self.gram.reshape(n * k, n * k) * flat[:, None]
            matrix *= flat
            target = root * pushed
        else:
            left = torch.einsum("iac,icjd->iajd", root, self.gram)
            matrix = torch.einsum("iajd,jbd->iajb", left, root).reshape(n * k, n * k)
            target = torch.einsum("icd,id->ic", root, pushed)
        matrix.diagonal().add_(problem.alpha)
        sides, columns = target.reshape(-1, 1), None
        if problem.intercept:
            blocks = torch.diag_embed(root) if is_diagonal else root
            columns = blocks.flatten(0, 1)
            sides = torch.cat([sides, columns], 1)
        solutions = solve_semidefinite(matrix, sides)
        solved = solutions[:, 0]
        rows, shift = -solved, torch.zeros_like(gradient[1])
        if columns is not None:
            inverse = solutions[:, 1:]
            schur = problem.alpha * columns.T @ inverse
            # The intercept has no penalty, so the Schur complement is singular if the
            # loss is flat in it, e.g. for saturated probabilities.
            schur.diagonal().add_(1e-12 * float(schur.diagonal().mean()) + 1e-300)
            moment = columns.T @ solved - gradient[1]
            shift = solve_semidefinite(schur, moment[:, None])[:, 0]
            rows = problem.alpha * inverse @ shift - solved
        rows = rows.reshape(raw.shape)
        back = root * rows if is_diagonal else torch.einsum("idc,id->ic", root, rows)
        return -(gradient[0] + problem.operator.rmatvec(back)) / problem.alpha, shift


class MatrixFreeSystem(NewtonSystem):
    """Conjugate gradients on Hessian products; no matrix is formed.

    Inexact steps use products in float32, which are cheaper. Gradient, line search and
    certificate stay in float64.
    """

    max_products = 500

    def __init__(self, problem: ConvexProblem):
        self.rough = problem.single()
        size = mean_row_norm(self.rough)
        self.least_alpha = SINGLE_ALPHA * size
        self.weak = WEAK_ALPHA * size
        # A preconditioner is reused by later steps as long as it keeps products few.
        self._blocks: Blocks | None = None
        self._inverse: Inverse | None = None
        self._made_for, self._products = math.nan, 0

    def step(
        self,
        problem: ConvexProblem,
        raw: Tensor,
        gradient: tuple[Tensor, Tensor],
        goal: float,
    ) -> tuple[Tensor, Tensor]:
        target = -_join(problem, gradient)
        exact = goal < SINGLE_FORCING * float(target.norm())
        if not exact:
            problem = self.for_comparisons(problem)
        raw = raw.to(problem.y)
        product, inverse = hessian_product(problem, raw), None
        if 0 < problem.alpha < self.weak:
            if self._blocks is None or self._products > MANY_PRODUCTS:
                self._blocks = shared_blocks(problem, raw) or layer_blocks(problem, raw)
                self._made_for = math.nan
            if self._made_for != problem.alpha and self._blocks is not None:
                self._inverse = self._blocks(problem.alpha)
                self._made_for = problem.alpha
            inverse = self._inverse
        self._products = 0

        def counted(direction: Tensor) -> Tensor:
            self._products += 1
            return product(direction)

        solution, _ = conjugate_gradients(
            counted,
            target.to(problem.y),
            goal / float(target.norm()),
            self.max_products,
            inverse,
            # If alpha = 0, rounding errors would grow without limit in the null space.
            flat=1e-12 if problem.alpha == 0 else 0.0,
        )
        return _divide(problem, solution.to(target))

    def for_comparisons(self, problem: ConvexProblem) -> ConvexProblem:
        if problem.alpha < self.least_alpha:
            return problem
        return self.rough.with_alpha(problem.alpha)


def newton_system(
    problem: ConvexProblem, method: str, max_memory: float
) -> NewtonSystem:
    """The linear system of Newton's steps for a method."""
    if method == "dual":
        return DualSystem(problem)
    if method == "matrix-free":
        return MatrixFreeSystem(problem)
    operator = problem.operator
    fits = operator.n_rows * operator.n_coef * operator.dtype.itemsize <= max_memory / 4
    if fits and operator.shared_features is None:
        problem = replace(problem, operator=DenseOperator(operator.dense()))
    return PrimalSystem(problem)


def mean_row_norm(problem: ConvexProblem) -> float:
    """Mean squared row norm, of random samples if there are many."""
    n_samples = len(problem.weight)
    if n_samples > ENOUGH_ROWS:
        order = torch.randperm(n_samples, generator=torch.Generator().manual_seed(0))
        problem = problem.rows(order[:ENOUGH_ROWS].to(problem.y.device))
    return float(problem.weight @ problem.operator.squared_row_norms().mean(1))


def conjugate_gradients(
    product: Callable[[Tensor], Tensor],
    target: Tensor,
    forcing: float,
    max_products: int,
    precondition: Callable[[Tensor], Tensor] | None = None,
    flat: float = 0.0,
) -> tuple[Tensor, bool]:
    """Solve a positive semidefinite system from zero.

    Parameters
    ----------
    product : callable
        Multiplies by the matrix.
    target : Tensor (n,)
    forcing : float
        Relative tolerance on the residual, in the norm of the preconditioner.
    max_products : int
    precondition : callable or None
        Multiplies by an approximate inverse of the matrix.
    flat : float
        Stop when the curvature is at most this fraction of the largest one so far.

    Returns
    -------
    solution : Tensor (n,)
    converged : bool
        Whether the residual is within the tolerance.
    """
    solution = torch.zeros_like(target)
    residual = target.clone()
    direction = residual.clone() if precondition is None else precondition(residual)
    norm, largest = float(residual @ direction), 0.0
    goal = forcing**2 * norm
    for _ in range(max_products):
        image = product(direction)
        curvature, size = float(direction @ image), float(direction @ direction)
        largest = max(largest, curvature / max(size, torch.finfo(target.dtype).tiny))
        # Without a penalty, a direction of no curvature is rounding error. A step along
        # it would be arbitrarily long.
        if curvature <= flat * largest * size:
            return solution, False
        rate = norm / curvature
        solution.add_(direction, alpha=rate)
        residual.sub_(image, alpha=rate)
        shaped = residual if precondition is None else precondition(residual)
        last, norm = norm, float(residual @ shaped)
        if norm <= goal:
            return solution, True
        direction.mul_(norm / last).add_(shaped)
    return solution, False


def shared_blocks(problem: ConvexProblem, raw: Tensor) -> Blocks | None:
    """Inverses of the Hessian's diagonal blocks, one for each output.

    None if the outputs share no features, as only shared ones make the blocks narrow.
    """
    features = problem.augmented().shared_features
    if features is None:
        return None
    n_features = problem.operator.n_coef // problem.operator.n_outputs
    curvature = problem.loss.hessian_diagonal(problem.y, raw) * problem.weight[:, None]
    grams = output_grams(features, curvature)

    def inverse(alpha: float) -> Inverse | None:
        blocks = inverted(grams, alpha, n_features)
        return None if blocks is None else partial(apply_blocks, blocks)

    return inverse


def apply_blocks(blocks: Tensor, target: Tensor) -> Tensor:
    """Each output's block times its part of [coefficients, intercept]."""
    # The blocks are symmetric; bmm with row vectors is twenty times faster.
    rows = target.view(blocks.shape[1], -1).T[:, None].to(blocks).contiguous()
    return torch.bmm(rows, blocks)[:, 0].T.reshape(-1).to(target)


def hessian_product(problem: ConvexProblem, raw: Tensor) -> Callable[[Tensor], Tensor]:
    """A function that multiplies [coef, intercept] by the objective's Hessian at `raw`.

    If the problem has no intercept, the function multiplies coefficients alone.
    """
    curvature = problem.loss.hessian(problem.y, raw)
    weight = problem.weight[:, None]
    n_coef = problem.operator.n_coef

    def product(direction: Tensor) -> Tensor:
        rows = problem.operator.matvec(direction[:n_coef])
        if problem.intercept:
            rows += direction[n_coef:]
        rows = curvature(rows).mul_(weight)
        result = torch.empty_like(direction)
        result[:n_coef] = problem.operator.rmatvec(rows)
        result[:n_coef].add_(direction[:n_coef], alpha=problem.alpha)
        if problem.intercept:
            result[n_coef:] = rows.sum(0)
        return result

    return product


def hessian_matrix(
    problem: ConvexProblem,
    augmented: LinearOperator,
    raw: Tensor,
    sizes: Tensor | None = None,
) -> Tensor:
    """The objective's Hessian at `raw`, with its diagonal bounded away from zero.

    The curvature of a column can be zero up to rounding, for example if it adds a
    constant to all outputs of a softmax. A step along it would be arbitrarily long.
    With the squared norms `sizes` of the weighted columns, intercept included,
    curvatures are also bounded relative to the largest one of columns of norm one.
    """
    n_coef = problem.operator.n_coef
    matrix = augmented.normal(weighted_root(problem, raw))
    diagonal = matrix.diagonal()
    # Directions that neither data nor penalty determine (a saturated intercept, a
    # rank-deficient basis at alpha = 0) get a curvature far below that of their
    # columns.
    floor = 1e-12 * diagonal + torch.finfo(matrix.dtype).tiny
    if sizes is not None and len(sizes):
        least = COLUMN_CURVATURE * (diagonal / sizes).max() * sizes
        floor = torch.maximum(floor, least)
    diagonal[:n_coef] += floor[:n_coef].clamp_min(problem.alpha)
    diagonal[n_coef:] += floor[n_coef:]
    return matrix


def _join(problem: ConvexProblem, gradient: tuple[Tensor, Tensor]) -> Tensor:
    """Coefficients and, if free, intercept as one vector."""
    return torch.cat(gradient) if problem.intercept else gradient[0]


def _divide(problem: ConvexProblem, step: Tensor) -> tuple[Tensor, Tensor]:
    """The inverse of `_join`; an intercept that is not free is zero."""
    n_coef = problem.operator.n_coef
    if problem.intercept:
        return step[:n_coef], step[n_coef:]
    return step, step.new_zeros(problem.operator.n_outputs)


def newton(
    problem: ConvexProblem,
    system: NewtonSystem,
    start: tuple[Tensor, Tensor] | None,
    tol: float,
    max_iter: int,
    certified: bool = True,
) -> tuple[Tensor, Tensor, int, bool]:
    """Coefficients, intercept, number of iterations and convergence of damped Newton.

    Stops when the certified gap is at most tol * objective. By Fenchel duality the gap
    is ||gradient||^2 / (2 alpha) if the intercept's gradient is zero. If alpha = 0, the
    norm of the gradient has to be at most tol * (1 + objective). If not `certified`,
    stops after the first step with a predicted decrease of at most tol * objective.
    This is much earlier for small alphas, and enough to compare alphas.
    """
    coef, intercept = problem.zero() if start is None else start
    raw = problem.raw(coef, intercept)
    data_value = float(problem.data_value(raw))
    # Steps of uncertified solutions need only a few correct digits.
    forcing, min_forcing, last_norm = 0.1, 1e-8, None
    if not certified:
        # The error by an inexact step is then below that of the model.
        min_forcing = min(1e-2, tol**0.5)
    for n_iter in range(1, max_iter + 1):
        residual = problem.residual(raw)
        gradient = (
            problem.operator.rmatvec(residual) + problem.alpha * coef,
            residual.sum(0) if problem.intercept else torch.zeros_like(intercept),
        )
        value = data_value + 0.5 * problem.alpha * float(coef @ coef)
        norm = float(torch.cat(gradient).norm())
        if not math.isfinite(value + norm):
            return coef, intercept, n_iter, False
        if norm == 0 or (
            certified and _small_enough(problem, raw, gradient, value, tol)
        ):
            return coef, intercept, n_iter, True
        if last_norm is not None:
            # Eisenstat and Walker's second choice: the residual of a step follows the
            # square of the last decrease, so that convergence stays superlinear.
            forcing = min(0.1, max(min_forcing, 0.9 * (norm / last_norm) ** 2))
        last_norm = norm
        goal = forcing * norm
        if certified:
            # Half the gradient norm that the tolerance needs is enough. If the part of
            # the unpenalized intercept keeps the gap open, a quarter of the present one
            # makes it a sixteenth.
            enough = math.sqrt(2 * problem.alpha * tol * abs(value))
            goal = max(goal, 0.5 * enough if norm > enough else 0.25 * norm)
        step = system.step(problem, raw, gradient, goal)
        moved = line_search(problem, (coef, intercept), raw, value, gradient, step)
        if moved is None:
            return coef, intercept, n_iter, False
        coef, intercept, raw, data_value = moved
        # At its minimum, the quadratic model is lower by half the slope along the step.
        promised = -0.5 * float(gradient[0] @ step[0] + gradient[1] @ step[1])
        if not certified and promised <= tol * abs(value):
            return coef, intercept, n_iter, True
    return coef, intercept, max_iter, False


def _small_enough(
    problem: ConvexProblem,
    raw: Tensor,
    gradient: tuple[Tensor, Tensor],
    value: float,
    tol: float,
) -> bool:
    """Whether the stopping criterion of certified `newton` holds."""
    if problem.alpha == 0:
        size = max(float(gradient[0].norm()), float(gradient[1].abs().sum()))
        return size <= tol * (1.0 + abs(value))
    # This part of the gap takes no further product with the basis, so it is tested
    # first.
    gap = float(gradient[0] @ gradient[0]) / (2 * problem.alpha)
    if gap > tol * abs(value):
        return False
    # The intercept's gradient adds to the gap, so compute the certificate itself. It is
    # exact up to the rounding of the objective.
    rounding = 8 * torch.finfo(raw.dtype).eps
    return value - lower_bound(problem, raw) <= (tol + rounding) * abs(value)


def weighted_root(problem: ConvexProblem, raw: Tensor) -> Tensor:
    """Roots sqrt(w_i) S_i of the weighted Hessian of the loss."""
    root = problem.loss.hessian_root(problem.y, raw)
    weight = problem.weight.sqrt()
    return root * (weight[:, None] if root.ndim == 2 else weight[:, None, None])


def solve_semidefinite(matrix: Tensor, target: Tensor) -> Tensor:
    """Solve a positive semidefinite system, by eigenvalues if rounding spoils it.

    Eigenvalues below rounding, relative to a diagonal of ones, count as zero, and the
    solution has no part along their eigenvectors. It is zero if entries overflowed.
    """
    factor, info = torch.linalg.cholesky_ex(matrix)
    if int(info) == 0:
        return torch.cholesky_solve(target, factor)
    scale = matrix.diagonal().clamp_min(torch.finfo(matrix.dtype).tiny).sqrt()
    scaled = matrix / scale / scale[:, None]
    if not bool(scaled.isfinite().all()):
        return torch.zeros_like(target)
    values, vectors = torch.linalg.eigh(scaled)
    keep = values > len(values) * torch.finfo(values.dtype).eps * values[-1]
    values, vectors = values[keep], vectors[:, keep]
    parts = vectors.T @ (target / scale[:, None])
    return (vectors @ (parts / values[:, None])) / scale[:, None]
