"""Scorers of distributions follow scikit-learn's protocol."""

import pickle

import numpy as np
import pytest
from sklearn import config_context
from sklearn.base import clone
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import GridSearchCV
from sklearn.utils.metadata_routing import get_routing_for_object

from sklearn_pgb import GradientBasisRefit, interval_score, neg_crps, neg_nll

X, Y = load_diabetes(return_X_y=True, as_frame=True)
REFIT = GradientBasisRefit(LinearRegression(), random_state=0).fit(X[:300], Y[:300])

SCORERS = [neg_crps, neg_nll, interval_score]
SCORERS += [interval_score.with_options(coverage=0.8)]


@pytest.mark.parametrize("scorer", SCORERS, ids=repr)
def test_weights_and_targets_of_scorers_are_checked(scorer):
    rows, y = X[300:], Y[300:].to_numpy()
    ones = np.ones(len(y))
    for weight, message in (
        (-ones, "Negative values"),
        (np.nan * ones, "contains NaN"),
        (0 * ones, "weight"),
        (ones[:-1], "sample_weight.shape"),
    ):
        with pytest.raises(ValueError, match=message):
            scorer(REFIT, rows, y, weight)
    infinite = np.where(y == y[0], np.inf, y)
    with pytest.raises(ValueError, match="y contains infinity"):
        scorer(REFIT, rows, infinite)
    with pytest.raises(ValueError, match="y must be numbers, got"):
        scorer(REFIT, rows, ["a"] * len(rows))


@pytest.mark.parametrize("scorer", SCORERS, ids=repr)
def test_scorers_are_copied(scorer):
    rows, y = X[300:], Y[300:].to_numpy()
    twin = pickle.loads(pickle.dumps(clone(scorer, safe=False)))
    assert twin(REFIT, rows, y) == scorer(REFIT, rows, y)
    assert repr(twin) == repr(scorer)
    coverage = {"coverage": 0.8} if "coverage" in repr(scorer) else {}
    named = {"neg_crps": neg_crps, "neg_nll": neg_nll}
    plain = named.get(repr(scorer), interval_score)
    assert scorer(REFIT, rows, y) == plain(REFIT, rows, y, **coverage)


@pytest.mark.parametrize("routes", [False, True])
@pytest.mark.parametrize("several", [False, True])
def test_weights_in_searches(routes, several):
    """Weights of scorers are those of the held-out samples, in each of the ways."""
    refit = GradientBasisRefit(LinearRegression(), center="zero", random_state=0)
    weight = np.random.default_rng(0).uniform(0.1, 3, len(Y))
    cv = [(np.arange(300), np.arange(300, len(Y)))]
    y = Y.to_numpy()
    with config_context(enable_metadata_routing=routes):
        scorers = {repr(scorer): scorer for scorer in SCORERS}
        if routes:
            linear = LinearRegression().set_fit_request(sample_weight=True)
            refit = refit.set_params(estimator=linear)
            refit.set_fit_request(sample_weight=True)
            for name, scorer in scorers.items():
                scorers[name] = scorer.set_score_request(sample_weight=True)
                assert scorers[name] is not scorer
                twin = pickle.loads(pickle.dumps(scorers[name]))
                assert "sample_weight" in str(get_routing_for_object(twin))
                assert "True" not in str(get_routing_for_object(scorer))
        model = clone(refit).fit(X[:300], y[:300], sample_weight=weight[:300])
        for chosen in [scorers] if several else [{k: v} for k, v in scorers.items()]:
            scoring = chosen if several else next(iter(chosen.values()))
            search = GridSearchCV(refit, {"center": ["zero"]}, cv=cv, refit=False)
            search.set_params(scoring=scoring).fit(X, y, sample_weight=weight)
            for name, scorer in chosen.items():
                expected = scorer(model, X[300:], y[300:], weight[300:])
                key = f"mean_test_{name}" if several else "mean_test_score"
                assert search.cv_results_[key][0] == pytest.approx(expected)
