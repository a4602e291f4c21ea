"""The version of the package, and of pickles."""

import importlib.metadata
import pickle

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


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda each: type(each).__name__)
def test_pickles_of_another_version_warn(estimator):
    """A pickle knows the version that wrote it; the same version is silent."""
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
