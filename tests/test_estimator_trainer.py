"""Parallel trainings, and parameters that are refused before training."""

import contextlib
import copy
import signal
import threading
import warnings

import numpy as np
import pytest
import torch
from callback_cases import Callback
from joblib import parallel_config
from numpy.testing import assert_array_equal
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPClassifier, MLPRegressor
from torch import nn

from sklearn_pgb import (
    AddedNeuronClassifier,
    AddedNeuronRegressor,
    GradientBasis,
    GradientBasisRefit,
    GradientBasisRegressor,
    InputBasis,
    ResNetBasisClassifier,
    ResNetBasisRegressor,
    compare_bases,
    survey_minima,
)
from sklearn_pgb._convex._solve import memory_text
from sklearn_pgb._estimator._resources import check_device, jobs_for, parse_memory
from sklearn_pgb._estimator._trainer import train_networks

RNG = np.random.default_rng(0)
X = RNG.standard_normal((40, 3))
Y = X[:, 0] + 0.1 * RNG.standard_normal(40)
LABELS = (Y > 0).astype(int)
SMALL = {"hidden_layer_sizes": (3,), "max_iter": 2}


class Drawing(RegressorMixin, BaseEstimator):
    """A network that draws from torch's global generator while it trains."""

    def fit(self, X, y):
        turn = threading.Event()
        draws = []
        for _ in range(30):
            draws.append(float(torch.rand(())))
            # Lets another thread draw.
            turn.wait(1e-3)
        self.draws_ = draws
        return self


@pytest.fixture
def generator_state():
    """Set torch's global generator to a known state, and restore it."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        yield torch.get_rng_state()


@pytest.mark.parametrize("backend", ["threading", "loky"])
@pytest.mark.parametrize("seeds", [[0, 1, 2, 3], [None, 1, 2, 3]])
def test_draws_do_not_depend_on_jobs(seeds, backend, generator_state):
    """Networks that use torch's global generator draw the same numbers in any order."""

    def draws(n_jobs):
        torch.set_rng_state(generator_state)
        parts = [None] * len(seeds)
        with parallel_config(backend=backend):
            trained = train_networks(Drawing(), seeds, parts, X, Y, {}, n_jobs)
        return [each.draws_ for each in trained]

    expected = draws(1)
    assert_array_equal(draws(2 if backend == "loky" else 4), expected)
    torch.manual_seed(1)
    assert expected[1] == [float(torch.rand(())) for _ in range(30)]
    if seeds[0] is None:
        torch.set_rng_state(generator_state)
        assert expected[0] == [float(torch.rand(())) for _ in range(30)]


def test_seeded_trainings_leave_the_generator_alone(generator_state):
    train_networks(Drawing(), [0, 1], [None, None], X, Y, {}, None)
    assert torch.equal(torch.get_rng_state(), generator_state)


@pytest.mark.parametrize(
    "estimator",
    [
        MLPRegressor(hidden_layer_sizes=(3,), max_iter=2),
        AddedNeuronRegressor((3,), max_iter=2),
    ],
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_networks_with_own_generators_train_in_parallel(estimator):
    """They train while another training holds torch's generator."""
    held, done = threading.Event(), threading.Event()

    class Holding(Drawing):
        def fit(self, X, y):
            held.set()
            assert done.wait(60)
            return self

    def hold():
        train_networks(Holding(), [0], [None], X, Y, {}, None)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(60)
    try:
        train_networks(estimator, [0], [None], X, Y, {}, None)
    finally:
        done.set()
        thread.join()


def dropout():
    return nn.Sequential(nn.Linear(3, 8), nn.Dropout(), nn.Tanh(), nn.Linear(8, 1))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_dropout_in_threads_is_that_of_one_thread():
    """Also for the package's networks with a module."""
    network = AddedNeuronRegressor(module=dropout(), max_iter=5)
    model = GradientBasisRefit(network, n_models=4, alpha=0.1, random_state=0)
    expected = copy.deepcopy(model).fit(X, Y).predict(X)
    with parallel_config(backend="threading", n_jobs=4):
        assert_array_equal(model.fit(X, Y).predict(X), expected)


# -- interrupts -----------------------------------------------------------------------


@pytest.fixture
def ctrl_c():
    """Python's own handler, as in a terminal; workers of pytest-xdist have none."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Interrupted(MLPRegressor):
    """A multilayer perceptron that the user interrupts in its second epoch."""

    def _update_no_improvement_count(self, *args):
        raise KeyboardInterrupt


class Catching(Drawing):
    """A network that catches Ctrl-C, like those of skorch, and keeps what it has."""

    def fit(self, X, y):
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        return self


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("network", [Interrupted(), Catching()])
@pytest.mark.parametrize("n_jobs", [None, 2])
def test_an_interrupted_training_ends_all(network, n_jobs, tmp_path, ctrl_c):
    """Nothing is stored, and Ctrl-C works as before."""
    handler, memory = signal.getsignal(signal.SIGINT), str(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        train_networks(network, [0, 1], [None] * 2, X, Y, {}, n_jobs, memory)
    assert not list(tmp_path.rglob("output.pkl"))
    assert signal.getsignal(signal.SIGINT) is handler


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_an_interrupted_basis_is_no_basis(ctrl_c):
    with pytest.raises(KeyboardInterrupt):
        GradientBasis(Interrupted()).fit(X, Y)


def test_a_handler_of_the_user_decides():
    """One that takes note without raising does not end the training."""
    noted = []
    before = signal.signal(signal.SIGINT, lambda *_: noted.append(1))
    try:
        train_networks(Catching(), [0], [None], X, Y, {}, None)
    finally:
        signal.signal(signal.SIGINT, before)
    assert noted == [1]


def search_of(network):
    """A search, which goes on after a failed fit."""
    return GridSearchCV(network, {"alpha": [0.1, 1.0]}, cv=2)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(
    "call",
    [
        lambda network: compare_bases({"g": GradientBasis(network)}, X, Y, cv=2),
        lambda network: compare_bases({"network": network}, X, Y, cv=2),
        lambda network: survey_minima(search_of(network), X, Y, n_starts=2),
        lambda network: GradientBasisRegressor(others=[("mlp", network)]).fit(X, Y),
    ],
    ids=["basis", "estimator", "survey", "table"],
)
def test_functions_that_train_are_interrupted(call):
    with pytest.raises(KeyboardInterrupt):
        call(Interrupted())


def test_an_interrupted_fit_changes_nothing(monkeypatch, tmp_path):
    """The next one trains the networks again, and is the same as without a cache."""
    network = MLPRegressor(solver="lbfgs", random_state=0, **SMALL)
    model = GradientBasisRefit(network, alpha=0.1, memory=str(tmp_path)).fit(X, Y)
    before = dict(vars(model))
    fit = MLPRegressor.fit

    def interrupted(self, *args):
        fit(self, *args)
        warnings.warn("Training interrupted by user.", stacklevel=2)
        return self

    model.set_params(estimator__alpha=0.01)
    with monkeypatch.context() as patch:
        patch.setattr(MLPRegressor, "fit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            model.fit(X, Y)
    assert vars(model) == before
    expected = copy.deepcopy(model).set_params(memory=None).fit(X, Y).predict(X)
    assert_array_equal(model.fit(X, Y).predict(X), expected)


# -- callbacks ------------------------------------------------------------------------


class Stops(Callback):
    """A callback that records each task and asks to stop there."""

    def __init__(self):
        self.tasks = []

    def on_fit_task_end(self, estimator, context):
        self.tasks.append(context.task_name)
        return True


class StopsInside(Stops):
    """It also gets the tasks of the estimators inside."""

    max_propagation_depth = None


@pytest.mark.parametrize(
    ("on_network", "callback"),
    [(False, Stops()), (False, StopsInside()), (True, Stops())],
    ids=["refit", "refit and inside", "network"],
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_callbacks_stop_networks_and_no_refit(on_network, callback):
    """A refit needs all networks; each of them ends at its first epoch."""
    callback.tasks.clear()
    network = AddedNeuronRegressor((3,), max_iter=4)
    refit = GradientBasisRefit(network, cv=3, random_state=0)
    (network if on_network else refit).set_callbacks(callback)
    refit.fit(X, Y)
    reached = on_network or isinstance(callback, StopsInside)
    assert callback.tasks.count("epoch") == 3 * reached
    assert callback.tasks.count("network") == 3 * (not reached)
    assert refit.estimator_.n_iter_ == (1 if reached else 4)


# -- requests --------------------------------------------------------------------------


class Untrained(MLPRegressor):
    """Must not be trained."""

    def fit(self, X, y):
        raise AssertionError("trained")


ESTIMATORS = [
    GradientBasisRefit(Untrained(**SMALL)),
    AddedNeuronRegressor(**SMALL),
    AddedNeuronClassifier(**SMALL),
    ResNetBasisRegressor(**SMALL),
    ResNetBasisClassifier(**SMALL),
]


@pytest.mark.parametrize("device", ["bogus", "cuda:99", "meta", "cpu:x"])
@pytest.mark.parametrize("model", ESTIMATORS, ids=lambda m: type(m).__name__)
def test_devices_that_do_not_exist(model, device):
    """Are refused before anything is trained."""
    model = copy.deepcopy(model).set_params(device=device)
    with pytest.raises(ValueError, match=r"device must be one that torch can use here"):
        model.fit(X, LABELS)
    assert not hasattr(model, "n_features_in_")


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_device_that_does_not_exist_for_prediction():
    model = GradientBasisRefit(MLPRegressor(**SMALL), alpha=0.1).fit(X, Y)
    with pytest.raises(ValueError, match="device must be one that torch can use"):
        model.set_params(device="bogus").predict(X)


def test_devices_that_exist():
    assert check_device(None) == check_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("n_jobs", [10**30, -(10**30), 2**31, 0])
@pytest.mark.parametrize(
    "call",
    [
        lambda n: GradientBasisRefit(Untrained(**SMALL), n_jobs=n).fit(X, Y),
        lambda n: compare_bases({"x": InputBasis()}, X, Y, n_jobs=n),
        lambda n: survey_minima(MLPRegressor(**SMALL), X, Y, n_starts=4, n_jobs=n),
    ],
    ids=["refit", "compare", "survey"],
)
def test_numbers_of_jobs_that_no_machine_has(call, n_jobs):
    with pytest.raises(ValueError, match=r"n_jobs must be None or an int other than 0"):
        call(n_jobs)


def test_jobs_are_no_more_than_tasks():
    assert [jobs_for(4, n) for n in (None, 1, 3, 1000, -1)] == [None, 1, 3, 4, -1]


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [
        (1, "1 B"),
        (1000, "1000 B"),
        (1024, "1 KiB"),
        (1500, "1.47 KiB"),
        (183.106 * 2**20, "183.11 MiB"),
        (3e12, "2.73 TiB"),
        (1e18, "909494.71 TiB"),
    ],
)
def test_memory_named_in_a_message_is_enough(n_bytes, text):
    """The message has a readable unit, and the parameter accepts its text."""
    assert memory_text(n_bytes) == text
    assert n_bytes <= parse_memory(text) <= 1.01 * n_bytes


@pytest.mark.parametrize("loss", ["squared", "hinge", ""])
def test_losses_that_do_not_exist(loss):
    """The message lists the known names."""
    names = "'squared_error', 'poisson', 'huber', 'log_loss', 'binary_log_loss'"
    with pytest.raises(ValueError, match=f"loss must be one of 'auto', {names} or"):
        GradientBasis(nn.Linear(3, 1), loss=loss).fit(X)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_losses_of_modules_have_the_names_of_estimators():
    """A basis of labels, of several labels, and of counts."""
    y = {"log_loss": LABELS, "poisson": LABELS, "squared_error": Y}
    for loss, targets in y.items():
        basis = GradientBasis(nn.Linear(3, 1), loss=loss).fit(X, targets)
        name = {"log_loss": "Logistic", "poisson": "Poisson"}.get(loss, "Squared")
        assert type(basis.network_.loss).__name__ == f"{name}Loss"
    basis = GradientBasis(nn.Linear(3, 2), loss="log_loss").fit(X, LABELS)
    assert type(basis.network_.loss).__name__ == "CrossEntropyLoss"
    several = np.c_[LABELS, 1 - LABELS]
    basis = GradientBasis(nn.Linear(3, 2), loss="log_loss").fit(X, several)
    assert type(basis.network_.loss).__name__ == "LogisticLoss"
    basis = GradientBasis(MLPClassifier(**SMALL)).fit(X, LABELS)
    assert type(basis.network_.loss).__name__ == "LogisticLoss"
