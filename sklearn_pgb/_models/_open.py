"""Open fitted estimators and modules as networks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.compose import TransformedTargetRegressor
from sklearn.frozen import FrozenEstimator
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import LabelEncoder
from sklearn.utils import check_array, column_or_1d
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn

from sklearn_pgb._losses._classification import CrossEntropyLoss, LogisticLoss
from sklearn_pgb._losses._loss import Loss
from sklearn_pgb._losses._named import MODULE_LOSSES
from sklearn_pgb._losses._regression import PoissonLoss, SquaredLoss
from sklearn_pgb._models._activations import ACTIVATIONS
from sklearn_pgb._models._chain import ChainNetwork
from sklearn_pgb._models._checks import check_samples
from sklearn_pgb._models._module import ModuleNetwork, open_module
from sklearn_pgb._models._network import Network, as_float64
from sklearn_pgb._models._skorch import is_skorch, read_skorch
from sklearn_pgb._sklearn import BaseSearchCV


@dataclass(frozen=True, eq=False)
class OpenNetwork:
    """The network of an estimator, with the estimator's transformations of X and y.

    Attributes
    ----------
    network : Network
        Maps `inputs` to raw outputs.
    loss : Loss
        Training loss.
    kind : {"regressor", "classifier"} or None
        Type of the estimator; None for a module.
    final : estimator or module
        Estimator or module inside of all pipelines and wrappers.
    steps : tuple of transformers
        Transformers of X, first to last.
    target_transformers : tuple of transformers
        Transformers of y, first to last.
    classes : ndarray or None
        Labels of a binary or multiclass classifier, in the order of its outputs.
    one_column : bool
        Whether the classifier has one output for its two classes.
    preprocess : callable or None
        Maps validated, dense samples of `final` to inputs of its network.
    """

    network: Network
    loss: Loss
    kind: Literal["regressor", "classifier"] | None
    final: Any
    steps: tuple[Any, ...] = ()
    target_transformers: tuple[Any, ...] = ()
    classes: NDArray[Any] | None = None
    one_column: bool = False
    preprocess: Callable[[NDArray[Any]], NDArray[np.float64]] | None = None

    def inputs(self, X: Any, *, check: bool = True) -> Tensor:
        """Return the inputs of the network.

        Parameters
        ----------
        X : array-like, sparse matrix or Tensor
            Inputs of the estimator.
        check : bool, default=True
            Whether to run `check_samples` on a module. It can be skipped if the module
            was checked before.

        Returns
        -------
        Tensor of shape (n_samples, n_inputs), or (n_samples, ...) for a module
            Float64, on the CPU.
        """
        for step in self.steps:
            X = step.transform(X)
        sparse = ("csr", "csc")
        if isinstance(self.final, NetworkEstimator | MLPRegressor | MLPClassifier):
            # Unlike check_array, this also checks feature names and their number.
            X = validate_data(
                self.final,
                X,
                reset=False,
                accept_sparse=sparse,
                dtype=np.float64,
                allow_nd=True,
            )
        else:
            X = check_array(
                _to_numpy(X), accept_sparse=sparse, dtype=np.float64, allow_nd=True
            )
        dense = _to_dense(X)
        if self.preprocess is not None:
            dense = self.preprocess(dense)
        rows = as_float64(dense)
        if self.network.n_inputs is not None:
            return self._flatten(rows)
        if check and isinstance(self.network, ModuleNetwork):
            check_samples(self.network, rows)
        return rows

    def _flatten(self, rows: Tensor) -> Tensor:
        """Reshape samples to the 2-d inputs of a chain, as a Flatten layer would."""
        rows = rows.reshape(len(rows), -1)
        if rows.shape[1] != self.network.n_inputs:
            raise ValueError(
                f"X must have {self.network.n_inputs} features, as the network's first "
                f"layer, got {rows.shape[1]}. Pass inputs like those of the training."
            )
        return rows

    def targets(self, y: Any, n_outputs: int | None = None) -> Tensor:
        """Return the encoded targets of the loss.

        Parameters
        ----------
        y : array-like or Tensor of shape (n_samples,) or (n_samples, n_outputs)
            Targets or labels of the estimator. For a module: real targets, 0/1
            indicators or, if the loss is the cross entropy, class numbers.
        n_outputs : int, default=None
            Number of outputs. It is needed for class numbers if `network.n_outputs` is
            None.

        Returns
        -------
        Tensor of shape (n_samples, n_outputs)
            Encoded targets.
        """
        n_outputs = self.network.n_outputs or n_outputs
        y = _to_numpy(y)
        classes = self.classes
        numbered = self.kind is None and isinstance(self.loss, CrossEntropyLoss)
        if numbered and classes is None and np.ndim(y) == 1:
            if n_outputs is None:
                raise ValueError(
                    "y must be one-hot rows, got class numbers for a module whose "
                    "number of outputs is not known. Pass n_outputs, or one column per "
                    "class."
                )
            classes = np.arange(n_outputs)
        if classes is None:
            columns = self._real_targets(y)
        else:
            codes = LabelEncoder().fit(classes).transform(column_or_1d(y))
            one_hot = codes[:, None] == np.arange(len(classes))
            columns = codes[:, None] == 1 if self.one_column else one_hot
        if n_outputs is not None and columns.shape[1] != n_outputs:
            raise ValueError(
                f"y must have {n_outputs} columns, one for each output, got "
                f"{columns.shape[1]}. Pass targets like those of the training."
            )
        return self.loss.encode(as_float64(columns))

    def _real_targets(self, y: Any) -> NDArray[np.float64]:
        y = check_array(
            y, accept_sparse=True, dtype=np.float64, ensure_2d=False, input_name="y"
        )
        y = _to_dense(y)
        for transformer in self.target_transformers:
            y = np.asarray(transformer.transform(y.reshape(len(y), -1)))
        return y.reshape(len(y), -1)

    def for_targets(self, y: Any, n_outputs: int) -> OpenNetwork:
        """The same network with a loss that fits the targets.

        The log loss of a module becomes the logistic loss if there is one output or if
        y is a multilabel indicator matrix.
        """
        if self.kind is not None:
            return self
        loss = self.loss.for_outputs(n_outputs, independent=np.ndim(y) == 2)
        return replace(self, loss=loss)

    def untransform(self, raw_prediction: NDArray[Any]) -> NDArray[Any]:
        """Undo the target transformations of predictions (n_samples, n_outputs)."""
        for transformer in reversed(self.target_transformers):
            raw_prediction = np.asarray(transformer.inverse_transform(raw_prediction))
            raw_prediction = raw_prediction.reshape(len(raw_prediction), -1)
        return raw_prediction


@dataclass(frozen=True, eq=False)
class TrainingTerms:
    """Terms of an estimator's training objective besides the mean loss.

    Attributes
    ----------
    penalty : ndarray (n_params,)
        The penalty is ``sum_k penalty_k theta_k^2``, in the units of the loss.
    row_weight : ndarray (n_samples,)
        Factors of the sample weights, from class weights.
    notes : tuple of str
        Differences between the training and a minimization of this objective.
    """

    penalty: NDArray[np.float64]
    row_weight: NDArray[np.float64]
    notes: tuple[str, ...] = ()


class NetworkEstimator(ABC):
    """Base class of this package's networks."""

    @abstractmethod
    def _open_network(self) -> OpenNetwork:
        """The fitted network, after `check_is_fitted`."""

    @abstractmethod
    def _training_terms(
        self, rows: NDArray[np.float64], y: Any, weight: NDArray[np.float64]
    ) -> TrainingTerms:
        """The training objective's other terms on these samples.

        Parameters
        ----------
        rows : ndarray (n_samples, ...)
            Inputs of the network.
        y : array-like
            Targets or labels, as in `fit`.
        weight : ndarray (n_samples,)
            Sample weights, not normalized.
        """


def named_loss(name: Any) -> Loss | None:
    """The loss with this name; None for None and "auto".

    Raises
    ------
    TypeError, ValueError
        If there is no loss with this name.
    """
    if name is None:
        return None
    if not isinstance(name, str) or name not in MODULE_LOSSES:
        kind = ValueError if isinstance(name, str) else TypeError
        raise kind(f"loss must be one of {_LOSS_NAMES} or None, got {name!r}.")
    return MODULE_LOSSES[name]


_LOSS_NAMES = ", ".join(map(repr, MODULE_LOSSES))


def open_network(estimator: Any, *, loss: Loss | None = None) -> OpenNetwork:
    """Open a fitted estimator or a torch module.

    Parameters
    ----------
    estimator : estimator or torch.nn.Module
        A fitted network of this package, MLPRegressor, MLPClassifier or skorch net, a
        Pipeline, TransformedTargetRegressor, FrozenEstimator or search
        (GridSearchCV and its like) that ends in one of these in any nesting, or a
        module.
    loss : Loss, default=None
        The loss. None means the estimator's training loss; modules need a loss.

    Returns
    -------
    OpenNetwork
        The network, its loss, and the maps of X and y.
    """
    if loss is not None and not isinstance(loss, Loss):
        raise TypeError(
            f"loss must be a Loss or None, got {type(loss).__name__}. "
            "`named_loss` returns the loss with a name."
        )
    final, steps, target_transformers = unwrap(estimator)
    if isinstance(final, nn.Module):
        opened = _open_bare(final, loss)
    elif isinstance(final, NetworkEstimator):
        opened = final._open_network()
    elif isinstance(final, MLPRegressor):
        opened = _open_mlp_regressor(final)
    elif isinstance(final, MLPClassifier):
        opened = _open_mlp_classifier(final)
    elif is_skorch(final):
        opened = _open_skorch(final)
    else:
        raise TypeError(_cannot_open(estimator, final))
    return replace(
        opened,
        loss=loss or opened.loss,
        steps=(*steps, *opened.steps),
        target_transformers=target_transformers,
    )


def nested(estimator: Any) -> Iterator[Any]:
    """An estimator and the estimators it wraps, from the outermost to the network."""
    while True:
        yield estimator
        if isinstance(estimator, FrozenEstimator | BaseSearchCV):
            estimator = estimator.estimator
        elif isinstance(estimator, Pipeline):
            estimator = estimator.steps[-1][1]
        elif isinstance(estimator, TransformedTargetRegressor):
            estimator = estimator.regressor
        else:
            return


def check_can_open(estimator: Any) -> None:
    """Check that an estimator can be opened after it is fitted.

    Raises
    ------
    TypeError
        If it does not end in a network.
    """
    *_, final = nested(estimator)
    known = nn.Module | NetworkEstimator | MLPRegressor | MLPClassifier
    if not isinstance(final, known) and not is_skorch(final):
        raise TypeError(_cannot_open(estimator, final))


def unwrap(estimator: Any) -> tuple[Any, tuple[Any, ...], tuple[Any, ...]]:
    """The final estimator inside fitted wrappers, and the transformers of X and y."""
    steps, target_transformers = [], []
    while True:
        if isinstance(estimator, FrozenEstimator):
            estimator = estimator.estimator
        elif isinstance(estimator, Pipeline):
            if len(estimator.steps) > 1:
                steps.append(estimator[:-1])
            estimator = estimator.steps[-1][1]
        elif isinstance(estimator, TransformedTargetRegressor):
            check_is_fitted(estimator)
            target_transformers.append(estimator.transformer_)
            estimator = estimator.regressor_
        elif isinstance(estimator, BaseSearchCV):
            if not estimator.refit:
                raise ValueError(
                    "estimator must be a search that trains its best network, got "
                    f"refit={estimator.refit!r}. Set refit=True."
                )
            check_is_fitted(estimator)
            estimator = estimator.best_estimator_
        else:
            return estimator, tuple(steps), tuple(target_transformers)


def _open_bare(module: nn.Module, loss: Loss | None) -> OpenNetwork:
    if loss is None:
        raise ValueError(
            "loss must be given with a torch module, which does not store its loss, "
            f"got None. Pass one of {_LOSS_NAMES.partition(', ')[2]}."
        )
    return OpenNetwork(open_module(module), loss, None, module)


def _mlp_chain(mlp: MLPRegressor | MLPClassifier) -> ChainNetwork:
    check_is_fitted(mlp)
    activation = ACTIVATIONS[mlp.activation]
    return ChainNetwork.mlp(
        weights=[as_float64(coef).T for coef in mlp.coefs_],
        biases=mlp.intercepts_,
        activations=[activation] * (len(mlp.coefs_) - 1),
    )


def _open_mlp_regressor(mlp: MLPRegressor) -> OpenNetwork:
    network = _mlp_chain(mlp)
    loss = PoissonLoss() if mlp.out_activation_ == "exp" else SquaredLoss()
    return OpenNetwork(network, loss, "regressor", mlp)


def _open_mlp_classifier(mlp: MLPClassifier) -> OpenNetwork:
    network = _mlp_chain(mlp)
    if mlp.out_activation_ == "softmax":
        loss: Loss = CrossEntropyLoss()
        return OpenNetwork(network, loss, "classifier", mlp, classes=mlp.classes_)
    if network.n_outputs == 1:
        return OpenNetwork(
            network,
            LogisticLoss(),
            "classifier",
            mlp,
            classes=mlp.classes_,
            one_column=True,
        )
    # Several logistic outputs: multilabel targets are indicators already.
    return OpenNetwork(network, LogisticLoss(), "classifier", mlp)


def _open_skorch(net: Any) -> OpenNetwork:
    check_is_fitted(net)
    module, loss = read_skorch(net)
    network = open_module(module)
    if isinstance(loss, SquaredLoss):
        return OpenNetwork(network, loss, "regressor", net)
    # The labels of skorch are the indices of its outputs.
    one_column = isinstance(loss, LogisticLoss)
    n_classes = 2 if one_column else network.n_outputs or len(net.classes_)
    return OpenNetwork(
        network,
        loss,
        "classifier",
        net,
        classes=np.arange(n_classes),
        one_column=one_column,
    )


def _to_numpy(array: Any) -> ArrayLike:
    return array.detach().cpu().numpy() if isinstance(array, Tensor) else array


def _to_dense(array: Any) -> NDArray[np.float64]:
    """Densify what `check_array` returned."""
    return array if isinstance(array, np.ndarray) else array.toarray()


def _cannot_open(estimator: Any, final: Any) -> str:
    """Message for an estimator without a network."""
    ending = "" if final is estimator else f" that ends in {final!r}"
    return (
        "estimator must be a network of this package, an MLPRegressor, an "
        "MLPClassifier, a skorch net, a torch module, or a Pipeline, "
        "TransformedTargetRegressor, FrozenEstimator or search that ends in one, "
        f"got {type(estimator).__name__}{ending}. Open the network itself."
    )
