"""Implement the function `compare_bases`."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from sklearn.utils import check_random_state
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import check_memory

from sklearn_pgb._bases._basis import Basis
from sklearn_pgb._budget import COMPARE_MAX_ITER, COMPARE_TOL
from sklearn_pgb._compare._arguments import check_bases, check_scorer, resolve_loss
from sklearn_pgb._compare._comparison import BasisComparison
from sklearn_pgb._compare._evaluation import Evaluation
from sklearn_pgb._compare._model import (
    BasisClassifier,
    BasisRegressor,
    positive_samples,
)
from sklearn_pgb._convex._choice import Effort, check_alpha
from sklearn_pgb._estimator._border import dense
from sklearn_pgb._estimator._folds import splitter_parts
from sklearn_pgb._estimator._resources import jobs_for, parse_memory
from sklearn_pgb._losses._named import LOSSES
from sklearn_pgb._samples import check_samples
from sklearn_pgb._seeds import fill_seeds
from sklearn_pgb._sklearn import _check_y
from sklearn_pgb._targets import LabelTargets, RealTargets


def compare_bases(
    bases: Mapping[str, Any],
    X: Any,
    y: Any,
    *,
    loss: str | None = "auto",
    alpha: Any = "auto",
    cv: Any = 5,
    scoring: Any = None,
    n_jobs: int | None = None,
    sample_weight: Any = None,
    max_memory: str | float = "1GB",
    memory: Any = None,
    random_state: Any = None,
) -> BasisComparison:
    """Compare handcrafted bases, induced bases and estimators on the same data.

    For each basis, this computes the training minimum, that is the smallest loss of any
    coefficients on all samples ::

        min_{c, b} sum_i w_i l_i((Phi c)_i + b),    w_i = s_i / sum(s)

    with a certified lower bound, and the held-out score of a regularized model on the
    same basis. The score is free of leakage: transformers and networks are cloned and
    refitted on each training part, and alpha is chosen on it. Estimators are scored on
    the same splits.

    The gradient basis of a trained network contains the network, so its training
    minimum is at most the network's loss. It is equal at critical points of the loss
    without penalty [1]_.

    Parameters
    ----------
    bases : dict of str to Basis, transformer or estimator
        Bases, transformers and estimators to compare, by name. They are cloned. A
        FrozenEstimator inside is not refitted, so its score is not a held-out score if
        it was trained on these samples.
    X : array-like or sparse matrix of shape (n_samples, n_features)
        Inputs of bases and estimators.
    y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        Targets or labels.
    loss : {"auto", "squared_error", "poisson", "huber", "log_loss"} or None, \
            default="auto"
        "auto" and None are the log loss if one of the estimators or networks is a
        classifier, or if there are none and y is not of floats. Otherwise the squared
        error ``||q - y||^2``. "huber" is the squared error up to errors of 1.35 and
        linear beyond: divide y by the standard deviation of the noise.
    alpha : "auto", float or array-like of shape (n_candidates,), default="auto"
        Regularization strength of the scored models, after scaling the basis to a mean
        squared row norm of one, as in `GradientBasisRefit`. "auto" and several
        candidates: chosen by leave-one-out with the squared loss, or by cross-fitting
        with 5 folds inside each training part with other losses and for trees.
    cv : int, splitter or iterable, default=5
        Splits of the held-out score, as in scikit-learn's `cross_validate`: an int
        makes stratified folds for labels and does not shuffle. For splits by groups
        pass ``splitter.split(X, y, groups)``.
    scoring : str, callable or None, default=None
        Scorer of scikit-learn; None is R^2 or accuracy. Sample weights are passed if
        it accepts them.
    n_jobs : int or None, default=None
        Number of fits that run in parallel, through joblib. The result does not depend
        on it.
    sample_weight : array-like of shape (n_samples,) or None, default=None
        Sample weights, for training and for scores.
    max_memory : str or float, default="1GB"
        Memory limit of a linear algebra step. Ranks and bounds that need more are not
        computed.
    memory : str, joblib.Memory or None, default=None
        Cache of trained networks and estimators, or its folder. Several bases of one
        network then train it once per training part, and an interrupted or extended
        comparison reuses earlier trainings. Across calls this needs the same integer
        `random_state`, here or in the networks.
    random_state : int, RandomState instance or None, default=None
        Seed of the cross-fitting folds and, one for all, of every `random_state` of
        bases and estimators that is None.

    Returns
    -------
    BasisComparison
        Has a method `to_frame()`, and prints as a table.

    Raises
    ------
    TypeError
        If an entry is neither a basis nor an estimator, or the scorer does not return a
        number.
    ValueError
        If classifiers and regressors are mixed, the data are invalid for the loss,
        `scoring` names several scores, or `memory` is not a cache.

    See Also
    --------
    BasisComparisonDisplay : Plot the result.
    GradientBasisRefit : The refit on the gradient basis as an estimator.

    References
    ----------
    .. [1] Kawaguchi, Huang and Kaelbling, "Every Local Minimum Value Is the Global
       Minimum Value of Induced Model in Nonconvex Machine Learning", Neural
       Computation 31(12), 2019, Theorem 1.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.neural_network import MLPRegressor
    >>> from sklearn.preprocessing import PolynomialFeatures, scale
    >>> from sklearn_pgb import FeatureBasis, GradientBasis, InputBasis, compare_bases
    >>> X, y = load_diabetes(return_X_y=True)
    >>> network = MLPRegressor(
    ...     hidden_layer_sizes=(5,), activation="tanh", solver="lbfgs", max_iter=50
    ... )
    >>> comparison = compare_bases(
    ...     {
    ...         "linear": InputBasis(),
    ...         "quadratic": FeatureBasis(PolynomialFeatures(2, include_bias=False)),
    ...         "gradient": GradientBasis(network),
    ...     },
    ...     scale(X[:, :4]),
    ...     scale(y),
    ...     random_state=0,
    ... )
    >>> comparison.to_frame()[["n_coef", "rank"]].astype(int).rename_axis(None)
               n_coef  rank
    linear          5     5
    quadratic      15    14
    gradient       31    31
    """
    bases, memory = check_bases(bases), check_memory(memory)
    given = X, y
    X, y, weight = check_samples(X, y, sample_weight)
    y = dense(_check_y(y, multi_output=True))
    name = resolve_loss(loss, bases, y)
    classifies = LOSSES[name].is_classification
    if not classifies:
        y = _check_y(y, multi_output=True, y_numeric=True)
    rng = check_random_state(random_state)
    seed, parts_seed = rng.randint(np.iinfo(np.int32).max, size=2).tolist()
    effort = Effort(parse_memory(max_memory), COMPARE_TOL, COMPARE_MAX_ITER)
    alpha = check_alpha(alpha, ("auto",))
    kind = BasisClassifier if classifies else BasisRegressor
    models = {
        key: kind(basis, name, alpha, effort, parts_seed, memory)
        if isinstance(basis, Basis)
        else basis
        for key, basis in bases.items()
    }
    # A single seed, so that several bases of one network use the same parameters.
    for model in models.values():
        fill_seeds(model, seed)
    first = next(iter(models.values()))
    scorer, score_name = check_scorer(scoring, first, classifies)
    kept = np.arange(len(y)) if weight is None else np.flatnonzero(weight)
    samples = positive_samples(X, y, weight)
    splits = splitter_parts(kept, cv, *given, classifier=classifies)
    kind_of_targets = LabelTargets if classifies else RealTargets
    checked = kind_of_targets.checked(samples.y)
    targets = kind_of_targets.of(checked, LOSSES[name])
    evaluation = Evaluation(
        samples, checked, targets, effort, scorer, memory, parts_seed
    )
    # All fits of one model come before those of the next, so that bases of the same
    # network find its trainings in the cache.
    n_tasks = len(models) * (1 + len(splits))
    results = Parallel(n_jobs=jobs_for(n_tasks, n_jobs))(
        delayed(evaluation.run)(key, model, split)
        for key, model in models.items()
        for split in [None, *splits]
    )
    reports = []
    for start in range(0, len(results), 1 + len(splits)):
        described, *scores = results[start : start + 1 + len(splits)]
        reports.append(replace(described, scores=tuple(scores)))
    return BasisComparison(tuple(reports), name, evaluation.floor, score_name)
