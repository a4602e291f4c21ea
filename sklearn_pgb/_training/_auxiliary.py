"""Networks with one exponential neuron added per output."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sklearn_pgb._training._objective import Objective
from sklearn_pgb._training._program import Program


@dataclass(frozen=True, eq=False)
class Neurons:
    """The added neurons ``a_k exp(w_k . x + b_k)`` of each member.

    a and b are (n_members, n_outputs), W is (n_members, n_outputs, n_features).
    """

    a: Tensor
    b: Tensor
    W: Tensor

    def exponentials(self, X: Tensor) -> Tensor:
        """Return E_ik = exp(w_k . x_i + b_k), (n_members, n_samples, n_outputs)."""
        return torch.baddbmm(self.b[:, None], _rows(X, len(self.a)), self.W.mT).exp()

    def __call__(self, X: Tensor) -> Tensor:
        """Return a_k E_ik, computed so that it is finite even if E_ik overflows."""
        z = torch.baddbmm(self.b[:, None], _rows(X, len(self.a)), self.W.mT)
        log_size = self.a.abs().log()[:, None]
        return self.a.sign()[:, None] * (log_size + z).exp()

    def flat(self) -> Tensor:
        """Return all parameters, (n_members, n_params): a, b and W row by row."""
        return torch.cat([self.a, self.b, self.W.flatten(1)], 1)


class AuxiliaryProgram(Program):
    """A program plus one exponential neuron per output.

    The parameters of a member are those of the program, then a, b and W row by row:
    ``f(x; theta)_k + a_k exp(w_k . x + b_k)``. Samples are flattened for the neurons.

    References
    ----------
    Kawaguchi and Kaelbling, "Elimination of All Bad Local Minima in Deep Learning",
    AISTATS 2020, section 2.
    """

    def __init__(self, program: Program, n_features: int, n_outputs: int):
        self.program, self.n_features, self.n_outputs = program, n_features, n_outputs
        self.n_neuron_params = n_outputs * (2 + n_features)
        self.n_params = program.n_params + self.n_neuron_params

    def split(self, theta: Tensor) -> tuple[Tensor, Neurons]:
        """Split into the parameters of the network and the added neurons."""
        k = self.n_outputs
        sizes = [self.program.n_params, k, k, k * self.n_features]
        network, a, b, W = theta.split(sizes, 1)
        return network, Neurons(a, b, W.unflatten(1, (k, self.n_features)))

    def join(self, network: Tensor, neurons: Neurons) -> Tensor:
        """Join the parameters of the network and the added neurons."""
        return torch.cat([network, neurons.flat()], 1)

    def forward(self, theta: Tensor, X: Tensor) -> tuple[Tensor, Any]:
        network, neurons = self.split(theta)
        raw, tape = self.program.forward(network, X)
        return raw + neurons(X), (tape, network, neurons, X)

    def backward(self, theta: Tensor, tape: Any, residual: Tensor) -> Tensor:
        inner, network, neurons, X = tape
        to_network = self.program.backward(network, inner, residual)
        return self.join(to_network, _neuron_adjoint(neurons, X, residual))

    def exact(self) -> AuxiliaryProgram:
        return AuxiliaryProgram(self.program.exact(), self.n_features, self.n_outputs)

    def statistics(self, member: int) -> list[Tensor]:
        return self.program.statistics(member)

    def set_statistics(self, member: int, statistics: list[Tensor]) -> None:
        self.program.set_statistics(member, statistics)

    def differentiable(self, theta: Tensor, X: Tensor) -> Tensor:
        network, neurons = self.split(theta[None])
        z = X.flatten(1) @ neurons.W[0].T + neurons.b[0]
        return self.program.differentiable(network[0], X) + neurons.a[0] * z.exp()


def auxiliary_objective(objective: Objective, neuron_penalty: float) -> Objective:
    """Add neurons to an objective: ``L(f + g) + neuron_penalty ||a||^2``."""
    n_features = objective.X[:1].numel()
    n_outputs = objective.y.shape[1]
    program = AuxiliaryProgram(objective.program, n_features, n_outputs)
    extra = objective.penalty.new_zeros(program.n_neuron_params)
    # Only a is penalized: at a = 0 any b and W have the same objective.
    extra[:n_outputs] = neuron_penalty
    penalty = torch.cat([objective.penalty, extra])
    return replace(objective, program=program, penalty=penalty)


def neuron_gradient(
    objective: Objective, raw: Tensor, neurons: Neurons, neuron_penalty: float
) -> tuple[float, Tensor]:
    """Compute the auxiliary objective and its gradient in (a, b, W) at fixed outputs.

    The neurons are those of one member, and the gradient is in the order of
    `Neurons.flat`. The penalty of the objective is not included.
    """
    moved = raw + neurons(objective.X)[0]
    value = objective.weight @ objective.loss.value(objective.y, moved)
    residual = objective.loss.gradient(objective.y, moved)
    residual = residual * objective.weight[:, None]
    gradient = _neuron_adjoint(neurons, objective.X, residual[None])
    gradient.a.add_(neurons.a, alpha=2 * neuron_penalty)
    return float(value + neuron_penalty * neurons.a.square().sum()), gradient.flat()[0]


def _neuron_adjoint(neurons: Neurons, X: Tensor, residual: Tensor) -> Neurons:
    """Return the gradient of <residual, neurons(X)> in a, b and W."""
    to_a = residual * neurons.exponentials(X)
    # Uses the neurons' outputs, which are finite even if an exponential overflows.
    to_b = residual * neurons(X)
    return Neurons(to_a.sum(1), to_b.sum(1), to_b.mT @ _rows(X, len(residual)))


def draw_neurons(
    objective: Objective, n_members: int, generator: torch.Generator
) -> Neurons:
    """Draw neurons with random directions that are switched off (a = 0, b = 0).

    The directions are normally distributed and scaled so that ``w . x`` has a standard
    deviation of about one.
    """
    # Divided by the largest entry, as squares of large features could overflow.
    X = objective.X.flatten(1)
    weight = objective.weight[:, None]
    largest = float(X.abs().max()) or 1.0
    X = X / largest
    spread = (weight * (X - (weight * X).sum(0)).square()).sum(0).sqrt()
    size = largest * float(spread.norm()) or 1.0
    n_features, n_outputs = objective.X[:1].numel(), objective.y.shape[1]
    shape = (n_members, n_outputs, n_features)
    W = torch.randn(shape, generator=generator, dtype=torch.float64)
    W = (W * (1.0 / size)).to(objective.penalty)
    return Neurons(W.new_zeros(shape[:2]), W.new_zeros(shape[:2]), W)


def _rows(X: Tensor, n_members: int) -> Tensor:
    """Flatten samples and expand them to all members."""
    return X.flatten(1).expand(n_members, len(X), -1)
