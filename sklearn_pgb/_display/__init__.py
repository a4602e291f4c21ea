"""Displays of results and landscapes, after scikit-learn's convention."""

from sklearn_pgb._display._certificate import CertificateDisplay
from sklearn_pgb._display._comparison import BasisComparisonDisplay
from sklearn_pgb._display._landscape import LandscapeDisplay
from sklearn_pgb._display._survey import MinimaSurveyDisplay
from sklearn_pgb._display._training import TrainingDisplay

__all__ = [
    "BasisComparisonDisplay",
    "CertificateDisplay",
    "LandscapeDisplay",
    "MinimaSurveyDisplay",
    "TrainingDisplay",
]
