"""Derivatives equal finite differences, in every mode of differentiation."""

import pytest
import torch
from module_cases import Cube, CubeByNumpy, CubeOnce
from oracles import randn
from torch import nn
from torch.testing import assert_close

from sklearn_pgb._derivatives import (
    Derivatives,
    GradientDerivative,
    has_second_derivative,
    pull_back,
    push_forward,
)


def test_products_with_a_derivative(generator):
    """The value, and any number of products with J and with its transpose."""
    matrix, theta = randn(generator, 4, 3), randn(generator, 3)

    def function(theta):
        return (matrix @ theta).sin()

    jacobian = (matrix @ theta).cos()[:, None] * matrix
    value, push = push_forward(function, theta)
    same, pull = pull_back(function, theta)
    assert_close(value, function(theta), rtol=0, atol=0)
    assert_close(same, value, rtol=0, atol=0)
    for _ in range(2):
        direction, residual = randn(generator, 3), randn(generator, 4)
        assert_close(push(direction), jacobian @ direction, rtol=1e-14, atol=1e-14)
        assert_close(pull(residual), jacobian.T @ residual, rtol=1e-14, atol=1e-14)


CUBES = [lambda x: x**3, Cube.apply, CubeOnce.apply, CubeByNumpy.apply]
CUBE_IDS = ["plain", "no vmap", "once", "numpy"]


@pytest.mark.parametrize("cube", CUBES, ids=CUBE_IDS)
def test_derivatives_of_custom_functions(cube, generator):
    """J, J g and J^T r are exact with any backward pass."""
    X, theta = randn(generator, 5, 3), randn(generator, 6)

    def function(theta, X):
        return cube(X @ theta.reshape(3, 2))

    slopes = 3 * (X @ theta.reshape(3, 2)) ** 2
    # J[i, c, (j, d)] = slope_ic x_ij delta_cd
    J = torch.einsum("ic,ij,cd->icjd", slopes, X, torch.eye(2).double()).flatten(2)
    derivatives = Derivatives(function, theta, X)
    direction, residual = randn(generator, 6), randn(generator, 5, 2)
    exact = {"rtol": 1e-12, "atol": 1e-12}
    assert_close(derivatives.jacobians(X), J, **exact)
    assert_close(derivatives.push(X)(direction), J @ direction, **exact)
    pulled = torch.einsum("icp,ic->p", J, residual)
    assert_close(derivatives.pull(X, residual), pulled, **exact)


def test_derivatives_of_a_constant(generator):
    """Outputs that do not depend on the parameters have derivatives of zero."""
    X, theta = randn(generator, 5, 3), randn(generator, 6)
    derivatives = Derivatives(lambda theta, X: X[:, :2], theta, X)
    assert not derivatives.jacobians(X).any()
    assert not derivatives.push(X)(randn(generator, 6)).any()
    assert not derivatives.pull(X, randn(generator, 5, 2)).any()


@pytest.mark.parametrize(
    ("cube", "expected"),
    list(zip(CUBES, [True, True, False, False], strict=True)),
    ids=CUBE_IDS,
)
def test_second_derivatives_are_known_to_be_right(cube, expected, generator):
    theta = randn(generator, 4)

    def gradient(at):
        value = (cube(at) * torch.arange(1.0, 5.0)).sum() + at.square().sum()
        return torch.autograd.grad(value, at, create_graph=True)[0]

    assert has_second_derivative(gradient, theta) is expected


@pytest.mark.parametrize("layer", [nn.Tanh, nn.PReLU])
def test_hessian_products_in_a_batch(layer, generator, recwarn):
    """A batch of directions has the same products as single ones, without warning."""
    module = layer().double()
    X, leaf = randn(generator, 6, 4), randn(generator, 4).requires_grad_()
    value = (module(X @ leaf) ** 2).sum()
    (gradient,) = torch.autograd.grad(value, leaf, create_graph=True)
    product = GradientDerivative(gradient, leaf)
    directions = randn(generator, 3, 4)
    singles = torch.stack([product(direction) for direction in directions])
    assert_close(product(directions), singles, rtol=1e-12, atol=1e-12)
    assert not recwarn


def test_linear_gradients_have_no_curvature(generator):
    """A gradient without a graph is a constant."""
    leaf = randn(generator, 3).requires_grad_()
    product = GradientDerivative(torch.ones(3, dtype=torch.float64), leaf)
    assert not product(randn(generator, 2, 3)).any()
