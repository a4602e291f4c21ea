"""The three ways to train a network, on a problem with a known minimum."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from added_neuron_cases import X, Y, regressor
from oracles import randn
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from torch import nn

from sklearn_pgb import AddedNeuronRegressor
from sklearn_pgb._added_neuron._request import TrainingRequest
from sklearn_pgb._added_neuron._solvers import by_lbfgs, by_minibatches, by_search
from sklearn_pgb._losses._regression import SquaredLoss
from sklearn_pgb._models._activations import ACTIVATIONS
from sklearn_pgb._training import _objective
from sklearn_pgb._training._architecture import chain_architecture
from sklearn_pgb._training._descent import Adam
from sklearn_pgb._training._objective import Objective
from sklearn_pgb._training._program import ChainProgram
from sklearn_pgb._training._train import Schedule

REQUEST = TrainingRequest(
    solver="adam",
    schedule=Schedule(rate=0.02, max_epochs=60, tol=1e-9),
    batch_size=8,
    shuffle=True,
    alpha=0.0,
    neuron_penalty=1e-3,
    n_starts=1,
    global_move="auto",
    method=Adam(),
    max_evaluations=1000,
    dtype=torch.float64,
    device=torch.device("cpu"),
    loss_unit=1.0,
)


@pytest.fixture
def problem(generator):
    """A network, and targets that other parameters of it fit exactly."""
    program = ChainProgram([2, 3, 1], [ACTIVATIONS["tanh"]])
    X = randn(generator, 24, 2)
    # A copy, as programs reuse the memory of their outputs.
    y = program(randn(generator, 1, program.n_params), X)[0].clone()
    weight = torch.full((24,), 1 / 24, dtype=torch.float64)
    penalty = torch.zeros(program.n_params, dtype=torch.float64)
    objective = Objective(program, SquaredLoss(), X, y, weight, penalty)
    rng = np.random.RandomState(0)
    return chain_architecture(program, rng, np.zeros(1), 1.0), objective


def train(problem, solver, request, generator, **options):
    """Train from random parameters; return the fit, and losses as reported."""
    architecture, objective = problem
    theta, reported = architecture.draw(), []
    start = float(objective.value(theta[None]))

    def report(theta, loss, *details):
        reported.append(loss)
        return False

    if solver is by_lbfgs:
        fit = by_lbfgs(objective, theta, request, report)
    elif solver is by_search:
        rest = request, generator, report, 0.0
        fit = by_search(architecture, objective, theta, *rest)
    else:
        score = options.get("score")
        fit = by_minibatches(objective, theta, request, generator, report, score)
    return fit, reported, start, float(objective.value(fit.theta[None]))


@pytest.mark.parametrize("solver", [by_lbfgs, by_minibatches, by_search])
def test_training_reduces_the_loss(solver, problem, generator):
    fit, reported, start, end = train(problem, solver, REQUEST, generator)
    assert end < 0.5 * start
    assert len(reported) == len(fit.losses) == fit.n_iter <= 60
    assert fit.theta.dtype == torch.float64
    assert not fit.diverged


def test_minibatches_stop_early_by_a_score(problem, generator):
    """A score that never improves ends the training after the patience."""
    request = replace(REQUEST, schedule=replace(REQUEST.schedule, patience=3))
    request = replace(request, schedule=replace(request.schedule, kind="constant"))
    options = {"score": lambda theta: 0.0}
    fit, *_ = train(problem, by_minibatches, request, generator, **options)
    assert fit.ending == "early_stopped"
    assert fit.n_iter == len(fit.scores) == 5


def test_lbfgs_says_what_ended_it(problem, generator):
    few = replace(REQUEST, schedule=replace(REQUEST.schedule, max_epochs=2))
    assert train(problem, by_lbfgs, few, generator)[0].ending == "max_iter"
    schedule = replace(REQUEST.schedule, max_epochs=10_000, tol=1e-3)
    done = train(problem, by_lbfgs, replace(REQUEST, schedule=schedule), generator)
    assert done[0].ending == "stalled"


# -- batch norm ------------------------------------------------------------------------


def normalized():
    return nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 1))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("params", [{}, {"batch_size": 8}, {"solver": "sgd"}])
@pytest.mark.parametrize("n_samples", [33, 65, 36, 9])
def test_batch_norm_never_sees_a_single_sample(n_samples, params):
    """A remainder of one sample joins a batch, so all of them train the statistics."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n_samples, 3))
    model = AddedNeuronRegressor(
        module=normalized(), early_stopping=False, max_iter=2, random_state=0, **params
    ).fit(X, X[:, 0])
    assert np.isfinite(model.predict(X)).all()
    if n_samples == 33:
        n_batches = 4 if "batch_size" in params else 1
        assert model.module_[1][1].num_batches_tracked == 2 * n_batches


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_batch_norm_of_all_samples_in_blocks(solver, monkeypatch):
    """A single last sample is in the block before."""
    monkeypatch.setattr(_objective, "FORWARD_ROWS", 8)
    model = AddedNeuronRegressor(module=normalized(), solver=solver, max_iter=2)
    model.set_params(early_stopping=False, random_state=0).fit(X[:33], Y[:33])
    assert np.isfinite(model.loss_)


@pytest.mark.parametrize(("n_samples", "batch_size"), [(1, 1), (20, 1)])
def test_batch_norm_of_a_single_sample(n_samples, batch_size):
    model = AddedNeuronRegressor(module=normalized(), batch_size=batch_size)
    model.set_params(early_stopping=False)
    with pytest.raises(
        ValueError, match=r"module must not have batch norm.*batch_size"
    ):
        model.fit(X[:n_samples], Y[:n_samples])
    with pytest.raises(ValueError, match="module must not have batch norm"):
        clone(model).partial_fit(X[:n_samples], Y[:n_samples])


def test_what_curves_leave_out():
    """Evaluations of the polish, and of a solver that never moves."""
    model = regressor(n_starts=2, max_iter=20).fit(X, Y)
    assert len(model.loss_curve_) <= model.n_iter_ <= 40
    assert model.best_loss_ == min(model.loss_curve_)
    model = regressor(solver="lbfgs", max_fun=1)
    with pytest.warns(ConvergenceWarning):
        model.fit(X, Y)
    assert (model.loss_curve_, model.n_iter_) == ([], 1)
    assert model.best_loss_ == model.loss_
