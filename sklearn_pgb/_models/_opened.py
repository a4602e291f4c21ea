"""An opened model: its function, loss, and maps of inputs and targets."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from numbers import Number
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_array, column_or_1d
from sklearn.utils.validation import validate_data
from torch import Tensor, nn

from sklearn_pgb._losses._classification import CrossEntropyLoss
from sklearn_pgb._losses._loss import Loss
from sklearn_pgb._models._module import ModuleNetwork
from sklearn_pgb._models._module_checks import check_module
from sklearn_pgb._models._network import Network, as_float64
from sklearn_pgb._models._protected import guard_for
from sklearn_pgb._models._selected import SelectedNetwork


@dataclass(frozen=True, eq=False)
class OpenNetwork:
    """The model of an estimator, with the estimator's transformations of X and y.

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
    input_layer : torch.nn.Module or None
        The layer that does the same as `preprocess`; None for the identity.
    encode : callable or None
        Maps samples, as `final` takes them, to inputs of the network. It replaces
        validation and `preprocess`.
    surrogate : str or None
        The function that was opened, if it is not the one that `final` predicts with.
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
    input_layer: nn.Module | None = None
    encode: Callable[[Any], Tensor] | None = None
    surrogate: str | None = None

    @property
    def maps_inputs(self) -> bool:
        """Whether the network takes other values than those of X."""
        return bool(self.steps or self.encode or self.preprocess)

    def transformed(self, X: Any) -> Any:
        """Return the samples as the steps transform them, without changing X."""
        X = self._guard(X)
        for step in self.steps:
            X = step.transform(X)
        return X

    @cached_property
    def _guard(self) -> Callable[[Any], Any]:
        return guard_for(self.steps)

    def inputs(self, X: Any, *, check: bool = True) -> Tensor:
        """Return the inputs of the network for samples of the estimator.

        They are float64, or integers if they are leaf numbers of trees, on the CPU.

        Parameters
        ----------
        X : array-like, sparse matrix or data frame
        check : bool
            Whether to test a module on some of the samples.
        """
        X = self.transformed(X)
        if self.encode is not None:
            return self.encode(X)
        sparse = ("csr", "csc")
        if is_plain(X, self.final, sys.float_info.max):
            pass
        elif hasattr(self.final, "n_features_in_"):
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
        n_inputs = self.network.n_inputs
        if n_inputs is not None:
            # Flatten the samples, because a chain leaves out Flatten layers.
            rows = rows.reshape(len(rows), -1)
            if rows.shape[1] != n_inputs:
                raise ValueError(
                    f"X must have {n_inputs} features, as the network's first layer, "
                    f"got {rows.shape[1]}. Pass inputs like those of the training."
                )
            return rows
        network = self.network
        if isinstance(network, SelectedNetwork):
            network = network.whole
        if isinstance(network, ModuleNetwork):
            network.check_tokens(rows)
            if check:
                check_module(network, rows)
        return rows

    def targets(self, y: Any, n_outputs: int | None = None) -> Tensor:
        """Return encoded targets (n_samples, n_outputs) for targets or labels.

        A module takes real targets, 0/1 indicators or, if the loss is the cross
        entropy, class numbers. These need `n_outputs` if `network.n_outputs` is None.
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
            y = check_array(
                y, accept_sparse=True, dtype=np.float64, ensure_2d=False, input_name="y"
            )
            columns = _to_dense(y).reshape(y.shape[0], -1)
            if self.target_transformers:
                # Transformers may write into their inputs.
                columns = columns.copy()
            for transformer in self.target_transformers:
                columns = np.asarray(transformer.transform(columns))
                columns = columns.reshape(len(columns), -1)
        else:
            labels = column_or_1d(y)
            unknown = unknown_labels(labels, classes)
            if len(unknown):
                raise ValueError(
                    f"y must hold labels of the model, {classes.tolist()}, got "
                    f"{unknown.tolist()} too. Pass labels like those of the training."
                )
            codes = np.searchsorted(classes, labels)
            one_hot = codes[:, None] == np.arange(len(classes))
            columns = codes[:, None] == 1 if self.one_column else one_hot
        if n_outputs is not None and columns.shape[1] != n_outputs:
            raise ValueError(
                f"y must have {n_outputs} columns, one for each output, got "
                f"{columns.shape[1]}. Pass targets like those of the training."
            )
        return self.loss.encode(as_float64(columns))

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
        if self.target_transformers:
            # Transformers may write into their inputs.
            raw_prediction = raw_prediction.copy()
        for transformer in reversed(self.target_transformers):
            raw_prediction = np.asarray(transformer.inverse_transform(raw_prediction))
            raw_prediction = raw_prediction.reshape(len(raw_prediction), -1)
        return raw_prediction

    def target_map(self) -> tuple[Tensor, Tensor]:
        """Slope and shift of each output by which `untransform` acts, if it is affine.

        Otherwise an error about the member of a combination is raised.
        """
        n_outputs = self.network.n_outputs or 1
        # Any transformer may be affine: zero and one give the map, the others test it.
        probes = np.random.RandomState(0).standard_normal((8, n_outputs))
        probes[:2] = np.zeros(n_outputs), np.ones(n_outputs)
        values = self.untransform(probes)
        shift, slope = values[0], values[1] - values[0]
        if not np.allclose(values, shift + probes * slope, rtol=1e-9, atol=1e-9):
            raise ValueError(
                "the transformers of y of the members must multiply and shift, as a "
                f"StandardScaler does, got {self.target_transformers!r}. Transform y "
                "outside of the combination."
            )
        return torch.tensor(slope), torch.tensor(shift)


@dataclass(frozen=True, eq=False)
class TrainingTerms:
    """Terms of an estimator's training objective besides the mean loss.

    The penalty is ``sum_k penalty_k theta_k^2``, in the units of the loss. Class
    weights are factors of the sample weights. Notes are differences between the
    training and a minimization of this objective.
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
        """Terms of the training objective besides the loss, on these samples.

        `rows` are inputs of the network, `y` targets or labels as in `fit`, and weights
        are not normalized.
        """


def check_several_classes(estimator: Any, classes: NDArray[Any]) -> None:
    """Raise if a classifier without log odds was trained on one class."""
    if len(classes) < 2:
        raise ValueError(
            f"y must have at least 2 classes to open a {type(estimator).__name__}, got "
            f"the labels {classes.tolist()} in its training. Train it on samples of "
            "several classes. A bag may need a larger max_samples."
        )


def is_plain(X: Any, estimator: Any, limit: float | None) -> bool:
    """Whether X is an array that scikit-learn's checks would return unchanged.

    The checks take longer than most predictions for one sample. Values must be within
    the limit, if there is one, and other values may be infinite or missing.
    """
    if type(X) is not np.ndarray or X.dtype != np.float64 or X.ndim != 2 or not X.size:
        return False
    n_features = getattr(estimator, "n_features_in_", X.shape[1])
    if n_features != X.shape[1] or hasattr(estimator, "feature_names_in_"):
        return False
    # Comparisons with missing values are false.
    return limit is None or bool(-limit <= X.min() and X.max() <= limit)


def unknown_labels(y: NDArray[Any], classes: NDArray[Any]) -> NDArray[Any]:
    """Return the distinct labels of y that are not among the classes.

    Numbers never equal strings: NumPy converts numbers to strings when it joins both.
    """
    first = (labels[:1] for labels in (y, classes))
    are_numbers = {
        isinstance(each, Number | np.bool_) for labels in first for each in labels
    }
    return np.unique(y) if len(are_numbers) > 1 else np.setdiff1d(y, classes)


def _to_numpy(array: Any) -> ArrayLike:
    return array.detach().cpu().numpy() if isinstance(array, Tensor) else array


def _to_dense(array: Any) -> NDArray[np.float64]:
    """Densify what `check_array` returned."""
    return array if isinstance(array, np.ndarray) else array.toarray()
