"""Find the estimator with predictive distributions inside of wrappers."""

from typing import Any

from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from sklearn_pgb._models._protected import transform_protected
from sklearn_pgb._sklearn import BaseSearchCV


def distributional(estimator: Any, X: Any) -> tuple[Any, Any]:
    """Return the estimator that predicts distributions, and its samples.

    It is the estimator itself, the last step of a Pipeline, whose other steps transform
    X, or the best one of a search, in any nesting.
    """
    check_is_fitted(estimator)
    inner = estimator
    while not hasattr(inner, "predict_distribution"):
        if isinstance(inner, Pipeline):
            if len(inner) > 1:
                X = transform_protected(inner[:-1], X)
            inner = inner[-1]
        elif isinstance(inner, FrozenEstimator):
            inner = inner.estimator
        elif isinstance(inner, BaseSearchCV) and hasattr(inner, "best_estimator_"):
            inner = inner.best_estimator_
        else:
            ending = "" if inner is estimator else f" with {type(inner).__name__}"
            raise TypeError(
                "estimator must predict distributions, got "
                f"{type(estimator).__name__}{ending}. Use a GradientBasisRegressor or "
                "a GradientBasisRefit of a regressor, or a Pipeline or search of one."
            )
    return inner, X
