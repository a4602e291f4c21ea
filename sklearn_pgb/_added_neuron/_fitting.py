"""One fit, from encoded arrays to a trained network and its verdict."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sklearn_pgb._added_neuron._monitor import Verdict, monitor
from sklearn_pgb._added_neuron._search import Moves, search
from sklearn_pgb._losses import Loss, pure_error_floor
from sklearn_pgb._training import (
    Adam,
    Architecture,
    ChainProgram,
    Descent,
    Epoch,
    GradientDescent,
    Method,
    ModuleProgram,
    Objective,
    Schedule,
    polish,
    train,
)

# Iterations of the final polish, and the gradient at which it stops.
POLISH_ITERATIONS = 1000
POLISH_GTOL = 1e-8


@dataclass(frozen=True, eq=False)
class Data:
    """Samples of positive weight, as tensors of the training's dtype and device.

    Attributes
    ----------
    X : Tensor (n_samples, ...)
    y : Tensor (n_samples, n_outputs)
        Encoded targets.
    weight : Tensor (n_samples,)
        Summing to one.
    """

    X: Tensor
    y: Tensor
    weight: Tensor

    def rows(self, index: NDArray[np.intp]) -> "Data":
        """Some of the samples in order, their weights summing to one again."""
        if len(index) == len(self.weight):
            return self
        rows = torch.from_numpy(index).to(self.y.device)
        weight = self.weight[rows]
        return Data(self.X[rows], self.y[rows], weight / weight.sum())


@dataclass(frozen=True)
class Request:
    """What the user asked of the training, resolved."""

    solver: str
    schedule: Schedule
    batch_size: int
    shuffle: bool
    alpha: float
    neuron_penalty: float
    n_starts: int
    global_move: str
    adam: Adam
    descent: GradientDescent
    max_evaluations: int

    def method(self) -> Method:
        """The method of minibatch training."""
        return self.descent if self.solver == "sgd" else self.adam


@dataclass(frozen=True, eq=False)
class Fit:
    """What a fit reached.

    Attributes
    ----------
    theta : Tensor (n_params,)
        Float64, on the CPU.
    losses : list of float
        Objective of each epoch.
    scores : list of float
        Held-out score of each epoch.
    n_iter, n_moves : int
    diverged : bool
    verdict : Verdict
    """

    theta: Tensor
    losses: list[float]
    scores: list[float]
    n_iter: int
    n_moves: int
    diverged: bool
    verdict: Verdict


@dataclass(frozen=True, eq=False)
class Moment:
    """Where a training is after an epoch or iteration.

    Attributes
    ----------
    theta : Tensor (n_params,)
    loss : float
        The objective.
    score : float or None
        Held-out score.
    stagnates : bool
        Whether stagnation has just been found.
    rate : float
        The learning rate from here on.
    """

    theta: Tensor
    loss: float
    score: float | None = None
    stagnates: bool = False
    rate: float = 0.0


Hook = Callable[[Moment], bool]


def fit_network(
    architecture: Architecture,
    loss: Loss,
    data: Data,
    request: Request,
    *,
    total_weight: float,
    start: Tensor | None,
    seed: int,
    hook: Hook,
    held_out: Callable[[Tensor], float] | None,
) -> Fit:
    """Train, polish where there are several starts, and look at the result.

    Parameters
    ----------
    architecture : Architecture
    loss : Loss
    data : Data
    request : Request
    total_weight : float
        Of the samples in the user's scale, by which `alpha` is divided.
    start : Tensor (n_params,) or None
        Where to start; None draws.
    seed : int
    hook : callable
        Gets the moment after each epoch; True ends the training.
    held_out : callable or None
        Score of parameters on the validation samples.
    """
    objective = _objective(architecture, loss, data, request, total_weight)
    generator = torch.Generator().manual_seed(seed)
    theta = architecture.draw() if start is None else start
    training = _train(
        architecture, objective, theta, request, generator, hook, held_out
    )
    found, losses, scores, n_iter, n_moves, stagnated, diverged = training
    exact = _exact(objective)
    if request.n_starts > 1 and isinstance(architecture.program, ChainProgram):
        polished = polish(exact, found, gtol=POLISH_GTOL, max_iter=POLISH_ITERATIONS)
        found = polished.theta
    verdict = monitor(
        exact,
        found,
        neuron_penalty=request.neuron_penalty,
        tol=request.schedule.tol,
        stagnated=stagnated,
        generator=generator,
    )
    return Fit(
        theta=found,
        losses=losses,
        scores=scores,
        n_iter=n_iter,
        n_moves=n_moves,
        diverged=diverged,
        verdict=verdict,
    )


def one_epoch(
    architecture: Architecture,
    loss: Loss,
    data: Data,
    request: Request,
    *,
    total_weight: float,
    start: Tensor | None,
    memory: list[Tensor] | None,
    seed: int,
) -> tuple[Tensor, float, list[Tensor] | None]:
    """One pass over the samples at the initial rate.

    Returns
    -------
    theta : Tensor (n_params,)
    loss : float
        Objective, its samples' losses as they were met.
    memory : list of Tensor or None
        Of the method, for the next epoch; None where the epoch diverged, and theta is
        where it started.
    """
    objective = _objective(architecture, loss, data, request, total_weight)
    theta = architecture.draw() if start is None else start
    method = request.method()
    generator = torch.Generator().manual_seed(seed) if request.shuffle else None
    descent = Descent(
        objective, theta[None].to(data.weight), method, request.batch_size, generator
    )
    if memory is not None:
        method.recall(memory)
    start = descent.theta[0].clone()
    value = float(descent.epoch(request.schedule.rate))
    if not math.isfinite(value) or not bool(descent.theta.isfinite().all()):
        return _exactly(start), value, None
    return _exactly(descent.theta[0]), value, method.memory()


def _objective(
    architecture: Architecture,
    loss: Loss,
    data: Data,
    request: Request,
    total_weight: float,
) -> Objective:
    """Loss and ridge: ``alpha / (2 sum(s))`` on weights, nothing on biases."""
    program = architecture.program
    assert isinstance(program, ChainProgram | ModuleProgram)
    penalty = program.is_weight().double() * (request.alpha / (2 * total_weight))
    return Objective(
        program, loss, data.X, data.y, data.weight, penalty.to(data.weight)
    )


def _train(
    architecture: Architecture,
    objective: Objective,
    theta: Tensor,
    request: Request,
    generator: torch.Generator,
    hook: Hook,
    held_out: Callable[[Tensor], float] | None,
) -> tuple[Tensor, list[float], list[float], int, int, bool, bool]:
    """The parameters found, and how."""
    if request.solver == "lbfgs":
        polished = polish(
            objective,
            theta,
            gtol=request.schedule.tol,
            max_iter=request.schedule.max_epochs,
            max_evaluations=request.max_evaluations,
            newton=False,
            on_iteration=lambda theta, loss: hook(Moment(theta, loss)),
        )
        ended = polished.n_iter < request.schedule.max_epochs
        return polished.theta, polished.losses, [], polished.n_iter, 0, ended, False
    start = theta[None].to(objective.weight)
    shuffler = generator if request.shuffle else None

    if request.n_starts > 1:
        program = architecture.program
        has_hidden = isinstance(program, ChainProgram) and len(program.shapes) > 1
        kind = request.global_move if has_hidden else "restart"
        found = search(
            objective,
            start,
            request.method(),
            Moves(kind, lambda _: architecture.draw().to(start)),
            rate=request.schedule.rate,
            max_epochs=request.n_starts * request.schedule.max_epochs,
            neuron_penalty=request.neuron_penalty,
            floor=_floor(_exact(objective)),
            tol=request.schedule.tol,
            batch_size=request.batch_size,
            generator=generator,
            on_epoch=lambda theta, loss: hook(Moment(theta[0], float(loss[0]))),
        )
        theta, losses = found.theta[0], found.losses[:, 0].tolist()
        moves = int(found.n_moves[0])
        return (_exactly(theta), losses, [], found.n_epochs, moves, True, False)

    def on_epoch(epoch: Epoch) -> bool:
        score = float(epoch.score[0]) if held_out is not None else None
        loss, stagnates = float(epoch.loss[0]), bool(epoch.stagnates[0])
        rate = float(epoch.rate[0])
        return hook(Moment(epoch.theta[0], loss, score, stagnates, rate))

    training = train(
        objective,
        start,
        request.method(),
        request.schedule,
        batch_size=request.batch_size,
        generator=shuffler,
        validate=None
        if held_out is None
        else lambda theta: torch.tensor([held_out(theta[0])], dtype=torch.float64),
        on_epoch=on_epoch,
    )
    return (
        _exactly(training.theta[0]),
        training.losses[:, 0].tolist(),
        training.scores[:, 0].tolist() if held_out is not None else [],
        training.n_epochs,
        0,
        bool(training.stagnated[0]),
        bool(training.diverged[0]),
    )


def _exactly(theta: Tensor) -> Tensor:
    return theta.detach().cpu().double()


def _exact(objective: Objective) -> Objective:
    """The objective in float64 on the CPU."""
    return Objective(
        objective.program.exact(),
        objective.loss,
        *(
            part.cpu().double()
            for part in (objective.X, objective.y, objective.weight, objective.penalty)
        ),
    )


def _floor(objective: Objective) -> float:
    X = objective.X.flatten(1)
    return pure_error_floor(X, objective.y, objective.loss, objective.weight).value
