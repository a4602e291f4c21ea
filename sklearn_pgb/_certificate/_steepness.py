"""Measure the size of derivatives independently of the units of the parameters."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sklearn_pgb._budget import GRADIENT_ROUNDING, STEEP_LENGTHS
from sklearn_pgb._convex._problem import ConvexProblem
from sklearn_pgb._convex._unit_basis import ColumnScaling
from sklearn_pgb._training._objective import Objective


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
    step : Tensor (n_params,)
        The step with this gain.
    """

    norm: float
    is_rounding: bool
    gain: float
    step: Tensor


def steepness(
    objective: Objective, problem: ConvexProblem, gradient: Tensor
) -> Steepness:
    """Measure the derivatives of the objective at the network's parameters.

    Parameters
    ----------
    problem : ConvexProblem
        Problem on the gradient basis, without intercept, with the network's outputs as
        its offset.
    gradient : Tensor (n_params,)
        Gradient of the objective.
    """
    raw, scale = problem.base, ColumnScaling.of(problem).scale
    relative = gradient / scale
    norm = float(relative.norm())
    residual = problem.weight.sqrt()[:, None] * problem.loss.gradient(problem.y, raw)
    tilt = objective.penalty_gradient(objective.network.theta)
    # Columns have norm one, so the norm of the residual bounds each entry. A norm of
    # all entries within the rounding error of this bound is no evidence.
    size = float(residual.norm()) * len(scale) ** 0.5 + float((tilt / scale).norm())
    if not norm > GRADIENT_ROUNDING * size:
        return Steepness(norm, True, 0.0, torch.zeros_like(gradient))
    # A single large derivative can gain more than a step in all of them.
    largest = torch.zeros_like(relative)
    best = int(relative.abs().argmax())
    largest[best] = relative[best]
    start, steps = problem.data_value(raw), []
    for part in (relative, largest):
        unit = -part / float(part.norm()) / scale
        change = problem.operator.matvec(unit)
        slope = float(tilt @ unit)
        curvature = float(objective.penalty_value(unit))
        gains = {
            t: float(start - problem.data_value(raw + t * change))
            - t * slope
            - t * t * curvature
            for t in STEEP_LENGTHS
        }
        # The largest lengths may overflow.
        finite = {t: gain for t, gain in gains.items() if np.isfinite(gain)}
        length = max(finite, key=finite.__getitem__, default=0.0)
        steps.append((finite.get(length, 0.0), length * unit))
    return Steepness(norm, False, *max(steps, key=lambda pair: pair[0]))
