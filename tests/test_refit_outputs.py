"""Features and standard deviations of a fitted refit."""

import contextlib
import pickle

import numpy as np
import oracles
import pytest
import torch
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import load_iris
from sklearn.frozen import FrozenEstimator
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import DotProduct
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.preprocessing import StandardScaler

from sklearn_pgb import GradientBasisRefit
from sklearn_pgb._bases._tangent import TangentSpace
from sklearn_pgb._convex._heldout import Fold, HeldOut
from sklearn_pgb._convex._problem import ConvexProblem, finish
from sklearn_pgb._estimator._border import inputs_of, open_all
from sklearn_pgb._losses._regression import GammaLoss, SquaredLoss
from sklearn_pgb._operators._dense import DenseOperator
from sklearn_pgb._refit._uncertainty import (
    column_units,
    heldout_level,
    parameter_variance,
)

RNG = np.random.default_rng(0)
X = RNG.normal(size=(30, 2))
X_NEW = RNG.normal(size=(9, 2))
Y = np.column_stack([np.sin(X[:, 0]), X[:, 0] * X[:, 1]]) + 0.1 * RNG.normal(
    size=(30, 2)
)
LABELS = np.digitize(Y[:, 0], [-0.4, 0.4])
WEIGHT = RNG.integers(1, 4, size=30).astype(float)


def mlp(kind=MLPRegressor, **params):
    params = {"solver": "lbfgs", "max_iter": 20, "random_state": 0} | params
    return kind(hidden_layer_sizes=(3,), activation="tanh", **params)


# -- device --------------------------------------------------------------------------


def test_predictions_on_a_machine_without_the_device():
    """They are computed on the CPU, with one warning."""
    refit = GradientBasisRefit(mlp(), alpha=0.1, distribution=True).fit(X, Y[:, 0])
    expected = refit.predict(X_NEW, return_std=True)
    elsewhere = pickle.loads(pickle.dumps(refit.set_params(device="cuda:99")))
    with pytest.warns(
        UserWarning, match=r"'cuda:99' is not there, so predictions are .* on the CPU"
    ):
        found = elsewhere.predict(X_NEW, return_std=True)
    np.testing.assert_array_equal(found, expected)
    features = elsewhere.transform(X_NEW)
    np.testing.assert_allclose(features @ refit.basis_coef_, expected[0], rtol=1e-9)


# -- features ------------------------------------------------------------------------


@pytest.mark.parametrize("n_models", [1, 2])
@pytest.mark.parametrize(
    ("kind", "y"), [(MLPRegressor, Y[:, 0]), (MLPRegressor, Y), (MLPClassifier, LABELS)]
)
def test_transform_is_the_jacobian(kind, y, n_models):
    """Of the first output by the parameters of all networks, then of the second."""
    refit = GradientBasisRefit(mlp(kind), alpha=0.1, n_models=n_models).fit(X, y)
    expected = np.concatenate(oracles.network_features(refit, X_NEW), 2)
    n_outputs, n_params = expected.shape[1:]
    assert n_params == len(refit.basis_coef_) == n_models * (9 + 4 * n_outputs)
    np.testing.assert_allclose(
        refit.transform(X_NEW), expected.reshape(9, -1), rtol=1e-9, atol=1e-12
    )
    raw = refit.predict if kind is MLPRegressor else refit.decision_function
    features = refit.transform(X_NEW).reshape(9, n_outputs, n_params)
    np.testing.assert_allclose(
        (features @ refit.basis_coef_).ravel(), raw(X_NEW).ravel(), rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("n_models", [1, 2])
def test_sketch_keeps_inner_products(n_models):
    """In expectation; the error falls as one over the root of the columns."""
    model = GradientBasisRefit(mlp(), alpha=0.1, n_models=n_models, random_state=0)
    full = model.fit(X, Y).transform(X_NEW)
    exact = full @ full.T
    errors = []
    for n_components in (100, 10_000):
        sketch = model.set_params(n_components=n_components).fit(X, Y).transform(X_NEW)
        assert sketch.shape == (9, n_components)
        errors.append(np.linalg.norm(sketch @ sketch.T - exact) / np.linalg.norm(exact))
    # Each entry has a relative standard deviation of about sqrt(3 / n_components).
    assert errors[0] < 6 * np.sqrt(3 / 100)
    assert errors[1] < 6 * np.sqrt(3 / 10_000)


def test_sketch_is_the_same_for_any_rows_and_fits():
    model = GradientBasisRefit(mlp(), alpha=0.1, n_components=5)
    sketch = model.fit(X, Y).transform(X_NEW)
    np.testing.assert_allclose(model.transform(X_NEW[3:4]), sketch[3:4], rtol=1e-9)
    np.testing.assert_array_equal(model.fit(X, Y).transform(X_NEW), sketch)
    other = model.set_params(random_state=1).fit(X, Y)
    assert abs(other.transform(X_NEW) - sketch).max() > 1e-3


def test_sketch_leaves_predictions_alone():
    model = GradientBasisRefit(mlp(), alpha=0.1).fit(X, Y)
    expected = model.predict(X_NEW)
    model.set_params(n_components=4).fit(X, Y)
    np.testing.assert_array_equal(model.predict(X_NEW), expected)


@pytest.mark.parametrize("n_components", [None, 6])
def test_feature_names(n_components):
    pd = pytest.importorskip("pandas")
    model = GradientBasisRefit(mlp(), alpha=0.1, n_components=n_components)
    model.set_output(transform="pandas")
    frame = pd.DataFrame(X, columns=["a", "b"])
    result = model.fit_transform(frame, Y)
    names = [f"gradientbasisrefit{i}" for i in range(result.shape[1])]
    assert isinstance(result, pd.DataFrame)
    assert result.columns.tolist() == names == model.get_feature_names_out().tolist()
    assert len(names) == (n_components or 2 * (9 + 8))


# -- standard deviations -------------------------------------------------------------


def basis(refit, X):
    """The refit's scaled operator on new rows."""
    opened = open_all(refit.estimators_, None, None)
    inputs = inputs_of(opened, X, None)
    networks = [network.network for network in opened]
    return TangentSpace.with_scales(networks, inputs, refit._scales).operator(inputs)


@pytest.mark.parametrize("n_models", [1, 2])
@pytest.mark.parametrize("solver", ["primal", "dual"])
@pytest.mark.parametrize("y", [Y[:, 0], Y], ids=["one", "two"])
def test_parameter_variance_is_the_formula(y, solver, n_models):
    """phi^T A^-1 phi with A = sum s phi phi^T + (alpha sum s / 2) I, the bias free."""
    alpha = 1e-2
    refit = GradientBasisRefit(
        mlp(), alpha=alpha, solver=solver, n_models=n_models, distribution=True
    ).fit(X, y, WEIGHT)
    phi = oracles.scaled_features(refit, X, X, WEIGHT)
    new = oracles.scaled_features(refit, X_NEW, X, WEIGHT)
    k = phi.shape[1]
    # The output biases are columns without penalty.
    phi, new = (
        np.concatenate([p, np.tile(np.eye(k), (len(p), 1, 1))], 2) for p in (phi, new)
    )
    A = np.einsum("i,ica,icb->ab", WEIGHT, phi, phi)
    A[:-k, :-k] += alpha * WEIGHT.sum() / 2 * np.eye(len(A) - k)
    expected = np.einsum("ica,ab,icb->ic", new, np.linalg.inv(A), new)
    found = parameter_variance(refit._uncertainty, basis(refit, X_NEW)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-6)


class NoBias(torch.nn.Sequential):
    """A network without output bias, so all columns are penalized."""

    def __init__(self):
        torch.manual_seed(0)
        super().__init__(
            torch.nn.Linear(2, 3), torch.nn.Tanh(), torch.nn.Linear(3, 1, bias=False)
        )


def test_std_is_that_of_a_gaussian_process():
    """Without free columns: the posterior of a linear kernel with noise lambda."""
    alpha = 1e-2
    with torch.random.fork_rng():
        module = NoBias()
    refit = GradientBasisRefit(
        module, loss="squared_error", alpha=alpha, distribution=True
    )
    refit.fit(X, Y[:, 0])
    operators = []
    for rows in (X, X_NEW):
        opened = open_all(refit.estimators_, SquaredLoss(), None)
        inputs = inputs_of(opened, rows, None)
        space = TangentSpace.with_scales([opened[0].network], inputs, refit._scales)
        operators.append(space.operator(inputs))
    seen, new = (operator.dense()[:, 0].numpy() for operator in operators)
    ridge = alpha * 30 / 2
    process = GaussianProcessRegressor(DotProduct(0.0, "fixed"), alpha=ridge)
    mean, std = process.fit(seen, Y[:, 0]).predict(new, return_std=True)
    np.testing.assert_allclose(refit.predict(X_NEW), mean, rtol=1e-6)
    found = parameter_variance(refit._uncertainty, operators[1])[:, 0]
    np.testing.assert_allclose(found, std**2 / ridge, rtol=1e-6)


def noisy(n_rows, seed):
    """A curve with noise that grows from 0.1 to 0.5."""
    rng = np.random.default_rng(seed)
    X = rng.uniform(-2, 2, size=(n_rows, 1))
    noise = 0.1 + 0.1 * (X[:, 0] + 2)
    return X, np.sin(2 * X[:, 0]) + noise * rng.normal(size=n_rows), noise


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"alpha": 1e-3},
        {"alpha": "evidence"},
        {"alpha": "loo"},
        {"cv": 3},
        {"alpha": "loo", "n_models": 2},
    ],
    ids=str,
)
def test_std_is_calibrated(seed, params):
    """Standardized errors on 1,000 new rows have a mean square of about one.

    Its standard deviation is sqrt(2 / 1000) from the new rows, and about
    sqrt(2 / 200) from the 200 training rows: four of them are 0.4. Of normal errors,
    95 % are below 1.96.
    """
    X, y, _ = noisy(200, seed)
    refit = GradientBasisRefit(mlp(), random_state=0, distribution=True, **params)
    refit.fit(X, y)
    X_test, y_test, noise = noisy(1000, seed + 1000)
    mean, std = refit.predict(X_test, return_std=True)
    assert mean.shape == std.shape == (1000,)
    assert std.min() > 0.02
    z = (y_test - mean) / std
    assert 0.6 < (z**2).mean() < 1.4
    assert 0.9 < (abs(z) < 1.96).mean() < 0.99
    # A better fit than the same noise everywhere would be no accident; worse is a bug.
    log_loss = (np.log(std) + z**2 / 2).mean()
    best = (np.log(noise) + 0.5).mean()
    assert log_loss < best + 0.3


class Product(torch.nn.Module):
    """A trained network that is not a chain, so its hidden layers are unknown."""

    def __init__(self):
        super().__init__()
        self.head = torch.nn.Linear(2, 1)

    def forward(self, X):
        return self.head(X)


@pytest.mark.parametrize("module", [None, Product], ids=["chain", "module"])
def test_std_finds_noise_in_a_product(seed, module):
    """Noise of 0.3 e^(x_1 x_2 / 2), which no sum over the inputs describes."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(2000, 2))
    noise = 0.3 * np.exp(X[:, 0] * X[:, 1] / 2)
    y = X[:, 0] + noise * rng.normal(size=2000)
    if module is None:
        refit = GradientBasisRefit(mlp(), random_state=0)
    else:
        refit = GradientBasisRefit(module(), loss="squared_error", alpha="loo")
    refit.set_params(distribution=True).fit(X[:1000], y[:1000])
    mean, std = refit.predict(X[1000:], return_std=True)
    log_loss = np.log(std) + ((y[1000:] - mean) / std) ** 2 / 2
    # The same noise everywhere is worse by half of log mean(e^(x_1 x_2)), about 0.2.
    assert log_loss.mean() < np.log(noise[1000:]).mean() + 0.5 + 0.1


@pytest.mark.parametrize("rich", [False, True])
@pytest.mark.parametrize("change", ["shift", "far", "units", "target", "constant"])
def test_std_does_not_depend_on_origins(seed, change, rich):
    """Noise that grows on both sides of zero, seen from elsewhere.

    The refit has almost no penalty, which would depend on the origin.
    """
    rng = np.random.default_rng(seed)
    Z = rng.normal(size=(400 if rich else 60, 2))
    y = Z[:, 0] + (0.2 + Z[:, 1] ** 2) * rng.normal(size=len(Z))

    def std(Z, y):
        options = {"alpha": [1e-12], "random_state": 0, "distribution": True}
        refit = GradientBasisRefit(LinearRegression(), **options).fit(Z, y)
        return refit.predict(Z, return_std=True)[1]

    expected = std(Z, y)
    found = {
        "shift": lambda: std(Z - np.array([10, 20]), y),
        "far": lambda: std(Z + 2000, y),
        "units": lambda: 1000 * std(Z * [1024, 3], y / 1000),
        "target": lambda: std(Z, y + 1e4),
        "constant": lambda: std(np.c_[Z, np.full(len(Z), 7.1)], y),
    }[change]()
    # The solver stops at a tolerance.
    np.testing.assert_allclose(found, expected, rtol=1e-3)


@pytest.mark.parametrize("power", [-600, 0, 600])
def test_units_of_columns_of_any_size(seed, power):
    """Squares of the values are outside of double precision."""
    values = np.random.default_rng(seed).normal(3, 1, size=(50, 2))
    weight = np.random.default_rng(seed).uniform(size=50)
    scaler = StandardScaler().fit(values, sample_weight=weight)
    scaled = torch.from_numpy(values * 2.0**power)
    mean, spread = column_units(scaled, torch.from_numpy(weight / weight.sum()))
    np.testing.assert_allclose(mean * 2.0**-power, scaler.mean_, rtol=1e-12)
    np.testing.assert_allclose(spread * 2.0**-power, scaler.scale_, rtol=1e-12)


def test_noise_is_raised_to_fit_held_out_samples():
    """One output is twice as noisy as the model says, the other half as much."""
    y = torch.tensor([[2.0, 1.0], [6.0, 2.0]], dtype=torch.float64)
    raw = torch.log(torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64))
    weight = torch.tensor([0.3, 0.1], dtype=torch.float64)
    operator = DenseOperator(torch.zeros(2, 2, 1, dtype=torch.float64))
    problem = ConvexProblem(operator, y, GammaLoss(), weight, alpha=1.0, offset=raw)
    solution = finish(problem, *problem.zero(), 0, True)
    held = HeldOut(torch.arange(2), operator, y, weight, raw)
    shift, loss = heldout_level([Fold(problem, held, 1.0)], [solution])
    torch.testing.assert_close(shift, torch.tensor([2.0, 1.0]).double().log())
    np.testing.assert_allclose(loss, 0.5 - np.log(0.5) - 1)


def test_std_grows_away_from_the_data():
    X, y, _ = noisy(200, 0)
    refit = GradientBasisRefit(mlp(), distribution=True).fit(X, y)
    operator = basis(refit, np.array([[0.0], [6.0]]))
    inside, outside = parameter_variance(refit._uncertainty, operator)[:, 0]
    assert outside > 5 * inside


def test_std_has_the_scale_and_shape_of_y():
    inner = TransformedTargetRegressor(mlp(), transformer=StandardScaler())
    for y in (Y[:, 0], Y):
        refit = GradientBasisRefit(inner, alpha=1e-2, distribution=True)
        mean, std = refit.fit(X, y).predict(X_NEW, return_std=True)
        scaled_mean, scaled_std = refit.fit(X, 100 * y - 7).predict(X_NEW, True)
        assert std.shape == mean.shape == refit.predict(X_NEW).shape
        assert (std > 0).all()
        np.testing.assert_allclose(scaled_mean, 100 * mean - 7, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(scaled_std, 100 * std, rtol=1e-4)


def test_std_of_any_subset_of_rows():
    refit = GradientBasisRefit(mlp(), distribution=True).fit(X, Y[:, 0])
    _, std = refit.predict(X_NEW, return_std=True)
    _, one = refit.predict(X_NEW[4:5], return_std=True)
    np.testing.assert_allclose(one, std[4:5], rtol=1e-9)


@pytest.mark.parametrize(
    ("params", "y"),
    [
        ({"alpha": 1e-3, "distribution": False}, Y[:, 0]),
        ({"alpha": 0}, Y[:, 0]),
        ({"alpha": 1e-3, "solver": "matrix-free"}, Y[:, 0]),
        ({"max_memory": "16KB", "cv": 2}, Y[:, 0]),
        ({"estimator": mlp(loss="poisson"), "alpha": 1e-3}, np.exp(Y[:, 0])),
    ],
    ids=["not asked for", "no ridge", "no decomposition", "little memory", "poisson"],
)
def test_no_std(params, y):
    refit = GradientBasisRefit(**({"estimator": mlp(), "distribution": True} | params))
    warns = contextlib.nullcontext()
    if refit.distribution and refit.estimator.loss != "poisson":
        warns = pytest.warns(UserWarning, match="distribution=True has no effect")
    with warns:
        refit.fit(X, y)
    with pytest.raises(ValueError, match="return_std must be False for this refit"):
        refit.predict(X_NEW, return_std=True)


def test_std_that_overflows():
    """Squares of huge inputs overflow: an error, not standard deviations of NaN."""
    refit = GradientBasisRefit(Ridge(), distribution=True).fit(X, Y[:, 0])
    assert np.isfinite(refit.predict(1e200 * X)).all()
    with pytest.raises(ValueError, match="X must have finite outputs"):
        refit.predict(1e200 * X, return_std=True)


def test_no_std_of_one_row():
    network = FrozenEstimator(mlp().fit(X, Y[:, 0]))
    refit = GradientBasisRefit(network, alpha=1e-3, distribution=True)
    refit.fit(X[:1], Y[:1, 0])
    np.testing.assert_allclose(refit.predict(X[:1]), Y[:1, 0], rtol=1e-9)
    with pytest.raises(ValueError, match="two distinct samples"):
        refit.predict(X, return_std=True)


def test_no_std_of_a_classifier():
    refit = GradientBasisRefit(mlp(MLPClassifier), alpha=0.1).fit(X, LABELS)
    with pytest.raises(ValueError, match="return_std must be False for a classifier"):
        refit.predict(X, return_std=True)


def test_candidates_of_a_frozen_classifier():
    """An array of candidates replaces the default ones, and one of them is chosen."""
    X, y = load_iris(return_X_y=True)
    network = mlp(MLPClassifier).fit(X, y)
    candidates = np.array([1e-4, 1e-2, 1.0])
    refit = GradientBasisRefit(
        FrozenEstimator(network), alpha=candidates, center="zero"
    ).fit(X, y)
    path = refit.cv_results_
    # Folds have four fifths of the samples, so alpha for all is four fifths.
    tried = path["alpha"] / 0.8
    np.testing.assert_allclose(tried, candidates[::-1][: len(tried)])
    assert refit.alpha_ == path["alpha"][np.argmin(path["loss"])]
