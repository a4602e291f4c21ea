"""Conversion of the convex parameters R = (R1, R2) to ResNet weights (W, V)."""

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from sklearn_pgb._budget import LARGEST_NORM, LEAST_SIGMA, MISSING_RANGE, RANK_RTOL
from sklearn_pgb._convex._problem import Solution
from sklearn_pgb._losses._loss import Loss
from sklearn_pgb._resnet._residual import BasisSamples


@dataclass(frozen=True, eq=False)
class ResidualWeights:
    """Weights of ``W (phi(x) + V z(x)) + intercept``.

    Attributes
    ----------
    W : ndarray (n_outputs, n_basis)
    V : ndarray (n_basis, n_units)
        ``W V`` is R2.
    mapping_exact : bool
        Whether W is R1, so that the network equals the fitted model.
    delta : float
        Size of W - R1, zero if the mapping is exact. V grows like 1 / delta.
    loss_increase : float
        Increase of the mean training loss, without penalties.
    """

    W: NDArray[np.float64]
    V: NDArray[np.float64]
    mapping_exact: bool
    delta: float
    loss_increase: float = 0.0


def residual_weights(
    R1: NDArray[np.float64], R2: NDArray[np.float64], delta: float | None = None
) -> ResidualWeights:
    """Compute W and V such that ``W V = R2`` and W is equal or close to R1.

    W = R1 is possible if the range of R1 contains that of R2. Otherwise no finite
    weights attain the infimum, and ``W = R1 + delta N M^T``, where N is an orthonormal
    basis of the missing part of the range and R1 maps the directions M to zero. V grows
    like 1 / delta. The default delta is a thousandth of the largest singular value of
    R1. At most n_basis outputs of W (phi + V z) can be independent.
    """
    # The thin SVD has all free directions that can be used.
    U, sigma, Qt = np.linalg.svd(R1, full_matrices=False)
    largest = sigma[0] if len(sigma) else 0.0
    rank = int((sigma > RANK_RTOL * largest).sum())
    missing = R2 - U[:, :rank] @ (U[:, :rank].T @ R2)
    left, sizes, _ = np.linalg.svd(missing, full_matrices=False)
    threshold = RANK_RTOL * np.linalg.norm(R2, 2) if R2.size else 0.0
    N = left[:, sizes > threshold]
    n_missing, n_free = N.shape[1], R1.shape[1] - rank
    if n_missing > n_free:
        raise ValueError(
            f"n_outputs must be <= n_features of the basis for weights (W, V), got "
            f"{R1.shape[0]} outputs on {R1.shape[1]} basis features: W (phi + V z) has "
            f"rank {R1.shape[1]} at most, and the fitted model has "
            f"{rank + n_missing}. Add features to the basis if you need these weights; "
            "predictions and bounds are valid without them."
        )
    delta = (delta or MISSING_RANGE * (largest or 1.0)) if n_missing else 0.0
    W = R1 + delta * N @ Qt[rank : rank + n_missing]
    # Normalized first, so that the inverse of tiny weights does not overflow.
    size = float(np.abs(W).max(initial=0.0)) or 1.0
    V = np.linalg.pinv(W / size, rcond=RANK_RTOL / 10) @ (R2 / size)
    return ResidualWeights(W, V, n_missing == 0, delta)


def loss_increase(
    R1: NDArray[np.float64],
    R2: NDArray[np.float64],
    target_scale: float,
    solution: Solution,
    samples: BasisSamples,
    loss: Loss,
) -> float:
    """Return the increase of the mean loss by `residual_weights`; nan if none exist.

    `solution` is for targets divided by `target_scale`.
    """
    try:
        weights = residual_weights(R1, R2)
    except ValueError:
        return np.nan
    if weights.mapping_exact:
        return 0.0
    change = torch.from_numpy((weights.W - R1).T / target_scale)
    uncentered = samples.basis + samples.center
    raw = solution.raw + uncentered @ change.to(samples.basis)
    value = float(samples.weight @ loss.value(samples.y, raw))
    return value - solution.data_value


def warn_if_singular(weights: ResidualWeights, softmax: bool = False) -> None:
    """Warn if (W, V) are so close to singular that their gradients are unreliable.

    A softmax is invariant to a constant added to all outputs, so that the mean of W
    over outputs is removed first.
    """
    W = weights.W
    if softmax:
        W = W - W.mean(0)
    sigma = np.linalg.svd(W, compute_uv=False)[: len(W) - softmax]
    norm = np.linalg.norm(weights.V, 2) if weights.V.size else 0.0
    least, largest = (float(sigma.min()), float(sigma.max())) if len(sigma) else (0, 0)
    if least < LEAST_SIGMA * largest or norm > LARGEST_NORM:
        warnings.warn(
            "The weights (W, V) are close to singular: the smallest singular value of "
            f"W is {least:.1e} at a norm of {largest:.1e}, and V has norm {norm:.1e}. "
            "Small gradients in (W, V) do not imply a small loss there; use the gap "
            "loss_ - lower_bound_ instead.",
            RuntimeWarning,
            stacklevel=3,
        )
