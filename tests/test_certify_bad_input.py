"""Errors of `certify`."""

import numpy as np
import pytest
import torch
from certificate_cases import chain_module, smooth_data, tanh_mlp
from scipy.sparse import csr_array
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.exceptions import NotFittedError
from sklearn.neighbors import KNeighborsRegressor
from sklearn.preprocessing import PolynomialFeatures, StandardScaler
from torch import nn

from sklearn_pgb import (
    AddedNeuronClassifier,
    AddedNeuronRegressor,
    FeatureBasis,
    GradientBasis,
    GradientBasisRefit,
    InputBasis,
    certify,
    compare_bases,
    survey_minima,
)

X, Y = smooth_data(0)
MLP = tanh_mlp(max_iter=5).fit(X, Y)


def test_estimator_that_is_no_network():
    with pytest.raises(TypeError, match=r"estimator must be a network .* got KNeigh"):
        certify(KNeighborsRegressor().fit(X, Y), X, Y)


def test_refit_that_has_its_own_certificate():
    refit = GradientBasisRefit(tanh_mlp(max_iter=5), alpha=1.0).fit(X, Y)
    with pytest.raises(
        TypeError, match=r"got GradientBasisRefit, .* Pass its estimator_"
    ):
        certify(refit, X, Y)
    assert certify(refit.estimator_, X, Y).name == "MLPRegressor"


def test_unfitted_estimator():
    with pytest.raises(NotFittedError):
        certify(tanh_mlp(), X, Y)


def test_module_without_loss():
    with pytest.raises(ValueError, match="loss must be given with a torch module"):
        certify(nn.Linear(2, 1), X, Y)


def test_estimator_with_a_loss():
    with pytest.raises(ValueError, match="loss must be None for an estimator"):
        certify(MLP, X, Y, loss="squared_error")


def test_unknown_loss():
    match = "'squared_error', 'poisson', 'huber', 'log_loss'"
    with pytest.raises(ValueError, match=match):
        certify(nn.Linear(2, 1), X, Y, loss="hinge")


def test_no_targets():
    with pytest.raises(ValueError, match=r"y must be the targets or labels .* None"):
        certify(MLP, X, None)


def test_other_number_of_features():
    with pytest.raises(ValueError, match="X has 1 features, but MLPRegressor"):
        certify(MLP, X[:, :1], Y)


def test_other_number_of_rows():
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        certify(MLP, X, Y[:-1])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_rows_that_are_not_finite(bad):
    broken = X.copy()
    broken[3, 0] = bad
    with pytest.raises(ValueError, match="Input X contains"):
        certify(MLP, broken, Y)


def test_outputs_that_are_not_finite():
    module = chain_module([[[1e200, 1e200]], [[1e200]]], nn.Identity)
    with pytest.raises(ValueError, match="estimator must have finite outputs"):
        certify(module, X, Y, loss="squared_error")


def test_negative_weights():
    weight = np.ones(len(X))
    weight[0] = -1.0
    with pytest.raises(ValueError, match=r"[Nn]egative values"):
        certify(MLP, X, Y, sample_weight=weight)


def test_weights_of_zero():
    with pytest.raises(ValueError, match="at least one non-zero"):
        certify(MLP, X, Y, sample_weight=np.zeros(len(X)))


def test_rows_of_a_class_without_weight():
    labels = (Y > 0).astype(int)
    weights = {0: 0.0, 1: 1.0}
    model = AddedNeuronClassifier(hidden_layer_sizes=2, max_iter=2)
    model.set_params(class_weight=weights).fit(X, labels)
    with pytest.raises(
        ValueError, match="sample_weight and class_weight must give some sample"
    ):
        certify(model, X[labels == 0], labels[labels == 0])


@pytest.mark.parametrize("penalty", [-1.0, np.nan, [1.0, 2.0], torch.tensor([-1.0])])
def test_penalty_of_wrong_size_or_sign(penalty):
    with pytest.raises(ValueError, match="penalty must be a number >= 0, or 13 of"):
        certify(MLP, X, Y, penalty=penalty)


@pytest.mark.parametrize("name", ["tol", "norm_budget"])
@pytest.mark.parametrize("value", [0, -1.0, np.inf, "small"])
def test_numbers_that_are_not_positive(name, value):
    with pytest.raises(ValueError, match=f"{name} must be a positive number, got"):
        certify(MLP, X, Y, **{name: value})


@pytest.mark.parametrize("value", ["much", [], None])
def test_memory_that_is_none(value):
    with pytest.raises(ValueError, match="max_memory must be a positive number"):
        certify(MLP, X, Y, max_memory=value)


@pytest.mark.parametrize("bases", ["all", [InputBasis()], 3])
def test_bases_that_are_no_dict(bases):
    with pytest.raises(TypeError, match="bases must be a dict from names"):
        certify(MLP, X, Y, bases=bases)


def test_bases_with_other_names():
    with pytest.raises(TypeError, match="bases must have strings as names, got 1"):
        certify(MLP, X, Y, bases={1: InputBasis()})


def test_bases_with_names_of_other_rows():
    """A basis named "inputs" would certify a linear network by a bound on the basis."""
    linear = tanh_mlp((4, 3), activation="identity", max_iter=5).fit(X, Y)
    names = [row.basis for row in certify(linear, X, Y).table]
    names += ["layer 5", "inputs and residual units", "perturbed gradient"]
    for name in names:
        with pytest.raises(ValueError, match=f"must have other names .*, got '{name}'"):
            certify(linear, X, Y, bases={name: InputBasis()})


def test_transformers_and_networks_are_bases():
    """They are wrapped as a user would wrap them."""
    bases = {
        "quadratic": PolynomialFeatures(2),
        "wrapped": FeatureBasis(PolynomialFeatures(2)),
        "network": MLP,
        "own": GradientBasis(MLP),
    }
    rows = {row.basis: row for row in certify(MLP, X, Y, bases=bases).table}
    assert rows["quadratic"].value == rows["wrapped"].value
    assert rows["network"].value == rows["own"].value
    with pytest.raises(TypeError, match="estimator must be"):
        certify(MLP, X, Y, bases={"linear": KNeighborsRegressor()})


def test_basis_that_is_not_in_the_table():
    certificate = certify(MLP, X, Y)
    with pytest.raises(ValueError, match="basis must be one of 'inputs', 'layer 1'"):
        certificate.row("layer 2")


def test_constant_targets_have_a_tolerance():
    """The best constant is at the floor, but the tolerance is not zero."""
    for value in (0.0, 3.0):
        y = np.full(len(X), value)
        certificate = certify(tanh_mlp(max_iter=5).fit(X, y), X, y)
        assert certificate.tolerance > 0


def test_labels_that_the_network_does_not_know():
    from sklearn.neural_network import MLPClassifier

    labels = (Y > 0).astype(int)
    mlp = MLPClassifier(hidden_layer_sizes=2, max_iter=2).fit(X, labels)
    with pytest.raises(ValueError, match="must hold labels of the model"):
        certify(mlp, X, labels + 1)


@pytest.mark.parametrize(
    "estimator",
    [
        AddedNeuronRegressor(hidden_layer_sizes=(2,), max_iter=2),
        TransformedTargetRegressor(
            AddedNeuronRegressor(hidden_layer_sizes=(2,), max_iter=2),
            transformer=StandardScaler(),
        ),
    ],
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.DataConversionWarning")
def test_sparse_targets_are_made_dense(estimator):
    sparse, y = csr_array(Y[:, None]), Y[:, None]
    model = clone(estimator).fit(X, Y)
    assert certify(model, X, sparse).loss == certify(model, X, y).loss
    found, expected = (
        survey_minima(estimator, X, each, n_starts=2, polish_iter=2, random_state=0)
        for each in (sparse, y)
    )
    np.testing.assert_array_equal(found.loss, expected.loss)
    found, expected = (
        compare_bases({"a": InputBasis()}, X, each, cv=2, loss="squared_error")
        for each in (sparse, y)
    )
    assert found["a"].scores == expected["a"].scores
