"""Keywords of `fit` for weights and groups, through wrappers."""

from contextlib import nullcontext

import numpy as np
import pytest
from sklearn.base import BaseEstimator, clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import VotingClassifier, VotingRegressor
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, GroupKFold, KFold
from sklearn.neighbors import KNeighborsRegressor
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_pgb import GradientBasisRefit
from sklearn_pgb._estimator._fit_parameters import fit_parameter, weight_keyword

SCALER = StandardScaler()


class Unweighted(BaseEstimator):
    def fit(self, X, y):
        return self


VOTES = {
    "target": (VotingRegressor([("a", TransformedTargetRegressor(Ridge()))]), True),
    "search": (VotingRegressor([("a", GridSearchCV(Ridge(), {}, cv=2))]), True),
    "vote": (VotingRegressor([("a", VotingRegressor([("b", Ridge())]))]), True),
    "dropped": (VotingRegressor([("a", Ridge()), ("b", "drop")]), True),
    "frozen": (
        VotingRegressor(
            [("a", FrozenEstimator(make_pipeline(SCALER, Ridge()).fit([[0.0]], [0.0])))]
        ),
        True,
    ),
    "pipeline": (VotingRegressor([("a", make_pipeline(SCALER, Ridge()))]), False),
    "no weights": (
        VotingRegressor([("a", Ridge()), ("b", KNeighborsRegressor())]),
        False,
    ),
}


@pytest.mark.parametrize("name", VOTES)
def test_votes_take_weights_if_scikit_learn_passes_them_on(name):
    vote, takes_weights = VOTES[name]
    assert (fit_parameter(vote, "sample_weight") is not None) is takes_weights
    assert fit_parameter(vote, "groups") is None
    refused = pytest.raises((TypeError, ValueError), match=r"sample.weight")
    X, y = np.arange(6.0)[:, None], np.arange(6.0) ** 2
    with nullcontext() if takes_weights else refused:
        vote.fit(X, y, sample_weight=np.ones(6))


def test_weights_for_a_frozen_last_step():
    inner = make_pipeline(SCALER, FrozenEstimator(MLPRegressor()))
    assert fit_parameter(inner, "sample_weight") == "frozenestimator__sample_weight"


def test_no_keyword_for_weights():
    inner = make_pipeline(SCALER, Unweighted())
    assert fit_parameter(inner, "sample_weight") is None
    assert fit_parameter(inner, "groups") is None


class Halves:
    """A splitter of the user's, which takes groups."""

    def split(self, X, y=None, groups=None):
        yield np.flatnonzero(groups < 2), np.flatnonzero(groups >= 2)

    def get_n_splits(self, X=None, y=None, groups=None):
        return 1


@pytest.mark.parametrize(
    ("cv", "takes"),
    [(GroupKFold(2), True), (Halves(), True), (KFold(2), False), (2, False)],
    ids=["groups", "user", "folds", "number"],
)
def test_groups_reach_the_folds_of_a_search(cv, takes):
    """The search sees the groups of its samples, and is as if fitted alone."""
    rng = np.random.default_rng(0)
    X, y, groups = rng.normal(size=(40, 2)), rng.normal(size=40), np.arange(40) % 4
    search = GridSearchCV(Ridge(), {"alpha": [0.1, 10]}, cv=cv)
    for model, key in (
        (search, "groups"),
        (make_pipeline(SCALER, search), "gridsearchcv__groups"),
        (TransformedTargetRegressor(search), "groups"),
    ):
        assert fit_parameter(model, "groups") == (key if takes else None)
    refit = GradientBasisRefit(search, cv=None, alpha=1.0).fit(X, y, groups=groups)
    alone = clone(search).fit(X, y, **({"groups": groups} if takes else {}))
    found = refit.estimator_.cv_results_["mean_test_score"]
    np.testing.assert_array_equal(found, alone.cv_results_["mean_test_score"])


def test_what_gets_no_weights():
    """The message names the part, and the parameters that were given."""
    X, y = np.arange(12.0)[:, None], np.arange(12) % 2
    pipeline = make_pipeline(SCALER, Ridge())
    inner = VotingRegressor([("a", Ridge()), ("b", KNeighborsRegressor())])
    for members, part in (
        ([("a", Ridge()), ("b", pipeline)], "the Pipeline in a VotingRegressor"),
        ([("a", inner)], "KNeighborsRegressor in a VotingRegressor in a VotingRegre"),
    ):
        message = f"^sample_weight must be None .* for {part}.*Leave out sample_weight,"
        with pytest.raises(ValueError, match=message):
            weight_keyword(VotingRegressor(members), "Leave out sample_weight, please.")
    refit = GradientBasisRefit(
        make_pipeline(SCALER, VotingRegressor([("a", pipeline)]))
    )
    with pytest.raises(
        ValueError, match=r"Pipeline in a .*out sample_weight, or train"
    ):
        refit.fit(X, y, sample_weight=np.ones(12))
    vote = VotingClassifier([("a", make_pipeline(LogisticRegression()))], voting="soft")
    refit = GradientBasisRefit(vote, class_weight="balanced")
    with pytest.raises(
        ValueError, match=r"^class_weight must .*Leave out class_weight"
    ):
        refit.fit(X, y)
