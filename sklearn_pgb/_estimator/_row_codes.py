"""Number samples, so that equal samples, or those of a group, have the same code."""

import pickle
from decimal import Decimal
from hashlib import blake2b
from itertools import pairwise
from numbers import Real
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components
from sklearn.utils import check_consistent_length, column_or_1d

from sklearn_pgb._bases._streamed import over_parts
from sklearn_pgb._models._mapped_rows import MappedRows
from sklearn_pgb._samples import is_missing
from sklearn_pgb._sklearn import _safe_indexing

COMPLEX = (
    "X must have real numbers, got complex ones. Complex data not supported; keep real "
    "and imaginary parts as two columns."
)


def row_codes(X: Any) -> NDArray[np.intp]:
    """Codes 0, 1, ... of the samples; only equal samples have the same code.

    A list is read as an array, so numbers of other columns may round large integers.
    The codes follow the order of values. They do not depend on the order or
    repetition of samples, nor on the container or dtype.
    """
    if sp.issparse(X):
        keys = _sparse_keys(X)
        return np.unique(np.array(keys, dtype=object), return_inverse=True)[1]
    if isinstance(X, MappedRows):
        digests = np.concatenate(list(over_parts(_digests, X, X.rows)))
        return np.unique(digests, return_inverse=True)[1]
    rows = np.asarray(X)
    if rows.dtype.kind == "c":
        raise ValueError(COMPLEX)
    if rows.dtype.kind in "US" and not isinstance(X, np.ndarray):
        # A list with numbers and text would become text.
        rows = np.asarray(X, dtype=object)
    dtypes = {str(dtype) for dtype in getattr(X, "dtypes", ())}
    if rows.dtype.kind in "biuf" and len(dtypes) > 1:
        # Large integers would be rounded to the numbers of other columns.
        columns = [np.asarray(_safe_indexing(X, j, axis=1)) for j in range(X.shape[1])]
    else:
        rows = rows.reshape(len(rows), -1)
        if rows.dtype.kind in "biu" or (
            rows.dtype.kind == "f" and not np.isnan(rows).any()
        ):
            return np.unique(rows, axis=0, return_inverse=True)[1].reshape(-1)
        columns = list(rows.T)
    # np.unique counts NaN as equal in 1-d arrays, but not in rows.
    codes = np.column_stack(list(map(_column_codes, columns)))
    return np.unique(codes, axis=0, return_inverse=True)[1].reshape(-1)


def _column_codes(column: NDArray[Any]) -> NDArray[np.intp]:
    """Codes of the values of a column, in their order; missing values are last."""
    if column.dtype.kind != "O":
        return np.unique(column, return_inverse=True)[1]
    keys = list(map(_key, column))
    distinct = list(set(keys))
    try:
        distinct.sort()
    except TypeError:
        # Values of one type without an order among each other.
        distinct.sort(key=lambda key: (*key[:2], str(key[2])))
    number = {key: code for code, key in enumerate(distinct)}
    return np.array([number[key] for key in keys], dtype=np.intp)


def _key(value: Any) -> tuple[bool, str, Any]:
    """A key that only equal values share: missing, type, and a value with a hash.

    Numbers have one type, as Python compares those of all types without rounding.
    """
    if isinstance(value, np.number | np.bool_):
        value = value.item()
    kind = type(value).__name__
    if is_missing(value):
        return True, kind, 0
    if isinstance(value, Real | Decimal):
        return False, "", value
    try:
        hash(value)
    except TypeError:
        value = pickle.dumps(value)
    return False, kind, value


def _sparse_keys(X: Any) -> list[bytes]:
    """Keys of sparse rows, in the order of the dense rows.

    Each nonzero value adds a pair of numbers, and a pair of zeros ends the row. At the
    first difference, a positive value is above the zero of the other row, and a
    negative one below, so the first number has the sign of the value and is larger for
    earlier columns. The second number is the rank of the value.
    """
    csr = sp.csr_array(X, copy=True)
    csr.sum_duplicates()
    csr.eliminate_zeros()
    if csr.dtype.kind == "c":
        raise ValueError(COMPLEX)
    # NaN has the last rank, as in dense rows.
    sign = np.where(csr.data < 0, -1, 1)
    rank = np.unique(csr.data, return_inverse=True)[1]
    pairs = np.zeros((len(sign) + csr.shape[0], 2), dtype=np.int64)
    stops = csr.indptr[1:] + np.arange(1, csr.shape[0] + 1)
    is_value = np.ones(len(pairs), dtype=bool)
    is_value[stops - 1] = False
    column = csr.indices.astype(np.int64)
    pairs[is_value] = np.column_stack([sign * (csr.shape[1] - column), rank])
    # Bytes are compared in order, as unsigned numbers.
    pairs[:, 0] -= np.iinfo(np.int64).min
    stored = pairs.astype(">u8")
    bounds = pairwise([0, *stops])
    return [stored[start:stop].tobytes() for start, stop in bounds]


def _digests(rows: MappedRows) -> NDArray[np.bytes_]:
    """Hash the rows of a part; hashes of 128 bits do not collide by chance."""
    # The sum turns -0.0 into 0.0.
    blocks = (rows[each] + 0 for each in rows.blocks())
    digests = [blake2b(r, digest_size=16).digest() for block in blocks for r in block]
    return np.array(digests, dtype="S16")


def join_groups(codes: NDArray[np.intp], groups: Any) -> NDArray[np.intp]:
    """Number the sets of samples that are equal or in the same group."""
    group = np.unique(column_or_1d(groups), return_inverse=True)[1]
    check_consistent_length(codes, group)
    n_rows = int(codes.max()) + 1
    size = n_rows + int(group.max()) + 1
    links = sp.coo_array(
        (np.ones(len(group)), (codes, n_rows + group)), shape=(size, size)
    )
    # Number the sets in the order of their first distinct sample, which depends on
    # neither the order nor the repetition of samples.
    component = connected_components(links, directed=False)[1][:n_rows]
    _, first, inverse = np.unique(component, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse][codes]
