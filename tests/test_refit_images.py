"""Refits of the package's own networks on images."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from sklearn.compose import TransformedTargetRegressor
from sklearn.frozen import FrozenEstimator
from sklearn.preprocessing import StandardScaler
from torch import nn

from sklearn_pgb import (
    AddedNeuronClassifier,
    AddedNeuronRegressor,
    GradientBasisRefit,
    ResNetBasisRegressor,
)

IMAGES = np.random.default_rng(0).normal(size=(50, 1, 5, 5))
Y = IMAGES[:, 0, :3, :3].sum((1, 2))


def convolution(n_outputs=1):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(18, n_outputs)
    )


def added_neurons(kind=AddedNeuronRegressor, n_outputs=1):
    return kind(module=lambda: convolution(n_outputs), max_iter=3, random_state=0)


def test_refit_of_a_trained_network_is_that_of_its_module():
    network = added_neurons().fit(IMAGES, Y)
    refit = GradientBasisRefit(FrozenEstimator(network), alpha=0.1).fit(IMAGES, Y)
    module = GradientBasisRefit(network.module_, loss="squared_error", alpha=0.1)
    module.fit(IMAGES, Y)
    assert_allclose(refit.predict(IMAGES), module.predict(IMAGES), rtol=1e-6)
    assert refit.rank_ == module.rank_


@pytest.mark.parametrize(
    "network",
    [
        added_neurons(),
        TransformedTargetRegressor(added_neurons(), transformer=StandardScaler()),
        ResNetBasisRegressor(module=lambda: convolution(3), max_iter=3),
        added_neurons(AddedNeuronClassifier, 2),
    ],
    ids=["added neurons", "target", "resnet", "classifier"],
)
def test_networks_are_trained_on_images(network):
    y = Y > 0 if isinstance(network, AddedNeuronClassifier) else Y
    refit = GradientBasisRefit(network, cv=2, random_state=0).fit(IMAGES, y)
    assert refit.score(IMAGES, y) > 0.8
    with pytest.raises(ValueError, match=r"shape \(1, 5, 5\), as in fit"):
        refit.predict(IMAGES[:, :, :4])


def test_networks_without_module_take_no_images():
    refit = GradientBasisRefit(AddedNeuronRegressor(3, max_iter=3), cv=2)
    with pytest.raises(ValueError, match="dim 4, while dim <= 2 is required"):
        refit.fit(IMAGES, Y)
