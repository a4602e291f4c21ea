"""The networks with added neurons with other parts of scikit-learn."""

import io
import pickle
import re
from contextlib import redirect_stdout

import joblib
import numpy as np
import pytest
import scipy.sparse as sp
import sklearn
import torch
from added_neuron_cases import (
    BINARY,
    COUNTS,
    INDICATORS,
    LABELS,
    WEIGHT,
    X,
    Y,
    classifier,
    raw_outputs,
    regressor,
)
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.callback import ProgressBar, ScoringMonitor
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import load_digits, load_iris
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import accuracy_score
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import get_tags
from torch import nn

from sklearn_pgb import AddedNeuronClassifier, AddedNeuronRegressor, GradientBasisRefit


def network():
    return nn.Sequential(
        nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Dropout(0.2), nn.Linear(5, 1)
    )


MODELS = {
    "regressor": (regressor(), Y),
    "classifier": (classifier(), LABELS),
    "batches": (classifier(batch_size=8, learning_rate="adaptive"), BINARY),
    "labels": (classifier(label_smoothing=0.1), INDICATORS),
    "hinge": (classifier(loss="smoothed_hinge", class_weight="balanced"), LABELS),
    "counts": (regressor(loss="poisson", solver="sgd", dtype="float32"), COUNTS),
    "lbfgs": (regressor(solver="lbfgs"), np.c_[Y, X[:, 0]]),
    "starts": (regressor(hidden_layer_sizes=(2,), n_starts=2, max_iter=5), Y),
    "stopping": (regressor(early_stopping=True), Y),
    "module": (regressor(module=network), Y),
}

every_model = pytest.mark.parametrize("name", MODELS)


def fresh(name):
    model, y = MODELS[name]
    return clone(model), y


def answers(model):
    """All predictions of a fitted model for X."""
    result = [model.predict(X)]
    if is_classifier(model):
        result.append(model.decision_function(X))
        if hasattr(model, "predict_proba"):
            result.append(model.predict_proba(X))
    return result


def assert_same(model, other):
    for a, b in zip(answers(model), answers(other), strict=True):
        assert_array_equal(a, b)


# -- copies --------------------------------------------------------------------------


@every_model
def test_same_result_twice(name):
    """A clone and a second `fit` have the same result."""
    model, y = fresh(name)
    twin = clone(model).fit(X, y)
    assert_same(model.fit(X[:25], y[:25]).fit(X, y), twin)
    assert vars(model).keys() == vars(twin).keys()
    assert model.loss_curve_ == twin.loss_curve_
    assert not hasattr(clone(model), "loss_")


@pytest.mark.parametrize("name", ["regressor", "classifier", "module"])
def test_fit_forgets_partial_fit(name):
    """`fit` deletes the state of `partial_fit`, and a later call starts anew."""
    model, y = fresh(name)
    classes = {} if is_regressor(model) else {"classes": np.unique(y)}
    twin = clone(model).fit(X, y)
    for _ in range(3):
        model.partial_fit(X, y, **classes)
    model.fit(X, y)
    assert_same(model, twin)
    assert_same(model.partial_fit(X, y), twin.partial_fit(X, y))
    if name != "module":
        model.fit(X[:, :2], y).partial_fit(X[:, :2], y)
        assert model.coefs_[0].shape == (2, 5)


@every_model
def test_pickle(name):
    model, y = fresh(name)
    model.fit(X, y)
    if name == "module":
        model.set_params(module=nn.Linear(3, 1)).fit(X, y)
    assert_same(pickle.loads(pickle.dumps(model)), model)


@every_model
def test_joblib_maps_a_model_into_memory(name, tmp_path):
    """Read-only arrays give no warning, and training can continue."""
    model, y = fresh(name)
    joblib.dump(model.fit(X, y), tmp_path / "model")
    mapped = joblib.load(tmp_path / "model", mmap_mode="r")
    state = mapped.module_state_ if name == "module" else mapped.neurons_
    assert all(isinstance(part, np.memmap) for part in state.values() if part.ndim)
    assert_same(mapped, model)
    if name not in ("lbfgs", "stopping"):
        assert_same(mapped.partial_fit(X, y), model.partial_fit(X, y))


@pytest.mark.parametrize("name", sorted(set(MODELS) - {"module"}))
def test_skops(name):
    sio = pytest.importorskip("skops.io")
    model, y = fresh(name)
    data = sio.dumps(model.fit(X, y))
    trusted = sio.get_untrusted_types(data=data)
    assert len(trusted) == 1
    assert re.fullmatch(r"sklearn_pgb\.[\w.]*\.AddedNeuron\w*", trusted[0])
    assert_same(sio.loads(data, trusted=trusted), model)


@every_model
def test_fitted_state_is_arrays_and_plain_values(name):
    """There are no tensors; the parameters of a module are arrays."""
    model, y = fresh(name)
    model.fit(X, y)
    if name not in ("lbfgs", "stopping"):
        model.partial_fit(X, y)
    learned = {key: value for key, value in vars(model).items() if key.endswith("_")}
    assert set(model.get_params()).isdisjoint(learned)

    def leaves(value):
        if isinstance(value, dict | list | tuple):
            for part in value.values() if isinstance(value, dict) else value:
                yield from leaves(part)
        else:
            yield value

    plain = (np.ndarray, np.generic, str, float, int, bool, type(None))
    assert {type(v) for v in leaves(learned) if not isinstance(v, plain)} == set()
    assert not any(isinstance(leaf, torch.Tensor) for leaf in leaves(vars(model)))


# -- larger machines -----------------------------------------------------------------


def test_cross_val_score_in_workers():
    for name in ("classifier", "module"):
        model, y = fresh(name)
        scores = cross_val_score(model, X, y, cv=3, n_jobs=2)
        assert_array_equal(scores, cross_val_score(model, X, y, cv=3))


def test_threads_do_not_share_random_numbers():
    """Dropout draws from torch's global generator, which all threads share."""
    model, y = fresh("module")
    expected = cross_val_score(model, X, y, cv=4)
    with joblib.parallel_config(backend="threading", n_jobs=4):
        assert_array_equal(cross_val_score(model, X, y, cv=4), expected)


def test_grid_search_and_pipeline():
    model = make_pipeline(StandardScaler(), classifier(max_iter=30))
    grid = {
        "addedneuronclassifier__hidden_layer_sizes": [(1,), (8,)],
        "addedneuronclassifier__loss": ["log_loss", "smoothed_hinge"],
    }
    search = GridSearchCV(model, grid, cv=3, n_jobs=2).fit(X, LABELS)
    width = search.best_params_["addedneuronclassifier__hidden_layer_sizes"]
    last = search.best_estimator_[-1]
    assert last.coefs_[0].shape == (3, *width)
    assert search.score(X, LABELS) == last.score(model[0].fit_transform(X), LABELS)
    alone = GridSearchCV(model, grid, cv=3).fit(X, LABELS)
    for key in ("mean_test_score", "rank_test_score"):
        assert_array_equal(search.cv_results_[key], alone.cv_results_[key])


def test_data_frames():
    """Names of columns are stored and checked."""
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(X, columns=["a", "b", "c"])
    model = make_pipeline(StandardScaler(), regressor()).set_output(transform="pandas")
    model.fit(frame, pd.Series(Y))
    assert model[-1].feature_names_in_.tolist() == ["a", "b", "c"]
    assert model[-1].n_features_in_ == 3
    plain = make_pipeline(StandardScaler(), regressor()).fit(X, Y)
    # Columns of a frame lie in memory one after the other, and sums round otherwise.
    assert_allclose(model.predict(frame), plain.predict(X), rtol=1e-9)
    with pytest.raises(ValueError, match="feature names should match"):
        model[-1].predict(frame.rename(columns={"a": "z"}))


@pytest.mark.parametrize("container", [sp.csr_array, sp.csc_matrix])
@pytest.mark.parametrize("name", sorted(set(MODELS) - {"module"}))
def test_sparse_data(name, container):
    """They are divided by the largest entries, and zeros stay zeros."""
    model, y = fresh(name)
    sparse = X * (abs(X) > 0.5)
    bare = clone(model).set_params(standardize=False)
    assert_same(clone(bare).fit(container(sparse), y), clone(bare).fit(sparse, y))
    model.fit(container(sparse), y)
    largest = abs(sparse).max(0)
    twin = bare.fit(sparse / largest, y)
    raw, expected = raw_outputs(model, X), raw_outputs(twin, X / largest)
    rtol = 1e-4 if model.dtype == "float32" else 1e-6
    assert_allclose(raw, expected, rtol=rtol, atol=rtol)
    assert_array_equal(model.predict(container(X[:4])), model.predict(X[:4]))


def test_sparse_indicators():
    sparse = classifier().fit(X, sp.csr_array(INDICATORS))
    assert_same(sparse, classifier().fit(X, INDICATORS))


def test_lists_and_integers():
    one = regressor().fit(np.round(X).astype(int), Y)
    other = regressor().fit(np.round(X).tolist(), list(Y))
    assert_array_equal(one.predict(X), other.predict(X.tolist()))


def test_tags():
    for model, y in MODELS.values():
        tags = get_tags(model)
        assert tags.target_tags.required
        assert is_classifier(model) is (y.dtype.kind == "U" or y is INDICATORS)
        assert is_classifier(model) is not is_regressor(model)
    assert get_tags(regressor()).input_tags.sparse
    assert get_tags(regressor()).target_tags.multi_output
    assert get_tags(classifier()).classifier_tags.multi_label


def test_weights_are_routed():
    plain = regressor().fit(StandardScaler().fit_transform(X), Y, WEIGHT)
    with sklearn.config_context(enable_metadata_routing=True):
        model = make_pipeline(
            StandardScaler().set_fit_request(sample_weight=False),
            regressor().set_fit_request(sample_weight=True),
        )
        model.fit(X, Y, sample_weight=WEIGHT)
    assert_array_equal(model[-1].coefs_[0], plain.coefs_[0])


def test_scores_are_weighted():
    model = classifier().fit(X, LABELS)
    expected = accuracy_score(LABELS, model.predict(X), sample_weight=WEIGHT)
    assert model.score(X, LABELS, WEIGHT) == expected


# -- callbacks and words -------------------------------------------------------------


@pytest.mark.parametrize("name", ["regressor", "lbfgs", "starts", "module"])
def test_progress_bar(name, capsys):
    pytest.importorskip("rich")
    model, y = fresh(name)
    plain = clone(model).fit(X, y)
    model.set_callbacks(ProgressBar()).fit(X, y)
    out = capsys.readouterr().out
    assert "AddedNeuronRegressor - fit" in out
    assert "100%" in out
    assert_same(model, plain)


@every_model
def test_scoring_monitor(name):
    """There is one row per epoch, and one for the fit with the final network."""
    model, y = fresh(name)
    scoring = "accuracy" if is_classifier(model) else "r2"
    monitor = ScoringMonitor(scoring=scoring)
    plain = clone(model).fit(X, y)
    model.set_callbacks(monitor).fit(X, y)
    assert_same(model, plain)
    log = monitor.get_logs().data
    epochs = [row[scoring] for row in log if row["task_name"] == "epoch"]
    (whole,) = [row[scoring] for row in log if row["task_name"] == "fit"]
    assert len(epochs) == len(model.loss_curve_)
    assert whole == model.score(X, y)
    if name not in ("starts", "stopping", "counts"):
        assert_allclose(epochs[-1], whole, rtol=1e-7)


def test_scoring_monitor_with_weights():
    """Samples of weight zero have no effect."""
    weight = np.r_[0.0, 0.0, WEIGHT[2:]]
    monitor = ScoringMonitor(scoring="r2")
    model = regressor().set_callbacks(monitor).fit(X, Y, weight)
    whole = monitor.get_logs().data[0]["r2"]
    assert_allclose(whole, model.score(X, Y, weight), rtol=1e-12)


@pytest.mark.parametrize("n_jobs", [None, 2])
def test_scoring_monitor_in_a_grid_search(n_jobs):
    monitor = ScoringMonitor(scoring="accuracy")
    model = classifier(max_iter=4).set_callbacks(monitor)
    search = GridSearchCV(model, {"alpha": [1e-3, 1.0]}, cv=3, n_jobs=n_jobs)
    search.fit(X, LABELS)
    log = monitor.get_logs().data
    names = [row["task_name"] for row in log]
    # Two candidates in three folds, and the best one again.
    assert names.count("epoch") == 7 * 4
    assert len(log) == 7 * 5


def printed(model, y):
    """The lines that a fit prints, without numbers."""
    out = io.StringIO()
    with redirect_stdout(out):
        model.fit(X, y)
    lines = re.sub(r"-?\d+\.\d+", "#.#", out.getvalue()).splitlines()
    return [re.sub(r"\d+", "#", line) for line in lines]


@pytest.mark.parametrize(
    "params",
    [
        {"max_iter": 3, "tol": 0},
        {"tol": 1e3, "n_iter_no_change": 3, "learning_rate": "constant"},
        {"max_iter": 4, "early_stopping": True, "tol": 0},
        {"solver": "sgd", "learning_rate": "adaptive", "tol": 1e3, "max_iter": 300},
    ],
    ids=["epochs", "stagnation", "stopping", "adaptive"],
)
@pytest.mark.parametrize(
    ("ours", "theirs", "y"),
    [(regressor, MLPRegressor, Y), (classifier, MLPClassifier, LABELS)],
    ids=["regressor", "classifier"],
)
def test_verbose_prints_as_scikit_learn(ours, theirs, y, params):
    params = {"hidden_layer_sizes": (5,), "verbose": True, "random_state": 0} | params
    mine, yours = printed(ours(**params), y), printed(theirs(**params), y)
    assert mine[0] == yours[0] == "Iteration #, loss = #.#"
    assert set(mine) == set(yours)


def test_verbose_tells_the_losses(capsys):
    model = regressor(verbose=True).fit(X, Y)
    lines = capsys.readouterr().out.splitlines()
    told = [float(line.split("loss = ")[1]) for line in lines if "loss = " in line]
    assert_allclose(told, model.loss_curve_, atol=1e-7)
    regressor().fit(X, Y)
    assert capsys.readouterr().out == ""


# -- going on ------------------------------------------------------------------------

PLAIN = {"learning_rate": "constant", "n_iter_no_change": 1000, "shuffle": False}


@pytest.mark.parametrize("name", ["regressor", "classifier", "labels", "hinge"])
def test_partial_fit_equals_epochs_of_fit(name):
    """Adam's moments are kept between calls, and in pickles."""
    model, y = fresh(name)
    model.set_params(batch_size=10, max_iter=6, **PLAIN)
    if name == "hinge":
        model.set_params(class_weight=None)
    whole = clone(model).fit(X, y, WEIGHT)
    classes = {} if is_regressor(model) else {"classes": np.unique(y)}
    if y is INDICATORS:
        classes = {"classes": np.arange(3)}
    for _ in range(6):
        model.partial_fit(X, y, sample_weight=WEIGHT, **classes)
        model = pickle.loads(pickle.dumps(model))
    for one, other in zip(model.coefs_, whole.coefs_, strict=True):
        assert_allclose(one, other, rtol=1e-7, atol=1e-10)
    assert_allclose(model.loss_curve_, whole.loss_curve_, rtol=1e-9)
    assert model.n_iter_ == 6


@pytest.mark.parametrize("name", ["regressor", "classifier", "module", "counts"])
def test_warm_start_goes_on(name):
    """Without momentum, two fits equal one fit with the epochs of both."""
    model, y = fresh(name)
    if name == "module":
        layers = nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)
        model.set_params(module=nn.Sequential(*layers))
    model.set_params(solver="sgd", momentum=0.0, dtype="float64", **PLAIN)
    whole = clone(model).set_params(max_iter=9).fit(X, y)
    model.set_params(warm_start=True, max_iter=4).fit(X, y)
    model.set_params(max_iter=5).fit(X, y)
    for one, other in zip(answers(model), answers(whole), strict=True):
        if one.dtype.kind == "f":
            assert_allclose(one, other, rtol=1e-7)
    assert_allclose(model.loss_, whole.loss_, rtol=1e-9)


def test_warm_start_of_lbfgs():
    model = regressor(solver="lbfgs", warm_start=True, max_iter=5)
    losses = [model.fit(X, Y).loss_ for _ in range(4)]
    assert sorted(losses, reverse=True) == losses
    assert losses[-1] < 0.9 * losses[0]


def test_warm_start_with_other_targets():
    """Training continues from the same predictions, in any units of the targets."""
    model = regressor(warm_start=True, max_iter=1, learning_rate_init=1e-12)
    before = model.fit(X, Y).predict(X)
    assert_allclose(model.fit(X, 100 + 50 * Y).predict(X), before, atol=1e-6)
    assert_allclose(model.loss_, ((100 + 50 * Y - before) ** 2).mean(), rtol=1e-9)


def test_partial_fit_of_batches(seed):
    """Batches may lack labels, and losses decrease."""
    model = classifier(random_state=seed)
    order = np.argsort(LABELS, kind="stable")
    for start in range(0, 40, 4):
        rows = order[start : start + 4]
        model.partial_fit(X[rows], LABELS[rows], classes=["mid", "low", "top"])
    assert model.classes_.tolist() == ["low", "mid", "top"]
    assert model.predict_proba(X).shape == (40, 3)
    model = regressor(random_state=seed)
    for _ in range(60):
        model.partial_fit(X[:20], Y[:20]).partial_fit(X[20:], Y[20:])
    assert model.loss_curve_[-1] < 0.7 * model.loss_curve_[0]


@pytest.mark.parametrize(
    "params", [{"tol": "bogus"}, {"beta_1": len}, {"n_starts": "few"}], ids=str
)
def test_partial_fit_checks_parameters_that_were_set_after_a_fit(params):
    (name,) = params
    model = regressor().fit(X, Y).set_params(**params)
    with pytest.raises(ValueError, match=f"The '{name}' parameter of AddedNeuronReg"):
        model.partial_fit(X, Y)


@pytest.mark.parametrize("name", ["epsilon", "tol", "alpha"])
def test_parameters_may_be_large_integers(name):
    model = regressor(**{name: 10**30}).partial_fit(X, Y)
    expected = regressor(**{name: 1e30}).partial_fit(X, Y)
    assert_array_equal(model.predict(X), expected.predict(X))


def test_partial_fit_deletes_the_results_of_fit():
    """They do not hold for the changed network."""
    model = regressor(learning_rate_init=0.1).fit(X, Y)
    model.partial_fit(X, 5 - Y)
    loss = ((model.predict(X) - 5 + Y) ** 2).mean()
    if hasattr(model, "floor_gap_"):
        assert_allclose(model.floor_gap_, loss, rtol=1e-6)
    if hasattr(model, "auxiliary_loss_"):
        a, b, W = (model.neurons_[key] for key in "abW")
        raw = model.predict(X) + a * np.exp(X @ W[0] + b)
        value = ((raw - 5 + Y) ** 2).mean() + 0.01 * a @ a
        assert_allclose(model.auxiliary_loss_, value, rtol=1e-6)


# -- refits --------------------------------------------------------------------------


@every_model
def test_refit(name):
    """The convex refit does not increase the training loss."""
    model, y = fresh(name)
    refit = GradientBasisRefit(model, alpha=0 if y.dtype.kind == "f" else 1e-3)
    refit.fit(X, y)
    if name not in ("stopping", "hinge"):  # Those have rows or weights of their own.
        assert_allclose(refit.model_loss_, refit.estimator_.loss_, rtol=1e-6)
    assert refit.refit_loss_ < refit.model_loss_
    assert refit.predict(X).shape == y.shape
    frozen = GradientBasisRefit(FrozenEstimator(refit.estimator_), alpha=refit.alpha)
    assert_array_equal(frozen.fit(X, y).predict(X), refit.predict(X))
    with pytest.raises(AttributeError):
        _ = model.loss_


@pytest.mark.parametrize("alpha", ["auto", 1e-2])
def test_refit_of_a_hinge_has_no_probabilities(alpha):
    for y in (BINARY, LABELS):
        model = classifier(loss="smoothed_hinge", max_iter=30)
        refit = GradientBasisRefit(model, alpha=alpha, random_state=0).fit(X, y)
        assert refit.score(X, y) > 0.4
        assert refit.decision_function(X).shape[0] == 40
        assert not hasattr(refit, "predict_proba")
        assert not hasattr(refit, "predict_log_proba")
        unfitted = GradientBasisRefit(model)
        assert not hasattr(unfitted, "predict_proba")


def test_refit_of_wrapped_networks():
    inner = make_pipeline(StandardScaler(), regressor())
    target = TransformedTargetRegressor(inner, transformer=StandardScaler())
    for model in (inner, target):
        refit = GradientBasisRefit(model, cv=3, random_state=0).fit(X, 100 + 20 * Y)
        assert refit.score(X, 100 + 20 * Y) > 0.4
        assert len(refit.estimators_) == 3


# -- real data -----------------------------------------------------------------------


def test_iris():
    X, y = load_iris(return_X_y=True)
    for params in ({}, {"loss": "smoothed_hinge"}, {"label_smoothing": 0.1}):
        model = make_pipeline(
            StandardScaler(), AddedNeuronClassifier((20,), random_state=0, **params)
        )
        assert cross_val_score(model, X, y, cv=3).mean() > 0.92


def test_digits():
    """With early stopping, loss and score are like those of scikit-learn."""
    X, y = load_digits(return_X_y=True)
    X = StandardScaler().fit_transform(X)
    ours = AddedNeuronClassifier(random_state=0).fit(X[:800], y[:800])
    assert ours.score(X[800:], y[800:]) > 0.88
    assert ours.loss_ < 0.02


def test_defaults_on_a_line():
    """Raw targets far from zero need no transformation."""
    y = 1e4 + 300 * X[:, 0]
    model = AddedNeuronRegressor(random_state=0).fit(X, y)
    assert model.score(X, y) > 0.98
