"""Rows of the certificate's table: the least loss on each basis, enclosed."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from sklearn.base import clone
from torch import Tensor

from sklearn_pgb._bases._basis import Basis
from sklearn_pgb._bases._conversion import as_basis, check_names
from sklearn_pgb._certificate._objective import TrainingObjective
from sklearn_pgb._certificate._subject import Subject
from sklearn_pgb._convex._infimum import Infimum, infimum
from sklearn_pgb._convex._problem import ConvexProblem
from sklearn_pgb._models._resnet import ResNetNetwork
from sklearn_pgb._operators import (
    FunctionOperator,
    KroneckerOperator,
    LinearOperator,
    StackedOperator,
)
from sklearn_pgb._training._polish import quasi_newton

# Steps of L-BFGS on a basis that is too large to be factorised, and the flops that they
# may take.
DESCENT_STEPS, DESCENT_FLOPS = 200, 6e9


@dataclass(frozen=True)
class BasisRow:
    """One basis on the training data.

    Attributes
    ----------
    basis : str
        Its name.
    n_coef : int
        Number of coefficients, intercepts included.
    rank : int or None
        Of the basis; None where it was too large to be factorised.
    value : float
        The loss of coefficients that were found.
    lower_bound : float
        No coefficients have a smaller loss, up to the norm `norm_budget`.
    norm_budget : float
        On the norm of the coefficients, each times the norm of its column (weighted;
        less its mean if there is a free intercept): a million times what was found.
        Infinite where the bound is that of every function of the inputs.
    excess : float
        Loss of the network minus `value`: how much better the basis is.
    attained : bool or None
        Whether the infimum is a minimum; None where that is not known.
    """

    basis: str
    n_coef: int
    rank: int | None
    value: float
    lower_bound: float
    norm_budget: float
    excess: float
    attained: bool | None

    @property
    def gap(self) -> float:
        """How far `value` may be above the infimum."""
        return self.value - self.lower_bound


def row_of(name: str, problem: ConvexProblem, result: Infimum, loss: float) -> BasisRow:
    """A row of the table."""
    n_free = problem.y.shape[1] if problem.intercept else 0
    return BasisRow(
        basis=name,
        n_coef=problem.operator.n_coef + n_free,
        rank=result.rank,
        value=result.value,
        lower_bound=result.lower_bound,
        norm_budget=result.norm_budget,
        excess=loss - result.value,
        attained=result.attained,
    )


def solve_basis(problem: ConvexProblem, max_memory: float, **known: Any) -> Infimum:
    """The infimum of one problem."""
    return infimum(problem, descend, max_memory=max_memory, **known)


def descend(
    problem: ConvexProblem, tilt: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Coefficients and intercept by L-BFGS, from zero, by products with the basis.

    With a `tilt` the objective gets the linear term ``tilt . coef``.
    """
    operator = problem.operator
    p = operator.n_coef
    n_free = operator.n_outputs if problem.intercept else 0

    def function(point: Tensor) -> tuple[Tensor, Tensor]:
        coef, free = point[:p], problem.zero()[1]
        if n_free:
            free = point[p:]
        raw = problem.raw(coef, free)
        residual = problem.residual(raw)
        value, gradient = problem.data_value(raw), operator.rmatvec(residual)
        if tilt is not None:
            value, gradient = value + tilt @ coef, gradient + tilt
        if not n_free:
            return value, gradient
        return value, torch.cat([gradient, residual.sum(0)])

    step = 4.0 * operator.n_samples * max(p, 1)
    n_steps = int(min(DESCENT_STEPS, max(10, DESCENT_FLOPS / step)))
    start = problem.weight.new_zeros(p + n_free)
    found = quasi_newton(
        function, start, gtol=1e-12, max_iter=n_steps, max_evaluations=2 * n_steps
    ).theta
    return found[:p], found[p:] if n_free else problem.zero()[1]


def problem_on(
    objective: TrainingObjective,
    operator: LinearOperator,
    *,
    intercept: bool,
    offset: Tensor | None = None,
    rounded: bool = False,
) -> ConvexProblem:
    """The network's loss on a basis, without ridge."""
    return ConvexProblem(
        operator,
        objective.y,
        objective.loss,
        objective.weight,
        intercept=intercept,
        offset=offset,
        rounded=rounded,
    )


def tangent_problem(
    objective: TrainingObjective, raw: Tensor, shifts: list[Tensor]
) -> ConvexProblem:
    """``f + J delta``, with the derivatives at displaced parameters beside J."""
    network, X = objective.network, objective.X
    parts = [network.jacobian(X)]
    theta = network.theta
    parts += [network.at(theta + shift).jacobian(X) for shift in shifts]
    operator = (
        parts[0] if len(parts) == 1 else StackedOperator(parts, [1.0] * len(parts))
    )
    return problem_on(objective, operator, intercept=False, offset=raw)


def head_problem(
    objective: TrainingObjective, raw: Tensor, columns: Tensor
) -> ConvexProblem:
    """The same with the derivatives by the last layer's parameters alone."""
    network = objective.network
    operator = FunctionOperator(network, network.theta, objective.X, columns)
    return problem_on(objective, operator, intercept=False, offset=raw)


def feature_problems(
    subject: Subject, bases: Mapping[str, Basis], joint: Mapping[str, LinearOperator]
) -> Iterator[tuple[str, ConvexProblem]]:
    """Bases of features: the inputs, the user's, the network's layers.

    Parameters
    ----------
    subject : Subject
    bases : mapping
        The user's, by name.
    joint : mapping
        Operators of several layers side by side, by name.
    """
    objective = subject.objective
    n_outputs = objective.y.shape[1]
    bias = subject.head.bias is not None
    inputs = objective.X.flatten(1)
    network = objective.network
    residual = isinstance(network, ResNetNetwork)
    hidden = network.layers(objective.X)[1:-1]
    if isinstance(network, ResNetNetwork):
        # The basis on which the residual units stand.
        inputs = hidden[0][:, : network.n_basis or inputs.shape[1]]
    operator: LinearOperator = KroneckerOperator(inputs, n_outputs)
    yield "inputs", problem_on(objective, operator, intercept=True)
    for name, basis in bases.items():
        fitted = clone(basis).fit(subject.X, subject.y)
        operator = fitted.operator(subject.X, n_outputs)
        yield (
            name,
            problem_on(
                objective, operator, intercept=fitted.intercept, rounded=fitted.rounded
            ),
        )
    for number, features in enumerate(hidden, 1):
        operator = KroneckerOperator(features, n_outputs)
        name = "inputs and residual units" if residual else f"layer {number}"
        yield name, problem_on(objective, operator, intercept=bias, rounded=True)
    for name, operator in joint.items():
        yield name, problem_on(objective, operator, intercept=bias, rounded=True)


def check_bases(bases: Any) -> dict[str, Basis]:
    """The user's bases by name."""
    if isinstance(bases, str) and bases == "auto":
        return {}
    check_names(bases)
    return {name: as_basis(basis) for name, basis in bases.items()}
