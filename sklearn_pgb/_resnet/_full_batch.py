"""Training of the units on all samples at once, by L-BFGS."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sklearn_pgb._estimator._border import Parts
from sklearn_pgb._resnet._gain import copies, pays
from sklearn_pgb._resnet._joint import Joint
from sklearn_pgb._resnet._residual import Found, Hook, Request, Residual, Samples
from sklearn_pgb._training._polish import quasi_newton
from sklearn_pgb._training._residual import evaluate_units

# Iterations without progress after which L-BFGS ends.
PATIENCE = 5

# Iterations after which the held-out loss is looked at, and looks without a new best
# after which a fold ends. Trained along with the linear part, the units learn less in
# an iteration, and a look costs as much as many of them: half as many looks will do.
CHECKPOINTS = (1, 3, 6, 12, 25, 50, 100, 200, 400, 800)
LOOKS, JOINT_LOOKS = 3, 2


def full_batch(
    objective: Residual,
    theta: Tensor,
    request: Request,
    parts: Callable[[], Parts] | None,
    hook: Hook,
) -> Found:
    """L-BFGS, for as many iterations as pay on held-out samples."""
    choice = Choice(request.max_iter, objective.alpha, True)
    if parts is not None:
        choice = choose(objective, theta, request, parts())
    losses: list[float] = []

    def on_iteration(theta: Tensor, value: float) -> bool:
        losses.append(value)
        return hook(theta, value, lambda: objective.head(theta, objective.alpha))

    theta = descend(objective, theta, choice.n_iter, request, on_iteration)
    return Found(
        theta,
        choice.alpha,
        losses,
        len(losses),
        choice.improves,
        choice.held_out,
        choice.basis_held_out,
    )


def descend(
    objective: Residual,
    theta: Tensor,
    max_iter: int,
    request: Request,
    on_iteration: Callable[[Tensor, float], bool],
) -> Tensor:
    """Parameters of the units after at most so many iterations.

    The linear part is solved for at each step, or trained along if that is cheaper; the
    objective is the same.
    """
    function, start = projected(objective), theta
    if not request.projects:
        function, start = joint(objective, theta)
    size, floor = len(theta), objective.floor()
    losses: list[float] = []

    def note(point: Tensor, value: float) -> bool:
        losses.append(value)
        stop = on_iteration(point[-size:].to(theta.device), value)
        return stop or _is_idle(losses, floor, request.tol)

    if max_iter == 0:
        on_iteration(theta, float(function(start)[0]))
        return theta
    found = quasi_newton(
        function, start, gtol=1e-9, max_iter=max_iter, on_iteration=note
    )
    if not losses:
        on_iteration(theta, found.value)
    return found.theta[-size:].to(theta.device)


Function = Callable[[Tensor], tuple[Tensor, Tensor]]


def projected(objective: Residual) -> Function:
    """Variable projection: the minimum over the linear part, by the units alone.

    Its gradient is that of the objective at the minimising R, which need not be
    differentiated (envelope theorem).
    """
    samples, inner = objective.samples, objective.inner

    def function(theta: Tensor) -> tuple[Tensor, Tensor]:
        theta = theta.to(samples.y.device)
        z, pull = evaluate_units(objective.units, theta, samples.inputs)
        Z = objective.scale * z
        coef, intercept = inner.solve(Z, objective.alpha)
        A, B = coef.split([samples.basis.shape[1], Z.shape[1]])
        raw = samples.basis @ A + Z @ B + intercept
        residual = inner.loss.gradient(samples.y, raw) * samples.weight[:, None]
        value = samples.weight @ inner.loss.value(samples.y, raw)
        value = value + 0.5 * objective.alpha * coef.square().sum()
        gradient = pull(objective.scale * (residual @ B.T))
        gradient = gradient + 2 * objective.penalty * theta
        return (value + objective.penalty @ theta.square()).cpu(), gradient.cpu()

    return function


def joint(objective: Residual, theta: Tensor) -> tuple[Function, Tensor]:
    """The objective of all parameters, and where they start."""
    samples = objective.samples
    z, _ = evaluate_units(objective.units, theta, samples.inputs[:1])
    whole = Joint(objective, samples, torch.float64)
    together = whole.objective(z.shape[1])

    def function(point: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = together.value_and_gradient(point[None].to(samples.y.device))
        return value[0].cpu(), gradient[0].cpu()

    return function, whole.start(theta)


def _is_idle(losses: Sequence[float], floor: float, tol: float) -> bool:
    """Whether the last PATIENCE iterations have brought next to nothing."""
    if len(losses) <= PATIENCE:
        return False
    return losses[-1 - PATIENCE] - losses[-1] <= tol * (losses[-1] - floor)


@dataclass(frozen=True)
class Choice:
    """Iterations, ridge, and whether units pay, by held-out losses."""

    n_iter: int
    alpha: float
    improves: bool
    held_out: float = np.nan
    basis_held_out: float = np.nan


def choose(
    objective: Residual, theta: Tensor, request: Request, folds: Parts
) -> Choice:
    """Iterations and ridge of the smallest held-out loss, over all folds.

    Units are kept if they beat the basis' own best ridge by more than chance. Without
    any fold nothing speaks for them.
    """
    if not folds:
        return Choice(0, objective.alpha, False)
    between = CHECKPOINTS if request.projects else CHECKPOINTS[1::2]
    checkpoints = [0, *(c for c in between if c < request.max_iter)]
    checkpoints.append(request.max_iter)
    alphas = [factor * objective.alpha for factor in request.factors()]
    # Weighted losses of each sample, summed over the folds that hold it out.
    n_samples = len(objective.samples.y)
    weight = objective.samples.weight.cpu().numpy()
    alone = np.zeros((len(alphas), n_samples))
    curve = np.zeros((len(checkpoints), len(alphas), n_samples))
    times_held = np.zeros(n_samples)
    for seen, unseen in folds:
        held = objective.samples.rows(unseen)
        fold = objective.on(objective.samples.rows(seen))
        basis_losses = [fold.held_out_alone(a, held).cpu().numpy() for a in alphas]
        alone[:, unseen] += weight[unseen] * np.array(basis_losses)
        losses = held_out_curve(fold, held, theta, request, checkpoints, alphas)
        curve[..., unseen] += weight[unseen] * losses
        times_held[unseen] += weight[unseen]
    alone_means, means = (
        np.nan_to_num(part.sum(-1), nan=np.inf) for part in (alone, curve)
    )
    best = np.unravel_index(int(np.argmin(means)), means.shape)
    basis = int(alone_means.argmin())
    improves = pays(alone[basis], curve[best], times_held, copies(objective.samples))
    n_iter, alpha = 0, alphas[basis]
    if improves:
        n_iter, alpha = checkpoints[best[0]], alphas[best[1]]
    return Choice(
        n_iter, alpha, improves, float(means[best]), float(alone_means[basis])
    )


def held_out_curve(
    fold: Residual,
    held: Samples,
    theta: Tensor,
    request: Request,
    checkpoints: list[int],
    alphas: list[float],
) -> np.ndarray:
    """Losses of each ridge at each checkpoint (n_checkpoints, n_alphas, n_held).

    A fold that has converged, or not improved for so many looks, keeps its last losses
    for the checkpoints that it does not reach. Where looks are expensive, ridges weaker
    than the best keep their losses from one look to the next, as units that have
    learned more overfit sooner.
    """
    weight = held.weight.cpu().numpy()
    patience = LOOKS if request.projects else JOINT_LOOKS
    looks: list[np.ndarray] = []
    means: list[np.ndarray] = []

    def look(theta: Tensor) -> None:
        count = len(alphas)
        if looks and not request.projects:
            count = 1 + int(np.nan_to_num(means[-1], nan=np.inf).argmin())
        found = [fold.held_out(theta, alpha, held) for alpha in alphas[:count]]
        losses = torch.stack(found).cpu().numpy()
        if count < len(alphas):
            losses = np.concatenate([losses, looks[-1][count:]])
        looks.append(losses)
        means.append(looks[-1] @ weight)

    look(theta)
    n_iter = 0

    def on_iteration(theta: Tensor, value: float) -> bool:
        nonlocal n_iter
        n_iter += 1
        if n_iter in checkpoints:
            look(theta)
        least = [each.min() for each in means]
        return len(least) > int(np.argmin(least)) + patience

    last = descend(fold, theta, request.max_iter, request, on_iteration)
    if n_iter not in checkpoints:
        look(last)
    return np.array(looks + looks[-1:] * (len(checkpoints) - len(looks)))
