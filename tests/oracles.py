"""Slow, obvious twins of what the package computes."""

import copy

import numpy as np
import torch
from scipy.optimize import minimize

# --- losses --------------------------------------------------------------------------


def _minimize(objective, start):
    """Minimise a convex torch function of a vector by BFGS with exact gradients."""

    def value_and_gradient(x):
        x = torch.tensor(x, requires_grad=True)
        value = objective(x)
        (gradient,) = torch.autograd.grad(value, x)
        return value.item(), gradient.numpy()

    return minimize(
        value_and_gradient, start, jac=True, method="BFGS", options={"gtol": 1e-11}
    )


def conjugate(loss, y, dual, start):
    """Maximise ``u.q - l(q)`` numerically, one sample after the other."""
    values = []
    for y_i, u_i, q_i in zip(y, dual, start, strict=True):
        result = _minimize(
            lambda q, y_i=y_i, u_i=u_i: loss.value(y_i[None], q[None])[0] - u_i @ q,
            q_i.numpy(),
        )
        values.append(-result.fun)
    return np.array(values)


def pooled_minimum(loss, y, weight, group, n_groups):
    """Minimise each group's weighted loss numerically: its values."""
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


def jacobian(network, X):
    """Derivatives of the raw output by theta, (n_samples, n_outputs, n_params)."""
    return torch.autograd.functional.jacobian(
        lambda theta: network(theta, X), network.theta
    )


def module_output(module, X):
    """Output of the module itself in float64 and evaluation mode."""
    with torch.no_grad():
        return copy.deepcopy(module).double().eval()(X)


def check_head(network, X):
    """Assert ``J g = f`` and ``df / d bias = I`` by a dense Jacobian."""
    head = network.find_head(X)
    J = jacobian(network, X)
    raw = network(network.theta, X)
    assert (J @ head.in_span - raw).norm() <= 1e-14 * raw.norm()
    identity = torch.eye(raw.shape[1], dtype=torch.float64)
    difference = J[..., head.bias] - identity
    assert difference.abs().max() <= 1e-14
