"""
When the added neuron runs away
===============================

What does an added neuron do for a network that is stuck? A narrow network fails to
learn the parity of three signs. This example shows what the theory predicts for it:
trained along, the neuron takes over the fit and drifts off to infinity at the pace of
half a logarithm, while the network gets worse; and its norm gives nothing away. The
last part uses the neuron as a compass for moves of the network instead, and that helps.
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
# Stuck
# -----
#
# Three hidden units can represent the product of three signs exactly. Six patient
# trainings from different starts find that less than half of the time.

SEEDS = range(6)
PATIENT = {"max_iter": 2000, "n_iter_no_change": 100, "tol": 1e-6}


def train(seed, hidden_layer_sizes=(3,), **parameters):
    """A fitted network."""
    network = AddedNeuronRegressor(
        hidden_layer_sizes, "elu", alpha=0, random_state=seed, **parameters
    )
    return network.fit(X, y)


def losses(networks):
    return " ".join(f"{network.loss_:.3f}" for network in networks)


single = [train(seed, **PATIENT) for seed in SEEDS]
stuck = next(network for network in single if network.loss_ > 0.1)
print("single trainings:", losses(single))

# %%
# Take the first that failed. Is it at a local minimum, or only slow? None of many small
# changes of its parameters lowers the loss.

module = stuck.module_
inputs, targets = torch.tensor(X), torch.tensor(y)
named = {name: part.detach() for name, part in module.named_parameters()}
theta = torch.cat([part.flatten() for part in named.values()])


def network(theta):
    """Outputs of the network with other parameters."""
    sizes = [part.numel() for part in named.values()]
    parts = dict(zip(named, theta.split(sizes), strict=True))
    shaped = {name: parts[name].view(named[name].shape) for name in named}
    return torch.func.functional_call(module, shaped, inputs)[:, 0]


def loss(theta):
    return (network(theta) - targets).square().mean()


generator = torch.Generator().manual_seed(0)
print("\nleast change of the loss by 1,000 random changes of the parameters")
for size in (1e-3, 1e-2, 1e-1):
    noise = size * torch.randn(1000, len(theta), generator=generator, dtype=theta.dtype)
    least = min(loss(theta + change).item() for change in noise) - loss(theta).item()
    print(f"size {size:g}: {least:+.1e}")

# %%
# Training the neuron along
# -------------------------
#
# One neuron :math:`a \exp(w \cdot x + b)` is added to the output of the stuck network,
# and :math:`\lambda a^2` to the loss. All local minima of this auxiliary objective are
# global. So everything is trained together, by following the gradient flow from here.

NEURON_PENALTY = stuck.neuron_penalty


def split(point):
    """The network's parameters, a, b and w."""
    return point[: len(theta)], *point[len(theta) : -3], point[-3:]


def auxiliary(point):
    parameters, a, b, w = split(point)
    outputs = network(parameters) + a * torch.exp(inputs @ w + b)
    return (outputs - targets).square().mean() + NEURON_PENALTY * a.square()


def gradient(point):
    point = point.detach().requires_grad_()
    return torch.autograd.grad(auxiliary(point), point)[0]


# The neuron starts switched off, in a random direction.
direction = torch.randn(3, generator=generator, dtype=theta.dtype) / 3**0.5
start = torch.cat([theta, torch.zeros(2, dtype=theta.dtype), direction])
times = np.geomspace(0.1, 1e6, 141)
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
    """The largest w . x + b, and the neuron's output there."""
    _, a, b, w = split(point)
    largest = (inputs @ w + b).max()
    return largest.item(), (a * largest.exp()).item()


# %%
# The auxiliary objective goes to zero. The loss of the network does not: it ends above
# the loss of the minimum it was released from, for the two now share the work. And they
# never arrive. A neuron that contributes :math:`c` at a sample :math:`x` lets its
# exponent :math:`z = w \cdot x + b` grow by the equation
# :math:`\dot z = 2 \lambda c^2 (1 + \lVert x \rVert^2) e^{-2 z}`, to escape the
# penalty on :math:`a = c e^{-z}`. Its solution is half a logarithm of time,
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
for i in range(20, 141, 20):
    print(
        f"| {times[i]:.0e} | {auxiliary(path[i]):.1e} | {loss(split(path[i])[0]):.3f} "
        f"| {exponent(path[i])[0]:.2f} | {law[i]:.2f} |"
    )

# %%
# Steps of a fixed size do not even get that far: the curvature by :math:`a` grows like
# :math:`e^{2z}` and throws them back.

STEP = 0.02
steps, point = [], start
for _ in range(5000):
    point = point - STEP * gradient(point)
    steps.append(exponent(point)[0])
print(f"\nlargest exponent in 5,000 steps of gradient descent: {max(steps):.2f}")

# %%
# The monitor
# -----------
#
# Can one tell from a neuron that grows that the network is at a bad minimum? Here is a
# second network, without hidden units: a linear model, whose loss is convex, at its
# global minimum. Its neuron runs away just the same. All that a runaway neuron says is
# that the loss is above the *floor*, the least loss of any function of the inputs, and
# that is known without it. So the estimators certify by the floor, and report the
# neuron's norm only to be looked at.

linear = train(0, hidden_layer_sizes=(), solver="lbfgs")

# %%
# The global move
# ---------------
#
# With ``n_starts`` above one, the neuron of a stuck network descends on the residuals
# for a while. Then its direction replaces the weakest hidden unit, the output layer is
# solved for, and the training goes on; every third time it starts anew. Beside it, the
# same number of epochs with new starts only. Six seeds are an illustration, no
# benchmark; networks that are wide for their task rarely get stuck at all.

BUDGET = {"max_iter": 80, "n_starts": 100}
moved = [train(seed, **BUDGET) for seed in SEEDS]
restarted = [train(seed, **BUDGET, global_move="restart") for seed in SEEDS]
for name, networks in {"with transplants": moved, "restarts only": restarted}.items():
    epochs = np.mean([network.n_iter_ for network in networks])
    print(f"\n{name}: {losses(networks)}, {epochs:.0f} epochs in the mean")

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
# Top: the three trainings, and their neurons. The bad minimum and the global minimum of
# the linear model look alike. Where the floor is reached, the neuron has nothing to do.
# Bottom: the neuron trained along.

figure, axes = plt.subplots(2, 2, figsize=(11, 7.5), layout="constrained")
for name, each in compared.items():
    TrainingDisplay.from_estimator(each, name=name, ax=axes[0])
axes[0, 0].set_title("three trainings")

left, right = axes[1]
left.loglog(times, [auxiliary(point) for point in path], label="auxiliary objective")
left.loglog(
    times, [loss(split(point)[0]) for point in path], label="loss of the network"
)
left.set(xlabel="time", title="trained along: the neuron takes over")
left.legend()

right.semilogx(times, [exponent(point)[0] for point in path], label="gradient flow")
right.semilogx(times, law, "--", color="0.3", lw=1, label="half a logarithm")
right.semilogx(
    STEP * np.arange(1, 5001), steps, color="tab:orange", lw=0.8, label="fixed steps"
)
right.set(xlabel="time", ylabel="exponent w·x + b", title="... and runs away, slowly")
right.set_ylim(bottom=-2)
right.legend()

if len(sys.argv) > 1:
    figure.savefig(sys.argv[1], dpi=120)
