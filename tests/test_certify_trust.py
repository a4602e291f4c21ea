"""Networks that must not be certified, and data that must be accepted."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from numpy.testing import assert_allclose
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.preprocessing import PolynomialFeatures
from torch import nn

from sklearn_pgb import (
    AddedNeuronClassifier,
    AddedNeuronRegressor,
    FeatureBasis,
    GradientBasisRefit,
    ResNetBasisRegressor,
    certify,
    compare_bases,
)
from sklearn_pgb._convex._scale import loss_scale
from sklearn_pgb._losses._classification import LogisticLoss
from sklearn_pgb._losses._regression import PoissonLoss, SquaredLoss

pytestmark = pytest.mark.filterwarnings(
    "ignore::sklearn.exceptions.ConvergenceWarning", "ignore::RuntimeWarning"
)


def linear_module(weight, bias):
    layer = nn.Linear(len(weight), 1, dtype=torch.float64)
    layer.weight.data = torch.tensor(np.array([weight]), dtype=torch.float64)
    layer.bias.data = torch.tensor([bias], dtype=torch.float64)
    return nn.Sequential(layer)


# -- verdicts --------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1.0, 1e6, 1e12, 1e16, 1e100])
def test_large_gradient_is_not_critical(size):
    """A large column does not hide that w = (0, 3) has a much smaller loss."""
    rng = np.random.default_rng(0)
    X = np.column_stack([size * rng.normal(size=50), rng.normal(size=50)])
    y = 3 * X[:, 1] + 0.1 * rng.normal(size=50)
    module = linear_module([0.0, 0.0], y.mean())
    certificate = certify(module, X, y, loss="squared_error")
    assert certificate.verdict == "not_critical"
    least = np.mean((y - LinearRegression().fit(X[:, 1:], y).predict(X[:, 1:])) ** 2)
    for row in certificate.table:
        assert row.lower_bound <= least
        assert row.value <= least * (1 + 1e-9)
        assert np.isfinite(row.norm_budget)


@pytest.mark.parametrize("exponent", [-450, -500, -515, -530, -540, -600, -1000])
@pytest.mark.parametrize("loss", ["squared_error", "huber"])
@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_squares_of_tiny_targets_do_not_underflow(exponent, loss, spread):
    """Powers of two are exact units, so the verdict is that of unit targets."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(20, 2))
    y = 2.0**exponent * (1 + spread * (X @ [1, 2] + 0.3 * rng.normal(size=20)))
    module = linear_module([0.0, 0.0], 0.0)
    if exponent >= -500:
        assert certify(module, X, y, loss=loss).verdict == "not_critical"
    else:
        with pytest.raises(ValueError, match="y must have losses that do not under"):
            certify(module, X, y, loss=loss)


@pytest.mark.parametrize("exponent", [-1000, -530, 530])
def test_coefficients_with_squares_that_overflow_need_no_penalty(exponent):
    """Powers of two are exact units of the inputs."""
    rng = np.random.default_rng(0)
    X, unit = rng.normal(size=(20, 2)), 2.0**exponent
    y = X @ [1, 2] + 0.3 * rng.normal(size=20)
    model = LinearRegression().fit(X, y)
    expected = certify(model, X, y)
    model.coef_ /= unit
    found = certify(model, unit * X, y)
    assert (found.loss, found.penalty) == (expected.loss, 0.0)
    assert found.verdict in ("certified_global", "consistent_with_local_min")


@pytest.mark.parametrize("offset", [1e4, 1e6, 1e8])
@pytest.mark.parametrize("affine", [False, True])
def test_layer_norm_is_invariant_to_an_offset_of_samples(offset, affine):
    """Sums with multiples of 2^-20 are exact, so the minimum is the same.

    Outputs of the layer have rank two. Rounding errors would be a third direction.
    """
    rng = np.random.default_rng(0)
    X = np.round(rng.normal(size=(20, 3)) * 2**20) / 2**20
    y = rng.normal(size=20)
    norm = nn.LayerNorm(3, elementwise_affine=affine, dtype=torch.float64)
    features = norm(torch.from_numpy(X)).detach().numpy()
    coef = np.linalg.lstsq(np.column_stack([features, np.ones(20)]), y, rcond=1e-9)[0]
    module = nn.Sequential(norm, *linear_module(coef[:3], coef[3]))
    near, far = (
        certify(module, inputs, y, loss="squared_error") for inputs in (X, X + offset)
    )
    assert far.verdict == near.verdict == "consistent_with_local_min"
    assert far.rank == near.rank == 3
    for name in ("value", "lower_bound"):
        assert getattr(far.row("gradient"), name) == pytest.approx(
            getattr(near.row("gradient"), name), rel=1e-8
        )
    assert far.loss == pytest.approx(near.loss, rel=1e-14)
    assert far.gradient_norm < 1e-14


@pytest.mark.parametrize("loss", ["squared_error", "huber", "poisson"])
@pytest.mark.parametrize(("least", "largest"), [(1e-320, 1e5), (5e-324, 1.0)])
def test_samples_whose_normalized_weight_underflows_are_absent(loss, least, largest):
    rng = np.random.default_rng(0)
    X, weight = rng.normal(size=(20, 2)), np.ones(20)
    y, weight[:2] = rng.poisson(2.0, 20).astype(float), (least, largest)
    module = linear_module([0.1, 0.2], 0.3)
    found, expected = (
        certify(module, X[rows], y[rows], loss=loss, sample_weight=weight[rows])
        for rows in (slice(0, None), slice(1, None))
    )
    assert found.verdict == expected.verdict == "not_critical"
    for name in ("loss", "floor", "tolerance", "gradient_norm"):
        assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-13)


def test_weights_with_a_sum_that_overflows():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(20, 2)), rng.normal(size=20)
    model = LinearRegression().fit(X, y)
    huge = certify(model, X, y, sample_weight=np.full(20, 1e308))
    assert huge.verdict == "certified_global"
    assert huge.loss == certify(model, X, y).loss


def test_zero_targets_have_losses_that_may_underflow():
    """There is no unit of zeros, so that of one counts."""
    X = np.random.default_rng(0).normal(size=(20, 2))
    module = linear_module([0.0, 0.0], 1e-170)
    certificate = certify(module, X, np.zeros(20), loss="squared_error")
    assert certificate.verdict == "certified_global"


def test_large_gradient_is_not_critical_with_a_penalty():
    """The limit on the norm of changes does not hide it either."""
    rng = np.random.default_rng(0)
    X = 1e-6 * rng.normal(size=(50, 1))
    y = 3e6 * X[:, 0]
    module = linear_module([0.0], 0.0)
    certificate = certify(module, X, y, loss="squared_error", penalty=1e-30)
    assert certificate.verdict == "not_critical"


def test_rounding_is_not_a_gradient():
    """At the best linear model, the derivatives are rounding errors."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(50, 2)) * [1e9, 1e-9]
    y = X @ [1e-9, 1e9] + rng.normal(size=50)
    best = LinearRegression().fit(X / X.std(0), y)
    module = linear_module(best.coef_ / X.std(0), best.intercept_)
    certificate = certify(module, X, y, loss="squared_error")
    assert certificate.verdict != "not_critical"


def test_loss_that_overflows_certifies_nothing():
    X = np.random.default_rng(0).normal(size=(30, 2))
    y = 1e155 * X[:, 0]
    network = MLPRegressor(hidden_layer_sizes=3, max_iter=3, random_state=0).fit(X, y)
    with pytest.raises(ValueError, match="estimator must have a finite loss"):
        certify(network, X, y)


def test_outputs_that_overflow_certify_nothing():
    """The exponential overflows in networks that were trained on large X."""
    rng = np.random.default_rng(0)
    X, y = 1e3 * rng.normal(size=(50, 3)), rng.poisson(3, size=50)
    module = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 1)).double()
    for scale in (1.0, 1e3, 1e160, 1e305):
        module[2].weight.data[:] = scale
        try:
            certificate = certify(module, X, y, loss="poisson")
        except ValueError as error:
            assert "finite" in str(error)  # noqa: PT017
        else:
            assert np.isfinite(certificate.loss)
            assert np.isfinite(certificate.gradient_norm)


# -- the unit of differences -----------------------------------------------------------


def share(n):
    return torch.full((n,), 1 / n, dtype=torch.float64)


def test_scale_is_what_the_best_constant_loses_above_the_floor():
    y = torch.tensor([[1.0], [3.0], [8.0]], dtype=torch.float64)
    scale = loss_scale(SquaredLoss(), y, share(3), 0.5)
    assert scale.reference == pytest.approx(float(y.var(correction=0)) - 0.5)
    labels = torch.tensor([[1.0], [0.0], [0.0]], dtype=torch.float64)
    entropy = -(np.log(1 / 3) / 3 + 2 * np.log(2 / 3) / 3)
    assert loss_scale(LogisticLoss(), labels, share(3), 0.0).reference == pytest.approx(
        entropy
    )


def test_targets_far_from_zero_are_not_constant():
    """Targets around a million with a spread of one are judged by that spread."""
    y = 1e6 + torch.randn(50, 1, dtype=torch.float64)
    scale = loss_scale(SquaredLoss(), y, share(50), 0.0)
    assert scale.reference == pytest.approx(float(y.var(correction=0)), rel=1e-6)
    assert not scale.certifies(0.5, 1e-6)


def test_large_counts_are_not_certified_by_the_size_of_their_loss():
    y = torch.tensor([[9000.0], [10000.0], [11000.0]], dtype=torch.float64)
    floor = float(share(3) @ PoissonLoss().minimum(y))
    scale = loss_scale(PoissonLoss(), y, share(3), floor)
    assert not scale.certifies(floor + 2.5, 1e-4)
    assert scale.certifies(floor, 1e-4)


@pytest.mark.parametrize("value", [np.inf, np.nan, -np.inf])
def test_numbers_that_are_none_are_never_certified(value):
    y = torch.tensor([[1.0], [3.0]], dtype=torch.float64)
    scale = loss_scale(SquaredLoss(), y, share(2), 0.0)
    assert not scale.certifies(value, 1e-6)
    assert not loss_scale(SquaredLoss(), y, share(2), np.inf).certifies(np.inf, 1e-6)


# -- bounds of the estimators ----------------------------------------------------------


def test_refit_bound_is_below_least_squares_on_its_own_features():
    rng = np.random.default_rng(0)
    X = rng.uniform(-2, 2, size=(200, 1))
    y = np.sin(2 * X[:, 0]) + 0.3 * rng.normal(size=200)
    network = MLPRegressor(
        hidden_layer_sizes=20, activation="tanh", max_iter=300, random_state=0
    ).fit(X, y)
    refit = GradientBasisRefit(FrozenEstimator(network), alpha=0.0).fit(X, y)
    features = refit.transform(X)
    scale = np.sqrt((features**2).mean(0))
    for rcond in (1e-6, 1e-10, 1e-13, 1e-15):
        coef = np.linalg.lstsq(features / scale, y, rcond=rcond)[0]
        value = np.mean((features / scale @ coef - y) ** 2)
        assert np.linalg.norm(coef) > refit.norm_budget_ or (
            refit.lower_bound_ <= value * (1 + 1e-9)
        )
    assert refit.lower_bound_ <= refit.refit_loss_
    assert np.isfinite(refit.norm_budget_)


@pytest.mark.parametrize("alpha", [1e-10, 1e-14, 1e-16, 1e-20, 1e-28])
@pytest.mark.parametrize("solver", ["auto", "primal", "dual"])
def test_small_alpha_is_nearly_as_good_as_zero(alpha, solver):
    """Singular values resolve it, their squares do not."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 4))
    y = np.sin(X[:, 0]) + 0.1 * rng.normal(size=60)
    network = MLPRegressor(
        hidden_layer_sizes=30, activation="tanh", max_iter=2000, random_state=0
    ).fit(X, y)
    frozen = FrozenEstimator(network)
    refit = GradientBasisRefit(frozen, alpha=alpha, solver=solver).fit(X, y)
    assert refit.refit_loss_ <= refit.model_loss_ * (1 + 1e-9)
    # The objective at the solution is below that of the network's own parameters.
    assert refit.duality_gap_ <= 1e-5 * np.mean(y**2)


def test_resnet_bound_is_never_above_its_loss():
    """Powers of years are a basis that is singular up to rounding."""
    rng = np.random.default_rng(0)
    for seed in range(4):
        X = rng.uniform(2000, 2024, size=(40, 1))
        y = np.sin(X[:, 0]) + 0.1 * rng.normal(size=40)
        model = ResNetBasisRegressor(
            basis=PolynomialFeatures(8), alpha=0.0, max_iter=3, random_state=seed
        ).fit(X, y)
        assert model.lower_bound_ <= model.loss_
        assert model.basis_lower_bound_ <= model.basis_loss_
        assert model.norm_budget_ > 0
        assert model.basis_norm_budget_ > 0


def test_comparison_states_the_budget_of_each_bound():
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(40, 1))
    y = np.sin(6 * x[:, 0]) + 0.1 * rng.normal(size=40)
    basis = FeatureBasis(PolynomialFeatures(20, include_bias=False))
    comparison = compare_bases({"powers": basis, "lr": LinearRegression()}, x, y)
    powers, estimator = comparison.reports
    assert 0 < powers.norm_budget < np.inf
    assert powers.lower_bound <= powers.train_loss
    assert np.isnan(estimator.norm_budget)
    assert "norm_budget" in str(comparison)
    assert_allclose(comparison.to_frame()["norm_budget"].iloc[0], powers.norm_budget)


# -- data ------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["coo", "csr", "csc", "lil", "dok", "bsr", "dia"])
@pytest.mark.parametrize("kind", [MLPRegressor, AddedNeuronRegressor])
def test_sparse_matrices_of_every_format_are_taken(form, kind):
    rng = np.random.default_rng(0)
    dense = rng.normal(size=(20, 4)) * (rng.random((20, 4)) < 0.5)
    y, weight = rng.normal(size=20), np.arange(20) % 3
    network = kind(hidden_layer_sizes=(2,), max_iter=3, random_state=0).fit(dense, y)
    expected = certify(network, dense, y, sample_weight=weight, random_state=0)
    for sparse in (sp.coo_matrix(dense), sp.coo_array(dense)):
        X = sparse.asformat(form)
        found = certify(network, X, y, sample_weight=weight, random_state=0)
        assert found.loss == expected.loss
        assert found.floor == expected.floor
        assert found.verdict == expected.verdict


@pytest.mark.parametrize("kind", [MLPClassifier, AddedNeuronClassifier])
def test_class_without_weight_is_accepted(kind):
    """Training on weighted rows drops those of weight zero, labels and all."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 2))
    y = np.where(X[:, 0] > 0, "left", "right").astype(object)
    y[:5] = "never"
    weight = np.where(y == "never", 0.0, 1.0)
    network = kind(hidden_layer_sizes=(2,), max_iter=5, random_state=0)
    network = network.fit(X[5:], y[5:])
    found = certify(network, X, y, sample_weight=weight, random_state=0)
    expected = certify(network, X[5:], y[5:], random_state=0)
    assert found.loss == pytest.approx(expected.loss, rel=1e-12)
    assert found.n_samples == 35


def test_frames_series_and_lists_are_taken():
    rng = np.random.default_rng(0)
    X = pd.DataFrame(rng.normal(size=(20, 2)), columns=["a", "b"])
    y = pd.Series(rng.normal(size=20), index=np.arange(20)[::-1])
    network = AddedNeuronRegressor(hidden_layer_sizes=(2,), max_iter=3, random_state=0)
    network.fit(X, y)
    expected = certify(network, X, y, random_state=0).loss
    assert certify(network, X, y.tolist(), random_state=0).loss == expected


def test_floor_is_that_of_the_rows_as_they_are_given():
    """A scaler that rounds rows to the same values does not raise it."""
    X = (1.7e9 + np.arange(20.0))[:, None]
    y = np.sin(np.arange(20.0))
    network = MLPRegressor(hidden_layer_sizes=2, max_iter=3, random_state=0)
    network.fit(X - X.mean(), y)
    rounded = X.astype(np.float32)
    assert len(np.unique(rounded)) < 20
    assert certify(network, X - X.mean(), y).floor <= 1e-30
