"""The interface of networks, and conversions of arrays to tensors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from sklearn_pgb._operators._function import FunctionOperator
from sklearn_pgb._operators._operator import LinearOperator
from sklearn_pgb._operators._outputs import apply_sets


@dataclass(frozen=True, eq=False)
class Head:
    """The last layer of a network, if it is linear.

    Attributes
    ----------
    bias : slice or None
        Positions in theta of the output biases, for which the derivative of the raw
        outputs is the identity. None if there are no such biases.
    span_coef : Tensor (n_params,) or None
        A vector g with ``f(X) = J(X) g``: the head's weights and bias, and zeros for
        all other parameters. None if none is known.
    """

    bias: slice | None
    span_coef: Tensor | None


class Network(ABC):
    """A function ``f(X; theta)`` with raw outputs and one flat parameter vector.

    Conventions
    -----------
    Everything is float64. `theta` has shape (n_params,), raw outputs have shape
    (n_samples, n_outputs); inputs have the samples on their first axis. Calling the
    network is a pure function of theta and X and works with all torch.func transforms.
    `n_inputs` and `n_outputs` are None if they are only known after a forward pass.
    """

    @property
    @abstractmethod
    def n_inputs(self) -> int | None:
        """Number of input features."""

    @property
    @abstractmethod
    def n_outputs(self) -> int | None:
        """Number of raw outputs."""

    @property
    @abstractmethod
    def n_params(self) -> int:
        """Number of trainable parameters."""

    @property
    @abstractmethod
    def theta(self) -> Tensor:
        """Copy of the trainable parameters."""

    @property
    def is_linear(self) -> bool:
        """Whether the outputs are known to be linear in the inputs."""
        return False

    @property
    def is_linear_in_theta(self) -> bool:
        """Whether the outputs are known to be linear in all parameters."""
        return False

    def blocks(self) -> dict[str, slice]:
        """Positions in theta of groups of parameters, by name.

        The outputs may be linear in each group while the others are fixed.
        """
        return {}

    def parameter_shapes(self) -> dict[str, torch.Size]:
        """Shapes by name, ``layer.parameter``, in the order of theta; or nothing."""
        return {}

    def parameter_positions(self) -> dict[str, slice]:
        """Positions in theta by name, ``layer.parameter``; empty if there are none."""
        shapes = self.parameter_shapes()
        return positions_of(list(shapes), [shape.numel() for shape in shapes.values()])

    def parameters_in_use(self, X: Tensor) -> list[str]:
        """Names of the parameters that the forward pass on X uses, in their order.

        A parameter of several layers belongs to the last of them.
        """
        return list(self.parameter_shapes())

    def modules_along(self, direction: Tensor) -> tuple[nn.Module, nn.Module] | None:
        """The network as a torch module, and one with other parameters.

        They are new. The second has the direction (n_params,) in place of theta, and
        zeros in place of constants. None if there is no such module.
        """
        return None

    @abstractmethod
    def to(self, device: torch.device) -> Network:
        """The same network on a device."""

    @abstractmethod
    def at(self, theta: Tensor) -> Network:
        """The same network with other parameters."""

    @abstractmethod
    def __call__(self, theta: Tensor, X: Tensor) -> Tensor:
        """Raw outputs at the given parameters."""

    def count_outputs(self, X: Any) -> int:
        """Number of raw outputs, from a forward pass on the first sample."""
        return self(self.theta, X[:1]).shape[1]

    def layers(self, X: Tensor) -> list[Tensor]:
        """X, the outputs of the hidden layers if known, and the raw outputs."""
        return [X, self(self.theta, X)]

    @abstractmethod
    def find_head(self, X: Tensor) -> Head:
        """Find the head; networks of unknown form test candidates on the samples X."""

    def jacobian(self, X: Tensor, *, without: slice | None = None) -> LinearOperator:
        """The partial derivatives of the raw outputs with respect to the parameters.

        The positions `without`, usually those of the output bias, are left out.
        """
        columns = positions_without(self.n_params, without)
        return FunctionOperator(self, self.theta, X, columns)

    def tangent_model(self, weight: float, coefs: Tensor) -> Callable[[Tensor], Tensor]:
        """The function ``weight f(X) + J(X) c`` of the inputs.

        Coefficients (n_sets, n_params) are one set, or one for each output.
        """
        theta, is_zero = self.theta, not bool(coefs.any())

        def raw(X: Tensor) -> Tensor:
            if weight and is_zero:
                return weight * self(theta, X)
            moved = apply_sets(self.jacobian(X), coefs)
            return moved + weight * self(theta, X) if weight else moved

        return raw


def positions_without(n_params: int, without: slice | None) -> Tensor:
    """Positions in theta that are not in a slice."""
    keep = torch.ones(n_params, dtype=torch.bool)
    if without is not None:
        keep[without] = False
    return torch.nonzero(keep)[:, 0]


def positions_of(names: Sequence[str], sizes: Sequence[int]) -> dict[str, slice]:
    """Positions in theta of parameters of these sizes."""
    stops = list(accumulate(sizes))
    starts = [0, *stops[:-1]]
    return dict(zip(names, map(slice, starts, stops), strict=True))


class _Writable:
    """Present a read-only array as writable, to view it as a tensor without a warning.

    This package never writes to its inputs. A copy instead would be expensive for
    memory-mapped data, which several workers use.
    """

    def __init__(self, array: NDArray[Any]):
        self.array = array
        interface = dict(array.__array_interface__)
        interface["data"] = (interface["data"][0], False)
        self.__array_interface__ = interface


def as_tensor(array: ArrayLike, dtype: type[np.floating[Any]]) -> Tensor:
    """View an array as a tensor; copy only if type or layout differ."""
    plain = np.require(array, dtype, ["C", "A"])
    if any(stride < 0 for stride in plain.strides):
        # An axis of length one can have a negative stride and count as contiguous.
        plain = plain.copy()
    if not plain.flags.writeable and plain.size:
        plain = np.asarray(_Writable(plain))
    return torch.from_numpy(plain)


def as_float64(array: Tensor | ArrayLike) -> Tensor:
    """View as a float64 tensor; copy only if necessary."""
    if isinstance(array, Tensor):
        return array.detach().to(torch.float64)
    return as_tensor(array, np.float64)
