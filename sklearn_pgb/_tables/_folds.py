"""Folds of tables. Those of many samples are held out in two halves."""

from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklearn_pgb._budget import AUTO_FOLDS, CHOICE_ROWS, LEAST_FOLDS
from sklearn_pgb._convex._heldout import NoFolds
from sklearn_pgb._estimator._folds import Parts, cross_fitting_parts

# Two parts of the samples that a fold holds out.
Halves = list[tuple[NDArray[np.intp], NDArray[np.intp]]]


def automatic_folds(n_samples: int) -> int:
    """Return the default number of folds."""
    if n_samples <= CHOICE_ROWS:
        return AUTO_FOLDS
    return max(LEAST_FOLDS, round(AUTO_FOLDS * CHOICE_ROWS / n_samples))


def table_folds(
    cv: Any,
    X: NDArray[np.float64],
    labels: NDArray[np.intp] | None,
    weight: NDArray[np.float64],
    groups: Any,
    seed: int,
) -> tuple[Parts, Halves | None]:
    """Draw folds over the distinct samples; `cv` is "auto", None or their number.

    If there are more than CHOICE_ROWS samples, the second result has two halves of the
    held-out samples of each fold. No distinct sample or group is in both.
    """
    given = isinstance(cv, Integral)
    n_folds = int(cv) if given else automatic_folds(len(X))
    options: dict[str, Any] = {
        "labels": labels,
        "weight": weight,
        "seed": seed,
        "advice": "Add samples.",
        "groups": groups,
    }
    try:
        if len(X) > CHOICE_ROWS:
            parts = cross_fitting_parts(2 * n_folds, X, **options)
            # With few distinct samples, or rare classes, there may be fewer parts.
            if len(parts) == 2 * n_folds:
                folds, halves = _joined(parts, len(X))
                # The training samples of each fold need all classes.
                codes = np.zeros(len(X)) if labels is None else labels
                counts = {len(np.unique(codes[train])) for train, _ in folds}
                if counts == {len(np.unique(codes))}:
                    return folds, halves
        required = cv != "auto"
        parts = cross_fitting_parts(n_folds, X, **options, require_n_folds=required)
    except NoFolds:
        if cv != "auto" or groups is not None:
            raise
        # Too few distinct samples: their duplicates are held out one by one.
        numbers = np.arange(len(X))[:, None]
        parts = cross_fitting_parts(n_folds, numbers, **options)
    return parts, None


def _joined(parts: Parts, n_samples: int) -> tuple[Parts, Halves]:
    """Join parts to folds with half as many, and return their held-out halves.

    Samples of a rare class are in consecutive parts, which are never joined.
    """
    held = [heldout for _, heldout in parts]
    halves = list(zip(held[: len(held) // 2], held[len(held) // 2 :], strict=True))
    folds = []
    for pair in halves:
        heldout = np.sort(np.concatenate(pair))
        folds.append((np.delete(np.arange(n_samples), heldout), heldout))
    return folds, halves
