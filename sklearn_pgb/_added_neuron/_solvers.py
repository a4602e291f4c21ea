"""Three ways to train a network, with one kind of result."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sklearn_pgb._added_neuron._request import Hook, TrainingRequest
from sklearn_pgb._added_neuron._search import search
from sklearn_pgb._training._architecture import Architecture
from sklearn_pgb._training._objective import Objective
from sklearn_pgb._training._polish import polish
from sklearn_pgb._training._train import train


@dataclass(frozen=True, eq=False)
class NetworkFit:
    """Result of a training, with theta (n_params,) in float64 on the CPU.

    `losses` and `scores` are the objective and the held-out score of each epoch. The
    `ending` is "converged", "early_stopped", "stalled" or "max_iter".
    """

    theta: Tensor
    losses: list[float]
    scores: list[float]
    n_iter: int
    n_moves: int
    ending: str
    diverged: bool


def by_minibatches(
    objective: Objective,
    theta: Tensor,
    request: TrainingRequest,
    generator: torch.Generator,
    report: Hook,
    score: Callable[[Tensor], float] | None,
    ceiling: float = math.inf,
) -> NetworkFit:
    """Train by the method of the request, with early stopping if there is a score.

    A training that ends above the `ceiling` and its start has diverged.
    """

    def on_epoch(theta: Tensor, *epoch: Tensor) -> bool:
        loss, value, stagnates, rate = (each[0].item() for each in epoch)
        known = None if score is None else value
        return report(theta[0], loss, known, stagnates, rate)

    training = train(
        objective,
        theta[None].to(objective.weight),
        request.method,
        request.schedule,
        batch_size=request.batch_size,
        generator=generator if request.shuffle else None,
        validate=None
        if score is None
        else lambda theta: torch.tensor([score(theta[0])], dtype=torch.float64),
        on_epoch=on_epoch,
        ceiling=ceiling,
    )
    diverged = bool(training.diverged[0])
    if diverged:
        ending = "stalled"
    elif bool(training.stagnated[0]):
        ending = "converged" if score is None else "early_stopped"
    else:
        ending = "max_iter"
    return NetworkFit(
        theta=training.theta[0].detach().cpu().double(),
        losses=training.losses[:, 0].tolist(),
        scores=training.scores[:, 0].tolist() if score is not None else [],
        n_iter=training.n_epochs,
        n_moves=0,
        ending=ending,
        diverged=diverged,
    )


def by_lbfgs(
    objective: Objective, theta: Tensor, request: TrainingRequest, report: Hook
) -> NetworkFit:
    """Minimize on all samples, up to a number of iterations and evaluations."""
    limit, evaluations = request.schedule.max_epochs, request.max_evaluations
    polished = polish(
        objective,
        theta,
        gtol=request.schedule.tol,
        max_iter=limit,
        max_evaluations=evaluations,
        newton=False,
        on_iteration=report,
    )
    spent = polished.n_iter >= limit or polished.n_evaluations >= evaluations
    ending = "max_iter" if spent else "stalled"
    return NetworkFit(
        polished.theta, polished.losses, [], polished.n_iter, 0, ending, False
    )


def by_search(
    architecture: Architecture,
    objective: Objective,
    theta: Tensor,
    request: TrainingRequest,
    generator: torch.Generator,
    report: Hook,
    floor: float,
) -> NetworkFit:
    """Search for a global minimum; restarts are drawn like the initial parameters.

    `floor` is a loss below which the search ends.
    """
    start = theta[None].to(objective.weight)
    theta, losses, n_epochs, n_moves = search(
        objective,
        start,
        request,
        restart=lambda _: architecture.draw().to(start),
        floor=floor,
        generator=generator,
        on_epoch=lambda theta, loss: report(theta[0], float(loss[0])),
    )
    return NetworkFit(
        theta=theta[0].detach().cpu().double(),
        losses=losses[:, 0].tolist(),
        scores=[],
        n_iter=n_epochs,
        n_moves=int(n_moves[0]),
        ending="max_iter",
        diverged=False,
    )
