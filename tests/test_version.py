"""The version of the package, and of pickles."""

import ast
import importlib.metadata
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from sklearn.base import clone

import sklearn_pgb
from sklearn_pgb import (
    AddedNeuronClassifier,
    AddedNeuronRegressor,
    GradientBasisRefit,
    ResNetBasisClassifier,
    ResNetBasisRegressor,
)

ESTIMATORS = [
    AddedNeuronRegressor(),
    AddedNeuronClassifier(),
    ResNetBasisRegressor(),
    ResNetBasisClassifier(),
    GradientBasisRefit(AddedNeuronRegressor()),
]


def test_one_version():
    """The package and its distribution name the same version."""
    assert sklearn_pgb.__version__ == importlib.metadata.version("sklearn-pgb")


def test_importing_the_package_does_not_import_torch():
    code = "import sys, sklearn_pgb; assert not {'torch', 'sklearn'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_names_are_loaded_from_the_files_that_type_checkers_see():
    tree = ast.parse(Path(sklearn_pgb.__file__).read_text(encoding="utf-8"))
    seen = {
        alias.asname: node.module
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert sorted(seen) == sklearn_pgb.__all__ == dir(sklearn_pgb)
    for name, module in seen.items():
        value = getattr(sklearn_pgb, name)
        assert value is getattr(sys.modules[module], name)
        assert value.__module__ == module
    with pytest.raises(AttributeError, match="no attribute 'Network'"):
        sklearn_pgb.Network  # noqa: B018


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda each: type(each).__name__)
def test_pickles_of_another_version_warn(estimator):
    """Pickles store their version; only another version causes a warning."""
    again = pickle.loads(pickle.dumps(estimator))
    assert vars(again).keys() == vars(estimator).keys()
    assert vars(clone(again)).keys() == vars(estimator).keys()
    state = estimator.__getstate__()
    assert state["_sklearn_pgb_version"] == sklearn_pgb.__version__
    for version, named in [("0.0.1", "0.0.1"), (None, "before 0.2")]:
        old = dict(state, _sklearn_pgb_version=version)
        if version is None:
            del old["_sklearn_pgb_version"]
        with pytest.warns(UserWarning, match=f"saved by sklearn_pgb {named}"):
            clone(estimator).__setstate__(old)
