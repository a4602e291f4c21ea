"""Checks and conversion of data and networks that users pass."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import wraps
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from sklearn_pgb._estimator._resources import check_device
from sklearn_pgb._losses._loss import Loss
from sklearn_pgb._models._mapped_rows import MappedRows, StreamedInputs
from sklearn_pgb._models._open import nested, open_network
from sklearn_pgb._models._opened import OpenNetwork
from sklearn_pgb._models._selected import select

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
