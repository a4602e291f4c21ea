"""Starts, steps and epochs against torch.optim, scikit-learn and formulas."""

from functools import partial

import numpy as np
import oracles
import pytest
import torch
from oracles import randn
from sklearn.neural_network import MLPClassifier, MLPRegressor
from torch.testing import assert_close

from sklearn_pgb._losses._classification import CrossEntropyLoss
from sklearn_pgb._losses._regression import PoissonLoss, SquaredLoss
from sklearn_pgb._models._activations import ACTIVATIONS
from sklearn_pgb._training import _descent
from sklearn_pgb._training._descent import Adam, Descent, GradientDescent
from sklearn_pgb._training._objective import Objective
from sklearn_pgb._training._program import ChainProgram, uniform_initialization
from sklearn_pgb._training._train import Schedule, train

EXACT = {"rtol": 1e-12, "atol": 1e-12}

METHODS = [Adam(), GradientDescent(), GradientDescent(0.5, nesterov=False)]
all_methods = pytest.mark.parametrize("method", METHODS, ids=repr)
populations = pytest.mark.parametrize("n_members", [1, 3])


# --- starts ------------------------------------------------------------------------


def mlp_theta(mlp):
    """Parameters of a fitted MLP in the order of theta."""
    pairs = zip(mlp.coefs_, mlp.intercepts_, strict=True)
    return np.concatenate([part for W, b in pairs for part in (W.T.ravel(), b)])


@pytest.mark.parametrize("name", ["identity", "logistic", "tanh", "relu"])
@pytest.mark.parametrize("hidden", [(5, 3), (6,)])
def test_uniform_initialization(name, hidden, seed):
    """The first member has the initial parameters of scikit-learn's MLP."""
    rng = np.random.RandomState(seed)
    X, y = rng.standard_normal((10, 4)), rng.standard_normal((10, 2))
    mlp = MLPRegressor(
        hidden_layer_sizes=hidden,
        activation=name,
        learning_rate_init=1e-30,
        max_iter=1,
        random_state=seed,
    ).fit(X, y)
    program = ChainProgram([4, *hidden, 2], [ACTIVATIONS[name]] * len(hidden))
    theta = uniform_initialization(program, np.random.RandomState(seed), 3)
    assert theta.dtype == torch.float64
    assert_close(theta[0].numpy(), mlp_theta(mlp), rtol=0, atol=1e-28)
    assert len(theta.unique(dim=0)) == 3


# --- steps -------------------------------------------------------------------------


def random_steps(generator, n_members, n_steps=20):
    """A start, and a gradient and a rate for each step."""
    theta = randn(generator, n_members, 6)
    rates = 0.1 * torch.rand(n_steps, generator=generator, dtype=torch.float64)
    return theta, randn(generator, n_steps, n_members, 6), rates.tolist()


def run(method, theta, gradients, rates):
    """Take steps along given gradients."""
    theta = theta.clone()
    method.start(theta)
    for gradient, rate in zip(gradients, rates, strict=True):
        method.step(theta, gradient.clone(), rate)
    return theta


def run_torch(make, theta, gradients, rates):
    """Take the same steps with one of torch's optimizers for each member."""
    members = [row.clone().requires_grad_() for row in theta]
    for i, member in enumerate(members):
        optimiser = make([member])
        for gradient, rate in zip(gradients, rates, strict=True):
            optimiser.param_groups[0]["lr"] = rate
            member.grad = gradient[i].clone()
            optimiser.step()
    return torch.stack([member.detach() for member in members])


@populations
@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.8, 0.99)])
def test_adam_equals_torch(n_members, betas, generator):
    """Twenty steps of Adam are torch's; without epsilon, which torch puts elsewhere."""
    steps = random_steps(generator, n_members)
    mine = run(Adam(*betas, epsilon=0.0), *steps)
    adam = partial(torch.optim.Adam, betas=betas, eps=0.0)
    assert_close(mine, run_torch(adam, *steps), **EXACT)


@populations
def test_adam_epsilon(n_members, generator):
    """Epsilon is added to the root of the raw second moment, as in Kingma's remark."""
    theta, gradients, rates = random_steps(generator, n_members)
    mine = run(Adam(0.9, 0.999, epsilon=0.5), theta, gradients, rates)
    first, second, at = (
        np.zeros((n_members, 6)),
        np.zeros((n_members, 6)),
        theta.numpy(),
    )
    for t, (g, rate) in enumerate(zip(gradients.numpy(), rates, strict=True), start=1):
        first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g**2
        size = rate * np.sqrt(1 - 0.999**t) / (1 - 0.9**t)
        at = at - size * first / (np.sqrt(second) + 0.5)
    assert_close(mine.numpy(), at, **EXACT)


@populations
@pytest.mark.parametrize(
    ("momentum", "nesterov"), [(0.0, True), (0.0, False), (0.9, False), (0.9, True)]
)
def test_gradient_descent_equals_torch(n_members, momentum, nesterov, generator):
    """At a constant rate momentum is torch's, with Nesterov's correction or without."""
    theta, gradients, rates = random_steps(generator, n_members)
    steps = theta, gradients, [0.05] * len(rates)
    mine = run(GradientDescent(momentum, nesterov), *steps)
    sgd = partial(
        torch.optim.SGD, lr=0.05, momentum=momentum, nesterov=nesterov and momentum > 0
    )
    assert_close(mine, run_torch(sgd, *steps), **EXACT)


@pytest.mark.parametrize("nesterov", [False, True])
def test_gradient_descent_at_changing_rates(nesterov, generator):
    """The velocity holds steps, not gradients: an old rate stays in an old step."""
    theta, gradients, rates = random_steps(generator, 2, n_steps=3)
    mine = run(GradientDescent(0.5, nesterov), theta, gradients, rates)
    (g1, g2, g3), (r1, r2, r3) = gradients, rates
    v1 = -r1 * g1
    v2 = v1 / 2 - r2 * g2
    v3 = v2 / 2 - r3 * g3
    expected = theta + v1 + v2 + v3
    if nesterov:
        # Each step looks ahead by half of the velocity that it leaves.
        expected = expected + v3 / 2
    assert_close(mine, expected, **EXACT)


@all_methods
def test_rates_of_members(method, generator):
    """Members may have different learning rates."""
    theta, gradients, _ = random_steps(generator, 3)
    rates = torch.rand(20, 3, 1, generator=generator, dtype=torch.float64)
    together = run(method, theta, gradients, rates)
    for i in range(3):
        one = slice(i, i + 1)
        alone = run(method, theta[one], gradients[:, one], rates[:, i].flatten())
        assert_close(together[one], alone, **EXACT)


@all_methods
def test_reset(method, generator):
    """A member that is reset has the steps of a new one; the others are unchanged."""
    theta, gradients, rates = random_steps(generator, 3)
    undisturbed = run(method, theta, gradients, rates)
    at = theta.clone()
    method.start(at)
    for t, (gradient, rate) in enumerate(zip(gradients, rates, strict=True)):
        if t == 7:
            at[1] = theta[1]
            method.reset(1)
        method.step(at, gradient.clone(), rate)
    fresh = run(method, theta[1:2], gradients[7:, 1:2], rates[7:])
    assert_close(at[1:2], fresh, **EXACT)
    assert_close(at[[0, 2]], undisturbed[[0, 2]], **EXACT)


@all_methods
def test_load_state(method, generator):
    """With its state, a method continues an earlier descent, more than once."""
    theta, gradients, rates = random_steps(generator, 3)
    expected = run(method, theta, gradients, rates)
    halfway = run(method, theta, gradients[:8], rates[:8])
    state = [part.clone() for part in method.state()]
    for _ in range(2):
        at = halfway.clone()
        method.start(at)
        method.load_state(state)
        for gradient, rate in zip(gradients[8:], rates[8:], strict=True):
            method.step(at, gradient.clone(), rate)
        assert_close(at, expected, **EXACT)


# --- epochs ------------------------------------------------------------------------


class Still:
    """Keep the gradients and move nothing."""

    def start(self, theta):
        self.gradients = []

    def step(self, theta, gradient, rate):
        self.gradients.append(gradient.clone())


@pytest.fixture
def batches(monkeypatch):
    """Samples of each batch that an objective sees."""
    seen, batch = [], Objective.batch_value_and_gradient

    def spy(self, theta, X, y, weight):
        seen.append((X, y, weight))
        return batch(self, theta, X, y, weight)

    monkeypatch.setattr(Objective, "batch_value_and_gradient", spy)
    return seen


@pytest.mark.parametrize("batch_size", [25, 400])
def test_full_batch_draws_nothing(batch_size, generator, batches):
    """One batch with all samples keeps their order and the generator's state."""
    objective, theta = oracles.training_problem(SquaredLoss(), generator, 2)
    descent = Descent(objective, theta, Still(), batch_size, generator)
    state = generator.get_state()
    loss = descent.epoch(0.1)
    assert_close(generator.get_state(), state)
    assert_close(batches, [(objective.X, objective.y, objective.weight)])
    assert_close(loss, objective.value(theta), **EXACT)
    expected = objective.value_and_gradient(theta)[1]
    assert_close(descent.method.gradients, [expected], **EXACT)


@pytest.mark.parametrize(
    ("batch_size", "expected"),
    [(1, [1] * 25), (4, [4] * 5 + [5]), (5, [5] * 5), (7, [7, 7, 7, 4]), (24, [25])],
)
@pytest.mark.parametrize("shuffled", [2**22, 1, 30])
def test_batches_partition(
    batch_size, expected, shuffled, generator, batches, monkeypatch
):
    """Each epoch meets each sample once, with its target and weight, in a new order.

    A single last sample is in the batch before.
    """
    monkeypatch.setattr(_descent, "SHUFFLED", shuffled)
    objective, theta = oracles.training_problem(SquaredLoss(), generator)
    descent = Descent(objective, theta, Still(), batch_size, generator)
    orders = []
    for _ in range(2):
        batches.clear()
        descent.epoch(0.1)
        assert [len(X) for X, _, _ in batches] == expected
        X, y, weight = (torch.cat(parts) for parts in zip(*batches, strict=True))
        order = torch.cdist(X, objective.X).argmin(1)
        assert sorted(order.tolist()) == list(range(25))
        assert_close(X, objective.X[order], rtol=0, atol=0)
        assert_close(y, objective.y[order], rtol=0, atol=0)
        # Those of a whole batch sum to one in the mean.
        assert_close(weight * batch_size / 25, objective.weight[order])
        orders.append(order.tolist())
    assert orders[0] != orders[1] != list(range(25)) != orders[0]


@pytest.mark.parametrize("with_generator", [True, False])
@pytest.mark.parametrize("batch_size", [4, 24])
def test_batch_gradients_are_unbiased(batch_size, with_generator, generator, batches):
    """Weighted by their sizes, the gradients of an epoch sum to the full gradient."""
    objective, theta = oracles.training_problem(PoissonLoss(), generator, 2)
    source = generator if with_generator else None
    descent = Descent(objective, theta, Still(), batch_size, source)
    loss = descent.epoch(0.1)
    if not with_generator:
        assert_close(torch.cat([X for X, _, _ in batches]), objective.X)
    shares = [len(X) / 25 for X, _, _ in batches]
    pairs = zip(shares, descent.method.gradients, strict=True)
    total = sum(share * gradient for share, gradient in pairs)
    value, gradient = objective.value_and_gradient(theta)
    assert_close(total, gradient, **EXACT)
    assert_close(loss, value, **EXACT)


def test_descent_copies_and_moves(generator):
    """The initial parameters are copied, and a moved member has a new state."""
    objective, theta = oracles.training_problem(SquaredLoss(), generator, 2)
    start = theta.clone()
    descent = Descent(objective, theta, Adam(), 25, None)
    for _ in range(3):
        descent.epoch(0.1)
    descent.move(1, start[1])
    for _ in range(3):
        descent.epoch(0.1)
    assert_close(theta, start, rtol=0, atol=0)
    fresh = Descent(objective, theta[1:], Adam(), 25, None)
    for _ in range(3):
        fresh.epoch(0.1)
    assert_close(descent.theta[1:], fresh.theta, **EXACT)


@pytest.mark.parametrize("solver", ["adam", "sgd"])
@pytest.mark.parametrize(("batch_size", "alpha"), [(30, 0.7), (7, 0.0)])
@pytest.mark.parametrize("model", [MLPRegressor, MLPClassifier])
def test_training_equals_scikit_learn(model, solver, batch_size, alpha, seed):
    """Without shuffling, twenty epochs are those of scikit-learn's MLP."""
    rng = np.random.RandomState(seed)
    X = rng.standard_normal((30, 4))
    if model is MLPRegressor:
        y = rng.standard_normal(30)
        loss, weight, widths = SquaredLoss(), 0.5 / 30, [4, 5, 3, 1]
        targets = torch.from_numpy(y)[:, None]
    else:
        y = np.arange(30) % 3
        loss, weight, widths = CrossEntropyLoss(), 1 / 30, [4, 5, 3, 3]
        targets = torch.eye(3, dtype=torch.float64)[y]
    mlp = model(
        hidden_layer_sizes=(5, 3),
        solver=solver,
        alpha=alpha,
        batch_size=batch_size,
        learning_rate_init=0.03,
        max_iter=20,
        shuffle=False,
        random_state=seed,
        n_iter_no_change=100,
    ).fit(X, y)
    program = ChainProgram(widths, [ACTIVATIONS["relu"]] * 2)
    objective = Objective(
        program,
        loss,
        torch.from_numpy(X),
        targets,
        torch.full((30,), weight, dtype=torch.float64),
        program.is_weight().double() * alpha / 60,
    )
    training = train(
        objective,
        uniform_initialization(program, np.random.RandomState(seed), 1),
        Adam(0.9, 0.999) if solver == "adam" else GradientDescent(),
        Schedule(rate=0.03, kind="constant", max_epochs=20, patience=100),
        batch_size=batch_size,
    )
    assert_close(training.theta[0].numpy(), mlp_theta(mlp), rtol=1e-9, atol=1e-9)
    if alpha == 0:
        # scikit-learn adds the penalty from before the epoch.
        assert_close(training.losses[:, 0].numpy(), np.array(mlp.loss_curve_))
