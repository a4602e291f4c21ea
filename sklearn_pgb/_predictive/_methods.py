"""Mixins with the methods of predictive distributions."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import is_classifier, is_regressor
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from sklearn_pgb._models._mapped_rows import joined
from sklearn_pgb._predictive._conformal import (
    check_coverage,
    interval,
    label_threshold,
)
from sklearn_pgb._predictive._distribution import (
    Counts,
    LocationScale,
    PredictiveDistribution,
    fit_dispersions,
)
from sklearn_pgb._predictive._shape import Shape

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Located:
    """Predictions of some samples, with their scale.

    Results have one dimension if `flat`.
    """

    location: Array
    scale: Array
    flat: bool

    @classmethod
    def joined(cls, parts: Iterable["Located"]) -> "Located":
        """Predictions of samples that come in parts, one after the other."""
        all_parts = list(parts)
        locations = [part.location for part in all_parts]
        scales = [part.scale for part in all_parts]
        return cls(joined(locations), joined(scales), all_parts[0].flat)


def rounding(targets: Tensor) -> float:
    """Return the size of rounding errors of targets, which is positive.

    It is the least scale of a distribution, for example of constant targets. The square
    of that of zeros does not underflow.
    """
    info = torch.finfo(targets.dtype)
    return max(info.eps * float(targets.abs().max()), info.tiny**0.5)


def merged(
    errors: Array, weight: Array, codes: NDArray[np.intp]
) -> tuple[Array, Array]:
    """Mean error and total weight of each distinct sample.

    A shape is chosen by leaving out single errors. If copies of a left-out sample
    stayed in, a tiny bandwidth would look likely, and so would it for large weights if
    these counted as copies.
    """
    total = np.bincount(codes, weights=weight).astype(np.float64)
    if len(total) == len(codes):
        return errors, weight
    sums = [np.bincount(codes, weights=weight * column) for column in errors.T]
    return np.stack(sums, 1) / total[:, None], total


def _has_probabilities(estimator: Any) -> bool:
    return is_classifier(estimator) and hasattr(estimator, "predict_proba")


class Predictive:
    """Mixin of estimators that keep their out-of-fold errors.

    Their `fit` stores the dict `_oof_errors`, or None if there are no such errors:

    - "weight" (n_samples,): sample weights,
    - "errors" (n_samples, n_outputs): standardized errors, for the squared loss,
    - "sample" (n_samples,): codes, which equal samples share, if these count once in
      the shape of the errors,
    - "least" (n_outputs,): the size of rounding errors, relative to the scale,
    - "y" and "mean" (n_samples, n_outputs): targets and predictions, for counts,
    - "scores" (n_samples,): one minus the probability of the label, for labels,
    - "fold" (n_samples,): number of the fold, for tables,
    - "folds": "errors", "weight" and "fold" of predictions by the models of folds, if
      `_fold_locations` has them for other samples. "fold" is the position there.
    - "aside": "errors" and "weight" of samples that no model has seen, if some were set
      aside.

    `_located(X)` returns `Located`, and `_prepared` is `Prepared`.
    """

    _oof_errors: dict[str, Any] | None
    _located: Any
    _fold_locations: Any
    _prepared: Any
    predict_proba: Any

    @available_if(is_regressor)
    def predict_distribution(self, X):
        """Predict the distribution of the target of each sample.

        The location is the prediction. The scale is a function of the inputs if
        ``distribution=True``, else a constant. The shape is that of the out-of-fold
        errors, divided by their scale and reduced to the size of the refit's errors, so
        that skew, heavy tails and several modes survive. Counts have negative binomial
        distributions, with the dispersion that fits the out-of-fold means.

        Parameters
        ----------
        X : array-like, sparse matrix or data frame of shape (n_samples, n_features)

        Returns
        -------
        PredictiveDistribution
            With `mean`, `std`, `quantile`, `cdf`, `log_prob`, `sample` and `crps`.

        Raises
        ------
        ValueError
            If there are no out-of-fold errors.
        """
        self._errors()
        return self._distribution_of(self._located(X))

    def _distribution_of(self, located: Located) -> PredictiveDistribution:
        heldout = self._errors()
        if "mean" in heldout:
            parts = heldout["y"], heldout["mean"], heldout["weight"]
            dispersions = self._prepared.get(
                "dispersion", [heldout], partial(fit_dispersions, *parts)
            )
            return Counts(located.location, dispersions, located.flat)
        shapes = self._prepared.get("shapes", [heldout], self._shapes)
        return LocationScale(located.location, located.scale, shapes, located.flat)

    def _std_of(self, located: Located) -> Array:
        """Standard deviations of the distributions.

        Without out-of-fold errors their shape is unknown, and they are the scales, as
        of normal distributions.
        """
        if self._oof_errors is None:
            return located.scale[:, 0] if located.flat else located.scale
        return self._distribution_of(located).std

    @available_if(is_regressor)
    def predict_quantiles(self, X, quantiles=(0.05, 0.5, 0.95)):
        """Predict quantiles of the target of each sample.

        Parameters
        ----------
        X : array-like, sparse matrix or data frame of shape (n_samples, n_features)
        quantiles : float or array-like of shape (n_quantiles,), default=(.05, .5, .95)
            Probabilities between 0 and 1, both excluded.

        Returns
        -------
        ndarray of shape (n_samples, n_quantiles) or (n_samples, n_quantiles, n_outputs)
            Without the axis of quantiles if `quantiles` is a number.

        Raises
        ------
        ValueError
            If a quantile is not between 0 and 1, or there are no out-of-fold errors.
        """
        return self.predict_distribution(X).quantile(quantiles)

    @available_if(is_regressor)
    def predict_interval(self, X, coverage=0.9, method="cv"):
        """Predict intervals that hold the target with a given probability.

        Intervals from errors on samples that the models have not seen. Counts get
        quantiles of their distribution.

        Parameters
        ----------
        X : array-like, sparse matrix or data frame of shape (n_samples, n_features)
        coverage : float, default=0.9
            Between 0 and 1, both excluded.
        method : {"cv", "cv+"}, default="cv"
            "cv" is the prediction plus and minus a quantile of the errors, times their
            scale. Of an estimator for tables that has set samples aside, it covers
            exchangeable samples with a probability of at least `coverage` [2]_, if
            there are neither duplicates nor groups. "cv+" uses the predictions of each
            fold with the errors of the samples it held out, so that exchangeable
            samples are covered with a probability of at least
            ``1 - 2 * (1 - coverage) - sqrt(2 / n_samples)`` [1]_. It is wider, and
            needs an estimator for tables with ``distribution=True``. The guide to
            distributions says what weakens the guarantee.

        Returns
        -------
        ndarray of shape (n_samples, 2) or (n_samples, 2, n_outputs)
            Lower and upper ends. They are infinite if there are too few samples.

        Raises
        ------
        ValueError
            If `coverage` is not between 0 and 1, there are no out-of-fold errors, or no
            predictions of folds for "cv+".

        References
        ----------
        .. [1] R. F. Barber, E. J. Candes, A. Ramdas, R. J. Tibshirani, "Predictive
           inference with the jackknife+", Annals of Statistics 49(1), 2021, Theorem 4.
        .. [2] J. Lei, M. G'Sell, A. Rinaldo, R. J. Tibshirani, L. Wasserman,
           "Distribution-free predictive inference for regression", JASA 113(523), 2018,
           Theorem 2.
        """
        coverage = check_coverage(coverage)
        if method not in ("cv", "cv+"):
            raise ValueError(
                f"method must be 'cv' or 'cv+', got {method!r}. Use 'cv+' for a "
                "guarantee."
            )
        heldout = self._errors()
        if method == "cv+" and "folds" not in heldout:
            raise ValueError(
                "method must be 'cv' without predictions of folds, got 'cv+'. Fit a "
                "GradientBasisRegressor with distribution=True, the squared loss and "
                "a `cv` that holds out every sample."
            )
        if "mean" in heldout:
            return self.predict_quantiles(X, [(1 - coverage) / 2, (1 + coverage) / 2])
        located = self._located(X)
        if method == "cv+":
            locations, heldout = self._fold_locations(X), heldout["folds"]
            groups = [heldout["fold"] == k for k in range(len(locations))]
        else:
            locations, heldout = [located.location], heldout.get("aside", heldout)
            groups = [np.ones(len(heldout["weight"]), dtype=bool)]
        weight, errors = heldout["weight"], heldout["errors"]
        weights = [weight[group] for group in groups]
        columns = []
        for output in range(located.location.shape[1]):
            sizes = [errors[group, output] for group in groups]
            centers = [location[:, output] for location in locations]
            scale = located.scale[:, output]
            columns.append(interval(centers, scale, sizes, weights, coverage))
        result = np.stack(columns, -1)
        return result[..., 0] if located.flat else result

    @available_if(_has_probabilities)
    def predict_set(self, X, coverage=0.9):
        """Predict sets of labels that hold the true one with a given probability.

        A set holds the labels whose probability is not smaller than those of most true
        labels out of fold. It is empty if no label is that probable, as happens if the
        classifier is right more often than the coverage asks for.

        Parameters
        ----------
        X : array-like, sparse matrix or data frame of shape (n_samples, n_features)
        coverage : float, default=0.9
            Between 0 and 1, both excluded.

        Returns
        -------
        ndarray of bool of shape (n_samples, n_classes)
            Members of the sets, in the order of `classes_`.

        Raises
        ------
        ValueError
            If `coverage` is not between 0 and 1, there are several labels, or there are
            no out-of-fold predictions.
        """
        coverage = check_coverage(coverage)
        heldout = self._errors()
        threshold = label_threshold(heldout["scores"], heldout["weight"], coverage)
        probabilities = self.predict_proba(X)
        members: NDArray[np.bool_] = 1 - probabilities <= threshold
        return members

    def _errors(self) -> dict[str, Any]:
        """The stored errors, or an error that says how to get some."""
        check_is_fitted(self)
        if getattr(self, "_multilabel", False):
            raise ValueError(
                "y must have one label for each sample for sets of labels, got "
                "several. Use predict_proba."
            )
        if self._oof_errors is None:
            raise ValueError(
                f"this {type(self).__name__} must have out-of-fold errors for "
                "distributions, intervals and sets, got none. Pass samples that the "
                "model has not seen to fit, as X_val and y_val, or, if it can be "
                "trained again, use cv=5 and distribution=True."
            )
        return self._oof_errors

    def _shapes(self) -> list[Shape]:
        heldout = self._errors()
        errors, weight = heldout["errors"], heldout["weight"]
        if "sample" in heldout:
            errors, weight = merged(errors, weight, heldout["sample"])
        columns = zip(errors.T, heldout["least"].tolist(), strict=True)
        return [Shape.of(column, weight, least) for column, least in columns]
