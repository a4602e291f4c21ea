"""Recognize, check and open scikit-learn's models of trees."""

from typing import Any

from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from sklearn.utils.validation import check_is_fitted

from sklearn_pgb._losses._classification import CrossEntropyLoss
from sklearn_pgb._losses._named import one_of
from sklearn_pgb._losses._regression import PoissonLoss, SquaredLoss
from sklearn_pgb._models._averaged_trees import open_averaged
from sklearn_pgb._models._gradient_boosting import open_gradient_boosting
from sklearn_pgb._models._histogram_boosting import open_histogram_boosting
from sklearn_pgb._models._opened import OpenNetwork

HISTOGRAM = HistGradientBoostingRegressor, HistGradientBoostingClassifier
BOOSTED = *HISTOGRAM, GradientBoostingRegressor, GradientBoostingClassifier
AVERAGED = (
    DecisionTreeRegressor,
    DecisionTreeClassifier,
    RandomForestRegressor,
    RandomForestClassifier,
    ExtraTreesRegressor,
    ExtraTreesClassifier,
)
# Losses of boosted trees whose leaf values can be refitted.
BOOSTED_LOSSES = SquaredLoss.name, PoissonLoss.name, CrossEntropyLoss.name
MEAN_CRITERIA = "squared_error", "friedman_mse", "poisson"


def is_tree_model(estimator: Any) -> bool:
    """Whether this is one of scikit-learn's trees or tree ensembles."""
    return isinstance(estimator, BOOSTED + AVERAGED)


def check_trees(estimator: Any) -> None:
    """Check that a model of trees, fitted or not, has a loss that can be opened."""
    name, classifies = type(estimator).__name__, hasattr(estimator, "predict_proba")
    if isinstance(estimator, BOOSTED):
        loss = estimator.loss
        if loss not in BOOSTED_LOSSES:
            raise ValueError(
                f"loss must be {one_of(BOOSTED_LOSSES)} to open a {name}, got {loss!r}."
                " Train it with one of these."
            )
        init = getattr(estimator, "init", None)
        if not (init is None or isinstance(init, str)):
            raise ValueError(
                f"init must be None or 'zero' to open a {name}, got {init!r}, whose "
                "predictions are not constant. Leave it out, or combine both models "
                "in a VotingRegressor."
            )
    elif not classifies and estimator.criterion not in MEAN_CRITERIA:
        raise ValueError(
            f"criterion must be one of {MEAN_CRITERIA} to open a {name}, got "
            f"{estimator.criterion!r}, whose leaves do not hold means. Train it with "
            "'squared_error'."
        )


def open_trees(estimator: Any) -> OpenNetwork:
    """Open a fitted tree, forest or boosted trees."""
    check_is_fitted(estimator)
    check_trees(estimator)
    if isinstance(estimator, HISTOGRAM):
        return open_histogram_boosting(estimator)
    if isinstance(estimator, BOOSTED):
        return open_gradient_boosting(estimator)
    return open_averaged(estimator)
