"""Bases and inputs of any kind: missing values, words, texts, inputs of units."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.decomposition import KernelPCA
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.feature_selection import SelectFromModel, SelectKBest, f_regression
from sklearn.frozen import FrozenEstimator
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LassoCV, Ridge
from sklearn.model_selection import KFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    OneHotEncoder,
    PolynomialFeatures,
    SplineTransformer,
    StandardScaler,
    TargetEncoder,
)
from sklearn.utils import get_tags

from sklearn_pgb import ResNetBasisClassifier, ResNetBasisRegressor
from sklearn_pgb._resnet._inputs import is_numeric

FAST = {"hidden_layer_sizes": (3,), "max_iter": 3, "random_state": 0}
X = np.random.default_rng(0).standard_normal((60, 3))
Y = X[:, 0] + np.sin(2 * X[:, 1])
IMPUTER = make_pipeline(SimpleImputer(), StandardScaler())


def with_gaps(rows):
    rows = rows.copy()
    rows[0, 1] = np.nan
    return rows


def test_samples_of_weight_zero_are_absent():
    """The basis is fitted without them, though not with the weights of the others."""
    weight = np.random.default_rng(0).integers(0, 3, 60)
    kept = weight > 0
    model = ResNetBasisRegressor(StandardScaler(), **FAST)
    weighted = clone(model).fit(X, Y, weight)
    assert_allclose(weighted.basis_.mean_, X[kept].mean(0))
    absent = clone(model).fit(X[kept], Y[kept], weight[kept])
    assert_array_equal(weighted.predict(X), absent.predict(X))


# --- texts --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["list", "array", "object array", "series"])
def test_texts_of_any_container(kind):
    """A vectorizer gets them unchanged, and the model equals that of a list."""
    pd = pytest.importorskip("pandas")
    texts = ["spam eggs ham", "good day sir", "cheap spam now", "hello good friend"]
    texts = [f"{texts[i % 4]} w{i % 7}" for i in range(60)]
    labels = np.array(["spam", "ok"] * 30)
    container = {
        "list": list,
        "array": np.array,
        "object array": lambda texts: np.array(texts, dtype=object),
        "series": pd.Series,
    }[kind]
    model = ResNetBasisClassifier(TfidfVectorizer(), alpha=0.1, cv=3, **FAST)
    expected = model.fit(texts, labels).decision_function(texts[:5])
    model.fit(container(texts), labels)
    assert model.residual_input_ == "basis"
    assert_allclose(model.decision_function(container(texts[:5])), expected)


# --- bases that see the targets -----------------------------------------------------


@pytest.mark.parametrize(
    "basis", [SelectKBest(f_regression, k=2), SelectFromModel(LassoCV())]
)
def test_feature_selection_gets_a_vector(basis):
    """A column of targets would cause a warning, which is an error here."""
    model = ResNetBasisRegressor(basis, **FAST).fit(X, Y)
    assert_array_equal(model.basis_.get_support(), clone(basis).fit(X, Y).get_support())


def ridge_objective(features, y, alpha):
    ridge = Ridge(alpha * len(y) / 2).fit(features, y)
    error = np.square(y - ridge.predict(features)).mean()
    return error + 0.5 * alpha * np.square(ridge.coef_).sum()


@pytest.mark.parametrize("frozen", [False, True])
def test_target_encoder_is_that_of_a_pipeline(frozen):
    """Its training features are cross-fitted, unless it is frozen."""
    words = np.random.default_rng(1).choice(list("abcdefghijkl"), (60, 2))
    encoder = TargetEncoder(cv=KFold(3))
    features = clone(encoder).fit_transform(words, Y)
    if frozen:
        encoder = FrozenEstimator(encoder.fit(words, Y))
        features = encoder.transform(words)
    model = ResNetBasisRegressor(encoder, alpha=0.1, cv=None, **FAST).fit(words, Y)
    assert_allclose(model.basis_loss_, ridge_objective(features, Y, 0.1), rtol=1e-9)


# --- inputs of the units -------------------------------------------------------------


def test_missing_values_at_predict_only():
    """Imputed by the basis: the row predicts as if the mean had been given."""
    model = ResNetBasisRegressor(IMPUTER, **FAST).fit(X, Y)
    assert model.residual_input_ == "basis"
    filled = X.copy()
    filled[0, 1] = X[:, 1].mean()
    assert_allclose(model.predict(with_gaps(X)), model.predict(filled), rtol=1e-12)


def test_one_missing_value_in_cross_validation():
    """It is a training sample in some folds and held out in another."""
    model = ResNetBasisRegressor(IMPUTER, **FAST)
    scores = cross_val_score(model, with_gaps(X), Y, cv=4, error_score="raise")
    assert (scores > 0.3).all()


def test_category_that_looks_like_a_number():
    """Column types determine the inputs of the units, not the values."""
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"zip": np.where(Y > 0, "101", "202"), "x": X[:, 0]})
    basis = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore"), ["zip"]), remainder="passthrough"
    )
    model = ResNetBasisRegressor(basis, **FAST).fit(frame, Y)
    unseen = frame.assign(zip="A1")
    features = model.basis_.transform(unseen)
    assert_allclose(features[:, :2], 0)
    assert np.isfinite(model.predict(unseen)).all()


def test_imputer_of_one_column():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(X, columns=list("abc"))
    basis = make_column_transformer((SimpleImputer(), ["b"]), remainder="passthrough")
    for data in (frame, frame.convert_dtypes()):
        model = ResNetBasisRegressor(basis, **FAST).fit(data, Y)
        gaps = data.copy()
        gaps.iloc[0, 1] = np.nan
        assert np.isfinite(model.predict(gaps)).all()


@pytest.mark.parametrize(
    ("basis", "expected"),
    [
        (StandardScaler(), "X"),
        (make_pipeline(StandardScaler(), PolynomialFeatures()), "X"),
        (SplineTransformer(), "X"),
        (SplineTransformer(handle_missing="zeros"), "basis"),
        (OneHotEncoder(handle_unknown="ignore"), "basis"),
        (IMPUTER, "basis"),
    ],
)
def test_units_see_x_unless_the_basis_fills_gaps(basis, expected):
    rows = np.round(X)
    for data in (rows, rows.astype(int)):
        model = ResNetBasisRegressor(basis, **FAST).fit(data, Y)
        assert model.residual_input_ == expected
    other = "X" if expected == "basis" else "basis"
    model.set_params(residual_input=other).fit(data, Y)
    assert model.residual_input_ == other
    n_inputs = 3 if other == "X" else model.basis_.transform(data).shape[1]
    assert model.coefs_[0].shape[0] == n_inputs


def test_without_a_basis_units_see_x():
    model = ResNetBasisRegressor(residual_input="basis", **FAST).fit(X, Y)
    assert model.residual_input_ == "X"


def test_units_that_can_not_see_x():
    model = ResNetBasisRegressor(IMPUTER, residual_input="X", **FAST).fit(X, Y)
    with pytest.raises(ValueError, match="Set residual_input='basis'"):
        model.predict(with_gaps(X))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (X, True),
        (X > 0, True),
        (X.tolist(), True),
        (X.astype(str), False),
        (X.astype(object), False),
        ([["a"], ["b", "c"]], False),
    ],
)
def test_numeric_arrays(data, expected):
    assert is_numeric(data) == expected


def test_numeric_frames():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"a": [1, 2], "b": [0.5, None], "c": [True, False]})
    assert is_numeric(frame)
    assert is_numeric(frame.convert_dtypes())
    for column in (["1", "2"], pd.Categorical([1, 2]), pd.to_datetime([0, 1])):
        assert not is_numeric(frame.assign(d=column))


def test_tags_of_the_basis():
    """A kernel matrix is split by rows and columns, as in a Pipeline."""
    tags = get_tags(ResNetBasisRegressor(KernelPCA(kernel="precomputed"))).input_tags
    assert tags.pairwise
    assert not tags.string
    tags = get_tags(ResNetBasisRegressor(TfidfVectorizer())).input_tags
    assert tags.string
    assert not tags.pairwise
