"""Implement `BasisComparison`, the result of `compare_bases`."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

# Columns of the printed table and their formats.
PRINTED_COLUMNS = {
    "train_loss": "{:.4g}",
    "lower_bound": "{:.4g}",
    "norm_budget": "{:.2g}",
    "n_coef": "{:.0f}",
    "rank": "{:.0f}",
    "score": "{:.4g}",
    "score_std": "{:.2g}",
    "seconds": "{:.2g}",
}


@dataclass(frozen=True)
class BasisReport:
    """Results for one basis or estimator.

    Attributes
    ----------
    name : str
    kind : {"basis", "estimator"}
    train_loss : float
        Smallest loss on the basis over all samples, without penalty. For an estimator,
        the loss of its predictions after its own training; nan if it has none.
    seconds : float
        Time of one fit on all samples, including networks, transformers and the choice
        of alpha.
    lower_bound : float
        Certified lower bound on the loss of all coefficients up to the norm
        `norm_budget`. Nan for estimators.
    norm_budget : float
        Largest norm of the coefficients for which the bound holds, with each
        coefficient multiplied by the norm of its column (weighted, and centered if
        there is an intercept): a million times the norm of the solution. Infinite if
        the bound is the floor, which holds for every function of the inputs. Nan for
        estimators.
    n_coef : int or None
        Number of coefficients, including intercepts.
    rank : int or None
        Numerical rank of the basis on all samples, including intercepts. None if a
        factorization does not fit into memory.
    alpha : float
        Regularization strength chosen on all samples, after scaling the basis to a mean
        squared row norm of one.
    scores : tuple of float
        Held-out score of each split.
    """

    name: str
    kind: str
    train_loss: float
    seconds: float
    lower_bound: float = np.nan
    norm_budget: float = np.nan
    n_coef: int | None = None
    rank: int | None = None
    alpha: float = np.nan
    scores: tuple[float, ...] = ()

    def record(self) -> dict[str, Any]:
        """Return the results as a row of a table."""
        scores = np.array(self.scores)
        return {
            "kind": self.kind,
            "train_loss": self.train_loss,
            "lower_bound": self.lower_bound,
            "gap": self.train_loss - self.lower_bound,
            "norm_budget": self.norm_budget,
            "n_coef": np.nan if self.n_coef is None else self.n_coef,
            "rank": np.nan if self.rank is None else self.rank,
            "alpha": self.alpha,
            "score": float(scores.mean()),
            "score_std": float(scores.std()),
            **{f"split{i}_score": score for i, score in enumerate(self.scores)},
            "seconds": self.seconds,
        }


@dataclass(frozen=True)
class BasisComparison:
    """Comparison of bases and estimators on the same data, loss and splits.

    Parameters
    ----------
    reports : tuple of BasisReport
        One report per basis or estimator, in the given order.
    loss : {"squared_error", "poisson", "huber", "log_loss"}
        The loss of `train_loss` and `lower_bound`, a weighted mean over samples.
    floor : float
        Pure-error floor: the smallest loss of any function of the inputs.
    scoring : str
        Name of the held-out score; larger is better.

    See Also
    --------
    compare_bases : Compute a comparison.
    BasisComparisonDisplay : Plot a comparison.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.preprocessing import PolynomialFeatures
    >>> from sklearn_pgb import InputBasis, compare_bases
    >>> X, y = load_diabetes(return_X_y=True)
    >>> bases = {"linear": InputBasis(), "cubic": PolynomialFeatures(3)}
    >>> comparison = compare_bases(bases, X[:, 2:4], y, random_state=0)
    >>> comparison.best
    'cubic'
    >>> comparison["cubic"].train_loss < comparison["linear"].train_loss
    True
    """

    reports: tuple[BasisReport, ...]
    loss: str
    floor: float
    scoring: str

    def __getitem__(self, name: str) -> BasisReport:
        """Return the report of one basis or estimator by name."""
        for report in self.reports:
            if report.name == name:
                return report
        known = [report.name for report in self.reports]
        raise KeyError(f"name must be among {known}, got {name!r}")

    @property
    def best(self) -> str:
        """Name of the report with the largest mean score; the first if tied."""
        means = np.array([np.mean(report.scores) for report in self.reports])
        # An undefined score ranks last.
        return self.reports[int(np.nan_to_num(means, nan=-np.inf).argmax())].name

    def to_frame(self) -> "pd.DataFrame":
        """Convert the comparison to a DataFrame; needs pandas.

        Returns
        -------
        DataFrame
            One row per report, indexed by name: kind, train_loss, lower_bound, gap,
            norm_budget, n_coef, rank, alpha, score and score_std over the splits,
            split0_score and so on, seconds.
        """
        import pandas as pd

        frame = pd.DataFrame([report.record() for report in self.reports])
        frame.index = pd.Index([report.name for report in self.reports], name="name")
        return frame

    def __str__(self) -> str:
        """Format the comparison as a table."""
        lines = [["", *PRINTED_COLUMNS]]
        for report in self.reports:
            record = report.record()
            pairs = PRINTED_COLUMNS.items()
            lines.append([report.name, *(_cell(record[k], text) for k, text in pairs)])
        first, *widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        rows = [
            "  ".join([name.ljust(first), *map(str.rjust, cells, widths)])
            for name, *cells in lines
        ]
        n_splits = len(self.reports[0].scores)
        head = (
            f"loss: {self.loss}, at least {self.floor:.4g} for any function of the "
            f"inputs; score: {self.scoring}, {n_splits} splits"
        )
        return "\n".join([head, *rows])


def _cell(value: float, form: str) -> str:
    return "-" if np.isnan(value) else form.format(value)
