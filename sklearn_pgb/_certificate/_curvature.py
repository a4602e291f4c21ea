"""Compute the smallest eigenvalue of the training objective's Hessian."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sklearn_pgb._budget import (
    HESSIAN_PARAMS,
    JUMP_RTOL,
    LANCZOS_FLOPS,
    LANCZOS_NUMBERS,
    LANCZOS_STEPS,
    SEAM_TOLERANCE,
)
from sklearn_pgb._geometry._kinks import on_seam
from sklearn_pgb._losses._loss import Loss
from sklearn_pgb._training._objective import (
    Objective,
    has_hessian,
    hessian,
    hessian_product,
)


@dataclass(frozen=True, eq=False)
class Curvature:
    """Smallest curvature found, and the largest absolute value of an eigenvalue.

    The smallest curvature is ``v^T H v`` at the unit vector `direction`: the smallest
    eigenvalue if the Hessian was formed, and an upper bound of it otherwise.
    """

    least: float
    largest: float
    direction: Tensor


def has_jump(objective: Objective, raw: Tensor) -> bool:
    """Whether the second derivative may jump at the parameters, on any sample.

    Automatic differentiation then takes one side for all samples, which need not be
    that of any direction. `raw` are the outputs.
    """
    network = objective.network
    return on_seam(network, objective.X) or loss_jumps(objective.loss, objective.y, raw)


def loss_jumps(loss: Loss, y: Tensor, raw: Tensor) -> bool:
    """Whether the second derivative of a loss jumps at some outputs, up to rounding."""
    distance = SEAM_TOLERANCE * torch.maximum(raw.abs(), y.abs())
    below = loss.hessian_diagonal(y, raw - distance)
    above = loss.hessian_diagonal(y, raw + distance)
    largest = torch.maximum(below, above).max()
    return not bool(((above - below).abs() <= JUMP_RTOL * largest).all())


def curvature(
    objective: Objective, theta: Tensor, generator: torch.Generator
) -> Curvature | None:
    """Smallest curvature of the objective at theta.

    None if torch has no Hessian, or an infinite one.
    """
    if not has_hessian(objective, theta):
        return None
    if len(theta) <= HESSIAN_PARAMS:
        matrix = hessian(objective, theta)
        if not bool(matrix.isfinite().all()):
            return None
        values, vectors = torch.linalg.eigh(matrix)
        return Curvature(float(values[0]), float(values.abs().max()), vectors[:, 0])
    # Products cost about a dozen passes over the network.
    cost = 12.0 * len(theta) * len(objective.X)
    least, most = LANCZOS_STEPS
    n_steps = int(
        min(most, max(least, LANCZOS_FLOPS / cost), LANCZOS_NUMBERS / len(theta))
    )
    product = hessian_product(objective, theta)
    # A random start has a part along every eigenvector, almost surely.
    start = torch.randn(len(theta), generator=generator, dtype=theta.dtype)
    if not bool(product(start).isfinite().all()):
        return None
    values, direction = lanczos(product, start, max(2, n_steps))
    # v^T H v is an upper bound of the smallest eigenvalue, unlike a rounded Ritz value.
    least_curvature = float(direction @ product(direction))
    return Curvature(least_curvature, float(values.abs().max()), direction)


def lanczos(
    product: Callable[[Tensor], Tensor], start: Tensor, n_steps: int
) -> tuple[Tensor, Tensor]:
    """Ritz values, and the Ritz vector of the smallest one.

    All vectors are kept and reorthogonalized. Unlike ARPACK (scipy's eigsh), this
    returns the best vector so far if it does not converge.
    """
    basis = [start / start.norm()]
    diagonal: list[Tensor] = []
    off_diagonal: list[Tensor] = []
    for _ in range(n_steps):
        image = product(basis[-1])
        diagonal.append(basis[-1] @ image)
        vectors = torch.stack(basis)
        # Gram-Schmidt needs a second pass to be orthogonal to rounding error.
        for _ in range(2):
            image = image - vectors.T @ (vectors @ image)
        size = image.norm()
        # The Krylov space is invariant, so the Ritz values are eigenvalues.
        if float(size) <= 1e-12 * float(torch.stack(diagonal).abs().max()):
            break
        off_diagonal.append(size)
        basis.append(image / size)
    matrix = torch.diag(torch.stack(diagonal))
    if len(diagonal) > 1:
        off = torch.stack(off_diagonal[: len(diagonal) - 1])
        matrix = matrix + torch.diag(off, 1) + torch.diag(off, -1)
    values, coordinates = torch.linalg.eigh(matrix)
    direction = torch.stack(basis[: len(diagonal)]).T @ coordinates[:, 0]
    return values, direction / direction.norm()
