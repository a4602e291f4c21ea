"""
Compare handcrafted bases with the basis of a trained network
=============================================================

The features of a linear model can be polynomials, splines or kernel features, or the
partial derivatives of a trained network. `compare_bases` compares such bases by their
smallest training losses, with certified lower bounds, and by held-out scores, for which
transformers and networks are refitted on every training part.
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
# Handcrafted bases are transformers in a `FeatureBasis`. Induced bases take a network,
# which is trained whenever the basis is fitted. Whole estimators can be compared too.

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
# The smallest loss is equal to its bound for every basis, so no coefficients are
# better. The rank is the number of independent coefficients.

print("| basis | smallest loss | bound | coefficients | rank | held-out R² |")
print("| --- | --: | --: | --: | --: | --: |")
for name, row in comparison.to_frame().iterrows():
    print(
        f"| {name} | {row['train_loss']:.4f} | {row['lower_bound']:.4f} | "
        f"{row['n_coef']:.0f} | {row['rank']:.0f} | {row['score']:.3f} |"
    )

# %%
# Training loss and held-out score
# --------------------------------
#
# The forest has the smallest training loss and the worst score. The gradient basis
# contains the network, so its smallest loss is below the network's.

display = BasisComparisonDisplay.from_comparison(comparison)

if len(sys.argv) > 1:
    display.figure_.savefig(sys.argv[1], dpi=120)
