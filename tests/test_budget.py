"""Tests of the limits on costs."""

import numpy as np
import pytest

from sklearn_pgb._budget import factorization_flops


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (7, 3), (3, 7), (0, 5)])
def test_cost_is_that_of_the_smaller_gram_matrix(rows, columns):
    A = np.ones((rows, columns))
    gram = A @ A.T if rows <= columns else A.T @ A
    # Each entry of the Gram matrix takes one product per entry of the longer side.
    assert factorization_flops(rows, columns) == gram.size * max(rows, columns)


def test_large_costs_do_not_overflow():
    assert factorization_flops(10**9, 10**9) == pytest.approx(1e27)
