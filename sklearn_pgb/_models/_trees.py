"""Open scikit-learn's trees, forests and boosted trees."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from sklearn_pgb._losses._classification import CrossEntropyLoss, LogisticLoss
from sklearn_pgb._losses._loss import Loss
from sklearn_pgb._losses._named import LOSSES, one_of
from sklearn_pgb._losses._regression import PoissonLoss, SquaredLoss
from sklearn_pgb._models._leaves import LeafModel
from sklearn_pgb._models._opened import OpenNetwork
from sklearn_pgb._models._small_trees import SmallTrees
from sklearn_pgb._models._tree_lookup import (
    SINGLE_MAX,
    Convert,
    HistogramTrees,
    NodeTrees,
    TreeInputs,
    as_single,
)

HISTOGRAM = HistGradientBoostingRegressor, HistGradientBoostingClassifier
BOOSTED = *HISTOGRAM, GradientBoostingRegressor, GradientBoostingClassifier
SINGLE = DecisionTreeRegressor, DecisionTreeClassifier
AVERAGED = (
    *SINGLE,
    RandomForestRegressor,
    RandomForestClassifier,
    ExtraTreesRegressor,
    ExtraTreesClassifier,
)
# Losses of boosted trees whose leaf values can be refitted.
BOOSTED_LOSSES = SquaredLoss.name, PoissonLoss.name, CrossEntropyLoss.name
MEAN_CRITERIA = "squared_error", "friedman_mse", "poisson"

SURROGATE = (
    "the average of the trees' log odds. Each leaf counts one more sample with the "
    "class frequencies of all samples, because its own frequencies can be zero"
)


def is_tree_model(estimator: Any) -> bool:
    """Whether this is one of scikit-learn's trees or tree ensembles."""
    return isinstance(estimator, BOOSTED + AVERAGED)


def check_trees(estimator: Any) -> None:
    """Check that a model of trees, fitted or not, has a loss that can be opened."""
    name = type(estimator).__name__
    if isinstance(estimator, BOOSTED):
        loss = estimator.loss
        if loss not in BOOSTED_LOSSES:
            raise ValueError(
                f"loss must be {one_of(BOOSTED_LOSSES)} to open a {name}, got {loss!r}."
                " Train it with one of these."
            )
        init = getattr(estimator, "init", None)
        if not (init is None or isinstance(init, str)):
            raise ValueError(
                f"init must be None or 'zero' to open a {name}, got {init!r}, whose "
                "predictions are not constant. Leave it out, or combine both models "
                "in a VotingRegressor."
            )
    elif hasattr(estimator, "predict_proba"):
        return
    elif estimator.criterion not in MEAN_CRITERIA:
        raise ValueError(
            f"criterion must be one of {MEAN_CRITERIA} to open a {name}, got "
            f"{estimator.criterion!r}, whose leaves do not hold means. Train it with "
            "'squared_error'."
        )


def open_trees(estimator: Any) -> OpenNetwork:
    """Open a fitted tree, forest or boosted trees."""
    check_is_fitted(estimator)
    check_trees(estimator)
    if isinstance(estimator, HISTOGRAM):
        return _open_histogram(estimator)
    if isinstance(estimator, BOOSTED):
        return _open_boosting(estimator)
    return _open_averaged(estimator)


def open_boosted(
    estimator: Any,
    loss: Loss,
    n_leaves: Sequence[int],
    values: NDArray[np.float64],
    bias: NDArray[np.float64],
    scale: float,
    encode: Callable[[Any], Tensor],
) -> OpenNetwork:
    """Open boosted trees: raw outputs are `bias` plus `scale` times leaf values.

    Parameters
    ----------
    n_leaves : sequence of int
        Number of leaves of each tree.
    values : ndarray of shape (n_leaves,) or (n_leaves, n_outputs)
        Values of the leaves, tree by tree. Tree t adds 1-d values to output t modulo
        the number of outputs.
    bias : ndarray of shape (n_outputs,)
    scale : float
    encode : callable
        Maps X to leaf numbers, (n_samples, n_trees).
    """
    tree_outputs = None
    if values.ndim == 1:
        tree_outputs = torch.arange(len(n_leaves)) % len(bias)
    model = LeafModel(
        n_leaves,
        torch.tensor(values, dtype=torch.float64),
        torch.tensor(bias, dtype=torch.float64),
        torch.full((len(n_leaves),), scale, dtype=torch.float64),
        tree_outputs,
    )
    return open_leaf_model(model, loss, estimator, encode)


def open_leaf_model(
    model: LeafModel,
    loss: Loss,
    estimator: Any,
    encode: Callable[[Any], Tensor],
    surrogate: str | None = None,
) -> OpenNetwork:
    """Open a model of trees; its loss determines whether it is a classifier."""
    classifies, one_output = loss.is_classification, model.n_outputs == 1
    multilabel = isinstance(loss, LogisticLoss) and not one_output
    return OpenNetwork(
        model,
        loss,
        "classifier" if classifies else "regressor",
        estimator,
        classes=None
        if multilabel or not classifies
        else np.asarray(estimator.classes_),
        one_column=classifies and one_output,
        encode=encode,
        surrogate=surrogate,
    )


def _open_histogram(model: Any) -> OpenNetwork:
    predictors = [tree for iteration in model._predictors for tree in iteration]
    is_leaf = [tree.nodes["is_leaf"].astype(bool) for tree in predictors]
    # The node values contain the learning rate.
    values = [
        tree.nodes["value"][leaf]
        for tree, leaf in zip(predictors, is_leaf, strict=True)
    ]
    bias = np.asarray(model._baseline_prediction).reshape(-1)
    lookup = SmallTrees.of(predictors) or HistogramTrees(
        predictors, model._bin_mapper.make_known_categories_bitsets()
    )
    check = partial(model._preprocess_X, reset=False)
    encode = TreeInputs(lookup, check, model, _encoder(model), None)
    loss = LOSSES[model.loss].for_outputs(len(bias), independent=False)
    counts = [len(part) for part in values]
    joined = np.concatenate([np.empty(0), *values])
    return open_boosted(model, loss, counts, joined, bias, 1.0, encode)


def _encoder(model: Any) -> Convert | None:
    """The preprocessing of histogram boosting, for arrays that need no check.

    Numbers of categories come first. None if categories are no numbers.
    """
    if model._preprocessor is None:
        return np.ascontiguousarray
    categories = model._preprocessor.named_transformers_["encoder"].categories_
    if any(each.dtype.kind not in "biuf" for each in categories):
        return None
    known = [each[~np.isnan(each)] for each in categories]
    order = np.argsort(~model.is_categorical_, kind="stable")

    def encode(X: NDArray[np.float64]) -> NDArray[np.float64]:
        X = X[:, order]
        for column, each in zip(X.T, known, strict=False):
            number = np.searchsorted(each, column)
            is_known = np.append(each, np.nan)[number] == column
            # Unknown categories count as missing.
            column[:] = np.where(is_known, number, np.nan)
        return X

    return encode


def _open_boosting(model: Any) -> OpenNetwork:
    trees = [tree.tree_ for tree in model.estimators_.reshape(-1)]
    lookup = NodeTrees(trees)
    values = np.concatenate([tree.value[:, 0, 0] for tree in trees])
    n_outputs = model.estimators_.shape[1]
    # The initial prediction is a constant, so any X of the right shape gives it.
    start = model._raw_predict_init(np.zeros((1, model.n_features_in_), np.float32))

    def check(X: Any) -> Any:
        # Unlike `apply`, `predict` takes lists and refuses missing values.
        X = validate_data(model, X, reset=False, dtype=np.float32, accept_sparse="csr")
        return model.estimators_[0, 0]._validate_X_predict(X, check_input=True)

    loss = LOSSES[model.loss].for_outputs(n_outputs, independent=False)
    return open_boosted(
        model,
        loss,
        lookup.numbers.n_leaves,
        values[lookup.numbers.is_leaf],
        start.reshape(-1),
        model.learning_rate,
        TreeInputs(lookup, check, model, as_single, SINGLE_MAX),
    )


def _open_averaged(model: Any) -> OpenNetwork:
    single = isinstance(model, SINGLE)
    trees = [each.tree_ for each in ([model] if single else model.estimators_)]
    lookup = NodeTrees(trees)
    classifies = hasattr(model, "predict_proba")
    multilabel = classifies and model.n_outputs_ > 1
    if multilabel and any(classes.tolist() != [0, 1] for classes in model.classes_):
        raise ValueError(
            "y must have one column, or columns of zeros and ones, to open a "
            f"{type(model).__name__}, got columns with the labels {model.classes_!r}. "
            "Train one classifier per column."
        )
    # Nodes of regression trees hold means, (n_nodes, n_outputs).
    parts = [
        _smoothed_log_odds(tree) if classifies else tree.value[:, :, 0]
        for tree in trees
    ]
    values = np.concatenate(parts)[lookup.numbers.is_leaf]
    n_outputs = values.shape[1]
    leaves = LeafModel(
        lookup.numbers.n_leaves,
        torch.tensor(values),
        torch.zeros(n_outputs, dtype=torch.float64),
        torch.full((len(trees),), 1 / len(trees), dtype=torch.float64),
    )
    loss: Loss = SquaredLoss()
    if classifies:
        loss = CrossEntropyLoss().for_outputs(n_outputs, independent=multilabel)

    check = model._validate_X_predict
    if single:
        # A forest's method has no parameter `check_input`.
        check = partial(check, check_input=True)
    encode = TreeInputs(lookup, check, model, as_single, SINGLE_MAX)
    surrogate = SURROGATE if classifies else None
    return open_leaf_model(leaves, loss, model, encode, surrogate)


def _smoothed_log_odds(tree: Any) -> NDArray[np.float64]:
    """Raw outputs of the nodes of a classification tree.

    They are the log odds of two classes, the log odds of each label of a multi-label
    tree, or the log probabilities of more than two classes.
    """
    frequencies = tree.value
    weight = tree.weighted_n_node_samples[:, None, None]
    # The first node holds the frequencies of all samples. They are smoothed as well,
    # because a bootstrap sample may lack a class.
    total = weight[:1]
    prior = (frequencies[:1] * total + 1 / frequencies.shape[2]) / (total + 1)
    logs = np.log((frequencies * weight + prior) / (weight + 1))
    if logs.shape[2] != 2:
        return logs[:, 0]
    return logs[:, :, 1] - logs[:, :, 0]
