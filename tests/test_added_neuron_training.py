"""How the networks with added neurons are trained: modules, starts, stopping, seeds."""

from itertools import combinations

import numpy as np
import pytest
import torch
from added_neuron_cases import (
    BINARY,
    CASES,
    COUNTS,
    INDICATORS,
    LABELS,
    WEIGHT,
    X,
    Y,
    classifier,
    fit,
    raw_outputs,
    regressor,
)
from callback_cases import Callback
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.metrics import log_loss, mean_squared_error, r2_score
from sklearn.preprocessing import StandardScaler
from torch import nn

from sklearn_pgb import AddedNeuronClassifier, AddedNeuronRegressor

EXACT = {"rtol": 1e-10, "atol": 1e-12}


class Recorder(Callback):
    """A callback that records each epoch and may stop the training."""

    def __init__(self, read, stop_after=None):
        self.read, self.stop_after, self.epochs = read, stop_after, []

    def setup(self, estimator, context):
        self.epochs.clear()

    def on_fit_task_end(self, estimator, context, *, fitted_estimator=None):
        if context.task_name != "epoch":
            return False
        self.epochs.append(self.read(fitted_estimator))
        return len(self.epochs) == self.stop_after


def dense(n_outputs=1):
    return nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, n_outputs))


def normalized():
    return nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 1))


def with_dropout():
    return nn.Sequential(nn.Linear(3, 9), nn.ReLU(), nn.Dropout(0.5), nn.Linear(9, 1))


def half_frozen():
    module = dense()
    module[0].requires_grad_(False)
    return module


pytestmark = pytest.mark.usefixtures("torch_seed")


def state_of(module):
    return {key: value.clone() for key, value in module.state_dict().items()}


def forward(module, X):
    with torch.no_grad():
        return module(torch.tensor(X)).numpy()


# -- modules -------------------------------------------------------------------------


@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["plain", "weighted"])
@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_module_equals_torch(solver, weight):
    """It equals a plain torch training loop from the module's parameters."""
    module = dense()
    model = AddedNeuronRegressor(
        module=module,
        solver=solver,
        learning_rate="constant",
        alpha=0.5,
        nesterovs_momentum=False,
        batch_size=40,
        max_iter=8,
        standardize=False,
    ).fit(X, Y, weight)
    weight = torch.ones(40) if weight is None else torch.tensor(weight)
    share, inputs, y = weight / weight.sum(), torch.tensor(X), torch.tensor(Y)
    twin = module.double()
    method = torch.optim.Adam(twin.parameters(), lr=1e-2, betas=(0.9, 0.99))
    if solver == "sgd":
        method = torch.optim.SGD(twin.parameters(), lr=1e-2, momentum=0.9)
    for _ in range(8):
        method.zero_grad()
        decay = (
            0.5
            / (2 * weight.sum())
            * (twin[0].weight.square().sum() + twin[2].weight.square().sum())
        )
        (share.double() @ (twin(inputs)[:, 0] - y).square() + decay).backward()
        method.step()
    assert_allclose(model.predict(X), forward(twin, X)[:, 0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [lambda m: m(), lambda m: m], ids=["module", "call"])
@pytest.mark.parametrize("make", [dense, normalized, with_dropout, half_frozen])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_predictions_of_a_module(dtype, make, kind):
    """They equal those of `module_` in evaluation mode, in float64."""
    model = regressor(module=kind(make), dtype=dtype).fit(X, Y)
    module = model.module_
    assert not any(part.training for part in module.modules())
    assert all(p.dtype == torch.float64 for p in module.parameters())
    assert_allclose(model.predict(X), forward(module, X)[:, 0], **EXACT)
    # Targets of single precision are rounded.
    rtol = 1e-10 if dtype == "float64" else 1e-6
    error = mean_squared_error(Y, model.predict(X))
    assert_allclose(model.loss_, error, rtol=rtol)
    assert not hasattr(model, "coefs_")
    # It follows the layer that standardizes its inputs.
    assert sorted(model.module_state_) == sorted(module[1].state_dict())
    bare = regressor(module=kind(make), dtype=dtype, standardize=False).fit(X, Y)
    assert sorted(bare.module_state_) == sorted(bare.module_.state_dict())


def test_the_user_s_module_is_left_alone():
    for make in (dense, normalized, with_dropout):
        module = make()
        before = state_of(module)
        model = regressor(module=module).fit(X, Y)
        assert model.module is module
        assert all(part.training for part in module.modules())
        for key, value in module.state_dict().items():
            assert torch.equal(value, before[key])


def test_frozen_parameters_stay():
    module = half_frozen()
    model = regressor(module=module, learning_rate_init=0.1).fit(X, Y)
    assert_allclose(model.module_state_["0.weight"], module[0].weight, **EXACT)
    moved = model.module_state_["2.weight"] - module[2].weight.detach().numpy()
    assert np.abs(moved).min() > 1e-4


@pytest.mark.parametrize(
    ("y", "n_outputs"),
    [(BINARY, 1), (BINARY, 2), (LABELS, 3), (INDICATORS, 3)],
    ids=["logistic", "two outputs", "softmax", "labels"],
)
@pytest.mark.parametrize("loss", ["log_loss", "smoothed_hinge"])
def test_module_for_classification(loss, y, n_outputs):
    model = classifier(
        module=lambda: dense(n_outputs),
        loss=loss,
        max_iter=100,
        learning_rate_init=0.05,
    )
    model.fit(X, y)
    raw = forward(model.module_, X)
    decision = model.decision_function(X)
    if y is BINARY:
        flat = raw[:, 0] if n_outputs == 1 else raw[:, 1] - raw[:, 0]
        assert_allclose(decision, flat, **EXACT)
        assert_array_equal(model.predict(X), np.where(flat > 0, "yes", "no"))
    else:
        assert_allclose(decision, raw, **EXACT)
    if loss == "log_loss" and y.ndim == 1:
        probability = model.predict_proba(X)
        assert_allclose(probability.sum(1), 1, **EXACT)
        assert_allclose(model.loss_, log_loss(y, probability), **EXACT)
    if loss == "smoothed_hinge":
        columns = y[:, None] == np.unique(y)[-n_outputs:] if y.ndim == 1 else y
        margin = np.maximum(0, 1 - (2 * columns.astype(int) - 1) * raw)
        assert_allclose(model.loss_, (margin**2).sum(1).mean(), **EXACT)
    assert model.score(X, y) > 0.6


def test_module_for_counts():
    model = regressor(module=dense, loss="poisson", max_iter=100).fit(X, COUNTS)
    raw = forward(model.module_, X)[:, 0]
    assert_allclose(model.predict(X), np.exp(raw), **EXACT)
    assert_allclose(model.loss_, (np.exp(raw) - COUNTS * raw).mean(), **EXACT)


def test_module_with_flat_output():
    """Outputs of shape (n_samples,) are one output."""

    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = dense()

        def forward(self, X):
            return self.inner(X)[:, 0]

    model = regressor(module=Flat).fit(X, Y)
    assert model.n_outputs_ == 1
    assert_allclose(model.predict(X), forward(model.module_, X), **EXACT)


@pytest.mark.parametrize("make", [AddedNeuronRegressor, AddedNeuronClassifier])
def test_convolution_on_images(make):
    """4-d input, and the floor of repeated images."""
    images = np.random.default_rng(0).normal(size=(24, 1, 5, 5))
    target = images[:, 0, 2, 2] + images[:, 0, 1, 1] ** 2
    y = target if make is AddedNeuronRegressor else np.digitize(target, [0.5])

    def network():
        return nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36, 1)
        )

    model = make(module=network, max_iter=300, random_state=0).fit(images, y)
    assert model.score(images, y) > 0.95
    assert model.predict(images[:3]).shape == (3,)
    assert model.neurons_["W"].shape == (1, 25)
    # The probe of one image must not tell the rest.
    assert_allclose(
        model.decision_function(images[:1])
        if make is AddedNeuronClassifier
        else model.predict(images[:1]),
        forward(model.module_, images[:1])[:, 0],
        **EXACT,
    )
    if make is AddedNeuronRegressor:
        twice = model.fit(np.r_[images, images[:1]], np.append(y, y[0] + 2))
        assert_allclose(twice.floor_, 2 / 25, rtol=1e-12)
    with pytest.raises(ValueError, match="dim 4"):
        make().fit(images, y)


def test_dropout_is_reproducible_and_local():
    """Torch's global generator is neither used nor changed."""
    model = regressor(module=with_dropout, max_iter=5)
    torch.manual_seed(1)
    one = clone(model).fit(X, Y).predict(X)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    other = clone(model).fit(X, Y)
    other.partial_fit(X, Y)
    assert torch.equal(torch.get_rng_state(), before)
    assert_array_equal(clone(model).fit(X, Y).predict(X), one)
    assert (
        np.abs(clone(model).set_params(random_state=1).fit(X, Y).predict(X) - one).max()
        > 0.01
    )
    # Dropout is active: losses of the epochs differ from those in evaluation mode.
    still = regressor(module=with_dropout, max_iter=1, learning_rate_init=1e-12)
    still.fit(X, Y)
    assert abs(still.loss_curve_[0] - still.loss_) > 1e-3


def test_batch_norm_learns_its_statistics():
    """The moving averages of one batch per epoch, and predictions by them."""
    module = normalized()
    model = regressor(
        module=module, batch_size=40, max_iter=3, learning_rate_init=1e-12
    ).fit(X, Y)
    Z = StandardScaler().fit_transform(X)
    h = Z @ module[0].weight.detach().numpy().T + module[0].bias.detach().numpy()
    kept = 0.9**3
    mean = (1 - kept) * h.mean(0)
    variance = kept + (1 - kept) * h.var(0, ddof=1)
    assert_allclose(model.module_state_["1.running_mean"], mean, rtol=1e-4, atol=1e-6)
    assert_allclose(model.module_state_["1.running_var"], variance, rtol=1e-4)
    assert model.module_state_["1.num_batches_tracked"] == 3
    # Predictions for single samples do not depend on the batch.
    rows = [model.predict(X[i : i + 1])[0] for i in range(5)]
    assert_allclose(model.predict(X)[:5], rows, **EXACT)


def test_batch_norm_in_partial_fit():
    """Running statistics continue, also in a warm start."""
    model = regressor(module=normalized, batch_size=40)
    for _ in range(3):
        model.partial_fit(X, Y)
    assert model.module_state_["1.num_batches_tracked"] == 3
    model.set_params(warm_start=True, max_iter=4)
    model = clone(model)
    model.fit(X, Y).fit(X, Y)
    assert model.module_state_["1.num_batches_tracked"] == 8


def test_dropout_in_partial_fit():
    """Each epoch draws other masks."""
    model = regressor(module=with_dropout, learning_rate_init=1e-12)
    for _ in range(3):
        model.partial_fit(X, Y)
    assert len({round(loss, 6) for loss in model.loss_curve_}) == 3


# -- early stopping ------------------------------------------------------------------


@pytest.mark.parametrize("name", ["regression", "two targets", "classes", "labels"])
def test_early_stopping_keeps_the_best(name):
    """Of all epochs, the weights of the best held-out score."""
    model, y, _, _ = CASES[name]
    recorder = Recorder(lambda fitted: raw_outputs(fitted, X))
    model = (
        clone(model)
        .set_callbacks(recorder)
        .set_params(
            early_stopping=True,
            scoring=None,
            validation_fraction=0.3,
            max_iter=60,
            n_iter_no_change=5,
            learning_rate_init=0.1,
        )
    )
    model.fit(X, y)
    assert len(model.validation_scores_) == model.n_iter_ == len(recorder.epochs)
    best = int(np.argmax(model.validation_scores_))
    assert model.best_validation_score_ == model.validation_scores_[best]
    assert_allclose(raw_outputs(model, X), recorder.epochs[best], **EXACT)
    assert np.abs(raw_outputs(model, X) - recorder.epochs[-1]).max() > 1e-3


def test_held_out_rows():
    """The two held-out samples are not trained on and determine the score."""
    model = regressor(early_stopping=True, max_iter=30, learning_rate_init=0.05)
    model.set_params(scoring="r2").fit(X[:20], Y[:20])
    error = (model.predict(X[:20]) - Y[:20]) ** 2
    pairs = {
        pair: abs((error.sum() - error[list(pair)].sum()) / 18 - model.loss_)
        for pair in combinations(range(20), 2)
    }
    held = list(min(pairs, key=pairs.get))
    assert min(pairs.values()) < 1e-12
    score = r2_score(Y[held], model.predict(X[held]))
    assert_allclose(model.best_validation_score_, score, rtol=1e-9)


def test_early_stopping_restores_batch_norm():
    """Weights and statistics are those of one epoch."""
    recorder = Recorder(lambda fitted: fitted.predict(X))
    model = regressor(
        module=normalized,
        early_stopping=True,
        validation_fraction=0.3,
        max_iter=40,
        learning_rate_init=0.1,
    )
    model.set_callbacks(recorder).fit(X, Y)
    best = int(np.argmax(model.validation_scores_))
    assert best < model.n_iter_ - 1
    assert_allclose(model.predict(X), recorder.epochs[best], **EXACT)


def test_early_stopping_is_not_for_lbfgs():
    """As in scikit-learn, it is ignored, and no samples are held out."""
    for model, y in ((regressor(), Y), (classifier(), LABELS)):
        model.set_params(solver="lbfgs").fit(X, y)
        stopped = clone(model).set_params(early_stopping=True).fit(X, y)
        assert_array_equal(stopped.predict(X), model.predict(X))
        assert stopped.validation_scores_ is stopped.best_validation_score_ is None


def test_stagnation_ends_the_training():
    """It takes more than `n_iter_no_change` epochs without gain, as in scikit-learn."""
    model = regressor(learning_rate="constant", tol=100, max_iter=50)
    assert model.fit(X, Y).n_iter_ == 12
    model.set_params(n_iter_no_change=3)
    assert model.fit(X, Y).n_iter_ == 5
    model.set_params(n_iter_no_change=np.inf)
    assert model.fit(X, Y).n_iter_ == 50


@pytest.mark.parametrize("params", [{}, {"n_starts": 3}, {"solver": "lbfgs"}], ids=str)
def test_callbacks_may_stop(params):
    recorder = Recorder(lambda fitted: fitted.predict(X), stop_after=3)
    model = regressor(**params).set_callbacks(recorder).fit(X, Y)
    assert len(recorder.epochs) == 3
    if "n_starts" in params:
        return  # The polish goes on.
    assert model.n_iter_ == 3
    assert_allclose(model.predict(X), recorder.epochs[-1], rtol=1e-6, atol=1e-8)


# -- several starts ------------------------------------------------------------------


@pytest.mark.parametrize(
    "network", [{"activation": "tanh"}, {"module": dense}], ids=["layers", "module"]
)
def test_starts_keep_the_best(network):
    """The result is not worse than any network during the search."""
    recorder = Recorder(lambda fitted: mean_squared_error(Y, fitted.predict(X)))
    model = regressor(
        hidden_layer_sizes=(2,),
        n_starts=3,
        max_iter=50,
        alpha=0,
        batch_size=8,
        learning_rate_init=0.1,
        **network,
    )
    model.set_callbacks(recorder).fit(X, Y)
    assert len(model.loss_curve_) == len(recorder.epochs) <= 150
    assert model.loss_ <= min(recorder.epochs) * (1 + 1e-9)


@pytest.mark.parametrize("global_move", ["transplant", "restart"])
def test_global_moves(global_move, seed):
    """A network that stagnates is moved, so the recorded networks jump."""
    corners = np.array([[-1.0, -1], [-1, 1], [1, -1], [1, 1]])
    recorder = Recorder(lambda fitted: fitted.coefs_[0].copy())
    model = AddedNeuronRegressor(
        (1,),
        activation="relu",
        n_starts=5,
        max_iter=400,
        learning_rate_init=0.1,
        global_move=global_move,
        random_state=seed,
    )
    # One unit reaches 1/6 at best, so the search goes on to the end.
    model.set_callbacks(recorder).fit(corners, [0, 1, 1, 0])
    assert_allclose(model.loss_, 1 / 6, rtol=1e-4)
    assert model.status_ != "certified_global"
    assert 1000 < model.n_iter_ < 2010
    assert model.n_moves_ >= 1
    # Adam's steps are about as long as its rate. One jump is that to the best network,
    # and a restart may come down nearby.
    jumps = np.abs(np.diff(recorder.epochs, axis=0)).max((1, 2)) > 0.25
    assert abs(jumps.sum() - model.n_moves_) <= 1


@pytest.mark.parametrize("name", ["regression", "counts", "classes", "hinge"])
def test_starts_reach_a_critical_point(name):
    """After the polish, the gradient of the objective is zero."""
    model, y, columns, loss = CASES[name]
    model = clone(model).set_params(
        hidden_layer_sizes=(2,),
        activation="tanh",
        n_starts=2,
        max_iter=100,
        alpha=2.0,
        standardize=False,
    )
    if name == "regression":
        # Its units are those of the targets' variance.
        y = columns = (y - y.mean()) / y.std()
        columns = columns[:, None]
    model.fit(X, y)
    parts = [*model.coefs_, *model.intercepts_]
    cuts = np.cumsum([part.size for part in parts])[:-1]

    def objective(theta):
        pieces = zip(np.split(theta, cuts), parts, strict=True)
        W, V, b, c = (piece.reshape(part.shape) for piece, part in pieces)
        raw = np.tanh(X @ W + b) @ V + c
        return loss(columns, raw).mean() + ((W**2).sum() + (V**2).sum()) / 40

    theta = np.concatenate([part.ravel() for part in parts])
    steps = 1e-5 * np.eye(len(theta))
    gradient = [(objective(theta + h) - objective(theta - h)) / 2e-5 for h in steps]
    assert_allclose(gradient, 0, atol=1e-7)


def test_starts_help(seed):
    """For some seeds one start does not learn XOR with two units; several do."""
    corners = np.array([[-1.0, -1], [-1, 1], [1, -1], [1, 1]])
    params = {"alpha": 0, "max_iter": 200, "n_iter_no_change": 1000}
    single = [
        AddedNeuronRegressor((2,), activation="relu", random_state=s, **params)
        .fit(corners, [0, 1, 1, 0])
        .loss_
        for s in range(6)
    ]
    assert max(single) > 0.1
    several = AddedNeuronRegressor(
        (2,),
        activation="relu",
        n_starts=20,
        random_state=int(np.argmax(single)),
        **params,
    ).fit(corners, [0, 1, 1, 0])
    assert several.loss_ < 1e-6


# -- seeds and precision -------------------------------------------------------------


def test_random_state():
    """A first fit with a RandomState equals that with its seed; later ones differ."""
    model = regressor(batch_size=10)
    expected = model.fit(X, Y).predict(X)
    rng = np.random.RandomState(0)
    one = clone(model).set_params(random_state=rng)
    # A clone copies the state of the generator.
    assert_array_equal(one.fit(X, Y).predict(X), expected)
    assert np.abs(one.fit(X, Y).predict(X) - expected).max() > 1e-3
    other = clone(model).set_params(random_state=1).fit(X, Y)
    assert np.abs(other.predict(X) - expected).max() > 1e-3


def test_shuffling():
    """Minibatches are drawn at random, a single batch is not."""
    for batch_size, differs in ((10, True), (40, False), ("auto", True)):
        one, other = (
            fit("regression", shuffle=shuffle, batch_size=batch_size).predict(X)
            for shuffle in (True, False)
        )
        assert bool((one != other).any()) is differs


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_precision(name, solver):
    """Float32 follows X or `dtype`; losses are always in float64."""
    model, y, columns, loss = CASES[name]
    model = clone(model).set_params(solver=solver, max_iter=5)
    X32 = X.astype(np.float32)
    by_data = clone(model).fit(X32, y)
    asked = clone(model).set_params(dtype="float32").fit(X32.astype(float), y)
    exact = clone(model).set_params(dtype="float64").fit(X32, y)
    assert_array_equal(raw_outputs(by_data, X), raw_outputs(asked, X))
    difference = np.abs(raw_outputs(exact, X) - raw_outputs(by_data, X)).max()
    # "lbfgs" is of float64 in any case.
    assert difference < 1e-3
    assert bool(difference > 0) is (solver != "lbfgs")
    assert by_data.coefs_[0].dtype == np.float64
    raw = raw_outputs(by_data, X32.astype(float))
    assert_allclose(by_data.loss_, loss(columns, raw).mean(), rtol=1e-6)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize(
    ("model", "y"),
    [
        (regressor(), Y),
        (classifier(batch_size=10), LABELS),
        (regressor(solver="lbfgs"), Y),
        (regressor(n_starts=2, hidden_layer_sizes=(2,)), Y),
        (regressor(module=normalized), Y),
        (regressor(early_stopping=True), Y),
        (regressor(module=with_dropout, early_stopping=True), Y),
    ],
    ids=["chain", "batches", "lbfgs", "starts", "norm", "stopping", "dropout"],
)
def test_device(model, y, device):
    here = clone(model).fit(X, y)
    for place in (device, torch.device(device)):
        there = clone(model).set_params(device=place).fit(X, y)
        if device == "cpu":
            assert_array_equal(there.predict(X), here.predict(X))
        assert_allclose(there.loss_, here.loss_, rtol=1e-2)
        assert_allclose(there.score(X, y), here.score(X, y), atol=0.03)
        assert isinstance(there.neurons_["a"], np.ndarray)
