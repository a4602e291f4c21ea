"""Rows of the certificate's table: bounds on the smallest loss on each basis."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from sklearn.base import clone
from torch import Tensor

from sklearn_pgb._bases._basis import Basis
from sklearn_pgb._bases._conversion import as_basis, check_names
from sklearn_pgb._budget import HEAD_TOLERANCE
from sklearn_pgb._certificate._convex_bound import convex_bound
from sklearn_pgb._certificate._quadratic import QuadraticProblem
from sklearn_pgb._certificate._subject import Subject
from sklearn_pgb._convex._infimum import Infimum, infimum
from sklearn_pgb._convex._problem import ConvexProblem
from sklearn_pgb._geometry._linear_structure import layers_operator, linear_layers
from sklearn_pgb._models._chain import ChainNetwork
from sklearn_pgb._models._combined import CombinedModel
from sklearn_pgb._models._leaves import LeafModel
from sklearn_pgb._models._resnet import ResNetNetwork
from sklearn_pgb._operators._dense import KroneckerOperator
from sklearn_pgb._operators._function import FunctionOperator
from sklearn_pgb._operators._operator import LinearOperator
from sklearn_pgb._operators._stacked import StackedOperator
from sklearn_pgb._training._objective import Objective

INPUTS, GRADIENT, PERTURBED = "inputs", "gradient", "perturbed gradient"

# Names of the table's own rows. The verdict follows from them, so a basis of the user
# must not have such a name, whether or not this network has the row.
OWN_ROWS = re.compile(
    r"inputs|inputs and residual units|(tilted |perturbed )?gradient"
    r"|layer \d+|(inputs|layer \d+) to layer \d+ jointly"
)


@dataclass(frozen=True)
class BasisRow:
    """One basis on the training data.

    Attributes
    ----------
    basis : str
        Name of the basis.
    n_coef : int
        Number of coefficients, including intercepts.
    rank : int or None
        Rank of the basis; None if it was too large to factorize.
    value : float
        Smallest loss found.
    lower_bound : float
        Lower bound on the loss of all coefficients up to the norm `norm_budget`.
    norm_budget : float
        Largest norm of the coefficients for which the bound holds, with each
        coefficient multiplied by the norm of its column (weighted, and centered if
        there is an intercept): a million times the norm of the solution. Infinite if
        the bound holds for every function of the inputs.
    excess : float
        Loss of the network minus `value`: how much better the basis is.
    attained : bool or None
        Whether the infimum is attained; None if unknown.
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
        """Bound on the difference of `value` and the infimum."""
        return self.value - self.lower_bound


def row_of(name: str, problem: ConvexProblem, result: Infimum, loss: float) -> BasisRow:
    """Make a row of the table from a solved problem."""
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
    """Infimum of one problem, by L-BFGS if it is too large to factorize."""
    return infimum(problem, descend, max_memory=max_memory, **known)


def descend(problem: ConvexProblem) -> tuple[Tensor, Tensor]:
    """Minimize by L-BFGS from zero, using only products with the basis.

    Returns coefficients and intercept.
    """
    end, p = QuadraticProblem.of_loss(problem).descend(), problem.operator.n_coef
    return end[:p], end[p:] if problem.intercept else problem.zero()[1]


def problem_on(
    objective: Objective,
    operator: LinearOperator,
    *,
    intercept: bool,
    offset: Tensor | None = None,
    rounded_columns: bool = False,
) -> ConvexProblem:
    """Convex problem of the network's loss on a basis, without penalty."""
    return ConvexProblem(
        operator,
        objective.y,
        objective.loss,
        objective.weight,
        intercept=intercept,
        offset=offset,
        rounded_columns=rounded_columns,
    )


def tangent_problem(
    objective: Objective, raw: Tensor, shifts: list[Tensor]
) -> ConvexProblem:
    """Problem on ``f + J delta``, where J includes the Jacobians at displaced theta."""
    network, X = objective.network, objective.X
    operator = network.jacobian(X)
    if shifts:
        networks = [network.at(network.theta + shift) for shift in shifts]
        parts = [operator, *(each.jacobian(X) for each in networks)]
        operator = StackedOperator(parts, [1.0] * len(parts))
    return problem_on(objective, operator, intercept=False, offset=raw)


def joint_layers(objective: Objective) -> dict[str, LinearOperator]:
    """Joint operator of several linear layers, by its name in the table.

    A local minimum is as good as the best model on these layers jointly. Empty if there
    are none or one.
    """
    network, X = objective.network, objective.X
    if not isinstance(network, ChainNetwork) or not network.is_mlp:
        return {}
    if not network.activations:
        return {}
    layers = linear_layers(network, X, objective.y.shape[1])
    if len(layers) < 2:
        return {}
    first, last = layers[0], layers[-1]
    start = INPUTS if first == 0 else f"layer {first}"
    name = f"{start} to layer {last} jointly"
    return {name: layers_operator(network, X, layers)}


def head_gain(
    subject: Subject, problem: ConvexProblem, max_memory: float
) -> tuple[float, Tensor]:
    """Decrease of the objective on the last layer's derivatives; zero if unknown.

    With a penalty, the change of the parameters with this decrease is returned, too.
    `problem` is the one on the gradient basis.
    """
    objective, span_coef = subject.objective, subject.head.span_coef
    network = objective.network
    change = torch.zeros_like(network.theta)
    if span_coef is None or not span_coef.any():
        return 0.0, change
    columns = torch.nonzero(span_coef)[:, 0]
    # A chain's own operator holds the columns of all layers; this takes any subset.
    operator = FunctionOperator(network, network.theta, objective.X, columns)
    if not _is_linear_along(subject, operator, columns, problem.base):
        return 0.0, change
    of_head = replace(problem, operator=operator)
    loss = float(problem.data_value(problem.base))
    if not objective.penalty.any():
        return loss - solve_basis(of_head, max_memory).value, change
    tilt = objective.penalty_gradient(network.theta)[columns]
    exact = QuadraticProblem(of_head, tilt, objective.penalty[columns])
    best = convex_bound("head", exact, [], 0.0, 0.0, max_memory)
    change[columns] = best.change
    return loss - best.value, change


def _is_linear_along(
    subject: Subject, operator: LinearOperator, columns: Tensor, raw: Tensor
) -> bool:
    """Whether the outputs are linear in these parameters, by a step in both directions.

    ``f = J g`` also holds for heads with a kink, such as a maximum of linear functions.
    Such a head is not linear in one of two opposite directions.
    """
    network, X = subject.objective.network, subject.objective.X
    theta, generator = network.theta, torch.Generator().manual_seed(0)
    step = torch.randn(len(columns), generator=generator, dtype=theta.dtype)
    step = step * (float(theta[columns].norm()) or 1.0)
    expected = operator.matvec(step)
    size = float(raw.abs().max() + expected.abs().max())
    moved = (
        network(theta.index_add(0, columns, step, alpha=sign), X) for sign in (1, -1)
    )
    errors = [
        float((each - raw - sign * expected).abs().max())
        for sign, each in zip((1, -1), moved, strict=True)
    ]
    return max(errors) <= HEAD_TOLERANCE * size


def feature_problems(
    subject: Subject, bases: Mapping[str, Basis], joint: Mapping[str, LinearOperator]
) -> Iterator[tuple[str, ConvexProblem]]:
    """Yield the problems on the inputs, the user's bases and the network's layers.

    `joint` holds operators that concatenate several layers, by name.
    """
    objective = subject.objective
    n_outputs = objective.y.shape[1]
    bias = subject.head.bias is not None
    inputs = objective.X.flatten(1)
    network = objective.network
    residual = isinstance(network, ResNetNetwork)
    takes_features = not isinstance(network, LeafModel | CombinedModel)
    hidden = network.layers(objective.X)[1:-1]
    if isinstance(network, ResNetNetwork):
        # The first columns are the basis; the residual units follow.
        inputs = hidden[0][:, : network.n_basis or inputs.shape[1]]
    if takes_features:
        features = KroneckerOperator(inputs, n_outputs)
        yield INPUTS, problem_on(objective, features, intercept=True)
    for name, basis in bases.items():
        # The user's basis stays unfitted, as estimators do not change their parameters.
        fitted = clone(basis).fit(subject.X, subject.y)
        problem = problem_on(
            objective,
            fitted.operator(subject.X, n_outputs),
            intercept=fitted.intercept,
            rounded_columns=fitted.rounded_columns,
        )
        yield name, problem
    layers: dict[str, LinearOperator] = {
        "inputs and residual units"
        if residual
        else f"layer {number}": KroneckerOperator(features, n_outputs)
        for number, features in enumerate(hidden, 1)
    }
    for name, operator in {**layers, **joint}.items():
        problem = problem_on(objective, operator, intercept=bias, rounded_columns=True)
        yield name, problem


def bases_by_name(bases: Any) -> dict[str, Basis]:
    """Check the bases given by the user and return them by name."""
    if isinstance(bases, str) and bases == "auto":
        return {}
    check_names(bases)
    for name in bases:
        if OWN_ROWS.fullmatch(name):
            raise ValueError(
                "bases must have other names than the rows that certify adds to the "
                f"table, got {name!r}. Rename it, for example to {'my ' + name!r}."
            )
    return {name: as_basis(basis) for name, basis in bases.items()}
