"""Refits as torch modules: their predictions, exported by torch and by ONNX."""

import io
import pickle
import warnings

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import RandomForestRegressor, VotingRegressor
from sklearn.linear_model import Ridge
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MaxAbsScaler,
    MinMaxScaler,
    PowerTransformer,
    QuantileTransformer,
    RobustScaler,
    StandardScaler,
)
from torch import nn

from sklearn_pgb import (
    AddedNeuronClassifier,
    AddedNeuronRegressor,
    GradientBasisRefit,
    ResNetBasisRegressor,
)

RNG = np.random.default_rng(0)
Z = RNG.normal(size=(60, 4))
X = Z * [1.0, 10.0, 0.1, 3.0] + [0.0, 50.0, -2.0, 1.0]
X_NEW = RNG.normal(size=(17, 4)) * X.std(0) + X.mean(0)
SIGNALS = Z.reshape(60, 2, 2)
TOKENS = RNG.integers(0, 5, size=(60, 6)).astype(float)
CURVE = np.sin(2 * Z[:, 0]) + Z[:, 1] * Z[:, 2]
Y = {
    "real": 100 + 30 * CURVE,
    "column": 30 * CURVE[:, None],
    "two": np.column_stack([100 + 30 * CURVE, Z[:, 0] ** 2]),
    "count": RNG.poisson(np.exp(CURVE / 2)).astype(float),
    "binary": np.where(CURVE > 0, "yes", "no"),
    "multi": np.array(["low", "mid", "top"])[np.digitize(CURVE, [-0.7, 0.7])],
    "labels": np.column_stack([CURVE > 0, Z[:, 3] > 0]).astype(int),
}
SMALL = {"hidden_layer_sizes": (4,), "max_iter": 20, "random_state": 0}
REGRESSOR = MLPRegressor(solver="lbfgs", activation="tanh", **SMALL)
CLASSIFIER = MLPClassifier(solver="lbfgs", **SMALL)


def module(*layers):
    """A module with random parameters."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # layers of lazy shapes
        return nn.Sequential(*(layer() for layer in layers)).double()


def signals(**params):
    """A convolutional net of skorch for samples of shape (2, 2)."""
    skorch = pytest.importorskip("skorch")
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv1d(2, 3, 2), nn.BatchNorm1d(3), nn.ReLU(), nn.Flatten(), nn.Linear(3, 3)
    )
    kind, options = skorch.NeuralNetClassifier, {"train_split": None, "verbose": 0}
    return kind(net.double(), criterion=nn.CrossEntropyLoss, max_epochs=2, **options)


def scaled(scaler, network=REGRESSOR):
    return make_pipeline(scaler, network)


# Estimator, targets, and parameters of the refit.
CASES = {
    "network": (REGRESSOR, "real", {}),
    "columns": (REGRESSOR, "two", {}),
    "counts": (clone(REGRESSOR).set_params(loss="poisson"), "count", {}),
    "two classes": (CLASSIFIER, "binary", {}),
    "three classes": (CLASSIFIER, "multi", {}),
    "labels": (CLASSIFIER, "labels", {}),
    "linear": (Ridge(), "real", {}),
    "several": (REGRESSOR, "real", {"n_models": 3, "alpha": 0.1}),
    "last layer": (scaled(StandardScaler()), "real", {"parameters": "last"}),
    "biases": (scaled(StandardScaler()), "real", {"parameters": ["*.bias"]}),
    "average": (REGRESSOR, "real", {"alpha": 1e9, "center": "average", "cv": None}),
    "standard": (scaled(StandardScaler()), "real", {}),
    "uncentered": (scaled(StandardScaler(with_mean=False)), "real", {}),
    "unscaled": (scaled(StandardScaler(with_std=False)), "real", {}),
    "min max": (scaled(MinMaxScaler((-1, 2)), CLASSIFIER), "multi", {}),
    "max abs": (scaled(MaxAbsScaler()), "real", {}),
    "robust": (scaled(RobustScaler(with_centering=False)), "real", {}),
    "nested": (
        make_pipeline(
            FunctionTransformer(),
            Pipeline([("a", RobustScaler()), ("b", "passthrough")]),
            scaled(MinMaxScaler()),
        ),
        "real",
        {},
    ),
    "targets": (
        TransformedTargetRegressor(
            scaled(StandardScaler()), transformer=MinMaxScaler()
        ),
        "real",
        {},
    ),
    "nested targets": (
        TransformedTargetRegressor(
            REGRESSOR, transformer=make_pipeline(StandardScaler(), RobustScaler())
        ),
        "two",
        {},
    ),
    "untransformed targets": (TransformedTargetRegressor(REGRESSOR), "real", {}),
    "own": (AddedNeuronRegressor((4, 3), max_iter=10, random_state=0), "real", {}),
    "own module": (
        AddedNeuronRegressor(
            module=module(lambda: nn.Linear(4, 3), nn.SiLU, lambda: nn.Linear(3, 1)),
            max_iter=10,
            random_state=0,
        ),
        "real",
        {},
    ),
    "own classifier": (
        AddedNeuronClassifier((4,), max_iter=10, random_state=0),
        "multi",
        {},
    ),
    "residual": (
        ResNetBasisRegressor(hidden_layer_sizes=(5,), max_iter=10, random_state=0),
        "two",
        {"cv": 2},
    ),
    "module": (
        module(
            lambda: nn.Linear(4, 5),
            lambda: nn.LayerNorm(5),
            nn.GELU,
            lambda: nn.Linear(5, 3),
        ),
        "multi",
        {"loss": "log_loss", "alpha": 0.1},
    ),
    "frozen head": (
        module(lambda: nn.Linear(4, 3), nn.Tanh, lambda: nn.Linear(3, 1)),
        "column",
        {"loss": "squared_error", "alpha": 0.1},
    ),
    "embedding": (
        module(
            lambda: nn.Embedding(5, 2),
            nn.Flatten,
            lambda: nn.Linear(12, 1),
        ),
        "real",
        {"loss": "squared_error", "alpha": 0.1},
    ),
    "images": (signals, "multi", {"alpha": 0.1}),
}
CASES["frozen head"][0][2].weight.requires_grad_(False)
INPUTS = {"embedding": TOKENS, "images": SIGNALS}
every_case = pytest.mark.parametrize("name", CASES)


@pytest.fixture(scope="module")
def fitted():
    """Refits of the cases and samples, fitted once."""
    known = {}

    def fit(name):
        if name not in known:
            estimator, targets, params = CASES[name]
            estimator = estimator() if name == "images" else estimator
            y = Y[targets]
            if isinstance(estimator, nn.Module) or name == "images":
                y = np.unique(y, return_inverse=True)[1] if targets == "multi" else y
            rows = INPUTS.get(name, X)
            params = {"cv": 2} | params if "alpha" not in params else params
            refit = GradientBasisRefit(estimator, random_state=0, **params)
            known[name] = refit.fit(rows, y), INPUTS.get(name, X_NEW)[:17]
        return known[name]

    return fit


def expected(refit, rows):
    return getattr(refit, method_of(refit))(rows)


def method_of(refit):
    return "predict_proba" if hasattr(refit, "predict_proba") else "predict"


def exported(converted, rows):
    """A module after torch.export, for any number of samples."""
    n_samples = {0: torch.export.Dim("n_samples")}
    return torch.export.export(converted, (rows[:5],), dynamic_shapes=(n_samples,))


@every_case
def test_predictions(name, fitted):
    refit, rows = fitted(name)
    before, state = expected(refit, rows), torch.get_rng_state()
    converted = refit.to_module()
    found = converted(torch.tensor(rows))
    assert found.dtype == torch.float64
    assert not converted.training
    assert not any(p.requires_grad for p in converted.parameters())
    scale = abs(before).max()
    assert_allclose(found, before, rtol=1e-10, atol=1e-10 * scale, strict=True)
    assert torch.equal(torch.get_rng_state(), state)
    single = converted.float()(torch.tensor(rows))
    assert single.dtype == torch.float32
    assert_allclose(single, before, rtol=1e-4, atol=1e-4 * scale)
    # The conversion changes nothing in the refit.
    assert_allclose(expected(refit, rows), before, rtol=0, atol=0)


@every_case
def test_torch_export(name, fitted):
    refit, rows = fitted(name)
    rows = torch.tensor(rows)
    converted = refit.to_module()
    program = exported(converted, rows).module()
    for part in (rows, rows[:1]):
        assert_allclose(program(part), converted(part), rtol=1e-12, atol=1e-12)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of torch about torch
@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("three classes", torch.float64),
        ("targets", torch.float64),
        # onnxruntime has convolutions and other activations in single precision only.
        ("residual", torch.float32),
        ("module", torch.float32),
        ("embedding", torch.float32),
        ("images", torch.float32),
    ],
)
def test_onnx(name, dtype, fitted, tmp_path):
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package)
    runtime = pytest.importorskip("onnxruntime")
    refit, rows = fitted(name)
    converted, rows = refit.to_module().to(dtype), torch.tensor(rows).to(dtype)
    path = str(tmp_path / "refit.onnx")
    n_samples = {0: torch.export.Dim("n_samples")}
    options = {"dynamo": True, "dynamic_shapes": (n_samples,), "verbose": False}
    torch.onnx.export(converted, (rows[:5],), path, **options)
    session = runtime.InferenceSession(path)
    (given,) = session.get_inputs()
    tol = 1e-10 if dtype == torch.float64 else 1e-4
    scale = float(converted(rows).abs().max())
    for part in (rows, rows[:1]):
        (found,) = session.run(None, {given.name: part.numpy()})
        assert_allclose(found, converted(part), rtol=tol, atol=tol * scale, strict=True)


@pytest.mark.parametrize("name", ["two classes", "three classes", "labels", "module"])
def test_decision_function(name, fitted):
    refit, rows = fitted(name)
    found = refit.to_module("decision_function")(torch.tensor(rows))
    before = refit.decision_function(rows)
    assert_allclose(found, before, rtol=1e-10, atol=1e-10, strict=True)


@pytest.mark.parametrize("n_known", [2, 3])
def test_classes_that_the_networks_do_not_know(n_known):
    """Samples of weight zero have these classes."""
    y = np.digitize(CURVE, [-0.7, 0.0, 0.7][4 - n_known - 1 :])
    y = np.append(y, [-1, 9])
    weight = np.append(np.ones(60), [0.0, 0.0])
    network = AddedNeuronClassifier((4,), max_iter=10, random_state=0)
    rows = np.append(X, X[:2], 0)
    refit = GradientBasisRefit(network, cv=2).fit(rows, y, sample_weight=weight)
    assert len(refit.classes_) > len(refit.estimator_.classes_)
    found = refit.to_module()(torch.tensor(X_NEW))
    assert_allclose(found, refit.predict_proba(X_NEW), rtol=1e-10, atol=1e-10)


def test_columns_that_a_network_ignores():
    """Constant columns."""
    rows, new = np.insert(X, 1, 7.0, axis=1), np.insert(X_NEW, 1, -3.0, axis=1)
    network = AddedNeuronRegressor((4,), max_iter=10, random_state=0)
    refit = GradientBasisRefit(network, cv=2).fit(rows, Y["real"])
    found = refit.to_module()(torch.tensor(new))
    assert_allclose(found, refit.predict(new), rtol=1e-10)


def test_modules_are_stored(fitted):
    refit, rows = fitted("targets")
    converted, rows = refit.to_module(), torch.tensor(rows)
    before = converted(rows)
    assert torch.equal(pickle.loads(pickle.dumps(converted))(rows), before)
    file = io.BytesIO()
    torch.save(converted.state_dict(), file)
    file.seek(0)
    other = clone(refit).fit(X[:40], Y["real"][:40]).to_module()
    assert not torch.equal(other(rows), before)
    other.load_state_dict(torch.load(file))
    assert torch.equal(other(rows), before)


def test_parameters_set_since_the_fit_have_no_effect(fitted):
    refit, rows = fitted("biases")
    before = refit.predict(rows)
    other = pickle.loads(pickle.dumps(refit))
    other.set_params(parameters="all", estimator=RandomForestRegressor())
    assert_allclose(other.to_module()(torch.tensor(rows)), before, rtol=1e-10)


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 1)

    def forward(self, X):
        return self.layer(X) ** 2


def hooked():
    net = nn.Sequential(nn.Linear(4, 1))
    net.register_forward_hook(lambda module, given, out: 2 * out)
    return net


LAYERS = "to_module needs Sequentials of torch's layers .* got "
MODULES = [
    (Own(), X, LAYERS + "Own. Replace this layer"),
    (hooked(), X, LAYERS + "Sequential with hooks"),
    (
        nn.Sequential(nn.EmbeddingBag(5, 2, mode="max"), nn.Linear(2, 1)),
        TOKENS,
        LAYERS + "EmbeddingBag with mode='max'",
    ),
]


@pytest.mark.parametrize(("net", "rows", "words"), MODULES)
def test_modules_with_unknown_layers(net, rows, words):
    refit = GradientBasisRefit(net, loss="squared_error", alpha=0.1)
    refit.fit(rows, Y["real"])
    with pytest.raises(TypeError, match=words):
        refit.to_module()


TREES = RandomForestRegressor(3, random_state=0)


@pytest.mark.parametrize(
    "model", [TREES, VotingRegressor([("a", TREES), ("b", REGRESSOR)])]
)
def test_trees(model):
    refit = GradientBasisRefit(model, alpha=0.1, cv=2).fit(X, Y["real"])
    words = f"needs networks only, got a refit of {type(model).__name__}"
    with pytest.raises(TypeError, match=words):
        refit.to_module()


class OwnScaler(StandardScaler):
    pass


@pytest.mark.parametrize(
    "scaler",
    [
        QuantileTransformer(n_quantiles=5),
        MinMaxScaler(clip=True),
        MaxAbsScaler(clip=True),
        OwnScaler(),
        FunctionTransformer(np.cbrt),
    ],
)
def test_transformers_that_do_not_rescale(scaler):
    refit = GradientBasisRefit(scaled(scaler), alpha=0.1).fit(X, Y["real"])
    words = f"multiply and shift.*got {type(scaler).__name__}"
    with pytest.raises(TypeError, match=words):
        refit.to_module()


@pytest.mark.parametrize(
    "params",
    [
        {"transformer": PowerTransformer()},
        {"func": np.cbrt, "inverse_func": lambda y: y**3},
    ],
)
def test_targets_that_are_not_rescaled(params):
    network = TransformedTargetRegressor(REGRESSOR, check_inverse=False, **params)
    refit = GradientBasisRefit(network, alpha=0.1).fit(X, Y["real"])
    with pytest.raises(TypeError, match="multiply and shift"):
        refit.to_module()


@pytest.mark.parametrize(
    ("name", "method", "words"),
    [
        ("network", "predict_proba", "'predict' for this refit, got 'predict_proba'"),
        ("labels", "predict", "'predict_proba' or 'decision_function' for"),
    ],
)
def test_methods_that_a_refit_does_not_have(name, method, words, fitted):
    with pytest.raises(ValueError, match=f"response_method must be 'auto' or {words}"):
        fitted(name)[0].to_module(method)
