"""The distance of a network from its kinks."""

import math
from dataclasses import dataclass

from torch import Tensor

from sklearn_pgb._budget import KINK_TOLERANCE, SEAM_TOLERANCE
from sklearn_pgb._geometry._pieces import pieces
from sklearn_pgb._models._network import Network


@dataclass(frozen=True)
class KinkMargin:
    """The distance of a network's units from their kinks, on all samples.

    `value` is the smallest absolute input of a kinked function, such as ReLU, in the
    layer with the smallest relative margin, and `scale` the largest absolute input
    there. Without kinks they are infinity and one. The value is NaN if kinks may not be
    at zero, such as those of a maximum.
    """

    value: float
    scale: float

    @property
    def relative(self) -> float:
        """The margin divided by the layer's scale."""
        return self.value / self.scale if self.scale > 0 else self.value

    @property
    def on_kink(self) -> bool:
        """Whether a kink may be at the parameters; True if the margin is unknown."""
        return not self.relative > KINK_TOLERANCE


def kink_margin(network: Network, X: Tensor) -> KinkMargin:
    """Smallest distance of a kinked unit's input from zero, over all samples.

    Theorems about points where the network is differentiable only apply if this margin
    is above rounding. Automatic differentiation does not detect kinks.
    """
    seams = pieces(network, X)
    # A maximum has its kinks where its inputs are equal, which is not recorded.
    if not seams.complete:
        return KinkMargin(math.nan, 1.0)
    margins = [
        KinkMargin(float(z.abs().min()), float(z.abs().max()))
        for z, kinked in zip(seams.inputs, seams.kinked, strict=True)
        if kinked
    ]
    # Layers are compared by relative margins, as their scales differ.
    none = KinkMargin(math.inf, 1.0)
    return min(margins, key=lambda margin: margin.relative, default=none)


def on_seam(network: Network, X: Tensor) -> bool:
    """Whether a unit may be on a seam, where its second derivative can jump.

    True if seams may not be at zero.
    """
    seams = pieces(network, X)
    return not seams.complete or any(
        bool((z.abs() <= SEAM_TOLERANCE * z.abs().max()).any()) for z in seams.inputs
    )
