"""Squared loss in closed form: every alpha from one eigendecomposition."""

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
    """The solutions of a squared-loss problem for every alpha.

    The weighted and centered basis is ``U diag(sqrt(eigenvalues)) V^T``. With
    ``t = U^T y`` in the same weights, the solution is
    ``V (sqrt(eigenvalues) t / (eigenvalues + alpha / 2))``. It contains alpha / 2
    because the squared loss has no factor one half.

    Attributes
    ----------
    problem : ConvexProblem
        Its `alpha` is ignored.
    eigenvalues : Tensor (r,)
        Eigenvalues of the weighted, centered Gram or normal matrix.
    vectors : Tensor
        Eigenvectors as columns: (n_rows, r) in the dual, (n_coef, r) in the primal.
    target : Tensor (r,)
        U^T y in the dual, V^T Phi^T y in the primal.
    dual : bool
        Whether the Gram matrix was decomposed, not the normal matrix.
    """

    problem: ConvexProblem
    eigenvalues: Tensor
    vectors: Tensor
    target: Tensor
    dual: bool

    def with_offset(self, offset: Tensor | None) -> "RidgePath":
        """The path of the same problem with another offset."""
        problem = replace(self.problem, offset=offset)
        centered = problem.centered_target()
        if self.dual:
            moment = (problem.weight.sqrt()[:, None] * centered).reshape(-1)
        else:
            moment = problem.operator.rmatvec(problem.weight[:, None] * centered)
        return replace(self, problem=problem, target=self.vectors.T @ moment)

    def coefficients(self, alpha: float) -> tuple[Tensor, Tensor]:
        """Coefficients and intercept for a positive alpha.

        One step of iterative refinement with the operator itself recovers the digits
        lost to the squared condition number of the Gram or normal matrix.
        """
        problem = self.problem
        coef, intercept = problem.zero()
        # The second step refines the solution: it removes most of the rounding of the
        # first.
        for _ in range(2):
            raw = problem.raw(coef, intercept)
            coef = coef + self._solve(raw, coef, alpha)
            if problem.intercept:
                centered = problem.raw(coef, torch.zeros_like(intercept))
                intercept = problem.weight @ (problem.y - centered)
        return coef, intercept

    def _solve(self, raw: Tensor, coef: Tensor, alpha: float) -> Tensor:
        """The step from `coef` to the optimum, by the factorized system."""
        problem, shift = self.problem, alpha / 2
        residual = problem.centered(problem.y - raw)
        gradient = problem.operator.rmatvec(problem.weight[:, None] * residual)
        gradient -= shift * coef
        if not self.dual:
            return self.vectors @ (
                (self.vectors.T @ gradient) / (self.eigenvalues + shift)
            )
        # Woodbury: (A + s I)^-1 g = (g - Phi^T U U^T Phi g / (e + s)) / s
        root = problem.weight.sqrt()[:, None]
        rows = root * problem.centered(problem.operator.matvec(gradient))
        inner = self.vectors.T @ rows.reshape(-1) / (self.eigenvalues + shift)
        back = root * (self.vectors @ inner).reshape(rows.shape)
        return (gradient - _centered_rmatvec(problem, back)) / shift

    def leave_one_out(
        self, alphas: Tensor, fraction: Tensor, rows: Tensor | None = None
    ) -> Tensor:
        """Prediction errors y_i - q_i, each without part of its sample's weight.

        The errors are ``(I - f_i H_ii)^-1 r_i``, where H_ii are the leverage blocks of
        the weighted problem, intercept included.

        Parameters
        ----------
        alphas : Tensor (n_alphas,)
        fraction : Tensor (n_samples,)
            Part of each sample's weight that is left out; one leaves it out entirely.
        rows : Tensor of int (n_rows,) or None
            The samples to leave out, one at a time; None stands for all.

        Returns
        -------
        Tensor (n_alphas, n_rows, n_outputs)
        """
        problem, shifts = self.problem, alphas / 2
        k, rows = problem.y.shape[1], self._or_all(rows)
        weight, fraction = problem.weight[rows], fraction[rows]
        root = weight.sqrt()
        target = root[:, None] * problem.centered_target()[rows]
        errors = problem.y.new_empty(len(alphas), len(rows), k)
        for part, left in self._left_vectors(rows):
            fitted = left @ (self._fit_factor(shifts) * self.target[:, None])
            residual = target[part, :, None] - fitted
            leverage = self._leverage(left, shifts)
            if problem.intercept:
                eye = torch.eye(k, dtype=root.dtype, device=root.device)
                # As columns are centered, the intercept adds a leverage, the sample's
                # weight.
                leverage += (weight[part, None, None] * eye)[..., None]
            scaled, removed = residual / root[part, None, None], fraction[part]
            if k == 1:
                remaining = 1.0 - removed[:, None] * leverage[:, 0, 0]
                # If the model interpolates, residual and remaining weight are both
                # zero.
                solved = scaled[:, 0] / remaining.clamp_min(1e-12)
                errors[:, part] = solved.T[:, :, None]
                continue
            blocks = leverage.permute(3, 0, 1, 2) * removed[:, None, None]
            eye = torch.eye(k, dtype=root.dtype, device=root.device)
            sides = scaled.permute(2, 0, 1)[..., None]
            errors[:, part] = torch.linalg.solve(eye - blocks, sides)[..., 0]
        return errors

    def _or_all(self, rows: Tensor | None) -> Tensor:
        y = self.problem.y
        return torch.arange(len(y), device=y.device) if rows is None else rows

    def _left_vectors(self, rows: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """U (dual) or Phi V (primal) of blocks of the given samples, (n_rows, k, r)."""
        problem = self.problem
        n, k = problem.y.shape
        if self.dual:
            yield slice(0, len(rows)), self.vectors.reshape(n, k, -1)[rows]
            return
        mean = column_means(problem)
        root = problem.weight[rows].sqrt()
        for part, dense in problem.operator.rows(rows).blocks():
            centered = root[part, None, None] * (dense - mean)
            yield part, centered @ self.vectors

    def _fit_factor(self, shifts: Tensor) -> Tensor:
        """Factors from target coordinates to fitted ones, (r, n_alphas)."""
        e = self.eigenvalues[:, None]
        return (e if self.dual else 1.0) / (e + shifts)

    def _leverage(self, left: Tensor, shifts: Tensor) -> Tensor:
        """Blocks H_ii, of shape (n_rows, k, k, n_alphas)."""
        factor = self._fit_factor(shifts)
        k = left.shape[1]
        if k == 1:
            # One matrix product for all alphas.
            return (left.square()[:, 0] @ factor)[:, None, None, :]
        return torch.stack(
            [torch.einsum("icr,idr->icd", left * column, left) for column in factor.T],
            -1,
        )

    def log_evidence(self, alphas: Tensor, total_weight: float) -> Tensor:
        """Log marginal likelihood up to a constant, noise and intercept integrated out.

        The model is y ~ N(b, sigma^2 (I + K / (alpha / 2))) with the weighted kernel K.
        `total_weight` is the number of samples that the weights stand for.
        """
        problem, shifts = self.problem, alphas / 2
        norm = problem.weight @ problem.centered_target().square().sum(1)
        e = self.eigenvalues[:, None]
        explained = self.target.square()[:, None] * self._fit_factor(shifts)
        # If the basis explains everything, rounding can make the difference negative.
        quadratic = (norm - explained.sum(0)).clamp_min(torch.finfo(e.dtype).tiny)
        k = problem.operator.n_outputs
        # Integrating out the intercept takes one degree of freedom for each output.
        n_free = total_weight * k - (k if problem.intercept else 0)
        # The log determinant of I + K / (alpha / 2).
        spread = torch.log1p(e.clamp_min(0) / shifts).sum(0)
        return -0.5 * (n_free * quadratic.log() + spread)

    def leverages(self, alpha: float, rows: Tensor | None = None) -> Tensor:
        """Diagonal of the weighted hat matrix, intercept included, (n_rows, k)."""
        problem, rows = self.problem, self._or_all(rows)
        shift = self.eigenvalues.new_tensor([alpha / 2])
        parts = []
        for part, left in self._left_vectors(rows):
            blocks = self._leverage(left, shift)[..., 0]
            leverages = torch.diagonal(blocks, dim1=1, dim2=2)
            if problem.intercept:
                leverages = leverages + problem.weight[rows[part], None]
            parts.append(leverages)
        return torch.cat(parts)

    def coefficient_spectrum(self, least: float = 0.0) -> tuple[Tensor, Tensor]:
        """Eigenvalues and orthonormal V (n_coef, r) of the basis' row space.

        Directions with eigenvalues up to `least` are left out.
        """
        problem = self.problem
        # Smaller eigenvalues are rounding, and V is divided by their roots.
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
            centered = root[rows, None, None] * (dense - mean)
            total += centered.flatten(0, 1).T @ left[rows].flatten(0, 1)
        return eigenvalues, total / eigenvalues.sqrt()


def ridge_path(problem: ConvexProblem, dual: bool) -> RidgePath:
    """Decompose the Gram (dual) or the normal matrix (primal) once."""
    if dual:
        matrix, constants = _centered_gram(problem)
        target = problem.weight.sqrt()[:, None] * problem.centered_target()
        moment = target.reshape(-1)
        if problem.intercept:
            # No eigenvalue is above the trace, so this makes the constants the last k
            # eigenvectors. Without them, leverages are sums without cancellation.
            lift = 2.0 * matrix.diagonal().sum() + 1.0
            matrix.addmm_(lift * constants, constants.T)
    else:
        matrix, moment = _normal_equations(problem)
    eigenvalues, vectors = torch.linalg.eigh(matrix)
    if dual and problem.intercept:
        k = problem.operator.n_outputs
        eigenvalues, vectors = eigenvalues[:-k], vectors[:, :-k]
    return RidgePath(
        problem, eigenvalues.clamp_min_(0), vectors, vectors.T @ moment, dual
    )


def _centered_gram(problem: ConvexProblem) -> tuple[Tensor, Tensor]:
    """The weighted Gram matrix of centered columns, and the outputs' constants.

    These are orthonormal columns, projected out of rows and columns of the matrix;
    there are none without an intercept.
    """
    k = problem.operator.n_outputs
    root = problem.weight.sqrt().repeat_interleave(k)
    gram = problem.operator.gram()
    gram *= root[:, None]
    gram *= root
    constants = root.new_zeros(len(root), k if problem.intercept else 0)
    if problem.intercept:
        for c in range(k):
            constants[c::k, c] = root[c::k]
        gram.addmm_(constants, constants.T @ gram, alpha=-1.0)
        gram.addmm_(gram @ constants, constants.T, alpha=-1.0)
    return gram, constants


def _normal_equations(problem: ConvexProblem) -> tuple[Tensor, Tensor]:
    """The weighted normal matrix of centered columns, and their product with y."""
    n, k = problem.y.shape
    root = problem.weight.sqrt()[:, None].expand(n, k)
    residuals = [problem.weight[:, None] * problem.centered_target()]
    if problem.intercept:
        residuals = _weighted_units(problem) + residuals
    normal, products = problem.operator.normal_equations(root, *residuals)
    if problem.intercept:
        mean = products[:-1]
        normal.addmm_(mean.T, mean, alpha=-1.0)
    return normal, products[-1]


def cholesky_ridge(problem: ConvexProblem, dual: bool) -> tuple[Tensor, Tensor] | None:
    """Coefficients and intercept for one positive alpha, by a Cholesky factorization.

    None if alpha is so small that rounding leaves the matrix indefinite.
    """
    if dual:
        matrix, moment = _centered_gram(problem)[0], None
    else:
        matrix, moment = _normal_equations(problem)
    matrix.diagonal().add_(problem.alpha / 2)
    factor, info = torch.linalg.cholesky_ex(matrix)
    if int(info):
        return None
    n, k = problem.y.shape
    root = problem.weight.sqrt()[:, None]
    coef, intercept = problem.zero()
    rows = problem.y.new_zeros(n, k)
    # The second step recovers the digits lost to the squared condition number.
    for _ in range(2):
        residual = problem.centered(problem.y - problem.raw(coef, intercept))
        if dual:
            step = root * residual - (problem.alpha / 2) * rows
            rows = rows + torch.cholesky_solve(step.reshape(-1, 1), factor).view(n, k)
            coef = _centered_rmatvec(problem, root * rows)
        else:
            if moment is None:
                moment = problem.operator.rmatvec(problem.weight[:, None] * residual)
            gradient, moment = moment - (problem.alpha / 2) * coef, None
            coef = coef + torch.cholesky_solve(gradient[:, None], factor)[:, 0]
        if problem.intercept:
            centered = problem.raw(coef, torch.zeros_like(intercept))
            intercept = problem.weight @ (problem.y - centered)
    return coef, intercept


def column_means(problem: ConvexProblem) -> Tensor:
    """Weighted column means, (n_outputs, n_coef); zeros if there is no intercept."""
    k = problem.operator.n_outputs
    if not problem.intercept:
        return problem.y.new_zeros(k, problem.operator.n_coef)
    return torch.stack(
        [problem.operator.rmatvec(unit) for unit in _weighted_units(problem)]
    )


def _weighted_units(problem: ConvexProblem) -> list[Tensor]:
    """The weights in the column of each output, (n_samples, n_outputs)."""
    k = problem.operator.n_outputs
    eye = torch.eye(k, dtype=problem.y.dtype, device=problem.y.device)
    return [problem.weight[:, None] * row for row in eye]


def _centered_rmatvec(problem: ConvexProblem, residual: Tensor) -> Tensor:
    """The transposed, centered basis times a residual."""
    if problem.intercept:
        residual = residual - problem.weight[:, None] * residual.sum(0)
    return problem.operator.rmatvec(residual)


def lsmr_ridge(
    problem: ConvexProblem,
    tol: float,
    max_iter: int,
    start: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor, int, bool]:
    """Coefficients, intercept, number of iterations and convergence of LSMR.

    Without a start, the solution at alpha = 0 has minimum norm. The penalty is appended
    to the system as rows, because SciPy's `damp` would shrink towards the start.
    """
    n, k = problem.y.shape
    root = problem.weight.sqrt()[:, None]
    operator = problem.operator
    damp = (problem.alpha / 2) ** 0.5

    def tensor(values: NDArray[np.float64]) -> Tensor:
        return torch.tensor(values.ravel(), device=problem.y.device)

    def forward(coef: NDArray[np.float64]) -> NDArray[np.float64]:
        raw = root * problem.centered(operator.matvec(tensor(coef)))
        return np.concatenate([raw.reshape(-1).cpu().numpy(), damp * coef.ravel()])

    def adjoint(residual: NDArray[np.float64]) -> NDArray[np.float64]:
        residual = residual.ravel()
        scaled = root * tensor(residual[: n * k]).reshape(n, k)
        coef = _centered_rmatvec(problem, scaled).cpu().numpy()
        return coef + damp * residual[n * k :]

    target = (root * problem.centered_target()).reshape(-1).cpu().numpy()
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
