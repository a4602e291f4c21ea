"""Training of all parameters together on minibatches, for large data."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

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
from sklearn_pgb._training._descent import Adam
from sklearn_pgb._training._residual import evaluate_units
from sklearn_pgb._training._train import Schedule, train


def minibatches(
    objective: ResidualObjective,
    theta: Tensor,
    request: ResNetRequest,
    parts: Callable[[], Parts] | None,
    hook: Hook,
) -> UnitTraining:
    """Train all parameters by Adam, with early stopping on the first fold."""
    samples = objective.samples
    folds = [] if parts is None else parts()
    # One fold only: a training per fold would take as many times as long.
    rows, test = folds[0] if folds else (np.arange(len(samples.y)), None)
    heldout = None if test is None else samples.rows(test)
    fold = objective.on(samples.rows(rows))
    model = Joint(fold, samples, request.dtype)
    z, _ = evaluate_units(objective.units, theta, samples.inputs[:1])
    joint = model.objective(z.shape[1])
    size = len(theta)
    heldout_rows = None if heldout is None else model.rows(heldout)

    def validate(point: Tensor) -> Tensor:
        assert heldout is not None
        assert heldout_rows is not None
        raw = joint.program(point, heldout_rows)[0]
        losses = objective.losses(raw.to(heldout.y), heldout)
        return -(heldout.weight @ losses)[None].cpu()

    losses: list[float] = []

    def on_epoch(theta: Tensor, loss: Tensor, *_: Tensor) -> bool:
        losses.append(float(loss[0]))
        inner = theta[0, -size:].detach().to(samples.y)
        return hook(inner, losses[-1], lambda: objective.head(inner, objective.alpha))

    trained = train(
        joint,
        model.start(theta)[None],
        Adam(),
        Schedule(rate=request.rate, max_epochs=request.max_iter, tol=request.tol),
        batch_size=request.batch_size,
        generator=torch.Generator().manual_seed(request.seed),
        validate=validate if heldout is not None else None,
        on_epoch=on_epoch,
    )
    training = UnitTraining(
        trained.theta[0, -size:].detach().to(samples.y),
        objective.alpha,
        losses,
        trained.n_epochs,
        improves=parts is None,
        diverged=bool(trained.diverged[0]),
    )
    return training if heldout is None else _compared(training, fold, request, heldout)


def _compared(
    training: UnitTraining,
    fold: ResidualObjective,
    request: ResNetRequest,
    heldout: BasisSamples,
) -> UnitTraining:
    """Choose alpha and whether to keep the units, by exact solutions on the fold."""
    theta = training.theta
    alphas = [factor * fold.alpha for factor in request.factors()]
    losses = fold.heldout_losses(theta, alphas, heldout)
    basis_losses = fold.basis_heldout_losses(alphas, heldout)
    weight = heldout.weight.cpu().numpy()
    means, basis_means = losses @ weight, basis_losses @ weight
    (best,), basis_best, improves = compare(
        weight * losses, weight * basis_losses, means, basis_means, weight, heldout
    )
    return replace(
        training,
        alpha=alphas[best if improves else basis_best],
        improves=improves,
        heldout_loss=float(means[best]),
        basis_heldout_loss=float(basis_means[basis_best]),
    )
