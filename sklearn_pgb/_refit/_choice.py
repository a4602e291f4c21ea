"""Choose the center of a refit's penalty and its strength alpha."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sklearn_pgb._budget import MOST_GAIN
from sklearn_pgb._convex._choice import (
    Effort,
    by_leave_one_out,
    can_leave_out,
    candidates,
    choose_alpha,
    is_number,
    spectral_path,
)
from sklearn_pgb._convex._heldout import HeldOutPath, convex_folds, search_path
from sklearn_pgb._convex._problem import ConvexProblem, Solution
from sklearn_pgb._convex._ridge import RidgePath
from sklearn_pgb._convex._ridge_grid import RidgeGrid, ridge_grid
from sklearn_pgb._convex._solve import choose_method
from sklearn_pgb._estimator._folds import Parts
from sklearn_pgb._refit._networks import HeldOutNetworks, TrainedNetworks
from sklearn_pgb._refit._request import RefitRequest


@dataclass(frozen=True, eq=False)
class Candidate:
    """A center, an alpha and their mean loss on held-out samples.

    Attributes
    ----------
    center : {"zero", "average"}
    alpha : float
        Infinite for the average of the networks itself.
    loss : float
    """

    center: str
    alpha: float
    loss: float


@dataclass(frozen=True, eq=False)
class Choice:
    """The chosen center and alpha, and all candidates.

    Attributes
    ----------
    center : {"zero", "average"}
    alpha : float
        Strength for the problem on all samples; infinite for the average of the
        networks itself.
    candidates : list of Candidate
    raw : Tensor (n_samples, n_outputs) or None
        Held-out raw outputs: each sample's by a model that was not trained on it, or
        only a convex model.
    oof_raw : Tensor (n_samples, n_outputs) or None
        Raw outputs of each sample by networks and a convex model that were not trained
        on it; nan for samples that no scored fold holds out.
    parameters : Tensor or None
        Mean of the folds' solutions, one coefficient per parameter of all networks.
    start : (Tensor, Tensor) or None
        Coefficients and intercept close to the solution on all samples.
    gain : float
        Part of the held-out loss by which the average of the folds' models is better
        than each of them (squared loss only, else zero).
    path : RidgePath or None
        Decomposition of the problem with the chosen center, if one was needed.
    """

    center: str
    alpha: float
    candidates: Sequence[Candidate]
    raw: Tensor | None = None
    oof_raw: Tensor | None = None
    parameters: Tensor | None = None
    start: tuple[Tensor, Tensor] | None = None
    gain: float = 0.0
    path: RidgePath | None = None


# Maps a candidate to the coefficients and intercept of each part.
Solutions = Callable[[Candidate], list[tuple[Tensor, Tensor]]]


def by_heldout_networks(
    parts: Sequence[HeldOutNetworks],
    centers: Sequence[str],
    alphas: NDArray[np.float64],
    effort: Effort,
    with_average: bool,
) -> tuple[list[Candidate], Solutions]:
    """Score every candidate on samples that its networks were not trained on.

    `with_average` makes the networks themselves a candidate.
    """
    evaluate = _squared if parts[0].loss.quadratic else _general
    candidates, solutions = evaluate(parts, centers, alphas, effort)
    if with_average:
        total = sum(part.heldout_weight for part in parts)
        loss = sum(part.heldout_loss() for part in parts) / total
        candidates.append(Candidate("average", math.inf, loss))
    return candidates, solutions


def _squared(
    parts: Sequence[HeldOutNetworks],
    centers: Sequence[str],
    alphas: NDArray[np.float64],
    effort: Effort,
) -> tuple[list[Candidate], Solutions]:
    """Squared loss: one decomposition per part serves all centers and alphas."""
    grids: list[RidgeGrid] = []
    losses = np.zeros((len(centers), len(alphas)))
    total = sum(part.heldout_weight for part in parts)
    for part in parts:
        fold = part.fold("zero")
        # The choice of the method only depends on whether alpha is positive.
        method = choose_method(fold.problem.with_alpha(1.0), effort.max_memory)
        if method == "matrix-free":
            return _general(parts, centers, alphas, effort)
        raw = part.raw(part.training), part.raw(part.heldout)
        grid, heldout = ridge_grid(
            fold.problem,
            fold.heldout.operator,
            [raw if center == "average" else None for center in centers],
            torch.as_tensor(alphas.copy()).to(fold.problem.y),
            dual=method == "dual",
        )
        errors = (fold.heldout.y - heldout).square().sum(-1)
        losses += (errors @ fold.heldout.weight).cpu().numpy() / total
        grids.append(grid)

    def solutions(at: Candidate) -> list[tuple[Tensor, Tensor]]:
        index = list(centers).index(at.center), list(alphas).index(at.alpha)
        return [
            grid.coefficients(*index, part.space.operator(part.training.X))
            for grid, part in zip(grids, parts, strict=True)
        ]

    candidates = [
        Candidate(center, float(alpha), float(losses[row, column]))
        for row, center in enumerate(centers)
        for column, alpha in enumerate(alphas)
    ]
    return candidates, solutions


def _general(
    parts: Sequence[HeldOutNetworks],
    centers: Sequence[str],
    alphas: NDArray[np.float64],
    effort: Effort,
) -> tuple[list[Candidate], Solutions]:
    """Any loss: Newton's method from large to small alphas, with warm starts."""
    # The problems of all parts are in memory at the same time.
    memory = effort.max_memory / len(parts)
    spaces = [part.fold("zero").row_space(memory) for part in parts]
    paths: dict[str, dict[float, list[Solution]]] = {}
    candidates: list[Candidate] = []
    for center in centers:
        folds = [
            part.fold(center).reduced(space)
            for part, space in zip(parts, spaces, strict=True)
        ]
        path = HeldOutPath(folds, memory, effort.max_iter)
        losses = search_path(path.loss, alphas.tolist())
        paths[center] = path.solutions
        candidates += [Candidate(center, a, loss) for a, loss in losses.items()]

    def solutions(at: Candidate) -> list[tuple[Tensor, Tensor]]:
        return [
            (
                each.coef if space is None else space[0].coefficients(each.coef),
                each.intercept,
            )
            for each, space in zip(paths[at.center][at.alpha], spaces, strict=True)
        ]

    return candidates, solutions


def best_on_average(
    parts: Sequence[HeldOutNetworks],
    candidates: Sequence[Candidate],
    solutions: Solutions,
    n_folds: int,
) -> Candidate:
    """Select the candidate whose average over all folds is expected to be best.

    A held-out loss measures one fold's model, but the refit averages the models of all
    folds. Averaging helps networks that differ more than refits that agree, so the
    best candidate of each center and the networks themselves are compared by held-out
    loss minus that gain. The gain is the mean loss of the folds' models minus the loss
    of their mean, on all training samples. Most models were trained on these samples,
    so the gain is underestimated.

    On a single held-out part, the networks are what the user already has. They are kept
    unless a refit is clearly better.
    """
    finite = _finite(candidates)
    networks = [each for each in finite if math.isinf(each.alpha)]
    finalists = list(networks)
    for center in dict.fromkeys(each.center for each in finite):
        refits = [e for e in finite if e.center == center and math.isfinite(e.alpha)]
        if refits:
            finalists.append(min(refits, key=lambda each: each.loss))
    best = min(finalists, key=lambda each: each.loss)
    if len(finalists) < 2:
        return best
    if len(parts) < 2:
        if not networks or math.isinf(best.alpha):
            return best
        solution = solutions(best)[0]
        clear = parts[0].is_clearly_better(best.center, solution)
        return best if clear else networks[0]
    return min(
        finalists,
        key=lambda each: each.loss - gain_of_average(parts, each, solutions, n_folds),
    )


def gain_of_average(
    parts: Sequence[HeldOutNetworks],
    candidate: Candidate,
    solutions: Solutions,
    n_folds: int,
) -> float:
    """Mean loss of the folds' models minus that of their mean, on all samples."""
    y, weight = parts[0].samples.y, parts[0].samples.weight
    solved: Sequence[Sequence[Tensor]] = [()] * len(parts)
    if math.isfinite(candidate.alpha):
        solved = solutions(candidate)
    raws = torch.stack(
        [
            part.raw_of(part.samples, candidate.center, solution)
            for part, solution in zip(parts, solved, strict=True)
        ]
    )
    loss = parts[0].loss
    alone = sum(float(weight @ loss.value(y, raw)) for raw in raws) / len(raws)
    together = float(weight @ loss.value(y, raws.mean(0)))
    # Only some folds are solved. The gain of n models is proportional to 1 - 1 / n.
    ratio = (1 - 1 / n_folds) / (1 - 1 / len(raws))
    return ratio * (alone - together) / float(weight.sum())


def heldout_raw(
    parts: Sequence[HeldOutNetworks],
    center: str,
    solved: Sequence[tuple[Tensor, Tensor]],
) -> Tensor:
    """Held-out raw outputs of all samples; nan for those that no part holds out."""
    raw = torch.full_like(parts[0].samples.y, torch.nan)
    for number, part in enumerate(parts):
        solution = solved[number] if solved else ()
        raw[part.test] = part.raw_of(part.heldout, center, solution)
    return raw


def fold_average(
    parts: Sequence[HeldOutNetworks],
    center: str,
    solved: Sequence[tuple[Tensor, Tensor]],
) -> Tensor:
    """Mean of the folds' models, one coefficient per parameter of all networks."""
    each = [
        part.space.parameters(*solution, add_mean=center == "average")
        for part, solution in zip(parts, solved, strict=True)
    ]
    return torch.cat(each) / len(parts)


def side_by_side(
    solved: Sequence[tuple[Tensor, Tensor]], n_folds: int, n_coef: int
) -> tuple[Tensor, Tensor]:
    """Mean of the folds' models, as a warm start for the problem on all bases.

    Concatenating n bases divides their scales by the square root of n. Only the first
    folds may be solved; the coefficients of the other bases are zero.
    """
    start = solved[0][0].new_zeros(n_coef)
    coef = torch.cat([coef for coef, _ in solved])
    start[: len(coef)] = coef * (n_folds**0.5 / len(solved))
    return start, torch.stack([intercept for _, intercept in solved]).mean(0)


def choose(
    trained: TrainedNetworks,
    problems: dict[str, ConvexProblem],
    request: RefitRequest,
    effort: Effort,
    convex_parts: Callable[[], Parts],
) -> Choice:
    """Choose center and alpha, on held-out samples if there are any.

    `problems` has the problem on all samples for each center.
    """
    alpha, fixed = request.alpha, is_number(request.alpha)
    center, problem = next(iter(problems.items()))
    # Held-out samples are missing, or not wanted by the rule for alpha.
    on_training_samples = not trained.has_heldout or request.alpha_rule != "auto"
    path = None
    if trained.loss.quadratic and not (fixed and alpha == 0):
        # Leverages and the choice of alpha on training samples need a decomposition.
        if request.distribution or (on_training_samples and not fixed):
            path = spectral_path(problem, request.solver, effort.max_memory)
    # A distribution needs the errors of the folds, even if nothing is chosen.
    needs_folds = len(problems) > 1 or request.distribution
    if fixed and not (needs_folds and trained.has_heldout):
        only = Candidate(center, float(alpha), math.nan)
        choice = Choice(only.center, only.alpha, [only])
    elif on_training_samples:
        choice = _on_training_samples(
            trained, problems, request, effort, convex_parts, path
        )
    else:
        n_coef = problem.operator.n_coef
        choice = _on_heldout(trained, tuple(problems), alpha, effort, n_coef)
    if path is None:
        return choice
    problem, total_weight = problems[choice.center], trained.samples.total
    path = path.with_offset(problem.offset)
    choice = replace(choice, path=path)
    if choice.raw is not None or not 0 < choice.alpha < math.inf:
        return choice
    if not can_leave_out(problem, total_weight):
        return choice
    # There are no held-out outputs of all samples.
    left_out = by_leave_one_out(problem, path, np.array([choice.alpha]), total_weight)
    return replace(choice, raw=left_out.raw)


def _on_heldout(
    trained: TrainedNetworks,
    centers: Sequence[str],
    alpha: Any,
    effort: Effort,
    n_coef: int,
) -> Choice:
    """Choose center and alpha on samples that the networks were not trained on.

    `n_coef` is the number of coefficients of the problem on the bases of all folds.
    """
    quadratic, folds = trained.loss.quadratic, trained.folds
    parts = trained.heldout()
    # Alpha is relative to a mean loss. To keep the ratio of the penalty and the sum of
    # losses, it is multiplied by the fraction of samples in a training part.
    fraction = 1.0
    if folds is not None:
        left_out = sum(part.heldout_weight for part in parts) / len(parts)
        fraction -= left_out / trained.samples.total
    if is_number(alpha):
        # This cancels the multiplication by `fraction` below, so the user's alpha is
        # kept.
        alphas = np.array([float(alpha) / fraction])
    else:
        alphas = candidates(alpha, quadratic)
    with_average = "average" in centers and isinstance(alpha, str)
    scored, solutions = by_heldout_networks(
        parts, centers, alphas, effort, with_average
    )
    best = best_on_average(parts, scored, solutions, len(folds or parts))
    solved = [] if math.isinf(best.alpha) else solutions(best)
    scaled = [replace(each, alpha=each.alpha * fraction) for each in scored]
    choice = Choice(best.center, best.alpha * fraction, scaled)
    if folds is None:
        return choice
    oof_raw = heldout_raw(parts, best.center, solved)
    complete = None if bool(oof_raw.isnan().any()) else oof_raw
    choice = replace(choice, raw=complete, oof_raw=oof_raw)
    if quadratic and len(parts) > 1 and best.loss > 0:
        gain = gain_of_average(parts, best, solutions, len(folds)) / best.loss
        choice = replace(choice, gain=min(max(gain, 0.0), MOST_GAIN))
    if not solved:
        return choice
    if quadratic and not is_number(alpha) and len(parts) == len(folds):
        average = fold_average(parts, best.center, solved)
        choice = replace(choice, parameters=average)
    return replace(choice, start=side_by_side(solved, len(folds), n_coef))


def _on_training_samples(
    trained: TrainedNetworks,
    problems: dict[str, ConvexProblem],
    request: RefitRequest,
    effort: Effort,
    convex_parts: Callable[[], Parts],
    path: RidgePath | None,
) -> Choice:
    """Choose center and alpha on the samples that the networks were trained on.

    The features were trained on the labels, so the losses are optimistic. If the
    networks were trained elsewhere, the average of the networks is a candidate, too,
    with its training loss. This does not apply if the user gave candidates or the rule
    is "evidence".
    """
    rule, alphas = request.alpha_rule, candidates(request.alpha, trained.loss.quadratic)
    choices = {
        center: choose_alpha(
            problem,
            rule,
            alphas,
            trained.samples.total,
            effort,
            lambda problem: convex_folds(problem, convex_parts()),
            None if path is None else path.with_offset(problem.offset),
        )
        for center, problem in problems.items()
    }
    scored = [
        Candidate(center, float(alpha), float(loss))
        for center, choice in choices.items()
        for alpha, loss in zip(choice.alphas, choice.scores, strict=True)
    ]
    compares = trained.is_prefit and rule != "evidence" and request.alpha is rule
    if compares and "average" in problems:
        problem = problems["average"]
        assert problem.offset is not None
        loss = float(problem.data_value(problem.offset))
        scored.append(Candidate("average", math.inf, loss))
    best = min(_finite(scored), key=lambda each: each.loss)
    # The networks have no left-out outputs: use their training outputs instead.
    average = problems[best.center].offset
    raw = choices[best.center].raw if math.isfinite(best.alpha) else average
    return Choice(best.center, best.alpha, scored, raw)


def _finite(scored: Sequence[Candidate]) -> list[Candidate]:
    """Candidates of finite loss, at least one."""
    finite = [each for each in scored if math.isfinite(each.loss)]
    if not finite:
        raise ValueError(
            "The loss must be finite on held-out samples for some alpha, but it "
            "overflows for all. Scale the inputs and targets."
        )
    return finite
