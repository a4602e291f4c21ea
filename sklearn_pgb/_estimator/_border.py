"""Checks and conversion of data, resources and networks that users pass."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import wraps
from numbers import Integral, Real
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.validation import has_fit_parameter
from torch import Tensor

from sklearn_pgb._budget import MOST_JOBS, N_CANDIDATES
from sklearn_pgb._losses._loss import Loss
from sklearn_pgb._models._combinations import VOTES, unfitted_members
from sklearn_pgb._models._mapped_rows import MappedRows, StreamedInputs
from sklearn_pgb._models._open import nested, open_network
from sklearn_pgb._models._opened import OpenNetwork
from sklearn_pgb._models._protected import transform_protected
from sklearn_pgb._models._selected import select
from sklearn_pgb._operators._blocks import spread_rows
from sklearn_pgb._sklearn import BaseSearchCV

BYTES = {"B": 1, "KB": 2**10, "MB": 2**20, "GB": 2**30, "TB": 2**40}


# scikit-learn needs these attributes to end the callbacks of a fit, then removes them.
CALLBACK_ATTRIBUTES = ("_callback_fit_ctx", "_skl_callbacks_to_teardown")


def all_or_nothing(fit: Callable[..., Any]) -> Callable[..., Any]:
    """Restore the estimator's previous state if its `fit` fails."""

    @wraps(fit)
    def fit_or_restore(self: Any, *args: Any, **kwargs: Any) -> Any:
        before = dict(vars(self))
        try:
            return fit(self, *args, **kwargs)
        except BaseException:
            after = vars(self)
            running = {
                name: after[name] for name in CALLBACK_ATTRIBUTES if name in after
            }
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


def device_or_cpu(device: Any) -> torch.device | None:
    """Return a device if this machine has it; or warn, and return None, the CPU.

    Names that torch does not know are errors.
    """
    try:
        return None if device is None else check_device(device)
    except ValueError as failure:
        try:
            torch.device(device)
        except (RuntimeError, TypeError):
            raise failure from None
        warnings.warn(
            f"device={device!r} is not there, so predictions are computed on the CPU: "
            f"{failure}. Set device=None if this is intended.",
            UserWarning,
            stacklevel=2,
        )
        return None


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


def check_has_features(X: Any) -> None:
    """Raise an error if X is a mapping or empty, which no transformer takes."""
    if isinstance(X, Mapping) and not sp.issparse(X):
        raise TypeError(
            f"X must be an array, a frame or a list of samples, got a "
            f"{type(X).__name__}. Make a data frame of it."
        )
    shape: tuple[int, ...] = getattr(X, "shape", ())
    if len(shape) == 2 and shape[1] == 0:
        raise ValueError(
            f"X must have features, got 0 feature(s) (shape={shape}) while a minimum "
            "of 1 is required."
        )


def final_estimator(estimator: Any) -> Any:
    """Return the estimator inside pipelines, target transformers and searches."""
    *_, final = nested(estimator)
    return final


def fit_parameter(estimator: Any, name: str) -> str | None:
    """Return the keyword of `fit` that reaches the final estimator, if it takes one."""
    if isinstance(estimator, FrozenEstimator):
        # Its fit does nothing with any keyword.
        return name
    if isinstance(estimator, Pipeline):
        step, inner = estimator.steps[-1]
        key = fit_parameter(inner, name)
        return None if key is None else f"{step}__{key}"
    if isinstance(estimator, BaseSearchCV):
        if name == "groups":
            # They are for its folds, and no model gets them.
            return name if _takes_groups(estimator.cv) else None
        return fit_parameter(estimator.estimator, name)
    if isinstance(estimator, TransformedTargetRegressor):
        return fit_parameter(estimator.regressor, name)
    if isinstance(estimator, VOTES):
        # A vote passes weights on to its members, by this keyword and no other.
        keys = [fit_parameter(each, name) for each in unfitted_members(estimator)]
        return name if set(keys) <= {"sample_weight"} else None
    return name if has_fit_parameter(estimator, name) else None


def _takes_groups(cv: Any) -> bool:
    """Whether a splitter has folds of groups; others of scikit-learn would warn."""
    if not hasattr(cv, "split"):
        return False
    if not type(cv).__module__.startswith("sklearn."):
        return True
    return cv.get_metadata_routing().split.requests.get("groups") is True


def weight_keyword(estimator: Any, advice: str, given: str = "sample_weight") -> str:
    """Return the keyword of `fit` for sample weights, or raise if there is none.

    `given` names the parameters with weights.
    """
    key = fit_parameter(estimator, "sample_weight")
    if key is None:
        raise ValueError(
            f"{given} must be None for an estimator whose fit takes no "
            f"sample_weight, got weights for {_unweighted(estimator)}. {advice}"
        )
    return key


def _unweighted(estimator: Any) -> str:
    """Name the part of an estimator that gets no weights."""
    final = final_estimator(estimator)
    name = type(final).__name__
    for member in unfitted_members(final) if isinstance(final, VOTES) else ():
        key = fit_parameter(member, "sample_weight")
        if key is None:
            return f"{_unweighted(member)} in a {name}"
        if key != "sample_weight":
            return (
                f"the {type(member).__name__} in a {name}, which passes no weights to "
                "pipelines"
            )
    return name


def share_target_transformation(estimator: Any, y: Any) -> Any:
    """Fit the transformers of TransformedTargetRegressors once, for all networks.

    Otherwise networks trained on different samples would predict differently
    transformed targets, which cannot be averaged.
    """
    if isinstance(estimator, Pipeline):
        name, inner = estimator.steps[-1]
    elif isinstance(estimator, BaseSearchCV):
        name, inner = "estimator", estimator.estimator
    elif isinstance(estimator, TransformedTargetRegressor):
        return _share_transformer(estimator, np.asarray(y).reshape(len(y), -1))
    else:
        return estimator
    shared = share_target_transformation(inner, y)
    if shared is inner:
        return estimator
    if isinstance(estimator, BaseSearchCV):
        _check_candidates(estimator, shared)
    return clone(estimator).set_params(**{name: shared})


def _share_transformer(
    estimator: TransformedTargetRegressor, columns: NDArray[Any]
) -> Any:
    """Share the transformer of columns of targets, and those of the regressor."""
    transformer, params = estimator.transformer, {}
    if transformer is None:
        transformer = FunctionTransformer(estimator.func)
    else:
        # As TransformedTargetRegressor, which passes nothing else; it may write.
        transformer = clone(transformer).fit(columns.copy())
        # FrozenEstimator does not work here: its `fit` requires two arguments, and
        # TransformedTargetRegressor passes only y.
        params["transformer"] = FunctionTransformer(
            transformer.transform, transformer.inverse_transform, check_inverse=False
        )
    transformed = transform_protected(transformer, columns)
    shared = share_target_transformation(estimator.regressor, transformed)
    if shared is not estimator.regressor:
        params["regressor"] = shared
    return clone(estimator).set_params(**params) if params else estimator


def _check_candidates(search: BaseSearchCV, shared: Any) -> None:
    """Raise an error if a search varies parameters of a shared transformer."""
    grids = getattr(search, "param_grid", None)
    if grids is None:
        grids = getattr(search, "param_distributions", {})
    grids = [grids] if isinstance(grids, Mapping) else grids
    old, new = search.estimator.get_params(), shared.get_params()
    lost = old.keys() - new.keys()
    lost |= {
        name
        for name in old.keys() & new.keys()
        if name.split("__")[-1] == "transformer" and new[name] is not old[name]
    }
    varied = sorted({name for grid in grids for name in grid if name in lost})
    if varied:
        raise ValueError(_varied_targets(f"over {varied}"))


def check_same_targets(opened: Sequence[OpenNetwork], y: Any) -> None:
    """Raise an error unless all networks transform targets in the same way."""
    if not any(each.target_transformers for each in opened):
        return
    some = y[spread_rows(len(y), N_CANDIDATES)]
    first, *others = (each.targets(some) for each in opened)
    if not all(torch.equal(each, first) for each in others):
        raise ValueError(_varied_targets("that chose different transformers"))


def _varied_targets(search: str) -> str:
    return (
        "estimator must transform targets in the same way for every network, got a "
        f"search {search}. Put the search into the TransformedTargetRegressor, and "
        "keep its transformer fixed."
    )


def open_all(
    estimators: Sequence[Any], loss: Loss | None, device: Any, parameters: Any = "all"
) -> list[OpenNetwork]:
    """Open trained estimators, select parameters and move the networks to a device."""
    opened = [open_network(estimator, loss=loss) for estimator in estimators]
    opened = [replace(o, network=select(o.network, parameters)) for o in opened]
    if device is None:
        return opened
    checked = check_device(device)
    return [replace(o, network=o.network.to(checked)) for o in opened]


def inputs_of(
    opened: Sequence[OpenNetwork],
    X: Any,
    device: Any,
    *,
    check: bool = True,
) -> list[Any]:
    """Return the preprocessed inputs of each network, see `OpenNetwork.inputs`.

    Models that do not transform X share one tensor. Samples in a file
    become `StreamedInputs`.
    """
    if isinstance(X, MappedRows):
        streamed = [StreamedInputs(o, X, torch.device(device or "cpu")) for o in opened]
        if check:
            streamed[0].check()
        return streamed
    result: list[Tensor] = []
    unchanged: Tensor | None = None
    for each in opened:
        own = unchanged
        if own is None or each.maps_inputs:
            own = each.inputs(X, check=check).to(device or "cpu")
        if not each.maps_inputs:
            unchanged = own
        result.append(own)
    return result
