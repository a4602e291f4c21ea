"""`displacements`: other parameters with the same outputs on the samples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sklearn_pgb._geometry._freedom import (
    Freedom,
    Path,
    chain_families,
    null_space,
    scaling_freedom,
)
from sklearn_pgb._geometry._pieces import SEAM_TOLERANCE, pieces
from sklearn_pgb._models._chain import ChainNetwork
from sklearn_pgb._models._module import ModuleNetwork
from sklearn_pgb._models._network import Network
from sklearn_pgb._models._resnet import ResNetNetwork
from sklearn_pgb._operators import FunctionOperator

# The outputs must stay within this, relative to one plus the largest of them, at each
# of these times on the way.
OUTPUT_TOLERANCE, TIMES = 1e-12, (0.25, 0.5, 0.75, 1.0)

# A path that meets a kink is cut in half this often: less than a thousandth of the
# weights' own size is no use, for the columns there would hardly differ. Then another
# direction is tried, so often.
N_HALVINGS, N_DIRECTIONS = 10, 3

# A module's Jacobian is formed up to this many entries, and a block of its columns
# decomposed up to this many times its shorter side.
JACOBIAN_ENTRIES, BLOCK_WORK = 2e7, 1e10


@dataclass(frozen=True, eq=False)
class Displacement:
    """A shift of theta that leaves all outputs on the samples as they are.

    Attributes
    ----------
    shift : Tensor (n_params,)
    kind : str
        How it was found, in plain words.
    change : float
        Largest change of an output, which is rounding.
    """

    shift: Tensor
    kind: str
    change: float


def displacements(
    network: Network,
    X: Tensor,
    *,
    generator: torch.Generator,
    size: float = 1.0,
    limit: int = 16,
) -> list[Displacement]:
    """Elements of V[theta, eps]: shifts of theta that change no output on X.

    At a local minimum of the loss all parameters nearby with the same outputs are local
    minima too, so the gradient vanishes at them. It does so at the displaced parameters
    of this function as well, which are not near: they lie at the end of a path along
    which the outputs are the same, and on which no function in pieces, such as ReLU,
    changes its piece on any sample. There the gradient is an analytic function of the
    time, and vanishes altogether if it does so at the start.

    Constructions for a chain: units with zero outgoing weights, directions of linear
    units that later weights map to zero, shifts of weights orthogonal to all inputs of
    their layer (silent and duplicate units among them), all of these at once, and one
    rescaling of ReLU units. For a module: random shifts of one parameter, or of weight
    and bias of one layer, in the null space of its columns of the Jacobian. Each shift
    is tested before it is returned.

    Parameters
    ----------
    network : Network
    X : Tensor (n_samples, ...)
        As the network sees it.
    generator : torch.Generator
    size : float
        Size of the shifts relative to that of the weights; shorter where a kink is met.
    limit : int
        How many to return at most. They come in rounds, one of each family.

    Returns
    -------
    list of Displacement
        Empty where nothing is known.

    References
    ----------
    Kawaguchi, Huang, Kaelbling, "Every Local Minimum Value Is the Global Minimum Value
    of Induced Model in Nonconvex Machine Learning", Neural Computation 31(12), 2019,
    section 3.3.
    """
    walk = _Walk(network, X)
    if not walk.complete:
        return []
    families = _families(network, X, smooth=not walk.seams)
    found: list[Displacement] = []
    while families and len(found) < limit:
        for family in list(families):
            displacement = _draw(walk, family, generator, size)
            if displacement is None:
                families.remove(family)
            elif len(found) < limit:
                found.append(displacement)
    scaling = scaling_freedom(network) if isinstance(network, ChainNetwork) else None
    if scaling is not None and len(found) < limit:
        displacement = _draw(walk, [scaling], generator, size)
        found += [] if displacement is None else [displacement]
    return found


def _draw(
    walk: _Walk, family: list[Freedom], generator: torch.Generator, size: float
) -> Displacement | None:
    """A random member of a family, all of its freedoms added up, or None."""
    for _ in range(N_DIRECTIONS):
        paths = [freedom.draw(generator, size) for freedom in family]
        stop = walk.find_stop(paths)
        if stop is not None:
            shift = _total(paths, stop)
            kinds = dict.fromkeys(freedom.kind for freedom in family)
            return Displacement(shift, " and ".join(kinds), walk.change(shift))
    return None


def _families(network: Network, X: Tensor, smooth: bool) -> list[list[Freedom]]:
    """Freedoms that may be used together, the most general family first."""
    if isinstance(network, ChainNetwork):
        # Pre-activations that move in several layers at once are no linear functions
        # of the time: their signs at a few times would not tell those in between.
        return chain_families(network, X, together=smooth)
    if isinstance(network, ModuleNetwork | ResNetNetwork):
        return [[freedom] for freedom in _module_freedoms(network, X)]
    return []


class _Walk:
    """Tests paths through the parameters of one network on fixed samples."""

    def __init__(self, network: Network, X: Tensor) -> None:
        self._network, self._X, self._theta = network, X, network.theta
        self._raw = self._run(self._theta)
        start = pieces(network, X)
        self.complete = start.complete
        self.seams = bool(start.inputs)
        self._signs = [_signs(z) for z in start.inputs]

    def find_stop(self, paths: list[Path]) -> float | None:
        """The time up to which the outputs and all pieces stay, or None."""
        for stop in (0.5**i for i in range(N_HALVINGS + 1)):
            shifts = [_total(paths, stop * time) for time in TIMES]
            if self._keeps_pieces(shifts):
                kept = all(self._keeps_outputs(shift) for shift in shifts)
                return stop if kept else None
        return None

    def change(self, shift: Tensor) -> float:
        """Largest change of an output."""
        return float((self._run(self._theta + shift) - self._raw).abs().max())

    def _run(self, theta: Tensor) -> Tensor:
        with torch.no_grad():
            return self._network(theta, self._X)

    def _keeps_outputs(self, shift: Tensor) -> bool:
        bound = OUTPUT_TOLERANCE * (1 + float(self._raw.abs().max()))
        return self.change(shift) <= bound

    def _keeps_pieces(self, shifts: list[Tensor]) -> bool:
        """Whether signs are one on the way; a zero at the start may take either."""
        if not self.seams:
            return True
        on_the_way = [
            pieces(self._network, self._X, self._theta + shift).inputs
            for shift in shifts
        ]
        for signs, *inputs in zip(self._signs, *on_the_way, strict=True):
            last = inputs[-1].sign()
            if not all(bool((z.sign() == last).all()) for z in inputs):
                return False
            if not bool(((signs == last) | (signs == 0)).all()):
                return False
        return True


def _signs(z: Tensor) -> Tensor:
    """Signs of what is away from a seam; zero for the rest."""
    return z.sign() * (z.abs() > SEAM_TOLERANCE * z.abs().max())


def _total(paths: list[Path], time: float) -> Tensor:
    return torch.stack([path(time) for path in paths]).sum(0)


def _module_freedoms(
    network: ModuleNetwork | ResNetNetwork, X: Tensor
) -> Iterator[Freedom]:
    """Null spaces of the Jacobian's blocks: candidates, exact for linear layers."""
    theta = network.theta
    operator = FunctionOperator(network, theta, X, torch.arange(len(theta)))
    if operator.n_rows * operator.n_coef > JACOBIAN_ENTRIES:
        return
    J = operator.dense().flatten(0, 1)
    rounding = torch.finfo(J.dtype).eps * float(J.norm())
    for name, block in network.blocks().items():
        columns = J[:, block]
        idle = columns.norm(dim=0) <= rounding
        width = torch.eye(len(idle), dtype=J.dtype)
        if idle.any():
            yield _block_freedom(theta, name, block, width[:, idle])
        if columns.numel() * min(columns.shape) > BLOCK_WORK:
            continue
        kernel = null_space(columns[:, ~idle])
        if kernel.shape[1]:
            yield _block_freedom(theta, name, block, width[:, ~idle] @ kernel)


def _block_freedom(theta: Tensor, name: str, block: slice, basis: Tensor) -> Freedom:
    own = float(theta[block].square().mean().sqrt()) or 1.0
    scale = own * (len(basis) / basis.shape[1]) ** 0.5

    def draw(generator: torch.Generator, size: float) -> Path:
        coef = torch.randn(basis.shape[1], generator=generator, dtype=basis.dtype)
        shift = torch.zeros_like(theta)
        shift[block] = size * scale * basis @ coef
        return lambda time: time * shift

    return Freedom(f"null space of {name}", draw)
