"""Training of a network from encoded arrays, and comparison with the floor."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sklearn_pgb._added_neuron._monitor import FloorComparison, monitor
from sklearn_pgb._added_neuron._request import Hook, TrainingRequest
from sklearn_pgb._added_neuron._solvers import (
    NetworkFit,
    by_lbfgs,
    by_minibatches,
    by_search,
)
from sklearn_pgb._budget import (
    BATCHES,
    DIVERGED_EXCESS,
    EXPLOSION,
    LARGEST_BATCH,
    LARGEST_PENALTY,
    POLISH_ITERATIONS,
    POLISHED_PARAMS,
    SMALLEST_BATCH,
)
from sklearn_pgb._convex._scale import loss_scale
from sklearn_pgb._losses._floor import PureErrorFloor
from sklearn_pgb._losses._loss import Loss
from sklearn_pgb._samples import Samples
from sklearn_pgb._training._architecture import Architecture
from sklearn_pgb._training._descent import Descent
from sklearn_pgb._training._objective import Objective
from sklearn_pgb._training._polish import polish
from sklearn_pgb._training._program import ChainProgram, ModuleProgram

# Up to this many samples are sorted, so that their order does not matter.
SORTED_SAMPLES = BATCHES * LARGEST_BATCH


def automatic_batch(n_samples: int, searches: bool) -> int:
    """Return the default batch size.

    A search uses larger batches: its moves leave local minima, so it does not need the
    noise of small ones.
    """
    least = LARGEST_BATCH if searches else SMALLEST_BATCH
    return min(max(n_samples // BATCHES, least), LARGEST_BATCH)


def fit_network(
    architecture: Architecture,
    loss: Loss,
    data: Samples,
    request: TrainingRequest,
    *,
    total_weight: float,
    start: Tensor | None,
    seed: int,
    hook: Hook,
    score: Callable[[Tensor], float] | None,
    floor: PureErrorFloor,
) -> tuple[NetworkFit, FloorComparison]:
    """Train a network, polish it if there are several starts, and monitor the result.

    The data are tensors in float64 on the CPU: preprocessed inputs, encoded targets and
    normalized weights, whose sum was `total_weight`. Without a `start`, initial
    parameters are drawn. `score` scores parameters on the held-out samples.
    """
    exact = _objective(architecture, loss, data, request, total_weight)
    generator = torch.Generator().manual_seed(seed)
    theta = architecture.draw() if start is None else start
    stopped = False

    def report(theta: Tensor, loss: float, *details: Any) -> bool:
        nonlocal stopped
        stopped = hook(theta, loss * request.loss_unit, *details)
        return stopped

    objective = _in_training(exact, request)
    if request.solver == "lbfgs":
        trained = by_lbfgs(objective, theta, request, report)
    elif request.n_starts > 1:
        least = floor.value / request.loss_unit
        trained = by_search(
            architecture, objective, theta, request, generator, report, least
        )
    else:
        trained = by_minibatches(
            objective,
            theta,
            request,
            generator,
            report,
            score,
            _ceiling(exact, floor.value) / request.loss_unit,
        )
    # The monitor and the polish need float64 on the CPU, on any device of training.
    exact = replace(exact, program=exact.program.exact())
    theta = trained.theta
    ending = trained.ending
    if stopped and not trained.diverged:
        ending = "early_stopped"
    is_chain = isinstance(architecture.program, ChainProgram)
    if request.n_starts > 1 and is_chain:
        # A large network only moves towards a critical point, and not at the floor.
        is_large = len(theta) > POLISHED_PARAMS
        target = floor.value + request.schedule.tol * request.loss_unit
        if not is_large or float(exact.value(theta[None])) > target:
            limit = max(1, trained.n_iter // 4) if is_large else POLISH_ITERATIONS
            theta = polish(exact, theta, max_iter=limit).theta
    # Modules can't be checked: their gradient here is that of the training mode.
    if ending in ("max_iter", "stalled") and is_chain:
        gradient = exact.value_and_gradient(theta[None])[1]
        if bool(gradient.abs().max() <= request.schedule.tol * request.loss_unit):
            ending = "converged"
    verdict = monitor(
        exact,
        theta,
        floor,
        neuron_penalty=request.neuron_penalty,
        tol=request.schedule.tol,
        generator=generator,
    )
    losses = [loss * request.loss_unit for loss in trained.losses]
    return replace(trained, theta=theta, losses=losses, ending=ending), verdict


def one_epoch(
    architecture: Architecture,
    loss: Loss,
    data: Samples,
    request: TrainingRequest,
    *,
    total_weight: float,
    start: Tensor | None,
    state: list[Tensor] | None,
    seed: int,
) -> tuple[Tensor, float, list[Tensor] | None]:
    """Train for one epoch at the initial learning rate.

    Returns theta, the objective accumulated during the epoch, and the state of the
    optimizer for the next epoch. If the epoch diverged, theta is the start and the
    state is None.
    """
    objective = _objective(architecture, loss, data, request, total_weight)
    objective = _in_training(objective, request)
    theta = architecture.draw() if start is None else start
    method = request.method
    generator = torch.Generator().manual_seed(seed) if request.shuffle else None
    theta = theta[None].to(objective.weight)
    descent = Descent(objective, theta, method, request.batch_size, generator)
    if state is not None:
        method.load_state(state)
    start = descent.theta[0].clone()
    value = float(descent.epoch(request.schedule.rate))
    finite = math.isfinite(value) and bool(descent.theta.isfinite().all())
    if not finite or value > EXPLOSION:
        # An epoch that explodes is undone, so that the next one can continue.
        before = float(objective.value(start[None]))
        if not finite or value > EXPLOSION * before:
            return start.detach().cpu().double(), before * request.loss_unit, None
    theta = descent.theta[0].detach().cpu().double()
    return theta, value * request.loss_unit, method.state()


def _objective(
    architecture: Architecture,
    loss: Loss,
    data: Samples,
    request: TrainingRequest,
    total_weight: float,
) -> Objective:
    """Return loss plus ``alpha / (2 sum(s)) ||W||^2``, in float64 on the CPU."""
    program = architecture.program
    assert isinstance(program, ChainProgram | ModuleProgram)
    strength = min(request.alpha / (2 * total_weight), LARGEST_PENALTY)
    penalty = program.is_weight().double() * strength
    return Objective(program, loss, data.X, data.y, data.weight, penalty)


def _ceiling(objective: Objective, floor: float) -> float:
    """Return a loss far above that of the best constant; a training diverged there."""
    scale = loss_scale(objective.loss, objective.y, objective.weight, floor)
    excess = scale.reference if scale.reference > scale.rounding else 1.0
    return floor + DIVERGED_EXCESS * excess


def _in_training(objective: Objective, request: TrainingRequest) -> Objective:
    """Convert an objective to the scale, precision and device of the training."""
    # This makes learning rates and tolerances independent of the targets' scale.
    weight = objective.weight / request.loss_unit
    penalty = objective.penalty / request.loss_unit
    scaled = replace(objective, weight=weight, penalty=penalty)
    if request.solver == "lbfgs":
        return scaled
    parts = (scaled.X, scaled.y, scaled.weight, scaled.penalty)
    moved = (part.to(request.device, request.dtype) for part in parts)
    return Objective(scaled.program, scaled.loss, *moved)
