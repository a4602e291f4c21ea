"""The influence of training samples on the predictions of a refit."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sklearn_pgb._bases._tangent import TangentSpace, mean_raw
from sklearn_pgb._budget import INFLUENCE_COPIES
from sklearn_pgb._convex._influence import (
    LeftOut,
    hessian_factor,
    least_squares_raw,
)
from sklearn_pgb._convex._problem import ConvexProblem
from sklearn_pgb._convex._row_space import RowSpace
from sklearn_pgb._estimator._resources import parse_memory
from sklearn_pgb._models._opened import OpenNetwork, unknown_labels
from sklearn_pgb._operators._blocks import row_slices
from sklearn_pgb._operators._dense import DenseOperator
from sklearn_pgb._operators._operator import LinearOperator
from sklearn_pgb._refit._arguments import check_validation_data, check_weight
from sklearn_pgb._refit._outputs import all_classes
from sklearn_pgb._refit._request import RefitRequest
from sklearn_pgb._refit._training import with_classes
from sklearn_pgb._threads import threads_for_solve

Array = NDArray[np.float64]


class Influential:
    """Mixin of the refit, with the effects of leaving out training samples."""

    _open: Any

    def influence(self, X, X_train, y_train, sample_weight=None, *, top_k=None):
        """Compute how predictions change if a training sample is left out.

        Without sample j, the convex problem is::

            min_c  sum_{i != j} w_i l(J(x_i) c, y_i) + (alpha / 2) ||c - c_0||^2

        The weights w_i of the other samples, alpha, the center and the basis stay as
        they are, as in a ridge regression with the same `alpha` on fewer samples. The
        networks are not trained again. The change of the solution is exact for the
        squared loss, and one Newton step from the refit's coefficients for others.

        If alpha was chosen on folds with the squared loss, predictions are those of
        the average of this solution and the folds' solutions. The influence is then
        that on this solution.

        A fitted refit holds no training samples, so that it stays small. Pass them
        again; their training loss is compared with that of `fit`.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Samples to predict.
        X_train : array-like or sparse matrix of shape (n_train, n_features)
            The training samples, as in `fit`.
        y_train : array-like of shape (n_train,) or (n_train, n_outputs)
            Their targets or labels.
        sample_weight : array-like of shape (n_train,), default=None
            Their weights, as in `fit`.
        top_k : int, default=None
            Number of training samples to return for each prediction. None returns all;
            with a number, no array of shape (n_samples, n_train) is formed.

        Returns
        -------
        influence : ndarray of shape (n_samples, n_train) or \
                (n_samples, n_train, n_outputs)
            Prediction without the sample minus prediction with it. For classifiers it
            is that of `decision_function`. Only returned if `top_k` is None.
        indices, values : ndarray of shape (n_samples, top_k) or \
                (n_samples, top_k, n_outputs) for the values
            The training samples with the largest influence, in descending order of
            size (over all outputs), and their influence. Only returned with `top_k`.

        Raises
        ------
        ValueError
            If the training samples are not those of `fit`, the matrices exceed
            `max_memory`, or the solution with or without a sample is not unique.
        """
        models, X = self._open(X)
        inputs, raw = models.inputs(X), models.raw(X)
        training = _Training.of(self, X_train, y_train, sample_weight)
        n_kept = len(training.rows)
        is_number = isinstance(top_k, int | np.integer) and not isinstance(top_k, bool)
        if top_k is not None and not (is_number and 1 <= top_k <= n_kept):
            raise ValueError(
                "top_k must be None or an int from 1 to the number of training samples "
                f"of positive weight, {n_kept}, got {top_k!r}."
            )
        parts = []
        for rows in row_slices(len(inputs[0]), training.block_size):
            block = [each[rows] for each in inputs]
            parts.append(training.influence(block, raw[rows], top_k))
        if top_k is None:
            return np.concatenate(parts)
        indices, values = (np.concatenate(each) for each in zip(*parts, strict=True))
        return indices, values

    def leave_one_out_prediction(self, X_train, y_train, sample_weight=None):
        """Predict each training sample by the solution without it; see `influence`.

        The networks have seen the sample, so this is optimistic; `oof_score_` is not.

        Parameters
        ----------
        X_train : array-like or sparse matrix of shape (n_train, n_features)
            The training samples, as in `fit`.
        y_train : array-like of shape (n_train,) or (n_train, n_outputs)
            Their targets or labels.
        sample_weight : array-like of shape (n_train,), default=None
            Their weights, as in `fit`.

        Returns
        -------
        ndarray of shape (n_train,) or (n_train, n_outputs)
            Predictions of a regressor, `decision_function` of a classifier; nan for
            samples of weight zero.

        Raises
        ------
        ValueError
            As for `influence`.
        """
        training = _Training.of(self, X_train, y_train, sample_weight)
        return training.leave_one_out()


@dataclass(frozen=True, eq=False)
class _Training:
    """The training samples of a refit, and the models that leave out one of them.

    Attributes
    ----------
    refit : GradientBasisRefit
    opened : OpenNetwork
        The first network, with the labels of the training.
    space : TangentSpace
    row_space : RowSpace or None
        Coordinates of a basis with more columns than rows.
    left_out : LeftOut
    rows : Tensor (n_kept,)
        Indices of the samples of positive weight.
    n_train : int
    """

    refit: Any
    opened: OpenNetwork
    space: TangentSpace
    row_space: RowSpace | None
    left_out: LeftOut
    rows: Tensor
    n_train: int

    @classmethod
    def of(cls, refit: Any, X: Any, y: Any, sample_weight: Any) -> "_Training":
        """Check training samples, solve the convex problem and leave out samples."""
        request = RefitRequest.at_last_fit(refit)
        models, X = refit._open(X)
        inputs = models.inputs(X)
        X, y = check_validation_data(refit, request, refit._sample_shape, X, y)
        weight, _ = check_weight(request, X, y, sample_weight)
        rows = torch.from_numpy(np.flatnonzero(weight))
        inputs = [each[rows.to(each.device)] for each in inputs]
        raw = models.raw(X)[rows.to(inputs[0].device)]
        opened = _with_labels(refit, models.opened[0], y, raw.shape[1])
        networks = [each.network for each in models.opened]
        space = TangentSpace.with_scales(networks, inputs, refit._scales)
        kept_weight = torch.from_numpy(weight).to(raw)[rows.to(raw.device)]
        problem = ConvexProblem(
            space.operator(inputs),
            opened.targets(y[rows.numpy()], raw.shape[1]).to(raw.device),
            opened.loss,
            kept_weight / kept_weight.sum(),
            alpha=refit.alpha_,
            intercept=space.intercept,
            offset=mean_raw(networks, inputs) if refit.center_ == "average" else None,
        )
        _check_problem(refit, problem, raw)
        row_space = None
        operator: LinearOperator = problem.operator
        with threads_for_solve(operator.n_rows, operator.n_coef):
            size = 8 * operator.n_rows * operator.n_coef * INFLUENCE_COPIES
            if operator.n_coef > operator.n_rows:
                row_space = RowSpace.of(operator)
                problem = replace(problem, operator=row_space.features)
            elif size <= parse_memory(refit.max_memory):
                # The basis is read four times.
                problem = replace(problem, operator=DenseOperator(operator.dense()))
            factor = hessian_factor(problem, raw)
            if problem.loss.quadratic:
                # The refit may average this solution with those of the folds.
                raw = least_squares_raw(problem, factor)
            whole = torch.ones_like(problem.weight)
            left_out = LeftOut.of(problem, raw, whole, factor)
        least = int(left_out.determinants.argmin())
        # Smaller determinants are zero up to rounding.
        if not float(left_out.determinants[least]) > 1e-10:
            raise ValueError(
                "X_train must determine the solution without any one of its samples, "
                f"but it is not unique without sample {int(rows[least])}. Add samples, "
                "or fit with a larger alpha."
            )
        fields = refit, opened, space, row_space, left_out, rows, len(y)
        return cls(*fields)

    @property
    def block_size(self) -> int:
        """Number of predictions whose bases and changes fit into memory.

        All training samples are evaluated again for each block.
        """
        operator = self.left_out.problem.operator
        size = operator.n_outputs * (operator.n_coef + operator.n_samples)
        limit = parse_memory(self.refit.max_memory) / INFLUENCE_COPIES
        return max(1, int(limit / (8 * size)))

    def influence(self, inputs: list[Tensor], raw: Tensor, top_k: int | None) -> Any:
        """Changes of the predictions at some inputs, or indices and largest changes."""
        operator: LinearOperator = self.space.operator(inputs)
        if self.row_space is not None:
            operator = self.row_space.features_of(operator)
        if top_k is not None:
            indices, changes = self.left_out.largest_changes(
                operator, top_k, lambda changes: self._in_units(raw, changes)
            )
            return self.rows[indices.cpu()].numpy(), self._flat(changes.numpy())
        blocks = [
            self._in_units(raw, changes)
            for _, changes in self.left_out.changes(operator)
        ]
        kept = self._flat(torch.cat(blocks, 1).numpy())
        result = np.zeros((len(kept), self.n_train, *kept.shape[2:]))
        result[:, self.rows.numpy()] = kept
        return result

    def leave_one_out(self) -> Array:
        """Predictions of the training samples by the models without them."""
        kept = self._flat(self._predict(self.left_out.raw))
        result = np.full((self.n_train, *kept.shape[1:]), np.nan)
        result[self.rows.numpy()] = kept
        return result

    def _in_units(self, raw: Tensor, changes: Tensor) -> Tensor:
        """Changes of predictions for changes (n_samples, n_left_out, n_outputs).

        The last axis is that of the predictions, also if it has one entry.
        """
        k, refit = raw.shape[1], self.refit
        is_linear = not self.opened.target_transformers
        is_linear &= self.opened.loss.predict(raw) is raw
        if self.opened.loss.is_classification:
            is_linear = len(refit._output_classes) == len(refit.classes_)
        if is_linear:
            # Differences of predictions would lose digits.
            result = self._predict(changes.reshape(-1, k))
        else:
            start = raw[:, None].expand_as(changes).reshape(-1, k)
            changed = start + changes.reshape(-1, k)
            result = self._predict(changed) - self._predict(start)
        return torch.from_numpy(result.reshape(*changes.shape[:2], -1))

    def _predict(self, raw: Tensor) -> Array:
        """Predictions or decision function of raw outputs, with two dimensions."""
        if self.opened.loss.is_classification:
            targets, decision = all_classes(self.refit, self.opened, raw)
            return targets.decision(decision).reshape(len(raw), -1)
        mean = self.opened.loss.predict(raw).cpu().numpy()
        return self.opened.untransform(mean)

    def _flat(self, result: Array) -> Array:
        """Remove the last axis if predictions have one dimension."""
        is_flat = self.refit._flat
        if self.opened.loss.is_classification:
            is_flat = not self.refit._multilabel and len(self.refit.classes_) == 2
        return result[..., 0] if is_flat else result


def _with_labels(refit: Any, opened: OpenNetwork, y: Any, n_outputs: int) -> Any:
    """Check labels, and give the opened classifier the labels of the training."""
    if not opened.loss.is_classification:
        return opened
    if refit._multilabel or y.ndim > 1:
        return with_classes(opened, y, n_outputs)
    unknown = unknown_labels(y, refit.classes_)
    if len(unknown):
        raise ValueError(
            f"y_train must hold labels of the fit, {refit.classes_.tolist()}, got "
            f"{unknown.tolist()} too. Pass the labels that were passed to fit."
        )
    return with_classes(opened, refit._output_classes, n_outputs)


def _check_problem(refit: Any, problem: ConvexProblem, raw: Tensor) -> None:
    """Raise if the samples are not those of `fit`, or the solution is not unique.

    `raw` holds the outputs of the refit.
    """
    if np.isinf(refit.alpha_):
        raise ValueError(
            "alpha_ must be finite, got inf: this refit is the mean of its networks, "
            "which depends on training samples through their training alone. Fit with "
            "a number as alpha."
        )
    loss, expected = float(problem.data_value(raw)), refit.refit_loss_
    size = abs(float(problem.data_value(torch.zeros_like(raw))))
    if not abs(loss - expected) <= 1e-6 * abs(expected) + 1e-11 * size:
        raise ValueError(
            "X_train, y_train and sample_weight must be those of fit, where the loss "
            f"of the refit was {expected:.6g}, got samples with a loss of {loss:.6g}. "
            "Pass the training samples with their weights."
        )
    operator, k = problem.operator, problem.operator.n_outputs
    if refit.alpha_ == 0 and refit.rank_ != operator.n_coef + k * problem.intercept:
        raise ValueError(
            "alpha_ must be positive for a basis whose columns are dependent or whose "
            "rank is unknown, got 0: the solution is not unique. Fit with a positive "
            "alpha."
        )
    width, limit = min(operator.n_coef, operator.n_rows), parse_memory(refit.max_memory)
    if 8 * INFLUENCE_COPIES * width**2 > limit:
        raise ValueError(
            f"max_memory must hold matrices of {width} rows and columns, at least "
            f"{8 * INFLUENCE_COPIES * width**2} bytes, got {limit:.0f}. Raise it."
        )
