"""The least loss over the span of a basis, with what is certain about it."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sklearn_pgb._convex._bounds import span_bound
from sklearn_pgb._convex._newton import PrimalSystem, newton
from sklearn_pgb._convex._problem import ConvexProblem, dual_value
from sklearn_pgb._convex._ridge import column_means
from sklearn_pgb._convex._solve import solve, spectral_basis
from sklearn_pgb._operators import DenseOperator, KroneckerOperator, LinearOperator
from sklearn_pgb._threads import threads_for_solve

# Up to this many flops (rows times columns times the smaller of both) the basis is
# factorised; beyond, only products with it are taken.
FACTOR_FLOPS, REPAIR_FLOPS = 4e9, 3e7

# Flops that Newton may take, and its least and largest number of steps.
NEWTON_FLOPS, NEWTON_STEPS = 1e10, (15, 100)

# Relative singular values below the first do not count for the rank. Those below the
# second are rounding; with some in between, coefficients without limit could use
# directions that were dropped.
RANK_RTOL, EXACT_RTOL = 1e-10, 1e-14

# A log loss this close to its samples' own infima runs away from all; gradients this
# far from the edge of their domain belong to samples that do not.
SEPARATED, INSIDE = 1e-10, 1e-8

# Coefficients this many times as long as those found are covered by a bound that needs
# a limit on their norm.
BUDGET = 10.0


# Finds coefficients and an intercept by products with the basis.
Descend = Callable[[ConvexProblem], tuple[Tensor, Tensor]]


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Thin singular value decomposition of a weighted and centred basis.

    Attributes
    ----------
    U : Tensor (n_rows, rank)
    singular : Tensor (rank,)
    V : Tensor (n_coef, rank)
    exact : bool
        Whether what was dropped is zero up to rounding.
    """

    U: Tensor
    singular: Tensor
    V: Tensor
    exact: bool

    @classmethod
    def of(cls, problem: ConvexProblem) -> "Spectrum":
        """Decompose a problem's basis."""
        U, singular, V = spectral_basis(problem, EXACT_RTOL)
        keep = singular > RANK_RTOL * singular.amax() if len(singular) else singular > 0
        return cls(U[:, keep], singular[keep], V[:, keep], bool(keep.all()))


@dataclass(frozen=True, eq=False)
class Infimum:
    """The infimum of a loss over the span of a basis, between two numbers.

    Attributes
    ----------
    value : float
        The loss at coefficients that were found: never below the infimum.
    lower_bound : float
        Never above it, for coefficients of norm up to `norm_budget`.
    norm_budget : float
        Infinite where the bound holds for all coefficients.
    rank : int or None
        Of the basis, intercept included; None where it was not factorised.
    attained : bool or None
        Whether some coefficients attain the infimum; None where this is not known.
    norm : float
        Of the coefficients found.
    spectrum : Spectrum or None
    """

    value: float
    lower_bound: float
    norm_budget: float
    rank: int | None
    attained: bool | None
    norm: float
    spectrum: Spectrum | None = None


def _by_solver(problem: ConvexProblem) -> tuple[Tensor, Tensor]:
    solution = solve(problem)
    return solution.coef, solution.intercept


def infimum(
    problem: ConvexProblem,
    descend: Descend = _by_solver,
    *,
    max_memory: float = 2.0**30,
    contains_offset: bool = False,
) -> Infimum:
    """Enclose the infimum of a problem without ridge (alpha is ignored).

    Parameters
    ----------
    problem : ConvexProblem
    descend : callable
        Finds coefficients and an intercept by products with the basis, where a
        factorisation, or Newton's steps, would take too long; `solve` by default.
    max_memory : float
        Bytes that a factorisation may take.
    contains_offset : bool
        Whether the problem's offset lies in the span.

    Notes
    -----
    With the squared loss both numbers are the squared distance of the targets from the
    span. Other losses take Newton steps on an orthonormal basis of the span, and the
    repaired dual point of `span_bound`.
    """
    problem = problem.with_alpha(0.0)
    operator = problem.operator
    rows, columns = operator.n_rows, operator.n_coef
    if isinstance(operator, KroneckerOperator):
        rows, columns = operator.features.shape
    flops = float(rows) * columns * min(rows, columns)
    with threads_for_solve(operator.n_rows, operator.n_coef):
        if flops <= FACTOR_FLOPS and 4 * 8.0 * rows * columns <= max_memory:
            return _factorised(problem, descend, contains_offset)
        return _by_products(problem, descend, contains_offset)


@dataclass(frozen=True, eq=False)
class _Span:
    """A problem in orthonormal coordinates of the span of its basis.

    Attributes
    ----------
    problem : ConvexProblem
        Its operator has orthonormal columns, once rows are weighted. Those of the
        intercept, where there is one, come first.
    spectrum : Spectrum
        Of the features alone where every output combines them by itself.
    """

    problem: ConvexProblem
    spectrum: Spectrum

    @classmethod
    def of(cls, problem: ConvexProblem) -> "_Span":
        n, k = problem.y.shape
        root, operator = problem.weight.sqrt()[:, None], problem.operator
        ones = root.new_ones(n, int(problem.intercept))
        inner: LinearOperator
        if isinstance(operator, KroneckerOperator):
            spectrum = Spectrum.of(problem.one_output())
            inner = KroneckerOperator(torch.cat([ones, spectrum.U / root], 1), k)
        else:
            spectrum = Spectrum.of(problem)
            columns = spectrum.U.reshape(n, k, -1) / root[:, :, None]
            constant = columns[:, :, :0]
            if problem.intercept:
                constant = torch.eye(k, dtype=root.dtype).expand(n, k, k)
            inner = DenseOperator(torch.cat([constant, columns], 2))
        return cls(replace(problem, operator=inner, intercept=False), spectrum)

    @property
    def rank(self) -> int:
        """Of the basis, intercept included."""
        return self.problem.operator.n_coef

    def dense(self) -> Tensor:
        """Orthonormal columns of the weighted basis and the intercept."""
        root = self.problem.weight.sqrt()[:, None, None]
        return (root * self.problem.operator.dense()).flatten(0, 1)

    def norm(self, problem: ConvexProblem, beta: Tensor) -> float:
        """Norm of the coefficients and intercept in the problem's own coordinates."""
        k = problem.y.shape[1] if problem.intercept else 0
        free, beta = beta[:k], beta[k:]
        singular, V = self.spectrum.singular, self.spectrum.V
        if isinstance(problem.operator, KroneckerOperator):
            per_output = beta.reshape(len(singular), problem.operator.n_outputs)
            coef = (V @ (per_output / singular[:, None])).reshape(-1)
        else:
            coef = V @ (beta / singular)
        if problem.intercept:
            free = free - column_means(problem) @ coef
        return float(torch.cat([coef, free]).norm())


def _factorised(
    problem: ConvexProblem, descend: Descend, contains_offset: bool
) -> Infimum:
    span = _Span.of(problem)
    inner = span.problem
    if problem.loss.quadratic:
        beta, left = _least_squares(inner)
        bound = float(left.square().sum())
        dual = -2 * left / problem.weight.sqrt()[:, None]
        raw, converged = inner.raw(beta, inner.zero()[1]), True
    else:
        beta, converged = _minimise(inner, descend)
        raw = inner.raw(beta, inner.zero()[1])
        dual = problem.loss.gradient(problem.y, raw)
        bound = dual_value(problem, dual)
    norm = span.norm(problem, beta)
    proven = problem.loss.quadratic
    if not proven and _is_repairable(problem, span.rank):
        repaired = span_bound(problem, raw, span=span.dense())
        bound, residual, proven = repaired.value, repaired.residual, True
    else:
        residual = _residual(problem, dual)
    if proven and span.spectrum.exact:
        # The dual point is feasible up to rounding, for which the norm found stands.
        lower, budget = bound - residual * norm, torch.inf
    else:
        lower, budget = bound - residual * BUDGET * norm, BUDGET * norm
    return _finish(
        problem,
        raw,
        converged=converged,
        lower=lower,
        budget=budget,
        rank=span.rank,
        norm=norm,
        spectrum=span.spectrum,
        contains_offset=contains_offset,
    )


def _minimise(inner: ConvexProblem, descend: Descend) -> tuple[Tensor, bool]:
    """Coordinates on the span: by Newton, or by L-BFGS where its steps are dear."""
    operator = inner.operator
    normal = 2.0 * operator.n_rows * operator.n_coef**2
    if isinstance(operator, KroneckerOperator):
        normal /= operator.n_outputs
    least, most = NEWTON_STEPS
    steps = NEWTON_FLOPS / max(normal + operator.n_coef**3 / 3, 1.0)
    if steps < least:
        return descend(inner)[0], False
    n_steps = int(min(steps, most))
    beta, _, _, converged = newton(inner, PrimalSystem(inner), None, 1e-12, n_steps)
    return beta, converged


def _residual(problem: ConvexProblem, dual: Tensor) -> float:
    """By how much coefficients of norm one can undercut the value of a dual point."""
    normal = problem.augmented().rmatvec(problem.weight[:, None] * dual)
    return float(normal.norm())


def _is_repairable(problem: ConvexProblem, rank: int) -> bool:
    # The repair has one more constraint per sample where the loss does not see what is
    # added to all outputs.
    rows, columns = problem.y.numel(), rank
    columns += len(problem.y) if problem.loss.dual_rows_sum_to_zero else 0
    return float(rows) * columns * min(rows, columns) <= REPAIR_FLOPS


def _least_squares(inner: ConvexProblem) -> tuple[Tensor, Tensor]:
    """Coordinates and weighted residual of the squared loss.

    The residual is projected off the span twice, so that its squares sum to the
    infimum: what is left of the targets is the dual point too.
    """
    root = inner.weight.sqrt()[:, None]
    left = root * (inner.y if inner.offset is None else inner.y - inner.offset)
    beta = inner.zero()[0]
    for _ in range(2):
        along = inner.operator.rmatvec(root * left)
        beta, left = beta + along, left - root * inner.operator.matvec(along)
    return beta, left


def _by_products(
    problem: ConvexProblem, descend: Descend, contains_offset: bool
) -> Infimum:
    coef, free = descend(problem)
    raw = problem.raw(coef, free)
    norm = float(torch.cat([coef, free]).norm())
    dual = problem.loss.gradient(problem.y, raw)
    budget = BUDGET * norm
    lower = dual_value(problem, dual) - budget * _residual(problem, dual)
    return _finish(
        problem,
        raw,
        converged=False,
        lower=lower,
        budget=budget,
        rank=None,
        norm=norm,
        spectrum=None,
        contains_offset=contains_offset,
    )


def _finish(
    problem: ConvexProblem,
    raw: Tensor,
    *,
    converged: bool,
    lower: float,
    budget: float,
    rank: int | None,
    norm: float,
    spectrum: Spectrum | None,
    contains_offset: bool,
) -> Infimum:
    value = float(problem.data_value(raw))
    trivial = float(problem.weight @ problem.loss.minimum(problem.y))
    attained: bool | None = True
    if not _have_minima(problem):
        if problem.offset is None or contains_offset:
            value = min(value, _along_ray(problem, raw))
        attained = _attained(problem, raw, converged, value - trivial)
    # A bound that needs no limit on the norm is worth more than a slightly larger one.
    if not lower > trivial:
        lower, budget = trivial, torch.inf
    return Infimum(value, min(lower, value), budget, rank, attained, norm, spectrum)


def _have_minima(problem: ConvexProblem) -> bool:
    """Whether each sample's own loss has one; the sum then has one on every span.

    The squared loss, the hinge and log losses of smoothed labels have.
    """
    n = len(problem.y)
    own = problem.loss.pooled_minimum(problem.y, problem.weight, torch.arange(n), n)
    return bool(own.attained.all())


def _along_ray(problem: ConvexProblem, raw: Tensor) -> float:
    """The least loss among multiples of raw outputs of the model."""
    scales = (2.0 ** torch.arange(24)).tolist()
    values = [float(problem.data_value(scale * raw)) for scale in scales]
    return min(value for value in values if not math.isnan(value))


def _attained(
    problem: ConvexProblem, raw: Tensor, converged: bool, above: float
) -> bool | None:
    """Whether the infimum is a minimum where single samples have none.

    It is not where the labels are separated, and the loss falls to the samples' own
    infima along a ray. A dual point well inside its domain, at a stationary point, says
    that nothing runs away.
    """
    if above <= SEPARATED:
        return False
    lower, upper = problem.loss.dual_bounds(problem.y)
    dual = problem.loss.gradient(problem.y, raw)
    slack = float(torch.minimum(dual - lower, upper - dual).min())
    return True if converged and slack > INSIDE else None
