"""Predictive standard deviations of a squared-loss refit."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sklearn_pgb._budget import (
    CONSTANT_RTOL,
    NOISE_COLUMNS,
    NOISE_COPIES,
    NOISE_NEGLIGIBLE,
    NOISE_ROWS_PER_COLUMN,
    SMALLEST_SQUARE,
)
from sklearn_pgb._convex._choice import Effort
from sklearn_pgb._convex._heldout import Fold, HeldOutPath, convex_folds, first_best
from sklearn_pgb._convex._problem import ConvexProblem, Solution
from sklearn_pgb._convex._ridge import column_means
from sklearn_pgb._convex._solve import PathSolver
from sklearn_pgb._estimator._folds import Parts, enough_folds, restricted
from sklearn_pgb._estimator._predictors import finite_outputs
from sklearn_pgb._estimator._row_codes import row_codes
from sklearn_pgb._losses._regression import GammaLoss
from sklearn_pgb._models._network import Network
from sklearn_pgb._operators._dense import KroneckerOperator
from sklearn_pgb._operators._operator import LinearOperator
from sklearn_pgb._predictive._methods import rounding
from sklearn_pgb._refit._fitting import Refit

# Regularization strengths of the noise model, whose features have mean squared row norm
# one. The largest leaves a nearly constant variance, for noise that depends on nothing.
NOISE_ALPHAS = np.logspace(2, -5, 15).tolist()

# State of a predictive distribution, and standard deviations of left-out samples.
Uncertainty = tuple[dict[str, Any] | None, NDArray[np.float64] | None]


@dataclass(frozen=True, eq=False)
class NoiseModel:
    """Features and alpha of a noise model, and its held-out loss.

    Attributes
    ----------
    rich : bool
        Whether products and the last hidden layer are among the features.
    problem : ConvexProblem
        Problem on all samples.
    mean, scale : Tensor (n_features,)
    alpha : float
    shift : Tensor (n_outputs,)
        Increase of the log variance that fits the held-out samples.
    loss : float
        Mean held-out loss with that shift.
    """

    rich: bool
    problem: ConvexProblem
    mean: Tensor
    scale: Tensor
    alpha: float
    shift: Tensor
    loss: float

    @classmethod
    def chosen(
        cls,
        rich: bool,
        features: Tensor,
        squares: Tensor,
        level: Tensor,
        weight: Tensor,
        parts: Parts,
        effort: Effort,
    ) -> Self:
        """Choose alpha for standardized features and squares of mean `level`."""
        mean, spread = column_units(features, weight)
        # Mean squared row norm one. Constant features stay at zero and do not count.
        scale = spread * max(int(spread.isfinite().sum()), 1) ** 0.5
        ratio = (squares / level).clamp_min(SMALLEST_SQUARE)
        operator = KroneckerOperator((features - mean) / scale, squares.shape[1])
        problem = ConvexProblem(operator, ratio, GammaLoss(), weight, alpha=1.0)
        folds = convex_folds(problem, parts)
        path = HeldOutPath(folds, effort.max_memory, effort.max_iter)
        losses = path.search(NOISE_ALPHAS, effort.tol)
        alpha = list(losses)[first_best(list(losses.values()))]
        shift, loss = heldout_level(path.folds, path.solutions[alpha])
        return cls(rich, problem, mean, scale, alpha, shift, loss)

    def fit(
        self, level: Tensor, least: Tensor, effort: Effort
    ) -> tuple[dict[str, Any], Tensor]:
        """Fit to all samples; return the state as arrays, and the samples' variances.

        No variance is below `least`.
        """
        solver = PathSolver(self.problem, "auto", effort.max_memory)
        solution = solver.solve(self.alpha, None, effort.tol, effort.max_iter)
        rise = level.log() + self.shift
        log_variance = (solution.raw + rise).clamp_min(least.log())
        limits = torch.stack([log_variance.amin(0), log_variance.amax(0)])
        state = {
            "noise_rich": self.rich,
            "noise_mean": self.mean.cpu().numpy(),
            "noise_scale": self.scale.cpu().numpy(),
            "noise_coef": solution.coef.reshape(-1, len(level)).cpu().numpy(),
            "noise_intercept": (solution.intercept + rise).cpu().numpy(),
            "noise_range": limits.cpu().numpy(),
        }
        return state, log_variance.exp()


def uncertainty(
    result: Refit,
    X: Tensor,
    total_weight: float,
    parts: Callable[[], Parts],
    effort: Effort,
) -> Uncertainty:
    """Fit the predictive distribution; return its state as plain arrays.

    The variance is ``sigma^2(x) (1 + phi^T A^-1 phi)`` with A = sum_i s_i phi_i phi_i^T
    + (alpha sum_i s_i / 2) I and an unpenalized intercept. log sigma^2(x) is a linear
    model, fitted to the left-out errors by the normal likelihood: a convex problem with
    alpha chosen by cross-validation. Its features are the inputs and the prediction,
    centered and scaled, and their squares. If the held-out loss is better, all products
    and the last hidden layer of the first network are added. A fitted noise model
    explains some errors by chance and is overconfident on new samples, so its level is
    raised to fit the held-out samples.

    Parameters
    ----------
    result : Refit
    X : Tensor (n_samples, ...)
        Inputs of the first network.
    total_weight : float
    parts : callable
        Draws folds for the choice of alpha.
    effort : Effort

    Returns
    -------
    state : dict or None
        None without an eigendecomposition, a penalty, left-out errors, or two distinct
        samples.
    left_out_std : ndarray or None
        Standard deviations (n_rows, n_outputs) of the samples with left-out errors,
        each by a refit without it.
    """
    path, raw = result.choice.path, result.choice.raw
    if path is None or raw is None or result.choice.alpha == 0:
        return None, None
    # Of many samples, only some were left out.
    rows = torch.nonzero(~raw.isnan().any(1))[:, 0]
    X, raw = X[rows], raw[rows]
    if bool((X == X[0]).all()):
        return None, None
    problem = result.problem
    shift = result.choice.alpha / 2
    eigenvalues, vectors = path.coefficient_spectrum(NOISE_NEGLIGIBLE * shift)
    state: dict[str, Any] = {
        "vectors": vectors.cpu().numpy(),
        "eigenvalues": eigenvalues.cpu().numpy(),
        "mean": column_means(problem).cpu().numpy(),
        "shift": shift,
        "total_weight": total_weight,
        "intercept": problem.intercept,
    }
    weight = (problem.weight[rows] * total_weight)[:, None]
    leverage = path.leverages(result.choice.alpha, rows) / weight
    # phi^T A^-1 phi without the sample itself, by Sherman-Morrison. A sample of weight
    # above one counts as repeated, and only one of its copies is left out.
    left_out = leverage / (1.0 - weight.clamp(max=1.0) * leverage).clamp_min(1e-12)
    squares = (problem.y[rows] - raw).square() / (1.0 + left_out)
    folds = restricted(parts(), rows.cpu().numpy(), len(problem.y))
    folds = enough_folds(folds, X.cpu().numpy())
    network, normalized = result.space.networks[0], problem.weight[rows]
    normalized = normalized / normalized.sum()
    # The errors of an exact fit are rounding errors, or even zero.
    least = rounding_of_outputs(problem.y).square()
    level = (normalized @ squares).clamp_min(least)
    values = _noise_values(X, raw)
    center, spread = column_units(values, normalized)
    values = (values - center) / spread
    state |= {
        "noise_center": center.cpu().numpy(),
        "noise_spread": spread.cpu().numpy(),
    }
    models = []
    for rich in [False, True] if tries_rich(network, X, raw, effort) else [False]:
        features = _noise_features(values, _hidden(network, X), rich)
        data = features, squares, level, normalized
        models.append(NoiseModel.chosen(rich, *data, folds, effort))
    best = models[first_best([model.loss for model in models])]
    noise, variance = best.fit(level, least, effort)
    std = (variance * (1.0 + left_out)).sqrt()
    return state | noise, std.cpu().numpy()


def tries_rich(network: Network, X: Tensor, raw: Tensor, effort: Effort) -> bool:
    """Whether the rich features of a noise model are few enough to be tried."""
    values = X[:1].flatten(1).shape[1] + raw.shape[1]
    columns = values * (values + 3) // 2
    columns += sum(h.shape[1] for h in _hidden(network, X[:1]))
    fits = NOISE_COPIES * 8.0 * len(X) * columns <= effort.max_memory
    if not fits or columns > min(len(X) // NOISE_ROWS_PER_COLUMN, NOISE_COLUMNS):
        return False
    # Duplicate samples count once, so that integer weights equal repetition.
    n_distinct = int(row_codes(X.cpu().numpy()).max()) + 1
    return columns <= n_distinct // NOISE_ROWS_PER_COLUMN


def predictive_std(
    state: dict[str, Any],
    operator: LinearOperator,
    network: Network,
    X: Tensor,
    raw: Tensor,
) -> NDArray[np.float64]:
    """Standard deviations for the samples of an operator, including noise."""
    # Squares overflow for inputs far outside the range of the training samples.
    leverage = finite_outputs(parameter_variance(state, operator))
    values = _noise_values(X, raw)
    center, spread = (
        torch.tensor(state[name], device=values.device)
        for name in ("noise_center", "noise_spread")
    )
    parts = (values - center) / spread, _hidden(network, X), state["noise_rich"]
    features = finite_outputs(_noise_features(*parts)).cpu().numpy()
    scaled = (features - state["noise_mean"]) / state["noise_scale"]
    log_variance = scaled @ state["noise_coef"] + state["noise_intercept"]
    # Clip to the range on the training samples: exp() extrapolates without bound.
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
    # With A = V diag(e) V^T + shift I, A^-1 is (I - V diag(shrink) V^T) / shift. So the
    # eigenvectors for zero eigenvalues are not needed.
    shrink = e / (e + shift)
    parts = []
    for _, dense in operator.blocks():
        centered = dense - mean
        explained = ((centered @ vectors).square() * shrink).sum(-1)
        # In directions that no sample determines, only the penalty bounds the variance.
        parts.append((centered.square().sum(-1) - explained).clamp_min(0) / shift)
    total = torch.cat(parts) + float(state["intercept"])
    return total / state["total_weight"]


def _hidden(network: Network, X: Tensor) -> list[Tensor]:
    """The last hidden layer as a list; empty if there is none."""
    return network.layers(X)[1:-1][-1:]


def _noise_values(X: Tensor, raw: Tensor) -> Tensor:
    """Quantities that the noise may depend on: the inputs and the raw outputs.

    The leverage is not one of them: on training samples it reflects overfitting, which
    does not carry over to new samples.
    """
    # The indices of leaves are not quantities.
    return torch.cat([X.flatten(1), raw], 1) if X.is_floating_point() else raw


def _noise_features(values: Tensor, hidden: Sequence[Tensor], rich: bool) -> Tensor:
    """Features of the noise model, of shape (n_samples, n_features).

    The values have mean zero and standard deviation one on the training samples. Far
    from zero, a square would be nearly a multiple of the value itself, and the penalty
    would remove what it adds: the model would depend on the origins of X and y.
    """
    if not rich:
        return torch.cat([values, values.square()], 1)
    i, j = torch.triu_indices(values.shape[1], values.shape[1], device=values.device)
    return torch.cat([values, values[:, i] * values[:, j], *hidden], 1)


def column_units(values: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each column; infinite for a constant column.

    The weights sum to one.
    """
    mean, largest = weight @ values, values.abs().amax(0)
    # Squares of extreme values would overflow or underflow.
    unit = largest.clamp_min(torch.finfo(values.dtype).tiny)
    spread = (weight @ ((values - mean) / unit).square()).sqrt() * unit
    varies = spread > CONSTANT_RTOL * largest
    return mean, torch.where(varies, spread, torch.inf)


def rounding_of_outputs(targets: Tensor) -> Tensor:
    """Size of rounding errors of each column of the targets, which is positive."""
    return torch.stack([targets.new_tensor(rounding(column)) for column in targets.T])


def heldout_level(
    folds: Sequence[Fold], solutions: Sequence[Solution]
) -> tuple[Tensor, float]:
    """Shift of the log variance by held-out samples, and their mean loss with it.

    The most likely shift is ``log mean(y e^-q)``. It is clipped at zero, because a fit
    does not overestimate the variance of its own samples.
    """
    y = torch.cat([fold.heldout.y for fold in folds])
    weight = torch.cat([fold.heldout.weight for fold in folds])
    weight = weight / weight.sum()
    raw = torch.cat(
        [
            fold.heldout.raw(solution).clamp(solution.raw.amin(0), solution.raw.amax(0))
            for fold, solution in zip(folds, solutions, strict=True)
        ]
    )
    shift = (weight @ (y * (-raw).exp())).log().clamp_min(0)
    return shift, float(weight @ GammaLoss().value(y, raw + shift))
