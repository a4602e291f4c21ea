"""The network of a fitted estimator: building, opening, exporting and storing it."""

from itertools import pairwise

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import nn

from sklearn_pgb._budget import PASS_ROWS
from sklearn_pgb._estimator._border import dense
from sklearn_pgb._estimator._predictors import finite_outputs
from sklearn_pgb._estimator._resources import check_device
from sklearn_pgb._estimator._state import as_fitted
from sklearn_pgb._models._activations import ACTIVATIONS
from sklearn_pgb._models._chain import ChainNetwork
from sklearn_pgb._models._module import open_module
from sklearn_pgb._models._network import Network, as_float64
from sklearn_pgb._models._opened import NetworkEstimator, TrainingTerms
from sklearn_pgb._operators._blocks import row_slices
from sklearn_pgb._training._architecture import (
    chain_architecture,
    chain_module,
    chain_parameters,
    hidden_widths,
    module_architecture,
    network_state,
    restored_module,
)
from sklearn_pgb._training._input_map import InputMap, Standardization
from sklearn_pgb._training._program import ChainProgram

# Attributes that store a chain or a module.
NETWORK = ("_coefs", "_intercepts", "n_layers_", "module_state_", "_prototype")


class TrainedNetwork(NetworkEstimator, BaseEstimator):
    """A network of standardized inputs, stored as arrays.

    `_inputs` holds the statistics of the inputs, `_target_scaling` those of the
    targets, and `_initial_biases` the output biases at the start of the training. A
    chain is stored as `_coefs` and `_intercepts`, which take standardized inputs, and a
    module as its state.
    """

    def _input_map(self):
        return None if self._inputs is None else InputMap(**self._inputs)

    # ---------------------------------------------------------------------- networks

    def _architecture(self, X, rng, continues):
        """Return the network to train; a continued module keeps its buffers."""
        inputs = self._input_map()
        if self.module is not None:
            exact = self.solver == "lbfgs"
            device = None if exact else check_device(self.device)
            name = "float64" if exact else self.dtype or X.dtype.name
            dtype = torch.float32 if name == "float32" else torch.float64
            examples = X[:2] if inputs is None else inputs.transform(X[:2])
            options = dtype, device, inputs
            architecture = module_architecture(self.module, examples, *options)
            if not continues:
                return architecture
            new = network_state(architecture, architecture.draw())
            old = getattr(self, "module_state_", {})
            shapes = [
                {key: value.shape for key, value in state.items()}
                for state in (new["module_state_"], old)
            ]
            if shapes[0] != shapes[1]:
                raise ValueError(
                    "module must be that of the fit that is continued, got one with "
                    "other parameters. Set warm_start=False to train a new network."
                )
            return module_architecture(self._fitted_module(), examples, *options)
        hidden = hidden_widths(self.hidden_layer_sizes)
        activations = [ACTIVATIONS[self.activation]] * len(hidden)
        n_inputs = X.shape[1] if inputs is None else len(inputs.columns)
        widths = [n_inputs, *hidden, self._targets.n_outputs]
        program = ChainProgram(widths, activations)
        center, scale = self._target_scaling
        start, constant = self._initial_biases
        return chain_architecture(program, rng, center, scale, inputs, start, constant)

    def _theta(self, architecture):
        """Return the fitted parameters as `theta` of an architecture's program."""
        if self.module is not None:
            return architecture.draw()
        shapes = [coef.shape for coef in getattr(self, "_coefs", [])]
        widths = architecture.program.widths
        if shapes != list(pairwise(widths)):
            raise ValueError(
                "hidden_layer_sizes, module, features and targets must be those of the "
                f"fit that is continued, got layers of {widths} for {shapes}. Set "
                "warm_start=False to train a new network."
            )
        return chain_parameters(architecture, self._coefs, self._intercepts)

    def _fitted_module(self):
        """Return the user's module with the fitted parameters."""
        return restored_module(self._prototype, self.module_state_)

    def _opening(self):
        """Return network, final estimator, and other fields of `OpenNetwork`."""
        inputs = self._input_map()
        layer = None if inputs is None else Standardization(inputs)
        fields = {"preprocess": self._preprocess, "input_layer": layer}
        return self._network(), self, fields

    def _network(self) -> Network:
        """Return the fitted network as a function of standardized inputs."""
        if hasattr(self, "_prototype"):
            return open_module(self._fitted_module())
        activation = ACTIVATIONS[as_fitted(self, "activation")]
        return ChainNetwork.mlp(
            [as_float64(coef).T for coef in self._coefs],
            [as_float64(intercept) for intercept in self._intercepts],
            [activation] * (len(self._coefs) - 1),
        )

    def _preprocess(self, X):
        """Standardize dense samples."""
        inputs = self._input_map()
        return X if inputs is None else inputs.transform(X)

    def _training_terms(self, rows, y, weight):
        factor = self._targets.class_factors(np.asarray(y), weight)
        alpha = as_fitted(self, "alpha")
        # The caller checks that the total weight is positive.
        strength = alpha / (2 * max(float(weight @ factor), np.finfo(float).tiny))
        notes = []
        if getattr(self, "validation_scores_", None) is not None:
            notes.append(
                "The training held out a part of these samples for early stopping; its "
                "objective is evaluated on all of them."
            )
        if hasattr(self, "_prototype"):
            named = self._fitted_module().named_parameters()
            trained = [(p.shape, p.numel()) for _, p in named if p.requires_grad]
            parts = [np.full(size, strength * (len(s) > 1)) for s, size in trained]
            return TrainingTerms(np.concatenate(parts), factor, tuple(notes))
        # The training scales the targets, and with them the last layer and the loss.
        variance = float(self._target_scaling[1]) ** 2
        parts = []
        for layer, coef in enumerate(self._coefs):
            last = layer == len(self._coefs) - 1
            parts.append(np.full(coef.size, strength * (1.0 if last else variance)))
            parts.append(np.zeros(coef.shape[1]))
        return TrainingTerms(np.concatenate(parts), factor, tuple(notes))

    def _raw(self, X):
        """Return raw outputs."""
        check_is_fitted(self)
        X = validate_data(
            self,
            X,
            reset=False,
            accept_sparse=("csr", "csc"),
            dtype=(np.float64, np.float32),
            allow_nd=hasattr(self, "_prototype"),
        )
        return finite_outputs(self._raw_of(X))

    def _raw_of(self, X):
        """Return raw outputs of validated samples."""
        network, parts = self._network(), []
        for rows in row_slices(X.shape[0], PASS_ROWS):
            with torch.no_grad():
                part = as_float64(self._preprocess(dense(X[rows])))
                if network.n_inputs is not None:
                    # A module that begins with a Flatten layer opens as a chain.
                    part = part.flatten(1)
                parts.append(network(network.theta, part).numpy())
        return np.concatenate(parts)

    # ------------------------------------------------------------------------- state

    @property
    def coefs_(self):
        """Weights of the layers for unstandardized inputs."""
        return self._folded()[0]

    @property
    def intercepts_(self):
        """Biases of the layers for unstandardized inputs."""
        return self._folded()[1]

    def _folded(self):
        """Return read-only weights and biases for unstandardized inputs."""
        if not hasattr(self, "_coefs"):
            raise AttributeError(
                f"{type(self).__name__} has no coefs_ and intercepts_ unless it is "
                "fitted without `module`."
            )
        coefs, intercepts = list(self._coefs), list(self._intercepts)
        inputs = self._input_map()
        if inputs is not None:
            coefs[0], intercepts[0] = inputs.fold(coefs[0], intercepts[0])
        for part in (views := [part.view() for part in (*coefs, *intercepts)]):
            part.flags.writeable = False
        return views[: len(coefs)], views[len(coefs) :]

    @property
    def module_(self):
        """The network as a torch module in evaluation mode, on the CPU."""
        check_is_fitted(self)
        if not hasattr(self, "_prototype"):
            activation = as_fitted(self, "activation")
            return chain_module(self.coefs_, self.intercepts_, activation)
        module, inputs = self._fitted_module(), self._input_map()
        if inputs is None:
            return module
        return nn.Sequential(Standardization(inputs), module).eval()

    def _network_state(self, architecture, theta):
        """Return the attributes that store a network."""
        state = network_state(architecture, theta)
        for name in ("coefs", "intercepts"):
            if f"{name}_" in state:
                state[f"_{name}"] = state.pop(f"{name}_")
        return state

    def _store_network(self, architecture, theta):
        """Set the attributes that store a network."""
        for name in NETWORK:
            self.__dict__.pop(name, None)
        for name, value in self._network_state(architecture, theta).items():
            setattr(self, name, value)

    def _store(self, architecture, fit, verdict, validated):
        """Set the attributes of a fit, as arrays and plain values."""
        self._store_network(architecture, fit.theta)
        scale = architecture.scale
        # Targets are only scaled if this divides losses by the square of the scale.
        self.loss_ = verdict.loss * scale**2
        self.auxiliary_loss_ = verdict.auxiliary_loss * scale**2
        self.floor_ = verdict.floor.value * scale**2
        self.floor_attained_ = verdict.floor.attained
        self.floor_gap_ = self.loss_ - self.floor_
        self.residual_ = verdict.residual * scale
        self.status_ = "certified_global" if verdict.certified else fit.ending
        self.monitor_status_ = verdict.neuron_status
        path = [_unstandardized(each, architecture) for each in verdict.path]
        self.neurons_ = _unstandardized(verdict.neurons, architecture)
        self.neuron_norm_curve_ = [
            float(np.hypot.reduce(np.concatenate([*map(np.ravel, each.values())])))
            for each in path
        ]
        # Epochs that overflow are left out.
        finite = np.isfinite(fit.losses)
        curve = np.compress(finite, fit.losses) * scale**2
        self.loss_curve_ = curve.tolist()
        self.best_loss_ = min(self.loss_curve_, default=self.loss_)
        self.n_iter_ = fit.n_iter
        self.n_moves_ = fit.n_moves
        self.validation_scores_ = self.best_validation_score_ = None
        if validated:
            self.best_loss_ = None
            self.validation_scores_ = np.compress(finite, fit.scores).tolist()
            self.best_validation_score_ = max(fit.scores)


def _unstandardized(neurons, architecture):
    """Return the neurons of one member for unstandardized inputs and targets."""
    a, b, W = (part[0].numpy() for part in (neurons.a, neurons.b, neurons.W))
    inputs = architecture.inputs
    if inputs is not None:
        coef, b = inputs.fold_flat(W.T, b)
        W = coef.T
    return {"a": a * architecture.scale, "b": b, "W": W}
