"""`solve`: one convex problem, three ways, chosen by size."""

import math
import warnings
from dataclasses import replace

import torch
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from sklearn_pgb._convex._newton import (
    DualSystem,
    MatrixFreeSystem,
    NewtonSystem,
    PrimalSystem,
    RecycledSystem,
    newton,
)
from sklearn_pgb._convex._problem import ConvexProblem, Solution, finish
from sklearn_pgb._convex._ridge import (
    RidgePath,
    column_means,
    lsmr_ridge,
    ridge_path,
)
from sklearn_pgb._operators import DenseOperator, KroneckerOperator

# Cost of one small tensor operation in flops, and Hessian products of one Newton step;
# both decide between many small products and few large factorisations, for which an
# order of magnitude is enough.
LAUNCH_FLOPS = 2.5e5
PRODUCTS = 30
LSMR_ITERATIONS = 20_000

# Narrowest and widest Hessian that is factorised for a sequence of problems. With fewer
# rows than columns and a weak ridge a factor magnifies rounding: 15 rows of 102 columns
# with weights one and two ended 1e-5 from repeated rows. Plain conjugate gradients end
# 1e-7 from them, and are quick on what is narrow.
RECYCLED_COEF = 250, 2_000


def memory_text(n_bytes: float) -> str:
    """A number of bytes in the largest unit that leaves a digit before the point.

    It is rounded up, so that what is said to be enough is enough.
    """
    power = min(max(int(math.log2(max(n_bytes, 1))) // 10, 0), 4)
    amount = n_bytes / 2 ** (10 * power)
    unit = ("B", "KiB", "MiB", "GiB", "TiB")[power]
    return f"{math.ceil(100 * amount) / 100:.10g} {unit}"


def choose_method(problem: ConvexProblem, max_memory: float) -> str:
    """The cheapest of "primal", "dual" and "matrix-free" that fits into memory.

    Raises
    ------
    ValueError
        If not even the vectors of the matrix-free path fit.
    """
    operator = problem.operator
    p, rows, k = operator.n_coef, operator.n_rows, operator.n_outputs
    item = operator.dtype.itemsize
    needed = {
        "primal": 3.0 * item * p * p,
        "dual": 3.0 * item * rows * rows,
        "matrix-free": 12.0 * item * (p + rows),
    }
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
    if problem.alpha == 0:
        needed.pop("dual")
    possible = [name for name in needed if needed[name] <= max_memory]
    if not possible:
        least = min(needed.values())
        raise ValueError(
            f"max_memory must be at least {memory_text(least)} for a basis of "
            f"{p} coefficients on {rows} rows, got {memory_text(max_memory)}. "
            "Raise max_memory, or use a smaller network or fewer rows."
        )
    return min(possible, key=lambda name: cost[name])


def solve(
    problem: ConvexProblem,
    *,
    method: str = "auto",
    max_memory: float = 2.0**30,
    tol: float = 1e-6,
    max_iter: int = 100,
    start: tuple[Tensor, Tensor] | None = None,
    path: RidgePath | None = None,
) -> Solution:
    """Solve a convex problem to a certified gap of `tol` times its objective.

    Parameters
    ----------
    problem : ConvexProblem
    method : {"auto", "primal", "dual", "matrix-free"}
        Primal: Cholesky or eigendecomposition as wide as the coefficients; dual: as
        wide as the rows; matrix-free: LSMR (squared loss) or Newton with conjugate
        gradients.
    max_memory : float
        Bytes that the chosen path may use.
    tol : float
        Relative tolerance on the certified gap.
    max_iter : int
        Newton steps.
    start : pair of Tensor or None
        Coefficients and intercept to start Newton from.
    path : RidgePath or None
        A decomposition of this problem, for the squared loss with a ridge.

    Returns
    -------
    Solution
    """
    solver = PathSolver(problem, method, max_memory, path)
    return solver.solve(problem.alpha, start, tol, max_iter)


class PathSolver:
    """Solves one problem for several ridges and shares what it can between them.

    Parameters
    ----------
    problem : ConvexProblem
        Its `alpha` decides the method only.
    method : {"auto", "primal", "dual", "matrix-free"}
    max_memory : float
    path : RidgePath or None
        A decomposition that is there already.
    """

    def __init__(
        self,
        problem: ConvexProblem,
        method: str,
        max_memory: float,
        path: RidgePath | None = None,
    ):
        if method == "auto":
            method = choose_method(problem, max_memory)
        self.problem, self.method, self.max_memory = problem, method, max_memory
        self._path = path
        self._system: NewtonSystem | None = None

    def solve(
        self,
        alpha: float,
        start: tuple[Tensor, Tensor] | None,
        tol: float,
        max_iter: int,
        certified: bool = True,
    ) -> Solution:
        """The solution for one ridge; see `solve` and `newton`."""
        problem = self.problem.with_alpha(alpha)
        spectral = self.method != "matrix-free"
        if problem.loss.quadratic:
            if not spectral:
                return finish(problem, *lsmr_ridge(problem, 1e-14, LSMR_ITERATIONS))
            if alpha == 0:
                return finish(problem, *spectral_least_squares(problem), 1, True)
            self._path = self._path or ridge_path(problem, self.method == "dual")
            return finish(problem, *self._path.coefficients(alpha), 1, True)
        if alpha == 0 and spectral:
            return _spectral_newton(problem, tol, max_iter)
        if self._system is None:
            self._system = _newton_system(problem, self.method, self.max_memory)
        result = newton(problem, self._system, start, tol, max_iter, certified)
        return finish(problem, *result)


class SequenceSolver:
    """Solves problems that change little from one to the next.

    Each starts from the last one's solution and Hessian. All have the same shape and
    a loss other than the squared one.
    """

    def __init__(self) -> None:
        self._start: tuple[Tensor, Tensor] | None = None
        self._system = RecycledSystem()

    def solve(
        self, problem: ConvexProblem, tol: float, max_iter: int, certified: bool = True
    ) -> Solution:
        """The next solution; see `solve` and `newton`.

        Not `certified`, it may be as good as `tol` alone where the Hessian is recycled.
        """
        solution = self._from_start(problem, tol, max_iter, certified)
        if not solution.converged and self._start is not None:
            # A start far from this problem's solution is worse than none.
            self._start = None
            fresh = self._from_start(problem, tol, max_iter, certified)
            solution = min(fresh, solution, key=lambda found: found.value)
        self._start = solution.coef, solution.intercept
        return solution

    def _from_start(
        self, problem: ConvexProblem, tol: float, max_iter: int, certified: bool
    ) -> Solution:
        least, most = RECYCLED_COEF
        if problem.alpha > 0 and least <= problem.operator.n_coef <= most:
            result = newton(
                problem, self._system, self._start, tol, max_iter, certified
            )
            return finish(problem, *result)
        return solve(problem, tol=tol, max_iter=max_iter, start=self._start)


def _newton_system(
    problem: ConvexProblem, method: str, max_memory: float
) -> NewtonSystem:
    """The linear algebra behind Newton's steps."""
    if method == "dual":
        return DualSystem(problem)
    if method == "matrix-free":
        return MatrixFreeSystem(problem)
    operator = problem.operator
    fits = operator.n_rows * operator.n_coef * operator.dtype.itemsize <= max_memory / 4
    if fits and not isinstance(operator, KroneckerOperator):
        problem = replace(problem, operator=DenseOperator(operator.dense()))
    return PrimalSystem(problem)


def spectral_basis(
    problem: ConvexProblem, rtol: float = 1e-10
) -> tuple[Tensor, Tensor, Tensor]:
    """Thin SVD of the weighted and centred basis, rank decided.

    The rank is read from the singular values of the matrix itself, never from its Gram.
    Centring takes the intercept out: it costs no norm, as in the limit of weak ridges.

    Returns
    -------
    U (n_rows, r), singular values (r,), V (n_coef, r)
    """
    n, k = problem.y.shape
    if k > 1 and isinstance(problem.operator, KroneckerOperator):
        U, singular, V = spectral_basis(problem.one_output(), rtol)
        eye = torch.eye(k, dtype=U.dtype, device=U.device)
        # Not torch.kron, which fails on some bases of rank one.
        U, V = (
            torch.einsum("ij,cd->icjd", part, eye).flatten(2).flatten(0, 1)
            for part in (U, V)
        )
        return U, singular.repeat_interleave(k), V
    mean = column_means(problem)
    centred = (problem.operator.dense() - mean).reshape(n * k, -1)
    root = problem.weight.sqrt().repeat_interleave(k)
    U, singular, Vh = torch.linalg.svd(root[:, None] * centred, full_matrices=False)
    # What centring leaves of a constant column is rounding of the size of its mean.
    scale = torch.maximum(singular.max(), torch.linalg.matrix_norm(mean, 2))
    keep = singular > rtol * scale.clamp_min(torch.finfo(centred.dtype).tiny)
    return U[:, keep], singular[keep], Vh[keep].T


def spectral_least_squares(problem: ConvexProblem) -> tuple[Tensor, Tensor]:
    """Least squares by SVD, with coefficients of smallest norm."""
    U, singular, V = spectral_basis(problem)
    base = problem.y if problem.offset is None else problem.y - problem.offset
    target = (problem.weight.sqrt()[:, None] * base).reshape(-1)
    coef = V @ ((U.T @ target) / singular)
    intercept = problem.zero()[1]
    if problem.intercept:
        intercept = problem.weight @ (problem.y - problem.raw(coef, intercept))
    return coef, intercept


def _spectral_newton(problem: ConvexProblem, tol: float, max_iter: int) -> Solution:
    """Newton on an orthonormal basis of the span: condition number one."""
    U, singular, V = spectral_basis(problem)
    n, k = problem.y.shape
    root = problem.weight.sqrt().repeat_interleave(k)
    rows = (U / root[:, None]).reshape(n, k, -1)
    span = replace(problem, operator=DenseOperator(rows))
    beta, free, n_iter, converged = newton(
        span, PrimalSystem(span), None, min(tol, 1e-10), max_iter
    )
    coef = V @ (beta / singular)
    intercept = free - column_means(problem) @ coef
    return finish(problem, coef, intercept, n_iter, converged)


def warn_if_unconverged(solution: Solution, tol: float, max_iter: int) -> None:
    """Say what was reached where the tolerance was not."""
    if solution.converged:
        return
    relative = solution.gap / max(abs(solution.value), torch.finfo(torch.float64).tiny)
    warnings.warn(
        f"The convex solver stopped after {solution.n_iter} of max_iter={max_iter} "
        f"iterations at a relative duality gap of {relative:.1e}, above tol={tol:g}. "
        "Increase max_iter or alpha, or standardise the inputs.",
        ConvergenceWarning,
        stacklevel=2,
    )
