"""Open skorch nets: read their module and training loss."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted
from torch import fx, nn
from torch.nn import functional as F

from sklearn_pgb._losses._classification import CrossEntropyLoss, LogisticLoss
from sklearn_pgb._losses._loss import Loss
from sklearn_pgb._losses._regression import SquaredLoss
from sklearn_pgb._models._module import open_module
from sklearn_pgb._models._opened import OpenNetwork
from sklearn_pgb._models._protected import packages_of


def is_skorch(estimator: Any) -> bool:
    """Whether this is a skorch net, without importing skorch."""
    return "skorch" in packages_of(estimator)


def read_skorch(net: Any) -> tuple[nn.Module, Loss]:
    """Return the module that computes raw outputs and the loss of a fitted net."""
    from skorch import (
        NeuralNetBinaryClassifier,
        NeuralNetClassifier,
        NeuralNetRegressor,
    )

    criterion = net.criterion_
    weighted = any(
        getattr(criterion, name, None) is not None for name in ("weight", "pos_weight")
    )
    if not weighted:
        # Types are compared exactly, because a subclass may compute anything.
        match net, type(criterion):
            case NeuralNetRegressor(), nn.MSELoss:
                return net.module_, SquaredLoss()
            case NeuralNetClassifier(), nn.NLLLoss:
                return without_softmax(net.module_), CrossEntropyLoss()
            case NeuralNetClassifier(), nn.CrossEntropyLoss:
                return net.module_, CrossEntropyLoss(criterion.label_smoothing)
            case NeuralNetBinaryClassifier(), nn.BCEWithLogitsLoss:
                return net.module_, LogisticLoss()
    raise ValueError(
        "a skorch net must be a NeuralNetRegressor with MSELoss, a NeuralNetClassifier "
        "with NLLLoss or CrossEntropyLoss, or a NeuralNetBinaryClassifier with "
        f"BCEWithLogitsLoss, all without class weights, got {type(net).__name__} with "
        f"{criterion}. Pass net.module_ and a loss instead."
    )


def open_skorch(net: Any) -> OpenNetwork:
    """Open a fitted skorch net."""
    check_is_fitted(net)
    module, loss = read_skorch(net)
    network = open_module(module)
    if isinstance(loss, SquaredLoss):
        return OpenNetwork(network, loss, "regressor", net)
    # The labels of skorch are the indices of its outputs.
    one_column = isinstance(loss, LogisticLoss)
    n_classes = 2 if one_column else network.n_outputs or len(net.classes_)
    return OpenNetwork(
        network,
        loss,
        "classifier",
        net,
        classes=np.arange(n_classes),
        one_column=one_column,
    )


def without_softmax(module: nn.Module) -> nn.Module:
    """Return the module without its final softmax.

    With NLLLoss, skorch takes the logarithm of the module's outputs, so the raw outputs
    are the inputs of the softmax.
    """
    if type(module) is nn.Sequential and len(module):
        *body, last = module
        if _is_softmax(last):
            return nn.Sequential(*body)
        return nn.Sequential(*body, without_softmax(last))
    try:
        traced = fx.symbolic_trace(copy.deepcopy(module).eval())
    except Exception as error:
        raise _no_softmax(module) from error
    output = traced.graph.output_node()
    node = output.args[0]
    if isinstance(node, fx.Node) and node.op == "call_module":
        ends_in_softmax = _is_softmax(traced.get_submodule(str(node.target)))
    else:
        functions = F.softmax, torch.softmax, "softmax"
        ends_in_softmax = isinstance(node, fx.Node) and node.target in functions
    if not ends_in_softmax:
        raise _no_softmax(module)
    output.args = (output.all_input_nodes[0].all_input_nodes[0],)
    traced.recompile()
    return traced


def _is_softmax(module: nn.Module) -> bool:
    return type(module) is nn.Softmax and module.dim in (None, 1, -1)


def _no_softmax(module: nn.Module) -> ValueError:
    return ValueError(
        "a module trained with NLLLoss under skorch must end in a softmax that "
        f"torch.fx can see, got {type(module).__name__}. Train it with "
        "CrossEntropyLoss and without softmax, or pass its raw-output part and a loss."
    )
