"""A certificate in words."""

from html import escape
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from sklearn_pgb._certificate._certificate import Certificate

HEADLINES = {
    "certified_global": "Global minimum, up to the tolerance: certified.",
    "not_critical": "Training is not done: this is no critical point.",
    "not_local_min": "Stuck, but at no local minimum: there is a way down.",
    "consistent_with_local_min": "Nothing speaks against a local minimum.",
}
HEADER = ("basis", "coefs", "rank", "best loss", "proven bound", "network above it")


def number(value: float, zero: float = 0.0) -> str:
    """Four significant digits; what is not above `zero` in size is rounding."""
    return "0" if abs(value) <= zero else f"{value:.4g}"


def headline(certificate: "Certificate") -> str:
    """The verdict as a sentence."""
    return HEADLINES[certificate.verdict]


def statements(certificate: "Certificate") -> list[str]:
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


def _rounding(certificate: "Certificate") -> float:
    return 1e-6 * certificate.tolerance


def _on_penalty(certificate: "Certificate") -> list[str]:
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


def _on_shape(certificate: "Certificate") -> list[str]:
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


def cells(certificate: "Certificate") -> list[tuple[str, ...]]:
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


def as_text(certificate: "Certificate") -> str:
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


def as_html(certificate: "Certificate") -> str:
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
