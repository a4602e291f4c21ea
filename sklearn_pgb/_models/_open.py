"""Fitted estimators and modules, opened as networks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.compose import TransformedTargetRegressor
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection._search import BaseSearchCV
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import LabelEncoder
from sklearn.utils import check_array, column_or_1d
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn

from sklearn_pgb._losses import (
    MODULE_LOSSES,
    CrossEntropyLoss,
    LogisticLoss,
    Loss,
    PoissonLoss,
    SquaredLoss,
)
from sklearn_pgb._models._chain import ACTIVATIONS, ChainNetwork
from sklearn_pgb._models._checks import check_samples
from sklearn_pgb._models._module import ModuleNetwork, open_module
from sklearn_pgb._models._network import Network, as_float64
from sklearn_pgb._models._skorch import is_skorch, read_skorch


@dataclass(frozen=True, eq=False)
class OpenNetwork:
    """A network taken out of an estimator, with the way in and the way out.

    Attributes
    ----------
    network : Network
        Maps `inputs` to raw outputs.
    loss : Loss
        The loss it was trained with.
    kind : {"regressor", "classifier"} or None
        What the estimator is; None for a bare module.
    final : estimator or module
        What was at the end of all pipelines.
    steps : tuple of transformers
        What X goes through before `final`, first to last.
    target_transformers : tuple of transformers
        What y goes through before `final`, first to last.
    classes : ndarray or None
        Labels of a binary or multiclass classifier, in the order of its outputs.
    one_column : bool
        Whether the classifier has one output for its two classes.
    preprocess : callable or None
        What `final` does to validated, dense samples before its network sees them.
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
        """Return the inputs as the network sees them.

        Parameters
        ----------
        X : array-like, sparse matrix or Tensor
            What the estimator takes.
        check : bool, default=True
            Whether to test on a few samples that a module treats each by itself; see
            `check_samples`. Only data of a network that was tested can do without.

        Returns
        -------
        Tensor of shape (n_samples, n_inputs), or (n_samples, ...) for a module
            Float64, on the CPU.
        """
        for step in self.steps:
            X = step.transform(X)
        sparse = ("csr", "csc")
        if isinstance(self.final, NetworkEstimator | MLPRegressor | MLPClassifier):
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
        """Give a chain the 2-d rows that it needs, as its own Flatten layer does."""
        rows = rows.reshape(len(rows), -1)
        if rows.shape[1] != self.network.n_inputs:
            raise ValueError(
                f"X must have {self.network.n_inputs} features, as the network's first "
                f"layer, got {rows.shape[1]}. Pass what the network was trained on."
            )
        return rows

    def targets(self, y: Any, n_outputs: int | None = None) -> Tensor:
        """Return the targets as the loss wants them.

        Parameters
        ----------
        y : array-like or Tensor of shape (n_samples,) or (n_samples, n_outputs)
            Targets or labels as the estimator takes them. For a bare module: real
            targets, 0/1 indicators, or, with the cross entropy, class numbers.
        n_outputs : int, default=None
            Number of outputs; needed for class numbers where the network does not
            know it.

        Returns
        -------
        Tensor of shape (n_samples, n_outputs)
            Encoded targets.
        """
        n_outputs = self.network.n_outputs or n_outputs
        y = _to_numpy(y)
        classes = self.classes
        numbered = self.kind is None and isinstance(self.loss, CrossEntropyLoss)
        if numbered and np.ndim(y) == 1:
            classes = np.arange(_known(n_outputs))
        if classes is None:
            columns = self._real_targets(y)
        else:
            codes = LabelEncoder().fit(classes).transform(column_or_1d(y))
            one_hot = codes[:, None] == np.arange(len(classes))
            columns = codes[:, None] == 1 if self.one_column else one_hot
        if n_outputs is not None and columns.shape[1] != n_outputs:
            raise ValueError(
                f"y must have {n_outputs} columns, as the network has outputs, got "
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
        """The same, with the loss that a module's log loss is on these targets.

        It is the logistic loss if there is one output, or if y holds several labels.
        """
        is_log_loss = self.kind is None and isinstance(self.loss, CrossEntropyLoss)
        if is_log_loss and (n_outputs == 1 or np.ndim(y) == 2):
            return replace(self, loss=LogisticLoss())
        return self

    def untransform(self, raw_prediction: NDArray[Any]) -> NDArray[Any]:
        """Bring predictions back to the space of y, of shape (n_samples, n_outputs)."""
        for transformer in reversed(self.target_transformers):
            raw_prediction = np.asarray(transformer.inverse_transform(raw_prediction))
            raw_prediction = raw_prediction.reshape(len(raw_prediction), -1)
        return raw_prediction


@dataclass(frozen=True, eq=False)
class TrainingTerms:
    """What an estimator minimised besides the mean loss.

    Attributes
    ----------
    penalty : ndarray (n_params,)
        The penalty is ``sum_k penalty_k theta_k^2``, in the units of the loss.
    row_weight : ndarray (n_samples,)
        Factors of the sample weights: the weights of classes.
    notes : tuple of str
        How the training differed from minimising this on these rows.
    """

    penalty: NDArray[np.float64]
    row_weight: NDArray[np.float64]
    notes: tuple[str, ...] = ()


class NetworkEstimator(ABC):
    """An estimator of this package that is a network, and opens itself."""

    @abstractmethod
    def _open_network(self) -> OpenNetwork:
        """The fitted network; `check_is_fitted` comes first."""

    @abstractmethod
    def _training_terms(
        self, rows: NDArray[np.float64], y: Any, weight: NDArray[np.float64]
    ) -> TrainingTerms:
        """What was minimised on these samples.

        Parameters
        ----------
        rows : ndarray (n_samples, ...)
            Inputs as the network sees them.
        y : array-like
            Targets or labels as `fit` takes them.
        weight : ndarray (n_samples,)
            Sample weights in the user's scale.
        """


def named_loss(name: Any) -> Loss | None:
    """The loss that a user names; "auto" and None stand for an estimator's own.

    Raises
    ------
    TypeError, ValueError
        If there is no loss of this name.
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
        The loss. None stands for the loss the estimator was trained with, which a
        module does not know.

    Returns
    -------
    OpenNetwork
        The network, its loss, and the maps of X and y.
    """
    if loss is not None and not isinstance(loss, Loss):
        raise TypeError(
            f"loss must be a Loss or None, got {type(loss).__name__}. "
            "`named_loss` gives the one of a name."
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
    """An estimator and what its wrappers hold, from the outermost to the network."""
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
    """Refuse an estimator that could not be opened once it is fitted.

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
    """Follow fitted wrappers to the final estimator; collect the maps of X and y."""
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
            "loss must be given with a torch module, which does not say what it was "
            f"trained with, got None. Pass one of {_LOSS_NAMES.partition(', ')[2]}."
        )
    return OpenNetwork(open_module(module), loss, None, module)


def _mlp_chain(mlp: MLPRegressor | MLPClassifier) -> ChainNetwork:
    check_is_fitted(mlp)
    activation = ACTIVATIONS[mlp.activation]
    return ChainNetwork(
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
    # Several logistic outputs: multilabel, with indicators for targets.
    return OpenNetwork(network, LogisticLoss(), "classifier", mlp)


def _open_skorch(net: Any) -> OpenNetwork:
    check_is_fitted(net)
    module, loss = read_skorch(net)
    network = open_module(module)
    if isinstance(loss, SquaredLoss):
        return OpenNetwork(network, loss, "regressor", net)
    # skorch's labels are the numbers of the outputs.
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


def _known(n_outputs: int | None) -> int:
    if n_outputs is None:
        raise ValueError(
            "y must be one-hot rows, got class numbers for a module whose number of "
            "outputs is not known. Pass n_outputs, or one column per class."
        )
    return n_outputs


def _to_numpy(array: Any) -> ArrayLike:
    return array.detach().cpu().numpy() if isinstance(array, Tensor) else array


def _to_dense(array: Any) -> NDArray[np.float64]:
    """Densify what `check_array` returned."""
    return array if isinstance(array, np.ndarray) else array.toarray()


def _describe(estimator: Any, final: Any) -> str:
    name = type(estimator).__name__
    return name if final is estimator else f"{name} that ends in {final!r}"


def _cannot_open(estimator: Any, final: Any) -> str:
    return (
        "estimator must be a network of this package, an MLPRegressor, an "
        "MLPClassifier, a skorch net, a torch module, or a Pipeline, "
        "TransformedTargetRegressor, FrozenEstimator or search that ends in one, "
        f"got {_describe(estimator, final)}. Open the network itself."
    )
