"""Comparison of a network with the pure-error floor, and descent of added neurons."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize

from sklearn_pgb._budget import NEURON_ITERATIONS, WINDOW
from sklearn_pgb._convex._scale import loss_scale
from sklearn_pgb._losses._floor import PureErrorFloor, largest_residual
from sklearn_pgb._threads import threads_for
from sklearn_pgb._training._auxiliary import Neurons, draw_neurons, neuron_gradient
from sklearn_pgb._training._objective import Objective


@dataclass(frozen=True, eq=False)
class FloorComparison:
    """Comparison of a trained network with the floor.

    A network is `certified` if it is a global minimum of the loss, up to the tolerance.
    The neurons are "diverging" if their norm grows while their amplitudes vanish,
    otherwise "stalled". The loss has no penalties, the auxiliary one that of the
    neurons. The residual is ``max_j ||s_j|| / Omega_j`` over the distinct inputs. The
    neurons are a batch of one member, and their path has those of each iteration.
    """

    certified: bool
    neuron_status: str
    loss: float
    auxiliary_loss: float
    floor: PureErrorFloor
    residual: float
    neurons: Neurons
    path: list[Neurons]


def monitor(
    objective: Objective,
    theta: torch.Tensor,
    floor: PureErrorFloor,
    *,
    neuron_penalty: float,
    tol: float,
    generator: torch.Generator,
) -> FloorComparison:
    """Compare a network with the floor, and train an added neuron on its residuals.

    The certificate compares the excess of the loss over the pure-error floor with that
    of the best constant model. If the ratio is at most `tol`, the network is a global
    minimum up to `tol`, regardless of the neuron. Above the floor the auxiliary
    objective has no local minimum in the neuron, so that its descent stalls or diverges
    (Theorem 4 of the paper). This does not show whether the network is at a bad local
    minimum. The objective is in float64 on the CPU.
    """
    raw = objective.program(theta[None], objective.X)[0]
    loss = float(objective.data_value(theta[None]))
    residual = largest_residual(
        objective.loss, objective.y, raw, objective.weight, floor.group
    )
    neurons, value, path = _descend(objective, raw, neuron_penalty, generator)
    # The failure mode of the paper: (b, W) grow while a shrinks.
    diverges = False
    if len(path) > WINDOW:
        first, last = path[-WINDOW - 1], path[-1]
        grows = torch.hypot(last.b.norm(), last.W.norm()) > torch.hypot(
            first.b.norm(), first.W.norm()
        )
        diverges = bool(grows and last.a.abs().max() < first.a.abs().max())
    scale = loss_scale(objective.loss, objective.y, objective.weight, floor.value)
    return FloorComparison(
        certified=scale.certifies(loss, tol),
        neuron_status="diverging" if diverges else "stalled",
        loss=loss,
        auxiliary_loss=value,
        floor=floor,
        residual=residual,
        neurons=neurons,
        path=path,
    )


def _descend(
    objective: Objective,
    raw: torch.Tensor,
    neuron_penalty: float,
    generator: torch.Generator,
) -> tuple[Neurons, float, list[Neurons]]:
    """Minimize the auxiliary objective in (a, b, W); return neurons, value and path."""
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
            # A large value makes the line search backtrack.
            return worse, np.zeros_like(flat)
        return value, gradient.numpy()

    loss = float(objective.weight @ objective.loss.value(objective.y, raw))
    worse = 2 * abs(loss) + 1

    def record(intermediate_result: Any) -> None:
        path.append(neurons_of(intermediate_result.x.copy()))

    flat = start.flat()[0].numpy()
    path = [neurons_of(flat.copy())]
    with threads_for(objective.X.numel() * k):
        result = minimize(
            function,
            flat,
            jac=True,
            method="L-BFGS-B",
            callback=record,
            options={"maxiter": NEURON_ITERATIONS, "maxfun": 2 * NEURON_ITERATIONS},
        )
    # L-BFGS-B may return a point that is worse than its start.
    value, start_value = function(result.x)[0], function(flat)[0]
    if value > start_value:
        return neurons_of(flat), start_value, path
    return neurons_of(result.x), value, path
