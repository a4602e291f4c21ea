"""scikit-learn's own tests of its networks, with the package's networks in their place.

The file sklearn/neural_network/tests/test_mlp.py of the installed scikit-learn is
executed while `sklearn.neural_network` offers AddedNeuronClassifier and
AddedNeuronRegressor under the names MLPClassifier and MLPRegressor.
"""

import importlib.util
from unittest.mock import patch

import sklearn.neural_network

from sklearn_pgb import AddedNeuronClassifier, AddedNeuronRegressor

SOURCE = "sklearn.neural_network.tests.test_mlp"

# Tests that fail, by id, with the reason: "private" (the test reads or calls a private
# attribute), "wording" (it compares the words of a message or a progress line), or
# "documented" (the behaviour differs on purpose, and doc/training.md names the test).
EXPECTED_FAILURES = {
    "test_fit": ("private", "sets _multilabel, _random_state and _optimizer by hand"),
    "test_gradient": ("private", "calls _loss_grad_lbfgs"),
    "test_learning_rate_warmstart": ("private", "reads _optimizer"),
    "test_adaptive_learning_rate": ("private", "reads _optimizer"),
    "test_n_iter_no_change": ("private", "reads _no_improvement_count"),
    "test_n_iter_no_change_inf": ("private", "reads _no_improvement_count"),
    "test_mlp_param_dtypes[AddedNeuronClassifier-float32]": (
        "documented",
        "coefs_ are in float64",
    ),
    "test_mlp_param_dtypes[AddedNeuronRegressor-float32]": (
        "documented",
        "coefs_ are in float64",
    ),
    "test_partial_fit_regression": ("documented", "partial_fit anneals no rate"),
    "test_nonfinite_params": ("documented", "inputs of 1e308 are standardized"),
    "test_predict_proba_multilabel": ("documented", "logarithms are not rounded"),
    "test_early_stopping_stratified": ("documented", "single samples are trained on"),
    "test_minimum_input_sample_size": ("documented", "small sets are trained on"),
    "test_preserve_feature_names[AddedNeuronClassifier]": (
        "documented",
        "one class alone is an error",
    ),
    "test_mlp_diverging_loss": ("documented", "diverged scores are never nan"),
}


def peer_module():
    """scikit-learn's test module, bound to the package's estimators."""
    spec = importlib.util.find_spec(SOURCE)
    module = importlib.util.module_from_spec(spec)
    with patch.multiple(
        sklearn.neural_network,
        MLPClassifier=AddedNeuronClassifier,
        MLPRegressor=AddedNeuronRegressor,
    ):
        spec.loader.exec_module(module)
    return module


def peer_tests():
    """Test functions by name, as pytest would collect them."""
    names = vars(peer_module()).items()
    return {name: item for name, item in names if name.startswith("test_")}
