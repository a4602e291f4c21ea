"""Solutions for the rows of the table, with the points that prove their bounds."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from sklearn_pgb._bases._basis import Basis
from sklearn_pgb._certificate._subject import Subject
from sklearn_pgb._certificate._table import (
    BasisRow,
    feature_problems,
    joint_layers,
    row_of,
    solve_basis,
)
from sklearn_pgb._certificate._tilted import TiltedIdentity
from sklearn_pgb._convex._bounds import Dual
from sklearn_pgb._convex._infimum import Infimum
from sklearn_pgb._convex._problem import ConvexProblem
from sklearn_pgb._convex._unit_basis import ColumnScaling


@dataclass(frozen=True, eq=False)
class SolvedBasis:
    """A row of the table with the points that prove its losses.

    Attributes
    ----------
    row : BasisRow
    problem : ConvexProblem
    dual : Dual or None
        Proof of the lower bound; None if it holds for every function.
    coordinates : Tensor or None
        Intercept and coefficients that attain `row.value`, in the units of the norm
        budget.
    center : Tensor (n_outputs,) or None
        Outputs that the coordinates and their norm are relative to, if not zero.
    """

    row: BasisRow
    problem: ConvexProblem
    dual: Dual | None
    coordinates: Tensor | None
    center: Tensor | None

    @classmethod
    def of(
        cls,
        name: str,
        problem: ConvexProblem,
        result: Infimum,
        loss: float,
        span_coef: Tensor | None = None,
    ) -> "SolvedBasis":
        """Keep the points that prove the bounds of a solved problem.

        `span_coef` are the coefficients of the network's outputs if these are the
        problem's offset. They are needed if the infimum is approached by multiples of
        the outputs, because these multiply the offset too.
        """
        point, center = result.coordinates, None
        if problem.loss.quadratic and problem.intercept and result.spectrum is not None:
            center = problem.weight @ (problem.y - result.spectrum.basis.base)
        if point is not None and result.ray > 1:
            point = result.ray * point
            if span_coef is not None:
                # Further parts of a wider basis have coefficients of zero.
                coef = problem.zero()[0]
                coef[: len(span_coef)] = (result.ray - 1) * span_coef
                scaling = ColumnScaling.of(problem)
                point = point + scaling.columns(coef) * scaling.scale[:, None]
        row = row_of(name, problem, result, loss)
        return cls(row, problem, result.dual, point, center)

    def record(self, features: str) -> dict[str, Any]:
        """Return the row with its points and the name of its features."""
        row, problem = self.row, self.problem
        center = {} if self.center is None else {"center": self.center}
        return {
            "basis": row.basis,
            "features": features,
            "intercept": problem.intercept,
            **center,
            **enclosure(row, self.coordinates, self.dual),
        }


def enclosure(
    bounds: BasisRow | TiltedIdentity, point: Tensor | None, dual: Dual | None
) -> dict[str, Any]:
    """Return upper and lower bound, and the points that prove them."""
    return {
        "value": bounds.value,
        "coordinates": point,
        "norm": None if point is None else float(point.norm()),
        "lower_bound": bounds.lower_bound,
        "norm_budget": bounds.norm_budget,
        "dual": None if dual is None else asdict(dual),
    }


def solve_features(
    subject: Subject,
    bases: Mapping[str, Basis],
    loss: float,
    floor: float,
    max_memory: float,
) -> tuple[list[SolvedBasis], str | None]:
    """Solve the problems of `feature_problems`.

    The second result is the name of the row of several linear layers, if there is one.
    """
    joint = joint_layers(subject.objective)
    solved = []
    for name, problem in feature_problems(subject, bases, joint):
        result = solve_basis(problem, max_memory, floor=floor)
        solved.append(SolvedBasis.of(name, problem, result, loss))
    return solved, next(iter(joint), None)
