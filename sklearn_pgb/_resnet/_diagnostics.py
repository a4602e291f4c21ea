"""Closed form and stationarity of ResNets in (W, V): what theory says in numbers."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_array, check_consistent_length
from sklearn.utils.validation import _check_sample_weight

# Relative singular values below this are rounding of exact features.
RANK_RTOL = 1e-13


@dataclass(frozen=True)
class ClosedForm:
    """Losses of local minima with the squared loss.

    Attributes
    ----------
    basis_loss : float
        The minimum over R1 of ``E||R1 x - y||^2``: the linear model on x.
    improvement : float
        What the residual units take off; never negative.
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
    """The squared loss of every local minimum of ``W (x + V z)``.

    With ``P_N[X]`` the projection across the columns of X it is ::

        (1 / m) (||P_N[X] Y||^2 - ||P[P_N[X] Z] P_N[X] Y||^2)

    by two thin singular value decompositions. Append a column of ones to X for an
    intercept.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
    Z : array-like of shape (n_samples, n_units)
    Y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        With n_outputs at most n_features; the closed form is the minimum over the
        basis [x, z] in any case.
    weight : array-like of shape (n_samples,), default=None
        Weights of the mean, divided by their sum; None weighs all samples the same.

    References
    ----------
    Kawaguchi and Bengio, "Depth with nonlinearity creates no bad local minima in
    ResNets", Neural Networks 118, 2019, Theorem 2.
    """
    x = check_array(X, dtype=np.float64)
    z = check_array(Z, dtype=np.float64, ensure_min_features=0)
    y = check_array(Y, dtype=np.float64, ensure_2d=False)
    check_consistent_length(x, z, y)
    share = _check_sample_weight(weight, x, ensure_non_negative=True)
    root = np.sqrt(share / share.sum())[:, None]
    across = _range(root * x)
    residual, units = (_off(across, root * part) for part in (y.reshape(len(x), -1), z))
    # Units that are linear in x leave rounding only, which is no direction.
    along = _range(units, float(np.linalg.norm(root * z)))
    improvement = float(np.square(along.T @ residual).sum())
    return ClosedForm(float(np.square(residual).sum()), improvement)


def _range(A: NDArray[np.float64], size: float = 0.0) -> NDArray[np.float64]:
    """Orthonormal columns that span those of A."""
    U, sigma, _ = np.linalg.svd(A, full_matrices=False)
    return U[:, sigma > RANK_RTOL * max(size, sigma.max(initial=0.0))]


def _off(U: NDArray[np.float64], A: NDArray[np.float64]) -> NDArray[np.float64]:
    """A less its projection, twice, so that rounding is projected too."""
    for _ in range(2):
        A = A - U @ (U.T @ A)
    return A


@dataclass(frozen=True, eq=False)
class Stationarity:
    """First-order conditions of a ResNet ``W (x + V z)``.

    Attributes
    ----------
    x_residual : ndarray (n_features, n_outputs)
        ``E[x D]`` with D the gradient of the loss by the raw outputs.
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
        """How far the loss at (W, V) can be above that of the linear model (R1, R2).

        With s the smallest singular value of W it is ``(|g_W| + |V| |g_V| / s)
        |W - R1| + (|g_V| / s) |W V - R2|``: small gradients say nothing where W is
        close to singular or V is large.
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
    """Lemma 2's residuals and the gradients by W and V.

    Parameters
    ----------
    X : ndarray (n_samples, n_features)
    Z : ndarray (n_samples, n_units)
    gradient : ndarray (n_samples, n_outputs)
        ``w_i`` times the gradient of the loss at each sample's raw outputs.
    W : ndarray (n_outputs, n_features)
    V : ndarray (n_features, n_units)
    """
    x_residual, z_residual = X.T @ gradient, Z.T @ gradient
    # W has a trivial left kernel only where it is not taller than wide.
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
