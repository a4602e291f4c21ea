"""Networks at points of known kind, for the tests of certificates."""

from functools import partial

import numpy as np
import torch
from sklearn.neural_network import MLPRegressor
from torch import nn

from sklearn_pgb._losses._regression import SquaredLoss
from sklearn_pgb._models._chain import ChainNetwork
from sklearn_pgb._models._network import as_float64
from sklearn_pgb._models._open import open_network
from sklearn_pgb._training._objective import Objective
from sklearn_pgb._training._polish import polish
from sklearn_pgb._training._program import NetworkProgram


def chain_module(weights, activation=nn.Tanh, biases=None):
    """A Sequential with these weights, and biases if they are given."""
    layers = []
    for number, weight in enumerate(weights):
        weight = torch.as_tensor(weight, dtype=torch.float64)
        bias = None if biases is None else torch.as_tensor(biases[number])
        layer = nn.Linear(*weight.T.shape, bias=bias is not None, dtype=torch.float64)
        layer.weight.data = weight
        if bias is not None:
            layer.bias.data = bias.double()
        layers += [layer, activation()]
    return nn.Sequential(*layers[:-1])


class ScalarResNet(nn.Module):
    """W (x + V z) with numbers W and V; the columns of X are x and z."""

    def __init__(self, W, V):
        super().__init__()
        self.V = nn.Parameter(torch.tensor([[V]], dtype=torch.float64))
        self.W = nn.Parameter(torch.tensor([[W]], dtype=torch.float64))

    def forward(self, X):
        return (X[:, :1] + X[:, 1:] @ self.V.T) @ self.W.T


def saddle():
    """GB-8: the gradient is zero, and the gradient basis has no smaller loss."""
    x, z = np.array([1.0, -1, 1, -1]), np.array([1.0, 1, -1, -1])
    return ScalarResNet(0.0, 0.0), np.column_stack([x, z]), z


def embedded_unit():
    """GB-9: the best network of one unit, and a second unit without effect."""
    x = np.linspace(-2, 2, 9)[:, None]
    y = np.sin(x[:, 0])
    one = chain_module([[[1.16841203]], [[0.99000204]]])
    found = polished(one, x, y)
    w, v = found.weights[0].item(), found.weights[1].item()
    return chain_module([[[w], [0.0]], [[v, 0.0]]]), x, y


def dead_relu():
    """A unit that is zero on all samples, without biases: all derivatives are zero."""
    X = np.array([[1.0], [2.0], [3.0]])
    return chain_module([[[-1.0]], [[0.7]]], nn.ReLU), X, 2 * X[:, 0] - 1


def objective_of(network, X, y, penalty=None, weight=None, loss=None):
    """A chain's training objective; without weights, of the plain mean."""
    loss = loss or SquaredLoss()
    X, y = as_float64(X), as_float64(y).reshape(len(X), -1)
    share = np.full(len(X), 1.0) if weight is None else np.asarray(weight, float)
    none = torch.zeros(network.n_params, dtype=torch.float64)
    return Objective(
        NetworkProgram(network),
        loss,
        X,
        loss.encode(y),
        as_float64(share / share.sum()),
        none if penalty is None else as_float64(penalty),
    )


def polished(module, X, y, penalty=None, weight=None):
    """The chain of a module at a critical point near its parameters."""
    network = open_network(module, loss=SquaredLoss()).network
    assert isinstance(network, ChainNetwork)
    objective = objective_of(network, X, y, penalty, weight)
    found = polish(objective, network.theta, gtol=1e-13, max_iter=5000)
    return network.at(found.theta)


def put(mlp, network):
    """Set the parameters of an MLPRegressor or MLPClassifier to those of a chain."""
    mlp.coefs_ = [weight.T.numpy().copy() for weight in network.weights]
    mlp.intercepts_ = [bias.numpy().copy() for bias in network.biases]
    return mlp


def polished_mlp(mlp, X, y, penalty, weight=None):
    """Fit, then polish to a critical point of the objective with this penalty."""
    mlp.fit(X, y, weight)
    opened = open_network(mlp)
    loss = opened.loss
    targets = opened.targets(y)
    network = opened.network
    share = np.full(len(X), 1.0) if weight is None else np.asarray(weight, float)
    objective = Objective(
        NetworkProgram(network),
        loss,
        opened.inputs(X),
        targets,
        as_float64(share / share.sum()),
        as_float64(penalty(network)),
    )
    found = polish(objective, network.theta, gtol=1e-13, max_iter=20000)
    return put(mlp, network.at(found.theta))


def on_weights(network, strength):
    """The same penalty on each weight, none on biases."""
    parts = []
    for weight, bias in zip(network.weights, network.biases, strict=True):
        parts += [np.full(weight.numel(), strength), np.zeros(len(bias))]
    return np.concatenate(parts)


def sklearn_gradient(mlp, X, y, weight=None):
    """Gradient of scikit-learn's own objective at an MLP's parameters."""
    y = np.asarray(y).reshape(len(X), -1)
    sizes = [X.shape[1], *(len(b) for b in mlp.intercepts_)]
    empty = [np.empty((len(X), size)) for size in sizes[1:]]
    _, coefs, intercepts = mlp._backprop(
        X,
        y,
        weight,
        [X, *(part.copy() for part in empty)],
        [part.copy() for part in empty],
        [np.empty_like(coef) for coef in mlp.coefs_],
        [np.empty_like(b) for b in mlp.intercepts_],
    )
    parts = []
    for coef, intercept in zip(coefs, intercepts, strict=True):
        parts += [coef.T.ravel(), intercept]
    return np.concatenate(parts)


def smooth_data(seed, n=40, d=2, noise=0.2):
    """Rows of a smooth function with noise, all distinct."""
    rng = np.random.RandomState(seed)
    X = rng.standard_normal((n, d))
    y = np.sin(X[:, 0]) + 0.5 * X[:, -1] ** 2 + noise * rng.standard_normal(n)
    return X, y


def tanh_mlp(units=3, **params):
    """A small network of tanh units, by L-BFGS."""
    defaults = {
        "hidden_layer_sizes": units,
        "activation": "tanh",
        "solver": "lbfgs",
        "alpha": 0.0,
        "tol": 1e-10,
        "max_iter": 2000,
        "random_state": 0,
    }
    return MLPRegressor(**{**defaults, **params})


def converged_mlp(seed, alpha=0.0, **params):
    """An MLP at a critical point of its own objective, with its data.

    Runs in which the weights grow without limit are skipped.
    """
    for start in range(10):
        X, y = smooth_data(100 * seed + start)
        mlp = tanh_mlp(alpha=alpha, random_state=10 * seed + start, **params)
        strength = alpha / len(X)
        mlp = polished_mlp(mlp, X, y, partial(on_weights, strength=strength))
        size = max(np.abs(coef).max() for coef in mlp.coefs_)
        gradient = sklearn_gradient(mlp, X, y)
        if size < 50 and np.linalg.norm(gradient) <= 1e-10:
            return mlp, X, y
    raise AssertionError(f"no start converged for seed {seed}")
