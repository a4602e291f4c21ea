"""Read torch modules as chains of layers."""

from typing import overload

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from sklearn_pgb._models._activations import ACTIVATIONS, Activation, read_activation
from sklearn_pgb._models._chain import ChainNetwork
from sklearn_pgb._models._layers import Layer, LayerNorm, Linear
from sklearn_pgb._models._structure import has_hooks, leaf_modules


def read_chain(module: nn.Module) -> ChainNetwork | None:
    """Read nested Sequentials of linear layers, activations and layer norms.

    Returns None for other modules, and if an activation comes last.
    """
    chain: list[Layer] = []
    for part in leaf_modules(module):
        if type(part) is nn.Flatten and (part.start_dim, part.end_dim) == (1, -1):
            continue
        layer: Layer | None = read_activation(part)
        if type(part) is nn.Linear and not is_lazy(part.weight):
            layer = Linear(_detached(part.weight), _detached(part.bias))
        elif type(part) is nn.LayerNorm and len(part.normalized_shape) == 1:
            own = _detached(part.weight), _detached(part.bias)
            layer = LayerNorm(part.normalized_shape[0], part.eps, *own)
        if layer is None:
            return None
        if chain and isinstance(chain[-1], Linear) and isinstance(layer, Linear):
            chain.append(ACTIVATIONS["identity"])
        chain.append(layer)
    linear = [layer for layer in chain if isinstance(layer, Linear)]
    if not linear or isinstance(chain[-1], Activation):
        return None
    width: int | None = linear[0].weight.shape[1]
    for layer in chain:
        width = None if width is None else layer.n_outputs(width)
    names = [name for name, _ in module.named_parameters()]
    network = ChainNetwork(chain, names)
    # A chain can't represent hooks, nor parameters that are frozen, shared or unused.
    n_trainable = sum(p.numel() for p in module.parameters() if p.requires_grad)
    if width is None or has_hooks(module) or n_trainable != network.n_params:
        return None
    return network


@overload
def _detached(parameter: Tensor) -> Tensor: ...
@overload
def _detached(parameter: None) -> None: ...
def _detached(parameter: Tensor | None) -> Tensor | None:
    """A copy that does not change if the module is trained further."""
    if parameter is None:
        return None
    return parameter.detach().to("cpu", torch.float64, copy=True)
