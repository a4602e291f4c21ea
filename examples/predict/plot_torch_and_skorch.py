"""
Refit a torch module and a skorch net
=====================================

Does a convex refit help a network that I trained in my own loop? This example refits a
torch module after 1, 2, 4, ... epochs and compares both on held-out samples. It then
refits a skorch net, which the refit trains itself, on five folds.
"""

import sys

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import make_friedman1
from sklearn.metrics import root_mean_squared_error
from sklearn.model_selection import train_test_split
from skorch import NeuralNetRegressor
from torch import nn

from sklearn_pgb import GradientBasisRefit

# %%
# A module and a training loop
# ----------------------------
#
# The targets depend on five of ten inputs, with noise of standard deviation 0.2. The
# module returns one value per sample. Smooth units such as tanh make better bases than
# ReLUs.

X, y = make_friedman1(1500, noise=1, random_state=0)
X, y = (2 * X - 1).astype("float32"), ((y - y.mean()) / y.std()).astype("float32")
X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=500, random_state=0)
X_fit, X_val, y_fit, y_val = train_test_split(
    X_train, y_train, test_size=200, random_state=0
)


class Network(nn.Module):
    """Two hidden layers of tanh units."""

    def __init__(self, width=32):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(10, width),
            nn.Tanh(),
            nn.Linear(width, width),
            nn.Tanh(),
            nn.Linear(width, 1),
        )

    def forward(self, X):
        return self.layers(X).squeeze(-1)


def epoch(network, optimizer):
    """One pass over the training samples."""
    for rows in torch.randperm(len(X_fit)).split(50):
        error = network(torch.tensor(X_fit[rows])) - torch.tensor(y_fit[rows])
        optimizer.zero_grad()
        error.square().mean().backward()
        optimizer.step()


# %%
# Network and refit while training goes on
# ----------------------------------------
#
# A module that is trained already is passed as it is, with its loss. It can't be
# trained again on folds, so alpha is chosen on validation samples.

torch.manual_seed(0)
network = Network()
optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
epochs = [1, 2, 4, 8, 16, 32, 64]
errors = []
for i in range(1, epochs[-1] + 1):
    epoch(network, optimizer)
    if i in epochs:
        refit = GradientBasisRefit(network, loss="squared_error")
        refit.fit(X_fit, y_fit, X_val=X_val, y_val=y_val)
        with torch.no_grad():
            outputs = network(torch.tensor(X_test)).numpy()
        errors.append(
            [
                root_mean_squared_error(y_test, p)
                for p in (outputs, refit.predict(X_test))
            ]
        )

print("| epochs | RMSE of the network | RMSE of its refit |")
print("| --: | --: | --: |")
for i, (before, after) in zip(epochs, errors, strict=True):
    print(f"| {i} | {before:.3f} | {after:.3f} |")

# %%
# A skorch net
# ------------
#
# A skorch net is an estimator, so it is cloned and trained on five folds, and no
# validation samples are needed. Sixteen epochs are enough.

torch.manual_seed(0)
net = NeuralNetRegressor(
    Network,
    max_epochs=16,
    lr=3e-3,
    optimizer=torch.optim.Adam,
    batch_size=50,
    train_split=None,
    verbose=0,
)
cross_fitted = GradientBasisRefit(net, random_state=0).fit(X_train, y_train)
error = root_mean_squared_error(y_test, cross_fitted.predict(X_test))
print(f"\nskorch net, refitted after 16 epochs: RMSE {error:.3f}")

# %%
# The refit of a network that was hardly trained is better than the network after 16
# epochs. Both meet when training has converged: at a critical point the refit without
# regularization is the network itself.

figure, ax = plt.subplots(figsize=(6.5, 4), layout="constrained")
before, after = zip(*errors, strict=True)
ax.plot(epochs, before, "o-", color="tab:gray", label="torch module")
ax.plot(epochs, after, "s-", color="tab:blue", label="its refit")
ax.plot(16, error, "D", color="tab:orange", ms=8, label="refit of a skorch net")
ax.axhline(0.2, color="0.7", lw=1, zorder=0)
ax.annotate("noise", (1, 0.2), va="bottom", color="0.4")
ax.set_xscale("log", base=2)
ax.set_xticks(epochs, epochs)
ax.set(xlabel="epochs of training", ylabel="held-out RMSE", ylim=(0.18, None))
ax.set_title("A refit needs less training")
ax.legend(frameon=False)

if len(sys.argv) > 1:
    figure.savefig(sys.argv[1], dpi=120)
