"""Trees, boosters, linear models and combinations as functions of their parameters."""

import numpy as np
import oracles
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose
from sklearn.base import clone, is_classifier
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import load_iris
from sklearn.ensemble import (
    BaggingClassifier,
    BaggingRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    VotingClassifier,
    VotingRegressor,
)
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression, LogisticRegression, PoissonRegressor
from sklearn.model_selection import GridSearchCV
from sklearn.multioutput import MultiOutputClassifier
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PowerTransformer, StandardScaler
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from tree_cases import (
    BOOSTERS,
    COMBINATIONS,
    HIST,
    LINEAR,
    SEED,
    SURROGATES,
    TREES,
    X,
    Y,
    booster,
    mlp,
    soft_vote,
)

from sklearn_pgb import GradientBasisRefit
from sklearn_pgb._models._open import check_can_open, has_trees, open_network

EXACT = TREES | LINEAR | COMBINATIONS
PAIRS = EXACT | SURROGATES


def fitted(name):
    model, targets = PAIRS[name]
    return clone(model).fit(X, Y[targets]), Y[targets]


def raw_of(opened, X):
    inputs = opened.inputs(X)
    return opened.network(opened.network.theta, inputs)


def check_jacobian(opened, X):
    """It is that of automatic differentiation, and ``f = J g``."""
    network, inputs = opened.network, opened.inputs(X)
    operator, head = network.jacobian(inputs), network.find_head(inputs)
    twin = oracles.jacobian(network, inputs[:5])
    assert_allclose(operator.dense(slice(0, 5)), twin, atol=1e-12)
    raw = raw_of(opened, X)
    assert_allclose(operator.matvec(head.span_coef), raw, rtol=1e-12, atol=1e-12)
    if head.bias is None:
        return
    n_outputs = raw.shape[1]
    rest = network.jacobian(inputs, without=head.bias)
    assert rest.n_coef == network.n_params - n_outputs == operator.n_coef - n_outputs
    outside = np.delete(twin.numpy(), np.arange(operator.n_coef)[head.bias], 2)
    assert_allclose(rest.dense(slice(0, 5)), outside, atol=1e-12)
    identity = np.broadcast_to(np.eye(n_outputs), (5, n_outputs, n_outputs))
    assert_allclose(twin[..., head.bias], identity, atol=1e-12)


@pytest.mark.parametrize("name", EXACT)
def test_raw_outputs_are_those_of_the_model(name):
    model, _ = fitted(name)
    opened = open_network(model)
    raw = raw_of(opened, X)
    if isinstance(model, MultiOutputClassifier):
        columns = [each.decision_function(X) for each in model.estimators_]
        expected, actual = np.column_stack(columns), raw.numpy()
    elif is_classifier(model):
        expected, actual = model.decision_function(X), raw.numpy()
    else:
        expected, actual = model.predict(X), opened.loss.predict(raw).numpy()
    expected = expected.reshape(len(X), -1)
    assert_allclose(actual, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", PAIRS)
def test_jacobian_of_models(name):
    check_jacobian(open_network(fitted(name)[0]), X)


@pytest.mark.parametrize("name", PAIRS)
def test_other_parameters(name, generator):
    """A model at other parameters has the outputs of a call with them."""
    opened = open_network(fitted(name)[0])
    network, inputs = opened.network, opened.inputs(X)
    theta = torch.randn(network.n_params, generator=generator, dtype=torch.float64)
    moved = network.at(theta)
    assert_allclose(moved.theta, theta)
    assert_allclose(moved(moved.theta, inputs), network(theta, inputs))
    copy = network.to(torch.device("cpu"))
    assert_allclose(copy.theta, network.theta)
    assert_allclose(network.layers(inputs)[-1], raw_of(opened, X), rtol=1e-12)
    if network.is_linear_in_theta:
        jacobian = network.jacobian(inputs)
        assert_allclose(jacobian.matvec(theta), network(theta, inputs), atol=1e-12)


@pytest.mark.parametrize("name", BOOSTERS)
def test_boosters(name):
    """Raw outputs agree with the packages' predictions in single precision."""
    model, y = booster(name, pytest.importorskip)
    model.fit(X, y)
    opened = open_network(model)
    raw, package = raw_of(opened, X), name.partition(",")[0]
    keywords = {
        "lightgbm": {"raw_score": True},
        "xgboost": {"output_margin": True},
        "catboost": {"prediction_type": "RawFormulaVal"},
    }[package]
    expected = np.asarray(model.predict(X, **keywords)).reshape(len(X), -1)
    assert_allclose(raw, expected, rtol=1e-5, atol=1e-5)
    check_jacobian(opened, X)
    assert has_trees(model)
    if is_classifier(model):
        assert list(opened.classes) == sorted(set(y))


@pytest.mark.parametrize("name", ["lightgbm", "xgboost", "catboost"])
def test_booster_that_stopped_early(name):
    """Only the trees that it predicts with are opened."""
    model, y = booster(name, pytest.importorskip)
    noise = np.random.default_rng(1).normal(size=120)
    validation = [(X, noise)]
    if name == "lightgbm":
        stop = pytest.importorskip("lightgbm").early_stopping(1, verbose=False)
        model.set_params(n_estimators=50)
        model.fit(X, y, eval_X=X, eval_y=noise, callbacks=[stop])
    elif name == "xgboost":
        model.set_params(n_estimators=50, early_stopping_rounds=2)
        model.fit(X, y, eval_set=validation, verbose=False)
    else:
        model.set_params(iterations=50, early_stopping_rounds=1)
        model.fit(X, y, eval_set=validation)
    opened = open_network(model)
    assert opened.network.n_inputs < 50
    assert_allclose(raw_of(opened, X)[:, 0], model.predict(X), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", SURROGATES)
def test_surrogates_start_near_the_models(name):
    """They are noted, and order the classes of most samples as the model does."""
    model, _ = fitted(name)
    opened = open_network(model)
    assert "average" in opened.surrogate
    raw = raw_of(opened, X).numpy()
    if name.endswith("labels"):
        agree = (raw > 0) == model.predict(X)
    else:
        codes = raw.argmax(1) if raw.shape[1] > 1 else (raw[:, 0] > 0).astype(int)
        agree = opened.classes[codes] == model.predict(X)
    assert agree.mean() > 0.85


def test_leaves_of_classification_trees():
    """Leaves get one sample more, with the frequencies of a root with one more."""
    y = np.array([0, 0, 0, 1])
    tree = DecisionTreeClassifier().fit(np.arange(4.0)[:, None], y)
    raw = raw_of(open_network(tree), np.array([[0.0], [3.0]]))
    # Leaves of three samples of class 0, and of one of class 1; in the root these have
    # the frequencies (3.5 / 5, 1.5 / 5).
    expected = [np.log(0.3 / 3.7), np.log(1.3 / 0.7)]
    assert_allclose(raw[:, 0], expected)


def test_bootstrap_samples_without_a_class():
    """Their trees know that there is such a class, but have seen none of it."""
    y = np.r_[np.zeros(20), np.ones(20), 2]
    forest = RandomForestClassifier(30, random_state=0).fit(np.arange(41.0)[:, None], y)
    lacks = [tree.tree_.value[0, 0, 2] == 0 for tree in forest.estimators_]
    assert any(lacks)
    assert not all(lacks)
    raw = raw_of(open_network(forest), np.arange(20.0)[:, None])
    # Every tree has at least one third of a sample more of the class, in 42.
    assert (raw[:, 2] >= np.log(1 / 3 / 42 / 42)).all()


def test_missing_values_and_categories():
    """Histogram trees accept them, inside and outside of a vote."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"a": rng.normal(size=200), "b": rng.choice(list("xyz"), 200)})
    y = frame.a + (frame.b == "x")
    frame.loc[::5, "a"] = np.nan
    frame["b"] = frame.b.astype("category")
    trees = HistGradientBoostingRegressor(**HIST)
    vote = VotingRegressor([("one", trees), ("two", clone(trees))])
    for model in (trees, vote):
        opened = open_network(model.fit(frame, y))
        assert_allclose(raw_of(opened, frame)[:, 0], model.predict(frame), rtol=1e-12)


@pytest.mark.parametrize("max_features", [1.0, 0.5])
def test_bag_whose_members_lack_classes(max_features):
    """A class that a member does not know has a raw output of zero."""
    data, y = load_iris(return_X_y=True)
    # A pipeline takes no weights, so its members see only the samples drawn for them.
    member = make_pipeline(StandardScaler(), LogisticRegression())
    bag = BaggingClassifier(
        member, 8, max_samples=6, max_features=max_features, **SEED
    ).fit(data[::10], y[::10])
    counts = [len(each.classes_) for each in bag.estimators_]
    assert set(counts) == {2, 3}
    opened = open_network(bag)
    raw = np.zeros((len(data), 3))
    for member, features in zip(bag.estimators_, bag.estimators_features_, strict=True):
        own = member.decision_function(data[:, features])
        if own.ndim == 1:
            own = np.column_stack([-own / 2, own / 2])
        raw[:, member.classes_] += own / 8
    assert_allclose(raw_of(opened, data), raw, atol=1e-12)


def test_nested_in_wrappers():
    """A search over a pipeline of a vote of pipelines, frozen."""
    members = [
        (
            "scaled",
            make_pipeline(StandardScaler(), HistGradientBoostingRegressor(**HIST)),
        ),
        ("search", GridSearchCV(DecisionTreeRegressor(**SEED), {"max_depth": [1, 2]})),
        ("frozen", FrozenEstimator(LinearRegression().fit(X, Y["real"]))),
    ]
    pipeline = make_pipeline(StandardScaler(), VotingRegressor(members))
    target = TransformedTargetRegressor(pipeline, transformer=StandardScaler())
    model = FrozenEstimator(target.fit(X, Y["real"]))
    opened = open_network(model)
    raw = raw_of(opened, X).numpy()
    assert_allclose(opened.untransform(raw)[:, 0], model.predict(X), rtol=1e-10)
    assert has_trees(model)


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [
        (HistGradientBoostingRegressor(), True),
        (BaggingRegressor(), True),
        (BaggingRegressor(LinearRegression()), False),
        (VotingRegressor([("a", mlp()), ("b", LinearRegression())]), False),
        (VotingRegressor([("a", mlp()), ("b", DecisionTreeRegressor())]), True),
        (make_pipeline(StandardScaler(), RandomForestClassifier()), True),
    ],
    ids=str,
)
def test_has_trees(estimator, expected):
    assert has_trees(estimator) is expected
    check_can_open(estimator)


# --- bad input -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("estimator", "match"),
    [
        (
            HistGradientBoostingRegressor(loss="quantile", quantile=0.5),
            "loss must be 'squared_error', .* HistGradientBoostingRegressor, got 'quan",
        ),
        (GradientBoostingRegressor(loss="huber"), "got 'huber'"),
        (GradientBoostingClassifier(loss="exponential"), "got 'exponential'"),
        (
            GradientBoostingRegressor(init=LinearRegression()),
            r"init must be None or 'zero' .* got LinearRegression\(\)",
        ),
        (
            DecisionTreeRegressor(criterion="absolute_error"),
            "criterion must be one of .*, got 'absolute_error', whose leaves",
        ),
        (
            VotingClassifier([("a", LogisticRegression())]),
            "voting must be 'soft' to open a VotingClassifier, got 'hard'",
        ),
        (
            VotingRegressor([("a", GradientBoostingRegressor(loss="huber"))]),
            "got 'huber'",
        ),
    ],
    ids=str,
)
def test_models_that_cannot_be_opened(estimator, match):
    """Before and after they are trained."""
    with pytest.raises(ValueError, match=match):
        check_can_open(estimator)
    y = Y["codes"] if is_classifier(estimator) else Y["real"]
    if isinstance(estimator, GradientBoostingClassifier):
        y = Y["code"]
    with pytest.raises(ValueError, match=match):
        open_network(estimator.fit(X, y))


@pytest.mark.parametrize(
    ("name", "params", "match"),
    [
        ("lightgbm", {"objective": "quantile"}, "objective must be .*, got 'quantile'"),
        ("lightgbm", {"boosting_type": "rf"}, "boosting_type must not be 'rf'"),
        ("xgboost", {"objective": "reg:gamma"}, "objective must be .* got 'reg:gamma'"),
        ("xgboost", {"booster": "gblinear"}, "booster must not be 'gblinear'"),
        ("catboost", {"loss_function": "MAE"}, "loss_function must be .* got 'MAE'"),
        ("catboost", {"objective": "MAE"}, "loss_function must be .* got 'MAE'"),
        ("catboost", {"loss_function": "Huber:delta=1"}, "got 'Huber:delta=1'"),
    ],
)
def test_boosters_that_cannot_be_opened(name, params, match):
    model, y = booster(name, pytest.importorskip)
    model.set_params(**params)
    with pytest.raises(ValueError, match=match):
        check_can_open(model)
    if "booster" not in str(params) and "boosting" not in str(params):
        with pytest.raises(ValueError, match=match):
            open_network(model.fit(X, np.abs(y) + 0.1))


@pytest.mark.parametrize(
    ("params", "match"),
    [
        ({"boosting": "rf"}, "boosting_type must not be 'rf'"),
        ({"boosting_type": "random_forest"}, "boosting_type must not be 'rf'"),
        ({"linear_trees": True}, "linear_tree must not be True"),
        ({"reg_sqrt": "true"}, "reg_sqrt must not be True"),
    ],
)
def test_other_names_of_lightgbm_parameters(params, match):
    model, y = booster("lightgbm", pytest.importorskip)
    model.set_params(bagging_fraction=0.5, bagging_freq=1, **params).fit(X, y)
    with pytest.raises(ValueError, match=match):
        open_network(model)


def test_sigmoid_of_lightgbm():
    """Its parameter `sigmoid` is a factor of the log odds."""
    model, y = booster("lightgbm, binary", pytest.importorskip)
    model.set_params(sigmoid=2.0).fit(X, y)
    probability = torch.sigmoid(raw_of(open_network(model), X))[:, 0]
    assert_allclose(probability, model.predict_proba(X)[:, 1], rtol=1e-12)


@pytest.mark.parametrize(
    "model",
    [
        DecisionTreeClassifier(),
        BaggingClassifier(
            make_pipeline(StandardScaler(), HistGradientBoostingClassifier(max_iter=2)),
            max_samples=1,
        ),
    ],
    ids=["tree", "bag"],
)
def test_model_of_one_class(model):
    """Members of a bag may lack classes, but not all except one."""
    y = Y["binary"]
    if isinstance(model, DecisionTreeClassifier):
        y = np.full(120, "yes")
    with pytest.raises(ValueError, match=r"at least 2 classes to open a .*, got the"):
        open_network(model.fit(X, y))


def test_booster_without_trees():
    model, y = booster("xgboost", pytest.importorskip)
    with pytest.raises(ValueError, match="n_estimators must be at least 1 to open"):
        open_network(model.set_params(n_estimators=0).fit(X, y))


def test_vote_with_weights_of_zero():
    members = [("a", LinearRegression()), ("b", "drop")]
    vote = VotingRegressor(members, weights=[0, 1])
    with pytest.raises(ValueError, match=r"must not add up to zero .* got \[0, 1\]"):
        check_can_open(vote)


def test_member_with_another_loss():
    vote = VotingRegressor([("a", LinearRegression()), ("b", PoissonRegressor())])
    match = "must have the squared loss .* got a PoissonRegressor with PoissonLoss"
    with pytest.raises(ValueError, match=match):
        open_network(vote.fit(X, Y["count"]))


def test_member_with_another_transformer_of_the_target():
    member = TransformedTargetRegressor(mlp(), transformer=PowerTransformer())
    vote = VotingRegressor([("a", member)]).fit(X, Y["real"])
    with pytest.raises(ValueError, match=r"transformers of y .* must multiply"):
        open_network(vote)


def test_member_that_cannot_be_opened():
    vote = VotingRegressor([("a", KNeighborsRegressor())])
    with pytest.raises(TypeError, match="estimator must be a network of this package"):
        check_can_open(vote)


def test_refits_are_no_models():
    refit = GradientBasisRefit(LinearRegression(), random_state=0).fit(X, Y["real"])
    with pytest.raises(TypeError, match="open one of them, in `estimators_`"):
        open_network(refit)


def test_several_columns_of_classes():
    y = np.column_stack([Y["codes"], Y["code"]])
    with pytest.raises(ValueError, match="y must have one column, or columns of zeros"):
        open_network(RandomForestClassifier(3).fit(X, y))


@pytest.mark.parametrize(
    "estimator",
    [
        HistGradientBoostingClassifier(),
        GradientBoostingRegressor(),
        DecisionTreeRegressor(),
        LinearRegression(),
        soft_vote(),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
def test_unfitted_models(estimator):
    with pytest.raises(NotFittedError, match="is not fitted yet"):
        open_network(estimator)
