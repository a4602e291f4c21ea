"""`InputMap`: the standardization of the inputs of a network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

# A column whose standard deviation is at most so many units of rounding of its largest
# entry is constant: sums of different order differ by a few of them.
ROUNDING = 8

# Columns whose entries are below this are constant: weights that undo such a factor
# overflow.
SMALLEST = 1e-290

# Rows that are standardized at a time.
ROWS = 2**13


@dataclass(frozen=True, eq=False)
class InputMap:
    """The affine map of each column, ``z = (x 2^-exponent - centre) / spread``.

    Powers of two are exact, so that squares neither overflow nor lose digits, whatever
    the units of a column.

    Attributes
    ----------
    columns : ndarray (n_columns,)
        Features that the network sees, as numbers of columns of X.
    exponent : ndarray (n_columns,) or (1,)
    centre, spread : ndarray of the same shape
        One number for all positions if samples have more than one axis. An infinite
        spread stands for a constant, which becomes zero.
    n_features : int
        Columns of X.
    """

    columns: NDArray[np.intp]
    exponent: NDArray[np.intp]
    centre: NDArray[np.float64]
    spread: NDArray[np.float64]
    n_features: int

    @classmethod
    def fit(
        cls, X: NDArray[Any], weight: NDArray[np.float64], *, centred: bool, drop: bool
    ) -> InputMap:
        """Means and standard deviations of weighted samples.

        Parameters
        ----------
        X : ndarray (n_samples, ...)
        weight : ndarray (n_samples,)
            Positive.
        centred : bool
            Whether the columns are centred; otherwise they are divided by their largest
            absolute value, which keeps zeros and the size of rare features.
        drop : bool
            Whether constant columns are left out; they become zero otherwise. The last
            column is never left out.
        """
        weight = weight / weight.sum()
        rows = X if X.ndim == 2 else X.reshape(len(X), -1)
        largest = np.maximum(rows.max(0), -rows.min(0)).astype(np.float64)
        if X.ndim > 2:
            largest = largest.max(keepdims=True)
        exponent = np.frexp(largest)[1].astype(np.intp)
        centre, spread = _moments(rows, weight, exponent)
        # Scaled by its power of two, the largest entry of a column is about one.
        rounding = ROUNDING * np.finfo(X.dtype).eps
        constant = (spread <= rounding) | (largest < SMALLEST)
        if not centred:
            centre = np.zeros_like(centre)
            spread = np.ldexp(largest, -exponent)
        # Any number becomes zero there, whatever the units of the training samples.
        exponent, centre = np.where(constant, 0, (exponent, centre))
        exponent = exponent.astype(np.intp)
        spread = np.where(constant, np.inf, spread)
        columns = np.arange(rows.shape[1])
        if drop and constant.any():
            columns = np.flatnonzero(~constant) if not constant.all() else columns[:1]
            exponent, centre = exponent[columns], centre[columns]
            spread = spread[columns]
        return cls(columns, exponent, centre, spread, rows.shape[1])

    def state(self) -> dict[str, Any]:
        """Arrays and plain values from which the map can be made again."""
        return dict(vars(self))

    def transform(self, X: NDArray[Any]) -> NDArray[np.float64]:
        """Standardize dense samples, (n_samples, n_columns) or (n_samples, ...)."""
        shape = X.shape if X.ndim > 2 else (len(X), len(self.columns))
        result = np.empty(shape)
        for start in range(0, len(X), ROWS):
            rows = slice(start, start + ROWS)
            part = X[rows] if X.ndim > 2 or self._keeps_all else X[rows, self.columns]
            result[rows] = self._of(part)
        return result

    @property
    def _keeps_all(self) -> bool:
        return len(self.columns) == self.n_features

    def _of(self, part: NDArray[Any]) -> NDArray[np.float64]:
        """Some samples, standardized; infinite if they are far beyond the others."""
        with np.errstate(over="ignore"):
            scaled = np.ldexp(part.astype(np.float64), -self.exponent)
            scaled -= self.centre
            scaled /= self.spread
        return scaled

    def fold(
        self, coef: NDArray[np.float64], intercept: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """A linear layer of the standardized inputs as one of the columns of X.

        Parameters
        ----------
        coef : ndarray (n_columns, n_out)
        intercept : ndarray (n_out,)

        Returns
        -------
        coef : ndarray (n_features, n_out)
        intercept : ndarray (n_out,)
        """
        of_column = np.zeros((self.n_features, coef.shape[1]))
        scaled = coef / self.spread[:, None]
        of_column[self.columns] = np.ldexp(scaled, -self.exponent[:, None])
        return of_column, intercept - self.centre @ scaled

    def fold_flat(
        self, coef: NDArray[np.float64], intercept: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """As `fold`, for a layer of all positions of samples of any shape."""
        if len(self.exponent) == len(coef):
            return self.fold(coef, intercept)
        scaled = coef / self.spread
        return np.ldexp(scaled, -self.exponent), intercept - self.centre * scaled.sum(0)

    def n_inputs(self, shape: tuple[int, ...]) -> int:
        """Numbers of one standardized sample, for samples of this shape of X."""
        return len(self.columns) if len(shape) == 2 else self.n_features

    def module(self) -> nn.Module:
        """The map as a layer without parameters, in float64."""
        return Standardization(self)


class Standardization(nn.Module):
    """A layer that standardizes its inputs.

    Parameters
    ----------
    inputs : InputMap
    """

    def __init__(self, inputs: InputMap):
        super().__init__()
        scale = np.ldexp(1.0, -inputs.exponent)
        self.register_buffer("scale", torch.from_numpy(scale))
        self.register_buffer("centre", torch.from_numpy(inputs.centre.copy()))
        self.register_buffer("spread", torch.from_numpy(inputs.spread.copy()))

    def forward(self, X: Tensor) -> Tensor:
        """``(x scale - centre) / spread``."""
        scale, centre, spread = self.buffers()
        return (X * scale - centre) / spread


def _moments(
    rows: NDArray[Any], weight: NDArray[np.float64], exponent: NDArray[np.intp]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weighted means and standard deviations of columns divided by powers of two.

    With one exponent for several columns they are those of all entries together.
    """
    together = len(exponent) < rows.shape[1]

    def parts() -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
        for start in range(0, len(rows), ROWS):
            part = slice(start, start + ROWS)
            yield weight[part], np.ldexp(rows[part].astype(np.float64), -exponent)

    def pooled(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return values.mean(keepdims=True) if together else values

    # A shift by the first row keeps the mean of equal entries exact. Products of
    # matrices would round a column by what stands beside it.
    first = next(parts())[1][0]
    first = first[:1] if together else first
    centre = first + pooled(sum((w[:, None] * (z - first)).sum(0) for w, z in parts()))
    square = pooled(sum((w[:, None] * (z - centre) ** 2).sum(0) for w, z in parts()))
    return centre, np.sqrt(square)
