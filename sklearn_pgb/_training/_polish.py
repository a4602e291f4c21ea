"""`polish`: full-batch minimization to a critical point."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

from sklearn_pgb._budget import (
    POLISH_DENSE_PARAMS,
    POLISH_GTOL,
    POLISH_ITERATIONS,
    POLISH_NEWTON_STEPS,
)
from sklearn_pgb._threads import threads_for
from sklearn_pgb._training._objective import Objective, hessian


@dataclass(frozen=True, eq=False)
class Polished:
    """Result of a polish: parameters, objective with penalty, and counts.

    `losses` has the objective after each iteration of L-BFGS and Newton's method,
    `n_evaluations` only counts those of L-BFGS.
    """

    theta: Tensor
    value: float
    n_iter: int
    n_evaluations: int
    losses: list[float]


def polish(
    objective: Objective,
    theta: Tensor,
    *,
    gtol: float = POLISH_GTOL,
    max_iter: int = POLISH_ITERATIONS,
    max_evaluations: int = 15_000,
    newton: bool = True,
    on_iteration: Callable[[Tensor, float], bool] | None = None,
) -> Polished:
    """Minimize an objective on all samples by L-BFGS, followed by Newton's method.

    L-BFGS stops when the decrease of the objective is below rounding errors, at
    gradients around 1e-6. Newton steps then decrease the gradient further, if there are
    at most POLISH_DENSE_PARAMS parameters. They use the absolute values of the
    Hessian's eigenvalues, to also descend near saddles. The result is never worse than
    the start.

    Parameters
    ----------
    objective : Objective
        In float64.
    gtol : float
        Stop if no entry of the gradient exceeds this.
    max_iter, max_evaluations : int
        Limits of L-BFGS.
    newton : bool
        Whether to use Newton's method.
    on_iteration : callable or None
        Takes parameters and objective. The polish ends if it returns True.
    """
    losses: list[float] = []
    stopped = False

    def record(theta: Tensor, value: float) -> bool:
        nonlocal stopped
        losses.append(value)
        stopped = on_iteration is not None and on_iteration(theta, value)
        return stopped

    with threads_for(theta.numel() * objective.n_samples):
        rough = quasi_newton(
            objective.value_and_gradient_of_one,
            theta,
            gtol=gtol,
            max_iter=max_iter,
            max_evaluations=max_evaluations,
            on_iteration=record,
        )
        theta = rough.theta
        if newton and not stopped and len(theta) <= POLISH_DENSE_PARAMS:
            theta = _newton(objective, theta, gtol, record)
        value, _ = objective.value_and_gradient_of_one(theta)
    return replace(
        rough,
        theta=theta,
        value=float(value),
        n_iter=max(1, len(losses)),
        losses=losses,
    )


def quasi_newton(
    function: Callable[[Tensor], tuple[Tensor, Tensor]],
    theta: Tensor,
    *,
    gtol: float,
    max_iter: int,
    max_evaluations: int = 15_000,
    on_iteration: Callable[[Tensor, float], bool] | None = None,
) -> Polished:
    """Minimize a function that returns value and gradient by L-BFGS; see `polish`."""
    start = theta.detach().cpu().double().numpy().copy()
    trace = _Trace(function, start, max_evaluations)
    losses: list[float] = []

    def callback(intermediate_result: Any) -> None:
        losses.append(float(intermediate_result.fun))
        point = torch.from_numpy(intermediate_result.x.copy())
        if on_iteration is not None and on_iteration(point, losses[-1]):
            raise StopIteration

    # SciPy only checks its own limit of evaluations after each line search.
    with suppress(_ExhaustedError):
        minimize(
            trace,
            start,
            jac=True,
            method="L-BFGS-B",
            callback=callback,
            options={
                "maxiter": max_iter,
                "maxfun": max_evaluations,
                "gtol": gtol,
                # Near a critical point all decreases are small, so only the gradient
                # decides.
                "ftol": 0.0,
                "maxcor": 20,
            },
        )
    return Polished(
        theta=torch.from_numpy(trace.best),
        value=trace.value,
        n_iter=max(1, len(losses)),
        n_evaluations=trace.n_evaluations,
        losses=losses,
    )


class _ExhaustedError(Exception):
    """The limit of evaluations is reached."""


class _Trace:
    """A function of arrays that counts its evaluations and keeps the best point."""

    def __init__(
        self,
        function: Callable[[Tensor], tuple[Tensor, Tensor]],
        start: NDArray[np.float64],
        max_evaluations: int,
    ):
        self.function, self.max_evaluations = function, max_evaluations
        value, gradient = function(torch.from_numpy(start))
        self.best, self.value = start, float(value)
        self.gradient = gradient.numpy().copy()
        self.n_evaluations = 1
        # Returned instead of overflow. It makes the line search backtrack; after a much
        # larger value it would interpolate to a step of zero and stop.
        self.worse = 2 * abs(self.value) + 1

    def __call__(self, flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        # SciPy evaluates the start again.
        if self.n_evaluations == 1 and np.array_equal(flat, self.best):
            return self.value, self.gradient.copy()
        if self.n_evaluations >= self.max_evaluations:
            raise _ExhaustedError
        self.n_evaluations += 1
        value, gradient = self.function(torch.from_numpy(flat))
        if not bool(value.isfinite()):
            return self.worse, np.zeros_like(flat)
        # L-BFGS-B can return a point that is worse than an earlier trial of a line
        # search.
        if float(value) <= self.value:
            self.best, self.value = flat.copy(), float(value)
            self.gradient = gradient.numpy().copy()
        return float(value), gradient.numpy()


def _newton(
    objective: Objective,
    theta: Tensor,
    gtol: float,
    on_iteration: Callable[[Tensor, float], bool],
) -> Tensor:
    """Take Newton steps if they decrease the gradient and keep the objective."""
    value, gradient = objective.value_and_gradient_of_one(theta)
    for _ in range(POLISH_NEWTON_STEPS):
        if float(gradient.abs().max()) <= gtol:
            break
        eigenvalues, vectors = torch.linalg.eigh(hessian(objective, theta))
        # Negative curvature is taken as positive, so that a step still descends near a
        # saddle.
        size = eigenvalues.abs()
        coordinates = vectors.T @ gradient
        # Objectives that differ by rounding count as equal.
        noise = 4 * np.finfo(float).eps * max(1.0, abs(float(value)))
        # Try little damping first, because it converges quadratically. More damping
        # shortens steps along flat directions.
        for damping in (1e-10, 1e-6, 1e-3, 1e-1, 10.0):
            floor = damping * float(size.max()) + 1e-300
            trial = theta - vectors @ (coordinates / size.clamp(min=floor))
            new_value, new_gradient = objective.value_and_gradient_of_one(trial)
            # The objective is flat up to rounding here, so only the gradient shows
            # progress.
            decreases = float(new_gradient.norm()) < float(gradient.norm())
            if decreases and new_value <= value + noise:
                break
        else:
            break
        theta, value, gradient = trial, new_value, new_gradient
        if on_iteration(theta, float(value)):
            break
    return theta
