"""Refit several models together: one convex problem on all of their bases."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sklearn_pgb._budget import (
    CHOICE_FLOPS,
    FINAL_FLOPS,
    KERNEL_ENTRIES,
    STACKED_MIXTURES,
)
from sklearn_pgb._convex._kernels import KernelSolution
from sklearn_pgb._losses._loss import Loss
from sklearn_pgb._operators._outputs import apply_sets
from sklearn_pgb._refit._final import Part, final_size, solve_final, solve_flops
from sklearn_pgb._refit._fold_models import FoldModels
from sklearn_pgb._refit._mixture import KernelFold, Mixture, MixtureSearch
from sklearn_pgb._refit._stacking import stacked


@dataclass(frozen=True, eq=False)
class FoldTerms:
    """The convex model of one fold, fitted to its training samples alone.

    Its raw outputs are the stacked average of the fold's models, times `centered` of
    `GroupRefit`, their derivatives times `coefficients`, and `intercept`.

    Attributes
    ----------
    coefficients : list of Tensor (n_sets, n_params)
        For each group.
    intercept : Tensor (n_outputs,)
    """

    coefficients: list[Tensor]
    intercept: Tensor


@dataclass(frozen=True, eq=False)
class GroupRefit:
    """Result of a refit of several groups.

    Attributes
    ----------
    stack : Tensor (n_groups,)
        Weights of the groups' raw outputs in the stacked average.
    shift : Tensor (n_outputs,)
        Added to the stacked average.
    mixtures : list of Mixture
        The mixtures with positive weights.
    shares : ndarray (1 + n_mixtures,)
        Weights of the stacked average itself and of the mixtures.
    search : MixtureSearch
    coefficients : list of list of Tensor
        For each fold and group, coefficients of the model's parameters.
    intercept : Tensor (n_outputs,)
    centered : float
        Weight of the stacked average, as a center and on its own.
    heldout_raw : Tensor (n_samples, n_outputs)
        Raw outputs for every sample by models that have not seen it.
    converged : bool
        Whether the mixtures were solved to the tolerance.
    folds : list of FoldTerms
        Models of the folds, if they were asked for.
    spread : Tensor (n_outputs,)
        Mean variance of the raw outputs of these models over the folds, by which the
        squared error of their mean is smaller than theirs; else zero.
    """

    stack: Tensor
    shift: Tensor
    mixtures: list[Mixture]
    shares: NDArray[np.float64]
    search: MixtureSearch
    coefficients: list[list[Tensor]]
    intercept: Tensor
    centered: float
    heldout_raw: Tensor
    converged: bool
    folds: list[FoldTerms]
    spread: Tensor


def refit_groups(
    folds: Sequence[FoldModels],
    y: Tensor,
    weight: Tensor,
    loss: Loss,
    *,
    max_memory: float,
    seed: int,
    keep_folds: bool = False,
) -> GroupRefit:
    """Fit the convex model on the bases of all folds and groups.

    The weights of the groups, alpha and the center are chosen on a few thousand
    samples at most, each held out from the models and the solution of its fold. The
    problems of the best mixtures are then solved with all samples and the bases of all
    folds side by side, and their solutions averaged. If the kernels are too large,
    functions are spanned by the kernels of a random part of the samples (Nystroem's
    method).

    Parameters
    ----------
    folds : sequence of FoldModels
    y : Tensor (n_samples, n_outputs)
        Encoded targets.
    weight : Tensor (n_samples,)
        Positive sample weights, not normalized.
    loss : Loss
    max_memory : float
        Bytes for the kernels.
    seed : int
        Seed of the choice of samples.
    keep_folds : bool, default=False
        Whether to return the models of the folds too.
    """
    seen = torch.cat([fold.heldout for fold in folds]).unique()
    members = torch.zeros(len(folds[0].raw), *y.shape, dtype=y.dtype)
    for fold in folds:
        members[:, fold.heldout] = torch.stack(fold.raw)[:, fold.heldout]
    stack, shift = stacked(members[:, seen], y[seen], weight[seen], loss)
    averages = [fold.average(stack) + shift for fold in folds]
    order = torch.from_numpy(np.random.RandomState(seed).permutation(len(y)))
    k = folds[0].n_kernels
    n_train = _choice_rows(k, len(folds), len(stack), loss, max_memory)
    # Per fold: if a user's splitter holds out few samples, all of them are used.
    n_heldout = max(1, n_train // max(len(folds) - 1, 1))
    parts = [_first(order, fold.train, n_train) for fold in folds]
    kernel_folds = [
        _kernel_fold(
            fold, average, part, _first(order, fold.heldout, n_heldout), y, weight
        )
        for fold, average, part in zip(folds, averages, parts, strict=True)
    ]
    search = MixtureSearch(kernel_folds, loss)
    n_final, size = final_size(len(y), k, len(stack), loss, max_memory)
    affordable = max(1, int(FINAL_FLOPS / solve_flops(n_final, size, k, loss)))
    mixtures = search.run(len(stack))[: min(STACKED_MIXTURES, affordable)]
    # The stacked average is the first candidate.
    candidates = torch.zeros(1 + len(mixtures), *y.shape, dtype=y.dtype)
    for number, (fold, average, part) in enumerate(
        zip(folds, averages, parts, strict=True)
    ):
        rows = fold.heldout
        candidates[0, rows] = average[rows]
        for place, mixture in enumerate(mixtures, 1):
            solution = search.solutions[mixture][number]
            raw = _predicted(fold, average, part, rows, mixture, solution)
            candidates[place, rows] = raw
    shares, offset = stacked(candidates[:, seen], y[seen], weight[seen], loss)
    heldout = torch.stack(averages).mean(0)
    heldout[seen] = torch.tensordot(shares, candidates[:, seen], 1) + offset
    used = [(float(s), m) for s, m in zip(shares[1:], mixtures, strict=True) if s > 0]
    rows = torch.arange(len(y)) if n_final == len(y) else order[:n_final]
    chosen_with = float(weight[torch.cat(parts)].sum()) / len(parts)
    coefficients, intercept, converged = solve_final(
        folds,
        averages,
        Part(rows, y[rows], weight[rows], loss),
        used,
        chosen_with / float(weight[rows].sum()),
        order[:size],
    )
    centered = float(shares[0]) + sum(share for share, m in used if m.centered)
    own = []
    for number, (fold, part) in enumerate(zip(folds, parts, strict=True)):
        if keep_folds:
            terms = _fold_terms(fold, part, used, search, number)
            own.append(
                replace(terms, intercept=terms.intercept + centered * shift + offset)
            )
    return GroupRefit(
        stack,
        shift,
        [mixture for _, mixture in used],
        np.array([float(shares[0]), *(share for share, _ in used)]),
        search,
        coefficients,
        intercept + centered * shift + offset,
        centered,
        heldout,
        converged,
        own,
        _spread(folds, own, centered * stack, weight),
    )


def _spread(
    folds: Sequence[FoldModels],
    terms: Sequence[FoldTerms],
    stack: Tensor,
    weight: Tensor,
) -> Tensor:
    """Mean variance of the folds' raw outputs, see `GroupRefit`."""
    if not terms:
        return torch.zeros(folds[0].raw[0].shape[1], dtype=weight.dtype)
    outputs = [
        sum(map(apply_sets, fold.operators, own.coefficients), own.intercept)
        + fold.average(stack)
        for fold, own in zip(folds, terms, strict=True)
    ]
    return weight @ torch.stack(outputs).var(0, correction=0) / weight.sum()


def _fold_terms(
    fold: FoldModels,
    part: Tensor,
    used: Sequence[tuple[float, Mixture]],
    search: MixtureSearch,
    number: int,
) -> FoldTerms:
    """Weighted sum of the mixtures' solutions on the training samples of a fold."""
    coefs = [torch.zeros(1, each.n_coef).double() for each in fold.operators]
    intercept = torch.zeros(fold.raw[0].shape[1], dtype=torch.float64)
    for share, mixture in used:
        solution = search.solutions[mixture][number]
        terms = fold.coefficients(part, solution.coef, mixture.weights)
        coefs = [c + share * t for c, t in zip(coefs, terms, strict=True)]
        intercept += share * solution.intercept
    return FoldTerms(coefs, intercept)


def _choice_rows(
    k: int, n_folds: int, n_groups: int, loss: Loss, max_memory: float
) -> int:
    """Largest number of training samples of a fold that the mixture is chosen on."""
    entries = min(KERNEL_ENTRIES, max_memory / (8 * (n_groups + 2))) / n_folds
    by_flops = (CHOICE_FLOPS / n_folds / solve_flops(1, 1, k, loss)) ** (1 / 3)
    return int(min(by_flops, max(8, (entries / k) ** 0.5)))


def _first(order: Tensor, rows: Tensor, count: int) -> Tensor:
    """At most `count` of the samples `rows`, chosen by a random order, then sorted."""
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order))
    return rows[rank[rows].argsort()[:count]].sort().values


def _kernel_fold(
    fold: FoldModels,
    average: Tensor,
    train: Tensor,
    heldout: Tensor,
    y: Tensor,
    weight: Tensor,
) -> KernelFold:
    return KernelFold(
        fold.kernels(train),
        fold.kernels(heldout, train),
        y[train],
        y[heldout],
        weight[train],
        weight[heldout],
        average[train],
        average[heldout],
    )


def _predicted(
    fold: FoldModels,
    average: Tensor,
    train: Tensor,
    rows: Tensor,
    mixture: Mixture,
    solution: KernelSolution,
) -> Tensor:
    """Raw outputs of a fold's solution, for the samples in `rows`."""
    coefs = fold.coefficients(train, solution.coef, mixture.weights)
    operators = [operator.rows(rows) for operator in fold.operators]
    total = torch.stack(list(map(apply_sets, operators, coefs))).sum(0)
    total += solution.intercept
    return total + average[rows] if mixture.centered else total
