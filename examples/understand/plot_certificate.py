"""
Has the training converged? Certificates of three networks
==========================================================

If the training loss of a network is large, the training may have been too short, or it
may be at a bad critical point, or the data may be noisy. `certify` distinguishes these
cases: it compares the network with convex models on its own layers and partial
derivatives, with proven lower bounds.

This example certifies three networks of the same shape on the same data: one after a
few steps, one trained to convergence, and one at a critical point that is not a local
minimum, but at which gradient descent does not move.
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
# The target can be fitted by two tanh units, but not by one. There are 200 samples and
# seven parameters, so noise of variance 0.09 can't be fitted away: all lower bounds are
# well above zero. The third network is the
# best network with *one* unit, plus a second unit whose weights are all zero. All its
# derivatives vanish, so no gradient method can improve it.

rng = np.random.RandomState(0)
X = np.linspace(-2, 2, 200)[:, None]
y = np.tanh(2 * X[:, 0] + 1.5) - np.tanh(2 * X[:, 0] - 1.5)
y += 0.3 * rng.standard_normal(200)

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

# The first and the third network do not converge on purpose.
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
# "Best loss" is the smallest loss found for a convex model on the basis, "proven bound"
# is a lower bound on the loss of all models on the basis, and "network excess" is the
# loss of the network minus the best loss. If all derivatives vanish, the excess is zero
# on the network's own partial derivatives ("gradient").

networks = {"early": early, "converged": converged, "stuck": stuck}
certificates = {
    name: certify(network, X, y, tol=1e-4, random_state=0)
    for name, network in networks.items()
}
for name, certificate in certificates.items():
    print(f"\n{name}, loss {certificate.loss:.4f}: {certificate.verdict}\n")
    print("| basis | rank | best loss | proven bound | network excess |")
    print("| :-- | --: | --: | --: | --: |")
    for row in certificate.table:
        print(
            f"| {row.basis} | {row.rank} | {row.value:.4f} | {row.lower_bound:.4f} "
            f"| {row.excess:.4f} |"
        )

# %%
# The gradient of the stuck network is zero, and so is its excess on its partial
# derivatives. But the incoming weights of its unused unit can be changed without
# changing the outputs, and on the derivatives at the changed weights there is a better
# model. This is impossible at a local minimum. The certificate confirms it by descent.

print(certificates["stuck"])

# %%
# All three in one figure
# -----------------------

figure, axes = plt.subplots(3, 1, figsize=(7.5, 9), layout="constrained")
for ax, (name, certificate) in zip(axes, certificates.items(), strict=True):
    CertificateDisplay.from_certificate(certificate, ax=ax, name=f"{name} network")

if len(sys.argv) > 1:
    figure.savefig(sys.argv[1], dpi=120)
