"""Gram matrices by BLAS' symmetric product."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from sklearn_pgb._operators import _gram


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("shape", [(30, 7), (3, 7), (0, 7), (30, 0), (1, 1)])
def test_gram_is_the_product(dtype, shape, generator, monkeypatch):
    """Also of rows that do not lie next to each other; mirrored in several blocks."""
    monkeypatch.setattr(_gram, "MIRROR_ROWS", 3)
    A = torch.randn(2 * shape[0], shape[1], generator=generator).to(dtype)[::2]
    before = A.clone()
    result = _gram.gram(A)
    assert result.dtype == dtype
    expected = A.double().numpy().T @ A.double().numpy()
    rtol = 1e-12 if dtype == torch.float64 else 1e-5
    np.testing.assert_allclose(result.double(), expected, rtol=rtol, atol=rtol)
    assert_close(A, before, rtol=0, atol=0)
    twice = _gram.gram(A)
    _gram.add_gram(A, twice)
    assert_close(_gram.mirrored(twice), 2 * result)
