"""The data that a user hands to the refit: checked, weighted, encoded."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import is_classifier
from sklearn.frozen import FrozenEstimator
from sklearn.utils import (
    _safe_indexing,
    column_or_1d,
    compute_sample_weight,
    indexable,
)
from sklearn.utils.metadata_routing import (
    _raise_for_params,
    _routing_enabled,
    process_routing,
)
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import (
    _check_method_params,
    _check_sample_weight,
    _check_y,
    validate_data,
)
from torch import Tensor

from sklearn_pgb._estimator import (
    Parts,
    check_class_weight,
    cross_fitting_parts,
    delegates_input,
    final_estimator,
    parts_among,
    weight_parameter,
)
from sklearn_pgb._losses import PoissonLoss, SquaredLoss
from sklearn_pgb._networks import OpenNetwork
from sklearn_pgb._refit._fitting import TrainedNetworks

if TYPE_CHECKING:
    from sklearn_pgb._refit._gradient_basis_refit import GradientBasisRefit


@dataclass(frozen=True, eq=False)
class TrainingData:
    """The rows of positive weight.

    Attributes
    ----------
    X, y : whatever the network takes
    weight : ndarray (n_samples,)
        Sample weights times class weights.
    labels : ndarray (n_samples,) or None
        Codes of the distinct labels, for classifiers.
    params : dict
        Keywords for the networks' `fit`, weights among them where there are any.
    cv : int, list of (train, held out) or None
        What to cross-fit with.
    """

    X: Any
    y: Any
    weight: NDArray[np.float64]
    labels: NDArray[np.intp] | None
    params: dict[str, Any]
    cv: int | Parts | None

    def parts(self, n_folds: int, seed: int) -> Parts:
        """(train, held out) rows of folds drawn over the distinct rows."""
        return cross_fitting_parts(n_folds, self.X, self.labels, self.weight, seed)


def training_data(
    model: "GradientBasisRefit",
    X: Any,
    y: Any,
    sample_weight: Any,
    fit_params: dict[str, Any],
    cv: Any,
) -> TrainingData:
    """Check what `fit` got and leave out the rows without weight."""
    X, y = _check_training_data(model, X, y)
    weight = _check_weight(model, X, y, sample_weight)
    weighted = sample_weight is not None or model.class_weight is not None
    params = _network_params(model, weight if weighted else None, fit_params)
    rows = np.flatnonzero(weight)
    if cv is not None and not isinstance(cv, int):
        cv = parts_among(rows, cv, X, y, classifier=classifies(model))
    # Arrays that are all used are not copied: they may be mapped from a disk. In
    # another order of memory the network's training would round otherwise.
    in_order = isinstance(X, np.ndarray) and X.flags.c_contiguous
    if len(rows) < len(weight) or not in_order:
        params = _check_method_params(X, params, rows)
        X, y, weight = (_safe_indexing(part, rows) for part in (X, y, weight))
    return TrainingData(X, y, weight, _class_codes(model, y), params, cv)


def taken_as_is(estimator: Any) -> bool:
    """Whether the network is not trained here."""
    return isinstance(estimator, FrozenEstimator | torch.nn.Module)


def classifies(model: "GradientBasisRefit") -> bool:
    """Whether the network is a classifier."""
    if isinstance(model.estimator, torch.nn.Module):
        return model.loss == "log_loss"
    return is_classifier(model.estimator)


def _accepted(model: "GradientBasisRefit") -> dict[str, Any]:
    """What `validate_data` lets pass where the network takes X itself."""
    return {
        "dtype": (np.float64, np.float32),
        "accept_sparse": ("csr", "csc"),
        "allow_nd": isinstance(model.estimator, torch.nn.Module),
    }


def _check_training_data(
    model: "GradientBasisRefit", X: Any, y: Any
) -> tuple[Any, Any]:
    """Check what is not delegated to the network's own pipeline."""
    targets: dict[str, Any] = {"multi_output": True, "y_numeric": not classifies(model)}
    if not delegates_input(model.estimator):
        X, y = validate_data(model, X, y, **targets, **_accepted(model))
    elif y is None:
        raise ValueError(
            f"This {type(model).__name__} estimator requires y to be passed, but the "
            "target y is None."
        )
    else:
        X, y = indexable(X, y)
        validate_data(model, X, skip_check_array=True)
        y = _check_y(y, **targets, estimator=model)
    y = y if isinstance(y, np.ndarray) else y.toarray()
    if targets["y_numeric"] and y.dtype.kind not in "biuf":
        raise ValueError(
            f"y must be numeric for a regressor, got {y.dtype}. Use a classifier as "
            "the network, or encode y."
        )
    if classifies(model):
        check_classification_targets(y)
        if type_of_target(y) != "multilabel-indicator":
            y = column_or_1d(y, warn=True)
    return X, y


def check_new_data(model: "GradientBasisRefit", X: Any) -> Any:
    """Check X of a fitted model; a pipeline checks all but the columns itself."""
    if not delegates_input(model.estimator):
        return validate_data(model, X, reset=False, **_accepted(model))
    (X,) = indexable(X)
    if np.ndim(X) == 1 and hasattr(model, "n_features_in_"):
        raise ValueError(
            f"X must have 2 dimensions and {model.n_features_in_} columns, as in fit, "
            "got 1 dimension. Reshape your data: X.reshape(1, -1) is one sample."
        )
    validate_data(model, X, reset=False, skip_check_array=True)
    return X


def _check_weight(
    model: "GradientBasisRefit", X: Any, y: Any, sample_weight: Any
) -> NDArray[np.float64]:
    """Sample weights times class weights, some of them positive."""
    weight = _check_sample_weight(
        sample_weight, X, dtype=np.float64, copy=True, ensure_non_negative=True
    )
    if model.class_weight is not None:
        if not classifies(model):
            raise ValueError(
                "class_weight must be None for a regressor, got "
                f"{model.class_weight!r}. Use sample_weight."
            )
        check_class_weight(model.class_weight)
        weight *= compute_sample_weight(model.class_weight, y)
    if not weight.any():
        raise ValueError(
            "sample_weight must have a positive entry, but all weights are zero."
        )
    return weight


def _class_codes(model: "GradientBasisRefit", y: Any) -> NDArray[np.intp] | None:
    """Codes of the distinct labels; None for regressors."""
    if not classifies(model):
        return None
    distinct, codes = np.unique(y, axis=0, return_inverse=True)
    if len(distinct) < 2:
        raise ValueError(
            "y must have at least 2 classes, got 1 class. A classifier can't learn "
            "from one."
        )
    return codes.reshape(-1)


def _network_params(
    model: "GradientBasisRefit",
    weight: NDArray[np.float64] | None,
    fit_params: dict[str, Any],
) -> dict[str, Any]:
    """Keywords for the networks' `fit`; those that are taken as they are get none."""
    estimator = model.estimator
    if _routing_enabled() and not taken_as_is(estimator):
        routed = process_routing(model, "fit", sample_weight=weight, **fit_params)
        return {k: v for k, v in routed.estimator.fit.items() if v is not None}
    _raise_for_params(fit_params, model, "fit")
    if weight is None or taken_as_is(estimator):
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


def known_classes(opened: OpenNetwork, y: Any) -> Any:
    """The network's own labels; a module's are those of y."""
    if np.ndim(y) == 2:
        return np.arange(np.shape(y)[1])
    return np.unique(y) if opened.kind is None else opened.classes


def encode_targets(trained: TrainedNetworks, y: Any) -> Tensor:
    """Targets as the loss wants them; a module's labels are numbered as sorted."""
    opened, n_outputs = trained.opened[0], trained.n_outputs
    labelled = not isinstance(opened.loss, SquaredLoss | PoissonLoss)
    if opened.kind is None and labelled and np.ndim(y) == 1:
        distinct, y = np.unique(y, return_inverse=True)
        if len(distinct) != max(n_outputs, 2):
            raise ValueError(
                f"y must have {max(n_outputs, 2)} classes for a module with "
                f"{n_outputs} outputs, got {len(distinct)}. Pass rows of all classes "
                "that the module was trained on."
            )
    return opened.targets(y, n_outputs).to(trained.inputs[0].device)
