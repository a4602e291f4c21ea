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
from sklearn_pgb._compare import BasisComparison, compare_bases
from sklearn_pgb._display import (
    BasisComparisonDisplay,
    CertificateDisplay,
    LandscapeDisplay,
    MinimaSurveyDisplay,
    TrainingDisplay,
)
from sklearn_pgb._refit import GradientBasisRefit
from sklearn_pgb._resnet import ResNetBasisClassifier, ResNetBasisRegressor
from sklearn_pgb._survey import MinimaSurvey, survey_minima
from sklearn_pgb._version import __version__ as __version__

__all__ = [
    "AddedNeuronClassifier",
    "AddedNeuronRegressor",
    "BasisComparison",
    "BasisComparisonDisplay",
    "Certificate",
    "CertificateDisplay",
    "FeatureBasis",
    "GradientBasis",
    "GradientBasisRefit",
    "InputBasis",
    "LandscapeDisplay",
    "LayerBasis",
    "MinimaSurvey",
    "MinimaSurveyDisplay",
    "PerturbedGradientBasis",
    "ResNetBasis",
    "ResNetBasisClassifier",
    "ResNetBasisRegressor",
    "TrainingDisplay",
    "certify",
    "compare_bases",
    "survey_minima",
]
