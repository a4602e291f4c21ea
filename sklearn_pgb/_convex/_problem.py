"""The convex problem behind all solvers, its solution and certified lower bounds."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sklearn_pgb._losses._loss import Loss
from sklearn_pgb._operators._dense import KroneckerOperator
from sklearn_pgb._operators._operator import LinearOperator
from sklearn_pgb._operators._stacked import StackedOperator


@dataclass(frozen=True)
class ConvexProblem:
    """A loss on a basis, with penalized coefficients and an unpenalized intercept.

    The objective is ::

        P(c, b) = sum_i w_i l_i(o_i + (Phi c)_i + b) + (alpha / 2) ||c||^2

    Parameters
    ----------
    operator : LinearOperator
        The basis Phi on the samples.
    y : Tensor (n_samples, n_outputs)
        Encoded targets (`Loss.encode`).
    loss : Loss
    weight : Tensor (n_samples,)
        Positive, summing to one.
    alpha : float
        Regularization strength of the coefficients.
    intercept : bool
        Whether b is free; it is zero otherwise.
    offset : Tensor (n_samples, n_outputs) or None
        Fixed part o of the raw outputs.
    rounded_columns : bool
        Whether the columns are computed by a network. Bounds then also hold for the
        columns without rounding errors.
    """

    operator: LinearOperator
    y: Tensor
    loss: Loss
    weight: Tensor
    alpha: float = 0.0
    intercept: bool = True
    offset: Tensor | None = None
    rounded_columns: bool = False

    def with_alpha(self, alpha: float) -> "ConvexProblem":
        """The same problem with another regularization strength."""
        return replace(self, alpha=float(alpha))

    def single(self) -> "ConvexProblem":
        """The same problem in float32, if its operator supports it."""
        operator = self.operator.single()
        return replace(
            self,
            operator=operator,
            y=self.y.to(operator.dtype),
            weight=self.weight.to(operator.dtype),
            offset=None if self.offset is None else self.offset.to(operator.dtype),
        )

    def rows(self, index: Tensor) -> "ConvexProblem":
        """The problem on the samples in `index`, with weights normalized again."""
        weight = self.weight[index]
        return replace(
            self,
            operator=self.operator.rows(index),
            y=self.y[index],
            weight=weight / weight.sum(),
            offset=None if self.offset is None else self.offset[index],
        )

    def one_output(self) -> "ConvexProblem":
        """The same problem for the first output, on features that all outputs use."""
        offset = None if self.offset is None else self.offset[:, :1]
        operator = self.operator.one_output()
        return replace(self, operator=operator, y=self.y[:, :1], offset=offset)

    @property
    def base(self) -> Tensor:
        """Raw outputs of zero coefficients: the offset, or zeros."""
        return torch.zeros_like(self.y) if self.offset is None else self.offset

    def centered(self, values: Tensor) -> Tensor:
        """Subtract the weighted mean if the problem has an intercept."""
        return values - self.weight @ values if self.intercept else values

    def centered_target(self) -> Tensor:
        """The targets minus the offset, centered if the problem has an intercept."""
        return self.centered(self.y - self.base)

    def raw(self, coef: Tensor, intercept: Tensor) -> Tensor:
        """Raw outputs of the model on the samples."""
        raw = self.operator.matvec(coef) + intercept
        return raw if self.offset is None else raw + self.offset

    def data_value(self, raw: Tensor) -> Tensor:
        """Weighted mean loss at given raw outputs."""
        return self.weight @ self.loss.value(self.y, raw)

    def largest_value(self, raw: Tensor, error: Tensor) -> float:
        """Upper bound on `data_value` if each output is off by up to `error`."""
        return float(self.weight @ self.loss.largest(self.y, raw, error))

    def residual(self, raw: Tensor) -> Tensor:
        """w_i times the gradient of l_i, of shape (n_samples, n_outputs)."""
        return self.weight[:, None] * self.loss.gradient(self.y, raw)

    def zero(self) -> tuple[Tensor, Tensor]:
        """Coefficients and intercept that are all zero."""
        return (
            self.weight.new_zeros(self.operator.n_coef),
            self.weight.new_zeros(self.operator.n_outputs),
        )

    def augmented(self) -> LinearOperator:
        """Phi followed by the intercept's columns, if the problem has an intercept."""
        if not self.intercept:
            return self.operator
        features, k = self.operator.shared_features, self.operator.n_outputs
        ones = self.weight.new_ones(self.operator.n_samples, 1)
        if features is not None:
            return KroneckerOperator(torch.cat([features, ones], 1), k)
        return StackedOperator([self.operator, KroneckerOperator(ones, k)], [1.0, 1.0])


@dataclass(frozen=True)
class Solution:
    """Coefficients of a convex problem with the certificate computed at them.

    `value` and `data_value` are the objective with and without the penalty at the raw
    outputs `raw`; `lower_bound` is a certified lower bound on the objective of all
    coefficients.
    """

    coef: Tensor
    intercept: Tensor
    raw: Tensor
    value: float
    data_value: float
    lower_bound: float
    n_iter: int
    converged: bool

    @property
    def gap(self) -> float:
        """Largest distance of the objective from the optimum, up to rounding."""
        return max(self.value - self.lower_bound, 0.0)


def finish(
    problem: ConvexProblem,
    coef: Tensor,
    intercept: Tensor,
    n_iter: int,
    converged: bool,
    dual: Tensor | None = None,
    certified: bool = True,
) -> Solution:
    """Compute value and lower bound at given coefficients.

    The lower bound uses the loss gradients as dual point. With a second point `dual`,
    the larger of both bounds counts. If not `certified`, it is the weighted sum of the
    samples' minima, which needs no product with the basis.
    """
    if problem.loss.dual_rows_sum_to_zero:
        # The loss is invariant to adding a constant to all outputs. Centering them
        # makes the intercept independent of the start, and the penalty smallest.
        intercept = intercept - intercept.mean()
        if problem.operator.shared_features is not None:
            per_output = coef.reshape(-1, problem.operator.n_outputs)
            coef = (per_output - per_output.mean(1, keepdim=True)).reshape(-1)
    raw = problem.raw(coef, intercept)
    data_value = float(problem.data_value(raw))
    value = data_value + 0.5 * problem.alpha * float(coef @ coef)
    bound = lower_bound(problem if certified else problem.with_alpha(0.0), raw)
    if dual is not None and problem.alpha > 0:
        bound = max(bound, _ridge_bound(problem, dual))
    return Solution(
        coef=coef,
        intercept=intercept,
        raw=raw,
        value=value,
        data_value=data_value,
        # min() returns its first argument if the second is NaN.
        lower_bound=min(bound, value),
        n_iter=n_iter,
        converged=converged,
    )


def lower_bound(problem: ConvexProblem, raw: Tensor) -> float:
    """A certified lower bound on the objective by Fenchel duality.

    Any u in the conjugates' domain whose weighted sum vanishes (the intercept's
    condition) gives ``-sum w_i l_i*(u_i) - ||Phi^T W u||^2 / (2 alpha)``. With the
    loss gradients at the optimum as u the bound is tight. If alpha = 0, the second term
    would have to vanish, as in `infimum`; this function then returns the weighted sum
    of the samples' minima.
    """
    trivial = float(problem.weight @ problem.loss.minimum(problem.y))
    if problem.alpha == 0:
        return trivial
    # max() returns its first argument if the second is NaN (overflowing gradients).
    return max(trivial, _ridge_bound(problem, problem.loss.gradient(problem.y, raw)))


def _ridge_bound(problem: ConvexProblem, dual: Tensor) -> float:
    """The lower bound from one dual point, for a positive alpha."""
    if problem.intercept:
        dual = balance(problem, dual)
    normal = problem.operator.rmatvec(problem.weight[:, None] * dual)
    if problem.intercept and problem.loss.quadratic:
        # A balanced dual is orthogonal to constants, so center the targets: those far
        # from zero would lose digits.
        problem = replace(problem, y=problem.y - problem.weight @ problem.y)
    return dual_value(problem, dual) - float(normal @ normal) / (2 * problem.alpha)


def dual_value(problem: ConvexProblem, dual: Tensor) -> float:
    """-sum_i w_i (l_i*(u_i) - u_i o_i), or minus infinity outside the domain."""
    value = -float(problem.weight @ problem.loss.conjugate(problem.y, dual))
    if problem.offset is not None:
        value += float(problem.weight @ (dual * problem.offset).sum(1))
    return value


def balance(problem: ConvexProblem, dual: Tensor) -> Tensor:
    """Move the dual's weighted sum to zero inside the conjugates' domain.

    Each row changes in proportion to its slack, so no coordinate leaves the box unless
    the sum exceeds the total slack. In that case the conjugate is infinite. Duals whose
    rows sum to zero are always balanced within their domain.
    """
    if problem.loss.dual_rows_sum_to_zero:
        return _balanced_probabilities(problem, dual)
    lower, upper = problem.loss.dual_bounds(problem.y)
    slack = torch.minimum(dual - lower, upper - dual).amin(1).clamp(0.0, 1.0)
    if not slack.any():
        # Avoid a division by zero. A dual outside the box has an infinite conjugate.
        slack = torch.ones_like(slack)
    excess = problem.weight @ dual
    return dual - slack[:, None] * (excess / (problem.weight @ slack))


def _balanced_probabilities(problem: ConvexProblem, dual: Tensor) -> Tensor:
    """Balance duals that are probabilities minus targets.

    The probabilities are multiplied by a factor for each class, as a change of the
    intercept would do. The remaining excess is moved from the classes whose mean
    probability is too large to the others. Moving all classes of a sample alike, as
    `balance` does for other losses, fails with many classes: one of them has almost no
    probability, and leaves no slack.
    """
    p = dual + problem.y
    excess = problem.weight @ dual
    # All changes are sums of small numbers, so that no digits of the dual are lost.
    change = -(excess / (problem.weight @ p)).nan_to_num(0.0).clamp(-0.5, 0.5)
    mean = p @ change
    moved = p * ((change - mean[:, None]) / (1 + mean[:, None]))
    dual, p = dual + moved, p + moved
    excess = problem.weight @ dual
    lacking = (-excess).clamp(min=0.0)
    if not lacking.any():
        return dual
    removed = p * (excess / (problem.weight @ p)).nan_to_num(0.0).clamp(0.0, 1.0)
    added = removed.sum(1, keepdim=True) * (lacking / lacking.sum())
    return dual - removed + added
