"""Find the layer of a module that mixes samples or cannot be differentiated."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sklearn_pgb._budget import SIZE_RTOL, SPREAD_RTOL
from sklearn_pgb._models._module import ModuleNetwork


def differ(actual: Tensor, expected: Tensor) -> bool:
    """Whether outputs differ by more than rounding; NaN differs from any value."""
    if actual.shape != expected.shape:
        return True
    spread = (expected - expected.mean(0)).abs().max()
    tol = SPREAD_RTOL * spread + SIZE_RTOL * expected.abs().max()
    return not bool(((actual - expected).abs() <= tol).all())


class _Trace:
    """Names, inputs and outputs of the layers, in the order in which their calls ended.

    Layers in `running` have not returned; the innermost is the last.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[str, Tensor, Tensor]] = []
        self.running: list[str] = []

    def begin(self, label: str, layer: nn.Module, args: tuple[Any, ...]) -> None:
        self.running.append(label)

    def end(
        self, label: str, layer: nn.Module, args: tuple[Any, ...], output: Any
    ) -> None:
        self.running.pop()
        result = output[0] if isinstance(output, tuple) and output else output
        given = args[0] if args else None
        if isinstance(result, Tensor) and isinstance(given, Tensor):
            self.calls.append((label, given.clone(), result.clone()))


def _traced(network: ModuleNetwork, theta: Tensor, rows: Tensor) -> _Trace:
    """Run a module and record the calls of its layers, up to the first error."""
    trace, hooks = _Trace(), []
    for name, layer in network.named_layers():
        label = f"its layer {name!r} ({type(layer).__name__})"
        hooks += [
            layer.register_forward_pre_hook(partial(trace.begin, label)),
            layer.register_forward_hook(partial(trace.end, label)),
        ]
    # If the module fails, the trace names the layer.
    with suppress(Exception):
        network(theta, rows)
    for hook in hooks:
        hook.remove()
    return trace


def mixing_layer(network: ModuleNetwork, theta: Tensor, rows: Tensor) -> str:
    """Name the first layer whose outputs change if samples enter it one by one."""
    together = _traced(network, theta, rows)
    alone = [_traced(network, theta, row) for row in rows.split(1)]
    for number, (label, given, result) in enumerate(together.calls):
        if any(number >= len(trace.calls) for trace in alone):
            failed = [trace.running[-1] for trace in alone if trace.running]
            return failed[0] if failed else network.name
        singles = [trace.calls[number] for trace in alone]
        same_inputs = _is_same([call[1] for call in singles], given)
        if same_inputs and not _is_same([call[2] for call in singles], result):
            return label
    return network.name


def _is_same(parts: list[Tensor], whole: Tensor) -> bool:
    """Whether the tensors of single samples, concatenated, equal the batch's."""
    if any(part.shape[1:] != whole.shape[1:] for part in parts):
        return False
    return not differ(torch.cat(parts), whole)


def failing_layer(network: ModuleNetwork, theta: Tensor, row: Tensor) -> str:
    """The first layer with outputs that cannot be differentiated."""
    leaf = theta.detach().requires_grad_()
    with torch.enable_grad():
        trace = _traced(network, leaf, row)
        sums = [(label, output.sum()) for label, _, output in trace.calls]
    for label, total in sums:
        if total.requires_grad:
            try:
                torch.autograd.grad(total, leaf, retain_graph=True, allow_unused=True)
            except RuntimeError:
                return label
    return trace.running[-1] if trace.running else network.name
