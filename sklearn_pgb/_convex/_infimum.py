"""The smallest loss over the span of a basis, between certified bounds."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from sklearn_pgb._budget import (
    EQUAL_RTOL,
    FACTOR_FLOPS,
    INFIMUM_RTOLS,
    INTERIOR_SLACK,
    MAX_MEMORY,
    NEWTON_FLOPS,
    NEWTON_RTOLS,
    NEWTON_STEPS,
    PRODUCT_ULPS,
    REPAIR_FLOPS,
    SEPARATED_LOSS,
    STEADY_RTOL,
    factorization_flops,
)
from sklearn_pgb._convex._bound_choice import Minimizer, best_bound, rough_bound
from sklearn_pgb._convex._bounds import (
    Bound,
    Dual,
    conjugate_value,
    into_domain,
    unconditional_bound,
)
from sklearn_pgb._convex._newton import PrimalSystem, newton
from sklearn_pgb._convex._problem import ConvexProblem
from sklearn_pgb._convex._repair import repaired
from sklearn_pgb._convex._solve import solve
from sklearn_pgb._convex._unit_basis import (
    EPS,
    ColumnScaling,
    Spectrum,
    output_error,
    product_rounding,
)
from sklearn_pgb._threads import threads_for_solve

# A solver that only multiplies by the basis; returns coefficients and intercept.
Descend = Callable[[ConvexProblem], tuple[Tensor, Tensor]]


@dataclass(frozen=True, eq=False)
class Infimum:
    """Upper and lower bounds on the infimum of a loss over the span of a basis.

    Attributes
    ----------
    value : float
        The loss at the computed coefficients, plus its rounding error: an upper bound
        on the infimum. It is not below the smallest loss of any function.
    lower_bound : float
        A lower bound on the loss of all coefficients with norms up to `norm_budget`. It
        does not exceed any loss that is known to be attained.
    norm_budget : float
        Largest norm of intercept and coefficients that the lower bound covers, after
        centering the weighted columns and scaling them to norm one: usually a million
        times `norm`. Infinite only if it covers every function of the inputs.
    rank : int or None
        Rank of the basis, intercept included; None if it was not factorized.
    attained : bool or None
        Whether some coefficients attain the infimum; None if unknown.
    norm : float
        Norm of the computed coefficients, in the units of `norm_budget`.
    steady : float
        The smallest loss of coefficients that are not very long, because they only use
        directions with singular values above 1e-10 of the largest.
    steady_rank : int or None
        Number of these directions; None if the basis was not factorized.
    spectrum : Spectrum or None
    dual : Dual or None
        Proof of the lower bound; None if it holds for every function.
    coordinates : Tensor (n_columns, width) or None
        The computed intercept and coefficients, in the units of `norm_budget`.
    ray : float
        Multiple of their outputs that attains `value`; above one for separated labels.
    """

    value: float
    lower_bound: float
    norm_budget: float
    rank: int | None
    attained: bool | None
    norm: float
    steady: float
    steady_rank: int | None = None
    spectrum: Spectrum | None = None
    dual: Dual | None = None
    coordinates: Tensor | None = None
    ray: float = 1.0

    @property
    def bound(self) -> Bound:
        """The lower bound, with the norms that it covers and its proof."""
        return Bound(self.lower_bound, self.norm_budget, self.dual)

    def with_coefficients(
        self, problem: ConvexProblem, coef: Tensor, floor: float
    ) -> "Infimum":
        """Replace the computed coefficients, without intercept, if others are better.

        `floor` is the smallest loss of any function.
        """
        raw = problem.raw(coef, problem.zero()[1])
        value = max(problem.largest_value(raw, output_error(problem, coef)), floor)
        if not value < self.value:
            return self
        scaling = ColumnScaling.of(problem)
        point = scaling.columns(coef) * scaling.scale[:, None]
        return replace(
            self,
            value=value,
            steady=min(value, self.steady),
            lower_bound=min(value, self.lower_bound),
            norm=float(point.norm()),
            coordinates=point,
            ray=1.0,
        )


def _by_solver(problem: ConvexProblem) -> tuple[Tensor, Tensor]:
    solution = solve(problem)
    return solution.coef, solution.intercept


def infimum(
    problem: ConvexProblem,
    descend: Descend = _by_solver,
    *,
    max_memory: float = MAX_MEMORY,
    contains_offset: bool = False,
    floor: float = -math.inf,
    attained_loss: float = math.inf,
) -> Infimum:
    """Bound the infimum of a problem without regularization (alpha is ignored).

    For a dual point u in the conjugates' domain, Fenchel duality bounds the loss of all
    coefficients with norms up to B from below by ::

        sum_i w_i (u_i o_i - l_i*(u_i)) - B |D^-1 Phi^T W u|

    where D are the norms of the columns. In floating point the last norm is never known
    to be zero, so B is finite. The rounding error of both terms is subtracted.

    Parameters
    ----------
    problem : ConvexProblem
    descend : callable
        Solver that only multiplies by the basis, used if a factorization or Newton's
        steps would take too long. Returns coefficients and intercept.
    max_memory : float
        Bytes that a factorization may take.
    contains_offset : bool
        Whether the problem's offset lies in the span.
    floor : float
        Smallest loss of any function of the inputs, if known.
    attained_loss : float
        A loss that some coefficients are known to attain.

    Notes
    -----
    For the squared loss the targets are projected on the span, with several cutoffs of
    its rank. Other losses take Newton steps on an orthonormal basis and use dual points
    of `repaired`.
    """
    problem = problem.with_alpha(0.0)
    operator = problem.operator
    with threads_for_solve(operator.n_rows, operator.n_coef):
        if is_affordable(problem, FACTOR_FLOPS, max_memory):
            spectrum = Spectrum.of(problem)
            basis = spectrum.basis
            zero = basis.base.new_zeros(basis.matrix.shape[1], basis.scaling.width)
            value = float(problem.data_value(basis.base))
            exact = torch.zeros_like(basis.base)
            candidates = [Minimizer(value, zero, basis.base, exact, [], False)]
            if bool(basis.matrix.isfinite().all()):
                quadratic = problem.loss.quadratic
                find = _least_squares if quadratic else partial(_minimized, descend)
                ranks = spectrum.ranks(INFIMUM_RTOLS if quadratic else NEWTON_RTOLS)
                candidates += [find(spectrum, rank) for rank in ranks]
        else:
            spectrum, candidates = None, [_by_products(problem, descend)]
        return _finish(
            problem, candidates, spectrum, contains_offset, floor, attained_loss
        )


def is_affordable(problem: ConvexProblem, flops: float, max_memory: float) -> bool:
    """Whether a factorization of the basis stays within these limits."""
    operator = problem.operator.one_output()
    rows, columns = operator.n_rows, operator.n_coef
    needed = factorization_flops(rows, columns)
    return needed <= flops and 4 * 8.0 * rows * columns <= max_memory


# --- squared loss -------------------------------------------------------------------


def _least_squares(spectrum: Spectrum, rank: int) -> Minimizer:
    """Minimize the squared loss along the first `rank` directions of the basis.

    The residual of the targets is the dual point. It is projected off the span twice,
    to remove the rounding error of the first projection.
    """
    basis, U = spectrum.basis, spectrum.U[:, :rank]
    mean, target = basis.target()
    beta, residual = spectrum.least_squares(rank, target)
    orthogonal = target
    for _ in range(2):
        orthogonal = orthogonal - U @ (U.T @ orthogonal)
    error = basis.output_error(beta)
    value = float((residual.abs() + basis.fold(error)).square().sum())
    # Both vectors give valid bounds; rounding of beta decides which is tighter.
    parts = orthogonal, residual
    duals = [Dual.of_residual(basis, target, part) for part in parts]
    raw = basis.base + mean + basis.unfold(target - residual)
    return Minimizer(value, beta, raw, error, duals, True, rank)


# --- other losses -------------------------------------------------------------------


def _minimized(descend: Descend, spectrum: Spectrum, rank: int) -> Minimizer:
    """Minimize by Newton's method, or by `descend` if its steps are too expensive."""
    basis = spectrum.basis
    problem = basis.problem
    inner = basis.inner(spectrum.U[:, :rank])
    operator = inner.operator
    normal = 2.0 * operator.n_rows * operator.n_coef**2
    if operator.shared_features is not None:
        normal /= operator.n_outputs
    min_steps, max_steps = NEWTON_STEPS
    steps = NEWTON_FLOPS / max(normal + operator.n_coef**3 / 3, 1.0)
    gamma, converged = inner.zero()[0], False
    if steps >= min_steps:
        system = PrimalSystem(inner, torch.ones_like(gamma))
        n_steps = int(min(steps, max_steps))
        gamma, _, _, converged = newton(inner, system, None, 1e-12, n_steps)
    # Newton's method does not leave zero if all errors of the Huber loss are large,
    # because this loss then has no curvature.
    if not converged and not gamma.any():
        gamma, _ = descend(inner)
    gamma = gamma.reshape(rank, basis.scaling.width)
    beta = spectrum.V[:, :rank] @ (gamma / spectrum.singular[:rank, None])
    raw = basis.raw(beta)
    error = basis.output_error(beta)
    value = problem.largest_value(raw, error)
    dual = problem.loss.gradient(problem.y, raw)
    duals = [Dual.at(basis, dual)] if bool(dual.isfinite().all()) else []
    columns = operator.n_coef
    if problem.loss.dual_rows_sum_to_zero:
        # One more constraint per sample, as the loss is invariant to adding a constant
        # to all outputs.
        columns += len(problem.y)
    if duals and factorization_flops(problem.y.numel(), columns) <= REPAIR_FLOPS:
        # Orthonormal columns, as `inner` is a problem on an orthonormal basis.
        root = inner.weight.sqrt()[:, None, None]
        span = (root * operator.dense()).flatten(0, 1)
        duals += [Dual.at(basis, each) for each in repaired(problem, dual, span)]
    return Minimizer(value, beta, raw, error, duals, converged, rank)


# --- bases too large to factorize ---------------------------------------------------


def _by_products(problem: ConvexProblem, descend: Descend) -> Minimizer:
    """Minimize by products with the basis; norms and errors take passes over it."""
    coef, intercept = descend(problem)
    raw = problem.raw(coef, intercept)
    scaling = ColumnScaling.of(problem)
    mean, scale = scaling.mean, scaling.scale[:, None]
    center = (intercept + scaling.shift(coef)).reshape(-1, scaling.width)
    rest = scale * scaling.columns(coef)
    coordinates = torch.cat([center, rest]) if problem.intercept else rest
    dual = into_domain(problem, problem.loss.gradient(problem.y, raw))
    rows = problem.weight[:, None] * dual
    along = scaling.columns(problem.operator.rmatvec(rows))
    sums = rows.sum(0)
    size = float((problem.weight.sqrt()[:, None] * dual).norm())
    if problem.intercept:
        along = along - mean.T @ sums.reshape(len(mean), scaling.width)
    else:
        sums = torch.zeros_like(sums)
    residual = math.hypot(float((along / scale).norm()), float(sums.norm()))
    # Columns far from zero lose digits to cancellation when they are centered.
    cancellation = float((scaling.plain / scaling.scale).norm()) + 1.0
    residual += product_rounding(1) * size * cancellation
    proven = Dual(conjugate_value(problem, dual, problem.base), residual, dual)
    error = output_error(problem, coef) + PRODUCT_ULPS * EPS * intercept.abs()
    value = problem.largest_value(raw, error)
    return Minimizer(value, coordinates, raw, error, [proven], False)


# --- bounds from candidates ---------------------------------------------------------


def _finish(
    problem: ConvexProblem,
    candidates: list[Minimizer],
    spectrum: Spectrum | None,
    contains_offset: bool,
    floor: float,
    attained_loss: float,
) -> Infimum:
    usable = [each for each in candidates if math.isfinite(each.value)]
    unconditional = unconditional_bound(problem, floor)
    if not usable:
        return Infimum(
            value=math.inf,
            lower_bound=unconditional.within(attained_loss).value,
            norm_budget=math.inf,
            rank=None if spectrum is None else spectrum.rank,
            attained=None,
            norm=math.nan,
            steady=math.inf,
        )
    value = min(each.value for each in usable)
    # Budgets are based on this norm if the norms of all candidates are smaller.
    fallback_norm = 1.0
    if problem.loss.quadratic:
        target = problem.weight.sqrt()[:, None] * problem.centered_target()
        fallback_norm = float(target.norm()) or 1.0
    # Among candidates of equal loss the shortest one gives the smallest norm to cover.
    equal = value + EQUAL_RTOL * abs(value)
    best = min(
        (each for each in usable if each.value <= equal), key=lambda each: each.norm
    )
    if spectrum is None:
        bound = rough_bound(best, fallback_norm, unconditional)
    else:
        bound = best_bound(usable, best, fallback_norm, unconditional)
    has_rays = problem.offset is None or contains_offset
    value, attained, ray = _attainment(problem, best, value, has_rays)
    # Rounding of the loss can move it below the smallest loss of any function.
    value = max(value, unconditional.value)
    # `steady` only allows directions with singular values far above rounding.
    leading = None if spectrum is None else spectrum.leading(STEADY_RTOL)
    rank = 0 if leading is None else len(leading.singular)
    steady = min(each.value for each in usable if each.rank <= rank)
    steady = max(steady, unconditional.value)
    bound = bound.within(value, attained_loss)
    return Infimum(
        value=value,
        lower_bound=bound.value,
        norm_budget=bound.norm_budget,
        rank=None if spectrum is None else spectrum.rank,
        attained=attained,
        norm=best.norm,
        steady=steady,
        steady_rank=None if leading is None else leading.rank,
        spectrum=spectrum,
        dual=bound.dual,
        coordinates=best.coordinates,
        ray=ray,
    )


def _attainment(
    problem: ConvexProblem, best: Minimizer, value: float, has_rays: bool
) -> tuple[float, bool | None, float]:
    """Return the infimum, whether it is attained, and the multiple of the outputs.

    The second result is None if unknown. If the labels are separated, the loss falls to
    the samples' infima along a ray, and the infimum is not attained. It is attained if
    the gradients at a stationary point are well inside their domain. With `has_rays`,
    the model also represents multiples of the best outputs.
    """
    n = len(problem.y)
    minima = problem.loss.pooled_minimum(problem.y, problem.weight, torch.arange(n), n)
    if bool(minima.attained.all()):
        # Each sample's loss has a minimum (squared, hinge, smoothed labels), so does
        # their sum.
        return value, True, 1.0
    ray = 1.0
    if has_rays:
        # Longer multiples of a model that separates the labels have smaller losses.
        scales = (2.0 ** torch.arange(24)).tolist()
        values = [
            problem.largest_value(scale * best.raw, scale * best.error)
            for scale in scales
        ]
        least, multiple = min(
            pair for pair in zip(values, scales, strict=True) if not math.isnan(pair[0])
        )
        if least < value:
            value, ray = least, multiple
    trivial = float(problem.weight @ problem.loss.minimum(problem.y))
    if value - trivial <= SEPARATED_LOSS:
        return value, False, ray
    lower, upper = problem.loss.dual_bounds(problem.y)
    dual = problem.loss.gradient(problem.y, best.raw)
    slack = float(torch.minimum(dual - lower, upper - dual).min())
    attained = True if best.converged and slack > INTERIOR_SLACK else None
    return value, attained, ray
