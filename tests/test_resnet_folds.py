"""Choice of iterations and alpha on held-out samples of folds."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import oracles
import pytest
import torch
from numpy.testing import assert_allclose
from sklearn.base import clone
from sklearn.datasets import make_blobs
from sklearn.linear_model import LogisticRegression, PoissonRegressor, Ridge
from sklearn.metrics import log_loss, mean_poisson_deviance
from sklearn.model_selection import (
    KFold,
    LeaveOneOut,
    RepeatedKFold,
    ShuffleSplit,
)

from sklearn_pgb import ResNetBasisClassifier, ResNetBasisRegressor
from sklearn_pgb._convex._choice import OTHER_ALPHAS
from sklearn_pgb._losses._classification import LogisticLoss
from sklearn_pgb._resnet import _base, _full_batch
from sklearn_pgb._resnet._fitting import choose_penalty, total_variance
from sklearn_pgb._resnet._gain import compare, is_significant
from sklearn_pgb._resnet._projection import projection
from sklearn_pgb._resnet._residual import BasisSamples

CHECKPOINTS = [0, 1, 3, 6, 12, 25, 50, 90]
REQUEST = SimpleNamespace(
    max_iter=90, tol=1e-9, projects=True, factors=lambda: [4.0, 1.0]
)


def both(loss):
    """The same loss for both samples of a fold."""
    return [float(loss), float(loss)]


HELD = SimpleNamespace(weight=torch.tensor([0.5, 0.5]).double())


class Fold:
    """An objective whose held-out loss after k iterations is known, for alpha = 1."""

    alpha = 1.0

    def __init__(self, *curves):
        self.curves = curves
        self.samples = BasisSamples(
            basis=torch.arange(4.0)[:, None],
            inputs=torch.zeros(4, 1),
            y=torch.zeros(4, 1),
            weight=torch.full((4,), 0.25).double(),
        )
        self.inner = SimpleNamespace(loss=None)

    def on(self, samples):
        """The curves of folds that train on the first and on the last samples."""
        return Fold(self.curves[int(samples.basis[0] > 0)])

    def basis_heldout_losses(self, alphas, held):
        return np.array([both(1.0 if alpha == 1 else 1.5) for alpha in alphas])

    def heldout_losses(self, theta, alphas, held):
        loss = self.curves[0](int(theta[-1]))
        return np.array([both(loss + (alpha != 1) / 2) for alpha in alphas])

    def floor(self):
        return 0.0


@pytest.fixture
def trainings(monkeypatch):
    """Records the iterations of each fold; the training loss always falls."""
    counts = []

    def quasi_newton(function, theta, *, gtol, max_iter, on_iteration):
        for k in range(1, max_iter + 1):
            if on_iteration(torch.tensor([float(k)]), 1.0 / k):
                break
        counts.append(k)
        return SimpleNamespace(theta=torch.tensor([float(k)]))

    monkeypatch.setattr(_full_batch, "quasi_newton", quasi_newton)
    monkeypatch.setattr(_full_batch, "projected", lambda objective: None)
    return counts


def curve(heldout):
    found = _full_batch.heldout_curve(
        Fold(heldout), HELD, torch.zeros(1), REQUEST, CHECKPOINTS, [4.0, 1.0]
    )
    assert_allclose(found.losses[:, 0], found.losses[:, 1] + 0.5)
    return found.losses[:, 1].mean(1)


def test_a_fold_that_improves_goes_to_the_end(trainings):
    assert_allclose(curve(lambda k: 1 / (1 + k)), 1 / (1 + np.array(CHECKPOINTS)))
    assert trainings == [90]


def test_a_fold_that_gets_worse_keeps_its_last_loss(trainings):
    """The best is after one iteration, and the fold ends three evaluations later."""
    found = curve(lambda k: 0.9 + 1e-3 * abs(k - 1))
    assert trainings == [12]
    assert_allclose(found[:5], 0.9 + 1e-3 * np.abs(np.array(CHECKPOINTS[:5]) - 1))
    assert_allclose(found[5:], found[4])


def choose(*curves):
    folds = [(np.arange(2), np.arange(2, 4)), (np.arange(2, 4), np.arange(2))]
    return _full_batch.choose_iteration(Fold(*curves), torch.zeros(1), REQUEST, folds)


def chosen(found):
    improves, losses = found.improves, (found.heldout_loss, found.basis_heldout_loss)
    return found.n_iter, found.alpha, improves, *losses


def test_the_best_checkpoint_is_chosen(trainings):
    found = choose(*[lambda k: 0.9 + 1e-3 * abs(k - 6)] * 2)
    assert chosen(found) == (6, 1.0, True, 0.9, 1.0)


def test_units_that_held_out_rows_speak_against_are_left_out(trainings):
    found = choose(*[lambda k: 1.01 + 1e-3 * k] * 2)
    assert chosen(found) == (0, 1.0, False, 1.01, 1.0)


def test_a_fold_that_ended_early_is_trained_up_to_the_best_checkpoint(trainings):
    """Its loss there counts, which is smaller than the one at which it ended."""
    found = choose(lambda k: 0.9 * 0.98**k, lambda k: 1.05 if 1 < k < 80 else 0.6)
    assert found.n_iter == 90
    assert found.heldout_loss == pytest.approx((0.9 * 0.98**90 + 0.6) / 2)
    assert trainings == [90, 6, 90]


def test_a_fold_that_rises_later_moves_the_best_checkpoint_back(trainings):
    """It ends at 12 with the loss 1, but its loss at the later checkpoints is 3."""
    found = choose(
        lambda k: 0.9 * 0.98**k, lambda k: 3.0 if k > 12 else 1.0 - 0.01 * (k == 1)
    )
    assert found.n_iter == 12
    assert found.heldout_loss == pytest.approx((0.9 * 0.98**12 + 1.0) / 2)


@pytest.mark.parametrize("bad", [lambda k: 5.0 * (k > 0) + 0.9, lambda k: 0.9 + k])
def test_one_bad_fold_does_not_stop_the_others(bad, trainings):
    """A fold ends after a rise, and the gains of the other fold decide."""
    found = choose(lambda k: 0.9 * 0.98**k, lambda k: min(bad(k), 1.2))
    assert found.n_iter == 90


def test_a_fold_that_is_not_finite_counts_for_nothing_else(trainings):
    found = choose(lambda k: 0.9, lambda k: np.nan if k > 3 else 0.9 - 0.01 * k)
    assert found.n_iter == 3
    assert found.improves


@pytest.mark.parametrize(("gain", "improves"), [(0.5, True), (-0.1, False)])
def test_the_best_models_are_compared(gain, improves):
    """Of several alphas with and without units, each has the best of its own."""
    samples, weight = Fold().samples, np.full(4, 0.25)
    basis_losses = weight * np.array([[3.0], [1.0]])
    losses = weight * np.array([[1.0 - gain], [2.0], [4.0]])
    means, basis_means = losses.sum(1), basis_losses.sum(1)
    found = compare(losses, basis_losses, means, basis_means, weight, samples)
    assert found == ((0,), 1, improves)


def test_units_must_gain_a_standard_error():
    """It is that of the mean of paired differences; copies count once."""
    rng = np.random.default_rng(0)
    alone, weight = rng.uniform(1, 2, 30) / 30, np.full(30, 1 / 30)
    gains = rng.standard_normal(30)
    gains -= gains.mean()
    error = gains.std(ddof=1) / np.sqrt(30)
    each = np.arange(30)
    for factor, expected in [(0.99, False), (1.01, True), (-2.0, False)]:
        units = alone - weight * (gains + factor * error)
        assert is_significant(alone, units, weight, each) is expected
        repeated = (np.repeat(part / 3, 3) for part in (alone, units, weight))
        assert is_significant(*repeated, np.repeat(each, 3)) is expected
        assert is_significant(9 * alone, 9 * units, 9 * weight, each) is expected
    nan = np.full(30, np.nan)
    assert not is_significant(alone, nan, weight, each)
    assert not is_significant(alone, alone, weight, each)


@pytest.mark.parametrize("classifier", [False, True])
def test_pure_noise_leaves_the_units_out(classifier):
    """For almost all seeds."""
    kept = 0
    for seed in range(8):
        rng = np.random.default_rng(seed)
        X, y = rng.standard_normal((60, 5)), rng.standard_normal(60)
        kind = ResNetBasisClassifier if classifier else ResNetBasisRegressor
        model = kind(random_state=seed).fit(X, y > 0 if classifier else y)
        kept += model.residual_scale_ > 0
    assert kept <= 2


def test_labels_that_the_basis_predicts_leave_nothing_for_units():
    """The held-out loss on the basis shows it; the fit is logistic regression."""
    X, y = make_blobs(200, 3, centers=4, cluster_std=0.1, random_state=0)
    model = ResNetBasisClassifier(random_state=0).fit(X, y)
    assert model.residual_scale_ == 0
    assert np.isnan(model.held_out_loss_)
    assert model.basis_held_out_loss_ < 1e-3 * np.log(4)
    linear = LogisticRegression(C=1 / (model.alpha_ * 200), tol=1e-10, max_iter=10_000)
    expected = linear.fit(X, y).predict_proba(X)
    assert_allclose(model.predict_proba(X), expected, atol=1e-6)


@pytest.mark.parametrize(
    "cv",
    [
        KFold(3),
        ShuffleSplit(3, test_size=0.1, random_state=0),
        RepeatedKFold(n_splits=3, n_repeats=2, random_state=0),
    ],
    ids=["each sample once", "few samples", "each sample twice"],
)
@pytest.mark.parametrize("projects", [True, False])
def test_held_out_losses_are_means(cv, projects, monkeypatch):
    """Of the losses of ridge regressions and of networks refitted on the folds."""
    monkeypatch.setattr(_base, "projection_is_cheap", lambda *_: projects)
    rng = np.random.default_rng(0)
    X, weight = rng.standard_normal((90, 3)), rng.uniform(0.5, 2, 90)
    y = X[:, 0] ** 2 + 0.3 * X[:, 1]
    model = ResNetBasisRegressor(
        hidden_layer_sizes=8, alpha=0.02, max_iter=6, cv=cv, random_state=0
    ).fit(X, y, weight)
    assert model.residual_scale_ > 0
    errors, basis_errors, weights = [], [], []
    for train, test in cv.split(X):
        alpha = 0.02 * weight[train].sum() / 2
        ridge = Ridge(alpha).fit(X[train], y[train], weight[train])
        basis_errors.append((y[test] - ridge.predict(X[test])) ** 2)
        units = clone(model).set_params(cv=None, max_iter=model.n_iter_)
        units.fit(X[train], y[train], weight[train])
        errors.append((y[test] - units.predict(X[test])) ** 2)
        weights.append(weight[test])
    weights = np.concatenate(weights)
    means = [
        np.average(np.concatenate(e), weights=weights) for e in (errors, basis_errors)
    ]
    assert_allclose(model.basis_held_out_loss_, means[1], rtol=1e-9)
    # The folds share the standardization of all samples, so the units differ a little.
    assert_allclose(model.held_out_loss_, means[0], rtol=0.2)


def test_held_out_loss_of_single_samples():
    """Units trained without each of the samples have it: none ends early."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((40, 2))
    y = np.sin(2 * X[:, 0]) + 0.3 * X[:, 1] + 0.1 * rng.standard_normal(40)
    params = {"hidden_layer_sizes": 8, "alpha": 0.01, "random_state": 0}
    model = ResNetBasisRegressor(cv=LeaveOneOut(), max_iter=25, **params).fit(X, y)
    errors = []
    for train, test in LeaveOneOut().split(X):
        twin = ResNetBasisRegressor(cv=None, max_iter=model.n_iter_, **params)
        errors.extend(y[test] - twin.fit(X[train], y[train]).predict(X[test]))
    assert_allclose(model.held_out_loss_, np.mean(np.square(errors)), rtol=0.2)


def test_no_fold_leaves_the_units_out():
    found = _full_batch.choose_iteration(Fold(), torch.zeros(1), REQUEST, [])
    assert (found.n_iter, found.improves) == (0, False)


def test_units_of_the_poisson_loss():
    """Losses of counts are negative; the units are judged by the deviance."""
    rng = np.random.default_rng(0)
    X = rng.uniform(-2, 2, (800, 2))
    y = rng.poisson(np.exp(3 + X[:, 0] + np.sin(3 * X[:, 1]))).astype(float)
    model = ResNetBasisRegressor(
        hidden_layer_sizes=(20,), loss="poisson", max_iter=40, cv=2, random_state=0
    )
    model.fit(X[:300], y[:300])
    linear = PoissonRegressor(alpha=1e-3).fit(X[:300], y[:300])
    ours, theirs = (
        mean_poisson_deviance(y[300:], fitted.predict(X[300:]))
        for fitted in (model, linear)
    )
    assert ours < 0.2 * theirs


def test_weights_are_copies_of_many_rows():
    """Also with more samples than the choice uses."""
    rng = np.random.default_rng(1)
    X = rng.standard_normal((1500, 2))
    y = X[:, 0] + np.sin(2 * X[:, 1]) + rng.standard_normal(1500)
    model = ResNetBasisRegressor(
        hidden_layer_sizes=(3,), max_iter=60, alpha=0.1, random_state=0
    )
    model.fit(X, y, np.full(1500, 2))
    repeated = clone(model).fit(np.repeat(X, 2, axis=0), np.repeat(y, 2))
    assert model.n_iter_ == repeated.n_iter_
    assert_allclose(model.predict(X), repeated.predict(X), atol=1e-6)


def test_ridge_of_the_log_loss(generator):
    """Alpha is the best of scikit-learn's models on the folds."""
    X = oracles.randn(generator, 90, 4)
    y = (X[:, :1] + 1.5 * oracles.randn(generator, 90, 1) > 0).double()
    weight = torch.full((90,), 1 / 90, dtype=torch.float64)
    inner = projection(X, y, weight, LogisticLoss(), True)
    parts = list(KFold(5).split(X))
    rule = partial(SimpleNamespace, counts=torch.ones(90))
    found = choose_penalty(inner, rule(leave_one_out=False), lambda: parts).alpha
    grid = total_variance(X, weight) * OTHER_ALPHAS

    def heldout(alpha):
        losses = []
        for seen, unseen in parts:
            model = LogisticRegression(C=1 / (alpha * len(seen)), tol=1e-8)
            model.fit(X[seen], y[seen, 0])
            losses.append(log_loss(y[unseen, 0], model.predict_proba(X[unseen])))
        return np.mean(losses)

    # Alpha for four fifths of the samples is larger than for all of them.
    best = grid[np.argmin([heldout(alpha) for alpha in grid])]
    assert found == pytest.approx(best * 4 / 5)
    assert best not in (grid[0], grid[-1])
    left_out = choose_penalty(inner, rule(leave_one_out=True), lambda: parts).alpha
    assert left_out == choose_penalty(inner, rule(leave_one_out=False), None).alpha
    assert left_out in grid


@pytest.mark.parametrize("class_weight", ["balanced", {0: 0.2, 1: 3.0}])
def test_leave_one_out_with_class_weights(class_weight):
    """Weights equal repetition, as one of the equal samples is left out."""
    rng = np.random.default_rng(0)
    X, weight = rng.standard_normal((40, 3)), rng.integers(0, 4, 40)
    y, index = (X[:, 0] + rng.standard_normal(40) > 0.7) * 1, np.arange(40)
    index = np.repeat(index, weight)
    model = ResNetBasisClassifier(
        alpha="loo", cv=None, max_iter=2, class_weight=class_weight, random_state=0
    )
    weighted = clone(model).fit(X, y, weight)
    repeated = clone(model).fit(X[index], y[index])
    assert_allclose(weighted.alpha_, repeated.alpha_, rtol=1e-9)
    assert_allclose(weighted.loss_, repeated.loss_, rtol=1e-6)
