"""scikit-learn's checks, without expected failures or skips of ours.

Every estimator at its defaults, and a part of the configurations of common_cases.py;
benchmarks/estimator_checks.py runs all of them.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import sklearn
from common_cases import (
    CONFIGURATIONS,
    DEFAULTS,
    DEFAULTS_IN_SUITE,
    IN_ROUTING,
    IN_SUITE,
    TABLES,
    TREES,
    failures,
    requesting,
)
from sklearn.utils.estimator_checks import parametrize_with_checks

from sklearn_pgb import GradientBasisRefit


def in_suite(names):
    """Configurations by name."""
    return [(DEFAULTS | CONFIGURATIONS)[name] for name in names]


@parametrize_with_checks(in_suite(DEFAULTS_IN_SUITE + IN_SUITE))
def test_sklearn(estimator, check):
    check(estimator)


INHERITED = {
    "check_sample_weight_equivalence_on_dense_data",
    "check_sample_weight_equivalence_on_sparse_data",
}


@pytest.mark.parametrize("name", TREES)
def test_refits_of_trees_fail_no_other_check(name):
    """Refits of trees only fail the check that weights equal repetitions."""
    assert failures(GradientBasisRefit(TREES[name], cv=2)).keys() <= INHERITED


@pytest.mark.parametrize("name", TABLES)
def test_tables_fail_no_other_check(name):
    """Refits of tables only fail checks of weights, because members count samples."""
    assert failures(TABLES[name]).keys() <= INHERITED


with sklearn.config_context(enable_metadata_routing=True):
    ROUTED = [requesting(estimator) for estimator in in_suite(IN_ROUTING)]


@parametrize_with_checks(ROUTED)
def test_sklearn_with_metadata_routing(estimator, check):
    with sklearn.config_context(enable_metadata_routing=True):
        check(estimator)


def test_sklearn_with_scipy_array_api():
    # SciPy reads the variable when it is imported.
    code = (
        "import json, common_cases as cases\n"
        "names = cases.IN_ROUTING\n"
        "found = {n: list(cases.failures(cases.CONFIGURATIONS[n])) for n in names}\n"
        "print(json.dumps(found))\n"
    )
    environment = os.environ | {"SCIPY_ARRAY_API": "1", "PYTHONWARNINGS": "ignore"}
    folder = Path(__file__).parent
    command = [sys.executable, "-c", code]
    run = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout.splitlines()[-1])
    assert found == {name: [] for name in IN_ROUTING}


def test_enough_configurations_are_checked():
    assert len(CONFIGURATIONS) >= 40
    assert {*IN_SUITE, *IN_ROUTING} <= CONFIGURATIONS.keys()


def test_a_failing_check_is_found(monkeypatch):
    estimator = CONFIGURATIONS["network, lbfgs"]
    monkeypatch.setattr(type(estimator), "predict", lambda self, X: [0.0] * len(X))
    assert "check_regressors_train" in failures(estimator)
