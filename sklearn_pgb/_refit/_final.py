"""The last solutions of a refit of several groups, on the bases of all folds."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from torch import Tensor

from sklearn_pgb._budget import (
    LANDMARKS,
    MANY_SAMPLES,
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

# Duals of landmarks, an intercept and whether the solution converged.
Solved = tuple[Tensor, Tensor, bool]


@dataclass(frozen=True, eq=False)
class GroupData:
    """Data and limits that all problems of a refit of several groups share.

    Attributes
    ----------
    y : Tensor (n_samples, n_outputs)
    weight : Tensor (n_samples,)
    loss : Loss
    order : Tensor (n_samples,) of int
        A random order, in which samples are taken.
    max_memory : float
    """

    y: Tensor
    weight: Tensor
    loss: Loss
    order: Tensor
    max_memory: float


@dataclass(frozen=True, eq=False)
class FinalProblem:
    """The convex problem on the bases of some folds side by side.

    Attributes
    ----------
    folds : sequence of FoldModels
    center : Tensor (n_samples, n_outputs)
        Raw outputs that the penalty of centered mixtures pulls towards.
    rows : Tensor of int
        Samples of the problem, as positions in the data.
    y : Tensor (n_rows, n_outputs)
    weight : Tensor (n_rows,)
    loss : Loss
    landmarks : Tensor of int
        Those of `rows` whose kernels span the solutions: all or some of them.
    fraction : float
        Part of the total weight that alpha was chosen with: the penalty keeps its
        weight relative to the sum of the losses.
    """

    folds: Sequence[FoldModels]
    center: Tensor
    rows: Tensor
    y: Tensor
    weight: Tensor
    loss: Loss
    landmarks: Tensor
    fraction: float

    @classmethod
    def of(
        cls,
        folds: Sequence[FoldModels],
        center: Tensor,
        data: GroupData,
        chosen_with: float,
        rows: Tensor,
        flops: float,
    ) -> Self:
        """Take as many of the samples `rows` as are affordable, in a random order.

        `chosen_with` is the weight of the samples that alpha was chosen with, `flops`
        the limit of a solution.
        """
        k, n_groups = folds[0].n_kernels, len(folds[0].raw)
        loss, limits = data.loss, (data.max_memory, flops)
        size = final_size(len(rows), k, n_groups, loss, *limits)
        rows, landmarks = (first_in_order(data.order, rows, count) for count in size)
        own = data.weight[rows]
        fraction = chosen_with / float(own.sum())
        return cls(folds, center, rows, data.y[rows], own, loss, landmarks, fraction)

    @property
    def flops(self) -> float:
        """Flops of the factorizations of one solution."""
        k = self.folds[0].n_kernels
        return solve_flops(len(self.rows), len(self.landmarks), k, self.loss)

    def solve(
        self, mixtures: Sequence[tuple[float, Mixture]]
    ) -> tuple[list[list[Tensor]], Tensor, bool]:
        """Weighted sums of the mixtures' solutions, and whether all converged.

        These are coefficients for each fold and group, and an intercept.
        """
        y = self.y
        total = [
            [torch.zeros(1, each.n_coef, dtype=y.dtype) for each in fold.operators]
            for fold in self.folds
        ]
        intercept = torch.zeros(y.shape[1], dtype=y.dtype)
        if not mixtures:
            return total, intercept, True
        # Kernels that no mixture uses are not computed.
        weights = np.array([mixture.weights for _, mixture in mixtures])
        used = np.flatnonzero(weights.any(0)).tolist()
        folds = [fold.only(used) for fold in self.folds]
        kept = [
            replace(m, weights=tuple(m.weights[g] for g in used)) for _, m in mixtures
        ]
        if len(self.landmarks) == len(y):
            solved = self._by_samples(folds, kept)
        elif self.loss.quadratic:
            solved = self._in_one_pass(folds, kept)
        else:
            solved = self._by_landmarks(folds, kept)
        converged = True
        for (mixture_weight, _), mixture, (dual, shift, success) in zip(
            mixtures, kept, solved, strict=True
        ):
            converged &= success
            intercept += mixture_weight * shift
            scale = mixture_weight / len(folds)
            for f, fold in enumerate(folds):
                # Side by side, each fold's kernel counts one over the number of folds.
                coefs = fold.coefficients(self.landmarks, dual, mixture.weights)
                for group, coef in zip(used, coefs, strict=True):
                    total[f][group] = total[f][group] + scale * coef
        return total, intercept, converged

    def _arguments(
        self, rows: Tensor, mixture: Mixture
    ) -> tuple[Tensor, Loss, Tensor, float, Tensor]:
        """Arguments of a kernel problem; `rows` are positions in the problem."""
        offset = self.center[self.rows[rows]]
        return (
            self.y[rows],
            self.loss,
            self.weight[rows] / self.weight.sum(),
            mixture.alpha * self.fraction,
            offset if mixture.centered else torch.zeros_like(offset),
        )

    def _by_samples(
        self, folds: Sequence[FoldModels], mixtures: Sequence[Mixture]
    ) -> Iterable[Solved]:
        """Solutions with one dual for each sample."""
        kernels = side_by_side(folds, self.rows)
        everything = torch.arange(len(self.rows))
        solution: KernelSolution | None = None
        for mixture in mixtures:
            arguments = self._arguments(everything, mixture)
            problem = DualProblem(mixed(kernels, mixture.weights), *arguments)
            solution = solve_kernels(
                problem, tol=SOLUTION_TOL, max_iter=100, start=solution
            )
            yield solution.coef, solution.intercept, solution.converged

    def _by_landmarks(
        self, folds: Sequence[FoldModels], mixtures: Sequence[Mixture]
    ) -> Iterable[Solved]:
        """Solutions among functions spanned by the kernels of landmarks."""
        cross = side_by_side(folds, self.rows, self.landmarks)
        own = side_by_side(folds, self.landmarks)
        everything = torch.arange(len(self.rows))
        for mixture in mixtures:
            features, factor = landmark_features(
                mixed(cross, mixture.weights), mixed(own, mixture.weights)
            )
            problem = FeatureProblem(features, *self._arguments(everything, mixture))
            # The features of landmarks have other coordinates for each mixture, so
            # there is no warm start.
            solution = solve_kernels(problem, tol=SOLUTION_TOL, max_iter=100)
            dual = landmark_dual(factor, solution.coef)
            yield dual, solution.intercept, solution.converged

    def _in_one_pass(
        self, folds: Sequence[FoldModels], mixtures: Sequence[Mixture]
    ) -> Iterable[Solved]:
        """The same for the squared loss, from sums over blocks of samples."""
        own = side_by_side(folds, self.landmarks)
        sums = [NormalSums.of(mixed(own, mixture.weights)) for mixture in mixtures]
        for rows in torch.arange(len(self.rows)).split(SAMPLE_BLOCK):
            cross = side_by_side(folds, self.rows[rows], self.landmarks)
            for mixture, each in zip(mixtures, sums, strict=True):
                y, _, weight, _, offset = self._arguments(rows, mixture)
                each.add(mixed(cross, mixture.weights), y - offset, weight)
        for mixture, each in zip(mixtures, sums, strict=True):
            yield *each.solution(mixture.alpha * self.fraction), True


def solve_final(
    problems: Sequence[FinalProblem], mixtures: Sequence[tuple[float, Mixture]]
) -> tuple[list[list[Tensor]], Tensor, bool]:
    """Mean of the solutions of some problems, with the coefficients of all folds.

    The last result says whether all solutions converged.
    """
    solved = [problem.solve(mixtures) for problem in problems]
    count = len(problems)
    coefficients = [
        [coef / count for coef in fold] for coefs, _, _ in solved for fold in coefs
    ]
    zero = torch.zeros_like(solved[0][1])
    intercept = sum((constant / count for _, constant, _ in solved), zero)
    return coefficients, intercept, all(success for _, _, success in solved)


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
    if n_samples > MANY_SAMPLES:
        # More landmarks for fewer samples are better than a few for all.
        size = min(LANDMARKS, (entries / 2) ** 0.5)
        affordable = min(entries / size, largest / solve_flops(1, int(size), k, loss))
        n_final = int(max(3, min(n_samples, affordable)))
    by_flops = (largest / solve_flops(n_final, 1, k, loss)) ** 0.5
    return n_final, int(max(2, min(n_final - 1, by_flops, entries / n_final)))


def first_in_order(order: Tensor, rows: Tensor, count: int) -> Tensor:
    """At most `count` of the samples `rows`, chosen by a random order, then sorted."""
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order))
    return rows[rank[rows].argsort()[:count]].sort().values


def solve_flops(n_samples: int, n_landmarks: int, k: int, loss: Loss) -> float:
    """Flops of the factorizations of one solution."""
    steps = 1 if loss.quadratic else NEWTON_SOLVES
    if n_landmarks == n_samples:
        # Outputs that are coupled share one factorization.
        return steps * (1 if loss.dual_rows_sum_to_zero else k) * n_samples**3 / 3
    return steps * k * 2.0 * n_samples * n_landmarks**2
