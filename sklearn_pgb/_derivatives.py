"""First and second derivatives by the fastest method that torch supports."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

# A function f(theta, X) -> (n_samples, n_outputs) that treats samples independently.
SampleFunction = Callable[[Tensor, Tensor], Tensor]


def pull_back(
    function: Callable[[Tensor], Tensor], theta: Tensor
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """The value of a function at theta, and the product r -> J^T r."""
    # Plain autograd supports more functions than torch.func.vjp.
    leaf = theta.detach().requires_grad_()
    with torch.enable_grad():
        raw = function(leaf)
    return raw.detach(), lambda residual: _grad(raw, leaf, residual, retain_graph=True)


def push_forward(
    function: Callable[[Tensor], Tensor], theta: Tensor
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """The value of a function at theta, and the product g -> J g."""
    # Differentiate the VJP, which is linear in its argument, instead of using forward
    # mode, which custom autograd functions rarely support.
    leaf = theta.detach().requires_grad_()
    with torch.enable_grad():
        raw = function(leaf)
        dual = torch.zeros_like(raw).requires_grad_()
        pulled = _grad(raw, leaf, dual, create_graph=True)
    return raw.detach(), lambda g: _grad(pulled, dual, g, retain_graph=True)


def _grad(outputs: Tensor, inputs: Tensor, residual: Tensor, **options: bool) -> Tensor:
    """The product by autograd; zeros if the outputs do not depend on the inputs."""
    if not outputs.requires_grad:
        return torch.zeros_like(inputs)
    result: Tensor = torch.autograd.grad(
        outputs, inputs, residual, materialize_grads=True, **options
    )[0]
    return result


class Derivatives:
    """First derivatives of a function, with a fallback if torch does not support it.

    Torch may fail to batch the derivative over samples, or to transpose it, if the
    function has a custom backward pass, works in place or branches on values. If a
    backward pass uses NumPy, autograd does not record it and the transpose is wrong
    without an error. Therefore both methods are compared with the plain backward pass
    on the first two samples before they are used.
    """

    def __init__(self, function: SampleFunction, theta: Tensor, X: Tensor):
        self.function, self.theta, self._probe = function, theta, X[:2]
        self._works: dict[str, bool] = {}

    def pull(self, X: Tensor, residual: Tensor) -> Tensor:
        """J^T r, (n_params,)."""
        return pull_back(partial(_of_theta, self.function, X), self.theta)[1](residual)

    def push(self, X: Tensor) -> Callable[[Tensor], Tensor]:
        """A function that maps directions g to J g, (n_samples, n_outputs)."""
        if self.transposes():
            return self._transposed(X)
        J = self.jacobians(X)
        return lambda direction: J @ direction

    def transposes(self) -> bool:
        """Whether J g can be computed without forming J."""
        return self._is_right("transpose", self._transposed)

    def jacobians(self, X: Tensor) -> Tensor:
        """J of each sample, (n_samples, n_outputs, n_params)."""
        if self._is_right("batch", lambda X: self._batched(X).matmul):
            return self._batched(X)
        return torch.stack([self._rows(x) for x in X.split(1)])

    def _transposed(self, X: Tensor) -> Callable[[Tensor], Tensor]:
        return push_forward(partial(_of_theta, self.function, X), self.theta)[1]

    def _batched(self, X: Tensor) -> Tensor:
        def sample(theta: Tensor, x: Tensor) -> Tensor:
            return self.function(theta, x[None])[0]

        batched = torch.func.vmap(torch.func.jacrev(sample), in_dims=(None, 0))
        with _quiet():
            result: Tensor = batched(self.theta, X)
        return result

    def _rows(self, x: Tensor) -> Tensor:
        """J of one sample, computed output by output."""
        raw, pull = pull_back(partial(_of_theta, self.function, x), self.theta)
        units = torch.eye(raw.shape[1], dtype=raw.dtype, device=raw.device)
        return torch.stack([pull(unit[None]) for unit in units])

    def _is_right(
        self, name: str, push: Callable[[Tensor], Callable[[Tensor], Tensor]]
    ) -> bool:
        """Whether a product works and is the adjoint of the plain backward pass."""
        if name not in self._works:
            theta = self.theta
            generator = torch.Generator().manual_seed(0)
            direction = torch.randn(len(theta), generator=generator).to(theta)
            try:
                pushed = push(self._probe)(direction)
                residual = torch.randn(pushed.shape, generator=generator).to(theta)
                pulled = self.pull(self._probe, residual)
            except Exception:
                # Torch and the function may raise errors of any type.
                self._works[name] = False
                return False
            error = (residual * pushed).sum() - pulled @ direction
            size = residual.norm() * pushed.norm() + pulled.norm() * direction.norm()
            tol = torch.finfo(theta.dtype).eps ** 0.5
            self._works[name] = bool(error.abs() <= tol * size)
        return self._works[name]


def _of_theta(function: SampleFunction, X: Tensor, theta: Tensor) -> Tensor:
    return function(theta, X)


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress torch's warnings about operations that it batches by a loop."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*performance drop", UserWarning)
        yield


class GradientDerivative:
    """Hessian products, by differentiating a gradient with its graph back to `leaf`."""

    def __init__(self, gradient: Tensor, leaf: Tensor):
        self._gradient, self._leaf, self._batches = gradient, leaf, True

    def __call__(self, directions: Tensor) -> Tensor:
        """The products with one direction (n_params,) or a batch of directions."""
        if directions.ndim == 1:
            return self._product(directions)
        if self._batches:
            try:
                with _quiet():
                    return self._product(directions, is_grads_batched=True)
            except RuntimeError:
                self._batches = False
        return torch.stack([self._product(direction) for direction in directions])

    def _product(self, direction: Tensor, **options: bool) -> Tensor:
        if not self._gradient.requires_grad:
            return torch.zeros_like(direction)
        result: Tensor = torch.autograd.grad(
            self._gradient,
            self._leaf,
            direction,
            retain_graph=True,
            materialize_grads=True,
            allow_unused=True,
            **options,
        )[0]
        return result


def root_mean_square(values: Tensor) -> float:
    """Root mean square, or one if all values are zero."""
    return float(values.square().mean().sqrt()) or 1.0


def has_second_derivative(gradient: Callable[[Tensor], Tensor], theta: Tensor) -> bool:
    """Whether torch differentiates a gradient correctly.

    If a backward pass cannot be differentiated, torch raises an error or treats it as a
    constant. Therefore a product is compared with a finite difference of gradients.
    """
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(len(theta), generator=generator).to(theta)
    leaf = theta.detach().clone().requires_grad_()
    try:
        product = GradientDerivative(gradient(leaf), leaf)(direction)
    except Exception:
        return False
    # About the cube root of eps, which balances rounding and truncation errors.
    step = 1e-5 * root_mean_square(theta)
    ends = [
        gradient((theta + sign * step * direction).requires_grad_()).detach()
        for sign in (1, -1)
    ]
    error = (product - (ends[0] - ends[1]) / (2 * step)).norm()
    # Differences of nearly equal gradients lose digits; this much may be rounding.
    rounding = 1e-10 * max(float(end.norm()) for end in ends) / step
    return bool(error <= 1e-3 * product.norm() + rounding)
