"""Opened networks have the same predictions as their estimators."""

import numpy as np
import oracles
import pytest
import skorch
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_matrix
from sklearn.compose import TransformedTargetRegressor
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsRegressor
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from sklearn_pgb import AddedNeuronClassifier, AddedNeuronRegressor
from sklearn_pgb._losses._classification import (
    CrossEntropyLoss,
    LogisticLoss,
    SmoothedHingeLoss,
)
from sklearn_pgb._losses._regression import PoissonLoss, SquaredLoss
from sklearn_pgb._models._chain import ChainNetwork
from sklearn_pgb._models._open import open_network
from sklearn_pgb._models._opened import unknown_labels

EXACT = {"rtol": 1e-12, "atol": 1e-12}
MLP = {"hidden_layer_sizes": (7, 5), "max_iter": 5, "random_state": 0}


pytestmark = pytest.mark.usefixtures("torch_seed")


@pytest.fixture
def X(seed):
    return np.random.default_rng(seed).standard_normal((30, 4))


@pytest.fixture
def y(X):
    return X @ [1.0, -2.0, 0.5, 0.0] + np.sin(3 * X[:, 0])


def predictions(opened, X):
    """Predictions of an opened network, through its maps of X and y."""
    raw = opened.network(opened.network.theta, opened.inputs(X))
    return opened.untransform(opened.loss.predict(raw).numpy())


# --- scikit-learn's networks ---------------------------------------------------------


@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu"])
@pytest.mark.parametrize("n_outputs", [1, 2])
def test_mlp_regressor(activation, n_outputs, X, y):
    """A regressor's predictions come out exactly, with one output or more."""
    y = np.column_stack([y, -2 * y])[:, :n_outputs]
    mlp = MLPRegressor(activation=activation, **MLP).fit(X, y.squeeze())
    opened = open_network(mlp)
    assert opened.kind == "regressor"
    assert opened.final is mlp
    assert opened.loss == SquaredLoss()
    assert_allclose(predictions(opened, X).squeeze(), mlp.predict(X), **EXACT)
    assert_allclose(opened.targets(y.squeeze()).numpy(), y, rtol=0)
    oracles.check_head(opened.network, opened.inputs(X))


def test_mlp_poisson(X, y):
    """A Poisson regressor is opened with its loss, whose mean is the prediction."""
    y = np.round(np.exp(y / 4))
    mlp = MLPRegressor(loss="poisson", **MLP).fit(X, y)
    opened = open_network(mlp)
    assert opened.loss == PoissonLoss()
    assert_allclose(predictions(opened, X)[:, 0], mlp.predict(X), **EXACT)
    with pytest.raises(ValueError, match="y must be >= 0"):
        opened.targets(-y - 1)


@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu"])
def test_mlp_binary(activation, X, y):
    """A binary classifier has one logistic output, for its second class."""
    labels = np.where(y > 0, "yes", "no")
    mlp = MLPClassifier(activation=activation, **MLP).fit(X, labels)
    opened = open_network(mlp)
    assert opened.kind == "classifier"
    assert opened.loss == LogisticLoss()
    assert_allclose(predictions(opened, X)[:, 0], mlp.predict_proba(X)[:, 1], **EXACT)
    assert_allclose(opened.targets(labels)[:, 0], labels == "yes")


@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu"])
def test_mlp_multiclass(activation, X, y):
    """A multiclass classifier has softmax outputs, in the order of its classes."""
    labels = np.array([7, 3, 5])[np.digitize(y, [-1, 1])]
    mlp = MLPClassifier(activation=activation, **MLP).fit(X, labels)
    opened = open_network(mlp)
    assert opened.loss == CrossEntropyLoss()
    assert_allclose(predictions(opened, X), mlp.predict_proba(X), **EXACT)
    assert_allclose(opened.targets(labels), labels[:, None] == [3, 5, 7])


@pytest.mark.parametrize("container", [np.asarray, csr_matrix])
def test_mlp_multilabel(container, X, y):
    """A multilabel classifier has one logistic output per label."""
    indicators = np.column_stack([y > 0, y < 1, X[:, 0] > 0]).astype(int)
    mlp = MLPClassifier(**MLP).fit(X, indicators)
    opened = open_network(mlp)
    assert opened.loss == LogisticLoss()
    assert_allclose(predictions(opened, X), mlp.predict_proba(X), **EXACT)
    assert_allclose(opened.targets(container(indicators)), indicators)


def test_mlp_one_class(X):
    """A classifier that saw one class has an output whose target is zero."""
    mlp = MLPClassifier(**MLP).fit(X, np.full(30, "a"))
    assert_allclose(open_network(mlp).targets(["a", "a"]), np.zeros((2, 1)))


@pytest.mark.parametrize("container", [np.asarray, csr_matrix, np.asfortranarray])
def test_mlp_inputs(container, X, y):
    """Sparse, reversed and read-only inputs arrive as dense rows."""
    opened = open_network(MLPRegressor(**MLP).fit(X, y))
    assert_allclose(opened.inputs(container(X)).numpy(), X)
    X.setflags(write=False)
    assert_allclose(opened.inputs(X).numpy(), X)
    assert_allclose(opened.inputs(X[::-1]).numpy(), X[::-1])


def test_mlp_input_errors(X, y):
    """Inputs are refused in the words of the estimator itself."""
    opened = open_network(MLPRegressor(**MLP).fit(X, y))
    with pytest.raises(ValueError, match="X has 3 features, but MLPRegressor is exp"):
        opened.inputs(X[:, :3])
    with pytest.raises(ValueError, match="Input X contains NaN"):
        opened.inputs(np.full_like(X, np.nan))
    with pytest.raises(ValueError, match=r"y must have 1 columns, .* got 2"):
        opened.targets(np.column_stack([y, y]))


@pytest.mark.parametrize("label", ["maybe", "yes, please", 1])
def test_unknown_label(X, y, label):
    """A longer string does not count as its first letters."""
    opened = open_network(MLPClassifier(**MLP).fit(X, np.where(y > 0, "yes", "no")))
    match = rf"labels of the model, \['no', 'yes'\], got \['{label}'\]"
    with pytest.raises(ValueError, match=match):
        opened.targets(["yes", label])


@pytest.mark.parametrize("labels", [["1", "0"], [1.5, 0]], ids=str)
def test_labels_of_another_type(X, y, labels):
    """They are not converted to those of the model."""
    opened = open_network(MLPClassifier(**MLP).fit(X, (y > 0).astype(int)))
    with pytest.raises(ValueError, match=r"labels of the model, \[0, 1\], got"):
        opened.targets(labels)
    assert opened.targets([True, False]).tolist() == [[1], [0]]


def test_numbers_among_many_strings():
    """NumPy converts numbers to strings when it looks for some in a long array."""
    numbers = np.arange(20)
    assert_array_equal(unknown_labels(numbers, numbers.astype(str)), numbers)
    assert_array_equal(
        unknown_labels(np.array(["b", "z"], object), np.array(["a", "b"])), ["z"]
    )


def test_loss_override(X, y):
    """A loss that is given replaces the one of the training."""
    mlp = MLPClassifier(**MLP).fit(X, y > 0)
    opened = open_network(mlp, loss=SmoothedHingeLoss())
    assert opened.loss == SmoothedHingeLoss()
    assert_allclose(opened.targets(y > 0)[:, 0], np.sign(y))


# --- networks with added neurons -----------------------------------------------------

TINY = {"hidden_layer_sizes": (5,), "max_iter": 5, "random_state": 0}


def normalised(n_outputs):
    """A factory of modules that are not chains."""
    return lambda: nn.Sequential(
        nn.Linear(4, 6), nn.BatchNorm1d(6), nn.SiLU(), nn.Linear(6, n_outputs)
    )


@pytest.mark.parametrize("module", [None, normalised(2)], ids=["chain", "module"])
@pytest.mark.parametrize("loss", [SquaredLoss(), PoissonLoss()], ids=str)
def test_added_neuron_regressor(loss, module, X, y):
    """Raw outputs are the predictions, or their logarithms, without neurons."""
    name = "poisson" if loss == PoissonLoss() else "squared_error"
    y = np.round(np.exp(np.column_stack([y, -y]) / 4))
    model = AddedNeuronRegressor(loss=name, module=module, **TINY).fit(X, y)
    opened = open_network(model)
    assert opened.kind == "regressor"
    assert opened.final is model
    assert opened.loss == loss
    assert_allclose(predictions(opened, X), model.predict(X), **EXACT)
    raw = opened.network(opened.network.theta, opened.inputs(X))
    assert_allclose(loss.value(opened.targets(y), raw).mean(), model.loss_, rtol=1e-9)
    oracles.check_head(opened.network, opened.inputs(X))


@pytest.mark.parametrize("module", [False, True], ids=["chain", "module"])
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize(
    "params",
    [
        {},
        {"label_smoothing": 0.2},
        {"loss": "smoothed_hinge", "hinge_power": 3},
    ],
    ids=str,
)
def test_added_neuron_classifier(params, n_classes, module, X, y):
    """With the loss of the training, and labels in the order of the outputs."""
    labels = np.array(["c", "a", "b"])[np.digitize(y, [-1, 1][: n_classes - 1])]
    n_outputs = n_classes if n_classes > 2 else 1
    if module:
        params = params | {"module": normalised(n_outputs)}
    model = AddedNeuronClassifier(**params, **TINY).fit(X, labels)
    opened = open_network(model)
    assert opened.kind == "classifier"
    assert opened.one_column is (n_outputs == 1)
    raw = opened.network(opened.network.theta, opened.inputs(X))
    decision = model.decision_function(X).reshape(30, -1)
    assert_allclose(raw, decision, **EXACT)
    if "loss" in params:
        assert opened.loss == SmoothedHingeLoss(3)
    else:
        probability = model.predict_proba(X)[:, -n_outputs:]
        assert_allclose(opened.loss.predict(raw), probability, **EXACT)
    value = opened.loss.value(opened.targets(labels), raw).mean()
    assert_allclose(value, model.loss_, rtol=1e-9)


def test_added_neuron_classifier_of_two_outputs(X, y):
    labels = np.where(y > 0, "yes", "no")
    model = AddedNeuronClassifier(module=normalised(2), **TINY).fit(X, labels)
    opened = open_network(model)
    assert opened.loss == CrossEntropyLoss()
    assert_allclose(predictions(opened, X), model.predict_proba(X), **EXACT)


@pytest.mark.parametrize("loss", ["log_loss", "smoothed_hinge"])
def test_added_neuron_multilabel(loss, X, y):
    indicators = np.column_stack([y > 0, y < 1, X[:, 0] > 0]).astype(int)
    model = AddedNeuronClassifier(loss=loss, **TINY).fit(X, indicators)
    opened = open_network(model)
    raw = opened.network(opened.network.theta, opened.inputs(X))
    assert_allclose(raw, model.decision_function(X), **EXACT)
    value = opened.loss.value(opened.targets(indicators), raw).mean()
    assert_allclose(value, model.loss_, rtol=1e-9)


def test_added_neuron_nestings(X, y):
    inner = make_pipeline(StandardScaler(), PCA(3), AddedNeuronRegressor(**TINY))
    outer = TransformedTargetRegressor(inner, transformer=StandardScaler())
    outer.fit(X, 50 + 20 * y)
    for model in (outer, FrozenEstimator(outer), make_pipeline(outer)):
        opened = open_network(model)
        assert opened.final is outer.regressor_[-1]
        assert_allclose(predictions(opened, X)[:, 0], outer.predict(X), **EXACT)
    single = AddedNeuronRegressor(dtype="float32", **TINY)
    single.fit(csr_matrix(X), y)
    opened = open_network(single)
    assert_allclose(
        predictions(opened, csr_matrix(X))[:, 0], single.predict(X), **EXACT
    )


# --- nestings ------------------------------------------------------------------------


def test_nestings(X, y):
    """Pipelines, target transformers and frozen estimators open in any nesting."""
    inner = TransformedTargetRegressor(
        make_pipeline(PCA(3), MLPRegressor(**MLP)), transformer=StandardScaler()
    )
    middle = make_pipeline(StandardScaler(), inner)
    outer = TransformedTargetRegressor(middle, func=np.exp, inverse_func=np.log)
    for estimator in [inner, middle, outer]:
        estimator.fit(X, y / 4)
        for wrapped in [estimator, FrozenEstimator(estimator)]:
            opened = open_network(wrapped)
            assert type(opened.final) is MLPRegressor
            assert opened.network.n_inputs == 3
            assert_allclose(predictions(opened, X)[:, 0], wrapped.predict(X), **EXACT)
            # Targets are in the network's space: back out, they are y again.
            targets = opened.targets(y / 4).numpy()
            assert_allclose(opened.untransform(targets)[:, 0], y / 4, **EXACT)
    scaled = np.exp(y / 4)
    scaled = (scaled - scaled.mean()) / scaled.std()
    assert_allclose(targets[:, 0], scaled, **EXACT)


def test_search(X, y):
    """A search opens as its best network, trained on all rows."""
    pipeline = make_pipeline(StandardScaler(), MLPRegressor(**MLP))
    grid = {"mlpregressor__alpha": [1e-3, 100.0]}
    search = GridSearchCV(pipeline, grid, cv=2).fit(X, y)
    best = pipeline.set_params(**search.best_params_).fit(X, y)
    for wrapped in [search, FrozenEstimator(search)]:
        opened = open_network(wrapped)
        assert_allclose(opened.network.theta, open_network(best).network.theta)
        assert_allclose(predictions(opened, X)[:, 0], best.predict(X), **EXACT)
    with pytest.raises(NotFittedError):
        open_network(GridSearchCV(pipeline, grid))
    unfit = GridSearchCV(pipeline, grid, cv=2, refit=False).fit(X, y)
    with pytest.raises(ValueError, match=r"best network, got refit=False\. Set"):
        open_network(unfit)


def test_nested_multi_output(X, y):
    """Target transformers work on several outputs."""
    Y = np.column_stack([y, 5 * y + 1])
    estimator = TransformedTargetRegressor(
        MLPRegressor(**MLP), transformer=StandardScaler()
    ).fit(X, Y)
    opened = open_network(estimator)
    assert_allclose(predictions(opened, X), estimator.predict(X), **EXACT)
    assert_allclose(opened.targets(Y), (Y - Y.mean(0)) / Y.std(0), **EXACT)


def test_pipeline_of_one_step(X, y):
    pipeline = make_pipeline(MLPRegressor(**MLP)).fit(X, y)
    assert open_network(pipeline).steps == ()


@pytest.mark.parametrize(
    "estimator",
    [
        MLPRegressor(),
        make_pipeline(StandardScaler(), MLPClassifier()),
        TransformedTargetRegressor(MLPRegressor()),
        skorch.NeuralNetRegressor(nn.Linear),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
def test_unfitted(estimator):
    with pytest.raises(NotFittedError, match="is not fitted yet"):
        open_network(estimator)


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (
            KNeighborsRegressor(),
            "estimator must be a network of this package, an MLPReg.* got KNeigh",
        ),
        (
            make_pipeline(PCA(), KNeighborsRegressor()),
            r"got Pipeline that ends in KNeigh",
        ),
        ("network", "got str"),
    ],
    ids=str,
)
def test_no_network(estimator, message):
    with pytest.raises(TypeError, match=message):
        open_network(estimator)


def test_loss_type():
    with pytest.raises(TypeError, match="loss must be a Loss or None, got str"):
        open_network(nn.Linear(2, 1), loss="squared_error")


def test_loss_missing():
    with pytest.raises(ValueError, match="loss must be given with a torch module"):
        open_network(nn.Linear(2, 1))


# --- torch modules -------------------------------------------------------------------


def test_flatten_takes_images():
    """A chain behind a Flatten layer takes inputs of any rank."""
    module = nn.Sequential(nn.Flatten(), nn.Linear(6, 2))
    opened = open_network(module, loss=SquaredLoss())
    X = torch.arange(24.0).reshape(4, 2, 3)
    assert_close(
        opened.network(opened.network.theta, opened.inputs(X)),
        oracles.module_output(module, X.double()),
        **EXACT,
    )
    with pytest.raises(ValueError, match=r"X must have 6 features, .* got 4"):
        opened.inputs(np.ones((3, 2, 2)))


def test_bare_targets():
    """A bare module takes real targets, indicators or class numbers."""
    module = nn.Linear(4, 3)
    labels = torch.tensor([2, 0, 1])
    one_hot = torch.eye(3, dtype=torch.float64)[labels]
    for loss in [CrossEntropyLoss(), LogisticLoss()]:
        assert_close(open_network(module, loss=loss).targets(one_hot), one_hot)
    assert_close(open_network(module, loss=CrossEntropyLoss()).targets(labels), one_hot)
    opened = open_network(nn.Linear(4, 1), loss=SquaredLoss())
    assert_close(opened.targets(labels), labels.double()[:, None])

    conv = open_network(nn.Conv1d(4, 3, 1), loss=CrossEntropyLoss())
    assert_close(conv.targets(labels, n_outputs=3), one_hot)
    with pytest.raises(ValueError, match="y must be one-hot rows, got class numbers"):
        conv.targets(labels)


def test_bare_inputs():
    """A module takes inputs of any rank above one, from tensors or arrays."""
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten())
    opened = open_network(module, loss=CrossEntropyLoss())
    X = torch.ones(2, 1, 6, 6, requires_grad=True)
    for rows in [opened.inputs(X), opened.inputs(X.detach().numpy())]:
        assert rows.dtype == torch.float64
        assert rows.shape == X.shape
    with pytest.raises(ValueError, match="Expected 2D array, got 1D array"):
        opened.inputs(np.ones(3))


# --- skorch --------------------------------------------------------------------------


class Classifier(nn.Module):
    """Softmax outputs, written in one of the usual ways."""

    def __init__(self, softmax="module"):
        super().__init__()
        self.how = softmax
        self.first = nn.Linear(4, 6)
        self.head = nn.Linear(6, 3)
        self.softmax = nn.Softmax(dim=-1)

    def forward(self, X, **kwargs):
        raw = self.head(F.dropout(self.first(X).relu(), training=self.training))
        if self.how == "none":
            return raw
        if self.how == "loop":
            return F.softmax(raw * float(raw.sum() * 0 + 1), dim=-1)
        if self.how == "constant":
            return 1
        if self.how == "function":
            return F.softmax(raw, dim=-1)
        return self.softmax(raw) if self.how == "module" else raw.softmax(dim=1)


NET = {"max_epochs": 2, "train_split": None, "verbose": 0, "lr": 0.01}


@pytest.fixture
def X32(X):
    return X.astype(np.float32)


@pytest.fixture
def labels(y):
    return np.digitize(y, [-1, 1])


def test_skorch_regressor(X32, y):
    """A regressor inside a pipeline and a target transformer."""
    net = skorch.NeuralNetRegressor(
        nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1)), **NET
    )
    estimator = TransformedTargetRegressor(
        make_pipeline(StandardScaler(), net), transformer=StandardScaler()
    ).fit(X32, y[:, None].astype(np.float32))
    opened = open_network(estimator)
    assert isinstance(opened.network, ChainNetwork)
    assert opened.kind == "regressor"
    assert opened.loss == SquaredLoss()
    # The net itself runs in float32.
    expected = estimator.predict(X32)
    assert_allclose(predictions(opened, X32), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("softmax", ["module", "function", "method"])
def test_skorch_softmax(softmax, X32, labels):
    """Under NLLLoss the module is opened without the softmax it ends in."""
    net = skorch.NeuralNetClassifier(Classifier, module__softmax=softmax, **NET)
    net.fit(X32, labels)
    opened = open_network(net)
    assert opened.loss == CrossEntropyLoss()
    rows = opened.inputs(X32)
    probabilities = oracles.module_output(net.module_, rows).numpy()
    assert_allclose(predictions(opened, X32), probabilities, **EXACT)
    oracles.check_head(opened.network, rows)
    assert_allclose(opened.targets(labels), labels[:, None] == [0, 1, 2])
    assert net.module_.softmax is not None


def test_skorch_sequential_softmax(X32, labels):
    """The softmax is taken off nested Sequentials, and a chain remains."""
    body = nn.Sequential(nn.Linear(4, 5), nn.ReLU())
    head = nn.Sequential(nn.Linear(5, 3), nn.Softmax(dim=-1))
    net = skorch.NeuralNetClassifier(nn.Sequential(body, head), **NET)
    net.fit(X32, labels)
    opened = open_network(net)
    assert isinstance(opened.network, ChainNetwork)
    probabilities = oracles.module_output(net.module_, opened.inputs(X32)).numpy()
    assert_allclose(predictions(opened, X32), probabilities, **EXACT)


@pytest.mark.parametrize("softmax", ["none", "loop", "constant"])
def test_skorch_no_softmax(softmax, X32, labels):
    """Without a visible softmax the raw outputs are not known."""
    net = skorch.NeuralNetClassifier(Classifier, module__softmax=softmax, **NET)
    net.initialize()
    with pytest.raises(ValueError, match="must end in a softmax that"):
        open_network(net)


def test_skorch_cross_entropy(X32, labels):
    """Raw outputs and label smoothing are taken as they are."""
    net = skorch.NeuralNetClassifier(
        Classifier,
        module__softmax="none",
        criterion=nn.CrossEntropyLoss,
        criterion__label_smoothing=0.1,
        **NET,
    ).fit(X32, labels)
    opened = open_network(net)
    assert opened.loss == CrossEntropyLoss(label_smoothing=0.1)
    raw = opened.network(opened.network.theta, opened.inputs(X32))
    assert_allclose(raw, net.forward(X32), rtol=1e-4, atol=1e-5)
    own = opened.loss.value(opened.targets(labels), raw).mean().item()
    theirs = net.criterion_(raw, torch.tensor(labels)).item()
    assert own == pytest.approx(theirs, rel=1e-12)


def test_skorch_binary(X32, y):
    """A binary classifier has one output, with or without an axis for it."""
    for module in [nn.Linear(4, 1), nn.Sequential(nn.Linear(4, 1), nn.Flatten(0))]:
        net = skorch.NeuralNetBinaryClassifier(module, **NET)
        net.fit(X32, (y > 0).astype(np.float32))
        opened = open_network(net)
        assert opened.loss == LogisticLoss()
        assert_allclose(
            predictions(opened, X32)[:, 0],
            net.predict_proba(X32)[:, 1],
            rtol=1e-4,
            atol=1e-5,
        )
        assert_allclose(opened.targets(y > 0)[:, 0], y > 0)


@pytest.mark.parametrize(
    "net",
    [
        skorch.NeuralNetRegressor(nn.Linear(4, 1), criterion=nn.L1Loss),
        skorch.NeuralNetClassifier(
            nn.Linear(4, 3), criterion=nn.CrossEntropyLoss(weight=torch.ones(3))
        ),
        skorch.NeuralNetBinaryClassifier(
            nn.Linear(4, 1), criterion=nn.BCEWithLogitsLoss(pos_weight=torch.ones(1))
        ),
        skorch.NeuralNet(nn.Linear(4, 1), criterion=nn.MSELoss),
    ],
    ids=lambda net: type(net).__name__,
)
def test_skorch_criterion_errors(net):
    with pytest.raises(ValueError, match="a skorch net must be a NeuralNetRegressor"):
        open_network(net.initialize())


def test_target_map_is_that_of_the_transformer():
    X, y = np.random.default_rng(0).normal(size=(2, 20, 2))
    y = 3 * y + 5
    model = TransformedTargetRegressor(Ridge(), transformer=StandardScaler())
    opened = open_network(model.fit(X, y))
    slope, shift = opened.target_map()
    scaler = model.transformer_
    np.testing.assert_allclose(slope, scaler.scale_)
    np.testing.assert_allclose(shift, scaler.mean_)
    plain = open_network(Ridge().fit(X, y)).target_map()
    assert [part.tolist() for part in plain] == [[1, 1], [0, 0]]
