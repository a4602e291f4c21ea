"""What is said of the ends of trainings: bounds and verdicts."""

import numpy as np
from numpy.typing import NDArray

from sklearn_pgb._bases._tangent import TangentSpace
from sklearn_pgb._certificate._certify import certify_objective
from sklearn_pgb._certificate._objective import TrainingObjective
from sklearn_pgb._convex._infimum import infimum
from sklearn_pgb._convex._problem import ConvexProblem
from sklearn_pgb._convex._scale import LossScale
from sklearn_pgb._geometry._kinks import kink_margin
from sklearn_pgb._survey._ends import Ends
from sklearn_pgb._threads import threads_for

# What the decompositions for bounds and verdicts may cost in all, in multiplications;
# those of the smallest objectives come first.
EXAMINATION_FLOPS = 1e9

# A certificate costs about as much as ten decompositions of its gradient basis.
CERTIFICATE_COST = 10.0

# Bytes that one factorisation may take.
MAX_MEMORY = 2.0**30


def examine_ends(
    ends: Ends,
    minimum: NDArray[np.intp],
    *,
    scale: LossScale,
    tol: float,
    seed: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64], tuple[str, ...]]:
    """Bounds over the gradient bases, and a verdict on each end.

    One end of each distinct minimum is examined, from the smallest objective on, as far
    as EXAMINATION_FLOPS reach and at least once. A critical one, or one on a kink, is
    examined as `certify` does it, and its verdict is that of all critical ends of the
    minimum; of others there is the bound alone.

    Parameters
    ----------
    ends : Ends
    minimum : ndarray (n_starts,)
        Number of the distinct minimum of each end.
    scale : LossScale
        What there is to explain.
    tol : float
        Differences of the objective, and gradients, are small up to this share of it.
    seed : int

    Returns
    -------
    bounds, budgets : ndarray (n_starts,)
        Of the ends that were examined, and of the best one; nan elsewhere.
    verdicts : tuple of str
    """
    critical = ends.gradient_norm <= tol * scale.unit
    finite = np.isfinite(ends.objective) & np.isfinite(ends.gradient_norm)
    verdict = np.where(critical, "critical", "not_critical").astype(object)
    verdict[~finite] = "undetermined"
    bounds = np.full((2, len(ends.loss)), np.nan)
    budget = EXAMINATION_FLOPS
    for number in range(int(minimum.max()) + 1):
        members = np.flatnonzero(minimum == number)
        arrived = members[critical[members]]
        candidates = arrived if len(arrived) else members
        first = candidates[ends.objective[candidates].argmin()]
        if not finite[first]:
            continue
        objective = ends.objectives[first]
        if not len(arrived) and kink_margin(objective.network, objective.X).on_kink:
            # Where there is no gradient, its norm says nothing.
            arrived = np.array([first])
        budget -= _work(objective) * (CERTIFICATE_COST if len(arrived) else 1.0)
        if budget < 0 and number > 0:
            break
        if len(arrived):
            certificate = certify_objective(
                objective, tol=tol, max_memory=MAX_MEMORY, seed=seed
            )
            row = certificate.row("gradient")
            bounds[:, first] = row.lower_bound, row.norm_budget
            verdict[arrived] = certificate.verdict
        else:
            bounds[:, first] = _bound(objective, ends.loss[first], scale.floor)
    if finite.any():
        best = int(np.where(finite, ends.objective, np.inf).argmin())
        if np.isnan(bounds[0, best]):
            objective = ends.objectives[best]
            bounds[:, best] = _bound(objective, ends.loss[best], scale.floor)
    for end, value in enumerate(ends.objective):
        if scale.certifies(value, tol) and finite[end]:
            verdict[end] = "certified_global"
    return *bounds, tuple(verdict.tolist())


def _work(objective: TrainingObjective) -> float:
    """Multiplications of a decomposition of the gradient basis."""
    rows, columns = objective.y.numel(), objective.network.n_params
    return float(rows) * columns * min(rows, columns)


def _bound(
    objective: TrainingObjective, loss: float, floor: float
) -> tuple[float, float]:
    """Lower bound on the loss over a network's gradient basis, and its norm budget."""
    space = TangentSpace.of([objective.network], [objective.X], objective.weight)
    problem = ConvexProblem(
        space.operator([objective.X]),
        objective.y,
        objective.loss,
        objective.weight,
        intercept=space.intercept,
    )
    with threads_for(_work(objective)):
        least = infimum(problem, floor=floor, in_hand=loss)
    return least.lower_bound, least.norm_budget
