"""Cross-conformal intervals and label sets."""

from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklearn_pgb._budget import BISECTIONS

Array = NDArray[np.float64]


def check_coverage(coverage: Any) -> float:
    """Return the coverage, or raise an error."""
    if not isinstance(coverage, Real) or not 0 < float(coverage) < 1:
        raise ValueError(
            f"coverage must be between 0 and 1, both excluded, got {coverage!r}. Pass "
            "0.9 for intervals that hold nine of ten targets."
        )
    return float(coverage)


def interval(
    locations: Sequence[Array],
    scale: Array,
    errors: Sequence[Array],
    weights: Sequence[Array],
    coverage: float,
) -> Array:
    """Return intervals from held-out errors, those of CV+ for several folds.

    Each held-out sample votes for a lower and an upper end: the prediction of the fold
    that has not seen it, minus and plus the size of its standardized error times the
    scale. The ends (n_samples, 2) are quantiles of the votes, counted as if the new
    sample were one more vote at infinity (Barber, Candes, Ramdas, Tibshirani,
    "Predictive inference with the jackknife+", Annals of Statistics 49(1), 2021,
    section 3).

    Parameters
    ----------
    locations : sequence of ndarray of shape (n_samples,)
        Predictions by each fold.
    scale : ndarray of shape (n_samples,)
    errors : sequence of ndarray
        Standardized errors of the samples that each fold held out.
    weights : sequence of ndarray
        Weights of these samples.
    coverage : float
    """
    sizes = [np.sort(np.abs(each)) for each in errors]
    orders = [np.argsort(np.abs(each), kind="stable") for each in errors]
    sums = [
        np.append(0.0, np.cumsum(weight[order]))
        for weight, order in zip(weights, orders, strict=True)
    ]
    total = float(sum(each[-1] for each in sums))
    # The new sample has the mean weight.
    count = sum(map(len, errors))
    needed = coverage * total * (1 + 1 / count)
    largest = max(float(each[-1]) for each in sizes if len(each))

    def votes(ends: Array, sign: int) -> Array:
        """Weight of the votes that do not pass the ends."""
        inside = np.zeros_like(ends)
        for location, size, total_up_to in zip(locations, sizes, sums, strict=True):
            distance = sign * (ends - location) / scale
            # Rounding must not undo equality with an error.
            index = np.searchsorted(size, distance * (1 + 1e-12), side="right")
            inside += total_up_to[index]
        return inside

    result = np.empty((len(scale), 2))
    for column, sign in enumerate((-1, 1)):
        if needed > total:
            result[:, column] = sign * np.inf
            continue
        signed = sign * np.stack(list(locations))
        # At one end no vote is inside, at the other all are.
        outer, inner = signed.max(0) + largest * scale, signed.min(0) - scale
        for _ in range(BISECTIONS):
            middle = (inner + outer) / 2
            enough = votes(sign * middle, sign) >= needed
            inner, outer = (
                np.where(enough, inner, middle),
                np.where(enough, middle, outer),
            )
        result[:, column] = sign * outer
    return result


def label_threshold(scores: Array, weight: Array, coverage: float) -> float:
    """Return the threshold: sets hold the labels with scores up to it.

    Scores are one minus the held-out probability of the true label (Sadinle, Lei,
    Wasserman, "Least ambiguous set-valued classifiers", JASA 114, 2019).
    """
    order = np.argsort(scores, kind="stable")
    total = np.cumsum(weight[order])
    needed = coverage * total[-1] * (1 + 1 / len(scores))
    if needed > total[-1]:
        return np.inf
    index = int(np.searchsorted(total, needed * (1 - 1e-12)))
    return float(scores[order][index])
