"""Operators in blocks of samples against the same operators in one piece."""

import pytest
import torch

from sklearn_pgb._operators import _blocked
from sklearn_pgb._operators._blocked import BlockedOperator
from sklearn_pgb._operators._dense import DenseOperator, KroneckerOperator
from sklearn_pgb._operators._leaves import LeafOperator
from sklearn_pgb._operators._stacked import StackedOperator

N = 11


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(_blocked, "SAMPLE_BLOCK", 4)


def pieces(generator):
    """Operators on eleven samples, with two outputs."""
    dense = torch.randn(N, 2, 5, generator=generator, dtype=torch.float64)
    leaves = torch.randint(0, 3, (N, 4), generator=generator)
    scale = torch.rand(4, generator=generator, dtype=torch.float64)
    trees = LeafOperator(leaves, [3] * 4, scale, None, 2)
    ones = KroneckerOperator(torch.ones(N, 1, dtype=torch.float64), 2)
    return [
        DenseOperator(dense),
        trees,
        StackedOperator([trees, ones], [0.5, 2.0]),
        StackedOperator([DenseOperator(dense), trees], [1.0, 3.0]),
    ]


@pytest.mark.parametrize("number", range(4))
def test_blocks_equal_the_whole(number, generator):
    whole = pieces(generator)[number]
    samples = torch.arange(N)
    blocked = BlockedOperator(lambda rows: whole.rows(samples[rows]), N)
    coef = torch.randn(whole.n_coef, generator=generator, dtype=torch.float64)
    residual = torch.randn(N, 2, generator=generator, dtype=torch.float64)
    root = torch.rand(N, 2, generator=generator, dtype=torch.float64)
    index = torch.tensor([7, 0, 3, 10, 9, 2])
    pairs = {
        "matvec": (blocked.matvec(coef), whole.matvec(coef)),
        "rmatvec": (blocked.rmatvec(residual), whole.rmatvec(residual)),
        "dense": (blocked.dense(slice(2, 9)), whole.dense(slice(2, 9))),
        "normal": (blocked.normal(root), whole.normal(root)),
        "unweighted": (blocked.normal(), whole.normal()),
        "gram": (blocked.gram(), whole.gram()),
        "squared_row_norms": (blocked.squared_row_norms(), whole.squared_row_norms()),
        "few rows": (blocked.rows(index[:3]).dense(), whole.rows(index[:3]).dense()),
        "rows": (blocked.rows(index).dense(), whole.rows(index).dense()),
        "sketch": (
            blocked.sketch(3, torch.Generator().manual_seed(1)),
            whole.sketch(3, torch.Generator().manual_seed(1)),
        ),
    }
    for name, (actual, expected) in pairs.items():
        torch.testing.assert_close(actual, expected, msg=lambda m, n=name: f"{n}: {m}")
    covered = torch.cat([dense for _, dense in blocked.blocks()])
    torch.testing.assert_close(covered, whole.dense())
