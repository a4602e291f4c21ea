"""From the user's request to trained and opened networks."""

import copy
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import is_classifier
from torch import Tensor

from sklearn_pgb._estimator import (
    AUTO_FOLDS,
    NoFolds,
    Parts,
    Seeds,
    count_outputs,
    distinct_rows,
    final_estimator,
    inputs_of,
    is_option,
    open_all,
    share_target_transformation,
    train_networks,
)
from sklearn_pgb._estimator._alpha import Effort
from sklearn_pgb._losses import (
    MODULE_LOSSES,
    LogisticLoss,
)
from sklearn_pgb._networks import check_can_open, open_network
from sklearn_pgb._refit._data import TrainingData, encode_targets, taken_as_is
from sklearn_pgb._refit._fitting import Refit, TrainedNetworks, refit
from sklearn_pgb._refit._uncertainty import uncertainty
from sklearn_pgb._threads import threads_for_solve

if TYPE_CHECKING:
    from sklearn_pgb._refit._gradient_basis_refit import GradientBasisRefit


def check_request(model: "GradientBasisRefit", has_validation: bool) -> None:
    """Refuse what can't work before anything is trained."""
    estimator = model.estimator
    is_module = isinstance(estimator, torch.nn.Module)
    if is_module == (model.loss == "auto"):
        raise ValueError(
            "loss must be 'squared_error', 'log_loss' or 'poisson' for a torch module "
            "and 'auto' for an estimator, which knows the loss it is trained with, got "
            f"loss={model.loss!r} with {type(estimator).__name__}."
        )
    check_can_open(estimator)
    frozen = taken_as_is(estimator)
    if frozen:
        open_network(estimator, loss=MODULE_LOSSES[model.loss])
    own_folds = model.cv is not None and not isinstance(model.cv, str)
    if frozen and (model.n_networks > 1 or own_folds):
        raise ValueError(
            "n_networks must be 1 and cv 'auto' or None for a network that is taken as "
            "it is (a FrozenEstimator or a module), got "
            f"n_networks={model.n_networks} and cv={model.cv!r}. Pass the estimator "
            "unfrozen to train several, or X_val and y_val to choose alpha by."
        )
    if has_validation and own_folds:
        raise ValueError(
            "cv must be 'auto' or None if X_val and y_val are given, which take the "
            f"place of folds, got cv={model.cv!r}."
        )
    if isinstance(model.cv, int | np.integer) and model.cv < 2:
        raise ValueError(
            f"cv must be at least 2 folds, got {model.cv!r}. Use cv=5, or cv=None for "
            "no folds."
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
    try:
        values = np.asarray(alphas, dtype=float)
    except (TypeError, ValueError):
        values = np.empty(0)
    usable = values.ndim == 1 and len(values) and np.isfinite(values).all()
    if not usable or values.min() <= 0:
        raise ValueError(
            "alpha must be a number >= 0 or a 1-d array of positive candidates, got "
            f"{alphas!r}. Fit with alpha=0 on its own."
        )


def choose_cv(model: "GradientBasisRefit", has_validation: bool) -> Any:
    """What to cross-fit with, None for networks that are trained on all samples."""
    if isinstance(model.cv, np.integer):
        return int(model.cv)
    if not isinstance(model.cv, str):
        return model.cv
    names_a_rule = isinstance(model.alpha, str) and model.alpha != "auto"
    is_number = np.ndim(model.alpha) == 0 and not isinstance(model.alpha, str)
    if has_validation or taken_as_is(model.estimator) or names_a_rule or is_number:
        return None
    return "auto"


def warn_of_optimism(model: "GradientBasisRefit", has_validation: bool) -> None:
    """Warn if alpha is chosen on samples that a network may have memorized."""
    chosen = isinstance(model.alpha, str) and model.alpha == "auto"
    if taken_as_is(model.estimator) and chosen and not has_validation:
        warnings.warn(
            "The network is taken as it is, so alpha is chosen on samples that it may "
            "have been trained on, which is optimistic. Pass X_val and y_val to fit, "
            "or name the way to choose, such as alpha='loo'.",
            UserWarning,
            stacklevel=2,
        )


def train(
    model: "GradientBasisRefit",
    data: TrainingData,
    seeds: Seeds,
    contexts: Callable[[int], Sequence[Any]] | None = None,
) -> TrainedNetworks:
    """Train the networks that the request asks for, and open them.

    `contexts` gives the callback contexts of a number of trainings.
    """
    folds: Parts | None = None
    frozen = taken_as_is(model.estimator)
    if frozen:
        estimators = [_on_cpu(model.estimator)]
    else:
        folds = _draw_folds(data, seeds.folds)
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
            caller=model,
            contexts=None if contexts is None else contexts(len(parts)),
        )
    loss = model.loss
    opened = open_all(estimators, MODULE_LOSSES[loss], model.device)
    inputs = inputs_of(opened, data.X, model.device)
    n_outputs = count_outputs(opened[0], inputs[0])
    # The log loss of a module with one output, or of several labels, is logistic.
    if loss == "log_loss" and (n_outputs == 1 or np.ndim(data.y) == 2):
        loss = "binary_log_loss"
        opened = [replace(network, loss=LogisticLoss()) for network in opened]
    validation = None
    if data.validation is not None:
        X_val, y_val, weight = data.validation
        targets = encode_targets(opened[0], n_outputs, y_val, like=data.y)
        place = inputs[0].device
        validation = (
            inputs_of(opened, X_val, model.device),
            targets.to(place),
            torch.tensor(weight, device=place),
        )
    return TrainedNetworks(
        estimators, opened, inputs, folds, loss, n_outputs, frozen, validation
    )


def train_and_refit(
    model: "GradientBasisRefit",
    data: TrainingData,
    seeds: Seeds,
    effort: Effort,
    contexts: Callable[[int], Sequence[Any]],
) -> tuple[TrainedNetworks, Refit, dict[str, Any] | None]:
    """Networks, their refit and what its predictive distribution needs."""
    trained = train(model, data, seeds, contexts)

    def convex_parts() -> Parts:
        return data.parts(AUTO_FOLDS, seeds.folds)

    n_coef = sum(opened.network.n_params for opened in trained.opened)
    n_rows = trained.n_outputs * len(trained.inputs[0])
    place = trained.inputs[0].device
    y = encode_targets(trained.opened[0], trained.n_outputs, data.y).to(place)
    weight = torch.tensor(data.weight, device=place)
    with threads_for_solve(n_rows, n_coef):
        warn_of_useless_networks(trained, y, weight)
        result = refit(
            trained,
            y,
            weight,
            torch.from_numpy(distinct_rows(data.X)).to(place),
            alpha=model.alpha,
            center=model.center,
            solver=model.solver,
            effort=effort,
            convex_parts=convex_parts,
            with_leverages=model.distribution,
        )
        noise = None
        if model.distribution:
            total = float(data.weight.sum())
            noise = uncertainty(result, trained.inputs[0], total, convex_parts, effort)
    return trained, result, noise


def warn_of_useless_networks(
    trained: TrainedNetworks, y: Tensor, weight: Tensor
) -> None:
    """Warn if a network's training loss ends above that of the best constant."""
    for number, (opened, X) in enumerate(
        zip(trained.opened, trained.inputs, strict=True)
    ):
        rows = torch.arange(len(y), device=y.device)
        if trained.folds is not None:
            width = len(trained.opened) // len(trained.folds)
            rows = torch.as_tensor(trained.folds[number // width][0], device=y.device)
        normalized = weight[rows] / weight[rows].sum()
        constant = opened.loss.pooled_minimum(
            y[rows], normalized, torch.zeros_like(rows), 1
        )
        raw = opened.network(opened.network.theta, X[rows])
        loss = float(normalized @ opened.loss.value(y[rows], raw))
        best = float(constant.value.sum())
        silent = float(normalized @ opened.loss.value(y[rows], torch.zeros_like(raw)))
        if not loss <= best + 1e-6 * max(abs(best), abs(silent)):
            warnings.warn(
                f"The training loss of network {number} is {loss:.3g}, above that of "
                f"the best constant, {best:.3g}. Scale its inputs and targets, for "
                "example with a StandardScaler, or train it longer.",
                UserWarning,
                stacklevel=2,
            )
            return


def _trains_squared_loss(model: "GradientBasisRefit") -> bool:
    if isinstance(model.estimator, torch.nn.Module):
        return model.loss == "squared_error"
    loss = getattr(final_estimator(model.estimator), "loss", "squared_error")
    return not is_classifier(model.estimator) and is_option(loss, "squared_error")


def _draw_folds(data: TrainingData, seed: int) -> Parts | None:
    """Folds to cross-fit with; None if none are asked for.

    The default takes all samples where no folds can be drawn, as for constant inputs.
    """
    if data.cv is None:
        return None
    if isinstance(data.cv, int):
        try:
            return data.parts(data.cv, seed, data.exact)
        except NoFolds:
            if data.exact or data.groups is not None:
                raise
            return None
    _check_classes(data.labels, data.cv)
    return data.cv


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
