"""The members of the estimators for tables, with their built-in models."""

import warnings
from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray
from sklearn.compose import TransformedTargetRegressor
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
    FEW_SAMPLES,
    FOREST_LEAF,
    FOREST_SAMPLES,
    FOREST_TREES,
    LEAST_EPOCHS,
    MANY_SAMPLES,
    MOST_TREES,
    NETWORK_SAMPLES,
    NETWORK_UNITS,
    TREE_ITERATIONS,
    TREE_LEAF,
    TREE_LEAVES,
)
from sklearn_pgb._models._open import check_can_open, holds_frozen, nested
from sklearn_pgb._tables._inputs import (
    Labels,
    forest_inputs,
    network_inputs,
    other_inputs,
    tree_inputs,
)


def _size(n_samples: int) -> int:
    """Return 0 for few samples, 2 for many, and else 1."""
    return (n_samples > FEW_SAMPLES) + (n_samples > MANY_SAMPLES)


def network_member(
    labels: Labels, loss: str, n_samples: int, model: Any = None
) -> Pipeline:
    """Return the network. Its units are smooth, because these refit best."""
    classifies = loss == "log_loss"
    if model is None:
        kind = AddedNeuronClassifier if classifies else AddedNeuronRegressor
        model = kind(NETWORK_UNITS, loss=loss, activation="silu")
        if n_samples > MANY_SAMPLES:
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
            early_stopping=n_samples > MANY_SAMPLES,
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
    return Pipeline([("inputs", forest_inputs(labels, classifies)), ("model", model)])


def table_members(
    estimator: Any, labels: Labels, n_samples: int, fold_targets: Sequence[NDArray[Any]]
) -> list[tuple[str, Pipeline]]:
    """Return named pipelines, each from the matrix of a table to predictions.

    `labels` are those of the columns, `fold_targets` the training targets of each fold.
    """
    loss, n_outputs = estimator.loss, estimator._targets.n_outputs
    members = []
    multilabel, counts = getattr(estimator, "_multilabel", False), loss == "poisson"
    is_rare = (multilabel or counts) and any(
        (y == (0 if counts else y[0])).all(0).any() for y in fold_targets
    )
    if is_rare and (estimator.trees is None or estimator.forest is None):
        what = "only zeros as counts" if counts else "the same value of some label"
        need = "a positive count" if counts else "both values"
        warnings.warn(
            f"The training samples of a fold have {what}, and trees need {need}. The "
            "built-in trees and forest are left out. Remove the target, or pass "
            "`groups` or `cv` that spread its samples.",
            UserWarning,
            stacklevel=5,
        )
    if not isinstance(estimator.network, str):
        network = network_member(labels, loss, n_samples, estimator.network)
        members.append(("network", network))
    if not isinstance(estimator.trees, str) and not (
        is_rare and estimator.trees is None
    ):
        several = multilabel or (loss != "log_loss" and n_outputs > 1)
        trees = trees_member(
            labels, loss, n_samples, n_outputs, several, estimator.trees
        )
        members.append(("trees", trees))
    # The leaves of a forest hold means, which are no raw outputs of other losses.
    wanted = estimator.forest is not None or loss in ("squared_error", "log_loss")
    wanted &= not (is_rare and estimator.forest is None)
    if not isinstance(estimator.forest, str) and wanted:
        forest = forest_member(labels, loss, n_samples, estimator.forest)
        members.append(("forest", forest))
    for name, member in _checked_pairs(estimator.others):
        inputs = other_inputs(labels, loss == "log_loss")
        members.append((name, Pipeline([("inputs", inputs), ("model", member)])))
    if not members:
        raise ValueError(
            "network, trees and forest must not all be 'drop' without others, as "
            "nothing is left. Keep one of them."
        )
    for name, member in members:
        _check_member(name, member)
    return members


def _checked_pairs(others: Any) -> list[Any]:
    """Return the pairs (name, estimator) of `others`, or raise an error."""
    pairs = list(others)
    for pair in pairs:
        is_pair = isinstance(pair, tuple | list) and len(pair) == 2
        if not (is_pair and isinstance(pair[0], str) and hasattr(pair[1], "fit")):
            raise ValueError(
                "others must be pairs (name, estimator), as in VotingRegressor, "
                f"got {pair!r}. Pass [('ridge', Ridge())]."
            )
    names = ["network", "trees", "forest", *(name for name, _ in pairs)]
    if len(set(names)) < len(names):
        raise ValueError(
            "others must have names of their own, none of them 'network', 'trees' "
            f"or 'forest', got {names[3:]}. Rename one."
        )
    return pairs


def _check_member(name: str, member: Pipeline) -> None:
    """Raise an error if folds can't train a member, or its outputs can't be opened."""
    check_can_open(member)
    if holds_frozen(member):
        raise ValueError(
            "members must not be frozen, as folds train them, got a FrozenEstimator "
            f"for {name!r}. Pass its estimator, or refit the trained model by "
            "GradientBasisRefit with X_val and y_val."
        )
    if any(isinstance(e, TransformedTargetRegressor) for e in nested(member)):
        raise ValueError(
            "members must not transform y, got a TransformedTargetRegressor. Pass its "
            "regressor."
        )
