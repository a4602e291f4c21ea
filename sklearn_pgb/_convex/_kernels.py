"""Convex problems given by kernel matrices, one per output."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sklearn_pgb._budget import (
    KERNEL_CG_STEPS,
    KERNEL_FORCING,
    LANDMARK_JITTER,
    LEAST_CURVATURE,
)
from sklearn_pgb._losses._loss import Loss
from sklearn_pgb._operators._gram import gram

# Solves linear systems for coefficients and intercepts.
Inverse = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
# Changes of the coefficients, the intercept and the function.
Direction = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class KernelProblem(ABC):
    """A penalized loss over functions of reproducing kernel Hilbert spaces.

    It is ::

        min_{f, b}  sum_i w_i l(f(x_i) + b + o_i, y_i) + (alpha / 2) sum_c ||f_c||^2

    with f_c in the space of the kernel of output c. A function is given by coefficients
    of shape (n_coef, n_outputs). There is one matrix (n_samples, n_coef) per output in
    `kernels`, or one for all. Weights are positive with sum one, and alpha is positive.
    """

    kernels: Tensor
    y: Tensor
    loss: Loss
    weight: Tensor
    alpha: float
    offset: Tensor

    def function(self, coef: Tensor) -> Tensor:
        """Values of the functions on the samples, (n_samples, n_outputs)."""
        return apply_kernels(self.kernels, coef)

    def value(self, raw: Tensor, function: Tensor, coef: Tensor) -> float:
        """Objective of a function with its values and coefficients."""
        loss = self.weight @ self.loss.value(self.y, raw)
        return float(loss + self.alpha / 2 * self.pairing(coef, coef, function))

    @abstractmethod
    def pull(self, slope: Tensor) -> Tensor:
        """Residual of coefficients, from the slopes of a loss on the samples.

        Both subclasses' residuals are those of the linear systems of `factor`.
        """

    @abstractmethod
    def pairing(self, residual: Tensor, coef: Tensor, function: Tensor) -> Tensor:
        """Inner product of a residual and coefficients.

        `function` has the values of the coefficients' function. The product of
        coefficients with themselves is the sum of the squared norms.
        """

    @abstractmethod
    def common_kernels(self) -> Tensor:
        """The mean kernel in place of all, if their coefficients have one meaning."""

    @abstractmethod
    def factor(self, kernel: Tensor, root: Tensor) -> Inverse:
        """Factorize the system of a weighted least squares problem with one kernel.

        Its weights are ``d = root^2``, and it is ::

            pull(d (f(c) + b)) + alpha c = r,    sum_i d_i (f(c)_i + b) = r_b

        The result maps r (n_coef, n_sides) and r_b (n_sides,) to c and b.
        """


class DualProblem(KernelProblem):
    """The problem with one coefficient per sample: ``f(x) = sum_i k(x, x_i) c_i``.

    Residuals are those of ``c``, not multiplied by the kernel, which may be singular.
    """

    def pull(self, slope: Tensor) -> Tensor:
        return slope

    def pairing(self, residual: Tensor, coef: Tensor, function: Tensor) -> Tensor:
        return (residual * function).sum()

    def common_kernels(self) -> Tensor:
        return self.kernels.mean(0, keepdim=True)

    def factor(self, kernel: Tensor, root: Tensor) -> Inverse:
        # With c = s q for the roots s, (alpha I + s K s) q = r / s - s b, which is
        # stable for tiny weights; the sum of the first equations less the second one is
        # alpha sum(c) = sum(r) - r_b.
        system = kernel * root
        system *= root[:, None]
        system.diagonal().add_(self.alpha)
        factor = torch.linalg.cholesky_ex(system)[0]
        constant = torch.cholesky_solve(root[:, None], factor)
        size = root @ constant

        def inverse(residual: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
            solved = torch.cholesky_solve(residual / root[:, None], factor)
            b = (root @ solved - (residual.sum(0) - total) / self.alpha) / size
            return root[:, None] * (solved - b * constant), b

        return inverse


class FeatureProblem(KernelProblem):
    """The problem with features in place of kernels: ``f = F c``, of norm ``||c||``."""

    def pull(self, slope: Tensor) -> Tensor:
        return apply_kernels(self.kernels.mT, slope)

    def pairing(self, residual: Tensor, coef: Tensor, function: Tensor) -> Tensor:
        return (residual * coef).sum()

    def common_kernels(self) -> Tensor:
        # Every output has features of its own.
        return self.kernels

    def factor(self, kernel: Tensor, root: Tensor) -> Inverse:
        scaled = root[:, None] * kernel
        system = gram(scaled)
        system.diagonal().add_(self.alpha)
        factor = torch.linalg.cholesky_ex(system)[0]
        mean = scaled.T @ root
        constant = torch.cholesky_solve(mean[:, None], factor)
        size = root @ root - mean @ constant

        def inverse(residual: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
            solved = torch.cholesky_solve(residual, factor)
            b = (total - mean @ solved) / size
            return solved - b * constant, b

        return inverse


@dataclass(frozen=True, eq=False)
class KernelSolution:
    """A solution: coefficients, intercept, and whether Newton's method converged."""

    coef: Tensor
    intercept: Tensor
    converged: bool


def apply_kernels(kernels: Tensor, coef: Tensor) -> Tensor:
    """Products of one matrix per output, or one for all, with coefficients."""
    if len(kernels) == 1:
        return kernels[0] @ coef
    # One by one: a batched product with vectors takes six times as long.
    columns = coef.T.contiguous()
    return torch.stack(list(map(torch.mv, kernels, columns)), 1)


def landmark_features(cross: Tensor, landmarks: Tensor) -> tuple[Tensor, Tensor]:
    """Features ``K L^-T`` of functions that are spanned by the kernels of some samples.

    `cross` holds the kernels between the samples and these landmarks. The second result
    is the factor L of the landmarks' kernels, ``L L^T``, which `landmark_dual` needs.
    """
    size = landmarks.diagonal(dim1=1, dim2=2).mean(1)
    jittered = landmarks.clone()
    jittered.diagonal(dim1=1, dim2=2).add_(LANDMARK_JITTER * size[:, None])
    factor = torch.linalg.cholesky_ex(jittered)[0]
    features = torch.linalg.solve_triangular(factor, cross.mT, upper=False).mT
    return features, factor


def landmark_dual(factor: Tensor, coef: Tensor) -> Tensor:
    """Convert coefficients of the landmarks' features to those of their kernels."""
    columns = coef.T[:, :, None]
    solved = torch.linalg.solve_triangular(
        factor.mT.expand(len(columns), -1, -1), columns, upper=True
    )
    return solved[:, :, 0].T


def solve_kernels(
    problem: KernelProblem,
    *,
    tol: float,
    max_iter: int,
    start: KernelSolution | None = None,
) -> KernelSolution:
    """Minimize by Newton's method, with one factorization per output and step.

    Steps are halved until the objective decreases. The iterations stop if the next step
    is expected to decrease the objective by less than the fraction `tol`, given the
    ratio of the last two decreases. A start is only used if it is better than zero.
    """
    coef = problem.y.new_zeros(problem.kernels.shape[2], problem.y.shape[1])
    intercept, function = coef.new_zeros(problem.y.shape[1]), 0 * problem.y
    raw = problem.offset
    value = problem.value(raw, function, coef)
    if start is not None:
        begun = problem.function(start.coef)
        begun_raw = begun + start.intercept + problem.offset
        begun_value = problem.value(begun_raw, begun, start.coef)
        if begun_value < value:
            coef, intercept = start.coef, start.intercept
            function, raw, value = begun, begun_raw, begun_value
    last = 0.0
    for _ in range(max_iter):
        move, shift, change = _newton_direction(problem, raw, coef)
        step, accepted = 1.0, False
        while not accepted and step > 1e-4:
            new_coef, new_function = coef + step * move, function + step * change
            new_intercept = intercept + step * shift
            new_raw = new_function + new_intercept + problem.offset
            new_value = problem.value(new_raw, new_function, new_coef)
            accepted = new_value <= value + 1e-14 * abs(value)
            step /= 2
        if not accepted:
            return KernelSolution(coef, intercept, True)
        decrease = value - new_value
        expected = decrease * min(1.0, decrease / last) if last > 0 else decrease
        coef, intercept, function = new_coef, new_intercept, new_function
        raw, value, last = new_raw, new_value, decrease
        if problem.loss.quadratic or expected <= tol * abs(value):
            return KernelSolution(coef, intercept, True)
    return KernelSolution(coef, intercept, False)


def _newton_direction(problem: KernelProblem, raw: Tensor, coef: Tensor) -> Direction:
    """Return the Newton step.

    One system per output is factorized, with the diagonals of the Hessians as weights.
    Those of the softmax, ``diag(p) - p p^T``, couple the outputs. Then a single system
    preconditions conjugate gradients: that of the mean kernel with the mean nonzero
    eigenvalues as weights.
    """
    y, loss, weight = problem.y, problem.loss, problem.weight[:, None]
    slope = weight * loss.gradient(y, raw)
    curvature = weight * loss.hessian_diagonal(y, raw)
    kernels, k = problem.kernels, raw.shape[1]
    coupled = loss.dual_rows_sum_to_zero and k > 1
    if coupled:
        curvature = curvature.sum(1, keepdim=True) / (k - 1)
        kernels = problem.common_kernels()
    elif loss.quadratic:
        curvature = curvature[:, :1]
    root = curvature.clamp(min=LEAST_CURVATURE * float(curvature.max())).sqrt()
    # One factorization for all outputs, or one for each.
    count = max(len(kernels), root.shape[1])
    inverses = [
        problem.factor(kernels[c % len(kernels)], root[:, c % root.shape[1]])
        for c in range(count)
    ]

    def solved(residual: Tensor, total: Tensor) -> Direction:
        if count == 1:
            own, b = inverses[0](residual, total)
        else:
            sides = zip(inverses, residual.split(1, 1), total.split(1), strict=True)
            parts = [inverse(r, r_b) for inverse, r, r_b in sides]
            own, b = (torch.cat(part, -1) for part in zip(*parts, strict=True))
        return own, b, problem.function(own)

    residual, total = -problem.pull(slope) - problem.alpha * coef, -slope.sum(0)
    ahead = solved(residual, total)
    if not coupled:
        return ahead
    hessian = loss.hessian(y, raw)
    move, shift, change = (torch.zeros_like(part) for part in ahead)
    size = first = problem.pairing(residual, ahead[0], ahead[2]) + total @ ahead[1]
    for _ in range(KERNEL_CG_STEPS):
        own, b, function = ahead
        curved = weight * hessian(function + b)
        image, image_b = problem.pull(curved) + problem.alpha * own, curved.sum(0)
        step = size / (problem.pairing(image, own, function) + image_b @ b)
        move, shift = move + step * own, shift + step * b
        change = change + step * function
        residual, total = residual - step * image, total - step * image_b
        back = solved(residual, total)
        new = problem.pairing(residual, back[0], back[2]) + total @ back[1]
        # The fraction of the squared error that the step leaves.
        if not new > KERNEL_FORCING**2 * first:
            break
        ratio = new / size
        own, b, function = (
            part + ratio * old for part, old in zip(back, ahead, strict=True)
        )
        ahead, size = (own, b, function), new
    return move, shift, change
