"""Out-of-fold errors of a refit, and the location and scale of its predictions."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sklearn_pgb._bases._tangent import TangentSpace
from sklearn_pgb._budget import FLAT_ULPS, MOST_DOUBLINGS
from sklearn_pgb._estimator._predictors import finite_outputs
from sklearn_pgb._estimator._row_codes import row_codes
from sklearn_pgb._losses._regression import PoissonLoss
from sklearn_pgb._models._mapped_rows import row_parts
from sklearn_pgb._models._opened import OpenNetwork
from sklearn_pgb._predictive._methods import Located
from sklearn_pgb._predictive._shape import weighted_quantile
from sklearn_pgb._refit._data import TrainingData
from sklearn_pgb._refit._fitting import Refit
from sklearn_pgb._refit._networks import TrainedNetworks
from sklearn_pgb._refit._outputs import all_classes, untransformed
from sklearn_pgb._refit._uncertainty import predictive_std, rounding_of_outputs


def oof_errors(
    refit: Any,
    result: Refit,
    trained: TrainedNetworks,
    data: TrainingData,
    left_out_std: NDArray[np.float64] | None,
) -> dict[str, Any] | None:
    """Errors of held-out predictions, as the mixin `Predictive` stores them.

    The networks must not be trained on the samples either, so leave-one-out predictions
    of the convex model do not count. `left_out_std` has the standard deviations of
    training samples, if they are known. Returns None without held-out predictions.
    """
    choice, opened = result.choice, trained.opened
    samples, inputs = data.samples, trained.samples.X
    raw = choice.oof_raw
    if data.validation is not None and trained.validation is not None:
        samples, inputs = data.validation, trained.validation.X
        raw = result.space.raw(inputs, result.parameters)
    if raw is None:
        return None
    # Samples that no scored fold held out have rows of nan.
    known = ~raw.isnan().any(1)
    raw, inputs = raw[known], [rows[known] for rows in inputs]
    rows = known.cpu().numpy()
    y, weight = np.asarray(samples.y)[rows], np.asarray(samples.weight)[rows]
    errors: dict[str, Any] = {"weight": weight}
    if opened[0].loss.is_classification:
        if not opened[0].loss.predicts_means or refit._multilabel:
            return None
        targets, decision = all_classes(refit, opened[0], raw)
        codes = np.searchsorted(refit.classes_, y)
        of_label = targets.probabilities(decision)[np.arange(len(y)), codes]
        return errors | {"scores": 1 - of_label}
    y = y.reshape(len(y), -1)
    targets, normalized = trained.samples.y, trained.samples.normalized_weight
    least = rounding_of_outputs(targets)
    level = (normalized @ (targets - normalized @ targets).square()).sqrt()
    level = level.clamp_min(least)
    std = errors["level"] = level.cpu().numpy()
    if left_out_std is not None and data.validation is None:
        std = left_out_std[rows]
    elif left_out_std is not None:
        std = standard_deviations(refit, opened, inputs, raw)
    columns = np.broadcast_to(std, raw.shape).T
    median = np.array([float(weighted_quantile(c, weight, 0.5)) for c in columns])
    errors["least"] = least.cpu().numpy() / median
    predicted = locate(refit, opened[0], raw, std)
    if isinstance(opened[0].loss, PoissonLoss):
        return errors | {"y": y, "mean": predicted.location}
    # The refit averages the folds' models, whose errors partly cancel.
    shrink = np.sqrt(1 - choice.gain) if data.validation is None else 1.0
    return errors | {
        "errors": shrink * (y - predicted.location) / predicted.scale,
        "sample": row_codes(np.column_stack([row_codes(samples.X)[rows], y])),
    }


def standard_deviations(
    refit: Any, opened: Sequence[OpenNetwork], inputs: Sequence[Tensor], raw: Tensor
) -> NDArray[np.float64]:
    """Standard deviations of the raw targets of new samples."""
    networks = [each.network for each in opened]
    space = TangentSpace.with_scales(networks, inputs, refit._scales)
    operator = space.operator(inputs)
    return predictive_std(refit._uncertainty, operator, networks[0], inputs[0], raw)


def locate_samples(refit: Any, X: Any) -> Located:
    """Location and scale of the predictions of new samples."""

    def of_part(part: Any) -> Located:
        models, rows = refit._open(part)
        opened, raw = models.opened, finite_outputs(models.raw(rows))
        if refit._uncertainty is None:
            std = refit._errors()["level"]
        else:
            std = standard_deviations(refit, opened, models.inputs(rows), raw)
        return locate(refit, opened[0], raw, std)

    return Located.joined(map(of_part, row_parts(X)))


def locate(
    refit: Any, opened: OpenNetwork, raw: Tensor, std: NDArray[np.float64]
) -> Located:
    """Location and scale of predictions, in the units of the targets.

    The scale is half of the transformed interval: exact for affine transformations of
    targets, of first order for others. Where the inverse transformation is flat, for
    example outside of the range of a QuantileTransformer, the interval is doubled until
    it is not. No scale is below the rounding errors of the location.
    """
    mean = opened.loss.predict(raw).cpu().numpy()
    location = untransformed(refit, opened, mean).reshape(len(mean), -1)
    scale = np.broadcast_to(std, mean.shape).astype(np.float64)
    rounding = np.finfo(np.float64).eps * np.abs(location)
    if opened.target_transformers:
        std, scale = scale, half_width(opened, mean, scale, location)
        # The standard deviation of an exact fit is rounding, and stays so.
        varies = std > FLAT_ULPS * np.finfo(np.float64).eps * np.abs(mean)
        for doublings in range(1, MOST_DOUBLINGS + 1):
            flat = varies & (scale <= FLAT_ULPS * rounding)
            rows = flat.any(1)
            if not rows.any():
                break
            wider = 2.0**doublings * std[rows]
            width = half_width(opened, mean[rows], wider, location[rows])
            wide = np.maximum(scale[rows], width / 2**doublings)
            scale[rows] = np.where(flat[rows], wide, scale[rows])
    least = np.maximum(rounding, np.finfo(np.float64).tiny ** 0.5)
    return Located(location, np.maximum(scale, least), refit._flat)


def half_width(
    opened: OpenNetwork,
    mean: NDArray[np.float64],
    std: NDArray[np.float64],
    location: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Mean distance of the location from the transformed ends of ``mean +- std``.

    Ends that overflow or are NaN, as outside of the range of a PowerTransformer, do not
    count.
    """
    with np.errstate(over="ignore", invalid="ignore"), warnings.catch_warnings():
        # scikit-learn warns of NaN.
        warnings.simplefilter("ignore", UserWarning)
        ends = [opened.untransform(mean + sign * std) for sign in (1, -1)]
        sides = np.abs(np.stack(ends) - location)
    known = np.isfinite(sides)
    total: NDArray[np.float64] = np.where(known, sides, 0).sum(0)
    return total / np.maximum(known.sum(0), 1)
