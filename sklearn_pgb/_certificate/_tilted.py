"""Bounds from the critical-point identity of penalized objectives."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sklearn_pgb._budget import OUTSIDE, RTOL
from sklearn_pgb._certificate._table import descend
from sklearn_pgb._convex._infimum import Infimum
from sklearn_pgb._convex._problem import ConvexProblem, dual_value
from sklearn_pgb._convex._unit_basis import Spectrum
from sklearn_pgb._training._objective import Objective


@dataclass(frozen=True)
class TiltedIdentity:
    """Bounds on the convex problem that is tilted by the gradient of the penalty.

    With the loss L, the penalty R and the Jacobian J at theta, the problem is ::

        inf_delta  L(f + J delta) + grad R(theta) . delta + R(theta)

    over all changes delta of the coefficients with a norm of at most `norm_budget`. Its
    value at delta = 0 is the network's objective. At a critical point of L + R this is
    the minimum.

    Attributes
    ----------
    objective : float
        L + R at the network's parameters.
    value : float
        Smallest value found.
    lower_bound : float
        Lower bound on the value of every delta within the budget.
    norm_budget : float
    unbounded : bool or None
        Whether the problem is unbounded below without a limit on the norm, because the
        penalty's gradient leaves the row space of J. This does not happen at a critical
        point. None if J was too large to factorize.
    plain_gap : float
        Loss minus its lower bound on the gradient basis, as without penalty. It is not
        zero at critical points of a penalized objective.
    change : ndarray (n_params,)
        The change of the coefficients that attains `value`; zero for the network.
    dual : ndarray (n_samples, n_outputs) or None
        A dual point that proves the bound, if the gradients of the loss do not.
    """

    objective: float
    value: float
    lower_bound: float
    norm_budget: float
    unbounded: bool | None
    plain_gap: float
    change: NDArray[np.float64]
    dual: NDArray[np.float64] | None

    @property
    def gap(self) -> float:
        """Bound on the objective minus the minimum of the tilted problem."""
        return self.objective - self.lower_bound


def tilted_identity(
    objective: Objective,
    problem: ConvexProblem,
    gradient: Tensor,
    tangent: Infimum,
    norm_budget: float,
    *,
    floor: float,
    rounding: float,
) -> TiltedIdentity:
    """Compute upper and lower bounds on the tilted problem within a norm.

    Any dual u gives the bound ``-sum w l*(u) + sum w u f - B ||J^T W u + grad R||`` for
    ``||delta|| <= B``. If u is the loss' gradient at the network, this is the objective
    minus B times the norm of its gradient. If J was factorized, u is corrected so that
    the last norm vanishes.

    Parameters
    ----------
    problem : ConvexProblem
        Problem on the gradient basis, with the network's outputs as its offset.
    gradient : Tensor (n_params,)
        Gradient of the penalized objective.
    tangent : Infimum
        Infimum of the loss over the gradient basis.
    floor : float
        Smallest loss of any function of the inputs.
    rounding : float
        Rounding error of the norm of a gradient.
    """
    theta = objective.network.theta
    tilt = objective.penalty_gradient(theta)
    penalty = float(objective.penalty_value(theta))
    raw = problem.offset
    assert raw is not None
    start = float(problem.data_value(raw)) + penalty
    # The bound on the loss alone is valid only if its norm budget is large enough.
    plain_bound = floor
    if _covers(tangent, norm_budget):
        plain_bound = max(floor, tangent.lower_bound)
    bound = max(
        start - norm_budget * (float(gradient.norm()) + rounding),
        # Bound the loss and the tilt separately.
        plain_bound + penalty - norm_budget * float(tilt.norm()),
    )
    unbounded = dual = None
    if tangent.spectrum is not None:
        steady = tangent.spectrum.leading(RTOL)
        relative = tilt / steady.basis.scaling.scale
        # If the tilt has a part that no output sees, the tilted loss decreases along it
        # without limit.
        outside = relative - steady.V @ (steady.V.T @ relative)
        unbounded = float(outside.norm()) > OUTSIDE * float(relative.norm())
        # Only along steady directions: dividing by tiny singular values would move u
        # far away.
        corrected = _corrected(problem, raw, gradient, steady)
        normal = problem.operator.rmatvec(problem.weight[:, None] * corrected) + tilt
        residual = norm_budget * (float(normal.norm()) + rounding)
        other = dual_value(problem, corrected) - residual
        if other + penalty > bound:
            bound, dual = other + penalty, corrected.numpy()
    delta = descend(problem, tilt)[0]
    norm = float(delta.norm())
    # Any delta within the budget gives an upper bound, so a longer one is rescaled.
    if norm > norm_budget:
        delta = delta * (norm_budget / norm)
    # The penalty is replaced by its tangent: a convex problem whose optimum is the
    # network if and only if that is critical.
    tilted = problem.data_value(problem.raw(delta, problem.zero()[1])) + tilt @ delta
    value = float(tilted) + penalty
    if not value < start:
        value, delta = start, delta * 0.0
    return TiltedIdentity(
        objective=start,
        value=value,
        lower_bound=min(bound, value),
        norm_budget=norm_budget,
        unbounded=unbounded,
        plain_gap=max(start - penalty - max(floor, tangent.lower_bound), 0.0),
        change=delta.numpy(),
        dual=dual,
    )


def _covers(tangent: Infimum, norm_budget: float) -> bool:
    """Whether the bound on the loss holds for all changes up to `norm_budget`."""
    if tangent.norm_budget == float("inf") or tangent.spectrum is None:
        return tangent.norm_budget == float("inf")
    # The bound's norm multiplies each coefficient by the norm of its column; the
    # largest one gives a sufficient condition.
    longest = norm_budget * float(tangent.spectrum.basis.scaling.scale.max())
    return longest <= tangent.norm_budget


def _corrected(
    problem: ConvexProblem, raw: Tensor, gradient: Tensor, spectrum: Spectrum
) -> Tensor:
    """Dual closest to the loss' gradients with ``J^T W u = -grad R``."""
    root = problem.weight.sqrt()[:, None]
    relative = gradient / spectrum.basis.scaling.scale
    change = spectrum.U @ ((spectrum.V.T @ relative) / spectrum.singular)
    return problem.loss.gradient(problem.y, raw) - change.reshape(raw.shape) / root
