"""Find seams of piecewise functions in a network, and kinks among them.

A seam is an input at which a function changes its formula. It is a kink if the function
is not differentiable there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sklearn_pgb._models._chain import ChainNetwork
from sklearn_pgb._models._network import Network

# Functions with different formulas below and above zero, and whether zero is a kink.
# ELU is differentiable at zero for alpha = 1 only, and never analytic. CELU is
# differentiable for each alpha.
_AT_ZERO: dict[str, Callable[..., bool]] = {
    "aten::relu": lambda x: True,
    "aten::abs": lambda x: True,
    "aten::_prelu_kernel": lambda x, weight: True,
    "aten::leaky_relu": lambda x, slope=0.01: slope != 1,
    "aten::elu": lambda x, alpha=1.0, scale=1.0, input_scale=1.0: (
        alpha * input_scale != 1
    ),
    "aten::celu": lambda x, alpha=1.0: False,
}

# Functions without seams: analytic ones, and ones that are linear in each argument. All
# others count as functions with seams elsewhere. Roots and logarithms are analytic
# inside of their domain; on its edge their derivatives are infinite, which is refused.
_SMOOTH = frozenset(
    (
        # Sums and products.
        "add sub rsub neg mul div sum mean cumsum prod cumprod diff lerp "
        "addcmul addcdiv mm bmm addmm addbmm baddbmm mv addmv dot vdot addr outer "
        "matmul linear einsum bilinear _trilinear trace kron cross convolution "
        "_convolution mkldnn_convolution conv1d conv2d conv3d convolution_overrideable "
        "mkldnn_linear mkldnn_rnn_layer _addmm_activation "
        # Functions of single numbers.
        "square sqrt rsqrt pow reciprocal exp exp2 expm1 log log2 log10 log1p sigmoid "
        "tanh sin cos tan asin acos atan sinh cosh asinh acosh atanh sinc erf erfc "
        "erfinv lgamma digamma special_erfcx special_ndtri special_log_ndtr "
        "softplus log_sigmoid log_sigmoid_forward silu mish gelu glu logaddexp "
        "logaddexp2 "
        # Functions of rows.
        "_softmax softmax _safe_softmax _log_softmax log_softmax logsumexp "
        "logcumsumexp var var_mean native_layer_norm native_group_norm "
        "native_batch_norm _native_batch_norm_legit "
        "_native_batch_norm_legit_no_training cudnn_batch_norm batch_norm "
        "layer_norm group_norm "
        "_scaled_dot_product_flash_attention_for_cpu "
        "_scaled_dot_product_attention_math _native_multi_head_attention "
        "_thnn_fused_lstm_cell _thnn_fused_gru_cell lstm gru rnn_tanh lstm_cell "
        "gru_cell rnn_tanh_cell "
        # Averages of neighbors.
        "avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d "
        "_adaptive_avg_pool2d adaptive_avg_pool3d _adaptive_avg_pool3d "
        "upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_linear1d "
        "upsample_bilinear2d upsample_trilinear3d upsample_bicubic2d "
        "_upsample_nearest_exact1d _upsample_nearest_exact2d "
        "_upsample_nearest_exact3d "
        # Selections and shapes.
        "view _unsafe_view _reshape_alias reshape permute transpose t expand unsqueeze "
        "squeeze slice select split split_with_sizes unsafe_split chunk unbind narrow "
        "cat stack clone detach alias contiguous copy lift lift_fresh _to_copy to "
        "flatten unflatten unfold as_strided roll flip repeat movedim swapaxes "
        "index index_select gather take masked_select embedding scatter scatter_add "
        "index_add index_put _index_put_impl slice_scatter select_scatter masked_fill "
        "where constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d "
        "replication_pad1d replication_pad2d replication_pad3d pixel_shuffle "
        "pixel_unshuffle channel_shuffle im2col col2im diagonal diag diag_embed tril "
        "triu positive zero fill real imag complex view_as_real view_as_complex "
        "_conj _fft_r2c _fft_c2r _fft_c2c "
        # Sizes and constants.
        "empty_like zeros_like ones_like full_like new_empty new_zeros new_ones "
        "new_full new_empty_strided sym_size is_same_size"
    ).split()
)


# These have several values at complex numbers, and jump from one to another.
_BRANCHED = frozenset(
    "sqrt rsqrt pow log log2 log10 log1p asin acos atan asinh acosh atanh".split()
)


def _softplus_jumps(threshold: float) -> bool:
    """Whether a softplus jumps visibly, by exp(-threshold), to a line."""
    return threshold < 20


def _is_smooth(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether a function of tensors that depend on parameters has no seam."""
    name = str(func._schema.name)
    if name in ("aten::_embedding_bag", "aten::_embedding_bag_forward_only"):
        names = [argument.name for argument in func._schema.arguments]
        mode = {**dict(zip(names, args, strict=False)), **kwargs}.get("mode", 0)
        # Sums and means, but not maxima.
        return mode in (0, 1)
    name = name.removeprefix("aten::").removesuffix("_")
    # Division with a rounding mode has steps, and functions of complex numbers have
    # branches.
    jumps = kwargs.get("rounding_mode") is not None
    jumps |= name in _BRANCHED and any(each.is_complex() for each in _tensors(args))
    if name == "softplus":
        threshold = args[2] if len(args) > 2 else kwargs.get("threshold", 20)
        jumps |= _softplus_jumps(threshold)
    if name == "pow" and isinstance(args[1], Tensor):
        # Powers of zero jump.
        jumps |= not bool((torch.as_tensor(args[0]) > 0).all())
    return name in _SMOOTH and not jumps


@dataclass(frozen=True, eq=False)
class Pieces:
    """The inputs of a network's piecewise functions with a seam at zero, in order.

    Attributes
    ----------
    inputs : list of Tensor
    kinked : list of bool
        Whether each of these functions has a kink at zero.
    complete : bool
        Whether the network has no other seams, such as those of a maximum.
    """

    inputs: list[Tensor] = field(default_factory=list)
    kinked: list[bool] = field(default_factory=list)
    complete: bool = True


def pieces(network: Network, X: Tensor, theta: Tensor | None = None) -> Pieces:
    """Run a network and record the inputs of its piecewise functions."""
    if isinstance(network, ChainNetwork):
        chain = network if theta is None else network.at(theta)
        pairs = zip(chain.forward(X)[0], chain.activations, strict=True)
        seams = [(z, activation.kink) for z, activation in pairs if activation.seam]
        jumps = any(
            _softplus_jumps(each.arguments.get("threshold", 20))
            for each in chain.activations
        )
        return Pieces([z for z, _ in seams], [kink for _, kink in seams], not jumps)
    # A copy, as networks may use parts of theta without a copy.
    theta = (network.theta if theta is None else theta).clone()
    recorder = _Recorder(theta)
    with torch.no_grad(), recorder, _Reads(recorder):
        network(theta, X)
    return Pieces(recorder.inputs, recorder.kinked, recorder.complete)


class _Recorder(TorchDispatchMode):
    """Record the inputs of piecewise functions of the parameters.

    All operations pass through a dispatch mode. Hooks on layers would miss functions
    called in ``forward``. Functions of the inputs alone, such as masks, are constant.
    """

    def __init__(self, theta: Tensor) -> None:
        super().__init__()
        self.inputs: list[Tensor] = []
        self.kinked: list[bool] = []
        self.complete = True
        # Memory that depends on the parameters. Views share it with their tensors.
        self.moving = {_memory(theta)}

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        given = _tensors((args, kwargs))
        moving = [each for each in given if _memory(each) in self.moving]
        # Names of in-place functions end in an underscore.
        name = str(func._schema.name).removesuffix("_")
        if moving and name in _AT_ZERO:
            self.inputs.append(args[0].clone())
            self.kinked.append(_AT_ZERO[name](*args, **kwargs))
        elif moving and not _is_smooth(func, args, kwargs):
            self.complete = False
        result = func(*args, **kwargs)
        outputs, known = _tensors(result), {_memory(each) for each in given}
        if moving:
            # Conversions to integers have steps.
            numbers = [
                each.is_floating_point() or each.is_complex() for each in outputs
            ]
            self.complete &= numbers[:1] != [False]
            self.moving |= {_memory(each) for each in outputs}
        else:
            # Freed memory is used again.
            self.moving -= {_memory(each) for each in outputs} - known
        return result


class _Reads(TorchFunctionMode):
    """Notice values of parameters that are read out of tensors.

    Computations with these values are not recorded.
    """

    def __init__(self, recorder: _Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        name = getattr(func, "__name__", "")
        if name in ("tolist", "numpy", "__array__", "__dlpack__"):
            moving = self.recorder.moving
            self.recorder.complete &= not any(
                _memory(each) in moving for each in _tensors(args)
            )
        return func(*args, **(kwargs or {}))


def _memory(tensor: Tensor) -> int:
    """Address of a tensor's memory."""
    return tensor.untyped_storage().data_ptr()


def _tensors(value: Any) -> list[Tensor]:
    """Tensors in nested arguments or results."""
    return [each for each in tree_leaves(value) if isinstance(each, Tensor)]
