"""The estimators for tables: folds, weights, members, targets."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import softmax
from sklearn.base import clone
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    HistGradientBoostingClassifier,
    VotingRegressor,
)
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.metrics import accuracy_score, r2_score
from sklearn.model_selection import GroupKFold, KFold, ShuffleSplit, StratifiedKFold
from sklearn.multioutput import MultiOutputClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from table_cases import (
    CURVE,
    FRAME,
    NETWORK,
    RNG,
    WEIGHT,
    N,
    X,
    Y,
    classifier,
    keep_one_mixture,
    regressor,
    small,
)

from sklearn_pgb import (
    AddedNeuronClassifier,
    AddedNeuronRegressor,
    GradientBasisClassifier,
    GradientBasisRegressor,
)
from sklearn_pgb._models._open import open_network
from sklearn_pgb._models._shared import share_outputs
from sklearn_pgb._operators import _blocked
from sklearn_pgb._operators._outputs import shares_features
from sklearn_pgb._refit import _final, _fold_models, _groups
from sklearn_pgb._tables import _members

TARGETS = pytest.mark.parametrize("name", Y)
FOLDS = list(KFold(3, shuffle=True, random_state=0).split(X))


def prediction(model, rows=X):
    """Predictions, as numbers."""
    if isinstance(model, GradientBasisClassifier):
        return model.predict_proba(rows)
    return model.predict(rows)


# --- results --------------------------------------------------------------------------


@TARGETS
def test_shapes_of_what_fit_learns(name):
    y, n_folds = Y[name], 3
    model = small(name, cv=FOLDS).fit(X, y)
    n_outputs = {"two": 2, "labels": 2, "multi": 3}.get(name, 1)
    n_members = len(model.member_names_)
    assert [len(fold) for fold in model.estimators_] == [n_members] * n_folds
    assert model.stack_weights_.shape == (n_members,)
    assert (model.stack_weights_ >= 0).all()
    assert model.intercept_.shape == model.stack_intercept_.shape == (n_outputs,)
    assert model.group_weights_.shape == (len(model.alpha_), n_members)
    np.testing.assert_allclose(model.group_weights_.sum(1), 1, atol=1e-5)
    assert len({len(values) for values in model.cv_results_.values()}) == 1
    assert {*model.cv_results_["center"]} == {"average", "zero"}
    assert model.oof_prediction_.shape == prediction(model).shape
    assert np.isfinite(model.oof_prediction_).all()
    assert model.n_features_in_ == 3


@TARGETS
def test_held_out_loss_of_the_best_mixture(name, monkeypatch):
    """`oof_prediction_` of a single mixture has the smallest loss of `cv_results_`.

    Losses are in the units that members see.
    """
    keep_one_mixture(monkeypatch)
    model = small(name, cv=FOLDS).fit(X, Y[name], WEIGHT)
    assert len(model.alpha_) == 1
    raw = model.oof_prediction_.reshape(N, -1)
    y = Y[name].reshape(N, -1)
    if name in ("real", "two"):
        losses = (((y - raw) / model._units[1]) ** 2).sum(1)
    elif name == "count":
        losses = (raw - y * np.log(raw)).sum(1)
    elif name == "labels":
        losses = -np.log(np.where(y == 1, raw, 1 - raw)).sum(1)
    else:
        losses = -np.log(raw[y == model.classes_])
    best = model.cv_results_["loss"].min()
    assert WEIGHT @ losses / WEIGHT.sum() == pytest.approx(best, rel=1e-6)


@pytest.mark.parametrize("name", ["real", "two"])
def test_score_of_numbers(name):
    model = small(name).fit(X, Y[name], WEIGHT)
    expected = r2_score(Y[name], model.oof_prediction_, sample_weight=WEIGHT)
    assert model.oof_score_ == expected


@pytest.mark.parametrize("name", ["binary", "multi"])
def test_score_of_labels(name):
    model = small(name).fit(X, Y[name], WEIGHT)
    labels = model.classes_[model.oof_prediction_.argmax(1)]
    expected = accuracy_score(Y[name], labels, sample_weight=WEIGHT)
    assert model.oof_score_ == expected
    probabilities = model.predict_proba(X)
    np.testing.assert_allclose(probabilities.sum(1), 1)
    np.testing.assert_allclose(np.log(probabilities), model.predict_log_proba(X))
    predicted = model.predict(X)
    np.testing.assert_array_equal(predicted, model.classes_[probabilities.argmax(1)])
    decision = model.decision_function(X)
    assert decision.shape == ((N,) if name == "binary" else (N, 3))


def test_several_labels():
    model = small("labels").fit(X, Y["labels"])
    probabilities = model.predict_proba(X)
    np.testing.assert_array_equal(model.predict(X), probabilities > 0.5)
    # The default trees are one booster for each label.
    model = GradientBasisClassifier("drop", forest="drop", cv=2, random_state=0)
    model.fit(X, Y["labels"])
    assert len(model.estimators_[0][0][-1].estimators_) == 2


def test_several_counts():
    """Boosters of each target, whose outputs are logs of means."""
    counts = RNG.poisson(np.exp(X[:, :2] / 2 + 1))
    options = {"loss": "poisson", "random_state": 0}
    model = GradientBasisRegressor(network="drop", **options).fit(X, counts)
    assert model.estimators_[0][0][-1].estimators_[1].loss == "poisson"
    opened = open_network(model.estimators_[0][0])
    raw = opened.network(opened.network.theta, opened.inputs(X)).numpy()
    np.testing.assert_allclose(np.exp(raw), model.estimators_[0][0].predict(X))
    assert model.score(X, counts) > 0.3


def test_folds_without_positive_counts():
    """Trees refuse them; the network does not."""
    rows = np.repeat([[0.0], [1.0]], 50, axis=0)
    counts = np.r_[np.zeros(50), RNG.poisson(3, 50)]
    model = GradientBasisRegressor(
        AddedNeuronRegressor((4,), loss="poisson"), loss="poisson", random_state=0
    )
    with pytest.warns(UserWarning, match="only zeros as counts"):
        model.fit(rows, counts)
    assert model.member_names_ == ["network"]
    # One of its folds has seen positive counts.
    assert (model.predict(rows) > 0.1).all()


def test_rare_label():
    """A label of one sample is constant in the training part that holds it out."""
    y = Y["labels"].copy()
    y[:, 1] = np.arange(N) == 3
    model = GradientBasisClassifier(AddedNeuronClassifier((4,)), cv=2, random_state=0)
    with pytest.warns(UserWarning, match="The built-in trees and forest are left out"):
        model.fit(X, y)
    assert model.member_names_ == ["network"]
    assert model.predict_proba(X)[:, 1].mean() < 0.3
    given = clone(model).set_params(forest=ExtraTreesClassifier(3))
    rare = pytest.warns(UserWarning, match="left out")
    with rare, pytest.raises(ValueError, match="zeros and ones"):
        given.fit(X, y)
    boosters = MultiOutputClassifier(HistGradientBoostingClassifier(max_iter=3))
    given = clone(model).set_params(forest="drop", trees=boosters)
    with pytest.raises(ValueError, match="0 and 1 in every column"):
        given.fit(X, y)


def test_counts_are_positive():
    model = small("count").fit(X, Y["count"])
    assert (model.predict(X) > 0).all()
    assert model.score(X, Y["count"]) > 0.2
    default = GradientBasisRegressor(loss="poisson", cv=2, random_state=0)
    default.fit(X, Y["count"])
    assert default.member_names_ == ["network", "trees"]


def test_default_trees_of_several_targets():
    """One booster for each target."""
    model = GradientBasisRegressor("drop", forest="drop", cv=2, random_state=0)
    model.fit(X, Y["two"])
    assert len(model.estimators_[0][0][-1].estimators_) == 2


def test_classes_share_the_features():
    """The prediction is the sum of all members' derivatives, times coefficients."""
    model = small("multi").fit(X, Y["multi"])
    raw = np.tile(model.intercept_, (N, 1))
    for fold, coefs in zip(model.estimators_, model.basis_coef_, strict=True):
        for member, coef, share in zip(fold, coefs, model.stack_weights_, strict=True):
            shared = share_outputs(open_network(member))
            rows = shared.inputs(X)
            bias = shared.network.find_head(rows).bias
            operator = shared.network.jacobian(rows, without=bias)
            assert shares_features(operator)
            assert coef.shape == (1, operator.n_coef)
            raw += operator.matvec(torch.from_numpy(coef[0])).numpy()
            outputs = shared.network(shared.network.theta, rows).numpy()
            raw += model._centered * share / 2 * outputs
    np.testing.assert_allclose(model._raw(X), raw)
    np.testing.assert_allclose(model.predict_proba(X), softmax(raw, 1))


def test_boosted_trees_split_few_samples():
    x = np.linspace(0, 1, 24)[:, None]
    model = GradientBasisRegressor("drop", forest="drop", random_state=0)
    assert model.fit(x, np.where(x[:, 0] > 0.5, 3.0, -1.0)).oof_score_ > 0.5
    sizes = {3000: (150, 8, 5), 3001: (300, 16, 20)}
    for n_samples, expected in sizes.items():
        kind, loss = _members.trees_member, "squared_error"
        booster = kind([None], loss, n_samples, 1, False)[-1]
        found = booster.max_iter, booster.max_leaf_nodes, booster.min_samples_leaf
        assert found == expected


def test_many_classes_have_fewer_iterations(monkeypatch):
    monkeypatch.setattr(_members, "MOST_TREES", 10)
    model = GradientBasisClassifier("drop", forest="drop", cv=2, random_state=0)
    iterations = {"multi": 3, "binary": 10}
    for name, expected in iterations.items():
        booster = model.fit(X, Y[name]).estimators_[0][0][-1]
        assert booster.n_iter_ == expected


# --- folds ----------------------------------------------------------------------------


@TARGETS
def test_members_have_not_seen_what_they_predict(name):
    """Another target of a sample changes all models but those of its own fold."""
    y = Y[name].copy()
    model = small(name, cv=FOLDS).fit(X, y)
    i = int(FOLDS[1][1][0])
    y[i] = y[np.flatnonzero((y != y[i]).reshape(N, -1).any(1))[0]]
    other = small(name, cv=FOLDS).fit(X, y)
    changed = []
    for mine, theirs in zip(model.estimators_, other.estimators_, strict=True):
        answers = [
            [getattr(each, "predict_proba", each.predict)(X) for each in fold]
            for fold in (mine, theirs)
        ]
        same = [np.array_equal(a, b) for a, b in zip(*answers, strict=True)]
        changed.append(not all(same))
    assert changed == [True, False, True]


def test_held_out_predictions_have_not_seen_their_targets(monkeypatch):
    """With a fixed mixture and stack, no other target of a fold changes them."""
    fixed = _groups.Mixture((0.5, 0.5), 0.01, False)

    def run(search, n_groups):
        search.evaluate(fixed)
        return [fixed]

    monkeypatch.setattr(_groups.MixtureSearch, "run", run)
    keep_one_mixture(monkeypatch)
    held = FOLDS[1][1]
    y = CURVE.copy()
    model = regressor(trees="drop", cv=FOLDS).fit(X, y)
    y[held] = y[held][::-1]
    other = regressor(trees="drop", cv=FOLDS).fit(X, y)
    np.testing.assert_allclose(
        model.oof_prediction_[held], other.oof_prediction_[held], rtol=1e-12
    )
    assert abs(model.oof_prediction_ - other.oof_prediction_).max() > 0.1


@pytest.mark.parametrize("name", ["real", "multi"])
def test_copies_of_a_sample_stay_together(name):
    """Weights are repetitions for members that treat them so, with folds by samples."""
    repeats = WEIGHT.astype(int)
    rows = np.repeat(np.arange(N), repeats)
    kind = DecisionTreeRegressor if name == "real" else DecisionTreeClassifier
    tree = kind(max_depth=3, random_state=0)
    make = regressor if name == "real" else classifier
    options = {"trees": tree, "forest": "drop", "cv": 4, "network": "drop"}
    if name == "real":
        # Least squares counts a weight as copies. Without many columns, losses would
        # hardly depend on alpha.
        cubic = make_pipeline(PolynomialFeatures(3), LinearRegression())
        options["others"] = [("cubic", cubic)]
    weighted = make(**options).fit(X, Y[name], sample_weight=WEIGHT)
    repeated = make(**options).fit(X[rows], Y[name][rows])
    np.testing.assert_allclose(
        prediction(weighted), prediction(repeated), rtol=1e-6, atol=1e-8
    )
    np.testing.assert_allclose(weighted.alpha_, repeated.alpha_)
    expected = repeated.oof_prediction_[np.cumsum(repeats) - 1]
    np.testing.assert_allclose(weighted.oof_prediction_, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("weight", [2.0**-10, 2.0**-40])
@pytest.mark.parametrize("name", ["real", "binary"])
def test_weights_below_one_are_relative(name, weight):
    """Boosted trees would not split 60 samples of weight 2^-20."""
    expected = small(name).fit(X, Y[name])
    model = small(name).fit(X, Y[name], sample_weight=np.full(N, weight))
    np.testing.assert_allclose(prediction(model), prediction(expected), rtol=1e-6)


def test_samples_without_weight_are_left_out():
    weight = np.where(np.arange(N) % 5, 1.0, 0.0)
    rows = np.flatnonzero(weight)
    with_zeros = regressor().fit(X, CURVE, sample_weight=weight)
    without = regressor().fit(X[rows], CURVE[rows], sample_weight=weight[rows])
    np.testing.assert_array_equal(prediction(with_zeros), prediction(without))
    expected = np.full(N, np.nan)
    expected[rows] = without.oof_prediction_
    np.testing.assert_array_equal(with_zeros.oof_prediction_, expected)
    assert with_zeros.oof_score_ == without.oof_score_


def test_groups_stay_together():
    groups = np.arange(N) // 10
    model = regressor(cv=3).fit(X, CURVE, groups=groups)
    y = CURVE.copy()
    y[groups == 2] = 0.0
    other = regressor(cv=3).fit(X, y, groups=groups)
    same = [
        np.array_equal(a[0].predict(X), b[0].predict(X))
        for a, b in zip(model.estimators_, other.estimators_, strict=True)
    ]
    # Only the fold that holds out the group has not seen any of its targets.
    assert sorted(same) == [False, False, True]


def test_groups_go_to_the_splitter():
    groups = np.arange(N) % 4
    model = regressor(cv=GroupKFold(2)).fit(X, CURVE, groups=groups)
    parts = list(GroupKFold(2).split(X, CURVE, groups))
    other = regressor(cv=parts).fit(X, CURVE)
    np.testing.assert_array_equal(prediction(model), prediction(other))


def test_samples_that_no_fold_holds_out():
    """They have no held-out prediction, and do not count in the score."""
    split = ShuffleSplit(2, test_size=0.2, random_state=0)
    held = np.unique(np.concatenate([test for _, test in split.split(X)]))
    model = regressor(cv=split).fit(X, CURVE)
    known = np.isfinite(model.oof_prediction_)
    np.testing.assert_array_equal(np.flatnonzero(known), held)
    expected = r2_score(CURVE[held], model.oof_prediction_[held])
    assert model.oof_score_ == expected


def test_a_class_of_one_sample_is_always_trained_on():
    y = Y["binary"].astype("U4")
    y[0] = "rare"
    model = classifier(cv="auto").fit(X, y)
    assert list(model.classes_) == ["no", "rare", "yes"]
    assert np.isnan(model.oof_prediction_[0]).all()
    assert np.isfinite(model.oof_prediction_[1:]).all()


@pytest.mark.parametrize("n", [2, 3, 4, 7])
def test_few_samples(n):
    model = regressor(cv="auto").fit(FRAME[:n], CURVE[:n])
    assert len(model.estimators_) == min(n, 5)
    assert np.isfinite(model.predict(FRAME)).all()


@pytest.mark.parametrize("n", [3, 4, 7])
def test_few_samples_of_classes(n):
    model = classifier(cv="auto").fit(FRAME[:n], np.arange(n) % 2)
    assert np.isfinite(model.predict_proba(FRAME)).all()


def test_equal_samples_are_held_out_one_by_one():
    """If all samples are equal, the best prediction is their mean."""
    model = regressor(cv="auto").fit(np.ones((N, 2)), CURVE)
    np.testing.assert_allclose(model.predict(np.ones((1, 2))), CURVE.mean(), atol=0.2)


# --- members --------------------------------------------------------------------------


@pytest.mark.parametrize("dropped", ["network", "trees", "forest"])
def test_drop_a_member(dropped):
    model = regressor(**{dropped: "drop"}).fit(X, CURVE)
    expected = [name for name in ("network", "trees", "forest") if name != dropped]
    assert model.member_names_ == expected
    assert {len(fold) for fold in model.estimators_} == {2}
    assert model.score(X, CURVE) > 0.3


def test_other_members():
    vote = VotingRegressor([("r", Ridge()), ("t", ExtraTreesRegressor(2))])
    model = regressor(others=[("ridge", Ridge()), ("vote", vote)]).fit(X, CURVE)
    assert model.member_names_ == ["network", "trees", "forest", "ridge", "vote"]
    assert not hasattr(vote, "estimators_")
    assert model.group_weights_.shape[1] == 5


def test_a_linear_function_is_found_by_its_model():
    """A member that knows the answer is followed, whatever the others say."""
    y = X @ [1.0, -2, 3]
    model = regressor(others=[("linear", LinearRegression())]).fit(X, y)
    new = np.random.default_rng(1).normal(size=(20, 3))
    np.testing.assert_allclose(model.predict(new), new @ [1.0, -2, 3], atol=2e-2)


@pytest.mark.parametrize("column", [np.nan, 1.0, "same", None])
def test_columns_that_say_nothing(column):
    """A column without values, with one value, or with one category."""
    model = regressor().fit(FRAME.assign(new=column), CURVE)
    assert np.isfinite(model.predict(FRAME.assign(new=column))).all()


def test_column_with_thousands_of_categories():
    """Only means of targets serve; every sample has a category of its own."""
    n = 5000
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.normal(size=n), "c": np.arange(n).astype(str)})
    y = frame["x"] + rng.normal(size=n)
    model = regressor(network="drop", cv=2, max_memory="5MB").fit(frame, y)
    assert model.score(frame[:500], y[:500]) > 0.3
    new = pd.DataFrame({"x": [0.0], "c": ["new"]})
    assert np.isfinite(model.predict(new)).all()


def test_categories_help():
    """Labels without order carry most of the signal here."""
    rng = np.random.default_rng(0)
    label = rng.choice(list("abcdef"), N)
    y = np.array([ord(each) * 7 % 5 for each in label]) + 0.1 * rng.normal(size=N)
    frame = FRAME.assign(label=label)
    assert regressor().fit(frame, y).oof_score_ > 0.8
    assert regressor().fit(frame.drop(columns="label"), y).oof_score_ < 0.5


def test_whole_numbers_are_no_classes():
    """Mean targets of categories are those of numbers, at any scale."""
    y = np.round(10 * CURVE)
    model = regressor(network="drop", trees="drop").fit(FRAME, y)
    inputs = model.estimators_[0][0][:-1].transform(np.zeros((1, FRAME.shape[1])))
    assert inputs.shape == (1, FRAME.shape[1])


@TARGETS
def test_all_targets_of_a_mixed_table(name):
    model = small(name).fit(FRAME, Y[name])
    new = FRAME[::-1].assign(label="unseen")
    assert np.isfinite(prediction(model, new)).all()
    assert list(model.feature_names_in_) == list(FRAME.columns)


# --- classes --------------------------------------------------------------------------


def test_class_weights_are_sample_weights():
    weight = {"low": 1.0, "mid": 3.0, "top": 0.5}
    model = classifier(class_weight=weight, cv=FOLDS).fit(X, Y["multi"])
    shares = np.array([weight[label] for label in Y["multi"]])
    other = classifier(cv=FOLDS).fit(X, Y["multi"], sample_weight=shares)
    np.testing.assert_array_equal(prediction(model), prediction(other))


def test_balanced_classes():
    """Equal total weights raise the probability of the rare class."""
    y = np.where(CURVE > 2, "rare", "often")
    plain, balanced = (
        classifier(class_weight=each).fit(X, y).predict_proba(X)[:, 1].mean()
        for each in (None, "balanced")
    )
    assert balanced > plain + 0.01


def test_stratified_folds():
    """A splitter gets the labels."""
    split = StratifiedKFold(3)
    model = classifier(cv=split).fit(X, Y["multi"])
    other = classifier(cv=list(split.split(X, Y["multi"]))).fit(X, Y["multi"])
    np.testing.assert_array_equal(prediction(model), prediction(other))


# --- resources ------------------------------------------------------------------------


@pytest.mark.parametrize("max_memory", ["5KB", "50KB"])
@pytest.mark.parametrize("name", ["real", "multi"])
def test_little_memory(max_memory, name):
    """Folds are solved alone, on as many samples as fit."""
    little = small(name, max_memory=max_memory, cv=FOLDS).fit(X, Y[name])
    assert np.isfinite(prediction(little)).all()
    assert little.score(X, Y[name]) > 0.3


def test_a_constant_target():
    model = regressor().fit(X, np.full(N, 3.0))
    np.testing.assert_allclose(model.predict(X), 3, rtol=1e-6)


def test_the_network_keeps_its_parameters():
    """Estimators that the user passes are cloned."""
    model = regressor()
    before = clone(model).get_params()
    model.fit(X, CURVE)
    assert not hasattr(model.network, "coefs_")
    assert {k: str(v) for k, v in model.get_params().items()} == {
        k: str(v) for k, v in before.items()
    }
    assert model.network.hidden_layer_sizes == NETWORK["hidden_layer_sizes"]


def test_mixtures_are_stacked_although_losses_are_negative():
    # The Poisson loss of counts around 1,000 is about -6,000.
    rng = np.random.default_rng(0)
    X = rng.normal(size=(80, 2))
    y = rng.poisson(1000 * np.exp(0.3 * X[:, 0]))
    model = GradientBasisRegressor(loss="poisson", random_state=0).fit(X, y)
    assert model.cv_results_["loss"].min() < 0
    assert len(model.alpha_) >= 1
    assert model.score(X, y) > 0.9


@pytest.mark.parametrize("test_size", [1, 0.3])
def test_one_split_and_few_heldout_samples(test_size):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 2))
    splitter = ShuffleSplit(1, test_size=test_size, random_state=0)
    model = GradientBasisRegressor(cv=splitter, random_state=0).fit(X, X[:, 0])
    heldout = next(splitter.split(X))[1]
    assert np.isfinite(model.oof_prediction_[heldout]).all()
    assert np.isnan(model.oof_prediction_).sum() == 60 - len(heldout)
    assert np.isfinite(model.predict(X)).all()


@pytest.mark.parametrize("kind", [GradientBasisRegressor, GradientBasisClassifier])
def test_landmarks_that_span_the_basis_change_nothing(kind, monkeypatch):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 3))
    y = X[:, 0] + X[:, 1] + 0.1 * rng.normal(size=60)
    # Its penalty is far too strong for the second input, so a refit is better.
    X = X * [1.0, 0.1, 1.0]
    linear = Ridge(alpha=10)
    if kind is GradientBasisClassifier:
        y, linear = (y > 0).astype(int), LogisticRegression(C=0.1)
    dropped = {"network": "drop", "trees": "drop", "forest": "drop"}
    model = kind(**dropped, others=[("linear", linear)], random_state=0)
    method = "predict" if kind is GradientBasisRegressor else "decision_function"
    whole = getattr(clone(model).fit(X, y), method)(X)
    # Just too little for all 60 samples, and enough for 24.
    monkeypatch.setattr(_groups, "SOLVE_FLOPS", 60**3 / 3 - 1)
    monkeypatch.setattr(_final, "SOLUTION_TOL", 1e-12)
    keep_one_mixture(monkeypatch)
    fitted = clone(model).fit(X, y)
    assert len(fitted.alpha_) == 1
    part = getattr(fitted, method)(X)
    monkeypatch.setattr(_groups, "SOLVE_FLOPS", 60**3 / 3)
    exact = getattr(clone(model).fit(X, y), method)(X)
    # Three inputs span the functions, and so do the kernels of 24 samples.
    np.testing.assert_allclose(part, exact, rtol=1e-4, atol=1e-6)
    assert np.corrcoef(part, whole)[0, 1] > 0.99


def test_many_samples_are_seen_in_parts(monkeypatch):
    """Blocks of samples change only rounding; built-in models see fewer samples."""
    rng = np.random.default_rng(1)
    X = rng.normal(size=(90, 3))
    y = X[:, 0] * X[:, 1] + 0.1 * rng.normal(size=90)
    others = [("forest of mine", ExtraTreesRegressor(3, max_depth=3, random_state=0))]
    dropped = {"network": "drop", "trees": "drop", "forest": "drop"}
    model = GradientBasisRegressor(**dropped, others=others, random_state=0)
    # Landmarks in place of all samples, with their kernels in memory or not.
    monkeypatch.setattr(_groups, "SOLVE_FLOPS", 1e4)
    monkeypatch.setattr(_final, "LANDMARKS", 20)
    whole = clone(model).fit(X, y).predict(X)
    monkeypatch.setattr(_final, "MANY_SAMPLES", 50)
    monkeypatch.setattr(_fold_models, "MANY_SAMPLES", 50)
    monkeypatch.setattr(_final, "SAMPLE_BLOCK", 16)
    monkeypatch.setattr(_fold_models, "SAMPLE_BLOCK", 16)
    monkeypatch.setattr(_blocked, "SAMPLE_BLOCK", 16)
    blocks = clone(model).fit(X, y).predict(X)
    np.testing.assert_allclose(blocks, whole, rtol=1e-9, atol=1e-9)

    monkeypatch.setattr(_members, "FOREST_SAMPLES", 45)
    forest = _members.forest_member([None], "squared_error", 90)[-1]
    assert forest.bootstrap
    assert forest.max_samples == 0.5
    assert not _members.forest_member([None], "squared_error", 45)[-1].bootstrap
