"""Results do not depend on jobs and backends, and trainings are shared."""

import io
import pickle
import time
from contextlib import redirect_stdout

import joblib
import numpy as np
import pytest
import torch
from callback_cases import Callback
from joblib import Memory, parallel_config
from numpy.testing import assert_array_equal
from scipy.stats import loguniform
from sklearn.callback import ProgressBar
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import Ridge
from sklearn.model_selection import (
    GridSearchCV,
    HalvingRandomSearchCV,
    cross_val_predict,
)
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import PolynomialFeatures
from sklearn.utils.parallel import Parallel, delayed
from threadpoolctl import threadpool_info

from sklearn_pgb import (
    AddedNeuronClassifier,
    AddedNeuronRegressor,
    FeatureBasis,
    GradientBasis,
    GradientBasisRefit,
    InputBasis,
    LayerBasis,
    ResNetBasisClassifier,
    ResNetBasisRegressor,
    compare_bases,
    survey_minima,
)
from sklearn_pgb._added_neuron import _base as added_neuron
from sklearn_pgb._models._network import as_float64
from sklearn_pgb._refit import _training as refit_training
from sklearn_pgb._survey._recipe import find_recipe

RNG = np.random.default_rng(0)
X = RNG.normal(size=(48, 3))
Y = X[:, 0] + X[:, 1] * X[:, 2] + 0.1 * RNG.normal(size=48)
LABELS = np.digitize(Y, [-0.5, 0.5])


def mlp(kind=MLPRegressor, **params):
    params = {"solver": "lbfgs", "max_iter": 10, "random_state": 0} | params
    return kind(hidden_layer_sizes=(3,), **params)


ESTIMATORS = {
    "refit": GradientBasisRefit(mlp()),
    "refit cross-fitted": GradientBasisRefit(mlp(), cv=2, n_jobs=2),
    "refit labels": GradientBasisRefit(mlp(MLPClassifier)),
    "neurons": AddedNeuronRegressor((3,), max_iter=4, random_state=0),
    "neurons search": AddedNeuronRegressor(
        (3,), n_starts=2, max_iter=4, alpha=1.0, random_state=0
    ),
    "neurons labels": AddedNeuronClassifier((3,), max_iter=4, random_state=0),
    "residual": ResNetBasisRegressor(
        hidden_layer_sizes=(3,), max_iter=4, random_state=0
    ),
    "residual labels": ResNetBasisClassifier(
        hidden_layer_sizes=(3,), max_iter=4, random_state=0
    ),
}


@pytest.fixture(scope="module")
def dask_client():
    """Two workers in separate processes."""
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0"
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


def predictions(n_jobs, backend):
    """Held-out predictions of every estimator, in one parallel call each."""
    found = {}
    with parallel_config(backend=backend, n_jobs=n_jobs):
        for name, estimator in ESTIMATORS.items():
            y = LABELS if "labels" in name else Y
            method = "predict_proba" if "labels" in name else "predict"
            found[name] = cross_val_predict(estimator, X, y, cv=2, method=method)
    return found


@pytest.fixture(scope="module")
def in_turn():
    return predictions(None, "loky")


@pytest.mark.parametrize("backend", ["loky", "threading", "dask"])
def test_backends_give_the_same_bits(backend, in_turn, request):
    if backend == "dask":
        request.getfixturevalue("dask_client")
    found = predictions(2, backend)
    for name, expected in in_turn.items():
        assert_array_equal(found[name], expected, err_msg=name)


def test_number_of_threads_does_not_change_small_problems(in_turn):
    """Workers have fewer threads of PyTorch than the process that starts them."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = predictions(None, "loky")
    finally:
        torch.set_num_threads(before)
    for name, expected in in_turn.items():
        assert_array_equal(found[name], expected, err_msg=name)


def unaligned(array):
    """The same numbers in memory that is not aligned, as after a transfer."""
    place = np.empty(array.nbytes + 1, dtype=np.uint8)[1:].view(array.dtype)
    place = place.reshape(array.shape)
    place[...] = array
    assert not place.flags.aligned
    return place


@pytest.mark.parametrize("name", ESTIMATORS)
def test_place_in_memory_does_not_matter(name):
    y = LABELS if "labels" in name else Y
    estimator = ESTIMATORS[name]
    assert as_float64(unaligned(X)).data_ptr() % 8 == 0
    expected = estimator.fit(X, y).predict(X)
    found = estimator.fit(unaligned(X), unaligned(y)).predict(unaligned(X))
    assert_array_equal(found, expected)


# --- searches -------------------------------------------------------------------------


def grid_search(n_jobs=None):
    grid = {"alpha": [1e-3, 1e-1], "estimator__alpha": [1e-4, 1e-2]}
    return GridSearchCV(GradientBasisRefit(mlp()), grid, cv=2, n_jobs=n_jobs)


def halving_search(n_jobs=None):
    return HalvingRandomSearchCV(
        AddedNeuronRegressor((3,), random_state=0),
        {"alpha": loguniform(1e-5, 1.0)},
        resource="max_iter",
        min_resources=2,
        max_resources=6,
        cv=2,
        n_jobs=n_jobs,
        random_state=0,
    )


@pytest.mark.parametrize("search", [grid_search, halving_search])
@pytest.mark.parametrize("backend", ["loky", "threading", "dask"])
def test_searches_give_the_same_scores(search, backend, request):
    if backend == "dask":
        request.getfixturevalue("dask_client")
    one = search().fit(X, Y)
    with parallel_config(backend=backend, n_jobs=2):
        many = search().fit(X, Y)
    for key in ("split0_test_score", "split1_test_score", "params"):
        assert_array_equal(one.cv_results_[key], many.cv_results_[key])
    assert_array_equal(one.predict(X), many.predict(X))


@pytest.mark.parametrize("backend", ["threading", "dask"])
def test_comparisons_and_surveys_on_other_backends(backend, request):
    if backend == "dask":
        request.getfixturevalue("dask_client")
    bases = {
        "linear": InputBasis(),
        "quadratic": FeatureBasis(PolynomialFeatures(2)),
        "gradient": GradientBasis(mlp()),
    }

    def run():
        frame = compare_bases(bases, X, Y, cv=2).to_frame().drop(columns="seconds")
        survey = survey_minima(mlp(), X, Y, n_starts=7, polish_iter=2, random_state=0)
        return frame.drop(columns="kind").to_numpy(), survey.parameters

    one = run()
    with parallel_config(backend=backend, n_jobs=2):
        many = run()
    for first, second in zip(one, many, strict=True):
        assert_array_equal(first, second)


@pytest.mark.parametrize(
    "estimator", [AddedNeuronRegressor((3,), max_iter=3), GradientBasisRefit(mlp())]
)
def test_callbacks_show_one_bar_for_a_search(estimator):
    """The bar of the search is full at its end, and none is shown for its fits."""
    search = GridSearchCV(estimator, {"alpha": [0.1, 1.0]}, cv=2, n_jobs=2)
    search.set_callbacks(ProgressBar(max_propagation_depth=0))
    text = io.StringIO()
    with redirect_stdout(text):
        search.fit(X, Y)
    lines = [line for line in text.getvalue().splitlines() if "100%" in line]
    assert [line.split("━")[0].strip() for line in lines] == [
        "GridSearchCV - fit",
        "GridSearchCV - search #0",
    ]


class CountEpochs(Callback):
    """Callback that counts the epochs of each fit, in this process."""

    max_propagation_depth = None

    def __init__(self):
        self.epochs = []

    def on_fit_task_end(self, estimator, context):
        if context.task_name == "epoch":
            self.epochs.append(context.parent.source_task_name)


@pytest.mark.parametrize(
    "estimator",
    [
        AddedNeuronRegressor((3,), max_iter=3),
        ResNetBasisRegressor(hidden_layer_sizes=(3,), cv=None, max_iter=3),
    ],
)
def test_callbacks_reach_through_a_search(estimator):
    """Each epoch of the 2 x 2 fits and of the last one is counted."""
    callback = CountEpochs()
    search = GridSearchCV(estimator, {"alpha": [0.1, 1.0]}, cv=2)
    search.set_callbacks(callback).fit(X, Y)
    assert len(callback.epochs) == 15
    assert callback.epochs.count("refit-with-best-params") == 3


# --- threads --------------------------------------------------------------------------


def threads_inside():
    """Threads of a worker's libraries, before, during and after a fit."""

    def count():
        blas = [
            info["num_threads"]
            for info in threadpool_info()
            if info["user_api"] == "blas"
        ]
        return torch.get_num_threads(), *sorted(blas)

    before = count()
    during = []
    original = added_neuron.fit_network

    def watch(*args, **kwargs):
        hook = kwargs["hook"]
        kwargs["hook"] = lambda *args: during.append(count()) or hook(*args)
        return original(*args, **kwargs)

    added_neuron.fit_network = watch
    try:
        AddedNeuronRegressor((3,), max_iter=2).fit(X, Y)
    finally:
        added_neuron.fit_network = original
    return before, during, count()


@pytest.mark.parametrize("backend", ["loky", "threading", "dask"])
def test_workers_share_the_cores(backend, request, monkeypatch):
    """Two workers never use more threads than there are cores."""
    # Threads that watch at once may restore each other's watch; the end puts it right.
    monkeypatch.setattr(added_neuron, "fit_network", added_neuron.fit_network)
    if backend == "dask":
        request.getfixturevalue("dask_client")
    mine = torch.get_num_threads()
    with parallel_config(backend=backend, n_jobs=2):
        found = Parallel()(delayed(threads_inside)() for _ in range(4))
    cores = max(2, joblib.cpu_count())
    for before, during, after in found:
        assert before == after or backend == "threading"
        # A thread may watch nothing if another one has just put the original back.
        assert during or backend == "threading"
        assert {count[0] for count in during} <= {1}
        if backend != "threading":
            assert 2 * before[0] <= cores
            assert {max(count[1:]) for count in during} == {1}
    assert any(during for _, during, _ in found)
    assert torch.get_num_threads() == mine


# --- memory ---------------------------------------------------------------------------


@pytest.fixture
def mapped(tmp_path):
    """X in a file, mapped read-only."""
    joblib.dump(X, tmp_path / "X.joblib")
    return joblib.load(tmp_path / "X.joblib", mmap_mode="r")


def address(array):
    return array.__array_interface__["data"][0]


def test_mapped_arrays_reach_tensors_without_a_copy(mapped):
    assert isinstance(mapped, np.memmap)
    assert as_float64(mapped).data_ptr() == address(mapped)
    assert as_float64(mapped[3:]).data_ptr() == address(mapped[3:])
    assert InputBasis().fit(mapped).features(mapped).data_ptr() == address(mapped)
    recipe = find_recipe(mlp(), mapped, Y, np.ones(len(Y)))
    assert recipe.data.inputs.data_ptr() == address(mapped)
    # In a task they travel as arrays, which joblib maps.
    arrays = recipe.data.__reduce__()[1]
    assert address(arrays[0]) == address(mapped)
    copy = pickle.loads(pickle.dumps(recipe.data))
    assert torch.equal(copy.inputs, recipe.data.inputs)
    assert_array_equal(as_float64(mapped).numpy(), X)
    assert as_float64(mapped[::2]).is_contiguous()


def test_fits_do_not_copy_mapped_arrays(mapped, monkeypatch):
    seen = []

    def watch(module, name, of):
        original = getattr(module, name)

        def watched(*args, **kwargs):
            seen.append(of(args).data_ptr())
            return original(*args, **kwargs)

        monkeypatch.setattr(module, name, watched)

    watch(added_neuron, "fit_network", lambda args: args[2].X)
    watch(refit_training, "refit", lambda args: args[0].samples.X[0])
    # Standardized inputs are a copy, and so are samples in the order of values and
    # samples without those held out.
    params = {"standardize": False, "early_stopping": False, "batch_size": 8}
    params["shuffle"] = False
    own = AddedNeuronRegressor((3,), max_iter=2, **params, random_state=0)
    one, other = own.fit(mapped, Y).predict(mapped), own.fit(X, Y).predict(X)
    assert_array_equal(one, other)
    frozen = GradientBasisRefit(FrozenEstimator(own), alpha="loo")
    assert_array_equal(
        frozen.fit(mapped, Y).predict(mapped), frozen.fit(X, Y).predict(X)
    )
    assert seen == [address(mapped), address(X), address(mapped), address(X)]


# --- interrupted sweeps ---------------------------------------------------------------

TRAININGS = []


class CountedMLP(MLPRegressor):
    """A network that counts its trainings and can refuse to train."""

    stop_after = None

    def fit(self, X, y, sample_weight=None):
        if self.stop_after is not None and len(TRAININGS) >= self.stop_after:
            raise KeyboardInterrupt
        TRAININGS.append(len(X))
        return super().fit(X, y, sample_weight)


@pytest.fixture
def trainings(monkeypatch):
    TRAININGS.clear()
    yield TRAININGS
    TRAININGS.clear()


def sweep(memory):
    network = CountedMLP(
        hidden_layer_sizes=(3,), solver="lbfgs", max_iter=5, random_state=0
    )
    grid = {"alpha": np.logspace(-6, 0, 5), "estimator__alpha": [0.1, 1.0]}
    return GridSearchCV(GradientBasisRefit(network, memory=memory), grid, cv=3)


def test_candidates_share_trained_networks(tmp_path, trainings):
    """Five alphas for two networks and three folds take six trainings, not 30."""
    cached = sweep(str(tmp_path)).fit(X, Y)
    assert len(trainings) == 2 * 3 + 1
    plain = sweep(None).fit(X, Y)
    assert len(trainings) == 7 + 5 * 2 * 3 + 1
    for key in ("split0_test_score", "mean_test_score"):
        assert_array_equal(cached.cv_results_[key], plain.cv_results_[key])


def test_interrupted_sweep_resumes_without_retraining(tmp_path, trainings, monkeypatch):
    memory = Memory(tmp_path, verbose=0)
    monkeypatch.setattr(CountedMLP, "stop_after", 4)
    with pytest.raises(KeyboardInterrupt):
        sweep(memory).fit(X, Y)
    assert len(trainings) == 4
    monkeypatch.setattr(CountedMLP, "stop_after", None)
    sweep(memory).fit(X, Y)
    assert len(trainings) == 7
    sweep(memory).fit(X, Y)
    assert len(trainings) == 7


def test_cross_fitted_networks_are_cached_too(tmp_path, trainings):
    network = CountedMLP(hidden_layer_sizes=(3,), max_iter=5, random_state=0)
    for alpha in (1e-3, 1e-2):
        GradientBasisRefit(network, alpha=alpha, cv=3, memory=str(tmp_path)).fit(X, Y)
    assert len(trainings) == 3


def comparison(memory):
    network = CountedMLP(
        hidden_layer_sizes=(3,), solver="lbfgs", max_iter=5, random_state=0
    )
    bases = {
        "linear": InputBasis(),
        "last layer": LayerBasis(network),
        "gradient": GradientBasis(network),
        "network": network,
    }
    return compare_bases(bases, X, Y, cv=3, memory=memory, random_state=0)


def test_bases_share_trained_networks(tmp_path, trainings):
    """There is one training per part and one on all samples, not three."""
    cached = comparison(str(tmp_path))
    assert len(trainings) == 3 + 1
    plain = comparison(None)
    assert len(trainings) == 4 + 3 * 4
    for one, other in zip(cached.reports, plain.reports, strict=True):
        # As dicts: objects with NaN are never equal from Python 3.13 on.
        np.testing.assert_equal(
            vars(one) | {"seconds": 0}, vars(other) | {"seconds": 0}
        )


def test_interrupted_comparison_resumes(tmp_path, trainings, monkeypatch):
    memory = Memory(tmp_path, verbose=0)
    monkeypatch.setattr(CountedMLP, "stop_after", 2)
    with pytest.raises(KeyboardInterrupt):
        comparison(memory)
    monkeypatch.setattr(CountedMLP, "stop_after", None)
    comparison(memory)
    assert len(trainings) == 4


def test_seconds_count_what_was_loaded(tmp_path, monkeypatch):
    """The seconds of a cached training count in every fit that uses it."""
    fit = MLPRegressor.fit

    def slow_fit(self, X, y, sample_weight=None):
        time.sleep(0.2)
        return fit(self, X, y, sample_weight)

    monkeypatch.setattr(MLPRegressor, "fit", slow_fit)
    for _ in range(2):
        frame = comparison(str(tmp_path)).to_frame()
        assert (frame.loc[["last layer", "gradient", "network"], "seconds"] > 0.2).all()
        assert frame.loc["linear", "seconds"] < frame.loc["network", "seconds"]


def test_networks_of_modules_come_from_the_memory(tmp_path, monkeypatch):
    """Copies of a module have other addresses and the same parameters."""
    trainings = []
    fit = added_neuron.fit_network

    def counted(*args, **kwargs):
        trainings.append(1)
        return fit(*args, **kwargs)

    monkeypatch.setattr(added_neuron, "fit_network", counted)
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh())
    module.append(torch.nn.Linear(4, 1))
    network = AddedNeuronRegressor(module=module, max_iter=2, random_state=0)
    for _ in range(2):
        compare_bases({"n": network}, X, Y, cv=2, memory=str(tmp_path), random_state=0)
        GradientBasisRefit(network, alpha="loo", memory=str(tmp_path)).fit(X, Y)
    assert len(trainings) == 2 + 1 + 1
    with torch.no_grad():
        module[0].weight[0, 0] += 1
    compare_bases({"n": network}, X, Y, cv=2, memory=str(tmp_path), random_state=0)
    assert len(trainings) == 2 * (2 + 1) + 1


def test_memory_knows_mapped_rows(tmp_path, mapped, trainings):
    """joblib maps large arrays into its workers."""
    network = CountedMLP(hidden_layer_sizes=(3,), max_iter=5, random_state=0)
    for rows in (X, mapped):
        memory = str(tmp_path / "memory")
        compare_bases({"n": network}, rows, Y, cv=2, memory=memory, random_state=0)
    assert len(trainings) == 2 + 1


def test_memory_refuses_what_cannot_be_pickled(tmp_path):
    network = AddedNeuronRegressor(module=lambda: torch.nn.Linear(3, 1), max_iter=2)
    compare_bases({"n": network}, X, Y, cv=2)
    with pytest.raises(ValueError, match="memory must be None if an estimator can't"):
        compare_bases({"n": network}, X, Y, cv=2, memory=str(tmp_path))


@pytest.mark.filterwarnings("ignore:A column-vector y was passed")
@pytest.mark.parametrize("n_jobs", [None, 2])
def test_networks_of_skorch_are_seeded(n_jobs):
    """They draw from torch's global generator."""
    skorch = pytest.importorskip("skorch")
    network = skorch.NeuralNetRegressor(
        torch.nn.Linear,
        module__in_features=3,
        module__out_features=1,
        max_epochs=2,
        train_split=None,
        verbose=0,
    )
    rows, target = X.astype(np.float32), Y.astype(np.float32)[:, None]
    found = [
        (
            compare_bases(
                {"n": network}, rows, target, cv=2, n_jobs=n_jobs, random_state=0
            )["n"].scores,
            survey_minima(
                network, rows, target, n_starts=2, n_jobs=n_jobs, random_state=0
            ).loss.tolist(),
        )
        for _ in range(2)
    ]
    assert found[0] == found[1]
    assert found[0][1][0] != found[0][1][1]


def test_memory_of_a_comparison_must_be_a_cache():
    with pytest.raises(ValueError, match="'memory' should be None"):
        compare_bases({"linear": InputBasis()}, X, Y, memory=3)


def test_pipeline_caches_the_features_of_a_network(tmp_path, trainings):
    """As a step that is not the last, a refit is cached by the pipeline itself."""
    network = CountedMLP(hidden_layer_sizes=(3,), max_iter=5, random_state=0)
    refit = GradientBasisRefit(network, alpha="loo")
    steps = [("features", refit), ("ridge", Ridge())]
    pipeline = Pipeline(steps, memory=Memory(tmp_path, verbose=0))
    for _ in range(2):
        GridSearchCV(pipeline, {"ridge__alpha": [0.1, 1.0]}, cv=2).fit(X, Y)
        assert len(trainings) == 3


def test_memory_is_a_parameter_like_others(tmp_path):
    model = GradientBasisRefit(mlp(), memory=str(tmp_path)).fit(X, Y)
    copy = pickle.loads(pickle.dumps(model))
    assert_array_equal(copy.predict(X), model.predict(X))
    with pytest.raises(ValueError, match="'memory' parameter"):
        GradientBasisRefit(mlp(), memory=3).fit(X, Y)
