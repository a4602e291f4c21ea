"""What a torch module must be: a differentiable function of each sample alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from sklearn_pgb._derivatives import pull_back
from sklearn_pgb._networks._module import ModuleNetwork
from sklearn_pgb._threads import local_randomness

# Samples that are compared, and those among which distinct ones are chosen.
N_SAMPLES, N_CANDIDATES = 8, 64

# Outputs for the same sample differ by rounding up to these, relative to the spread of
# the outputs and to their size.
SPREAD_RTOL, SIZE_RTOL = 1e-6, 1e-9

# Parameters are moved by this, relative to their size: a head of zeros hides what the
# layers before it do.
NEARBY = 0.1


def check_samples(network: ModuleNetwork, X: Tensor) -> None:
    """Refuse a module that is no deterministic function of each sample.

    Outputs of up to eight samples together, of five of them in another order, and of
    each one alone have to be the same, here and at parameters nearby.

    Parameters
    ----------
    network : ModuleNetwork
    X : Tensor (n_samples, ...)
        As the network sees it.

    Raises
    ------
    TypeError, ValueError
        If the module is random in evaluation mode, mixes samples, fails, returns no
        finite real outputs of shape (n_samples, n_outputs), or has no derivatives.
    """
    rows, theta = _distinct(X), network.theta
    generator = torch.Generator().manual_seed(0)
    size = float(theta.square().mean().sqrt()) or 1.0
    noise = torch.randn(len(theta), generator=generator).to(theta)
    # A random layer draws from torch's generator, which belongs to the user.
    with torch.no_grad(), local_randomness(0):
        raw = _outputs(network, theta, rows)
        if not raw.isfinite().all():
            raise ValueError(
                f"module must return finite outputs, got nan or infinity from "
                f"{network.name} on samples of X. Standardise X, or make its "
                "parameters smaller."
            )
        _check_deterministic(network, theta, rows, raw)
        _check_separate(network, theta, rows, raw)
        nearby = theta + NEARBY * size * noise
        raw = network(nearby, rows)
        if raw.isfinite().all():
            _check_separate(network, nearby, rows, raw)
    _check_differentiable(network, theta, rows[:1])


def _distinct(X: Tensor) -> Tensor:
    """Some distinct samples; two equal ones if X has no others."""
    candidates = X[torch.linspace(0, len(X) - 1, min(len(X), N_CANDIDATES)).long()]
    rows = candidates.flatten(1).unique(dim=0)
    few = torch.linspace(0, len(rows) - 1, min(len(rows), N_SAMPLES)).long()
    if len(few) == 1:
        few = few.repeat(2)
    return rows[few].reshape(-1, *X.shape[1:])


def _outputs(network: ModuleNetwork, theta: Tensor, rows: Tensor) -> Tensor:
    """Raw outputs, or what is wrong with X or the module."""
    try:
        network.call(theta, rows)
    except Exception as failure:
        # The module's own errors, of whatever type.
        raise ValueError(
            f"module must take float64 samples as in X, whose shape is (n_samples, "
            f"{', '.join(map(str, rows.shape[1:]))}), got an error from "
            f"{network.name}: {failure}. Reshape X, change its first layer, or convert "
            "inside of its forward."
        ) from failure
    return network(theta, rows)


def _check_deterministic(
    network: ModuleNetwork, theta: Tensor, rows: Tensor, raw: Tensor
) -> None:
    if _differ(network(theta, rows), raw, raw):
        raise ValueError(
            "module must be deterministic in evaluation mode, got "
            f"{network.name}, whose outputs change from one call to the next. Pass "
            "training=self.training to functions such as dropout, and keep no state "
            "between calls."
        )


def _check_separate(
    network: ModuleNetwork, theta: Tensor, rows: Tensor, raw: Tensor
) -> None:
    order = torch.arange(len(rows)).flip(0)[:5]
    try:
        alone = torch.cat([network(theta, row) for row in rows.split(1)])
        others = network(theta, rows[order])
        mixed = _differ(alone, raw, raw) or _differ(others, raw[order], raw)
    except (RuntimeError, ValueError, IndexError):
        mixed = True
    if mixed:
        raise ValueError(
            "module must treat each sample by itself, got "
            f"{_mixing_layer(network, theta, rows)}, whose outputs for a sample depend "
            "on the other samples in the batch. Statistics of the batch, or softmax, "
            "attention, recurrence or normalisation along the first axis, do that. Use "
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
            f"{_failing_layer(network, theta, row)}, which says: {failure}. {advice}"
        ) from failure
    if not connected:
        raise ValueError(
            f"module must be differentiable by its parameters, got {network.name}, "
            f"whose outputs have no gradient. {advice}"
        )


def _differ(found: Tensor, expected: Tensor, raw: Tensor) -> bool:
    """Whether outputs differ by more than rounding; nan differs from everything."""
    spread = (raw - raw.mean(0)).abs().max()
    tol = SPREAD_RTOL * spread + SIZE_RTOL * raw.abs().max()
    if found.shape != expected.shape:
        return True
    return not bool(((found - expected).abs() <= tol).all())


# --- which layer it is ----------------------------------------------------------------


@contextmanager
def _recorded(network: ModuleNetwork) -> Iterator[list[tuple[str, Tensor]]]:
    """Outputs of the layers, in the order in which they are computed."""
    outputs: list[tuple[str, Tensor]] = []

    def record(name: str, layer: nn.Module, output: object) -> None:
        tensor = output[0] if isinstance(output, tuple) and output else output
        if isinstance(tensor, Tensor):
            label = f"its layer {name!r} ({type(layer).__name__})"
            outputs.append((label, tensor.clone()))

    hooks = [
        part.register_forward_hook(
            lambda layer, args, output, name=name: record(name, layer, output)
        )
        for name, part in network.named_layers()
    ]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


def _mixing_layer(network: ModuleNetwork, theta: Tensor, rows: Tensor) -> str:
    """The first layer whose outputs differ between one batch and single samples."""
    try:
        with _recorded(network) as together:
            network(theta, rows)
        parts = []
        for row in rows.split(1):
            with _recorded(network) as alone:
                _try(network, theta, row)
            parts.append(alone)
        for number, (label, output) in enumerate(together):
            singles = [part[number][1] for part in parts if number < len(part)]
            if len(singles) < len(rows):
                return label
            single = torch.cat(singles)
            if single.shape != output.shape or _differ(single, output, output):
                return label
    except (RuntimeError, ValueError, IndexError):
        pass
    return network.name


def _try(network: ModuleNetwork, theta: Tensor, row: Tensor) -> None:
    try:
        network(theta, row)
    except (RuntimeError, ValueError, IndexError):
        return


def _failing_layer(network: ModuleNetwork, theta: Tensor, row: Tensor) -> str:
    """The first layer whose outputs can't be differentiated."""
    leaf = theta.detach().requires_grad_()
    with torch.enable_grad(), _recorded(network) as layers:
        _try(network, leaf, row)
    for label, output in layers:
        if output.requires_grad:
            try:
                torch.autograd.grad(
                    output.sum(), leaf, retain_graph=True, allow_unused=True
                )
            except RuntimeError:
                return label
    return network.name
