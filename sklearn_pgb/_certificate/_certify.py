"""Implement the function `certify`."""

from numbers import Real
from typing import Any

import numpy as np
import torch
from sklearn.utils import check_random_state

from sklearn_pgb._bases._basis import Basis
from sklearn_pgb._budget import MAX_MEMORY
from sklearn_pgb._certificate._certificate import Certificate
from sklearn_pgb._certificate._evidence import Evidence
from sklearn_pgb._certificate._examine import Settings, examine
from sklearn_pgb._certificate._subject import Subject, open_subject
from sklearn_pgb._certificate._table import GRADIENT, bases_by_name
from sklearn_pgb._certificate._verdict import assumptions, judge, notes
from sklearn_pgb._estimator._resources import parse_memory
from sklearn_pgb._estimator._row_codes import row_codes
from sklearn_pgb._threads import threads_for
from sklearn_pgb._training._objective import Objective


def certify(
    estimator,
    X,
    y,
    *,
    sample_weight=None,
    bases="auto",
    loss=None,
    penalty=None,
    norm_budget=None,
    tol=1e-6,
    max_memory="1GB",
    random_state=None,
):
    """Certify how close a trained network is to a global or local minimum.

    The network is not trained further. The verdict follows from theorems and numbers
    computed in double precision: the network is a global minimum of its training
    objective, its derivatives do not vanish, it is at a critical point that is not a
    local minimum, or no test contradicts a local minimum.

    The table encloses the smallest loss on each basis: the inputs, the bases in
    `bases`, the outputs of each hidden layer, several layers jointly if linear units
    allow it, the partial derivatives of the network (the gradient basis), and its
    partial derivatives at several parameters with the same outputs (the perturbed
    gradient basis).

    Parameters
    ----------
    estimator : estimator or torch.nn.Module
        A fitted network of this package, MLPRegressor, MLPClassifier or skorch net;
        trees, boosted trees, a linear model, a vote or a bag; a Pipeline,
        TransformedTargetRegressor, FrozenEstimator or search that ends in one of these;
        or a module.
    X : array-like
        Training data, in the format that the estimator takes.
    y : array-like
        Training targets or labels. For a module: real targets, 0/1 indicators or class
        indices.
    sample_weight : array-like of shape (n_samples,), default=None
        Sample weights used in training. Class weights of the package's classifiers are
        multiplied in.
    bases : "auto" or dict, default="auto"
        Additional bases for the table, by name: bases, transformers (their features)
        and networks (their gradient bases). They are cloned and fitted on X. The names
        of the other rows of the table, such as "inputs" or "gradient", are not allowed.
    loss : {"squared_error", "poisson", "huber", "log_loss", "binary_log_loss"} or \
            None, default=None
        Training loss of a module; "huber" is linear for errors beyond 1.35. None for
        an estimator, which has its own loss.
    penalty : float or array-like of shape (n_params,), default=None
        The training minimized the mean loss plus ``sum(penalty * theta ** 2)``. None
        uses the estimator's parameters, or zero for a module.
    norm_budget : float, default=None
        With a penalty: the largest norm of changes of the coefficients that the tilted
        problem covers. None is ten times the norm of the parameters.
    tol : float, default=1e-6
        Differences of the loss are ignored up to `tol` times the difference between the
        loss of the best constant model and the floor. For the squared loss without
        repeated samples, this is a difference of `tol` in R^2.
    max_memory : float or str, default="1GB"
        Memory limit for factorizing the partial derivatives.
    random_state : int, RandomState instance or None, default=None
        Seed of the parameters at which ranks and outputs are compared.

    Returns
    -------
    Certificate

    Raises
    ------
    TypeError
        If the estimator is not a network, or an entry of `bases` has another type. A
        GradientBasisRefit has bounds of its own; pass its `estimator_`.
    ValueError
        If the data do not match the network or a parameter is invalid, or if outputs,
        loss or gradient are infinite or nan.

    See Also
    --------
    CertificateDisplay : Plot a certificate.
    GradientBasisRefit : The best model on the gradient basis.

    References
    ----------
    Kawaguchi, Huang, Kaelbling, "Every Local Minimum Value Is the Global Minimum Value
    of Induced Model in Nonconvex Machine Learning", Neural Computation 31(12), 2019,
    Theorems 1, 2 and 4.

    Kawaguchi, Kaelbling, "Elimination of All Bad Local Minima in Deep Learning",
    AISTATS 2020, Theorem 3: its identity for penalized objectives is used here.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.neural_network import MLPRegressor
    >>> from sklearn_pgb import certify
    >>> X = np.linspace(-1, 1, 6)[:, None]
    >>> y = np.array([1.0, -1.0, 1.0, -1.0, 1.0, -1.0])
    >>> network = MLPRegressor(
    ...     hidden_layer_sizes=20,
    ...     activation="tanh",
    ...     solver="lbfgs",
    ...     alpha=0,
    ...     tol=1e-12,
    ...     max_iter=5000,
    ...     random_state=0,
    ... )
    >>> certificate = certify(network.fit(X, y), X, y)
    >>> certificate.verdict
    'certified_global'
    >>> certificate.floor
    0.0
    """
    _check_positive(tol, "tol")
    if norm_budget is not None:
        _check_positive(norm_budget, "norm_budget")
    settings = Settings(
        float(tol),
        None if norm_budget is None else float(norm_budget),
        parse_memory(max_memory),
    )
    more = bases_by_name(bases)
    seed = int(check_random_state(random_state).randint(np.iinfo(np.int32).max))
    subject = open_subject(
        estimator, X, y, sample_weight=sample_weight, loss=loss, penalty=penalty
    )
    return _examined(subject, more, settings, seed)


def certify_objective(objective: Objective, *, tol: float, seed: int) -> Certificate:
    """Certify a network with an explicit training objective; see `certify`."""
    head = objective.network.find_head(objective.X[:8])
    name = type(objective.network).__name__
    X = objective.X.flatten(1)
    group = torch.from_numpy(row_codes(X.numpy()))
    subject = Subject(name, objective, head, X, objective.y, (), group)
    return _examined(subject, {}, Settings(tol, None, MAX_MEMORY), seed)


def _check_positive(value: Any, name: str) -> None:
    if not isinstance(value, Real) or not 0 < float(value) < np.inf:
        raise ValueError(f"{name} must be a positive number, got {value!r}.")


def _examined(
    subject: Subject, bases: dict[str, Basis], settings: Settings, seed: int
) -> Certificate:
    """Compute the certificate of a subject."""
    objective = subject.objective
    with threads_for(float(objective.network.n_params) * len(objective.X)):
        generator = torch.Generator().manual_seed(seed)
        findings = examine(subject, bases, settings, generator)
        verdict, escape = judge(subject, findings)
    curvature, tilted = findings.curvature, findings.tilted
    gradient_norm = float(findings.gradient.norm())
    gradient_row = findings.row(GRADIENT)
    assert gradient_row is not None
    # A separable problem has no solution at a finite distance.
    distance = np.inf
    if tilted is not None:
        distance = tilted.norm_budget
    elif findings.tangent.attained is not False:
        distance = findings.tangent.norm
    return Certificate(
        verdict=verdict,
        loss=findings.loss,
        penalty=findings.penalty,
        objective=findings.objective,
        floor=findings.floor.value,
        floor_attained=findings.floor.attained,
        tolerance=findings.tolerance,
        gradient_norm=gradient_norm,
        gap=max(findings.loss - gradient_row.lower_bound, 0.0),
        gap_bound=gradient_norm * distance if gradient_norm else 0.0,
        min_curvature=None if curvature is None else curvature.least,
        max_curvature=None if curvature is None else curvature.largest,
        kink_margin=findings.margin.value,
        rank=findings.tangent.steady_rank,
        generic_rank=findings.nearby_rank,
        is_singular=findings.singular,
        table=findings.rows,
        tilted=tilted,
        escape=escape,
        assumptions=assumptions(subject, findings),
        notes=notes(subject, findings),
        name=subject.name,
        n_samples=len(objective.X),
        n_params=objective.network.n_params,
        evidence=Evidence(
            subject,
            findings.tol,
            findings.decisive,
            findings.solved,
            tilted,
            findings.convex,
        ),
    )
