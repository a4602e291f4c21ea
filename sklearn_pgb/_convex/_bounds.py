"""Certified lower bounds without a ridge: the infimum over the span of a basis."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sklearn_pgb._convex._problem import ConvexProblem, dual_value
from sklearn_pgb._convex._solve import spectral_basis
from sklearn_pgb._operators import KroneckerOperator

# Coordinates of the dual closer to the edge of their box than this are put on it; the
# best certified value over the ladder counts.
PINNING = (0.0, 1e-12, 1e-9, 1e-7, 1e-5, 1e-3, 1e-2)


@dataclass(frozen=True)
class SpanBound:
    """A lower bound on the loss over the span of a basis.

    Attributes
    ----------
    value : float
    residual : float
        Norm of Phi^T W u at the dual point behind the bound; zero but for rounding. A
        coefficient vector of norm B could undercut `value` by at most B times this.
    rank : int
        Numerical rank of the basis, intercept included.
    """

    value: float
    residual: float
    rank: int


def span_bound(
    problem: ConvexProblem,
    raw: Tensor,
    *,
    repair: bool = True,
    span: Tensor | None = None,
) -> SpanBound:
    """Bound inf over all coefficients of the loss without ridge (alpha is ignored).

    Every u in the conjugates' domain with ``Phi^T W u = 0`` gives the bound
    ``-sum w_i l_i*(u_i)``. The squared loss has no domain: its gradients at any `raw`
    of the model, projected off the span, give the infimum itself. For other losses the
    gradients at `raw` are repaired: coordinates near the edge of the domain are pinned
    to it and the others take the smallest correction. Without `repair`, these losses
    get the sum of the samples' own minima. `span` holds orthonormal columns that span
    the weighted basis and the intercept, where they are known.
    """
    n, k = problem.y.shape
    # Outputs that share features are projected one by one.
    shared = span is None and problem.loss.quadratic
    shared = shared and isinstance(problem.operator, KroneckerOperator)
    if span is None:
        span = _span(problem.one_output() if shared else problem)
    rank = span.shape[1] * (k if shared else 1)
    trivial = float(problem.weight @ problem.loss.minimum(problem.y))
    best = SpanBound(trivial, 0.0, rank)
    if rank == problem.operator.n_rows:
        return best
    root = problem.weight.sqrt()[:, None]
    dual = problem.loss.gradient(problem.y, raw)
    if problem.loss.quadratic:
        rows = (root * dual).reshape(len(span), -1)
        rows -= span @ (span.T @ rows)
        return _better(best, problem, rows.reshape(n, k) / root)
    if not repair:
        return best
    for pinning in PINNING:
        candidate = _repair(problem, dual, span, pinning)
        if candidate is not None:
            best = _better(best, problem, candidate)
    return best


def _span(problem: ConvexProblem) -> Tensor:
    """Orthonormal columns that span the weighted basis and the intercept."""
    U, _, _ = spectral_basis(problem)
    if not problem.intercept:
        return U
    n, k = problem.y.shape
    eye = torch.eye(k, dtype=U.dtype, device=U.device).repeat(n, 1)
    constant = problem.weight.sqrt().repeat_interleave(k)[:, None] * eye
    return torch.cat([constant, U], 1)


def _better(best: SpanBound, problem: ConvexProblem, dual: Tensor) -> SpanBound:
    """The larger of the best bound so far and the one of a dual point."""
    value = dual_value(problem, dual)
    if value <= best.value:
        return best
    normal = problem.augmented().rmatvec(problem.weight[:, None] * dual)
    return SpanBound(value, float(normal.norm()), best.rank)


def _repair(
    problem: ConvexProblem, dual: Tensor, U: Tensor, pinning: float
) -> Tensor | None:
    """A dual point with ``Phi^T W u = 0`` inside the box, or None."""
    lower, upper = (b.reshape(-1) for b in problem.loss.dual_bounds(problem.y))
    constraints = _constraints(problem, U)
    u = dual.reshape(-1).clamp(lower, upper)
    if constraints.shape[1] == 0:
        return u.reshape(dual.shape)
    low, high = u <= lower + pinning, u >= upper - pinning
    for _ in range(20):
        u = torch.where(low, lower, torch.where(high, upper, u))
        violation = constraints.T @ u
        if float(violation.abs().max()) <= 1e-13:
            return u.reshape(dual.shape)
        free = ~(low | high)
        if not bool(free.any()):
            return None
        step = torch.linalg.lstsq(
            constraints[free].T, -violation[:, None], driver="gelsd"
        ).solution[:, 0]
        u[free] += step
        if float((constraints.T @ u).abs().max()) > 1e-9:
            return None
        outside_low, outside_high = u < lower, u > upper
        if not bool((outside_low | outside_high).any()):
            return u.reshape(dual.shape)
        low, high = low | outside_low, high | outside_high
    return None


def _constraints(problem: ConvexProblem, U: Tensor) -> Tensor:
    """Columns whose products with u have to vanish."""
    n, k = problem.y.shape
    columns = problem.weight.sqrt().repeat_interleave(k)[:, None] * U
    if not problem.loss.dual_rows_sum_to_zero:
        return columns
    eye = torch.eye(n, dtype=U.dtype, device=U.device).repeat_interleave(k, 0)
    return torch.cat([columns, eye], 1)
