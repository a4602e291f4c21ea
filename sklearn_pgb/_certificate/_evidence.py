"""Export certificates, with the data that an independent check of them needs."""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sklearn_pgb._certificate._convex_bound import ConvexBound
from sklearn_pgb._certificate._escape import Escape
from sklearn_pgb._certificate._solved import SolvedBasis, enclosure
from sklearn_pgb._certificate._subject import Subject
from sklearn_pgb._certificate._table import GRADIENT
from sklearn_pgb._certificate._tilted import TiltedIdentity
from sklearn_pgb._estimator._row_codes import row_codes


@dataclass(frozen=True, eq=False)
class Evidence:
    """Points and data behind a certificate.

    Attributes
    ----------
    subject : Subject
    tol : float
    decisive : bool
        Whether a smaller loss on the gradient basis shows that some derivative is not
        zero: no hidden unit is at its kink, and coefficients of moderate size suffice.
    solved : tuple of SolvedBasis
        One for each row of the table.
    tilted : TiltedIdentity or None
    convex : ConvexBound or None
    """

    subject: Subject
    tol: float
    decisive: bool
    solved: tuple[SolvedBasis, ...]
    tilted: TiltedIdentity | None
    convex: ConvexBound | None

    @property
    def linear(self) -> str | None:
        """Whether the network is linear in parameters or inputs; None if unknown."""
        if self.convex is None or not self.convex.is_proven:
            return None
        return "parameters" if self.convex.basis == GRADIENT else "inputs"

    def document(
        self, claims: Mapping[str, Any], escape: Escape | None, max_memory: float
    ) -> str:
        """Write the claims, points and digests as JSON."""
        loss = self.subject.objective.loss
        parameters = {field: getattr(loss, field) for field in loss.parameters.values()}
        table = [each.record(f"features_{i}") for i, each in enumerate(self.solved)]
        tilted, convex, minimum = self.tilted, self.convex, None
        if convex is not None and convex.is_proven:
            minimum = {"value": convex.value, "coef": convex.coef}
        if tilted is not None:
            gradient = next(row for row in table if row["basis"] == GRADIENT)
            of_tilted = {
                **gradient,
                "basis": "tilted gradient",
                **enclosure(tilted, tilted.change, tilted.dual),
            }
            table.append(of_tilted)
        digests = {}
        for name, array in self.arrays(escape, max_memory):
            # Type, shape and entries of the array.
            data = f"{array.dtype.str} {array.shape} ".encode() + array.tobytes()
            digests[name] = hashlib.sha256(data).hexdigest()
        content = {
            "format": "sklearn_pgb certificate",
            "version": 2,
            "loss": {"name": loss.name, **parameters},
            "tol": self.tol,
            "assumptions": {"decisive": self.decisive, "linear": self.linear},
            "claims": dict(claims),
            "convex": minimum,
            "table": table,
            "evidence": digests,
        }
        # The digest is that of the text without it.
        text = json.dumps(_plain(content), sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()
        return json.dumps({**json.loads(text), "digest": digest}, sort_keys=True)

    def arrays(
        self, escape: Escape | None, max_memory: float
    ) -> Iterator[tuple[str, NDArray[np.float64]]]:
        """Yield what a checker needs besides the document."""
        objective = self.subject.objective
        network, X = objective.network, objective.X
        inputs, group = X.flatten(1).numpy(), self.subject.group
        # Samples that only differ in columns that the network does not see keep their
        # groups.
        same = np.array_equal(row_codes(inputs), group.numpy())
        yield "X", inputs if same else group[:, None].numpy().astype(np.float64)
        yield "y", objective.y.numpy()
        yield "weight", objective.weight.numpy()
        yield "raw", network(network.theta, X).numpy()
        yield "theta", network.theta.numpy()
        yield "penalty", objective.penalty.numpy()
        if escape is not None:
            yield "escape_theta", escape.theta
            yield "escape_raw", network(torch.from_numpy(escape.theta), X).numpy()
        convex, used = self.convex, 0
        if convex is not None and convex.is_proven:
            problem = convex.problem
            dense, penalty = problem.dense, problem.penalty
            # The tilt is the penalty's gradient at the parameters.
            theta = torch.where(penalty > 0, problem.tilt / (2 * penalty), 0.0)
            used += 8 * dense.numel()
            yield "convex_features", dense.numpy()
            yield "convex_theta", theta.numpy()
            yield "convex_penalty", penalty.numpy()
        for number, each in enumerate(self.solved):
            operator = each.problem.operator.one_output()
            used += 8 * operator.n_rows * operator.n_coef
            if used > max_memory:
                raise ValueError(
                    f"max_memory must hold the features of each basis, at least {used} "
                    f"bytes up to {each.row.basis!r}, got {max_memory:.0f}. Raise it, "
                    "or certify fewer samples."
                )
            yield f"features_{number}", operator.dense().numpy()


def _plain(value: Any) -> Any:
    """Convert tensors to lists and infinite numbers to text, as JSON has neither."""
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, Tensor):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
