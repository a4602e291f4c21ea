"""The inner problem: the best linear model on given features, solved exactly."""

from abc import ABC, abstractmethod
from dataclasses import replace

import torch
from torch import Tensor

from sklearn_pgb._convex._problem import ConvexProblem, Solution, finish
from sklearn_pgb._convex._solve import PathSolver
from sklearn_pgb._losses import Loss
from sklearn_pgb._operators import KroneckerOperator

# Singular values below this share of the largest are rounding of exact features. Ridges
# whose root is below the second share do not hold that rounding down by themselves.
RANK_RTOL, WEAK = 1e-13, 1e-10

# A rough solution ends after a Newton step that promised this share of the objective:
# what is left then is of the order of its square.
ROUGH_TOL = 0.01

# Bytes of the Newton systems.
MAX_MEMORY = 2.0**30


class Projection(ABC):
    """Minimises the convex objective on [X, Z] over R and b for any Z.

    The objective is ::

        sum_i w_i l_i(R [x_i, z_i] + b) + (alpha / 2) ||R||^2

    A free b takes up what is added to a column. All columns then have weighted mean
    zero while the problem is solved: far from zero their digits would be lost.

    Parameters
    ----------
    X : Tensor (n_samples, n_features)
    y : Tensor (n_samples, n_outputs)
        Encoded targets.
    weight : Tensor (n_samples,)
        Positive, summing to one.
    loss : Loss
    intercept : bool
        Whether b is free; it is zero otherwise.
    """

    def __init__(
        self, X: Tensor, y: Tensor, weight: Tensor, loss: Loss, intercept: bool
    ):
        self.y, self.weight, self.loss, self.intercept = y, weight, loss, intercept
        self.X, self.mean = self._centred(X)

    def problem(self, Z: Tensor, alpha: float) -> ConvexProblem:
        """The problem that `solve` solves, on centred features."""
        features = torch.cat([self.X, self._centred(Z)[0]], 1)
        operator = KroneckerOperator(features, self.y.shape[1])
        return ConvexProblem(
            operator, self.y, self.loss, self.weight, alpha, self.intercept
        )

    def _centred(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Rows less their weighted mean where b is free, and that mean."""
        if not self.intercept:
            return rows, rows.new_zeros(rows.shape[1])
        mean = self.weight @ rows
        rows = rows - mean
        # The second pass leaves nothing of constant columns.
        rest = self.weight @ rows
        return rows.sub_(rest), mean + rest

    def _free(self, coef: Tensor, intercept: Tensor, unit_mean: Tensor) -> Tensor:
        """b, from its value on centred features."""
        mean = torch.cat([self.mean, unit_mean])
        return intercept - mean @ coef.reshape(len(mean), -1)

    @abstractmethod
    def solve(self, Z: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
        """R^T, of shape (n_features + n_units, n_outputs), and b (n_outputs,)."""

    def rough(self, Z: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
        """A solution that is good enough for held-out losses."""
        return self.solve(Z, alpha)

    @abstractmethod
    def exact(self, Z: Tensor, alpha: float, tol: float, max_iter: int) -> Solution:
        """The minimum with its certificate, to a relative gap of `tol`."""


class SquaredProjection(Projection):
    """Squared loss: one thin SVD of X, and one QR factorisation for each Z.

    In the centred and weighted problem with ``X = U S V^T`` and ``m = alpha / 2`` the
    minimum over R1 leaves a least-squares problem in R2 alone, with the rows ::

        [(I - U U^T) Z; D U^T Z; sqrt(m) I],    D = sqrt(m / (S^2 + m))

    and the targets ``[(I - U U^T) y; D U^T y; 0]``. No normal equations are formed; at
    ``alpha = 0`` it is the projection of Theorem 2 of [1]_. Of units in the span of X
    only rounding is left in the first block, which a weak ridge would let through:
    directions of that size are taken out.

    References
    ----------
    .. [1] Kawaguchi and Bengio, "Depth with nonlinearity creates no bad local minima in
       ResNets", Neural Networks 118, 2019.
    """

    def __init__(
        self, X: Tensor, y: Tensor, weight: Tensor, loss: Loss, intercept: bool
    ):
        super().__init__(X, y, weight, loss, intercept)
        self.root = weight.sqrt()[:, None]
        U, S, Vh = torch.linalg.svd(self.root * self.X, full_matrices=False)
        # What centring leaves of a constant column is rounding of the size of its mean.
        largest = torch.maximum(S.max(), self.mean.norm())
        keep = S > RANK_RTOL * largest.clamp_min(torch.finfo(S.dtype).tiny)
        self.U, self.S, self.V = U[:, keep], S[keep], Vh[keep].T
        centred, self.y_mean = self._centred(y)
        self.along, self.across = self._divide(self.root * centred)

    def _divide(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Coordinates along U, and the part across it."""
        along = self.U.T @ rows
        across = torch.addmm(rows, self.U, along, alpha=-1)
        # Twice is enough: the second pass takes off the rounding of the first.
        return along, across.addmm_(self.U, self.U.T @ across, alpha=-1)

    def solve(self, Z: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
        Z, mean = self._centred(Z)
        coef = self._coef(Z, mean, alpha)
        return coef, self._free(coef, self.y_mean, mean)

    def exact(self, Z: Tensor, alpha: float, tol: float, max_iter: int) -> Solution:
        Z, mean = self._centred(Z)
        coef = self._coef(Z, mean, alpha)
        flat = coef.reshape(-1)
        solution = finish(self.problem(Z, alpha), flat, self.y_mean, 1, True)
        return replace(solution, intercept=self._free(coef, self.y_mean, mean))

    def _coef(self, Z: Tensor, mean: Tensor, alpha: float) -> Tensor:
        """R^T for centred units of the given mean."""
        shift, rows = alpha / 2, self.root * Z
        along, across = self._divide(rows)
        size = torch.maximum(rows.norm(), mean.norm())
        B = self._units(along, across, shift, size)
        A = self.S / (self.S.square() + shift)
        return torch.cat([self.V @ (A[:, None] * (self.along - along @ B)), B])

    def _units(
        self, along: Tensor, across: Tensor, shift: float, size: Tensor
    ) -> Tensor:
        """R2^T from the reduced least-squares problem; `size` is that of the units."""
        n_units, left = along.shape[1], self.across
        if shift <= (WEAK * size) ** 2:
            U, S, Vh = torch.linalg.svd(across, full_matrices=False)
            keep = S > RANK_RTOL * size
            across, left = S[keep, None] * Vh[keep], U[:, keep].T @ left
            if shift == 0:
                return Vh[keep].T @ (left / S[keep, None])
        D = (shift / (self.S.square() + shift)).sqrt()[:, None]
        n, r = len(across), len(D)
        # Units and targets side by side, written once.
        rows = across.new_zeros(n + r + n_units, n_units + left.shape[1])
        rows[:n, :n_units], rows[:n, n_units:] = across, left
        rows[n : n + r, :n_units], rows[n : n + r, n_units:] = D * along, D * self.along
        rows[n + r :, :n_units].diagonal().fill_(shift**0.5)
        R = torch.linalg.qr(rows, mode="r")[1]
        return torch.linalg.solve_triangular(
            R[:n_units, :n_units], R[:n_units, n_units:], upper=True
        )

    def leave_one_out(self, alphas: Tensor, unit: Tensor) -> Tensor:
        """Mean squared error of each ridge on rows that its model has not seen.

        All outputs of the model on X alone share the leverages, so this is cheaper than
        `RidgePath.leave_one_out`, which it equals. `unit` is the share of each row's
        weight that is left out.
        """
        scores = []
        for shift in alphas / 2:
            shrinkage = self.S.square() / (self.S.square() + shift)
            fitted = self.U @ (shrinkage[:, None] * self.along)
            residual = self.across + self.U @ self.along - fitted
            leverage = self.U.square() @ shrinkage
            if self.intercept:
                leverage = leverage + self.weight
            remaining = (1 - unit * leverage).clamp_min(1e-12)
            scores.append((residual / remaining[:, None]).square().sum())
        return torch.stack(scores)


class NewtonProjection(Projection):
    """Any loss: Newton, from the last solution with as many features."""

    # The objective is then exact to 1e-7, and its gradient by z to about the root.
    tol, max_iter = 1e-7, 100

    def __init__(
        self, X: Tensor, y: Tensor, weight: Tensor, loss: Loss, intercept: bool
    ):
        super().__init__(X, y, weight, loss, intercept)
        # The last solution by number of units, for any ridge and for each.
        self._starts: dict[tuple[int, float | None], tuple[Tensor, Tensor]] = {}

    def solve(self, Z: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
        return self._parts(self.exact(Z, alpha, self.tol, self.max_iter))

    def rough(self, Z: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
        if Z.shape[1] and (0, None) not in self._starts:
            self.rough(Z[:, :0], alpha)
        return self._parts(self._solution(Z, alpha, None, self.max_iter))

    def exact(self, Z: Tensor, alpha: float, tol: float, max_iter: int) -> Solution:
        return self._solution(Z, alpha, tol, max_iter)

    def _parts(self, solution: Solution) -> tuple[Tensor, Tensor]:
        return solution.coef.reshape(-1, self.y.shape[1]), solution.intercept

    def _solution(
        self, Z: Tensor, alpha: float, tol: float | None, max_iter: int
    ) -> Solution:
        """A solution to a certified gap of `tol`, or a rough one for None."""
        problem, n_units = self.problem(Z, alpha), Z.shape[1]
        start = self._start(problem, n_units)
        certified = tol is not None
        goal = self._rough_tol(problem, start) if tol is None else tol
        solver = PathSolver(problem, "auto", MAX_MEMORY)
        solution = solver.solve(alpha, start, goal, max_iter, certified)
        if not solution.converged and start is not None:
            # A start far from this problem's solution is worse than none.
            fresh = solver.solve(alpha, None, goal, max_iter, certified)
            solution = min(fresh, solution, key=lambda found: found.value)
        found = solution.coef, solution.intercept
        self._starts[n_units, alpha] = self._starts[n_units, None] = found
        mean = self._centred(Z)[1]
        intercept = self._free(solution.coef, solution.intercept, mean)
        return replace(solution, intercept=intercept)

    def _rough_tol(
        self, problem: ConvexProblem, start: tuple[Tensor, Tensor] | None
    ) -> float:
        """ROUGH_TOL, and more where classes are separable: digits of a loss near zero.

        They would change no comparison of held-out losses, at ten times the cost.
        """
        if start is None:
            return ROUGH_TOL
        raws = torch.zeros_like(self.y), problem.raw(*start)
        constant, here = (abs(float(problem.data_value(raw))) for raw in raws)
        return ROUGH_TOL * max(1.0, ROUGH_TOL * constant / max(here, 1e-300))

    def _start(
        self, problem: ConvexProblem, n_units: int
    ) -> tuple[Tensor, Tensor] | None:
        """The last solution for this ridge or any, or zeros for units without one."""
        for count in (n_units, 0):
            for alpha in (problem.alpha, None):
                if (count, alpha) in self._starts:
                    known, intercept = self._starts[count, alpha]
                    coef = problem.zero()[0]
                    coef[: len(known)] = known
                    return coef, intercept
        return None


def projection(
    X: Tensor, y: Tensor, weight: Tensor, loss: Loss, intercept: bool
) -> Projection:
    """The projection that suits a loss."""
    kind = SquaredProjection if loss.quadratic else NewtonProjection
    return kind(X, y, weight, loss, intercept)
