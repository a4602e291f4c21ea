"""What the network of a ResNet basis sees of X: features of the basis, and numbers."""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from sklearn.utils import check_array

from sklearn_pgb._estimator._border import check_passed_on, dense

# Inputs below this size are constant: weights that undo such a factor overflow.
SMALLEST_FEATURE = 1e-290

# Features beyond this size have squares that overflow.
LARGEST_FEATURE = 1e150


@dataclass(frozen=True, eq=False)
class InputScale:
    """How the inputs of the units are standardised, and squashed beyond their range.

    Attributes
    ----------
    mean, spread : ndarray of the shape of one sample, or numbers
        By which the training standardises; zero and one for a module of the user's.
    constant : ndarray of bool or bool
        Inputs without any variation. The units do not see them.
    lower, upper, width : ndarray or numbers
        The range of the training samples, and the scale on which inputs beyond it are
        squashed: their standard deviation.
    """

    mean: Any
    spread: Any
    constant: Any
    lower: Any
    upper: Any
    width: Any

    @classmethod
    def of(
        cls, inputs: NDArray[np.float64], share: NDArray[np.float64], is_chain: bool
    ) -> "InputScale":
        """The scale of samples whose weights sum to one.

        Positions of images and sequences share one range.
        """
        rows, weight = inputs, share
        if inputs.ndim > 2:
            rows = inputs.reshape(-1, 1)
            weight = np.repeat(
                share / (len(rows) / len(share)), len(rows) // len(share)
            )
        mean = weight @ rows
        largest = np.abs(rows - mean).max(0)
        size = np.abs(rows).max(0)
        constant = (largest <= 1e-12 * size) | (size < SMALLEST_FEATURE)
        # Divided by their largest, so that no square overflows.
        unit = np.where(constant, 1.0, largest)
        spread = unit * np.sqrt(weight @ np.square((rows - mean) / unit))
        spread = np.where(constant, 1.0, spread)
        lower, upper = rows.min(0), rows.max(0)
        if is_chain:
            return cls(mean, spread, constant, lower, upper, spread)
        return cls(0.0, 1.0, False, lower, upper, spread)

    def standardized(self, inputs: NDArray[np.float64]) -> NDArray[np.float64]:
        """Inputs as the units see them in the training."""
        result: NDArray[np.float64] = (inputs - self.mean) / self.spread
        return np.where(self.constant, 0.0, result)

    def fold(
        self, coefs: NDArray[np.float64], intercepts: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The first layer of a chain for inputs in the units of X."""
        inverse = 1 / np.where(self.constant, np.inf, self.spread)
        first = inverse[:, None] * coefs
        return first, intercepts - self.mean @ first


class BasisAndInputs:
    """What the network of a fitted estimator sees: phi(x), and x where z takes it.

    Parameters
    ----------
    estimator : ResNetBasisBase
    """

    def __init__(self, estimator: Any) -> None:
        self.estimator = estimator

    def transform(self, X: Any) -> NDArray[np.float64]:
        """Features of the basis and inputs of the units, side by side."""
        rows: NDArray[np.float64] = self.estimator._network_inputs(X)
        return rows


def choose_input(basis: Any, X: Any) -> str:
    """What the units see where that is left open: "X" or "basis".

    Column types and the fitted basis decide, and not the values of these rows, so that
    later rows that the basis takes do not stop at the units.
    """
    return "X" if is_numeric(X) and not takes_missing(basis, X) else "basis"


def is_numeric(X: Any) -> bool:
    """Whether every column is of a numeric or boolean type."""
    if hasattr(X, "iloc"):
        columns = X.dtypes if X.ndim == 2 else [X.dtype]
        return all(dtype.kind in "biuf" for dtype in columns)
    try:
        # The dtype of a tensor has no kind.
        own: Any = getattr(X, "dtype", None)
        kind: str = (own if hasattr(own, "kind") else np.asarray(X).dtype).kind
    except ValueError:
        # Rows of different lengths, of words say.
        return False
    return kind in "biuf"


def takes_missing(basis: Any, X: Any) -> bool:
    """Whether a fitted basis makes numbers of missing values.

    Its tags do not say: those of a Pipeline are silent, and a scaler that takes missing
    values hands them on. So it is asked for the features of a row without any value.
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
        # Each transformer has its own way to refuse missing values.
        return False
    return bool(finite.any())


def units_input(X: Any, allow_nd: bool) -> NDArray[np.float64]:
    """X as the units take it, or an error that names the other choice."""
    try:
        rows = check_array(
            X, accept_sparse=("csr", "csc"), dtype=np.float64, allow_nd=allow_nd
        )
    except (TypeError, ValueError) as failure:
        raise ValueError(
            "X must be an array of numbers where the residual units see it "
            f"(residual_input_='X'), got an error: {failure} Set "
            "residual_input='basis' to let them see the features of the basis."
        ) from failure
    numbers: NDArray[np.float64] = dense(rows)
    return numbers


def check_samples(X):
    """Samples that a basis may take; sparse ones in a format that most take."""
    check_passed_on(X)
    if sp.issparse(X):
        rows: Any = X
        return rows if rows.format == "csc" else rows.tocsr()
    # A vector of numbers is a mistake, a vector of texts is data.
    if getattr(X, "ndim", 2) == 1 and is_numeric(X):
        raise ValueError(
            f"X must have shape (n_samples, n_features), got {X.shape}. "
            "Reshape your data, X.reshape(-1, 1) for a single feature."
        )
    return X


def check_size(features):
    """Refuse features of the training rows whose squares overflow."""
    largest = float(np.abs(features).max(initial=0.0))
    if largest > LARGEST_FEATURE:
        raise ValueError(
            f"X must give features of the basis up to {LARGEST_FEATURE:g}, whose "
            f"squares can be computed, got {largest:g}. Scale X, or put a "
            "StandardScaler in front of the basis."
        )
