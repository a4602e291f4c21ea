"""Refits of samples in memory-mapped files against the same samples in memory."""

import os
import threading
import tracemalloc
from concurrent.futures import CancelledError
from functools import partial

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from joblib import parallel_config
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.frozen import FrozenEstimator
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from sklearn_pgb import GradientBasisRefit, GradientBasisRegressor
from sklearn_pgb._bases import _streamed
from sklearn_pgb._models import _mapped_rows
from sklearn_pgb._models._mapped_rows import MappedRows

RNG = np.random.default_rng(0)
N = 700
X = RNG.standard_normal((N, 4))
Y = np.sin(X[:, 0]) + X[:, 1] * X[:, 2] + 0.1 * RNG.standard_normal(N)
# Equal rows count for the floor.
X[300:400] = X[:100]
LABELS = np.where(Y > 0, "yes", "no")
WEIGHT = RNG.integers(0, 3, N).astype(float)
SMALL = {"hidden_layer_sizes": (6,), "activation": "tanh", "max_iter": 50}
NET = MLPRegressor(**SMALL, random_state=0).fit(X[:200], Y[:200])
ATTRIBUTES = (
    "basis_coef_",
    "alpha_",
    "model_loss_",
    "refit_loss_",
    "lower_bound_",
)


@pytest.fixture
def small_blocks(monkeypatch):
    """Eleven blocks, in parts of two."""
    monkeypatch.setattr(_mapped_rows, "SAMPLE_BLOCK", 64)
    monkeypatch.setattr(_streamed, "PART_BLOCKS", 2)


def mapped(folder, array, mode="r"):
    path = folder / "X.npy"
    np.save(path, array)
    return np.load(path, mmap_mode=mode)


def refit(network=NET, alpha=1e-3, **params):
    return GradientBasisRefit(FrozenEstimator(network), alpha=alpha, **params)


def assert_same(actual, expected, tol=1e-10):
    for name in ATTRIBUTES:
        assert_allclose(
            getattr(actual, name), getattr(expected, name), tol, tol, err_msg=name
        )


# -- the same result -------------------------------------------------------------------


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"center": "average"},
        {"alpha": "loo"},
        {"alpha": "evidence"},
        {"alpha": [1e-3, 1e-2]},
        {"alpha": 0.0},
        {"solver": "dual"},
        {"parameters": "last"},
        {"alpha": "loo", "distribution": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_mapped_samples_equal_those_in_memory(params, dtype, tmp_path, small_blocks):
    array = X.astype(dtype)
    expected = refit(**params).fit(array, Y, WEIGHT)
    actual = refit(**params).fit(mapped(tmp_path, array), Y, WEIGHT)
    assert_same(actual, expected, 1e-10)
    assert actual.n_features_in_ == 4
    assert_allclose(actual.predict(X[:9]), expected.predict(X[:9]), 1e-9)


def pair_of(targets):
    """A network and its targets, for tasks other than a single regression."""
    if targets == "binary":
        return MLPClassifier(**SMALL, random_state=0).fit(X[:200], LABELS[:200]), LABELS
    y = np.column_stack([Y, X[:, 0] ** 2])
    if targets == "two outputs":
        return MLPRegressor(**SMALL, random_state=0).fit(X[:200], y[:200]), y
    scaled = make_pipeline(StandardScaler(), MLPRegressor(**SMALL, random_state=0))
    return scaled.fit(X[:200], Y[:200]), Y


@pytest.mark.parametrize("targets", ["binary", "two outputs", "pipeline"])
def test_other_networks(targets, tmp_path, small_blocks):
    network, y = pair_of(targets)
    expected = refit(network, tol=1e-12).fit(X, y)
    actual = refit(network, tol=1e-12).fit(mapped(tmp_path, X), y)
    assert_same(actual, expected, 1e-7 if targets == "binary" else 1e-10)


def make_module():
    """A module without a known structure, which can't be called by two threads."""

    # Inside of a function, so that it is sent to workers by value.
    class Waves(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.outer = torch.nn.Linear(25, 3), torch.nn.Linear(3, 1)

        def forward(self, images):
            hidden = torch.sin(self.inner(images.flatten(1)))
            return self.outer(hidden) + hidden.square().sum(1, keepdim=True)

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Waves()


@pytest.mark.parametrize(("backend", "n_jobs"), [("threading", 4), ("loky", 2)])
def test_images_of_a_module(backend, n_jobs, tmp_path, small_blocks):
    images = RNG.standard_normal((1500, 1, 5, 5))
    y = images.mean((1, 2, 3))
    model = GradientBasisRefit(make_module(), alpha=1e-2, loss="squared_error")
    expected = clone(model).fit(images, y)
    with parallel_config(backend=backend, n_jobs=n_jobs):
        actual = clone(model).fit(mapped(tmp_path, images), y)
    assert_same(actual, expected)


def test_validation_samples_choose_alpha(tmp_path, small_blocks):
    held = {"X_val": X[600:], "y_val": Y[600:]}
    expected = refit(alpha="auto").fit(X[:600], Y[:600], **held)
    rows = mapped(tmp_path, X)[:600]
    assert_same(refit(alpha="auto").fit(rows, Y[:600], **held), expected)


@pytest.mark.parametrize("mode", ["r", "r+", "c"])
def test_part_of_a_file_that_was_written_to(mode, tmp_path, small_blocks):
    whole = mapped(tmp_path, X, mode)
    if mode != "r":
        whole[250] = 1.0
    rows = whole[100:]
    expected = refit().fit(np.array(rows), Y[100:])
    assert_same(refit().fit(rows, Y[100:]), expected)


@pytest.mark.parametrize(
    "index", [slice(3, 9), slice(690, 800), [5, 2, 699], WEIGHT > 1]
)
def test_rows_are_those_of_the_array(index, tmp_path, small_blocks):
    rows = MappedRows.of(mapped(tmp_path, X))
    assert_array_equal(rows[index], X[index])
    assert_array_equal(rows.rows(index)[:2], X[index][:2])
    some = np.arange(0, N, 3)
    selected = slice(2, 7) if isinstance(index, slice) else [5, 2]
    assert_array_equal(rows.rows(some)[selected], X[some][selected])


# -- workers ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster():
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            memory_limit="1GB",
            dashboard_address="127.0.0.1:0",
        ) as cluster,
        distributed.Client(cluster),
    ):
        yield cluster


@pytest.mark.parametrize("backend", ["threading", "loky", "dask"])
def test_workers_do_not_change_a_bit(backend, tmp_path, small_blocks, request):
    rows = mapped(tmp_path, X)
    expected = refit().fit(rows, Y, WEIGHT)
    if backend == "dask":
        request.getfixturevalue("cluster")
    with parallel_config(backend=backend, n_jobs=2):
        actual = refit().fit(rows, Y, WEIGHT)
    for name in ATTRIBUTES:
        assert_array_equal(getattr(actual, name), getattr(expected, name))


def dying(folder, deaths):
    """A transformer whose first calls in another process end that process."""
    main = os.getpid()

    # Inside of a function, so that it is sent to workers by value.
    def pass_through(X):
        if os.getpid() != main:
            for number in range(deaths):
                try:
                    os.close(os.open(folder / f"{number}", os.O_CREAT | os.O_EXCL))
                except FileExistsError:
                    continue
                os._exit(1)
        return X

    return FunctionTransformer(pass_through)


@pytest.mark.parametrize("backend", ["loky", "dask"])
def test_pass_is_repeated_if_a_worker_dies(backend, tmp_path, small_blocks, request):
    if backend == "dask":
        request.getfixturevalue("cluster")
    rows = mapped(tmp_path, X)
    expected = refit(make_pipeline(FunctionTransformer(), NET)).fit(rows, Y)
    network = make_pipeline(dying(tmp_path, 1), NET)
    with parallel_config(backend=backend, n_jobs=2):
        actual = refit(network).fit(rows, Y)
    assert (tmp_path / "0").exists()
    assert_array_equal(actual.basis_coef_, expected.basis_coef_)


def test_tasks_are_sent_again_if_the_cluster_gives_up(
    monkeypatch, tmp_path, small_blocks
):
    """Dask has its own errors for workers that died and data that they held."""
    distributed = pytest.importorskip("distributed")
    errors = [distributed.scheduler.CommClosedError("lost"), CancelledError()]

    class Unreliable(_streamed.Parallel):
        def __call__(self, tasks):
            results = super().__call__(tasks)
            if errors:
                raise errors.pop()
            return results

    rows = mapped(tmp_path, X)
    expected = refit().fit(rows, Y)
    monkeypatch.setattr(_streamed, "Parallel", Unreliable)
    assert_array_equal(refit().fit(rows, Y).basis_coef_, expected.basis_coef_)
    assert not errors


@pytest.mark.slow
def test_workers_that_always_die_are_reported(tmp_path, small_blocks):
    network = make_pipeline(dying(tmp_path, 100), NET)
    with (
        parallel_config(backend="loky", n_jobs=2),
        pytest.raises(RuntimeError, match=r"Workers must live .* 3 attempts ended by"),
    ):
        refit(network).fit(mapped(tmp_path, X), Y)


# -- memory ----------------------------------------------------------------------------


def traced_peak(function, argument):
    """Largest memory that a call takes, in bytes."""
    tracemalloc.start()
    try:
        function(argument)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_samples_are_not_copied(tmp_path):
    """Of 205 MB, only blocks of 13 MB in float64 are in memory."""
    array = np.zeros((128_000, 200), dtype=np.float64)
    array[:, :4] = RNG.standard_normal((len(array), 4))
    network = MLPRegressor(**SMALL | {"hidden_layer_sizes": (2,)}, random_state=0)
    network.fit(array[:200], array[:200, 0])
    rows, y = mapped(tmp_path, array), array[:, 0].copy()
    del array
    model = refit(network, parameters="last")
    peak = traced_peak(lambda X: model.fit(X, y), rows)
    # Blocks in some copies, hashes of rows as objects, and vectors of all samples.
    assert peak < 60e6 < rows.nbytes


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_predictions_do_not_copy_samples(dtype, tmp_path):
    """Of a file of 102 MB or more, in blocks of 13 MB in float64."""
    array = np.zeros((128_000, 200), dtype=dtype)
    array[:, :4] = RNG.standard_normal((len(array), 4))
    few = array[:200].astype(float)
    rows = mapped(tmp_path, array)
    del array
    network = MLPRegressor(**SMALL | {"hidden_layer_sizes": (2,)}, random_state=0)
    trees = HistGradientBoostingRegressor(max_iter=3, max_leaf_nodes=4)
    for model in (
        refit(network.fit(few, few[:, 0]), parameters="last"),
        GradientBasisRefit(trees, cv=2),
        GradientBasisRegressor("drop", trees, forest="drop", cv=2, distribution=True),
    ):
        model.fit(few, few[:, 0])
        assert traced_peak(model.predict, rows) < 60e6 < rows.nbytes
    noise = refit(network, parameters="last", distribution=True).fit(few, few[:, 0])
    assert isinstance(model, GradientBasisRegressor)
    for method in (
        noise.transform,
        partial(noise.predict, return_std=True),
        model.predict_interval,
        partial(model.predict_interval, method="cv+"),
    ):
        assert traced_peak(method, rows) < 90e6


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_predictions_of_mapped_samples(dtype, tmp_path, small_blocks):
    """They equal those of samples in memory; a broken block is found."""
    array = X.astype(dtype)
    rows = mapped(tmp_path, array)
    network = MLPClassifier(**SMALL, random_state=0).fit(X[:200], LABELS[:200])
    tables = GradientBasisRegressor("drop", forest="drop", cv=2, random_state=0)
    classifier, regressor = refit(network).fit(X, LABELS), refit().fit(X, Y)
    for method in (
        classifier.predict_proba,
        classifier.decision_function,
        regressor.predict,
        tables.fit(X, Y).predict,
    ):
        assert_allclose(method(rows), method(array), rtol=1e-12, atol=1e-12)
    noise = refit(distribution=True).fit(X, Y, X_val=X[:99], y_val=Y[:99])
    predicted = noise.predict(rows, return_std=True)
    assert_allclose(predicted, noise.predict(array, return_std=True), rtol=1e-10)
    options = {"trees": "drop", "forest": "drop", "cv": 2, "distribution": True}
    adapted = GradientBasisRegressor(NET, random_state=0, **options).fit(X, Y)
    for method in (
        noise.predict_interval,
        adapted.predict_interval,
        partial(adapted.predict_interval, method="cv+"),
    ):
        intervals = [method(each, coverage=0.5) for each in (rows, array)]
        assert_allclose(*intervals, rtol=1e-10)
    array[650, 2] = np.inf
    for method in (regressor.predict, tables.predict):
        with pytest.raises(ValueError, match="contains infinity"):
            method(mapped(tmp_path, array))


@pytest.mark.parametrize("n_components", [None, 5])
@pytest.mark.parametrize(
    "kind",
    [
        refit,
        partial(GradientBasisRefit, HistGradientBoostingRegressor(max_iter=3), cv=2),
    ],
    ids=["network", "trees"],
)
def test_features_of_mapped_samples(kind, n_components, tmp_path, small_blocks):
    """Each block has the columns that all samples have, and the same sketch."""
    features = kind(n_components=n_components, random_state=0).fit(X, Y)
    pair = features.transform(X), features.transform(mapped(tmp_path, X))
    assert type(pair[0]) is type(pair[1])
    dense = [each.toarray() if sp.issparse(each) else each for each in pair]
    assert_allclose(*dense, rtol=1e-10, atol=1e-12)


def test_max_memory_names_the_least(tmp_path, small_blocks):
    rows = mapped(tmp_path, X)
    match = r"max_memory must be at least (.*) for a basis of 36 coefficients on 700 "
    with pytest.raises(ValueError, match=match) as error:
        refit(max_memory="1KB").fit(rows, Y)
    least = str(error.value).split("at least ")[1].split(" for")[0]
    refit(max_memory=least).fit(rows, Y)


# -- files that can't be used ----------------------------------------------------------


def test_missing_values_are_found_in_any_block(tmp_path, small_blocks):
    broken = X.copy()
    broken[650, 2] = np.nan
    with pytest.raises(ValueError, match="contains NaN"):
        refit().fit(mapped(tmp_path, broken), Y)


def test_wrong_number_of_columns_or_targets(tmp_path, small_blocks):
    with pytest.raises(ValueError, match="4 features"):
        refit().fit(mapped(tmp_path, X[:, :3]), Y)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        refit().fit(mapped(tmp_path, X), Y[1:])
    with pytest.raises(ValueError, match="requires y to be passed"):
        refit().fit(mapped(tmp_path, X), None)


def meddling(change):
    """A transformer that changes the file at its twentieth call."""
    calls = []

    def pass_through(X):
        calls.append(1)
        if len(calls) == 20:
            change()
        return X

    return make_pipeline(FunctionTransformer(pass_through), NET)


@pytest.mark.skipif(os.name == "nt", reason="a mapped file is locked")
def test_file_that_changes_between_passes(tmp_path, small_blocks):
    path = tmp_path / "X.npy"
    rows = mapped(tmp_path, X)
    for change in (lambda: os.utime(path, (1, 1)), lambda: os.truncate(path, 1000)):
        with pytest.raises(ValueError, match="X must not change while it is used, but"):
            refit(meddling(change)).fit(rows, Y)
        rows = mapped(tmp_path, X)


@pytest.mark.skipif(os.name == "nt", reason="a mapped file is locked")
def test_file_that_disappears(tmp_path, small_blocks):
    rows = mapped(tmp_path, X)
    match = r"X must be readable where it is used, but \d+ rows from byte .* worker"
    with pytest.raises(OSError, match=match):
        refit(meddling((tmp_path / "X.npy").unlink)).fit(rows, Y)


def test_block_that_ends_early(tmp_path, small_blocks):
    """A file is too short from the start, so its stamp does not change."""
    rows = MappedRows.of(mapped(tmp_path, X))
    longer = MappedRows(**vars(rows) | {"shape": (N + 100, 4)})
    with pytest.raises(OSError, match="the file ends after 0 of 200 numbers"):
        longer[N : N + 50]


# -- larger than memory ----------------------------------------------------------------


class Peak(threading.Thread):
    """Largest growth of this process' memory in a block, in bytes."""

    def __enter__(self):
        psutil = pytest.importorskip("psutil")
        self.process, self.done, self.value = psutil.Process(), threading.Event(), 0
        self.start_value = self.process.memory_full_info().uss
        self.start()
        return self

    def run(self):
        while not self.done.wait(0.05):
            found = self.process.memory_full_info()
            self.value = max(self.value, found.uss - self.start_value)

    def __exit__(self, *error):
        self.done.set()
        self.join()


def write(path, n_rows, n_columns):
    """Write a file of normal numbers block by block; return the targets."""
    y, rng = [], np.random.default_rng(0)
    out = np.lib.format.open_memmap(path, "w+", np.float64, (n_rows, n_columns))
    for start in range(0, n_rows, 100_000):
        part = rng.standard_normal((min(100_000, n_rows - start), n_columns))
        out[start : start + len(part)] = part
        y.append(np.sin(part[:, 0]) + part[:, 1] * part[:, 2])
    out.flush()
    return np.concatenate(y)


@pytest.mark.slow
def test_file_larger_than_the_workers_memory(tmp_path, cluster):
    """Two workers of 1 GB each refit on a file of 3 GB, as two threads do."""
    path, n_columns = tmp_path / "X.npy", 250
    y = write(path, 1_500_000, n_columns)
    assert path.stat().st_size >= 3e9
    rows = np.load(path, mmap_mode="r")
    some = np.array(rows[:5_000])
    network = MLPRegressor(**SMALL, random_state=0).fit(some, y[:5_000])
    params = {"parameters": "last", "max_memory": "500MB"}
    with parallel_config(backend="dask"):
        on_cluster = refit(network, **params).fit(rows, y)
    with Peak() as peak:
        alone = refit(network, **params, n_jobs=2).fit(rows, y)
    print(f"{peak.value / 1e9:.2f} GB")
    assert_array_equal(on_cluster.basis_coef_, alone.basis_coef_)
    assert peak.value < 2e9
