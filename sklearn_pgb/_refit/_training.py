"""From the user's request to trained and opened networks."""

import copy
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import is_classifier
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.utils.metadata_routing import (
    _raise_for_params,
    _routing_enabled,
    process_routing,
)

from sklearn_pgb._estimator import (
    AUTO_FOLDS,
    Seeds,
    cross_fitting_parts,
    final_estimator,
    inputs_of,
    open_all,
    share_target_transformation,
    train_networks,
    weight_parameter,
)
from sklearn_pgb._losses import (
    CrossEntropyLoss,
    LogisticLoss,
    Loss,
    PoissonLoss,
    SquaredLoss,
)
from sklearn_pgb._networks import open_network
from sklearn_pgb._refit._fitting import TrainedNetworks

if TYPE_CHECKING:
    from sklearn_pgb._refit._gradient_basis_refit import GradientBasisRefit

# What `loss` means for a module; estimators know their own ("auto").
MODULE_LOSSES: dict[str, Loss | None] = {
    "auto": None,
    "squared_error": SquaredLoss(),
    "poisson": PoissonLoss(),
    "log_loss": CrossEntropyLoss(),
    "binary_log_loss": LogisticLoss(),
}


def taken_as_is(estimator: Any) -> bool:
    """Whether the network is not trained here."""
    return isinstance(estimator, FrozenEstimator | torch.nn.Module)


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
    if model.alpha == "evidence" if isinstance(model.alpha, str) else False:
        if not _trains_squared_loss(model):
            raise ValueError(
                "alpha='evidence' needs the squared loss, got another one. Use 'auto' "
                "or 'loo'."
            )


def fit_parameters(
    model: "GradientBasisRefit",
    sample_weight: Any,
    weight: NDArray[np.float64],
    fit_params: dict[str, Any],
) -> dict[str, Any]:
    """Keywords for the networks' `fit`, weights among them where there are any."""
    estimator = model.estimator
    if _routing_enabled() and not isinstance(estimator, torch.nn.Module):
        routed = process_routing(
            model, "fit", sample_weight=sample_weight, **fit_params
        ).estimator.fit
        return {key: value for key, value in routed.items() if value is not None}
    _raise_for_params(fit_params, model, "fit")
    weighted = sample_weight is not None or model.class_weight is not None
    if not weighted or taken_as_is(estimator):
        return {}
    key = weight_parameter(estimator)
    if key is None:
        name = type(final_estimator(estimator)).__name__
        raise ValueError(
            "sample_weight and class_weight must be None for a network whose fit takes "
            f"no sample_weight, got weights for {name}. Train it yourself and pass it "
            "in a FrozenEstimator to weight the refit alone."
        )
    return {key: weight}


def train(
    model: "GradientBasisRefit",
    X: Any,
    y: Any,
    labels: NDArray[np.intp] | None,
    weight: NDArray[np.float64],
    params: dict[str, Any],
    seeds: Seeds,
) -> TrainedNetworks:
    """Train the networks that the request asks for, and open them."""
    folds = None
    if taken_as_is(model.estimator):
        estimators = [_on_cpu(model.estimator)]
    else:
        estimator, cv = model.estimator, _folds(model)
        if cv is not None:
            estimator = share_target_transformation(estimator, y)
            folds = cross_fitting_parts(cv, X, y, labels, weight, seeds.folds)
            _check_classes(labels, folds)
        parts = [None] if folds is None else [seen for seen, _ in folds]
        parts = [part for part in parts for _ in range(model.n_networks)]
        estimators = train_networks(
            estimator,
            seeds.of_networks(len(parts)),
            parts,
            X,
            y,
            params,
            model.n_jobs,
        )
    loss = model.loss
    if loss == "log_loss" and _is_binary(estimators[0], X, y, model.device):
        loss = "binary_log_loss"
    opened = open_all(estimators, MODULE_LOSSES[loss], model.device)
    return TrainedNetworks(
        estimators, opened, inputs_of(opened, X, model.device), folds, loss
    )


def _folds(model: "GradientBasisRefit") -> Any:
    """What to cross-fit with, None for networks that see all rows."""
    if model.cv is not None:
        return model.cv
    names_a_rule = isinstance(model.alpha, str) and model.alpha != "auto"
    is_number = np.ndim(model.alpha) == 0 and not isinstance(model.alpha, str)
    if names_a_rule or is_number or _trains_squared_loss(model):
        return None
    return AUTO_FOLDS


def _trains_squared_loss(model: "GradientBasisRefit") -> bool:
    if isinstance(model.estimator, torch.nn.Module):
        return model.loss == "squared_error"
    loss = getattr(final_estimator(model.estimator), "loss", "squared_error")
    return not is_classifier(model.estimator) and loss == "squared_error"


def _check_classes(labels: NDArray[np.intp] | None, folds: Any) -> None:
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


def _is_binary(module: Any, X: Any, y: Any, device: Any) -> bool:
    """Whether the log loss of a module is logistic: one output, or several labels."""
    if np.ndim(y) == 2:
        return True
    opened = open_all([module], CrossEntropyLoss(), device)
    inputs = inputs_of(opened, X, device)[0][:1]
    network = opened[0].network
    return network(network.theta, inputs).shape[1] == 1
