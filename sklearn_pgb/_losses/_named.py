"""Losses by name."""

from __future__ import annotations

from sklearn_pgb._losses._classification import CrossEntropyLoss, LogisticLoss
from sklearn_pgb._losses._loss import Loss
from sklearn_pgb._losses._regression import PoissonLoss, SquaredLoss

# Values of the parameter `loss`; "auto" is the training loss of an estimator.
MODULE_LOSSES: dict[str, Loss | None] = {
    "auto": None,
    "squared_error": SquaredLoss(),
    "poisson": PoissonLoss(),
    "log_loss": CrossEntropyLoss(),
    "binary_log_loss": LogisticLoss(),
}
