"""Sums of fitted models and of their derivatives, prepared for predictions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

from torch import Tensor

from sklearn_pgb._estimator._border import inputs_of
from sklearn_pgb._models._opened import OpenNetwork


@dataclass(frozen=True, eq=False)
class TangentSum:
    """The function ``sum_m w_m f_m(x) + J_m(x) c_m`` of opened models.

    The terms map the inputs of each model to its part of the sum.
    """

    opened: list[OpenNetwork]
    terms: list[Callable[[Tensor], Tensor]]
    device: Any = None

    @classmethod
    def of(
        cls,
        opened: Sequence[OpenNetwork],
        weights: Sequence[float],
        coefs: Sequence[Tensor],
        device: Any = None,
    ) -> Self:
        """Prepare the terms, see `Network.tangent_model`."""
        terms = [
            each.network.tangent_model(weight, coef)
            for each, weight, coef in zip(opened, weights, coefs, strict=True)
        ]
        return cls(list(opened), terms, device)

    def inputs(self, X: Any) -> list[Tensor]:
        """Return the inputs of each model."""
        return inputs_of(self.opened, X, self.device, check=False)

    def raw(self, inputs: Sequence[Tensor], start: Any = 0) -> Tensor:
        """Return the sum of the terms and of `start`."""
        pairs = zip(self.terms, inputs, strict=True)
        total: Tensor = sum((term(rows) for term, rows in pairs), start)
        return total
