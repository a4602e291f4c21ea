"""Folds for cross-fitting, which keep duplicate samples and groups together."""

from collections.abc import Iterable
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import KFold, check_cv
from sklearn.utils import indexable

from sklearn_pgb._budget import ENOUGH_ROWS
from sklearn_pgb._convex._heldout import NoFolds
from sklearn_pgb._estimator._row_codes import join_groups, row_codes
from sklearn_pgb._sklearn import _num_samples, _safe_indexing

# Advice if no folds can be drawn to choose alpha.
CHOOSE_ALPHA = "Give a number for alpha."

# (train, held out) rows of each fold.
Parts = list[tuple[NDArray[np.intp], NDArray[np.intp]]]


def cross_fitting_parts(
    n_folds: int,
    X: Any,
    labels: NDArray[np.intp] | None,
    weight: NDArray[np.float64],
    seed: int,
    advice: str = CHOOSE_ALPHA,
    groups: Any = None,
    require_n_folds: bool = False,
) -> Parts:
    """Draw folds; return their (train, held out) indices.

    Duplicate samples form a cluster in one fold, so that weights act like repetitions.
    Samples of the same group are in one cluster, too. With `labels` the folds are
    stratified; a cluster counts as its label of the largest weight. A cluster is not
    held out if a class would then be missing from the training samples. Raises NoFolds
    if no sample can be held out.
    """
    cluster = row_codes(X)
    noun = "distinct rows"
    if groups is not None:
        cluster, noun = join_groups(cluster, groups), "groups"
    n_clusters = int(cluster.max()) + 1
    if n_clusters < 2:
        raise NoFolds(
            f"X must have at least 2 {noun} for cross-fitting, got {n_clusters} "
            f"(n_samples={len(cluster)}, 1 sample is too few). {advice}"
        )
    fold = np.full(n_clusters, -1, dtype=np.intp)
    eligible = np.arange(n_clusters)
    label = np.zeros(n_clusters, dtype=np.intp)
    if labels is not None:
        class_weight = np.zeros((n_clusters, int(labels.max()) + 1))
        np.add.at(class_weight, (cluster, labels), weight)
        label = class_weight.argmax(1)
        eligible = np.flatnonzero(np.bincount(label)[label] > 1)
        if len(eligible) < 2:
            raise NoFolds(
                f"X must have at least 2 {noun} of one class for cross-fitting, got "
                f"{n_clusters} {noun} of {len(np.unique(label))} classes. {advice}"
            )
    if require_n_folds and n_folds > len(eligible):
        raise ValueError(
            f"cv must be at most the number of {noun} that can be held out, "
            f"{len(eligible)}, got {n_folds}. Use fewer folds, such as cv=5."
        )
    n_folds = min(n_folds, len(eligible))
    if labels is None:
        splitter = KFold(n_folds, shuffle=True, random_state=seed)
        for number, (_, test) in enumerate(splitter.split(fold)):
            fold[test] = number
    else:
        shuffled = eligible[np.random.RandomState(seed).permutation(len(eligible))]
        shuffled = shuffled[np.argsort(label[shuffled], kind="stable")]
        fold[shuffled] = np.arange(len(shuffled)) % n_folds
        fold = _keep_classes(fold, class_weight > 0, noun, advice)
    of_samples = fold[cluster]
    return [
        (np.flatnonzero(of_samples != number), np.flatnonzero(of_samples == number))
        for number in range(int(fold.max()) + 1)
    ]


def _keep_classes(
    fold: NDArray[np.intp], present: NDArray[np.bool_], noun: str, advice: str
) -> NDArray[np.intp]:
    """Never hold out a class that lies in a single fold; renumber the other folds."""
    for has_class in present.T:
        folds = np.unique(fold[has_class])
        if len(folds) == 1:
            fold[has_class] = -1
    kept = np.unique(fold[fold >= 0])
    if not len(kept):
        raise NoFolds(
            f"X must have more {noun} of each class for cross-fitting, got no fold "
            f"that can be held out without losing a class. {advice}"
        )
    numbers = np.full(fold.max() + 2, -1, dtype=np.intp)
    numbers[kept] = np.arange(len(kept))
    return numbers[fold]


def enough_folds(parts: Parts, X: Any, least: int = 1) -> Parts:
    """Return the first folds that together hold out ENOUGH_ROWS, but at least `least`.

    Duplicate samples count once, so that integer weights equal repetition.
    """
    total = 0
    for count, (_, heldout) in enumerate(parts, 1):
        total += int(row_codes(_safe_indexing(X, heldout)).max()) + 1
        if count >= least and total >= ENOUGH_ROWS:
            return parts[:count]
    return parts


def restricted(
    parts: Iterable[tuple[Any, Any]], rows: NDArray[np.intp], n_samples: int
) -> Parts:
    """Restrict folds of all samples to `rows`, as positions in `rows`."""
    position = np.full(n_samples, -1, dtype=np.intp)
    position[rows] = np.arange(len(rows))
    moved = [(position[train], position[test]) for train, test in parts]
    return [(train[train >= 0], test[test >= 0]) for train, test in moved]


def _no_splitter(cv: Any) -> ValueError:
    return ValueError(
        "cv must be an int, a splitter, or an iterable of pairs (train, test) of row "
        f"numbers, got {cv!r}."
    )


def splitter_parts(
    rows: NDArray[np.intp],
    splitter: Any,
    X: Any,
    y: Any,
    *,
    classifier: bool,
    groups: Any = None,
) -> Parts:
    """Return a splitter's (train, held out) samples as positions in `rows`.

    X and y are those of the user, with the samples of weight zero. Errors inside of a
    splitter are its own.
    """
    X, y = indexable(X, y)
    splits = hasattr(splitter, "split") and not isinstance(splitter, str)
    if splits or splitter is None or isinstance(splitter, Integral):
        splitter = check_cv(splitter, y, classifier=classifier)
        drawn = list(splitter.split(X, y, groups))
    else:
        try:
            pairs = iter(splitter)
        except TypeError as error:
            raise _no_splitter(splitter) from error
        drawn = list(pairs)
    try:
        parts = restricted(drawn, rows, _num_samples(X))
    except (TypeError, ValueError, IndexError) as error:
        raise _no_splitter(splitter) from error
    parts = [(train, test) for train, test in parts if len(test)]
    if not parts:
        raise ValueError(
            "cv must hold out some sample of positive weight, but it holds out none. "
            "Pass an int, or a splitter with held-out samples."
        )
    if not all(len(train) for train, _ in parts):
        raise ValueError(
            "cv must leave training samples of positive weight in each fold, but a "
            "fold has none. Pass an int, or another splitter."
        )
    return parts
