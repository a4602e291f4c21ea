"""Choose center and alpha on samples that the networks were not trained on."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sklearn_pgb._budget import MOST_GAIN
from sklearn_pgb._convex._choice import Effort, candidate_alphas, is_number
from sklearn_pgb._convex._heldout import HeldOutPath
from sklearn_pgb._convex._problem import ConvexProblem, Solution
from sklearn_pgb._convex._ridge_grid import RidgeGrid, ridge_grid
from sklearn_pgb._convex._solve import choose_method, memory_needed, memory_text
from sklearn_pgb._refit._candidate import (
    Candidate,
    Choice,
    best_candidate,
    finite_candidates,
)
from sklearn_pgb._refit._networks import HeldOutNetworks, TrainedNetworks

# Maps a candidate to the coefficients and intercept of each part.
Solutions = Callable[[Candidate], list[tuple[Tensor, Tensor]]]


def choose_on_heldout(
    trained: TrainedNetworks,
    centers: Sequence[str],
    alpha: Any,
    effort: Effort,
    problem: ConvexProblem,
) -> Choice:
    """Choose center and alpha on samples that the networks were not trained on.

    `problem` is the one on all samples and the bases of all folds.
    """
    quadratic, folds = trained.loss.quadratic, trained.folds
    parts = trained.heldout()
    check_fits_memory(problem.with_alpha(1.0), parts, effort.max_memory)
    # Alpha is relative to a mean loss. To keep the ratio of the penalty and the sum of
    # losses, it is multiplied by the fraction of samples in a training part.
    training_weight = sum(part.training_weight for part in parts) / len(parts)
    fraction = training_weight / trained.samples.total
    if is_number(alpha):
        # This cancels the multiplication by `fraction` below, so the user's alpha is
        # kept.
        alphas = np.array([float(alpha) / fraction])
    else:
        alphas = candidate_alphas(alpha, quadratic)
    with_average = "average" in centers and isinstance(alpha, str)
    scored, solutions = score_candidates(parts, centers, alphas, effort, with_average)
    scored = with_gains(parts, scored, solutions, len(folds or parts))
    best = best_on_average(parts, scored, solutions)
    solved = [] if math.isinf(best.alpha) else solutions(best)
    scaled = [replace(each, alpha=each.alpha * fraction) for each in scored]
    choice = Choice(best.center, best.alpha * fraction, scaled)
    if folds is None:
        return choice
    oof_raw = heldout_raw(parts, best.center, solved)
    complete = None if bool(oof_raw.isnan().any()) else oof_raw
    choice = replace(choice, raw=complete, oof_raw=oof_raw)
    if quadratic and len(parts) > 1 and best.loss > 0:
        gain = min(max(best.gain / best.loss, 0.0), MOST_GAIN)
        choice = replace(choice, gain=gain)
    if not solved:
        return choice
    if quadratic and not is_number(alpha) and len(parts) == len(folds):
        average = fold_average(parts, best.center, solved)
        choice = replace(choice, parameters=average)
    return replace(
        choice, start=averaged_start(solved, len(folds), problem.operator.n_coef)
    )


def check_fits_memory(
    problem: ConvexProblem, parts: Sequence[HeldOutNetworks], max_memory: float
) -> None:
    """Raise if the problem on all samples or those of the parts do not fit."""
    needed, largest = memory_needed(problem), max(parts, key=lambda p: len(p.train))
    of_part = memory_needed(largest.fold("zero").problem.with_alpha(1.0))
    for method in of_part:
        # Iterations on all parts are in memory at the same time.
        if method == "matrix-free" or not problem.loss.quadratic:
            of_part[method] *= len(parts)
    least = max(min(each.values()) for each in (needed, of_part))
    if least > max_memory:
        operator = problem.operator
        raise ValueError(
            f"max_memory must be at least {memory_text(least)} for a basis of "
            f"{operator.n_coef} coefficients on {operator.n_rows} rows, whose alpha is "
            f"chosen on {len(parts)} held-out parts, got {memory_text(max_memory)}. "
            "Raise max_memory, or use a smaller network, fewer folds or fewer samples."
        )


def score_candidates(
    parts: Sequence[HeldOutNetworks],
    centers: Sequence[str],
    alphas: NDArray[np.float64],
    effort: Effort,
    with_average: bool,
) -> tuple[list[Candidate], Solutions]:
    """Score every candidate on samples that its networks were not trained on.

    `with_average` makes the networks themselves a candidate. The second result solves
    the parts' problems for one candidate.
    """
    evaluate = _score_squared if parts[0].loss.quadratic else _score_general
    candidates, solutions = evaluate(parts, centers, alphas, effort)
    if with_average:
        total = sum(part.heldout_weight for part in parts)
        loss = sum(part.heldout_loss() for part in parts) / total
        candidates.append(Candidate("average", math.inf, loss))
    return candidates, solutions


def _score_squared(
    parts: Sequence[HeldOutNetworks],
    centers: Sequence[str],
    alphas: NDArray[np.float64],
    effort: Effort,
) -> tuple[list[Candidate], Solutions]:
    """Score for the squared loss, with one decomposition per part."""
    grids: list[RidgeGrid] = []
    losses = np.zeros((len(centers), len(alphas)))
    total = sum(part.heldout_weight for part in parts)
    for part in parts:
        fold = part.fold("zero")
        # The choice of the method only depends on whether alpha is positive.
        method = choose_method(fold.problem.with_alpha(1.0), effort.max_memory)
        if method == "matrix-free":
            return _score_general(parts, centers, alphas, effort)
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


def _score_general(
    parts: Sequence[HeldOutNetworks],
    centers: Sequence[str],
    alphas: NDArray[np.float64],
    effort: Effort,
) -> tuple[list[Candidate], Solutions]:
    """Score for any loss, by Newton's method from large to small alphas."""
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
        losses = path.search(alphas.tolist(), effort.tol)
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


def with_gains(
    parts: Sequence[HeldOutNetworks],
    candidates: Sequence[Candidate],
    solutions: Solutions,
    n_folds: int,
) -> list[Candidate]:
    """Add gains to the best candidate of each center and to the networks themselves.

    A held-out loss measures one fold's model, but the refit averages the models of all
    folds. Averaging helps networks that differ more than refits that agree. The gain is
    the mean loss of the folds' models minus the loss of their mean, on all training
    samples. Most models were trained on these samples, so the gain is underestimated.
    There is none with a single part.
    """
    finite = finite_candidates(candidates)
    finalists = [each for each in finite if math.isinf(each.alpha)]
    for center in dict.fromkeys(each.center for each in finite):
        refits = [e for e in finite if e.center == center and math.isfinite(e.alpha)]
        if refits:
            losses = [each.loss for each in refits]
            finalists.append(best_candidate(refits, losses))
    gains = [0.0] * len(finalists)
    if len(parts) > 1:
        gains = [gain_of_average(parts, e, solutions, n_folds) for e in finalists]
        # Training losses may overflow.
        gains = [gain if math.isfinite(gain) else 0.0 for gain in gains]
    return [
        replace(each, gain=gains[finalists.index(each)]) if each in finalists else each
        for each in candidates
    ]


def best_on_average(
    parts: Sequence[HeldOutNetworks],
    candidates: Sequence[Candidate],
    solutions: Solutions,
) -> Candidate:
    """Select the candidate with the smallest loss minus gain, see `with_gains`.

    On a single held-out part, the networks are what the user already has. They are kept
    unless a refit is clearly better.
    """
    finalists = [each for each in candidates if not math.isnan(each.gain)]
    best = best_candidate(finalists, [each.loss - each.gain for each in finalists])
    networks = [each for each in finalists if math.isinf(each.alpha)]
    if len(parts) < 2 and networks and math.isfinite(best.alpha):
        solution = solutions(best)[0]
        if not parts[0].is_clearly_better(best.center, solution):
            return networks[0]
    return best


def gain_of_average(
    parts: Sequence[HeldOutNetworks],
    candidate: Candidate,
    solutions: Solutions,
    n_folds: int,
) -> float:
    """Return the mean loss of the folds' models minus that of their mean model."""
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


def averaged_start(
    solved: Sequence[tuple[Tensor, Tensor]], n_folds: int, n_coef: int
) -> tuple[Tensor, Tensor]:
    """Return the mean of the folds' models as a start for the problem on all bases.

    Concatenating n bases divides their scales by the square root of n. Only the first
    folds may be solved; the coefficients of the other bases are zero.
    """
    start = solved[0][0].new_zeros(n_coef)
    coef = torch.cat([coef for coef, _ in solved])
    start[: len(coef)] = coef * (n_folds**0.5 / len(solved))
    return start, torch.stack([intercept for _, intercept in solved]).mean(0)
