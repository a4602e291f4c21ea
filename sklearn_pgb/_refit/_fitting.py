"""Refit trained networks: build the basis, choose alpha, solve, bound the loss."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from sklearn_pgb._bases._tangent import TangentSpace, tangent_raw
from sklearn_pgb._budget import FIT_RANK_FLOPS, FIT_REPAIR_FLOPS
from sklearn_pgb._convex._bounds import Bound
from sklearn_pgb._convex._choice import (
    Effort,
    by_leave_one_out,
    can_leave_out,
    is_number,
    spectral_path,
)
from sklearn_pgb._convex._infimum import infimum, is_affordable
from sklearn_pgb._convex._problem import ConvexProblem, Solution, finish
from sklearn_pgb._convex._ridge import RidgePath
from sklearn_pgb._convex._solve import solve, warn_if_unconverged
from sklearn_pgb._convex._unit_basis import Spectrum
from sklearn_pgb._estimator._folds import Parts
from sklearn_pgb._losses._floor import pure_error_floor
from sklearn_pgb._refit._choice import Choice, choose, chooses_on_training_samples
from sklearn_pgb._refit._networks import TrainedNetworks
from sklearn_pgb._refit._request import RefitRequest


@dataclass(frozen=True, eq=False)
class Refit:
    """Result of a refit.

    Attributes
    ----------
    space : TangentSpace
    problem : ConvexProblem
        Problem on all samples, at the chosen alpha and center.
    choice : Choice
    solution : Solution
    path : RidgePath or None
    parameters : Tensor
        Coefficients of the refit, one per parameter of all networks: the solution or,
        if alpha was chosen on folds, its mean with the average of the folds' solutions.
    loss : float
        Training loss at `parameters`.
    model_loss : float
        Training loss of the average of the networks.
    bound : Bound
        Lower bound on the loss over the span of the basis.
    rank : int or None
    """

    space: TangentSpace
    problem: ConvexProblem
    choice: Choice
    solution: Solution
    path: RidgePath | None
    parameters: Tensor
    loss: float
    model_loss: float
    bound: Bound
    rank: int | None


def refit(
    trained: TrainedNetworks,
    average: Tensor,
    row_codes: Tensor,
    request: RefitRequest,
    effort: Effort,
    convex_parts: Callable[[], Parts],
) -> Refit:
    """Fit the convex model on the gradient basis of trained networks.

    Parameters
    ----------
    trained : TrainedNetworks
    average : Tensor (n_samples, n_outputs)
        Mean raw outputs of the networks.
    row_codes : Tensor (n_samples,)
        Samples with equal inputs have the same code.
    request : RefitRequest
    effort : Effort
    convex_parts : callable
        Draws folds of the convex problem. They are needed if the networks were trained
        on all samples and leave-one-out has no closed form.
    """
    samples = trained.samples
    networks = [opened.network for opened in trained.opened]
    space = TangentSpace.of(networks, samples.X, samples.normalized_weight)
    problem = ConvexProblem(
        space.operator(samples.X),
        samples.y,
        trained.loss,
        samples.normalized_weight,
        intercept=space.intercept,
    )
    problems = {"zero": problem, "average": replace(problem, offset=average)}
    centers = _centers(request, trained, space)
    path = None
    if _needs_path(request, trained):
        path = spectral_path(problems[centers[0]], request.solver, effort.max_memory)
    choice = choose(
        trained,
        {name: problems[name] for name in centers},
        request,
        effort,
        convex_parts,
        path,
    )
    final = problems[choice.center]
    if path is not None:
        path = path.with_offset(final.offset)
        choice = _with_left_out(choice, final, path, samples.total)
    if math.isfinite(choice.alpha):
        final = final.with_alpha(choice.alpha)
    solution = _solved(final, choice, request.solver, effort, path)
    parameters = space.parameters(
        solution.coef,
        solution.intercept,
        add_mean=choice.center == "average",
    )
    loss = solution.data_value
    if choice.parameters is not None:
        # The average of both solutions predicts better than either.
        parameters = (parameters + choice.parameters) / 2
        raw = tangent_raw(networks, samples.X, parameters)
        if not space.spans_networks:
            raw = raw + average
        loss = float(problem.data_value(raw))
    floor = pure_error_floor(
        row_codes[:, None], samples.y, trained.loss, problem.weight
    )
    # If the networks are in the span, the infimum over it does not depend on the center
    over_span = problem if space.spans_networks else final
    attained_loss = min(loss, solution.data_value)
    rank, bound = _span(over_span, attained_loss, floor.value, effort.max_memory)
    return Refit(
        space=space,
        problem=final,
        choice=choice,
        solution=solution,
        path=path,
        parameters=parameters,
        loss=loss,
        model_loss=float(problem.data_value(average)),
        bound=bound,
        rank=rank,
    )


def _needs_path(request: RefitRequest, trained: TrainedNetworks) -> bool:
    """Whether to decompose the basis: for leverages, or to choose alpha."""
    if not trained.loss.quadratic or (is_number(request.alpha) and request.alpha == 0):
        return False
    chooses = not is_number(request.alpha)
    on_training_samples = chooses_on_training_samples(trained, request)
    return request.distribution or (chooses and on_training_samples)


def _with_left_out(
    choice: Choice, problem: ConvexProblem, path: RidgePath, total_weight: float
) -> Choice:
    """Add leave-one-out outputs if there are no held-out outputs of all samples."""
    if choice.raw is not None or not 0 < choice.alpha < math.inf:
        return choice
    if not can_leave_out(problem, total_weight):
        return choice
    alphas = np.array([choice.alpha])
    left_out = by_leave_one_out(problem, path, alphas, total_weight)
    return replace(choice, raw=left_out.raw)


def _solved(
    problem: ConvexProblem,
    choice: Choice,
    solver: str,
    effort: Effort,
    path: RidgePath | None,
) -> Solution:
    """Solve at the chosen alpha; zero coefficients if it is infinite."""
    if math.isinf(choice.alpha):
        return finish(problem, *problem.zero(), n_iter=0, converged=True)
    solution = solve(
        problem,
        method=solver,
        max_memory=effort.max_memory,
        tol=effort.tol,
        max_iter=effort.max_iter,
        start=choice.start,
        path=path,
    )
    warn_if_unconverged(solution, effort.tol, effort.max_iter)
    return solution


def _centers(
    request: RefitRequest, trained: TrainedNetworks, space: TangentSpace
) -> tuple[str, ...]:
    """Centers to choose from.

    A network outside the span of its derivatives is always added to the basis model.
    If alpha is a number and nothing is held out, no loss could compare the centers.
    """
    if not space.spans_networks:
        return ("average",)
    if request.center != "auto":
        return (request.center,)
    compares = trained.has_heldout or not is_number(request.alpha)
    return ("zero", "average") if compares else ("zero",)


def _span(
    problem: ConvexProblem, attained_loss: float, floor: float, max_memory: float
) -> tuple[int | None, Bound]:
    """Rank of the basis and a bound on the loss over its span, as far as affordable.

    `attained_loss` is the smallest loss that known coefficients reach.
    """
    bound = Bound(floor, np.inf).within(attained_loss)
    if not is_affordable(problem, FIT_RANK_FLOPS, max_memory):
        return None, bound
    if not problem.loss.quadratic and not is_affordable(
        problem, FIT_REPAIR_FLOPS, max_memory
    ):
        return Spectrum.of(problem).rank, bound
    least = infimum(
        problem, max_memory=max_memory, floor=floor, attained_loss=attained_loss
    )
    return least.rank, Bound(least.lower_bound, least.norm_budget)
