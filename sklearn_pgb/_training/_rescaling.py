"""Change the standardization of a trained network, and keep its function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklearn_pgb._budget import LARGEST_CHANGE, LARGEST_GROWTH, LARGEST_STRETCH
from sklearn_pgb._training._input_map import InputMap, InputMoments

Array = NDArray[np.float64]
# Weights (n_in, n_out) and biases of each layer.
Layers = list[tuple[Array, Array]]


def differs(spread: Any, shift: Any, old_spread: Any) -> Any:
    """Return whether a standardization does not suit data with other statistics.

    Small differences are ignored, so that trainings on similar batches keep theirs, and
    so are smaller deviations, which only slow the training down.
    Data that exceed it by far too much are left to the checks of losses and targets.
    """
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        growth = spread / old_spread
        changed = growth > LARGEST_CHANGE
        changed |= np.abs(shift) > LARGEST_CHANGE * np.minimum(spread, old_spread)
        return changed & (growth < LARGEST_GROWTH)


@dataclass(frozen=True, eq=False)
class InputChange:
    """Old standardized inputs in terms of new ones, ``old = ratio new + shift``.

    `source` has the position of each column in the old map, or -1 if it was constant.
    Columns that were constant have weights that are drawn again. The function of the
    network stays the same, except that no weight becomes larger than `LARGEST_STRETCH`
    times: beyond, the function is only the same at the old mean of the column. For
    columns that were constant, it is the same at the constant.
    """

    inputs: InputMap
    source: NDArray[np.intp]
    ratio: Array
    shift: Array

    @classmethod
    def of(
        cls,
        old: InputMap,
        before: InputMoments,
        after: InputMoments,
        dtype: np.dtype[Any],
        *,
        centered: bool,
    ) -> InputChange | None:
        """Return the change to the moments `after`, or None if it would be small."""
        exponent, center, spread = after.scaling(dtype, centered=centered)
        n = after.n_features
        source = np.full(n, -1)
        trained = np.flatnonzero(np.isfinite(old.spread))
        source[old.columns[trained]] = trained
        is_old = source >= 0
        # Statistics of the old map, or the constants that columns had so far.
        old_exponent, old_center = before.exponent.copy(), before.center.copy()
        old_spread = np.full(n, np.inf)
        for part, values in (
            (old_exponent, old.exponent),
            (old_center, old.center),
            (old_spread, old.spread),
        ):
            part[is_old] = values[source[is_old]]
        shift, size = old_exponent - exponent, np.where(is_old, old_spread, 1.0)
        with np.errstate(over="ignore", invalid="ignore"):
            moved = center - np.ldexp(old_center, shift)
            reference = np.ldexp(size, shift)
            known = np.isfinite(spread)
            changed = known & is_old & differs(spread, moved, reference)
        appears = known & ~is_old
        if not (changed | appears).any():
            return None
        ratio, offset = np.ones(n), np.zeros(n)
        with np.errstate(over="ignore", invalid="ignore"):
            ratio[changed] = (spread / reference)[changed]
            offset[changed] = (moved / reference)[changed]
            offset[appears] = (moved / spread)[appears]
        stretch = np.minimum(1.0, LARGEST_STRETCH / ratio)
        ratio, offset = ratio * stretch, offset * stretch
        kept = is_old & ~changed
        exponent[kept], center[kept] = old_exponent[kept], old_center[kept]
        spread[kept] = old_spread[kept]
        columns = np.flatnonzero(is_old | appears)
        inputs = InputMap(
            columns, exponent[columns], center[columns], spread[columns], n
        )
        return cls(inputs, source[columns], ratio[columns], offset[columns])

    def parameters(self, coef: Array, intercept: Array, new: Array) -> Any:
        """Convert the first layer; `new` are weights for columns that were constant."""
        coef = self._rows(coef, new)
        return self.ratio[:, None] * coef, intercept + self.shift @ coef

    def gradient(self, coef: Array, intercept: Array) -> tuple[Array, Array]:
        """Convert a gradient in the first layer."""
        coef = self._rows(coef, 0.0) - np.multiply.outer(self.shift, intercept)
        return coef / self.ratio[:, None], intercept

    def square(self, coef: Array, intercept: Array) -> tuple[Array, Array]:
        """Convert mean squares of a gradient, as if its entries were uncorrelated."""
        square = np.multiply.outer(self.shift**2, intercept)
        return (self._rows(coef, 0.0) + square) / self.ratio[:, None] ** 2, intercept

    def _rows(self, coef: Array, new: Any) -> Array:
        rows = coef[np.maximum(self.source, 0)]
        result: Array = np.where((self.source >= 0)[:, None], rows, new)
        return result


def opened_constants(
    old: InputMap, before: InputMoments, after: InputMoments, dtype: np.dtype[Any]
) -> InputMap | None:
    """Return a map that also has the columns that are no longer constant, or None.

    They are centered at their constant, so that a network of all columns has the same
    outputs as before. The other columns keep their statistics.
    """
    new = np.isinf(old.spread) & ~after.is_constant(dtype)
    if not new.any():
        return None
    center = np.ldexp(before.center, before.exponent - after.exponent)
    return InputMap(
        old.columns,
        np.where(new, after.exponent, old.exponent),
        np.where(new, center, old.center),
        np.where(new, after.spread, old.spread),
        old.n_features,
    )


def convert(
    layers: Layers,
    first: Callable[[Array, Array], tuple[Array, Array]],
    factor: float,
    last: float,
) -> Layers:
    """Convert the first layer, multiply all by `factor` and the last one by `last`."""
    result = [(factor * coef, factor * intercept) for coef, intercept in layers]
    result[0] = first(*result[0])
    coef, intercept = result[-1]
    result[-1] = last * coef, last * intercept
    return result
