"""Slow, obvious versions of the package's computations, and random problems."""

import copy
from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from scipy.optimize import minimize

from sklearn_pgb._convex._problem import ConvexProblem
from sklearn_pgb._losses._classification import (
    CrossEntropyLoss,
    LogisticLoss,
    SmoothedHingeLoss,
)
from sklearn_pgb._losses._regression import (
    GammaLoss,
    HuberLoss,
    PoissonLoss,
    SquaredLoss,
)
from sklearn_pgb._models._activations import ACTIVATIONS
from sklearn_pgb._models._chain import ChainNetwork
from sklearn_pgb._models._open import open_network
from sklearn_pgb._operators._dense import DenseOperator
from sklearn_pgb._training._objective import Objective
from sklearn_pgb._training._program import ChainProgram, NetworkProgram

# Every loss, and those that take Newton steps.
LOSSES = [
    SquaredLoss(),
    CrossEntropyLoss(),
    CrossEntropyLoss(label_smoothing=0.1),
    LogisticLoss(),
    LogisticLoss(label_smoothing=0.1),
    SmoothedHingeLoss(),
    SmoothedHingeLoss(power=3.0),
    PoissonLoss(),
    GammaLoss(),
    HuberLoss(delta=0.7),
]
NEWTON_LOSSES = LOSSES[1:]


def randn(generator, *shape):
    """Standard normal numbers in float64."""
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def random_chain(generator, sizes, activation="tanh", bias=True):
    """A chain with normal parameters; a list has one activation per hidden layer."""
    if isinstance(activation, str):
        activation = ACTIVATIONS[activation]
    if not isinstance(activation, list):
        activation = [activation] * (len(sizes) - 2)
    pairs = list(zip(sizes[1:], sizes[:-1], strict=True))
    return ChainNetwork.mlp(
        [randn(generator, *pair) for pair in pairs],
        [randn(generator, n_out) if bias else None for n_out, _ in pairs],
        activation,
    )


# --- losses --------------------------------------------------------------------------


def _minimize(objective, start):
    """Minimize a convex torch function of a vector by BFGS with exact gradients."""

    def value_and_gradient(x):
        x = torch.tensor(x, requires_grad=True)
        value = objective(x)
        (gradient,) = torch.autograd.grad(value, x)
        return value.item(), gradient.numpy()

    return minimize(
        value_and_gradient, start, jac=True, method="BFGS", options={"gtol": 1e-11}
    )


def conjugate(loss, y, dual, start):
    """Maximize ``u.q - l(q)`` numerically, one sample after the other."""
    values = []
    for y_i, u_i, q_i in zip(y, dual, start, strict=True):
        result = _minimize(
            lambda q, y_i=y_i, u_i=u_i: loss.value(y_i[None], q[None])[0] - u_i @ q,
            q_i.numpy(),
        )
        values.append(-result.fun)
    return np.array(values)


def pooled_minimum(loss, y, weight, group, n_groups):
    """Minimize each group's weighted loss numerically: its values."""
    values = []
    for j in range(n_groups):
        rows = [i for i in range(len(y)) if group[i] == j]
        result = _minimize(
            lambda q, rows=rows: sum(
                weight[i] * loss.value(y[i][None], q[None])[0] for i in rows
            ),
            np.zeros(y.shape[1]),
        )
        values.append(result.fun)
    return np.array(values)


def derivatives(loss, y, raw):
    """Gradients and Hessians of the loss by automatic differentiation."""
    gradients, hessians = [], []
    for y_i, q_i in zip(y, raw, strict=True):

        def value(q, y_i=y_i):
            return loss.value(y_i[None], q[None])[0]

        gradients.append(torch.func.grad(value)(q_i))
        hessians.append(torch.func.jacrev(torch.func.jacrev(value))(q_i))
    return torch.stack(gradients), torch.stack(hessians)


# --- networks ------------------------------------------------------------------------


def jacobian(network, X, theta=None):
    """Derivatives of the raw output by theta, (n_samples, n_outputs, n_params).

    One backward pass for each sample and output.
    """
    theta = (network.theta if theta is None else theta).detach().requires_grad_()
    raw = network(theta, X)
    rows = [
        torch.autograd.grad(output, theta, retain_graph=True)[0]
        for output in raw.reshape(-1)
    ]
    return torch.stack(rows).reshape(*raw.shape, -1)


def module_output(module, X):
    """Output of the module itself in float64 and evaluation mode."""
    with torch.no_grad():
        return copy.deepcopy(module).double().eval()(X)


def check_head(network, X):
    """Assert ``J g = f`` and ``df / d bias = I`` by a dense Jacobian."""
    head = network.find_head(X)
    J = jacobian(network, X)
    raw = network(network.theta, X)
    assert (J @ head.span_coef - raw).norm() <= 1e-14 * raw.norm()
    identity = torch.eye(raw.shape[1], dtype=torch.float64)
    difference = J[..., head.bias] - identity
    assert difference.abs().max() <= 1e-14


# --- convex problems -----------------------------------------------------------------


def random_targets(loss, n_samples, generator, n_outputs=3):
    """Random encoded targets, one sample in each row."""
    return loss.encode(DRAWS[loss.name]((n_samples, n_outputs), generator))


def _one_hot(shape, generator):
    labels = torch.randint(shape[1], shape[:1], generator=generator)
    return torch.eye(shape[1], dtype=torch.float64)[labels]


def _integers(shape, generator, high=2):
    return torch.randint(high, shape, generator=generator).double()


def _real(shape, generator):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _positive(shape, generator):
    return 0.1 + torch.rand(shape, generator=generator, dtype=torch.float64)


# Functions that draw targets, by the name of the loss.
DRAWS = {
    "squared_error": _real,
    "huber": _real,
    "poisson": partial(_integers, high=4),
    "gamma": _positive,
    "log_loss": _one_hot,
    "binary_log_loss": _integers,
    "smoothed_hinge": _integers,
}


def random_weight(n_samples, generator):
    """Random positive weights that sum to one."""
    weight = 0.2 + torch.rand(n_samples, generator=generator, dtype=torch.float64)
    return weight / weight.sum()


def random_problem(
    loss,
    generator,
    n_samples=25,
    n_coef=4,
    n_outputs=2,
    *,
    alpha=0.1,
    intercept=True,
    offset=False,
):
    """A problem on a dense random basis, with weights and perhaps an offset."""
    shape = (n_samples, n_outputs, n_coef)
    matrix = torch.randn(shape, generator=generator, dtype=torch.float64)
    shift = torch.randn(shape[:2], generator=generator, dtype=torch.float64)
    return ConvexProblem(
        DenseOperator(matrix),
        random_targets(loss, n_samples, generator, n_outputs),
        loss,
        random_weight(n_samples, generator),
        alpha=alpha,
        intercept=intercept,
        offset=shift if offset else None,
    )


def deficient_problem(loss, generator, **options):
    """A basis of rank four in six columns; the constant is one of its columns."""
    problem = random_problem(loss, generator, **options)
    matrix = problem.operator.matrix.clone()
    matrix[..., 3] = 1.0
    mixed = matrix @ torch.randn(4, 2, generator=generator, dtype=torch.float64)
    matrix = torch.cat([matrix, mixed], -1)
    return replace(problem, operator=DenseOperator(matrix), alpha=0.0)


def largest_square(problem):
    """Largest squared singular value of the weighted basis."""
    dense = problem.operator.dense()
    rows = problem.weight.sqrt()[:, None, None] * dense
    return float(torch.linalg.matrix_norm(rows.flatten(0, 1), 2)) ** 2


def objective(problem, coef, intercept):
    """The objective as it is written, on dense rows."""
    raw = problem.operator.dense() @ coef + intercept
    if problem.offset is not None:
        raw = raw + problem.offset
    loss = problem.weight @ problem.loss.value(problem.y, raw)
    return loss + problem.alpha / 2 * coef @ coef


def split(problem, point):
    """Coefficients and intercept out of one vector; no intercept is zero."""
    p = problem.operator.n_coef
    intercept = point[p:] if problem.intercept else torch.zeros(problem.y.shape[1])
    return point[:p], intercept


def optimum(problem):
    """Minimize the objective by BFGS: value, coefficients and intercept.

    BFGS stops early if the Hessian is singular, so Newton steps by autograd follow.
    """

    def value(point):
        return objective(problem, *split(problem, point))

    n_free = problem.y.shape[1] if problem.intercept else 0
    result = _minimize(value, np.zeros(problem.operator.n_coef + n_free))
    point = torch.tensor(result.x)
    for _ in range(10):
        hessian = torch.func.jacrev(torch.func.jacrev(value))(point)
        inverse = torch.linalg.pinv(hessian, rtol=1e-10, hermitian=True)
        point = point - inverse @ torch.func.grad(value)(point)
    return float(value(point)), *split(problem, point)


def ridge(matrix, y, weight, alpha, intercept):
    """Weighted ridge regression by least squares on an augmented system, in NumPy.

    The matrix has shape (n_samples, n_outputs, n_coef); the weights need not sum to
    one. If alpha is zero, the coefficients have the smallest norm.
    """
    n, k, p = matrix.shape
    root = np.sqrt(np.repeat(weight, k))
    rows, target = root[:, None] * matrix.reshape(n * k, p), root * y.reshape(-1)
    free = root[:, None] * np.tile(np.eye(k), (n, 1))
    if not intercept:
        free = free[:, :0]
    if alpha == 0:
        # The unpenalized columns are projected out first.
        off_free = rows - free @ np.linalg.lstsq(free, rows)[0]
        coef = np.linalg.lstsq(off_free, target, rcond=1e-10)[0]
        return coef, _pad(np.linalg.lstsq(free, target - rows @ coef)[0], k)
    penalty = np.sqrt(alpha / 2) * np.eye(p, p + free.shape[1])
    system = np.vstack([np.hstack([rows, free]), penalty])
    solution = np.linalg.lstsq(system, np.append(target, np.zeros(p)))[0]
    return solution[:p], _pad(solution[p:], k)


def _pad(intercept, n_outputs):
    return intercept if len(intercept) else np.zeros(n_outputs)


def left_out_errors(matrix, y, weight, alpha, intercept, unit):
    """Errors at each sample of a ridge regression without `unit` of its weight."""
    errors = np.empty_like(y)
    for i in range(len(y)):
        left = weight.copy()
        left[i] -= unit[i] * weight[i]
        coef, free = ridge(matrix, y, left, alpha, intercept)
        errors[i] = y[i] - matrix[i] @ coef - free
    return errors


# --- refits --------------------------------------------------------------------------


def network_features(refit, X):
    """Each network's Jacobian by autograd, each (n_samples, n_outputs, n_params)."""
    opened = [open_network(estimator) for estimator in refit.estimators_]
    return [jacobian(net.network, net.inputs(X)).numpy() for net in opened]


def scaled_features(refit, X, X_train, weight):
    """The penalized columns: output biases left out, mean squared row norm one."""
    share = weight / weight.sum()
    parts = []
    features = zip(
        network_features(refit, X), network_features(refit, X_train), strict=True
    )
    for new, seen in features:
        k = new.shape[1]
        squares = (seen[:, :, :-k] ** 2).sum(2).mean(1)
        parts.append(new[:, :, :-k] / np.sqrt(share @ squares))
    return np.concatenate(parts, 2) / np.sqrt(len(parts))


# --- critical points -----------------------------------------------------------------


def training_loss(network, X, y, weight, theta):
    """Weighted squared error of the network at any parameters."""
    return weight @ (network(theta, X) - y).square().sum(1)


def critical_targets(network, X, weight, noise):
    """Targets that make the network's parameters a critical point of the squared loss.

    They are the outputs plus noise, projected so that ``J^T W (y - f) = 0``.
    """
    root = weight.sqrt()[:, None]
    J = (root[:, :, None] * jacobian(network, X)).flatten(0, 1).numpy()
    scaled = (root * noise).reshape(-1).numpy()
    for _ in range(2):
        scaled = scaled - J @ np.linalg.lstsq(J, scaled)[0]
    residual = torch.tensor(scaled).reshape(noise.shape) / root
    return network(network.theta, X) + residual


# --- chains --------------------------------------------------------------------------


def training_problem(loss, generator, n_members=1, n_samples=25):
    """A random objective on a tanh chain, and a population."""
    program = ChainProgram([3, 4, 3], [ACTIVATIONS["tanh"]])
    objective = Objective(
        program,
        loss,
        randn(generator, n_samples, 3),
        random_targets(loss, n_samples, generator),
        random_weight(n_samples, generator),
        0.1 * torch.rand(program.n_params, generator=generator, dtype=torch.float64),
    )
    return objective, randn(generator, n_members, program.n_params)


def program_without_biases(widths, name):
    """The program of a chain of linear layers without biases."""
    weights = [torch.zeros(o, i).double() for i, o in pairwise(widths)]
    activations = [ACTIVATIONS[name]] * (len(weights) - 1)
    network = ChainNetwork.mlp(weights, [None] * len(weights), activations)
    return NetworkProgram(network)


def saturated_relu(X, width, depth, *, diagonal=1.0):
    """Weights and biases of ReLU layers with one active unit for each unit row of X.

    Unit i of the first layer has weights ``x_i`` and bias ``e - 1``, where
    ``e = (1 - max x_i.x_j) / 2``, so that only sample i activates it. The last hidden
    layer is ``e diagonal^(depth-1) [I, 0]`` (Kawaguchi, Huang, Kaelbling, Neural
    Computation 31(12), 2019, Example 2).
    """
    X = torch.as_tensor(X)
    n_samples, n_features = X.shape
    largest = (X @ X.T - 2 * torch.eye(n_samples)).max()
    first = X.new_zeros(width, n_features)
    first[:n_samples] = X
    upper = diagonal * torch.eye(width, dtype=X.dtype)
    biases = [X.new_zeros(width) for _ in range(depth)]
    biases[0] += (1 - largest) / 2 - 1
    return [first] + [upper] * (depth - 1), biases
