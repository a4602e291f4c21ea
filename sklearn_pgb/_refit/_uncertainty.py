"""Predictive standard deviations of a squared-loss refit."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sklearn_pgb._convex import (
    ConvexProblem,
    HeldOutPath,
    PathSolver,
    column_means,
    convex_folds,
    search_path,
)
from sklearn_pgb._estimator import Parts
from sklearn_pgb._losses import GammaLoss
from sklearn_pgb._operators import KroneckerOperator, LinearOperator
from sklearn_pgb._refit._alpha import Effort, enough
from sklearn_pgb._refit._fitting import Refit

# Ridges of the noise model, whose features have mean squared row norm one. The largest
# leaves a constant variance: what remains where the noise does not depend on anything.
NOISE_ALPHAS = np.logspace(2, -5, 15).tolist()

# Squared errors below this share of their mean are as good as zero; their logarithms
# would drown the others.
SMALLEST_SQUARE = 1e-6


def uncertainty(
    result: Refit,
    X: Tensor,
    total_weight: float,
    parts: Callable[[], Parts],
    effort: Effort,
) -> dict[str, Any] | None:
    """What the predictive distribution needs, as plain arrays.

    The variance is ``sigma^2(x) (1 + phi^T A^-1 phi)`` with A = sum_i s_i phi_i phi_i^T
    + (alpha sum_i s_i / 2) I, the intercept free. log sigma^2(x) is a linear model of
    the inputs, the prediction and their squares, fitted by the normal likelihood to the
    errors on rows left out: a convex problem, its ridge chosen by cross-validation.

    Parameters
    ----------
    result : Refit
    X : Tensor (n_samples, ...)
        Inputs as the first network sees them.
    total_weight : float
    parts : callable
        Gives folds for the choice of the ridge.
    effort : Effort

    Returns
    -------
    dict or None
        None where there is no eigendecomposition, no ridge, no left-out error, or one
        distinct row.
    """
    path, raw = result.path, result.choice.raw
    one_row = bool((X == X[0]).all())
    if path is None or raw is None or result.choice.alpha == 0 or one_row:
        return None
    problem = result.problem
    eigenvalues, vectors = path.coefficient_spectrum()
    state: dict[str, Any] = {
        "vectors": vectors.cpu().numpy(),
        "eigenvalues": eigenvalues.cpu().numpy(),
        "mean": column_means(problem).cpu().numpy(),
        "shift": result.choice.alpha / 2,
        "total_weight": total_weight,
        "intercept": problem.intercept,
    }
    leverage = parameter_variance(state, problem.operator)
    unit = (problem.weight * total_weight).clamp(max=1.0)[:, None]
    left_out = leverage / (1.0 - unit * leverage).clamp_min(1e-12)
    squares = (problem.y - raw).square() / (1.0 + left_out)
    features = _noise_features(X, raw)
    return state | _fit_noise(features, squares, problem.weight, parts, effort)


def predictive_std(
    state: dict[str, Any], operator: LinearOperator, X: Tensor, raw: Tensor
) -> NDArray[np.float64]:
    """Standard deviations at the samples of an operator, noise included."""
    leverage = parameter_variance(state, operator)
    features = _noise_features(X, raw).cpu().numpy()
    scaled = (features - state["noise_mean"]) / state["noise_scale"]
    log_variance = scaled @ state["noise_coef"] + state["noise_intercept"]
    # Outside the range of the training rows the exponential knows no measure.
    low, high = state["noise_range"]
    variance = np.exp(np.clip(log_variance, low, high))
    return np.sqrt(variance * (1.0 + leverage.cpu().numpy()))


def parameter_variance(state: dict[str, Any], operator: LinearOperator) -> Tensor:
    """phi^T A^-1 phi for each sample and output."""
    vectors, e, mean = (
        torch.tensor(state[name], device=operator.device)
        for name in ("vectors", "eigenvalues", "mean")
    )
    shift = state["shift"]
    shrink = e / (e + shift)
    parts = []
    for _, dense in operator.blocks():
        centred = dense - mean
        explained = ((centred @ vectors).square() * shrink).sum(-1)
        # What the ridge alone holds: directions that no row has pinned down.
        parts.append((centred.square().sum(-1) - explained).clamp_min(0) / shift)
    total = torch.cat(parts) + float(state["intercept"])
    return total / state["total_weight"]


def _noise_features(X: Tensor, raw: Tensor) -> Tensor:
    """What the noise may depend on, (n_samples, n_features).

    The leverage is not among it: on the rows of the training it tells of overfitting,
    which new rows do not share.
    """
    values = torch.cat([X.flatten(1), raw], 1)
    return torch.cat([values, values.square()], 1)


def _fit_noise(
    features: Tensor,
    squares: Tensor,
    weight: Tensor,
    parts: Callable[[], Parts],
    effort: Effort,
) -> dict[str, Any]:
    """The log variance as a linear model of standardised features."""
    mean = weight @ features
    spread = (weight @ (features - mean).square()).sqrt()
    # Mean squared row norm one; a constant feature stays at zero.
    scale = torch.where(spread > 1e-12, spread, torch.inf) * features.shape[1] ** 0.5
    level = (weight @ squares).clamp_min(torch.finfo(squares.dtype).tiny)
    ratio = (squares / level).clamp_min(SMALLEST_SQUARE)
    operator = KroneckerOperator((features - mean) / scale, squares.shape[1])
    problem = ConvexProblem(operator, ratio, GammaLoss(), weight, alpha=1.0)
    all_parts = parts()
    folds = convex_folds(problem, all_parts[: enough(all_parts)])
    path = HeldOutPath(folds, effort.max_memory, effort.max_iter)
    losses = search_path(path.loss, NOISE_ALPHAS)
    alpha = min(losses, key=losses.__getitem__)
    solver = PathSolver(problem, "auto", effort.max_memory)
    solution = solver.solve(alpha, None, effort.tol, effort.max_iter)
    log_variance = solution.raw + level.log()
    return {
        "noise_mean": mean.cpu().numpy(),
        "noise_scale": scale.cpu().numpy(),
        "noise_coef": solution.coef.reshape(-1, squares.shape[1]).cpu().numpy(),
        "noise_intercept": (solution.intercept + level.log()).cpu().numpy(),
        "noise_range": torch.stack([log_variance.amin(0), log_variance.amax(0)])
        .cpu()
        .numpy(),
    }
