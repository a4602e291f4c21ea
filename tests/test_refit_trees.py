"""Refits of trees, linear models and combinations."""

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse as sp
from sklearn.base import clone, is_classifier
from sklearn.datasets import make_friedman1
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestRegressor,
    VotingRegressor,
)
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression, PoissonRegressor, Ridge
from sklearn.metrics import log_loss, mean_squared_error
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.tree import DecisionTreeRegressor
from tree_cases import BOOSTERS, COMBINATIONS, SURROGATES, TREES, X, Y, booster, mlp

from sklearn_pgb import GradientBasisRefit, certify
from sklearn_pgb._bases._tangent import TangentSpace
from sklearn_pgb._convex._problem import ConvexProblem
from sklearn_pgb._convex._solve import solve
from sklearn_pgb._models._open import open_network

RNG = np.random.default_rng(1)
WEIGHT = RNG.integers(1, 4, 120).astype(float)
REAL = Y["real"]


def frozen_refit(model, weight=None, **params):
    """A refit of a trained model; the validation samples choose nothing."""
    params = {"alpha": 0.0, "center": "zero"} | params
    refit = GradientBasisRefit(FrozenEstimator(model), **params)
    return refit.fit(X, REAL, weight, X_val=X[:2], y_val=REAL[:2])


def indicators(model, X):
    """The indicators of the leaves, with an intercept."""
    leaves = open_network(model).inputs(X).numpy()
    columns = [
        leaves[:, [t]] == np.unique(leaves[:, t]) for t in range(leaves.shape[1])
    ]
    return np.column_stack([np.ones(len(X)), *columns]), leaves


def least_loss(Phi, y, weight):
    root = np.sqrt(weight / weight.sum())
    coef = np.linalg.lstsq(root[:, None] * Phi, root * y, rcond=None)[0]
    return np.average((Phi @ coef - y) ** 2, weights=weight)


# --- cases of the theory -------------------------------------------------------------


def test_GB_18():
    """A regression tree is critical: its leaf values minimize the loss jointly."""
    tree = DecisionTreeRegressor(max_depth=4, random_state=0).fit(X, REAL, WEIGHT)
    certificate = certify(tree, X, REAL, sample_weight=WEIGHT)
    assert certificate.gap <= 1e-12
    assert certificate.verdict == "certified_global"
    assert certificate.rank == tree.get_n_leaves()
    refit = frozen_refit(tree, WEIGHT)
    assert_allclose(refit.predict(X), tree.predict(X), rtol=0, atol=1e-10)


def test_GB_19():
    """Boosting leaves a gap, which the refit on the leaves closes."""
    data, y = make_friedman1(200, noise=0.5, random_state=0)
    model = HistGradientBoostingRegressor(max_iter=20, max_leaf_nodes=7, random_state=0)
    opened = open_network(model.fit(data, y))
    inputs = opened.inputs(data)
    g = opened.network.find_head(inputs).span_coef
    raw = opened.network.jacobian(inputs).matvec(g)
    assert_allclose(raw[:, 0], model.predict(data), rtol=1e-12)
    Phi, leaves = indicators(model, data)
    certificate = certify(model, data, y)
    assert certificate.verdict == "not_critical"
    assert certificate.loss == pytest.approx(np.mean((model.predict(data) - y) ** 2))
    least = least_loss(Phi, y, np.ones(200))
    assert certificate.gap == pytest.approx(certificate.loss - least, abs=1e-6)
    bound = 1 + sum(leaves.max(0))
    assert np.linalg.matrix_rank(Phi) == certificate.rank <= bound
    refit = GradientBasisRefit(FrozenEstimator(model), alpha=0.0, center="zero")
    refit.fit(data, y, X_val=data[:2], y_val=y[:2])
    assert refit.refit_loss_ == pytest.approx(least, abs=1e-10)
    assert refit.lower_bound_ <= least + 1e-12


def test_GB_20():
    """The Jacobian of a vote is that of its members, weighted, side by side."""
    trees = HistGradientBoostingRegressor(max_iter=3, max_leaf_nodes=4, random_state=0)
    members = [("a", Ridge()), ("b", mlp()), ("c", trees)]
    vote = VotingRegressor(members, weights=[1, 2, 3]).fit(X, REAL)
    opened = open_network(vote)
    network, inputs = opened.network, opened.inputs(X)
    theta, J = network.theta, network.jacobian(inputs).dense()[:, 0]
    step, start = 1e-6, 0
    for number, member in enumerate(vote.estimators_):
        own = open_network(member)
        own_inputs = own.inputs(X)
        bias = own.network.find_head(own_inputs).bias
        block = own.network.jacobian(own_inputs, without=bias).dense()[:, 0]
        part = J[:, start : start + block.shape[1]]
        assert_allclose(part, (number + 1) / 6 * block, rtol=1e-12, atol=1e-14)
        start += block.shape[1]
    assert_allclose(J[:, start:], 1.0)
    assert start == network.n_params - 1
    for k in range(network.n_params):
        shift = torch.zeros_like(theta)
        shift[k] = step
        difference = network(theta + shift, inputs) - network(theta - shift, inputs)
        assert_allclose(difference[:, 0] / (2 * step), J[:, k], atol=1e-6)
    loss = frozen_refit(vote).refit_loss_
    for member in vote.estimators_:
        assert loss <= (1 + 1e-9) * frozen_refit(member).refit_loss_


def test_GB_21():
    """A model of weight zero has no effect; a large alpha gives the average."""
    models = [
        DecisionTreeRegressor(max_depth=3, random_state=0).fit(X, REAL),
        HistGradientBoostingRegressor(max_iter=5, random_state=0).fit(X, REAL),
    ]
    opened = [open_network(model) for model in models]
    networks = [each.network for each in opened]
    inputs = [each.inputs(X) for each in opened]
    weight = torch.tensor(WEIGHT / WEIGHT.sum())
    y = torch.tensor(REAL)[:, None]
    single = TangentSpace.of(networks[:1], inputs[:1], weight)
    both = TangentSpace.with_scales(networks, inputs, [single.scales[0], 0.0])

    def raw(space, inputs, alpha, offset=None):
        problem = ConvexProblem(
            space.operator(inputs),
            y,
            opened[0].loss,
            weight,
            alpha=alpha,
            intercept=True,
            offset=offset,
        )
        solution = solve(problem)
        return problem.raw(solution.coef, solution.intercept)

    alone = raw(single, inputs[:1], 0.01)
    assert_allclose(raw(both, inputs, 0.01), alone, rtol=0, atol=1e-10)
    rho = 0.3, 0.7
    average = sum(
        r * network(network.theta, rows)
        for r, network, rows in zip(rho, networks, inputs, strict=True)
    )
    space = TangentSpace.of(networks, inputs, weight)
    constant = float(weight @ (y - average)[:, 0])
    far = raw(space, inputs, 1e12, offset=average)
    assert_allclose(far, average + constant, rtol=0, atol=1e-6)


# --- refits --------------------------------------------------------------------------


def heldout_data(seed=0, n=600):
    data, y = make_friedman1(n, noise=1.0, random_state=seed)
    return data[: n // 2], data[n // 2 :], y[: n // 2], y[n // 2 :]


def test_refit_improves_boosted_trees(seed):
    X, X_test, y, y_test = heldout_data(seed)
    model = HistGradientBoostingRegressor(random_state=0)
    refit = GradientBasisRefit(model, random_state=0).fit(X, y)
    model.fit(X, y)
    losses = [
        mean_squared_error(y_test, each.predict(X_test)) for each in (refit, model)
    ]
    assert losses[0] < 0.95 * losses[1]
    assert len(refit.estimators_) == 5
    assert refit.refit_loss_ < refit.model_loss_


def test_refit_improves_boosted_classifier(seed):
    X, X_test, y, y_test = heldout_data(seed)
    codes, codes_test = (np.digitize(each, [11, 16]) for each in (y, y_test))
    model = HistGradientBoostingClassifier(random_state=0)
    refit = GradientBasisRefit(model, random_state=0).fit(X, codes)
    model.fit(X, codes)
    losses = [log_loss(codes_test, m.predict_proba(X_test)) for m in (refit, model)]
    assert losses[0] < 0.9 * losses[1]


SMALL = {
    name: (TREES | COMBINATIONS | SURROGATES)[name]
    for name in [
        "histogram, Poisson",
        "histogram, binary",
        "boosting, multi",
        "forest, two",
        "tree",
        "bag",
        "one each",
        "vote of bags",
        "forest, labels",
        "forest, multi",
        "vote, binary",
    ]
}


@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
@pytest.mark.parametrize("name", SMALL)
def test_refit_of_other_models(name, weighted):
    """Predictions have the form of the model's, and the loss is bounded."""
    model, targets = SMALL[name]
    y = Y[targets]
    refit = GradientBasisRefit(model, cv=2, random_state=0)
    refit.fit(X, y, WEIGHT if weighted else None)
    own = clone(model).fit(X, y)
    assert refit.predict(X).shape == own.predict(X).shape
    assert refit.lower_bound_ <= refit.refit_loss_
    if is_classifier(model):
        proba = refit.predict_proba(X[:3])
        assert proba.shape[1] == (3 if targets != "binary" else 2)
    features = refit.transform(X[:7])
    assert features.shape[0] == 7
    assert features.shape[1] == len(refit.get_feature_names_out())
    again = pickle.loads(pickle.dumps(refit))
    assert_array_equal(again.predict(X), refit.predict(X))


@pytest.mark.parametrize("name", ["lightgbm", "xgboost, multi", "catboost, multi"])
def test_refit_of_boosters(name):
    assert name in BOOSTERS
    model, y = booster(name, pytest.importorskip)
    refit = GradientBasisRefit(model, cv=2, random_state=0).fit(X, y)
    model.fit(X, y)
    assert refit.predict(X).shape == np.squeeze(model.predict(X)).shape
    assert sp.issparse(refit.transform(X))


@pytest.mark.parametrize("name", ["forest, two", "boosting, multi", "one each", "bag"])
def test_sparse_features(name):
    """`transform` returns the Jacobians of the models, one output after the other."""
    model, targets = (TREES | COMBINATIONS)[name]
    refit = GradientBasisRefit(model, cv=2, alpha=0.1).fit(X, Y[targets])
    features = refit.transform(X[:6])
    assert sp.issparse(features)
    parts = []
    for each in refit.estimators_:
        opened = open_network(each)
        parts.append(opened.network.jacobian(opened.inputs(X[:6])).dense())
    assert_allclose(features.toarray(), torch.cat(parts, -1).flatten(1))
    sketch = refit.set_params(n_components=3).fit(X, Y[targets]).transform(X[:6])
    assert sketch.shape == (6, 3)


def test_weights_are_repetitions():
    """Integer weights equal repeated samples, for a tree and for its refit."""
    model = DecisionTreeRegressor(max_depth=3, random_state=0)
    refit = GradientBasisRefit(model, random_state=0)
    times = WEIGHT.astype(int)
    repeated = clone(refit).fit(np.repeat(X, times, 0), np.repeat(REAL, times))
    weighted = clone(refit).fit(X, REAL, WEIGHT)
    assert_allclose(weighted.predict(X), repeated.predict(X), rtol=1e-9)


def test_tensors_as_inputs():
    """Forests take them, and so do their refits."""
    refit = GradientBasisRefit(TREES["forest"][0], random_state=0)
    expected = refit.fit(X, REAL).predict(X)
    refit.fit(torch.from_numpy(X), REAL)
    assert_array_equal(refit.predict(torch.from_numpy(X)), expected)


def test_frames_with_missing_values_and_categories():
    """Missing values and categories pass through the refit and its search."""
    frame = pd.DataFrame({"a": X[:, 0], "b": np.where(X[:, 1] > 0, "x", "y")})
    frame.loc[::7, "a"] = np.nan
    frame["b"] = frame.b.astype("category")
    model = HistGradientBoostingRegressor(max_iter=5, random_state=0)
    refit = GradientBasisRefit(model, cv=2, random_state=0).fit(frame, REAL)
    assert list(refit.feature_names_in_) == ["a", "b"]
    assert np.isfinite(refit.predict(frame)).all()
    search = GridSearchCV(refit, {"estimator__max_leaf_nodes": [3, 5]}, cv=2)
    assert search.fit(frame, REAL).best_score_ > -1


def test_number_for_alpha_keeps_the_folds_of_trees():
    model = RandomForestRegressor(3, random_state=0)
    refit = GradientBasisRefit(model, alpha=0.1, random_state=0).fit(X, REAL)
    assert len(refit.estimators_) == 5
    linear = GradientBasisRefit(LinearRegression(), alpha=0.1).fit(X, REAL)
    assert len(linear.estimators_) == 1


def test_refit_of_a_linear_model_is_least_squares():
    refit = GradientBasisRefit(Ridge(alpha=100), alpha=0.0, center="zero").fit(X, REAL)
    expected = LinearRegression().fit(X, REAL).predict(X)
    assert_allclose(refit.predict(X), expected, rtol=1e-9, atol=1e-9)


# --- bad input -----------------------------------------------------------------------


TREE = DecisionTreeRegressor(max_depth=2).fit(X, REAL)
VOTE = VotingRegressor([("a", LinearRegression()), ("b", DecisionTreeRegressor())])


@pytest.mark.parametrize(
    ("model", "params", "match"),
    [
        (FrozenEstimator(TREE), {}, "X_val and y_val must be given for trees"),
        (FrozenEstimator(TREE), {"alpha": 1.0}, "X_val and y_val must be given"),
        (
            make_pipeline(FrozenEstimator(clone(VOTE).fit(X, REAL))),
            {"cv": None},
            "cv must not be None for trees, because they memorize",
        ),
        (
            make_pipeline(FrozenEstimator(clone(VOTE).fit(X, REAL))),
            {},
            "must not hold a frozen model.*got one in Pipeline. Unfreeze it, or",
        ),
        (
            VotingRegressor([("a", FrozenEstimator(TREE)), ("b", LinearRegression())]),
            {"cv": 3},
            "must not hold a frozen model.*got one in VotingRegressor",
        ),
        (TREE, {"cv": None}, "cv must not be None for trees"),
        (VOTE, {"cv": None, "alpha": 1.0}, "cv must not be None for trees"),
        (
            TREE,
            {"alpha": "loo"},
            "alpha must be 'auto', a number or an array for trees",
        ),
        (
            HistGradientBoostingRegressor(loss="quantile", quantile=0.5),
            {},
            "loss must be 'squared_error', .* got 'quantile'",
        ),
    ],
    ids=str,
)
def test_choice_on_memorized_samples_is_refused(model, params, match):
    with pytest.raises(ValueError, match=match):
        GradientBasisRefit(model, **params).fit(X, REAL)


def test_evidence_needs_the_squared_loss():
    with pytest.raises(ValueError, match="alpha='evidence' needs the squared loss"):
        GradientBasisRefit(PoissonRegressor(), alpha="evidence").fit(X, Y["count"])


def test_weights_that_a_member_does_not_take():
    pipeline = make_pipeline(LinearRegression())
    vote = VotingRegressor([("a", pipeline), ("b", LinearRegression())])
    match = "must be None for an estimator whose fit takes no sample_weight"
    with pytest.raises(ValueError, match=match):
        GradientBasisRefit(vote).fit(X, REAL, WEIGHT)
