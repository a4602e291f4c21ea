"""Minibatch descent of a population by Adam or stochastic gradient descent."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sklearn_pgb._budget import SHUFFLED
from sklearn_pgb._training._objective import Objective, batch_slices

Convert = Callable[[Any], Any]


class Method(ABC):
    """Rule that turns gradients into steps.

    Conventions
    -----------
    `theta` and `gradient` have shape (n_members, n_params) and are changed in place;
    `rate` is a number, or broadcasts to that shape.
    """

    @abstractmethod
    def start(self, theta: Tensor) -> None:
        """Initialize the state for a population."""

    @abstractmethod
    def state(self) -> list[Tensor]:
        """Copy the state, for `load_state`."""

    @abstractmethod
    def load_state(self, state: list[Tensor]) -> None:
        """Restore the state of an earlier descent, after `start`."""

    @staticmethod
    @abstractmethod
    def converted(
        state: list[Any], parameters: Convert, gradient: Convert, square: Convert
    ) -> list[Any]:
        """Convert a state to other parameters of the same network.

        The functions convert a difference of parameters, a gradient, and the squares of
        a gradient.
        """

    @abstractmethod
    def step(self, theta: Tensor, gradient: Tensor, rate: float | Tensor) -> None:
        """Update theta in place."""

    @abstractmethod
    def reset(self, member: int) -> None:
        """Reset the state of a member, whose parameters were replaced."""


@dataclass(eq=False)
class Adam(Method):
    """Adam with corrected moments (Kingma and Ba, 2015)."""

    beta_1: float = 0.9
    beta_2: float = 0.99
    epsilon: float = 1e-8

    def start(self, theta: Tensor) -> None:
        self.first, self.second = torch.zeros_like(theta), torch.zeros_like(theta)
        # Powers of the decays for each member, as members may restart.
        self.powers = np.ones((2, len(theta)))
        self.decays = np.array([[self.beta_1], [self.beta_2]])

    def state(self) -> list[Tensor]:
        powers = torch.from_numpy(self.powers.copy())
        return [self.first.clone(), self.second.clone(), powers]

    def load_state(self, state: list[Tensor]) -> None:
        first, second, powers = state
        self.first.copy_(first)
        self.second.copy_(second)
        self.powers = powers.numpy().copy()

    @staticmethod
    def converted(
        state: list[Any], parameters: Convert, gradient: Convert, square: Convert
    ) -> list[Any]:
        first, second, powers = state
        return [gradient(first), square(second), powers]

    def step(self, theta: Tensor, gradient: Tensor, rate: float | Tensor) -> None:
        self.first.lerp_(gradient, 1 - self.beta_1)
        self.second.mul_(self.beta_2)
        self.second.addcmul_(gradient, gradient, value=1 - self.beta_2)
        self.powers *= self.decays
        correction = np.sqrt(1 - self.powers[1]) / (1 - self.powers[0])
        # The gradient is not needed any more, so its memory is reused.
        scale = torch.sqrt(self.second, out=gradient).add_(self.epsilon)
        # One pass over the parameters instead of two, for the usual case of one
        # network.
        if isinstance(rate, float) and len(theta) == 1:
            theta.addcdiv_(self.first, scale, value=-rate * float(correction[0]))
        else:
            size = (rate * torch.from_numpy(correction)[:, None]).to(theta)
            theta.addcmul_(torch.div(self.first, scale, out=scale), size, value=-1.0)

    def reset(self, member: int) -> None:
        self.first[member] = 0
        self.second[member] = 0
        self.powers[:, member] = 1


@dataclass(eq=False)
class GradientDescent(Method):
    """Stochastic gradient descent with momentum."""

    momentum: float = 0.9
    nesterov: bool = True

    def start(self, theta: Tensor) -> None:
        self.velocity = torch.zeros_like(theta)

    def state(self) -> list[Tensor]:
        return [self.velocity.clone()]

    def load_state(self, state: list[Tensor]) -> None:
        self.velocity.copy_(state[0])

    @staticmethod
    def converted(
        state: list[Any], parameters: Convert, gradient: Convert, square: Convert
    ) -> list[Any]:
        return [parameters(state[0])]

    def step(self, theta: Tensor, gradient: Tensor, rate: float | Tensor) -> None:
        step = gradient.mul_(rate)
        self.velocity.mul_(self.momentum).sub_(step)
        if self.nesterov:
            theta.add_(self.velocity, alpha=self.momentum).sub_(step)
        else:
            theta.add_(self.velocity)

    def reset(self, member: int) -> None:
        self.velocity[member] = 0


class Descent:
    """Minibatch descent of a population on an objective.

    The initial parameters (n_members, n_params) are copied. A generator shuffles the
    samples before each epoch, unless one batch holds them all; None keeps their order.
    A single last sample joins the batch before.
    """

    def __init__(
        self,
        objective: Objective,
        theta: Tensor,
        method: Method,
        batch_size: int,
        generator: torch.Generator | None,
    ):
        self.objective, self.method = objective, method
        self.theta = theta.clone()
        self._squares = torch.empty_like(theta)
        self.batch_size = min(batch_size, objective.n_samples)
        self.generator = generator
        method.start(self.theta)

    def epoch(self, rate: float | Tensor) -> Tensor:
        """Train on each sample once; return the objectives accumulated in the epoch."""
        objective, theta = self.objective, self.theta
        n, size = objective.n_samples, self.batch_size
        total = torch.zeros(len(theta), dtype=torch.float64, device=theta.device)
        for data in self._shuffled():
            for rows in batch_slices(len(data[0]), size):
                X, y, weight = (part[rows] for part in data)
                value, gradient = objective.batch_value_and_gradient(
                    theta, X, y, weight
                )
                total += value
                # The last batch may have another size. Its step is also along the mean
                # gradient of its samples.
                if len(X) != size:
                    gradient *= size / len(X)
                gradient.addcmul_(objective.penalty, theta, value=2.0)
                self.method.step(theta, gradient, rate)
        # Undo the scaling of the batches' weights.
        total *= size / n
        return total + torch.square(theta, out=self._squares) @ objective.penalty

    def move(self, member: int, theta: Tensor) -> None:
        """Replace the parameters of a member and reset its method."""
        self.theta[member] = theta
        self.method.reset(member)

    def _shuffled(self):  # type: ignore[no-untyped-def]
        """Yield shuffled parts of whole batches, with mean batch weights of one."""
        objective, n, size = self.objective, self.objective.n_samples, self.batch_size
        data = objective.X, objective.y, objective.weight * (n / size)
        if size == n or self.generator is None:
            yield data
            return
        order = torch.randperm(n, generator=self.generator).to(objective.y.device)
        # Part after part, so that the shuffled copies take little memory.
        per_part = size * max(1, SHUFFLED // (size * objective.X[:1].numel()))
        for part in batch_slices(n, per_part):
            yield tuple(each[order[part]] for each in data)
