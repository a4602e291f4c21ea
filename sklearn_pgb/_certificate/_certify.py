"""`certify`, the function."""

from numbers import Real
from typing import Any

import numpy as np
import torch
from sklearn.utils import check_random_state

from sklearn_pgb._bases._basis import Basis
from sklearn_pgb._certificate._certificate import Certificate
from sklearn_pgb._certificate._examine import Effort, Findings, examine
from sklearn_pgb._certificate._objective import TrainingObjective
from sklearn_pgb._certificate._subject import Subject, open_subject
from sklearn_pgb._certificate._table import check_bases
from sklearn_pgb._certificate._verdict import assumptions, judge, notes
from sklearn_pgb._estimator._border import distinct_rows, parse_memory
from sklearn_pgb._threads import threads_for


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
    """Say how far a network's training is from done, and how it stands to every basis.

    The network is taken as it is. Whatever is said of it is a theorem's conclusion from
    numbers that are computed in double precision: that it is a global minimum of its
    training objective, that its derivatives do not vanish, that it is stuck at a point
    which is no local minimum, or that nothing speaks against a local minimum.

    The table encloses the least loss on each basis: the inputs, those of `bases`, the
    outputs of each hidden layer, several layers jointly where linear units allow a
    statement on these, and the partial derivatives of the network at its parameters
    (the gradient basis) and at others with the same outputs (the perturbed one).

    Parameters
    ----------
    estimator : estimator or torch.nn.Module
        A fitted network of this package, MLPRegressor, MLPClassifier or skorch net, a
        Pipeline, TransformedTargetRegressor, FrozenEstimator or search that ends in
        one, or a module.
    X : array-like
        The training data, as the estimator takes them.
    y : array-like
        The training targets or labels. With a module: real targets, 0/1 indicators or
        the numbers of classes.
    sample_weight : array-like of shape (n_samples,), default=None
        Weights of the training. Class weights of the package's classifiers are
        multiplied to them.
    bases : "auto" or dict, default="auto"
        More bases for the table, by name; they are cloned and fitted on X.
    loss : {"squared_error", "poisson", "log_loss", "binary_log_loss"} or None, \
            default=None
        The loss of a module's training. An estimator knows its own.
    penalty : float or array-like of shape (n_params,), default=None
        The training minimised the mean loss plus ``sum(penalty * theta ** 2)``. None
        stands for what the estimator's parameters say, and zero for a module.
    norm_budget : float, default=None
        With a penalty: the largest norm of changes of the coefficients that its bound
        covers. None stands for ten times the norm of the parameters.
    tol : float, default=1e-6
        Differences of the loss count as none up to `tol` times what the best constant
        model loses above the floor. For the squared loss without repeated rows that is
        a difference of `tol` in R^2.
    max_memory : float or str, default="1GB"
        What a factorisation of the partial derivatives may take.
    random_state : int, RandomState instance or None, default=None
        Draws the parameters at which ranks and outputs are compared.

    Returns
    -------
    Certificate

    Raises
    ------
    TypeError
        If the estimator is no network, or the bases are none. A GradientBasisRefit
        has certified bounds of its own; its `estimator_` is a network.
    ValueError
        If the data do not fit the network, or a parameter can't be used. Outputs, a
        loss or a gradient that are infinite or no numbers certify nothing.

    See Also
    --------
    CertificateDisplay : One picture of a certificate.
    GradientBasisRefit : The best model on the gradient basis.

    References
    ----------
    Kawaguchi, Huang, Kaelbling, "Every Local Minimum Value Is the Global Minimum Value
    of Induced Model in Nonconvex Machine Learning", Neural Computation 31(12), 2019,
    Theorems 1, 2 and 4.

    Kawaguchi, Kaelbling, "Elimination of All Bad Local Minima in Deep Learning",
    AISTATS 2020, Theorem 3, of which the identity for penalised objectives is an
    instance.

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
    effort = Effort(
        float(tol),
        None if norm_budget is None else float(norm_budget),
        parse_memory(max_memory),
    )
    more = check_bases(bases)
    seed = int(check_random_state(random_state).randint(np.iinfo(np.int32).max))
    subject = open_subject(
        estimator, X, y, sample_weight=sample_weight, loss=loss, penalty=penalty
    )
    return _examined(subject, more, effort, seed)


def certify_objective(
    objective: TrainingObjective, *, tol: float, max_memory: float, seed: int
) -> Certificate:
    """The certificate of a network with an objective of its own; see `certify`."""
    head = objective.network.find_head(objective.X[:8])
    name = type(objective.network).__name__
    X = objective.X.flatten(1)
    group = torch.from_numpy(distinct_rows(X.numpy()))
    subject = Subject(name, objective, head, X, objective.y, (), group)
    return _examined(subject, {}, Effort(tol, None, max_memory), seed)


def _examined(
    subject: Subject, bases: dict[str, Basis], effort: Effort, seed: int
) -> Certificate:
    """Measure and judge."""
    work = float(subject.objective.network.n_params) * len(subject.objective.X)
    with threads_for(work):
        generator = torch.Generator().manual_seed(seed)
        return _certificate(subject, examine(subject, bases, effort, generator))


def _check_positive(value: Any, name: str) -> None:
    if not isinstance(value, Real) or not 0 < float(value) < np.inf:
        raise ValueError(f"{name} must be a positive number, got {value!r}.")


def _certificate(subject: Subject, found: Findings) -> Certificate:
    """Judge, and put everything together."""
    judgement = judge(subject, found)
    gradient_norm = float(found.gradient.norm())
    gradient_row = found.row("gradient")
    assert gradient_row is not None
    distance = found.tangent.norm if found.tangent.attained is not False else np.inf
    if found.tilted is not None:
        distance = found.tilted.norm_budget
    return Certificate(
        verdict=judgement.verdict,
        loss=found.loss,
        penalty=found.penalty,
        objective=found.objective,
        floor=found.floor.value,
        floor_attained=found.floor.attained,
        tolerance=found.tolerance,
        gradient_norm=gradient_norm,
        gap=max(found.loss - gradient_row.lower_bound, 0.0),
        gap_bound=gradient_norm * distance if gradient_norm else 0.0,
        min_curvature=None if found.curvature is None else found.curvature.least,
        max_curvature=None if found.curvature is None else found.curvature.largest,
        kink_margin=found.margin.value,
        rank=found.tangent.steady_rank,
        generic_rank=found.nearby,
        is_singular=found.singular,
        table=found.rows,
        tilted=found.tilted,
        escape=judgement.escape,
        assumptions=assumptions(subject, found),
        notes=notes(subject, found),
        name=subject.name,
        n_samples=len(subject.objective.X),
        n_params=subject.objective.network.n_params,
    )
