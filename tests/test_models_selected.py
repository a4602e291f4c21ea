"""Bases of some parameters: closed forms, and the columns of the whole basis."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_diabetes, load_iris
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeRegressor
from torch import nn

from sklearn_pgb import (
    AddedNeuronRegressor,
    GradientBasis,
    GradientBasisRefit,
    compare_bases,
)
from sklearn_pgb._models._module import ModuleNetwork

X, Y = load_diabetes(return_X_y=True)
X, Y = StandardScaler().fit_transform(X[:120]), (Y[:120] - Y[:120].mean()) / Y.std()
IRIS = load_iris(return_X_y=True)


@pytest.fixture(scope="module")
def mlp():
    model = MLPRegressor(
        hidden_layer_sizes=(6, 5), activation="tanh", solver="lbfgs", random_state=0
    )
    return FrozenEstimator(model.set_params(max_iter=60, tol=1e-2).fit(X, Y))


@pytest.fixture
def module():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(10, 4),
        nn.Tanh(),
        nn.Sequential(nn.Linear(4, 3), nn.SiLU()),
        nn.Linear(3, 1),
    ).double()


def refit(model, parameters, **kwargs):
    kwargs = {"alpha": 0.01, "center": "zero"} | kwargs
    return GradientBasisRefit(model, parameters=parameters, **kwargs).fit(X, Y)


def columns(model, parameters, **kwargs):
    """Unscaled columns, without the output bias."""
    basis = GradientBasis(model, parameters=parameters, **kwargs).fit(X, Y)
    return basis.operator(X, 1).dense()[:, 0].numpy() / basis.space_.scales[0]


def test_last_layer_is_ridge_on_the_hidden_units(mlp):
    """The last layer's derivatives are the hidden units and a constant."""
    network = mlp.estimator
    hidden = X
    for W, b in zip(network.coefs_[:-1], network.intercepts_[:-1], strict=True):
        hidden = np.tanh(hidden @ W + b)
    model = refit(mlp, "last")
    scale = (hidden**2).sum(1).mean() ** -0.5
    ridge = Ridge(alpha=0.01 / 2 * len(X)).fit(scale * hidden, Y)
    expected = ridge.predict(scale * hidden)
    np.testing.assert_allclose(model.predict(X), expected, rtol=1e-6, atol=1e-8)
    assert len(model.basis_coef_) == 6
    np.testing.assert_allclose(model.transform(X)[:, :-1], hidden, rtol=1e-12)


def test_all_layers_are_the_default(mlp):
    for rule in ("last-3", ["layer_1.*", "layer_2", "layer_3.weight", "layer_3.bias"]):
        np.testing.assert_allclose(
            refit(mlp, rule).predict(X), refit(mlp, "all").predict(X), rtol=1e-7
        )


@pytest.mark.parametrize(
    ("rule", "start"), [("last", -6), ("last-2", -41), (["layer_2", "layer_3"], -41)]
)
def test_columns_of_an_mlp(mlp, rule, start):
    expected = columns(mlp, "all")[:, start + 1 :]
    np.testing.assert_allclose(columns(mlp, rule), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("rule", "chosen"),
    [
        ("last", ["3.weight", "3.bias"]),
        ("last-2", ["2.0.weight", "2.0.bias", "3.weight", "3.bias"]),
        (["*.weight"], ["0.weight", "2.0.weight", "3.weight"]),
        (["2", "0.bias"], ["0.bias", "2.0.weight", "2.0.bias"]),
        (("?.weight",), ["0.weight", "3.weight"]),
    ],
)
@pytest.mark.parametrize("wrapped", [False, True])
def test_columns_of_a_module(module, rule, chosen, wrapped):
    """Names are torch's; autograd gives the columns."""
    model, names = module, chosen
    if wrapped:
        # A module of unknown structure.
        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.net = module

            def forward(self, X):
                return self.net(X)

        model, names = Model(), [f"net.{name}" for name in chosen]
        rule = rule if isinstance(rule, str) else [f"net.{each}" for each in rule]
    parameters = dict(model.named_parameters())
    rows = []
    for value in model(torch.tensor(X))[:, 0]:
        # The derivative with respect to the output bias is the model's intercept.
        kept = [parameters[name] for name in names if not name.endswith("3.bias")]
        parts = torch.autograd.grad(value, kept, retain_graph=True)
        rows.append(torch.cat([part.reshape(-1) for part in parts]))
    actual = columns(model, rule, loss="squared_error")
    np.testing.assert_allclose(actual, torch.stack(rows).numpy(), rtol=1e-9, atol=1e-12)


class HeadFirst(nn.Module):
    """Registers its layers in another order than it uses them, and one too many."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 1)
        self.body = nn.Linear(10, 6)
        self.norm = nn.LayerNorm(6)
        self.scale = nn.Parameter(torch.ones(6))
        self.middle = nn.Linear(6, 4)
        self.unused = nn.Linear(10, 1)

    def forward(self, X):
        h = self.norm(torch.tanh(self.body(X))) * self.scale
        return self.head(torch.tanh(self.middle(h)))


@pytest.mark.parametrize(
    ("rule", "names"),
    [
        ("last", ["head.weight", "head.bias"]),
        ("last-2", ["head", "middle"]),
        ("last-3", ["head", "middle", "norm", "scale", "body"]),
    ],
)
def test_last_layers_are_those_that_are_used_last(rule, names):
    torch.manual_seed(0)
    module = HeadFirst()
    expected = columns(module, names, loss="squared_error")
    np.testing.assert_array_equal(columns(module, rule, loss="squared_error"), expected)
    models = [refit(module, each, loss="squared_error") for each in (rule, names)]
    np.testing.assert_array_equal(*(model.predict(X) for model in models))
    with pytest.raises(ValueError, match="at most 'last-3' for a network of 3 layers"):
        refit(module, "last-4", loss="squared_error")


def test_names_may_look_like_patterns():
    layers = nn.ModuleDict({"body[0]": nn.Linear(10, 4), "head[1]": nn.Linear(4, 1)})

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = layers

        def forward(self, X):
            return self.layers["head[1]"](torch.tanh(self.layers["body[0]"](X)))

    assert columns(Model(), "last", loss="squared_error").shape == (120, 4)


def test_the_last_layer_is_a_linear_model_of_its_inputs():
    torch.manual_seed(0)
    module = HeadFirst().double()
    model = refit(module, "last", loss="squared_error")
    module.head = nn.Identity()
    hidden = module(torch.tensor(X)).detach().numpy()
    np.testing.assert_allclose(model.transform(X)[:, :-1], hidden, rtol=1e-12)


def test_normalization_belongs_to_the_layer_before_it():
    """A chain of layers, and the same as a module of unknown form."""
    torch.manual_seed(0)
    layers = nn.Linear(10, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 4)
    chain = nn.Sequential(*layers, nn.LayerNorm(4), nn.SiLU(), nn.Linear(4, 1))
    n_all = sum(part.numel() for part in chain.parameters())
    for module in (chain, nn.Sequential(chain, nn.Softsign())):
        sizes = [
            len(refit(module, rule, loss="squared_error").basis_coef_)
            for rule in ("last", "last-2", "last-3")
        ]
        assert sizes == [5, 5 + 24 + 8, n_all]


def test_parameters_without_effect_cause_a_warning():
    torch.manual_seed(0)
    with pytest.warns(UserWarning, match="selected parameters do not change the"):
        model = refit(HeadFirst(), ["unused"], loss="squared_error")
    assert model.rank_ == 0


def test_without_the_head_the_network_is_added(mlp):
    """Otherwise the network would not be in the model."""
    model = refit(mlp, ["layer_1"], center="auto", alpha=1e9)
    assert model.center_ == "average"
    np.testing.assert_allclose(model.predict(X), mlp.predict(X), rtol=1e-5, atol=1e-6)


def test_cross_fitting_and_later_predictions():
    """Every network of the folds has its parameters selected, in predictions too."""
    net = MLPClassifier(
        hidden_layer_sizes=(5,), solver="lbfgs", max_iter=30, random_state=0
    )
    model = make_pipeline(StandardScaler(), net)
    fitted = GradientBasisRefit(model, parameters="last", cv=3, random_state=0)
    fitted.fit(*IRIS)
    assert len(fitted.basis_coef_) == 3 * 18
    before = fitted.predict_proba(IRIS[0])
    assert fitted.score(*IRIS) > 0.9
    fitted.set_params(parameters="all")
    np.testing.assert_array_equal(fitted.predict_proba(IRIS[0]), before)


def test_search_and_comparison(mlp):
    grid = {"parameters": ["last", "all"]}
    search = GridSearchCV(GradientBasisRefit(mlp, alpha=0.1), grid, cv=2).fit(X, Y)
    assert search.best_params_["parameters"] in grid["parameters"]
    bases = {"all": GradientBasis(mlp), "last": GradientBasis(mlp, parameters="last")}
    table = compare_bases(bases, X, Y, alpha=0.1, cv=2)
    # With the output bias.
    n_params = sum(coef.size for coef in mlp.estimator.coefs_) + 6 + 5 + 1
    assert [table[name].n_coef for name in bases] == [n_params, 6]


def test_added_neurons_have_names():
    net = AddedNeuronRegressor((4,), max_iter=5, random_state=0).fit(X, Y)
    assert len(refit(FrozenEstimator(net), "last").basis_coef_) == 5


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ("first", "parameters must be 'all', 'last'"),
        ("last-0", "parameters must be 'all', 'last'"),
        ([], "parameters must be 'all', 'last'"),
        ([1], "parameters must be 'all', 'last'"),
        ("last-4", "at most 'last-3' for a network of 3 layers"),
        (["layer_1.weight", "conv*"], r"got 'conv\*', which matches none of layer_1"),
        (["layer_3.bias"], "more than the biases of the outputs"),
    ],
)
def test_bad_parameters(mlp, parameters, message):
    with pytest.raises(ValueError, match=message):
        refit(mlp, parameters)
    with pytest.raises(ValueError, match=message):
        GradientBasis(mlp, parameters=parameters).fit(X, Y)


def test_trees_have_no_layers():
    with pytest.raises(
        ValueError, match="'all' for a model that is not a single network"
    ):
        refit(DecisionTreeRegressor(max_depth=2), "last", alpha="auto", cv=2)


def test_tokens():
    """A network with an embedding takes whole numbers, as floats or integers."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    words = rng.integers(0, 9, size=(80, 6))
    y = (words == 3).sum(1).astype(float)
    module = nn.Sequential(nn.EmbeddingBag(9, 4, mode="sum"), nn.Linear(4, 1)).double()
    model = GradientBasisRefit(module, loss="squared_error", alpha=1e-8)
    model.fit(words, y)
    # Sums over words of free numbers contain the count of any word.
    np.testing.assert_allclose(model.predict(words), y, atol=1e-3)
    np.testing.assert_array_equal(
        model.predict(words.astype(float)), model.predict(words)
    )
    for wrong in (words + 1, words - 1, words + 0.5):
        with pytest.raises(ValueError, match="whole numbers from 0 to 8"):
            model.predict(wrong)


def test_skorch_nets_take_images():
    """A cross-fitted refit of a convolutional network, as of a linear model."""
    skorch = pytest.importorskip("skorch")
    rng = np.random.default_rng(0)
    images = rng.normal(size=(60, 1, 4, 4)).astype(np.float32)
    labels = (images[:, 0, :3, :3].sum((1, 2)) > 0).astype(int)
    net = skorch.NeuralNetClassifier(
        nn.Sequential(nn.Conv2d(1, 2, 2), nn.AvgPool2d(3), nn.Flatten()),
        criterion=nn.CrossEntropyLoss,
        max_epochs=2,
        train_split=None,
        verbose=0,
    )
    model = GradientBasisRefit(net, cv=3, random_state=0).fit(images, labels)
    assert model.predict_proba(images).shape == (60, 2)
    # The basis contains all linear functions of the sums over 3 x 3 pixels.
    assert model.score(images, labels) > 0.9
    with pytest.raises(ValueError, match=r"shape \(1, 4, 4\), as in fit"):
        model.predict(images[:, :, :3])


def test_padding_is_not_a_parameter():
    """Training leaves the row of the padding as it is, so its columns are zero."""
    torch.manual_seed(0)
    words = np.random.default_rng(0).integers(0, 5, size=(60, 3))
    y = (words == 3).sum(1).astype(float)
    module = nn.Sequential(
        nn.Embedding(5, 2, padding_idx=2), nn.Flatten(), nn.Linear(6, 1)
    )
    for model in (module.double(), nn.Sequential(module, nn.Softsign())):
        refit = GradientBasisRefit(model, loss="squared_error", alpha=1e-3)
        features = refit.fit(words, y).transform(words)
        assert (words == 2).any()
        assert not features[:, 4:6].any()
        assert features[:, :4].any()
    # Nor does the function change, or its derivatives would not be those of the values.
    network, inputs = ModuleNetwork(module), torch.tensor(words).double()
    theta = network.theta
    theta[4:6] += 1
    assert torch.equal(network(theta, inputs), network(network.theta, inputs))
