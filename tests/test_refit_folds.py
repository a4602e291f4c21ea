"""The samples of each network of a refit: groups, weights, classes, sizes."""

import numpy as np
import pytest
import sklearn
from refit_cases import CURVE, TARGETS, WEIGHT, X_NEW, Twin, X, mlp
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.compose import make_column_transformer
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, GroupKFold, LeaveOneGroupOut
from sklearn.neighbors import KNeighborsRegressor
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from sklearn_pgb import GradientBasisRefit

GROUPS = np.arange(40) // 4
LABELS = TARGETS["multiclass"]


class Remembers(MLPRegressor):
    """A network that stores the arguments of `fit`."""

    def fit(self, X, y, sample_weight=None, groups=None):
        self.seen_X_, self.seen_groups_, self.seen_weight_ = X, groups, sample_weight
        return super().fit(X, y, sample_weight)


def remembers(**params):
    return Remembers(
        hidden_layer_sizes=(3,), solver="lbfgs", max_iter=5, random_state=0, **params
    )


def groups_seen(model):
    """The groups of the samples that each network was trained on."""
    rows = {row.tobytes(): group for row, group in zip(X, GROUPS, strict=True)}
    return [{rows[row.tobytes()] for row in e.seen_X_} for e in model.estimators_]


# -- groups --------------------------------------------------------------------------


@pytest.mark.parametrize("cv", ["auto", 2, 5, GroupKFold(4), LeaveOneGroupOut()])
def test_groups_are_never_split(cv):
    """No group is in both the training and the held-out samples of a network."""
    model = GradientBasisRefit(remembers(), cv=cv, random_state=0)
    model.fit(X, CURVE, groups=GROUPS)
    for estimator, seen in zip(model.estimators_, groups_seen(model), strict=True):
        assert len(estimator.seen_X_) == 4 * len(seen) < 40
    held = [set(GROUPS) - seen for seen in groups_seen(model)]
    assert sorted(group for part in held for group in part) == list(range(10))


@pytest.mark.parametrize("groups", [GROUPS, GROUPS.astype(str), GROUPS.tolist()])
def test_names_of_groups_do_not_matter(groups):
    model = GradientBasisRefit(mlp(), random_state=0)
    expected = clone(model).fit(X, CURVE, groups=GROUPS)
    found = clone(model).fit(X, CURVE, groups=groups)
    np.testing.assert_array_equal(found.predict(X), expected.predict(X))
    without = clone(model).fit(X, CURVE)
    assert abs(without.predict(X) - expected.predict(X)).max() > 1e-6


def test_equal_samples_of_two_groups_join_them():
    """Otherwise a network would be scored on a copy of a training sample."""
    doubled = X.copy()
    doubled[4] = doubled[0]
    model = GradientBasisRefit(remembers(), cv=3, random_state=0)
    model.fit(doubled, CURVE, groups=GROUPS)
    for estimator in model.estimators_:
        copies = (estimator.seen_X_ == doubled[0]).all(1).sum()
        assert copies in (0, 2)


def test_groups_reach_the_network():
    """Each network gets the groups of its samples, if its `fit` takes groups."""
    model = GradientBasisRefit(remembers(), cv=GroupKFold(4))
    model.fit(X, CURVE, WEIGHT, groups=GROUPS)
    for estimator, seen in zip(model.estimators_, groups_seen(model), strict=True):
        assert set(estimator.seen_groups_) == seen
        assert len(estimator.seen_groups_) == len(estimator.seen_X_)
    # Through a pipeline too. Without groups, the network gets none.
    inner = make_pipeline(StandardScaler(), remembers())
    model = GradientBasisRefit(inner, cv=2).fit(X, CURVE, groups=GROUPS)
    assert all(len(e[-1].seen_groups_) == 20 for e in model.estimators_)
    assert GradientBasisRefit(remembers()).fit(X, CURVE).estimator_.seen_groups_ is None


@pytest.mark.parametrize("asks", [True, False])
def test_groups_are_routed(asks):
    """With metadata routing the network must request them; folds get them always."""
    with sklearn.config_context(enable_metadata_routing=True):
        inner = remembers().set_fit_request(groups=asks, sample_weight=True)
        model = GradientBasisRefit(inner, cv=GroupKFold(4))
        model.fit(X, CURVE, WEIGHT, groups=GROUPS)
        for estimator, seen in zip(model.estimators_, groups_seen(model), strict=True):
            if asks:
                assert set(estimator.seen_groups_) == seen
            else:
                assert estimator.seen_groups_ is None
        # From a search over the refit, whose splitter wants them as well.
        model = GradientBasisRefit(mlp(), cv=2).set_fit_request(groups=True)
        search = GridSearchCV(model, {"center": ["zero"]}, cv=GroupKFold(2))
        search.fit(X, CURVE, groups=GROUPS)
    assert len(search.best_estimator_.estimators_) == 2


def test_samples_without_weight_take_their_groups_with_them():
    weight = WEIGHT * (GROUPS != 3)
    model = GradientBasisRefit(remembers(), cv=GroupKFold(3))
    model.fit(X, CURVE, weight, groups=GROUPS)
    assert all(3 not in seen for seen in groups_seen(model))
    assert set().union(*groups_seen(model)) == set(range(10)) - {3}


def test_groups_that_cannot_be_used():
    model = GradientBasisRefit(mlp())
    with pytest.raises(ValueError, match="at least 2 groups for cross-fitting, got 1"):
        model.fit(X, CURVE, groups=np.zeros(40))
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        model.fit(X, CURVE, groups=GROUPS[:-1])
    with pytest.raises(ValueError, match="one value per sample"):
        model.fit(X, CURVE, groups=np.c_[GROUPS, GROUPS])
    with pytest.raises(ValueError, match="'groups' parameter should not be None"):
        model.set_params(cv=GroupKFold()).fit(X, CURVE)
    with pytest.raises(ValueError, match="cv must be at most the number of groups"):
        model.set_params(cv=11).fit(X, CURVE, groups=GROUPS)


# -- weights and classes -------------------------------------------------------------


@pytest.mark.parametrize("routing", [False, True])
@pytest.mark.parametrize("name", ["binary", "multiclass"])
def test_balanced_classes_and_weights_equal_repetition(name, routing):
    """Routing requests nothing if the user only sets `class_weight`."""
    y, index = TARGETS[name], np.repeat(np.arange(40), WEIGHT.astype(int))
    network = mlp(name, max_iter=8)
    model = GradientBasisRefit(
        network, class_weight="balanced", tol=1e-12, random_state=0
    )
    with sklearn.config_context(enable_metadata_routing=routing):
        repeated = clone(model).fit(X[index], y[index])
        if routing:
            model.set_params(estimator=network.set_fit_request(sample_weight=True))
        weighted = model.fit(X, y, WEIGHT)
    np.testing.assert_allclose(weighted.alpha_, repeated.alpha_, rtol=1e-9)
    assert weighted.center_ == repeated.center_
    np.testing.assert_allclose(
        weighted.predict_proba(X_NEW),
        repeated.predict_proba(X_NEW),
        rtol=1e-4,
        atol=1e-7,
    )


@pytest.mark.parametrize("cv", ["auto", None])
@pytest.mark.parametrize("known", [2, 3])
def test_classes_of_weight_zero_stay(known, cv):
    """They are in `classes_`, with a probability of about zero."""
    y = LABELS.astype(object)
    y[::7] = "extra"
    weight = (y != "extra").astype(float)
    if known == 2:
        weight[y == "mid"] = 0
    model = GradientBasisRefit(mlp("multiclass"), cv=cv, random_state=0)
    model.fit(X, y.astype(str), weight)
    assert model.classes_.tolist() == ["extra", "low", "mid", "top"]
    probability = model.predict_proba(X_NEW)
    assert probability.shape == model.decision_function(X_NEW).shape == (11, 4)
    np.testing.assert_allclose(probability.sum(1), 1)
    absent = [0] if known == 3 else [0, 2]
    assert (probability[:, absent] < 1e-12).all()
    assert (model.predict_log_proba(X_NEW)[:, absent] < -30).all()
    assert np.isfinite(model.predict_log_proba(X_NEW)).all()
    # The others are as if those samples were not there.
    rows = weight > 0
    twin = clone(model).fit(X[rows], y[rows].astype(str), weight[rows])
    present = np.setdiff1d(range(4), absent)
    np.testing.assert_allclose(
        probability[:, present], twin.predict_proba(X_NEW), atol=1e-12
    )
    np.testing.assert_array_equal(model.predict(X_NEW), twin.predict(X_NEW))


# -- before anything is trained ------------------------------------------------------


class NeverFit(MLPRegressor):
    """A network that must not be trained."""

    def fit(self, X, y, sample_weight=None):
        raise AssertionError("trained")


class Plain(RegressorMixin, BaseEstimator):
    """An estimator that is not a network and must not be trained."""

    def fit(self, X, y):
        raise AssertionError("trained")


@pytest.mark.parametrize("cv", [41, 1000])
def test_more_folds_than_samples_are_an_error_before_any_training(cv):
    match = f"cv must be at most the number of distinct rows.*40, got {cv}"
    with pytest.raises(ValueError, match=match):
        GradientBasisRefit(NeverFit(), cv=cv).fit(X, CURVE)
    # Copies of a sample are one.
    with pytest.raises(ValueError, match="20, got 30"):
        GradientBasisRefit(NeverFit(), cv=30).fit(np.r_[X[:20], X[:20]], CURVE)
    # The default takes as many as there are.
    assert len(GradientBasisRefit(mlp()).fit(X[:3], CURVE[:3]).estimators_) == 3


@pytest.mark.parametrize(
    "estimator",
    [
        GridSearchCV(Plain(), {}),
        make_pipeline(StandardScaler(), GridSearchCV(Plain(), {})),
        GridSearchCV(make_pipeline(StandardScaler(), KNeighborsRegressor()), {}),
    ],
    ids=["search", "pipeline", "inside"],
)
def test_search_over_something_else_is_refused_before_it_is_trained(estimator):
    with pytest.raises(TypeError, match="estimator must be a network of this package"):
        GradientBasisRefit(estimator).fit(X, CURVE)


@pytest.mark.parametrize("device", ["bogus", "cuda:99"])
def test_device_is_checked_before_any_training(device):
    with pytest.raises(ValueError, match="device must be one that torch can use here"):
        GradientBasisRefit(NeverFit(), device=device).fit(X, CURVE)


# -- networks of different sizes -----------------------------------------------------


def test_folds_without_a_category_have_smaller_networks():
    """Rare categories, with a loss without closed form, which needs only some folds."""
    pd = pytest.importorskip("pandas")
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"a": rng.normal(size=1500)})
    frame["c"] = rng.choice(list("uvwxy"), size=1500)
    frame.loc[[3, 500, 900, 1400], "c"] = ["once1", "once2", "once3", "once4"]
    y = (frame["a"] + rng.normal(size=1500) > 0).to_numpy()
    columns = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore"), ["c"]), (StandardScaler(), ["a"])
    )
    network = MLPClassifier((3,), solver="lbfgs", max_iter=15, random_state=0)
    model = GradientBasisRefit(make_pipeline(columns, network), random_state=0)
    model.fit(frame, y)
    sizes = {len(e[-1].coefs_[0]) for e in model.estimators_}
    assert len(sizes) > 1
    assert len(model.basis_coef_) == sum(
        w.size for e in model.estimators_ for w in e[-1].coefs_ + e[-1].intercepts_
    )
    assert model.score(frame, y) > 0.6


class Widens(MLPRegressor):
    """A network whose width depends on its samples."""

    def fit(self, X, y, sample_weight=None):
        self.set_params(hidden_layer_sizes=(1 + int(X[:, 0].sum() * 100) % 5,))
        return super().fit(X, y, sample_weight)


@pytest.mark.parametrize("alpha", ["auto", np.array([1e-2, 1.0])], ids=str)
@pytest.mark.parametrize("loss", ["squared_error", "poisson"])
def test_folds_with_networks_of_different_widths(loss, alpha):
    y = np.exp(CURVE / 3)
    inner = Widens(loss=loss, solver="lbfgs", max_iter=10, random_state=0)
    model = GradientBasisRefit(inner, alpha=alpha, cv=4, tol=1e-10, random_state=0)
    model.fit(X, y)
    assert len({e.hidden_layer_sizes for e in model.estimators_}) > 1
    assert np.isfinite(model.predict(X_NEW)).all()
    if loss == "poisson" and np.isfinite(model.alpha_):
        twin = Twin(model.estimators_, X, y, np.ones(40))
        raw = twin.raw(X_NEW, model.center_, model.alpha_)[:, 0]
        np.testing.assert_allclose(model.predict(X_NEW), np.exp(raw), rtol=1e-3)


@pytest.mark.parametrize("name", ["regression", "multiclass"])
def test_search_over_widths_as_the_network(name):
    search = GridSearchCV(mlp(name), {"hidden_layer_sizes": [(1,), (2,), (5,)]}, cv=2)
    model = GradientBasisRefit(search, random_state=0).fit(X, TARGETS[name])
    assert len(model.estimators_) == 5
    assert len(model.basis_coef_) == sum(
        w.size
        for e in model.estimators_
        for w in e.best_estimator_.coefs_ + e.best_estimator_.intercepts_
    )
    assert model.score(X, TARGETS[name]) > 0


# -- containers ----------------------------------------------------------------------


@pytest.mark.parametrize("inner", [mlp(), make_pipeline(StandardScaler(), mlp())])
def test_nullable_frame_fits_as_its_numbers(inner):
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(X, columns=list("abc"))
    model = GradientBasisRefit(inner, random_state=0)
    expected = clone(model).fit(frame, CURVE)
    nullable = clone(model).fit(frame.astype("Float64"), CURVE)
    # pandas 2 lays out the two arrays in different orders, in which sums round.
    np.testing.assert_allclose(
        nullable.predict(frame), expected.predict(frame), rtol=1e-9
    )
    np.testing.assert_allclose(
        nullable.cv_results_["loss"], expected.cv_results_["loss"], rtol=1e-9
    )


# -- warnings ------------------------------------------------------------------------


@pytest.mark.filterwarnings("error::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("n_jobs", [None, 2])
def test_networks_that_stop_early_cause_no_warning(n_jobs):
    """Warnings of Adam and L-BFGS are suppressed, in all processes."""
    for solver in ("adam", "lbfgs")[: 3 - (n_jobs or 1)]:
        inner = MLPRegressor(
            hidden_layer_sizes=(3,), solver=solver, max_iter=3, random_state=0
        )
        with pytest.warns(ConvergenceWarning):
            clone(inner).fit(X, CURVE)
        GradientBasisRefit(inner, n_jobs=n_jobs).fit(X, CURVE)
