"""Check and resolve the parameters of a refit."""

import warnings
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import is_classifier
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import PoissonRegressor
from sklearn.utils import get_tags

from sklearn_pgb._convex._choice import check_alpha, is_number
from sklearn_pgb._estimator._border import final_estimator
from sklearn_pgb._losses._named import MODULE_LOSSES, OF_MEANS, find_loss, one_of
from sklearn_pgb._losses._regression import SquaredLoss
from sklearn_pgb._models._open import (
    check_can_open,
    has_trees,
    holds_frozen,
    open_network,
)
from sklearn_pgb._models._selected import check_selection, named, select
from sklearn_pgb._models._skorch import is_skorch


@dataclass(frozen=True, eq=False)
class RefitRequest:
    """Parameters of `GradientBasisRefit` that the stages of `fit` need."""

    estimator: Any
    parameters: Any
    loss: str
    alpha: Any
    center: str
    cv: Any
    solver: str
    n_models: int
    class_weight: Any
    distribution: bool
    device: Any
    n_jobs: int | None
    memory: Any

    @classmethod
    def of(cls, refit: Any) -> Self:
        """Current parameters of a `GradientBasisRefit`."""
        return cls(**{field.name: getattr(refit, field.name) for field in fields(cls)})

    @classmethod
    def at_last_fit(cls, refit: Any) -> Self:
        """Parameters during the last `fit`, even if they have been set since."""
        kept = vars(refit).get("_as_fitted")
        return cls.of(refit) if kept is None else cls(**kept)

    @property
    def is_prefit(self) -> bool:
        """Whether the network is already trained, so that `fit` only refits it."""
        return isinstance(self.estimator, FrozenEstimator | torch.nn.Module)

    @property
    def classifies(self) -> bool:
        """Whether the network is a classifier."""
        if isinstance(self.estimator, torch.nn.Module):
            return getattr(find_loss(self.loss), "is_classification", False)
        return is_classifier(self.estimator)

    @property
    def trains_squared_loss(self) -> bool:
        """Whether the network is trained with the squared loss."""
        if isinstance(self.estimator, torch.nn.Module):
            return self.loss == SquaredLoss.name
        final = final_estimator(self.estimator)
        if is_classifier(final) or isinstance(final, PoissonRegressor):
            return False
        return find_loss(getattr(final, "loss", SquaredLoss.name)) == SquaredLoss()

    @property
    def has_alpha_rule(self) -> bool:
        """Whether the user gave a rule for alpha, or the default, and no values."""
        return isinstance(self.alpha, str)

    @property
    def alpha_rule(self) -> str:
        """The rule that chooses alpha; "auto" if alpha is a number or an array."""
        return self.alpha if self.has_alpha_rule else "auto"

    @property
    def validation_options(self) -> dict[str, Any]:
        """Options of `validate_data` for a network that does not check X itself."""
        final = final_estimator(self.estimator)
        is_module = isinstance(final, torch.nn.Module) or is_skorch(final)
        return {
            "dtype": (np.float64, np.float32),
            "accept_sparse": ("csr", "csc"),
            # This package's networks have the tag if the user gives them a module.
            "allow_nd": is_module or get_tags(final).input_tags.three_d_array,
        }

    def check(self, has_validation: bool) -> None:
        """Raise if the parameters can't work together, before any training."""
        estimator = self.estimator
        is_module = isinstance(estimator, torch.nn.Module)
        if is_module == (self.loss == "auto"):
            raise ValueError(
                f"loss must be {one_of(OF_MEANS)} for a torch module and 'auto' for an "
                "estimator, which knows the loss it is trained with, got "
                f"loss={self.loss!r} with {type(estimator).__name__}."
            )
        check_can_open(estimator)
        check_selection(self.parameters)
        if self.is_prefit:
            opened = open_network(estimator, loss=MODULE_LOSSES[self.loss])
            select(opened.network, named(opened.network, self.parameters))
        user_folds = self.cv is not None and not isinstance(self.cv, str)
        if self.is_prefit and (self.n_models > 1 or user_folds):
            raise ValueError(
                "n_models must be 1 and cv 'auto' or None for a network that is "
                "taken as it is (a FrozenEstimator or a module), got "
                f"n_models={self.n_models} and cv={self.cv!r}. Pass the estimator "
                "unfrozen to train several, or pass X_val and y_val to choose alpha."
            )
        has_folds = not self.is_prefit and self.resolve_cv(has_validation) is not None
        if has_folds and holds_frozen(estimator):
            raise ValueError(
                "estimator must not hold a frozen model, which no fold can train "
                f"again, got one in {type(estimator).__name__}. Unfreeze it, or put "
                "the whole estimator in a FrozenEstimator and pass X_val and y_val."
            )
        if has_trees(estimator):
            self._check_trees(has_validation)
        if has_validation and user_folds:
            raise ValueError(
                "cv must be 'auto' or None if X_val and y_val are given, because they "
                f"replace the folds, got cv={self.cv!r}."
            )
        if isinstance(self.cv, int | np.integer) and self.cv < 2:
            raise ValueError(
                f"cv must be at least 2 folds, got {self.cv!r}. Use cv=5, or cv=None "
                "for no folds."
            )
        if not is_number(self.alpha):
            check_alpha(self.alpha, ("auto", "loo", "evidence"))
        if self.alpha_rule == "evidence" and not self.trains_squared_loss:
            raise ValueError(
                "alpha='evidence' needs the squared loss, got another loss. Use "
                "'auto' or 'loo'."
            )

    def _check_trees(self, has_validation: bool) -> None:
        """Raise if alpha would be chosen on samples that trees have memorized."""
        if self.is_prefit and not has_validation:
            raise ValueError(
                "X_val and y_val must be given for trees in a FrozenEstimator, because "
                "trees memorize the samples they were trained on, got None. Pass "
                "samples that the trees have not seen, or the estimator unfrozen."
            )
        if self.cv is None and not has_validation:
            raise ValueError(
                "cv must not be None for trees, because they memorize the samples they "
                "were trained on. Use cv='auto' or a number of folds, or pass X_val "
                "and y_val."
            )
        if self.alpha_rule != "auto":
            raise ValueError(
                "alpha must be 'auto', a number or an array for trees, because they "
                f"memorize the samples they were trained on, got {self.alpha!r}, which "
                "chooses on these samples. Use 'auto'."
            )

    def resolve_cv(self, has_validation: bool) -> Any:
        """Resolve `cv`; None if the networks are trained on all samples."""
        if isinstance(self.cv, np.integer):
            return int(self.cv)
        if not isinstance(self.cv, str):
            return self.cv
        if has_validation or self.is_prefit or self.alpha_rule != "auto":
            return None
        trains_once = is_number(self.alpha) and not has_trees(self.estimator)
        return None if trains_once else "auto"

    def warn_of_optimism(self, has_validation: bool) -> None:
        """Warn if alpha is chosen on samples that a network may have memorized."""
        is_default = self.has_alpha_rule and self.alpha_rule == "auto"
        if self.is_prefit and is_default and not has_validation:
            warnings.warn(
                "The network is taken as it is, so alpha is chosen on samples that it "
                "may have been trained on, which is optimistic. Pass X_val and y_val "
                "to fit, or choose a rule explicitly, such as alpha='loo'.",
                UserWarning,
                stacklevel=2,
            )
