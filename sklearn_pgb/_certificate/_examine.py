"""Compute the numbers from which the verdict on a network follows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sklearn_pgb._bases._basis import Basis
from sklearn_pgb._budget import TILTED_BUDGET
from sklearn_pgb._certificate._convex_bound import ConvexBound, convex_bound
from sklearn_pgb._certificate._curvature import Curvature, curvature, has_jump
from sklearn_pgb._certificate._nearby import rank_nearby
from sklearn_pgb._certificate._quadratic import QuadraticProblem
from sklearn_pgb._certificate._solved import SolvedBasis, solve_features
from sklearn_pgb._certificate._steepness import Steepness, steepness
from sklearn_pgb._certificate._subject import Subject
from sklearn_pgb._certificate._table import (
    GRADIENT,
    INPUTS,
    PERTURBED,
    BasisRow,
    head_gain,
    solve_basis,
    tangent_problem,
)
from sklearn_pgb._certificate._tilted import TiltedIdentity, tilted_identity
from sklearn_pgb._convex._infimum import Infimum
from sklearn_pgb._convex._problem import ConvexProblem
from sklearn_pgb._convex._scale import LossScale, loss_scale
from sklearn_pgb._geometry._displacements import Displacement
from sklearn_pgb._geometry._kinks import KinkMargin, kink_margin
from sklearn_pgb._losses._floor import PureErrorFloor
from sklearn_pgb._training._objective import Objective


@dataclass(frozen=True)
class Settings:
    """Tolerance and resource limits given by the user.

    Attributes
    ----------
    tol : float
    norm_budget : float or None
    max_memory : float
        Bytes of one factorization.
    """

    tol: float
    norm_budget: float | None
    max_memory: float


@dataclass(frozen=True, eq=False)
class Findings:
    """Numbers from which the verdict follows.

    Attributes
    ----------
    loss, penalty : float
    floor : PureErrorFloor
    scale : LossScale
    tol : float
        Relative tolerance as given by the user.
    gradient : Tensor (n_params,)
        Gradient of the objective.
    steepness : Steepness
        Derivatives of the objective, relative to the norms of the Jacobian's columns.
    margin : KinkMargin
    solved : tuple of SolvedBasis
        One for each row of the table.
    tangent : Infimum
        Infimum of the loss over the gradient basis.
    convex : ConvexBound or None
        Bound on the objective of all parameters if it is convex, or on the loss of all
        linear models of the inputs if all units are linear.
    head_excess : float
        Decrease of the objective by a model on the last layer's derivatives; used if
        the network is not smooth.
    in_span_error : float or None
        Relative error of ``f = J g``; None if no g is known.
    nearby_rank : int or None
        Rank of the Jacobian nearby.
    displaced : list of Displacement
    joint_row : str or None
        Name of the row of linear layers whose joint features a local minimum can't be
        worse than.
    tilted : TiltedIdentity or None
    jumps : bool
        Whether the objective's second derivative may jump at the parameters, although
        the network is smooth.
    curvature : Curvature or None
        None if the network is not smooth or is linear in its parameters, or if the
        second derivative may jump.
    """

    loss: float
    penalty: float
    floor: PureErrorFloor
    scale: LossScale
    tol: float
    gradient: Tensor
    steepness: Steepness
    margin: KinkMargin
    solved: tuple[SolvedBasis, ...]
    tangent: Infimum
    convex: ConvexBound | None
    head_excess: float
    in_span_error: float | None
    nearby_rank: int | None
    displaced: list[Displacement]
    joint_row: str | None
    tilted: TiltedIdentity | None
    jumps: bool
    curvature: Curvature | None

    @property
    def objective(self) -> float:
        """Loss plus penalty."""
        return self.loss + self.penalty

    @property
    def tolerance(self) -> float:
        """The tolerance in units of the loss."""
        return self.scale.tolerance(self.tol)

    @property
    def smooth(self) -> bool:
        """Whether no hidden unit is at its kink."""
        return not self.margin.on_kink

    @property
    def rows(self) -> tuple[BasisRow, ...]:
        """Rows of the table."""
        return tuple(each.row for each in self.solved)

    @property
    def decisive(self) -> bool:
        """Whether a gain on the gradient basis shows that training has not converged.

        It does not at a kink, or if coefficients of extreme size are needed.
        """
        large = self.gain > self.tolerance
        return self.smooth and large and not self.steepness.is_rounding

    @property
    def excess(self) -> float:
        """Loss minus that of coefficients of moderate size on the gradient basis."""
        return self.loss - self.tangent.steady

    @property
    def gain(self) -> float:
        """Decrease that is attained on the gradient basis.

        With a penalty, it is that of the tilted problem, but for models that are linear
        in their parameters that of the objective itself.
        """
        convex = self.convex
        if convex is not None and convex.basis == GRADIENT:
            return self.objective - convex.value
        if self.tilted is not None:
            return self.tilted.objective - self.tilted.value
        return self.excess

    @property
    def singular(self) -> bool | None:
        """Whether the Jacobian's rank is below its rank nearby."""
        rank = self.tangent.steady_rank
        return (
            None
            if rank is None or self.nearby_rank is None
            else rank < self.nearby_rank
        )

    def row(self, name: str) -> BasisRow | None:
        """Row of one basis, or None."""
        return next((row for row in self.rows if row.basis == name), None)


def examine(
    subject: Subject,
    bases: Mapping[str, Basis],
    settings: Settings,
    generator: torch.Generator,
) -> Findings:
    """Compute all findings on a subject.

    Parameters
    ----------
    bases : mapping
        Bases given by the user, by name.
    """
    objective, theta = subject.objective, subject.objective.network.theta
    problem, loss, gradient = _at_parameters(objective)
    penalty = float(objective.penalty_value(theta))
    floor, in_span_error = subject.floor(), subject.span_error(problem)
    # f = J g is exact if the head is linear; 1e-8 leaves room for rounding.
    spans = in_span_error is not None and in_span_error <= 1e-8
    # The network lies in its own basis, so its loss bounds the infimum from above.
    known = {"floor": floor.value, "attained_loss": loss, "contains_offset": spans}
    scale = loss_scale(objective.loss, objective.y, objective.weight, floor.value)
    tolerance = _check_tolerance(scale.tolerance(settings.tol))
    tangent = solve_basis(problem, settings.max_memory, **known)
    steep = steepness(objective, problem, gradient)
    if steep.gain > max(tolerance, loss - tangent.value) and not penalty:
        tangent = tangent.with_coefficients(problem, steep.step, floor.value)
    margin = kink_margin(objective.network, objective.X)
    smooth = not margin.on_kink
    solved, joint_row = solve_features(
        subject, bases, loss, floor.value, settings.max_memory
    )
    span_coef = subject.head.span_coef
    solved.append(SolvedBasis.of(GRADIENT, problem, tangent, loss, span_coef))
    nearby_rank, displaced = rank_nearby(
        objective,
        tangent.steady_rank,
        generator,
        smooth=smooth,
        may_be_critical=loss - tangent.value <= tolerance,
    )
    if displaced:
        row = _perturbed_row(subject, problem, displaced, loss, settings, known)
        solved.append(row)
    convex = _convex_minimum(
        objective, problem, solved, steep.step, tolerance, settings.max_memory
    )
    changes, excess = [steep.step], 0.0
    if convex is not None and convex.basis == GRADIENT:
        changes.append(convex.change)
    if not smooth:
        excess, change = head_gain(subject, problem, settings.max_memory)
        changes.append(change)
    tilted = _tilted(objective, problem, changes, tangent, floor.value, settings)
    bends = smooth and not objective.network.is_linear_in_theta
    jumps = bends and has_jump(objective, problem.base)
    bending = curvature(objective, theta, generator) if bends and not jumps else None
    return Findings(
        loss=loss,
        penalty=penalty,
        floor=floor,
        scale=scale,
        tol=settings.tol,
        gradient=gradient,
        steepness=steep,
        margin=margin,
        solved=tuple(solved),
        tangent=tangent,
        convex=convex,
        head_excess=excess,
        in_span_error=in_span_error,
        nearby_rank=nearby_rank,
        displaced=displaced,
        joint_row=joint_row,
        tilted=tilted,
        jumps=jumps,
        curvature=bending,
    )


def _perturbed_row(
    subject: Subject,
    problem: ConvexProblem,
    displaced: Sequence[Displacement],
    loss: float,
    settings: Settings,
    known: Mapping[str, Any],
) -> SolvedBasis:
    """The solution on the derivatives at displaced parameters with the same outputs."""
    shifts = [each.shift for each in displaced]
    wider = tangent_problem(subject.objective, problem.base, shifts)
    result = solve_basis(wider, settings.max_memory, **known)
    return SolvedBasis.of(PERTURBED, wider, result, loss, subject.head.span_coef)


def _tilted(
    objective: Objective,
    problem: ConvexProblem,
    changes: Sequence[Tensor],
    tangent: Infimum,
    floor: float,
    settings: Settings,
) -> TiltedIdentity | None:
    """The tilted bound within the user's norm budget, or a multiple of theta's norm."""
    length = float(objective.network.theta.norm()) or 1.0
    limits = settings.norm_budget or TILTED_BUDGET * length, floor, settings.max_memory
    return tilted_identity(objective, problem, changes, tangent, *limits)


def _convex_minimum(
    objective: Objective,
    problem: ConvexProblem,
    solved: Sequence[SolvedBasis],
    step: Tensor,
    tolerance: float,
    max_memory: float,
) -> ConvexBound | None:
    """The minimum over all parameters, if a convex objective bounds or equals it.

    `step` changes the parameters of a model that is linear in them.
    """
    theta = objective.network.theta
    if objective.network.is_linear_in_theta:
        tilt = objective.penalty_gradient(theta)
        exact = QuadraticProblem(problem, tilt, objective.penalty)
        penalty = float(objective.penalty_value(theta))
        return convex_bound(GRADIENT, exact, [step], penalty, tolerance, max_memory)
    if objective.network.is_linear:
        # A deep linear network can't represent more than linear models of its inputs.
        inputs = next(each for each in solved if each.row.basis == INPUTS)
        of_loss = QuadraticProblem.of_loss(inputs.problem)
        return convex_bound(INPUTS, of_loss, [], 0.0, tolerance, max_memory)
    return None


def _at_parameters(objective: Objective) -> tuple[ConvexProblem, float, Tensor]:
    """The problem on the gradient basis, and the loss and gradient at its offset.

    Outputs, loss and gradient must be finite.
    """
    network = objective.network
    raw = network(network.theta, objective.X)
    if not bool(raw.isfinite().all()):
        raise ValueError(
            "estimator must have finite outputs on X, got infinite ones or NaN. Lower "
            "its learning rate, or standardize X, and train again."
        )
    problem = tangent_problem(objective, raw, [])
    loss = float(problem.data_value(raw))
    # From these outputs, because another pass may round them differently.
    gradient = problem.operator.rmatvec(problem.residual(raw))
    gradient = gradient + objective.penalty_gradient(network.theta)
    measured = {
        "loss": loss,
        "penalty": float(objective.penalty_value(network.theta)),
        "gradient": float(gradient.norm()),
    }
    for name, value in measured.items():
        if not np.isfinite(value):
            raise ValueError(
                "estimator must have a finite loss and gradient on X and y, got a "
                f"{name} that is infinite or NaN. Lower its learning rate, or scale X "
                "and y, and train again."
            )
    return problem, loss, gradient


def _check_tolerance(tolerance: float) -> float:
    """Check that differences of the loss as large as the tolerance do not underflow.

    Each loss has an absolute error of the smallest subnormal number, which is a
    rounding unit of the smallest normal one.
    """
    if tolerance < np.finfo(np.float64).tiny:
        raise ValueError(
            "y must have losses that do not underflow, got a tolerance of "
            f"{tolerance:g} for differences of the loss. Multiply y by a power of ten "
            "and train again, or use weights of fewer orders of magnitude."
        )
    return tolerance
