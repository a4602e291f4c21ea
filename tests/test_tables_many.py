"""Tables of many samples: halves of held-out samples, and refits on them."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.neural_network import MLPRegressor
from table_cases import (
    FRAME,
    NETWORK,
    WEIGHT,
    N,
    X,
    Y,
    boosting,
    keep_one_mixture,
    regressor,
    small,
)
from test_refit_groups import columns, fold_models, raw_of, two_models

from sklearn_pgb._losses._regression import SquaredLoss
from sklearn_pgb._operators._outputs import apply_sets
from sklearn_pgb._refit import _final, _fold_models, _groups
from sklearn_pgb._refit._groups import refit_groups
from sklearn_pgb._refit._mixture import Mixture, MixtureSearch
from sklearn_pgb._tables import _folds, _members
from sklearn_pgb._tables._folds import automatic_folds, table_folds


@pytest.fixture
def many(monkeypatch):
    """More than 50 samples count as many."""
    for module in (_folds, _fold_models, _final, _members):
        monkeypatch.setattr(module, "MANY_SAMPLES", 50)


# --- folds ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n_samples", "n_folds"),
    [(50, 5), (20_000, 5), (20_001, 5), (25_000, 4), (36_000, 3), (10**6, 3)],
)
def test_number_of_folds(n_samples, n_folds):
    assert automatic_folds(n_samples) == n_folds


def drawn(cv=3, X=X, labels=None, groups=None):
    """Folds and halves at a seed."""
    return table_folds(cv, X, labels, np.ones(len(X)), groups, 0)


def test_halves_partition_what_a_fold_holds_out(many):
    folds, halves = drawn()
    assert len(folds) == len(halves) == 3
    for (train, held), pair in zip(folds, halves, strict=True):
        np.testing.assert_array_equal(np.sort(np.concatenate(pair)), held)
        assert abs(len(pair[0]) - len(pair[1])) <= 1
        np.testing.assert_array_equal(np.sort(np.r_[train, held]), np.arange(N))
    everything = np.concatenate([held for _, held in folds])
    np.testing.assert_array_equal(np.sort(everything), np.arange(N))


@pytest.mark.parametrize("kind", ["duplicates", "groups"])
def test_equal_samples_and_groups_are_in_one_half(kind, many):
    number = np.arange(N) // 4
    rows = X[number] if kind == "duplicates" else X
    folds, halves = drawn(2, rows, groups=number if kind == "groups" else None)
    for (train, _), pair in zip(folds, halves, strict=True):
        sets = [{*number[part]} for part in (train, *pair)]
        assert sum(map(len, sets)) == len(set.union(*sets)) == N // 4


def test_training_samples_have_rare_classes(many):
    """A class of two samples is never in both halves of a fold."""
    for first in range(6):
        labels = np.zeros(N, dtype=int)
        labels[[first, 31]] = 1
        folds, halves = drawn(3, labels=labels)
        assert halves is not None
        assert all(set(labels[train]) == {0, 1} for train, _ in folds)


def test_too_few_distinct_samples_for_halves(many):
    folds, halves = drawn(3, X[np.arange(N) % 4])
    assert halves is None
    assert len(folds) == 3


def test_no_halves_if_training_samples_would_lack_a_class(many):
    """A class in the minority of two groups, which both halves may hold out."""
    labels, groups = np.zeros(N, dtype=int), np.arange(N) // 5
    labels[[0, 5]] = 1
    found = []
    for seed in range(20):
        folds, halves = table_folds(2, X, labels, np.ones(N), groups, seed)
        assert all(set(labels[train]) == {0, 1} for train, _ in folds)
        found.append(halves is None)
    assert 0 < sum(found) < 20


def test_few_samples_have_no_halves():
    assert drawn()[1] is None


# --- refits ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["real", "two"])
def test_ridge_on_held_out_samples_of_each_fold(name, many, monkeypatch):
    """The mean of one ridge for each fold, on samples that its members have not seen.

    NumPy's features and solution are those of the twin for few samples.
    """
    keep_one_mixture(monkeypatch)
    trees = boosting() if name == "real" else "drop"
    model = regressor(MLPRegressor(**NETWORK), trees, cv=2)
    model.fit(X, Y[name], sample_weight=WEIGHT)
    assert len(model.alpha_) == 1
    seed = np.random.RandomState(0).randint(np.iinfo(np.int32).max, size=2)[0]
    folds, halves = table_folds(2, X, None, WEIGHT, None, int(seed))
    k = len(model.intercept_)
    center_of_targets, unit = model._units
    y = (Y[name].reshape(N, -1) - center_of_targets) / unit
    share = np.mean([WEIGHT[part].sum() for pair in halves for part in pair])
    mean = np.zeros_like(y)
    for members, (_, held), (first, _) in zip(
        model.estimators_, folds, halves, strict=True
    ):
        own, features = WEIGHT[first] / WEIGHT[first].sum(), []
        center = np.tile(model.stack_intercept_, (N, 1))
        for member, group, stack in zip(
            members, model.group_weights_[0], model.stack_weights_, strict=True
        ):
            seen = columns(member, X[first], k)
            size = own @ (seen**2).sum(2).mean(0)
            features.append(np.sqrt(group / size) * columns(member, X, k))
            center += stack * raw_of(member, X)
        center *= model._centered
        phi, weight = np.concatenate(features, 2), WEIGHT[held] / WEIGHT[held].sum()
        alpha = model.alpha_[0] * share / WEIGHT[held].sum()
        for c in range(k):
            rows = np.column_stack([np.ones(len(held)), phi[c][held]])
            penalty = np.diag(np.r_[0, np.full(phi.shape[2], alpha / 2)])
            normal = rows.T @ (weight[:, None] * rows) + penalty
            target = y[held, c] - center[held, c]
            solved = np.linalg.solve(normal, rows.T @ (weight * target))
            mean[:, c] += (center[:, c] + solved[0] + phi[c] @ solved[1:]) / 2
    expected = (center_of_targets + unit * mean).reshape(Y[name].shape)
    np.testing.assert_allclose(model.predict(X), expected, rtol=1e-5, atol=1e-6)


def exchanged(y, monkeypatch, **options):
    """Raw outputs for held-out samples, with everything fixed that is chosen."""
    mixture = Mixture((0.5, 0.5), 1e-3, True)

    def run(search, n_groups):
        search.evaluate(mixture)
        return [mixture]

    def fixed(raws, y, weight, loss):
        return torch.full((len(raws),), 0.5).double(), torch.zeros_like(y[0])

    monkeypatch.setattr(MixtureSearch, "run", run)
    monkeypatch.setattr(_groups, "fit_stacking_weights", fixed)
    numbers = np.arange(N) % 6
    parts = [
        [numbers // 2 != fold, numbers == 2 * fold, numbers == 2 * fold + 1]
        for fold in range(3)
    ]
    parts = [[np.flatnonzero(mask) for mask in three] for three in parts]
    folds = fold_models(two_models, WEIGHT, [three[:2] for three in parts])
    folds = [
        _fold_models.replace(fold, train=torch.tensor(a), heldout=torch.tensor(b))
        for fold, (_, a, b) in zip(folds, parts, strict=True)
    ]
    y, weight = torch.tensor(y)[:, None], torch.tensor(WEIGHT)
    options |= {"max_memory": 1e9, "seed": 0, "exchange": True}
    return refit_groups(folds, y, weight, SquaredLoss(), **options), folds


def test_no_target_changes_the_prediction_of_its_own_sample(monkeypatch):
    before = exchanged(Y["real"], monkeypatch)[0].heldout_raw.numpy()
    y = Y["real"].copy()
    y[12] += 5.0
    after = exchanged(y, monkeypatch)[0].heldout_raw.numpy()
    changed = ~np.isclose(after[:, 0], before[:, 0], rtol=1e-12)
    # Those of the other half of its fold, 1 modulo 6, change.
    np.testing.assert_array_equal(np.flatnonzero(changed), np.arange(1, N, 6))


def test_exchanged_halves_have_coefficients_for_each_fold(monkeypatch):
    result, folds = exchanged(Y["real"], monkeypatch)
    assert [len(coefs) for coefs in result.coefficients] == [2, 2, 2]
    raw = result.intercept.expand(N, -1).clone()
    for fold, coefs in zip(folds, result.coefficients, strict=True):
        raw += result.centered * fold.average(result.stack) / 3
        raw += sum(map(apply_sets, fold.operators, coefs))
    assert np.corrcoef(raw[:, 0], Y["real"])[0, 1] > 0.9


@pytest.mark.parametrize("name", Y)
def test_every_target_has_held_out_predictions(name, many):
    model = small(name).fit(X, Y[name], WEIGHT)
    assert np.isfinite(model.oof_prediction_).all()
    assert model.score(X, Y[name]) > 0.3
    assert len(model.estimators_) == len(model.basis_coef_) == 2


def test_user_splitters_have_no_halves(many):
    rows = np.arange(N)
    parts = [(np.setdiff1d(rows, held), held) for held in np.array_split(rows, 3)]
    assert len(regressor(cv=parts).fit(X, Y["real"]).estimators_) == 3


def test_distribution(many):
    """Errors twice as large on one side have a scale twice as large."""
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, size=(900, 2))
    scale = np.where(X[:, 0] > 0, 0.4, 0.1)
    y = X[:, 1] + scale * rng.standard_normal(900)
    model = regressor(cv=3, distribution=True).fit(X, y)
    # One model for each part of a fold.
    assert len(model._fold_models) == 6
    std = model.predict_distribution(X).std
    ratio = std[X[:, 0] > 0.2].mean() / std[X[:, 0] < -0.2].mean()
    assert 2 < ratio < 6
    assert std[X[:, 0] > 0.2].mean() == pytest.approx(0.4, rel=0.2)


def test_a_mixed_table(many):
    model = regressor().fit(FRAME, Y["real"], groups=np.arange(N) // 2)
    assert model.score(FRAME, Y["real"]) > 0.3


# --- built-in members -----------------------------------------------------------------


def test_built_in_models_of_many_samples(many, monkeypatch):
    monkeypatch.setattr(_members, "NETWORK_SAMPLES", 9000)
    monkeypatch.setattr(_members, "FEW_SAMPLES", 50)
    few, more = (
        SimpleNamespace(
            network=_members.network_member([None], "squared_error", n)[-1],
            trees=_members.trees_member([None], "squared_error", n, 1, False)[-1],
            forest=_members.forest_member([None], "squared_error", n)[-1],
        )
        for n in (50, 90)
    )
    assert few.network.max_iter == 200
    assert more.network.max_iter == 100
    assert _members.network_member([None], "squared_error", 10**6)[-1].max_iter == 20
    assert more.network.dtype == "float32"
    assert not few.trees.early_stopping
    assert more.trees.early_stopping
    assert few.forest.n_estimators == 50
    assert more.forest.n_estimators == 10
    own = HistGradientBoostingRegressor(max_iter=3)
    assert _members.trees_member([None], "squared_error", 90, 1, False, own)[-1] is own
    assert clone(more.trees).max_iter == 600
