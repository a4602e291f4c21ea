"""Choose the center of a refit's penalty and its strength alpha."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sklearn_pgb._bases._tangent import TangentSpace, mean_raw
from sklearn_pgb._convex._problem import ConvexProblem, Solution
from sklearn_pgb._convex._ridge import RidgePath
from sklearn_pgb._convex._ridge_grid import RidgeGrid, ridge_grid
from sklearn_pgb._convex._row_space import RowSpace
from sklearn_pgb._convex._select import (
    Fold,
    HeldOut,
    HeldOutPath,
    convex_folds,
    search_path,
)
from sklearn_pgb._convex._solve import choose_method
from sklearn_pgb._estimator import _alpha
from sklearn_pgb._estimator._alpha import AlphaChoice, Effort
from sklearn_pgb._estimator._folds import NoFolds, Parts
from sklearn_pgb._losses._loss import Loss
from sklearn_pgb._models._opened import OpenNetwork
from sklearn_pgb._operators._dense import DenseOperator
from sklearn_pgb._samples import Samples

NOT_FINITE = (
    "The loss must be finite on held-out samples for some alpha, but it overflows for "
    "all. Scale the inputs and targets."
)


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
        Held-out raw outputs: each sample's by a model that was not trained on it.
    parameters : Tensor or None
        Mean of the folds' solutions, one coefficient per parameter of all networks.
    start : (Tensor, Tensor) or None
        Coefficients and intercept close to the solution on all samples.
    """

    center: str
    alpha: float
    candidates: Sequence[Candidate]
    raw: Tensor | None = None
    parameters: Tensor | None = None
    start: tuple[Tensor, Tensor] | None = None


@dataclass(frozen=True, eq=False)
class HeldOutNetworks:
    """Networks with their training samples and held-out samples.

    Selected samples, bases and outputs are recomputed on every call: keeping those of
    all folds would take far more memory than one problem.

    Attributes
    ----------
    opened : sequence of OpenNetwork
    space : TangentSpace
        Scaled on the training samples.
    samples, others : Samples
        Samples from which those of the training, and held-out ones, are selected. Their
        inputs are tuples with one tensor per network.
    train, test : Tensor
        Indices of the training samples and of the held-out samples.
    """

    opened: Sequence[OpenNetwork]
    space: TangentSpace
    samples: Samples
    others: Samples
    train: Tensor
    test: Tensor

    @classmethod
    def of(
        cls,
        opened: Sequence[OpenNetwork],
        samples: Samples,
        others: Samples,
        train: Tensor,
        test: Tensor,
    ) -> "HeldOutNetworks":
        """Scale the bases on the training samples."""
        networks = [network.network for network in opened]
        training = samples.rows(train)
        space = TangentSpace.of(networks, training.X, training.normalized_weight)
        return cls(opened, space, samples, others, train, test)

    @property
    def training(self) -> Samples:
        """The training samples."""
        return self.samples.rows(self.train)

    @property
    def heldout(self) -> Samples:
        """The held-out samples."""
        return self.others.rows(self.test)

    @property
    def loss(self) -> Loss:
        """The loss that the networks were trained with."""
        return self.opened[0].loss

    @property
    def heldout_weight(self) -> float:
        """Total weight of the held-out samples."""
        return float(self.others.weight[self.test].sum())

    def raw(self, samples: Samples) -> Tensor:
        """Mean raw outputs of the networks."""
        return mean_raw(self.space.networks, samples.X)

    def fold(self, center: str) -> Fold:
        """Problem on the training samples, and its held-out samples."""
        training, heldout = self.training, self.heldout
        added = center == "average"
        problem = ConvexProblem(
            self.space.operator(training.X),
            training.y,
            self.loss,
            training.normalized_weight,
            intercept=self.space.intercept,
            offset=self.raw(training) if added else None,
        )
        held = HeldOut(
            self.test,
            self.space.operator(heldout.X),
            heldout.y,
            heldout.weight,
            self.raw(heldout) if added else None,
        )
        return Fold(problem, held)

    def heldout_loss(self) -> float:
        """Weighted sum of the networks' losses on the held-out samples."""
        heldout = self.heldout
        return float(heldout.weight @ self.loss.value(heldout.y, self.raw(heldout)))

    def raw_of(
        self, samples: Samples, at: Candidate, solution: Sequence[Tensor]
    ) -> Tensor:
        """Raw outputs of a solution, or of the networks alone if it is empty."""
        raw = torch.zeros_like(samples.y)
        if solution:
            coef, intercept = solution
            operator = self.space.operator(samples.X)
            raw = operator.matvec(coef) + intercept
        return raw + self.raw(samples) if at.center == "average" else raw

    def parameters(self, center: str, coef: Tensor, intercept: Tensor) -> Tensor:
        """A solution as one coefficient per network parameter."""
        is_average = center == "average" and self.space.spans_networks
        return self.space.parameters(coef, intercept, centre=is_average)


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

    Parameters
    ----------
    parts : sequence of HeldOutNetworks
        One per fold, or a single one with validation samples.
    centers : sequence of str
    alphas : ndarray (n_alphas,), descending
    effort : Effort
    with_average : bool
        Whether the networks themselves are a candidate.

    Returns
    -------
    candidates : list of Candidate
    solutions : callable
        Maps a candidate to the coefficients and intercept of each part.
    """
    evaluate = _squared if parts[0].loss.quadratic else _general
    candidates, solutions = evaluate(parts, centers, alphas, effort)
    if with_average:
        total = sum(part.heldout_weight for part in parts)
        loss = sum(part.heldout_loss() for part in parts) / total
        candidates.append(Candidate("average", math.inf, loss))
    if not any(math.isfinite(each.loss) for each in candidates):
        raise ValueError(NOT_FINITE)
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
            fold.held.operator,
            [raw if center == "average" else None for center in centers],
            torch.as_tensor(alphas.copy()).to(fold.problem.y),
            dual=method == "dual",
        )
        errors = (fold.held.y - heldout).square().sum(-1)
        losses += (errors @ fold.held.weight).cpu().numpy() / total
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
    spaces = [_row_space(part.fold("zero"), memory) for part in parts]
    paths: dict[str, dict[float, list[Solution]]] = {}
    candidates: list[Candidate] = []
    for center in centers:
        folds = [
            _reduced(part.fold(center), space)
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


def _row_space(fold: Fold, max_memory: float) -> tuple[RowSpace, DenseOperator] | None:
    """Row space of the basis and held-out features in it, if dual methods pay."""
    if choose_method(fold.problem.with_alpha(1.0), max_memory) != "dual":
        return None
    space = RowSpace.of(fold.problem.operator)
    return space, space.features_of(fold.held.operator)


def _reduced(fold: Fold, space: tuple[RowSpace, DenseOperator] | None) -> Fold:
    """Express a fold in coordinates of the row space of its basis."""
    if space is None:
        return fold
    return Fold(
        replace(fold.problem, operator=space[0].features),
        replace(fold.held, operator=space[1]),
    )


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
    """
    finite = [each for each in candidates if math.isfinite(each.loss)]
    networks = [each for each in finite if math.isinf(each.alpha)]
    finalists = list(networks)
    for center in dict.fromkeys(each.center for each in finite):
        own = [e for e in finite if e.center == center and math.isfinite(e.alpha)]
        finalists += [min(own, key=lambda each: each.loss)] if own else []
    if len(parts) < 2 or len(finalists) < 2:
        return min(finalists, key=lambda each: each.loss)
    y, weight = parts[0].samples.y, parts[0].samples.weight

    def gain(candidate: Candidate) -> float:
        solved: Sequence[Sequence[Tensor]] = [()] * len(parts)
        if math.isfinite(candidate.alpha):
            solved = solutions(candidate)
        raws = torch.stack(
            [
                part.raw_of(part.samples, candidate, solution)
                for part, solution in zip(parts, solved, strict=True)
            ]
        )
        loss = parts[0].loss
        alone = sum(float(weight @ loss.value(y, raw)) for raw in raws) / len(raws)
        together = float(weight @ loss.value(y, raws.mean(0)))
        # Only some folds are solved. The gain of n models is proportional to 1 - 1 / n.
        ratio = (1 - 1 / n_folds) / (1 - 1 / len(raws))
        return ratio * (alone - together) / float(weight.sum())

    return min(finalists, key=lambda each: each.loss - gain(each))


def all_heldout_raw(
    parts: Sequence[HeldOutNetworks],
    best: Candidate,
    solved: Sequence[tuple[Tensor, Tensor]],
    y: Tensor,
) -> Tensor | None:
    """Held-out raw outputs of all samples; None unless every sample was held out."""
    raw = torch.full_like(y, torch.nan)
    for number, part in enumerate(parts):
        solution = solved[number] if solved else ()
        raw[part.test] = part.raw_of(part.heldout, best, solution)
    return None if bool(raw.isnan().any()) else raw


def fold_average(
    parts: Sequence[HeldOutNetworks],
    center: str,
    solved: Sequence[tuple[Tensor, Tensor]],
) -> Tensor:
    """Mean of the folds' models, one coefficient per parameter of all networks."""
    each = [
        part.parameters(center, *solution)
        for part, solution in zip(parts, solved, strict=True)
    ]
    return torch.cat(each) / len(parts)


def side_by_side(
    solved: Sequence[tuple[Tensor, Tensor]], n_folds: int
) -> tuple[Tensor, Tensor]:
    """Mean of the folds' models, as a warm start for the problem on all bases.

    Concatenating `n_folds` bases divides their scales by the square root of `n_folds`.
    """
    coef = torch.cat([coef for coef, _ in solved]) * n_folds**-0.5
    return coef, torch.stack([intercept for _, intercept in solved]).mean(0)


def _without_closed_form(
    problem: ConvexProblem,
    rule: str,
    alphas: NDArray[np.float64],
    total_weight: float,
    effort: Effort,
    convex_parts: Callable[[], Parts],
) -> AlphaChoice:
    """Choose alpha by approximate leave-one-out or convex cross-validation."""
    can_step = not problem.loss.quadratic and _alpha.is_dense(problem)
    if not (rule == "loo" and can_step):
        try:
            folds = convex_folds(problem, convex_parts())
        except NoFolds:
            if not can_step:
                raise
        else:
            return _alpha.by_held_out(folds, problem, alphas, effort)[0]
    return _alpha.by_approximate_leave_one_out(problem, alphas, total_weight, effort)


def choose_on_training_samples(
    problems: dict[str, ConvexProblem],
    path: RidgePath | None,
    rule: str,
    alphas: NDArray[np.float64],
    total_weight: float,
    effort: Effort,
    convex_parts: Callable[[], Parts],
    with_average: bool,
) -> Choice:
    """Choose center and alpha on the samples that the networks were trained on.

    If there is an eigendecomposition (`path`), leave-one-out or the evidence are
    computed in closed form. Otherwise, rule "loo" takes one Newton step per sample if
    the loss is not quadratic and the problem dense. In all other cases the convex
    problem is cross-validated if folds can be drawn. The features were trained on the
    labels, so the losses are optimistic. `with_average` adds the networks themselves
    as a candidate, at their training loss.
    """
    choices: dict[str, AlphaChoice] = {}
    for center, problem in problems.items():
        own = None if path is None else path.with_offset(problem.offset)
        if own is not None and rule == "evidence":
            choice = _alpha.by_evidence(own, alphas, total_weight)
        elif own is not None:
            choice = _alpha.by_leave_one_out(problem, own, alphas, total_weight)
        else:
            choice = _without_closed_form(
                problem, rule, alphas, total_weight, effort, convex_parts
            )
        choices[center] = choice
    candidates = [
        Candidate(center, float(alpha), float(loss))
        for center, choice in choices.items()
        for alpha, loss in zip(choice.alphas, choice.scores, strict=True)
    ]
    if with_average and "average" in problems:
        problem = problems["average"]
        assert problem.offset is not None
        loss = float(problem.data_value(problem.offset))
        candidates.append(Candidate("average", math.inf, loss))
    finite = [each for each in candidates if math.isfinite(each.loss)]
    if not finite:
        raise ValueError(NOT_FINITE)
    best = min(finite, key=lambda each: each.loss)
    # The networks have no left-out outputs: use their training outputs instead.
    average = problems[best.center].offset
    raw = choices[best.center].raw if math.isfinite(best.alpha) else average
    return Choice(best.center, best.alpha, candidates, raw)
