"""Inputs of networks and trees, from matrices of numbers and category codes."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, clone
from sklearn.model_selection import KFold
from sklearn.preprocessing import OneHotEncoder, TargetEncoder

from sklearn_pgb._budget import (
    AUTO_FOLDS,
    INPUT_ULPS,
    LARGEST_UNIT,
    MOST_ONE_HOT,
    MOST_TREE_CODES,
    RARE_SAMPLES,
    SQUASH,
)
from sklearn_pgb._models._tree_lookup import SINGLE_MAX

# Labels of each column with categories; None for a column of numbers.
Labels = Sequence[Sequence[Any] | None]


class ArrayTransformer(BaseEstimator, ABC):
    """A transformer of arrays.

    The methods of scikit-learn's TransformerMixin look for a container of the result,
    which takes longer for a few samples than the transformation.
    """

    @abstractmethod
    def fit(self, X: NDArray[np.float64], y: Any = None) -> Self:
        """Learn from training samples."""

    @abstractmethod
    def transform(self, X: NDArray[np.float64]) -> NDArray[Any]:
        """Return the transformed samples."""

    def fit_transform(self, X: NDArray[np.float64], y: Any = None) -> NDArray[Any]:
        """Learn from training samples and return them transformed."""
        return self.fit(X, y).transform(X)


class ColumnGroups(ArrayTransformer):
    """Transform groups of columns, and put the results side by side.

    A ColumnTransformer checks types and names again, which takes longer for a few
    samples than all transformations.

    Parameters
    ----------
    groups : list of (list of transformers, list of int)
        The transformers of each group, first to last, and its columns. Groups without
        columns are left out.
    """

    def __init__(self, groups: Sequence[tuple[Sequence[Any], list[int]]]):
        self.groups = groups

    def fit(self, X: NDArray[np.float64], y: Any = None) -> Self:
        """Fit the transformers, each to its columns."""
        self.fit_transform(X, y)
        return self

    def fit_transform(self, X: NDArray[np.float64], y: Any = None) -> NDArray[Any]:
        """Fit the transformers and return the transformed columns."""
        self.fitted_, parts = [], []
        for transformers, columns in self.groups:
            if columns:
                part, fitted = X[:, columns], [clone(each) for each in transformers]
                for each in fitted:
                    part = each.fit_transform(part, y)
                parts.append(part)
                self.fitted_.append((fitted, columns))
        return np.hstack(parts)

    def transform(self, X: NDArray[np.float64]) -> NDArray[Any]:
        """Return the transformed columns."""
        parts = []
        for fitted, columns in self.fitted_:
            part = X[:, columns]
            for each in fitted:
                part = each.transform(part)
            parts.append(part)
        return parts[0] if len(parts) == 1 else np.hstack(parts)


class FilledNumbers(ArrayTransformer):
    """Replace missing numbers by medians, and add indicators of missing numbers.

    Columns without any value become zero. Columns without missing values in `fit` get
    no indicator.
    """

    def fit(self, X: NDArray[np.float64], y: Any = None) -> Self:
        """Learn the medians."""
        missing = np.isnan(X)
        known = np.where(missing.all(0), 0.0, X)
        self.medians_ = np.nanmedian(known, axis=0)
        self.marked_ = np.flatnonzero(missing.any(0))
        return self

    def transform(self, X: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the filled columns and the indicators."""
        missing = np.isnan(X)
        filled = np.where(missing, self.medians_, X)
        if not len(self.marked_):
            return filled
        return np.hstack([filled, missing[:, self.marked_]])


class RobustScale(ArrayTransformer):
    """Subtract the median of columns and divide by their interquartile range.

    The standard deviation of normal columns becomes one. If the quartiles are equal,
    the standard deviation takes the place of their range. Results are within single
    precision, to which forests convert samples: without centers, the days of dates
    would be rounded to minutes. Missing numbers stay missing.
    """

    def fit(self, X: NDArray[np.float64], y: Any = None) -> Self:
        """Learn the center and the scale of each column."""
        known = np.where(np.isnan(X).all(0), 0.0, X)
        # A power of two that makes values at most one, so that nothing overflows.
        exponents = np.frexp(np.nanmax(np.abs(known), axis=0))[1]
        self.unit_ = 2.0 ** -np.clip(exponents, -LARGEST_UNIT, LARGEST_UNIT).astype(
            float
        )
        known = known * self.unit_
        low, self.center_, high = np.nanquantile(known, [0.25, 0.5, 0.75], axis=0)
        # The interquartile range of the standard normal distribution is 1.349.
        spread = (high - low) / 1.349
        spread = np.where(spread > 0, spread, np.nanstd(known - self.center_, axis=0))
        # Values that differ by rounding errors stay as near to each other as they are.
        least = INPUT_ULPS * np.finfo(np.float64).eps
        self.scale_ = np.where(spread > least, spread, 1.0)
        return self

    def transform(self, X: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the scaled columns, of the same shape as X."""
        with np.errstate(over="ignore"):
            Z = (X * self.unit_ - self.center_) / self.scale_
        return np.clip(Z, -SINGLE_MAX, SINGLE_MAX)


class RobustSquash(RobustScale):
    """Scale columns like RobustScale and squash outliers smoothly.

    Values far away approach SQUASH. A network extrapolates without bound, so a single
    extreme input could otherwise dominate its training or its predictions.
    """

    def transform(self, X: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the scaled columns, of the same shape as X."""
        Z = super().transform(X)
        return Z / np.hypot(1, Z / SQUASH)


class FilledColumns(ArrayTransformer):
    """Fill columns without any value with zeros, because a histogram needs values."""

    def fit(self, X: NDArray[np.float64], y: Any = None) -> Self:
        """Find the columns."""
        self.empty_ = np.isnan(X).all(0)
        return self

    def transform(self, X: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the columns, of the same shape as X."""
        return np.where(self.empty_, 0.0, X)


class SinglePrecision(ArrayTransformer):
    """Limit numbers to those of single precision, to which some models convert them."""

    def fit(self, X: NDArray[np.float64], y: Any = None) -> Self:
        """Do nothing."""
        return self

    def transform(self, X: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the limited columns, of the same shape as X."""
        return np.clip(X, -SINGLE_MAX, SINGLE_MAX)


def look_up(
    tables: Sequence[NDArray[np.float64]], X: NDArray[np.float64]
) -> list[NDArray[np.float64]]:
    """Return the encoded columns, from one table for each column of codes.

    The rows of a table are an encoder's outputs for each code, then for unknown codes
    and for missing values. For a few samples, this is faster than the encoder with its
    checks.
    """
    parts = []
    for table, column in zip(tables, X.T, strict=True):
        missing = len(table) - 1
        known = np.minimum(column, missing - 1)
        parts.append(table[np.where(np.isnan(column), missing, known).astype(np.intp)])
    return parts


class Indicators(ArrayTransformer):
    """Replace categories by indicators; rare categories share one."""

    def fit(self, X: NDArray[np.float64], y: Any = None) -> Self:
        """Learn the categories that are frequent."""
        encoder = OneHotEncoder(
            min_frequency=RARE_SAMPLES,
            handle_unknown="infrequent_if_exist",
            sparse_output=False,
        ).fit(X)
        pairs = zip(encoder.categories_, encoder.infrequent_categories_, strict=True)
        widths = [
            len(known) if rare is None else len(known) - len(rare) + 1
            for known, rare in pairs
        ]
        n_codes = int(np.fmax.reduce(X, axis=None, initial=-1)) + 1
        codes = np.append(np.arange(n_codes + 1.0), np.nan)
        rows = encoder.transform(np.repeat(codes[:, None], X.shape[1], axis=1))
        self.tables_ = np.split(rows, np.cumsum(widths)[:-1], axis=1)
        return self

    def transform(self, X: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the indicators; unknown categories count as rare ones."""
        return np.hstack(look_up(self.tables_, X))


class TargetMeans(ArrayTransformer):
    """Replace categories by mean targets, with one column for each target or class.

    `fit_transform` takes means over other samples, so a rare category does not reveal
    the target of its own sample.

    Parameters
    ----------
    classifies : bool
        Whether the targets are class numbers or indicators. scikit-learn's encoder
        would take counts and whole numbers for classes.
    """

    def __init__(self, classifies: bool):
        self.classifies = classifies

    def fit(self, X: NDArray[np.float64], y: Any = None) -> Self:
        """Learn the mean targets of all categories."""
        self._tabulate([each.fit(X, t) for each, t in self._encoders(y)])
        return self

    def fit_transform(
        self, X: NDArray[np.float64], y: Any = None
    ) -> NDArray[np.float64]:
        """Learn the mean targets, and return means over other samples."""
        if len(X) < 2:
            return self.fit(X, y).transform(X)
        pairs = self._encoders(y)
        means = np.column_stack([each.fit_transform(X, t) for each, t in pairs])
        self._tabulate([each for each, _ in pairs])
        return means

    def transform(self, X: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return mean targets of categories, the overall mean for unknown ones."""
        # All columns of the first target come first.
        parts = np.stack(look_up(self.tables_, X), axis=2)
        return parts.reshape(len(X), -1)

    def _tabulate(self, encoders: Sequence[TargetEncoder]) -> None:
        """Keep the mean targets of each column, (n_codes + 2, n_targets)."""
        self.tables_ = []
        for j, known in enumerate(encoders[0].categories_):
            missing = np.isnan(known)
            codes = known[~missing].astype(np.intp)
            n_rows = codes.max(initial=-1) + 3
            means = [each.target_mean_ for each in encoders]
            table = np.tile(np.array(means, dtype=np.float64), (n_rows, 1))
            for column, each in zip(table.T, encoders, strict=True):
                column[codes] = each.encodings_[j][~missing]
                # Without missing values, the last row keeps the overall mean.
                column[-1:][: missing.sum()] = each.encodings_[j][missing]
            self.tables_.append(table)

    def _encoders(self, y: NDArray[Any]) -> list[tuple[TargetEncoder, NDArray[Any]]]:
        """One encoder for each column of targets."""
        columns = y.reshape(len(y), -1)
        if self.classifies and y.ndim == 1:
            classes = np.unique(y)
            # One column is enough for two classes.
            columns = y[:, None] == (classes if len(classes) > 2 else classes[-1:])
        folds = KFold(min(AUTO_FOLDS, max(len(y), 2)), shuffle=True, random_state=0)
        return [
            (TargetEncoder(target_type="continuous", cv=folds), column.astype(float))
            for column in columns.T
        ]


def _split(labels: Labels) -> tuple[list[int], dict[int, int]]:
    """Return the columns of numbers, and the number of labels of all others."""
    numbers = [j for j, known in enumerate(labels) if known is None]
    coded = {j: len(known) for j, known in enumerate(labels) if known is not None}
    return numbers, coded


def network_inputs(labels: Labels, classifies: bool) -> ColumnGroups:
    """Return a transformer of matrices into inputs of a network.

    Missing numbers become the median, with an indicator column. Columns with few
    categories become indicators, and rare categories share one. Columns with many
    become mean targets, which `fit_transform` computes on other samples.
    """
    numbers, coded = _split(labels)
    few = [j for j, size in coded.items() if size <= MOST_ONE_HOT]
    many = [j for j, size in coded.items() if size > MOST_ONE_HOT]
    return ColumnGroups(
        [
            ([FilledNumbers(), RobustSquash()], numbers),
            ([Indicators()], few),
            ([TargetMeans(classifies), RobustSquash()], many),
        ]
    )


def tree_inputs(labels: Labels, classifies: bool) -> tuple[ColumnGroups, list[int]]:
    """Return a transformer of matrices into inputs of trees.

    Trees take missing values and codes as they are. Columns with more categories than
    they allow become mean targets. The second result lists the columns that hold codes.
    """
    _, coded = _split(labels)
    many = [j for j, size in coded.items() if size > MOST_TREE_CODES]
    others = [j for j in range(len(labels)) if j not in many]
    inputs = ColumnGroups(
        [([FilledColumns()], others), ([TargetMeans(classifies)], many)]
    )
    return inputs, [k for k, j in enumerate(others) if j in coded]


def forest_inputs(labels: Labels, classifies: bool) -> ColumnGroups:
    """Return a transformer of matrices into inputs of a forest.

    Numbers are scaled, and categories become mean targets.
    """
    return _with_mean_targets(RobustScale(), labels, classifies)


def other_inputs(labels: Labels, classifies: bool) -> ColumnGroups:
    """Return a transformer of matrices into inputs of models that users have added.

    Numbers stay as they are, and categories become mean targets.
    """
    return _with_mean_targets(SinglePrecision(), labels, classifies)


def _with_mean_targets(
    scaling: ArrayTransformer, labels: Labels, classifies: bool
) -> ColumnGroups:
    numbers, coded = _split(labels)
    return ColumnGroups(
        [([scaling], numbers), ([TargetMeans(classifies)], list(coded))]
    )
