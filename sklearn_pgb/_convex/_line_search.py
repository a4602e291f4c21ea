"""Line search along a Newton step, for objectives whose gradient has kinks."""

import torch
from torch import Tensor

from sklearn_pgb._convex._problem import ConvexProblem


def line_search(
    problem: ConvexProblem,
    point: tuple[Tensor, Tensor],
    raw: Tensor,
    value: float,
    gradient: tuple[Tensor, Tensor],
    step: tuple[Tensor, Tensor],
) -> tuple[Tensor, Tensor, Tensor, float] | None:
    """Take the full step if Armijo's rule allows it; else bisect for a small slope.

    Backtracking would always stop before a kink of the gradient (the hinge's margins)
    and never use the curvature behind it.

    Parameters
    ----------
    problem : ConvexProblem
    point : tuple of Tensor
        Coefficients and intercept.
    raw : Tensor (n_samples, n_outputs)
        Raw outputs at the point.
    value : float
        The objective there, penalty included.
    gradient, step : tuple of Tensor
        Parts for coefficients and intercept.

    Returns
    -------
    tuple or None
        New coefficients, intercept, raw outputs and mean loss. None if the objective
        does not decrease.
    """
    slope = float(gradient[0] @ step[0] + gradient[1] @ step[1])
    if not slope < 0:
        return None
    direction = problem.operator.matvec(step[0]) + step[1]
    along = problem.alpha * float(point[0] @ step[0])
    bend = problem.alpha * float(step[0] @ step[0])
    # Accept steps that change the objective by no more than its rounding error.
    noise = 4 * torch.finfo(raw.dtype).eps * abs(value)
    low, high, size = 0.0, 1.0, 1.0
    for _ in range(60):
        coef = point[0] + size * step[0]
        moved = raw + size * direction
        data_value = float(problem.data_value(moved))
        trial = data_value + 0.5 * problem.alpha * float(coef @ coef)
        falls = trial <= value + 1e-4 * size * slope + noise
        if falls and size == 1.0:
            return coef, point[1] + step[1], moved, data_value
        trial_slope = (
            float((problem.residual(moved) * direction).sum()) + along + size * bend
        )
        if falls and abs(trial_slope) <= 0.5 * abs(slope):
            return coef, point[1] + size * step[1], moved, data_value
        low, high = (size, high) if trial_slope < 0 else (low, size)
        size = (low + high) / 2
    return None
