"""
Refit boosted trees
===================

Boosting adds one tree at a time and never revises the leaves of earlier trees. The
refit keeps all splits and finds all leaf values together, in one convex problem, with a
regularization strength that is chosen on held-out samples. If the trees are
overconfident, the refit predicts better probabilities.
"""

import sys

import matplotlib.pyplot as plt
import numpy as np
from sklearn.calibration import calibration_curve
from sklearn.datasets import make_classification
from sklearn.ensemble import GradientBoostingClassifier, HistGradientBoostingClassifier
from sklearn.metrics import accuracy_score, log_loss
from sklearn.model_selection import train_test_split

from sklearn_pgb import GradientBasisRefit

# %%
# Data and models
# ---------------
#
# Two classes with some wrong labels. The trees have their default parameters. The refit
# trains them on five folds and chooses its regularization strength on held-out samples.

X, y = make_classification(
    n_samples=6000,
    n_features=12,
    n_informative=8,
    n_clusters_per_class=4,
    flip_y=0.08,
    random_state=0,
)
X_train, X_test, y_train, y_test = train_test_split(
    X, y, train_size=1000, random_state=0
)
boosters = {
    "histogram boosting": HistGradientBoostingClassifier(random_state=0),
    "gradient boosting": GradientBoostingClassifier(random_state=0),
}
fitted = {}
for name, booster in boosters.items():
    fitted[name] = booster.fit(X_train, y_train)
    fitted[f"{name}, refitted"] = GradientBasisRefit(booster).fit(X_train, y_train)

print("| model | log loss | accuracy |")
print("| :-- | --: | --: |")
for name, model in fitted.items():
    loss = log_loss(y_test, model.predict_proba(X_test))
    accuracy = accuracy_score(y_test, model.predict(X_test))
    print(f"| {name} | {loss:.3f} | {accuracy:.3f} |")

# %%
# The certificate
# ---------------
#
# `model_loss_` and `refit_loss_` are losses on the training samples. Here the chosen
# penalty is strong, so the refit has a larger training loss than the average of the
# five boosters, and a smaller one on new samples. The best leaf values without a
# penalty have a training loss of at least the lower bound. It is zero here, as the
# leaves can separate the training samples. The gap bounds the error of the solution of
# the penalized problem.

print()
print("| training loss | booster | refit | lower bound | gap |")
print("| :-- | --: | --: | --: | --: |")
for name in boosters:
    refit = fitted[f"{name}, refitted"]
    print(
        f"| {name} | {refit.model_loss_:.4f} | {refit.refit_loss_:.4f} "
        f"| {refit.lower_bound_:.4f} | {refit.duality_gap_:.1e} |"
    )

# %%
# Calibration
# -----------
#
# For each booster, the fraction of positive samples among those with about the same
# predicted probability. Overconfident models lie below the diagonal at high
# probabilities and above it at low ones. Gradient boosting with its fewer
# leaves is less overconfident, and its refit changes little.

figure, axes = plt.subplots(1, 2, figsize=(8.5, 4), sharey=True, layout="constrained")
for ax, name in zip(axes, boosters, strict=True):
    ax.plot([0, 1], [0, 1], color="0.7", lw=1)
    for label, style in ((name, "o-"), (f"{name}, refitted", "s-")):
        probability = fitted[label].predict_proba(X_test)[:, 1]
        fraction, mean = calibration_curve(
            y_test, probability, n_bins=10, strategy="quantile"
        )
        error = np.abs(fraction - mean).mean()
        ax.plot(mean, fraction, style, ms=4, label=f"{label} (mean error {error:.3f})")
    ax.set_xlabel("mean predicted probability")
    ax.legend(frameon=False, fontsize="small", loc="upper left")
    ax.set_aspect("equal")
    ax.set_ylim(0, 1.15)
axes[0].set_ylabel("fraction of positive samples")

if len(sys.argv) > 1:
    figure.savefig(sys.argv[1], dpi=120)
