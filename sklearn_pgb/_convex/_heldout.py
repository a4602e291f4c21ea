"""Held-out losses of a convex problem along a path."""

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sklearn_pgb._budget import (
    ALWAYS_EVALUATED,
    CLEAR_RISE,
    CLOSE_LOSS_RTOL,
    COMPARISON_TOL,
    RISE,
    TIE_RTOL,
)
from sklearn_pgb._convex._problem import ConvexProblem, Solution
from sklearn_pgb._convex._row_space import RowSpace
from sklearn_pgb._convex._solve import PathSolver, choose_method
from sklearn_pgb._operators._dense import DenseOperator
from sklearn_pgb._operators._operator import LinearOperator


class NoFolds(ValueError):
    """No sample can be held out."""


@dataclass(frozen=True)
class HeldOut:
    """Held-out samples of a problem, with their indices among all samples.

    The weights are those of the whole data, not normalized, so that folds add up.
    """

    index: Tensor
    operator: LinearOperator
    y: Tensor
    weight: Tensor
    offset: Tensor | None = None

    def raw(self, solution: Solution) -> Tensor:
        """Raw outputs of a solution on these samples."""
        raw = self.operator.matvec(solution.coef) + solution.intercept
        return raw if self.offset is None else raw + self.offset


@dataclass(frozen=True)
class Fold:
    """A problem on training samples, with its held-out samples.

    The training samples have the part `training_fraction` of the total weight.
    """

    problem: ConvexProblem
    heldout: HeldOut
    training_fraction: float

    def row_space(self, max_memory: float) -> tuple[RowSpace, DenseOperator] | None:
        """Row space of the basis and held-out features in it, if this is cheaper."""
        if choose_method(self.problem.with_alpha(1.0), max_memory) != "dual":
            return None
        space = RowSpace.of(self.problem.operator)
        return space, space.features_of(self.heldout.operator)

    def reduced(self, space: tuple[RowSpace, DenseOperator] | None) -> Self:
        """Express the fold in coordinates of the row space of its basis."""
        if space is None:
            return self
        return replace(
            self,
            problem=replace(self.problem, operator=space[0].features),
            heldout=replace(self.heldout, operator=space[1]),
        )


def convex_folds(
    problem: ConvexProblem,
    parts: Sequence[tuple[NDArray[np.intp], NDArray[np.intp]]],
) -> list[Fold]:
    """Split a convex problem by pairs of training and held-out indices."""
    folds = []
    for train, test in parts:
        index = torch.as_tensor(test, device=problem.y.device)
        heldout = HeldOut(
            index,
            problem.operator.rows(index),
            problem.y[index],
            problem.weight[index],
            None if problem.offset is None else problem.offset[index],
        )
        training = torch.as_tensor(train, device=problem.y.device)
        fraction = float(problem.weight[training].sum())
        folds.append(Fold(problem.rows(training), heldout, fraction))
    return folds


class HeldOutPath:
    """Held-out loss for any alpha, pooled over folds, with warm starts between alphas.

    `solutions` holds the latest ones of the folds, by alpha.
    """

    def __init__(self, folds: Sequence[Fold], max_memory: float, max_iter: int):
        self.folds = folds
        self.max_iter = max_iter
        self.solutions: dict[float, list[Solution]] = {}
        # The method depends on whether alpha is positive, as it is on the whole path.
        self._solvers = [
            PathSolver(fold.problem.with_alpha(1.0), "auto", max_memory)
            for fold in folds
        ]

    def search(self, alphas: Sequence[float], tol: float) -> dict[float, float]:
        """Losses for descending alphas until they keep rising, see `search_path`.

        The path is solved roughly. Then all alphas with a loss within CLOSE_LOSS_RTOL
        of the best are solved to `tol`, so that the best one does not depend on the
        solver.
        """
        losses, sharp = search_path(self.loss, alphas), set[float]()
        while True:
            best = min(losses.values())
            near = [
                alpha
                for alpha, loss in losses.items()
                if alpha not in sharp and loss - best <= CLOSE_LOSS_RTOL * abs(best)
            ]
            if not near:
                return losses
            losses |= {alpha: self.loss(alpha, tol) for alpha in near}
            sharp.update(near)

    def loss(self, alpha: float, tol: float | None = None) -> float:
        """Mean loss on the held-out samples, started from the nearest alpha so far.

        The problems are solved to `tol`, relative to the objective, or roughly if it is
        None. Solutions for the squared loss are certified, as a refit averages them.
        """
        quadratic = self.folds[0].problem.loss.quadratic
        decrease = COMPARISON_TOL
        if tol is not None:
            # The error after a Newton step is of the order of its decrease, squared.
            decrease = tol if quadratic else min(tol**0.5, COMPARISON_TOL)
        # An alpha in units of tiny features may underflow to zero.
        size = math.log(alpha or sys.float_info.min)
        near = min(
            self.solutions,
            key=lambda a: abs(math.log(a or sys.float_info.min) - size),
            default=None,
        )
        starts = [None] * len(self.folds) if near is None else self.solutions[near]
        self.solutions[alpha] = [
            solver.solve(
                alpha,
                None if start is None else (start.coef, start.intercept),
                decrease,
                self.max_iter,
                certified=quadratic and tol is not None,
            )
            for solver, start in zip(self._solvers, starts, strict=True)
        ]
        values = [
            fold.heldout.weight
            @ fold.problem.loss.value(fold.heldout.y, fold.heldout.raw(s))
            for fold, s in zip(self.folds, self.solutions[alpha], strict=True)
        ]
        total = sum(float(fold.heldout.weight.sum()) for fold in self.folds)
        return float(sum(values)) / total


def first_best(losses: Sequence[float] | NDArray[np.float64]) -> int:
    """Return the index of the first loss that equals the smallest up to rounding.

    Candidates come in descending order of alpha, so the largest alpha wins a tie.
    """
    values = np.asarray(losses, dtype=np.float64)
    best = float(np.nanmin(values))
    if not math.isfinite(best):
        return int(np.nanargmin(values))
    return int(np.argmax(values <= best + TIE_RTOL * abs(best)))


def search_path(
    loss: Callable[[float], float], alphas: Sequence[float]
) -> dict[float, float]:
    """Evaluate the loss for descending alphas until it keeps rising.

    After the ALWAYS_EVALUATED largest alphas, the search stops if a loss is CLEAR_RISE
    above the best, or at the second RISE since the best. Small alphas are the most
    expensive ones, and the loss rises once the model fits the noise.
    """
    losses: dict[float, float] = {}
    for step, alpha in enumerate(alphas):
        losses[alpha] = loss(alpha)
        if step + 1 < ALWAYS_EVALUATED:
            continue
        values = list(losses.values())
        best = min(values)
        since = [value - best for value in values[values.index(best) :]]
        rises = sum(rise > RISE * abs(best) for rise in since)
        if rises >= 2 or since[-1] > CLEAR_RISE * abs(best):
            break
    return losses
