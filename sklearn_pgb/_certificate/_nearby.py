"""The rank of the Jacobian near the parameters, and parameters with equal outputs."""

import torch

from sklearn_pgb._bases._perturbed import new_displacements
from sklearn_pgb._budget import (
    N_DISPLACEMENTS,
    NEARBY_RANK_FLOPS,
    factorization_flops,
)
from sklearn_pgb._geometry._displacements import Displacement
from sklearn_pgb._geometry._rank import generic_rank
from sklearn_pgb._training._objective import Objective


def rank_nearby(
    objective: Objective,
    rank: int | None,
    generator: torch.Generator,
    *,
    smooth: bool,
    may_be_critical: bool,
) -> tuple[int | None, list[Displacement]]:
    """Return the rank of the Jacobian nearby, and displacements if it is larger there.

    `rank` is the rank at the parameters. There are no displacements if the parameters
    are at a kink, or if they cost too much.
    """
    network, X, weight = objective.network, objective.X, objective.weight
    n_rows, n_coef = objective.y.numel(), network.n_params
    # The derivatives of a model that is linear in its parameters are constant.
    if rank in (None, min(n_rows, n_coef)) or network.is_linear_in_theta:
        return rank, []
    nearby = generic_rank(
        network, X, generator, weight, rank=rank or 0, max_flops=NEARBY_RANK_FLOPS
    )
    # Each displacement costs a factorization. It is not worth much if the gradient
    # basis already shows that the point is not critical.
    limit = NEARBY_RANK_FLOPS / (1 if may_be_critical else N_DISPLACEMENTS)
    too_expensive = factorization_flops(n_rows, n_coef) > limit
    if not smooth or nearby is None or nearby <= rank or too_expensive:
        return nearby, []
    return nearby, new_displacements(network, X, weight, N_DISPLACEMENTS, generator)
