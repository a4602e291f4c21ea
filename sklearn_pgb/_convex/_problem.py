"""The one convex problem of the package, its solution and its certified bounds."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sklearn_pgb._losses import Loss
from sklearn_pgb._operators import KroneckerOperator, LinearOperator, StackedOperator


@dataclass(frozen=True)
class ConvexProblem:
    """A loss on a basis, with a ridge on the coefficients and a free intercept.

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
        Ridge on the coefficients; the intercept is never penalised.
    intercept : bool
        Whether b is free; it is zero otherwise.
    offset : Tensor (n_samples, n_outputs) or None
        Fixed part o of the raw outputs.
    rounded : bool
        Whether the columns of the basis are a network's outputs, rounded. A bound then
        holds for the exact ones too.
    """

    operator: LinearOperator
    y: Tensor
    loss: Loss
    weight: Tensor
    alpha: float = 0.0
    intercept: bool = True
    offset: Tensor | None = None
    rounded: bool = False

    def with_alpha(self, alpha: float) -> "ConvexProblem":
        """The same problem with another ridge."""
        return replace(self, alpha=float(alpha))

    def single(self) -> "ConvexProblem":
        """The same problem in float32, where its operator can be had in it."""
        operator = self.operator.single()
        return replace(
            self,
            operator=operator,
            y=self.y.to(operator.dtype),
            weight=self.weight.to(operator.dtype),
            offset=None if self.offset is None else self.offset.to(operator.dtype),
        )

    def rows(self, index: Tensor) -> "ConvexProblem":
        """The problem of the samples in `index`, weights summing to one again."""
        weight = self.weight[index]
        return replace(
            self,
            operator=self.operator.rows(index),
            y=self.y[index],
            weight=weight / weight.sum(),
            offset=None if self.offset is None else self.offset[index],
        )

    def one_output(self) -> "ConvexProblem":
        """The same for the first output, where each combines the features by itself."""
        assert isinstance(self.operator, KroneckerOperator)
        operator = KroneckerOperator(self.operator.features, 1)
        offset = None if self.offset is None else self.offset[:, :1]
        return replace(self, operator=operator, y=self.y[:, :1], offset=offset)

    def raw(self, coef: Tensor, intercept: Tensor) -> Tensor:
        """Raw outputs of the model on the samples."""
        raw = self.operator.matvec(coef) + intercept
        return raw if self.offset is None else raw + self.offset

    def data_value(self, raw: Tensor) -> Tensor:
        """Weighted mean loss at given raw outputs."""
        return self.weight @ self.loss.value(self.y, raw)

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
        """Phi with the intercept's columns behind it, where there is one."""
        if not self.intercept:
            return self.operator
        ones = self.weight.new_ones(self.operator.n_samples, 1)
        if isinstance(self.operator, KroneckerOperator):
            features = torch.cat([self.operator.features, ones], 1)
            return KroneckerOperator(features, self.operator.n_outputs)
        constant = KroneckerOperator(ones, self.operator.n_outputs)
        return StackedOperator([self.operator, constant], [1.0, 1.0])


@dataclass(frozen=True)
class Solution:
    """Coefficients of a convex problem with the certificate computed at them.

    Attributes
    ----------
    coef : Tensor (n_coef,)
    intercept : Tensor (n_outputs,)
    raw : Tensor (n_samples, n_outputs)
        Raw outputs on the samples.
    value, data_value : float
        Objective with and without the ridge term.
    lower_bound : float
        Certified: no coefficients give a smaller objective.
    n_iter : int
    converged : bool
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
        """How far the objective can be from the optimum, but for rounding."""
        return max(self.value - self.lower_bound, 0.0)


def finish(
    problem: ConvexProblem,
    coef: Tensor,
    intercept: Tensor,
    n_iter: int,
    converged: bool,
    dual: Tensor | None = None,
) -> Solution:
    """The solution at given coefficients, everything recomputed from them.

    A dual point that is known to be better than the gradients there may be given.
    """
    if problem.loss.dual_rows_sum_to_zero:
        # The loss does not see what is added to all outputs; without this the
        # intercept would depend on the solver's start, and the ridge be larger.
        intercept = intercept - intercept.mean()
        if isinstance(problem.operator, KroneckerOperator):
            per_output = coef.reshape(-1, problem.operator.n_outputs)
            coef = (per_output - per_output.mean(1, keepdim=True)).reshape(-1)
    raw = problem.raw(coef, intercept)
    data_value = float(problem.data_value(raw))
    value = data_value + 0.5 * problem.alpha * float(coef @ coef)
    bound = lower_bound(problem, raw)
    if dual is not None and problem.alpha > 0:
        bound = max(bound, _ridge_bound(problem, dual))
    return Solution(
        coef=coef,
        intercept=intercept,
        raw=raw,
        value=value,
        data_value=data_value,
        # In this order a value that is no number leaves the bound as it is.
        lower_bound=min(bound, value),
        n_iter=n_iter,
        converged=converged,
    )


def lower_bound(problem: ConvexProblem, raw: Tensor) -> float:
    """A certified lower bound on the objective by Fenchel duality.

    Any u in the conjugates' domain whose weighted sum vanishes (the intercept's
    condition) gives ``-sum w_i l_i*(u_i) - ||Phi^T W u||^2 / (2 alpha)``. With the
    loss gradients at the optimum as u the bound is tight. Without a ridge the second
    term has to vanish, which is the business of `infimum`; the sum of the samples' own
    minima is returned here.
    """
    trivial = float(problem.weight @ problem.loss.minimum(problem.y))
    if problem.alpha == 0:
        return trivial
    # In this order the trivial bound wins over nan, from gradients that overflow.
    return max(trivial, _ridge_bound(problem, problem.loss.gradient(problem.y, raw)))


def _ridge_bound(problem: ConvexProblem, dual: Tensor) -> float:
    """What one dual point says of the problem with its ridge."""
    if problem.intercept:
        dual = balance(problem, dual)
    normal = problem.operator.rmatvec(problem.weight[:, None] * dual)
    if problem.intercept and problem.loss.quadratic:
        # Balanced, it does not see a constant; targets far from zero lose digits.
        problem = replace(problem, y=problem.y - problem.weight @ problem.y)
    bound = dual_value(problem, dual) - float(normal @ normal) / (2 * problem.alpha)
    return bound


def dual_value(problem: ConvexProblem, dual: Tensor) -> float:
    """-sum_i w_i (l_i*(u_i) - u_i o_i), minus infinity outside the domain."""
    value = -float(problem.weight @ problem.loss.conjugate(problem.y, dual))
    if problem.offset is not None:
        value += float(problem.weight @ (dual * problem.offset).sum(1))
    return value


def balance(problem: ConvexProblem, dual: Tensor) -> Tensor:
    """The dual with its weighted sum moved to zero inside the conjugate's box.

    The sum is taken off in proportion to each row's slack, so no coordinate leaves the
    box unless the sum exceeds all slack; then the conjugate says so by infinity.
    """
    lower, upper = problem.loss.dual_bounds(problem.y)
    slack = torch.minimum(dual - lower, upper - dual).amin(1).clamp(0.0, 1.0)
    if not slack.any():
        slack = torch.ones_like(slack)
    excess = problem.weight @ dual
    return dual - slack[:, None] * (excess / (problem.weight @ slack))
