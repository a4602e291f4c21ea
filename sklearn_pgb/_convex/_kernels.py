"""Convex problems given by kernel matrices, one per output, in dual form."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sklearn_pgb._budget import LEAST_CURVATURE
from sklearn_pgb._losses._loss import Loss


@dataclass(frozen=True, eq=False)
class KernelProblem:
    """A penalized loss over functions of reproducing kernel Hilbert spaces.

    It is ::

        min_{f, b}  sum_i w_i l(f(x_i) + b + o_i, y_i) + (alpha / 2) sum_c ||f_c||^2

    with f_c in the space of the kernel of output c. Its solution is
    ``f_c(x) = sum_i k_c(x, x_i) beta_ic``.

    Attributes
    ----------
    kernels : Tensor (n_outputs, n_samples, n_samples) or (1, n_samples, n_samples)
        One kernel matrix per output, or one for all.
    y : Tensor (n_samples, n_outputs)
    loss : Loss
    weight : Tensor (n_samples,)
        Positive weights with sum one.
    alpha : float
        Positive.
    offset : Tensor (n_samples, n_outputs)
    """

    kernels: Tensor
    y: Tensor
    loss: Loss
    weight: Tensor
    alpha: float
    offset: Tensor

    def product(self, dual: Tensor) -> Tensor:
        """The functions with these duals on the samples, (n_samples, n_outputs)."""
        if len(self.kernels) == 1:
            return self.kernels[0] @ dual
        return torch.einsum("cij,jc->ic", self.kernels, dual)

    def value(self, raw: Tensor, function: Tensor, dual: Tensor) -> float:
        """Objective of a function with its values and duals."""
        loss = self.weight @ self.loss.value(self.y, raw)
        return float(loss + self.alpha / 2 * (function * dual).sum())


@dataclass(frozen=True, eq=False)
class KernelSolution:
    """A solution: duals, intercept, and whether Newton's method converged."""

    dual: Tensor
    intercept: Tensor
    converged: bool


def solve_kernels(
    problem: KernelProblem,
    *,
    tol: float,
    max_iter: int,
    start: KernelSolution | None = None,
) -> KernelSolution:
    """Minimize by Newton's method, with one factorization per output and step.

    A step solves a weighted least squares problem for each output, with the Hessians'
    diagonals as weights; those of the softmax are doubled, which bounds its Hessian
    (each row of ``diag(p) - p p^T`` sums to zero, so relative to its diagonal its
    eigenvalues are at most two). Steps are halved until the objective decreases.

    Parameters
    ----------
    problem : KernelProblem
    tol : float
        Stop after a step that decreases the objective by less than this fraction.
    max_iter : int
    start : KernelSolution or None
        Solution of a similar problem, used if it is better than zero.
    """
    y, loss, weight = problem.y, problem.loss, problem.weight[:, None]
    dual, intercept = torch.zeros_like(y), y.new_zeros(y.shape[1])
    function, raw = torch.zeros_like(y), problem.offset
    value = problem.value(raw, function, dual)
    if start is not None:
        begun = problem.product(start.dual)
        begun_raw = begun + start.intercept + problem.offset
        begun_value = problem.value(begun_raw, begun, start.dual)
        if begun_value < value:
            dual, intercept = start.dual, start.intercept
            function, raw, value = begun, begun_raw, begun_value
    coupled = 2.0 if loss.dual_rows_sum_to_zero else 1.0
    for _ in range(max_iter):
        curvature = coupled * weight * loss.hessian_diagonal(y, raw)
        root = curvature.clamp(min=LEAST_CURVATURE * float(curvature.max())).sqrt()
        working = root * (raw - problem.offset) - weight * loss.gradient(y, raw) / root
        goal = _weighted_fits(problem, root, working)
        step, accepted = 1.0, False
        moves = goal[0] - dual, goal[1] - intercept
        change = problem.product(moves[0])
        while not accepted and step > 1e-4:
            new = dual + step * moves[0], intercept + step * moves[1]
            new_function = function + step * change
            new_raw = new_function + new[1] + problem.offset
            new_value = problem.value(new_raw, new_function, new[0])
            accepted = new_value <= value + 1e-14 * abs(value)
            step /= 2
        if not accepted:
            return KernelSolution(dual, intercept, True)
        decrease = value - new_value
        (dual, intercept), function, raw, value = new, new_function, new_raw, new_value
        if loss.quadratic or decrease <= tol * abs(value):
            return KernelSolution(dual, intercept, True)
    return KernelSolution(dual, intercept, False)


def _weighted_fits(
    problem: KernelProblem, root: Tensor, working: Tensor
) -> tuple[Tensor, Tensor]:
    """Duals and intercepts of one weighted least squares problem per output.

    With roots s of the weights and working responses z, the duals are ``s gamma`` with
    ``(alpha I + s K s) gamma = s (z - b)`` and ``s^T gamma = 0``. This form is stable
    for tiny weights. `working` holds s z.
    """
    duals, intercepts = [], []
    for c in range(root.shape[1]):
        s = root[:, c]
        system = problem.kernels[c % len(problem.kernels)] * s
        system *= s[:, None]
        system.diagonal().add_(problem.alpha)
        factor = torch.linalg.cholesky_ex(system)[0]
        sides = torch.stack([working[:, c], s], 1)
        solved = torch.cholesky_solve(sides, factor)
        b = (s @ solved[:, 0]) / (s @ solved[:, 1])
        duals.append(s * (solved[:, 0] - b * solved[:, 1]))
        intercepts.append(b)
    return torch.stack(duals, 1), torch.stack(intercepts)
