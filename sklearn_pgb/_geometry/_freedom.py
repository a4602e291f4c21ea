"""Shifts of a network's parameters that do not change its outputs on the samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sklearn_pgb._budget import BLOCK_WORK, JACOBIAN_ENTRIES
from sklearn_pgb._derivatives import root_mean_square
from sklearn_pgb._geometry._linear_units import neutral_moves, null_space
from sklearn_pgb._models._chain import ChainNetwork
from sklearn_pgb._models._network import Network
from sklearn_pgb._operators._function import FunctionOperator

Path = Callable[[float], Tensor]


@dataclass(frozen=True, eq=False)
class Freedom:
    """A family of shifts of theta that change no output.

    `draw` maps a generator to a random path. A path maps the time, between 0 and 1, to
    a shift of theta.
    """

    kind: str
    draw: Callable[[torch.Generator], Path]


def chain_families(
    network: ChainNetwork, X: Tensor, *, together: bool
) -> list[list[Freedom]]:
    """Freedoms of a chain, in lists of freedoms that may be used together.

    Three kinds of changes have no effect on the outputs. Units with zero outgoing
    weights may change. Linear units may move in directions that the product of the
    later weights maps to zero. Weights may move in directions orthogonal to their
    layer's inputs on all samples, including inputs moved by the first two. The shifts
    of one list form a linear space on which the outputs are constant. Units of several
    layers only move at once if `together`.
    """
    neutral = neutral_moves(network, X)
    moves = _unit_freedoms(network, X, neutral)
    # Families of one kind are also tried alone: if one freedom of a list meets a kink,
    # the whole list does.
    families = [_null_freedoms(network, X, None), *([each] for each in moves)]
    if together and moves:
        families.insert(0, moves + _null_freedoms(network, X, neutral))
    return [family for family in families if family]


def block_families(network: Network, X: Tensor) -> Iterator[list[Freedom]]:
    """Null spaces of the Jacobian's blocks, which are exact for linear layers."""
    theta = network.theta
    operator = FunctionOperator(network, theta, X, torch.arange(len(theta)))
    if operator.n_rows * operator.n_coef > JACOBIAN_ENTRIES:
        return
    J = operator.dense().flatten(0, 1)
    # In units of the outputs, because parameters have different ones.
    rounding = torch.finfo(J.dtype).eps * float((J.abs() @ theta.abs()).norm())
    for name, block in network.blocks().items():
        columns = J[:, block]
        # The null space of zero columns needs no decomposition.
        is_zero = columns.norm(dim=0) * root_mean_square(theta[block]) <= rounding
        identity = torch.eye(len(is_zero), dtype=J.dtype)
        if is_zero.any():
            yield [_block_freedom(theta, name, block, identity[:, is_zero])]
        if columns.numel() * min(columns.shape) > BLOCK_WORK:
            continue
        kernel = null_space(columns[:, ~is_zero])
        if kernel.shape[1]:
            basis = identity[:, ~is_zero] @ kernel
            yield [_block_freedom(theta, name, block, basis)]


def _block_freedom(theta: Tensor, name: str, block: slice, basis: Tensor) -> Freedom:
    # Blocks of zeros, such as initial biases, get shifts of size one.
    size_of_entries = root_mean_square(theta[block])
    # Directions are orthonormal, so this gives a shift the size of the block's entries,
    # however many directions there are.
    scale = size_of_entries * (len(basis) / basis.shape[1]) ** 0.5

    def draw(generator: torch.Generator) -> Path:
        coef = torch.randn(basis.shape[1], generator=generator, dtype=basis.dtype)
        shift = torch.zeros_like(theta)
        shift[block] = scale * basis @ coef
        return lambda time: time * shift

    return Freedom(f"null space of {name}", draw)


def _unit_freedoms(
    network: ChainNetwork, X: Tensor, neutral: list[tuple[Tensor, Tensor, Tensor]]
) -> list[Freedom]:
    """Shifts of incoming weights that move units without effect on the outputs."""
    pre_activations, layers = network.forward(X)
    freedoms = []
    for layer, (unused, directions, _) in enumerate(neutral):
        inputs = _augmented(layers[layer], network.biases[layer] is not None)
        # With this scale a random shift changes pre-activations by about their own
        # size.
        scale = root_mean_square(pre_activations[layer]) / (
            root_mean_square(inputs) * inputs.shape[1] ** 0.5
        )
        any_input = torch.eye(inputs.shape[1], dtype=X.dtype)
        for kind, left in [
            ("zero outgoing weights", unused),
            ("rank-deficient product", directions),
        ]:
            if left.shape[1]:
                draw = _layer_shift(network, layer, left, any_input, scale)
                freedoms.append(Freedom(kind, draw))
    return freedoms


def _null_freedoms(
    network: ChainNetwork,
    X: Tensor,
    neutral: list[tuple[Tensor, Tensor, Tensor]] | None,
) -> list[Freedom]:
    """Shifts of weights orthogonal to their inputs and to the moves in `neutral`."""
    layers, freedoms = network.layers(X), []
    # Skip the first layer: shifts orthogonal to the data change no derivative on the
    # samples either, so they are useless.
    for layer in range(1, len(network.weights)):
        rows = _augmented(layers[layer], network.biases[layer] is not None)
        if neutral is not None:
            # Shifts orthogonal to these moves leave the outputs constant if units below
            # move.
            moved = neutral[layer - 1][2].T
            padding = moved.new_zeros(len(moved), rows.shape[1] - moved.shape[1])
            rows = torch.cat([rows, torch.cat([moved, padding], 1)])
        right = null_space(rows)
        if right.shape[1]:
            weight = network.weights[layer]
            scale = root_mean_square(weight) * (weight.shape[1] / right.shape[1]) ** 0.5
            left = torch.eye(len(weight), dtype=X.dtype)
            draw = _layer_shift(network, layer, left, right, scale)
            freedoms.append(Freedom("null space of inputs", draw))
    return freedoms


def scaling_freedom(network: ChainNetwork) -> Freedom | None:
    """Multiply incoming weights of ReLU-like units by c > 0, divide outgoing ones by c.

    This does not change the Jacobian's column space, because the rescaling is an
    invertible linear map of the parameters. None if there are no such units, or if
    layer norms follow them.
    """
    # c relu(z / c) = relu(z) holds for functions that are linear on each side of zero.
    homogeneous = [
        activation.linear_below and activation.linear_above
        for activation in network.activations
    ]
    if not network.is_mlp or not any(homogeneous):
        return None

    def draw(generator: torch.Generator) -> Path:
        uniform = [
            2 * torch.rand(len(weight), generator=generator, dtype=weight.dtype) - 1
            for weight in network.weights[:-1]
        ]
        exponents = [chosen * u for chosen, u in zip(homogeneous, uniform, strict=True)]

        def path(time: float) -> Tensor:
            factors = [2 ** (time * exponent) for exponent in exponents]
            return network.rescaled(factors) - network.theta

        return path

    return Freedom("rescaled units", draw)


def _layer_shift(
    network: ChainNetwork, layer: int, left: Tensor, right: Tensor, scale: float
) -> Callable[[torch.Generator], Path]:
    """A function that draws shifts ``left C right^T`` of a layer's [W, b]."""
    sizes = [
        weight.numel() + (0 if bias is None else len(bias))
        for weight, bias in zip(network.weights, network.biases, strict=True)
    ]
    start = sum(sizes[:layer])
    n_in = network.weights[layer].shape[1]

    def draw(generator: torch.Generator) -> Path:
        shape = left.shape[1], right.shape[1]
        C = torch.randn(shape, generator=generator, dtype=left.dtype)
        change = scale * left @ C @ right.T
        shift = torch.zeros(sum(sizes), dtype=left.dtype)
        shift[start : start + sizes[layer]] = torch.cat(
            [change[:, :n_in].reshape(-1), change[:, n_in:].reshape(-1)]
        )
        return lambda time: time * shift

    return draw


def _augmented(h: Tensor, bias: bool) -> Tensor:
    """Inputs of a layer, followed by a one if the layer has a bias."""
    return torch.cat([h, h.new_ones(len(h), int(bias))], 1)
