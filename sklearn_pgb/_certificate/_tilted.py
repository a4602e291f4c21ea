"""The identity of critical points of penalised objectives."""

from dataclasses import dataclass

from torch import Tensor

from sklearn_pgb._certificate._objective import TrainingObjective
from sklearn_pgb._certificate._table import descend
from sklearn_pgb._convex._infimum import Infimum
from sklearn_pgb._convex._problem import ConvexProblem, dual_value
from sklearn_pgb._convex._unit_basis import Spectrum

# The penalty's gradient leaves the row space where more than this share of it does;
# directions whose singular value is below the second share of the largest do not count.
OUTSIDE, RTOL = 1e-8, 1e-10


@dataclass(frozen=True)
class TiltedIdentity:
    """A penalised objective against the convex problem tilted by its penalty.

    With the loss L, the penalty R and the derivatives J at theta it is ::

        inf_delta  L(f + J delta) + grad R(theta) . delta + R(theta)

    over all changes delta of the coefficients with a norm of at most `norm_budget`. At
    delta = 0 its value is the network's objective; at a critical point of L + R that is
    the least one.

    Attributes
    ----------
    objective : float
        L + R at the network's parameters.
    value : float
        The problem's value at a delta that was found.
    lower_bound : float
        No delta within the budget has a smaller one.
    norm_budget : float
    unbounded : bool or None
        Whether the problem has no lower bound without a limit on the norm: the
        penalty's gradient leaves the row space of J, which it does not at a critical
        point. None where J was too large to tell.
    plain_gap : float
        What the identity without tilt says: the loss above its bound on the gradient
        basis. It is not zero at critical points of a penalised objective.
    """

    objective: float
    value: float
    lower_bound: float
    norm_budget: float
    unbounded: bool | None
    plain_gap: float

    @property
    def gap(self) -> float:
        """How far the objective may be above the tilted problem's least value."""
        return self.objective - self.lower_bound


def tilted_identity(
    objective: TrainingObjective,
    problem: ConvexProblem,
    gradient: Tensor,
    tangent: Infimum,
    norm_budget: float,
    *,
    floor: float,
    rounding: float,
) -> TiltedIdentity:
    """Enclose the tilted problem within a norm.

    Any dual u gives the bound ``-sum w l*(u) + sum w u f - B ||J^T W u + grad R||`` for
    ``||delta|| <= B``. With the loss' gradients at the network that is the objective
    minus B times the norm of its gradient; with a factorisation of J they are corrected
    by what makes the last norm vanish.

    Parameters
    ----------
    objective : TrainingObjective
    problem : ConvexProblem
        The gradient basis, the network's outputs being its offset.
    gradient : Tensor (n_params,)
        Of the penalised objective.
    tangent : Infimum
        Of the loss over the gradient basis.
    norm_budget : float
    floor : float
        Least loss of any function of the inputs.
    rounding : float
        By how much the norm of a gradient may be off.
    """
    theta = objective.network.theta
    tilt = objective.penalty_gradient(theta)
    penalty = objective.penalty_value(theta)
    raw = problem.offset
    assert raw is not None
    start = objective.data_value(raw) + penalty
    # The bound on the loss alone counts as far as its own budget reaches.
    plain_bound = floor
    if _covers(tangent, norm_budget):
        plain_bound = max(floor, tangent.lower_bound)
    bound = max(
        start - norm_budget * (float(gradient.norm()) + rounding),
        # The loss and the tilt each by itself.
        plain_bound + penalty - norm_budget * float(tilt.norm()),
    )
    unbounded = None
    if tangent.spectrum is not None:
        steady = tangent.spectrum.leading(RTOL)
        relative = tilt / steady.basis.units.scale
        outside = relative - steady.V @ (steady.V.T @ relative)
        unbounded = float(outside.norm()) > OUTSIDE * float(relative.norm())
        corrected = _corrected(problem, raw, gradient, steady)
        normal = problem.operator.rmatvec(problem.weight[:, None] * corrected) + tilt
        residual = norm_budget * (float(normal.norm()) + rounding)
        other = dual_value(problem, corrected) - residual
        bound = max(bound, other + penalty)
    delta = descend(problem, tilt)[0]
    norm = float(delta.norm())
    if norm > norm_budget:
        delta = delta * (norm_budget / norm)
    found = problem.data_value(problem.raw(delta, problem.zero()[1])) + tilt @ delta
    value = min(start, float(found) + penalty)
    return TiltedIdentity(
        objective=start,
        value=value,
        lower_bound=min(bound, value),
        norm_budget=norm_budget,
        unbounded=unbounded,
        plain_gap=max(start - penalty - max(floor, tangent.lower_bound), 0.0),
    )


def _covers(tangent: Infimum, norm_budget: float) -> bool:
    """Whether the bound on the loss holds for changes of the parameters of a norm."""
    if tangent.norm_budget == float("inf") or tangent.spectrum is None:
        return tangent.norm_budget == float("inf")
    longest = norm_budget * float(tangent.spectrum.basis.units.scale.max())
    return longest <= tangent.norm_budget


def _corrected(
    problem: ConvexProblem, raw: Tensor, gradient: Tensor, spectrum: Spectrum
) -> Tensor:
    """The dual nearest to the loss' gradients with ``J^T W u = -grad R``."""
    root = problem.weight.sqrt()[:, None]
    relative = gradient / spectrum.basis.units.scale
    change = spectrum.U @ ((spectrum.V.T @ relative) / spectrum.singular)
    return problem.loss.gradient(problem.y, raw) - change.reshape(raw.shape) / root
