"""Check the arguments of a refit's methods."""

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import check_consistent_length, indexable
from sklearn.utils.metadata_routing import process_routing
from sklearn.utils.validation import validate_data

from sklearn_pgb._estimator._border import check_has_features
from sklearn_pgb._estimator._fit_parameters import fit_parameter, weight_keyword
from sklearn_pgb._models._mapped_rows import MappedRows
from sklearn_pgb._models._open import checks_inputs
from sklearn_pgb._models._opened import is_plain, unknown_labels
from sklearn_pgb._refit._request import RefitRequest
from sklearn_pgb._samples import (
    Samples,
    bounded_weights,
    check_has_targets,
    checked_weights,
)
from sklearn_pgb._sklearn import (
    _check_y,
    _raise_for_params,
    _routing_enabled,
)
from sklearn_pgb._targets import (
    LabelTargets,
    check_some_weight,
    check_target_size,
    class_weights,
)


def check_training_data(
    owner: Any, request: RefitRequest, X: Any, y: Any
) -> tuple[Any, Any]:
    """Check X and y, except for the checks left to the network's own pipeline."""
    targets: dict[str, Any] = {
        "multi_output": True,
        "y_numeric": not request.classifies,
    }
    if not checks_inputs(request.estimator) and not isinstance(X, MappedRows):
        X, y = validate_data(owner, X, y, **targets, **request.validation_options)
    else:
        check_has_targets(owner, y)
        # The values of samples in a file are checked when they are read.
        check_has_features(X)
        X, y = indexable(X, y)
        validate_data(owner, X, skip_check_array=True)
        y = _check_y(y, **targets, estimator=owner)
    return X, _check_targets(request, y)


def sample_shape(X: Any) -> tuple[int, ...]:
    """Shape of one sample; empty if X has no shape."""
    return getattr(X, "shape", ())[1:]


def check_validation_data(
    owner: Any, request: RefitRequest, shape: tuple[int, ...], X: Any, y: Any
) -> tuple[Any, Any]:
    """Check validation samples as training samples of a `shape` are checked."""
    X = check_new_data(owner, request, shape, X)
    y = _check_y(y, multi_output=True, y_numeric=not request.classifies)
    check_consistent_length(X, y)
    return X, _check_targets(request, y)


def check_new_data(
    owner: Any, request: RefitRequest, shape: tuple[int, ...], X: Any
) -> Any:
    """Check X of a fitted model; only its features if a pipeline checks the rest.

    `shape` is that of one training sample.
    """
    if not checks_inputs(request.estimator):
        if not is_plain(X, owner, sys.float_info.max):
            X = validate_data(owner, X, reset=False, **request.validation_options)
        if X.shape[1:] != shape:
            raise ValueError(
                f"X must have samples of shape {shape}, as in fit, got {X.shape[1:]}. "
                "Crop or resize them."
            )
        return X
    check_has_features(X)
    (X,) = indexable(X)
    if getattr(X, "ndim", 2) == 1 and hasattr(owner, "n_features_in_"):
        raise ValueError(
            f"X must have 2 dimensions and {owner.n_features_in_} columns, as in fit, "
            "got 1 dimension. Reshape your data: X.reshape(1, -1) is one sample."
        )
    validate_data(owner, X, reset=False, skip_check_array=True)
    return X


def _check_targets(request: RefitRequest, y: Any) -> NDArray[Any]:
    """Check for numeric targets (regressors), or labels or indicators (classifiers)."""
    y = y if isinstance(y, np.ndarray) else y.toarray()
    if request.classifies:
        return LabelTargets.checked(y)
    if y.dtype.kind not in "biuf":
        raise ValueError(
            f"y must be numeric for a regressor, got {y.dtype}. Use a classifier as "
            "the network, or encode y."
        )
    check_target_size(y)
    return y


def check_weight(
    request: RefitRequest, X: Any, y: Any, sample_weight: Any
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """Sample weights times class weights, and the latter if there are any.

    At least one of the products must be positive.
    """
    weight = bounded_weights(checked_weights(sample_weight, X))
    factor = None
    if request.class_weight is not None:
        if not request.classifies:
            raise ValueError(
                "class_weight must be None for a regressor, got "
                f"{request.class_weight!r}. Use sample_weight."
            )
        classes = np.unique(y).tolist()
        if request.is_prefit and y.ndim == 1:
            # It may know classes that are not among these samples.
            classes += list(getattr(request.estimator, "classes_", []))
        factor = class_weights(request.class_weight, y, weight, classes)
        weight = bounded_weights(weight, factor)
    check_some_weight(weight)
    return weight, factor


def validation_samples(
    owner: Any,
    request: RefitRequest,
    shape: tuple[int, ...],
    y: Any,
    X_val: Any,
    y_val: Any,
    weight_val: Any,
) -> Samples | None:
    """Validation samples of positive weight, or None.

    `shape` is that of one training sample, `y` has the training targets.
    """
    if X_val is None and y_val is None:
        if weight_val is not None:
            raise ValueError(
                "sample_weight_val must be None without X_val and y_val, got weights. "
                "Pass the validation samples too."
            )
        return None
    if X_val is None or y_val is None:
        missing = "X_val" if X_val is None else "y_val"
        raise ValueError(
            f"X_val and y_val must be given together, got None for {missing}. Pass "
            "both or neither."
        )
    X_val, y_val = check_validation_data(owner, request, shape, X_val, y_val)
    if y_val.ndim != y.ndim or y_val.shape[1:] != y.shape[1:]:
        raise ValueError(
            "y_val must have as many dimensions and columns as y, of shape "
            f"{y.shape}, got {y_val.shape}. Pass y_val in the format of y."
        )
    weight = bounded_weights(checked_weights(weight_val, X_val, "sample_weight_val"))
    rows = np.flatnonzero(weight)
    validation = Samples(X_val, y_val, weight).rows(rows)
    if request.classifies and y.ndim == 1:
        unknown = unknown_labels(validation.y, y)
        if len(unknown):
            raise ValueError(
                f"y_val must hold labels of y, got {unknown.tolist()} too. Add samples "
                "of these classes to the training data, or leave them out."
            )
    return validation


def network_params(
    owner: Any,
    request: RefitRequest,
    weight: NDArray[np.float64],
    weights_given: bool,
    groups: Any,
    fit_params: dict[str, Any],
) -> dict[str, Any]:
    """Keyword arguments of the networks' `fit`; empty if they are not trained.

    With metadata routing, only the metadata that the network requests are passed.
    Class weights are not metadata and always reach the network.
    """
    estimator = request.estimator
    params: dict[str, Any] = {}
    if _routing_enabled() and not request.is_prefit:
        routed = process_routing(
            owner,
            "fit",
            **({"sample_weight": weight} if weights_given else {}),
            **({} if groups is None else {"groups": groups}),
            **fit_params,
        )
        params = {k: v for k, v in routed.estimator.fit.items() if v is not None}
        weights_given = False
    else:
        _raise_for_params(fit_params, owner, "fit")
        key = fit_parameter(estimator, "groups")
        if groups is not None and key is not None and not request.is_prefit:
            params[key] = groups
    if request.is_prefit or not (weights_given or request.class_weight is not None):
        return params
    names = ["sample_weight"] if weights_given else []
    names += [] if request.class_weight is None else ["class_weight"]
    given = " and ".join(names)
    advice = (
        f"Leave out {given}, or train it yourself and pass it in a FrozenEstimator to "
        "weight the refit alone."
    )
    return params | {weight_keyword(estimator, advice, given): weight}
