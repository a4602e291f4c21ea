"""Check that a module is a differentiable, deterministic function of each sample."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from sklearn_pgb._budget import (
    DERIVATIVE_RTOL,
    DIFFERENCE_STEP,
    FEW_ROWS,
    NEARBY,
    SPREAD_ROWS,
)
from sklearn_pgb._derivatives import pull_back, root_mean_square
from sklearn_pgb._models._layer_trace import differ, failing_layer, mixing_layer
from sklearn_pgb._models._module import ModuleNetwork
from sklearn_pgb._operators._blocks import spread_rows
from sklearn_pgb._threads import local_randomness


def check_module(network: ModuleNetwork, X: Tensor) -> None:
    """Raise an error unless a module is a deterministic function of each sample.

    Up to eight samples must have the same outputs in one batch, each alone, and in a
    larger batch in another order. This is tested at the module's parameters and nearby.
    The outputs must be finite, of shape (n_samples, n_outputs), and have derivatives.
    """
    some = X[spread_rows(len(X), SPREAD_ROWS)]
    # Indices of distinct samples; if all are equal, the first is repeated.
    distinct, group = some.flatten(1).unique(dim=0, return_inverse=True)
    few = spread_rows(len(distinct), FEW_ROWS).tolist()
    index = torch.stack([(group == k).nonzero()[0, 0] for k in few])
    index = index if len(index) > 1 else index.repeat(2)
    rows, theta = some[index], network.theta
    generator = torch.Generator().manual_seed(0)
    size = root_mean_square(theta)
    noise = torch.randn(len(theta), generator=generator).to(theta)
    # Random layers draw from torch's global generator; do not change the user's state.
    with torch.no_grad(), local_randomness(0), warnings.catch_warnings():
        # Single samples cause warnings, e.g. about their standard deviation.
        warnings.simplefilter("ignore")
        raw = _outputs(network, theta, rows)
        if not raw.isfinite().all():
            raise ValueError(
                f"module must return finite outputs, got nan or infinity from "
                f"{network.name} on samples of X. Standardize X, or make its "
                "parameters smaller."
            )
        if not torch.equal(theta, network.theta):
            raise ValueError(
                f"module must leave its parameters alone, got {network.name}, whose "
                "forward changes them. Change them after each step of the training."
            )
        if differ(network(theta, rows), raw):
            raise ValueError(
                "module must be deterministic in evaluation mode, got "
                f"{network.name}, whose outputs change from one call to the next. Pass "
                "training=self.training to functions such as dropout, and keep no "
                "state between calls."
            )
        _check_separate(network, theta, some, index, raw)
        nearby = theta + NEARBY * size * noise
        raw = network(nearby, rows)
        is_finite = bool(raw.isfinite().all())
        if is_finite:
            _check_separate(network, nearby, some, index, raw)
        _check_differentiable(network, theta, rows[:1])
        if is_finite:
            # Theta itself may be at a kink, so use the nearby parameters.
            _check_derivative(network, nearby, rows[:2])


def _outputs(network: ModuleNetwork, theta: Tensor, rows: Tensor) -> Tensor:
    """Raw outputs; raises a ValueError with advice if the module fails."""
    try:
        network.unchecked_result(theta, rows)
    except Exception as failure:
        # A module may raise errors of any type.
        raise ValueError(
            f"module must take float64 samples as in X, whose shape is (n_samples, "
            f"{', '.join(map(str, rows.shape[1:]))}), got an error from "
            f"{network.name}: {failure}. Reshape X, change its first layer, or convert "
            "inside of its forward."
        ) from failure
    return network(theta, rows)


def _check_separate(
    network: ModuleNetwork, theta: Tensor, some: Tensor, index: Tensor, raw: Tensor
) -> None:
    rows = some[index]
    try:
        alone = torch.cat([network(theta, row) for row in rows.split(1)])
        others = network(theta, some.flip(0)).flip(0)[index]
        mixed = differ(alone, raw) or differ(others, raw)
    except (RuntimeError, ValueError, IndexError):
        mixed = True
    if mixed:
        raise ValueError(
            "module must treat each sample by itself, got "
            f"{mixing_layer(network, theta, rows)}, whose outputs for a sample depend "
            "on the other samples in the batch. Statistics of the batch, or softmax, "
            "attention, recurrence or normalization along the first axis, do that. Use "
            "running statistics, and keep the samples on the first axis."
        )


def _check_differentiable(network: ModuleNetwork, theta: Tensor, row: Tensor) -> None:
    advice = "Compute the outputs by torch operations only, and detach none of them."
    try:
        with torch.enable_grad():
            leaf = theta.detach().requires_grad_()
            connected = network(leaf, row).requires_grad
        raw, pull = pull_back(lambda at: network(at, row), theta)
        pull(torch.ones_like(raw))
    except RuntimeError as failure:
        raise ValueError(
            "module must be differentiable by its parameters, got "
            f"{failing_layer(network, theta, row)}, which fails with: {failure}. "
            f"{advice}"
        ) from failure
    if not connected:
        raise ValueError(
            f"module must be differentiable by its parameters, got {network.name}, "
            f"whose outputs have no gradient. {advice}"
        )


def _check_derivative(network: ModuleNetwork, theta: Tensor, rows: Tensor) -> None:
    """Compare derivatives with a finite difference, and a batch's with each sample's.

    The samples are repeated in the batch, because a backward pass may divide gradients
    by counts in the batch.
    """
    generator = torch.Generator().manual_seed(1)
    direction = torch.randn(len(theta), generator=generator).to(theta)
    raw, pull = pull_back(lambda at: network(at, rows), theta)
    residual = torch.randn(raw.shape, generator=generator).to(theta)
    step = DIFFERENCE_STEP * root_mean_square(theta)
    ends = [network(theta + sign * step * direction, rows) for sign in (1, -1)]
    change = (ends[0] - ends[1]) / (2 * step)
    error = (residual * change).sum() - pull(residual) @ direction
    # A difference of outputs has their rounding error, which the step divides.
    rounding = 1e-13 * raw.abs().max() / step
    tol = residual.norm() * (DERIVATIVE_RTOL * change.norm() + rounding)
    _, pull_batch = pull_back(lambda at: network(at, torch.cat([rows, rows])), theta)
    batch = pull_batch(torch.cat([residual, residual]) / 2)
    if error.abs() > tol or differ(batch, pull(residual)):
        raise ValueError(
            "module must have derivatives that agree with its outputs, got "
            f"{network.name}, whose backward pass gives others. Freeze parameters by "
            "requires_grad_(False) instead of detaching outputs, do not round or "
            "threshold the outputs of layers, nor scale gradients by counts."
        )
