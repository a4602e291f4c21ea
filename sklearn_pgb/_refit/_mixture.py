"""Choose the weights of several kernels, alpha and the center on held-out samples."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor

from sklearn_pgb._budget import (
    CLEARLY_WORSE,
    COARSE_STEP,
    FINE_STEP,
    FIRST_WEIGHT,
    LEAST_ALPHA,
    MIXTURE_STEPS,
    MIXTURE_SWEEPS,
    MIXTURE_TOL,
    STRONGEST_ALPHA,
)
from sklearn_pgb._convex._kernels import (
    DualProblem,
    KernelSolution,
    apply_kernels,
    solve_kernels,
)
from sklearn_pgb._losses._loss import Loss


@dataclass(frozen=True)
class Mixture:
    """A convex model on several kernels.

    Attributes
    ----------
    weights : tuple of float
        Weight of each group's kernel; their sum is one.
    alpha : float
    centered : bool
        Whether the penalty pulls towards the stacked average of the models, not zero.
    """

    weights: tuple[float, ...]
    alpha: float
    centered: bool

    @classmethod
    def of(cls, weights: Sequence[float], alpha: float, centered: bool) -> Self:
        """Normalize the weights."""
        total = sum(weights)
        # Rounded, so that equal mixtures are recognized.
        normalized = (float(f"{weight / total:.6g}") for weight in weights)
        return cls(tuple(normalized), float(f"{alpha:.6g}"), centered)

    def neighbors(self) -> Iterator["Mixture"]:
        """Mixtures with the weight of one group changed."""
        for group, weight in enumerate(self.weights):
            changed = [0.0, weight / FINE_STEP, weight * FINE_STEP]
            for new in changed if weight else [FIRST_WEIGHT]:
                weights = list(self.weights)
                weights[group] = new
                if any(weights):
                    yield Mixture.of(weights, self.alpha, self.centered)


@dataclass(frozen=True, eq=False)
class KernelFold:
    """Kernels of the models of one fold, between training and held-out samples.

    Attributes
    ----------
    train, cross : list of Tensor
        For each group, kernels of shape (n_kernels, n_train, n_train) and
        (n_kernels, n_heldout, n_train); n_kernels is one or the number of outputs.
    y, y_heldout : Tensor (n_samples, n_outputs)
    weight, weight_heldout : Tensor (n_samples,)
        Not normalized.
    average, average_heldout : Tensor (n_samples, n_outputs)
        Raw outputs of the stacked average.
    """

    train: list[Tensor]
    cross: list[Tensor]
    y: Tensor
    y_heldout: Tensor
    weight: Tensor
    weight_heldout: Tensor
    average: Tensor
    average_heldout: Tensor

    def problem(self, mixtures: Sequence[Mixture], loss: Loss) -> DualProblem:
        """The convex problem on the training samples.

        That of several mixtures, which only differ in the center, has the outputs of
        their problems side by side.
        """
        zero = torch.zeros_like(self.y)
        offsets = [self.average if each.centered else zero for each in mixtures]
        return DualProblem(
            mixed(self.train, mixtures[0].weights),
            self.y.repeat(1, len(mixtures)),
            loss,
            self.weight / self.weight.sum(),
            mixtures[0].alpha,
            torch.cat(offsets, 1),
        )

    def heldout_raw(
        self, mixtures: Sequence[Mixture], solution: KernelSolution
    ) -> list[Tensor]:
        """Raw outputs of each mixture for the held-out samples."""
        kernels = mixed(self.cross, mixtures[0].weights)
        joint = apply_kernels(kernels, solution.coef) + solution.intercept
        raws = joint.split(self.y.shape[1], 1)
        return [
            raw + self.average_heldout if each.centered else raw
            for each, raw in zip(mixtures, raws, strict=True)
        ]


def mixed(kernels: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Weighted sum of kernels; each has one matrix, or one per output."""
    used = [(w, kernel) for w, kernel in zip(weights, kernels, strict=True) if w > 0]
    total = used[0][0] * used[0][1]
    for weight, kernel in used[1:]:
        total = total.add(kernel, alpha=weight)
    return total


@dataclass(eq=False)
class MixtureSearch:
    """Held-out losses of mixtures, computed when they are first asked for.

    Attributes
    ----------
    folds : list of KernelFold
    loss : Loss
    losses : dict
        Mean held-out loss of each mixture.
    solutions : dict
        Solution of each mixture in each fold.
    """

    folds: Sequence[KernelFold]
    loss: Loss
    losses: dict[Mixture, float] = field(default_factory=dict)
    solutions: dict[Mixture, list[KernelSolution]] = field(default_factory=dict)

    def evaluate(self, mixture: Mixture, near: Mixture | None = None) -> float:
        """Mean held-out loss, starting from the solutions of a similar mixture."""
        if mixture in self.losses:
            return self.losses[mixture]
        mixtures = [mixture]
        kernels = [kernel for fold in self.folds for kernel in fold.train]
        if self.loss.quadratic and all(len(kernel) == 1 for kernel in kernels):
            # One factorization serves all outputs, and so both centers.
            mixtures.append(replace(mixture, centered=not mixture.centered))
        # A quadratic problem is solved in one step from anywhere.
        starts = None
        if near is not None and not self.loss.quadratic:
            starts = self.solutions.get(near)
        total, values = 0.0, [0.0] * len(mixtures)
        for each in mixtures:
            self.solutions[each] = []
        for number, fold in enumerate(self.folds):
            solution = solve_kernels(
                fold.problem(mixtures, self.loss),
                tol=MIXTURE_TOL,
                max_iter=MIXTURE_STEPS,
                start=None if starts is None else starts[number],
            )
            for place, raw in enumerate(fold.heldout_raw(mixtures, solution)):
                losses = self.loss.value(fold.y_heldout, raw)
                values[place] += float(fold.weight_heldout @ losses)
            total += float(fold.weight_heldout.sum())
            parts = _split(solution, len(mixtures))
            for each, part in zip(mixtures, parts, strict=True):
                self.solutions[each].append(part)
        for each, value in zip(mixtures, values, strict=True):
            self.losses[each] = value / total if math.isfinite(value) else math.inf
        return self.losses[mixture]

    def run(self, n_groups: int) -> list[Mixture]:
        """Search, and return the best mixture of each kind, the best one first.

        A kind has the same weights and center. For both centers alpha decreases from
        its largest value until the held-out loss rises. The weights of the groups then
        change by factors, one at a time, as long as the loss decreases.
        """
        weights = (1.0, *[FIRST_WEIGHT] * (n_groups - 1))
        for centered in (True, False):
            self._descend(Mixture.of(weights, STRONGEST_ALPHA, centered))
        best = self._refine(self._best())
        for _ in range(MIXTURE_SWEEPS if n_groups > 1 else 0):
            for near in best.neighbors():
                self.evaluate(near, best)
                best = min(best, near, key=self._rank)
            self.evaluate(replace(best, centered=not best.centered))
            refined = self._refine(self._best())
            if refined == best:
                break
            best = refined
        kinds: dict[tuple[tuple[float, ...], bool], Mixture] = {}
        for mixture in sorted(self.losses, key=self._rank):
            kinds.setdefault((mixture.weights, mixture.centered), mixture)
        return [each for each in kinds.values() if math.isfinite(self.losses[each])]

    def _descend(self, start: Mixture) -> None:
        """Decrease alpha until the held-out loss has clearly passed its minimum."""
        best, last, mixture = start, None, start
        while mixture.alpha >= LEAST_ALPHA:
            self.evaluate(mixture, last)
            best = min(best, mixture, key=self._rank)
            worse = self.losses[mixture] - self.losses[best]
            is_clear = worse > CLEARLY_WORSE * abs(self.losses[best])
            if is_clear or mixture.alpha < 0.5 * best.alpha / COARSE_STEP:
                break
            last = mixture
            mixture = Mixture.of(
                mixture.weights, mixture.alpha / COARSE_STEP, mixture.centered
            )

    def _refine(self, best: Mixture) -> Mixture:
        """Try alphas on both sides, and return the best mixture of all."""
        for factor in (FINE_STEP, 1 / FINE_STEP):
            near = Mixture.of(best.weights, best.alpha * factor, best.centered)
            self.evaluate(near, best)
        return self._best()

    def _rank(self, mixture: Mixture) -> tuple[float, float]:
        """Smaller losses come first; if they are equal but for rounding, larger alphas.

        Without noise, losses hardly depend on small alphas.
        """
        return float(f"{self.losses[mixture]:.5g}"), -mixture.alpha

    def _best(self) -> Mixture:
        return min(self.losses, key=self._rank)


def _split(solution: KernelSolution, count: int) -> list[KernelSolution]:
    """Solutions of problems whose outputs are side by side."""
    pairs = zip(
        solution.coef.chunk(count, 1), solution.intercept.chunk(count), strict=True
    )
    return [replace(solution, coef=coef, intercept=b) for coef, b in pairs]
