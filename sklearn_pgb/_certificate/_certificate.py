"""Implement `Certificate`, the result of `certify`, and its reports."""

from dataclasses import asdict, dataclass
from html import escape
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from sklearn_pgb._certificate._escape import Escape
from sklearn_pgb._certificate._evidence import Evidence
from sklearn_pgb._certificate._table import BasisRow
from sklearn_pgb._certificate._tilted import TiltedIdentity
from sklearn_pgb._estimator._resources import parse_memory

if TYPE_CHECKING:
    import pandas as pd

Verdict = Literal[
    "certified_global", "not_critical", "not_local_min", "consistent_with_local_min"
]


HEADLINES = {
    "certified_global": "Certified global minimum, up to the tolerance.",
    "not_critical": "Training has not converged: this is not a critical point.",
    "not_local_min": "Critical point, but not a local minimum: descent is possible.",
    "consistent_with_local_min": "No test contradicts a local minimum.",
}
HEADER = ("basis", "coefs", "rank", "best loss", "proven bound", "network excess")


@dataclass(frozen=True, eq=False, repr=False)
class Certificate:
    """Verdict on a trained network and the numbers behind it, computed by `certify`.

    Losses are weighted means over the training samples. The squared loss is
    ``|q - y|^2``, without a factor 1/2, and penalties are in the same units. All
    parameters are attributes.

    Parameters
    ----------
    verdict : {"certified_global", "not_critical", "not_local_min", \
            "consistent_with_local_min"}
        The first that holds, in this order.

        - "certified_global": the objective is within tolerance of a lower bound that
          holds for all parameters of the network. The gradient need not vanish.
        - "not_critical": the objective's derivatives do not all vanish. A model on the
          gradient basis has a loss that is smaller by more than the tolerance, which is
          impossible at a critical point [1]_, Theorem 1.
        - "not_local_min": there are parameters arbitrarily close by with a smaller
          objective, because the perturbed gradient basis has a smaller loss [1]_,
          Theorem 2, or the objective has negative curvature. `escape` leads to a
          smaller objective.
        - "consistent_with_local_min": none of these tests contradicts a local minimum.
          This does not prove that it is one.
    loss : float
        Mean loss, without penalty.
    penalty, objective : float
        The penalty in training, and loss plus penalty.
    floor : float
        Smallest loss of any function of the inputs. It exceeds the smallest value of
        the loss if samples have equal inputs but different targets.
    floor_attained : bool
        Whether a function attains the floor. Log losses of labels never do.
    tolerance : float
        Differences of losses up to this are ignored: `tol` times the difference between
        the loss of the best constant and the floor.
    gradient_norm : float
        Euclidean norm of the objective's gradient.
    gap : float
        The loss minus a proven lower bound on the loss over the gradient basis. Zero at
        critical points of an objective without penalty.
    gap_bound : float
        Norm of the gradient times the distance to the best coefficients found on the
        gradient basis, which bounds the difference of their losses. Infinite if no
        coefficients attain the infimum. With a penalty, the norm of the gradient times
        the norm budget of `tilted`.
    min_curvature : float or None
        Smallest eigenvalue of the objective's Hessian, or an upper bound of it by
        Lanczos for large networks. None if the network has kinks at these parameters,
        or if the second derivative may jump there, as ELU's at zero.
    max_curvature : float or None
        Largest absolute value of an eigenvalue, computed in the same way.
    kink_margin : float
        Smallest distance of a ReLU unit's input from zero over all samples. Infinite
        for smooth networks, nan if unknown.
    rank, generic_rank : int or None
        Rank of the derivatives of all outputs with respect to all parameters, and the
        largest one found there and nearby. Singular values below 1e-10 of the largest
        are ignored.
        None if the derivatives are too large to factorize.
    is_singular : bool or None
        Whether `rank` is below `generic_rank`.
    table : tuple of BasisRow
        One row for each basis, with `basis`, `n_coef`, `rank`, `value` (the smallest
        loss found), `lower_bound` (proven, for coefficients up to the norm
        `norm_budget`), `gap` (value minus bound), `excess` (the network's loss minus
        value) and `attained`.
    tilted : TiltedIdentity or None
        With a penalty: `objective`, `value`, `lower_bound`, `gap`, `norm_budget`,
        `unbounded` and `plain_gap`. At a critical point of a penalized objective,
        `tilted.gap` is zero, but the `gap` above need not be.
    escape : Escape or None
        If "not_local_min": `kind`, `start`, `theta`, and the smaller `objective` at
        `theta`.
    assumptions : tuple of str
        Assumptions of the verdict, and which of them were checked.
    notes : tuple of str
        Caveats about the numbers.
    name : str
        The network's class.
    n_samples, n_params : int
        Number of samples of positive weight, and of parameters.
    evidence : Evidence or None
        The data and points that `to_json` and `save_evidence` write. It refers to X and
        the network, and pickles leave it out.

    See Also
    --------
    certify : Compute the certificate of a network.
    CertificateDisplay : Plot a certificate.

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
    evidence: Evidence | None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "evidence": None}

    def to_json(self, max_memory: float | str = "1GB") -> str:
        """Write the claims as JSON that ``python -m sklearn_pgb.check`` can replay.

        The text holds the verdict, the losses, bounds and norm budgets behind it, the
        coefficients and dual points that prove them, and digests of the arrays of
        `save_evidence`. Ranks, which depend on rounding, are left out, and so are
        curvatures and distances to kinks, which only the network could confirm.

        Parameters
        ----------
        max_memory : float or str, default="1GB"
            Memory limit for the features of all bases.

        Returns
        -------
        str

        Raises
        ------
        ValueError
            If the features exceed `max_memory`, or the certificate was pickled.
        """
        limit, evidence = parse_memory(max_memory), self._replayable()
        names = "verdict loss penalty objective floor tolerance gradient_norm"
        claims = {name: getattr(self, name) for name in names.split()}
        if self.escape is not None:
            claims["escape_objective"] = self.escape.objective
        return evidence.document(claims, self.escape, limit)

    def save_evidence(self, path: Any, max_memory: float | str = "1GB") -> None:
        """Save the arrays that a checker of `to_json` needs, as an npz file.

        They are the inputs, encoded targets, weights, outputs and parameters of the
        network, and the features of each basis.

        Parameters
        ----------
        path : str or path-like
        max_memory : float or str, default="1GB"
            Memory limit for the features of all bases.

        Raises
        ------
        ValueError
            If the features exceed `max_memory`, or the certificate was pickled.
        """
        limit, evidence = parse_memory(max_memory), self._replayable()
        arrays: dict[str, Any] = dict(evidence.arrays(self.escape, limit))
        np.savez(path, **arrays)

    def _replayable(self) -> Evidence:
        if self.evidence is None:
            raise ValueError(
                "evidence must be that of the call to certify, got None: a pickled or "
                "copied certificate has none. Export it before, or certify again."
            )
        return self.evidence

    def to_frame(self) -> "pd.DataFrame":
        """Convert the table to a DataFrame, one row per basis; needs pandas.

        Returns
        -------
        DataFrame
            Columns n_coef, rank, value, lower_bound, gap, excess, attained and
            norm_budget, indexed by basis.
        """
        import pandas as pd

        records = [{**asdict(row), "gap": row.gap} for row in self.table]
        columns = (
            "n_coef rank value lower_bound gap excess attained norm_budget".split()
        )
        frame = pd.DataFrame.from_records(records, index="basis")[columns]
        # Ranks may be missing, and whether an infimum is attained may be unknown.
        return frame.astype({"rank": "Int64", "attained": "boolean"})

    def row(self, basis: str) -> BasisRow:
        """Return the table's row of one basis.

        Parameters
        ----------
        basis : str
            Name of the basis.

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
        name = "gap" if self.tilted is None else "tilted.gap"
        return (
            f"Certificate(verdict={self.verdict!r}, loss={self.loss:.6g}, "
            f"floor={self.floor:.6g}, {name}={_gap(self):.3g})"
        )

    def _repr_html_(self) -> str:
        return as_html(self)


# --- reports ------------------------------------------------------------------------


def digits(value: float, zero: float = 0.0) -> str:
    """Format with four significant digits; "0" if the size is at most `zero`."""
    return "0" if abs(value) <= zero else f"{value:.4g}"


def headline(certificate: Certificate) -> str:
    """The verdict as a sentence, and how much is left to gain if this is bounded."""
    c, text = certificate, HEADLINES[certificate.verdict]
    if c.verdict != "not_critical" or _says_nothing(c):
        return text
    return (
        f"{text} At most {digits(_gap(c))} of the objective {digits(c.objective)} is "
        "left to gain on the derivatives at this point, by changes of limited size."
    )


def statements(certificate: Certificate) -> list[str]:
    """Describe the numbers of a certificate in sentences."""
    c, zero = certificate, _rounding(certificate)
    kind = "loss" if c.tilted is None else "loss without penalty"
    attained = "" if c.floor_attained else " It is not attained by finite outputs."
    lines = [
        f"The {kind} is {digits(c.loss, zero)}. The lower bound for all functions of "
        f"the inputs is {digits(c.floor, zero)}.{attained}"
    ]
    if c.tilted is None:
        lines.append(
            "A convex model on the network's partial derivatives can reduce the loss "
            f"by at most {digits(c.gap, zero)}. At a critical point this is 0."
        )
    else:
        lines += _penalty_statements(certificate)
    lines.append(
        f"The gradient has norm {digits(c.gradient_norm)}. Differences of the loss up "
        f"to {digits(c.tolerance)} are ignored."
    )
    if c.rank is not None:
        text = f"The derivatives by {c.n_params} parameters have rank {c.rank}"
        if c.is_singular:
            text += f", less than {c.generic_rank} nearby: a singular point"
        lines.append(text + ".")
    if c.min_curvature is not None and c.max_curvature is not None:
        least = digits(c.min_curvature, 1e-12 * c.max_curvature)
        lines.append(
            f"The smallest curvature found is {least}, the largest "
            f"{digits(c.max_curvature)}."
        )
    if np.isfinite(c.kink_margin):
        lines.append(f"The nearest kink is {digits(c.kink_margin)} away.")
    if c.escape is not None:
        lines.append(
            f"Descent ({c.escape.kind}) reduces the objective from "
            f"{digits(c.objective)} to {digits(c.escape.objective, zero)}."
        )
    return lines


def _gap(certificate: Certificate) -> float:
    """The gap that vanishes at critical points."""
    c = certificate
    return c.gap if c.tilted is None else c.tilted.gap


def _says_nothing(certificate: Certificate) -> bool:
    """Whether the gap is as large as the floor allows."""
    return 0 < certificate.objective - certificate.floor <= _gap(certificate)


def _rounding(certificate: Certificate) -> float:
    return 1e-6 * certificate.tolerance


def _penalty_statements(certificate: Certificate) -> list[str]:
    c, tilted, zero = certificate, certificate.tilted, _rounding(certificate)
    assert tilted is not None
    remark = ""
    if _says_nothing(c):
        remark = " This says nothing, because no objective is below the lower bound."
    lines = [
        f"With its penalty of {digits(c.penalty)} the objective is "
        f"{digits(c.objective)}. The convex problem tilted by the penalty can be lower "
        f"by at most {digits(tilted.gap, zero)}, for changes of the coefficients with "
        f"norm up to {digits(tilted.norm_budget)}. At a critical point this is 0."
        f"{remark}"
    ]
    if tilted.unbounded:
        lines.append(
            "Without a limit on this norm there is no bound: the penalty's gradient "
            "leaves the row space of the derivatives. At a critical point it does not."
        )
    return lines


def table_rows(certificate: Certificate) -> list[tuple[str, ...]]:
    """Rows of the table, with each cell as text."""
    rows: list[tuple[str, ...]] = []
    zero = _rounding(certificate)
    for row in certificate.table:
        bound = digits(row.lower_bound, zero)
        if np.isfinite(row.norm_budget):
            bound += f" (norm <= {row.norm_budget:.2g})"
        if row.attained is False:
            bound += " (not attained)"
        rank = "-" if row.rank is None else str(row.rank)
        coefs = str(row.n_coef)
        shown = digits(row.value, zero), bound, digits(row.excess, zero)
        rows.append((row.basis, coefs, rank, *shown))
    return rows


def as_text(certificate: Certificate) -> str:
    """Format the certificate as a plain-text report."""
    c = certificate
    title = (
        f"Certificate of {c.name} ({c.n_params} parameters, {c.n_samples} samples)\n"
        f"{headline(c)}"
    )
    table = [HEADER, *table_rows(c)]
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
    """Format the certificate as an HTML report for notebooks."""
    c = certificate
    head = "".join(f"<th>{escape(cell)}</th>" for cell in HEADER)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>"
        for row in table_rows(c)
    )
    points = "".join(f"<li>{escape(text)}</li>" for text in statements(c))
    rest = "".join(f"<li>{escape(text)}</li>" for text in (*c.assumptions, *c.notes))
    return (
        f"<div><p><b>{escape(headline(c))}</b> {escape(c.name)}, {c.n_params} "
        f"parameters, {c.n_samples} samples.</p><ul>{points}</ul>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        f"<details><summary>Assumptions and notes</summary><ul>{rest}</ul></details>"
        "</div>"
    )
