"""Sums of models as one model."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from sklearn_pgb._models._leaves import LeafModel
from sklearn_pgb._models._module import ModuleNetwork
from sklearn_pgb._models._network import Head, Network, positions_without
from sklearn_pgb._operators._dense import KroneckerOperator
from sklearn_pgb._operators._mapped import mapped
from sklearn_pgb._operators._operator import LinearOperator
from sklearn_pgb._operators._stacked import StackedOperator


class CombinedModel(Network):
    """A sum of models ``f(x) = sum_m A_m f_m(x_m; theta_m) + b``.

    The output biases of the members are collinear, so they are part of b. Theta holds
    the members' other parameters, member by member, and then b. Each member takes some
    `columns` of the inputs, and the given bias is added to those of the members.
    """

    def __init__(
        self,
        members: Sequence[Network],
        columns: Sequence[slice],
        matrices: Sequence[Tensor],
        bias: Tensor,
    ) -> None:
        self.columns, self.matrices = list(columns), list(matrices)
        self.members: list[Network] = []
        self.biases: list[slice | None] = []
        self.bias = bias
        for member, matrix in zip(members, matrices, strict=True):
            position = None
            if not isinstance(member, ModuleNetwork):
                # Modules keep their own bias.
                inputs = torch.empty(0, member.n_inputs or 0)
                position = member.find_head(inputs).bias
            if position is not None:
                theta = member.theta
                self.bias = self.bias + matrix @ theta[position]
                theta[position] = 0
                member = member.at(theta)
            self.members.append(member)
            self.biases.append(position)
        if not any(self.biases) and not bool(bias.any()):
            self.bias = bias[:0]

    @property
    def n_inputs(self) -> int:
        return max(columns.stop for columns in self.columns)

    @property
    def n_outputs(self) -> int:
        return len(self.matrices[0])

    @property
    def n_params(self) -> int:
        return sum(self._sizes())

    @property
    def theta(self) -> Tensor:
        pairs = zip(self.members, self._positions(), strict=True)
        return torch.cat([*(member.theta[kept] for member, kept in pairs), self.bias])

    @property
    def is_linear_in_theta(self) -> bool:
        return all(member.is_linear_in_theta for member in self.members)

    def to(self, device: torch.device) -> CombinedModel:
        moved = copy.copy(self)
        moved.members = [member.to(device) for member in self.members]
        moved.matrices = [matrix.to(device) for matrix in self.matrices]
        moved.bias = self.bias.to(device)
        return moved

    def at(self, theta: Tensor) -> CombinedModel:
        other = copy.copy(self)
        *parts, bias = self._split(theta.detach().clone())
        other.members = [
            member.at(part) for member, part in zip(self.members, parts, strict=True)
        ]
        other.bias = bias
        return other

    def __call__(self, theta: Tensor, X: Tensor) -> Tensor:
        *parts, bias = self._split(theta)
        pairs = zip(self.members, parts, strict=True)
        return self._sum([partial(member, part) for member, part in pairs], bias, X)

    def _sum(
        self, functions: Sequence[Callable[[Tensor], Tensor]], bias: Tensor, X: Tensor
    ) -> Tensor:
        """The sum of the members' functions, mapped to the outputs, and a bias."""
        terms = [
            function(rows) @ matrix.T
            for function, rows, matrix in zip(
                functions, self.inputs(X), self.matrices, strict=True
            )
        ]
        total = torch.stack(terms).sum(0)
        return total + bias if len(bias) else total

    def inputs(self, X: Tensor) -> list[Tensor]:
        """The inputs of each member."""
        parts = [X[:, columns] for columns in self.columns]
        return [
            part if isinstance(member, LeafModel) else part.to(torch.float64)
            for member, part in zip(self.members, parts, strict=True)
        ]

    def find_head(self, X: Tensor) -> Head:
        n_params, parts = self.n_params, []
        bias = slice(n_params - len(self.bias), n_params) if len(self.bias) else None
        if not len(X):
            return Head(bias, None)
        for member, rows, kept in zip(
            self.members, self.inputs(X), self._positions(), strict=True
        ):
            span_coef = member.find_head(rows).span_coef
            if span_coef is None:
                return Head(bias, None)
            parts.append(span_coef[kept])
        return Head(bias, torch.cat([*parts, self.bias]))

    def jacobian(self, X: Tensor, *, without: slice | None = None) -> LinearOperator:
        parts = [
            mapped(member.jacobian(rows, without=bias), matrix)
            for member, rows, bias, matrix in zip(
                self.members, self.inputs(X), self.biases, self.matrices, strict=True
            )
        ]
        if without is None and len(self.bias):
            ones = self.bias.new_ones(len(X), 1)
            parts.append(KroneckerOperator(ones, self.n_outputs))
        return StackedOperator(parts, [1.0] * len(parts))

    def tangent_model(self, weight: float, coefs: Tensor) -> Callable[[Tensor], Tensor]:
        """The tangent models of the members, if all outputs share the coefficients."""
        if len(coefs) > 1:
            return super().tangent_model(weight, coefs)
        *parts, bias = self._split(coefs[0])
        bias = bias + weight * self.bias
        members = [
            member.tangent_model(weight, part[None])
            for member, part in zip(self.members, parts, strict=True)
        ]
        return partial(self._sum, members, bias)

    def _positions(self) -> list[Tensor]:
        """Positions in each member's theta, without its output bias."""
        pairs = zip(self.members, self.biases, strict=True)
        return [positions_without(member.n_params, bias) for member, bias in pairs]

    def _sizes(self) -> list[int]:
        return [*map(len, self._positions()), len(self.bias)]

    def _split(self, theta: Tensor) -> list[Tensor]:
        """Theta of each member, with zeros as its output bias, and b."""
        *parts, bias = theta.split(self._sizes())
        full = [
            part
            if position is None
            else torch.cat(
                [
                    part[: position.start],
                    part.new_zeros(position.stop - position.start),
                    part[position.start :],
                ]
            )
            for part, position in zip(parts, self.biases, strict=True)
        ]
        return [*full, bias]
