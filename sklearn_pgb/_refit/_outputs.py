"""Predictions of a refit, and its methods and tags that depend on the network."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, r2_score
from sklearn.neural_network import MLPRegressor
from sklearn.utils import ClassifierTags, RegressorTags, Tags, get_tags
from torch import Tensor

from sklearn_pgb._budget import LOG_ABSENT
from sklearn_pgb._estimator._border import final_estimator, open_all
from sklearn_pgb._estimator._predictors import finite_outputs
from sklearn_pgb._estimator._resources import device_or_cpu
from sklearn_pgb._estimator._tangent_sum import TangentSum
from sklearn_pgb._losses._named import MODULE_LOSSES, find_loss
from sklearn_pgb._models._mapped_rows import joined, row_parts
from sklearn_pgb._models._network import as_float64
from sklearn_pgb._models._opened import OpenNetwork
from sklearn_pgb._operators._operator import LinearOperator
from sklearn_pgb._operators._stacked import sparse_rows
from sklearn_pgb._refit._request import RefitRequest
from sklearn_pgb._samples import Samples
from sklearn_pgb._targets import LabelTargets


def is_a_classifier(refit: Any) -> bool:
    """Whether the refit has a decision function; AttributeError if not."""
    if not RefitRequest.at_last_fit(refit).classifies:
        raise AttributeError("only classifiers have this method")
    return True


def has_probabilities(refit: Any) -> bool:
    """Whether the refit's loss gives probabilities; AttributeError if not."""
    request = RefitRequest.at_last_fit(refit)
    loss = find_loss(getattr(final_estimator(request.estimator), "loss", None))
    has_none = loss is not None and not loss.predicts_means
    if has_none or not request.classifies:
        raise AttributeError("only classifiers with a log loss have this method")
    return True


def tangent_terms(
    refit: Any, device: Any
) -> tuple[list[OpenNetwork], list[float], Sequence[Tensor]]:
    """Models of a fitted refit, their weights, and their coefficients (1, n_params)."""
    parameters, loss = RefitRequest.at_last_fit(refit).parameters, refit._loss
    opened = open_all(refit.estimators_, MODULE_LOSSES[loss], device, parameters)
    coef = as_float64(refit.basis_coef_).to(device or "cpu")
    parts = coef[None].split([each.network.n_params for each in opened], 1)
    weight = 1 / len(opened) if refit._adds_networks else 0.0
    return opened, [weight] * len(opened), parts


def tangent_sum(refit: Any) -> TangentSum:
    """Prepare the predictions, on the refit's device if this machine has it."""
    device = device_or_cpu(refit.device)
    return TangentSum.of(*tangent_terms(refit, device), device)


def raw_outputs(refit: Any, X: Any) -> tuple[OpenNetwork, Tensor]:
    """Return the first network, and raw outputs; a mapped X is read in blocks."""
    parts = []
    for part in row_parts(X):
        models, rows = refit._open(part)
        parts.append(finite_outputs(models.raw(rows)))
    return models.opened[0], joined(parts)


def class_columns(output_classes: NDArray[Any], classes: NDArray[Any]) -> Tensor | None:
    """Return each class's column of the networks' outputs.

    Classes that the networks do not know get the number after the last column. The
    result is None if the networks know all classes.
    """
    if len(output_classes) == len(classes):
        return None
    index = torch.full((len(classes),), len(output_classes))
    known = torch.as_tensor(np.searchsorted(classes, output_classes))
    index[known] = torch.arange(len(output_classes))
    return index


def place_classes(raw: Tensor, index: Tensor | None) -> Tensor:
    """Add raw outputs of tiny probability for classes unknown to the networks."""
    if index is None:
        return raw
    if raw.shape[1] == 1:
        raw = torch.cat([-raw / 2, raw / 2], 1)
    lowest = raw.amin(1, keepdim=True) + LOG_ABSENT
    return torch.cat([raw, lowest], 1)[:, index]


def all_classes(
    refit: Any, opened: OpenNetwork, raw: Tensor
) -> tuple[LabelTargets, NDArray[np.float64]]:
    """Return `LabelTargets` of all classes, and raw outputs for them."""
    index = class_columns(refit._output_classes, refit.classes_)
    raw = place_classes(raw.cpu(), index)
    targets = LabelTargets(opened.loss, refit.classes_, refit._multilabel)
    return targets, raw.numpy()


def decoded(refit: Any, opened: OpenNetwork, raw: Tensor) -> NDArray[Any]:
    """Predictions of targets or labels."""
    if RefitRequest.at_last_fit(refit).classifies:
        targets, decision = all_classes(refit, opened, raw)
        return targets.decode(decision)
    return untransformed(refit, opened, opened.loss.predict(raw).cpu().numpy())


def untransformed(
    refit: Any, opened: OpenNetwork, mean: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Undo target transformations, and restore the shape of the training targets."""
    y: NDArray[np.float64] = opened.untransform(mean)
    if np.isnan(y).any():
        # Shared transformers are wrapped, and the user knows those inside.
        own = [
            getattr(getattr(each, "func", None), "__self__", each)
            for each in opened.target_transformers
        ]
        names = [" ".join(repr(each).split()) for each in own]
        raise ValueError(
            "inverse_transform of the target transformer must be defined for all "
            f"predictions, got NaN for {int(np.isnan(y).any(1).sum())} of {len(y)} "
            f"samples from {', '.join(names)}. Use a transformer whose inverse is "
            "defined everywhere, or leave out samples far from the training samples."
        )
    return y.reshape(-1) if refit._flat else y


def score_of(refit: Any, y: Any, predicted: NDArray[Any], weight: Any) -> float:
    """Accuracy of a classifier, R^2 of a regressor."""
    score = accuracy_score if RefitRequest.at_last_fit(refit).classifies else r2_score
    return score(y, predicted, sample_weight=weight)


def predicts_flat(opened: OpenNetwork, y: Any) -> bool:
    """Whether predictions for a single target have one dimension."""
    # Trees and votes predict so for any shape of y.
    flat_model = isinstance(opened.final, MLPRegressor) or opened.encode is not None
    return np.ndim(y) == 1 or flat_model


def oof_score(
    refit: Any, opened: OpenNetwork, raw: Tensor | None, samples: Samples
) -> float | None:
    """Score of raw outputs on the samples for which they are known, not nan."""
    if raw is None:
        return None
    raw = raw.cpu()
    known = ~raw.isnan().any(1).numpy()
    y, weight = samples.y[known], samples.weight[known]
    if len(y) < 2 and not RefitRequest.at_last_fit(refit).classifies:
        return math.nan
    return score_of(refit, y, decoded(refit, opened, raw[known]), weight)


def jacobian_features(refit: Any, X: Any) -> Any:
    """Jacobians side by side, one output after the other, or a sketch of them.

    They are a sparse array if all models are trees.
    """

    def of_part(part: Any) -> Any:
        models, rows = refit._open(part)
        pairs = zip(models.opened, models.inputs(rows), strict=True)
        operators = [each.network.jacobian(inputs) for each, inputs in pairs]
        return _side_by_side(operators, refit._n_components, refit._sketch_seed)

    return joined(map(of_part, row_parts(X)))


def _side_by_side(
    operators: Sequence[LinearOperator], n_components: int | None, seed: int
) -> Any:
    if n_components is not None:
        generator = torch.Generator().manual_seed(seed)
        parts = [operator.sketch(n_components, generator) for operator in operators]
        return finite_outputs(torch.stack(parts).sum(0).cpu().numpy())
    sparse = [part for part in map(sparse_rows, operators) if part is not None]
    if len(sparse) == len(operators):
        rows = sp.hstack(sparse, "csr")
        return rows.reshape(operators[0].n_samples, -1).tocsr()
    dense = torch.cat([operator.dense() for operator in operators], -1)
    return finite_outputs(dense.flatten(1).cpu().numpy())


def network_tags(tags: Tags, estimator: Any, classifies: bool) -> Tags:
    """Tags of a refit: its network's tags about X and y, and its own."""
    assert tags.transformer_tags is not None
    tags.transformer_tags.preserves_dtype = []
    inner = None
    if isinstance(estimator, torch.nn.Module):
        tags.estimator_type = "classifier" if classifies else "regressor"
        tags.target_tags.multi_output = True
    else:
        inner = get_tags(estimator)
        tags.estimator_type = inner.estimator_type
        tags.input_tags = inner.input_tags
        # A pipeline does not forward the target tags of its last step.
        tags.target_tags = get_tags(final_estimator(estimator)).target_tags
    tags.target_tags.required = True
    if tags.estimator_type == "classifier":
        tags.classifier_tags = (inner and inner.classifier_tags) or ClassifierTags()
    else:
        tags.regressor_tags = (inner and inner.regressor_tags) or RegressorTags()
    return tags
