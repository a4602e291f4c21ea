"""A torch module as a pure function of named parameters."""

from __future__ import annotations

import copy
import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.parameter import is_lazy
from torch.overrides import BaseTorchFunctionMode

from sklearn_pgb._models._structure import first_embedding

# Layers with a fused forward pass that has no derivatives.
_FUSED = (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerEncoder)

_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)

# Modules with parameters that cannot be replaced for a call.
_WRAPPERS = (
    torch.jit.ScriptModule,
    nn.DataParallel,
    nn.parallel.DistributedDataParallel,
)

# Attribute of a compiled module that holds the original module.
_COMPILED = "_orig_mod"


class _ExactAttention:
    """Restrict attention to the implementation that has second derivatives.

    Torch's setting is global to the process, and calls in several threads may overlap.
    The first call records the setting; the last one to end restores it.
    """

    def __init__(self) -> None:
        self.lock, self.calls = threading.Lock(), 0
        self.switch: AbstractContextManager[None] = nullcontext()

    def reset(self) -> None:
        """Reset the count in a forked process, which has no other threads."""
        is_active, self.lock, self.calls = self.calls > 0, threading.Lock(), 0
        if is_active:
            self.switch.__exit__(None, None, None)

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self.lock:
            if self.calls == 0:
                self.switch = sdpa_kernel(SDPBackend.MATH)
                self.switch.__enter__()
            self.calls += 1
        try:
            yield
        finally:
            with self.lock:
                self.calls -= 1
                if self.calls == 0:
                    self.switch.__exit__(None, None, None)


_EXACT_ATTENTION = _ExactAttention()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_EXACT_ATTENTION.reset)


def private_copy(module: nn.Module) -> nn.Module:
    """A deep copy in float64 on the CPU, in evaluation mode."""
    check_parameters(module)
    copied = copy_module(module).to("cpu", torch.float64).eval()
    for parameter in copied.parameters():
        # Parameters may be views of the same memory; separate them.
        parameter.data = parameter.data.clone()
    return copied


def copy_module(module: nn.Module) -> nn.Module:
    """A deep copy whose gradients are the derivatives of its outputs.

    It has no compiled code, which has no second derivatives, no hooks on gradients, and
    no embeddings that divide gradients by counts of tokens or make them sparse. Raises
    a ValueError if the module cannot be copied.
    """
    try:
        copied = copy.deepcopy(module)
    except (RuntimeError, TypeError, NotImplementedError) as failure:
        raise ValueError(
            f"module must be one that copy.deepcopy can copy, got "
            f"{type(module).__name__}, which fails with: {failure}. Keep locks, files "
            "and computed tensors out of its attributes."
        ) from failure
    copied = copied._modules.get(_COMPILED) or copied
    for part in copied.modules():
        part._compiled_call_impl = None
        for name, child in part._modules.items():
            if child is not None:
                part._modules[name] = child._modules.get(_COMPILED) or child
        part._backward_hooks.clear()
        part._backward_pre_hooks.clear()
        if isinstance(part, _EMBEDDINGS):
            part.scale_grad_by_freq = part.sparse = False
    return copied


def check_parameters(module: nn.Module) -> None:
    """Raise a ValueError if a module has no usable trainable parameters."""
    parameters, name = list(module.parameters()), type(module).__name__
    if any(isinstance(part, _WRAPPERS) for part in module.modules()):
        raise ValueError(
            f"module must be a plain torch.nn.Module, got {name} with scripted or "
            "data-parallel parts. Pass the original module."
        )
    for part in module.modules():
        # Compiled modules make a `forward` for each copy.
        if "forward" in vars(part) and _COMPILED not in part._modules:
            raise ValueError(
                f"module must define forward in a class, got a {type(part).__name__} "
                "whose forward was set on the instance: it would use the parameters of "
                "the module, not those of a copy. Subclass it."
            )
        if isinstance(part, _EMBEDDINGS) and part.max_norm is not None:
            raise ValueError(
                f"module must have embeddings without max_norm, got an "
                f"{type(part).__name__} in {name} with max_norm={part.max_norm:g}, "
                "which changes its parameters in forward. Call weight.data.renorm_ "
                "after the training, and set max_norm=None."
            )
    if any(is_lazy(parameter) for parameter in parameters):
        raise ValueError(
            f"module must have initialized parameters, got lazy ones in {name}. "
            "Run it once on a few samples."
        )
    named = [*module.named_parameters(), *module.named_buffers()]
    for kind, wrong, advice in [
        (
            "parameters and buffers that hold numbers",
            [key for key, tensor in named if tensor.is_meta],
            "They are on the meta device: call module.to_empty and load its state.",
        ),
        (
            "real parameters and buffers",
            [key for key, tensor in named if tensor.is_complex()],
            "They are complex: keep real and imaginary parts as two real tensors.",
        ),
    ]:
        if wrong:
            raise ValueError(
                f"module must have {kind}, got {name} with {', '.join(wrong[:3])}. "
                f"{advice}"
            )
    if not parameters:
        raise ValueError(
            f"module must have parameters, got {name} without any. Pass the network "
            "that was trained."
        )
    if not any(parameter.requires_grad for parameter in parameters):
        raise ValueError(
            f"module must have trainable parameters, got {name} with all of them "
            "frozen. Call module.requires_grad_(True), or unfreeze the head."
        )


class ModuleCall:
    """Call modules of one architecture with given parameters.

    A parameter used by several layers has a name in each of them. `names` maps the
    first name of each trainable parameter to all of its names. A layer that occurs
    several times in the module counts once. Theta holds the parameters of these names,
    one after the other.
    """

    def __init__(self, module: nn.Module):
        names_of: dict[int, list[str]] = {}
        for prefix, part in module.named_modules():
            for name, parameter in part._parameters.items():
                if parameter is not None and parameter.requires_grad:
                    full = f"{prefix}.{name}" if prefix else name
                    names_of.setdefault(id(parameter), []).append(full)
        self.names = {each[0]: each for each in names_of.values()}
        self.shapes = {name: module.get_parameter(name).shape for name in self.names}
        parts = list(module.modules())
        self._fused = any(isinstance(part, _FUSED) for part in parts)
        # Attention is ruled out only if all layers are torch's own and none is fused;
        # other layers may call torch's attention function.
        all_torch = all(type(part).__module__.startswith("torch.nn.") for part in parts)
        self._may_attend = self._fused or not all_torch
        self._takes_tokens = first_embedding(module) is not None
        # Rows of embeddings for padding, which training leaves as they are.
        self._padding = {
            names_of[id(part.weight)][0]: part.padding_idx
            for part in parts
            if isinstance(part, nn.Embedding)
            and part.padding_idx is not None
            and id(part.weight) in names_of
        }

    @property
    def n_params(self) -> int:
        """Length of theta."""
        return sum(shape.numel() for shape in self.shapes.values())

    def gather(self, module: nn.Module) -> Tensor:
        """Copy the parameters of a module into theta."""
        parameters = map(module.get_parameter, self.shapes)
        return torch.cat([parameter.detach().reshape(-1) for parameter in parameters])

    def split(self, theta: Tensor) -> dict[str, Tensor]:
        """View theta as named parameters."""
        parts = theta.split([shape.numel() for shape in self.shapes.values()])
        return {
            name: part.reshape(shape)
            for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }

    def __call__(
        self, module: nn.Module, parameters: dict[str, Tensor], X: Tensor
    ) -> Any:
        """The module's result with the given parameters, by the first name of each.

        The samples are copied, because in-place layers would change them.
        """
        for name, row in self._padding.items():
            value = parameters[name]
            index = torch.arange(len(value), device=value.device)[:, None]
            fixed = torch.where(
                index == row, module.get_parameter(name).detach(), value
            )
            parameters = parameters | {name: fixed}
        values = {n: parameters[key] for key, each in self.names.items() for n in each}
        with (
            _EXACT_ATTENTION() if self._may_attend else nullcontext(),
            # Any active torch function mode disables the fused forward pass.
            BaseTorchFunctionMode() if self._fused else nullcontext(),
        ):
            inputs = X.long() if self._takes_tokens else X.clone()
            # `tie_weights=True` would find the other names of a parameter, but it
            # counts a layer that occurs twice as two layers and leaves the given values
            # in it.
            return torch.func.functional_call(
                module, values, (inputs,), tie_weights=False
            )
