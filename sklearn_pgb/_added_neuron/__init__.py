"""Networks with added neurons: hybrid local and global training, with a monitor."""

from sklearn_pgb._added_neuron._estimators import (
    AddedNeuronClassifier,
    AddedNeuronRegressor,
)

__all__ = ["AddedNeuronClassifier", "AddedNeuronRegressor"]
