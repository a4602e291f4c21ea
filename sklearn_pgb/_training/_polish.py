"""`polish`: from a good point to a critical point, deterministically."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

from sklearn_pgb._threads import threads_for
from sklearn_pgb._training._objective import Objective

# Up to this many parameters the Hessian is formed and factorised, so many times.
DENSE_PARAMS, NEWTON_STEPS = 600, 50


@dataclass(frozen=True, eq=False)
class Polished:
    """Where a polish ended.

    Attributes
    ----------
    theta : Tensor (n_params,)
    value : float
        The objective, ridge included.
    gradient_norm : float
        Its gradient's Euclidean norm.
    n_iter : int
    n_evaluations : int
        Of the objective and its gradient by L-BFGS.
    losses : list of float
        The objective after each iteration.
    """

    theta: Tensor
    value: float
    gradient_norm: float
    n_iter: int
    n_evaluations: int
    losses: list[float]


def polish(
    objective: Objective,
    theta: Tensor,
    *,
    gtol: float = 1e-8,
    max_iter: int = 1000,
    max_evaluations: int = 15_000,
    newton: bool = True,
    on_iteration: Callable[[Tensor, float], bool] | None = None,
) -> Polished:
    """Minimise an objective on all samples: L-BFGS, and Newton at the end.

    L-BFGS stops where rounding hides the decrease of the objective, at gradients around
    1e-6. Newton steps on the gradient go on from there: with the absolute values of the
    Hessian's eigenvalues they descend near saddles too.

    Parameters
    ----------
    objective : Objective
        In float64.
    theta : Tensor (n_params,)
    gtol : float
        Largest entry of the gradient at which to stop.
    max_iter : int
        Iterations of L-BFGS.
    max_evaluations : int
        Evaluations of the objective in L-BFGS.
    newton : bool
        Whether to go on by Newton steps, up to DENSE_PARAMS parameters.
    on_iteration : callable or None
        Gets parameters and objective; the polish ends where it returns True.

    Returns
    -------
    Polished
        Never worse than the start.
    """

    def function(theta: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = objective.value_and_gradient(theta[None])
        return value[0], gradient[0]

    losses: list[float] = []
    stopped = False

    def note(theta: Tensor, value: float) -> bool:
        nonlocal stopped
        losses.append(value)
        stopped = on_iteration is not None and on_iteration(theta, value)
        return stopped

    with threads_for(theta.numel() * objective.n_samples):
        rough = quasi_newton(
            function,
            theta,
            gtol=gtol,
            max_iter=max_iter,
            max_evaluations=max_evaluations,
            on_iteration=note,
        )
        found = rough.theta
        if newton and not stopped and len(found) <= DENSE_PARAMS:
            found = _newton(objective, found, gtol, note)
        value, gradient = function(found)
    return replace(
        rough,
        theta=found,
        value=float(value),
        gradient_norm=float(gradient.norm()),
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
    """L-BFGS on a function that gives its value and gradient; see `polish`."""
    start = theta.detach().cpu().double().numpy().copy()
    trace = _Trace(function, start, max_evaluations)
    losses: list[float] = []

    def callback(intermediate_result: Any) -> None:
        losses.append(float(intermediate_result.fun))
        at = torch.from_numpy(intermediate_result.x.copy())
        if on_iteration is not None and on_iteration(at, losses[-1]):
            raise StopIteration

    # SciPy looks at its own limit of evaluations after a line search only.
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
                "ftol": 0.0,
                "maxcor": 20,
            },
        )
    return Polished(
        theta=torch.from_numpy(trace.best),
        value=trace.value,
        gradient_norm=float(torch.from_numpy(trace.gradient).norm()),
        n_iter=max(1, len(losses)),
        n_evaluations=trace.n_evaluations,
        losses=losses,
    )


class _ExhaustedError(Exception):
    """No evaluation is left."""


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
        # Enough to make the line search step back; from a huge value it would
        # interpolate to where it came from and stop.
        self.worse = 2 * abs(self.value) + 1

    def __call__(self, flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        if self.n_evaluations == 1 and np.array_equal(flat, self.best):
            return self.value, self.gradient.copy()
        if self.n_evaluations >= self.max_evaluations:
            raise _ExhaustedError
        self.n_evaluations += 1
        value, gradient = self.function(torch.from_numpy(flat))
        if not bool(value.isfinite()):
            return self.worse, np.zeros_like(flat)
        if float(value) <= self.value:
            self.best, self.value = flat.copy(), float(value)
            self.gradient = gradient.numpy().copy()
        return float(value), gradient.numpy()


def hessian(objective: Objective, theta: Tensor) -> Tensor:
    """Hessian of the objective of one member, (n_params, n_params)."""

    def value(theta: Tensor) -> Tensor:
        raw = objective.program.differentiable(theta, objective.X)
        data = objective.weight @ objective.loss.value(objective.y, raw)
        return data + objective.penalty @ theta.square()

    result: Tensor = torch.func.jacrev(torch.func.jacrev(value))(theta)
    return (result + result.T) / 2


def _newton(
    objective: Objective,
    theta: Tensor,
    gtol: float,
    note: Callable[[Tensor, float], bool],
) -> Tensor:
    """Newton steps that lower the gradient's norm and do not raise the objective."""

    def measure(theta: Tensor) -> tuple[float, Tensor]:
        value, gradient = objective.value_and_gradient(theta[None])
        return float(value), gradient[0]

    value, gradient = measure(theta)
    for _ in range(NEWTON_STEPS):
        if float(gradient.abs().max()) <= gtol:
            break
        eigenvalues, vectors = torch.linalg.eigh(hessian(objective, theta))
        size = eigenvalues.abs()
        along = vectors.T @ gradient
        noise = 4 * np.finfo(float).eps * max(1.0, abs(value))
        for damping in (1e-10, 1e-6, 1e-3, 1e-1, 10.0):
            floor = damping * float(size.max()) + 1e-300
            trial = theta - vectors @ (along / size.clamp(min=floor))
            new_value, new_gradient = measure(trial)
            falls = float(new_gradient.norm()) < float(gradient.norm())
            if falls and new_value <= value + noise:
                break
        else:
            break
        theta, value, gradient = trial, new_value, new_gradient
        if note(theta, value):
            break
    return theta
