"""Displays: certificates, trainings, landscapes, after scikit-learn's convention."""

from sklearn_pgb._display._certificate import CertificateDisplay
from sklearn_pgb._display._landscape import LandscapeDisplay
from sklearn_pgb._display._training import TrainingDisplay

__all__ = ["CertificateDisplay", "LandscapeDisplay", "TrainingDisplay"]
