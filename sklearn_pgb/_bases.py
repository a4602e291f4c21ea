"""Bases: where the columns of a convex model come from."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, clone
from sklearn.frozen import FrozenEstimator
from sklearn.utils import check_array
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from sklearn_pgb._losses import Loss
from sklearn_pgb._networks import (
    ChainNetwork,
    Head,
    Network,
    OpenNetwork,
    ResNetNetwork,
    as_float64,
    open_network,
)
from sklearn_pgb._operators import (
    ChainOperator,
    FunctionOperator,
    KroneckerOperator,
    LinearOperator,
    StackedOperator,
)


def jacobian(
    network: Network, X: Tensor, *, without: slice | None = None
) -> LinearOperator:
    """The partial derivatives of a network's raw outputs by its parameters.

    Parameters
    ----------
    network : Network
    X : Tensor (n_samples, ...)
        As the network sees it.
    without : slice or None
        Positions in theta that give no column: the head's bias, or None.
    """
    if isinstance(network, ChainNetwork):
        pre_activations, layers = network.forward(X)
        slopes = [
            activation.derivative(z, h)
            for activation, z, h in zip(
                network.activations, pre_activations, layers[1:-1], strict=True
            )
        ]
        biases = [bias is not None for bias in network.biases]
        biases[-1] = biases[-1] and without is None
        return ChainOperator(layers[:-1], slopes, network.weights, biases)
    theta = network.theta
    return FunctionOperator(network, theta, X, _other_positions(len(theta), without))


def _other_positions(n_params: int, without: slice | None) -> Tensor:
    keep = torch.ones(n_params, dtype=torch.bool)
    if without is not None:
        keep[without] = False
    return torch.nonzero(keep)[:, 0]


@dataclass(frozen=True, eq=False)
class TangentSpace:
    """Partial derivatives of trained networks, side by side.

    Each network's columns are scaled to a mean squared row norm of one over the number
    of networks, so that the kernel is the mean of the networks' kernels and one ridge
    means the same for any network and any number of them. The derivatives by the output
    biases, the same constant for all networks, are the problem's free intercept.

    Attributes
    ----------
    networks : tuple of Network
    heads : tuple of Head
    scales : tuple of float
    """

    networks: tuple[Network, ...]
    heads: tuple[Head, ...]
    scales: tuple[float, ...]

    @classmethod
    def of(
        cls, networks: Sequence[Network], inputs: Sequence[Tensor], weight: Tensor
    ) -> Self:
        """Measure heads and scales on the training inputs, one tensor per network."""
        space = cls.with_scales(networks, inputs, [1.0] * len(networks))
        scales = []
        for part in space.operator(inputs).operators:
            size = float((weight @ part.row_norms()).mean()) * len(networks)
            # A network without any influence of its parameters keeps its zero columns.
            scales.append(size**-0.5 if size > 0 else 1.0)
        return replace(space, scales=tuple(scales))

    @classmethod
    def with_scales(
        cls,
        networks: Sequence[Network],
        inputs: Sequence[Tensor],
        scales: Sequence[float],
    ) -> Self:
        """The space with known scales; a few rows of inputs find the heads."""
        heads = [
            network.find_head(X[:8])
            for network, X in zip(networks, inputs, strict=True)
        ]
        return cls(tuple(networks), tuple(heads), tuple(float(s) for s in scales))

    @property
    def intercept(self) -> bool:
        """Whether an output bias is among the parameters."""
        return all(head.bias is not None for head in self.heads)

    @property
    def spans_networks(self) -> bool:
        """Whether every network is a known point of its own span (f = J g)."""
        return all(head.in_span is not None for head in self.heads)

    def operator(self, inputs: Sequence[Tensor]) -> StackedOperator:
        """The scaled columns on these inputs, output biases left out."""
        parts = [
            jacobian(network, X, without=head.bias if self.intercept else None)
            for network, head, X in zip(self.networks, self.heads, inputs, strict=True)
        ]
        return StackedOperator(parts, self.scales)

    def parameters(self, coef: Tensor, intercept: Tensor, centre: bool) -> Tensor:
        """One coefficient per network parameter, in units of the parameters.

        With `centre` the mean of the networks is added, as the point
        (g_1, ..., g_K) / K of the span.
        """
        sizes = [
            network.n_params - (len(intercept) if self.intercept else 0)
            for network in self.networks
        ]
        count = len(self.networks)
        result = []
        for network, head, scale, part in zip(
            self.networks, self.heads, self.scales, coef.split(sizes), strict=True
        ):
            bias = head.bias if self.intercept else None
            full = part.new_zeros(network.n_params)
            full[_other_positions(len(full), bias)] = scale * part
            if bias is not None:
                full[bias] = intercept / count
            if centre:
                assert head.in_span is not None
                full += head.in_span / count
            result.append(full)
        return torch.cat(result)


def mean_raw(networks: Sequence[Network], inputs: Sequence[Tensor]) -> Tensor:
    """Raw outputs of the networks, averaged."""
    outputs = [
        network(network.theta, X) for network, X in zip(networks, inputs, strict=True)
    ]
    return torch.stack(outputs).mean(0)


def tangent_raw(
    networks: Sequence[Network], inputs: Sequence[Tensor], parameters: Tensor
) -> Tensor:
    """J c, with one coefficient per parameter of all networks."""
    sizes = [network.n_params for network in networks]
    outputs = [
        jacobian(network, X).matvec(part)
        for network, X, part in zip(
            networks, inputs, parameters.split(sizes), strict=True
        )
    ]
    return torch.stack(outputs).sum(0)


class Basis(ABC, BaseEstimator):
    """Columns of a convex model, induced by data, a transformer or a network.

    `fit` learns what the basis needs; `operator` gives its matrix on any data. Bases
    are cloned and refitted on each training part when they are compared.
    """

    @abstractmethod
    def fit(self, X: Any, y: Any = None) -> Self:
        """Learn what the columns need to know."""

    @abstractmethod
    def operator(self, X: Any, n_outputs: int) -> LinearOperator:
        """The penalised columns on X as a linear operator."""

    @property
    @abstractmethod
    def intercept(self) -> bool:
        """Whether a free intercept per output belongs to the model."""


def _kronecker(features: Any, n_outputs: int) -> KroneckerOperator:
    """Features of any container, with coefficients of their own for every output."""
    features = check_array(features, accept_sparse=("csr", "csc"), dtype=np.float64)
    dense = features if isinstance(features, np.ndarray) else features.toarray()
    return KroneckerOperator(as_float64(dense), n_outputs)


class InputBasis(Basis):
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
        """Do nothing; the inputs need no learning.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : array-like or None

        Returns
        -------
        self
        """
        return self

    def operator(self, X: Any, n_outputs: int) -> LinearOperator:
        """The inputs, with coefficients of their own for every output.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        n_outputs : int

        Returns
        -------
        LinearOperator
        """
        return _kronecker(X, n_outputs)

    @property
    def intercept(self) -> bool:
        """Whether a free intercept per output belongs to the model."""
        return self.fit_intercept


class FeatureBasis(Basis):
    """Handcrafted features: the columns of a scikit-learn transformer.

    Every output has its own coefficients on the features.

    Parameters
    ----------
    transformer : transformer
        Any scikit-learn transformer or Pipeline. It is cloned and fitted; a
        FrozenEstimator is taken as it is.
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
        """Fit the transformer.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : array-like or None

        Returns
        -------
        self
        """
        self.transformer_ = clone(self.transformer).fit(X, y)
        return self

    def operator(self, X: Any, n_outputs: int) -> LinearOperator:
        """The features of X, with coefficients of their own for every output.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        n_outputs : int

        Returns
        -------
        LinearOperator
        """
        check_is_fitted(self)
        return _kronecker(self.transformer_.transform(X), n_outputs)

    @property
    def intercept(self) -> bool:
        """Whether a free intercept per output belongs to the model."""
        return self.fit_intercept


def _train_and_open(estimator: Any, X: Any, y: Any, loss: Loss | None) -> OpenNetwork:
    """Open a module or frozen estimator as it is, a clone of any other after `fit`."""
    if isinstance(estimator, nn.Module | FrozenEstimator):
        return open_network(estimator, loss=loss)
    return open_network(clone(estimator).fit(X, y), loss=loss)


class LayerBasis(Basis):
    """The outputs of one layer of a network.

    Every output of the model has its own coefficients on the layer's units. At a
    critical point of the training loss the last hidden layer's basis is as good as all
    of the gradient basis (Kawaguchi, Huang and Kaelbling 2019, Example 3).

    Parameters
    ----------
    estimator : estimator or torch.nn.Module
        A network (see `GradientBasisRefit`). It is cloned and trained in `fit`; a
        module or a FrozenEstimator is taken as it is.
    layer : int, default=-1
        Which hidden layer, counted as in a list: 0 is the first, -1 the last.
    fit_intercept : bool, default=True
        Whether each output has a free intercept.
    loss : Loss or None, default=None
        Needed for a module only.

    Attributes
    ----------
    network_ : OpenNetwork
        The trained network.
    """

    def __init__(
        self,
        estimator: Any,
        *,
        layer: int = -1,
        fit_intercept: bool = True,
        loss: Loss | None = None,
    ):
        self.estimator = estimator
        self.layer = layer
        self.fit_intercept = fit_intercept
        self.loss = loss

    def fit(self, X: Any, y: Any = None) -> Self:
        """Train and open the network.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : array-like

        Returns
        -------
        self
        """
        self.network_ = _train_and_open(self.estimator, X, y, self.loss)
        return self

    def operator(self, X: Any, n_outputs: int) -> LinearOperator:
        """The layer's outputs, with coefficients of their own for every output.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        n_outputs : int

        Returns
        -------
        LinearOperator

        Raises
        ------
        ValueError
            If the network has no such hidden layer.
        """
        check_is_fitted(self)
        opened = self.network_
        hidden = opened.network.layers(opened.inputs(X))[1:-1]
        if not -len(hidden) <= self.layer < len(hidden):
            raise ValueError(
                f"layer must be the index of one of the {len(hidden)} hidden layers, "
                f"got {self.layer}. A module's layers are known only where it is a "
                "Sequential of linear layers and activations."
            )
        return KroneckerOperator(hidden[self.layer], n_outputs)

    @property
    def intercept(self) -> bool:
        """Whether a free intercept per output belongs to the model."""
        return self.fit_intercept


class ResNetBasis(Basis):
    """The features [phi(x), z(x)] of a network with residual units.

    Every output of the model has its own coefficients on them. Local minima of
    ``W (phi + V z)`` in (W, V) have the least loss over this basis (Kawaguchi and
    Bengio 2019, Theorem 1).

    Parameters
    ----------
    estimator : ResNetBasisRegressor or ResNetBasisClassifier
        It is cloned and trained in `fit`; a FrozenEstimator is taken as it is.
    fit_intercept : bool, default=True
        Whether each output has a free intercept.

    Attributes
    ----------
    network_ : OpenNetwork
        The trained network.
    """

    def __init__(self, estimator: Any, *, fit_intercept: bool = True):
        self.estimator = estimator
        self.fit_intercept = fit_intercept

    def fit(self, X: Any, y: Any = None) -> Self:
        """Train and open the network.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : array-like

        Returns
        -------
        self

        Raises
        ------
        TypeError
            If the estimator is no network with residual units.
        """
        opened = _train_and_open(self.estimator, X, y, None)
        if not isinstance(opened.network, ResNetNetwork):
            raise TypeError(
                "estimator must be a ResNetBasisRegressor or a ResNetBasisClassifier, "
                f"got {type(self.estimator).__name__}. LayerBasis and GradientBasis "
                "take other networks."
            )
        self.network_ = opened
        return self

    def operator(self, X: Any, n_outputs: int) -> LinearOperator:
        """[phi, z] on X, with coefficients of their own for every output.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        n_outputs : int

        Returns
        -------
        LinearOperator
        """
        check_is_fitted(self)
        features = self.network_.network.layers(self.network_.inputs(X))[1]
        return KroneckerOperator(features, n_outputs)

    @property
    def intercept(self) -> bool:
        """Whether a free intercept per output belongs to the model."""
        return self.fit_intercept


class GradientBasis(Basis):
    """The partial derivatives of a network by its parameters.

    One coefficient per parameter, shared by all outputs: q(x) = J(x) c. Where the
    network has a linear head, it is itself a point of this basis, and at a critical
    point of its training loss the best one (Kawaguchi, Huang and Kaelbling 2019,
    Theorem 1).

    Parameters
    ----------
    estimator : estimator or torch.nn.Module
        A network (see `GradientBasisRefit`). It is cloned and trained in `fit`; a
        module or a FrozenEstimator is taken as it is.
    loss : Loss or None, default=None
        Needed for a module only.

    Attributes
    ----------
    network_ : OpenNetwork
        The trained network.
    space_ : TangentSpace
        Its scaled columns.
    """

    def __init__(self, estimator: Any, *, loss: Loss | None = None):
        self.estimator = estimator
        self.loss = loss

    def fit(self, X: Any, y: Any = None) -> Self:
        """Train and open the network.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : array-like

        Returns
        -------
        self
        """
        self.network_ = _train_and_open(self.estimator, X, y, self.loss)
        inputs = self.network_.inputs(X)
        weight = torch.full((len(inputs),), 1 / len(inputs), dtype=inputs.dtype)
        self.space_ = TangentSpace.of([self.network_.network], [inputs], weight)
        return self

    def operator(self, X: Any, n_outputs: int) -> LinearOperator:
        """The scaled partial derivatives on X, output biases left out.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        n_outputs : int
            Must be the network's.

        Returns
        -------
        LinearOperator

        Raises
        ------
        ValueError
            If the network has another number of outputs.
        """
        check_is_fitted(self)
        operator = self.space_.operator([self.network_.inputs(X)])
        if operator.n_outputs != n_outputs:
            raise ValueError(
                f"n_outputs must be {operator.n_outputs}, the network's, got "
                f"{n_outputs}. Train a network on these targets."
            )
        return operator

    @property
    def intercept(self) -> bool:
        """Whether the network has an output bias, which stays free."""
        return self.space_.intercept
