"""Find seams of piecewise functions in a network, and kinks among them.

A seam is an input at which a function changes its formula. It is a kink if the function
is not differentiable there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sklearn_pgb._models._chain import ChainNetwork
from sklearn_pgb._models._network import Network

# Functions with different formulas below and above zero, and whether zero is a kink.
# ELU is differentiable at zero for alpha = 1 only, and never analytic.
_AT_ZERO: dict[str, Callable[..., bool]] = {
    "aten::relu": lambda x: True,
    "aten::abs": lambda x: True,
    "aten::_prelu_kernel": lambda x, weight: True,
    "aten::leaky_relu": lambda x, slope=0.01: slope != 1,
    "aten::elu": lambda x, alpha=1.0, scale=1.0, input_scale=1.0: (
        alpha * input_scale != 1
    ),
}

# Piecewise functions with seams that are not at zero.
_ELSEWHERE = (
    "max",
    "min",
    "amax",
    "amin",
    "maximum",
    "minimum",
    "clamp",
    "hardtanh",
    "hardswish",
    "hardsigmoid",
    "threshold",
    "hardshrink",
    "softshrink",
    "where",
    "sort",
    "topk",
    "median",
    "sign",
    "adaptive_max_pool",
    "fractional_max_pool",
)


@dataclass(frozen=True, eq=False)
class Pieces:
    """The inputs of a network's piecewise functions with a seam at zero, in order.

    Attributes
    ----------
    inputs : list of Tensor
    kinked : list of bool
        Whether each of these functions has a kink at zero.
    complete : bool
        Whether the network has no other seams, such as those of a maximum.
    """

    inputs: list[Tensor] = field(default_factory=list)
    kinked: list[bool] = field(default_factory=list)
    complete: bool = True


def pieces(network: Network, X: Tensor, theta: Tensor | None = None) -> Pieces:
    """Run a network and record the inputs of its piecewise functions."""
    if isinstance(network, ChainNetwork):
        chain = network if theta is None else network.at(theta)
        pairs = zip(chain.forward(X)[0], chain.activations, strict=True)
        seams = [(z, activation.kink) for z, activation in pairs if activation.seam]
        return Pieces([z for z, _ in seams], [kink for _, kink in seams])
    recorder = _Recorder()
    with torch.no_grad(), recorder:
        network(network.theta if theta is None else theta, X)
    return Pieces(recorder.inputs, recorder.kinked, recorder.complete)


class _Recorder(TorchDispatchMode):
    """Record the inputs of piecewise functions.

    All operations pass through a dispatch mode. Hooks on layers would miss functions
    called in ``forward``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.inputs: list[Tensor] = []
        self.kinked: list[bool] = []
        self.complete = True

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        # Names of in-place functions end in an underscore.
        name = str(func._schema.name).removesuffix("_")
        if name in _AT_ZERO:
            self.inputs.append(args[0].clone())
            self.kinked.append(_AT_ZERO[name](*args, **(kwargs or {})))
        elif name.removeprefix("aten::").startswith(_ELSEWHERE):
            self.complete = False
        return func(*args, **(kwargs or {}))
