"""The least loss over a span: enclosed, ranked, attained or not."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from oracles import optimum, random_problem, random_targets, random_weight

from sklearn_pgb._certificate._table import descend
from sklearn_pgb._convex import ConvexProblem, infimum
from sklearn_pgb._convex import _infimum as module
from sklearn_pgb._losses import (
    CrossEntropyLoss,
    LogisticLoss,
    PoissonLoss,
    SmoothedHingeLoss,
    SquaredLoss,
)
from sklearn_pgb._operators import DenseOperator, KroneckerOperator

LOSSES = [
    SquaredLoss(),
    CrossEntropyLoss(0.1),
    LogisticLoss(),
    SmoothedHingeLoss(),
    PoissonLoss(),
]
MEMORY = 1e9


def find(problem, **params):
    return infimum(problem, descend, **{"max_memory": MEMORY, **params})


def features_problem(loss, generator, n=30, p=3, k=2, intercept=True):
    """A basis whose features every output combines by itself."""
    features = torch.randn(n, p, generator=generator, dtype=torch.float64)
    return ConvexProblem(
        KroneckerOperator(features, k),
        random_targets(loss, n, generator, k),
        loss,
        random_weight(n, generator),
        intercept=intercept,
    )


def as_dense(problem):
    return replace(problem, operator=DenseOperator(problem.operator.dense()))


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
@pytest.mark.parametrize("intercept", [True, False])
def test_encloses_the_optimum(loss, intercept, generator):
    problem = random_problem(
        loss, generator, n_samples=40, alpha=0, intercept=intercept
    )
    least = optimum(problem)[0]
    found = find(problem)
    assert found.value == pytest.approx(least, abs=1e-8)
    assert found.lower_bound <= least + 1e-12
    assert found.value - found.lower_bound <= 1e-8
    assert found.norm_budget == torch.inf
    assert found.rank == 4 + 2 * intercept
    assert found.attained


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
@pytest.mark.parametrize("intercept", [True, False])
def test_features_are_as_the_dense_basis(loss, intercept, generator):
    problem = features_problem(loss, generator, intercept=intercept)
    one, other = find(problem), find(as_dense(problem))
    assert one.value == pytest.approx(other.value, rel=1e-9)
    assert one.lower_bound == pytest.approx(other.lower_bound, abs=1e-8)
    assert one.rank == other.rank
    assert one.norm == pytest.approx(other.norm, rel=1e-5)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_products_alone_enclose_the_same(loss, generator):
    """Without memory for a factorisation; the bound is for coefficients of a norm."""
    problem = random_problem(loss, generator, n_samples=40, alpha=0)
    full, small = find(problem), find(problem, max_memory=1.0)
    assert small.rank is None
    assert small.value == pytest.approx(full.value, abs=1e-7)
    assert small.lower_bound <= full.value
    assert small.value - small.lower_bound <= 1e-5
    assert np.isfinite(small.norm_budget)
    assert small.norm_budget >= full.norm


def test_norm_is_that_of_the_coefficients(generator):
    """Full rank: there is one solution, intercept included."""
    problem = random_problem(SquaredLoss(), generator, alpha=0, offset=True)
    _, coef, intercept = optimum(problem)
    size = float(torch.cat([coef, intercept]).norm())
    assert find(problem).norm == pytest.approx(size, rel=1e-6)


def test_direction_below_the_rank_limits_the_bound(generator):
    """A column of relative size 1e-12 is dropped; long coefficients could use it."""
    problem = random_problem(SquaredLoss(), generator, alpha=0, intercept=False)
    rows = problem.operator.dense().clone()
    rows[:, :, 0] *= 1e-12
    problem = replace(problem, operator=DenseOperator(rows))
    found = find(problem)
    assert found.rank == 3
    matrix = (
        rows.flatten(0, 1).numpy() * np.sqrt(problem.weight.numpy()).repeat(2)[:, None]
    )
    target = (problem.weight.sqrt()[:, None] * problem.y).reshape(-1).numpy()
    coef = np.linalg.lstsq(matrix, target, rcond=1e-15)[0]
    least = np.sum((matrix @ coef - target) ** 2)
    assert least < found.value - 1e-6
    if np.linalg.norm(coef) <= found.norm_budget:
        assert found.lower_bound <= least
    else:
        assert found.norm_budget < torch.inf or found.lower_bound <= least


@pytest.mark.parametrize(
    "loss", [CrossEntropyLoss(), LogisticLoss()], ids=["ce", "log"]
)
def test_separated_labels_are_not_attained(loss, generator):
    n, k = 30, 3 if isinstance(loss, CrossEntropyLoss) else 1
    features = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    raw = features @ torch.randn(2, k, generator=generator, dtype=torch.float64)
    y = raw > 0 if k == 1 else torch.eye(k)[raw.argmax(1)]
    weight = random_weight(n, generator)
    problem = ConvexProblem(KroneckerOperator(features, k), y.double(), loss, weight)
    found = find(problem)
    assert found.attained is False
    assert found.lower_bound == 0.0
    assert found.value <= 1e-10


def test_dear_steps_are_replaced_by_descent(generator, monkeypatch):
    """L-BFGS on the orthonormal coordinates of the span comes to the same."""
    problem = random_problem(LogisticLoss(), generator, n_samples=40, alpha=0)
    newton = find(problem)
    monkeypatch.setattr(module, "NEWTON_FLOPS", 0.0)
    descent = find(problem)
    assert descent.value == pytest.approx(newton.value, abs=1e-10)
    assert descent.rank == newton.rank


def test_bound_without_repair_needs_a_norm(generator, monkeypatch):
    """Unless the gradient at Newton's end is rounding, as here it may be."""
    problem = random_problem(LogisticLoss(), generator, n_samples=40, alpha=0)
    least = find(problem)
    monkeypatch.setattr(module, "REPAIR_FLOPS", 0.0)
    found = find(problem)
    assert found.lower_bound <= least.value
    assert found.value - found.lower_bound <= 1e-8


def test_empty_span_has_rank_zero(generator):
    """A network without influence: only the offset is left."""
    problem = random_problem(
        LogisticLoss(), generator, alpha=0, intercept=False, offset=True
    )
    rows = torch.zeros_like(problem.operator.dense())
    problem = replace(problem, operator=DenseOperator(rows))
    found = find(problem)
    assert found.rank == 0
    assert found.value == pytest.approx(float(problem.data_value(problem.offset)))
    assert found.norm == 0.0
