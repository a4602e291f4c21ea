"""Networks as functions of one flat parameter vector."""

from sklearn_pgb._networks._chain import (
    ACTIVATIONS,
    Activation,
    ChainNetwork,
    overparameterised_relu_init,
)
from sklearn_pgb._networks._module import ModuleNetwork, open_module
from sklearn_pgb._networks._network import Head, Network, as_float64
from sklearn_pgb._networks._open import (
    NetworkEstimator,
    OpenNetwork,
    open_network,
)
from sklearn_pgb._networks._resnet import ResNetModule, ResNetNetwork

__all__ = [
    "ACTIVATIONS",
    "Activation",
    "ChainNetwork",
    "Head",
    "ModuleNetwork",
    "Network",
    "NetworkEstimator",
    "OpenNetwork",
    "ResNetModule",
    "ResNetNetwork",
    "as_float64",
    "open_module",
    "open_network",
    "overparameterised_relu_init",
]
