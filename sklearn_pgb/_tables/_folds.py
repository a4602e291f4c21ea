"""Folds of tables, and samples in none of them. Many are held out in two halves."""

from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklearn_pgb._budget import (
    ASIDE_FRACTION,
    AUTO_FOLDS,
    FEW_SAMPLES,
    LEAST_FOLDS,
    MANY_SAMPLES,
    MOST_ASIDE,
)
from sklearn_pgb._convex._heldout import NoFolds
from sklearn_pgb._estimator._folds import Parts, cross_fitting_parts
from sklearn_pgb._estimator._row_codes import join_groups, row_codes

# Two parts of the samples that a fold holds out.
Halves = list[tuple[NDArray[np.intp], NDArray[np.intp]]]


def automatic_folds(n_samples: int) -> int:
    """Return the default number of folds."""
    if n_samples <= MANY_SAMPLES:
        return AUTO_FOLDS
    return max(LEAST_FOLDS, round(AUTO_FOLDS * MANY_SAMPLES / n_samples))


def samples_aside(X: NDArray[np.float64], groups: Any, seed: int) -> NDArray[np.intp]:
    """Draw samples that no fold gets, with all of their duplicates and their groups.

    None of FEW_SAMPLES, and none if duplicates or groups are too large.
    """
    most = min(MOST_ASIDE, int(ASIDE_FRACTION * len(X)))
    if len(X) <= FEW_SAMPLES:
        return np.arange(0)
    cluster = row_codes(X)
    if groups is not None:
        cluster = join_groups(cluster, groups)
    sizes = np.bincount(cluster)
    order = np.random.RandomState(seed).permutation(np.flatnonzero(sizes <= most))
    drawn = order[np.cumsum(sizes[order]) <= most]
    aside = np.flatnonzero(np.isin(cluster, drawn))
    return aside if len(aside) > most / 2 else aside[:0]


def table_folds(
    cv: Any,
    X: NDArray[np.float64],
    labels: NDArray[np.intp] | None,
    weight: NDArray[np.float64],
    groups: Any,
    seed: int,
) -> tuple[Parts, Halves | None]:
    """Draw folds over the distinct samples; `cv` is "auto", None or their number.

    If there are more than MANY_SAMPLES samples, the second result has two halves of the
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
        if len(X) > MANY_SAMPLES:
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
