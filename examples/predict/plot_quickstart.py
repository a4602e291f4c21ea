"""
Refit a neural network
======================

Does ``GradientBasisRefit(network)`` predict better than the network? The partial
derivatives of a trained network are the features of a convex model that contains the
network. This example trains networks on three of scikit-learn's bundled data sets,
refits them, and compares both with handcrafted bases and boosting by held-out losses
and times of a fit.
"""

import sys
import time
import warnings

import matplotlib.pyplot as plt
import numpy as np
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
)
from sklearn.exceptions import ConvergenceWarning
from sklearn.kernel_approximation import Nystroem
from sklearn.linear_model import LogisticRegressionCV, RidgeCV
from sklearn.metrics import log_loss, root_mean_squared_error
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from sklearn_pgb import GradientBasisRefit

# Networks stop at max_iter by design: the refit does the rest.
warnings.simplefilter("ignore", ConvergenceWarning)

NETWORK = {
    "hidden_layer_sizes": (64,),
    "activation": "tanh",
    "alpha": 1e-2,
    "learning_rate_init": 3e-3,
    "random_state": 0,
}

# %%
# The models
# ----------
#
# Every model standardizes its inputs. The refit is one line. It trains a network for
# each of five folds, chooses alpha on held-out samples, and concatenates the five
# bases.


def standardized(model):
    """Standardize the inputs of a model, and the targets of a regressor."""
    pipeline = make_pipeline(StandardScaler(), model)
    if isinstance(model, MLPRegressor):
        return TransformedTargetRegressor(pipeline, transformer=StandardScaler())
    return pipeline


def linear_model(classifies, strengths):
    """Ridge or logistic regression with a choice of the regularization strength."""
    if not classifies:
        return RidgeCV(np.logspace(-3, 4, 15))
    return LogisticRegressionCV(
        Cs=strengths,
        cv=3,
        l1_ratios=(0,),
        max_iter=200,
        scoring="neg_log_loss",
        use_legacy_attributes=False,
    )


def models(classifies):
    """Unfitted models by name."""
    if classifies:
        network = standardized(MLPClassifier(**NETWORK))
        boosting = HistGradientBoostingClassifier(random_state=0)
    else:
        network = standardized(MLPRegressor(**NETWORK))
        boosting = HistGradientBoostingRegressor(random_state=0)
    linear = linear_model(classifies, strengths=(0.01, 0.1, 1.0))
    quadratic = make_pipeline(
        StandardScaler(), PolynomialFeatures(2, include_bias=False), StandardScaler()
    )
    # Kernel features are small, so they need weaker regularization.
    rbf = make_pipeline(
        StandardScaler(),
        Nystroem(n_components=200, random_state=0),
        linear_model(classifies, strengths=(1.0, 10.0, 100.0)),
    )
    return {
        "network": network,
        "linear": make_pipeline(StandardScaler(), linear),
        "quadratic": make_pipeline(quadratic, linear),
        "RBF (Nystroem)": rbf,
        "boosting": boosting,
        "refit": GradientBasisRefit(network),
    }


# %%
# Held-out losses
# ---------------
#
# Three folds. The loss is the root mean squared error or the log loss on held-out
# samples. The time is that of one fit, which includes five networks for the refit.


def first_digits():
    """The first 900 handwritten digits."""
    X, y = load_digits(return_X_y=True)
    return X[:900], y[:900]


SETS = {
    "diabetes": (lambda: load_diabetes(return_X_y=True), "RMSE"),
    "breast cancer": (lambda: load_breast_cancer(return_X_y=True), "log loss"),
    "digits": (first_digits, "log loss"),
}


def held_out_loss(model, X, y, metric):
    """RMSE or log loss on held-out samples."""
    if metric == "RMSE":
        return root_mean_squared_error(y, model.predict(X))
    return log_loss(y, model.predict_proba(X))


def evaluate(load, metric):
    """Losses (n_models, n_folds), mean seconds, and the last fitted refit."""
    X, y = load()
    kind = KFold if metric == "RMSE" else StratifiedKFold
    losses, seconds = [], []
    for train, test in kind(3, shuffle=True, random_state=0).split(X, y):
        fitted = models(metric != "RMSE")
        losses.append([])
        seconds.append([])
        for model in fitted.values():
            start = time.perf_counter()
            model.fit(X[train], y[train])
            seconds[-1].append(time.perf_counter() - start)
            losses[-1].append(held_out_loss(model, X[test], y[test], metric))
    return np.array(losses).T, np.mean(seconds, axis=0), fitted["refit"]


names = list(models(True))
results = {}
print("| held-out loss (seconds) | " + " | ".join(names) + " |")
print("| :-- |" + " --: |" * len(names))
for name, (load, metric) in SETS.items():
    losses, seconds, _ = results[name] = evaluate(load, metric)
    cells = [
        f"{loss:.4g} ({second:.2f})"
        for loss, second in zip(losses.mean(1), seconds, strict=True)
    ]
    print(f"| {name}, {metric} | " + " | ".join(cells) + " |", flush=True)

# %%
# Left: held-out losses, relative to the network's. Right: how the refit chose the
# regularization strength on the digits. Each candidate is scored on samples that the
# network behind its features has not seen; the vertical line is the chosen one.

figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
for offset, marker, (name, (losses, _, _)) in zip(
    (-0.2, 0.0, 0.2), "os^", results.items(), strict=True
):
    relative = losses / losses[0]
    left.errorbar(
        relative.mean(1),
        np.arange(len(names)) + offset,
        xerr=relative.std(1, ddof=1) / np.sqrt(relative.shape[1]),
        fmt=marker,
        capsize=2,
        label=name,
    )
left.axvline(1.0, color="0.6", lw=1, zorder=0)
left.set_yticks(np.arange(len(names)), names)
left.invert_yaxis()
left.set_xscale("log")
ticks = (0.7, 1.0, 1.5, 2.0, 3.0)
left.set_xticks(ticks, ticks)
left.minorticks_off()
left.set_xlabel("held-out loss relative to the network (± standard error)")
left.set_title("lower is better")
left.legend(frameon=False, loc="lower right")

refit = results["digits"][2]
path = refit.cv_results_
for center, marker in (("zero", "o-"), ("average", "s-")):
    of_center = (path["center"] == center) & np.isfinite(path["alpha"])
    alphas, losses = path["alpha"][of_center], path["loss"][of_center]
    right.loglog(alphas, losses, marker, label=f"towards {center}")
right.axvline(refit.alpha_, color="0.6", lw=1, zorder=0)
right.set_xlabel("regularization strength alpha")
right.set_ylabel("log loss on held-out samples")
right.set_title("digits: choice of alpha and center")
right.legend(frameon=False)

if len(sys.argv) > 1:
    figure.savefig(sys.argv[1], dpi=120)
