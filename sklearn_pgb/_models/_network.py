"""What the rest of the package asks of a network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from sklearn_pgb._operators import FunctionOperator, LinearOperator


@dataclass(frozen=True, eq=False)
class Head:
    """What is known of a network's last layer.

    Attributes
    ----------
    bias : slice or None
        Positions in theta of the output bias: the derivative of the raw output by
        these parameters is the identity. None if there is no such bias.
    in_span : Tensor of shape (n_params,) or None
        A vector g with ``f(X) = J(X) g``: the head's weights and bias in place, zeros
        elsewhere. None if none is known.
    """

    bias: slice | None
    in_span: Tensor | None


class Network(ABC):
    """A function ``f(X; theta)`` with raw outputs and one flat parameter vector.

    Conventions
    -----------
    Everything is float64. `theta` has shape (n_params,), raw outputs have shape
    (n_samples, n_outputs); inputs have the samples on their first axis. Calling the
    network is a pure function of theta and X, which all transforms of torch.func take.
    `n_inputs` and `n_outputs` are None where only a run can tell.
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

    @abstractmethod
    def to(self, device: torch.device) -> Network:
        """The same network on a device."""

    @abstractmethod
    def at(self, theta: Tensor) -> Network:
        """The same network with these parameters as its own."""

    @abstractmethod
    def __call__(self, theta: Tensor, X: Tensor) -> Tensor:
        """Raw outputs at any parameters."""

    @abstractmethod
    def layers(self, X: Tensor) -> list[Tensor]:
        """Return X, the outputs of the hidden layers that are known, the raw ones."""

    @abstractmethod
    def find_head(self, X: Tensor) -> Head:
        """Find the output bias and a g with ``f = J g``, on these rows if need be."""

    def jacobian(self, X: Tensor, *, without: slice | None = None) -> LinearOperator:
        """The partial derivatives of the raw outputs by the parameters.

        Parameters
        ----------
        X : Tensor (n_samples, ...)
        without : slice or None
            Positions in theta that give no column: the head's bias, or None.
        """
        columns = positions_without(self.n_params, without)
        return FunctionOperator(self, self.theta, X, columns)


def positions_without(n_params: int, without: slice | None) -> Tensor:
    """Positions in theta that are not in a slice."""
    keep = torch.ones(n_params, dtype=torch.bool)
    if without is not None:
        keep[without] = False
    return torch.nonzero(keep)[:, 0]


class _Shared:
    """Read-only memory under an interface that does not say so.

    torch warns of arrays that it cannot write to, though nothing in this package
    writes to its inputs: memory-mapped data would be copied for each worker.
    """

    def __init__(self, array: NDArray[Any]):
        self.array = array
        interface = dict(array.__array_interface__)
        interface["data"] = (interface["data"][0], False)
        self.__array_interface__ = interface


def as_tensor(array: ArrayLike, dtype: type[np.floating[Any]]) -> Tensor:
    """View an array as a tensor; copy only where type or layout differ."""
    plain = np.require(array, dtype, ["C", "A"])
    if any(stride < 0 for stride in plain.strides):
        # An axis of one entry may run backwards and count as contiguous.
        plain = plain.copy()
    if not plain.flags.writeable and plain.size:
        plain = np.asarray(_Shared(plain))
    return torch.from_numpy(plain)


def as_float64(array: Tensor | ArrayLike) -> Tensor:
    """View as a float64 tensor; copy only where that is impossible."""
    if isinstance(array, Tensor):
        return array.detach().to(torch.float64)
    return as_tensor(array, np.float64)
