"""
Compare the minima of trainings from many starts
================================================

Trainings from different starts can end at minima with different losses. `survey_minima`
trains from many starts as one population, polishes the networks to critical points,
counts the distinct minima, reports which networks have converged and compares their
losses with lower bounds.
"""

import sys

import matplotlib.pyplot as plt
import numpy as np
from sklearn.neural_network import MLPRegressor

from sklearn_pgb import MinimaSurveyDisplay, survey_minima

# %%
# Networks of two to eight units
# ------------------------------
#
# The targets are a noisy sine wave, which four hidden units can fit. With more units,
# the largest loss gets closer to the smallest one: bad minima become rare.

rng = np.random.default_rng(0)
X = np.sort(rng.uniform(-1, 1, size=(60, 1)), axis=0)
y = np.sin(7 * X[:, 0]) + 0.1 * rng.normal(size=60)

surveys = {}
for n_units in (2, 4, 8):
    network = MLPRegressor(
        hidden_layer_sizes=(n_units,), activation="tanh", solver="lbfgs", alpha=1e-3
    )
    surveys[n_units] = survey_minima(
        network, X, y, n_starts=16, polish_iter=300, random_state=0
    )

# %%
# The summary
# -----------
#
# Networks that only differ by a permutation or signs of units are the same minimum.

print("| units | best loss | median | worst | minima | converged | bound |")
print("| --: | --: | --: | --: | --: | --: | --: |")
for n_units, survey in surveys.items():
    n_converged = survey.n_starts - survey.verdict.count("not_critical")
    print(
        f"| {n_units} | {survey.loss.min():.4f} | {np.median(survey.loss):.4f} | "
        f"{survey.loss.max():.4f} | {survey.n_minima} | "
        f"{n_converged} | {survey.best_bound:.4f} |"
    )
print()
print(surveys[4])

# %%
# The distributions
# -----------------
#
# Points on a vertical line are one minimum that many starts reach. The other lines are
# the smallest loss of a linear model, and lower bounds: the floor, and the bound for
# the gradient basis of the best network.

figure, axes = plt.subplots(1, 3, figsize=(13, 4.6), layout="constrained")
for ax, (n_units, survey) in zip(axes, surveys.items(), strict=True):
    MinimaSurveyDisplay.from_survey(survey, ax=ax, name=f"{n_units} units")

if len(sys.argv) > 1:
    figure.savefig(sys.argv[1], dpi=120)
