"""Evaluate an objective and its gradient on a grid."""

from numbers import Integral
from typing import Any

import numpy as np
import torch
from sklearn.utils import check_consistent_length
from sklearn.utils.validation import _check_sample_weight

from sklearn_pgb._display._checks import numbers
from sklearn_pgb._models._chain import ChainNetwork
from sklearn_pgb._models._network import as_float64

# Samples of one forward and backward pass, to bound its memory.
ROWS = 2**13

# Step of central differences, relative to the range. The cube root of the precision
# balances truncation and rounding errors.
STEP = np.finfo(float).eps ** (1 / 3)


def points(bounds, count, name):
    """Equally spaced points of a range."""
    ends = numbers(bounds, name)
    if ends.shape != (2,) or not -np.inf < ends[0] < ends[1] < np.inf:
        raise ValueError(
            f"{name} must be two finite numbers, the smaller one first, got {bounds!r}."
        )
    return np.linspace(float(ends[0]), float(ends[1]), count)


def counts(resolution):
    """Number of points along each of two axes, from one or two integers."""
    both = resolution if np.ndim(resolution) else (resolution, resolution)
    if np.shape(both) != (2,):
        raise ValueError(
            f"resolution must be one or two integers of at least 2, got {resolution!r}."
        )
    count: Any
    for count in both:
        if not isinstance(count, Integral) or count < 2:
            raise ValueError(
                f"resolution must be an integer of at least 2, got {count!r}."
            )
    return int(both[0]), int(both[1])


def evaluate(function, x, y):
    """Evaluate a function on arrays and check the shape of its values."""
    values = numbers(function(x, y), "the values of function")
    if values.shape != x.shape:
        raise ValueError(
            f"function must return values of the shape of x and y, {x.shape}, got "
            f"{values.shape}. Wrap a function of two numbers in numpy.vectorize."
        )
    return values


def by_differences(function, x, y):
    """Gradient by central differences, one-sided at the ends of the ranges."""
    slopes = []
    for moves_x in (True, False):
        coordinate = x if moves_x else y
        low, high = coordinate.min(), coordinate.max()
        step = STEP * (high - low)
        back = np.maximum(coordinate - step, low)
        ahead = np.minimum(coordinate + step, high)
        ends = [(end, y) if moves_x else (x, end) for end in (back, ahead)]
        before, after = (evaluate(function, *end) for end in ends)
        slopes.append((after - before) / (ahead - back))
    return np.stack(slopes)


def by_autograd(function, x, y):
    """Values and gradient of a function of tensors."""
    at = [torch.tensor(part, requires_grad=True) for part in (x, y)]
    values = function(*at)
    if not isinstance(values, torch.Tensor) or values.shape != at[0].shape:
        raise ValueError(
            "function must return a tensor of the shape of x and y, "
            f"{x.shape}, got {getattr(values, 'shape', type(values).__name__)}."
        )
    if not values.requires_grad:
        raise ValueError(
            "function must use torch operations on x and y for gradient='autograd', "
            "got values without a gradient. Use gradient='differences'."
        )
    slopes = torch.autograd.grad(
        values.sum(), at, allow_unused=True, materialize_grads=True
    )
    return values.detach().numpy(), torch.stack(slopes).numpy()


def mean_loss(opened, X, y, sample_weight):
    """Return a function that computes the mean loss and its gradient."""
    network, rows = opened.network, opened.inputs(X)
    n_outputs = network(network.theta, rows[:1]).shape[1]
    targets = opened.targets(y, n_outputs)
    check_consistent_length(rows, targets)
    weight = _check_sample_weight(
        sample_weight, rows.numpy(), dtype=np.float64, ensure_non_negative=True
    )
    weight = as_float64(weight / weight.sum())

    def value_and_gradient(theta):
        theta = theta.detach().requires_grad_()
        value, gradient = 0.0, torch.zeros_like(theta)
        for start in range(0, len(rows), ROWS):
            part = slice(start, start + ROWS)
            losses = opened.loss.value(targets[part], network(theta, rows[part]))
            total = weight[part] @ losses
            value += total.item()
            gradient += torch.autograd.grad(total, theta)[0]
        return value, gradient

    return value_and_gradient


def random_directions(network, rng):
    """Draw two random directions, with the norm of the network's weights per unit."""
    theta = network.theta
    directions = torch.from_numpy(rng.standard_normal((2, len(theta))))
    for direction in directions:
        pairs = zip(_tensors(network, direction), _tensors(network, theta), strict=True)
        for drawn, own in pairs:
            if own.ndim < 2:
                drawn.zero_()
                continue
            per_unit = drawn.flatten(1), own.flatten(1)
            lengths = [part.norm(dim=1, keepdim=True) for part in per_unit]
            per_unit[0].mul_(lengths[1] / lengths[0])
    if not directions.any():
        raise ValueError(
            "estimator must have weights other than biases and other than zero, got "
            f"none in {len(theta)} parameters. Choose another network."
        )
    return directions


def _tensors(network, theta):
    """Views of theta, one per weight matrix and bias."""
    parts = network.split(theta)
    if isinstance(network, ChainNetwork):
        return [part for group in parts for part in group if part is not None]
    return list(parts.values())


def on_plane(objective, theta, directions, a, b):
    """Values and gradient at ``theta + a * directions[0] + b * directions[1]``."""
    values, slopes = np.empty((len(b), len(a))), np.empty((2, len(b), len(a)))
    for i, j in np.ndindex(values.shape):
        at = theta + a[j] * directions[0] + b[i] * directions[1]
        values[i, j], gradient = objective(at)
        slopes[:, i, j] = (directions @ gradient).numpy()
    return values, slopes
