"""Target transformations that all networks of a refit have in common."""

import numpy as np
import pytest
from sklearn.compose import TransformedTargetRegressor
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler

from sklearn_pgb import GradientBasisRefit
from sklearn_pgb._estimator._border import open_all
from sklearn_pgb._estimator._shared_targets import share_target_transformation
from sklearn_pgb._estimator._trainer import train_networks

SCALER = StandardScaler()


def mlp(**params):
    params = {"solver": "lbfgs", "max_iter": 5, "random_state": 0} | params
    return MLPRegressor(hidden_layer_sizes=(3,), **params)


def half(y):
    return y / 2


def double(y):
    return 2 * y


@pytest.mark.parametrize(
    "outer",
    [
        lambda e: e,
        lambda e: make_pipeline(SCALER, e),
        lambda e: GridSearchCV(e, {"regressor__alpha": [0.1, 1.0]}, cv=2),
        lambda e: TransformedTargetRegressor(e, transformer=MinMaxScaler()),
        lambda e: TransformedTargetRegressor(make_pipeline(SCALER, e)),
        lambda e: TransformedTargetRegressor(
            GridSearchCV(e, {"regressor__alpha": [0.1, 1.0]}, cv=2)
        ),
        lambda e: TransformedTargetRegressor(e, func=half, inverse_func=double),
    ],
    ids=["plain", "pipeline", "search", "target", "of pipeline", "of search", "func"],
)
def test_target_transformation_is_fitted_once(outer):
    """The transformation is fitted to all samples, for networks on parts of them."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(20, 2)), 100 + 10 * rng.normal(size=20)
    estimator = outer(TransformedTargetRegressor(mlp(), transformer=StandardScaler()))
    shared = share_target_transformation(estimator, y)
    parts = [np.arange(10), np.arange(10, 20)]
    networks = train_networks(shared, [0, 0], parts, X, y, {}, None)
    expected = (y - y.mean()) / y.std()
    for opened in open_all(networks, None, None):
        np.testing.assert_allclose(opened.targets(y)[:, 0], expected, rtol=1e-12)
        np.testing.assert_allclose(
            opened.untransform(expected[:, None])[:, 0], y, rtol=1e-12
        )


def test_average_of_nested_target_transformations():
    """With a huge penalty, the refit is the average of the networks and a constant."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(60, 2)), rng.normal(size=60)
    y += 100 * (rng.random(60) < 0.1)
    inner = TransformedTargetRegressor(Ridge(), transformer=StandardScaler())
    outer = TransformedTargetRegressor(inner, transformer=StandardScaler())
    refit = GradientBasisRefit(outer, alpha=1e9, center="average", cv=3).fit(X, y)
    average = np.mean([each.predict(X) for each in refit.estimators_], axis=0)
    change = refit.predict(X) - average
    np.testing.assert_allclose(change, change.mean(), atol=1e-6)
    loss = np.mean((average - y) ** 2) / y.var()
    np.testing.assert_allclose(refit.model_loss_, loss, rtol=1e-10)


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"transformer__with_mean": [True, False]}, "over .'transformer__with_mean'."),
        ({"transformer": [StandardScaler(), MinMaxScaler()]}, "over .'transformer'."),
        (
            {
                "regressor": [
                    TransformedTargetRegressor(Ridge(), transformer=each)
                    for each in (StandardScaler(), MinMaxScaler())
                ]
            },
            "chose different",
        ),
    ],
    ids=["parameter", "transformer", "regressor"],
)
def test_search_over_target_transformations(grid, message):
    """Networks that predict different transformations can't be averaged."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(30, 2)), rng.normal(size=30)
    inner = TransformedTargetRegressor(Ridge(), transformer=StandardScaler())
    search = GridSearchCV(inner, grid, cv=2)
    with pytest.raises(ValueError, match=f"same way for every network, .*{message}"):
        GradientBasisRefit(search, cv=3).fit(X, y)


def test_nothing_to_share():
    for estimator in (
        mlp(),
        make_pipeline(SCALER, mlp()),
        GridSearchCV(mlp(), {}),
        TransformedTargetRegressor(mlp(), func=np.log, inverse_func=np.exp),
    ):
        assert share_target_transformation(estimator, np.ones(3)) is estimator


class OneArgument(StandardScaler):
    """As TransformedTargetRegressor calls it: without a second argument."""

    def fit(self, y):
        return super().fit(y)


def test_transformers_get_targets_alone():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(30, 2)), rng.normal(size=30)
    first, second = (
        GradientBasisRefit(
            TransformedTargetRegressor(Ridge(), transformer=each), random_state=0
        ).fit(X, y)
        for each in (OneArgument(), StandardScaler())
    )
    np.testing.assert_array_equal(first.predict(X), second.predict(X))
