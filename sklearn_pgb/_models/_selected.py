"""Networks of which only some parameters vary."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from sklearn_pgb._models._network import Head, Network, positions_without
from sklearn_pgb._operators._operator import LinearOperator


class SelectedNetwork(Network):
    """A network whose other parameters are constants.

    Parameters
    ----------
    whole : Network
    keep : Tensor of int
        Ascending positions of the parameters in the theta of the whole network.
    """

    def __init__(self, whole: Network, keep: Tensor):
        self.whole, self.keep = whole, keep

    @property
    def n_inputs(self) -> int | None:
        return self.whole.n_inputs

    @property
    def n_outputs(self) -> int | None:
        return self.whole.n_outputs

    @property
    def n_params(self) -> int:
        return len(self.keep)

    @property
    def theta(self) -> Tensor:
        theta = self.whole.theta
        return theta[self.keep.to(theta.device)]

    @property
    def is_linear(self) -> bool:
        return self.whole.is_linear

    @property
    def is_linear_in_theta(self) -> bool:
        return self.whole.is_linear_in_theta

    def _whole_theta(self, theta: Tensor) -> Tensor:
        """The parameters of the whole network."""
        full = self.whole.theta
        return full.index_copy(0, self.keep.to(full.device), theta)

    def modules_along(self, direction: Tensor) -> tuple[nn.Module, nn.Module] | None:
        zeros = direction.new_zeros(self.whole.n_params)
        full = zeros.index_copy(0, self.keep.to(zeros.device), direction)
        return self.whole.modules_along(full)

    def to(self, device: torch.device) -> SelectedNetwork:
        return SelectedNetwork(self.whole.to(device), self.keep)

    def at(self, theta: Tensor) -> SelectedNetwork:
        return SelectedNetwork(self.whole.at(self._whole_theta(theta)), self.keep)

    def __call__(self, theta: Tensor, X: Tensor) -> Tensor:
        return self.whole(self._whole_theta(theta), X)

    def layers(self, X: Tensor) -> list[Tensor]:
        return self.whole.layers(X)

    def jacobian(self, X: Tensor, *, without: slice | None = None) -> LinearOperator:
        columns = self.keep[positions_without(len(self.keep), without)]
        return self.whole.jacobian(X).select(columns)

    def find_head(self, X: Tensor) -> Head:
        """The head of the whole network, as far as its parameters are selected."""
        head = self.whole.find_head(X)
        bias = span_coef = None
        if head.bias is not None:
            first, stop = torch.searchsorted(
                self.keep, torch.tensor([head.bias.start, head.bias.stop])
            ).tolist()
            if stop - first == head.bias.stop - head.bias.start:
                bias = slice(first, stop)
        if head.span_coef is not None:
            kept = head.span_coef[self.keep.to(head.span_coef.device)]
            if int(kept.count_nonzero()) == int(head.span_coef.count_nonzero()):
                span_coef = kept
        return Head(bias, span_coef)


def check_selection(parameters: Any) -> None:
    """Raise a ValueError if `parameters` has no form that `named` takes."""
    is_rule = isinstance(parameters, str) and _RULE.fullmatch(parameters)
    is_list = isinstance(parameters, list | tuple) and len(parameters) > 0
    if is_rule or (is_list and all(isinstance(each, str) for each in parameters)):
        return
    raise ValueError(
        "parameters must be 'all', 'last', 'last-2' for the last two layers and so on, "
        "or a list with names or patterns of parameters such as ['*.bias'], got "
        f"{parameters!r}."
    )


_RULE = re.compile(r"all|last|last-([1-9]\d*)")


def named(network: Network, parameters: Any, X: Tensor | None = None) -> Any:
    """Names of the parameters that "last" or "last-k" means; else `parameters`.

    A layer has a weight of two or more dimensions. Parameters of vectors, such as those
    of a normalization, belong to the layer before them. Layers are in the order in
    which the forward pass on X uses them, without those that it does not use. Without
    X, they are in the order of theta.
    """
    if parameters == "all" or not isinstance(parameters, str):
        return parameters
    shapes = _shapes(network, parameters)
    names = list(shapes) if X is None else network.parameters_in_use(X)
    count = int(parameters.partition("-")[2] or 1)
    layers: list[list[str]] = []
    for prefix in reversed(dict.fromkeys(map(_layer_of, reversed(names)))):
        own = [name for name in names if _layer_of(name) == prefix]
        is_layer = any(len(shapes[name]) > 1 for name in own)
        starts = not layers or any(len(shapes[name]) > 1 for name in layers[-1])
        if not layers or (is_layer and starts):
            layers.append(own)
        else:
            layers[-1] += own
    if count > len(layers):
        raise ValueError(
            f"parameters must be at most 'last-{len(layers)}' for a network of "
            f"{len(layers)} layers, got {parameters!r}."
        )
    return [name for layer in layers[-count:] for name in layer]


def select(network: Network, parameters: str | Sequence[str]) -> Network:
    """The network with the parameters of some names or patterns, or with "all".

    Raises
    ------
    ValueError
        If a pattern matches no parameter.
    """
    if parameters == "all":
        return network
    _shapes(network, parameters)
    positions = network.parameter_positions()
    keep = torch.zeros(network.n_params, dtype=torch.bool)
    for pattern in parameters:
        matching = [
            name
            for name in positions
            if name == pattern
            or fnmatchcase(name, pattern)
            or name.startswith(f"{pattern}.")
        ]
        if not matching:
            known = list(positions)
            listed = ", ".join(known[:20]) + (", ..." if len(known) > 20 else "")
            raise ValueError(
                "parameters must be names of parameters or patterns that match "
                f"some, got {pattern!r}, which matches none of {listed}."
            )
        for name in matching:
            keep[positions[name]] = True
    return SelectedNetwork(network, torch.nonzero(keep)[:, 0])


def _shapes(network: Network, parameters: Any) -> dict[str, torch.Size]:
    shapes = network.parameter_shapes()
    if not shapes:
        raise ValueError(
            f"parameters must be 'all' for a model that is not a single network, got "
            f"{parameters!r}."
        )
    return shapes


def _layer_of(name: str) -> str:
    return name.rpartition(".")[0]
