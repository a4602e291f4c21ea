"""A convex model on a basis, as an estimator that a scorer can ask."""

import time
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, clone
from sklearn.frozen import FrozenEstimator
from sklearn.utils import _safe_indexing
from torch import Tensor, nn

from sklearn_pgb._bases._basis import Basis
from sklearn_pgb._bases._induced import GradientBasis
from sklearn_pgb._bases._perturbed import PerturbedGradientBasis
from sklearn_pgb._convex._problem import ConvexProblem, Solution
from sklearn_pgb._convex._select import Fold, HeldOut
from sklearn_pgb._convex._solve import solve, warn_if_unconverged
from sklearn_pgb._estimator import _alpha
from sklearn_pgb._estimator._alpha import AlphaChoice, Effort
from sklearn_pgb._estimator._border import (
    AUTO_FOLDS,
    Parts,
    cross_fitting_parts,
    final_estimator,
    fit_parameter,
)
from sklearn_pgb._estimator._targets import ClassifierTargets, RegressorTargets
from sklearn_pgb._estimator._trainer import Trainer
from sklearn_pgb._losses import Loss
from sklearn_pgb._models._network import as_float64
from sklearn_pgb._threads import threads_for_solve


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of positive weight.

    Attributes
    ----------
    X, y : whatever basis and estimator take
    weight : ndarray (n_samples,)
    weighted : bool
        Whether the user gave weights.
    """

    X: Any
    y: Any
    weight: NDArray[np.float64]
    weighted: bool

    def part(self, index: NDArray[np.intp]) -> "Rows":
        """Some of the rows."""
        X, y = (_safe_indexing(array, index) for array in (self.X, self.y))
        return Rows(X, y, self.weight[index], self.weighted)

    def share(self) -> Tensor:
        """Weights that sum to one."""
        return torch.from_numpy(self.weight / self.weight.sum())

    def keywords(self, estimator: Any) -> dict[str, NDArray[np.float64]]:
        """What `fit` of an estimator gets besides X and y.

        Raises
        ------
        ValueError
            If there are weights that the estimator can't take.
        """
        if not self.weighted:
            return {}
        key = fit_parameter(estimator, "sample_weight")
        if key is None:
            name = type(final_estimator(estimator)).__name__
            raise ValueError(
                "sample_weight must be None where an estimator's fit takes no "
                f"sample_weight, got weights for {name}. Leave it out, or train it "
                "yourself and pass it in a FrozenEstimator."
            )
        return {key: self.weight}


def positive(X: Any, y: Any, sample_weight: NDArray[np.float64] | None) -> Rows:
    """The rows of positive weight; all weigh one where none are given."""
    if sample_weight is None:
        return Rows(X, y, np.ones(len(y)), False)
    rows = Rows(X, y, sample_weight, True)
    return rows if sample_weight.all() else rows.part(np.flatnonzero(sample_weight))


def fit_basis(
    basis: Basis, rows: Rows, loss: str, trainer: Trainer, seed: int
) -> Basis:
    """A clone of a basis, fitted; a network inside is trained with the weights."""
    basis = clone(basis)
    params = basis.get_params(deep=False)
    estimator = params.get("estimator")
    if isinstance(estimator, nn.Module) and params["loss"] is None:
        basis.set_params(loss=loss)
    as_it_is = estimator is None or isinstance(estimator, nn.Module | FrozenEstimator)
    if not as_it_is:
        keywords = rows.keywords(estimator)
        trained = trainer.fit(clone(estimator), rows.X, rows.y, keywords, seed)
        basis.set_params(estimator=FrozenEstimator(trained))
    return basis.fit(rows.X, rows.y)


class BasisModel(BaseEstimator):
    """Ridge on the columns of a basis, chosen as `GradientBasisRefit` chooses it.

    The objective is ``sum_i w_i l_i((Phi c)_i + b) + alpha / 2 * size ||c||^2`` with
    the basis' mean squared row norm as `size`, so that one alpha means the same for
    every basis. With the squared loss alpha is chosen by leave-one-out; with others
    by cross-fitting: the basis is refitted on each part of the rows, networks
    included, and asked about rows that it has not seen.

    Parameters
    ----------
    basis : Basis
    loss : {"squared_error", "poisson", "log_loss"}
    alpha : "auto", float or array
    effort : Effort
    seed : int
        Draws the parts, and what networks of other packages draw from torch.
    memory : joblib.Memory, str or None
        Where trained networks are kept.

    Attributes
    ----------
    seconds_ : float
        Of the fit, with the trainings of networks that were loaded from `memory`.
    """

    label_smoothing = 0.0

    def __init__(
        self,
        basis: Basis,
        loss: str,
        alpha: Any,
        effort: Effort,
        seed: int = 0,
        memory: Any = None,
    ):
        self.basis = basis
        self.loss = loss
        self.alpha = alpha
        self.effort = effort
        self.seed = seed
        self.memory = memory

    def fit(
        self, X: Any, y: Any, sample_weight: NDArray[np.float64] | None = None
    ) -> Self:
        """Fit basis and model."""
        start = time.perf_counter()
        self._trainer = Trainer(self.memory)
        rows = positive(X, y, sample_weight)
        self._learn(self._check_targets(rows.y), known=False, classes=None)
        self.basis_ = self._fit_basis(rows)
        self._n_outputs = self._outputs(rows.X)
        self.problem_ = self._problem(self.basis_, rows)
        squares = self.problem_.operator.row_norms()
        size = float((self.problem_.weight @ squares).mean())
        self._size = size if size > 0 else 1.0
        operator = self.problem_.operator
        with threads_for_solve(operator.n_rows, operator.n_coef):
            choice, solution = self._choose(rows)
            self._solution = solution or self._solve(self.problem_, choice.alpha)
        self.alpha_ = choice.alpha
        self.seconds_ = time.perf_counter() - start + self._trainer.saved
        return self

    @abstractmethod
    def _check_targets(self, y: Any, name: str = "y") -> Any:
        """Targets in the shape in which they are used."""

    @abstractmethod
    def _learn(self, y: Any, known: bool, classes: Any, name: str = "y") -> None:
        """Learn the labels and number of targets."""

    @abstractmethod
    def _natural_outputs(self) -> int:
        """Number of raw outputs of a basis that leaves it open."""

    @abstractmethod
    def _loss_of(self, n_outputs: int) -> Loss:
        """The loss for this many raw outputs."""

    @abstractmethod
    def _columns(self, y: Any, n_outputs: int) -> NDArray[np.float64]:
        """Targets of shape (n_samples, n_outputs) for `Loss.encode`."""

    @abstractmethod
    def _outputs(self, X: Any) -> int:
        """Number of raw outputs."""

    def _codes(self, y: Any) -> NDArray[np.intp] | None:
        """Codes by which the parts of the rows are stratified."""
        return None

    def _fit_basis(self, rows: Rows) -> Basis:
        return fit_basis(self.basis, rows, self.loss, self._trainer, self.seed)

    def _targets(self, y: Any) -> Tensor:
        """Encoded targets."""
        columns = self._columns(self._check_targets(y), self._n_outputs)
        return self._loss_of(self._n_outputs).encode(as_float64(columns))

    def _problem(self, basis: Basis, rows: Rows) -> ConvexProblem:
        """The problem of a fitted basis, without a ridge."""
        return ConvexProblem(
            basis.operator(rows.X, self._n_outputs),
            self._targets(rows.y),
            self._loss_of(self._n_outputs),
            rows.share(),
            intercept=basis.intercept,
            rounded=basis.rounded,
        )

    def _solve(self, problem: ConvexProblem, alpha: float) -> Solution:
        effort = self.effort
        solution = solve(
            problem.with_alpha(min(alpha * self._size, np.finfo(float).max)),
            max_memory=effort.max_memory,
            tol=effort.tol,
            max_iter=effort.max_iter,
        )
        if alpha > 0:
            # Without a ridge a separable problem has no solution to converge to.
            warn_if_unconverged(solution, effort.tol, effort.max_iter)
        return solution

    def _choose(self, rows: Rows) -> tuple[AlphaChoice, Solution | None]:
        """The ridge, and the solution where it falls off on the way."""
        if np.ndim(self.alpha) == 0 and not isinstance(self.alpha, str):
            return _alpha.fixed(float(self.alpha)), None
        problem = self.problem_
        total = float(rows.weight.sum())
        if not _alpha.can_leave_out(problem, total):
            raise ValueError(
                "alpha must be a number where n_samples=1, as nothing is left when a "
                f"row is left out, got {self.alpha!r}."
            )
        alphas = _alpha.candidates(self.alpha, problem.loss.quadratic) * self._size
        path = None
        if problem.loss.quadratic:
            path = _alpha.spectral_path(problem, "auto", self.effort.max_memory)
        if path is not None:
            choice = _alpha.by_leave_one_out(problem, path, alphas, total)
            solution = solve(problem.with_alpha(choice.alpha), path=path)
            return self._scaled(choice), solution
        parts = cross_fitting_parts(
            AUTO_FOLDS, rows.X, self._codes(rows.y), rows.weight, self.seed
        )
        folds = [self._fold(rows, *part) for part in self._enough(parts, rows.X)]
        choice, _ = _alpha.by_held_out(folds, problem, alphas, self.effort)
        return self._scaled(choice), None

    def _enough(self, parts: Parts, X: Any) -> Parts:
        return parts[: _alpha.enough(parts, X)]

    def _scaled(self, choice: AlphaChoice) -> AlphaChoice:
        """The choice in units of a basis of mean squared row norm one."""
        size = self._size
        return AlphaChoice(choice.alpha / size, choice.alphas / size, choice.scores)

    def _fold(
        self, rows: Rows, train: NDArray[np.intp], test: NDArray[np.intp]
    ) -> Fold:
        """The basis fitted on some rows, and rows that it has not seen."""
        seen, unseen = rows.part(train), rows.part(test)
        basis = self._fit_basis(seen)
        index = torch.from_numpy(test)
        held = HeldOut(
            index,
            basis.operator(unseen.X, self._n_outputs),
            self._targets(unseen.y),
            rows.share()[index],
        )
        return Fold(self._problem(basis, seen), held)

    def _raw(self, X: Any) -> NDArray[np.float64]:
        """Raw outputs, as the predictions want them."""
        operator = self.basis_.operator(X, self._n_outputs)
        raw = operator.matvec(self._solution.coef) + self._solution.intercept
        return raw.numpy()


class BasisRegressor(RegressorTargets, BasisModel):
    """A convex model of real targets or counts."""

    def _outputs(self, X: Any) -> int:
        return self._natural_outputs()


class BasisClassifier(ClassifierTargets, BasisModel):
    """A convex model of labels or indicators."""

    def _outputs(self, X: Any) -> int:
        natural = self._natural_outputs()
        if natural > 1 or not isinstance(
            self.basis_, GradientBasis | PerturbedGradientBasis
        ):
            return natural
        # A network may have two outputs for two classes, and its basis has them too.
        inputs = self.basis_.network_.inputs(_safe_indexing(X, [0]), check=False)
        return min(self.basis_.space_.operator([inputs]).n_outputs, 2)

    def _codes(self, y: Any) -> NDArray[np.intp] | None:
        return np.unique(y, axis=0, return_inverse=True)[1].reshape(-1)
