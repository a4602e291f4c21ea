"""Implement the estimator `GradientBasisRefit`."""

from functools import partial
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    MetaEstimatorMixin,
    TransformerMixin,
)
from sklearn.callback import CallbackSupportMixin
from sklearn.utils.metadata_routing import MetadataRouter, MethodMapping
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from sklearn_pgb._convex._choice import Effort
from sklearn_pgb._estimator._border import all_or_nothing
from sklearn_pgb._estimator._hooks import training_contexts
from sklearn_pgb._estimator._resources import check_device, jobs_for, parse_memory
from sklearn_pgb._estimator._state import Prepared, VersionedState
from sklearn_pgb._estimator._tangent_sum import TangentSum
from sklearn_pgb._losses._named import OF_MEANS
from sklearn_pgb._predictive._methods import Located, Predictive
from sklearn_pgb._refit._arguments import check_new_data, sample_shape
from sklearn_pgb._refit._data import TrainingData, training_data
from sklearn_pgb._refit._export import Exportable
from sklearn_pgb._refit._fitting import Refit
from sklearn_pgb._refit._influence import Influential
from sklearn_pgb._refit._networks import TrainedNetworks
from sklearn_pgb._refit._outputs import (
    all_classes,
    decoded,
    has_probabilities,
    is_a_classifier,
    jacobian_features,
    network_tags,
    oof_score,
    predicts_flat,
    raw_outputs,
    score_of,
    tangent_sum,
)
from sklearn_pgb._refit._predictive import locate_samples, oof_errors
from sklearn_pgb._refit._request import RefitRequest
from sklearn_pgb._refit._training import train_and_refit
from sklearn_pgb._refit._uncertainty import Uncertainty
from sklearn_pgb._seeds import Seeds, draw_seeds
from sklearn_pgb._sklearn import HasMethods, Interval, StrOptions, _fit_context
from sklearn_pgb._targets import LabelTargets


class GradientBasisRefit(
    VersionedState,
    Influential,
    Predictive,
    Exportable,
    CallbackSupportMixin,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    MetaEstimatorMixin,
    BaseEstimator,
):
    """Convex refit of a trained network on its own partial derivatives.

    The partial derivatives J(x) of a network f(x; theta), one per parameter, are the
    features of a linear model that contains the network itself. The refit finds the
    best coefficients of this model::

        min_c  sum_i w_i l(J(x_i) c, y_i) + (alpha / 2) ||c - c_0||^2

    with the network's own loss l, weights w_i = s_i / sum(s) for sample weights s, one
    coefficient per network parameter shared by all outputs, and no penalty on the
    coefficients of the output bias. The squared loss is ``||q - y||^2`` without a
    factor 1/2, so alpha equals ``2 Ridge.alpha / sum(s)``. The problem is convex, and
    its solution is certified. With ``alpha=0`` this is the gradient basis model of
    [1]_, whose minimum equals the network's loss at every critical point of training.

    If the network is not in the span of its derivatives, for example with a frozen
    head, the model is f(x) + J(x) c. Dropout and batch norm are in evaluation mode.
    Constraints, such as positive coefficients or monotonicity, do not hold for c.

    Parameters
    ----------
    estimator : estimator or torch.nn.Module
        The network: one of this package, an MLPRegressor, MLPClassifier or skorch net.
        Trees, boosted trees, linear models, votes and bags are refitted too; "network"
        stands for them below. It may be the last step of a Pipeline, or the estimator
        of a TransformedTargetRegressor or search such as GridSearchCV. It is cloned and
        trained in `fit`, unless it is inside a
        :class:`~sklearn.frozen.FrozenEstimator`. A bare module must be trained already,
        and `loss` must be given.
    alpha : {"auto", "loo", "evidence"}, float or array-like, default="auto"
        Regularization strength, after scaling the basis to a mean squared row norm of
        one. "auto": the best on held-out samples, see `cv` and `cv_results_`. "loo":
        leave-one-out in closed form (squared loss), or approximate with one Newton step
        (other losses, dense problems), or, if neither fits into `max_memory`,
        cross-validation of the convex problem. "evidence": marginal likelihood (squared
        loss). "loo" and "evidence" train only once, but are optimistic because the
        features were trained on the same labels: use them for networks that have not
        memorized their samples. An array gives the candidates.
    cv : "auto", int, splitter or None, default="auto"
        Cross-fitting: one network per fold, with every candidate scored on samples that
        its network was not trained on. The bases of all fold networks are then
        concatenated, and the final problem is solved on all samples. "auto" is 5 folds,
        or none if `alpha` is a number, "loo" or "evidence", if validation samples are
        passed to `fit`, or if the network is already trained. An int or "auto" draws
        folds over the distinct samples, stratified for classifiers; the groups passed
        to `fit` are kept together. None trains on all samples, without folds. Trees
        memorize their samples, so they are cross-fitted even if `alpha` is a number.
    center : {"auto", "zero", "average"}, default="auto"
        The point c_0 that the penalty pulls towards: zero, or the network itself (the
        mean of the networks if there are several), to which a large alpha returns.
        "auto" chooses the better one together with alpha; the mean of the networks
        itself is a candidate too (`alpha_` is then infinite). If `alpha` is a number
        and nothing is held out, "auto" is "zero".
    parameters : {"all", "last", "last-k"} or list of str, default="all"
        The parameters whose derivatives form the basis: those of all layers, of the
        last one, or of the last k ("last-2") in the order of the forward pass; or names
        and patterns such as ``["*.bias", "encoder.3"]``, those of `named_parameters` in
        torch, and "layer_1.weight", "layer_1.bias" and so on of other networks. A
        normalization belongs to the layer before it. Other parameters are constants.
    n_models : int, default=1
        Number of networks, trained from different seeds, whose bases are concatenated.
        With folds it is rounded up to a multiple of the number of folds.
    loss : {"auto", "squared_error", "poisson", "huber", "log_loss"}, default="auto"
        "auto" is the loss the network was trained with. Needed for a bare module only;
        "huber" is then the squared loss for errors up to 1.35 and linear beyond.
    n_components : int or None, default=None
        Number of features of a random sketch that `transform` returns instead of the
        Jacobian. It preserves inner products in expectation. Not used by `predict`.
    class_weight : dict, "balanced" or None, default=None
        Weights of the classes, for classifiers.
    solver : {"auto", "primal", "dual", "matrix-free"}, default="auto"
        Solver of the convex problem; "auto" chooses by size and `max_memory`.
    tol : float, default=1e-4
        Tolerance on the certified gap, relative to the objective.
    max_iter : int, default=100
        Maximum number of Newton steps.
    max_memory : float or str, default="1GB"
        Memory limit of the convex solvers, in bytes or as a string such as "500MB".
    memory : str, joblib.Memory or None, default=None
        Cache of the trained networks, or its folder. Repeated fits on the same samples
        reuse the networks if only parameters of the refit change, such as `alpha`.
        Networks without a `random_state` are cached as well.
    distribution : bool, default=False
        Whether to model the scale of the errors, which ``predict(X, return_std=True)``
        needs, as a function of the inputs. The stored state is as large as the basis.
    device : str, torch.device or None, default=None
        Device of the convex problem and of predictions. None is the CPU, which also
        predicts, with a warning, on a machine that lacks the device.
    n_jobs : int or None, default=None
        Number of networks trained, or of parts of a mapped file read, in parallel.
    random_state : int, RandomState instance or None, default=None
        Seed of the networks, the folds and the sketch. If None, the first network keeps
        its own `random_state`.
    verbose : int, default=0
        Whether to print a line for every trained network and for the solution.

    Attributes
    ----------
    estimator_ : estimator
        The trained network, the first of `estimators_`.
    estimators_ : list
        All trained networks, in the order of the folds.
    alpha_ : float
        The alpha that was used; infinite if the mean of the networks itself was chosen.
        If alpha was chosen on folds, this and `cv_results_` hold alpha times the
        fraction of samples in a training part: relative to the sum of losses, the
        penalty is the same as on the folds.
    center_ : {"zero", "average"}
        The center that was used.
    basis_coef_ : ndarray of shape (n_params,)
        Coefficients c of all networks, in the order of their parameters: for each
        layer the weights, one row per hidden unit, then the biases. If alpha was chosen
        on folds with the squared loss, they are the mean of the solution on all samples
        and the average of the folds' solutions: it predicts better than either.
    model_loss_ : float
        Training loss of the average of the networks, without penalty.
    refit_loss_ : float
        Training loss of the refit, without penalty.
    lower_bound_ : float
        Certified lower bound on the training loss over this basis at alpha = 0, for
        coefficients up to the norm `norm_budget_`. For a large basis, the pure-error
        floor.
    norm_budget_ : float
        Largest norm of the coefficients for which `lower_bound_` holds, with each
        coefficient multiplied by the norm of its column (weighted, and centered if
        there is an intercept): a million times the norm of the solution. Infinite if
        the bound is the pure-error floor, which holds for every function of the inputs.
    duality_gap_ : float
        Certified distance of the solved problem's objective from its minimum; zero if
        `alpha_` is infinite, when nothing is solved.
    rank_ : int or None
        Rank of the basis; None if factorizing the Jacobian would exceed `max_memory` or
        take longer than the refit.
    cv_results_ : dict of ndarray
        "center", "alpha", "loss" (mean held-out loss; inf if it overflows) and "gain"
        (its expected decrease by averaging folds; NaN but for the best alpha of each
        center) of each candidate. Loss minus gain decides; in a tie, the largest alpha.
    oof_score_ : float or None
        R^2 or accuracy, with the sample weights, on samples that neither the networks
        nor the refit of their fold have seen. None if nothing was chosen on folds.
    n_iter_ : int
        Iterations of the convex solver, at least one.
    classes_ : ndarray of shape (n_classes,)
        Class labels, for classifiers.
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (``n_features_in_``,)

    See Also
    --------
    GradientBasis : The basis alone.
    sklearn.kernel_ridge.KernelRidge : The same problem with a handcrafted kernel.

    References
    ----------
    .. [1] K. Kawaguchi, J. Huang, L. P. Kaelbling, "Every Local Minimum Value Is the
       Global Minimum Value of Induced Model in Nonconvex Machine Learning", Neural
       Computation 31(12), 2019, Theorem 1.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.neural_network import MLPRegressor
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from sklearn_pgb import GradientBasisRefit
    >>> X, y = load_diabetes(return_X_y=True)
    >>> net = make_pipeline(
    ...     StandardScaler(),
    ...     MLPRegressor(hidden_layer_sizes=(20,), solver="lbfgs", random_state=0),
    ... )
    >>> refit = GradientBasisRefit(net).fit(X[:300], y[:300])
    >>> refit.score(X[300:], y[300:]) > refit.estimator_.score(X[300:], y[300:])
    True
    """

    _parameter_constraints: dict = {
        "estimator": [HasMethods("fit"), torch.nn.Module],
        "alpha": [
            StrOptions({"auto", "loo", "evidence"}),
            Interval(Real, 0, np.inf, closed="left"),
            "array-like",
        ],
        "cv": ["cv_object", StrOptions({"auto"})],
        "center": [StrOptions({"auto", "zero", "average"})],
        "parameters": [str, list, tuple],
        "n_models": [Interval(Integral, 1, None, closed="left")],
        "loss": [StrOptions({"auto", *OF_MEANS})],
        "n_components": [Interval(Integral, 1, None, closed="left"), None],
        "class_weight": [dict, StrOptions({"balanced"}), None],
        "solver": [StrOptions({"auto", "primal", "dual", "matrix-free"})],
        "tol": [Interval(Real, 0, None, closed="neither")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "max_memory": [str, Interval(Real, 0, None, closed="neither")],
        "memory": [str, HasMethods("cache"), None],
        "distribution": ["boolean"],
        "device": [str, torch.device, None],
        "n_jobs": [Integral, None],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        estimator,
        *,
        alpha="auto",
        cv="auto",
        center="auto",
        parameters="all",
        n_models=1,
        loss="auto",
        n_components=None,
        class_weight=None,
        solver="auto",
        tol=1e-4,
        max_iter=100,
        max_memory="1GB",
        memory=None,
        distribution=False,
        device=None,
        n_jobs=None,
        random_state=None,
        verbose=0,
    ):
        self.estimator = estimator
        self.alpha = alpha
        self.cv = cv
        self.center = center
        self.parameters = parameters
        self.n_models = n_models
        self.loss = loss
        self.n_components = n_components
        self.class_weight = class_weight
        self.solver = solver
        self.tol = tol
        self.max_iter = max_iter
        self.max_memory = max_memory
        self.memory = memory
        self.distribution = distribution
        self.device = device
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    @_fit_context(prefer_skip_nested_validation=False)
    @all_or_nothing
    def fit(
        self,
        X,
        y,
        sample_weight=None,
        *,
        X_val=None,
        y_val=None,
        sample_weight_val=None,
        groups=None,
        **fit_params,
    ):
        """Train the networks and refit them.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Inputs of the network. A memory-mapped array is read in blocks and never
            copied whole, if the network is already trained.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets or labels.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights for the network's training and for the refit. In the refit, integer
            weights are equivalent to repeated samples, but for the ends of intervals.
        X_val : array-like or sparse matrix of shape (n_val, n_features), default=None
            Validation samples, on which alpha and the center are chosen. Recommended
            for a network that is already trained. It is kept, with ``alpha_`` infinite,
            unless a refit is better on them by two standard errors.
        y_val : array-like of shape (n_val,) or (n_val, n_outputs), default=None
            Targets or labels of the validation samples.
        sample_weight_val : array-like of shape (n_val,), default=None
            Weights of the validation samples. Integers are counts of equal samples.
        groups : array-like of shape (n_samples,), default=None
            Groups of samples that folds keep together. They are passed to the splitter
            if `cv` is one, and to the network's `fit` if it accepts groups.
        **fit_params : dict
            Keyword arguments for the network's `fit` if metadata routing is enabled.

        Returns
        -------
        self : object
            The fitted refit.

        Raises
        ------
        TypeError
            If the estimator is not a model that the package can open.
        ValueError
            If the data, the weights or a combination of parameters can't be used.
        """
        effort = Effort(parse_memory(self.max_memory), self.tol, self.max_iter)
        check_device(self.device)
        jobs_for(1, self.n_jobs)
        has_validation = X_val is not None or y_val is not None
        request = RefitRequest.of(self)
        request.check(has_validation)
        cv = request.resolve_cv(has_validation)
        validation = X_val, y_val, sample_weight_val
        given = X, y, sample_weight, groups, validation, fit_params
        data = training_data(self, request, *given, cv)
        seeds = draw_seeds(self.estimator, self.random_state)
        contexts, finish = training_contexts(self, X, y, sample_weight)
        plan = request, data, seeds, effort, contexts
        trained, result, noise = train_and_refit(self, *plan)
        request.warn_of_optimism(has_validation)
        self._as_fitted = vars(request) | {"parameters": trained.parameters}
        self._store(result, noise, trained, data, seeds)
        if self.verbose:
            print(
                f"Refit: center={self.center_}, alpha={self.alpha_:.3g}, training loss "
                f"{self.model_loss_:.4g} -> {self.refit_loss_:.4g}"
            )
        finish()
        return self

    def _store(
        self,
        result: Refit,
        noise: Uncertainty,
        trained: TrainedNetworks,
        data: TrainingData,
        seeds: Seeds,
    ) -> None:
        """Store the result in attributes, as arrays and plain values."""
        solution, choice = result.solution, result.choice
        self.estimators_ = trained.estimators
        self.estimator_ = trained.estimators[0]
        self.alpha_ = choice.alpha
        self.center_ = choice.center
        self.basis_coef_ = result.parameters.cpu().numpy()
        self.model_loss_ = result.model_loss
        self.refit_loss_ = result.loss
        self.lower_bound_ = result.bound.value
        self.norm_budget_ = result.bound.norm_budget
        self.duality_gap_ = 0.0 if np.isinf(choice.alpha) else solution.gap
        self.rank_ = result.rank
        self.cv_results_ = {
            name: np.array([getattr(each, name) for each in choice.candidates])
            for name in ("center", "alpha", "loss", "gain")
        }
        # scikit-learn expects at least one, even if there is nothing to solve.
        self.n_iter_ = max(solution.n_iter, 1)
        self._sample_shape = sample_shape(data.samples.X)
        self._prepared = Prepared()
        self._scales = list(result.space.scales)
        self._adds_networks = not result.space.spans_networks
        self._sketch_seed = seeds.sketch
        n_outputs = result.problem.operator.n_outputs
        self._flat = n_outputs == 1 and predicts_flat(trained.opened[0], data.samples.y)
        self._n_components = self.n_components
        self._n_features_out = self.n_components or len(self.basis_coef_) * n_outputs
        self._loss = trained.loss.name if self.loss != "auto" else "auto"
        self._uncertainty, left_out_std = noise
        if RefitRequest.at_last_fit(self).classifies:
            self._multilabel = np.ndim(data.samples.y) == 2
            known: Any = trained.opened[0].classes
            if self._multilabel:
                known = np.arange(n_outputs)
            self.classes_ = self._output_classes = known
            if data.classes is not None:
                self.classes_ = np.union1d(known, data.classes)
        self.oof_score_ = oof_score(
            self, trained.opened[0], choice.oof_raw, data.samples
        )
        self._oof_errors = oof_errors(self, result, trained, data, left_out_std)

    def _open(self, X: Any) -> tuple[TangentSum, Any]:
        """Open the networks and check the samples."""
        check_is_fitted(self)
        X = check_new_data(self, RefitRequest.at_last_fit(self), self._sample_shape, X)
        sources = [self.basis_coef_, self.device, *self.estimators_]
        prepare = partial(tangent_sum, self)
        return self._prepared.get("models", sources, prepare), X

    def _targets_and_raw(self, X: Any) -> tuple[LabelTargets, NDArray[np.float64]]:
        """Targets and raw outputs of all classes."""
        return all_classes(self, *raw_outputs(self, X))

    def predict(self, X, return_std=False):
        """Predict targets or labels.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
        return_std : bool, default=False
            Whether to also return the standard deviations of `predict_distribution`, or
            without out-of-fold errors their scale. Needs ``distribution=True``.

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
            Predictions.
        std : ndarray of the same shape
            Standard deviations; only returned if `return_std` is true.

        Raises
        ------
        ValueError
            If `return_std` is true and the refit has no predictive distribution.
        """
        if return_std and RefitRequest.at_last_fit(self).classifies:
            raise ValueError("return_std must be False for a classifier, got True.")
        if not return_std:
            return decoded(self, *raw_outputs(self, X))
        check_is_fitted(self)
        if self._uncertainty is None:
            raise ValueError(
                "return_std must be False for this refit, got True. It needs "
                "distribution=True, the squared loss, alpha > 0, two distinct samples "
                "and an eigendecomposition of the basis that fits into max_memory."
            )
        located = self._located(X)
        y = located.location[:, 0] if located.flat else located.location
        return y, self._std_of(located)

    def _located(self, X: Any) -> Located:
        return locate_samples(self, X)

    @available_if(is_a_classifier)
    def decision_function(self, X):
        """Raw outputs of the refit.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_classes)
            One column per class, or one value per sample for two classes.
        """
        targets, raw = self._targets_and_raw(X)
        return targets.decision(raw)

    @available_if(has_probabilities)
    def predict_proba(self, X):
        """Class probabilities.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
        """
        targets, raw = self._targets_and_raw(X)
        return targets.probabilities(raw)

    @available_if(has_probabilities)
    def predict_log_proba(self, X):
        """Log of the class probabilities.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
        """
        targets, raw = self._targets_and_raw(X)
        return targets.log_probabilities(raw)

    def score(self, X, y, sample_weight=None):
        """Accuracy of a classifier, R^2 of a regressor.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        sample_weight : array-like of shape (n_samples,), default=None

        Returns
        -------
        float
        """
        return score_of(self, y, self.predict(X), sample_weight)

    def transform(self, X):
        """Jacobian features of the networks, or a random sketch of them.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)

        Returns
        -------
        ndarray or sparse array of shape (n_samples, n_outputs * n_params) or ndarray \
                of shape (n_samples, n_components)
            Partial derivatives of the first output with respect to all parameters, then
            of the second, and so on, sparse if the models are trees; or the sketch if
            `n_components` is set.
        """
        return jacobian_features(self, X)

    def __sklearn_is_fitted__(self):
        return hasattr(self, "basis_coef_")

    def get_metadata_routing(self):
        """Route `sample_weight` and other metadata to the network's `fit`.

        Returns
        -------
        MetadataRouter
        """
        router = MetadataRouter(owner=self).add_self_request(self)
        mapping = MethodMapping().add(caller="fit", callee="fit")
        return router.add(estimator=self.estimator, method_mapping=mapping)

    def __sklearn_tags__(self):
        return network_tags(
            super().__sklearn_tags__(), self.estimator, RefitRequest.of(self).classifies
        )
