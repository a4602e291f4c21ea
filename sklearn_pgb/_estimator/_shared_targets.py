"""Give all networks the same transformation of targets."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer

from sklearn_pgb._budget import SPREAD_ROWS
from sklearn_pgb._models._opened import OpenNetwork
from sklearn_pgb._models._protected import transform_protected
from sklearn_pgb._operators._blocks import spread_rows
from sklearn_pgb._sklearn import BaseSearchCV


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
    some = y[spread_rows(len(y), SPREAD_ROWS)]
    first, *others = (each.targets(some) for each in opened)
    if not all(torch.equal(each, first) for each in others):
        raise ValueError(_varied_targets("that chose different transformers"))


def _varied_targets(search: str) -> str:
    return (
        "estimator must transform targets in the same way for every network, got a "
        f"search {search}. Put the search into the TransformedTargetRegressor, and "
        "keep its transformer fixed."
    )
