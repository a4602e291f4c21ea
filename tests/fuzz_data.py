"""Data, modules and models for the calls of the fuzz.

`inputs(kind, n, p)`, `targets(kind, n)`, `labels(kind, n)` and `weights(kind, n)` make
the same arrays whenever they are called, so that a printed call can be repeated.
"""
# ruff: noqa: F401

import copy
import pickle
import tempfile
import warnings
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestRegressor, VotingRegressor
from sklearn.feature_selection import VarianceThreshold
from sklearn.frozen import FrozenEstimator
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    KFold,
    LeaveOneOut,
    ShuffleSplit,
)
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    MaxAbsScaler,
    MinMaxScaler,
    PolynomialFeatures,
    SplineTransformer,
    StandardScaler,
)
from torch import nn

from sklearn_pgb import *  # noqa: F403

try:
    import polars
except ModuleNotFoundError:
    polars = None

nan, inf = np.nan, np.inf
NA = pd.NA

# --- inputs ---------------------------------------------------------------------------


def normal(n, p, seed=0):
    """Standard normal inputs."""
    return np.random.default_rng(seed).normal(size=(n, p))


def _with(X, value):
    """X with one entry replaced."""
    X = X.copy()
    X.flat[X.size // 2] = value
    return X


def _mapped(X):
    """X as a read-only memory map of a file that is removed with the process."""
    file = tempfile.NamedTemporaryFile(suffix=".npy", delete=False)
    np.save(file.name, X)
    array = np.load(file.name, mmap_mode="r")
    Path(file.name).unlink()
    return array


def _read_only(X):
    X = X.copy()
    X.flags.writeable = False
    return X


def _frame(X, dtype="float64"):
    columns = [f"x{j}" for j in range(X.shape[1])]
    return pd.DataFrame(X, columns=columns).astype(dtype)


def _mixed_frame(X):
    frame = _frame(X)
    frame["city"] = np.resize(["Bern", "Rome", "Oslo"], len(frame))
    return frame


def _missing_frame(X):
    frame = _frame(X, "Float64")
    frame.iloc[len(frame) // 2, 0] = NA
    return frame


VALID_INPUTS = {
    "normal": lambda X: X,
    "float32": lambda X: X.astype(np.float32),
    "float16": lambda X: X.astype(np.float16),
    "int8": lambda X: (3 * X).round().astype(np.int8),
    "int64": lambda X: (3 * X).round().astype(np.int64),
    "uint8": lambda X: np.abs(9 * X).round().astype(np.uint8),
    "bool": lambda X: X > 0,
    "longdouble": lambda X: X.astype(np.longdouble),
    "big-endian": lambda X: X.astype(">f8"),
    "fortran": np.asfortranarray,
    "strided": lambda X: np.repeat(X, 2, axis=0)[::2],
    "reversed": lambda X: X[::-1, ::-1],
    "read-only": _read_only,
    "memory map": _mapped,
    "list": lambda X: X.tolist(),
    "objects": lambda X: X.astype(object),
    "tensor": torch.as_tensor,
    "frame": _frame,
    "frame Float64": lambda X: _frame(X, "Float64"),
    "frame Int64": lambda X: _frame((3 * X).round(), "Int64"),
    "frame boolean": lambda X: _frame(X > 0, "boolean"),
    "frame category": lambda X: _frame((3 * X).round(), "category"),
    "duplicates": lambda X: np.resize(X[: max(1, len(X) // 3)], X.shape),
    "constant column": lambda X: np.c_[X[:, 1:], np.full(len(X), 3.5)],
    "collinear": lambda X: np.c_[X[:, 1:], X[:, 1:].sum(axis=1) * 2],
    "offset": lambda X: X + 1e6,
    "timestamps": lambda X: np.c_[1.7e9 + 1e6 * X[:, :1], X[:, 1:]],
    "scales": lambda X: X * np.logspace(-6, 6, X.shape[1]),
}
VALID_INPUTS |= {
    f"{container.__name__}": lambda X, container=container: container(X * (X > 0))
    for container in (
        *(sp.csr_array, sp.csc_array, sp.coo_array, sp.lil_array, sp.dok_array),
        *(sp.dia_array, sp.bsr_array, sp.csr_matrix, sp.csc_matrix, sp.coo_matrix),
        *(sp.lil_matrix, sp.dok_matrix, sp.dia_matrix, sp.bsr_matrix),
    )
}
if polars is not None:
    VALID_INPUTS["polars"] = lambda X: polars.DataFrame(
        {f"x{j}": X[:, j] for j in range(X.shape[1])}
    )

# Accepted or refused, but never with silent nonsense.
ODD_INPUTS = {
    "constant": np.ones_like,
    "zero": np.zeros_like,
    "huge": lambda X: X * 1e160,
    "largest": lambda X: np.sign(X) * 1.7e308,
    "tiny": lambda X: X * 1e-160,
    "denormal": lambda X: X * 1e-310,
    "outlier": lambda X: _with(X, 1e30),
    "float32 huge": lambda X: (X * 1e30).astype(np.float32),
    "far": lambda X: X + 1e16,
    "matrix": lambda X: np.asmatrix(X),
    "masked": lambda X: np.ma.masked_array(X, mask=X > 1),
    "sparse 64-bit indices": lambda X: _long_indices(sp.csr_matrix(X)),
    "sparse explicit zeros": lambda X: _explicit_zeros(sp.csr_matrix(X)),
    "sparse duplicate entries": lambda X: sp.coo_matrix(
        (np.r_[X.ravel(), X.ravel()], np.tile(np.indices(X.shape).reshape(2, -1), 2)),
        shape=X.shape,
    ),
    "number strings": lambda X: X.astype(str),
    "frame duplicate names": lambda X: pd.DataFrame(X, columns=["x"] * X.shape[1]),
    "frame mixed names": lambda X: pd.DataFrame(
        X, columns=[0, *(f"x{j}" for j in range(1, X.shape[1]))]
    ),
    "frame index": lambda X: _frame(X).set_index(np.zeros(len(X), dtype=int)),
    "frame mixed": _mixed_frame,
    "datetime": lambda X: (1e9 * X).astype("datetime64[s]"),
    "images": lambda X: X.reshape(*X.shape, 1),
    "one feature": lambda X: X[:, :1],
    "many features": lambda X: np.tile(X, 40),
}
BAD_INPUTS = {
    "nan": lambda X: _with(X, nan),
    "inf": lambda X: _with(X, inf),
    "float32 inf": lambda X: _with(X, -inf).astype(np.float32),
    "sparse nan": lambda X: sp.csr_matrix(_with(X, nan)),
    "objects None": lambda X: _with(X.astype(object), None),
    "frame NA": _missing_frame,
    "vector": lambda X: X[:, 0],
    "scalar": lambda X: 3.0,
    "no samples": lambda X: X[:0],
    "no features": lambda X: X[:, :0],
    "strings": lambda X: np.full(X.shape, "a"),
    "None": lambda X: None,
    "a string": lambda X: "abc",
    "dict": lambda X: {"a": X},
    "complex": lambda X: X + 1j,
    "ragged": lambda X: [[1.0, 2.0], [3.0]],
    "generator": lambda X: (row for row in X),
    "objects": lambda X: [[object()] * X.shape[1]] * len(X),
    "function": lambda X: np.mean,
    "bytes": lambda X: np.full(X.shape, b"a"),
    "structured": lambda X: np.zeros(len(X), dtype=[("a", float), ("b", float)]),
}


def _long_indices(X):
    X.indices, X.indptr = X.indices.astype(np.int64), X.indptr.astype(np.int64)
    return X


def _explicit_zeros(X):
    X.data[::2] = 0.0
    return X


def inputs(kind, n=20, p=3, seed=0):
    """Inputs of one kind."""
    makers = {**VALID_INPUTS, **ODD_INPUTS}
    if kind.startswith("bad "):
        makers, kind = BAD_INPUTS, kind.removeprefix("bad ")
    return makers[kind](normal(n, p, seed))


# --- targets, labels, weights ---------------------------------------------------------


def _smooth(n, seed=0):
    """Real targets of the inputs of the same seed."""
    rng = np.random.default_rng(seed + 1)
    return np.sin(2 * normal(n, 3, seed)[:, 0]) + 0.1 * rng.normal(size=n)


VALID_TARGETS = {
    "real": lambda y: y,
    "float32": lambda y: y.astype(np.float32),
    "integers": lambda y: (5 * y).round().astype(int),
    "list": lambda y: y.tolist(),
    "series": pd.Series,
    "series Float64": lambda y: pd.Series(y, dtype="Float64"),
    "two outputs": lambda y: np.c_[y, y**2],
    "frame": lambda y: pd.DataFrame({"a": y, "b": -y}),
    "read-only": _read_only,
    "offset": lambda y: y + 1e6,
    "small": lambda y: y * 1e-6,
}
COUNTS = {
    "counts": lambda y: np.round(np.exp(y)),
    "counts float32": lambda y: np.round(np.exp(y)).astype(np.float32),
    "large counts": lambda y: np.round(1e4 * np.exp(y)),
    "two counts": lambda y: np.round(np.exp(np.c_[y, -y])),
    "no events": np.zeros_like,
}
ODD_TARGETS = {
    "column": lambda y: y[:, None],
    "constant": np.ones_like,
    "zero": np.zeros_like,
    "huge": lambda y: y * 1e160,
    "largest": lambda y: np.sign(y) * 1.7e308,
    "tiny": lambda y: y * 1e-160,
    "denormal": lambda y: y * 1e-310,
    "outlier": lambda y: _with(y, 1e30),
    "far": lambda y: y + 1e16,
    "one constant output": lambda y: np.c_[y, np.ones(len(y))],
    "bool": lambda y: y > 0,
    "objects": lambda y: y.astype(object),
    "polars": lambda y: y if polars is None else polars.Series(y),
    "tensor": torch.as_tensor,
    "number strings": lambda y: y.astype(str),
    "masked": lambda y: np.ma.masked_array(y, mask=y > 0.5),
}
BAD_TARGETS = {
    "nan": lambda y: _with(y, nan),
    "inf": lambda y: _with(y, inf),
    "too short": lambda y: y[:-1],
    "too long": lambda y: np.r_[y, 1.0],
    "strings": lambda y: np.full(len(y), "a"),
    "three axes": lambda y: y[:, None, None],
    "no outputs": lambda y: np.empty((len(y), 0)),
    "scalar": lambda y: 3.0,
    "complex": lambda y: y + 1j,
    "None": lambda y: None,
    "series NA": lambda y: pd.Series(y, dtype="Float64").where(y < y.max()),
    "sparse": lambda y: sp.csr_matrix(y[:, None]),
    "dict": lambda y: {"y": y},
    "ragged": lambda y: [[1.0], [1.0, 2.0]],
    "datetime": lambda y: (1e9 * y).astype("datetime64[s]"),
    "objects": lambda y: [object()] * len(y),
}


def targets(kind, n=20, seed=0):
    """Real targets or counts of one kind."""
    makers = {**VALID_TARGETS, **COUNTS, **ODD_TARGETS}
    if kind.startswith("bad "):
        makers, kind = BAD_TARGETS, kind.removeprefix("bad ")
    return makers[kind](_smooth(n, seed))


def _thirds(y):
    """Three classes."""
    return np.digitize(y, [-0.5, 0.5])


VALID_LABELS = {
    "two": lambda y: (y > 0).astype(int),
    "three": _thirds,
    "strings": lambda y: np.array(["low", "mid", "top"])[_thirds(y)],
    "objects": lambda y: np.array(["low", "mid", "top"], dtype=object)[_thirds(y)],
    "bool": lambda y: y > 0,
    "floats": lambda y: np.where(y > 0, 1.0, -1.0),
    "negative": lambda y: _thirds(y) - 5,
    "gaps": lambda y: 1000 * _thirds(y),
    "series": lambda y: pd.Series(_thirds(y)),
    "series Int64": lambda y: pd.Series(_thirds(y), dtype="Int64"),
    "series boolean": lambda y: pd.Series(y > 0, dtype="boolean"),
    "series string": lambda y: pd.Series(
        np.array(["low", "mid", "top"])[_thirds(y)], dtype="string"
    ),
    "series category": lambda y: pd.Series(_thirds(y), dtype="category"),
    "list": lambda y: _thirds(y).tolist(),
    "singleton": lambda y: np.r_[2, (y[1:] > 0).astype(int)],
    "int8": lambda y: _thirds(y).astype(np.int8),
}
ODD_LABELS = {
    "one class": lambda y: np.zeros(len(y), dtype=int),
    "one string": lambda y: np.full(len(y), "a"),
    "all different": lambda y: np.arange(len(y)),
    "column": lambda y: _thirds(y)[:, None],
    "multilabel": lambda y: np.c_[y > 0, y < 0.5].astype(int),
    "huge": lambda y: _thirds(y) * 2**60,
    "bytes": lambda y: np.array([b"low", b"mid", b"top"])[_thirds(y)],
    "polars": lambda y: _thirds(y) if polars is None else polars.Series(_thirds(y)),
    "datetime": lambda y: _thirds(y).astype("datetime64[D]"),
    "unused category": lambda y: pd.Series(
        pd.Categorical(_thirds(y), categories=[0, 1, 2, 3])
    ),
    "empty string": lambda y: np.array(["", "a"])[(y > 0).astype(int)],
}
BAD_LABELS = {
    "mixed types": lambda y: [1, "a"] * (len(y) // 2) + [1] * (len(y) % 2),
    "mixed objects": lambda y: np.array([None, "a"], dtype=object)[(y > 0).astype(int)],
    "tuples": lambda y: [(1, 2), (3,)] * (len(y) // 2) + [(1, 2)] * (len(y) % 2),
    "real": lambda y: y,
    "nan": lambda y: np.where(y > 0, 1.0, nan),
    "inf": lambda y: np.where(y > 0, 1.0, inf),
    "series NA": lambda y: pd.Series(_thirds(y), dtype="Int64").where(y < y.max()),
    "too short": lambda y: _thirds(y)[:-1],
    "multioutput": lambda y: np.c_[_thirds(y), _thirds(-y)],
    "three axes": lambda y: _thirds(y)[:, None, None],
    "None": lambda y: None,
    "scalar": lambda y: 1,
    "complex": lambda y: _thirds(y) + 1j,
    "dict": lambda y: {"y": y},
    "objects": lambda y: [object() for _ in y],
    "sparse": lambda y: sp.csr_matrix(_thirds(y)[:, None]),
}


def distinct(y):
    """Distinct labels, sorted if they can be."""
    try:
        return np.unique(y)
    except (TypeError, ValueError):
        return list(y)


def labels(kind, n=20, seed=0):
    """Labels of one kind."""
    makers = {**VALID_LABELS, **ODD_LABELS}
    if kind.startswith("bad "):
        makers, kind = BAD_LABELS, kind.removeprefix("bad ")
    return makers[kind](_smooth(n, seed))


VALID_WEIGHTS = {
    "ones": lambda w: np.ones_like(w),
    "positive": lambda w: w,
    "integers": lambda w: np.ceil(3 * w).astype(int),
    "list": lambda w: w.tolist(),
    "series": pd.Series,
    "some zero": lambda w: np.where(w < 0.3, 0.0, w),
    "float32": lambda w: w.astype(np.float32),
    "scaled": lambda w: 1e6 * w,
}
ODD_WEIGHTS = {
    "one sample": lambda w: np.r_[1.0, np.zeros(len(w) - 1)],
    "huge": lambda w: 1e300 * w,
    "tiny": lambda w: 1e-300 * w,
    "range": lambda w: np.logspace(-12, 12, len(w)),
    "dominant": lambda w: _with(w, 1e20),
    "bool": lambda w: w > 0.3,
    "number": lambda w: 2.0,
    "zero on the low ones": lambda w: (_smooth(len(w)) > -0.5).astype(float),
    "column": lambda w: w[:, None],
    "number strings": lambda w: w.astype(str),
}
BAD_WEIGHTS = {
    "zero": np.zeros_like,
    "negative": lambda w: w - 0.5,
    "nan": lambda w: _with(w, nan),
    "inf": lambda w: _with(w, inf),
    "too short": lambda w: w[:-1],
    "two columns": lambda w: np.c_[w, w],
    "strings": lambda w: np.full(len(w), "a"),
    "complex": lambda w: w + 1j,
    "objects": lambda w: np.array([None] * len(w)),
    "a string": lambda w: "balanced",
    "dict": lambda w: {0: 1.0},
}


def weights(kind, n=20, seed=0):
    """Sample weights of one kind."""
    makers = {**VALID_WEIGHTS, **ODD_WEIGHTS}
    if kind.startswith("bad "):
        makers, kind = BAD_WEIGHTS, kind.removeprefix("bad ")
    return makers[kind](np.random.default_rng(seed + 2).uniform(0.1, 1.0, size=n))


# --- modules --------------------------------------------------------------------------


class Module(nn.Module):
    """A module whose forward is one function of its layers and the inputs."""

    def __init__(self, forward, **layers):
        super().__init__()
        self.function = forward
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        """Call the function."""
        return self.function(self, x)


def _refuse(m, x):
    raise RuntimeError("this module raises")


def _draw(m, x):
    return m.a(x) + torch.randn(len(x), 1, dtype=x.dtype)


def _count(m, x):
    m.n_calls.add_(1)
    return m.a(x)


def _rows(m, x):
    """Attention between the features of a sample."""
    tokens = m.a(x[:, :, None])
    return m.b(m.attention(tokens, tokens, tokens, need_weights=False)[0].mean(1))


def module(kind, p=3, k=1):
    """A module from p inputs to k outputs, with seeded parameters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return MODULES[kind](p, k)


def _chain(*layers):
    return nn.Sequential(*layers)


MODULES = {
    "chain": lambda p, k: _chain(nn.Linear(p, 4), nn.Tanh(), nn.Linear(4, k)),
    "linear": nn.Linear,
    "double": lambda p, k: _chain(nn.Linear(p, 4), nn.ReLU(), nn.Linear(4, k)).double(),
    "half": lambda p, k: nn.Linear(p, k).half(),
    "bfloat16": lambda p, k: nn.Linear(p, k).bfloat16(),
    "complex": lambda p, k: nn.Linear(p, k).to(torch.complex64),
    "in place": lambda p, k: _chain(nn.ReLU(inplace=True), nn.Linear(p, k)),
    "in place forward": lambda p, k: Module(
        lambda m, x: m.a(x.mul_(2.0)), a=nn.Linear(p, k)
    ),
    "dropout": lambda p, k: _chain(nn.Linear(p, 4), nn.Dropout(), nn.Linear(4, k)),
    "batch norm": lambda p, k: _chain(
        nn.Linear(p, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, k)
    ),
    "layer norm": lambda p, k: _chain(nn.LayerNorm(p), nn.Linear(p, k)),
    "prelu": lambda p, k: _chain(nn.Linear(p, 4), nn.PReLU(), nn.Linear(4, k)),
    "shared": lambda p, k: (
        lambda shared: _chain(
            nn.Linear(p, 4), shared, nn.Tanh(), shared, nn.Tanh(), nn.Linear(4, k)
        )
    )(nn.Linear(4, 4)),
    "convolution": lambda p, k: _chain(
        nn.Unflatten(1, (1, p)), nn.Conv1d(1, 2, 2), nn.Flatten(), nn.LazyLinear(k)
    ),
    "gru": lambda p, k: Module(
        lambda m, x: m.b(m.a(x[:, :, None])[0][:, -1]),
        a=nn.GRU(1, 3, batch_first=True),
        b=nn.Linear(3, k),
    ),
    "lstm": lambda p, k: Module(
        lambda m, x: m.b(m.a(x[:, :, None])[0][:, -1]),
        a=nn.LSTM(1, 3, batch_first=True),
        b=nn.Linear(3, k),
    ),
    "attention": lambda p, k: Module(
        _rows,
        a=nn.Linear(1, 4),
        attention=nn.MultiheadAttention(4, 2, batch_first=True),
        b=nn.Linear(4, k),
    ),
    "frozen": lambda p, k: nn.Linear(p, k).requires_grad_(False),
    "half frozen": lambda p, k: _chain(
        nn.Linear(p, 4).requires_grad_(False), nn.Tanh(), nn.Linear(4, k)
    ),
    "no parameters": lambda p, k: Module(lambda m, x: x[:, :k]),
    "flat output": lambda p, k: _chain(nn.Linear(p, 1), nn.Flatten(0)),
    "more outputs": lambda p, k: nn.Linear(p, k + 3),
    "tuple": lambda p, k: Module(lambda m, x: (m.a(x), x), a=nn.Linear(p, k)),
    "three axes": lambda p, k: Module(
        lambda m, x: m.a(x)[..., None], a=nn.Linear(p, k)
    ),
    "wrong width": lambda p, k: nn.Linear(p + 2, k),
    "mixes samples": lambda p, k: Module(
        lambda m, x: m.a(x - x.mean(0)), a=nn.Linear(p, k)
    ),
    "sorts samples": lambda p, k: Module(
        lambda m, x: m.a(x.sort(0).values), a=nn.Linear(p, k)
    ),
    "nan": lambda p, k: Module(lambda m, x: m.a(x).log(), a=nn.Linear(p, k)),
    "explodes": lambda p, k: Module(
        lambda m, x: (9 * m.a(x)).exp().exp(), a=nn.Linear(p, k)
    ),
    "raises": lambda p, k: Module(_refuse, a=nn.Linear(p, k)),
    "random": lambda p, k: Module(_draw, a=nn.Linear(p, k)),
    "detached": lambda p, k: Module(lambda m, x: m.a(x).detach(), a=nn.Linear(p, k)),
    "numpy": lambda p, k: Module(
        lambda m, x: torch.as_tensor(m.a(x).detach().numpy()), a=nn.Linear(p, k)
    ),
    "branches": lambda p, k: Module(
        lambda m, x: m.a(x) if x.sum() > 0 else -m.a(x), a=nn.Linear(p, k)
    ),
    "counts calls": lambda p, k: _counter(Module(_count, a=nn.Linear(p, k))),
    "lazy": lambda p, k: nn.LazyLinear(k),
    "embedding": lambda p, k: nn.Embedding(9, k),
    "scripted": lambda p, k: torch.jit.script(
        _chain(nn.Linear(p, 4), nn.Tanh(), nn.Linear(4, k))
    ),
    "unused parameter": lambda p, k: Module(
        lambda m, x: m.a(x), a=nn.Linear(p, k), b=nn.Linear(p, k)
    ),
    "integer parameter": lambda p, k: _integers(nn.Linear(p, k)),
    "hook": lambda p, k: _hooked(nn.Linear(p, k)),
}


def _counter(result):
    result.register_buffer("n_calls", torch.zeros(()))
    return result


def _integers(result):
    result.levels = nn.Parameter(torch.arange(3), requires_grad=False)
    return result


def _hooked(result):
    result.register_forward_hook(lambda m, args, output: 2 * output)
    return result
