"""Inputs of the network of a ResNet basis: checks, choice and standardization."""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.utils import check_array

from sklearn_pgb._budget import CONSTANT_RTOL, LARGEST_VALUE, SMALLEST_FEATURE
from sklearn_pgb._estimator._border import check_has_features, dense
from sklearn_pgb._models._protected import guard_for
from sklearn_pgb._sklearn import _fit_transform_one


@dataclass(frozen=True, eq=False)
class InputScale:
    """Standardization of the inputs of the units, and their training range.

    Inputs are centered at `mean` and divided by `spread`, but not those of a user's
    module. Constant inputs are set to zero. Beyond the training range from `lower` to
    `upper`, inputs are squashed with the scale `width`, which is the standard
    deviation.
    """

    mean: Any
    spread: Any
    constant: Any
    lower: Any
    upper: Any
    width: Any

    @classmethod
    def of(
        cls, inputs: NDArray[np.float64], weight: NDArray[np.float64], is_chain: bool
    ) -> "InputScale":
        """Compute the scale of samples with normalized weights.

        All positions of images and sequences have one common range.
        """
        rows = inputs
        if inputs.ndim > 2:
            rows = inputs.reshape(-1, 1)
            n_positions = len(rows) // len(weight)
            weight = np.repeat(weight / n_positions, n_positions)
        mean = weight @ rows
        largest = np.abs(rows - mean).max(0)
        size = np.abs(rows).max(0)
        constant = (largest <= CONSTANT_RTOL * size) | (size < SMALLEST_FEATURE)
        # Divided by the largest deviation, so that no square overflows.
        divisor = np.where(constant, 1.0, largest)
        spread = divisor * np.sqrt(weight @ np.square((rows - mean) / divisor))
        spread = np.where(constant, 1.0, spread)
        lower, upper = rows.min(0), rows.max(0)
        if is_chain:
            return cls(mean, spread, constant, lower, upper, spread)
        return cls(0.0, 1.0, False, lower, upper, spread)

    def standardized(self, inputs: NDArray[np.float64]) -> NDArray[np.float64]:
        """Standardize inputs for the training of the units."""
        result: NDArray[np.float64] = (inputs - self.mean) / self.spread
        return np.where(self.constant, 0.0, result)

    def fold(
        self, coefs: NDArray[np.float64], intercepts: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Convert the first layer of a chain to unstandardized inputs."""
        inverse = 1 / np.where(self.constant, np.inf, self.spread)
        first = inverse[:, None] * coefs
        return first, intercepts - self.mean @ first


def column_centers(
    rows: NDArray[np.float64], weight: NDArray[np.float64], intercept: bool
) -> NDArray[np.float64]:
    """Return an entry of each column, the nearest to its mean by normalized weights.

    Differences to it are exact for whole numbers, and zero for constant columns. The
    result is zero if there is no intercept.
    """
    if not intercept:
        return np.zeros(rows.shape[1])
    nearest = np.abs(rows - weight @ rows).argmin(0)
    centers: NDArray[np.float64] = np.take_along_axis(rows, nearest[None], 0)[0]
    return centers


class BasisAndInputs:
    """Transformer from X to features of the basis and inputs of the units."""

    def __init__(self, estimator: Any) -> None:
        self.estimator = estimator

    def transform(self, X: Any) -> NDArray[np.float64]:
        """Return features and inputs side by side in one matrix."""
        rows: NDArray[np.float64] = self.estimator._network_inputs(X)
        return rows


def fit_basis(basis: Any, X: Any, y: Any, residual_input: str) -> tuple[Any, Any, str]:
    """Fit a clone of the basis, and leave X as it is.

    Returns features, the clone, and the inputs of the units. The features come from
    `fit_transform` if the basis has it, as in a Pipeline.
    """
    features, fitted = _fit_transform_one(clone(basis), guard_for([basis])(X), y, None)
    if residual_input == "auto":
        residual_input = choose_input(fitted, X)
    return features, fitted, residual_input


def choose_input(basis: Any, X: Any) -> str:
    """Choose the inputs of the units automatically: "X" or "basis".

    The choice depends on column types and the fitted basis, not on the values of the
    training samples, so that the units accept all samples that the basis accepts.
    """
    return "X" if is_numeric(X) and not takes_missing(basis, X) else "basis"


def is_numeric(X: Any) -> bool:
    """Whether all columns have a numeric or boolean type."""
    if hasattr(X, "iloc"):
        columns = X.dtypes if X.ndim == 2 else [X.dtype]
        return all(dtype.kind in "biuf" for dtype in columns)
    try:
        # The dtype of a tensor has no `kind`.
        dtype: Any = getattr(X, "dtype", None)
        kind: str = (dtype if hasattr(dtype, "kind") else np.asarray(X).dtype).kind
    except ValueError:
        # Samples of different lengths, such as lists of words.
        return False
    return kind in "biuf"


def takes_missing(basis: Any, X: Any) -> bool:
    """Whether a fitted basis converts missing values to numbers.

    Its tags do not tell: those of a Pipeline ignore missing values, and a scaler that
    accepts missing values returns them. So this transforms a sample of missing values.
    """
    values = check_array(
        X,
        accept_sparse=("csr", "csc"),
        dtype=np.float64,
        ensure_all_finite=False,
        allow_nd=True,
    )
    if not np.isfinite(dense(values)).all():
        return True
    if hasattr(X, "iloc"):
        row = X.iloc[:0].reindex([0]).astype(float)
    else:
        row = np.full((1, *values.shape[1:]), np.nan)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            features = basis.transform(row)
            finite = np.isfinite(np.asarray(dense(features), dtype=np.float64))
    except Exception:
        # Transformers raise various errors for missing values.
        return False
    return bool(finite.any())


def units_input(X: Any, allow_nd: bool) -> NDArray[np.float64]:
    """Convert X to inputs of the units; errors mention the alternative, the basis."""
    try:
        rows = check_array(
            X, accept_sparse=("csr", "csc"), dtype=np.float64, allow_nd=allow_nd
        )
    except (TypeError, ValueError) as failure:
        raise ValueError(
            "X must be an array of numbers if it is the input of the residual units "
            f"(residual_input_='X'), got an error: {failure} Set "
            "residual_input='basis' to use the features of the basis instead."
        ) from failure
    numbers: NDArray[np.float64] = dense(rows)
    return numbers


def basis_features(
    features: Any, basis: Any, n_samples: int, n_features: int | None = None
) -> NDArray[np.float64]:
    """Convert the output of a basis to an array; errors name the basis.

    It has a row per sample and, after the fit, the number of features of the fit.
    """
    try:
        rows: NDArray[np.float64] = dense(
            check_array(features, accept_sparse=True, dtype=np.float64)
        )
    except (TypeError, ValueError) as failure:
        raise ValueError(
            "basis must return finite numbers of shape (n_samples, n_features), but "
            f"for the output of {basis!r} there is an error: {failure}"
        ) from failure
    if len(rows) != n_samples:
        raise ValueError(
            f"basis must return one row per sample, got {len(rows)} rows for "
            f"{n_samples} samples from {basis!r}. Remove samples before `fit`."
        )
    if n_features is not None and rows.shape[1] != n_features:
        raise ValueError(
            "basis must return as many features in `transform` as in `fit_transform`, "
            f"{n_features}, got {rows.shape[1]} from {basis!r}."
        )
    return rows


def check_rows(X):
    """Check the type of X; convert sparse matrices to a common format."""
    check_has_features(X)
    if sp.issparse(X):
        rows: Any = X
        return rows if rows.format == "csc" else rows.tocsr()
    # A 1d array of numbers is a mistake; one of strings is input of text vectorizers.
    if getattr(X, "ndim", 2) == 1 and is_numeric(X):
        raise ValueError(
            f"X must have shape (n_samples, n_features), got {X.shape}. "
            "Reshape your data, X.reshape(-1, 1) for a single feature."
        )
    return X


def usable_features(features):
    """Set columns to zero if their squares would vanish; raise if one overflows."""
    sizes = np.abs(features).max(0, initial=0.0)
    largest = float(sizes.max(initial=0.0))
    if largest > LARGEST_VALUE:
        raise ValueError(
            f"X must have entries and features of the basis up to {LARGEST_VALUE:g}, "
            f"because larger squares overflow, got {largest:g}. Scale X, for example "
            "with a StandardScaler."
        )
    tiny = (sizes > 0) & (sizes < SMALLEST_FEATURE)
    return np.where(tiny, 0.0, features) if tiny.any() else features
