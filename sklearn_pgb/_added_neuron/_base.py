"""Base class of the regressor and the classifier with added neurons."""

import warnings
from contextlib import nullcontext
from numbers import Integral, Real

import numpy as np
import scipy.sparse as sp
import torch
from sklearn.base import is_classifier
from sklearn.callback import CallbackSupportMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import get_scorer_names
from sklearn.utils import (
    check_array,
    check_consistent_length,
    check_random_state,
)
from sklearn.utils.validation import validate_data
from torch import nn

from sklearn_pgb._added_neuron._fitting import (
    SORTED_SAMPLES,
    automatic_batch,
    fit_network,
    one_epoch,
)
from sklearn_pgb._added_neuron._held_out import (
    NumberedSamples,
    loss_scorer,
    split_rows,
    user_scorer,
)
from sklearn_pgb._added_neuron._progress import hooks
from sklearn_pgb._added_neuron._request import TrainingRequest
from sklearn_pgb._added_neuron._scaling import StandardizedTraining
from sklearn_pgb._budget import AUTO_HELD_OUT
from sklearn_pgb._estimator._border import all_or_nothing, dense
from sklearn_pgb._estimator._resources import check_device
from sklearn_pgb._estimator._row_codes import row_codes
from sklearn_pgb._estimator._state import VersionedState
from sklearn_pgb._losses._floor import pure_error_floor
from sklearn_pgb._losses._named import PARAMETERS
from sklearn_pgb._models._activations import ACTIVATIONS
from sklearn_pgb._models._network import as_float64, as_tensor
from sklearn_pgb._samples import Samples, check_groups, checked_weights
from sklearn_pgb._sklearn import (
    Interval,
    Options,
    StrOptions,
    _AvailableIfDescriptor,
    _check_partial_fit_first_call,
    _fit_context,
)
from sklearn_pgb._threads import local_randomness
from sklearn_pgb._training._descent import Adam, GradientDescent, Method
from sklearn_pgb._training._train import Schedule, automatic_rate

# Fitted attributes that only `fit` sets, not `partial_fit`.
VERDICT = (
    "auxiliary_loss_",
    "floor_",
    "floor_attained_",
    "floor_gap_",
    "residual_",
    "status_",
    "monitor_status_",
    "neurons_",
    "neuron_norm_curve_",
    "best_loss_",
    "n_moves_",
    "validation_scores_",
    "best_validation_score_",
)

# A fitted network keeps using the values of these parameters at the time of `fit`.
KEPT = (
    "activation",
    "alpha",
    "class_weight",
    "early_stopping",
    "loss",
    "solver",
    *PARAMETERS,
)


class UnsupportedError(AttributeError, ValueError):
    """A method that is not available with the given parameters."""


class OfferedIf(_AvailableIfDescriptor):
    """Like scikit-learn's `available_if`, but raises the error of the check itself."""

    def _check(self, obj, owner):
        self.check(obj)


def with_epochs(method):
    """Make a method available if its estimator can train for a single epoch."""
    return OfferedIf(method, _check_epochs, method.__name__)


def _check_epochs(estimator):
    # The parameter may not be validated yet.
    if isinstance(estimator.solver, str) and estimator.solver == "lbfgs":
        raise UnsupportedError(
            "solver must be 'adam' or 'sgd' for partial_fit, got 'lbfgs', which is not "
            "stochastic."
        )
    if estimator.early_stopping is True:
        raise UnsupportedError(
            "partial_fit does not support early_stopping=True: a batch has no held-out "
            "samples. Set early_stopping to 'auto' or False."
        )


def _check_loss(loss):
    """Raise an error if the loss overflows."""
    if not np.isfinite(loss):
        raise ValueError(
            f"X and y must have a finite loss, got {loss}. Remove outliers, or scale X "
            "and y."
        )


def _rows(X, kept):
    """Select samples; a memory map is not copied if all samples are kept."""
    return X if kept.all() else X[kept]


class AddedNeuronBase(VersionedState, CallbackSupportMixin, StandardizedTraining):
    """Network trained by `fit` or `partial_fit` and monitored by added neurons."""

    _parameter_constraints: dict = {
        "hidden_layer_sizes": [
            "array-like",
            Interval(Integral, 1, None, closed="left"),
        ],
        "activation": [StrOptions(set(ACTIVATIONS))],
        "module": [nn.Module, callable, None],
        "neuron_penalty": [Interval(Real, 0, None, closed="neither")],
        "solver": [StrOptions({"adam", "sgd", "lbfgs"})],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "batch_size": [
            StrOptions({"auto"}),
            Interval(Integral, 1, None, closed="left"),
        ],
        "learning_rate": [StrOptions({"anneal", "constant", "invscaling", "adaptive"})],
        "learning_rate_init": [
            StrOptions({"auto"}),
            Interval(Real, 0, None, closed="neither"),
        ],
        "power_t": [Interval(Real, 0, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "shuffle": ["boolean"],
        "tol": [Interval(Real, 0, None, closed="left")],
        "n_starts": [Interval(Integral, 1, None, closed="left")],
        "global_move": [StrOptions({"transplant", "restart"})],
        "momentum": [Interval(Real, 0, 1, closed="both")],
        "nesterovs_momentum": ["boolean"],
        "early_stopping": ["boolean", StrOptions({"auto"})],
        "scoring": [StrOptions({"loss", *get_scorer_names()}), callable, None],
        "validation_fraction": [Interval(Real, 0, 1, closed="left")],
        "beta_1": [Interval(Real, 0, 1, closed="left")],
        "beta_2": [Interval(Real, 0, 1, closed="left")],
        "epsilon": [Interval(Real, 0, None, closed="neither")],
        "n_iter_no_change": [
            Interval(Integral, 1, None, closed="left"),
            Options(Real, {np.inf}),
        ],
        "max_fun": [Interval(Integral, 1, None, closed="left")],
        "standardize": ["boolean"],
        "dtype": [StrOptions({"float32", "float64"}), None],
        "warm_start": ["boolean"],
        "device": [str, torch.device, None],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    # ------------------------------------------------------------------- fitting

    @_fit_context(prefer_skip_nested_validation=True)
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
    ):
        """Train the network.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            With `module`, of any shape (n_samples, ...) that it takes. Sparse matrices
            are converted to dense ones.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets or labels.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights. Integers are equivalent to repeated samples, except with `module`,
            `groups` or batches that are not shuffled.
        X_val : array-like or sparse matrix of shape (n_val, n_features), default=None
            Validation samples for early stopping, used instead of a part of X. The
            steps of a Pipeline are only applied to them if its `transform_input`
            names them.
        y_val : array-like of shape (n_val,) or (n_val, n_outputs), default=None
            Targets or labels of `X_val`.
        sample_weight_val : array-like of shape (n_val,), default=None
            Weights of `X_val`.
        groups : array-like of shape (n_samples,), default=None
            Groups of samples; early stopping holds out entire groups.

        Returns
        -------
        self : object
            The trained network.

        Raises
        ------
        ValueError
            If the data, the weights or a combination of parameters are invalid.
        """
        self._check_combination(X_val, y_val, sample_weight_val)
        warm = self.warm_start and hasattr(self, "loss_curve_")
        self._keep_parameters()
        is_sparse, X, y, user_weight = self._check(X, y, sample_weight, continues=warm)
        if warm:
            self._targets.check_same(y)
        else:
            self._learn(y)
        numbered, callback_data = self._training_samples(X, y, user_weight, groups)
        rng = check_random_state(self.random_state)
        seed = int(rng.randint(np.iinfo(np.int32).max))
        heldout = None
        if X_val is not None:
            heldout = self._validation_samples(X_val, y_val, sample_weight_val)
        else:
            numbered, heldout = self._split(numbered, seed)
        # If the caller of `fit` gave no weights, callbacks get None, not ones.
        if sample_weight is None:
            callback_data = *callback_data[:2], None
        samples = numbered.samples
        with self._randomness(seed):
            if warm:
                self._update_scaling(samples, seed)
            else:
                self._learn_scaling(samples, is_sparse)
            architecture = self._architecture(samples.X, rng, continues=warm)
            hook, finish = hooks(self, architecture, *callback_data)
            start = self._theta(architecture) if warm else None
            fit, verdict = self._train(
                architecture, numbered, heldout, start, seed, hook
            )
        self._forget_fit()
        self._store(architecture, fit, verdict, heldout is not None)
        finish()
        self._warn(fit.diverged)
        return self

    def _train(self, architecture, numbered, heldout, start, seed, hook):
        """Train a network, with early stopping if there are held-out samples."""
        samples = numbered.samples
        loss = self._loss(architecture)
        data = self._data(architecture, samples)
        group = torch.from_numpy(numbered.row_codes)[:, None]
        floor = pure_error_floor(group, data.y, loss, data.weight)
        request = self._request(len(samples.y), samples.X)
        score = None
        if heldout is not None:
            if self.scoring == "loss":
                score = loss_scorer(heldout, self._targets, architecture, loss, request)
            else:
                score = user_scorer(heldout, self, architecture)
        fit, verdict = fit_network(
            architecture,
            loss,
            data,
            request,
            total_weight=samples.total,
            start=start,
            seed=seed,
            hook=hook,
            score=score,
            floor=floor,
        )
        _check_loss(verdict.loss)
        if score is not None and max(fit.scores) == -np.inf:
            raise ValueError(
                "X_val, or the samples of X held out for early stopping, must have a "
                "finite loss, got infinity in every epoch. Remove outliers, or lower "
                "learning_rate_init."
            )
        return fit, verdict

    def _partial_fit(self, X, y, classes, sample_weight):
        """Train for one epoch, starting from the current parameters."""
        # scikit-learn only checks the parameters before the first call.
        self._validate_params()
        first = not hasattr(self, "loss_curve_")
        self._keep_parameters()
        is_sparse, X, y, user_weight = self._check(
            X, y, sample_weight, continues=not first
        )
        if is_classifier(self):
            _check_partial_fit_first_call(self, classes)
        if first:
            self._learn(y, classes)
        else:
            self._targets.check(y)
        weight = self._targets.weigh(y, user_weight)
        kept = weight > 0
        samples = Samples(*(_rows(part, kept) for part in (X, y, weight)))
        X = samples.X
        rng = check_random_state(self.random_state)
        curve = [] if first else self.loss_curve_
        # With an integer random_state each call would otherwise repeat its dropout.
        seed = (int(rng.randint(np.iinfo(np.int32).max)) + len(curve)) % 2**31
        with self._randomness(seed):
            if first:
                self._learn_scaling(samples, is_sparse, may_lack_classes=True)
            else:
                self._update_scaling(samples, seed)
            state = getattr(self, "_optimizer_state", None)
            architecture = self._architecture(X, rng, continues=not first)
            loss = self._loss(architecture)
            theta, value, state = one_epoch(
                architecture,
                loss,
                self._data(architecture, samples),
                self._request(len(X), X),
                total_weight=samples.total,
                start=None if first else self._theta(architecture),
                state=None if state is None else [as_float64(part) for part in state],
                seed=seed,
            )
        _check_loss(value)
        self._forget_fit()
        self._store_network(architecture, theta)
        self.loss_ = value * architecture.scale**2
        self.loss_curve_: list[float] = [*curve, self.loss_]
        self.n_iter_ = len(self.loss_curve_)
        if state is None:
            self._warn_of_divergence()
        else:
            self._optimizer_state = [part.cpu().numpy() for part in state]
        return self

    def _forget_fit(self):
        """Delete the results of an earlier fit."""
        for name in (*VERDICT, "_optimizer_state"):
            self.__dict__.pop(name, None)

    def _warn(self, diverged):
        """Warn if the training did not converge."""
        if diverged:
            self._warn_of_divergence()
        elif self.status_ == "max_iter":
            # The messages of scikit-learn's networks, so that users' filters match.
            message = (
                f"Stochastic Optimizer: Maximum iterations ({self.max_iter}) reached "
                "and the optimization hasn't converged yet."
            )
            if self.solver == "lbfgs":
                message = f"lbfgs failed to converge after {self.n_iter_} iterations."
            warnings.warn(
                f"{message} Increase max_iter, or use the network as it is.",
                ConvergenceWarning,
                stacklevel=5,
            )

    def _warn_of_divergence(self):
        warnings.warn(
            "The loss diverged; the parameters with the smallest loss were kept. Lower "
            f"learning_rate_init, got {self.learning_rate_init!r}, or standardize X.",
            ConvergenceWarning,
            stacklevel=6,
        )

    # ---------------------------------------------------------------- data and request

    def _keep_parameters(self):
        """Store the parameters that predictions and certificates need."""
        params = self.get_params(deep=False)
        self._as_fitted = {name: params[name] for name in KEPT if name in params}

    def _check_combination(self, X_val, y_val, sample_weight_val):
        """Raise an error if arguments or parameters are incompatible."""
        if (X_val is None) != (y_val is None):
            given, lacks = ("y_val", "X_val") if X_val is None else ("X_val", "y_val")
            raise ValueError(f"{lacks} must be given with {given}, got None.")
        if X_val is None and sample_weight_val is not None:
            raise ValueError("X_val must be given with sample_weight_val, got None.")
        if X_val is not None and self.early_stopping is False:
            raise ValueError(
                "early_stopping must be True or 'auto' with X_val, got False. Omit "
                "X_val to train without early stopping."
            )
        stops = self.early_stopping is True or X_val is not None
        if X_val is not None and self.solver == "lbfgs":
            raise ValueError(
                "solver must be 'adam' or 'sgd' with X_val, got 'lbfgs', which does "
                "not stop early."
            )
        if self.n_starts > 1 and (stops or self.solver == "lbfgs"):
            raise ValueError(
                "n_starts must be 1 with early stopping or solver='lbfgs', got "
                f"{self.n_starts}: the search for a global minimum uses minibatches "
                "and compares networks by their training loss."
            )

    def _check(self, X, y, sample_weight, continues):
        """Validate data; return whether X is sparse, dense X, targets and weights."""
        check_device(self.device)
        X, y = self._validated(X, y, multi_output=True, reset=not continues)
        weight = checked_weights(sample_weight, X)
        return sp.issparse(X), dense(X), self._kind_of_targets.checked(y), weight

    def _validated(self, X, *y, **options):
        """Validate X, and y if it is given, by `validate_data`."""
        return validate_data(
            self,
            X,
            *y,
            accept_sparse=("csr", "csc"),
            dtype=(np.float64, np.float32),
            allow_nd=self.module is not None,
            **options,
        )

    def _validation_samples(self, X, y, sample_weight):
        """Validate the held-out samples that the user passes."""
        X = self._validated(X, reset=False)
        weight = checked_weights(sample_weight, X, "sample_weight_val")
        y = self._kind_of_targets.checked(
            check_array(
                y, ensure_2d=False, dtype=None, accept_sparse=True, input_name="y_val"
            ),
            name="y_val",
        )
        check_consistent_length(X, y)
        self._targets.check(y, name="y_val")
        weight = self._targets.weigh(y, weight)
        kept = weight > 0
        return Samples(dense(X)[kept], y[kept], weight[kept])

    def _batch(self, n_samples):
        """Return the batch size for a number of distinct samples."""
        if self.solver == "lbfgs":
            return n_samples
        if self.batch_size != "auto":
            return int(self.batch_size)
        return automatic_batch(n_samples, searches=self.n_starts > 1)

    def _training_samples(self, X, y, user_weight, groups):
        """Return the samples to train on, and the data to pass to callbacks."""
        weight = self._targets.weigh(y, user_weight)
        kept = weight > 0
        if groups is not None:
            groups = check_groups(groups, X)
            groups = np.unique(groups[kept], return_inverse=True)[1].reshape(-1)
        X, y, user_weight, weight = (
            _rows(part, kept) for part in (X, y, user_weight, weight)
        )
        codes = row_codes(X)
        cluster = codes if groups is None else groups
        numbered = NumberedSamples(Samples(X, y, weight), codes, cluster)
        # Batch norm of a module does not see the weights of merged copies, and copies
        # may be in several groups.
        if groups is None and self.module is None:
            merged = numbered.merged()
            n_samples = len(merged.row_codes)
            # The order only matters to batches that are not shuffled.
            one_batch = n_samples <= self._batch(n_samples)
            if one_batch or self.shuffle:
                numbered = merged
            # Sorting would copy large arrays.
            small = n_samples <= SORTED_SAMPLES
            if one_batch or (self.shuffle and small):
                numbered = numbered.in_order_of_values()
        return numbered, (X, y, user_weight)

    def _split(self, numbered, seed):
        """Return training samples, and held-out samples for early stopping or None."""
        if not self.early_stopping or self.solver == "lbfgs":
            return numbered, None
        fraction, n_clusters = self.validation_fraction, int(numbered.cluster.max()) + 1
        is_small = fraction * n_clusters < AUTO_HELD_OUT
        if self.early_stopping == "auto" and (self.n_starts > 1 or is_small):
            return numbered, None
        if not fraction > 0:
            raise ValueError(
                "validation_fraction must be > 0 with early_stopping=True, got "
                f"{fraction}."
            )
        samples, cluster = numbered.samples, numbered.cluster
        labels = self._targets.strata(samples.y)
        rows, rest = split_rows(cluster, labels, samples.weight, fraction, seed)
        if not len(rest):
            few = "there are no" if labels is None else "no label has"
            raise ValueError(
                f"early_stopping must be False or 'auto' if {few} two distinct samples "
                f"or groups, got n_samples={len(samples.y)}: none of them can be held "
                "out."
            )
        return numbered.rows(rows), samples.rows(rest)

    def _randomness(self, seed):
        """Seed torch's global generator, which only modules use."""
        return nullcontext() if self.module is None else local_randomness(seed)

    def _loss(self, architecture):
        """Return the loss of standardized targets."""
        return self._targets.loss_for(architecture.n_outputs, architecture.scale)

    def _data(self, architecture, samples):
        """Convert standardized samples, targets and weights to tensors."""
        target = self._targets.encode(
            samples.y, architecture.n_outputs, architecture.center, architecture.scale
        )
        weight = torch.from_numpy(samples.normalized_weight)
        inputs = architecture.standardized(samples.X)
        return Samples(as_tensor(inputs, inputs.dtype), target, weight)

    def _request(self, n_samples, X):
        """Resolve automatic parameters and collect all of them for the training."""
        rate = self.learning_rate_init
        if rate == "auto":
            inputs = self._input_map()
            n_inputs = X[0].size if inputs is None else inputs.n_inputs(X.shape)
            rate = automatic_rate(n_inputs)
        batch_size = self._batch(n_samples)
        if self.batch_size != "auto" and batch_size > n_samples:
            warnings.warn(
                f"batch_size={batch_size} is larger than n_samples={n_samples}; all "
                "samples form one batch.",
                stacklevel=5,
            )
        if self.solver == "sgd":
            momentum = float(self.momentum), self.nesterovs_momentum
            method: Method = GradientDescent(*momentum)
        else:
            method = Adam(*map(float, (self.beta_1, self.beta_2, self.epsilon)))
        name = self.dtype or X.dtype.name
        return TrainingRequest(
            solver=self.solver,
            schedule=Schedule(
                rate=float(rate),
                kind=self.learning_rate,
                max_epochs=int(self.max_iter),
                tol=float(self.tol),
                patience=int(min(self.n_iter_no_change, self.max_iter)),
                power=float(self.power_t),
            ),
            batch_size=min(batch_size, n_samples),
            shuffle=bool(self.shuffle),
            alpha=float(self.alpha),
            neuron_penalty=float(self.neuron_penalty),
            n_starts=int(self.n_starts),
            global_move=self.global_move,
            method=method,
            max_evaluations=int(self.max_fun),
            dtype=torch.float32 if name == "float32" else torch.float64,
            device=check_device(self.device),
            loss_unit=self._loss_unit,
        )

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.input_tags.three_d_array = self.module is not None
        return tags
