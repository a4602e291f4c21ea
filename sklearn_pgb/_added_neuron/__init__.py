"""Networks with added neurons: hybrid local and global training, with a monitor."""

from sklearn_pgb._added_neuron._classifier import AddedNeuronClassifier
from sklearn_pgb._added_neuron._regressor import AddedNeuronRegressor

__all__ = ["AddedNeuronClassifier", "AddedNeuronRegressor"]
