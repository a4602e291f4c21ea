"""Whether derivatives are small, whatever the units of the parameters are."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sklearn_pgb._certificate._objective import TrainingObjective
from sklearn_pgb._convex._problem import ConvexProblem
from sklearn_pgb._convex._unit_basis import Units

# Gradients this small, relative to what they are sums of, are rounding.
ROUNDING = 1e-14

# Lengths of a step that are tried, relative to a change of the outputs of size one.
LENGTHS = 2.0 ** np.arange(-60, 61, 1.0)


@dataclass(frozen=True)
class Steepness:
    """Derivatives relative to the sizes of their columns, and what a step gains.

    Attributes
    ----------
    norm : float
        Of the derivatives of the objective, each over the norm of the derivatives of
        the outputs by the same parameter.
    is_rounding : bool
        Whether that is what rounding makes of zero.
    gain : float
        What a step down takes off the loss, linear in the parameters, plus the penalty:
        along all derivatives, or along the largest one alone.
    """

    norm: float
    is_rounding: bool
    gain: float


def steepness(
    objective: TrainingObjective, problem: ConvexProblem, raw: Tensor, gradient: Tensor
) -> Steepness:
    """How steep the objective is at the network's parameters.

    Parameters
    ----------
    objective : TrainingObjective
    problem : ConvexProblem
        The gradient basis, without intercept, the network's outputs being its offset.
    raw : Tensor (n_samples, n_outputs)
    gradient : Tensor (n_params,)
        Of the objective.
    """
    scale = Units.of(problem).scale
    relative = gradient / scale
    norm = float(relative.norm())
    residual = problem.weight.sqrt()[:, None] * problem.loss.gradient(problem.y, raw)
    tilt = objective.penalty_gradient(objective.network.theta) / scale
    size = float(residual.norm()) * len(scale) ** 0.5 + float(tilt.norm())
    if not norm > ROUNDING * size:
        return Steepness(norm, True, 0.0)
    largest = torch.zeros_like(relative)
    best = int(relative.abs().argmax())
    largest[best] = relative[best]
    gains = [
        _gain(objective, problem, raw, -part / float(part.norm()) / scale)
        for part in (relative, largest)
    ]
    return Steepness(norm, False, max(gains))


def _gain(
    objective: TrainingObjective, problem: ConvexProblem, raw: Tensor, step: Tensor
) -> float:
    """The largest decrease of the linearised objective along a step."""
    theta = objective.network.theta
    change = problem.operator.matvec(step)
    tilt = float(objective.penalty_gradient(theta) @ step)
    bend = objective.penalty_value(step)
    start = objective.data_value(raw)
    falls = [
        start - objective.data_value(raw + t * change) - t * tilt - t * t * bend
        for t in LENGTHS.tolist()
    ]
    return max([fall for fall in falls if np.isfinite(fall)], default=0.0)
