"""From the user's request to trained and opened networks."""

import copy
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import is_classifier
from sklearn.exceptions import NotFittedError

from sklearn_pgb._estimator import (
    AUTO_FOLDS,
    Parts,
    Seeds,
    count_outputs,
    final_estimator,
    inputs_of,
    open_all,
    share_target_transformation,
    train_networks,
)
from sklearn_pgb._losses import (
    MODULE_LOSSES,
    LogisticLoss,
)
from sklearn_pgb._networks import open_network
from sklearn_pgb._refit._data import TrainingData, taken_as_is
from sklearn_pgb._refit._fitting import TrainedNetworks

if TYPE_CHECKING:
    from sklearn_pgb._refit._gradient_basis_refit import GradientBasisRefit


def check_request(model: "GradientBasisRefit") -> None:
    """Refuse what can't work before anything is trained."""
    estimator = model.estimator
    is_module = isinstance(estimator, torch.nn.Module)
    if is_module == (model.loss == "auto"):
        raise ValueError(
            "loss must be 'squared_error', 'log_loss' or 'poisson' for a torch module "
            "and 'auto' for an estimator, which knows the loss it is trained with, got "
            f"loss={model.loss!r} with {type(estimator).__name__}."
        )
    try:
        open_network(estimator, loss=MODULE_LOSSES[model.loss])
    except NotFittedError:
        if taken_as_is(estimator):
            raise
    if taken_as_is(estimator) and (model.n_networks > 1 or model.cv is not None):
        raise ValueError(
            "n_networks must be 1 and cv None for a network that is taken as it is (a "
            f"FrozenEstimator or a module), got n_networks={model.n_networks} and "
            f"cv={model.cv!r}. Pass the estimator unfrozen to train several."
        )
    if isinstance(model.alpha, str):
        if model.alpha == "evidence" and not _trains_squared_loss(model):
            raise ValueError(
                "alpha='evidence' needs the squared loss, got another one. Use 'auto' "
                "or 'loo'."
            )
    elif np.ndim(model.alpha) > 0:
        _check_candidates(model.alpha)


def _check_candidates(alphas: Any) -> None:
    values = np.asarray(alphas, dtype=float)
    usable = values.ndim == 1 and len(values) and np.isfinite(values).all()
    if not usable or values.min() <= 0:
        raise ValueError(
            "alpha must be a number >= 0 or a 1-d array of positive candidates, got "
            f"{alphas!r}. Fit with alpha=0 on its own."
        )


def choose_cv(model: "GradientBasisRefit") -> Any:
    """What to cross-fit with, None for networks that see all rows."""
    if isinstance(model.cv, np.integer):
        return int(model.cv)
    if model.cv is not None or taken_as_is(model.estimator):
        return model.cv
    names_a_rule = isinstance(model.alpha, str) and model.alpha != "auto"
    is_number = np.ndim(model.alpha) == 0 and not isinstance(model.alpha, str)
    if names_a_rule or is_number or _trains_squared_loss(model):
        return None
    return AUTO_FOLDS


def train(
    model: "GradientBasisRefit", data: TrainingData, seeds: Seeds
) -> TrainedNetworks:
    """Train the networks that the request asks for, and open them."""
    folds: Parts | None = None
    if taken_as_is(model.estimator):
        estimators = [_on_cpu(model.estimator)]
    else:
        cv = data.cv
        if cv is not None:
            folds = data.parts(cv, seeds.folds) if isinstance(cv, int) else cv
            _check_classes(data.labels, folds)
        seen = [None] if folds is None else [train for train, _ in folds]
        # Every fold has the same number of networks, and at least one.
        per_fold = math.ceil(model.n_networks / len(seen))
        parts = [rows for rows in seen for _ in range(per_fold)]
        estimator = model.estimator
        if len(parts) > 1:
            estimator = share_target_transformation(estimator, data.y)
        estimators = train_networks(
            estimator,
            seeds.of_networks(len(parts)),
            parts,
            data.X,
            data.y,
            data.params,
            model.n_jobs,
            model.memory,
        )
    loss = model.loss
    opened = open_all(estimators, MODULE_LOSSES[loss], model.device)
    inputs = inputs_of(opened, data.X, model.device)
    n_outputs = count_outputs(opened[0], inputs[0])
    # The log loss of a module with one output, or of several labels, is logistic.
    if loss == "log_loss" and (n_outputs == 1 or np.ndim(data.y) == 2):
        loss = "binary_log_loss"
        opened = [replace(network, loss=LogisticLoss()) for network in opened]
    return TrainedNetworks(estimators, opened, inputs, folds, loss, n_outputs)


def _trains_squared_loss(model: "GradientBasisRefit") -> bool:
    if isinstance(model.estimator, torch.nn.Module):
        return model.loss == "squared_error"
    loss = getattr(final_estimator(model.estimator), "loss", "squared_error")
    return not is_classifier(model.estimator) and loss == "squared_error"


def _check_classes(labels: NDArray[np.intp] | None, folds: Parts) -> None:
    """Every fold's networks must know every class."""
    if labels is None:
        return
    for seen, _ in folds:
        missing = np.setdiff1d(labels, labels[seen])
        if len(missing):
            raise ValueError(
                "cv must leave every class in every training part, but one of them "
                f"lacks {len(missing)} of {labels.max() + 1} classes. Pass an int, "
                "which draws such folds."
            )


def _on_cpu(estimator: Any) -> Any:
    """A copy of a module that loads anywhere; a frozen estimator as it is."""
    if isinstance(estimator, torch.nn.Module):
        return copy.deepcopy(estimator).to("cpu")
    return estimator
