"""Splitters of the user get what they would get from scikit-learn."""

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import HistGradientBoostingRegressor, StackingRegressor
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold, StratifiedKFold
from table_cases import CURVE, FRAME, TREES, N, X, Y, classifier, regressor

from sklearn_pgb import (
    GradientBasisRefit,
    InputBasis,
    ResNetBasisRegressor,
    compare_bases,
)
from sklearn_pgb._estimator._folds import splitter_parts

NUMBERS = pd.DataFrame(X, columns=list("abc"))


class Recorded(KFold):
    """Two folds; records what they are drawn from."""

    def split(self, X, y=None, groups=None):
        self.given = X, y, groups
        return super().split(X, y, groups)


class Binned(KFold):
    """Folds of the rank of y, as for a stratified regression."""

    def split(self, X, y=None, groups=None):
        return StratifiedKFold(2).split(X, pd.qcut(y, 3, labels=False))


class ByColumn(KFold):
    """Folds of a named column of the table."""

    def split(self, X, y=None, groups=None):
        first = (X["day"] < pd.Timestamp("2020-02-01")).to_numpy()
        for part in (first, ~first):
            yield np.flatnonzero(part), np.flatnonzero(~part)


class Failing(KFold):
    """Fails in its own way."""

    def __init__(self, error):
        super().__init__(2)
        self.error = error

    def split(self, X, y=None, groups=None):
        raise self.error


def fit_stacking(X, y, cv):
    StackingRegressor([("ridge", Ridge())], cv=cv).fit(X, y)


def fit_tables(X, y, cv):
    regressor(cv=cv).fit(X, y)


def fit_refit(X, y, cv):
    GradientBasisRefit(HistGradientBoostingRegressor(**TREES), cv=cv).fit(X, y)


def fit_resnet(X, y, cv):
    ResNetBasisRegressor(max_iter=2, cv=cv, random_state=0).fit(X, y)


def compare(X, y, cv):
    bases = {"inputs": InputBasis()}
    compare_bases(bases, X, y, alpha=1.0, cv=cv, random_state=0)


OURS = [fit_tables, fit_refit, fit_resnet, compare]
USERS = pytest.mark.parametrize("fit", [fit_stacking, *OURS])


@pytest.mark.parametrize("fit", OURS)
@pytest.mark.parametrize("kind", [np.asarray, pd.Series, np.ndarray.tolist])
def test_splitters_get_the_samples_of_the_user(fit, kind):
    y, cv = kind(CURVE), Recorded(2)
    fit(NUMBERS, y, cv)
    assert cv.given[0] is NUMBERS
    assert cv.given[1] is y or kind is np.ndarray.tolist
    np.testing.assert_array_equal(cv.given[1], CURVE)


@USERS
def test_splitters_of_binned_targets(fit):
    fit(NUMBERS, CURVE, Binned(2))


@USERS
@pytest.mark.parametrize("kind", [TypeError, IndexError, ValueError])
def test_errors_of_splitters_are_their_own(fit, kind):
    with pytest.raises(kind, match=r"^its own words$"):
        fit(NUMBERS, CURVE, Failing(kind("its own words")))


def test_splitters_of_a_column():
    """They equal the folds that they draw, also with samples of weight zero."""
    cv, weight = ByColumn(2), np.r_[np.ones(N - 5), np.zeros(5)]
    for make, name in ((regressor, "real"), (classifier, "binary")):
        y = Y[name]
        model = make(cv=cv).fit(FRAME, y, sample_weight=weight)
        twin = make(cv=list(cv.split(FRAME))).fit(FRAME, y, sample_weight=weight)
        np.testing.assert_array_equal(model.predict(FRAME), twin.predict(FRAME))


def test_errors_of_iterables_are_their_own():
    def folds():
        yield np.arange(2), np.arange(2, 4)
        raise TypeError("its own words")

    with pytest.raises(TypeError, match=r"^its own words$"):
        splitter_parts(np.arange(4), folds(), np.eye(4), np.ones(4), classifier=False)
