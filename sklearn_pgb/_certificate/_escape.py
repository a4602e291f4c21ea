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
    LONG_DECREASES,
    SHORT_DECREASES,
)
from sklearn_pgb._certificate._curvature import Curvature
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
    objective: Objective, theta: Tensor, displaced: list[Displacement]
) -> Escape:
    """Descend from the displaced parameters with the largest gradient."""
    # All displaced parameters have the same outputs, so the steepest one decreases
    # fastest.
    best = max(
        displaced,
        key=lambda each: float(
            objective.value_and_gradient_of_one(theta + each.shift)[1].norm()
        ),
    )
    return _descend(objective, best.kind, theta + best.shift)


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
    return _descend(objective, "negative curvature", theta + best)


def _descend(objective: Objective, kind: str, start: Tensor) -> Escape:
    # A few steps are enough: any decrease beyond rounding disproves a local minimum, so
    # the descent need not converge.
    end = quasi_newton(
        objective.value_and_gradient_of_one, start, gtol=1e-10, max_iter=ESCAPE_STEPS
    )
    return Escape(kind, start.numpy(), end.theta.numpy(), end.value)
