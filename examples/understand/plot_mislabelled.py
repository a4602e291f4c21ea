"""
Find wrong labels
=================

If a training sample has a wrong label, a model that has not learned that label
contradicts it. :meth:`GradientBasisRefit.leave_one_out_prediction
<sklearn_pgb.GradientBasisRefit.leave_one_out_prediction>` predicts each training sample
by the refit without it, from one factorization, so nothing is trained again. Here one
in twelve labels of handwritten threes and eights is wrong. We look at the samples whose
prediction contradicts their label most.
"""

# %%
# Exchange labels
# ---------------

import sys

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

from sklearn_pgb import GradientBasisRefit

X, digits = load_digits(return_X_y=True)
kept = np.isin(digits, [3, 8])
X, truth = X[kept] / 16, digits[kept]
rng = np.random.default_rng(0)
wrong = rng.permutation(len(X))[: len(X) // 12]
y = truth.copy()
y[wrong] = 11 - y[wrong]

# %%
# Predict each sample without its label
# -------------------------------------
#
# The decision function is positive for an eight. Multiplied by the sign of the label,
# it is the margin of a sample: negative if the prediction contradicts the label. On
# training samples, the network alone agrees with wrong labels that it has memorized.

network = MLPClassifier(hidden_layer_sizes=20, max_iter=500, random_state=0)
refit = GradientBasisRefit(network, random_state=0).fit(X, y)
sign = np.where(y == 8, 1, -1)
margin = {
    "refit without the sample": sign * refit.leave_one_out_prediction(X, y),
    "refit with the sample": sign * refit.decision_function(X),
    "network": sign * (network.fit(X, y).predict_proba(X)[:, 1] - 0.5),
}

# %%
# Inspect the smallest margins first
# ----------------------------------

inspected = np.arange(1, len(X) + 1)
found = {
    name: np.isin(np.argsort(values, kind="stable"), wrong).cumsum() / len(wrong)
    for name, values in margin.items()
}
print("| margin | wrong labels found among as many samples |")
print("| :-- | --: |")
for name, part in found.items():
    print(f"| {name} | {part[len(wrong) - 1]:.0%} |")

# %%
# The training samples behind a prediction
# ----------------------------------------
#
# ``influence`` answers the opposite question: which training samples move a prediction
# most? An eight that is labelled a three has the smallest margin. Its prediction would
# be more of an eight without its own label, and without other eights labelled as
# threes.

suspects = np.argsort(margin["refit without the sample"])
first = suspects[0]
indices, values = refit.influence(X[[first]], X, y, top_k=6)

figure = plt.figure(figsize=(9, 6.5), layout="constrained")
axes = figure.subplot_mosaic(
    [
        [*["curve"] * 4, "w0", "w1", "w2", "w3"],
        [*["curve"] * 4, "w4", "w5", "w6", "w7"],
        ["own", "note", "i0", "i1", "i2", "i3", "i4", "i5"],
    ]
)
for name, part in found.items():
    axes["curve"].plot(inspected, part, label=name)
axes["curve"].plot(inspected, inspected / len(X), "k:", label="random order")
axes["curve"].set(xlabel="inspected samples", ylabel="wrong labels found")
axes["curve"].set(xlim=(0, 120), title="Smallest margin first")
axes["curve"].legend()


def show(ax, sample, title):
    """Draw a digit; its frame is red if the label is wrong."""
    ax.imshow(X[sample].reshape(8, 8), cmap="gray_r")
    ax.set(xticks=[], yticks=[])
    ax.set_title(title, fontsize=9)
    color = "tab:red" if y[sample] != truth[sample] else "tab:green"
    for spine in ax.spines.values():
        spine.set(color=color, linewidth=3)


for i, sample in enumerate(suspects[:8]):
    show(axes[f"w{i}"], sample, f"label {y[sample]}")
show(axes["own"], first, "prediction of")
axes["note"].axis("off")
axes["note"].text(0.5, 0.5, "changes if one\nis left out\nby", ha="center", va="center")
for i, (sample, value) in enumerate(zip(indices[0], values[0], strict=True)):
    show(axes[f"i{i}"], sample, f"label {y[sample]}: {value:+.2f}")
figure.suptitle("Red frames: the label is wrong")
if len(sys.argv) > 1:
    figure.savefig(sys.argv[1], dpi=120)
plt.show()
