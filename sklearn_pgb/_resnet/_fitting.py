"""One fit: the ridge, the residual units by variable projection, exact solutions."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from sklearn_pgb._convex._bounds import Bound
from sklearn_pgb._convex._infimum import infimum
from sklearn_pgb._convex._problem import ConvexProblem, Solution
from sklearn_pgb._convex._select import convex_folds
from sklearn_pgb._estimator._alpha import (
    OTHER_ALPHAS,
    SQUARED_LOSS_ALPHAS,
    AlphaChoice,
    Effort,
    by_approximate_leave_one_out,
    by_held_out,
    can_leave_out,
    fixed,
    is_dense,
)
from sklearn_pgb._estimator._border import Parts
from sklearn_pgb._losses import Loss, PoissonLoss
from sklearn_pgb._resnet._full_batch import full_batch
from sklearn_pgb._resnet._minibatches import minibatches
from sklearn_pgb._resnet._projection import Projection, SquaredProjection, projection
from sklearn_pgb._resnet._residual import Found, Hook, Request, Residual, Samples
from sklearn_pgb._threads import threads_for, threads_for_solve
from sklearn_pgb._training._program import Program
from sklearn_pgb._training._residual import evaluate_units

# What the solvers of the convex problems may spend; the tolerance makes the certified
# comparison with the basis' own minimum good to 1e-9.
EFFORT = Effort(max_memory=2.0**30, tol=1e-10, max_iter=200)

# A relative gap up to here is good enough whatever the solver says of its last step.
CERTAIN = 1e-6

# Loss above that of the basis, as a share of it and of the targets' variance, that is
# more than rounding of the last digits.
WORSE = 1e-9

# Relative standard deviations below this are rounding of constants.
ROUNDING = 1e-12

# "auto" takes all samples for each step up to this many.
FULL_BATCH_ROWS = 10_000

# Labels that the basis alone predicts on held-out samples to this share of the loss of
# the strongest ridge leave nothing to gain; fits on separable classes, whose solutions
# are the most expensive, take a fifth of the time without the search for it.
NOTHING_LEFT = 1e-3

# Each step solves for the linear part up to this many samples times squared unknowns
# and, by Newton, this many unknowns. Beyond, training it along is faster: for 1,300
# images of ten digits a fit takes 3 s by either, but with 20 classes of 5 samples 0.2 s
# instead of 3.2. Up to there it takes fewer steps, and ends at a smaller loss in 100 of
# them: two moons have a held-out log loss of .25 instead of .27.
PROJECTION_FLOPS, NEWTON_UNKNOWNS = 5e8, 250


@dataclass(frozen=True, eq=False)
class Fit:
    """What a fit reached, in the units of its samples.

    Attributes
    ----------
    theta : Tensor (n_params,)
        Of the units.
    unit : Tensor (n_basis,)
        What the columns of the basis were divided by.
    scale : float
        Constant in front of the units in the objective; zero where they were left out.
    alpha : float
    solution, basis : Solution
        Of the convex problems with and without the units.
    bound, basis_bound : Bound
        Certified lower bounds on the two problems.
    found : Found
        What the training of the units reached.
    """

    theta: Tensor
    unit: Tensor
    scale: float
    alpha: float
    solution: Solution
    basis: Solution
    bound: Bound
    basis_bound: Bound
    found: Found

    @property
    def coef(self) -> Tensor:
        """R^T in units of phi and z, of shape (n_basis + n_units, n_outputs)."""
        coef = self.solution.coef.reshape(-1, len(self.solution.intercept))
        n_basis = len(self.unit)
        A = coef[:n_basis] / self.unit[:, None]
        return torch.cat([A, self.scale * coef[n_basis:]])

    def without_units(self) -> "Fit":
        """The basis' own solution, with zeros for the units."""
        solution = _padded(self.basis, len(self.solution.coef))
        return replace(self, scale=0.0, solution=solution, bound=self.basis_bound)


def _padded(basis: Solution, n_coef: int) -> Solution:
    """The basis' own solution, with zeros for the units up to `n_coef`."""
    zeros = basis.coef.new_zeros(n_coef - len(basis.coef))
    return replace(basis, coef=torch.cat([basis.coef, zeros]))


def fit_resnet(
    units: Program,
    theta: Tensor,
    is_weight: Tensor,
    loss: Loss,
    samples: Samples,
    request: Request,
    parts: Callable[[], Parts] | None,
    hook: Hook,
) -> Fit:
    """Choose the ridge, train the units, solve for the linear part.

    Parameters
    ----------
    units : Program
        z, of one member.
    theta : Tensor (n_params,)
        Where its parameters start.
    is_weight : Tensor (n_params,)
        Which of them decay.
    loss : Loss
    samples : Samples
    request : Request
    parts : callable or None
        Gives folds of the rows, by which the number of iterations is chosen and, where
        leave-one-out is too expensive, the ridge; None trains for all iterations.
    hook : callable
        Gets parameters, objective, R^T and intercept after each iteration; True ends
        the training.
    """
    n_columns = (
        samples.basis.shape[1]
        + evaluate_units(units, theta, samples.inputs[:1])[0].shape[1]
    )
    unit = torch.ones_like(samples.basis[0])
    if request.alpha == 0:
        # Scales do not matter then, but for the numerical rank.
        # Powers of two, so that no digits of columns far from zero are lost.
        unit = torch.exp2(samples.spread().log2().round())
    samples = replace(samples, basis=samples.basis / unit)

    def in_units(
        theta: Tensor, value: float, solve: Callable[[], tuple[Tensor, Tensor]]
    ) -> bool:
        def head() -> tuple[Tensor, Tensor]:
            coef, intercept = solve()
            A, B = coef[: len(unit)] / unit[:, None], scale * coef[len(unit) :]
            return torch.cat([A, B]), intercept

        return hook(theta, value, head)

    with threads_for_solve(samples.y.numel(), n_columns * samples.y.shape[1]):
        inner = projection(
            samples.basis, samples.y, samples.weight, loss, request.intercept
        )
        choice = fixed(request.alpha or 0.0)
        if request.alpha is None:
            choice = choose_alpha(inner, request, parts)
        alpha = choice.alpha
        scale = unit_scale(units, theta, samples)
        penalty = torch.where(is_weight, request.decay, 0.0).to(samples.y)
        start = Residual(units, samples, inner, alpha, scale, penalty)
        left = parts is None or not is_solved(loss, choice)
        training = full_batch if request.full_batch or not left else minibatches
        with threads_for(len(samples.y) * theta.numel()):
            found = training(start, theta, request, parts if left else list, in_units)
        if not left:
            found = replace(found, basis_held_out=float(choice.scores.min()))
        return _finish(start, found, unit)


def _finish(objective: Residual, found: Found, unit: Tensor) -> Fit:
    """Both convex problems at the chosen ridge, solved and certified."""
    inner, alpha = objective.inner, found.alpha
    scale = objective.scale if found.improves else 0.0
    nothing = objective.samples.basis[:, :0]
    basis = inner.exact(nothing, alpha, EFFORT.tol, EFFORT.max_iter)
    z, _ = evaluate_units(objective.units, found.theta, objective.samples.inputs)
    if found.improves:
        solution = inner.exact(scale * z, alpha, EFFORT.tol, EFFORT.max_iter)
    else:
        n_units = z.shape[1] * objective.samples.y.shape[1]
        solution = _padded(basis, len(basis.coef) + n_units)
    fit = Fit(
        theta=found.theta,
        unit=unit,
        scale=scale,
        alpha=alpha,
        solution=solution,
        basis=basis,
        bound=certified_bound(inner.problem(scale * z, alpha), solution),
        basis_bound=certified_bound(inner.problem(nothing, alpha), basis),
        found=found,
    )
    warn_if_unconverged(fit)
    return fit


def warn_if_unconverged(fit: Fit) -> None:
    """Say which of the two linear models could be better than it is."""
    for name, part, bound in [
        ("[phi, z]", fit.solution, fit.bound),
        ("phi", fit.basis, fit.basis_bound),
    ]:
        # Losses below the rounding of one are zero: one class alone has no minimum.
        size = max(abs(part.value), torch.finfo(torch.float64).eps / CERTAIN)
        gap = (part.value - bound.value) / size
        if not part.converged and gap > CERTAIN:
            warnings.warn(
                f"The convex solver stopped after {part.n_iter} iterations, at a "
                f"relative duality gap of {gap:.1e}: the loss of the linear model on "
                f"{name} can be that far above its minimum. Increase alpha, or "
                "standardise the features of the basis.",
                ConvergenceWarning,
                stacklevel=2,
            )
            return


def is_worse(loss: float, basis_loss: float, variance: float) -> bool:
    """Whether a fitted model is worse than the basis alone, with a warning if it is."""
    if loss <= basis_loss + WORSE * (abs(basis_loss) + variance):
        return False
    warnings.warn(
        "The residual units were left out: rounding of large coefficients takes the "
        f"loss to {loss:.6g}, above that of the basis, {basis_loss:.6g}. Increase "
        "alpha, or standardise X.",
        ConvergenceWarning,
        stacklevel=5,
    )
    return True


def certified_bound(problem: ConvexProblem, solution: Solution) -> Bound:
    """Lower bound on a problem: with a ridge it holds for all coefficients."""
    if problem.alpha > 0:
        return Bound(solution.lower_bound, np.inf).within(solution.value)
    least = infimum(problem, in_hand=solution.value)
    return Bound(least.lower_bound, least.norm_budget)


def unit_scale(units: Program, theta: Tensor, samples: Samples) -> float:
    """What gives the units, at their start, the total variance of the basis."""
    z, _ = evaluate_units(units, theta, samples.inputs)
    wrong = int((~z.isfinite().all(1)).sum())
    if wrong:
        raise ValueError(
            "module must map X to finite numbers, got nan or infinity for "
            f"{wrong} of {len(z)} samples. Look for divisions, logarithms and roots in "
            "its forward, or standardise X."
        )
    variance = total_variance(z, samples.weight)
    if variance == 0:
        return 1.0
    ratio = total_variance(samples.basis, samples.weight) / variance
    return ratio**0.5 if 0 < ratio < np.inf else 1.0


def total_variance(rows: Tensor, weight: Tensor) -> float:
    """Weighted mean squared distance from the mean; zero where it is rounding."""
    mean = weight @ rows
    variance = float(weight @ (rows - mean).square().sum(1))
    return variance if variance > ROUNDING**2 * float(mean @ mean) else 0.0


def projection_pays(samples: Samples, n_units: int, loss: Loss) -> bool:
    """Whether solving for the linear part at each step is cheap."""
    n, k = samples.y.shape
    unknowns = samples.basis.shape[1] + n_units
    if loss.quadratic:
        # Outputs share one matrix.
        return n * unknowns**2 <= PROJECTION_FLOPS
    unknowns *= k
    return unknowns <= NEWTON_UNKNOWNS and n * unknowns**2 <= PROJECTION_FLOPS


def choose_alpha(
    inner: Projection, request: Request, parts: Callable[[], Parts] | None
) -> AlphaChoice:
    """The ridge of the basis' own model, by leave-one-out with the squared loss.

    Other losses take the folds where there are any, unless leave-one-out is asked for:
    by a Newton step it errs where classes are nearly separable, and then towards ridges
    that are far too weak.
    """
    problem = inner.problem(inner.X[:, :0], 0.0)
    if not can_leave_out(problem, request.total_weight):
        rule = "loo" if request.leave_one_out else "auto"
        raise ValueError(
            "alpha must be a number where n_samples=1, as nothing is left when a row "
            f"is left out, got {rule!r}. Add rows or give a number."
        )
    size = total_variance(inner.X, inner.weight) or 1.0
    if isinstance(inner, SquaredProjection):
        grid = torch.from_numpy(size * SQUARED_LOSS_ALPHAS).to(inner.y)
        unit = (1 / (inner.weight * request.total_weight)).clamp(max=1)
        return fixed(float(grid[inner.leave_one_out(grid, unit).argmin()]))
    alphas = size * OTHER_ALPHAS
    folds = [] if parts is None else parts()
    if not folds or (request.leave_one_out and is_dense(problem)):
        return by_approximate_leave_one_out(
            problem, alphas, request.total_weight, EFFORT
        )
    return by_held_out(convex_folds(problem, folds), problem, alphas, EFFORT)[0]


def is_solved(loss: Loss, choice: AlphaChoice) -> bool:
    """Whether the basis alone leaves next to nothing of the loss of labels.

    Numbers and counts can be predicted better and better. Without scores of ridges
    nothing is known.
    """
    if loss.quadratic or isinstance(loss, PoissonLoss):
        return False
    if not np.isfinite(choice.scores).all():
        return False
    return bool(choice.scores.min() <= NOTHING_LEFT * choice.scores[0])
