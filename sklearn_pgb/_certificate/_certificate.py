"""`Certificate`: what is known of a trained network."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from sklearn_pgb._certificate._escape import Escape
from sklearn_pgb._certificate._report import as_html, as_text
from sklearn_pgb._certificate._table import BasisRow
from sklearn_pgb._certificate._tilted import TiltedIdentity

if TYPE_CHECKING:
    import pandas as pd

Verdict = Literal[
    "certified_global", "not_critical", "not_local_min", "consistent_with_local_min"
]


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
