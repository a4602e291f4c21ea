"""Implement the function `compare_bases`."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from inspect import signature
from numbers import Real
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.metrics import check_scoring
from sklearn.utils import check_random_state, get_tags
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import check_memory

from sklearn_pgb._bases._basis import Basis
from sklearn_pgb._bases._conversion import as_basis, check_names
from sklearn_pgb._budget import COMPARE_TOL, MAX_ITER
from sklearn_pgb._compare._comparison import BasisComparison, BasisReport
from sklearn_pgb._compare._model import (
    BasisClassifier,
    BasisModel,
    BasisRegressor,
    positive_samples,
    weight_keywords,
)
from sklearn_pgb._convex._choice import Effort, check_alpha
from sklearn_pgb._convex._infimum import infimum
from sklearn_pgb._estimator._border import aligned, dense, jobs_for, parse_memory
from sklearn_pgb._estimator._folds import row_codes, splitter_parts
from sklearn_pgb._estimator._trainer import Trainer
from sklearn_pgb._losses._floor import pure_error_floor
from sklearn_pgb._losses._named import LOSSES, OF_MEANS
from sklearn_pgb._samples import Samples, check_samples
from sklearn_pgb._seeds import fill_seeds
from sklearn_pgb._sklearn import _check_y
from sklearn_pgb._targets import LabelTargets, RealTargets, Targets

LOSS_NAMES = ("auto", *OF_MEANS)


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
    bases, memory = _check_bases(bases), check_memory(memory)
    X, y, weight = check_samples(X, y, sample_weight)
    y = dense(_check_y(y, multi_output=True))
    name = _resolve_loss(loss, bases, y)
    classifies = LOSSES[name].is_classification
    if not classifies:
        y = _check_y(y, multi_output=True, y_numeric=True)
    rng = check_random_state(random_state)
    seed, parts_seed = rng.randint(np.iinfo(np.int32).max, size=2).tolist()
    effort = Effort(parse_memory(max_memory), COMPARE_TOL, MAX_ITER)
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
    scorer, score_name = _scorer(scoring, next(iter(models.values())), classifies)
    kept = np.arange(len(y)) if weight is None else np.flatnonzero(weight)
    samples = positive_samples(X, y, weight)
    splits = splitter_parts(kept, cv, X, y, classifier=classifies)
    kind_of_targets = LabelTargets if classifies else RealTargets
    checked = kind_of_targets.checked(samples.y)
    targets = kind_of_targets.of(checked, LOSSES[name])
    floor = _floor(targets, checked, samples)
    evaluation = _Evaluation(
        samples, checked, targets, floor, effort, scorer, memory, parts_seed
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
    return BasisComparison(tuple(reports), name, floor, score_name)


@dataclass(frozen=True, eq=False)
class _Evaluation:
    """Fits and scores models on the same data and splits."""

    samples: Samples
    y: NDArray[Any]
    targets: Targets
    floor: float
    effort: Effort
    scorer: Callable[..., Any]
    memory: Any
    seed: int

    def run(self, name: str, model: Any, split: Any) -> Any:
        """Score a model on one split or, if `split` is None, describe it."""
        try:
            if split is None:
                return self.describe(name, model)
            return self.score(model, split)
        except Exception as error:
            error.add_note(f"It was raised by bases[{name!r}] of compare_bases.")
            raise

    def fit(self, model: Any, samples: Samples) -> tuple[Any, float]:
        """Fit a clone; return it and the seconds taken, including cached trainings."""
        model, keywords = clone(model), weight_keywords(model, samples)
        if isinstance(model, BasisModel):
            model.fit(samples.X, samples.y, **keywords)
            return model, model.seconds_
        start, trainer = time.perf_counter(), Trainer(self.memory)
        model = trainer.fit(model, samples.X, samples.y, keywords, self.seed)
        return model, time.perf_counter() - start + trainer.saved

    def score(self, model: Any, split: Any) -> float:
        """Held-out score of one split."""
        training, heldout = self.samples.rows(split[0]), self.samples.rows(split[1])
        model, _ = self.fit(model, training)
        weights = {}
        if heldout.weighted:
            scorer = self.scorer
            if hasattr(scorer, "_accept_sample_weight"):
                takes_weights = scorer._accept_sample_weight()
            else:
                takes_weights = "sample_weight" in signature(scorer).parameters
            weights = {"sample_weight": heldout.weight} if takes_weights else {}
        try:
            score = self.scorer(model, heldout.X, heldout.y, **weights)
        except (AttributeError, TypeError) as error:
            raise TypeError(
                "scoring must be a scorer of what the model can predict, got one that "
                f"fails: {error}"
            ) from error
        if not isinstance(score, Real):
            raise TypeError(
                "scoring must be a scorer that returns a number, got one that returns "
                f"a {type(score).__name__}."
            )
        return float(score)

    def describe(self, name: str, model: Any) -> BasisReport:
        """Fit a model on all samples; return its report without scores."""
        samples = self.samples
        samples = replace(samples, X=aligned(samples.X), y=aligned(samples.y))
        model, seconds = self.fit(model, samples)
        if not isinstance(model, BasisModel):
            targets, loss = self.targets, np.nan
            method = "predict_proba" if targets.loss.is_classification else "predict"
            # Classifiers without probabilities have no loss.
            if hasattr(model, method):
                mean = np.asarray(getattr(model, method)(samples.X), dtype=np.float64)
                mean = mean.reshape(len(mean), -1)
                y = targets.encode(self.y, mean.shape[1])
                loss_of = targets.loss_for(mean.shape[1])
                values = loss_of.value_of_mean(y, torch.from_numpy(mean))
                loss = float(samples.normalized_weight @ values.numpy())
            return BasisReport(name, "estimator", train_loss=loss, seconds=seconds)
        problem = model.problem_
        least = infimum(problem, max_memory=self.effort.max_memory, floor=self.floor)
        return BasisReport(
            name,
            "basis",
            train_loss=least.value,
            seconds=seconds,
            lower_bound=least.lower_bound,
            norm_budget=least.norm_budget,
            n_coef=problem.augmented().n_coef,
            rank=least.rank,
            alpha=model.alpha_,
        )


def _floor(targets: Targets, y: NDArray[Any], samples: Samples) -> float:
    """Smallest loss of any function of the inputs."""
    n_outputs = targets.n_outputs
    target, loss = targets.encode(y, n_outputs), targets.loss_for(n_outputs)
    group = torch.from_numpy(row_codes(samples.X))[:, None]
    weight = torch.from_numpy(samples.normalized_weight)
    least = pure_error_floor(group, target, loss, weight).value
    # Without repeated inputs the floor is zero up to rounding of the group means.
    constant = pure_error_floor(torch.zeros_like(group), target, loss, weight).value
    return least if abs(least) > 1e-14 * abs(constant) else 0.0


# --- checks ---------------------------------------------------------------------------


def _check_bases(bases: Any) -> dict[str, Any]:
    """Check bases and estimators, and clone them."""
    check_names(bases)
    if not bases:
        raise ValueError("bases must have at least one entry, got an empty dict.")
    checked = {}
    for name, basis in bases.items():
        estimates = hasattr(basis, "fit") and hasattr(basis, "predict")
        if not estimates and not isinstance(basis, Basis):
            if not hasattr(basis, "transform"):
                raise TypeError(
                    f"bases[{name!r}] must be a basis, a transformer or an estimator, "
                    f"got {type(basis).__name__}. Wrap a module in GradientBasis or "
                    "LayerBasis."
                )
            basis = as_basis(basis)
        checked[name] = clone(basis)
    return checked


def _scorer(
    scoring: Any, model: Any, classifies: bool
) -> tuple[Callable[..., Any], str]:
    """Check the scoring; return a scorer and the name of the score."""
    if isinstance(scoring, list | tuple | set | Mapping):
        raise ValueError(
            "scoring must be one score: None, a name or a callable, got "
            f"{scoring!r}. Call compare_bases once for each; with `memory` the models "
            "are trained only once."
        )
    scorer = check_scoring(model, scoring)
    if scoring is None:
        return scorer, "accuracy" if classifies else "R²"
    if isinstance(scoring, str):
        return scorer, scoring
    # A scorer of `make_scorer` holds the function that has the name.
    function = getattr(scoring, "_score_func", scoring)
    return scorer, str(getattr(function, "__name__", "score"))


def _resolve_loss(loss: Any, bases: Mapping[str, Any], y: Any) -> str:
    if loss is not None and not (isinstance(loss, str) and loss in LOSS_NAMES):
        raise ValueError(f"loss must be None or among {LOSS_NAMES}, got {loss!r}.")
    kinds = set()
    for name, basis in bases.items():
        if isinstance(basis, Basis):
            basis = basis.get_params(deep=False).get("estimator")
        if not hasattr(basis, "__sklearn_tags__"):
            continue
        try:
            kinds.add(get_tags(basis).estimator_type)
        except (AttributeError, TypeError) as error:
            # A meta-estimator around an object that is not an estimator.
            raise TypeError(
                f"bases[{name!r}] must hold estimators that scikit-learn knows, got "
                f"{basis!r}. Pass instances of estimators."
            ) from error
    classify, regress = "classifier" in kinds, "regressor" in kinds
    if classify and regress:
        raise ValueError(
            "bases must hold classifiers or regressors, got both. Compare them in "
            "separate calls."
        )
    if loss in (None, "auto"):
        if classify or regress:
            return "log_loss" if classify else "squared_error"
        return "squared_error" if y.dtype.kind == "f" else "log_loss"
    for_labels = LOSSES[loss].is_classification
    if regress if for_labels else classify:
        kind = "regressors" if for_labels else "classifiers"
        raise ValueError(
            f"loss must suit the estimators in bases, got {loss!r} for {kind}. Use "
            "'auto', or other estimators."
        )
    return str(loss)
