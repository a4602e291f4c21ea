"""ResNet-basis models: residual units on top of any basis, by variable projection."""

from sklearn_pgb._resnet._classifier import ResNetBasisClassifier
from sklearn_pgb._resnet._regressor import ResNetBasisRegressor

__all__ = ["ResNetBasisClassifier", "ResNetBasisRegressor"]
