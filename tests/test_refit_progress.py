"""Printed lines, callbacks and warnings of a refit."""

import io
import re
import warnings
from contextlib import redirect_stdout

import joblib
import numpy as np
import pytest
from refit_cases import CURVE, TARGETS, X, mlp
from sklearn.base import clone
from sklearn.callback import ProgressBar
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPRegressor
from torch import nn

from sklearn_pgb import AddedNeuronRegressor, GradientBasisRefit


def printed(model, X, y):
    """The lines that a fit prints."""
    out = io.StringIO()
    with redirect_stdout(out):
        model.fit(X, y)
    return out.getvalue().splitlines()


class Recorder:
    """A callback that records the tasks."""

    max_propagation_depth = None

    def __init__(self):
        self.begun, self.ended, self.set_up, self.torn_down = [], [], 0, 0

    def setup(self, estimator, context):
        self.set_up += 1

    def teardown(self, estimator, context):
        self.torn_down += 1

    def on_fit_task_begin(self, estimator, context, *, X=None):
        self.begun.append((type(estimator).__name__, context.task_name, X))

    def on_fit_task_end(self, estimator, context):
        parent = None if context.parent is None else context.parent.task_name
        self.ended.append((context.task_name, parent))


# -- lines ---------------------------------------------------------------------------


@pytest.mark.parametrize("n_jobs", [None, 2])
def test_a_line_for_every_network_and_one_for_the_solution(n_jobs):
    model = GradientBasisRefit(mlp(), cv=3, verbose=1, n_jobs=n_jobs)
    with joblib.parallel_config(backend="threading"):
        lines = printed(model, X, CURVE)
    pattern = r"Model (\d) trained on 2[67] samples in [\d.]+ s"
    numbers = [re.fullmatch(pattern, line)[1] for line in lines[:-1]]
    assert sorted(numbers) == ["1", "2", "3"]
    assert lines[-1] == (
        f"Refit: center={model.center_}, alpha={model.alpha_:.3g}, training loss "
        f"{model.model_loss_:.4g} -> {model.refit_loss_:.4g}"
    )


def test_silent_by_default():
    assert printed(GradientBasisRefit(mlp()), X, CURVE) == []


def test_a_network_that_is_taken_as_it_is_has_one_line():
    frozen = FrozenEstimator(mlp().fit(X, CURVE))
    (line,) = printed(GradientBasisRefit(frozen, alpha=0.1, verbose=1), X, CURVE)
    assert line.startswith("Refit: center=zero, alpha=0.1")


# -- callbacks -----------------------------------------------------------------------


@pytest.mark.parametrize("cv", [None, 3])
def test_callbacks_see_one_task_for_every_network(cv):
    recorder = Recorder()
    model = GradientBasisRefit(mlp(), cv=cv, alpha="loo" if cv is None else "auto")
    expected = clone(model).fit(X, CURVE)
    model.set_callbacks(recorder).fit(X, CURVE)
    np.testing.assert_array_equal(model.predict(X), expected.predict(X))
    count = cv or 1
    assert recorder.ended == [("network", "fit")] * count + [("fit", None)]
    assert recorder.begun[0][:2] == ("GradientBasisRefit", "fit")
    sizes = [len(seen) for _, name, seen in recorder.begun if name == "network"]
    assert len(sizes) == count
    assert sum(sizes) == (40 if cv is None else 80)
    assert recorder.set_up == recorder.torn_down == 1


def test_callbacks_see_the_epochs_of_the_networks_too():
    """Epochs are tasks of a network's fit, which is a task of the refit."""
    recorder = Recorder()
    inner = AddedNeuronRegressor((3,), max_iter=4, random_state=0)
    GradientBasisRefit(inner, cv=2).set_callbacks(recorder).fit(X, CURVE)
    names = [name for name, _ in recorder.ended]
    assert names.count("epoch") == 8
    assert recorder.ended[-1] == ("fit", None)
    assert sum(parent is None for _, parent in recorder.ended) == 1


def test_callbacks_end_when_a_fit_fails():
    recorder = Recorder()
    model = GradientBasisRefit(mlp(), max_memory=100).set_callbacks(recorder)
    with pytest.raises(ValueError, match="max_memory must be at least"):
        model.fit(X, CURVE)
    assert recorder.set_up == recorder.torn_down == 1
    assert vars(model).keys() == vars(clone(model)).keys() | {"_skl_callbacks"}
    model.set_params(max_memory="1GB").fit(X, CURVE)
    assert recorder.ended[-1] == ("fit", None)


@pytest.mark.parametrize("n_jobs", [None, 2])
@pytest.mark.parametrize("inner", [mlp(), AddedNeuronRegressor((3,), max_iter=3)])
def test_progress_bar(inner, n_jobs, capsys):
    """The fit and every network with epochs have a bar, which is full at the end."""
    pytest.importorskip("rich")
    model = GradientBasisRefit(inner, cv=3, n_jobs=n_jobs, random_state=0)
    expected = clone(model).fit(X, CURVE)
    model.set_callbacks(ProgressBar()).fit(X, CURVE)
    bars = [line for line in capsys.readouterr().out.splitlines() if "100%" in line]
    assert sum("GradientBasisRefit - fit" in line for line in bars) == 1
    assert sum("GradientBasisRefit - network" in line for line in bars) == (
        0 if isinstance(inner, MLPRegressor) else 3
    )
    np.testing.assert_array_equal(model.predict(X), expected.predict(X))


def test_callbacks_in_a_search():
    recorder = Recorder()
    model = GradientBasisRefit(mlp(), cv=2)
    search = GridSearchCV(model, {"center": ["zero", "average"]}, cv=2)
    search.set_callbacks(recorder).fit(X, CURVE)
    # Two candidates in two folds, and the best one again; two networks each.
    assert [name for name, _ in recorder.ended].count("network") == 10
    assert recorder.torn_down == 1


def test_callbacks_and_a_memory(tmp_path):
    """Cached networks are loaded, even if they were trained with other callbacks."""
    inner = AddedNeuronRegressor((3,), max_iter=3, random_state=0)
    model = GradientBasisRefit(inner, cv=2, memory=str(tmp_path))
    expected = clone(model).fit(X, CURVE).predict(X)
    recorder = Recorder()
    model.set_callbacks(recorder).fit(X, CURVE)
    names = [name for name, _ in recorder.ended]
    assert (names.count("network"), names.count("epoch")) == (2, 0)
    np.testing.assert_array_equal(model.predict(X), expected)


# -- warnings ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["regression", "binary", "poisson"])
def test_networks_worse_than_a_constant_cause_a_warning(name):
    """There is one warning per fit, for any number of networks."""
    y = TARGETS[name]
    network = mlp(name, solver="sgd", learning_rate_init=1e-12, max_iter=1)
    model = GradientBasisRefit(network, cv=2, alpha=[0.1, 1.0], random_state=0)
    match = r"training loss of network 0 is .*, above that of the best constant"
    with pytest.warns(UserWarning, match=match) as caught:
        model.fit(X, y)
    assert sum("best constant" in str(each.message) for each in caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        GradientBasisRefit(mlp(name, max_iter=100), cv=2, alpha=[0.1]).fit(X, y)


def test_columns_of_a_large_scale_cause_a_warning():
    """A network that does not scale its inputs gets a timestamp."""
    stamps = np.c_[X, 1.7e9 + 1e6 * X[:, 0]]
    network = mlp(solver="adam", max_iter=5, activation="relu")
    with pytest.warns(UserWarning, match="Scale its inputs and targets"):
        GradientBasisRefit(network, alpha=0.1).fit(stamps, CURVE)


@pytest.mark.parametrize("params", [{"alpha": 0.1}, {"alpha": "loo"}, {"alpha": [1.0]}])
def test_automatic_choice_for_a_frozen_network_warns(params):
    frozen = FrozenEstimator(mlp().fit(X, CURVE))
    module = nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 1))
    match = "The network is taken as it is.*Pass X_val and y_val"
    for estimator, loss in ((frozen, "auto"), (module, "squared_error")):
        model = GradientBasisRefit(estimator, loss=loss)
        with pytest.warns(UserWarning, match=match):
            model.fit(X, CURVE)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", "The training loss of network")
            model.fit(X, CURVE, X_val=X, y_val=CURVE)
            model.set_params(**params).fit(X, CURVE)
