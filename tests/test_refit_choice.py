"""The refit chooses alpha and center on samples that its networks have not seen."""

import numpy as np
import pytest
import torch
from oracles import randn
from refit_cases import (
    CENTERS,
    CURVE,
    OTHERS,
    SQUARED,
    TARGETS,
    WEIGHT,
    X_NEW,
    Truth,
    Twin,
    X,
    encoded,
    mean_of_networks,
    mlp,
    raw_of_network,
    trained,
    truth,
)
from scipy.sparse import csr_array
from sklearn.base import clone
from sklearn.datasets import load_diabetes, make_classification, make_friedman1
from sklearn.ensemble import RandomForestRegressor
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.metrics import accuracy_score, r2_score
from sklearn.model_selection import (
    KFold,
    PredefinedSplit,
    ShuffleSplit,
    StratifiedKFold,
    TimeSeriesSplit,
)
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.testing import assert_close

from sklearn_pgb import GradientBasisRefit
from sklearn_pgb._budget import CLEAR_GAIN
from sklearn_pgb._convex._choice import SQUARED_LOSS_ALPHAS
from sklearn_pgb._refit import _networks
from sklearn_pgb._refit._heldout_choice import averaged_start

GRID = np.logspace(-4, 0, 3)


@pytest.fixture
def exact_paths(monkeypatch):
    """Candidates are compared at a tolerance of their own; here it is next to none."""
    monkeypatch.setattr("sklearn_pgb._convex._heldout.COMPARISON_TOL", 1e-10)


def twins_of_folds(refit, splits, y, weight):
    """One twin per fold, of its own networks and training samples."""
    width = len(refit.estimators_) // len(splits)
    return [
        Twin(refit.estimators_[i * width :][:width], X[seen], y[seen], weight[seen])
        for i, (seen, _) in enumerate(splits)
    ]


def mean_heldout_loss(twins, splits, y, weight, center, alpha):
    """Of all folds' held-out samples."""
    total = sum(
        weight[held] @ twin.losses(X[held], y[held], center, alpha)
        for twin, (_, held) in zip(twins, splits, strict=True)
    )
    return total / weight.sum()


def best_on_average(refit, twins, splits, y, weight, share):
    """The best candidate of each center and the average, less what averaging gains."""
    path, finalists = refit.cv_results_, []
    for center in CENTERS:
        for infinite in (False, True):
            own = (path["center"] == center) & (np.isinf(path["alpha"]) == infinite)
            if own.any():
                number = np.flatnonzero(own)[path["loss"][own].argmin()]
                finalists.append((center, path["alpha"][number], path["loss"][number]))

    def corrected(center, alpha, loss):
        raws = [twin.raw(X, center, alpha / share) for twin in twins]
        each = [twins[0].loss_of(y, raw) for raw in raws]
        gain = np.mean(each, 0) - twins[0].loss_of(y, np.mean(raws, 0))
        return loss - weight @ gain / weight.sum()

    return min(finalists, key=lambda each: corrected(*each))[:2]


def share_of(splits, weight):
    """What a fold's training samples weigh, on average."""
    return np.mean([weight[seen].sum() / weight.sum() for seen, _ in splits])


# -- folds ---------------------------------------------------------------------------


@pytest.mark.parametrize("n_models", [1, 6])
@pytest.mark.parametrize("weight", [np.ones(40), WEIGHT], ids=["equal", "weighted"])
@pytest.mark.parametrize("name", SQUARED)
def test_choice_on_folds_is_brute_force(name, weight, n_models):
    """Both centers, every alpha, and the mean of the networks itself."""
    y, splits = TARGETS[name], list(KFold(3, shuffle=True, random_state=1).split(X))
    refit = GradientBasisRefit(mlp(name), cv=splits, n_models=n_models)
    refit.fit(X, y, weight)
    twins, share = twins_of_folds(refit, splits, y, weight), share_of(splits, weight)
    path = refit.cv_results_
    candidates = list(zip(path["center"], path["alpha"] / share, strict=True))
    expected = [(c, a) for c in CENTERS for a in SQUARED_LOSS_ALPHAS]
    expected.append(("average", np.inf))
    assert [c for c, _ in candidates] == [c for c, _ in expected]
    np.testing.assert_allclose([a for _, a in candidates], [a for _, a in expected])
    # Some of the candidates; below 1e-7 rounding decides.
    for number in [*range(0, len(candidates), 9), len(candidates) - 1]:
        if candidates[number][1] > 1e-7:
            loss = mean_heldout_loss(twins, splits, y, weight, *candidates[number])
            np.testing.assert_allclose(path["loss"][number], loss, rtol=1e-5)
    best = best_on_average(refit, twins, splits, y, weight, share)
    assert (refit.center_, refit.alpha_) == best


@pytest.mark.usefixtures("exact_paths")
@pytest.mark.parametrize("name", OTHERS)
def test_choice_on_folds_is_brute_force_for_other_losses(name):
    y = TARGETS[name]
    splits = list(StratifiedKFold(2).split(X, y)) if name != "poisson" else None
    splits = splits or list(KFold(2).split(X))
    refit = GradientBasisRefit(mlp(name, max_iter=8), alpha=GRID, cv=splits, tol=1e-10)
    refit.fit(X, y, WEIGHT)
    twins, share = twins_of_folds(refit, splits, y, WEIGHT), share_of(splits, WEIGHT)
    path = refit.cv_results_
    assert set(path["center"]) == set(CENTERS)
    for center, alpha, found, _ in zip(*path.values(), strict=True):
        loss = mean_heldout_loss(twins, splits, y, WEIGHT, center, alpha / share)
        np.testing.assert_allclose(found, loss, rtol=1e-3)
    best = best_on_average(refit, twins, splits, y, WEIGHT, share)
    assert (refit.center_, refit.alpha_) == best
    # The final problem on all networks and samples.
    joint = Twin(refit.estimators_, X, y, WEIGHT)
    raw = joint.raw(X_NEW, refit.center_, refit.alpha_)
    found = refit.transform(X_NEW).reshape(*raw.shape, -1) @ refit.basis_coef_
    np.testing.assert_allclose(found, raw, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", [*SQUARED, *OTHERS])
def test_choice_is_that_of_the_loss_minus_the_gain(name):
    """The gain is the folds' mean loss minus the loss of their mean model."""
    y, splits = TARGETS[name], list(KFold(2).split(X))
    refit = GradientBasisRefit(mlp(name, max_iter=8), alpha=GRID, cv=splits, tol=1e-12)
    path = refit.fit(X, y).cv_results_
    known = np.flatnonzero(~np.isnan(path["gain"]))
    assert set(path["center"][known]) == set(CENTERS)
    best = known[np.argmin(path["loss"][known] - path["gain"][known])]
    assert path["alpha"][best] == refit.alpha_
    assert path["center"][best] == refit.center_
    if name != "regression":
        return
    twins = twins_of_folds(refit, splits, y, np.ones(40))
    for number in known:
        center, alpha = path["center"][number], path["alpha"][number] / 0.5
        raws = [twin.raw(X, center, alpha)[:, 0] for twin in twins]
        alone = np.mean([np.square(y - raw).mean() for raw in raws])
        gain = alone - np.square(y - np.mean(raws, 0)).mean()
        np.testing.assert_allclose(path["gain"][number], gain, rtol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 3.0, 0.1, 1e-9, 1e9])
@pytest.mark.parametrize("sparse", [False, True])
def test_equal_losses_are_tied(scale, sparse):
    """Refits of a linear model are the model itself, so the largest alpha is chosen."""
    X, y = load_diabetes(return_X_y=True)
    X = csr_array(X) if sparse else X
    refit = GradientBasisRefit(LinearRegression(), random_state=0).fit(X, scale * y)
    assert np.isinf(refit.alpha_)
    validated = GradientBasisRefit(LinearRegression(), random_state=0, alpha=GRID)
    validated.fit(X[:300], scale * y[:300], X_val=X[300:], y_val=scale * y[300:])
    assert validated.alpha_ == GRID.max()


# The training and held-out parts of the second and third are not complementary.
SPLITTERS = [
    KFold(4),
    ShuffleSplit(3, train_size=0.3, test_size=0.2, random_state=0),
    TimeSeriesSplit(3),
    PredefinedSplit([-1] * 8 + [0, 1] * 16),
]


@pytest.mark.parametrize("splitter", SPLITTERS, ids=lambda each: type(each).__name__)
@pytest.mark.parametrize("center", CENTERS)
@pytest.mark.parametrize("name", SQUARED)
def test_squared_loss_takes_the_mean_of_joint_and_fold_solutions(
    name, center, splitter
):
    y, splits = TARGETS[name], list(splitter.split(X))
    refit = GradientBasisRefit(mlp(name), alpha=GRID, cv=splits, center=center)
    refit.fit(X, y, WEIGHT)
    share = share_of(splits, WEIGHT)
    folds = [
        twin.raw(X_NEW, center, refit.alpha_ / share)
        for twin in twins_of_folds(refit, splits, y, WEIGHT)
    ]
    joint = Twin(refit.estimators_, X, y, WEIGHT).raw(X_NEW, center, refit.alpha_)
    expected = (joint + np.mean(folds, 0)) / 2
    found = refit.predict(X_NEW).reshape(expected.shape)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-8)
    # The losses are those of the model that predicts.
    error = y.reshape(40, -1) - refit.predict(X).reshape(40, -1)
    loss = WEIGHT @ (error**2).sum(1) / WEIGHT.sum()
    np.testing.assert_allclose(refit.refit_loss_, loss, rtol=1e-9)
    assert refit.lower_bound_ <= refit.refit_loss_ * (1 + 1e-9)


@pytest.mark.parametrize("solver", ["primal", "dual", "matrix-free"])
@pytest.mark.parametrize("name", ["regression", "multiclass"])
def test_every_solver_chooses_the_same(name, solver):
    model = GradientBasisRefit(mlp(name), alpha=GRID, cv=3, tol=1e-10, random_state=0)
    expected = clone(model).fit(X, TARGETS[name])
    found = model.set_params(solver=solver).fit(X, TARGETS[name])
    assert found.center_ == expected.center_
    np.testing.assert_allclose(found.alpha_, expected.alpha_, rtol=1e-12)
    answer = "predict" if name == "regression" else "predict_proba"
    np.testing.assert_allclose(
        getattr(found, answer)(X_NEW), getattr(expected, answer)(X_NEW), rtol=1e-4
    )


def test_little_memory_chooses_the_same():
    """Without an eigendecomposition the folds are solved by iterations."""
    model = GradientBasisRefit(mlp(), alpha=GRID, cv=3, tol=1e-10, random_state=0)
    expected = clone(model).fit(X, CURVE)
    found = model.set_params(max_memory=20_000).fit(X, CURVE)
    assert (found.center_, found.rank_) == (expected.center_, None)
    np.testing.assert_allclose(found.alpha_, expected.alpha_, rtol=1e-12)
    np.testing.assert_allclose(found.predict(X_NEW), expected.predict(X_NEW), rtol=1e-3)


@pytest.mark.parametrize("alpha", [1e-3, "auto"])
def test_close_losses_do_not_depend_on_memory(alpha):
    """Candidates that are close to the best are solved to the tolerance."""
    X, y = make_classification(
        200, 4, n_informative=4, n_redundant=0, n_classes=3, flip_y=0.2, random_state=0
    )
    network = MLPClassifier((8,), max_iter=60, random_state=0)
    settings = {"alpha": alpha, "cv": 5, "tol": 1e-12, "random_state": 0}
    found, other = (
        GradientBasisRefit(network, max_memory=memory, **settings).fit(X, y)
        for memory in ("1GB", "500kB")
    )
    assert (found.center_, found.alpha_) == (other.center_, other.alpha_)
    losses, others = (
        {(c, a): loss for c, a, loss, _ in zip(*each.cv_results_.values(), strict=True)}
        for each in (found, other)
    )
    for candidate, loss in losses.items():
        if loss <= 1.01 * min(losses.values()):
            assert others[candidate] == pytest.approx(loss, rel=1e-5)


def test_averaged_solutions_do_not_depend_on_memory():
    """Coefficients of the folds enter the refit, so they are solved to `tol`."""
    X, y = make_friedman1(120, n_features=5, noise=1.0, random_state=0)
    forest = RandomForestRegressor(4, random_state=0)
    settings = {"alpha": [0.001, 0.01], "cv": 3, "tol": 1e-12, "random_state": 0}
    found, other = (
        GradientBasisRefit(forest, max_memory=memory, **settings).fit(
            X, np.c_[y, -(y**2) / 10]
        )
        for memory in ("1GB", "300KB")
    )
    np.testing.assert_allclose(found.refit_loss_, other.refit_loss_, rtol=1e-6)
    np.testing.assert_allclose(found.predict(X), other.predict(X), rtol=1e-4)


@pytest.mark.usefixtures("exact_paths")
@pytest.mark.parametrize("name", ["regression", "binary"])
def test_a_number_for_alpha_and_folds_choose_the_center(name):
    y, splits = TARGETS[name], list(KFold(2).split(X))
    refit = GradientBasisRefit(mlp(name), alpha=0.1, cv=splits, tol=1e-10).fit(X, y)
    twins = twins_of_folds(refit, splits, y, np.ones(40))
    losses = [
        mean_heldout_loss(twins, splits, y, np.ones(40), center, 0.2)
        for center in CENTERS
    ]
    np.testing.assert_allclose(refit.cv_results_["loss"], losses, rtol=1e-4)
    assert refit.cv_results_["center"].tolist() == list(CENTERS)
    assert refit.center_ == CENTERS[np.argmin(losses)]
    assert refit.alpha_ == pytest.approx(0.1)


@pytest.mark.usefixtures("exact_paths")
@pytest.mark.parametrize("n_models", [1, 4])
@pytest.mark.parametrize("name", [*SQUARED, *OTHERS])
def test_score_of_samples_that_nobody_has_seen(name, n_models):
    """A splitter may leave some samples out."""
    y = TARGETS[name]
    splits = [(np.arange(8, 40), np.arange(8)), (np.arange(25), np.arange(25, 40))]
    refit = GradientBasisRefit(
        mlp(name, max_iter=8), alpha=GRID, cv=splits, n_models=n_models, tol=1e-10
    ).fit(X, y, WEIGHT)
    twins, share = twins_of_folds(refit, splits, y, WEIGHT), share_of(splits, WEIGHT)
    held = np.concatenate([rows for _, rows in splits])
    raw = np.concatenate(
        [
            twin.raw(X[rows], refit.center_, refit.alpha_ / share)
            for twin, (_, rows) in zip(twins, splits, strict=True)
        ]
    )
    score = r2_score
    if name == "poisson":
        raw = np.exp(raw)
    elif hasattr(refit, "classes_"):
        score = accuracy_score
        raw = np.hstack([-raw, raw]) if raw.shape[1] == 1 else raw
        raw = refit.classes_[raw.argmax(1)]
    expected = score(y[held], raw, sample_weight=WEIGHT[held])
    assert refit.oof_score_ == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    "params",
    [
        {"cv": None},
        {"alpha": "loo"},
        {"alpha": "loo", "cv": 3},
        {"alpha": 0.1, "cv": 3, "center": "zero"},
    ],
    ids=str,
)
def test_no_score_without_held_out_samples(params):
    assert GradientBasisRefit(mlp(), **params).fit(X, CURVE).oof_score_ is None


def test_score_of_one_sample():
    splits = [(np.arange(1, 40), np.array([0]))]
    assert np.isnan(GradientBasisRefit(mlp(), cv=splits).fit(X, CURVE).oof_score_)


@pytest.mark.parametrize(
    ("params", "n_models"),
    [
        ({}, 5),
        ({"alpha": GRID}, 5),
        ({"alpha": "loo"}, 1),
        ({"alpha": "evidence"}, 1),
        ({"alpha": 0.1}, 1),
        ({"cv": None}, 1),
        ({"alpha": "loo", "cv": 2}, 2),
        ({"n_models": 7}, 10),
    ],
    ids=str,
)
def test_number_of_trainings(params, n_models):
    """Five folds by default; a name or a number for alpha needs one training."""
    refit = GradientBasisRefit(mlp(), **params).fit(X, CURVE)
    assert len(refit.estimators_) == n_models
    assert refit.center_ in CENTERS


# -- the mean of the networks --------------------------------------------------------


def test_infinite_alpha_is_the_mean_of_the_networks():
    """Networks that know the truth are not improved by labels that are all noise."""
    y = truth(X) + 3 * np.random.default_rng(1).normal(size=40)
    refit = GradientBasisRefit(Truth(random_state=0), random_state=0, distribution=True)
    refit.fit(X, y)
    assert np.isinf(refit.alpha_)
    assert (refit.center_, refit.n_iter_, refit.duality_gap_) == ("average", 1, 0)
    mean = np.mean([network.predict(X_NEW) for network in refit.estimators_], 0)
    np.testing.assert_allclose(refit.predict(X_NEW), mean, rtol=1e-9)
    features = refit.transform(X_NEW)
    np.testing.assert_allclose(features @ refit.basis_coef_, mean, rtol=1e-9)
    loss = np.mean((refit.predict(X) - y) ** 2)
    np.testing.assert_allclose(refit.refit_loss_, loss, rtol=1e-9)
    assert 0 <= refit.lower_bound_ <= refit.refit_loss_
    assert refit.rank_ >= 1
    _, std = refit.predict(X_NEW, return_std=True)
    assert ((std > 1.5) & (std < 6)).all()


def test_infinite_alpha_of_a_classifier():
    """Random labels leave the networks' mean of next to nothing as it is."""
    y = np.tile(["no", "yes"], 20)
    network = mlp("binary", alpha=1e4)
    refit = GradientBasisRefit(network, random_state=0).fit(X, y)
    if np.isinf(refit.alpha_):
        mean = mean_of_networks(refit.estimators_, X_NEW)[:, 0]
        np.testing.assert_allclose(refit.decision_function(X_NEW), mean, rtol=1e-9)
    assert refit.cv_results_["alpha"][-1] == np.inf
    assert refit.cv_results_["center"][-1] == "average"


def test_the_mean_is_a_candidate_where_the_center_may_be_the_network():
    """Not among candidates that the user gives, nor if the center is zero."""
    for params, expected in (
        ({}, True),
        ({"center": "average"}, True),
        ({"center": "zero"}, False),
        ({"alpha": GRID}, False),
    ):
        refit = GradientBasisRefit(mlp(), cv=2, **params).fit(X, CURVE)
        assert np.isinf(refit.cv_results_["alpha"]).any() == expected


def test_evidence_of_a_frozen_network_has_no_infinite_candidate():
    """The evidence is no loss; the network's own loss can't be compared with it."""
    network = FrozenEstimator(mlp(max_iter=500).fit(X, CURVE))
    refit = GradientBasisRefit(network, alpha="evidence").fit(X, CURVE)
    assert np.isfinite(refit.cv_results_["alpha"]).all()
    assert np.isfinite(refit.alpha_)


@pytest.mark.parametrize("seed_", range(3))
def test_noisy_data_do_not_make_the_refit_worse_than_its_networks(seed_):
    """On friedman1 with noise 1: at most 1 % above the mean of its own networks."""
    X, y = make_friedman1(400, noise=1.0, random_state=seed_)
    inner = make_pipeline(
        StandardScaler(), MLPRegressor(hidden_layer_sizes=(10,), random_state=0)
    )
    refit = GradientBasisRefit(inner, random_state=0).fit(X[:200], y[:200])
    mean = np.mean([network.predict(X[200:]) for network in refit.estimators_], 0)
    own, best = (
        np.sqrt(np.mean((y[200:] - p) ** 2)) for p in (refit.predict(X[200:]), mean)
    )
    assert own <= 1.01 * best


# -- validation samples --------------------------------------------------------------


@pytest.mark.usefixtures("exact_paths")
@pytest.mark.parametrize("is_frozen", [False, True], ids=["trained", "frozen"])
@pytest.mark.parametrize("name", ["regression", "multi-output", "binary"])
@pytest.mark.parametrize("clear", [0.0, CLEAR_GAIN])
def test_choice_on_validation_samples_is_brute_force(
    name, is_frozen, clear, monkeypatch
):
    """One training on the other samples, no warning; the final problem is theirs.

    The network is kept unless the refit is better by some standard errors.
    """
    monkeypatch.setattr(_networks, "CLEAR_GAIN", clear)
    y, s = TARGETS[name], WEIGHT
    fit, val = slice(0, 28), slice(28, 40)
    network = mlp(name, max_iter=8)
    if is_frozen:
        network = FrozenEstimator(trained(network, X[fit], y[fit], s[fit]))
    refit = GradientBasisRefit(network, tol=1e-10)
    refit.fit(
        X[fit],
        y[fit],
        s[fit],
        X_val=X[val],
        y_val=y[val],
        sample_weight_val=s[val],
    )
    assert len(refit.estimators_) == 1
    twin = Twin(refit.estimators_, X[fit], y[fit], s[fit])
    path = refit.cv_results_
    assert path["alpha"][-1] == np.inf
    assert set(path["center"]) == set(CENTERS)
    for center, alpha, found, _ in list(zip(*path.values(), strict=True))[::4]:
        if alpha > 1e-5:
            losses = twin.losses(X[val], y[val], center, alpha)
            np.testing.assert_allclose(found, s[val] @ losses / s[val].sum(), rtol=1e-3)
    best = np.argmin(path["loss"])
    center, alpha = path["center"][best], path["alpha"][best]
    gains = twin.losses(X[val], y[val], "average", np.inf)
    gains -= twin.losses(X[val], y[val], center, alpha)
    gain = np.average(gains, weights=s[val])
    count = max(s[val].sum(), s[val].sum() ** 2 / (s[val] ** 2).sum())
    variance = np.average((gains - gain) ** 2, weights=s[val]) / count
    if gain <= clear * variance**0.5:
        center, alpha = "average", np.inf
    assert (refit.center_, refit.alpha_) == (center, alpha)
    assert np.isfinite(alpha) or clear
    if 1e-6 < refit.alpha_ < np.inf:
        raw = twin.raw(X_NEW, refit.center_, refit.alpha_)
        found = refit.transform(X_NEW).reshape(*raw.shape, -1) @ refit.basis_coef_
        np.testing.assert_allclose(found, raw, rtol=1e-3, atol=1e-4)


def test_relative_weights_of_validation_samples():
    """Equal weights that sum to one or less are the same as none."""
    y = X @ np.arange(1.0, 1 + X.shape[1]) + 0.1 * np.sin(9 * np.arange(40))
    model = GradientBasisRefit(FrozenEstimator(Ridge(100).fit(X[:28], y[:28])))
    found = [
        clone(model)
        .fit(X[:28], y[:28], X_val=X[28:], y_val=y[28:], sample_weight_val=each)
        .alpha_
        for each in (None, np.full(12, 1 / 12), np.full(12, 1e-9))
    ]
    assert np.isfinite(found[0])
    np.testing.assert_allclose(found, found[0])


@pytest.mark.parametrize("name", ["multi-output", "poisson", "multiclass"])
def test_weights_of_validation_samples_equal_repetition(name):
    y, rest = TARGETS[name], np.arange(28, 40)
    weight = np.array([0, 1, 2, 3] * 3)
    index = np.repeat(rest, weight)
    network = FrozenEstimator(trained(mlp(name), X[:28], y[:28]))
    model = GradientBasisRefit(network)
    weighted = clone(model).fit(
        X[:28], y[:28], X_val=X[rest], y_val=y[rest], sample_weight_val=weight
    )
    repeated = clone(model).fit(X[:28], y[:28], X_val=X[index], y_val=y[index])
    unweighted = clone(model).fit(X[:28], y[:28], X_val=X[rest], y_val=y[rest])
    loss = repeated.cv_results_["loss"]
    np.testing.assert_allclose(weighted.cv_results_["loss"], loss, rtol=1e-9)
    np.testing.assert_array_equal(weighted.basis_coef_, repeated.basis_coef_)
    assert abs(unweighted.cv_results_["loss"][0] / loss[0] - 1) > 1e-3


@pytest.mark.usefixtures("exact_paths")
def test_labels_of_validation_samples_of_a_module():
    """Numbered as those of the training, also where they lack a class."""
    y = TARGETS["multiclass"]
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3))
    some = np.flatnonzero(y != "low")
    refit = GradientBasisRefit(module, loss="log_loss", alpha=GRID, center="zero")
    refit.fit(X, y, X_val=X[some], y_val=y[some])
    chosen = refit.predict_proba(X[some])
    share = chosen[np.arange(len(some)), np.searchsorted(refit.classes_, y[some])]
    best = refit.cv_results_["loss"].min()
    np.testing.assert_allclose(-np.log(share).mean(), best, rtol=1e-3)


def test_several_networks_and_validation_samples():
    fit, val = slice(0, 28), slice(28, 40)
    refit = GradientBasisRefit(mlp(), n_models=3, alpha=GRID, random_state=0)
    refit.fit(X[fit], CURVE[fit], X_val=X[val], y_val=CURVE[val])
    assert len(refit.estimators_) == 3
    twin = Twin(refit.estimators_, X[fit], CURVE[fit], np.ones(28))
    for center, alpha, found, _ in zip(*refit.cv_results_.values(), strict=True):
        losses = twin.losses(X[val], CURVE[val], center, alpha)
        np.testing.assert_allclose(found, losses.mean(), rtol=1e-5)


def test_validation_samples_go_through_the_networks_own_steps():
    """Targets and inputs alike."""
    network = make_pipeline(StandardScaler(), mlp())
    scaler = StandardScaler().fit(X[:28])
    wide = GradientBasisRefit(network)
    wide.fit(X[:28], CURVE[:28], X_val=X[28:], y_val=CURVE[28:])
    by_hand = GradientBasisRefit(mlp()).fit(
        scaler.transform(X[:28]),
        CURVE[:28],
        X_val=scaler.transform(X[28:]),
        y_val=CURVE[28:],
    )
    loss = by_hand.cv_results_["loss"]
    np.testing.assert_allclose(wide.cv_results_["loss"], loss, rtol=1e-9)


def test_raw_of_twins():
    """The twin itself: its network is that of scikit-learn."""
    network = mlp().fit(X, CURVE)
    np.testing.assert_allclose(raw_of_network(network, X)[:, 0], network.predict(X))
    np.testing.assert_array_equal(encoded(network, CURVE)[:, 0], CURVE)


@pytest.mark.parametrize("solved", [1, 3])
def test_the_start_is_the_mean_of_the_solved_folds(solved, generator):
    """Each basis is divided by the root of the number of folds."""
    bases = [randn(generator, 6, width) for width in (2, 4, 3)]
    parts = [(randn(generator, b.shape[1]), randn(generator, 1)) for b in bases]
    coef, intercept = averaged_start(parts[:solved], 3, 9)
    outputs = [basis @ c + b for basis, (c, b) in zip(bases, parts, strict=True)]
    raw = torch.cat(bases, 1) @ coef / 3**0.5 + intercept
    assert_close(raw, torch.stack(outputs[:solved]).mean(0))
