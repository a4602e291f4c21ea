"""Bases: where the columns of a convex model come from."""

from sklearn_pgb._bases._basis import Basis, FeatureBasis, InputBasis
from sklearn_pgb._bases._induced import GradientBasis, LayerBasis, ResNetBasis
from sklearn_pgb._bases._perturbed import PerturbedGradientBasis, new_displacements
from sklearn_pgb._bases._rank import generic_rank, jacobian_rank
from sklearn_pgb._bases._tangent import TangentSpace, jacobian, mean_raw, tangent_raw

__all__ = [
    "Basis",
    "FeatureBasis",
    "GradientBasis",
    "InputBasis",
    "LayerBasis",
    "PerturbedGradientBasis",
    "ResNetBasis",
    "TangentSpace",
    "generic_rank",
    "jacobian",
    "jacobian_rank",
    "mean_raw",
    "new_displacements",
    "tangent_raw",
]
