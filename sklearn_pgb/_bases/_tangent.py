"""The partial derivatives of trained networks as columns of a convex model."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor

from sklearn_pgb._bases._streamed import StreamedOperator, streamed_outputs
from sklearn_pgb._models._mapped_rows import StreamedInputs
from sklearn_pgb._models._network import Head, Network, positions_without
from sklearn_pgb._models._selected import SelectedNetwork
from sklearn_pgb._operators._operator import LinearOperator
from sklearn_pgb._operators._stacked import StackedOperator


@dataclass(frozen=True, eq=False)
class TangentSpace:
    """Partial derivatives of trained networks, concatenated.

    Each network's columns are scaled to a mean squared row norm of one over the number
    of networks. The kernel is then the mean of the networks' kernels, and alpha has the
    same meaning for any network and any number of them. The derivatives with respect to
    the output biases are constants and become the problem's intercept.
    """

    networks: tuple[Network, ...]
    heads: tuple[Head, ...]
    scales: tuple[float, ...]

    @classmethod
    def of(
        cls, networks: Sequence[Network], inputs: Sequence[Tensor], weight: Tensor
    ) -> Self:
        """Compute heads and scales on the training inputs, one tensor per network.

        Raises
        ------
        ValueError
            If partial derivatives overflow, or only output biases are parameters.
        """
        space = cls.with_scales(networks, inputs, [1.0] * len(networks))
        scales = []
        operator = space.operator(inputs)
        # Samples in a file are the inputs of one network.
        parts = getattr(operator, "operators", [operator])
        for network, part in zip(networks, parts, strict=True):
            if not part.n_coef:
                raise ValueError(
                    "parameters must include more than the biases of the outputs, "
                    "whose derivatives are constants. Select other parameters as well."
                )
            size = float((weight @ part.squared_row_norms()).mean()) * len(networks)
            if not math.isfinite(size):
                raise ValueError(
                    "The partial derivatives of the model must be finite for the "
                    "training samples, but their squares overflow. Scale the inputs "
                    "and targets."
                )
            # If no parameter changes the outputs, the zero columns are kept.
            if size == 0 and isinstance(network, SelectedNetwork):
                warnings.warn(
                    "The selected parameters do not change the outputs for the "
                    "training samples: all of their derivatives are zero, so a refit "
                    "can only add a constant. Select parameters that the model uses.",
                    UserWarning,
                    stacklevel=2,
                )
            scales.append(size**-0.5 if size > 0 else 1.0)
        return replace(space, scales=tuple(scales))

    @classmethod
    def with_scales(
        cls,
        networks: Sequence[Network],
        inputs: Sequence[Tensor],
        scales: Sequence[float],
    ) -> Self:
        """Create a space with known scales, and find the heads on a few samples."""
        heads = [
            network.find_head(X[:8])
            for network, X in zip(networks, inputs, strict=True)
        ]
        return cls(tuple(networks), tuple(heads), tuple(float(s) for s in scales))

    @property
    def intercept(self) -> bool:
        """Whether every network has output biases."""
        return all(head.bias is not None for head in self.heads)

    @property
    def spans_networks(self) -> bool:
        """Whether a g with f = J g is known for every network."""
        return all(head.span_coef is not None for head in self.heads)

    def operator(self, inputs: Sequence[Any]) -> LinearOperator:
        """The scaled columns on these inputs, output biases left out."""
        if isinstance(inputs[0], StreamedInputs):
            return StreamedOperator(self.operator, inputs)
        parts = [
            network.jacobian(X, without=head.bias if self.intercept else None)
            for network, head, X in zip(self.networks, self.heads, inputs, strict=True)
        ]
        return StackedOperator(parts, self.scales)

    def parameters(self, coef: Tensor, intercept: Tensor, add_mean: bool) -> Tensor:
        """Coefficients of the unscaled derivatives, one per network parameter.

        With `add_mean`, the mean of the networks is added, if it is in the span. Its
        coefficients are (g_1, ..., g_K) / K.
        """
        sizes = [
            network.n_params - (len(intercept) if self.intercept else 0)
            for network in self.networks
        ]
        count = len(self.networks)
        result = []
        for network, head, scale, part in zip(
            self.networks, self.heads, self.scales, coef.split(sizes), strict=True
        ):
            bias = head.bias if self.intercept else None
            full = part.new_zeros(network.n_params)
            full[positions_without(len(full), bias)] = scale * part
            if bias is not None:
                full[bias] = intercept / count
            if add_mean and self.spans_networks:
                assert head.span_coef is not None
                full += head.span_coef / count
            result.append(full)
        return torch.cat(result)

    def average(self, n_outputs: int) -> tuple[Tensor, Tensor]:
        """Coefficients and intercept of the mean of the networks.

        It must be in the span. `parameters` is the inverse.
        """
        count, coefs = len(self.networks), []
        intercept = self.networks[0].theta.new_zeros(n_outputs)
        for head, scale in zip(self.heads, self.scales, strict=True):
            assert head.span_coef is not None
            bias = head.bias if self.intercept else None
            kept = positions_without(len(head.span_coef), bias)
            coefs.append(head.span_coef[kept] / (count * scale))
            if bias is not None:
                intercept = intercept + head.span_coef[bias] / count
        return torch.cat(coefs), intercept

    def raw(
        self, inputs: Sequence[Any], parameters: Tensor, average: Tensor | None = None
    ) -> Tensor:
        """Raw outputs of the model with these parameters on any inputs.

        The mean of the networks, which `average` holds if it is known, is added unless
        it is in the span: then the parameters include it.
        """
        raw = tangent_raw(self.networks, inputs, parameters)
        if self.spans_networks:
            return raw
        return raw + (mean_raw(self.networks, inputs) if average is None else average)


def mean_raw(networks: Sequence[Network], inputs: Sequence[Any]) -> Tensor:
    """Mean raw outputs of the networks."""
    if isinstance(inputs[0], StreamedInputs):
        return streamed_outputs(partial(mean_raw, networks), inputs)
    outputs = [
        network(network.theta, X) for network, X in zip(networks, inputs, strict=True)
    ]
    return torch.stack(outputs).mean(0)


def tangent_raw(
    networks: Sequence[Network], inputs: Sequence[Any], parameters: Tensor
) -> Tensor:
    """Raw outputs J c, with one coefficient per parameter of all networks."""
    if isinstance(inputs[0], StreamedInputs):
        function = partial(tangent_raw, networks, parameters=parameters)
        return streamed_outputs(function, inputs)
    sizes = [network.n_params for network in networks]
    outputs = [
        network.jacobian(X).matvec(part)
        for network, X, part in zip(
            networks, inputs, parameters.split(sizes), strict=True
        )
    ]
    return torch.stack(outputs).sum(0)
