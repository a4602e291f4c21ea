"""`GradientBasisRefit` with other parts of scikit-learn, torch and skorch."""

import pickle

import joblib
import numpy as np
import pytest
import scipy.sparse as sp
import sklearn
import torch
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.compose import TransformedTargetRegressor, make_column_transformer
from sklearn.datasets import load_iris, make_regression
from sklearn.ensemble import VotingRegressor
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler, OneHotEncoder, StandardScaler
from sklearn.utils import get_tags
from torch import nn

from sklearn_pgb import GradientBasisRefit

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 3))
Y = np.sin(2 * X[:, 0]) + X[:, 1] * X[:, 2] + 0.1 * RNG.normal(size=40)
LABELS = np.array(["low", "mid", "top"])[np.digitize(Y, [-0.5, 0.5])]
EASY = np.array(["low", "mid", "top"])[np.digitize(X[:, 0], [-0.4, 0.4])]
WEIGHT = RNG.integers(1, 4, size=40).astype(float)


def mlp(kind=MLPRegressor, **params):
    params = {"solver": "lbfgs", "max_iter": 15, "random_state": 0} | params
    return kind(**({"hidden_layer_sizes": (4,), "activation": "tanh"} | params))


def classifier(**params):
    return mlp(MLPClassifier, **params)


STD = {"distribution": True}
MODELS = {
    "regressor": (GradientBasisRefit(mlp(), **STD), Y),
    "classifier": (GradientBasisRefit(classifier()), LABELS),
    "folds": (GradientBasisRefit(mlp(), cv=3, n_models=4, **STD), Y),
    "pipeline": (GradientBasisRefit(make_pipeline(StandardScaler(), mlp()), **STD), Y),
    "targets": (
        GradientBasisRefit(
            TransformedTargetRegressor(mlp(), transformer=StandardScaler()),
            cv=3,
            **STD,
        ),
        100 + 20 * Y,
    ),
    "frozen": (
        GradientBasisRefit(
            FrozenEstimator(mlp().fit(X, Y)), alpha="loo", center="zero", **STD
        ),
        Y,
    ),
    "module": (
        GradientBasisRefit(
            nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 1)),
            alpha="loo",
            loss="squared_error",
            **STD,
        ),
        Y,
    ),
    "sketch": (GradientBasisRefit(mlp(), n_components=7, random_state=0, **STD), Y),
}


def answers(model):
    """All predictions of a fitted model for X."""
    result = [model.predict(X), model.transform(X)]
    if is_classifier(model):
        return [*result, model.predict_proba(X), model.decision_function(X)]
    return [*result, model.predict(X, return_std=True)[1]]


def assert_same(model, other):
    for a, b in zip(answers(model), answers(other), strict=True):
        np.testing.assert_array_equal(a, b)


# -- copies --------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_same_result_twice(name):
    """A clone and a second `fit` have the same result."""
    model, y = MODELS[name]
    model = clone(model).set_params(random_state=3)
    twin = clone(model).fit(X, y)
    assert_same(model.fit(X[:25], y[:25]).fit(X, y), twin)
    assert vars(model).keys() == vars(twin).keys()


@pytest.mark.parametrize("name", MODELS)
def test_pickle(name):
    model, y = MODELS[name]
    model = clone(model).fit(X, y)
    assert_same(pickle.loads(pickle.dumps(model)), model)


@pytest.mark.parametrize("name", MODELS)
def test_joblib_maps_a_model_into_memory(name, tmp_path):
    """Read-only arrays give no warning."""
    model, y = MODELS[name]
    model = clone(model).fit(X, y)
    joblib.dump(model, tmp_path / "model")
    mapped = joblib.load(tmp_path / "model", mmap_mode="r")
    assert isinstance(mapped.basis_coef_, np.memmap)
    assert_same(mapped, model)


@pytest.mark.parametrize("name", sorted(set(MODELS) - {"module"}))
def test_skops(name):
    io = pytest.importorskip("skops.io")
    model, y = MODELS[name]
    model = clone(model).fit(X, y)
    data = io.dumps(model)
    trusted = io.get_untrusted_types(data=data)
    assert set(trusted) <= {
        "sklearn_pgb._refit._gradient_basis_refit.GradientBasisRefit",
        "sklearn.frozen._frozen.FrozenEstimator",
        # The transformation of the targets that all folds share.
        "sklearn.preprocessing._data.StandardScaler",
        "sklearn.preprocessing._data.StandardScaler.transform",
        "sklearn.preprocessing._data.StandardScaler.inverse_transform",
    }
    assert_same(io.loads(data, trusted=trusted), model)


@pytest.mark.parametrize("name", MODELS)
def test_fitted_state_is_arrays_and_plain_values(name):
    """There are no tensors except in modules."""
    model, y = MODELS[name]
    model = clone(model).fit(X, y)
    learned = {key: value for key, value in vars(model).items() if key.endswith("_")}
    assert set(model.get_params(deep=False)).isdisjoint(learned)

    def leaves(value):
        if isinstance(value, dict | list | tuple):
            for part in value.values() if isinstance(value, dict) else value:
                yield from leaves(part)
        else:
            yield value

    state = {
        key: v for key, v in vars(model).items() if not key.startswith("estimator")
    }
    assert not any(isinstance(leaf, torch.Tensor) for leaf in leaves(state))


def test_clone_and_fit_leave_parameters_alone():
    network = mlp()
    model = GradientBasisRefit(network, n_models=2, random_state=1).fit(X, Y)
    assert model.estimator is network
    assert not hasattr(network, "coefs_")
    assert not hasattr(clone(model), "basis_coef_")
    assert model.get_params()["estimator__max_iter"] == 15


# -- larger machines -----------------------------------------------------------------


@pytest.mark.parametrize("cv", [None, 3])
def test_any_number_of_jobs(cv):
    model = GradientBasisRefit(mlp(), n_models=3, cv=cv, random_state=0, **STD)
    expected = clone(model).fit(X, Y)
    assert_same(clone(model).set_params(n_jobs=2).fit(X, Y), expected)
    with joblib.parallel_config(backend="threading", n_jobs=2):
        assert_same(clone(model).fit(X, Y), expected)


def test_grid_search_and_pipeline():
    """Widths of the inner network are tuned like any parameter."""
    model = make_pipeline(StandardScaler(), GradientBasisRefit(mlp(), random_state=0))
    grid = {
        "gradientbasisrefit__estimator__hidden_layer_sizes": [(1,), (8,)],
        "gradientbasisrefit__center": ["zero", "average"],
    }
    search = GridSearchCV(model, grid, cv=3).fit(X, Y)
    best = search.best_params_["gradientbasisrefit__estimator__hidden_layer_sizes"]
    refit = search.best_estimator_[-1]
    assert refit.estimator_.coefs_[0].shape == (3, best[0])
    assert search.score(X, Y) == refit.score(model[0].fit_transform(X), Y)


def test_cross_val_score_in_workers():
    model = GradientBasisRefit(classifier(), random_state=0)
    scores = cross_val_score(model, X, LABELS, cv=3, n_jobs=2)
    np.testing.assert_array_equal(scores, cross_val_score(model, X, LABELS, cv=3))


def test_a_step_before_another_model():
    """The features of one network for a model downstream."""
    model = make_pipeline(
        GradientBasisRefit(mlp(), n_components=5, random_state=0), StandardScaler()
    )
    assert model.fit_transform(X, Y).shape == (40, 5)


# -- kinds ---------------------------------------------------------------------------


def test_kind_follows_the_network():
    for inner, classifies in [
        (mlp(), False),
        (classifier(), True),
        (make_pipeline(StandardScaler(), classifier()), True),
        (FrozenEstimator(classifier().fit(X, LABELS)), True),
        (TransformedTargetRegressor(mlp()), False),
    ]:
        model = GradientBasisRefit(inner)
        assert is_classifier(model) is classifies
        assert is_regressor(model) is not classifies
        for method in ("predict_proba", "predict_log_proba", "decision_function"):
            assert hasattr(model, method) is classifies
        assert get_tags(model).target_tags.required
    assert get_tags(GradientBasisRefit(classifier())).classifier_tags.multi_label
    module = nn.Linear(3, 1)
    assert is_classifier(GradientBasisRefit(module, loss="log_loss"))
    model = GradientBasisRefit(module, loss="poisson")
    assert is_regressor(model)
    assert get_tags(model).target_tags.required
    assert get_tags(model).target_tags.multi_output


def test_tags_of_sparse_input_follow_the_network():
    assert get_tags(GradientBasisRefit(mlp())).input_tags.sparse
    inner = make_pipeline(StandardScaler(), mlp())
    assert not get_tags(GradientBasisRefit(inner)).input_tags.sparse


def test_classes_are_those_of_the_network():
    """A frozen classifier keeps classes that new data lack."""
    network = FrozenEstimator(classifier().fit(X, LABELS))
    two = LABELS != "mid"
    model = GradientBasisRefit(network, alpha=1e-2).fit(X[two], LABELS[two])
    assert model.classes_.tolist() == ["low", "mid", "top"]
    assert model.predict_proba(X).shape == (40, 3)
    assert set(model.predict(X[two])) <= {"low", "mid", "top"}
    assert model.score(X[two], LABELS[two]) > 0.8


# -- data in other containers --------------------------------------------------------


@pytest.mark.parametrize("container", [sp.csr_array, sp.csc_matrix])
@pytest.mark.parametrize("name", ["regressor", "classifier", "folds"])
def test_sparse_data(name, container):
    """Results equal those of dense data with the same folds."""
    model, y = MODELS[name]
    cv = KFold(3) if name != "regressor" else None
    model = clone(model).set_params(random_state=0, cv=cv, tol=1e-12)
    sparse = X * (abs(X) > 0.5)
    dense = clone(model).fit(sparse, y, WEIGHT)
    model.fit(container(sparse), y, WEIGHT)
    np.testing.assert_allclose(
        model.basis_coef_, dense.basis_coef_, rtol=1e-5, atol=1e-6
    )
    new = container(sparse[:5])
    np.testing.assert_array_equal(model.predict(new), model.predict(sparse[:5]))
    np.testing.assert_array_equal(model.transform(new), model.transform(sparse[:5]))


def test_sparse_data_through_a_pipeline():
    inner = make_pipeline(MaxAbsScaler(), mlp())
    model = GradientBasisRefit(inner, cv=3).fit(sp.coo_array(X), Y)
    dense = GradientBasisRefit(inner, cv=3).fit(X, Y)
    assert model.predict(sp.dia_array(X)).shape == (40,)
    assert len(dense.estimators_) == 3


def test_sparse_indicators():
    y = np.column_stack([Y > 0, X[:, 0] > 0]).astype(int)
    dense, sparse = (
        GradientBasisRefit(classifier(), alpha=0.1).fit(X, targets)
        for targets in (y, sp.csr_matrix(y))
    )
    np.testing.assert_array_equal(sparse.predict(X), dense.predict(X))


def test_frozen_network_takes_the_data_frame_that_it_knows():
    """It gets the names of columns, so it does not warn."""
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(X, columns=["a", "b", "c"])
    network = mlp().fit(frame, Y)
    refit = GradientBasisRefit(FrozenEstimator(network), alpha=0.1).fit(frame, Y)
    arrays = GradientBasisRefit(FrozenEstimator(mlp().fit(X, Y)), alpha=0.1).fit(X, Y)
    np.testing.assert_allclose(refit.predict(frame), arrays.predict(X))
    with pytest.raises(ValueError, match="feature names"):
        refit.predict(frame[["b", "a", "c"]])


@pytest.mark.parametrize("inner", [mlp, classifier])
def test_strings_in_a_frame(inner):
    """The inner pipeline checks its input; names and number of columns are checked."""
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(X, columns=["a", "b", "c"])
    frame["colour"] = np.where(X[:, 0] > 0, "red", "blue")
    y = Y if inner is mlp else LABELS
    columns = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore"), ["colour"]),
        remainder=StandardScaler(),
    )
    model = GradientBasisRefit(make_pipeline(columns, inner()), cv=3, random_state=0)
    model.fit(frame, y, sample_weight=WEIGHT)
    assert model.n_features_in_ == 4
    assert model.feature_names_in_.tolist() == ["a", "b", "c", "colour"]
    assert model.predict(frame.iloc[:3]).shape == (3,)
    assert model.score(frame, y) > 0.4
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(frame.rename(columns={"a": "z"}))


def test_texts():
    """X may be anything that the pipeline takes, such as a list of strings."""
    texts = [f"a {word} day on row {i}" for i, word in enumerate(LABELS)]
    inner = make_pipeline(CountVectorizer(), classifier())
    model = GradientBasisRefit(inner, random_state=0).fit(texts, LABELS)
    assert model.score(texts, LABELS) > 0.9
    assert not hasattr(model, "n_features_in_")


def test_feature_names():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(X, columns=["a", "b", "c"])
    model = GradientBasisRefit(mlp()).fit(frame, Y)
    assert model.feature_names_in_.tolist() == ["a", "b", "c"]
    assert model.n_features_in_ == 3
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(frame.rename(columns={"a": "z"}))
    np.testing.assert_array_equal(
        model.predict(frame), GradientBasisRefit(mlp()).fit(X, Y).predict(X)
    )


# -- metadata ------------------------------------------------------------------------


def test_weights_are_routed():
    """With metadata routing, the network gets weights if it requests them."""
    plain = GradientBasisRefit(mlp(), alpha=1e-2).fit(X, Y, WEIGHT)
    with sklearn.config_context(enable_metadata_routing=True):
        asks, refuses = (
            GradientBasisRefit(mlp().set_fit_request(sample_weight=yes), alpha=1e-2)
            for yes in (True, False)
        )
        asks.fit(X, Y, sample_weight=WEIGHT)
        refuses.fit(X, Y, sample_weight=WEIGHT)
        np.testing.assert_array_equal(asks.predict(X), plain.predict(X))
        unweighted = mlp().fit(X, Y)
        np.testing.assert_array_equal(
            refuses.estimator_.predict(X), unweighted.predict(X)
        )
        frozen = GradientBasisRefit(FrozenEstimator(unweighted), alpha=1e-2)
        frozen.fit(X, Y, sample_weight=WEIGHT)
        np.testing.assert_array_equal(refuses.predict(X), frozen.predict(X))
        with pytest.raises(ValueError, match=r"sample_weight.*not explicitly set"):
            GradientBasisRefit(mlp()).fit(X, Y, sample_weight=WEIGHT)
        scaler = StandardScaler().set_fit_request(sample_weight=False)
        module = GradientBasisRefit(nn.Linear(3, 1), loss="squared_error", alpha=0.1)
        for model in (asks, frozen, module):
            outer = make_pipeline(scaler, model.set_fit_request(sample_weight=True))
            outer.fit(X, Y, sample_weight=WEIGHT)
            scaled = scaler.fit_transform(X)
            expected = clone(model).fit(scaled, Y, sample_weight=WEIGHT)
            np.testing.assert_array_equal(outer.predict(X), expected.predict(scaled))


def test_weights_are_routed_into_a_pipeline():
    cv = KFold(3)
    with sklearn.config_context(enable_metadata_routing=True):
        inner = make_pipeline(
            StandardScaler().set_fit_request(sample_weight=True),
            mlp().set_fit_request(sample_weight=True),
        )
        model = GradientBasisRefit(inner, alpha=1e-2, cv=cv)
        model.fit(X, Y, sample_weight=WEIGHT)
    for estimator, (seen, _) in zip(model.estimators_, cv.split(X), strict=True):
        mean = np.average(X[seen], axis=0, weights=WEIGHT[seen])
        np.testing.assert_allclose(estimator[0].mean_, mean, rtol=1e-9)


def test_weights_reach_the_members_of_a_vote():
    """Through a transformation of the target, as in scikit-learn."""
    member = TransformedTargetRegressor(Ridge(), transformer=StandardScaler())
    vote = VotingRegressor([("a", member), ("b", Ridge(0.1))])
    trained = FrozenEstimator(clone(vote).fit(X, Y, sample_weight=WEIGHT))
    expected = GradientBasisRefit(trained, alpha=0.1, cv=None).fit(X, Y, WEIGHT)
    refit = GradientBasisRefit(vote, alpha=0.1, cv=None).fit(X, Y, WEIGHT)
    np.testing.assert_allclose(refit.predict(X), expected.predict(X), rtol=1e-10)


def test_class_weights_are_routed():
    with sklearn.config_context(enable_metadata_routing=True):
        inner = classifier().set_fit_request(sample_weight=True)
        routed = GradientBasisRefit(inner, alpha=0.1, class_weight="balanced")
        routed.fit(X, LABELS, sample_weight=WEIGHT)
    plain = GradientBasisRefit(classifier(), alpha=0.1, class_weight="balanced")
    plain.fit(X, LABELS, WEIGHT)
    np.testing.assert_array_equal(routed.predict_proba(X), plain.predict_proba(X))


def test_other_metadata_need_routing():
    with pytest.raises(ValueError, match="enable_metadata_routing"):
        GradientBasisRefit(mlp()).fit(X, Y, colours=np.arange(40))


# -- torch ---------------------------------------------------------------------------


@pytest.fixture
def torch_seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.mark.parametrize("n_outputs", [1, 2])
@pytest.mark.usefixtures("torch_seed")
def test_module_for_regression(n_outputs):
    module = nn.Sequential(nn.Linear(3, 6), nn.SiLU(), nn.Linear(6, n_outputs))
    y = Y if n_outputs == 1 else np.column_stack([Y, X[:, 0]])
    model = GradientBasisRefit(module, loss="squared_error", alpha=0).fit(X, y)
    assert model.predict(X).shape == y.shape
    assert model.refit_loss_ < 0.9 * model.model_loss_
    with torch.no_grad():
        raw = module.double()(torch.tensor(X)).numpy().reshape(y.shape)
    loss = ((raw - y) ** 2).reshape(40, -1).sum(1).mean()
    np.testing.assert_allclose(model.model_loss_, loss, rtol=1e-12)


@pytest.mark.usefixtures("torch_seed")
def test_module_for_counts():
    module = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 1))
    y = RNG.poisson(np.exp(Y)).astype(float)
    model = GradientBasisRefit(module, loss="poisson", alpha="loo").fit(X, y)
    assert (model.predict(X) > 0).all()
    assert model.refit_loss_ < model.model_loss_


@pytest.mark.parametrize("n_outputs", [1, 2, 3])
@pytest.mark.usefixtures("torch_seed")
def test_module_for_classification(n_outputs):
    """Logistic with one output, softmax with several; labels are sorted."""
    module = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, n_outputs))
    y = EASY if n_outputs == 3 else np.where(Y > 0, "yes", "no")
    model = GradientBasisRefit(module, loss="log_loss", alpha="loo").fit(X, y)
    assert model.classes_.tolist() == sorted(set(y))
    probability = model.predict_proba(X)
    assert probability.shape == (40, len(set(y)))
    np.testing.assert_allclose(probability.sum(1), 1)
    assert model.score(X, y) > 0.7
    decision = model.decision_function(X)
    if n_outputs == 3:
        assert decision.shape == (40, 3)
    else:
        odds = probability[:, 1] / probability[:, 0]
        np.testing.assert_allclose(decision, np.log(odds), rtol=1e-9, atol=1e-12)


@pytest.mark.usefixtures("torch_seed")
def test_module_for_several_labels():
    module = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 2))
    y = np.column_stack([Y > 0, X[:, 0] > 0]).astype(int)
    model = GradientBasisRefit(module, loss="log_loss", alpha="loo").fit(X, y)
    assert model.predict(X).shape == (40, 2)
    assert model.predict_proba(X).shape == (40, 2)
    assert model.score(X, y) > 0.4


@pytest.mark.parametrize("loss", ["squared_error", "log_loss"])
@pytest.mark.usefixtures("torch_seed")
def test_convolution_on_images(loss):
    """4-d input; parameters by torch.func."""
    images = RNG.normal(size=(24, 1, 5, 5))
    target = images[:, 0, 2, 2] + images[:, 0, 1, 1] ** 2
    n_outputs = 1 if loss == "squared_error" else 3
    module = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(18, n_outputs)
    )
    y = target if n_outputs == 1 else np.digitize(target, [0, 1])
    model = GradientBasisRefit(module, loss=loss, alpha=1e-4).fit(images, y)
    assert model.score(images, y) > 0.9
    assert model.transform(images).shape == (24, n_outputs * (20 + 19 * n_outputs))
    assert model.n_features_in_ == 1
    assert_raw = model.predict if n_outputs == 1 else model.predict_proba
    assert np.isfinite(assert_raw(images[:2])).all()


@pytest.mark.usefixtures("torch_seed")
def test_dropout_and_batch_norm_act_as_in_evaluation():
    """The user's module stays in training mode."""
    module = nn.Sequential(
        nn.Linear(3, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 1)
    )
    module(torch.tensor(X, dtype=torch.float32))
    before = {key: value.clone() for key, value in module.state_dict().items()}
    model = GradientBasisRefit(module, loss="squared_error", alpha=1e-3).fit(X, Y)
    np.testing.assert_array_equal(model.predict(X), model.predict(X))
    assert all(part.training for part in module.modules())
    for key, value in module.state_dict().items():
        assert torch.equal(value, before[key])
    evaluated = module.double().eval()(torch.tensor(X)).detach().numpy()
    loss = ((evaluated[:, 0] - Y) ** 2).mean()
    np.testing.assert_allclose(model.model_loss_, loss, rtol=1e-9)


@pytest.mark.usefixtures("torch_seed")
def test_network_outside_its_own_span():
    """A frozen head: the model is f + J c, and still contains the network."""
    module = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 1))
    module[2].requires_grad_(False)
    model = GradientBasisRefit(module, loss="squared_error", alpha=0).fit(X, Y)
    assert model.refit_loss_ < model.model_loss_
    with torch.no_grad():
        raw = module.double()(torch.tensor(X)).numpy()[:, 0]
    expected = raw + model.transform(X) @ model.basis_coef_
    np.testing.assert_allclose(model.predict(X), expected, rtol=1e-7, atol=1e-9)
    model.set_params(alpha=1, **STD).fit(X, Y)
    assert_same(pickle.loads(pickle.dumps(model)), model)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("name", ["regressor", "classifier", "module"])
def test_device(name, device):
    model, y = MODELS[name]
    here = clone(model).set_params(random_state=0).fit(X, y)
    there = clone(here).set_params(device=device).fit(X, y)
    np.testing.assert_allclose(there.transform(X), here.transform(X), rtol=1e-9)
    np.testing.assert_allclose(there.alpha_, here.alpha_, rtol=1e-9)
    assert there.score(X, y) == pytest.approx(here.score(X, y), rel=1e-4)


# -- skorch --------------------------------------------------------------------------


@pytest.mark.usefixtures("torch_seed")
def test_skorch():
    """A net is cloned and trained in `fit`."""
    skorch = pytest.importorskip("skorch")
    X32, y32 = X.astype(np.float32), Y.astype(np.float32)[:, None]
    common = {"max_epochs": 5, "verbose": 0, "train_split": None, "lr": 0.1}
    net = skorch.NeuralNetRegressor(
        nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1)), **common
    )
    model = GradientBasisRefit(net, n_models=2).fit(X32, y32)
    assert model.predict(X32).shape == (40, 1)
    assert model.score(X32, y32) > 0.3
    codes = np.unique(EASY, return_inverse=True)[1]
    net = skorch.NeuralNetClassifier(
        nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 3)),
        criterion=nn.CrossEntropyLoss,
        **common,
    )
    model = GradientBasisRefit(net, random_state=0).fit(X32, codes)
    assert model.classes_.tolist() == [0, 1, 2]
    assert model.score(X32, codes) > 0.6
    with pytest.raises(ValueError, match=r"fit takes no sample_weight.*NeuralNetClass"):
        model.fit(X32, codes, sample_weight=WEIGHT)
    frozen = FrozenEstimator(net.fit(X32, codes))
    weighted = GradientBasisRefit(frozen, alpha=0.1).fit(X32, codes, WEIGHT)
    assert weighted.predict_proba(X32).shape == (40, 3)


def test_iris():
    """The refit has an accuracy above 0.92 on iris."""
    X, y = load_iris(return_X_y=True)
    inner = make_pipeline(StandardScaler(), classifier(hidden_layer_sizes=(8,)))
    model = GradientBasisRefit(inner, random_state=0)
    assert cross_val_score(model, X, y, cv=3).mean() > 0.92


def test_of_a_search():
    """The refit of a search is that of the network which the search chooses."""
    X, y = make_regression(80, 3, noise=10.0, random_state=0)
    network = MLPRegressor(
        hidden_layer_sizes=(4,), solver="lbfgs", max_iter=30, random_state=0
    )
    search = GridSearchCV(network, {"alpha": [1e-3, 10.0]}, cv=2)
    best = clone(network).set_params(**clone(search).fit(X, y).best_params_)
    model = GradientBasisRefit(search, alpha="loo").fit(X, y)
    expected = GradientBasisRefit(best, alpha="loo").fit(X, y)
    np.testing.assert_allclose(model.predict(X), expected.predict(X), rtol=1e-10)
    assert model.estimator_.best_params_ == {"alpha": best.alpha}
