"""Descend from a critical point that is not a local minimum."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sklearn_pgb._budget import ESCAPE_LENGTHS, ESCAPE_STEPS
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


def by_curvature(objective: Objective, theta: Tensor, curvature: Curvature) -> Escape:
    """Descend from the best point along the direction of negative curvature."""
    size = max(float(theta.norm()), 1.0)
    # At a critical point L-BFGS would not move; the best length depends on higher
    # orders.
    starts = [
        theta + sign * length * size * curvature.direction
        for length in ESCAPE_LENGTHS
        for sign in (1.0, -1.0)
    ]
    values = [float(objective.value_and_gradient_of_one(start)[0]) for start in starts]
    start = starts[int(np.nanargmin(values))]
    return _descend(objective, "negative curvature", start)


def _descend(objective: Objective, kind: str, start: Tensor) -> Escape:
    # A few steps are enough: any decrease beyond rounding disproves a local minimum, so
    # the descent need not converge.
    end = quasi_newton(
        objective.value_and_gradient_of_one, start, gtol=1e-10, max_iter=ESCAPE_STEPS
    )
    return Escape(kind, start.numpy(), end.theta.numpy(), end.value)
