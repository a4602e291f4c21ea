"""Data, seeds, folds and networks on their way across the border."""

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
from sklearn.model_selection._search import BaseSearchCV
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import check_consistent_length, check_random_state, column_or_1d
from sklearn.utils._missing import is_pandas_na, is_scalar_nan
from sklearn.utils.validation import _num_samples, has_fit_parameter
from torch import Tensor

from sklearn_pgb._losses import Loss
from sklearn_pgb._models._open import OpenNetwork, nested, open_network

# Folds of cross-fitting where none are asked for.
AUTO_FOLDS = 5

# Advice if no folds can be drawn to choose alpha.
CHOOSE_ALPHA = "Give a number for alpha."

# (train, held out) rows of each fold.
Parts = list[tuple[NDArray[np.intp], NDArray[np.intp]]]

# Nobody has more cores.
MOST_JOBS = 2**20

BYTES = {"B": 1, "KB": 2**10, "MB": 2**20, "GB": 2**30, "TB": 2**40}


# What scikit-learn needs to end the callbacks of a fit, and removes itself.
OF_CALLBACKS = ("_callback_fit_ctx", "_skl_callbacks_to_teardown")


class NoFolds(ValueError):
    """No row can be held out."""


def all_or_nothing(fit: Callable[..., Any]) -> Callable[..., Any]:
    """Leave an estimator as it was before where its `fit` fails."""

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
    """A sparse matrix as an array, anything else as it is."""
    if not sp.issparse(X):
        return X
    rows: Any = X
    return rows.toarray()


def parse_memory(max_memory: Any) -> float:
    """Bytes from a number or a text such as "500MB"."""
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
    """The device of a parameter, None being the CPU, or an error."""
    try:
        place = torch.device("cpu" if device is None else device)
        # A tensor on the device "meta" has no numbers.
        torch.ones(1, device=place).item()
    except (RuntimeError, AssertionError, TypeError, ValueError) as failure:
        # torch asserts that it was compiled for a device.
        raise ValueError(
            f"device must be one that torch can use here, got {device!r}: {failure}"
        ) from failure
    return place


def jobs_for(n_tasks: int, n_jobs: Any) -> int | None:
    """`n_jobs` for joblib, at most one for each task, or an error."""
    if n_jobs is None:
        return None
    is_int = isinstance(n_jobs, Integral) and not isinstance(n_jobs, bool)
    if not is_int or n_jobs == 0 or abs(n_jobs) > MOST_JOBS:
        raise ValueError(
            f"n_jobs must be None or an int other than 0 between -{MOST_JOBS} and "
            f"{MOST_JOBS}, got {n_jobs!r}. -1 uses all cores."
        )
    # joblib starts as many processes as it is told to.
    return min(int(n_jobs), max(n_tasks, 1))


def aligned(X: Any) -> Any:
    """An array whose numbers stand at multiples of their size; other data as they are.

    Arrays that come over a wire may lie anywhere, and NumPy then multiplies them in
    another order: last digits would depend on where a fit runs.
    """
    return np.require(X, requirements="A") if type(X) is np.ndarray else X


def delegates_input(estimator: Any) -> bool:
    """Whether X goes through a Pipeline, which checks it in its own way."""
    return any(isinstance(each, Pipeline) for each in nested(estimator))


def check_passed_on(X: Any) -> None:
    """Refuse what no step of a Pipeline and no transformer takes as samples."""
    if isinstance(X, Mapping) and not sp.issparse(X):
        raise TypeError(
            f"X must be an array, a frame or a list of samples, got a "
            f"{type(X).__name__}. Make a data frame of it."
        )


def final_estimator(estimator: Any) -> Any:
    """The estimator inside of pipelines, target transformations, freezes, searches."""
    *_, final = nested(estimator)
    return final


def fit_parameter(estimator: Any, name: str) -> str | None:
    """The keyword by which `fit` hands a parameter to the final estimator's fit."""
    chain = list(nested(estimator))
    if not has_fit_parameter(chain[-1], name):
        return None
    names = [each.steps[-1][0] for each in chain if isinstance(each, Pipeline)]
    return "__".join([*names, name])


def share_target_transformation(estimator: Any, y: Any) -> Any:
    """Fit a TransformedTargetRegressor's transformer once, for all networks.

    Networks trained on different rows would otherwise predict in different spaces, and
    their mean would mean nothing.
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
    # A FrozenEstimator would be the natural wrapper, but TransformedTargetRegressor
    # calls `fit(y)`, which it does not take.
    fixed = FunctionTransformer(
        transformer.transform, transformer.inverse_transform, check_inverse=False
    )
    return clone(estimator).set_params(transformer=fixed)


@dataclass(frozen=True)
class Seeds:
    """Seeds of one fit, drawn before anything runs in parallel.

    Attributes
    ----------
    folds, sketch, networks : int
    keep_first : bool
        Whether the first network is trained exactly as given.
    """

    folds: int
    sketch: int
    networks: int
    keep_first: bool

    def of_networks(self, count: int) -> list[int | None]:
        """One seed per network; None stands for the estimator's own."""
        rng = np.random.RandomState(self.networks)
        seeds: list[int | None] = rng.randint(
            np.iinfo(np.int32).max, size=count
        ).tolist()
        return [None, *seeds[1:]] if self.keep_first else seeds


def draw_seeds(estimator: Any, random_state: Any) -> Seeds:
    """Seeds from `random_state`, or else from the estimator's own, if it has one."""
    source = random_state
    if source is None:
        own = (estimator.get_params()[key] for key in _seed_keys(estimator))
        numbers = (seed for seed in own if isinstance(seed, int | np.integer))
        source = next(numbers, None)
    rng = check_random_state(source)
    folds, sketch, networks = rng.randint(np.iinfo(np.int32).max, size=3).tolist()
    return Seeds(folds, sketch, networks, keep_first=random_state is None)


def _seed_keys(estimator: Any) -> list[str]:
    """Names of the parameters that seed an estimator and its parts."""
    if not hasattr(estimator, "get_params"):
        return []
    keys = sorted(estimator.get_params())
    return [k for k in keys if k == "random_state" or k.endswith("__random_state")]


def with_seed(estimator: Any, seed: int | None) -> Any:
    """A clone with every `random_state` set; None leaves them as they are."""
    copy = clone(estimator)
    keys = _seed_keys(copy) if seed is not None else []
    return copy.set_params(**dict.fromkeys(keys, seed)) if keys else copy


def fill_seeds(estimator: Any, seed: int) -> None:
    """Set every `random_state` that is None, in place; numbers stay."""
    params = estimator.get_params()
    missing = [key for key in _seed_keys(estimator) if params[key] is None]
    if missing:
        estimator.set_params(**dict.fromkeys(missing, seed))


def open_all(
    estimators: Sequence[Any], loss: Loss | None, device: Any
) -> list[OpenNetwork]:
    """Open trained estimators, their networks on a device."""
    opened = [open_network(estimator, loss=loss) for estimator in estimators]
    if device is None:
        return opened
    place = check_device(device)
    return [replace(o, network=o.network.to(place)) for o in opened]


def inputs_of(
    opened: Sequence[OpenNetwork], X: Any, device: Any, *, check: bool = True
) -> list[Tensor]:
    """X as each network sees it, on a device; see `OpenNetwork.inputs`."""
    return [each.inputs(X, check=check).to(device or "cpu") for each in opened]


def count_outputs(opened: OpenNetwork, inputs: Tensor) -> int:
    """Number of raw outputs, by a run on one row."""
    return opened.network(opened.network.theta, inputs[:1]).shape[1]


def distinct_rows(X: Any) -> NDArray[np.intp]:
    """Number of each row's group of identical rows, numbered in the order of values.

    The numbers depend on the set of rows only, not on their order or repetition, and
    on the values only, not on the container or dtype that holds them.
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
        # Byte strings of unequal length would lose trailing zeros; objects do not.
        return np.unique(np.array(keys, dtype=object), return_inverse=True)[1]
    rows = np.asarray(X)
    rows = rows.reshape(len(rows), -1)
    if rows.dtype.kind == "c":
        raise ValueError(
            "X must have real numbers, got complex ones. Complex data not supported; "
            "keep real and imaginary parts as two columns."
        )
    if rows.dtype.kind not in "biuf":
        # Data frames of nullable or mixed dtypes arrive as objects.
        rows = np.column_stack([_sortable(column) for column in rows.T])
    return np.unique(rows, axis=0, return_inverse=True)[1].reshape(-1)


def _sortable(column: NDArray[Any]) -> NDArray[Any]:
    """A column of objects as numbers that sort like its values."""
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
    cure: str = CHOOSE_ALPHA,
    groups: Any = None,
    exact: bool = False,
) -> NDArray[np.intp]:
    """The fold in which each row is held out, -1 for rows that always train.

    Folds are drawn over the distinct rows, so copies of a row stay together and weights
    act like repetitions; rows of one group stay together too. With `labels` the folds
    are stratified by the heaviest label of each distinct row or group. Rows are never
    held out if some class would then be missing from the training part.

    Raises
    ------
    NoFolds
        If no row can be held out.
    ValueError
        If, with `exact`, there are fewer distinct rows or groups than `n_folds`.
    """
    unit = distinct_rows(X)
    what = "distinct rows"
    if groups is not None:
        unit, what = _joined(unit, groups), "groups"
    n_units = int(unit.max()) + 1
    if n_units < 2:
        raise NoFolds(
            f"cross-fitting needs at least 2 {what}, got {n_units} "
            f"(n_samples={len(unit)}, 1 sample is too few). {cure}"
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
                f"cross-fitting needs a class with at least 2 {what}, got "
                f"{n_units} {what} of {len(np.unique(label))} classes. {cure}"
            )
    if exact and n_folds > len(free):
        raise ValueError(
            f"cv must be at most the number of {what} that can be held out, "
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
    return _keep_classes(fold, votes > 0, what, cure)[unit]


def _keep_classes(
    fold: NDArray[np.intp], present: NDArray[np.bool_], what: str, cure: str
) -> NDArray[np.intp]:
    """Never hold out a class whose units are all in one fold."""
    for has_class in present.T:
        folds = np.unique(fold[has_class])
        if len(folds) == 1:
            fold[has_class] = -1
    kept = np.unique(fold[fold >= 0])
    if not len(kept):
        raise NoFolds(
            f"cross-fitting needs every class in at least 2 {what} for some fold to "
            f"be held out, but each fold would lose one. {cure}"
        )
    numbers = np.full(fold.max() + 2, -1, dtype=np.intp)
    numbers[kept] = np.arange(len(kept))
    return numbers[fold]


def _joined(distinct: NDArray[np.intp], groups: Any) -> NDArray[np.intp]:
    """Number of each row's unit: rows that share a group or are equal are one unit."""
    group = np.unique(column_or_1d(groups), return_inverse=True)[1]
    check_consistent_length(distinct, group)
    n_rows = int(distinct.max()) + 1
    size = n_rows + int(group.max()) + 1
    links = sp.coo_array(
        (np.ones(len(group)), (distinct, n_rows + group)), shape=(size, size)
    )
    # Numbered by their first distinct row, so that order and repetition don't matter.
    component = connected_components(links, directed=False)[1][:n_rows]
    _, first, inverse = np.unique(component, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse][distinct]


def cross_fitting_parts(
    n_folds: int,
    X: Any,
    labels: NDArray[np.intp] | None,
    weight: NDArray[np.float64],
    seed: int,
    cure: str = CHOOSE_ALPHA,
    groups: Any = None,
    exact: bool = False,
) -> Parts:
    """(train, held out) rows of folds drawn as `fold_numbers` does."""
    fold = fold_numbers(X, labels, weight, n_folds, seed, cure, groups, exact)
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
    """(train, held out) rows of a splitter of all rows, as numbers among `rows`.

    Raises
    ------
    ValueError
        If none of `rows` is held out, or nothing is left to train on.
    """
    position = np.full(_num_samples(X), -1, dtype=np.intp)
    position[rows] = np.arange(len(rows))
    try:
        splits = check_cv(splitter, y, classifier=classifier).split(X, y, groups)
        places = [(position[train], position[test]) for train, test in splits]
    except (TypeError, IndexError) as error:
        raise ValueError(
            "cv must be an int, a splitter, or an iterable of pairs (train, test) of "
            f"row numbers, got {splitter!r}."
        ) from error
    parts = [(train[train >= 0], test[test >= 0]) for train, test in places]
    parts = [(train, test) for train, test in parts if len(test)]
    if not parts:
        raise ValueError(
            "cv must hold out some row of positive weight, but it holds out none. "
            "Pass an int, or a splitter that has held-out rows."
        )
    if not all(len(train) for train, _ in parts):
        raise ValueError(
            "cv must leave some row of positive weight to train on, but a fold has "
            "none. Pass an int, or a splitter whose folds all have training rows."
        )
    return parts
