"""Fit of a ResNet basis: choice of alpha, training of the units, exact solutions."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from sklearn_pgb._budget import (
    GAP_RTOL,
    LARGEST_PENALTY,
    LOSS_ROUNDING,
    MAX_MEMORY,
    NEWTON_UNKNOWNS,
    PROJECTION_FLOPS,
    RESNET_MAX_ITER,
    RESNET_TOL,
    SOLVED_FRACTION,
    WORSE_RTOL,
)
from sklearn_pgb._convex._bounds import Bound
from sklearn_pgb._convex._choice import (
    AlphaChoice,
    Effort,
    candidate_alphas,
    choose_alpha,
)
from sklearn_pgb._convex._heldout import convex_folds
from sklearn_pgb._convex._infimum import infimum
from sklearn_pgb._convex._problem import ConvexProblem, Solution
from sklearn_pgb._estimator._folds import Parts
from sklearn_pgb._losses._loss import Loss
from sklearn_pgb._resnet._full_batch import full_batch
from sklearn_pgb._resnet._minibatches import minibatches
from sklearn_pgb._resnet._projection import Projection, SquaredProjection
from sklearn_pgb._resnet._residual import (
    BasisSamples,
    Hook,
    ResidualObjective,
    ResNetRequest,
    UnitTraining,
)
from sklearn_pgb._threads import threads_for, threads_for_solve
from sklearn_pgb._training._program import Program
from sklearn_pgb._training._residual import evaluate_units

EFFORT = Effort(max_memory=MAX_MEMORY, tol=RESNET_TOL, max_iter=RESNET_MAX_ITER)


@dataclass(frozen=True, eq=False)
class ResNetFit:
    """Result of a fit, for standardized inputs and targets.

    Theta has the parameters of the units, and `column_scale` the divisors of the
    columns of the basis. `scale` is the factor of the units in the objective; it is
    zero if they were left out. There are solutions of the convex problems with and
    without the units, with certified lower bounds on both.
    """

    theta: Tensor
    column_scale: Tensor
    scale: float
    alpha: float
    solution: Solution
    basis: Solution
    bound: Bound
    basis_bound: Bound
    training: UnitTraining

    @property
    def coef(self) -> Tensor:
        """R^T for unscaled phi and z, of shape (n_basis + n_units, n_outputs)."""
        coef = self.solution.coef.reshape(-1, len(self.solution.intercept))
        n_basis = len(self.column_scale)
        A = coef[:n_basis] / self.column_scale[:, None]
        return torch.cat([A, self.scale * coef[n_basis:]])

    def without_units(self) -> "ResNetFit":
        """Return the solution on the basis alone, with zeros for the units."""
        solution = _padded(self.basis, len(self.solution.coef))
        return replace(self, scale=0.0, solution=solution, bound=self.basis_bound)


def _padded(basis: Solution, n_coef: int) -> Solution:
    """Append zeros for the units to a solution on the basis alone."""
    zeros = basis.coef.new_zeros(n_coef - len(basis.coef))
    return replace(basis, coef=torch.cat([basis.coef, zeros]))


def fit_resnet(
    units: Program,
    theta: Tensor,
    is_weight: Tensor,
    loss: Loss,
    samples: BasisSamples,
    request: ResNetRequest,
    parts: Callable[[], Parts] | None,
    hook: Hook,
) -> ResNetFit:
    """Choose alpha, train the units and solve for the linear part.

    `is_weight` marks the parameters with weight decay. `parts` returns folds to choose
    the number of iterations, and alpha if leave-one-out is too expensive; None trains
    for all iterations. The training ends if `hook` returns True.
    """
    n_columns = (
        samples.basis.shape[1]
        + evaluate_units(units, theta, samples.inputs[:1])[0].shape[1]
    )
    column_scale = torch.ones_like(samples.basis[0])
    if request.alpha == 0:
        # Without a penalty, scaling only affects the numerical rank. Powers of two do
        # not round columns far from zero.
        column_scale = torch.exp2(samples.spread().log2().round())
    samples = samples.scaled(column_scale)

    def unscaled_hook(
        theta: Tensor, value: float, solve: Callable[[], tuple[Tensor, Tensor]]
    ) -> bool:
        def head() -> tuple[Tensor, Tensor]:
            coef, intercept = solve()
            A, B = coef.tensor_split([len(column_scale)])
            return torch.cat([A / column_scale[:, None], scale * B]), intercept

        return hook(theta, value, head)

    with threads_for_solve(samples.y.numel(), n_columns * samples.y.shape[1]):
        inner = samples.projection(loss, request.intercept)
        alpha, choice = request.alpha, None
        if alpha is None:
            choice = choose_penalty(inner, request, parts)
            alpha = choice.alpha
        scale = unit_scale(units, theta, samples)
        penalty = is_weight.to(samples.y) * min(request.decay, LARGEST_PENALTY)
        start = ResidualObjective(units, samples, inner, alpha, scale, penalty)
        solved = choice is not None and parts is not None and is_solved(loss, choice)
        train = full_batch if request.full_batch or solved else minibatches
        with threads_for(len(samples.y) * theta.numel()):
            # Without any folds the units are left out.
            folds = list if solved else parts
            training = train(start, theta, request, folds, unscaled_hook)
        if choice is not None and solved:
            training = replace(training, basis_heldout_loss=float(choice.scores.min()))
        return _finish(start, training, column_scale)


def _finish(
    objective: ResidualObjective, training: UnitTraining, column_scale: Tensor
) -> ResNetFit:
    """Solve and certify the problems with and without units at the chosen alpha."""
    inner, alpha = objective.inner, training.alpha
    scale = objective.scale if training.improves else 0.0
    no_units = objective.samples.basis[:, :0]
    basis = inner.exact(no_units, alpha, EFFORT.tol, EFFORT.max_iter)
    z, _ = evaluate_units(objective.units, training.theta, objective.samples.inputs)
    if training.improves:
        solution = inner.exact(scale * z, alpha, EFFORT.tol, EFFORT.max_iter)
    else:
        n_units = z.shape[1] * objective.samples.y.shape[1]
        solution = _padded(basis, len(basis.coef) + n_units)
    fit = ResNetFit(
        theta=training.theta,
        column_scale=column_scale,
        scale=scale,
        alpha=alpha,
        solution=solution,
        basis=basis,
        bound=certified_bound(inner.problem(scale * z, alpha), solution),
        basis_bound=certified_bound(inner.problem(no_units, alpha), basis),
        training=training,
    )
    warn_of_gap(fit)
    return fit


def warn_of_gap(fit: ResNetFit) -> None:
    """Warn if a convex problem was not solved to the required gap."""
    for name, part, bound in [
        ("[phi, z]", fit.solution, fit.bound),
        ("phi", fit.basis, fit.basis_bound),
    ]:
        # The loss of a single class has infimum zero: tiny losses count as converged.
        size = max(abs(part.value), torch.finfo(torch.float64).eps / GAP_RTOL)
        gap = (part.value - bound.value) / size
        if not part.converged and gap > GAP_RTOL:
            warnings.warn(
                f"The convex solver stopped after {part.n_iter} iterations, at a "
                f"relative duality gap of {gap:.1e}: the loss of the linear model on "
                f"{name} can be that far above its minimum. Increase alpha, or "
                "standardize the features of the basis.",
                ConvergenceWarning,
                stacklevel=2,
            )
            return


def is_worse(loss: float, basis_loss: float, variance: float) -> bool:
    """Whether a fitted model is worse than the basis alone; warn if so."""
    if loss <= basis_loss + WORSE_RTOL * (abs(basis_loss) + variance):
        return False
    warnings.warn(
        "The residual units were left out: due to rounding of large coefficients their "
        f"loss is {loss:.6g}, above that of the basis, {basis_loss:.6g}. Increase "
        "alpha, or standardize X.",
        ConvergenceWarning,
        stacklevel=5,
    )
    return True


def certified_bound(problem: ConvexProblem, solution: Solution) -> Bound:
    """Return a certified lower bound, for all coefficients if alpha is positive."""
    if problem.alpha > 0:
        return Bound(solution.lower_bound, np.inf).within(solution.value)
    return infimum(problem, attained_loss=solution.value).bound


def unit_scale(units: Program, theta: Tensor, samples: BasisSamples) -> float:
    """Return the factor that gives initial units the total variance of the basis."""
    z, _ = evaluate_units(units, theta, samples.inputs)
    n_invalid = int((~z.isfinite().all(1)).sum())
    if n_invalid:
        raise ValueError(
            "module must map X to finite numbers, got nan or infinity for "
            f"{n_invalid} of {len(z)} samples. Check divisions, logarithms and roots "
            "in its forward, or standardize X."
        )
    variance = total_variance(z, samples.weight)
    if variance == 0:
        return 1.0
    ratio = total_variance(samples.basis, samples.weight, samples.center) / variance
    return ratio**0.5 if 0 < ratio < np.inf else 1.0


def total_variance(rows: Tensor, weight: Tensor, center: Tensor | float = 0.0) -> float:
    """Return the sum of weighted variances; zero if it is only rounding error.

    `center` was subtracted from the rows before.
    """
    mean = weight @ rows
    variance = float(weight @ (rows - mean).square().sum(1))
    mean = mean + center
    return variance if variance > LOSS_ROUNDING**2 * float(mean @ mean) else 0.0


def projection_is_cheap(samples: BasisSamples, n_units: int, loss: Loss) -> bool:
    """Whether solving for the linear part at each step is cheap."""
    n, k = samples.y.shape
    unknowns = samples.basis.shape[1] + n_units
    if loss.quadratic:
        # All outputs use the same factorization.
        return n * unknowns**2 <= PROJECTION_FLOPS
    unknowns *= k
    return unknowns <= NEWTON_UNKNOWNS and n * unknowns**2 <= PROJECTION_FLOPS


def choose_penalty(
    inner: Projection, request: ResNetRequest, parts: Callable[[], Parts] | None
) -> AlphaChoice:
    """Choose alpha for the model on the basis alone, in units of its variance."""
    problem = inner.problem(inner.X[:, :0], 0.0)
    rule = "loo" if request.leave_one_out else "auto"
    size = total_variance(inner.X, inner.weight) or 1.0
    return choose_alpha(
        problem,
        rule,
        size * candidate_alphas(rule, inner.loss.quadratic),
        request.counts,
        EFFORT,
        lambda problem: convex_folds(problem, [] if parts is None else parts()),
        inner if isinstance(inner, SquaredProjection) else None,
    )


def is_solved(loss: Loss, choice: AlphaChoice) -> bool:
    """Whether the basis alone predicts held-out labels almost perfectly.

    Always False for numbers and counts, as their loss can always decrease further, and
    without held-out scores.
    """
    if not loss.is_classification or not np.isfinite(choice.scores).all():
        return False
    return bool(choice.scores.min() <= SOLVED_FRACTION * choice.scores[0])
