"""Losses against hand values, numerical twins and autograd."""

import ast
import inspect
import math
import re
import sys

import numpy as np
import oracles
import pytest
import torch
from torch.testing import assert_close

from sklearn_pgb import (
    AddedNeuronClassifier,
    AddedNeuronRegressor,
    GradientBasis,
    GradientBasisRefit,
    LayerBasis,
    PerturbedGradientBasis,
    ResNetBasisClassifier,
    ResNetBasisRegressor,
    certify,
    compare_bases,
)
from sklearn_pgb._losses._classification import (
    CrossEntropyLoss,
    LogisticLoss,
    SmoothedHingeLoss,
)
from sklearn_pgb._losses._floor import pure_error_floor
from sklearn_pgb._losses._named import (
    CLASSIFICATION,
    LOSSES,
    MODULE_LOSSES,
    OF_MEANS,
    REGRESSION,
    loss_with,
    one_of,
)
from sklearn_pgb._losses._regression import HuberLoss, PoissonLoss, SquaredLoss

ALL = [*oracles.LOSSES, SmoothedHingeLoss(power=1.5)]
all_losses = pytest.mark.parametrize("loss", ALL, ids=repr)


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def sample(loss, seed, n_samples=6):
    """Random encoded targets, raw outputs and directions."""
    generator = torch.Generator().manual_seed(seed)
    y = oracles.random_targets(loss, n_samples, generator)
    raw, direction = torch.randn(
        (2, *y.shape), generator=generator, dtype=torch.float64
    )
    return y, raw, direction


def dense_root(loss, y, raw):
    root = loss.hessian_root(y, raw)
    return torch.diag_embed(root) if root.ndim == 2 else root


@all_losses
def test_gradient_and_hessian(loss, seed):
    """Gradient, Hessian product and Hessian root agree with autograd."""
    y, raw, direction = sample(loss, seed)
    gradient, hessian = oracles.derivatives(loss, y, raw)
    assert_close(loss.gradient(y, raw), gradient, rtol=1e-12, atol=1e-12)
    both = loss.value_and_gradient(y, raw)
    assert_close(both, (loss.value(y, raw), gradient), rtol=1e-12, atol=1e-12)
    product = (hessian @ direction[:, :, None])[:, :, 0]
    assert_close(loss.hessian(y, raw)(direction), product, rtol=1e-12, atol=1e-12)
    root = dense_root(loss, y, raw)
    assert_close(root.mT @ root, hessian, rtol=1e-12, atol=1e-12)


@all_losses
def test_CV_1_conjugates(loss, seed):
    """Conjugates equal a numerical maximization over raw outputs."""
    y, raw, _ = sample(loss, seed)
    dual = loss.gradient(y, raw)
    # Start away from the maximiser, which is raw itself.
    numeric = oracles.conjugate(loss, y, dual, 0.5 * raw)
    assert_close(loss.conjugate(y, dual), tensor(numeric), rtol=0, atol=1e-8)


@all_losses
def test_fenchel_equality(loss, seed):
    """At ``u = gradient(q)`` the conjugate is ``u.q - l(q)``."""
    y, raw, _ = sample(loss, seed, n_samples=50)
    dual = loss.gradient(y, raw)
    expected = (dual * raw).sum(1) - loss.value(y, raw)
    assert_close(loss.conjugate(y, dual), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("loss", "y", "dual", "value"),
    [
        (LogisticLoss(), [0.0], [0.3], -0.6108643020549),
        (LogisticLoss(), [1.0], [-0.3], -0.6108643020549),
        (CrossEntropyLoss(), [0.2, 0.5, 0.3], [-0.1, -0.2, 0.3], -0.8979457248568),
        (SmoothedHingeLoss(), [1.0], [-0.7], -0.5775),
        (SmoothedHingeLoss(power=3.0), [1.0], [-0.7], -0.4745785839482),
        (SmoothedHingeLoss(power=1.5), [-1.0], [0.7], -0.6491851851852),
        (SquaredLoss(), [2.0], [3.0], 8.25),
        (PoissonLoss(), [2.0], [1.0], 3 * np.log(3) - 3),
        (HuberLoss(), [2.0], [2.7], 2.7 * 2 + 1.35**2),
        (HuberLoss(), [2.0], [-2.701], np.inf),
    ],
    ids=str,
)
def test_CV_1_fixed_values(loss, y, dual, value):
    """Conjugates take the values computed by hand."""
    result = loss.conjugate(tensor([y]), tensor([dual]))
    assert_close(result, tensor([value]), rtol=0, atol=1e-12)


@all_losses
def test_conjugate_domain(loss, seed):
    """The conjugate is finite up to the dual bounds and infinite beyond them."""
    y, _, _ = sample(loss, seed)
    lower, upper = loss.dual_bounds(y)
    if loss.dual_rows_sum_to_zero:
        corner = torch.eye(3, dtype=torch.float64)[0] - y
        slope = tensor([1.0, -1.0, 0.0])
        for inside in [corner, corner + 1e-13 * slope]:
            assert loss.conjugate(y, inside).isfinite().all()
        for outside in [corner + 1e-3 * slope, corner + 1e-3]:
            assert loss.conjugate(y, outside).isinf().all()
        return
    for bound, side in [(lower, -1.0), (upper, 1.0)]:
        at_bound = torch.where(bound.isfinite(), bound, side)
        outside = bound.isfinite().any(1)
        assert loss.conjugate(y, at_bound).isfinite().all()
        assert loss.conjugate(y, at_bound + side * 1e-13).isfinite().all()
        beyond = loss.conjugate(y, at_bound + side * 1e-3)
        assert_close(beyond.isinf(), outside)


@all_losses
def test_minimum(loss, seed):
    """The minimum is the numerical one, and minus the conjugate at zero."""
    y, _, _ = sample(loss, seed)
    numeric = oracles.pooled_minimum(loss, y, torch.ones(len(y)), range(len(y)), len(y))
    # Unattained infima are approached like exp(-|q|), which BFGS leaves early.
    assert_close(loss.minimum(y), tensor(numeric), rtol=0, atol=1e-8)
    zero = torch.zeros_like(y)
    assert_close(-loss.conjugate(y, zero), loss.minimum(y), rtol=0, atol=1e-12)


@all_losses
def test_pooled_minimum(loss, seed):
    """Group minima equal numerical ones, and the raw outputs attain them."""
    y, _, _ = sample(loss, seed)
    group = torch.arange(6) % 3
    weight = torch.linspace(0.5, 2.0, 6, dtype=torch.float64)
    pooled = loss.pooled_minimum(y, weight, group, 3)
    numeric = oracles.pooled_minimum(loss, y, weight, group, 3)
    assert_close(pooled.value, tensor(numeric), rtol=0, atol=1e-8)
    assert_close(pooled.raw.isfinite().all(1), pooled.attained)
    # Ends of the line stand for the infinite entries of unattained infima.
    raw = pooled.raw.clamp(-600, 600)[group]
    reached = torch.zeros(3, dtype=torch.float64)
    reached.index_add_(0, group, weight * loss.value(y, raw))
    assert_close(reached, pooled.value, rtol=1e-12, atol=1e-12)


def test_pooled_minimum_attained():
    """The minimum of groups with one label is at infinity."""
    weight, group = tensor([0.1, 0.2, 0.7, 0.3]), torch.tensor([0, 0, 1, 1])
    logistic = LogisticLoss().pooled_minimum(
        tensor([[1.0], [1.0], [0.0], [1.0]]), weight, group, 2
    )
    assert_close(logistic.attained, torch.tensor([False, True]))
    assert_close(logistic.raw, tensor([[np.inf], [np.log(0.3 / 0.7)]]))
    softmax = CrossEntropyLoss().pooled_minimum(
        tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1]]), weight, group, 2
    )
    assert_close(softmax.attained, torch.tensor([False, False]))
    assert_close(softmax.raw.exp(), tensor([[1 / 3, 2 / 3, 0], [0, 0, 1]]))
    poisson = PoissonLoss().pooled_minimum(
        tensor([[0.0], [0.0], [0.0], [3.0]]), weight, group, 2
    )
    assert_close(poisson.attained, torch.tensor([False, True]))
    assert_close(poisson.raw, tensor([[-np.inf], [np.log(0.9)]]))
    hinge = SmoothedHingeLoss().pooled_minimum(
        tensor([[1.0], [1.0], [-1.0], [1.0]]), weight, group, 2
    )
    assert_close(hinge.attained, torch.tensor([True, True]))
    assert_close(hinge.raw[0], tensor([1.0]))


def test_AN_0_floor():
    """The pure-error floor has its closed form, and so has the distance to it."""
    x = np.array([[0.0], [-0.0], [1.0], [1.0], [1.0], [2.0]])
    x.setflags(write=False)
    y = tensor([[0.0], [1.0], [2.0], [2.0], [5.0], [-1.0]])
    weight = torch.full((6,), 1 / 6, dtype=torch.float64)
    floor = pure_error_floor(x, y, SquaredLoss(), weight)
    assert floor.attained
    assert floor.value == pytest.approx(13 / 12, abs=1e-12)

    raw = tensor([[0.3], [-0.2], [0.9]])[floor.group]
    loss = (weight * SquaredLoss().value(y, raw)).sum().item()
    assert loss == pytest.approx(6.818333333333333, abs=1e-12)
    residual = weight[:, None] * SquaredLoss().gradient(y, raw)
    sums = torch.zeros(3, 1, dtype=torch.float64).index_add(0, floor.group, residual)
    distance = (
        (sums[:, 0] ** 2 / (4 * floor.group.bincount().double() / 6)).sum().item()
    )
    assert distance == pytest.approx(5.735, abs=1e-12)
    assert loss - floor.value == pytest.approx(5.735, abs=1e-12)


@pytest.mark.parametrize("scale", [1e-6, 0.3, 7.0, 1e9])
@pytest.mark.parametrize("loss", [SquaredLoss(), HuberLoss()], ids=repr)
def test_units_of_standardizable_losses(loss, scale, seed):
    """Targets divided by s divide the loss, in these units, by its square."""
    y, raw, _ = sample(loss, seed)
    divided = loss.in_units(scale).value(y / scale + 3, raw / scale + 3)
    assert_close(divided * scale**2, loss.value(y, raw), rtol=1e-5, atol=1e-12)
    assert [other.name for other in LOSSES.values() if other.standardizable] == [
        "squared_error",
        "huber",
    ]


def test_huber_location():
    """The median if delta is small, the mean if it is large, else by hand."""
    y = tensor([[0.0], [1.0], [2.0], [9.0], [4.0], [4.0]])
    weight, group = tensor([1, 1, 1, 1, 2, 3]), torch.tensor([0, 0, 0, 0, 1, 1])
    for delta, location in (100, 3.0), (3, 2.0), (1e-3, 1.5):
        pooled = HuberLoss(delta).pooled_minimum(y, weight, group, 2)
        assert pooled.raw[1] == 4
        assert pooled.value[1] == 0
        if delta > 1:
            assert_close(pooled.raw[0], tensor([location]), rtol=1e-14, atol=0)
    # Any point between the middle targets is best for a tiny delta.
    assert 1 <= pooled.raw[0] <= 2
    tiny = HuberLoss().pooled_minimum(
        tensor([[0.0], [5e-324]]), weight[:2], torch.zeros(2, dtype=torch.long), 1
    )
    assert tiny.value == 0


@pytest.mark.parametrize(
    ("power", "raw", "value"),
    [(2.0, 0.5, 3.0), (3.0, 0.267949192431, 3.215390309173)],
)
def test_AN_0_hinge(power, raw, value):
    """Three positive and one negative label have the closed form."""
    loss = SmoothedHingeLoss(power=power)
    y = loss.encode(tensor([[1.0], [1.0], [1.0], [0.0]]))
    pooled = loss.pooled_minimum(
        y, torch.ones(4, dtype=torch.float64), torch.zeros(4, dtype=torch.long), 1
    )
    assert_close(pooled.value, tensor([value]), rtol=0, atol=1e-10)
    assert_close(pooled.raw, tensor([[raw]]), rtol=0, atol=1e-10)


@all_losses
def test_floor_of_distinct_inputs(loss, seed):
    """With distinct inputs of any rank the floor is the sum of the minima."""
    y, _, _ = sample(loss, seed)
    weight = torch.linspace(0.5, 2.0, len(y), dtype=torch.float64)
    X = torch.arange(4 * len(y), dtype=torch.float64).reshape(-1, 2, 2)
    floor = pure_error_floor(X, y, loss, weight)
    assert_close(floor.value, float(weight @ loss.minimum(y)), rtol=1e-12, atol=1e-12)


def test_predict():
    """Predictions are means or probabilities."""
    raw = tensor([[0.0, np.log(3.0)]])
    for loss in [SquaredLoss(), SmoothedHingeLoss()]:
        assert_close(loss.predict(raw), raw)
    assert_close(CrossEntropyLoss().predict(raw), tensor([[0.25, 0.75]]))
    assert_close(LogisticLoss().predict(raw), tensor([[0.5, 0.75]]))
    assert_close(PoissonLoss().predict(raw), tensor([[1.0, 3.0]]))


def test_encode():
    """Targets are smoothed, or moved to the signs that the hinge wants."""
    y = tensor([[1.0, 0.0]])
    assert_close(SmoothedHingeLoss().encode(y), tensor([[1.0, -1.0]]))
    assert_close(CrossEntropyLoss(label_smoothing=0.2).encode(y), tensor([[0.9, 0.1]]))
    assert_close(LogisticLoss(label_smoothing=0.2).encode(y), tensor([[0.9, 0.1]]))
    third = torch.full((1, 3), 1 / 3, dtype=torch.float32).double()
    assert CrossEntropyLoss().encode(third).sum().item() == pytest.approx(1, abs=1e-15)


def test_tails():
    """Small losses keep their digits, and large ones stay finite."""
    y, good = tensor([[0.0, 1.0]]), tensor([[-40.0, 40.0]])
    for loss in [LogisticLoss(), CrossEntropyLoss()]:
        assert loss.value(y, -1e4 * good).isfinite().all()
        assert loss.gradient(y, -1e4 * good).isfinite().all()
    tail = np.exp(-40.0)
    value = LogisticLoss().value(y, good)
    assert_close(value, tensor([2 * tail]), rtol=1e-12, atol=0)
    gradient = LogisticLoss().gradient(y, good)
    assert_close(gradient, tensor([[tail, -tail]]), rtol=1e-12, atol=0)


def test_flags():
    """Only the squared loss is quadratic, only softmax duals sum to zero."""
    assert [loss.quadratic for loss in ALL] == [True] + 10 * [False]
    centered = [isinstance(loss, CrossEntropyLoss) for loss in ALL]
    assert [loss.dual_rows_sum_to_zero for loss in ALL] == centered


@pytest.mark.parametrize("loss_class", [CrossEntropyLoss, LogisticLoss])
@pytest.mark.parametrize("label_smoothing", [-0.1, 1.0, np.nan])
def test_label_smoothing_error(loss_class, label_smoothing):
    with pytest.raises(ValueError, match=r"label_smoothing must be in \[0, 1\), got"):
        loss_class(label_smoothing=label_smoothing)


@pytest.mark.parametrize("delta", [0.0, -1.0, np.nan])
def test_huber_delta_error(delta):
    with pytest.raises(ValueError, match=r"delta must be > 0, got .*Use 1.35"):
        HuberLoss(delta=delta)


@pytest.mark.parametrize("power", [1.0, 0.5, np.nan])
def test_hinge_power_error(power):
    with pytest.raises(ValueError, match=r"power must be > 1, got .*use 2"):
        SmoothedHingeLoss(power=power)


@pytest.mark.parametrize(
    ("loss", "y", "message"),
    [
        (CrossEntropyLoss(), [[0.5, 0.4]], "y must be one-hot or probability rows"),
        (CrossEntropyLoss(), [[1.5, -0.5]], "y must be one-hot or probability rows"),
        (LogisticLoss(), [[-1.0, 1.0]], r"y must be in \[0, 1\] .* from -1 to 1"),
        (SmoothedHingeLoss(), [[-1.0, 1.0]], "y must be 0/1 indicators"),
        (PoissonLoss(), [[-2.0, 1.0]], "y must be >= 0 .* got -2"),
    ],
    ids=str,
)
def test_encode_errors(loss, y, message):
    """Targets that the loss cannot take are refused."""
    with pytest.raises(ValueError, match=message):
        loss.encode(tensor(y))


def test_prediction_of_counts_is_finite():
    raw = torch.tensor([[-1e4, 0.0, 700.0, 1e4]], dtype=torch.float64)
    expected = [[0.0, 1.0, math.exp(700.0), sys.float_info.max]]
    assert PoissonLoss().predict(raw).tolist() == expected


# -- losses by name ------------------------------------------------------------------

OF_MODULES = [name for name in MODULE_LOSSES if name != "auto"]
DOCUMENTED = {
    AddedNeuronRegressor: REGRESSION,
    ResNetBasisRegressor: REGRESSION,
    AddedNeuronClassifier: CLASSIFICATION,
    ResNetBasisClassifier: CLASSIFICATION,
    GradientBasisRefit: ["auto", *OF_MEANS],
    compare_bases: ["auto", *OF_MEANS],
    certify: OF_MODULES,
    GradientBasis: OF_MODULES,
    LayerBasis: OF_MODULES,
    PerturbedGradientBasis: OF_MODULES,
}


@pytest.mark.parametrize("thing", DOCUMENTED, ids=lambda thing: thing.__name__)
def test_documented_losses_are_those_of_the_table(thing):
    listed = re.search(r"^loss : \{(.*?)\}", inspect.getdoc(thing), re.M)[1]
    assert set(ast.literal_eval(f"[{listed}]")) == set(DOCUMENTED[thing])


def test_names_of_losses():
    """Each loss has its own name; parameters of estimators become its fields."""
    assert all(loss.name == name for name, loss in LOSSES.items())
    for loss in LOSSES.values():
        defaults = {key: getattr(loss, field) for key, field in loss.parameters.items()}
        assert loss_with({"loss": loss.name, "alpha": 1.0} | defaults) == loss
    hinge = loss_with({"loss": "smoothed_hinge", "hinge_power": 3.0})
    assert hinge == SmoothedHingeLoss(power=3.0)
    assert one_of(["a", "b", "c"]) == "'a', 'b' or 'c'"
    assert one_of(["a"]) == "'a'"


@all_losses
def test_loss_of_means_is_that_of_raw_outputs(loss, seed):
    """`link` is the inverse of `predict`, up to a constant for the softmax."""
    y, raw, _ = sample(loss, seed)
    mean = loss.predict(raw)
    assert_close(loss.predict(loss.link(mean)), mean, rtol=1e-12, atol=1e-12)
    assert_close(loss.value_of_mean(y, mean), loss.value(y, raw))


@pytest.mark.parametrize("loss", [PoissonLoss(), CrossEntropyLoss(), LogisticLoss()])
def test_loss_of_impossible_means_is_finite(loss):
    mean = tensor([[0.0, 1.0]])
    assert loss.value_of_mean(1 - mean, mean).isfinite().all()
    assert loss.value_of_mean(mean, mean).isfinite().all()
