"""The way out of a point that is no local minimum."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sklearn_pgb._certificate._curvature import Curvature
from sklearn_pgb._certificate._objective import TrainingObjective
from sklearn_pgb._geometry._displacements import Displacement
from sklearn_pgb._training._polish import quasi_newton

# Steps of the descent, and lengths of the step that leaves a saddle, relative to theta.
DESCENT_STEPS = 200
LENGTHS = (1.0, 0.3, 0.1, 0.03, 0.01, 1e-3, 1e-4)


@dataclass(frozen=True, eq=False)
class Escape:
    """Parameters with a smaller objective, and how they were reached.

    Attributes
    ----------
    kind : str
        What showed that the network's parameters are no local minimum.
    start : ndarray (n_params,)
        Where the descent started: displaced parameters with the same outputs, or a step
        along the direction of negative curvature.
    theta : ndarray (n_params,)
        Where it ended.
    objective : float
        The training objective there.
    """

    kind: str
    start: NDArray[np.float64]
    theta: NDArray[np.float64]
    objective: float


def by_displacement(
    objective: TrainingObjective, theta: Tensor, displaced: list[Displacement]
) -> Escape:
    """Descend from the displaced parameters with the largest gradient."""
    best = max(
        displaced,
        key=lambda each: float(
            objective.value_and_gradient(theta + each.shift)[1].norm()
        ),
    )
    return _descend(objective, best.kind, theta + best.shift)


def by_curvature(
    objective: TrainingObjective, theta: Tensor, found: Curvature
) -> Escape:
    """Descend from the best point along the direction of negative curvature."""
    starts = list(_along(theta, found.direction))
    values = [float(objective.value_and_gradient(start)[0]) for start in starts]
    start = starts[int(np.nanargmin(values))]
    return _descend(objective, "negative curvature", start)


def _along(theta: Tensor, direction: Tensor) -> Iterator[Tensor]:
    size = max(float(theta.norm()), 1.0)
    for length in LENGTHS:
        for sign in (1.0, -1.0):
            yield theta + sign * length * size * direction


def _descend(objective: TrainingObjective, kind: str, start: Tensor) -> Escape:
    found = quasi_newton(
        objective.value_and_gradient, start, gtol=1e-10, max_iter=DESCENT_STEPS
    )
    return Escape(kind, start.numpy(), found.theta.numpy(), found.value)
