"""Samples of any container."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from numpy.testing import assert_allclose, assert_array_equal

from sklearn_pgb._samples import Samples, bounded_weights, check_groups

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


@pytest.mark.parametrize(
    "groups",
    [
        ["a", None, "b", "b"],
        [1.0, 2.0, np.nan, np.nan],
        pd.Series(["a", "b", None, "b"], dtype="string"),
        pd.Series([1, None, 2, 2], dtype="Int64"),
        pd.to_datetime(["2020-01-01", None, "2021-01-01", "2021-01-01"]),
    ],
    ids=["objects", "numbers", "strings", "integers", "dates"],
)
def test_missing_groups(groups):
    with pytest.raises(ValueError, match=r"no missing values, got \d in 4 samples"):
        check_groups(groups, ROWS)


def test_groups_of_several_types():
    with pytest.raises(TypeError, match=r"values of one type, .*, got int, str"):
        check_groups(np.array(["a", 1, "b", 2], object), ROWS)


def test_groups_of_another_shape():
    with pytest.raises(ValueError, match=r"one value per sample, got .* \(4, 3\)"):
        check_groups(ROWS, ROWS)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        check_groups([1, 2], ROWS)


def test_factors_of_samples_without_weight_do_not_count():
    """A factor of 1e300 would make the others vanish; ratios of the rest stay."""
    found = bounded_weights(np.array([1.0, 2.0, 0.0]), np.array([1.0, 3.0, 1e300]))
    assert_array_equal(found, [1, 6, 0])
    extreme = bounded_weights(np.array([1e-300, 3e-300]), np.array([1e-300, 1e-300]))
    assert extreme[1] / extreme[0] == pytest.approx(3)
    assert 2.0**-66 < extreme.max() < 1
