"""Refit several models together: one convex problem on all of their bases."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sklearn_pgb._budget import (
    CHOICE_FLOPS,
    FINAL_FLOPS,
    KERNEL_ENTRIES,
    SOLVE_FLOPS,
    SOLVE_FLOPS_OF_MANY,
    STACKED_MIXTURES,
)
from sklearn_pgb._convex._kernels import KernelSolution
from sklearn_pgb._losses._loss import Loss
from sklearn_pgb._refit._final import (
    FinalProblem,
    GroupData,
    first_in_order,
    solve_final,
    solve_flops,
)
from sklearn_pgb._refit._fold_models import FoldModels, FoldTerms
from sklearn_pgb._refit._mixture import Mixture, MixtureSearch
from sklearn_pgb._refit._stacking import fit_stacking_weights
from sklearn_pgb._threads import threads_for, threads_for_solve


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
        The models that predict `heldout_raw`, if they were asked for: one for each
        fold, with an exchange one for each part of a fold.
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


@dataclass(frozen=True, eq=False)
class MixtureChoice:
    """Folds with the samples on which mixtures are chosen.

    Attributes
    ----------
    folds : list of FoldModels
        With an exchange, each is followed by the same models with exchanged parts.
    averages : list of Tensor (n_samples, n_outputs)
        Raw outputs of the stacked average of each fold.
    parts : list of Tensor of int
        Training samples of each fold.
    searches : list of MixtureSearch
        They take the folds in turn. Exchanged folds are only needed for the best
        mixtures, which the first search finds.
    """

    folds: Sequence[FoldModels]
    averages: Sequence[Tensor]
    parts: list[Tensor]
    searches: list[MixtureSearch]

    @classmethod
    def of(
        cls,
        folds: Sequence[FoldModels],
        averages: Sequence[Tensor],
        data: GroupData,
        exchange: bool,
    ) -> Self:
        """Select as many samples as are affordable, and compute their kernels."""
        n_searches = 2 if exchange else 1
        y, weight, loss = data.y, data.weight, data.loss
        k, n_groups = folds[0].n_kernels, len(folds[0].raw)
        # Parts that change places have the same size, and so have their kernels.
        n_kernels = n_searches * len(folds)
        entries = min(KERNEL_ENTRIES, data.max_memory / (8 * (n_groups + 2)))
        entries /= n_kernels
        by_flops = (CHOICE_FLOPS / n_kernels / solve_flops(1, 1, k, loss)) ** (1 / 3)
        n_train = int(min(by_flops, max(8, (entries / k) ** 0.5)))
        # Per fold: if a user's splitter holds out few samples, all of them are used.
        n_heldout = n_train if exchange else max(1, n_train // max(len(folds) - 1, 1))
        parts, kernel_folds = [], []
        for fold, average in zip(folds, averages, strict=True):
            train = first_in_order(data.order, fold.train, n_train)
            heldout = first_in_order(data.order, fold.heldout, n_heldout)
            parts.append(train)
            kernel_folds.append(fold.kernel_fold(average, train, heldout, y, weight))
        searches = [
            MixtureSearch(kernel_folds[i::n_searches], loss) for i in range(n_searches)
        ]
        return cls(folds, averages, parts, searches)

    def solutions(self, mixture: Mixture) -> list[KernelSolution]:
        """Solution of a mixture in each fold."""
        for search in self.searches:
            search.evaluate(mixture)
        columns = zip(*(each.solutions[mixture] for each in self.searches), strict=True)
        return [solution for column in columns for solution in column]

    def candidates(self, mixtures: Sequence[Mixture]) -> Tensor:
        """Held-out raw outputs of the stacked average, and of the mixtures."""
        solved = [self.solutions(mixture) for mixture in mixtures]
        shape = 1 + len(mixtures), *self.averages[0].shape
        result = torch.zeros(shape, dtype=torch.float64)
        folds = zip(self.folds, self.averages, self.parts, strict=True)
        for number, (fold, average, part) in enumerate(folds):
            heldout = fold.heldout
            result[0, heldout] = average[heldout]
            solutions = [
                (m, each[number]) for m, each in zip(mixtures, solved, strict=True)
            ]
            result[1:, heldout] = fold.heldout_raw(average, part, solutions)
        return result

    def terms(self, mixtures: Sequence[tuple[float, Mixture]]) -> list[FoldTerms]:
        """Convex models of the folds by weighted mixtures.

        With an exchange, there is one for each part of a fold.
        """
        solved = [(s, m, self.solutions(m)) for s, m in mixtures]
        return [
            fold.terms(part, [(s, m, each[number]) for s, m, each in solved])
            for number, (fold, part) in enumerate(
                zip(self.folds, self.parts, strict=True)
            )
        ]


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
        Whether to return the models that predict held-out samples too.
    exchange : bool, default=False
        Whether the parts of each fold change places.
    """
    bases = folds
    if exchange:
        folds = [half for fold in folds for half in fold.halves()]
    scored = torch.cat([fold.heldout for fold in folds]).unique()
    of_scored = y[scored], weight[scored], loss
    members = torch.zeros(len(folds[0].raw), *y.shape, dtype=y.dtype)
    for fold in folds:
        members[:, fold.heldout] = torch.stack(fold.raw)[:, fold.heldout]
    order = torch.from_numpy(np.random.RandomState(seed).permutation(len(y)))
    data = GroupData(y, weight, loss, order, max_memory)
    # The choice takes thousands of operations of a few milliseconds.
    with threads_for(0):
        stack, shift = fit_stacking_weights(members[:, scored], *of_scored)
        averages = [fold.average(stack) + shift for fold in folds]
        choice = MixtureChoice.of(folds, averages, data, exchange)
        finals = _final_problems(bases, choice, stack, shift, data, exchange)
        affordable = max(1, int(FINAL_FLOPS / sum(each.flops for each in finals)))
        search = choice.searches[0]
        mixtures = search.run(len(stack))[: min(STACKED_MIXTURES, affordable)]
        candidates = choice.candidates(mixtures)[:, scored]
        mixture_weights, offset = fit_stacking_weights(candidates, *of_scored)
    raw = torch.stack(averages).mean(0)
    raw[scored] = torch.tensordot(mixture_weights, candidates, 1) + offset
    pairs = zip(mixture_weights[1:].tolist(), mixtures, strict=True)
    used = [(s, m) for s, m in pairs if s > 0]
    with threads_for_solve(len(finals[0].rows), len(finals[0].landmarks)):
        coefficients, intercept, converged = solve_final(finals, used)
    centered = float(mixture_weights[0]) + sum(s for s, m in used if m.centered)
    constant = centered * shift + offset
    terms = []
    if keep_folds:
        terms = choice.terms(used)
        terms = [replace(each, intercept=each.intercept + constant) for each in terms]
    return GroupRefit(
        stack=stack,
        shift=shift,
        mixtures=[mixture for _, mixture in used],
        mixture_weights=np.array([float(mixture_weights[0]), *(s for s, _ in used)]),
        search=search,
        coefficients=coefficients,
        intercept=intercept + constant,
        centered=centered,
        heldout_raw=raw,
        converged=converged,
        folds=terms,
    )


def _final_problems(
    folds: Sequence[FoldModels],
    choice: MixtureChoice,
    stack: Tensor,
    shift: Tensor,
    data: GroupData,
    exchange: bool,
) -> list[FinalProblem]:
    """One problem with the bases of all folds or, with an exchange, one for each."""
    problems, flops = [(folds, data.order)], SOLVE_FLOPS
    if exchange:
        problems = [([fold], torch.cat([fold.train, fold.heldout])) for fold in folds]
        flops = SOLVE_FLOPS_OF_MANY / len(problems)
    chosen_with = float(data.weight[torch.cat(choice.parts)].sum()) / len(choice.folds)
    finals = []
    for of_problem, rows in problems:
        centers = torch.stack([each.average(stack) + shift for each in of_problem])
        finals.append(
            FinalProblem.of(of_problem, centers.mean(0), data, chosen_with, rows, flops)
        )
    return finals
