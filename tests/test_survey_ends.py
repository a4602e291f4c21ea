"""Distinct minima, bounds and verdicts of `survey_minima`."""

import numpy as np
import pytest
import torch
from certificate_cases import chain_module
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.neural_network import MLPRegressor
from sklearn.preprocessing import scale
from survey_cases import layers, mlp, survey, wide_targets
from torch import nn

from sklearn_pgb import AddedNeuronClassifier, AddedNeuronRegressor, certify
from sklearn_pgb._convex._scale import LossScale
from sklearn_pgb._losses._regression import SquaredLoss
from sklearn_pgb._models._activations import ACTIVATIONS
from sklearn_pgb._models._chain import ChainNetwork
from sklearn_pgb._survey import _examination
from sklearn_pgb._survey._ends import Endpoints, SurveyData, evaluate, number_minima
from sklearn_pgb._survey._examination import examine_ends


@pytest.fixture(scope="module")
def regression():
    return wide_targets()


# --- distinct minima ------------------------------------------------------------------


def chain(weights, activation="tanh"):
    W, b, V, c = (torch.tensor(part, dtype=torch.float64) for part in weights)
    return ChainNetwork.mlp([W, V], [b, c], [ACTIVATIONS[activation]])


def numbers(networks):
    rng = np.random.default_rng(0)
    X = torch.from_numpy(rng.normal(size=(30, 2)))
    y = torch.from_numpy(rng.normal(size=(30, 1)))
    weight = torch.full((30,), 1 / 30, dtype=torch.float64)
    data = SurveyData(X, y, weight, SquaredLoss())
    ends = evaluate([data.objective(network) for network in networks])
    return number_minima(ends, data, data.scale().reference)


def test_symmetric_copies_are_one_minimum():
    rng = np.random.default_rng(0)
    W, b, V, c = (rng.normal(size=s) for s in [(3, 2), (3,), (1, 3), (1,)])
    order, sign = [2, 0, 1], np.array([-1.0, 1, -1])
    copies = [
        chain((W, b, V, c)),
        chain((W[order], b[order], V[:, order], c)),
        chain((sign[:, None] * W, sign * b, sign * V, c)),
        chain((W, b, 1.1 * V, c)),
    ]
    number = numbers(copies)
    assert number[0] == number[1] == number[2] != number[3]


def test_rescaled_and_silent_relu_units_are_one_minimum():
    rng = np.random.default_rng(0)
    W, b, V, c = (rng.normal(size=s) for s in [(3, 2), (3,), (1, 3), (1,)])
    b[2] = -100
    factor = np.array([2.0, 0.5, 1])
    silent = V + np.array([[0, 0, 5]])
    copies = [
        chain((W, b, V, c), "relu"),
        chain((factor[:, None] * W, factor * b, V / factor, c), "relu"),
        chain((W, b, silent, c), "relu"),
    ]
    assert_array_equal(numbers(copies), 0)


def test_equal_losses_are_not_one_minimum():
    """Networks of equal loss and different predictions are two minima."""
    zero = np.zeros((1, 2))
    up, down = (chain((zero, [0.0], [[0.0]], [shift])) for shift in (1.0, -1.0))
    X = torch.zeros(2, 2, dtype=torch.float64)
    y = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
    half = torch.tensor([0.5, 0.5], dtype=torch.float64)
    data = SurveyData(X, y, half, SquaredLoss())
    ends = evaluate([data.objective(up), data.objective(down)])
    assert ends.loss[0] == ends.loss[1]
    assert_array_equal(number_minima(ends, data, 1.0), [0, 1])


def test_numbers_follow_the_objective(regression):
    found = survey(mlp(), *regression, n_starts=8)
    best = [
        found.objective[found.minimum == number].min()
        for number in range(found.n_minima)
    ]
    assert_array_equal(best, np.sort(best))
    assert found.counts.sum() == 8
    assert found.minimum[found.best] == 0


def chains(survey, widths, activation):
    """The ends of a survey as torch modules."""
    for theta in survey.parameters:
        state = [(W.T, b) for W, b in layers(theta, widths)]
        weights, biases = zip(*state, strict=True)
        yield chain_module(weights, activation, biases)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("alpha", [0.0, 0.1])
def test_verdicts_are_those_of_certify(activation, alpha, regression):
    """The verdict on a network is that of its certificate."""
    X, y = regression
    y = scale(y)
    net = mlp(alpha=alpha, activation=activation)
    found = survey(net, X, y, n_starts=8, polish_iter=400)
    penalty = np.repeat([alpha / 40, 0, alpha / 40, 0], [4, 2, 2, 1])
    kind = {"tanh": nn.Tanh, "relu": nn.ReLU}[activation]
    kinds = set()
    for start, module in enumerate(chains(found, [2, 2, 1], kind)):
        certificate = certify(
            module, X, y[:, None], loss="squared_error", penalty=penalty
        )
        assert_allclose(certificate.objective, found.objective[start], rtol=1e-10)
        assert certificate.verdict == found.verdict[start]
        kinds.add(certificate.verdict)
    assert kinds


def ends_at(data, objective, gradient_norm):
    """Endpoints with given losses and gradient norms."""
    rng = np.random.default_rng(0)
    networks = [
        chain([rng.normal(size=s) for s in [(2, 1), (2,), (1, 2), (1,)]])
        for _ in objective
    ]
    objective, norm = np.array(objective), np.array(gradient_norm)
    empty = torch.zeros(0, dtype=torch.float64)
    objectives = [data.objective(network) for network in networks]
    return Endpoints(objectives, np.empty((0, 0)), empty, objective, objective, norm)


def test_verdicts_by_numbers(monkeypatch):
    """Verdicts follow from floor and gradient; beyond the budget there are none."""
    X = torch.linspace(-1, 1, 9, dtype=torch.float64)[:, None]
    weight = torch.full((9,), 1 / 9, dtype=torch.float64)
    data = SurveyData(X, X**2, weight, SquaredLoss())
    ends = ends_at(data, [1.0, 1.11, 2.0, 2.0, 2.0], [9.0, 0.0, 0.19, 0.21, np.nan])
    monkeypatch.setattr(_examination, "EXAMINATION_FLOPS", 0.0)
    numbers = np.array([0, 1, 2, 3, 4])
    bounds, budgets, verdicts = examine_ends(
        ends, numbers, scale=LossScale(0.9, 2.0, 0.0), tol=0.1, seed=0
    )
    # The gradient of the last one is nan, so it has no verdict.
    rest = "critical", "critical", "not_critical", "undetermined"
    expected = ("certified_global", *rest)
    assert verdicts == expected
    assert_array_equal(np.isfinite(bounds), [True, False, False, False, False])
    assert_array_equal(np.isnan(budgets), np.isnan(bounds))


def test_bounds_are_those_of_their_own_end(regression):
    """Networks of one minimum have different gradient bases."""
    X, y = regression
    net = MLPRegressor(hidden_layer_sizes=(4,), solver="lbfgs", alpha=3.0)
    found = survey(net, X, scale(y), n_starts=12, polish_iter=300)
    known = np.isfinite(found.gradient_basis_bound)
    assert np.bincount(found.minimum[known]).max() == 1
    assert known[found.best]
    assert found.n_minima < 12
    smooth = 0
    for start in np.flatnonzero(known):
        (W, b), (V, _) = layers(found.parameters[start], [2, 4, 1])
        inputs = X @ W + b
        if np.abs(inputs).min() < 1e-12:
            # On a kink rounding decides which derivatives are meant.
            continue
        hidden = np.maximum(inputs, 0)
        slope = (hidden > 0) * V[:, 0]
        columns = [hidden, slope, slope * X[:, :1], slope * X[:, 1:], np.ones((40, 1))]
        basis = np.hstack(columns)
        best = basis @ np.linalg.lstsq(basis, scale(y), rcond=1e-12)[0]
        least = np.square(best - scale(y)).mean()
        assert found.gradient_basis_bound[start] <= least + 1e-12
        smooth += 1
    assert smooth


def test_a_saddle_is_not_a_minimum():
    """Equal units stay equal, but the survey finds a descent."""
    X = torch.linspace(-1, 1, 9, dtype=torch.float64)[:, None]
    y = torch.sin(5 * X)
    weight = torch.full((9,), 1 / 9, dtype=torch.float64)
    data = SurveyData(X, y, weight, SquaredLoss())
    network = chain(([[0.0], [0.0]], [0.0, 0.0], [[0.0, 0.0]], [0.0]))
    ends = evaluate([data.objective(network)])
    assert ends.gradient_norm[0] <= 1e-12
    number = np.array([0])
    bounds, _, verdicts = examine_ends(
        ends, number, scale=LossScale(0.0, 1.0, 0.0), tol=1e-6, seed=0
    )
    assert verdicts == ("not_local_min",)
    assert_allclose(bounds[0], ends.loss[0], rtol=1e-8)


def test_ends_of_small_gradients_are_certified():
    """The certificate covers changes of some hundred times the gradient."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 3))
    y = X[:, 0] + X[:, 1] * X[:, 2] + 0.1 * rng.normal(size=60)
    net = AddedNeuronClassifier(
        (3,), activation="tanh", max_iter=20, label_smoothing=0.1
    )
    found = survey(net, X, np.digitize(y, [-0.5, 0.5]))
    assert set(found.verdict) == {"consistent_with_local_min"}


@pytest.mark.parametrize(
    "net",
    [
        mlp(alpha=0.0, solver="adam"),
        mlp(alpha=0.0, solver="lbfgs"),
        AddedNeuronRegressor((2,), alpha=0.0),
    ],
)
@pytest.mark.parametrize("level", [0.0, 0.1, 1e3])
def test_equal_targets_have_one_minimum(net, level, regression):
    X, _ = regression
    found = survey(net, X, np.full(len(X), level), n_starts=3)
    assert found.n_minima == 1
    assert set(found.verdict) == {"certified_global"}
