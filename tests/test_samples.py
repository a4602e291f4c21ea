"""Samples of any container."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from numpy.testing import assert_allclose, assert_array_equal

from sklearn_pgb._samples import Samples

ROWS = np.arange(12.0).reshape(4, 3)
WEIGHT = np.array([1.0, 2.0, 3.0, 4.0])


def several(X):
    return torch.from_numpy(X), torch.from_numpy(2 * X)


@pytest.mark.parametrize(
    "container",
    [np.asarray, sp.csr_array, pd.DataFrame, torch.from_numpy, list, several],
)
def test_rows_of_any_container(container):
    index = np.array([3, 1])
    samples = Samples(container(ROWS), torch.arange(4), WEIGHT, weighted=False)
    part = samples.rows(index)
    X = part.X
    if isinstance(X, tuple):
        assert_array_equal(X[1], 2 * ROWS[index])
        X = X[0]
    assert_array_equal(X.toarray() if sp.issparse(X) else X, ROWS[index])
    assert part.y.tolist() == [3, 1]
    assert part.total == 6
    assert_allclose(part.normalized_weight, [2 / 3, 1 / 3])
    assert not part.weighted
