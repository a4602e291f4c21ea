"""Losses by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sklearn_pgb._losses._classification import (
    CrossEntropyLoss,
    LogisticLoss,
    SmoothedHingeLoss,
)
from sklearn_pgb._losses._loss import Loss
from sklearn_pgb._losses._regression import HuberLoss, PoissonLoss, SquaredLoss

LOSSES: dict[str, Loss] = {
    loss.name: loss
    for loss in (
        SquaredLoss(),
        PoissonLoss(),
        HuberLoss(),
        CrossEntropyLoss(),
        LogisticLoss(),
        SmoothedHingeLoss(),
    )
}

# Values of the parameter `loss` of regressors, of classifiers, and of models that
# predict means or probabilities. The log loss of classifiers becomes the binary one if
# there is one output.
REGRESSION = [name for name, loss in LOSSES.items() if not loss.is_classification]
CLASSIFICATION = [
    name
    for name, loss in LOSSES.items()
    if loss.is_classification and name != LogisticLoss.name
]
OF_MEANS = [
    name for name in (*REGRESSION, *CLASSIFICATION) if LOSSES[name].predicts_means
]

# Values of the parameter `loss` for modules; "auto" is an estimator's own loss.
MODULE_LOSSES: dict[str, Loss | None] = {
    "auto": None,
    **{name: loss for name, loss in LOSSES.items() if loss.predicts_means},
}

# Parameters of estimators that set fields of losses.
PARAMETERS = sorted({key for loss in LOSSES.values() for key in loss.parameters})


def find_loss(name: object) -> Loss | None:
    """Return the loss with this name, or None if there is none."""
    return LOSSES.get(name) if isinstance(name, str) else None


def loss_with(params: Mapping[str, Any]) -> Loss:
    """Return the loss ``params["loss"]`` with its fields, such as Huber's delta."""
    kind: Any = type(LOSSES[params["loss"]])
    names = {key: field for key, field in kind.parameters.items() if key in params}
    return kind(**{field: params[key] for key, field in names.items()})


def one_of(names: Iterable[str]) -> str:
    """Write names as the text "'a', 'b' or 'c'"."""
    *others, last = map(repr, names)
    return f"{', '.join(others)} or {last}" if others else last
