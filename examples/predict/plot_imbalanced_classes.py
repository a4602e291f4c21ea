"""
Imbalanced classes: weights or a threshold?
===========================================

One sample in sixteen is positive. Should rare samples get a larger weight? This example
fits the classifier with and without ``class_weight="balanced"`` and compares their
probabilities. Weights make probabilities wrong on purpose. A threshold that fits the
costs of both errors makes the same decisions, and keeps them right.
"""

import sys

import matplotlib.pyplot as plt
import numpy as np
from sklearn.calibration import calibration_curve
from sklearn.datasets import make_classification
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import (
    average_precision_score,
    log_loss,
    precision_recall_curve,
)
from sklearn.model_selection import train_test_split

from sklearn_pgb import GradientBasisClassifier

# %%
# Data and models
# ---------------

X, y = make_classification(
    n_samples=8000,
    n_features=12,
    n_informative=6,
    n_clusters_per_class=3,
    weights=[0.95],
    flip_y=0.02,
    class_sep=0.8,
    random_state=0,
)
X_train, X_test, y_train, y_test = train_test_split(
    X, y, train_size=1000, stratify=y, random_state=0
)
models = {
    "GradientBasisClassifier": GradientBasisClassifier(random_state=0),
    'class_weight="balanced"': GradientBasisClassifier(
        class_weight="balanced", random_state=0
    ),
    "histogram boosting": HistGradientBoostingClassifier(random_state=0),
}
probabilities = {
    name: model.fit(X_train, y_train).predict_proba(X_test)[:, 1]
    for name, model in models.items()
}

# %%
# Probabilities
# -------------
#
# The mean probability should be the fraction of positive samples. Average precision
# only depends on the order of the samples, which weights hardly change.

print(f"positive samples: {y_test.mean():.3f}\n")
print("| model | mean probability | log loss | average precision |")
print("| :-- | --: | --: | --: |")
for name, p in probabilities.items():
    scores = log_loss(y_test, p), average_precision_score(y_test, p)
    print(f"| {name} | {p.mean():.3f} | {scores[0]:.3f} | {scores[1]:.3f} |")

# %%
# Decisions
# ---------
#
# If a missed positive costs as much as 15 false alarms, the best decision with correct
# probabilities is "positive" above :math:`1 / (1 + 15)`. No weights are needed, and
# nothing has to be fitted again if the costs change.

MISSED = 15


def cost(decision):
    """Mean cost of a decision."""
    missed = (y_test == 1) & ~decision
    return np.mean(MISSED * missed + ((y_test == 0) & decision))


print("\n| decision | mean cost |")
print("| :-- | --: |")
plain = probabilities["GradientBasisClassifier"]
balanced = probabilities['class_weight="balanced"']
for name, decision in {
    "never positive": np.zeros(len(y_test), bool),
    "probability above 1/2": plain > 0.5,
    "balanced, probability above 1/2": balanced > 0.5,
    "probability above 1/16": plain > 1 / (1 + MISSED),
}.items():
    print(f"| {name} | {cost(decision):.3f} |")

# %%
# Left: the fraction of positive samples among those with about the same probability.
# Right: precision and recall at all thresholds.

figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 4), layout="constrained")
styles = {"color": "tab:blue"}, {"color": "tab:orange"}, {"color": "tab:gray"}
markers = "o", "s", "^"
left.plot([1e-3, 1], [1e-3, 1], color="0.8", lw=1, zorder=0)
for (name, p), style, marker in zip(
    probabilities.items(), styles, markers, strict=True
):
    fraction, mean = calibration_curve(y_test, p, n_bins=10, strategy="quantile")
    left.plot(mean, fraction, f"{marker}-", ms=5, label=name, **style)
    precision, recall, _ = precision_recall_curve(y_test, p)
    right.plot(recall[:-1], precision[:-1], label=name, **style)
left.set(xscale="log", yscale="log", xlim=(1e-3, 1), ylim=(3e-3, 1))
left.set(xlabel="mean predicted probability", ylabel="fraction of positive samples")
left.set_title("Are the probabilities right?")
right.set(xlabel="recall", ylabel="precision", ylim=(0, 1.02))
right.set_title("Is the order right?")
right.axhline(y_test.mean(), color="0.8", lw=1, zorder=0)
left.legend(frameon=False, loc="upper left")

if len(sys.argv) > 1:
    figure.savefig(sys.argv[1], dpi=120)
