"""
How certain is a prediction?
============================

The number of rented bikes depends on the hour, and so does how well it can be
predicted: at night few are rented, in the rush hours it depends on much that the table
does not say. Here the target is a simulated demand with this property. With
``distribution=True``, :class:`~sklearn_pgb.GradientBasisRegressor` models how the
errors depend on the inputs, and returns intervals that are as wide as they have to be.
"""

import sys

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from sklearn_pgb import GradientBasisRegressor, PredictiveDisplay, interval_score

rng = np.random.default_rng(0)
n = 900
hour = rng.uniform(0, 24, n)
warm = rng.uniform(-5, 30, n)
rush = np.exp(-((hour - 8) ** 2) / 4) + np.exp(-((hour - 17.5) ** 2) / 6)
demand = 40 + 300 * rush + 4 * warm + (10 + 90 * rush) * rng.normal(size=n)
table = pd.DataFrame({"hour": hour, "temperature": warm})

# %%
# Two thirds of the samples are for training. Without ``distribution=True`` all
# intervals have nearly the same width.
train, test = slice(0, 600), slice(600, n)
models = {
    "constant scale": GradientBasisRegressor(random_state=0),
    "scale by inputs": GradientBasisRegressor(distribution=True, random_state=0),
}
print("| model | coverage | mean width | interval score |")
print("| :-- | --: | --: | --: |")
for name, model in models.items():
    model.fit(table[train], demand[train])
    low, high = model.predict_interval(table[test], coverage=0.9).T
    inside = np.mean((demand[test] >= low) & (demand[test] <= high))
    score = -interval_score(model, table[test], demand[test])
    width = np.mean(high - low)
    print(f"| {name} | {inside:.1%} | {width:.1f} | {score:.1f} |")

# %%
# Left: the intervals of the second model by the hour. Right: of all targets, the
# fraction below each predicted quantile; on the diagonal, the quantiles hold what they
# say.
display = PredictiveDisplay.from_estimator(
    models["scale by inputs"],
    table[test],
    demand[test],
    feature="hour",
    target_name="bikes per hour",
)
display.figure_.suptitle("Predicted demand and its uncertainty")
if len(sys.argv) > 1:
    display.figure_.savefig(sys.argv[1], dpi=120)
plt.show()
