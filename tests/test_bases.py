"""Bases against their theorems, against scikit-learn and against autograd."""

import numpy as np
import oracles
import pytest
import torch
from numpy.testing import assert_allclose
from oracles import randn, random_chain
from scipy import sparse
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.kernel_approximation import Nystroem
from sklearn.linear_model import Ridge
from sklearn.neighbors import KNeighborsRegressor
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, PolynomialFeatures, StandardScaler
from torch import nn
from torch.testing import assert_close

from sklearn_pgb import FeatureBasis, GradientBasis, InputBasis, LayerBasis
from sklearn_pgb._bases._tangent import TangentSpace, mean_raw, tangent_raw
from sklearn_pgb._convex._infimum import infimum
from sklearn_pgb._convex._problem import ConvexProblem
from sklearn_pgb._convex._solve import solve
from sklearn_pgb._losses._classification import (
    CrossEntropyLoss,
    LogisticLoss,
    SmoothedHingeLoss,
)
from sklearn_pgb._losses._regression import SquaredLoss
from sklearn_pgb._models._activations import ACTIVATIONS
from sklearn_pgb._models._chain import ChainNetwork
from sklearn_pgb._models._module import ModuleNetwork
from sklearn_pgb._operators._chain import ChainOperator
from sklearn_pgb._operators._dense import KroneckerOperator
from sklearn_pgb._operators._function import FunctionOperator
from sklearn_pgb._operators._operator import LinearOperator

EXACT = {"rtol": 1e-12, "atol": 1e-12}


@pytest.fixture
def X(seed):
    return np.random.default_rng(seed).standard_normal((30, 4))


@pytest.fixture
def y(seed):
    return np.random.default_rng(seed + 1).standard_normal((30, 2))


def random_module(generator):
    """A net of four inputs and two outputs, with a layer that chains do not have."""
    module = nn.Sequential(
        nn.Unflatten(1, (1, 4)), nn.Conv1d(1, 3, 2), nn.Softsign(), nn.Flatten()
    )
    module.append(nn.Linear(9, 2)).to(torch.float64)
    for parameter in module.parameters():
        parameter.data = randn(generator, *parameter.shape)
    return ModuleNetwork(module)


def refit(operator, y, weight, intercept=False):
    """The best squared loss over the span of the operator."""
    problem = ConvexProblem(
        operator, y, SquaredLoss(), weight, alpha=0.0, intercept=intercept
    )
    return solve(problem, method="primal")


# --- theorems ------------------------------------------------------------------------


def training_data(generator):
    """A tanh network, 30 rows of three inputs, noise of two outputs, weights."""
    network = random_chain(generator, [3, 4, 2])
    X, noise = randn(generator, 30, 3), randn(generator, 30, 2)
    return network, X, noise, oracles.random_weight(30, generator)


def test_GB_2_critical_point(generator):
    """At a critical point, no model on the basis or the last layer is better."""
    network, X, noise, weight = training_data(generator)
    y = oracles.critical_targets(network, X, weight, noise)
    gradient = torch.func.grad(
        lambda theta: oracles.training_loss(network, X, y, weight, theta)
    )(network.theta)
    assert gradient.norm() <= 1e-11
    raw = network(network.theta, X)
    loss = float(oracles.training_loss(network, X, y, weight, network.theta))
    assert loss > 0.1

    bias = network.find_head(X).bias
    for operator, intercept in [
        (network.jacobian(X), False),
        (network.jacobian(X, without=bias), True),
        (KroneckerOperator(network.layers(X)[1], 2), True),
    ]:
        best = refit(operator, y, weight, intercept)
        assert loss - best.data_value == pytest.approx(0.0, abs=1e-10)
        # f_X = P[J] y in the weights.
        assert_close(raw, best.raw, rtol=0, atol=1e-10)


def test_GB_3_any_point(generator):
    """At any point the gap is ``<gradient, g - c> / 2`` at the best coefficients c."""
    network, X, y, weight = training_data(generator)
    theta = network.theta
    loss = oracles.training_loss(network, X, y, weight, theta)
    gradient = torch.func.grad(
        lambda theta: oracles.training_loss(network, X, y, weight, theta)
    )(theta)
    best = refit(network.jacobian(X), y, weight)
    gap = float(loss) - best.data_value
    assert gap > 0.01
    product = gradient @ (network.find_head(X).span_coef - best.coef)
    assert gap == pytest.approx(0.5 * float(product), rel=1e-8)
    # The gradient of the training loss is the adjoint's product with the residual.
    residual = weight[:, None] * SquaredLoss().gradient(y, network(theta, X))
    assert_close(network.jacobian(X).rmatvec(residual), gradient, **EXACT)

    # Predictions are directional derivatives.
    expected = oracles.jacobian(network, X) @ best.coef
    assert_close(tangent_raw([network], [X], best.coef), expected, **EXACT)
    step = 1e-6 * best.coef / best.coef.norm()
    difference = network(theta + step, X) - network(theta - step, X)
    slope = difference / 2e-6 * best.coef.norm()
    assert_close(slope, expected, rtol=1e-5, atol=1e-5)


def test_GB_4_linear_model(generator):
    """A linear model's basis is its features, and its refit is least squares."""
    X, y = randn(generator, 20, 4), randn(generator, 20, 2)
    weight = oracles.random_weight(20, generator)
    features = np.stack([np.kron(row, np.eye(2)) for row in X.numpy()[:, None]])
    # Theta holds the weights output by output, the features' columns sample by sample.
    columns = np.arange(8).reshape(4, 2).T.reshape(-1)
    for _ in range(2):
        network = random_chain(generator, [4, 2], bias=False)
        assert_allclose(network.jacobian(X).dense().numpy(), features[..., columns])
        best = refit(network.jacobian(X), y, weight)
        root = np.sqrt(weight.numpy())[:, None]
        coef = np.linalg.lstsq(root * X.numpy(), root * y.numpy())[0]
        assert_allclose(best.coef.reshape(2, 4).T.numpy(), coef, atol=1e-12)
        assert_allclose(best.raw.numpy(), X.numpy() @ coef, atol=1e-12)


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("n_outputs", [1, 3])
def test_GB_5_saturated(depth, n_outputs, generator):
    """If one unit is active for each sample, the rank is full and the loss minimal."""
    X = randn(generator, 6, 3)
    X /= X.norm(dim=1, keepdim=True)
    weights, biases = oracles.saturated_relu(X, width=8, depth=depth)
    head = randn(generator, n_outputs, 8)
    relu = ACTIVATIONS["relu"]
    network = ChainNetwork.mlp([*weights, head], [*biases, None], [relu] * depth)
    operator = network.jacobian(X)
    weight = oracles.random_weight(6, generator)
    losses = [SquaredLoss(), LogisticLoss(), SmoothedHingeLoss()]
    if n_outputs > 1:
        losses += [CrossEntropyLoss(), CrossEntropyLoss(label_smoothing=0.1)]
    for loss in losses:
        y = oracles.random_targets(loss, 6, generator, n_outputs)
        problem = ConvexProblem(operator, y, loss, weight, 0.0, intercept=False)
        bound = infimum(problem)
        least = float(weight @ loss.minimum(y))
        assert bound.rank == 6 * n_outputs
        assert bound.lower_bound == pytest.approx(least, abs=1e-12)
        solution = solve(problem, method="primal")
        assert solution.value == pytest.approx(least, abs=1e-8)


# --- tangent spaces ------------------------------------------------------------------


def make_networks(kind, generator):
    return {
        "chain": [random_chain(generator, [4, 5, 2])],
        "chains": [random_chain(generator, [4, n, 2]) for n in (5, 5, 3)],
        "module": [random_module(generator)],
        "mixed": [random_module(generator), random_chain(generator, [4, 6, 3, 2])],
        "no bias": [random_chain(generator, [4, 5, 2], bias=False)],
        "some bias": [
            random_chain(generator, [4, 5, 2]),
            random_chain(generator, [4, 5, 2], bias=False),
        ],
    }[kind]


KINDS = ["chain", "chains", "module", "mixed", "no bias", "some bias"]
all_kinds = pytest.mark.parametrize("kind", KINDS)


@pytest.mark.parametrize("without_bias", [True, False])
@pytest.mark.parametrize("make", [random_module, lambda g: random_chain(g, [4, 3, 2])])
def test_jacobian(make, without_bias, generator):
    """The operator equals the dense Jacobian, without the output bias."""
    network, X = make(generator), randn(generator, 6, 4)
    bias = network.find_head(X).bias
    assert bias.stop - bias.start == 2
    operator = network.jacobian(X, without=bias if without_bias else None)
    chain = isinstance(network, ChainNetwork)
    assert type(operator) is (ChainOperator if chain else FunctionOperator)
    J = oracles.jacobian(network, X)
    expected = J[..., : bias.start] if without_bias else J
    if without_bias and bias.stop < network.n_params:
        expected = torch.cat([J[..., : bias.start], J[..., bias.stop :]], -1)
    assert_close(operator.dense(), expected, **EXACT)


@all_kinds
def test_tangent_space(kind, generator):
    """The kernel of the scaled columns is the mean of the networks' kernels."""
    networks = make_networks(kind, generator)
    inputs = [randn(generator, 12, 4) for _ in networks]
    weight = oracles.random_weight(12, generator)
    space = TangentSpace.of(networks, inputs, weight)
    operator = space.operator(inputs)
    size = (weight @ operator.squared_row_norms()).mean()
    assert_close(size, torch.ones_like(size), **EXACT)

    kernels = []
    for network, X in zip(networks, inputs, strict=True):
        J = oracles.jacobian(network, X)
        if space.intercept:
            bias = network.find_head(X).bias
            J = torch.cat([J[..., : bias.start], J[..., bias.stop :]], -1)
        norms = J.square().sum(-1)
        flat = J.flatten(0, 1)
        kernels.append(flat @ flat.T / (weight @ norms).mean())
    assert_close(operator.gram(), torch.stack(kernels).mean(0), **EXACT)

    # Known scales give the same space, on any rows.
    again = TangentSpace.with_scales(networks, [X[:3] for X in inputs], space.scales)
    rows = [X[5:] for X in inputs]
    assert_close(again.operator(rows).dense(), operator.dense()[5:], **EXACT)


@all_kinds
@pytest.mark.parametrize("add_mean", [True, False])
def test_parameters(kind, add_mean, generator):
    """Coefficients become one parameter vector, whose J c is the same prediction."""
    networks = make_networks(kind, generator)
    inputs = [randn(generator, 12, 4) for _ in networks]
    space = TangentSpace.of(networks, inputs, oracles.random_weight(12, generator))
    assert space.intercept == (kind not in ("no bias", "some bias"))
    assert space.spans_networks
    operator = space.operator(inputs)
    coef = randn(generator, operator.n_coef)
    intercept = space.intercept * randn(generator, 2)
    raw = operator.matvec(coef) + intercept
    if add_mean:
        raw = raw + mean_raw(networks, inputs)

    parameters = space.parameters(coef, intercept, add_mean)
    sizes = [network.n_params for network in networks]
    assert parameters.shape == (sum(sizes),)
    expected = sum(
        oracles.jacobian(network, X) @ part
        for network, X, part in zip(
            networks, inputs, parameters.split(sizes), strict=True
        )
    )
    assert_close(expected, raw, **EXACT)
    assert_close(tangent_raw(networks, inputs, parameters), raw, **EXACT)
    assert_close(space.raw(inputs, parameters), raw, **EXACT)


def test_mean_raw(generator):
    """The mean of the networks' outputs, each on its own inputs."""
    networks = make_networks("mixed", generator)
    inputs = [randn(generator, 5, 4) for _ in networks]
    first, second = (n(n.theta, X) for n, X in zip(networks, inputs, strict=True))
    assert_close(mean_raw(networks, inputs), (first + second) / 2, **EXACT)


def test_space_without_influence(generator):
    """Columns of zeros are not scaled; the intercept remains."""
    network = ChainNetwork.mlp([torch.zeros(2, 4)], [torch.zeros(2)], [])
    X = torch.zeros(5, 4, dtype=torch.float64)
    space = TangentSpace.of([network], [X], torch.full((5,), 0.2).double())
    assert space.scales == (1.0,)
    assert not space.operator([X]).dense().any()
    intercept = randn(generator, 2)
    parameters = space.parameters(torch.zeros(8).double(), intercept, add_mean=False)
    assert_close(tangent_raw([network], [X], parameters), intercept.expand(5, 2))


def test_space_without_span():
    """A network with an activation on its outputs need not be in its own span."""
    module = nn.Sequential(nn.Linear(4, 2), nn.Tanh()).to(torch.float64)
    X = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(3, 4)
    weight = torch.full((3,), 1 / 3, dtype=torch.float64)
    space = TangentSpace.of([ModuleNetwork(module)], [X], weight)
    assert not space.spans_networks
    assert not space.intercept
    # So the network is added to a model on the derivatives.
    parameters = torch.ones(10, dtype=torch.float64)
    network = space.networks[0]
    raw = network.jacobian(X).matvec(parameters) + network(network.theta, X)
    assert_close(space.raw([X], parameters), raw)
    assert_close(space.raw([X], parameters, mean_raw([network], [X])), raw)


# --- handcrafted bases ---------------------------------------------------------------


def ridge_predictions(basis, X, y, alpha):
    """Predictions of ridge regression on the basis, by the package's solver."""
    targets = torch.tensor(y)
    weight = torch.full((len(y),), 1 / len(y), dtype=torch.float64)
    problem = ConvexProblem(
        basis.operator(X, y.shape[1]),
        targets,
        SquaredLoss(),
        weight,
        2 * alpha / len(y),
        basis.intercept,
    )
    return solve(problem).raw.numpy()


@pytest.mark.parametrize("fit_intercept", [True, False])
def test_input_basis(fit_intercept, X, y):
    """The model on the inputs is ridge regression, separately for each output."""
    basis = InputBasis(fit_intercept=fit_intercept).fit(X, y)
    assert basis.intercept is fit_intercept
    expected = np.stack([np.kron(row, np.eye(2)) for row in X[:, None]])
    assert_allclose(basis.operator(X, 2).dense().numpy(), expected, rtol=0, atol=0)
    model = Ridge(alpha=0.7, fit_intercept=fit_intercept).fit(X, y)
    actual = ridge_predictions(basis, X, y, 0.7)
    assert_allclose(actual, model.predict(X), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(
    "transformer",
    [
        PolynomialFeatures(2, include_bias=False),
        make_pipeline(StandardScaler(), Nystroem(n_components=10, random_state=0)),
    ],
    ids=["polynomial", "pipeline"],
)
@pytest.mark.parametrize("fit_intercept", [True, False])
def test_feature_basis(transformer, fit_intercept, X, y):
    """The model on the features is a pipeline of the transformer and Ridge."""
    basis = FeatureBasis(transformer, fit_intercept=fit_intercept).fit(X, y)
    assert basis.intercept is fit_intercept
    # The transformer is cloned, and fitted on X alone.
    assert basis.transformer_ is not transformer
    ridge = Ridge(alpha=0.7, fit_intercept=fit_intercept)
    model = make_pipeline(clone(transformer), ridge).fit(X, y)
    actual = ridge_predictions(basis, X, y, 0.7)
    assert_allclose(actual, model.predict(X), rtol=1e-8, atol=1e-9)
    new = X[:5] + 1
    features = basis.operator(new, 1).dense()[:, 0].numpy()
    assert_allclose(features, model[:-1].transform(new), rtol=0, atol=0)


def test_sparse_features(X):
    """Sparse inputs and sparse columns are those of the dense arrays."""
    labels = np.array([["a"], ["b"], ["c"], ["a"]])
    basis = FeatureBasis(OneHotEncoder()).fit(labels)
    assert sparse.issparse(basis.transformer_.transform(labels))
    expected = np.eye(3)[[0, 1, 2, 0]]
    assert_allclose(basis.operator(labels, 1).dense()[:, 0].numpy(), expected)
    for convert in [sparse.csr_array, sparse.csc_array, sparse.coo_array]:
        features = InputBasis().fit(X).operator(convert(X), 1).dense()[:, 0]
        assert_allclose(features.numpy(), X)


def test_frozen_transformer(X):
    """A frozen transformer is not fitted again."""
    scaler = StandardScaler().fit(10 * X)
    basis = FeatureBasis(FrozenEstimator(scaler)).fit(X)
    features = basis.operator(X, 1).dense()[:, 0].numpy()
    assert_allclose(features, scaler.transform(X))


@pytest.mark.parametrize(
    "basis",
    [
        FeatureBasis(StandardScaler()),
        LayerBasis(MLPRegressor()),
        GradientBasis(MLPRegressor()),
    ],
    ids=lambda basis: type(basis).__name__,
)
def test_not_fitted(basis, X):
    """Bases with fitted parts raise NotFittedError."""
    with pytest.raises(NotFittedError, match=f"{type(basis).__name__} instance is not"):
        basis.operator(X, 1)


def test_input_errors(X):
    """Inputs that are not finite matrices are refused."""
    basis = InputBasis().fit(X)
    with pytest.raises(ValueError, match="Expected 2D array, got 1D array"):
        basis.operator(X[0], 1)
    broken = X.copy()
    broken[0, 0] = np.nan
    with pytest.raises(ValueError, match="Input contains NaN"):
        basis.operator(broken, 1)


# --- bases of networks ---------------------------------------------------------------


def small_mlp(**options):
    options = {
        "hidden_layer_sizes": (6, 5),
        "max_iter": 5,
        "random_state": 0,
        **options,
    }
    return MLPRegressor(activation="tanh", **options)


@pytest.mark.parametrize("layer", [0, 1, -1, -2])
def test_layer_basis(layer, X, y):
    """A hidden layer's outputs, computed from scikit-learn's weights."""
    mlp = small_mlp()
    basis = LayerBasis(mlp, layer=layer, fit_intercept=False).fit(X, y)
    assert basis.intercept is False
    assert LayerBasis(mlp).intercept is True
    assert not hasattr(mlp, "coefs_")
    trained = clone(mlp).fit(X, y)
    hidden = [X]
    for coef, intercept in zip(trained.coefs_, trained.intercepts_, strict=True):
        hidden.append(np.tanh(hidden[-1] @ coef + intercept))
    expected = hidden[1:3][layer]
    operator = basis.operator(X, 2)
    assert isinstance(operator, KroneckerOperator)
    assert operator.n_coef == 2 * expected.shape[1]
    assert_allclose(operator.features.numpy(), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("layer", [2, -3])
def test_layer_errors(layer, X, y):
    """The error names the number of hidden layers."""
    basis = LayerBasis(small_mlp(), layer=layer).fit(X, y)
    message = f"layer must be .* one of the 2 hidden layers, got {layer}. Change it "
    with pytest.raises(ValueError, match=message):
        basis.operator(X, 2)


def test_layers_of_modules(X, generator):
    """A Sequential has hidden layers; a module that is not a chain has none."""
    module = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1))
    basis = LayerBasis(module, loss="squared_error").fit(X)
    with torch.no_grad():
        expected = module.double()[:2](torch.tensor(X))
    assert_close(basis.operator(X, 1).features, expected, **EXACT)
    opaque = nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 1))
    basis = LayerBasis(opaque, loss="squared_error").fit(X)
    match = "one of the 0 hidden layers, got -1. Change it or hidden_layer_sizes"
    with pytest.raises(ValueError, match=match):
        basis.operator(X, 1)


def test_gradient_basis(X, y):
    """The basis is the scaled Jacobian of the trained clone, without output bias."""
    mlp = small_mlp()
    basis = GradientBasis(mlp).fit(X, y)
    assert basis.intercept
    assert not hasattr(mlp, "coefs_")
    network = basis.network_.network
    raw = network(network.theta, torch.tensor(X))
    assert_allclose(
        raw.numpy(), clone(mlp).fit(X, y).predict(X), rtol=1e-12, atol=1e-12
    )
    J = oracles.jacobian(network, torch.tensor(X))[..., :-2]
    scaled = J / J.square().sum(-1).mean().sqrt()
    assert_close(basis.operator(X, 2).dense(), scaled, **EXACT)
    new = 2 * X[:4] - 1
    J = oracles.jacobian(network, torch.tensor(new))[..., :-2]
    (scale,) = basis.space_.scales
    assert_close(basis.operator(new, 2).dense(), scale * J, **EXACT)


def test_gradient_basis_outputs(X, y):
    """Another number of outputs than the network's is refused."""
    basis = GradientBasis(small_mlp()).fit(X, y)
    message = "n_outputs must be 2, the network's, got 3. Train a network on these"
    with pytest.raises(ValueError, match=message):
        basis.operator(X, 3)


@pytest.mark.parametrize("make", [LayerBasis, GradientBasis])
def test_frozen_network(make, X, y):
    """A frozen network is not trained again, whatever data `fit` gets."""
    trained = small_mlp().fit(X, y)
    frozen = make(FrozenEstimator(trained)).fit(X[:10])
    with torch.no_grad():
        weights = frozen.network_.network.weights[0].numpy()
    assert_allclose(weights, trained.coefs_[0].T, rtol=0, atol=0)
    pipeline = make_pipeline(StandardScaler(), small_mlp())
    whole = make(pipeline).fit(X, y)
    parts = make(FrozenEstimator(clone(pipeline).fit(X, y))).fit(X)
    assert_close(whole.operator(X, 2).dense(), parts.operator(X, 2).dense(), **EXACT)


@pytest.mark.parametrize("make", [LayerBasis, GradientBasis])
def test_modules_need_a_loss(make, X):
    """A module does not know its training loss."""
    with pytest.raises(ValueError, match="loss must be given with a torch module"):
        make(nn.Linear(4, 1)).fit(X)


def test_basis_of_classifier(X):
    """The basis of a classifier has the derivatives of one raw output per class."""
    labels = np.arange(30) % 3
    mlp = MLPClassifier((5,), max_iter=5, random_state=0)
    basis = GradientBasis(mlp).fit(X, labels)
    assert basis.operator(X, 3).n_outputs == 3
    assert LayerBasis(mlp).fit(X, labels).operator(X, 3).n_coef == 15


@pytest.mark.parametrize(
    "basis",
    [
        InputBasis(fit_intercept=False),
        FeatureBasis(StandardScaler(), fit_intercept=False),
        LayerBasis(small_mlp(), layer=0),
        GradientBasis(small_mlp()),
    ],
    ids=lambda basis: type(basis).__name__,
)
def test_clone(basis, X, y):
    """A clone has the parameters, and fits to the same operator."""
    again = clone(basis)
    assert repr(again) == repr(basis)
    first = basis.fit(X, y).operator(X, 2)
    assert isinstance(first, LinearOperator)
    second = again.fit(X, y).operator(X, 2)
    assert_close(first.dense(), second.dense(), rtol=0, atol=0)


@pytest.mark.parametrize("n_outputs", ["1", b"x", [], {0: 1.0}, 0, True, 1.5, 2**63])
def test_number_of_outputs_must_be_a_count(n_outputs):
    X = np.arange(6.0).reshape(3, 2)
    with pytest.raises(ValueError, match="n_outputs must be an integer from 1 to"):
        InputBasis().fit(X).operator(X, n_outputs)


def test_transformer_must_transform():
    with pytest.raises(TypeError, match=r"transformer must be .*, got Ridge"):
        FeatureBasis(Ridge()).fit(np.eye(3), np.ones(3))


@pytest.mark.parametrize("make", [LayerBasis, GradientBasis])
def test_estimators_that_are_no_networks_are_not_trained(make, X, y):
    class Untrainable(KNeighborsRegressor):
        def fit(self, X, y):
            raise AssertionError

    match = "estimator must be a network of this package, an MLPRegressor"
    with pytest.raises(TypeError, match=match):
        make(Untrainable()).fit(X, y)
