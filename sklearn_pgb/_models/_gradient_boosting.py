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


def open_gradient_boosting(model: Any) -> OpenNetwork:
    """Open fitted gradient boosting of trees with exact thresholds."""
    trees = [tree.tree_ for tree in model.estimators_.reshape(-1)]
    lookup = NodeTrees(trees)
    values = np.concatenate([tree.value[:, 0, 0] for tree in trees])
    n_outputs = model.estimators_.shape[1]
    # The initial prediction is a constant, so any X of the right shape gives it.
    start = model._raw_predict_init(np.zeros((1, model.n_features_in_), np.float32))

    def check(X: Any) -> Any:
        # Unlike `apply`, `predict` takes lists and refuses missing values.
        X = validate_data(model, X, reset=False, dtype=np.float32, accept_sparse="csr")
        return model.estimators_[0, 0]._validate_X_predict(X, check_input=True)

    loss = LOSSES[model.loss].for_outputs(n_outputs, independent=False)
    return open_boosted(
        model,
        loss,
        lookup.numbers.n_leaves,
        values[lookup.numbers.is_leaf],
        start.reshape(-1),
        model.learning_rate,
        TreeInputs(lookup, check, model, as_single, SINGLE_MAX),
    )
