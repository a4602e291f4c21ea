"""Training of the units on all samples at once: variable projection by L-BFGS."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sklearn_pgb._estimator import Parts
from sklearn_pgb._resnet._residual import Found, Hook, Request, Residual
from sklearn_pgb._training import quasi_newton

# Iterations without progress after which L-BFGS ends.
PATIENCE = 5

# Iterations after which held-out rows are looked at.
CHECKPOINTS = (1, 2, 3, 5, 8, 12, 18, 27, 40, 60, 90, 135, 200, 300, 450, 700, 1000)

# A fold is left for good where its loss has grown this far above its best, both less
# the least that any outputs can have. Where the best was this many checkpoints ago it
# is left as well, and counts as staying as it is.
HOPELESS, LATE = 1.3, 5


def full_batch(
    objective: Residual,
    theta: Tensor,
    request: Request,
    parts: Callable[[], Parts] | None,
    hook: Hook,
) -> Found:
    """L-BFGS, for as many iterations as pay on held-out rows."""
    n_iter, factor, improves = request.max_iter, 1.0, True
    if parts is not None:
        n_iter, factor, improves = _choose(objective, theta, request, parts())
    losses: list[float] = []
    floor = objective.floor(objective.samples)

    def on_iteration(theta: Tensor, value: float) -> bool:
        losses.append(value)
        return hook(theta, value, *objective.last) or _idle(losses, floor, request.tol)

    if n_iter and improves:
        polished = quasi_newton(
            objective, theta, gtol=1e-9, max_iter=n_iter, on_iteration=on_iteration
        )
        theta = polished.theta.to(theta.device)
    else:
        value = float(objective(theta)[0])
        on_iteration(theta, value)
    return Found(theta, factor * objective.alpha, improves, losses, max(1, len(losses)))


def _idle(losses: Sequence[float], floor: float, tol: float) -> bool:
    """Whether the last PATIENCE iterations have brought next to nothing."""
    if len(losses) <= PATIENCE:
        return False
    return losses[-1 - PATIENCE] - losses[-1] <= tol * (losses[-1] - floor)


def _choose(
    objective: Residual, theta: Tensor, request: Request, folds: Parts
) -> tuple[int, float, bool]:
    """Iterations, multiple of the ridge, and whether units pay, by held-out loss."""
    checkpoints = [0, *(c for c in CHECKPOINTS if c < request.max_iter)]
    checkpoints.append(request.max_iter)
    factors = request.factors()
    plain = np.zeros(len(factors))
    total = np.zeros((len(checkpoints), len(factors)))
    for seen, unseen in folds:
        share = float(objective.samples.weight[torch.from_numpy(unseen)].sum())
        alone, curve = _held_out_curve(
            objective, theta, request, seen, unseen, checkpoints, factors
        )
        plain += share * alone
        total += share * curve
    best = np.unravel_index(int(np.argmin(total)), total.shape)
    if total[best] < plain.min():
        return checkpoints[best[0]], factors[best[1]], True
    return 0, factors[int(plain.argmin())], False


def _held_out_curve(
    objective: Residual,
    theta: Tensor,
    request: Request,
    seen: NDArray[np.intp],
    unseen: NDArray[np.intp],
    checkpoints: list[int],
    factors: list[float],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Held-out losses without units (n_factors,), and with them at each checkpoint."""
    held = objective.samples.rows(unseen)
    fold = objective.on(objective.samples.rows(seen))
    alphas = [factor * objective.alpha for factor in factors]
    alone = [fold.loss(held.linear(fold.alone(alpha)), held) for alpha in alphas]
    curve = np.full((len(checkpoints), len(factors)), np.inf)
    losses: list[float] = []

    def look(theta: Tensor) -> NDArray[np.float64]:
        heads = (fold.head(theta, alpha) for alpha in alphas)
        raws = (fold.raw(theta, head, held) for head in heads)
        return np.array([fold.loss(raw, held) for raw in raws])

    curve[0] = look(theta)
    floor, seen_floor = fold.floor(held), fold.floor(fold.samples)

    def reached() -> NDArray[np.float64]:
        return curve[np.isfinite(curve).any(1)].min(1)

    def hopeless() -> bool:
        best = min(reached().min(), *alone)
        return bool(reached()[-1] - floor > HOPELESS * (best - floor))

    def late() -> bool:
        return len(reached()) > int(reached().argmin()) + LATE

    def on_iteration(theta: Tensor, value: float) -> bool:
        losses.append(value)
        if len(losses) in checkpoints:
            here = checkpoints.index(len(losses))
            curve[here] = look(theta.to(held.y.device))
        return hopeless() or late() or _idle(losses, seen_floor, request.tol)

    last = quasi_newton(
        fold, theta, gtol=1e-9, max_iter=request.max_iter, on_iteration=on_iteration
    )
    after = np.array(checkpoints) > len(losses)
    if after.any() and not hopeless():
        # What has converged stays where it is, and what is late is taken to.
        curve[after] = look(last.theta.to(held.y.device))
    return np.array(alone), curve
