"""Solutions by the singular values of the basis, which avoid squaring them."""

import math
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from sklearn_pgb._budget import CONVERSION_RTOL, EQUAL_RTOL, SPECTRAL_RTOLS
from sklearn_pgb._convex._newton import PrimalSystem, newton
from sklearn_pgb._convex._problem import ConvexProblem, Solution, finish
from sklearn_pgb._convex._unit_basis import EPS, Spectrum, UnitBasis, thin_svd


def objective_of(solution: Solution) -> float:
    """The objective, or infinity if coefficients overflow."""
    return solution.value if math.isfinite(solution.value) else math.inf


class SpectralSolver:
    """Solve one problem for any alpha, zero included; its own alpha is ignored.

    The normal and the Gram matrix square the singular values, so those below 1e-8 of
    the largest are lost to rounding. Small alphas need them.
    """

    def __init__(self, problem: ConvexProblem):
        self.problem = problem

    @cached_property
    def _spectrum(self) -> Spectrum:
        return Spectrum.of(self.problem)

    @cached_property
    def _plain(self) -> tuple[UnitBasis, Tensor, Tensor, Tensor]:
        """The basis, and the singular value decomposition of its centered columns.

        The columns are not scaled, as this would change the penalty.
        """
        basis = UnitBasis.of(self.problem)
        matrix = basis.matrix[:, basis.n_free :] * basis.scaling.scale
        U, singular, Vh = thin_svd(matrix)
        return basis, U, singular, Vh.T

    def solve(self, alpha: float, tol: float, max_iter: int) -> Solution:
        """The solution for one alpha."""
        problem = self.problem.with_alpha(alpha)
        if alpha > 0:
            if problem.loss.quadratic:
                return self._ridge(problem)
            return self._newton_with_ridge(problem, tol, max_iter)
        spectrum = self._spectrum
        if problem.loss.quadratic:
            candidates = [
                self._least_squares(problem, spectrum, rank)
                for rank in spectrum.ranks(SPECTRAL_RTOLS)
            ]
            equal = smallest = min(objective_of(each) for each in candidates)
            if math.isfinite(smallest):
                equal += EQUAL_RTOL * abs(smallest)
            # The last of the equal ones has the smallest rank, and so the shortest
            # coefficients.
            return [each for each in candidates if objective_of(each) <= equal][-1]
        return self._newton(problem, spectrum, tol, max_iter)

    def _least_squares(
        self, problem: ConvexProblem, spectrum: Spectrum, rank: int
    ) -> Solution:
        """Least squares along the first `rank` directions."""
        mean, target = spectrum.basis.target()
        beta, _ = spectrum.least_squares(rank, target)
        coef, intercept = spectrum.basis.coefficients(beta)
        if problem.intercept:
            intercept = intercept + mean
        return finish(problem, *shortest(spectrum, rank, coef, intercept), 1, True)

    def _newton(
        self, problem: ConvexProblem, spectrum: Spectrum, tol: float, max_iter: int
    ) -> Solution:
        """Newton on an orthonormal basis of the span, whose condition number is one.

        If converting the coefficients to the problem's units spoils the loss, small
        directions are left out.
        """
        candidates: list[Solution] = []
        for rank in spectrum.ranks(SPECTRAL_RTOLS):
            inner = spectrum.basis.inner(spectrum.U[:, :rank])
            system = PrimalSystem(inner, torch.ones_like(inner.zero()[0]))
            gamma, inner_intercept, n_iter, converged = newton(
                inner, system, None, min(tol, 1e-10), max_iter
            )
            scaled = gamma.reshape(rank, spectrum.basis.scaling.width)
            scaled = scaled / spectrum.singular[:rank, None]
            parts = spectrum.basis.coefficients(spectrum.V[:, :rank] @ scaled)
            parts = shortest(spectrum, rank, *parts)
            candidates.append(finish(problem, *parts, n_iter, converged))
            value = float(problem.data_value(inner.raw(gamma, inner_intercept)))
            if abs(candidates[-1].value - value) <= max(tol, CONVERSION_RTOL) * abs(
                value
            ):
                break
        return min(candidates, key=objective_of)

    def _ridge(self, problem: ConvexProblem) -> Solution:
        """Damped least squares, with a dual point of full accuracy.

        The dual point is the residual, computed as the sum of its parts along and
        across the basis. As a difference, it would lose the digits that the gap needs
        when divided by a small alpha.
        """
        basis, U, singular, V = self._plain
        mean, target = basis.target()
        along, sigma = U.T @ target, singular[:, None]
        shrunk = sigma.square() + problem.alpha / 2
        coef = (V @ (sigma / shrunk * along)).reshape(-1)
        orthogonal = target - U @ along
        # The second projection removes the rounding error of the first.
        orthogonal = orthogonal - U @ (U.T @ orthogonal)
        residual = orthogonal + U @ (problem.alpha / 2 / shrunk * along)
        intercept = problem.zero()[1]
        if problem.intercept:
            intercept = mean - basis.scaling.shift(coef)
        dual = -2 * basis.unfold(residual)
        return finish(problem, coef, intercept, 1, True, dual)

    def _newton_with_ridge(
        self, problem: ConvexProblem, tol: float, max_iter: int
    ) -> Solution:
        """Newton in the singular directions, where coefficients keep their norm."""
        basis, U, singular, V = self._plain
        # Directions below rounding have no effect on the outputs.
        keep = singular > EPS * singular.amax() if len(singular) else singular > 0
        U, singular, V = U[:, keep], singular[keep], V[:, keep]
        inner = basis.inner(U * singular)
        inner = replace(inner, intercept=problem.intercept).with_alpha(problem.alpha)
        sizes = singular.square().repeat_interleave(basis.scaling.width)
        if problem.intercept:
            sizes = torch.cat([sizes, sizes.new_ones(problem.operator.n_outputs)])
        gamma, inner_intercept, n_iter, converged = newton(
            inner, PrimalSystem(inner, sizes), None, tol, max_iter
        )
        coef = (V @ gamma.reshape(len(singular), basis.scaling.width)).reshape(-1)
        intercept = problem.zero()[1]
        if problem.intercept:
            intercept = inner_intercept - basis.scaling.shift(coef)
        dual = problem.loss.gradient(problem.y, inner.raw(gamma, inner_intercept))
        return finish(problem, coef, intercept, n_iter, converged, dual)


def shortest(
    spectrum: Spectrum, rank: int, coef: Tensor, intercept: Tensor
) -> tuple[Tensor, Tensor]:
    """The shortest coefficients with the same outputs, in the units of the basis.

    These are the projection on the row space of the basis. If column scales differ so
    much that rounding spoils the projection, coefficients are returned unchanged.
    """
    basis = spectrum.basis
    matrix, scale = basis.matrix[:, basis.n_free :], basis.scaling.scale[:, None]
    if rank >= basis.matrix.shape[1]:
        return coef, intercept
    rows = scale * spectrum.V[basis.n_free :, :rank]
    # Some of the directions belong to the intercept.
    Q = thin_svd(rows)[0][:, : rank - basis.n_free]
    given = basis.scaling.columns(coef)
    short = Q @ (Q.T @ given)
    before, after = matrix @ (scale * given), matrix @ (scale * short)
    size = float(before.norm()) + EPS * float((scale * given).norm())
    if float((after - before).norm()) > 1e-12 * size:
        return coef, intercept
    if basis.problem.intercept:
        intercept = intercept - basis.scaling.shift(short - given)
    return short.reshape(-1), intercept
