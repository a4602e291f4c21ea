"""Closed-form losses and first-order conditions of ResNets in (W, V)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_array, check_consistent_length

from sklearn_pgb._budget import FEATURE_RANK_RTOL
from sklearn_pgb._sklearn import _check_sample_weight


@dataclass(frozen=True)
class ClosedForm:
    """Losses of local minima with the squared loss.

    Attributes
    ----------
    basis_loss : float
        The minimum over R1 of ``E||R1 x - y||^2``, the loss of a linear model on x.
    improvement : float
        Decrease of the loss by the residual units; never negative.
    """

    basis_loss: float
    improvement: float

    @property
    def loss(self) -> float:
        """The loss of every local minimum in (W, V)."""
        return self.basis_loss - self.improvement


def closed_form(
    X: ArrayLike, Z: ArrayLike, Y: ArrayLike, weight: ArrayLike | None = None
) -> ClosedForm:
    """Compute the squared loss of all local minima of ``W (x + V z)``.

    It is ::

        (1 / m) (||P_N[X] Y||^2 - ||P[P_N[X] Z] P_N[X] Y||^2)

    Here ``P_N[X]`` projects onto the orthogonal complement of the columns of X. For an
    intercept, append a column of ones to X. If there are more outputs than features,
    the result is still the minimum over linear models on [x, z]. Weights are
    normalized.

    References
    ----------
    Kawaguchi and Bengio, "Depth with nonlinearity creates no bad local minima in
    ResNets", Neural Networks 118, 2019, Theorem 2.
    """
    x = check_array(X, dtype=np.float64)
    z = check_array(Z, dtype=np.float64, ensure_min_features=0)
    y = check_array(Y, dtype=np.float64, ensure_2d=False)
    check_consistent_length(x, z, y)
    checked = _check_sample_weight(weight, x, ensure_non_negative=True)
    root = np.sqrt(checked / checked.sum())[:, None]
    U = _range(root * x)
    residual, units = root * y.reshape(len(x), -1), root * z
    # Project off the range of x twice, to also remove rounding errors.
    for _ in range(2):
        residual, units = (part - U @ (U.T @ part) for part in (residual, units))
    # Relative to z: units that are linear in x leave only rounding errors here.
    directions = _range(units, float(np.linalg.norm(root * z)))
    improvement = float(np.square(directions.T @ residual).sum())
    return ClosedForm(float(np.square(residual).sum()), improvement)


def _range(A: NDArray[np.float64], size: float = 0.0) -> NDArray[np.float64]:
    """Return an orthonormal basis of the range of A."""
    U, sigma, _ = np.linalg.svd(A, full_matrices=False)
    return U[:, sigma > FEATURE_RANK_RTOL * max(size, sigma.max(initial=0.0))]


@dataclass(frozen=True, eq=False)
class Stationarity:
    """First-order conditions of a ResNet ``W (x + V z)``.

    Attributes
    ----------
    x_residual : ndarray (n_features, n_outputs)
        ``E[x D]`` for the gradient D of the loss in the raw outputs.
    z_residual : ndarray (n_units, n_outputs)
        ``E[z D]``. Both vanish at every local minimum in (W, V) [1]_, Lemma 2.
    W_gradient, V_gradient : ndarray
        ``E[D^T (x + V z)^T]`` and ``E[W^T D^T z^T]``.
    W_least, V_norm : float
        Smallest singular value of W, and spectral norm of V.

    References
    ----------
    .. [1] Kawaguchi and Bengio, "Depth with nonlinearity creates no bad local minima in
       ResNets", Neural Networks 118, 2019.
    """

    x_residual: NDArray[np.float64]
    z_residual: NDArray[np.float64]
    W_gradient: NDArray[np.float64]
    V_gradient: NDArray[np.float64]
    W_least: float
    V_norm: float

    def gap_bound(
        self,
        W: NDArray[np.float64],
        V: NDArray[np.float64],
        R1: NDArray[np.float64],
        R2: NDArray[np.float64],
    ) -> float:
        """Bound the loss at (W, V) minus that of the linear model (R1, R2).

        The bound is ``(|g_W| + |V| |g_V| / s) |W - R1| + (|g_V| / s) |W V - R2|`` for
        the smallest singular value s of W. Small gradients do not imply a small bound
        if W is close to singular or V is large.
        """
        if self.W_least == 0:
            return np.inf
        by_W = float(np.linalg.norm(self.W_gradient))
        by_V = float(np.linalg.norm(self.V_gradient)) / self.W_least
        first = (by_W + self.V_norm * by_V) * np.linalg.norm(W - R1)
        return float(first + by_V * np.linalg.norm(W @ V - R2))


def stationarity(
    X: NDArray[np.float64],
    Z: NDArray[np.float64],
    gradient: NDArray[np.float64],
    W: NDArray[np.float64],
    V: NDArray[np.float64],
) -> Stationarity:
    """Compute the residuals of Lemma 2 and the gradients in W and V.

    `gradient` has the weight of each sample times the gradient of its loss in the raw
    outputs.
    """
    x_residual, z_residual = X.T @ gradient, Z.T @ gradient
    # If W has more rows than columns, its left kernel is not trivial.
    sigma = np.linalg.svd(W, compute_uv=False)
    least = float(sigma.min()) if W.shape[0] <= W.shape[1] else 0.0
    return Stationarity(
        x_residual=x_residual,
        z_residual=z_residual,
        W_gradient=x_residual.T + z_residual.T @ V.T,
        V_gradient=W.T @ z_residual.T,
        W_least=least,
        V_norm=float(np.linalg.norm(V, 2)),
    )
