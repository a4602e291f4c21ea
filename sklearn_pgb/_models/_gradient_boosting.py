"""Open scikit-learn's gradient boosting of exact trees."""

from typing import Any

import numpy as np
from sklearn.utils.validation import validate_data

from sklearn_pgb._losses._named import LOSSES
from sklearn_pgb._models._opened import OpenNetwork
from sklearn_pgb._models._opened_leaves import open_boosted
from sklearn_pgb._models._tree_lookup import (
    SINGLE_MAX,
    NodeTrees,
    TreeInputs,
    as_single,
)


def open_gradient_boosting(estimator: Any) -> OpenNetwork:
    """Open fitted gradient boosting of trees with exact thresholds."""
    trees = [tree.tree_ for tree in estimator.estimators_.reshape(-1)]
    lookup = NodeTrees(trees)
    values = np.concatenate([tree.value[:, 0, 0] for tree in trees])
    n_outputs = estimator.estimators_.shape[1]
    # The initial prediction is a constant, so any X of the right shape gives it.
    some = np.zeros((1, estimator.n_features_in_), dtype=np.float32)
    start = estimator._raw_predict_init(some)

    def check(X: Any) -> Any:
        # Unlike `apply`, `predict` takes lists and refuses missing values.
        X = validate_data(
            estimator, X, reset=False, dtype=np.float32, accept_sparse="csr"
        )
        return estimator.estimators_[0, 0]._validate_X_predict(X, check_input=True)

    loss = LOSSES[estimator.loss].for_outputs(n_outputs, independent=False)
    return open_boosted(
        estimator,
        loss,
        lookup.numbers.n_leaves,
        values[lookup.numbers.is_leaf],
        start.reshape(-1),
        estimator.learning_rate,
        TreeInputs(lookup, check, estimator, as_single, SINGLE_MAX),
    )
