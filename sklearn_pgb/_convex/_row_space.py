"""Coordinates of the row space of a basis, for bases with more columns than rows."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sklearn_pgb._budget import EIGENVALUE_RTOL
from sklearn_pgb._operators._dense import DenseOperator
from sklearn_pgb._operators._operator import LinearOperator


@dataclass(frozen=True, eq=False)
class RowSpace:
    """Orthonormal coordinates of the row space of a basis.

    A penalty on the norm keeps the coefficients in the row space, so a problem with
    many more columns than rows needs only as many features as there are rows. With the
    Gram matrix ``G = Q diag(e) Q^T``, the `features` are ``Q sqrt(e)`` and the
    `vectors` ``Q / sqrt(e)``. The coefficients ``Phi^T Q beta / sqrt(e)`` have the same
    norm as beta.
    """

    basis: LinearOperator
    vectors: Tensor
    features: DenseOperator

    @classmethod
    def of(cls, basis: LinearOperator) -> "RowSpace":
        """Decompose the Gram matrix of a basis."""
        eigenvalues, vectors = torch.linalg.eigh(basis.gram())
        keep = eigenvalues > EIGENVALUE_RTOL * eigenvalues[-1].clamp_min(0)
        roots, vectors = eigenvalues[keep].sqrt(), vectors[:, keep]
        features = (vectors * roots).reshape(basis.n_samples, basis.n_outputs, -1)
        return cls(basis, vectors / roots, DenseOperator(features))

    def features_of(self, other: LinearOperator) -> DenseOperator:
        """The features of other samples, given the same basis on them."""
        rows = other.cross_gram(self.basis) @ self.vectors
        return DenseOperator(rows.reshape(other.n_samples, other.n_outputs, -1))

    def coefficients(self, beta: Tensor) -> Tensor:
        """Coefficients of the basis at coordinates beta."""
        rows = (self.vectors @ beta).reshape(self.basis.n_samples, -1)
        return self.basis.rmatvec(rows)

    def coordinates(self, coef: Tensor) -> Tensor:
        """Coordinates of the coefficients' projection on the row space."""
        return self.vectors.T @ self.basis.matvec(coef).reshape(-1)
