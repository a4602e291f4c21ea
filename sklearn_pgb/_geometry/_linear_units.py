"""Units that are linear on all samples, and moves of units that change no output."""

from __future__ import annotations

import torch
from torch import Tensor

from sklearn_pgb._budget import SEAM_TOLERANCE
from sklearn_pgb._models._chain import ChainNetwork


def linear_units(network: ChainNetwork, X: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Find the units of each hidden layer that are linear near theta on all samples.

    A unit is linear if it has no activation, or if its pre-activations all have the
    same sign and the activation is linear and not zero on this side, e.g. above zero
    for ReLU and ELU. For each layer, the result has a mask of the linear units and the
    units' slopes at the first sample.
    """
    pre_activations, layers = network.forward(X)
    result = []
    for activation, z, h in zip(
        network.activations, pre_activations, layers[1:-1], strict=True
    ):
        margin = SEAM_TOLERANCE * z.abs().max() if activation.seam else -torch.inf
        above = activation.linear_above & (z > margin).all(0)
        below = activation.linear_below & (-z > margin).all(0)
        # A linear unit has the same slope on all samples, so the first one is enough.
        slope = activation.derivative(z[:1], h[:1])[0]
        result.append(((above | below) & (slope != 0), slope))
    return result


def neutral_moves(
    network: ChainNetwork, X: Tensor
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Find moves of each hidden layer's units that do not change the outputs.

    For each layer, these are units that may take any value, (width, n_free);
    orthonormal directions in which pre-activations of linear units may move, (width,
    a); and columns that span the resulting changes of the layer's outputs, (width, b).
    """
    linear = linear_units(network, X)
    above = torch.zeros(network.n_outputs, 0, dtype=X.dtype)
    result: list[tuple[Tensor, Tensor, Tensor]] = []
    for layer in reversed(range(len(network.activations))):
        # Remove the part of the weights that acts in neutral directions of the next
        # layer, as it has no effect on the outputs.
        weight = network.weights[layer + 1]
        effect = weight - above @ (above.T @ weight)
        # Outgoing weights that cancel leave rounding errors in place of zeros.
        rounding = torch.finfo(X.dtype).eps * max(effect.shape)
        is_unused = effect.norm(dim=0) <= rounding * weight.norm()
        mask, slopes = linear[layer]
        mask = mask & ~is_unused
        kernel = null_space(effect[:, mask])
        image = X.new_zeros(len(mask), kernel.shape[1])
        image[mask] = kernel
        directions = torch.zeros_like(image)
        directions[mask] = kernel / slopes[mask, None]
        # Orthonormal, because the next layer's effect is computed by projection.
        directions = torch.linalg.qr(directions).Q
        unused = torch.eye(len(is_unused), dtype=X.dtype)[:, is_unused]
        result.insert(0, (unused, directions, torch.cat([unused, image], 1)))
        above = torch.cat([unused, directions], 1)
    return result


def null_space(matrix: Tensor) -> Tensor:
    """Orthonormal columns that the matrix maps to zero, up to rounding."""
    if len(matrix) > matrix.shape[1]:
        # R has the same null space and singular values, and is smaller.
        matrix = torch.linalg.qr(matrix, mode="r").R
    _, singular, Vh = torch.linalg.svd(matrix)
    rounding = torch.finfo(matrix.dtype).eps * max(matrix.shape)
    rank = int((singular > rounding * singular.max()).sum()) if len(singular) else 0
    return Vh[rank:].T
