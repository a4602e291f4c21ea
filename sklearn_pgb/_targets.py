"""Targets of networks and bases: encoding of y for a loss, decoding of raw outputs."""

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Number
from typing import Any, Self

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from sklearn.exceptions import DataConversionWarning
from sklearn.metrics import accuracy_score, r2_score
from sklearn.utils import column_or_1d, compute_class_weight
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from torch import Tensor
from torch.nn.functional import logsigmoid

from sklearn_pgb._budget import ABSENT, CONSTANT_RTOL, LARGEST_VALUE, LEAST_SCALE
from sklearn_pgb._losses._loss import Loss
from sklearn_pgb._models._opened import unknown_labels


class Targets(ABC):
    """The connection between the targets of an estimator and the columns of a loss.

    The loss is in the units of the targets; `loss_for` adapts it to a number of
    outputs.
    """

    loss: Loss

    @classmethod
    @abstractmethod
    def of(
        cls, y: NDArray[Any], loss: Loss, classes: Any = None, class_weight: Any = None
    ) -> Self:
        """Learn the number of targets or the labels of checked targets."""

    @staticmethod
    @abstractmethod
    def checked(y: Any, name: str = "y") -> NDArray[Any]:
        """Check and reshape targets; errors refer to them as `name`."""

    @property
    @abstractmethod
    def n_outputs(self) -> int:
        """Number of raw outputs, unless the user gives a module."""

    @abstractmethod
    def check(self, y: NDArray[Any], name: str = "y") -> None:
        """Raise an error if other checked targets have other labels or columns."""

    def check_same(self, y: NDArray[Any]) -> None:
        """Raise an error unless a warm start has the labels of the previous fit."""
        self.check(y)

    @abstractmethod
    def loss_for(self, n_outputs: int, scale: float = 1.0) -> Loss:
        """Return the loss for this number of raw outputs, or raise an error.

        It takes targets that are divided by `scale`; their losses are divided by its
        square.
        """

    @abstractmethod
    def columns(self, y: NDArray[Any], n_outputs: int) -> NDArray[np.float64]:
        """Return targets of shape (n_samples, n_outputs) for `Loss.encode`."""

    @abstractmethod
    def decode(self, raw: NDArray[np.float64]) -> NDArray[Any]:
        """Convert raw outputs to predictions, in the shape of the targets."""

    @abstractmethod
    def mean(self, raw: NDArray[np.float64]) -> NDArray[np.float64]:
        """Convert raw outputs to predictions of numbers or probabilities of labels."""

    @abstractmethod
    def as_numbers(self, y: NDArray[Any]) -> NDArray[Any]:
        """Return targets for models inside of an estimator: labels as positions.

        A single target is flat.
        """

    @abstractmethod
    def score(
        self, y: NDArray[Any], raw: NDArray[np.float64], weight: NDArray[np.float64]
    ) -> float:
        """Return R^2 or the accuracy of raw outputs, as scikit-learn's `score`."""

    @abstractmethod
    def initial_biases(
        self, y: NDArray[Any], weight: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], bool]:
        """Return the initial output biases, and whether output weights start at zero.

        The biases are added to random ones, unless the output weights start at zero.
        """

    @abstractmethod
    def loss_unit(self, y: NDArray[Any], weight: NDArray[np.float64]) -> float:
        """Return the constant that divides the loss during training."""

    @abstractmethod
    def class_factors(
        self, y: NDArray[Any], weight: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return the factor of each sample's weight that belongs to its class."""

    def weigh(
        self, y: NDArray[Any], sample_weight: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Multiply sample weights by class weights.

        Samples of weight zero have no influence on the class weights.
        """
        weight = sample_weight * self.class_factors(y, sample_weight)
        check_some_weight(weight)
        return weight

    @abstractmethod
    def strata(self, y: NDArray[Any]) -> NDArray[Any] | None:
        """Return the labels that stratify held-out samples, if any."""

    def scaling(
        self, y: NDArray[Any], weight: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], float]:
        """Return the center and scale that standardize the targets for training."""
        center, spread = self.center_and_spread(y, weight)
        return center, spread if spread > 0 else 1.0

    def center_and_spread(
        self, y: NDArray[Any], weight: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], float]:
        """Return the center and scale of targets; it is zero if they are constant."""
        if not self.loss.standardizable:
            return np.zeros(self.n_outputs), 1.0
        weight = weight / weight.sum()
        # Relative to the first sample, so that the mean of equal targets is exact.
        center = y[0] + weight @ (y - y[0])
        deviation = y - center
        # Divided by a power of two first, so that squares do not underflow.
        power = 2.0 ** np.frexp(np.abs(deviation).max())[1]
        spread = power * np.sqrt((weight @ (deviation / power) ** 2).mean())
        # One scale for all targets, since separate ones would change the objective.
        # The deviation of constant targets is only rounding error.
        if not spread > CONSTANT_RTOL * np.abs(center).max():
            return center, 0.0
        if not self.loss.quadratic:
            # The center is the best constant, the scale the root of its loss.
            group = torch.zeros(len(y), dtype=torch.long)
            columns = self.encode(y, y.shape[1], center, float(spread))
            loss = self.loss_for(y.shape[1], float(spread))
            best = loss.pooled_minimum(columns, torch.from_numpy(weight), group, 1)
            center = center + spread * best.raw[0].numpy()
            size = float(torch.from_numpy(weight) @ (columns - best.raw).abs().mean(1))
            root = math.sqrt(float(best.value) / y.shape[1])
            spread *= max(root, LEAST_SCALE * size)
        return center, float(spread)

    def encode(
        self,
        y: NDArray[Any],
        n_outputs: int,
        center: NDArray[np.float64] | float = 0.0,
        scale: float = 1.0,
    ) -> Tensor:
        """Return encoded targets (n_samples, n_outputs), centered and scaled."""
        with np.errstate(over="ignore"):
            columns = (self.columns(y, n_outputs) - center) / scale
        if not np.abs(columns).max(initial=0.0) <= LARGEST_VALUE:
            raise ValueError(
                f"y must not exceed {LARGEST_VALUE:g} times the standard deviation "
                f"{scale:g} of the targets that training began with. Start again with "
                "targets of this size."
            )
        return self.loss_for(n_outputs, scale).encode(torch.from_numpy(columns))


@dataclass(frozen=True, eq=False)
class RealTargets(Targets):
    """Numbers or counts of a regressor, one column per target."""

    loss: Loss
    n_targets: int

    @classmethod
    def of(
        cls, y: NDArray[Any], loss: Loss, classes: Any = None, class_weight: Any = None
    ) -> Self:
        return cls(loss, y.shape[1])

    @staticmethod
    def checked(y: Any, name: str = "y") -> NDArray[Any]:
        if sp.issparse(y):
            raise ValueError(
                f"{name} must be an array for a regressor, got a sparse matrix. Pass "
                f"{name}.toarray()."
            )
        y = np.asarray(y)
        if y.dtype.kind not in "biuf":
            try:
                y = y.astype(np.float64)
            except (TypeError, ValueError) as error:
                raise ValueError(
                    f"{name} must be numbers for a regressor: "
                    f"{str(error).rstrip('.')}. Use a classifier for labels."
                ) from error
        if y.ndim == 2 and y.shape[1] == 1:
            warnings.warn(
                "A column-vector y was passed when a 1d array was expected. Please "
                "change the shape of y to (n_samples,), for example using ravel().",
                DataConversionWarning,
                stacklevel=5,
            )
        y = y.reshape(len(y), -1).astype(np.float64, copy=False)
        check_target_size(y, name)
        return y

    @property
    def n_outputs(self) -> int:
        return self.n_targets

    def check(self, y: NDArray[Any], name: str = "y") -> None:
        if y.shape[1] != self.n_targets:
            like = "the fit that is continued" if name == "y" else "y"
            raise ValueError(
                f"{name} must have {self.n_targets} targets, as in {like}, got "
                f"{y.shape[1]}."
            )

    def loss_for(self, n_outputs: int, scale: float = 1.0) -> Loss:
        if n_outputs != self.n_targets:
            raise ValueError(
                f"module must return {self.n_targets} outputs, one per target, got "
                f"{n_outputs}. Change its last layer."
            )
        return self.loss.in_units(scale)

    def columns(self, y: NDArray[Any], n_outputs: int) -> NDArray[np.float64]:
        return y

    def decode(self, raw: NDArray[np.float64]) -> NDArray[Any]:
        mean = self.loss.predict(torch.from_numpy(raw)).numpy()
        return mean.ravel() if mean.shape[1] == 1 else mean

    def mean(self, raw: NDArray[np.float64]) -> NDArray[np.float64]:
        return self.decode(raw)

    def as_numbers(self, y: NDArray[Any]) -> NDArray[Any]:
        return y.ravel() if y.shape[1] == 1 else y

    def score(
        self, y: NDArray[Any], raw: NDArray[np.float64], weight: NDArray[np.float64]
    ) -> float:
        """Return R^2, or NaN for fewer than two samples."""
        if len(y) < 2:
            return math.nan
        return r2_score(y, self.decode(raw), sample_weight=weight)

    def initial_biases(
        self, y: NDArray[Any], weight: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], bool]:
        """Return the raw outputs of mean targets, relative to the center of `scaling`.

        If all counts are zero, their sum is taken as one half. A total weight below one
        counts as one. Constant targets are predicted exactly from the start.
        """
        constant = not np.ptp(y, axis=0).any()
        if self.loss.standardizable:
            return np.zeros(self.n_targets), constant
        total = weight.sum()
        mean = weight @ y / total
        if self.loss.is_positive:
            mean = np.where(mean > 0, mean, 0.5 / max(total, 1.0))
        return self.loss.link(torch.from_numpy(mean)).numpy(), constant

    def loss_unit(self, y: NDArray[Any], weight: NDArray[np.float64]) -> float:
        return self.loss.loss_unit(float(weight @ y.mean(1) / weight.sum()))

    def class_factors(
        self, y: NDArray[Any], weight: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        return np.ones(len(y))

    def strata(self, y: NDArray[Any]) -> None:
        return None


@dataclass(frozen=True, eq=False)
class LabelTargets(Targets):
    """Labels of a classifier, or 0/1 indicators of several labels.

    Two classes need one output; several labels need one output each. `classes` are
    sorted labels, or numbers of the columns if there are several labels.
    """

    loss: Loss
    classes: NDArray[Any]
    multilabel: bool
    class_weight: Any = None

    @classmethod
    def of(
        cls, y: NDArray[Any], loss: Loss, classes: Any = None, class_weight: Any = None
    ) -> Self:
        """Learn the labels, which are among `classes` if these are given."""
        if y.ndim == 2:
            return cls(loss, np.arange(y.shape[1]), True, class_weight)
        known = np.unique(y if classes is None else classes)
        targets = cls(loss, known, False, class_weight)
        targets.check(y)
        if len(targets.classes) < 2:
            raise ValueError(
                "y must have at least 2 classes, got 1 class: "
                f"{targets.classes.tolist()}."
            )
        return targets

    @staticmethod
    def checked(y: Any, name: str = "y") -> NDArray[Any]:
        """Check for labels (n_samples,), or indicators (n_samples, n_labels)."""
        if isinstance(y, np.ndarray) and y.dtype.kind == "O":
            numeric = Number | np.bool_
            kinds = {
                "number" if isinstance(label, numeric) else type(label).__name__
                for label in y.ravel()
            }
            # Labels of mixed types cannot be sorted.
            if len(kinds) > 1:
                raise TypeError(
                    f"{name} must have labels of one type, strings or numbers, got "
                    f"{', '.join(sorted(kinds))}. Convert them, for example by "
                    f"[str(label) for label in {name}]."
                )
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

    @property
    def n_outputs(self) -> int:
        """One output per class or label, but a single one for two classes."""
        n_classes = len(self.classes)
        return 1 if n_classes == 2 and not self.multilabel else n_classes

    def check(self, y: NDArray[Any], name: str = "y") -> None:
        if self.multilabel:
            if y.ndim != 2 or y.shape[1] != len(self.classes):
                raise ValueError(
                    f"{name} must have {len(self.classes)} columns of indicators, as "
                    f"in the first call, got shape {y.shape}."
                )
            return
        unknown = unknown_labels(y, self.classes)
        if len(unknown):
            advice = "Name all labels in the first call."
            if name != "y":
                advice = "Add samples of these classes to y, or leave them out."
            raise ValueError(
                f"{name} must be labels among classes {self.classes.tolist()}, got "
                f"{unknown.tolist()} too. {advice}"
            )

    def check_same(self, y: NDArray[Any]) -> None:
        if y.ndim == 1 and not self.multilabel:
            labels = np.unique(y)
            if not np.array_equal(labels, self.classes):
                raise ValueError(
                    "warm_start can only be used where `y` has the same classes as in "
                    f"the previous call to fit. Previously got {self.classes}, `y` has "
                    f"{labels}. Set warm_start=False to train a new network."
                )
        self.check(y)

    def loss_for(self, n_outputs: int, scale: float = 1.0) -> Loss:
        """Return the loss for one output per class or, for two classes, one in all."""
        if n_outputs not in (self.n_outputs, len(self.classes)):
            raise ValueError(
                f"module must return {len(self.classes)} outputs, one per class (one "
                f"is enough for two classes), got {n_outputs}. Change its last layer, "
                "or pass samples of all classes that it was trained on."
            )
        return self.loss.for_outputs(n_outputs, independent=self.multilabel)

    def columns(self, y: NDArray[Any], n_outputs: int) -> NDArray[np.float64]:
        if self.multilabel:
            return y.astype(np.float64)
        codes = self.as_numbers(y)
        if n_outputs == 1:
            return codes[:, None].astype(np.float64)
        return (codes[:, None] == np.arange(n_outputs)).astype(np.float64)

    def decode(self, raw: NDArray[np.float64]) -> NDArray[Any]:
        if self.multilabel:
            return (raw > 0).astype(int)
        if raw.shape[1] == 1:
            return self.classes[(raw[:, 0] > 0).astype(int)]
        return self.classes[raw.argmax(1)]

    def mean(self, raw: NDArray[np.float64]) -> NDArray[np.float64]:
        return self.probabilities(raw)

    def as_numbers(self, y: NDArray[Any]) -> NDArray[Any]:
        """Return positions in `classes`; indicators stay as they are."""
        return y if self.multilabel else np.searchsorted(self.classes, y)

    def score(
        self, y: NDArray[Any], raw: NDArray[np.float64], weight: NDArray[np.float64]
    ) -> float:
        return accuracy_score(y, self.decode(raw), sample_weight=weight)

    def decision(self, raw: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return one value for two classes, positive for the second, or raw outputs."""
        if self.multilabel or len(self.classes) > 2:
            return raw
        return raw[:, 0] if raw.shape[1] == 1 else raw[:, 1] - raw[:, 0]

    def probabilities(self, raw: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the probability of each class, or of each label.

        No probability is zero: those that would underflow become tiny numbers in the
        same order. Probabilities of labels are also below one.
        """
        tiny = float(np.finfo(np.float64).tiny)
        underflow = math.log(tiny) - self._log_probabilities(raw)
        p = class_probabilities(torch.from_numpy(raw), self.multilabel)
        p = torch.where(underflow > 0, tiny / (1 + underflow.clamp(min=0)), p)
        if self.multilabel:
            p = p.clamp(max=math.nextafter(1.0, 0.0))
        return p.numpy()

    def log_probabilities(self, raw: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return log probabilities, finite even if a probability underflows."""
        return self._log_probabilities(raw).numpy()

    def _log_probabilities(self, raw: NDArray[np.float64]) -> Tensor:
        outputs = torch.from_numpy(raw)
        if self.multilabel:
            return logsigmoid(outputs)
        if raw.shape[1] == 1:
            return logsigmoid(torch.cat([-outputs, outputs], 1))
        return outputs.log_softmax(1)

    def initial_biases(
        self, y: NDArray[Any], weight: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], bool]:
        """Return outputs at which classes without weight have a small probability."""
        start = torch.zeros(self.n_outputs, dtype=torch.float64)
        if not self.multilabel:
            # Only the outputs of absent classes have no finite optimum.
            best = self.loss_for(self.n_outputs).link(
                self.encode(y, self.n_outputs).mean(0)
            )
            start = torch.where(best.isinf(), -ABSENT * best.sign(), start)
        return start.numpy(), False

    def loss_unit(self, y: NDArray[Any], weight: NDArray[np.float64]) -> float:
        """Return one, because the losses of labels have similar sizes."""
        return 1.0

    def class_factors(
        self, y: NDArray[Any], weight: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return the weights of the classes, which are relative to `weight`."""
        return class_weights(self.class_weight, y, weight, self.classes.tolist())

    def strata(self, y: NDArray[Any]) -> NDArray[Any] | None:
        return None if self.multilabel else y


def class_probabilities(raw: Tensor, multilabel: bool) -> Tensor:
    """Probabilities of classes or labels, which may underflow to zero."""
    if multilabel:
        return raw.sigmoid()
    if raw.shape[1] == 1:
        return torch.cat([-raw, raw], 1).sigmoid()
    return raw.softmax(1)


def class_codes(y: NDArray[Any]) -> NDArray[np.intp]:
    """Number the labels, or the distinct rows of indicators, in sorted order."""
    # NumPy before 2.4 refuses objects, such as strings in a Series, along an axis.
    axis = 0 if y.ndim == 2 else None
    return np.unique(y, axis=axis, return_inverse=True)[1].reshape(-1)


def check_target_size(y: NDArray[Any], name: str = "y") -> None:
    """Raise an error if squared targets would overflow."""
    largest = float(np.abs(y).max(initial=0.0))
    if largest > LARGEST_VALUE:
        raise ValueError(
            f"{name} must have absolute values up to {LARGEST_VALUE:g}, as larger "
            f"squares overflow, got {largest:g}. Divide the targets by a constant."
        )


def check_some_weight(
    weight: NDArray[np.float64], cure: str = "Raise one of them."
) -> None:
    """Raise an error if all products of sample weights and class weights are zero."""
    if not weight.any():
        raise ValueError(
            "sample_weight and class_weight must give some sample a positive weight, "
            f"got zero for all of them. {cure}"
        )


def class_weights(
    class_weight: Any,
    y: NDArray[Any],
    sample_weight: NDArray[np.float64] | None = None,
    classes: Sequence[Any] | None = None,
) -> NDArray[np.float64]:
    """Return the factor of each sample's weight that belongs to its class.

    "balanced" gives all classes the same total weight. It counts sample weights, so
    that weights equal repetition, and ignores classes without any weight. Classes
    missing from a dict have weight one. A dict must not have other labels than those
    in `classes`, if these are known. The factors of several labels are multiplied.
    """
    factor = np.ones(len(y))
    if class_weight is None:
        return factor
    if isinstance(class_weight, dict):
        values = np.array(list(class_weight.values()), dtype=np.float64)
        if not np.isfinite(values).all() or (values < 0).any():
            raise ValueError(
                f"class_weight must hold finite numbers >= 0, got {class_weight!r}. A "
                "weight of zero leaves a class out."
            )
        if y.ndim == 2:
            raise ValueError(
                "class_weight must be 'balanced' or None for several labels, got "
                f"{class_weight!r}. Use sample_weight."
            )
        unknown = (
            [] if classes is None else [k for k in class_weight if k not in classes]
        )
        if unknown:
            raise ValueError(
                f"class_weight must be for classes {classes}, got {unknown} too. "
                "Remove these."
            )
        # scikit-learn's function raises an error if a batch lacks one of the labels.
        for label, weight in class_weight.items():
            factor[y == label] = weight
        return factor
    weight = np.ones(len(y)) if sample_weight is None else np.asarray(sample_weight)
    for labels in y.T if y.ndim == 2 else [y]:
        kept = weight > 0
        if not kept.any():
            return factor
        present = np.unique(labels[kept])
        of_class = compute_class_weight(
            class_weight, classes=present, y=labels[kept], sample_weight=weight[kept]
        )
        factor[kept] *= of_class[np.searchsorted(present, labels[kept])]
    return factor
