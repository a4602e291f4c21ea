"""The layers of chains."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sklearn_pgb._budget import FAR_FROM_ZERO
from sklearn_pgb._operators._layers import (
    LayerDerivative,
    LinearDerivative,
    NormDerivative,
)


class Layer(ABC):
    """A function of the previous layer's outputs and of the layer's parameters."""

    @property
    def parameters(self) -> list[Tensor]:
        """The layer's trainable parameters, in the order of theta."""
        return []

    def at(self, parameters: Sequence[Tensor]) -> Layer:
        """The same layer with other parameters."""
        return self

    def on_inputs(self, X: Tensor) -> Tensor:
        """The outputs if this is the first layer of a chain."""
        return self(X)

    @abstractmethod
    def n_outputs(self, n_inputs: int) -> int | None:
        """Number of outputs; None if the layer does not take `n_inputs` inputs."""

    @abstractmethod
    def module(self) -> nn.Module:
        """A new torch module with copies of the parameters."""

    @abstractmethod
    def __call__(self, h: Tensor) -> Tensor:
        """The outputs for the outputs h of the previous layer."""

    @abstractmethod
    def jacobian(self, h: Tensor, out: Tensor, bias: bool) -> LayerDerivative:
        """The derivatives at inputs h and outputs `out`.

        Derivatives with respect to a bias are included only if `bias`.
        """


@dataclass(frozen=True, eq=False)
class Linear(Layer):
    """``W h + b``; b may be None."""

    weight: Tensor
    bias: Tensor | None

    @property
    def parameters(self) -> list[Tensor]:
        return [self.weight] if self.bias is None else [self.weight, self.bias]

    def at(self, parameters: Sequence[Tensor]) -> Linear:
        return Linear(parameters[0], None if self.bias is None else parameters[1])

    def on_inputs(self, X: Tensor) -> Tensor:
        """The outputs for inputs X, accurate even if columns are far from zero.

        The first entry c of such columns is subtracted, which is exact:
        ``W x + b = W (x - c) + (W c + b)``, with the last term in extended precision.
        Otherwise large terms cancel: at an offset of 1e10, outputs keep six digits, and
        bounds on the loss are off by 1e-7.
        """
        weight, bias = self.weight, self.bias
        is_traced = weight.requires_grad or torch._C._are_functorch_transforms_active()
        if bias is None or is_traced or X.dtype != torch.float64:
            return self(X)
        center = far_center(X)
        if center is None:
            return self(X)
        return F.linear(X - center, weight, exact_shift(weight, center[0], bias))

    def n_outputs(self, n_inputs: int) -> int | None:
        return len(self.weight) if self.weight.shape[1] == n_inputs else None

    def module(self) -> nn.Module:
        n_out, n_in = self.weight.shape
        # Skips the initialization, which would use torch's global generator.
        module = nn.utils.skip_init(nn.Linear, n_in, n_out, self.bias is not None)
        return _with_parameters(module, self.parameters)

    def __call__(self, h: Tensor) -> Tensor:
        return F.linear(h, self.weight, self.bias)

    def jacobian(self, h: Tensor, out: Tensor, bias: bool) -> LayerDerivative:
        return LinearDerivative(h, self.weight, bias and self.bias is not None)


@dataclass(frozen=True, eq=False)
class LayerNorm(Layer):
    """``weight (h - mean(h)) / sqrt(var(h) + eps) + bias``.

    Mean and variance are over the units of each sample. Without a weight it is one,
    without a bias it is zero.
    """

    width: int
    eps: float
    weight: Tensor | None
    bias: Tensor | None

    @property
    def parameters(self) -> list[Tensor]:
        return [part for part in (self.weight, self.bias) if part is not None]

    def at(self, parameters: Sequence[Tensor]) -> LayerNorm:
        weight = None if self.weight is None else parameters[0]
        bias = None if self.bias is None else parameters[-1]
        return LayerNorm(self.width, self.eps, weight, bias)

    def on_inputs(self, X: Tensor) -> Tensor:
        """The outputs for inputs X, accurate even if samples are far from zero.

        Normalization is invariant to a constant added to a sample, and subtracting the
        first entry loses no digits of the differences. Otherwise outputs keep eight
        digits at an offset of 1e8, and seem to have a higher rank.
        """
        return self(_from_first(X))

    def n_outputs(self, n_inputs: int) -> int | None:
        return n_inputs if n_inputs == self.width else None

    def module(self) -> nn.Module:
        given = self.weight is not None, self.bias is not None
        module = nn.LayerNorm(self.width, self.eps, *given)
        return _with_parameters(module, self.parameters)

    def __call__(self, h: Tensor) -> Tensor:
        return F.layer_norm(h, (self.width,), self.weight, self.bias, self.eps)

    def jacobian(self, h: Tensor, out: Tensor, bias: bool) -> LayerDerivative:
        shift = bias and self.bias is not None
        return NormDerivative.at(_from_first(h), self.eps, self.weight, shift)


def _from_first(h: Tensor) -> Tensor:
    """Subtract the first entry of each sample."""
    return h - h[..., :1]


def far_center(X: Tensor) -> Tensor | None:
    """Return the first entries of columns far from zero, and zeros for other columns.

    The samples X have shape (..., n_samples, n_inputs), the result (..., 1, n_inputs).
    It is None if no column is far from zero.
    """
    if not X.shape[-2]:
        return None
    first = X[..., :1, :]
    if X.shape[-2] == 1:
        # A single sample is always far from zero.
        return first
    far = first.abs() > FAR_FROM_ZERO * (X - first).abs().amax(-2, keepdim=True)
    return torch.where(far, first, 0.0) if bool(far.any()) else None


def exact_shift(weight: Tensor, center: Tensor, bias: Tensor) -> Tensor:
    """``W c + b`` in extended precision, for one layer or a stack of them."""
    W, c, b = (
        part.cpu().numpy().astype(np.longdouble) for part in (weight, center, bias)
    )
    # The caller checks that outputs are finite.
    with np.errstate(over="ignore", invalid="ignore"):
        total = (W @ c[..., None])[..., 0] + b
        return torch.from_numpy(total.astype(np.float64)).to(weight.device)


def _with_parameters(module: nn.Module, values: Sequence[Tensor]) -> nn.Module:
    """Put copies of the values into a module."""
    for parameter, value in zip(module.parameters(), values, strict=True):
        parameter.data = value.clone(memory_format=torch.contiguous_format)
    return module
