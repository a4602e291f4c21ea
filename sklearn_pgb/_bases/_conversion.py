"""Conversion of transformers and networks to bases."""

from collections.abc import Mapping
from typing import Any

from sklearn.base import clone

from sklearn_pgb._bases._basis import Basis, FeatureBasis
from sklearn_pgb._bases._induced import GradientBasis
from sklearn_pgb._models._open import check_can_open


def as_basis(value: Any) -> Basis:
    """Return a copy of a basis, or wrap a transformer or a network."""
    if isinstance(value, Basis):
        return clone(value)
    # A VotingRegressor transforms too, but it is a model with a gradient basis.
    if hasattr(value, "transform") and not hasattr(value, "predict"):
        return FeatureBasis(clone(value))
    check_can_open(value)
    return GradientBasis(value)


def check_names(bases: Any) -> None:
    """Raise an error unless `bases` is a dict with strings as keys."""
    if not isinstance(bases, Mapping):
        raise TypeError(
            "bases must be a dict from names to bases, transformers or estimators, got "
            f"{type(bases).__name__}."
        )
    for name in bases:
        if not isinstance(name, str):
            raise TypeError(f"bases must have strings as names, got {name!r}.")
