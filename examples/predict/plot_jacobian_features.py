"""
Features for another model
==========================

Can another model use what a network has learnt? A fitted refit is a transformer: its
features are the partial derivatives of the network. Here a network learns to tell the
digits 0 to 4 apart. A logistic regression then learns the digits 5 to 9 from few labels
on three kinds of features: pixels, the hidden layer of the network, and its partial
derivatives.
"""

import sys

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_pgb import GradientBasisRefit

# %%
# The features
# ------------
#
# ``cv=None`` trains one network, and ``n_components`` asks for random sums of the
# derivatives instead of all 5,000. The new task has other labels than the network was
# trained on, so its features know nothing about them.

X, y = load_digits(return_X_y=True)
X = X / 16
known = y < 5

network = MLPClassifier(
    hidden_layer_sizes=(64,),
    activation="tanh",
    alpha=1e-2,
    learning_rate_init=3e-3,
    max_iter=300,
    random_state=0,
)
refit = GradientBasisRefit(network, cv=None, n_components=500, random_state=0)
refit.fit(X[known], y[known])
trained = refit.estimator_
features = {
    "pixels": X,
    "hidden layer": np.tanh(X @ trained.coefs_[0] + trained.intercepts_[0]),
    "partial derivatives": refit.transform(X),
}

# %%
# Few labels for new digits
# -------------------------
#
# Ten random draws of the labelled samples; the accuracy is that on 500 other samples.

new_digits = np.flatnonzero(~known)
sizes = [10, 20, 40, 80, 160]
accuracies = {name: np.empty((10, len(sizes))) for name in features}
rng = np.random.default_rng(0)
for draw in range(10):
    order = rng.permutation(new_digits)
    test = order[-500:]
    for column, n in enumerate(sizes):
        train = order[:n]
        for name, F in features.items():
            model = make_pipeline(
                StandardScaler(), LogisticRegression(C=0.1, max_iter=1000)
            )
            model.fit(F[train], y[train])
            accuracies[name][draw, column] = model.score(F[test], y[test])

print("| labelled samples | " + " | ".join(features) + " |")
print("| --: |" + " --: |" * len(features))
for column, n in enumerate(sizes):
    cells = [f"{values[:, column].mean():.3f}" for values in accuracies.values()]
    print(f"| {n} | " + " | ".join(cells) + " |")

# %%
# The hidden layer is worse than the pixels, because it keeps what the old task needs.
# The partial derivatives keep both: they contain products of inputs and of the
# network's sensitivity to its units.

figure, ax = plt.subplots(figsize=(6.5, 4), layout="constrained")
styles = ("tab:gray", "^-"), ("tab:orange", "s-"), ("tab:blue", "o-")
for (name, values), (color, style) in zip(accuracies.items(), styles, strict=True):
    error = values.std(0, ddof=1) / np.sqrt(len(values))
    ax.errorbar(
        sizes, values.mean(0), yerr=error, fmt=style, color=color, capsize=3, label=name
    )
ax.set_xscale("log")
ax.set_xticks(sizes, sizes)
ax.minorticks_off()
ax.set(xlabel="labelled samples of the digits 5 to 9", ylabel="held-out accuracy")
ax.set_title("Logistic regression on features of a network (± standard error)")
ax.legend(frameon=False, loc="lower right", title="features")

if len(sys.argv) > 1:
    figure.savefig(sys.argv[1], dpi=120)
