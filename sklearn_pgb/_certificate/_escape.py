"""Descend from a critical point that is not a local minimum."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sklearn_pgb._budget import (
    CONFIRMING_LENGTHS,
    CURVATURE_FACTOR,
    ESCAPE_STEPS,
    FIRST_LENGTHS,
    LONG_DECREASES,
    SHORT_DECREASES,
)
from sklearn_pgb._certificate._curvature import Curvature
from sklearn_pgb._certificate._table import problem_on
from sklearn_pgb._convex._unit_basis import ColumnScaling
from sklearn_pgb._geometry._displacements import Displacement
from sklearn_pgb._training._objective import Objective
from sklearn_pgb._training._polish import quasi_newton


@dataclass(frozen=True, eq=False)
class Escape:
    """Parameters with a smaller objective, and how they were reached.

    Attributes
    ----------
    kind : str
        Kind of displacement, or "negative curvature".
    start : ndarray (n_params,)
        Start of the descent: displaced parameters with the same outputs, or a step
        along the direction of negative curvature.
    theta : ndarray (n_params,)
        End of the descent.
    objective : float
        Training objective at `theta`.
    """

    kind: str
    start: NDArray[np.float64]
    theta: NDArray[np.float64]
    objective: float


def by_displacement(
    objective: Objective, theta: Tensor, displaced: list[Displacement], size: float
) -> Escape:
    """Descend from the displaced parameters whose first step decreases most.

    Parameters
    ----------
    size : float
        Size of the objective.
    """
    descents = [_Descent.at(objective, theta + each.shift, size) for each in displaced]
    best = int(np.nanargmin([descent.value for descent in descents]))
    return descents[best].run(displaced[best].kind)


def by_curvature(
    objective: Objective, theta: Tensor, curvature: Curvature, size: float
) -> Escape | None:
    """Descend along a direction of negative curvature; None if it is not confirmed.

    The objective may be smaller far away from a local minimum. So the curvature must be
    that of differences of the objective at short distances, on both sides together: at
    some of them, the objective is then smaller.

    Parameters
    ----------
    size : float
        Size of the objective, in whose units predicted decreases are given.
    """

    def value_at(shift: Tensor) -> float:
        return float(objective.value((theta + shift)[None])[0])

    start, n_confirmed, starts = value_at(torch.zeros_like(theta)), 0, []
    is_confirmed = False
    for decrease in SHORT_DECREASES + LONG_DECREASES:
        length = math.sqrt(2 * decrease * size / -curvature.least)
        shifts = [sign * length * curvature.direction for sign in (1.0, -1.0)]
        values = [value_at(shift) for shift in shifts]
        starts += list(zip(values, shifts, strict=True))
        # The gradient is not zero to the last digit; it cancels in the sum.
        predicted = -2 * decrease * size
        ratio = (sum(values) - 2 * start) / predicted if predicted else math.nan
        agrees = 1 / CURVATURE_FACTOR <= ratio <= CURVATURE_FACTOR
        n_confirmed = n_confirmed + 1 if agrees else 0
        if decrease in SHORT_DECREASES:
            is_confirmed |= n_confirmed >= CONFIRMING_LENGTHS
    if not is_confirmed:
        return None
    # At a critical point L-BFGS would not move; the best length depends on higher
    # orders.
    finite = [pair for pair in starts if math.isfinite(pair[0])]
    best = min(finite, key=lambda pair: pair[0])[1]
    return _Descent.at(objective, theta + best, size).run("negative curvature")


@dataclass(frozen=True, eq=False)
class _Descent:
    """A descent in units of the parameters and of the objective, after its first step.

    `steps` are in the units `unit` of each parameter, and `value` is the objective.
    """

    objective: Objective
    start: Tensor
    size: float
    unit: Tensor
    steps: Tensor
    value: float

    @classmethod
    def at(cls, objective: Objective, start: Tensor, size: float) -> "_Descent":
        """Take the best of several steps along the negative gradient."""
        unit = _units(objective, start, size)
        downhill = -unit * objective.value_and_gradient_of_one(start)[1]
        downhill /= float(downhill.norm()) or 1.0
        trials = [length * downhill for length in (0.0, *FIRST_LENGTHS)]
        values = [float(objective.value((start + unit * t)[None])[0]) for t in trials]
        best = int(np.nanargmin(values))
        return cls(objective, start, size, unit, trials[best], values[best])

    def run(self, kind: str) -> Escape:
        """Descend by L-BFGS."""
        # A few steps are enough: any decrease beyond rounding disproves a local
        # minimum, so the descent need not converge.
        end = quasi_newton(self._in_units, self.steps, gtol=0.0, max_iter=ESCAPE_STEPS)
        theta = self.start + self.unit * end.theta
        value = float(self.objective.value(theta[None])[0])
        return Escape(kind, self.start.numpy(), theta.numpy(), value)

    def _in_units(self, steps: Tensor) -> tuple[Tensor, Tensor]:
        theta = self.start + self.unit * steps
        value, gradient = self.objective.value_and_gradient_of_one(theta)
        return value / self.size, self.unit * gradient / self.size


def _units(objective: Objective, theta: Tensor, size: float) -> Tensor:
    """Changes of single parameters by which the objective may change by its size.

    L-BFGS takes first steps of length one, so without these units a descent would fail
    for targets or inputs of extreme sizes.
    """
    network, X, loss = objective.network.at(theta), objective.X, objective.loss
    raw = network(theta, X)
    problem = problem_on(objective, network.jacobian(X), intercept=False, offset=raw)
    norms = ColumnScaling.of(problem).plain
    residual = objective.weight.sqrt()[:, None] * loss.gradient(objective.y, raw)
    unit = size / (float(residual.norm()) * norms)
    return torch.where(unit.isfinite(), unit, 1.0)
