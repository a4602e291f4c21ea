"""Scorers of predictive distributions, for searches and cross-validation."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import update_wrapper
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils.metadata_routing import MetadataRequest

from sklearn_pgb._predictive._conformal import check_coverage
from sklearn_pgb._predictive._distribution import check_targets
from sklearn_pgb._predictive._predictor import distributional
from sklearn_pgb._samples import checked_weights
from sklearn_pgb._sklearn import _BaseScorer


class DistributionScorer(_BaseScorer):
    """A function ``score(estimator, X, y, sample_weight)`` as a scorer.

    Scorers take part in scikit-learn's routing of metadata. `set_score_request` returns
    a copy, since the scorers of this module are shared by all their users.
    """

    def __init__(self, function: Callable[..., float], **options: Any) -> None:
        super().__init__(function, 1, options)
        update_wrapper(self, function)

    def __call__(
        self, estimator: Any, X: Any, y: Any, sample_weight: Any = None, **options: Any
    ) -> float:
        options = {**self._kwargs, **options}
        value: float = self._score_func(estimator, X, y, sample_weight, **options)
        return value

    def _score(
        self, method_caller: Any, estimator: Any, X: Any, y: Any, **options: Any
    ) -> float:
        return self(estimator, X, y, **options)

    def set_score_request(self, **requests: Any) -> DistributionScorer:
        """Return a scorer with these requests for metadata."""
        requesting: Any = super(DistributionScorer, copy.copy(self))
        scorer: DistributionScorer = requesting.set_score_request(**requests)
        return scorer

    def __reduce__(self) -> Any:
        # A request refers to its scorer, and functions are pickled by name.
        known = getattr(self, "_metadata_request", None)
        requests = None if known is None else known.score.requests
        return _restored, (self.__name__, self._kwargs, requests)

    def __repr__(self) -> str:
        name: str = self.__name__
        if not self._kwargs:
            return name
        options = ", ".join(f"{key}={value!r}" for key, value in self._kwargs.items())
        return f"{name}.with_options({options})"


class IntervalScorer(DistributionScorer):
    """A scorer of intervals, whose coverage can be chosen."""

    def with_options(self, *, coverage: float) -> IntervalScorer:
        """Return a scorer of intervals with this coverage."""
        scorer = copy.copy(self)
        scorer._kwargs = {"coverage": check_coverage(coverage)}
        return scorer


def _restored(name: str, options: dict[str, Any], requests: Any) -> DistributionScorer:
    """Return a copy of a scorer of this module, with other options."""
    shared: DistributionScorer = globals()[name]
    scorer = type(shared)(shared._score_func, **options)
    if requests is not None:
        scorer._metadata_request = MetadataRequest(owner=scorer)
        for param, alias in requests.items():
            scorer._metadata_request.score.add_request(param=param, alias=alias)
    return scorer


def _mean(scores: np.ndarray[Any, Any], sample_weight: Any) -> float:
    """Return the weighted mean of the scores of samples."""
    if sample_weight is not None:
        sample_weight = checked_weights(sample_weight, scores)
    return float(np.average(scores, weights=sample_weight))


@DistributionScorer
def neg_crps(estimator: Any, X: Any, y: ArrayLike, sample_weight: Any = None) -> float:
    """Negative mean continuous ranked probability score, for ``scoring=``.

    Parameters
    ----------
    estimator : fitted regressor with `predict_distribution`
        Or a Pipeline or search that ends in one.
    X : array-like, sparse matrix or data frame of shape (n_samples, n_features)
    y : array-like of shape (n_samples,) or (n_samples, n_outputs)
    sample_weight : array-like of shape (n_samples,), default=None

    Returns
    -------
    float
        In the units of y; larger is better.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.linear_model import LinearRegression
    >>> from sklearn_pgb import GradientBasisRefit, neg_crps
    >>> X, y = load_diabetes(return_X_y=True)
    >>> refit = GradientBasisRefit(LinearRegression(), random_state=0).fit(X, y)
    >>> -40 < neg_crps(refit, X, y) < -20
    True
    """
    predictor, X = distributional(estimator, X)
    distribution = predictor.predict_distribution(X)
    y = check_targets(y, _matrix(distribution.mean).shape, finite=True)
    return -_mean(np.mean(_matrix(distribution.crps(y)), 1), sample_weight)


@DistributionScorer
def neg_nll(estimator: Any, X: Any, y: ArrayLike, sample_weight: Any = None) -> float:
    """Mean log density of the targets, the negative of the loss, for ``scoring=``.

    Parameters
    ----------
    estimator : fitted regressor with `predict_distribution`
        Or a Pipeline or search that ends in one.
    X : array-like, sparse matrix or data frame of shape (n_samples, n_features)
    y : array-like of shape (n_samples,) or (n_samples, n_outputs)
    sample_weight : array-like of shape (n_samples,), default=None

    Returns
    -------
    float
        Summed over outputs; larger is better.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.linear_model import LinearRegression
    >>> from sklearn_pgb import GradientBasisRefit, neg_nll
    >>> X, y = load_diabetes(return_X_y=True)
    >>> refit = GradientBasisRefit(LinearRegression(), random_state=0).fit(X, y)
    >>> -6 < neg_nll(refit, X, y) < -5
    True
    """
    predictor, X = distributional(estimator, X)
    distribution = predictor.predict_distribution(X)
    y = check_targets(y, _matrix(distribution.mean).shape, finite=True)
    return _mean(np.sum(_matrix(distribution.log_prob(y)), 1), sample_weight)


@IntervalScorer
def interval_score(
    estimator: Any,
    X: Any,
    y: ArrayLike,
    sample_weight: Any = None,
    *,
    coverage: float = 0.9,
) -> float:
    """Negative mean interval score, for ``scoring=``.

    The score is the width of the interval, plus ``2 / (1 - coverage)`` times the
    distance of the target from it (Gneiting, Raftery, "Strictly proper scoring rules,
    prediction, and estimation", JASA 102, 2007, section 6.2).

    Parameters
    ----------
    estimator : fitted regressor with `predict_interval`
        Or a Pipeline or search that ends in one.
    X : array-like, sparse matrix or data frame of shape (n_samples, n_features)
    y : array-like of shape (n_samples,) or (n_samples, n_outputs)
    sample_weight : array-like of shape (n_samples,), default=None
    coverage : float, default=0.9
        Between 0 and 1, both excluded. In searches, pass the scorer
        ``interval_score.with_options(coverage=0.8)``.

    Returns
    -------
    float
        In the units of y; larger is better.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.linear_model import LinearRegression
    >>> from sklearn_pgb import GradientBasisRefit, interval_score
    >>> X, y = load_diabetes(return_X_y=True)
    >>> refit = GradientBasisRefit(LinearRegression(), random_state=0).fit(X, y)
    >>> -260 < interval_score(refit, X, y) < -160
    True
    """
    coverage = check_coverage(coverage)
    predictor, X = distributional(estimator, X)
    ends = predictor.predict_interval(X, coverage)
    low, high = _matrix(ends[:, 0]), _matrix(ends[:, 1])
    y = check_targets(y, low.shape, finite=True)
    missed = np.maximum(low - y, 0) + np.maximum(y - high, 0)
    scores = high - low + 2 / (1 - coverage) * missed
    return -_mean(np.mean(scores, 1), sample_weight)


def _matrix(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return values.reshape(len(values), -1)
