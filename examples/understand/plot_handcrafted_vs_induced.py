"""
Handcrafted or induced: which basis suits the data?
===================================================

The features of a linear model can be chosen by hand, such as polynomials, splines or
kernel features, or be the partial derivatives of a trained network. `compare_bases`
compares them by smallest training losses, with certified lower bounds, and by held-out
scores, for which transformers and networks are refitted on every training part. The
gradient basis wins on one of two data sets here, and does not on the other.
"""

import sys
import warnings

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_diabetes
from sklearn.ensemble import RandomForestRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.kernel_approximation import Nystroem
from sklearn.model_selection import KFold
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, SplineTransformer, StandardScaler

from sklearn_pgb import FeatureBasis, GradientBasis, LayerBasis, compare_bases

# The networks are stopped early on purpose.
warnings.simplefilter("ignore", ConvergenceWarning)

# %%
# Six bases and two estimators
# ----------------------------
#
# Handcrafted bases are transformers in a `FeatureBasis`. Induced bases take a network,
# which is trained whenever the basis is fitted. Whole estimators can be compared too.


def scaled(*steps):
    return make_pipeline(StandardScaler(), *steps)


def candidates(n_units, alpha):
    """Bases and estimators by name."""
    network = scaled(
        MLPRegressor(
            hidden_layer_sizes=(n_units,),
            activation="tanh",
            solver="lbfgs",
            alpha=alpha,
            max_iter=200,
        )
    )
    return {
        "linear": FeatureBasis(scaled()),
        "quadratic": FeatureBasis(scaled(PolynomialFeatures(2, include_bias=False))),
        "splines": FeatureBasis(scaled(SplineTransformer(n_knots=5))),
        "Gaussian kernel": FeatureBasis(scaled(Nystroem(gamma=0.02, random_state=0))),
        "last layer": LayerBasis(network),
        "gradient basis": GradientBasis(network),
        "network": network,
        "forest": RandomForestRegressor(),
    }


# %%
# Two data sets
# -------------
#
# In the first one a sum and a product of inputs matter, in ways that no basis was made
# for. The second one is scikit-learn's diabetes data: 442 noisy samples, on which
# nothing is much better than a straight line.

rng = np.random.default_rng(0)
X = rng.uniform(-1, 1, (500, 4))
y = np.sin(4 * (X[:, 0] + X[:, 1])) + np.tanh(6 * X[:, 2] * X[:, 3])
y += 0.2 * rng.normal(size=500)
folds = KFold(5, shuffle=True, random_state=0)
waves = compare_bases(candidates(20, alpha=1), X, y, cv=folds, random_state=0)

X, y = load_diabetes(return_X_y=True)
y = (y - y.mean()) / y.std()
diabetes = compare_bases(candidates(5, alpha=3), X, y, cv=folds, random_state=0)
comparisons = {"waves": waves, "diabetes": diabetes}

# %%
# The table
# ---------
#
# The smallest loss is equal to its bound for every basis: no coefficients are better.
# The rank is the number of independent coefficients, smaller than the number of
# samples, so the bounds are well above zero.

for title, comparison in comparisons.items():
    print(f"\n{title}\n")
    print("| basis | smallest loss | bound | coefficients | rank | held-out R² |")
    print("| --- | --: | --: | --: | --: | --: |")
    for name, row in comparison.to_frame().iterrows():
        print(
            f"| {name} | {row['train_loss']:.4f} | {row['lower_bound']:.4f} | "
            f"{row['n_coef']:.0f} | {row['rank']:.0f} | {row['score']:.3f} |"
        )

# %%
# Held-out scores
# ---------------
#
# Points are the scores of five splits. On the waves the gradient basis is better than
# its own network and than all handcrafted bases. On the diabetes data a Gaussian kernel
# and the straight line are better than everything that a network induces.

figure, axes = plt.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
for ax, (title, comparison) in zip(axes, comparisons.items(), strict=True):
    for place, report in enumerate(comparison.reports):
        induced = report.name in ("last layer", "gradient basis")
        color = "tab:blue" if induced else "tab:gray"
        ax.plot(
            report.scores, [place] * len(report.scores), ".", color=color, alpha=0.5
        )
        ax.plot(np.mean(report.scores), place, "D", color=color, ms=8)
    ax.set(title=title, xlabel="held-out R²")
    ax.grid(axis="x", color="0.9")
axes[0].set_yticks(range(len(waves.reports)), [each.name for each in waves.reports])
axes[0].invert_yaxis()
axes[0].plot([], [], "D", color="tab:blue", label="induced by a network")
axes[0].plot([], [], "D", color="tab:gray", label="handcrafted, or an estimator")
figure.legend(loc="outside lower center", ncols=2, frameon=False)

if len(sys.argv) > 1:
    figure.savefig(sys.argv[1], dpi=120)
