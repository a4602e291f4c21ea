"""Training of all parameters together by minibatches, for large data."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from sklearn_pgb._estimator._border import Parts
from sklearn_pgb._resnet._gain import copies, pays
from sklearn_pgb._resnet._joint import Joint
from sklearn_pgb._resnet._residual import Found, Hook, Request, Residual, Samples
from sklearn_pgb._training._descent import Adam
from sklearn_pgb._training._residual import evaluate_units
from sklearn_pgb._training._train import Epoch, Schedule, train


def minibatches(
    objective: Residual,
    theta: Tensor,
    request: Request,
    parts: Callable[[], Parts] | None,
    hook: Hook,
) -> Found:
    """Adam on all parameters together; one part of the samples says when to stop."""
    samples = objective.samples
    folds = [] if parts is None else parts()
    seen, unseen = folds[0] if folds else (np.arange(len(samples.y)), None)
    shown, held = samples.rows(seen), None if unseen is None else samples.rows(unseen)
    fold = objective.on(shown)
    together = Joint(fold, samples, request.dtype)
    z, _ = evaluate_units(objective.units, theta, samples.inputs[:1])
    joint = together.objective(z.shape[1])
    size = len(theta)
    held_rows = None if held is None else together.rows(held)

    def validate(point: Tensor) -> Tensor:
        assert held is not None
        assert held_rows is not None
        raw = joint.program(point, held_rows)[0]
        losses = objective.losses(raw.to(held.y), held)
        return -(held.weight @ losses)[None].cpu()

    losses: list[float] = []

    def on_epoch(epoch: Epoch) -> bool:
        losses.append(float(epoch.loss[0]))
        inner = epoch.theta[0, -size:].detach().to(samples.y)
        return hook(inner, losses[-1], lambda: objective.head(inner, objective.alpha))

    training = train(
        joint,
        together.start(theta)[None],
        Adam(),
        Schedule(rate=request.rate, max_epochs=request.max_iter, tol=request.tol),
        batch_size=request.batch_size,
        generator=torch.Generator().manual_seed(request.seed),
        validate=validate if held is not None else None,
        on_epoch=on_epoch,
    )
    theta = training.theta[0, -size:].detach().to(samples.y)
    found = Found(
        theta,
        objective.alpha,
        losses,
        training.n_epochs,
        improves=parts is None,
        diverged=bool(training.diverged[0]),
    )
    return found if held is None else _compared(found, fold, request, held)


def _compared(found: Found, fold: Residual, request: Request, held: Samples) -> Found:
    """With ridge and held-out losses, with and without units, by exact solutions."""
    alphas = [factor * fold.alpha for factor in request.factors()]
    units = [fold.held_out(found.theta, alpha, held).cpu().numpy() for alpha in alphas]
    alone = [fold.held_out_alone(alpha, held).cpu().numpy() for alpha in alphas]
    weight = held.weight.cpu().numpy()
    units_means, alone_means = (np.array(part) @ weight for part in (units, alone))
    best, basis = int(units_means.argmin()), int(alone_means.argmin())
    improves = pays(weight * alone[basis], weight * units[best], weight, copies(held))
    return replace(
        found,
        alpha=alphas[best if improves else basis],
        improves=improves,
        held_out=float(units_means[best]),
        basis_held_out=float(alone_means[basis]),
    )
