"""Samples with weights."""

from dataclasses import dataclass, replace
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils import check_consistent_length, column_or_1d, indexable
from torch import Tensor

from sklearn_pgb._budget import LARGEST_WEIGHT
from sklearn_pgb._models._mapped_rows import MappedRows, StreamedInputs
from sklearn_pgb._sklearn import (
    _check_sample_weight,
    _num_samples,
    _safe_indexing,
    is_pandas_na,
    is_scalar_nan,
)


@dataclass(frozen=True, eq=False)
class Samples:
    """Inputs, targets and weights of samples.

    Attributes
    ----------
    X : array, sparse matrix, data frame, list, MappedRows, Tensor, or tuple
        Inputs; a tuple has the inputs of several networks, Tensor or StreamedInputs.
    y : ndarray or Tensor
    weight : ndarray or Tensor (n_samples,)
        Not normalized.
    weighted : bool
        Whether the user gave weights.
    factor : ndarray, Tensor or None
        Part of each weight that belongs to the class of the sample; None for ones.
    """

    X: Any
    y: Any
    weight: Any
    weighted: bool = True
    factor: Any = None

    @property
    def total(self) -> float:
        """Sum of the weights."""
        return float(self.weight.sum())

    @property
    def counts(self) -> Any:
        """Weights without those of the classes: numbers of equal samples."""
        return self.weight if self.factor is None else self.weight / self.factor

    @property
    def normalized_weight(self) -> Any:
        """Weights divided by their sum."""
        return self.weight / self.weight.sum()

    def rows(self, index: Any) -> "Samples":
        """Select samples."""
        parts = self.X, self.y, self.weight
        X, y, weight = (_rows(part, index) for part in parts)
        factor = None if self.factor is None else _rows(self.factor, index)
        return replace(self, X=X, y=y, weight=weight, factor=factor)


def _rows(part: Any, index: Any) -> Any:
    if isinstance(part, tuple) and isinstance(part[0], Tensor | StreamedInputs):
        return tuple(_rows(each, index) for each in part)
    if isinstance(part, MappedRows | StreamedInputs):
        return part.rows(index)
    if isinstance(part, Tensor):
        return part[torch.as_tensor(index, device=part.device)]
    return _safe_indexing(part, index)


def checked_weights(
    sample_weight: Any, X: Any, name: str = "sample_weight"
) -> NDArray[np.float64]:
    """Return a new array of sample weights >= 0, ones if there are none."""
    try:
        weight: NDArray[np.float64] = _check_sample_weight(
            sample_weight, X, dtype=np.float64, copy=True, ensure_non_negative=True
        )
    except ValueError as error:
        if name == "sample_weight":
            raise
        # scikit-learn names no other argument.
        raise ValueError(f"{name} must be weights of samples. {error}") from error
    return weight


def check_has_targets(owner: Any, y: Any) -> None:
    """Raise an error, in the words of scikit-learn, if an estimator gets no targets."""
    if y is None:
        raise ValueError(
            f"This {type(owner).__name__} estimator requires y to be passed, but the "
            "target y is None."
        )


def check_samples(X: Any, y: Any, sample_weight: Any) -> tuple[Any, Any, Any]:
    """Raise unless there are samples and targets, and valid weights or None."""
    if y is None:
        raise ValueError("y must be targets or labels, got None.")
    X, y = indexable(X, y)
    if _num_samples(X) == 0:
        raise ValueError("X must have at least 1 sample, got 0.")
    if sample_weight is None:
        return X, y, None
    rows = np.empty((_num_samples(X), 1))
    weight = checked_weights(sample_weight, rows)
    return X, y, weight


def is_missing(value: Any) -> bool:
    """Whether a value is None, NaN, NA or NaT."""
    if isinstance(value, Decimal):
        return value.is_nan()
    if isinstance(value, date | timedelta | np.datetime64 | np.timedelta64):
        return bool(value != value)
    return value is None or is_pandas_na(value) or is_scalar_nan(value)


def check_groups(groups: Any, X: Any) -> NDArray[Any]:
    """Check for one group per sample, of values that can be sorted."""
    try:
        groups = column_or_1d(groups)
    except ValueError as error:
        raise ValueError(
            "groups must have one value per sample, got an array of shape "
            f"{np.shape(groups)}. Pass one column."
        ) from error
    check_consistent_length(X, groups)
    n_missing = sum(map(is_missing, groups))
    if n_missing:
        raise ValueError(
            f"groups must have no missing values, got {n_missing} in "
            f"{len(groups)} samples. Give each of these samples a group of its own, or "
            "leave them out."
        )
    try:
        np.unique(groups)
    except TypeError as error:
        kinds = sorted({type(each).__name__ for each in groups})
        raise TypeError(
            "groups must have values of one type, strings or numbers, got "
            f"{', '.join(kinds)}. Convert them, for example by [str(group) for group "
            "in groups]."
        ) from error
    return groups


def bounded_weights(
    weight: NDArray[np.float64], factors: Any = 1.0
) -> NDArray[np.float64]:
    """Weights times factors, and times a power of two if the largest is extreme.

    Weights may be numbers of equal samples, so others keep their size. The largest
    stays within 2^-LARGEST_WEIGHT and 2^LARGEST_WEIGHT: squares and single precision
    neither overflow nor vanish. Factors of weights that are zero do not count.
    """
    product = _within_bounds(weight)
    product = product * _within_bounds(np.where(weight > 0, factors, 0.0))
    return _within_bounds(product)


def _within_bounds(values: NDArray[np.float64]) -> NDArray[np.float64]:
    exponent, limit = int(np.frexp(values.max(initial=0.0))[1]), LARGEST_WEIGHT
    excess = exponent - min(max(exponent, -limit), limit)
    return np.ldexp(values, -excess) if excess else values
