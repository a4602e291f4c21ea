"""Certificates and comparisons of trees, linear models and combinations."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.datasets import make_friedman1
from sklearn.ensemble import (
    BaggingRegressor,
    ExtraTreesRegressor,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
)
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import (
    Lasso,
    LinearRegression,
    LogisticRegression,
    LogisticRegressionCV,
    PoissonRegressor,
    Ridge,
    RidgeCV,
)
from sklearn.multioutput import MultiOutputRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.tree import DecisionTreeRegressor
from tree_cases import COMBINATIONS, SURROGATES, TREES, X, Y

from sklearn_pgb import (
    GradientBasis,
    LayerBasis,
    PerturbedGradientBasis,
    certify,
    compare_bases,
)
from sklearn_pgb._convex import _choice

WEIGHT = np.random.default_rng(0).integers(1, 4, 120).astype(float)
CONVERGED = {"tol": 1e-12, "max_iter": 10_000}


@pytest.mark.parametrize(
    ("model", "targets"),
    [
        (DecisionTreeRegressor(random_state=0), "real"),
        (DecisionTreeRegressor(max_depth=2, random_state=0), "two"),
        (ExtraTreesRegressor(3, random_state=0), "real"),
        (LinearRegression(), "real"),
        (LinearRegression(fit_intercept=False), "two"),
        (MultiOutputRegressor(LinearRegression()), "two"),
        (make_pipeline(StandardScaler(), Ridge()), "real"),
        (Ridge(alpha=[1.0, 50.0]), "two"),
        (RidgeCV(alphas=[0.5, 5.0]), "real"),
        (Ridge(5.0, fit_intercept=False), "real"),
        (PoissonRegressor(alpha=0.3, **CONVERGED), "count"),
        (LogisticRegression(C=0.1, **CONVERGED), "binary"),
        (LogisticRegression(C=np.inf, **CONVERGED), "multi"),
        (LogisticRegression(solver="liblinear", **CONVERGED), "binary"),
        (LogisticRegression(class_weight="balanced", **CONVERGED), "binary"),
        (LogisticRegression(class_weight={"yes": 3}, **CONVERGED), "binary"),
        (
            LogisticRegressionCV(
                Cs=2,
                cv=2,
                l1_ratios=(0.0,),
                use_legacy_attributes=False,
                scoring="accuracy",
                **CONVERGED,
            ),
            "multi",
        ),
    ],
    ids=str,
)
def test_convex_models_are_global_minima(model, targets):
    """Linear models are certified with their penalties and class weights."""
    y = Y[targets]
    model.fit(X, y)
    assert certify(model, X, y).verdict == "certified_global"


@pytest.mark.parametrize(
    "model", [LinearRegression(), Ridge(3.0), DecisionTreeRegressor(max_depth=3)]
)
def test_weights_are_part_of_the_objective(model):
    y = Y["real"]
    model.fit(X, y, WEIGHT)
    certificate = certify(model, X, y, sample_weight=WEIGHT)
    assert certificate.verdict == "certified_global"
    assert certify(model, X, y).verdict == "not_critical"


def test_balanced_classes_with_sample_weights():
    """Logistic regression balances the weights of the classes, not their numbers."""
    y = Y["binary"]
    model = LogisticRegression(class_weight="balanced", **CONVERGED)
    model.fit(X, y, WEIGHT)
    certificate = certify(model, X, y, sample_weight=WEIGHT)
    assert certificate.verdict == "certified_global"


@pytest.mark.filterwarnings("ignore:'penalty' was deprecated")
@pytest.mark.filterwarnings("ignore:Inconsistent values. penalty=l1")
def test_deprecated_penalty_of_logistic_regression():
    """It takes the place of C and of l1_ratio."""
    y = Y["multi"]
    model = LogisticRegression(penalty=None, **CONVERGED).fit(X, y)
    certificate = certify(model, X, y)
    assert certificate.verdict == "certified_global"
    assert certificate.penalty == 0
    model = LogisticRegression(penalty="l1", solver="saga", **CONVERGED).fit(X, y)
    certificate = certify(model, X, y)
    assert certificate.penalty == 0
    assert any("L1 penalty" in note for note in certificate.notes)


@pytest.mark.parametrize("name", ["boosting", "histogram, multi", "forest, two", "bag"])
def test_ensembles_leave_a_gap(name):
    """They are not critical: solving for all leaf values jointly is better."""
    model, targets = (TREES | COMBINATIONS)[name]
    y = Y[targets]
    certificate = certify(clone(model).fit(X, y), X, y)
    assert certificate.verdict == "not_critical"
    assert certificate.gap > 0
    assert [row.basis for row in certificate.table] == ["gradient"]
    assert certificate.kink_margin == np.inf
    assert certificate.generic_rank == certificate.rank
    assert any("Thresholds of trees" in note for note in certificate.notes)


def test_moved_leaf_values_are_not_a_minimum():
    """The certificate of a tree is one of its leaf values."""
    y = Y["real"]
    tree = DecisionTreeRegressor(max_depth=2).fit(X, y)
    tree.tree_.value[tree.tree_.children_left == -1] += 0.01
    certificate = certify(tree, X, y)
    assert certificate.verdict == "not_critical"
    # The squared loss grows by the square of the shift.
    assert certificate.gap == pytest.approx(1e-4, rel=1e-6)


@pytest.mark.parametrize("name", SURROGATES)
def test_surrogates_are_named(name):
    model, targets = SURROGATES[name]
    y = Y[targets]
    certificate = certify(clone(model).fit(X, y), X, y)
    assert any("is about a surrogate, the" in note for note in certificate.notes)


def test_penalties_outside_of_the_objective_are_noted():
    y = Y["real"]
    notes = certify(Lasso(0.1).fit(X, y), X, y).notes
    assert any("L1 penalty" in note for note in notes)
    positive = LinearRegression(positive=True).fit(X, y)
    assert any("positive=True" in note for note in certify(positive, X, y).notes)


def test_bases_of_the_user_take_the_inputs_of_the_trees():
    """They get the samples, not the leaf numbers."""
    y, forest = Y["real"], BaggingRegressor(n_estimators=2, random_state=0)
    linear = make_pipeline(StandardScaler())
    certificate = certify(forest.fit(X, y), X, y, bases={"scaled": linear})
    row = next(row for row in certificate.table if row.basis == "scaled")
    residual = y - LinearRegression().fit(X, y).predict(X)
    assert row.value == pytest.approx(np.mean(residual**2))


def test_trees_are_not_compared_by_leave_one_out(monkeypatch):
    """Alpha is chosen on samples that the trees have not seen."""

    def refuse(*args):
        raise AssertionError

    monkeypatch.setattr(_choice, "by_leave_one_out", refuse)
    trees = GradientBasis(DecisionTreeRegressor(max_depth=2))
    compare_bases({"trees": trees}, X, Y["real"], cv=2)


def test_comparison_of_trees_with_other_bases():
    X, y = make_friedman1(400, noise=1.0, random_state=0)
    trees = HistGradientBoostingRegressor(max_iter=40, random_state=0)
    bases = {"trees": GradientBasis(trees), "linear": GradientBasis(LinearRegression())}
    reports = compare_bases(bases, X, y, cv=2, random_state=0).reports
    own, linear = reports
    assert own.lower_bound <= own.train_loss < linear.train_loss
    assert np.mean(own.scores) > np.mean(linear.scores)
    gap = certify(trees.fit(X, y), X, y).gap
    left = np.mean((trees.predict(X) - y) ** 2) - gap
    assert own.train_loss == pytest.approx(left, abs=1e-6)


def test_frozen_trees_are_not_compared():
    y = Y["real"]
    frozen = FrozenEstimator(DecisionTreeRegressor().fit(X, y))
    bag = BaggingRegressor(frozen, n_estimators=2)
    for model in (frozen, make_pipeline(StandardScaler(), frozen), bag):
        with pytest.raises(ValueError, match="must not hold trees in a FrozenEst"):
            compare_bases({"trees": GradientBasis(model)}, X, y)


@pytest.mark.parametrize("name", ["histogram", "forest, two", "boosting, multi"])
def test_gradient_basis_of_trees(name):
    """Its columns are the indicators of the leaves, scaled to norm one."""
    model, targets = TREES[name]
    basis = GradientBasis(clone(model)).fit(X, Y[targets])
    n_outputs = basis.network_.network.n_outputs
    operator = basis.operator(X, n_outputs)
    assert basis.intercept
    assert operator.squared_row_norms().mean() == pytest.approx(1)
    perturbed = PerturbedGradientBasis(clone(model), random_state=0).fit(X, Y[targets])
    assert len(perturbed.perturbations_) == 0
    with pytest.raises(ValueError, match="one of the 0 hidden layers"):
        LayerBasis(clone(model)).fit(X, Y[targets]).features(X)


def test_class_weights_of_forests():
    """They multiply the sample weights of the objective."""
    forest = RandomForestClassifier(3, class_weight={"yes": 2}, random_state=0)
    y = Y["binary"]
    forest.fit(X, y)
    weight = np.where(y == "yes", 2.0, 1.0)
    plain = clone(forest).set_params(class_weight=None)
    certificate = certify(forest, X, y)
    plain.fit(X, y)
    plain.estimators_, plain.n_classes_ = forest.estimators_, forest.n_classes_
    weighted = certify(plain, X, y, sample_weight=weight)
    assert certificate.loss == pytest.approx(weighted.loss)


def test_floor_of_samples_that_floats_would_merge():
    """Rows differ in a large integer only, so a model can fit each of them."""
    pd = pytest.importorskip("pandas")
    rng = np.random.default_rng(0)
    rows = pd.DataFrame({"id": 2**60 + np.arange(40), "x": np.zeros(40)})
    y = np.arange(40.0) + rng.normal(size=40)
    shifted = FunctionTransformer(lambda column: (column - 2**60).astype(float))

    for final in (LinearRegression(), Ridge(alpha=1e9)):
        inputs = make_column_transformer((shifted, ["id"]), ("passthrough", ["x"]))
        model = make_pipeline(inputs, final).fit(rows, y)
        assert certify(model, rows, y).floor == 0
