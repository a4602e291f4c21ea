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

    Attributes
    ----------
    norm : float
        Norm of the derivatives of the objective, each divided by the norm of the
        outputs' derivatives with respect to the same parameter.
    is_rounding : bool
        Whether `norm` is zero up to rounding.
    gain : float
        Decrease of the objective by a step along the negative gradient, or along its
        largest component alone, in the model that is linear in the parameters.
    """

    norm: float
    is_rounding: bool
    gain: float


def steepness(
    objective: Objective, problem: ConvexProblem, raw: Tensor, gradient: Tensor
) -> Steepness:
    """Measure the derivatives of the objective at the network's parameters.

    Parameters
    ----------
    problem : ConvexProblem
        Problem on the gradient basis, without intercept, with the network's outputs as
        its offset.
    raw : Tensor (n_samples, n_outputs)
    gradient : Tensor (n_params,)
        Gradient of the objective.
    """
    scale = ColumnScaling.of(problem).scale
    relative = gradient / scale
    norm = float(relative.norm())
    residual = problem.weight.sqrt()[:, None] * problem.loss.gradient(problem.y, raw)
    tilt = objective.penalty_gradient(objective.network.theta) / scale
    # Columns have norm one, so the norm of the residual bounds each entry. A norm of
    # all entries within the rounding error of this bound is no evidence.
    size = float(residual.norm()) * len(scale) ** 0.5 + float(tilt.norm())
    if not norm > GRADIENT_ROUNDING * size:
        return Steepness(norm, True, 0.0)
    # A single large derivative can gain more than a step in all of them.
    largest = torch.zeros_like(relative)
    best = int(relative.abs().argmax())
    largest[best] = relative[best]
    gains = [
        _gain(objective, problem, raw, -part / float(part.norm()) / scale)
        for part in (relative, largest)
    ]
    return Steepness(norm, False, max(gains))


def _gain(
    objective: Objective, problem: ConvexProblem, raw: Tensor, step: Tensor
) -> float:
    """Largest decrease of the objective along a step, for linearized outputs."""
    theta = objective.network.theta
    change = problem.operator.matvec(step)
    tilt = float(objective.penalty_gradient(theta) @ step)
    curvature = float(objective.penalty_value(step))
    start = problem.data_value(raw)
    # The largest lengths may overflow.
    gains = [
        float(start - problem.data_value(raw + t * change))
        - t * tilt
        - t * t * curvature
        for t in LENGTHS.tolist()
    ]
    return max([gain for gain in gains if np.isfinite(gain)], default=0.0)
