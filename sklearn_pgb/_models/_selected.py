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
    """Raise a ValueError if `parameters` has no form that `select` takes."""
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


def select(network: Network, parameters: str | Sequence[str]) -> Network:
    """The network with the selected parameters, see `GradientBasisRefit`.

    Raises
    ------
    ValueError
        If a pattern matches no parameter, there are fewer layers, or only biases of the
        outputs are selected, which are constants.
    """
    if parameters == "all":
        return network
    positions = network.parameter_positions()
    if not positions:
        raise ValueError(
            f"parameters must be 'all' for a model that is not a single network, got "
            f"{parameters!r}."
        )
    layers = list(dict.fromkeys(map(_layer_of, positions)))
    if isinstance(parameters, str):
        count = int(parameters.partition("-")[2] or 1)
        if count > len(layers):
            raise ValueError(
                f"parameters must be at most 'last-{len(layers)}' for a network of "
                f"{len(layers)} layers, got {parameters!r}."
            )
        names = [name for name in positions if _layer_of(name) in layers[-count:]]
    else:
        names = []
        for pattern in parameters:
            matching = [
                name
                for name in positions
                if fnmatchcase(name, pattern) or name.startswith(f"{pattern}.")
            ]
            if not matching:
                known = list(positions)
                listed = ", ".join(known[:20]) + (", ..." if len(known) > 20 else "")
                raise ValueError(
                    "parameters must be names of parameters or patterns that match "
                    f"some, got {pattern!r}, which matches none of {listed}."
                )
            names += matching
    keep = torch.zeros(network.n_params, dtype=torch.bool)
    for name in names:
        keep[positions[name]] = True
    return SelectedNetwork(network, torch.nonzero(keep)[:, 0])


def _layer_of(name: str) -> str:
    return name.rpartition(".")[0]
