"""Bases from whatever a user gives by name."""

from collections.abc import Mapping
from typing import Any

from sklearn.base import clone

from sklearn_pgb._bases._basis import Basis, FeatureBasis
from sklearn_pgb._bases._induced import GradientBasis
from sklearn_pgb._models._open import check_can_open


def as_basis(value: Any) -> Basis:
    """A copy of a basis, the features of a transformer, or a network's gradient basis.

    Raises
    ------
    TypeError
        If it is none of these.
    """
    if isinstance(value, Basis):
        return clone(value)
    if hasattr(value, "transform") and not hasattr(value, "predict"):
        return FeatureBasis(clone(value))
    check_can_open(value)
    return GradientBasis(value)


def check_names(bases: Any) -> None:
    """Refuse anything but a dict from names."""
    if not isinstance(bases, Mapping):
        raise TypeError(
            "bases must be a dict from names to bases, transformers or estimators, got "
            f"{type(bases).__name__}."
        )
    for name in bases:
        if not isinstance(name, str):
            raise TypeError(f"bases must have strings as names, got {name!r}.")
