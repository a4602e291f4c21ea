"""Sums of fitted models and of their derivatives, prepared for predictions."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from sklearn_pgb._estimator._border import inputs_of
from sklearn_pgb._models._leaves import LeafModel
from sklearn_pgb._models._opened import OpenNetwork
from sklearn_pgb._models._stacked import stack_kind, stacked_tangent_model
from sklearn_pgb._models._tree_lookup import Sums, TreeInputs
from sklearn_pgb._sklearn import _num_samples
from sklearn_pgb._threads import threads_for_prediction


@dataclass(frozen=True, eq=False)
class TangentSum:
    """The function ``sum_m w_m f_m(x) + J_m(x) c_m`` of opened models.

    The terms map the inputs of some models to their part of the sum. Trees map samples
    to sums over the leaves, without their numbers.
    """

    opened: list[OpenNetwork]
    terms: list[tuple[list[OpenNetwork], Callable[..., Tensor]]]
    trees: list[tuple[OpenNetwork, TreeInputs, Sums]]
    device: Any = None

    @classmethod
    def of(
        cls,
        opened: Sequence[OpenNetwork],
        weights: Sequence[float],
        coefs: Sequence[Tensor],
        device: Any = None,
    ) -> Self:
        """Prepare the terms, see `Network.tangent_model`; similar chains share one."""
        groups: dict[Any, list[int]] = {}
        trees = []
        for number, (model, coef) in enumerate(zip(opened, coefs, strict=True)):
            network, encode = model.network, model.encode
            if isinstance(network, LeafModel) and isinstance(encode, TreeInputs):
                leaves = network.tangent_leaves(weights[number], coef)
                sums = encode.lookup.sums(leaves.to(torch.device("cpu")))
                trees.append((model, encode, sums))
                continue
            kind = stack_kind(network) if len(coef) == 1 else None
            groups.setdefault(number if kind is None else kind, []).append(number)
        terms = []
        for members in groups.values():
            networks: list[Any] = [opened[i].network for i in members]
            given = [weights[i] for i in members], [coefs[i] for i in members]
            if len(members) > 1:
                term = stacked_tangent_model(networks, *given)
            else:
                term = networks[0].tangent_model(given[0][0], given[1][0])
            terms.append(([opened[i] for i in members], term))
        return cls(list(opened), terms, trees, device)

    def inputs(self, X: Any) -> list[Tensor]:
        """Return the inputs of each model, see `OpenNetwork.inputs`."""
        return inputs_of(self.opened, X, self.device, check=False)

    def raw(self, X: Any, start: Any = 0) -> Tensor:
        """Return the sum of the terms and of `start` for samples."""
        total: Any = start
        opened = [model for models, _ in self.terms for model in models]
        networks = [model.network for model in opened]
        inputs = iter(inputs_of(opened, X, self.device, check=False))
        # Others use parameters many times for a sample, as convolutions do.
        dense = all(stack_kind(network) is not None for network in networks)
        n_params = sum(network.n_params for network in networks)
        cost = _num_samples(X) * n_params if dense else math.inf
        with threads_for_prediction(cost):
            for models, term in self.terms:
                total = total + term(*[next(inputs) for _ in models])
        for model, encode, sums in self.trees:
            part = sums(encode.matrix(model.transformed(X)))
            total = total + part.to(self.device or "cpu")
        raw: Tensor = total
        return raw
