"""Loops of small steps run on few threads, and give them back."""

import pytest
import torch
from sklearn.datasets import load_iris
from threadpoolctl import threadpool_info, threadpool_limits

from sklearn_pgb import AddedNeuronClassifier, ResNetBasisClassifier
from sklearn_pgb._threads import WORTH_A_THREAD, threads_for


def threads():
    """Threads of PyTorch, and of the linear algebra of NumPy and SciPy."""
    blas = {
        info["filepath"]: info["num_threads"]
        for info in threadpool_info()
        if info["user_api"] == "blas"
    }
    return torch.get_num_threads(), blas


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    with threadpool_limits(2, user_api="blas"):
        yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("multiplications", "expected"), [(0, 1), (0.9, 1), (2.5, 2), (3, 3), (100, 3)]
)
def test_threads_by_work(multiplications, expected, three_threads):
    before = threads()
    with threads_for(multiplications * WORTH_A_THREAD):
        n_torch, blas = threads()
        assert n_torch == expected
        assert set(blas.values()) == {1}
    assert threads() == before


def test_threads_return_after_an_error(three_threads):
    before = threads()
    with pytest.raises(KeyError), threads_for(0), threads_for(0):
        raise KeyError
    assert threads() == before


@pytest.mark.parametrize(
    "model",
    [
        AddedNeuronClassifier((4,), n_starts=2, max_iter=3),
        AddedNeuronClassifier((4,), solver="lbfgs", max_iter=3),
        ResNetBasisClassifier(hidden_layer_sizes=(4,), max_iter=3),
    ],
)
def test_fit_gives_threads_back(model, three_threads):
    before = threads()
    model.fit(*load_iris(return_X_y=True))
    assert threads() == before
