"""Choose the regularization strength of a convex model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sklearn_pgb._budget import CHOICE_ROWS, DENSE_SIZE
from sklearn_pgb._convex._heldout import (
    Fold,
    HeldOutPath,
    NoFolds,
    first_best,
    search_path,
)
from sklearn_pgb._convex._influence import LeftOut
from sklearn_pgb._convex._problem import ConvexProblem, Solution
from sklearn_pgb._convex._ridge import RidgePath, ridge_path
from sklearn_pgb._convex._solve import PathSolver, choose_method

# Candidates for a basis with mean squared row norm one. Smaller ones make no numerical
# difference; larger ones leave only the intercept.
SQUARED_LOSS_ALPHAS = np.logspace(1, -10, 45)
OTHER_ALPHAS = np.logspace(0, -8, 17)


@dataclass(frozen=True)
class AlphaChoice:
    """The chosen alpha, with the scores of all candidates.

    Attributes
    ----------
    alpha : float
    alphas : ndarray (n_candidates,)
    scores : ndarray (n_candidates,)
        Mean held-out loss or negative log evidence of each candidate.
    raw : Tensor (n_samples, n_outputs) or None
        Held-out raw outputs of each sample at `alpha`; nan for samples that were not
        left out, as there are many.
    """

    alpha: float
    alphas: NDArray[np.float64]
    scores: NDArray[np.float64]
    raw: Tensor | None = None


@dataclass(frozen=True)
class Effort:
    """Limits of the solvers: memory in bytes, tolerance and iterations."""

    max_memory: float
    tol: float
    max_iter: int


class LeaveOneOut(Protocol):
    """A decomposition with leave-one-out errors in closed form, as `RidgePath`."""

    def leave_one_out(
        self, alphas: Tensor, fraction: Tensor, rows: Tensor | None = None
    ) -> Tensor:
        """Errors of shape (n_alphas, n_rows, n_outputs) for the samples in `rows`.

        None stands for all samples.
        """


def is_number(alpha: object) -> TypeGuard[float]:
    """Whether alpha is given, so that there is nothing to choose."""
    return isinstance(alpha, int | float | np.number)


def check_alpha(alpha: Any, rules: Sequence[str]) -> Any:
    """Check for a rule, a number >= 0 or candidates; return these as an array."""
    if isinstance(alpha, str) and alpha in rules:
        return alpha
    try:
        values = np.asarray(alpha, dtype=np.float64)
    except (TypeError, ValueError):
        values = np.empty(0)
    usable = values.ndim <= 1 and values.size and np.isfinite(values).all()
    is_text = isinstance(alpha, str | bool)
    if is_text or not usable or values.min() < 0 or (values.ndim and 0 in values):
        raise ValueError(
            f"alpha must be {', '.join(map(repr, rules))}, a number >= 0 or a 1-d "
            f"array of positive candidates, got {alpha!r}. Fit with alpha=0 on its own."
        )
    return values if values.ndim else float(values)


def candidate_alphas(alpha: object, quadratic: bool) -> NDArray[np.float64]:
    """Return the user's candidates, or the default ones, in descending order."""
    if not isinstance(alpha, str):
        return np.unique(np.asarray(alpha, dtype=float))[::-1]
    return SQUARED_LOSS_ALPHAS if quadratic else OTHER_ALPHAS


def can_leave_out(counts: Tensor) -> bool:
    """Whether leave-one-out is possible: two samples, or one that counts as more."""
    return len(counts) > 1 or float(counts.sum()) > 1.0


def choose_alpha(
    problem: ConvexProblem,
    rule: str,
    alphas: NDArray[np.float64],
    counts: Tensor,
    effort: Effort,
    folds: Callable[[ConvexProblem], Sequence[Fold]],
    path: LeaveOneOut | None = None,
) -> AlphaChoice:
    """Choose alpha on the samples of a convex problem.

    With a decomposition, the evidence or leave-one-out errors are computed in closed
    form. Otherwise the candidates are scored on held-out samples. If there are none, or
    by the rule "loo", leave-one-out takes one Newton step per sample. This is not the
    default because it is inaccurate if classes are nearly separable, and then favors
    alphas that are far too small.

    Parameters
    ----------
    problem : ConvexProblem
    rule : {"auto", "loo", "evidence", "cv"}
        "cv" never takes Newton steps.
    alphas : ndarray (n_alphas,), descending
    counts : Tensor (n_samples,)
        Number of equal samples that each sample stands for: its weight before
        normalization, without the weight of its class.
    effort : Effort
    folds : callable
        Returns the folds of a problem, or an empty list to take Newton steps. It may
        raise NoFolds.
    path : RidgePath or another decomposition with leave-one-out errors, or None

    Raises
    ------
    NoFolds
        If no sample can be held out, and the problem is too large for Newton steps or
        `rule` is "cv".
    """
    if not can_leave_out(counts):
        raise ValueError(
            "alpha must be a number if n_samples=1, because nothing is left to choose "
            "it when the sample is left out, got one sample of positive weight. Add "
            "samples, or set alpha to a number."
        )
    if rule == "evidence" and isinstance(path, RidgePath):
        # The largest marginal likelihood, for the squared loss.
        grid = torch.as_tensor(alphas.copy()).to(path.eigenvalues)
        scores = -path.log_evidence(grid, float(counts.sum())).cpu().numpy()
        return AlphaChoice(float(alphas[first_best(scores)]), alphas, scores)
    if path is not None:
        return by_leave_one_out(problem, path, alphas, counts)
    operator = problem.operator
    is_dense = min(operator.n_rows, operator.n_coef) <= DENSE_SIZE
    takes_steps = rule != "cv" and not problem.loss.quadratic and is_dense
    parts: Sequence[Fold] = ()
    if not (rule == "loo" and takes_steps):
        try:
            parts = folds(problem)
        except NoFolds:
            if not takes_steps:
                raise
    if parts:
        return _by_heldout(parts, problem, alphas, effort)
    return _by_newton_steps(problem, alphas, counts, effort)


def by_leave_one_out(
    problem: ConvexProblem,
    path: LeaveOneOut,
    alphas: NDArray[np.float64],
    counts: Tensor,
) -> AlphaChoice:
    """Choose alpha for the squared loss by leave-one-out in closed form."""
    n_samples, rows = len(problem.y), torch.arange(len(problem.y))
    if n_samples > CHOICE_ROWS:
        order = np.random.RandomState(0).permutation(n_samples)
        rows = torch.from_numpy(np.sort(order[:CHOICE_ROWS]))
    rows = rows.to(problem.y.device)
    errors = path.leave_one_out(
        torch.as_tensor(alphas.copy()).to(problem.weight),
        _left_out_fraction(problem, counts),
        rows,
    )
    weight = problem.weight[rows]
    mean_squares = torch.einsum("i,aic->a", weight, errors.square()) / weight.sum()
    scores = mean_squares.cpu().numpy()
    best = first_best(scores)
    raw = torch.full_like(problem.y, torch.nan)
    raw[rows] = problem.y[rows] - errors[best]
    return AlphaChoice(float(alphas[best]), alphas, scores, raw)


def _left_out_fraction(problem: ConvexProblem, counts: Tensor) -> Tensor:
    """Part of each sample's weight that is left out.

    It is one of the equal samples that it stands for, so that integer weights equal
    repetition. A sample that counts as less than one is removed entirely.
    """
    return (1.0 / counts.to(problem.weight)).clamp(max=1.0)


def _by_newton_steps(
    problem: ConvexProblem,
    alphas: NDArray[np.float64],
    counts: Tensor,
    effort: Effort,
) -> AlphaChoice:
    """Choose alpha for any loss by leave-one-out, with one Newton step per sample."""
    removed = _left_out_fraction(problem, counts)
    solver = PathSolver(problem, "auto", effort.max_memory)
    solution: Solution | None = None

    def loss(alpha: float) -> float:
        nonlocal solution
        start = None if solution is None else (solution.coef, solution.intercept)
        solution = solver.solve(alpha, start, effort.tol, effort.max_iter)
        current = problem.with_alpha(alpha)
        left_out = LeftOut.of(current, solution.raw, removed)
        return float(problem.data_value(left_out.raw))

    return _best(search_path(loss, alphas.tolist()))


def _by_heldout(
    folds: Sequence[Fold],
    problem: ConvexProblem,
    alphas: NDArray[np.float64],
    effort: Effort,
) -> AlphaChoice:
    """Choose the alpha with the smallest mean loss on held-out samples.

    The best alpha is multiplied by the fraction of samples in a training part: the
    optimal penalty of a mean loss decreases with the number of samples.
    """
    path = HeldOutPath(folds, effort.max_memory, effort.max_iter)
    choice = _best(path.search(alphas.tolist(), effort.tol))
    raw = torch.full_like(problem.y, torch.nan)
    for fold, solution in zip(folds, path.solutions[choice.alpha], strict=True):
        raw[fold.heldout.index] = fold.heldout.raw(solution)
    # Parts may leave samples out of both.
    training_fraction = sum(fold.training_fraction for fold in folds) / len(folds)
    return AlphaChoice(
        choice.alpha * training_fraction,
        choice.alphas * training_fraction,
        choice.scores,
        # Some samples may not be held out in any fold.
        None if bool(raw.isnan().any()) else raw,
    )


def _best(losses: dict[float, float]) -> AlphaChoice:
    """Choose the largest alpha with the smallest loss."""
    alphas = np.array(list(losses))
    scores = np.array(list(losses.values()))
    return AlphaChoice(float(alphas[first_best(scores)]), alphas, scores)


def spectral_path(
    problem: ConvexProblem, solver: str, max_memory: float
) -> RidgePath | None:
    """Return an eigendecomposition for all alphas, or None if it exceeds the memory."""
    # The method only depends on whether alpha is positive.
    method = choose_method(problem.with_alpha(1.0), max_memory, solver)
    return None if method == "matrix-free" else ridge_path(problem, method == "dual")
