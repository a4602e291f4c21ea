"""The files of the benchmark data: reading them, and digests of their contents."""

import gzip
import hashlib
from pathlib import Path

import numpy as np

# Name, size, task, sha256 of the file of the published results, digest of its contents.
DATA_SETS = Path(__file__).with_name("data_sets.csv")


def read(path):
    """Read one data set from an .npz file.

    Returns
    -------
    dict
        X : float array of shape (n_samples, n_features), float32 if that loses nothing.
        y : float64 targets, or int64 codes 0, 1, ... of classes.
        task : "regression", "binary" or "multiclass".
        splits : list of (train, test) index arrays.
        tune : (train, validation) index arrays for the choice of parameters, or None.
        categorical : list of the columns that hold codes of categories.
        feature_names, classes : list of str, or None.
        target_name : str, or None.
    """
    with np.load(path, allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files}
    X, task = arrays["X"], str(arrays["task"])
    is_narrow = X.dtype in (np.uint8, np.int16, np.float32)
    data = {
        "X": np.ascontiguousarray(X, dtype=np.float32 if is_narrow else np.float64),
        "y": arrays["y"].astype(np.float64 if task == "regression" else np.int64),
        "task": task,
        "splits": [_sides(marks) for marks in arrays["splits"]],
        "tune": _sides(arrays["tune"]) if "tune" in arrays else None,
        "categorical": arrays["categorical"].tolist()
        if "categorical" in arrays
        else [],
    }
    for key in ("feature_names", "classes", "target_name"):
        data[key] = arrays[key].tolist() if key in arrays else None
    return data


def _sides(marks):
    """Indices of the samples that are marked 0, and of those that are marked 1."""
    return np.flatnonzero(marks == 0), np.flatnonzero(marks == 1)


def digest(data):
    """Sha256 of what `read` returns.

    Unlike that of the file, it does not depend on the library that compressed it.
    """
    found = hashlib.sha256()
    for key in sorted(data):
        pairs = data[key] if key == "splits" else [data[key]]
        for value in pairs:
            sides = value if isinstance(value, tuple) else (value,)
            for side in sides:
                is_array = isinstance(side, np.ndarray)
                found.update(side.tobytes() if is_array else repr(side).encode())
    return found.hexdigest()


def digest_of_table(path):
    """Sha256 of the text of a compressed table."""
    return hashlib.sha256(gzip.decompress(path.read_bytes())).hexdigest()
