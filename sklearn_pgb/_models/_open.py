"""Open fitted estimators and modules as functions of their parameters."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from sklearn.compose import TransformedTargetRegressor
from sklearn.frozen import FrozenEstimator
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted
from torch import nn

from sklearn_pgb._losses._loss import Loss
from sklearn_pgb._losses._named import MODULE_LOSSES
from sklearn_pgb._models._boosters import check_booster, is_booster, open_booster
from sklearn_pgb._models._combinations import (
    check_combination,
    is_combination,
    open_combination,
    unfitted_members,
)
from sklearn_pgb._models._linear import is_linear_model, open_linear
from sklearn_pgb._models._mlp import open_mlp
from sklearn_pgb._models._module import open_module
from sklearn_pgb._models._opened import NetworkEstimator, OpenNetwork
from sklearn_pgb._models._skorch import is_skorch, open_skorch
from sklearn_pgb._models._trees import check_trees, is_tree_model, open_trees
from sklearn_pgb._sklearn import BaseSearchCV


def named_loss(name: Any) -> Loss | None:
    """The loss with this name; None for None and "auto"."""
    if name is None:
        return None
    if not isinstance(name, str) or name not in MODULE_LOSSES:
        kind = ValueError if isinstance(name, str) else TypeError
        raise kind(f"loss must be one of {_LOSS_NAMES} or None, got {name!r}.")
    return MODULE_LOSSES[name]


_LOSS_NAMES = ", ".join(map(repr, MODULE_LOSSES))


def open_network(estimator: Any, *, loss: Loss | None = None) -> OpenNetwork:
    """Open a fitted estimator or a torch module.

    Parameters
    ----------
    estimator : estimator or torch.nn.Module
        A fitted model: a network of this package, MLPRegressor, MLPClassifier or skorch
        net; trees, forests and boosted trees of scikit-learn, LightGBM, XGBoost or
        CatBoost; a linear model; a vote or a bag of these, or one for each output; a
        Pipeline, TransformedTargetRegressor, FrozenEstimator or search (GridSearchCV
        and its like) that ends in one of these in any nesting; or a module.
    loss : Loss, default=None
        The loss. None means the estimator's training loss; modules need a loss.

    Returns
    -------
    OpenNetwork
        The network, its loss, and the maps of X and y.
    """
    if loss is not None and not isinstance(loss, Loss):
        raise TypeError(
            f"loss must be a Loss or None, got {type(loss).__name__}. "
            "`named_loss` returns the loss with a name."
        )
    final, steps, target_transformers = unwrap(estimator)
    if isinstance(final, nn.Module):
        if loss is None:
            raise ValueError(
                "loss must be given with a torch module, which does not store its "
                f"loss, got None. Pass one of {_LOSS_NAMES.partition(', ')[2]}."
            )
        opened = OpenNetwork(open_module(final), loss, None, final)
    elif isinstance(final, NetworkEstimator):
        opened = final._open_network()
    elif isinstance(final, MLPRegressor | MLPClassifier):
        opened = open_mlp(final)
    elif is_skorch(final):
        opened = open_skorch(final)
    elif is_tree_model(final):
        opened = open_trees(final)
    elif is_booster(final):
        opened = open_booster(final)
    elif is_linear_model(final):
        opened = open_linear(final)
    elif is_combination(final):
        opened = open_combination(final, open_network)
    else:
        raise TypeError(_cannot_open(estimator, final))
    return replace(
        opened,
        loss=loss or opened.loss,
        steps=(*steps, *opened.steps),
        target_transformers=target_transformers,
    )


def nested(estimator: Any) -> Iterator[Any]:
    """An estimator and the estimators it wraps, from the outermost to the network."""
    while True:
        yield estimator
        if isinstance(estimator, FrozenEstimator | BaseSearchCV):
            estimator = estimator.estimator
        elif isinstance(estimator, Pipeline):
            estimator = estimator.steps[-1][1]
        elif isinstance(estimator, TransformedTargetRegressor):
            estimator = estimator.regressor
        else:
            return


def check_can_open(estimator: Any) -> None:
    """Raise an error unless an estimator, after it is fitted, can be opened."""
    *_, final = nested(estimator)
    if is_tree_model(final):
        check_trees(final)
    elif is_booster(final):
        check_booster(final)
    elif is_combination(final):
        check_combination(final)
        for member in unfitted_members(final):
            check_can_open(member)
    elif not (is_network(final) or is_linear_model(final)):
        raise TypeError(_cannot_open(estimator, final))


def is_network(estimator: Any) -> bool:
    """Whether a model ends in a network."""
    *_, final = nested(estimator)
    known = nn.Module | NetworkEstimator | MLPRegressor | MLPClassifier
    return isinstance(final, known) or is_skorch(final)


def has_trees(estimator: Any) -> bool:
    """Whether a model, fitted or not, is made of trees or has members that are."""
    *_, final = nested(estimator)
    if is_combination(final):
        return any(has_trees(member) for member in unfitted_members(final))
    return is_tree_model(final) or is_booster(final)


def holds_frozen(estimator: Any) -> bool:
    """Whether a model or a member of it is frozen, so that no fold trains it again."""
    *_, final = chain = list(nested(estimator))
    if is_combination(final) and any(map(holds_frozen, unfitted_members(final))):
        return True
    return any(isinstance(each, FrozenEstimator) for each in chain)


def checks_inputs(estimator: Any) -> bool:
    """Whether X goes to a model that checks it and may take missing values."""
    # Trees may take missing values, and a pipeline may impute them.
    *chain, final = nested(estimator)
    is_own = is_tree_model(final) or is_booster(final) or is_combination(final)
    # A frozen model that was fitted to a data frame compares names of columns.
    is_named = hasattr(final, "feature_names_in_")
    is_named &= any(isinstance(each, FrozenEstimator) for each in chain)
    return is_own or is_named or any(isinstance(each, Pipeline) for each in chain)


def unwrap(estimator: Any) -> tuple[Any, tuple[Any, ...], tuple[Any, ...]]:
    """The final estimator inside fitted wrappers, and the transformers of X and y."""
    steps, target_transformers = [], []
    while True:
        if isinstance(estimator, FrozenEstimator):
            estimator = estimator.estimator
        elif isinstance(estimator, Pipeline):
            *transformers, (_, final) = estimator.steps
            # A pipeline's `transform` takes longer than many a transformer.
            steps += [each for _, each in transformers if hasattr(each, "transform")]
            estimator = final
        elif isinstance(estimator, TransformedTargetRegressor):
            check_is_fitted(estimator)
            target_transformers.append(estimator.transformer_)
            estimator = estimator.regressor_
        elif isinstance(estimator, BaseSearchCV):
            if not estimator.refit:
                raise ValueError(
                    "estimator must be a search that trains its best network, got "
                    f"refit={estimator.refit!r}. Set refit=True."
                )
            check_is_fitted(estimator)
            estimator = estimator.best_estimator_
        else:
            return estimator, tuple(steps), tuple(target_transformers)


def _cannot_open(estimator: Any, final: Any) -> str:
    """Message for an estimator that can't be opened."""
    ending = "" if final is estimator else f" that ends in {final!r}"
    advice = "Open the model itself."
    if type(final).__module__.startswith("sklearn_pgb."):
        advice = "That is a refit of models; open one of them, in `estimators_`."
    return (
        "estimator must be a network of this package, an MLPRegressor, an "
        "MLPClassifier, a skorch net, a torch module, trees, a linear model, a "
        "combination of these as in the user guide, or a Pipeline, "
        "TransformedTargetRegressor, FrozenEstimator or search that ends in one, "
        f"got {type(estimator).__name__}{ending}. {advice}"
    )
