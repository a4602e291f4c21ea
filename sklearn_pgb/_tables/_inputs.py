"""Inputs of networks and trees, from matrices of numbers and category codes."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, TargetEncoder

from sklearn_pgb._budget import MOST_ONE_HOT, MOST_TREE_CODES, RARE_SAMPLES, SQUASH

# Labels of each column with categories; None for a column of numbers.
Labels = Sequence[Sequence[Any] | None]


class RobustSquash(TransformerMixin, BaseEstimator):
    """Scale columns by their interquartile range and squash outliers smoothly.

    The median becomes zero and the standard deviation of normal columns one; values
    far away approach SQUASH. A network extrapolates without bound, so a single extreme
    input could otherwise dominate its training or its predictions. If half of the
    values are equal, the standard deviation takes the place of the range.
    """

    def fit(self, X: NDArray[np.float64], y: Any = None) -> Self:
        """Learn the center and the scale of each column."""
        low, self.center_, high = np.quantile(X, [0.25, 0.5, 0.75], axis=0)
        # The interquartile range of the standard normal distribution is 1.349.
        spread = (high - low) / 1.349
        spread = np.where(spread > 0, spread, X.std(0))
        self.scale_ = np.where(spread > 0, spread, 1.0)
        return self

    def transform(self, X: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the scaled columns, of the same shape as X."""
        Z = (X - self.center_) / self.scale_
        return Z / np.sqrt(1 + (Z / SQUASH) ** 2)


def network_inputs(labels: Labels) -> ColumnTransformer:
    """Return a transformer of matrices into inputs of a network.

    Missing numbers become the median, with an indicator column. Columns with few
    categories become indicators, and rare categories share one. Columns with many
    become mean targets, which `fit_transform` computes on other samples.
    """
    numbers = [j for j, known in enumerate(labels) if known is None]
    few = [j for j, known in enumerate(labels) if known and len(known) <= MOST_ONE_HOT]
    many = [j for j, known in enumerate(labels) if known and len(known) > MOST_ONE_HOT]
    one_hot = OneHotEncoder(
        min_frequency=RARE_SAMPLES,
        handle_unknown="infrequent_if_exist",
        sparse_output=False,
    )
    impute = SimpleImputer(
        strategy="median", add_indicator=True, keep_empty_features=True
    )
    means = TargetEncoder(random_state=0)
    return ColumnTransformer(
        [
            ("numbers", make_pipeline(impute, RobustSquash()), numbers),
            ("categories", one_hot, few),
            ("means", make_pipeline(means, RobustSquash()), many),
        ]
    )


def tree_inputs(labels: Labels) -> tuple[ColumnTransformer | str, list[int]]:
    """Return a transformer of matrices into inputs of trees, or "passthrough".

    Trees take missing values and codes as they are. Columns with more categories than
    they allow become mean targets. The second result lists the columns that hold codes.
    """
    sizes = [0 if known is None else len(known) for known in labels]
    many = [j for j, size in enumerate(sizes) if size > MOST_TREE_CODES]
    if not many:
        return "passthrough", [j for j, size in enumerate(sizes) if size]
    means = TargetEncoder(random_state=0)
    others = [j for j in range(len(labels)) if j not in many]
    inputs = ColumnTransformer(
        [("others", "passthrough", others), ("means", means, many)]
    )
    return inputs, [k for k, j in enumerate(others) if sizes[j]]


def forest_inputs(labels: Labels) -> ColumnTransformer | str:
    """Return a transformer of matrices into numbers, categories as mean targets."""
    coded = [j for j, known in enumerate(labels) if known is not None]
    if not coded:
        return "passthrough"
    numbers = [j for j, known in enumerate(labels) if known is None]
    return ColumnTransformer(
        [
            ("numbers", "passthrough", numbers),
            ("means", TargetEncoder(random_state=0), coded),
        ]
    )
