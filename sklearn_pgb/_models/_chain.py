"""Chains of linear layers and elementwise activations."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn import functional as F

from sklearn_pgb._budget import FAR
from sklearn_pgb._models._activations import Activation
from sklearn_pgb._models._network import Head, Network, as_float64
from sklearn_pgb._operators._chain import ChainOperator
from sklearn_pgb._operators._operator import LinearOperator


class ChainNetwork(Network):
    """Linear layers with elementwise activations in between.

    The hidden layers are ``h_l = a_l(W_l h_(l-1) + b_l)`` with ``h_0 = x``, and the
    head is ``f = W h + b``. Theta holds W row by row and then b, layer by layer. With g
    equal to theta at the head and zero elsewhere, ``f = J g``.

    Parameters
    ----------
    weights : sequence of shape (n_layers,)
        W of each layer, arrays or tensors of shape (n_out, n_in). They are not copied
        if they are float64.
    biases : sequence of shape (n_layers,)
        b of each layer, of shape (n_out,), or None for a layer without biases.
    activations : sequence of Activation
        One per hidden layer.
    """

    def __init__(
        self,
        weights: Sequence[Tensor | ArrayLike],
        biases: Sequence[Tensor | ArrayLike | None],
        activations: Sequence[Activation],
    ) -> None:
        self.weights = [as_float64(weight) for weight in weights]
        self.biases = [None if bias is None else as_float64(bias) for bias in biases]
        self.activations = list(activations)
        self._check_shapes()

    def _check_shapes(self) -> None:
        n_layers = len(self.weights)
        if len(self.biases) != n_layers or len(self.activations) != n_layers - 1:
            raise ValueError(
                "a chain must have one bias (or None) per weight and one activation "
                f"per hidden layer, got {n_layers} weights, {len(self.biases)} biases "
                f"and {len(self.activations)} activations. Count the layers."
            )
        n_in = self.n_inputs
        for weight, bias in zip(self.weights, self.biases, strict=True):
            n_out = len(weight)
            bias_fits = bias is None or bias.shape == (n_out,)
            if weight.shape != (n_out, n_in) or not bias_fits:
                raise ValueError(
                    f"weights must have shape (n_out, n_in) with n_in={n_in} here and "
                    f"biases shape (n_out,), got {tuple(weight.shape)} and "
                    f"{None if bias is None else tuple(bias.shape)}. Transpose "
                    "scikit-learn's coefs_."
                )
            n_in = n_out

    @property
    def n_inputs(self) -> int:
        return self.weights[0].shape[1]

    @property
    def n_outputs(self) -> int:
        return len(self.weights[-1])

    @property
    def n_params(self) -> int:
        return sum(parameter.numel() for parameter in self._parameters())

    @property
    def theta(self) -> Tensor:
        return torch.cat([parameter.reshape(-1) for parameter in self._parameters()])

    def _parameters(self) -> list[Tensor]:
        pairs = zip(self.weights, self.biases, strict=True)
        return [
            parameter for pair in pairs for parameter in pair if parameter is not None
        ]

    def split(self, theta: Tensor) -> tuple[list[Tensor], list[Tensor | None]]:
        """View theta as the weights and biases of the layers."""
        parameters = self._parameters()
        parts = theta.split([parameter.numel() for parameter in parameters])
        views = iter(
            part.reshape(parameter.shape)
            for part, parameter in zip(parts, parameters, strict=True)
        )
        weights: list[Tensor] = []
        biases: list[Tensor | None] = []
        for bias in self.biases:
            weights.append(next(views))
            biases.append(None if bias is None else next(views))
        return weights, biases

    def to(self, device: torch.device) -> ChainNetwork:
        weights = [weight.to(device) for weight in self.weights]
        biases = [None if bias is None else bias.to(device) for bias in self.biases]
        return ChainNetwork(weights, biases, self.activations)

    def at(self, theta: Tensor) -> ChainNetwork:
        return ChainNetwork(*self.split(theta.detach().clone()), self.activations)

    def __call__(self, theta: Tensor, X: Tensor) -> Tensor:
        return self._forward(*self.split(theta), X)[1][-1]

    def layers(self, X: Tensor) -> list[Tensor]:
        return self.forward(X)[1]

    def forward(self, X: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Pre-activations of the hidden layers, and the result of `layers`."""
        return self._forward(self.weights, self.biases, X)

    def _forward(
        self, weights: list[Tensor], biases: list[Tensor | None], X: Tensor
    ) -> tuple[list[Tensor], list[Tensor]]:
        pre_activations: list[Tensor] = []
        outputs = [X]
        hidden = zip(weights, biases, self.activations, strict=False)
        for weight, bias, activation in hidden:
            affine = F.linear if pre_activations else _affine
            pre_activations.append(affine(outputs[-1], weight, bias))
            outputs.append(activation.function(pre_activations[-1]))
        outputs.append(F.linear(outputs[-1], weights[-1], biases[-1]))
        return pre_activations, outputs

    def jacobian(self, X: Tensor, *, without: slice | None = None) -> LinearOperator:
        """The partial derivatives of the raw outputs, without forming the matrix."""
        pre_activations, layers = self.forward(X)
        slopes = [
            activation.derivative(z, h)
            for activation, z, h in zip(
                self.activations, pre_activations, layers[1:-1], strict=True
            )
        ]
        biases = [bias is not None for bias in self.biases]
        biases[-1] = biases[-1] and without is None
        return ChainOperator(layers[:-1], slopes, self.weights, biases)

    def find_head(self, X: Tensor) -> Head:
        theta, bias = self.theta, self.biases[-1]
        n_bias = 0 if bias is None else len(bias)
        start = len(theta) - n_bias
        theta[: start - self.weights[-1].numel()] = 0
        return Head(
            bias=None if bias is None else slice(start, len(theta)), in_span=theta
        )


def _affine(X: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``X W^T + b`` without cancellation between columns far from zero and the bias.

    At an offset of 1e10, float64 keeps only six digits of the sum, and bounds on the
    loss over a layer were off by 1e-7. Therefore the first entry of such columns is
    subtracted, which is exact, and its product is added to the bias in extended
    precision.
    """
    recorded = weight.requires_grad or torch._C._are_functorch_transforms_active()
    if bias is None or recorded or not len(X) or X.dtype != torch.float64:
        return F.linear(X, weight, bias)
    first = X[0]
    far = first.abs() >= FAR * (X - first).abs().amax(0)
    if not bool(far.any()):
        return F.linear(X, weight, bias)
    center = torch.where(far, first, 0.0)
    long = [part.cpu().numpy().astype(np.longdouble) for part in (weight, center, bias)]
    # The caller checks that outputs are finite.
    with np.errstate(over="ignore", invalid="ignore"):
        shift = torch.from_numpy((long[0] @ long[1] + long[2]).astype(np.float64))
    return F.linear(X - center, weight, shift.to(X.device))


def overparameterised_relu_init(
    X: Tensor | ArrayLike, width: int, depth: int, *, diagonal: float = 1.0
) -> tuple[list[Tensor], list[Tensor]]:
    """Hidden ReLU layers with one active unit for each training sample.

    Unit i of the first layer has weights ``x_i`` and bias ``e - 1``, where
    ``e = (1 - max x_i.x_j) / 2``. Its pre-activation is e at sample i and not positive
    at all others. Upper layers have `diagonal` > 0 on their diagonal and zeros
    elsewhere. The last hidden layer is then ``e diagonal^(depth-1) [I, 0]``. It has
    full row rank, so every critical point of the head is a global minimum over all
    parameters.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Distinct samples of norm 1.
    width : int
        Units per hidden layer, at least n_samples.
    depth : int
        Number of hidden layers, at least 1.
    diagonal : float, default=1.0
        Diagonal of the upper layers. A negative one would make all outputs zero.

    Returns
    -------
    weights, biases : lists of Tensor
        Weights of shape (n_out, n_in) and biases of the hidden layers.

    References
    ----------
    Kawaguchi, Huang, Kaelbling, "Every Local Minimum Value Is the Global Minimum Value
    of Induced Model in Nonconvex Machine Learning", Neural Computation 31(12), 2019,
    Example 2.
    """
    X = as_float64(X)
    n_samples, n_features = X.shape
    if width < n_samples or depth < 1 or not diagonal > 0:
        raise ValueError(
            f"width must be >= n_samples = {n_samples}, depth >= 1 and diagonal > 0, "
            f"got {width}, {depth} and {diagonal}. Widen the layers or use fewer rows."
        )
    products = X @ X.T
    largest = (products - 2 * torch.eye(n_samples)).max().item()
    if (products.diagonal() - 1).abs().max() > 1e-10 or largest > 1 - 1e-10:
        raise ValueError(
            "X must have distinct rows of norm 1, got other norms or equal rows. "
            "Divide each row by its norm and drop duplicates."
        )
    first = X.new_zeros(width, n_features)
    first[:n_samples] = X
    upper = diagonal * torch.eye(width, dtype=X.dtype)
    weights = [first] + [upper.clone() for _ in range(depth - 1)]
    biases = [X.new_zeros(width) for _ in range(depth)]
    biases[0] += (1 - largest) / 2 - 1
    return weights, biases
