"""Folds to choose the iterations and alpha of a ResNet basis."""

from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklearn_pgb._budget import AUTO_FOLDS
from sklearn_pgb._convex._heldout import NoFolds
from sklearn_pgb._estimator._folds import (
    Parts,
    cross_fitting_parts,
    enough_folds,
    splitter_parts,
)


def draw_folds(
    cv: Any,
    X: Any,
    y: Any,
    groups: Any,
    *,
    rows: NDArray[np.float64],
    kept: NDArray[np.intp],
    labels: NDArray[np.intp] | None,
    weight: NDArray[np.float64],
    seed: int,
    classifier: bool,
) -> Parts:
    """Return the (train, held out) indices of each fold among the kept samples.

    A splitter divides all samples X, y and groups. An int draws folds of the distinct
    kept samples, as many as hold out enough of them; `rows`, `labels` and `weight` are
    those of the kept samples. The list is empty if nothing can be held out, for example
    if all samples are equal or each class has one sample.
    """
    if not isinstance(cv, Integral):
        return splitter_parts(kept, cv, X, y, classifier=classifier, groups=groups)
    if labels is not None:
        labels = np.unique(labels, return_inverse=True)[1]
    try:
        parts = cross_fitting_parts(
            int(cv),
            rows,
            labels,
            weight,
            seed,
            "Set cv=None to train for max_iter on all samples.",
            None if groups is None else groups[kept],
            require_n_folds=int(cv) > AUTO_FOLDS,
        )
    except NoFolds:
        if groups is not None:
            raise
        return []
    return enough_folds(parts, rows)
