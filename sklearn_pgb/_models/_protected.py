"""Protect data from models that write into their inputs."""

from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from typing import Any

import numpy as np
from sklearn.preprocessing import FunctionTransformer


def guard_for(models: Iterable[Any]) -> Callable[[Any], Any]:
    """Return a function that makes data safe to pass to models, fitted or not.

    Parameters of scikit-learn such as ``copy=False`` let a model write into its inputs,
    which the user and other models still need. If one is set, an array becomes a
    read-only view, which these models copy at the step that would write. Transformers
    of other packages and of the user may write without such a parameter, and may fail
    for a read-only array, so they get a copy. Other models take the data as they are.
    """
    parts = [part for model in models for part in _parts(model)]
    if any(map(_may_write, parts)):
        return _copied
    return _read_only if any(map(_saves_copies, parts)) else _unchanged


def fit_protected(estimator: Any, X: Any, y: Any, **params: Any) -> Any:
    """Fit an estimator that may write into its inputs, and return it."""
    guard = guard_for([estimator])
    # Copies of targets are cheap, and their transformers may write into y.
    return estimator.fit(guard(X), guard(_copied(y)), **params)


def transform_protected(transformer: Any, X: Any) -> Any:
    """Transform X by a transformer that may write into its inputs."""
    return transformer.transform(guard_for([transformer])(X))


def _copied(data: Any) -> Any:
    return data.copy() if hasattr(data, "copy") else deepcopy(data)


def _parts(model: Any) -> Iterator[Any]:
    """Yield a model, all models among its parameters, and functions of steps."""
    for part in (model, *_parameters(model, deep=True).values()):
        if hasattr(part, "fit"):
            yield part
        if isinstance(part, FunctionTransformer) and part.func is not None:
            # The function is a method of another transformer if that is shared.
            yield getattr(part.func, "__self__", part.func)


def _parameters(model: Any, *, deep: bool = False) -> dict[str, Any]:
    if isinstance(model, type) or not hasattr(model, "get_params"):
        return {}
    params: dict[str, Any] = model.get_params(deep=deep)
    return params


def packages_of(estimator: Any) -> set[str]:
    """Names of the packages that define the estimator's class and its bases."""
    return {base.__module__.partition(".")[0] for base in type(estimator).__mro__}


def _may_write(part: Any) -> bool:
    if not hasattr(part, "fit"):
        return not isinstance(part, np.ufunc)
    # Of its class alone: a user's subclass of a known class may do anything.
    package = type(part).__module__.partition(".")[0]
    is_known = package in ("sklearn", "sklearn_pgb")
    # KMeans fails for a read-only array if its parameter is False.
    in_place = _parameters(part).get("copy_x", True) is False
    return in_place or (hasattr(type(part), "transform") and not is_known)


def _saves_copies(part: Any) -> bool:
    params = _parameters(part)
    return any(not params.get(name, True) for name in ("copy", "copy_X"))


def _unchanged(data: Any) -> Any:
    return data


def _read_only(data: Any) -> Any:
    if not isinstance(data, np.ndarray):
        # Scikit-learn makes the array of a frame writeable again.
        return _copied(data)
    view = data.view()
    view.flags.writeable = False
    return view
