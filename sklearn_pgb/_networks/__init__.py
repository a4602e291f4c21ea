"""Networks as functions of one flat parameter vector."""

from sklearn_pgb._networks._call import ModuleCall, copy_module
from sklearn_pgb._networks._chain import (
    ACTIVATIONS,
    Activation,
    ChainNetwork,
    overparameterised_relu_init,
)
from sklearn_pgb._networks._checks import N_CANDIDATES, check_samples
from sklearn_pgb._networks._displacements import Displacement, displacements
from sklearn_pgb._networks._freedom import linear_units
from sklearn_pgb._networks._module import ModuleNetwork, open_module
from sklearn_pgb._networks._network import Head, Network, as_float64, as_tensor
from sklearn_pgb._networks._open import (
    NetworkEstimator,
    OpenNetwork,
    TrainingTerms,
    check_can_open,
    named_loss,
    nested,
    open_network,
    unwrap,
)
from sklearn_pgb._networks._pieces import SEAM_TOLERANCE, Pieces, pieces
from sklearn_pgb._networks._resnet import ResNetModule, ResNetNetwork, Squash

__all__ = [
    "ACTIVATIONS",
    "N_CANDIDATES",
    "SEAM_TOLERANCE",
    "Activation",
    "ChainNetwork",
    "Displacement",
    "Head",
    "ModuleCall",
    "ModuleNetwork",
    "Network",
    "NetworkEstimator",
    "OpenNetwork",
    "Pieces",
    "ResNetModule",
    "ResNetNetwork",
    "Squash",
    "TrainingTerms",
    "as_float64",
    "as_tensor",
    "check_can_open",
    "check_samples",
    "copy_module",
    "displacements",
    "linear_units",
    "named_loss",
    "nested",
    "open_module",
    "open_network",
    "overparameterised_relu_init",
    "pieces",
    "unwrap",
]
