"""Linear units of a trained network, and layers with guarantees from them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sklearn_pgb._geometry._freedom import linear_units
from sklearn_pgb._models._chain import ChainNetwork
from sklearn_pgb._operators._dense import KroneckerOperator


@dataclass(frozen=True, eq=False)
class LinearStructure:
    """Sets of linear units that are connected linearly to the outputs.

    Layers are numbered from 0, the inputs, to H + 1, the outputs.

    Attributes
    ----------
    units : dict of int to ndarray
        For each layer from 1 to H + 1, the largest set of units that are linear on all
        samples and, up to layer H - 1, only feed units of the next layer's set.
    first_layer : int
        The smallest t such that all layers above t have at least `n` such units.
    n : int
    """

    units: dict[int, NDArray[np.intp]]
    first_layer: int
    n: int

    @property
    def layers(self) -> range:
        """Layers t to H; no model on their joint outputs beats a local minimum."""
        return range(self.first_layer, max(self.units))


def linear_structure(network: ChainNetwork, X: Tensor, n: int) -> LinearStructure:
    """Find the locally induced partial linear structure of a trained network.

    If the structure of a differentiable local minimum begins at layer t, with ``n`` the
    number of outputs, then no linear model on the joint features of layers t to H has
    a smaller loss (layer 0 is the inputs). Units need not be designed as linear: a ReLU
    unit that is active on all samples is linear.

    Parameters
    ----------
    network : ChainNetwork
    X : Tensor (n_samples, n_inputs)
        Inputs of the network.
    n : int
        Smallest number of units per layer; the theorem needs the number of outputs.

    Returns
    -------
    LinearStructure

    References
    ----------
    Kawaguchi, Huang, Kaelbling, "Every Local Minimum Value Is the Global Minimum Value
    of Induced Model in Nonconvex Machine Learning", Neural Computation 31(12), 2019,
    Theorem 4.
    """
    linear = [mask for mask, _ in linear_units(network, X)]
    depth = len(linear)
    chosen = torch.ones(network.n_outputs, dtype=torch.bool)
    units = {depth + 1: _indices(chosen)}
    for layer in range(depth, 0, -1):
        mask = linear[layer - 1]
        if layer < depth:
            # Going down from the top gives the largest sets: a unit that feeds a unit
            # outside the largest set above feeds one outside any smaller set.
            outside = network.weights[layer][~chosen]
            mask = mask & (outside == 0).all(0)
        chosen = mask
        units[layer] = _indices(chosen)
    first = depth
    while first > 0 and len(units[first]) >= n:
        first -= 1
    return LinearStructure(units, first, n)


def _indices(mask: Tensor) -> NDArray[np.intp]:
    return np.flatnonzero(mask.numpy())


def layers_operator(
    network: ChainNetwork, X: Tensor, layers: Sequence[int]
) -> KroneckerOperator:
    """Concatenated outputs of several layers, with coefficients for every output.

    Parameters
    ----------
    network : ChainNetwork
    X : Tensor (n_samples, n_inputs)
        Inputs of the network.
    layers : sequence of int
        Layer numbers: 0 are the inputs, 1 is the first hidden layer.

    Returns
    -------
    KroneckerOperator
    """
    outputs = network.layers(X)
    features = torch.cat([outputs[layer] for layer in layers], 1)
    return KroneckerOperator(features, network.n_outputs)
