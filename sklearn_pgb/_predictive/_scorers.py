"""Scorers of predictive distributions, for searches and cross-validation."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from sklearn_pgb._predictive._conformal import check_coverage
from sklearn_pgb._predictive._distribution import check_targets
from sklearn_pgb._predictive._predictor import distributional


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
    scores = predictor.predict_distribution(X).crps(y)
    return -float(np.average(np.mean(_matrix(scores), 1), weights=sample_weight))


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
    logs = predictor.predict_distribution(X).log_prob(y)
    return float(np.average(np.sum(_matrix(logs), 1), weights=sample_weight))


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
        Between 0 and 1, both excluded.

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
    y = check_targets(y, low.shape)
    missed = np.maximum(low - y, 0) + np.maximum(y - high, 0)
    scores = high - low + 2 / (1 - coverage) * missed
    return -float(np.average(np.mean(scores, 1), weights=sample_weight))


def _matrix(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return values.reshape(len(values), -1)
