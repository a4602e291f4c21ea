"""
Where do trainings from many starts end?
========================================

Training a network twice gives two networks. Did one of them get stuck? `survey_minima`
trains from many starts as one population and on towards critical points, counts the
distinct ends, says which of them have arrived and compares their losses with what is
possible at all.
"""

import sys

import matplotlib.pyplot as plt
import numpy as np
from sklearn.neural_network import MLPRegressor

from sklearn_pgb import MinimaSurveyDisplay, survey_minima

# %%
# A wave, and networks of two to eight units
# ------------------------------------------
#
# The targets are a noisy wave; four units can follow it. With more units the worst end
# gets closer to the best one: bad minima become rare.

rng = np.random.default_rng(0)
X = np.sort(rng.uniform(-1, 1, size=(60, 1)), axis=0)
y = np.sin(7 * X[:, 0]) + 0.1 * rng.normal(size=60)

surveys = {}
for n_units in (2, 4, 8):
    network = MLPRegressor(
        hidden_layer_sizes=(n_units,), activation="tanh", solver="lbfgs", alpha=1e-3
    )
    surveys[n_units] = survey_minima(
        network, X, y, n_starts=24, polish_iter=300, random_state=0
    )

# %%
# The summary
# -----------
#
# Copies of a network with permuted units, or with signs flipped, count as one minimum.

print("| units | best loss | median | worst | distinct ends | arrived | bound |")
print("| --: | --: | --: | --: | --: | --: | --: |")
for n_units, survey in surveys.items():
    n_arrived = survey.n_starts - survey.verdict.count("not_critical")
    print(
        f"| {n_units} | {survey.loss.min():.4f} | {np.median(survey.loss):.4f} | "
        f"{survey.loss.max():.4f} | {survey.n_minima} | "
        f"{n_arrived} | {survey.best_bound:.4f} |"
    )
print()
print(surveys[4])

# %%
# The distributions
# -----------------
#
# A step is a minimum that many starts share. Lines are bounds: the linear model, and
# the gradient basis of the best end: none of its combinations has a smaller loss.

figure, axes = plt.subplots(1, 3, figsize=(13, 4.6), layout="constrained")
for ax, (n_units, survey) in zip(axes, surveys.items(), strict=True):
    MinimaSurveyDisplay.from_survey(survey, ax=ax, name=f"{n_units} units")

if len(sys.argv) > 1:
    figure.savefig(sys.argv[1], dpi=120)
