"""`certify` on each kind of network, with the objective that it was trained on."""

import numpy as np
import pytest
import torch
from certificate_cases import (
    chain_module,
    converged_mlp,
    on_weights,
    polished_mlp,
    sklearn_gradient,
    smooth_data,
    tanh_mlp,
)
from sklearn.compose import TransformedTargetRegressor
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import log_loss, mean_squared_error
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler
from torch import nn

from sklearn_pgb import (
    AddedNeuronClassifier,
    AddedNeuronRegressor,
    ResNetBasisClassifier,
    ResNetBasisRegressor,
    certify,
)
from sklearn_pgb._models._open import open_network


def labels(seed, n_classes=3, n=50):
    X, y = smooth_data(seed, n=n)
    return X, np.digitize(y, np.quantile(y, np.linspace(0, 1, n_classes + 1)[1:-1]))


# -- scikit-learn's own objective ----------------------------------------------------


def test_objective_is_twice_that_of_scikit_learn(seed):
    """scikit-learn's squared loss has a factor 1/2; `loss_` is its objective."""
    X, y = smooth_data(seed)
    mlp = tanh_mlp(alpha=0.5, max_iter=10, random_state=seed).fit(X, y)
    certificate = certify(mlp, X, y)
    assert certificate.loss == pytest.approx(mean_squared_error(y, mlp.predict(X)))
    assert certificate.objective == pytest.approx(2 * mlp.loss_, rel=1e-12)
    gradient = 2 * np.linalg.norm(sklearn_gradient(mlp, X, y))
    assert certificate.gradient_norm == pytest.approx(gradient, rel=1e-10)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_log_loss_is_that_of_scikit_learn(seed, n_classes):
    X, y = labels(seed, n_classes)
    mlp = MLPClassifier(
        hidden_layer_sizes=4, solver="lbfgs", alpha=0.5, max_iter=10, random_state=seed
    ).fit(X, y)
    certificate = certify(mlp, X, y)
    assert certificate.loss == pytest.approx(log_loss(y, mlp.predict_proba(X)))
    assert certificate.objective == pytest.approx(mlp.loss_, rel=1e-12)


def test_poisson_loss_leaves_out_the_constant(seed):
    X, _ = smooth_data(seed)
    y = np.random.RandomState(seed).poisson(2.0, len(X)).astype(float)
    mlp = tanh_mlp(loss="poisson", alpha=0.5, max_iter=10, random_state=seed).fit(X, y)
    certificate = certify(mlp, X, y)
    constant = np.mean(np.where(y > 0, y * np.log(np.maximum(y, 1)), 0) - y)
    assert certificate.objective + constant == pytest.approx(mlp.loss_, rel=1e-10)


def test_weights_divide_the_penalty_by_their_sum(seed):
    X, y = smooth_data(seed)
    weight = np.random.RandomState(seed).uniform(0.5, 3.0, len(X))
    mlp = tanh_mlp(alpha=0.5, max_iter=10, random_state=seed).fit(X, y, weight)
    certificate = certify(mlp, X, y, sample_weight=weight)
    assert certificate.objective == pytest.approx(2 * mlp.loss_, rel=1e-12)
    gradient = 2 * np.linalg.norm(sklearn_gradient(mlp, X, y, weight))
    assert certificate.gradient_norm == pytest.approx(gradient, rel=1e-10)


def test_several_targets_are_summed_as_in_the_gradient(seed):
    X, y = smooth_data(seed)
    Y = np.column_stack([y, X[:, 0]])
    mlp = tanh_mlp(alpha=0.5, max_iter=10, random_state=seed).fit(X, Y)
    certificate = certify(mlp, X, Y)
    assert certificate.loss == pytest.approx(2 * mean_squared_error(Y, mlp.predict(X)))
    empty = [np.empty((len(X), size)) for size in (3, 2)]
    gradients = [[np.empty_like(c) for c in mlp.coefs_]]
    gradients.append([np.empty_like(b) for b in mlp.intercepts_])
    deltas = [part.copy() for part in empty]
    _, coefs, intercepts = mlp._backprop(X, Y, None, [X, *empty], deltas, *gradients)
    flat = np.concatenate([part.ravel() for part in (*coefs, *intercepts)])
    assert certificate.gradient_norm == pytest.approx(2 * np.linalg.norm(flat))


def test_batches_strengthen_the_penalty(seed):
    """A step of scikit-learn divides alpha by the weight of its batch."""
    X, y = smooth_data(seed)
    params = {"alpha": 0.5, "max_iter": 3, "random_state": seed}
    whole = tanh_mlp(solver="adam", batch_size=40, **params).fit(X, y)
    parts = tanh_mlp(solver="adam", batch_size=10, **params).fit(X, y)
    squares = [sum((c**2).sum() for c in mlp.coefs_) for mlp in (whole, parts)]
    penalties = [certify(mlp, X, y).penalty for mlp in (whole, parts)]
    assert penalties[0] == pytest.approx(0.5 / 40 * squares[0])
    assert penalties[1] == pytest.approx(0.5 / 10 * squares[1])
    assert any("batch" in note for note in certify(parts, X, y).notes)


def test_early_stopping_is_noted(seed):
    X, y = smooth_data(seed)
    mlp = tanh_mlp(
        solver="adam", early_stopping=True, max_iter=5, random_state=seed
    ).fit(X, y)
    assert any("Early stopping" in note for note in certify(mlp, X, y).notes)


# -- penalized objectives ------------------------------------------------------------


@pytest.mark.parametrize("alpha", [1e-3, 0.1, 1.0])
def test_tilted_gap_is_zero_at_critical_points_and_the_plain_one_is_not(seed, alpha):
    mlp, X, y = converged_mlp(seed, alpha)
    certificate = certify(mlp, X, y)
    tilted = certificate.tilted
    assert certificate.gradient_norm <= 1e-9
    assert tilted.gap <= 1e-6 * certificate.objective
    assert tilted.objective - tilted.value <= 1e-9
    assert tilted.plain_gap > 1e3 * tilted.gap
    assert tilted.plain_gap == pytest.approx(certificate.gap)
    assert tilted.unbounded is False
    assert certificate.verdict == "consistent_with_local_min"


def test_tilted_bound_holds_for_random_changes(seed):
    """Away from critical points too: no change within the budget is below."""
    X, y = smooth_data(seed)
    mlp = tanh_mlp(alpha=0.5, max_iter=10, random_state=seed).fit(X, y)
    tilted = certify(mlp, X, y, norm_budget=2.0).tilted
    network = open_network(mlp).network
    J = torch.func.jacrev(network)(network.theta, torch.as_tensor(X))[:, 0].numpy()
    raw = network(network.theta, torch.as_tensor(X))[:, 0].numpy()
    strength = on_weights(network, 0.5 / len(X))
    tilt = 2 * strength * network.theta.numpy()
    constant = strength @ network.theta.numpy() ** 2
    rng = np.random.RandomState(seed)
    lowest = np.inf
    for _ in range(300):
        delta = rng.standard_normal(len(tilt))
        delta *= rng.uniform() * 2.0 / np.linalg.norm(delta)
        value = np.mean((raw + J @ delta - y) ** 2) + tilt @ delta + constant
        lowest = min(lowest, value)
    assert tilted.norm_budget == 2.0
    assert tilted.lower_bound <= lowest < tilted.objective
    assert tilted.lower_bound <= tilted.value < tilted.objective


def test_unbounded_tilt_is_recognized(seed):
    """More parameters than rows: the penalty's gradient leaves the row space."""
    X, y = smooth_data(seed, n=6)
    mlp = tanh_mlp(10, alpha=0.5, max_iter=5, random_state=seed).fit(X, y)
    certificate = certify(mlp, X, y)
    assert certificate.tilted.unbounded is True
    assert certificate.verdict == "not_critical"
    assert np.isfinite(certificate.tilted.lower_bound)
    assert "leaves the row space" in str(certificate)
    # A larger budget then always has a lower bound.
    wider = certify(mlp, X, y, norm_budget=1e3 * certificate.tilted.norm_budget)
    assert wider.tilted.lower_bound < certificate.tilted.lower_bound
    assert wider.tilted.gap > certificate.objective
    assert "this says nothing" in str(wider).lower()
    assert "is left to gain" not in str(wider)


def test_reports_lead_with_the_gap_that_is_zero_at_critical_points(seed):
    mlp, X, y = converged_mlp(seed, 0.1)
    certificate = certify(mlp, X, y)
    assert f"tilted.gap={certificate.tilted.gap:.3g})" in repr(certificate)
    assert "says nothing" not in str(certificate)
    assert "is left to gain" not in str(certificate)
    assert "twice scikit-learn's" in str(certificate)
    early = certify(tanh_mlp(alpha=0.1, max_iter=40, random_state=seed).fit(X, y), X, y)
    size = f"At most {early.tilted.gap:.4g} of the objective {early.objective:.4g} is"
    assert size in str(early).splitlines()[1]
    assert size in early._repr_html_()
    plain = certify(mlp.set_params(alpha=0.0), X, y)
    assert f", gap={plain.gap:.3g})" in repr(plain)


def test_penalized_network_at_the_floor_of_its_loss_is_not_called_global(seed):
    """The verdict is about the objective; that the loss is at its floor is a note."""
    X, y = smooth_data(seed, n=6)
    mlp = polished_mlp(
        tanh_mlp(20, random_state=seed), X, y, lambda net: on_weights(net, 0.0)
    )
    certificate = certify(mlp.set_params(alpha=5.0), X, y)
    assert certificate.loss <= certificate.tolerance
    assert certificate.penalty > certificate.tolerance
    assert certificate.verdict == "not_critical"
    assert any("at the floor" in note for note in certificate.notes)


def test_perturbed_basis_gives_no_verdict_with_a_penalty():
    """Zero weights are a strict local minimum, but not a global one.

    The targets are orthogonal to the inputs, so that only a large change decreases the
    loss by more than it increases the penalty. Without penalty, the point is not a
    local minimum.
    """
    X = np.linspace(-2, 2, 20)[:, None]
    y = np.tanh(3 * X[:, 0])
    y = y - X[:, 0] * (X[:, 0] @ y) / (X[:, 0] @ X[:, 0])
    module = chain_module([[[0.0]], [[0.0]]])
    arguments = {"loss": "squared_error", "random_state": 0}
    certificate = certify(module, X, y, penalty=1e-5, **arguments)
    assert certificate.gradient_norm <= 1e-15
    assert certificate.min_curvature == pytest.approx(2e-5)
    assert certificate.row("perturbed gradient").excess > certificate.tolerance
    assert certificate.verdict == "consistent_with_local_min"
    free = certify(module, X, y, **arguments)
    assert free.verdict == "not_local_min"
    assert free.escape.kind == "zero outgoing weights"


# -- weights and wrappers ------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_integer_weights_equal_repetition(seed, alpha):
    X, y = smooth_data(seed)
    weight = np.random.RandomState(seed).randint(0, 3, len(X))
    mlp = tanh_mlp(alpha=alpha, max_iter=10, random_state=seed).fit(X, y, weight)
    rows = np.repeat(np.arange(len(X)), weight)
    weighted = certify(mlp, X, y, sample_weight=weight)
    repeated = certify(mlp, X[rows], y[rows])
    assert weighted.n_samples == np.count_nonzero(weight)
    for name in ("loss", "objective", "floor", "gradient_norm", "gap", "tolerance"):
        expected = getattr(repeated, name)
        assert getattr(weighted, name) == pytest.approx(expected, rel=1e-8, abs=1e-12)
    for one, other in zip(weighted.table, repeated.table, strict=True):
        assert one.rank == other.rank
        assert one.value == pytest.approx(other.value, rel=1e-8)


def test_steps_of_a_pipeline_are_applied(seed):
    X, y = smooth_data(seed)
    scaler, mlp = StandardScaler(), tanh_mlp(max_iter=10, random_state=seed)
    pipeline = make_pipeline(scaler, mlp).fit(X, y)
    inner = certify(mlp, scaler.transform(X), y)
    outer = certify(FrozenEstimator(pipeline), X, y)
    assert str(inner) == str(outer)


def test_targets_are_transformed(seed):
    X, y = smooth_data(seed)
    model = TransformedTargetRegressor(
        tanh_mlp(max_iter=10, random_state=seed), transformer=StandardScaler()
    ).fit(X, 100 * y + 7)
    scaled = (y - y.mean()) / y.std()
    outer, inner = (
        certify(model, X, 100 * y + 7),
        certify(model.regressor_, X, scaled),
    )
    assert outer.loss == pytest.approx(inner.loss, rel=1e-10)
    assert outer.verdict == inner.verdict


def test_units_of_the_targets_change_no_verdict(seed):
    """Tolerances are relative to the loss of the best constant."""
    mlp, X, y = converged_mlp(seed)
    network = open_network(mlp).network
    modules = []
    for scale in (1.0, 1e-6, 1e6):
        layers = [nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)]
        module = nn.Sequential(*layers).double()
        with torch.no_grad():
            for i, layer in enumerate((module[0], module[2])):
                factor = 1.0 if i == 0 else scale
                layer.weight.copy_(factor * network.weights[i])
                layer.bias.copy_(factor * network.biases[i])
        modules.append(certify(module, X, scale * y, loss="squared_error"))
    assert {each.verdict for each in modules} == {"consistent_with_local_min"}
    assert modules[2].loss == pytest.approx(1e12 * modules[0].loss)
    assert modules[2].tolerance == pytest.approx(1e12 * modules[0].tolerance)


# -- modules -------------------------------------------------------------------------


class Residual(nn.Module):
    """A module that is not a chain: x plus a layer, then a head."""

    def __init__(self):
        super().__init__()
        self.inner, self.head = nn.Linear(2, 2), nn.Linear(2, 1)

    def forward(self, X):
        return self.head(X + torch.tanh(self.inner(X)))


def test_module_is_certified(seed):
    X, y = smooth_data(seed)
    torch.manual_seed(seed)
    module = Residual()
    certificate = certify(module, X, y, loss="squared_error")
    with torch.no_grad():
        raw = module.double()(torch.as_tensor(X)).numpy()[:, 0]
    assert certificate.loss == pytest.approx(np.mean((raw - y) ** 2))
    assert certificate.verdict == "not_critical"
    assert certificate.penalty == 0.0
    assert [row.basis for row in certificate.table] == ["inputs", "gradient"]


def test_penalty_of_a_module(seed):
    """It is one number, or an array or tensor with one number per parameter."""
    X, y = smooth_data(seed)
    torch.manual_seed(seed)
    module = Residual().double()
    theta = torch.cat([p.detach().reshape(-1) for p in module.parameters()])
    one = certify(module, X, y, loss="squared_error", penalty=0.3)
    each = certify(
        module, X, y, loss="squared_error", penalty=torch.full((len(theta),), 0.3)
    )
    assert one.penalty == pytest.approx(0.3 * float(theta.square().sum()))
    assert one.penalty == pytest.approx(each.penalty, rel=1e-6)
    assert one.tilted is not None


@pytest.mark.parametrize("n_outputs", [1, 3])
def test_log_loss_of_a_module(seed, n_outputs):
    X, y = labels(seed, max(n_outputs, 2))
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, n_outputs))
    certificate = certify(module, X, y, loss="log_loss")
    with torch.no_grad():
        raw = module.double()(torch.as_tensor(X))
    p = raw.softmax(1).numpy() if n_outputs > 1 else raw.sigmoid().numpy()[:, 0]
    assert certificate.loss == pytest.approx(log_loss(y, p))


def test_network_outside_its_span_is_added(seed):
    """A frozen head: the gradient basis is the network plus combinations."""
    X, y = smooth_data(seed)
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
    module[2].requires_grad_(False)
    certificate = certify(module, X, y, loss="squared_error")
    assert certificate.row("gradient").value <= certificate.loss
    assert certificate.n_params == 9
    assert any("plus a combination" in text for text in certificate.assumptions)


def test_dropout_and_weight_decay_are_noted(seed):
    skorch = pytest.importorskip("skorch")
    X, y = smooth_data(seed)
    module = nn.Sequential(nn.Linear(2, 3), nn.Dropout(0.1), nn.Linear(3, 1))
    net = skorch.NeuralNetRegressor(
        module,
        max_epochs=1,
        verbose=0,
        optimizer__weight_decay=0.1,
        train_split=None,
    ).fit(X.astype(np.float32), y[:, None].astype(np.float32))
    certificate = certify(net, X, y)
    text = " ".join(certificate.notes)
    assert "Dropout" in text
    assert "weight decay" in text


# -- the package's own estimators ----------------------------------------------------


def test_objective_of_added_neuron_classifier(seed):
    """With class weights, sample weights and a penalty."""
    X, y = labels(seed)
    weight = np.random.RandomState(seed).randint(0, 3, len(X)).astype(float)
    model = AddedNeuronClassifier(
        hidden_layer_sizes=4,
        solver="lbfgs",
        alpha=0.5,
        class_weight="balanced",
        max_iter=20,
        random_state=seed,
    ).fit(X, y, weight)
    certificate = certify(model, X, y, sample_weight=weight)
    assert certificate.objective == pytest.approx(model.loss_curve_[-1], rel=1e-9)


def test_module_of_added_neuron_regressor(seed):
    X, y = smooth_data(seed)
    module = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
    model = AddedNeuronRegressor(
        module=module, solver="lbfgs", alpha=0.5, max_iter=20, random_state=seed
    ).fit(X, y)
    certificate = certify(model, X, y)
    assert certificate.objective == pytest.approx(model.loss_curve_[-1], rel=1e-9)


@pytest.mark.parametrize("basis", [None, PolynomialFeatures(2, include_bias=False)])
def test_objective_of_resnet_basis_regressor(seed, basis):
    """Without decay of the units the objective is `loss_`; its head is at a minimum."""
    X, y = smooth_data(seed)
    model = ResNetBasisRegressor(
        basis,
        hidden_layer_sizes=4,
        alpha=0.05,
        weight_decay=0.0,
        cv=None,
        max_iter=20,
        random_state=seed,
    ).fit(X, 50 + 20 * y)
    certificate = certify(model, X, 50 + 20 * y)
    assert certificate.objective == pytest.approx(model.loss_, rel=1e-9)
    names = [row.basis for row in certificate.table]
    assert names == ["inputs", "inputs and residual units", "gradient"]
    inputs, units = certificate.table[:2]
    assert units.value <= inputs.value
    assert units.n_coef == inputs.n_coef + 4


def test_decay_of_residual_units_is_counted(seed):
    """In units of standardized inputs, as in the training's loss curve."""
    X, y = smooth_data(seed)
    X = 5 + 3 * X
    model = ResNetBasisRegressor(
        hidden_layer_sizes=4,
        alpha=0.05,
        weight_decay=0.01,
        cv=None,
        solver="lbfgs",
        max_iter=20,
        random_state=seed,
    ).fit(X, 10 * y)
    certificate = certify(model, X, 10 * y)
    assert certificate.objective > model.loss_ * (1 + 1e-6)
    assert certificate.objective == pytest.approx(model.loss_curve_[-1], rel=1e-6)


def test_resnet_basis_classifier(seed):
    X, y = labels(seed)
    model = ResNetBasisClassifier(
        hidden_layer_sizes=3, alpha=0.01, cv=None, max_iter=5, random_state=seed
    ).fit(X, y)
    certificate = certify(model, X, y)
    assert certificate.loss == pytest.approx(log_loss(y, model.predict_proba(X)))
    assert certificate.name == "ResNetBasisClassifier"


def test_mlp_of_one_row(seed):
    """One sample is enough for a certificate."""
    X, y = np.array([[0.3, -0.2]]), np.array([1.0])
    mlp = MLPRegressor(hidden_layer_sizes=2, solver="lbfgs", alpha=0, max_iter=500)
    certificate = certify(mlp.set_params(random_state=seed).fit(X, y), X, y)
    assert certificate.n_samples == 1
    assert certificate.floor == 0.0
