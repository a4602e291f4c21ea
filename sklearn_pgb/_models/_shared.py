"""Models whose outputs share their features, for three or more classes."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from sklearn_pgb._models._chain import ChainNetwork
from sklearn_pgb._models._layers import Linear
from sklearn_pgb._models._leaves import LeafModel
from sklearn_pgb._models._network import Head, Network
from sklearn_pgb._models._opened import OpenNetwork
from sklearn_pgb._operators._dense import KroneckerOperator
from sklearn_pgb._operators._operator import LinearOperator
from sklearn_pgb._operators._repeated import RepeatedOperator
from sklearn_pgb._operators._stacked import StackedOperator


def share_outputs(opened: OpenNetwork) -> OpenNetwork:
    """The same function with features that all outputs share, if there are any.

    One kernel then serves all outputs. Trees of one output become features of all, and
    derivatives of a network's outputs are replaced by those of one output, see
    `SharedNetwork`. Other models are returned as they are.
    """
    network = opened.network
    if isinstance(network, LeafModel) and network.tree_outputs is not None:
        return replace(opened, network=_shared_leaves(network))
    if isinstance(network, ChainNetwork) and isinstance(network.chain[-1], Linear):
        return replace(opened, network=SharedNetwork(network))
    return opened


def _shared_leaves(model: LeafModel) -> LeafModel:
    """The same trees with a value of each leaf for every output."""
    assert model.tree_outputs is not None
    owners = model.tree_outputs.repeat_interleave(torch.tensor(model.n_leaves))
    values = one_hot(owners, model.n_outputs) * model.values[:, None]
    return LeafModel(model.n_leaves, values, model.bias, model.scale)


class SharedNetwork(Network):
    """A chain plus derivatives of one output, with coefficients for each output.

    It is ``f(x) + J(x) C + b``, where J are the partial derivatives of ``r h(x)`` with
    respect to r and the parameters of the hidden layers, whose outputs are h. The
    entries of r are the root mean squares of the columns of the last layer's weights,
    so that the kernel of J is nearly the mean of the kernels of the outputs of f. Theta
    holds C (n_features, n_outputs) and b.

    Parameters
    ----------
    chain : ChainNetwork
        The last layer is linear.
    theta : Tensor or None
        None for zeros.
    """

    def __init__(self, chain: ChainNetwork, theta: Tensor | None = None):
        self.chain = chain
        *hidden, head = chain.chain
        assert isinstance(head, Linear)
        pooled = head.weight.square().mean(0, keepdim=True).sqrt()
        self.pooled = ChainNetwork([*hidden, Linear(pooled, None)])
        self._theta = pooled.new_zeros(self.n_params) if theta is None else theta

    @property
    def n_inputs(self) -> int:
        return self.chain.n_inputs

    @property
    def n_outputs(self) -> int:
        return self.chain.n_outputs

    @property
    def n_params(self) -> int:
        return (self.pooled.n_params + 1) * self.n_outputs

    @property
    def theta(self) -> Tensor:
        return self._theta.clone()

    def to(self, device: torch.device) -> SharedNetwork:
        return SharedNetwork(self.chain.to(device), self._theta.to(device))

    def at(self, theta: Tensor) -> SharedNetwork:
        return SharedNetwork(self.chain, theta.detach().clone())

    def __call__(self, theta: Tensor, X: Tensor) -> Tensor:
        raw = self.chain(self.chain.theta, X)
        return raw + self.jacobian(X).matvec(theta) if theta.any() else raw

    def find_head(self, X: Tensor) -> Head:
        return Head(slice(self.n_params - self.n_outputs, self.n_params), None)

    def jacobian(self, X: Tensor, *, without: slice | None = None) -> LinearOperator:
        k = self.n_outputs
        operator = RepeatedOperator(self.pooled.jacobian(X), k)
        if without is not None:
            return operator
        ones = KroneckerOperator(X.new_ones(len(X), 1), k)
        return StackedOperator([operator, ones], [1.0, 1.0])
