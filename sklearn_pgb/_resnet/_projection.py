"""The inner problem of variable projection: the optimal linear model for given z."""

from abc import ABC, abstractmethod
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from sklearn_pgb._budget import FEATURE_RANK_RTOL, MAX_MEMORY, ROUGH_TOL, WEAK_PENALTY
from sklearn_pgb._convex._problem import ConvexProblem, Solution, finish
from sklearn_pgb._convex._solve import PathSolver
from sklearn_pgb._losses._loss import Loss
from sklearn_pgb._operators._dense import KroneckerOperator


class Projection(ABC):
    """Minimizes the convex objective on [X, Z] over R and b for any Z.

    The objective is ::

        sum_i w_i l_i(R [x_i, z_i] + b) + (alpha / 2) ||R||^2

    With an intercept, columns are centered before solving, to avoid cancellation.
    Otherwise b is zero. If a `center` was subtracted from X before, it only tells how
    large rounding errors are.
    """

    def __init__(
        self,
        X: Tensor,
        y: Tensor,
        weight: Tensor,
        loss: Loss,
        intercept: bool,
        center: Tensor | float = 0.0,
    ):
        self.y, self.weight, self.loss, self.intercept = y, weight, loss, intercept
        self.X, self.mean = self._centered(X)
        self.center = center

    def problem(self, Z: Tensor, alpha: float) -> ConvexProblem:
        """Return the problem that `solve` solves, on centered features."""
        features = torch.cat([self.X, self._centered(Z)[0]], 1)
        operator = KroneckerOperator(features, self.y.shape[1])
        return ConvexProblem(
            operator, self.y, self.loss, self.weight, alpha, self.intercept
        )

    def _centered(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Center rows if there is an intercept; return them and their mean."""
        if not self.intercept:
            return rows, rows.new_zeros(rows.shape[1])
        mean = self.weight @ rows
        rows = rows - mean
        # The second pass removes the rounding error, so that constant columns vanish.
        rest = self.weight @ rows
        return rows.sub_(rest), mean + rest

    def _uncentered_intercept(
        self, coef: Tensor, intercept: Tensor, unit_mean: Tensor
    ) -> Tensor:
        """Convert the intercept for centered features to that for the original ones."""
        mean = torch.cat([self.mean, unit_mean])
        return intercept - mean @ coef.reshape(len(mean), -1)

    @abstractmethod
    def solve(self, Z: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
        """Return R^T (n_features + n_units, n_outputs) and b (n_outputs,)."""

    def rough(self, Z: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
        """Return a solution that is accurate enough to compare held-out losses."""
        return self.solve(Z, alpha)

    @abstractmethod
    def exact(self, Z: Tensor, alpha: float, tol: float, max_iter: int) -> Solution:
        """Return a certified solution with a relative gap of at most `tol`."""


class SquaredProjection(Projection):
    """Squared loss: one thin SVD of X, and one QR factorization for each Z.

    In the centered and weighted problem let ``X = U S V^T`` and ``m = alpha / 2``.
    Minimizing over R1 leaves a least-squares problem in R2 with the rows ::

        [(I - U U^T) Z; D U^T Z; sqrt(m) I],    D = sqrt(m / (S^2 + m))

    and the targets ``[(I - U U^T) y; D U^T y; 0]``. This avoids normal equations. At
    ``alpha = 0`` it is the projection of Theorem 2 of [1]_. If units are in the span of
    X, the first block only contains rounding errors. A weak penalty would not suppress
    directions of that size, so they are removed.

    References
    ----------
    .. [1] Kawaguchi and Bengio, "Depth with nonlinearity creates no bad local minima in
       ResNets", Neural Networks 118, 2019.
    """

    def __init__(
        self,
        X: Tensor,
        y: Tensor,
        weight: Tensor,
        loss: Loss,
        intercept: bool,
        center: Tensor | float = 0.0,
    ):
        super().__init__(X, y, weight, loss, intercept, center)
        self.root = weight.sqrt()[:, None]
        U, S, Vh = torch.linalg.svd(self.root * self.X, full_matrices=False)
        # A centered constant column only contains rounding errors relative to its mean.
        largest = torch.maximum(S.max(), (self.mean + self.center).norm())
        keep = S > FEATURE_RANK_RTOL * largest.clamp_min(torch.finfo(S.dtype).tiny)
        self.U, self.S, self.V = U[:, keep], S[keep], Vh[keep].T
        centered, self.y_mean = self._centered(y)
        self.along, self.across = self._divide(self.root * centered)

    def _divide(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return coordinates in the range of U, and the part orthogonal to it."""
        along = self.U.T @ rows
        across = torch.addmm(rows, self.U, along, alpha=-1)
        # The second pass removes the rounding error of the first.
        return along, across.addmm_(self.U, self.U.T @ across, alpha=-1)

    def solve(self, Z: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
        Z, mean = self._centered(Z)
        coef = self._coef(Z, mean, alpha)
        return coef, self._uncentered_intercept(coef, self.y_mean, mean)

    def exact(self, Z: Tensor, alpha: float, tol: float, max_iter: int) -> Solution:
        Z, mean = self._centered(Z)
        coef = self._coef(Z, mean, alpha)
        flat = coef.reshape(-1)
        solution = finish(self.problem(Z, alpha), flat, self.y_mean, 1, True)
        return replace(
            solution, intercept=self._uncentered_intercept(coef, self.y_mean, mean)
        )

    def _coef(self, Z: Tensor, mean: Tensor, alpha: float) -> Tensor:
        """Return R^T for centered units and their original mean."""
        shift, rows = alpha / 2, self.root * Z
        along, across = self._divide(rows)
        size = torch.maximum(rows.norm(), mean.norm())
        B = self._units(along, across, shift, size)
        A = self.S / (self.S.square() + shift)
        return torch.cat([self.V @ (A[:, None] * (self.along - along @ B)), B])

    def _units(
        self, along: Tensor, across: Tensor, shift: float, size: Tensor
    ) -> Tensor:
        """Solve the reduced least-squares problem for R2^T, given the norm of Z."""
        n_units, target = along.shape[1], self.across
        if shift <= (WEAK_PENALTY * size) ** 2:
            U, S, Vh = torch.linalg.svd(across, full_matrices=False)
            keep = S > FEATURE_RANK_RTOL * size
            across, target = S[keep, None] * Vh[keep], U[:, keep].T @ target
            if shift == 0:
                return Vh[keep].T @ (target / S[keep, None])
        D = (shift / (self.S.square() + shift)).sqrt()[:, None]
        n, r = len(across), len(D)
        # Filled in place, to not copy the largest block.
        rows = across.new_zeros(n + r + n_units, n_units + target.shape[1])
        rows[:n, :n_units], rows[:n, n_units:] = across, target
        rows[n : n + r, :n_units], rows[n : n + r, n_units:] = D * along, D * self.along
        rows[n + r :, :n_units].diagonal().fill_(shift**0.5)
        R = torch.linalg.qr(rows, mode="r")[1]
        return torch.linalg.solve_triangular(
            R[:n_units, :n_units], R[:n_units, n_units:], upper=True
        )

    def leave_one_out(
        self, alphas: Tensor, fraction: Tensor, rows: Tensor | None = None
    ) -> Tensor:
        """Return leave-one-out errors on X alone, (n_alphas, n_rows, n_outputs).

        As all outputs have the same leverages, it is cheaper than the equivalent
        `RidgePath.leave_one_out`.
        """
        if rows is None:
            rows = torch.arange(len(self.y), device=self.y.device)
        U, root, weight = self.U[rows], self.root[rows], self.weight[rows]
        errors = self.y.new_empty(len(alphas), len(rows), self.y.shape[1])
        for shift, error in zip(alphas / 2, errors, strict=True):
            shrinkage = self.S.square() / (self.S.square() + shift)
            fitted = U @ (shrinkage[:, None] * self.along)
            residual = self.across[rows] + U @ self.along - fitted
            leverage = U.square() @ shrinkage
            if self.intercept:
                leverage = leverage + weight
            remaining = (1 - fraction[rows] * leverage).clamp_min(1e-12)
            torch.div(residual / root, remaining[:, None], out=error)
        return errors


class NewtonProjection(Projection):
    """Any loss: Newton's method, with warm starts from earlier solutions."""

    # A gap of 1e-7 gives the gradient in z to about the square root of that.
    tol, max_iter = 1e-7, 100

    @cached_property
    def _starts(self) -> dict[tuple[int, float | None], tuple[Tensor, Tensor]]:
        """The last solution for each (number of units, alpha), filled by `exact`.

        The key (number of units, None) has the last one for any alpha.
        """
        return {}

    def solve(self, Z: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
        return self._parts(self.exact(Z, alpha, self.tol, self.max_iter))

    def rough(self, Z: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
        if Z.shape[1] and (0, None) not in self._starts:
            self.rough(Z[:, :0], alpha)
        return self._parts(self.exact(Z, alpha, None, self.max_iter))

    def _parts(self, solution: Solution) -> tuple[Tensor, Tensor]:
        return solution.coef.reshape(-1, self.y.shape[1]), solution.intercept

    def exact(
        self, Z: Tensor, alpha: float, tol: float | None, max_iter: int
    ) -> Solution:
        """Solve to a certified gap of `tol`, or roughly if `tol` is None."""
        problem, n_units = self.problem(Z, alpha), Z.shape[1]
        # The last solution for this alpha or any, with zeros for new units.
        keys = [(n, a) for n in (n_units, 0) for a in (alpha, None)]
        known = [self._starts[key] for key in keys if key in self._starts]
        start = None
        if known:
            last, intercept = known[0]
            coef = problem.zero()[0]
            coef[: len(last)] = last
            start = coef, intercept
        certified, goal = tol is not None, ROUGH_TOL if tol is None else tol
        if not certified and start is not None:
            # If classes are separable, the loss is nearly zero. A smaller tolerance
            # would then be ten times as expensive, and held-out losses the same.
            raws = torch.zeros_like(self.y), problem.raw(*start)
            constant, here = (abs(float(problem.data_value(raw))) for raw in raws)
            goal *= max(1.0, ROUGH_TOL * constant / max(here, 1e-300))
        solver = PathSolver(problem, "auto", MAX_MEMORY)
        solution = solver.solve(alpha, start, goal, max_iter, certified)
        if not solution.converged and start is not None:
            # A bad warm start can prevent convergence.
            cold = solver.solve(alpha, None, goal, max_iter, certified)
            solution = min(cold, solution, key=lambda each: each.value)
        start = solution.coef, solution.intercept
        self._starts[n_units, alpha] = self._starts[n_units, None] = start
        mean = self._centered(Z)[1]
        intercept = self._uncentered_intercept(solution.coef, solution.intercept, mean)
        return replace(solution, intercept=intercept)


def projection(
    X: Tensor,
    y: Tensor,
    weight: Tensor,
    loss: Loss,
    intercept: bool,
    center: Tensor | float = 0.0,
) -> Projection:
    """Create the projection for a loss; `center` was subtracted from the columns."""
    kind = SquaredProjection if loss.quadratic else NewtonProjection
    return kind(X, y, weight, loss, intercept, center)
