"""Loops of small steps use few threads and restore the limits."""

import math
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from sklearn.datasets import load_iris
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import Ridge
from table_cases import regressor
from threadpoolctl import threadpool_info, threadpool_limits
from torch import nn

from sklearn_pgb import (
    AddedNeuronClassifier,
    GradientBasisRefit,
    ResNetBasisClassifier,
    _threads,
)
from sklearn_pgb._budget import WORTH_A_THREAD
from sklearn_pgb._estimator import _tangent_sum
from sklearn_pgb._refit import _groups
from sklearn_pgb._threads import (
    threads_for,
    threads_for_prediction,
    threads_for_solve,
)


def threads():
    """Threads of PyTorch, and of the linear algebra of NumPy and SciPy."""
    blas = {
        info["filepath"]: info["num_threads"]
        for info in threadpool_info()
        if info["user_api"] == "blas"
    }
    return torch.get_num_threads(), blas


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    with threadpool_limits(2, user_api="blas"):
        yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("multiplications", "expected"), [(0, 1), (0.9, 1), (2.5, 2), (3, 3), (100, 3)]
)
def test_threads_by_work(multiplications, expected, three_threads):
    before = threads()
    with threads_for(multiplications * WORTH_A_THREAD):
        n_torch, blas = threads()
        assert n_torch == expected
        assert set(blas.values()) == {1}
    assert threads() == before


@pytest.mark.parametrize(
    ("worth", "expected"), [(10**9, 1), (201, 1), (200, 2), (50, 2)]
)
def test_openmp_threads_of_trees(worth, expected, monkeypatch):
    """Folds have 100 x 4 values, and two threads are available."""
    seen = []

    class Recorded(HistGradientBoostingClassifier):
        def fit(self, X, y):
            seen.append(openmp_threads())
            return super().fit(X, y)

    def openmp_threads():
        every = threadpool_info()
        return {each["num_threads"] for each in every if each["user_api"] == "openmp"}

    monkeypatch.setattr(_threads, "VALUES_WORTH_A_THREAD", worth)
    model = Recorded(max_iter=2)
    X, y = np.arange(600.0).reshape(150, 4), np.arange(150) % 3
    with threadpool_limits(2, user_api="openmp"):
        GradientBasisRefit(model, cv=3).fit(X, y)
        assert openmp_threads() == {2}
    assert seen == [{expected}] * 3


@pytest.mark.parametrize(
    ("worth", "limited"), [(10**9, True), (201, True), (200, False)]
)
def test_blas_threads_of_models(worth, limited, three_threads, monkeypatch):
    """Folds have 100 x 4 values, and two threads are available."""
    seen = []

    class Recorded(Ridge):
        def fit(self, X, y):
            seen.append(threads())
            return super().fit(X, y)

    monkeypatch.setattr(_threads, "VALUES_WORTH_A_THREAD", worth)
    X = np.random.default_rng(0).normal(size=(150, 4))
    before = threads()
    GradientBasisRefit(Recorded(), cv=3).fit(X, X[:, 0])
    assert threads() == before
    blas = dict.fromkeys(before[1], 1) if limited else before[1]
    assert seen == [(before[0], blas)] * 3


@pytest.mark.parametrize(
    ("multiplications", "expected"), [(0, 1), (1.9e10, 1), (2e10, 2), (math.inf, 3)]
)
def test_threads_of_predictions(multiplications, expected, three_threads):
    with threads_for_prediction(multiplications):
        assert threads()[0] == expected


@pytest.mark.filterwarnings("ignore:.*already trained")
def test_cost_of_predictions(monkeypatch):
    """Each parameter is used once for a sample, but for convolutions and the like."""
    costs = []

    def recorded(multiplications):
        costs.append(multiplications)
        return threads_for_prediction(multiplications)

    monkeypatch.setattr(_tangent_sum, "threads_for_prediction", recorded)
    X = np.random.default_rng(0).normal(size=(150, 4))
    refit = GradientBasisRefit(Ridge(), cv=3, alpha=1.0).fit(X, X[:, 0])
    costs.clear()
    refit.predict(X)
    assert costs == [150 * 3 * 5]
    layers = nn.Conv1d(1, 2, 2), nn.Tanh(), nn.Flatten(), nn.Linear(6, 1)
    images = GradientBasisRefit(nn.Sequential(*layers), alpha=1.0)
    images.set_params(loss="squared_error").fit(X[:, None], X[:, 0]).predict(X[:, None])
    assert costs[-1] == math.inf


def test_choices_of_tables_have_one_thread(three_threads, monkeypatch):
    """Only the solutions with all samples have more."""
    seen = {}
    monkeypatch.setattr(_threads, "FACTORIZATION_WORTH_A_THREAD", 1.0)
    for name in ("MixtureSearch", "FinalProblem"):
        step = "run" if name == "MixtureSearch" else "solve"
        original = getattr(getattr(_groups, name), step)

        def recorded(self, *args, name=name, original=original):
            seen.setdefault(name, set()).add(threads()[0])
            return original(self, *args)

        monkeypatch.setattr(getattr(_groups, name), step, recorded)
    X = np.random.default_rng(0).normal(size=(60, 2))
    regressor(distribution=True).fit(X, X[:, 0])
    assert seen == {"MixtureSearch": {1}, "FinalProblem": {3}}


@pytest.mark.parametrize(
    ("n_rows", "n_coef", "expected"),
    [
        (300, 300, 1),
        (9000, 500, 1),
        (100, 200_000, 1),
        (1500, 1500, 1),
        (4500, 4500, 3),
        (9000, 3000, 1),
        (1_000_000, 1300, 3),
    ],
)
def test_threads_by_size_of_a_basis(n_rows, n_coef, expected, three_threads):
    """Only solutions of about ten seconds get several threads."""
    with threads_for_solve(n_rows, n_coef):
        assert threads()[0] == expected


def test_threads_return_after_an_error(three_threads):
    before = threads()
    with pytest.raises(KeyError), threads_for(0), threads_for(0):
        raise KeyError
    assert threads() == before


@pytest.mark.parametrize(
    "model",
    [
        AddedNeuronClassifier((4,), n_starts=2, max_iter=3),
        AddedNeuronClassifier((4,), solver="lbfgs", max_iter=3),
        ResNetBasisClassifier(hidden_layer_sizes=(4,), max_iter=3),
    ],
)
def test_fit_gives_threads_back(model, three_threads):
    before = threads()
    model.fit(*load_iris(return_X_y=True))
    assert threads() == before


@pytest.mark.parametrize("first_leaves_first", [True, False])
def test_overlapping_fits_restore_the_limits(first_leaves_first):
    """Limits are the original ones, in this thread and in new ones."""
    before = threads()
    torch.set_num_threads(3)
    inside, left = [threading.Event(), threading.Event()], threading.Event()

    def fit(number):
        if number:
            inside[0].wait(10)
        with threads_for(0), threads_for(1e99):
            inside[number].set()
            inside[1 - number].wait(10)
            bounded = torch.get_num_threads()
            if (number == 0) != first_leaves_first:
                left.wait(10)
        left.set()
        return bounded

    try:
        with ThreadPoolExecutor(2) as pool:
            assert [*pool.map(fit, (0, 1))] == [1, 1]
        assert threads() == (3, before[1])
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(threads).result() == (3, before[1])
    finally:
        torch.set_num_threads(before[0])


def test_limits_are_restored_by_the_last_fit(three_threads):
    """A limit set by another fit is not mistaken for the user's setting."""
    before = threads()
    second_in, first_out, nested, third_in, second_out = (
        threading.Event() for _ in range(5)
    )
    seen = []

    def first():
        with threads_for(0):
            second_in.wait(10)
        first_out.set()

    def second():
        with threads_for(0):
            second_in.set()
            first_out.wait(10)
            with threads_for(0):
                nested.set()
                third_in.wait(10)
                seen.append(torch.get_num_threads())
        second_out.set()

    def third():
        nested.wait(10)
        with threads_for(0):
            third_in.set()
            second_out.wait(10)
            seen.append(torch.get_num_threads())

    with ThreadPoolExecutor(3) as pool:
        for done in [pool.submit(run) for run in (first, second, third)]:
            done.result()
    assert seen == [1, 1]
    assert threads() == before
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(threads).result() == before
