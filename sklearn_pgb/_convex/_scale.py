"""The scale that differences of a training loss are compared with."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sklearn_pgb._budget import MEAN_ULPS
from sklearn_pgb._losses._loss import Loss

LIMITS = torch.finfo(torch.float64)


@dataclass(frozen=True)
class LossScale:
    """Floor of a training loss, and the scale of differences to it.

    The floor is the smallest loss of any function of the inputs. The reference is the
    loss of the best constant model minus the floor. If the targets are constant, it is
    the loss of the zero output minus the floor; if that is zero too, one. `rounding` is
    the largest difference between two evaluations of the best constant's loss. Both are
    about zero if losses underflow.
    """

    floor: float
    reference: float
    rounding: float

    def tolerance(self, tol: float) -> float:
        """The largest difference of the loss that counts as zero."""
        return tol * self.reference + self.rounding

    def certifies(self, value: float, tol: float) -> bool:
        """Whether a loss is at the floor up to `tol`.

        Never true for nan or inf, or if differences of the loss underflow.
        """
        finite = math.isfinite(value) and math.isfinite(self.floor)
        tolerance = self.tolerance(tol)
        normal = tolerance >= LIMITS.tiny
        return finite and normal and value - self.floor <= tolerance


def loss_scale(loss: Loss, y: Tensor, weight: Tensor, floor: float) -> LossScale:
    """The scale of a loss on encoded targets, given `pure_error_floor` and weights."""
    y, weight = y.double(), weight.double()
    group = torch.zeros(len(y), dtype=torch.long, device=y.device)
    constant = float(loss.pooled_minimum(y, weight, group, 1).value.sum())
    if bool((y == y[:1]).all()):
        # Compare the targets, not their loss: at a mean of a million, rounding of the
        # loss would hide a spread of one.
        zero = torch.zeros_like(y)
        silent = float(weight @ loss.value(y, zero))
        reference, size = silent - floor, max(abs(constant), abs(silent))
        # Squares of tiny targets underflow to zero, but their gradients do not.
        underflows = size < LIMITS.tiny and bool(loss.gradient(y, zero).any())
        if reference <= 0 and not underflows:
            reference = 1.0
    else:
        reference, size = constant - floor, abs(constant)
    rounding = MEAN_ULPS * LIMITS.eps * size
    return LossScale(floor, max(reference, 0.0), rounding)
