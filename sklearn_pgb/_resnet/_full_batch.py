"""Training of the units on all samples at once, by L-BFGS."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sklearn_pgb._budget import CHECKPOINTS, EVALUATIONS, JOINT_EVALUATIONS, PATIENCE
from sklearn_pgb._estimator._folds import Parts
from sklearn_pgb._resnet._gain import compare
from sklearn_pgb._resnet._joint import Joint
from sklearn_pgb._resnet._residual import (
    BasisSamples,
    Hook,
    ResidualObjective,
    ResNetRequest,
    UnitTraining,
)
from sklearn_pgb._training._polish import quasi_newton
from sklearn_pgb._training._residual import evaluate_units

# Returns the objective and its gradient.
Function = Callable[[Tensor], tuple[Tensor, Tensor]]


def full_batch(
    objective: ResidualObjective,
    theta: Tensor,
    request: ResNetRequest,
    parts: Callable[[], Parts] | None,
    hook: Hook,
) -> UnitTraining:
    """Train by L-BFGS for the number of iterations that is best on held-out samples."""
    chosen = UnitTraining(theta, objective.alpha, [], request.max_iter, improves=True)
    if parts is not None:
        chosen = choose_iteration(objective, theta, request, parts())
    losses: list[float] = []

    def on_iteration(theta: Tensor, value: float) -> bool:
        losses.append(value)
        return hook(theta, value, lambda: objective.head(theta, objective.alpha))

    theta = train_units(objective, theta, chosen.n_iter, request, on_iteration)
    return replace(chosen, theta=theta, losses=losses, n_iter=len(losses))


def train_units(
    objective: ResidualObjective,
    theta: Tensor,
    max_iter: int,
    request: ResNetRequest,
    on_iteration: Callable[[Tensor, float], bool],
) -> Tensor:
    """Train the units for at most `max_iter` iterations.

    Variable projection and joint training minimize the same objective. The request
    says which of them is cheaper.
    """
    function, start = projected(objective), theta
    if not request.projects:
        function, start = joint(objective, theta)
    size, floor = len(theta), objective.floor()
    losses: list[float] = []

    def record(point: Tensor, value: float) -> bool:
        losses.append(value)
        stop = on_iteration(point[-size:].to(theta.device), value)
        if stop or len(losses) <= PATIENCE:
            return stop
        # The decrease over several iterations, as single ones of L-BFGS may be tiny.
        return losses[-1 - PATIENCE] - value <= request.tol * (value - floor)

    if max_iter == 0:
        on_iteration(theta, float(function(start)[0]))
        return theta
    minimum = quasi_newton(
        function, start, gtol=1e-9, max_iter=max_iter, on_iteration=record
    )
    if not losses:
        on_iteration(theta, minimum.value)
    return minimum.theta[-size:].to(theta.device)


def projected(objective: ResidualObjective) -> Function:
    """Return the objective of variable projection, minimized over the linear part.

    Its gradient is that of the objective at the minimizing R, which need not be
    differentiated (envelope theorem).
    """
    samples, inner = objective.samples, objective.inner

    def function(theta: Tensor) -> tuple[Tensor, Tensor]:
        theta = theta.to(samples.y.device)
        z, pull = evaluate_units(objective.units, theta, samples.inputs)
        Z = objective.scale * z
        coef, intercept = inner.solve(Z, objective.alpha)
        A, B = coef.split([samples.basis.shape[1], Z.shape[1]])
        raw = samples.basis @ A + Z @ B + intercept
        residual = inner.loss.gradient(samples.y, raw) * samples.weight[:, None]
        value = samples.weight @ inner.loss.value(samples.y, raw)
        value = value + 0.5 * objective.alpha * coef.square().sum()
        gradient = pull(objective.scale * (residual @ B.T))
        gradient = gradient + 2 * objective.penalty * theta
        return (value + objective.penalty @ theta.square()).cpu(), gradient.cpu()

    return function


def joint(objective: ResidualObjective, theta: Tensor) -> tuple[Function, Tensor]:
    """Return the objective of all parameters, and their initial values."""
    samples = objective.samples
    z, _ = evaluate_units(objective.units, theta, samples.inputs[:1])
    model = Joint(objective, samples, torch.float64)
    whole = model.objective(z.shape[1])

    def function(point: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = whole.value_and_gradient(point[None].to(samples.y.device))
        return value[0].cpu(), gradient[0].cpu()

    return function, model.start(theta)


def choose_iteration(
    objective: ResidualObjective, theta: Tensor, request: ResNetRequest, folds: Parts
) -> UnitTraining:
    """Choose the iterations and alpha of the smallest held-out loss over all folds.

    Units are kept if they are significantly better than the basis alone with its best
    alpha. Without folds they are left out.
    """
    if not folds:
        return UnitTraining(theta, objective.alpha, [], 0, improves=False)
    # Each checkpoint needs solutions for all alphas. Without variable projection these
    # are expensive, so half of the checkpoints are left out.
    planned = CHECKPOINTS if request.projects else CHECKPOINTS[1::2]
    checkpoints = [0, *(c for c in planned if c < request.max_iter)]
    checkpoints.append(request.max_iter)
    alphas = [factor * objective.alpha for factor in request.factors()]
    pool = Pool.of(folds, objective.samples)
    basis_losses, losses = pooled_losses(
        objective, theta, request, pool, checkpoints, alphas
    )
    basis_means, means = pool.means(basis_losses), pool.means(losses)
    # Iterations and alpha are chosen together: trained units need another alpha.
    best, basis_best, improves = compare(
        losses, basis_losses, means, basis_means, pool.total_weight, objective.samples
    )
    n_iter, alpha = 0, alphas[basis_best]
    if improves:
        n_iter, alpha = checkpoints[best[0]], alphas[best[1]]
    chosen = float(means[best]), float(basis_means[basis_best])
    return UnitTraining(theta, alpha, [], n_iter, improves, *chosen)


@dataclass(frozen=True, eq=False)
class Pool:
    """Folds, whose losses are pooled: each held-out sample counts by its weight.

    The `total_weight` of a sample is over all folds that hold it out.
    """

    folds: Parts
    weight: NDArray[np.float64]
    total_weight: NDArray[np.float64]

    @classmethod
    def of(cls, folds: Parts, samples: BasisSamples) -> "Pool":
        weight = samples.weight.cpu().numpy()
        total_weight = np.zeros_like(weight)
        for _, test in folds:
            total_weight[test] += weight[test]
        return cls(folds, weight, total_weight)

    def losses(self, parts: list[NDArray[np.float64]]) -> NDArray[np.float64]:
        """Return the weighted losses (..., n_samples), summed over the folds."""
        losses = np.zeros((*parts[0].shape[:-1], len(self.weight)))
        for (_, test), part in zip(self.folds, parts, strict=True):
            losses[..., test] += self.weight[test] * part
        return losses

    def means(self, losses: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the mean losses of held-out samples, infinite if they are nan."""
        return np.nan_to_num(losses.sum(-1) / self.total_weight.sum(), nan=np.inf)


def pooled_losses(
    objective: ResidualObjective,
    theta: Tensor,
    request: ResNetRequest,
    pool: Pool,
    checkpoints: list[int],
    alphas: list[float],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return pooled losses of the basis alone and with units.

    They have the shapes (n_alphas, n_samples) and (n_checkpoints, n_alphas, n_samples).
    Folds that were abandoned before the best checkpoint of all are trained again, up to
    it: the held-out samples of one fold, which may be a single one, do not decide. At
    the best checkpoint and alpha all losses are thus those of the units there.
    """
    alone: dict[int, NDArray[np.float64]] = {}

    def train(k: int, goal: tuple[int, int] = (0, 0)) -> HeldOutCurve:
        rows, heldout_rows = pool.folds[k]
        heldout = objective.samples.rows(heldout_rows)
        fold = objective.on(objective.samples.rows(rows))
        if k not in alone:
            alone[k] = fold.basis_heldout_losses(alphas, heldout)
        return heldout_curve(fold, heldout, theta, request, checkpoints, alphas, goal)

    curves = [train(k) for k in range(len(pool.folds))]
    basis_losses = pool.losses([alone[k] for k in range(len(curves))])
    while True:
        losses = pool.losses([curve.losses for curve in curves])
        best = np.unravel_index(int(pool.means(losses).argmin()), losses.shape[:-1])
        stale = [k for k, curve in enumerate(curves) if not curve.known[best]]
        if not stale:
            return basis_losses, losses
        for k in stale:
            curves[k] = train(k, curves[k].including(int(best[0]), int(best[1])))


@dataclass(frozen=True, eq=False)
class HeldOutCurve:
    """Losses (n_checkpoints, n_alphas, n_heldout) of a fold.

    Those that are not `known` (n_checkpoints, n_alphas) are from earlier checkpoints.
    The fold was trained at least up to the checkpoint `goal[0]`, with at least the
    alphas up to `goal[1]`.
    """

    losses: NDArray[np.float64]
    known: NDArray[np.bool_]
    goal: tuple[int, int]

    def including(self, checkpoint: int, alpha: int) -> tuple[int, int]:
        """Return the smallest goal that includes the last one and another."""
        return max(self.goal[0], checkpoint), max(self.goal[1], alpha)


def heldout_curve(
    fold: ResidualObjective,
    heldout: BasisSamples,
    theta: Tensor,
    request: ResNetRequest,
    checkpoints: list[int],
    alphas: list[float],
    goal: tuple[int, int] = (0, 0),
) -> HeldOutCurve:
    """Train on a fold and evaluate losses of its held-out samples.

    Converged folds keep their last losses at later checkpoints. After the goal, folds
    are abandoned if their losses do not improve. If evaluations are expensive, alphas
    smaller than the best are left out: the longer the units are trained, the sooner
    small alphas overfit.
    """
    weight = heldout.weight.cpu().numpy()
    patience = EVALUATIONS if request.projects else JOINT_EVALUATIONS
    curve: list[NDArray[np.float64]] = []
    means: list[NDArray[np.float64]] = []
    known = np.zeros((len(checkpoints), len(alphas)), dtype=bool)

    def evaluate(theta: Tensor) -> None:
        count = len(alphas)
        if curve and not request.projects:
            best = int(np.nan_to_num(means[-1], nan=np.inf).argmin())
            count = 1 + (max(best, goal[1]) if len(curve) <= goal[0] else best)
        losses = fold.heldout_losses(theta, alphas[:count], heldout)
        known[len(curve), :count] = True
        if count < len(alphas):
            losses = np.concatenate([losses, curve[-1][count:]])
        curve.append(losses)
        means.append(losses @ weight)

    evaluate(theta)
    n_iter, abandoned = 0, False

    def on_iteration(theta: Tensor, value: float) -> bool:
        nonlocal n_iter, abandoned
        n_iter += 1
        if n_iter in checkpoints:
            evaluate(theta)
        smallest = [each.min() for each in means]
        is_late = len(smallest) > int(np.argmin(smallest)) + patience
        abandoned = is_late and len(curve) > goal[0]
        return abandoned

    last = train_units(fold, theta, request.max_iter, request, on_iteration)
    if n_iter not in checkpoints:
        evaluate(last)
    n_left = len(checkpoints) - len(curve)
    if n_left and not abandoned:
        known[-n_left:] = known[-n_left - 1]
    return HeldOutCurve(np.array(curve + curve[-1:] * n_left), known, goal)
