"""A basis with weighted columns of norm one, which defines ranks and norms."""

import math
from dataclasses import dataclass, replace

import scipy.linalg
import torch
from torch import Tensor

from sklearn_pgb._budget import CONSTANT_ULPS, OUTPUT_ULPS, PRODUCT_ULPS, RANK_ULPS
from sklearn_pgb._convex._problem import ConvexProblem
from sklearn_pgb._operators._dense import DenseOperator, KroneckerOperator
from sklearn_pgb._operators._operator import LinearOperator

EPS = torch.finfo(torch.float64).eps


def product_rounding(n_columns: int) -> float:
    """Norm of the rounding errors of columns times a vector, all of norm one."""
    return PRODUCT_ULPS * EPS * math.sqrt(n_columns)


def output_error(problem: ConvexProblem, coef: Tensor) -> Tensor:
    """Rounding error of each raw output at coefficients, without intercept."""
    operator = problem.operator.one_output()
    width = problem.operator.n_outputs // operator.n_outputs
    columns, sums = coef.abs().reshape(-1, width), torch.zeros_like(problem.y)
    for rows, dense in operator.blocks():
        sums[rows] = (dense.abs() @ columns).reshape(len(dense), -1)
    return PRODUCT_ULPS * EPS * sums


@dataclass(frozen=True, eq=False)
class ColumnScaling:
    """Means and norms of the columns of a weighted basis.

    Attributes
    ----------
    pivot, rest : Tensor (n_outputs or 1, n_columns)
        Subtracted from each column in this order to center it: one of its entries, then
        the mean of the difference. Two steps keep the digits of columns far from zero
        and make constant columns exactly zero. Zeros if there is no intercept.
    scale : Tensor (n_columns,)
        Norms D of the weighted, centered columns. For columns that are constant up to
        rounding, the norm before centering; one for columns of zeros.
    plain : Tensor (n_columns,)
        Norms of the weighted columns before centering.
    width : int
        Number of coefficients of each column: the number of outputs if all outputs use
        the same columns, otherwise one.
    """

    pivot: Tensor
    rest: Tensor
    scale: Tensor
    plain: Tensor
    width: int

    @classmethod
    def of(cls, problem: ConvexProblem, dense: Tensor | None = None) -> "ColumnScaling":
        """Measure a problem's basis, block by block unless its dense form is given."""
        operator = problem.operator.one_output()
        if dense is not None:
            operator = DenseOperator(dense)
        weight = problem.weight[:, None, None]
        total = weight.new_zeros(operator.n_outputs, operator.n_coef)
        pivot = total
        if problem.intercept:
            for rows, dense in operator.blocks():
                total = total + (weight[rows] * dense).sum(0)
            # The entry of each column and output that is nearest to its mean.
            pivot, best = total, torch.full_like(total, torch.inf)
            for _, dense in operator.blocks():
                distance, row = (dense - total).abs().min(0)
                closer = distance < best
                pivot = torch.where(closer, dense.gather(0, row[None])[0], pivot)
                best = torch.where(closer, distance, best)
            total = torch.zeros_like(total)
            for rows, dense in operator.blocks():
                total = total + (weight[rows] * (dense - pivot)).sum(0)
        squares, plain = torch.zeros_like(total[0]), torch.zeros_like(total[0])
        size = torch.zeros_like(total[0])
        for _, dense in operator.blocks():
            size = torch.maximum(size, dense.abs().amax((0, 1)))
        # Columns are divided by their largest entry first, as squares could over- or
        # underflow.
        size = torch.where(size > 0, size, 1.0)
        for rows, dense in operator.blocks():
            root = weight[rows].sqrt()
            plain += (root * dense / size).square().sum((0, 1))
            squares += (root * (((dense - pivot) - total) / size)).square().sum((0, 1))
        norms, plain = size * squares.sqrt(), size * plain.sqrt()
        # Centering a constant column leaves rounding errors, which must not be scaled
        # to one.
        scale = torch.where(norms > CONSTANT_ULPS * EPS * plain, norms, plain)
        width = problem.operator.n_outputs // operator.n_outputs
        scale = torch.where(scale > 0, scale, 1.0)
        return cls(pivot, total, scale, plain, width)

    @property
    def mean(self) -> Tensor:
        """Weighted means of the columns."""
        return self.pivot + self.rest

    def apply(self, dense: Tensor) -> Tensor:
        """Center and scale rows of the basis."""
        return ((dense - self.pivot) - self.rest) / self.scale

    def columns(self, coef: Tensor) -> Tensor:
        """Coefficients as a matrix with one row for each column of the basis."""
        return coef.reshape(len(self.scale), self.width)

    def shift(self, coef: Tensor) -> Tensor:
        """Contribution of the columns' means to each output."""
        return (self.mean @ self.columns(coef)).reshape(-1)


@dataclass(frozen=True, eq=False)
class UnitBasis:
    """The weighted basis and intercept, with columns of norm one.

    With W the weights, m the columns' means and D their norms, coefficients c and an
    intercept b are the coordinates ``beta = [b + m c, D c]`` on it, and the model is ::

        sqrt(W) (Phi c + b) = matrix @ beta

    If alpha = 0, this matrix defines the rank, the norm of coefficients and the size of
    rounding errors. They are then independent of the columns' scales.

    Attributes
    ----------
    problem : ConvexProblem
    scaling : ColumnScaling
    matrix : Tensor (n_rows, n_columns)
        The intercept's columns come first. If all outputs use the same features, it
        holds them once and coordinates are (n_columns, n_outputs); otherwise they are
        (n_columns, 1).
    base : Tensor (n_samples, n_outputs)
        Fixed part of the raw outputs.
    """

    problem: ConvexProblem
    scaling: ColumnScaling
    matrix: Tensor
    base: Tensor

    @classmethod
    def of(cls, problem: ConvexProblem) -> "UnitBasis":
        """Compute the matrix of a problem."""
        operator = problem.operator.one_output()
        dense = operator.dense()
        scaling = ColumnScaling.of(problem, dense)
        root = problem.weight.sqrt()[:, None, None]
        rows = root * scaling.apply(dense)
        if problem.intercept:
            k = operator.n_outputs
            constant = root * torch.eye(k, dtype=rows.dtype, device=rows.device)
            rows = torch.cat([constant, rows], 2)
        return cls(problem, scaling, rows.flatten(0, 1), problem.base)

    @property
    def shared(self) -> bool:
        """Whether all outputs use the same features."""
        return self.problem.operator.shared_features is not None

    @property
    def n_free(self) -> int:
        """Number of columns of the intercept."""
        if not self.problem.intercept:
            return 0
        return 1 if self.shared else self.problem.y.shape[1]

    @property
    def rounding(self) -> float:
        """Norm of the rounding errors when the columns multiply a unit vector."""
        n_nonzero = self.n_free + int((self.scaling.plain > 0).sum())
        error = product_rounding(n_nonzero)
        if self.problem.rounded_columns:
            cancellation = float((self.scaling.plain / self.scaling.scale).norm())
            error += OUTPUT_ULPS * EPS * cancellation
        return error

    def fold(self, values: Tensor) -> Tensor:
        """Weight raw outputs and reshape them to columns with the rows of `matrix`."""
        rows = self.problem.weight.sqrt()[:, None] * values
        return rows if self.shared else rows.reshape(-1, 1)

    def unfold(self, columns: Tensor) -> Tensor:
        """The inverse of `fold`."""
        return columns.reshape(self.base.shape) / self.problem.weight.sqrt()[:, None]

    def raw(self, beta: Tensor) -> Tensor:
        """Raw outputs at coordinates beta."""
        return self.base + self.unfold(self.matrix @ beta)

    def output_error(self, beta: Tensor) -> Tensor:
        """Rounding error of each raw output at coordinates beta."""
        sums = self.matrix.abs() @ beta.abs()
        return PRODUCT_ULPS * EPS * self.unfold(sums)

    def coefficients(self, beta: Tensor) -> tuple[Tensor, Tensor]:
        """Coefficients and intercept of the problem at coordinates beta."""
        center, rest = beta[: self.n_free], beta[self.n_free :]
        coef = (rest / self.scaling.scale[:, None]).reshape(-1)
        if not self.problem.intercept:
            return coef, self.problem.zero()[1]
        return coef, center.reshape(-1) - self.scaling.shift(coef)

    def target(self) -> tuple[Tensor, Tensor]:
        """The weighted mean of the targets, and the folded targets minus this mean.

        The mean is zero if the problem has no intercept. With the squared loss, it is
        added to the intercept of a solution for the folded targets.
        """
        problem = self.problem
        target, mean = problem.y - self.base, problem.zero()[1]
        if problem.intercept:
            # The mean is computed from differences to the closest entry, so that equal
            # entries become exactly zero.
            rough = problem.weight @ target
            pivot = target.gather(0, (target - rough).abs().argmin(0)[None])[0]
            mean = pivot + problem.weight @ (target - pivot)
            target = (target - pivot) - (mean - pivot)
        return mean, self.fold(target)

    def inner(self, span: Tensor) -> ConvexProblem:
        """The problem without penalty on other columns, which span the intercept too.

        The columns `span` are weighted, as those of `matrix` are.
        """
        n, k = self.problem.y.shape
        root = self.problem.weight.sqrt()
        operator: LinearOperator
        if self.shared:
            operator = KroneckerOperator(span / root[:, None], k)
        else:
            operator = DenseOperator(span.reshape(n, k, -1) / root[:, None, None])
        return replace(
            self.problem,
            operator=operator,
            intercept=False,
            offset=self.base,
            alpha=0.0,
        )


def thin_svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Thin singular value decomposition, by gesvd if the fast driver fails."""
    try:
        U, singular, Vh = torch.linalg.svd(matrix, full_matrices=False)
    except RuntimeError:
        parts = scipy.linalg.svd(
            matrix.cpu().numpy(), full_matrices=False, lapack_driver="gesvd"
        )
        U, singular, Vh = (torch.from_numpy(part).to(matrix) for part in parts)
    return U, singular, Vh


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Thin singular value decomposition of a `UnitBasis`, truncated at rounding."""

    basis: UnitBasis
    U: Tensor
    singular: Tensor
    V: Tensor

    @classmethod
    def of(cls, problem: ConvexProblem) -> "Spectrum":
        """Decompose a problem's basis."""
        basis = UnitBasis.of(problem)
        matrix = basis.matrix
        if not bool(matrix.isfinite().all()):
            # If features overflow, nothing is known about their span.
            matrix = torch.zeros_like(matrix)
        U, singular, Vh = thin_svd(matrix)
        rtol = RANK_ULPS * EPS * max(basis.matrix.shape)
        keep = singular > rtol * singular.amax() if len(singular) else singular > 0
        return cls(basis, U[:, keep], singular[keep], Vh[keep].T)

    @property
    def rank(self) -> int:
        """Rank of the basis, intercept included."""
        return len(self.singular) * self.basis.scaling.width

    def ranks(self, rtols: tuple[float, ...]) -> list[int]:
        """Distinct numbers of singular values above the cutoffs, the largest first."""
        largest = self.singular[:1]
        counts = {int((self.singular > rtol * largest).sum()) for rtol in rtols}
        return sorted(counts | {len(self.singular)}, reverse=True)

    def leading(self, rtol: float) -> "Spectrum":
        """The part with singular values above `rtol` times the largest."""
        rank = self.ranks((rtol,))[-1]
        parts = self.U[:, :rank], self.singular[:rank], self.V[:, :rank]
        return Spectrum(self.basis, *parts)

    def least_squares(self, rank: int, target: Tensor) -> tuple[Tensor, Tensor]:
        """Coordinates along the first `rank` directions, and the target's residual."""
        U, V = self.U[:, :rank], self.V[:, :rank]
        beta, residual = target.new_zeros(len(V), target.shape[1]), target
        for _ in range(3):
            # Iterative refinement: small directions lose digits in the first step.
            trial = beta + V @ ((U.T @ residual) / self.singular[:rank, None])
            new_residual = target - self.basis.matrix @ trial
            if not float(new_residual.norm()) < float(residual.norm()):
                break
            beta, residual = trial, new_residual
        return beta, residual
