"""Choose alpha in closed form, on held-out samples or by Newton steps."""

import numpy as np
import oracles
import pytest
import torch

from sklearn_pgb._convex import _choice
from sklearn_pgb._convex._choice import (
    Effort,
    check_alpha,
    choose_alpha,
    spectral_path,
)
from sklearn_pgb._convex._heldout import NoFolds, convex_folds
from sklearn_pgb._convex._problem import ConvexProblem
from sklearn_pgb._losses._classification import LogisticLoss
from sklearn_pgb._losses._regression import SquaredLoss
from sklearn_pgb._operators._dense import KroneckerOperator

EFFORT = Effort(max_memory=1e9, tol=1e-10, max_iter=100)
ALPHAS = np.logspace(1, -5, 13)
PARTS = [
    (np.setdiff1d(np.arange(40), held), held) for held in np.arange(40).reshape(4, -1)
]
SINGLE = [(np.delete(np.arange(40), i), np.array([i])) for i in range(40)]


def problem_of(loss):
    """Samples of weight one, with few relevant features."""
    rng = np.random.default_rng(0)
    X, noise = rng.normal(size=(40, 6)), rng.normal(size=40)
    y = X[:, 0] - X[:, 1] + noise
    if loss.is_classification:
        y = (y > 0).astype(float)
    weight = torch.full((40,), 1 / 40, dtype=torch.float64)
    operator = KroneckerOperator(torch.from_numpy(X), 1)
    return ConvexProblem(operator, torch.from_numpy(y)[:, None], loss, weight)


def no_folds(problem=None):
    raise NoFolds


def choose(problem, rule, folds, path=None):
    counts = torch.ones(40)
    return choose_alpha(problem, rule, ALPHAS, counts, EFFORT, folds, path)


def heldout_losses(problem, parts, alphas=ALPHAS):
    """Mean losses on held-out samples, by a general optimizer."""
    losses = np.zeros(len(alphas))
    for train, held in parts:
        for number, alpha in enumerate(alphas):
            part = problem.rows(torch.from_numpy(train)).with_alpha(alpha)
            coef, intercept = oracles.optimum(part)[1:]
            raw = problem.operator.rows(torch.from_numpy(held)).matvec(coef) + intercept
            loss = problem.loss.value(problem.y[held], raw)
            losses[number] += float(loss.sum()) / 40
    return losses


def test_closed_form_leaves_each_sample_out():
    problem = problem_of(SquaredLoss())
    # The penalty keeps its weight relative to the sum of the losses.
    expected = heldout_losses(problem, SINGLE, ALPHAS[::6] * 40 / 39)
    choice = choose(problem, "auto", no_folds, spectral_path(problem, "auto", 1e9))
    np.testing.assert_allclose(choice.scores[::6], expected, rtol=1e-6)
    assert choice.alpha == ALPHAS[choice.scores.argmin()]
    assert float((choice.raw - problem.y).square().mean()) == pytest.approx(
        choice.scores.min()
    )


@pytest.mark.parametrize("rule", ["auto", "cv"])
def test_held_out_samples_come_first(rule):
    """Alpha is then converted to the problem on all samples, 4/3 of a training part."""
    problem = problem_of(LogisticLoss())
    expected = heldout_losses(problem, PARTS)
    choice = choose(problem, rule, lambda problem: convex_folds(problem, PARTS))
    n_tried = len(choice.scores)
    np.testing.assert_allclose(choice.scores, expected[:n_tried], rtol=1e-2)
    assert choice.alpha == pytest.approx(0.75 * ALPHAS[expected.argmin()])


@pytest.mark.parametrize("folds", [no_folds, lambda _: []])
def test_newton_steps_without_folds(folds):
    problem = problem_of(LogisticLoss())
    expected = choose(problem, "loo", pytest.fail)
    np.testing.assert_equal(choose(problem, "auto", folds).scores, expected.scores)
    losses = heldout_losses(problem, SINGLE, ALPHAS[:5:4] * 40 / 39)
    np.testing.assert_allclose(expected.scores[:5:4], losses, rtol=1e-2)


@pytest.mark.parametrize(
    ("loss", "rule"), [(SquaredLoss(), "auto"), (LogisticLoss(), "cv")]
)
def test_no_folds_and_no_steps(loss, rule):
    with pytest.raises(NoFolds):
        choose(problem_of(loss), rule, no_folds)


@pytest.mark.parametrize("alpha", ["loo", "0.1", True, -1.0, [], [0.0], [[1.0]], {}])
def test_bad_alpha(alpha):
    with pytest.raises(ValueError, match="alpha must be 'auto', a number >= 0"):
        check_alpha(alpha, ("auto",))


def test_good_alpha():
    assert check_alpha("auto", ("auto",)) == "auto"
    assert check_alpha(np.float32(2), ()) == 2.0
    np.testing.assert_array_equal(check_alpha([3, 1], ()), [3.0, 1.0])


def test_part_of_many_samples_is_left_out(monkeypatch):
    """The errors of these samples are those of the whole problem."""
    problem = problem_of(SquaredLoss())
    path = spectral_path(problem, "primal", 1e9)
    monkeypatch.setattr(_choice, "CHOICE_ROWS", 15)
    part = choose(problem, "loo", no_folds, path)
    rows = ~part.raw.isnan().any(1)
    assert int(rows.sum()) == 15
    errors = path.leave_one_out(torch.tensor(ALPHAS), torch.ones(40).double())
    expected = errors[:, rows].square().mean((1, 2)).numpy()
    np.testing.assert_allclose(part.scores, expected, rtol=1e-10)
    assert part.alpha == ALPHAS[expected.argmin()]
    best = list(ALPHAS).index(part.alpha)
    torch.testing.assert_close(part.raw[rows], (problem.y - errors[best])[rows])


def test_alpha_is_multiplied_by_the_training_fraction():
    """Training and held-out parts need not be complementary."""
    problem = problem_of(SquaredLoss())
    parts = [(np.arange(10), np.arange(20, 25)), (np.arange(5, 35), np.arange(5))]
    found, whole = (
        choose(problem, "cv", lambda problem, kept=kept: convex_folds(problem, kept))
        for kept in (parts, PARTS)
    )
    np.testing.assert_allclose(found.alphas, 0.5 * ALPHAS[: len(found.alphas)])
    np.testing.assert_allclose(whole.alphas, 0.75 * ALPHAS[: len(whole.alphas)])
