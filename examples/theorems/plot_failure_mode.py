"""
When the added neuron diverges
==============================

A narrow network often fails to learn the parity of three signs. This example adds a
neuron to a network at a bad local minimum and shows the behavior predicted by theory:
if both are trained together, the neuron fits the targets and diverges like half a
logarithm of time, while the network gets worse. The norm of the neuron does not
indicate a bad local minimum either. The last part uses the neuron to find directions in
which to change the network, and this helps.
"""

import itertools
import sys

import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy.integrate import solve_ivp

from sklearn_pgb import AddedNeuronRegressor, TrainingDisplay

X = np.array(list(itertools.product((-1.0, 1.0), repeat=3)))
y = X.prod(axis=1)

# %%
# Bad local minima
# ----------------
#
# Three hidden units can represent the product of three signs exactly. One of four
# long trainings from different starts finds this solution.

SEEDS = range(4)
PATIENT = {"max_iter": 2000, "n_iter_no_change": 100, "tol": 1e-6}


def train(seed, hidden_layer_sizes=(3,), **parameters):
    """Fit a network with one seed."""
    network = AddedNeuronRegressor(
        hidden_layer_sizes, activation="elu", alpha=0, random_state=seed, **parameters
    )
    return network.fit(X, y)


def losses(networks):
    return " ".join(f"{network.loss_:.3f}" for network in networks)


single = [train(seed, **PATIENT) for seed in SEEDS]
stuck = next(network for network in single if network.loss_ > 0.1)
print("single trainings:", losses(single))

# %%
# Is the first network that failed at a local minimum? None of many small random changes
# of its parameters reduces the loss.

module = stuck.module_
inputs, targets = torch.tensor(X), torch.tensor(y)
named = {name: part.detach() for name, part in module.named_parameters()}
theta = torch.cat([part.flatten() for part in named.values()])


def network(theta):
    """Outputs of the network at the parameters `theta`."""
    sizes = [part.numel() for part in named.values()]
    parts = dict(zip(named, theta.split(sizes), strict=True))
    shaped = {name: parts[name].view(named[name].shape) for name in named}
    return torch.func.functional_call(module, shaped, inputs)[:, 0]


def loss(theta):
    return (network(theta) - targets).square().mean()


generator = torch.Generator().manual_seed(0)
print("\nsmallest change of the loss by 1,000 random changes of the parameters")
for size in (1e-3, 1e-2, 1e-1):
    noise = size * torch.randn(1000, len(theta), generator=generator, dtype=theta.dtype)
    least = min(loss(theta + change).item() for change in noise) - loss(theta).item()
    print(f"size {size:g}: {least:+.1e}")

# %%
# Training network and neuron together
# ------------------------------------
#
# One neuron :math:`a \exp(w \cdot x + b)` is added to the output of the stuck network,
# and :math:`\lambda a^2` to the loss. All local minima of this auxiliary objective are
# global. Network and neuron are trained together, along the gradient flow.

NEURON_PENALTY = stuck.neuron_penalty


def split(point):
    """Split a point into the network's parameters, a, b and w."""
    return point[: len(theta)], *point[len(theta) : -3], point[-3:]


def auxiliary(point):
    parameters, a, b, w = split(point)
    outputs = network(parameters) + a * torch.exp(inputs @ w + b)
    return (outputs - targets).square().mean() + NEURON_PENALTY * a.square()


def gradient(point):
    point = point.detach().requires_grad_()
    return torch.autograd.grad(auxiliary(point), point)[0]


# Initially the neuron has a = 0 and a random direction.
direction = torch.randn(3, generator=generator, dtype=theta.dtype) / 3**0.5
start = torch.cat([theta, torch.zeros(2, dtype=theta.dtype), direction])
times = np.geomspace(0.1, 1e5, 121)
flow = solve_ivp(
    lambda _, point: -gradient(torch.tensor(point)).numpy(),
    (0, times[-1]),
    start.numpy(),
    method="LSODA",
    t_eval=times,
    rtol=1e-6,
    atol=1e-9,
)
path = [torch.tensor(point) for point in flow.y.T]


def exponent(point):
    """The largest w . x + b over the samples, and the neuron's output for it."""
    _, a, b, w = split(point)
    largest = (inputs @ w + b).max()
    return largest.item(), (a * largest.exp()).item()


# %%
# The auxiliary objective decreases to zero, but the loss of the network increases above
# that of the local minimum, because the neuron fits a part of the targets. And they do
# not converge. If the neuron contributes :math:`c` at a sample :math:`x`, its exponent
# :math:`z = w \cdot x + b` grows to reduce the penalty on :math:`a = c e^{-z}`:
# :math:`\dot z = 2 \lambda c^2 (1 + \lVert x \rVert^2) e^{-2 z}`. The solution is half
# a logarithm of time,
#
# .. math::
#
#    z(t) \approx \tfrac12 \ln \left(4 \lambda c^2 (1 + \lVert x \rVert^2) t\right) .

contribution = exponent(path[-1])[1]
law = 0.5 * np.log(4 * NEURON_PENALTY * contribution**2 * (1 + 3) * times)

print(
    "\n| time | auxiliary objective | loss of the network | exponent | half logarithm |"
)
print("| --: | --: | --: | --: | --: |")
for i in range(20, 121, 20):
    print(
        f"| {times[i]:.0e} | {auxiliary(path[i]):.1e} | {loss(split(path[i])[0]):.3f} "
        f"| {exponent(path[i])[0]:.2f} | {law[i]:.2f} |"
    )

# %%
# With a fixed step size, the exponent is even smaller: the curvature with respect to
# :math:`a` grows like :math:`e^{2z}`, so the steps become unstable.

STEP = 0.02
steps, point = [], start
for _ in range(2000):
    point = point - STEP * gradient(point)
    steps.append(exponent(point)[0])
print(f"\nlargest exponent in 2,000 steps of gradient descent: {max(steps):.2f}")

# %%
# The norm is not a test
# ----------------------
#
# Does a growing neuron show that the network is at a bad local minimum? Consider a
# network without hidden units: a linear model, whose loss is convex, at its global
# minimum. Its neuron diverges as well. A diverging neuron only shows that the loss is
# above the *floor*, the smallest loss of any function of the inputs, which can be
# computed directly. So the estimators certify by the floor, and report the neuron's
# norm only for plots.

linear = train(0, hidden_layer_sizes=(), solver="lbfgs")

# %%
# Global moves
# ------------
#
# With ``n_starts`` above one, a neuron is trained on the residuals of a network that
# stagnates. Its direction then replaces the weakest hidden unit, the output layer is
# solved for, and training continues. Every third time, training restarts from new
# parameters instead. For comparison, the same number of epochs is used with restarts
# only. Four seeds are an illustration, not a benchmark. Networks that are wide for
# their task rarely reach bad local minima.

BUDGET = {"max_iter": 80, "n_starts": 100}
moved = [train(seed, **BUDGET) for seed in SEEDS]
restarted = [train(seed, **BUDGET, global_move="restart") for seed in SEEDS]
for name, networks in {"with transplants": moved, "restarts only": restarted}.items():
    epochs = np.mean([network.n_iter_ for network in networks])
    print(f"\n{name}: {losses(networks)}, {epochs:.0f} epochs on average")

hybrid = moved[single.index(stuck)]
compared = {"one start": stuck, "no hidden units": linear, "with moves": hybrid}
print("\n| network | loss | floor | norm of its neuron | neuron | fit |")
print("| :-- | --: | --: | --: | :-- | :-- |")
for name, each in compared.items():
    print(
        f"| {name} | {each.loss_:.3g} | {each.floor_:.3g} "
        f"| {each.neuron_norm_curve_[-1]:.2f} | {each.monitor_status_} "
        f"| {each.status_} |"
    )

# %%
# Top: the three trainings, and their neurons. The bad local minimum and the global
# minimum of the linear model look alike. If the floor is reached, the neuron stays
# small. Bottom: network and neuron trained together.

figure, axes = plt.subplots(2, 2, figsize=(11, 7.5), layout="constrained")
for name, each in compared.items():
    TrainingDisplay.from_estimator(each, name=name, ax=axes[0])
axes[0, 0].set(title="three trainings", ylim=(1e-6, 10))

left, right = axes[1]
left.loglog(times, [auxiliary(point) for point in path], label="auxiliary objective")
left.loglog(
    times, [loss(split(point)[0]) for point in path], label="loss of the network"
)
left.set(xlabel="time", title="trained together: the neuron fits the targets")
left.legend()

right.semilogx(times, [exponent(point)[0] for point in path], label="gradient flow")
right.semilogx(times, law, "--", color="0.3", lw=1, label="half a logarithm")
right.semilogx(
    STEP * np.arange(1, 2001), steps, color="tab:orange", lw=0.8, label="fixed steps"
)
right.set(xlabel="time", ylabel="exponent w·x + b", title="... and diverges slowly")
right.set_ylim(bottom=-2)
right.legend()

if len(sys.argv) > 1:
    figure.savefig(sys.argv[1], dpi=120)
