"""Ends of trainings: what is computed at each of them, whatever the network."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sklearn_pgb._certificate._objective import TrainingObjective
from sklearn_pgb._convex._infimum import Infimum, infimum
from sklearn_pgb._convex._problem import ConvexProblem
from sklearn_pgb._convex._scale import LossScale, loss_scale
from sklearn_pgb._losses import Loss, pure_error_floor
from sklearn_pgb._models._network import Network, as_float64
from sklearn_pgb._operators import KroneckerOperator

# Two ends are one minimum where their predictions differ by less than this share of the
# targets' spread, and their objectives by less than this share of what there is to
# explain.
SAME = 1e-3

# Targets that spread by less than this share of their size are equal.
ROUNDING = 1e-14


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

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel as arrays, which joblib maps into its workers."""
        arrays = (part.numpy() for part in (self.inputs, self.y, self.weight))
        return Setting._of, (*arrays, self.loss)

    @staticmethod
    def _of(*parts: Any) -> "Setting":
        inputs, y, weight, loss = parts
        return Setting(as_float64(inputs), as_float64(y), as_float64(weight), loss)

    def objective(
        self, network: Network, penalty: Tensor | None = None
    ) -> TrainingObjective:
        """A network's objective on these data, with no penalty where none is given."""
        if penalty is None:
            penalty = torch.zeros_like(network.theta)
        parts = (self.inputs, self.y, self.weight, self.loss, penalty)
        return TrainingObjective(network, *parts)

    def floor(self) -> float:
        """Least loss of any function of the inputs."""
        rows = self.inputs.flatten(1)
        return pure_error_floor(rows, self.y, self.loss, self.weight).value

    def scale(self, floor: float) -> LossScale:
        """What there is to explain: the least loss of a constant above the floor."""
        return loss_scale(self.loss, self.y, self.weight, floor)

    def linear(self, floor: float) -> Infimum:
        """The least loss of a linear model of the inputs."""
        rows = self.inputs.flatten(1)
        operator = KroneckerOperator(rows, self.y.shape[1])
        problem = ConvexProblem(
            operator, self.y, self.loss, self.weight, intercept=True
        )
        return infimum(problem, floor=floor)


@dataclass(frozen=True, eq=False)
class Ends:
    """Where the starts ended.

    Attributes
    ----------
    objectives : list of TrainingObjective
        Of each network, with its data.
    theta : ndarray (n_starts, n_params)
    raw : Tensor (n_starts, n_samples, n_outputs)
    loss, objective, gradient_norm : ndarray (n_starts,)
        The loss without and with the penalty, and the norm of the objective's gradient.
    """

    objectives: list[TrainingObjective]
    theta: NDArray[np.float64]
    raw: Tensor
    loss: NDArray[np.float64]
    objective: NDArray[np.float64]
    gradient_norm: NDArray[np.float64]


def evaluate(objectives: Sequence[TrainingObjective]) -> Ends:
    """Loss, objective and gradient of networks of one kind, where they are."""
    raws, thetas, values = [], [], []
    for objective in objectives:
        network = objective.network
        theta = network.theta
        raw = objective.raw(theta)
        slopes = objective.loss.gradient(objective.y, raw)
        slopes = objective.weight[:, None] * slopes
        gradient = network.jacobian(objective.X).rmatvec(slopes)
        gradient += objective.penalty_gradient(theta)
        loss, ridge = objective.data_value(raw), objective.penalty_value(theta)
        raws.append(raw)
        thetas.append(theta.numpy())
        values.append([loss, loss + ridge, float(gradient.norm())])
    loss, objective, norm = np.array(values).T
    parameters, outputs = np.stack(thetas), torch.stack(raws)
    return Ends(list(objectives), parameters, outputs, loss, objective, norm)


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
        What there is to explain.
    """
    predicted = setting.loss.predict(ends.raw.flatten(0, 1)).view(ends.raw.shape)
    centred = setting.y - setting.weight @ setting.y
    spread, size = (
        float(setting.weight @ part.square().sum(1)) ** 0.5
        for part in (centred, setting.y)
    )
    if spread <= ROUNDING * size:
        spread = size or 1.0
    number = np.empty(len(ends.loss), dtype=np.intp)
    found: list[int] = []
    for start in np.argsort(ends.objective, kind="stable"):
        number[start] = len(found)
        for i, other in enumerate(found):
            near = ends.objective[start] - ends.objective[other] <= SAME * scale
            if not near:
                continue
            difference = (predicted[start] - predicted[other]).square().sum(1)
            if float(setting.weight @ difference) ** 0.5 <= SAME * spread:
                number[start] = i
                break
        if number[start] == len(found):
            found.append(int(start))
    return number
