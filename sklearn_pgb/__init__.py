"""Networks for scikit-learn users, with a convex refit and a certificate."""

from sklearn_pgb._added_neuron._classifier import AddedNeuronClassifier
from sklearn_pgb._added_neuron._regressor import AddedNeuronRegressor
from sklearn_pgb._bases._basis import Basis, FeatureBasis, InputBasis
from sklearn_pgb._bases._induced import GradientBasis, LayerBasis
from sklearn_pgb._bases._perturbed import PerturbedGradientBasis
from sklearn_pgb._certificate._certificate import Certificate
from sklearn_pgb._certificate._certify import certify
from sklearn_pgb._compare._compare import compare_bases
from sklearn_pgb._compare._comparison import BasisComparison
from sklearn_pgb._display._certificate import CertificateDisplay
from sklearn_pgb._display._comparison import BasisComparisonDisplay
from sklearn_pgb._display._survey import MinimaSurveyDisplay
from sklearn_pgb._display._training import TrainingDisplay
from sklearn_pgb._operators._operator import LinearOperator
from sklearn_pgb._refit._gradient_basis_refit import GradientBasisRefit
from sklearn_pgb._resnet._classifier import ResNetBasisClassifier
from sklearn_pgb._resnet._regressor import ResNetBasisRegressor
from sklearn_pgb._survey._result import MinimaSurvey
from sklearn_pgb._survey._survey import survey_minima
from sklearn_pgb._tables._classifier import GradientBasisClassifier
from sklearn_pgb._tables._regressor import GradientBasisRegressor
from sklearn_pgb._version import __version__ as __version__

__all__ = [
    "AddedNeuronClassifier",
    "AddedNeuronRegressor",
    "Basis",
    "BasisComparison",
    "BasisComparisonDisplay",
    "Certificate",
    "CertificateDisplay",
    "FeatureBasis",
    "GradientBasis",
    "GradientBasisClassifier",
    "GradientBasisRefit",
    "GradientBasisRegressor",
    "InputBasis",
    "LayerBasis",
    "LinearOperator",
    "MinimaSurvey",
    "MinimaSurveyDisplay",
    "PerturbedGradientBasis",
    "ResNetBasisClassifier",
    "ResNetBasisRegressor",
    "TrainingDisplay",
    "certify",
    "compare_bases",
    "survey_minima",
]
