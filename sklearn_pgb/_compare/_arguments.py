"""Check the arguments of `compare_bases`."""

from collections.abc import Callable, Mapping
from typing import Any

from sklearn.base import clone
from sklearn.metrics import check_scoring
from sklearn.utils import get_tags

from sklearn_pgb._bases._basis import Basis
from sklearn_pgb._bases._conversion import as_basis, check_names
from sklearn_pgb._losses._named import LOSSES, OF_MEANS

LOSS_NAMES = ("auto", *OF_MEANS)


def check_bases(bases: Any) -> dict[str, Any]:
    """Check bases and estimators, and clone them."""
    check_names(bases)
    if not bases:
        raise ValueError("bases must have at least one entry, got an empty dict.")
    checked = {}
    for name, basis in bases.items():
        estimates = hasattr(basis, "fit") and hasattr(basis, "predict")
        if not estimates and not isinstance(basis, Basis):
            if not hasattr(basis, "transform"):
                raise TypeError(
                    f"bases[{name!r}] must be a basis, a transformer or an estimator, "
                    f"got {type(basis).__name__}. Wrap a module in GradientBasis or "
                    "LayerBasis."
                )
            basis = as_basis(basis)
        checked[name] = clone(basis)
    return checked


def check_scorer(
    scoring: Any, model: Any, classifies: bool
) -> tuple[Callable[..., Any], str]:
    """Check the scoring; return a scorer and the name of the score."""
    if isinstance(scoring, list | tuple | set | Mapping):
        raise ValueError(
            "scoring must be one score: None, a name or a callable, got "
            f"{scoring!r}. Call compare_bases once for each; with `memory` the models "
            "are trained only once."
        )
    scorer = check_scoring(model, scoring)
    if scoring is None:
        return scorer, "accuracy" if classifies else "R²"
    if isinstance(scoring, str):
        return scorer, scoring
    # A scorer of `make_scorer` holds the function that has the name.
    function = getattr(scoring, "_score_func", scoring)
    return scorer, str(getattr(function, "__name__", "score"))


def resolve_loss(loss: Any, bases: Mapping[str, Any], y: Any) -> str:
    """Return the name of the loss that suits the estimators and targets."""
    if loss is not None and not (isinstance(loss, str) and loss in LOSS_NAMES):
        raise ValueError(f"loss must be None or among {LOSS_NAMES}, got {loss!r}.")
    kinds = set()
    for name, basis in bases.items():
        if isinstance(basis, Basis):
            basis = basis.get_params(deep=False).get("estimator")
        if not hasattr(basis, "__sklearn_tags__"):
            continue
        try:
            kinds.add(get_tags(basis).estimator_type)
        except (AttributeError, TypeError) as error:
            # A meta-estimator around an object that is not an estimator.
            raise TypeError(
                f"bases[{name!r}] must hold estimators that scikit-learn knows, got "
                f"{basis!r}. Pass instances of estimators."
            ) from error
    classify, regress = "classifier" in kinds, "regressor" in kinds
    if classify and regress:
        raise ValueError(
            "bases must hold classifiers or regressors, got both. Compare them in "
            "separate calls."
        )
    if loss in (None, "auto"):
        if classify or regress:
            return "log_loss" if classify else "squared_error"
        return "squared_error" if y.dtype.kind == "f" else "log_loss"
    for_labels = LOSSES[loss].is_classification
    if regress if for_labels else classify:
        kind = "regressors" if for_labels else "classifiers"
        raise ValueError(
            f"loss must suit the estimators in bases, got {loss!r} for {kind}. Use "
            "'auto', or other estimators."
        )
    return str(loss)
