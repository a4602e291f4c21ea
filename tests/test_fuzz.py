"""A short run of the fuzz, and tests that its rules find faults."""

import os
import warnings

import fuzz_data
import numpy as np
import pytest
import torch
from fuzz import Worker, groups, outcomes
from fuzz_cases import Case, Step, draw
from fuzz_rules import run_case
from sklearn.base import BaseEstimator

N_CALLS = 40


def test_random_calls_break_no_rule():
    results = list(outcomes(range(N_CALLS), seed=0))
    faults = [(f.kind, f.text, f.line or o.line) for (o, f), *_ in groups(results)]
    assert faults == []


def test_a_case_is_the_same_whenever_it_is_drawn():
    assert [draw(3, i).line() for i in range(30)] == [
        draw(3, i).line() for i in range(30)
    ]


def misbehave(X, how):
    """A function of the package that breaks one rule."""
    if how == "changes the data":
        X[0] = 9.0
    elif how == "changes global state":
        np.random.rand()  # noqa: NPY002
    elif how == "not finite":
        return np.full(3, np.nan)
    elif how == "wrong type of error":
        raise KeyError("X")
    elif how == "foreign error":
        return np.zeros(3) @ np.zeros(4)
    elif how == "unnamed cause":
        raise ValueError("Something is wrong.")
    elif how == "empty message":
        raise ValueError
    elif how == "warning":
        np.log(np.zeros(3))
    elif how == "prints":
        print("hello")
    return None


KINDS = (
    *("changes the data", "changes global state", "not finite", "wrong type of error"),
    *("foreign error", "unnamed cause", "empty message", "warning", "prints"),
)


@pytest.mark.parametrize("kind", KINDS)
def test_each_rule_finds_its_fault(kind, monkeypatch):
    monkeypatch.setattr(fuzz_data, "misbehave", misbehave, raising=False)
    monkeypatch.setattr("fuzz_rules.PACKAGE", __file__)
    step = Step(f"misbehave(X, {kind!r})", frozenset({"X"}))
    state = np.random.get_state()  # noqa: NPY002
    case = Case("test", ["X = inputs('normal', 4, 2)"], [step])
    assert [fault.kind for fault in run_case(case)] == [kind]
    np.random.set_state(state)  # noqa: NPY002


def test_good_behaviour_is_no_fault(monkeypatch):
    monkeypatch.setattr(fuzz_data, "misbehave", misbehave, raising=False)
    case = Case("test", ["X = inputs('normal', 4, 2)"], [Step("misbehave(X, '')")])
    assert run_case(case) == []


def test_each_global_setting_is_watched(monkeypatch):
    def change():
        torch.rand(1)
        os.environ["SOME_VARIABLE"] = "1"
        warnings.simplefilter("ignore")
        torch.set_default_dtype(torch.float64)

    monkeypatch.setenv("SOME_VARIABLE", "0")
    monkeypatch.setattr(fuzz_data, "change", change, raising=False)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        found = {fault.text for fault in run_case(Case("test", [], [Step("change()")]))}
        torch.set_default_dtype(torch.float32)
    assert found == {
        "torch generator",
        "environment: SOME_VARIABLE",
        "warnings filters",
        "torch default dtype",
    }


class Estimator(BaseEstimator):
    """An estimator whose failing fit leaves traces."""

    __module__ = "sklearn_pgb.test"

    def __init__(self, size=3):
        self.size = size

    def fit(self, X, y=None):
        self.size, self.n_features_in_ = 4, 2
        raise ValueError("X is refused.")


def test_a_failed_fit_that_leaves_traces_is_found(monkeypatch):
    monkeypatch.setattr(fuzz_data, "Estimator", Estimator, raising=False)
    setup = ["X = inputs('normal', 4, 2)", "m = Estimator()"]
    faults = run_case(Case("test", setup, [Step("m.fit(X, None)", frozenset({"X"}))]))
    kinds = {fault.kind for fault in faults}
    assert kinds >= {"a failed fit changes the model", "changes a parameter"}


def test_a_call_that_hangs_is_found():
    # The limit allows for a start of 30 seconds: with this one nothing is left.
    (outcome,) = outcomes([0], seed=0, time_limit=-30.0)
    assert [fault.kind for fault in outcome.faults] == ["hang"]


def test_a_call_that_kills_python_is_found():
    worker = Worker(seed=0)
    worker.send(0)
    worker.process.kill()
    worker.process.join()
    assert [f.kind for f in worker.result(time_limit=9.0).faults] == ["process died"]
    worker.stop()
