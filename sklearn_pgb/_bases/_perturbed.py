"""The gradient basis at several parameter vectors with the same outputs."""

from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils import check_random_state
from torch import Tensor

from sklearn_pgb._bases._induced import TangentColumns, train_and_open
from sklearn_pgb._bases._tangent import TangentSpace
from sklearn_pgb._budget import NEW_RTOL, RANK_RTOL, TRIALS
from sklearn_pgb._geometry._displacements import Displacement, displacements
from sklearn_pgb._geometry._rank import generic_rank, jacobian_rank, weighted_jacobian
from sklearn_pgb._models._network import Network


class PerturbedGradientBasis(TangentColumns):
    """The partial derivatives of a network at several parameters with equal outputs.

    If displacements v_1, v_2, ... of the parameters theta change no output on the
    training inputs, the columns are those of ::

        [J(theta), J(theta + v_1), J(theta + v_2), ...]

    At a local minimum of the training loss, no model in this basis is better than the
    network (Kawaguchi, Huang and Kaelbling 2019, Theorem 2). If a model is better, the
    point is not a local minimum, even if its gradient is zero: the network can move
    along v_j at equal loss and descend from there.

    This is only possible if the rank of the Jacobian is lower than at nearby
    parameters, so the rank is tested first. If it is not lower, `perturbations_` is
    empty and the basis is the gradient basis. The same holds if the Jacobian is too
    large for the test (more than 2e8 entries, or 5e10 entries times its shorter side).

    Parameters
    ----------
    estimator : estimator or torch.nn.Module
        A network (see `GradientBasisRefit`). It is cloned and trained in `fit`; a
        module or a FrozenEstimator is used without training.
    n_perturbations : int, default=8
        Largest number of displacements. A displacement is only used if its columns are
        not in the span of those before.
    loss : {"squared_error", "poisson", "huber", "log_loss", "binary_log_loss"} or \
            None, default=None
        Training loss of a module; None for an estimator.
    random_state : int, RandomState instance or None, default=None
        Seed of the random displacements, and of the estimator if it has none.

    Attributes
    ----------
    network_ : OpenNetwork
        The trained network.
    space_ : TangentSpace
        The scaled columns.
    perturbations_ : ndarray of shape (n, n_params)
        The displacements.
    perturbation_kinds_ : list of str
        Description of each displacement.
    rank_ : int or None
        Rank of the Jacobian on the training inputs; None if it is too large.
    generic_rank_ : int or None
        Largest rank of the Jacobian found at the parameters and nearby.
    is_singular_ : bool or None
        Whether the rank is lower than `generic_rank_`.

    See Also
    --------
    GradientBasis : The partial derivatives without displacements.

    References
    ----------
    Kawaguchi, Huang, Kaelbling, "Every Local Minimum Value Is the Global Minimum Value
    of Induced Model in Nonconvex Machine Learning", Neural Computation 31(12), 2019.

    Examples
    --------
    The second hidden unit has zero weights, and a zero gradient:

    >>> import numpy as np
    >>> from sklearn.frozen import FrozenEstimator
    >>> from sklearn.neural_network import MLPRegressor
    >>> from sklearn_pgb import PerturbedGradientBasis
    >>> X = np.linspace(-2, 2, 9)[:, None]
    >>> network = MLPRegressor(
    ...     hidden_layer_sizes=(2,), activation="tanh", max_iter=1, random_state=0
    ... ).fit(X, np.sin(X[:, 0]))
    >>> for parameters in (*network.coefs_, *network.intercepts_):
    ...     parameters[..., 1:] = 0
    >>> network.coefs_[1][1] = 0
    >>> basis = PerturbedGradientBasis(FrozenEstimator(network), random_state=0).fit(X)
    >>> basis.is_singular_
    True
    >>> basis.perturbation_kinds_[0]
    'zero outgoing weights'
    """

    def __init__(
        self,
        estimator: Any,
        *,
        n_perturbations: int = 8,
        loss: str | None = None,
        random_state: int | np.random.RandomState | None = None,
    ):
        self.estimator = estimator
        self.n_perturbations = n_perturbations
        self.loss = loss
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> Self:
        seed = check_random_state(self.random_state).randint(2**31)
        generator = torch.Generator().manual_seed(seed)
        self.network_ = train_and_open(self.estimator, X, y, self.loss, seed)
        network, inputs = self.network_.network, self.network_.inputs(X, check=False)
        weight = torch.full((len(inputs),), 1 / len(inputs), dtype=torch.float64)
        rank = nearby_rank = jacobian_rank(network, inputs, weight)
        n_rows = len(inputs) * network.count_outputs(inputs)
        # A full rank cannot be larger nearby.
        if rank is not None and rank < min(n_rows, network.n_params):
            nearby_rank = generic_rank(network, inputs, generator, weight, rank=rank)
        self.rank_ = self.generic_rank_ = self.is_singular_ = None
        if rank is not None and nearby_rank is not None:
            self.rank_, self.generic_rank_ = rank, nearby_rank
            self.is_singular_ = rank < nearby_rank
        kept: list[Displacement] = []
        if self.is_singular_:
            kept = new_displacements(
                network, inputs, weight, self.n_perturbations, generator
            )
        theta = network.theta
        self.perturbations_: NDArray[np.float64] = np.array(
            [displacement.shift.numpy() for displacement in kept]
        ).reshape(-1, len(theta))
        self.perturbation_kinds_ = [displacement.kind for displacement in kept]
        moved = [network.at(theta + displacement.shift) for displacement in kept]
        self.space_ = TangentSpace.of(
            [network, *moved], [inputs] * (1 + len(moved)), weight
        )
        return self


def new_displacements(
    network: Network,
    X: Tensor,
    weight: Tensor,
    n_wanted: int,
    generator: torch.Generator,
) -> list[Displacement]:
    """At most `n_wanted` displacements that each add a direction to the columns."""
    span = _new_directions(weighted_jacobian(network, X, weight), None, RANK_RTOL)
    kept: list[Displacement] = []
    candidates = displacements(network, X, generator=generator, limit=TRIALS * n_wanted)
    for displacement in candidates:
        # If the span has full row rank, no direction is new.
        if len(kept) == n_wanted or span.shape[1] == len(span):
            break
        moved = network.at(network.theta + displacement.shift)
        columns = weighted_jacobian(moved, X, weight)
        directions = _new_directions(columns, span, NEW_RTOL)
        if directions.shape[1]:
            span = torch.cat([span, directions], 1)
            kept.append(displacement)
    return kept


def _new_directions(columns: Tensor, span: Tensor | None, rtol: float) -> Tensor:
    """Orthonormal directions of the columns outside of a span."""
    size = float(torch.linalg.matrix_norm(columns, 2))
    if span is not None:
        # Project twice, because the first residual can be mostly rounding error.
        for _ in range(2):
            columns = columns - span @ (span.T @ columns)
    U, singular, _ = torch.linalg.svd(columns, full_matrices=False)
    # Compare with the columns before projection, because the rest may be rounding.
    return U[:, singular > max(rtol * size, torch.finfo(U.dtype).tiny)]
