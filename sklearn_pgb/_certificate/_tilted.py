"""Bounds from the critical-point identity of penalized objectives."""

from dataclasses import dataclass

from torch import Tensor

from sklearn_pgb._budget import GRADIENT_ROUNDING, OUTSIDE, RTOL
from sklearn_pgb._certificate._table import descend
from sklearn_pgb._convex._bounds import Bound, Dual, best_of, conjugate_value
from sklearn_pgb._convex._infimum import Infimum
from sklearn_pgb._convex._problem import ConvexProblem
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
    change : Tensor (n_params,)
        The change of the coefficients that attains `value`; zero for the network.
    dual : Dual or None
        Proof of the bound; None if it is that of all functions, minus the budget times
        the norm of the penalty's gradient.
    """

    objective: float
    value: float
    lower_bound: float
    norm_budget: float
    unbounded: bool | None
    plain_gap: float
    change: Tensor
    dual: Dual | None

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
    floor: float,
) -> TiltedIdentity | None:
    """Compute bounds on the tilted problem within a norm; None without a penalty.

    Any dual u gives the bound ``-sum w l*(u) + sum w u f - B ||J^T W u + grad R||`` for
    ``||delta|| <= B``. If u is the loss' gradient at the network, this is the objective
    minus B times the norm of its gradient. If J was factorized, u is corrected so that
    the last norm vanishes. The best bound on the loss without penalty has another u.

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
    """
    if not objective.penalty.any():
        return None
    theta = objective.network.theta
    tilt = objective.penalty_gradient(theta)
    penalty = float(objective.penalty_value(theta))
    raw = problem.offset
    assert raw is not None
    start = float(problem.data_value(raw)) + penalty
    points = [problem.loss.gradient(problem.y, raw)]
    unbounded = None
    if tangent.spectrum is not None:
        steady = tangent.spectrum.leading(RTOL)
        scale, root = steady.basis.scaling.scale, problem.weight.sqrt()[:, None]
        relative = tilt / scale
        # If the tilt has a part that changes no output, the tilted loss decreases along
        # it without limit.
        outside = relative - steady.V @ (steady.V.T @ relative)
        unbounded = float(outside.norm()) > OUTSIDE * float(relative.norm())
        # The dual closest to the loss' gradients with J^T W u = -grad R. Only along
        # steady directions: dividing by tiny singular values would move u far away.
        change = steady.U @ ((steady.V.T @ (gradient / scale)) / steady.singular)
        points.append(points[0] - change.reshape(raw.shape) / root)
    if tangent.dual is not None:
        points.append(tangent.dual.point)

    sizes = problem.operator.squared_row_norms().sqrt()

    def proof(u: Tensor) -> Dual:
        rows = problem.weight[:, None] * u
        residual = (problem.operator.rmatvec(rows) + tilt).norm()
        # The rounding error is proportional to the sizes of the terms, not to that of
        # the sum, which cancels at critical points.
        terms = (rows.abs() * sizes).sum() + tilt.norm()
        value = conjugate_value(problem, u, raw) + penalty
        return Dual(value, float(residual + GRADIENT_ROUNDING * terms), u)

    # Bound the loss and the tilt separately.
    separate = Bound(floor + penalty - norm_budget * float(tilt.norm()), norm_budget)
    bound = best_of([proof(u).bound(norm_budget) for u in points], separate)
    delta = descend(problem, tilt)[0]
    norm = float(delta.norm())
    # Any delta within the budget gives an upper bound, so a longer one is rescaled.
    if norm > norm_budget:
        delta = delta * (norm_budget / norm)
    # The penalty is replaced by its tangent. The optimum of this convex problem is at
    # delta = 0 if and only if the network is at a critical point.
    tilted = problem.data_value(problem.raw(delta, problem.zero()[1])) + tilt @ delta
    value = float(tilted) + penalty
    if not value < start:
        value, delta = start, delta * 0.0
    return TiltedIdentity(
        objective=start,
        value=value,
        lower_bound=min(bound.value, value),
        norm_budget=norm_budget,
        unbounded=unbounded,
        plain_gap=max(start - penalty - max(floor, tangent.lower_bound), 0.0),
        change=delta,
        dual=bound.dual,
    )
