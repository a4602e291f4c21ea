"""`InputMap`: the standardization of the inputs of a network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sklearn_pgb._budget import INPUT_ULPS, PASS_ROWS, SMALLEST_COLUMN
from sklearn_pgb._operators._blocks import row_slices


@dataclass(frozen=True, eq=False)
class InputMoments:
    """Weighted moments of each column: mean, standard deviation and largest size.

    `center` and `spread` are those of columns multiplied by ``2^-exponent``. Samples
    with more than one axis have one of each.
    """

    n_features: int
    weight: float
    exponent: NDArray[np.intp]
    center: NDArray[np.float64]
    spread: NDArray[np.float64]
    largest: NDArray[np.float64]

    @classmethod
    def of(cls, X: NDArray[Any], weight: NDArray[np.float64]) -> InputMoments:
        """Compute the moments of samples with positive weights."""
        total = weight.sum()
        rows = X if X.ndim == 2 else X.reshape(len(X), -1)
        largest = np.maximum(rows.max(0), -rows.min(0)).astype(np.float64)
        if X.ndim > 2:
            # Entries of an image or sequence are one quantity, so they share one scale.
            largest = largest.max(keepdims=True)
        # Powers of two change no digit, and keep squares of extreme values finite.
        exponent = np.frexp(largest)[1].astype(np.intp)
        center, spread = _moments(rows, weight / total, exponent)
        return cls(rows.shape[1], float(total), exponent, center, spread, largest)

    def joined(self, other: InputMoments) -> InputMoments:
        """Return the moments of the samples of both."""
        largest = np.maximum(self.largest, other.largest)
        # Zeros have an exponent of zero, which is larger than that of small numbers.
        exponent = np.frexp(largest)[1].astype(np.intp)
        (left, one), (right, two) = (
            (np.ldexp(each.center, shift), np.ldexp(each.spread, shift))
            for each in (self, other)
            for shift in [each.exponent - exponent]
        )
        share = other.weight / (self.weight + other.weight)
        center = left + share * (right - left)
        within = np.hypot(np.sqrt(1 - share) * one, np.sqrt(share) * two)
        spread = np.hypot(within, np.sqrt(share * (1 - share)) * (right - left))
        total = self.weight + other.weight
        return InputMoments(self.n_features, total, exponent, center, spread, largest)

    def is_constant(self, dtype: np.dtype[Any]) -> NDArray[np.bool_]:
        """Return which columns are constant up to the rounding of this type."""
        # The largest entry of a column is about one after scaling by its power of two.
        rounding = INPUT_ULPS * np.finfo(dtype).eps
        return (self.spread <= rounding) | (self.largest < SMALLEST_COLUMN)

    def scaling(
        self, dtype: np.dtype[Any], *, centered: bool
    ) -> tuple[NDArray[np.intp], NDArray[np.float64], NDArray[np.float64]]:
        """Return exponent, center and spread of an `InputMap`."""
        constant, center, spread = self.is_constant(dtype), self.center, self.spread
        if not centered:
            center = np.zeros_like(center)
            spread = np.ldexp(self.largest, -self.exponent)
        # Maps any finite value of a constant column to zero.
        exponent, center = np.where(constant, 0, (self.exponent, center))
        return exponent.astype(np.intp), center, np.where(constant, np.inf, spread)


@dataclass(frozen=True, eq=False)
class InputMap:
    """Standardization of each column, ``z = (x 2^-exponent - center) / spread``.

    The exact scaling by powers of two avoids overflow and underflow of squares. The
    network uses some of the `n_features` columns of X. There is one exponent, center
    and spread for all positions if samples have more than one axis. An infinite spread
    maps constant columns to zero.
    """

    columns: NDArray[np.intp]
    exponent: NDArray[np.intp]
    center: NDArray[np.float64]
    spread: NDArray[np.float64]
    n_features: int

    @classmethod
    def fit(
        cls, X: NDArray[Any], weight: NDArray[np.float64], *, centered: bool, drop: bool
    ) -> InputMap:
        """Compute the map of samples with positive weights; see `of`."""
        moments = InputMoments.of(X, weight)
        return cls.of(moments, X.dtype, centered=centered, drop=drop)

    @classmethod
    def of(
        cls, moments: InputMoments, dtype: np.dtype[Any], *, centered: bool, drop: bool
    ) -> InputMap:
        """Return the map to mean zero and variance one of samples with these moments.

        Columns that are not centered are divided by their largest absolute value, which
        preserves zeros and the size of rare features. Constant columns become zero or,
        with `drop`, are left out, but one is kept if all are constant.
        """
        exponent, center, spread = moments.scaling(dtype, centered=centered)
        constant = np.isinf(spread)
        columns = np.arange(moments.n_features)
        if drop and constant.any():
            columns = np.flatnonzero(~constant) if not constant.all() else columns[:1]
            exponent, center = exponent[columns], center[columns]
            spread = spread[columns]
        return cls(columns, exponent, center, spread, moments.n_features)

    def transform(self, X: NDArray[Any]) -> NDArray[np.float64]:
        """Standardize dense samples, (n_samples, n_columns) or (n_samples, ...)."""
        shape = X.shape if X.ndim > 2 else (len(X), len(self.columns))
        result = np.empty(shape)
        keeps_all = X.ndim > 2 or len(self.columns) == self.n_features
        for rows in row_slices(len(X), PASS_ROWS):
            part = X[rows] if keeps_all else X[rows, self.columns]
            # Extreme values may become infinite.
            with np.errstate(over="ignore"):
                scaled = np.ldexp(part.astype(np.float64), -self.exponent)
                scaled -= self.center
                scaled /= self.spread
            result[rows] = scaled
        return result

    def fold(
        self, coef: NDArray[np.float64], intercept: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Convert a linear layer of standardized inputs to one of the columns of X."""
        unscaled = np.zeros((self.n_features, coef.shape[1]))
        scaled = coef / self.spread[:, None]
        unscaled[self.columns] = np.ldexp(scaled, -self.exponent[:, None])
        return unscaled, intercept - self.center @ scaled

    def fold_flat(
        self, coef: NDArray[np.float64], intercept: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Convert a layer like `fold`, for flattened samples of any shape."""
        if len(self.exponent) == len(coef):
            return self.fold(coef, intercept)
        scaled = coef / self.spread
        return np.ldexp(scaled, -self.exponent), intercept - self.center * scaled.sum(0)

    def n_inputs(self, shape: tuple[int, ...]) -> int:
        """Return the size of a standardized sample if X has this shape."""
        return len(self.columns) if len(shape) == 2 else self.n_features


class Standardization(nn.Module):
    """A layer without parameters that standardizes its inputs, in float64."""

    scale: Tensor
    center: Tensor
    spread: Tensor
    columns: Tensor | None

    def __init__(self, inputs: InputMap):
        super().__init__()
        scale = np.ldexp(1.0, -inputs.exponent)
        self.register_buffer("scale", torch.from_numpy(scale))
        self.register_buffer("center", torch.from_numpy(inputs.center.copy()))
        self.register_buffer("spread", torch.from_numpy(inputs.spread.copy()))
        drops = len(inputs.columns) < inputs.n_features
        columns = torch.from_numpy(inputs.columns.copy()) if drops else None
        self.register_buffer("columns", columns)

    def forward(self, X: Tensor) -> Tensor:
        """Return ``(x scale - center) / spread``."""
        kept = X if self.columns is None else X[:, self.columns]
        return (kept * self.scale - self.center) / self.spread


def _moments(
    rows: NDArray[Any], weight: NDArray[np.float64], exponent: NDArray[np.intp]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return weighted means and standard deviations of columns scaled by powers of two.

    If several columns have one exponent, they have a common mean and deviation.
    """
    pools = len(exponent) < rows.shape[1]

    def parts() -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
        for part in row_slices(len(rows), PASS_ROWS):
            yield weight[part], np.ldexp(rows[part].astype(np.float64), -exponent)

    def pooled(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return values.mean(keepdims=True) if pools else values

    # Subtracting the first sample keeps the mean of equal entries exact. No matrix
    # products are used, as their rounding of a column depends on the others.
    first = next(parts())[1][0]
    first = first[:1] if pools else first
    center = first + pooled(sum((w[:, None] * (z - first)).sum(0) for w, z in parts()))
    square = pooled(sum((w[:, None] * (z - center) ** 2).sum(0) for w, z in parts()))
    return center, np.sqrt(square)
