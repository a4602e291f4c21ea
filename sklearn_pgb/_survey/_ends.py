"""Evaluate trained networks and number the distinct minima."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sklearn_pgb._budget import SAME_MINIMUM, SAME_TARGETS_RTOL
from sklearn_pgb._convex._infimum import Infimum, infimum
from sklearn_pgb._convex._problem import ConvexProblem
from sklearn_pgb._convex._scale import LossScale, loss_scale
from sklearn_pgb._losses._floor import pure_error_floor
from sklearn_pgb._losses._loss import Loss
from sklearn_pgb._models._network import Network, as_float64
from sklearn_pgb._operators._dense import KroneckerOperator
from sklearn_pgb._training._objective import Objective
from sklearn_pgb._training._program import NetworkProgram


@dataclass(frozen=True, eq=False)
class SurveyData:
    """Training data, encoded targets and loss of the networks of a survey.

    The sum of the weights is one.
    """

    inputs: Tensor
    y: Tensor
    weight: Tensor
    loss: Loss

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as arrays, because joblib memory-maps arrays but not tensors."""
        arrays = (part.numpy() for part in (self.inputs, self.y, self.weight))
        return SurveyData._of, (*arrays, self.loss)

    @staticmethod
    def _of(*parts: Any) -> "SurveyData":
        inputs, y, weight = map(as_float64, parts[:3])
        return SurveyData(inputs, y, weight, parts[3])

    def objective(self, network: Network, penalty: Tensor | None = None) -> Objective:
        """Objective of a network on these data; the default is no penalty."""
        if penalty is None:
            penalty = torch.zeros_like(network.theta)
        data = self.inputs, self.y, self.weight
        return Objective(NetworkProgram(network), self.loss, *data, penalty)

    def scale(self) -> LossScale:
        """Floor and scale of losses: the loss of the best constant minus the floor."""
        rows = self.inputs.flatten(1)
        floor = pure_error_floor(rows, self.y, self.loss, self.weight).value
        return loss_scale(self.loss, self.y, self.weight, floor)

    def linear_infimum(self, floor: float) -> Infimum:
        """Infimum of the loss over linear models of the inputs."""
        operator = KroneckerOperator(self.inputs.flatten(1), self.y.shape[1])
        problem = ConvexProblem(operator, self.y, self.loss, self.weight)
        return infimum(problem, floor=floor)


@dataclass(frozen=True, eq=False)
class Endpoints:
    """The trained networks, one per start, with their losses.

    `objectives` holds a function for each network, and `objective` its value: the loss
    plus the penalty. `gradient_norm` is the norm of its gradient.
    """

    objectives: list[Objective]
    theta: NDArray[np.float64]
    raw: Tensor
    loss: NDArray[np.float64]
    objective: NDArray[np.float64]
    gradient_norm: NDArray[np.float64]


def evaluate(objectives: Sequence[Objective]) -> Endpoints:
    """Compute losses, objectives and gradient norms of networks of equal size."""
    raws, thetas, values = [], [], []
    for objective in objectives:
        network, theta = objective.network, objective.network.theta
        raw = network(theta, objective.X)
        residual = objective.loss.gradient(objective.y, raw)
        residual = objective.weight[:, None] * residual
        gradient = network.jacobian(objective.X).rmatvec(residual)
        gradient += objective.penalty_gradient(theta)
        loss = float(objective.weight @ objective.loss.value(objective.y, raw))
        penalty = float(objective.penalty_value(theta))
        raws.append(raw)
        thetas.append(theta.numpy())
        values.append([loss, loss + penalty, float(gradient.norm())])
    loss, objective, norm = np.array(values).T
    parameters, outputs = np.stack(thetas), torch.stack(raws)
    return Endpoints(list(objectives), parameters, outputs, loss, objective, norm)


def number_minima(ends: Endpoints, data: SurveyData, scale: float) -> NDArray[np.intp]:
    """Number the distinct minima; return the number of each start's minimum.

    Networks are compared by their predictions on the training samples and by their
    objective relative to `scale`, because these do not depend on permutations and signs
    of hidden units, the scaling of ReLU units, or inactive units. In order of
    increasing objective, each network is assigned to the first minimum that it is close
    to, or to a new one.
    """
    predicted = data.loss.predict(ends.raw.flatten(0, 1)).view(ends.raw.shape)
    centered = data.y - data.weight @ data.y
    spread, size = (
        float(data.weight @ part.square().sum(1)) ** 0.5 for part in (centered, data.y)
    )
    if spread <= SAME_TARGETS_RTOL * size:
        # Constant targets: compare predictions relative to their size instead.
        spread = size or 1.0
    number = np.empty(len(ends.loss), dtype=np.intp)
    minima: list[int] = []
    for start in np.argsort(ends.objective, kind="stable"):
        number[start] = len(minima)
        for i, other in enumerate(minima):
            # An infinite objective is a minimum of its own.
            limit = ends.objective[other] + SAME_MINIMUM * scale
            if not ends.objective[start] <= min(limit, np.finfo(np.float64).max):
                continue
            difference = (predicted[start] - predicted[other]).square().sum(1)
            if float(data.weight @ difference) ** 0.5 <= SAME_MINIMUM * spread:
                number[start] = i
                break
        if number[start] == len(minima):
            minima.append(int(start))
    return number
