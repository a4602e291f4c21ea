"""Approximate inverses of Hessians, in cases in which they are exact."""

from dataclasses import replace
from itertools import pairwise, product

import oracles
import pytest
import torch
from torch.testing import assert_close

from sklearn_pgb._convex._layer_inverses import layer_blocks, output_grams
from sklearn_pgb._convex._newton import hessian_matrix
from sklearn_pgb._convex._problem import ConvexProblem
from sklearn_pgb._losses._classification import CrossEntropyLoss, LogisticLoss
from sklearn_pgb._operators._chain import ChainOperator
from sklearn_pgb._operators._dense import DenseOperator
from sklearn_pgb._operators._layers import LinearDerivative, Slope
from sklearn_pgb._operators._stacked import StackedOperator


def chain_problem(n, widths, loss, generator, intercept=True):
    """A chain of linear layers and slopes, without the output's bias, scaled by 0.7."""

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    layers = []
    for number, (before, width) in enumerate(pairwise(widths)):
        is_last = number == len(widths) - 2
        layers.append(
            LinearDerivative(draw(n, before), draw(width, before), not is_last)
        )
        if not is_last:
            layers.append(Slope(draw(n, width)))
    operator = StackedOperator([ChainOperator(layers)], [0.7])
    y = (draw(n, widths[-1]) > 0).double()
    weight = draw(n).square() + 0.1
    weight /= weight.sum()
    problem = ConvexProblem(operator, y, loss, weight, 0.3, intercept)
    return problem, draw(n, widths[-1])


@pytest.mark.parametrize("intercept", [True, False])
def test_output_layers_are_exact(intercept, generator):
    """Outputs of a separable loss do not interact."""
    problem, raw = chain_problem(9, (4, 3), LogisticLoss(), generator, intercept)
    matrix = hessian_matrix(problem, problem.augmented(), raw)
    target = torch.randn(len(matrix), generator=generator, dtype=torch.float64)
    actual = layer_blocks(problem, raw)(problem.alpha)(target)
    assert_close(actual, torch.linalg.solve(matrix, target), rtol=1e-8, atol=1e-10)


def test_a_single_sample_is_a_kronecker_product(generator):
    """The block of a hidden layer then has one term."""
    problem, raw = chain_problem(1, (4, 3, 1), LogisticLoss(), generator)
    matrix = hessian_matrix(problem, problem.augmented(), raw)[:15, :15]
    target = torch.zeros(len(problem.zero()[0]) + 1, dtype=torch.float64)
    target[:15] = torch.randn(15, generator=generator, dtype=torch.float64)
    actual = layer_blocks(problem, raw)(problem.alpha)(target)
    wanted = torch.linalg.solve(matrix, target[:15])
    assert_close(actual[:15], wanted, rtol=1e-8, atol=1e-10)
    assert_close(actual[15:], torch.zeros_like(actual[15:]))


def two_chains(generator, n=9):
    """Two output layers side by side, with the exact Hessian."""
    first, raw = chain_problem(n, (4, 3), LogisticLoss(), generator)
    second, _ = chain_problem(n, (2, 3), LogisticLoss(), generator)
    parts = [first.operator.operators[0], second.operator.operators[0]]
    problem = replace(first, operator=StackedOperator(parts, [0.7, 1.3]))
    return problem, raw, hessian_matrix(problem, problem.augmented(), raw)


def test_output_layers_of_all_chains_are_exact(generator):
    """Each output has one block, as all chains add to it."""
    problem, raw, matrix = two_chains(generator)
    target = torch.randn(len(matrix), generator=generator, dtype=torch.float64)
    actual = layer_blocks(problem, raw)(problem.alpha)(target)
    assert_close(actual, torch.linalg.solve(matrix, target), rtol=1e-8, atol=1e-10)


def test_wide_output_layers_are_blocks_of_their_own(generator, monkeypatch):
    monkeypatch.setattr("sklearn_pgb._convex._layer_inverses.JOINT_FLOPS", 0)
    problem, raw, matrix = two_chains(generator)
    target = torch.randn(len(matrix), generator=generator, dtype=torch.float64)
    actual = layer_blocks(problem, raw)(problem.alpha)(target)
    # The first chain has 4 x 3 coefficients, and the intercept belongs to it.
    first, second = [*range(12), *range(18, 21)], list(range(12, 18))
    for own in (first, second):
        wanted = torch.linalg.solve(matrix[own][:, own], target[own])
        assert_close(actual[own], wanted, rtol=1e-8, atol=1e-10)


def test_one_hessian_serves_all_alphas(generator):
    problem, raw, _ = two_chains(generator)
    inverse = layer_blocks(problem, raw)
    for alpha in (1e-3, 10.0):
        other = problem.with_alpha(alpha)
        matrix = hessian_matrix(other, other.augmented(), raw)
        target = torch.randn(len(matrix), generator=generator, dtype=torch.float64)
        wanted = torch.linalg.solve(matrix, target)
        assert_close(inverse(alpha)(target), wanted, rtol=1e-8, atol=1e-10)


def test_sums_over_random_samples_are_unbiased(generator, monkeypatch):
    """The mean over many draws is the sum over all samples."""
    monkeypatch.setattr("sklearn_pgb._convex._layer_inverses.LEAST_GRAM_SAMPLES", 8)
    monkeypatch.setattr("sklearn_pgb._convex._layer_inverses.GRAM_SAMPLES", 1)
    features = torch.randn(40, 3, generator=generator, dtype=torch.float64)
    curvature = torch.rand(40, 1, generator=generator, dtype=torch.float64)
    exact = features.T @ (curvature * features)
    # Copies of the column are drawn on their own.
    grams = output_grams(features, curvature.expand(-1, 4000))
    assert float((grams[0] - exact).norm()) > 0.01 * float(exact.norm())
    assert float((grams.mean(0) - exact).norm()) < 0.03 * float(exact.norm())


def test_other_operators_have_none(generator):
    problem = oracles.random_problem(LogisticLoss(), generator)
    assert isinstance(problem.operator, DenseOperator)
    assert layer_blocks(problem, torch.zeros_like(problem.y)) is None


@pytest.mark.parametrize("loss", [LogisticLoss(), CrossEntropyLoss()], ids=repr)
def test_probes_average_to_the_hessian(loss, generator):
    """Over all signs of three outputs."""
    raw = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    y = torch.eye(3, dtype=torch.float64)[[0, 2, 1, 1, 0]]
    total = 0.0
    for signs in product((-1.0, 1.0), repeat=3):
        each = torch.tensor(signs, dtype=torch.float64).expand_as(raw)
        probe = loss.hessian_probe(y, raw, each)
        total += probe[:, :, None] * probe[:, None, :] / 8
    columns = [
        loss.hessian(y, raw)(row.expand_as(raw)) for row in torch.eye(3).double()
    ]
    assert_close(total, torch.stack(columns, 2))
