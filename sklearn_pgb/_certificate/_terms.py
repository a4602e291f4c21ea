"""Training objectives of models that are not networks."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import (
    ElasticNet,
    ElasticNetCV,
    Lasso,
    LassoCV,
    Ridge,
    RidgeCV,
)
from sklearn.utils.class_weight import compute_sample_weight

from sklearn_pgb._models._linear import is_linear_model
from sklearn_pgb._models._opened import OpenNetwork, TrainingTerms


def terms_of_model(
    final: Any, opened: OpenNetwork, y: Any, weight: NDArray[np.float64]
) -> TrainingTerms:
    """Penalty, class weights and notes of a linear model, trees or a combination."""
    row_weight = np.ones(len(weight))
    class_weight = getattr(final, "class_weight", None)
    if isinstance(class_weight, dict) or class_weight == "balanced":
        row_weight = compute_sample_weight(class_weight, y)
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
        strengths = np.broadcast_to(_strength(final, weight * row_weight), n_outputs)
        n_coef = n_outputs * final.n_features_in_
        penalty[:n_coef] = np.repeat(strengths, final.n_features_in_)
        # The intercept of liblinear is the coefficient of a constant feature.
        if getattr(final, "solver", None) == "liblinear":
            penalty[n_coef:] = strengths / final.intercept_scaling**2
        if _l1_ratio(final) > 0:
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
            "the loss, such as samples drawn for each member or penalties on leaf "
            "values, are not part of the objective."
        )
    return TrainingTerms(penalty, row_weight, tuple(notes))


def _strength(model: Any, weight: NDArray[np.float64]) -> Any:
    """Penalty on the squared coefficients, in units of the mean loss.

    The squared loss of the package has no factor 1/2.
    """
    if isinstance(model, Ridge | RidgeCV):
        # Its objective is a sum over the samples, without a factor 1/2.
        alpha = model.alpha_ if isinstance(model, RidgeCV) else model.alpha
        return np.asarray(alpha) / weight.sum()
    if isinstance(model, Lasso | LassoCV | ElasticNet | ElasticNetCV):
        # Its objective has half of the mean squared loss and half of the squared norm.
        cross_validated = isinstance(model, LassoCV | ElasticNetCV)
        alpha = model.alpha_ if cross_validated else model.alpha
        return alpha * (1 - _l1_ratio(model))
    if hasattr(model, "C_") or hasattr(model, "C"):
        # Its objective is C times a sum over the samples, plus half of the squared
        # norm.
        C = np.ravel(model.C_ if hasattr(model, "C_") else model.C)[0]
        return (1 - _l1_ratio(model)) / (2 * C * weight.sum())
    # A PoissonRegressor has an alpha, a LinearRegression none.
    return getattr(model, "alpha", 0.0) / 2


def _l1_ratio(model: Any) -> float:
    if isinstance(model, Lasso | LassoCV):
        return 1.0
    given = getattr(model, "l1_ratio_", getattr(model, "l1_ratio", None))
    ratio = 0.0 if given is None else np.ravel(given)[0]
    return 0.0 if ratio is None else float(ratio)
