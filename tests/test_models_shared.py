"""Models whose outputs share features."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_iris
from sklearn.ensemble import ExtraTreesClassifier, HistGradientBoostingClassifier
from sklearn.neural_network import MLPClassifier, MLPRegressor
from torch.testing import assert_close

from sklearn_pgb._models._open import open_network
from sklearn_pgb._models._shared import share_outputs
from sklearn_pgb._operators._outputs import separates_outputs, shares_features

X, y = load_iris(return_X_y=True)


def trained(kind):
    """A classifier of three classes."""
    if kind == "trees":
        options = {"max_iter": 4, "max_leaf_nodes": 5, "early_stopping": False}
        return HistGradientBoostingClassifier(**options).fit(X, y)
    return MLPClassifier((5, 4), max_iter=20, random_state=0).fit(X, y)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("kind", ["trees", "network"])
def test_the_function_is_the_same(kind, generator):
    """And coefficients move it along the derivatives, for each output on its own."""
    whole = open_network(trained(kind))
    shared = share_outputs(whole)
    rows = shared.inputs(X)
    model = shared.network
    raw = whole.network(whole.network.theta, rows)
    assert_close(model(model.theta, rows), raw)
    bias = model.find_head(rows).bias
    operator = model.jacobian(rows, without=bias)
    assert shares_features(operator)
    assert separates_outputs(operator)
    step = torch.randn(model.n_params, generator=generator, dtype=torch.float64)
    moved = model(model.theta + step, rows)
    assert_close(moved - raw, operator.matvec(step[: bias.start]) + step[bias])
    assert_close(model.at(model.theta + step)(model.theta + step, rows), moved)
    predicted = model.tangent_model(0.5, step[None])(rows)
    assert_close(predicted, moved - 0.5 * raw)


def test_trees_have_the_union_of_all_leaves():
    """The kernel of each output is the sum of the kernels of the trees of all."""
    whole = open_network(trained("trees"))
    rows = whole.inputs(X)
    kernel = whole.network.jacobian(rows, without=slice(-3, None)).gram()
    own = kernel.reshape(len(X), 3, len(X), 3)
    shared = share_outputs(whole).network.jacobian(rows, without=slice(-3, None))
    wanted = torch.kron(torch.einsum("icjc->ij", own), torch.eye(3).double())
    assert_close(shared.gram(), wanted)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_network_with_one_output_has_its_own_kernel():
    """The root mean square of one positive weight is the weight."""
    model = MLPRegressor(hidden_layer_sizes=(4,), max_iter=20, random_state=0).fit(X, y)
    model.coefs_[-1] = np.abs(model.coefs_[-1])
    whole = open_network(model)
    rows = whole.inputs(X)
    bias = whole.network.find_head(rows).bias
    kernel = whole.network.jacobian(rows, without=bias).gram()
    shared = share_outputs(whole).network
    own = shared.jacobian(rows, without=shared.find_head(rows).bias)
    assert_close(own.gram(), kernel)


def test_forests_stay_as_they_are():
    forest = open_network(ExtraTreesClassifier(3, random_state=0).fit(X, y))
    assert share_outputs(forest) is forest
