"""The training losses of LightGBM, XGBoost and CatBoost, by their own names."""

from typing import Any

from sklearn_pgb._losses._classification import CrossEntropyLoss, LogisticLoss
from sklearn_pgb._losses._loss import Loss
from sklearn_pgb._losses._regression import PoissonLoss, SquaredLoss
from sklearn_pgb._models._protected import packages_of

SQUARED, POISSON = SquaredLoss(), PoissonLoss()
LOGISTIC, SOFTMAX = LogisticLoss(), CrossEntropyLoss()

# The training losses that can be opened, by package and by the package's name.
BOOSTER_LOSSES: dict[str, dict[str, Loss]] = {
    "lightgbm": {
        **dict.fromkeys(("regression", "regression_l2", "l2", "mse", "rmse"), SQUARED),
        "mean_squared_error": SQUARED,
        "poisson": POISSON,
        "binary": LOGISTIC,
        "multiclass": SOFTMAX,
        "softmax": SOFTMAX,
    },
    "xgboost": {
        "reg:squarederror": SQUARED,
        "count:poisson": POISSON,
        "binary:logistic": LOGISTIC,
        "multi:softprob": SOFTMAX,
        "multi:softmax": SOFTMAX,
    },
    "catboost": {
        "RMSE": SQUARED,
        "MultiRMSE": SQUARED,
        "Poisson": POISSON,
        "Logloss": LOGISTIC,
        "MultiClass": SOFTMAX,
    },
}
# The parameter that names the loss.
LOSS_PARAMETERS = {
    "lightgbm": "objective",
    "xgboost": "objective",
    "catboost": "loss_function",
}


def booster_package(estimator: Any) -> str | None:
    """Name of the package of a booster; None if it is another estimator."""
    packages = packages_of(estimator)
    return next((name for name in BOOSTER_LOSSES if name in packages), None)


def booster_loss(estimator: Any, name: Any) -> Loss:
    """The loss that a booster's package calls `name`."""
    package = str(booster_package(estimator))
    known, plain = BOOSTER_LOSSES[package], name
    if package == "catboost" and isinstance(name, str):
        before, _, options = name.partition(":")
        # Hints only concern the metrics that are printed. Other options, such as
        # borders of targets, change the loss.
        if all(option.startswith("hints=") for option in options.split(";")):
            plain = before
    if not isinstance(plain, str) or plain not in known:
        raise ValueError(
            f"{LOSS_PARAMETERS[package]} must be one of {list(known)} to open a "
            f"{type(estimator).__name__}, got {name!r}. Train it with one of these."
        )
    return known[plain]


def refuse_setting(estimator: Any, key: str, value: Any) -> None:
    """Raise an error about a parameter with which predictions are no sum of leaves."""
    raise ValueError(
        f"{key} must not be {value!r} to open a {type(estimator).__name__}, because "
        "its predictions are not a sum of leaf values. Leave it at its default."
    )
