"""Ranks of Jacobians at the parameters and nearby."""

import torch
from torch import Tensor

from sklearn_pgb._budget import (
    NEARBY_ANALYTIC,
    NEARBY_STEPS,
    RANK_ENTRIES,
    RANK_FLOPS,
    RANK_RTOL,
    factorization_flops,
)
from sklearn_pgb._derivatives import root_mean_square
from sklearn_pgb._geometry._pieces import pieces
from sklearn_pgb._models._network import Network


def jacobian_rank(
    network: Network,
    X: Tensor,
    weight: Tensor | None = None,
    *,
    max_flops: float = RANK_FLOPS,
) -> int | None:
    """Numerical rank of the Jacobian of the raw outputs on X; None if it is too large.

    The singular values are those of the Jacobian itself, because a Gram matrix squares
    them and loses the small ones to rounding. Rows are multiplied by the roots of the
    weights. `max_flops` limits the number of entries times the shorter side.
    """
    operator = network.jacobian(X)
    work = factorization_flops(operator.n_rows, operator.n_coef)
    if operator.n_rows * operator.n_coef > RANK_ENTRIES or work > max_flops:
        return None
    matrix = weighted_jacobian(network, X, weight)
    # Normalize columns, so that the rank does not depend on the parameters' scales.
    norms = matrix.norm(dim=0)
    matrix = matrix / torch.where(norms > 0, norms, 1.0)
    if not bool(matrix.isfinite().all()):
        return None
    if len(matrix) < matrix.shape[1]:
        matrix = matrix.T
    # R has the same singular values, and is square.
    singular = torch.linalg.svdvals(torch.linalg.qr(matrix, mode="r").R)
    return int((singular > RANK_RTOL * singular.max()).sum())


def generic_rank(
    network: Network,
    X: Tensor,
    generator: torch.Generator,
    weight: Tensor | None = None,
    *,
    rank: int = 0,
    max_flops: float = RANK_FLOPS,
) -> int | None:
    """Largest `jacobian_rank` at a few random parameters nearby, at least `rank`.

    A small change of the parameters can only increase the rank. If it does not, the
    outputs of nearby parameters form a manifold whose tangent space is the range of the
    Jacobian (rank theorem), and the perturbable gradient basis equals the gradient
    basis. If it does, the perturbable gradient basis may be larger.

    Parameters
    ----------
    rank : int, default=0
        Rank at the parameters. A smaller one at others shows that they are not near.
    """
    theta = network.theta
    size = _sizes(network)
    # A network without seams is analytic. One sample shows all functions that it calls.
    seams = pieces(network, X[:1])
    is_analytic = seams.complete and not seams.inputs
    largest = rank
    for distance in NEARBY_ANALYTIC if is_analytic else NEARBY_STEPS:
        noise = torch.randn(len(theta), generator=generator, dtype=theta.dtype)
        nearby = network.at(theta + distance * size * noise)
        found = jacobian_rank(nearby, X, weight, max_flops=max_flops)
        if found is None:
            return None
        largest = max(found, largest)
    return largest


def _sizes(network: Network) -> Tensor:
    """Sizes of the parameters, one for each block, because blocks have units.

    Blocks of zeros have the size one.
    """
    theta = network.theta
    sizes = torch.full_like(theta, root_mean_square(theta))
    # Single parameters come last, after those of whole layers.
    blocks = sorted(network.blocks().values(), key=lambda each: each.start - each.stop)
    for block in blocks:
        sizes[block] = root_mean_square(theta[block])
    return sizes


def weighted_jacobian(
    network: Network, X: Tensor, weight: Tensor | None = None
) -> Tensor:
    """The Jacobian with weighted rows, (n_samples * n_outputs, n_params)."""
    rows = network.jacobian(X).dense()
    if weight is not None:
        rows = weight.sqrt()[:, None, None] * rows
    return rows.flatten(0, 1)
