"""Convex problems given by kernel matrices, one per output."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from sklearn_pgb._budget import LANDMARK_JITTER, LEAST_CURVATURE
from sklearn_pgb._losses._loss import Loss


@dataclass(frozen=True, eq=False)
class KernelProblem(ABC):
    """A penalized loss over functions of reproducing kernel Hilbert spaces.

    It is ::

        min_{f, b}  sum_i w_i l(f(x_i) + b + o_i, y_i) + (alpha / 2) sum_c ||f_c||^2

    with f_c in the space of the kernel of output c. A function is given by coefficients
    of shape (n_coef, n_outputs).

    Attributes
    ----------
    kernels : Tensor (n_kernels, n_samples, n_coef)
        One matrix per output, or one for all.
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

    def function(self, coef: Tensor) -> Tensor:
        """Values of the functions on the samples, (n_samples, n_outputs)."""
        return apply_kernels(self.kernels, coef)

    def value(self, raw: Tensor, function: Tensor, coef: Tensor) -> float:
        """Objective of a function with its values and coefficients."""
        loss = self.weight @ self.loss.value(self.y, raw)
        return float(loss + self.alpha / 2 * self.squared_norm(function, coef))

    @abstractmethod
    def squared_norm(self, function: Tensor, coef: Tensor) -> Tensor:
        """Sum of the squared norms of the functions."""

    @abstractmethod
    def weighted_fit(
        self, kernel: Tensor, root: Tensor, working: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Coefficients and intercept of a weighted least squares problem.

        Parameters
        ----------
        kernel : Tensor (n_samples, n_coef)
        root : Tensor (n_samples,)
            Roots s of the weights.
        working : Tensor (n_samples,)
            Working responses z, times s.
        """


class DualProblem(KernelProblem):
    """The problem with one coefficient per sample: ``f(x) = sum_i k(x, x_i) c_i``."""

    def squared_norm(self, function: Tensor, coef: Tensor) -> Tensor:
        return (function * coef).sum()

    def weighted_fit(
        self, kernel: Tensor, root: Tensor, working: Tensor
    ) -> tuple[Tensor, Tensor]:
        # c = s gamma with (alpha I + s K s) gamma = s (z - b) and s^T gamma = 0, which
        # is stable for tiny weights.
        system = kernel * root
        system *= root[:, None]
        system.diagonal().add_(self.alpha)
        factor = torch.linalg.cholesky_ex(system)[0]
        solved = torch.cholesky_solve(torch.stack([working, root], 1), factor)
        b = (root @ solved[:, 0]) / (root @ solved[:, 1])
        return root * (solved[:, 0] - b * solved[:, 1]), b


class FeatureProblem(KernelProblem):
    """The problem with features in place of kernels: ``f = F c``, of norm ``||c||``."""

    def squared_norm(self, function: Tensor, coef: Tensor) -> Tensor:
        return coef.square().sum()

    def weighted_fit(
        self, kernel: Tensor, root: Tensor, working: Tensor
    ) -> tuple[Tensor, Tensor]:
        scaled = root[:, None] * kernel
        system = scaled.T @ scaled
        system.diagonal().add_(self.alpha)
        factor = torch.linalg.cholesky_ex(system)[0]
        sides = scaled.T @ torch.stack([working, root], 1)
        solved = torch.cholesky_solve(sides, factor)
        b = (root @ working - sides[:, 1] @ solved[:, 0]) / (
            root @ root - sides[:, 1] @ solved[:, 1]
        )
        return solved[:, 0] - b * solved[:, 1], b


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
    return torch.einsum("cij,jc->ic", kernels, coef)


def landmark_features(cross: Tensor, landmarks: Tensor) -> tuple[Tensor, Tensor]:
    """Features of functions that are spanned by the kernels of some samples.

    Parameters
    ----------
    cross : Tensor (n_kernels, n_samples, n_landmarks)
        Kernels between the samples and the landmarks.
    landmarks : Tensor (n_kernels, n_landmarks, n_landmarks)
        Kernels of the landmarks.

    Returns
    -------
    features : Tensor (n_kernels, n_samples, n_landmarks)
        ``K L^-T`` with ``K_landmarks = L L^T``.
    factor : Tensor (n_kernels, n_landmarks, n_landmarks)
        L, which `landmark_dual` needs.
    """
    size = landmarks.diagonal(dim1=1, dim2=2).mean(1)
    jittered = landmarks.clone()
    jittered.diagonal(dim1=1, dim2=2).add_(LANDMARK_JITTER * size[:, None])
    factor = torch.linalg.cholesky_ex(jittered)[0]
    features = torch.linalg.solve_triangular(factor, cross.mT, upper=False).mT
    return features, factor


def landmark_dual(factor: Tensor, coef: Tensor) -> Tensor:
    """Coefficients of the landmarks' kernels, from those of their features."""
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
    coef = y.new_zeros(problem.kernels.shape[2], y.shape[1])
    intercept, function, raw = y.new_zeros(y.shape[1]), 0 * y, problem.offset
    value = problem.value(raw, function, coef)
    if start is not None:
        begun = problem.function(start.coef)
        begun_raw = begun + start.intercept + problem.offset
        begun_value = problem.value(begun_raw, begun, start.coef)
        if begun_value < value:
            coef, intercept = start.coef, start.intercept
            function, raw, value = begun, begun_raw, begun_value
    coupled = 2.0 if loss.dual_rows_sum_to_zero else 1.0
    for _ in range(max_iter):
        curvature = coupled * weight * loss.hessian_diagonal(y, raw)
        root = curvature.clamp(min=LEAST_CURVATURE * float(curvature.max())).sqrt()
        working = root * (raw - problem.offset) - weight * loss.gradient(y, raw) / root
        fits = [
            problem.weighted_fit(
                problem.kernels[c % len(problem.kernels)], root[:, c], working[:, c]
            )
            for c in range(y.shape[1])
        ]
        move = torch.stack([own for own, _ in fits], 1) - coef
        shift = torch.stack([b for _, b in fits]) - intercept
        change, step, accepted = problem.function(move), 1.0, False
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
        coef, intercept, function = new_coef, new_intercept, new_function
        raw, value = new_raw, new_value
        if loss.quadratic or decrease <= tol * abs(value):
            return KernelSolution(coef, intercept, True)
    return KernelSolution(coef, intercept, False)
