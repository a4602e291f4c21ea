"""Training of all parameters together by minibatches, for large data."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from sklearn_pgb._estimator import Parts
from sklearn_pgb._resnet._residual import Found, Hook, Request, Residual, Samples
from sklearn_pgb._training import (
    Adam,
    Epoch,
    Objective,
    ResidualProgram,
    Schedule,
    evaluate_units,
    train,
)


def minibatches(
    objective: Residual,
    theta: Tensor,
    request: Request,
    parts: Callable[[], Parts] | None,
    hook: Hook,
) -> Found:
    """Adam on all parameters together; one part of the rows says when to stop."""
    samples = objective.samples
    seen = np.arange(len(samples.y))
    unseen = seen[:0]
    if parts is not None:
        seen, unseen = parts()[0]
    shown, held = samples.rows(seen), samples.rows(unseen) if len(unseen) else None
    program, joint, start = _joint(objective, shown, theta, request)

    def validate(theta: Tensor) -> Tensor:
        assert held is not None
        raw = program(theta, _side_by_side(held, objective).to(theta))[0]
        return torch.tensor([-objective.loss(raw.to(held.y), held)])

    losses: list[float] = []

    def on_epoch(epoch: Epoch) -> bool:
        losses.append(float(epoch.loss[0]))
        A, B, b, inner = (
            part[0].detach().to(samples.y) for part in program.split(epoch.theta)
        )
        A = A / samples.spread()[:, None]
        intercept = b[0] - samples.weight @ samples.basis @ A
        return hook(inner, losses[-1], torch.cat([A, objective.scale * B]), intercept)

    training = train(
        joint,
        start,
        Adam(),
        Schedule(rate=request.rate, max_epochs=request.max_iter, tol=request.tol),
        batch_size=request.batch_size,
        generator=torch.Generator().manual_seed(request.seed),
        validate=validate if held is not None else None,
        on_epoch=on_epoch,
    )
    theta = program.split(training.theta)[3][0].detach().to(samples.y)
    factor, improves = 1.0, True
    if held is not None:
        factor, improves = _compare(objective, theta, request, shown, held)
    return Found(
        theta,
        factor * objective.alpha,
        improves,
        losses,
        training.n_epochs,
        bool(training.diverged[0]),
    )


def _side_by_side(samples: Samples, objective: Residual) -> Tensor:
    """Standardised basis and inputs of the units, as the joint program takes them."""
    whole = objective.samples
    basis = (samples.basis - whole.weight @ whole.basis) / whole.spread()
    return torch.cat([basis, samples.inputs.flatten(1)], 1)


def _joint(
    objective: Residual, samples: Samples, theta: Tensor, request: Request
) -> tuple[ResidualProgram, Objective, Tensor]:
    """Program, objective and start of all parameters together."""
    inner, k = objective.inner, samples.y.shape[1]
    n_units = evaluate_units(objective.units, theta, samples.inputs[:1])[0].shape[1]
    n_basis = samples.basis.shape[1]
    program = ResidualProgram(
        objective.units,
        n_basis,
        n_units,
        k,
        tuple(samples.inputs.shape[1:]),
        objective.scale,
    )
    spread = objective.samples.spread()
    ridge = (objective.alpha / 2 / spread.square()).repeat_interleave(k)
    units = ridge.new_full((n_units * k,), objective.alpha / 2)
    penalty = torch.cat([ridge, units, ridge.new_zeros(k), objective.penalty])
    coef, intercept = objective.alone(objective.alpha)
    mean = objective.samples.weight @ objective.samples.basis
    start = [
        (coef * spread[:, None]).reshape(-1),
        coef.new_zeros(n_units * k),
        intercept + mean @ coef,
        theta,
    ]
    joint = Objective(
        program,
        inner.loss,
        _side_by_side(samples, objective).to(request.dtype),
        samples.y.to(request.dtype),
        samples.weight.to(request.dtype),
        penalty.to(request.dtype),
    )
    return program, joint, torch.cat(start)[None].to(request.dtype)


def _compare(
    objective: Residual,
    theta: Tensor,
    request: Request,
    shown: Samples,
    held: Samples,
) -> tuple[float, bool]:
    """Multiple of the ridge, and whether the units pay, by exact solutions."""
    part = objective.on(shown)
    losses = {}
    for factor in request.factors():
        alpha = factor * objective.alpha
        losses[factor, False] = part.loss(held.linear(part.alone(alpha)), held)
        raw = part.raw(theta, part.head(theta, alpha), held)
        losses[factor, True] = part.loss(raw, held)
    return min(losses, key=losses.__getitem__)
