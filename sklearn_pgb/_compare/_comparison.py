"""`BasisComparison`: what `compare_bases` found."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

# Columns of the printed table, and how an entry is written.
PRINTED = {
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
    """One line of a comparison.

    Attributes
    ----------
    name : str
    kind : {"basis", "estimator"}
    train_loss : float
        The least loss of the basis on all rows, without a ridge. Of an estimator the
        loss of its predictions after its own training; nan where it has none.
    lower_bound : float
        Certified: no coefficients have a smaller loss, up to the norm `norm_budget`.
        Nan for estimators.
    norm_budget : float
        Of the norm of the coefficients, each times the norm of its column (weighted;
        less its mean if there is a free intercept): a million times what was found.
        Infinite where the bound is the floor, which holds for every function of the
        inputs. Nan for estimators.
    n_coef : int or None
        Coefficients, free intercepts included.
    rank : int or None
        Numerical rank of the basis on all rows, free intercepts included. None where
        a factorisation does not fit into memory.
    alpha : float
        Ridge chosen on all rows, in units of a basis of mean squared row norm one.
    scores : tuple of float
        Held-out score of each split.
    seconds : float
        Of one fit on all rows: networks and transformers, choice of the ridge, and
        solution.
    """

    name: str
    kind: str
    train_loss: float
    lower_bound: float
    norm_budget: float
    n_coef: int | None
    rank: int | None
    alpha: float
    scores: tuple[float, ...]
    seconds: float

    def record(self) -> dict[str, Any]:
        """The line of a table."""
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
    """Bases and estimators on the same data, loss and splits.

    Parameters
    ----------
    reports : tuple of BasisReport
        In the order in which they were given.
    loss : {"squared_error", "poisson", "log_loss"}
        The loss of `train_loss` and `lower_bound`, a weighted mean over rows.
    floor : float
        Pure-error floor: the least loss of any function of the inputs.
    scoring : str
        Name of the held-out score; larger is better.

    See Also
    --------
    compare_bases : Makes it.
    BasisComparisonDisplay : Draws it.
    """

    reports: tuple[BasisReport, ...]
    loss: str
    floor: float
    scoring: str

    def __getitem__(self, name: str) -> BasisReport:
        """The report of one basis."""
        for report in self.reports:
            if report.name == name:
                return report
        known = [report.name for report in self.reports]
        raise KeyError(f"name must be among {known}, got {name!r}")

    @property
    def best(self) -> str:
        """Name of the largest mean held-out score, the first of equals."""
        means = np.array([np.mean(report.scores) for report in self.reports])
        # A score that is not defined is no good one.
        return self.reports[int(np.nan_to_num(means, nan=-np.inf).argmax())].name

    def to_frame(self) -> "pd.DataFrame":
        """The comparison as a data frame.

        Returns
        -------
        DataFrame
            One row per basis, indexed by name: kind, train_loss, lower_bound, gap,
            norm_budget, n_coef, rank, alpha, score and score_std over the splits,
            split0_score and so on, seconds. It needs pandas.
        """
        import pandas as pd

        frame = pd.DataFrame([report.record() for report in self.reports])
        frame.index = pd.Index([report.name for report in self.reports], name="name")
        return frame

    def __str__(self) -> str:
        """A table to read."""
        lines = [["", *PRINTED]]
        for report in self.reports:
            record = report.record()
            lines.append(
                [report.name, *(_cell(record[key], PRINTED[key]) for key in PRINTED)]
            )
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        rows = [
            "  ".join(
                [line[0].ljust(widths[0])]
                + [
                    cell.rjust(width)
                    for cell, width in zip(line[1:], widths[1:], strict=True)
                ]
            )
            for line in lines
        ]
        n_splits = len(self.reports[0].scores)
        head = (
            f"loss: {self.loss}, at least {self.floor:.4g} for any function of the "
            f"inputs; score: {self.scoring}, {n_splits} splits"
        )
        return "\n".join([head, *rows])


def _cell(value: float, form: str) -> str:
    return "-" if np.isnan(value) else form.format(value)
