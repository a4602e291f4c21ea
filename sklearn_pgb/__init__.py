"""Networks for scikit-learn users, with a convex refit and a certificate."""

from sklearn_pgb._added_neuron import AddedNeuronClassifier, AddedNeuronRegressor
from sklearn_pgb._bases import (
    FeatureBasis,
    GradientBasis,
    InputBasis,
    LayerBasis,
    ResNetBasis,
)
from sklearn_pgb._display import LandscapeDisplay, TrainingDisplay
from sklearn_pgb._refit import GradientBasisRefit
from sklearn_pgb._resnet import ResNetBasisClassifier, ResNetBasisRegressor

__version__ = "0.1.0"

__all__ = [
    "AddedNeuronClassifier",
    "AddedNeuronRegressor",
    "FeatureBasis",
    "GradientBasis",
    "GradientBasisRefit",
    "InputBasis",
    "LandscapeDisplay",
    "LayerBasis",
    "ResNetBasis",
    "ResNetBasisClassifier",
    "ResNetBasisRegressor",
    "TrainingDisplay",
]
