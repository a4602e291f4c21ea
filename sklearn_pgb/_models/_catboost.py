"""Open the estimators of CatBoost, without importing it."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from sklearn_pgb._models._booster_losses import booster_loss
from sklearn_pgb._models._opened import OpenNetwork
from sklearn_pgb._models._opened_leaves import open_boosted


def open_catboost(estimator: Any) -> OpenNetwork:
    """Open a fitted estimator of CatBoost."""
    loss = booster_loss(estimator, estimator.get_all_params()["loss_function"])
    counts = [int(count) for count in estimator.get_tree_leaf_counts()]
    scale, start = estimator.get_scale_and_bias()
    bias = np.atleast_1d(np.array(start, dtype=float))
    values = np.asarray(estimator.get_leaf_values()).reshape(sum(counts), len(bias))

    def encode(X: Any) -> Tensor:
        leaves = np.asarray(estimator.calc_leaf_indexes(X))
        return torch.from_numpy(leaves.reshape(-1, len(counts)).astype(np.int32))

    return open_boosted(estimator, loss, counts, values, bias, scale, encode)
