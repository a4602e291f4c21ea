"""Implement `MinimaSurvey`, the result of `survey_minima`."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sklearn_pgb._budget import PRINTED_MINIMA
from sklearn_pgb._certificate._certificate import digits

if TYPE_CHECKING:
    import pandas as pd


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
    """Minima reached by trainings of one network from many starts.

    Parameters
    ----------
    loss : ndarray of shape (n_starts,)
        Weighted mean training loss at the end of each training, without penalty.
    objective : ndarray of shape (n_starts,)
        Loss plus the penalty on the weights, if it is known.
    gradient_norm : ndarray of shape (n_starts,)
        Euclidean norm of the objective's gradient.
    verdict : tuple of str
        As in `certify`. "certified_global": no parameters have an objective that is
        smaller by more than the tolerance: it is at the floor or, for convex models
        and networks of linear units, at the bound of their own.
        "not_local_min": a critical point from which a descent succeeded.
        "consistent_with_local_min": a critical point without such a descent.
        "critical": a critical point that was not examined, because the compute budget
        was spent on minima with smaller objectives. "not_critical": training has not
        converged. "undetermined": numerical overflow.
    minimum : ndarray of shape (n_starts,)
        Number of the distinct minimum of each start; 0 has the smallest objective.
        Networks at points that are not critical are numbered as well.
    gradient_basis_bound : ndarray of shape (n_starts,)
        Certified lower bound on the loss over the network's gradient basis, for
        coefficients up to a norm of `gradient_basis_budget`. It is computed for one
        network of each distinct minimum, within a compute budget, and always for the
        best one. Nan for the others.
    gradient_basis_budget : ndarray of shape (n_starts,)
        Norm budget of the coefficients, each multiplied by the norm of its column; see
        `Certificate`.
    floor : float
        Pure-error floor: the smallest loss of any function of the inputs.
    linear : float
        Smallest loss of a linear model of the network's inputs.
    linear_bound : float
        Certified lower bound on it, for coefficients up to a norm of `linear_budget`.
    linear_budget : float
    parameters : ndarray of shape (n_starts, n_params)
        The networks' parameters, layer by layer: the transposed weights row by row,
        then the biases.
    population : bool
        Whether the starts were trained as one population, and not by separate fits.
    tol : float
        Tolerance of the verdicts.

    See Also
    --------
    survey_minima : Compute a survey.
    MinimaSurveyDisplay : Plot a survey.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.neural_network import MLPRegressor
    >>> from sklearn_pgb import survey_minima
    >>> X = np.array([[-1.0, -1], [-1, 1], [1, -1], [1, 1]])
    >>> y = X[:, 0] * X[:, 1]
    >>> network = MLPRegressor(
    ...     hidden_layer_sizes=2, activation="tanh", solver="lbfgs", alpha=1e-3
    ... )
    >>> survey = survey_minima(network, X, y, n_starts=10, random_state=0)
    >>> int(survey.counts.sum())
    10
    >>> float(survey.loss[survey.best].round(2))
    0.0
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
        """Number of distinct minima."""
        return int(self.minimum.max()) + 1

    @property
    def counts(self) -> NDArray[np.intp]:
        """Number of starts that ended at each distinct minimum."""
        return np.bincount(self.minimum)

    @property
    def best(self) -> int:
        """Index of the start with the smallest objective."""
        return int(np.nanargmin(self.objective))

    @property
    def best_bound(self) -> float:
        """Lower bound on the gradient basis of the best network."""
        return float(self.gradient_basis_bound[self.best])

    def to_frame(self) -> "pd.DataFrame":
        """Convert the survey to a DataFrame; needs pandas.

        Returns
        -------
        DataFrame
            One row per start: loss, objective, gradient_norm, verdict, minimum, excess
            over the floor, gradient_basis_bound.
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
        """Format a summary."""
        low, middle, high = np.quantile(self.loss, [0, 0.5, 1], method="nearest")
        rounding = 1e-14 * abs(high)
        words = [
            f"{self.verdict.count(verdict)} {verdict.replace('_', ' ')}"
            for verdict in VERDICTS
            if verdict in self.verdict
        ]
        lines = [
            f"{self.n_starts} starts, {self.n_minima} distinct minima: "
            f"{', '.join(words)} (tol={self.tol:g})",
            f"loss: {low:.4g} (min), {middle:.4g} (median), {high:.4g} (max)",
            f"bounds: floor {digits(self.floor, rounding)}, linear model "
            f"{self.linear:.4g}, gradient basis of the best network "
            f"{digits(self.best_bound, rounding)}",
            "minimum  starts      loss  gradient  verdict",
        ]
        for minimum, count in enumerate(self.counts[:PRINTED_MINIMA]):
            members = np.flatnonzero(self.minimum == minimum)
            start = members[np.argmin(self.objective[members])]
            lines.append(
                f"{minimum:7}  {count:6}  {self.loss[start]:8.4g}  "
                f"{self.gradient_norm[start]:8.1e}  {self.verdict[start]}"
            )
        if self.n_minima > PRINTED_MINIMA:
            lines.append(f"    ...  {self.counts[PRINTED_MINIMA:].sum():6}")
        return "\n".join(lines)
