"""Measure the size of derivatives independently of the units of the parameters."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sklearn_pgb._budget import GRADIENT_ROUNDING
from sklearn_pgb._convex._problem import ConvexProblem
from sklearn_pgb._convex._unit_basis import ColumnScaling
from sklearn_pgb._training._objective import Objective

# Candidate step lengths, in multiples of a step that changes the outputs by one.
LENGTHS = 2.0 ** np.arange(-60, 61, 1.0)


@dataclass(frozen=True)
class Steepness:
    """Derivatives relative to the norms of their columns, and the gain of a step.

    Each derivative of the objective is divided by the norm of the outputs' derivatives
    with respect to the same parameter; `is_rounding` if their norm is zero up to
    rounding. The gain is the decrease of the objective by a step along the negative
    gradient, or along its largest component alone, in the model that is linear in the
    parameters.
    """

    norm: float
    is_rounding: bool
    gain: float


def steepness(
    objective: Objective, problem: ConvexProblem, raw: Tensor, gradient: Tensor
) -> Steepness:
    """Measure the derivatives of the objective at the network's parameters.

    The problem is on the gradient basis, without intercept, with the network's raw
    outputs as its offset. `gradient` is that of the objective.
    """
    scale = ColumnScaling.of(problem).scale
    relative = gradient / scale
    norm = float(relative.norm())
    residual = problem.weight.sqrt()[:, None] * problem.loss.gradient(problem.y, raw)
    tilt = objective.penalty_gradient(objective.network.theta)
    # Columns have norm one, so the norm of the residual bounds each entry. A norm of
    # all entries within the rounding error of this bound is no evidence.
    size = float(residual.norm()) * len(scale) ** 0.5 + float((tilt / scale).norm())
    if not norm > GRADIENT_ROUNDING * size:
        return Steepness(norm, True, 0.0)
    # A single large derivative can gain more than a step in all of them.
    largest = torch.zeros_like(relative)
    best = int(relative.abs().argmax())
    largest[best] = relative[best]
    start, gains = problem.data_value(raw), []
    for part in (relative, largest):
        step = -part / float(part.norm()) / scale
        change, along = problem.operator.matvec(step), float(tilt @ step)
        curvature = float(objective.penalty_value(step))
        for t in LENGTHS.tolist():
            gain = float(start - problem.data_value(raw + t * change))
            gains.append(gain - t * along - t * t * curvature)
    # The largest lengths may overflow.
    finite = [gain for gain in gains if np.isfinite(gain)]
    return Steepness(norm, False, max(finite, default=0.0))
