"""Refit several models together: one convex problem on all of their bases."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sklearn_pgb._budget import (
    CHOICE_FLOPS,
    CHOICE_ROWS,
    FINAL_FLOPS,
    KERNEL_ENTRIES,
    LANDMARKS,
    NEWTON_SOLVES,
    SAMPLE_BLOCK,
    SOLUTION_TOL,
    SOLVE_FLOPS,
    STACKED_MIXTURES,
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
from sklearn_pgb._models._opened import OpenNetwork
from sklearn_pgb._operators._blocked import BlockedOperator
from sklearn_pgb._operators._operator import LinearOperator
from sklearn_pgb._operators._outputs import (
    apply_sets,
    separates_outputs,
    shares_features,
    single_output,
)
from sklearn_pgb._refit._mixture import KernelFold, Mixture, MixtureSearch, mixed
from sklearn_pgb._refit._stacking import stacked
from sklearn_pgb._sklearn import _safe_indexing


@dataclass(frozen=True, eq=False)
class FoldModels:
    """The models of one fold, one per group, and its samples.

    Attributes
    ----------
    raw : list of Tensor (n_samples, n_outputs)
        Raw outputs of each model.
    operators : list of LinearOperator
        Partial derivatives of each model on all samples, without output biases. Those
        of many samples are not kept.
    sizes : list of float
        Mean squared row norm of each operator on the training samples.
    train, heldout : Tensor of int
    """

    raw: list[Tensor]
    operators: list[LinearOperator]
    sizes: list[float]
    train: Tensor
    heldout: Tensor

    @classmethod
    def of(
        cls,
        opened: Sequence[OpenNetwork],
        X: object,
        weight: Tensor,
        train: Tensor,
        heldout: Tensor,
    ) -> "FoldModels":
        """Evaluate the models of a fold on all samples."""
        raw, operators, sizes = [], [], []
        n_samples = len(weight)
        for each in opened:
            if n_samples > CHOICE_ROWS:
                outputs, operator = _in_blocks(each, X, n_samples)
            else:
                rows = each.inputs(X, check=False)
                outputs, operator = _evaluated(each, rows, _bias(each, rows))
            raw.append(outputs)
            operators.append(operator)
            norms = operator.row_norms()[train].mean(1)
            size = float(weight[train] @ norms / weight[train].sum())
            # A constant model has no derivatives.
            sizes.append(size if size > 0 else 1.0)
        return cls(raw, operators, sizes, train, heldout)

    def average(self, stack: Tensor) -> Tensor:
        """Sum of the models' raw outputs, times the weights of the stack."""
        return torch.einsum("g,gik->ik", stack, torch.stack(self.raw))

    def kernels(self, rows: Tensor, columns: Tensor | None = None) -> list[Tensor]:
        """Kernels of the groups between samples, each of mean diagonal one.

        Of shape (n_kernels, n_rows, n_columns), with one kernel for all outputs if they
        share the features, else one for each.
        """
        result = []
        for operator, size in zip(self.operators, self.sizes, strict=True):
            left = operator.rows(rows)
            right = left if columns is None else operator.rows(columns)
            count = 1 if shares_features(left) else operator.n_outputs
            blocks = []
            for c in range(count):
                a = single_output(left, c)
                b = a if columns is None else single_output(right, c)
                blocks.append(a.gram() if columns is None else a.cross_gram(b))
            # A single matrix is not copied.
            kernel = blocks[0][None] if count == 1 else torch.stack(blocks)
            result.append(kernel.div_(size))
        return result

    def coefficients(
        self, rows: Tensor, dual: Tensor, weights: Sequence[float]
    ) -> list[Tensor]:
        """Coefficients of each model's parameters, from duals of samples.

        Of shape (n_sets, n_params): one set of coefficients if every parameter belongs
        to one output, else one per output.
        """
        result = []
        for operator, size, weight in zip(
            self.operators, self.sizes, weights, strict=True
        ):
            part, k = operator.rows(rows), dual.shape[1]
            if separates_outputs(part):
                coef = part.rmatvec(dual)[None]
            else:
                own = torch.eye(k, dtype=torch.bool, device=dual.device)
                coef = torch.stack([part.rmatvec(dual * mask) for mask in own])
            result.append(coef * (weight / size))
        return result


def _bias(opened: OpenNetwork, rows: Tensor) -> slice | None:
    return opened.network.find_head(rows[:8]).bias


def _evaluated(
    opened: OpenNetwork, rows: Tensor, bias: slice | None
) -> tuple[Tensor, LinearOperator]:
    """Raw outputs and partial derivatives of a model for its inputs."""
    model = opened.network
    return model(model.theta, rows), model.jacobian(rows, without=bias)


def _in_blocks(
    opened: OpenNetwork, X: object, n_samples: int
) -> tuple[Tensor, LinearOperator]:
    """The same for many samples, whose derivatives are computed when they are used."""

    def inputs(rows: slice | Tensor) -> Tensor:
        index = rows.numpy() if isinstance(rows, Tensor) else rows
        return opened.inputs(_safe_indexing(X, index), check=False)

    def create(rows: slice | Tensor) -> LinearOperator:
        return opened.network.jacobian(inputs(rows), without=bias)

    bias = _bias(opened, inputs(slice(0, 8)))
    operator = BlockedOperator(create, n_samples)
    theta = opened.network.theta
    blocks = range(0, n_samples, SAMPLE_BLOCK)
    raw = [
        opened.network(theta, inputs(slice(start, start + SAMPLE_BLOCK)))
        for start in blocks
    ]
    return torch.cat(raw), operator


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


def refit_groups(
    folds: Sequence[FoldModels],
    y: Tensor,
    weight: Tensor,
    loss: Loss,
    *,
    max_memory: float,
    seed: int,
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
    """
    seen = torch.cat([fold.heldout for fold in folds]).unique()
    members = torch.zeros(len(folds[0].raw), *y.shape, dtype=y.dtype)
    for fold in folds:
        members[:, fold.heldout] = torch.stack(fold.raw)[:, fold.heldout]
    stack, shift = stacked(members[:, seen], y[seen], weight[seen], loss)
    averages = [fold.average(stack) + shift for fold in folds]
    order = torch.from_numpy(np.random.RandomState(seed).permutation(len(y)))
    k = y.shape[1]
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
    n_final, size = _n_final(len(y), k, len(stack), loss, max_memory)
    affordable = max(1, int(FINAL_FLOPS / _solve_flops(n_final, size, k, loss)))
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
    coefficients, intercept, converged = _final(
        folds,
        averages,
        Part(rows, y[rows], weight[rows], loss),
        used,
        chosen_with / float(weight[rows].sum()),
        order[:size],
    )
    centered = float(shares[0]) + sum(share for share, m in used if m.centered)
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
    )


def _choice_rows(
    k: int, n_folds: int, n_groups: int, loss: Loss, max_memory: float
) -> int:
    """Largest number of training samples of a fold that the mixture is chosen on."""
    entries = min(KERNEL_ENTRIES, max_memory / (8 * (n_groups + 2))) / n_folds
    by_flops = (CHOICE_FLOPS / n_folds / _solve_flops(1, 1, k, loss)) ** (1 / 3)
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


@dataclass(frozen=True, eq=False)
class Part:
    """Samples `rows` of the data with their targets and weights, and the loss."""

    rows: Tensor
    y: Tensor
    weight: Tensor
    loss: Loss


def _final(
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
    center = torch.stack(list(averages)).mean(0)
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
            total[f] = [t + scale * c for t, c in zip(total[f], coefs, strict=True)]
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
    kernels = _side_by_side(folds, None, order)
    # The part has all samples in their own order.
    solution: KernelSolution | None = None
    for _, mixture in mixtures:
        arguments = _problem_parts(part, order, center, mixture, fraction)
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
    cross = _side_by_side(folds, part.rows, landmarks)
    own = _side_by_side(folds, None, landmarks)
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
    own = _side_by_side(folds, None, landmarks)
    sums = [NormalSums.of(mixed(own, mixture.weights)) for _, mixture in mixtures]
    for rows in torch.arange(len(part.rows)).split(SAMPLE_BLOCK):
        cross = _side_by_side(folds, part.rows[rows], landmarks)
        for (_, mixture), each in zip(mixtures, sums, strict=True):
            y, _, weight, _, offset = _problem_parts(
                part, rows, center, mixture, fraction
            )
            each.add(mixed(cross, mixture.weights), y - offset, weight)
    return [
        (*each.solution(mixture.alpha * fraction), True)
        for (_, mixture), each in zip(mixtures, sums, strict=True)
    ]


def _n_final(
    n_samples: int, k: int, n_groups: int, loss: Loss, max_memory: float
) -> tuple[int, int]:
    """Numbers of samples and of landmarks of the final solutions.

    All samples are landmarks if a factorization of their kernel is cheap. Otherwise
    some are. Only the squared loss needs no kernels of all samples at once.
    """
    entries = max_memory / (8 * (n_groups + 2) * k)
    largest = SOLVE_FLOPS if loss.quadratic else NEWTON_SOLVES * SOLVE_FLOPS
    is_cheap = _solve_flops(n_samples, n_samples, k, loss) <= largest
    if is_cheap and n_samples**2 <= entries:
        return n_samples, n_samples
    by_flops = (largest / _solve_flops(n_samples, 1, k, loss)) ** 0.5
    if loss.quadratic:
        most = min(max(by_flops, LANDMARKS), entries**0.5)
        return n_samples, int(max(2, min(n_samples - 1, most)))
    n_final = n_samples
    if n_samples > CHOICE_ROWS:
        # More landmarks for fewer samples are better than a few for all.
        size = min(LANDMARKS, (entries / 2) ** 0.5)
        affordable = min(entries / size, largest / _solve_flops(1, int(size), k, loss))
        n_final = int(max(3, min(n_samples, affordable)))
    by_flops = (largest / _solve_flops(n_final, 1, k, loss)) ** 0.5
    return n_final, int(max(2, min(n_final - 1, by_flops, entries / n_final)))


def _solve_flops(n_samples: int, n_landmarks: int, k: int, loss: Loss) -> float:
    """Flops of the factorizations of one solution."""
    steps = 1 if loss.quadratic else NEWTON_SOLVES
    if n_landmarks == n_samples:
        # Outputs that are coupled share one factorization.
        return steps * (1 if loss.dual_rows_sum_to_zero else k) * n_samples**3 / 3
    return steps * k * 2.0 * n_samples * n_landmarks**2


def _side_by_side(
    folds: Sequence[FoldModels], rows: Tensor | None, columns: Tensor
) -> list[Tensor]:
    """Kernels of the groups' bases of all folds; between `columns` if rows is None."""

    def of_fold(fold: FoldModels) -> list[Tensor]:
        if rows is None:
            return fold.kernels(columns)
        return fold.kernels(rows, columns)

    total = of_fold(folds[0])
    for fold in folds[1:]:
        for kernel, own in zip(total, of_fold(fold), strict=True):
            kernel += own
    return [kernel.div_(len(folds)) for kernel in total]
