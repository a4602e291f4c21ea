"""
Add residual units to handcrafted bases
=======================================

A ResNet basis adds residual units to the features of any scikit-learn transformer. The
network contains the linear model on these features, so its training objective can't be
worse, and certified bounds show how much better it is. Held-out samples decide whether
the units are used for predictions.
"""

import sys

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.kernel_approximation import Nystroem
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from sklearn_pgb import ResNetBasisRegressor

# %%
# A task and three bases
# ----------------------
#
# The task is to predict the mean brightness of the lower half of a handwritten digit
# from 18 pixels of the upper half. The bases are the pixels, their squares and
# products, and features of a Gaussian kernel.

digits = load_digits().images[:600]
X = digits[:, 1:4, 1:7].reshape(len(digits), -1)
y = digits[:, 4:].mean(axis=(1, 2))

bases = {
    "linear": make_pipeline(StandardScaler()),
    "quadratic": make_pipeline(StandardScaler(), PolynomialFeatures(2)),
    "Gaussian": make_pipeline(StandardScaler(), Nystroem(random_state=0)),
}

# %%
# Training objectives, with bounds
# --------------------------------
#
# `basis_loss_` is the smallest objective of ridge regression on the basis, and `loss_`
# is the objective of the model with residual units. Both include the penalty, with the
# same alpha. The lower bounds for all coefficients on the same features are proven by
# duality.

models = {
    name: ResNetBasisRegressor(basis, random_state=0).fit(X, y)
    for name, basis in bases.items()
}
print("basis       alone   [bound]  residual   [bound]  iterations")
for name, model in models.items():
    print(
        f"{name:9} {model.basis_loss_:7.4f} {model.basis_lower_bound_:9.4f} "
        f"{model.loss_:9.4f} {model.lower_bound_:9.4f} {model.n_iter_:11}"
    )

# %%
# Held-out scores
# ---------------

folds = KFold(3, shuffle=True, random_state=0)
scores = {}
for name, basis in bases.items():
    ridge = make_pipeline(basis, RidgeCV(np.logspace(-6, 4, 21)))
    deepened = ResNetBasisRegressor(basis, random_state=0)
    scores[name] = [cross_val_score(m, X, y, cv=folds) for m in (ridge, deepened)]
    print(f"{name:9} R^2 {scores[name][0].mean():.3f} -> {scores[name][1].mean():.3f}")

# %%
# Both in one figure
# ------------------

figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
positions = np.arange(len(bases))
losses = [[m.basis_loss_ for m in models.values()], [m.loss_ for m in models.values()]]
bounds = [
    [m.basis_lower_bound_ for m in models.values()],
    [m.lower_bound_ for m in models.values()],
]
colors = ("0.65", "tab:blue")
for i, label in enumerate(("basis alone", "with residual units")):
    shift = positions + 0.4 * (i - 0.5)
    axes[0].bar(shift, losses[i], 0.38, color=colors[i], label=label)
    axes[0].plot(
        shift,
        bounds[i],
        "k_",
        markersize=14,
        label="certified lower bound" if i else None,
    )
    means = [score[i].mean() for score in scores.values()]
    errors = [score[i].std() / 2 for score in scores.values()]
    axes[1].bar(shift, means, 0.38, yerr=errors, color=colors[i], capsize=3)
for axis, title in zip(axes, ("training objective", "held-out R²"), strict=True):
    axis.set_xticks(positions, list(bases))
    axis.set_title(title)
    axis.spines[["top", "right"]].set_visible(False)
axes[0].set_ylim(top=1.4 * max(losses[0]))
axes[0].legend(frameon=False, loc="upper right")

if len(sys.argv) > 1:
    figure.savefig(sys.argv[1], dpi=120)
