"""The layer of a module that an error message names."""

import pytest
import torch
from torch import nn

from sklearn_pgb._models._layer_trace import differ, failing_layer, mixing_layer
from sklearn_pgb._models._module import ModuleNetwork


class Mixing(nn.Module):
    """Outputs of a sample depend on the batch."""

    def forward(self, h):
        return h - h.mean(0)


class Detached(nn.Module):
    """In-place changes of what the backward pass needs."""

    def forward(self, h):
        out = h.exp()
        out.mul_(2)
        return out


def network(layer):
    torch.manual_seed(0)
    return ModuleNetwork(nn.Sequential(nn.Linear(3, 4), layer, nn.Linear(4, 1)))


@pytest.fixture
def rows():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(4, 3, generator=generator, dtype=torch.float64)


def test_first_layer_that_mixes_samples(rows):
    """Not the layers after it, whose inputs are mixed already."""
    mixing = network(Mixing())
    assert mixing_layer(mixing, mixing.theta, rows) == "its layer '1' (Mixing)"
    clean = network(nn.Tanh())
    assert mixing_layer(clean, clean.theta, rows) == clean.name


def test_first_layer_without_a_backward_pass(rows):
    broken = network(Detached())
    found = failing_layer(broken, broken.theta, rows[:1])
    assert found == "its layer '1' (Detached)"
    clean = network(nn.Tanh())
    assert failing_layer(clean, clean.theta, rows[:1]) == clean.name


def test_outputs_differ_by_more_than_rounding(rows):
    assert not differ(rows * (1 + 1e-15), rows)
    assert differ(rows + 1e-3, rows)
    assert differ(rows[:2], rows)
    assert differ(torch.full_like(rows, torch.nan), rows)
