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
    SAMPLE_BLOCK,
    SOLVE_FLOPS,
    SOLVE_FLOPS_OF_MANY,
    STACKED_MIXTURES,
)
from sklearn_pgb._convex._kernels import KernelSolution
from sklearn_pgb._losses._loss import Loss
from sklearn_pgb._operators._outputs import apply_sets
from sklearn_pgb._refit._final import Part, final_size, solve_final, solve_flops
from sklearn_pgb._refit._fold_models import FoldModels
from sklearn_pgb._refit._mixture import KernelFold, Mixture, MixtureSearch
from sklearn_pgb._refit._stacking import fit_stacking_weights


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
    mixture_weights : ndarray (1 + n_mixtures,)
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
    mixture_weights: NDArray[np.float64]
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
    exchange: bool = False,
) -> GroupRefit:
    """Fit the convex model on the bases of all folds and groups.

    The weights of the groups, alpha and the center are chosen on a few thousand
    samples at most, each held out from the models and the solution of its fold. The
    problems of the best mixtures are then solved with all samples and the bases of all
    folds side by side, and their solutions averaged. If the kernels are too large,
    functions are spanned by the kernels of a random part of the samples (Nystroem's
    method).

    With `exchange`, the models of a fold have seen neither its training nor its held-
    out samples. Both parts then change places, and the final problem of each fold has
    these samples alone: derivatives of models are less useful on samples that the
    models were trained on.

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
    exchange : bool, default=False
        Whether the parts of each fold change places.
    """
    bases = folds
    if exchange:
        folds = [half for fold in folds for half in fold.halves()]
    seen = torch.cat([fold.heldout for fold in folds]).unique()
    members = torch.zeros(len(folds[0].raw), *y.shape, dtype=y.dtype)
    for fold in folds:
        members[:, fold.heldout] = torch.stack(fold.raw)[:, fold.heldout]
    stack, shift = fit_stacking_weights(members[:, seen], y[seen], weight[seen], loss)
    averages = [fold.average(stack) + shift for fold in folds]
    order = torch.from_numpy(np.random.RandomState(seed).permutation(len(y)))
    k = folds[0].n_kernels
    # Parts that change places have the same size, and so have their kernels.
    n_kernels = len(folds) * (2 if exchange else 1)
    n_train = _choice_rows(k, n_kernels, len(stack), loss, max_memory)
    # Per fold: if a user's splitter holds out few samples, all of them are used.
    n_heldout = n_train if exchange else max(1, n_train // max(len(folds) - 1, 1))
    parts = [_first(order, fold.train, n_train) for fold in folds]
    kernel_folds = [
        _kernel_fold(
            fold, average, part, _first(order, fold.heldout, n_heldout), y, weight
        )
        for fold, average, part in zip(folds, averages, parts, strict=True)
    ]
    # Exchanged folds are only needed for the best mixtures.
    step = 2 if exchange else 1
    searches = [MixtureSearch(kernel_folds[i::step], loss) for i in range(step)]
    search = searches[0]
    # Without an exchange, the bases of all folds are in one problem.
    problems = [[base] for base in bases] if exchange else [bases]
    rows = [torch.cat([f.train, f.heldout]) for f in bases] if exchange else [order]
    flops = SOLVE_FLOPS_OF_MANY / len(rows) if exchange else SOLVE_FLOPS
    data = [
        _final_part(part, order, y, weight, loss, k, len(stack), max_memory, flops)
        for part in rows
    ]
    cost = sum(solve_flops(len(part.rows), len(m), k, loss) for part, m in data)
    affordable = max(1, int(FINAL_FLOPS / cost))
    mixtures = search.run(len(stack))[: min(STACKED_MIXTURES, affordable)]
    solved = {mixture: _in_each_fold(searches, mixture) for mixture in mixtures}
    candidates = _candidates(folds, averages, parts, solved)
    mixture_weights, offset = fit_stacking_weights(
        candidates[:, seen], y[seen], weight[seen], loss
    )
    raw = torch.stack(averages).mean(0)
    raw[seen] = torch.tensordot(mixture_weights, candidates[:, seen], 1) + offset
    used = [
        (float(s), m)
        for s, m in zip(mixture_weights[1:], mixtures, strict=True)
        if s > 0
    ]
    chosen_with = float(weight[torch.cat(parts)].sum()) / len(parts)
    coefficients, intercept, converged = _solve_problems(
        problems, data, used, chosen_with, stack, shift
    )
    centered = float(mixture_weights[0]) + sum(s for s, m in used if m.centered)
    own = []
    if keep_folds:
        terms = [
            _fold_terms(fold, part, [(s, m, solved[m][number]) for s, m in used])
            for number, (fold, part) in enumerate(zip(folds, parts, strict=True))
        ]
        if exchange:
            terms = [_mean(*pair) for pair in zip(terms[::2], terms[1::2], strict=True)]
        constant = centered * shift + offset
        own = [replace(each, intercept=each.intercept + constant) for each in terms]
    return GroupRefit(
        stack,
        shift,
        [mixture for _, mixture in used],
        np.array([float(mixture_weights[0]), *(s for s, _ in used)]),
        search,
        coefficients,
        intercept + centered * shift + offset,
        centered,
        raw,
        converged,
        own,
        _spread(bases, own, centered * stack, weight),
    )


def _in_each_fold(
    searches: Sequence[MixtureSearch], mixture: Mixture
) -> list[KernelSolution]:
    """Solutions in the folds that the searches take in turn."""
    for search in searches:
        search.evaluate(mixture)
    columns = zip(*(each.solutions[mixture] for each in searches), strict=True)
    return [solution for column in columns for solution in column]


def _solve_problems(
    problems: Sequence[Sequence[FoldModels]],
    data: Sequence[tuple[Part, Tensor]],
    mixtures: Sequence[tuple[float, Mixture]],
    chosen_with: float,
    stack: Tensor,
    shift: Tensor,
) -> tuple[list[list[Tensor]], Tensor, bool]:
    """Mean of the solutions of the final problems, with coefficients of all folds."""
    coefficients: list[list[Tensor]] = []
    intercept, converged = torch.zeros_like(shift), True
    for problem, (part, landmarks) in zip(problems, data, strict=True):
        coefs, constant, success = solve_final(
            problem,
            [fold.average(stack) + shift for fold in problem],
            part,
            mixtures,
            chosen_with / float(part.weight.sum()),
            landmarks,
        )
        coefficients += [[coef / len(problems) for coef in fold] for fold in coefs]
        intercept += constant / len(problems)
        converged &= success
    return coefficients, intercept, converged


def _final_part(
    rows: Tensor,
    order: Tensor,
    y: Tensor,
    weight: Tensor,
    loss: Loss,
    n_kernels: int,
    n_groups: int,
    max_memory: float,
    flops: float,
) -> tuple[Part, Tensor]:
    """Samples of a final problem, among the samples `rows`, and its landmarks."""
    n_final, size = final_size(len(rows), n_kernels, n_groups, loss, max_memory, flops)
    chosen = _first(order, rows, n_final)
    landmarks = chosen if size == n_final else _first(order, rows, size)
    return Part(chosen, y[chosen], weight[chosen], loss), landmarks


def _spread(
    folds: Sequence[FoldModels],
    terms: Sequence[FoldTerms],
    stack: Tensor,
    weight: Tensor,
) -> Tensor:
    """Mean variance of the folds' raw outputs, see `GroupRefit`."""
    if not terms:
        return torch.zeros(folds[0].raw[0].shape[1], dtype=weight.dtype)
    raws = [fold.average(stack) for fold in folds]
    # Models of large data are not evaluated on all samples.
    rows = torch.stack(raws).isfinite().all(2).all(0).nonzero()[:, 0]
    outputs = [
        sum(
            (
                apply_sets(each.rows(rows), c)
                for each, c in zip(fold.operators, own.coefficients, strict=True)
            ),
            own.intercept + raw[rows],
        )
        for fold, own, raw in zip(folds, terms, raws, strict=True)
    ]
    weight = weight[rows]
    return weight @ torch.stack(outputs).var(0, correction=0) / weight.sum()


def _fold_terms(
    fold: FoldModels,
    part: Tensor,
    solutions: Sequence[tuple[float, Mixture, KernelSolution]],
) -> FoldTerms:
    """Weighted sum of the mixtures' solutions on the training samples of a fold."""
    coefs = [torch.zeros(1, each.n_coef).double() for each in fold.operators]
    intercept = torch.zeros(fold.raw[0].shape[1], dtype=torch.float64)
    for mixture_weight, mixture, solution in solutions:
        terms = fold.coefficients(part, solution.coef, mixture.weights)
        coefs = [c + mixture_weight * t for c, t in zip(coefs, terms, strict=True)]
        intercept += mixture_weight * solution.intercept
    return FoldTerms(coefs, intercept)


def _mean(first: FoldTerms, second: FoldTerms) -> FoldTerms:
    """The mean of two convex models on the same bases."""
    pairs = zip(first.coefficients, second.coefficients, strict=True)
    coefs = [(one + other) / 2 for one, other in pairs]
    return FoldTerms(coefs, (first.intercept + second.intercept) / 2)


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


def _candidates(
    folds: Sequence[FoldModels],
    averages: Sequence[Tensor],
    parts: Sequence[Tensor],
    solved: dict[Mixture, list[KernelSolution]],
) -> Tensor:
    """Held-out raw outputs of the stacked average, the first one, and the mixtures."""
    result = torch.zeros(1 + len(solved), *averages[0].shape, dtype=torch.float64)
    for number, (fold, average, part) in enumerate(
        zip(folds, averages, parts, strict=True)
    ):
        heldout = fold.heldout
        result[0, heldout] = average[heldout]
        solutions = [(mixture, each[number]) for mixture, each in solved.items()]
        result[1:, heldout] = _predicted(fold, average, part, solutions)
    return result


def _predicted(
    fold: FoldModels,
    average: Tensor,
    train: Tensor,
    solutions: Sequence[tuple[Mixture, KernelSolution]],
) -> Tensor:
    """Raw outputs of a fold's solutions, for its held-out samples."""
    coefs = [fold.coefficients(train, s.coef, m.weights) for m, s in solutions]
    result = torch.zeros(len(solutions), len(fold.heldout), average.shape[1]).double()
    # In blocks, so that derivatives of many samples are computed once.
    for block in torch.arange(len(fold.heldout)).split(SAMPLE_BLOCK):
        rows = fold.heldout[block]
        for group, operator in enumerate(fold.operators):
            used = [n for n, (m, _) in enumerate(solutions) if m.weights[group]]
            if used:
                part = operator.rows(rows)
                for n in used:
                    result[n, block] += apply_sets(part, coefs[n][group])
        for n, (mixture, solution) in enumerate(solutions):
            result[n, block] += solution.intercept
            if mixture.centered:
                result[n, block] += average[rows]
    return result
