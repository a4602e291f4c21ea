"""Targets of network estimators: encoding of y for a loss, and decoding."""

import math
import warnings
from abc import ABC, abstractmethod
from numbers import Number
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin, MultiOutputMixin, RegressorMixin
from sklearn.exceptions import DataConversionWarning
from sklearn.utils import column_or_1d, compute_class_weight, compute_sample_weight
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from torch import Tensor
from torch.nn.functional import logsigmoid

from sklearn_pgb._budget import ABSENT, LARGEST_TARGET
from sklearn_pgb._losses._classification import (
    CrossEntropyLoss,
    LogisticLoss,
    SmoothedHingeLoss,
)
from sklearn_pgb._losses._loss import Loss
from sklearn_pgb._losses._regression import PoissonLoss, SquaredLoss
from sklearn_pgb._sklearn import _check_partial_fit_first_call


def as_fitted(estimator: Any, name: str) -> Any:
    """Return a parameter's value during `fit` if it was stored in `_as_fitted`."""
    kept = vars(estimator).get("_as_fitted", {})
    return kept[name] if name in kept else getattr(estimator, name)


def is_option(value: object, option: str) -> bool:
    """Whether a parameter, which may not be validated yet, is this string."""
    return isinstance(value, str) and value == option


def finite_outputs(outputs: Any) -> Any:
    """Return the outputs, or raise an error if they overflow."""
    if not bool(torch.as_tensor(outputs).isfinite().all()):
        raise ValueError(
            "X must have finite outputs of the fitted network, got infinite ones or "
            "NaN. Leave out samples far outside the range of the training samples."
        )
    return outputs


def _has_probabilities(self: "ClassifierTargets") -> bool:
    loss = as_fitted(self, "loss")
    if not is_option(loss, "log_loss"):
        raise AttributeError(f"loss must be 'log_loss' for probabilities, got {loss!r}")
    return True


def probabilities(raw: Tensor, loss: Loss, multilabel: bool) -> NDArray[np.float64]:
    """Return the probability of each class, or of each label, from raw outputs.

    No probability is zero: those that would underflow become tiny numbers in the same
    order. Probabilities of labels are also below one.
    """
    logarithms = torch.from_numpy(log_probabilities(raw, multilabel))
    tiny = float(np.finfo(np.float64).tiny)
    below = math.log(tiny) - logarithms
    if raw.shape[1] > 1 and not multilabel:
        # Softmax also applies if the loss has one output because a class has no weight.
        p = raw.softmax(1)
    else:
        p = loss.predict(raw if multilabel else torch.cat([-raw, raw], 1))
    p = torch.where(below > 0, tiny / (1 + below.clamp(min=0)), p)
    return (p.clamp(max=math.nextafter(1.0, 0.0)) if multilabel else p).numpy()


def log_probabilities(raw: Tensor, multilabel: bool) -> NDArray[np.float64]:
    """Return log probabilities, which are finite even if a probability underflows."""
    if raw.shape[1] > 1 and not multilabel:
        return raw.log_softmax(1).numpy()
    return logsigmoid(raw if multilabel else torch.cat([-raw, raw], 1)).numpy()


def check_class_weight(class_weight: object) -> None:
    """Raise an error if a class weight is negative or not finite."""
    if not isinstance(class_weight, dict):
        return
    values = np.array(list(class_weight.values()), dtype=np.float64)
    if not np.isfinite(values).all() or (values < 0).any():
        raise ValueError(
            f"class_weight must hold finite numbers >= 0, got {class_weight!r}. A "
            "weight of zero leaves a class out."
        )


def check_target_size(y: NDArray[Any], name: str = "y") -> None:
    """Raise an error if squared targets would overflow."""
    largest = float(np.abs(y).max(initial=0.0))
    if largest > LARGEST_TARGET:
        raise ValueError(
            f"{name} must have absolute values up to {LARGEST_TARGET:g}, as larger "
            f"squares overflow, got {largest:g}. Divide the targets by a constant."
        )


def class_weights(
    class_weight: Any,
    y: NDArray[Any],
    sample_weight: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Return the factor of each sample's weight that belongs to its class.

    "balanced" gives all classes the same total weight. It counts sample weights, so
    that weights equal repetition, and ignores classes without any weight.

    Parameters
    ----------
    class_weight : dict, "balanced" or None
        Classes missing from a dict have weight one.
    y : ndarray (n_samples,) or (n_samples, n_labels)
        Labels, or 0/1 indicators of several labels; their factors are multiplied.
    sample_weight : ndarray (n_samples,) or None
    """
    check_class_weight(class_weight)
    factor = np.ones(len(y))
    if class_weight is None:
        return factor
    if isinstance(class_weight, dict):
        if y.ndim == 2:
            return compute_sample_weight(class_weight, y)
        # scikit-learn's function raises an error if a batch lacks one of the labels.
        for label, weight in class_weight.items():
            factor[y == label] = weight
        return factor
    weight = np.ones(len(y)) if sample_weight is None else np.asarray(sample_weight)
    for labels in y.T if y.ndim == 2 else [y]:
        kept = weight > 0
        if not kept.any():
            return factor
        classes = np.unique(labels[kept])
        of_class = compute_class_weight(
            class_weight, classes=classes, y=labels[kept], sample_weight=weight[kept]
        )
        factor[kept] *= of_class[np.searchsorted(classes, labels[kept])]
    return factor


def _check_label_types(y, name):
    """Raise an error if labels have mixed types, which cannot be sorted."""
    if y.dtype.kind != "O":
        return
    kinds = {
        "number" if isinstance(label, Number | np.bool_) else type(label).__name__
        for label in y.ravel()
    }
    if len(kinds) > 1:
        raise TypeError(
            f"{name} must have labels of one type, strings or numbers, got "
            f"{', '.join(sorted(kinds))}. Convert them, for example by "
            f"[str(label) for label in {name}]."
        )


def _is_plain_column(y):
    """Whether y is a single column; warn if so, since it should be 1-d."""
    if y.ndim != 2 or y.shape[1] != 1:
        return False
    warnings.warn(
        "A column-vector y was passed when a 1d array was expected. Please change the "
        "shape of y to (n_samples,), for example using ravel().",
        DataConversionWarning,
        stacklevel=6,
    )
    return True


class Targets(ABC):
    """Interface between a network estimator and its targets."""

    @abstractmethod
    def _check_targets(self, y, name="y"):
        """Check and reshape targets; errors refer to them as `name`."""

    @abstractmethod
    def _learn(self, y, known, classes, name="y"):
        """Store the labels and number of targets, or check them if `known`."""

    @abstractmethod
    def _natural_outputs(self):
        """Return the number of raw outputs, unless the user gives a module."""

    @abstractmethod
    def _loss_of(self, n_outputs):
        """Return the loss for this number of raw outputs, or raise an error."""

    @abstractmethod
    def _columns(self, y, n_outputs):
        """Return targets of shape (n_samples, n_outputs) for `Loss.encode`."""

    def _target_units(self, y, weight):
        """Return the center and scale that standardize the targets for training."""
        return np.zeros(self._natural_outputs()), 1.0

    def _start_of_outputs(self, y, weight):
        """Return the initial outputs of a network.

        Returns
        -------
        start : ndarray (n_outputs,)
            Added to the output biases.
        constant : bool
            Whether the output weights start at zero.
        """
        return np.zeros(self._natural_outputs()), False

    def _unit_of_loss(self, y, weight):
        """Return the constant that divides the loss during training."""
        return 1.0

    def _class_weights(self, y, sample_weight=None):
        """Return the factor of each sample's weight that belongs to its class."""
        return np.ones(len(y))

    def _labels(self, y):
        """Return the labels that stratify held-out samples, if any."""
        return None


class RegressorTargets(MultiOutputMixin, RegressorMixin):
    """Mixin of regressors that return a network's raw outputs from `_raw(X)`.

    They have the parameter `loss`, "squared_error" or "poisson".
    """

    def predict(self, X):
        """Predict targets.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
        """
        return self._shape(self._expected(self._raw(X)))

    def _expected(self, raw):
        if as_fitted(self, "loss") != "poisson":
            return raw
        return PoissonLoss().predict(torch.from_numpy(raw)).numpy()

    def _shape(self, values):
        return values.ravel() if values.shape[1] == 1 else values

    def _check_targets(self, y, name="y"):
        y = np.asarray(y)
        if y.dtype.kind not in "biuf":
            try:
                y = y.astype(np.float64)
            except (TypeError, ValueError) as error:
                raise ValueError(
                    f"{name} must be numbers for a regressor: {error}. Use a "
                    "classifier for labels."
                ) from error
        if _is_plain_column(y):
            y = y.ravel()
        y = y.reshape(len(y), -1).astype(np.float64, copy=False)
        check_target_size(y, name)
        return y

    def _learn(self, y, known, classes, name="y"):
        if not known:
            self._n_targets = y.shape[1]
        elif y.shape[1] != self._n_targets:
            like = "the fit that is continued" if name == "y" else "y"
            raise ValueError(
                f"{name} must have {self._n_targets} targets, as in {like}, got "
                f"{y.shape[1]}."
            )

    def _natural_outputs(self):
        return self._n_targets

    def _loss_of(self, n_outputs):
        if n_outputs != self._n_targets:
            raise ValueError(
                f"module must return {self._n_targets} outputs, one per target, got "
                f"{n_outputs}. Change its last layer."
            )
        return PoissonLoss() if as_fitted(self, "loss") == "poisson" else SquaredLoss()

    def _target_units(self, y, weight):
        if self.loss == "poisson":
            return np.zeros(y.shape[1]), 1.0
        weight = weight / weight.sum()
        # Relative to the first sample, so that the mean of equal targets is exact.
        center = y[0] + weight @ (y - y[0])
        deviation = y - center
        # Divided by a power of two first, so that squares do not underflow.
        unit = 2.0 ** np.frexp(np.abs(deviation).max())[1]
        spread = unit * np.sqrt((weight @ (deviation / unit) ** 2).mean())
        # One scale for all targets, since separate ones would change the objective.
        # The deviation of constant targets is only rounding error.
        floor = 1e-12 * np.abs(center).max()
        return center, float(spread) if spread > floor else 1.0

    def _start_of_outputs(self, y, weight):
        """Return log mean counts; if all counts are zero, assume half an event in all.

        A total weight below one counts as one sample. Constant targets are predicted
        exactly from the start.
        """
        constant = not np.ptp(y, axis=0).any()
        if self.loss != "poisson":
            return np.zeros(y.shape[1]), constant
        total = weight.sum()
        mean = np.maximum(weight @ y / total, 0.0)
        return np.log(np.where(mean > 0, mean, 0.5 / max(total, 1.0))), constant

    def _columns(self, y, n_outputs):
        return y

    def _unit_of_loss(self, y, weight):
        """Return the mean count: the Poisson loss and its gradient scale with it."""
        mean = weight @ y.mean(1) / weight.sum() if self.loss == "poisson" else 1.0
        return float(mean) if mean > 0 else 1.0

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        if is_option(self.loss, "poisson"):
            tags.target_tags.positive_only = True
            # Several counts work too, but scikit-learn's multi-output checks pass
            # negative targets despite the tag `positive_only`.
            tags.target_tags.multi_output = False
        return tags


class ClassifierTargets(ClassifierMixin):
    """Mixin of classifiers that return a network's raw outputs from `_raw(X)`.

    They have the parameters `loss` ("log_loss" or "smoothed_hinge"), `label_smoothing`,
    `hinge_power` and `class_weight`. Two classes need one output; several labels need
    one output each.
    """

    def predict(self, X):
        """Predict labels.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_samples, n_classes)
            Labels, or 0/1 indicators if there are several labels.
        """
        return self._label(self._raw(X))

    def decision_function(self, X):
        """Return raw outputs, for two classes a number that favors the second class.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)

        Returns
        -------
        decision : ndarray of shape (n_samples,) or (n_samples, n_classes)
        """
        raw = self._raw(X)
        if self._multilabel or len(self.classes_) > 2:
            return raw
        return raw[:, 0] if raw.shape[1] == 1 else raw[:, 1] - raw[:, 0]

    @available_if(_has_probabilities)
    def predict_proba(self, X):
        """Predict probabilities, only available with ``loss="log_loss"``.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)

        Returns
        -------
        probabilities : ndarray of shape (n_samples, n_classes)
            Columns in the order of `classes_`. With several labels, each column is the
            probability of one label.
        """
        raw = torch.from_numpy(self._raw(X))
        return probabilities(raw, self._loss_of(raw.shape[1]), self._multilabel)

    @available_if(_has_probabilities)
    def predict_log_proba(self, X):
        """Predict log probabilities, only available with ``loss="log_loss"``.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)

        Returns
        -------
        log_probabilities : ndarray of shape (n_samples, n_classes)
        """
        return log_probabilities(torch.from_numpy(self._raw(X)), self._multilabel)

    def _label(self, raw):
        if self._multilabel:
            return (raw > 0).astype(int)
        if raw.shape[1] == 1:
            return self.classes_[(raw[:, 0] > 0).astype(int)]
        return self.classes_[raw.argmax(1)]

    def _check_targets(self, y, name="y"):
        if isinstance(y, np.ndarray):
            _check_label_types(y, name)
        check_classification_targets(y)
        kind = type_of_target(y, input_name=name)
        if kind == "multiclass-multioutput":
            raise ValueError(
                f"{name} must be labels or 0/1 indicators of several labels, got "
                "several columns of classes. Fit one classifier per column, for "
                "example with MultiOutputClassifier."
            )
        if kind == "multilabel-indicator":
            return np.asarray(y.toarray() if hasattr(y, "toarray") else y)
        return column_or_1d(y, warn=True)

    def _class_weights(self, y, sample_weight=None):
        class_weight = as_fitted(self, "class_weight")
        if isinstance(class_weight, dict) and y.ndim == 1:
            known = self.classes_.tolist()
            unknown = [label for label in class_weight if label not in known]
            if unknown:
                raise ValueError(
                    f"class_weight must be for classes {known}, got {unknown} too. "
                    "Remove these."
                )
        return class_weights(class_weight, y, sample_weight)

    def _start_of_outputs(self, y, weight):
        """Return outputs at which classes without weight have a small probability."""
        start = np.zeros(self._natural_outputs())
        if self._multilabel or self.loss != "log_loss" or self.label_smoothing:
            return start, False
        absent = ~np.isin(self.classes_, y)
        if len(start) == 1:
            return ABSENT * (absent[1:].astype(float) - absent[:1]), False
        return np.where(absent, ABSENT, start), False

    def _labels(self, y):
        return y if y.ndim == 1 else None

    def _note_classes(self, classes):
        _check_partial_fit_first_call(self, classes)

    def _learn(self, y, known, classes, name="y"):
        if not known:
            self._multilabel = y.ndim == 2
            if self._multilabel:
                self.classes_ = np.arange(y.shape[1])
            else:
                self.classes_ = np.unique(y if classes is None else classes)
        if self._multilabel:
            if y.ndim != 2 or y.shape[1] != len(self.classes_):
                raise ValueError(
                    f"{name} must have {len(self.classes_)} columns of indicators, as "
                    f"in the first call, got shape {y.shape}."
                )
            return
        unknown = np.setdiff1d(y, self.classes_)
        if len(unknown):
            advice = "Name all labels in the first call."
            if name != "y":
                advice = "Add samples of these classes to y, or leave them out."
            raise ValueError(
                f"{name} must be labels among classes {self.classes_.tolist()}, got "
                f"{unknown.tolist()} too. {advice}"
            )
        if len(self.classes_) < 2:
            raise ValueError(
                "y must have at least 2 classes, got 1 class: "
                f"{self.classes_.tolist()}."
            )

    def _natural_outputs(self):
        n_classes = len(self.classes_)
        return 1 if n_classes == 2 and not self._multilabel else n_classes

    def _loss_of(self, n_outputs):
        n_classes = len(self.classes_)
        fits = n_outputs == n_classes
        if not self._multilabel and n_classes == 2:
            fits = fits or n_outputs == 1
        if not fits:
            raise ValueError(
                f"module must return {n_classes} outputs, one per class (one is enough "
                f"for two classes), got {n_outputs}. Change its last layer."
            )
        if as_fitted(self, "loss") == "smoothed_hinge":
            return SmoothedHingeLoss(as_fitted(self, "hinge_power"))
        smoothing = as_fitted(self, "label_smoothing")
        if self._multilabel or n_outputs == 1:
            return LogisticLoss(smoothing)
        return CrossEntropyLoss(smoothing)

    def _columns(self, y, n_outputs):
        if self._multilabel:
            return y.astype(np.float64)
        codes = np.searchsorted(self.classes_, y)
        if n_outputs == 1:
            return codes[:, None].astype(np.float64)
        return (codes[:, None] == np.arange(n_outputs)).astype(np.float64)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags
