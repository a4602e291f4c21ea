"""Extract a network, its data and its training objective from an estimator."""

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.utils import check_consistent_length
from torch import Tensor, nn

from sklearn_pgb._certificate._terms import (
    terms_of_mlp,
    terms_of_model,
    terms_of_module,
)
from sklearn_pgb._convex._problem import ConvexProblem
from sklearn_pgb._estimator._border import dense
from sklearn_pgb._estimator._row_codes import row_codes
from sklearn_pgb._losses._floor import PureErrorFloor, pure_error_floor
from sklearn_pgb._models._network import Head, as_float64
from sklearn_pgb._models._open import named_loss, open_network, unwrap
from sklearn_pgb._models._opened import NetworkEstimator, OpenNetwork, TrainingTerms
from sklearn_pgb._models._skorch import is_skorch
from sklearn_pgb._samples import checked_weights
from sklearn_pgb._sklearn import _safe_indexing
from sklearn_pgb._targets import check_some_weight
from sklearn_pgb._training._objective import Objective
from sklearn_pgb._training._program import NetworkProgram


@dataclass(frozen=True, eq=False)
class Subject:
    """A trained network with its data and objective.

    X and y are inputs and targets of the estimator, samples of positive weight only.
    Samples that are equal in the given X have the same number in `group`.
    """

    name: str
    objective: Objective
    head: Head
    X: Any
    y: Any
    notes: tuple[str, ...]
    group: Tensor

    def floor(self) -> PureErrorFloor:
        """Smallest loss of any function of the inputs."""
        objective = self.objective
        group = self.group[:, None]
        return pure_error_floor(group, objective.y, objective.loss, objective.weight)

    def span_error(self, problem: ConvexProblem) -> float | None:
        """Relative error of the outputs as ``f = J g``; None if no g is known.

        `problem` is the one on the derivatives J, with the outputs f as its offset.
        """
        coef, raw = self.head.span_coef, problem.base
        if coef is None:
            return None
        error = float((problem.operator.matvec(coef) - raw).norm())
        return error / max(float(raw.norm()), np.finfo(float).tiny)


def open_subject(
    estimator: Any,
    X: Any,
    y: Any,
    *,
    sample_weight: Any,
    loss: str | None = None,
    penalty: Any = None,
) -> Subject:
    """Open a fitted network on its training data."""
    if y is None:
        raise ValueError(
            "y must be the targets or labels that the network was trained on, got None."
        )
    opened, y = _open(estimator, loss), dense(y)
    if sp.issparse(X):
        # Not every sparse format supports row indexing.
        X = cast(Any, X).tocsr()
    inputs = opened.inputs(X)
    n_outputs = opened.network.count_outputs(inputs)
    opened = opened.for_targets(y, n_outputs)
    check_consistent_length(inputs, y)
    user_weight = checked_weights(sample_weight, inputs.numpy())
    final = unwrap(estimator)[0]
    terms, weight = _training_terms(final, opened, inputs, y, user_weight)
    # Samples whose normalized weight underflows are absent, as those without weight.
    normalized = _normalized(weight)
    kept = np.flatnonzero(normalized)
    check_some_weight(normalized, "Pass the samples of the training.")
    rows = torch.from_numpy(kept)
    X, targets = _safe_indexing(X, kept), _safe_indexing(y, kept)
    if penalty is None:
        checked_penalty = terms.penalty
    else:
        checked_penalty = _check_penalty(penalty, opened)
    objective = Objective(
        NetworkProgram(opened.network),
        opened.loss,
        inputs[rows],
        # Labels of samples without weight are not counted, as in training.
        opened.targets(targets, n_outputs),
        as_float64(normalized[kept]),
        as_float64(checked_penalty),
    )
    return Subject(
        name=type(final).__name__,
        objective=objective,
        # The head has the same form on all samples, so a few are enough to find it.
        head=opened.network.find_head(objective.X[:8]),
        X=X,
        y=targets,
        notes=terms.notes if penalty is None else (),
        # For trees, samples with the same leaves are the same.
        group=torch.from_numpy(
            row_codes(X if opened.encode is None else objective.X.numpy())
        ),
    )


def _normalized(weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """Divide weights by their sum, which may overflow; zeros stay zeros."""
    relative = weight / (weight.max(initial=0.0) or 1.0)
    return relative / (relative.sum() or 1.0)


def _open(estimator: Any, loss: str | None) -> OpenNetwork:
    """Open the network; `loss` must be given for a module and only for a module."""
    known = named_loss(loss)
    if hasattr(estimator, "refit_loss_"):
        raise TypeError(
            f"estimator must be a network, got {type(estimator).__name__}, a convex "
            "model: its own lower_bound_ and duality_gap_ certify it. Pass its "
            "estimator_ to certify the network that it was refitted from."
        )
    opened = open_network(estimator, loss=known)
    if known is not None and opened.kind is not None:
        raise ValueError(
            "loss must be None for an estimator, which has its own training loss, "
            f"got {loss!r}. Pass a loss with a torch module only."
        )
    return opened


def _check_penalty(penalty: Any, opened: OpenNetwork) -> NDArray[np.float64]:
    """Check the penalty and broadcast it to one number per parameter."""
    if isinstance(penalty, torch.Tensor):
        penalty = penalty.detach().cpu().numpy()
    n_params = opened.network.n_params
    try:
        values = np.asarray(penalty, dtype=np.float64)
        fits = values.ndim == 0 or values.shape == (n_params,)
    except (TypeError, ValueError):
        fits = False
    if not fits or not np.isfinite(values).all() or (values < 0).any():
        raise ValueError(
            f"penalty must be a number >= 0, or {n_params} of them, one for each "
            f"parameter, got {penalty!r}. It multiplies the squared parameters."
        )
    return np.broadcast_to(values, n_params).copy()


def _training_terms(
    final: Any,
    opened: OpenNetwork,
    inputs: Tensor,
    y: Any,
    user_weight: NDArray[np.float64],
) -> tuple[TrainingTerms, NDArray[np.float64]]:
    """Penalty in the estimator's training, and the weights of the samples.

    The package's estimators drop samples without weight before they count classes;
    scikit-learn's networks count such samples in their batches.
    """
    if isinstance(final, NetworkEstimator):
        kept = np.flatnonzero(user_weight)
        rows = inputs.numpy()[kept]
        terms = final._training_terms(rows, _safe_indexing(y, kept), user_weight[kept])
        weight = user_weight.copy()
        weight[kept] *= terms.row_weight
        return terms, weight
    if isinstance(final, MLPRegressor | MLPClassifier):
        return terms_of_mlp(final, opened, user_weight), user_weight
    if isinstance(final, nn.Module) or is_skorch(final):
        return terms_of_module(final, opened, user_weight), user_weight
    terms = terms_of_model(final, opened, y, user_weight)
    return terms, user_weight * terms.row_weight
