"""The monitor: how far a network is from the floor, and what an added neuron does."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize

from sklearn_pgb._losses import PureErrorFloor, pure_error_floor
from sklearn_pgb._threads import threads_for
from sklearn_pgb._training import (
    Neurons,
    Objective,
    draw_neurons,
    neuron_gradient,
    residual_sums,
)

# Iterations of the neuron's descent, and how many of its last decide whether it runs
# away.
NEURON_ITERATIONS = 30
WINDOW = 10


@dataclass(frozen=True, eq=False)
class Verdict:
    """What is known of a trained network.

    Attributes
    ----------
    status : {"certified_global", "diverging", "stalled", "max_iter"}
    loss : float
        Weighted mean loss, without penalties.
    auxiliary_loss : float
        The loss with the added neurons, their penalty included.
    floor : PureErrorFloor
    residual : float
        ``max_j ||s_j|| / Omega_j`` over the distinct inputs.
    neurons : Neurons
        Of one member.
    norms : list of (float, float)
        Euclidean norms of a and of (b, W) along the neurons' descent.
    """

    status: str
    loss: float
    auxiliary_loss: float
    floor: PureErrorFloor
    residual: float
    neurons: Neurons
    norms: list[tuple[float, float]]


def monitor(
    objective: Objective,
    theta: torch.Tensor,
    *,
    neuron_penalty: float,
    tol: float,
    stagnated: bool,
    generator: torch.Generator,
) -> Verdict:
    """Compare a network with the floor, and let a neuron descend on its residuals.

    The certificate is the loss against the pure-error floor: within `tol` of it the
    network is a global minimum up to `tol`, whatever the norm of the neuron. Short of
    it the auxiliary objective has no local minimum in the neuron: its descent stalls or
    diverges (Theorem 4 of the paper), which says nothing about whether the network is
    at a bad local minimum.

    Parameters
    ----------
    objective : Objective
        In float64, on the CPU.
    theta : Tensor (n_params,)
    neuron_penalty : float
    tol : float
    stagnated : bool
        Whether the training stagnated; it was cut short otherwise.
    generator : torch.Generator
    """
    raw = objective.program(theta[None], objective.X)[0]
    loss = float(objective.data_value(theta[None]))
    floor = pure_error_floor(
        objective.X.flatten(1), objective.y, objective.loss, objective.weight
    )
    sums = residual_sums(
        objective.loss, objective.y, raw, objective.weight, floor.group
    )
    neurons, value, path = _descend(objective, raw, neuron_penalty, generator)
    certified = loss - floor.value <= tol * max(1.0, abs(loss))
    if certified:
        status = "certified_global"
    elif _runs_away(path):
        status = "diverging"
    else:
        status = "stalled" if stagnated else "max_iter"
    norms = [
        (float(np.linalg.norm(a)), float(np.linalg.norm(rest))) for a, rest in path
    ]
    return Verdict(status, loss, value, floor, sums.largest, neurons, norms)


def _descend(
    objective: Objective,
    raw: torch.Tensor,
    neuron_penalty: float,
    generator: torch.Generator,
) -> tuple[Neurons, float, list[tuple[NDArray[np.float64], NDArray[np.float64]]]]:
    """Descent of the auxiliary objective in (a, b, W), the network kept still."""
    start = draw_neurons(objective, 1, generator)
    k = raw.shape[1]

    def neurons_of(flat: NDArray[np.float64]) -> Neurons:
        a, b, W = torch.from_numpy(flat).split([k, k, len(flat) - 2 * k])
        return Neurons(a[None], b[None], W.view(1, k, -1))

    def function(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        value, gradient = neuron_gradient(
            objective, raw, neurons_of(flat), neuron_penalty
        )
        if not bool(torch.isfinite(gradient).all()) or not np.isfinite(value):
            # Enough to make the line search step back.
            return worse, np.zeros_like(flat)
        return value, gradient.numpy()

    worse = (
        2 * abs(float(objective.weight @ objective.loss.value(objective.y, raw))) + 1
    )

    def note(intermediate_result: Any) -> None:
        flat = intermediate_result.x
        path.append((np.abs(flat[:k]), flat[k:].copy()))

    flat = start.flat()[0].numpy()
    path = [(np.abs(flat[:k]), flat[k:].copy())]
    with threads_for(objective.X.numel() * k):
        result = minimize(
            function,
            flat,
            jac=True,
            method="L-BFGS-B",
            callback=note,
            options={"maxiter": NEURON_ITERATIONS, "maxfun": 2 * NEURON_ITERATIONS},
        )
    value, start_value = function(result.x)[0], function(flat)[0]
    if value > start_value:
        return neurons_of(flat), start_value, path
    return neurons_of(result.x), value, path


def _runs_away(
    path: list[tuple[NDArray[np.float64], NDArray[np.float64]]],
) -> bool:
    """Whether (b, W) still grow while a shrinks: the failure mode."""
    if len(path) <= WINDOW:
        return False
    (a_then, rest_then), (a_now, rest_now) = path[-WINDOW - 1], path[-1]
    grows = np.linalg.norm(rest_now) > np.linalg.norm(rest_then)
    return bool(grows and a_now.max() < a_then.max())
