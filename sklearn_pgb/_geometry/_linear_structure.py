"""Linear units of a trained network, and layers with guarantees from them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from sklearn_pgb._geometry._linear_units import linear_units
from sklearn_pgb._models._chain import ChainNetwork
from sklearn_pgb._operators._dense import KroneckerOperator


def linear_layers(network: ChainNetwork, X: Tensor, n_units: int) -> range:
    """Find the layers of the locally induced partial linear structure of a network.

    They are the last hidden layers with at least `n_units` suitable units each, and the
    layer below these; layer 0 are the inputs. A unit is suitable if it is linear on all
    samples and, except in the last hidden layer, only feeds suitable units of the next
    layer. Units need not be designed as linear: a ReLU unit that is active on all
    samples is linear. If `n_units` is the number of outputs, then at a differentiable
    local minimum no linear model on the joint features of these layers has a smaller
    loss.

    References
    ----------
    Kawaguchi, Huang, Kaelbling, "Every Local Minimum Value Is the Global Minimum Value
    of Induced Model in Nonconvex Machine Learning", Neural Computation 31(12), 2019,
    Theorem 4.
    """
    linear = [mask for mask, _ in linear_units(network, X)]
    first = depth = len(linear)
    chosen = torch.ones(network.n_outputs, dtype=torch.bool)
    while first > 0:
        mask = linear[first - 1]
        if first < depth:
            # Keep the units that only feed units kept above. From the top down, this
            # gives the largest possible sets.
            outside = network.weights[first][~chosen]
            mask = mask & (outside == 0).all(0)
        chosen = mask
        if int(chosen.sum()) < n_units:
            break
        first -= 1
    return range(first, depth + 1)


def layers_operator(
    network: ChainNetwork, X: Tensor, layers: Sequence[int]
) -> KroneckerOperator:
    """Concatenated outputs of several layers, with coefficients for every output.

    Layer 0 are the inputs, layer 1 is the first hidden layer.
    """
    outputs = network.layers(X)
    features = torch.cat([outputs[layer] for layer in layers], 1)
    return KroneckerOperator(features, network.n_outputs)
