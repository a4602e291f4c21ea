"""Ends of trainings: what is computed at each of them, whatever the network."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sklearn_pgb._bases import jacobian
from sklearn_pgb._convex import ConvexProblem, infimum
from sklearn_pgb._losses import Loss, pure_error_floor
from sklearn_pgb._networks import Network
from sklearn_pgb._operators import KroneckerOperator, LinearOperator

# Two ends are one minimum where their predictions differ by less than this share of the
# targets' spread, and their objectives by less than this share of what there is to
# explain.
SAME = 1e-3


@dataclass(frozen=True, eq=False)
class Setting:
    """Data and loss as the networks see them.

    Attributes
    ----------
    inputs : Tensor (n_samples, ...)
    y : Tensor (n_samples, n_outputs)
        Encoded targets.
    weight : Tensor (n_samples,)
        Summing to one.
    loss : Loss
    """

    inputs: Tensor
    y: Tensor
    weight: Tensor
    loss: Loss

    def problem(self, operator: LinearOperator, intercept: bool) -> ConvexProblem:
        """The convex problem of a basis on these data."""
        return ConvexProblem(
            operator, self.y, self.loss, self.weight, intercept=intercept
        )

    def floor(self) -> float:
        """Least loss of any function of the inputs."""
        rows = self.inputs.flatten(1)
        return pure_error_floor(rows, self.y, self.loss, self.weight).value

    def constant(self) -> float:
        """Least loss of a constant."""
        group = torch.zeros(len(self.y), dtype=torch.long)
        return float(self.loss.pooled_minimum(self.y, self.weight, group, 1).value)

    def linear(self, floor: float) -> tuple[float, float]:
        """Least loss of a linear model of the inputs, and a bound on it."""
        rows = self.inputs.flatten(1)
        operator = KroneckerOperator(rows, self.y.shape[1])
        least = infimum(self.problem(operator, True))
        return least.value, max(least.lower_bound, floor)


@dataclass(frozen=True, eq=False)
class Ends:
    """Where the starts ended.

    Attributes
    ----------
    networks : list of Network
    theta : ndarray (n_starts, n_params)
    raw : Tensor (n_starts, n_samples, n_outputs)
    loss, objective, gradient_norm : ndarray (n_starts,)
        The loss without and with the penalty, and the norm of the objective's gradient.
    """

    networks: list[Network]
    theta: NDArray[np.float64]
    raw: Tensor
    loss: NDArray[np.float64]
    objective: NDArray[np.float64]
    gradient_norm: NDArray[np.float64]


def evaluate(
    networks: Sequence[Network], setting: Setting, penalty: Tensor | None
) -> Ends:
    """Loss, objective and gradient of networks of one kind.

    Parameters
    ----------
    networks : sequence of Network
    setting : Setting
    penalty : Tensor (n_params,) or None
        Ridge on the parameters, as in ``sum_j penalty_j theta_j^2``.
    """
    raws, thetas, values = [], [], []
    for network in networks:
        theta = network.theta
        raw = network(theta, setting.inputs)
        slopes = setting.weight[:, None] * setting.loss.gradient(setting.y, raw)
        gradient = jacobian(network, setting.inputs).rmatvec(slopes)
        loss = setting.weight @ setting.loss.value(setting.y, raw)
        ridge = torch.zeros((), dtype=theta.dtype)
        if penalty is not None:
            gradient += 2 * penalty * theta
            ridge = penalty @ theta.square()
        raws.append(raw)
        thetas.append(theta.numpy())
        values.append([float(loss), float(loss + ridge), float(gradient.norm())])
    loss, objective, norm = np.array(values).T
    return Ends(
        list(networks), np.stack(thetas), torch.stack(raws), loss, objective, norm
    )


def distinct(ends: Ends, setting: Setting, scale: float) -> NDArray[np.intp]:
    """Number of the distinct minimum at which each start ended.

    Networks are compared by what they predict on the training rows, and by their
    objective: permutations and signs of units, rescaled ReLU units and silent units
    change neither. Ends are taken from the smallest objective on; each joins the first
    minimum that it is close to, or is a new one.

    Parameters
    ----------
    ends : Ends
    setting : Setting
    scale : float
        What there is to explain: the loss of a constant above the floor.
    """
    predicted = setting.loss.predict(ends.raw.flatten(0, 1)).view(ends.raw.shape)
    centred = setting.y - setting.weight @ setting.y
    spread = float(setting.weight @ centred.square().sum(1)) ** 0.5
    number = np.empty(len(ends.loss), dtype=np.intp)
    found: list[int] = []
    for start in np.argsort(ends.objective, kind="stable"):
        number[start] = len(found)
        for i, other in enumerate(found):
            near = ends.objective[start] - ends.objective[other] <= SAME * scale
            if not near:
                continue
            difference = (predicted[start] - predicted[other]).square().sum(1)
            if float(setting.weight @ difference) ** 0.5 <= SAME * (spread or 1.0):
                number[start] = i
                break
        if number[start] == len(found):
            found.append(int(start))
    return number
