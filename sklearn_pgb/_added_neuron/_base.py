"""What the regressor and the classifier with added neurons share."""

import warnings
from abc import abstractmethod
from contextlib import nullcontext
from itertools import pairwise
from numbers import Integral, Real

import numpy as np
import torch
from sklearn.base import BaseEstimator, _fit_context
from sklearn.callback import CallbackSupportMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state, gen_batches
from sklearn.utils._param_validation import Interval, Options, StrOptions
from sklearn.utils.validation import (
    _check_sample_weight,
    check_is_fitted,
    validate_data,
)
from torch import Tensor, nn

from sklearn_pgb._added_neuron._fitting import (
    Data,
    Request,
    fit_network,
    one_epoch,
)
from sklearn_pgb._added_neuron._progress import hooks
from sklearn_pgb._estimator import Targets, all_or_nothing, check_device, dense
from sklearn_pgb._networks import (
    ACTIVATIONS,
    ChainNetwork,
    Network,
    NetworkEstimator,
    TrainingTerms,
    as_float64,
    as_tensor,
    open_module,
)
from sklearn_pgb._training import (
    Adam,
    ChainProgram,
    GradientDescent,
    Schedule,
    automatic_rate,
    chain_architecture,
    chain_module,
    chain_parameters,
    hidden_widths,
    local_randomness,
    module_architecture,
    network_state,
    restored_module,
)

# What `fit` finds out about its network, and `partial_fit` does not.
VERDICT = (
    "auxiliary_loss_",
    "floor_",
    "floor_attained_",
    "floor_gap_",
    "residual_",
    "status_",
    "neurons_",
    "neuron_norm_curve_",
    "best_loss_",
    "n_moves_",
    "validation_scores_",
    "best_validation_score_",
)

# Rows of one forward pass in `predict`.
PREDICTED_ROWS = 2**13


def has_epochs(self: "AddedNeuronBase") -> bool:
    """Whether a solver can train for one epoch, as `available_if` asks."""
    if self.solver == "lbfgs":
        raise AttributeError(
            "solver must be 'adam' or 'sgd' for partial_fit, got 'lbfgs', which is not "
            "stochastic"
        )
    return True


def _rows(X, kept):
    """Some rows of X; X itself where that is all of them, as it may be mapped."""
    return X if kept.all() else X[kept]


class AddedNeuronBase(CallbackSupportMixin, NetworkEstimator, Targets, BaseEstimator):
    """Fit, partial fit and state of a network with added neurons."""

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
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="left")],
        "beta_1": [Interval(Real, 0, 1, closed="left")],
        "beta_2": [Interval(Real, 0, 1, closed="left")],
        "epsilon": [Interval(Real, 0, None, closed="neither")],
        "n_iter_no_change": [
            Interval(Integral, 1, None, closed="left"),
            Options(Real, {np.inf}),
        ],
        "max_fun": [Interval(Integral, 1, None, closed="left")],
        "dtype": [StrOptions({"float32", "float64"}), None],
        "warm_start": ["boolean"],
        "device": [str, torch.device, None],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    # ------------------------------------------------------------------- fitting

    @_fit_context(prefer_skip_nested_validation=True)
    @all_or_nothing
    def fit(self, X, y, sample_weight=None):
        """Train the network.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            With `module`, of any shape (n_samples, ...) that it takes. A sparse matrix
            is made dense.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets or labels.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights; where one batch holds all samples, integers equal repeated rows.

        Returns
        -------
        self : object
            The trained network.

        Raises
        ------
        ValueError
            If the data, the weights or a combination of parameters can't be used.
        """
        if self.n_starts > 1 and (self.early_stopping or self.solver == "lbfgs"):
            raise ValueError(
                "n_starts must be 1 with early_stopping=True or solver='lbfgs', got "
                f"{self.n_starts}: the search for a global minimum is by minibatches "
                "and judges networks by their training loss."
            )
        warm = self.warm_start and hasattr(self, "loss_curve_")
        X, y, given = self._check(X, y, sample_weight, known=warm)
        self._learn(y, known=warm, classes=None)
        X, y, given, weight = self._weigh(X, y, given)
        rng = check_random_state(self.random_state)
        seed = int(rng.randint(np.iinfo(np.int32).max))
        rows, held_out = self._split(X, y, seed)
        with self._randomness(seed):
            self._units = self._target_units(y, weight)
            architecture = self._architecture(X, rng, known=warm)
            loss = self._loss_of(architecture.n_outputs)
            data = self._data(architecture, X, y, weight, loss)
            score = None
            if len(held_out):
                score = self._held_out_score(architecture, X, y, weight, held_out)
            hook, finish = hooks(
                self, architecture, X, y, None if sample_weight is None else given
            )
            result = fit_network(
                architecture,
                loss,
                data.rows(rows),
                self._request(len(rows), X[0].size),
                total_weight=float(weight[rows].sum()),
                start=self._theta(architecture) if warm else None,
                seed=seed,
                hook=hook,
                held_out=score,
            )
        self._forget_fit()
        self._store(architecture, result)
        finish()
        if result.diverged:
            self._warn_of_divergence()
        return self

    def _partial_fit(self, X, y, classes, sample_weight):
        """One epoch from where the network is."""
        if self.early_stopping:
            raise ValueError(
                "early_stopping must be False for partial_fit, got True: a batch has "
                "no rows to spare for validation."
            )
        first = not hasattr(self, "loss_curve_")
        X, y, given = self._check(X, y, sample_weight, known=not first)
        self._note_classes(classes)
        self._learn(y, known=not first, classes=classes)
        X, y, _, weight = self._weigh(X, y, given)
        rng = check_random_state(self.random_state)
        curve = [] if first else self.loss_curve_
        # A seed that is a number is the same at each call; dropout must not be.
        seed = (int(rng.randint(np.iinfo(np.int32).max)) + len(curve)) % 2**31
        memory = getattr(self, "_memory", None)
        with self._randomness(seed):
            if first:
                self._units = self._target_units(y, weight)
            architecture = self._architecture(X, rng, known=not first)
            loss = self._loss_of(architecture.n_outputs)
            theta, value, memory = one_epoch(
                architecture,
                loss,
                self._data(architecture, X, y, weight, loss),
                self._request(len(X), X[0].size),
                total_weight=float(weight.sum()),
                start=None if first else self._theta(architecture),
                memory=None if memory is None else [as_float64(m) for m in memory],
                seed=seed,
            )
        self._forget_fit()
        self._store_network(architecture, theta)
        self.loss_ = value * architecture.scale**2
        self.loss_curve_: list[float] = [*curve, self.loss_]
        self.n_iter_ = len(self.loss_curve_)
        if memory is None:
            self._warn_of_divergence()
        else:
            self._memory = [part.cpu().numpy() for part in memory]
        return self

    def _forget_fit(self):
        """Drop what an earlier fit found out about another network."""
        for name in (*VERDICT, "_memory"):
            if hasattr(self, name):
                delattr(self, name)

    def _warn_of_divergence(self):
        warnings.warn(
            "The loss diverged; the parameters of the smallest loss were kept. Lower "
            f"learning_rate_init, got {self.learning_rate_init!r}, or standardise X.",
            ConvergenceWarning,
            stacklevel=5,
        )

    # ---------------------------------------------------------------------- subclasses

    @abstractmethod
    def _score_raw(self, raw, y, weight):
        """Score of raw outputs on held-out samples."""

    def _note_classes(self, classes):
        """Check the labels that `partial_fit` was told of."""

    # ---------------------------------------------------------------- data and request

    def _check(self, X, y, sample_weight, known):
        """Rows of positive sample weight, as arrays, and these weights."""
        check_device(self.device)
        X, y = validate_data(
            self,
            X,
            y,
            accept_sparse=("csr", "csc"),
            dtype=(np.float64, np.float32),
            multi_output=True,
            allow_nd=self.module is not None,
            reset=not known,
        )
        weight = _check_sample_weight(
            sample_weight, X, dtype=np.float64, ensure_non_negative=True
        )
        y = self._check_targets(y)
        kept = weight > 0
        return _rows(dense(X), kept), y[kept], weight[kept]

    def _weigh(self, X, y, given):
        """Rows whose class counts, with the weights given and those of classes too."""
        weight = given * self._class_weights(y)
        if not weight.any():
            raise ValueError(
                "sample_weight and class_weight must leave some sample a weight above "
                "zero, got zero for all of them."
            )
        kept = weight > 0
        return _rows(X, kept), y[kept], given[kept], weight[kept]

    def _validates(self):
        """Whether rows are held out; "lbfgs" takes no part in early stopping."""
        return self.early_stopping and self.solver != "lbfgs"

    def _split(self, X, y, seed):
        """Rows to train on, and rows held out for early stopping."""
        rows = np.arange(len(X))
        if not self._validates():
            return rows, rows[:0]
        if not self.validation_fraction > 0:
            raise ValueError(
                "validation_fraction must be > 0 with early_stopping=True, got "
                f"{self.validation_fraction}."
            )
        train, held_out = train_test_split(
            rows,
            test_size=self.validation_fraction,
            random_state=seed,
            stratify=self._labels(y),
        )
        if len(held_out) < 2:
            raise ValueError(
                "validation_fraction must hold out at least 2 samples, got "
                f"{len(held_out)} of {len(X)} with {self.validation_fraction}."
            )
        return train, held_out

    def _randomness(self, seed):
        """Torch's global generator, which only modules draw from."""
        return nullcontext() if self.module is None else local_randomness(seed)

    def _training_dtype(self, X):
        if self.solver == "lbfgs":
            return torch.float64
        name = self.dtype or X.dtype.name
        return torch.float32 if name == "float32" else torch.float64

    def _data(self, architecture, X, y, weight, loss):
        """Tensors of the training."""
        device, dtype = check_device(self.device), self._training_dtype(X)
        columns = self._columns(y, architecture.n_outputs) - architecture.centre
        columns = torch.tensor(columns / architecture.scale, dtype=torch.float64)
        return Data(
            as_tensor(X, np.float32 if dtype == torch.float32 else np.float64).to(
                device
            ),
            loss.encode(columns).to(device, dtype),
            torch.tensor(weight / weight.sum(), dtype=dtype, device=device),
        )

    def _request(self, n_samples, n_features):
        """The parameters, resolved."""
        rate = self.learning_rate_init
        if rate == "auto":
            rate = automatic_rate(n_features)
        batch_size = self.batch_size
        if batch_size == "auto":
            batch_size = 200
        elif batch_size > n_samples:
            warnings.warn(
                f"batch_size={batch_size} is larger than n_samples={n_samples}; all "
                "samples make one batch.",
                stacklevel=5,
            )
        return Request(
            solver=self.solver,
            schedule=Schedule(
                rate=float(rate),
                kind=self.learning_rate,
                max_epochs=int(self.max_iter),
                tol=float(self.tol),
                patience=int(min(self.n_iter_no_change, self.max_iter)),
                power=float(self.power_t),
            ),
            batch_size=min(int(batch_size), n_samples),
            shuffle=bool(self.shuffle),
            alpha=float(self.alpha),
            neuron_penalty=float(self.neuron_penalty),
            n_starts=int(self.n_starts),
            global_move=self.global_move,
            adam=Adam(self.beta_1, self.beta_2, self.epsilon),
            descent=GradientDescent(self.momentum, self.nesterovs_momentum),
            max_evaluations=int(self.max_fun),
        )

    def _held_out_score(self, architecture, X, y, weight, rows):
        """Score of parameters on the held-out rows, as a function."""
        device, dtype = check_device(self.device), self._training_dtype(X)
        X_held = torch.tensor(X[rows], dtype=dtype, device=device)
        y_held, weight_held = y[rows], weight[rows]

        def score(theta: Tensor) -> float:
            raw = architecture.program(theta[None], X_held)[0].cpu().double().numpy()
            raw = architecture.centre + architecture.scale * raw
            if not np.isfinite(raw).all():
                return -np.inf
            return float(self._score_raw(raw, y_held, weight_held))

        return score

    # ---------------------------------------------------------------------- networks

    def _architecture(self, X, rng, known):
        """The network to train; a `known` module goes on with its statistics."""
        if self.module is not None:
            device = None if self.solver == "lbfgs" else self.device
            dtype = self._training_dtype(X)
            architecture = module_architecture(self.module, X, dtype, device)
            if known:
                self._check_module(architecture)
                return module_architecture(self.module_, X, dtype, device)
            return architecture
        hidden = hidden_widths(self.hidden_layer_sizes)
        activations = [ACTIVATIONS[self.activation]] * len(hidden)
        widths = [X.shape[1], *hidden, self._natural_outputs()]
        return chain_architecture(ChainProgram(widths, activations), rng, *self._units)

    def _check_module(self, architecture):
        """Refuse to go on with another module than the fitted one."""
        new = network_state(architecture, architecture.program.theta()[0])
        shapes = {k: v.shape for k, v in new["module_state_"].items()}
        old = {k: v.shape for k, v in getattr(self, "module_state_", {}).items()}
        if shapes != old:
            raise ValueError(
                "module must be that of the fit that is continued, got one with other "
                "parameters. Set warm_start=False to start anew."
            )

    def _theta(self, architecture):
        """Parameters of the fitted network, for the program of an architecture."""
        if self.module is not None:
            return architecture.draw()
        shapes = [coef.shape for coef in getattr(self, "coefs_", [])]
        widths = [
            self.n_features_in_,
            *hidden_widths(self.hidden_layer_sizes),
            self._natural_outputs(),
        ]
        if shapes != list(pairwise(widths)):
            raise ValueError(
                "hidden_layer_sizes, module, features and targets must be those of the "
                f"fit that is continued, got layers of {widths} for {shapes}. Set "
                "warm_start=False to start anew."
            )
        return chain_parameters(architecture, self.coefs_, self.intercepts_)

    def _network(self) -> Network:
        """The fitted network."""
        if self.module is not None:
            return open_module(self.module_)
        activation = ACTIVATIONS[self.activation]
        return ChainNetwork(
            [as_float64(coef).T for coef in self.coefs_],
            [as_float64(intercept) for intercept in self.intercepts_],
            [activation] * (len(self.coefs_) - 1),
        )

    def _training_terms(self, rows, y, weight):
        factor = self._class_weights(np.asarray(y))
        # Rows that have no weight at all are the caller's to refuse.
        share = self.alpha / (2 * max(float(weight @ factor), np.finfo(float).tiny))
        notes = []
        if self._validates():
            notes.append(
                "The training left out a part of these rows for early stopping; its "
                "objective is taken on all of them."
            )
        if self.module is not None:
            named = self.module_.named_parameters()
            trained = [(p.shape, p.numel()) for _, p in named if p.requires_grad]
            parts = [np.full(size, share * (len(s) > 1)) for s, size in trained]
            return TrainingTerms(np.concatenate(parts), factor, tuple(notes))
        # Targets, and with them the last layer, are scaled in the training.
        unit = float(self._units[1]) ** 2
        parts = []
        for layer, coef in enumerate(self.coefs_):
            last = layer == len(self.coefs_) - 1
            parts.append(np.full(coef.size, share * (1.0 if last else unit)))
            parts.append(np.zeros(coef.shape[1]))
        return TrainingTerms(np.concatenate(parts), factor, tuple(notes))

    @property
    def module_(self):
        """The network as a torch module in evaluation mode, on the CPU."""
        if self.module is None:
            return chain_module(self.coefs_, self.intercepts_, self.activation)
        return restored_module(self._prototype, self.module_state_)

    def _raw(self, X):
        """Raw outputs."""
        check_is_fitted(self)
        X = validate_data(
            self,
            X,
            reset=False,
            accept_sparse=("csr", "csc"),
            dtype=(np.float64, np.float32),
            allow_nd=self.module is not None,
        )
        network, parts = self._network(), []
        for rows in gen_batches(X.shape[0], PREDICTED_ROWS):
            with torch.no_grad():
                part = as_float64(dense(X[rows]))
                parts.append(network(network.theta, part).numpy())
        return np.concatenate(parts)

    # ------------------------------------------------------------------------- state

    def _store_network(self, architecture, theta):
        """Keep the parameters as arrays."""
        for name, value in network_state(architecture, theta).items():
            setattr(self, name, value)

    def _store(self, architecture, result):
        """Keep everything that a fit reached as arrays and plain values."""
        self._store_network(architecture, result.theta)
        verdict, scale = result.verdict, architecture.scale
        # Losses of scaled targets and outputs, in the user's units: only the squared
        # loss has a scale other than one.
        self.loss_ = verdict.loss * scale**2
        self.auxiliary_loss_ = verdict.auxiliary_loss * scale**2
        self.floor_ = verdict.floor.value * scale**2
        self.floor_attained_ = verdict.floor.attained
        self.floor_gap_ = self.loss_ - self.floor_
        self.residual_ = verdict.residual * scale
        self.status_ = verdict.status
        neurons = verdict.neurons
        self.neurons_ = {
            "a": neurons.a[0].numpy() * scale,
            "b": neurons.b[0].numpy(),
            "W": neurons.W[0].numpy(),
        }
        self.neuron_norm_curve_ = [
            float(np.hypot(amplitude * scale, rest))
            for amplitude, rest in verdict.norms
        ]
        self.loss_curve_ = [loss * scale**2 for loss in result.losses]
        self.best_loss_ = min(self.loss_curve_, default=self.loss_)
        self.n_iter_ = result.n_iter
        self.n_moves_ = result.n_moves
        self.validation_scores_ = self.best_validation_score_ = None
        if self._validates():
            self.validation_scores_ = result.scores
            self.best_validation_score_ = max(result.scores)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.input_tags.three_d_array = self.module is not None
        return tags
