"""`certify` on networks whose answer is known."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from certificate_cases import (
    ScalarResNet,
    chain_module,
    converged_mlp,
    dead_relu,
    embedded_unit,
    on_weights,
    polished_mlp,
    put,
    saddle,
    smooth_data,
    tanh_mlp,
)
from oracles import critical_targets
from scipy.optimize import minimize
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import PolynomialFeatures
from torch import nn

from sklearn_pgb import Certificate, FeatureBasis, certify
from sklearn_pgb._budget import REPAIR_RTOL
from sklearn_pgb._certificate import _curvature, _verdict
from sklearn_pgb._certificate._escape import Escape, by_displacement
from sklearn_pgb._certificate._examine import Settings, examine
from sklearn_pgb._certificate._subject import open_subject
from sklearn_pgb._geometry._displacements import displacements
from sklearn_pgb._models._chain import ChainNetwork
from sklearn_pgb._models._open import open_network
from sklearn_pgb._training._objective import hessian, hessian_product

NAMES = ("inputs", "layer 1", "gradient")


def values(certificate):
    return {row.basis: row.value for row in certificate.table}


def loss_at(module, theta, X, y):
    """Mean squared error of a module with other parameters."""
    with torch.no_grad():
        parts = torch.as_tensor(theta).split([p.numel() for p in module.parameters()])
        for parameter, part in zip(module.parameters(), parts, strict=True):
            parameter.copy_(part.view_as(parameter))
        raw = module(torch.as_tensor(X, dtype=torch.float64)).numpy()
    return float(np.mean((raw[:, 0] - y) ** 2))


# -- verdicts ------------------------------------------------------------------------


def test_interpolating_network_is_a_global_minimum(seed):
    X, y = smooth_data(seed, n=8)
    mlp = polished_mlp(
        tanh_mlp(20, random_state=seed), X, y, lambda net: on_weights(net, 0.0)
    )
    certificate = certify(mlp, X, y)
    assert certificate.verdict == "certified_global"
    assert certificate.loss <= 1e-12
    assert certificate.floor == 0.0
    assert certificate.floor_attained
    assert certificate.escape is None


def test_repeated_rows_are_fitted_up_to_the_floor(seed):
    """A global minimum is compared with the floor, not with zero."""
    X, y = smooth_data(seed, n=6)
    X, y = np.vstack([X, X]), np.concatenate([y, y + 1.0])
    mlp = polished_mlp(
        tanh_mlp(20, random_state=seed), X, y, lambda net: on_weights(net, 0.0)
    )
    certificate = certify(mlp, X, y)
    assert certificate.verdict == "certified_global"
    assert certificate.floor == pytest.approx(0.25, rel=1e-12)
    assert certificate.loss == pytest.approx(0.25, rel=1e-8)


def test_polished_network_is_consistent_with_a_local_minimum(seed):
    mlp, X, y = converged_mlp(seed)
    certificate = certify(mlp, X, y)
    assert certificate.verdict == "consistent_with_local_min"
    assert certificate.gap <= 1e-8
    assert certificate.gradient_norm <= 1e-9
    assert certificate.min_curvature > -1e-8
    assert certificate.rank == certificate.generic_rank
    assert certificate.is_singular is False
    # At a critical point the last layer alone is as good as all derivatives.
    rows = values(certificate)
    assert rows["layer 1"] == pytest.approx(certificate.loss, abs=1e-8)
    assert rows["gradient"] == pytest.approx(certificate.loss, abs=1e-8)


def test_undertrained_network_is_no_critical_point(seed):
    X, y = smooth_data(seed)
    mlp = tanh_mlp(max_iter=5, random_state=seed).fit(X, y)
    certificate = certify(mlp, X, y)
    assert certificate.verdict == "not_critical"
    assert certificate.gap > 1e-3
    assert certificate.gap <= certificate.gap_bound * (1 + 1e-9)


@pytest.mark.parametrize("activation", ["tanh", "logistic", "identity"])
def test_constructed_critical_point_is_critical(seed, activation):
    """The targets are built so that all derivatives vanish."""
    X, y = smooth_data(seed)
    mlp = tanh_mlp(4, activation=activation, max_iter=3, random_state=seed).fit(X, y)
    network = open_network(mlp).network
    rows = torch.as_tensor(X)
    weight = torch.full((len(X),), 1 / len(X), dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(len(X), 1, generator=generator, dtype=torch.float64)
    targets = critical_targets(network, rows, weight, noise).numpy()[:, 0]
    certificate = certify(mlp, X, targets)
    assert certificate.gap <= 1e-8
    assert certificate.verdict != "not_critical"


def test_GB_8_saddle_is_left():
    module, X, y = saddle()
    certificate = certify(module, X, y, loss="squared_error", random_state=0)
    assert certificate.verdict == "not_local_min"
    assert certificate.loss == 1.0
    assert certificate.gradient_norm == 0.0
    rows = values(certificate)
    assert rows["gradient"] == pytest.approx(1.0, abs=1e-14)
    assert rows["perturbed gradient"] == pytest.approx(0.0, abs=1e-20)
    assert certificate.min_curvature == pytest.approx(1 - np.sqrt(5), abs=1e-12)
    assert certificate.is_singular
    escape = certificate.escape
    reached = loss_at(module, escape.theta, X, y)
    assert reached == pytest.approx(escape.objective, abs=1e-12)
    assert reached < 0.1


def test_GB_9_idle_unit_is_used():
    module, X, y = embedded_unit()
    certificate = certify(module, X, y, loss="squared_error", random_state=0)
    assert certificate.verdict == "not_local_min"
    assert certificate.loss == pytest.approx(0.00233440240783, abs=1e-9)
    assert values(certificate)["perturbed gradient"] <= 0.000181
    assert loss_at(module, certificate.escape.theta, X, y) < 1e-4


def test_escape_by_displacement_starts_at_the_same_loss():
    """The displaced parameters have the same outputs."""
    module, X, y = embedded_unit()
    subject = open_subject(
        module, X, y, sample_weight=None, loss="squared_error", penalty=None
    )
    objective = subject.objective
    theta = objective.network.theta
    generator = torch.Generator().manual_seed(0)
    found = displacements(objective.network, objective.X, generator=generator)
    escape = by_displacement(objective, theta, found, 0.002)
    start = objective.value_and_gradient_of_one(torch.as_tensor(escape.start))[0]
    assert float(start) == pytest.approx(0.00233440240783, abs=1e-9)
    assert escape.objective < 1e-4


def test_GB_10_dead_relu_gets_no_false_verdict():
    module, X, y = dead_relu()
    certificate = certify(module, X, y, loss="squared_error", random_state=0)
    assert certificate.verdict == "consistent_with_local_min"
    assert certificate.loss == pytest.approx(35 / 3, rel=1e-14)
    assert certificate.gap <= 1e-12
    assert certificate.rank == certificate.generic_rank == 0
    assert certificate.min_curvature == 0.0
    assert certificate.kink_margin == 1.0
    assert any("rank 0" in note for note in certificate.notes)


@pytest.mark.parametrize("epsilon", [1.0, 0.1, 0.01])
def test_RN_9_second_order_point_is_left(epsilon):
    """Gradient zero and curvature near zero, far above the linear model."""
    root = np.sqrt(epsilon)
    X, y = np.array([[1.0, root]]), np.array([1.0])
    module = ScalarResNet(0.0, -1 / root)
    certificate = certify(module, X, y, loss="squared_error", random_state=0)
    # The package's squared loss is twice the theory's here.
    assert certificate.loss / 2 == pytest.approx(0.5, abs=1e-15)
    assert certificate.gradient_norm / 2 <= 1e-15
    assert certificate.min_curvature / 2 == pytest.approx(-root, abs=1e-12)
    assert certificate.verdict == "not_local_min"
    assert certificate.escape.objective < 1e-6


def test_relu_on_its_kink_is_judged_by_its_last_layer(seed):
    """The first row lies on the kink of a unit; the last layer is at its optimum."""
    X, y = smooth_data(seed, d=1)
    w = np.array([[1.0], [-0.7]])
    b = np.array([-X[0, 0], 0.3])
    hidden = np.maximum(X @ w.T + b, 0)
    features = np.column_stack([hidden, np.ones(len(X))])
    v = np.linalg.lstsq(features, y)[0]
    module = chain_module([w, v[None, :2]], nn.ReLU, [b, v[2:]])
    certificate = certify(module, X, y, loss="squared_error")
    assert certificate.kink_margin <= 1e-15
    assert certificate.min_curvature is None
    assert certificate.verdict == "consistent_with_local_min"
    assert any("kink" in text for text in certificate.assumptions)
    # Off its optimum the last layer's derivatives show it.
    moved = chain_module([w, v[None, :2] + 0.1], nn.ReLU, [b, v[2:]])
    assert certify(moved, X, y, loss="squared_error").verdict == "not_critical"


def test_global_minimum_of_a_linear_network_is_certified(seed):
    """No deep linear network has a smaller loss than the best linear model."""
    X, y = smooth_data(seed)
    mlp = tanh_mlp(3, activation="identity", random_state=seed)
    mlp = polished_mlp(mlp, X, y, lambda net: on_weights(net, 0.0))
    certificate = certify(mlp, X, y)
    features = np.column_stack([X, np.ones(len(X))])
    least = np.mean((y - features @ np.linalg.lstsq(features, y)[0]) ** 2)
    assert certificate.loss == pytest.approx(least, rel=1e-9)
    assert certificate.verdict == "certified_global"


def test_active_relu_units_act_as_linear_units(seed):
    """Units active on all rows: a local minimum is as good as inputs and layer."""
    X, y = smooth_data(seed)
    rng = np.random.RandomState(seed)
    module = chain_module(
        [rng.standard_normal((3, 2)), rng.standard_normal((1, 3))],
        nn.ReLU,
        [np.array([9.0, 0.1, -0.1]), np.zeros(1)],
    )
    certificate = certify(module, X, y, loss="squared_error")
    joint = certificate.row("inputs to layer 1 jointly")
    assert joint.n_coef == 2 + 3 + 1
    features = np.column_stack([X, np.ones(len(X))])
    assert joint.value <= np.mean((y - features @ np.linalg.lstsq(features, y)[0]) ** 2)


def test_no_claim_without_a_descent(monkeypatch):
    """A test against a local minimum must be confirmed by a descent."""
    module, X, y = saddle()

    def nowhere(objective, theta, *found):
        value = float(objective.value_and_gradient_of_one(theta)[0])
        return Escape("nowhere", theta.numpy(), theta.numpy(), value)

    monkeypatch.setattr(_verdict, "by_displacement", nowhere)
    monkeypatch.setattr(_verdict, "by_curvature", nowhere)
    certificate = certify(module, X, y, loss="squared_error", random_state=0)
    assert certificate.verdict == "consistent_with_local_min"
    assert certificate.escape is None


def test_gradient_of_rounding_is_none(seed):
    """A gain along directions of negligible size is not evidence."""
    X, y = smooth_data(seed)
    mlp = tanh_mlp(max_iter=5, random_state=seed).fit(X, y)
    subject = open_subject(mlp, X, y, sample_weight=None, loss=None, penalty=None)
    generator = torch.Generator().manual_seed(seed)
    found = examine(subject, {}, Settings(1e-6, None, 1e9), generator)
    assert _verdict.is_not_critical(found)
    tiny = replace(found.steepness, is_rounding=True)
    assert not _verdict.is_not_critical(replace(found, steepness=tiny))


# -- separable labels ----------------------------------------------------------------


def separable(seed, n=40):
    rng = np.random.RandomState(seed)
    X = rng.standard_normal((n, 2))
    X += 0.5 * np.sign(X[:, :1])
    return X, (X[:, 0] > 0).astype(int)


def test_infimum_of_separable_labels_is_not_attained(seed):
    X, y = separable(seed)
    mlp = MLPClassifier(
        hidden_layer_sizes=3, activation="tanh", solver="lbfgs", alpha=0, max_iter=10
    ).fit(X, y)
    certificate = certify(mlp, X, y)
    assert not certificate.floor_attained
    assert certificate.verdict == "not_critical"
    for row in certificate.table:
        assert row.lower_bound == 0.0
        assert row.attained is False
        assert row.value <= 1e-9


def test_infimum_of_mixed_labels_is_attained(seed):
    X, _ = separable(seed)
    y = np.random.RandomState(seed).randint(2, size=len(X))
    mlp = MLPClassifier(
        hidden_layer_sizes=2, activation="tanh", solver="lbfgs", alpha=0, max_iter=10
    ).fit(X, y)
    row = certify(mlp, X, y).row("inputs")
    assert row.attained is True
    assert row.lower_bound == pytest.approx(row.value, abs=1e-8)
    assert row.lower_bound <= row.value


# -- the table -----------------------------------------------------------------------


def test_each_value_is_least_squares(seed):
    X, y = smooth_data(seed)
    mlp = tanh_mlp(max_iter=10, random_state=seed).fit(X, y)
    quadratic = FeatureBasis(PolynomialFeatures(2, include_bias=False))
    certificate = certify(mlp, X, y, bases={"quadratic": quadratic})
    network = open_network(mlp).network
    rows = torch.as_tensor(X)
    features = {
        "inputs": X,
        "quadratic": PolynomialFeatures(2).fit_transform(X),
        "layer 1": network.layers(rows)[1].numpy(),
        "gradient": network.jacobian(rows).dense()[:, 0].numpy(),
    }
    assert [row.basis for row in certificate.table] == list(features)
    for row in certificate.table:
        matrix = np.column_stack([features[row.basis], np.ones(len(X))])
        residual = y - matrix @ np.linalg.lstsq(matrix, y, rcond=1e-12)[0]
        assert row.value == pytest.approx(np.mean(residual**2), rel=1e-8)
        assert row.rank == np.linalg.matrix_rank(matrix)
        assert row.lower_bound <= row.value
        assert row.gap <= 1e-8
        assert row.excess == pytest.approx(certificate.loss - row.value)
        # A million times the norm of the solution, which is less than 100 here.
        assert 1e4 <= row.norm_budget < 1e8


@pytest.mark.parametrize("kind", ["binary", "multiclass"])
def test_bounds_enclose_scipy_minima(seed, kind):
    """No coefficients that SciPy finds are below the bound, or far below the value."""
    rng = np.random.RandomState(seed)
    X = rng.standard_normal((60, 2))
    y = rng.randint(2 if kind == "binary" else 3, size=60)
    mlp = MLPClassifier(
        hidden_layer_sizes=2,
        activation="tanh",
        solver="lbfgs",
        alpha=0,
        max_iter=8,
        random_state=seed,
    ).fit(X, y)
    opened = open_network(mlp)
    network, targets = opened.network, opened.targets(y)
    J = network.jacobian(torch.as_tensor(X))

    def function(coef):
        raw = J.matvec(torch.as_tensor(coef))
        residual = opened.loss.gradient(targets, raw) / len(X)
        value = opened.loss.value(targets, raw).mean()
        return float(value), J.rmatvec(residual).numpy()

    start = np.zeros(network.n_params)
    best = minimize(function, start, jac=True, method="BFGS", options={"gtol": 1e-9})
    row = certify(mlp, X, y).row("gradient")
    assert row.lower_bound <= best.fun + 1e-12
    assert row.value <= best.fun + 1e-9
    # Dual points are orthogonal to each of `rank` directions up to REPAIR_RTOL. The
    # largest singular value of the columns of norm one is at most sqrt(rank), and a
    # bound that is worse by 5e-8 counts as equal if its budget is larger.
    assert row.gap <= row.norm_budget * REPAIR_RTOL * row.rank + 5e-8


def test_every_step_of_the_ladder_holds_anywhere(seed):
    """Loss, last layer, gradient basis, perturbed basis, floor: each at most the last.

    The singular network has a unit of zero outgoing weights and is not critical.
    """
    X, y = smooth_data(seed)
    w = np.array([[0.5, -0.3], [0.2, -0.1], [1.0, 0.2]])
    v, b = np.array([[0.4, 0.0, -0.7]]), np.array([0.1, 0.1, 0.3])
    module = chain_module([w, v], nn.Tanh, [b, np.zeros(1)])
    certificate = certify(module, X, y, loss="squared_error", random_state=seed)
    rows = values(certificate)
    ladder = [
        certificate.loss,
        rows["layer 1"],
        rows["gradient"],
        rows["perturbed gradient"],
        certificate.floor,
    ]
    assert ladder == sorted(ladder, reverse=True)
    assert certificate.is_singular
    assert rows["perturbed gradient"] < rows["gradient"] - 1e-6


# -- the object ----------------------------------------------------------------------


def test_report_reads_like_one(seed):
    module, X, y = saddle()
    certificate = certify(module, X, y, loss="squared_error", random_state=seed)
    text = str(certificate)
    assert "not a local minimum" in text
    assert "Descent (" in text
    assert "perturbed gradient" in text
    for jargon in ("GB", "PGB", "Omega", "L_pe"):
        assert jargon not in text
    html = certificate._repr_html_()
    assert html.count("<tr>") == 1 + len(certificate.table)
    assert "&lt;" not in html.split("<table>")[0]
    assert repr(certificate).startswith("Certificate(verdict='not_local_min'")


def test_frame_has_the_table(seed):
    X, y = smooth_data(seed)
    mlp = tanh_mlp(max_iter=5).fit(X, y)
    certificate = certify(mlp, X, y)
    rows = [replace(row, lower_bound=row.value / 2) for row in certificate.table]
    certificate = replace(certificate, table=tuple(rows))
    frame = certificate.to_frame()
    assert list(frame.index) == list(NAMES)
    assert frame["gap"].to_numpy() == pytest.approx(
        (frame["value"] - frame["lower_bound"]).to_numpy()
    )
    assert frame["attained"].all()
    assert isinstance(certificate, Certificate)
    with pytest.raises(AttributeError):
        certificate.loss = 0.0


def test_certificate_depends_on_random_state_only(seed):
    module, X, y = embedded_unit()
    first, second = (
        str(certify(module, X, y, loss="squared_error", random_state=seed))
        for _ in range(2)
    )
    assert first == second


def test_large_derivatives_are_not_factorized(seed):
    """With little memory the values are found by products, and the rank is unknown."""
    X, y = smooth_data(seed, n=60)
    mlp = tanh_mlp(max_iter=5, random_state=seed).fit(X, y)
    full, small = certify(mlp, X, y), certify(mlp, X, y, max_memory="20KB")
    assert small.rank is None
    assert small.is_singular is None
    assert small.verdict == full.verdict
    least, found = full.row("gradient"), small.row("gradient")
    assert least.value <= found.value + 1e-12
    assert found.value <= full.loss
    assert found.lower_bound <= least.value
    assert any("too many" in note for note in small.notes)


def test_lanczos_finds_the_lowest_curvature(seed):
    X, y = smooth_data(seed)
    mlp = tanh_mlp(8, max_iter=5, random_state=seed).fit(X, y)
    subject = open_subject(mlp, X, y, sample_weight=None, loss=None, penalty=None)
    objective, theta = subject.objective, subject.objective.network.theta
    dense = np.linalg.eigvalsh(hessian(objective, theta).numpy())
    generator = torch.Generator().manual_seed(seed)
    ritz, vector = _curvature.lanczos(
        hessian_product(objective, theta),
        torch.randn(len(theta), generator=generator, dtype=torch.float64),
        len(theta),
    )
    assert float(ritz[0]) == pytest.approx(dense[0], abs=1e-10 * abs(dense).max())
    assert float(vector.norm()) == pytest.approx(1.0)


def test_hessian_is_that_of_differences(seed):
    X, y = smooth_data(seed)
    mlp = tanh_mlp(max_iter=5, alpha=0.3, random_state=seed).fit(X, y)
    subject = open_subject(mlp, X, y, sample_weight=None, loss=None, penalty=None)
    objective, theta = subject.objective, subject.objective.network.theta
    found = hessian(objective, theta).numpy()
    step = 1e-5
    columns = [
        (
            objective.value_and_gradient_of_one(theta + step * unit)[1]
            - objective.value_and_gradient_of_one(theta - step * unit)[1]
        ).numpy()
        / (2 * step)
        for unit in torch.eye(len(theta), dtype=torch.float64)
    ]
    np.testing.assert_allclose(found, np.array(columns), atol=1e-8)


def test_parameters_are_not_changed(seed):
    X, y = smooth_data(seed)
    mlp = tanh_mlp(max_iter=5, random_state=seed).fit(X, y)
    before = [part.copy() for part in (*mlp.coefs_, *mlp.intercepts_)]
    certify(mlp, X, y)
    for old, new in zip(before, (*mlp.coefs_, *mlp.intercepts_), strict=True):
        np.testing.assert_array_equal(old, new)
    network = open_network(mlp).network
    assert isinstance(network, ChainNetwork)
    put(mlp, network)
