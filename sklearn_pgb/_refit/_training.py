"""Train and open the networks of a refit."""

import copy
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from sklearn_pgb._bases._tangent import mean_raw
from sklearn_pgb._budget import AUTO_FOLDS, FEW_ROWS
from sklearn_pgb._convex._choice import Effort
from sklearn_pgb._estimator._border import inputs_of, open_all
from sklearn_pgb._estimator._folds import Parts
from sklearn_pgb._estimator._row_codes import row_codes
from sklearn_pgb._estimator._shared_targets import (
    check_same_targets,
    share_target_transformation,
)
from sklearn_pgb._estimator._trainer import train_networks
from sklearn_pgb._losses._named import MODULE_LOSSES
from sklearn_pgb._losses._regression import PoissonLoss
from sklearn_pgb._models._opened import OpenNetwork
from sklearn_pgb._models._selected import named, select
from sklearn_pgb._refit._data import TrainingData
from sklearn_pgb._refit._fitting import Refit, refit
from sklearn_pgb._refit._networks import TrainedNetworks
from sklearn_pgb._refit._request import RefitRequest
from sklearn_pgb._refit._uncertainty import Uncertainty, uncertainty
from sklearn_pgb._samples import Samples
from sklearn_pgb._seeds import Seeds
from sklearn_pgb._targets import LabelTargets
from sklearn_pgb._threads import threads_for, threads_for_solve


def train_and_open_all(
    owner: Any,
    request: RefitRequest,
    data: TrainingData,
    seeds: Seeds,
    contexts: Callable[[int], Sequence[Any]],
) -> TrainedNetworks:
    """Train and open the networks; `contexts(n)` creates n callback contexts."""
    folds: Parts | None = None
    if request.is_prefit:
        estimator = request.estimator
        if isinstance(estimator, torch.nn.Module):
            # A copy on the CPU, so that the pickled refit loads anywhere.
            estimator = copy.deepcopy(estimator).to("cpu")
        estimators = [estimator]
    else:
        folds = data.folds(seeds.folds)
        training_rows = [None] if folds is None else [rows for rows, _ in folds]
        # Every fold has the same number of networks, and at least one.
        per_fold = math.ceil(request.n_models / len(training_rows))
        parts = [rows for rows in training_rows for _ in range(per_fold)]
        estimator = request.estimator
        if len(parts) > 1:
            estimator = share_target_transformation(estimator, data.samples.y)
        estimators = train_networks(
            estimator,
            seeds.of_networks(len(parts)),
            parts,
            data.samples.X,
            data.samples.y,
            data.params,
            request.n_jobs,
            request.memory,
            caller=owner,
            contexts=contexts(len(parts)),
        )
    opened = open_all(estimators, MODULE_LOSSES[request.loss], request.device)
    check_same_targets(opened, data.samples.y)
    inputs = tuple(inputs_of(opened, data.samples.X, request.device))
    parameters = named(opened[0].network, request.parameters, inputs[0][:FEW_ROWS])
    opened = [replace(o, network=select(o.network, parameters)) for o in opened]
    n_outputs = opened[0].network.count_outputs(inputs[0])
    if request.classifies:
        opened = [with_classes(each, data.samples.y, n_outputs) for each in opened]
    device = inputs[0].device

    def encoded(inputs: tuple[Tensor, ...], samples: Samples) -> Samples:
        y = opened[0].targets(samples.y, n_outputs).to(device)
        weight, factor = torch.tensor(samples.weight, device=device), samples.factor
        if factor is not None:
            factor = torch.tensor(factor, device=device)
        return Samples(inputs, y, weight, factor=factor)

    validation = data.validation
    if validation is not None:
        validation_inputs = tuple(inputs_of(opened, validation.X, request.device))
        validation = encoded(validation_inputs, validation)
    samples = encoded(inputs, data.samples)
    return TrainedNetworks(
        estimators, opened, samples, folds, request.is_prefit, validation, parameters
    )


def with_classes(opened: OpenNetwork, y: NDArray[Any], n_outputs: int) -> OpenNetwork:
    """Give a module the classes of the training labels, and the loss for its outputs.

    Other classifiers know theirs.
    """
    if opened.kind is not None:
        return opened
    targets = LabelTargets.of(y, opened.loss)
    opened = replace(opened, loss=targets.loss_for(n_outputs))
    if targets.multilabel:
        return opened
    return replace(opened, classes=targets.classes, one_column=n_outputs == 1)


def train_and_refit(
    owner: Any,
    request: RefitRequest,
    data: TrainingData,
    seeds: Seeds,
    effort: Effort,
    contexts: Callable[[int], Sequence[Any]],
) -> tuple[TrainedNetworks, Refit, Uncertainty]:
    """Train the networks, refit them and fit the noise model if requested."""
    trained = train_and_open_all(owner, request, data, seeds, contexts)

    def convex_parts() -> Parts:
        return data.parts(AUTO_FOLDS, seeds.folds)

    # The bases of several networks are decomposed one by one.
    n_coef = max(opened.network.n_params for opened in trained.opened)
    samples = trained.samples
    trained.check_fits_memory(request.alpha, request.solver, effort.max_memory)
    codes = torch.from_numpy(row_codes(data.samples.X)).to(samples.y.device)
    # Most solutions for other losses take products with the basis.
    with (
        threads_for_solve(samples.y.numel(), n_coef)
        if trained.loss.quadratic
        else threads_for(float(len(samples.y)) * n_coef)
    ):
        raws = [
            mean_raw([opened.network], [X])
            for opened, X in zip(trained.opened, samples.X, strict=True)
        ]
        warn_of_useless_networks(trained, raws)
        average = torch.stack(raws).mean(0)
        result = refit(trained, average, codes, request, effort, convex_parts)
        noise: Uncertainty = None, None
        if request.distribution:
            total = samples.total
            noise = uncertainty(result, samples.X[0], total, convex_parts, effort)
            if not request.classifies and not isinstance(trained.loss, PoissonLoss):
                warn_of_constant_scale(result)
    return trained, result, noise


def warn_of_constant_scale(result: Refit) -> None:
    """Warn if the scale of the errors can't be a function of the inputs."""
    if result.choice.path is None or result.choice.alpha == 0:
        warnings.warn(
            "distribution=True has no effect: errors have the same scale for all "
            "samples, because a model of the scale needs the squared loss, alpha > 0 "
            "and an eigendecomposition of the basis. Leave solver at 'auto', raise "
            "max_memory, or use distribution=False.",
            UserWarning,
            stacklevel=2,
        )


def warn_of_useless_networks(trained: TrainedNetworks, raws: Sequence[Tensor]) -> None:
    """Warn if a network's training loss ends above that of the best constant."""
    y, weight = trained.samples.y, trained.samples.weight
    for number, (opened, raw) in enumerate(zip(trained.opened, raws, strict=True)):
        rows = torch.arange(len(y), device=y.device)
        if trained.folds is not None:
            per_fold = len(trained.opened) // len(trained.folds)
            rows = torch.as_tensor(
                trained.folds[number // per_fold][0], device=y.device
            )
        normalized = weight[rows] / weight[rows].sum()
        constant = opened.loss.pooled_minimum(
            y[rows], normalized, torch.zeros_like(rows), 1
        )
        raw = raw[rows]
        loss = float(normalized @ opened.loss.value(y[rows], raw))
        best = float(constant.value.sum())
        # Losses can be zero or negative, so the loss of the zero output sets the scale
        # too. `not <=` also catches a loss of nan.
        zero = float(normalized @ opened.loss.value(y[rows], torch.zeros_like(raw)))
        if not loss <= best + 1e-6 * max(abs(best), abs(zero)):
            warnings.warn(
                f"The training loss of network {number} is {loss:.3g}, above that of "
                f"the best constant, {best:.3g}. Scale its inputs and targets, for "
                "example with a StandardScaler, or train it longer.",
                UserWarning,
                stacklevel=2,
            )
            return
