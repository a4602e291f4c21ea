"""Weights of several models' raw outputs, fitted to samples they have not seen."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import lsq_linear
from torch import Tensor

from sklearn_pgb._budget import CHANCE_LABELS, STACKING_STEPS
from sklearn_pgb._losses._loss import Loss


def fit_stacking_weights(
    raws: Tensor, y: Tensor, weight: Tensor, loss: Loss
) -> tuple[Tensor, Tensor]:
    """The nonnegative weights of raw outputs, and the shift, with the smallest loss.

    The raw outputs (n_models, n_samples, n_outputs) are for samples that the models
    have not seen. A normal prior with standard deviation one around equal weights keeps
    the weights finite if the outputs separate the classes. One around zero keeps the
    shift finite if no sample has a class; the squared loss does not need it.

    The labels of a few samples may all be predicted correctly by luck. So the loss of a
    classifier includes CHANCE_LABELS more samples, spread over the same inputs, whose
    labels have the frequencies of the classes for all inputs.
    """
    n_models, k = len(raws), y.shape[1]
    w = weight / weight.sum()
    center, unit = torch.zeros(k, dtype=y.dtype), 1.0
    if loss.quadratic:
        # Far from zero, outputs of all models would look like a shift; the steps below
        # compare curvatures, which have units.
        center = w @ y
        unit = 2.0 ** math.frexp(float((y - center).abs().max()))[1]
        raws, y = (raws - center) / unit, (y - center) / unit
    count = sample_count(weight)
    if loss.is_classification:
        chance = CHANCE_LABELS / (count + CHANCE_LABELS)
        y = torch.lerp(y, w @ y, chance)
    equal = torch.full((n_models,), 1 / n_models, dtype=y.dtype)
    scale = 1.0
    if loss.quadratic:
        # The squared loss scales the penalty by half of the noise variance.
        scale = float(w @ loss.value(y, torch.tensordot(equal, raws, 1))) / 2
    penalty = scale / count
    # That of the squared loss is in the units of y.
    of_shift = 0.0 if loss.quadratic else penalty
    penalties = torch.tensor([penalty] * n_models + [of_shift] * k, dtype=y.dtype)
    prior = torch.cat([equal, equal.new_zeros(k)])
    lowest = np.r_[np.zeros(n_models), np.full(k, -np.inf)]

    def combined(theta: Tensor) -> Tensor:
        return torch.tensordot(theta[:n_models], raws, 1) + theta[n_models:]

    def moments(column: Tensor) -> Tensor:
        """Products with the derivatives of the raw outputs by theta."""
        return torch.cat([torch.tensordot(raws, column, 2), column.sum(0)])

    def value(theta: Tensor) -> float:
        penalty = penalties @ (theta - prior).square() / 2
        return float(w @ loss.value(y, combined(theta)) + penalty)

    theta = prior
    for _ in range(STACKING_STEPS):
        raw = combined(theta)
        slope = moments(w[:, None] * loss.gradient(y, raw)) + penalties * (
            theta - prior
        )
        hessian = loss.hessian(y, raw)
        # Copies of the columns of the shift would take k times the memory of raws.
        columns = *raws, *(entry.expand_as(y) for entry in torch.eye(k, dtype=y.dtype))
        H = torch.stack([moments(w[:, None] * hessian(each)) for each in columns])
        H += torch.diag(penalties)
        move, before = _bounded_step(H, slope, lowest - theta.numpy()), value(theta)
        while value(theta + move) > before and float(move.abs().max()) > 0:
            move = move / 2
        theta = (theta + move).clamp(min=torch.from_numpy(lowest))
        if before - value(theta) <= 1e-14 * abs(before):
            break
    weights, shift = theta[:n_models], theta[n_models:]
    return weights, unit * shift + (1 - weights.sum()) * center


def sample_count(weight: Tensor) -> float:
    """Return the number of samples that weights stand for.

    Weights are counts, or relative: those that sum to one are not one sample.
    """
    total = float(weight.sum())
    return max(total, total**2 / float(weight @ weight))


def as_counts(weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return weights that sum to the number of samples that they stand for.

    Boosted trees do not split where the sum of the weights is below 1e-3, for example.
    """
    return weight * (sample_count(torch.from_numpy(weight)) / weight.sum())


def _bounded_step(
    hessian: Tensor, slope: Tensor, lowest: NDArray[np.float64]
) -> Tensor:
    """The minimum of a quadratic function over steps above `lowest`.

    It solves least squares for columns scaled to a curvature of one. The damping is
    needed because the softmax has no curvature along equal shifts of all outputs, and
    none at all at probabilities of 0 or 1.
    """
    size = hessian.diagonal()
    scale = size.clamp(min=1e-12 * float(size.max())).rsqrt()
    eigenvalues, vectors = torch.linalg.eigh(hessian * scale * scale[:, None])
    roots = eigenvalues.clamp(min=1e-12).sqrt()
    root = roots[:, None] * vectors.T
    side = (vectors.T @ (-slope * scale)) / roots
    limits = lowest / scale.numpy(), np.inf
    step = lsq_linear(root.numpy(), side.numpy(), limits, method="bvls")
    return scale * torch.from_numpy(step.x)
