"""Base class of the regressor and the classifier on a ResNet basis."""

import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from numbers import Integral, Real

import numpy as np
import torch
from sklearn.base import BaseEstimator, is_classifier
from sklearn.callback import CallbackSupportMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state, get_tags
from sklearn.utils.validation import (
    check_consistent_length,
    check_is_fitted,
    validate_data,
)
from torch import Tensor, nn

from sklearn_pgb._budget import FULL_BATCH_ROWS, PASS_ROWS
from sklearn_pgb._estimator._border import all_or_nothing, dense
from sklearn_pgb._estimator._hooks import fit_hooks
from sklearn_pgb._estimator._predictors import finite_outputs
from sklearn_pgb._estimator._resources import check_device
from sklearn_pgb._estimator._state import VersionedState, as_fitted
from sklearn_pgb._losses._named import PARAMETERS
from sklearn_pgb._models._activations import ACTIVATIONS
from sklearn_pgb._models._network import as_float64
from sklearn_pgb._models._opened import NetworkEstimator, TrainingTerms
from sklearn_pgb._models._protected import transform_protected
from sklearn_pgb._models._resnet import ResNetModule, ResNetNetwork, Squash
from sklearn_pgb._operators._blocks import row_slices
from sklearn_pgb._resnet._diagnostics import stationarity
from sklearn_pgb._resnet._fitting import fit_resnet, is_worse, projection_is_cheap
from sklearn_pgb._resnet._folds import draw_folds
from sklearn_pgb._resnet._inputs import (
    BasisAndInputs,
    InputScale,
    basis_features,
    check_rows,
    column_centers,
    fit_basis,
    units_input,
    usable_features,
)
from sklearn_pgb._resnet._residual import BasisSamples, ResNetRequest
from sklearn_pgb._resnet._weights import (
    loss_increase,
    residual_weights,
    warn_if_singular,
)
from sklearn_pgb._samples import check_groups, check_has_targets, checked_weights
from sklearn_pgb._sklearn import (
    HasMethods,
    Interval,
    StrOptions,
    _check_y,
    _fit_context,
    _num_samples,
    _safe_indexing,
)
from sklearn_pgb._threads import local_randomness
from sklearn_pgb._training._architecture import (
    chain_architecture,
    chain_module,
    hidden_widths,
    module_architecture,
    network_state,
    restored_module,
)
from sklearn_pgb._training._program import ChainProgram

# A fitted model keeps using the values of these parameters at the time of `fit`.
KEPT = {
    "activation",
    "class_weight",
    "fit_intercept",
    "loss",
    "weight_decay",
    *PARAMETERS,
}

# Attributes that store the units; a new fit deletes those of the previous one.
UNIT_ATTRIBUTES = ("coefs_", "intercepts_", "n_layers_", "module_state_", "_prototype")


class ResNetBasisBase(
    VersionedState, CallbackSupportMixin, NetworkEstimator, BaseEstimator
):
    """Model with residual units on top of a basis."""

    _parameter_constraints: dict = {
        "basis": [HasMethods(["fit", "transform"]), None],
        "hidden_layer_sizes": [
            "array-like",
            Interval(Integral, 1, None, closed="left"),
        ],
        "activation": [StrOptions(set(ACTIVATIONS))],
        "module": [nn.Module, callable, None],
        "residual_input": [StrOptions({"auto", "X", "basis"})],
        "alpha": [StrOptions({"auto", "loo"}), Interval(Real, 0, None, closed="left")],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "fit_intercept": ["boolean"],
        "solver": [StrOptions({"auto", "lbfgs", "adam"})],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "cv": ["cv_object"],
        "tol": [Interval(Real, 0, None, closed="left")],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
        "dtype": [StrOptions({"float32", "float64"})],
        "device": [str, torch.device, None],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    # ------------------------------------------------------------------- fitting

    @_fit_context(prefer_skip_nested_validation=False)
    @all_or_nothing
    def fit(self, X, y, sample_weight=None, *, groups=None):
        """Fit the basis, train the residual units and solve for the linear part.

        Parameters
        ----------
        X : array-like, sparse matrix or data frame of shape (n_samples, n_features)
            Any input of `basis`, or numbers without a basis. With `module`, of any
            shape (n_samples, ...) that it takes.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets or labels.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights. Integers are equivalent to repeated samples with the solver
            "lbfgs". `basis` is fitted to samples of positive weight, without weights.
        groups : array-like of shape (n_samples,), default=None
            Groups of samples. Folds do not divide them; they are passed to a splitter.

        Returns
        -------
        self : object
            The fitted model.

        Raises
        ------
        ValueError
            If the data, the weights or a combination of parameters are invalid.
        """
        self._keep_parameters()
        given = X, y
        X, y, weight = self._check(X, y, sample_weight, self.basis)
        if groups is not None:
            groups = check_groups(groups, X)
        self._learn(y)
        counts, weight = weight, self._targets.weigh(y, weight)
        rng = check_random_state(self.random_state)
        seed = int(rng.randint(np.iinfo(np.int32).max))
        with local_randomness(seed):
            training = self._fit(given, X, y, weight, counts, groups, rng, seed)
        if training.diverged:
            warnings.warn(
                f"The loss overflowed after {self.n_iter_} epochs; the parameters with "
                "the smallest loss were kept. Lower learning_rate_init, got "
                f"{self.learning_rate_init}, or standardize X.",
                ConvergenceWarning,
                stacklevel=3,
            )
        return self

    def _fit(self, given, X, y, weight, counts, groups, rng, seed):
        """Fit on validated samples; return the training of the units."""
        kept = np.flatnonzero(weight > 0)
        # A splitter divides all samples, as they were passed to `fit`.
        all_X, all_y = given
        if len(kept) < len(weight):
            X, y, weight = _safe_indexing(X, kept), y[kept], weight[kept]
            counts = counts[kept]
        basis, inputs = self._fit_basis(X, y)
        basis, inputs = usable_features(basis), usable_features(inputs)
        self._n_basis, self._unit_shape = basis.shape[1], inputs.shape[1:]
        architecture = self._architecture(inputs, rng)
        rows = self._stack(basis, inputs)
        samples, input_scale, loss = self._standardized(basis, inputs, y, weight)
        # Solves for the linear part of the last iteration, for callbacks.
        solve_head: Callable

        def state(theta: Tensor) -> dict:
            return self._state(architecture, theta, input_scale, *solve_head())

        hook, finish = fit_hooks(self, X, y, weight, state)

        def on_iteration(theta: Tensor, loss: float, head: Callable) -> bool:
            nonlocal solve_head
            solve_head = head
            return hook(theta.detach(), loss * self._scale**2)

        # Drawn once: a splitter may shuffle, and an iterable may end.
        folds = cache(
            partial(
                draw_folds,
                self.cv,
                all_X,
                all_y,
                groups,
                rows=rows,
                kept=kept,
                labels=self._targets.strata(y),
                weight=weight,
                seed=seed,
                classifier=is_classifier(self),
            )
        )
        result = fit_resnet(
            architecture.program,
            architecture.draw().to(samples.y),
            architecture.program.is_weight().to(samples.y.device),
            loss,
            samples,
            self._request(samples, architecture.n_outputs, loss, counts, seed),
            None if self.cv is None else folds,
            on_iteration,
        )
        model = architecture, input_scale, rows, samples, loss
        # Stored models are compared: their losses include all rounding.
        alone = result.without_units()
        self._store(alone, *model)
        if result.scale > 0:
            self._store(result, *model)
            if is_worse(self.loss_, self.basis_loss_, self._scale**2):
                self._store(alone, *model)
        finish()
        return result.training

    # ---------------------------------------------------------------- data and request

    def _keep_parameters(self):
        names = KEPT & self.get_params(deep=False).keys()
        self._as_fitted = {name: getattr(self, name) for name in names}
        self._is_chain, self._has_folds = self.module is None, self.cv is not None

    def _validate(self, X, basis, **reset):
        """Validate X, or only its feature names if a basis validates the rest."""
        if basis is not None:
            X = check_rows(X)
            return validate_data(self, X, skip_check_array=True, **reset)
        return validate_data(
            self,
            X,
            accept_sparse=("csr", "csc"),
            dtype=np.float64,
            allow_nd=not self._is_chain,
            **reset,
        )

    def _check(self, X, y, sample_weight, basis, **reset):
        """Validate X, targets and sample weights."""
        check_device(self.device)
        check_has_targets(self, y)
        X = self._validate(X, basis, **reset)
        y = _check_y(y, multi_output=True, estimator=self)
        check_consistent_length(X, y)
        weight = checked_weights(sample_weight, X)
        return X, self._kind_of_targets.checked(y), weight

    def _fit_basis(self, X, y):
        """Fit a clone of the basis and return `_features` of the training samples.

        As in a Pipeline, they come from `fit_transform` if the basis has it. They may
        differ from those of `transform`: TargetEncoder uses cross-fitting.
        """
        self.basis_, self.residual_input_ = None, "X"
        if self.basis is None:
            return self._features(X)
        target = y.ravel() if y.ndim == 2 and y.shape[1] == 1 else y
        fitted = fit_basis(self.basis, X, target, self.residual_input)
        features, self.basis_, self.residual_input_ = fitted
        return self._with_inputs(features, X)

    def _features(self, X):
        """Return the features (n_samples, n_basis) and the inputs of the units."""
        if self.basis_ is None:
            inputs = dense(X)
            return inputs.reshape(len(inputs), -1), inputs
        features = transform_protected(self.basis_, X)
        return self._with_inputs(features, X, self._n_basis)

    def _with_inputs(self, features, X, n_features=None):
        basis = basis_features(features, self.basis_, _num_samples(X), n_features)
        if self.residual_input_ == "basis":
            return basis, basis
        return basis, units_input(X, allow_nd=not self._is_chain)

    def _network_inputs(self, X):
        """Return features and inputs of the units as one matrix."""
        return self._stack(*self._features(X))

    def _standardized(self, basis, inputs, y, weight):
        """Standardize the samples; return them, the inputs' scale and the loss."""
        targets, device = self._targets, check_device(self.device)
        n_outputs = targets.n_outputs
        self._center, self._scale = targets.scaling(y, weight)
        if not self.fit_intercept:
            self._center = np.zeros(n_outputs)
        normalized = weight / weight.sum()
        self.basis_center_ = column_centers(basis, normalized, self.fit_intercept)
        scale = InputScale.of(inputs, normalized, self._is_chain)
        samples = BasisSamples(
            as_float64(basis - self.basis_center_).to(device),
            as_float64(scale.standardized(inputs)).to(device),
            targets.encode(y, n_outputs, self._center, self._scale).to(device),
            as_float64(normalized).to(device),
            as_float64(self.basis_center_).to(device),
        )
        return samples, scale, targets.loss_for(n_outputs, self._scale)

    def _stack(self, basis, inputs):
        """Stack features and inputs, or return the inputs if both are the same."""
        if self._is_shared:
            return inputs
        return np.hstack([basis, inputs.reshape(len(inputs), -1)])

    @property
    def _is_shared(self):
        """Whether the features are also the inputs of the units."""
        return self.basis_ is None or self.residual_input_ == "basis"

    def _request(self, samples, n_units, loss, counts, seed):
        """Resolve automatic parameters and collect all of them for the training."""
        is_small = len(samples.y) <= FULL_BATCH_ROWS
        # Modules train in float64, as their buffers are not converted.
        single = self.dtype == "float32" and self.module is None
        return ResNetRequest(
            alpha=None if isinstance(self.alpha, str) else float(self.alpha),
            leave_one_out=isinstance(self.alpha, str) and self.alpha == "loo",
            decay=float(self.weight_decay),
            intercept=bool(self.fit_intercept),
            full_batch=is_small if self.solver == "auto" else self.solver == "lbfgs",
            projects=projection_is_cheap(samples, n_units, loss),
            max_iter=int(self.max_iter),
            tol=float(self.tol),
            batch_size=min(int(self.batch_size), len(samples.y)),
            rate=float(self.learning_rate_init),
            dtype=torch.float32 if single else torch.float64,
            counts=as_float64(counts).to(samples.y),
            seed=seed,
        )

    # ---------------------------------------------------------------------- networks

    def _architecture(self, inputs, rng):
        """Return the residual units to train."""
        if self.module is not None:
            return module_architecture(self.module, inputs, torch.float64, self.device)
        hidden = hidden_widths(self.hidden_layer_sizes)
        if not hidden:
            raise ValueError(
                "hidden_layer_sizes must have at least one layer, got none. Pass the "
                "number of residual units."
            )
        program = ChainProgram(
            [inputs.shape[1], *hidden], [ACTIVATIONS[self.activation]] * len(hidden)
        )
        return chain_architecture(program, rng, np.zeros(hidden[-1]), 1.0)

    def _units(self):
        """Return the residual units as a torch module."""
        if not self._is_chain:
            return restored_module(self._prototype, self.module_state_)
        activation = as_fitted(self, "activation")
        chain = chain_module(self.coefs_, self.intercepts_, activation)
        return nn.Sequential(*chain.children(), ACTIVATIONS[activation].module())

    @property
    def module_(self):
        """The network as a torch module in evaluation mode, on the CPU.

        Its inputs are the features of the basis and X in one matrix, or X alone without
        a basis.
        """
        coef = np.hstack([self.coef_x_, self.coef_z_])
        has_bias = as_fitted(self, "fit_intercept")
        # Skips the initialization, which would use torch's global generator.
        head = nn.utils.skip_init(
            nn.Linear, coef.shape[1], len(coef), bias=has_bias, dtype=torch.float64
        )
        head.weight.data = torch.tensor(coef)
        if has_bias:
            head.bias.data = torch.tensor(self.centered_intercept_)
        return ResNetModule(
            head,
            self._units(),
            None if self._is_shared else self._n_basis,
            tuple(self._unit_shape),
            Squash(*map(as_float64, (*self.input_range_, self.input_scale_))),
            torch.tensor(self.basis_center_),
        ).eval()

    def _raw(self, X):
        """Return raw outputs."""
        check_is_fitted(self)
        X = self._validate(X, self.basis_, reset=False)
        return finite_outputs(self._forward(self._network_inputs(X)))

    def _forward(self, rows):
        """Return raw outputs for the matrix of `_network_inputs`."""
        network, parts = ResNetNetwork(self.module_), []
        for batch in row_slices(len(rows), PASS_ROWS):
            with torch.no_grad():
                part = network(network.theta, as_float64(rows[batch]))
            parts.append(part.numpy())
        return np.concatenate(parts)

    def _opening(self):
        """Return network, final estimator, and other fields of `OpenNetwork`."""
        network = ResNetNetwork(self.module_)
        if self.basis_ is None:
            return network, self, {}
        return network, self.module_, {"steps": (BasisAndInputs(self),)}

    def _training_terms(self, rows, y, weight):
        factor = self._targets.class_factors(np.asarray(y), weight)
        # The caller checks that the total weight is positive.
        total = max(weight @ factor, np.finfo(float).tiny)
        penalty_x = np.full(self.coef_x_.shape, self.alpha_ / 2)
        notes = []
        if self.residual_scale_ > 0:
            penalty_z = self.alpha_ / 2 / self.residual_scale_**2
        else:
            penalty_z = 0.0
            notes.append("The fit left the residual units out; their weights are zero.")
        head = np.hstack([penalty_x, np.full(self.coef_z_.shape, penalty_z)])
        if self._has_folds:
            notes.append(
                "The residual units were trained for a number of iterations that was "
                "chosen on held-out samples; the linear part was solved for exactly."
            )
        inputs = rows if self._is_shared else rows[:, self._n_basis :]
        spread = InputScale.of(inputs, weight * factor / total, self._is_chain).spread
        decay = self._scale**2 * as_fitted(self, "weight_decay")
        n_free = len(head) if as_fitted(self, "fit_intercept") else 0
        parts = [head.ravel(), np.zeros(n_free)]
        trained = [p for p in self._units().parameters() if p.requires_grad]
        for position, weights in enumerate(trained):
            entry = np.full(weights.shape, decay if weights.ndim > 1 else 0.0)
            # The decay applies to weights of standardized inputs.
            parts.append((entry * spread**2 if position == 0 else entry).ravel())
        return TrainingTerms(np.concatenate(parts), factor, tuple(notes))

    # ------------------------------------------------------------------------- state

    def _state(self, architecture, theta, input_scale, coef, intercept):
        """Return the attributes of the model for unstandardized inputs and targets."""
        coef = self._scale * coef.cpu().numpy()
        state = {
            "coef_x_": coef[: self._n_basis].T.copy(),
            "coef_z_": coef[self._n_basis :].T.copy(),
            "centered_intercept_": self._center + self._scale * intercept.cpu().numpy(),
            **network_state(architecture, theta.cpu().double()),
            "n_outputs_": len(intercept),
            "input_range_": np.array([input_scale.lower, input_scale.upper]),
            "input_scale_": np.array(input_scale.width),
        }
        if self.module is None:
            first = state["coefs_"][0], state["intercepts_"][0]
            state["coefs_"][0], state["intercepts_"][0] = input_scale.fold(*first)
        shift = state["coef_x_"] @ self.basis_center_
        return state | {"intercept_": state["centered_intercept_"] - shift}

    def _store(self, result, architecture, input_scale, rows, samples, loss):
        """Set the attributes of a fit, as arrays and plain values."""
        head = result.coef, result.solution.intercept
        state = self._state(architecture, result.theta, input_scale, *head)
        for name in UNIT_ATTRIBUTES:
            self.__dict__.pop(name, None)
        for name, value in state.items():
            setattr(self, name, value)
        # Targets are only scaled if this divides losses by the square of the scale.
        variance = self._scale**2
        self.alpha_ = result.alpha
        self.residual_scale_ = result.scale
        self.loss_ = variance * self._objective(rows, samples, loss)
        if result.scale == 0:
            self.basis_loss_ = self.loss_
        self.improvement_ = self.basis_loss_ - self.loss_
        self.lower_bound_ = min(variance * result.bound.value, self.loss_)
        self.norm_budget_ = self._scale * result.bound.norm_budget
        bound = variance * result.basis_bound.value
        self.basis_lower_bound_ = min(bound, self.basis_loss_)
        self.basis_norm_budget_ = self._scale * result.basis_bound.norm_budget
        self.held_out_loss_ = variance * result.training.heldout_loss
        self.basis_held_out_loss_ = variance * result.training.basis_heldout_loss
        losses = [variance * loss for loss in result.training.losses]
        self.loss_curve_ = [loss for loss in losses if math.isfinite(loss)]
        self.n_iter_ = result.training.n_iter
        self._loss_increase = variance * loss_increase(
            self.coef_x_, self.coef_z_, self._scale, result.solution, samples, loss
        )

    def _objective(self, rows, samples, loss):
        """Evaluate the objective of the stored model for standardized targets."""
        raw = torch.from_numpy((self._forward(rows) - self._center) / self._scale)
        value = float(samples.weight @ loss.value(samples.y, raw.to(samples.y)))
        # Divided before squaring, so that no square underflows.
        parts = [self.coef_x_ / self._scale]
        if self.residual_scale_ > 0:
            parts.append(self.coef_z_ / self._scale / self.residual_scale_)
        # Coefficients of tiny features are so large that their squares overflow.
        root = math.sqrt(self.alpha_)
        return value + 0.5 * sum(float(np.square(root * each).sum()) for each in parts)

    def residual_weights(self):
        """Compute ResNet weights: the model is ``W (phi(x) + V z(x)) + intercept_``.

        Returns
        -------
        weights : ResidualWeights
            `W` (n_outputs, n_basis) and `V` (n_basis, n_units). `mapping_exact` is True
            if W is `coef_x_`, which requires that the range of `coef_x_` contains that
            of `coef_z_`. Otherwise W differs from it by `delta`, V is of size
            1 / delta, and `loss_increase` is the increase of the mean training loss.

        Raises
        ------
        ValueError
            If no such weights exist. This requires more outputs than features of the
            basis (one more with the log loss of several classes). The model itself, its
            predictions and its bounds do not need the weights.
        """
        check_is_fitted(self)
        weights = residual_weights(self.coef_x_, self.coef_z_)
        softmax = self._targets.loss_for(self.n_outputs_).dual_rows_sum_to_zero
        warn_if_singular(weights, softmax)
        return replace(weights, loss_increase=self._loss_increase)

    def stationarity(self, X, y, sample_weight=None):
        """Evaluate first-order conditions of the weights (W, V).

        With the gradient D of the loss in the raw outputs, every local minimum of the
        mean loss in (W, V) has ``E[phi D] = 0`` and ``E[z D] = 0`` [1]_. A fit with
        ``alpha=0`` has the same on its training samples if W is `coef_x_`. A positive
        alpha changes them to ``-alpha_ R1^T`` and ``-alpha_ R2^T / residual_scale_^2``.

        Parameters
        ----------
        X : array-like, sparse matrix or data frame of shape (n_samples, n_features)
            Samples to evaluate.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets or labels.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples.

        Returns
        -------
        conditions : Stationarity
            `x_residual` is ``E[phi D]``, `z_residual` is ``E[z D]``, `W_gradient` and
            `V_gradient` are gradients, `W_least` is the smallest singular value of W
            and `V_norm` the norm of V. ``gap_bound(W, V, R1, R2)`` bounds the excess of
            the mean loss at (W, V) over that of R1 = `coef_x_` and R2 = `coef_z_`.

        References
        ----------
        .. [1] Kawaguchi and Bengio, "Depth with nonlinearity creates no bad local
           minima in ResNets", Neural Networks 118, 2019, Lemma 2.
        """
        weights = self.residual_weights()
        features, y, weight = self._evaluated(X, y, sample_weight)
        loss = self._targets.loss_for(self.n_outputs_)
        phi, z = features[:, : self._n_basis], features[:, self._n_basis :]
        center = self.basis_center_
        shift = self.centered_intercept_ + (weights.W - self.coef_x_) @ center
        raw = (phi - center + z @ weights.V.T) @ weights.W.T + shift
        encoded = self._targets.encode(y, self.n_outputs_)
        slope = loss.gradient(encoded, as_float64(raw)).numpy()
        return stationarity(phi, z, weight[:, None] * slope, weights.W, weights.V)

    def _evaluated(self, X, y, sample_weight):
        """Return features [phi, z], targets and normalized weights of any samples."""
        X, y, weight = self._check(X, y, sample_weight, self.basis_, reset=False)
        self._targets.check(y)
        weight = self._targets.weigh(y, weight)
        with torch.no_grad():
            rows = as_float64(self._network_inputs(X))
            features = self.module_.double().features(rows).numpy()
        return features, y, weight / weight.sum()

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        if hasattr(self.basis, "__sklearn_tags__"):
            given = get_tags(self.basis).input_tags
            tags.input_tags.sparse = given.sparse
            tags.input_tags.pairwise = given.pairwise
            tags.input_tags.string = given.string
        tags.input_tags.three_d_array = self.module is not None
        return tags
