"""
Samples that belong together: groups
====================================

Several samples of one patient, plant or customer resemble each other. If a random part
of the samples is held out, each held-out sample has siblings among the training
samples, and the score on it says nothing about new patients. ``fit(X, y, groups=...)``
keeps each group in one fold. This example compares both with the score on new groups.
"""

import sys

import matplotlib.pyplot as plt
import numpy as np

from sklearn_pgb import GradientBasisRegressor

# %%
# Data with a group effect
# ------------------------
#
# Each of 60 patients has eight samples. Four columns are almost the same for all
# samples of a patient, so a model can recognize the patient. The targets have an effect
# of the patient, which a model can learn by heart but never predict for a new one.


def draw(n_groups, seed):
    """Inputs, targets and groups."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(n_groups), 8)
    patient = rng.normal(size=(n_groups, 4))[groups]
    effect = rng.normal(size=n_groups)[groups]
    visit = rng.normal(size=(len(groups), 3))
    X = np.hstack([patient + 0.1 * rng.normal(size=patient.shape), visit])
    signal = np.sin(X[:, 4]) + 0.5 * X[:, 5] * X[:, 6] + 0.4 * X[:, 0]
    return X, signal + effect + 0.3 * rng.normal(size=len(groups)), groups


X_new, y_new, _ = draw(400, seed=1000)

# %%
# Scores with and without groups
# ------------------------------
#
# ``oof_score_`` is the R² on held-out samples of the training data.

scores = {"without groups": [], "with groups": []}
for seed in range(3):
    X, y, groups = draw(60, seed)
    for name, given in (("without groups", None), ("with groups", groups)):
        model = GradientBasisRegressor(random_state=0).fit(X, y, groups=given)
        scores[name].append((model.oof_score_, model.score(X_new, y_new)))

print("| fit | R² on held-out samples | R² on new patients |")
print("| :-- | --: | --: |")
for name, pairs in scores.items():
    held_out, new = np.mean(pairs, axis=0)
    print(f"| {name} | {held_out:.2f} | {new:.2f} |")

# %%
# Without groups the estimate is far too optimistic. The model is worse, too: held-out
# samples reward a model for recognizing patients, so it gets too little regularization.

figure, ax = plt.subplots(figsize=(6.5, 3.6), layout="constrained")
styles = {"without groups": ("tab:orange", "s"), "with groups": ("tab:blue", "o")}
for name, (color, marker) in styles.items():
    held_out, new = np.transpose(scores[name])
    ax.plot(held_out, new, marker, color=color, ms=8, label=name)
ax.plot([0, 1], [0, 1], color="0.7", lw=1, zorder=0)
ax.annotate("honest", (0.42, 0.42), color="0.4", ha="right", va="bottom")
ax.set(xlim=(0, 1), ylim=(0, 0.5))
ax.set(xlabel="R² on held-out samples (oof_score_)", ylabel="R² on new patients")
ax.set_title("Three data sets with eight samples per patient")
ax.legend(frameon=False, loc="upper right")

if len(sys.argv) > 1:
    figure.savefig(sys.argv[1], dpi=120)
