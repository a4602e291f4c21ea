"""Networks for scikit-learn users, with a convex refit and a certificate."""

from importlib import import_module
from typing import TYPE_CHECKING

from sklearn_pgb._version import __version__ as __version__

if TYPE_CHECKING:
    from sklearn_pgb._added_neuron._classifier import (
        AddedNeuronClassifier as AddedNeuronClassifier,
    )
    from sklearn_pgb._added_neuron._regressor import (
        AddedNeuronRegressor as AddedNeuronRegressor,
    )
    from sklearn_pgb._bases._basis import Basis as Basis
    from sklearn_pgb._bases._basis import FeatureBasis as FeatureBasis
    from sklearn_pgb._bases._basis import InputBasis as InputBasis
    from sklearn_pgb._bases._induced import GradientBasis as GradientBasis
    from sklearn_pgb._bases._induced import LayerBasis as LayerBasis
    from sklearn_pgb._bases._perturbed import (
        PerturbedGradientBasis as PerturbedGradientBasis,
    )
    from sklearn_pgb._certificate._certificate import Certificate as Certificate
    from sklearn_pgb._certificate._certify import certify as certify
    from sklearn_pgb._compare._compare import compare_bases as compare_bases
    from sklearn_pgb._compare._comparison import BasisComparison as BasisComparison
    from sklearn_pgb._display._certificate import (
        CertificateDisplay as CertificateDisplay,
    )
    from sklearn_pgb._display._comparison import (
        BasisComparisonDisplay as BasisComparisonDisplay,
    )
    from sklearn_pgb._display._predictive import PredictiveDisplay as PredictiveDisplay
    from sklearn_pgb._display._survey import MinimaSurveyDisplay as MinimaSurveyDisplay
    from sklearn_pgb._display._training import TrainingDisplay as TrainingDisplay
    from sklearn_pgb._operators._operator import LinearOperator as LinearOperator
    from sklearn_pgb._predictive._distribution import (
        PredictiveDistribution as PredictiveDistribution,
    )
    from sklearn_pgb._predictive._scorers import interval_score as interval_score
    from sklearn_pgb._predictive._scorers import neg_crps as neg_crps
    from sklearn_pgb._predictive._scorers import neg_nll as neg_nll
    from sklearn_pgb._refit._gradient_basis_refit import (
        GradientBasisRefit as GradientBasisRefit,
    )
    from sklearn_pgb._resnet._classifier import (
        ResNetBasisClassifier as ResNetBasisClassifier,
    )
    from sklearn_pgb._resnet._regressor import (
        ResNetBasisRegressor as ResNetBasisRegressor,
    )
    from sklearn_pgb._survey._result import MinimaSurvey as MinimaSurvey
    from sklearn_pgb._survey._survey import survey_minima as survey_minima
    from sklearn_pgb._tables._classifier import (
        GradientBasisClassifier as GradientBasisClassifier,
    )
    from sklearn_pgb._tables._regressor import (
        GradientBasisRegressor as GradientBasisRegressor,
    )

# Files are loaded at the first use of a name, because torch takes longer to import than
# all the rest.
_FILES = {
    "AddedNeuronClassifier": "_added_neuron._classifier",
    "AddedNeuronRegressor": "_added_neuron._regressor",
    "Basis": "_bases._basis",
    "BasisComparison": "_compare._comparison",
    "BasisComparisonDisplay": "_display._comparison",
    "Certificate": "_certificate._certificate",
    "CertificateDisplay": "_display._certificate",
    "FeatureBasis": "_bases._basis",
    "GradientBasis": "_bases._induced",
    "GradientBasisClassifier": "_tables._classifier",
    "GradientBasisRefit": "_refit._gradient_basis_refit",
    "GradientBasisRegressor": "_tables._regressor",
    "InputBasis": "_bases._basis",
    "LayerBasis": "_bases._induced",
    "LinearOperator": "_operators._operator",
    "MinimaSurvey": "_survey._result",
    "MinimaSurveyDisplay": "_display._survey",
    "PerturbedGradientBasis": "_bases._perturbed",
    "PredictiveDisplay": "_display._predictive",
    "PredictiveDistribution": "_predictive._distribution",
    "ResNetBasisClassifier": "_resnet._classifier",
    "ResNetBasisRegressor": "_resnet._regressor",
    "TrainingDisplay": "_display._training",
    "certify": "_certificate._certify",
    "compare_bases": "_compare._compare",
    "interval_score": "_predictive._scorers",
    "neg_crps": "_predictive._scorers",
    "neg_nll": "_predictive._scorers",
    "survey_minima": "_survey._survey",
}

__all__ = sorted(_FILES)


if not TYPE_CHECKING:
    # Type checkers would take any name for one of the package.
    def __getattr__(name):
        if name not in _FILES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f"{__name__}.{_FILES[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return list(__all__)
