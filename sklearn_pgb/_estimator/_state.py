"""State of fitted estimators: parameters of their fits, and versions in pickles."""

import warnings
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from sklearn_pgb._version import __version__

KEY = "_sklearn_pgb_version"


def as_fitted(estimator: Any, name: str) -> Any:
    """Return a parameter's value during `fit` if `fit` stored it in `_as_fitted`."""
    kept = vars(estimator).get("_as_fitted", {})
    return kept[name] if name in kept else getattr(estimator, name)


def fitted_parameters(estimator: Any) -> dict[str, Any]:
    """Return all parameters; those that `fit` stored have their value during `fit`."""
    kept = vars(estimator).get("_as_fitted", {})
    kind: Any = type(estimator)
    names = _parameter_names(kind)
    return {name: getattr(estimator, name) for name in names} | kept


@cache
def _parameter_names(kind: Any) -> tuple[str, ...]:
    """Names of the parameters, whose signature takes long to read."""
    return tuple(kind._get_param_names())


class Prepared:
    """Values that predictions need, computed by the first prediction.

    Each part has a name, and is computed again if one of its sources is replaced.
    Copies and pickles of an estimator start without any.
    """

    def __init__(self) -> None:
        self._parts: dict[str, tuple[list[Any], Any]] = {}

    def get(self, name: str, sources: Sequence[Any], prepare: Callable[[], Any]) -> Any:
        """Return the result of `prepare`, which reads the sources."""
        known, value = self._parts.get(name, ([], None))
        if len(known) != len(sources) or any(
            a is not b for a, b in zip(known, sources, strict=True)
        ):
            value = prepare()
            self._parts[name] = list(sources), value
        return value


class VersionedState:
    """Mixin that stores the version of this package in pickles.

    The attribute `_prepared`, if `fit` creates it, is empty in pickles.
    """

    def __getstate__(self) -> dict[str, Any]:
        """Return the attributes and the version."""
        state: Any = super().__getstate__()
        empty = {"_prepared": None} if "_prepared" in state else {}
        return {**state, **empty, KEY: __version__}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the attributes; warn if another version wrote them."""
        state = dict(state)
        version = state.pop(KEY, "before 0.2")
        if version != __version__:
            warnings.warn(
                f"{type(self).__name__} was saved by sklearn_pgb {version} and is read "
                f"by {__version__}, which may give other results. Fit it again.",
                UserWarning,
                stacklevel=2,
            )
        if "_prepared" in state:
            state["_prepared"] = Prepared()
        parent: Any = super()
        parent.__setstate__(state)
