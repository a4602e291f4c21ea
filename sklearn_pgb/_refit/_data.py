"""The training data of a refit, checked and weighted."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklearn_pgb._budget import AUTO_FOLDS
from sklearn_pgb._convex._heldout import NoFolds
from sklearn_pgb._estimator._folds import Parts, cross_fitting_parts, splitter_parts
from sklearn_pgb._models._mapped_rows import MappedRows
from sklearn_pgb._refit._arguments import (
    check_training_data,
    check_weight,
    network_params,
    sample_shape,
    validation_samples,
)
from sklearn_pgb._refit._request import RefitRequest
from sklearn_pgb._samples import Samples, check_groups
from sklearn_pgb._sklearn import _check_method_params
from sklearn_pgb._targets import class_codes


@dataclass(frozen=True, eq=False)
class TrainingData:
    """The samples of positive weight.

    Attributes
    ----------
    samples : Samples
        Inputs and targets of the network; weights are sample times class weights.
    labels : ndarray (n_samples,) or None
        Codes of the distinct labels, for classifiers.
    params : dict
        Keyword arguments of the networks' `fit`, including any sample weights.
    cv : int, list of (train, held out) or None
        Number of folds, or the folds themselves, for cross-fitting.
    require_n_folds : bool
        Whether fewer distinct samples than `cv` are an error.
    groups : ndarray (n_samples,) or None
        Groups that folds keep together.
    classes : ndarray or None
        Labels of all samples, including those of weight zero.
    validation : Samples or None
        Validation samples of positive weight.
    """

    samples: Samples
    labels: NDArray[np.intp] | None
    params: dict[str, Any]
    cv: int | Parts | None
    require_n_folds: bool = False
    groups: Any = None
    classes: NDArray[Any] | None = None
    validation: Samples | None = None

    def folds(self, seed: int) -> Parts | None:
        """Folds for cross-fitting; None if `cv` is None.

        The default `cv` falls back to no folds if none can be drawn, such as for
        constant inputs.
        """
        if self.cv is None:
            return None
        if isinstance(self.cv, int):
            try:
                return self.parts(self.cv, seed, self.require_n_folds)
            except NoFolds:
                if self.require_n_folds or self.groups is not None:
                    raise
                return None
        if self.labels is None:
            return self.cv
        for training_rows, _ in self.cv:
            missing = np.setdiff1d(self.labels, self.labels[training_rows])
            if len(missing):
                raise ValueError(
                    "cv must leave every class in every training part, but one of "
                    f"them lacks {len(missing)} of {self.labels.max() + 1} classes. "
                    "Pass an int, which draws such folds."
                )
        return self.cv

    def parts(self, n_folds: int, seed: int, require_n_folds: bool = False) -> Parts:
        """Draw folds over the distinct samples, as (train, held out) indices."""
        return cross_fitting_parts(
            n_folds,
            self.samples.X,
            self.labels,
            self.samples.weight,
            seed,
            groups=self.groups,
            require_n_folds=require_n_folds,
        )


def training_data(
    owner: Any,
    request: RefitRequest,
    X: Any,
    y: Any,
    sample_weight: Any,
    groups: Any,
    validation: tuple[Any, Any, Any],
    fit_params: dict[str, Any],
    cv: Any,
) -> TrainingData:
    """Check the arguments of `fit` and remove samples of weight zero."""
    given = X, y
    mapped = MappedRows.of(X, request.n_jobs) if request.is_prefit else None
    if mapped is not None and (X.ndim == 2 or request.validation_options["allow_nd"]):
        X = mapped
    X, y = check_training_data(owner, request, X, y)
    weight, factor = check_weight(request, X, y, sample_weight)
    if groups is not None:
        groups = check_groups(groups, X)
    shape, used = sample_shape(X), y[weight > 0]
    heldout = validation_samples(owner, request, shape, used, *validation)
    params = network_params(
        owner, request, weight, sample_weight is not None, groups, fit_params
    )
    rows = np.flatnonzero(weight)
    require_n_folds = cv != "auto"
    if isinstance(cv, str):
        cv = AUTO_FOLDS
    if cv is not None and not isinstance(cv, int):
        cv = splitter_parts(
            rows, cv, *given, classifier=request.classifies, groups=groups
        )
    classes = None
    if request.classifies and y.ndim == 1:
        classes = np.unique(y)
    # Arrays are not copied if every sample is used: they may be memory-mapped. Others
    # are made C-contiguous, because rounding in training depends on the memory order.
    samples = Samples(X, y, weight, factor=factor)
    keeps_memory = isinstance(X, MappedRows)
    keeps_memory |= isinstance(X, np.ndarray) and X.flags.c_contiguous
    if len(rows) < len(weight) or not keeps_memory:
        params = _check_method_params(X, params, rows)
        samples = samples.rows(rows)
        groups = None if groups is None else groups[rows]
    labels = None
    if request.classifies:
        labels = class_codes(samples.y)
        if not labels.any():
            raise ValueError(
                "y must have at least 2 classes, got 1 class among the samples whose "
                "sample_weight and class_weight are positive. A classifier can't learn "
                "from one class."
            )
    return TrainingData(
        samples, labels, params, cv, require_n_folds, groups, classes, heldout
    )
