"""Refit trained networks: build the basis, choose alpha, solve, bound the loss."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from sklearn_pgb._bases._tangent import TangentSpace
from sklearn_pgb._budget import (
    EQUAL_RTOL,
    FIT_RANK_FLOPS,
    FIT_REPAIR_FLOPS,
    GAP_ULPS,
)
from sklearn_pgb._convex._bounds import Bound
from sklearn_pgb._convex._choice import Effort, is_number
from sklearn_pgb._convex._infimum import infimum, is_affordable
from sklearn_pgb._convex._problem import ConvexProblem, Solution, finish
from sklearn_pgb._convex._solve import solve, warn_if_unconverged
from sklearn_pgb._convex._unit_basis import EPS, Spectrum
from sklearn_pgb._estimator._folds import Parts
from sklearn_pgb._losses._floor import pure_error_floor
from sklearn_pgb._refit._candidate import Choice
from sklearn_pgb._refit._choice import choose
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
    # A network outside the span of its derivatives is always added to the basis model.
    if not space.spans_networks:
        del problems["zero"]
    elif request.center != "auto":
        problems = {request.center: problems[request.center]}
    elif is_number(request.alpha) and not trained.has_heldout:
        # Nothing is held out, so no loss could compare the centers.
        del problems["average"]
    choice = choose(trained, problems, request, effort, convex_parts)
    final = problems[choice.center]
    if math.isfinite(choice.alpha):
        final = final.with_alpha(choice.alpha)
    solution = _solved(final, choice, request.solver, effort)
    if final.alpha == 0 and choice.center == "zero":
        solution = _or_average(final, solution, space)
    parameters = space.parameters(
        solution.coef,
        solution.intercept,
        add_mean=choice.center == "average",
    )
    loss = solution.data_value
    if choice.parameters is not None:
        # The average of both solutions predicts better than either.
        parameters = (parameters + choice.parameters) / 2
        raw = space.raw(samples.X, parameters, average)
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
        parameters=parameters,
        loss=loss,
        model_loss=float(problem.data_value(average)),
        bound=bound,
        rank=rank,
    )


def _solved(
    problem: ConvexProblem,
    choice: Choice,
    solver: str,
    effort: Effort,
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
        path=choice.path,
    )
    warn_if_unconverged(solution, effort.tol, effort.max_iter)
    return solution


def _or_average(
    problem: ConvexProblem, solution: Solution, space: TangentSpace
) -> Solution:
    """The solution without penalty, or the average of the networks if it is better.

    The span contains the average, but rounding or the limit of the iterations can stop
    a solver short of it. Differences by rounding of the outputs do not count.
    """
    average = finish(
        problem,
        *space.average(problem.operator.n_outputs),
        n_iter=solution.n_iter,
        converged=solution.converged,
    )
    moved = problem.data_value(average.raw * (1 + GAP_ULPS * EPS))
    largest = max(average.value, float(moved)) + EQUAL_RTOL * abs(average.value)
    return solution if solution.value <= largest else average


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
    bounds = infimum(
        problem, max_memory=max_memory, floor=floor, attained_loss=attained_loss
    )
    return bounds.rank, bounds.bound
