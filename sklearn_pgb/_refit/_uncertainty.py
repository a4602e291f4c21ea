"""Predictive standard deviations of a squared-loss refit."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sklearn_pgb._convex import column_means
from sklearn_pgb._operators import LinearOperator
from sklearn_pgb._refit._fitting import Refit


def uncertainty(result: Refit, total_weight: float) -> dict[str, Any] | None:
    """What the predictive distribution needs, as plain arrays.

    The variance is ``sigma^2 (1 + phi^T A^-1 phi)`` with A = sum_i s_i phi_i phi_i^T +
    (alpha sum_i s_i / 2) I, the intercept free. sigma^2 is the mean square of the errors
    on rows left out, each divided by what the same formula says of that row.

    Returns
    -------
    dict or None
        None where there is no eigendecomposition, no ridge, or no left-out error.
    """
    path, raw = result.path, result.choice.raw
    if path is None or raw is None or result.choice.alpha == 0:
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
    state["noise_variance"] = (problem.weight @ squares).cpu().numpy()
    return state


def predictive_std(
    state: dict[str, Any], operator: LinearOperator, raw: Tensor
) -> NDArray[np.float64]:
    """Standard deviations at the samples of an operator, noise included."""
    spread = 1.0 + parameter_variance(state, operator).cpu().numpy()
    return np.sqrt(state["noise_variance"] * spread)


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
