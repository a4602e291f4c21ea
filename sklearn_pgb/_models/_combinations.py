"""Open combinations of estimators: votes, bags, and one estimator per output."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.ensemble import (
    BaggingClassifier,
    BaggingRegressor,
    VotingClassifier,
    VotingRegressor,
)
from sklearn.multioutput import MultiOutputClassifier, MultiOutputRegressor
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from sklearn_pgb._losses._classification import CrossEntropyLoss
from sklearn_pgb._losses._regression import PoissonLoss
from sklearn_pgb._models._combined import CombinedModel
from sklearn_pgb._models._opened import OpenNetwork, check_several_classes

VOTES = VotingRegressor, VotingClassifier
BAGS = BaggingRegressor, BaggingClassifier
PER_OUTPUT = MultiOutputRegressor, MultiOutputClassifier
CLASSIFIERS = VotingClassifier, BaggingClassifier, MultiOutputClassifier

SURROGATE = "the weighted average of the members' raw outputs, such as log odds"


def is_combination(estimator: Any) -> bool:
    """Whether this combines the predictions of several estimators."""
    return isinstance(estimator, VOTES + BAGS + PER_OUTPUT)


def check_combination(estimator: Any) -> None:
    """Check that a combination adds raw outputs."""
    if getattr(estimator, "voting", "soft") != "soft":
        raise ValueError(
            f"voting must be 'soft' to open a {type(estimator).__name__}, got "
            f"{estimator.voting!r}: votes are not differentiable. Set voting='soft'."
        )
    if getattr(estimator, "weights", None) is not None and not sum(
        _used_weights(estimator)
    ):
        raise ValueError(
            f"weights must not add up to zero to open a {type(estimator).__name__}, "
            f"got {estimator.weights!r}. Raise one."
        )


def unfitted_members(estimator: Any) -> list[Any]:
    """The estimators that a combination trains."""
    if isinstance(estimator, VOTES):
        return [each for _, each in estimator.estimators if not isinstance(each, str)]
    if estimator.estimator is not None:
        return [estimator.estimator]
    is_bag = isinstance(estimator, BaggingClassifier)
    return [DecisionTreeClassifier() if is_bag else DecisionTreeRegressor()]


def open_combination(
    estimator: Any, open_member: Callable[[Any], OpenNetwork]
) -> OpenNetwork:
    """Open a fitted combination; `open_member` opens its members."""
    check_is_fitted(estimator)
    check_combination(estimator)
    classifies = isinstance(estimator, CLASSIFIERS)
    opened = [open_member(each) for each in estimator.estimators_]
    several = isinstance(estimator, MultiOutputClassifier)
    for member in opened:
        _check_loss(estimator, member, classifies)
        if member.classes is not None and not several:
            check_several_classes(member.final, member.classes)
        if several and np.asarray(member.classes).tolist() != [0, 1]:
            raise ValueError(
                "y must be a matrix of 0 and 1 in every column to open a "
                f"MultiOutputClassifier, got a {type(member.final).__name__} with the "
                f"classes {member.classes!r}. Fit one estimator to each column."
            )
    matrices, shift = _output_maps(estimator, opened)
    widths = [
        member.final.n_features_in_
        if member.network.n_inputs is None
        else member.network.n_inputs
        for member in opened
    ]
    columns = [slice(*stops) for stops in pairwise(accumulate(widths, initial=0))]
    networks = [member.network for member in opened]
    model = CombinedModel(networks, columns, matrices, shift)
    encode = partial(_encode, estimator, opened)
    if not classifies:
        loss = opened[0].loss
        return OpenNetwork(model, loss, "regressor", estimator, encode=encode)
    loss = CrossEntropyLoss().for_outputs(model.n_outputs, independent=several)
    if several:
        return OpenNetwork(model, loss, "classifier", estimator, encode=encode)
    return OpenNetwork(
        model,
        loss,
        "classifier",
        estimator,
        classes=np.asarray(estimator.classes_),
        one_column=model.n_outputs == 1,
        encode=encode,
        surrogate=SURROGATE,
    )


def _check_loss(estimator: Any, member: OpenNetwork, classifies: bool) -> None:
    loss = member.loss
    is_log_loss = loss.is_classification and loss.predicts_means
    fits = is_log_loss if classifies else loss.quadratic
    # The outputs of each target are added to nothing, so they may be logs of means.
    is_alone = isinstance(estimator, MultiOutputRegressor)
    fits |= is_alone and isinstance(loss, PoissonLoss)
    if not fits or member.network.n_outputs is None:
        kind = "a log loss" if classifies else "the squared loss"
        raise ValueError(
            f"the members of a {type(estimator).__name__} must have {kind} and a known "
            f"number of outputs to be opened together, got a "
            f"{type(member.final).__name__} with {type(loss).__name__}. Replace "
            "it, or open it alone."
        )


def _output_maps(
    estimator: Any, opened: Sequence[OpenNetwork]
) -> tuple[list[Tensor], Tensor]:
    """Map the raw outputs of the members to terms of the combination's.

    The results are matrices (n_outputs, outputs of the member), and a shift
    (n_outputs,) that is added to the sum of all terms.
    """
    count = len(opened)
    weights = np.full(count, 1 / count)
    if isinstance(estimator, VOTES):
        weights = _used_weights(estimator)
        weights /= weights.sum()
    n_outputs = opened[0].network.n_outputs or 1
    if isinstance(estimator, CLASSIFIERS) and not isinstance(estimator, PER_OUTPUT):
        n_classes = len(estimator.classes_)
        n_outputs = 1 if n_classes == 2 else n_classes
    matrices, shifts = [], []
    for number, member in enumerate(opened):
        if isinstance(estimator, PER_OUTPUT):
            matrix = torch.zeros(count, 1, dtype=torch.float64)
            matrix[number] = 1.0
        elif member.classes is not None:
            # A vote averages columns; a bag trains its members on class numbers.
            classes = np.arange(len(member.classes))
            if isinstance(estimator, BAGS):
                classes = member.classes
            matrix = weights[number] * _of_classes(classes, member, n_outputs)
        else:
            matrix = weights[number] * torch.eye(n_outputs, dtype=torch.float64)
        slope, shift = member.target_map()
        matrices.append(matrix * slope)
        shifts.append(matrix @ shift)
    return matrices, torch.stack(shifts).sum(0)


def _used_weights(estimator: Any) -> NDArray[np.float64]:
    """Weights of the members of a vote that take part."""
    weights = estimator.weights
    if weights is None:
        weights = [1.0] * len(estimator.estimators)
    pairs = zip(estimator.estimators, weights, strict=False)
    # Members that were dropped have a weight, too.
    used = [weight for (_, each), weight in pairs if not isinstance(each, str)]
    return np.array(used, dtype=np.float64)


def _of_classes(
    classes: NDArray[np.intp], member: OpenNetwork, n_outputs: int
) -> Tensor:
    """Map a member's outputs, for some of the classes, to outputs for all classes."""
    columns = torch.eye(len(classes), dtype=torch.float64)
    if member.one_column:
        # The log odds are the difference of both classes' raw outputs.
        columns = torch.tensor([[-0.5], [0.5]], dtype=torch.float64)
    total = torch.zeros(max(n_outputs, 2), columns.shape[1], dtype=torch.float64)
    total[classes] = columns
    return total if n_outputs > 1 else total[1:] - total[:1]


def _encode(estimator: Any, opened: Sequence[OpenNetwork], X: Any) -> Tensor:
    """The inputs of all members, side by side."""
    parts = [X] * len(opened)
    if isinstance(estimator, BAGS):
        X = validate_data(
            estimator,
            X,
            reset=False,
            dtype=None,
            accept_sparse=("csr", "csc"),
            ensure_all_finite=False,
        )
        parts = [X[:, features] for features in estimator.estimators_features_]
    inputs = [
        member.inputs(part).flatten(1)
        for member, part in zip(opened, parts, strict=True)
    ]
    return torch.cat(inputs, 1)
