"""Shifts of a chain's parameters that leave its outputs on the samples alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sklearn_pgb._geometry._pieces import SEAM_TOLERANCE
from sklearn_pgb._models._chain import ChainNetwork

Path = Callable[[float], Tensor]


@dataclass(frozen=True, eq=False)
class Freedom:
    """A family of shifts of theta that change no output.

    Attributes
    ----------
    kind : str
        In plain words.
    draw : callable
        Maps a generator and a size to a random path: shifts of theta as a function of
        the time between 0 and 1.
    """

    kind: str
    draw: Callable[[torch.Generator, float], Path]


@dataclass(frozen=True, eq=False)
class _Unseen:
    """How a layer's units may move without being seen by the outputs.

    Attributes
    ----------
    units : Tensor of bool (width,)
        Units that may take any value.
    directions : Tensor (width, a)
        Directions of pre-activations, of units that are linear on the samples.
    values : Tensor (width, b)
        Columns that span how the layer's outputs then move.
    """

    units: Tensor
    directions: Tensor
    values: Tensor


def linear_units(network: ChainNetwork, X: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Each hidden layer's units that are linear near theta on all samples.

    These are the units without activation, and those whose pre-activations keep one
    sign on whose side the activation is linear, and not zero, as with ReLU or above
    zero with ELU.

    Returns
    -------
    list of pairs, one per hidden layer
        Which units are linear, a bool Tensor (width,), and the units' slopes at the
        first sample, (width,).
    """
    pre_activations, layers = network.forward(X)
    result = []
    for activation, z, h in zip(
        network.activations, pre_activations, layers[1:-1], strict=True
    ):
        margin = SEAM_TOLERANCE * z.abs().max() if activation.seam else -torch.inf
        above = activation.linear_above & (z > margin).all(0)
        below = activation.linear_below & (-z > margin).all(0)
        slope = activation.derivative(z[:1], h[:1])[0]
        result.append(((above | below) & (slope != 0), slope))
    return result


def chain_families(
    network: ChainNetwork, X: Tensor, *, together: bool
) -> list[list[Freedom]]:
    """Freedoms of a chain, in lists of those that may be used at once.

    Three things are unseen by the outputs: units that feed nothing, directions of
    linear units that the product of the later weights maps to zero, and shifts of
    incoming weights that are orthogonal to a layer's inputs on all samples, as moved
    by the first two. Shifts of a family can be added up: they are one linear space,
    along which the outputs do not change.

    Parameters
    ----------
    network : ChainNetwork
    X : Tensor (n_samples, n_inputs)
    together : bool
        Whether units of several layers may move at once.
    """
    unseen = _unseen_moves(network, X)
    moves = _unit_freedoms(network, X, unseen)
    families = [_null_freedoms(network, X, None), *([each] for each in moves)]
    if together and moves:
        families.insert(0, moves + _null_freedoms(network, X, unseen))
    return [family for family in families if family]


def _unit_freedoms(
    network: ChainNetwork, X: Tensor, unseen: list[_Unseen]
) -> list[Freedom]:
    """Shifts of weights that move units unseen."""
    pre_activations, layers = network.forward(X)
    freedoms = []
    for layer, moves in enumerate(unseen):
        inputs = _augmented(layers[layer], network.biases[layer] is not None)
        scale = _rms(pre_activations[layer]) / (_rms(inputs) * inputs.shape[1] ** 0.5)
        any_input = torch.eye(inputs.shape[1], dtype=X.dtype)
        width = torch.eye(len(moves.units), dtype=X.dtype)
        for kind, left in [
            ("zero outgoing weights", width[:, moves.units]),
            ("rank-deficient product", moves.directions),
        ]:
            if left.shape[1]:
                draw = _layer_shift(network, layer, left, any_input, scale)
                freedoms.append(Freedom(kind, draw))
    return freedoms


def _null_freedoms(
    network: ChainNetwork, X: Tensor, unseen: list[_Unseen] | None
) -> list[Freedom]:
    """Shifts of weights that are orthogonal to their inputs, moved unseen or fixed."""
    layers, freedoms = network.layers(X), []
    # The first layer's inputs are data: what is orthogonal to them changes nothing on
    # the samples, not even a derivative, and would be of no use.
    for layer in range(1, len(network.weights)):
        rows = _augmented(layers[layer], network.biases[layer] is not None)
        if unseen is not None:
            moved = unseen[layer - 1].values.T
            padding = moved.new_zeros(len(moved), rows.shape[1] - moved.shape[1])
            rows = torch.cat([rows, torch.cat([moved, padding], 1)])
        right = null_space(rows)
        if right.shape[1]:
            weight = network.weights[layer]
            scale = _rms(weight) * (weight.shape[1] / right.shape[1]) ** 0.5
            left = torch.eye(len(weight), dtype=X.dtype)
            draw = _layer_shift(network, layer, left, right, scale)
            freedoms.append(Freedom("null space of inputs", draw))
    return freedoms


def scaling_freedom(network: ChainNetwork) -> Freedom | None:
    """Units of ReLU kind: incoming weights times c > 0, outgoing weights by c.

    The Jacobian there has the same column space: rescaled networks are the same
    functions of all their parameters, up to an invertible linear map of these.
    """
    homogeneous = [
        activation.linear_below and activation.linear_above
        for activation in network.activations
    ]
    if not any(homogeneous):
        return None

    def draw(generator: torch.Generator, size: float) -> Path:
        exponents = [
            size * chosen * (2 * _uniform(generator, len(weight)) - 1)
            for chosen, weight in zip(homogeneous, network.weights, strict=False)
        ]
        return lambda time: _rescaled(network, exponents, time) - network.theta

    return Freedom("rescaled units", draw)


def _rescaled(network: ChainNetwork, exponents: list[Tensor], time: float) -> Tensor:
    """Theta with each unit's incoming weights times 2^(time * exponent)."""
    factors = [2 ** (time * exponent) for exponent in exponents]
    one = torch.ones(1, dtype=torch.float64)
    incoming, outgoing = [*factors, one], [one, *factors]
    parts = []
    for weight, bias, c, d in zip(
        network.weights, network.biases, incoming, outgoing, strict=True
    ):
        parts.append((c[:, None] * weight / d).reshape(-1))
        if bias is not None:
            parts.append(c * bias)
    return torch.cat(parts)


def _unseen_moves(network: ChainNetwork, X: Tensor) -> list[_Unseen]:
    """How units of each hidden layer may move unseen; from the last layer down."""
    linear = linear_units(network, X)
    above = torch.zeros(network.n_outputs, 0, dtype=X.dtype)
    result: list[_Unseen] = []
    for layer in reversed(range(len(network.activations))):
        # What reaches the next layer in directions that are unseen there is unseen.
        weight = network.weights[layer + 1]
        seen = weight - above @ (above.T @ weight)
        rounding = torch.finfo(X.dtype).eps * max(seen.shape)
        units = seen.norm(dim=0) <= rounding * weight.norm()
        mask, slopes = linear[layer]
        mask = mask & ~units
        image = _null_directions(seen, mask)
        directions = torch.zeros_like(image)
        directions[mask] = image[mask] / slopes[mask, None]
        directions = torch.linalg.qr(directions).Q
        free = torch.eye(len(units), dtype=X.dtype)[:, units]
        result.insert(0, _Unseen(units, directions, torch.cat([free, image], 1)))
        above = torch.cat([free, directions], 1)
    return result


def _null_directions(weight: Tensor, units: Tensor) -> Tensor:
    """Directions of the chosen units that the weights map to zero, (n_units, a)."""
    if not units.any():
        return weight.new_zeros(len(units), 0)
    kernel = null_space(weight[:, units])
    directions = weight.new_zeros(len(units), kernel.shape[1])
    directions[units] = kernel
    return directions


def null_space(matrix: Tensor) -> Tensor:
    """Orthonormal columns that the matrix maps to zero, up to rounding."""
    if len(matrix) > matrix.shape[1]:
        matrix = torch.linalg.qr(matrix, mode="r").R
    _, singular, Vh = torch.linalg.svd(matrix)
    rounding = torch.finfo(matrix.dtype).eps * max(matrix.shape)
    rank = int((singular > rounding * singular.max()).sum()) if len(singular) else 0
    return Vh[rank:].T


def _layer_shift(
    network: ChainNetwork, layer: int, left: Tensor, right: Tensor, scale: float
) -> Callable[[torch.Generator, float], Path]:
    """Draws shifts ``left C right^T`` of a layer's [W, b]."""
    sizes = [
        weight.numel() + (0 if bias is None else len(bias))
        for weight, bias in zip(network.weights, network.biases, strict=True)
    ]
    start = sum(sizes[:layer])
    n_in = network.weights[layer].shape[1]

    def draw(generator: torch.Generator, size: float) -> Path:
        shape = left.shape[1], right.shape[1]
        C = torch.randn(shape, generator=generator, dtype=left.dtype)
        change = size * scale * left @ C @ right.T
        shift = torch.zeros(sum(sizes), dtype=left.dtype)
        shift[start : start + sizes[layer]] = torch.cat(
            [change[:, :n_in].reshape(-1), change[:, n_in:].reshape(-1)]
        )
        return lambda time: time * shift

    return draw


def _augmented(h: Tensor, bias: bool) -> Tensor:
    """Inputs of a layer with a one behind them for its bias."""
    return torch.cat([h, h.new_ones(len(h), int(bias))], 1)


def _rms(values: Tensor) -> float:
    """Root mean square, or one where all values vanish."""
    return float(values.square().mean().sqrt()) or 1.0


def _uniform(generator: torch.Generator, n: int) -> Tensor:
    return torch.rand(n, generator=generator, dtype=torch.float64)
