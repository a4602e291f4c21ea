"""Open the estimators of LightGBM, without importing it."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from sklearn_pgb._models._booster_losses import booster_loss
from sklearn_pgb._models._opened import OpenNetwork
from sklearn_pgb._models._opened_leaves import open_boosted


def open_lightgbm(estimator: Any) -> OpenNetwork:
    """Open a fitted estimator of LightGBM."""
    booster = estimator.booster_
    description = booster.dump_model(num_iteration=estimator.best_iteration_ or None)
    loss = booster_loss(estimator, description["objective"].split()[0])
    counts = [tree["num_leaves"] for tree in description["tree_info"]]
    values = [
        booster.get_leaf_output(tree, leaf)
        for tree, count in enumerate(counts)
        for leaf in range(count)
    ]

    def encode(X: Any) -> Tensor:
        leaves = np.asarray(estimator.predict(X, pred_leaf=True))
        return torch.from_numpy(leaves.reshape(-1, len(counts)).astype(np.int32))

    # The initial prediction is part of the first trees.
    bias = np.zeros(booster.num_model_per_iteration())
    return open_boosted(estimator, loss, counts, np.array(values), bias, 1.0, encode)
