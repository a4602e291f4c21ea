"""`MinimaSurvey`: what `survey_minima` found."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd

# Minima in the printed table.
PRINTED = 8

VERDICTS = (
    "certified_global",
    "consistent_with_local_min",
    "not_local_min",
    "critical",
    "not_critical",
    "undetermined",
)


@dataclass(frozen=True, eq=False)
class MinimaSurvey:
    """Where the trainings of one network from many starts ended.

    Parameters
    ----------
    loss : ndarray of shape (n_starts,)
        Weighted mean training loss of each end, without penalties.
    objective : ndarray of shape (n_starts,)
        The same with the penalty on the weights, where it is known.
    gradient_norm : ndarray of shape (n_starts,)
        Euclidean norm of the objective's gradient.
    verdict : tuple of str
        As `certify` judges: "certified_global": the objective is at the floor;
        "not_local_min": a critical point with a way down; "consistent_with_local_min":
        one where none was found; "critical": one that was not examined, because the
        distinct minima before it had taken the time for that; "not_critical": the
        training is not done; "undetermined": its numbers overflow.
    minimum : ndarray of shape (n_starts,)
        Number of the distinct minimum at which each start ended, 0 having the smallest
        objective. Ends that are not critical have numbers as well.
    gradient_basis_bound : ndarray of shape (n_starts,)
        Certified: no coefficients on the gradient basis of that end have a smaller
        loss, up to a norm of `gradient_basis_budget`. Nan where it was not computed: it
        is for one end of each distinct minimum, as far as the time for it reaches, and
        for the best end always.
    gradient_basis_budget : ndarray of shape (n_starts,)
        Of the norm of coefficients, each times the norm of its column; see `certify`.
    floor : float
        Pure-error floor: the least loss of any function of the inputs.
    linear : float
        Least loss of a linear model of the network's inputs.
    linear_bound : float
        Its certified lower bound, for coefficients up to a norm of `linear_budget`.
    linear_budget : float
    parameters : ndarray of shape (n_starts, n_params)
        The networks' parameters, layer by layer: the transposed weights row by row,
        then the biases.
    population : bool
        Whether the starts were trained as one population; by joblib otherwise.
    tol : float
        The tolerance of the verdicts.

    See Also
    --------
    survey_minima : Makes it.
    MinimaSurveyDisplay : Draws it.
    """

    loss: NDArray[np.float64]
    objective: NDArray[np.float64]
    gradient_norm: NDArray[np.float64]
    verdict: tuple[str, ...]
    minimum: NDArray[np.intp]
    gradient_basis_bound: NDArray[np.float64]
    gradient_basis_budget: NDArray[np.float64]
    floor: float
    linear: float
    linear_bound: float
    linear_budget: float
    parameters: NDArray[np.float64]
    population: bool
    tol: float

    @property
    def n_starts(self) -> int:
        """Number of starts."""
        return len(self.loss)

    @property
    def n_minima(self) -> int:
        """Number of distinct ends."""
        return int(self.minimum.max()) + 1

    @property
    def counts(self) -> NDArray[np.intp]:
        """How many starts ended at each distinct minimum."""
        return np.bincount(self.minimum)

    @property
    def best(self) -> int:
        """The start of the smallest objective."""
        return int(np.nanargmin(self.objective))

    @property
    def best_bound(self) -> float:
        """The gradient basis' lower bound at the best end."""
        return float(self.gradient_basis_bound[self.best])

    def to_frame(self) -> "pd.DataFrame":
        """One row per start.

        Returns
        -------
        DataFrame
            Indexed by the number of the start: loss, objective, gradient_norm, verdict,
            minimum, excess over the floor, gradient_basis_bound. It needs pandas.
        """
        import pandas as pd

        frame = pd.DataFrame(
            {
                "loss": self.loss,
                "objective": self.objective,
                "gradient_norm": self.gradient_norm,
                "verdict": self.verdict,
                "minimum": self.minimum,
                "excess": self.loss - self.floor,
                "gradient_basis_bound": self.gradient_basis_bound,
            }
        )
        return frame.rename_axis("start")

    def __str__(self) -> str:
        """A summary to read."""
        low, middle, high = np.quantile(self.loss, [0, 0.5, 1])
        words = [
            f"{self.verdict.count(verdict)} {verdict.replace('_', ' ')}"
            for verdict in VERDICTS
            if verdict in self.verdict
        ]
        lines = [
            f"{self.n_starts} starts, {self.n_minima} distinct ends: "
            f"{', '.join(words)} (tol={self.tol:g})",
            f"loss: {low:.4g} at best, {middle:.4g} in the middle, {high:.4g} at worst",
            f"bounds: floor {_number(self.floor, high)}, linear model "
            f"{self.linear:.4g}, gradient basis of the best end "
            f"{_number(self.best_bound, high)}",
            "minimum  starts      loss  gradient  verdict",
        ]
        for number, count in enumerate(self.counts[:PRINTED]):
            members = np.flatnonzero(self.minimum == number)
            start = members[np.argmin(self.objective[members])]
            lines.append(
                f"{number:7}  {count:6}  {self.loss[start]:8.4g}  "
                f"{self.gradient_norm[start]:8.1e}  {self.verdict[start]}"
            )
        if self.n_minima > PRINTED:
            lines.append(f"    ...  {self.counts[PRINTED:].sum():6}")
        return "\n".join(lines)


def _number(value: float, largest: float) -> str:
    """A loss in words; what is zero up to rounding is zero."""
    return f"{0.0 if abs(value) < 1e-14 * abs(largest) else value:.4g}"
