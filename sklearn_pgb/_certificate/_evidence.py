"""Export certificates and the data that an independent program checks them with."""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sklearn_pgb._certificate._escape import Escape
from sklearn_pgb._certificate._subject import Subject
from sklearn_pgb._certificate._table import BasisRow, row_of
from sklearn_pgb._convex._bounds import Dual
from sklearn_pgb._convex._infimum import Infimum
from sklearn_pgb._convex._problem import ConvexProblem
from sklearn_pgb._estimator._folds import distinct_rows


@dataclass(frozen=True, eq=False)
class SolvedBasis:
    """A row of the table with the points that prove its losses.

    Attributes
    ----------
    row : BasisRow
    problem : ConvexProblem
    dual : Dual or None
        Proof of the lower bound; None if it holds for every function.
    coordinates : ndarray or None
        Intercept and coefficients that attain `row.value`.
    norm : float
        Their norm.
    steady : float
        The smallest loss of coefficients that are not very long.
    factored : bool
        Whether the basis was factorized.
    """

    row: BasisRow
    problem: ConvexProblem
    dual: Dual | None
    coordinates: NDArray[np.float64] | None
    norm: float
    steady: float
    factored: bool

    @classmethod
    def of(
        cls, name: str, problem: ConvexProblem, result: Infimum, loss: float
    ) -> "SolvedBasis":
        """Keep what proves the bounds of a solved problem, without its spectrum."""
        return cls(
            row=row_of(name, problem, result, loss),
            problem=problem,
            dual=result.dual,
            coordinates=_array(result.coordinates),
            norm=result.norm,
            steady=result.steady,
            factored=result.spectrum is not None,
        )

    def record(self) -> dict[str, Any]:
        """Return the row with its points, in types of JSON."""
        problem, dual = self.problem, self.dual
        return {
            **asdict(self.row),
            "norm": self.norm,
            "steady": self.steady,
            "factored": self.factored,
            "intercept": problem.intercept,
            "on_network": problem.offset is not None,
            "rounded_columns": problem.rounded_columns,
            "dual": None if dual is None else _array(dual.point),
            "dual_value": None if dual is None else dual.value,
            "dual_residual": None if dual is None else dual.residual,
            "coordinates": self.coordinates,
        }


@dataclass(frozen=True, eq=False)
class Evidence:
    """Points and data behind a certificate.

    Attributes
    ----------
    subject : Subject
    tol : float
    smooth : bool
        Whether no hidden unit is at its kink.
    linear : {"inputs", "parameters"} or None
        What the network is a linear model of.
    solved : tuple of SolvedBasis
        One for each row of the table.
    head : SolvedBasis or None
        The last layer's derivatives, used if the network is not smooth.
    """

    subject: Subject
    tol: float
    smooth: bool
    linear: str | None
    solved: tuple[SolvedBasis, ...]
    head: SolvedBasis | None

    def document(
        self, claims: Mapping[str, Any], escape: Escape | None, max_memory: float
    ) -> str:
        """Write the claims, points and digests as JSON."""
        loss = self.subject.objective.loss
        parameters = {field: getattr(loss, field) for field in loss.parameters.values()}
        arrays = self.arrays(escape, max_memory)
        content = {
            "format": "sklearn_pgb certificate",
            "version": 1,
            "loss": {"name": loss.name, **parameters},
            "tol": self.tol,
            "assumptions": {"smooth": self.smooth, "linear": self.linear},
            "claims": dict(claims),
            "table": [each.record() for each in self.solved],
            "head": None if self.head is None else self.head.record(),
            "evidence": {name: digest(array) for name, array in arrays},
        }
        # The digest is that of the text without it.
        text = json.dumps(_plain(content), sort_keys=True)
        name = hashlib.sha256(text.encode()).hexdigest()
        return json.dumps({**json.loads(text), "digest": name}, sort_keys=True)

    def arrays(
        self, escape: Escape | None, max_memory: float
    ) -> Iterator[tuple[str, NDArray[np.float64]]]:
        """Yield what a checker needs besides the document."""
        objective, head = self.subject.objective, self.subject.head
        network, X = objective.network, objective.X
        inputs, group = X.flatten(1).numpy(), self.subject.group
        # Samples that only differ in columns that the network does not see keep their
        # groups.
        same = np.array_equal(distinct_rows(inputs), group.numpy())
        yield "X", inputs if same else group[:, None].numpy().astype(np.float64)
        yield "y", objective.y.numpy()
        yield "weight", objective.weight.numpy()
        yield "raw", network(network.theta, X).numpy()
        yield "theta", network.theta.numpy()
        yield "penalty", objective.penalty.numpy()
        if head.span_coef is not None:
            yield "span", head.span_coef.numpy()
        if escape is not None:
            yield "escape_theta", escape.theta
            yield "escape_raw", network(torch.from_numpy(escape.theta), X).numpy()
        used = 0
        named = [(f"features_{i}", each) for i, each in enumerate(self.solved)]
        if self.head is not None:
            named.append(("features_head", self.head))
        for name, each in named:
            operator = each.problem.operator.one_output()
            used += 8 * operator.n_rows * operator.n_coef
            if used > max_memory:
                raise ValueError(
                    f"max_memory must hold the features of each basis, at least {used} "
                    f"bytes up to {each.row.basis!r}, got {max_memory:.0f}. Raise it, "
                    "or certify fewer samples."
                )
            yield name, operator.dense().numpy()


def digest(array: NDArray[Any]) -> str:
    """Return the SHA-256 of an array's type, shape and entries."""
    head = f"{array.dtype.str} {array.shape} "
    return hashlib.sha256(head.encode() + array.tobytes()).hexdigest()


def _array(values: Tensor | None) -> NDArray[np.float64] | None:
    return None if values is None else values.cpu().numpy()


def _plain(value: Any) -> Any:
    """Convert arrays to lists and infinite numbers to text, as JSON has neither."""
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
