"""From the convex parameters R = (R1, R2) back to the weights (W, V) of a ResNet."""

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from sklearn_pgb._convex._problem import Solution
from sklearn_pgb._losses import Loss
from sklearn_pgb._resnet._residual import Samples

# Relative singular value below which a direction of R1 counts as absent, and the one
# below which the mapping back is too ill-conditioned to be trusted silently.
RANK_RTOL, LEAST_SIGMA, LARGEST_NORM = 1e-10, 1e-6, 1e6

# Size of what is added to R1 where its range does not hold that of R2, relative to R1.
DELTA = 1e-3


@dataclass(frozen=True, eq=False)
class ResidualWeights:
    """Weights of ``W (phi(x) + V z(x)) + intercept``.

    Attributes
    ----------
    W : ndarray (n_outputs, n_basis)
    V : ndarray (n_basis, n_units)
        ``W V`` is R2.
    mapping_exact : bool
        Whether W is R1, so that the network is the fitted model.
    delta : float
        Otherwise the size of W - R1; V grows like 1 / delta.
    loss_increase : float
        What that adds to the mean training loss, penalties left out.
    """

    W: NDArray[np.float64]
    V: NDArray[np.float64]
    mapping_exact: bool
    delta: float
    loss_increase: float = 0.0


def residual_weights(
    R1: NDArray[np.float64], R2: NDArray[np.float64], delta: float | None = None
) -> ResidualWeights:
    """W and V with ``W V = R2`` and W equal or close to R1.

    ``W V = R2`` with ``W = R1`` can be solved exactly if the range of R1 holds that of
    R2. Otherwise ``W = R1 + delta N M^T``, with N an orthonormal basis of what is
    missing and M directions that R1 maps to zero: no finite weights attain the infimum
    then, and V grows like 1 / delta.

    Parameters
    ----------
    R1 : ndarray (n_outputs, n_basis)
    R2 : ndarray (n_outputs, n_units)
    delta : float, default=None
        None is a thousandth of R1's largest singular value.

    Raises
    ------
    ValueError
        If n_outputs - rank(R1) directions are missing and fewer are free: at most
        n_basis outputs can be independent in W (phi + V z).
    """
    # Thin: no more directions can be missing than it holds besides R1's own.
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
            f"{rank + n_missing}. The fitted model, its predictions and its bounds "
            "do not need (W, V) and hold as they are. Add features to the basis if "
            "the weights themselves are needed."
        )
    step = 0.0
    if n_missing:
        step = delta or DELTA * (largest or 1.0)
    W = R1 + step * N @ Qt[rank : rank + n_missing]
    # Divided by their size first, so that no inverse of tiny weights overflows.
    size = float(np.abs(W).max(initial=0.0)) or 1.0
    V = np.linalg.pinv(W / size, rcond=RANK_RTOL / 10) @ (R2 / size)
    return ResidualWeights(W, V, n_missing == 0, step)


def increase_of_export(
    R1: NDArray[np.float64],
    R2: NDArray[np.float64],
    unit: float,
    solution: Solution,
    samples: Samples,
    loss: Loss,
) -> float:
    """What `residual_weights` adds to the mean loss; nan where there are none.

    The solution is of targets in the given unit.
    """
    try:
        weights = residual_weights(R1, R2)
    except ValueError:
        return np.nan
    if weights.mapping_exact:
        return 0.0
    change = torch.from_numpy((weights.W - R1).T / unit)
    raw = solution.raw + samples.basis @ change.to(samples.basis)
    value = float(samples.weight @ loss.value(samples.y, raw))
    return value - solution.data_value


def warn_if_singular(weights: ResidualWeights, softmax: bool = False) -> None:
    """Say where rounding or descent on (W, V) could go wrong.

    A softmax does not see what is added to all outputs, so W counts up to that.
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
            "Small gradients by (W, V) say nothing there; trust the gap loss_ - "
            "lower_bound_.",
            RuntimeWarning,
            stacklevel=3,
        )
