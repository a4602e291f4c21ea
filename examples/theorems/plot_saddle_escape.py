"""
A gradient of zero that is no minimum
=====================================

Training has stopped: the gradient is zero. Is that a local minimum? The derivatives of
the network cannot tell. At any critical point nothing in their span is better than the
network itself, be it a minimum or a saddle. But parameters can often be moved without
changing any output on the data, and at a local minimum the derivatives *there* have
nothing better to offer either. So this is a test, and it comes with a way out.
"""

import copy
import sys

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.colors import BoundaryNorm
from sklearn.frozen import FrozenEstimator
from torch import nn

from sklearn_pgb import (
    AddedNeuronRegressor,
    GradientBasis,
    PerturbedGradientBasis,
)


def train(module, X, y):
    """Train from the module's own parameters, all samples at once."""
    model = AddedNeuronRegressor(
        module=module, solver="lbfgs", alpha=0, tol=1e-10, standardize=False
    )
    return model.fit(X, y)


def least_loss(basis, X, y):
    """The least mean squared error over the span of a basis."""
    columns = basis.operator(X, 1).dense()[:, 0].numpy()
    coef = np.linalg.lstsq(columns, y, rcond=1e-10)[0]
    return np.mean((columns @ coef - y) ** 2)


def parameters(module):
    return nn.utils.parameters_to_vector(module.parameters()).detach()


def displaced(module, shift):
    """The module with its parameters moved."""
    moved = copy.deepcopy(module)
    theta = parameters(module) + torch.from_numpy(shift)
    nn.utils.vector_to_parameters(theta, moved.parameters())
    return moved


# %%
# A residual network at its saddle
# --------------------------------
#
# The smallest one there is: ``W (x + V z)`` with two numbers W and V. The targets are
# z, so ``W = 0`` is bad and ``W V = 1`` would be good. Training from ``W = V = 0`` does
# not move at all.


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.W, self.V = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))

    def forward(self, X):
        return self.W * (X[:, :1] + self.V * X[:, 1:])


X_saddle = np.array([[1.0, 1.0], [-1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]])
y_saddle = X_saddle[:, 1]
saddle = train(Residual(), X_saddle, y_saddle)
print("W, V after training:", parameters(saddle.module_).tolist())

# %%
# An embedded unit
# ----------------
#
# One tanh unit is fitted to a sine as well as it can. A second unit is added with all
# its weights zero: it changes nothing, and its gradient is zero. So the larger network
# is at a critical point, and training does not use its new unit.

X_sine = np.linspace(-2, 2, 9)[:, None]
y_sine = np.sin(X_sine[:, 0])


def units(n):
    return nn.Sequential(
        nn.Linear(1, n, bias=False), nn.Tanh(), nn.Linear(n, 1, bias=False)
    ).double()


one = units(1)
nn.utils.vector_to_parameters(torch.ones(2, dtype=torch.float64), one.parameters())
one = train(one, X_sine, y_sine)
two = units(2)
w, v = parameters(one.module_)
start = torch.tensor([w, 0.0, v, 0.0], dtype=torch.float64)
nn.utils.vector_to_parameters(start, two.parameters())
embedded = train(two, X_sine, y_sine)
print(f"loss with one unit {one.loss_:.6f}, with two {embedded.loss_:.6f}")

# %%
# The test
# --------
#
# The gradient basis says "nothing better" at both points, as it must. The perturbed one
# looks for displacements that change no output, finds the idle parameters by itself,
# and has far better points in its span. Hence neither point is a local minimum. The
# displacement is also the way out: from there, at equal loss, training descends.

cases = {
    "residual network": (saddle, X_saddle, y_saddle),
    "embedded unit": (embedded, X_sine, y_sine),
}
escapes = {}
print("\n| point | loss | gradient basis | perturbed basis | loss after escape |")
print("| :-- | --: | --: | --: | --: |")
for name, (model, X, y) in cases.items():
    frozen = FrozenEstimator(model)
    plain = GradientBasis(frozen).fit(X, y)
    perturbed = PerturbedGradientBasis(frozen, random_state=0).fit(X, y)
    moved = [displaced(model.module_, shift) for shift in perturbed.perturbations_]
    descents = [train(module, X, y) for module in moved]
    best = min(range(len(moved)), key=lambda i, runs=descents: runs[i].loss_)
    escapes[name] = moved[best], descents[best], perturbed.perturbation_kinds_[best]
    print(
        f"| {name} | {model.loss_:.6f} | {least_loss(plain, X, y):.6f} "
        f"| {least_loss(perturbed, X, y):.0e} | {descents[best].loss_:.0e} |"
    )
for name, (_, _, kind) in escapes.items():
    print(f"{name}: displacement by {kind}")

# %%
# Left: the loss of the residual network. All points with ``W = 0`` have the same loss,
# and the gradient vanishes at the origin only. The escape moves along that line, and
# then down the slope, here in small steps; no finite W and V attain zero. Right: what
# the tanh networks leave of the sine.

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
W, V = np.meshgrid(np.linspace(-1, 1, 101), np.linspace(-2, 2, 101))
loss = W**2 + (W * V - 1) ** 2
levels = 0.2 + np.linspace(0, 1, 21) ** 2 * (loss.max() - 0.2)
contour = left.contourf(W, V, loss, levels, norm=BoundaryNorm(levels, 256))
figure.colorbar(contour, ax=left, label="loss", ticks=levels[::4], format="%.2g")
every = np.s_[4::8, 4::8]
slopes = 2 * W + 2 * V * (W * V - 1), 2 * W * (W * V - 1)
length = np.maximum(np.hypot(*slopes), 1e-9)
left.quiver(
    W[every],
    V[every],
    *(-(slope / length)[every] for slope in slopes),
    angles="xy",
    scale=20,
    width=0.004,
    pivot="middle",
    color="white",
)
W, V = parameters(escapes["residual network"][0]).tolist()
path = [(W, V)]
for _ in range(200):
    slope = 2 * W + 2 * V * (W * V - 1), 2 * W * (W * V - 1)
    W, V = W - 0.02 * slope[0], V - 0.02 * slope[1]
    path.append((W, V))
left.plot(*zip((0, 0), path[0], strict=True), "k--", lw=2, label="same outputs")
left.plot(*zip(*path, strict=True), color="tab:orange", lw=2, label="descent")
left.plot(0, 0, "o", color="white", mec="black", label="gradient zero")
left.set(title="W (x + V z): a saddle, and the way down", xlabel="W", ylabel="V")
left.set(ylim=(-2, 2))
left.legend(loc="upper left", framealpha=0.9)

grid = np.linspace(-2.4, 2.4, 201)[:, None]
for name, model, style in [
    ("one unit, or two with one idle", embedded, "0.4"),
    ("two units after the escape", escapes["embedded unit"][1], "tab:orange"),
]:
    right.plot(grid, np.sin(grid[:, 0]) - model.predict(grid), color=style, label=name)
right.plot(X_sine, np.zeros(len(X_sine)), "k|", markersize=10, label="samples")
right.set(title="tanh units on a sine", xlabel="x", ylabel="sin x minus network")
right.legend(frameon=False)

if len(sys.argv) > 1:
    figure.savefig(sys.argv[1], dpi=120)
