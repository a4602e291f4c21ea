"""The estimators for tables among the rest of scikit-learn, and on disk."""

import pickle

import joblib
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import sklearn
import torch
from sklearn.base import clone
from sklearn.ensemble import HistGradientBoostingRegressor, VotingRegressor
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, KFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import get_tags
from table_cases import CURVE, FRAME, NETWORK, TREES, WEIGHT, X, Y, regressor, small

from sklearn_pgb import AddedNeuronRegressor, GradientBasisRegressor

TARGETS = pytest.mark.parametrize("name", Y)


def answers(model, rows=FRAME):
    """Everything a fitted model says, in the order of its methods."""
    names = "predict", "predict_proba", "decision_function"
    return [getattr(model, name)(rows) for name in names if hasattr(model, name)]


def assert_same(model, other, rows=FRAME):
    for mine, theirs in zip(answers(model, rows), answers(other, rows), strict=True):
        np.testing.assert_array_equal(mine, theirs)


@TARGETS
def test_copies(name):
    """Of a clone, a second fit that starts anew, and pickle."""
    model = small(name).fit(FRAME[:40], Y[name][:40]).fit(FRAME, Y[name])
    twin = clone(model).fit(FRAME, Y[name])
    assert_same(model, twin)
    assert vars(model).keys() == vars(twin).keys()
    assert_same(pickle.loads(pickle.dumps(model)), model)


@pytest.mark.parametrize("name", ["real", "multi", "count"])
def test_copies_that_are_mapped_to_a_file(name, tmp_path):
    """Their arrays can't be written to, which is no reason to warn."""
    model = small(name).fit(FRAME, Y[name])
    joblib.dump(model, tmp_path / "model.joblib")
    copy = joblib.load(tmp_path / "model.joblib", mmap_mode="r")
    assert_same(copy, model)
    if name == "real":
        for mine, theirs in zip(
            copy.predict_interval(FRAME), model.predict_interval(FRAME), strict=True
        ):
            np.testing.assert_array_equal(mine, theirs)


def test_fitted_models_predict_whatever_their_parameters_become():
    model = small("count").fit(X, Y["count"])
    before = model.predict(X)
    model.set_params(loss="squared_error", trees=None, cv=7)
    np.testing.assert_array_equal(model.predict(X), before)


@pytest.mark.parametrize("name", ["real", "multi"])
def test_results_do_not_depend_on_jobs(name):
    assert_same(
        small(name, n_jobs=2).fit(FRAME, Y[name]), small(name).fit(FRAME, Y[name])
    )


def test_seeds():
    """They repeat the members and the folds; another one changes both."""
    one, same, other = (
        regressor(random_state=seed).fit(X, CURVE).predict(X) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, same)
    assert abs(one - other).max() > 1e-6
    generators = [np.random.RandomState(0) for _ in range(2)]
    drawn = [regressor(random_state=rng).fit(X, CURVE).predict(X) for rng in generators]
    np.testing.assert_array_equal(*drawn)


def test_generators_of_the_process_stay():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    regressor(AddedNeuronRegressor((3,), max_iter=2)).fit(X, CURVE)
    torch.testing.assert_close(torch.get_rng_state(), before)


def test_memory(tmp_path):
    """A second fit with other folds' models at hand trains nothing anew."""
    model = regressor(memory=str(tmp_path)).fit(FRAME, CURVE)
    stored = sorted(tmp_path.rglob("output.pkl"))
    assert len(stored) == 2 * 3
    twin = regressor(memory=str(tmp_path)).fit(FRAME, CURVE)
    assert sorted(tmp_path.rglob("output.pkl")) == stored
    assert_same(model, twin)
    assert_same(model, regressor().fit(FRAME, CURVE))


def test_verbose(capsys):
    names = ["network", "trees", "forest"]
    regressor(verbose=1).fit(X, CURVE)
    lines = capsys.readouterr().out.splitlines()
    starts = [f"Model {name} {n} t" for name in names for n in (1, 2)]
    assert [line[: len(start)] for line, start in zip(lines, starts, strict=True)] == (
        starts
    )
    regressor().fit(X, CURVE)
    assert capsys.readouterr().out == ""


# --- containers -----------------------------------------------------------------------


def test_matrices_in_any_container():
    """Sparse matrices, lists and frames of the same numbers."""
    rows = np.where(X > 0.5, X, 0.0)
    model = regressor().fit(rows, CURVE)
    for make in (sp.csr_array, np.ndarray.tolist, np.asfortranarray):
        assert_same(regressor().fit(make(rows), CURVE), model, make(rows))
    frame = pd.DataFrame(rows, columns=list("abc"))
    np.testing.assert_array_equal(
        regressor().fit(frame, CURVE).predict(frame), model.predict(rows)
    )


@pytest.mark.parametrize("name", ["real", "binary"])
def test_polars(name):
    pl = pytest.importorskip("polars")
    known = FRAME.astype(object).where(FRAME.notna(), None)
    frame = pl.DataFrame({column: known[column].to_list() for column in FRAME})
    model = small(name).fit(frame, pl.Series(Y[name].tolist()))
    np.testing.assert_array_equal(model.feature_names_in_, FRAME.columns)
    twin = small(name).fit(FRAME, Y[name])
    for mine, theirs in zip(answers(model, frame), answers(twin), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_targets_of_pandas():
    index = FRAME.index[::-1]
    frame, y = FRAME.set_index(index), pd.Series(CURVE, index=index, name="y")
    assert_same(regressor().fit(frame, y), regressor().fit(FRAME, CURVE))


def test_names_are_checked():
    model = regressor().fit(FRAME, CURVE)
    np.testing.assert_array_equal(model.feature_names_in_, FRAME.columns)
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        model.predict(FRAME.to_numpy())
    numbers = regressor().fit(X, CURVE)
    assert not hasattr(numbers, "feature_names_in_")


@pytest.mark.parametrize("output", ["pandas", "polars"])
def test_global_output_of_transformers(output):
    if output == "polars":
        pytest.importorskip("polars")
    expected = regressor().fit(FRAME, CURVE).predict(FRAME)
    with sklearn.config_context(transform_output=output):
        actual = regressor().fit(FRAME, CURVE).predict(FRAME)
    np.testing.assert_array_equal(actual, expected)


# --- meta-estimators ------------------------------------------------------------------


def test_search_over_the_leaves_of_the_trees():
    search = GridSearchCV(regressor(), {"trees__max_leaf_nodes": [2, 6]}, cv=2)
    search.fit(FRAME, CURVE)
    best = search.best_estimator_
    leaves = search.best_params_["trees__max_leaf_nodes"]
    assert best.estimators_[0][1][-1].max_leaf_nodes == leaves
    assert len({*search.cv_results_["mean_test_score"]}) == 2


def test_search_over_members():
    grid = {"network": ["drop"], "forest": ["drop", None], "others": [()]}
    search = GridSearchCV(regressor(), grid, cv=2).fit(X, CURVE)
    assert search.best_estimator_.member_names_[0] == "trees"


def test_cross_validation_and_pipelines():
    model = make_pipeline(StandardScaler(), regressor())
    predicted = cross_val_predict(model, X, CURVE, cv=2)
    assert predicted.shape == CURVE.shape


def test_results_of_the_choice_are_a_frame():
    """One row for each mixture, among them those of the prediction."""
    model = regressor(others=[("ridge", Ridge())]).fit(X, CURVE)
    table = pd.DataFrame(model.cv_results_)
    weights = table.filter(like="weight_")
    names = [f"weight_{name}" for name in model.member_names_]
    assert weights.columns.tolist() == names
    best = weights[table["loss"] == table["loss"].min()].to_numpy()
    np.testing.assert_array_equal(best[0], model.group_weights_[0])
    one = regressor("drop", "drop").fit(X, CURVE)
    assert pd.DataFrame(one.cv_results_)["weight_forest"].notna().all()


def test_vote_with_a_table_estimator():
    vote = VotingRegressor([("table", regressor()), ("ridge", Ridge())]).fit(X, CURVE)
    mean = (vote.estimators_[0].predict(X) + vote.estimators_[1].predict(X)) / 2
    np.testing.assert_allclose(vote.predict(X), mean)


def test_routing_of_weights_and_groups():
    groups = np.arange(len(X)) // 6
    with sklearn.config_context(enable_metadata_routing=True):
        model = regressor().set_fit_request(sample_weight=True, groups=True)
        model.set_score_request(sample_weight=True)
        search = GridSearchCV(model, {"cv": [2]}, cv=KFold(2))
        search.fit(X, CURVE, sample_weight=WEIGHT, groups=groups)
    expected = regressor().fit(X, CURVE, sample_weight=WEIGHT, groups=groups)
    np.testing.assert_array_equal(search.predict(X), expected.predict(X))


def test_nested_parameters():
    trees = HistGradientBoostingRegressor(**TREES)
    model = GradientBasisRegressor(AddedNeuronRegressor((4,)), trees)
    model.set_params(network__alpha=0.5, trees__max_iter=7)
    assert model.network.alpha == 0.5
    assert trees.max_iter == 7
    assert NETWORK["max_iter"] == 10


def test_tags():
    tags = get_tags(GradientBasisRegressor())
    assert tags.input_tags.allow_nan
    assert tags.input_tags.string
    assert tags.input_tags.categorical
    assert tags.input_tags.sparse
    assert get_tags(GradientBasisRegressor(loss="poisson")).target_tags.positive_only
    assert get_tags(small("labels")).classifier_tags.multi_label
