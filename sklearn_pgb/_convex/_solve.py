"""Solve a convex problem by the cheapest of three methods that fits into memory."""

import math
import warnings
from dataclasses import replace

import torch
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from sklearn_pgb._budget import (
    GAP_ULPS,
    LAUNCH_FLOPS,
    LSMR_FRACTION,
    LSMR_ITERATIONS,
    MAX_MEMORY,
    PRODUCTS,
    SINGLE_DECREASE,
)
from sklearn_pgb._convex._newton import (
    MatrixFreeSystem,
    NewtonSystem,
    newton,
    newton_system,
)
from sklearn_pgb._convex._problem import ConvexProblem, Solution, finish
from sklearn_pgb._convex._ridge import RidgePath, cholesky_ridge, lsmr_ridge, ridge_path
from sklearn_pgb._convex._spectral import SpectralSolver, objective_of

# A warm start: coefficients and intercept.
Start = tuple[Tensor, Tensor] | None


def memory_needed(problem: ConvexProblem) -> dict[str, float]:
    """Bytes that "primal", "dual" (if alpha is positive) and "matrix-free" need."""
    operator = problem.operator
    p, rows, item = operator.n_coef, operator.n_rows, operator.dtype.itemsize
    # An eigendecomposition holds the matrix, a copy, and a workspace twice as large.
    needed = {"primal": 4.0 * item * p * p, "dual": 4.0 * item * rows * rows}
    if problem.alpha == 0:
        needed.pop("dual")
    return needed | {"matrix-free": 12.0 * item * (p + rows)}


def choose_method(
    problem: ConvexProblem, max_memory: float, method: str = "auto"
) -> str:
    """The cheapest of "primal", "dual" and "matrix-free" that fits into memory."""
    operator, needed = problem.operator, memory_needed(problem)
    p, rows, k = operator.n_coef, operator.n_rows, operator.n_outputs
    # A chain's Hessian product: four matrix products per layer, each 2 n p flops.
    product = 8.0 * operator.n_samples * p
    if problem.loss.quadratic:
        cost = {
            "primal": rows * p * p + 9.0 * p**3,
            "dual": rows * rows * p + 9.0 * rows**3,
            "matrix-free": float("inf"),
        }
    else:
        cost = {
            "primal": 2.0 * rows * p * p + p**3 / 3 + 20 * LAUNCH_FLOPS,
            # The softmax Hessian's blocks cost more in memory traffic than in flops.
            "dual": 2.0 * rows**3 + 60.0 * rows**2 * k + (20 + 10 * k) * LAUNCH_FLOPS,
            "matrix-free": PRODUCTS * (product + 15 * LAUNCH_FLOPS),
        }
        if operator.shared_features is not None and k > 1:
            # The normal matrix takes one product for each pair of outputs.
            cost["primal"] += 1.5 * k * k * LAUNCH_FLOPS
    wanted = needed if method not in needed else {method: needed[method]}
    possible = [name for name in wanted if needed[name] <= max_memory]
    if not possible:
        least = min(wanted.values())
        solver = "" if method == "auto" else f"solver={method!r} and "
        raise ValueError(
            f"max_memory must be at least {memory_text(least)} for {solver}a basis of "
            f"{p} coefficients on {rows} rows, got {memory_text(max_memory)}. "
            "Raise max_memory, leave solver at 'auto', or use a smaller network or "
            "fewer samples."
        )
    return min(possible, key=lambda name: cost[name])


def memory_text(n_bytes: float) -> str:
    """A number of bytes as text, rounded up so that the named amount is enough."""
    power = min(max(int(math.log2(max(n_bytes, 1))) // 10, 0), 4)
    amount = n_bytes / 2 ** (10 * power)
    unit = ("B", "KiB", "MiB", "GiB", "TiB")[power]
    return f"{math.ceil(100 * amount) / 100:.10g} {unit}"


def solve(
    problem: ConvexProblem,
    *,
    method: str = "auto",
    max_memory: float = MAX_MEMORY,
    tol: float = 1e-6,
    max_iter: int = 100,
    start: Start = None,
    path: RidgePath | None = None,
) -> Solution:
    """Solve a convex problem to a certified gap of `tol` times its objective.

    Parameters
    ----------
    method : {"auto", "primal", "dual", "matrix-free"}
        "primal" and "dual" factorize the matrix of the coefficients and of the rows.
        "matrix-free" is LSMR for the squared loss and Newton with conjugate gradients
        for others. "auto" takes the cheapest that fits into `max_memory` bytes.
    max_iter : int
        Largest number of Newton steps.
    start : pair of Tensor or None
        Coefficients and intercept.
    path : RidgePath or None
        A decomposition of this problem, for the squared loss with alpha > 0.
    """
    solver = PathSolver(problem, method, max_memory, path, one_alpha=True)
    return solver.solve(problem.alpha, start, tol, max_iter)


class PathSolver:
    """Solve one problem for several alphas and reuse its decompositions.

    The problem's own alpha is only used to choose the method. A decomposition can be
    passed as `path`. With `one_alpha`, a Cholesky factorization is enough.
    """

    def __init__(
        self,
        problem: ConvexProblem,
        method: str,
        max_memory: float,
        path: RidgePath | None = None,
        one_alpha: bool = False,
    ):
        method = choose_method(problem, max_memory, method)
        self.problem, self.method, self.max_memory = problem, method, max_memory
        self._path, self._one_alpha = path, one_alpha
        self._system: NewtonSystem | None = None
        self._spectral = SpectralSolver(problem)

    def solve(
        self,
        alpha: float,
        start: Start,
        tol: float,
        max_iter: int,
        certified: bool = True,
    ) -> Solution:
        """The solution for one alpha; see `solve` and `newton`.

        If the certified gap misses the tolerance, other solvers are tried and the
        smallest objective is returned, never above that of zero coefficients.
        """
        problem = self.problem.with_alpha(alpha)
        solution = self._first(problem, start, tol, max_iter, certified)
        if not certified or reaches(problem, solution, tol):
            return solution
        solutions = [
            solution,
            finish(problem, *problem.zero(), 0, False),
            self._by_spectrum(problem, start, tol, max_iter),
        ]
        if problem.loss.quadratic and not reaches(problem, solutions[-1], tol):
            solutions.append(self._by_products(problem, start, tol, max_iter))
        best = min(solutions, key=objective_of)
        # The bound of a worse solution is valid too, as it is for the same problem.
        bound = max(each.lower_bound for each in solutions)
        best = replace(best, lower_bound=bound)
        return replace(best, converged=reaches(problem, best, tol))

    def _first(
        self,
        problem: ConvexProblem,
        start: Start,
        tol: float,
        max_iter: int,
        certified: bool,
    ) -> Solution:
        """Solve by the method chosen for its cost."""
        alpha, factorizes = problem.alpha, self.method != "matrix-free"
        if alpha == 0 and factorizes:
            return self._by_spectrum(problem, start, tol, max_iter)
        if problem.loss.quadratic:
            if not factorizes:
                # The gap is |gradient|^2 / (2 alpha), so the tolerance on the gradient
                # is a root.
                rough = LSMR_FRACTION * (tol * alpha / 2) ** 0.5
                return finish(
                    problem, *lsmr_ridge(problem, rough, LSMR_ITERATIONS, start)
                )
            if self._path is None and self._one_alpha:
                factored = cholesky_ridge(problem, self.method == "dual")
                if factored is not None:
                    return finish(problem, *factored, 1, True)
            # An eigendecomposition costs several times a factorization, but solves
            # every alpha.
            self._path = self._path or ridge_path(problem, self.method == "dual")
            return finish(problem, *self._path.coefficients(alpha), 1, True)
        if self._system is None:
            self._system = newton_system(problem, self.method, self.max_memory)
        if certified:
            result = newton(problem, self._system, start, tol, max_iter)
            return finish(problem, *result)
        rough = problem
        if tol >= SINGLE_DECREASE:
            rough = self._system.for_comparisons(problem)
        dtype = rough.y.dtype
        if start is not None:
            start = start[0].to(dtype), start[1].to(dtype)
        *point, n_iter, converged = newton(
            rough, self._system, start, tol, max_iter, certified=False
        )
        coef, intercept = (part.to(problem.y) for part in point)
        return finish(problem, coef, intercept, n_iter, converged, certified=False)

    def _by_spectrum(
        self, problem: ConvexProblem, start: Start, tol: float, max_iter: int
    ) -> Solution:
        """Solve by the singular values of the basis, if they fit into memory."""
        operator = problem.operator
        if 4.0 * 8 * operator.n_rows * operator.n_coef > self.max_memory:
            return self._by_products(problem, start, tol, max_iter)
        return self._spectral.solve(problem.alpha, tol, max_iter)

    def _by_products(
        self, problem: ConvexProblem, start: Start, tol: float, max_iter: int
    ) -> Solution:
        """Solve by products with the basis: LSMR, or Newton by conjugate gradients."""
        if problem.loss.quadratic:
            return finish(problem, *lsmr_ridge(problem, 1e-14, LSMR_ITERATIONS))
        system = MatrixFreeSystem(problem)
        return finish(problem, *newton(problem, system, start, tol, max_iter))


def reaches(problem: ConvexProblem, solution: Solution, tol: float) -> bool:
    """Whether the certified gap is within the tolerance.

    The tolerance is relative to the objective. The rounding errors of the loss at zero
    coefficients, and of the outputs there, are added, because a loss may consist of
    them alone. The result is False for an objective above the loss at zero
    coefficients. If alpha = 0, no gap is known and the solver's own stopping criterion
    decides.
    """
    raw, ulps = problem.raw(*problem.zero()), GAP_ULPS * torch.finfo(torch.float64).eps
    start, moved = (float(problem.data_value(q)) for q in (raw, raw * (1 + ulps)))
    sizes = [abs(value) for value in (start, solution.value) if math.isfinite(value)]
    rounding = ulps * max(sizes, default=0.0)
    if math.isfinite(moved - start):
        rounding += abs(moved - start)
    if not math.isfinite(solution.value) or solution.value > start + rounding:
        return False
    if problem.alpha == 0:
        return solution.converged
    return solution.gap <= tol * abs(solution.value) + rounding


def warn_if_unconverged(solution: Solution, tol: float, max_iter: int) -> None:
    """Warn if the solver did not reach `tol`."""
    if solution.converged:
        return
    relative = solution.gap / max(abs(solution.value), torch.finfo(torch.float64).tiny)
    warnings.warn(
        f"The convex solver stopped after {solution.n_iter} of max_iter={max_iter} "
        f"iterations at a relative duality gap of {relative:.1e}, above tol={tol:g}. "
        "Increase max_iter or alpha, or standardize the inputs.",
        ConvergenceWarning,
        stacklevel=2,
    )
