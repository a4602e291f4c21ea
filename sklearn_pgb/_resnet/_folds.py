"""Folds by which the iterations and the ridge of a ResNet basis are chosen."""

from functools import partial
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklearn_pgb._estimator._alpha import enough
from sklearn_pgb._estimator._border import (
    AUTO_FOLDS,
    Parts,
    cross_fitting_parts,
    parts_among,
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
    """(train, held out) rows of each fold, as numbers among the kept samples.

    A splitter gets all samples. An int draws folds over the distinct kept samples, as
    many as hold enough of them. There are none if nothing can be held out: all samples
    are equal, say, or each class has one.

    Parameters
    ----------
    cv : int, splitter or iterable
    X, y, groups
        All samples; groups may be None.
    rows : ndarray (n_kept, n_columns)
        Kept samples as numbers.
    kept : ndarray (n_kept,)
        Numbers of the samples of positive weight.
    labels : ndarray (n_kept,) or None
        Classes by which folds are stratified.
    weight : ndarray (n_kept,)
    seed : int
    classifier : bool

    Raises
    ------
    ValueError
        If a splitter or groups leave nothing to hold out or to train on, or if more
        than AUTO_FOLDS folds are asked for and not so many can be drawn.
    """
    if not isinstance(cv, Integral):
        return parts_among(kept, cv, X, y, classifier=classifier, groups=groups)
    draw = partial(
        cross_fitting_parts,
        int(cv),
        rows,
        labels,
        weight,
        seed,
        "Set cv=None to train for max_iter on all samples.",
        None if groups is None else groups[kept],
    )
    try:
        parts = draw()
    except ValueError:
        if groups is not None:
            raise
        return []
    if int(cv) > AUTO_FOLDS:
        parts = draw(exact=True)
    return parts[: enough(parts, rows)]
