"""The identity of critical points of penalised objectives."""

from dataclasses import dataclass

from torch import Tensor

from sklearn_pgb._certificate._objective import TrainingObjective
from sklearn_pgb._certificate._table import descend
from sklearn_pgb._convex import ConvexProblem, Spectrum, dual_value

# The penalty's gradient leaves the row space where more than this share of it does.
OUTSIDE = 1e-8


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
    spectrum: Spectrum | None,
    norm_budget: float,
    plain_bound: float,
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
    spectrum : Spectrum or None
        Of the weighted J.
    norm_budget : float
    plain_bound : float
        On the loss over the gradient basis.
    """
    theta = objective.network.theta
    tilt = objective.penalty_gradient(theta)
    penalty = objective.penalty_value(theta)
    raw = problem.offset
    assert raw is not None
    start = objective.data_value(raw) + penalty
    bound = max(
        start - norm_budget * float(gradient.norm()),
        # The loss and the tilt each by itself.
        plain_bound + penalty - norm_budget * float(tilt.norm()),
    )
    unbounded = None
    if spectrum is not None:
        outside = tilt - spectrum.V @ (spectrum.V.T @ tilt)
        unbounded = float(outside.norm()) > OUTSIDE * float(tilt.norm())
        corrected = _corrected(problem, raw, gradient, spectrum)
        normal = problem.operator.rmatvec(problem.weight[:, None] * corrected) + tilt
        other = dual_value(problem, corrected) - norm_budget * float(normal.norm())
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
        plain_gap=max(start - penalty - plain_bound, 0.0),
    )


def _corrected(
    problem: ConvexProblem, raw: Tensor, gradient: Tensor, spectrum: Spectrum
) -> Tensor:
    """The dual nearest to the loss' gradients with ``J^T W u = -grad R``."""
    root = problem.weight.sqrt()[:, None]
    change = spectrum.U @ ((spectrum.V.T @ gradient) / spectrum.singular)
    return problem.loss.gradient(problem.y, raw) - change.reshape(raw.shape) / root
