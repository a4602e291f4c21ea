"""The refit as one pass over data: networks, basis, ridge, solution, certificate."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sklearn_pgb._bases import TangentSpace, mean_raw
from sklearn_pgb._convex import (
    Bound,
    ConvexProblem,
    Fold,
    HeldOut,
    RidgePath,
    Solution,
    Spectrum,
    convex_folds,
    infimum,
    is_affordable,
    solve,
    warn_if_unconverged,
)
from sklearn_pgb._estimator import Parts, _alpha
from sklearn_pgb._estimator._alpha import AlphaChoice, Effort
from sklearn_pgb._losses import pure_error_floor
from sklearn_pgb._networks import OpenNetwork

# Factorising the whole Jacobian for its rank, and repairing a dual point for the
# infimum over its span, are done in `fit` only where they take a fraction of a second.
RANK_FLOPS = 1e9
REPAIR_FLOPS = 1e7


@dataclass(frozen=True, eq=False)
class Refit:
    """Everything that a fitted refit is made of."""

    space: TangentSpace
    problem: ConvexProblem
    choice: AlphaChoice
    solution: Solution
    path: RidgePath | None
    parameters: Tensor
    adds_networks: bool
    network_loss: float
    bound: Bound
    rank: int | None


@dataclass(frozen=True, eq=False)
class TrainedNetworks:
    """Trained networks and the rows that each has seen.

    Attributes
    ----------
    estimators : list
        Fold by fold where there are folds.
    opened : list of OpenNetwork
        The same, opened.
    inputs : list of Tensor
        All rows, as each network sees them.
    folds : list of (train, held out) or None
        One per fold; every fold has the same number of networks.
    loss : str
        What the refit's `loss` stands for, as a key of MODULE_LOSSES.
    n_outputs : int
        Raw outputs of each network.
    """

    estimators: list[Any]
    opened: list[OpenNetwork]
    inputs: list[Tensor]
    folds: Parts | None
    loss: str
    n_outputs: int

    def of_fold(self, number: int) -> tuple[list[OpenNetwork], list[Tensor]]:
        """The networks of one fold with all their inputs."""
        assert self.folds is not None
        width = len(self.opened) // len(self.folds)
        part = slice(number * width, (number + 1) * width)
        return self.opened[part], self.inputs[part]


def refit(
    trained: TrainedNetworks,
    y: Tensor,
    weight: Tensor,
    *,
    alpha: object,
    center: str,
    solver: str,
    effort: Effort,
    convex_parts: Callable[[], Parts],
) -> Refit:
    """Fit the convex model on the gradient basis of trained networks.

    Parameters
    ----------
    trained : TrainedNetworks
    y : Tensor (n_samples, n_outputs)
        Encoded targets.
    weight : Tensor (n_samples,)
        Sample weights, positive, in the user's scale.
    alpha : float, array or str
    center : {"zero", "network"}
    solver : {"auto", "primal", "dual", "matrix-free"}
    effort : Effort
    convex_parts : callable
        Gives folds of the convex problem, for losses without a closed form whose
        networks have seen all rows.
    """
    share = weight / weight.sum()
    networks = [opened.network for opened in trained.opened]
    space = TangentSpace.of(networks, trained.inputs, share)
    keep_networks = center == "network" or not space.spans_networks
    problem = _problem(trained.opened, space, trained.inputs, y, share, keep_networks)
    total_weight = float(weight.sum())
    path = None
    if problem.loss.quadratic and _needs_path(alpha):
        path = _alpha.spectral_path(problem, solver, effort.max_memory)
    choice, start = _choose(
        trained, problem, path, alpha, total_weight, keep_networks, effort, convex_parts
    )
    if choice.raw is None and path is not None and choice.alpha > 0:
        choice = _alpha.with_left_out(choice, problem, path, total_weight)
    final = problem.with_alpha(choice.alpha)
    solution = solve(
        final,
        method=solver,
        max_memory=effort.max_memory,
        tol=effort.tol,
        max_iter=effort.max_iter,
        start=start,
        path=path,
    )
    warn_if_unconverged(solution, effort.tol, effort.max_iter)
    floor = pure_error_floor(trained.inputs[0].flatten(1), y, problem.loss, share)
    rank, bound = _span(problem, solution, floor.value, effort.max_memory)
    return Refit(
        space=space,
        problem=final,
        choice=choice,
        solution=solution,
        path=path,
        parameters=space.parameters(
            solution.coef,
            solution.intercept,
            centre=keep_networks and space.spans_networks,
        ),
        adds_networks=not space.spans_networks,
        network_loss=_network_loss(problem, networks, trained.inputs),
        bound=bound,
        rank=rank,
    )


def _needs_path(alpha: object) -> bool:
    """Whether an eigendecomposition pays: for anything but the theory's alpha = 0."""
    return not (isinstance(alpha, int | float | np.number) and float(alpha) == 0.0)


def _problem(
    opened: Sequence[OpenNetwork],
    space: TangentSpace,
    inputs: Sequence[Tensor],
    y: Tensor,
    weight: Tensor,
    keep_networks: bool,
) -> ConvexProblem:
    return ConvexProblem(
        space.operator(inputs),
        y,
        opened[0].loss,
        weight,
        intercept=space.intercept,
        offset=mean_raw(space.networks, inputs) if keep_networks else None,
    )


def _choose(
    trained: TrainedNetworks,
    problem: ConvexProblem,
    path: RidgePath | None,
    alpha: object,
    total_weight: float,
    keep_networks: bool,
    effort: Effort,
    convex_parts: Callable[[], Parts],
) -> tuple[AlphaChoice, tuple[Tensor, Tensor] | None]:
    """The ridge, by the most honest way there is, and a start for its problem."""
    quadratic = problem.loss.quadratic
    can_leave_out = _alpha.can_leave_out(problem, total_weight)
    if isinstance(alpha, int | float | np.number):
        if path is None or not can_leave_out:
            return _alpha.fixed(float(alpha)), None
        alphas = np.array([float(alpha)])
        return _alpha.by_leave_one_out(problem, path, alphas, total_weight), None
    if not can_leave_out:
        raise ValueError(
            "alpha must be a number where n_samples=1, as nothing is left when a row "
            f"is left out, got {alpha!r}. Add rows or give a number."
        )
    alphas = _alpha.candidates(alpha, quadratic)
    rule = alpha if isinstance(alpha, str) else "auto"
    rows = trained.inputs[0].cpu().numpy()
    if rule == "evidence" and path is not None:
        return _alpha.by_evidence(path, alphas, total_weight), None
    if trained.folds is not None and rule != "loo":
        n_folds = len(trained.folds)
        count = n_folds if quadratic else _alpha.enough(trained.folds, rows)
        folds = _network_folds(trained, problem, keep_networks, count)
        choice, fitted = _alpha.by_held_out(folds, problem, alphas, effort)
        return choice, _mean_of_folds(fitted, n_folds)
    if path is not None:
        return _alpha.by_leave_one_out(problem, path, alphas, total_weight), None
    if rule == "loo" and not quadratic and _alpha.is_dense(problem):
        choice = _alpha.by_approximate_leave_one_out(
            problem, alphas, total_weight, effort
        )
        return choice, None
    parts = convex_parts()
    if not quadratic:
        parts = parts[: _alpha.enough(parts, rows)]
    folds = convex_folds(problem, parts)
    choice, fitted = _alpha.by_held_out(folds, problem, alphas, effort)
    return choice, (fitted[0].coef, fitted[0].intercept)


def _mean_of_folds(fitted: Sequence[Solution], n_folds: int) -> tuple[Tensor, Tensor]:
    """The mean of some folds' models as a point of all bases side by side.

    The final scales are those of the folds over the root of their number, hence the
    root; the rest is a start close to the solution.
    """
    coef = torch.cat([solution.coef for solution in fitted])
    coef = coef * (n_folds**0.5 / len(fitted))
    rest = coef.new_zeros(len(coef) // len(fitted) * (n_folds - len(fitted)))
    intercept = torch.stack([solution.intercept for solution in fitted]).mean(0)
    return torch.cat([coef, rest]), intercept


def _network_folds(
    trained: TrainedNetworks, problem: ConvexProblem, keep_networks: bool, count: int
) -> list[Fold]:
    """Problems on the first folds' own networks and rows that these have not seen."""
    assert trained.folds is not None
    result = []
    for number, (train, test) in enumerate(trained.folds[:count]):
        opened, inputs = trained.of_fold(number)
        seen, unseen = torch.as_tensor(train), torch.as_tensor(test)
        weight = problem.weight[seen] / problem.weight[seen].sum()
        seen_inputs = [X[seen] for X in inputs]
        unseen_inputs = [X[unseen] for X in inputs]
        networks = [network.network for network in opened]
        space = TangentSpace.of(networks, seen_inputs, weight)
        fold = _problem(
            opened, space, seen_inputs, problem.y[seen], weight, keep_networks
        )
        held = HeldOut(
            unseen,
            space.operator(unseen_inputs),
            problem.y[unseen],
            problem.weight[unseen],
            mean_raw(networks, unseen_inputs) if keep_networks else None,
        )
        result.append(Fold(fold, held))
    return result


def _network_loss(
    problem: ConvexProblem, networks: Sequence[Any], inputs: Sequence[Tensor]
) -> float:
    """Loss of the best of the networks on the training data."""
    return min(
        float(problem.data_value(network(network.theta, X)))
        for network, X in zip(networks, inputs, strict=True)
    )


def _span(
    problem: ConvexProblem, solution: Solution, floor: float, max_memory: float
) -> tuple[int | None, Bound]:
    """Rank and a bound on the infimum over the span, where they are affordable."""
    bound = Bound(floor, np.inf).within(solution.data_value)
    if not is_affordable(problem, RANK_FLOPS, max_memory):
        return None, bound
    if not problem.loss.quadratic and not is_affordable(
        problem, REPAIR_FLOPS, max_memory
    ):
        return Spectrum.of(problem).rank, bound
    least = infimum(
        problem, max_memory=max_memory, floor=floor, in_hand=solution.data_value
    )
    return least.rank, Bound(least.lower_bound, least.norm_budget)
