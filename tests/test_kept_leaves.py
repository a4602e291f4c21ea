"""Leaf numbers of many samples are found once."""

import numpy as np
import pytest
import torch
from table_cases import X, Y, regressor

from sklearn_pgb._refit import _fold_models
from sklearn_pgb._refit._fold_models import KeptLeaves
from sklearn_pgb._tables import _folds, _members


@pytest.mark.parametrize("most", [2, 256, 257, 2**15 + 1])
def test_numbers_of_any_size(most):
    rng = np.random.default_rng(0)
    numbers = torch.from_numpy(rng.integers(0, most, size=(40, 3)).astype(np.int32))
    numbers[7] = most - 1
    calls = []

    def compute(rows):
        calls.append(rows)
        return numbers[rows]

    index = torch.arange(5, 30)
    kept = KeptLeaves(compute, index, 40, [2, most, 2])
    assert len(calls) == 1
    for rows in (index, torch.tensor([29, 5, 7]), slice(6, 9)):
        assert torch.equal(kept(rows), numbers[rows])
        assert kept(rows).dtype == torch.int32
    assert len(calls) == 1
    # Other samples are computed.
    assert torch.equal(kept(torch.tensor([5, 31])), numbers[[5, 31]])
    assert len(calls) == 2


def test_predictions_do_not_depend_on_what_is_kept(monkeypatch):
    for module in (_folds, _fold_models, _members):
        monkeypatch.setattr(module, "MANY_SAMPLES", 50)
    made = []

    def spy(*parts):
        made.append(KeptLeaves(*parts))
        return made[-1]

    monkeypatch.setattr(_fold_models, "KeptLeaves", spy)
    kept = regressor().fit(X, Y["real"]).predict(X)
    # Boosted trees and the forest, of two folds.
    assert len(made) == 4
    monkeypatch.setattr(_fold_models, "KEPT_LEAVES", 0)
    np.testing.assert_array_equal(regressor().fit(X, Y["real"]).predict(X), kept)
    assert len(made) == 4
