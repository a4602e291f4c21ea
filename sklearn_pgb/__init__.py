"""Networks for scikit-learn users, with a convex refit and a certificate."""

from sklearn_pgb._added_neuron import AddedNeuronClassifier, AddedNeuronRegressor
from sklearn_pgb._bases import (
    FeatureBasis,
    GradientBasis,
    InputBasis,
    LayerBasis,
    PerturbedGradientBasis,
    ResNetBasis,
)
from sklearn_pgb._certificate import Certificate, certify
from sklearn_pgb._display import (
    CertificateDisplay,
    LandscapeDisplay,
    TrainingDisplay,
)
from sklearn_pgb._refit import GradientBasisRefit
from sklearn_pgb._resnet import ResNetBasisClassifier, ResNetBasisRegressor

__version__ = "0.1.0"

__all__ = [
    "AddedNeuronClassifier",
    "AddedNeuronRegressor",
    "Certificate",
    "CertificateDisplay",
    "FeatureBasis",
    "GradientBasis",
    "GradientBasisRefit",
    "InputBasis",
    "LandscapeDisplay",
    "LayerBasis",
    "PerturbedGradientBasis",
    "ResNetBasis",
    "ResNetBasisClassifier",
    "ResNetBasisRegressor",
    "TrainingDisplay",
    "certify",
]
