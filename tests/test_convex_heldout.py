"""Held-out losses, the search for alpha, and leave-one-out by one Newton step."""

from dataclasses import replace

import numpy as np
import oracles
import pytest
import torch
from torch.testing import assert_close

from sklearn_pgb._convex import _heldout
from sklearn_pgb._convex._heldout import (
    HeldOutPath,
    convex_folds,
    first_best,
    search_path,
)
from sklearn_pgb._convex._influence import LeftOut
from sklearn_pgb._convex._ridge import ridge_path
from sklearn_pgb._convex._solve import solve
from sklearn_pgb._losses._classification import (
    CrossEntropyLoss,
    LogisticLoss,
    SmoothedHingeLoss,
)
from sklearn_pgb._losses._regression import PoissonLoss, SquaredLoss
from sklearn_pgb._operators import _blocks

LOSSES = [SquaredLoss(), CrossEntropyLoss(), LogisticLoss(), PoissonLoss()]
all_losses = pytest.mark.parametrize("loss", LOSSES, ids=repr)
intercepts = pytest.mark.parametrize("intercept", [True, False])


# --- leave-one-out -------------------------------------------------------------------


@pytest.mark.parametrize("n_outputs", [1, 3])
@intercepts
@pytest.mark.parametrize("block_bytes", [None, 400])
def test_exact_for_squared_loss(
    n_outputs, intercept, block_bytes, generator, monkeypatch
):
    """One Newton step equals the refit, as the closed form does."""
    if block_bytes is not None:
        monkeypatch.setattr(_blocks, "BLOCK_BYTES", block_bytes)
    problem = oracles.random_problem(
        SquaredLoss(), generator, 15, 5, n_outputs, intercept=intercept, offset=True
    )
    unit = 0.1 + 0.9 * torch.rand(15, generator=generator, dtype=torch.float64)
    solution = solve(problem)
    raw = LeftOut.of(problem, solution.raw, unit).raw
    alphas = torch.tensor([problem.alpha], dtype=torch.float64)
    (errors,) = ridge_path(problem, dual=False).leave_one_out(alphas, unit)
    assert_close(problem.y - raw, errors, rtol=1e-8, atol=1e-8)


@all_losses
@intercepts
def test_one_newton_step(loss, intercept, generator):
    """For each row, the Newton step of the objective without it, on dense matrices."""
    problem = oracles.random_problem(loss, generator, 15, 4, 3, intercept=intercept)
    unit = 0.1 + 0.9 * torch.rand(15, generator=generator, dtype=torch.float64)
    solution = solve(problem, tol=1e-12)
    raw = LeftOut.of(problem, solution.raw, unit).raw

    rows = problem.augmented().dense()
    gradients, hessians = oracles.derivatives(loss, problem.y, solution.raw)
    ridge = torch.full((rows.shape[2],), problem.alpha, dtype=torch.float64)
    ridge[4:] = 0
    for i in range(15):
        weight = problem.weight.clone()
        weight[i] *= 1 - unit[i]
        matrix = torch.einsum("n,ncp,ncd,ndq->pq", weight, rows, hessians, rows)
        left_out = unit[i] * problem.weight[i] * rows[i].T @ gradients[i]
        # Softmax leaves one direction of the intercept free.
        inverse = torch.linalg.pinv(matrix + ridge.diag(), rtol=1e-10, hermitian=True)
        expected = solution.raw[i] + rows[i] @ inverse @ left_out
        difference = loss.predict(raw[i : i + 1]) - loss.predict(expected[None])
        assert difference.abs().max() <= 1e-7


def left_out_raw(problem, unit, rows):
    """Raw outputs of refits, each without a unit of one row's weight."""
    refitted = []
    for i in rows:
        weight = problem.weight.clone()
        weight[i] *= 1 - unit[i]
        # Weights must sum to one; alpha is scaled along with them.
        total = float(weight.sum())
        left = replace(problem, weight=weight / total, alpha=problem.alpha / total)
        _, coef, intercept = oracles.optimum(left)
        refitted.append(problem.raw(coef, intercept)[i])
    return torch.stack(refitted)


@pytest.mark.parametrize(
    "loss",
    [LogisticLoss(), CrossEntropyLoss(), PoissonLoss(), SmoothedHingeLoss(power=3.0)],
    ids=repr,
)
@intercepts
def test_close_to_refits(loss, intercept, generator):
    """One Newton step is close to the refit."""
    n_outputs = 3 if isinstance(loss, CrossEntropyLoss) else 1
    problem = oracles.random_problem(
        loss, generator, 60, 4, n_outputs, alpha=0.2, intercept=intercept
    )
    solution, rows = solve(problem, tol=1e-12), range(6)
    # A part of the weight is a shorter way, of which the step misses less.
    for size, missed in [(1.0, 0.1), (0.1, 0.01)]:
        unit = torch.full((60,), size, dtype=torch.float64)
        raw = LeftOut.of(problem, solution.raw, unit).raw
        refit, step, fit = (
            loss.predict(raw)
            for raw in [left_out_raw(problem, unit, rows), raw[:6], solution.raw[:6]]
        )
        assert (refit - step).norm() <= missed * (refit - fit).norm()


# --- the search for alpha ------------------------------------------------------------


@pytest.mark.parametrize("best", range(20))
def test_search_path(best):
    """The best of a unimodal sequence is found, with few evaluations beyond it."""
    alphas = np.logspace(0, -8, 20).tolist()
    loss = {alpha: 1.0 + (i - best) ** 2 for i, alpha in enumerate(alphas)}
    calls = []

    def look(alpha):
        calls.append(alpha)
        return loss[alpha]

    seen = search_path(look, alphas)
    assert min(seen, key=seen.__getitem__) == alphas[best]
    assert seen == {alpha: loss[alpha] for alpha in calls}
    # From the strongest on, none twice, and at most two behind the best.
    assert calls == alphas[: len(calls)]
    assert len(calls) <= max(best + 3, _heldout.ALWAYS_EVALUATED)


def test_search_path_steps_over_noise():
    """A small rise does not end the search; a clear one, or two small ones, do."""
    before = [9.0 - step for step in range(_heldout.ALWAYS_EVALUATED - 1)]
    alphas = np.logspace(0, -12, len(before) + 4).tolist()
    small = 1 + _heldout.CLEAR_RISE / 2
    for losses, n_seen in [
        ([1.0, small, 0.5, 0.4], 4),
        ([1.0, small, small, 0.4], 3),
        ([1.0, 1.5, 0.5, 0.4], 2),
        ([-1.0, -0.9, -2.0, -3.0], 2),
        ([1.0, 0.5, 0.4, 0.3], 4),
        # A plateau does not count as a rise.
        ([1.0, 1.0005, 1.0009, 0.4], 4),
    ]:
        table = dict(zip(alphas, before + losses, strict=True))
        seen = alphas[: len(before) + n_seen]
        assert list(search_path(table.__getitem__, alphas)) == seen


def test_search_path_does_not_end_at_the_strongest():
    """At the largest alphas, where the model is nearly constant, a rise is ignored."""
    losses = [2.0, 2.5, 2.4, 2.3, 1.0, 0.5, 0.4, 0.6, 0.7]
    alphas = np.logspace(0, -8, 9).tolist()
    table = dict(zip(alphas, losses, strict=True))
    seen = search_path(table.__getitem__, alphas)
    assert list(seen) == alphas[:8]
    assert min(seen, key=seen.__getitem__) == alphas[6]


def test_first_of_equal_losses():
    """Losses that differ by rounding are equal, and the first of them is returned."""
    assert first_best([3.0, 2.0 * (1 + 1e-12), 2.0, 2.0 * (1 - 1e-12)]) == 1
    assert first_best([-2.0 * (1 - 1e-12), -2.0, -1.0]) == 0
    assert first_best([np.nan, 2.0 * (1 + 1e-6), 2.0]) == 2
    assert first_best([np.inf, np.nan, np.inf]) == 0


# --- held-out rows -------------------------------------------------------------------


def make_folds(problem):
    """Four folds of forty rows, and the parts they were made of."""
    index = np.arange(40)
    parts = [(index[index % 4 != i], index[index % 4 == i]) for i in range(4)]
    return convex_folds(problem, parts), parts


def small_problem(loss, generator, offset=True):
    return oracles.random_problem(loss, generator, 40, offset=offset)


@all_losses
@pytest.mark.parametrize("offset", [True, False])
def test_folds(loss, offset, generator):
    """Each fold has the problem of its rows, and the rows that it has not seen."""
    problem = small_problem(loss, generator, offset)
    folds, parts = make_folds(problem)
    for fold, (train, test) in zip(folds, parts, strict=True):
        seen = problem.rows(torch.tensor(train))
        assert_close(fold.problem.y, seen.y, rtol=0, atol=0)
        assert_close(fold.problem.weight, seen.weight, rtol=0, atol=0)
        assert fold.heldout.index.tolist() == test.tolist()
        # Weights of the whole data, so that folds add up.
        assert_close(fold.heldout.weight, problem.weight[test], rtol=0, atol=0)
        solution = solve(fold.problem)
        whole = problem.raw(solution.coef, solution.intercept)
        assert_close(fold.heldout.raw(solution), whole[test], rtol=1e-12, atol=1e-12)


@all_losses
def test_held_out_path(loss, generator, monkeypatch):
    """It is the mean loss of each sample for the solution of its fold."""
    monkeypatch.setattr(_heldout, "COMPARISON_TOL", 1e-14)
    problem = small_problem(loss, generator)
    folds, _ = make_folds(problem)
    path = HeldOutPath(folds, 2.0**30, 100)
    for alpha in [1.0, 0.1, 0.3]:
        raw = torch.empty_like(problem.y)
        for fold in folds:
            alone = solve(fold.problem.with_alpha(alpha), tol=1e-14)
            raw[fold.heldout.index] = fold.heldout.raw(alone)
        expected = float(problem.weight @ loss.value(problem.y, raw))
        assert path.loss(alpha) == pytest.approx(expected, rel=1e-5)
        for fold, solution in zip(folds, path.solutions[alpha], strict=True):
            held = problem.weight[fold.heldout.index]
            assert_close(fold.heldout.weight, held, rtol=0, atol=0)
            assert solution.coef.shape == (4,)
    assert list(path.solutions) == [1.0, 0.1, 0.3]


@all_losses
def test_held_out_path_by_default(loss, generator):
    """The tolerance is that of comparisons, and warm starts are the nearest."""
    problem = small_problem(loss, generator)
    folds, _ = make_folds(problem)
    exact, path = HeldOutPath(folds, 2.0**30, 100), HeldOutPath(folds, 2.0**30, 100)
    alphas = [1.0, 0.3, 0.1]
    quick = [path.loss(alpha) for alpha in alphas]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_heldout, "COMPARISON_TOL", 1e-14)
        sharp = [exact.loss(alpha) for alpha in alphas]
    assert quick == pytest.approx(sharp, rel=0.02)
    if not loss.quadratic:
        n_iter = [sum(s.n_iter for s in each.solutions[0.1]) for each in [path, exact]]
        assert n_iter[0] < n_iter[1]


@all_losses
def test_search_solves_close_alphas_to_the_tolerance(loss, generator):
    """The best losses are those of exact solutions, whatever the rough ones are."""
    problem = small_problem(loss, generator)
    folds, _ = make_folds(problem)
    alphas = [1.0, 0.8, 0.6, 0.5, 0.4, 0.3, 0.2]
    path, exact = HeldOutPath(folds, 2.0**30, 100), HeldOutPath(folds, 2.0**30, 100)
    losses = path.search(alphas, 1e-13)
    expected = {alpha: exact.loss(alpha, 1e-14) for alpha in alphas}
    assert min(losses, key=losses.__getitem__) == min(
        expected, key=expected.__getitem__
    )
    best = min(expected.values())
    close = [a for a in alphas if expected[a] - best <= 0.01 * abs(best)]
    found = [losses[alpha] for alpha in close]
    assert found == pytest.approx([expected[a] for a in close], rel=1e-6)
