"""
A basis of your own
===================

A basis is a class with three members: `fit`, `operator` and `intercept`. The operator
stands for the matrix of the features, and need not store it. This example writes random
Fourier features (Rahimi and Recht, "Random Features for Large-Scale Kernel Machines",
2007), whose columns are computed again in every product, compares them with quadratic
features and a network, and asks for their place in the network's certificate.
"""

import sys

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_diabetes
from sklearn.neural_network import MLPRegressor
from sklearn.preprocessing import PolynomialFeatures, scale

from sklearn_pgb import (
    Basis,
    BasisComparisonDisplay,
    LinearOperator,
    certify,
    compare_bases,
)

# %%
# The operator
# ------------
#
# Products with the matrix and with its transpose, dense rows, and the same operator on
# some of the samples. Everything else follows from these four.


class FourierOperator(LinearOperator):
    """cos(X W + b), one column for each frequency."""

    def __init__(self, X, frequencies, phases):
        self.X, self.frequencies, self.phases = X, frequencies, phases
        self.n_samples, self.n_outputs, self.n_coef = len(X), 1, len(phases)
        self.dtype, self.device = X.dtype, X.device

    def matvec(self, coef):
        return self.dense() @ coef

    def rmatvec(self, residual):
        return self.dense()[:, 0].T @ residual[:, 0]

    def dense(self, rows=slice(None)):
        return torch.cos(self.X[rows] @ self.frequencies + self.phases)[:, None]

    def rows(self, index):
        return FourierOperator(self.X[index], self.frequencies, self.phases)


# %%
# The basis
# ---------
#
# It is a scikit-learn estimator: `fit` learns the frequencies and the phases.


class FourierBasis(Basis):
    """Random features of the Gaussian kernel."""

    intercept = True

    def __init__(self, n_features=100, gamma=0.05, random_state=0):
        self.n_features = n_features
        self.gamma = gamma
        self.random_state = random_state

    def fit(self, X, y=None):
        rng = np.random.RandomState(self.random_state)
        size = np.shape(X)[1], self.n_features
        self.frequencies_ = np.sqrt(2 * self.gamma) * rng.standard_normal(size)
        self.phases_ = rng.uniform(0, 2 * np.pi, self.n_features)
        return self

    def operator(self, X, n_outputs):
        learned = (X, self.frequencies_, self.phases_)
        return FourierOperator(*(torch.as_tensor(each).double() for each in learned))


# %%
# In a comparison and in a certificate
# ------------------------------------

X, y = load_diabetes(return_X_y=True)
X, y = scale(X), scale(y)
network = MLPRegressor(hidden_layer_sizes=(20,), alpha=0.01, random_state=0)
network.set_params(max_iter=2000, learning_rate_init=0.005)
bases = {
    "Fourier features": FourierBasis(),
    "quadratic": PolynomialFeatures(2, include_bias=False),
    "network": network,
}
comparison = compare_bases(bases, X, y, random_state=0)
print("| basis | training error | lower bound | held-out R2 |")
print("| :-- | --: | --: | --: |")
for report in comparison.reports:
    losses = f"{report.train_loss:.3f} | {report.lower_bound:.3f}"
    print(f"| {report.name} | {losses} | {np.mean(report.scores):.2f} |")

certificate = certify(
    network.fit(X, y), X, y, bases={"Fourier features": FourierBasis()}
)
print()
print(certificate)

# %%
# Left: the least training error over each basis; the lines are certified lower bounds.
# Right: scores on held-out samples.

BasisComparisonDisplay.from_comparison(comparison)
if len(sys.argv) > 1:
    plt.gcf().savefig(sys.argv[1], dpi=120)
