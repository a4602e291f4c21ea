"""Checks and conversion of data, seeds, folds and networks that users pass."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import wraps
from numbers import Integral, Real
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.model_selection import KFold, check_cv
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import check_consistent_length, check_random_state, column_or_1d
from sklearn.utils.validation import has_fit_parameter
from torch import Tensor

from sklearn_pgb._budget import MOST_JOBS
from sklearn_pgb._losses._loss import Loss
from sklearn_pgb._models._open import OpenNetwork, nested, open_network
from sklearn_pgb._sklearn import BaseSearchCV, _num_samples, is_pandas_na, is_scalar_nan

# Advice if no folds can be drawn to choose alpha.
CHOOSE_ALPHA = "Give a number for alpha."

# (train, held out) rows of each fold.
Parts = list[tuple[NDArray[np.intp], NDArray[np.intp]]]


BYTES = {"B": 1, "KB": 2**10, "MB": 2**20, "GB": 2**30, "TB": 2**40}


# scikit-learn needs these attributes to end the callbacks of a fit, then removes them.
OF_CALLBACKS = ("_callback_fit_ctx", "_skl_callbacks_to_teardown")


class NoFolds(ValueError):
    """No sample can be held out."""


def all_or_nothing(fit: Callable[..., Any]) -> Callable[..., Any]:
    """Restore the estimator's previous state if its `fit` fails."""

    @wraps(fit)
    def fit_or_restore(self: Any, *args: Any, **kwargs: Any) -> Any:
        before = dict(vars(self))
        try:
            return fit(self, *args, **kwargs)
        except BaseException:
            after = vars(self)
            running = {name: after[name] for name in OF_CALLBACKS if name in after}
            after.clear()
            after.update(before | running)
            raise

    return fit_or_restore


def dense(X: Any) -> Any:
    """Convert a sparse matrix to an array; return anything else unchanged."""
    if not sp.issparse(X):
        return X
    rows: Any = X
    return rows.toarray()


def parse_memory(max_memory: Any) -> float:
    """Return the bytes of a number or a string such as "500MB"."""
    amount = float(max_memory) if isinstance(max_memory, Real) else -1.0
    if isinstance(max_memory, str):
        text = max_memory.strip().upper().replace("IB", "B")
        unit = next((u for u in ("TB", "GB", "MB", "KB", "B") if text.endswith(u)), "")
        with suppress(ValueError):
            amount = float(text.removesuffix(unit)) * BYTES.get(unit, 1)
    if not amount > 0:
        raise ValueError(
            "max_memory must be a positive number of bytes or a text such as '500MB' "
            f"or '2GB', got {max_memory!r}."
        )
    return amount


def check_device(device: Any) -> torch.device:
    """Return a device that can compute, the CPU if None, or raise an error."""
    try:
        checked = torch.device("cpu" if device is None else device)
        # Reading a value fails on the device "meta", as its tensors have no data.
        torch.ones(1, device=checked).item()
    except (RuntimeError, AssertionError, TypeError, ValueError) as failure:
        # torch raises AssertionError if it was not compiled for the device.
        raise ValueError(
            f"device must be one that torch can use here, got {device!r}: {failure}"
        ) from failure
    return checked


def jobs_for(n_tasks: int, n_jobs: Any) -> int | None:
    """Check `n_jobs` and limit it to the number of tasks."""
    if n_jobs is None:
        return None
    is_int = isinstance(n_jobs, Integral) and not isinstance(n_jobs, bool)
    if not is_int or n_jobs == 0 or abs(n_jobs) > MOST_JOBS:
        raise ValueError(
            f"n_jobs must be None or an int other than 0 between -{MOST_JOBS} and "
            f"{MOST_JOBS}, got {n_jobs!r}. -1 uses all cores."
        )
    # joblib would start idle processes.
    return min(int(n_jobs), max(n_tasks, 1))


def aligned(X: Any) -> Any:
    """Return an array aligned in memory; return other data unchanged.

    Arrays received from another process may be unaligned. NumPy adds their products in
    a different order, so the last digits would depend on the process of the fit.
    """
    return np.require(X, requirements="A") if type(X) is np.ndarray else X


def delegates_input(estimator: Any) -> bool:
    """Whether X goes to a Pipeline, which does its own checks."""
    return any(isinstance(each, Pipeline) for each in nested(estimator))


def check_passed_on(X: Any) -> None:
    """Raise an error if X is a mapping, which no transformer takes as samples."""
    if isinstance(X, Mapping) and not sp.issparse(X):
        raise TypeError(
            f"X must be an array, a frame or a list of samples, got a "
            f"{type(X).__name__}. Make a data frame of it."
        )


def final_estimator(estimator: Any) -> Any:
    """Return the estimator inside pipelines, target transformers and searches."""
    *_, final = nested(estimator)
    return final


def fit_parameter(estimator: Any, name: str) -> str | None:
    """Return the keyword of `fit` that reaches the final estimator, if it takes one."""
    chain = list(nested(estimator))
    if not has_fit_parameter(chain[-1], name):
        return None
    names = [each.steps[-1][0] for each in chain if isinstance(each, Pipeline)]
    return "__".join([*names, name])


def share_target_transformation(estimator: Any, y: Any) -> Any:
    """Fit a TransformedTargetRegressor's transformer once, for all networks.

    Otherwise networks trained on different samples would predict differently
    transformed targets, which cannot be averaged.
    """
    name, inner = None, None
    if isinstance(estimator, Pipeline):
        name, inner = estimator.steps[-1]
    elif isinstance(estimator, BaseSearchCV):
        name, inner = "estimator", estimator.estimator
    if name is not None:
        shared = share_target_transformation(inner, y)
        if shared is inner:
            return estimator
        return clone(estimator).set_params(**{name: shared})
    if not isinstance(estimator, TransformedTargetRegressor):
        return estimator
    if estimator.transformer is None:
        return estimator
    columns = np.asarray(y).reshape(len(y), -1)
    transformer = clone(estimator.transformer).fit(columns)
    # FrozenEstimator does not work here: its `fit` requires two arguments, and
    # TransformedTargetRegressor passes only y.
    fixed = FunctionTransformer(
        transformer.transform, transformer.inverse_transform, check_inverse=False
    )
    return clone(estimator).set_params(transformer=fixed)


@dataclass(frozen=True)
class Seeds:
    """Seeds of one fit, drawn before the parallel trainings start.

    Attributes
    ----------
    folds, sketch, networks : int
    keep_first : bool
        Whether the first network keeps the estimator's own seed.
    """

    folds: int
    sketch: int
    networks: int
    keep_first: bool

    def of_networks(self, count: int) -> list[int | None]:
        """Return one seed per network; None stands for the estimator's own."""
        rng = np.random.RandomState(self.networks)
        seeds: list[int | None] = rng.randint(
            np.iinfo(np.int32).max, size=count
        ).tolist()
        return [None, *seeds[1:]] if self.keep_first else seeds


def draw_seeds(estimator: Any, random_state: Any) -> Seeds:
    """Draw seeds from `random_state`, or if it is None, from the estimator's own."""
    source = random_state
    if source is None:
        own = (estimator.get_params()[key] for key in _seed_keys(estimator))
        numbers = (seed for seed in own if isinstance(seed, int | np.integer))
        source = next(numbers, None)
    rng = check_random_state(source)
    folds, sketch, networks = rng.randint(np.iinfo(np.int32).max, size=3).tolist()
    return Seeds(folds, sketch, networks, keep_first=random_state is None)


def _seed_keys(estimator: Any) -> list[str]:
    """Return the names of all `random_state` parameters, nested ones included."""
    if not hasattr(estimator, "get_params"):
        return []
    keys = sorted(estimator.get_params())
    return [k for k in keys if k == "random_state" or k.endswith("__random_state")]


def with_seed(estimator: Any, seed: int | None) -> Any:
    """Clone an estimator and set every `random_state`, unless `seed` is None."""
    copy = clone(estimator)
    keys = _seed_keys(copy) if seed is not None else []
    return copy.set_params(**dict.fromkeys(keys, seed)) if keys else copy


def fill_seeds(estimator: Any, seed: int) -> None:
    """Set every `random_state` that is None, in place."""
    params = estimator.get_params()
    missing = [key for key in _seed_keys(estimator) if params[key] is None]
    if missing:
        estimator.set_params(**dict.fromkeys(missing, seed))


def open_all(
    estimators: Sequence[Any], loss: Loss | None, device: Any
) -> list[OpenNetwork]:
    """Open trained estimators and move their networks to a device."""
    opened = [open_network(estimator, loss=loss) for estimator in estimators]
    if device is None:
        return opened
    checked = check_device(device)
    return [replace(o, network=o.network.to(checked)) for o in opened]


def inputs_of(
    opened: Sequence[OpenNetwork], X: Any, device: Any, *, check: bool = True
) -> list[Tensor]:
    """Return the preprocessed inputs of each network, see `OpenNetwork.inputs`."""
    return [each.inputs(X, check=check).to(device or "cpu") for each in opened]


def count_outputs(opened: OpenNetwork, inputs: Tensor) -> int:
    """Return the number of raw outputs, from a forward pass on one sample."""
    return opened.network(opened.network.theta, inputs[:1]).shape[1]


def distinct_rows(X: Any) -> NDArray[np.intp]:
    """Number the distinct samples; equal samples have the same number.

    The numbers follow the order of values. They do not depend on the order or
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
    rows = np.asarray(X)
    rows = rows.reshape(len(rows), -1)
    if rows.dtype.kind == "c":
        raise ValueError(
            "X must have real numbers, got complex ones. Complex data not supported; "
            "keep real and imaginary parts as two columns."
        )
    if rows.dtype.kind not in "biuf":
        # Data frames with nullable or mixed dtypes become object arrays.
        rows = np.column_stack([_sortable(column) for column in rows.T])
    return np.unique(rows, axis=0, return_inverse=True)[1].reshape(-1)


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


def fold_numbers(
    X: Any,
    labels: NDArray[np.intp] | None,
    weight: NDArray[np.float64],
    n_folds: int,
    seed: int,
    advice: str = CHOOSE_ALPHA,
    groups: Any = None,
    exact: bool = False,
) -> NDArray[np.intp]:
    """Return the fold that holds out each sample, -1 if it is always trained on.

    Duplicate samples are in one fold, so that weights act like repetitions, and so are
    the samples of a group. With `labels` the folds are stratified by the label of the
    largest weight in each set of duplicates or group. A sample is not held out if a
    class would then be missing from the training samples.

    Raises
    ------
    NoFolds
        If no sample can be held out.
    ValueError
        If `exact` and there are fewer distinct samples or groups than `n_folds`.
    """
    unit = distinct_rows(X)
    noun = "distinct rows"
    if groups is not None:
        unit, noun = _joined(unit, groups), "groups"
    n_units = int(unit.max()) + 1
    if n_units < 2:
        raise NoFolds(
            f"X must have at least 2 {noun} for cross-fitting, got {n_units} "
            f"(n_samples={len(unit)}, 1 sample is too few). {advice}"
        )
    fold = np.full(n_units, -1, dtype=np.intp)
    free = np.arange(n_units)
    label = np.zeros(n_units, dtype=np.intp)
    if labels is not None:
        votes = np.zeros((n_units, int(labels.max()) + 1))
        np.add.at(votes, (unit, labels), weight)
        label = votes.argmax(1)
        free = np.flatnonzero(np.bincount(label)[label] > 1)
        if len(free) < 2:
            raise NoFolds(
                f"X must have at least 2 {noun} of one class for cross-fitting, got "
                f"{n_units} {noun} of {len(np.unique(label))} classes. {advice}"
            )
    if exact and n_folds > len(free):
        raise ValueError(
            f"cv must be at most the number of {noun} that can be held out, "
            f"{len(free)}, got {n_folds}. Use fewer folds, such as cv=5."
        )
    n_folds = min(n_folds, len(free))
    if labels is None:
        splitter = KFold(n_folds, shuffle=True, random_state=seed)
        for number, (_, test) in enumerate(splitter.split(fold)):
            fold[test] = number
        return fold[unit]
    shuffled = free[np.random.RandomState(seed).permutation(len(free))]
    shuffled = shuffled[np.argsort(label[shuffled], kind="stable")]
    fold[shuffled] = np.arange(len(shuffled)) % n_folds
    return _keep_classes(fold, votes > 0, noun, advice)[unit]


def _keep_classes(
    fold: NDArray[np.intp], present: NDArray[np.bool_], noun: str, advice: str
) -> NDArray[np.intp]:
    """Always train on the samples of a class that lies in a single fold."""
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


def _joined(distinct: NDArray[np.intp], groups: Any) -> NDArray[np.intp]:
    """Number the sets of samples that are equal or in the same group."""
    group = np.unique(column_or_1d(groups), return_inverse=True)[1]
    check_consistent_length(distinct, group)
    n_rows = int(distinct.max()) + 1
    size = n_rows + int(group.max()) + 1
    links = sp.coo_array(
        (np.ones(len(group)), (distinct, n_rows + group)), shape=(size, size)
    )
    # Numbered by the first distinct sample: independent of order and repetition.
    component = connected_components(links, directed=False)[1][:n_rows]
    _, first, inverse = np.unique(component, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse][distinct]


def cross_fitting_parts(
    n_folds: int,
    X: Any,
    labels: NDArray[np.intp] | None,
    weight: NDArray[np.float64],
    seed: int,
    advice: str = CHOOSE_ALPHA,
    groups: Any = None,
    exact: bool = False,
) -> Parts:
    """Return the (train, held out) indices of the folds of `fold_numbers`."""
    fold = fold_numbers(X, labels, weight, n_folds, seed, advice, groups, exact)
    return [
        (np.flatnonzero(fold != number), np.flatnonzero(fold == number))
        for number in range(int(fold.max()) + 1)
    ]


def parts_among(
    rows: NDArray[np.intp],
    splitter: Any,
    X: Any,
    y: Any,
    *,
    classifier: bool,
    groups: Any = None,
) -> Parts:
    """Return a splitter's (train, held out) samples as positions in `rows`.

    Raises
    ------
    ValueError
        If no sample of `rows` is held out, or a fold has no training samples.
    """
    position = np.full(_num_samples(X), -1, dtype=np.intp)
    position[rows] = np.arange(len(rows))
    try:
        splits = check_cv(splitter, y, classifier=classifier).split(X, y, groups)
        splits = [(position[train], position[test]) for train, test in splits]
    except (TypeError, IndexError) as error:
        raise ValueError(
            "cv must be an int, a splitter, or an iterable of pairs (train, test) of "
            f"row numbers, got {splitter!r}."
        ) from error
    parts = [(train[train >= 0], test[test >= 0]) for train, test in splits]
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
