"""The last solutions of a refit of several groups, on the bases of all folds."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from sklearn_pgb._budget import (
    CHOICE_ROWS,
    LANDMARKS,
    NEWTON_SOLVES,
    SAMPLE_BLOCK,
    SOLUTION_TOL,
)
from sklearn_pgb._convex._kernels import (
    DualProblem,
    FeatureProblem,
    KernelSolution,
    landmark_dual,
    landmark_features,
    solve_kernels,
)
from sklearn_pgb._convex._normal_sums import NormalSums
from sklearn_pgb._losses._loss import Loss
from sklearn_pgb._refit._fold_models import FoldModels, side_by_side
from sklearn_pgb._refit._mixture import Mixture, mixed


@dataclass(frozen=True, eq=False)
class Part:
    """Samples `rows` of the data with their targets and weights, and the loss."""

    rows: Tensor
    y: Tensor
    weight: Tensor
    loss: Loss


def solve_final(
    folds: Sequence[FoldModels],
    averages: Sequence[Tensor],
    part: Part,
    mixtures: Sequence[tuple[float, Mixture]],
    fraction: float,
    landmarks: Tensor,
) -> tuple[list[list[Tensor]], Tensor, bool]:
    """Weighted sums of the mixtures' solutions on a part of the samples, or on all.

    `fraction` is the part of the total weight that alpha was chosen with: the penalty
    keeps its weight relative to the sum of the losses. The last result says whether
    all solutions converged.
    """
    y = part.y
    total = [
        [torch.zeros(1, operator.n_coef, dtype=y.dtype) for operator in fold.operators]
        for fold in folds
    ]
    intercept = torch.zeros(y.shape[1], dtype=y.dtype)
    if not mixtures:
        return total, intercept, True
    center = torch.stack(list(averages)).mean(0)
    # Kernels that no mixture uses are not computed.
    weights = np.array([mixture.weights for _, mixture in mixtures])
    used = np.flatnonzero(weights.any(0)).tolist()
    folds = [fold.only(used) for fold in folds]
    mixtures = [
        (share, replace(m, weights=tuple(m.weights[g] for g in used)))
        for share, m in mixtures
    ]
    solved: Iterable[Solved]
    if len(landmarks) == len(y):
        solved = _by_samples(folds, center, part, mixtures, fraction, landmarks)
    elif part.loss.quadratic:
        solved = _in_one_pass(folds, center, part, mixtures, fraction, landmarks)
    else:
        solved = _by_landmarks(folds, center, part, mixtures, fraction, landmarks)
    converged = True
    for (share, mixture), (dual, shift, success) in zip(mixtures, solved, strict=True):
        converged &= success
        intercept += share * shift
        scale = share / len(folds)
        for f, fold in enumerate(folds):
            # Side by side, each fold's kernel counts one over the number of folds.
            coefs = fold.coefficients(landmarks, dual, mixture.weights)
            for group, coef in zip(used, coefs, strict=True):
                total[f][group] = total[f][group] + scale * coef
    return total, intercept, converged


# Duals of landmarks, an intercept and whether the solution converged.
Solved = tuple[Tensor, Tensor, bool]


def _problem_parts(
    part: Part, rows: Tensor, center: Tensor, mixture: Mixture, fraction: float
) -> tuple[Tensor, Loss, Tensor, float, Tensor]:
    """Arguments of a kernel problem; `rows` are positions in the part."""
    offset = center[part.rows[rows]]
    return (
        part.y[rows],
        part.loss,
        part.weight[rows] / part.weight.sum(),
        mixture.alpha * fraction,
        offset if mixture.centered else torch.zeros_like(offset),
    )


def _by_samples(
    folds: Sequence[FoldModels],
    center: Tensor,
    part: Part,
    mixtures: Sequence[tuple[float, Mixture]],
    fraction: float,
    order: Tensor,
) -> Iterable[Solved]:
    """Solutions with one dual for each sample, in the given order."""
    kernels = side_by_side(folds, None, order)
    place = torch.empty(len(center), dtype=torch.long)
    place[part.rows] = torch.arange(len(part.rows))
    solution: KernelSolution | None = None
    for _, mixture in mixtures:
        arguments = _problem_parts(part, place[order], center, mixture, fraction)
        problem = DualProblem(mixed(kernels, mixture.weights), *arguments)
        solution = solve_kernels(
            problem, tol=SOLUTION_TOL, max_iter=100, start=solution
        )
        yield solution.coef, solution.intercept, solution.converged


def _by_landmarks(
    folds: Sequence[FoldModels],
    center: Tensor,
    part: Part,
    mixtures: Sequence[tuple[float, Mixture]],
    fraction: float,
    landmarks: Tensor,
) -> Iterable[Solved]:
    """Solutions among functions spanned by the kernels of landmarks."""
    cross = side_by_side(folds, part.rows, landmarks)
    own = side_by_side(folds, None, landmarks)
    everything = torch.arange(len(part.rows))
    for _, mixture in mixtures:
        features, factor = landmark_features(
            mixed(cross, mixture.weights), mixed(own, mixture.weights)
        )
        arguments = _problem_parts(part, everything, center, mixture, fraction)
        problem = FeatureProblem(features, *arguments)
        # The features of landmarks have other coordinates for each mixture, so there
        # is no warm start.
        solution = solve_kernels(problem, tol=SOLUTION_TOL, max_iter=100)
        dual = landmark_dual(factor, solution.coef)
        yield dual, solution.intercept, solution.converged


def _in_one_pass(
    folds: Sequence[FoldModels],
    center: Tensor,
    part: Part,
    mixtures: Sequence[tuple[float, Mixture]],
    fraction: float,
    landmarks: Tensor,
) -> list[Solved]:
    """The same for the squared loss, from sums over blocks of samples."""
    own = side_by_side(folds, None, landmarks)
    sums = [NormalSums.of(mixed(own, mixture.weights)) for _, mixture in mixtures]
    for rows in torch.arange(len(part.rows)).split(SAMPLE_BLOCK):
        cross = side_by_side(folds, part.rows[rows], landmarks)
        for (_, mixture), each in zip(mixtures, sums, strict=True):
            y, _, weight, _, offset = _problem_parts(
                part, rows, center, mixture, fraction
            )
            each.add(mixed(cross, mixture.weights), y - offset, weight)
    return [
        (*each.solution(mixture.alpha * fraction), True)
        for (_, mixture), each in zip(mixtures, sums, strict=True)
    ]


def final_size(
    n_samples: int,
    k: int,
    n_groups: int,
    loss: Loss,
    max_memory: float,
    flops: float,
) -> tuple[int, int]:
    """Numbers of samples and of landmarks of the final solutions.

    All samples are landmarks if a factorization of their kernel is cheap. Otherwise
    some are. Only the squared loss needs no kernels of all samples at once.
    """
    entries = max_memory / (8 * (n_groups + 2) * k)
    largest = flops if loss.quadratic else NEWTON_SOLVES * flops
    is_cheap = solve_flops(n_samples, n_samples, k, loss) <= largest
    if is_cheap and n_samples**2 <= entries:
        return n_samples, n_samples
    by_flops = (largest / solve_flops(n_samples, 1, k, loss)) ** 0.5
    if loss.quadratic:
        most = min(max(by_flops, LANDMARKS), entries**0.5)
        return n_samples, int(max(2, min(n_samples - 1, most)))
    n_final = n_samples
    if n_samples > CHOICE_ROWS:
        # More landmarks for fewer samples are better than a few for all.
        size = min(LANDMARKS, (entries / 2) ** 0.5)
        affordable = min(entries / size, largest / solve_flops(1, int(size), k, loss))
        n_final = int(max(3, min(n_samples, affordable)))
    by_flops = (largest / solve_flops(n_final, 1, k, loss)) ** 0.5
    return n_final, int(max(2, min(n_final - 1, by_flops, entries / n_final)))


def solve_flops(n_samples: int, n_landmarks: int, k: int, loss: Loss) -> float:
    """Flops of the factorizations of one solution."""
    steps = 1 if loss.quadratic else NEWTON_SOLVES
    if n_landmarks == n_samples:
        # Outputs that are coupled share one factorization.
        return steps * (1 if loss.dual_rows_sum_to_zero else k) * n_samples**3 / 3
    return steps * k * 2.0 * n_samples * n_landmarks**2
