"""Targets: encoding, decoding, units and weights, against closed forms."""

import numpy as np
import pytest
import torch
from added_neuron_cases import huber
from numpy.testing import assert_allclose
from sklearn.metrics import r2_score
from sklearn.preprocessing import LabelBinarizer

from sklearn_pgb._losses._classification import (
    CrossEntropyLoss,
    LogisticLoss,
    SmoothedHingeLoss,
)
from sklearn_pgb._losses._regression import HuberLoss, PoissonLoss, SquaredLoss
from sklearn_pgb._targets import LabelTargets, RealTargets, class_weights

LABELS = np.array(["b", "a", "c", "b", "a"])
BINARY = np.array(["no", "yes", "no", "yes", "yes"])
INDICATORS = np.array([[0, 1, 1], [1, 0, 0], [0, 0, 1], [1, 1, 0], [0, 0, 0]])
WEIGHT = np.array([0.5, 1.0, 2.0, 1.0, 0.25])


@pytest.mark.parametrize("n_targets", [1, 3])
def test_units_standardize_targets(n_targets, seed):
    """Encoded targets have mean zero and, over all columns, variance one."""
    y = 1e3 + 5 * np.random.default_rng(seed).normal(size=(5, n_targets))
    targets = RealTargets.of(y, SquaredLoss())
    center, scale = targets.scaling(y, WEIGHT)
    encoded = targets.encode(y, n_targets, center, scale).numpy()
    weight = WEIGHT / WEIGHT.sum()
    assert_allclose(weight @ encoded, np.zeros(n_targets), atol=1e-12)
    assert_allclose((weight @ encoded**2).mean(), 1, rtol=1e-12)
    raw = encoded * scale + center
    assert_allclose(targets.decode(raw), y.ravel() if n_targets == 1 else y)


@pytest.mark.parametrize("delta", [0.3, 2.0])
def test_best_constant_of_the_huber_loss_has_loss_one(delta, seed):
    """Decay and tolerances then have the meaning of the squared loss."""
    y = 7 + np.random.default_rng(seed).standard_t(1, size=(50, 1))
    weight = np.arange(1.0, 51)
    targets = RealTargets.of(y, HuberLoss(delta))
    center, scale = targets.scaling(y, weight)
    encoded = targets.encode(y, 1, center, scale).numpy()
    loss = huber(delta / scale)
    weight /= weight.sum()
    assert_allclose(weight @ loss(encoded, 0.0), 1, rtol=1e-9)
    for other in -0.1, 0.1:
        assert weight @ loss(encoded, other) > 1
    center, scale = RealTargets.of(y, HuberLoss(1e-9)).scaling(y, weight)
    assert_allclose(scale, 0.1 * weight @ np.abs(y - center))


def test_counts_are_not_standardized():
    """Training starts at the log of the mean counts, and divides by the mean."""
    y = np.array([[0.0, 0], [2, 0], [1, 0], [4, 0], [0, 0]])
    targets = RealTargets.of(y, PoissonLoss())
    center, scale = targets.scaling(y, WEIGHT)
    assert (center.tolist(), scale) == ([0.0, 0.0], 1.0)
    start, constant = targets.initial_biases(y, WEIGHT)
    assert_allclose(np.exp(start), [8 / 4.75, 0.5 / 4.75])
    assert not constant
    assert_allclose(targets.loss_unit(y, WEIGHT), 4 / 4.75)
    assert_allclose(targets.decode(start[None]), np.exp(start[None]))


def test_constant_targets_keep_their_units():
    y = np.full((5, 1), 0.1)
    targets = RealTargets.of(y, SquaredLoss())
    center, scale = targets.scaling(y, WEIGHT)
    assert (center.tolist(), scale) == ([0.1], 1.0)
    assert targets.initial_biases(y, WEIGHT)[1]


@pytest.mark.parametrize(
    ("y", "n_outputs", "loss"),
    [
        (LABELS, 3, CrossEntropyLoss(0.1)),
        (BINARY, 1, LogisticLoss(0.1)),
        (BINARY, 2, CrossEntropyLoss(0.1)),
        (INDICATORS, 3, LogisticLoss(0.1)),
    ],
    ids=["classes", "one output", "two outputs", "labels"],
)
def test_labels_are_decoded(y, n_outputs, loss):
    """Decoding is the inverse of encoding."""
    targets = LabelTargets.of(y, CrossEntropyLoss(0.1))
    assert targets.loss_for(n_outputs) == loss
    columns = targets.columns(y, n_outputs)
    if y.ndim == 1 and n_outputs != 2:
        assert_allclose(columns, LabelBinarizer().fit_transform(y))
    raw = columns - 0.5
    assert np.array_equal(targets.decode(raw), y)
    probability = targets.probabilities(raw)
    assert_allclose(np.exp(targets.log_probabilities(raw)), probability, rtol=1e-12)
    predicted = loss.predict(torch.from_numpy(raw)).numpy()
    assert_allclose(probability[:, -1], predicted[:, -1], rtol=1e-12)
    decision = targets.decision(raw)
    if len(targets.classes) == 2:
        expected = np.log(probability[:, 1] / probability[:, 0])
        assert_allclose(decision, expected, rtol=1e-12)
    else:
        assert np.array_equal(decision, raw)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_start_of_classes_without_weight(label_smoothing):
    """Without smoothing, their best output is infinite."""
    absent = -10.0 * (label_smoothing == 0)
    loss = CrossEntropyLoss(label_smoothing)
    present = LABELS != "c"
    targets = LabelTargets.of(LABELS, loss)
    start, _ = targets.initial_biases(LABELS[present], WEIGHT[present])
    assert_allclose(start, [0, 0, absent])
    targets = LabelTargets.of(BINARY, loss)
    for label, expected in ("no", absent), ("yes", -absent):
        kept = BINARY == label
        assert_allclose(
            targets.initial_biases(BINARY[kept], WEIGHT[kept])[0], [expected]
        )
    assert_allclose(targets.initial_biases(BINARY, WEIGHT)[0], [0])
    for other, y in (SmoothedHingeLoss(), LABELS), (loss, INDICATORS):
        one = LabelTargets.of(y, other)
        assert_allclose(one.initial_biases(y[:1], WEIGHT[:1])[0], np.zeros(3))


def test_class_weights_are_those_of_repeated_samples():
    y = np.array(["a", "b", "b", "c", "c", "c"])
    weight = np.array([2.0, 1, 1, 1, 0, 3])
    repeated = np.repeat(y, weight.astype(int))
    expected = {k: 8 / 3 / np.sum(repeated == k) for k in "abc"}
    found = class_weights("balanced", y, weight)[weight > 0]
    assert_allclose(found, [expected[k] for k in y[weight > 0]])
    assert_allclose(class_weights({"a": 3}, y, weight), [3, 1, 1, 1, 1, 1])
    assert_allclose(class_weights(None, y), 1)
    lost = class_weights("balanced", y, weight * (y != "c"))
    assert_allclose(lost[:3], [1, 1, 1])


@pytest.mark.parametrize(
    ("y", "n_outputs"), [(LABELS, 2), (LABELS, 1), (BINARY, 3), (INDICATORS, 1)]
)
def test_other_numbers_of_outputs(y, n_outputs):
    targets = LabelTargets.of(y, CrossEntropyLoss())
    n_classes = len(targets.classes)
    match = f"module must return {n_classes} outputs, .* got {n_outputs}"
    with pytest.raises(ValueError, match=match):
        targets.loss_for(n_outputs)


def test_models_inside_of_an_estimator_get_numbers():
    """Positions of labels, and a flat single target."""
    labels = LabelTargets.of(LABELS, CrossEntropyLoss())
    assert labels.as_numbers(LABELS).tolist() == [1, 0, 2, 1, 0]
    several = LabelTargets.of(INDICATORS, LogisticLoss())
    assert several.as_numbers(INDICATORS) is INDICATORS
    y = np.arange(6.0).reshape(-1, 1)
    assert RealTargets.of(y, SquaredLoss()).as_numbers(y).shape == (6,)
    pairs = y.reshape(-1, 2)
    assert RealTargets.of(pairs, SquaredLoss()).as_numbers(pairs) is pairs


def test_raw_outputs_are_scored_as_predictions():
    y, weight = np.array([[0.0], [1.0], [3.0]]), np.array([1.0, 2.0, 1.0])
    counts = RealTargets.of(y, PoissonLoss())
    raw = np.log([[1.0], [1.0], [2.0]])
    assert_allclose(counts.mean(raw), [1, 1, 2])
    expected = r2_score(y.ravel(), [1, 1, 2], sample_weight=weight)
    assert counts.score(y, raw, weight) == pytest.approx(expected)
    assert np.isnan(counts.score(y[:1], raw[:1], weight[:1]))
    labels = LabelTargets.of(BINARY, LogisticLoss())
    raw = np.array([[-1.0], [1.0], [1.0], [0.5], [2.0]])
    assert_allclose(labels.mean(raw)[:, 1], 1 / (1 + np.exp(-raw[:, 0])))
    assert labels.score(BINARY, raw, WEIGHT) == pytest.approx(1 - 2 / WEIGHT.sum())


def test_warm_starts_need_the_labels_of_the_fit():
    labels = LabelTargets.of(LABELS, CrossEntropyLoss())
    labels.check_same(LABELS[::-1])
    # A batch may lack a label, but not the data of a warm start.
    labels.check(LABELS[:2])
    with pytest.raises(ValueError, match="same classes as in the previous call"):
        labels.check_same(LABELS[:2])
    targets = RealTargets.of(np.zeros((3, 2)), SquaredLoss())
    targets.check_same(np.ones((4, 2)))
    with pytest.raises(ValueError, match="must have 2 targets"):
        targets.check_same(np.ones((4, 1)))
