"""Regularized convex models on a basis, as estimators."""

import time
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, clone
from sklearn.frozen import FrozenEstimator
from torch import Tensor, nn

from sklearn_pgb._bases._basis import Basis
from sklearn_pgb._bases._induced import GradientBasis
from sklearn_pgb._bases._perturbed import PerturbedGradientBasis
from sklearn_pgb._budget import AUTO_FOLDS
from sklearn_pgb._convex._choice import (
    Effort,
    candidate_alphas,
    choose_alpha,
    is_number,
    spectral_path,
)
from sklearn_pgb._convex._heldout import Fold, HeldOut
from sklearn_pgb._convex._problem import ConvexProblem, Solution
from sklearn_pgb._convex._solve import solve, warn_if_unconverged
from sklearn_pgb._estimator._fit_parameters import weight_keyword
from sklearn_pgb._estimator._folds import cross_fitting_parts, enough_folds
from sklearn_pgb._estimator._predictors import NetworkClassifier, NetworkRegressor
from sklearn_pgb._estimator._trainer import Trainer
from sklearn_pgb._models._open import has_trees, holds_frozen
from sklearn_pgb._samples import Samples
from sklearn_pgb._sklearn import _safe_indexing
from sklearn_pgb._targets import class_codes
from sklearn_pgb._threads import threads_for_solve


def positive_samples(
    X: Any, y: Any, sample_weight: NDArray[np.float64] | None
) -> Samples:
    """Select the samples of positive weight; None stands for equal weights."""
    if sample_weight is None:
        return Samples(X, y, np.ones(len(y)), weighted=False)
    samples = Samples(X, y, sample_weight)
    if sample_weight.all():
        return samples
    return samples.rows(np.flatnonzero(sample_weight))


def weight_keywords(estimator: Any, samples: Samples) -> dict[str, NDArray[np.float64]]:
    """Return the keyword arguments of an estimator's `fit`."""
    if not samples.weighted:
        return {}
    advice = "Remove it, or train it yourself and pass it in a FrozenEstimator."
    return {weight_keyword(estimator, advice): samples.weight}


def fit_basis(
    basis: Basis, samples: Samples, loss: str, trainer: Trainer, seed: int
) -> Basis:
    """Fit a clone of a basis; its network is trained with the sample weights."""
    basis = clone(basis)
    params = basis.get_params(deep=False)
    estimator = params.get("estimator")
    if isinstance(estimator, nn.Module) and params["loss"] is None:
        basis.set_params(loss=loss)
    if estimator is not None and holds_frozen(estimator) and has_trees(estimator):
        raise ValueError(
            "bases must not hold trees in a FrozenEstimator, because trees memorize "
            f"the samples they were trained on, got {estimator!r}. Pass them unfrozen."
        )
    if not (estimator is None or isinstance(estimator, nn.Module | FrozenEstimator)):
        keywords = weight_keywords(estimator, samples)
        trained = trainer.fit(clone(estimator), samples.X, samples.y, keywords, seed)
        basis.set_params(estimator=FrozenEstimator(trained))
    return basis.fit(samples.X, samples.y)


class BasisModel(BaseEstimator):
    """Linear model on a basis with a ridge penalty and a choice of alpha.

    The objective is ``sum_i w_i l_i((Phi c)_i + b) + alpha / 2 * size ||c||^2`` with
    the basis' mean squared row norm as `size`, so that alpha is comparable between
    bases. With the squared loss, alpha is chosen by leave-one-out. With other losses,
    and on bases of trees, it is chosen by cross-fitting: the basis, including any
    network, is refitted on each training part and scored on held-out samples.

    The seed is that of the folds, and of torch for networks of other packages. Trained
    networks are cached in `memory`; `seconds_` includes their trainings.
    """

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
        """Fit the basis, choose alpha and fit the model."""
        start = time.perf_counter()
        self._trainer = Trainer(self.memory)
        samples = positive_samples(X, y, sample_weight)
        self._learn(self._kind_of_targets.checked(samples.y))
        self.basis_ = self._fit_basis(samples)
        self._n_outputs = self._outputs(samples.X)
        self.problem_ = self._problem(self.basis_, samples)
        squares = self.problem_.operator.squared_row_norms()
        size = float((self.problem_.weight @ squares).mean())
        self._size = size if size > 0 else 1.0  # a basis of zeros
        operator = self.problem_.operator
        with threads_for_solve(operator.n_rows, operator.n_coef):
            self.alpha_, solution = self._choose(samples)
            self._solution = solution or self._solve(self.problem_, self.alpha_)
        self.seconds_ = time.perf_counter() - start + self._trainer.saved
        return self

    def _fit_basis(self, samples: Samples) -> Basis:
        return fit_basis(self.basis, samples, self.loss, self._trainer, self.seed)

    def _outputs(self, X: Any) -> int:
        """Number of raw outputs; a network may have two of them for two classes."""
        targets = self._targets
        has_network = isinstance(self.basis_, GradientBasis | PerturbedGradientBasis)
        may_have_two = targets.loss.is_classification and has_network
        if targets.n_outputs > 1 or not may_have_two:
            return targets.n_outputs
        inputs = self.basis_.network_.inputs(_safe_indexing(X, [0]), check=False)
        return min(self.basis_.space_.operator([inputs]).n_outputs, 2)

    def _encoded(self, y: Any) -> Tensor:
        """Encoded targets."""
        checked = self._kind_of_targets.checked(y)
        return self._targets.encode(checked, self._n_outputs)

    def _problem(self, basis: Basis, samples: Samples) -> ConvexProblem:
        """Convex problem on a fitted basis, without penalty."""
        return ConvexProblem(
            basis.operator(samples.X, self._n_outputs),
            self._encoded(samples.y),
            self._targets.loss_for(self._n_outputs),
            torch.from_numpy(samples.normalized_weight),
            intercept=basis.intercept,
            rounded_columns=basis.rounded_columns,
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
            # Without a penalty, a separable problem has no finite solution.
            warn_if_unconverged(solution, effort.tol, effort.max_iter)
        return solution

    def _choose(self, samples: Samples) -> tuple[float, Solution | None]:
        """Choose alpha; return the solution too if it is computed on the way."""
        if is_number(self.alpha):
            return float(self.alpha), None
        problem, size = self.problem_, self._size
        path = None
        # Trees memorize their samples, so leave-one-out errors of a refit are too
        # small.
        memorized = has_trees(self.basis.get_params(deep=False).get("estimator"))
        if problem.loss.quadratic and not memorized:
            path = spectral_path(problem, "auto", self.effort.max_memory)
        choice = choose_alpha(
            problem,
            "cv" if path is None else "loo",
            candidate_alphas(self.alpha, problem.loss.quadratic) * size,
            torch.from_numpy(samples.counts),
            self.effort,
            lambda _: self._folds(samples),
            path,
        )
        solution = None
        if path is not None:
            solution = solve(problem.with_alpha(choice.alpha), path=path)
        return choice.alpha / size, solution

    def _folds(self, samples: Samples) -> list[Fold]:
        """Fit a basis on each fold, for as many folds as hold out enough samples."""
        classifies = self._targets.loss.is_classification
        labels = class_codes(samples.y) if classifies else None
        parts = cross_fitting_parts(
            AUTO_FOLDS, samples.X, labels, samples.weight, self.seed
        )
        folds = []
        for train, test in enough_folds(parts, samples.X):
            training, heldout = samples.rows(train), samples.rows(test)
            basis = self._fit_basis(training)
            part = HeldOut(
                torch.from_numpy(test),
                basis.operator(heldout.X, self._n_outputs),
                self._encoded(heldout.y),
                torch.from_numpy(samples.normalized_weight[test]),
            )
            fraction = float(samples.normalized_weight[train].sum())
            folds.append(Fold(self._problem(basis, training), part, fraction))
        return folds

    def _raw(self, X: Any) -> NDArray[np.float64]:
        """Raw outputs of the model."""
        operator = self.basis_.operator(X, self._n_outputs)
        raw = operator.matvec(self._solution.coef) + self._solution.intercept
        return raw.numpy()


class BasisRegressor(NetworkRegressor, BasisModel):
    """A basis model for real targets or counts."""


class BasisClassifier(NetworkClassifier, BasisModel):
    """A basis model for class labels or 0/1 indicators."""
