"""What differences of a training loss are compared with, in one place."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sklearn_pgb._losses import Loss

# Units in the last place of a mean of losses that its evaluation may be off by.
ROUNDING_ULPS = 16


@dataclass(frozen=True)
class LossScale:
    """The unit of differences of a loss, and the floor that they are counted from.

    Attributes
    ----------
    floor : float
        Least loss of any function of the inputs.
    unit : float
        What the best constant loses above the floor: a loss of ``floor + tol * unit``
        leaves a share `tol` of what there is to explain. Targets that are all equal
        leave nothing to explain; then it is what outputs of zero lose, and one if these
        are perfect.
    rounding : float
        By how much two evaluations of the best constant's loss may differ.
    """

    floor: float
    unit: float
    rounding: float

    def tolerance(self, tol: float) -> float:
        """Differences of the loss up to this are none."""
        return tol * self.unit + self.rounding

    def certifies(self, value: float, tol: float) -> bool:
        """Whether a loss is at the floor up to `tol`; nothing certifies nan or inf."""
        finite = math.isfinite(value) and math.isfinite(self.floor)
        return finite and value - self.floor <= self.tolerance(tol)


def loss_scale(loss: Loss, y: Tensor, weight: Tensor, floor: float) -> LossScale:
    """The scale of a loss on a training set.

    Parameters
    ----------
    loss : Loss
    y : Tensor (n_samples, n_outputs)
        Encoded targets.
    weight : Tensor (n_samples,)
        Positive, summing to one.
    floor : float
        Value of `pure_error_floor`.
    """
    y, weight = y.double(), weight.double()
    group = torch.zeros(len(y), dtype=torch.long, device=y.device)
    constant = float(loss.pooled_minimum(y, weight, group, 1).value.sum())
    if bool((y == y[:1]).all()):
        # By the targets themselves, not by their loss: a spread of one around a million
        # is no constant.
        silent = float(weight @ loss.value(y, torch.zeros_like(y)))
        unit, size = silent - floor, max(abs(constant), abs(silent))
        unit = unit if unit > 0 else 1.0
    else:
        unit, size = constant - floor, abs(constant)
    rounding = ROUNDING_ULPS * torch.finfo(torch.float64).eps * size
    return LossScale(floor, max(unit, 0.0), rounding)
