"""Keywords of `fit` that reach the final estimator."""

from typing import Any

from sklearn.compose import TransformedTargetRegressor
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import has_fit_parameter

from sklearn_pgb._estimator._border import final_estimator
from sklearn_pgb._models._combinations import VOTES, unfitted_members
from sklearn_pgb._sklearn import BaseSearchCV


def fit_parameter(estimator: Any, name: str) -> str | None:
    """Return the keyword of `fit` that reaches the final estimator, if it takes one."""
    if isinstance(estimator, FrozenEstimator):
        # Its fit does nothing with any keyword.
        return name
    if isinstance(estimator, Pipeline):
        step, inner = estimator.steps[-1]
        key = fit_parameter(inner, name)
        return None if key is None else f"{step}__{key}"
    if isinstance(estimator, BaseSearchCV):
        if name == "groups":
            # They are for its folds, and no model gets them.
            return name if _takes_groups(estimator.cv) else None
        return fit_parameter(estimator.estimator, name)
    if isinstance(estimator, TransformedTargetRegressor):
        return fit_parameter(estimator.regressor, name)
    if isinstance(estimator, VOTES):
        # A vote passes weights on to its members, by this keyword and no other.
        keys = [fit_parameter(each, name) for each in unfitted_members(estimator)]
        return name if set(keys) <= {"sample_weight"} else None
    return name if has_fit_parameter(estimator, name) else None


def _takes_groups(cv: Any) -> bool:
    """Whether a splitter has folds of groups; others of scikit-learn would warn."""
    if not hasattr(cv, "split"):
        return False
    if not type(cv).__module__.startswith("sklearn."):
        return True
    return cv.get_metadata_routing().split.requests.get("groups") is True


def weight_keyword(estimator: Any, advice: str, given: str = "sample_weight") -> str:
    """Return the keyword of `fit` for sample weights, or raise if there is none.

    `given` names the parameters with weights.
    """
    key = fit_parameter(estimator, "sample_weight")
    if key is None:
        raise ValueError(
            f"{given} must be None for an estimator whose fit takes no "
            f"sample_weight, got weights for {_unweighted(estimator)}. {advice}"
        )
    return key


def _unweighted(estimator: Any) -> str:
    """Name the part of an estimator that gets no weights."""
    final = final_estimator(estimator)
    name = type(final).__name__
    for member in unfitted_members(final) if isinstance(final, VOTES) else ():
        key = fit_parameter(member, "sample_weight")
        if key is None:
            return f"{_unweighted(member)} in a {name}"
        if key != "sample_weight":
            return (
                f"the {type(member).__name__} in a {name}, which passes no weights to "
                "pipelines"
            )
    return name
