"""The refit of several groups against dense features of all members."""

from itertools import count

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.tree import DecisionTreeRegressor
from table_cases import (
    NETWORK,
    WEIGHT,
    X,
    Y,
    boosting,
    classifier,
    keep_one_mixture,
    regressor,
)

from sklearn_pgb._losses._classification import CrossEntropyLoss, LogisticLoss
from sklearn_pgb._losses._regression import SquaredLoss
from sklearn_pgb._models._open import open_network
from sklearn_pgb._operators._outputs import apply_sets
from sklearn_pgb._refit import _groups
from sklearn_pgb._refit._fold_models import FoldModels
from sklearn_pgb._refit._groups import refit_groups
from sklearn_pgb._refit._mixture import Mixture, MixtureSearch
from sklearn_pgb._refit._stacking import fit_stacking_weights

RNG = np.random.default_rng(5)
X_NEW = RNG.normal(size=(9, 3))


# --- an independent twin --------------------------------------------------------------


def network_columns(mlp, rows):
    """Derivatives of a one-layer tanh network by hand, (n_outputs, n, n_columns)."""
    first, second = mlp.coefs_
    hidden = np.tanh(rows @ first + mlp.intercepts_[0])
    parts = []
    for c in range(second.shape[1]):
        inner = (1 - hidden**2) * second[:, c]
        outer = rows[:, :, None] * inner[:, None]
        block = np.zeros((len(rows), *second.shape))
        block[:, :, c] = hidden
        flat = block.reshape(len(rows), -1)
        parts.append(np.hstack([outer.reshape(len(rows), -1), inner, flat]))
    return np.stack(parts)


def leaf_columns(trees, rows, n_outputs):
    """Indicators of the leaves that scikit-learn names, the same for all outputs."""
    n_leaves = [tree.tree_.node_count for tree in np.ravel(trees.estimators_)]
    leaves = trees.apply(rows).reshape(len(rows), -1).astype(int)
    dense = [np.eye(n)[leaf] for n, leaf in zip(n_leaves, leaves.T, strict=True)]
    return np.tile(np.hstack(dense), (n_outputs, 1, 1))


def columns(member, rows, n_outputs):
    """The gradient basis of a member without its output biases."""
    model, inputs = member[-1], member[:-1].transform(rows)
    if hasattr(model, "coefs_"):
        return network_columns(model, inputs)
    return leaf_columns(model, inputs, n_outputs)


def raw_of(member, rows):
    """What a member predicts, before the sigmoid."""
    if hasattr(member[-1], "coefs_"):
        inputs, mlp = member[:-1].transform(rows), member[-1]
        hidden = np.tanh(inputs @ mlp.coefs_[0] + mlp.intercepts_[0])
        return hidden @ mlp.coefs_[1] + mlp.intercepts_[1]
    predict = getattr(member, "decision_function", member.predict)
    return predict(rows).reshape(len(rows), -1)


def twin_parts(model, X_train, rows, weight, parts):
    """Features of rows and what is added to their product, from `model.estimators_`."""
    k, groups = len(model.intercept_), model.group_weights_[0]
    features, center = [], np.zeros((len(rows), k))
    for members, (train, _) in zip(model.estimators_, parts, strict=True):
        share = weight[train] / weight[train].sum()
        for member, of_group, stack in zip(
            members, groups, model.stack_weights_, strict=True
        ):
            seen = columns(member, X_train[train], k)
            size = share @ (seen**2).sum(2).mean(0)
            scale = np.sqrt(of_group / size / len(parts))
            features.append(scale * columns(member, rows, k))
            center += stack * raw_of(member, rows) / len(parts)
    center = model._centered * (center + model.stack_intercept_)
    return np.concatenate(features, 2), center


def own_folds():
    """Three folds, one after the other."""
    rows = np.arange(len(X))
    return [(np.setdiff1d(rows, held), held) for held in np.array_split(rows, 3)]


def final_alpha(model, weight, parts):
    """Alpha keeps its size relative to the sum of losses: folds have less of them."""
    fraction = np.mean([weight[train].sum() for train, _ in parts]) / weight.sum()
    return model.alpha_[0] * fraction


@pytest.mark.parametrize("name", ["real", "two"])
def test_squared_loss_against_numpy(name, monkeypatch):
    """Ridge on the features of all folds and members, one problem for each output."""
    keep_one_mixture(monkeypatch)
    y, parts = Y[name], own_folds()
    trees = boosting() if name == "real" else "drop"
    model = regressor(MLPRegressor(**NETWORK), trees, cv=parts)
    model.fit(X, y, sample_weight=WEIGHT)
    assert len(model.alpha_) == 1
    phi, center = twin_parts(model, X, X, WEIGHT, parts)
    new, new_center = twin_parts(model, X, X_NEW, WEIGHT, parts)
    weight, alpha = WEIGHT / WEIGHT.sum(), final_alpha(model, WEIGHT, parts)
    expected = []
    start, unit = model._units
    seen = (y.reshape(len(y), -1) - start) / unit
    for c, target in enumerate((seen - center).T):
        mean, origin = weight @ phi[c], weight @ target
        Z = phi[c] - mean
        system = Z.T @ (weight[:, None] * Z) + alpha / 2 * np.eye(Z.shape[1])
        coef = np.linalg.solve(system, Z.T @ (weight * (target - origin)))
        expected.append(origin + (new[c] - mean) @ coef + new_center[:, c])
    actual = (model.predict(X_NEW).reshape(len(X_NEW), -1) - start) / unit
    np.testing.assert_allclose(actual.T, expected, rtol=1e-7, atol=1e-9)


def test_log_loss_against_scipy(monkeypatch):
    """Penalized logistic regression on the same features, by a general optimizer."""
    keep_one_mixture(monkeypatch)
    parts, y = own_folds(), Y["binary"]
    trees = boosting(classifies=True)
    model = classifier(MLPClassifier(**NETWORK), trees, forest="drop", cv=parts)
    model.fit(X, y, sample_weight=WEIGHT)
    assert len(model.alpha_) == 1
    phi, center = twin_parts(model, X, X, WEIGHT, parts)
    new, added = twin_parts(model, X, X_NEW, WEIGHT, parts)
    phi, center, new, added = phi[0], center[:, 0], new[0], added[:, 0]
    weight, alpha = WEIGHT / WEIGHT.sum(), final_alpha(model, WEIGHT, parts)
    sign = np.where(y == "yes", 1.0, -1.0)

    def objective(point):
        margin = sign * (phi @ point[1:] + point[0] + center)
        value = weight @ np.logaddexp(0, -margin) + alpha / 2 * point[1:] @ point[1:]
        slope = -weight * sign / (1 + np.exp(margin))
        return value, np.r_[slope.sum(), phi.T @ slope + alpha * point[1:]]

    options = {"maxiter": 10_000, "maxfun": 10**5, "ftol": 1e-15, "gtol": 1e-10}
    start = np.zeros(phi.shape[1] + 1)
    solved = minimize(objective, start, jac=True, method="L-BFGS-B", options=options).x
    expected = new @ solved[1:] + solved[0] + added
    # The problem is solved to 1e-7 of its value, so raw outputs to about its root.
    np.testing.assert_allclose(model.decision_function(X_NEW), expected, atol=2e-3)


# --- groups of fitted models ----------------------------------------------------------


def fold_models(models, weight, parts):
    """Clones of models, fitted on each fold."""
    folds = []
    for train, held in parts:
        fitted = [model.fit(X[train], Y["real"][train]) for model in models()]
        opened = [open_network(each) for each in fitted]
        index = torch.tensor(train), torch.tensor(held)
        folds.append(FoldModels.of(opened, X, torch.tensor(weight), *index))
    return folds


def two_models():
    """A network and a forest, unfitted."""
    return MLPRegressor(**NETWORK), ExtraTreesRegressor(4, max_depth=3, random_state=0)


def chosen(monkeypatch, *mixtures):
    """Let the search choose given mixtures."""

    def run(search, n_groups):
        for mixture in mixtures:
            search.evaluate(mixture)
        return list(mixtures)

    monkeypatch.setattr(MixtureSearch, "run", run)


def shared(monkeypatch, shares, offset):
    """Let the candidates, the stacked average first, have given weights."""
    stacked, calls = _groups.fit_stacking_weights, count()

    def given(held, y, weight, loss):
        if next(calls) % 2 == 0:
            return stacked(held, y, weight, loss)
        return torch.tensor(shares), torch.full_like(y[0], offset)

    monkeypatch.setattr(_groups, "fit_stacking_weights", given)


def refitted(folds):
    """Refit, and raw outputs for the samples."""
    y = torch.tensor(Y["real"])[:, None]
    weight = torch.tensor(WEIGHT)
    result = refit_groups(folds, y, weight, SquaredLoss(), max_memory=1e9, seed=0)
    raw = result.intercept.expand(len(X), -1).clone()
    for fold, coefs in zip(folds, result.coefficients, strict=True):
        raw += result.centered * fold.average(result.stack) / len(folds)
        raw += sum(map(apply_sets, fold.operators, coefs))
    return result, raw.numpy()


def test_GB_21_one_group(monkeypatch):
    """Weights (1, 0) give the refit of the first group alone."""
    parts = own_folds()
    keep_one_mixture(monkeypatch)
    chosen(monkeypatch, Mixture((1.0, 0.0), 0.01, False))
    both, raw = refitted(fold_models(two_models, WEIGHT, parts))
    assert all(not fold[1].any() for fold in both.coefficients)
    chosen(monkeypatch, Mixture((1.0,), 0.01, False))
    first, expected = refitted(fold_models(lambda: two_models()[:1], WEIGHT, parts))
    np.testing.assert_allclose(raw, expected, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(both.heldout_raw, first.heldout_raw, atol=1e-10)


def test_GB_21_huge_alpha(monkeypatch):
    """A huge alpha with the center gives the stacked average plus the best constant."""
    keep_one_mixture(monkeypatch)
    chosen(monkeypatch, Mixture((0.5, 0.5), 1e12, True))
    folds = fold_models(two_models, WEIGHT, own_folds())
    result, raw = refitted(folds)
    average = np.mean([fold.average(result.stack).numpy() for fold in folds], 0)
    free = WEIGHT @ (Y["real"][:, None] - average) / WEIGHT.sum()
    np.testing.assert_allclose(raw, average + free, atol=1e-6)


def test_candidates_are_summed_with_their_weights(monkeypatch):
    """The average, its shift and two mixtures, one of them on the average."""
    mixtures = Mixture((0.5, 0.5), 0.1, True), Mixture((0.9, 0.1), 0.01, False)
    chosen(monkeypatch, *mixtures)
    folds = fold_models(two_models, WEIGHT, own_folds())

    def with_shares(shares, offset=0.0):
        with monkeypatch.context() as patch:
            shared(patch, shares, offset)
            return refitted(folds)

    alone = [with_shares(shares) for shares in np.eye(3)]
    result, raw = with_shares(np.array([0.2, 0.5, 0.4]), offset=3.0)
    assert result.mixtures == list(mixtures)
    np.testing.assert_array_equal(result.mixture_weights, [0.2, 0.5, 0.4])
    expected = 0.2 * alone[0][1] + 0.5 * alone[1][1] + 0.4 * alone[2][1] + 3.0
    np.testing.assert_allclose(raw, expected, rtol=1e-10, atol=1e-10)
    held = [each.heldout_raw.numpy() for each, _ in alone]
    held = 0.2 * held[0] + 0.5 * held[1] + 0.4 * held[2] + 3.0
    np.testing.assert_allclose(result.heldout_raw, held, rtol=1e-10, atol=1e-10)
    # The first candidate is the stacked average.
    assert alone[0][0].mixtures == []
    average = np.mean([fold.average(result.stack).numpy() for fold in folds], 0)
    shift = result.shift.numpy()
    np.testing.assert_allclose(alone[0][1], average + shift, atol=1e-12)


def test_stacking_is_not_worse_than_any_candidate(monkeypatch):
    """But for the prior, on the held-out samples that it is fitted to."""
    mixtures = Mixture((0.5, 0.5), 0.1, True), Mixture((0.9, 0.1), 0.01, False)
    chosen(monkeypatch, *mixtures)
    folds = fold_models(two_models, WEIGHT, own_folds())

    def loss(result):
        return WEIGHT @ (Y["real"] - result.heldout_raw.numpy()[:, 0]) ** 2

    best = loss(refitted(folds)[0])
    for shares in np.eye(3):
        with monkeypatch.context() as patch:
            shared(patch, shares, 0.0)
            assert best < loss(refitted(folds)[0])


def test_stacked_average_against_least_squares():
    """If the weights are positive, they are those of a ridge towards equal weights."""
    folds = fold_models(two_models, WEIGHT, own_folds())
    result, _ = refitted(folds)
    assert (result.stack > 0).all()
    held = np.zeros((len(X), 2))
    for fold in folds:
        held[fold.heldout] = torch.cat(fold.raw, 1)[fold.heldout]
    noise = WEIGHT @ (Y["real"] - held.mean(1)) ** 2 / WEIGHT.sum() / 2
    rows = np.column_stack([held, np.ones(len(X))]) * WEIGHT[:, None] ** 0.5
    pull = np.diag([noise / 2, noise / 2, 0])
    goal = rows.T @ (WEIGHT**0.5 * Y["real"]) + pull @ [0.5, 0.5, 0]
    expected = np.linalg.solve(rows.T @ rows + pull, goal)
    actual = np.r_[result.stack, result.shift]
    np.testing.assert_allclose(actual, expected, atol=1e-4)


def test_stacking_without_samples_of_a_class():
    """The prior keeps log odds finite, as by another optimizer.

    Half a sample more, spread over all inputs, has labels by chance.
    """
    raws = RNG.normal(size=(2, 40, 3))
    labels, weight = RNG.integers(2, size=40), RNG.uniform(0.5, 2, size=40)
    raws[0, np.arange(40), labels] += 1
    share = weight / weight.sum()

    def objective(theta):
        raw = theta[0] * raws[0] + theta[1] * raws[1] + theta[2:]
        each = np.logaddexp.reduce(raw, 1)[:, None] - raw
        loss = weight @ each[np.arange(40), labels]
        loss += 0.5 * share @ each @ (share @ np.eye(3)[labels])
        distance = theta - [0.5, 0.5, 0, 0, 0]
        return loss / (weight.sum() + 0.5) + distance @ distance / (2 * weight.sum())

    bounds = [(0, None)] * 2 + [(None, None)] * 3
    options = {"ftol": 1e-15, "gtol": 1e-9}
    expected = minimize(
        objective, np.r_[0.5, 0.5, 0, 0, 0], bounds=bounds, options=options
    )
    one_hot = torch.tensor(np.eye(3)[labels])
    weights, shift = fit_stacking_weights(
        torch.tensor(raws), one_hot, torch.tensor(weight), CrossEntropyLoss()
    )
    np.testing.assert_allclose(torch.cat([weights, shift]), expected.x, atol=1e-5)


def test_small_weights_count_as_many_samples():
    """Weights that sum to one do not make the prior stronger."""
    raws = torch.tensor(RNG.normal(size=(2, 40, 1)))
    y = torch.tensor(RNG.integers(2, size=(40, 1))).double()
    weight = torch.tensor(RNG.uniform(1, 4, size=40))
    count = weight.sum() ** 2 / weight.square().sum()
    stacked = [
        torch.cat(fit_stacking_weights(raws, y, each, LogisticLoss()))
        for each in (weight / weight.sum() * count, weight / weight.sum(), weight)
    ]
    np.testing.assert_allclose(stacked[0], stacked[1], rtol=1e-10)
    # Larger weights are counts.
    assert (stacked[0] - stacked[2]).abs().max() > 1e-4


def test_constant_model_has_no_derivatives():
    """A stump without splits is a group of one column, and harms nothing."""
    stump = DecisionTreeRegressor(min_samples_leaf=len(X))
    folds = fold_models(lambda: (*two_models(), stump), WEIGHT, own_folds())
    _, raw = refitted(folds)
    assert np.isfinite(raw).all()


def test_heldout_predictions_come_from_other_folds():
    """Other targets of a fold do not change predictions for it, at a fixed choice."""
    parts = own_folds()
    folds = fold_models(two_models, WEIGHT, parts)
    train, held = parts[1]
    y = torch.tensor(Y["real"])[:, None]
    weight = torch.tensor(WEIGHT)
    part = torch.tensor(train)
    average = folds[1].average(torch.tensor([0.5, 0.5], dtype=torch.float64))
    mixture = Mixture((0.5, 0.5), 0.01, True)
    results = []
    for shift in (0.0, 100.0):
        other = y.clone()
        other[held] += shift
        fold = folds[1].kernel_fold(average, part, torch.tensor(held), other, weight)
        solution = MixtureSearch([fold], SquaredLoss())
        solution.evaluate(mixture)
        solved = solution.solutions[mixture][0]
        (raw,) = folds[1].heldout_raw(average, part, [(mixture, solved)])
        results.append(raw)
        (raw,) = fold.heldout_raw([mixture], solved)
        torch.testing.assert_close(results[-1], raw)
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("rise", "last"), [(0.01, -5), (0.05, -4)], ids=["slowly", "clearly"]
)
def test_the_search_stops_past_the_best_alpha(rise, last, monkeypatch):
    """Two steps past it, or one if the loss has risen by more than two percent."""

    def evaluate(self, mixture, near=None):
        distance = abs(np.log10(mixture.alpha) + 3)
        self.losses[mixture] = 1 + rise * distance + 0.5 * (not mixture.centered)

    monkeypatch.setattr(MixtureSearch, "evaluate", evaluate)
    search = MixtureSearch([], SquaredLoss())
    best = search.run(1)[0]
    assert best == Mixture((1.0,), 1e-3, True)
    tried = [round(float(np.log10(m.alpha)), 2) for m in search.losses if m.centered]
    assert tried == [*range(0, last - 1, -1), -2.5, -3.5]
