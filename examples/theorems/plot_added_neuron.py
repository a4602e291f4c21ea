"""
No bad local minima, and still stuck
====================================

One added neuron removes every bad local minimum of a network's loss. Does descent then
find the global minimum? This example draws the smallest case in which it does not: one
parameter, one sample, and a landscape whose bad minimum has become a valley that never
ends. It is the first figure of Kawaguchi and Kaelbling, "Elimination of All Bad Local
Minima in Deep Learning" (AISTATS 2020), recomputed from its formulas.
"""

import sys

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.colors import BoundaryNorm
from scipy.integrate import solve_ivp

# Ridge on the amplitude of the added neuron; any positive number will do.
NEURON_PENALTY = 1.0

# %%
# The network and its loss
# ------------------------
#
# A "network" :math:`f(\theta)` with one parameter looks at one sample, :math:`x = 0`
# with the label :math:`-1`. Its loss is the cubed hinge
# :math:`L(\theta) = \max(0, 1 + f(\theta))^3`.


def network(theta):
    """The raw output at x = 0."""
    near = -0.3 * torch.exp(-16 * (theta - 0.2) ** 2)
    far = -0.7 * torch.exp(-32 * (theta - 0.8) ** 2)
    return 5 * (near + far + 0.5)


def loss(theta):
    """The loss without an added neuron."""
    return torch.relu(1 + network(theta)) ** 3


# %%
# With an added neuron
# --------------------
#
# The neuron adds :math:`a \exp(w x + b)` to the output and :math:`\lambda a^2` to the
# loss. At :math:`x = 0` the weight :math:`w` does not matter, and the best :math:`a`
# for given :math:`\theta` and :math:`b` has a closed form. What remains is a function
# of two parameters,
#
# .. math::
#
#    V(\theta, b) = \min_a \; \max(0, 1 + f(\theta) + a e^b)^3 + \lambda a^2 ,
#
# which has the same local minima as the whole objective, and can be drawn.


def best_amplitude(theta, b, neuron_penalty=NEURON_PENALTY):
    """The minimising a, and what it leaves of the margin."""
    missing = torch.relu(1 + network(theta))
    c = 1.5 * torch.exp(2 * b) / neuron_penalty
    left = 2 * missing / (1 + torch.sqrt(1 + 4 * c * missing))
    return -1.5 * torch.exp(b) / neuron_penalty * left**2, left


def marginal(theta, b, neuron_penalty=NEURON_PENALTY):
    """V(theta, b)."""
    a, left = best_amplitude(theta, b, neuron_penalty)
    return left**3 + neuron_penalty * a**2


# %%
# Is it the function of the paper?
# --------------------------------
#
# The numbers on the right are known from the theory for :math:`\lambda = 1`.

THETA_LOC = 0.2000278310495826


def number(value):
    return torch.tensor(value, dtype=torch.float64)


def slope(function, theta):
    """Derivative by theta."""
    theta = number(theta).requires_grad_()
    return torch.autograd.grad(function(theta), theta)[0]


checks = {
    "L at the bad minimum": (loss(number(THETA_LOC)), 7.999582745226184),
    "its slope there": (slope(loss, THETA_LOC), 0.0),
    "L at the barrier": (loss(number(0.4954765089545192)), 25.644888135599622),
    "L between the ends of its flat bottom": (loss(number(0.8)), 0.0),
}
for theta, b, value in (
    (THETA_LOC, 0.0, 1.9353163814699206),
    (THETA_LOC, 1.0, 0.41002522082521287),
    (THETA_LOC, 5.0, 1.806542370678205e-4),
    (0.5, 0.0, 4.746354330107837),
    (0.2, -2.0, 7.404571527044734),
):
    computed = marginal(number(theta), number(b), 1.0)
    checks[f"V({theta:.2g}, {b:g})"] = (computed, value)
# The penalty only moves the picture along b.
shifted = marginal(number(0.3), number(1 + np.log(0.01) / 2), 0.01)
checks["V(0.3, 1 + ln(0.01) / 2), penalty 0.01"] = (shifted, 0.5125547421798647)

print("| quantity | computed | theory |")
print("| :-- | --: | --: |")
for name, (computed, value) in checks.items():
    print(f"| {name} | {computed:.12g} | {value:.12g} |")
worst = max(abs(computed.item() - value) for computed, value in checks.values())
print(f"\nlargest difference: {worst:.1e}")

# %%
# Descent
# -------
#
# The gradient flow of V from four starts, for a long time. The neuron's b grows
# wherever the network falls short. But the slope of V by :math:`\theta` has the sign of
# that of L everywhere: the neuron never shows the network another way.


def flow(start, until=1e6):
    """Time and (theta, b) along the gradient flow."""

    def velocity(_, at):
        at = torch.tensor(at, requires_grad=True)
        return -torch.autograd.grad(marginal(*at), at)[0].numpy()

    path = solve_ivp(velocity, (0, until), start, method="LSODA", rtol=1e-8, atol=1e-12)
    return path.t, path.y


starts = [(0.05, -1.8), (0.4, -1.2), (0.55, -0.5), (0.97, -1.5)]
paths = [flow(start) for start in starts]

print("\n| start (theta, b) | end | L(theta) at the end | V at the end |")
print("| :-- | :-- | --: | --: |")
for start, (_, path) in zip(starts, paths, strict=True):
    theta, b = path[:, -1]
    end = number(theta), number(b)
    print(
        f"| {start} | ({theta:.4f}, {b:.2f}) | {loss(end[0]):.4f} "
        f"| {marginal(*end):.1e} |"
    )
height = 1 + network(number(THETA_LOC)).item()
limit = 0.5 * np.log(4 * NEURON_PENALTY * height**2 * paths[0][0][-1])
print(f"\nb by the theory of the left valley, at the same time: {limit:.2f}")

# %%
# The two starts on the left end in the bad minimum of L. Nothing is wrong with the
# theorem: V has no local minimum there, because it falls for ever as b grows, towards
# zero. But all of it is the neuron's doing; the network stays where it is. The bad
# minimum has not been removed so much as moved to infinity, where descent follows it at
# the pace of half a logarithm,
# :math:`b \approx \frac{1}{2} \ln(4 \lambda (1 + f)^2 t)`.
#
# (a) the loss; (b) and (c) V over both parameters, with the directions of descent and
# the four paths.

figure = plt.figure(figsize=(14, 4.3), layout="constrained")
left, middle, right = (
    figure.add_subplot(1, 3, 1),
    figure.add_subplot(1, 3, 2, projection="3d"),
    figure.add_subplot(1, 3, 3),
)

theta = torch.linspace(0, 1, 400, dtype=torch.float64)
left.plot(theta, loss(theta), color="tab:blue")
left.plot(THETA_LOC, loss(number(THETA_LOC)), "o", color="tab:red")
left.annotate("bad minimum", (THETA_LOC, 7.0), ha="center", va="top")
left.plot((0.79306, 0.80612), (0, 0), lw=5, color="tab:green", solid_capstyle="round")
left.annotate("global minima", (0.8, -0.7), ha="center", va="top")
left.set(xlabel="θ", ylabel="L(θ)", title="(a) the loss", ylim=(-3, 27))

levels = np.r_[0, np.geomspace(1e-3, 10, 17)]
colors = BoundaryNorm(levels, plt.get_cmap("viridis").N, extend="max")


def landscape(y_range, count=121):
    """V and its derivatives on a grid of theta and b."""
    x = torch.linspace(0, 1, count, dtype=torch.float64)
    y = torch.linspace(*y_range, count, dtype=torch.float64)
    grid = [
        each.clone().requires_grad_() for each in torch.meshgrid(x, y, indexing="xy")
    ]
    values = marginal(*grid)
    slopes = torch.autograd.grad(values.sum(), grid)
    return [each.detach().numpy() for each in (*grid, values, *slopes)]


x, y, values, *_ = landscape((-2, 2))
style = {"cmap": "viridis", "norm": colors, "linewidth": 0, "antialiased": False}
middle.plot_surface(x, y, values, rcount=120, ccount=120, **style)
middle.set(title="(b) with an added neuron: V(θ, b)", xlabel="θ", ylabel="b")
middle.view_init(elev=35, azim=-40)

x, y, values, slope_x, slope_y = landscape((-2, 4))
contour = right.contourf(x, y, values, levels, norm=colors, extend="max")
figure.colorbar(
    contour, ax=right, label="V(θ, b)", ticks=(0, 0.001, 0.01, 0.1, 1, 10), format="%g"
).minorticks_off()
every = np.s_[3::8, 3::8]
length = np.hypot(slope_x, slope_y)[every]
right.quiver(
    x[every],
    y[every],
    -slope_x[every] / length,
    -slope_y[every] / length,
    scale=20,
    width=0.004,
    pivot="middle",
    color="white",
)
for start, (_, path) in zip(starts, paths, strict=True):
    solved = loss(number(path[0, -1])) < 1e-6
    right.plot(*path, color="tab:green" if solved else "tab:red", lw=2.5)
    right.plot(*start, "o", color="white", markeredgecolor="0.3")
right.set(title="(c) where descent goes", xlabel="θ", ylabel="b", ylim=(-2, 4))

if len(sys.argv) > 1:
    figure.savefig(sys.argv[1], dpi=120)
