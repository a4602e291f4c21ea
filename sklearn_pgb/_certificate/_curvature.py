"""The smallest eigenvalue of the training objective's Hessian."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sklearn_pgb._certificate._objective import TrainingObjective

# Up to this many parameters the Hessian is formed; above, Lanczos takes its products.
DENSE_PARAMS = 300

# Multiplications that Lanczos may spend, the least and the largest number of its steps,
# and the numbers that its vectors may take.
BUDGET, STEPS, NUMBERS = 6e9, (20, 150), 5e7


@dataclass(frozen=True, eq=False)
class Curvature:
    """The lowest curvature that was found, and the size of the largest.

    Attributes
    ----------
    least : float
        ``v^T H v`` at the unit vector `direction`: the smallest eigenvalue where the
        Hessian was formed, and an upper bound of it in any case.
    largest : float
        Largest absolute value of an eigenvalue.
    direction : Tensor (n_params,)
    """

    least: float
    largest: float
    direction: Tensor


def curvature(
    objective: TrainingObjective, theta: Tensor, generator: torch.Generator
) -> Curvature | None:
    """Lowest curvature of the objective at theta; None if torch has no Hessian."""
    if not objective.has_hessian(theta):
        return None
    if len(theta) <= DENSE_PARAMS:
        values, vectors = torch.linalg.eigh(objective.hessian(theta))
        return Curvature(float(values[0]), float(values.abs().max()), vectors[:, 0])
    # Products cost about a dozen passes over the network.
    cost = 12.0 * len(theta) * len(objective.X)
    least, most = STEPS
    n_steps = int(min(most, max(least, BUDGET / cost), NUMBERS / len(theta)))
    product = objective.hessian_product(theta)
    start = torch.randn(len(theta), generator=generator, dtype=theta.dtype)
    values, direction = _lanczos(product, start, max(2, n_steps))
    # Rounding of the Ritz value does not enter what is reported.
    found = float(direction @ product(direction))
    return Curvature(found, float(values.abs().max()), direction)


def _lanczos(
    product: Callable[[Tensor], Tensor], start: Tensor, n_steps: int
) -> tuple[Tensor, Tensor]:
    """Ritz values, and the Ritz vector of the smallest one.

    With all vectors kept and orthogonalised anew. ARPACK (scipy's eigsh) returns
    nothing when its steps run out, and the best vector so far is what is needed here.
    """
    basis = [start / start.norm()]
    diagonal: list[Tensor] = []
    beside: list[Tensor] = []
    for _ in range(n_steps):
        image = product(basis[-1])
        diagonal.append(basis[-1] @ image)
        vectors = torch.stack(basis)
        for _ in range(2):
            image = image - vectors.T @ (vectors @ image)
        size = image.norm()
        if float(size) <= 1e-12 * float(torch.stack(diagonal).abs().max()):
            break
        beside.append(size)
        basis.append(image / size)
    matrix = torch.diag(torch.stack(diagonal))
    if len(diagonal) > 1:
        off = torch.stack(beside[: len(diagonal) - 1])
        matrix = matrix + torch.diag(off, 1) + torch.diag(off, -1)
    values, coordinates = torch.linalg.eigh(matrix)
    direction = torch.stack(basis[: len(diagonal)]).T @ coordinates[:, 0]
    return values, direction / direction.norm()
