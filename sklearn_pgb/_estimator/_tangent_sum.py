"""Sums of fitted models and of their derivatives, prepared for predictions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

from torch import Tensor

from sklearn_pgb._estimator._border import inputs_of
from sklearn_pgb._models._opened import OpenNetwork
from sklearn_pgb._models._stacked import stack_kind, stacked_tangent_model


@dataclass(frozen=True, eq=False)
class TangentSum:
    """The function ``sum_m w_m f_m(x) + J_m(x) c_m`` of opened models.

    The terms map the inputs of each model to its part of the sum.
    """

    opened: list[OpenNetwork]
    terms: list[tuple[list[int], Callable[[Sequence[Tensor]], Tensor]]]
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
        for number, (model, coef) in enumerate(zip(opened, coefs, strict=True)):
            kind = stack_kind(model.network) if len(coef) == 1 else None
            groups.setdefault(number if kind is None else kind, []).append(number)
        terms = []
        for members in groups.values():
            networks = [opened[i].network for i in members]
            given = [weights[i] for i in members], [coefs[i] for i in members]
            model_of = stacked_tangent_model if len(members) > 1 else _single
            terms.append((members, model_of(networks, *given)))
        return cls(list(opened), terms, device)

    def inputs(self, X: Any, validated: bool = False) -> list[Tensor]:
        """Return the inputs of each model, see `OpenNetwork.inputs`."""
        return inputs_of(self.opened, X, self.device, check=False, validated=validated)

    def raw(self, inputs: Sequence[Tensor], start: Any = 0) -> Tensor:
        """Return the sum of the terms and of `start`."""
        parts = (term([inputs[i] for i in members]) for members, term in self.terms)
        total: Tensor = sum(parts, start)
        return total


def _single(
    networks: Sequence[Any], weights: Sequence[float], coefs: Sequence[Tensor]
) -> Callable[[Sequence[Tensor]], Tensor]:
    term = networks[0].tangent_model(weights[0], coefs[0])
    return lambda inputs: term(inputs[0])
