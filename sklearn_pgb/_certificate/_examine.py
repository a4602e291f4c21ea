"""Compute the numbers from which the verdict on a network follows."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from sklearn_pgb._bases._basis import Basis
from sklearn_pgb._bases._perturbed import new_displacements
from sklearn_pgb._budget import (
    N_DISPLACEMENTS,
    NEARBY_RANK_FLOPS,
    TILTED_BUDGET,
    factorization_flops,
)
from sklearn_pgb._certificate._curvature import Curvature, curvature
from sklearn_pgb._certificate._evidence import SolvedBasis
from sklearn_pgb._certificate._steepness import Steepness, steepness
from sklearn_pgb._certificate._subject import Subject
from sklearn_pgb._certificate._table import (
    GRADIENT,
    INPUTS,
    PERTURBED,
    BasisRow,
    feature_problems,
    head_problem,
    solve_basis,
    tangent_problem,
)
from sklearn_pgb._certificate._tilted import TiltedIdentity, tilted_identity
from sklearn_pgb._convex._infimum import Infimum
from sklearn_pgb._convex._problem import ConvexProblem
from sklearn_pgb._convex._scale import LossScale, loss_scale
from sklearn_pgb._convex._unit_basis import ColumnScaling
from sklearn_pgb._geometry._displacements import Displacement
from sklearn_pgb._geometry._kinks import KinkMargin, kink_margin
from sklearn_pgb._geometry._linear_structure import (
    layers_operator,
    linear_layers,
)
from sklearn_pgb._geometry._rank import generic_rank
from sklearn_pgb._losses._floor import PureErrorFloor, pure_error_floor
from sklearn_pgb._models._chain import ChainNetwork
from sklearn_pgb._operators._operator import LinearOperator
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
    tol, tolerance : float
        Relative tolerance as given by the user, and tolerance in units of the loss.
    gradient : Tensor (n_params,)
        Gradient of the objective.
    steepness : Steepness
        Derivatives of the objective, relative to the norms of the Jacobian's columns.
    margin : KinkMargin
    smooth : bool
        Whether no hidden unit is at its kink.
    solved : tuple of SolvedBasis
        One for each row of the table.
    tangent : Infimum
        Infimum of the loss over the gradient basis.
    linear_bound : float
        Bound on the loss of all linear models of the inputs; minus infinity if only
        coefficients of limited norm are covered.
    head_excess : float
        Decrease of the objective by a model on the last layer's derivatives, or a bound
        on it with a penalty; used if the network is not smooth.
    in_span_error : float or None
        Relative error of ``f = J g``; None if no g is known.
    nearby_rank : int or None
        Rank of the Jacobian nearby.
    displaced : list of Displacement
    joint_row : str or None
        Name of the row of linear layers whose joint features a local minimum can't be
        worse than.
    tilted : TiltedIdentity or None
    curvature : Curvature or None
        None if the network is not smooth or is linear in its parameters.
    """

    loss: float
    penalty: float
    floor: PureErrorFloor
    scale: LossScale
    tol: float
    tolerance: float
    gradient: Tensor
    steepness: Steepness
    margin: KinkMargin
    smooth: bool
    solved: tuple[SolvedBasis, ...]
    tangent: Infimum
    linear_bound: float
    head_excess: float
    in_span_error: float | None
    nearby_rank: int | None
    displaced: list[Displacement]
    joint_row: str | None
    tilted: TiltedIdentity | None
    curvature: Curvature | None

    @property
    def objective(self) -> float:
        """Loss plus penalty."""
        return self.loss + self.penalty

    @property
    def rows(self) -> tuple[BasisRow, ...]:
        """Rows of the table."""
        return tuple(each.row for each in self.solved)

    @property
    def decisive(self) -> bool:
        """Whether a gain on the gradient basis shows that training has not converged.

        It does not at a kink, or if coefficients of extreme size are needed.
        """
        steady = self.tilted is not None or self.excess > self.tolerance
        return self.smooth and steady and not self.steepness.is_rounding

    @property
    def excess(self) -> float:
        """Loss minus that of coefficients of moderate size on the gradient basis."""
        return self.loss - self.tangent.steady

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
    objective, network = subject.objective, subject.objective.network
    theta = network.theta
    raw = network(theta, objective.X)
    if not bool(raw.isfinite().all()):
        raise ValueError(
            "estimator must have finite outputs on X, got infinite ones or NaN. Lower "
            "its learning rate, or standardize X, and train again."
        )
    problem = tangent_problem(objective, raw, [])
    loss = float(problem.data_value(raw))
    gradient = objective.value_and_gradient_of_one(theta)[1]
    penalty = float(objective.penalty_value(theta))
    _check_finite(loss=loss, penalty=penalty, gradient=float(gradient.norm()))
    floor = pure_error_floor(
        subject.group[:, None], objective.y, objective.loss, objective.weight
    )
    in_span_error, span_coef = None, subject.head.span_coef
    if span_coef is not None:
        error = float((problem.operator.matvec(span_coef) - raw).norm())
        in_span_error = error / max(float(raw.norm()), np.finfo(float).tiny)
    # f = J g is exact if the head is linear; 1e-8 leaves room for rounding.
    spans = in_span_error is not None and in_span_error <= 1e-8
    # The network lies in its own basis, so its loss bounds the infimum from above.
    known = {"floor": floor.value, "attained_loss": loss, "contains_offset": spans}
    scale = loss_scale(objective.loss, objective.y, objective.weight, floor.value)
    tolerance = scale.tolerance(settings.tol)
    tangent = solve_basis(problem, settings.max_memory, **known)
    steep = steepness(objective, problem, raw, gradient)
    if steep.gain > max(tolerance, loss - tangent.value) and not penalty:
        tangent = _with_step(tangent, problem, raw, steep.step)
    margin = kink_margin(network, objective.X)
    smooth = not margin.on_kink
    joint = _joint_layers(objective)
    solved, linear_bound = [], -np.inf
    for name, each in feature_problems(subject, bases, joint):
        result = solve_basis(each, settings.max_memory, floor=floor.value)
        solved.append(SolvedBasis.of(name, each, result, loss))
        # A bound within a norm budget does not cover products of large weights.
        if name == INPUTS and result.unlimited:
            linear_bound = result.lower_bound
    solved.append(SolvedBasis.of(GRADIENT, problem, tangent, loss, span_coef))
    may_be_critical = loss - tangent.value <= tolerance
    nearby_rank, displaced = _displacements(
        objective, tangent.steady_rank, smooth, may_be_critical, generator
    )
    if displaced:
        wider = tangent_problem(objective, raw, [each.shift for each in displaced])
        result = solve_basis(wider, settings.max_memory, **known)
        solved.append(SolvedBasis.of(PERTURBED, wider, result, loss, span_coef))
    budget = settings.norm_budget or TILTED_BUDGET * (float(theta.norm()) or 1.0)
    tilted = None
    if objective.penalty.any():
        tilted = tilted_identity(
            objective, problem, gradient, tangent, budget, floor=floor.value
        )
    return Findings(
        loss=loss,
        penalty=penalty,
        floor=floor,
        scale=scale,
        tol=settings.tol,
        tolerance=tolerance,
        gradient=gradient,
        steepness=steep,
        margin=margin,
        smooth=smooth,
        solved=tuple(solved),
        tangent=tangent,
        linear_bound=linear_bound,
        head_excess=0.0
        if smooth
        else _head_excess(subject, raw, loss, gradient, budget, settings),
        in_span_error=in_span_error,
        nearby_rank=nearby_rank,
        displaced=displaced,
        joint_row=next(iter(joint), None),
        tilted=tilted,
        curvature=curvature(objective, theta, generator)
        if smooth and not network.is_linear_in_theta
        else None,
    )


def _check_finite(**measured: float) -> None:
    for name, value in measured.items():
        if not np.isfinite(value):
            raise ValueError(
                "estimator must have a finite loss and gradient on X and y, got a "
                f"{name} that is infinite or NaN. Lower its learning rate, or scale X "
                "and y, and train again."
            )


def _displacements(
    objective: Objective,
    rank: int | None,
    smooth: bool,
    may_be_critical: bool,
    generator: torch.Generator,
) -> tuple[int | None, list[Displacement]]:
    """Rank of the Jacobian nearby, and displacements if it exceeds the `rank` here.

    They are left out at kinks, and if they cost too much.
    """
    network, X, weight = objective.network, objective.X, objective.weight
    n_rows, n_coef = objective.y.numel(), network.n_params
    # The derivatives of a model that is linear in its parameters are constant.
    if rank in (None, min(n_rows, n_coef)) or network.is_linear_in_theta:
        return rank, []
    nearby = generic_rank(network, X, generator, weight, max_flops=NEARBY_RANK_FLOPS)
    # Each displacement costs a factorization. It is not worth much if the gradient
    # basis already shows that the point is not critical.
    limit = NEARBY_RANK_FLOPS / (1 if may_be_critical else N_DISPLACEMENTS)
    too_expensive = factorization_flops(n_rows, n_coef) > limit
    if not smooth or nearby is None or nearby <= rank or too_expensive:
        return nearby, []
    return nearby, new_displacements(network, X, weight, N_DISPLACEMENTS, generator)


def _with_step(
    tangent: Infimum, problem: ConvexProblem, raw: Tensor, step: Tensor
) -> Infimum:
    """Replace coefficients that are worse than a gradient step."""
    value = float(problem.data_value(raw + problem.operator.matvec(step)))
    scaling = ColumnScaling.of(problem)
    point = scaling.columns(step) * scaling.scale[:, None]
    return replace(
        tangent,
        value=value,
        steady=min(value, tangent.steady),
        lower_bound=min(value, tangent.lower_bound),
        norm=float(point.norm()),
        coordinates=point,
        ray=1.0,
    )


def _joint_layers(objective: Objective) -> dict[str, LinearOperator]:
    """Joint operator of several linear layers, by its name in the table.

    A local minimum is as good as the best model on these layers jointly. Empty if there
    are none or one.
    """
    network, X = objective.network, objective.X
    if not isinstance(network, ChainNetwork) or not network.is_mlp:
        return {}
    if not network.activations:
        return {}
    layers = linear_layers(network, X, objective.y.shape[1])
    if len(layers) < 2:
        return {}
    first, last = layers[0], layers[-1]
    start = INPUTS if first == 0 else f"layer {first}"
    name = f"{start} to layer {last} jointly"
    return {name: layers_operator(network, X, layers)}


def _head_excess(
    subject: Subject,
    raw: Tensor,
    loss: float,
    gradient: Tensor,
    budget: float,
    settings: Settings,
) -> float:
    """Decrease of the objective on the last layer's derivatives; zero if unknown."""
    span_coef = subject.head.span_coef
    if span_coef is None or not span_coef.any():
        return 0.0
    columns = torch.nonzero(span_coef)[:, 0]
    if subject.objective.penalty.any():
        return budget * float(gradient[columns].norm())
    problem = head_problem(subject.objective, raw, columns)
    return loss - solve_basis(problem, settings.max_memory).value
