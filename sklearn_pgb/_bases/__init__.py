"""Bases: where the columns of a convex model come from."""

from sklearn_pgb._bases._basis import Basis, FeatureBasis, InputBasis
from sklearn_pgb._bases._induced import GradientBasis, LayerBasis, ResNetBasis
from sklearn_pgb._bases._tangent import TangentSpace, jacobian, mean_raw, tangent_raw

__all__ = [
    "Basis",
    "FeatureBasis",
    "GradientBasis",
    "InputBasis",
    "LayerBasis",
    "ResNetBasis",
    "TangentSpace",
    "jacobian",
    "mean_raw",
    "tangent_raw",
]
