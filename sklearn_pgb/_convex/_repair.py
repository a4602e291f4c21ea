"""Dual points for alpha = 0: gradients made orthogonal to the basis."""

from collections.abc import Iterator

import torch
from torch import Tensor

from sklearn_pgb._budget import PINNING, REPAIR_RTOL
from sklearn_pgb._convex._problem import ConvexProblem


def repaired(problem: ConvexProblem, dual: Tensor, span: Tensor) -> Iterator[Tensor]:
    """Dual points near a given one, orthogonal to the basis up to rounding.

    Coordinates near the edge of the conjugates' domain are pinned to it. The others get
    the smallest correction. The orthonormal columns of `span` hold the weighted basis
    and the intercept, with one row for each output of each sample.
    """
    n, k = problem.y.shape
    lower, upper = (b.reshape(-1) for b in problem.loss.dual_bounds(problem.y))
    constraints = problem.weight.sqrt().repeat_interleave(k)[:, None] * span
    if problem.loss.dual_rows_sum_to_zero:
        # The gradients of a softmax sum to zero for each sample; a correction must keep
        # that.
        eye = torch.eye(n, dtype=span.dtype, device=span.device)
        constraints = torch.cat([constraints, eye.repeat_interleave(k, 0)], 1)
    u = dual.reshape(-1).clamp(lower, upper)
    for pinning in PINNING:
        candidate = _repair(u, lower, upper, constraints, pinning)
        if candidate is not None:
            yield candidate.reshape(dual.shape)


def _repair(
    u: Tensor, lower: Tensor, upper: Tensor, constraints: Tensor, pinning: float
) -> Tensor | None:
    """A dual point with ``constraints^T u = 0`` inside the box, or None."""
    if constraints.shape[1] == 0:
        return u
    low, high = u <= lower + pinning, u >= upper - pinning
    last = torch.inf
    for _ in range(20):
        # The correction would push coordinates this close to the edge out of their box.
        u = torch.where(low, lower, torch.where(high, upper, u))
        violation = constraints.T @ u
        size = float(violation.abs().max())
        if size <= REPAIR_RTOL or size >= last:
            return u
        free = ~(low | high)
        if not bool(free.any()):
            return None
        step = torch.linalg.lstsq(
            constraints[free].T, -violation[:, None], driver="gelsd"
        ).solution[:, 0]
        u[free] += step
        # The free coordinates can't satisfy the constraints: too many are pinned.
        if float((constraints.T @ u).abs().max()) > 1e-9:
            return None
        outside_low, outside_high = u < lower, u > upper
        if not bool((outside_low | outside_high).any()):
            # Repeat while it reduces the violation that rounding left.
            last = size
            continue
        last = torch.inf
        # Active set: coordinates that left their box are pinned, and the others
        # corrected again.
        low, high = low | outside_low, high | outside_high
    return None
