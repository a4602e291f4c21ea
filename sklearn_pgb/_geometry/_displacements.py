"""Find other parameters with the same outputs on the samples."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sklearn_pgb._budget import (
    MOVED_ULPS,
    N_DIRECTIONS,
    N_HALVINGS,
    OUTPUT_TOLERANCE,
    PATH_TIMES,
    SEAM_TOLERANCE,
)
from sklearn_pgb._geometry._freedom import (
    Freedom,
    Path,
    block_families,
    chain_families,
    scaling_freedom,
)
from sklearn_pgb._geometry._pieces import pieces
from sklearn_pgb._models._chain import ChainNetwork
from sklearn_pgb._models._network import Network


@dataclass(frozen=True, eq=False)
class Displacement:
    """A shift of theta that changes no output on the samples, and how it was found."""

    shift: Tensor
    kind: str


def displacements(
    network: Network,
    X: Tensor,
    *,
    generator: torch.Generator,
    limit: int = 16,
) -> list[Displacement]:
    """Elements of V[theta, eps]: shifts of theta that change no output on X.

    At a local minimum of the loss, all nearby parameters with the same outputs are
    local minima too, so their gradients vanish. The same holds for the displaced
    parameters of this function, although they are not near. They lie at the end of a
    path on which the outputs are constant and no piecewise function, such as ReLU,
    changes its piece on any sample. On such a path the gradient is an analytic function
    of the time, so it vanishes everywhere if it vanishes near the start.

    For linear layers with activations in between, the shifts use units with zero
    outgoing weights, directions of linear units that later weights map to zero, and
    shifts of weights orthogonal to all inputs of their layer (e.g. of silent and
    duplicate units). They are used all at once if there are no seams, and separately;
    one rescaling of ReLU units follows. For other networks, they are random shifts of
    one parameter, or of weight and bias of one layer, in the null space of its columns
    of the Jacobian. Each shift is tested before it is returned. At most `limit` are
    drawn in rounds, one from each family.

    References
    ----------
    Kawaguchi, Huang, Kaelbling, "Every Local Minimum Value Is the Global Minimum Value
    of Induced Model in Nonconvex Machine Learning", Neural Computation 31(12), 2019,
    section 3.3.
    """
    walk = _Walk(network, X)
    if not walk.complete:
        return []
    if isinstance(network, ChainNetwork) and network.is_mlp:
        # If several layers move at once, pre-activations are not linear in the time,
        # so their signs at a few times do not determine the signs in between.
        families = chain_families(network, X, together=not walk.seams)
    else:
        families = list(block_families(network, X))
    drawn: list[Displacement] = []
    while families and len(drawn) < limit:
        for family in list(families):
            displacement = _draw(walk, family, generator)
            if displacement is None:
                families.remove(family)
            elif len(drawn) < limit:
                drawn.append(displacement)
    scaling = scaling_freedom(network) if isinstance(network, ChainNetwork) else None
    if scaling is not None and len(drawn) < limit:
        displacement = _draw(walk, [scaling], generator)
        drawn += [] if displacement is None else [displacement]
    return drawn


def _draw(
    walk: _Walk, family: list[Freedom], generator: torch.Generator
) -> Displacement | None:
    """A random displacement that uses all freedoms of a family, or None."""
    for _ in range(N_DIRECTIONS):
        paths = [freedom.draw(generator) for freedom in family]
        stop = walk.find_stop(paths)
        if stop is not None:
            shift = _total(paths, stop)
            kinds = dict.fromkeys(freedom.kind for freedom in family)
            return Displacement(shift, " and ".join(kinds))
    return None


class _Walk:
    """Test paths through the parameters of one network on fixed samples."""

    def __init__(self, network: Network, X: Tensor) -> None:
        self._network, self._X, self._theta = network, X, network.theta
        self._raw = self._run(self._theta)
        spread = (self._raw - self._raw.mean(0)).abs().amax(0)
        self._bound = torch.maximum(OUTPUT_TOLERANCE * spread, self._rounding())
        start = pieces(network, X)
        self.complete = start.complete
        self.seams = bool(start.inputs)
        self._signs = [_signs(z) for z in start.inputs]

    def find_stop(self, paths: list[Path]) -> float | None:
        """The time up to which outputs and pieces are constant, or None."""
        # A shift that crosses a kink is halved until it stays on the piece.
        for stop in (0.5**i for i in range(N_HALVINGS + 1)):
            shifts = [_total(paths, stop * time) for time in PATH_TIMES]
            if self._keeps_pieces(shifts):
                moved = [self._run(self._theta + shift) for shift in shifts]
                # Outputs that overflow to NaN are no smaller than the bound.
                kept = [(raw - self._raw).abs() <= self._bound for raw in moved]
                return stop if all(bool(each.all()) for each in kept) else None
        return None

    def _rounding(self) -> Tensor:
        """Rounding errors of each output, by those of relative changes of theta.

        Outputs may be small sums of large terms, and zero up to rounding.
        """
        generator = torch.Generator().manual_seed(0)
        signs = torch.randint(0, 2, self._theta.shape, generator=generator) * 2.0 - 1
        change = torch.finfo(self._theta.dtype).eps ** 0.5
        moved = self._run(self._theta * (1 + change * signs)) - self._raw
        terms = torch.maximum(moved.abs() / change, self._raw.abs()).amax(0)
        return MOVED_ULPS * torch.finfo(terms.dtype).eps * terms

    def _run(self, theta: Tensor) -> Tensor:
        with torch.no_grad():
            return self._network(theta, self._X)

    def _keeps_pieces(self, shifts: list[Tensor]) -> bool:
        """Whether signs are constant along the path; zeros at the start may change."""
        if not self.seams:
            return True
        along_path = [
            pieces(self._network, self._X, self._theta + shift).inputs
            for shift in shifts
        ]
        for signs, *inputs in zip(self._signs, *along_path, strict=True):
            last = inputs[-1].sign()
            if not all(bool((z.sign() == last).all()) for z in inputs):
                return False
            if not bool(((signs == last) | (signs == 0)).all()):
                return False
        return True


def _signs(z: Tensor) -> Tensor:
    """Signs of the inputs, or zero if they may be on a seam."""
    return z.sign() * (z.abs() > SEAM_TOLERANCE * z.abs().max())


def _total(paths: list[Path], time: float) -> Tensor:
    return torch.stack([path(time) for path in paths]).sum(0)
