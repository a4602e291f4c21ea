"""`train`: rates, ends, populations, early stopping and divergence."""

import math

import numpy as np
import oracles
import pytest
import torch
from oracles import randn
from sklearn.neural_network import MLPRegressor
from torch.testing import assert_close

from sklearn_pgb._losses._regression import SquaredLoss
from sklearn_pgb._models._activations import ACTIVATIONS
from sklearn_pgb._training._descent import Adam, GradientDescent
from sklearn_pgb._training._objective import Objective
from sklearn_pgb._training._program import ChainProgram, uniform_initialization
from sklearn_pgb._training._train import Schedule, train

EXACT = {"rtol": 1e-12, "atol": 1e-12}

METHODS = [Adam(), GradientDescent()]
all_methods = pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
populations = pytest.mark.parametrize("n_members", [1, 3])


class Rates:
    """Record the rates without changing parameters."""

    def start(self, theta):
        self.seen = []

    def step(self, theta, gradient, rate):
        self.seen.append(rate)


def paced(schedule, scores, generator, *, batch_size=25):
    """Train nothing on scripted scores: the training and the rate of each epoch.

    Scores are lists, one per member, whose last entry is repeated.
    """
    objective, theta = oracles.training_problem(SquaredLoss(), generator, len(scores))
    method, epochs = Rates(), []

    def validate(theta):
        epochs.append(len(epochs))
        return torch.tensor([s[min(epochs[-1], len(s) - 1)] for s in scores])

    training = train(
        objective, theta, method, schedule, batch_size=batch_size, validate=validate
    )
    updates = len(method.seen) // training.n_epochs
    assert updates == math.ceil(25 / batch_size)
    return training, method.seen[::updates]


def cosine(rate, length):
    """Rates in the middle of each epoch of a fall to zero."""
    middles = (np.arange(length) + 0.5) / length
    return rate * np.cos(np.pi * middles / 2) ** 2


RISING = [float(i) for i in range(1000)]


def test_constant_rate(generator):
    """The rate stays, and training ends after more than `patience` idle epochs."""
    schedule = Schedule(rate=0.3, kind="constant", max_epochs=50, patience=4)
    training, rates = paced(schedule, [RISING[:7]], generator)
    assert rates == [0.3] * (7 + 4 + 1)
    assert training.n_epochs == 12
    assert training.stagnated.tolist() == [True]
    assert training.losses.shape == training.scores.shape == (12, 1)
    assert training.scores[:, 0].tolist() == RISING[:7] + [6.0] * 5
    training, rates = paced(schedule, [RISING], generator)
    assert rates == [0.3] * 50
    assert training.stagnated.tolist() == [False]


def test_tolerance(generator):
    """An epoch has no gain if it exceeds the best by at most `tol`."""
    schedule = Schedule(kind="constant", max_epochs=50, patience=4, tol=0.1)
    creeping = [0.06 * i for i in range(50)]
    assert paced(schedule, [creeping], generator)[0].n_epochs == 6
    leaping = [0.12 * i for i in range(50)]
    assert paced(schedule, [leaping], generator)[0].n_epochs == 50
    # Every fifth epoch is better: never more than four idle ones in a row.
    stairs = [float(i // 5) for i in range(50)]
    assert paced(schedule, [stairs], generator)[0].n_epochs == 50
    stairs = [float(i // 6) for i in range(50)]
    assert paced(schedule, [stairs], generator)[0].n_epochs == 6


@pytest.mark.parametrize("batch_size", [25, 10])
def test_invscaling_rate(batch_size, generator):
    """The rate falls with a power of the number of updates."""
    schedule = Schedule(rate=0.3, kind="invscaling", max_epochs=9, power=0.7)
    _, rates = paced(schedule, [RISING], generator, batch_size=batch_size)
    updates = np.arange(9) * math.ceil(25 / batch_size)
    np.testing.assert_allclose(rates, 0.3 / (1 + updates) ** 0.7, rtol=1e-14)
    schedule = Schedule(kind="invscaling", max_epochs=50, patience=3)
    assert paced(schedule, [[0.0]], generator)[0].n_epochs == 5


def test_adaptive_rate(generator):
    """Each stagnation divides the rate by five, until it is below 1e-6."""
    schedule = Schedule(rate=1e-2, kind="adaptive", max_epochs=500, patience=4)
    training, rates = paced(schedule, [RISING[:8]], generator)
    expected = [1e-2] * (7 + 1 + 5) + [
        1e-2 / 5**k for k in range(1, 6) for _ in "12345"
    ]
    np.testing.assert_allclose(rates, expected, rtol=1e-14)
    assert training.stagnated.tolist() == [True]


@pytest.mark.parametrize("max_epochs", [40, 41])
def test_anneal_without_stagnation(max_epochs, generator):
    """The second half of the epochs is a cosine."""
    schedule = Schedule(rate=0.3, max_epochs=max_epochs, patience=4)
    training, rates = paced(schedule, [RISING], generator)
    # Stagnation during the fall does not count.
    late, late_rates = paced(schedule, [RISING[:18]], generator)
    expected = [0.3] * (max_epochs - 20), cosine(0.3, 20)
    np.testing.assert_allclose(rates, np.concatenate(expected), rtol=1e-12)
    np.testing.assert_allclose(late_rates, rates, rtol=1e-12)
    assert [training.stagnated.item(), late.stagnated.item()] == [False, False]


@pytest.mark.parametrize(
    ("rises", "fall"), [(12, 12), (2, 6)], ids=["long", "patience"]
)
def test_anneal_at_stagnation(rises, fall, generator):
    """After a stagnation, the rate falls for as many epochs as training took."""
    schedule = Schedule(rate=0.3, max_epochs=100, patience=6)
    training, rates = paced(schedule, [RISING[:rises]], generator)
    stagnation = rises + 6 + 1
    length = training.n_epochs - stagnation
    # The first idle epoch may count as one of those before.
    assert length in (fall, fall + (rises == 12))
    expected = [0.3] * stagnation, cosine(0.3, length)
    np.testing.assert_allclose(rates, np.concatenate(expected), rtol=1e-12)
    assert training.stagnated.tolist() == [True]


@pytest.mark.parametrize("kind", ["anneal", "constant", "invscaling"])
def test_members_end_separately(kind, generator):
    """Each member of a population has its own learning rates and last epoch."""
    schedule = Schedule(rate=0.3, kind=kind, max_epochs=60, patience=4)
    scores = [RISING, RISING[:12], RISING[:3]]
    training, rates = paced(schedule, scores, generator)
    assert training.n_epochs == 60
    assert training.stagnated.tolist() == [False, True, True]
    for i, score in enumerate(scores):
        alone, expected = paced(schedule, [score], generator)
        expected = expected + [0.0] * (60 - alone.n_epochs)
        mine = [rate[i, 0].item() for rate in rates]
        np.testing.assert_allclose(mine, expected, rtol=1e-12)


@pytest.mark.parametrize("tol", [1e-1, 1e-2, 1e-3])
@pytest.mark.parametrize("batch_size", [30, 7])
def test_stagnation_equals_scikit_learn(tol, batch_size, seed):
    """At a constant rate training ends in the epoch in which scikit-learn ends."""
    rng = np.random.RandomState(seed)
    X, y = rng.standard_normal((30, 4)), rng.standard_normal(30)
    mlp = MLPRegressor(
        hidden_layer_sizes=(5,),
        solver="sgd",
        alpha=0,
        batch_size=batch_size,
        learning_rate_init=0.05,
        max_iter=500,
        shuffle=False,
        random_state=seed,
        tol=tol,
        n_iter_no_change=4,
    ).fit(X, y)
    program = ChainProgram([4, 5, 1], [ACTIVATIONS["relu"]])
    objective = Objective(
        program,
        SquaredLoss(),
        torch.from_numpy(X),
        torch.from_numpy(y)[:, None],
        torch.full((30,), 0.5 / 30, dtype=torch.float64),
        torch.zeros(program.n_params, dtype=torch.float64),
    )
    training = train(
        objective,
        uniform_initialization(program, np.random.RandomState(seed), 1),
        GradientDescent(),
        Schedule(rate=0.05, kind="constant", max_epochs=500, tol=tol, patience=4),
        batch_size=batch_size,
    )
    assert training.n_epochs == mlp.n_iter_ < 500
    assert training.stagnated.tolist() == [True]


@pytest.mark.parametrize("kind", ["anneal", "constant", "invscaling", "adaptive"])
@pytest.mark.parametrize("batch_size", [25, 10])
@all_methods
def test_population_equals_its_members(method, kind, batch_size, generator):
    """A member of a population has the same result as if it is trained alone."""
    objective, theta = oracles.training_problem(SquaredLoss(), generator, 3)
    # The first member has little left to gain.
    ahead = Schedule(rate=0.05, kind="constant", max_epochs=200, patience=200)
    theta[:1] = train(objective, theta[:1], method, ahead).theta
    schedule = Schedule(rate=0.05, kind=kind, max_epochs=60, tol=1e-2, patience=3)

    def run_from(theta):
        source = torch.Generator().manual_seed(5)
        return train(
            objective, theta, method, schedule, batch_size=batch_size, generator=source
        )

    together = run_from(theta)
    lengths = set()
    for i in range(3):
        alone = run_from(theta[i : i + 1])
        lengths.add(alone.n_epochs)
        losses = together.losses[: alone.n_epochs, i]
        assert_close(losses, alone.losses[:, 0], **EXACT)
        assert_close(together.theta[i], alone.theta[0], rtol=1e-10, atol=1e-10)
        assert together.stagnated[i] == alone.stagnated[0]
    assert max(lengths) == together.n_epochs
    assert len(lengths) > 1 or kind == "adaptive"


@populations
def test_early_stopping_returns_the_best(n_members, generator):
    """With a held-out score the parameters are those of each member's best epoch."""
    objective, theta = oracles.training_problem(SquaredLoss(), generator, n_members)
    path, scores = [], []

    def validate(theta):
        score = -(theta - 0.3).square().sum(1)
        scores.append(score)
        path.append(theta.clone())
        return score

    schedule = Schedule(rate=0.1, kind="constant", max_epochs=100, patience=8)
    training = train(objective, theta, Adam(), schedule, validate=validate)
    scores, path = torch.stack(scores), torch.stack(path)
    assert_close(training.scores, scores, rtol=0, atol=0)
    best = scores.argmax(0)
    assert best.max() < training.n_epochs - 1
    expected = path[best, torch.arange(n_members)]
    assert_close(training.theta, expected, rtol=0, atol=0)


def test_no_validation(generator):
    """Without it there are no scores, and the last parameters are returned."""
    objective, theta = oracles.training_problem(SquaredLoss(), generator, 2)
    path = []

    def on_epoch(theta, loss, *_):
        path.append((theta.clone(), loss))
        return len(path) == 7

    schedule = Schedule(rate=0.5, kind="constant", patience=100)
    training = train(objective, theta, Adam(), schedule, on_epoch=on_epoch)
    assert training.n_epochs == 7
    assert training.scores.shape == (7, 0)
    assert_close(training.theta, path[-1][0], rtol=0, atol=0)
    losses = torch.stack([loss for _, loss in path])
    assert_close(training.losses, losses, rtol=0, atol=0)
    assert not (training.stagnated | training.diverged).any()


def test_one_seed_one_training(generator):
    """Only the given generator is used, not torch's global one."""
    objective, theta = oracles.training_problem(SquaredLoss(), generator, 2)
    schedule = Schedule(max_epochs=10)
    state = torch.get_rng_state()

    def reached(seed):
        source = torch.Generator().manual_seed(seed)
        return train(
            objective, theta, Adam(), schedule, batch_size=4, generator=source
        ).theta

    first = reached(1)
    assert_close(reached(1), first, rtol=0, atol=0)
    assert (reached(2) - first).abs().max() > 1e-6
    assert_close(torch.get_rng_state(), state)


def diverging(generator, rate, kind="constant"):
    """Train one member from a minimum and one from elsewhere at a huge rate."""
    program = ChainProgram([3, 4, 1], [ACTIVATIONS["identity"]])
    X, weight = randn(generator, 20, 3), oracles.random_weight(20, generator)
    theta = randn(generator, 2, program.n_params)
    y = program(theta[:1], X)[0].clone()
    penalty = torch.zeros(program.n_params, dtype=torch.float64)
    objective = Objective(program, SquaredLoss(), X, y, weight, penalty)
    schedule = Schedule(rate=rate, kind=kind, max_epochs=50, patience=100)
    training = train(objective, theta, GradientDescent(0.0), schedule)
    return objective, theta, training


@pytest.mark.parametrize("kind", ["anneal", "constant"])
@pytest.mark.parametrize("rate", [10.0, 1e100, 1e200])
def test_divergence_is_flagged(rate, kind, generator):
    """A member that overflows is flagged and left finite; the other stays."""
    _, theta, training = diverging(generator, rate, kind)
    assert training.diverged.tolist() == [False, True]
    assert training.theta.isfinite().all()
    assert_close(training.theta[0], theta[0], rtol=0, atol=1e-10)


@pytest.mark.parametrize("rate", [10.0, 1e100, 1e200])
def test_diverged_member_has_the_smallest_loss(rate, generator):
    """Its parameters are those of the smallest loss that was met."""
    objective, theta, training = diverging(generator, rate)
    losses = training.losses[:, 1]
    met = losses[losses.isfinite()]
    smallest = met.min() if len(met) else objective.value(theta)[1]
    assert objective.value(training.theta)[1] <= smallest * (1 + 1e-12)
