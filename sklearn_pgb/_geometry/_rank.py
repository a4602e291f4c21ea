"""Ranks of Jacobians, here and nearby."""

import torch
from torch import Tensor

from sklearn_pgb._geometry._pieces import pieces
from sklearn_pgb._models._network import Network

# Singular values below this, relative to the largest, are zero; columns have norm one.
RANK_RTOL = 1e-10

# Parameters this far away, relative to their size, show the rank nearby. The rank of an
# analytic function is the same almost everywhere, and shows better from further away;
# functions in pieces have one rank on each piece.
NEARBY, NEARBY_ANALYTIC = (1e-3, 1e-3, 1e-3), (1e-3, 1e-2, 1e-1)

# Up to so many entries (1.6 GB), and so many entries times the shorter side (about 15
# seconds on one core), a Jacobian is formed and decomposed.
MAX_ENTRIES, MAX_WORK = 2e8, 5e10


def jacobian_rank(
    network: Network,
    X: Tensor,
    weight: Tensor | None = None,
    *,
    max_work: float = MAX_WORK,
) -> int | None:
    """Numerical rank of the Jacobian of the raw outputs on X.

    It is read from the singular values of the Jacobian itself, not from its Gram, which
    would square them.

    Parameters
    ----------
    network : Network
    X : Tensor (n_samples, ...)
        As the network sees it.
    weight : Tensor (n_samples,) or None
        Positive weights, by whose roots rows are scaled before the decision.
    max_work : float
        Largest number of entries times the shorter side that is decomposed.

    Returns
    -------
    int or None
        None for a Jacobian that is too large.
    """
    operator = network.jacobian(X)
    entries = operator.n_rows * operator.n_coef
    shorter = min(operator.n_rows, operator.n_coef)
    if entries > MAX_ENTRIES or entries * shorter > max_work:
        return None
    matrix = weighted_jacobian(network, X, weight)
    # Units of the parameters are no part of the decision.
    norms = matrix.norm(dim=0)
    matrix = matrix / torch.where(norms > 0, norms, 1.0)
    if not bool(matrix.isfinite().all()):
        return None
    if len(matrix) < matrix.shape[1]:
        matrix = matrix.T
    singular = torch.linalg.svdvals(torch.linalg.qr(matrix, mode="r").R)
    return int((singular > RANK_RTOL * singular.max()).sum())


def generic_rank(
    network: Network,
    X: Tensor,
    generator: torch.Generator,
    weight: Tensor | None = None,
    *,
    max_work: float = MAX_WORK,
) -> int | None:
    """Largest rank of the Jacobian at a few random parameters nearby.

    The rank can only rise by a small change. Where it does, the outputs of the networks
    nearby form no manifold whose tangent space is the Jacobian's range, and the
    perturbable gradient basis may hold more than the gradient basis; where it does not,
    the two are the same (rank theorem).

    Parameters
    ----------
    network : Network
    X : Tensor (n_samples, ...)
    generator : torch.Generator
    weight : Tensor (n_samples,) or None
    max_work : float
        See `jacobian_rank`.

    Returns
    -------
    int or None
        None for a Jacobian that is too large.
    """
    theta = network.theta
    size = float(theta.square().mean().sqrt()) or 1.0
    found = pieces(network, X[:1])
    analytic = found.complete and not found.inputs
    largest = None
    for distance in NEARBY_ANALYTIC if analytic else NEARBY:
        noise = torch.randn(len(theta), generator=generator, dtype=theta.dtype)
        nearby = network.at(theta + distance * size * noise)
        rank = jacobian_rank(nearby, X, weight, max_work=max_work)
        if rank is None:
            return None
        largest = max(rank, largest or 0)
    return largest


def weighted_jacobian(
    network: Network, X: Tensor, weight: Tensor | None = None
) -> Tensor:
    """The Jacobian, rows times roots of weights, (n_samples * n_outputs, n_params)."""
    rows = network.jacobian(X).dense()
    if weight is not None:
        rows = weight.sqrt()[:, None, None] * rows
    return rows.flatten(0, 1)
