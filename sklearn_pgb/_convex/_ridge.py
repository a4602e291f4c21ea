"""Squared loss in closed form: every ridge from one eigendecomposition."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator as ScipyOperator
from scipy.sparse.linalg import lsmr
from torch import Tensor

from sklearn_pgb._convex._problem import ConvexProblem


@dataclass(frozen=True)
class RidgePath:
    """All ridge solutions of a squared-loss problem, in spectral coordinates.

    The weighted and centred basis is ``U diag(sqrt(eigenvalues)) V^T``. With
    ``t = U^T y`` in the same weights, the solution for a ridge is
    ``V (sqrt(eigenvalues) t / (eigenvalues + alpha / 2))``: the squared loss has no
    factor one half, hence alpha / 2.

    Attributes
    ----------
    problem : ConvexProblem
        Its `alpha` is ignored.
    eigenvalues : Tensor (r,)
        Of the weighted, centred Gram or normal matrix.
    vectors : Tensor
        Eigenvectors as columns: (n_rows, r) in the dual, (n_coef, r) in the primal.
    target : Tensor (r,)
        U^T y in the dual, V^T Phi^T y in the primal.
    dual : bool
        Which of the two matrices was decomposed.
    """

    problem: ConvexProblem
    eigenvalues: Tensor
    vectors: Tensor
    target: Tensor
    dual: bool

    def with_offset(self, offset: Tensor | None) -> "RidgePath":
        """The path of the same problem with another fixed part of the outputs."""
        problem = replace(self.problem, offset=offset)
        base = problem.y if offset is None else problem.y - offset
        centred = _centre(problem, base)
        if self.dual:
            moment = (problem.weight.sqrt()[:, None] * centred).reshape(-1)
        else:
            moment = problem.operator.rmatvec(problem.weight[:, None] * centred)
        return replace(self, problem=problem, target=self.vectors.T @ moment)

    def coefficients(self, alpha: float) -> tuple[Tensor, Tensor]:
        """Coefficients and intercept for a positive ridge.

        One step of refinement with the operator itself takes back what the squared
        condition number of the Gram or normal matrix costs.
        """
        problem = self.problem
        coef, intercept = problem.zero()
        for _ in range(2):
            raw = problem.raw(coef, intercept)
            coef = coef + self._solve(raw, coef, alpha)
            if problem.intercept:
                free = problem.raw(coef, torch.zeros_like(intercept))
                intercept = problem.weight @ (problem.y - free)
        return coef, intercept

    def _solve(self, raw: Tensor, coef: Tensor, alpha: float) -> Tensor:
        """The step from `coef` to the optimum, by the factorised system."""
        problem, shift = self.problem, alpha / 2
        residual = _centre(problem, problem.y - raw)
        gradient = problem.operator.rmatvec(problem.weight[:, None] * residual)
        gradient -= shift * coef
        if not self.dual:
            return self.vectors @ (
                (self.vectors.T @ gradient) / (self.eigenvalues + shift)
            )
        # Woodbury: (A + s I)^-1 g = (g - Phi^T U U^T Phi g / (e + s)) / s
        root = problem.weight.sqrt()[:, None]
        rows = root * _centre(problem, problem.operator.matvec(gradient))
        inner = self.vectors.T @ rows.reshape(-1) / (self.eigenvalues + shift)
        back = root * (self.vectors @ inner).reshape(rows.shape)
        return (gradient - self._centred_rmatvec(back)) / shift

    def _centred_rmatvec(self, residual: Tensor) -> Tensor:
        """Phi^T of a residual whose intercept part is taken out."""
        problem = self.problem
        if problem.intercept:
            residual = residual - problem.weight[:, None] * residual.sum(0)
        return problem.operator.rmatvec(residual)

    def leave_one_out(self, alphas: Tensor, unit: Tensor) -> Tensor:
        """Prediction errors y_i - q_i when one unit of row i's weight is left out.

        Closed form: the errors are ``(I - H_ii)^-1 r_i`` with the leverage blocks H_ii
        of the weighted problem, intercept included. `unit` (n_samples,) is the share of
        each row's weight that is left out (one for unit weights).

        Returns
        -------
        Tensor (n_alphas, n_samples, n_outputs)
        """
        problem, shifts = self.problem, alphas / 2
        n, k = problem.y.shape
        root = problem.weight.sqrt()
        base = problem.y if problem.offset is None else problem.y - problem.offset
        target = root[:, None] * _centre(problem, base)
        errors = problem.y.new_empty(len(alphas), n, k)
        for rows, left in self._left_vectors():
            fitted = left @ (self._fit_factor(shifts) * self.target[:, None])
            residual = target[rows, :, None] - fitted
            leverage = self._leverage(left, shifts)
            if problem.intercept:
                eye = torch.eye(k, dtype=root.dtype, device=root.device)
                leverage += (problem.weight[rows, None, None] * eye)[..., None]
            scaled = residual / root[rows, None, None]
            errors[:, rows] = _unlever(scaled, leverage, unit[rows])
        return errors

    def _left_vectors(self) -> Iterator[tuple[slice, Tensor]]:
        """Blocks of samples with U (dual) or Phi V (primal), (n_rows, k, r)."""
        problem = self.problem
        n, k = problem.y.shape
        if self.dual:
            yield slice(0, n), self.vectors.reshape(n, k, -1)
            return
        mean = column_means(problem)
        root = problem.weight.sqrt()
        for rows, dense in problem.operator.blocks():
            centred = root[rows, None, None] * (dense - mean)
            yield rows, centred @ self.vectors

    def _fit_factor(self, shifts: Tensor) -> Tensor:
        """What turns the target coordinates into fitted ones, (r, n_alphas)."""
        e = self.eigenvalues[:, None]
        return (e if self.dual else 1.0) / (e + shifts)

    def _leverage(self, left: Tensor, shifts: Tensor) -> Tensor:
        """Blocks H_ii, of shape (n_rows, k, k, n_alphas)."""
        factor = self._fit_factor(shifts)
        k = left.shape[1]
        if k == 1:
            return (left.square()[:, 0] @ factor)[:, None, None, :]
        return torch.stack(
            [torch.einsum("icr,idr->icd", left * column, left) for column in factor.T],
            -1,
        )

    def log_evidence(self, alphas: Tensor, total_weight: float) -> Tensor:
        """Log marginal likelihood up to a constant, noise and intercept integrated.

        The model is y ~ N(b, sigma^2 (I + K / (alpha / 2))) with K the weighted kernel;
        `total_weight` is the number of rows that the weights stand for.
        """
        problem, shifts = self.problem, alphas / 2
        base = problem.y if problem.offset is None else problem.y - problem.offset
        target = _centre(problem, base)
        norm = problem.weight @ target.square().sum(1)
        e = self.eigenvalues[:, None]
        explained = self.target.square()[:, None] * self._fit_factor(shifts)
        quadratic = (norm - explained.sum(0)).clamp_min(torch.finfo(e.dtype).tiny)
        k = problem.operator.n_outputs
        n_free = total_weight * k - (k if problem.intercept else 0)
        spread = torch.log1p(e.clamp_min(0) / shifts).sum(0)
        return -0.5 * (n_free * quadratic.log() + spread)

    def leverages(self, alpha: float) -> Tensor:
        """Diagonal of the weighted hat matrix, intercept included, (n_samples, k)."""
        problem = self.problem
        shift = self.eigenvalues.new_tensor([alpha / 2])
        parts = []
        for rows, left in self._left_vectors():
            blocks = self._leverage(left, shift)[..., 0]
            own = torch.diagonal(blocks, dim1=1, dim2=2)
            if problem.intercept:
                own = own + problem.weight[rows, None]
            parts.append(own)
        return torch.cat(parts)

    def coefficient_spectrum(self, least: float = 0.0) -> tuple[Tensor, Tensor]:
        """Eigenvalues and orthonormal V (n_coef, r) of the basis' row space.

        Directions whose eigenvalue is at most `least` are left out.
        """
        problem = self.problem
        rank = 1e-13 * float(self.eigenvalues.max())
        keep = self.eigenvalues > max(least, rank)
        vectors, eigenvalues = self.vectors[:, keep], self.eigenvalues[keep]
        if not self.dual:
            return eigenvalues, vectors
        n, k = problem.y.shape
        total = problem.y.new_zeros(problem.operator.n_coef, len(eigenvalues))
        root = problem.weight.sqrt()
        mean = column_means(problem)
        left = vectors.reshape(n, k, -1)
        for rows, dense in problem.operator.blocks():
            centred = root[rows, None, None] * (dense - mean)
            total += centred.flatten(0, 1).T @ left[rows].flatten(0, 1)
        return eigenvalues, total / eigenvalues.sqrt()


def ridge_path(problem: ConvexProblem, dual: bool) -> RidgePath:
    """Decompose the Gram (dual) or the normal matrix (primal) once."""
    return _dual_path(problem) if dual else _primal_path(problem)


def _dual_path(problem: ConvexProblem) -> RidgePath:
    k = problem.operator.n_outputs
    root = problem.weight.sqrt().repeat_interleave(k)
    gram = _weighted_gram(problem)
    base = problem.y if problem.offset is None else problem.y - problem.offset
    target = (problem.weight.sqrt()[:, None] * _centre(problem, base)).reshape(-1)
    if problem.intercept:
        _lift_intercept(gram, root, k)
    eigenvalues, vectors = torch.linalg.eigh(gram)
    if problem.intercept:
        eigenvalues, vectors = eigenvalues[:-k], vectors[:, :-k]
    return RidgePath(
        problem, eigenvalues.clamp_min_(0), vectors, vectors.T @ target, dual=True
    )


def _weighted_gram(problem: ConvexProblem) -> Tensor:
    root = problem.weight.sqrt().repeat_interleave(problem.operator.n_outputs)
    gram = problem.operator.gram()
    gram *= root[:, None]
    gram *= root
    return gram


def _centred_gram(problem: ConvexProblem) -> Tensor:
    """The weighted Gram matrix of centred columns."""
    gram, k = _weighted_gram(problem), problem.operator.n_outputs
    if problem.intercept:
        root = problem.weight.sqrt().repeat_interleave(k)
        _centre_gram(gram, _constant_directions(root, k))
    return gram


def _constant_directions(root: Tensor, k: int) -> Tensor:
    """The weighted constant of each output, as orthonormal columns."""
    constant = torch.zeros(len(root), k, dtype=root.dtype, device=root.device)
    for c in range(k):
        constant[c::k, c] = root[c::k]
    return constant


def _centre_gram(gram: Tensor, constant: Tensor) -> None:
    """Project the constants off both sides, in place."""
    projected = constant.T @ gram
    gram.addmm_(constant, projected, alpha=-1.0)
    gram.addmm_(gram @ constant, constant.T, alpha=-1.0)


def _centred_normal(problem: ConvexProblem) -> Tensor:
    """The weighted normal matrix of centred columns."""
    n, k = problem.y.shape
    normal = problem.operator.normal(problem.weight.sqrt()[:, None].expand(n, k))
    if problem.intercept:
        mean = column_means(problem)
        normal.addmm_(mean.T, mean, alpha=-1.0)
    return normal


def _lift_intercept(gram: Tensor, root: Tensor, k: int) -> None:
    """Centre the Gram in place and move the intercept's directions to its top.

    They come out as the last k eigenvectors and can be dropped, so that no leverage is
    computed as a difference with them.
    """
    constant = _constant_directions(root, k)
    _centre_gram(gram, constant)
    lift = 2.0 * gram.diagonal().sum() + 1.0
    gram.addmm_(lift * constant, constant.T)


def _primal_path(problem: ConvexProblem) -> RidgePath:
    normal = _centred_normal(problem)
    base = problem.y if problem.offset is None else problem.y - problem.offset
    moment = problem.operator.rmatvec(problem.weight[:, None] * _centre(problem, base))
    eigenvalues, vectors = torch.linalg.eigh(normal)
    return RidgePath(
        problem, eigenvalues.clamp_min_(0), vectors, vectors.T @ moment, dual=False
    )


def cholesky_ridge(problem: ConvexProblem, dual: bool) -> tuple[Tensor, Tensor] | None:
    """Coefficients and intercept for one positive alpha, a factorization cheaper.

    None if rounding leaves the Gram or normal matrix indefinite: alpha is too small
    for it.
    """
    matrix = _centred_gram(problem) if dual else _centred_normal(problem)
    matrix.diagonal().add_(problem.alpha / 2)
    factor, info = torch.linalg.cholesky_ex(matrix)
    if int(info):
        return None
    n, k = problem.y.shape
    root = problem.weight.sqrt()[:, None]
    coef, intercept = problem.zero()
    rows = problem.y.new_zeros(n, k)
    # The second step takes back what the squared condition number costs.
    for _ in range(2):
        residual = _centre(problem, problem.y - problem.raw(coef, intercept))
        if dual:
            step = root * residual - (problem.alpha / 2) * rows
            rows = rows + torch.cholesky_solve(step.reshape(-1, 1), factor).view(n, k)
            scaled = root * rows
            if problem.intercept:
                scaled = scaled - problem.weight[:, None] * scaled.sum(0)
            coef = problem.operator.rmatvec(scaled)
        else:
            gradient = problem.operator.rmatvec(problem.weight[:, None] * residual)
            gradient -= (problem.alpha / 2) * coef
            coef = coef + torch.cholesky_solve(gradient[:, None], factor)[:, 0]
        if problem.intercept:
            free = problem.raw(coef, torch.zeros_like(intercept))
            intercept = problem.weight @ (problem.y - free)
    return coef, intercept


def column_means(problem: ConvexProblem) -> Tensor:
    """Weighted mean rows of the basis, (n_outputs, n_coef); zero if no intercept."""
    k = problem.operator.n_outputs
    if not problem.intercept:
        return problem.y.new_zeros(k, problem.operator.n_coef)
    eye = torch.eye(k, dtype=problem.y.dtype, device=problem.y.device)
    return torch.stack(
        [problem.operator.rmatvec(problem.weight[:, None] * eye[c]) for c in range(k)]
    )


def _centre(problem: ConvexProblem, values: Tensor) -> Tensor:
    """Values minus their weighted mean where there is an intercept."""
    return values - problem.weight @ values if problem.intercept else values


def _unlever(residual: Tensor, leverage: Tensor, unit: Tensor) -> Tensor:
    """(I - unit_i H_ii)^-1 r_i, as (n_alphas, n_rows, k)."""
    k = residual.shape[1]
    if k == 1:
        remaining = 1.0 - unit[:, None] * leverage[:, 0, 0]
        # Interpolation drives residual and remaining weight to zero together.
        return (residual[:, 0] / remaining.clamp_min(1e-12)).T[:, :, None]
    blocks = leverage.permute(3, 0, 1, 2) * unit[:, None, None]
    eye = torch.eye(k, dtype=residual.dtype, device=residual.device)
    return torch.linalg.solve(eye - blocks, residual.permute(2, 0, 1)[..., None])[
        ..., 0
    ]


def lsmr_ridge(
    problem: ConvexProblem,
    tol: float,
    max_iter: int,
    start: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor, int, bool]:
    """Coefficients and intercept by LSMR; without a start of minimum norm at alpha=0.

    The penalty stands in the system as rows of its own: SciPy's `damp` would pull
    towards the start.
    """
    n, k = problem.y.shape
    root = problem.weight.sqrt()[:, None]
    operator = problem.operator
    damp = (problem.alpha / 2) ** 0.5

    def tensor(values: NDArray[np.float64]) -> Tensor:
        return torch.tensor(values.ravel(), device=problem.y.device)

    def forward(coef: NDArray[np.float64]) -> NDArray[np.float64]:
        raw = root * _centre(problem, operator.matvec(tensor(coef)))
        return np.concatenate([raw.reshape(-1).cpu().numpy(), damp * coef.ravel()])

    def adjoint(residual: NDArray[np.float64]) -> NDArray[np.float64]:
        residual = residual.ravel()
        scaled = root * tensor(residual[: n * k]).reshape(n, k)
        if problem.intercept:
            scaled = scaled - problem.weight[:, None] * scaled.sum(0)
        return operator.rmatvec(scaled).cpu().numpy() + damp * residual[n * k :]

    base = problem.y if problem.offset is None else problem.y - problem.offset
    target = (root * _centre(problem, base)).reshape(-1).cpu().numpy()
    target = np.concatenate([target, np.zeros(operator.n_coef)])
    shape = (len(target), operator.n_coef)
    system = ScipyOperator(shape, matvec=forward, rmatvec=adjoint, dtype=target.dtype)
    x0 = None if start is None else start[0].cpu().numpy()
    solution, stop, n_iter, *_ = lsmr(
        system, target, atol=tol, btol=tol, conlim=0, maxiter=max_iter, x0=x0
    )
    coef = tensor(solution)
    intercept = problem.zero()[1]
    if problem.intercept:
        intercept = problem.weight @ (problem.y - problem.raw(coef, intercept))
    return coef, intercept, int(n_iter), stop != 7
