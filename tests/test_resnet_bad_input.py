"""ResNet-basis estimators: bad data and parameters."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.preprocessing import FunctionTransformer, MaxAbsScaler, StandardScaler
from torch import nn

from sklearn_pgb import ResNetBasisClassifier, ResNetBasisRegressor

X = np.random.default_rng(0).standard_normal((20, 3))
Y = X[:, 0]
FAST = {"hidden_layer_sizes": (3,), "max_iter": 3, "random_state": 0}


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"hidden_layer_sizes": ()}, "at least one layer"),
        ({"hidden_layer_sizes": (3, 0)}, "hidden_layer_sizes must be integers > 0"),
        ({"hidden_layer_sizes": (3.5,)}, "hidden_layer_sizes must be integers > 0"),
        ({"alpha": -1}, "alpha"),
        ({"cv": 1}, "cv"),
        ({"basis": "linear"}, "basis"),
    ],
)
def test_bad_parameters(params, message):
    with pytest.raises(ValueError, match=message):
        ResNetBasisRegressor(**FAST | params).fit(X, Y)


def test_module_that_makes_no_module():
    with pytest.raises(TypeError, match="module must be a torch"):
        ResNetBasisRegressor(module=lambda: 3).fit(X, Y)


class Units(nn.Module):
    def __init__(self, change):
        super().__init__()
        self.layer, self.change = nn.Linear(3, 4), change

    def forward(self, X):
        return self.change(self.layer(X))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h: h[:1], r"must return raw outputs of shape .* got \(1, 4\)"),
        (lambda h: h.detach(), "must be differentiable by its parameters, got Units"),
        (
            lambda h: torch.tensor(h.numpy()),
            r"differentiable .* got Units, which fails with: .* numpy\(\)",
        ),
        (lambda h: h / 0, "module must return finite outputs, got nan or infinity"),
    ],
)
def test_module_that_can_not_be_trained(change, message):
    with pytest.raises(ValueError, match=message):
        ResNetBasisRegressor(module=Units(change), **FAST).fit(X, Y)


def test_fold_without_training_rows():
    nothing = [(np.arange(0), np.arange(20))]
    with pytest.raises(ValueError, match="cv must leave training samples"):
        ResNetBasisRegressor(cv=nothing, **FAST).fit(X, Y)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("solver", ["lbfgs", "adam"])
def test_module_that_is_not_finite(solver, value):
    class Broken(nn.Linear):
        least, most = 1.0, np.inf

        def forward(self, rows):
            broken = (rows[:, :1] >= self.least) & (rows[:, :1] <= self.most)
            return torch.where(broken, value, super().forward(rows))

    model = ResNetBasisRegressor(module=Broken(3, 2), solver=solver, **FAST)
    with pytest.raises(ValueError, match="must return finite outputs, got nan or inf"):
        model.fit(X, Y)
    # One that is not among the samples that are tested first.
    Broken.least = Broken.most = np.sort(X[:, 0])[1]
    with pytest.raises(ValueError, match=r"finite numbers, got .* for 1 of 20"):
        model.fit(X, Y)


def test_one_row_can_not_be_left_out():
    match = "alpha must be a number if n_samples=1, .* set alpha to a number"
    for rule in ("auto", "loo"):
        with pytest.raises(ValueError, match=match):
            ResNetBasisRegressor(alpha=rule, **FAST).fit(X[:1], Y[:1])
    model = ResNetBasisRegressor(alpha=0.1, cv=None, **FAST).fit(X[:1], Y[:1])
    assert model.predict(X[:1]) == pytest.approx(Y[0])


@pytest.mark.parametrize(
    ("model", "rows", "target"),
    [
        (ResNetBasisRegressor(alpha=0.1, **FAST), X[:1], Y[:1]),
        (ResNetBasisRegressor(**FAST), np.ones((10, 3)), Y[:10]),
        (ResNetBasisRegressor(loss="poisson", **FAST), np.ones((10, 3)), Y[:10] ** 2),
        (ResNetBasisRegressor(solver="adam", **FAST), np.ones((10, 3)), Y[:10]),
    ],
)
def test_equal_rows_predict_the_mean(model, rows, target):
    """Nothing can be held out, so the units are left out."""
    model.fit(rows, target)
    assert_allclose(model.predict(rows), target.mean(), rtol=1e-6)
    assert model.residual_scale_ == 0
    assert model.loss_ == pytest.approx(model.basis_loss_)


@pytest.mark.parametrize("solver", ["lbfgs", "adam"])
def test_equal_rows_predict_class_frequencies(solver):
    labels = np.array(list("aaabbc"))
    model = ResNetBasisClassifier(solver=solver, **FAST).fit(np.ones((6, 2)), labels)
    p = model.predict_proba(np.array([[1.0, 1.0], [5.0, -3.0]]))
    assert_allclose(p, [[1 / 2, 1 / 3, 1 / 6]] * 2, rtol=1e-5)


def test_one_row_of_each_class_fits():
    model = ResNetBasisClassifier(alpha=0.1, **FAST).fit(X[:2], ["a", "b"])
    assert model.residual_scale_ == 0
    assert list(model.predict(X[:2])) == ["a", "b"]


def test_more_folds_than_rows_are_refused():
    """Up to the default number, there are as many folds as can be drawn."""
    with pytest.raises(ValueError, match=r"cv must be at most .*, 20, got 1000"):
        ResNetBasisRegressor(cv=1000, **FAST).fit(X, Y)
    ResNetBasisRegressor(alpha=0.1, **FAST).fit(X[:3], Y[:3])


def test_weights_that_are_all_zero():
    with pytest.raises(ValueError, match=r"weights must contain .* non-zero"):
        ResNetBasisRegressor(**FAST).fit(X, Y, np.zeros(20))
    with pytest.raises(ValueError, match="positive weight, got zero"):
        ResNetBasisClassifier(class_weight={0: 0, 1: 0}, **FAST).fit(X, Y > 0)


def test_samples_of_a_class_without_weight():
    """Their mean loss would be 0 / 0."""
    labels = np.arange(20) % 2
    model = ResNetBasisClassifier(alpha=0.1, cv=None, class_weight={0: 0}, **FAST)
    model.fit(X, labels)
    with pytest.raises(ValueError, match="must give some sample a positive weight"):
        model.stationarity(X[labels == 0], labels[labels == 0])


class DropsRows(FunctionTransformer):
    """Drops some samples, or features when it predicts."""

    def fit_transform(self, X, y=None):
        return self.fit(X).func(X)

    def transform(self, X):
        return X[:, 1:]


@pytest.mark.parametrize(
    ("basis", "message"),
    [
        (FunctionTransformer(np.log), r"FunctionTransformer\(func=.*contains NaN"),
        (FunctionTransformer(np.ravel), r"basis must return .*Expected 2D array"),
        (FunctionTransformer(lambda X: X.astype(str) + "a"), "basis must return.*conv"),
        (DropsRows(lambda X: X[X[:, 0] > 0]), "one row per sample, got 11 rows for 20"),
    ],
    ids=["nan", "vector", "text", "rows"],
)
@pytest.mark.parametrize("residual_input", ["X", "basis"])
@pytest.mark.filterwarnings("ignore:invalid value")
def test_output_of_a_basis_that_is_not_features(basis, message, residual_input):
    """The error is about the basis, not about X."""
    model = ResNetBasisRegressor(basis, residual_input=residual_input, **FAST)
    with pytest.raises(ValueError, match=message):
        model.fit(X, Y)


@pytest.mark.filterwarnings("ignore:invalid value")
def test_output_of_a_basis_in_predictions():
    model = ResNetBasisRegressor(FunctionTransformer(np.log), **FAST).fit(abs(X), Y)
    with pytest.raises(ValueError, match=r"basis must .*output of FunctionTransf.*NaN"):
        model.predict(X)
    model = ResNetBasisRegressor(DropsRows(lambda X: X), **FAST).fit(X, Y)
    with pytest.raises(ValueError, match=r"as many features in .*, 3, got 2 from Drop"):
        model.predict(X)


def test_vector_for_a_basis():
    model = ResNetBasisRegressor(StandardScaler(), **FAST).fit(X, Y)
    with pytest.raises(ValueError, match="Reshape your data"):
        model.predict(X[0])


def test_missing_targets():
    with pytest.raises(ValueError, match="requires y to be passed"):
        ResNetBasisRegressor(**FAST).fit(X, None)


def test_one_class():
    with pytest.raises(ValueError, match="1 class"):
        ResNetBasisClassifier(**FAST).fit(X, np.ones(20))


def test_unfitted():
    with pytest.raises(NotFittedError):
        ResNetBasisRegressor().residual_weights()


def test_failed_fit_leaves_the_model_as_it_was():
    model = ResNetBasisRegressor(**FAST).fit(X, Y)
    before = model.predict(X)
    with pytest.raises(ValueError, match="hidden_layer_sizes"):
        model.set_params(hidden_layer_sizes=(0,)).fit(X, -Y)
    np.testing.assert_array_equal(model.predict(X), before)


@pytest.mark.parametrize("target", [np.zeros(20), np.full(20, 1e6)])
def test_constant_targets(target):
    model = ResNetBasisRegressor(**FAST).fit(X, target)
    np.testing.assert_allclose(model.predict(X), target, rtol=1e-12)
    assert model.loss_ <= model.basis_loss_ + 1e-12


def test_constant_and_huge_features():
    data = np.column_stack([np.ones(20), 1e9 * X[:, 0], 1e-9 * X[:, 1]])
    model = ResNetBasisRegressor(**FAST).fit(data, Y)
    assert model.loss_ <= model.basis_lower_bound_ * (1 + 1e-9) + 1e-15
    assert model.score(data, Y) > 0.9


def test_divergence_is_reported():
    model = ResNetBasisRegressor(
        solver="adam", learning_rate_init=1e200, cv=None, alpha=0.1, **FAST
    )
    with pytest.warns(ConvergenceWarning, match="The loss overflowed"):
        model.fit(X, Y)
    assert model.loss_ <= model.basis_lower_bound_ * (1 + 1e-9)


@pytest.mark.parametrize("basis", [None, MaxAbsScaler()])
def test_inputs_whose_squares_overflow_are_refused(basis):
    """Inputs of the basis, or of the units if the basis scales."""
    X = np.random.default_rng(0).normal(size=(20, 2)) * 1e160
    model = ResNetBasisRegressor(basis, residual_input="X", max_iter=2)
    with pytest.raises(ValueError, match="X must have entries and features of the"):
        model.fit(X, X[:, 0] / 1e160)


@pytest.mark.parametrize(
    ("params", "size"),
    [
        ({"weight_decay": 1e308}, 1.0),
        ({"residual_input": "X", "alpha": 1e-308}, 1e-300),
        ({"solver": "adam", "learning_rate_init": 1e308, "batch_size": 1}, 1.0),
    ],
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_extreme_numbers_leave_finite_results(params, size):
    X = size * np.random.default_rng(0).normal(size=(20, 3))
    model = ResNetBasisRegressor(max_iter=3, random_state=0, **params)
    model.fit(X, X[:, 0] / size)
    assert np.isfinite([model.loss_, *model.loss_curve_]).all()
    assert np.isfinite(model.predict(X)).all()


def test_dict_of_columns_is_refused():
    columns = {0: np.arange(20.0), 1: np.ones(20)}
    with pytest.raises(TypeError, match="X must be an array, a frame or a list"):
        ResNetBasisRegressor(basis=StandardScaler()).fit(columns, np.arange(20.0))


def test_targets_close_to_zero_have_a_loss():
    X = np.random.default_rng(0).normal(size=(20, 2))
    model = ResNetBasisRegressor(max_iter=2, random_state=0).fit(X, X[:, 0] * 1e-310)
    assert np.isfinite(model.loss_)


def test_tensor_is_an_input_of_a_basis():
    X = np.random.default_rng(0).normal(size=(20, 2))
    model = ResNetBasisRegressor(basis=StandardScaler(), max_iter=2, random_state=0)
    expected = model.fit(X, X[:, 0]).predict(X)
    assert_allclose(model.fit(torch.from_numpy(X), X[:, 0]).predict(X), expected)


def test_inputs_too_small_to_undo_are_constant():
    X = np.random.default_rng(0).normal(size=(20, 1))
    model = ResNetBasisRegressor(max_iter=2, random_state=0).fit(1e-310 * X, X[:, 0])
    assert np.isfinite(model.loss_)
    assert np.isfinite(model.predict(X)).all()
