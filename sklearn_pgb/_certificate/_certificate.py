"""`Certificate`: what is known of a trained network."""

from dataclasses import asdict, dataclass
from html import escape
from typing import TYPE_CHECKING, Literal

import numpy as np

from sklearn_pgb._certificate._escape import Escape
from sklearn_pgb._certificate._table import BasisRow
from sklearn_pgb._certificate._tilted import TiltedIdentity

if TYPE_CHECKING:
    import pandas as pd

Verdict = Literal[
    "certified_global", "not_critical", "not_local_min", "consistent_with_local_min"
]


HEADLINES = {
    "certified_global": "Global minimum, up to the tolerance: certified.",
    "not_critical": "Training is not done: this is no critical point.",
    "not_local_min": "Stuck, but at no local minimum: there is a way down.",
    "consistent_with_local_min": "Nothing speaks against a local minimum.",
}
HEADER = ("basis", "coefs", "rank", "best loss", "proven bound", "network above it")


@dataclass(frozen=True, eq=False, repr=False)
class Certificate:
    """What is known of a trained network, and why; made by `certify`.

    Losses are weighted means over the training rows. The squared loss is
    ``|q - y|^2``, without a factor 1/2, and penalties are in the same units. All
    parameters are attributes.

    Parameters
    ----------
    verdict : {"certified_global", "not_critical", "not_local_min", \
            "consistent_with_local_min"}
        The first that holds, in this order.

        - "certified_global": the objective is within tolerance of a lower bound that
          holds for all parameters of the network. This does not ask whether the
          gradient vanishes.
        - "not_critical": the objective's derivatives do not all vanish. At a critical
          point nothing on the gradient basis has a smaller loss [1]_, Theorem 1;
          something has, by more than the tolerance.
        - "not_local_min": there are parameters arbitrarily close by with a smaller
          objective: the perturbed gradient basis holds a smaller loss [1]_, Theorem 2,
          or the objective curves down. `escape` leads to a smaller objective.
        - "consistent_with_local_min": none of these tests speaks against a local
          minimum. That is no proof that it is one.
    loss : float
        Mean loss, without penalty.
    penalty, objective : float
        The penalty of the training, and loss plus penalty.
    floor : float
        Least loss of any function of the inputs: rows with equal inputs but different
        targets have one.
    floor_attained : bool
        Whether some function has it. Log losses of labels never do.
    tolerance : float
        Differences of losses up to this are none: `tol` times what the best constant
        loses above the floor.
    gradient_norm : float
        Euclidean norm of the objective's gradient.
    gap : float
        The loss minus a proven lower bound on the gradient basis. Zero at critical
        points of an objective without penalty.
    gap_bound : float
        Norm of the gradient times the distance to the best coefficients found on the
        gradient basis: the gap can't be larger to these. Infinite if no coefficients
        attain the least loss there. With a penalty, the norm of
        the gradient times the norm budget of `tilted`.
    min_curvature : float or None
        Smallest eigenvalue of the objective's Hessian; of large networks an upper bound
        of it, by Lanczos. None where the network has kinks at these parameters.
    max_curvature : float or None
        Largest absolute value of an eigenvalue, in the same way.
    kink_margin : float
        Smallest distance of a ReLU unit's input from zero over all rows. Infinite for
        smooth networks, nan where it is not known.
    rank, generic_rank : int or None
        Rank of the derivatives of all outputs by all parameters, and its largest value
        nearby, without directions below 1e-10 of the largest; None where these are too
        many.
    is_singular : bool or None
        Whether `rank` is below `generic_rank`.
    table : tuple of BasisRow
        One row for each basis, with `basis`, `n_coef`, `rank`, `value` (the loss that
        was found), `lower_bound` (proven, for coefficients up to the norm
        `norm_budget`), `gap` (value minus bound), `excess` (the network's loss minus
        value) and `attained`.
    tilted : TiltedIdentity or None
        With a penalty: `objective`, `value`, `lower_bound`, `gap`, `norm_budget`,
        `unbounded` and `plain_gap`. At a critical point of a penalised objective its
        gap is zero, not `gap`.
    escape : Escape or None
        With "not_local_min": `kind`, `start`, `theta`, and the smaller `objective`
        there.
    assumptions : tuple of str
        What the verdict rests on, and which of it was checked.
    notes : tuple of str
        What to know when reading the numbers.
    name : str
        The network's class.
    n_samples, n_params : int
        Rows of positive weight, and parameters.

    See Also
    --------
    certify : Makes it.
    CertificateDisplay : Draws it.

    References
    ----------
    .. [1] Kawaguchi, Huang, Kaelbling, "Every Local Minimum Value Is the Global Minimum
       Value of Induced Model in Nonconvex Machine Learning", Neural Computation 31(12),
       2019.

    Examples
    --------
    >>> from sklearn.datasets import make_regression
    >>> from sklearn.neural_network import MLPRegressor
    >>> from sklearn_pgb import certify
    >>> X, y = make_regression(100, 3, noise=1.0, random_state=0)
    >>> network = MLPRegressor(hidden_layer_sizes=5, random_state=0).fit(X, y)
    >>> certificate = certify(network, X, y)
    >>> certificate.verdict
    'not_critical'
    >>> [row.basis for row in certificate.table]
    ['inputs', 'layer 1', 'gradient']
    """

    verdict: Verdict
    loss: float
    penalty: float
    objective: float
    floor: float
    floor_attained: bool
    tolerance: float
    gradient_norm: float
    gap: float
    gap_bound: float
    min_curvature: float | None
    max_curvature: float | None
    kink_margin: float
    rank: int | None
    generic_rank: int | None
    is_singular: bool | None
    table: tuple[BasisRow, ...]
    tilted: TiltedIdentity | None
    escape: Escape | None
    assumptions: tuple[str, ...]
    notes: tuple[str, ...]
    name: str
    n_samples: int
    n_params: int

    def to_frame(self) -> "pd.DataFrame":
        """The table as a DataFrame, one row per basis; needs pandas.

        Returns
        -------
        DataFrame
            With the columns n_coef, rank, value, lower_bound, gap, excess, attained and
            norm_budget, indexed by basis.
        """
        import pandas as pd

        records = [{**asdict(row), "gap": row.gap} for row in self.table]
        columns = [
            "n_coef",
            "rank",
            "value",
            "lower_bound",
            "gap",
            "excess",
            "attained",
            "norm_budget",
        ]
        frame = pd.DataFrame.from_records(records, index="basis")[columns]
        # Ranks may be missing, and whether an infimum is attained may be unknown.
        return frame.astype({"rank": "Int64", "attained": "boolean"})

    def row(self, basis: str) -> BasisRow:
        """The table's row of one basis.

        Parameters
        ----------
        basis : str
            Its name.

        Returns
        -------
        BasisRow

        Raises
        ------
        ValueError
            If the table has no such basis.
        """
        for row in self.table:
            if row.basis == basis:
                return row
        names = ", ".join(repr(row.basis) for row in self.table)
        raise ValueError(f"basis must be one of {names}, got {basis!r}.")

    def __str__(self) -> str:
        return as_text(self)

    def __repr__(self) -> str:
        excess = max((row.excess for row in self.table), default=np.nan)
        return (
            f"Certificate(verdict={self.verdict!r}, loss={self.loss:.6g}, "
            f"floor={self.floor:.6g}, largest_excess={excess:.3g})"
        )

    def _repr_html_(self) -> str:
        return as_html(self)


# --- reports ------------------------------------------------------------------------


def number(value: float, zero: float = 0.0) -> str:
    """Four significant digits; what is not above `zero` in size is rounding."""
    return "0" if abs(value) <= zero else f"{value:.4g}"


def headline(certificate: Certificate) -> str:
    """The verdict as a sentence."""
    return HEADLINES[certificate.verdict]


def statements(certificate: Certificate) -> list[str]:
    """What the numbers say, one sentence or two each."""
    c, zero = certificate, _rounding(certificate)
    kind = "loss" if c.tilted is None else "loss without penalty"
    attained = "." if c.floor_attained else ", which none attains with finite outputs."
    lines = [
        f"Its {kind} is {number(c.loss, zero)}. No function of the inputs is below "
        f"{number(c.floor, zero)}{attained}"
    ]
    if c.tilted is None:
        lines.append(
            "On its own partial derivatives a convex model can be better by "
            f"{number(c.gap, zero)} at most. At a critical point that is 0."
        )
    else:
        lines += _on_penalty(certificate)
    lines.append(
        f"The gradient has norm {number(c.gradient_norm)}. Differences of the loss up "
        f"to {number(c.tolerance)} count as none."
    )
    lines += _on_shape(certificate)
    if c.escape is not None:
        lines.append(
            f"Way down ({c.escape.kind}): the objective falls from "
            f"{number(c.objective)} to {number(c.escape.objective, zero)}."
        )
    return lines


def _rounding(certificate: Certificate) -> float:
    return 1e-6 * certificate.tolerance


def _on_penalty(certificate: Certificate) -> list[str]:
    c, tilted, zero = certificate, certificate.tilted, _rounding(certificate)
    assert tilted is not None
    lines = [
        f"With its penalty of {number(c.penalty)} the objective is "
        f"{number(c.objective)}. The convex problem tilted by the penalty can be lower "
        f"by {number(tilted.gap, zero)} at most, for changes of the coefficients of "
        f"norm up to {number(tilted.norm_budget)}. At a critical point that is 0."
    ]
    if tilted.unbounded:
        lines.append(
            "Without a limit on that norm there is no bound: the penalty's gradient "
            "leaves the row space of the derivatives, as it does at no critical point."
        )
    lines.append(
        "(The identity for objectives without penalty would show "
        f"{number(c.gap, zero)}, which means nothing here.)"
    )
    return lines


def _on_shape(certificate: Certificate) -> list[str]:
    c = certificate
    lines = []
    if c.rank is not None:
        words = f"The derivatives have rank {c.rank}, by {c.n_params} parameters"
        if c.is_singular:
            words += f": less than the {c.generic_rank} nearby, a singular point"
        lines.append(words + ".")
    if c.min_curvature is not None and c.max_curvature is not None:
        least = number(c.min_curvature, 1e-12 * c.max_curvature)
        lines.append(
            f"The lowest curvature found is {least}, the highest "
            f"{number(c.max_curvature)}."
        )
    if np.isfinite(c.kink_margin):
        lines.append(f"The nearest kink is {number(c.kink_margin)} away.")
    return lines


def cells(certificate: Certificate) -> list[tuple[str, ...]]:
    """The table's cells as text."""
    rows: list[tuple[str, ...]] = []
    zero = _rounding(certificate)
    for row in certificate.table:
        bound = number(row.lower_bound, zero)
        if np.isfinite(row.norm_budget):
            bound += f" (norm <= {row.norm_budget:.2g})"
        if row.attained is False:
            bound += " (not attained)"
        rank = "-" if row.rank is None else str(row.rank)
        coefs = str(row.n_coef)
        shown = number(row.value, zero), bound, number(row.excess, zero)
        rows.append((row.basis, coefs, rank, *shown))
    return rows


def as_text(certificate: Certificate) -> str:
    """A short report."""
    c = certificate
    title = (
        f"Certificate of {c.name} ({c.n_params} parameters, {c.n_samples} rows)\n"
        f"{headline(c)}"
    )
    table = [HEADER, *cells(c)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    ]
    parts = [title, "\n".join(statements(c)), "\n".join(lines)]
    parts.append("\n".join(["Assumptions:", *(f"- {text}" for text in c.assumptions)]))
    if c.notes:
        parts.append("\n".join(["Notes:", *(f"- {text}" for text in c.notes)]))
    return "\n\n".join(parts)


def as_html(certificate: Certificate) -> str:
    """The report for a notebook."""
    c = certificate
    head = "".join(f"<th>{escape(cell)}</th>" for cell in HEADER)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>"
        for row in cells(c)
    )
    points = "".join(f"<li>{escape(text)}</li>" for text in statements(c))
    rest = "".join(f"<li>{escape(text)}</li>" for text in (*c.assumptions, *c.notes))
    return (
        f"<div><p><b>{escape(headline(c))}</b> {escape(c.name)}, {c.n_params} "
        f"parameters, {c.n_samples} rows.</p><ul>{points}</ul>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        f"<details><summary>Assumptions and notes</summary><ul>{rest}</ul></details>"
        "</div>"
    )
