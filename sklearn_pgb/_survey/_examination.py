"""Compute bounds and verdicts for the trained networks of a survey."""

import numpy as np
from numpy.typing import NDArray

from sklearn_pgb._bases._tangent import TangentSpace
from sklearn_pgb._budget import CERTIFICATE_COST, EXAMINATION_FLOPS, factorization_flops
from sklearn_pgb._certificate._certify import certify_objective
from sklearn_pgb._certificate._table import problem_on
from sklearn_pgb._convex._bounds import Bound
from sklearn_pgb._convex._infimum import infimum
from sklearn_pgb._convex._scale import LossScale
from sklearn_pgb._geometry._kinks import kink_margin
from sklearn_pgb._survey._ends import Endpoints
from sklearn_pgb._threads import threads_for
from sklearn_pgb._training._objective import Objective


def examine_ends(
    ends: Endpoints,
    minimum: NDArray[np.intp],
    *,
    scale: LossScale,
    tol: float,
    seed: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64], tuple[str, ...]]:
    """Return bounds on the loss over gradient bases, their norm budgets, and verdicts.

    Each distinct minimum has one network examined, in order of increasing objective,
    until EXAMINATION_FLOPS are used up; the best minimum is always examined. A network
    that is critical or at a kink is certified as by `certify`, and all critical
    networks of its minimum get its verdict. For others only the bound is computed.
    Bounds are nan for networks that are neither examined nor the best.

    Parameters
    ----------
    minimum : ndarray of int (n_starts,)
        Number of each network's minimum, in order of increasing objective.
    """
    critical = ends.gradient_norm <= tol * scale.reference
    finite = np.isfinite(ends.objective) & np.isfinite(ends.gradient_norm)
    verdict = np.where(critical, "critical", "not_critical").astype(object)
    verdict[~finite] = "undetermined"
    bounds = np.full((2, len(ends.loss)), np.nan)
    budget = EXAMINATION_FLOPS
    # The best minima come first, so the budget goes to them.
    for number in range(int(minimum.max()) + 1):
        members = np.flatnonzero(minimum == number)
        converged = members[critical[members]]
        # A verdict on a critical network holds for the other critical ones of its
        # minimum, as their outputs are the same.
        candidates = converged if len(converged) else members
        examined = candidates[ends.objective[candidates].argmin()]
        if not finite[examined]:
            continue
        objective = ends.objectives[examined]
        if not len(converged) and kink_margin(objective.network, objective.X).on_kink:
            # At a kink the gradient does not exist, so its norm is not informative.
            converged = np.array([examined])
        budget -= _cost(objective) * (CERTIFICATE_COST if len(converged) else 1.0)
        if budget < 0 and number > 0:
            break
        if len(converged):
            certificate = certify_objective(objective, tol=tol, seed=seed)
            row = certificate.row("gradient")
            bounds[:, examined] = row.lower_bound, row.norm_budget
            verdict[converged] = certificate.verdict
        else:
            bound = _bound(objective, ends.loss[examined], scale.floor)
            bounds[:, examined] = bound.value, bound.norm_budget
    if finite.any():
        best = int(np.where(finite, ends.objective, np.inf).argmin())
        if np.isnan(bounds[0, best]):
            objective = ends.objectives[best]
            bound = _bound(objective, ends.loss[best], scale.floor)
            bounds[:, best] = bound.value, bound.norm_budget
    for start, value in enumerate(ends.objective):
        if scale.certifies(value, tol) and finite[start]:
            verdict[start] = "certified_global"
    return *bounds, tuple(verdict.tolist())


def _cost(objective: Objective) -> float:
    """Cost of a decomposition of the gradient basis."""
    return factorization_flops(objective.y.numel(), objective.network.n_params)


def _bound(objective: Objective, loss: float, floor: float) -> Bound:
    """Lower bound on the loss over a network's gradient basis."""
    space = TangentSpace.of([objective.network], [objective.X], objective.weight)
    operator = space.operator([objective.X])
    problem = problem_on(objective, operator, intercept=space.intercept)
    with threads_for(_cost(objective)):
        return infimum(problem, floor=floor, attained_loss=loss).bound
