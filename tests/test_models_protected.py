"""Models that write into their inputs equal those that copy them first."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.cluster import KMeans
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import HistGradientBoostingRegressor, VotingRegressor
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import Ridge
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import (
    FunctionTransformer,
    MaxAbsScaler,
    MinMaxScaler,
    StandardScaler,
)

from sklearn_pgb import (
    FeatureBasis,
    GradientBasis,
    GradientBasisRefit,
    ResNetBasisRegressor,
    certify,
    compare_bases,
    survey_minima,
)
from sklearn_pgb._models._protected import guard_for

RNG = np.random.default_rng(0)
X = 5 + 3 * RNG.random((60, 3))
Y = 100 + 10 * X[:, 0] + RNG.normal(size=60)


class Centered(TransformerMixin, BaseEstimator):
    """A transformer of the user, which may write into its input."""

    def __init__(self, copy=True):
        self.copy = copy

    def fit(self, X, y=None):
        self.mean_ = X.mean(0)
        return self

    def transform(self, X):
        X = X.copy() if self.copy else X
        X -= self.mean_
        return X


def plus_one(X):
    return X + 1


def add_one(X):
    X += 1
    return X


def trees(copy):
    trees = HistGradientBoostingRegressor(max_iter=3, random_state=0)
    return make_pipeline(StandardScaler(copy=copy), trees)


def target(copy):
    scaler = StandardScaler(copy=copy)
    return TransformedTargetRegressor(Ridge(copy_X=copy), transformer=scaler)


def vote(copy):
    """Its members get the same arrays."""
    scaled = make_pipeline(StandardScaler(copy=copy), Ridge(copy_X=copy))
    members = [("a", scaled), ("b", Ridge()), ("c", target(copy)), ("d", target(copy))]
    return VotingRegressor(members)


MODELS = {
    "trees": trees,
    "target": target,
    "vote": vote,
    "union": lambda copy: make_pipeline(
        make_union(StandardScaler(copy=copy), MinMaxScaler(copy=copy)), Ridge()
    ),
    "clusters": lambda copy: make_pipeline(
        KMeans(3, n_init=1, random_state=0, copy_x=copy), Ridge()
    ),
    "user": lambda copy: make_pipeline(Centered(copy), Ridge()),
    "function": lambda copy: make_pipeline(
        FunctionTransformer(plus_one if copy else add_one), Ridge()
    ),
}


@pytest.mark.parametrize("cv", [None, 3], ids=["all", "folds"])
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_refit_in_place(make, cv):
    """The refit is that of the model with copies, and no array changes."""
    if make is trees and cv is None:
        pytest.skip("Trees are always cross-fitted.")
    params = {"alpha": [0.1, 1.0], "cv": cv, "random_state": 0}
    expected = GradientBasisRefit(make(True), **params).fit(X, Y)
    rows, y = X.copy(), Y.copy()
    refit = GradientBasisRefit(make(False), **params).fit(rows, y)
    assert_allclose(refit.predict(rows), expected.predict(X), rtol=1e-10)
    if cv is not None:
        assert_allclose(refit.oof_score_, expected.oof_score_, rtol=1e-10)
    assert_array_equal(rows, X)
    assert_array_equal(y, Y)


@pytest.mark.parametrize("make", [trees, target], ids=["trees", "target"])
def test_trained_model_in_place(make):
    """Certificates and refits of a trained model leave the arrays as they are."""
    trained = make(False).fit(X.copy(), Y.copy())
    copying = make(True).fit(X, Y)
    rows, y = X.copy(), Y.copy()
    assert_allclose(certify(trained, rows, y).loss, certify(copying, X, Y).loss)
    refit = GradientBasisRefit(FrozenEstimator(trained), alpha=1.0)
    refit.fit(rows, y, X_val=rows, y_val=y)
    expected = GradientBasisRefit(FrozenEstimator(copying), alpha=1.0)
    expected.fit(X, Y, X_val=X, y_val=Y)
    assert_allclose(refit.predict(rows), expected.predict(X), rtol=1e-10)
    assert_array_equal(rows, X)
    assert_array_equal(y, Y)


def test_other_estimators_in_place():
    """Bases, comparisons, surveys and ResNet bases leave the arrays as they are."""

    def results(copy, X, y):
        scaler = StandardScaler(copy=copy)
        pipeline = make_pipeline(scaler, Ridge())
        network = make_pipeline(
            scaler, MLPRegressor(hidden_layer_sizes=2, solver="lbfgs", random_state=0)
        )
        model = ResNetBasisRegressor(scaler, 2, max_iter=2, random_state=0).fit(X, y)
        yield model.predict(X)
        yield FeatureBasis(scaler).fit(X).features(X)
        yield GradientBasis(pipeline).fit(X, y).operator(X, 1).dense()
        compared = compare_bases({"a": pipeline, "b": scaler}, X, y, cv=2)
        yield [report.train_loss for report in compared.reports]
        wrapped = TransformedTargetRegressor(network, transformer=scaler)
        yield survey_minima(wrapped, X, y, n_starts=2, random_state=0).loss

    rows, y = X.copy(), Y.copy()
    for found, expected in zip(
        results(False, rows, y), results(True, X, Y), strict=True
    ):
        assert_allclose(found, expected, rtol=1e-8)
    assert_array_equal(rows, X)
    assert_array_equal(y, Y)


def test_arrays_are_copied_only_if_a_model_writes():
    plain = make_pipeline(StandardScaler(), FunctionTransformer(np.log), Ridge())
    assert guard_for([plain])(X) is X
    saving = guard_for([make_pipeline(StandardScaler(copy=False), Ridge())])
    view = saving(X)
    assert np.shares_memory(view, X)
    assert not view.flags.writeable
    assert X.flags.writeable
    copied = guard_for([make_pipeline(Centered(copy=False), Ridge())])(X)
    assert not np.shares_memory(copied, X)
    assert copied.flags.writeable


@pytest.mark.parametrize(
    "convert", [pd.DataFrame, sp.csr_array], ids=["frame", "sparse"]
)
def test_frames_and_sparse_matrices_in_place(convert):
    scaler = MaxAbsScaler(copy=False)
    rows = convert(X.copy())
    refit = GradientBasisRefit(make_pipeline(scaler, Ridge()), alpha=1.0).fit(rows, Y)
    refit.predict(rows)
    dense = rows.toarray() if sp.issparse(rows) else rows.to_numpy()
    assert_array_equal(dense, X)
