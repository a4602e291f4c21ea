"""Elementwise activations; a new one is one more entry of `ACTIVATIONS`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sklearn_pgb._models._layers import Layer
from sklearn_pgb._operators._layers import LayerDerivative, Slope


@dataclass(frozen=True)
class Activation(Layer):
    """An elementwise function and its derivative.

    Attributes
    ----------
    name : str
        Its name; scikit-learn's name if it has one.
    layer : type
        Type of the torch module.
    formula : callable
        Maps the pre-activation z and the arguments to the output h.
    slope : callable
        Maps z, h and the arguments to ``dh / dz``, which is the left derivative at a
        kink.
    arguments : dict
        Arguments of `formula`, `slope` and the torch module, which also stores them as
        attributes.
    linear_below, linear_above : bool
        Whether it is ``z`` times a constant below and above zero.
    seam : bool
        Whether it has different formulas below and above zero.
    in_place : pair of callables or None
        For a derivative that is a function of h. The first applies the activation in
        place. The second maps delta and h to delta times the derivative and may
        overwrite both.
    product : callable or None
        Maps delta and z to delta times the derivative in place, faster than `slope`.
    """

    name: str
    layer: type[nn.Module]
    formula: Callable[..., Tensor]
    slope: Callable[..., Tensor]
    arguments: dict[str, Any] = field(default_factory=dict)
    linear_below: bool = False
    linear_above: bool = False
    seam: bool = False
    in_place: (
        tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]] | None
    ) = None
    product: Callable[[Tensor, Tensor], Tensor] | None = None

    def __call__(self, h: Tensor) -> Tensor:
        # A layer's inputs are called h; those of an activation are z above.
        return self.formula(h, **self.arguments)

    def n_outputs(self, n_inputs: int) -> int:
        return n_inputs

    def derivative(self, z: Tensor, h: Tensor) -> Tensor:
        """``dh / dz`` at pre-activations and their outputs."""
        return self.slope(z, h, **self.arguments)

    def times_derivative(self, delta: Tensor, z: Tensor, h: Tensor) -> Tensor:
        """``delta * dh / dz``, in place."""
        if self.product is not None:
            return self.product(delta, z)
        return delta.mul_(self.derivative(z, h))

    def jacobian(self, h: Tensor, out: Tensor, bias: bool) -> LayerDerivative:
        return Slope(self.derivative(h, out).flatten(1))

    @property
    def kink(self) -> bool:
        """Whether the derivative jumps at zero."""
        # Next to zero, so that smooth slopes are equal to the last digit.
        sides = torch.tensor([-1e-300, 1e-300], dtype=torch.float64)
        below, above = self.derivative(sides, self(sides))
        return bool(below != above)

    def with_arguments(self, **arguments: Any) -> Activation:
        """The activation with other arguments."""
        return replace(self, arguments=arguments)

    def module(self) -> nn.Module:
        """A new torch module."""
        return self.layer(**self.arguments)

    def __reduce__(self) -> Any:
        # By name, because lambdas can't be pickled.
        return _find, (self.name, self.arguments)


def _find(name: str, arguments: dict[str, Any]) -> Activation:
    return ACTIVATIONS[name].with_arguments(**arguments)


# Products with derivatives in place, which have no public names. The first sets entries
# to zero where h is not positive.
_MASK = torch.ops.aten.threshold_backward.grad_input
_SILU_PRODUCT = torch.ops.aten.silu_backward.grad_input


def _silu_slope(z: Tensor, h: Tensor) -> Tensor:
    sigmoid = z.sigmoid()
    return sigmoid + h * (1 - sigmoid)


def _gelu_tanh_slope(z: Tensor, h: Tensor, approximate: str) -> Tensor:
    # h = z (1 + tanh(c (z + a z^3))) / 2 with the constants of the GELU paper.
    a, c = 0.044715, math.sqrt(2 / math.pi)
    tanh = (c * (z + a * z**3)).tanh()
    return (1 + tanh + z * (1 - tanh.square()) * c * (1 + 3 * a * z.square())) / 2


ACTIVATIONS = {
    activation.name: activation
    for activation in [
        Activation(
            "identity",
            nn.Identity,
            lambda z: z,
            lambda z, h: torch.ones_like(z),
            linear_below=True,
            linear_above=True,
            in_place=(lambda z: z, lambda delta, h: delta),
        ),
        Activation(
            "logistic",
            nn.Sigmoid,
            torch.sigmoid,
            # Not h (1 - h), which loses all digits when h is close to one.
            lambda z, h: h * (-z).sigmoid(),
            in_place=(
                torch.sigmoid_,
                lambda delta, h: delta.mul_(h).addcmul_(delta, h, value=-1.0),
            ),
        ),
        Activation(
            "tanh",
            nn.Tanh,
            torch.tanh,
            # Not 1 - h^2, which loses half of its digits at z = 10 and all at z = 20.
            lambda z, h: 4 * (2 * z).sigmoid() * (-2 * z).sigmoid(),
            in_place=(
                torch.tanh_,
                lambda delta, h: delta.addcmul_(delta, h.square_(), value=-1.0),
            ),
        ),
        Activation(
            "relu",
            nn.ReLU,
            torch.relu,
            lambda z, h: (z > 0).to(z.dtype),
            linear_below=True,
            linear_above=True,
            seam=True,
            in_place=(
                torch.relu_,
                lambda delta, h: _MASK(delta, h, 0, grad_input=delta),
            ),
        ),
        Activation(
            "silu",
            nn.SiLU,
            F.silu,
            _silu_slope,
            product=lambda delta, z: _SILU_PRODUCT(delta, z, grad_input=delta),
        ),
        Activation(
            "gelu",
            nn.GELU,
            F.gelu,
            lambda z, h, approximate: (
                torch.special.ndtr(z)
                + z * ((-z.square() / 2).exp() / math.sqrt(2 * math.pi))
            ),
            {"approximate": "none"},
        ),
        Activation(
            "gelu_tanh", nn.GELU, F.gelu, _gelu_tanh_slope, {"approximate": "tanh"}
        ),
        Activation(
            "elu",
            nn.ELU,
            F.elu,
            # alpha e^z, from the output h = alpha (e^z - 1).
            lambda z, h, alpha: torch.where(z > 0, 1.0, h + alpha),
            {"alpha": 1.0},
            linear_above=True,
            seam=True,
        ),
        Activation(
            "softplus",
            nn.Softplus,
            F.softplus,
            lambda z, h, beta, threshold: torch.where(
                beta * z > threshold, 1.0, (beta * z).sigmoid()
            ),
            {"beta": 1.0, "threshold": 20.0},
        ),
        Activation(
            "leaky_relu",
            nn.LeakyReLU,
            F.leaky_relu,
            lambda z, h, negative_slope: torch.where(
                z > 0, torch.ones_like(z), negative_slope
            ),
            {"negative_slope": 0.01},
            linear_below=True,
            linear_above=True,
            seam=True,
        ),
    ]
}


def read_activation(module: nn.Module) -> Activation | None:
    """The activation of a torch module; None if it is not one.

    Types are compared exactly, because a subclass may compute anything.
    """
    candidates = [
        each.with_arguments(**{name: getattr(module, name) for name in each.arguments})
        for each in ACTIVATIONS.values()
        if each.layer is type(module)
    ]
    # GELU has two entries, so those with the same arguments come first.
    exact = [each for each in candidates if each in ACTIVATIONS.values()]
    return next(iter(exact + candidates), None)
