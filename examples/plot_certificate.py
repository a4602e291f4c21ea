"""
Three networks, one table: is the training done?
================================================

A training stops and leaves a number. Is it small because the network is good, or large
because the training was cut short, or because it is stuck? `certify` answers with
theorems: it compares the network with everything that convex models can reach on its
own layers and partial derivatives, with proven lower bounds.

Here are three networks of the same shape on the same data: one after a few steps, one
trained to the end, and one that descent would never leave although it is no minimum.
"""

import sys
import warnings

import matplotlib.pyplot as plt
import numpy as np
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPRegressor

from sklearn_pgb import CertificateDisplay, certify

# %%
# The data and three networks
# ---------------------------
#
# Two units of tanh and a curve that needs both. The third network is the best network
# of *one* unit with a second one beside it, whose weights are all zero. All its
# derivatives vanish, so no gradient method moves it.

rng = np.random.RandomState(0)
X = np.linspace(-2, 2, 40)[:, None]
y = np.tanh(2 * X[:, 0] + 1.5) - np.tanh(2 * X[:, 0] - 1.5)
y += 0.1 * rng.standard_normal(40)

two_units = MLPRegressor(
    hidden_layer_sizes=2,
    activation="tanh",
    solver="lbfgs",
    alpha=0.0,
    tol=1e-14,
    max_iter=20_000,
    max_fun=100_000,
    random_state=0,
)

# That the first and the third are cut short is the point.
warnings.simplefilter("ignore", ConvergenceWarning)
early = clone(two_units).set_params(max_iter=10).fit(X, y)
converged = clone(two_units).fit(X, y)

one_unit = clone(two_units).set_params(hidden_layer_sizes=1).fit(X, y)
stuck = clone(two_units).set_params(max_iter=1).fit(X, y)
stuck.coefs_ = [
    np.hstack([one_unit.coefs_[0], [[0.0]]]),
    np.vstack([one_unit.coefs_[1], [[0.0]]]),
]
stuck.intercepts_ = [np.append(one_unit.intercepts_[0], 0.0), one_unit.intercepts_[1]]

# %%
# The same table for each
# -----------------------
#
# "Best loss" is the least loss of a convex model on the basis, "proven bound" the
# guarantee that nothing on it is better, and the last column how much the network could
# gain there. At a point where all derivatives vanish that is nothing on its own partial
# derivatives ("gradient").

networks = {"early": early, "converged": converged, "stuck": stuck}
certificates = {
    name: certify(network, X, y, tol=1e-4, random_state=0)
    for name, network in networks.items()
}
for name, certificate in certificates.items():
    print(f"\n{name}, loss {certificate.loss:.4f}: {certificate.verdict}\n")
    print("| basis | rank | best loss | proven bound | network above it |")
    print("| :-- | --: | --: | --: | --: |")
    for row in certificate.table:
        print(
            f"| {row.basis} | {row.rank} | {row.value:.4f} | {row.lower_bound:.4f} "
            f"| {row.excess:.4f} |"
        )

# %%
# The stuck network's gradient is zero as well, and so is its gain on its partial
# derivatives. But its idle unit may have any incoming weights without changing a single
# output, and the derivatives *there* hold something better: at a local minimum they
# would not. So there is a way down, and the certificate has followed it.

print(certificates["stuck"])

# %%
# The three in one figure
# -----------------------

figure, axes = plt.subplots(3, 1, figsize=(7.5, 9), layout="constrained")
for ax, (name, certificate) in zip(axes, certificates.items(), strict=True):
    CertificateDisplay.from_certificate(certificate, ax=ax, name=f"{name} network")

if len(sys.argv) > 1:
    figure.savefig(sys.argv[1], dpi=120)
