"""Open scikit-learn's histogram-based gradient boosting."""

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklearn_pgb._losses._named import LOSSES
from sklearn_pgb._models._opened import OpenNetwork
from sklearn_pgb._models._opened_leaves import open_boosted
from sklearn_pgb._models._small_trees import SmallTrees
from sklearn_pgb._models._tree_lookup import Convert, HistogramTrees, TreeInputs


def open_histogram_boosting(estimator: Any) -> OpenNetwork:
    """Open fitted histogram-based gradient boosting."""
    predictors = [tree for iteration in estimator._predictors for tree in iteration]
    is_leaf = [tree.nodes["is_leaf"].astype(bool) for tree in predictors]
    # The node values contain the learning rate.
    values = [
        tree.nodes["value"][leaf]
        for tree, leaf in zip(predictors, is_leaf, strict=True)
    ]
    bias = np.asarray(estimator._baseline_prediction).reshape(-1)
    lookup = SmallTrees.of(predictors) or HistogramTrees(
        predictors, estimator._bin_mapper.make_known_categories_bitsets()
    )
    check = partial(estimator._preprocess_X, reset=False)
    encode = TreeInputs(lookup, check, estimator, _encoder(estimator), None)
    loss = LOSSES[estimator.loss].for_outputs(len(bias), independent=False)
    counts = [len(part) for part in values]
    joined = np.concatenate([np.empty(0), *values])
    return open_boosted(estimator, loss, counts, joined, bias, 1.0, encode)


def _encoder(estimator: Any) -> Convert | None:
    """The preprocessing of histogram boosting, for arrays that need no check.

    Numbers of categories come first. None if categories are no numbers.
    """
    if estimator._preprocessor is None:
        return np.ascontiguousarray
    categories = estimator._preprocessor.named_transformers_["encoder"].categories_
    if any(each.dtype.kind not in "biuf" for each in categories):
        return None
    known = [each[~np.isnan(each)] for each in categories]
    order = np.argsort(~estimator.is_categorical_, kind="stable")

    def encode(X: NDArray[np.float64]) -> NDArray[np.float64]:
        X = X[:, order]
        for column, each in zip(X.T, known, strict=False):
            number = np.searchsorted(each, column)
            is_known = np.append(each, np.nan)[number] == column
            # Unknown categories count as missing.
            column[:] = np.where(is_known, number, np.nan)
        return X

    return encode
