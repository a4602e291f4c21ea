"""Training objectives of models that are not networks of this package."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.utils.class_weight import compute_sample_weight
from torch import nn

from sklearn_pgb._losses._loss import Loss
from sklearn_pgb._losses._regression import SquaredLoss
from sklearn_pgb._models._chain import ChainNetwork
from sklearn_pgb._models._linear import (
    is_linear_model,
    l1_ratio,
    penalty_strength,
)
from sklearn_pgb._models._opened import OpenNetwork, TrainingTerms
from sklearn_pgb._targets import class_weights


def terms_of_model(
    final: Any, opened: OpenNetwork, y: Any, weight: NDArray[np.float64]
) -> TrainingTerms:
    """Penalty, class weights and notes of a linear model, trees or a combination."""
    row_weight = np.ones(len(weight))
    class_weight = getattr(final, "class_weight", None)
    if isinstance(class_weight, dict) or class_weight == "balanced":
        # Linear models balance the sample weights of the classes, and trees their
        # numbers of samples.
        row_weight = (
            class_weights(class_weight, np.asarray(y), weight)
            if is_linear_model(final)
            else compute_sample_weight(class_weight, y)
        )
    notes = []
    if opened.surrogate is not None:
        notes.append(
            f"The certificate is about a surrogate, {opened.surrogate}. It says "
            "nothing about the averaged probabilities that the estimator predicts."
        )
    penalty = np.zeros(opened.network.n_params)
    if is_linear_model(final):
        # Theta holds the coefficients of each output, then the intercepts.
        n_outputs = opened.network.n_outputs or 1
        strengths = np.broadcast_to(
            penalty_strength(final, weight * row_weight), n_outputs
        )
        n_coef = n_outputs * final.n_features_in_
        penalty[:n_coef] = np.repeat(strengths, final.n_features_in_)
        # The intercept of liblinear is the coefficient of a constant feature.
        if getattr(final, "solver", None) == "liblinear":
            penalty[n_coef:] = strengths / final.intercept_scaling**2
        if l1_ratio(final) > 0:
            notes.append(
                "The training had an L1 penalty, which is not part of the objective, "
                "so its derivatives do not vanish."
            )
        if getattr(final, "positive", False):
            notes.append(
                "The training restricted the coefficients to nonnegative ones "
                "(positive=True), but the bounds hold for all coefficients."
            )
    else:
        notes.append(
            "Thresholds of trees are not parameters. Parts of the training other than "
            "the loss and class_weight, such as samples drawn for each member, "
            "penalties on leaf values or scale_pos_weight, are not part of the "
            "objective."
        )
    return TrainingTerms(penalty, row_weight, tuple(notes))


def mlp_penalty(
    mlp: MLPRegressor | MLPClassifier, loss: Loss, weight: NDArray[np.float64]
) -> tuple[float, tuple[str, ...]]:
    """Penalty on the squared weights of scikit-learn's networks, in units of `loss`.

    It is ``alpha / (2 sum(s))``, and twice that for the squared loss, because theirs
    has a factor 1/2. They divide alpha by the weight of each batch, so training in
    batches minimizes the mean loss with ``alpha`` times the mean of ``1 / batch size``.
    """
    strength = mlp.alpha / 2 * (2 if isinstance(loss, SquaredLoss) else 1)
    strength /= float(weight.sum())
    if mlp.solver == "lbfgs":
        return strength, ()
    n_rows, notes = len(weight), []
    if mlp.early_stopping:
        n_rows -= int(np.ceil(mlp.validation_fraction * n_rows))
        if not n_rows:
            raise ValueError(
                "early_stopping must be False if all samples would be held out, got "
                f"True with n_samples={len(weight)}."
            )
        notes.append(
            "Early stopping trained on only a part of these samples; the objective is "
            "computed on all of them."
        )
    size = 200 if mlp.batch_size == "auto" else int(mlp.batch_size)
    size = min(size, n_rows)
    full, rest = divmod(n_rows, size)
    sizes = [size] * full + [rest] * (rest > 0)
    # Ratio of the penalty to that of a single batch of all samples.
    factor = len(weight) * float(np.mean([1 / s for s in sizes]))
    if len(sizes) > 1:
        notes.append(
            f"scikit-learn divides alpha by the size of a batch: with {len(sizes)} "
            f"batches the penalty is {factor:.4g} times that of a single batch."
        )
    return strength * factor, tuple(notes)


def terms_of_mlp(
    mlp: MLPRegressor | MLPClassifier,
    opened: OpenNetwork,
    weight: NDArray[np.float64],
) -> TrainingTerms:
    """Penalty of scikit-learn's networks: on the weights, not on the biases."""
    network = opened.network
    assert isinstance(network, ChainNetwork)
    strength, notes = mlp_penalty(mlp, opened.loss, weight)
    if isinstance(opened.loss, SquaredLoss):
        notes += ("The squared loss has no factor 1/2: it is twice scikit-learn's.",)
    if isinstance(opened.loss, SquaredLoss) and (network.n_outputs or 1) > 1:
        # Use the objective that scikit-learn's gradient belongs to, because training
        # ends where this gradient is zero.
        notes += (
            "scikit-learn computes the gradient of the sum over targets, although its "
            "loss_ is a mean over them; the sum is used here.",
        )
    parts = []
    for W, b in zip(network.weights, network.biases, strict=True):
        parts.append(np.full(W.numel(), strength))
        parts.append(np.zeros(0 if b is None else len(b)))
    return TrainingTerms(np.concatenate(parts), np.ones(len(weight)), notes)


def terms_of_module(
    final: Any, opened: OpenNetwork, weight: NDArray[np.float64]
) -> TrainingTerms:
    """No penalty, and notes on parts of the training that are not in the objective."""
    module = final if isinstance(final, nn.Module) else final.module_
    notes = []
    noisy = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._NormBase)
    if any(isinstance(part, noisy) for part in module.modules()):
        notes.append(
            "Dropout and batch norm are in evaluation mode; training with them "
            "minimized a different objective."
        )
    groups = [] if isinstance(final, nn.Module) else final.optimizer_.param_groups
    if any(group.get("weight_decay") for group in groups):
        notes.append(
            "The optimizer's weight decay is not part of the objective; pass it as "
            "`penalty`."
        )
    penalty = np.zeros(opened.network.n_params)
    return TrainingTerms(penalty, np.ones(len(weight)), tuple(notes))
