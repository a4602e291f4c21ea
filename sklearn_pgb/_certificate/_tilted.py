"""Bounds from the critical-point identity of penalized objectives."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from sklearn_pgb._budget import GRADIENT_ROUNDING, OUTSIDE_RTOL, TILTED_RTOL
from sklearn_pgb._certificate._quadratic import QuadraticProblem
from sklearn_pgb._convex._bounds import Dual, conjugate_value, into_domain
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
    dual : Dual
        Proof of the bound.
    """

    objective: float
    value: float
    lower_bound: float
    norm_budget: float
    unbounded: bool | None
    plain_gap: float
    change: Tensor
    dual: Dual

    @property
    def gap(self) -> float:
        """Bound on the objective minus the minimum of the tilted problem."""
        return self.objective - self.lower_bound


def tilted_identity(
    objective: Objective,
    problem: ConvexProblem,
    changes: Iterable[Tensor],
    tangent: Infimum,
    norm_budget: float,
    floor: float,
    max_memory: float,
) -> TiltedIdentity | None:
    """Compute bounds on the tilted problem within a norm; None without a penalty.

    Any dual u gives the bound ``-sum w l*(u) + sum w u f - B ||J^T W u + grad R||`` for
    ``||delta|| <= B``. If u is the loss' gradient at the network, this is the objective
    minus B times the norm of its gradient. At the solution of the tilted problem, the
    last norm vanishes. The best bound on the loss without penalty has another u.

    Parameters
    ----------
    problem : ConvexProblem
        Problem on the gradient basis, with the network's outputs as its offset.
    changes : iterable of Tensor (n_params,)
        Changes of the coefficients that may decrease the objective.
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
    quadratic = QuadraticProblem(problem, tilt, torch.zeros_like(tilt))
    # Any change within the budget gives an upper bound, so longer ones are rescaled.
    changes = [quadratic.zero(), quadratic.descend(), *changes]
    if quadratic.is_affordable(max_memory):
        changes.append(quadratic.newton(quadratic.zero()))
    # Gradients of the loss are in the domain of its conjugates, up to rounding.
    points = [
        into_domain(problem, problem.loss.gradient(problem.y, quadratic.raw(each)))
        for each in changes
    ]
    unbounded = None
    if tangent.spectrum is not None:
        steady = tangent.spectrum.leading(TILTED_RTOL)
        relative = tilt / steady.basis.scaling.scale
        # If the tilt has a part that changes no output, the tilted loss decreases along
        # it without limit.
        outside = relative - steady.V @ (steady.V.T @ relative)
        unbounded = float(outside.norm()) > OUTSIDE_RTOL * float(relative.norm())
    # Zero bounds the loss of each sample.
    points.append(torch.zeros_like(raw))
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

    proofs = [proof(u) for u in points]
    dual = max(proofs, key=lambda each: each.bound(norm_budget).value)
    # The penalty is replaced by its tangent. The optimum of this convex problem is at
    # zero if and only if the network is at a critical point.
    lengths = [max(1.0, float(each.norm()) / norm_budget) for each in changes]
    shortened = [each / length for each, length in zip(changes, lengths, strict=True)]
    change = min(shortened, key=quadratic.value)
    value = min(quadratic.attained(change) + penalty, start)
    return TiltedIdentity(
        objective=start,
        value=value,
        lower_bound=min(dual.bound(norm_budget).value, value),
        norm_budget=norm_budget,
        unbounded=unbounded,
        plain_gap=max(start - penalty - max(floor, tangent.lower_bound), 0.0),
        change=change,
        dual=dual,
    )
