"""The choice of a bound among those of several dual points and norm budgets."""

import math

import pytest
import torch

from sklearn_pgb._budget import COEF_BUDGET, ROUGH_BUDGETS
from sklearn_pgb._convex._bound_choice import Minimizer, best_bound, rough_bound
from sklearn_pgb._convex._bounds import Bound, Dual

NOTHING = Bound(0.0, math.inf)


def candidate(norm, *duals):
    """Coefficients of this norm, with dual points (value, residual)."""
    point = torch.zeros(1, 1)
    duals = [Dual(value, residual, point) for value, residual in duals]
    coordinates = torch.tensor([[float(norm)]])
    return Minimizer(2.0, coordinates, point, point, duals, True)


def test_exact_dual_points_allow_the_largest_budget():
    best = candidate(3.0, (1.0, 0.0))
    bound = best_bound([best], best, 1.0, NOTHING)
    assert (bound.value, bound.norm_budget) == (1.0, COEF_BUDGET * 3.0)


def test_budget_is_that_of_the_best_candidate():
    """Longer candidates have larger budgets, which are of no use."""
    best, longer = candidate(2.0, (1.0, 0.0)), candidate(50.0, (1.0, 0.0))
    bound = best_bound([best, longer], best, 1.0, NOTHING)
    assert bound.norm_budget == COEF_BUDGET * 2.0


@pytest.mark.parametrize("choose", [best_bound, rough_bound])
def test_bound_for_all_functions_wins_ties(choose):
    best = candidate(1.0, (0.0, 0.0))
    candidates = [[best]] if choose is best_bound else []
    assert choose(*candidates, best, 1.0, NOTHING) is NOTHING


def test_rough_bound_trades_value_for_budget():
    """A bound that loses its value beyond some norm is used up to it."""
    budgets = sorted(ROUGH_BUDGETS)
    # Nothing is lost at the smallest budget, and everything at the next one.
    best = candidate(1.0, (1.0, 1.0 / budgets[1]))
    bound = rough_bound(best, 1.0, NOTHING)
    assert bound.norm_budget == budgets[0]
    assert bound.value == pytest.approx(1.0 - budgets[0] / budgets[1])
    exact = rough_bound(candidate(1.0, (1.0, 0.0)), 1.0, NOTHING)
    assert exact.norm_budget == budgets[-1]
