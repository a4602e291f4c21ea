"""Refit trained networks: build the basis, choose alpha, solve, bound the loss."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor

from sklearn_pgb._bases._tangent import TangentSpace, mean_raw, tangent_raw
from sklearn_pgb._budget import FIT_RANK_FLOPS, FIT_REPAIR_FLOPS
from sklearn_pgb._convex._bounds import Bound
from sklearn_pgb._convex._infimum import infimum, is_affordable
from sklearn_pgb._convex._problem import ConvexProblem, Solution, finish
from sklearn_pgb._convex._ridge import RidgePath
from sklearn_pgb._convex._solve import solve, warn_if_unconverged
from sklearn_pgb._convex._unit_basis import Spectrum
from sklearn_pgb._estimator import _alpha
from sklearn_pgb._estimator._alpha import Effort
from sklearn_pgb._estimator._folds import Parts
from sklearn_pgb._losses._floor import pure_error_floor
from sklearn_pgb._models._opened import OpenNetwork
from sklearn_pgb._refit._choice import (
    Candidate,
    Choice,
    HeldOutNetworks,
    all_heldout_raw,
    best_on_average,
    by_heldout_networks,
    choose_on_training_samples,
    fold_average,
    side_by_side,
)
from sklearn_pgb._samples import Samples


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
    gap : float
        Certified distance of the solution's objective from the minimum.
    path : RidgePath or None
    parameters : Tensor
        Coefficients of the refit, one per parameter of all networks: the solution or,
        if alpha was chosen on folds, its mean with the average of the folds' solutions.
    loss : float
        Training loss at `parameters`.
    adds_networks : bool
        Whether predictions add the mean of the networks to the basis model.
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
    gap: float
    path: RidgePath | None
    parameters: Tensor
    loss: float
    adds_networks: bool
    model_loss: float
    bound: Bound
    rank: int | None


@dataclass(frozen=True, eq=False)
class TrainedNetworks:
    """Trained networks and the samples that each was trained on.

    Attributes
    ----------
    estimators : list
        In the order of the folds, if there are any.
    opened : list of OpenNetwork
        The networks of `estimators`.
    inputs : list of Tensor
        Inputs of each network for all samples.
    folds : list of (train, held out) or None
        One per fold; every fold has the same number of networks.
    loss : str
        Key of MODULE_LOSSES.
    n_outputs : int
        Raw outputs of each network.
    frozen : bool
        Whether the networks were trained elsewhere.
    validation : Samples or None
        Inputs of each network, encoded targets and weights of validation samples.
    """

    estimators: list[Any]
    opened: list[OpenNetwork]
    inputs: list[Tensor]
    folds: Parts | None
    loss: str
    n_outputs: int
    frozen: bool
    validation: Samples | None = None

    def heldout(
        self, y: Tensor, weight: Tensor, n_folds: int | None
    ) -> list[HeldOutNetworks]:
        """Networks with their held-out samples, for the first `n_folds` folds."""
        if self.validation is not None:
            samples = Samples(tuple(self.inputs), y, weight)
            rows = (
                torch.arange(len(p.y), device=y.device)
                for p in (samples, self.validation)
            )
            return [HeldOutNetworks.of(self.opened, samples, self.validation, *rows)]
        assert self.folds is not None
        width = len(self.opened) // len(self.folds)
        result = []
        for number, fold in enumerate(self.folds[:n_folds]):
            part = slice(number * width, (number + 1) * width)
            samples = Samples(tuple(self.inputs[part]), y, weight)
            rows = (torch.as_tensor(each, device=y.device) for each in fold)
            opened = self.opened[part]
            result.append(HeldOutNetworks.of(opened, samples, samples, *rows))
        return result


def refit(
    trained: TrainedNetworks,
    y: Tensor,
    weight: Tensor,
    distinct: Tensor,
    *,
    alpha: Any,
    center: str,
    solver: str,
    effort: Effort,
    convex_parts: Callable[[], Parts],
    with_leverages: bool,
) -> Refit:
    """Fit the convex model on the gradient basis of trained networks.

    Parameters
    ----------
    trained : TrainedNetworks
    y : Tensor (n_samples, n_outputs)
        Encoded targets.
    weight : Tensor (n_samples,)
        Positive sample weights, not normalized.
    distinct : Tensor (n_samples,)
        Group codes: samples with equal inputs have the same number.
    alpha : float, array or str
    center : {"auto", "zero", "average"}
    solver : {"auto", "primal", "dual", "matrix-free"}
    effort : Effort
    convex_parts : callable
        Draws folds of the convex problem. They are needed if the networks were trained
        on all samples and leave-one-out has no closed form.
    with_leverages : bool
        Whether to compute the eigendecomposition that leverages need.
    """
    normalized = weight / weight.sum()
    networks = [opened.network for opened in trained.opened]
    space = TangentSpace.of(networks, trained.inputs, normalized)
    average = mean_raw(networks, trained.inputs)
    problem = ConvexProblem(
        space.operator(trained.inputs),
        y,
        trained.opened[0].loss,
        normalized,
        intercept=space.intercept,
    )
    problems = {"zero": problem, "average": replace(problem, offset=average)}
    centers = _centers(center, alpha, trained, space)
    choice, path = _choose(
        trained,
        {name: problems[name] for name in centers},
        alpha,
        solver,
        weight,
        effort,
        convex_parts,
        with_leverages,
    )
    final = problems[choice.center]
    total_weight = float(weight.sum())
    if path is not None and choice.raw is None and 0 < choice.alpha < math.inf:
        if _alpha.can_leave_out(final, total_weight):
            alphas = np.array([choice.alpha])
            left_out = _alpha.by_leave_one_out(final, path, alphas, total_weight)
            choice = replace(choice, raw=left_out.raw)
    final, solution, gap = _solved(final, choice, solver, effort, path)
    parameters = space.parameters(
        solution.coef,
        solution.intercept,
        centre=choice.center == "average" and space.spans_networks,
    )
    loss = solution.data_value
    if choice.parameters is not None:
        # The average of both solutions predicts better than either.
        parameters = (parameters + choice.parameters) / 2
        raw = tangent_raw(networks, trained.inputs, parameters)
        if not space.spans_networks:
            raw = raw + average
        loss = float(problem.data_value(raw))
    floor = pure_error_floor(distinct[:, None], y, problem.loss, normalized)
    # If the networks are in the span, the infimum over it does not depend on the center
    over_span = problem if space.spans_networks else final
    in_hand = min(loss, solution.data_value)
    rank, bound = _span(over_span, in_hand, floor.value, effort.max_memory)
    return Refit(
        space=space,
        problem=final,
        choice=choice,
        solution=solution,
        gap=gap,
        path=path,
        parameters=parameters,
        loss=loss,
        adds_networks=not space.spans_networks,
        model_loss=float(problem.data_value(average)),
        bound=bound,
        rank=rank,
    )


def _solved(
    problem: ConvexProblem,
    choice: Choice,
    solver: str,
    effort: Effort,
    path: RidgePath | None,
) -> tuple[ConvexProblem, Solution, float]:
    """Solve at the chosen alpha, with certified gap; nothing if alpha is infinite."""
    if math.isinf(choice.alpha):
        zero = finish(problem, *problem.zero(), n_iter=0, converged=True)
        return problem, zero, 0.0
    problem = problem.with_alpha(choice.alpha)
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
    return problem, solution, solution.gap


def _is_number(alpha: object) -> TypeGuard[float]:
    return isinstance(alpha, int | float | np.number)


def _centers(
    center: str, alpha: Any, trained: TrainedNetworks, space: TangentSpace
) -> tuple[str, ...]:
    """Centers to choose from.

    A network outside the span of its derivatives is always added to the basis model.
    If alpha is a number and nothing is held out, no loss could compare the centers.
    """
    if not space.spans_networks:
        return ("average",)
    if center != "auto":
        return (center,)
    if _is_number(alpha) and trained.folds is None and trained.validation is None:
        return ("zero",)
    return ("zero", "average")


def _choose(
    trained: TrainedNetworks,
    problems: dict[str, ConvexProblem],
    alpha: Any,
    solver: str,
    weight: Tensor,
    effort: Effort,
    convex_parts: Callable[[], Parts],
    with_leverages: bool,
) -> tuple[Choice, RidgePath | None]:
    """Choose center and alpha, on held-out samples if there are any."""
    centers = tuple(problems)
    problem = problems[centers[0]]
    quadratic, total_weight = problem.loss.quadratic, float(weight.sum())
    is_number = _is_number(alpha)
    rule = alpha if isinstance(alpha, str) else "auto"
    has_heldout = trained.folds is not None or trained.validation is not None
    on_training_samples = not has_heldout or rule in ("loo", "evidence")
    path = None
    if quadratic and (with_leverages or (on_training_samples and not is_number)):
        if not (is_number and float(alpha) == 0.0):
            path = _alpha.spectral_path(problem, solver, effort.max_memory)
    if is_number and (len(centers) == 1 or not has_heldout):
        only = Candidate(centers[0], float(alpha), math.nan)
        choice = Choice(only.center, only.alpha, [only])
    elif on_training_samples:
        if not _alpha.can_leave_out(problem, total_weight):
            raise ValueError(
                "alpha must be a number if n_samples=1, because nothing is left when "
                f"a sample is left out, got {alpha!r}. Add samples or give a number."
            )
        choice = choose_on_training_samples(
            problems,
            path,
            rule,
            _alpha.candidates(alpha, quadratic),
            total_weight,
            effort,
            convex_parts,
            # The evidence can't be compared with the networks' training loss.
            with_average=trained.frozen and rule != "evidence" and alpha is rule,
        )
    else:
        choice = _choose_on_heldout(trained, problems, alpha, weight, effort)
    if path is not None:
        path = path.with_offset(problems[choice.center].offset)
    return choice, path


def _choose_on_heldout(
    trained: TrainedNetworks,
    problems: dict[str, ConvexProblem],
    alpha: Any,
    weight: Tensor,
    effort: Effort,
) -> Choice:
    """Choose center and alpha on samples that the networks were not trained on."""
    problem = next(iter(problems.values()))
    quadratic, n_folds = problem.loss.quadratic, 1
    n_scored = None
    if trained.folds is not None:
        n_folds = len(trained.folds)
        if not quadratic:
            X = trained.inputs[0].cpu().numpy()
            # The gain from averaging can't be estimated with fewer than two folds.
            n_scored = max(_alpha.enough(trained.folds, X), 2)
    parts = trained.heldout(problem.y, weight, n_scored)
    # The penalty is relative to a mean loss: with all samples, the same penalty on the
    # sum of losses is a smaller alpha than on the training samples of one fold.
    left_out = sum(part.heldout_weight for part in parts) / len(parts)
    fraction = 1.0
    if trained.folds is not None:
        fraction -= left_out / float(weight.sum())
    is_number = _is_number(alpha)
    if is_number:
        # The chosen alpha is multiplied by `fraction` below, so it is the user's again.
        alphas = np.array([float(alpha) / fraction])
    else:
        alphas = _alpha.candidates(alpha, quadratic)
    candidates, solutions = by_heldout_networks(
        parts,
        tuple(problems),
        alphas,
        effort,
        with_average="average" in problems and isinstance(alpha, str),
    )
    best = best_on_average(parts, candidates, solutions, n_folds)
    solved = [] if math.isinf(best.alpha) else solutions(best)
    raw = None
    if trained.folds is not None:
        raw = all_heldout_raw(parts, best, solved, problem.y)
    parameters = start = None
    if solved and trained.folds is not None:
        whole = len(parts) == n_folds
        if quadratic and whole and not is_number:
            parameters = fold_average(parts, best.center, solved)
        if whole:
            start = side_by_side(solved, n_folds)
    scaled = [replace(each, alpha=each.alpha * fraction) for each in candidates]
    return Choice(best.center, best.alpha * fraction, scaled, raw, parameters, start)


def _span(
    problem: ConvexProblem, in_hand: float, floor: float, max_memory: float
) -> tuple[int | None, Bound]:
    """Rank, and a bound on the infimum over the span, if they are affordable.

    `in_hand` is the smallest loss that known coefficients reach.
    """
    bound = Bound(floor, np.inf).within(in_hand)
    if not is_affordable(problem, FIT_RANK_FLOPS, max_memory):
        return None, bound
    if not problem.loss.quadratic and not is_affordable(
        problem, FIT_REPAIR_FLOPS, max_memory
    ):
        return Spectrum.of(problem).rank, bound
    least = infimum(problem, max_memory=max_memory, floor=floor, in_hand=in_hand)
    return least.rank, Bound(least.lower_bound, least.norm_budget)
