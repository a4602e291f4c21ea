"""Losses by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sklearn_pgb._losses._classification import (
    CrossEntropyLoss,
    LogisticLoss,
    SmoothedHingeLoss,
)
from sklearn_pgb._losses._loss import Loss
from sklearn_pgb._losses._regression import PoissonLoss, SquaredLoss

# Values of the parameter `loss` of estimators.
LOSSES: dict[str, Loss] = {
    "squared_error": SquaredLoss(),
    "poisson": PoissonLoss(),
    "log_loss": CrossEntropyLoss(),
    "smoothed_hinge": SmoothedHingeLoss(),
}

# Values of the parameter `loss`; "auto" is the training loss of an estimator.
MODULE_LOSSES: dict[str, Loss | None] = {
    "auto": None,
    "squared_error": SquaredLoss(),
    "poisson": PoissonLoss(),
    "log_loss": CrossEntropyLoss(),
    "binary_log_loss": LogisticLoss(),
}


def loss_with(params: Mapping[str, Any]) -> Loss:
    """Return the loss that an estimator's parameters name, with its parameters."""
    kind: Any = type(LOSSES[params["loss"]])
    names = {key: field for key, field in kind.parameters.items() if key in params}
    return kind(**{field: params[key] for key, field in names.items()})
