"""
Handcrafted bases against the basis of a trained network
========================================================

Polynomials, splines, kernels: which features should a linear model have? A trained
network answers with a basis of its own, its partial derivatives. `compare_bases` puts
them on equal terms: the least training loss of each, with a certified lower bound, and
a held-out score in which transformers and networks are refitted on every training part.
"""

import sys

from sklearn.datasets import load_diabetes
from sklearn.ensemble import RandomForestRegressor
from sklearn.kernel_approximation import Nystroem
from sklearn.model_selection import KFold
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, SplineTransformer, StandardScaler

from sklearn_pgb import (
    BasisComparisonDisplay,
    FeatureBasis,
    GradientBasis,
    LayerBasis,
    compare_bases,
)

# %%
# Six bases and a forest
# ----------------------
#
# Handcrafted bases are any transformer in a `FeatureBasis`. Induced bases take a
# network, which is trained anew wherever the basis is fitted. Whole estimators stand
# beside them.

X, y = load_diabetes(return_X_y=True)
y = (y - y.mean()) / y.std()


def scaled(*steps):
    return make_pipeline(StandardScaler(), *steps)


network = scaled(
    MLPRegressor(
        hidden_layer_sizes=(5,),
        activation="tanh",
        solver="lbfgs",
        alpha=3,
        max_iter=200,
    )
)
bases = {
    "linear": FeatureBasis(scaled()),
    "quadratic": FeatureBasis(scaled(PolynomialFeatures(2, include_bias=False))),
    "splines": FeatureBasis(scaled(SplineTransformer(n_knots=5))),
    "Gaussian kernel": FeatureBasis(scaled(Nystroem(gamma=0.02, random_state=0))),
    "last layer": LayerBasis(network),
    "gradient basis": GradientBasis(network),
    "network": network,
    "forest": RandomForestRegressor(),
}
comparison = compare_bases(
    bases, X, y, cv=KFold(5, shuffle=True, random_state=0), random_state=0
)

# %%
# The table
# ---------
#
# Bound and loss agree wherever there is a bound: no coefficients do better. The rank
# says how many of the coefficients are needed.

print("| basis | least loss | bound | coefficients | rank | held-out R² |")
print("| --- | --: | --: | --: | --: | --: |")
for name, row in comparison.to_frame().iterrows():
    print(
        f"| {name} | {row['train_loss']:.4f} | {row['lower_bound']:.4f} | "
        f"{row['n_coef']:.0f} | {row['rank']:.0f} | {row['score']:.3f} |"
    )

# %%
# Both sides of it
# ----------------
#
# The forest remembers its training rows best and predicts worst. The gradient basis
# contains the network, so its least loss is below the network's.

display = BasisComparisonDisplay.from_comparison(comparison)

if len(sys.argv) > 1:
    display.figure_.savefig(sys.argv[1], dpi=120)
