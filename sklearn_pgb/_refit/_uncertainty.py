"""Predictive standard deviations of a squared-loss refit."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sklearn_pgb._convex._problem import ConvexProblem, Solution
from sklearn_pgb._convex._ridge import column_means
from sklearn_pgb._convex._select import Fold, HeldOutPath, convex_folds, search_path
from sklearn_pgb._convex._solve import PathSolver
from sklearn_pgb._estimator._alpha import Effort, enough
from sklearn_pgb._estimator._border import Parts
from sklearn_pgb._losses import GammaLoss
from sklearn_pgb._models._network import Network
from sklearn_pgb._operators import KroneckerOperator, LinearOperator
from sklearn_pgb._refit._fitting import Refit

# Ridges of the noise model, whose features have mean squared row norm one. The largest
# leaves a constant variance: what remains where the noise does not depend on anything.
NOISE_ALPHAS = np.logspace(2, -5, 15).tolist()

# Squared errors below this share of their mean are as good as zero; their logarithms
# would drown the others.
SMALLEST_SQUARE = 1e-6

# Directions that the rows pin down by less than this share of what the ridge does are
# left to the ridge: that is the relative error of the parameters' variance.
NEGLIGIBLE = 1e-4

# A rich noise model is tried where it has ten rows for each of its columns, the rule of
# thumb of regression: with fewer, cross-validation picks it by accident. Beyond a few
# hundred columns its Newton steps would take as long as the refit. With the folds, its
# features are held about COPIES times over.
ROWS_PER_COLUMN = 10
MAX_COLUMNS = 300
COPIES = 8


@dataclass(frozen=True, eq=False)
class NoiseModel:
    """A noise model's features and ridge, and what they are worth on rows held out.

    Attributes
    ----------
    rich : bool
        Whether products and the last hidden layer are among the features.
    problem : ConvexProblem
        Of all rows.
    mean, scale : Tensor (n_features,)
    alpha : float
    shift : Tensor (n_outputs,)
        What the log variance has to rise by to fit the rows held out.
    loss : float
        Mean loss on them, with that shift.
    """

    rich: bool
    problem: ConvexProblem
    mean: Tensor
    scale: Tensor
    alpha: float
    shift: Tensor
    loss: float


def uncertainty(
    result: Refit,
    X: Tensor,
    total_weight: float,
    parts: Callable[[], Parts],
    effort: Effort,
) -> dict[str, Any] | None:
    """What the predictive distribution needs, as plain arrays.

    The variance is ``sigma^2(x) (1 + phi^T A^-1 phi)`` with A = sum_i s_i phi_i phi_i^T
    + (alpha sum_i s_i / 2) I, the intercept free. log sigma^2(x) is a linear model,
    fitted by the normal likelihood to the errors on rows left out: a convex problem,
    its ridge chosen by cross-validation. The features are the inputs, the prediction
    and their squares or, where that fits rows held out better, all products and the
    last hidden layer of the first network as well. Such a model explains some errors by
    chance and is overconfident on other rows: its level is raised to the one that rows
    held out ask for.

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
    shift = result.choice.alpha / 2
    eigenvalues, vectors = path.coefficient_spectrum(NEGLIGIBLE * shift)
    state: dict[str, Any] = {
        "vectors": vectors.cpu().numpy(),
        "eigenvalues": eigenvalues.cpu().numpy(),
        "mean": column_means(problem).cpu().numpy(),
        "shift": shift,
        "total_weight": total_weight,
        "intercept": problem.intercept,
    }
    amount = (problem.weight * total_weight)[:, None]
    leverage = path.leverages(result.choice.alpha) / amount
    unit = amount.clamp(max=1.0)
    left_out = leverage / (1.0 - unit * leverage).clamp_min(1e-12)
    squares = (problem.y - raw).square() / (1.0 + left_out)
    all_parts = parts()
    folds = all_parts[: enough(all_parts, X.cpu().numpy())]
    network, weight = result.space.networks[0], problem.weight
    models = []
    for rich in _candidates(network, X, raw, effort.max_memory):
        features = _noise_features(network, X, raw, rich)
        models.append(_choose_noise(rich, features, squares, weight, folds, effort))
    best = min(models, key=lambda model: model.loss)
    return state | _fit_noise(best, _level(squares, weight), effort)


def predictive_std(
    state: dict[str, Any],
    operator: LinearOperator,
    network: Network,
    X: Tensor,
    raw: Tensor,
) -> NDArray[np.float64]:
    """Standard deviations at the samples of an operator, noise included."""
    leverage = parameter_variance(state, operator)
    features = _noise_features(network, X, raw, state["noise_rich"]).cpu().numpy()
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


def _candidates(
    network: Network, X: Tensor, raw: Tensor, max_memory: float
) -> list[bool]:
    """Whether to try the rich features too."""
    values = X[:1].flatten(1).shape[1] + raw.shape[1]
    columns = values * (values + 3) // 2
    columns += sum(h.shape[1] for h in _hidden(network, X[:1]))
    fits = COPIES * 8.0 * len(X) * columns <= max_memory
    most = min(len(X) // ROWS_PER_COLUMN, MAX_COLUMNS)
    return [False, True] if fits and columns <= most else [False]


def _hidden(network: Network, X: Tensor) -> list[Tensor]:
    """The last hidden layer, nothing where none is known."""
    return network.layers(X)[1:-1][-1:]


def _noise_features(network: Network, X: Tensor, raw: Tensor, rich: bool) -> Tensor:
    """What the noise may depend on, (n_samples, n_features).

    The leverage is not among it: on the rows of the training it tells of overfitting,
    which new rows do not share.
    """
    values = torch.cat([X.flatten(1), raw], 1)
    if not rich:
        return torch.cat([values, values.square()], 1)
    i, j = torch.triu_indices(values.shape[1], values.shape[1], device=values.device)
    return torch.cat([values, values[:, i] * values[:, j], *_hidden(network, X)], 1)


def _choose_noise(
    rich: bool,
    features: Tensor,
    squares: Tensor,
    weight: Tensor,
    parts: Parts,
    effort: Effort,
) -> NoiseModel:
    """A model of the log variance on standardised features, its ridge chosen."""
    mean = weight @ features
    spread = (weight @ (features - mean).square()).sqrt()
    # Mean squared row norm one; a constant feature stays at zero.
    scale = torch.where(spread > 1e-12, spread, torch.inf) * features.shape[1] ** 0.5
    ratio = (squares / _level(squares, weight)).clamp_min(SMALLEST_SQUARE)
    operator = KroneckerOperator((features - mean) / scale, squares.shape[1])
    problem = ConvexProblem(operator, ratio, GammaLoss(), weight, alpha=1.0)
    path = HeldOutPath(convex_folds(problem, parts), effort.max_memory, effort.max_iter)
    losses = search_path(path.loss, NOISE_ALPHAS)
    alpha = min(losses, key=losses.__getitem__)
    shift, loss = held_out_level(path.folds, path.solutions[alpha])
    return NoiseModel(rich, problem, mean, scale, alpha, shift, loss)


def _level(squares: Tensor, weight: Tensor) -> Tensor:
    """The mean of each output's squares, no zero."""
    return (weight @ squares).clamp_min(torch.finfo(squares.dtype).tiny)


def held_out_level(
    folds: Sequence[Fold], solutions: Sequence[Solution]
) -> tuple[Tensor, float]:
    """What rows held out say of the level, and the mean loss on them with it.

    The level of the most likely shift, ``log mean(y e^-q)``. No fit is too cautious on
    its own rows, so it only rises.
    """
    y = torch.cat([fold.held.y for fold in folds])
    weight = torch.cat([fold.held.weight for fold in folds])
    weight = weight / weight.sum()
    raw = torch.cat(
        [
            fold.held.raw(solution).clamp(solution.raw.amin(0), solution.raw.amax(0))
            for fold, solution in zip(folds, solutions, strict=True)
        ]
    )
    shift = (weight @ (y * (-raw).exp())).log().clamp_min(0)
    return shift, float(weight @ GammaLoss().value(y, raw + shift))


def _fit_noise(model: NoiseModel, level: Tensor, effort: Effort) -> dict[str, Any]:
    """The log variance, fitted to all rows."""
    solver = PathSolver(model.problem, "auto", effort.max_memory)
    solution = solver.solve(model.alpha, None, effort.tol, effort.max_iter)
    rise = level.log() + model.shift
    log_variance = solution.raw + rise
    return {
        "noise_rich": model.rich,
        "noise_mean": model.mean.cpu().numpy(),
        "noise_scale": model.scale.cpu().numpy(),
        "noise_coef": solution.coef.reshape(-1, len(level)).cpu().numpy(),
        "noise_intercept": (solution.intercept + rise).cpu().numpy(),
        "noise_range": torch.stack([log_variance.amin(0), log_variance.amax(0)])
        .cpu()
        .numpy(),
    }
