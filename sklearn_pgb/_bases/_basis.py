"""The base class `Basis`, and bases without a network."""

from abc import ABC, abstractmethod
from numbers import Integral
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.utils import check_array
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from sklearn_pgb._budget import MOST_OUTPUTS
from sklearn_pgb._models._network import as_float64
from sklearn_pgb._models._protected import fit_protected, transform_protected
from sklearn_pgb._operators._dense import KroneckerOperator
from sklearn_pgb._operators._operator import LinearOperator


class Basis(ABC, BaseEstimator):
    """The columns of a convex model: inputs, features or derivatives of a network.

    `fit` fits the basis to training data; `operator` returns its matrix on any data.
    When bases are compared, a clone is fitted on each training set.

    Attributes
    ----------
    rounded_columns : bool
        Whether the columns are computed by a network. Their rounding errors then widen
        the bounds on the loss.

    Examples
    --------
    A basis of your own, with the operator of another one:

    >>> import numpy as np
    >>> from sklearn_pgb import Basis, InputBasis
    >>> class CosineBasis(Basis):
    ...     intercept = True
    ...
    ...     def fit(self, X, y=None):
    ...         return self
    ...
    ...     def operator(self, X, n_outputs):
    ...         return InputBasis().fit(X).operator(np.cos(X), n_outputs)
    >>> CosineBasis().fit(np.eye(3)).operator(np.eye(3), n_outputs=1).n_coef
    3
    """

    rounded_columns = False

    @abstractmethod
    def fit(self, X: Any, y: Any = None) -> Self:
        """Fit the basis to training data.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : array-like or None
            Targets that networks are trained on, and that some transformers need.

        Returns
        -------
        self
        """

    @abstractmethod
    def operator(self, X: Any, n_outputs: int) -> LinearOperator:
        """The penalized columns on X as a linear operator.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        n_outputs : int
            Number of outputs of the model. The basis of a network takes only the
            network's own number.

        Returns
        -------
        LinearOperator
        """

    @property
    @abstractmethod
    def intercept(self) -> bool:
        """Whether a free intercept per output belongs to the model."""


class FeatureColumns(Basis):
    """Features with separate coefficients for each output.

    Subclasses have a parameter `fit_intercept` and implement `features`.
    """

    fit_intercept: bool

    @abstractmethod
    def features(self, X: Any) -> Tensor:
        """The features of X, float64 of shape (n_samples, n_features)."""

    def operator(self, X: Any, n_outputs: int) -> LinearOperator:
        check_n_outputs(n_outputs)
        return KroneckerOperator(self.features(X), int(n_outputs))

    @property
    def intercept(self) -> bool:
        return self.fit_intercept


def check_n_outputs(n_outputs: Any) -> None:
    """Raise an error if this is not a valid number of outputs."""
    is_int = isinstance(n_outputs, Integral) and not isinstance(n_outputs, bool)
    if not is_int or not 1 <= n_outputs <= MOST_OUTPUTS:
        raise ValueError(
            f"n_outputs must be an integer from 1 to {MOST_OUTPUTS}, got {n_outputs!r}."
        )


def _dense(features: Any) -> Tensor:
    """Convert a dense or sparse feature matrix to a float64 tensor."""
    features = check_array(features, accept_sparse=("csr", "csc"), dtype=np.float64)
    dense = features if isinstance(features, np.ndarray) else features.toarray()
    return as_float64(dense)


class InputBasis(FeatureColumns):
    """The inputs themselves: the linear model.

    Parameters
    ----------
    fit_intercept : bool, default=True
        Whether each output has a free intercept.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_pgb import InputBasis
    >>> X = np.arange(6.0).reshape(3, 2)
    >>> InputBasis().fit(X).operator(X, n_outputs=2).n_coef
    4
    """

    def __init__(self, *, fit_intercept: bool = True):
        self.fit_intercept = fit_intercept

    def fit(self, X: Any, y: Any = None) -> Self:
        return self

    def features(self, X: Any) -> Tensor:
        return _dense(X)


class FeatureBasis(FeatureColumns):
    """Handcrafted features: the columns of a scikit-learn transformer.

    Every output has its own coefficients on the features.

    Parameters
    ----------
    transformer : transformer
        Any scikit-learn transformer or Pipeline. It is cloned and fitted; a
        FrozenEstimator keeps its fit.
    fit_intercept : bool, default=True
        Whether each output has a free intercept.

    Attributes
    ----------
    transformer_ : transformer
        The fitted transformer.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.preprocessing import PolynomialFeatures
    >>> from sklearn_pgb import FeatureBasis
    >>> basis = FeatureBasis(PolynomialFeatures(2, include_bias=False))
    >>> X = np.arange(6.0).reshape(3, 2)
    >>> basis.fit(X).operator(X, n_outputs=1).n_coef
    5
    """

    def __init__(self, transformer: Any, *, fit_intercept: bool = True):
        self.transformer = transformer
        self.fit_intercept = fit_intercept

    def fit(self, X: Any, y: Any = None) -> Self:
        if not hasattr(self.transformer, "transform"):
            raise TypeError(
                "transformer must be a scikit-learn transformer or a Pipeline of them, "
                f"with a method transform, got {self.transformer!r}."
            )
        self.transformer_ = fit_protected(clone(self.transformer), X, y)
        return self

    def features(self, X: Any) -> Tensor:
        check_is_fitted(self)
        return _dense(transform_protected(self.transformer_, X))
