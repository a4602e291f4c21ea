"""Folds for cross-fitting, which keep duplicate samples and groups together."""

from collections.abc import Iterable
from contextlib import suppress
from hashlib import blake2b
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import KFold, check_cv
from sklearn.utils import check_consistent_length, column_or_1d

from sklearn_pgb._bases._streamed import over_parts
from sklearn_pgb._budget import ENOUGH_ROWS
from sklearn_pgb._convex._heldout import NoFolds
from sklearn_pgb._models._mapped_rows import MappedRows
from sklearn_pgb._sklearn import (
    _num_samples,
    _safe_indexing,
    is_pandas_na,
    is_scalar_nan,
)

# Advice if no folds can be drawn to choose alpha.
CHOOSE_ALPHA = "Give a number for alpha."

COMPLEX = (
    "X must have real numbers, got complex ones. Complex data not supported; keep real "
    "and imaginary parts as two columns."
)

# (train, held out) rows of each fold.
Parts = list[tuple[NDArray[np.intp], NDArray[np.intp]]]


def row_codes(X: Any) -> NDArray[np.intp]:
    """Codes 0, 1, ... of the samples; equal samples have the same code.

    The codes follow the order of values. They do not depend on the order or
    repetition of samples, nor on the container or dtype.
    """
    is_sparse = sp.issparse(X)
    if is_sparse:
        csr = sp.csr_array(X, copy=True)
        csr.sum_duplicates()
        csr.eliminate_zeros()
        keys = [
            csr.indices[start:stop].tobytes() + csr.data[start:stop].tobytes()
            for start, stop in zip(csr.indptr[:-1], csr.indptr[1:], strict=True)
        ]
        # As an object array: NumPy's byte strings would drop trailing zero bytes.
        return np.unique(np.array(keys, dtype=object), return_inverse=True)[1]
    if isinstance(X, MappedRows):
        digests = np.concatenate(list(over_parts(_digests, X, X.rows)))
        return np.unique(digests, return_inverse=True)[1]
    rows = np.asarray(X)
    rows = rows.reshape(len(rows), -1)
    if rows.dtype.kind == "c":
        raise ValueError(COMPLEX)
    if rows.dtype.kind not in "biuf":
        # Data frames with nullable or mixed dtypes become object arrays.
        rows = np.column_stack([_sortable(column) for column in rows.T])
    if rows.dtype.kind == "f" and np.isnan(rows).any():
        # np.unique counts NaN as equal in 1-d arrays, but not in rows.
        rows = np.column_stack(
            [np.unique(column, return_inverse=True)[1] for column in rows.T]
        )
    return np.unique(rows, axis=0, return_inverse=True)[1].reshape(-1)


def _digests(rows: MappedRows) -> NDArray[np.bytes_]:
    """Hash the rows of a part; those of 128 bits do not collide by chance."""
    # The sum turns -0.0 into 0.0.
    blocks = (rows[each] + 0 for each in rows.blocks())
    digests = [blake2b(r, digest_size=16).digest() for block in blocks for r in block]
    return np.array(digests, dtype="S16")


def _sortable(column: NDArray[Any]) -> NDArray[Any]:
    """Encode a column of objects as numbers in the same order."""
    missing = np.array([is_scalar_nan(x) or is_pandas_na(x) for x in column])
    values = column[~missing]
    if not any(isinstance(value, str) for value in values):
        with suppress(TypeError, ValueError):
            numbers = np.full(len(column), np.nan)
            numbers[~missing] = values.astype(np.float64)
            return numbers
    codes = np.full(len(column), np.nan)
    codes[~missing] = np.unique(values.astype(str), return_inverse=True)[1]
    return codes


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
        cluster, noun = _join_groups(cluster, groups), "groups"
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


def _join_groups(codes: NDArray[np.intp], groups: Any) -> NDArray[np.intp]:
    """Number the sets of samples that are equal or in the same group."""
    group = np.unique(column_or_1d(groups), return_inverse=True)[1]
    check_consistent_length(codes, group)
    n_rows = int(codes.max()) + 1
    size = n_rows + int(group.max()) + 1
    links = sp.coo_array(
        (np.ones(len(group)), (codes, n_rows + group)), shape=(size, size)
    )
    # Number the sets in the order of their first distinct sample, which depends on
    # neither the order nor the repetition of samples.
    component = connected_components(links, directed=False)[1][:n_rows]
    _, first, inverse = np.unique(component, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse][codes]


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


def splitter_parts(
    rows: NDArray[np.intp],
    splitter: Any,
    X: Any,
    y: Any,
    *,
    classifier: bool,
    groups: Any = None,
) -> Parts:
    """Return a splitter's (train, held out) samples as positions in `rows`."""
    try:
        splits = check_cv(splitter, y, classifier=classifier).split(X, y, groups)
        parts = restricted(splits, rows, _num_samples(X))
    except (TypeError, IndexError) as error:
        raise ValueError(
            "cv must be an int, a splitter, or an iterable of pairs (train, test) of "
            f"row numbers, got {splitter!r}."
        ) from error
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
