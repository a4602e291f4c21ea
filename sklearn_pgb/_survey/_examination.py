"""What is said of the ends of trainings: bounds and verdicts."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sklearn_pgb._bases import TangentSpace
from sklearn_pgb._certificate import TrainingObjective, certify_objective, kink_margin
from sklearn_pgb._convex import infimum
from sklearn_pgb._networks import Network
from sklearn_pgb._survey._ends import Ends, Setting
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
    setting: Setting,
    penalty: Tensor | None,
    *,
    floor: float,
    scale: float,
    tol: float,
    seed: int,
) -> tuple[NDArray[np.float64], tuple[str, ...]]:
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
    setting : Setting
    penalty : Tensor (n_params,) or None
    floor : float
    scale : float
        What there is to explain: the loss of a constant above the floor.
    tol : float
        Differences of the objective, and gradients, are small up to ``tol * scale``.
    seed : int

    Returns
    -------
    bounds : ndarray (n_starts,)
        Nan where there was no examination.
    verdicts : tuple of str
    """
    allowed = tol * scale
    critical = ends.gradient_norm <= allowed
    verdict = np.where(critical, "critical", "not_critical").astype(object)
    bounds = np.full(len(ends.loss), np.nan)
    budget = EXAMINATION_FLOPS
    for number in range(int(minimum.max()) + 1):
        members = np.flatnonzero(minimum == number)
        arrived = members[critical[members]]
        candidates = arrived if len(arrived) else members
        first = candidates[ends.objective[candidates].argmin()]
        network = ends.networks[first]
        if not len(arrived) and kink_margin(network, setting.inputs).on_kink:
            # Where there is no gradient, its norm says nothing.
            arrived = np.array([first])
        rows, columns = setting.y.numel(), network.n_params
        work = float(rows) * columns * min(rows, columns)
        budget -= work * (CERTIFICATE_COST if len(arrived) else 1.0)
        if budget < 0 and number > 0:
            break
        if len(arrived):
            bounds[members], verdict[arrived] = _certified(
                network, setting, penalty, tol, seed
            )
        else:
            with threads_for(work):
                bounds[members] = _bound(network, setting, floor)
    verdict[ends.objective - floor <= allowed] = "certified_global"
    return bounds, tuple(verdict.tolist())


def _certified(
    network: Network, setting: Setting, penalty: Tensor | None, tol: float, seed: int
) -> tuple[float, str]:
    """Bound and verdict of the certificate."""
    if penalty is None:
        penalty = torch.zeros_like(network.theta)
    inputs, y, weight = setting.inputs, setting.y, setting.weight
    objective = TrainingObjective(network, inputs, y, weight, setting.loss, penalty)
    certificate = certify_objective(
        objective, tol=tol, max_memory=MAX_MEMORY, seed=seed
    )
    return certificate.row("gradient").lower_bound, certificate.verdict


def _bound(network: Network, setting: Setting, floor: float) -> float:
    """Lower bound on the loss over a network's gradient basis."""
    space = TangentSpace.of([network], [setting.inputs], setting.weight)
    operator = space.operator([setting.inputs])
    problem = setting.problem(operator, space.intercept)
    return max(infimum(problem).lower_bound, floor)
