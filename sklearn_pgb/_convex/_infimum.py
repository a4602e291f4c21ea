"""The least loss over the span of a basis, with what is certain about it."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sklearn_pgb._convex._bounds import (
    BUDGET,
    Bound,
    Dual,
    best_of,
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
    Spectrum,
    UnitBasis,
    Units,
    product_rounding,
)
from sklearn_pgb._operators import KroneckerOperator
from sklearn_pgb._threads import threads_for_solve

# Up to this many flops (rows times columns times the smaller of both) the basis is
# factorised; beyond, only products with it are taken.
FACTOR_FLOPS, REPAIR_FLOPS = 4e9, 3e7

# Flops that Newton may take, and its least and largest number of steps.
NEWTON_FLOPS, NEWTON_STEPS = 1e10, (15, 100)

# Coefficients along directions below these shares of the largest singular value may
# gain next to nothing and be very long; a bound for coefficients so much longer is
# worth little. All are tried, and the loss decides.
STEADY = 1e-10
RTOLS, NEWTON_RTOLS = (1e-12, STEADY, 1e-8, 1e-6), (STEADY,)

# A bound that keeps this share of what the best one is above the trivial one is as
# good, and holds for longer coefficients. Budgets are a million times the norm of some
# coefficients found, or this many times that of the best.
AS_GOOD, SHORTER = 1 - 5e-8, (1e4, 1e2, 1.0)

# Where there are only products with the basis, coefficients are found less exactly, and
# budgets fall short of a million where that keeps this share of the best bound.
ROUGHLY, ROUGH_BUDGETS = 0.9, (1e6, 1e5, 1e4, 1e3, 1e2, 1e1)

# Losses this close, relative to themselves, are equal; the shorter coefficients count.
EQUAL = 1e-12

# A log loss this close to its samples' own infima runs away from all; gradients this
# far from the edge of their domain belong to samples that do not.
SEPARATED, INSIDE = 1e-10, 1e-8


# Finds coefficients and an intercept by products with the basis.
Descend = Callable[[ConvexProblem], tuple[Tensor, Tensor]]


@dataclass(frozen=True, eq=False)
class Infimum:
    """The infimum of a loss over the span of a basis, between two numbers.

    Attributes
    ----------
    value : float
        The loss at coefficients that were found: never below the infimum.
    lower_bound : float
        Never above the infimum over coefficients up to the norm `norm_budget`, nor
        above a value in hand.
    norm_budget : float
        On the norm of the intercept and the coefficients of a basis whose weighted and
        centred columns have norm one; a million times what was found. Infinite only
        where the bound holds for every function of the inputs.
    rank : int or None
        Of the basis, intercept included; None where it was not factorised.
    attained : bool or None
        Whether some coefficients attain the infimum; None where this is not known.
    norm : float
        Of the coefficients found, in the terms of `norm_budget`.
    steady : float
        The loss at coefficients that do without directions whose singular values are
        below 1e-10 of the largest: what can be gained without very long coefficients.
    steady_rank : int or None
        The number of those directions, where the basis was factorised.
    unlimited : bool
        Whether coefficients beyond the budget are known to be worse: the columns are
        independent, and the squared loss grows with their coefficients.
    spectrum : Spectrum or None
    """

    value: float
    lower_bound: float
    norm_budget: float
    rank: int | None
    attained: bool | None
    norm: float
    steady: float
    steady_rank: int | None = None
    unlimited: bool = False
    spectrum: Spectrum | None = None


@dataclass(frozen=True, eq=False)
class _Found:
    """Coordinates that were found, and what a dual point beside them proves.

    Attributes
    ----------
    value, norm : float
    raw : Tensor (n_samples, n_outputs)
    duals : list of Dual
    converged : bool
    """

    value: float
    norm: float
    raw: Tensor
    duals: list[Dual]
    converged: bool
    rank: int = 0


def _by_solver(problem: ConvexProblem) -> tuple[Tensor, Tensor]:
    solution = solve(problem)
    return solution.coef, solution.intercept


def infimum(
    problem: ConvexProblem,
    descend: Descend = _by_solver,
    *,
    max_memory: float = 2.0**30,
    contains_offset: bool = False,
    floor: float = -math.inf,
    in_hand: float = math.inf,
) -> Infimum:
    """Enclose the infimum of a problem without ridge (alpha is ignored).

    Every bound of the package without a ridge is made here. For a dual point u in the
    conjugates' domain, and coefficients whose norm is at most B, no loss is below ::

        sum_i w_i (u_i o_i - l_i*(u_i)) - B |D^-1 Phi^T W u|

    by Fenchel duality, with D the norms of the columns. In floating point the last norm
    is never known to be zero, so B is finite; what rounding can have done to either
    term is taken off.

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
    floor : float
        Least loss of any function of the inputs, where it is known.
    in_hand : float
        A loss that some coefficients have.

    Notes
    -----
    The squared loss is projected on the span, for several ideas of its rank. Other
    losses take Newton steps on an orthonormal basis of it, and the repaired dual point
    of `repaired`.
    """
    problem = problem.with_alpha(0.0)
    operator = problem.operator
    with threads_for_solve(operator.n_rows, operator.n_coef):
        if is_affordable(problem, FACTOR_FLOPS, max_memory):
            spectrum = Spectrum.of(problem)
            found = _factorised(spectrum, descend)
        else:
            spectrum, found = None, [_by_products(problem, descend)]
        return _finish(problem, found, spectrum, contains_offset, floor, in_hand)


def is_affordable(problem: ConvexProblem, flops: float, max_memory: float) -> bool:
    """Whether a factorisation of the basis takes at most so much."""
    operator = problem.operator
    rows, columns = operator.n_rows, operator.n_coef
    if isinstance(operator, KroneckerOperator):
        rows, columns = operator.features.shape
    needed = float(rows) * columns * min(rows, columns)
    return needed <= flops and 4 * 8.0 * rows * columns <= max_memory


def _factorised(spectrum: Spectrum, descend: Descend) -> list[_Found]:
    if not bool(spectrum.basis.matrix.isfinite().all()):
        return [_at_zero(spectrum.basis)]
    quadratic = spectrum.basis.problem.loss.quadratic
    find = _least_squares if quadratic else _minimised(descend)
    ranks = spectrum.ranks(RTOLS if quadratic else NEWTON_RTOLS)
    found = [find(spectrum, rank) for rank in ranks]
    return [_at_zero(spectrum.basis), *found]


def _at_zero(basis: UnitBasis) -> _Found:
    """Coefficients of zero: a model in hand of every basis."""
    return _Found(
        float(basis.problem.data_value(basis.base)), 0.0, basis.base, [], False
    )


# --- squared loss -------------------------------------------------------------------


def _least_squares(spectrum: Spectrum, rank: int) -> _Found:
    """The squared loss along the first directions of the basis.

    What is left of the targets is the dual point. It is projected off the span twice,
    so that rounding of the first time does not remain.
    """
    basis, U = spectrum.basis, spectrum.U[:, :rank]
    free, target = basis.target()
    beta, left = spectrum.least_squares(rank, target)
    across = target
    for _ in range(2):
        across = across - U @ (U.T @ across)
    # Long coefficients are known to have this loss up to the rounding of outputs.
    rounding = product_rounding(1) * float(beta.norm())
    value = (float(left.norm()) + rounding) ** 2
    duals = [_residual_dual(basis, target, part) for part in (across, left)]
    raw = basis.base + free + basis.unfold(target - left)
    return _Found(value, float(beta.norm()), raw, duals, True, rank)


def _residual_dual(basis: UnitBasis, target: Tensor, left: Tensor) -> Dual:
    """``|t - A b|^2 >= 2 l.t - |l|^2 - 2 (A^T l).b`` for any l."""
    size = float(left.norm())
    value = size**2 + 2 * float((left * (target - left)).sum())
    rounding = product_rounding(1) * size * (size + float(target.norm()))
    along = 2 * float((basis.matrix.T @ left).norm())
    return Dual(value - rounding, along + 2 * basis.rounding * size)


# --- other losses -------------------------------------------------------------------


def _minimised(descend: Descend) -> Callable[[Spectrum, int], _Found]:
    """Newton on orthonormal coordinates; L-BFGS where its steps are dear."""

    def find(spectrum: Spectrum, rank: int) -> _Found:
        basis = spectrum.basis
        problem, U = basis.problem, spectrum.U[:, :rank]
        inner = basis.inner(U)
        gamma, converged = _minimise(inner, descend)
        gamma = gamma.reshape(rank, basis.units.width)
        beta = spectrum.V[:, :rank] @ (gamma / spectrum.singular[:rank, None])
        raw = basis.raw(beta)
        value = float(problem.data_value(raw))
        dual = problem.loss.gradient(problem.y, raw)
        duals = [dual_of(basis, dual)] if bool(dual.isfinite().all()) else []
        if duals and _is_repairable(problem, inner.operator.n_coef):
            span = inner_columns(inner)
            duals += [dual_of(basis, each) for each in repaired(problem, dual, span)]
        return _Found(value, float(beta.norm()), raw, duals, converged, rank)

    return find


def inner_columns(inner: ConvexProblem) -> Tensor:
    """Orthonormal columns of the weighted basis, one row for each output."""
    root = inner.weight.sqrt()[:, None, None]
    return (root * inner.operator.dense()).flatten(0, 1)


def dual_of(basis: UnitBasis, dual: Tensor) -> Dual:
    """What a dual point proves."""
    dual = into_domain(basis.problem, dual)
    rows = basis.fold(dual)
    along = float((basis.matrix.T @ rows).norm())
    along += basis.rounding * float(rows.norm())
    return Dual(conjugate_value(basis.problem, dual, basis.base), along)


def _minimise(inner: ConvexProblem, descend: Descend) -> tuple[Tensor, bool]:
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


def _is_repairable(problem: ConvexProblem, rank: int) -> bool:
    # The repair has one more constraint per sample where the loss does not see what is
    # added to all outputs.
    rows, columns = problem.y.numel(), rank
    columns += len(problem.y) if problem.loss.dual_rows_sum_to_zero else 0
    return float(rows) * columns * min(rows, columns) <= REPAIR_FLOPS


# --- bases that are too large -------------------------------------------------------


def _by_products(problem: ConvexProblem, descend: Descend) -> _Found:
    """By products with the basis alone; its columns' norms take one pass over it."""
    coef, free = descend(problem)
    raw = problem.raw(coef, free)
    units = Units.of(problem)
    mean, scale = units.mean, units.scale[:, None]
    rest, centre = scale * units.columns(coef), free + units.shift(coef)
    norm = math.hypot(float(rest.norm()), float(centre.norm()))
    base = torch.zeros_like(problem.y) if problem.offset is None else problem.offset
    dual = into_domain(problem, problem.loss.gradient(problem.y, raw))
    rows = problem.weight[:, None] * dual
    along = units.columns(problem.operator.rmatvec(rows))
    sums = rows.sum(0)
    size = float((problem.weight.sqrt()[:, None] * dual).norm())
    if problem.intercept:
        along = along - mean.T @ sums.reshape(len(mean), units.width)
    else:
        sums = torch.zeros_like(sums)
    residual = math.hypot(float((along / scale).norm()), float(sums.norm()))
    # Columns far from zero have lost digits before they were centred.
    lost = float((units.plain / units.scale).norm()) + 1.0
    residual += product_rounding(1) * size * lost
    proven = Dual(conjugate_value(problem, dual, base), residual)
    return _Found(float(problem.data_value(raw)), norm, raw, [proven], False)


# --- what comes of it ---------------------------------------------------------------


def _finish(
    problem: ConvexProblem,
    found: list[_Found],
    spectrum: Spectrum | None,
    contains_offset: bool,
    floor: float,
    in_hand: float,
) -> Infimum:
    usable = [each for each in found if math.isfinite(each.value)]
    unconditional = unconditional_bound(problem, floor)
    if not usable:
        bound = unconditional.within(in_hand)
        rank = None if spectrum is None else spectrum.rank
        nothing = math.inf, bound.value, math.inf, rank, None, math.nan, math.inf
        return Infimum(*nothing)
    value, least = min(each.value for each in usable), _unit_norm(problem)
    equal = value + EQUAL * abs(value)
    best = min(
        (each for each in usable if each.value <= equal), key=lambda each: each.norm
    )
    if spectrum is None:
        bound = _rough_bound(best, least, unconditional)
    else:
        bound = _best_bound(usable, best, least, unconditional)
    attained: bool | None = True
    if not _have_minima(problem):
        if problem.offset is None or contains_offset:
            value = min(value, _along_ray(problem, best.raw))
        trivial = float(problem.weight @ problem.loss.minimum(problem.y))
        attained = _attained(problem, best.raw, best.converged, value - trivial)
    bound = bound.within(value, in_hand)
    return Infimum(
        value=value,
        lower_bound=bound.value,
        norm_budget=bound.norm_budget,
        rank=None if spectrum is None else spectrum.rank,
        attained=attained,
        norm=best.norm,
        steady=_steady(usable, spectrum),
        steady_rank=None if spectrum is None else spectrum.leading(STEADY).rank,
        unlimited=_is_unlimited(problem, spectrum, bound, value),
        spectrum=spectrum,
    )


def _steady(found: list[_Found], spectrum: Spectrum | None) -> float:
    """The least loss along directions that are far from rounding."""
    most = 0 if spectrum is None else spectrum.ranks((STEADY,))[-1]
    return min(each.value for each in found if each.rank <= most)


def _unit_norm(problem: ConvexProblem) -> float:
    """Norm of coefficients that count as none beside others: of outputs of size one.

    With the squared loss, the size of the targets takes the place of one.
    """
    if not problem.loss.quadratic:
        return 1.0
    target = problem.y if problem.offset is None else problem.y - problem.offset
    if problem.intercept:
        target = target - problem.weight @ target
    return float((problem.weight.sqrt()[:, None] * target).norm()) or 1.0


def _best_bound(
    found: list[_Found], best: _Found, least: float, unconditional: Bound
) -> Bound:
    """The largest bound, or one that is as good for longer coefficients."""
    norms = [max(each.norm, least) for each in found]
    budgets = {BUDGET * norm for norm in norms}
    budgets |= {factor * max(best.norm, least) for factor in SHORTER}
    duals = [dual for each in found for dual in each.duals]
    # None that is shorter than a million times the shortest coefficients found.
    budgets = {budget for budget in budgets if budget >= BUDGET * min(norms)}
    bounds = [dual.bound(budget) for dual in duals for budget in budgets]
    largest = best_of(bounds, unconditional)
    if not math.isfinite(largest.norm_budget):
        return largest
    enough = unconditional.value + AS_GOOD * (largest.value - unconditional.value)
    # Beyond what the best coefficients ask for, a longer budget is worth nothing.
    goal = BUDGET * max(best.norm, least)
    able = [b for b in bounds if b.value >= enough and b.norm_budget <= goal]
    if not able:
        return largest
    longest = max(bound.norm_budget for bound in able)
    if longest < best.norm:
        # One that covers the coefficients found, if it is not much worse.
        enough = unconditional.value + ROUGHLY * (largest.value - unconditional.value)
        covering = [
            b for b in bounds if b.value >= enough and b.norm_budget >= best.norm
        ]
        if covering:
            return max(covering, key=lambda bound: bound.value)
    return best_of([b for b in able if b.norm_budget == longest], unconditional)


def _rough_bound(best: _Found, least: float, unconditional: Bound) -> Bound:
    """The bound for the longest coefficients that is almost as good as any."""
    bounds = [
        dual.bound(factor * max(best.norm, least))
        for factor in ROUGH_BUDGETS
        for dual in best.duals
    ]
    largest = best_of(bounds, unconditional).value
    enough = unconditional.value + ROUGHLY * (largest - unconditional.value)
    # From the longest on.
    able = [bound for bound in bounds if bound.value >= enough]
    return best_of(able[:1], unconditional)


def _is_unlimited(
    problem: ConvexProblem, spectrum: Spectrum | None, bound: Bound, value: float
) -> bool:
    """Whether all coefficients beyond the budget have a larger loss than `value`."""
    if not math.isfinite(bound.norm_budget):
        return True
    if spectrum is None or not problem.loss.quadratic:
        return False
    matrix = spectrum.basis.matrix
    if len(spectrum.singular) < matrix.shape[1]:
        return False
    # Of the matrix itself: singular values are off by a few units in the last place.
    least = float(spectrum.singular[-1]) - 8 * EPS * math.sqrt(matrix.numel())
    target = float(spectrum.basis.fold(problem.y - spectrum.basis.base).norm())
    return least * bound.norm_budget > target + math.sqrt(max(value, 0.0))


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
