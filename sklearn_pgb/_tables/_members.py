"""The built-in models of the estimators for tables."""

from typing import Any

from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
)
from sklearn.multioutput import MultiOutputClassifier, MultiOutputRegressor
from sklearn.pipeline import Pipeline

from sklearn_pgb._added_neuron._classifier import AddedNeuronClassifier
from sklearn_pgb._added_neuron._regressor import AddedNeuronRegressor
from sklearn_pgb._budget import (
    BATCH_OF_MANY,
    CHOICE_ROWS,
    FEW_SAMPLES,
    FOREST_LEAF,
    FOREST_SAMPLES,
    FOREST_TREES,
    LEAST_EPOCHS,
    MOST_TREES,
    NETWORK_SAMPLES,
    NETWORK_UNITS,
    TREE_ITERATIONS,
    TREE_LEAF,
    TREE_LEAVES,
)
from sklearn_pgb._tables._inputs import (
    Labels,
    forest_inputs,
    network_inputs,
    tree_inputs,
)


def _size(n_samples: int) -> int:
    """Return 0 for few samples, 2 for many, and else 1."""
    return (n_samples > FEW_SAMPLES) + (n_samples > CHOICE_ROWS)


def network_member(
    labels: Labels, loss: str, n_samples: int, model: Any = None
) -> Pipeline:
    """Return the network. Its units are smooth, because these refit best."""
    classifies = loss == "log_loss"
    if model is None:
        kind = AddedNeuronClassifier if classifies else AddedNeuronRegressor
        model = kind(NETWORK_UNITS, loss=loss, activation="silu")
        if n_samples > CHOICE_ROWS:
            most = max(LEAST_EPOCHS, int(NETWORK_SAMPLES / n_samples))
            model.set_params(
                max_iter=min(model.max_iter, most),
                batch_size=BATCH_OF_MANY,
                dtype="float32",
            )
    return Pipeline([("inputs", network_inputs(labels, classifies)), ("model", model)])


def trees_member(
    labels: Labels,
    loss: str,
    n_samples: int,
    n_outputs: int,
    several: bool,
    model: Any = None,
) -> Pipeline:
    """Return the boosted trees, one booster for each of several targets or labels."""
    classifies = loss == "log_loss"
    inputs, codes = tree_inputs(labels, classifies)
    if model is None:
        kind = (
            HistGradientBoostingClassifier
            if classifies
            else HistGradientBoostingRegressor
        )
        size = _size(n_samples)
        iterations = TREE_ITERATIONS[size]
        if classifies and not several:
            # One tree for each class and iteration, or one for two classes.
            iterations = max(1, min(iterations, MOST_TREES // n_outputs))
        model = kind(
            loss=loss,
            max_iter=iterations,
            max_leaf_nodes=TREE_LEAVES[size],
            min_samples_leaf=TREE_LEAF[size],
            categorical_features=codes or None,
            early_stopping=n_samples > CHOICE_ROWS,
        )
        if several:
            per_output = MultiOutputClassifier if classifies else MultiOutputRegressor
            model = per_output(model)
    return Pipeline([("inputs", inputs), ("model", model)])


def forest_member(
    labels: Labels, loss: str, n_samples: int, model: Any = None
) -> Pipeline:
    """Return the extremely randomized trees."""
    classifies = loss == "log_loss"
    if model is None:
        kind = ExtraTreesClassifier if classifies else ExtraTreesRegressor
        n_trees = FOREST_TREES[_size(n_samples)]
        model = kind(n_trees, min_samples_leaf=FOREST_LEAF)
        if n_samples > FOREST_SAMPLES:
            model.set_params(bootstrap=True, max_samples=FOREST_SAMPLES / n_samples)
    return with_forest_inputs(labels, classifies, model)


def with_forest_inputs(labels: Labels, classifies: bool, model: Any) -> Pipeline:
    """Return a model with the inputs of the forest."""
    inputs = forest_inputs(labels, classifies)
    return Pipeline([("inputs", inputs), ("model", model)])
