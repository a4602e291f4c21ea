"""How far a network is from its kinks."""

import math
from dataclasses import dataclass

from torch import Tensor

from sklearn_pgb._geometry._pieces import pieces
from sklearn_pgb._models._network import Network

# A kink closer than this, relative to its layer's inputs, may be at the parameters.
KINK_TOLERANCE = 1e-8


@dataclass(frozen=True)
class KinkMargin:
    """The distance of a network's units from their kinks, on all samples.

    Attributes
    ----------
    value : float
        Smallest absolute input of a kinked function, such as a ReLU unit, in the layer
        where it is smallest relative to that layer. Infinite where no unit has a kink;
        nan where kinks may lie elsewhere than at zero, as those of a maximum do.
    scale : float
        Largest absolute input in that layer; one where there is no kink.
    """

    value: float
    scale: float

    @property
    def relative(self) -> float:
        """The margin in units of the layer's scale."""
        return self.value / self.scale if self.scale > 0 else self.value

    @property
    def on_kink(self) -> bool:
        """Whether a kink may be at the parameters; it may where nothing is known."""
        return not self.relative > KINK_TOLERANCE


def kink_margin(network: Network, X: Tensor) -> KinkMargin:
    """Smallest distance of a kinked unit's input from zero, over all samples.

    What a theorem says of points where the network is differentiable can be used where
    this is above rounding only; gradients by automatic differentiation show no kink.

    Parameters
    ----------
    network : Network
    X : Tensor (n_samples, ...)
        As the network sees it.

    Returns
    -------
    KinkMargin
    """
    found = pieces(network, X)
    if not found.complete:
        return KinkMargin(math.nan, 1.0)
    margins = [
        KinkMargin(float(z.abs().min()), float(z.abs().max()))
        for z, kinked in zip(found.inputs, found.kinked, strict=True)
        if kinked
    ]
    none = KinkMargin(math.inf, 1.0)
    return min(margins, key=lambda margin: margin.relative, default=none)
