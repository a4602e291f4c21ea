"""The perturbed gradient basis against the theory's examples and at local minima."""

from itertools import pairwise

import numpy as np
import oracles
import pytest
import torch
from oracles import randn, random_chain
from scipy.linalg import subspace_angles
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.neural_network import MLPClassifier, MLPRegressor
from torch import nn
from torch.testing import assert_close

from sklearn_pgb import GradientBasis, PerturbedGradientBasis
from sklearn_pgb._bases._tangent import TangentSpace
from sklearn_pgb._convex._infimum import infimum
from sklearn_pgb._convex._problem import ConvexProblem
from sklearn_pgb._convex._solve import solve
from sklearn_pgb._geometry import _rank
from sklearn_pgb._geometry._displacements import displacements
from sklearn_pgb._geometry._rank import generic_rank, jacobian_rank
from sklearn_pgb._losses._classification import CrossEntropyLoss
from sklearn_pgb._losses._regression import SquaredLoss
from sklearn_pgb._models._activations import ACTIVATIONS
from sklearn_pgb._models._chain import ChainNetwork
from sklearn_pgb._models._module import ModuleNetwork, open_module
from sklearn_pgb._operators._dense import KroneckerOperator
from sklearn_pgb._operators._stacked import StackedOperator
from sklearn_pgb._training._objective import Objective, hessian
from sklearn_pgb._training._polish import polish
from sklearn_pgb._training._program import ChainProgram


def columns(network, X, shifts=()):
    """Partial derivatives at theta and at theta + each shift, side by side."""
    networks = [network, *(network.at(network.theta + shift) for shift in shifts)]
    weight = torch.full((len(X),), 1 / len(X), dtype=X.dtype)
    inputs = [X] * len(networks)
    space = TangentSpace.of(networks, inputs, weight)
    return space.operator(inputs), space.intercept


def least_loss(operator, intercept, y, loss=None):
    """The least mean loss over the span of an operator, and its lower bound."""
    weight = torch.full((len(y),), 1 / len(y), dtype=y.dtype)
    problem = ConvexProblem(
        operator, y, loss or SquaredLoss(), weight, intercept=intercept
    )
    solution = solve(problem, method="primal")
    return solution.data_value, infimum(problem).lower_bound


def gradient_value(network, X, y, shifts=()):
    return least_loss(*columns(network, X, shifts), y)[0]


def found_shifts(network, X, generator, limit=16):
    found = displacements(network, X, generator=generator, limit=limit)
    return [displacement.shift for displacement in found]


def mean_square(network, X, y):
    return float((network(network.theta, X) - y).square().sum(1).mean())


def rank(network, X):
    return jacobian_rank(network, X)


# --- the theory's examples -----------------------------------------------------------


class Residual(nn.Module):
    """``W (x + V z)`` of the inputs (x, z), at W = V = 0."""

    def __init__(self):
        super().__init__()
        self.W, self.V = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))

    def forward(self, X):
        return self.W * (X[:, 0] + self.V * X[:, 1])


RESIDUAL_X = np.array([[1.0, 1.0], [-1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]])
RESIDUAL_Y = RESIDUAL_X[:, 1:]


RESIDUAL = ModuleNetwork(Residual())


def residual_loss(point):
    X = torch.tensor(RESIDUAL_X)
    return (RESIDUAL(point, X) - X[:, 1:]).square().mean()


@pytest.mark.parametrize("size", [0.5, 0.1, 1e-3])
def test_GB_8_saddle(size):
    """At (0, 0) the gradient basis is not better, but a displacement gives zero."""
    network, X = open_module(Residual()), torch.tensor(RESIDUAL_X)
    y = torch.tensor(RESIDUAL_Y)
    assert mean_square(network, X, y) == 1
    assert gradient_value(network, X, y) == 1
    shift = torch.tensor([0.0, size]).double()
    assert gradient_value(network, X, y, [shift]) <= 1e-20


HESSIAN = torch.func.jacrev(torch.func.jacrev(residual_loss))


def test_GB_8_gradient_and_curvature():
    """The gradient vanishes; the Hessian has the eigenvalues 1 +- sqrt 5."""
    zero = torch.zeros(2, dtype=torch.float64)
    assert not torch.func.grad(residual_loss)(zero).any()
    eigenvalues = torch.linalg.eigvalsh(HESSIAN(zero))
    expected = 1 + 5**0.5 * torch.tensor([-1.0, 1.0], dtype=torch.float64)
    assert_close(eigenvalues, expected, rtol=1e-12, atol=0)


def test_GB_8_basis():
    """The basis finds the displacement by itself; the escape has a gradient."""
    basis = PerturbedGradientBasis(Residual(), loss="squared_error", random_state=0)
    basis.fit(RESIDUAL_X)
    assert (basis.rank_, basis.generic_rank_, basis.is_singular_) == (1, 2, True)
    assert basis.perturbation_kinds_ == ["null space of V"]
    assert basis.perturbations_.shape == (1, 2)
    assert basis.perturbations_[0, 0] == 0
    assert abs(basis.perturbations_[0, 1]) > 0.01
    operator = basis.operator(RESIDUAL_X, 1)
    value, bound = least_loss(operator, basis.intercept, torch.tensor(RESIDUAL_Y))
    assert 0 <= bound <= value <= 1e-20
    moved = torch.tensor(basis.perturbations_[0])
    assert residual_loss(moved) == 1
    assert torch.func.grad(residual_loss)(moved).norm() > 0.01


def embedded_unit(w2=0.0, v2=0.0):
    """The best single tanh unit for a sine, with a second one beside it."""
    X = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    program = oracles.program_without_biases([1, 1, 1], "tanh")
    objective = plain_objective(program, X, X.sin())
    w, v = polish(
        objective, torch.tensor([1.16841203, 0.99000204]).double(), gtol=1e-12
    ).theta
    assert abs(float(w) - 1.16841203) <= 1e-7
    network = ChainNetwork.mlp(
        [torch.tensor([[w], [w2]]), torch.tensor([[v, v2]])],
        [None, None],
        [ACTIVATIONS["tanh"]],
    )
    return network, X, X.sin()


def plain_objective(program, X, y):
    """Mean squared error without penalty."""
    weight = torch.full((len(X),), 1 / len(X), dtype=X.dtype)
    return Objective(
        program, SquaredLoss(), X, y, weight, torch.zeros(program.n_params).double()
    )


def test_GB_9_embedded_unit():
    """With two displacements of a second unit without weights, the loss is zero.

    Values by displacing its incoming weight by 0.5, then by 1 too.
    """
    network, X, y = embedded_unit()
    half, one = (torch.tensor([0.0, w, 0.0, 0.0]).double() for w in (0.5, 1.0))
    loss = mean_square(network, X, y)
    assert loss == pytest.approx(0.00233440240783, abs=1e-9)
    assert gradient_value(network, X, y) == pytest.approx(loss, abs=1e-12)
    value = gradient_value(network, X, y, [half])
    assert value == pytest.approx(0.00018090575295, abs=1e-9)
    assert gradient_value(network, X, y, [half, one]) <= 1e-20


def test_GB_9_found():
    """The displacements are found, and two of them suffice."""
    network, X, y = embedded_unit()
    generator = torch.Generator().manual_seed(0)
    found = displacements(network, X, generator=generator, limit=2)
    assert {d.kind for d in found} == {"zero outgoing weights", "null space of inputs"}
    network.weights[0][1] = 0.3
    found = displacements(network, X, generator=generator, limit=2)
    assert [d.kind for d in found] == 2 * ["zero outgoing weights"]
    assert gradient_value(network, X, y, [d.shift for d in found]) <= 1e-15


def test_GB_10_dead_relu(generator):
    """All derivatives of a dead network are zero, so no basis has a smaller loss."""
    network = ChainNetwork.mlp([[[-1.0]], [[0.7]]], [None, None], [ACTIVATIONS["relu"]])
    X = torch.tensor([[1.0], [2.0], [3.0]]).double()
    y = 2 * X - 1
    assert not columns(network, X)[0].dense().any()
    assert jacobian_rank(network, X) == generic_rank(network, X, generator) == 0
    shifts = found_shifts(network, X, generator)
    assert shifts
    for value in (
        mean_square(network, X, y),
        gradient_value(network, X, y),
        gradient_value(network, X, y, shifts),
    ):
        assert value == pytest.approx(35 / 3, rel=1e-15)
    module = nn.Sequential(nn.Linear(1, 1, bias=False), nn.ReLU(), nn.Linear(1, 1))
    module[0].weight.data.fill_(-1)
    basis = PerturbedGradientBasis(module, loss="squared_error").fit(X.numpy())
    # The output bias is all that has a derivative.
    assert (basis.rank_, basis.is_singular_) == (1, False)


def linear_pair(generator, W1, W2):
    X = randn(generator, 10, 3)
    return ChainNetwork.mlp([W1, W2], [None, None], [ACTIVATIONS["identity"]]), X


def union_rank(*networks_and_inputs):
    """Rank of the Jacobians of several networks side by side."""
    blocks = [
        oracles.jacobian(network, X).flatten(0, 1) for network, X in networks_and_inputs
    ]
    return int(torch.linalg.matrix_rank(torch.cat(blocks, 1), rtol=1e-10))


def test_GB_12_symmetry_adds_nothing(generator):
    """W2 G^-1, G W1 are the same function with the same tangent space."""
    W1, W2 = randn(generator, 2, 3), randn(generator, 3, 2)
    G = randn(generator, 2, 2)
    network, X = linear_pair(generator, W1, W2)
    other = network.at(
        torch.cat([(G @ W1).reshape(-1), (W2 @ torch.linalg.inv(G)).reshape(-1)])
    )
    assert_close(other(other.theta, X), network(network.theta, X))
    assert rank(network, X) == rank(other, X) == 8
    assert generic_rank(network, X, generator) == 8
    assert union_rank((network, X), (other, X)) == 8


def test_GB_12_singular(generator):
    """With rank one: ranks 5 and 7, union 7, and 8 nearby."""
    W1, W2 = randn(generator, 2, 3), randn(generator, 3, 2)
    W1[1], W2[:, 1] = 0, 0
    network, X = linear_pair(generator, W1, W2)
    assert (rank(network, X), generic_rank(network, X, generator)) == (5, 8)
    found = displacements(network, X, generator=generator, limit=1)
    assert found[0].kind == "zero outgoing weights"
    assert not found[0].shift[:3].any()
    moved = network.at(network.theta + found[0].shift)
    assert rank(moved, X) == 7
    assert union_rank((network, X), (moved, X)) == 7


def test_GB_12_rescaling_adds_nothing(generator):
    """Rescaled ReLU units have the derivatives of theta, in other units."""
    network = random_chain(generator, [3, 5, 2], "leaky_relu")
    X = randn(generator, 40, 3)
    displacement = displacements(network, X, generator=generator)[-1]
    assert displacement.kind == "rescaled units"
    moved = network.at(network.theta + displacement.shift)
    own = rank(network, X)
    assert own < network.n_params
    assert rank(moved, X) == union_rank((network, X), (moved, X)) == own


def test_GB_13_union(generator):
    """The span for S and S' jointly is the sum of the spans for S and for S'."""
    network, X = random_chain(generator, [2, 5, 1]), randn(generator, 30, 2)
    network.weights[1][:, :3] = 0
    shifts = found_shifts(network, X, generator, limit=5)
    parts = shifts[:2], shifts[2:], shifts
    first, second, union = (
        columns(network, X, part)[0].dense()[:, 0] for part in parts
    )
    size = torch.linalg.matrix_rank
    both = torch.cat([first, second], 1)
    assert size(both, rtol=1e-9) == size(union, rtol=1e-9)
    assert size(union, rtol=1e-9) > max(size(first, rtol=1e-9), size(second, rtol=1e-9))
    assert subspace_angles(both.numpy(), union.numpy())[:10].max() <= 1e-5


# --- the ladder ----------------------------------------------------------------------


def floor(X, y):
    """Pure error of the squared loss: variance within samples of equal inputs."""
    total = 0.0
    for row in X.unique(dim=0):
        group = y[(row == X).all(1)]
        total += float((group - group.mean(0)).square().sum())
    return total / len(y)


@pytest.mark.parametrize("name", ["tanh", "relu", "silu", "identity"])
def test_ladder(name, generator):
    """Anywhere: L >= last layer >= gradient basis >= perturbed one >= pure error."""
    network = random_chain(generator, [2, 4, 3, 2], name)
    network.weights[1][:, 0] = 0
    network.weights[2][:, 1] = 0
    X = randn(generator, 25, 2)[torch.arange(40) % 25]
    y = randn(generator, 40, 2)
    shifts = found_shifts(network, X, generator)
    assert shifts
    last = KroneckerOperator(network.layers(X)[2], 2)
    steps = [
        mean_square(network, X, y),
        least_loss(last, True, y)[0],
        gradient_value(network, X, y),
        gradient_value(network, X, y, shifts),
        floor(X, y),
    ]
    for larger, smaller in pairwise(steps):
        assert larger >= smaller - 1e-10
    assert steps[0] > steps[1] + 1e-3
    if name in ("tanh", "silu"):
        assert steps[2] > steps[3] + 1e-3
    value, bound = least_loss(*columns(network, X, shifts), y)
    # A norm budget of a million costs the bound some of its last digits.
    assert floor(X, y) - 1e-6 <= bound <= value + 1e-10


def local_minimum(generator, width, n_samples=40):
    """A tanh network at a strict local minimum for a noisy teacher, or None."""
    program = ChainProgram([2, width, 1], [ACTIVATIONS["tanh"]])
    X, teacher = randn(generator, n_samples, 2), random_chain(generator, [2, 3, 1])
    y = teacher(teacher.theta, X) + 0.3 * randn(generator, n_samples, 1)
    objective = plain_objective(program, X, y)
    polished = polish(
        objective, randn(generator, program.n_params), gtol=1e-11, max_iter=3000
    )
    theta = polished.theta
    least = torch.linalg.eigvalsh(hessian(objective, theta))[0]
    steepness = objective.value_and_gradient_of_one(theta)[1].norm()
    if steepness > 1e-9 or least < 1e-6 or theta.abs().max() > 1e2:
        return None
    network = random_chain(generator, [2, width, 1]).at(theta)
    return network, X, y


def test_strict_minima(generator):
    """There, last layer, gradient basis and perturbed one agree with the loss."""
    found = [local_minimum(generator, 2) for _ in range(8)]
    found = [minimum for minimum in found if minimum is not None]
    assert found
    for network, X, y in found:
        loss = mean_square(network, X, y)
        assert loss > 0.01
        shifts = found_shifts(network, X, generator)
        last = KroneckerOperator(network.layers(X)[1], 1)
        for value in (
            least_loss(last, True, y)[0],
            gradient_value(network, X, y),
            gradient_value(network, X, y, shifts),
        ):
            assert value == pytest.approx(loss, abs=1e-9)


def test_flat_minimum(generator):
    """A unit split in two is a local minimum along a line; no basis is better there.

    The line of equal outputs leaves the local minima for saddles (Fukumizu and Amari):
    displacements as long as the weights reach these, and still must find nothing.
    """
    one, X, y = embedded_unit()
    w, v = one.weights[0][0, 0], one.weights[1][0, 0]
    program = oracles.program_without_biases([1, 2, 1], "tanh")
    objective = plain_objective(program, X, y)
    thetas = [torch.stack([w, w, v * (1 - share), v * share]) for share in (0.4, 1.4)]
    least = [float(torch.linalg.eigvalsh(hessian(objective, t))[0]) for t in thetas]
    # One of the two splits is a minimum, flat along the line, the other a saddle.
    assert min(least) < -1e-3
    assert abs(max(least)) <= 1e-9
    theta = thetas[int(np.argmax(least))]
    network = one.at(theta)
    found = displacements(network, X, generator=generator, limit=12)
    assert {d.kind for d in found} == {"null space of inputs"}
    # Far enough to leave the part of the line between the two units' own ends.
    assert max(float(d.shift.abs().max()) for d in found) > 0.6 * float(v)
    assert rank(network, X) < generic_rank(network, X, generator)
    loss = mean_square(network, X, y)
    value = gradient_value(network, X, y, [d.shift for d in found])
    assert value == pytest.approx(loss, abs=1e-10)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_never_below_a_minimum_with_free_units(activation, generator):
    """At a global minimum with unused units, no displacement has a smaller loss."""
    network = random_chain(generator, [2, 6, 4, 1], activation)
    network.weights[1][:, :2] = 0
    network.weights[2][:, 0] = 0
    X = randn(generator, 15, 2)[torch.arange(30) % 15]
    # Two targets around each output: the loss is the pure error.
    noise = randn(generator, 15, 1)
    y = network(network.theta, X) + torch.cat([noise, -noise])
    loss = mean_square(network, X, y)
    assert loss == pytest.approx(floor(X, y), rel=1e-12)
    shifts = found_shifts(network, X, generator)
    assert shifts
    assert gradient_value(network, X, y, shifts) == pytest.approx(loss, rel=1e-10)


# --- the estimator's conventions -----------------------------------------------------


def idle_network(X, y, kind=MLPRegressor, width=5):
    """A trained network with two units of zero outgoing weights."""
    network = kind(
        hidden_layer_sizes=(width,), activation="tanh", max_iter=20, random_state=0
    ).fit(X, y)
    network.coefs_[1][:2] = 0
    return network


@pytest.fixture
def data(seed):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((30, 3)), rng.standard_normal(30)


def test_basis(data):
    """Jacobians side by side, at parameters of equal outputs, new columns each."""
    X, y = data
    network = idle_network(X, y)
    basis = PerturbedGradientBasis(
        FrozenEstimator(network), n_perturbations=3, random_state=0
    ).fit(X, y)
    assert basis.is_singular_
    assert basis.rank_ < basis.generic_rank_
    assert basis.perturbation_kinds_ == 3 * ["zero outgoing weights"]
    own = basis.network_.network
    assert basis.perturbations_.shape == (3, own.n_params)
    inputs = torch.tensor(X)
    size = None
    for stop in range(4):
        J = [own, *(own.at(own.theta + torch.tensor(v)) for v in basis.perturbations_)]
        now = union_rank(*((network, inputs) for network in J[: stop + 1]))
        assert size is None or now > size
        size = now
    for moved in J:
        assert_close(moved(moved.theta, inputs), own(own.theta, inputs))

    new = np.random.default_rng(9).standard_normal((4, 3))
    operator = basis.operator(new, 1)
    assert isinstance(operator, StackedOperator)
    assert basis.intercept
    expected = [
        scale * oracles.jacobian(network, torch.tensor(new))[..., :-1]
        for scale, network in zip(basis.space_.scales, J, strict=True)
    ]
    assert_close(operator.dense(), torch.cat(expected, -1))
    same = clone(basis).fit(X, y)
    assert_close(same.perturbations_, basis.perturbations_, rtol=0, atol=0)
    other = clone(basis).set_params(random_state=1).fit(X, y)
    assert not np.array_equal(other.perturbations_, basis.perturbations_)


def test_constant_rank_is_the_gradient_basis(data):
    """If the point is not singular, the columns are those of the gradient basis."""
    X, y = data
    network = MLPRegressor(hidden_layer_sizes=(4,), max_iter=20, random_state=0)
    basis = PerturbedGradientBasis(network).fit(X, y)
    assert basis.rank_ == basis.generic_rank_
    assert basis.is_singular_ is False
    assert basis.perturbations_.shape == (0, basis.network_.network.n_params)
    assert basis.perturbation_kinds_ == []
    plain = GradientBasis(network).fit(X, y)
    assert_close(basis.operator(X, 1).dense(), plain.operator(X, 1).dense())


def test_full_rank_is_not_compared(data, monkeypatch):
    """A full rank is not compared with that of parameters nearby."""
    from sklearn_pgb._bases import _perturbed

    X, y = data
    monkeypatch.setattr(_perturbed, "generic_rank", None)
    network = MLPRegressor(
        hidden_layer_sizes=(40,), activation="tanh", max_iter=20, random_state=0
    )
    basis = PerturbedGradientBasis(network).fit(X, y)
    assert (basis.rank_, basis.generic_rank_, basis.is_singular_) == (30, 30, False)


def test_number_of_perturbations(data):
    """At most the given number, and only those that add columns."""
    X, y = data
    network = FrozenEstimator(idle_network(X, y))
    sizes = [
        len(
            PerturbedGradientBasis(network, n_perturbations=n, random_state=0)
            .fit(X)
            .perturbations_
        )
        for n in (0, 1, 40)
    ]
    assert sizes[:2] == [0, 1]
    # 30 rows are filled long before.
    assert 1 < sizes[2] < 10


def test_classifier(data):
    """Several outputs and another loss: displacements lower the value there too."""
    X, y = data
    labels = np.digitize(y, [-0.5, 0.5])
    network = idle_network(X, labels, MLPClassifier)
    plain = GradientBasis(FrozenEstimator(network)).fit(X)
    basis = PerturbedGradientBasis(FrozenEstimator(network), random_state=0).fit(X)
    loss = CrossEntropyLoss(label_smoothing=0.1)
    targets = loss.encode(torch.eye(3, dtype=torch.float64)[torch.tensor(labels)])
    values = [
        least_loss(each.operator(X, 3), each.intercept, targets, loss)
        for each in (plain, basis)
    ]
    assert values[1][0] < values[0][0] - 1e-3
    assert values[1][1] <= values[1][0] + 1e-8


def test_large_jacobian_is_not_perturbed(monkeypatch):
    """If the rank is unknown, singularity is unknown and nothing is displaced."""
    monkeypatch.setattr(_rank, "RANK_ENTRIES", 1)
    basis = PerturbedGradientBasis(Residual(), loss="squared_error").fit(RESIDUAL_X)
    assert (basis.rank_, basis.generic_rank_, basis.is_singular_) == (None, None, None)
    assert basis.perturbations_.shape == (0, 2)
    assert basis.perturbation_kinds_ == []


def test_errors(data):
    """The errors are those of the gradient basis."""
    X, y = data
    basis = PerturbedGradientBasis(FrozenEstimator(idle_network(X, y)))
    with pytest.raises(NotFittedError):
        basis.operator(X, 1)
    with pytest.raises(ValueError, match="n_outputs must be 1, the network's, got 2"):
        basis.fit(X, y).operator(X, 2)
    with pytest.raises(ValueError, match="loss must be given with a torch module"):
        PerturbedGradientBasis(Residual()).fit(X)


def test_seed_reaches_an_estimator_without_one(data):
    X, y = data
    network = MLPRegressor(hidden_layer_sizes=(2,), solver="lbfgs", max_iter=20)
    fitted = [PerturbedGradientBasis(network, random_state=3).fit(X, y) for _ in "ab"]
    first, second = (basis.network_.network.theta for basis in fitted)
    assert_close(first, second, rtol=0, atol=0)
    assert network.random_state is None
