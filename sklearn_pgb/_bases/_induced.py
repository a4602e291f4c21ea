"""Bases induced by a trained network."""

from dataclasses import replace
from numbers import Integral
from typing import Any, Self

import torch
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from sklearn_pgb._bases._basis import Basis, FeatureColumns, check_n_outputs
from sklearn_pgb._bases._tangent import TangentSpace
from sklearn_pgb._budget import FEW_ROWS
from sklearn_pgb._models._open import check_can_open, named_loss, open_network
from sklearn_pgb._models._opened import OpenNetwork
from sklearn_pgb._models._selected import check_selection, named, select
from sklearn_pgb._models._train import fit_estimator
from sklearn_pgb._operators._operator import LinearOperator
from sklearn_pgb._seeds import fill_seeds


def train_and_open(
    estimator: Any, X: Any, y: Any, loss: str | None, seed: int | None = None
) -> OpenNetwork:
    """Train a network, unless it is a module or frozen, and open it.

    A seed replaces each `random_state` of the estimator that is None.
    """
    known = named_loss(loss)
    if not isinstance(estimator, nn.Module | FrozenEstimator):
        check_can_open(estimator)
        estimator = clone(estimator)
        if seed is not None:
            fill_seeds(estimator, seed)
        fit_estimator(estimator, X, y)
    opened = open_network(estimator, loss=known)
    inputs = opened.inputs(X)
    return opened.for_targets(y, opened.network.count_outputs(inputs))


class LayerBasis(FeatureColumns):
    """The outputs of one layer of a network.

    Every output of the model has its own coefficients on the layer's units. At a
    critical point of the training loss, the last hidden layer's basis is as good as the
    whole gradient basis (Kawaguchi, Huang and Kaelbling 2019, Example 3).

    Parameters
    ----------
    estimator : estimator or torch.nn.Module
        A network (see `GradientBasisRefit`). It is cloned and trained in `fit`; a
        module or a FrozenEstimator is used without training.
    layer : int, default=-1
        Index of the hidden layer: 0 is the first, -1 the last.
    fit_intercept : bool, default=True
        Whether each output has a free intercept.
    loss : {"squared_error", "poisson", "huber", "log_loss", "binary_log_loss"} or \
            None, default=None
        Training loss of a module; None for an estimator.

    Attributes
    ----------
    network_ : OpenNetwork
        The trained network.

    Examples
    --------
    >>> from sklearn.datasets import make_regression
    >>> from sklearn.neural_network import MLPRegressor
    >>> from sklearn_pgb import LayerBasis
    >>> X, y = make_regression(50, 3, random_state=0)
    >>> network = MLPRegressor(hidden_layer_sizes=(7, 5), tol=0.1, random_state=0)
    >>> LayerBasis(network, layer=0).fit(X, y).operator(X, n_outputs=1).n_coef
    7
    """

    rounded_columns = True

    def __init__(
        self,
        estimator: Any,
        *,
        layer: int = -1,
        fit_intercept: bool = True,
        loss: str | None = None,
    ):
        self.estimator = estimator
        self.layer = layer
        self.fit_intercept = fit_intercept
        self.loss = loss

    def fit(self, X: Any, y: Any = None) -> Self:
        self.network_ = train_and_open(self.estimator, X, y, self.loss)
        return self

    def features(self, X: Any) -> Tensor:
        """The layer's outputs, float64 of shape (n_samples, n_units)."""
        check_is_fitted(self)
        opened = self.network_
        hidden = opened.network.layers(opened.inputs(X, check=False))[1:-1]
        layer: Any = self.layer
        is_int = isinstance(layer, Integral) and not isinstance(layer, bool)
        if not is_int or not -len(hidden) <= self.layer < len(hidden):
            raise ValueError(
                f"layer must be the index of one of the {len(hidden)} hidden layers, "
                f"got {self.layer!r}. Change it or hidden_layer_sizes; a module's "
                "layers are known only if it is a Sequential of linear layers, "
                "activations and layer norms that ends in a linear layer."
            )
        return hidden[self.layer]


class TangentColumns(Basis):
    """Partial derivatives of a network at one or more parameter vectors.

    They are scaled, and output biases are left out. Subclasses set `network_` and
    `space_` in `fit`.
    """

    network_: OpenNetwork
    space_: TangentSpace

    def operator(self, X: Any, n_outputs: int) -> LinearOperator:
        check_is_fitted(self)
        check_n_outputs(n_outputs)
        # A module was checked when the basis was fitted.
        inputs = self.network_.inputs(X, check=False)
        operator = self.space_.operator([inputs] * len(self.space_.networks))
        if operator.n_outputs != n_outputs:
            raise ValueError(
                f"n_outputs must be {operator.n_outputs}, the network's, got "
                f"{n_outputs}. Train a network on these targets."
            )
        return operator

    @property
    def intercept(self) -> bool:
        """Whether the network has output biases, which are not penalized."""
        return self.space_.intercept


class GradientBasis(TangentColumns):
    """The partial derivatives of a network with respect to its parameters.

    The model q(x) = J(x) c has one coefficient per parameter, used by all outputs. If
    the network has a linear head, it lies in the span of this basis. At a critical
    point of its training loss, it is the best model in the span (Kawaguchi, Huang and
    Kaelbling 2019, Theorem 1).

    Parameters
    ----------
    estimator : estimator or torch.nn.Module
        A network (see `GradientBasisRefit`). It is cloned and trained in `fit`; a
        module or a FrozenEstimator is used without training.
    parameters : {"all", "last", "last-k"} or list of str, default="all"
        Parameters whose derivatives form the basis (see `GradientBasisRefit`).
    loss : {"squared_error", "poisson", "huber", "log_loss", "binary_log_loss"} or \
            None, default=None
        Training loss of a module; None for an estimator.

    Attributes
    ----------
    network_ : OpenNetwork
        The trained network, whose parameters are the selected ones.
    space_ : TangentSpace
        Its scaled columns.

    Examples
    --------
    Layers with 3 * 5 + 5 and 5 parameters; the output bias is the intercept:

    >>> from sklearn.datasets import make_regression
    >>> from sklearn.neural_network import MLPRegressor
    >>> from sklearn_pgb import GradientBasis
    >>> X, y = make_regression(50, 3, random_state=0)
    >>> network = MLPRegressor(hidden_layer_sizes=5, tol=0.1, random_state=0)
    >>> basis = GradientBasis(network).fit(X, y)
    >>> operator = basis.operator(X, n_outputs=1)
    >>> operator.n_coef, basis.intercept
    (25, True)
    """

    def __init__(
        self,
        estimator: Any,
        *,
        parameters: str | list[str] = "all",
        loss: str | None = None,
    ):
        self.estimator = estimator
        self.parameters = parameters
        self.loss = loss

    def fit(self, X: Any, y: Any = None) -> Self:
        check_selection(self.parameters)
        opened = train_and_open(self.estimator, X, y, self.loss)
        inputs = opened.inputs(X, check=False)
        parameters = named(opened.network, self.parameters, inputs[:FEW_ROWS])
        network = select(opened.network, parameters)
        self.network_ = replace(opened, network=network)
        weight = torch.full((len(inputs),), 1 / len(inputs), dtype=torch.float64)
        self.space_ = TangentSpace.of([self.network_.network], [inputs], weight)
        return self
