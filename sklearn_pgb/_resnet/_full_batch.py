"""Training of the units on all samples at once, by L-BFGS."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
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
        chosen = choose(objective, theta, request, parts())
    losses: list[float] = []

    def on_iteration(theta: Tensor, value: float) -> bool:
        losses.append(value)
        return hook(theta, value, lambda: objective.head(theta, objective.alpha))

    theta = descend(objective, theta, chosen.n_iter, request, on_iteration)
    return replace(chosen, theta=theta, losses=losses, n_iter=len(losses))


def descend(
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


def choose(
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
    # Weighted losses of each sample, summed over the folds that hold it out.
    n_samples = len(objective.samples.y)
    weight = objective.samples.weight.cpu().numpy()
    basis_losses = np.zeros((len(alphas), n_samples))
    curve = np.zeros((len(checkpoints), len(alphas), n_samples))
    total_weight = np.zeros(n_samples)
    for train, test in folds:
        heldout = objective.samples.rows(test)
        fold = objective.on(objective.samples.rows(train))
        alone = fold.basis_heldout_losses(alphas, heldout)
        basis_losses[:, test] += weight[test] * alone
        losses = heldout_curve(fold, heldout, theta, request, checkpoints, alphas)
        curve[..., test] += weight[test] * losses
        total_weight[test] += weight[test]
    basis_means, means = (
        np.nan_to_num(part.sum(-1), nan=np.inf) for part in (basis_losses, curve)
    )
    # Iterations and alpha are chosen together: trained units need another alpha.
    best, basis_best, improves = compare(
        curve, basis_losses, means, basis_means, total_weight, objective.samples
    )
    n_iter, alpha = 0, alphas[basis_best]
    if improves:
        n_iter, alpha = checkpoints[best[0]], alphas[best[1]]
    chosen = float(means[best]), float(basis_means[basis_best])
    return UnitTraining(theta, alpha, [], n_iter, improves, *chosen)


def heldout_curve(
    fold: ResidualObjective,
    heldout: BasisSamples,
    theta: Tensor,
    request: ResNetRequest,
    checkpoints: list[int],
    alphas: list[float],
) -> np.ndarray:
    """Evaluate losses (n_checkpoints, n_alphas, n_heldout) of a fold.

    Converged or abandoned folds keep their last losses at later checkpoints. If
    evaluations are expensive, alphas smaller than the best also keep their last losses:
    the longer the units are trained, the sooner small alphas overfit.
    """
    weight = heldout.weight.cpu().numpy()
    patience = EVALUATIONS if request.projects else JOINT_EVALUATIONS
    curve: list[np.ndarray] = []
    means: list[np.ndarray] = []

    def evaluate(theta: Tensor) -> None:
        count = len(alphas)
        if curve and not request.projects:
            count = 1 + int(np.nan_to_num(means[-1], nan=np.inf).argmin())
        losses = fold.heldout_losses(theta, alphas[:count], heldout)
        if count < len(alphas):
            losses = np.concatenate([losses, curve[-1][count:]])
        curve.append(losses)
        means.append(losses @ weight)

    evaluate(theta)
    n_iter = 0

    def on_iteration(theta: Tensor, value: float) -> bool:
        nonlocal n_iter
        n_iter += 1
        if n_iter in checkpoints:
            evaluate(theta)
        smallest = [each.min() for each in means]
        return len(smallest) > int(np.argmin(smallest)) + patience

    last = descend(fold, theta, request.max_iter, request, on_iteration)
    if n_iter not in checkpoints:
        evaluate(last)
    return np.array(curve + curve[-1:] * (len(checkpoints) - len(curve)))
