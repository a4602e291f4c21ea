"""Defaults of ResNet-basis estimators on more data and unusual data."""

import warnings

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.linear_model import Ridge
from sklearn.model_selection import GroupKFold, KFold, LeaveOneGroupOut
from sklearn.preprocessing import PolynomialFeatures, StandardScaler
from torch import nn

from sklearn_pgb import ResNetBasisClassifier, ResNetBasisRegressor
from sklearn_pgb._models._resnet import Squash

FAST = {"hidden_layer_sizes": (6,), "max_iter": 8, "random_state": 0}


def waves(n_rows, seed):
    """A sine plus a line, with noise of 0.1, and test samples."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n_rows + 5_000, 5))
    y = np.sin(X[:, 0]) + 0.5 * X[:, 1] + 0.1 * rng.standard_normal(len(X))
    return X[:n_rows], y[:n_rows], X[n_rows:], y[n_rows:]


def score(n_rows, seed, **params):
    X, y, X_test, y_test = waves(n_rows, seed)
    model = ResNetBasisRegressor(random_state=seed, **params).fit(X, y)
    return model.score(X_test, y_test)


def test_gain_of_units_on_few_samples():
    """The noise limits R^2 to .986, and the linear model has .89."""
    assert np.mean([score(300, seed) for seed in range(5)]) >= 0.98


@pytest.mark.parametrize("number", [1, 2])
def test_more_samples_make_no_default_worse(number):
    """Beyond 10,000 samples another solver trains the same model."""
    assert score(12_000, number) >= score(1_000, number) - 0.01


@pytest.mark.parametrize("weight_decay", [1e-6, 1e-3])
def test_solvers_learn_the_same(weight_decay):
    scores = [
        score(2_000, 1, solver=solver, weight_decay=weight_decay, cv=None)
        for solver in ("lbfgs", "adam")
    ]
    assert min(scores) >= 0.98
    assert_allclose(*scores, atol=0.005)


def test_units_without_gain_are_left_out():
    """The model is then ridge regression, and the held-out losses show why."""
    rng = np.random.default_rng(5)
    X, y = rng.standard_normal((60, 3)), rng.standard_normal(60)
    model = ResNetBasisRegressor(random_state=0).fit(X, y)
    assert model.residual_scale_ == 0
    assert model.held_out_loss_ >= model.basis_held_out_loss_
    ridge = Ridge(alpha=model.alpha_ * 60 / 2).fit(X, y)
    assert_allclose(model.predict(X), ridge.predict(X), rtol=1e-8)


def test_held_out_losses_are_in_the_units_of_the_targets():
    X, y, *_ = waves(300, 0)
    plain, scaled = (ResNetBasisRegressor(**FAST).fit(X, c * y) for c in (1.0, 10.0))
    assert plain.held_out_loss_ < plain.basis_held_out_loss_
    assert_allclose(scaled.held_out_loss_, 100 * plain.held_out_loss_, rtol=1e-5)
    assert np.isnan(ResNetBasisRegressor(cv=None, **FAST).fit(X, y).held_out_loss_)


# --- inputs beyond the training range -------------------------------------------------


def test_squash_is_smooth_and_bounded():
    lower, upper, width = (torch.tensor(v).double() for v in (-1.0, 2.0, 0.5))
    squash = Squash(lower, upper, width)
    inside = torch.linspace(-1, 2, 50).double()
    assert torch.equal(squash(inside), inside)
    far = torch.tensor([-1e9, -1 - 1e-6, 2 + 1e-6, 1e9], dtype=torch.float64)
    expected = [-1.5, -1 - 1e-6, 2 + 1e-6, 2.5]
    assert_allclose(squash(far), expected, rtol=0, atol=1e-12)
    assert torch.autograd.gradcheck(squash, far[1:3].requires_grad_())


@pytest.mark.parametrize("loss", ["squared_error", "poisson"])
def test_one_extreme_row_changes_the_units_by_little(loss):
    """The outputs of the units are bounded; the linear part extrapolates."""
    X, y, *_ = waves(400, 0)
    y = y if loss == "squared_error" else np.exp(y)
    model = ResNetBasisRegressor(StandardScaler(), loss=loss, random_state=0).fit(X, y)
    assert model.residual_scale_ > 0
    units = model.module_.units
    rows = torch.tensor(X)

    def added(rows):
        with torch.no_grad():
            return units(model.module_.squash(rows)) @ torch.tensor(model.coef_z_).T

    assert torch.equal(model.module_.squash(rows), rows)
    reach = float((added(rows) - added(rows).mean(0)).abs().max())
    for factor in (10.0, 300.0, 1e6):
        extreme = rows.clone()
        extreme[:, 0] *= factor
        assert float((added(extreme) - added(rows).mean(0)).abs().max()) < 3 * reach


@pytest.mark.parametrize("kind", ["chain", "module"])
def test_training_rows_are_taken_as_they_are(kind):
    X, y, *_ = waves(100, 0)
    torch.manual_seed(0)
    units = {"module": nn.Sequential(nn.Linear(5, 4), nn.Tanh())}
    params = units if kind == "module" else {}
    model = ResNetBasisRegressor(**FAST, **params).fit(X, y)
    assert_array_equal(model.input_range_, [X.min(0), X.max(0)])
    assert_allclose(model.input_scale_, X.std(0))
    assert torch.equal(model.module_.squash(torch.tensor(X)), torch.tensor(X))


def test_constant_columns_are_ignored_by_the_units():
    X, y, X_test, _ = waves(200, 0)
    model = ResNetBasisRegressor(**FAST).fit(X, y)
    extended = ResNetBasisRegressor(**FAST).fit(np.column_stack([X, np.ones(200)]), y)
    assert not extended.coefs_[0][5].any()
    one, other = (np.column_stack([X_test, np.full(5_000, v)]) for v in (1.0, 9.0))
    assert_allclose(extended.predict(one), extended.predict(other), rtol=1e-9)
    assert model.coefs_[0].shape == (5, 6)


def test_large_inputs_and_targets_are_scaled_inside():
    X, y, *_ = waves(200, 0)
    plain = ResNetBasisRegressor(**FAST).fit(X, y).predict(X)
    model = ResNetBasisRegressor(**FAST).fit(X, 1e100 * y)
    assert_allclose(model.predict(X), 1e100 * plain, rtol=1e-3)
    with pytest.raises(ValueError, match="y must have absolute values up to"):
        ResNetBasisRegressor(**FAST).fit(X, 1e160 * y)


# --- groups, classes and global state -------------------------------------------------


@pytest.mark.parametrize("solver", ["lbfgs", "adam"])
@pytest.mark.parametrize("kind", [ResNetBasisRegressor, ResNetBasisClassifier])
def test_groups_reach_the_splitter(kind, solver):
    """Folds by groups are those of the same folds given as indices."""
    X, y, *_ = waves(60, 0)
    y = y if kind is ResNetBasisRegressor else y > 0
    groups = np.random.default_rng(0).integers(0, 6, 60)
    model = kind(cv=GroupKFold(3), solver=solver, **FAST).fit(X, y, groups=groups)
    folds = list(GroupKFold(3).split(X, y, groups))
    expected = clone(model).set_params(cv=folds).fit(X, y)
    assert_array_equal(model.predict(X), expected.predict(X))
    with pytest.raises(ValueError, match="groups"):
        clone(model).set_params(cv=LeaveOneGroupOut()).fit(X, y)


@pytest.mark.parametrize(
    ("kind", "params"),
    [(ResNetBasisClassifier, {}), (ResNetBasisRegressor, {"loss": "poisson"})],
    ids=["classifier", "poisson"],
)
@pytest.mark.parametrize("solver", ["lbfgs", "adam"])
def test_folds_are_drawn_once(kind, params, solver):
    """An iterator has them once, and a splitter without a seed draws new ones."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((60, 3))
    y = (X[:, 0] + rng.standard_normal(60) > 0) * 1.0
    model = kind(solver=solver, **FAST, **params)
    parts = list(KFold(3).split(X))
    expected = clone(model).set_params(cv=parts).fit(X, y)
    for cv in (iter(parts), _ShufflesOnce(parts)):
        found = clone(model).set_params(cv=cv).fit(X, y)
        assert_array_equal(found.predict(X), expected.predict(X))


class _ShufflesOnce:
    """A splitter whose second division would be another one."""

    def __init__(self, parts):
        self.parts = parts

    def get_n_splits(self, X=None, y=None, groups=None):
        return len(self.parts)

    def split(self, X, y=None, groups=None):
        parts, self.parts = self.parts, [part[::-1] for part in self.parts]
        return parts


def test_folds_do_not_divide_groups(monkeypatch):
    """Samples of a group have one target, so only folds of groups show the error."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(12), 10)
    centers = rng.standard_normal((12, 3))
    X = centers[groups] + 0.05 * rng.standard_normal((120, 3))
    y = rng.standard_normal(12)[groups]
    divided = ResNetBasisRegressor(random_state=0).fit(X, y)
    whole = ResNetBasisRegressor(random_state=0).fit(X, y, groups=groups)
    assert divided.residual_scale_ > 0
    assert whole.held_out_loss_ > divided.held_out_loss_
    with pytest.raises(ValueError, match="at least 2 groups"):
        ResNetBasisRegressor(**FAST).fit(X, y, groups=np.zeros(120))
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        ResNetBasisRegressor(**FAST).fit(X, y, groups=groups[:-1])


def test_classes_of_weight_zero_are_kept():
    X, y, *_ = waves(90, 0)
    labels = np.digitize(y, [-0.5, 0.5])
    weight = (labels != 2).astype(float)
    model = ResNetBasisClassifier(alpha=0.1, **FAST).fit(X, labels, weight)
    assert_array_equal(model.classes_, [0, 1, 2])
    p = model.predict_proba(X)
    assert p.shape == (90, 3)
    assert p[:, 2].max() < 1e-3
    assert_allclose(p.sum(1), 1)


def test_predictions_leave_the_global_generator_alone():
    X, y, *_ = waves(50, 0)
    model = ResNetBasisRegressor(**FAST).fit(X, y)
    before = torch.get_rng_state()
    model.predict(X)
    _ = model.module_
    model._repr_html_()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", ["lbfgs", "adam"])
def test_bounds_are_below_attained_losses(name):
    """Polynomials of years, without penalty."""
    rng = np.random.default_rng(0)
    for _ in range(3):
        X = rng.uniform(2000, 2024, (40, 1))
        y = np.sin(X[:, 0]) + 0.1 * rng.standard_normal(40)
        model = ResNetBasisRegressor(
            PolynomialFeatures(8), alpha=0.0, solver=name, **FAST
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.fit(X, y)
        assert model.lower_bound_ <= model.loss_
        assert model.basis_lower_bound_ <= model.basis_loss_
